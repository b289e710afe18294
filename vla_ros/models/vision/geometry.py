"""Geometry behind one interface: images, depth and intrinsics in, a grid of points out.

    "none"           nothing is known anywhere: what semantics alone are compared with
    "depth_camera"   the robot's own RGB-D camera, its depth registered to the image
    a depth model    metric depth from one image, a model of transformers (depth_models.py)
    "map_anything"   MapAnything, with its own package (map_anything.py)

Points are in the camera's optical frame (x right, y down, z forward), in m. They are pooled to the
grid of the image encoder's tokens, so that each token has the place that it is about. Nothing here
is trained: geometry has no gradients and stays in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PointMap(NamedTuple):
    """A point for each pixel.

    Attributes:
        points: float32 [B, H, W, 3], m, optical frame; 0 where not valid.
        confidence: float32 [B, H, W], 0..1; 0 where not valid.
        valid: bool [B, H, W].
    """

    points: Tensor
    confidence: Tensor
    valid: Tensor


class Geometry(NamedTuple):
    """A point for each token of a grid.

    Attributes:
        points: float32 [..., h, w, 3], m, optical frame: the mean of the valid points that the
            token's pixels have; 0 where it has none.
        confidence: float32 [..., h, w], 0..1: the mean over all of the token's pixels, those that
            are not valid counted as 0.
        valid: bool [..., h, w]: at least one of its pixels is.
    """

    points: Tensor
    confidence: Tensor
    valid: Tensor

    def at(self, index: Any) -> Geometry:
        """A part of it, as of one camera."""
        return Geometry(*(value[index] for value in self))


def pixel_rays(intrinsics: Tensor, size: int) -> Tensor:
    """Where the pixels of images of `size` x `size` look, [B, size, size, 3] with z = 1, of pinhole
    matrices [B, 3, 3]; the centre of the first pixel is (0, 0)."""
    steps = torch.arange(size, dtype=torch.float32, device=intrinsics.device)
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1)
    return torch.einsum("bij,hwj->bhwi", torch.linalg.inv(intrinsics.float()), pixels)


def back_project(depth: Tensor, rays: Tensor, nearest: float, farthest: float) -> PointMap:
    """Points of a depth image.

    Args:
        depth: [B, H, W], m along the optical axis.
        rays: [B, H, W, 3] with z = 1.
        nearest, farthest: m, what is taken for measured. NaN, 0, negative and infinite never are.
    """
    depth = depth.float()
    valid = (depth > 0) & (depth >= nearest) & (depth <= farthest) & depth.isfinite()
    valid &= rays.isfinite().all(dim=-1)
    # Before the product: 0 times NaN is NaN.
    rays = torch.where(valid[..., None], rays, 0.0)
    points = torch.where(valid, depth, 0.0)[..., None] * rays
    return PointMap(points, valid.float(), valid)


def pool(dense: PointMap, grid: tuple[int, int]) -> Geometry:
    """A point map on a grid of tokens: see `Geometry`."""
    weights = dense.valid.float()
    layers = torch.cat(
        [dense.points * weights[..., None], dense.confidence[..., None], weights[..., None]], dim=-1
    )
    means = F.adaptive_avg_pool2d(layers.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
    points, confidence, share = means[..., :3], means[..., 3], means[..., 4]
    valid = share > 0
    points = points / torch.where(valid, share, 1.0)[..., None]
    return Geometry(points, confidence, valid)


def required_inputs(description: Mapping | None) -> frozenset[str]:
    """What a geometry encoder with that description takes beside images: "depth", "intrinsics".

    None, of a model without one: nothing.
    """
    kind = description["model_type"] if description else "none"
    if kind == "none":
        return frozenset()
    depth = kind == "depth_camera" or description.get("use_depth", False)
    return frozenset({"depth", "intrinsics"} if depth else {"intrinsics"})


class GeometryEncoder(nn.Module):
    """Images, depth and intrinsics to a grid of points.

    Attributes:
        image_size: pixels of either side of all that `forward` takes.
        grid: height and width of the grid.
        needs: which of "images", "depth" and "intrinsics" it cannot do without.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, image_size: int, grid: tuple[int, int]) -> None:
        super().__init__()
        grid = tuple(grid)
        for number in (image_size, *grid):
            if type(number) is not int or number < 1:
                raise ValueError(f"geometry of {image_size!r} pixels on a grid of {list(grid)}")
        if len(grid) != 2 or max(grid) > image_size:
            raise ValueError(f"geometry: {image_size} pixels are fewer than the grid {list(grid)}")
        self.image_size, self.grid = image_size, grid

    def description(self) -> dict:
        """The architecture as JSON values: `build_geometry` makes it again."""
        raise NotImplementedError

    def _observe(
        self, images: Tensor | None, depth: Tensor | None, rays: Tensor | None
    ) -> PointMap:
        """Point map of checked inputs: images in 0..1, and rays [B, S, S, 3]."""
        raise NotImplementedError

    @torch.no_grad()
    def observe(
        self,
        images: Tensor | None = None,
        depth: Tensor | None = None,
        intrinsics: Tensor | None = None,
    ) -> PointMap:
        """The points before they are pooled, at a resolution that the encoder chooses.

        Args:
            images: RGB [B, 3, S, S], uint8 or floating point in 0..1.
            depth: [B, S, S], m along the optical axis; NaN, 0, negative and infinite: not measured.
            intrinsics: pinhole matrices [B, 3, 3] of these pixels, or, as of a lens that distorts,
                rays [B, S, S, 3] with z = 1 (NaN where unknown). See
                `vla_ros.camera_info.CameraCalibration`.

        Raises:
            ValueError: something is missing, or has a wrong shape, type or unit; intrinsics of
                another resolution.
        """
        some = next((value for value in (images, depth, intrinsics) if value is not None), None)
        # Half precision is not enough for places.
        with torch.autocast("cpu" if some is None else some.device.type, enabled=False):
            return self._observe(*self._checked(images, depth, intrinsics))

    @torch.no_grad()
    def forward(
        self,
        images: Tensor | None = None,
        depth: Tensor | None = None,
        intrinsics: Tensor | None = None,
    ) -> Geometry:
        """A point for each token; see `observe`. Depth that was measured nowhere gives a grid that
        is valid nowhere."""
        return pool(self.observe(images, depth, intrinsics), self.grid)

    def train(self, mode: bool = True) -> GeometryEncoder:
        del mode
        return super().train(False)

    def _checked(
        self, images: Tensor | None, depth: Tensor | None, intrinsics: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        given = {"images": images, "depth": depth, "intrinsics": intrinsics}
        given = {name: value for name, value in given.items() if value is not None}
        kind = self.description()["model_type"]
        if missing := self.needs - given.keys():
            raise ValueError(f"geometry '{kind}' needs {' and '.join(sorted(missing))}")
        if not given:
            raise ValueError(f"geometry '{kind}' was given nothing: give images, or depth")
        if len({len(value) for value in given.values()}) > 1:
            sizes = ", ".join(f"{len(value)} {name}" for name, value in given.items())
            raise ValueError(f"geometry was given {sizes}: give as many of each")
        size = self.image_size
        if images is not None:
            images = self._checked_images(images)
        if depth is not None and (depth.shape[1:] != (size, size) or not depth.is_floating_point()):
            raise ValueError(
                f"expected depth [B, {size}, {size}], floating point in m, got "
                f"{list(depth.shape)}, {depth.dtype}"
            )
        return images, depth, None if intrinsics is None else self._rays(intrinsics)

    def _checked_images(self, images: Tensor) -> Tensor:
        size, floating = self.image_size, images.is_floating_point()
        if images.shape[1:] != (3, size, size) or not (floating or images.dtype == torch.uint8):
            raise ValueError(
                f"expected RGB images [B, 3, {size}, {size}], uint8 or floating point, "
                f"got {list(images.shape)}, {images.dtype}"
            )
        if not floating:
            return images.float() / 255
        if not ((images >= 0) & (images <= 1)).all():  # NaN compares false
            raise ValueError("float images must lie in 0..1, got values outside or NaN")
        return images.float()

    def _rays(self, intrinsics: Tensor) -> Tensor:
        size = self.image_size
        if intrinsics.shape[1:] == (size, size, 3):
            return intrinsics.float()
        if intrinsics.shape[1:] != (3, 3):
            raise ValueError(
                f"expected intrinsics [B, 3, 3] or rays [B, {size}, {size}, 3], "
                f"got {list(intrinsics.shape)}"
            )
        focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]])
        bottom = intrinsics[:, 2] == intrinsics.new_tensor([0.0, 0.0, 1.0])
        if not (intrinsics.isfinite().all() and (focal > 0).all() and bottom.all()):
            raise ValueError(f"intrinsics are no pinhole matrices: {intrinsics[0].tolist()}")
        centre = intrinsics[:, :2, 2]
        if not ((centre >= -0.5) & (centre <= size - 0.5)).all():
            u, v = centre[0].tolist()
            raise ValueError(
                f"intrinsics have their centre at ({u:.1f}, {v:.1f}), outside of images of "
                f"{size}x{size}: they are of another resolution; give those of the cropped and "
                "scaled image (CameraCalibration.intrinsics)"
            )
        return pixel_rays(intrinsics, size)


