"""Between ROS messages and numpy, without needless copies.

Message arrays are filled with `array.frombytes`: assigning a list or an ndarray to a field makes
rclpy look at every element. What is read from a message is a view of it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import Image, JointState, PointCloud2, PointField
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.msg import ActionChunk, Imagination, VisualTokens
from vla_ros.safety.gate import Chunk, Command

_TOKEN_TYPES = {VisualTokens.FLOAT16: np.dtype("<f2"), VisualTokens.FLOAT32: np.dtype("<f4")}
# "rgb" as RViz and PCL read it: red, green, blue in the bytes of a float.
_CLOUD = np.dtype([(name, "<f4") for name in ("x", "y", "z", "rgb", "confidence")])
_FARTHEST = 2.0**31  # s: the first that a stamp or a duration cannot hold
_LATEST = 2**31 * 10**9 - 1  # ns: the last that they can
_IMAGE_ENCODINGS = {
    ("|u1", 3): "rgb8",
    ("|u1", 1): "mono8",
    ("<f4", 1): "32FC1",
    ("<u2", 1): "16UC1",
}


def seconds(stamp: Time | Duration) -> float:
    return stamp.sec + stamp.nanosec * 1e-9


def nanoseconds(stamp: Time | Duration) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def to_time(value: float) -> Time:
    """Seconds since the epoch of the clock; what a stamp cannot hold becomes the nearest it can."""
    nanoseconds = min(round(min(max(value, 0.0), _FARTHEST) * 1e9), _LATEST)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def to_duration(value: float) -> Duration:
    nanoseconds = min(round(min(max(value, -_FARTHEST), _FARTHEST) * 1e9), _LATEST)
    return Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def filled(typecode: str, values: np.ndarray) -> array:
    """Return an array.array for a message field; `values` must have the field's element type."""
    result = array(typecode)
    result.frombytes(memoryview(np.ascontiguousarray(values)).cast("B"))
    return result


# --- images and joints --------------------------------------------------------------------------


def image_message(image: np.ndarray, header: Header) -> Image:
    """[H, W, 3] uint8 RGB, [H, W] uint8 grey, float32 (metres) or uint16 (millimetres)."""
    channels = image.shape[2] if image.ndim == 3 else 1
    encoding = _IMAGE_ENCODINGS.get((image.dtype.str, channels))
    if encoding is None or image.ndim not in (2, 3):
        raise ValueError(f"no image encoding for {image.dtype} of shape {image.shape}")
    height, width = image.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * channels * image.itemsize,
        data=filled("B", image),
    )


def point_cloud_message(
    points: np.ndarray,
    valid: np.ndarray,
    confidence: np.ndarray,
    rgb: np.ndarray,
    header: Header,
) -> PointCloud2:
    """An organised cloud: points [H, W, 3] (m), NaN where not `valid`, with colour and confidence.

    Args:
        points: float32 [H, W, 3], in the optical frame of `header`.
        valid: bool [H, W].
        confidence: float32 [H, W], 0..1.
        rgb: uint8 [H, W, 3].
    """
    height, width = valid.shape
    cloud = np.zeros((height, width), _CLOUD)
    known = np.where(valid[..., None], points, np.float32(np.nan))
    cloud["x"], cloud["y"], cloud["z"] = known[..., 0], known[..., 1], known[..., 2]
    colours = rgb.astype(np.uint32)
    packed = colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
    cloud["rgb"], cloud["confidence"] = packed.view(np.float32), confidence
    return PointCloud2(
        header=header,
        height=height,
        width=width,
        fields=[
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate(cloud.dtype.names)
        ],
        is_bigendian=False,
        point_step=cloud.itemsize,
        row_step=width * cloud.itemsize,
        data=filled("B", cloud),
        is_dense=bool(valid.all()),
    )


def joint_state_message(
    names: Sequence[str],
    positions: np.ndarray,
    header: Header,
    velocities: np.ndarray | None = None,
) -> JointState:
    """Positions and velocities [D], rad or m and per second."""
    message = JointState(header=header, name=names)
    message.position = filled("d", np.asarray(positions, dtype=np.float64))
    if velocities is not None:
        message.velocity = filled("d", np.asarray(velocities, dtype=np.float64))
    return message


