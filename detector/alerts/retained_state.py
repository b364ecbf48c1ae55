"""What should stand retained at the broker, and what of it the broker does not have yet. Pure; time is passed in."""


class RetainedState:
    """Topics with their wanted payloads: the newest wins, and ended ones are cleared when their time has come."""

    def __init__(self) -> None:
        self._wanted: dict[str, bytes] = {}
        self._unsent: dict[str, None] = {}
        self._clear_at: dict[str, float] = {}

    def want(self, topic: str, payload: bytes) -> None:
        """Ask for a payload to stand there, until told otherwise."""
        self._clear_at.pop(topic, None)
        if self._wanted.get(topic) != payload:
            self._wanted[topic] = payload
            self._unsent[topic] = None

    def clear_at(self, topic: str, at: float) -> None:
        """Ask for a topic to be emptied at a monotonic time; a later `want` takes that back."""
        self._clear_at[topic] = at

    def holds(self, topic: str) -> bool:
        """Return whether anything is wanted there."""
        return topic in self._wanted

    def forget_sent(self) -> None:
        """Assume that the broker has nothing: everything wanted is unsent again."""
        self._unsent = dict.fromkeys(self._wanted)

    def next_unsent(self) -> tuple[str, bytes] | None:
        """Return a topic to send and its payload, and count it as sent."""
        if not self._unsent:
            return None
        topic = next(iter(self._unsent))
        del self._unsent[topic]
        return topic, self._wanted[topic]

    def due(self, now: float) -> list[str]:
        """Return the topics to empty by now; each stays due until `cleared`."""
        return [topic for topic, at in self._clear_at.items() if at <= now]

    def cleared(self, topic: str) -> None:
        """Note that the broker emptied a topic, unless it was wanted again meanwhile."""
        if self._clear_at.pop(topic, None) is not None:
            self._wanted.pop(topic, None)
            self._unsent.pop(topic, None)

    def next_due_at(self) -> float | None:
        """Return when the next topic is to be emptied, if any is."""
        return min(self._clear_at.values(), default=None)
