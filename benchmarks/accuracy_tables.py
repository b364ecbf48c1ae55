"""The tables of docs/hashing.md from a report: `python -m benchmarks.accuracy_tables [REPORT] [--into FILE]`.

Without `--into` they are printed. What stands between the two marks of the file is replaced.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

BEGIN: Final = "<!-- made by: python -m benchmarks.accuracy_tables -->"
END: Final = "<!-- end of what is made -->"

_REPORT: Final = Path(__file__).resolve().parent / "results" / "accuracy.json"
_LISTS: Final = {
    "pictures 500": "500 pictures",
    "pictures 5,000": "5,000",
    "pictures 1M": "1M rows",
    "hashes 500": "500 hashes",
    "hashes 5,000": "5,000",
    "hashes 1M": "1M",
}
_WIDTH: Final = 120


def tables(report: Mapping[str, Any]) -> str:
    """What a full run found, as Markdown: recall by edit, videos, false matches.

    Raises:
        ValueError: The report is of a quick run, or of another benchmark.
    """
    if report.get("name") != "accuracy" or report.get("left_out"):
        raise ValueError("the tables are made of a full run: python -m benchmarks accuracy --json FILE")
    parts = {
        part: [row for row in report["results"] if row["part"] == part] for part in ("recall", "sequences", "false")
    }
    said = [_recall(parts["recall"]), _videos(parts["sequences"]), _false(parts["false"][0], report["settings"])]
    return "\n\n".join(said)


def put_into(text: str, made: str) -> str:
    """A page with what was made between its marks.

    Raises:
        ValueError: The marks are not there, once each.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the page lacks the line {BEGIN} or {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}"


def _recall(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["edit", "goal", "plain PDQ <= 31", *_LISTS.values()]
    lines = [_line(head), "|---|" + "--:|" * (len(head) - 1)]
    for row in rows:
        goal = _percent(row["goal"]) if row["goal"] else ""
        shares = [_percent(row["plain"]), *(_percent(row[f"{name} cut"]) for name in _LISTS)]
        lines.append(_line([row["edit"], goal, *shares]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(share: float) -> str:
    # Rounded down: 94.9 in 100 do not meet a goal of 95.
    return str(int(share * 100 + 1e-6))


def _videos(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| videos, ten seconds of each edit | recognised | of windows that count | not counted |",
        "|---|--:|--:|--:|",
    ]
    for row in rows:
        hits, asked = (row["real"][place] + row["made"][place] for place in (0, 1))
        if hits < asked:
            lines.append(_line([row["edit"], str(hits), str(asked), str(row["dark"])]))
    whole = [row for row in rows if row["real"][0] + row["made"][0] == row["real"][1] + row["made"][1]]
    if whole:
        counts = sorted(row["real"][1] + row["made"][1] for row in whole)
        dark = sorted(row["dark"] for row in whole)
        lines.append(_line([f"each of {len(whole)} other edits", "all", _span(counts), _span(dark)]))
    return "\n".join(lines)


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]}-{counts[-1]}"


def _false(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    asks = row["asks"]
    frames = sum(settings["benign_frames"].values())
    said = (
        f"Of {frames:,} benign frames, each in {row['edited_frames'] // max(frames, 1)} edits, held against a million "
        f"rows ({row['pairs']:.2g} pairs): {asks.get('cut', 0)} edited frames could cut, {asks.get('review', 0)} could "
        f"ask for a review and {asks.get('vote', 0)} vote."
    )
    return _wrapped(said)


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > _WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of a report, or put them into a page; 1 with a sentence where that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy_tables", description="Make tables of a report."
    )
    parser.add_argument("report", type=Path, nargs="?", default=_REPORT, help="what --json wrote (default: the last)")
    parser.add_argument("--into", type=Path, help="the page that has the marks, docs/hashing.md")
    chosen = parser.parse_args(arguments)
    try:
        made = tables(json.loads(chosen.report.read_text()))
        if chosen.into is None:
            print(made)
        else:
            chosen.into.write_text(put_into(chosen.into.read_text(), made))
    except (OSError, ValueError) as error:
        print(f"no tables: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
