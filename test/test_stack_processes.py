"""Nodes as processes of their own: they come up, are watched, and never outlive their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from probe import wait_for
from tiny_world import tiny_config, untrained

from vla_ros.ros.running import StartError
from vla_ros.stack.description import describe
from vla_ros.stack.processes import Processes
from vla_ros.stack.stack import Stack

PARAMS = Path(__file__).parents[1] / "config" / "arm.yaml"
ARGUMENTS = ["--params-file", str(PARAMS), "--log-level", "warn"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world model that knows nothing, and comes up soon."""
    folder = tmp_path_factory.mktemp("world")
    untrained(tiny_config()).save_pretrained(folder)
    return str(folder)


def node(name, **parameters):
    (found,) = (each for each in describe(robot="real") if each.name == name)
    found.parameters.update(parameters)
    return found


def is_running(process):
    """Whether there is such a process that has not ended: one that nobody waited for has."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def niceness(process):
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[16])


def test_what_no_command_waits_for_is_apart_and_gives_way(checkpoint, world):
    with Stack(
        robot="real",
        params_file=PARAMS,
        checkpoint=str(checkpoint),
        narrator="",
        processes="aside",
        namespace="arm_two",
        log_level="warn",
        overrides={"world_model": {"checkpoint": world}},
    ) as stack:
        assert set(stack.nodes) == {"command_gate", "action_policy", "vision_encoder"}
        assert stack.apart == list(stack.processes) == ["world_model"] and not stack.still_starting
        process = stack.processes["world_model"]
        assert niceness(process.pid) - niceness(os.getpid()) == 5
        gate = stack.nodes["command_gate"]
        wait_for(lambda: ("world_model", "/arm_two") in gate.get_node_names_and_namespaces())
        assert not stack.failure and not stack.ended.is_set()
        process.kill()
        assert stack.wait(20.0)
        assert stack.failure == "world_model was killed by SIGKILL"
    assert not stack.nodes and not is_running(process.pid)


def test_a_process_that_cannot_start_ends_the_start_with_its_own_line(checkpoint, capfd):
    began = time.monotonic()
    with pytest.raises(StartError, match="^world_model: .*nowhere") as error:
        with Stack(
            robot="real",
            params_file=PARAMS,
            checkpoint=str(checkpoint),
            narrator="",
            processes="aside",
            overrides={"world_model": {"checkpoint": "nowhere"}},
        ):
            pass
    assert time.monotonic() - began < 60.0 and "\n" not in str(error.value)
    told = capfd.readouterr()
    assert "Traceback" not in told.err and "error: " not in told.err


def test_a_node_that_ends_is_named_and_one_that_is_asked_to_is_not(world):
    ended = threading.Event()
    processes = Processes(ARGUMENTS, ended)
    try:
        processes.start(node("command_gate"))
        processes.start(node("world_model", checkpoint=world))
        assert not processes.wait_until_up(["command_gate", "world_model"], 60.0)
        processes.popen["command_gate"].terminate()  # by somebody else
        assert ended.wait(20.0)
        assert processes.failure == "command_gate ended by itself with exit code 0"
        with pytest.raises(StartError, match="command_gate ended"):
            processes.wait_until_up(["world_model"], 1.0)
        ended.clear()
        processes.start(node("command_gate"))
        assert not processes.failure and processes.starting() == ["command_gate"]
        assert not processes.wait_until_up(["command_gate"], 60.0)
    finally:
        processes.stop()
    assert not processes.failure
    assert [one.returncode for one in processes.popen.values()] == [0, 0]


def test_what_is_late_is_named(world):
    processes = Processes(ARGUMENTS, threading.Event())
    try:
        processes.start(node("world_model", checkpoint=world))
        assert processes.wait_until_up(["world_model"], 0.0) == ["world_model"]
    finally:
        processes.stop()  # before it has come up: without a word
    assert not processes.failure


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_bringup_ends_no_process_is_left(tmp_path, checkpoint, world, number):
    params = tmp_path / "params.yaml"
    text = PARAMS.read_text().replace("checkpoint: world", f"checkpoint: {world}")
    params.write_text(text)
    command = [sys.executable, "-m", "vla_ros.bringup", "--robot", "real", "--narrator", ""]
    command += ["--params", str(params), "--checkpoint", str(checkpoint)]
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        # As from a terminal: a Ctrl-C goes to the whole group.
        process = subprocess.Popen(
            command, stdout=output, stderr=output, process_group=0, env=os.environ
        )
    try:
        # The node's own warning: it is up, and so are those that it was started after.
        wait_for(lambda: log.read_text().count("no images on") >= 2)
        assert "world_model: in processes of their own" in log.read_text()
        (child,) = children(process.pid)
        os.killpg(process.pid, number)
        assert process.wait(timeout=30.0) == (-9 if number == signal.SIGKILL else 0)
        wait_for(lambda: not is_running(child), 20.0)
    finally:
        process.kill()
    assert "Traceback" not in log.read_text() and "error" not in log.read_text()


def children(process):
    folders = Path(f"/proc/{process}/task").iterdir()
    return {int(word) for one in folders for word in (one / "children").read_text().split()}
