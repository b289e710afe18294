"""A narrator with random weights, small enough for tests."""

from __future__ import annotations

import torch

from vla_ros.models.narrator import Narrator, NarratorConfig

GRID = (2, 4, 4, 3)


def tiny_narrator(grid=GRID, encoder_id="test", horizon=0.2) -> Narrator:
    torch.manual_seed(0)
    small = {"width": 32, "heads": 2, "layers": 1}
    return Narrator(NarratorConfig.of("nano", grid, encoder_id, horizon, **small)).eval()