# --- visual tokens ------------------------------------------------------------------------------


def tokens_message(
    tokens: np.ndarray,
    header: Header,
    encoder_id: str,
    cameras: Sequence[str],
    inference_time: float,
) -> VisualTokens:
    """Tokens [N, h, w, c], float16 or float32."""
    kind = VisualTokens.FLOAT16 if tokens.dtype == np.float16 else VisualTokens.FLOAT32
    return VisualTokens(
        header=header,
        encoder_id=encoder_id,
        cameras=cameras,
        shape=array("I", tokens.shape),
        dtype=kind,
        data=filled("B", tokens.astype(_TOKEN_TYPES[kind], copy=False)),
        inference_time=inference_time,
    )


def tokens_from_message(message: VisualTokens) -> np.ndarray:
    """Return the tokens [N, h, w, c] as a view of the message. ValueError when it is broken."""
    kind = _TOKEN_TYPES.get(message.dtype)
    if kind is None:
        raise ValueError(f"visual tokens have unknown dtype {message.dtype}")
    shape = tuple(message.shape)
    if len(shape) != 4 or math.prod(shape) * kind.itemsize != len(message.data):
        raise ValueError(
            f"visual tokens of shape {shape} and {kind} do not fill {len(message.data)} bytes"
        )
    return np.frombuffer(message.data, dtype=kind).reshape(shape)


# --- imagination ----------------------------------------------------------------------------------

UNKNOWN_SURPRISE = -1.0


def imagination_message(
    header: Header,
    dt: float,
    frames: Sequence[np.ndarray] = (),
    latent_actions: Sequence[int] = (),
    surprise: float | None = None,
) -> Imagination:
    """Imagined frames uint8 [S, S, 3], `dt` s apart; `header` is that of the last real one."""
    begin = seconds(header.stamp)
    return Imagination(
        header=header,
        dt=dt,
        frames=[
            image_message(
                frame, Header(stamp=to_time(begin + (k + 1) * dt), frame_id=header.frame_id)
            )
            for k, frame in enumerate(frames)
        ],
        latent_actions=array("i", latent_actions),
        surprise=UNKNOWN_SURPRISE if surprise is None else surprise,
    )


# --- action chunks and commands -------------------------------------------------------------------


def chunk_message(
    points: np.ndarray, joint_names: Sequence[str], dt: float, **fields: Any
) -> ActionChunk:
    """Joint positions [K, D] in rad or m; `fields` are further fields of the message."""
    horizon, dof = points.shape
    return ActionChunk(
        control_mode=ActionChunk.JOINT_POSITION,
        joint_names=joint_names,
        horizon=horizon,
        dof=dof,
        dt=dt,
        data=filled("d", np.asarray(points, dtype=np.float64)),
        **fields,
    )


def chunk_from_message(message: ActionChunk) -> Chunk:
    """Return the chunk; its points [K, D] are a view. ValueError when the gate cannot use it."""
    if message.control_mode != ActionChunk.JOINT_POSITION:
        raise ValueError(f"control mode {message.control_mode} is not joint positions")
    if message.horizon * message.dof != len(message.data):
        raise ValueError(
            f"{len(message.data)} values are not {message.horizon} points of {message.dof} joints"
        )
    points = np.frombuffer(message.data, dtype=np.float64).reshape(message.horizon, message.dof)
    return Chunk(seconds(message.header.stamp), message.dt, tuple(message.joint_names), points)


def trajectory_message(
    command: Command, joint_names: Sequence[str], header: Header
) -> JointTrajectory:
    """One point. `header.stamp` is that of the observation, zero ("now") for a hold."""
    point = JointTrajectoryPoint(
        positions=filled("d", command.positions),
        time_from_start=to_duration(command.time_from_start),
    )
    return JointTrajectory(header=header, joint_names=joint_names, points=[point])
