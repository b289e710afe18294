"""`vla train narrator`: language from synthetic stories, an eye and sight from the simulator.

runs/narrator/
  language/     the run of the first stage, see training/trainer.py
  sightings/    what the simulated arm saw, with what is true; held-out/: the same, to measure on
  eye/          the run of the second stage: the eye finds things
  sight/        the run of the third: it reads scenes off what the eye, which stays as it is, makes
                of pictures, and keeps on with stories
  checkpoint/   the narrator
"""

from __future__ import annotations

import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from vla_ros.models.narrator import Narrator, NarratorConfig, prefix_of
from vla_ros.models.svl import fourier
from vla_ros.models.svl_config import EYE
from vla_ros.scene_language.scenes import BINS
from vla_ros.scene_language.stories import Stories
from vla_ros.sim.truth import AHEAD
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.narrator.eye import WEIGHTS as FINDING
from vla_ros.training.narrator.eye import Finder, FinderConfig, on_table
from vla_ros.training.narrator.eye import batch as shown
from vla_ros.training.narrator.eye import losses as finding
from vla_ros.training.narrator.rows import narration_row, pack, sight_row
from vla_ros.training.narrator.sightings import Cameras, Sightings, collect
from vla_ros.training.recipes import NarratorRecipe as Recipe
from vla_ros.training.run_folder import begin
from vla_ros.training.trainer import Objective, PolicyTrainer

_HELD_OUT_BATCHES = 8
_HELD_OUT_GLANCES, _HELD_OUT_EPISODES = 1 / 30, 1 / 12  # of what is trained on
_SCALED = 64  # sightings whose features tell how large they are
_WEIGHTS = {"said": 1.0, "seen": 1.0}


Batch = dict[str, Tensor]


def train(recipe: Recipe, out: Path, *, tensorboard: bool = False) -> Path:
    """Train all stages, resuming whatever `out` holds; returns its folder checkpoint/.

    Raises:
        ValueError: a run there has other settings.
    """
    vision = EYE | {"image_size": recipe.image_size, "channels": recipe.channels}
    config = NarratorConfig.of(recipe.size, AHEAD, vision, context=recipe.context)
    last = _language(recipe, config, out / "language", tensorboard)
    if recipe.sight_steps:
        cameras = Cameras(config.cameras, recipe.image_size)
        glances = math.ceil(_HELD_OUT_GLANCES * recipe.glances)
        episodes = math.ceil(_HELD_OUT_EPISODES * recipe.episodes)
        with PartialState().main_process_first():
            seen = collect(out / "sightings", cameras, recipe.glances, recipe.episodes, recipe.seed)
            held = collect(out / "held-out", cameras, glances, episodes, recipe.seed + 1)
        found = _eye(recipe, config, seen, held, out / "eye", tensorboard)
        last = _sight(recipe, last, found, seen, held, out / "sight", tensorboard)
    target = out / "checkpoint"
    with PartialState().main_process_first():
        if not target.exists():
            with whole_folder(target) as partial:
                shutil.copytree(last, partial, dirs_exist_ok=True)
    return target


def _language(recipe: Recipe, config: NarratorConfig, out: Path, tensorboard: bool) -> Path:
    args = begin(recipe, out, vars(recipe) | {"stage": "language"})
    torch.manual_seed(recipe.seed)
    stories = Stories(recipe.seed, "train", recipe.form)
    held = Stories(recipe.seed, "held_out", recipe.form)
    model = Narrator(config)
    model.eye.freeze()  # it has its own stage
    for unused in (model.language.prefix_position, *model.language.prefix.parameters()):
        unused.requires_grad_(False)
    trainer = PolicyTrainer(
        Objective(model, losses, _WEIGHTS),
        recipe,
        args,
        lambda step, rank: said(stories, step, recipe.rows, recipe.context, rank),
        [said(held, i, recipe.rows, recipe.context) for i in range(_HELD_OUT_BATCHES)],
        tensorboard=tensorboard,
    )
    return trainer.fit()


def _eye(
    recipe: Recipe,
    config: NarratorConfig,
    seen: Sightings,
    held: Sightings,
    out: Path,
    tensorboard: bool,
) -> Path:
    settings = replace(recipe, steps=recipe.eye_steps)
    args = begin(settings, out, vars(recipe) | {"stage": "eye"})
    torch.manual_seed(recipe.seed)
    trainer = PolicyTrainer(
        Objective(Finder(FinderConfig(config.vision, config.language.width)), finding, FINDING),
        settings,
        args,
        lambda step, rank: shown(seen, (recipe.seed, step, rank), recipe.frames),
        [shown(held, (recipe.seed, i), recipe.frames) for i in range(_HELD_OUT_BATCHES)],
        tensorboard=tensorboard,
    )
    return trainer.fit()


