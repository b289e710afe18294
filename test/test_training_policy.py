"""Training the policy: what a run leaves, one that is killed, several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from episodes import episode, reader
from safetensors.torch import load_file

from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.training import dagger, imitation
from vla_ros.training.data.rlds import RldsMapping, open_rlds
from vla_ros.training.data.shards import write_shards
from vla_ros.training.trainer import schedule

pytestmark = pytest.mark.timeout(480)
ROOT = Path(__file__).resolve().parents[1]
SIMULATED = dagger.Recipe(
    demonstrations=2,
    learner_episodes=1,
    rounds=3,
    steps=3,
    frames=64,
    held_out_episodes=1,
    workers=1,
    save_every=2,
)
RECORDED = imitation.Recipe(
    steps=6, frames=64, warmup=2, save_every=2, held_out=0.25, learning_rate=1e-3, loaders=0
)
ROBOT = """
action:
  robot_type: arm
  action_names: [x, y, grip]
  action_bounds: [[-0.1, 0.1], [-0.1, 0.1], [0, 1]]
  binary_names: [grip]
  proprioception_names: [a, b]
  control_mode: end_effector_delta
  horizon: 3
  dt: 0.1
cameras: [front]
"""


def sighted(number: int, length: int = 12):
    """An episode whose action is where the bright square is; it grips where that is left."""
    rng = np.random.default_rng(number)
    places = rng.integers(0, 48, (length, 2))
    pictures = rng.integers(0, 60, (length, 64, 64, 3), dtype=np.uint8)
    for picture, (row, column) in zip(pictures, places, strict=True):
        picture[row : row + 16, column : column + 16] = 250
    offsets = (places - 24) / 240
    actions = np.concatenate([offsets, offsets[:, 1:] < 0], axis=1)
    told = {"actions": actions, "pictures": {"front": reader(pictures)}, "depths": {}}
    return episode(number, length, outcome=True, **told)


@pytest.fixture
def recordings(tmp_path):
    """Shards of eight episodes, and what robot they are of."""
    write_shards(tmp_path / "shards", map(sighted, range(8)), ["front"], 64)
    robot = tmp_path / "robot.yaml"
    robot.write_text(ROBOT)
    return [tmp_path / "shards"], str(robot)


def command(recipe, *options: str) -> list[str]:
    """`vla train policy` with what in `recipe` is no default."""
    given = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in vars(recipe).items()
        if value != getattr(type(recipe)(), name)
    ]
    return ["-m", "vla_ros.cli", "train", "policy", *options, *given]


def kill_after(step: int, out: Path, words: list[str]) -> None:
    """Start a run and kill all of it when it has saved `step`."""
    process = subprocess.Popen([sys.executable, *words, "--out", str(out)], start_new_session=True)
    deadline = time.monotonic() + 400
    while not (out / "resume" / f"step-{step:08d}").exists() and not (out / "checkpoint").exists():
        assert process.poll() is None, "the run ended before it began"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    for name, value in first.items():
        assert value.equal(second[name]), name


# -- from the simulator ----------------------------------------------------------------------------


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    """Killed while the learner's episodes of the first round are collected."""
    whole = dagger.train(SIMULATED, tmp_path / "whole")
    assert {path.name for path in (tmp_path / "whole/data").iterdir()} == {
        "00_000",
        "01_000",
        "99_000",
    }
    killed = tmp_path / "killed"
    for demonstrations in ("00_000", "99_000"):  # equal seeds give equal data
        shutil.copytree(tmp_path / "whole/data" / demonstrations, killed / "data" / demonstrations)
    kill_after(4, killed, command(SIMULATED))
    resumed = dagger.train(replace(SIMULATED, loaders=0), killed)
    assert_equal_weights(whole, resumed)
    assert_equal_weights(tmp_path / "whole/best", killed / "best")
    assert (killed / "losses.csv").read_text() == (tmp_path / "whole/losses.csv").read_text()
    assert (killed / "losses.png").is_file()
    VisionLanguageActionModel.from_pretrained(resumed)


