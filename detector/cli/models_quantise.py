"""`stopframe models quantise`: a model of eight bits, where its scores stay near enough."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.banks import in_cage
from detector.cli.options import ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, note, table
from models.manifest import load_manifest
from models.manifest_yaml import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from detector.config.config import Config
    from streams.frame import Frame
    from streams.job import Job
    from streams.keeper import Nursery

_MOST_FRAMES = 1024


def quantise(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of the zoo, a model's folder or its file.")],
    frames: Annotated[
        list[str], typer.Option("--frames", metavar="FOLDER", help="Harmless pictures and videos like yours.")
    ],
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Where the new model goes; it is made.")],
    limit: Annotated[
        float | None, typer.Option("--limit", metavar="NUMBER", min=0.0, help="How far a score may move (0.05).")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Cut a model to eight bits.

    Ranges come from harmless frames; on others of them its scores are compared with the model's.

    The new folder is a model like any other. Where a score moves by more than the limit nothing is written.
    """
    from detector.eight_bits import TooMuchLost, make_eight_bits
    from models.classifier import ModelError
    from models.quantised import DEFAULT_LIMIT, WIDEST_LIMIT
    from models.quantising import CannotQuantise

    if limit is not None and limit > WIDEST_LIMIT:
        raise CommandFailed(f"--limit: {limit:g} is too wide for any threshold to hold; {WIDEST_LIMIT:g} is the widest")
    if output.exists():
        raise CommandFailed(f"{output} is there already; name a folder that is not")
    settings = read_config_quietly(config)
    try:
        manifest = load_manifest(name)
        pictures = _pictures(settings, frames)
        drift = make_eight_bits(manifest, pictures, output, DEFAULT_LIMIT if limit is None else limit)
    except (ManifestError, ModelError, CannotQuantise, TooMuchLost) as error:
        raise CommandFailed(str(error)) from None
    except OSError as error:
        raise CommandFailed(f"{output} cannot be written ({error.strerror}); name another folder") from None
    headings = ("model", "frames compared", "largest difference", "p99", "same best label")
    table(headings, [(str(output), drift.frames, f"{drift.largest:.4f}", f"{drift.p99:.4f}", f"{drift.same_top:.1%}")])


def _pictures(settings: "Config", names: list[str]) -> "list[NDArray[np.uint8]]":
    """The 256x256 RGB pictures of these files, each once; what is no media is named and passed over."""
    import numpy as np

    from detector.banks.files import read_all
    from detector.media_files import NO_FILE, find_media
    from streams.frame import PICTURE_SIDE

    media = find_media(names)
    if not media:
        raise CommandFailed(NO_FILE)
    found: list[dict[bytes, None]] = [{} for _ in media]

    def taker(kept: dict[bytes, None]) -> "Callable[[Frame], None]":
        return lambda frame: kept.setdefault(frame.picture)

    async def work(nursery: "Nursery", job: "Job", tell: "Callable[[], None]") -> list[str | None]:
        inputs = [(medium, taker(kept)) for medium, kept in zip(media, found, strict=True)]
        return await read_all(inputs, nursery, job, settings.analysis.worker_count, tell=tell)

    for medium, why in zip(media, in_cage(settings, work, "read", len(media)), strict=True):
        if why is not None:
            note(f"{medium.name} is left out: {why}")
    each = dict.fromkeys(itertools.chain.from_iterable(found))
    pictures = itertools.islice(each, _MOST_FRAMES)
    return [np.frombuffer(one, np.uint8).reshape(PICTURE_SIDE, PICTURE_SIDE, 3) for one in pictures]
