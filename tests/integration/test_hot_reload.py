"""A config file that changes under a running service: what it says acts on running streams within a second."""

import asyncio
import time
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from detector.assembly import open_service
from detector.config_file import ConfigFile
from detector.enforcement import Enforcer
from detector.service import Service
from tests.fixtures_site import BASE, OTHERS, QUICK, class_rule, open_site
from tests.slack import SLACK_SECONDS

pytestmark = pytest.mark.integration


def _tell(what: str, since: float, until: float) -> None:
    print(f"{what}: {until - since:.3f} s after the file changed")  # noqa: T201 - the figure, with pytest -s


async def test_a_class_that_may_cut_from_now_on_cuts_who_is_live(tmp_path: Path) -> None:
    """Step review becomes cut: the stream that shows the card is cut, decided within a second of the change."""
    async with open_site(tmp_path, class_rule("review", 0.5)) as site, site.published("smptebars:60") as session:
        await site.until(lambda: session.judge.last_action == "review")
        changed_at = site.write(class_rule("cut", 0.5))
        acted_at = await site.until(lambda: session.judge.last_action == "cut")
        _tell("step review -> cut, decided", changed_at, acted_at)
        assert acted_at - changed_at <= 1.0 + SLACK_SECONDS
        await site.until(lambda: not site.service.supervisor.sessions)
        incidents = await site.service.incidents(5)
        assert incidents[0].action == "cut"


async def test_a_lowered_threshold_acts_within_a_second(tmp_path: Path) -> None:
    """A score that was too low a moment ago asks for a review now; the reader and its votes go on."""
    async with (
        open_site(tmp_path, class_rule("review", 0.9, OTHERS)) as site,
        site.published("smptebars:60") as session,
    ):
        judged = session.judge.judged
        await site.until(lambda: session.judge.judged > judged + 2)
        assert session.judge.last_action == ""
        pid = session.reader_pid
        changed_at = site.write(class_rule("review", 0.0, OTHERS))
        acted_at = await site.until(lambda: session.judge.last_action == "review")
        _tell("threshold 0.9 -> 0, decided", changed_at, acted_at)
        assert acted_at - changed_at <= 1.0 + SLACK_SECONDS
        assert (session.readers, session.reader_pid) == (1, pid)


async def test_sampling_reaches_a_running_reader(tmp_path: Path) -> None:
    """A shorter interval for some streams is taken up by the reader that runs, within a second."""
    slow = "sampling: {mode: full, interval: 5s, detect_within: 5s}\n"
    async with open_site(tmp_path, slow) as site, site.published("card:7:60") as session:
        judged = session.judge.judged
        override = 'streams: [{match: "live/key-*", sampling: {interval: 100ms}}]\n'
        changed_at = site.write(slow + override)
        told_at = await site.until(lambda: session.settings.job.sampling.interval_seconds == 0.1)
        acted_at = await site.until(lambda: session.judge.judged >= judged + 3)
        _tell("interval 5s -> 100ms, told", changed_at, told_at)
        _tell("interval 5s -> 100ms, three frames judged", changed_at, acted_at)
        assert told_at - changed_at <= 1.0 + SLACK_SECONDS
        assert acted_at - changed_at <= 2.0 + SLACK_SECONDS
        assert session.readers == 1


async def test_a_reader_whose_job_changes_is_replaced_and_the_session_goes_on(tmp_path: Path) -> None:
    """Limits of the cage take another reader; votes, account and incident stay."""
    async with open_site(tmp_path, QUICK) as site, site.published("card:7:60") as session:
        site.write(QUICK + "reader: {ring_limit: 8MiB}\n")
        await site.until(lambda: session.readers == 2 and session.settings.job.ring_limit_bytes == 8 << 20)
        judged = session.judge.judged
        await site.until(lambda: session.judge.judged > judged)
        assert session is site.session


async def test_sources_come_and_go_and_the_others_go_on(tmp_path: Path) -> None:
    """Only the sessions of sources that were added, removed or changed begin or end."""
    both = "sources: [{name: one, url: 'http://127.0.0.1:9/a.ts'}, {name: two, url: 'http://127.0.0.1:9/b.ts'}]\n"
    moved = "sources: [{name: three, url: 'http://127.0.0.1:9/c.ts'}, {name: two, url: 'http://127.0.0.1:9/b.ts'}]\n"
    changed = "sources: [{name: two, url: 'http://127.0.0.1:9/other.ts'}]\n"
    async with open_site(tmp_path, both) as site:
        sessions = site.service.supervisor.sessions

        def names() -> set[str]:
            return {session.key.name for session in sessions.values()}

        await site.until(lambda: names() == {"one", "two"})
        two = next(session for session in sessions.values() if session.key.name == "two")
        begun_at = site.write(moved)
        done_at = await site.until(lambda: names() == {"two", "three"})
        assert done_at - begun_at <= 1.0 + SLACK_SECONDS
        assert two in sessions.values()
        site.write(changed)
        await site.until(lambda: names() == {"two"} and two not in sessions.values())
        await site.until(lambda: not site.service.supervisor.leaving)


