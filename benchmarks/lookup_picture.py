"""The picture of the look-up benchmark: cost by length of list, and what soft look-ups meet."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.lookup_soft import BANDS, BATCHES, COPIES_MET


def draw_picture(results: Sequence[dict[str, Any]], path: Path) -> str:
    """Draw three panels to `path`; returns its name, or why there is none."""
    if importlib.util.find_spec("matplotlib") is None:
        return "none: matplotlib is not installed (make references)"
    import matplotlib as mpl  # noqa: PLC0415 - from an extra that only this picture needs

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, and after the choice of a backend without a screen

    figure, (exact, soft, met) = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    for method in dict.fromkeys(result["method"] for result in results if "cpu_us" in result):
        rows = [result for result in results if result["method"] == method]
        exact.loglog([row["rows"] for row in rows], [row["cpu_us"] for row in rows], "o-", label=method)
    exact.set(title="One exact look-up, radius 31", xlabel="rows", ylabel="CPU time, us")
    exact.legend(fontsize=8)
    for batch in BATCHES:
        rows = [result for result in results if result["method"] == f"stopframe soft, {batch} at once"]
        soft.semilogx([row["rows"] for row in rows], [row["cpu_us_per_view"] for row in rows], "o-", label=f"{batch}")
    soft.set(title="One view of a soft look-up, by views at once", xlabel="rows", ylabel="CPU time, us", ylim=(0, None))
    soft.legend(fontsize=8)
    bands = [f"{low}-{high}" for low, high in BANDS]
    for result in results:
        if result["method"] == COPIES_MET:
            met.plot(bands, [result["met_ratio"][band] * 100 for band in bands], "o-", label=f"{result['rows']:,} rows")
    met.set(title="Edited copies met by soft look-ups", xlabel="distance, bits", ylabel="%", ylim=(0, 103))
    met.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path.name
