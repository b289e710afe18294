"""A judge of painted scenes: a captioner that has seen nothing but drawings.

What it reads in a painted scene is there for anybody to see. A captioner that learned together with
the painter may read marks which mean something to the two of them alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vla_ros.models.part import Part
from vla_ros.models.scenes.captions import CaptionNetwork, caption_ids, caption_loss
from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.models.scenes.layout import MOTIONS, Picture
from vla_ros.scene_language.scenes import FIXTURES, MOVABLE, NAMES, Name, Place, Thing
from vla_ros.training.recipes import Settings
from vla_ros.training.run_folder import begin
from vla_ros.training.scenes.cells import cell_labels, labelled
from vla_ros.training.scenes.crowds import with_more_things
from vla_ros.training.scenes.losses import drawn
from vla_ros.training.trainer import Batch, Objective, PolicyTrainer

_ROWS = 32  # drawings of a step
_NOISE = 0.02  # standard deviation at most
_HELD_OUT_BATCHES = 2
_OTHERS = 1 << 31  # from this seed on, drawings that no judge trains on
_CELLS = 0.5  # weight of the loss of what is in the cells
_CLOSE = 2  # bins between the gripper and what it holds


class Judge(Part):
    """A caption network with a checkpoint of its own; its configuration is that of the scenes that
    it judges."""

    Config = ScenesConfig

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        self.config = config
        self.captioner = CaptionNetwork(config)


def drawn_scene(rng: np.random.Generator) -> Picture:
    """A random picture to be drawn: one to eight things anywhere, at times one on the pad or in the
    bowl; often a gripper, at times at a thing."""
    name = NAMES[int(rng.integers(len(NAMES)))]
    first = Thing(name, Place(*_anywhere(rng), 1))
    picture = with_more_things(Picture((first,)), rng)
    things = [*picture.things]
    for fixture in [thing for thing in things if thing.name.shape in FIXTURES]:
        inside = MOVABLE[int(rng.integers(len(MOVABLE)))]
        if rng.random() < 0.4 and inside not in [thing.name for thing in things]:
            things.append(Thing(inside, Place(*_beside(fixture.place, 3, rng), 1)))
    if rng.random() < 0.5:
        return Picture(tuple(things))
    place = _anywhere(rng)
    movable = [thing for thing in things if _is_movable(thing.name)]
    if movable and rng.random() < 0.5:  # held or pushed
        place = _beside(movable[int(rng.integers(len(movable)))].place, 7, rng)
        if rng.random() < 0.5:
            place = _beside(movable[-1].place, _CLOSE, rng)
    motion = MOTIONS[int(rng.integers(len(MOTIONS)))]
    return Picture(tuple(things), Place(*place, 1), bool(rng.random() < 0.5), motion)


def _is_movable(name: Name) -> bool:
    return name.shape not in FIXTURES


def _anywhere(rng: np.random.Generator) -> tuple[int, int]:
    return tuple(int(value) for value in rng.integers(4, 60, size=2))


def _beside(place: Place, bins: int, rng: np.random.Generator) -> tuple[int, int]:
    moved = rng.integers(-bins, bins + 1, size=2) + place[:2]
    return tuple(int(value) for value in moved.clip(0, 63))


def drawings(seed: int, step: int) -> Batch:
    """The drawings of a step, [32, 3, 64, 64], with a little noise, their captions and what is in
    their cells."""
    rng = np.random.default_rng([seed, step])
    pictures = [drawn_scene(rng) for _ in range(_ROWS)]
    scene = drawn(pictures)
    noise = rng.standard_normal(scene.shape, dtype=np.float32) * _NOISE * float(rng.random())
    scene, ids = scene + torch.from_numpy(noise), caption_ids(pictures)
    return {"scene": scene, "ids": ids, **cell_labels(pictures)}


def _losses(judge: Judge, batch: Batch) -> dict[str, torch.Tensor]:
    cells = judge.captioner.look(batch["scene"])
    return {
        "caption": caption_loss(judge.captioner(cells, batch["ids"]), batch["ids"]),
        "cells": labelled(judge.captioner, cells, batch),
    }


def train_judge(out: Path, config: ScenesConfig, steps: int = 1500, seed: int = 0) -> Judge:
    """Train a judge, or go on with what the folder `out` holds, or load what was finished there.

    Raises:
        ValueError: another judge is there.
    """
    settings = Settings(
        seed=seed, steps=steps, frames=_ROWS, learning_rate=1.5e-3, warmup=100,
        save_every=min(250, steps),
    )  # fmt: skip
    identity = {**vars(settings), "hidden_dim": config.hidden_dim, "d_model": config.d_model}
    args = begin(settings, out, identity)
    if (out / "checkpoint").is_dir():
        return Judge.from_pretrained(out / "checkpoint")
    torch.manual_seed(seed)
    held = [drawings(seed + _OTHERS, i) for i in range(_HELD_OUT_BATCHES)]
    trainer = PolicyTrainer(
        Objective(Judge(config), _losses, {"caption": 1.0, "cells": _CELLS}),
        settings,
        args,
        lambda step, rank: drawings(seed, step + (rank << 32)),
        held,
    )
    return Judge.from_pretrained(trainer.fit())
