"""Who may publish beside the denied keys: what ingest servers ask when their hook names more than a key."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from detector.events import StreamKey


class PublisherGate(Protocol):
    """Decides about publishers, from memory: it is asked while one waits."""

    def admits(self, key: StreamKey, fields: Mapping[str, str], address: str) -> bool:
        """Whether somebody may publish `key`, who came with these arguments, of a repeated one the first.

        Asked last, of whoever would be let in: what is told here is believed to be the publisher of `key`.
        """


class OpenDoor:
    """Lets everybody publish."""

    def admits(self, key: StreamKey, fields: Mapping[str, str], address: str) -> bool:  # noqa: ARG002
        """As `PublisherGate`."""
        return True


@runtime_checkable
class AsksOfPublishers(Protocol):
    """An ingest server that tells who publishes; it asks `publishers_gate`, which is open until it is set."""

    publishers_gate: PublisherGate
    tells_of_publishers: bool
    """Whether it passes on a publisher's arguments; else keys are all that it knows."""
