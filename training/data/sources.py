"""What a path given as recordings holds: bags, RLDS datasets, shards, also all in one folder."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path

from vla_ros.paths import to_path
from vla_ros.training.data.bag_files import is_storage
from vla_ros.training.data.bag_folders import BagFiles, recordings_in
from vla_ros.training.data.notices import say


class Kind(Enum):
    BAG = "a ROS 2 recording"
    RLDS = "an RLDS dataset"
    SHARD = "a shard of episodes"
    DAMAGED = "a recording that cannot be read"


Source = tuple[Kind, Path | BagFiles | ValueError]
_VERSION = re.compile(r"\d+\.\d+\.\d+")  # a dataset's folder, where tensorflow-datasets puts it


def sources(path: Path, damaged: bool = False, seen: set[Path] | None = None) -> Iterator[Source]:
    """Everything to read in a path, in the order of names, its own before that of its folders.

    What is left out is said: ROS 1 recordings, folders that hold nothing to read, links to what is
    there already, and older versions of an RLDS dataset.

    Args:
        damaged: go on where a folder's recording cannot be told from its files, with the error.
        seen: folders and files that were read already, to be added to: each is read once.

    Raises:
        ValueError: there is nothing at all, or a recording is damaged.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    seen = set() if seen is None else seen
    if path.resolve() in seen:
        say(f"{path} is given twice, and read once")
        return
    if path.is_file():
        seen.add(path.resolve())
        yield Kind.BAG, recordings_in(path)[0]
        return
    found = False
    for kind, place in _sources(path, seen):
        if kind is Kind.DAMAGED and not damaged:
            raise place
        found = True
        yield kind, place
    if not found:
        raise ValueError(
            f"{path} holds no recording: expected .mcap or .db3 files, an RLDS dataset with "
            "features.json, or shards of episodes"
        )


def _sources(path: Path, seen: set[Path]) -> Iterator[Source]:
    seen.add(path.resolve())
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
            for files in recordings:
                real = {file.resolve() for file in files.files}
                if real & seen:
                    say(f"{files.path} is read already, and left out")
                else:
                    seen |= real
                    yield Kind.BAG, files
    newest = _newest_version(inside)
    for one in inside:
        if one.is_file() and one.suffix == ".bag":
            say(f"{one} is a ROS 1 recording and left out: convert it by rosbags-convert")
        if one.is_symlink() and not one.exists():
            say(f"{one} is a link to what is not there, and left out")
        if one.is_dir():
            if one.resolve() in seen:
                say(f"{one} is read already, and left out")
                continue
            if newest and one != newest and _is_version(one):
                say(f"{one} is older than {newest.name}, and left out: name it to read it")
                continue
            found = False
            for source in _sources(one, seen):
                found = True
                yield source
            if not found:
                say(f"{one} holds no recording and is left out")


def _is_version(folder: Path) -> bool:
    named = _VERSION.fullmatch(folder.name) is not None
    return named and (folder / "features.json").is_file()


def _newest_version(folders: Iterable[Path]) -> Path | None:
    """Of the versions of an RLDS dataset among folders; None: there is none."""
    versions = filter(_is_version, folders)
    return max(versions, key=lambda one: [*map(int, one.name.split("."))], default=None)


def add_msg_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--msg",
        type=to_path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder of .msg files (PACKAGE/msg/NAME.msg), for types that recordings do not define",
    )
