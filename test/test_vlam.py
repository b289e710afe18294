"""The policy model: both forms agree, bounds hold, checkpoints travel whole, bad input is named."""

import json

import numpy as np
import pytest
import torch

from vla_ros.checkpoints import resolve
from vla_ros.models.vlam import Statistics, VisionLanguageActionModel, VLAMConfig
from vla_ros.scene_language.instructions import tokenize

INSTRUCTION = "pick up the red cube"


@pytest.fixture(scope="module")
def model() -> VisionLanguageActionModel:
    torch.manual_seed(0)
    config = VLAMConfig(d_model=64, keypoints=8)
    statistics = Statistics.neutral(config)
    statistics.proprioception_mean += 0.3
    made = VisionLanguageActionModel(config, statistics).eval()
    for head in (made.action, made.keypoints[0].query, made.keypoints[1].query):
        torch.nn.init.normal_(head.weight, std=0.5)
    return made


@pytest.fixture
def frames() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 2, 64, 64, 3), dtype=np.uint8)
    return images, rng.normal(0.2, 0.1, (12, 4)).astype(np.float32)


def drive(model, images, felt, instruction=INSTRUCTION):
    episode = model.start(instruction)
    return [episode.act(model.encode(list(i)), p) for i, p in zip(images, felt, strict=True)]


def test_running_gives_what_training_saw(model, frames):
    images, felt = frames
    with torch.no_grad():
        out = model(
            torch.from_numpy(images)[None],
            torch.from_numpy(felt)[None],
            torch.tensor([tokenize(INSTRUCTION)]),
        )
    offsets = out["actions"][0].numpy() * model.statistics.action_scale
    expected = np.clip(offsets[..., :3], model.config.action_low[:3], model.config.action_high[:3])
    actions = drive(model, images, felt)
    got = np.stack([action.actions[:, :3] for action in actions])
    # Tokens travel in half precision between the nodes; nothing else differs.
    np.testing.assert_allclose(got, expected, atol=2e-3)
    done = torch.sigmoid(out["done"][0]).numpy()
    np.testing.assert_allclose([action.done for action in actions], done, atol=2e-3)


def test_equal_input_gives_equal_output(model, frames):
    first, second = drive(model, *frames), drive(model, *frames)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.actions, other.actions) and one.done == other.done


def test_the_instruction_and_the_past_matter(model, frames):
    images, felt = frames
    here = drive(model, images, felt)[-1].actions
    other_words = drive(model, images, felt, "push the blue can to the left")[-1].actions
    no_past = drive(model, images[-1:], felt[-1:])[-1].actions
    assert np.abs(here - other_words).max() > 1e-4
    assert np.abs(here - no_past).max() > 1e-4


def test_actions_stay_within_bounds_whatever_the_weights(frames):
    torch.manual_seed(3)
    wild = VisionLanguageActionModel(VLAMConfig(d_model=64)).eval()
    torch.nn.init.normal_(wild.action.weight, std=100.0)
    for action in drive(wild, *frames):
        assert np.isfinite(action.actions).all()
        assert (action.actions >= wild.config.action_low).all()
        assert (action.actions <= wild.config.action_high).all()
        assert 0.0 <= action.done <= 1.0


def test_a_checkpoint_comes_back_bit_for_bit(model, frames, tmp_path):
    model.save_pretrained(tmp_path / "a")
    loaded = VisionLanguageActionModel.from_pretrained(tmp_path / "a")
    assert loaded.config == model.config and loaded.encoder_id == model.encoder_id
    for one, other in zip(drive(model, *frames), drive(loaded, *frames), strict=True):
        assert np.array_equal(one.actions, other.actions)
    assert not list((tmp_path / "a").glob(".*")), "partial files were left behind"


@pytest.mark.parametrize("missing", ["config.json", "statistics.json", "model.safetensors"])
def test_a_missing_file_is_named(model, tmp_path, missing):
    model.save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        VisionLanguageActionModel.from_pretrained(tmp_path)


def test_truncated_weights_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        VisionLanguageActionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change", [{"horizon": 9}, {"d_model": 96}, {"surprise": 1}, {"grid_channels": 16}]
)
def test_a_configuration_that_does_not_fit_is_refused(model, tmp_path, change):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=str(tmp_path)):
        VisionLanguageActionModel.from_pretrained(tmp_path)


def test_unknown_words_are_named(model):
    with pytest.raises(ValueError, match="'frobnicate'"):
        model.start("frobnicate the red cube")
    with pytest.raises(ValueError, match="empty"):
        model.start(" ,.")


def test_wrong_images_are_refused(model, frames):
    images, _ = frames
    with pytest.raises(ValueError, match="camera: expected uint8"):
        model.encode([images[0, 0, :32], images[0, 1]])
    with pytest.raises(ValueError, match="wrist_camera: expected uint8"):
        model.encode([images[0, 0], images[0, 1].astype(np.float32)])
    with pytest.raises(ValueError, match="expected images of camera, wrist_camera"):
        model.encode([images[0, 0]])


def test_bad_observations_are_refused_and_leave_the_state(model, frames):
    images, felt = frames
    clean = drive(model, images[:2], felt[:2])
    episode = model.start(INSTRUCTION)
    tokens = [model.encode(list(i)) for i in images[:2]]
    episode.act(tokens[0], felt[0])
    broken = tokens[1].copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        episode.act(broken, felt[1])
    with pytest.raises(ValueError, match="NaN"):
        episode.act(tokens[1], np.full(4, np.inf, np.float32))
    with pytest.raises(ValueError, match="visual tokens"):
        episode.act(tokens[1][:1], felt[1])
    with pytest.raises(ValueError, match="proprioception"):
        episode.act(tokens[1], felt[1, :3])
    assert np.array_equal(episode.act(tokens[1], felt[1]).actions, clean[1].actions)


def test_resolve_names_what_ships(tmp_path):
    assert resolve(str(tmp_path)) == tmp_path
    with pytest.raises(FileNotFoundError, match="no checkpoint 'nowhere'"):
        resolve("nowhere")
