"""Eyes: what is seen (encoders)."""

from vla_ros.models.vision.encoders import (
    HUB,
    Dinov2Encoder,
    SiglipEncoder,
    SmallEncoder,
    TransformersEncoder,
    VisionEncoder,
    build_encoder,
    encode_images,
    fingerprint,
)

__all__ = [
    "HUB",
    "Dinov2Encoder",
    "SiglipEncoder",
    "SmallEncoder",
    "TransformersEncoder",
    "VisionEncoder",
    "build_encoder",
    "encode_images",
    "fingerprint",
]
