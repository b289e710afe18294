"""Trains the arm's policy in simulation: behaviour cloning of the scripted experts with DAgger.

Nobody waits: while a round trains, other processes let the policy of the round before drive and
record the expert's labels for what it met; these join the data of the next round.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers.trainer_callback import TrainerCallback, TrainerState

from vla_ros.models import language
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.models.vlam_config import SMALL_ENCODER
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.descriptions import SENTENCES
from vla_ros.scene_language.instructions import COLORS, FAMILIES
from vla_ros.sim.tasks import FIRST_TRAINING_SEED
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.provenance import Provenance, code
from vla_ros.training.data.simulation import collect, task_list
from vla_ros.training.data.windows import Batch, Windows, geometry_of
from vla_ros.training.recipes import DaggerRecipe as Recipe
from vla_ros.training.run_folder import begin, settle
from vla_ros.training.trainer import Objective, PolicyTrainer

# Reaching is learned first and its episodes are short: it takes every second turn of the others.
_TURNS = ("reach", "push", "pick", "pad", "bowl", "push", "pick", "pad", "bowl")
_WEIGHTS = {
    "motion": 1.0,
    "finger": 0.4,
    "done": 0.1,
    "locate": 0.3,
    "look": 0.2,
    "language": 1.0,
}
_ACTION = ActionConfig.get_arm_config()
_CAMERAS = ("camera", "wrist_camera")
_SHARD = 50  # episodes
_HELD_OUT = 99  # the "round" of the held-out episodes
_HELD_OUT_BATCHES = 8
_POLL = 0.2  # s
_CODE = tuple(f"vla_ros.training.{name}" for name in ("data.simulation", "rollout"))


def train(
    recipe: Recipe, out: Path, *, tensorboard: bool = False, deepspeed: Path | None = None
) -> Path:
    """Train, resuming whatever `out` holds; returns the checkpoint folder out/checkpoint.

    Processes that a launcher started share `out`; the first of them collects for all.
    """
    args = begin(recipe, out, vars(recipe), deepspeed, keeps=("data",))
    settle(out, Provenance({}, {}, code(*_CODE)), keeps=("data",))
    with Rounds(recipe, out, collects=args.process_index == 0) as rounds:
        model = VisionLanguageActionModel.from_size(
            "tiny",
            _ACTION,
            cameras=_CAMERAS,
            statistics=rounds.windows(0).statistics(),
            needed_words=COLORS,
            geometry=recipe.geometry or None,
        )
        sentences = language.pad(
            language.encode(model.tokenizer, text, model.config.vocab_size) for text in SENTENCES
        )
        trainer = PolicyTrainer(
            Objective(model, partial(losses, sentences=sentences), _WEIGHTS),
            recipe,
            args,
            rounds.batch,
            rounds.held_out(),
            tensorboard=tensorboard,
            callbacks=[rounds],
        )
        return trainer.fit()


# -- losses ----------------------------------------------------------------------------------------


def losses(model: VisionLanguageActionModel, batch: Batch, sentences: Tensor) -> dict[str, Tensor]:
    """All losses of a batch by name. Takes the token ids [all, W] of SENTENCES."""
    text = sentences.to(batch["description"].device)[batch["description"]]
    out = model(
        batch["images"],
        batch["proprioception"],
        batch["instruction"],
        text,
        geometry_of(model, batch),
    )
    raw, actions = out["raw_actions"].float(), batch["actions"]
    scale = torch.as_tensor(model.statistics.action_scale, dtype=raw.dtype, device=raw.device)
    high = model.config.action.action_bounds[-1][1]
    motion = (raw[..., :3] - actions[..., :3] / scale[:, :3]).abs()
    finger = F.binary_cross_entropy_with_logits(
        raw[..., 3], (actions[..., 3] / high).clamp(0, 1), reduction="none"
    )
    done = F.binary_cross_entropy_with_logits(out["done"].float(), batch["done"], reduction="none")
    locate = (out["locate"].float() - batch["locate"]).abs().mean(-1)
    look = _look_loss(out["looks"], batch["pixels"], model.grid[1:3])
    return {
        "motion": _mean(motion.mean((-1, -2)), batch),
        "finger": _mean(finger.mean(-1), batch),
        "done": _mean(done * batch["done_known"], batch),
        "locate": _mean(locate, batch),
        "look": _mean(look, batch),
        "language": _mean(language.sentence_loss(out["language_logits"], text), batch),
    }


def _mean(value: Tensor, batch: Batch) -> Tensor:
    """Mean of [B, T] over the frames that are there."""
    return (value * batch["mask"]).sum() / batch["mask"].sum()


def _look_loss(looks: Tensor, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cross-entropy [B, T] between where the named keypoints look and where the things are.

    Args:
        looks: [B, T, N, 2, h * w] log-weights.
        pixels: [B, T, N, 2, 2] rows and columns from -1 to 1; NaN where there is nothing to see.
        grid: height and width of the token grid.
    """
    place = pixels[..., None, :]
    axes = [torch.linspace(-1, 1, cells) * (1 - 1 / cells) for cells in grid]
    cells = torch.cartesian_prod(*axes).to(pixels.device)
    width = 0.8 * 2 / grid[0]  # of the soft target: a little less than a cell
    target = torch.softmax(-((cells - place.nan_to_num()) ** 2).sum(-1) / (2 * width**2), dim=-1)
    loss = -(target * looks.float()).sum(-1)
    visible = place[..., 0, :].isfinite().all(-1)
    return (loss * visible).sum((-1, -2)) / looks.shape[2]


