"""A SpatialVLA of 250 thousand random numbers, with its processor."""

from __future__ import annotations

import numpy as np
import torch
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vla_ros.models.spatial_vla.configuration import tiny_config
from vla_ros.models.spatial_vla.grid import ActionGrid
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.spatial_vla.text import small_text_tokenizer
from vla_ros.models.spatial_vla.tokenizer import SpatialActionTokenizer

SIZE, TOKENS, GEOMETRY = 28, 4, 6  # pixels, tokens of an image, numbers of a geometry feature
STATISTICS = {
    "arm": {
        "action": {
            "q01": [-0.1, -0.2, -0.1, -0.4, -0.4, -0.4, 0.0],
            "q99": [0.3, 0.2, 0.1, 0.4, 0.4, 0.5, 1.0],
            "mask": [True] * 6 + [False],
        }
    },
    "other": {"action": {"q01": [-1.0] * 7, "q99": [1.0] * 7}},
}
SENTENCES = ("pick the cube", "put the red block into the large bowl")


def action_tokenizer() -> SpatialActionTokenizer:
    """64 translations, 64 rotations, 2 grippers."""
    bins = {"theta": 4, "phi": 8, "r": 2, "roll": 4, "pitch": 4, "yaw": 4}
    return SpatialActionTokenizer(ActionGrid.uniform(bins), mode="published")


def processor() -> SpatialVLAProcessor:
    return SpatialVLAProcessor(
        SiglipImageProcessorPil(
            size={"height": SIZE, "width": SIZE}, do_normalize=False, image_seq_length=TOKENS
        ),
        small_text_tokenizer(SENTENCES, size=300),
        statistics=STATISTICS,
        action_encoding=action_tokenizer().to_dict(),
    )


def model(
    made_by: SpatialVLAProcessor, seed: int = 0, **settings
) -> SpatialVLAForConditionalGeneration:
    """Random weights; geometry counts, as its gate is open. In evaluation mode."""
    legal = [made_by.action_tokenizer.legal(place) for place in range(3)]
    config = tiny_config(
        made_by.action_token_begin_idx,
        [[ids.start, ids.stop] for ids in legal],
        **{
            "image_size": SIZE,
            "hidden": 64,
            "layers": 2,
            "vision_layers": 1,
            "geometry_dim": GEOMETRY,
            **settings,
        },
    )
    torch.manual_seed(seed)
    made = SpatialVLAForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" not in name and weight.ndim > 1:
                weight.mul_(5)  # so that what is said depends on what is seen
        if made.model.geometry is not None:
            made.model.geometry.gate.fill_(0.5)
    return made.eval()


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (36, 48, 3), dtype=np.uint8) for _ in range(count)]


def geometry(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, TOKENS, GEOMETRY, generator=torch.Generator().manual_seed(seed))


def chunk(count: int, seed: int = 0) -> np.ndarray:
    """Actions [count, 4, 7] in -1..1."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (count, 4, 7))
    actions[..., 6] = actions[..., 6] > 0
    return actions
