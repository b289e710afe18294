"""Node vision_encoder: the newest image of every camera in, `visual_tokens` out.

Of a checkpoint that fuses geometry, depth and camera_info of every camera are read too, as far as
that geometry needs them; where each pixel is goes to `~/points/CAMERA` while somebody listens.

It serves the checkpoint of a policy or of a narrator, which have an eye each. The narrator's is a
second instance, with a name and a topic of its own: `narrator_eye`, `narrator/visual_tokens`.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from vla_ros.cameras import PicturePairs, beside
from vla_ros.checkpoints import resolve
from vla_ros.images import depth_from_message, image_from_message
from vla_ros.models import checkpoint
from vla_ros.models.observation_encoder import ObservationEncoder
from vla_ros.models.policy import ImageEncoder, load_policy, policy_type
from vla_ros.msg import VisualTokens
from vla_ros.nodes.parameters import VISION_ENCODER as PARAMETERS
from vla_ros.observations import CameraCalibration, CameraFrame, camera_frame
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import OK, WARN, LifecycleNode
from vla_ros.ros.messages import point_cloud_message, seconds, tokens_message
from vla_ros.ros.robot_history import RESTART, STAMP_ROUNDING
from vla_ros.ros.running import run


class VisionEncoderNode(LifecycleNode):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__("vision_encoder", PARAMETERS, **kwargs)

    def configure(self) -> None:
        torch.set_num_threads(1)
        path = resolve(self.params.checkpoint)
        self._model = load(path)
        cameras, topics = self._model.cameras, self.params.camera_topics
        if len(cameras) != len(topics):
            raise ValueError(
                f"the checkpoint {path} sees {len(cameras)} cameras ({', '.join(cameras)}), but "
                f"camera_topics names {len(topics)}: name one topic for each, in this order"
            )
        self._encoder = ObservationEncoder(self._model, self.params.geometry_rate)
        self._depth_topics = self._beside("depth", "depth_topics", "depth/image_raw")
        self._info_topics = self._beside("intrinsics", "camera_info_topics", "camera_info")
        self._encoder_id = self._model.encoder_id
        self._publisher = self.publisher(VisualTokens, "visual_tokens", qos.sensor())
        self._clouds = []
        if self._encoder.kind not in ("", "none"):
            self._clouds = [
                self.publisher(PointCloud2, f"~/points/{camera}", qos.sensor())
                for camera in cameras
            ]

    def _beside(self, what: str, parameter: str, usual: str) -> list[str]:
        """Topics, one for each camera, of what the checkpoint's geometry needs; none if it does
        not need it."""
        if what not in self._encoder.needs:
            return []
        images, given = self.params.camera_topics, getattr(self.params, parameter)
        if given == [""]:
            return [beside(topic, usual) for topic in images]
        if len(given) != len(images):
            raise ValueError(
                f"{parameter} names {len(given)} topics, camera_topics {len(images)}: name one for "
                "each camera, in their order"
            )
        return given

    def activate(self) -> None:
        # Depth is paired with the images as those of different cameras are.
        self._topics = [*self.params.camera_topics, *self._depth_topics]
        self._pairs: PicturePairs[Image] = PicturePairs(len(self._topics))
        self._received = [0] * len(self._topics)
        self._paired = self._encoded = 0
        self._inference_time = 0.0
        self._last: float | None = None  # s, stamp of the frame encoded last
        self._problem = ""  # why the newest frame is not encoded
        self._encoder.reset()
        self._infos: list[CameraInfo | None] = [None] * len(self._info_topics)
        self._calibrations: list[CameraCalibration | None] = [None] * len(self._info_topics)
        for index, topic in enumerate(self._topics):
            callback = functools.partial(self._on_image, index)
            self.subscribe(Image, topic, callback, qos.sensor())
        for index, topic in enumerate(self._info_topics):
            callback = functools.partial(self._on_camera_info, index)
            for profile in (qos.sensor(), qos.latched()):  # of whoever says it once, too
                self.subscribe(CameraInfo, topic, callback, profile)

    def cleanup(self) -> None:
        self._model = self._encoder = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        received, paired, encoded = self._received, self._paired, self._encoded
        self._received, self._paired, self._encoded = [0] * len(received), 0, 0
        details = {
            "encoded_per_second": encoded,
            "inference_time_ms": round(1e3 * self._inference_time, 2),
            **dict(zip(self._topics, received, strict=True)),
        }
        silent = self._silence(received)
        problem = silent or self._problem
        if not silent and not paired:
            problem = (
                "images of the cameras are never of one time: synchronise the cameras' clocks or "
                f"raise pairing_tolerance ({self.params.pairing_tolerance:g} s)"
            )
        self.log_edge("images", problem)
        return (WARN, problem, details) if problem else (OK, "encoding", details)

    def _silence(self, received: list[int]) -> str:
        """What nothing comes of, in words; "" if all comes."""
        cameras = len(self.params.camera_topics)
        silent = [t for t, count in zip(self._topics, received, strict=True) if not count]
        if images := [topic for topic in self._topics[:cameras] if topic in silent]:
            return f"no images on {', '.join(images)}"
        if silent:
            return (
                f"no depth on {', '.join(silent)}, which the checkpoint's geometry "
                f"'{self._encoder.kind}' needs: switch on the camera's registered depth, or name "
                "its topics in depth_topics"
            )
        missing = [
            topic
            for topic, info in zip(self._info_topics, self._infos, strict=True)
            if info is None
        ]
        if missing:
            return (
                f"no camera_info on {', '.join(missing)}, which the checkpoint's geometry "
                f"'{self._encoder.kind}' needs: have it published, or name its topics in "
                "camera_info_topics"
            )
        return ""

    def _on_camera_info(self, index: int, message: CameraInfo) -> None:
        before, self._infos[index] = self._infos[index], message
        if before is None or not _same_camera(before, message):
            self._calibrations[index] = None  # read with the next frame

    def _on_image(self, index: int, message: Image) -> None:
        self._received[index] += 1
        stamp, together = seconds(message.header.stamp), self.params.pairing_tolerance
        for images in self._pairs.add(index, stamp, message, together):
            self._on_pair(images)

    def _on_pair(self, images: list[Image]) -> None:
        self._paired += 1
        stamp = seconds(images[0].header.stamp)  # that of the tokens
        listened = any(one.get_subscription_count() for one in (self._publisher, *self._clouds))
        if not listened or not self._is_due(stamp):
            return  # nobody would read it, or not so often
        self._last = stamp
        self._encode(images)

    def _is_due(self, stamp: float) -> bool:
        rate = self.params.rate
        if self._last is None or stamp < self._last - RESTART:
            return True
        if stamp < self._last:
            return False  # late: a newer frame was encoded
        if not rate:
            return True
        return stamp - self._last >= 1.0 / rate - STAMP_ROUNDING

    def _encode(self, messages: list[Image]) -> None:
        stamp = seconds(messages[0].header.stamp)
        self._encoder.rate = self.params.geometry_rate
        try:
            frames = [self._frame(index, messages) for index in range(len(self._model.cameras))]
            begin = time.perf_counter()
            tokens = self._encoder.encode(frames, stamp)
            self._require_measured()
            self._problem = ""
        except ValueError as error:
            self._problem = f"images are not encoded: {error}"
        self.log_edge("image", self._problem)
        if self._problem:
            return
        self._inference_time = time.perf_counter() - begin
        self._encoded += 1
        self._publisher.publish(
            tokens_message(
                tokens,
                messages[0].header,
                self._encoder_id,
                self._model.cameras,
                self._inference_time,
            )
        )
        self._publish_points(stamp, frames, messages)

    def _frame(self, index: int, messages: list[Image]) -> CameraFrame:
        """What a camera sees. Raises ValueError, which names the topic."""
        cameras, depth, topic = len(self._model.cameras), None, self.params.camera_topics[index]
        try:
            image = image_from_message(messages[index])
            if self._depth_topics:
                topic = self._depth_topics[index]
                depth = depth_from_message(messages[cameras + index])
            calibration = None
            if self._info_topics:
                topic = self._info_topics[index]
                calibration = self._calibration(index)
                calibration.require_size(image.shape[1], image.shape[0])
            topic = self._depth_topics[index] if self._depth_topics else topic
            needs, size = self._encoder.needs, self._model.image_size
            return camera_frame(image, size, needs, depth, calibration)
        except ValueError as error:
            raise ValueError(f"{topic}: {error}") from None

    def _calibration(self, index: int) -> CameraCalibration:
        if self._infos[index] is None:
            raise ValueError("nothing came yet; have it published, or name it otherwise")
        if self._calibrations[index] is None:
            self._calibrations[index] = CameraCalibration.from_message(self._infos[index])
        return self._calibrations[index]

    def _require_measured(self) -> None:
        """Raises ValueError until something that each camera sees has a place."""
        blind = self._encoder.nothing_measured()
        if not blind:
            return
        topics = self._depth_topics or self.params.camera_topics
        cure = f"geometry '{self._encoder.kind}' found no place in it"
        if self._depth_topics:
            cure = (
                "nothing was measured yet within the range of the checkpoint's geometry: all is 0, "
                "NaN or too far; look at the camera, and at the unit of its depth (m in 32FC1, mm "
                "in 16UC1)"
            )
        raise ValueError(f"{', '.join(topics[index] for index in blind)}: {cure}")

    def _publish_points(
        self, stamp: float, frames: list[CameraFrame], messages: list[Image]
    ) -> None:
        """What was made of this frame, for who listens; each cloud in its camera's frame."""
        listened = [i for i, one in enumerate(self._clouds) if one.get_subscription_count()]
        made = self._encoder.points_of(stamp) if listened else None
        if made is None:
            return
        for index in listened:
            points, confidence, valid = (part[index].cpu().numpy() for part in made)
            header, image = messages[index].header, frames[index].image
            message = point_cloud_message(points, valid, confidence, image, header)
            self._clouds[index].publish(message)


def _same_camera(one: CameraInfo, other: CameraInfo) -> bool:
    names = ("width", "height", "binning_x", "binning_y", "roi", "distortion_model")
    return (
        all(getattr(one, name) == getattr(other, name) for name in names)
        and np.array_equal(one.k, other.k)
        and np.array_equal(one.d, other.d)
    )


def load(folder: Path) -> ImageEncoder:
    """The model with an eye that a checkpoint folder holds.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        ValueError: it is of another model, or damaged.
        RuntimeError: it needs a package that is not installed.
    """
    if policy_type(folder) is not None:
        return load_policy(folder)
    if "language" in checkpoint.read_json(folder, checkpoint.CONFIG):
        # Only now: it takes a second, and a policy's eye that was killed must be back soon.
        from vla_ros.models.narrator import Narrator

        return Narrator.from_pretrained(folder)
    raise ValueError(
        f"checkpoint {folder} is neither a policy's nor a narrator's: give one that `vla train "
        "policy` or `vla train narrator` wrote, or 'arm' for the one that ships"
    )


def main(args: list[str] | None = None) -> int:
    return run(VisionEncoderNode, args)


if __name__ == "__main__":
    sys.exit(main())
