"""Reading recordings, beside rosbags: `python benchmarks/bags.py`.

A recording of 640x480 rgb8 pictures is written by rosbags and read in turns by rosbags (the raw
bytes of all messages, nothing decoded) and by this package (an episode and all of its pictures as
arrays). The recording lies in the page cache; times are the processor's, of one thread.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from measuring import interleaved, machine, mb, peak_memory, table
from results import add_write_option, write_section
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.alignment import Stream
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bags import open_bag

PICTURE = 480 * 640 * 3  # bytes
PLUGINS = {"MCAP": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
CONTRACT = Contract(
    action=ActionConfig(
        robot_type="arm",
        action_dim=1,
        action_bounds=(-1.0, 1.0),
        joint_names=("a",),
        proprioception_names=("a",),
        dt=0.05,
    ),
    cameras={"front": Stream("camera")},
    command=Stream("joint_states"),
)


def write(path: Path, size: float, storage: str, episode: int = 0) -> None:
    """A recording with pictures of `size` bytes in all, 20 a second, and joints at 100 a second.

    Another instruction every `episode` pictures; none if that is 0.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    message = {name.rpartition("/")[2]: kind for name, kind in store.types.items()}
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, PICTURE, dtype=np.uint8) for _ in range(8)]
    with Writer(path, version=9, storage_plugin=PLUGINS[storage]) as writer:
        names = {"joint_states": "sensor_msgs/msg/JointState", "camera": "sensor_msgs/msg/Image"}
        if episode:
            names["instruction"] = "std_msgs/msg/String"
        topics = {
            name: writer.add_connection(name, kind, typestore=store) for name, kind in names.items()
        }
        for tick in range(5 * int(size / PICTURE)):
            now = 10**18 + tick * 10_000_000
            stamp = message["Time"](sec=now // 10**9, nanosec=now % 10**9)
            header = message["Header"](stamp=stamp, frame_id="")
            empty = np.zeros(0)
            said = [
                message["JointState"](header, ["a"], np.sin([0.03 * tick]), empty, empty),
                message["Image"](header, 480, 640, "rgb8", 0, 3 * 640, pictures[tick // 5 % 8]),
                message["String"](f"go to place {'abcdefgh'[tick // 500 % 8]}"),
            ]
            due = [True, tick % 5 == 0, episode and tick % (5 * episode) == 0]
            for name, one, is_due in zip(names, said, due, strict=False):
                if is_due:
                    writer.write(topics[name], now, store.serialize_cdr(one, names[name]))


def raw(path: Path) -> int:
    """Bytes of all messages, as rosbags reads them."""
    with Reader(path) as reader:
        return sum(len(data) for _, _, data in reader.messages())


def episode(path: Path) -> int:
    """Bytes of all pictures of the episode, alignment and decoding included."""
    return sum(
        picture.nbytes for one in open_bag(path, CONTRACT) for picture in one.frames("front")
    )


def reading(path: Path) -> Callable[[], object]:
    """For `peak_memory`: everything is warm once a little has been read."""
    next(next(open_bag(path, CONTRACT)).frames("front"))
    return lambda: episode(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=1.0, help="of the recording, GB; default 1")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each storage; default 30")
    add_write_option(parser)
    options = parser.parse_args()
    rows = []
    for storage in PLUGINS:
        with tempfile.TemporaryDirectory() as folder:
            large, small = Path(folder, "large"), Path(folder, "small")
            write(large, 1e9 * options.size, storage)
            write(small, 1e9 * options.size / 4, storage)
            work = {"rosbags": partial(raw, large), "ours": partial(episode, large)}
            took = interleaved(work, options.seconds)
            size = raw(large)
            rows.append(
                (
                    storage,
                    f"{size / took['rosbags'] / 1e6:.0f}",
                    f"{size / took['ours'] / 1e6:.0f}",
                    f"{took['rosbags'] / took['ours']:.0%}",
                    mb(peak_memory(reading, small)),
                    mb(peak_memory(reading, large)),
                )
            )
    quarter = f"{options.size / 4:g} GB"
    text = f"""
## Reading recordings

`python benchmarks/bags.py --size {options.size:g} --seconds {options.seconds:g}`: 640x480 rgb8 at
20 Hz with joint states at 100 Hz, {options.size:g} GB, in the page cache. rosbags' rate is that of
raw messages, nothing decoded; ours is from opening to the last picture of the episode as an array,
alignment and joints included. Peak memory is beyond that of a process that has read one picture.
{machine(f"rosbags {importlib.metadata.version('rosbags')}")}.

{
        table(
            (
                "storage",
                "rosbags, raw, MB/s",
                "ours, MB/s",
                "ours / rosbags",
                f"peak of {quarter}, MB",
                f"peak of {options.size:g} GB, MB",
            ),
            rows,
        )
    }
"""
    write_section("bags", text, options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
