"""One page of plots of an evaluation: whatever of it there is, each in a panel of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_POLICY = "policy"


def check_kind(picture: Path) -> None:
    """Raises ValueError if matplotlib cannot write a file of that name."""
    from matplotlib.backend_bases import FigureCanvasBase

    if picture.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise ValueError(f"{picture} is no picture: give a name that ends in .png, .svg or .pdf")


def draw(figures: dict[str, Any], picture: Path) -> None:
    """Draw what `vla eval --json` wrote; the file appears whole or not at all.

    Args:
        figures: as the JSON file has them.
        picture: a file name that `check_kind` lets pass.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: list[Callable[[Any, dict[str, Any]], None]] = []
    if "success" in figures:
        panels += [_success, _seconds]
    if figures.get("actions"):
        panels.append(_actions)
    if figures.get("trajectory"):
        panels.append(_distances)
    if isinstance(figures.get("sentences"), dict):
        panels.append(_sentences)
    panels.append(_inference)
    if len(panels) % 2 and len(panels) > 1:
        names = [[2 * i, 2 * i + 1] for i in range(len(panels) // 2)] + [[len(panels) - 1] * 2]
    else:
        names = [[2 * i, 2 * i + 1] for i in range(len(panels) // 2)] or [[0]]
    many = len(figures.get("conditions", ()))
    heights = [3.0 if i or not many else 1.2 + 0.45 * many for i in range(len(names))]
    figure, axes = pyplot.subplot_mosaic(
        names, figsize=(11, sum(heights)), height_ratios=heights, layout="constrained"
    )
    for number, panel in enumerate(panels):
        panel(axes[number], figures)
    figure.suptitle(_title(figures), fontsize=10)
    picture.parent.mkdir(parents=True, exist_ok=True)
    partial = picture.with_name(f".partial.{picture.name}")
    try:
        figure.savefig(partial, dpi=120)
        os.replace(partial, picture)
    finally:
        pyplot.close(figure)
        partial.unlink(missing_ok=True)


def _title(figures: dict[str, Any]) -> str:
    where = ", ".join(figures["data"]) if "data" in figures else "the simulator"
    if figures["live"]:
        where = "the live nodes"
    words = f", goals as in {figures['phrasings']}" if figures.get("phrasings") else ""
    count = sum(figures["episodes"].values())
    return f"{figures['checkpoint']} in {where}: {count} episodes{words}"


def _scenarios(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return figures.get("conditions") or {figures["condition"]: figures}


def _by_family(axes: Any, figures: dict[str, Any], show: Callable[..., None]) -> None:
    """Rows of scenarios; `show` puts a family's marks at their places."""
    scenarios = _scenarios(figures)
    families = list(figures["success"])
    rows = np.arange(len(scenarios))
    for i, family in enumerate(families):
        place = rows + 0.7 * ((i + 0.5) / len(families) - 0.5)
        show(family, place, list(scenarios.values()))
    axes.set_yticks(rows, scenarios)
    axes.set_ylim(len(scenarios) - 0.5, -0.5)
    axes.grid(axis="y", color="0.93")


def _success(axes: Any, figures: dict[str, Any]) -> None:
    def show(family: str, place: np.ndarray, summaries: list[dict[str, Any]]) -> None:
        rates = 100 * np.array([s["success"][family] for s in summaries])
        bounds = 100 * np.array([s["intervals"][family] for s in summaries]).T
        spread = np.abs(bounds - rates)
        axes.errorbar(rates, place, xerr=spread, fmt="o", markersize=4, capsize=2, label=family)

    _by_family(axes, figures, show)
    axes.axvline(90, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlim=(-2, 102), xlabel="success, % (bars: 95 % intervals)")
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5)


def _seconds(axes: Any, figures: dict[str, Any]) -> None:
    def show(family: str, place: np.ndarray, summaries: list[dict[str, Any]]) -> None:
        seconds = [s["mean_seconds"][family] for s in summaries]
        seconds = [np.nan if value is None else value for value in seconds]
        axes.plot(seconds, place, "o", markersize=4)

    _by_family(axes, figures, show)
    axes.set_yticklabels([])  # those of the panel beside it
    axes.set(xlabel="mean time to success, simulated s")
    axes.set_xlim(left=0)


def _actions(axes: Any, figures: dict[str, Any]) -> None:
    actions = figures["actions"]
    drawn = []
    for who, ratio in actions["over_variance"].items():
        errors = [np.nan if value is None else value for value in ratio["by_place"]]
        drawn += errors
        places = np.arange(1, len(errors) + 1)
        weight = 2.0 if who == _POLICY else 1.0
        axes.plot(places, errors, "o-", markersize=4, linewidth=weight, label=who.replace("_", " "))
    axes.axhline(1.0, color="0.6", linewidth=1.0, linestyle="--", label="mean action")
    axes.set(xlabel="place in the chunk", ylabel="squared error over variance")
    axes.set_xticks(places)
    if np.nanmin([1.0, *drawn]) > 0.0:
        axes.set_yscale("log")
    axes.legend(fontsize=8)


def _distances(axes: Any, figures: dict[str, Any]) -> None:
    """Share of episodes at most so far off, by family where there are families."""
    trajectory = figures["trajectory"]
    groups: dict[str, list[float]] = {}
    for run in figures["runs"]:
        if "distance" in run:
            groups.setdefault(run.get("family", "all"), []).append(run["distance"])
    for name, values in groups.items():
        ordered = np.sort(values)
        shares = np.arange(1, len(ordered) + 1) / len(ordered)
        axes.step([0.0, *ordered], [0.0, *(100 * shares)], where="post", label=name)
    axes.set(
        xlabel=f"DTW distance a point, {trajectory['unit']} (episodes)", ylabel="at most so far, %"
    )
    axes.set_xlim(left=0)
    axes.set_ylim(0, 102)
    if len(groups) > 1:
        axes.legend(fontsize=8, loc="lower right")


def _sentences(axes: Any, figures: dict[str, Any]) -> None:
    groups = {name: value for name, value in figures["sentences"].items() if name != "compares"}
    scores = [name for name in groups["all"] if name != "frames"]
    places = np.arange(len(scores))
    for i, (group, values) in enumerate(groups.items()):
        shift = 0.8 * ((i + 0.5) / len(groups) - 0.5)
        color = "0.4" if group == "all" else f"C{i}"
        heights = [values[name] for name in scores]
        axes.bar(places + shift, heights, 0.8 / len(groups), label=group, color=color)
    axes.set_xticks(places, scores)
    axes.set(ylabel="sentences, of 100", ylim=(0, 102))
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6)


def _inference(axes: Any, figures: dict[str, Any]) -> None:
    shares = np.linspace(0, 100, 21)
    highest = 0.0
    for name, times in figures["inference_ms"].items():
        axes.plot(times["percentiles"], shares, label=f"{name}: median {times['median']:.2g} ms")
        highest = max(highest, times["p95"])
    axes.axhline(95, color="0.8", linewidth=0.8, zorder=0)
    axes.set(
        xlabel="ms of processor time an observation, one thread",
        ylabel="at most so long, %",
        xlim=(0, 1.3 * highest),  # the slowest step of all says little
        ylim=(0, 102),
    )
    axes.legend(fontsize=8, loc="lower right")
