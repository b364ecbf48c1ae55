"""What `stopframe top` shows, from made-up rows."""

import io

import pytest
from rich.console import Console

from detector.api.view import Health, HintRow, StreamRow
from detector.cli.top import Order, cells, looked_at, ordered, screen, totals


def row(name: str, **more: object) -> StreamRow:
    """A stream that is seen all the time."""
    facts: dict[str, object] = {
        "stream_id": f"{name:a<26}",
        "path": f"live/{name}",
        "state": "watching",
        "since": "2026-01-01T00:00:00.000Z",
        "codec": "h264",
        "width": 1920,
        "height": 1080,
        "sampling": "auto",
        "last_sample_age_seconds": 0.5,
        "seen_seconds": 90.0,
        "skipped_seconds": 8.0,
        "blind_seconds": 2.0,
        "cpu_seconds": 3.0,
        "decision": None,
    }
    return StreamRow(**{**facts, **more})  # type: ignore[arg-type]


HEALTH = Health(ok=True, load={"readers": 1.0, "analysis": 0.5, "service": 0.1, "budget": 1.6, "waiting": 3.0})


def test_totals_are_two_lines() -> None:
    """Cores in use and streams that get less than they should stand above all rows, and where problems are named."""
    first, second = totals(HEALTH, [row("a", ration="slowed", slowed_to_seconds=6.0), row("b")])

    assert first == "2 streams, ok"
    assert second == "cores 1.60 of 1.60; slowed 1, refused 0; frames waiting 3, dropped 0"
    assert "1 problem ('stopframe health'" in totals(Health(ok=False, problems=("a",)), [])[0]


def test_rows_come_in_the_order_asked_for() -> None:
    """The dearest, the longest unseen, the riskiest or the first by name stands first."""
    rows = [row("b", reader_cores=0.1), row("c", max_gap_seconds=9.0, risk="low"), row("a"), row("d", risk="high")]

    assert [ordered(rows, sort)[0].path for sort in (Order.CPU, Order.GAP, Order.RISK, Order.NAME)] == [
        "live/b",
        "live/c",
        "live/d",
        "live/a",
    ]


def test_word_for_how_a_stream_is_looked_at() -> None:
    """The strongest thing that is true stands there."""
    hint = HintRow("chat", "report", 0.9, 5.0, is_looked_at=True)

    assert looked_at(row("a")) == "auto"
    assert looked_at(row("a", hints=(hint,))) == "closer"
    assert looked_at(row("a", ration="slowed", slowed_to_seconds=6.0)) == "slowed 6.0s"
    assert looked_at(row("a", ration="bursts_reduced")) == "bursts reduced"


def test_hostile_names_move_no_cursor() -> None:
    """Escapes, bidi marks and endless names are shown as harmless text of some length."""
    shown = cells(row("a", path="live/\x1b[2J\u202e" + "x" * 500, codec="h\x07"), None)

    assert all(text is None or text.isprintable() for text in shown)
    assert max(len(text or "") for text in shown) < 40


def test_screen_fits_the_terminal() -> None:
    """On 80 columns and 10 lines no more is drawn than there is room for, and the rest is counted."""
    output = io.StringIO()
    console = Console(file=output, width=80, height=10)
    console.print(screen(HEALTH, [row(f"s{number}") for number in range(40)], None, (80, 10)))
    lines = output.getvalue().splitlines()

    assert len(lines) <= 10
    assert max(map(len, lines)) <= 80
    assert "34 more" in lines[-1]


@pytest.mark.parametrize("columns", [60, 80, 100, 130, 200])
def test_no_figure_is_cut_short(columns: int) -> None:
    """Where room is short whole columns go, the least useful first: 16.0 that reads 1... would be another number."""
    slowed = {"ration": "slowed", "slowed_to_seconds": 10.0, "gop_seconds": 16.0, "max_gap_seconds": 10.0}
    rows = [row(f"a-long-name-{number}", risk="normal", reader_cores=0.123, **slowed) for number in range(5)]
    output = io.StringIO()
    Console(file=output, width=columns, height=24).print(screen(HEALTH, rows, {}, (columns, 24)))
    text = output.getvalue()

    assert max(map(len, text.splitlines())) <= columns
    assert "\u2026" not in text
    for figure in ("a-long", "slowed 10.0s", "90/8/2", "0.123"):
        assert text.count(figure) >= len(rows)


def test_a_refused_stream_has_no_bursts() -> None:
    """What nobody looks at is looked at by no share."""
    assert "5%" not in cells(row("a", ration="refused", burst_share=0.05), None)
