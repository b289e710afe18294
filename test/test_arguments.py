"""Wrong arguments of every command are told at once, in one line, and leave nothing behind."""

import json
import subprocess
import sys

import pytest

from vla_ros import cli

HEAVY = ("torch", "mujoco", "transformers", "accelerate", "matplotlib")
COMMANDS = [*cli._COMMANDS]
REQUIRED = {
    ("bag", "from-rlds"): ["recordings", "new"],
    ("bag", "report"): ["recordings"],
    ("bag", "to-rlds"): ["recordings", "new", "--name", "toys"],
    ("fit-actions",): ["--data", "recordings", "--robot", "arm"],
    ("imagine",): ["--plan"],
    ("record",): ["new"],
}
RECORDED = ["--data", "recordings", "--robot", "arm"]


def test_what_takes_seconds_to_import_is_imported_after_the_arguments_are_checked():
    """Of each command in one process: its parser, and a command line that is refused."""
    code = f"""
import json, sys
from vla_ros import cli
heavy = {{}}
for words in cli._COMMANDS:
    cli._parser(words)
    heavy[" ".join(words)] = [name for name in {HEAVY} if name in sys.modules]
for words in (["eval", "--checkpoint", "nowhere"], ["imagine", "--plan", "--seed", "-1"],
              ["demo", "--episodes", "0"], ["train", "policy", "--steps", "-1"],
              ["train", "dynamics", "--size", "huge"], ["train", "narrator", "--size", "huge"]):
    assert cli.main(words) == 1
    heavy[" ".join(words)] = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {words: names for words, names in json.loads(done.stdout).items() if names}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with files and folders that are not what is asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    (tmp_path / "file.txt").write_text("no recording, no checkpoint\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "rates.json").write_text('{"success": {"reach": "all"}}')
    return tmp_path


def refused(words, place, capsys) -> str:
    """The one line that says why a command line is refused."""
    before = sorted(place.rglob("*"))
    try:
        code = cli.main(words)
    except SystemExit as ended:
        code = ended.code
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if "error: " in line]
    assert code in (1, 2) and len(lines) == 1, f"{code}: {text}"
    assert "Traceback" not in text
    assert sorted(place.rglob("*")) == before, "something was left behind"
    return lines[0]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("wrong", ["--unheard", "--out=", "--seed=1e9", "--robot"])
def test_options_that_no_command_takes_are_told(words, wrong, place, capsys):
    refused([*words, *REQUIRED.get(words, []), wrong], place, capsys)


OUT = [words for words in COMMANDS if words[0] in ("demo", "imagine", "train")]


@pytest.mark.parametrize("words", OUT, ids=" ".join)
def test_a_file_is_no_folder_to_write_to(words, place, capsys):
    for out in ("file.txt", "file.txt/run"):
        line = refused([*words, *REQUIRED.get(words, []), "--out", out], place, capsys)
        assert "file.txt" in line and "name a" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("demo --checkpoint=", "no checkpoint ''"),
        ("demo --checkpoint file.txt", "no checkpoint 'file.txt'"),
        ("demo --checkpoint recordings", "recordings holds no checkpoint"),
        ("demo --narrator nobody", "no checkpoint 'nobody'"),
        ("demo --episodes 1000000000", "give 1 or more, 100000 at most"),
        ("eval --json recordings", "--json recordings is a folder"),
        ("eval --json file.txt/a.json", "file.txt is a file, not a folder"),
        ("eval --plot page", "page is no picture"),
        ("eval --workers 1000000", "give 1 to 1024"),
        ("eval --families juggle", "invalid choice: 'juggle'"),
        ("eval --condition fog", "unknown condition 'fog'"),
        ("eval --compare binary", "binary is no text"),
        ("eval --compare list.json", "list.json has no success rates"),
        ("eval --compare rates.json", "rates.json has no success rates"),
        ("eval --compare deep.json", "deep.json is no JSON: nested too deeply"),
        ("eval --phrasings recordings", "recordings is a folder"),
        ("eval --robot file.txt", "file.txt has no keys"),
        ("eval --msg recordings", "--msg is for recordings"),
        ("eval --data nowhere --robot arm", "nowhere does not exist"),
        ("fit-actions --data nowhere --robot arm", "nowhere does not exist"),
        ("fit-actions --data recordings --robot arm", "recordings holds no recording"),
        ("fit-actions --data recordings --robot joint_arm", "tokens cannot say it"),
        ("fit-actions --data recordings --robot arm --out grid", "--out grid is no .json file"),
        ("fit-actions --data recordings --robot arm --out file.txt/g.json", "not a folder"),
        ("fit-actions --data recordings --robot arm --min-sigma nan", "--min-sigma is nan"),
        ("fit-actions --data recordings --robot arm --bins 16 1 8 16 16 16", "phi is 1: give 2"),
        (
            "fit-actions --data recordings --robot arm --columns x y z - - - up",
            "no action 'up'",
        ),
        ("imagine --codes 1,x", "--codes is '1,x'"),
        ("imagine --plan --from nowhere.png", "--plan with --from"),
        ("imagine --codes 0 --from nowhere.png", "nowhere.png does not exist"),
        ("imagine --plan --at nan", "--at is nan"),
        ("imagine --grid 1000000", "--grid is 1000000: give 1 or more, 1000 at most"),
        ("imagine --plan --seed 1000000000", "those above are for training"),
        ("imagine --plan --data nowhere --robot arm", "nowhere does not exist"),
        ("train policy --seed 99999999999", "give 0 or more, 1000000000 at most"),
        ("train policy --learning-rate 1e9", "give a number above 0, 10 at most"),
        ("train policy --robot=", "give --data too"),
        ("train policy --deepspeed recordings", "recordings is no file"),
        ("train policy --data recordings --robot file.txt", "file.txt has no keys"),
        ("train policy --data recordings --robot binary", "binary is no text"),
        ("train tokenizer --quantizer rvq", "choose fsq or vq"),
        ("train tokenizer --dt nan", "dt is nan"),
        ("train latent-actions --episodes 0", "episodes is 0"),
        ("train dynamics", "run `vla train tokenizer --out runs/world` first"),
        ("train narrator --channels 0", "channels is 0"),
        ("bag report nowhere", "nowhere does not exist"),
        ("bag report recordings --robot toaster", "no robot 'toaster'"),
        ("bag from-rlds recordings new --limit 0", "--limit is 0: give 1 or more"),
        ("bag from-rlds recordings new --dt nan", "--dt is nan: give seconds"),
        ("bag from-rlds recordings file.txt", "file.txt is a file"),
        ("bag to-rlds file.txt new --name toys", "file.txt"),
        ("bag to-rlds recordings file.txt --name toys", "file.txt is a file"),
    ],
)
def test_each_mistake_is_named(words, said, place, capsys):
    assert said in refused(words.split(" "), place, capsys)


@pytest.mark.parametrize("value", ["", "-1", "nan", "9" * 5000, "x/" * 3000, "a\nb"])
def test_no_value_of_a_path_or_number_ends_in_a_traceback(value, place, capsys):
    for words in (
        *(["eval", f"--{name}={value}"] for name in ("checkpoint", "compare", "episodes", "robot")),
        ["imagine", "--plan", f"--data={value}", "--robot=arm"],
        ["train", "policy", *RECORDED, f"--start={value or 'none'}"],
        ["train", "policy", f"--data={value}", "--robot=arm"],
        ["train", "tokenizer", f"--length={value}"],
        ["bag", "report", *([value] if not value.startswith("-") else ["--", value])],
    ):
        refused(words, place, capsys)
