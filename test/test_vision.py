"""Image encoders: one interface, published weights as published, bad input named, truly frozen."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from vla_ros.models.vision import HUB, SmallEncoder, VisionEncoder, build_encoder

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES = {
    "small": {"model_type": "small", "image_size": 16, "channels": 8},
    "dinov2": {"model_type": "dinov2", **LAYERS, "image_size": 56, "patch_size": 14},
    "dinov2 at half its size": {
        **{"model_type": "dinov2", **LAYERS, "image_size": 56, "patch_size": 14},
        "input_size": 28,
    },
    "siglip": {
        **{"model_type": "siglip_vision_model", **LAYERS, "intermediate_size": 64},
        **{"image_size": 32, "patch_size": 16},
    },
}
# Millions of parameters as published; SigLIP's without the pooling head.
PUBLISHED = {
    "dinov2-small": (22.06, {"hidden_size": 384, "num_attention_heads": 6}),
    "dinov2-base": (86.58, {"hidden_size": 768, "num_attention_heads": 12}),
    "dinov2-large": (
        304.37,
        {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24},
    ),
    "siglip-base": (85.80, {}),
}


def make(name: str, seed: int = 0) -> VisionEncoder:
    torch.manual_seed(seed)
    return build_encoder(ARCHITECTURES[name])


def random_images(encoder: VisionEncoder, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 3, encoder.image_size, encoder.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def save_backbone(encoder: VisionEncoder, folder) -> None:
    encoder.backbone.save_pretrained(folder)


each = pytest.mark.parametrize("name", ARCHITECTURES)


@each
def test_shapes_and_types(name):
    encoder = make(name)
    images = random_images(encoder)
    tokens = encoder(images)
    assert tokens.shape == (2, *encoder.grid, encoder.channels)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(encoder(images.float() / 255), tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(images[1:]), tokens[1:], rtol=1e-4, atol=1e-5)


@each
def test_tokens_lie_where_the_image_is(name):
    """What changes in the upper right quarter of the image changes those tokens most.

    With weights of chance another quarter may change more now and then, so several are tried.
    """
    shares = torch.zeros(4)
    for seed in range(24):
        encoder = make(name, seed).eval()
        half = encoder.image_size // 2
        images = torch.full((1, 3, 2 * half, 2 * half), 128, dtype=torch.uint8)
        changed = images.clone()
        changed[:, :, :half, half:] = random_images(encoder)[:1, :, :half, half:]
        with torch.no_grad():
            difference = (encoder(changed) - encoder(images)).abs().sum(-1)
        quarters = F.avg_pool2d(difference, encoder.grid[0] // 2)[0].flatten()
        shares += quarters / quarters.sum() / 24
    assert shares.argmax() == 1, shares


@each
def test_every_weight_learns(name):
    encoder = make(name)
    encoder(random_images(encoder)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


@each
def test_description_rebuilds_the_architecture(name):
    encoder = make(name).eval()
    description = json.loads(json.dumps(encoder.description()))
    again = build_encoder(description).eval()
    assert again.description() == encoder.description()
    images = random_images(encoder)
    assert not torch.equal(again(images), encoder(images))  # random weights
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(images), encoder(images))


@each
def test_bfloat16_autocast(name):
    encoder = make(name).eval()
    images = random_images(encoder)
    exact = encoder(images)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(images)
    assert not torch.equal(rough.float(), exact)
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


@each
def test_bad_images_are_named(name):
    encoder = make(name)
    good = random_images(encoder)
    nan = good.float() / 255
    nan[0, 0, 0, 0] = float("nan")
    for bad, message in (
        (good[0], "expected RGB images"),
        (good[None], "expected RGB images"),
        (good.permute(0, 2, 3, 1), "expected RGB images"),
        (good[:, :1], r"got \[2, 1, "),
        (good[..., 1:], f"got .*{encoder.image_size - 1}]"),
        (good.long(), "uint8 or floating point, got .* torch.int64"),
        (good.float(), "0..1"),
        (good.float() / 255 - 0.5, "0..1"),
        (nan, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(bad)


def test_small_encoder_normalises_to_plus_minus_one():
    """The formula of the shipped checkpoint, bit for bit."""
    encoder = make("small")
    images = random_images(encoder)
    x = images.float() / 127.5 - 1.0
    x = F.relu(encoder.stem(x.contiguous(memory_format=torch.channels_last)))
    x = F.relu(encoder.down(x))
    expected = (x + F.relu(encoder.mix(x))).permute(0, 2, 3, 1)
    assert torch.equal(encoder(images), expected)
    assert set(encoder.state_dict()) == {
        f"{layer}.{kind}" for layer in ("stem", "down", "mix") for kind in ("weight", "bias")
    }


def test_small_encoder_needs_no_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    encoder = build_encoder("small")
    assert (encoder.image_size, encoder.grid, encoder.channels) == (64, (16, 16), 32)
    assert build_encoder("small", image_size=96).grid == (24, 24)
    with pytest.raises(ImportError, match="transformers"):
        make("dinov2")


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_architectures_have_the_published_size(name):
    millions, values = PUBLISHED[name]
    kind = name.split("-")[0]
    model_type, size = {"dinov2": ("dinov2", 518), "siglip": ("siglip_vision_model", 224)}[kind]
    with torch.device("meta"):
        encoder = build_encoder({"model_type": model_type, "image_size": size, **values})
    assert encoder.image_size == 224
    assert encoder.grid == ((16, 16) if kind == "dinov2" else (14, 14))
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


# -- published weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True], ids=["own size", "half size"])
def test_dinov2_folder_gives_what_transformers_gives(tmp_path, half):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    values = {k: v for k, v in ARCHITECTURES["dinov2"].items() if k != "model_type"}
    published = transformers.Dinov2Model(transformers.Dinov2Config(**values)).eval()
    published.save_pretrained(tmp_path)
    encoder = build_encoder(tmp_path, image_size=28 if half else None).eval()
    images = random_images(encoder)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = published(pixels).last_hidden_state
        tokens = encoder(images)
    side = 2 if half else 4
    assert encoder.grid == (side, side)
    for row in range(side):
        for column in range(side):
            torch.testing.assert_close(
                tokens[:, row, column], expected[:, 1 + row * side + column], rtol=1e-4, atol=1e-5
            )


def test_siglip_folder_of_both_halves(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    layers = {**LAYERS, "intermediate_size": 64}
    published = transformers.SiglipModel(
        transformers.SiglipConfig(
            text_config={**layers, "vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2},
            vision_config={**layers, "image_size": 32, "patch_size": 16},
        )
    ).eval()
    published.save_pretrained(tmp_path)
    encoder = build_encoder(str(tmp_path)).eval()
    images = random_images(encoder)
    with torch.no_grad():
        expected = published.vision_model(images / 127.5 - 1).last_hidden_state
        tokens = encoder(images)
    torch.testing.assert_close(tokens.flatten(1, 2), expected, rtol=1e-4, atol=1e-5)
    assert "vision_config" not in encoder.description()


def test_a_name_is_found_in_the_local_cache(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hf download facebook/dinov2-small"):
        build_encoder("dinov2-small")
    repository = tmp_path / "models--facebook--dinov2-small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    encoder = make("dinov2")
    save_backbone(encoder, repository / "snapshots" / ("0" * 40))
    found = build_encoder("dinov2-small")
    for name, value in encoder.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_half_precision_weights_are_widened(tmp_path):
    encoder = make("dinov2")
    encoder.half()
    save_backbone(encoder, tmp_path)
    loaded = build_encoder(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_only_safetensors_are_read(tmp_path):
    encoder = make("dinov2")
    save_backbone(encoder, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(encoder.backbone.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="lacks.*model.safetensors"):
        build_encoder(tmp_path)


def test_incomplete_or_damaged_weights_are_refused(tmp_path):
    save_backbone(make("dinov2"), tmp_path)
    weights = tmp_path / "model.safetensors"
    kept = load_file(weights)
    short = {k: v for k, v in kept.items() if k != "layernorm.weight"}
    save_file(short, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lack.*layernorm.weight"):
        build_encoder(tmp_path)
    save_file({**kept, "layernorm.weight": torch.ones(7)}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="do not fit"):
        build_encoder(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        build_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        build_encoder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="lacks config.json"):
        build_encoder(tmp_path)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ("dinov9", f"no image encoder dinov9.*{next(iter(HUB))}"),
        ({"model_type": "resnet"}, "kind 'resnet'"),
        ({"hidden_size": 32}, "kind None"),
        ({"model_type": "small", "depth": 3}, "small has no settings depth"),
        ({"model_type": "small", "image_size": 30}, "multiple of 4"),
        ({"model_type": "small", "image_size": 0}, "image size 0"),
        ({"model_type": "siglip"}, "kind 'siglip'"),
        ({"model_type": "dinov2", "hidden_sise": 32}, "no settings hidden_sise"),
        ({"model_type": "dinov2", "hidden_size": "32"}, "hidden_size"),
        ({"model_type": "dinov2", **LAYERS, "num_channels": 4}, "RGB"),
        ({"model_type": "dinov2", **LAYERS, "patch_size": [14, 7]}, "square"),
        ({**ARCHITECTURES["dinov2"], "input_size": 30}, "multiple of 14"),
    ],
)
def test_impossible_encoders_are_named(vision, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(vision)


# -- frozen ----------------------------------------------------------------------------------------


class DriftingEncoder(SmallEncoder):
    """All that drifts in training mode although no weight has a gradient."""

    def __init__(self) -> None:
        super().__init__(image_size=16, channels=8)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)

    def _tokens(self, pixels):
        tokens = super()._tokens(pixels)
        return self.drop(self.norm(tokens.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


def train_one_step(encoder: VisionEncoder) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """A step of a head and the encoder: state before, tokens before and after (training mode)."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.channels, 2)}).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    images = random_images(encoder)
    tokens = encoder(images)
    model["head"](tokens).square().sum().backward()
    optimiser.step()
    assert model["head"].weight.grad.abs().sum() > 0
    return before, tokens.detach(), encoder(images).detach()


def test_nothing_of_a_frozen_encoder_changes():
    encoder = DriftingEncoder().freeze()
    before, first, second = train_one_step(encoder)
    assert torch.equal(first, second)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(random_images(encoder).float().div(255).requires_grad_()).requires_grad


def test_an_encoder_that_is_not_frozen_does_change():
    """What the test above would miss if it could not see drift."""
    encoder = DriftingEncoder()
    before, first, second = train_one_step(encoder)
    assert not torch.equal(first, second)
    for name in ("stem.weight", "norm.running_mean"):
        assert not torch.equal(encoder.state_dict()[name], before[name]), name


def test_frozen_transformers_encoder_stays_in_evaluation():
    values = {**ARCHITECTURES["dinov2"], "hidden_dropout_prob": 0.5, "drop_path_rate": 0.5}
    encoder = build_encoder(values)
    images = random_images(encoder)
    assert not torch.equal(encoder(images), encoder(images))
    encoder.freeze().train()
    assert torch.equal(encoder(images), encoder(images))
