"""Episodes on the running stack: tasks to the simulated robot, instructions to the policy.

Whether an episode succeeded is read from the robot's task_status, which looks at the physics; what
the policy thinks of its work only ends the instruction.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.node import Node
from rclpy.task import Future

from vla_ros.action import FollowInstruction
from vla_ros.msg import ActionChunk, GateStatus, Narration, TaskStatus
from vla_ros.nodes.sim_robot import SimRobot
from vla_ros.ros import qos
from vla_ros.ros.messages import seconds
from vla_ros.ros.running import StartError, Threads, switch_threads_often
from vla_ros.sim.arm import CAMERAS
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.scene_tasks import task_of
from vla_ros.sim.tasks import Task
from vla_ros.srv import Ask, SetTask
from vla_ros.stack.stack import Stack

_START_TIME = 60.0  # s that nodes may take to come up
_ANSWER_TIME = 30.0  # s that a service may take on a busy machine
_SETTLE_TIME = 1.0  # s of simulated time for the judge, after the policy has ended
MORE_TIME = 1.0  # s of simulated time that an instruction gets beyond its task's limit
_QUIET_TIME = 0.4  # s of simulated time: the command gate repeats a hold for less than this


@contextlib.contextmanager
def running(
    checkpoint: str,
    *,
    processes: str = "aside",
    narrator: str = "narrator",
    realtime_factor: float = 1.0,
    cameras: Sequence[str] = CAMERAS,
) -> Iterator[LiveArm]:
    """A simulated arm with that checkpoint, and that of a narrator unless "", ready for episodes.

    Args:
        processes: which nodes are processes of their own, see `Stack`.
        realtime_factor: simulated seconds per second; less gives a busy machine the time it needs.
        cameras: of the policy, in its order.

    Raises:
        StartError: a node does not come up, or another simulation runs in this ROS domain.
    """
    switch_threads_often()
    stack = Stack(
        checkpoint=checkpoint,
        log_level="error",
        narrator=narrator,
        processes=processes,
        overrides={
            "sim_robot": {"realtime_factor": realtime_factor},
            "vision_encoder": {"camera_topics": [f"{name}/image_raw" for name in cameras]},
        },
    )
    with stack:
        arm = LiveArm(stack)
        try:
            arm.wait_until_ready()
            yield arm
        finally:
            arm.close()


@dataclass(frozen=True)
class Cost:
    """Where the time of one observation went, s of wall time."""

    latency: float  # from the beginning of the capture to the command's arrival at the robot
    render: float
    forward: float  # encoder and policy

    @property
    def overhead(self) -> float:
        """What is left when rendering and models are taken off: messages, gate, waiting."""
        return self.latency - self.render - self.forward


class LiveArm:
    """Plays episodes on a running stack. `costs` collects what every observation cost, `sentences`
    the s that the narrator took to see and say each."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.robot: SimRobot = stack.nodes["sim_robot"]
        self.costs: list[Cost] = []
        self.sentences: list[float] = []
        self._news = threading.Condition()
        self._status: TaskStatus | None = None
        self._gate = GateStatus()
        self._gate_since = 0.0  # s of simulated time: when the gate came into its state
        self._chunks: list[tuple[float, int, float]] = []  # arrival, stamp (ns), forward (s)
        self._told: list[str] = []  # to the policy in this episode, one after the other
        self._threads = Threads(stack.context)
        self._threads.start(self._make_node)

    def _make_node(self) -> Node:
        node = self._node = rclpy.create_node("episodes", context=self.stack.context)
        node.create_subscription(
            TaskStatus, "sim_robot/task_status", self._on_status, qos.latched()
        )
        node.create_subscription(GateStatus, "gate_status", self._on_gate, qos.latched())
        node.create_subscription(ActionChunk, "action_chunk", self._on_chunk, qos.standard(10))
        node.create_subscription(Narration, "narration", self._on_narration, qos.standard(10))
        self._set_task = node.create_client(SetTask, "sim_robot/set_task")
        self._follow = ActionClient(node, FollowInstruction, "follow_instruction")
        self._ask = node.create_client(Ask, "ask")
        self._policy_state = node.create_client(GetState, "action_policy/get_state")
        return node

    def close(self) -> None:
        self._threads.stop()

    def wait_until_ready(self) -> None:
        """Wait until robot, policy and gate can be heard, and the policy takes instructions.

        Raises:
            StartError: they cannot within a minute, or the stack has failed.
        """
        for what, there in (
            ("the simulated robot", self._set_task.service_is_ready),
            ("action_policy", self._follow.server_is_ready),
            ("command_gate", lambda: self._node.count_publishers("gate_status")),
            ("vision_encoder", lambda: self._node.count_publishers("visual_tokens")),
        ):
            if not self._wait(there, _START_TIME):
                raise StartError(f"{what} did not come up within {_START_TIME:g} s")
        if "narrator" in self.stack.names and "narrator" not in self.stack.still_starting:
            # An instruction before that is not held against the scene.
            if not self._wait(self._ask.service_is_ready, _START_TIME):
                raise StartError(f"the narrator cannot be asked within {_START_TIME:g} s")
        if not self._wait(self._policy_is_active, _START_TIME):
            raise StartError(f"action_policy did not become active within {_START_TIME:g} s")
        if self._node.count_publishers("/clock") > 1:
            raise StartError(
                "another simulation publishes /clock: end it, or set another ROS_DOMAIN_ID"
            )

    def _policy_is_active(self) -> bool:
        """Ask the policy. Until it has discovered a client it answers nobody, and then it knows the
        clients made before, too: an answer here means that a goal will be answered."""
        answer = self._policy_state.call_async(GetState.Request())
        return self._wait(answer.done, 1.0) and answer.result().current_state.label == "active"

    # --- episodes ---------------------------------------------------------------------------

    def lay_out(self, family: str, seed: int) -> Task:
        """Give the robot a task, as soon as it is still; nobody is told an instruction.

        Raises:
            ValueError: there is no such task.
            RuntimeError: a node has ended or does not answer.
        """
        task = task_of(family, seed)
        self._wait(self._is_quiet, _ANSWER_TIME)
        laid = self._call(self._set_task.call_async(SetTask.Request(family=family, seed=seed)))
        if not laid.success:
            raise ValueError(laid.message)
        with self._news:
            self._status = None
            self._chunks, self._told = [], []

        def begun() -> bool:
            return self._status is not None and self._status.outcome == TaskStatus.RUNNING

        if not self._wait(begun, _ANSWER_TIME):
            raise RuntimeError("sim_robot does not report its task on sim_robot/task_status")
        return task

    def play(self, family: str, seed: int, instruction: str = "") -> EpisodeReport:
        """Give the robot a task and the policy its instruction, until the physics decide.

        Args:
            family: of the task.
            seed: of the task.
            instruction: told to the policy in place of the one that belongs to the task. No
                physics know what it asks for: the policy's own judgement counts then.

        Raises:
            ValueError: there is no such task.
            RuntimeError: a node has ended or does not answer.
        """
        task = self.lay_out(family, seed)

        def judged() -> bool:
            return status().outcome != TaskStatus.RUNNING

        def status() -> TaskStatus:
            return self._status or TaskStatus(outcome=TaskStatus.IDLE)

        instruction = instruction or task.instruction
        limit = task.time_limit
        goal = FollowInstruction.Goal(instruction=instruction, time_limit=limit + MORE_TIME)
        handle = self._send(goal)
        result = handle.get_result_async()
        # Simulated time may run slower than the wall's on a busy machine.
        own = instruction == task.instruction
        self._wait(lambda: own and judged() or result.done(), 10.0 * limit + _ANSWER_TIME)
        if own:
            end = (limit if task.refused else status().elapsed) + _SETTLE_TIME
            self._wait(lambda: judged() or status().elapsed > end, _ANSWER_TIME)
        if own and task.refused:  # a busy narrator may take longer to look than nothing moves
            self._wait(lambda: result.done() or self._told, _ANSWER_TIME)
        last, by_itself = status(), result.done()
        if not by_itself:
            handle.cancel_goal_async()
            self._call(result)
        ended = result.result().result
        if not own:
            last.outcome = TaskStatus.SUCCEEDED if ended.success else TaskStatus.FAILED
            last.reason, last.elapsed = ended.reason, ended.duration
        report = self._report(last, instruction, ended)
        if not own or not task.refused:
            return report
        if ended.steps or not by_itself:
            return replace(report, success=False, reason="it should have been refused")
        return replace(report, refusal=ended.reason, seconds=ended.duration)

    def follow(
        self, goal: FollowInstruction.Goal, on_feedback: Callable[[Any], None] | None = None
    ) -> Future:
        """Send a goal; the future is of its result. Raises RuntimeError: it is not accepted."""
        return self._send(goal, on_feedback).get_result_async()

    def _send(
        self, goal: FollowInstruction.Goal, on_feedback: Callable[[Any], None] | None = None
    ) -> ClientGoalHandle:
        # Sent from the thread that spins: rclpy loses an answer that comes before it has noted whom
        # it is for, which can only happen from another thread.
        send = partial(self._follow.send_goal_async, goal, feedback_callback=on_feedback)
        handle = self._call(self._call(self._node.executor.create_task(send)))
        if not handle.accepted:
            raise RuntimeError("action_policy refuses instructions: it is not active")
        return handle

    def _report(
        self, status: TaskStatus, instruction: str, result: FollowInstruction.Result
    ) -> EpisodeReport:
        chunks = list(self._chunks)
        frames = {frame.stamp: frame for frame in self.robot.frames.copy()}
        costs = [
            Cost(frames[stamp].latency, frames[stamp].render, forward)
            for _, stamp, forward in chunks
            if stamp in frames and not math.isnan(frames[stamp].latency)
        ]
        self.costs += costs
        reason = status.reason
        if status.outcome == TaskStatus.RUNNING:
            reason = f"the policy stopped too early ({result.reason}, it says)"
        rate = math.nan
        if len(chunks) > 1:
            rate = (len(chunks) - 1) / (chunks[-1][0] - chunks[0][0])
        return EpisodeReport(
            family=status.family,
            seed=status.seed,
            instruction=instruction,
            success=status.outcome == TaskStatus.SUCCEEDED,
            reason=reason,
            seconds=status.elapsed,
            steps=result.steps,
            told=tuple(self._told),
            outcomes=tuple(result.outcomes),
            rate=rate,
            latency=statistics.median(c.latency for c in costs) if costs else math.nan,
        )

    def _is_quiet(self) -> bool:
        """Whether the gate has let go of the robot: a new scene must not meet an old command."""
        if self._gate.state == GateStatus.HOLD:
            return seconds(self._gate.header.stamp) - self._gate_since > _QUIET_TIME
        return self._gate.state == GateStatus.CLOSED

    # --- waiting ----------------------------------------------------------------------------

    def _wait(self, condition: Callable[[], Any], timeout: float) -> bool:
        """Wait until the condition holds; looked at on every message, and now and then.

        Raises RuntimeError when the stack has failed.
        """
        end = time.monotonic() + timeout
        with self._news:
            while not condition():
                failure = self.stack.failure or self._threads.failure
                if failure:
                    raise RuntimeError(f"the stack has ended: {failure}")
                if time.monotonic() > end:
                    return False
                self._news.wait(0.05)
        return True

    def _call(self, future: Any) -> Any:
        if not self._wait(future.done, _ANSWER_TIME):
            raise RuntimeError("a node does not answer: look at its log")
        return future.result()

    def _on_status(self, message: TaskStatus) -> None:
        with self._news:
            self._status = message
            self._news.notify_all()

    def _on_gate(self, message: GateStatus) -> None:
        with self._news:
            if message.state != self._gate.state:
                self._gate_since = seconds(message.header.stamp)
            self._gate = message
            self._news.notify_all()

    def _on_chunk(self, message: ActionChunk) -> None:
        stamp = message.header.stamp
        arrival = (
            time.perf_counter(),
            stamp.sec * 10**9 + stamp.nanosec,
            message.inference_time,
        )
        with self._news:
            self._chunks.append(arrival)
            if message.instruction and message.instruction not in self._told[-1:]:
                self._told.append(message.instruction)

    def _on_narration(self, message: Narration) -> None:
        self.sentences.append(message.inference_time)
