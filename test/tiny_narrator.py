"""A narrator with random weights, small enough for tests."""

from __future__ import annotations

import torch

from vla_ros.models.narrator import Narrator, NarratorConfig

EYE = {"model_type": "small", "image_size": 16, "channels": 3}
CAMERAS = ("camera", "wrist_camera")
GRID = (2, 4, 4, 3)


def tiny_narrator(horizon=0.2, vision=EYE, cameras=CAMERAS) -> Narrator:
    torch.manual_seed(0)
    small = {"width": 32, "heads": 2, "layers": 1}
    return Narrator(NarratorConfig.of("nano", horizon, vision, cameras, **small)).eval()
