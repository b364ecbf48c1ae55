"""Is known content found however it was edited, and nothing else? By edit, by kind and length of list.

Everything goes the way that a stream's frames go: scaled by the reader, all views in one batch, one look-up a bank. A
match on a wrong entry counts as false. `benchmarks.accuracy_packages` fetches what is measured on.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.accuracy_edits import PROMISED
from benchmarks.accuracy_false import FalseMatches, asks_at_least, benign_frames, false_matches
from benchmarks.accuracy_lists import filling_rows, rows_of_pictures
from benchmarks.accuracy_material import Material, load, strangers
from benchmarks.accuracy_picture import draw_distances, draw_recall
from benchmarks.accuracy_recall import Found, banks_of, recall
from benchmarks.accuracy_sequences import Shown, sequences, video_bank, videos_of
from benchmarks.accuracy_timing import cost_of_samples, decoded_samples
from benchmarks.report import Check, Options, Report, at_least, at_most, machine, not_measured, print_settings
from models.bank_store import add_entries, open_bank
from models.banks import Bank
from models.evidence import Strength

ARGUMENTS: Final = {
    "frames": "benign frames, each in fourteen edits, held against the longest lists (default 2000)",
    "windows": "made clips beside the real ones, for sequences (default 40)",
    "ten-million": "0 leaves the list of ten million rows out (default 1)",
}
FOLDERS: Final = {
    "pictures": "measure on the pictures of this folder instead; every second one is taken as known",
    "clips": "take the clips of this folder",
    "strangers": "hold frames of the pictures of this folder against the lists instead, to see what strangers match",
}

_SHORT: Final = "500"
_LONG: Final = "1M"
_SIZES: Final = {_SHORT: 500, "5,000": 5_000, _LONG: 1_000_000}
_TEN_MILLION: Final = "TEN_MILLION"
_TOLD: Final = ("edited_frames", "pairs", "asks")

_SEQUENCE_GOAL: Final = 0.97
_PAIRS_GOAL: Final = 1e11


def measure(options: Options) -> Report:
    """Measure recall, false matches, sequences and cost; a quick run takes few pictures and short lists."""
    material = load(options.folders.get("pictures"), options.folders.get("clips"))
    count = min(options.trials or (20 if options.is_quick else 300), len(material.known))
    sizes = {_SHORT: _SIZES[_SHORT]} if options.is_quick else _SIZES
    settings: dict[str, Any] = {
        **material.said,
        "pictures_edited": count,
        "edits": len(PROMISED),
        "lists": list(sizes),
        "seed": options.seed,
        "machine": machine(),
    }
    print_settings("accuracy", settings)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="stopframe-accuracy-") as scratch:
        report = _measured(options, material, count, sizes, settings, Path(scratch))
    settings["seconds"] = round(time.perf_counter() - began)
    return report


def _measured(
    options: Options,
    material: Material,
    count: int,
    sizes: Mapping[str, int],
    settings: dict[str, Any],
    scratch: Path,
) -> Report:
    step = len(material.known) / count
    known_pictures = [material.known[int(place * step)] for place in range(count)]
    scenes, fill = material.parted(options.seed)
    known = rows_of_pictures(known_pictures)
    if options.is_quick:  # as many as are quickly made: the list is called by what its limits are
        filling = rows_of_pictures(fill[:200])
    else:
        filling = filling_rows(fill, max(sizes.values()), options.seed)
    banks = banks_of(scratch, known, filling, sizes)
    settings["rows"] = {name: len(bank) for name, bank in banks.items()}
    _note("lists are made")
    found = recall(known_pictures, scenes, banks, options.seed, 4 if options.is_quick else max(100, count // 3))
    rows = [_row(one) for one in found]
    for row in rows:
        print("  " + "  ".join(f"{key}={_shown(value)}" for key, value in row.items() if "view" not in key), flush=True)
    checks = _recall_checks(found)
    _note("copies are held against lists")
    results: list[dict[str, Any]] = [{"part": "recall", **row} for row in rows]

    others = [path for path in material.known if path not in set(known_pictures)] + scenes
    false = _false_part(options, material, others, banks, settings, scratch)
    results.append({"part": "false", **_false_row(false, settings["rows"][f"pictures {list(sizes)[-1]}"])})
    print("  " + "  ".join(f"{key}={value}" for key, value in results[-1].items() if key in _TOLD), flush=True)
    checks += _false_checks(false, sum(settings["benign_frames"].values()), is_quick=options.is_quick)
    _note("false matches are counted")

    made = options.more.get("windows", 4 if options.is_quick else 40)
    videos = videos_of(material.clips[:0] if options.is_quick else material.clips, others, made, options.seed)
    shown = sequences(
        videos,
        video_bank(scratch / "VIDEOS", videos, filling.first_pictures(50 if options.is_quick else 400)),
        options.seed,
    )
    results += [{"part": "sequences", **_sequence_row(one)} for one in shown]
    checks += _sequence_checks(shown)
    _note("sequences are shown")

    if not options.is_quick:
        results += _costs(options, material, banks, scratch)
        checks += _cost_checks(results)
    if options.json_path is not None:
        stem = options.json_path.with_suffix("")
        settings["recall_picture"] = draw_recall(rows, stem.with_name(f"{stem.name}.png"))
        settings["distances_picture"] = draw_distances(
            false.by_distance.tolist(), false.brute_pairs, false.nearest, stem.with_name(f"{stem.name}-distances.png")
        )
    return Report("accuracy", settings, results, checks, _left_out(options))


def _false_part(
    options: Options,
    material: Material,
    others: Sequence[Path],
    banks: Mapping[str, Bank],
    settings: dict[str, Any],
    scratch: Path,
) -> FalseMatches:
    """Hold benign frames against the longest lists, which come last; meanwhile the list of ten million is written."""
    held = dict(list(banks.items())[-2:])
    most = options.more.get("frames", 16 if options.is_quick else 2000)
    clips = material.clips[:1] if options.is_quick else material.clips
    folder = options.folders.get("strangers")
    frames, kinds = benign_frames([] if folder else clips, strangers(folder) if folder else others, most, options.seed)
    settings["benign_frames"] = kinds
    _note(f"{len(frames)} benign frames: {kinds}")
    stored = next(iter(held.values())).rows("pdq")
    assert stored is not None
    brute_views = 120 if options.is_quick else 6_000
    with ProcessPoolExecutor(1, get_context("fork")) as beside:
        is_wanted = not options.is_quick and options.more.get("ten-million", 1)
        writing = beside.submit(_write_ten_million, scratch, banks, options.seed) if is_wanted else None
        found = false_matches(frames, held, stored.hashes, brute_views=brute_views, seed=options.seed)
        if writing is not None:
            writing.result()
    return found


def _row(found: Found) -> dict[str, Any]:
    row: dict[str, Any] = {
        "edit": found.edit.name,
        "goal": found.edit.goal,
        "asked": found.asked,
        "plain": found.plain / found.asked,
    }
    for name, tally in found.lists.items():
        row[f"{name} cut"] = tally.cut / tally.asked
        row[f"{name} review"] = tally.review / tally.asked
        row[f"{name} wrong"] = [tally.wrong_cut, tally.wrong_review]
        row[f"{name} views"] = dict(tally.views.most_common(4))
        row[f"{name} wrong views"] = tally.wrong
    return row


def _can_tell(asked: int, goal: float, misses: int) -> bool:
    """Whether a sample is large enough for a goal: so many misses, which chance may bring, do not fail it."""
    return asked > misses and (asked - misses) / asked >= goal


def _recall_checks(found: Sequence[Found]) -> list[Check]:
    name = f"pictures {_SHORT}"
    goals = [one for one in found if one.edit.is_promised and _can_tell(one.asked, one.edit.goal, 2)]
    checks = [
        at_least(f"{one.edit.name}: found, {what}", share / one.asked, "share", one.edit.goal)
        for one, tally in ((one, one.lists[name]) for one in goals)
        for what, share in (("for a review at least", tally.review), ("one frame may cut", tally.cut))
    ]
    wrong = sum(tally.wrong_cut for one in found for tally in one.lists.values())
    return [*checks, at_most("edited copies on which a wrong picture may cut, all lists", float(wrong), "copies", 0.0)]


def _false_row(false: FalseMatches, rows: int) -> dict[str, Any]:
    rate = false.rate_below(31)
    views = false.views / max(false.frames, 1)
    return {
        "edited_frames": false.frames,
        "views_per_frame": views,
        "pairs": float(false.pairs),
        "asks": dict(false.acted),
        "worst": false.worst,
        "brute_pairs": float(false.brute_pairs),
        "nearest_of_all": min(false.nearest, default=None),
        "nearest_median": float(np.median(false.nearest)) if false.nearest else None,
        "by_distance": false.by_distance.tolist(),
        "within_31_per_million_frames_extrapolated": rate * views * rows * 1e6,
        "within_40_per_million_frames_extrapolated": false.rate_below(40) * views * rows * 1e6,
        "within_48_per_million_frames_extrapolated": false.rate_below(48) * views * rows * 1e6,
        "cut_per_million_frames_at_most": 3e6 / max(false.frames, 1),
    }


def _false_checks(false: FalseMatches, frames: int, *, is_quick: bool) -> list[Check]:
    cuts = asks_at_least(false, Strength.CUT)
    checks = [at_most("edited benign frames on which one frame may cut", float(cuts), "frames", 0.0)]
    if not is_quick:
        checks.append(at_least("(view, row) pairs looked up for that", float(false.pairs), "pairs", _PAIRS_GOAL))
        checks.append(at_least("distinct benign frames for that", float(frames), "frames", 2000.0))
    return checks


def _sequence_row(shown: Shown) -> dict[str, Any]:
    row = asdict(shown)
    row["edit"] = shown.edit.name
    for kind in ("real", "made"):
        hits, asked = row[kind]
        row[f"{kind}_recall"] = hits / asked if asked else None
    return row


def _sequence_checks(shown: Sequence[Shown]) -> list[Check]:
    checks = []
    for one in shown:
        hits, asked = one.real[0] + one.made[0], one.real[1] + one.made[1]
        if one.edit.is_promised and _can_tell(asked, _SEQUENCE_GOAL, 1):
            checks.append(
                at_least(f"{one.edit.name}: videos recognised in 10 s", hits / asked, "share", _SEQUENCE_GOAL)
            )
    wrong = sum(one.false_cuts for one in shown)
    return [*checks, at_most("windows in which another video was recognised", float(wrong), "windows", 0.0)]


def _costs(options: Options, material: Material, banks: Mapping[str, Bank], scratch: Path) -> list[dict[str, Any]]:
    frames = decoded_samples(material.clips, 120)
    rows = [cost_of_samples(frames, banks[f"{kind} {_LONG}"], f"{kind} {_LONG}") for kind in ("pictures", "hashes")]
    if options.more.get("ten-million", 1):
        rows.append(cost_of_samples(frames, open_bank(scratch / _TEN_MILLION), "hashes 10M"))
    for row in rows:
        print("  " + "  ".join(f"{key}={_shown(value)}" for key, value in row.items()), flush=True)
    return [{"part": "cost", **row} for row in rows]


def _write_ten_million(scratch: Path, banks: Mapping[str, Bank], seed: int) -> None:
    """The million of real structure, and nine million random rows: what is met by chance alone costs the same."""
    real = banks[f"hashes {_LONG}"].rows("pdq")
    assert real is not None
    random = np.random.default_rng(seed).integers(0, 256, (10_000_000 - len(real.hashes), 32), dtype=np.uint8)
    rows = np.concatenate([real.hashes, random])
    add_entries(scratch / _TEN_MILLION, rows, ["list"] * len(rows))


def _cost_checks(results: Sequence[Mapping[str, Any]]) -> list[Check]:
    costs = {row["list"]: row for row in results if row["part"] == "cost"}
    checks = []
    for name, limit in ((f"pictures {_LONG}", 3.0), (f"hashes {_LONG}", 3.0), ("hashes 10M", 6.0)):
        what = f"a decoded 1080p frame, scaled, viewed and looked up, {name}, CPU on average"
        if name in costs:
            checks.append(at_most(what, costs[name]["all_ms"], "ms", limit))
            usual = f"the same without the views of once a scene, {name}, CPU on average"
            checks.append(at_most(usual, costs[name]["per_sample_tiers_ms"], "ms", limit))
        else:
            checks.append(not_measured(what, "ms", limit, "left out by --ten-million 0"))
    least = costs[f"hashes {_LONG}"]["identity_and_mirror_ms"]
    checks.append(at_most(f"identity and mirror alone, hashes {_LONG}, CPU on average", least, "ms", 0.6))
    return checks


def _left_out(options: Options) -> list[str]:
    if not options.is_quick:
        return []
    goals = "goals that two misses in 20 pictures or one in 3 windows would fail"
    return [goals, "lists of 5,000 pictures and of a million rows", "1e11 pairs", "sequences of real clips", "CPU time"]


def _note(text: str) -> None:
    """Say what is done, and what all of it took so far, this process and those that ended."""
    taken = os.times()
    cpu = taken.user + taken.system + taken.children_user + taken.children_system
    print(f"  {text} ({cpu:.0f} s of CPU time, {time.perf_counter() - _BEGAN:.0f} s)", flush=True)


_BEGAN: Final = time.perf_counter()


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
