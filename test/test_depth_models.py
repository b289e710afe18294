"""Depth models: fed as published, metric, from local safetensors only."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vla_ros.models.vision import depth_models
from vla_ros.models.vision.geometry import build_geometry

transformers = pytest.importorskip("transformers")

SIZE, GRID = 56, (4, 4)
LAYERS = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
DINO = {"model_type": "dinov2", **LAYERS, "patch_size": 14, "reshape_hidden_states": False}
BEIT = {
    **{"model_type": "beit", **LAYERS, "intermediate_size": 32, "image_size": 64},
    **{"patch_size": 16, "use_relative_position_bias": True, "reshape_hidden_states": False},
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
PATCHES = {"model_type": "dinov2", **LAYERS, "image_size": 32, "patch_size": 8}
CONFIGS = {
    "depth_anything": {
        **{"model_type": "depth_anything", "depth_estimation_type": "metric", "max_depth": 20},
        "backbone_config": {**DINO, "image_size": 56, "out_indices": [1, 2, 3, 4]},
        **{"reassemble_hidden_size": 16, "neck_hidden_sizes": [8, 8, 8, 8]},
        **{"fusion_hidden_size": 8, "head_hidden_size": 8},
    },
    "zoedepth": {
        **{"model_type": "zoedepth", "backbone_config": BEIT, "neck_hidden_sizes": [8, 8, 8, 8]},
        **{"fusion_hidden_size": 8, "bottleneck_features": 8, "num_relative_features": 4},
        **{"bin_embedding_dim": 8, "num_attractors": [4, 2, 2, 1]},
        "bin_configurations": [{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
    },
    "depth_pro": {
        **{"model_type": "depth_pro", "patch_size": 32, "fusion_hidden_size": 8},
        **{"intermediate_hook_ids": [2, 0], "intermediate_feature_dims": [8, 8]},
        **{"scaled_images_feature_dims": [8, 8, 8], "merge_padding_value": 1},
        "image_model_config": PATCHES,
        "patch_model_config": PATCHES,
        "fov_model_config": PATCHES,
    },
}
SIZES = {"depth_anything": 70, "zoedepth": 64, "depth_pro": 128}
PREPROCESSORS = {
    "depth_anything": {
        **{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        "size": {"height": 70, "width": 70},
    },
    "zoedepth": {
        **{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
        "size": {"height": 64, "width": 96},
    },
    "depth_pro": {
        **{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
        "size": {"height": 128, "width": 128},
    },
}


def make(name, **changes):
    torch.manual_seed(0)
    values = {"config": CONFIGS[name], "model_size": SIZES[name], **changes}
    return build_geometry({"model_type": "depth_model", **values}, SIZE, GRID)


def images(batch=2):
    """A soft scene of large patches, as pictures are."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(batch, 3, 5, 5, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return (255 * fine).round().to(torch.uint8)


def intrinsics(batch=2, focal=60.0):
    centre = (SIZE - 1) / 2
    matrix = torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1.0]])
    return matrix.expand(batch, 3, 3)


def published(name, folder):
    """The model as transformers makes it, saved as it is published."""
    torch.manual_seed(0)
    kind = depth_models._KINDS[name].model
    model = getattr(transformers, kind)(
        getattr(transformers, kind).config_class.from_dict(CONFIGS[name])
    )
    with torch.no_grad():  # random ones say the same everywhere
        for parameter in model.head.parameters() if name == "depth_pro" else []:
            parameter.abs_()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS[name]))
    return model.eval()


each = pytest.mark.parametrize("name", CONFIGS)


@each
def test_points_are_on_the_rays_of_the_real_camera(name):
    encoder = make(name)
    dense = encoder.observe(images(), intrinsics=intrinsics())
    assert dense.points.shape == (2, SIZE, SIZE, 3)
    assert dense.valid.any()
    u = torch.arange(SIZE) - (SIZE - 1) / 2
    expected = (u / 60).expand(2, SIZE, SIZE)
    found = dense.points[..., 0] / dense.points[..., 2]
    torch.testing.assert_close(found[dense.valid], expected[dense.valid])
    geometry = encoder(images(), intrinsics=intrinsics())
    assert geometry.points.shape == (2, *GRID, 3)
    assert torch.isfinite(geometry.points).all()
    assert not geometry.points.requires_grad


@each
def test_description_makes_the_same_architecture_again(name):
    encoder = make(name)
    description = json.loads(json.dumps(encoder.description()))
    again = build_geometry(description)
    assert json.loads(json.dumps(again.description())) == description
    again.load_state_dict(encoder.state_dict())
    for a, b in zip(
        encoder(images(), intrinsics=intrinsics()),
        again(images(), intrinsics=intrinsics()),
        strict=True,
    ):
        assert torch.equal(a, b)


