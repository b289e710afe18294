"""Episodes on the live stack, from the task to the report, with a policy that knows nothing."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.context import Context
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vla_ros import live
from vla_ros.film import demo
from vla_ros.film.states import Recorder
from vla_ros.film.timeline import Sayings, Told
from vla_ros.msg import ActionChunk, GateStatus, Imagination, Narration
from vla_ros.nodes.command_gate import CommandGateNode
from vla_ros.nodes.sim_robot import SimRobot
from vla_ros.robots import panda
from vla_ros.robots.actions import end_effector_chunk_to_joints
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.ros import qos
from vla_ros.ros.messages import chunk_message, image_message, to_time
from vla_ros.ros.running import Threads
from vla_ros.sim.experts import expert_chunk
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome, sample_task
from vla_ros.sim.truth import Witness
from vla_ros.training.rollout import FRAME_TICKS

pytestmark = pytest.mark.timeout(240)
INSTRUCTION = "reach for the red cube"


@pytest.mark.parametrize("processes", ["aside", "all"])
def test_an_episode_is_judged_by_the_physics(checkpoint, monkeypatch, processes):
    # The instruction is given for less time than the task: the policy must end first.
    monkeypatch.setattr(live, "MORE_TIME", -4.5)
    with live.running(str(checkpoint), processes=processes, narrator="") as arm:
        own = arm.play("reach", 4, INSTRUCTION)
        assert own.instruction == INSTRUCTION and not own.success
        assert "time limit" in own.reason

        # Not the first one: processes that have just come up may take a while to hear each other.
        arm.costs.clear()
        report = arm.play("push", 4)  # where what it does meets no other thing
        assert (report.family, report.seed) == ("push", 4)
        assert report.instruction == sample_task("push", 4).instruction
        assert not report.success and "stopped too early" in report.reason
        assert report.steps >= 5 and report.seconds > 1.0
        assert 0.0 < report.rate < 25.0
        assert arm.costs and all(cost.overhead > 0.0 for cost in arm.costs)
        assert report.latency == pytest.approx(np.median([c.latency for c in arm.costs]))
        with pytest.raises(ValueError, match="dance"):
            arm.play("dance", 0)


def test_a_node_that_does_not_come_up_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="config.json"):
        with live.running(str(tmp_path)):
            pass


@pytest.mark.parametrize("family", ["reach", "pick", "bowl"])
def test_the_expert_succeeds_through_the_live_gate(family):
    """Physics in wall time, real messages, the gate node: only the policy is missing."""
    context = Context()
    rclpy.init(context=context)
    threads = Threads(context)
    sim_time = Parameter("use_sim_time", value=True)
    try:
        robot = threads.start(lambda: SimRobot(context=context))
        threads.start(lambda: CommandGateNode(context=context, parameter_overrides=[sim_time]))
        chunks = robot.create_publisher(ActionChunk, "action_chunk", qos.standard(1))
        kinematics, outcome = ArmKinematics(), []

        def act():
            """The expert, called in the robot's thread after every tick."""
            world = robot.world
            if not outcome and world.outcome is not Outcome.RUNNING:
                outcome.append((world.outcome, world.judge.reason))
            if robot.ticks % FRAME_TICKS == 0:
                points = end_effector_chunk_to_joints(
                    kinematics, world.joint_positions(), expert_chunk(world, 8, 0.05)
                )
                header = Header(stamp=to_time(world.time))
                chunks.publish(chunk_message(points, panda.JOINT_NAMES, 0.05, header=header))

        def begin():
            robot.hook = act
            robot.reset(sample_task(family, 2))

        robot.hook = begin  # in the thread that may touch the world
        end = time.monotonic() + 120.0
        while not outcome and time.monotonic() < end:
            time.sleep(0.05)
        assert outcome == [(Outcome.SUCCEEDED, "fulfilled")]
    finally:
        threads.stop()
        context.try_shutdown()


