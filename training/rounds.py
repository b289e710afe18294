"""Rounds of imitation in the simulator: what the expert shows, and what it says of the learner's
ways (DAgger, Ross et al. 2011), collected while the round before is trained on."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm
from transformers.trainer_callback import TrainerCallback, TrainerState

from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.tasks import FIRST_TRAINING_SEED
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.simulation import collect, task_list
from vla_ros.training.data.windows import Batch
from vla_ros.training.recipes import DaggerRecipe
from vla_ros.training.trainer import Objective

# Reaching is learned first and its episodes are short: it takes every second turn of the others.
_TURNS = ("reach", "push", "pick", "pad", "bowl", "push", "pick", "pad", "bowl")
_ACTION = ActionConfig.get_arm_config()
_SHARD = 50  # episodes
_HELD_OUT = 99  # the "round" of the held-out episodes
_HELD_OUT_BATCHES = 8
_POLL = 0.2  # s
# Modules that data are made by.
CODE = tuple(f"vla_ros.training.{name}" for name in ("data.simulation", "rollout"))


class Drawn(Protocol):
    """Batches of some shards."""

    def summary(self) -> str:
        """Their size, in words."""

    def batch(self, seed: int, step: int, frames: int, rank: int = 0) -> Batch:
        """That of a step, and of one of the processes that train together."""


class Rounds(TrainerCallback):
    """Who collects the data of each round, and batches from what there is by then.

    Shards appear whole, so that all who need them, loaders and processes that train alike, just
    look whether they are there.

    Round 0 is the expert's demonstrations; in each later one the policy drives as it was when the
    round before it ended. Round r trains on the data of rounds 0 .. max(r - 1, 0).

    Args:
        recipe: of the run.
        out: its folder; shards are in out/data.
        image_size: of the policy's images, pixels.
        data: makes batches of shards.
        collects: whether this process collects; the others wait for the shards to appear.
    """

    def __init__(
        self,
        recipe: DaggerRecipe,
        out: Path,
        image_size: int,
        data: Callable[[list[Path]], Drawn],
        collects: bool,
    ) -> None:
        self._recipe, self._out, self._collects = recipe, out, collects
        self._image_size, self._data = image_size, data
        self._depth = recipe.geometry not in ("", "none")
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

    def windows(self, index: int) -> Drawn:
        """The data that round `index` trains on; waits for it."""
        if index != self._round:
            shards = [shard for r in range(max(index, 1)) for shard in self.wait(r)]
            self._round, self._windows = index, self._data(shards)
            if self._collects:
                tqdm.write(f"round {index}: {self._windows.summary()}")
        return self._windows

    def batch(self, step: int, rank: int) -> Batch:
        recipe = self._recipe
        return self.windows(step // recipe.steps).batch(recipe.seed, step, recipe.frames, rank)

    def held_out(self) -> list[Batch]:
        data = self._data(self.wait(_HELD_OUT))
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
                self._image_size,
                checkpoint,
                hold_out_pairs=self._recipe.hold_out_pairs,
                depth=self._depth,
                variants=self._recipe.variants,
            ).add_done_callback(self._check)

    def _check(self, future: Future) -> None:
        if not future.cancelled() and (error := future.exception()):
            self._failure.parent.mkdir(parents=True, exist_ok=True)
            self._failure.write_text(f"{type(error).__name__}: {error}")

    def wait(self, index: int) -> list[Path]:
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