def begin_to_see(language: Path, eye: Path, seen: Sightings) -> Narrator:
    """A narrator that has learned to speak, with an eye that has learned to find things.

    The prefix begins with what the head of that eye made of its features, each number of it scaled
    to mean 0 and variance 1, and with where on the table each feature looks, told as the bins of
    places are: what is faint at first is hardly noticed by blocks that were made for words, and
    what is told in another way must be learned to be translated.
    """
    some = np.linspace(0, len(seen) - 1, _SCALED).astype(int)
    images = torch.from_numpy(np.stack([seen[int(i)].images for i in some]))
    model, finder = Narrator.from_pretrained(language), Finder.from_pretrained(eye)
    model.eye.load_state_dict(finder.eye.state_dict())
    model.eye.freeze()
    prefix, position = model.language.prefix, model.language.prefix_position
    prefix.load_state_dict(finder.project.state_dict())
    with torch.no_grad():
        features = prefix(prefix_of(seen_tokens(model, images))).flatten(0, 1)
        mean, spread = features.mean(0), features.std(0).clamp(min=1e-3)
        prefix[1].weight /= spread[:, None]
        prefix[1].bias.sub_(mean).div_(spread)
        places = torch.from_numpy(on_table(seen, finder.side).round()).long()
        code = fourier(BINS[0], position.shape[1] // 2)
        position.copy_(code[places].flatten(1))
    return model.train()


def _sight(
    recipe: Recipe,
    language: Path,
    eye: Path,
    seen: Sightings,
    held: Sightings,
    out: Path,
    tensorboard: bool,
) -> Path:
    settings = replace(recipe, steps=recipe.sight_steps)
    args = begin(settings, out, vars(recipe) | {"stage": "sight"})
    model = begin_to_see(language, eye, seen)
    stories = Stories(recipe.seed + 1, "train", recipe.form)

    def draw(step: int, rank: int) -> Batch:
        return batch(seen, stories, step, recipe, rank)

    measured = [batch(held, stories, i, recipe) for i in range(_HELD_OUT_BATCHES)]
    trainer = PolicyTrainer(
        Objective(model, losses, _WEIGHTS), settings, args, draw, measured, tensorboard=tensorboard
    )
    return trainer.fit()


def said(stories: Stories, step: int, rows: int, context: int, rank: int = 0) -> Batch:
    """A batch of stories: "ids" int64 and "asked" bool, [B, T]."""
    first = (step + (rank << 32)) * rows
    ids, asked = stories.rows(first, rows, context)
    return {"ids": torch.from_numpy(ids).long(), "asked": torch.from_numpy(asked)}


def batch(
    sightings: Sightings, stories: Stories, step: int, recipe: Recipe, rank: int = 0
) -> Batch:
    """A batch of sights, "seen_ids", "seen_asked" and "images" uint8 [B, N, S, S, 3], beside "ids"
    and "asked" of as many stories, and half as many narrations of what the simulated arm did."""
    rng = np.random.default_rng([7, recipe.seed, step, rank])
    wording = random.Random(int(rng.integers(1 << 32)))
    sights = [sightings[int(i)] for i in rng.integers(len(sightings), size=recipe.rows)]
    seen = [sight_row(sight) for sight in sights]
    longest = max(len(ids) for ids, _ in seen)
    seen_ids, seen_asked = pack([[row] for row in seen], longest)
    told = said(stories, step, recipe.rows, recipe.context, rank)
    rows: list[list] = [[] for _ in range(recipe.rows // 2)]
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
    return {
        "ids": torch.cat([told["ids"], ids]),
        "asked": torch.cat([told["asked"], asked]),
        "seen_ids": seen_ids,
        "seen_asked": seen_asked,
        "images": torch.from_numpy(np.stack([sight.images for sight in sights])),
    }


def losses(model: Narrator, batch: Batch) -> dict[str, Tensor]:
    """Losses of a batch, nats an id, by name."""
    found = {"said": model.language.loss(batch["ids"], batch["asked"])}
    found["seen"] = found["said"].new_zeros(())
    if "images" in batch:
        prefix = prefix_of(seen_tokens(model, batch["images"]))
        found["seen"] = model.language.loss(batch["seen_ids"], batch["seen_asked"], prefix)
    return found


@torch.no_grad()
def seen_tokens(model: Narrator, images: Tensor) -> Tensor:
    """Visual tokens float16 [B, N, h, w, C] of images [B, N, S, S, 3], as `Narrator.encode` makes
    them: not in the lower precision that the rest is trained in."""
    with torch.autocast(images.device.type, enabled=False):
        tokens = model.eye(images.flatten(0, 1).permute(0, 3, 1, 2))
    return tokens.unflatten(0, images.shape[:2]).to(torch.float16)