@torch.inference_mode()
def point_map(
    encoder: GeometryEncoder,
    images: Sequence[np.ndarray],
    depth: Sequence[np.ndarray] | None = None,
    intrinsics: Sequence[np.ndarray] | None = None,
    device: torch.device | str = "cpu",
) -> PointMap:
    """Points [N, S, S, 3] of one frame of every camera, each in its camera's optical frame.

    Args:
        encoder: of geometry, on that device.
        images: uint8 [S, S, 3] of each.
        depth: float32 [S, S] of each, m: see `vla_ros.observations.preprocess_depth`.
        intrinsics: [3, 3] of each, or rays [S, S, 3]: see
            `vla_ros.camera_info.CameraCalibration`. All of one kind.

    Raises:
        ValueError: see `GeometryEncoder.observe`.
    """
    pixels = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    others = [
        None if part is None else torch.from_numpy(np.stack(part)).float().to(device)
        for part in (depth, intrinsics)
    ]
    return encoder.observe(pixels, *others)


class NoGeometry(GeometryEncoder):
    """Nothing is known anywhere: the same architecture without geometry, to compare with."""

    def description(self) -> dict:
        return {"model_type": "none", "image_size": self.image_size, "grid": list(self.grid)}

    def _observe(
        self, images: Tensor | None, depth: Tensor | None, rays: Tensor | None
    ) -> PointMap:
        some = next(value for value in (images, depth, rays) if value is not None)
        shape = (len(some), self.image_size, self.image_size)
        unknown = torch.zeros(shape, device=some.device)
        return PointMap(unknown[..., None].expand(*shape, 3), unknown, unknown > 0)


