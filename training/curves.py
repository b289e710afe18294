"""The losses of a run: a table, and its curves as a picture."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HELD_OUT = "held_out"


def write_losses(history: Iterable[Mapping[str, Any]], names: Sequence[str], table: Path) -> None:
    """Write the Trainer's history as a table: a line a step, of the losses `names` and, where it
    was measured, the whole loss of held-out episodes."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        figures = {name: entry[name] for name in names if name in entry}
        if "eval_loss" in entry:
            figures[HELD_OUT] = entry["eval_loss"]
        if figures:
            row = rows.setdefault(entry["step"], {"step": entry["step"]})
            row.update({name: f"{value:.5f}" for name, value in figures.items()})
    partial = table.with_name(f".{table.name}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("step", *names, HELD_OUT))
        writer.writeheader()
        writer.writerows(row for _, row in sorted(rows.items()))
    os.replace(partial, table)


def plot_losses(table: Path, picture: Path) -> None:
    """Draw the table as curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(csv.DictReader(table.open()))
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for name in rows[0] if rows else ():
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        if name != "step" and points:
            style = {"linewidth": 1.6, "color": "black"} if name == HELD_OUT else {"linewidth": 0.8}
            axes.semilogy(*zip(*points, strict=True), label=name.replace("_", " "), **style)
    axes.set(xlabel="optimizer step", ylabel="loss")
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
