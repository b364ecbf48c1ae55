"""How fast are known hashes found, beside numpy brute force and the exact binary indexes of faiss?

Random 256-bit lists; half the queries lie at a planted distance of 0..31 from a row, half are unrelated. All methods
answer the same queries in one process on one thread, and every answer is compared with brute force's.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from models.index import HammingIndex

RADIUS: Final = 31
_LIMIT_MS: Final = 0.5
_FULL_ROWS: Final = (20_000, 100_000, 1_000_000)
_BRUTE_QUERIES: Final = 64
"""Brute force takes 25 ms a query at a million rows: enough queries for a median, and for the truth of each."""

Rows = NDArray[np.uint8]
Search = Callable[[Rows], set[int]]


@dataclass(frozen=True, slots=True)
class _Method:
    # `build` gives the search over some rows; it raises ImportError where the reference is not installed.
    name: str
    build: Callable[[Rows], Search]


def measure(options: Options) -> Report:
    """Measure look-ups at several list sizes; a quick run takes fewer queries and the same sizes."""
    trials = options.trials or (64 if options.is_quick else 256)
    settings = {
        "bits": 256,
        "radius": RADIUS,
        "rows": list(_FULL_ROWS),
        "queries": trials,
        "seed": options.seed,
        "threads": 1,
        "clock": "CPU time of the thread, median",
        "machine": machine(),
    }
    print_settings("lookup", settings)
    results: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for count in _FULL_ROWS:
        for result in _measured(count, trials, options.seed, missing):
            print(f"  {count:>9,} rows  {result['method']:<22} {result['cpu_us']:>10.1f} us a query", flush=True)
            results.append(result)
    return Report("lookup", settings, results, _checks(results, missing))


def _measured(count: int, trials: int, seed: int, missing: dict[str, str]) -> Iterator[dict[str, Any]]:
    rows, queries = _list_and_queries(count, trials, seed)
    truth = [_brute_force(rows)(query) for query in queries[:_BRUTE_QUERIES]]
    for method in _METHODS:
        gc.collect()
        began = time.perf_counter()
        try:
            search = method.build(rows)
        except ImportError as error:
            missing[method.name] = f"{error}; run `make references`"
            continue
        build_seconds = time.perf_counter() - began
        asked = queries[: len(truth)] if method.name == "numpy brute force" else queries
        search(asked[0])
        micros, answers = _timed(search, asked)
        found = sum(answers[i] == truth[i] for i in range(len(truth)))
        yield {
            "method": method.name,
            "rows": count,
            "cpu_us": statistics.median(micros),
            "cpu_p95_us": sorted(micros)[int(len(micros) * 0.95)],
            "exact_ratio": found / len(truth),
            "build_seconds": build_seconds,
        }


def _timed(search: Search, queries: Rows) -> tuple[list[float], list[set[int]]]:
    micros: list[float] = []
    answers: list[set[int]] = []
    for query in queries:
        began = time.thread_time_ns()
        answer = search(query)
        micros.append((time.thread_time_ns() - began) / 1000)
        answers.append(answer)
    return micros, answers


def _list_and_queries(count: int, trials: int, seed: int) -> tuple[Rows, Rows]:
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 256, (count, 32), dtype=np.uint8)
    queries = generator.integers(0, 256, (trials, 32), dtype=np.uint8)
    for number in range(0, trials, 2):
        mask = np.zeros(256, dtype=np.uint8)
        mask[generator.choice(256, (number // 2) % (RADIUS + 1), replace=False)] = 1
        queries[number] = rows[generator.integers(0, count)] ^ np.packbits(mask)
    return rows, queries


def _stopframe(rows: Rows) -> Search:
    # Saved and opened again, so that what is timed is the memory-mapped index that a worker uses.
    with tempfile.TemporaryDirectory() as scratch:
        HammingIndex.build(rows, RADIUS).save(Path(scratch) / "index")
        index = HammingIndex.open(Path(scratch) / "index")
    return lambda query: set(index.search(query.tobytes(), RADIUS)[0].tolist())


def _brute_force(rows: Rows) -> Search:
    words = rows.view(np.uint64)

    def search(query: Rows) -> set[int]:
        distances = np.bitwise_count(words ^ query.view(np.uint64)).sum(axis=1, dtype=np.uint16)
        return set(np.flatnonzero(distances <= RADIUS).tolist())

    return search


def _faiss_flat(rows: Rows) -> Search:
    import faiss  # noqa: PLC0415 -- a reference that need not be installed

    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryFlat(256)
    index.add(rows)
    return _faiss_search(index)


def _faiss_multi_hash(rows: Rows) -> Search:
    # 16 slots of 16 bits with one flip: exact up to 31, and what python-threatexchange and HMA use.
    import faiss  # noqa: PLC0415 -- a reference that need not be installed

    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryMultiHash(256, 16, 16)
    index.add(rows)
    index.nflip = 1
    return _faiss_search(index)


def _faiss_search(index: Any) -> Search:
    # faiss' radius is exclusive.
    return lambda query: set(index.range_search(query[None, :], RADIUS + 1)[2].tolist())


_METHODS: Final = (
    _Method("stopframe", _stopframe),
    _Method("numpy brute force", _brute_force),
    _Method("faiss IndexBinaryFlat", _faiss_flat),
    _Method("faiss MultiHash 16x16", _faiss_multi_hash),
)


def _checks(results: list[dict[str, Any]], missing: dict[str, str]) -> list[Check]:
    largest = max(result["rows"] for result in results)
    figures = {result["method"]: result for result in results if result["rows"] == largest}
    own = figures["stopframe"]
    exact = min(result["exact_ratio"] for result in results if result["method"] == "stopframe")
    checks = [
        at_most(f"one look-up among {largest:,} rows, CPU median", own["cpu_us"] / 1000, "ms", _LIMIT_MS),
        at_least("queries answered exactly as brute force does", exact, "ratio", 1.0),
    ]
    for method in _METHODS[1:]:
        what = f"CPU time of {method.name} in ours, {largest:,} rows"
        if method.name in figures:
            checks.append(at_least(what, figures[method.name]["cpu_us"] / own["cpu_us"], "times", 1.0))
        else:
            checks.append(not_measured(what, "times", 1.0, missing[method.name]))
    return checks
