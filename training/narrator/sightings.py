"""What the simulated arm sees, with what is true: pictures for the narrator, from physics.

A narrator must find things wherever they stand, so most sightings are of many tables, a glance at
each: things laid out anew, the arm anywhere above them. The others are of episodes, for what only
happens there: things held, pushed, put down. The folder of a part is a memory-mapped array each:

    tokens.npy           float16 [F, N, h, w, C], of the vision encoder
    proprioception.npy   float32 [F, 4], tool x, y, z and finger opening, m
    plans.npy            float32 [F, 4], a point of the action chunk: offset of the tool, fingers
    scenes.npy           int16 [F, 2, L], spatial tokens of now and of when that point is due
    told.json            for each frame instruction and target, or nothing for a glance
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.robots import panda
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.scene_language.scenes import Name, Scene, from_tokens, to_tokens
from vla_ros.scene_language.vocabulary import PAD, decode, encode
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, Task, sample_task
from vla_ros.sim.truth import AHEAD, scene_of, target_of
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.simulation import task_list
from vla_ros.training.genie_videos import wandering_expert
from vla_ros.training.rollout import Observation, Rollout

_ACTION = ActionConfig.get_arm_config()
_SEEDS = FIRST_TRAINING_SEED + 70_000_000  # apart from those of policies and world models
_GLANCES = 1000  # in a part
_EPISODES = 50  # in a part
HORIZON = round(AHEAD / _ACTION.dt)  # frames, and points of a chunk, that a plan is ahead
_EVERY = 3  # frames of an episode at 20 Hz: the next two look the same
_LONGEST = 48  # tokens of a scene
_REACH = ((0.33, 0.66), (-0.28, 0.28), (0.03, 0.30))  # m, of the tool in a glance
_MAX_SECONDS = 8.0
_TAIL = 0.6  # s recorded after a success
_MAX_LATENCY = 6  # ticks of 10 ms, not reached
_ARRAYS = ("tokens", "proprioception", "plans", "scenes")


@dataclass(frozen=True)
class Sighting:
    """One frame. Arrays are as in the module's text; `after` is None for a glance."""

    tokens: np.ndarray
    proprioception: np.ndarray
    plan: np.ndarray
    scene: Scene
    after: Scene | None = None
    instruction: str = ""
    target: Name | None = None


