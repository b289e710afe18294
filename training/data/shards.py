"""Episodes of any source, written once at the model's image size and memory-mapped from there.

Decoding and scaling are paid when the shards are written; training reads pages of a file. A shard
is a folder of arrays, frames of its episodes one after the other:

    images.npy           uint8 [F, N, S, S, 3], of N cameras
    proprioception.npy   float32 [F, P]
    actions.npy          float32 [F, A]
    stamps.npy           float64 [F], s
    episodes.json        what else an episode is, and its length
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.observations import preprocess_image
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.gaps import steady_parts
from vla_ros.training.data.statistics import EpisodeStatistics, StatisticsBuilder

_SMALL = ("proprioception", "actions", "stamps")
_TOLD = ("name", "robot", "control_mode", "instruction", "dt", "outcome", "notes")
_NAMES = ("action_names", "proprioception_names")


@dataclass(frozen=True)
class EpisodeShard:
    """F frames of E episodes, memory-mapped."""

    images: np.ndarray
    proprioception: np.ndarray
    actions: np.ndarray
    stamps: np.ndarray
    cameras: tuple[str, ...]
    told: list[dict]  # of each episode: its fields, "length", and frames of "unknown_actions"

    @classmethod
    def load(cls, folder: Path) -> EpisodeShard:
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", *_SMALL)]
        told = json.loads((folder / "episodes.json").read_text())
        return cls(*arrays, tuple(told["cameras"]), told["episodes"])

    def episodes(self) -> Iterator[Episode]:
        """The episodes; their pictures are views of the mapped file."""
        begin = 0
        for told in self.told:
            fields = {name: told[name] for name in (*_TOLD, *_NAMES)}
            part = slice(begin, begin + told["length"])
            begin = part.stop
            episode = Episode(
                **{**fields, "notes": tuple(fields["notes"])},
                **{name: getattr(self, name)[part] for name in _SMALL},
                pictures={
                    camera: _Pictures(self.images[part, number])
                    for number, camera in enumerate(self.cameras)
                },
                actions_known=_known(told),
            )
            yield from steady_parts(episode)  # older shards hold gaps


def _known(told: dict) -> np.ndarray:
    known = np.ones(told["length"], bool)
    known[told.get("unknown_actions", [])] = False  # there are none in shards of earlier versions
    return known


@dataclass(frozen=True)
class _Pictures:
    images: np.ndarray  # [T, S, S, 3]

    def __call__(self, first: int, last: int) -> Iterator[np.ndarray]:
        yield from self.images[first:last]


def write_shards(
    folder: Path,
    episodes: Iterable[Episode],
    cameras: Sequence[str],
    image_size: int,
    frames: int = 20_000,
) -> EpisodeStatistics:
    """Write `episodes` as shards in `folder`, which appears whole or not at all.

    Nothing but the small arrays of one shard's episodes and one picture a camera is in memory.
    Depth is not written.

    Args:
        cameras: which pictures, in the order in which the model sees them.
        image_size: S, pixels.
        frames: a shard is full at so many; an episode is never divided.

    Returns:
        The statistics of all, which are in the folder too.

    Raises:
        ValueError: `folder` exists, there is no frame, an episode lacks a camera or is of another
            kind than those before, or its source breaks off.
    """
    builder = StatisticsBuilder()
    with whole_folder(folder) as partial:
        group: list[Episode] = []
        number = 0
        for episode in episodes:
            builder.add(episode)
            group.append(episode)
            if sum(map(len, group)) >= frames:
                _write_shard(partial / f"{number:05d}", group, cameras, image_size)
                group, number = [], number + 1
        if group:
            _write_shard(partial / f"{number:05d}", group, cameras, image_size)
        found = builder.result()
        found.save(partial / "statistics.json")
    return found


def shard_folders(folder: Path) -> list[Path]:
    """The shards in a folder of `write_shards`. Raises ValueError if there are none."""
    found = sorted(path.parent for path in folder.glob("*/episodes.json"))
    if not found:
        raise ValueError(f"{folder} holds no shards of episodes")
    return found


def _write_shard(
    folder: Path, episodes: Sequence[Episode], cameras: Sequence[str], image_size: int
) -> None:
    folder.mkdir()
    shape = (sum(map(len, episodes)), len(cameras), image_size, image_size, 3)
    # Written as a stream: a memory-mapped array would count as ours until the kernel wrote it.
    with open(folder / "images.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for episode in episodes:
            for pictures in zip(*(episode.frames(camera) for camera in cameras), strict=True):
                for picture in pictures:
                    small = preprocess_image(picture, image_size)
                    file.write(np.ascontiguousarray(small).data)
    for name in _SMALL:
        np.save(folder / f"{name}.npy", np.concatenate([getattr(e, name) for e in episodes]))
    told = [
        {name: getattr(episode, name) for name in (*_TOLD, *_NAMES)}
        | {
            "length": len(episode),
            "unknown_actions": np.flatnonzero(~episode.actions_known).tolist(),
        }
        for episode in episodes
    ]
    text = json.dumps({"cameras": list(cameras), "episodes": told}, indent=1)
    (folder / "episodes.json").write_text(text + "\n")
