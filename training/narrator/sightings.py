"""What the simulated arm sees, with what is true: pictures for the narrator, from physics.

A narrator must find things wherever they stand, so most sightings are of many tables, a glance at
each: things laid out anew, the arm anywhere above them. The others are of episodes, for what only
happens there: things held, pushed, put down. The folder of a part is a memory-mapped array each:

    images.npy           uint8 [F, N, S, S, 3], of the narrator's cameras
    pixels.npy           float32 [F, N, 8, 2], where in them are the centres of the scene's things
                         (six at most), the gripper and the robot's foot: row and column from -1 to
                         1; NaN outside, and where there is no thing
    proprioception.npy   float32 [F, 4], tool x, y, z and finger opening, m
    plans.npy            float32 [F, 4], a point of the action chunk: offset of the tool, fingers
    scenes.npy           int16 [F, 2, L], spatial tokens of now and of when that point is due
    told.json            for each frame instruction and target, or nothing for a glance
    tasks.json           how many tables were laid out
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla_ros.observations import preprocess_image, proprioception
from vla_ros.robots import panda
from vla_ros.robots.action_config import ActionConfig
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.scene_language.scenes import BOWL, PAD, Name, Scene, from_tokens, to_tokens
from vla_ros.scene_language.vocabulary import PAD as NO_ID
from vla_ros.scene_language.vocabulary import decode, encode
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, Task, sample_task
from vla_ros.sim.truth import AHEAD, scene_of, target_of
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.provenance import Provenance, code, remove_stale
from vla_ros.training.data.simulation import task_list
from vla_ros.training.genie_videos import wandering_expert
from vla_ros.training.rollout import Actor, Observation, Rollout

_ACTION = ActionConfig.get_arm_config()
_SEEDS = FIRST_TRAINING_SEED + 70_000_000  # apart from those of policies and world models
_GLANCES = 1000  # in a part
_EPISODES = 50  # in a part
HORIZON = round(AHEAD / _ACTION.dt)  # frames, and points of a chunk, that a plan is ahead
_EVERY = 3  # frames of an episode at 20 Hz: the next two look the same
_LONGEST = 48  # tokens of a scene
THINGS = 6  # of a scene at most: three are movable
_REACH = ((0.33, 0.66), (-0.28, 0.28), (0.03, 0.30))  # m, of the tool in a glance
_MAX_SECONDS = 8.0
_TAIL = 0.6  # s recorded after a success
_MAX_LATENCY = 6  # ticks of 10 ms, not reached
_ARRAYS = ("images", "pixels", "proprioception", "plans", "scenes")


@dataclass(frozen=True)
class Sighting:
    """One frame. Arrays are as in the module's text; `after` is None for a glance."""

    images: np.ndarray
    pixels: np.ndarray
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
            *(arrays[name][row] for name in _ARRAYS[:-1]),
            scene, after, instruction, Name(*target) if target else None,
        )  # fmt: skip


def _scene(ids: np.ndarray) -> Scene | None:
    return from_tokens(decode(ids[ids != NO_ID])) if ids[0] != NO_ID else None


