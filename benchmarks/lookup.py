"""How fast are known hashes found, beside numpy brute force and the exact binary indexes of faiss?

Random 256-bit lists with the hashes of some drawn pictures in them; half the queries lie at a planted distance of 0..33
from a row, half are unrelated. All methods answer the same queries in one process on one thread, and every answer is
compared with brute force's. Then: what a view costs and finds in a soft look-up, and how soon an added hash acts,
in the real service, too.
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

from benchmarks.lookup_acting import METHOD as ACTING
from benchmarks.lookup_acting import acting_results
from benchmarks.lookup_banks import bank_results
from benchmarks.lookup_picture import draw_picture
from benchmarks.lookup_soft import COPIES_MET, Copies, copies, planted, soft_results
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from models.index import HammingIndex

RADIUS: Final = 31
_FARTHEST: Final = 33
"""Planted distances: the two beyond the radius must not be found at it, and must where they are asked for."""

_QUICK_ROWS: Final = (20_000, 100_000, 1_000_000)
_FULL_ROWS: Final = (*_QUICK_ROWS, 10_000_000)
_LIMITS_MS: Final = {1_000_000: 0.5, 10_000_000: 1.0}
_LIMIT_GB: Final = 1.3
_SOFT_LIMITS_US: Final = {1_000_000: 100, 10_000_000: 120}
_SOFT_LIMIT_BATCH: Final = "stopframe soft, 24 at once"
_MET_LIMITS: Final = {
    1_000_000: {"32-40": 0.99, "41-48": 0.97, "49-56": 0.9, "57-64": 0.5},
    10_000_000: {"32-40": 0.99, "41-48": 0.95, "49-56": 0.8, "57-64": 0.5},
}
_ACTING_ROWS: Final = 1_000_000
_COPIES_PER_BAND: Final = 200
_BRUTE_QUERIES: Final = 2 * (_FARTHEST + 1)
"""Brute force takes up to 300 ms a query: each planted distance once, and as many unrelated queries."""

_LEFT_OUT: Final = (
    "one look-up among 10,000,000 rows",
    "memory of 10,000,000 rows with their index",
    "a view in a soft look-up among 10,000,000 rows",
)

Rows = NDArray[np.uint8]
Search = Callable[[Rows], set[int]]


@dataclass(frozen=True, slots=True)
class _Method:
    # `build` gives the search over some rows; it raises ImportError where the reference is not installed.
    name: str
    build: Callable[[Rows], Search]


def measure(options: Options) -> Report:
    """Measure look-ups at several list sizes; a quick run leaves out the longest and takes fewer queries."""
    sizes = _QUICK_ROWS if options.is_quick else _FULL_ROWS
    trials = options.trials or (_BRUTE_QUERIES if options.is_quick else 4 * _BRUTE_QUERIES)
    settings = {
        "bits": 256,
        "radius": RADIUS,
        "rows": list(sizes),
        "queries": trials,
        "copies_per_distance_band": min(_COPIES_PER_BAND, trials),
        "seed": options.seed,
        "threads": 1,
        "clock": "CPU time of the thread, median",
        "machine": machine(),
    }
    print_settings("lookup", settings)
    results: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    known = copies(min(_COPIES_PER_BAND, trials), options.seed)
    for count in sizes:
        for result in _measured(count, trials, options.seed, known, missing):
            cost = result.get("cpu_us", result.get("cpu_us_per_view"))
            print(f"  {count:>10,} rows  {result['method']:<28} " + (f"{cost:>10.1f} us" if cost else ""), flush=True)
            results.append(result)
    if options.json_path is not None:
        settings["picture"] = draw_picture(results, options.json_path.with_suffix(".png"))
    left_out = _LEFT_OUT if options.is_quick else ()
    return Report("lookup", settings, results, _checks(results, missing), left_out)


def _measured(count: int, trials: int, seed: int, known: Copies, missing: dict[str, str]) -> Iterator[dict[str, Any]]:
    rows, queries, numbers = _list_and_queries(count, trials, seed, known)
    truth = [_distances(rows, query) for query in queries[:_BRUTE_QUERIES]]
    near = [set(np.flatnonzero(distances <= RADIUS).tolist()) for distances in truth]
    for method in _METHODS:
        gc.collect()
        before, began = _resident_bytes(), time.perf_counter()
        try:
            search = method.build(rows)
        except ImportError as error:
            missing[method.name] = f"{error}; run `make references`"
            continue
        build_seconds = time.perf_counter() - began
        asked = queries[: len(truth)] if method.name == _BRUTE else queries
        search(asked[0])
        micros, answers = _timed(search, asked)
        yield {
            "method": method.name,
            "rows": count,
            "cpu_us": statistics.median(micros),
            "cpu_p95_us": sorted(micros)[int(len(micros) * 0.95)],
            "exact_ratio": float(np.mean([answer == right for answer, right in zip(answers, near, strict=False)])),
            "memory_gb": (_resident_bytes() - before) / 1e9,
            "build_seconds": build_seconds,
        }
        del search
    index = _opened(rows)
    asked_further = [index.search(query.tobytes(), _FARTHEST) for query in queries[: len(truth)]]
    yield {
        "method": _FURTHER,
        "rows": count,
        "exact_ratio": float(
            np.mean([_is_right(found, distances) for found, distances in zip(asked_further, truth, strict=True)])
        ),
    }
    yield from soft_results(index, known, numbers, seed)
    del index
    yield bank_results(rows)
    if count == _ACTING_ROWS:
        yield acting_results(rows, seed)


def _is_right(found: tuple[NDArray[np.int64], NDArray[np.int64]], distances: NDArray[np.uint16]) -> bool:
    near = np.flatnonzero(distances <= _FARTHEST)
    rows, far = found
    return dict(zip(rows.tolist(), far.tolist(), strict=True)) == dict(
        zip(near.tolist(), distances[near].tolist(), strict=True)
    )


def _timed(search: Search, queries: Rows) -> tuple[list[float], list[set[int]]]:
    micros: list[float] = []
    answers: list[set[int]] = []
    for query in queries:
        began = time.thread_time_ns()
        answer = search(query)
        micros.append((time.thread_time_ns() - began) / 1000)
        answers.append(answer)
    return micros, answers


def _list_and_queries(count: int, trials: int, seed: int, known: Copies) -> tuple[Rows, Rows, NDArray[np.int64]]:
    """The list, the queries (each second one planted, at 0, 1, 2 ... bits), and where the originals of copies are."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 256, (count, 32), dtype=np.uint8)
    numbers = planted(rows, known, seed)
    queries = generator.integers(0, 256, (trials, 32), dtype=np.uint8)
    for number in range(0, trials, 2):
        mask = np.zeros(256, dtype=np.uint8)
        mask[generator.choice(256, (number // 2) % (_FARTHEST + 1), replace=False)] = 1
        queries[number] = rows[generator.integers(0, count)] ^ np.packbits(mask)
    return rows, queries, numbers


def _distances(rows: Rows, query: Rows) -> NDArray[np.uint16]:
    words, wanted = rows.view(np.uint64), query.view(np.uint64)
    distances = np.zeros(len(rows), dtype=np.uint16)
    for column in range(words.shape[1]):
        distances += np.bitwise_count(words[:, column] ^ wanted[column])
    return distances


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def _opened(rows: Rows) -> HammingIndex:
    """The memory-mapped index that a worker uses, every page of it resident."""
    with tempfile.TemporaryDirectory() as scratch:
        HammingIndex.build(rows, RADIUS).save(Path(scratch) / "index")
        index = HammingIndex.open(Path(scratch) / "index")
    for array in index.arrays().values():
        array.sum()
    return index


def _stopframe(rows: Rows) -> Search:
    index = _opened(rows)
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


_BRUTE: Final = "numpy brute force"
_FURTHER: Final = f"stopframe, radius {_FARTHEST}"
_METHODS: Final = (
    _Method("stopframe", _stopframe),
    _Method(_BRUTE, _brute_force),
    _Method("faiss IndexBinaryFlat", _faiss_flat),
    _Method("faiss MultiHash 16x16", _faiss_multi_hash),
)


def _checks(results: list[dict[str, Any]], missing: dict[str, str]) -> list[Check]:
    figures = {(result["method"], result["rows"]): result for result in results}
    largest = max(result["rows"] for result in results)
    own = figures["stopframe", largest]
    exact = [result["exact_ratio"] for result in results if result["method"] in {"stopframe", _FURTHER}]
    checks = [
        at_most(
            f"one look-up among {rows:,} rows, CPU median", figures["stopframe", rows]["cpu_us"] / 1000, "ms", limit
        )
        for rows, limit in _LIMITS_MS.items()
        if ("stopframe", rows) in figures
    ]
    checks.append(at_least("queries answered exactly as brute force does", min(exact), "ratio", 1.0))
    checks.append(at_most(f"memory of {largest:,} rows with their index", own["memory_gb"], "GB", _LIMIT_GB))
    for method in _METHODS[1:]:
        what = f"CPU time of {method.name} in ours, {largest:,} rows"
        if (method.name, largest) in figures:
            checks.append(at_least(what, figures[method.name, largest]["cpu_us"] / own["cpu_us"], "times", 1.0))
        else:
            checks.append(not_measured(what, "times", 1.0, missing[method.name]))
    return checks + _soft_checks(figures) + _bank_checks(figures, largest) + _acting_checks(figures)


def _soft_checks(figures: dict[tuple[str, int], dict[str, Any]]) -> list[Check]:
    checks = [
        at_most(
            f"a view in a soft look-up among {rows:,} rows, CPU median, 24 at once",
            figures[_SOFT_LIMIT_BATCH, rows]["cpu_us_per_view"],
            "us",
            limit,
        )
        for rows, limit in _SOFT_LIMITS_US.items()
        if (_SOFT_LIMIT_BATCH, rows) in figures
    ]
    return checks + [
        at_least(
            f"copies at {band} bits met by soft look-ups, {rows:,} rows",
            figures[COPIES_MET, rows]["met_ratio"][band],
            "ratio",
            limit,
        )
        for rows, limits in _MET_LIMITS.items()
        if (COPIES_MET, rows) in figures
        for band, limit in limits.items()
    ]


def _bank_checks(figures: dict[tuple[str, int], dict[str, Any]], largest: int) -> list[Check]:
    bank = figures["stopframe bank", largest]
    seconds = bank["add_one_s"] + bank["reload_s"]
    what = f"adding one hash to a bank of {largest:,} rows and taking it up"
    return [
        at_most(what, seconds, "s", 1.0),
        at_least(f"{what}: it is found", float(bank["is_in_force"]), "ratio", 1.0),
    ]


def _acting_checks(figures: dict[tuple[str, int], dict[str, Any]]) -> list[Check]:
    return [
        at_most(
            f"a picture added to a bank of {rows:,} rows, from its pointer written to the incident of a live stream, "
            f"95 of 100",
            figures[method, rows]["written_to_incident_p95_s"],
            "s",
            1.0,
        )
        for method, rows in figures
        if method == ACTING
    ]
