"""Who ended analysis processes: models, by the streams whose frames they looked at, and streams, by how often."""

from collections import OrderedDict
from typing import Final

QUARANTINE_AFTER: Final = 3
"""From so many streams must the frames come that a model took its process down with, before it is taken out.

One publisher whose frames do that, however many they are, takes nothing from anybody else.
"""

_STREAMS_REMEMBERED: Final = 1024


class Blame:
    """Counts losses. A frame whose process died may have been there by chance; that of a notorious stream was not."""

    def __init__(self) -> None:
        self._blamed: dict[str, set[str]] = {}
        self._losses: OrderedDict[str, int] = OrderedDict()
        self.quarantined: set[str] = set()

    def lost(self, model: str, stream: str) -> int:
        """Note that a model ended its process while it looked at a stream's frame.

        Returns:
            How many streams that makes, if the model is taken out now; else 0.
        """
        if model in self.quarantined:
            return 0
        streams = self._blamed.setdefault(model, set())
        streams.add(stream)
        if len(streams) < QUARANTINE_AFTER:
            return 0
        self.quarantined.add(model)
        return len(streams)

    def note_stream(self, stream: str) -> None:
        """Note that a process ended while it looked at a stream's frame."""
        if not stream:
            return
        self._losses[stream] = self._losses.pop(stream, 0) + 1
        if len(self._losses) > _STREAMS_REMEMBERED:
            self._losses.popitem(last=False)

    def is_notorious(self, stream: str) -> bool:
        """Whether so many processes ended with a stream's frames that none is to get such a frame twice."""
        return self._losses.get(stream, 0) >= QUARANTINE_AFTER

    def problems(self) -> list[str]:
        """One sentence for each model that was taken out."""
        return [
            f"model {name} was taken out after it ended its process {QUARANTINE_AFTER} times; replace it"
            for name in sorted(self.quarantined)
        ]
