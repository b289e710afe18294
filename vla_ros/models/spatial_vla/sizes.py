"""Named sizes of SpatialVLA that begin from nothing, with what their tokens are made of."""

from __future__ import annotations

from typing import Any

# Of `configuration.tiny_config`: images as the simulator's policies have them, for a CPU.
SIZES: dict[str, dict[str, Any]] = {
    "tabletop": {
        "image_size": 64,
        "patch_size": 8,
        "hidden": 128,
        "layers": 4,
        "vision_layers": 3,
    },
    "tabletop-large": {
        "image_size": 64,
        "patch_size": 8,
        "hidden": 256,
        "layers": 6,
        "vision_layers": 6,
    },
}
# Coarser than the published grid: fewer tokens, each met more often. Nothing is lost by it in the
# simulator, whose expert does as well through these tokens as by itself.
BINS = {"theta": 8, "phi": 16, "r": 8, "roll": 3, "pitch": 3, "yaw": 3}
