"""Episodes, such as a ROS 2 recording's, as an RLDS dataset that tensorflow-datasets can read."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vla_ros.paths import check_folder, check_there, to_path
from vla_ros.training.data.bag import Bag
from vla_ros.training.data.bags import open_bag
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.notices import announced
from vla_ros.training.data.recordings import ROBOT_HELP, Robot
from vla_ros.training.data.rlds import CALIBRATIONS, KNOWN, METADATA, OWN
from vla_ros.training.data.rlds_to_bag import contract_of, nanoseconds
from vla_ros.training.data.sources import Kind, add_msg_argument, sources
from vla_ros.training.data.tfrecord import serialize_example, write_record

_VERSION = "1.0.0"
_SHARD = 200_000_000  # bytes after which another file is begun
_CLASSES = "tensorflow_datasets.core.features."
_ENCODERS = {"png": [cv2.IMWRITE_PNG_COMPRESSION, 3], "jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95]}


def write_rlds(
    root: Path,
    name: str,
    episodes: Iterable[Episode],
    split: str = "train",
    images: str = "png",
) -> Path:
    """Write a dataset of one split; one encoded episode is in memory at a time.

    Args:
        root: the folder of datasets; this one becomes root/name/1.0.0.
        name: of the dataset: lower case, digits and underscores.
        episodes: all with the same cameras, picture sizes, names, rate and robot.
        images: how pictures are stored: "png" (nothing is lost) or "jpeg".

    Returns:
        The folder of the version. It appears whole or not at all.

    Raises:
        ValueError: a name that will not do, no episodes, an episode that is not like the first or
            is more than a record can hold, or the dataset is there already.
    """
    for what, text in (("dataset", name), ("split", split)):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", text):
            raise ValueError(f"{what} {text!r}: use lower case, digits and underscores")
    episodes = iter(episodes)
    first = next(episodes, None)
    if first is None:
        raise ValueError("there are no episodes to write")
    layout = _Layout(first, images)
    target = Path(root) / name / _VERSION
    with whole_folder(target) as folder:
        shards = _write_shards(folder, map(layout.record, itertools.chain([first], episodes)))
        for index in range(len(shards)):
            file = f"{name}-{split}.tfrecord-{index:05d}-of-{len(shards):05d}"
            (folder / str(index)).rename(folder / file)
        info = {
            "description": "Episodes recorded over ROS 2.",
            "fileFormat": "tfrecord",
            "name": name,
            "splits": [
                {
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "name": split,
                    "numBytes": str(sum(size for _, size in shards)),
                    "shardLengths": [str(count) for count, _ in shards],
                }
            ],
            "version": _VERSION,
        }
        for file, content in (
            ("dataset_info.json", info),
            ("features.json", layout.features()),
            ("metadata.json", {OWN: layout.metadata}),
        ):
            (folder / file).write_text(json.dumps(content, indent=2) + "\n")
    return target


def _write_shards(folder: Path, records: Iterable[bytes]) -> list[tuple[int, int]]:
    """Write files named 0, 1, ...; returns how many records and bytes are in each."""
    shards: list[tuple[int, int]] = []
    with ExitStack() as stack:
        for record in records:
            if not shards or shards[-1][1] + len(record) > _SHARD:
                stack.close()
                file = stack.enter_context(open(folder / str(len(shards)), "wb"))
                shards.append((0, 0))
            write_record(file, record)
            count, size = shards[-1]
            shards[-1] = (count + 1, size + len(record))
    return shards


def _calibrations(episode: Episode) -> dict[str, dict]:
    return {camera: known.to_dict() for camera, known in episode.calibrations.items()}


class _Layout:
    """What all episodes of the dataset have in common."""

    def __init__(self, first: Episode, images: str) -> None:
        if images not in _ENCODERS:
            raise ValueError(f"images can be stored as {' or '.join(_ENCODERS)}, not {images!r}")
        self._images = images
        self._common = self._common_of(first)
        self.metadata = {name: getattr(first, name) for name in METADATA}
        if first.calibrations:
            self.metadata[CALIBRATIONS] = _calibrations(first)
        self._shapes: dict[str, tuple[int, ...]] = {}
        for camera in first.cameras:
            self._shapes[camera] = next(first.frames(camera, 0, 1)).shape
        for camera in first.depths:
            self._shapes[f"{camera}_depth"] = next(first.depth(camera, 0, 1)).shape

    @staticmethod
    def _common_of(episode: Episode) -> dict[str, Any]:
        names = {name: getattr(episode, name) for name in METADATA}
        return {
            **names,
            "cameras": episode.cameras,
            "depth cameras": tuple(episode.depths),
            "camera_info": _calibrations(episode),
        }

    def features(self) -> dict[str, Any]:
        """Content of features.json."""
        steps = {
            "action": _tensor("float32", (len(self.metadata["action_names"]),)),
            "language_instruction": _feature("text_feature.Text", text={}),
            "is_first": _tensor("bool"),
            "is_last": _tensor("bool"),
            "is_terminal": _tensor("bool"),
            "reward": _tensor("float32"),
            "discount": _tensor("float32"),
            KNOWN.removeprefix("steps/"): _tensor("bool"),
            "stamp_ns": _tensor("int64"),
        }
        for name, shape in self._shapes.items():
            if len(shape) == 2:
                steps[f"observation/{name}"] = _tensor("float32", shape, "zlib")
            else:
                image = {"dtype": "uint8", "encodingFormat": self._images, **_shape(shape)}
                steps[f"observation/{name}"] = _feature("image_feature.Image", image=image)
        if felt := self.metadata["proprioception_names"]:
            steps["observation/state"] = _tensor("float32", (len(felt),))
        episode = {"success": _tensor("int32"), "file_path": _feature("text_feature.Text", text={})}
        sequence = {"feature": _dictionary(steps), "length": "-1"}
        return _dictionary(
            {
                "steps": _feature("dataset_feature.Dataset", sequence=sequence),
                "episode_metadata": _dictionary(episode),
            }
        )

    def record(self, episode: Episode) -> bytes:
        """An episode as the data of a record. Raises ValueError."""
        length = len(episode)
        for what, value in self._common_of(episode).items():
            if value != self._common[what]:
                raise ValueError(
                    f"{episode.name}: {what} {value} differs from the first episode's "
                    f"{self._common[what]}: write two datasets"
                )
        if not length:
            raise ValueError(f"{episode.name} has no frames")
        last = np.arange(length) == length - 1
        succeeded = last & (episode.outcome is True)
        content: dict[str, list[bytes] | np.ndarray] = {
            "steps/action": episode.actions,
            "steps/language_instruction": [episode.instruction.encode()] * length,
            "steps/is_first": np.arange(length) == 0,
            "steps/is_last": last,
            "steps/is_terminal": succeeded,
            "steps/reward": succeeded.astype(np.float32),
            "steps/discount": np.ones(length, np.float32),
            KNOWN: episode.actions_known,
            "steps/stamp_ns": np.array(nanoseconds(episode.stamps)),
            "episode_metadata/success": np.array(
                -1 if episode.outcome is None else episode.outcome
            ),
            "episode_metadata/file_path": [episode.name.encode()],
        }
        if episode.proprioception_names:
            content["steps/observation/state"] = episode.proprioception
        for camera in episode.cameras:
            pictures = self._checked(episode, camera, episode.frames(camera))
            content[f"steps/observation/{camera}"] = list(map(self._encoded, pictures))
        for camera in episode.depths:
            pictures = self._checked(episode, f"{camera}_depth", episode.depth(camera))
            packed = [zlib.compress(depth.astype("<f4").tobytes(), 1) for depth in pictures]
            content[f"steps/observation/{camera}_depth"] = packed
        try:
            return serialize_example(content)
        except ValueError as error:
            raise ValueError(f"{episode.name}: {error}: record shorter episodes") from None

    def _checked(
        self, episode: Episode, name: str, pictures: Iterator[np.ndarray]
    ) -> Iterator[np.ndarray]:
        for picture in pictures:
            if picture.shape != self._shapes[name]:
                raise ValueError(
                    f"{episode.name}: a picture of {name} is {picture.shape}, the dataset's are "
                    f"{self._shapes[name]}"
                )
            yield picture

    def _encoded(self, rgb: np.ndarray) -> bytes:
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(f".{self._images}", bgr, _ENCODERS[self._images])
        return data.tobytes()


# --- features.json --------------------------------------------------------------------------------


def _feature(kind: str, **content: Any) -> dict[str, Any]:
    return {"pythonClassName": _CLASSES + kind, **content}


def _shape(sizes: Iterable[int]) -> dict[str, Any]:
    dimensions = [str(size) for size in sizes]
    return {"shape": {"dimensions": dimensions} if dimensions else {}}


def _tensor(dtype: str, sizes: Iterable[int] = (), encoding: str = "none") -> dict[str, Any]:
    sizes = tuple(sizes)
    kind = "tensor_feature.Tensor" if sizes else "scalar.Scalar"
    return _feature(kind, tensor={**_shape(sizes), "dtype": dtype, "encoding": encoding})


def _dictionary(features: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A FeaturesDict; names with slashes become dictionaries within it."""
    nested: dict[str, Any] = {}
    for path, feature in features.items():
        head, _, rest = path.partition("/")
        if rest:
            nested.setdefault(head, {})[rest] = feature
        else:
            nested[head] = feature
    content = {
        name: value if "pythonClassName" in value else _dictionary(value)
        for name, value in nested.items()
    }
    return _feature("features_dict.FeaturesDict", featuresDict={"features": content})


