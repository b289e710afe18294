"""Training the policy: data, batches, and a run that is killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.descriptions import SENTENCES, Doing, describe
from vla_ros.scene_language.instructions import COLORS, FAMILIES
from vla_ros.sim.tasks import FIRST_TRAINING_SEED, sample_task
from vla_ros.training.data.simulation import Shard, collect, task_list
from vla_ros.training.data.windows import Windows
from vla_ros.training.policy import Recipe, train

pytestmark = pytest.mark.timeout(240)
RECIPE = Recipe(
    demonstrations=4, learner_episodes=1, rounds=2, steps=4, frames=64, workers=1, save_every=2
)
ACTION = ActionConfig.get_arm_config()
IMAGE_SIZE = 64


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Shard:
    folder = tmp_path_factory.mktemp("data") / "shard"
    tasks = task_list(("reach", "push"), 3, FIRST_TRAINING_SEED)
    return Shard.load(collect(folder, tasks, 0, ACTION, IMAGE_SIZE))


def test_a_shard_holds_whole_episodes_with_labels(shard):
    frames = int(shard.lengths.sum())
    assert len(shard.lengths) == 3 and (shard.succeeded == 1).all()
    assert shard.images.shape == (frames, 2, 64, 64, 3) and shard.images.dtype == np.uint8
    assert shard.actions.shape == (frames, ACTION.horizon, 4)
    assert np.isfinite(shard.actions).all() and np.isfinite(shard.locate).all()
    assert (np.abs(shard.actions[:, 0, :3]) <= 0.0301).all(), "labels are the expert's own bounds"
    seen = np.isfinite(shard.pixels).all(-1)
    assert seen[:, 0, 0].mean() > 0.9, "the front camera sees the object nearly always"
    assert (np.abs(shard.pixels[seen]) <= 1.0).all()
    ends = np.cumsum(shard.lengths)
    for end, length in zip(ends, shard.lengths, strict=True):
        done = shard.done[end - length : end]
        assert done[0] == 0 and done[-1] == 1 and (np.diff(done.astype(int)) >= 0).all()


def test_frames_are_labelled_for_another_instruction_too(shard):
    differs = shard.instruction != shard.other_instruction
    assert differs.mean() > 0.9
    away = np.abs(shard.locate[:, :3] - shard.other_locate[:, :3]).max(axis=1) > 0.3
    assert away.mean() > 0.4, "two in three are about another object"
    moves = np.abs(shard.actions[:, 0] - shard.other_actions[:, 0]).max(axis=1)
    assert (moves[away] > 0.005).mean() > 0.8


def test_frames_say_what_the_expert_does_for_either_instruction(shard):
    for kind in ("", "other_"):
        places = getattr(shard, f"{kind}description")
        assert places.dtype == np.uint16
        for place, text in zip(places, getattr(shard, f"{kind}instruction"), strict=True):
            asked = set(str(text, "ascii").split()) & set(COLORS)
            assert asked == set(SENTENCES[place].split()) & set(COLORS)
    task = sample_task(*task_list(("reach", "push"), 3, FIRST_TRAINING_SEED)[0])
    said = shard.description[: shard.lengths[0]]
    assert SENTENCES[said[0]] == describe(Doing.MOVING, task.goal)
    done = shard.done[: shard.lengths[0]].astype(bool)
    assert {SENTENCES[i] for i in said[done]} == {describe(Doing.FULFILLED, task.goal)}


def test_equal_seeds_give_equal_data(shard, tmp_path):
    tasks = task_list(("reach", "push"), 3, FIRST_TRAINING_SEED)
    again = Shard.load(collect(tmp_path / "again", tasks, 0, ACTION, IMAGE_SIZE))
    for name, value in vars(shard).items():
        assert np.array_equal(value, getattr(again, name), equal_nan=name.endswith("pixels")), name


def test_task_lists_use_every_seed_once():
    tasks = task_list(FAMILIES, 12, 100)
    assert [seed for _, seed in tasks] == list(range(100, 112))
    assert [family for family, _ in tasks[:5]] == list(FAMILIES)


def test_batches_depend_on_seed_and_step_only(shard, tmp_path):
    tasks = task_list(("reach",), 1, FIRST_TRAINING_SEED + 9)
    data = Windows([collect(tmp_path / "00_000", tasks, 0, ACTION, IMAGE_SIZE)])
    first, again, other = data.batch(0, 3, 64), data.batch(0, 3, 64), data.batch(0, 4, 64)
    assert first.instructions == again.instructions
    for name, value in first.tensors.items():
        assert value.nan_to_num(9).equal(again[name].nan_to_num(9)), name
    assert not first["proprioception"].flatten()[:8].equal(other["proprioception"].flatten()[:8])
    for step in range(20):
        batch = data.batch(0, step, 64)
        count, length = batch["mask"].shape
        assert 64 - length < count * length <= 64
        assert batch["mask"][:, 0].eq(1).all(), "every window has at least one real frame"
        assert batch["images"].shape == (count, length, 2, 3, 64, 64)
        assert batch["description"].shape == (count, length)
        assert batch["description"].dtype == torch.int64
        assert 0 <= batch["images"].min() and batch["images"].max() <= 1


def test_a_batch_too_small_for_a_window_is_refused():
    with pytest.raises(ValueError, match="frames is 32"):
        Recipe(frames=32)


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    whole = train(RECIPE, tmp_path / "whole")
    options = [
        f"--{k.replace('_', '-')}={v}" for k, v in vars(RECIPE).items() if v != getattr(Recipe(), k)
    ]
    code = (
        "import argparse; from vla_ros.training import policy; p = argparse.ArgumentParser(); "
        "policy.add_arguments(p); policy.main(p.parse_args())"
    )
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--out", str(killed), *options], start_new_session=True
    )
    progress = killed / "progress.json"
    deadline = time.monotonic() + 120
    while not progress.is_file() or json.loads(progress.read_text())["step"] < 4:
        assert process.poll() is None or progress.is_file(), "the run ended before it began"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    resumed = train(RECIPE, killed)
    one, other = (load_file(path / "model.safetensors") for path in (whole, resumed))
    for name, value in one.items():
        assert value.equal(other[name]), name
    assert (killed / "losses.csv").read_text() == (tmp_path / "whole/losses.csv").read_text()
    assert (killed / "losses.png").is_file()
    VisionLanguageActionModel.from_pretrained(resumed)
