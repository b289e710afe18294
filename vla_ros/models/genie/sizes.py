"""Sizes of a world model: nano ships, small is for one GPU, and paper has the layers, widths and
codes of Genie's largest (Bruce et al. 2024, appendix), at 64 pixels."""

from __future__ import annotations

from typing import Any

QUANTIZERS = ("fsq", "vq")
# What differs from the defaults of each part's configuration.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "nano": {"tokenizer": {}, "latent_actions": {}, "dynamics": {}},
    "small": {
        "tokenizer": {
            "patch": 4, "channels": (128,), "width": 256, "heads": 8, "encoder_layers": 4,
            "decoder_width": 256, "decoder_heads": 8, "decoder_layers": 6, "window": 8,
        },
        "latent_actions": {
            "width": 256, "heads": 8, "encoder_layers": 6, "decoder_layers": 6,
            "encoder_window": 8, "decoder_window": 4,
        },
        "dynamics": {"width": 384, "heads": 12, "layers": 8, "window": 16},
    },
    "paper": {
        "tokenizer": {
            "patch": 4, "channels": (), "width": 512, "heads": 8, "encoder_layers": 12,
            "decoder_width": 1024, "decoder_heads": 16, "decoder_layers": 20, "window": 16,
            "quantizer": "vq",
        },
        "latent_actions": {
            "patch": 16, "width": 1024, "heads": 16, "encoder_layers": 20, "decoder_layers": 20,
            "encoder_window": 16, "decoder_window": 16,
        },
        "dynamics": {"width": 5120, "heads": 40, "layers": 48, "window": 16},
    },
}  # fmt: skip


def part(size: str, name: str) -> dict[str, Any]:
    """What differs from the defaults in a part of a size. Raises ValueError: no such size."""
    if size not in SIZES:
        raise ValueError(f"no size {size!r}: choose {', '.join(SIZES)}")
    return SIZES[size][name]
