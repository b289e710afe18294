"""The training programs of SpatialVLA: what they learn from, leave, go on from, and refuse."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

import spatial_training
import tiny_spatial_vla as tiny
import torch
from episodes import episode, reader
from safetensors.torch import load_file
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from vla_ros.models.spatial_vla.modeling import SpatialVLAForConditionalGeneration
from vla_ros.models.spatial_vla.policy import SpatialVLAPolicy
from vla_ros.models.spatial_vla.processor import SpatialVLAProcessor
from vla_ros.models.spatial_vla.text import small_text_tokenizer
from vla_ros.training.data.bag_to_rlds import write_rlds
from vla_ros.training.data.shards import write_shards
from vla_ros.training.spatial_vla import beginnings, finetune, pretrain
from vla_ros.training.spatial_vla.arguments import run
from vla_ros.training.spatial_vla.trainer import newest_checkpoint

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper_open")
ROBOT = """
action:
  robot_type: arm
  action_names: [x, y, z, roll, pitch, yaw, gripper_open]
  action_bounds: [[-1, 1], [-1, 1], [-1, 1], [-1, 1], [-1, 1], [-1, 1], [0, 1]]
  binary_names: [gripper_open]
  control_mode: end_effector_delta
  horizon: 8
  dt: 0.2
cameras: [camera]
"""
MIXTURE = """
datasets:
  one: {dt: 0.2, cameras: [steps/observation/camera]}
  other:
    dt: 0.2
    cameras: [steps/observation/camera]
    convention: {gripper: {place: 6, closed: 1, open: 0}}
mixtures: {both: {one: 1, other: 0.5}}
"""
QUICK = ["--max_steps", "4", "--save_steps", "2", "--logging_steps", "1", "--use_cpu", "true"]
QUICK += ["--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "4"]
QUICK += ["--learning_rate", "1e-3", "--disable_tqdm", "true", "--dataloader_pin_memory", "false"]


def recorded(number, length=8):
    rng = np.random.default_rng(number)
    actions = rng.normal(0.0, 0.1, (length, 7))
    actions[:, 6] = rng.integers(0, 2, length)
    pictures = rng.integers(0, 256, (length, 60, 64, 3), dtype=np.uint8)
    return episode(
        number,
        length,
        instruction="pick the cube" if number % 2 else "open the drawer",
        action_names=NAMES,
        proprioception_names=(),
        proprioception=np.zeros((length, 0)),
        control_mode="end_effector_delta",
        dt=0.2,
        stamps=0.2 * np.arange(length),
        actions=actions,
        pictures={"camera": reader(pictures)},
        depths={},
        outcome=None,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A folder with two datasets and their mixture, and a robot with its recordings."""
    folder = tmp_path_factory.mktemp("told")
    for name, first in (("one", 0), ("other", 10)):
        made = write_rlds(folder / "rlds", name, map(recorded, range(first, first + 5)))
        (made / "metadata.json").unlink()  # as somebody else's
    (folder / "mixture.yaml").write_text(MIXTURE)
    (folder / "robot.yaml").write_text(ROBOT)
    write_shards(folder / "shards", map(recorded, range(20, 25)), ["camera"], 56)
    return folder


def pretrained(told, out, *more):
    words = ["--data_mix", str(told / "mixture.yaml"), "--data_root_dir", str(told / "rlds")]
    return run(pretrain.main, [*words, "--output_dir", str(out), *QUICK, *map(str, more)])


def finetuned(told, base, out, *more):
    words = ["--data", str(told / "shards"), "--robot", str(told / "robot.yaml")]
    words += ["--model_name_or_path", str(base), "--output_dir", str(out)]
    return run(finetune.main, [*words, *QUICK, *map(str, more)])


