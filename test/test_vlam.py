"""The model: all its forms agree, bounds hold, checkpoints travel whole, bad input is named."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vla_ros import ActionConfig, VisionLanguageActionModel
from vla_ros.checkpoints import resolve
from vla_ros.models import language
from vla_ros.models.vlam_config import SIZES, Statistics
from vla_ros.scene_language.descriptions import SENTENCES

ARM = ActionConfig.get_arm_config()
CAMERAS = ("camera", "wrist_camera")
INSTRUCTION = "pick up the red cube"
TINY_DINOV2 = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def build(action: ActionConfig = ARM, **changes) -> VisionLanguageActionModel:
    torch.manual_seed(0)
    settings = {"d_model": 64, "n_layers": 2, "d_state": 16, "keypoints": 8, "cameras": CAMERAS}
    return VisionLanguageActionModel(action, **{**settings, **changes}).eval()


@pytest.fixture(scope="module")
def model() -> VisionLanguageActionModel:
    statistics = Statistics.neutral(ARM)
    statistics.proprioception_mean += 0.3
    made = build(statistics=statistics)
    for head in (made.action, made.keypoints[0].query, made.keypoints[1].query):
        torch.nn.init.normal_(head.weight, std=0.5)
    return made


@pytest.fixture
def frames() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 2, 64, 64, 3), dtype=np.uint8)
    return images, rng.normal(0.2, 0.1, (12, 4)).astype(np.float32)


@pytest.fixture
def tensors(frames) -> tuple[torch.Tensor, torch.Tensor]:
    """The same frames as `forward` takes them: [1, 12, 2, 3, 64, 64] and [1, 12, 4]."""
    images, felt = map(torch.from_numpy, frames)
    return images.permute(0, 1, 4, 2, 3)[None], felt[None]


def drive(model, images, felt, instruction=INSTRUCTION):
    episode = model.start(instruction)
    return [episode.act(model.encode(list(i)), p) for i, p in zip(images, felt, strict=True)]


# -- one model, many forms -------------------------------------------------------------------------


def test_running_gives_what_training_saw(model, frames, tensors):
    with torch.no_grad():
        out = model(*tensors, INSTRUCTION)
    actions = drive(model, *frames)
    got = np.stack([action.actions for action in actions])
    # Tokens travel in half precision between the nodes; nothing else differs.
    np.testing.assert_allclose(got, out["action_chunks"][0].numpy(), atol=2e-3)
    done = torch.sigmoid(out["done"][0]).numpy()
    np.testing.assert_allclose([action.done for action in actions], done, atol=2e-3)


def test_predicting_frame_by_frame_is_the_parallel_form(model, tensors):
    images, felt = tensors
    with torch.no_grad():
        out = model(images, felt, INSTRUCTION)
    model.reset()
    for t in range(images.shape[1]):
        action, said = model.predict_next_action(
            images[:, t : t + 1], felt[:, t : t + 1], INSTRUCTION
        )
        torch.testing.assert_close(action, out["actions"][:, t], atol=1e-5, rtol=0)
        ids = model.language.generate(out["context"][:, t])
        assert said == language.decode(model.tokenizer, ids[0])
    model.reset()
    fresh, _ = model.predict_next_action(images[:, -1:], felt[:, -1:], INSTRUCTION)
    assert (fresh - out["actions"][:, -1]).abs().max() > 1e-4, "the past was remembered"


def test_a_history_can_be_read_at_once(model, tensors):
    images, felt = tensors
    stepped, prefilled = (model.start(INSTRUCTION) for _ in range(2))
    for t in range(8):
        stepped.watch(images[:, t : t + 1], felt[:, t : t + 1])
    prefilled.watch(images[:, :8], felt[:, :8])
    one, _ = stepped.watch(images[:, 8:9], felt[:, 8:9])
    other, _ = prefilled.watch(images[:, 8:9], felt[:, 8:9])
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_saved_state_goes_on_bit_for_bit(model, frames, tmp_path):
    images, felt = frames
    tokens = [model.encode(list(i)) for i in images]
    episode = model.start(INSTRUCTION)
    for t in range(5):
        episode.act(tokens[t], felt[t])
    save_file(episode.save(), tmp_path / "state.safetensors")
    whole = [episode.act(tokens[t], felt[t]).actions for t in range(5, 12)]
    resumed = model.start(INSTRUCTION)
    resumed.restore(load_file(tmp_path / "state.safetensors"))
    assert resumed.describe() == model_description_at(model, tokens, felt, 5)
    for t, expected in zip(range(5, 12), whole, strict=True):
        assert np.array_equal(resumed.act(tokens[t], felt[t]).actions, expected)
    with pytest.raises(ValueError, match="another model or batch"):
        model.start(INSTRUCTION, batch=2).restore(episode.save())


def model_description_at(model, tokens, felt, steps) -> list[str]:
    episode = model.start(INSTRUCTION)
    for t in range(steps):
        episode.act(tokens[t], felt[t])
    return episode.describe()


def test_rows_of_a_batch_do_not_meet(model, tensors):
    images, felt = tensors
    texts = [INSTRUCTION, "push the blue can to the left"]
    pair = images.expand(2, -1, -1, -1, -1, -1), felt.expand(2, -1, -1)
    with torch.no_grad():
        together = model(*pair, texts)
        alone = model(images, felt, texts[1])
    torch.testing.assert_close(together["actions"][1:], alone["actions"], atol=1e-5, rtol=0)
    model.reset()
    actions, said = model.predict_next_action(*pair, texts)
    torch.testing.assert_close(actions, together["actions"][:, -1], atol=1e-5, rtol=0)
    assert len(said) == 2


def test_one_camera_and_one_frame(tensors):
    images, _ = tensors
    blind = ActionConfig("arm", 2, (-1, 1), ("a", "b"), horizon=3)
    single = build(blind, cameras=("camera",))
    with torch.no_grad():
        sequence = single(images[:, :, 0])
        frame = single(images[:, 0, 0])
    assert sequence["actions"].shape == (1, 12, 2)
    assert sequence["action_chunks"].shape == (1, 12, 3, 2)
    assert sequence["features"].shape == (1, 12, 64)
    assert sequence["language_logits"].shape == (1, 12, single.config.vocab_size)
    torch.testing.assert_close(frame["actions"], sequence["actions"][:, :1], atol=1e-5, rtol=0)


def test_the_language_logits_are_those_of_the_given_text(model, tensors):
    ids = language.pad(
        language.encode(model.tokenizer, text, model.config.vocab_size) for text in SENTENCES[:12]
    )
    with torch.no_grad():
        first = model(*tensors, INSTRUCTION)["language_logits"]
        scored = model(*tensors, INSTRUCTION, text=ids[None])["language_logits"]
    assert scored.shape == (1, 12, ids.shape[1] + 1, model.config.vocab_size)
    torch.testing.assert_close(scored[:, :, 0], first, atol=1e-5, rtol=0)


def test_half_precision_runs_and_stays_near(model, tensors):
    images, felt = tensors
    exact, half = (model.start(INSTRUCTION) for _ in range(2))
    for t in range(4):
        frame = images[:, t : t + 1], felt[:, t : t + 1]
        chunks, _ = exact.watch(*frame)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough, _ = half.watch(*frame)
            assert half.describe()
        apart = (rough - chunks)[..., :3].norm() / chunks[..., :3].norm()
        assert 0 < apart < 0.04  # 0.01 to 0.02, whatever the weights


def test_equal_input_gives_equal_output(model, frames, tensors):
    first, second = drive(model, *frames), drive(model, *frames)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.actions, other.actions) and one.done == other.done
    with torch.no_grad():
        one, other = model(*tensors, INSTRUCTION), model(*tensors, INSTRUCTION)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_the_instruction_and_the_past_matter(model, frames):
    images, felt = frames
    here = drive(model, images, felt)[-1].actions
    other_words = drive(model, images, felt, "push the blue can to the left")[-1].actions
    no_past = drive(model, images[-1:], felt[-1:])[-1].actions
    assert np.abs(here - other_words).max() > 1e-4
    assert np.abs(here - no_past).max() > 1e-4


# -- actions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [
        ARM,
        ActionConfig.get_joint_arm_config(),
        ActionConfig.get_humanoid_config(),
        ActionConfig.get_mobile_manipulator_config(),
    ],
    ids=lambda action: action.control_mode + str(action.action_dim),
)
def test_actions_stay_within_bounds_whatever_the_weights(action, tensors):
    wild = build(action)
    torch.nn.init.normal_(wild.action.weight, std=100.0)
    images, _ = tensors
    felt = torch.randn(1, 12, len(action.proprioception_names))
    with torch.no_grad():
        chunks = wild(images, felt, INSTRUCTION)["action_chunks"].double().numpy()
    low, high = np.array(action.action_bounds).T
    assert np.isfinite(chunks).all()
    assert (chunks >= low).all() and (chunks <= high).all(), "not even by a rounding"
    span = (high - low)[None]
    reached = (chunks <= low + 1e-6 * span).any((0, 1, 2)) & (chunks >= high - 1e-6 * span).any(
        (0, 1, 2)
    )
    assert reached.mean() > 0.5, "such weights reach both bounds"
    episode = wild.start(INSTRUCTION)
    tokens = np.random.default_rng(0).normal(size=wild.grid)
    act = episode.act(tokens.astype(np.float16), felt[0, 0].numpy())
    assert (act.actions >= low).all() and (act.actions <= high).all()
    assert 0.0 <= act.done <= 1.0 and 0.0 < act.confidence <= 1.0


def test_normalisation_comes_from_the_statistics(tensors):
    statistics = Statistics.neutral(ARM)
    statistics.action_offset[:] = 0.01
    statistics.action_scale[:] = 0.001
    narrow = build(statistics=statistics)
    with torch.no_grad():
        out = narrow(*tensors, INSTRUCTION)
    expected = 0.01 + 0.001 * out["raw_actions"][..., :3]
    torch.testing.assert_close(out["action_chunks"][..., :3], expected)


def test_the_description_of_actions_is_plain(model):
    description = json.loads(json.dumps(model.get_action_description()))
    assert description["robot_type"] == "arm" and description["action_dim"] == 4
    assert ActionConfig.from_dict(description) == ARM


# -- training --------------------------------------------------------------------------------------


def test_every_parameter_learns(tensors):
    training = build(freeze_vision=False).train()
    ids = torch.tensor([[[5, 6, 7]]]).expand(1, 12, 3)
    out = training(*tensors, INSTRUCTION, text=ids)
    sum(value.square().mean() for value in out.values()).backward()
    still = [name for name, p in training.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_a_frozen_encoder_stays_as_it_is(tensors):
    frozen = build(vision_model=TINY_DINOV2, freeze_vision=True)
    images = torch.rand(2, 3, 2, 3, 28, 28)
    before = {k: v.clone() for k, v in frozen.encoders.state_dict().items()}
    optimizer = torch.optim.AdamW(frozen.parameters(), lr=0.1, weight_decay=0.1)
    frozen.train()
    frozen(images, torch.zeros(2, 3, 4), INSTRUCTION)["actions"].square().sum().backward()
    optimizer.step()
    assert not any(module.training for module in frozen.encoders[0].modules())
    for name, value in frozen.encoders.state_dict().items():
        assert torch.equal(value, before[name]), name


# -- checkpoints -----------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_for_bit(model, frames, tmp_path):
    model.save_pretrained(tmp_path / "a")
    loaded = VisionLanguageActionModel.from_pretrained(tmp_path / "a")
    assert loaded.config == model.config and loaded.encoder_id == model.encoder_id
    for one, other in zip(drive(model, *frames), drive(loaded, *frames), strict=True):
        assert np.array_equal(one.actions, other.actions)
    assert not list((tmp_path / "a").glob(".*")), "partial files were left behind"


@pytest.mark.parametrize("mixer", ["mamba1", "mamba2"])
def test_a_checkpoint_brings_its_pretrained_encoder(mixer, tmp_path):
    shared = build(vision_model=TINY_DINOV2, freeze_vision=True, mixer=mixer)
    assert len(shared.encoders) == 1, "one pretrained encoder serves both cameras"
    shared.save_pretrained(tmp_path)
    loaded = VisionLanguageActionModel.from_pretrained(tmp_path)
    images, felt = torch.rand(1, 3, 2, 3, 28, 28), torch.zeros(1, 3, 4)
    with torch.no_grad():
        one, other = shared(images, felt, INSTRUCTION), loaded(images, felt, INSTRUCTION)
    assert torch.equal(one["actions"], other["actions"])
    assert not loaded.encoders[0].backbone.training and loaded.encoders[0].frozen


@pytest.mark.parametrize(
    "missing", ["config.json", "statistics.json", "tokenizer.json", "model.safetensors"]
)
def test_a_missing_file_is_named(model, tmp_path, missing):
    model.save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        VisionLanguageActionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "statistics.json", "tokenizer.json", "model.safetensors"]
)
def test_a_truncated_file_is_refused(model, tmp_path, name):
    model.save_pretrained(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{tmp_path}.*damaged"):
        VisionLanguageActionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"d_model": 96},
        {"surprise": 1},
        {"vision": {"model_type": "small", "image_size": 64, "channels": 16}},
        {"keypoints": 9},
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(model, tmp_path, change):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=str(tmp_path)):
        VisionLanguageActionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"action_dim": 5}, {"horizon": 9}, {"wings": 2}])
def test_an_action_configuration_that_does_not_fit_is_refused(model, tmp_path, change):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["action"].update(change)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=str(tmp_path)):
        VisionLanguageActionModel.from_pretrained(tmp_path)


def test_resolve_names_what_ships(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: config.json is missing"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == tmp_path
    with pytest.raises(FileNotFoundError, match="no checkpoint 'nowhere'"):
        resolve("nowhere")


# -- bad input -------------------------------------------------------------------------------------


def test_unknown_words_are_named(model):
    with pytest.raises(ValueError, match="'frobnicate'"):
        model.start("frobnicate the red cube")
    with pytest.raises(ValueError, match="empty"):
        model.start(" ,.")


def test_wrong_images_are_refused(model, frames, tensors):
    images, _ = frames
    with pytest.raises(ValueError, match="camera: expected uint8"):
        model.encode([images[0, 0, :32], images[0, 1]])
    with pytest.raises(ValueError, match="wrist_camera: expected uint8"):
        model.encode([images[0, 0], images[0, 1].astype(np.float32)])
    with pytest.raises(ValueError, match="expected images of camera, wrist_camera"):
        model.encode([images[0, 0]])
    batch, felt = tensors
    with pytest.raises(ValueError, match=r"images \[B, 3, 64, 64\].*got \[12, 3, 64, 32\]"):
        model(batch[..., :32], felt, INSTRUCTION)
    with pytest.raises(ValueError, match="give .B, S, 2, 3, H, W. of camera, wrist_camera"):
        model(batch[:, :, 0], felt, INSTRUCTION)
    with pytest.raises(ValueError, match="NaN"):
        model(torch.full(batch.shape, torch.nan), felt, INSTRUCTION)


def test_wrong_proprioception_and_instructions_are_refused(model, tensors):
    images, felt = tensors
    with pytest.raises(ValueError, match="proprioception .* got nothing"):
        model(images)
    with pytest.raises(ValueError, match=r"tool_x.* got \[1, 12, 3\]"):
        model(images, felt[..., :3], INSTRUCTION)
    with pytest.raises(ValueError, match="NaN"):
        model(images, felt * torch.nan, INSTRUCTION)
    with pytest.raises(ValueError, match="2 instructions for 1 rows"):
        model(images, felt, [INSTRUCTION, INSTRUCTION])


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


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="raise vocab_size"):
        build(vocab_size=50)
    with pytest.raises(ValueError, match="no size 'huge': choose tiny, small"):
        VisionLanguageActionModel.from_size("huge", ARM)


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, millions, width, layers, heads",
    [("small", 50, 384, 12, 6), ("base", 150, 768, 12, 12), ("large", 350, 1024, 24, 16)],
)
def test_sizes_are_what_they_are_called(size, millions, width, layers, heads):
    architecture = {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": 518,
        "patch_size": 14,
    }
    with torch.device("meta"):
        made = VisionLanguageActionModel.from_size(size, ARM, vision_model=architecture)
    count = sum(p.numel() for p in made.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.1)
    assert (made.config.d_model, made.config.n_layers) == (
        SIZES[size]["d_model"],
        SIZES[size]["n_layers"],
    )
