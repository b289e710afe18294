"""SpatialVLA for the Auto classes of transformers, without code from a checkpoint."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from vla_ros.models.spatial_vla.configuration import SpatialVLAConfig
from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor


def register() -> None:
    """Make AutoConfig, AutoModel, AutoModelForImageTextToText and AutoProcessor know SpatialVLA.

    Afterwards they load its checkpoints, published ones too, with the code of this package:
    `trust_remote_code` is not needed. Calling it again changes nothing.
    """
    AutoConfig.register(SpatialVLAConfig.model_type, SpatialVLAConfig, exist_ok=True)
    for auto in (AutoModel, AutoModelForImageTextToText):
        auto.register(SpatialVLAConfig, SpatialVLAForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(SpatialVLAConfig, SpatialVLAProcessor, exist_ok=True)