class Sightings:
    """The sightings of some folders, in their order; they stay on the disk until looked at.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, folders: list[Path]) -> None:
        if not folders:
            raise ValueError("no sightings: collect some first")
        self._arrays = [
            {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
            for folder in folders
        ]
        self._told = [json.loads((folder / "told.json").read_text()) for folder in folders]
        self._ends = np.cumsum([len(told) for told in self._told])
        told = [one for part in self._told for one in part]
        self.watched = np.flatnonzero([one is not None for one in told])  # those of episodes

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Sighting:
        part = int(np.searchsorted(self._ends, number, side="right"))
        row = number - (int(self._ends[part - 1]) if part else 0)
        arrays, told = self._arrays[part], self._told[part][row]
        scene, after = (_scene(ids) for ids in arrays["scenes"][row])
        instruction, target = told or ("", None)
        return Sighting(
            arrays["tokens"][row], arrays["proprioception"][row], arrays["plans"][row],
            scene, after, instruction, Name(*target) if target else None,
        )  # fmt: skip


def _scene(ids: np.ndarray) -> Scene | None:
    return from_tokens(decode(ids[ids != PAD])) if ids[0] != PAD else None


def collect(
    folder: Path, model: VisionLanguageActionModel, glances: int, episodes: int, seed: int
) -> Sightings:
    """Record into parts of `folder`; parts that are there stay.

    Args:
        folder: each part appears in it whole or not at all.
        model: whose encoder sees.
        glances: how many tables are looked at once.
        episodes: how many are watched, the families of tasks taking turns.
        seed: the same give the same sightings.
    """
    world = ArmWorld()
    parts = [(_glances, "glances", i, _GLANCES) for i in range(0, glances, _GLANCES)]
    parts += [(_episodes, "episodes", i, _EPISODES) for i in range(0, episodes, _EPISODES)]
    folders = [folder / f"{name}-{start:06d}" for _, name, start, _ in parts]
    total = {"glances": glances, "episodes": episodes}
    missing = [part for part, target in zip(parts, folders, strict=True) if not target.exists()]
    for record, name, start, size in tqdm(missing, desc="sightings", unit="part"):
        rng = np.random.default_rng([seed, name == "episodes", start])
        first = _SEEDS + seed * 1_000_000 + (500_000 if name == "episodes" else 0) + start
        count = min(size, total[name] - start)
        _write(folder / f"{name}-{start:06d}", list(record(world, model, first, count, rng)))
    world.close()
    return Sightings(folders)


def _write(folder: Path, sightings: list[Sighting]) -> None:
    with whole_folder(folder) as partial:
        np.save(partial / "tokens.npy", np.stack([s.tokens for s in sightings]))
        felt = [s.proprioception for s in sightings]
        np.save(partial / "proprioception.npy", np.array(felt, np.float32))
        np.save(partial / "plans.npy", np.array([s.plan for s in sightings], np.float32))
        scenes = np.full((len(sightings), 2, _LONGEST), PAD, np.int16)
        for row, sighting in zip(scenes, sightings, strict=True):
            for ids, scene in zip(row, (sighting.scene, sighting.after), strict=True):
                if scene is not None:
                    said = encode(to_tokens(scene))
                    ids[: len(said)] = said
        np.save(partial / "scenes.npy", scenes)
        told = [(s.instruction, s.target) if s.after else None for s in sightings]
        (partial / "told.json").write_text(json.dumps(told))


def _glances(
    world: ArmWorld,
    model: VisionLanguageActionModel,
    first: int,
    count: int,
    rng: np.random.Generator,
) -> Iterator[Sighting]:
    rollout = Rollout(world, image_size=model.image_size)
    for family, number in task_list(FAMILIES, count, first):
        yield glance(rollout, model, sample_task(family, number), rng)[0]


def glance(
    rollout: Rollout, model: VisionLanguageActionModel, task: Task, rng: np.random.Generator
) -> tuple[Sighting, Observation]:
    """A table laid out for a task, the arm anywhere above it; and what the cameras show."""
    world = rollout.world
    world.reset(task)
    place = rng.uniform(*np.transpose(_REACH))
    joints = rollout.kinematics.solve(panda.HOME[:-1], place, iterations=40)
    world.pose(np.append(joints, rng.choice([panda.GRIPPER_OPEN, panda.GRIPPER_CLOSED])))
    seen = rollout.observe()
    tokens = model.encode(seen.images)
    return Sighting(tokens, seen.proprioception, np.zeros(4), scene_of(world)), seen


def _episodes(
    world: ArmWorld,
    model: VisionLanguageActionModel,
    first: int,
    count: int,
    rng: np.random.Generator,
) -> Iterator[Sighting]:
    for family, number in task_list(FAMILIES, count, first):
        latency = int(rng.integers(_MAX_LATENCY))
        rollout = Rollout(world, image_size=model.image_size, dt=_ACTION.dt, latency_ticks=latency)
        yield from watch(rollout, model, family, number, wandering_expert(world, rng))


def watch(rollout: Rollout, model: VisionLanguageActionModel, family: str, number: int, actor):
    """Sightings of an episode that `actor` drives, every third frame until its plan is done.

    Frames in which something is outside the box that scenes describe are left out.
    """
    world, task = rollout.world, sample_task(family, number)
    seen: list[tuple[Observation, np.ndarray, Scene | None, Name]] = []

    def act(observation: Observation) -> np.ndarray:
        chunk = actor(observation)
        try:
            scene = scene_of(world)
        except ValueError:
            scene = None
        seen.append((observation, chunk[HORIZON - 1], scene, target_of(world)))
        return chunk

    limit = min(task.time_limit, _MAX_SECONDS)
    rollout.run(task, act, max_seconds=limit, tail_seconds=_TAIL)
    for i in range(0, len(seen) - HORIZON, _EVERY):
        (observation, plan, scene, target), after = seen[i], seen[i + HORIZON][2]
        if scene is not None and after is not None:
            yield Sighting(
                model.encode(observation.images), observation.proprioception, plan,
                scene, after, task.instruction, target,
            )  # fmt: skip
