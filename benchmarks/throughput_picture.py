"""The picture of a result set: CPU milliseconds for each second of a stream, by mode, beside the references."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

PARTS: Final = ("readers", "service", "analysis")


def bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is drawn: rows with `cpu_ms_per_s`, each with the `label` that says which one it is."""
    drawn = []
    for row in report["results"]:
        if "cpu_ms_per_s" in row:
            label = f"{row['clip']}: {row['way']}" if "way" in row else f"{row['streams']} streams"
            drawn.append({**row, "label": label})
    return drawn


def draw_costs(report: dict[str, Any], path: Path) -> str:
    """Draw one bar per row, ours split by part, to `path`; returns its name, or why there is none."""
    if importlib.util.find_spec("matplotlib") is None:
        return "none: matplotlib is not installed (make references)"
    rows = bars(report)
    if not rows:
        return "none: nothing was measured"
    _draw(report["name"], rows, path)
    return path.name


def _draw(name: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - from an extra that only pictures need

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, and after the choice of a backend without a screen

    dearest = max(row["cpu_ms_per_s"] for row in rows)
    limits = [dearest] if name != "throughput" else [dearest, 4 * min(row["cpu_ms_per_s"] for row in rows)]
    size = (12, 0.3 * len(rows) + 1.8)
    figure, panels = plt.subplots(1, len(limits), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, limit in zip(panels[0], limits, strict=True):
        _fill(axes, rows, limit * 1.12)
    panels[0][0].set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=8)
    panels[0][0].invert_yaxis()
    figure.suptitle(
        f"{name}: CPU milliseconds for each second of one stream" + ", all and enlarged" * (len(limits) > 1)
    )
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _fill(axes: Any, rows: Sequence[dict[str, Any]], limit: float) -> None:
    places = range(len(rows))
    starts = [0.0] * len(rows)
    for part in PARTS:
        widths = [row.get(part, 0.0) for row in rows]
        axes.barh(places, widths, left=starts, height=0.7, label=part)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    rest = [0.0 if "readers" in row else row["cpu_ms_per_s"] for row in rows]
    if any(rest):
        axes.barh(places, rest, height=0.7, color="grey", label="reference")
    for place, row in zip(places, rows, strict=True):
        axes.text(min(row["cpu_ms_per_s"], limit * 0.9), place, f" {row['cpu_ms_per_s']:.1f}", va="center", fontsize=8)
    axes.set_xlim(0, limit)
