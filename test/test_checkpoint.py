"""Checkpoints with numbers that cannot be are refused, quickly, in one line that names them."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vla_ros.checkpoints import resolve
from vla_ros.models import checkpoint
from vla_ros.models.genie.genie import WorldModel
from vla_ros.models.narrator import Narrator
from vla_ros.models.vlam import VisionLanguageActionModel

MODELS = {"arm": VisionLanguageActionModel, "world": WorldModel, "narrator": Narrator}


def refused(name, folder):
    begin = time.thread_time()
    with pytest.raises((ValueError, OSError)) as told:
        MODELS[name].from_pretrained(folder)
    assert time.thread_time() - begin < 10.0
    text = str(told.value)
    assert str(folder) in text and "\n" not in text and "copy or train it again" in text
    return text


@pytest.fixture
def copy(tmp_path):
    def copy(name):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(resolve(name), folder)

    return copy


def change(folder, file, where, value):
    """Set one value in a JSON file: a path of keys, or a function of the value of before."""
    content = json.loads((folder / file).read_text())
    *outer, last = where.split(".")
    inner = content
    for key in outer:
        inner = inner[key]
    inner[last] = value(np.array(inner[last])).tolist() if callable(value) else value
    (folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["proprioception_std", "action_scale"])
@pytest.mark.parametrize(
    "wrong", [lambda x: 0 * x, lambda x: -x, lambda x: 1e6 * x, lambda x: x * 1e-6]
)
def test_statistics_that_cannot_be_are_refused(copy, name, wrong):
    folder = copy("arm")
    change(folder, "statistics.json", name, wrong)
    assert f"statistics.json: {name} has " in refused("arm", folder)


@pytest.mark.parametrize("name", ["proprioception_mean", "action_offset", "proprioception_std"])
def test_statistics_of_another_shape_or_not_finite_are_refused(copy, name):
    folder = copy("arm")
    change(folder, "statistics.json", name, lambda x: x[..., :-1])
    assert f"{name} has shape" in refused("arm", folder)
    folder = copy("arm")
    change(folder, "statistics.json", name, lambda x: x * np.nan)
    assert f"{name} is not finite" in refused("arm", folder)


def test_statistics_in_other_units_are_taken(copy):
    """Degrees, percent and millimetres; and a dimension of the data that hardly varies."""
    folder = copy("arm")
    change(folder, "statistics.json", "proprioception_std", lambda x: 1e3 * x)
    change(folder, "statistics.json", "action_scale", lambda x: np.full_like(x, 3.2e-4))
    VisionLanguageActionModel.from_pretrained(folder)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_and_named(copy, name, value):
    folder = copy(name)
    weights = load_file(folder / "model.safetensors")
    damaged = sorted(weights)[len(weights) // 2]
    weights[damaged].view(-1)[-1] = value
    save_file(weights, folder / "model.safetensors")
    assert f"{damaged} in model.safetensors is not finite" in refused(name, folder)


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_other_shapes_names_or_types_are_refused_and_named(copy, name):
    folder = copy(name)
    weights = load_file(folder / "model.safetensors")
    first = sorted(k for k, v in weights.items() if v.ndim and v.is_floating_point())[0]
    for changed, said in (
        ({first: torch.zeros(3, 1, 4)}, f"{first} is [3, 1, 4]"),
        ({first: torch.zeros(weights[first].shape, dtype=torch.int8)}, "torch.int8"),
        ({"more": torch.zeros(1)}, "only model.safetensors has more"),
    ):
        save_file(weights | changed, folder / "model.safetensors")
        assert said in refused(name, folder)
    del weights[first]
    save_file(weights, folder / "model.safetensors")
    assert f"has {first}" in refused(name, folder)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("left", [0, 5, 100, 0.5, 0.99])
def test_truncated_weights_are_refused(copy, name, left):
    weights = copy(name) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(left * len(content)) if left < 1 else left])
    refused(name, weights.parent)


def test_a_spread_of_zero_in_a_world_model_is_refused(copy):
    folder = copy("world")
    weights = load_file(folder / "model.safetensors")
    (std,) = [name for name in weights if name.endswith("std")]
    weights[std].zero_()
    save_file(weights, folder / "model.safetensors")
    assert "std" in refused("world", folder)
    folder = copy("world")
    change(folder, "config.json", "calibration", lambda x: 0 * x)
    assert "calibration" in refused("world", folder)


@pytest.mark.parametrize("value", [10**7, 10**12, -1, 1.5, None, "x", [], {}, float("nan")])
@pytest.mark.parametrize(
    ("name", "setting"),
    [("arm", setting) for setting in ("d_model", "n_layers", "text_width", "vocab_size")]
    + [("arm", setting) for setting in ("keypoints", "vision.channels", "vision.image_size")]
    + [("arm", setting) for setting in ("text_layers", "action.horizon")]
    + [("world", setting) for setting in ("dynamics.width", "dynamics.layers", "robot.width")]
    + [("world", "tokenizer.decoder_layers"), ("world", "latent_actions.codes")]
    + [("narrator", "language." + setting) for setting in ("context", "width", "layers", "heads")],
)
def test_settings_that_no_model_has_are_refused_without_its_memory(copy, name, setting, value):
    folder = copy(name)
    change(folder, "config.json", setting, value)
    refused(name, folder)


@pytest.mark.parametrize("value", [0, 10**5, 10**12])
@pytest.mark.parametrize(
    "setting",
    ["tokenizer.window", "latent_actions.encoder_window", "dynamics.window", "longest"],
)
def test_frames_that_nobody_could_hold_are_refused(copy, setting, value):
    folder = copy("world")
    change(folder, "config.json", setting, value)
    assert setting.rpartition("_")[-1].rpartition(".")[-1] in refused("world", folder)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("text", ["", "[]", "null", "7", "{", "[" * 100_000, '{"a": 1}'])
def test_a_configuration_that_is_none_is_refused(copy, name, text):
    folder = copy(name)
    (folder / "config.json").write_text(text)
    refused(name, folder)


def test_what_is_wrong_is_told_in_short_however_long_it_is():
    assert len(str(checkpoint.damaged(Path("arm"), f"no kind {'x' * 100_000}"))) < 1000


def test_what_ships_loads_quickly():
    for name, kind in MODELS.items():
        kind.from_pretrained(resolve(name))
        times = []
        for _ in range(5):
            begin = time.thread_time()
            kind.from_pretrained(resolve(name))
            times.append(time.thread_time() - begin)
        assert min(times) < 1.0