# -- rounds ----------------------------------------------------------------------------------------


class Rounds(TrainerCallback):
    """Who collects the data of each round, and batches from what there is by then.

    Shards appear whole, so that all who need them, loaders and processes that train alike, just
    look whether they are there.

    Round 0 is the expert's demonstrations; in each later one the policy drives as it was when the
    round before it ended. Round r trains on the data of rounds 0 .. max(r - 1, 0).

    Args:
        recipe: of the run.
        out: its folder; shards are in out/data.
        collects: whether this process collects; the others wait for the shards to appear.
    """

    def __init__(self, recipe: Recipe, out: Path, collects: bool) -> None:
        self._recipe, self._out, self._collects = recipe, out, collects
        self._spatial = recipe.geometry not in ("", "none")  # batches have depth and rays
        self._failure = out / "data" / "failed.txt"  # tells all that wait
        self._round, self._windows = -1, None

    def __enter__(self) -> Rounds:
        if self._collects:
            self._failure.unlink(missing_ok=True)
            self._pool = ProcessPoolExecutor(
                self._recipe.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=os.nice,  # training comes first
                initargs=(10,),
            )
            self._submit(0)
            self._submit(_HELD_OUT)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._collects:
            self._pool.shutdown(cancel_futures=True)

    def windows(self, index: int) -> Windows:
        """The data that round `index` trains on; waits for it."""
        if index != self._round:
            shards = [shard for r in range(max(index, 1)) for shard in self._wait(r)]
            self._round, self._windows = index, Windows(shards, self._spatial)
            if self._collects:
                tqdm.write(f"round {index}: {self._windows.summary()}")
        return self._windows

    def batch(self, step: int, rank: int) -> Batch:
        recipe = self._recipe
        return self.windows(step // recipe.steps).batch(recipe.seed, step, recipe.frames, rank)

    def held_out(self) -> list[Batch]:
        data = Windows(self._wait(_HELD_OUT), self._spatial)
        return [data.batch(0, i, self._recipe.frames) for i in range(_HELD_OUT_BATCHES)]

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        for index in range(1, self._newest_of(state) + 1):  # a resumed run; most shards are there
            self._submit(index)

    def on_step_end(
        self, args: Any, state: TrainerState, control: Any, model: Objective, **_: Any
    ) -> None:
        index = self._newest_of(state)
        if not self._collects or state.global_step != index * self._recipe.steps:
            return
        folder = self._policy(index)
        if not folder.exists():
            with whole_folder(folder) as partial:
                model.policy.save_pretrained(partial)
        self._submit(index)

    def _newest_of(self, state: TrainerState) -> int:
        """The newest round to collect for; what the last round met would train nothing."""
        return min(state.global_step // self._recipe.steps, self._recipe.rounds - 2)

    def _policy(self, index: int) -> Path:
        return self._out / "policies" / f"round_{index:02d}"

    def _shards(self, index: int) -> list[tuple[Path, range]]:
        """The shards of a round, and which of its episodes each holds."""
        recipe = self._recipe
        special = {0: recipe.demonstrations, _HELD_OUT: recipe.held_out_episodes}
        count = special.get(index, recipe.learner_episodes)
        starts = range(0, count, _SHARD)
        return [
            (
                self._out / "data" / f"{index:02d}_{start // _SHARD:03d}",
                range(start, min(start + _SHARD, count)),
            )
            for start in starts
        ]

    def _submit(self, index: int) -> None:
        if not self._collects:
            return
        first = FIRST_TRAINING_SEED * (1 + self._recipe.seed) + index * 100_000
        checkpoint = None if index in (0, _HELD_OUT) else self._policy(index)
        shards = self._shards(index)
        tasks = task_list(_TURNS, shards[-1][1].stop, first)
        for folder, episodes in shards:
            self._pool.submit(
                collect,
                folder,
                tasks[episodes.start : episodes.stop],
                first + episodes.start,
                _ACTION,
                SMALL_ENCODER["image_size"],
                checkpoint,
                hold_out_pairs=self._recipe.hold_out_pairs,
                depth=self._spatial,
                variants=self._recipe.variants,
            ).add_done_callback(self._check)

    def _check(self, future: Future) -> None:
        if not future.cancelled() and (error := future.exception()):
            self._failure.parent.mkdir(parents=True, exist_ok=True)
            self._failure.write_text(f"{type(error).__name__}: {error}")

    def _wait(self, index: int) -> list[Path]:
        """The shards of a round, once they are there: another process makes them.

        Raises:
            RuntimeError: it could not.
        """
        folders = [folder for folder, _ in self._shards(index)]
        what = {0: "demonstrations", _HELD_OUT: "held-out episodes"}.get(index, f"round {index}")
        there = sum(folder.exists() for folder in folders)
        with tqdm(
            total=len(folders),
            initial=there,
            desc=what,
            unit="shard",
            mininterval=5.0,
            disable=there == len(folders),
        ) as bar:
            while there < len(folders):
                if self._failure.exists():
                    raise RuntimeError(f"collecting {what} failed: {self._failure.read_text()}")
                time.sleep(_POLL)
                before, there = there, sum(folder.exists() for folder in folders)
                bar.update(there - before)
        return folders


assert set(_TURNS) == set(FAMILIES)
