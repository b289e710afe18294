"""Pictures and figures of a world model's parts while they train."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from transformers.trainer_callback import TrainerCallback, TrainerState

_SCALE = 2  # screen pixels of a pixel
_LABEL = 96  # pixels

Look = tuple[Sequence[tuple[str, Tensor]], dict[str, float]]


class Watch(TrainerCallback):
    """After each measurement writes the figures and a grid of pictures.

    Leaves in `out`: figures.csv, a line a measurement; pictures/step-N.png.

    Args:
        out: folder of the run.
        look: takes the model; returns labelled rows of frames, see `write_grid`, and figures
            beside those that were measured.
    """

    def __init__(self, out: Path, look: Callable[[nn.Module], Look]) -> None:
        self._out, self._look = out, look

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: Any,
        model: Any = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        with torch.no_grad():
            rows, more = self._look(model.policy)
        history = [entry for entry in state.log_history if "eval_loss" in entry]
        history[-1].update({f"eval_{name}": value for name, value in more.items()})
        write_figures(self._out / "figures.csv", history)
        write_grid(self._out / "pictures" / f"step-{state.global_step:06d}.png", rows)


def write_figures(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Write the Trainer's held-out figures, one line a step."""
    names = ["step", *(n for n in history[-1] if n.startswith("eval_"))]
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(name.removeprefix("eval_") for name in names)
        for entry in history:
            writer.writerow(f"{entry.get(name, float('nan')):.6g}" for name in names)
    os.replace(partial, path)


def write_grid(path: Path, rows: Sequence[tuple[str, Tensor]]) -> None:
    """Write rows of frames (floats [T, 3, S, S] from 0 to 1), each with its label, as a PNG."""
    longest = max(len(frames) for _, frames in rows)
    lines = []
    for label, frames in rows:
        shown = (frames.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        pictures = [np.kron(f, np.ones((_SCALE, _SCALE, 1), np.uint8)) for f in shown.cpu().numpy()]
        pictures += [np.zeros_like(pictures[0])] * (longest - len(pictures))
        name = np.full((len(pictures[0]), _LABEL, 3), 255, np.uint8)
        place = (3, len(name) // 2)
        cv2.putText(name, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
        lines.append(np.concatenate([name, *pictures], axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.png")
    if not cv2.imwrite(str(partial), np.concatenate(lines)[..., ::-1]):
        raise OSError(f"could not write {path}")
    os.replace(partial, path)
