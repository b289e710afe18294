"""A small SpatialVLA is trained from nothing: in the simulator, and on a batch."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file

from vla_ros.models.policy import load_policy
from vla_ros.models.spatial_vla.policy import SpatialVLAPolicy
from vla_ros.models.spatial_vla.sizes import SIZES
from vla_ros.training import trainer
from vla_ros.training.recipes import SpatialRecipe
from vla_ros.training.spatial_vla import simulated

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import spatial_overfit

pytestmark = pytest.mark.timeout(480)
SMALL = {"image_size": 64, "patch_size": 16, "hidden": 64, "layers": 2, "vision_layers": 1}


def recipe(**changes):
    told = {
        "demonstrations": 1, "held_out_episodes": 1, "rounds": 1, "learner_episodes": 0, "steps": 4,
        "frames": 64, "workers": 1, "save_every": 2, "loaders": 0, "precision": "fp32",
    }  # fmt: skip
    return SpatialRecipe(**told | changes)


def test_the_simulators_demonstrations_train_a_policy_and_a_run_goes_on_as_it_was(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(SIZES, "small", SMALL)
    with monkeypatch.context() as kept:
        kept.setattr(trainer, "shutil", SimpleNamespace(rmtree=lambda folder: None))  # all is kept
        whole = simulated.train(recipe(size="small"), tmp_path / "whole")
    states = tmp_path / "whole/resume"
    assert {path.name for path in states.iterdir()} == {"step-00000002", "step-00000004"}
    begun = tmp_path / "begun"
    for name in ("data", "run.json", "provenance.json", "losses.csv"):
        if (source := tmp_path / "whole" / name).is_dir():
            (begun / name).parent.mkdir(exist_ok=True)
            shutil.copytree(source, begun / name)
        elif source.exists():
            shutil.copy(source, begun / name)
    shutil.copytree(states / "step-00000002", begun / "resume/step-00000002")
    again = simulated.train(recipe(size="small"), begun)
    weights = [load_file(folder / "model.safetensors") for folder in (whole, again)]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], msg=name)
    model = load_policy(again)
    assert isinstance(model, SpatialVLAPolicy) and model.cameras == ("camera", "wrist_camera")
    images = [np.zeros((64, 64, 3), np.uint8)] * 2
    felt = np.zeros(4, np.float32)
    action = model.start("pick up the red cube").act(model.encode(images), felt)
    assert action.actions.shape == (4, 4)
    assert model.unheard_words("pick the red cube quantumly") == ["quantumly"]
    assert (again.parent / "statistics.json").is_file()


def test_an_unknown_size_is_told_with_those_there_are():
    with pytest.raises(ValueError, match="no size 'huge': choose tabletop"):
        recipe(size="huge")


def test_the_named_sizes_are_small():
    for size in SIZES.values():
        config = simulated.tiny_config(300, [[0, 1024], [1024, 1051], [1051, 1053]], **size)
        with torch.device("meta"):
            model = simulated.SpatialVLAForConditionalGeneration(config)
        assert sum(weight.numel() for weight in model.parameters()) < 20e6


@pytest.mark.skipif("VLA_ROS_RECORDINGS" not in os.environ, reason="no recordings")
def test_a_batch_of_real_recordings_is_learned_by_its_tokens(tmp_path):
    data = Path(os.environ["VLA_ROS_RECORDINGS"], "octo_bridge_rlds/bridge_dataset/1.0.0")
    robot = str(Path(__file__).resolve().parents[1] / "config/widowx.yaml")
    model, batch = spatial_overfit.prepare(robot, [data], SMALL, 6, tmp_path)
    found = spatial_overfit.overfit(model, batch, 150, 5e-3)
    assert found["token_accuracy"] >= 0.99, found
    assert spatial_overfit.generated(model, batch) >= 0.9
