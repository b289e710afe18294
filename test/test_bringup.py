"""The whole stack in one process: it starts, moves the simulated robot, and fails with a reason."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from probe import wait_for
from tiny_narrator import tiny_narrator

from vla_ros.bringup import Stack, main, parse
from vla_ros.ros.running import StartError
from vla_ros.safety.gate import State

PARAMS = Path(__file__).parents[1] / "config" / "arm.yaml"
INSTRUCTION = "reach for the red cube"


@pytest.fixture(scope="module")
def narrator(tmp_path_factory):
    """A narrator that knows nothing."""
    folder = tmp_path_factory.mktemp("narrator")
    tiny_narrator(cameras=("camera",)).save_pretrained(folder)
    return str(folder)


def test_simulated_arm_is_commanded_from_its_own_images(checkpoint, narrator):
    with Stack(
        robot="sim",
        params_file=PARAMS,
        checkpoint=str(checkpoint),
        instruction=INSTRUCTION,
        namespace="arm_one",
        overrides={
            "command_gate": {"velocity_scale": 0.5},
            "sim_robot": {"image_size": 64},
        },
        narrator=narrator,
    ) as stack:
        assert {node.get_namespace() for node in stack.nodes.values()} == {"/arm_one"}
        sim, gate = stack.nodes["sim_robot"], stack.nodes["command_gate"]
        assert gate.params.velocity_scale == 0.5
        assert gate.params.position_margin[0] == 0.05  # of the file, in a namespace too
        for name, node in stack.nodes.items():
            if name != "sim_robot":
                assert node.state == "active" and node.get_parameter("use_sim_time").value
            assert node.get_name() == name
        assert {"vision_encoder", "action_policy", "world_model", "narrator"} < set(stack.nodes)
        assert stack.nodes["narrator_eye"].params.rate == 5.0
        wait_for(lambda: gate._gate.state is State.ACTIVE)
        wait_for(lambda: sum(np.isfinite(frame.latency) for frame in list(sim.frames)) >= 20)
        world = stack.nodes["world_model"]
        wait_for(lambda: world._seen and world._seen.surprise is not None)
        wait_for(lambda: stack.nodes["narrator"]._sound)  # it has said something, if not the truth
        assert not stack.failure and not stack.ended.is_set()
    assert not stack.nodes


def test_stack_can_be_started_again_in_one_process(checkpoint, narrator):
    for watched in (True, False):
        with Stack(
            robot="real",
            params_file=PARAMS,
            checkpoint=str(checkpoint),
            world_model=watched,
            narrator=narrator if watched else "",
        ) as stack:
            assert "sim_robot" not in stack.nodes
            assert ("world_model" in stack.nodes) == ("narrator" in stack.nodes) == watched
            assert ("narrator_eye" in stack.nodes) == watched
            assert not stack.nodes["action_policy"].get_parameter("use_sim_time").value


def test_a_parameter_file_leaves_what_it_does_not_name_as_it_ships(checkpoint, narrator, tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text(
        "/**:\n  ros__parameters: {hold_time: 0.4}\n"
        "/**/command_gate:\n  ros__parameters: {velocity_scale: 0.1}\n"
        "arm_one:\n  command_gate:\n    ros__parameters: {surprise_hold: 3.0}\n"
    )
    with Stack(
        robot="real",
        params_file=own,
        checkpoint=str(checkpoint),
        namespace="arm_one",
        world_model=False,
        narrator=narrator,
    ) as stack:
        gate, eye = (stack.nodes[name].params for name in ("command_gate", "narrator_eye"))
        assert (gate.velocity_scale, gate.surprise_hold, gate.hold_time) == (0.1, 3.0, 0.4)
        assert gate.surprise_slow == 2.1  # of config/arm.yaml; the node's own is never
        assert (eye.rate, eye.camera_topics) == (5.0, ["camera/image_raw"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"robot": "imagined"}, "sim or real"),
        ({"params_file": "/no/such.yaml"}, "no/such.yaml"),
        ({"overrides": {"gate": {}}}, "command_gate"),
        ({"checkpoint": "nowhere"}, "action_policy.*nowhere"),
        ({"instruction": "frobnicate"}, "action_policy.*frobnicate"),
        ({"overrides": {"command_gate": {"rate": -1.0}}}, "rate"),
        ({"overrides": {"world_model": {"checkpoint": "nowhere"}}}, "world_model.*nowhere"),
        ({"overrides": {"world_model": {"imagine_period": -1.0}}}, "imagine_period"),
        ({"world_model": False, "overrides": {"world_model": {}}}, "no node 'world_model'"),
        ({"narrator": "nowhere"}, "narrator.*nowhere"),
        ({"narrator": "arm"}, "narrator.*NarratorConfig"),
        ({"narrator": "nowhere", "overrides": {"narrator": {"rate": -1.0}}}, "rate"),
        ({"narrator": "", "overrides": {"narrator": {}}}, "no node 'narrator'"),
    ],
)
def test_what_cannot_start_says_why_and_leaves_nothing_running(checkpoint, arguments, words):
    defaults = {"robot": "real", "params_file": PARAMS, "checkpoint": str(checkpoint)}
    with pytest.raises(StartError, match=words), Stack(**defaults | arguments):
        pass


def test_failure_is_exit_code_1_and_one_line(capfd):
    assert main(["--robot", "real", "--params", str(PARAMS), "--checkpoint", "nowhere"]) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: action_policy: ") and "nowhere" in last


def test_ros_arguments_are_passed_on():
    options = parse(["--robot", "real", "--ros-args", "-r", "a:=b"])
    assert options.ros_args == ["-r", "a:=b"] and options.use_sim_time is None
    assert (options.world_model, options.narrator) == ("true", "narrator")
    assert parse(["--narrator", ""]).narrator == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_cleanly(tmp_path, checkpoint, number):
    log = tmp_path / "log.txt"
    command = [sys.executable, "-m", "vla_ros.bringup", "--robot", "real"]
    command += ["--params", str(PARAMS), "--checkpoint", str(checkpoint)]
    command += ["--instruction", INSTRUCTION, "--narrator", ""]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ)
    try:
        wait_for(lambda: "no images on" in log.read_text())  # all nodes run
        process.send_signal(number)
        assert process.wait(timeout=60.0) == 0
    finally:
        process.kill()
    assert "deactivated" in log.read_text() and "Traceback" not in log.read_text()
