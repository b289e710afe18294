"""Videos of the simulated arm for world models, with what the arm was told to do.

A model of what actions do must see actions that an expert would not choose, in places where an
expert goes: so the scripted experts drive, and are driven off their way, every now and then, for
long enough that it shows at the world model's pace. Nothing else happens: what pushes an object or
changes the light is to surprise the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla_ros.robots.action_config import ActionConfig
from vla_ros.robots.panda import GRIPPER_CLOSED, GRIPPER_OPEN
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.arm import CAMERAS, ArmWorld
from vla_ros.sim.experts import MAX_OFFSET, expert_chunk
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, Outcome, Task, sample_task
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.provenance import Provenance, code, remove_stale
from vla_ros.training.data.shards import write_shards
from vla_ros.training.data.simulation import task_list
from vla_ros.training.rollout import Observation, Rollout

_ACTION = ActionConfig.get_arm_config()
_PART = 25  # episodes that are written together
_SEEDS = FIRST_TRAINING_SEED + 50_000_000  # apart from those of policies
_MAX_SECONDS = 8.0
_TAIL = 1.0  # s recorded after a success
_ASTRAY = 0.06  # probability a frame that a detour begins
_MAX_LATENCY = 6  # ticks of 10 ms, not reached
_LOWEST = 0.025  # m, tool height that a detour stays above


def provenance(seed: int, image_size: int) -> Provenance:
    """What videos of `collect` are made from."""
    return Provenance({"seed": seed, "image size": image_size}, {}, code(__name__))


def collect(folder: Path, count: int, seed: int, image_size: int) -> list[Path]:
    """Record `count` episodes as shards in parts of `folder`; parts that are there stay.

    All are recorded anew if another seed, size or version of the package made what is there.

    Args:
        folder: each part appears in it whole or not at all.
        count: episodes, the families of tasks taking turns.
        seed: the same give the same videos.
        image_size: pixels of either side.

    Returns:
        The parts.

    Raises:
        ValueError: `count` is too small to hold any out.
    """
    if count < 2:
        raise ValueError(f"{count} episodes are too few: give 2 or more")
    tasks = task_list(FAMILIES, count, _SEEDS + seed * 100_000)
    world = ArmWorld()
    starts = range(0, count, _PART)
    now = provenance(seed, image_size)
    remove_stale(folder, now)
    for start in starts:
        part = _part(folder, start)
        if part.exists() and _count(part) != min(_PART, count - start):
            shutil.rmtree(part)  # the last one, of fewer episodes
    folder.mkdir(parents=True, exist_ok=True)
    now.save(folder)
    missing = [s for s in starts if not _part(folder, s).exists()]
    for start in tqdm(missing, desc="videos", unit="part", disable=not missing):
        rng = np.random.default_rng([seed, start])
        part = tasks[start : start + _PART]
        episodes = [_record(family, number, rng, world, image_size) for family, number in part]
        write_shards(_part(folder, start), episodes, CAMERAS, image_size)
    world.close()
    return [_part(folder, start) for start in starts]


def _count(part: Path) -> int:
    return sum(len(json.loads(file.read_text())["episodes"]) for file in part.glob("*/epis*.json"))


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:06d}"


def _record(
    family: str, seed: int, rng: np.random.Generator, world: ArmWorld, image_size: int
) -> Episode:
    latency = int(rng.integers(_MAX_LATENCY))
    rollout = Rollout(world, image_size=image_size, dt=_ACTION.dt, latency_ticks=latency)
    task = sample_task(family, seed)
    return record(rollout, task, wandering_expert(world, rng), name=f"{family} {seed}")


def record(
    rollout: Rollout, task: Task, actor: Callable[[Observation], np.ndarray], name: str
) -> Episode:
    """Run `actor` on `task`; the episode has what it asked for at each frame."""
    seen: list[Observation] = []
    asked: list[np.ndarray] = []

    def act(observation: Observation) -> np.ndarray:
        chunk = actor(observation)
        seen.append(observation)
        asked.append(chunk[0])
        return chunk

    outcome = rollout.run(
        task, act, max_seconds=min(task.time_limit, _MAX_SECONDS), tail_seconds=_TAIL
    )
    return Episode(
        name=name,
        robot=_ACTION.robot_type.value,
        control_mode=_ACTION.control_mode,
        instruction=task.instruction,
        dt=_ACTION.dt,
        action_names=_ACTION.action_names,
        proprioception_names=_ACTION.proprioception_names,
        stamps=_ACTION.dt * np.arange(len(seen)),
        proprioception=np.stack([observation.proprioception for observation in seen]),
        actions=np.stack(asked).astype(np.float32),
        pictures={
            camera: _reader([observation.images[i] for observation in seen])
            for i, camera in enumerate(CAMERAS)
        },
        outcome=outcome is Outcome.SUCCEEDED,
    )


def _reader(images: Sequence[np.ndarray]) -> Callable:
    return lambda first, last: iter(images[first:last])


def wandering_expert(
    world: ArmWorld, rng: np.random.Generator
) -> Callable[[Observation], np.ndarray]:
    """The expert, which now and then goes another way for up to a second, or moves its fingers."""
    left, way, fingers = 0, np.zeros(3), None

    def act(observation: Observation) -> np.ndarray:
        nonlocal left, way, fingers
        chunk = expert_chunk(world, _ACTION.horizon, _ACTION.dt).copy()
        if left == 0 and rng.random() < _ASTRAY:
            left = int(rng.integers(4, 20))
            way = rng.normal(size=3)
            way *= rng.uniform(0.0, MAX_OFFSET) / np.linalg.norm(way)
            fingers = rng.choice([GRIPPER_OPEN, GRIPPER_CLOSED]) if rng.random() < 0.15 else None
        if left:
            left -= 1
            ahead = 1 + 0.5 * np.arange(len(chunk))[:, None]  # it goes on moving
            chunk[:, :3] = way * ahead
            height = world.tool_position()[2]
            chunk[:, 2] = np.maximum(chunk[:, 2], _LOWEST - height)
            if fingers is not None:
                chunk[:, 3] = fingers
        return chunk

    return act
