"""Hold before air: nobody is cleared by chance, by somebody else, or by a clock."""

from collections.abc import Callable

import pytest

from detector.events import Observation, Signal, Step, StreamKey
from detector.hold import Hold, HoldSettings
from detector.ingest.viewers import ViewerList
from detector.policy import Verdict
from models.evidence import Inspection

KEY = StreamKey("edge", "live", "key")
OTHER = StreamKey("edge", "live", "other")


class Scene:
    """A hold on a clock of its own, and samples to show it."""

    def __init__(self, settings: HoldSettings) -> None:
        self.now = 100.0
        self.hold = Hold(settings, lambda key: f"id-of-{len(key.name)}", clock=lambda: self.now)

    def begin(self, connection: str = "c1") -> Callable[..., None]:
        told = self.hold.begin(KEY, connection)

        def show(step: Step = Step.OFF, *, weak: bool = False, low: bool = False, corrupt: bool = False) -> None:
            self.now += 0.1
            failed = frozenset({"m"}) if weak is None else frozenset()
            inspection = Inspection(90, True, low, b"", (), (), failed_models=failed)
            at = self.now
            observation = Observation("s", "x", 0, "keyframe", at, at, at, None, corrupt, inspection)
            signals = (Signal("hash", "pdq", "B/e", step, 31),) if step else ()
            told(observation, Verdict(step, True, signals, (1, 1), bool(weak), low))

        return show


def watched(scene: Scene, connection: str | None = None) -> bool:
    return scene.hold.may_watch(KEY, connection)


def test_viewers_wait_for_so_many_clean_samples_in_a_row() -> None:
    """The third clean sample clears, and what hits in between begins the count anew, however weakly it hits."""
    scene = Scene(HoldSettings(samples=3))
    assert not watched(scene), "nobody publishes: who waits now would see anyone"
    show = scene.begin()
    show()
    show()
    assert not watched(scene)
    show(Step.REVIEW)
    show()
    show()
    show(weak=True)
    show()
    show()
    assert not watched(scene)
    show()
    assert watched(scene)
    assert watched(scene, "c1")
    assert not watched(scene, "c2"), "somebody else publishes there now"
    assert not scene.hold.may_watch(OTHER)
    assert scene.hold.cleared_total == 1


def test_what_shows_nothing_clears_nobody() -> None:
    """Black, broken and unjudged frames are no clean samples; what only a shadow hits is one."""
    scene = Scene(HoldSettings(samples=2))
    show = scene.begin()
    for _ in range(5):
        show(low=True)
        show(corrupt=True)
        show(weak=None)  # type: ignore[arg-type] - a model failed
    assert not watched(scene)
    show(Step.SHADOW)
    show()
    assert watched(scene)


@pytest.mark.parametrize("admits", [False, True])
def test_on_doubt_is_the_operators_line(*, admits: bool) -> None:
    """When the samples do not come, viewers stay out for good, or get in when the time is over and not before."""
    scene = Scene(HoldSettings(samples=3, within_seconds=5.0, admits_on_doubt=admits))
    show = scene.begin()
    scene.now += 4.9
    assert not watched(scene)
    assert scene.hold.notes() == []
    scene.now += 0.2
    assert scene.hold.notes()[0].startswith("1 publishers have been held")
    assert watched(scene) is admits
    assert scene.hold.doubted_total == int(admits)
    if not admits:
        for _ in range(3):
            show()
        assert watched(scene)
    assert scene.hold.notes() == []


def test_who_comes_next_is_held_anew() -> None:
    """Another connection begins at nothing; samples of the one before, and its end, change nothing for it."""
    scene = Scene(HoldSettings(samples=1))
    before = scene.begin("c1")
    before()
    assert watched(scene)
    show = scene.begin("c2")
    before()
    assert not watched(scene)
    scene.hold.end(KEY, "c1")
    show()
    assert watched(scene)
    scene.begin("c2")
    assert watched(scene), "only its reader was replaced"
    scene.hold.end(KEY, "c2")
    assert not watched(scene)


def test_a_publisher_who_may_have_been_replaced_is_held_anew() -> None:
    """When the hook lets somebody publish a key, frames of the next second may be anyone's, and do not count."""
    scene = Scene(HoldSettings(samples=2))
    show = scene.begin()
    show()
    show()
    scene.hold.publisher_comes(KEY)
    scene.hold.publisher_comes(OTHER)
    for _ in range(9):
        show()
    assert not watched(scene)
    scene.now += 1.0
    show()
    show()
    assert watched(scene)


def test_nobody_is_held_where_nothing_is_enforced() -> None:
    """Without samples, and while enforcement is off, everybody may watch; a hold that does not hold is told."""
    for settings in (HoldSettings(), HoldSettings(samples=3, is_live=False)):
        scene = Scene(settings)
        assert watched(scene)
        assert not scene.hold.is_shut
    assert scene.hold.notes() == ["enforcement.live is false: ingest.hold keeps no viewer waiting"]
    scene.hold.settings = HoldSettings(samples=3)
    assert not watched(scene)


def test_the_list_of_viewers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves is forgotten, who comes again counts once, and the oldest give way to the newest."""
    monkeypatch.setattr("detector.ingest.viewers._VIEWERS_KEPT", 3)
    viewers = ViewerList()
    for viewer in ("1", "2", "2", "3"):
        viewers.came(KEY, viewer)
    viewers.came(OTHER, "1")
    viewers.left("3")
    viewers.left("nobody")
    assert (viewers.of(KEY), viewers.of(OTHER)) == (["2"], ["1"])
    for number in range(10, 20):
        viewers.came(OTHER, str(number))
    assert (viewers.of(KEY), viewers.of(OTHER)) == ([], ["17", "18", "19"])
    assert viewers.forgotten_total == 9
