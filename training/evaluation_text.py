"""The figures of an evaluation as lines of text."""

from __future__ import annotations

from typing import Any

import numpy as np


def table(summary: dict[str, Any], reference: dict[str, Any] | None = None) -> str:
    """The figures as lines of text; `reference` (another summary) adds a column to compare with."""
    head = f"{'family':<8}{'success':>9}{'95 % interval':>18}{'episodes':>10}{'mean time':>11}"
    lines = [head + (f"{'reference':>11}{'difference':>12}" if reference else "")]
    for family, rate in summary["success"].items():
        low, high = summary["intervals"][family]
        mean = summary["mean_seconds"][family]
        line = f"{family:<8}{rate:>8.1%} {f'{low:.1%} to {high:.1%}':>17}"
        line += f"{summary['episodes'][family]:>10}"
        line += f"{'-' if mean is None else f'{mean:.1f} s':>11}"
        other = (reference or {}).get("success", {}).get(family)
        if other is not None:
            line += f"{other:>10.1%} {100 * (rate - other):>+8.1f} pts"
        lines.append(line)
    for family, reasons in summary["failures"].items():
        lines += [f"  {family}: {count} x {reason}" for reason, count in reasons.items()]
    return "\n".join(lines)


def overview(summaries: dict[str, dict[str, Any]]) -> str:
    """One line of success rates for each scenario."""
    families = next(iter(summaries.values()))["success"]
    width = max(map(len, [*summaries, "condition"]))
    lines = [f"{'condition':<{width}}" + "".join(f"{family:>9}" for family in families)]
    for name, summary in summaries.items():
        rates = "".join(f"{rate:>9.1%}" for rate in summary["success"].values())
        lines.append(f"{name:<{width}}{rates}")
    return "\n".join(lines)


def comparison(figures: dict[str, Any]) -> str:
    """Actions, trajectories and sentences as lines of text."""
    lines = []
    if actions := figures["actions"]:
        mse, over = actions["mse"], actions["over_variance"]
        lines.append(f"actions: {actions['compares']}; {actions['frames']} frames")
        head = "".join(f"{name.replace('_', ' '):>14}" for name in mse)
        lines.append(f"  {'mean squared error':<24}{head}")
        for i, name in enumerate(actions["names"]):
            known = {who: [row[i] for row in m if row[i] is not None] for who, m in mse.items()}
            cells = "".join(f"{np.mean(values):>14.3g}" for values in known.values())
            lines.append(f"  {name:<24}{cells}")
        cells = "".join(f"{_shown(over[who]['all'] if who in over else 1.0):>14}" for who in mse)
        lines.append(f"  {'all, over the variance':<24}{cells}")
    if trajectory := figures["trajectory"]:
        every = trajectory["all"]
        lines.append(f"trajectory: {trajectory['compares']}; {trajectory['unit']}")
        lines.append(
            f"  DTW distance a point: median {every['median']:.3g}, 95 % below {every['p95']:.3g}; "
            f"median length {every['length']:.3g}"
        )
    if isinstance(sentences := figures["sentences"], dict):
        every = {name: value for name, value in sentences["all"].items() if name != "frames"}
        lines.append(f"sentences: {sentences['compares']}; {sentences['all']['frames']} frames")
        lines.append("  " + ", ".join(f"{name} {value:.1f}" for name, value in every.items()))
    elif sentences:
        lines.append(f"sentences: {sentences}")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
