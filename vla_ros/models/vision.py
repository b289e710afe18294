"""Image encoders behind one interface: images in, a grid of tokens out.

    "small"        three convolutions, trained with the policy (Levine et al. 2016, section 4.2)
    "dinov2-..."   DINOv2 ViT-S/B/L, 14 pixels a patch (Oquab et al. 2023)
    "siglip-base"  SigLIP ViT-B, 16 pixels a patch (Zhai et al. 2023)

The caller crops and resizes (vla_ros.observations.preprocess_image); normalisation is in here,
because it belongs to the weights. Only DINOv2 and SigLIP need transformers, and only when built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

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
            nearest = max(1, image_size // patch) * patch
            raise ValueError(
                f"image size {image_size} is not a multiple of this encoder's {patch} pixels "
                f"a token: take {nearest} or {nearest + patch}"
            )
        self.image_size = image_size
        self.grid = (image_size // patch, image_size // patch)
        self.channels = channels
        self.frozen = False
        # Not persistent: constants of the class, not weights.
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
        got = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"expected RGB images [B, 3, {size}, {size}], got {got}")
        if images.is_floating_point():
            if not bool(((images >= 0) & (images <= 1)).all()):  # NaN compares false
                raise ValueError("float images must lie in 0..1, got values outside or NaN")
        elif images.dtype != torch.uint8:
            raise ValueError(f"expected images in uint8 or floating point, got {got}")

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


class SmallEncoder(VisionEncoder):
    """Three convolutions, one token for 4 x 4 pixels; learns with the policy, fast on a CPU."""

    def __init__(self, image_size: int = 64, channels: int = 32) -> None:
        super().__init__(image_size, patch=4, channels=channels)
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.down = nn.Conv2d(24, channels, 3, stride=2, padding=1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def description(self) -> dict:
        return {
            "model_type": "small",
            "image_size": self.image_size,
            "channels": self.channels,
        }

    def _tokens(self, pixels: Tensor) -> Tensor:
        x = F.relu(self.stem(pixels.contiguous(memory_format=torch.channels_last)))
        x = F.relu(self.down(x))
        return (x + F.relu(self.mix(x))).permute(0, 2, 3, 1)


class TransformersEncoder(VisionEncoder):
    """A vision transformer of transformers: the patch tokens of its last layer, normalised.

    Its table of positions keeps the size it was trained with and is interpolated (bicubic) to the
    grid. Parts that no patch token depends on are not built (`unused`).
    """

    model: ClassVar[str]  # class in transformers
    default_size: ClassVar[int | None] = None  # pixels; None: what the configuration says
    unused: ClassVar[dict[str, bool]]  # settings that leave parts out

    def __init__(self, backbone: nn.Module, image_size: int | None = None) -> None:
        config = backbone.config
        if image_size is None:
            image_size = min(config.image_size, self.default_size or config.image_size)
            image_size -= image_size % config.patch_size
        super().__init__(image_size, config.patch_size, config.hidden_size)
        self.backbone = backbone
        self.train()  # like any new module; from_pretrained of transformers leaves eval mode

    @classmethod
    def configuration(cls, values: Mapping) -> tuple[type, object]:
        """Class and configuration in transformers, from the values of a config.json."""
        import transformers
        from huggingface_hub.errors import StrictDataclassError

        model = getattr(transformers, cls.model)
        default = model.config_class()
        unknown = [name for name in values if not hasattr(default, name)]
        if unknown:
            raise ValueError(f"{values['model_type']} has no settings {', '.join(unknown)}")
        try:
            config = model.config_class.from_dict({**values, **cls.unused})
        except StrictDataclassError as error:
            raise ValueError(f"{values['model_type']}: {error}") from error
        if (type(config.image_size), type(config.patch_size), config.num_channels) != (int, int, 3):
            raise ValueError(f"{values['model_type']}: only square RGB images and square patches")
        return model, config

    @classmethod
    def from_folder(cls, folder: Path, values: Mapping, image_size: int | None) -> VisionEncoder:
        model, config = cls.configuration(values)
        try:
            backbone, report = model.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"the weights in {folder} are damaged or do not fit: {error}"
            ) from error
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise ValueError(f"the weights in {folder} lack {missing}: download or export it again")
        return cls(backbone, image_size)

    def description(self) -> dict:
        left_out = {"transformers_version", "architectures", "dtype", "stage_names"}
        left_out |= {"out_features", "out_indices"}  # with stage_names: for use as a backbone
        config = self.backbone.config.to_diff_dict()
        kept = {k: v for k, v in config.items() if k not in left_out and not k.startswith("_")}
        return {**kept, "input_size": self.image_size}


class Dinov2Encoder(TransformersEncoder):
    """DINOv2 (Oquab et al. 2023), without its class token."""

    model = "Dinov2Model"
    default_size = 224  # its last training steps were at 518: five times the tokens
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
        vision: one of
            "small": random weights, 64 pixels, 32 channels;
            a name in `HUB`: published weights from the local Hugging Face cache;
            a folder: published weights, config.json and model.safetensors in it;
            a dict: an architecture with random weights, from `VisionEncoder.description` or a
            transformers configuration with its "model_type" ("input_size": pixels).
        image_size: pixels of either side; default: 64 for "small", 224 for DINOv2, what it was
            trained with for SigLIP, what the dict says.

    Raises:
        FileNotFoundError: the weights are not on this machine, or not as safetensors.
        ValueError: unknown name, kind of model or setting; size that no grid of patches fits;
            damaged weights.
    """
    if isinstance(vision, Mapping):
        return _random(dict(vision), image_size)
    if vision == "small":
        return _random({"model_type": "small"}, image_size)
    folder = _folder(vision)
    try:
        values = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is damaged: {error}") from error
    kind, values = _vision_part(values)
    return kind.from_folder(folder, values, image_size)