def test_the_film_gets_what_robot_and_world_model_say():
    context = Context()
    rclpy.init(context=context)
    threads = Threads(context)
    try:
        with demo.Watcher(context, Witness()) as watcher:
            node = threads.start(lambda: rclpy.create_node("sayer", context=context))
            expected = node.create_publisher(Imagination, "imagination", qos.standard())
            chunks = node.create_publisher(ActionChunk, "action_chunk", qos.standard(1))
            states = node.create_publisher(GateStatus, "gate_status", qos.latched())
            doctor = node.create_publisher(DiagnosticArray, "/diagnostics", qos.standard())
            publishers = (expected, chunks, states, doctor)
            wait_until(lambda: all(p.get_subscription_count() for p in publishers))
            header, later = Header(stamp=to_time(7.0)), Header(stamp=to_time(7.2))
            frames = [image_message(np.full((16, 16, 3), 90, np.uint8), later)]
            expected.publish(Imagination(header=header, dt=0.2, frames=frames, surprise=0.25))
            points = np.tile(panda.HOME, (8, 1))
            chunks.publish(chunk_message(points, panda.JOINT_NAMES, 0.05, header=header))
            states.publish(GateStatus(header=header, state=GateStatus.ACTIVE))
            values = [KeyValue(key="keeps_up", value="False")]
            of_all = [
                DiagnosticStatus(name=f"/{name}", message=f"as {name} is", values=values)
                for name in ("narrator", "world_model")
            ]
            doctor.publish(DiagnosticArray(header=header, status=of_all))
            seen, told = watcher.expectations, watcher.commands
            wait_until(lambda: seen.imagined(7.2, 0.0) and told.chunks and told.gate)
            wait_until(lambda: watcher.narrator)
        found = seen.imagined(7.2, 0.0)
        assert found.ahead == pytest.approx(0.2) and (found.frame == 90).all() and found.live
        assert seen.surprises(0.0, 9.0) == [(7.0, 0.25)]
        assert told.gate == [(7.0, True)] and told.chunks[0].stamp == 7.0
        assert watcher.narrator == "as narrator is" and not watcher.narrator_tried
        assert watcher.sayings.is_silent(6.5) and watcher.sayings.seconds_without_time == 1
    finally:
        threads.stop()
        context.try_shutdown()


