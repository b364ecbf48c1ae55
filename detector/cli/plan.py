"""`stopframe plan`: what a config costs, how late it can be, and what it leaves to chance."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, note, run_async, table
from detector.config.config import Config
from detector.config.units import Duration
from detector.cpu.planning import StreamShape

if TYPE_CHECKING:
    from detector.cpu.costs import CostTable
    from detector.cpu.plan import Report

_SIZES = ("1080p", "720p")
_LONGEST_GOP_SECONDS = 600.0


def plan(  # noqa: PLR0913, PLR0917 - each is an option of the command
    streams: Annotated[
        int, typer.Option("--streams", metavar="NUMBER", min=1, max=1_000_000, help="How many streams there are.")
    ],
    config: ConfigFile = None,
    gop: Annotated[str, typer.Option("--gop", metavar="TIME", help="From keyframe to keyframe, such as 2s.")] = "2s",
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="1080p or 720p.")] = "1080p",
    fps: Annotated[int, typer.Option("--fps", metavar="NUMBER", min=1, max=240, help="Frames a second.")] = 30,
    of: Annotated[
        list[str] | None,
        typer.Option(
            "--of",
            metavar="MATCH=N",
            help="So many of them match this entry of streams: in the config; may be repeated.",
        ),
    ] = None,
    costs: Annotated[
        Path | None, typer.Option("--costs", metavar="FILE", help="Costs that --save-costs wrote, here or elsewhere.")
    ] = None,
    save_costs: Annotated[
        Path | None, typer.Option("--save-costs", metavar="FILE", help="Write down the costs that are measured.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the config costs and how late it can be.

    It says what is left to chance, too, before anything runs. Measures on this machine for 10 to 20 seconds, or goes by
    --costs. Exit 0 whatever the answer is.
    """
    from detector.cpu.plan import Question
    from detector.cpu.plan import plan as answer

    if size not in _SIZES:
        raise CommandFailed(f"--size: it is not known what {size} costs; write {' or '.join(_SIZES)}")
    shape = StreamShape(_gop_seconds(gop), fps=float(fps))
    if costs is not None and save_costs is not None:
        raise CommandFailed("--save-costs writes what is measured, and --costs measures nothing; leave out one of them")
    if save_costs is not None:
        _check_folder(save_costs)
    settings = read_config_quietly(config)
    matching = _matching(settings, of or [], streams)
    measured = _measured(settings, size, save_costs) if costs is None else _loaded(costs, size)
    report = answer(settings, measured, Question(streams, size, shape, matching))
    if as_json:
        line(asdict(report))
    else:
        _print(report)


def _gop_seconds(text: str) -> float:
    try:
        seconds = Duration.parse(text).seconds
    except ValueError as error:
        raise CommandFailed(f"--gop: {error}") from None
    if not 0.02 <= seconds <= _LONGEST_GOP_SECONDS:
        raise CommandFailed("--gop: no encoder sends keyframes like that; write from 20ms to 10m")
    return seconds


def _check_folder(path: Path) -> None:
    """Whether a file may be written there is asked before anything is measured: that takes a while."""
    folder = path.parent
    if not folder.is_dir() or path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise CommandFailed(f"--save-costs: {path} cannot be written; name a file in a folder of yours")


def _matching(config: Config, given: Sequence[str], streams: int) -> dict[str, int]:
    """How many streams each entry of `streams:` matches; one that is not given matches none, and is shown."""
    counts = {entry.match: 0 for entry in config.streams}
    for one in given:
        match, _, count = one.rpartition("=")
        if not counts:
            raise CommandFailed("--of: the config has no streams: to match; leave it out, or add them there")
        if match not in counts:
            raise CommandFailed(f"--of: no entry of streams: has match {match!r}; name one of the config's")
        if not (count.isascii() and count.isdecimal() and len(count) < 8):
            raise CommandFailed(f"--of: {count!r} is no number of streams; write such as {match}=10")
        counts[match] = int(count)
    if sum(counts.values()) > streams:
        raise CommandFailed(f"--of names {sum(counts.values())} streams of {streams}; raise --streams")
    return counts


def _loaded(path: Path, size: str) -> "CostTable":
    from detector.cpu.costs import CostsUnreadable, load

    try:
        found = load(path)
    except CostsUnreadable as error:
        raise CommandFailed(f"--costs: {error}") from None
    if size not in found.sizes():
        others = [known for known in _SIZES if known in found.sizes()]
        remedy = f"write --size {others[0]}" if others else "write it anew with 'stopframe plan --save-costs'"
        raise CommandFailed(f"--costs: {path} says nothing of {size}; {remedy}")
    return found


