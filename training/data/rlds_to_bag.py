"""Episodes, such as an RLDS dataset's, as ROS 2 recordings that can be replayed over topics."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vla_ros.observations import CameraCalibration
from vla_ros.paths import check_folder, check_there, to_path
from vla_ros.robots.action_config import ActionConfig, RobotType
from vla_ros.training.data.alignment import Align, Stream
from vla_ros.training.data.bag import SECOND, Bag
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.episode import Episode
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.notices import announced
from vla_ros.training.data.rlds import RldsMapping, open_rlds

# States and actions are joint states by name: rad and m or not, a recording replayed shows what was
# recorded. Nothing of it is a command that a controller would follow.
STATE, ACTION, INSTRUCTION = "/joint_states", "/action", "/instruction"
_CUSTOM = "vla_ros_episode"  # key of the custom data that says how to read the recording
_TYPES = get_typestore(Stores.ROS2_JAZZY)
_MESSAGES = _TYPES.types
_ENCODINGS = {"|u1": "rgb8", "<f4": "32FC1"}


def nanoseconds(stamps: np.ndarray) -> list[int]:
    """Stamps in s as ns; in integers, as today's date has more digits than a float holds in ns."""
    return [int(s) * SECOND + round((s - int(s)) * SECOND) for s in stamps.tolist()]


def write_bags(folder: Path, episodes: Iterable[Episode]) -> int:
    """Write a recording (MCAP) of each episode: folder/episode_00000 and so on.

    Topics: <camera>/image_raw, <camera>/depth/image_raw (32FC1, m), <camera>/camera_info (once, if
    the calibration is known), joint_states and action
    (sensor_msgs/JointState; none where the action is not known, so that reading leaves that frame
    out), instruction; messages are stamped as the episode's frames. Robot,
    outcome and what `contract_of` needs are in the custom data of metadata.yaml.

    Returns:
        How many there are. The folder appears whole or not at all.

    Raises:
        ValueError: no episodes, one without frames or cameras, cameras that would share a topic, or
            the folder is there already.
    """
    count = 0
    with whole_folder(Path(folder)) as partial:
        for count, episode in enumerate(episodes, 1):
            _write_bag(partial / f"episode_{count - 1:05d}", episode)
        if not count:
            raise ValueError("there are no episodes to write")
    return count


def contract_of(bag: Bag) -> Contract | None:
    """How to read a recording that `write_bags` made; None for others."""
    if _CUSTOM not in bag.custom:
        return None
    told = json.loads(bag.custom[_CUSTOM])
    # Written together, with one stamp: whatever is missing has been lost.
    together = {"align": Align.AS_OF, "tolerance": 0.0}
    acted = together if told.get("all_actions_known", True) else together | {"align": Align.DROP}
    return Contract(
        ActionConfig(
            robot_type=RobotType.ARM,  # the recording names the robot itself
            action_dim=len(told["action_names"]),
            action_bounds=(-1.0, 1.0),  # bounds play no part in reading
            joint_names=(),  # actions are recorded as such, not as joints
            action_names=told["action_names"],
            proprioception_names=told["proprioception_names"],
            control_mode=told["control_mode"],
            dt=told["dt"],
        ),
        cameras={name: Stream(topic, **together) for name, topic in told["cameras"].items()},
        depth={name: Stream(topic, **together) for name, topic in told["depths"].items()},
        camera_info=told.get("camera_info", {}),
        state=Stream(STATE, **together),
        command=Stream(ACTION, **acted),
        instruction=INSTRUCTION,
    )


def _write_bag(folder: Path, episode: Episode) -> None:
    if not len(episode) or not episode.cameras:
        raise ValueError(f"{episode.name} has no frames, or no camera to tell them by")
    cameras = {camera: _topic(f"{camera}/image_raw") for camera in episode.cameras}
    depths = {camera: _topic(f"{camera}/depth/image_raw") for camera in episode.depths}
    infos = {camera: _topic(f"{camera}/camera_info") for camera in episode.calibrations}
    topics = [*cameras.values(), *depths.values(), *infos.values(), STATE, ACTION, INSTRUCTION]
    if doubled := {topic for topic in topics if topics.count(topic) > 1}:
        raise ValueError(f"{episode.name}: two streams would be {', '.join(doubled)}")
    stamps = nanoseconds(episode.stamps)
    if stamps[0] < SECOND:  # a stamp of zero means unset
        stamps = [stamp - stamps[0] + SECOND for stamp in stamps]
    pictures = [
        *((topic, episode.frames(camera)) for camera, topic in cameras.items()),
        *((topic, episode.depth(camera)) for camera, topic in depths.items()),
    ]
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for key, value in _custom(episode, cameras, depths, infos).items():
            writer.set_custom_data(key, value)
        write = _writing(writer)
        for camera, topic in infos.items():
            frame = cameras[camera].rpartition("/")[0][1:]
            write(topic, stamps[0], _camera_info(stamps[0], frame, episode.calibrations[camera]))
        write(INSTRUCTION, stamps[0], _MESSAGES["std_msgs/msg/String"](episode.instruction))
        for frame, stamp in enumerate(stamps):
            felt, told = episode.proprioception[frame], episode.actions[frame]
            write(STATE, stamp, _joints(stamp, episode.proprioception_names, felt))
            for topic, images in pictures:
                write(topic, stamp, _image(stamp, topic.rpartition("/")[0][1:], next(images)))
            if episode.actions_known[frame]:
                write(ACTION, stamp, _joints(stamp, episode.action_names, told))