async def test_a_broken_file_changes_nothing_and_is_told_once(tmp_path: Path) -> None:
    """The last good config stays in force, health notes the line and stays green, one log line each change."""
    good = class_rule("review", 0.5)
    async with open_site(tmp_path, good) as site:
        service = site.service
        before, problems = service.config, service.health().problems
        with capture_logs() as logs:
            site.write("clases: {}\nsampling: {interval: fast}\n")
            await site.until(lambda: any("config file has a fault" in note for note in service.health().notes))
            await asyncio.sleep(1.0)
        told = [entry for entry in logs if entry["event"] == "config.refused"]
        assert len(told) == 1
        assert (told[0]["count"], told[0]["fault"].split(":")[1]) == (2, "8")
        assert service.config is before
        assert service.health().problems == problems
        note = next(note for note in service.health().notes if "config file" in note)
        assert "line 8 at clases and 1 more" in note
        assert "stopframe_config_last_reload_successful 0.0" in service.metrics.expose()[0].decode()
        site.write(good)
        await site.until(lambda: not any("config file" in note for note in service.health().notes))
        assert "stopframe_config_last_reload_successful 1.0" in service.metrics.expose()[0].decode()


async def test_what_needs_a_restart_waits_and_the_rest_holds(tmp_path: Path) -> None:
    """Old values stay where only a start can change them; health names them until the file says otherwise."""
    async with open_site(tmp_path, "") as site:
        service = site.service
        site.path.write_text(BASE.replace("workers: 1", "workers: 2") + "node: other\n")
        report = await service.reload(str(site.path))
        assert (report.applied, report.waiting, report.faults) == ((), ("node", "analysis.workers"), ())
        site.path.write_text(BASE.replace("workers: 1", "workers: 2, deadline: 3s") + "node: other\n")
        report = await service.reload(None)
        assert (report.applied, report.waiting) == (("analysis.deadline",), ("node", "analysis.workers"))
        assert (service.config.analysis.workers, service.config.analysis.deadline.seconds) == (1, 3.0)
        assert any("node, analysis.workers, which takes a restart" in note for note in service.health().notes)
        site.write("")
        await site.until(lambda: not any("takes a restart" in note for note in service.health().notes))


async def test_every_part_goes_by_what_a_start_would_give_it(tmp_path: Path) -> None:
    """After a reload the parts hold the settings that they hold after a start with the same file."""
    after = """
banks: {A: {step: cut, max_distance: 12}}
enforcement: {live: true, deadline: 7s, breaker: {cuts: 9, share: 5%, window: 30s}}
reader: {max_pixels: 100000}
"""
    text = BASE.replace("workers: 1", "workers: 1, queue: 9, model_timeout: 3s").replace(
        "alerts: {", "alerts: {expire_after: 1h, coverage_every: 3s, retain_ended: 2h, "
    )

    async def held(service: Service) -> dict[str, object]:
        responder, pool = service.responder, service.pool
        enforcer: Enforcer = service._enforcer
        return {
            "pool": pool._settings.queue_limit,
            "limits": pool._settings.setup.bank_limits,
            "timeout": pool._settings.model_timeout_seconds,
            "response": responder._settings,
            "breaker": responder._breaker._settings,
            "enforcer": enforcer._settings,
            "pace": enforcer._watch.pace,
            "retained": service._sink._settings.retain_ended_seconds,
        }

    path = tmp_path / "stopframe.yaml"
    async with open_site(tmp_path, "") as site:
        path.write_text(text + after)
        report = await site.service.reload()
        assert not report.faults
        assert not report.waiting
        reloaded = await held(site.service)
    file = ConfigFile(path)
    config = file.read().config
    assert config is not None
    async with open_service(config, file) as service:
        assert await held(service) == reloaded


async def test_a_hundred_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    """Tasks, descriptors and processes are as many as before, with a live stream and sources that come and go."""
    odd = QUICK + "sources: [{name: one, url: 'http://127.0.0.1:9/a.ts'}]\nreader: {ring_limit: 8MiB}\n"
    even = QUICK + "classes: {standin-cards/smptebars: {step: cut}}\n"

    def count() -> tuple[int, int, int]:
        me = psutil.Process()
        return len(asyncio.all_tasks()), me.num_fds(), len(me.children(recursive=True))

    async with open_site(tmp_path, even) as site, site.published("card:7:110") as session:
        await site.until(lambda: session.judge.judged > 2)
        before = count()
        for number in range(100):
            site.path.write_text(BASE + (even if number % 2 else odd))
            report = await site.service.reload()
            assert report.applied
            assert not report.faults
        deadline = time.monotonic() + 60
        while count() > before or session.state != "live":
            assert time.monotonic() < deadline, (before, count(), sorted(t.get_name() for t in asyncio.all_tasks()))
            await asyncio.sleep(0.2)
        assert session is site.session
        assert session.settings.job.ring_limit_bytes == 16 << 20
