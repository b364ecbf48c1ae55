"""The picture of the latency benchmark: where the time goes, cell by cell, and every single trial."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PARTS = (
    ("arrived_s", "encoder to reader, with the wait for the frame that is looked at"),
    ("decode_s", "decode"),
    ("score_s", "score"),
    ("queue_s", "decide"),
    ("alert_to_cut_s", "alert queued, on disk, connection closed"),
)


def draw_picture(rows: Sequence[dict[str, Any]], path: Path) -> str:
    """Draw one bar of medians per row, with its trials as dots, to `path`; returns its name, or why there is none."""
    if importlib.util.find_spec("matplotlib") is None:
        return "none: matplotlib is not installed (make references)"
    import matplotlib as mpl  # noqa: PLC0415 - from an extra that only this picture needs

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, and after the choice of a backend without a screen

    figure, axes = plt.subplots(figsize=(11, 0.5 * len(rows) + 1.8), layout="constrained")
    places = range(len(rows))
    starts = [0.0] * len(rows)
    for part, label in _PARTS:
        widths = [row[part]["p50"] if part in row else 0.0 for row in rows]
        axes.barh(places, widths, left=starts, height=0.6, label=label)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, row in zip(places, rows, strict=True):
        totals = row["totals_s"]
        axes.plot(totals, [place] * len(totals), ".", color="black", markersize=4, label="_")
        if "total_s" in row:
            axes.plot([row["total_s"]["p95"]], [place], "|", color="red", markersize=18, label="_" if place else "p95")
    axes.set_yticks(places, [row["cell"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds since the first bad frame left the encoder; bars: medians, dots: trials")
    axes.set_title("Bad frame leaves the encoder -> the publisher's connection is closed (nginx-rtmp, mosquitto)")
    figure.legend(loc="outside lower center", fontsize=8, ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path.name
