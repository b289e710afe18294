"""What is seen (encoders), where it is (geometry), and both in one token (fusion)."""

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
from vla_ros.models.vision.fusion import GatedFusion, SpatialVision, require_geometry
from vla_ros.models.vision.geometry import (
    Geometry,
    GeometryEncoder,
    PointMap,
    build_geometry,
    point_map,
    pool,
    required_inputs,
)

__all__ = [
    "HUB",
    "Dinov2Encoder",
    "GatedFusion",
    "Geometry",
    "GeometryEncoder",
    "PointMap",
    "SiglipEncoder",
    "SmallEncoder",
    "SpatialVision",
    "TransformersEncoder",
    "VisionEncoder",
    "build_encoder",
    "build_geometry",
    "encode_images",
    "fingerprint",
    "point_map",
    "pool",
    "require_geometry",
    "required_inputs",
]
