"""The calibration that a recording holds of its cameras: one each, as it has no time."""

from __future__ import annotations

from collections.abc import Mapping

from vla_ros.observations import CameraCalibration
from vla_ros.training.data.bag import SECOND, Bag, Topic

_TYPE = "sensor_msgs/msg/CameraInfo"
_AFTER_STAMP = 12  # bytes: what CDR begins with, s, ns


def topic_for(bag: Bag, name: str, what: str) -> Topic:
    """A topic that geometry needs, "depth" or "camera_info". Raises ValueError with the cure."""
    try:
        return bag.topic(name)
    except ValueError as error:
        raise ValueError(
            f"{error}; name another under {what} of `bag` in the robot's file"
        ) from None


def calibrations_of(bag: Bag, topics: Mapping[str, str]) -> dict[str, CameraCalibration]:
    """Of cameras, by the topics of their camera_info.

    Raises:
        ValueError: it is not there, is none, or changes in the recording.
    """
    found = {}
    for camera, name in topics.items():
        topic = topic_for(bag, name, "camera_info")
        if topic.type != _TYPE:
            raise ValueError(f"{bag.path}: {topic.name} is {topic.type}; expected {_TYPE}")
        distinct: dict[bytes, CameraCalibration] = {}
        for row, data in enumerate(bag.raw(topic)):
            # A stamp alone is no other calibration. Others are the same message again and again.
            if (content := bytes(data[_AFTER_STAMP:])) in distinct:
                continue
            stamp = topic.stamps[row] / SECOND
            try:
                calibration = CameraCalibration.from_message(topic.decode(data)[0])
            except ValueError as error:
                raise ValueError(
                    f"{bag.path}: {topic.name}, message {row} at {stamp:.3f} s: {error}"
                ) from None
            if any(calibration != other for other in distinct.values()):
                raise ValueError(
                    f"{bag.path}: {topic.name} changes at {stamp:.3f} s: cut the recording there, "
                    "or give the calibration under camera_info of the robot's file"
                )
            distinct[content] = calibration
        if not distinct:
            raise ValueError(
                f"{bag.path}: {topic.name} holds no message: record it again with the camera's "
                "driver, or give the calibration under camera_info of the robot's file"
            )
        found[camera] = next(iter(distinct.values()))
    return found