class DepthCamera(GeometryEncoder):
    """The robot's RGB-D camera, its depth registered to the image.

    Args:
        image_size, grid: see `GeometryEncoder`.
        nearest, farthest: m, what the camera measures well; the rest is not valid.
    """

    needs = frozenset({"depth", "intrinsics"})

    def __init__(
        self,
        image_size: int,
        grid: tuple[int, int],
        nearest: float = 0.0,
        farthest: float = 10.0,
    ) -> None:
        super().__init__(image_size, grid)
        if not 0.0 <= nearest < farthest < float("inf"):
            raise ValueError(
                f"depth from {nearest} m to {farthest} m: give 0 <= nearest < farthest"
            )
        self.nearest, self.farthest = float(nearest), float(farthest)

    def description(self) -> dict:
        return {
            "model_type": "depth_camera",
            "image_size": self.image_size,
            "grid": list(self.grid),
            "nearest": self.nearest,
            "farthest": self.farthest,
        }

    def _observe(
        self, images: Tensor | None, depth: Tensor | None, rays: Tensor | None
    ) -> PointMap:
        return back_project(depth, rays, self.nearest, self.farthest)


def build_geometry(
    geometry: str | Path | Mapping,
    image_size: int | None = None,
    grid: tuple[int, int] | None = None,
) -> GeometryEncoder:
    """Make a geometry encoder.

    Args:
        geometry: "none"; "depth_camera"; "map_anything" or "map_anything-apache" (published
            weights, from the local Hugging Face cache); a name in `depth_models.HUB`; a folder with
            config.json and model.safetensors of a depth model of transformers; or a dict from
            `GeometryEncoder.description` (random weights).
        image_size: pixels of either side of the images it will get. Default: what the dict says.
        grid: height and width of the tokens' grid. Default: what the dict says.

    Raises:
        FileNotFoundError: the weights are not on this machine, or not as safetensors.
        ImportError: a package that it needs is not installed.
        ValueError: an unknown name, kind of model or setting; damaged or incomplete weights.
    """
    from vla_ros.models.vision import depth_models, map_anything

    if isinstance(geometry, str) and geometry in ("none", "depth_camera"):
        geometry = {"model_type": geometry}
    if isinstance(geometry, str) and geometry in map_anything.HUB:
        geometry = {"model_type": "map_anything", "source": geometry}
    values = dict(geometry) if isinstance(geometry, Mapping) else {"model_type": "depth_model"}
    kind, shape = values.pop("model_type", None), {"image_size": image_size, "grid": grid}
    shape = {key: values.pop(key, None) if value is None else value for key, value in shape.items()}
    if missing := [key for key, value in shape.items() if value is None]:
        raise ValueError(f"geometry '{kind}' lacks {' and '.join(missing)}")
    values = {k: v for k, v in values.items() if k not in shape}
    folder = None if isinstance(geometry, Mapping) else geometry
    makers = {
        "none": NoGeometry,
        "depth_camera": DepthCamera,
        "map_anything": map_anything.MapAnythingEncoder,
    }
    if kind == "depth_model":
        return depth_models.build(values, folder, **shape)
    if kind not in makers:
        raise ValueError(
            f"no geometry of kind {kind!r}: take {', '.join(makers)}, or a depth model's folder"
        )
    try:
        return makers[kind](**shape, **values)
    except TypeError as error:
        raise ValueError(f"geometry '{kind}': {error}") from error
