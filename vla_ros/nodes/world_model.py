"""Node world_model: the camera and what the robot is told in, `imagination` out.

It observes a frame every `dt` of the model, with the robot actions that led to it where they are
known, and says how much the frame surprised it. Every so often, and when the service `imagine`
asks, it imagines what comes next: one frame at a time, so that no real one waits for long. Between
them it paints what the service `imagine_scene` asks for.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.task import Future
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from vla_ros.checkpoints import resolve
from vla_ros.images import image_from_message
from vla_ros.models.genie.genie import Dream, Imagined, WorldModel
from vla_ros.msg import ActionChunk, GateStatus, Imagination
from vla_ros.nodes.imagined_scenes import ImaginedScenes
from vla_ros.nodes.parameters import WORLD_MODEL as PARAMETERS
from vla_ros.nodes.plan_reader import PlanReader
from vla_ros.observations import preprocess_image
from vla_ros.robots.action_config import ActionConfig
from vla_ros.ros import qos
from vla_ros.ros.keeping_up import KeepingUp
from vla_ros.ros.lifecycle import OK, WARN, LifecycleNode
from vla_ros.ros.messages import (
    image_message,
    imagination_message,
    seconds,
)
from vla_ros.ros.robot_history import RESTART, STAMP_ROUNDING, RobotHistory, arm_chunk
from vla_ros.ros.running import run
from vla_ros.ros.texts import shorten
from vla_ros.srv import Imagine

_PATIENCE = 0.1  # s that a frame waits for the chunk before it; the gate follows no later one
_NO_TIME = "no time to keep up beside the control: nothing is imagined unless it is asked for"
_REST = 0.02  # s between two imagined frames, for the messages that have come


@dataclass
class Seen:
    """The frame that was observed last."""

    stamp: float  # s
    header: Header
    frame: np.ndarray  # uint8 [S, S, 3]
    surprise: float | None


@dataclass
class Imagining:
    """Frames to come, of which some have been imagined."""

    begin: Seen
    steps: Iterator[Imagined]
    horizon: int
    asked: Future | None = None  # of (why not, Imagination), for the service
    imagined: list[Imagined] = field(default_factory=list)


class WorldModelNode(LifecycleNode):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__("world_model", PARAMETERS, **kwargs)
        self._imaginings: deque[Imagining] = deque()
        # As long as the node lives, so that every call is answered; and in a group of its own, as
        # an unfinished call would keep the other callbacks of its group waiting.
        group = ReentrantCallbackGroup()
        self.create_service(Imagine, "imagine", self._on_imagine, callback_group=group)
        self._scenes = ImaginedScenes(self, lambda: self._work.reset())

    def configure(self) -> None:
        torch.set_num_threads(1)
        path = resolve(self.params.checkpoint)
        self._world = WorldModel.from_pretrained(path)
        config, arm = self._world.config, ActionConfig.get_arm_config()
        for name in ("control_mode", "action_names", "proprioception_names"):
            here, there = getattr(arm, name), getattr(config.robot, name, None)
            if config.robot and there != here:
                raise ValueError(
                    f"the checkpoint {path} is of a robot with {name} {_words(there)}, this one "
                    f"has {_words(here)}: train one for this robot or choose another checkpoint"
                )
        if self.params.horizon > config.longest:
            raise ValueError(
                f"horizon is {self.params.horizon}, but the checkpoint {path} imagines at most "
                f"{config.longest} frames: give 1 to {config.longest}"
            )
        self._scenes.load(self.params.scenes)
        self._topic = self.params.camera_topic or f"{config.camera}/image_raw"
        self._publisher = self.publisher(Imagination, "imagination", qos.standard())
        # Reliable: what RViz and rqt ask for unless told otherwise.
        self._pictures = self.publisher(Image, "imagination/image", qos.standard(1))

    def activate(self) -> None:
        self._history = RobotHistory(self.params.state_topics)
        self._plans = PlanReader(self._history, self._world.config)
        self._forget()
        log = self.get_logger()
        self._keeping_up = KeepingUp(log.warning, log.info, _NO_TIME)
        self._received = self._observed = self._known = self._gaps = 0
        self._unfit = ""  # what is wrong with the images
        self._observing_time = self._imagining_time = 0.0  # s, of the newest frame
        self._imagined_since = 0  # frames and scenes, since the newest real one
        self._scene_is_next = True
        # Steady time: this is about work to do, not about the robot. It runs while there is some.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._work = self.create_timer(_REST, self._imagine_frame, clock=steady)
        self._work.cancel()
        self._while_active.append(lambda: self.destroy_timer(self._work))
        self.subscribe(Image, self._topic, self._on_image, qos.sensor())
        # Deep enough for what comes while a frame is observed: the newest is not all here.
        for topic in self.params.state_topics:
            callback = partial(self._on_joint_states, topic=topic)
            self.subscribe(JointState, topic, callback, qos.standard(100))
        self.subscribe(ActionChunk, "action_chunk", self._on_chunk, qos.standard())
        self.subscribe(GateStatus, "gate_status", self._on_gate_status, qos.latched())

    def deactivate(self) -> None:
        while self._imaginings:
            self._end(self._imaginings.popleft(), "world_model was deactivated meanwhile")
        self._scenes.end("world_model was deactivated meanwhile")

    def cleanup(self) -> None:
        self._world = self._dream = None
        self._scenes.load("")

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        received, observed = self._received, self._observed
        known, gaps = self._known, self._gaps
        self._received = self._observed = self._known = self._gaps = 0
        self._keeping_up.note(bool(gaps))
        surprise = self._seen.surprise if self._seen else None
        details = {
            "frames_per_second": observed,
            "with_known_actions": known,
            "observing_ms": round(1e3 * self._observing_time, 1),
            "imagining_ms": round(1e3 * self._imagining_time, 1),
            "surprise": "unknown" if surprise is None else round(surprise, 3),
            "keeps_up": not self._keeping_up.is_behind,
        }
        problem = "" if received else f"no images on {self._topic}"
        self.log_edge("images", self._keeping_up.lasting("images", problem))
        unknown = self._plans.problem and f"robot actions are unknown: {self._plans.problem}"
        self.log_edge("joints", self._keeping_up.lasting("joints", unknown))
        if received and self._unfit:
            problem = self._unfit
        elif received > 1 and self._stamps[0] == self._stamps[-1]:
            problem = f"images on {self._topic}, but their stamps stand still"
        elif self._keeping_up.is_behind:
            problem = self._keeping_up.problem
        elif gaps:
            problem = (
                f"frames are more than {1.5 * self._world.config.dt:g} s apart, and each gap makes "
                "the model begin anew: is the camera slower, or the machine too busy?"
            )
        return (WARN, problem, details) if problem else (OK, "observing", details)

    # --- what comes in ----------------------------------------------------------------------

    def _forget(self) -> None:
        """Know nothing, as after a start."""
        self._waiting: Image | None = None
        self._stamps: deque[float] = deque(maxlen=9)  # of images
        self._dream: Dream | None = None
        self._seen: Seen | None = None

    def _on_joint_states(self, message: JointState, topic: str = "joint_states") -> None:
        self._history.add_joint_states(message, topic)
        self._observe_when_known(seconds(message.header.stamp))

    def _on_chunk(self, message: ActionChunk) -> None:
        problem = ""
        try:
            chunk = arm_chunk(message)
        except ValueError as error:
            problem = str(error)
        self.log_edge("chunk", problem and f"action chunks are passed over: {problem}")
        if not problem:
            self._history.add_chunk(chunk)
            self._observe_when_known(chunk.stamp)

    def _on_gate_status(self, message: GateStatus) -> None:
        # A slowed robot does less than it is told, which would surprise and slow it further.
        obeys = message.state == GateStatus.ACTIVE and not message.slowed
        self._history.add_gate_status(seconds(message.header.stamp), obeys)

    def _on_image(self, message: Image) -> None:
        stamp = seconds(message.header.stamp)
        self._received += 1
        if self._stamps and stamp < self._stamps[-1]:
            if stamp >= self._stamps[-1] - RESTART:
                return  # late: a newer one is here
            self._forget()  # the clock began anew
        self._stamps.append(stamp)
        self._observe_when_known(stamp)
        if self._waiting is None and self._is_due(stamp):
            self._waiting = message
            self._observe_when_known(stamp)

    def _is_due(self, stamp: float) -> bool:
        """Whether an image is the next frame."""
        if self._seen is None:
            return True
        return stamp - self._seen.stamp >= self._world.config.dt - self._tolerance()

    def _tolerance(self) -> float:
        """Half the camera's period."""
        periods = [later - earlier for earlier, later in pairwise(self._stamps)]
        return min([*periods, self._world.config.dt]) / 2 + STAMP_ROUNDING

    # --- observing --------------------------------------------------------------------------

    def _observe_when_known(self, now: float) -> None:
        """Observe the frame that waits once it is known what led to it, or will not be.

        Args:
            now: the newest stamp on any topic, s.
        """
        message = self._waiting
        if message is None:
            return
        stamp = seconds(message.header.stamp)
        since = self._seen and self._seen.stamp
        if now - stamp < _PATIENCE and self._plans.may_become_known(stamp, since):
            return
        self._waiting = None
        try:
            picture = preprocess_image(image_from_message(message), self._world.image_size)
        except ValueError as error:
            self._unfit = f"frames are not observed: {self._topic}: {error}"
            self.log_edge("image", self._unfit)
            return
        self._unfit = ""
        self.log_edge("image", "")
        self._observe(picture, message.header, stamp)

    def _observe(self, picture: np.ndarray, header: Header, stamp: float) -> None:
        longest = 1.5 * self._world.config.dt + STAMP_ROUNDING
        if self._seen is None or stamp - self._seen.stamp > longest:
            self._gaps += self._seen is not None
            self._dream = self._world.start()
            # On a machine that is too busy for both, observing comes first.
            self._imaginings = deque(one for one in self._imaginings if one.asked)
            self._last_imagined = stamp  # not from one frame alone
        told = None
        if self._seen is not None:
            told = self._plans.led_to(stamp, self._seen.header.stamp, self._tolerance())
        actions, felt = told or (None, None)
        self._known += told is not None
        began = time.perf_counter()
        with self._keeping_up.working():
            observed = self._dream.observe(picture, actions=actions, proprioception=felt)
        self._observing_time = time.perf_counter() - began
        self._observed += 1
        self._imagined_since = 0
        self._seen = Seen(stamp, header, picture, observed.surprise)
        self._publisher.publish(
            imagination_message(header, self._world.config.dt, surprise=observed.surprise)
        )
        self._imagine_now_and_then()

    # --- imagining --------------------------------------------------------------------------

    def _imagine_now_and_then(self) -> None:
        """Begin to imagine under the newest chunk's plan, when it is time and somebody looks."""
        period, stamp = self.params.imagine_period, self._seen.stamp
        if not period or self._imaginings or self._keeping_up.is_behind:
            return
        if stamp - self._last_imagined < period - self._world.config.dt / 2:
            return
        if not any(x.get_subscription_count() for x in (self._publisher, self._pictures)):
            return
        self._last_imagined = stamp
        horizon = self.params.horizon
        plan = self._plans.to_follow(self._seen.header.stamp, horizon)
        actions, felt = plan or (None, None)
        steps = self._dream.imagine(horizon, actions=actions, proprioception=felt)
        self._begin(Imagining(self._seen, steps, horizon))

    async def _on_imagine(
        self, request: Imagine.Request, response: Imagine.Response
    ) -> Imagine.Response:
        try:
            asked = self._ask(request)
        except ValueError as error:
            response.message = shorten(str(error))
            return response
        response.message, response.imagination = await asked
        response.success = not response.message
        return response

    def _ask(self, request: Imagine.Request) -> Future:
        """Begin what a call asks for. Raises ValueError when that cannot be done."""
        if self.state != "active":
            raise ValueError(f"world_model is {self.state}: configure and activate it first")
        if self._seen is None:
            raise ValueError(f"nothing was seen yet: are there images on {self._topic}?")
        if request.actions and request.latent_actions:
            raise ValueError("both actions and latent_actions are given: give one of them")
        if request.dof and not request.actions:
            raise ValueError(f"dof is {request.dof}, but there are no actions: give both or none")
        actions = felt = None
        if request.actions:
            actions = self._actions(request)
            felt = self._plans.felt(self._seen.header.stamp)
        steps = self._dream.imagine(
            request.horizon,
            latent_actions=list(request.latent_actions) or None,
            actions=actions,
            proprioception=felt,
        )
        asked = Future()
        self._begin(Imagining(self._seen, steps, request.horizon, asked))
        return asked

    def _actions(self, request: Imagine.Request) -> np.ndarray:
        """[horizon * points, dof] of a call. Raises ValueError: wrong sizes."""
        robot = self._world.config.robot
        if robot is None:
            raise ValueError("this world model was trained without robot actions: give latent ones")
        names, rows = robot.action_names, request.horizon * robot.points
        if request.dof != len(names):
            raise ValueError(
                f"dof is {request.dof}, but an action of this robot has {len(names)} numbers: "
                f"{', '.join(names)}"
            )
        if len(request.actions) != rows * len(names):
            raise ValueError(
                f"{len(request.actions)} numbers are given for {request.horizon} frames: give "
                f"{rows * len(names)}, {robot.points} actions of {len(names)} for each"
            )
        return np.array(request.actions).reshape(rows, len(names))

    def _begin(self, imagining: Imagining) -> None:
        self._imaginings.append(imagining)
        self._work.reset()

    def _imagine_frame(self) -> None:
        if not self._imaginings and not self._scenes:
            self._work.cancel()
            return
        if self._would_be_missed():
            return
        self._scene_is_next = bool(self._scenes) and (self._scene_is_next or not self._imaginings)
        with self._keeping_up.working():
            if self._scene_is_next:
                self._scenes.paint_one()
            else:
                self._imagine_one(self._imaginings[0])
        self._scene_is_next = not self._scene_is_next  # they take turns
        self._imagined_since += 1
        self._work.reset()  # rest from now on, not from when the frame was begun

    def _imagine_one(self, imagining: Imagining) -> None:
        began = time.perf_counter()
        imagining.imagined.append(next(imagining.steps))
        self._imagining_time = time.perf_counter() - began
        if len(imagining.imagined) == imagining.horizon:
            self._end(self._imaginings.popleft())

    def _would_be_missed(self) -> bool:
        """Whether the next real frame would, were one imagined now. After each real one is imagined
        at least one, however long that takes."""
        longest = 1.5 * self._world.config.dt
        passed = self.now - self._seen.stamp if self._seen else longest
        return self._imagined_since > 0 and passed < longest < passed + self._imagining_time

    def _end(self, imagining: Imagining, problem: str = "") -> None:
        begin, imagined = imagining.begin, imagining.imagined
        message = Imagination()
        if not problem:
            frames = [one.frame for one in imagined]
            codes = [one.latent_action for one in imagined]
            dt = self._world.config.dt
            message = imagination_message(begin.header, dt, frames, codes, begin.surprise)
            strip = np.concatenate([begin.frame, *frames], axis=1)  # the real one first
            self._pictures.publish(image_message(strip, begin.header))
        if imagining.asked:
            imagining.asked.set_result((problem, message))
        elif not problem:
            self._publisher.publish(message)


def _words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def main(args: list[str] | None = None) -> int:
    return run(WorldModelNode, args)


if __name__ == "__main__":
    sys.exit(main())
