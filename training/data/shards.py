"""Episodes of any source, written once at the model's image size and memory-mapped from there.

Decoding and scaling are paid when the shards are written; training reads pages of a file. A shard
is a folder of arrays, frames of its episodes one after the other:

    images.npy           uint8 [F, N, S, S, 3], of N cameras
    depth.npy            float32 [F, N, S, S], m, NaN where nothing was measured; if it is wanted
    proprioception.npy   float32 [F, P]
    actions.npy          float32 [F, A]
    stamps.npy           float64 [F], s
    episodes.json        what else an episode is, and its length; calibrations are of the images
                         as they are here
    image_sums.npy       uint32 [F, N], CRC-32 of each image, looked at when it is first read
    depth_sums.npy       of each depth
    checksums.json       CRC-32 of all files but the images and depths
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.observations import CameraCalibration
from vla_ros.training.data.arrays import check_sums, damaged, map_array, write_sums
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.gaps import steady_parts
from vla_ros.training.data.provenance import Provenance
from vla_ros.training.data.statistics import EpisodeStatistics, StatisticsBuilder

_SMALL = ("proprioception", "actions", "stamps")
_TYPES = {"stamps": "float64"}
_IMAGE_SUMS, _DEPTH_SUMS = "image_sums", "depth_sums"
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
    depth: np.ndarray | None = None
    depth_sums: np.ndarray | None = None

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
        depth = depth_sums = None
        if (folder / "depth.npy").exists():
            depth = array("depth", "float32", images.shape[:4])
            depth_sums = array(_DEPTH_SUMS, "uint32", (frames, len(cameras)))
        return cls(images, *small, cameras, episodes, folder, sums, depth, depth_sums)

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
        depths = {} if self.depth is None else self._readers("depth", part)
        calibrations = {
            camera: CameraCalibration.from_dict(values)
            for camera, values in told.get("calibrations", {}).items()
        }
        return Episode(
            **{**fields, "notes": tuple(fields["notes"])},
            **{name: getattr(self, name)[part] for name in _SMALL},
            pictures=self._readers("images", part),
            depths=depths,
            actions_known=_known(told),
            calibrations=calibrations,
        )

    def _readers(self, what: str, part: slice) -> dict[str, _Pictures]:
        """Of the images, or the depth, of an episode's frames."""
        pictures = getattr(self, what)
        sums = self.image_sums if what == "images" else self.depth_sums
        return {
            camera: _Pictures(
                self.folder / f"{what}.npy",
                pictures[part, number],
                None if sums is None else sums[part, number],
            )
            for number, camera in enumerate(self.cameras)
        }


def _known(told: dict) -> np.ndarray:
    known = np.ones(told["length"], bool)
    known[told.get("unknown_actions", [])] = False  # there are none in shards of earlier versions
    return known


class _Pictures:
    """A reader of one camera's pictures of an episode."""

    def __init__(self, path: Path, images: np.ndarray, sums: np.ndarray | None) -> None:
        self._path, self._images, self._sums = path, images, sums  # [T, S, S, ...], [T]
        self._checked = np.full(len(images), sums is None)

    def __call__(self, first: int, last: int) -> Iterator[np.ndarray]:
        for frame in range(first, last):
            if not self._checked[frame]:
                if zlib.crc32(self._images[frame]) != self._sums[frame]:
                    shards = self._path.parent.parent
                    raise damaged(self._path, "an image's checksum differs", shards)
                self._checked[frame] = True
            yield self._images[frame]


def write_shards(
    folder: Path,
    episodes: Iterable[Episode],
    cameras: Sequence[str],
    image_size: int,
    frames: int = 20_000,
    provenance: Provenance | None = None,
    needs: Collection[str] = (),
) -> EpisodeStatistics:
    """Write `episodes` as shards in `folder`, which appears whole or not at all.

    Nothing but the small arrays of one shard's episodes and one picture a camera is in memory.

    Args:
        cameras: which pictures, in the order in which the model sees them.
        image_size: S, pixels.
        frames: a shard is full at so many; an episode is never divided.
        provenance: what they are made from, to be told in the folder.
        needs: what of "depth" and "intrinsics" is written beside images.

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
                _write_shard(partial / f"{number:05d}", group, cameras, image_size, needs)
                group, number = [], number + 1
        if group:
            _write_shard(partial / f"{number:05d}", group, cameras, image_size, needs)
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
    folder: Path,
    episodes: Sequence[Episode],
    cameras: Sequence[str],
    image_size: int,
    needs: Collection[str],
) -> None:
    folder.mkdir()
    shape = (sum(map(len, episodes)), len(cameras), image_size, image_size)
    checked = ["episodes.json", *(f"{name}.npy" for name in _SMALL)]
    with ExitStack() as stack:
        images = stack.enter_context(_Stream(folder / "images.npy", "|u1", (*shape, 3)))
        streams = {_IMAGE_SUMS: (images, "image")}
        if "depth" in needs:
            depth = stack.enter_context(_Stream(folder / "depth.npy", "<f4", shape))
            streams[_DEPTH_SUMS] = depth, "depth"
        for episode in episodes:
            for frames in episode.camera_frames(cameras, image_size, needs):
                for frame in frames:
                    for stream, what in streams.values():
                        stream.write(getattr(frame, what))
    for name, (stream, _) in streams.items():
        np.save(folder / f"{name}.npy", np.array(stream.sums, np.uint32).reshape(shape[:2]))
        checked.append(f"{name}.npy")
    for name in _SMALL:
        np.save(folder / f"{name}.npy", np.concatenate([getattr(e, name) for e in episodes]))
    told = [
        {name: getattr(episode, name) for name in (*_TOLD, *_NAMES)}
        | {
            "length": len(episode),
            "unknown_actions": np.flatnonzero(~episode.actions_known).tolist(),
        }
        | ({"calibrations": _scaled(episode, cameras, image_size)} if needs else {})
        for episode in episodes
    ]
    text = json.dumps({"cameras": list(cameras), "episodes": told}, indent=1)
    (folder / "episodes.json").write_text(text + "\n")
    write_sums(folder, checked)


def _scaled(episode: Episode, cameras: Sequence[str], size: int) -> dict[str, dict]:
    known = ((name, episode.calibrations.get(name)) for name in cameras)
    return {name: camera.scaled(size).to_dict() for name, camera in known if camera is not None}


class _Stream:
    """Writes an array picture by picture: a mapped one would count as ours until the kernel wrote
    it. `sums` has the CRC-32 of each."""

    def __init__(self, path: Path, kind: str, shape: tuple[int, ...]) -> None:
        self._path, self._kind = path, kind
        self._header = {"descr": kind, "fortran_order": False, "shape": shape}
        self.sums: list[int] = []

    def __enter__(self) -> _Stream:
        self._file = open(self._path, "wb")  # noqa: SIM115
        np.lib.format.write_array_header_1_0(self._file, self._header)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, picture: np.ndarray) -> None:
        whole = np.ascontiguousarray(picture, self._kind)
        self._file.write(whole.data)
        self.sums.append(zlib.crc32(whole))
