"""Where things are, added to what they are: points of a grid fused into its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vla_ros.models.vision.encoders import VisionEncoder
from vla_ros.models.vision.geometry import (
    Geometry,
    PointMap,
    build_geometry,
    point_map,
    pool,
)


class FourierFeatures(nn.Module):
    """Coordinates in m as sines and cosines of `frequencies` angular frequencies, and as they are.

    The frequencies go from 1 to 2^(frequencies - 1) rad/m, in equal factors: with 8 of them the
    longest wave is 6.3 m and the shortest 4.9 cm.
    """

    def __init__(self, frequencies: int = 8) -> None:
        super().__init__()
        self.channels = 3 * (1 + 2 * frequencies)
        bands = 2.0 ** torch.arange(frequencies)
        self.register_buffer("_bands", bands, persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        """Points [..., 3] to features [..., channels]."""
        phases = (points[..., None, :] * self._bands[:, None]).flatten(-2)
        return torch.cat([points, phases.sin(), phases.cos()], dim=-1)

    def describe(self, geometry: Geometry) -> Tensor:
        """All that is known of each point, float32 [..., h, w, channels + 2]: its features, 0 where
        it is not valid; its confidence; whether it is valid."""
        places = torch.where(geometry.valid[..., None], self(geometry.points.float()), 0.0)
        known = torch.stack([geometry.confidence.float(), geometry.valid.float()], dim=-1)
        return torch.cat([places, known], dim=-1)


class GatedFusion(nn.Module):
    """tokens + gate * MLP(point features, confidence, validity), the gate being 0 at first.

    So a fresh one leaves tokens exactly as they are, and training opens the gate as far as
    geometry helps.

    Args:
        channels: of a token.
        hidden: width of the MLP; that of a token if left out.
        frequencies: of the point features.
    """

    def __init__(self, channels: int, hidden: int | None = None, frequencies: int = 8) -> None:
        super().__init__()
        self.features = FourierFeatures(frequencies)
        hidden = hidden or channels
        self.mlp = nn.Sequential(
            nn.Linear(self.features.channels + 2, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
        )
        self.gate = nn.Parameter(torch.zeros(channels))

    def forward(self, tokens: Tensor, geometry: Geometry) -> Tensor:
        """Fuse.

        Args:
            tokens: [..., h, w, C].
            geometry: of the same grid [..., h, w]. What is not valid tells only that it is not.

        Returns:
            [..., h, w, C], of the tokens' type.

        Raises:
            ValueError: another grid.
        """
        if geometry.valid.shape != tokens.shape[:-1]:
            raise ValueError(
                f"geometry on a grid {list(geometry.valid.shape)} does not fit tokens "
                f"{list(tokens.shape)}"
            )
        # Single precision: 128 rad/m times some m has no fraction left in half precision.
        with torch.autocast(tokens.device.type, enabled=False):
            known = self.features.describe(geometry).to(self.gate.dtype)
            added = self.gate * self.mlp(known)
            return tokens + added.to(tokens.dtype)


class SpatialVision(nn.Module):
    """Geometry for a policy's cameras, and a gate for each of its image encoders.

    Args:
        geometry: name, folder or description: see `geometry.build_geometry`.
        encoders: of the images; the last serves all further cameras.
    """

    def __init__(self, geometry: str | Mapping, encoders: Sequence[VisionEncoder]) -> None:
        super().__init__()
        first = encoders[0]
        self.geometry = build_geometry(geometry, first.image_size, first.grid)
        self.fusions = nn.ModuleList(GatedFusion(encoder.channels) for encoder in encoders)

    def description(self) -> dict:
        return self.geometry.description()

    def fuse(self, tokens: Tensor, geometry: Geometry, camera: int) -> Tensor:
        """Tokens [..., h, w, C] of one camera, and its geometry: see `GatedFusion`."""
        return self.fusions[min(camera, len(self.fusions) - 1)](tokens, geometry)

    def point_map(
        self,
        images: Sequence[np.ndarray],
        depth: Sequence[np.ndarray] | None = None,
        intrinsics: Sequence[np.ndarray] | None = None,
    ) -> PointMap:
        """Points [N, S, S, 3] of one frame of every camera: see `geometry.point_map`."""
        device = self.fusions[0].gate.device
        return point_map(self.geometry, images, depth, intrinsics, device)

    def points(
        self,
        images: Sequence[np.ndarray],
        depth: Sequence[np.ndarray] | None = None,
        intrinsics: Sequence[np.ndarray] | None = None,
    ) -> Geometry:
        """Geometry [N, h, w] of what `point_map` takes."""
        return pool(self.point_map(images, depth, intrinsics), self.geometry.grid)

    def of_batch(
        self, images: Tensor, depth: Tensor | None = None, rays: Tensor | None = None
    ) -> Geometry:
        """Geometry [B, T, N, h, w] of windows.

        Args:
            images: [B, T, N, 3, S, S].
            depth: [B, T, N, S, S], m.
            rays: [B, T or 1, N, S, S, 3].

        Raises:
            ValueError: see `GeometryEncoder.observe`.
        """
        if rays is not None:
            rays = rays.expand(-1, images.shape[1], -1, -1, -1, -1)
        parts = (None if part is None else part.flatten(0, 2) for part in (images, depth, rays))
        found = self.geometry(*parts)
        return Geometry(*(value.unflatten(0, images.shape[:3]) for value in found))


def require_geometry(
    spatial: SpatialVision | None, geometry: Geometry | None, shape: Sequence[int]
) -> None:
    """Raises ValueError unless geometry is there when, and only when, a policy fuses it
    (`spatial`), and has the leading dimensions `shape`."""
    if spatial is None:
        if geometry is not None:
            raise ValueError("the policy was trained on images alone: it takes no geometry")
        return
    if geometry is None:
        kind = spatial.description()["model_type"]
        raise ValueError(f"the policy fuses geometry '{kind}': give it what `points` makes")
    expected = (*shape, *spatial.geometry.grid)
    if geometry.valid.shape != expected:
        found = list(geometry.valid.shape)
        raise ValueError(f"expected geometry {list(expected)}, got {found}")
