"""What looking at a stream costs in CPU time: a table that was measured once, and what it says of other settings."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from detector.cpu.planning import Look, StreamShape, interval_in_force, keyframe_seconds, look_at, peek_seconds
from detector.cpu.rationing import Costs
from streams.peek import PEEK_PACKETS
from streams.sampling import SamplingSettings

FORMAT = 1
"""Version of the file's form."""

USUAL_SPIKES = 0.05
"""Share of GOPs that are decoded because of their sizes where nobody hides anything: 1 to 9 % on made clips."""

_LARGEST = 1e6
_MOST_FPS = 1000.0


class CostsUnreadable(Exception):
    """Raised by `load`; the text is one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class VideoCosts:
    """One kind of video: CPU seconds of the reader, measured at `fps`.

    `keyframe_seconds` for one keyframe on its own; for each second of video: `reading`, whatever is decoded;
    `through` for decoding through; `whole` where every GOP is decoded whole, of which `frames_per_gop` are handed over.
    What the service itself spends on a stream is not in it.
    """

    size: str
    codec: str
    fps: float
    keyframe_seconds: float
    reading: float
    through: float
    whole: float
    frames_per_gop: float


@dataclass(frozen=True, slots=True)
class CostTable:
    """What was measured on one machine of so many `cores`. `analysis_seconds` is CPU time for one frame."""

    cores: float
    analysis_seconds: float
    videos: tuple[VideoCosts, ...]
    format: int = FORMAT

    def sizes(self) -> tuple[str, ...]:
        """The sizes that were measured."""
        return tuple(video.size for video in self.videos)

    def video(self, size: str) -> VideoCosts:
        """The row of that size; KeyError without one."""
        for row in self.videos:
            if row.size == size:
                return row
        raise KeyError(size)

    def stream(
        self, size: str, settings: SamplingSettings, shape: StreamShape, *, hint_interval_seconds: float = 0.2
    ) -> Costs:
        """What one such stream costs; decoding is taken to cost the same for every frame of a size."""
        video = self.video(size)
        pace = shape.fps / video.fps
        look = look_at(settings, shape.gop_seconds)
        through = whole = 0.0
        every_gop = self.analysis_seconds * video.frames_per_gop / shape.gop_seconds
        if look is Look.KEYFRAMES:
            whole = video.whole * pace + every_gop
        else:
            # A ring that is looked back at is decoded from its keyframe on, and then through to the next one.
            through = video.through * pace + self.analysis_seconds / interval_in_force(settings)
            whole = max(0.0, video.whole - video.through) * pace + every_gop
        # The first frames behind a keyframe are decoded with it; of honest content nothing of them is analysed.
        peek = PEEK_PACKETS * video.through / video.fps / peek_seconds(settings, shape.gop_seconds)
        spikes = USUAL_SPIKES if settings.spikes and look is Look.KEYFRAMES else 0.0
        return Costs(
            reading=video.reading * pace,
            keyframe_seconds=video.keyframe_seconds + self.analysis_seconds,
            keyframes_per_second=1.0 / keyframe_seconds(settings, shape.gop_seconds),
            through=through,
            whole=whole,
            spike_share=spikes + (peek / whole if whole else 0.0),
            closer=video.through * pace + self.analysis_seconds / hint_interval_seconds,
            gop_seconds=shape.gop_seconds,
        )

    def as_json(self) -> dict[str, Any]:
        """The form that `load` reads."""
        return asdict(self)


def save(table: CostTable, path: Path) -> None:
    """Write the table; OSError where that fails."""
    path.write_text(json.dumps(table.as_json(), indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> CostTable:
    """Read what `save` wrote, maybe on another machine. Raises `CostsUnreadable`."""
    again = "write it anew with 'stopframe plan --save-costs'"
    try:
        table = TypeAdapter(CostTable).validate_json(path.read_bytes())
    except OSError as error:
        raise CostsUnreadable(
            f"{path} cannot be read ({error.strerror}); name a file that 'stopframe plan --save-costs' wrote"
        ) from None
    except ValidationError:
        raise CostsUnreadable(f"{path} is no table of costs; {again}") from None
    if table.format != FORMAT:
        raise CostsUnreadable(f"{path} was written by another version of stopframe; {again}")
    if not table.videos or not _is_possible(table):
        raise CostsUnreadable(f"{path} holds costs that no machine has; {again}")
    return table


def _is_possible(table: CostTable) -> bool:
    """Whether a machine could have measured this; not so where a figure is no number."""
    above_nothing, may_be_nothing = [table.cores, table.analysis_seconds], []
    for row in table.videos:
        above_nothing += [row.keyframe_seconds, row.through, row.whole]
        may_be_nothing += [row.reading, row.frames_per_gop]
    return (
        all(0.0 < figure < _LARGEST for figure in above_nothing)
        and all(0.0 <= figure < _LARGEST for figure in may_be_nothing)
        and all(1.0 <= row.fps <= _MOST_FPS for row in table.videos)
    )
