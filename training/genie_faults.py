"""Videos of the simulated arm in which something goes wrong, to measure a world model's surprise.

The arm does what it does in the videos that world models train on (`genie_videos`), until at a
random moment its camera freezes, a hand moves an object, the arm is blocked, or the light changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.arm import CAMERAS, TICK, ArmWorld
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.tasks import WORKSPACE_HIGH, WORKSPACE_LOW, Outcome, Task, sample_task
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.shards import EpisodeShard, shard_folders, write_shards
from vla_ros.training.data.simulation import task_list
from vla_ros.training.genie_robot_actions import plan
from vla_ros.training.genie_videos import record, wandering_expert
from vla_ros.training.rollout import Actor, Observation, Rollout

_ACTION = ActionConfig.get_arm_config()
_SEEDS = 600_000_000  # below FIRST_TRAINING_SEED: of evaluation
_LATENCY = 3  # ticks of 10 ms
_ONSET = (0.6, 2.0)  # s into the episode
_SHOWN = 1.0  # s after the onset that count
_RECORDED = 1.3  # s after the onset
_MOVES = 0.01  # m in a step, from which an arm or an object moves
_HAND_SPEED = (0.15, 0.4)  # m/s
_HAND_WAY = (0.035, 0.055)  # m; the judge ends an episode when another object was moved by 0.06
_APART = 0.12  # m between the tool and what a hand moves
_DIM, _BRIGHT = (0.5, 0.8), (1.25, 1.6)  # factors of the light


class Fault(StrEnum):
    """What goes wrong."""

    FROZEN = "camera frozen"  # it shows the same picture from then on
    MOVED = "object moved"  # by a hand that is not seen: it jumps, or slides
    BLOCKED = "arm blocked"  # it stays where it is, whatever it is told
    LIGHT = "light changed"  # at once


@dataclass(frozen=True)
class FaultyEpisode:
    """An episode and what went wrong in it.

    Args:
        fault: None: nothing.
        onset: s into the episode.
        progress: float32 [T], how much of the fault there is at each frame: m that an object was
            moved by; else 0 or 1.
    """

    episode: Episode
    fault: Fault | None
    onset: float
    progress: np.ndarray

    def shows(self, begin: int, end: int) -> bool:
        """Whether the fault can be seen in the step between two frames.

        Of a frozen camera, that is when the arm moves (1 cm or more), of a blocked arm, when it was
        told to; of an object or the light, when it changes in the step.
        """
        since = self.episode.stamps[begin] - self.onset
        if self.fault in (None, Fault.LIGHT, Fault.MOVED):
            least = _MOVES if self.fault is Fault.MOVED else 0.5
            return bool(self.progress[end] - self.progress[begin] >= least)
        if not (self.progress[begin] and since + (end - begin) * self.episode.dt <= _SHOWN + 1e-6):
            return False
        if self.fault is Fault.FROZEN:
            tool = [self.episode.proprioception_names.index(f"tool_{axis}") for axis in "xyz"]
            way = np.diff(self.episode.proprioception[[begin, end]][:, tool], axis=0)
        else:
            way = plan(self.episode, begin, end - begin)[-1, :3]
        return bool(np.linalg.norm(way) >= _MOVES)


class FaultyWorld(ArmWorld):
    """The simulated arm, in which one thing goes wrong after `plan_fault`."""

    def plan_fault(self, fault: Fault | None, rng: np.random.Generator) -> None:
        """What is to go wrong in the episode that the next `reset` begins."""
        self._fault, self._rng = fault, rng
        self._due = float(rng.uniform(*_ONSET)) if fault else np.inf
        self.onset: float | None = None  # s into the episode; None: not yet
        self.progress = 0.0
        self._pictures: dict[str, np.ndarray] = {}
        self._move: tuple[str, np.ndarray, float] | None = None  # what, m a tick, m in all

    def reset(self, task: Task) -> None:
        super().reset(task)
        self._started = self.time

    @property
    def outcome(self) -> Outcome:
        """The judge's; an episode also ends some time after something went wrong."""
        if self.onset is not None and self.time - self._started > self.onset + _RECORDED:
            return Outcome.FAILED
        return super().outcome

    def tick(self) -> None:
        now = self.time - self._started
        if self.onset is None and now >= self._due and self._begin():
            self.onset = now
        if self.onset is not None:
            self._go_on()
        super().tick()

    def render(self, camera: str, **options) -> np.ndarray:
        if self._fault is Fault.FROZEN and self.onset is not None and camera in self._pictures:
            return self._pictures[camera]
        self._pictures[camera] = picture = super().render(camera, **options)
        return picture

    def _begin(self) -> bool:
        """Start what goes wrong; False if it cannot start yet."""
        if self._fault is Fault.MOVED:
            self._move = self._hand()
            return self._move is not None
        self.progress = 1.0
        if self._fault is Fault.BLOCKED:
            self._held = self.joint_positions()
        elif self._fault is Fault.LIGHT:
            factor = self._rng.uniform(*(_DIM if self._rng.random() < 0.5 else _BRIGHT))
            look = self.model.vis.headlight
            self.model.light("lamp").diffuse[:] *= factor
            look.ambient[:] *= factor
            look.diffuse[:] *= factor
        return True

    def _go_on(self) -> None:
        if self._fault is Fault.BLOCKED:
            self.controller.hold(self._held)
        elif self._fault is Fault.MOVED:
            name, step, whole = self._move
            if self.progress < whole - 1e-6:
                joint = self.data.joint(name)
                joint.qpos[:2] += step
                joint.qvel[:] = 0.0
                self.progress += float(np.linalg.norm(step))

    def _hand(self) -> tuple[str, np.ndarray, float] | None:
        """An object that the arm is not near, and a free way for it; None if there is none."""
        places, tool = self.object_positions()[:, :2], self.tool_position()[:2]
        for index in self._rng.permutation(len(places)):
            others = np.vstack([np.delete(places, index, axis=0), self.task.bowl])
            clear = np.append(np.full(len(others) - 1, 0.07), 0.1)
            for _ in range(20):
                angle, way = self._rng.uniform(-np.pi, np.pi), self._rng.uniform(*_HAND_WAY)
                direction = np.array([np.cos(angle), np.sin(angle)])
                line = places[index] + np.linspace(0, way, 5)[:, None] * direction
                gaps = np.linalg.norm(line[:, None] - others, axis=-1) - clear
                away = np.linalg.norm(line - tool, axis=-1).min()
                inside = (line[-1] > WORKSPACE_LOW).all() and (line[-1] < WORKSPACE_HIGH).all()
                if inside and away > _APART and (gaps > 0).all():
                    jumps = self._rng.random() < 0.5
                    step = way if jumps else self._rng.uniform(*_HAND_SPEED) * TICK
                    item = self.task.objects[index]
                    return f"{item.shape}{index}", step * direction, way
        return None