@pytest.fixture(scope="module")
def base(told, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "base"
    assert pretrained(told, out) == 0
    return out


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_mixture_makes_a_model_with_the_statistics_of_each_dataset(base):
    processor = SpatialVLAProcessor.from_pretrained(base / "checkpoint")
    assert set(processor.statistics) == {"one", "other"}
    model = SpatialVLAForConditionalGeneration.from_pretrained(base / "checkpoint")
    processor.check(model.config)
    assert not (base / "checkpoint" / "policy.json").exists()  # it is of no robot
    table = (base / "losses.csv").read_text().splitlines()
    assert table[0] == "step,loss,held_out" and len(table) == 5
    assert table[2].split(",")[2] and table[4].split(",")[2]  # held-out episodes, at each save
    ones = np.array(processor.statistics["one"]["action"]["mean"])
    assert 0 < ones[6] < 1 and np.abs(ones[:6]).max() < 0.1
    state = json.loads((base / "checkpoint-4" / "trainer_state.json").read_text())
    assert any("eval_token_accuracy" in entry for entry in state["log_history"])


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(told, base, tmp_path, capsys):
    out = shutil.copytree(base, tmp_path / "cut")
    shutil.rmtree(out / "checkpoint")
    (out / "checkpoint-4" / "trainer_state.json").unlink()  # cut off while it was written
    assert pretrained(told, out) == 0
    assert "checkpoint-4 was cut off" in capsys.readouterr().err
    one, other = weights(base / "checkpoint"), weights(out / "checkpoint")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert newest_checkpoint(out).name == "checkpoint-4"
    assert pretrained(told, out, "--learning_rate", "1e-4") == 1
    error = capsys.readouterr().err
    assert "holds a run with" in error and "learning_rate 0.001 not 0.0001" in error


def test_adapters_of_a_robot_become_a_policy(told, base, tmp_path):
    out = tmp_path / "lora"
    more = ["--lora", 4, "--lora_target", "language", "--unnorm_key", "mine"]
    assert finetuned(told, base / "checkpoint", out, *more) == 0
    adapters = json.loads((out / "adapters" / "adapter_config.json").read_text())
    assert adapters["r"] == 4 and adapters["base_model_name_or_path"] == str(base / "checkpoint")
    policy = SpatialVLAPolicy.from_pretrained(out / "checkpoint")
    assert policy.statistics_key == "mine" and policy.cameras == ("camera",)
    assert policy.action_config.horizon == 4 and "drawer" in policy.contract.words
    assert set(policy.processor.statistics) == {"one", "other", "mine"}
    before, after = weights(base / "checkpoint"), weights(out / "checkpoint")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("language_model.layers" in name for name in moved)
    cut = out / "checkpoint-4" / "trainer_state.json"
    cut.unlink()
    shutil.rmtree(out / "checkpoint")
    assert finetuned(told, base / "checkpoint", out, *more) == 0  # adapters go on, too
    again = weights(out / "checkpoint")
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_a_new_grid_is_fitted_and_what_is_frozen_stays(told, base, tmp_path):
    out = tmp_path / "full"
    more = ["--adapt_emb", "fit", "--freeze_vision_tower", "true", "--activation_checkpointing"]
    assert finetuned(told, base / "checkpoint", out, *more) == 0
    policy = SpatialVLAPolicy.from_pretrained(out / "checkpoint")
    old = SpatialVLAProcessor.from_pretrained(base / "checkpoint")
    assert policy.statistics_keys == ("robot",)  # those of the old grid do not hold any more
    assert policy.processor.action_encoding != old.action_encoding
    before, after = weights(base / "checkpoint"), weights(out / "checkpoint")
    vision = [name for name in before if "vision_tower" in name]
    assert vision and all(torch.equal(before[name], after[name]) for name in vision)
    words = "model.language_model.embed_tokens.weight"
    assert torch.equal(before[words], after[words])
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


def test_settings_may_come_from_a_file(told, base, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text(f"data: [{told}/shards]\nrobot: {told}/robot.yaml\nmodel_name: x\n")
    assert run(finetune.main, [str(path)]) == 1
    assert "model_name is not known: did you mean model_name_or_path?" in capsys.readouterr().err
    path.write_text(
        f"data: [{told}/shards]\nrobot: {told}/robot.yaml\nmodel_name_or_path: {tmp_path}/none\n"
    )
    assert run(finetune.main, [str(path)]) == 1
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--data": None}, "give either --data with --robot, or --data_mix"),
        ({"--robot": None}, "--data needs --robot"),
        ({"--data": "nowhere"}, "nowhere does not exist"),
        ({"--robot": "r2d2"}, "no robot 'r2d2'"),
        ({"--robot": "joint_arm"}, "panda_joint1 is none of x, y, z"),
        ({"--model_name_or_path": None}, "--model_name_or_path is missing"),
        ({"--model_name_or_path": "nowhere"}, "no checkpoint nowhere: give a folder"),
        ({"--lora": "4", "--lora_target": "q_porj"}, "no linear layer .* 'q_porj'"),
        ({"--lora": "-1"}, "rank of adapters is -1"),
        ({"--unnorm_key": "one", "--adapt_emb": "fit"}, "statistics 'one' are the checkpoint's"),
        ({"--adapt_emb": "grid.json"}, "grid.json is no file: give a grid of vla fit-actions"),
        ({"--prompt": "do it"}, "must have {} once"),
        ({"--held_out": "1"}, "--held_out is 1"),
        ({"--fsdp": "true"}, "start it by torchrun"),
        ({"--fsdp": "true", "--fsdp_config": "none.json"}, "none.json is no file|no such file"),
    ],
)
def test_wrong_arguments_give_one_clear_error(told, base, tmp_path, capsys, change, message):
    given = {
        "--data": str(told / "shards"),
        "--robot": str(told / "robot.yaml"),
        "--model_name_or_path": str(base / "checkpoint"),
        "--output_dir": str(tmp_path / "out"),
        **change,
    }
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    assert run(finetune.main, [*words, *QUICK]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0], re.IGNORECASE), lines[0]
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_datasets_that_are_not_there_are_told_together(told, tmp_path, capsys):
    words = ["--data_mix", "oxe_spatial_vla_plus", "--data_root_dir", str(told / "rlds")]
    assert run(pretrain.main, [*words, "--output_dir", str(tmp_path / "out")]) == 1
    assert "lacks datasets of oxe_spatial_vla_plus: all of them" in capsys.readouterr().err
    assert run(pretrain.main, ["--data_mix", "bridge_ori", *words[2:]]) == 1
    assert "'bridge_ori': did you mean bridge_orig?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_not_installed_is_told_with_the_command(told, base, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert finetuned(told, base / "checkpoint", tmp_path / "out", "--lora", 4) == 1
    assert "pip install 'vla_ros[lora]'" in capsys.readouterr().err
    if importlib.util.find_spec("deepspeed") is None:
        config = ROOT / "config/training/zero2.json"
        assert finetuned(told, base / "checkpoint", tmp_path / "o", "--deepspeed", config) == 1
        assert "pip install 'vla_ros[deepspeed]'" in capsys.readouterr().err


