"""Demonstrations from the simulated arm: by the expert, or by a learner with expert labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.models.observation_encoder import ObservationEncoder
from vla_ros.models.policy import Policy, load_policy
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.descriptions import SENTENCES
from vla_ros.scene_language.instructions import DIRECTIONS, FAMILIES, Goal, phrase
from vla_ros.sim.arm import CAMERAS, ArmWorld
from vla_ros.sim.conditions import MAX_DISTRACTORS, training_stage
from vla_ros.sim.experts import expert_chunk, expert_description
from vla_ros.sim.tasks import DIRECTION_VECTORS, Outcome, Task
from vla_ros.training.data.arrays import check_sums, damaged, map_array, write_sums
from vla_ros.training.rollout import Observation, Rollout

_TAIL = 0.6  # s recorded after a success, so that "done" is seen
_MAX_LEARNER_SECONDS = 8.0
_LABELS = {  # type, and shape after that of the frames
    "actions": ("float32", (None, 4)),
    "locate": ("float32", (6,)),
    "pixels": ("float32", (None, 2, 2)),
    "description": ("uint16", ()),
    "instruction": ("S", ()),
}
_PER_FRAME = {
    "images": ("uint8", (None, None, None, 3)),
    "proprioception": ("float32", (4,)),
    "done": ("uint8", ()),
    **_LABELS,
    **{f"other_{name}": what for name, what in _LABELS.items()},
}
_ARRAYS = (*_PER_FRAME, "lengths", "succeeded")


@dataclass
class Shard:
    """Episodes one after the other: F frames of E episodes, memory-mapped from one folder.

    Every frame is labelled twice: for the episode's instruction, and ("other") for one of the many
    that the same scene allows and nobody gave. The expert, having no memory, can advise on both; a
    learner that guesses the object from where the arm is heading is wrong on the second.
    """

    images: np.ndarray  # uint8 [F, N, S, S, 3]
    proprioception: np.ndarray  # float32 [F, 4]
    done: np.ndarray  # uint8 [F], the episode's instruction is fulfilled
    actions: np.ndarray  # float32 [F, K, 4], the expert's chunk, m
    locate: np.ndarray  # float32 [F, 6], object and goal from the tool, 0.1 m
    pixels: np.ndarray  # float32 [F, N, 2, 2], row and column of object and goal in each camera
    description: np.ndarray  # uint16 [F], what the expert is doing: place in SENTENCES
    instruction: np.ndarray  # bytes [F], ASCII
    other_actions: np.ndarray
    other_locate: np.ndarray
    other_pixels: np.ndarray
    other_description: np.ndarray
    other_instruction: np.ndarray
    lengths: np.ndarray  # int64 [E], frames
    succeeded: np.ndarray  # uint8 [E]; 2: the expert helped
    depth: np.ndarray | None = None  # float32 [F, N, S, S], m
    rays: np.ndarray | None = None  # float32 [N, S, S, 3], of all frames

    @classmethod
    def load(cls, folder: Path) -> Shard:
        """Raises ValueError for a damaged one, which it names; OSError if a file is missing."""
        check_sums(folder)
        lengths = map_array(folder / "lengths.npy", "int64", (None,))
        if (lengths < 0).any():
            raise damaged(folder / "lengths.npy", "an episode has less than no frames")
        frames = int(lengths.sum())
        arrays = [
            map_array(folder / f"{name}.npy", kind, (frames, *shape))
            for name, (kind, shape) in _PER_FRAME.items()
        ]
        succeeded = map_array(folder / "succeeded.npy", "uint8", lengths.shape)
        if not (folder / "depth.npy").exists():
            return cls(*arrays, lengths, succeeded)
        seen = arrays[0].shape[:4]
        depth = map_array(folder / "depth.npy", "float32", seen)
        rays = map_array(folder / "rays.npy", "float32", (*seen[1:], 3))
        return cls(*arrays, lengths, succeeded, depth, rays)


class _Recorder:
    """Collects the frames of one episode while something drives the arm."""

    def __init__(self, world: ArmWorld, action: ActionConfig, rng: np.random.Generator) -> None:
        self._world, self._action, self._rng = world, action, rng
        self.frames: list[tuple] = []
        self.depth: list[np.ndarray] = []  # [N, S, S] of each frame, if it was measured
        self.rays: np.ndarray | None = None

    def label(self, observation: Observation) -> np.ndarray:
        """Record the frame with the expert's advice for it; returns the advice [K, 4]."""
        world, task = self._world, self._world.task
        other = _other_goal(task, self._rng)
        horizon, dt = self._action.horizon, self._action.dt
        advice = expert_chunk(world, horizon, dt)
        if observation.frames[0].depth is not None:
            self.depth.append(np.stack([frame.depth for frame in observation.frames]))
            self.rays = np.stack([frame.rays for frame in observation.frames])
        self.frames.append(
            (
                np.stack(observation.images),
                observation.proprioception,
                np.uint8(world.outcome is Outcome.SUCCEEDED),
                advice.astype(np.float32),
                *self._places(task.goal),
                self._description(task.goal),
                np.bytes_(task.instruction, "ascii"),
                expert_chunk(world, horizon, dt, other).astype(np.float32),
                *self._places(other),
                self._description(other),
                np.bytes_(phrase(other, self._rng), "ascii"),
            )
        )
        return advice

    def _places(self, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
        """Where the object and the goal are: from the tool [6], and in each camera [N, 2, 2]."""
        world, task = self._world, self._world.task
        tool, target = world.tool_position(), world.object_positions()[task.index_of(goal)]
        place = target + np.array([0.0, 0.0, 0.1])
        if goal.family == "push":
            place = target + np.append(0.1 * DIRECTION_VECTORS[goal.direction], 0.0)
        elif goal.family in ("pad", "bowl"):
            place = np.array([*(task.pad if goal.family == "pad" else task.bowl), 0.02])
        offsets = np.clip(np.concatenate([target - tool, place - tool]) / 0.1, -5.0, 5.0)
        pixels = [[world.project(camera, p) for p in (target, place)] for camera in CAMERAS]
        return offsets.astype(np.float32), np.array(pixels, dtype=np.float32)

    def _description(self, goal: Goal) -> np.uint16:
        return np.uint16(SENTENCES.index(expert_description(self._world, goal)))


def _other_goal(task: Task, rng: np.random.Generator) -> Goal:
    item = task.objects[int(rng.integers(len(task.objects)))]
    family = FAMILIES[int(rng.integers(len(FAMILIES)))]
    direction = DIRECTIONS[int(rng.integers(len(DIRECTIONS)))] if family == "push" else ""
    return Goal(family, item.color, item.shape, direction)


def collect(
    folder: Path,
    tasks: Sequence[tuple[str, int]],
    seed: int,
    action: ActionConfig,
    image_size: int,
    checkpoint: Path | None = None,
    *,
    hold_out_pairs: bool = False,
    depth: bool = False,
    variants: bool = False,
) -> Path:
    """Record one shard: an episode for each (family, seed) in `tasks`.

    With `depth` the cameras' depth is recorded, too; with `variants` half of the tasks are changed
    by one of `conditions.SPATIAL`.

    Without a checkpoint the expert drives, disturbed now and then; with one the learner drives and
    the expert only labels, taking over at a random moment in half of the episodes (DAgger, Ross et
    al. 2011). A shard that is already there is left alone; it appears whole or not at all.
    """
    if folder.exists():
        return folder
    model = load_policy(checkpoint) if checkpoint else None
    encoder = ObservationEncoder(model) if model else None
    needs = {"depth", "intrinsics"} if depth else encoder.needs if encoder else ()
    rng = np.random.default_rng(seed)
    rollouts: dict[str, Rollout] = {}  # by visuals
    frames, lengths, succeeded, depths, rays = [], [], [], [], None
    for family, task_seed in tasks:
        stage = training_stage(
            family, task_seed, rng, hold_out_pairs=hold_out_pairs, variants=variants
        )
        task = stage.task
        if stage.visuals not in rollouts:
            world = ArmWorld(visuals=stage.visuals, distractors=MAX_DISTRACTORS)
            rollouts[stage.visuals] = Rollout(
                world, image_size=image_size, dt=action.dt, needs=needs
            )
        rollout = rollouts[stage.visuals]
        recorder = _Recorder(rollout.world, action, rng)
        rollout.latency_ticks = stage.latency_ticks
        if model is None:
            actor, helped = _disturbed_expert(recorder, rng), False
            limit = task.time_limit
        else:
            helped = rng.random() < 0.5
            takeover = rng.uniform(0.3, 4.0) if helped else np.inf
            until = round(takeover / action.dt) if helped else None
            actor = _learner(recorder, model, encoder, task, until)
            limit = min(task.time_limit, _MAX_LEARNER_SECONDS)
        outcome = rollout.run(task, actor, max_seconds=limit, tail_seconds=_TAIL)
        frames.extend(recorder.frames)
        if depth:
            depths.extend(recorder.depth)
            rays = recorder.rays
        lengths.append(len(recorder.frames))
        succeeded.append(2 if helped else int(outcome is Outcome.SUCCEEDED))
    for rollout in rollouts.values():
        rollout.world.close()
    arrays = [np.stack(column) for column in zip(*frames, strict=True)]
    arrays += [np.array(lengths), np.array(succeeded, np.uint8)]
    spatial = {"depth": np.stack(depths), "rays": rays} if depth else {}
    _write(folder, dict(zip(_ARRAYS, arrays, strict=True)) | spatial)
    return folder


def _write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
    large = ("images", "depth")
    write_sums(partial, [f"{name}.npy" for name in arrays if name not in large])
    os.replace(partial, folder)


def _disturbed_expert(recorder: _Recorder, rng: np.random.Generator):
    """The expert, pushed off its way in bursts so that the data shows how to come back."""
    left, push, flip = 0, np.zeros(3), False

    def act(observation: Observation) -> np.ndarray:
        nonlocal left, push, flip
        chunk = recorder.label(observation).copy()
        if left == 0 and rng.random() < 0.05:
            left, flip = int(rng.integers(3, 10)), rng.random() < 0.08
            push = rng.normal(0.0, 0.015, 3)
        if left:
            left -= 1
            chunk[:, :3] += push
            if flip:
                chunk[:, 3] = 0.04 - chunk[:, 3]
        return chunk

    return act


def _learner(
    recorder: _Recorder,
    model: Policy,
    encoder: ObservationEncoder,
    task: Task,
    takeover: int | None,
):
    episode = model.start(task.instruction)
    encoder.reset()

    def act(observation: Observation) -> np.ndarray:
        advice = recorder.label(observation)
        if takeover is not None and len(recorder.frames) > takeover:
            return advice
        tokens = encoder.encode(observation.frames)
        return episode.act(tokens, observation.proprioception).actions

    return act


def task_list(families: Iterable[str], count: int, first_seed: int) -> list[tuple[str, int]]:
    """`count` (family, seed) pairs, the families taking turns, every seed used once."""
    families = list(families)
    return [(families[i % len(families)], first_seed + i) for i in range(count)]
