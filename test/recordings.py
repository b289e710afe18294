"""Small recordings for the tests, written by rosbags, an implementation that is not ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vla_ros.robots.action_config import ActionConfig

STORE = get_typestore(Stores.ROS2_JAZZY)
PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
SECOND = 1_000_000_000
# Of the robot that `robot` records.
ACTION = ActionConfig(
    robot_type="arm",
    action_dim=2,
    action_bounds=(-100.0, 100.0),
    joint_names=("a", "b"),
    proprioception_names=("a",),
    dt=0.1,
)
# topic, type, time of receipt in s, message or serialized bytes
Said = tuple[str, str, float, Any]


def make(kind: str, **values: Any) -> Any:
    return STORE.types[kind](**values)


def header(stamp: float) -> Any:
    nanoseconds = round(stamp * SECOND)
    time = make(
        "builtin_interfaces/msg/Time", sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND
    )
    return make("std_msgs/msg/Header", stamp=time, frame_id="")


def picture(number: int, side: int = 8) -> np.ndarray:
    """uint8 [side, side + 2, 3], another for each number."""
    return np.random.default_rng(number).integers(0, 256, (side, side + 2, 3), dtype=np.uint8)


def image(topic: str, stamp: float, pixels: np.ndarray, padding: int = 0, **when: float) -> Said:
    height, width, _ = pixels.shape
    rows = np.full((height, 3 * width + padding), 77, np.uint8)
    rows[:, : 3 * width] = pixels.reshape(height, -1)
    message = make(
        "sensor_msgs/msg/Image",
        header=header(stamp),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width + padding,
        data=rows.reshape(-1),
    )
    return topic, "sensor_msgs/msg/Image", when.get("received", stamp + 0.002), message


def joints(topic: str, stamp: float, positions: dict[str, float], **when: float) -> Said:
    message = make(
        "sensor_msgs/msg/JointState",
        header=header(stamp),
        name=list(positions),
        position=np.array(list(positions.values()), dtype=np.float64),
        velocity=np.zeros(0),
        effort=np.zeros(0),
    )
    return topic, "sensor_msgs/msg/JointState", when.get("received", stamp + 0.001), message


def text(topic: str, received: float, data: str) -> Said:
    return topic, "std_msgs/msg/String", received, make("std_msgs/msg/String", data=data)


def write_bag(
    path: Path,
    said: Iterable[Said],
    storage: str = "mcap",
    compression: tuple | None = None,
    custom: dict[str, str] | None = None,
) -> Path:
    """A recording of `said`, in the order of receipt."""
    writer = Writer(path, version=9, storage_plugin=PLUGINS[storage])
    if compression:
        writer.set_compression(*compression)
    for key, value in (custom or {}).items():
        writer.set_custom_data(key, value)
    with writer:
        connections = {}
        for topic, kind, received, message in sorted(said, key=lambda s: s[2]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            raw = message
            if not isinstance(message, bytes):
                raw = STORE.serialize_cdr(message, kind)
            writer.write(connections[topic], round(received * SECOND), raw)
    return path


def robot(
    count: int = 6, period: float = 0.1, start: float = 100.0, first: int = 0
) -> Iterator[Said]:
    """A robot of joints a and b with one camera: at frame i, a is i and is told to go to i + 1."""
    for i in range(first, first + count):
        stamp = start + period * (i - first)
        yield image("/camera", stamp, picture(i))
        yield joints("/joint_states", stamp - 0.01, {"b": -float(i), "a": float(i)})
        yield joints("/command", stamp - 0.005, {"a": i + 1.0, "b": -i - 1.0})