# --- vla bag to-rlds ------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bags", type=to_path, nargs="+", metavar="BAG", help="recordings, in order")
    parser.add_argument("datasets", type=to_path, help="folder in which NAME/1.0.0 is made")
    parser.add_argument("--name", required=True, help="name of the dataset")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", choices=list(_ENCODERS), default="png")
    parser.add_argument(
        "--robot",
        metavar="NAME",
        help=f"{ROBOT_HELP}; needless for those of vla bag from-rlds, which tell",
    )
    add_msg_argument(parser)


def main(arguments: argparse.Namespace) -> None:
    check_folder(arguments.datasets, "the folder")
    check_there(arguments.bags)
    if arguments.robot:
        episodes = Robot.load(arguments.robot, arguments.msg).episodes(arguments.bags)
    else:
        seen: set[Path] = set()
        opened = (_open(path, arguments.msg, seen) for path in arguments.bags)
        episodes = announced(itertools.chain.from_iterable(opened))
    target = write_rlds(
        arguments.datasets, arguments.name, episodes, arguments.split, arguments.images
    )
    print(target)


def _open(place: Path, msg: Sequence[Path], seen: set[Path]) -> Iterator[Episode]:
    for kind, found in sources(place, seen=seen):
        if kind is not Kind.BAG:
            raise ValueError(f"{found} is {kind.value}, not a ROS 2 recording")
        bag = Bag(found, msg)
        contract = contract_of(bag)
        if contract is None:
            raise ValueError(f"{bag.path} does not say what its actions are: give --robot")
        yield from open_bag(bag, contract)
