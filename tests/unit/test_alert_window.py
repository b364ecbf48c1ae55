"""The window: what goes next, what stays on disk, and that nothing is forgotten on the way."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from detector.alerts.backoff import backoff_seconds
from detector.alerts.retained_state import RetainedState
from detector.alerts.sink import Notice
from detector.alerts.window import Lane, Row, Window


def _notice(order: int, stream: str = "s", *, cut: bool = False, durable: bool = True, expires: int = 10**9) -> Notice:
    return Notice(f"a{order}", stream, cut, b"", expires, order, durable)


def _empty(limit: int) -> Window:
    window = Window(limit)
    window.refill(window.begin_refill(), [], open_rows=0)
    return window


def test_cut_goes_before_review_and_takes_its_stream_along() -> None:
    """A stream with a cut is taken first, with its own older alerts in front."""
    window = _empty(10)
    for notice in (_notice(1, "a"), _notice(2, "b"), _notice(3, "b", cut=True), _notice(4, "c")):
        assert window.offer(notice, 0.0)

    taken = []
    while (lane := window.take(0.0)) is not None:
        taken.append((lane.stream_id, [n.order for n in lane.notices]))
    assert taken == [("b", [2, 3]), ("a", [1]), ("c", [4])]


def test_full_window_leaves_durable_alerts_to_the_disk() -> None:
    """Past the limit durable alerts are left on disk until a refill; memory-only ones displace durable ones."""
    window = _empty(2)
    assert [window.offer(_notice(n, f"s{n}"), 0.0) for n in range(4)] == [True, True, False, False]
    assert window.is_spilled
    assert window.offer(_notice(9, "m", durable=False), 0.0)
    assert window.offer(_notice(10, "m2", durable=False), 0.0)
    assert not window.offer(_notice(11, "m3", durable=False), 0.0)

    assert len(window) == 2


def test_a_cut_that_no_disk_holds_takes_the_place_of_a_review() -> None:
    """With the disk full and memory full of reviews the newest of them is lost, and counted; no cut gives way."""
    window = _empty(256)
    for number in range(256):
        assert window.offer(_notice(number, f"s{number % 200}", durable=False), 0.0)
    assert not window.offer(_notice(256, "late", durable=False), 0.0)
    assert window.offer(_notice(257, "bad", cut=True, durable=False), 0.0)
    assert (len(window), window.lost_total) == (256, 2)
    lane = window.take(0.0)
    assert lane is not None
    assert lane.stream_id == "bad"
    assert window.drop("a255") is None
    assert window.drop("a254") is not None

    full = _empty(2)
    for number in (1, 2):
        assert full.offer(_notice(number, "one", cut=number == 2, durable=False), 0.0)
    busy = full.take(0.0)
    assert busy is not None
    assert not full.offer(_notice(3, "two", cut=True, durable=False), 0.0), "one is on its way, the other a cut"
    assert (full.lost_total, [notice.order for notice in busy.notices]) == (1, [1, 2])


def test_what_another_file_does_not_hold_stays_in_memory() -> None:
    """Where the database was moved away, alerts that memory holds are not dropped because the new one lacks them."""
    window = _empty(4)
    for number in (1, 2):
        window.offer(_notice(number, "a"), 0.0)
    window.look_again()
    rows = [Row(_notice(2, "a"), 0, 0.0)]
    assert not window.refill(window.begin_refill(), rows, open_rows=1)

    lane = window.take(0.0)
    assert lane is not None
    assert [(notice.alert_id, notice.is_durable) for notice in lane.notices] == [("a1", False), ("a2", True)]


def test_refill_leaves_streams_alone_that_were_busy() -> None:
    """What a pass works on while the disk is read may be accepted by then, so its rows are not taken up again."""
    window = _empty(4)
    window.offer(_notice(1, "a"), 0.0)
    lane = window.take(0.0)
    assert lane is not None
    ticket = window.begin_refill()
    lane.notices.clear()
    window.settle(lane)
    still_spilled = window.refill(ticket, [Row(_notice(1, "a"), 0, 0.0), Row(_notice(2, "b"), 0, 0.0)], open_rows=2)

    assert (len(window), still_spilled) == (1, True)


def test_refill_notices_what_was_spilled_while_it_read() -> None:
    """An alert left to the disk during the read keeps the window spilled, whatever the read counted."""
    window = _empty(1)
    window.offer(_notice(1, "a"), 0.0)
    ticket = window.begin_refill()
    window.offer(_notice(2, "b"), 0.0)

    assert window.refill(ticket, [Row(_notice(1, "a"), 0, 0.0)], open_rows=1)


def test_expired_alerts_leave_idle_lanes() -> None:
    """Alerts whose time is over are let go and named; others stay."""
    window = _empty(4)
    window.offer(_notice(1, "a", expires=50), 0.0)
    window.offer(_notice(2, "a", expires=500), 0.0)

    assert [n.order for n in window.drop_expired(50)] == [1]
    assert len(window) == 1


class WindowMachine(RuleBasedStateMachine):
    """Against a model of the disk: every durable alert is in the window or the window knows that it is spilled."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(4)
        self.now = 0.0
        self.disk: dict[str, Notice] = {}
        self.memory: dict[str, Notice] = {}
        self.accepted: list[Notice] = []
        self.busy: list[Lane] = []
        self.order = 0

    @rule(stream=st.sampled_from("abcdef"), cut=st.booleans(), durable=st.integers(0, 5))
    def submit(self, *, stream: str, cut: bool, durable: int) -> None:
        self.order += 1
        notice = _notice(self.order, stream, cut=cut, durable=bool(durable))
        if durable:
            self.disk[notice.alert_id] = notice
        lost = self.window.lost_total
        is_held = self.window.offer(notice, self.now)
        if is_held and not durable:
            self.memory[notice.alert_id] = notice
        if is_held and self.window.lost_total > lost:
            self.displaced(notice)

    def displaced(self, by: Notice) -> None:
        """A cut took the place of the newest review that no disk holds."""
        held = {notice.alert_id for lane in self.window._lanes.values() for notice in lane.notices}
        (gone,) = [notice for notice in self.memory.values() if notice.alert_id not in held]
        assert by.urgency > gone.urgency
        assert not by.is_durable
        del self.memory[gone.alert_id]

    @rule()
    def take(self) -> None:
        lane = self.window.take(self.now)
        if lane is not None:
            self.busy.append(lane)

    @precondition(lambda self: self.busy)
    @rule(accept=st.integers(0, 3))
    def finish(self, accept: int) -> None:
        lane = self.busy.pop(0)
        for notice in lane.notices[:accept]:
            lane.notices.remove(notice)
            assert notice.alert_id in self.disk or notice.alert_id in self.memory
            self.disk.pop(notice.alert_id, None)
            self.memory.pop(notice.alert_id, None)
            earlier = [n for n in self.disk.values() if n.stream_id == notice.stream_id and n.order < notice.order]
            # An alert that no disk holds does not wait for those on it: that is the smaller evil while a disk fails.
            assert not (earlier and notice.is_durable), "an older alert of the same stream is still open"
            self.accepted.append(notice)
        lane.due_at = self.now + 1
        self.window.settle(lane)

    @rule()
    def refill(self) -> None:
        streams: dict[str, list[Notice]] = {}
        for notice in sorted(self.disk.values(), key=lambda n: n.order):
            streams.setdefault(notice.stream_id, []).append(notice)
        rows = sorted(streams.values(), key=lambda ns: (-max(n.urgency for n in ns), ns[0].order))
        flat = [Row(n, 0, self.now) for ns in rows for n in ns][:8]
        self.window.refill(self.window.begin_refill(), flat, open_rows=len(self.disk))

    @rule()
    def wait(self) -> None:
        self.now += 0.6

    @invariant()
    def nothing_is_forgotten(self) -> None:
        held = {n.alert_id for lane in self.window._lanes.values() for n in lane.notices}
        assert self.window.is_spilled or set(self.disk) <= held
        assert set(self.memory) <= held

    @invariant()
    def each_is_accepted_once(self) -> None:
        assert len({n.alert_id for n in self.accepted}) == len(self.accepted)

    @invariant()
    def streams_stay_in_order(self) -> None:
        for lane in self.window._lanes.values():
            assert [n.order for n in lane.notices] == sorted(n.order for n in lane.notices)


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_backoff_doubles_to_its_limit() -> None:
    """The wait doubles from the first to the limit, and jitter only ever shortens it, by at most a quarter."""
    waits = [backoff_seconds(n, first_seconds=0.5, limit_seconds=30, jitter=0.0) for n in (0, 1, 2, 3, 7, 500)]

    assert waits == [0.5, 0.5, 1.0, 2.0, 30.0, 30.0]
    assert backoff_seconds(7, first_seconds=0.5, limit_seconds=30, jitter=0.999) > 22.4


def test_retained_state_sends_the_newest_and_clears_what_ended() -> None:
    """Only the newest payload is sent; a topic that ended is emptied at its time unless it came back."""
    state = RetainedState()
    state.want("t", b"1")
    state.want("t", b"2")
    assert (state.next_unsent(), state.next_unsent()) == (("t", b"2"), None)

    state.want("t", b"2")
    assert state.next_unsent() is None
    state.forget_sent()
    assert state.next_unsent() == ("t", b"2")

    state.clear_at("t", 5.0)
    assert (state.due(4.9), state.due(5.0), state.next_due_at()) == ([], ["t"], 5.0)
    state.want("t", b"3")
    state.cleared("t")
    assert (state.due(9.0), state.holds("t")) == ([], True)
    state.clear_at("t", 5.0)
    state.cleared("t")
    assert (state.holds("t"), state.next_unsent(), state.next_due_at()) == (False, None, None)
