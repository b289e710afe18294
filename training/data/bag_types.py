"""Definitions of message types: a recording's own, those of folders, and ROS 2's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.base import TypesysError
from rosbags.typesys.store import Typestore

from vla_ros.training.data.bag_storage import Channel

_STAMPED = ("std_msgs/msg/Header", "builtin_interfaces/msg/Time")
# Standard types have changed: Humble's Range, for one, has no variance. Newest first, but for the
# one that most recordings are of.
_DISTRIBUTIONS = (
    Stores.ROS2_JAZZY,
    Stores.ROS2_LYRICAL,
    Stores.ROS2_KILTED,
    Stores.ROS2_IRON,
    Stores.ROS2_HUMBLE,
    Stores.ROS2_GALACTIC,
    Stores.ROS2_FOXY,
    Stores.ROS2_ELOQUENT,
    Stores.ROS2_DASHING,
)
_UNREADABLE = (TypesysError, AssertionError, KeyError, ValueError)

Fields = tuple[Any, Any]  # constants and fields, as rosbags has them


def full_name(kind: str) -> str:
    """sensor_msgs/msg/Image, also of sensor_msgs/Image."""
    package, _, name = kind.rpartition("/")
    return kind if "/" in package else f"{package}/msg/{name}"


class MsgFolders:
    """Definitions in folders of .msg files, at any depth: PACKAGE/msg/NAME.msg.

    Types of packages in the environment (AMENT_PREFIX_PATH) are known without a folder.

    Raises:
        ValueError: a folder does not exist, or has no .msg file in it.
    """

    def __init__(self, folders: Iterable[str | Path] = ()) -> None:
        self._files: dict[str, Path] = {}
        for folder in folders:
            found = sorted(Path(folder).resolve().rglob("*.msg"))
            if not found:
                raise ValueError(
                    f"{folder} is no folder of .msg files: give one with PACKAGE/msg/NAME.msg in it"
                )
            for file in found:
                self._files.setdefault(f"{_package(file)}/msg/{file.stem}", file)
        self._key = (frozenset(self._files.items()), os.environ.get("AMENT_PREFIX_PATH", ""))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MsgFolders) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __call__(self, kind: str) -> Fields | None:
        """What is known of a type by its full name. Raises ValueError: its file is damaged."""
        file = self._files.get(kind) or _installed(kind)
        if file is None:
            return None
        try:
            return get_types_from_msg(file.read_text(), kind)[kind]
        except (*_UNREADABLE, OSError) as error:
            raise ValueError(f"{file} defines no message: {error}") from None


def _package(file: Path) -> str:
    folder = file.parent.parent if file.parent.name == "msg" else file.parent
    if (manifest := folder / "package.xml").is_file():
        found = re.search(r"<name>\s*(\w+)\s*</name>", manifest.read_text(errors="replace"))
        return found[1] if found else folder.name
    return folder.name


def _installed(kind: str) -> Path | None:
    package, _, rest = kind.partition("/")
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        file = Path(prefix, "share", package, f"{rest}.msg")
        if re.fullmatch(r"\w+/msg/\w+", kind) and file.is_file():
            return file
    return None


@lru_cache(maxsize=256)  # the same few types are in every recording; to make a store takes 10 ms
def type_stores(channel: Channel, known: MsgFolders) -> list[Typestore]:
    """Where the type of a channel is defined, best first.

    By the file's own definition, then by `known` ones, then by those of ROS 2's distributions: some
    files carry wrong ones. What a definition needs and does not come with is taken from the others.
    One that names the fields of a standard type as no distribution does comes last: it is damaged.
    """
    kind = full_name(channel.type)
    own, stores = _own(channel), []
    for found in (own, {}):
        try:
            if found or known(kind) is not None:
                stores.append(_completed(found, kind, known))
        except _UNREADABLE:
            continue  # those of service events cannot be read
    standard = [store for store in map(get_store, _DISTRIBUTIONS) if kind in store.fielddefs]
    return [*standard, *stores] if _renames(own) else [*stores, *standard]


get_store = cache(get_typestore)


def _own(channel: Channel) -> Mapping[str, Fields]:
    if not channel.definition.strip():
        return {}  # some recorders leave it away; rosbags would read a message without fields
    try:
        if channel.definition_format == "ros2msg":
            return get_types_from_msg(channel.definition, full_name(channel.type))
        if channel.definition_format == "ros2idl":
            return get_types_from_idl(channel.definition)
    except _UNREADABLE:
        pass
    return {}


def _renames(found: Mapping[str, Fields]) -> bool:
    """Whether a standard type has other names of fields than in any distribution."""
    for name, (_, fields) in found.items():
        usual = [
            [field for field, _ in store.fielddefs[name][1]]
            for store in map(get_store, _DISTRIBUTIONS)
            if name in store.fielddefs
        ]
        if usual and [field for field, _ in fields] not in usual:
            return True
    return False


def _completed(found: Mapping[str, Fields], kind: str, known: MsgFolders) -> Typestore:
    """A store of `kind` and all that it consists of. Raises KeyError: something is not defined."""
    types: dict[str, Fields] = {}
    wanted = [kind]
    while wanted:
        name = wanted.pop()
        if name in types:
            continue
        fields = found.get(name) or known(name)
        for distribution in _DISTRIBUTIONS:
            fields = fields or get_store(distribution).fielddefs.get(name)
        if fields is None:
            raise KeyError(name)
        types[name] = fields
        wanted += [part for _, node in fields[1] for part in _names(node)]
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store


def _names(node: Any) -> Iterator[str]:
    """Names of the types in a field."""
    what, content = node
    if what == Nodetype.NAME:
        yield content
    elif what in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        yield from _names(content[0])


def has_stamp(channel: Channel, known: MsgFolders) -> bool:
    """Whether a message begins with a header or a time."""
    kind = full_name(channel.type)
    for store in type_stores(channel, known):
        if channel.encoding == "cdr" and kind in store.fielddefs:
            _, (node, what) = (*store.fielddefs[kind][1], (None, (None, None)))[0]
            return node == Nodetype.NAME and what in _STAMPED
    return False
