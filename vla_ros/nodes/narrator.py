"""Node narrator: `narrator/visual_tokens`, `joint_states`, `action_chunk` in, `narration` out.

The tokens come from its eye, which is a node of its own: `narrator_eye`, a vision_encoder that
serves the same checkpoint.

It narrates at its own rate, and with the next frame of its eye when what the robot is told changes:
another instruction, none any more, or a hand that is to close or open. An observation is tokens,
the joint states of their stamp, and the chunk of their stamp while a policy acts. The eye may see
fewer frames than the policy, and come earlier or later with one than the policy with its chunk. It
looks at one observation at a time, the newest: what came while it was speaking is old by then. The
service `ask` answers questions about the newest one.

With a checkpoint of text -> scene -> text each sentence has its cycle score: what is seen is
painted from above, and what is read in that picture is compared with the sentence.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sensor_msgs.msg import JointState

from vla_ros.checkpoints import resolve
from vla_ros.models.narrator import Narrator, Said, Sight, plan_of
from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.models.scenes.layout import Picture
from vla_ros.models.scenes.reading import can_be_shown
from vla_ros.msg import ActionChunk, Narration, VisualTokens
from vla_ros.nodes.parameters import NARRATOR as PARAMETERS
from vla_ros.observations import proprioception
from vla_ros.robots import panda
from vla_ros.robots.actions import joint_chunk_to_end_effector
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.ros import qos
from vla_ros.ros.keeping_up import KeepingUp
from vla_ros.ros.lifecycle import OK, WARN, LifecycleNode
from vla_ros.ros.messages import seconds, tokens_from_message
from vla_ros.ros.robot_history import RESTART, STAMP_ROUNDING, RobotHistory, arm_chunk
from vla_ros.ros.running import run
from vla_ros.ros.texts import shorten
from vla_ros.scene_language.actions import Action, step
from vla_ros.scene_language.scenes import to_tokens
from vla_ros.scene_language.vocabulary import tokens_of
from vla_ros.srv import Ask

_TOKENS = "narrator/visual_tokens"
_SILENCE = 0.5  # s of frames without chunks that end an instruction
_WAITING = 0.3  # s that a frame waits for its chunk
_EYE_BEHIND = 1.0  # s that a chunk waits for its frame: on a busy machine its eye may be late
_LATE = 1.0  # s from a picture to what is said about it
_SELDOM = 5.0  # s between two sentences when there is no time for more
_NO_TIME = (
    f"no time to keep up beside the control: what is seen is told every {_SELDOM:g} s at most"
)
_OLD = 2.0  # s; that an answer is about an older picture is said with it
_JUDGED = 20  # newest sentences, of which the share of unsound ones is told


@dataclass(frozen=True)
class Told:
    """What the robot was told on one observation."""

    stamp: float  # s, of the observation
    instruction: str
    point: np.ndarray  # [1, D] joint targets as far ahead as plans of the narrator reach, rad and m

    @property
    def gist(self) -> tuple[str, bool]:
        """What is worth a word at once when it changes."""
        return self.instruction, Action.of_metres(np.zeros(3), self.point[0, -1]).opens


class NarratorNode(LifecycleNode):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__("narrator", PARAMETERS, **kwargs)
        # As long as the node lives, so that every call is answered.
        self.create_service(Ask, "ask", self._on_ask)

    def configure(self) -> None:
        torch.set_num_threads(1)
        self._narrator = Narrator.from_pretrained(resolve(self.params.checkpoint))
        scenes = self.params.scenes
        self._scenes = CycleScenes.from_pretrained(resolve(scenes)) if scenes else None
        self._encoder_id = self._narrator.encoder_id
        self._kinematics = ArmKinematics()
        self._publisher = self.publisher(Narration, "narration", qos.standard())

    def activate(self) -> None:
        self._history = RobotHistory(self.params.state_topics)
        self._forget()
        log = self.get_logger()
        self._keeping_up = KeepingUp(log.warning, log.info, _NO_TIME)
        self._received = self._published = 0
        self._missed = False  # a sentence came late, or none could be said
        self._inference_time = 0.0
        self._sound: deque[bool] = deque(maxlen=_JUDGED)
        self._doubts: deque[bool] = deque(maxlen=_JUDGED)  # of sentences with a score
        self._unknown: tuple[str, ...] = ()
        self._problem = ""  # why the newest frames are not narrated
        self.subscribe(VisualTokens, _TOKENS, self._on_tokens, qos.sensor())
        # Deep enough for what comes while it speaks: the newest are not all that is needed.
        for topic in self.params.state_topics:
            callback = partial(self._on_joint_states, topic=topic)
            self.subscribe(JointState, topic, callback, qos.standard(100))
        self.subscribe(ActionChunk, "action_chunk", self._on_chunk, qos.standard())

    def cleanup(self) -> None:
        self._narrator = self._scenes = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        received, published = self._received, self._published
        self._received = self._published = 0
        unsound = self._sound.count(False)
        details = {
            "narrations_per_second": published,
            "inference_ms": round(1e3 * self._inference_time, 1),
            "unsound_share": _share([not sound for sound in self._sound]),
            "doubtful_share": _share(self._doubts),
            "unknown_words": ", ".join(self._unknown),
        }
        self._keeping_up.note(self._missed or bool(self._problem))
        self._missed = False
        details["keeps_up"] = not self._keeping_up.is_behind
        problem = "" if received else f"no visual tokens on {_TOKENS}: is narrator_eye active?"
        self.log_edge("tokens", self._keeping_up.lasting("tokens", problem))
        self.log_edge("observation", self._keeping_up.lasting("observation", self._problem))
        problem = self._keeping_up.problem or problem or self._problem
        if not problem and 2 * unsound > _JUDGED:
            problem = (
                f"{unsound} of the last {len(self._sound)} sentences did not hold of the scene "
                "that was read, and were not said: does the robot look as it did in training?"
            )
        return (WARN, problem, details) if problem else (OK, "narrating", details)

    # --- what comes in ----------------------------------------------------------------------

    def _forget(self) -> None:
        """Know nothing, as after a start."""
        self._newest: VisualTokens | None = None
        # The newest whose joint states have come, and those.
        self._complete: tuple[VisualTokens, np.ndarray] | None = None
        self._frames: deque[VisualTokens] = deque()  # not looked at yet
        self._told: deque[Told] = deque()  # empty: no policy acts
        self._silent_since: float | None = None  # s, of the first frame since the newest chunk
        self._listening_since: float | None = -math.inf  # s, of the first frame since it spoke
        self._narrated: float | None = None  # s, of the frame narrated last
        self._gist: tuple[str, bool] | None = None  # of what was told then

    def _on_tokens(self, message: VisualTokens) -> None:
        self._received += 1
        if message.encoder_id != self._encoder_id:
            self._problem = (
                f"visual tokens come from encoder {message.encoder_id}, the narrator was trained "
                f"with {self._encoder_id}: give narrator_eye and narrator one checkpoint"
            )
            return
        stamp = seconds(message.header.stamp)
        if self._newest is not None and stamp < (last := seconds(self._newest.header.stamp)):
            if stamp >= last - RESTART:
                return  # late: a newer frame is here
            self._forget()  # the clock began anew
        if self._listening_since is None:
            self._listening_since = stamp
        self._newest = message
        self._note_complete()
        self._frames.append(message)
        while stamp - seconds(self._frames[0].header.stamp) > _WAITING:
            self._frames.popleft()
        if self._told:
            if self._silent_since is None:
                self._silent_since = stamp
            if stamp - self._silent_since > _SILENCE:
                self._told.clear()
        self._narrate_when_due()

    def _on_joint_states(self, message: JointState, topic: str = "joint_states") -> None:
        self._history.add_joint_states(message, topic)
        self._note_complete()
        self._narrate_when_due()

    def _note_complete(self) -> None:
        newest = self._newest
        if self._complete and self._complete[0] is newest:
            return
        if newest and seconds(newest.header.stamp) - self._history.joints_complete < STAMP_ROUNDING:
            with suppress(ValueError):  # of joint states that it cannot use
                self._complete = newest, self._measured(newest)

    def _on_chunk(self, message: ActionChunk) -> None:
        problem = ""
        try:
            chunk = arm_chunk(message)
            ahead = round(self._narrator.config.horizon / chunk.dt)
            if not 1 <= ahead <= len(chunk.points):
                raise ValueError(
                    f"{len(chunk.points)} points {chunk.dt:g} s apart do not tell where the robot "
                    f"is to be {self._narrator.config.horizon:g} s later"
                )
        except ValueError as error:
            problem = f"action chunks are passed over: {error}"
        self.log_edge("chunk", problem)
        if not problem:
            point = chunk.points[ahead - 1 : ahead]
            self._told.append(Told(chunk.stamp, message.instruction, point))
            while chunk.stamp - self._told[0].stamp > _EYE_BEHIND:
                self._told.popleft()
            self._silent_since = None
            self._narrate_when_due()

    # --- narrating --------------------------------------------------------------------------

    def _narrate_when_due(self) -> None:
        frame, told = self._observation()
        if frame is None:
            return
        stamp, gist = seconds(frame.header.stamp), told and told.gist
        if not self._is_due(stamp, gist):
            return
        newest, since = self._history.joints_complete, self._listening_since
        awaited_since = newest if since is None else max(newest, since)
        if stamp - newest > STAMP_ROUNDING and stamp - awaited_since <= self.params.state_timeout:
            return  # they are on their way, as for the policy, or behind what has not been taken
        try:
            measured = self._measured(frame)
            self._narrated, self._gist = stamp, gist
            with self._keeping_up.working():
                self._narrate(frame, told, measured)
            self._listening_since = None
        except ValueError as error:
            self._problem = f"no narration: {error}"
        else:
            self._problem = ""

    def _observation(self) -> tuple[VisualTokens | None, Told | None]:
        """The newest frame that can be narrated, and what the robot was told on it: while a policy
        acts, a frame that has its chunk."""
        if not self._told:
            return (self._frames[-1] if self._frames else None), None
        for frame in reversed(self._frames):
            for told in reversed(self._told):
                if abs(seconds(frame.header.stamp) - told.stamp) < STAMP_ROUNDING:
                    return frame, told
        return None, None

    def _is_due(self, stamp: float, gist: tuple[str, bool] | None) -> bool:
        if self._narrated is None:
            return True
        if self._keeping_up.is_behind:
            return stamp - self._narrated >= _SELDOM
        if gist != self._gist:
            return True
        rate = self.params.rate
        return rate > 0.0 and stamp - self._narrated >= 1.0 / rate - STAMP_ROUNDING

    def _narrate(self, frame: VisualTokens, told: Told | None, measured: np.ndarray) -> None:
        """Say what a frame shows. Raises ValueError when it cannot be looked at."""
        instruction = told.instruction if told else ""
        self._unknown = _unknown_words(instruction)
        named = ", ".join(self._unknown)
        self.log_edge(
            "instruction",
            named and f"narrating without the instruction '{instruction}': never taught: {named}",
        )
        began = time.perf_counter()
        sight, felt = self._look(frame, measured)
        after = None
        if told is None:
            said = self._narrator.describe(sight.scene)
        else:
            (point,) = joint_chunk_to_end_effector(self._kinematics, measured, told.point)
            known, plan = "" if self._unknown else instruction, plan_of(felt, point)
            said, after = self._narrator.narrate(sight.scene, plan, known), step(sight.scene, plan)
        score = self._score(said, Picture.seen(sight.scene, after)) if said.sound else math.nan
        self._inference_time = time.perf_counter() - began
        self._missed |= self.now - seconds(frame.header.stamp) > _LATE
        self._sound.append(said.sound)
        if not said.sound:
            return
        doubtful = score < self.params.doubt_below
        if not math.isnan(score):
            self._doubts.append(doubtful)
        self._published += 1
        self._publisher.publish(
            Narration(
                header=frame.header,
                text=said.text,
                tokens=said.grounds,
                scene=to_tokens(sight.scene),
                instruction=instruction,
                unknown_words=self._unknown,
                log_probability=said.log_probability,
                inference_time=self._inference_time,
                cycle_score=score,
                doubtful=doubtful,
            )
        )
        named = f"the newest sentence has a cycle score of {score:.2f}: it may not be so"
        self.log_edge("doubt", named if doubtful else "")

    def _score(self, said: Said, picture: Picture) -> float:
        """The cycle score of a sentence; NaN if it has none."""
        if self._scenes is None or not can_be_shown(said.fact):
            return math.nan
        return self._scenes.match(said.words, picture)

    def _measured(self, frame: VisualTokens) -> np.ndarray:
        """Joint positions [D]. Raises ValueError when they are not known."""
        timeout = self.params.state_timeout
        return self._history.joint_positions(panda.JOINT_NAMES, frame.header.stamp, timeout)

    def _look(self, frame: VisualTokens, measured: np.ndarray) -> tuple[Sight, np.ndarray]:
        """What a frame shows, and proprioception. Raises ValueError: it cannot be looked at."""
        # While it looks it hears nothing: what waits here is old afterwards, and no chunk came.
        self._frames.clear()
        self._silent_since = None
        felt = proprioception(measured, self._kinematics)
        return self._narrator.see(tokens_from_message(frame), felt), felt

    # --- answering --------------------------------------------------------------------------

    def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        try:
            said = self._answer(request.question, response)
        except ValueError as error:
            response.message = shorten(str(error))
            return response
        response.success = True
        if response.age > _OLD:
            why = self._problem or "is narrator_eye still active?"
            response.message = f"the picture is {response.age:.1f} s old: {why}"
        response.answer, response.tokens = said.text, said.grounds
        response.log_probability = said.log_probability
        return response

    def _answer(self, question: str, response: Ask.Response) -> Said:
        """What holds of the newest picture, whose scene and age the response gets.

        It is the newest whose joint states have come: after it has spoken, those of the very newest
        may still wait behind older ones.

        Raises:
            ValueError: there is no such picture, it cannot be looked at, or there is no answer.
        """
        if self.state != "active":
            raise ValueError(f"narrator is {self.state}: configure and activate it first")
        if self._newest is None:
            why = self._problem or f"are there visual tokens on {_TOKENS}?"
            raise ValueError(f"nothing was seen yet: {why}")
        frame, measured = self._complete or (self._newest, self._measured(self._newest))
        with self._keeping_up.working():
            sight, _ = self._look(frame, measured)
            response.scene = to_tokens(sight.scene)
            response.stamp = frame.header.stamp
            response.age = self.now - seconds(frame.header.stamp)
            said = self._narrator.answer(sight.scene, question)
        if not said.sound:
            raise ValueError(f"the answer '{said.text}' does not hold of the scene that was read")
        return said


def _share(judged: Collection[bool]) -> float | str:
    """How many are true, 0 to 1; "unknown" of none."""
    return round(sum(judged) / len(judged), 2) if judged else "unknown"


def _unknown_words(instruction: str) -> tuple[str, ...]:
    """Words that the narrator was never taught, each once and in their order."""
    unknown = []
    for word in instruction.split():
        try:
            tokens_of(word)
        except ValueError:
            unknown.append(word.strip(".,?!"))
    return tuple(dict.fromkeys(unknown))


def main(args: list[str] | None = None) -> int:
    return run(NarratorNode, args)


if __name__ == "__main__":
    sys.exit(main())
