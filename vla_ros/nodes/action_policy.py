"""Node action_policy: `visual_tokens` and `joint_states` in, `action_chunk` out, by instruction.

An instruction comes as a goal of `follow_instruction` or as a string on `instruction`. The newest
replaces the one before, also when it cannot be followed, and "" stops. Each starts the policy's
memory anew and ends when the policy judges it fulfilled, when its time is up or by a cancel.

Before it is begun it is held against what the narrator sees (service `ask`): things that are not
there, or not to be told apart, end it with a sentence that says what is there, and things that are
named by where they are become the policy's words for them. Without a narrator it is followed as it
was said. What asks for several things, one after the other, is followed subtask by subtask; between
two of them the arm goes back to where it began: what was pushed or put down is not touched again,
the cameras see all, and the policy begins from where it was taught to.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from vla_ros.action import FollowInstruction
from vla_ros.checkpoints import resolve
from vla_ros.models.compatibility import proprioception_order, with_robot
from vla_ros.models.policy import load_policy
from vla_ros.msg import ActionChunk, GateStatus, Narration, VisualTokens
from vla_ros.nodes.following import Following
from vla_ros.nodes.parameters import ACTION_POLICY as PARAMETERS
from vla_ros.observations import proprioception
from vla_ros.robots import panda
from vla_ros.robots.action_config import ActionConfig
from vla_ros.robots.actions import end_effector_chunk_to_joints
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.robots.returning import Return
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import OK, WARN, LifecycleNode
from vla_ros.ros.messages import chunk_message, seconds, tokens_from_message
from vla_ros.ros.robot_history import STAMP_ROUNDING, RobotHistory, several_publishers
from vla_ros.ros.running import run
from vla_ros.ros.scene_look import SceneLook
from vla_ros.ros.texts import shorten
from vla_ros.scene_language.plan import FULFILLED, Plan
from vla_ros.scene_language.references import AMBIGUOUS, Unresolved
from vla_ros.scene_language.requests import completed
from vla_ros.scene_language.scenes import Scene, from_tokens

_DESCRIBE_EVERY = 10  # steps
_NARRATION_LIFE = 3.0  # s; what the narrator said before tells no more what is being done


class ActionPolicyNode(LifecycleNode):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__("action_policy", PARAMETERS, **kwargs)
        self._following: Following | None = None

    def configure(self) -> None:
        torch.set_num_threads(1)
        path = resolve(self.params.checkpoint)
        self._model = load_policy(path)
        robot = ActionConfig.get_arm_config()  # what this node makes joint targets of, and feels
        fit = with_robot(self._model, robot, checkpoint=str(path)).require()
        for difference in fit.differences:
            self.get_logger().warning(shorten(str(difference)))
        self._felt = proprioception_order(self._model, robot.proprioception_names)
        self._encoder_id = self._model.encoder_id
        self._kinematics = ArmKinematics()
        self._publisher = self.publisher(ActionChunk, "action_chunk", qos.standard(1))
        server = ActionServer(
            self,
            FollowInstruction,
            "follow_instruction",
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )
        self._while_configured.append(server.destroy)
        self._scene_look = SceneLook(self)
        self._while_configured.append(self._scene_look.destroy)
        self._unanswered: str | None = None  # an instruction about which something was asked

    def activate(self) -> None:
        self._history = RobotHistory(
            self.params.state_topics
        )  # an image is seen together with the joints at its own time
        self._seen: VisualTokens | None = None  # waits for the joint states of its moment
        self._narration = Narration()
        self._gate_state = GateStatus.CLOSED
        self._steps = 0
        self._inference_time = 0.0
        self.subscribe(VisualTokens, "visual_tokens", self._on_tokens, qos.sensor())
        for topic in self.params.state_topics:
            callback = partial(self._on_joint_states, topic=topic)
            self.subscribe(JointState, topic, callback, qos.standard(100))
        self.subscribe_latched_or_not(String, "instruction", self._on_instruction)
        self.subscribe(GateStatus, "gate_status", self._on_gate_status, qos.latched())
        self.subscribe(Narration, "narration", self._on_narration, qos.standard())
        self.every(0.1, self._watch_time)
        if self.params.instruction:
            self._follow(self.params.instruction)

    def deactivate(self) -> None:
        self._end(False, "the policy was deactivated")

    def cleanup(self) -> None:
        self._model = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        steps, self._steps = self._steps, 0
        details = {
            "steps_per_second": steps,
            "inference_time_ms": round(1e3 * self._inference_time, 2),
        }
        if self._following is None:
            return OK, "waiting for an instruction", details
        text = f"following: {self._following.plan.instruction}"
        return (OK if steps else WARN), text if steps else f"{text} (no observations)", details

    # --- instructions -----------------------------------------------------------------------

    def _follow(
        self, instruction: str, time_limit: float = 0.0, goal: ServerGoalHandle | None = None
    ) -> Following:
        """Begin anew. Raises ValueError when the instruction cannot be followed."""
        self._end(False, f"replaced by: {instruction}")
        if not 0.0 <= time_limit < math.inf:
            raise ValueError(f"time_limit is {time_limit}: give seconds, or 0 for the default")
        plan = Plan(instruction)
        self._following = Following(
            plan=plan,
            started=self.now,
            time_limit=time_limit or self.params.time_limit * len(plan.subtasks),
            goal=goal,
            ended=Future(),
        )
        self._look(self._following)
        return self._following

    def _look(self, following: Following) -> None:
        """Begin the next subtask, after a look at the scene if there is a narrator to ask.

        Raises:
            ValueError: there is none, and the words cannot be followed.
        """
        following.episode, following.done_steps = None, 0
        tell = partial(self._on_scene, following)
        if self.params.scene_check == "ignore" or not self._scene_look.ask(tell):
            try:
                self._begin(following, None)
            except ValueError:
                self._following = None
                raise

    def _on_scene(self, following: Following, tokens: Sequence[str], why: str) -> None:
        if self._following is not following:
            return
        problem = f"the instruction is not held against the scene: {why}" if why else ""
        self.log_edge("scene", problem)
        try:
            self._begin(following, from_tokens(tokens) if tokens else None)
        except Unresolved as error:
            if self.params.scene_check == "ask" and error.kind == AMBIGUOUS:
                self._unanswered = following.plan.subtasks[following.plan.number]
            self._end(False, str(error))
        except ValueError as error:
            self._end(False, f"{why}, and {error}" if why else str(error))

    def _begin(self, following: Following, scene: Scene | None) -> None:
        """Start the policy's memory on a subtask. Raises ValueError: it cannot be followed."""
        pending, self._unanswered = self._unanswered, None
        if scene is not None and pending is not None:
            whole = completed(pending, following.plan.instruction, scene)
            following.plan = Plan(whole) if whole is not None else following.plan
        if scene is not None and following.plan.number == 0:
            following.plan.check(scene)
        text = following.plan.begin(scene)
        following.episode = self._model.start(text)
        following.begun, following.description = self.now, ""
        said = following.plan.subtasks[following.plan.number]
        meant = f"{said} (which is: {text})" if text != said else text
        self.get_logger().info(shorten(f"following: {meant}"))
        if unheard := self._model.unheard_words(text):
            self.get_logger().warning(shorten(f"words never taught: {', '.join(unheard)}"))
        if not self._model.language_conditioned:
            self.get_logger().warning(
                "the policy was trained without instructions: it heeds no words, and does the same "
                "whatever is said"
            )

    def _end(self, success: bool, reason: str) -> None:
        following, self._following = self._following, None
        if following is not None:
            self._scene_look.forget()
            reason = shorten(reason)
            if not following.plan.finished:
                following.plan.end(reason)
            text = f"{reason} ({following.steps} steps): {following.plan.instruction}"
            self.get_logger().info(shorten(text))
            following.ended.set_result((success, reason))

    def _on_instruction(self, message: String, _: dict[str, Any] | None = None) -> None:
        if not message.data.strip():
            self._end(False, "stopped")
            return
        following = self._following
        if following and following.plan.instruction.strip() == message.data.strip():
            return  # whoever says it again and again means one episode, as in recordings
        try:
            self._follow(message.data)
        except ValueError as error:
            self.get_logger().error(shorten(f"cannot follow '{message.data}': {error}"))

    def _on_goal(self, _: FollowInstruction.Goal) -> GoalResponse:
        return GoalResponse.ACCEPT if self.state == "active" else GoalResponse.REJECT

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        following = self._following
        if following is not None and following.goal is goal:
            self._end(False, "cancelled")
        return CancelResponse.ACCEPT

    async def _execute(self, goal: ServerGoalHandle) -> FollowInstruction.Result:
        """Serve a goal. Awaiting leaves the node's only thread to the steps of the policy."""
        try:
            following = self._follow(goal.request.instruction, goal.request.time_limit, goal)
        except ValueError as error:
            self.get_logger().error(shorten(f"cannot follow '{goal.request.instruction}': {error}"))
            goal.abort()
            return FollowInstruction.Result(success=False, reason=shorten(str(error)))
        success, reason = await following.ended
        if goal.is_cancel_requested:
            goal.canceled()
        elif success:
            goal.succeed()
        else:
            goal.abort()
        return following.result(self.now, success, reason)

    def _watch_time(self) -> None:
        following = self._following
        if following is None:
            return
        if following.started == 0.0 or self.now < following.started:
            following.started = (
                self.now
            )  # the clock was not there yet, or a simulation started over
        if self.now - following.started > following.time_limit:
            self._end(False, f"time limit of {following.time_limit:g} s reached")
        elif following.is_looking:
            self._scene_look.watch()

    # --- observations -----------------------------------------------------------------------

    def _on_joint_states(self, message: JointState, topic: str = "joint_states") -> None:
        self._history.add_joint_states(message, topic)
        if self._seen is not None:
            self._step_when_complete()

    def _on_gate_status(self, message: GateStatus) -> None:
        self._gate_state = message.state

    def _on_narration(self, message: Narration) -> None:
        self._narration = message

    def _on_tokens(self, message: VisualTokens) -> None:
        following = self._following
        if following is None or following.is_looking:
            return
        if message.encoder_id != self._encoder_id:
            reason = (
                f"visual tokens come from encoder {message.encoder_id}, the policy was trained "
                f"with {self._encoder_id}: give vision_encoder and action_policy one checkpoint"
            )
            self.get_logger().error(shorten(reason))
            self._end(False, reason)
            return
        self._seen = message  # in the place of one that still waits
        self._step_when_complete()

    def _step_when_complete(self) -> None:
        """Step once joint states as new as the images have come: these were the newest by then.

        Both are on their way at once, and which callback is called first is a matter of chance; a
        recording of the same messages would otherwise give other inputs.
        """
        following, message = self._following, self._seen
        missing = seconds(message.header.stamp) - self._history.joints_complete
        if STAMP_ROUNDING < missing <= self.params.state_timeout:
            return
        self._seen = None
        if following is None or following.is_looking:
            return
        try:
            self._step(following, message)
        except ValueError as error:
            # Of two publishers on one topic one may be wrong: who they are tells where to look.
            who = several_publishers(self, self.params.state_topics)
            self.log_edge("observation", f"no action: {error}{who and f' ({who})'}")
        else:
            self.log_edge("observation", "")

    def _step(self, following: Following, message: VisualTokens) -> None:
        names = self._model.action_config.joint_names
        measured = self._history.joint_positions(
            names, message.header.stamp, self.params.state_timeout
        )
        self.log_edge("names", self._history.nameless)
        tokens = tokens_from_message(message)
        if following.way_back is not None:
            self._return(following, message, measured)
            return
        if following.home is None:
            following.home, _ = self._kinematics.forward(measured[:-1])
        begin = time.perf_counter()
        felt = proprioception(measured, self._kinematics)[self._felt]
        action = following.episode.act(tokens, felt)
        self._inference_time = time.perf_counter() - begin
        following.opening = float(action.actions[0, -1])
        self._publish(
            following,
            message,
            end_effector_chunk_to_joints(self._kinematics, measured, action.actions),
            instruction=following.episode.instruction,
            confidence=action.confidence,
            done=action.done,
            inference_time=message.inference_time + self._inference_time,
        )
        self._judge(following, action.done)

    def _return(self, following: Following, message: VisualTokens, measured: np.ndarray) -> None:
        """A step of the way back between two subtasks; at its end the next one is begun."""
        if following.way_back.is_over(measured, self.now):
            following.way_back = None
            self._begin_next(following)
            return
        config = self._model.action_config
        actions = following.way_back.chunk(measured, following.opening, config.horizon, config.dt)
        points = end_effector_chunk_to_joints(self._kinematics, measured, actions)
        self._publish(following, message, points, instruction="", confidence=1.0, done=0.0)

    def _publish(
        self, following: Following, message: VisualTokens, points: np.ndarray, **what: Any
    ) -> None:
        config = self._model.action_config
        chunk = chunk_message(points, config.joint_names, config.dt, tick=following.steps, **what)
        chunk.header.stamp = message.header.stamp
        chunk.header.frame_id = panda.BASE_FRAME
        self._publisher.publish(chunk)
        self._steps += 1
        following.steps += 1

    def _judge(self, following: Following, done: float) -> None:
        if following.goal is not None:
            if following.steps % _DESCRIBE_EVERY == 1:
                following.description = following.episode.describe()[0]
            narration = self._narrated(following)
            feedback = following.feedback(self.now, done, narration, self._gate_state)
            following.goal.publish_feedback(feedback)
        following.done_steps = following.done_steps + 1 if done > self.params.done_threshold else 0
        if following.done_steps >= self.params.done_steps:
            self._fulfilled(following)

    def _fulfilled(self, following: Following) -> None:
        following.plan.end(FULFILLED)
        if following.plan.finished:
            self._end(True, FULFILLED)
            return
        following.episode, following.done_steps = None, 0
        if following.home is None:
            self._begin_next(following)
        else:
            following.way_back = Return(self._kinematics, following.home, self.now)

    def _begin_next(self, following: Following) -> None:
        try:
            self._look(following)
        except ValueError as error:
            self._following = following
            self._end(False, str(error))

    def _narrated(self, following: Following) -> str:
        """What the narrator says about this instruction; "" when it says nothing these seconds."""
        stamp, now = seconds(self._narration.header.stamp), self.now
        about_this = self._narration.instruction == following.episode.instruction
        recent = max(following.begun, now - _NARRATION_LIFE) <= stamp <= now
        return self._narration.text if about_this and recent else ""


def main(args: list[str] | None = None) -> int:
    return run(ActionPolicyNode, args)


if __name__ == "__main__":
    sys.exit(main())
