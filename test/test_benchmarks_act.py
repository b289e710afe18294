"""The comparison with ACT, without LeRobot: what is compared, and what travels through the pipe."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import act  # noqa: E402
import act_policies  # noqa: E402
import act_training  # noqa: E402

from vla_ros.scene_language.instructions import Goal  # noqa: E402
from vla_ros.sim.tasks import sample_task  # noqa: E402
from vla_ros.training.data.windows import Windows  # noqa: E402
from vla_ros.training.rollout import Observation  # noqa: E402

# Answers with what it was sent: the first pixel, the proprioception, the goal, whether it is first.
ECHO = """
import json, struct, sys
import numpy as np
out = sys.stdout.buffer
told = {"image_size": 4, "parameters": 7, "horizon": 2, "width": 4}
out.write(json.dumps(told).encode() + b"\\n")
out.flush()
for _ in range(3):
    message = sys.stdin.buffer.read(1 + 96 + 4 * 19)
    if not message:
        break
    numbers = np.frombuffer(message, np.float32, offset=97)
    said = [message[1], message[96], message[0], numbers[4:].argmax(), *numbers[:4]]
    out.write(struct.pack("<d", 0.25) + np.array(said, np.float32).tobytes())
    out.flush()
"""


def test_what_act_is_told():
    code = act_policies.goal_code(Goal("push", "blue", "cylinder", "away"))
    assert code.dtype == np.float32 and code.shape == (15,)
    assert np.flatnonzero(code).tolist() == [1, 5 + 2, 9 + 1, 11 + 2]
    assert act_policies.goal_code(Goal("reach", "red", "cube")).sum() == 3


def test_observations_and_chunks_travel_through_the_pipe(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(ECHO)
    monkeypatch.setattr(act_policies, "WORKER", worker)
    policy = act_policies.Act(Path(sys.executable), tmp_path)
    assert (policy.image_size, policy.parameters) == (4, 7)
    images = [np.full((4, 4, 3), value, np.uint8) for value in (11, 22)]
    felt = np.array([0.5, -0.25, 0.125, 0.04], np.float32)
    task = sample_task("pick", 3)
    actor = policy.start(task)
    for first in (1, 0):
        chunk = actor(Observation(images, felt, None))
        np.testing.assert_array_equal(chunk[0], [11, 22, first, 2])  # 2: pick
        np.testing.assert_array_equal(chunk[1], felt)
    policy.start(task)(Observation(images, felt, None))
    assert policy.seconds == [0.25] * 3
    with pytest.raises((RuntimeError, BrokenPipeError)):
        for _ in range(3):  # the worker has ended
            actor(Observation(images, felt, None))


def test_without_lerobot_the_cure_is_named(tmp_path):
    for python in (Path(sys.executable), tmp_path / "none"):
        with pytest.raises(SystemExit, match="pip install lerobot=="):
            act_policies.check_lerobot(python)


def test_a_run_of_other_options_is_not_gone_on_with(tmp_path):
    act.check_folder(tmp_path, {"minutes": 20.0, "trials": 40})
    act.check_folder(tmp_path, {"minutes": 20.0, "trials": 40})
    with pytest.raises(SystemExit, match="minutes 20.0 not 5.0"):
        act.check_folder(tmp_path, {"minutes": 5.0, "trials": 40})


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demonstrations") / "00_000"
    act_training.demonstrate(folder, [("reach", 1_000_000_000), ("pick", 1_000_000_001)], 64)
    return folder


def test_each_demonstration_has_its_goal(shard):
    goals = np.load(shard / act_training.GOALS)
    lengths = np.load(shard / "lengths.npy")
    texts = np.load(shard / "instruction.npy")[np.cumsum(lengths) - lengths]
    assert goals.shape == (2, 15) and goals[:, :5].argmax(1).tolist() == [0, 2]
    for goal, text in zip(goals, texts, strict=True):
        assert ("red", "green", "blue", "purple")[goal[5:9].argmax()] in str(text, "ascii")


def test_the_same_labels_are_those_of_the_instruction_that_was_followed(shard, tmp_path):
    act_training.without_second_labels(shard, tmp_path / shard.name)
    spoken = set(map(bytes.decode, np.load(shard / "instruction.npy")))
    assert not set(map(bytes.decode, np.load(shard / "other_instruction.npy"))) <= spoken
    windows, steps = Windows([tmp_path / shard.name]), range(12)
    single = [b for b in (windows.batch(0, i, 64) for i in steps) if b["mask"].shape[1] == 1]
    heard = {text for batch in single for text in batch["instruction"]}
    assert single and {text for text in heard if "unk" not in text.split()} <= spoken


def test_steps_that_fit_the_time():
    short, long = act_training.Cost(10, 5.0), act_training.Cost(60, 15.0)  # 3 s, and 0.2 s a step
    assert act_training.steps_for(203.0, short, long) == 1000


def test_the_report_counts_successes():
    def trial(won: int) -> dict:
        verdicts = {f: [[seed, seed < won, ""] for seed in range(4)] for f in act.FAMILIES}
        return {"parameters": 812_159, "verdicts": verdicts, "cost": {"steps": 9, "seconds": 60.4}}

    told = {"lerobot": "0.4.4", "torch": "2.10.0"} | {
        "held_out": {"offset": 0.0123, "mean_offset": 0.0234, "finger": 0.0, "mean_finger": 0.0}
    }
    names = ("act", "cloned", "labelled", "arm", "act-one", "ensembled")
    results = {
        "trials": {name: trial(won) for won, name in enumerate(names[:4])}
        | {name: trial(2) for name in names[4:]},
        "inference_ms": dict.fromkeys(names[:4], (1.25, 2.5)),
        "act": {"act": told, "act-one": told},
    }
    options = argparse.Namespace(
        episodes=300, minutes=20.0, trials=4, seed=0, act_image=64, act_batch=32,
        act_rate=1e-4, act_precision="bf16", one_minutes=10.0,
    )  # fmt: skip
    text = act.report(options, results)
    row = next(line for line in text.splitlines() if line.startswith("| ours, as usually"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["0.81 M", "60", "9"] and cells[-1] == "1.2 / 2.5"
    assert cells[4:9] == ["2/4 (15 to 85 %)"] * 5 and cells[9].startswith("10/20 (")
    assert "12.3 mm" in text and "23.4 mm" in text
