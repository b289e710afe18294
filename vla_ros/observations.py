"""Messages to model inputs: one code path for the live nodes and for recorded bags.

Messages are read by their fields only, so rclpy's classes and a bag reader's serve alike. Nothing
here imports ROS. Pictures of messages are read in images.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vla_ros.camera_info import CameraCalibration, CentreSquare
from vla_ros.images import (
    depth_from_compressed,
    depth_from_message,
    image_from_compressed,
    image_from_message,
)
from vla_ros.joint_states import read_positions
from vla_ros.robots.kinematics import ArmKinematics

__all__ = [  # all that messages become, in one place to import from
    "CameraCalibration",
    "CameraFrame",
    "camera_frame",
    "depth_from_compressed",
    "depth_from_message",
    "image_from_compressed",
    "image_from_message",
    "joints_from_message",
    "preprocess_depth",
    "preprocess_image",
    "proprioception",
]


def preprocess_image(rgb: np.ndarray, size: int) -> np.ndarray:
    """Centre square of an image, scaled to the model's size by area averaging.

    Args:
        rgb: uint8 [H, W, 3].
        size: pixels of either side.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: not an RGB image, or smaller than the model's input.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    square = CentreSquare.of(rgb.shape[1], rgb.shape[0], size)
    if square.side == size:
        return square.crop(rgb)
    return cv2.resize(square.crop(rgb), (size, size), interpolation=cv2.INTER_AREA)


def preprocess_depth(depth: np.ndarray, size: int) -> np.ndarray:
    """The same square of a depth image, scaled by averaging what was measured.

    Args:
        depth: float32 [H, W], m; NaN, infinite, 0 or less where nothing was measured.
        size: pixels of either side.

    Returns:
        float32 [size, size], m; NaN where less than half of the area was measured.

    Raises:
        ValueError: not a depth image in m, or smaller than the model's input.
    """
    if depth.ndim != 2 or depth.dtype != np.float32:
        raise ValueError(f"expected depth in m, float32 [H, W], got {depth.dtype} {depth.shape}")
    square = CentreSquare.of(depth.shape[1], depth.shape[0], size)
    depth = square.crop(depth)
    measured = np.isfinite(depth) & (depth > 0)
    depth = np.where(measured, depth, np.float32(0))
    share = measured.astype(np.float32)
    if square.side != size:
        depth, share = (
            cv2.resize(values, (size, size), interpolation=cv2.INTER_AREA)
            for values in (depth, share)
        )
    known = share >= 0.5
    return np.where(known, depth / np.where(known, share, 1), np.float32(np.nan))


@dataclass(frozen=True)
class CameraFrame:
    """What one camera sees at one moment, as a model takes it.

    Attributes:
        image: uint8 [S, S, 3].
        depth: float32 [S, S], m; None where the model wants none. See `preprocess_depth`.
        rays: float32 [S, S, 3]; None where the model wants none. See `CameraCalibration.rays`.
    """

    image: np.ndarray
    depth: np.ndarray | None = None
    rays: np.ndarray | None = None


def camera_frame(
    image: np.ndarray,
    size: int,
    needs: Collection[str] = (),
    depth: np.ndarray | None = None,
    calibration: CameraCalibration | None = None,
) -> CameraFrame:
    """A camera's frame for a model of that image size.

    Args:
        image: uint8 [H, W, 3].
        size: S, pixels.
        needs: "depth" and "intrinsics", as far as the model's geometry wants them.
        depth: float32 [h, w], m, registered to the image: of the same view, at any resolution.
        calibration: of the image.

    Raises:
        ValueError: something is missing or wrong, or not of one size.
    """
    small = preprocess_image(image, size)
    near = rays = None
    if "depth" in needs:
        if depth is None:
            raise ValueError("there is no depth beside the image")
        (height, width), (high, wide) = image.shape[:2], depth.shape
        if height * wide != width * high:
            raise ValueError(
                f"depth of {wide}x{high} is not of the view of its {width}x{height} image: name a "
                "topic of depth that is registered to it"
            )
        near = preprocess_depth(depth, size)
    if "intrinsics" in needs:
        if calibration is None:
            raise ValueError("there is no camera_info beside the image")
        calibration.require_size(image.shape[1], image.shape[0])
        rays = calibration.rays(size)
    return CameraFrame(small, near, rays)


def joints_from_message(message: Any, names: Sequence[str]) -> np.ndarray:
    """Positions of `names`, in that order, from a sensor_msgs/JointState.

    Returns:
        float64 [len(names)], rad or m.

    Raises:
        ValueError: a joint is missing, twice there, or not finite (the joint is named).
    """
    found = read_positions(message, names)
    if missing := [name for name in names if name not in found]:
        raise ValueError(
            f"joint_states lacks {', '.join(missing)}: it has {', '.join(message.name)}"
        )
    return np.array([found[name] for name in names], dtype=np.float64)


def proprioception(joints: np.ndarray, kinematics: ArmKinematics) -> np.ndarray:
    """What the policy feels: tool x, y, z (m, base frame) and finger opening (m), float32 [4].

    Args:
        joints: [n + 1], the arm's joints (rad) and the finger opening (m).
    """
    tool, _ = kinematics.forward(joints[:-1])
    return np.append(tool, joints[-1]).astype(np.float32)
