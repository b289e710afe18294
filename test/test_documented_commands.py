"""Commands in the documents are what the tools take, and speak of what is on the table."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from vla_ros import bringup, cli
from vla_ros.nodes.parameters import SIM_ROBOT
from vla_ros.sim.tasks import sample_task

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
SHAPES = {"cube": "cube", "block": "cube", "can": "cylinder", "cylinder": "cylinder"}
KINDS = {("topic", "pub"): "msg", ("service", "call"): "srv", ("action", "send_goal"): "action"}
PARTS = {"srv": "Request", "action": "Goal"}


def commands() -> list[str]:
    """Each line of the documents that begins with `ros2` or `vla`, with what continues it."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ")
        found += re.findall(r"(?:^|`)\s*((?:ros2|vla) [^`\n]+)", text, re.M)
    return found


def calls() -> list[list[str]]:
    """Words of the commands that send a message."""
    words = [shlex.split(command, comments=True) for command in commands()]
    return [each for each in words if tuple(each[1:3]) in KINDS]


@pytest.mark.parametrize("words", calls(), ids=" ".join)
def test_messages_in_the_documents_are_yaml_of_their_type(words):
    package, kind, name = words[-2].split("/")
    assert kind == KINDS[tuple(words[1:3])]
    message = getattr(importlib.import_module(f"{package}.{kind}"), name)
    message = getattr(message, PARTS[kind]) if kind in PARTS else message
    values = yaml.safe_load(words[-1])
    assert isinstance(values, dict) and values
    message(**values)  # an unknown field or another type is an error


def written() -> list[list[str]]:
    """Words of the lines of shell in the documents that begin with `vla`."""
    text = "\n".join(path.read_text().replace("\\\n", " ") for path in DOCUMENTS)
    lines = [
        part for line in re.findall(r"^    (vla .+)$", text, re.M) for part in line.split("&&")
    ]
    return [shlex.split(line.replace("...", ""), comments=True)[1:] for line in lines]


@pytest.mark.parametrize("words", written(), ids=" ".join)
def test_commands_in_the_documents_are_what_vla_takes(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    if words[0] == "bringup":
        bringup.parse(words[1:])
    elif words[0] == "bench":
        assert not words[1:] or words[1] in {path.stem for path in cli._benchmarks()}
    else:
        cli._parser(tuple(words)).parse_args(words)


def test_options_that_the_documents_speak_of_are_there(capsys):
    """Within a sentence a command is not always whole."""
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    spoken = [words.split() for words in re.findall(r"`vla ((?!bench)[^`]+ --[^`]+)`", text)]
    assert spoken
    for words in spoken:
        with pytest.raises(SystemExit):
            cli.main([*words[: 1 + (words[0] in ("bag", "train"))], "--help"])
        told = capsys.readouterr().out
        for option in filter(lambda word: word.startswith("--"), words):
            assert re.search(rf"{option}\b", told), " ".join(words)


def test_the_documents_say_how_to_instruct_ask_and_stop():
    sent = {(words[-3], words[-1]) for words in calls()}
    assert ("/instruction", "{data: ''}") in sent
    assert {"/instruction", "/follow_instruction", "/ask"} <= {name for name, _ in sent}


def instructions() -> list[str]:
    texts = [yaml.safe_load(words[-1]) for words in calls()]
    said = [text.get("data") or text.get("instruction") or text.get("question") for text in texts]
    for command in commands():
        said += re.findall(r"instruction(?::=| )[\"']([^\"']+)[\"']", command)
    return [text for text in said if text]


@pytest.mark.parametrize("text", instructions())
def test_examples_speak_of_what_is_on_the_table_at_the_start(text):
    scene = sample_task(SIM_ROBOT["family"].default, SIM_ROBOT["seed"].default).objects
    there = {(item.color, item.shape) for item in scene}
    named = re.findall(rf"(red|green|blue|purple) ({'|'.join(SHAPES)})", text)
    assert named, "name a thing with its colour"
    assert {(color, SHAPES[shape]) for color, shape in named} <= there


def test_no_document_gives_an_empty_launch_argument():
    """`ros2 launch` takes NAME:= with nothing behind it for a mistake."""
    for path in [*DOCUMENTS, *ROOT.glob("config/*.yaml"), *ROOT.glob("launch/*.py")]:
        assert not re.search(r"\w:=(\"\"|''|\s|$)", path.read_text(), re.M), path
