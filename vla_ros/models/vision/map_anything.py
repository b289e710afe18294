"""MapAnything (Keetha et al. 2025): metric points from images, and from what else is known.

Its package is on no index and its encoder comes through torch.hub, so both must be on the machine
already; nothing is downloaded here. The weights stay in their folder: they are no part of a
checkpoint, which names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models.vision.geometry import GeometryEncoder, PointMap
from vla_ros.models.vision.pretrained import local_folder

HUB = {
    "map_anything": "facebook/map-anything",  # CC BY-NC 4.0
    "map_anything-apache": "facebook/map-anything-apache",
}
_PATCH = 14
# `data_norm_type` of the model's encoder -> mean and deviation of red, green and blue.
_NORMALISATIONS = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "dust3r": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "identity": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class MissingPackageError(ImportError, ValueError):
    """An optional package is not installed: an error of the settings that ask for it."""


class MapAnythingEncoder(GeometryEncoder):
    """MapAnything, frozen, by the contract of its `infer`.

    Args:
        image_size, grid: see `GeometryEncoder`.
        source: a name in `HUB`, or a folder with config.json and model.safetensors.
        model_size: pixels of either side that the model is given.
        use_depth: give it the camera's depth too, where there is some, which it completes.

    Raises:
        MissingPackageError: its package is not installed.
    """

    needs = frozenset({"images", "intrinsics"})

    def __init__(
        self,
        image_size: int,
        grid: tuple[int, int],
        source: str = "map_anything",
        model_size: int = 518,
        use_depth: bool = False,
    ) -> None:
        super().__init__(image_size, grid)
        if type(model_size) is not int or model_size < _PATCH or model_size % _PATCH:
            raise ValueError(f"map_anything of {model_size} pixels: take a multiple of {_PATCH}")
        self.source, self.model_size, self.use_depth = source, model_size, use_depth
        model = _load(source)
        self._norm_type = getattr(model.encoder, "data_norm_type", None)
        if self._norm_type not in _NORMALISATIONS:
            raise ValueError(
                f"map_anything {source} takes images normalised as '{self._norm_type}': known are "
                f"{', '.join(_NORMALISATIONS)}"
            )
        self._held = [model.eval().requires_grad_(False)]  # in a list: not in a checkpoint

    def description(self) -> dict:
        return {
            "model_type": "map_anything",
            "image_size": self.image_size,
            "grid": list(self.grid),
            "source": str(self.source),
            "model_size": self.model_size,
            "use_depth": self.use_depth,
        }

    def _apply(self, function: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        self._held[0]._apply(function, *args, **kwargs)  # `.to(device)` is of it, too
        return super()._apply(function, *args, **kwargs)

    def _observe(
        self, images: Tensor | None, depth: Tensor | None, rays: Tensor | None
    ) -> PointMap:
        size = (self.model_size, self.model_size)
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in _NORMALISATIONS[self._norm_type])
        scaled = F.interpolate(
            images, size, mode="bicubic", align_corners=False, antialias=True
        ).clamp(0, 1)
        view = {
            "img": (scaled - mean) / std,
            "data_norm_type": [self._norm_type],
            "ray_directions": self._resampled_rays(rays),
            "is_metric_scale": torch.ones(len(images), dtype=torch.bool, device=images.device),
        }
        if self.use_depth and depth is not None:
            known = torch.where(depth.isfinite() & (depth > 0), depth.float(), 0.0)
            # Not averaged: 0 is not a depth. [B, H, W], as its code takes it.
            view["depth_z"] = F.interpolate(known[:, None], size, mode="nearest-exact")[:, 0]
        predictions = self._held[0].infer([view], memory_efficient_inference=False)
        points, confidence, mask = _read(predictions, len(images), self.model_size)
        points = points.to(images.device).float()
        valid = mask.to(images.device)[..., 0].bool() & points.isfinite().all(dim=-1)
        valid &= points[..., 2] > 0
        # It runs from 1 to infinity.
        confidence = 1 - 1 / confidence.to(images.device).float().clamp(min=1)
        valid &= confidence.isfinite()
        return PointMap(
            torch.where(valid[..., None], points, 0.0), torch.where(valid, confidence, 0.0), valid
        )

    def _resampled_rays(self, rays: Tensor) -> Tensor:
        """Rays [B, S, S, 3] at the model's pixels, of length 1."""
        layers = rays.nan_to_num().permute(0, 3, 1, 2)
        for axis in (2, 3):  # one pixel more on each side: the model's outermost lie beyond ours
            first, second = layers.narrow(axis, 0, 1), layers.narrow(axis, 1, 1)
            last, before = layers.narrow(axis, -1, 1), layers.narrow(axis, -2, 1)
            layers = torch.cat([2 * first - second, layers, 2 * last - before], dim=axis)
        centres = (torch.arange(self.model_size, device=rays.device) + 0.5) / self.model_size
        places = (2 * centres - 1) * self.image_size / (self.image_size + 2)
        v, u = torch.meshgrid(places, places, indexing="ij")
        grid = torch.stack([u, v], dim=-1).expand(len(rays), -1, -1, -1)
        found = F.grid_sample(layers, grid, align_corners=False)
        return F.normalize(found.permute(0, 2, 3, 1), dim=-1)


def _load(source: str) -> nn.Module:
    try:
        from mapanything.models import MapAnything
    except ImportError as error:
        raise MissingPackageError(
            f"geometry 'map_anything' needs the package mapanything ({error}): install it with "
            "`pip install git+https://github.com/facebookresearch/map-anything`, or take geometry "
            "'depth_camera' or a depth model"
        ) from error
    folder = local_folder(source, HUB, "weights of MapAnything")
    if not (folder / "model.safetensors").is_file():  # it would take a format that can run code
        raise FileNotFoundError(f"{folder} lacks model.safetensors: export it as one file")
    return MapAnything.from_pretrained(str(folder), local_files_only=True)


def _read(predictions: Any, batch: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """pts3d_cam [B, H, W, 3], conf [B, H, W] and mask [B, H, W, 1] of one view's prediction.

    Raises:
        ValueError: they are not there, or of another shape.
    """
    wanted = {
        "pts3d_cam": (batch, size, size, 3),
        "conf": (batch, size, size),
        "mask": (batch, size, size, 1),
    }
    one = predictions[0] if isinstance(predictions, list) and len(predictions) == 1 else None
    for key, shape in wanted.items():
        value = one.get(key) if isinstance(one, Mapping) else None
        found = list(value.shape) if isinstance(value, Tensor) else "nothing"
        if found != list(shape):
            raise ValueError(
                f"MapAnything's infer gave {found} for {key}, and not {list(shape)}: this version "
                "of mapanything is not known; install one of version 1"
            )
    return tuple(one[key] for key in wanted)