def test_pretraining_begins_from_paligemma_s_weights(tmp_path):
    """The words and images are PaliGemma's; action tokens begin as its words are on average."""
    processor = tiny.processor()
    ours = tiny.model(processor, geometry_dim=0).config
    words = processor.action_token_begin_idx
    text = {**ours.text_config.to_dict(), "vocab_size": words, "tie_word_embeddings": True}
    config = PaliGemmaConfig(
        vision_config=ours.vision_config.to_dict(),
        text_config=text,
        projection_dim=ours.projection_dim,
        image_token_index=processor.image_token_id,
    )
    torch.manual_seed(0)
    PaliGemmaForConditionalGeneration(config).save_pretrained(tmp_path / "pali")
    small_text_tokenizer(tiny.SENTENCES, size=300).save_pretrained(tmp_path / "pali")
    size = beginnings.image_size_of(str(tmp_path / "pali"), "tiny")
    model, made = beginnings.make(
        str(tmp_path / "pali"), "tiny", tiny.action_tokenizer(), tiny.STATISTICS, [], 4
    )
    assert size == tiny.SIZE and made.action_token_begin_idx == words
    made.check(model.config)
    theirs = load_file(tmp_path / "pali" / "model.safetensors")
    state = model.state_dict()
    table = next(value for name, value in theirs.items() if name.endswith("embed_tokens.weight"))
    assert torch.equal(state["model.language_model.embed_tokens.weight"][:words], table)
    assert torch.equal(state["lm_head.weight"][:words], table)
    assert torch.equal(model.spatial_embed_tokens.weight, state["lm_head.weight"][words:])
    with pytest.raises(ValueError, match="is of type 'spatialvla': give a folder of PaliGemma 2"):
        model.save_pretrained(tmp_path / "other")
        beginnings.image_size_of(str(tmp_path / "other"), "tiny")


SCRIPTS = ROOT / "training" / "scripts"


