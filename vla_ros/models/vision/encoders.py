"""Image encoders behind one interface: images in, a grid of tokens out.

    "small"        a few convolutions, trained with the policy (Levine et al. 2016, section 4.2)
    "dinov2-..."   DINOv2 ViT-S/B/L, 14 pixels a patch (Oquab et al. 2023)
    "siglip-base"  SigLIP ViT-B, 16 pixels a patch (Zhai et al. 2023)

The caller crops and resizes (vla_ros.observations.preprocess_image); normalisation is in here,
because it belongs to the weights. Only DINOv2 and SigLIP need transformers, and only when built.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models.vision.pretrained import load_weights, local_folder, read_settings

HUB = {
    "dinov2-small": "facebook/dinov2-small",
    "dinov2-base": "facebook/dinov2-base",
    "dinov2-large": "facebook/dinov2-large",
    "siglip-base": "google/siglip-base-patch16-224",
}


class VisionEncoder(nn.Module):
    """Images to a grid of tokens.

    Attributes:
        image_size: pixels of either side that `forward` takes.
        grid: height and width of the token grid.
        channels: features of a token.
        frozen: see `freeze`.
    """

    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)  # of red, green, blue in 0..1
    std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)

    def __init__(self, image_size: int, patch: int, channels: int) -> None:
        super().__init__()
        if image_size < patch or image_size % patch:
            raise ValueError(f"image size {image_size}: take a multiple of {patch} (one token)")
        self.image_size = image_size
        self.grid = (image_size // patch, image_size // patch)
        self.channels = channels
        self.frozen = False
        # Constants of the class, not weights: they stay out of checkpoints.
        self.register_buffer("_scale", torch.tensor(self.std).view(3, 1, 1), persistent=False)
        shift = torch.tensor(self.mean).view(3, 1, 1) / self._scale
        self.register_buffer("_shift", shift, persistent=False)

    def description(self) -> dict:
        """The architecture as JSON values: `build_encoder` makes it again, with random weights."""
        raise NotImplementedError

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Normalised float32 [B, 3, S, S] to tokens [B, h, w, C]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            images: RGB [B, 3, S, S], uint8 in 0..255 or floating point in 0..1.

        Returns:
            Tokens [B, h, w, C]; bfloat16 is possible under autocast, float32 otherwise.

        Raises:
            ValueError: wrong shape or type, or floats that are NaN or outside 0..1.
        """
        self._check(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            scale = self._scale if images.is_floating_point() else 255 * self._scale
            return self._tokens(images.float() / scale - self._shift)

    def _check(self, images: Tensor) -> None:
        size = self.image_size
        known = images.dtype == torch.uint8 or images.is_floating_point()
        if images.shape[1:] != (3, size, size) or not known:
            raise ValueError(
                f"expected RGB images [B, 3, {size}, {size}], uint8 or floating point, "
                f"got {list(images.shape)}, {images.dtype}"
            )
        # NaN compares false.
        if images.is_floating_point() and not ((images >= 0) & (images <= 1)).all():
            raise ValueError("float images must lie in 0..1, got values outside or NaN")

    def freeze(self) -> VisionEncoder:
        """Fix the encoder for good, and return it.

        No gradients, and no training mode however often a model around it calls `train`: so
        neither dropout nor the running statistics of a BatchNorm can change what it says.
        """
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> VisionEncoder:
        return super().train(mode and not self.frozen)


_LARGEST = 4096  # pixels of either side


class SmallEncoder(VisionEncoder):
    """A few convolutions, one token for 4 x 4 pixels; learns with what it serves, fast on a CPU.

    Args:
        image_size, channels: see `VisionEncoder`.
        mixing: convolutions of 3 x 3 tokens at the end.
    """

    def __init__(self, image_size: int = 64, channels: int = 32, mixing: int = 1) -> None:
        if not (isinstance(image_size, int) and 4 <= image_size <= _LARGEST):
            raise ValueError(f"image size {image_size!r}: give 4 to {_LARGEST} pixels")
        super().__init__(image_size, patch=4, channels=channels)
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.down = nn.Conv2d(24, channels, 3, stride=2, padding=1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.more = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(mixing - 1)
        )

    def description(self) -> dict:
        return {
            "model_type": "small",
            "image_size": self.image_size,
            "channels": self.channels,
            "mixing": 1 + len(self.more),
        }

    def _tokens(self, pixels: Tensor) -> Tensor:
        x = F.relu(self.stem(pixels.contiguous(memory_format=torch.channels_last)))
        x = F.relu(self.down(x))
        for mix in (self.mix, *self.more):
            x = x + F.relu(mix(x))
        return x.permute(0, 2, 3, 1)


class TransformersEncoder(VisionEncoder):
    """A vision transformer of transformers: the patch tokens of its last layer, normalised.

    Its table of positions keeps the size it was trained with and is interpolated (bicubic) to the
    grid. Parts that no patch token depends on are not built (`unused`).
    """

    model: ClassVar[str]  # class in transformers
    default_size: ClassVar[int | None] = None  # pixels; None: what the configuration says
    unused: ClassVar[dict[str, bool]]  # settings that leave parts out

    def __init__(
        self, values: Mapping, image_size: int | None = None, folder: Path | None = None
    ) -> None:
        """Build from the values of a config.json: weights from the folder, random without one."""
        import transformers
        from huggingface_hub.errors import StrictDataclassError

        model = getattr(transformers, self.model)
        name, default = values["model_type"], model.config_class()
        unknown = [key for key in values if not hasattr(default, key)]
        if unknown and folder is None:  # files of other versions may hold more
            raise ValueError(f"{name} has no settings {', '.join(unknown)}")
        try:
            config = model.config_class.from_dict({**values, **self.unused})
        except StrictDataclassError as error:
            raise ValueError(f"{name}: {error}") from error
        if (type(config.image_size), type(config.patch_size), config.num_channels) != (int, int, 3):
            raise ValueError(f"{name}: only square RGB images and square patches")
        if image_size is None:
            image_size = min(config.image_size, self.default_size or config.image_size)
            image_size -= image_size % config.patch_size
        super().__init__(image_size, config.patch_size, config.hidden_size)
        self.backbone = model(config) if folder is None else load_weights(model, config, folder)
        self.train()  # like any new module; weights are loaded in evaluation mode

    def description(self) -> dict:
        left_out = {"transformers_version", "architectures", "dtype", "id2label", "label2id"}
        left_out |= {"stage_names", "out_features", "out_indices"}
        config = self.backbone.config.to_diff_dict()
        kept = {k: v for k, v in config.items() if k not in left_out and not k.startswith("_")}
        return {**kept, "input_size": self.image_size}


class Dinov2Encoder(TransformersEncoder):
    """DINOv2 (Oquab et al. 2023), without its class token."""

    model = "Dinov2Model"
    default_size = 224  # the published table of positions is for 518: five times the tokens
    unused = {"use_mask_token": False}
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def _tokens(self, pixels: Tensor) -> Tensor:
        return self.backbone(pixels).last_hidden_state[:, 1:].unflatten(1, self.grid)


class SiglipEncoder(TransformersEncoder):
    """The image half of SigLIP (Zhai et al. 2023), without its pooling head."""

    model = "SiglipVisionModel"
    unused = {"vision_use_head": False}

    def _tokens(self, pixels: Tensor) -> Tensor:
        output = self.backbone(pixels, interpolate_pos_encoding=True)
        return output.last_hidden_state.unflatten(1, self.grid)


_TRANSFORMERS = {"dinov2": Dinov2Encoder, "siglip_vision_model": SiglipEncoder}


def build_encoder(vision: str | Path | Mapping, image_size: int | None = None) -> VisionEncoder:
    """Make an image encoder.

    Args:
        vision: "small" (64 pixels, 32 channels, random weights); a name in `HUB` (published
            weights, from the local Hugging Face cache); a folder with config.json and
            model.safetensors; or a dict (random weights) from `VisionEncoder.description` or a
            configuration of transformers with its "model_type".
        image_size: pixels of either side. Default: what the dict says ("image_size" of small,
            "input_size" of the others), else 224 for DINOv2 and its training size for SigLIP.

    Raises:
        FileNotFoundError: the weights are not on this machine, or not as safetensors.
        ValueError: an unknown name, kind of model or setting; a size that whole patches do not
            fill; damaged or incomplete weights.
    """
    if vision == "small":
        vision = {"model_type": "small"}
    folder = None
    if not isinstance(vision, Mapping):
        folder = local_folder(vision, HUB, "image encoder", ["small"])
    values = dict(vision) if folder is None else _configuration(folder)
    kind = values.get("model_type")
    if kind == "small" and folder is None:
        unknown = values.keys() - {"model_type", "image_size", "channels", "mixing"}
        if unknown:
            raise ValueError(f"small has no settings {', '.join(sorted(unknown))}")
        size = values.get("image_size", 64) if image_size is None else image_size
        return SmallEncoder(size, values.get("channels", 32), values.get("mixing", 1))
    if kind not in _TRANSFORMERS:
        raise ValueError(f"no image encoder of kind {kind!r}: take small, dinov2 or siglip")
    size = values.pop("input_size", None)
    return _TRANSFORMERS[kind](values, size if image_size is None else image_size, folder)


@torch.inference_mode()
def encode_images(
    encoders: Sequence[VisionEncoder],
    cameras: Sequence[str],
    images: Sequence[np.ndarray],
    fuse: Callable[[Tensor, int], Tensor] | None = None,
) -> np.ndarray:
    """Visual tokens of one frame of every camera.

    Args:
        encoders: one a camera; the last serves all further ones.
        cameras: their names.
        images: uint8 [S, S, 3] of each.
        fuse: what to make of the tokens [h, w, C] of a camera, by its index.

    Returns:
        float16 [N, h, w, C] (half precision because it travels between nodes).

    Raises:
        ValueError: wrong number, size or type of images.
    """
    size = encoders[0].image_size
    if len(images) != len(cameras):
        raise ValueError(f"expected images of {', '.join(cameras)}")
    for camera, image in zip(cameras, images, strict=True):
        if image.shape != (size, size, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"{camera}: expected uint8 [{size}, {size}, 3], "
                f"got {image.dtype} {list(image.shape)}"
            )
    device = next(encoders[0].parameters()).device
    # Copies, as images of messages are read-only and torch knows no such tensors.
    pixels = [torch.from_numpy(np.array(image)).to(device) for image in images]
    tokens = [
        encoders[min(i, len(encoders) - 1)](image.permute(2, 0, 1)[None])[0]
        for i, image in enumerate(pixels)
    ]
    if fuse is not None:
        tokens = [fuse(one, camera) for camera, one in enumerate(tokens)]
    return torch.stack(tokens).to(torch.float16).cpu().numpy()


def fingerprint(encoders: nn.Module, more: str = "") -> str:
    """Of the weights, and of more: tokens only fit the model that was trained on those of these
    encoders."""
    digest = hashlib.sha256(more.encode())
    for name, value in sorted(encoders.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _configuration(folder: Path) -> dict:
    """The image part of a folder's config.json; SigLIP is published together with its text half."""
    values = read_settings(folder)
    if values.get("model_type") == "siglip":
        return {"model_type": "siglip_vision_model", **values.get("vision_config", {})}
    return values
