"""Settings of trainings that cannot work are refused before anything is written."""

import pytest

from vla_ros import cli

SAID = [
    (["policy", "--learning-rate", "nan"], "learning_rate is nan: give a number above 0"),
    (["policy", "--steps", "-1"], "steps is -1"),
    (["policy", "--data", "here", "--robot", "arm", "--steps", "0"], "steps is 0: give 1 or more"),
    (["tokenizer", "--steps", "0"], "steps is 0: give 1 or more"),
    (["narrator", "--steps", "0"], "steps is 0: give 1 or more"),
    (["policy", "--save-every", "0"], "save_every is 0: give 1 or more"),
    (["policy", "--seed", "-1"], "seed is -1: give 0 or more"),
    (["policy", "--threads", "0"], "threads is 0: give 1 or more"),
    (["policy", "--rounds", "0"], "rounds is 0: give 1 or more"),
    (["policy", "--workers", "0"], "workers is 0: give 1 or more"),
    (["policy", "--robot", "arm"], "give --data too"),
    (["policy", "--data", "here"], "--data needs --robot"),
    (["policy", "--data", "here", "--robot", "arm", "--rounds", "2"], "--rounds is not for"),
    (["policy", "--held-out", "0.1"], "--held-out is not for training from the simulator"),
    (["policy", "--data", "nowhere", "--robot", "arm"], "nowhere does not exist"),
    (["policy", "--data", "here", "--robot", "toaster"], "no robot 'toaster'"),
    (["policy", "--data", "here", "--robot", "arm", "--start", "none"], "no checkpoint 'none'"),
    (["policy", "--deepspeed", "none.json"], "--deepspeed none.json is no file"),
    (["tokenizer", "--robot", "arm"], "give --data too"),
    (["tokenizer", "--data", "here", "--robot", "toaster"], "no robot 'toaster'"),
    (["tokenizer", "--frames", "0"], "frames is 0"),
    (["narrator", "--weight-decay", "inf"], "weight_decay is inf"),
]


@pytest.mark.parametrize(("words", "said"), SAID)
def test_wrong_settings_leave_nothing_behind(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert cli.main(["train", *words, "--out", "run"]) == 1
    text = capsys.readouterr().err
    assert said in text and "Traceback" not in text
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]
