"""Text -> scene -> text with random weights, small enough for tests."""

from __future__ import annotations

import torch

from vla_ros.models.scenes.config import ScenesConfig
from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.models.svl import SVLConfig
from vla_ros.scene_language.vocabulary import BOS, EOS, PAD, TOKENS

SMALL = ScenesConfig(
    language=SVLConfig(
        len(TOKENS), context=96, width=32, heads=2, layers=1, pad=PAD, bos=BOS, eos=EOS
    ),
    d_model=64, hidden_dim=32, z_dim=32,
)  # fmt: skip


def tiny_scenes() -> CycleScenes:
    torch.manual_seed(0)
    return CycleScenes(SMALL).eval()
