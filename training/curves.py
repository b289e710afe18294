"""What is seen of a run: its losses as a table and as curves, and a line of progress."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_callback import ProgressCallback, TrainerCallback, TrainerState

HELD_OUT = "held_out"
TABLE = "losses.csv"


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


class Curves(TrainerCallback):
    """Keeps the table of the losses `names` in the folder `out`, and draws it at the end."""

    def __init__(self, out: Path, names: tuple[str, ...]) -> None:
        self._table, self._names = out / TABLE, names

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            write_losses(state.log_history, self._names, self._table)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            plot_losses(self._table, self._table.with_suffix(".png"))


class ProgressLine(ProgressCallback):
    """One line that is renewed, instead of one line a log."""

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any):
        if self.training_bar is not None:
            shown = {k: v for k, v in logs.items() if k not in ("epoch", "learning_rate")}
            self.training_bar.set_postfix(shown)
