"""A ROS 2 recording as a whole: its topics, when their messages were stamped, the messages."""

from __future__ import annotations

import struct
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys.store import Typestore

from vla_ros.training.data.bag_files import Metadata, is_packed, storage_file
from vla_ros.training.data.bag_folders import BagFiles, find_files
from vla_ros.training.data.bag_storage import (
    ZSTD_MAGIC,
    Channel,
    Reader,
    StorageFile,
    inflate,
    inflate_head,
)
from vla_ros.training.data.bag_types import (
    MsgFolders,
    full_name,
    has_stamp,
    type_stores,
)

SECOND = 1_000_000_000  # ns
_PADDING = 16  # bytes that some recorders leave after a message; more is another type's message
_ALIGNED = 4  # bytes up to which CDR itself fills up
_MISFIT = (struct.error, ValueError, IndexError, KeyError, AssertionError, SerdeError)
_COLUMNS = 6  # received ns, stamp ns, file, place


class NoMessages(ValueError):
    """A recording that is whole, and of nothing."""


@dataclass
class Topic:
    """One topic's N messages in the order of their receipt."""

    name: str
    type: str  # sensor_msgs/msg/Image
    channel: Channel
    rows: np.ndarray  # int64 [N, 6]
    stamped: bool  # messages tell when they were made; else `stamps` are `received`
    known: MsgFolders = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def received(self) -> np.ndarray:
        """int64 [N], ns."""
        return self.rows[:, 0]

    @property
    def stamps(self) -> np.ndarray:
        """int64 [N], ns; by the header where there is one."""
        return self.rows[:, 1]

    @cached_property
    def _stores(self) -> list[Typestore]:
        return type_stores(self.channel, self.known)

    def check(self) -> None:
        """Raises ValueError if no message of this topic can be read, with the reason."""
        if self.channel.encoding != "cdr":
            raise ValueError(f"{self.name} is serialized as {self.channel.encoding!r}, not as cdr")
        if not self._stores:
            raise ValueError(
                f"{self.name}: the bag does not define its type {self.type}, which is no standard "
                "one: give the folder of its .msg files, or record MCAP, which carries definitions"
            )

    def decode(self, data: bytes | memoryview) -> tuple[Any, int]:
        """A message, its arrays views of `data`; and how many bytes are left over.

        Raises:
            ValueError: the bytes are no message of the topic's type.
        """
        self.check()
        if data[:4] == ZSTD_MAGIC:
            try:
                data = inflate(data)
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from None
        view, problem, best = memoryview(data), "it is too short", None
        for store in self._stores:
            definition = store.get_msgdef(self.type)
            try:
                little = bool(view[1])
                read = definition.deserialize_cdr_le if little else definition.deserialize_cdr_be
                message, end = read(view[4:], 0, definition.cls, store)
            except _MISFIT as error:
                problem = str(error)
                continue
            left = len(view) - 4 - end
            if 0 <= left < _ALIGNED:
                return message, left
            if 0 <= left <= _PADDING and (best is None or left < best[1]):
                best = message, left
            problem = f"{left} bytes are left over"
        if best:
            return best
        raise ValueError(f"{self.name} holds what is no {self.type}: {problem}")


