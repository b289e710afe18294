"""Runs a policy along recordings: what would it have done on each frame, beside what was done.

The recording goes on whatever the policy wants ("open loop"), so errors do not add up. The inputs
are those that training makes of the same recordings.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla_ros.models.compatibility import (
    Compatibility,
    Difference,
    camera_differences,
    proprioception_order,
    with_recordings,
)
from vla_ros.models.observation_encoder import ObservationEncoder
from vla_ros.models.policy import Policy
from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.episode_windows import action_chunks
from vla_ros.training.data.recordings import Robot
from vla_ros.training.metrics import (
    ChunkErrors,
    distance_figures,
    path_length,
    trajectory_distance,
)

NO_SENTENCES = "no sentences in these recordings"
_TOOL = ("tool_x", "tool_y", "tool_z")


@dataclass(frozen=True)
class Followed:
    """One episode and what the policy made of it."""

    episode: Episode
    chunks: np.ndarray  # [T, K, A], physical units
    times: np.ndarray  # [T, 2], s of processor time: encoding, acting


class Recordings:
    """A policy and the recordings that it is to be measured on.

    Args:
        model: the policy.
        robot: how recordings are read; see `Robot.load`.
        checkpoint: name of the policy's, for messages.

    Raises:
        ValueError: the policy's actions are not the robot's, or it feels what was not recorded.
    """

    def __init__(self, model: Policy, robot: Robot, checkpoint: str) -> None:
        self._model = model
        self._encoder = ObservationEncoder(model)
        self._robot = robot.seeing(self._encoder.needs)
        self._fit = with_recordings(model, robot.action, checkpoint=checkpoint).require()
        self._felt = proprioception_order(model, robot.action.proprioception_names)
        self._left_out: dict[str, Difference] = {}  # cameras, by what is said of them

    @property
    def compatibility(self) -> Compatibility:
        """What differs between the policy and the recordings that were followed so far."""
        return replace(self._fit, differences=(*self._fit.differences, *self._left_out.values()))

    def figures(self, paths: Sequence[Path], progress: Any = iter) -> dict[str, Any]:
        """Follow all episodes of `paths`.

        Those that failed when they were recorded are left out, as in training.

        Args:
            paths: as `Robot.episodes` takes them.
            progress: wraps the iterator of episodes.

        Raises:
            ValueError: a recording cannot be read or is of another robot, there is none, or the
                policy takes none of the instructions.
        """
        torch.set_num_threads(1)
        action = self._model.action_config
        errors = ChunkErrors(action.action_names, action.horizon)
        runs, times, kinds = [], [], set()
        episodes, left_out = Counter(), Counter()
        for path, episode in progress(self._episodes(paths)):
            if episode.outcome is False:  # nobody learns from it either
                left_out["failed when it was recorded"] += 1
                continue
            try:
                followed = self.follow(episode)
            except RefusedInstruction as error:
                left_out[f"instruction refused: {error}"] += 1
                continue
            episodes[str(path)] += 1
            run = {"name": episode.name, "instruction": episode.instruction, "frames": len(episode)}
            add_errors(errors, followed, action, self._model.mean_action)
            trajectories = paths_of(followed, action)
            if trajectories is not None:
                recorded, wanted, *kind = trajectories
                kinds.add(tuple(kind))
                run["distance"] = trajectory_distance(wanted, recorded)
                run["length"] = path_length(recorded)
            runs.append({**run, "notes": list(episode.notes)})
            times.append(followed.times)
        if not runs:
            reasons = "".join(f"; {count} {reason}" for reason, count in left_out.items())
            raise ValueError(f"no episode to follow in {', '.join(map(str, paths))}{reasons}")
        trajectory = None
        if kinds:
            ((compares, unit),) = kinds
            trajectory = {
                "compares": compares,
                "unit": unit,
                "all": distance_figures(
                    *([r[key] for r in runs] for key in ("distance", "length"))
                ),
            }
        return {
            "episodes": dict(episodes),
            "left_out": dict(left_out),
            "actions": {
                "compares": "the policy's chunk on each frame with what was done from there on",
                **errors.figures(),
            },
            "trajectory": trajectory,
            "sentences": NO_SENTENCES,
            "inference_ms": time_figures(np.concatenate(times)),
            "runs": runs,
        }

    def _episodes(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Episode]]:
        for path in paths:
            for episode in self._robot.episodes([path]):
                if len(episode):
                    yield path, episode

    def follow(self, episode: Episode) -> Followed:
        """The policy's chunk on each frame; its memory goes on from frame to frame.

        Raises:
            RefusedInstruction: the policy knows too few of the words.
            ValueError: the episode lacks one of the policy's cameras.
        """
        model = self._model
        try:
            run = model.start(episode.instruction or None)
        except ValueError as error:
            raise RefusedInstruction(str(error)) from None
        differences = camera_differences(model, tuple(episode.pictures))
        self._left_out |= {str(one): one for one in differences if one.runs}
        chunks, times = [], []
        encoder = self._encoder
        encoder.reset()
        seen = episode.camera_frames(model.cameras, model.image_size, encoder.needs)
        felt = episode.proprioception[:, self._felt]
        for frames, numbers, stamp in zip(seen, felt, episode.stamps, strict=True):
            began = time.process_time()
            tokens = encoder.encode(frames, stamp)
            encoded = time.process_time()
            chunks.append(run.act(tokens, numbers).actions)
            times.append((encoded - began, time.process_time() - encoded))
        if blind := encoder.nothing_measured():
            names = ", ".join(model.cameras[index] for index in blind)
            raise ValueError(
                f"{episode.name}: nothing that {names} saw has a place by the policy's geometry "
                f"'{encoder.kind}': look at the range and unit of its depth (m, or mm of 16 bits)"
            )
        return Followed(episode, np.array(chunks), np.array(times))


class RefusedInstruction(ValueError):
    """The policy does not take the instruction of an episode."""


def add_errors(
    errors: ChunkErrors, followed: Followed, action: ActionConfig, before: np.ndarray
) -> None:
    """Add an episode: the policy's chunks, and beside them the last action, simply repeated.

    `before` [A] stands for the last action on the first frame.
    """
    episode = followed.episode
    wanted, known = action_chunks(episode, action)
    last = np.concatenate([before[None], episode.actions[:-1]])
    if action.control_mode == "end_effector_offset":
        # The same place in space, told from where the tool is by now.
        tool = _tool(episode)
        last[1:, [action.action_names.index(name) for name in "xyz"]] += tool[:-1] - tool[1:]
    repeated = np.repeat(last[:, None], action.horizon, axis=1)
    errors.add(wanted, known, {"policy": followed.chunks, "last_action": repeated})


def _tool(episode: Episode) -> np.ndarray:
    """Where the tool was on each frame [T, 3], m."""
    felt = list(episode.proprioception_names)
    return episode.proprioception[:, [felt.index(name) for name in _TOOL]]


def paths_of(
    followed: Followed, action: ActionConfig
) -> tuple[np.ndarray, np.ndarray, str, str] | None:
    """The recorded trajectory [T, D] and the policy's, what they are, and their unit.

    The policy's is of the first action of each chunk, the one that is due on that frame. None if
    all actions are binary: nothing moves along a path then.
    """
    episode, kept = followed.episode, followed.episode.actions_known
    done, first = episode.actions[kept], followed.chunks[kept, 0]
    names = list(action.action_names)
    moving = [i for i, binary in enumerate(action.binary) if not binary]
    space = [names.index(name) for name in "xyz"] if {*"xyz"} <= {*names} else None
    if action.control_mode == "end_effector_offset":
        tool = _tool(episode)[kept]
        recorded, wanted = (tool + told[:, space] for told in (done, first))
        return recorded, wanted, "where the tool was sent, and where the policy would send it", "m"
    if not moving:
        return None
    if action.control_mode.endswith("_delta"):
        summed = space or moving
        recorded, wanted = (np.cumsum(told[:, summed], axis=0) for told in (done, first))
        unit = "m" if space else "as recorded"
        return (
            recorded,
            wanted,
            "the paths that the recorded and the policy's steps add up to",
            unit,
        )
    recorded, wanted = done[:, moving], first[:, moving]
    return recorded, wanted, "the recorded commands and the policy's, as a sequence", "as recorded"


def time_figures(times: np.ndarray) -> dict[str, Any]:
    """Milliseconds of [T, 2] s of encoding and of acting.

    Returns:
        {"encode": {"median", "p95", "percentiles": of 0, 5, ... 100}, "act": ..., "both": ...}
    """
    times = 1e3 * np.asarray(times)
    columns = {"encode": times[:, 0], "act": times[:, 1], "both": times.sum(axis=1)}
    return {
        name: {
            "median": float(np.median(values)),
            "p95": float(np.quantile(values, 0.95)),
            "percentiles": np.quantile(values, np.linspace(0, 1, 21)).tolist(),
        }
        for name, values in columns.items()
    }
