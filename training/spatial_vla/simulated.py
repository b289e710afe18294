"""Trains a small SpatialVLA from nothing in simulation, by what the expert shows and corrects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla_ros.models.spatial_vla.configuration import TOKENS_PER_ACTION, tiny_config
from vla_ros.models.spatial_vla.layout import SpatialLayout
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.motions import Motions
from vla_ros.models.spatial_vla.policy import SpatialContract, SpatialVLAPolicy
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.spatial_vla.sizes import BINS, SIZES
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.instructions import VOCABULARY
from vla_ros.training.data.provenance import Provenance, code
from vla_ros.training.data.windows import Batch
from vla_ros.training.recipes import SpatialRecipe as Recipe
from vla_ros.training.rounds import CODE, Rounds
from vla_ros.training.run_folder import begin, settle
from vla_ros.training.spatial_vla.demonstrations import Demonstration, of_simulation
from vla_ros.training.spatial_vla.samples import (
    Collate,
    SpatialSamples,
    fit_motions,
    new_processor,
    save_statistics,
)
from vla_ros.training.trainer import Objective, PolicyTrainer

_CHUNK = 4  # actions
ACTION = replace(ActionConfig.get_arm_config(), horizon=_CHUNK)
_CAMERAS = ("camera", "wrist_camera")
_KEY = "arm"
_PROMPT = "{}"  # more words would be the same in each sample
MOTIONS = Motions(ACTION, SpatialLayout.of(ACTION))
_IGNORED = -100


def train(recipe: Recipe, out: Path, *, tensorboard: bool = False) -> Path:
    """Train, resuming whatever `out` holds; returns the checkpoint folder out/checkpoint.

    The grid of the action tokens and their statistics are those of the first demonstrations.
    """
    args = begin(recipe, out, vars(recipe), keeps=("data",))
    settle(out, Provenance({}, {}, code(*CODE)), keeps=("data",))
    size = SIZES[recipe.size]
    made: list[SpatialVLAProcessor] = []  # once there are demonstrations

    def drawn(shards: list[Path]) -> Draws:
        return Draws(shards, made[0])

    collects = args.process_index == 0
    with Rounds(recipe, out, size["image_size"], drawn, collects) as rounds:
        shown = demonstrations(rounds.wait(0))
        made.append(processor(shown, size))
        save_statistics(out, made[0].statistics)
        trained = Trained(policy(made[0], size))
        trainer = PolicyTrainer(
            Objective(trained, losses, {"tokens": 1.0}),
            recipe,
            args,
            rounds.batch,
            rounds.held_out(),
            tensorboard=tensorboard,
            callbacks=[rounds],
        )
        return trainer.fit()


def demonstrations(shards: Sequence[Path]) -> list[Demonstration]:
    """Of the simulator's shards, from both cameras."""
    cameras = range(len(_CAMERAS))
    return [one for shard in shards for one in of_simulation(shard, MOTIONS, cameras)]


def processor(shown: Sequence[Demonstration], size: dict[str, Any]) -> SpatialVLAProcessor:
    """One whose tokens are fitted to demonstrations, and whose words are the instructions'."""
    found = fit_motions(shown, MOTIONS.layout, bins=BINS)
    sides = size["image_size"], size["patch_size"]
    return new_processor(found, _KEY, [" ".join(VOCABULARY)], *sides, _CHUNK)


def policy(made: SpatialVLAProcessor, size: dict[str, Any]) -> SpatialVLAPolicy:
    """An untrained one."""
    legal = [made.action_tokenizer.legal(place) for place in range(TOKENS_PER_ACTION)]
    ranges = [[ids.start, ids.stop] for ids in legal]
    config = tiny_config(made.action_token_begin_idx, ranges, **size, action_chunk_size=_CHUNK)
    contract = SpatialContract(
        ACTION, _CAMERAS, statistics_key=_KEY, prompt=_PROMPT, words=tuple(VOCABULARY)
    )
    return SpatialVLAPolicy(SpatialVLAForConditionalGeneration(config), made, contract)


class Trained(nn.Module):
    """A policy as the trainer takes one: its numbers are the model's, its checkpoint is whole."""

    def __init__(self, made: SpatialVLAPolicy) -> None:
        super().__init__()
        self.model, self._made = made.model.train(), made

    def forward(self, **batch: Tensor) -> Any:
        return self.model(**batch)

    def save_pretrained(self, folder: str | Path) -> None:
        self._made.save_pretrained(folder)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.load_state_dict(*args, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.named_parameters(*args, **kwargs)


def losses(trained: Trained, batch: Batch) -> dict[str, Tensor]:
    """The cross-entropy of the tokens, and the share of them that would be said right."""
    out = trained(**batch)
    return {"tokens": out.loss, "accuracy": token_accuracy(out.logits, batch["labels"])}


def token_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the labelled tokens that have the highest logits, the ones before being given.

    Args:
        logits: [B, L, V].
        labels: [B, L], -100 where there is none.
    """
    wanted = labels[:, 1:]
    counts = wanted != _IGNORED
    right = (logits[:, :-1].argmax(-1) == wanted) & counts
    return right.sum() / counts.sum().clamp(min=1)


class Draws:
    """Batches of frames of shards, drawn uniformly, each of which is told by two instructions."""

    def __init__(self, shards: Sequence[Path], made: SpatialVLAProcessor) -> None:
        self._samples = SpatialSamples(
            demonstrations(shards), made, _KEY, prompt=_PROMPT, augment=True
        )
        self._collate = Collate(made)

    def summary(self) -> str:
        return f"{len(self._samples)} samples"

    def batch(self, seed: int, step: int, frames: int, rank: int = 0) -> Batch:
        rng = np.random.default_rng([seed, step, rank])
        picks = rng.integers(len(self._samples), size=frames)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))
            return self._collate([self._samples[int(pick)] for pick in picks])