class Bag:
    """A recording: a folder with or without metadata.yaml, or one of its files.

    Opening it reads where all messages lie and when they were stamped: 48 bytes for each stay in
    memory, nothing of their contents.

    Args:
        path: where it is, or which files it consists of.
        msg: folders of .msg files, for types that the recording does not define.

    Raises:
        ValueError: nothing there, empty, damaged, or less than its metadata promises.
    """

    def __init__(self, path: str | Path | BagFiles, msg: Iterable[str | Path] = ()) -> None:
        found = path if isinstance(path, BagFiles) else find_files(Path(path))
        self.path = found.path
        self.notes: list[str] = []  # what is not as it should be, yet can be read
        self.topics: dict[str, Topic] = {}
        self.custom: dict[str, str] = dict(found.metadata.custom)
        self._known = MsgFolders(msg)
        packed = any(map(is_packed, found.files))
        self._unpacked = tempfile.TemporaryDirectory() if packed else None
        folder = Path(self._unpacked.name) if self._unpacked else None
        self._files: list[StorageFile] = [storage_file(file, folder) for file in found.files]
        self._index()
        self._compare(found.metadata)
        lost = self.custom.get("lost_messages", "")  # "" from a recorder that kept up
        if lost not in ("", "unknown"):
            self.notes.append(f"messages were lost while this was recorded: {lost}")
        if not any(map(len, self.topics.values())):
            raise NoMessages(f"{self.path} holds no messages")

    def _index(self) -> None:
        tables: dict[str, array] = {}
        channels: dict[str, Channel] = {}
        with_stamp: dict[str, bool] = {}
        for number, file in enumerate(self._files):
            with closing(file.open()) as reader:
                for index, received, place, head in file.entries():
                    channel = file.channels[index]
                    name = channel.topic
                    if name not in tables:
                        tables[name], channels[name] = array("q"), channel
                        with_stamp[name] = has_stamp(channel, self._known)
                    if head[:4] == ZSTD_MAGIC:
                        try:
                            head = inflate_head(reader.read(place))
                        except ValueError as error:
                            raise ValueError(f"{self.path}: {name}: {error}") from None
                    stamp = _stamp(head) if with_stamp[name] else received
                    tables[name].extend((received, stamp, number, *place))
            for channel in file.channels.values():
                tables.setdefault(channel.topic, array("q"))
                first = channels.setdefault(channel.topic, channel)
                if full_name(first.type) != full_name(channel.type):
                    raise ValueError(
                        f"{self.path}: {channel.topic} has two types, {first.type} and "
                        f"{channel.type}"
                    )
            if file.cut:
                self.notes.append(f"unfinished recording: {file.cut}")
        for name, table in sorted(tables.items()):
            rows = np.frombuffer(table, dtype=np.int64).reshape(-1, _COLUMNS)
            rows = rows[np.argsort(rows[:, 0], kind="stable")]
            stamped = bool(with_stamp.get(name))
            if stamped and not rows[:, 1].any():
                self.notes.append(f"{name}: header stamps are unset, times of receipt stand in")
                rows[:, 1], stamped = rows[:, 0], False
            elif stamped:
                _fill_stamps(rows)
            channel = channels[name]
            self.topics[name] = Topic(
                name, full_name(channel.type), channel, rows, stamped, self._known
            )

    def _compare(self, metadata: Metadata) -> None:
        """Less than the metadata promises has been lost; a file that is cut off is damaged."""
        if metadata.there and self.notes:
            cut = [file.cut for file in self._files if file.cut]
            if cut:
                raise ValueError(
                    f"{self.path} is truncated: {cut[0]}, though metadata.yaml calls it finished; "
                    "move metadata.yaml away to read what is left"
                )
        for name, promised in metadata.counts.items():
            found = len(self.topics[name]) if name in self.topics else 0
            if found < promised:
                raise ValueError(
                    f"{self.path} lacks messages: metadata.yaml counts {promised} on {name}, its "
                    f"files hold {found}"
                )
            if found > promised:
                self.notes.append(f"{name}: {found} messages, metadata.yaml counts {promised}")

    def topic(self, name: str) -> Topic:
        """The topic of that name, with or without a leading slash. Raises ValueError."""
        for known in (name, f"/{name.lstrip('/')}", name.lstrip("/")):
            if known in self.topics:
                return self.topics[known]
        raise ValueError(f"{self.path} has no topic {name}; it has: {', '.join(self.topics)}")

    def messages(self, topic: Topic, which: Iterable[int] | None = None) -> Iterator[Any]:
        """Messages of a topic, read one by one; all, or those at places `which`.

        Every call opens the files for itself, so that several may run side by side.

        Raises:
            ValueError: damaged, or not of the topic's type.
        """
        for data in self.raw(topic, which):
            try:
                yield topic.decode(data)[0]
            except ValueError as error:
                raise ValueError(f"{self.path}: {error}") from None

    def raw(self, topic: Topic, which: Iterable[int] | None = None) -> Iterator[bytes | memoryview]:
        """The bytes of messages as they were recorded."""
        readers: dict[int, Reader] = {}
        with ExitStack() as stack:
            for row in range(len(topic)) if which is None else which:
                _, _, number, *place = topic.rows[row].tolist()
                if number not in readers:
                    readers[number] = stack.enter_context(closing(self._files[number].open()))
                yield readers[number].read(tuple(place))


def _fill_stamps(rows: np.ndarray) -> None:
    """Give messages that were stamped "now", by zero, the stamp that fits their receipt.

    The difference between the two is that of the newest stamped message: clocks may differ.
    """
    told = np.flatnonzero(rows[:, 1])
    before = np.searchsorted(told, np.arange(len(rows)), side="right") - 1
    last = told[np.maximum(before, 0)]
    rows[:, 1] = rows[last, 1] + rows[:, 0] - rows[last, 0]


def _stamp(head: bytes) -> int:
    """ns, of the header at the beginning of a message."""
    if len(head) < 12:
        return 0
    seconds, nanoseconds = struct.unpack_from("<iI" if head[1] else ">iI", head, 4)
    return seconds * SECOND + nanoseconds
