"""What a training of scenes leaves to be looked at.

scenes_epoch_N.png        the same texts after every epoch: their scenes, and what is read there
training_curves.png       every loss
sample_generations.png    texts that were not trained on, at the end
training_summary.txt      what was trained, what it came to, and how well it reads itself
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback, TrainerState

from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.training.curves import HELD_OUT, TABLE
from vla_ros.training.genie_sheets import save
from vla_ros.training.metrics import auroc
from vla_ros.training.recipes import ScenesRecipe as Recipe
from vla_ros.training.scenes.imagine import card_of
from vla_ros.training.scenes.measures import Agreement, decoded, read, scenes_of, tally
from vla_ros.training.scenes.narrations import narrations, similarities
from vla_ros.training.scenes.sheets import sheet
from vla_ros.training.scenes.texts import SPLITS, Texts

# Of every kind of relation one, and both kinds of movement that take a thing along.
FIXED = (
    "a red cube left of the bowl",
    "there is a green cylinder behind the blue cube",
    "the orange ring is on the pad",
    "the black sphere is in the bowl",
    "there is a pink cone near the gray cube . the gray cube is right of the purple ring",
    "the blue sphere is between the red ring and the green cube",
    "the gripper is pushing the red cube left",
    "the gripper is carrying the purple cylinder right toward the bowl",
)
_SEED = 6_000_000  # of texts that training does not draw
_PANELS = 4  # curves side by side
_MEASURED = 400  # texts of either split at most
_SAMPLES = 12
_UNUSED = ("steps", "frames")  # epochs, num_samples and batch_size tell those


class Watch(TrainerCallback):
    """Writes the fixed texts' scenes, and the curves, into the folder `out` after every epoch."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self._out = out
        per_epoch = recipe.num_samples / recipe.batch_size
        self._ends = {max(int(n * per_epoch), 1): n for n in range(1, recipe.epochs + 1)}

    def on_step_end(
        self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any
    ) -> None:
        epoch = self._ends.get(state.global_step)
        if epoch is None or not state.is_world_process_zero:
            return
        scenes: CycleScenes = model.policy
        training = scenes.training
        path = self._out / f"scenes_epoch_{epoch}.png"
        write_scenes(scenes.eval(), FIXED, path)
        scenes.train(training)
        if (self._out / TABLE).exists():
            draw_curves(self._out / TABLE, self._out / "training_curves.png")


def sampled(count: int) -> list[str]:
    """Texts that training did not draw, half of them of held-out compositions."""
    texts = [Texts(_SEED, split) for split in SPLITS]
    return [" ".join(texts[i % len(texts)][i].words) for i in range(count)]


def write_scenes(model: CycleScenes, texts: Sequence[str], path: Path, seed: int = 0) -> None:
    """Write the scenes of texts as a PNG, each with its caption and its score; text i is drawn by
    seed + i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save(sheet([card_of(model, text, seed + i) for i, text in enumerate(texts)]), path)


def draw_curves(table: Path, path: Path) -> None:
    """Write every loss of a run's table as a curve of its own, the held-out one among them."""
    from matplotlib.figure import Figure

    with table.open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if name != "step"]
    lines = -(-max(len(names), 1) // _PANELS)
    figure = Figure(figsize=(3.2 * _PANELS, 2.2 * lines), dpi=100, layout="constrained")
    axes = figure.subplots(lines, _PANELS, squeeze=False)
    for panel, name in zip(axes.flat, names, strict=False):
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        if points:
            steps, values = zip(*points, strict=True)
            color = "black" if name == HELD_OUT else "tab:blue"
            panel.plot(steps, values, linewidth=1, color=color)
            panel.set_ylim(bottom=min(0.0, *values))
        panel.set_title("all losses, held out" if name == HELD_OUT else name, fontsize=10)
        panel.tick_params(labelsize=8)
    for panel in list(axes.flat)[len(names) :]:
        panel.axis("off")
    _save(figure, path)


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.png")
    figure.savefig(partial, format="png")
    os.replace(partial, path)


def conclude(out: Path, recipe: Recipe, model: CycleScenes) -> None:
    """Write what is to be seen at the end of a run into its folder."""
    model.eval()
    draw_curves(out / TABLE, out / "training_curves.png")
    write_scenes(model, sampled(_SAMPLES), out / "sample_generations.png")
    partial = out / ".training_summary.txt.partial"
    partial.write_text(summary(out, recipe, model))
    os.replace(partial, out / "training_summary.txt")


def summary(out: Path, recipe: Recipe, model: CycleScenes) -> str:
    """What was trained, what its losses came to, and how well it reads itself."""
    settings = "\n".join(
        f"    {name} {value}" for name, value in sorted(vars(recipe).items()) if name not in _UNUSED
    )
    with (out / TABLE).open() as file:
        rows = list(csv.DictReader(file))
    held = [(float(row[HELD_OUT]), int(row["step"])) for row in rows if row[HELD_OUT]]
    last = [row for row in rows if any(row[name] for name in recipe.weights)][-1:]
    losses = [f"    {name} {row[name]}" for row in last for name in recipe.weights if row[name]]
    if held:
        best, step = min(held)
        losses.append(f"    all, held out {held[-1][0]:.3f}; best {best:.3f} at step {step}")
    count = min(_MEASURED, recipe.num_samples)
    measured = []
    for split in SPLITS:
        drawn = Texts(_SEED, split)
        texts = [drawn[i] for i in range(count)]
        pictures = read(model.captioner, scenes_of(decoded(model, texts)))
        found = Agreement.of(tally(texts, pictures))
        shares = ", ".join(f"{name} {value:.1%}" for name, value in vars(found).items())
        measured.append(f"    {count} texts, {split.replace('_', ' ')}: {shares}")
    told = narrations(count, _SEED)
    scenes = [one.picture for one in told]
    true, false = (
        similarities(model, [getattr(one, name) for one in told], scenes)
        for name in ("true", "false")
    )
    measured.append(f"    score of true narrations above wrong ones: {auroc(true, false):.1%}")
    parameters = sum(p.numel() for p in model.parameters())
    return "\n".join(
        [
            f"text -> scene -> text: {parameters} parameters, {recipe.total} steps of "
            f"{recipe.batch_size} texts",
            "settings", settings, "losses at the end", *losses,
            "read in its own scenes, word by word and without the text", *measured, "",
        ]
    )  # fmt: skip
