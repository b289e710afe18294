"""What benchmarks/act.py trains, and on what."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from act_policies import ACTION, WORKER, goal_code, worker_environment
from torch import Tensor

from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.scene_language.instructions import COLORS
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, sample_task
from vla_ros.training import dagger, imitation
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.simulation import collect, task_list
from vla_ros.training.data.windows import Batch, Windows
from vla_ros.training.evaluation import write_json
from vla_ros.training.run_folder import begin
from vla_ros.training.trainer import Objective, PolicyTrainer

GOALS = "goals.npy"  # of a shard, what ACT is told: float32 [episodes, 15]
# As `vla train policy` takes them: reaching is learned first, and its episodes are short.
TURNS = ("reach", "push", "pick", "pad", "bowl", "push", "pick", "pad", "bowl")
SHARD = 50  # episodes
HELD_OUT = 20  # episodes that nobody trains on
CALIBRATION = (10, 60)  # steps of two runs that tell what a step costs

# -- demonstrations --------------------------------------------------------------------------------


def demonstrate(folder: Path, tasks: list[tuple[str, int]], size: int) -> None:
    """One shard of the expert's episodes, with each one's goal."""
    collect(folder, tasks, tasks[0][1], ACTION, size)
    goals = [goal_code(sample_task(family, seed).goal) for family, seed in tasks]
    unfinished = folder / "unfinished-goals.npy"
    np.save(unfinished, np.stack(goals))
    os.replace(unfinished, folder / GOALS)


def demonstrations(
    folder: Path, families: Sequence[str], count: int, size: int, jobs: int
) -> tuple[list[Path], Path]:
    """Paths of the shards to train on, and of the one held out. The pictures' size changes nothing
    else: the expert does not look."""
    first = FIRST_TRAINING_SEED
    parts = {
        folder / f"00_{start // SHARD:03d}": task_list(families, count, first)[start:][:SHARD]
        for start in range(0, count, SHARD)
    }
    held_out = folder / "99_000"
    parts[held_out] = task_list(families, HELD_OUT, first + 99 * 100_000)
    missing = {path: tasks for path, tasks in parts.items() if not (path / GOALS).exists()}
    if missing:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
            list(pool.map(partial(demonstrate, size=size), missing.keys(), missing.values()))
    return [path for path in parts if path != held_out], held_out


def without_second_labels(source: Path, target: Path) -> None:
    """The same shard, whose frames are labelled for the instruction that was followed only."""
    if target.exists():
        return
    with whole_folder(target) as folder:
        for path in source.glob("*.npy"):
            first = source / path.name.removeprefix("other_")
            (folder / path.name).symlink_to(first.resolve())


# -- training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    steps: int
    seconds: float  # of processor time


def train_ours(kind: str, data: Path, out: Path, seconds: float, seed: int) -> Cost:
    """Train for about `seconds` of processor time on the shards in `data`; see `ours_once`."""
    torch.set_num_threads(1)
    told = out / "cost.json"
    if not told.exists():
        trials = []
        for steps in CALIBRATION:
            folder = out.with_name(f".{out.name}-{steps}")
            trials.append(ours_once(kind, data, folder, steps, seed))
            shutil.rmtree(folder)
        write_json(told, vars(ours_once(kind, data, out, steps_for(seconds, *trials), seed)))
    return Cost(**json.loads(told.read_text()))


def steps_for(seconds: float, short: Cost, long: Cost) -> int:
    """How many steps take `seconds`: a step costs the same, and so does all that surrounds them."""
    each = (long.seconds - short.seconds) / (long.steps - short.steps)
    return max(1, int(long.steps + (seconds - long.seconds) / each))


def ours_once(kind: str, data: Path, out: Path, steps: int, seed: int) -> Cost:
    """Train `steps` steps.

    Args:
        kind: "cloned": from images, proprioception, instruction and the expert's chunks, as ACT;
            "labelled": with all that the simulator tells, as `vla train policy` does.
    """
    shutil.rmtree(out, ignore_errors=True)  # the time that an interrupted run took is not known
    began = time.process_time()
    if kind == "labelled":
        count = sum(len(np.load(p / "lengths.npy")) for p in data.glob("00_*"))
        (out / "data").mkdir(parents=True, exist_ok=True)
        for shard in data.iterdir():
            (out / "data" / shard.name).symlink_to(shard.resolve())
        recipe = dagger.Recipe(
            seed=seed,
            rounds=1,
            steps=steps,
            demonstrations=count,
            held_out_episodes=HELD_OUT,
            loaders=0,
        )
        dagger.train(recipe, out)
    else:
        clone(data, out, imitation.Recipe(seed=seed, steps=steps, loaders=0))
    return Cost(steps, time.process_time() - began)


def clone(data: Path, out: Path, recipe: imitation.Recipe) -> None:
    """Behaviour cloning by the losses of `imitation`, from shards of the simulator."""
    windows = Windows(sorted(data.glob("00_*")))
    held_out = Windows([data / "99_000"])
    args = begin(recipe, out, vars(recipe))
    model = VisionLanguageActionModel.from_size(
        "tiny",
        ACTION,
        cameras=("camera", "wrist_camera"),
        statistics=windows.statistics(),
        needed_words=COLORS,
    )
    for head in (model.done, model.locate, model.language):
        head.requires_grad_(False)
    PolicyTrainer(
        Objective(model, _clone_losses, {"motion": 1.0, "decision": 0.4}),
        recipe,
        args,
        lambda step, rank: windows.batch(recipe.seed, step, recipe.frames, rank),
        [held_out.batch(0, i, recipe.frames) for i in range(8)],
    ).fit()


def _clone_losses(model: VisionLanguageActionModel, batch: Batch) -> dict[str, Tensor]:
    horizon = batch["actions"].shape[2]
    known = batch["mask"][..., None].expand(-1, -1, horizon)  # the expert's chunks are whole
    return imitation.losses(model, {**batch, "known": known})


def train_act(
    python: Path, shards: list[Path], held_out: Path, out: Path, **options: float | str
) -> Cost:
    """Train ACT in LeRobot's environment; `options` as in act_lerobot.train.

    Raises:
        RuntimeError: it failed; its own words are on stderr.
    """
    if not out.exists():
        options |= {"shards": [*map(str, shards)], "held_out": str(held_out), "out": str(out)}
        command = [str(python), str(WORKER), "train", json.dumps(options)]
        if subprocess.run(command, env=worker_environment()).returncode:
            raise RuntimeError("ACT was not trained: see its words above")
    told = json.loads((out / "told.json").read_text())
    return Cost(told["steps"], told["seconds"])
