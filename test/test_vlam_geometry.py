"""A policy that fuses geometry: closed gates change nothing, all forms agree, nothing is missed."""

import json

import numpy as np
import pytest
import torch

from vla_ros import ActionConfig, VisionLanguageActionModel
from vla_ros.checkpoints import resolve
from vla_ros.models.vision import Geometry

ARM = ActionConfig.get_arm_config()
SHAPE = {"d_model": 64, "n_layers": 1, "d_state": 16, "keypoints": 8}
FRAMES, CAMERAS, SIZE = 5, ("camera", "wrist_camera"), 64
MATRIX = np.array([[70.0, 0, 31.5], [0, 70.0, 31.5], [0, 0, 1]], np.float32)


def build(geometry, gate=0.0):
    torch.manual_seed(0)
    model = VisionLanguageActionModel(ARM, cameras=CAMERAS, geometry=geometry, **SHAPE).eval()
    if geometry:
        for fusion in model.spatial.fusions:
            torch.nn.init.constant_(fusion.gate, gate)
    return model


@pytest.fixture
def frames():
    """Images, depth and proprioception of FRAMES moments of both cameras."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (FRAMES, 2, SIZE, SIZE, 3), dtype=np.uint8)
    depth = rng.uniform(0.3, 1.5, (FRAMES, 2, SIZE, SIZE)).astype(np.float32)
    depth[:, :, :10] = np.nan
    return images, depth, rng.normal(0.2, 0.1, (FRAMES, 4)).astype(np.float32)


def tensors(model, frames):
    """As `forward` takes them: images, proprioception and geometry of one run."""
    images, depth, felt = frames
    seen = [model.points(*moment, [MATRIX] * 2) for moment in zip(images, depth, strict=True)]
    geometry = Geometry(*(torch.stack(part)[None] for part in zip(*seen, strict=True)))
    pixels = torch.from_numpy(images).permute(0, 1, 4, 2, 3)[None]
    return pixels, torch.from_numpy(felt)[None], geometry


@torch.no_grad()
def test_closed_gates_leave_the_policy_as_it_is(frames):
    plain, fused = build(None), build("depth_camera")
    fused.load_state_dict(plain.state_dict(), strict=False)
    images, felt, geometry = tensors(fused, frames)
    expected = plain(images, felt, "reach the red cube")
    for name, value in fused(images, felt, "reach the red cube", geometry=geometry).items():
        assert torch.equal(value, expected[name]), name


@torch.no_grad()
def test_training_and_running_give_the_same_numbers(frames):
    model = build("depth_camera", gate=0.5)
    images, felt, geometry = tensors(model, frames)
    whole = model(images, felt, "reach the red cube", geometry=geometry)["action_chunks"][0]
    episode = model.start("reach the red cube")
    for i, (pictures, depth, state) in enumerate(zip(*frames, strict=True)):
        tokens = model.encode(pictures, model.points(pictures, depth, [MATRIX] * 2))
        assert tokens.shape == model.grid
        np.testing.assert_allclose(episode.act(tokens, state).actions, whole[i], atol=2e-3)
    watched, _ = model.start("reach the red cube").watch(images, felt, geometry)
    torch.testing.assert_close(watched[0], whole[-1], atol=1e-4, rtol=1e-4)
    model.predict_next_action(images, felt, "reach the red cube", geometry)


@torch.no_grad()
def test_depth_matters_where_a_gate_is_open(frames):
    model = build("depth_camera", gate=0.5)
    images, depth, _ = frames
    near, far = (
        model.encode(images[0], model.points(images[0], factor * depth[0], [MATRIX] * 2))
        for factor in (1.0, 2.0)
    )
    assert np.abs(near.astype(float) - far).max() > 0.01


def test_gradients_reach_the_gates(frames):
    model = build("depth_camera").train()
    images, felt, geometry = tensors(model, frames)
    model(images, felt, "reach the red cube", geometry=geometry)["features"].sum().backward()
    for fusion in model.spatial.fusions:
        assert (fusion.gate.grad != 0).any()


@pytest.mark.parametrize("geometry", ["none", "depth_camera"])
def test_a_checkpoint_travels_whole(tmp_path, frames, geometry):
    model = build(geometry, gate=0.5)
    model.save_pretrained(tmp_path)
    again = VisionLanguageActionModel.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.encoder_id == model.encoder_id
    images, depth, _ = frames
    seen = model.points(images[0], depth[0], [MATRIX] * 2)
    assert np.array_equal(again.encode(images[0], seen), model.encode(images[0], seen))


def test_tokens_of_other_geometry_do_not_fit():
    names = {build(geometry, gate=0.5).encoder_id for geometry in (None, "none", "depth_camera")}
    assert len(names | {build("depth_camera", gate=0.4).encoder_id}) == 4


def test_checkpoints_of_before_geometry_load_unchanged(tmp_path):
    values = json.loads((resolve("arm") / "config.json").read_text())
    assert "geometry" not in values
    model = VisionLanguageActionModel.from_pretrained(resolve("arm"))
    assert model.spatial is None
    assert model.config.geometry is None
    model.save_pretrained(tmp_path)
    assert VisionLanguageActionModel.from_pretrained(tmp_path).encoder_id == model.encoder_id


def test_geometry_that_is_missing_or_too_much_is_named(frames):
    plain, fused = build(None), build("depth_camera")
    images, depth, _ = frames
    pixels, felt, geometry = tensors(fused, frames)
    with pytest.raises(ValueError, match="fuses geometry 'depth_camera'"):
        fused.encode(images[0])
    with pytest.raises(ValueError, match="fuses geometry 'depth_camera'"):
        fused(pixels, felt)
    with pytest.raises(ValueError, match="images alone"):
        plain.points(images[0], depth[0], [MATRIX] * 2)
    with pytest.raises(ValueError, match="images alone"):
        plain(pixels, felt, geometry=geometry)
    with pytest.raises(ValueError, match=r"expected geometry \[1, 5, 2, 16, 16\], got \[5, 2"):
        fused(pixels, felt, geometry=geometry.at(0))
    with pytest.raises(ValueError, match="needs depth"):
        fused.points(images[0], None, [MATRIX] * 2)


def test_a_checkpoint_that_needs_a_missing_package_is_not_called_damaged(tmp_path):
    build("none").save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["geometry"] |= {"model_type": "map_anything"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ImportError, match="needs the package mapanything"):
        VisionLanguageActionModel.from_pretrained(tmp_path)
