"""The gate's node: limits that nobody can change, rivals that it notices, a world that lies."""

import threading
import time

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from probe import wait_for
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecyclePublisher
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from vla_ros.msg import ActionChunk, GateStatus
from vla_ros.nodes.command_gate import PARAMETERS, CommandGateNode
from vla_ros.robots import panda
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import LifecycleNode
from vla_ros.ros.messages import chunk_message, joint_state_message, seconds, to_time
from vla_ros.ros.running import Threads
from vla_ros.ros.texts import LONGEST
from vla_ros.safety.gate import State

LONG = "x" * 1_000_000
RCLError = rclpy_implementation.RCLError


@pytest.fixture
def published(monkeypatch):
    """What life-cycle publishers of all nodes are told to send, in place of sending it."""
    messages = []
    monkeypatch.setattr(LifecyclePublisher, "publish", lambda _, message: messages.append(message))
    return messages


@pytest.fixture
def gate(context, published):
    """An active gate, spun by nobody; `lines` are what it logs."""
    node = CommandGateNode(context=context)
    node.lines = log_of(node)
    assert node.bring_up() == ""
    yield node
    node.destroy_node()


def log_of(node):
    """The lines that a node logs from now on."""
    lines = []

    class Logger:
        def info(self, text, **_):
            lines.append(text)

        warning = error = info

    node.get_logger = Logger
    return lines


def feed(gate, goal=panda.HOME, names=panda.JOINT_NAMES):
    """Joint states, a chunk, and a period of the gate."""
    header = Header(stamp=to_time(gate.now))
    gate._on_joint_states(joint_state_message(panda.JOINT_NAMES, panda.HOME, header))
    gate._on_chunk(chunk_message(np.tile(goal, (8, 1)), names, 0.05, header=header))
    gate._tick()


def commands(published):
    return [message for message in published if isinstance(message, JointTrajectory)]


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_no_parameter_of_a_gate_can_be_changed_once_it_is_started(gate, name):
    def refused():
        value = getattr(gate.params, name)
        other = [100.0] if isinstance(value, list) or hasattr(value, "typecode") else 50.0
        return not gate.set_parameters([Parameter(name, value=other)])[0].successful

    assert refused() and gate.describe_parameter(name).read_only
    gate.trigger_deactivate()
    gate.trigger_cleanup()
    assert gate.state == "unconfigured" and refused()


def test_gate_that_is_activated_again_knows_what_the_robot_was_told(gate, published):
    feed(gate)
    held = commands(published)[-1].points[0].positions
    gate.trigger_deactivate()
    last = commands(published)[-1]
    assert seconds(last.header.stamp) == 0.0, "a hold"
    np.testing.assert_array_equal(last.points[0].positions, held)
    gate.trigger_cleanup()
    assert gate.bring_up() == "" and gate._gate.state is State.CLOSED
    feed(gate)
    np.testing.assert_allclose(commands(published)[-1].points[0].positions, held)


# --- others -------------------------------------------------------------------------------------


def test_gate_beside_another_publisher_of_commands_stays_closed_and_names_it(
    context, gate, published
):
    rival = rclpy.create_node("teleop", namespace="/desk", context=context)
    publisher = rival.create_publisher(JointTrajectory, "/joint_trajectory", qos.standard())
    wait_for(lambda: len(gate.get_publishers_info_by_topic("joint_trajectory")) == 2)
    gate._look_around()
    feed(gate)
    assert not commands(published)
    status = [message for message in published if isinstance(message, GateStatus)][-1]
    assert status.state == GateStatus.CLOSED and "commanded by /desk/teleop" in status.reason
    rival.destroy_publisher(publisher)
    wait_for(lambda: len(gate.get_publishers_info_by_topic("joint_trajectory")) == 1)
    gate._look_around()
    feed(gate)
    assert commands(published) and gate._gate.state is State.ACTIVE
    rival.destroy_node()


def test_gate_that_is_started_twice_stops_both_and_names_the_other(context, gate, published):
    feed(gate)
    assert gate._gate.state is State.ACTIVE
    moved = len(commands(published))
    twin = CommandGateNode(context=context)
    assert twin.bring_up() == ""
    wait_for(lambda: len(gate.get_publishers_info_by_topic("joint_trajectory")) == 2)
    for each in (gate, twin):
        each._look_around()
        feed(each)
        assert "commanded by /command_gate" in each._gate.reason
    assert gate._gate.state is State.HOLD and twin._gate.state is State.CLOSED
    assert not [c for c in commands(published)[moved:] if seconds(c.header.stamp)], "holds alone"
    assert any("commanded by /command_gate" in line for line in gate.lines)
    twin.destroy_node()