def test_a_failure_to_collect_ends_the_run(tmp_path):
    """The shard's name is taken by a file."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.99_000.partial").touch()
    with pytest.raises(RuntimeError, match="collecting held-out episodes failed: FileExistsError"):
        dagger.train(replace(SIMULATED, demonstrations=1), tmp_path)


def test_a_batch_too_small_for_a_window_is_refused():
    for recipe in (dagger.Recipe, imitation.Recipe):
        with pytest.raises(ValueError, match="frames is 32"):
            recipe(frames=32)


# -- from recordings -------------------------------------------------------------------------------


def test_a_killed_run_from_recordings_resumes_to_the_same_weights(recordings, tmp_path):
    data, robot = recordings
    whole = imitation.train(RECORDED, data, robot, tmp_path / "whole")
    killed = tmp_path / "killed"
    kill_after(2, killed, command(RECORDED, "--data", str(data[0]), "--robot", robot))
    resumed = imitation.train(replace(RECORDED, loaders=1), data, robot, killed)
    assert_equal_weights(whole, resumed)
    assert (killed / "losses.csv").read_text() == (tmp_path / "whole/losses.csv").read_text()
    assert imitation.train(RECORDED, data, robot, killed) == resumed, "what is done stays done"
    assert_equal_weights(whole, resumed)


def test_a_run_leaves_nothing_that_needs_unpickling_and_one_state(recordings, tmp_path):
    pytest.importorskip("tensorboard")
    imitation.train(RECORDED, *recordings, tmp_path / "run", tensorboard=True)
    files = {path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*.*")}
    kinds = {path.suffix for path in files if "tensorboard" not in path.parts}
    assert kinds == {".safetensors", ".json", ".csv", ".png"}
    assert any("tfevents" in path.name for path in files)
    assert [path.name for path in (tmp_path / "run/resume").iterdir()] == ["step-00000006"]


def test_the_best_weights_are_kept(recordings, tmp_path, monkeypatch):
    """Held-out losses that fall, then rise: what is kept is the lowest's."""
    kept = {}
    measured = imitation.PolicyTrainer.evaluate

    def evaluate(self, *arguments, **options):
        step = self.state.global_step
        kept[step] = {k: v.clone() for k, v in self.model.policy.state_dict().items()}
        return measured(self, *arguments, **options) | {"eval_loss": abs(step - 4)}

    monkeypatch.setattr(imitation.PolicyTrainer, "evaluate", evaluate)
    imitation.train(RECORDED, *recordings, tmp_path / "run")
    best = load_file(tmp_path / "run/best/model.safetensors")
    assert all(value.equal(kept[4][name]) for name, value in best.items())
    assert not all(value.equal(kept[6][name]) for name, value in best.items())


def test_another_run_is_not_continued(recordings, tmp_path):
    imitation.train(replace(RECORDED, steps=2), *recordings, tmp_path / "run")
    with pytest.raises(ValueError, match=r"learning_rate 0\.001 not 0\.002"):
        imitation.train(
            replace(RECORDED, steps=2, learning_rate=2e-3), *recordings, tmp_path / "run"
        )


def test_a_policy_learns_from_recordings_what_it_sees(recordings, tmp_path):
    """Gripping depends on the picture alone; heads without labels are left as they were."""
    recipe = replace(RECORDED, steps=120, save_every=60, warmup=10, learning_rate=2e-3)
    best = imitation.train(recipe, *recordings, tmp_path / "run").with_name("best")
    model = VisionLanguageActionModel.from_pretrained(best)
    trained, held = imitation.split(imitation.load(recordings[0][0]), recipe.held_out)
    assert len(held) == 2 and len(trained) == 6
    errors, of_mean = imitation.held_out_errors(model, trained, held)
    assert errors[0, 2] < 0.7 * of_mean[0, 2], "now"
    assert errors.shape == (3, 3)
    rows = (tmp_path / "run/losses.csv").read_text().splitlines()
    assert rows[0] == "step,motion,decision,done,held_out"


def test_a_policy_goes_on_from_another(recordings, tmp_path):
    first = imitation.train(replace(RECORDED, steps=2), *recordings, tmp_path / "first")
    again = (replace(sighted(i), instruction="pick up the 3. cube") for i in range(8, 12))
    write_shards(tmp_path / "more", again, ["front"], 64)
    still = replace(RECORDED, steps=1, start=str(first), learning_rate=1e-9)
    second = imitation.train(still, [tmp_path / "more"], recordings[1], tmp_path / "second")
    for name in ("statistics.json", "config.json", "tokenizer.json"):
        assert (second / name).read_text() == (first / name).read_text()
    before, after = (load_file(path / "model.safetensors") for path in (first, second))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-7)


