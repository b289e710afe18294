"""Node vision_encoder: the newest image of every camera in, `visual_tokens` out.

It serves the checkpoint of a policy or of a narrator, which have an eye each. The narrator's is a
second instance, with a name and a topic of its own: `narrator_eye`, `narrator/visual_tokens`.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sensor_msgs.msg import Image

from vla_ros.cameras import PicturePairs
from vla_ros.checkpoints import resolve
from vla_ros.images import image_from_message
from vla_ros.models import checkpoint
from vla_ros.models.policy import ImageEncoder, load_policy, policy_type
from vla_ros.msg import VisualTokens
from vla_ros.nodes.parameters import VISION_ENCODER as PARAMETERS
from vla_ros.observations import preprocess_image
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import OK, WARN, LifecycleNode
from vla_ros.ros.messages import seconds, tokens_message
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
        if geometry := self._model.geometry_description:
            raise ValueError(
                f"the checkpoint {path} fuses geometry '{geometry['model_type']}', which this node "
                "does not read yet: give one that was trained on images alone"
            )
        self._encoder_id = self._model.encoder_id
        self._publisher = self.publisher(VisualTokens, "visual_tokens", qos.sensor())

    def activate(self) -> None:
        self._pairs: PicturePairs[Image] = PicturePairs(len(self.params.camera_topics))
        self._received = [0] * len(self.params.camera_topics)
        self._paired = self._encoded = 0
        self._inference_time = 0.0
        self._last: float | None = None  # s, stamp of the frame encoded last
        self._problem = ""  # why the newest frame is not encoded
        for index, topic in enumerate(self.params.camera_topics):
            callback = functools.partial(self._on_image, index)
            self.subscribe(Image, topic, callback, qos.sensor())

    def cleanup(self) -> None:
        self._model = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        received, paired, encoded = self._received, self._paired, self._encoded
        self._received, self._paired, self._encoded = [0] * len(received), 0, 0
        details = {
            "encoded_per_second": encoded,
            "inference_time_ms": round(1e3 * self._inference_time, 2),
            **dict(zip(self.params.camera_topics, received, strict=True)),
        }
        silent = [
            topic
            for topic, count in zip(self.params.camera_topics, received, strict=True)
            if not count
        ]
        problem = f"no images on {', '.join(silent)}" if silent else self._problem
        if not silent and not paired:
            problem = (
                "images of the cameras are never of one time: synchronise the cameras' clocks or "
                f"raise pairing_tolerance ({self.params.pairing_tolerance:g} s)"
            )
        self.log_edge("images", problem)
        return (WARN, problem, details) if problem else (OK, "encoding", details)

    def _on_image(self, index: int, message: Image) -> None:
        self._received[index] += 1
        stamp, together = seconds(message.header.stamp), self.params.pairing_tolerance
        for images in self._pairs.add(index, stamp, message, together):
            self._on_pair(images)

    def _on_pair(self, images: list[Image]) -> None:
        self._paired += 1
        stamp = seconds(images[0].header.stamp)  # that of the tokens
        if not self._publisher.get_subscription_count() or not self._is_due(stamp):
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
        size, images = self._model.image_size, []
        self._problem = ""
        for topic, message in zip(self.params.camera_topics, messages, strict=True):
            try:
                images.append(preprocess_image(image_from_message(message), size))
            except ValueError as error:
                self._problem = f"images are not encoded: {topic}: {error}"
                break
        self.log_edge("image", self._problem)
        if self._problem:
            return
        begin = time.perf_counter()
        tokens = self._model.encode(images)
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
