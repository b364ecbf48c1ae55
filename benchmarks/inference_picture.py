"""The picture of the inference benchmark: what a frame costs by model and way, and what a stream costs by part."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.throughput_picture import PARTS


def draw_picture(results: Sequence[dict[str, Any]], path: Path) -> str:
    """Draw two panels to `path`; returns its name, or why there is none."""
    if importlib.util.find_spec("matplotlib") is None:
        return "none: matplotlib is not installed (make references)"
    import matplotlib as mpl  # noqa: PLC0415 - from an extra that only this picture needs

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, and after the choice of a backend without a screen

    ways = [row for row in results if "cpu_ms" in row]
    streams = [row for row in results if "cpu_ms_per_s" in row]
    size = (13, 0.32 * max(len(ways), len(streams), 6) + 1.6)
    figure, (frames, whole) = plt.subplots(1, 2, figsize=size, layout="constrained")
    colours = {way: f"C{place}" for place, way in enumerate(dict.fromkeys(row["way"] for row in ways))}
    places = range(len(ways))
    frames.barh(places, [row["cpu_ms"] for row in ways], color=[colours[row["way"]] for row in ways])
    frames.set_yticks(places, [f"{row['model']}: {row['way']}" for row in ways], fontsize=8)
    frames.set(title="CPU milliseconds of a frame", xscale="log")
    frames.invert_yaxis()
    starts = [0.0] * len(streams)
    for part in PARTS:
        widths = [row[part] for row in streams]
        whole.barh(range(len(streams)), widths, left=starts, label=part)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    whole.set_yticks(range(len(streams)), [row["way"] for row in streams], fontsize=8)
    whole.set(title="CPU ms for each second of 1080p30, opennsfw on every sample")
    whole.invert_yaxis()
    if streams:
        whole.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path.name