def _measured(config: Config, size: str, save_to: Path | None) -> "CostTable":
    from detector.cpu.costs import save

    sizes = _SIZES if save_to is not None else (size,)
    verb = "costs" if len(sizes) == 1 else "cost"
    note(
        f"measuring what {' and '.join(sizes)} {verb} here, some {10 * len(sizes)} seconds; "
        "--costs FILE goes by what was measured before"
    )
    found = run_async(_measure(config, sizes))
    if save_to is not None:
        try:
            save(found, save_to)
        except OSError as error:
            why = f"{save_to} cannot be written ({error.strerror}); name a file in a folder of yours"
            raise CommandFailed(f"--save-costs: {why}") from None
    return found


async def _measure(config: Config, sizes: Sequence[str]) -> "CostTable":
    from detector.cli.scan import analysis_pool, usable_manifests
    from detector.cpu.calibration import CalibrationFailed, measure
    from detector.settings import reader_job
    from streams.job import SourceKind

    try:
        manifests = usable_manifests(config)
        async with analysis_pool(config, 1, manifests) as pool:
            return await measure(sizes, reader_job(config, "", SourceKind.FILE, "", manifests=manifests), pool)
    except CalibrationFailed as error:
        raise CommandFailed(str(error)) from None


_VERDICTS = {
    "fits": "fits",
    "bursts_shrink": "fits with fewer bursts and spikes",
    "slowed": "fits only slowed: streams of low risk first, none beyond the floor",
    "refused": "does not fit: some streams would not be looked at at all",
}


def _print(report: "Report") -> None:
    shape = f"{report.size} at {report.fps:g} fps, a keyframe every {report.gop_s:g} s"
    typer.echo(f"{report.streams} streams of {shape}: {_VERDICTS[report.verdict]}\n")
    table(
        ("cores", ""),
        [
            ("needed", f"{report.needed_cores:.2f}"),
            ("there are", f"{report.budget_cores:.2f}  ({report.cores:g} cores x max_cpu {report.max_cpu:.0%})"),
            ("at the floor", f"{report.floor_cores:.2f}  (one frame every {report.floor_s:g} s)"),
        ],
    )
    typer.echo(
        f"\nFrom {report.bursts_shrink_from} such streams on bursts and spikes shrink, from {report.slowed_from} on\n"
        f"streams are slowed, from {report.refused_from} on they are refused.\n"
    )
    typer.echo("Longest delay, s: until it is seen, decided by a hash, by a class's votes")
    table(
        ("streams", "n", "risk", "looked at by", "cores", "seen", "hash", "class"),
        [
            (
                tier.name,
                tier.streams,
                tier.risk,
                tier.look,
                f"{tier.cores:.3f}",
                *(f"{each:.1f}" for each in (tier.seen_within_s, tier.hash_within_s, tier.class_within_s)),
            )
            for tier in report.tiers
        ],
    )
    typer.echo("\nWhat the encoder's keyframe interval does, bursts and spikes left out")
    table(
        ("keyframe every", "looked at by", "cores", "cost", "seen"),
        [
            (f"{row.gop_s:g} s", row.look, f"{row.cores:.3f}", f"{row.factor:.1f}x", f"{row.seen_within_s:.1f} s")
            for row in report.gops
        ],
    )
    times = [f"{each:g} s" for each in report.times_s]
    typer.echo("\nChance, in %, to see what is shown between keyframes only, for so long;")
    typer.echo("and a flash of one frame or 67 ms. First where packet sizes tell nothing;")
    typer.echo("'every frame' is what spares nothing but keyframes, whatever its sizes.")
    table(
        ("sizes", "bursts", "cores", *times, "frame", "67 ms"),
        [
            (
                "flattened",
                f"{row.burst_share:.0%}",
                f"{row.cores:.3f}",
                *map(_percent, (*row.flattened, row.one_frame, row.flash)),
            )
            for row in report.chances
        ]
        + [
            ("show it", f"{row.burst_share:.0%}", f"{row.cores:.3f}", *map(_percent, row.sizes_show), "-", "-")
            for row in report.chances[1:]
        ]
        + [
            ("every frame", f"{row.burst_share:.0%}", f"{row.cores:.3f}", *map(_percent, row.every_frame), "-", "-")
            for row in report.chances[1:]
        ],
    )


def _percent(chance: float) -> str:
    percent = 100.0 * chance
    return f"{percent:.1f}" if 0.05 < percent < 9.95 or 99.0 <= percent < 99.95 else f"{percent:.0f}"
