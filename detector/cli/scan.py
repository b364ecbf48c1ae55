"""`stopframe scan`."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, note, progress, run_async
from detector.config.config import Config

if TYPE_CHECKING:
    from detector.analysis.pool import AnalysisPool
    from models.manifest import Manifest


_NO_HURRY_SECONDS = 3600.0
"""CPU time for the views of a sample: more than any takes."""


def scan(
    media: Annotated[list[str], typer.Argument(metavar="MEDIA", help="Files, folders and URLs.")],
    config: ConfigFile = None,
    live: Annotated[bool, typer.Option("--live", help="Sample like a live stream, at real pace.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at files, folders and URLs.

    Prints JSON lines: one for each thing found, one summary for each input. Exit 2 if an input could not be read, else
    1 if something was found, else 0. stdout carries JSON lines with or without --json, which only silences the
    progress bar.
    """
    raise typer.Exit(run_async(_scan(read_config_quietly(config), media, is_live=live, is_quiet=as_json)))


async def _scan(config: Config, arguments: Sequence[str], *, is_live: bool, is_quiet: bool) -> int:
    from detector.looking import FRAMES_AT_ONCE, ScanSettings, Tell, half_a_look
    from detector.media_files import NO_FILE, Medium, find_media
    from detector.scan import Outcome, scan_all, scan_medium
    from detector.settings import policy_settings, reader_job
    from streams.job import SourceKind
    from streams.keeper import Nursery

    media = find_media(arguments)
    if not media:
        note(NO_FILE)
        return 0
    manifests = usable_manifests(config)
    settings = ScanSettings(
        job=reader_job(config, "", SourceKind.FILE, "", live=is_live, manifests=manifests),
        policy=policy_settings(config, is_staged=False),
        closer_look=config.closer_look_for(""),
        live_deadline_seconds=config.analysis.deadline.seconds,
    )
    at_once = config.analysis.worker_count
    async with contextlib.AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(Nursery("streams.reader:main", silences_children=True))
        pool = await stack.enter_async_context(analysis_pool(config, at_once * FRAMES_AT_ONCE, manifests))
        if problems := half_a_look(config, pool):
            raise CommandFailed("\n".join(problems))
        bar = stack.enter_context(
            progress("scan", len(media), is_quiet=is_quiet or len(media) == 1 or sys.stdout.isatty())
        )

        async def look(medium: Medium, tell: Tell) -> Outcome:
            bar.update(bar.task_ids[0], description=medium.name[-40:])
            outcome = await scan_medium(medium, nursery=nursery, pool=pool, settings=settings, tell=tell)
            bar.advance(bar.task_ids[0])
            if outcome.fault is not None:
                note(f"{medium.name}: {outcome.fault}")
            if outcome.frames_not_analysed:
                note(
                    f"{medium.name}: {outcome.frames_not_analysed} frames were not analysed: the machine is overloaded"
                )
            return outcome

        outcomes = await scan_all(media, at_once, look, line)
    passed_over = sum(outcome.is_passed_over for outcome in outcomes)
    if passed_over:
        many = "1 file that is no media was" if passed_over == 1 else f"{passed_over} files that are no media were"
        note(f"{many} passed over")
    if any(outcome.fault is not None for outcome in outcomes):
        return 2
    return 1 if any(outcome.has_found for outcome in outcomes) else 0


def usable_manifests(config: Config) -> "tuple[Manifest, ...]":
    """Those of the configured models; `CommandFailed` where a model is refused."""
    from detector.analysis.setup import ModelRefused, load_manifests

    try:
        return load_manifests(config)
    except ModelRefused as error:
        raise CommandFailed(str(error)) from None


def analysis_pool(config: Config, frames: int, manifests: "tuple[Manifest, ...]") -> "AnalysisPool":
    """The configured analysis with these models, and with room for so many frames to wait."""
    from detector.analysis.pool import AnalysisPool
    from detector.analysis.setup import pool_settings
    from detector.banks.budget import BudgetWatch, bank_sizes

    held = BudgetWatch().look(config, bank_sizes(config.state_dir))
    settings = pool_settings(config, manifests, held=held)
    # Nobody waits for the next frame: what a live stream might leave out for want of CPU time is looked at, too.
    views = replace(settings.setup.views, seconds_per_sample=_NO_HURRY_SECONDS)
    settings = replace(settings, setup=replace(settings.setup, views=views))
    if not Path(settings.setup.banks_folder).is_dir():  # nothing was ever added: there is nothing to let the cage read
        settings = replace(settings, setup=replace(settings.setup, readable_paths=()))
    return AnalysisPool(replace(settings, queue_limit=max(settings.queue_limit, frames)))
