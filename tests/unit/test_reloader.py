"""A reload that breaks amid its work: what was in force is in force again, and the next one is as good as any."""

from pathlib import Path

from detector.config.config import Config
from detector.config_file import ConfigFile
from detector.metrics import Metrics
from detector.reloader import Reloader


class _Scene:
    """A service that cannot go by a config with `votes.k` of 2."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = Config()
        self.taken: list[int] = []
        path.write_text("keep: 30d\n")
        file = ConfigFile(path)
        file.read()
        self.reloader = Reloader(file, (), Metrics(), in_force=lambda: self.config, take=self._take)

    async def _take(self, config: Config) -> None:
        self.config = config
        self.taken.append(config.votes.k)
        if config.votes.k == 2:
            raise OSError("a part that is gone")


async def test_a_reload_that_breaks_is_undone_and_told(tmp_path: Path) -> None:
    """Half a config is in force nowhere, the report and health say what to do, and a mended file is taken up."""
    scene = _Scene(tmp_path / "stopframe.yaml")
    scene.path.write_text("votes: {k: 2}\n")

    report = await scene.reloader.reload()

    assert scene.taken == [2, 3]
    assert scene.config.votes.k == 3
    assert "fault of stopframe's; restart it" in report.faults[0]
    assert len(scene.reloader.notes()) == 1
    scene.path.write_text("votes: {k: 4}\n")
    assert (await scene.reloader.reload()).applied == ("votes.k",)
    assert scene.reloader.notes() == []