def test_several_policies_are_named_but_stop_nothing(context, gate):
    nodes = [rclpy.create_node(name, context=context) for name in ("one", "other")]
    for node in nodes:
        node.create_publisher(ActionChunk, "action_chunk", qos.standard(1))
    wait_for(lambda: len(gate.get_publishers_info_by_topic("action_chunk")) == 2)
    gate._look_around()
    feed(gate)
    assert gate._gate.state is State.ACTIVE
    assert "/one, /other" in "".join(gate.lines)
    assert "/one, /other" in gate.diagnose()[2]["several_policies"]
    for node in nodes:
        node.destroy_node()


# --- texts --------------------------------------------------------------------------------------


def test_long_texts_are_cut_before_they_are_told_to_anyone(gate, published):
    feed(gate, names=(*panda.JOINT_NAMES[:-1], LONG))
    header = Header(stamp=to_time(gate.now))
    names = (*panda.JOINT_NAMES, LONG)
    points = np.tile(np.append(panda.HOME, 0.0), (8, 1))
    gate._on_chunk(chunk_message(points, names, 0.05, header=header))
    gate._tick()
    gate.log_edge("image", f"encoding {LONG} is unknown")
    assert max(map(len, gate.lines)) <= LONGEST and any("1000" in line for line in gate.lines)
    assert len(published[-1].last_rejection) <= LONGEST
    for status in (gate.diagnose()[1], *map(str, gate.diagnose()[2].values())):
        assert len(status) <= LONGEST


def test_fault_whose_numbers_change_is_logged_once_and_its_end_too(gate):
    for age in range(30):
        gate.log_edge("images", f"no image for {age / 10:.1f} s on camera1")
    gate.log_edge("images", "")
    assert [line for line in gate.lines if "image" in line] == [
        "no image for 0.0 s on camera1",
        "no longer: no image for 0.0 s on camera1",
    ]


def test_faults_that_change_all_the_time_are_logged_now_and_then(gate):
    for number in range(200):
        gate.log_edge("images", f"encoding x{number} is unknown")
    lines = [line for line in gate.lines if "encoding" in line]
    assert 2 <= len(lines) < 10
    gate.log_edge("images", "")
    wait_for(lambda: gate._publish_diagnostics() or "no longer" in gate.lines[-1])


# --- what must not end a node -------------------------------------------------------------------


@pytest.fixture
def threads(context):
    threads = Threads(context)
    yield threads
    threads.stop()


@pytest.mark.parametrize(
    "impossible", [Time(sec=-1), Time(sec=5, nanosec=2**32 - 1), Time(sec=2**31 - 1)]
)
def test_clock_that_cannot_be_is_passed_over(context, threads, impossible):
    parameters = [Parameter("use_sim_time", value=True)]
    node = threads.start(
        lambda: LifecycleNode("timed", {}, context=context, parameter_overrides=parameters)
    )
    other = rclpy.create_node("clock", context=context)
    clock = other.create_publisher(Clock, "/clock", 10)

    def tell(time_, then):
        clock.publish(Clock(clock=time_))
        time.sleep(0.02)
        return node.now == pytest.approx(then)

    wait_for(lambda: tell(Time(sec=7), 7.0))
    for _ in range(5):
        assert tell(impossible, 7.0) and not threads.ended.is_set()
    wait_for(lambda: tell(Time(sec=8), 8.0))
    other.destroy_node()


def test_message_that_the_middleware_loses_ends_nothing(context, threads):
    calls = threading.Semaphore(0)

    class Unlucky(LifecycleNode):
        def activate(self):
            self.every(0.01, self.fail)

        def fail(self):
            calls.release()
            raise RCLError("failed to publish: out of buffers")

    threads.start(lambda: Unlucky("unlucky", {}, context=context))
    for _ in range(5):
        assert calls.acquire(timeout=30.0)
    assert not threads.ended.is_set() and not threads.failure


def test_command_that_cannot_be_published_is_told_and_the_gate_goes_on(context, monkeypatch):
    lost = []

    def publish(_, message):
        if isinstance(message, JointTrajectory):
            lost.append(message)
            raise RCLError("out of buffers")

    monkeypatch.setattr(LifecyclePublisher, "publish", publish)
    node = CommandGateNode(context=context)
    lines = log_of(node)
    assert node.bring_up() == ""
    for _ in range(3):
        feed(node)
    assert len(lost) == 6 and node._gate.state is State.ACTIVE
    assert lines.count("cannot publish joint_trajectory: out of buffers") == 1
    node.destroy_node()


@pytest.mark.parametrize("value", [-5.0, 0.0, 12.5, 3e9, 1e300])
def test_any_time_becomes_a_stamp(value):
    assert 0 <= to_time(value).sec < 2**31
