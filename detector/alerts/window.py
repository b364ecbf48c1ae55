"""Which alert goes next: a bounded window over one sink's part of the outbox. Pure; time is passed in."""

import bisect
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from detector.alerts.sink import Notice


@dataclass(slots=True)
class Lane:
    """The open alerts of one stream, in order. While `is_busy`, one delivery pass works on it."""

    stream_id: str
    notices: list[Notice] = field(default_factory=list)
    due_at: float = 0.0
    attempts: int = 0
    is_busy: bool = False

    @property
    def urgency(self) -> int:
        """The urgency of the most urgent alert in it: its own older ones go with it."""
        return max((notice.urgency for notice in self.notices), default=0)

    @property
    def is_durable(self) -> bool:
        """Whether all of it is on disk, so that it may leave memory."""
        return all(notice.is_durable for notice in self.notices)

    def insert(self, notice: Notice) -> None:
        """Add a notice in its place; the same alert twice is held once."""
        if all(notice.alert_id != known.alert_id for known in self.notices):
            bisect.insort_right(self.notices, notice, key=lambda known: known.order)

    def drop(self, alert_id: str) -> Notice | None:
        """Take one alert out; None if it is not there."""
        found = next((notice for notice in self.notices if notice.alert_id == alert_id), None)
        if found is not None:
            self.notices.remove(found)
        return found


@dataclass(frozen=True, slots=True)
class Row:
    """One alert as the disk holds it: how often it was tried, and when the next try is due (monotonic)."""

    notice: Notice
    attempts: int
    due_at: float


@dataclass(frozen=True, slots=True)
class RefillTicket:
    """How the window stood when the disk was asked."""

    busy_streams: frozenset[str]
    spills: int