def test_a_policy_goes_on_with_the_words_of_new_recordings(recordings, tmp_path, capsys):
    first = imitation.train(replace(RECORDED, steps=1), *recordings, tmp_path / "first")
    said = "нажми 2", "нажми 3", "carrying the cube"
    again = (replace(sighted(i), instruction=said[i % 3]) for i in range(4))
    write_shards(tmp_path / "more", again, ["front"], 64)
    still = replace(RECORDED, steps=1, start=str(first), learning_rate=1e-9)
    with pytest.raises(ValueError, match="unknown words 'нажми', '9'"):
        VisionLanguageActionModel.from_pretrained(first).start("нажми 2 9")
    second = imitation.train(still, [tmp_path / "more"], recordings[1], tmp_path / "second")
    assert "learns 2 new words: carrying, нажми" in capsys.readouterr().err
    old, new = (VisionLanguageActionModel.from_pretrained(path) for path in (first, second))
    tokens, felt = np.random.default_rng(0).normal(size=old.grid), np.zeros(2)
    text = "pick up the 1. cube"
    chunks = [model.start(text).act(tokens, felt).actions for model in (old, new)]
    np.testing.assert_allclose(*chunks, atol=1e-5)
    ids = {tuple(new._token_ids(text, 1)[0].tolist()) for text in said}
    assert len(ids) == 3


def test_a_policy_without_instructions_heeds_none(recordings, tmp_path, capsys):
    silent = (replace(sighted(i), instruction="") for i in range(4))
    write_shards(tmp_path / "silent", silent, ["front"], 64)
    data = [tmp_path / "silent"]
    once = replace(RECORDED, steps=1)
    folder = imitation.train(once, data, recordings[1], tmp_path / "run")
    assert "no episode has an instruction" in capsys.readouterr().err
    model = VisionLanguageActionModel.from_pretrained(folder)
    assert not model.config.language_conditioned and model.unheard_words("mach das") == []
    tokens, felt = np.random.default_rng(0).normal(size=model.grid), np.zeros(2)
    chunks = [model.start(text).act(tokens, felt).actions for text in (None, "mach das", "2")]
    for chunk in chunks[1:]:
        np.testing.assert_array_equal(chunk, chunks[0])
    told = imitation.train(once, *recordings, tmp_path / "told")
    with pytest.raises(ValueError, match="no episode has an instruction, and .* follows instruct"):
        imitation.train(replace(once, start=str(told)), data, recordings[1], tmp_path / "never")
    learnt = imitation.train(replace(once, start=str(folder)), *recordings, tmp_path / "learnt")
    assert VisionLanguageActionModel.from_pretrained(learnt).config.language_conditioned


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_recordings_are_trained_on(recordings, tmp_path, capsys, count):
    write_shards(tmp_path / "few", map(sighted, range(count)), ["front"], 64)
    recipe = imitation.Recipe(steps=1, frames=64, warmup=1, save_every=1, loaders=0)
    out = imitation.train(recipe, [tmp_path / "few"], recordings[1], tmp_path / "run")
    assert f"{count} episodes, {12 * count} frames: 0 held out, as" in capsys.readouterr().err
    VisionLanguageActionModel.from_pretrained(out)


def test_a_run_that_failed_before_it_began_blocks_nothing(recordings, tmp_path):
    data, robot = recordings
    good = Path(robot).read_text()
    Path(robot).write_text(good.replace("dt: 0.1", "dt: 0.2"))
    with pytest.raises(ValueError, match="its dt is 0.1"):
        imitation.train(RECORDED, data, robot, tmp_path / "run")
    Path(robot).write_text(good)
    once = replace(RECORDED, steps=1, held_out=0.5)
    assert imitation.train(once, data, robot, tmp_path / "run").is_dir()


def test_a_run_goes_on_with_its_own_data_alone(recordings, tmp_path):
    data, robot = recordings
    once = replace(RECORDED, steps=1)
    imitation.train(once, data, robot, tmp_path / "run")
    Path(robot).write_text(Path(robot).read_text().replace("horizon: 3", "horizon: 2"))
    with pytest.raises(ValueError, match=r"other data: robot.action.horizon is 2, not 3: name"):
        imitation.train(once, data, robot, tmp_path / "run")