@dataclass(frozen=True)
class Cameras:
    """Which cameras the narrator has, and how many pixels either side of their images has."""

    names: tuple[str, ...] = ("camera",)
    image_size: int = 128

    def look(self, world: ArmWorld, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """What they show now, and where the things of `scene` are in it: see the module's text."""
        images = [preprocess_image(world.render(name), self.image_size) for name in self.names]
        task = world.task
        centres = {
            Name(item.color, item.shape): centre
            for item, centre in zip(task.objects, world.object_positions(), strict=False)
        }
        centres |= {PAD: np.array([*task.pad, 0.0]), BOWL: np.array([*task.bowl, 0.0])}
        points = [centres[thing.name] for thing in scene.things]
        points += [np.full(3, np.nan)] * (THINGS - len(points))
        points += [world.tool_position(), np.zeros(3)]
        pixels = [[world.project(name, point) for point in points] for name in self.names]
        return np.stack(images), np.array(pixels, np.float32)


def collect(folder: Path, cameras: Cameras, glances: int, episodes: int, seed: int) -> Sightings:
    """Record into parts of `folder`; parts that are there stay.

    All are recorded anew if other cameras, another seed or version of the package made them.

    Args:
        folder: each part appears in it whole or not at all.
        cameras: what the narrator sees with.
        glances: how many tables are looked at once.
        episodes: how many are watched, the families of tasks taking turns.
        seed: the same give the same sightings.
    """
    world = ArmWorld()
    parts = [(_glances, "glances", i, _GLANCES) for i in range(0, glances, _GLANCES)]
    parts += [(_episodes, "episodes", i, _EPISODES) for i in range(0, episodes, _EPISODES)]
    folders = [folder / f"{name}-{start:06d}" for _, name, start, _ in parts]
    total = {"glances": glances, "episodes": episodes}
    settings = {"cameras": cameras.names, "image size": cameras.image_size, "seed": seed}
    made_from = Provenance(json.loads(json.dumps(settings)), {}, code(__name__))
    remove_stale(folder, made_from)
    folder.mkdir(parents=True, exist_ok=True)
    made_from.save(folder)
    for (_, name, start, size), target in zip(parts, folders, strict=True):
        # The last glances or episodes may have been fewer.
        if target.exists() and _attempts(target) != min(size, total[name] - start):
            shutil.rmtree(target)
    missing = [part for part, target in zip(parts, folders, strict=True) if not target.exists()]
    for record, name, start, size in tqdm(missing, desc="sightings", unit="part"):
        rng = np.random.default_rng([seed, name == "episodes", start])
        first = _SEEDS + seed * 1_000_000 + (500_000 if name == "episodes" else 0) + start
        count = min(size, total[name] - start)
        seen = list(record(world, cameras, first, count, rng))
        _write(folder / f"{name}-{start:06d}", seen, count)
    world.close()
    return Sightings(folders)


def _attempts(part: Path) -> int:
    file = part / "tasks.json"
    return json.loads(file.read_text()) if file.is_file() else 0


def _write(folder: Path, sightings: list[Sighting], tasks: int) -> None:
    with whole_folder(folder) as partial:
        for name, values in (
            ("images", [s.images for s in sightings]),
            ("pixels", [s.pixels for s in sightings]),
            ("proprioception", np.array([s.proprioception for s in sightings], np.float32)),
            ("plans", np.array([s.plan for s in sightings], np.float32)),
            ("scenes", [[_ids(s.scene), _ids(s.after)] for s in sightings]),
        ):
            np.save(partial / f"{name}.npy", values)
        told = [(s.instruction, s.target) if s.after else None for s in sightings]
        (partial / "told.json").write_text(json.dumps(told))
        (partial / "tasks.json").write_text(json.dumps(tasks))


def _ids(scene: Scene | None) -> np.ndarray:
    said = [] if scene is None else encode(to_tokens(scene))
    return np.array(said + [NO_ID] * (_LONGEST - len(said)), np.int16)


def _glances(
    world: ArmWorld, cameras: Cameras, first: int, count: int, rng: np.random.Generator
) -> Iterator[Sighting]:
    kinematics = ArmKinematics()
    for family, number in task_list(FAMILIES, count, first):
        yield glance(world, kinematics, cameras, sample_task(family, number), rng)


def glance(
    world: ArmWorld,
    kinematics: ArmKinematics,
    cameras: Cameras,
    task: Task,
    rng: np.random.Generator,
) -> Sighting:
    """A table laid out for a task, the arm anywhere above it."""
    world.reset(task)
    place = rng.uniform(*np.transpose(_REACH))
    joints = kinematics.solve(panda.HOME[:-1], place, iterations=40)
    world.pose(np.append(joints, rng.choice([panda.GRIPPER_OPEN, panda.GRIPPER_CLOSED])))
    scene, felt = scene_of(world), proprioception(world.joint_positions(), kinematics)
    return Sighting(*cameras.look(world, scene), felt, np.zeros(4), scene)


def _episodes(
    world: ArmWorld, cameras: Cameras, first: int, count: int, rng: np.random.Generator
) -> Iterator[Sighting]:
    for family, number in task_list(FAMILIES, count, first):
        latency = int(rng.integers(_MAX_LATENCY))
        rollout = Rollout(
            world, image_size=cameras.image_size, dt=_ACTION.dt, latency_ticks=latency
        )
        actor = wandering_expert(world, rng)
        yield from (sight for sight, _ in watch(rollout, cameras, family, number, actor))


def watch(
    rollout: Rollout, cameras: Cameras, family: str, number: int, actor: Actor
) -> Iterator[tuple[Sighting, int]]:
    """Sightings of an episode that `actor` drives, and the number of each frame in it: every third
    frame until its plan is done.

    Frames in which something is outside the box that scenes describe are left out.
    """
    world, task = rollout.world, sample_task(family, number)
    seen: list[Sighting | None] = []
    scenes: list[Scene | None] = []

    def act(observation: Observation) -> np.ndarray:
        target = target_of(world)
        try:
            scene = scene_of(world)
        except ValueError:
            scene = None
        shown = scene is not None and len(scenes) % _EVERY == 0
        looked = cameras.look(world, scene) if shown else None
        chunk = actor(observation)
        plan = chunk[HORIZON - 1]
        seen.append(
            Sighting(
                *looked, observation.proprioception, plan, scene, None, task.instruction, target
            )
            if looked
            else None
        )
        scenes.append(scene)
        return chunk

    limit = min(task.time_limit, _MAX_SECONDS)
    rollout.run(task, act, max_seconds=limit, tail_seconds=_TAIL)
    for i in range(0, len(seen) - HORIZON, _EVERY):
        if seen[i] is not None and scenes[i + HORIZON] is not None:
            yield replace(seen[i], after=scenes[i + HORIZON]), i
