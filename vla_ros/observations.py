"""Messages to model inputs: one code path for the live nodes and for recorded bags.

Messages are read by their fields only, so rclpy's classes and a bag reader's serve alike. Nothing
here imports ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vla_ros.robots.kinematics import ArmKinematics

# encoding -> (channels, indices of red, green, blue)
_ENCODINGS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}
_DEPTHS = {"32FC1": "f4", "16UC1": "u2"}


def image_from_message(message: Any) -> np.ndarray:
    """RGB pixels of a sensor_msgs/Image.

    Returns:
        uint8 [height, width, 3]; a read-only view of the message where its layout allows.

    Raises:
        ValueError: an encoding this package does not read, or a size that does not fit the data.
    """
    if message.encoding not in _ENCODINGS:
        raise ValueError(
            f"image encoding '{message.encoding}' is not supported: publish one of "
            f"{', '.join(_ENCODINGS)}"
        )
    channels, order = _ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, dtype=np.uint8)
    if height == 0 or width == 0 or step < width * channels or data.size < height * step:
        raise ValueError(
            f"image of {width}x{height} {message.encoding} with step {step} does not fit its "
            f"{data.size} bytes"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)
    return pixels if message.encoding == "rgb8" else np.ascontiguousarray(pixels[:, :, order])


def image_from_compressed(message: Any) -> np.ndarray:
    """RGB pixels of a sensor_msgs/CompressedImage (JPEG or PNG), uint8 [height, width, 3].

    Raises:
        ValueError: the data are no picture.
    """
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(
            f"compressed image of format '{message.format}' cannot be decoded: record JPEG or PNG"
        )
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def depth_from_message(message: Any) -> np.ndarray:
    """Depth of a sensor_msgs/Image: 32FC1 in m or 16UC1 in mm (REP 118).

    Returns:
        float32 [height, width], m; NaN where nothing was measured.

    Raises:
        ValueError: another encoding, or a size that does not fit the data.
    """
    if message.encoding not in _DEPTHS:
        raise ValueError(
            f"depth encoding '{message.encoding}' is not supported: publish one of "
            f"{', '.join(_DEPTHS)}"
        )
    kind = np.dtype((">" if message.is_bigendian else "<") + _DEPTHS[message.encoding])
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, dtype=np.uint8)
    if height == 0 or width == 0 or step < width * kind.itemsize or data.size < height * step:
        raise ValueError(
            f"depth of {width}x{height} {message.encoding} with step {step} does not fit its "
            f"{data.size} bytes"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * kind.itemsize]
    return metres(np.ascontiguousarray(rows).view(kind))


def depth_from_compressed(message: Any) -> np.ndarray:
    """Depth of a sensor_msgs/CompressedImage: 16-bit PNG in mm, or what compressedDepth makes.

    compressed_depth_image_transport puts twelve bytes before the PNG: an enumeration and two
    numbers a, b; for 32FC1 the pixels hold a / depth + b, else mm.

    Returns:
        float32 [height, width], m; NaN where nothing was measured.

    Raises:
        ValueError: the data are no 16-bit picture.
    """
    data, inverse = np.frombuffer(message.data, np.uint8), None
    if "compressedDepth" in message.format and data.size > 12:
        if message.format.startswith("32FC1"):
            inverse = data[4:12].view("<f4")
        data = data[12:]
    raw = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16 or raw.ndim != 2:
        raise ValueError(
            f"compressed depth of format '{message.format}' cannot be decoded: record 16-bit PNG"
        )
    if inverse is None:
        return metres(raw)
    scale, offset = inverse
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(raw > 0, scale / (raw - offset), np.nan).astype(np.float32)


def metres(raw: np.ndarray) -> np.ndarray:
    """Depth in mm (unsigned) or m as float32 in m, NaN where nothing was measured."""
    if raw.dtype.kind == "u":
        return np.where(raw > 0, raw * np.float32(1e-3), np.nan).astype(np.float32)
    depth = raw.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


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
    side = min(rgb.shape[:2])
    if side < size:
        raise ValueError(
            f"image of {rgb.shape[1]}x{rgb.shape[0]} is smaller than the model's {size}x{size}: "
            "raise the camera's resolution"
        )
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    square = rgb[top : top + side, left : left + side]
    if side == size:
        return square
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)


def joints_from_message(message: Any, names: Sequence[str]) -> np.ndarray:
    """Positions of `names`, in that order, from a sensor_msgs/JointState.

    Returns:
        float64 [len(names)], rad or m.

    Raises:
        ValueError: a joint is missing, or a position is not finite (the joint is named).
    """
    index = {name: i for i, name in enumerate(message.name)}
    missing = [name for name in names if name not in index]
    if missing:
        raise ValueError(f"joint_states lacks {', '.join(missing)}: it has {', '.join(index)}")
    if len(message.position) != len(message.name):
        raise ValueError(
            f"joint_states names {len(message.name)} joints "
            f"but has {len(message.position)} positions"
        )
    positions = np.array([message.position[index[name]] for name in names], dtype=np.float64)
    if not np.isfinite(positions).all():
        bad = [name for name, value in zip(names, positions, strict=True) if not np.isfinite(value)]
        raise ValueError(f"joint_states holds NaN or infinity for {', '.join(bad)}")
    return positions


def proprioception(joints: np.ndarray, kinematics: ArmKinematics) -> np.ndarray:
    """What the policy feels: tool x, y, z (m, base frame) and finger opening (m), float32 [4].

    Args:
        joints: [n + 1], the arm's joints (rad) and the finger opening (m).
    """
    tool, _ = kinematics.forward(joints[:-1])
    return np.append(tool, joints[-1]).astype(np.float32)
