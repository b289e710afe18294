"""Episodes of any source, written once at the model's image size and memory-mapped from there.

Decoding and scaling are paid when the shards are written; training reads pages of a file. A shard
is a folder of arrays, frames of its episodes one after the other:

    images.npy           uint8 [F, N, S, S, 3], of N cameras
    proprioception.npy   float32 [F, P]
    actions.npy          float32 [F, A]
    stamps.npy           float64 [F], s
    episodes.json        what else an episode is, and its length
    image_sums.npy       uint32 [F, N], CRC-32 of each image, looked at when it is first read
    checksums.json       CRC-32 of all files but the images
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.observations import preprocess_image
from vla_ros.training.data.arrays import check_sums, damaged, map_array, write_sums
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.gaps import steady_parts
from vla_ros.training.data.provenance import Provenance
from vla_ros.training.data.statistics import EpisodeStatistics, StatisticsBuilder

_SMALL = ("proprioception", "actions", "stamps")
_TYPES = {"stamps": "float64"}
_IMAGE_SUMS = "image_sums"
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
    folder: Path
    image_sums: np.ndarray | None  # older shards have none

    @classmethod
    def load(cls, folder: Path) -> EpisodeShard:
        """Raises ValueError for a damaged one, which it names; OSError if a file is missing."""
        told = folder / "episodes.json"
        check_sums(folder, folder.parent)
        try:
            content = json.loads(told.read_text())
            cameras, episodes = tuple(content["cameras"]), list(content["episodes"])
            frames = sum(episode["length"] for episode in episodes)
            if not all(isinstance(camera, str) for camera in cameras):
                raise TypeError("cameras have no names")
            if any(episode["length"] < 0 for episode in episodes):
                raise ValueError("an episode has less than no frames")
            sizes = {
                what: {len(episode[f"{what}_names"]) for episode in episodes}
                for what in ("proprioception", "action")
            }
            ((felt,), (acted,)) = sizes["proprioception"], sizes["action"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise damaged(told, f"{type(error).__name__}: {error}", folder.parent) from None

        def array(name: str, kind: str, shape: tuple[int | None, ...]) -> np.ndarray:
            return map_array(folder / f"{name}.npy", kind, shape, folder.parent)

        shapes = {"proprioception": (frames, felt), "actions": (frames, acted), "stamps": (frames,)}
        images = array("images", "uint8", (frames, len(cameras), None, None, 3))
        small = [array(name, _TYPES.get(name, "float32"), shapes[name]) for name in _SMALL]
        sums = None
        if (folder / f"{_IMAGE_SUMS}.npy").exists():
            sums = array(_IMAGE_SUMS, "uint32", (frames, len(cameras)))
        return cls(images, *small, cameras, episodes, folder, sums)

    def episodes(self) -> Iterator[Episode]:
        """The episodes; their pictures are views of the mapped file.

        Raises:
            ValueError: what is told of one does not fit its numbers, or they are not finite.
        """
        begin = 0
        for told in self.told:
            part = slice(begin, begin + told["length"])
            begin = part.stop
            try:
                episode = self._episode(told, part)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise damaged(
                    self.folder / "episodes.json", str(error), self.folder.parent
                ) from None
            yield from steady_parts(episode)  # older shards hold gaps

    def _episode(self, told: dict, part: slice) -> Episode:
        fields = {name: told[name] for name in (*_TOLD, *_NAMES)}
        for name in ("name", "robot", "control_mode", "instruction"):
            if not isinstance(fields[name], str):
                raise TypeError(f"{name} is {fields[name]!r}")
        return Episode(
            **{**fields, "notes": tuple(fields["notes"])},
            **{name: getattr(self, name)[part] for name in _SMALL},
            pictures={
                camera: _Pictures(
                    self.folder,
                    self.images[part, number],
                    None if self.image_sums is None else self.image_sums[part, number],
                )
                for number, camera in enumerate(self.cameras)
            },
            actions_known=_known(told),
        )


def _known(told: dict) -> np.ndarray:
    known = np.ones(told["length"], bool)
    known[told.get("unknown_actions", [])] = False  # there are none in shards of earlier versions
    return known


class _Pictures:
    """A reader of one camera's pictures of an episode."""

    def __init__(self, folder: Path, images: np.ndarray, sums: np.ndarray | None) -> None:
        self._folder, self._images, self._sums = folder, images, sums  # [T, S, S, 3], [T]
        self._checked = np.full(len(images), sums is None)

    def __call__(self, first: int, last: int) -> Iterator[np.ndarray]:
        for frame in range(first, last):
            if not self._checked[frame]:
                if zlib.crc32(self._images[frame]) != self._sums[frame]:
                    path = self._folder / "images.npy"
                    raise damaged(path, "an image's checksum differs", self._folder.parent)
                self._checked[frame] = True
            yield self._images[frame]


def write_shards(
    folder: Path,
    episodes: Iterable[Episode],
    cameras: Sequence[str],
    image_size: int,
    frames: int = 20_000,
    provenance: Provenance | None = None,
) -> EpisodeStatistics:
    """Write `episodes` as shards in `folder`, which appears whole or not at all.

    Nothing but the small arrays of one shard's episodes and one picture a camera is in memory.
    Depth is not written.

    Args:
        cameras: which pictures, in the order in which the model sees them.
        image_size: S, pixels.
        frames: a shard is full at so many; an episode is never divided.
        provenance: what they are made from, to be told in the folder.

    Returns:
        The statistics of all, which are in the folder too.

    Raises:
        ValueError: `folder` exists, there is no camera or no frame, an episode lacks a camera or is
            of another kind than those before, or its source breaks off.
    """
    if not cameras:
        raise ValueError(f"{folder}: no camera is named, and the recordings have none")
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
        if provenance is not None:
            provenance.save(partial)
    return found


def shard_folders(folder: Path) -> list[Path]:
    """The shards in a folder of `write_shards`.

    Raises:
        ValueError: there are none, one is damaged, or some are missing.
    """
    found = sorted(path.parent for path in folder.glob("*/episodes.json"))
    if not found:
        raise ValueError(f"{folder} holds no shards of episodes")
    if (path := folder / "statistics.json").exists():
        told, there = EpisodeStatistics.load(path).episodes, 0
        for part in found:
            there += len(EpisodeShard.load(part).told)
        if there != told:
            raise damaged(path, f"it counts {told} episodes, {there} are there")
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
        sums = []
        for episode in episodes:
            for pictures in zip(*(episode.frames(camera) for camera in cameras), strict=True):
                for camera, picture in zip(cameras, pictures, strict=True):
                    try:
                        small = np.ascontiguousarray(preprocess_image(picture, image_size))
                    except ValueError as error:
                        raise ValueError(f"{episode.name}: {camera}: {error}") from None
                    file.write(small.data)
                    sums.append(zlib.crc32(small))
    np.save(folder / f"{_IMAGE_SUMS}.npy", np.array(sums, np.uint32).reshape(shape[:2]))
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
    checked = ["episodes.json", *(f"{name}.npy" for name in (*_SMALL, _IMAGE_SUMS))]
    write_sums(folder, checked)