def test_a_policy_of_another_robot_is_not_gone_on_from(recordings, tmp_path):
    with pytest.raises(ValueError, match="arm is of another robot: its action_dim is 4, not 3"):
        imitation.train(replace(RECORDED, start="arm"), *recordings, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="no checkpoint 'nowhere'"):
        imitation.train(replace(RECORDED, start="nowhere"), *recordings, tmp_path / "other")
    with pytest.raises(ValueError, match="leave out either start or those"):
        replace(RECORDED, start="arm", size="small")


def test_failures_are_not_learnt_from(tmp_path):
    tried = [replace(sighted(i), outcome=outcome) for i, outcome in enumerate((True, False, None))]
    write_shards(tmp_path / "some", tried, ["front"], 64)
    assert [e.outcome for e in imitation.load(tmp_path / "some")] == [True, None]
    write_shards(tmp_path / "none", tried[1:2], ["front"], 64)
    with pytest.raises(ValueError, match="no episode to learn from; 1 failed"):
        imitation.load(tmp_path / "none")


def test_numbers_out_of_the_robots_bounds_are_refused(recordings, tmp_path):
    data, robot = recordings
    Path(robot).write_text(ROBOT.replace("[-0.1, 0.1], [-0.1, 0.1]", "[-0.1, 0.1], [-0.01, 0.01]"))
    with pytest.raises(ValueError, match="y lies between .* same unit"):
        imitation.train(RECORDED, data, robot, tmp_path / "run")
    Path(robot).write_text(ROBOT.replace("[-0.1, 0.1], [-0.1, 0.1]", "[-0.1, 0.1], [-0.09, 0.09]"))
    assert imitation.train(replace(RECORDED, steps=1), data, robot, tmp_path / "slightly").is_dir()


def test_two_processes_train_one_model(recordings, tmp_path):
    data, robot = recordings
    words = command(
        RECORDED, "--data", str(data[0]), "--robot", robot, "--out", str(tmp_path / "2")
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*launcher, *words], capture_output=True, text=True)
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if "rror" in line]
    two = load_file(tmp_path / "2/checkpoint/model.safetensors")
    alone = imitation.train(RECORDED, data, robot, tmp_path / "1")
    one = load_file(alone / "model.safetensors")
    assert not all(value.equal(one[name]) for name, value in two.items()), "twice the data"
    state = json.loads((tmp_path / "2/resume/step-00000006/trainer_state.json").read_text())
    assert state["global_step"] == 6


@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed_configurations_load(stage):
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    config = HfDeepSpeedConfig(str(ROOT / f"config/deepspeed_zero{stage}.json"))
    assert config.is_zero2() == (stage == 2) and not config.is_offload()
    assert config.get_value("zero_optimization.stage") == stage


def test_the_learning_rate_warms_up_and_falls():
    rates = [schedule(step, 10, 100) for step in range(100)]
    assert rates[9] == 1.0 == max(rates) and rates[0] == 0.1
    assert rates[9:] == sorted(rates[9:], reverse=True) and 0.02 < rates[-1] < 0.03


@pytest.mark.skipif(
    "VLA_ROS_RECORDINGS" not in os.environ, reason="VLA_ROS_RECORDINGS names no folder"
)
def test_bridge_is_learnt(tmp_path):
    """Real recordings: the loss falls, and episodes that were held out are predicted better than
    by the mean action."""
    data = Path(os.environ["VLA_ROS_RECORDINGS"], "octo_bridge_rlds/bridge_dataset/1.0.0")
    recipe = imitation.Recipe(
        steps=40, frames=128, warmup=20, save_every=10, held_out=0.2, learning_rate=5e-4
    )
    robot = str(ROOT / "config/widowx.yaml")
    best = imitation.train(recipe, [data], robot, tmp_path).with_name("best")
    state = json.loads((tmp_path / "resume/step-00000040/trainer_state.json").read_text())
    held_out = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert min(held_out[1:]) < held_out[0]
    mapping = RldsMapping(dt=0.2)
    originals = {e.actions.tobytes(): e for e in open_rlds(data, mapping)}
    assert len(originals) == 25
    trained, held = imitation.split(imitation.load(tmp_path / "data"), 0.2)
    assert not {e.actions.tobytes() for e in trained} & {e.actions.tobytes() for e in held}
    model = VisionLanguageActionModel.from_pretrained(best)
    errors, of_mean = imitation.held_out_errors(model, trained, held)
    spread = np.concatenate([e.actions for e in trained]).std(0) ** 2
    assert (errors / spread).mean() < (of_mean / spread).mean()
    assert torch.isfinite(torch.tensor(errors)).all()
