"""Recordings of a robot with an RGB-D camera, and policies that fuse its geometry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from recordings import Said, header, image, joints, make, text

from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.robots.action_config import ActionConfig

HEIGHT, WIDTH, FRAMES = 72, 96, 6
K = (80.0, 0.0, 47.5, 0.0, 80.0, 35.5, 0.0, 0.0, 1.0)
ACTION = ActionConfig(
    robot_type="arm",
    action_dim=2,
    action_bounds=(-10.0, 10.0),
    joint_names=("a", "b"),
    proprioception_names=("a",),
    horizon=2,
    dt=0.1,
)
ROBOT = """
action:
  robot_type: arm
  joint_names: [a, b]
  action_bounds: [-10, 10]
  proprioception_names: [a]
  horizon: 2
  dt: 0.1
bag:
  cameras: {front: front/image_raw}
  command: command
"""


def pixels(number: int) -> np.ndarray:
    """uint8 [HEIGHT, WIDTH, 3]."""
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def metres(number: int) -> np.ndarray:
    """float32 [HEIGHT, WIDTH]: whole mm, and nothing measured in a part."""
    depth = np.random.default_rng(100 + number).integers(300, 2000, (HEIGHT, WIDTH)) / 1000
    depth[:9] = 0.0
    return depth.astype(np.float32)


def camera_info(
    topic: str, stamp: float, k: tuple = K, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Said:
    message = make(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp),
        height=size[1],
        width=size[0],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array(k),
        r=np.eye(3).ravel(),
        p=np.hstack([np.reshape(k, (3, 3)), np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        ),
    )
    return topic, "sensor_msgs/msg/CameraInfo", stamp + 0.001, message


def depth_image(topic: str, stamp: float, depth: np.ndarray, encoding: str = "16UC1") -> Said:
    """Depth in m, as that encoding has it."""
    data = depth if encoding == "32FC1" else np.round(1000 * depth).astype(np.uint16)
    message = make(
        "sensor_msgs/msg/Image",
        header=header(stamp),
        height=depth.shape[0],
        width=depth.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=data.strides[0],
        data=np.ascontiguousarray(data).view(np.uint8).reshape(-1),
    )
    return topic, "sensor_msgs/msg/Image", stamp + 0.003, message


def rgbd(encoding: str = "16UC1", start: float = 100.0) -> Iterator[Said]:
    """FRAMES frames of a robot of joints a and b."""
    yield text("/instruction", start - 1.0, "push the cube")
    for i in range(FRAMES):
        stamp = start + 0.1 * i
        yield image("/front/image_raw", stamp, pixels(i))
        yield depth_image("/front/depth/image_raw", stamp, metres(i), encoding)
        yield camera_info("/front/camera_info", stamp)
        yield joints("/joint_states", stamp - 0.01, {"a": float(i), "b": -float(i)})
        yield joints("/command", stamp - 0.005, {"a": i + 1.0, "b": -i - 1.0})


def fused(geometry: str | None = "depth_camera", gate: float = 0.5) -> VisionLanguageActionModel:
    """An untrained policy of that robot, its gates open."""
    torch.manual_seed(0)
    shape = {"d_model": 32, "n_layers": 1, "d_state": 16, "keypoints": 4}
    model = VisionLanguageActionModel(ACTION, cameras=("front",), geometry=geometry, **shape)
    if geometry:
        torch.nn.init.constant_(model.spatial.fusions[0].gate, gate)
    return model.eval()
