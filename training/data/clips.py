"""Training batches for world models: short clips of videos at the world model's period."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.provenance import Provenance, remove_stale
from vla_ros.training.data.recordings import Robot
from vla_ros.training.data.shards import EpisodeShard, shard_folders, write_shards
from vla_ros.training.data.simulation import Shard
from vla_ros.training.data.sources import Kind, sources

_POLICY_CAMERAS = ("camera", "wrist_camera")  # of the shards that policies train on


class Clips:
    """Clips of T frames `dt` apart, drawn uniformly; every phase of an episode serves.

    Args:
        episodes: whose pictures have the size of the model's.
        camera: which of their pictures.
        dt: s between the frames of a clip.

    Raises:
        ValueError: `dt` is no multiple of the time between an episode's frames.
    """

    def __init__(self, episodes: Sequence[Episode], camera: str, dt: float) -> None:
        self.episodes, self.camera = list(episodes), camera
        self.strides = [stride_of(episode, dt) for episode in self.episodes]
        # Each phase of an episode is a sequence of its own: episode, first frame, frames.
        rows = [
            (number, phase, len(range(phase, len(episode), stride)))
            for number, (episode, stride) in enumerate(
                zip(self.episodes, self.strides, strict=True)
            )
            for phase in range(min(stride, len(episode)))
        ]
        self.rows = np.array(rows, dtype=np.int64).reshape(-1, 3)

    def pick(
        self, rng: np.random.Generator, count: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`count` clips of `length` frames: which of `rows`, and the first frame in it.

        Raises:
            ValueError: no episode is that long.
        """
        places = np.maximum(self.rows[:, 2] - length + 1, 0)
        ends = np.cumsum(places)
        if not len(ends) or not ends[-1]:
            raise ValueError(f"no episode has {length} frames at the world model's period")
        picks = rng.integers(ends[-1], size=count)
        row = np.searchsorted(ends, picks, side="right")
        return row, picks - (ends[row] - places[row])

    def batch(
        self, seed: int, step: int, count: int, length: int, rank: int = 0
    ) -> dict[str, Tensor]:
        """The clips of (seed, step, rank): "frames" uint8 [count, length, S, S, 3]."""
        rng = np.random.default_rng([seed, step, rank])
        clips = []
        for row, first in zip(*self.pick(rng, count, length), strict=True):
            number, phase, _ = self.rows[row]
            index = phase + self.strides[number] * np.arange(first, first + length)
            clips.append(self.frames(int(number), index))
        return {"frames": torch.from_numpy(np.stack(clips))}

    def frames(self, number: int, index: np.ndarray) -> np.ndarray:
        """Frames `index`, evenly spaced, of an episode: uint8 [T, S, S, 3]."""
        first, last = int(index[0]), int(index[-1]) + 1
        stride = int(index[1] - index[0]) if len(index) > 1 else 1
        read = self.episodes[number].frames(self.camera, first, last)
        return np.stack([picture for i, picture in enumerate(read) if i % stride == 0])

    def sequences(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every phase of every episode, whole: episode, and which frames of it."""
        for number, phase, length in self.rows:
            yield int(number), phase + self.strides[number] * np.arange(length)


def stride_of(episode: Episode, dt: float) -> int:
    """How many frames of the episode are `dt` apart. Raises ValueError: no whole number."""
    stride = round(dt / episode.dt)
    if stride < 1 or abs(stride * episode.dt - dt) > 0.01 * dt:
        raise ValueError(
            f"{episode.name} has a frame every {episode.dt:g} s, the world model one every "
            f"{dt:g} s: give a multiple with --dt"
        )
    return stride


def videos(
    paths: Sequence[Path], robot: str | None, camera: str, image_size: int, folder: Path
) -> list[Episode]:
    """Episodes whose pictures are `image_size` pixels wide and mapped from disk.

    Args:
        paths: bags, RLDS datasets, shards of `write_shards`, shards that policies were trained on
            in simulation, or folders of any of them.
        robot: what recordings are of; shards need none.
        camera: which pictures.
        image_size: S.
        folder: recordings are written here once, as shards, and again if they change; nothing is if
            there are only shards.

    Raises:
        ValueError: a path cannot be read, needs a robot, or has other pictures.
    """
    found: list[Episode] = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        # Folders with a dot before their name are being written.
        inside = [] if path.is_file() else sorted(path.glob("[!.]*"))
        if simulated := [part for part in inside if (part / "lengths.npy").is_file()]:
            episodes = [e for shard in simulated for e in policy_episodes(shard)]
        elif (shards := _shards_alone(path)) is not None:
            episodes = [e for shard in shards for e in EpisodeShard.load(shard).episodes()]
        else:
            if robot is None:
                raise ValueError(
                    f"{path} holds more than shards: give --robot to read its recordings"
                )
            place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
            target = folder / f"{path.resolve().name}-{place}"
            contract = Robot.load(robot)
            settings = {"robot": asdict(contract), "camera": camera, "image size": image_size}
            read = [path, *map(Path, contract.msg)]
            now = Provenance.of(read, settings, Provenance.load(target))
            remove_stale(target, now, [path])
            if not target.exists():
                episodes = contract.episodes([path])
                write_shards(target, episodes, (camera,), image_size, provenance=now)
            shards = shard_folders(target)
            episodes = [e for shard in shards for e in EpisodeShard.load(shard).episodes()]
        for episode in episodes:
            if len(episode) and (size := next(episode.frames(camera, 0, 1)).shape[0]) != image_size:
                raise ValueError(
                    f"{episode.name} has pictures of {size} pixels, the model {image_size}"
                )
        found += [episode for episode in episodes if len(episode)]
    if not found:
        raise ValueError(f"no episodes in {', '.join(map(str, paths))}")
    return found


def _shards_alone(path: Path) -> list[Path] | None:
    """The shards of `write_shards` in a path; None if there is anything else, or nothing."""
    try:
        found = [*sources(path)]
    except ValueError:
        return None  # whoever reads it with a robot is told why
    alone = all(kind is Kind.SHARD for kind, _ in found)
    return [place for _, place in found] if alone else None


def policy_episodes(folder: Path) -> Iterator[Episode]:
    """Videos and proprioception of a shard that policies train on.

    It holds the expert's advice, not what was done (a disturbed expert or a learner drove), so the
    episodes have no actions.
    """
    shard = Shard.load(folder)
    config = ActionConfig.get_arm_config()
    begin = 0
    for number, length in enumerate(shard.lengths):
        part = slice(begin, begin + int(length))
        begin = part.stop
        yield Episode(
            name=f"{folder.name}/{number}",
            robot=config.robot_type.value,
            control_mode=config.control_mode,
            instruction=str(shard.instruction[part.start], "ascii"),
            dt=config.dt,
            action_names=(),
            proprioception_names=config.proprioception_names,
            stamps=config.dt * np.arange(length),
            proprioception=np.array(shard.proprioception[part]),
            actions=np.zeros((int(length), 0), np.float32),
            pictures={
                camera: _Pictures(shard.images, part.start, number)
                for number, camera in enumerate(_POLICY_CAMERAS)
            },
        )


class _Pictures:
    """A reader of one camera's frames of one episode."""

    def __init__(self, images: np.ndarray, begin: int, camera: int) -> None:
        self._images, self._begin, self._camera = images, begin, camera

    def __call__(self, first: int, last: int) -> Iterator[np.ndarray]:
        yield from self._images[self._begin + first : self._begin + last, self._camera]