@each
def test_nothing_of_it_is_trained(name):
    encoder = make(name).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_zoedepth_is_fed_as_it_is_published(tmp_path):
    module = pytest.importorskip("transformers.models.zoedepth.image_processing_pil_zoedepth")
    model = published("zoedepth", tmp_path)
    processor = module.ZoeDepthImageProcessorPil(
        size={"height": 64, "width": 96}, ensure_multiple_of=32
    )
    encoder = build_geometry(tmp_path, SIZE, GRID)
    assert encoder.model_size == 96
    assert build_geometry(tmp_path, 24, GRID).model_size == 64
    pixels = processor(list(images().permute(0, 2, 3, 1).numpy()), return_tensors="pt")
    ours = (encoder._scaled(images().float() / 255) - 0.5) / 0.5
    assert ours.shape == pixels["pixel_values"].shape
    assert (ours - pixels["pixel_values"]).abs().max() < 0.03  # 8 bits, rounded on the way
    with torch.no_grad():
        depth = model(ours).predicted_depth
    dense = encoder.observe(images(), intrinsics=intrinsics())
    pad = int(np.sqrt(SIZE / 2) * 3)
    whole = torch.nn.functional.interpolate(
        depth[:, None], (SIZE + 2 * pad,) * 2, mode="bicubic", align_corners=False
    )
    expected = whole[:, 0, pad:-pad, pad:-pad]
    torch.testing.assert_close(dense.points[..., 2], expected)


def test_depth_anything_is_fed_as_it_is_published(tmp_path):
    module = pytest.importorskip("transformers.models.dpt.image_processing_pil_dpt")
    model = published("depth_anything", tmp_path)
    settings = PREPROCESSORS["depth_anything"]
    processor = module.DPTImageProcessorPil(
        keep_aspect_ratio=True, ensure_multiple_of=14, resample=3, **settings
    )
    encoder = build_geometry(tmp_path, SIZE, GRID)
    assert (encoder.model_size, encoder.mean) == (70, (0.485, 0.456, 0.406))
    pixels = processor(list(images().permute(0, 2, 3, 1).numpy()), return_tensors="pt")
    with torch.no_grad():
        depth = model(pixels["pixel_values"]).predicted_depth
    expected = torch.nn.functional.interpolate(depth[:, None], (SIZE, SIZE), mode="bicubic")[:, 0]
    dense = encoder.observe(images(), intrinsics=intrinsics())
    assert dense.valid.all()
    torch.testing.assert_close(dense.points[..., 2], expected, rtol=2e-3, atol=0)


def test_depth_pro_is_metric_by_the_real_focal_length(tmp_path):
    """Twice the focal length, the same picture: things are twice as far."""
    model = published("depth_pro", tmp_path)
    encoder = build_geometry(tmp_path, SIZE, GRID)
    near = encoder.observe(images(), intrinsics=intrinsics())
    far = encoder.observe(images(), intrinsics=intrinsics(focal=120.0))
    both = near.valid & far.valid & (near.points[..., 2] > 1e-3)
    assert both.any()
    torch.testing.assert_close(far.points[both][:, 2], 2 * near.points[both][:, 2])
    pixels = images().float() / 127.5 - 1
    pixels = torch.nn.functional.interpolate(pixels, (128, 128), mode="bilinear")
    with torch.no_grad():
        inverse = model(pixels).predicted_depth[:, None] * SIZE / 60
    inverse = torch.nn.functional.interpolate(inverse, (SIZE, SIZE), mode="bilinear")[:, 0]
    expected = 1 / inverse.clamp(1e-4, 1e4)[both]
    torch.testing.assert_close(near.points[both][:, 2], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_estimation_type": "relative"}, "relative depth.*Metric-Indoor"),
        ({"model_type": "dpt"}, "no depth model of kind 'dpt'"),
        ({"max_depth": "far"}, "depth_anything: .*max_depth"),
    ],
)
def test_models_that_give_no_points_are_refused(change, message):
    config = {**CONFIGS["depth_anything"], **change}
    with pytest.raises(ValueError, match=message):
        make("depth_anything", config=config)


def test_sizes_that_patches_do_not_fill_are_refused():
    with pytest.raises(ValueError, match="72 pixels: take a multiple of 14"):
        make("depth_anything", model_size=72)


def test_only_whole_safetensors_of_this_machine_are_read(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match="hf download Intel/zoedepth-nyu"):
        build_geometry("zoedepth-nyu", SIZE, GRID)
    published("depth_anything", tmp_path)
    weights = tmp_path / "model.safetensors"
    kept = load_file(weights)
    name = next(iter(kept))
    save_file({k: v for k, v in kept.items() if k != name}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"weights lack {name}"):
        build_geometry(tmp_path, SIZE, GRID)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="lacks preprocessor_config.json"):
        build_geometry(tmp_path, SIZE, GRID)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="lacks.*model.safetensors"):
        build_geometry(tmp_path, SIZE, GRID)


def test_a_depth_camera_needs_no_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    build_geometry("depth_camera", SIZE, GRID)
    with pytest.raises(ImportError, match="transformers"):
        make("zoedepth")
