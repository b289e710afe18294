"""`vla train narrator`: first the language, from synthetic stories; then sight, from the simulator.

runs/narrator/
  language/     the run of the first stage, see training/trainer.py
  sightings/    what the simulated arm saw, with what is true; held-out/: the same, to measure on
  sight/        the run of the second stage, which keeps on with stories too
  checkpoint/   the narrator
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vla_ros.checkpoints import resolve
from vla_ros.models.narrator import Narrator, NarratorConfig, prefix_of
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.scene_language.stories import FORMS, Stories
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.narrator.rows import narration_row, pack, sight_row
from vla_ros.training.narrator.sightings import HORIZON, Sightings, collect
from vla_ros.training.trainer import Objective, PolicyTrainer, Settings, begin, setting_arguments

_HELD_OUT_BATCHES = 8
_HELD_OUT_GLANCES, _HELD_OUT_EPISODES = 1 / 30, 1 / 12  # of what is trained on
_WEIGHTS = {"said": 1.0, "seen": 1.0}


@dataclass(frozen=True)
class Recipe(Settings):
    """How the narrator is trained; the defaults are those of the shipped one. `frames` is unused:
    batches are `rows` of stories, and in the second stage as many of sights."""

    steps: int = 16000
    sight_steps: int = 8000
    rows: int = 16
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 1e-2
    save_every: int = 500
    size: str = "nano"
    context: int = 256
    form: str = "spatial"
    glances: int = 30_000
    episodes: int = 600
    encoder: str = "arm"  # the checkpoint whose vision encoder sees

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}: choose {', '.join(FORMS)}")
        if min(self.glances, self.episodes, self.sight_steps) < 0 or self.rows < 1:
            raise ValueError("glances, episodes and sight_steps are 0 or more, rows 1 or more")
        if self.sight_steps and self.form == "words":
            raise ValueError("what is seen is told in spatial tokens: give --sight-steps 0")
        if self.sight_steps and not self.glances + self.episodes:
            raise ValueError("nothing to be seen: give --glances, --episodes or --sight-steps 0")


Batch = dict[str, Tensor]


def train(recipe: Recipe, out: Path, *, tensorboard: bool = False) -> Path:
    """Train both stages, resuming whatever `out` holds; returns its folder checkpoint/.

    Raises:
        ValueError: a run there has other settings.
        FileNotFoundError: there is no such encoder.
    """
    seeing = VisionLanguageActionModel.from_pretrained(resolve(recipe.encoder))
    horizon = HORIZON * seeing.config.action.dt
    config = NarratorConfig.of(
        recipe.size, seeing.grid, seeing.encoder_id, horizon, context=recipe.context
    )
    last = _language(recipe, config, out / "language", tensorboard)
    if recipe.sight_steps:
        seen = collect(out / "sightings", seeing, recipe.glances, recipe.episodes, recipe.seed)
        glances = math.ceil(_HELD_OUT_GLANCES * recipe.glances)
        episodes = math.ceil(_HELD_OUT_EPISODES * recipe.episodes)
        held = collect(out / "held-out", seeing, glances, episodes, recipe.seed + 1)
        last = _sight(recipe, last, seen, held, out / "sight", tensorboard)
    target = out / "checkpoint"
    if not target.exists():
        with whole_folder(target) as partial:
            shutil.copytree(last, partial, dirs_exist_ok=True)
    return target


def _language(recipe: Recipe, config: NarratorConfig, out: Path, tensorboard: bool) -> Path:
    args = begin(recipe, out, vars(recipe) | {"stage": "language"})
    torch.manual_seed(recipe.seed)
    stories = Stories(recipe.seed, "train", recipe.form)
    held = Stories(recipe.seed, "held_out", recipe.form)
    trainer = PolicyTrainer(
        Objective(Narrator(config), losses, _WEIGHTS),
        recipe,
        args,
        lambda step, rank: said(stories, step, recipe.rows, recipe.context, rank),
        [said(held, i, recipe.rows, recipe.context) for i in range(_HELD_OUT_BATCHES)],
        tensorboard=tensorboard,
    )
    return trainer.fit()


def _sight(
    recipe: Recipe, start: Path, seen: Sightings, held: Sightings, out: Path, tensorboard: bool
) -> Path:
    second = Recipe(**{**vars(recipe), "steps": recipe.sight_steps})
    args = begin(second, out, vars(recipe) | {"stage": "sight"})
    model = Narrator.from_pretrained(start).train()
    stories = Stories(recipe.seed + 1, "train", recipe.form)

    def draw(step: int, rank: int) -> Batch:
        return batch(seen, stories, (recipe.seed, step, rank), recipe)

    measured = [batch(held, stories, (recipe.seed, i), recipe) for i in range(_HELD_OUT_BATCHES)]
    trainer = PolicyTrainer(
        Objective(model, losses, _WEIGHTS), second, args, draw, measured, tensorboard=tensorboard
    )
    return trainer.fit()


def said(stories: Stories, step: int, rows: int, context: int, rank: int = 0) -> Batch:
    """A batch of stories: "ids" int64 and "asked" bool, [B, T]."""
    first = (step + (rank << 32)) * rows
    ids, asked = stories.rows(first, rows, context)
    return {"ids": torch.from_numpy(ids).long(), "asked": torch.from_numpy(asked)}


def batch(sightings: Sightings, stories: Stories, seeds: tuple[int, ...], recipe: Recipe) -> Batch:
    """A batch of sights, "seen_ids", "seen_asked" and "prefix" [B, P, D], beside "ids" and "asked",
    of which half the rows are stories and half narrations of what the simulated arm did."""
    rng = np.random.default_rng([7, *seeds])
    wording = random.Random(int(rng.integers(1 << 32)))
    sights = [sightings[int(i)] for i in rng.integers(len(sightings), size=recipe.rows)]
    seen = [sight_row(sight) for sight in sights]
    longest = max(len(ids) for ids, _ in seen)
    seen_ids, seen_asked = pack([[row] for row in seen], longest)
    half = recipe.rows // 2
    told = said(stories, seeds[1], recipe.rows - half, recipe.context)
    rows: list[list] = [[] for _ in range(half)]
    for row in rows:
        used = 0
        while len(sightings.watched):
            sight = sightings[int(rng.choice(sightings.watched))]
            one = narration_row(sight, wording)
            used += len(one[0])
            if used > recipe.context:
                break
            row.append(one)
    ids, asked = pack(rows, recipe.context)
    tokens = torch.from_numpy(np.stack([sight.tokens for sight in sights]))
    return {
        "ids": torch.cat([told["ids"], ids]),
        "asked": torch.cat([told["asked"], asked]),
        "seen_ids": seen_ids,
        "seen_asked": seen_asked,
        "prefix": prefix_of(tokens),
    }


def losses(model: Narrator, batch: Batch) -> dict[str, Tensor]:
    """Losses of a batch, nats an id, by name."""
    found = {"said": model.language.loss(batch["ids"], batch["asked"])}
    found["seen"] = found["said"].new_zeros(())
    if "prefix" in batch:
        found["seen"] = model.language.loss(batch["seen_ids"], batch["seen_asked"], batch["prefix"])
    return found


# -- the command line ------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/narrator"), help="of the run")
    parser.add_argument("--tensorboard", action="store_true", help="write curves for it too")
    setting_arguments(parser, Recipe, without=["frames"])


def main(arguments: argparse.Namespace) -> None:
    told = {f.name: getattr(arguments, f.name) for f in fields(Recipe) if f.name != "frames"}
    folder = train(Recipe(**told), arguments.out, tensorboard=arguments.tensorboard)
    print(f"checkpoint written to {folder}")
