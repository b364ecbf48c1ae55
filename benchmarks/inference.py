"""What do the models cost, how near do they come to their makers' own answers, how many streams does a core carry?

Every model of the zoo that is installed, and EfficientNet-Lite0, by each provider that is here, each in a process of
its own, in turns with ONNX Runtime alone: with our options, and with its defaults. Then scores beside each model's own
reference pipeline, on the same pixels and by way of H.264, reader and analysis. Then whole streams.
"""

import contextlib
import math
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.efficientnet_lite0 import NAME as LITE0
from benchmarks.inference_eight_bits import eight_bits
from benchmarks.inference_gpu import GpuFigures, gpu_figures
from benchmarks.inference_parity import IDENTICAL_LIMIT, LEAST_PICTURES, LIVE_LIMIT, Parity, parities
from benchmarks.inference_picture import draw_picture
from benchmarks.inference_streams import KEYFRAMES, ROWS, SHIPPED, SHIPPED_CALM, StreamCost, StreamPlan, stream_costs
from benchmarks.inference_ways import BARE, PLAIN, Errand, WayMissing, WayProcess
from benchmarks.model_cache import cached_model
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from benchmarks.throughput_live import LivePlan
from models.manifest import Manifest, load_manifest, read_model
from models.manifest_yaml import ManifestError
from models.providers import ProviderUnavailable, available_providers, choose_provider
from models.zoo.registry import SHIPPED as ZOO

ARGUMENTS: Final = {
    "frames": "0 leaves out what a frame costs in each way",
    "parity": "0 leaves out the comparison with the makers' pipelines",
    "streams": "0 leaves out whole streams",
    "gpu": "0 leaves out the batches of a GPU",
}

EIGHT_BITS: Final = "cpu, int8"

_BARE_LIMIT: Final = 1.1
_OPENVINO_LIMIT: Final = 2.0
_IDLE_LIMIT_MS: Final = 5.0
_PSS_LIMIT_MB: Final = 150.0
_STREAM_LIMITS: Final = {
    ("cpu", KEYFRAMES): 40.0,
    (EIGHT_BITS, KEYFRAMES): 40.0,
    ("openvino", KEYFRAMES): 60.0,
    ("cpu", SHIPPED): 33.0,
    (EIGHT_BITS, SHIPPED): 33.0,
    ("openvino", SHIPPED): 45.0,
    ("cpu", SHIPPED_CALM): 33.0,
    (EIGHT_BITS, SHIPPED_CALM): 33.0,
    ("openvino", SHIPPED_CALM): 45.0,
}
_STREAM_MODEL: Final = "opennsfw"

_QUICK_MODELS: Final = 2
_FRAMES_A_TURN: Final = 5
_GAP_SECONDS: Final = 0.05
_GAPS: Final = 20


@dataclass(slots=True)
class WayCost:
    """CPU milliseconds of a frame in one way, turn by turn, and what else was seen of the process."""

    turns: list[float] = field(default_factory=list)
    sampled_ms: float = math.nan
    idle_ms: float = math.nan
    pss_mb: float | None = None
    load_seconds: float = 0.0
    scores: list[list[float]] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        """The median."""
        return statistics.median(self.turns)


Costs = dict[tuple[str, str], WayCost]
"""By model and way."""


