"""What SpatialVLA learns from: pictures, instructions and chunks of motions, from any source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.models.spatial_vla.motions import Motions
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.episode_windows import action_chunks
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.simulation import Shard
from vla_ros.training.recorded_data import load, shards, split

_DONE = 0.25  # s at the end of a success in which the instruction counts as fulfilled


@dataclass(frozen=True)
class Demonstration:
    """T frames of one robot.

    Args:
        name: for messages.
        instructions: of each frame; empty where nobody gave one.
        motions: float64 [T, K, 7], the next K motions from each frame on, in the robot's units.
        known: bool [T, K], which of them were recorded.
        done: bool [T], the instruction is fulfilled.
        images: frame -> uint8 [N, S, S, 3] of its N cameras.
    """

    name: str
    instructions: Sequence[str]
    motions: np.ndarray
    known: np.ndarray
    done: np.ndarray
    images: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.motions)


def of_episode(episode: Episode, motions: Motions, cameras: Sequence[str]) -> Demonstration:
    """Of a recorded episode, by the action chunks that every policy here learns from.

    Raises:
        ValueError: it lacks a camera, or what its actions are told from.
    """
    if missing := [camera for camera in cameras if camera not in episode.cameras]:
        there = ", ".join(episode.cameras) or "none"
        raise ValueError(f"{episode.name} has no camera {missing[0]!r}; it has: {there}")
    chunks, known = action_chunks(episode, motions.action)
    ended = np.arange(len(episode)) >= len(episode) - round(_DONE / episode.dt)

    def images(frame: int) -> np.ndarray:
        seen = [next(iter(episode.frames(camera, frame, frame + 1))) for camera in cameras]
        return np.stack(seen)

    return Demonstration(
        episode.name,
        [episode.instruction] * len(episode),
        motions.of_chunks(chunks),
        motions.known(known),
        ended & bool(episode.outcome),
        images,
    )


def of_simulation(folder: Path, motions: Motions, cameras: Sequence[int] = (0,)) -> list:
    """Of a shard of the simulator's demonstrations, two: by the instructions that were given, and
    by others that the same scenes allow, which teach to heed the words.

    Args:
        cameras: places of the cameras among those recorded.
    """
    shard, picked = Shard.load(folder), list(cameras)
    steps = motions.action.horizon
    if shard.actions.shape[1] < steps:
        raise ValueError(f"{folder} has chunks of {shard.actions.shape[1]} actions, not {steps}")
    done = shard.done.astype(bool)
    found = []
    for kind, fulfilled in (("", done), ("other_", np.zeros_like(done))):
        chunks = getattr(shard, f"{kind}actions")[:, :steps]
        words = getattr(shard, f"{kind}instruction")
        found.append(
            Demonstration(
                f"{folder}{kind and ', other instructions'}",
                [str(text, "ascii") for text in words],
                motions.of_chunks(chunks),
                np.ones(chunks.shape[:2], bool),
                fulfilled,
                lambda frame: shard.images[frame, picked],
            )
        )
    return found


def read_recordings(
    robot: Robot,
    data: Sequence[Path],
    out: Path,
    image_size: int,
    motions: Motions,
    cameras: Sequence[str] = (),
    held_out: float = 0.1,
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Demonstrations to train on and held-out ones, of recordings that `robot` describes.

    They are written once, at the size of the model's images, to out/data; failed episodes are left
    out. See `recorded_data`.

    Args:
        cameras: those of the robot if empty, or all that were recorded.
        held_out: share of the episodes.

    Raises:
        ValueError: the recordings cannot be read, or are not of the robot.
    """
    episodes = load(shards(robot, data, out, image_size))
    names = tuple(cameras) or tuple(robot.cameras) or episodes[0].cameras
    trained, held = (
        [of_episode(episode, motions, names) for episode in part]
        for part in split(episodes, held_out)
    )
    return trained, held