class Window:
    """At most `limit` alerts of one sink in memory, by stream; the rest stays on disk and `is_spilled` says so.

    Alerts that no disk holds make room for none but more urgent ones; past the limit `offer` refuses them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lanes: dict[str, Lane] = {}
        self._spills = 0
        self.is_spilled = True
        """Whether the disk may hold open alerts that are not here. True at first: an earlier run may have left some."""
        self.lost_total = 0
        """Alerts that no disk holds and that found no room here, or gave theirs to a more urgent one."""

    def __len__(self) -> int:
        """Return how many alerts are held."""
        return sum(len(lane.notices) for lane in self._lanes.values())

    def offer(self, notice: Notice, now: float) -> bool:
        """Take a new alert and make its stream due at once; False if it was left to the disk, or, not durable, to fate.

        While anything is spilled, durable alerts are left to the disk, from where `refill` brings them in order.
        """
        if notice.is_durable and (self.is_spilled or len(self) >= self._limit):
            self._spill()
            return False
        if not notice.is_durable and len(self) >= self._limit:
            has_room = self._make_room()
            if not has_room:
                self.lost_total += 1
            if not (has_room or self._displace_weaker(notice)):
                return False
        lane = self._lanes.setdefault(notice.stream_id, Lane(notice.stream_id))
        lane.insert(notice)
        lane.due_at = now
        lane.attempts = 0
        return True

    def begin_refill(self) -> RefillTicket:
        """Note what the disk is about to be asked under; hand the ticket to `refill` with the answer."""
        busy = frozenset(lane.stream_id for lane in self._lanes.values() if lane.is_busy)
        return RefillTicket(busy, self._spills)

    def refill(self, ticket: RefillTicket, rows: Iterable[Row], *, open_rows: int) -> bool:
        """Replace all idle durable lanes by what the disk holds, strongest stream first.

        Streams that were busy when the disk was asked are left alone: their rows may have been accepted since.
        `open_rows` is how many the disk holds in all; returns whether anything of that is still spilled. What is held
        here and not by a disk that told all it holds (another file lies there now) stays, as no longer durable.
        """
        found = list(rows)
        idle = [lane for lane in self._lanes.values() if not lane.is_busy and lane.is_durable]
        for lane in idle:
            del self._lanes[lane.stream_id]
        kept = ticket.busy_streams | set(self._lanes)
        if len(found) == open_rows:
            self._keep_what_no_disk_has(idle, {row.notice.alert_id for row in found})
        for row in found:
            stream_id = row.notice.stream_id
            if stream_id in kept or len(self) >= self._limit:
                continue
            lane = self._lanes.setdefault(stream_id, Lane(stream_id, due_at=row.due_at, attempts=row.attempts))
            lane.insert(row.notice)
            lane.due_at = min(lane.due_at, row.due_at)
        held = sum(notice.is_durable for lane in self._lanes.values() for notice in lane.notices)
        self.is_spilled = open_rows > held or self._spills != ticket.spills
        return self.is_spilled

    def take(self, now: float) -> Lane | None:
        """Return the next stream to deliver and mark it busy: the most urgent first, then the oldest alert."""
        due = [lane for lane in self._lanes.values() if not lane.is_busy and lane.notices and lane.due_at <= now]
        if not due:
            return None
        lane = min(due, key=lambda lane: (-lane.urgency, lane.notices[0].order))
        lane.is_busy = True
        return lane

    def settle(self, lane: Lane) -> None:
        """End a pass: the lane is idle again, or gone if nothing is left in it."""
        lane.is_busy = False
        if not lane.notices:
            self._lanes.pop(lane.stream_id, None)

    def drop(self, alert_id: str) -> Notice | None:
        """Take one alert out, wherever it is; a pass that works on it finds it gone."""
        for lane in list(self._lanes.values()):
            found = lane.drop(alert_id)
            if found is not None:
                if not lane.is_busy:
                    self.settle(lane)
                return found
        return None

    def drop_expired(self, wall_ms: int) -> list[Notice]:
        """Let go of alerts whose time is over in idle lanes, and return them."""
        gone: list[Notice] = []
        for lane in [lane for lane in self._lanes.values() if not lane.is_busy]:
            over = [notice for notice in lane.notices if notice.expires_at_ms <= wall_ms]
            gone += over
            lane.notices = [notice for notice in lane.notices if notice.expires_at_ms > wall_ms]
            self.settle(lane)
        return gone

    def next_due_at(self) -> float | None:
        """Return when the next idle lane is due, if any waits."""
        return min((lane.due_at for lane in self._lanes.values() if not lane.is_busy and lane.notices), default=None)

    def look_again(self) -> None:
        """Take it that the disk may hold alerts that are not here."""
        self._spill()

    def hurry(self, now: float, stream_id: str | None = None) -> None:
        """Make every waiting lane due now, or that of one stream."""
        for lane in self._lanes.values() if stream_id is None else filter(None, [self._lanes.get(stream_id)]):
            lane.due_at = min(lane.due_at, now)

    def _keep_what_no_disk_has(self, lanes: Iterable[Lane], on_disk: Collection[str]) -> None:
        for lane in lanes:
            missing = [notice for notice in lane.notices if notice.alert_id not in on_disk]
            if missing:
                lane.notices = [replace(notice, is_durable=False) for notice in missing]
                self._lanes[lane.stream_id] = lane

    def _make_room(self) -> bool:
        """Move one idle durable lane back to the disk."""
        idle = [lane for lane in self._lanes.values() if not lane.is_busy and lane.is_durable]
        if not idle:
            return False
        weakest = max(idle, key=lambda lane: (-lane.urgency, lane.notices[-1].order))
        del self._lanes[weakest.stream_id]
        self._spill()
        return True

    def _displace_weaker(self, notice: Notice) -> bool:
        """Give up the newest of the least urgent alerts that no disk holds, where it is less urgent than `notice`."""
        weaker = [
            (held.urgency, -held.order, lane, held)
            for lane in self._lanes.values()
            for held in lane.notices[lane.is_busy :]  # a busy lane's first may be on its way
            if not held.is_durable and held.urgency < notice.urgency
        ]
        if not weaker:
            return False
        _, _, lane, held = min(weaker, key=lambda one: one[:2])
        lane.drop(held.alert_id)
        if not lane.is_busy:
            self.settle(lane)
        return True

    def _spill(self) -> None:
        self._spills += 1
        self.is_spilled = True
