"""The throughput benchmark's own parts on a small clip: made, lengthened, watched by the product, and decoded."""

from pathlib import Path

import pytest

from benchmarks.camera_clips import UNIT_SECONDS, CameraClip, make
from benchmarks.camera_feed import feed_of
from benchmarks.decode_references import FLOOR, GRAB, cpu_seconds
from benchmarks.file_watcher import FileWatcher
from benchmarks.throughput import KEYFRAMES

pytestmark = [pytest.mark.integration, pytest.mark.needs_ffmpeg]

SMALL = CameraClip(144, 150, is_cbr=True, bframes=2, has_audio=True)


def test_small_clip_goes_through_the_product_and_the_references(tmp_path: Path) -> None:
    """Each keyframe of a repeated clip is looked at once, every part's time is told, and the references read it too."""
    made = make([SMALL], tmp_path)[SMALL]
    again = make([SMALL], tmp_path)[SMALL]
    with FileWatcher(tmp_path / "watcher", rows=1000) as watcher:
        account = watcher.watch([made.lengthened(2)], KEYFRAMES.sampling, speed=100.0)
        unpaced = watcher.watch([made.lengthened(2)], KEYFRAMES.sampling, speed=KEYFRAMES.speed)

    assert again.sha256 == made.sha256
    assert account.samples["keyframe"] == 2 * UNIT_SECONDS / 2
    assert account.dropped == account.left_out == 0
    assert unpaced.judged + unpaced.left_out >= account.samples["keyframe"]
    assert min(account.readers, account.service, account.analysis) > 0
    assert cpu_seconds(FLOOR, made.path) > 0
    assert cpu_seconds(GRAB, made.path) > 0
    assert sum(chunk.is_keyframe for chunk in feed_of(made).chunks) == UNIT_SECONDS / 2
