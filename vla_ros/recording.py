"""Writing a recording of one episode: rosbag2 with MCAP, whole or marked as unfinished."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

UNFINISHED = "unfinished"  # folder of what is being recorded, or was when the recorder was killed


def episode_name(instruction: str) -> str:
    """Sorts by time and tells what was asked: 20261122-115300-123_lift_the_red_cube."""
    now = datetime.now(timezone.utc)
    words = re.sub(r"[^a-z0-9]+", "_", instruction.lower()).strip("_")[:40] or "episode"
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}_{words}"


class EpisodeBag:
    """The recording folder/unfinished/name while it is written, folder/name once it is finished.

    What was flushed can be read though the process is killed: messages are in whole chunks of the
    file, each with the definitions of its types before it.

    Raises:
        OSError: the folder cannot be written, here and in all methods.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / UNFINISHED / name
        self.count = 0
        self._target = folder / name
        self._connections: dict[str, Connection] = {}
        self._writer = Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()

    def __contains__(self, topic: str) -> bool:
        return topic in self._connections

    def announce(self, topic: str, kind: str, definition: tuple[str, str], qos: Any) -> None:
        """Before a topic's first message.

        Args:
            topic: its full name.
            kind: of its messages, such as sensor_msgs/msg/Image.
            definition: text of that type and of those in it, and the type's hash (REP 2011).
            qos: rclpy's profile, as the publisher offers it; a player offers the same.
        """
        text, digest = definition
        self._connections[topic] = self._writer.add_connection(
            topic, kind, msgdef=text, rihs01=digest, offered_qos_profiles=[_qos(qos)]
        )

    def write(self, topic: str, received: int, data: bytes) -> None:
        """Add a serialized message, received at that time in ns since 1970."""
        self._writer.write(self._connections[topic], received, data)
        self.count += 1

    def flush(self) -> None:
        """Hand everything so far to the operating system, as whole chunks."""
        storage = self._writer.storage
        if storage.chunk.msgs:  # the writer itself closes a chunk at 1 MiB only
            storage.close_chunk()
        storage.bio.flush()

    def finish(self, custom: Mapping[str, str]) -> Path:
        """Complete the recording, with `custom` in its metadata, and move it to its place."""
        for key, value in custom.items():
            self._writer.set_custom_data(key, value)
        self._writer.close()
        os.replace(self.path, self._target)
        self._tidy()
        return self._target

    def abandon(self) -> None:
        """Write no more; what was flushed stays where it is."""
        with suppress(OSError):  # of a full disk, which told so before
            self._writer.abort()

    def discard(self) -> None:
        """Remove it."""
        self._writer.abort()
        shutil.rmtree(self.path)
        self._tidy()

    def _tidy(self) -> None:
        with suppress(OSError):  # others are being recorded, or were left behind
            self.path.parent.rmdir()


def _qos(profile: Any) -> Qos:
    """A profile of rclpy, by its fields, as rosbags has it."""

    def time(duration: Any) -> QosTime:
        return QosTime(*divmod(duration.nanoseconds, 10**9))

    return Qos(
        QosHistory[profile.history.name],
        profile.depth,
        QosReliability[profile.reliability.name],
        QosDurability[profile.durability.name],
        time(profile.deadline),
        time(profile.lifespan),
        QosLiveliness[profile.liveliness.name],
        time(profile.liveliness_lease_duration),
        profile.avoid_ros_namespace_conventions,
    )