def _random(values: dict, image_size: int | None) -> VisionEncoder:
    if values.get("model_type") == "small":
        settings = {key: value for key, value in values.items() if key != "model_type"}
        if image_size is not None:
            settings["image_size"] = image_size
        unknown = set(settings) - {"image_size", "channels"}
        if unknown:
            raise ValueError(f"small has no settings {', '.join(sorted(unknown))}")
        return SmallEncoder(**settings)
    input_size = values.pop("input_size", None)
    kind, values = _vision_part(values)
    model, config = kind.configuration(values)
    return kind(model(config), input_size if image_size is None else image_size)


def _vision_part(values: Mapping) -> tuple[type[TransformersEncoder], Mapping]:
    """The encoder's class, and its part of a configuration that may be of SigLIP as a whole."""
    if values.get("model_type") == "siglip":
        values = {"model_type": "siglip_vision_model", **values.get("vision_config", {})}
    if values.get("model_type") not in _TRANSFORMERS:
        raise ValueError(
            f"no encoder for model_type {values.get('model_type')!r}: "
            f"there are small, siglip, {', '.join(_TRANSFORMERS)}"
        )
    return _TRANSFORMERS[values["model_type"]], values


def _folder(vision: str | Path) -> Path:
    """Where the weights are on this machine; never asks the network."""
    cure = "give a folder with config.json and model.safetensors"
    if vision in HUB:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        cure = f"run `hf download {HUB[vision]}`, or {cure}"
        try:
            folder = Path(snapshot_download(HUB[vision], local_files_only=True))
        except LocalEntryNotFoundError as error:
            raise FileNotFoundError(
                f"the weights of {vision} are not on this machine: {cure}"
            ) from error
    elif Path(vision).is_dir():
        folder = Path(vision)
    else:
        raise ValueError(
            f"no image encoder {str(vision)!r}: take small, {', '.join(HUB)}, or a folder"
        )
    weights = ("model.safetensors", "model.safetensors.index.json")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: {cure}")
    if not any((folder / name).is_file() for name in weights):
        raise FileNotFoundError(
            f"{folder} has no model.safetensors (other formats can run code and are not read): "
            f"{cure}"
        )
    return folder
