"""What a path given as recordings holds: bags, RLDS datasets, shards, also all in one folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from vla_ros.training.data.bag_files import is_storage
from vla_ros.training.data.bag_folders import BagFiles, recordings_in
from vla_ros.training.data.notices import say


class Kind(Enum):
    BAG = "a ROS 2 recording"
    RLDS = "an RLDS dataset"
    SHARD = "a shard of episodes"
    DAMAGED = "a recording that cannot be read"


Source = tuple[Kind, Path | BagFiles | ValueError]


def sources(path: Path, damaged: bool = False) -> Iterator[Source]:
    """Everything to read in a path, in the order of names, its own before that of its folders.

    What is left out is said: ROS 1 recordings, and folders that hold nothing to read.

    Args:
        damaged: go on where a folder's recording cannot be told from its files, with the error.

    Raises:
        ValueError: there is nothing at all, or a recording is damaged.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_file():
        yield Kind.BAG, recordings_in(path)[0]
        return
    found = False
    for kind, place in _sources(path):
        if kind is Kind.DAMAGED and not damaged:
            raise place
        found = True
        yield kind, place
    if not found:
        raise ValueError(
            f"{path} holds no recording: expected .mcap or .db3 files, an RLDS dataset with "
            "features.json, or shards of episodes"
        )


def _sources(path: Path) -> Iterator[Source]:
    if (path / "features.json").is_file():
        yield Kind.RLDS, path
        return
    if (path / "episodes.json").is_file():
        yield Kind.SHARD, path
        return
    inside = sorted(one for one in path.iterdir() if not one.name.startswith("."))
    if (path / "metadata.yaml").is_file() or any(map(is_storage, inside)):
        try:
            recordings = recordings_in(path)
        except ValueError as error:
            yield Kind.DAMAGED, error
        else:
            yield from ((Kind.BAG, files) for files in recordings)
    for one in inside:
        if one.is_file() and one.suffix == ".bag":
            say(f"{one} is a ROS 1 recording and left out: convert it by rosbags-convert")
        if one.is_dir():
            found = False
            for source in _sources(one):
                found = True
                yield source
            if not found:
                say(f"{one} holds no recording and is left out")


def add_msg_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--msg",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder of .msg files (PACKAGE/msg/NAME.msg), for types that recordings do not define",
    )
