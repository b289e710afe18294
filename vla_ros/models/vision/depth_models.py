"""Metric depth from one image, by models of transformers.

    depth_anything   Depth Anything V2, its metric versions (Yang et al. 2024)
    zoedepth         ZoeDepth (Bhat et al. 2023)
    depth_pro        Depth Pro (Bochkovskii et al. 2024), with the camera's real focal length

Each is fed as it is published: size, padding, normalisation. Points come from its depth and the
real intrinsics. transformers is imported only when one is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.vision.geometry import GeometryEncoder, PointMap, back_project
from vla_ros.models.vision.pretrained import load_weights, local_folder, read_settings

HUB = {
    "depth-anything-indoor-small": "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
    "depth-anything-indoor-base": "depth-anything/Depth-Anything-V2-Metric-Indoor-Base-hf",
    "zoedepth-nyu": "Intel/zoedepth-nyu",
    "depth-pro": "apple/DepthPro-hf",
}
_FARTHEST = 1000.0  # m; what such a model says of the sky is not taken for measured


class DepthModel(GeometryEncoder):
    """A model of transformers that estimates depth; frozen.

    Args:
        image_size, grid: see `GeometryEncoder`.
        config: values of its config.json.
        folder: of its weights; random ones without.
        model_size: pixels of either side that the model is given; images are scaled to it.
        mean, std: normalisation of red, green and blue.
        nearest, farthest: m, the depth that is taken for known.
    """

    needs = frozenset({"images", "intrinsics"})
    model: ClassVar[str]  # class in transformers
    multiple: ClassVar[int]  # of model_size
    mode: ClassVar[str]  # how images are scaled
    unused: ClassVar[dict[str, bool]] = {}  # settings that leave parts out

    def __init__(
        self,
        image_size: int,
        grid: tuple[int, int],
        config: Mapping,
        folder: Path | None = None,
        *,
        model_size: int | None = None,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        nearest: float = 0.0,
        farthest: float = _FARTHEST,
    ) -> None:
        import transformers
        from huggingface_hub.errors import StrictDataclassError

        super().__init__(image_size, grid)
        model = getattr(transformers, self.model)
        try:
            made = model.config_class.from_dict({**config, **self.unused})
        except (StrictDataclassError, TypeError) as error:
            raise ValueError(f"{config['model_type']}: {error}") from error
        self._require(made)
        self.model_size = self._default_size(made) if model_size is None else model_size
        if self.model_size < self.multiple or self.model_size % self.multiple:
            raise ValueError(
                f"{config['model_type']} of {self.model_size} pixels: take a multiple of "
                f"{self.multiple}"
            )
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0.0:
            raise ValueError(
                f"{config['model_type']}: mean {mean} and std {std} of red, green, blue"
            )
        self.nearest, self.farthest = nearest, farthest
        self.backbone = model(made) if folder is None else load_weights(model, made, folder)
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def _require(cls, config: object) -> None:
        """Raises ValueError when its depth is not metric."""

    @classmethod
    def _default_size(cls, config: object) -> int:
        raise NotImplementedError

    @classmethod
    def size_for(cls, image_size: int, published: tuple[int, int]) -> int:
        """Pixels of either side for square images, of a published height and width."""
        return min(published)

    def _scaled(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] as the model takes them, not normalised."""
        size = (self.model_size, self.model_size)
        return F.interpolate(images, size, mode=self.mode, align_corners=False)

    def _metres(self, output: Tensor, rays: Tensor) -> Tensor:
        """Depth [B, S, S] in m of the model's output [B, H, W]."""
        size = (self.image_size, self.image_size)
        return F.interpolate(output[:, None], size, mode=self.mode, align_corners=False)[:, 0]

    def description(self) -> dict:
        left_out = {"transformers_version", "architectures", "dtype"}
        config = self.backbone.config.to_diff_dict()
        return {
            "model_type": "depth_model",
            "image_size": self.image_size,
            "grid": list(self.grid),
            "config": {k: v for k, v in config.items() if k not in left_out},
            "model_size": self.model_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "nearest": self.nearest,
            "farthest": self.farthest,
        }

    def _observe(
        self, images: Tensor | None, depth: Tensor | None, rays: Tensor | None
    ) -> PointMap:
        mean, std = (images.new_tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        pixels = (self._scaled(images) - mean) / std
        output = self.backbone(pixels).predicted_depth.float()
        return back_project(self._metres(output, rays), rays, self.nearest, self.farthest)


class DepthAnything(DepthModel):
    model, multiple, mode = "DepthAnythingForDepthEstimation", 14, "bicubic"

    @classmethod
    def _require(cls, config: object) -> None:
        if config.depth_estimation_type != "metric":
            raise ValueError(
                "this Depth Anything gives relative depth, from which no points can be made: take "
                f"a metric one, such as {HUB['depth-anything-indoor-small']}"
            )

    @classmethod
    def _default_size(cls, config: object) -> int:
        return 518


class ZoeDepth(DepthModel):
    """Its images are padded by reflection, as its depth is wrong along their edges."""

    model, multiple, mode = "ZoeDepthForDepthEstimation", 32, "bilinear"

    @classmethod
    def _default_size(cls, config: object) -> int:
        return 384  # of 384 x 512, as long as images are small

    @staticmethod
    def _padding(image_size: int) -> int:
        return min(int(3 * math.sqrt(image_size / 2)), image_size - 1)

    @classmethod
    def size_for(cls, image_size: int, published: tuple[int, int]) -> int:
        """That which is nearer to the padded image's own."""
        padded = image_size + 2 * cls._padding(image_size)
        nearest = min(published, key=lambda size: abs(1 - size / padded))
        return max(round(nearest / cls.multiple), 1) * cls.multiple

    def _scaled(self, images: Tensor) -> Tensor:
        padded = F.pad(images, (self._padding(self.image_size),) * 4, mode="reflect")
        size = (self.model_size, self.model_size)
        return F.interpolate(padded, size, mode="bilinear", align_corners=True)

    def _metres(self, output: Tensor, rays: Tensor) -> Tensor:
        pad, size = self._padding(self.image_size), self.image_size
        padded = (size + 2 * pad, size + 2 * pad)
        depth = F.interpolate(output[:, None], padded, mode="bicubic", align_corners=False)
        return depth[:, 0, pad : pad + size, pad : pad + size]


class DepthPro(DepthModel):
    """It estimates the inverse depth that a camera as wide as its image would see; the camera's
    real focal length makes it metric, in place of one that it would guess from the image."""

    model, multiple, mode = "DepthProForDepthEstimation", 1, "bilinear"
    unused = {"use_fov_model": False}

    @classmethod
    def _default_size(cls, config: object) -> int:
        return round(config.patch_size / min(config.scaled_images_ratios))

    def _metres(self, output: Tensor, rays: Tensor) -> Tensor:
        first, last = self.image_size // 4, self.image_size - 1 - self.image_size // 4
        middle = rays[:, self.image_size // 2, :, 0]
        width = (middle[:, last] - middle[:, first]) / (last - first) * self.image_size
        inverse = super()._metres(output, rays) * width.view(-1, 1, 1)  # image width / focal length
        return 1.0 / inverse.clamp(1e-4, 1e4)


_KINDS = {"depth_anything": DepthAnything, "zoedepth": ZoeDepth, "depth_pro": DepthPro}


def build(
    values: Mapping, source: str | Path | None, image_size: int, grid: tuple[int, int]
) -> DepthModel:
    """A depth model: see `geometry.build_geometry`.

    Args:
        values: of its description, without model_type, image_size and grid.
        source: folder, or name in `HUB`; None: random weights, by the values.
    """
    values, folder = dict(values), None
    if source is not None:
        folder = local_folder(source, HUB, "geometry", ["none", "depth_camera", "map_anything"])
        values = {"config": read_settings(folder)}
    config = values.pop("config", None) or {}
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise ValueError(f"no depth model of kind {kind!r}: take {', '.join(_KINDS)}")
    if folder is not None:
        values |= _preprocessing(folder, _KINDS[kind], image_size)
    try:
        return _KINDS[kind](image_size, grid, config, folder, **values)
    except TypeError as error:
        raise ValueError(f"geometry '{kind}': {error}") from error


def _preprocessing(folder: Path, kind: type[DepthModel], image_size: int) -> dict:
    """What the folder's preprocessor_config.json says of the model's images."""
    name = "preprocessor_config.json"
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder} lacks {name}, which says how its images are made: download it again"
        )
    values = read_settings(folder, name)
    found = {"mean": values.get("image_mean"), "std": values.get("image_std")}
    if size := values.get("size"):
        found["model_size"] = kind.size_for(image_size, (size["height"], size["width"]))
    return {key: value for key, value in found.items() if value is not None}