def collect(folder: Path, fault: Fault | None, count: int, seed: int, image_size: int) -> None:
    """Record `count` episodes; the plain expert and the wandering one take turns.

    Args:
        folder: appears whole or not at all; nothing is done if it is there.
        fault: what goes wrong in each; None: nothing.
        seed: the same give the same videos, of tasks that no training sees.
        image_size: pixels of either side.
    """
    if folder.exists():
        return
    world = FaultyWorld()
    rollout = Rollout(world, image_size=image_size, dt=_ACTION.dt, latency_ticks=_LATENCY)
    kind = list(Fault).index(fault) + 1 if fault else 0
    tasks = task_list(FAMILIES, count, _SEEDS + (seed * (len(Fault) + 1) + kind) * 10_000)
    found = []
    for number, (family, task_seed) in enumerate(tqdm(tasks, desc=fault or "normal")):
        rng = np.random.default_rng([seed, kind, number])
        wandering = (number // len(FAMILIES)) % 2
        task = sample_task(family, task_seed)
        one = _record(rollout, task, fault, rng, wandering=bool(wandering))
        if fault is None or np.isfinite(one.onset):
            found.append(one)
    world.close()
    with whole_folder(folder) as partial:
        write_shards(partial / "videos", [one.episode for one in found], CAMERAS, image_size)
        np.savez(
            partial / "faults.npz",
            onset=[one.onset for one in found],
            progress=np.concatenate([one.progress for one in found]),
        )


def load(folder: Path, fault: Fault | None) -> list[FaultyEpisode]:
    """What `collect` wrote."""
    shards = shard_folders(folder / "videos")
    episodes = [e for shard in shards for e in EpisodeShard.load(shard).episodes()]
    kept = np.load(folder / "faults.npz")
    ends = np.cumsum([len(episode) for episode in episodes])
    progress = np.split(kept["progress"], ends[:-1])
    return [
        FaultyEpisode(episode, fault, float(onset), part)
        for episode, onset, part in zip(episodes, kept["onset"], progress, strict=True)
    ]


def _record(
    rollout: Rollout, task: Task, fault: Fault | None, rng: np.random.Generator, *, wandering: bool
) -> FaultyEpisode:
    world = rollout.world
    world.plan_fault(fault, rng)
    drive = wandering_expert(world, rng) if wandering else _expert(world)
    progress = []

    def act(observation: Observation) -> np.ndarray:
        progress.append(world.progress)
        return drive(observation)

    episode = record(rollout, task, act, name=f"{fault or 'normal'} {task.family} {task.seed}")
    onset = np.inf if world.onset is None else world.onset
    return FaultyEpisode(episode, fault, onset, np.array(progress, np.float32))


def _expert(world: ArmWorld) -> Actor:
    return lambda observation: expert_chunk(world, _ACTION.horizon, _ACTION.dt)