def measure(options: Options) -> Report:
    """Measure every model present; a quick run takes fewer turns, and streams of keyframes on files alone."""
    trials = options.trials or (4 if options.is_quick else 16)
    models, missing = _models()
    providers = [name for name in available_providers() if name in ("cpu", "openvino", "openvino-fp32", "cuda")]
    settings = {
        "models": {manifest.name: manifest.file.sha256[:16] for manifest in models.values()},
        "missing": missing,
        "providers": providers,
        "turns": trials,
        "frames_a_turn": _FRAMES_A_TURN,
        "threads": 1,
        "clock": "CPU time of all threads of a process, median of turns",
        "bank_rows": ROWS,
        "amx_bf16": _has_amx(),
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("inference", settings)
    found = _Found()
    with tempfile.TemporaryDirectory(prefix="stopframe-inference-") as scratch:
        small: dict[str, str] = {}
        needs_small = options.more.get("frames", 1) or options.more.get("streams", 1)
        if needs_small and not options.is_quick:  # each takes some ten seconds
            cut = {name: one for name, one in models.items() if name in ZOO and not one.stand_in}
            small, settings["eight_bits"] = eight_bits(cut, Path(scratch) / "eight-bits", _STREAM_MODEL)
        if options.more.get("frames", 1):
            timed = dict(list(models.items())[:_QUICK_MODELS] if options.is_quick else models)
            found.costs, found.why = _way_costs(timed, providers, small, trials, options.seed)
        if options.more.get("parity", 1):
            found.parities, found.no_parity = parities(models, checked_only=options.is_quick)
        if options.more.get("streams", 1):
            found.streams = _streams(options, models, providers, small, Path(scratch))
        if options.more.get("gpu", 1):
            found.gpu, found.no_gpu = gpu_figures(models, is_quick=options.is_quick)
    results = [*_way_results(found.costs), *(one.row() for one in found.parities), *_stream_results(found.streams)]
    results += [row for one in found.gpu for row in one.rows()]
    if options.json_path is not None:
        settings["picture"] = draw_picture(results, options.json_path.with_suffix(".png"))
    return Report("inference", settings, results, _checks(options, models, found), _left_out(options, found))


@dataclass(slots=True)
class _Found:
    # What each part gave; empty where it was left out.
    costs: Costs = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    parities: Sequence[Parity] = ()
    no_parity: str = ""
    streams: dict[tuple[str, str], StreamCost | str] = field(default_factory=dict)
    gpu: Sequence[GpuFigures] = ()
    no_gpu: str = ""


def _models() -> tuple[dict[str, Manifest], dict[str, str]]:
    """By what leads to them, and by name why others are not here."""
    models, missing = {}, {}
    for reference in (*ZOO, str(cached_model(LITE0))):
        try:
            manifest = load_manifest(reference)
            read_model(manifest)
        except ManifestError as error:
            missing[Path(reference).name] = str(error)
        else:
            models[reference] = manifest
    return models, missing


def _way_costs(
    models: Mapping[str, Manifest], providers: Sequence[str], small: Mapping[str, str], trials: int, seed: int
) -> tuple[Costs, dict[str, str]]:
    costs: Costs = {}
    why: dict[str, str] = {}
    draw = random.Random(seed)
    for reference, manifest in models.items():
        print(f"  {manifest.name}", flush=True)
        with contextlib.ExitStack() as stack:
            started = [stack.enter_context(WayProcess(reference, way)) for way in (*providers, BARE, PLAIN)]
            if manifest.name in small:
                started.append(stack.enter_context(WayProcess(small[manifest.name], "cpu", EIGHT_BITS)))
            ready = []
            for process in started:
                try:
                    process.wait_ready()
                except WayMissing as error:
                    why[process.label] = str(error)
                else:
                    ready.append(process)
            for process in ready:
                costs[manifest.name, process.label] = WayCost(load_seconds=process.load_seconds)
            for _ in range(trials):
                for process in draw.sample(ready, len(ready)):
                    answer = process.go(Errand(frames=_FRAMES_A_TURN))
                    costs[manifest.name, process.label].turns.append(statistics.median(answer.frame_ms))
            for process in ready:
                _note_rest(process, costs[manifest.name, process.label])
    return costs, why


def _note_rest(process: WayProcess, cost: WayCost) -> None:
    answer = process.go(Errand(frames=_GAPS, gap_seconds=_GAP_SECONDS))
    cost.sampled_ms = statistics.median(answer.frame_ms)
    cost.idle_ms = sum(answer.gap_ms) / (_GAPS * _GAP_SECONDS)
    cost.pss_mb = answer.pss_bytes / 1e6 if answer.pss_bytes else None
    cost.scores = process.go(Errand(wants_scores=True)).scores


def _streams(
    options: Options, models: Mapping[str, Manifest], providers: Sequence[str], small: Mapping[str, str], scratch: Path
) -> dict[tuple[str, str], StreamCost | str]:
    if _STREAM_MODEL not in models:
        return {}
    chosen = {name: f"[{{name: {_STREAM_MODEL}, provider: {name}}}]" for name in providers if name != "openvino-fp32"}
    if _STREAM_MODEL in small:
        chosen[EIGHT_BITS] = f"[{{path: '{small[_STREAM_MODEL]}', provider: cpu}}]"
    plan = (
        StreamPlan((KEYFRAMES,), 1, None)
        if options.is_quick
        else StreamPlan((KEYFRAMES, SHIPPED, SHIPPED_CALM), options.trials or 3, LivePlan(8, 25.0, ROWS))
    )
    found = {}
    for provider, mode, cost in stream_costs(plan, chosen, scratch):
        print(f"  streams: {mode}, {provider}", flush=True)
        found[provider, mode] = cost
    return found


def _way_results(costs: Costs) -> Iterator[dict[str, Any]]:
    for (model, way), cost in costs.items():
        bare, first = costs.get((model, BARE)), costs.get((model, "cpu"))
        row: dict[str, Any] = {
            "model": model,
            "way": way,
            "cpu_ms": round(cost.milliseconds, 3),
            "spread_ms": [round(min(cost.turns), 3), round(max(cost.turns), 3)],
            "sampled_ms": round(cost.sampled_ms, 3),
            "idle_ms_per_s": round(cost.idle_ms, 2),
            "pss_mb": cost.pss_mb and round(cost.pss_mb, 1),
            "load_s": round(cost.load_seconds, 2),
        }
        if bare is not None and way != BARE:
            row["times_bare"] = round(_ratio(cost, bare), 3)
        if first is not None and way not in ("cpu", BARE, PLAIN):
            row["drift"] = round(_drift(cost, first), 4)
        yield row


def _ratio(cost: WayCost, other: WayCost) -> float:
    """The median of the turns' own: what else the machine does hits both sides of a turn."""
    return statistics.median(ours / theirs for ours, theirs in zip(cost.turns, other.turns, strict=True))


def _drift(cost: WayCost, other: WayCost) -> float:
    """The largest change of any label's score on any picture."""
    return max(
        abs(one - two)
        for ours, theirs in zip(cost.scores, other.scores, strict=True)
        for one, two in zip(ours, theirs, strict=True)
    )


def _stream_results(streams: Mapping[tuple[str, str], StreamCost | str]) -> Iterator[dict[str, Any]]:
    for (provider, mode), cost in streams.items():
        if isinstance(cost, StreamCost):
            yield cost.row(provider, mode)


def _checks(options: Options, models: Mapping[str, Manifest], found: _Found) -> list[Check]:
    real = [manifest.name for manifest in models.values() if not manifest.stand_in]
    checks: list[Check] = []
    if options.more.get("frames", 1):
        checks += _cost_checks(real, found)
    if options.more.get("parity", 1):
        checks += _parity_checks(found)
    if options.more.get("streams", 1):
        checks += _stream_checks(options, found)
    return checks


def _cost_checks(real: Sequence[str], found: _Found) -> Iterator[Check]:
    for model in real:
        ours, bare = found.costs.get((model, "cpu")), found.costs.get((model, BARE))
        if ours is not None and bare is not None:
            what = f"{model}: CPU of a frame with preprocessing, fp32, in the bare session's"
            yield at_most(what, _ratio(ours, bare), "times", _BARE_LIMIT)
    if _has_amx():
        for model in real:
            fast, plain = found.costs.get((model, "openvino")), found.costs.get((model, "cpu"))
            what = f"{model}: CPU of a frame in fp32, in that with OpenVINO"
            if fast is None or plain is None:
                yield not_measured(what, "times", _OPENVINO_LIMIT, found.why.get("openvino", "it is not installed"))
            else:
                yield at_least(what, _ratio(plain, fast), "times", _OPENVINO_LIMIT)
    idle = [cost.idle_ms for (_, way), cost in found.costs.items() if way not in (BARE, PLAIN)]
    if idle:
        what = f"CPU burned in a second of waiting between samples, worst of {len(idle)} models and providers"
        yield at_most(what, max(idle), "ms", _IDLE_LIMIT_MS)


def _parity_checks(found: _Found) -> Iterator[Check]:
    checked = [one for one in found.parities if one.is_checked]
    if not checked:
        yield not_measured("pictures scored as the makers do", "pictures", LEAST_PICTURES, found.no_parity)
    for one in checked:
        beside = f"{one.model} beside {one.reference}"
        yield at_least(f"{beside}: pictures by way of a stream", len(one.live), "pictures", LEAST_PICTURES)
        what = f"{beside}: largest difference of a score, same pixels"
        yield at_most(what, max(one.identical.values()), "score", IDENTICAL_LIMIT)
        if one.live:
            what = f"{beside}: largest difference of a score, by way of a stream"
            yield at_most(what, max(one.live.values()), "score", LIVE_LIMIT)
            what = f"{beside}: the same, where the makers' pipeline has the decoded frame, too"
            yield at_most(what, max(one.decoded.values()), "score", LIVE_LIMIT)


def _stream_checks(options: Options, found: _Found) -> Iterator[Check]:
    for (provider, mode), limit in _STREAM_LIMITS.items():
        if options.is_quick and (mode != KEYFRAMES or provider == EIGHT_BITS):
            continue
        cost = found.streams.get((provider, mode))
        what = f"1080p30 with {_STREAM_MODEL} on every sample but what only moved, {mode}, {provider}: streams per core"
        if isinstance(cost, StreamCost):
            yield at_least(what, cost.streams_per_core, "streams", limit)
        else:
            yield not_measured(
                what, "streams", limit, cost or _why_not(provider) or f"{_STREAM_MODEL} is not installed"
            )
    sizes = [one for cost in found.streams.values() if isinstance(cost, StreamCost) for one in cost.pss_bytes]
    what = "memory of an analysis process (PSS), largest"
    if sizes:
        yield at_most(what, max(sizes) / 1e6, "MB", _PSS_LIMIT_MB)
    else:
        yield not_measured(what, "MB", _PSS_LIMIT_MB, "no stream was watched, or the kernel shows no PSS")


def _why_not(provider: str) -> str:
    """Why a provider was not measured; empty where it could be."""
    if provider in ("cpu", EIGHT_BITS):
        return f"{_STREAM_MODEL} is not installed, or could not be cut to eight bits"
    if provider in available_providers():
        return ""
    try:
        choose_provider(provider)
    except ProviderUnavailable as error:
        return str(error)
    return "OpenVINO's plug-in for ONNX Runtime takes no other maker's processor than Intel's"


def _has_amx() -> bool:
    """Whether this processor multiplies matrices of bf16 in tiles (Linux, x86)."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return any("amx_bf16" in line.split() for line in lines if line.startswith("flags"))


def _left_out(options: Options, found: _Found) -> list[str]:
    left_out = [part for part in ARGUMENTS if not options.more.get(part, 1)]
    if found.no_gpu:
        left_out.append(f"batches of a GPU: {found.no_gpu}")
    if options.is_quick:
        left_out += [
            f"frames of all models but {_QUICK_MODELS}",
            "models of eight bits",
            "streams as shipped",
            "streams live over RTMP",
        ]
    if not _has_amx():
        plain, fast = found.costs.get((_STREAM_MODEL, "cpu")), found.costs.get((_STREAM_MODEL, "openvino"))
        told = f"measured here {_ratio(plain, fast):.2f} times" if plain and fast else _why_not("openvino")
        left_out.append(f"OpenVINO at least twice as fast as fp32: this processor has no amx_bf16 ({told})")
    return left_out
