"""One page of plots of an evaluation: success with intervals, time to success, inference time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def plot_success(
    summaries: dict[str, dict[str, Any]], inference_ms: dict[str, dict[str, float]], picture: Path
) -> None:
    """Draw the summaries of `evaluation.summarize`, by scenario, and `inference_times`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    families = list(next(iter(summaries.values()))["success"])
    rows = np.arange(len(summaries))
    figure, axes = pyplot.subplot_mosaic(
        [["success", "seconds"], ["inference", "inference"]],
        figsize=(11, 3 + 0.5 * len(summaries)),
        height_ratios=[max(len(summaries), 2), 1.2],
        layout="constrained",
    )
    for i, family in enumerate(families):
        place = rows + 0.7 * ((i + 0.5) / len(families) - 0.5)
        rates = 100 * np.array([s["success"][family] for s in summaries.values()])
        bounds = 100 * np.array([s["intervals"][family] for s in summaries.values()]).T
        spread = np.abs(bounds - rates)
        axes["success"].errorbar(
            rates, place, xerr=spread, fmt="o", markersize=4, capsize=2, label=family
        )
        seconds = [s["mean_seconds"][family] for s in summaries.values()]
        seconds = [np.nan if value is None else value for value in seconds]
        axes["seconds"].plot(seconds, place, "o", markersize=4)
    axes["success"].axvline(90, color="0.8", linewidth=0.8, zorder=0)
    axes["success"].set(xlim=(-2, 102), xlabel="success, % (bars: 95 % intervals)")
    figure.legend(*axes["success"].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    axes["seconds"].set(xlabel="mean time to success, simulated s")
    axes["seconds"].set_xlim(left=0)
    for name in ("success", "seconds"):
        axes[name].set_yticks(rows, summaries)
        axes[name].set_ylim(len(summaries) - 0.5, -0.5)
        axes[name].grid(axis="y", color="0.93")
    names = list(inference_ms)
    medians, tails = ([inference_ms[name][key] for name in names] for key in ("median", "p95"))
    axes["inference"].barh(names, tails, color="0.85", label="95 % are below")
    axes["inference"].barh(names, medians, height=0.5, label="median")
    axes["inference"].invert_yaxis()
    axes["inference"].set(xlabel="ms of processor time for one observation, one thread")
    axes["inference"].legend(fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
