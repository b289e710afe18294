"""Geometry as SpatialVLA takes it: one row of numbers for each token of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from vla_ros.models.vision.fusion import FourierFeatures
from vla_ros.models.vision.geometry import Geometry

FREQUENCIES = 8
GEOMETRY_DIM = 3 * (1 + 2 * FREQUENCIES) + 2  # of `geometry_features`


def geometry_features(geometry: Geometry) -> Tensor:
    """Features of points of any geometry backend, for a model with geometry_dim=GEOMETRY_DIM.

    Args:
        geometry: on the grid of the image's tokens, [B, h, w].

    Returns:
        float32 [B, h * w, GEOMETRY_DIM]: the point as Fourier features, 0 where it is not valid;
        confidence; validity.
    """
    features = FourierFeatures(FREQUENCIES).to(geometry.points.device)
    return features.describe(geometry).flatten(-3, -2)


def ego3d_features(points: Tensor, n_freqs: int = 8) -> Tensor:
    """Geometry features of published checkpoints.

    Args:
        points: [B, tokens, 3 * points a patch] in metres, x right, y down, z ahead of the camera,
            the points of a patch row by row.
        n_freqs: of the configuration.

    Returns:
        [B, tokens, 3 * points a patch * (2 * n_freqs + 1)]: each coordinate, centred and halved,
        then its sines and cosines at frequencies 1, 2, 4, ...
    """
    centre = points.new_tensor([0.0, 0.0, 2.0]).repeat(points.shape[-1] // 3)
    scaled = ((points - centre) / 2)[..., None]
    angles = scaled * 2 ** torch.arange(n_freqs, device=points.device, dtype=points.dtype)
    return torch.cat([scaled, angles.sin(), angles.cos()], -1).flatten(-2)
