"""Nodes as processes of their own: they come up, are watched, and never outlive their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import rclpy
from probe import PATIENCE, wait_for
from tiny_world import tiny_config, untrained

from vla_ros.ros.running import StartError, Threads
from vla_ros.stack.description import RESTARTS, describe
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
        process.kill()  # the arm goes on, and it is started again
        again = wait_for(lambda: (p := stack.processes["world_model"]) is not process and p)
        assert not stack.failure and not stack.ended.is_set()
        wait_for(lambda: niceness(again.pid) - niceness(os.getpid()) == 5)  # once nice(1) has run
    assert not stack.nodes and not is_running(process.pid) and not is_running(again.pid)


@pytest.fixture
def sleeper(monkeypatch):
    """Processes that do nothing, in the place of nodes."""
    started = []

    def popen(command, **kwargs):
        del kwargs["pass_fds"], kwargs["env"]
        started.append((command, subprocess_popen(["sleep", "1000"], **kwargs)))
        return started[-1][1]

    subprocess_popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr("vla_ros.stack.processes.RESTART_DELAY", 0.02)
    yield started
    for _, process in started:
        process.kill()


def test_what_no_command_waits_for_is_started_again_a_few_times_and_then_done_without(
    sleeper, capfd
):
    ended = threading.Event()
    processes = Processes([], ended)
    for name in ("command_gate", "narrator"):
        processes.start(node(name))
    processes.begun = True
    for count in range(RESTARTS):
        sleeper[-1][1].kill()
        wait_for(lambda count=count: len(sleeper) == 3 + count)
    assert all(command == sleeper[1][0] for command, _ in sleeper[2:])
    sleeper[-1][1].kill()
    told = ""

    def is_told():
        nonlocal told
        told += capfd.readouterr().err
        return "the arm goes on without narrator" in told

    wait_for(is_told)
    again = "narrator was killed by SIGKILL: it is started again, and the arm goes on"
    assert told.count(again) == RESTARTS
    assert not ended.is_set() and not processes.failure and len(sleeper) == 2 + RESTARTS
    processes.popen["command_gate"].kill()
    assert ended.wait(20.0) and processes.failure == "command_gate was killed by SIGKILL"
    processes.stop()
    assert len(sleeper) == 2 + RESTARTS


def test_nothing_is_started_again_while_the_stack_ends(sleeper, monkeypatch):
    monkeypatch.setattr("vla_ros.stack.processes.RESTART_DELAY", 1000.0)
    processes = Processes([], threading.Event())
    processes.start(node("narrator"))
    processes.begun = True
    processes.popen["narrator"].kill()
    processes.popen["narrator"].wait()
    processes.stop()
    assert len(sleeper) == 1 and not processes.failure


def test_what_ends_before_the_stack_has_begun_ends_it(sleeper):
    processes = Processes([], threading.Event())
    processes.start(node("narrator"))
    processes.popen["narrator"].kill()
    with pytest.raises(StartError, match="narrator was killed by SIGKILL"):
        processes.wait_until_up(["narrator"], 20.0)
    processes.stop()


def test_a_process_that_cannot_start_ends_the_start_with_its_own_line(
    checkpoint, capfd, monkeypatch
):
    monkeypatch.setattr("vla_ros.stack.stack._START_TIME", 10 * PATIENCE)  # which is not waited for
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
    assert time.monotonic() - began < PATIENCE and "\n" not in str(error.value)
    told = capfd.readouterr()
    assert "Traceback" not in told.err and "error: " not in told.err


def test_a_node_that_ends_is_named_and_one_that_is_asked_to_is_not(world):
    ended = threading.Event()
    processes = Processes(ARGUMENTS, ended)
    try:
        processes.start(node("command_gate"))
        processes.start(node("world_model", checkpoint=world))
        assert not processes.wait_until_up(["command_gate", "world_model"], PATIENCE)
        processes.popen["command_gate"].terminate()  # by somebody else
        assert ended.wait(20.0)
        assert processes.failure == "command_gate ended by itself with exit code 0"
        with pytest.raises(StartError, match="command_gate ended"):
            processes.wait_until_up(["world_model"], 1.0)
        ended.clear()
        processes.start(node("command_gate"))
        assert not processes.failure and processes.starting() == ["command_gate"]
        assert not processes.wait_until_up(["command_gate"], PATIENCE)
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


def test_in_one_process_a_node_that_can_be_spared_fails_alone(context, capfd):
    threads = Threads(context)

    def failing(name):
        node = rclpy.create_node(name, context=context)
        node.create_timer(0.01, lambda: 1 / 0)
        return node

    told = ""

    def is_told():
        nonlocal told
        told += capfd.readouterr().err
        return "failing: ZeroDivisionError: division by zero: the rest goes on without it" in told

    try:
        threads.start(lambda: failing("failing"), spared=True)
        wait_for(is_told)
        assert not threads.ended.is_set() and not threads.failure
        threads.start(lambda: failing("needed"))
        assert threads.ended.wait(20.0)
        assert threads.failure == "needed: ZeroDivisionError: division by zero"
    finally:
        threads.stop()


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
        assert process.wait(timeout=PATIENCE) == (-9 if number == signal.SIGKILL else 0)
        wait_for(lambda: not is_running(child), 20.0)
    finally:
        process.kill()
    assert "Traceback" not in log.read_text() and "error" not in log.read_text()


def children(process):
    folders = Path(f"/proc/{process}/task").iterdir()
    return {int(word) for one in folders for word in (one / "children").read_text().split()}
