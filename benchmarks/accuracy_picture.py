"""The pictures of the accuracy benchmark: what is found beside plain PDQ, and how near strangers come."""

import importlib.util
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np


def draw_recall(rows: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Draw recall by edit, for plain PDQ and lists of each kind; returns the name, or why there is none."""
    plt = _pyplot()
    if plt is None:
        return "none: matplotlib is not installed (make references)"
    lists = [key.removesuffix(" cut") for key in rows[0] if key.endswith(" cut")]
    series = [("plain PDQ, 31 bits", [row["plain"] for row in rows])]
    series += [(name, [row[f"{name} cut"] for row in rows]) for name in lists]
    figure, axes = plt.subplots(figsize=(8.5, 0.16 * len(rows) * len(series) + 1.5), layout="constrained")
    high = 0.86 / len(series)
    at = np.arange(len(rows))
    for place, (name, shares) in enumerate(series):
        colour = "0.75" if place == 0 else f"C{place - 1}"
        axes.barh(at + (place - len(series) / 2 + 0.5) * high, shares, high, label=name, color=colour)
    for place, row in enumerate(rows):
        if row["goal"]:
            axes.plot([row["goal"]] * 2, [place - 0.45, place + 0.45], color="black", linewidth=1.2)
    axes.set_yticks(at, [row["edit"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.01)
    axes.set_xlabel("share of copies on which one frame may cut; line: the floor for the shortest list of pictures")
    axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path.name


def draw_distances(counts: Sequence[int], pairs: int, nearest: Sequence[int], path: Path) -> str:
    """Draw how far strangers lie: all pairs beside independent fair bits, and the nearest row of each view."""
    plt = _pyplot()
    if plt is None:
        return "none: matplotlib is not installed (make references)"
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    at = np.arange(len(counts))
    chances = np.array([_fair(distance) for distance in at.tolist()])
    left.semilogy(at, np.maximum(np.cumsum(counts), 0.1) / max(pairs, 1), drawstyle="steps-post", label="measured")
    left.semilogy(at, np.cumsum(chances), "--", label="fair bits")
    left.axvline(31, color="black", linewidth=0.8)
    left.set_ylim(1e-13, 1)
    left.set_xlabel("distance in bits")
    left.set_ylabel("share of (view, row) pairs within it")
    left.legend(fontsize=8)
    right.hist(nearest, bins=range(40, 110, 2))
    right.set_xlabel("nearest of a million rows, in bits, for each view")
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path.name


def _fair(distance: int) -> float:
    return comb(256, distance) / 2**256


def _pyplot() -> Any:
    if importlib.util.find_spec("matplotlib") is None:
        return None
    import matplotlib as mpl  # noqa: PLC0415 - from an extra that only these pictures need

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of a backend without a screen

    return plt