def _custom(episode: Episode, cameras: dict, depths: dict, infos: dict) -> dict[str, str]:
    outcome = {True: "succeeded", False: "failed", None: ""}[episode.outcome]
    how = {
        "control_mode": episode.control_mode,
        "dt": episode.dt,
        "action_names": episode.action_names,
        "proprioception_names": episode.proprioception_names,
        "cameras": cameras,
        "depths": depths,
        "camera_info": infos,
        "source": episode.name,
        "all_actions_known": bool(episode.actions_known.all()),
    }
    return {
        "robot": episode.robot,
        "instruction": episode.instruction,
        "outcome": outcome,
        _CUSTOM: json.dumps(how),
    }


def _writing(writer: Writer) -> Callable[[str, int, Any], None]:
    """A function that writes a message to a topic, which its first message announces."""
    connections = {}

    def write(topic: str, stamp: int, message: Any) -> None:
        kind = message.__msgtype__
        if topic not in connections:
            connections[topic] = writer.add_connection(topic, kind, typestore=_TYPES)
        writer.write(connections[topic], stamp, _TYPES.serialize_cdr(message, kind))

    return write


def _topic(name: str) -> str:
    """A name that ROS 2 allows: letters, digits and underscores, no part beginning by a digit."""
    name = re.sub(r"[^A-Za-z0-9_/]+", "_", name)
    return "/" + re.sub(r"(^|/)(?=[0-9])", r"\1camera_", name)


def _header(stamp: int, frame: str = "") -> Any:
    time = _MESSAGES["builtin_interfaces/msg/Time"](stamp // SECOND, stamp % SECOND)
    return _MESSAGES["std_msgs/msg/Header"](time, frame)


def _joints(stamp: int, names: Sequence[str], values: np.ndarray) -> Any:
    empty = np.empty(0)
    positions = values.astype(np.float64)
    return _MESSAGES["sensor_msgs/msg/JointState"](
        _header(stamp), list(names), positions, empty, empty
    )


def _camera_info(stamp: int, frame: str, calibration: CameraCalibration) -> Any:
    matrix = calibration.matrix
    return _MESSAGES["sensor_msgs/msg/CameraInfo"](
        header=_header(stamp, frame),
        height=calibration.height,
        width=calibration.width,
        distortion_model=calibration.distortion_model,
        d=np.array(calibration.distortion, np.float64),
        k=matrix.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([matrix, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=_MESSAGES["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    )


def _image(stamp: int, frame: str, pixels: np.ndarray) -> Any:
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels)
    return _MESSAGES["sensor_msgs/msg/Image"](
        header=_header(stamp, frame),
        height=height,
        width=width,
        encoding=_ENCODINGS[data.dtype.str],
        is_bigendian=0,
        step=data.strides[0],
        data=data.reshape(-1).view(np.uint8),
    )


# --- vla bag from-rlds ----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset",
        type=to_path,
        help="folder of a version, with features.json (for example X/1.0.0)",
    )
    parser.add_argument("bags", type=to_path, help="folder to make, with a recording an episode")
    parser.add_argument("--split", default="train")
    parser.add_argument("--limit", type=int, help="only the first so many episodes")
    parser.add_argument("--dt", type=float, help="s between steps, where the dataset is silent")
    parser.add_argument("--robot", help="name of the robot")
    parser.add_argument("--control-mode", help="what an action is")
    for option, what in (
        ("--cameras", "features of RGB cameras (default: all), as steps/observation/image_0"),
        ("--state", "features that the robot feels (default: steps/observation/state)"),
        ("--action", "features of the action (default: steps/action)"),
        ("--action-names", "what each number of the action is"),
        ("--proprioception-names", "what each number of the state is"),
    ):
        parser.add_argument(option, nargs="+", metavar="NAME", help=what)
    parser.add_argument("--instruction", help="feature of the text", metavar="NAME")


def main(arguments: argparse.Namespace) -> None:
    check_there([arguments.dataset])
    check_folder(arguments.bags, "the folder")
    if arguments.limit is not None and not 1 <= arguments.limit <= sys.maxsize:
        raise ValueError(f"--limit is {arguments.limit}: give 1 or more")
    if arguments.dt is not None and not 0.0 < arguments.dt < math.inf:
        raise ValueError(f"--dt is {arguments.dt}: give seconds")
    options = vars(arguments)
    names = ("cameras", "state", "action", "instruction", "dt", "robot", "control_mode")
    names += ("action_names", "proprioception_names")
    given = {name: options[name] for name in names if options[name] is not None}
    episodes = open_rlds(arguments.dataset, RldsMapping(**given), arguments.split)
    chosen = announced(itertools.islice(episodes, arguments.limit))
    count = write_bags(arguments.bags, chosen)
    print(f"{count} recordings in {arguments.bags}")
