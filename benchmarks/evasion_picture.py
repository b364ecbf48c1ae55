"""The picture of the evasion benchmark: how much of what a knowing streamer hides is found by when, beside the plan."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.evasion_cells import CURVE_STEP_SECONDS, HORIZONS_SECONDS, as_shipped
from detector.cpu.planning import chance_between_keyframes


def draw_picture(rows: Sequence[dict[str, Any]], path: Path) -> str:
    """Draw one panel for each GOP length and burst share to `path`; returns its name, or why there is none.

    Lines are what `detector.cpu.planning` works out where no size shows anything, dots what was measured.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return "none: matplotlib is not installed (make references)"
    import matplotlib as mpl  # noqa: PLC0415 - from an extra that only this picture needs

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, and after the choice of a backend without a screen

    gops = sorted({row["gop_s"] for row in rows})
    shares = sorted({row["bursts"] for row in rows})
    size = (4.2 * len(gops), 3.2 * len(shares) + 0.8)
    figure, panels = plt.subplots(len(shares), len(gops), figsize=size, layout="constrained", squeeze=False)
    seconds = [step / 2 for step in range(round(2 * HORIZONS_SECONDS[-1]) + 1)]
    for line, share in zip(panels, shares, strict=True):
        for axes, gop in zip(line, gops, strict=True):
            axes.plot(seconds, planned_curve(gop, share, seconds), color="black", label="planned, sizes show nothing")
            for marker, row in zip(
                "ox^v", (one for one in rows if (one["gop_s"], one["bursts"]) == (gop, share)), strict=False
            ):
                at = [CURVE_STEP_SECONDS * step for step in range(len(row["curve"]))]
                axes.plot(at, row["curve"], marker, markersize=4, alpha=0.7, label=row["attack"])
            axes.set_title(f"GOP {gop:g} s, bursts {share:.0%}", fontsize=9)
            axes.set_ylim(-0.03, 1.03)
            axes.set_xlabel("seconds since it appeared", fontsize=8)
    panels[0][0].set_ylabel("share of runs in which it was found", fontsize=8)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=8, ncols=3)
    figure.suptitle("Hidden between keyframes by a streamer who knows the code", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path.name


def planned_curve(gop_seconds: float, share: float, seconds: Sequence[float]) -> list[float]:
    """Return the planned chance to have found it after each of `seconds`, where no size shows anything."""
    settings = replace(as_shipped(), burst_share=share)
    return [chance_between_keyframes(settings, gop_seconds, within, sizes_show=0.0) for within in seconds]