def wait_until(condition, timeout=60.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_line_of_the_demo_tells_all():
    report = EpisodeReport("pick", 1, "lift it", True, "fulfilled", 2.04, 40, 19.96, 0.0213)
    line = "fulfilled in 2.0 s; 40 steps at 20.0 Hz, 21 ms from camera to command"
    assert demo._lines(report) == [line]
    lost = EpisodeReport("pick", 1, "lift it", False, "fell over", 2.0, 0, math.nan, math.nan)
    assert demo._lines(lost)[0].startswith("FAILED: fell over; 0 steps")
    parts = replace(report, told=("lift it", "push the red cube left"))
    assert demo._lines(parts) == ["that is: push the red cube left", line]


def test_a_refusal_is_shown_with_its_reason_from_when_it_was_said():
    refusal = "I see a red cube, no green can"
    report = EpisodeReport("absent", 1, "lift the green can", True, "", 0.5, 0, refusal=refusal)
    assert demo._lines(report) == [f"refused: {refusal}"]
    assert demo._lines(replace(report, success=False, reason="the arm moved")) == [
        "FAILED: the arm moved"
    ]
    told = Told()
    assert demo._note(report, told, 10.3, 10.0) == ""
    assert demo._note(report, told, 10.6, 10.0) == f"refused: {refusal}"


def test_the_film_shows_the_subtask_that_is_done_at_the_moment():
    report = EpisodeReport("two-step", 1, "this, then that", True, "fulfilled", 5.0, 90)
    told = Told()
    for when, text in ((9.0, "old"), (10.2, "this"), (10.3, "this"), (11.0, ""), (12.0, "that")):
        told.add(when, text)
    notes = [demo._note(report, told, when, 10.0) for when in (10.1, 10.25, 11.5, 12.5)]
    assert notes == ["", "now: this", "", "now: that"]
    whole = replace(report, instruction="this")
    assert demo._note(whole, told, 10.25, 10.0) == "", "it is what was said"


class Heard:
    """What a watcher has, of a narrator that says of itself that it is tired."""

    def __init__(self, tried):
        self.sayings = Sayings(Witness(), lambda _: None)
        self.narrator, self.narrator_tried = "it is tired", tried


def test_a_narrator_that_had_the_time_and_said_nothing_is_a_failure(capsys):
    assert not demo._tell_truth(Heard(tried=True))
    assert "no sentence held of the scene" in capsys.readouterr().out


def test_a_narrator_without_time_is_none_and_it_is_said(capsys):
    heard = Heard(tried=False)
    assert demo._tell_truth(heard)
    assert "no time for it beside the control (it is tired)" in capsys.readouterr().out
    heard.sayings.add(1.0, "The hand is open.")
    heard.sayings.add_no_time(5.0)
    heard.sayings.settle()
    assert demo._tell_truth(heard)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("0 of 0 sentences true by physics (1 could not be")
    assert second == "in 1 s the narrator had no time to keep up"


def test_what_is_said_is_judged_by_the_robot_s_own_physics_and_printed_once(capsys):
    """Said about the stamps of real frames, while the arm swings to the left."""
    context = Context()
    rclpy.init(context=context)
    threads = Threads(context)
    recorders, true = [], "The gripper is moving left."
    try:
        robot = threads.start(lambda: SimRobot(context=context))

        def begin():
            world = robot.world
            recorders.append(Recorder(robot))
            robot.reset(sample_task("pick", 2))
            way = world.joint_positions()[None]
            way[0, 0] += 0.5  # rad, about the upright: 2 cm to the left in 0.2 s
            world.controller.accept(panda.JOINT_NAMES, way, np.array([2.0]), 0.0, world.time)

        robot.hook = begin  # in the thread that may touch the world
        wait_until(lambda: recorders)
        (recorder,) = recorders
        with demo.Watcher(context, recorder.witness) as watcher:
            node = threads.start(lambda: rclpy.create_node("sayer", context=context))
            said = node.create_publisher(Narration, "narration", qos.standard(10))

            def speak(image):
                for text in (true, "The gripper is moving right.", "Moving gripper"):
                    said.publish(Narration(header=image.header, text=text))

            node.create_subscription(Image, "camera/image_raw", speak, qos.sensor())
            wait_until(lambda: robot.world.time - recorder.recordings[0].times[0] > 3.0)
        views = list(recorder.recordings[0].views)
        assert {view.frame.shape for view in views} == {(64, 64, 3)}
        apart = np.diff([view.time for view in views])
        np.testing.assert_allclose(apart[5:], 0.05, atol=1e-6)  # while somebody looks
        swung = [view.joints[0] for view in views]
        assert max(swung) - min(swung) == pytest.approx(0.5, abs=0.05)
        sayings = watcher.sayings
        known = [saying for saying in sayings.judged if saying.true is not None]
        began = recorder.recordings[0].times[0]
        going = [saying for saying in known if 0.5 < saying.time - began < 1.5]
        assert len(going) > 15  # three a frame
        assert all(saying.true == (saying.text == true) for saying in going)
        assert not any(saying.true for saying in known if saying.time - began > 2.5)
        told = sum(saying.true for saying in known)
        assert sayings.summary().startswith(f"{told} of {len(known)} sentences true by physics")
        lines = capsys.readouterr().out.splitlines()
        assert sum(line.endswith(f"s  {true}") for line in lines) == 1
        assert sum("Moving gripper  (false)" in line for line in lines) == 1
        assert len({line.split("s  ", 1)[1] for line in lines}) == len(lines) > 2

        watcher.begin()  # the next episode: what is still said of this one is not printed
        sayings.add(going[0].time, "another one")
        sayings.settle()
        assert sayings.judged[-1].true is False and not capsys.readouterr().out
    finally:
        threads.stop()
        context.try_shutdown()