def script(name, *more, **variables):
    paths = os.pathsep.join(filter(None, sys.path))
    folder = str(Path(sys.executable).parent)
    return subprocess.run(
        ["bash", str(SCRIPTS / name), *map(str, more)],
        env={**os.environ, "PYTHONPATH": paths, "PATH": f"{folder}:{os.environ['PATH']}"}
        | {"OMP_NUM_THREADS": "1", **{key: str(value) for key, value in variables.items()}},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_the_script_of_adapters_trains_them(told, base, tmp_path):
    more = {"GPUS": 1, "SHARDING": "none", "OUT": tmp_path / "out", "BATCH": 2, "LORA": 2}
    done = script(
        *("spatialvla_4b_finetune/finetune_lora.sh", *QUICK, "--max_steps", 1),
        *("--bf16", "false", "--dataloader_num_workers", 0),
        **{"MODEL": base / "checkpoint", "DATA": told / "shards", "ROBOT": told / "robot.yaml"},
        **more,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    adapters = json.loads((tmp_path / "out" / "adapters" / "adapter_config.json").read_text())
    assert adapters["r"] == 2 and adapters["lora_alpha"] == 32
    assert (tmp_path / "out" / "checkpoint" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "variables", "message"),
    [
        ("spatialvla_4b_pretrain/torchrun_pretrain.sh", {}, "set VLM: folder of PaliGemma 2"),
        ("spatialvla_4b_finetune/finetune_full.sh", {}, "set MODEL: checkpoint folder"),
        ("spatialvla_4b_finetune/finetune_full.sh", {"MODEL": 1, "DATA": 1}, "set ROBOT: "),
        ("spatialvla_4b_finetune/finetune_lora.sh", {"SHARDING": "zero4"}, "choose none, zero1"),
        (
            "spatialvla_4b_pretrain/torchrun_pretrain.sh",
            {"VLM": 1, "DATA": 1, "NODES": 2},
            "set MASTER_ADDR: address of the first machine",
        ),
        (
            "spatialvla_4b_pretrain/slurm_pretrain.sh",
            {"SCRIPTS": "/nowhere"},
            "not in /nowhere: set SCRIPTS",
        ),
    ],
)
def test_scripts_tell_what_has_to_be_set(name, variables, message):
    done = script(name, **variables)
    assert done.returncode == 1 and message in done.stderr


def test_slurm_starts_one_launcher_a_machine(tmp_path):
    for name, text in (("scontrol", "echo first; echo second"), ("srun", 'echo "$MASTER_ADDR $*"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    folder = SCRIPTS / "spatialvla_4b_pretrain"
    done = subprocess.run(
        ["bash", str(folder / "slurm_pretrain.sh"), "--max_steps", "3"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SCRIPTS": str(folder)}
        | {"SLURM_JOB_NODELIST": "first,second", "SLURM_NNODES": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("first --kill-on-bad-exit=1")
    assert done.stdout.rstrip().endswith("torchrun_pretrain.sh --max_steps 3")


SHARDED = {
    "two processes": {},
    "FSDP2": {"fsdp": True, "fsdp_config": str(ROOT / "config/training/fsdp2.json")},
    "ZeRO-2": {"deepspeed": str(ROOT / "config/training/zero2.json")},
}


@pytest.mark.parametrize("kind", SHARDED)
def test_two_processes_give_the_curve_of_one(kind, tmp_path):
    if kind == "ZeRO-2" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: pip install 'vla_ros[deepspeed]'")
    alone = spatial_training.trainer(tmp_path / "alone")
    alone.train()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    program = str(Path(__file__).parent / "spatial_training.py")
    settings = json.dumps({"world": 2, **SHARDED[kind]})
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [*command, program, str(tmp_path), settings],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    wanted = spatial_training.losses(alone)
    assert len(wanted) == 8 and wanted[0] - wanted[-1] > 0.5
    told = json.loads((tmp_path / "told.json").read_text())
    np.testing.assert_allclose(told["losses"], wanted, atol=1e-4, rtol=0)
    assert told["sharded"] == (kind == "FSDP2")
    # What they leave is whole.
    one, other = alone.model.state_dict(), weights(tmp_path / "checkpoint")
    assert one.keys() == other.keys()
    for name, weight in other.items():
        torch.testing.assert_close(weight, one[name], atol=1e-3, rtol=1e-3)
