"""Node recorder: the stack's topics in, one MCAP recording an episode out.

An episode is the time in which a policy follows one instruction: it begins with the frame of the
first action chunk, and ends with the next instruction, when the chunks cease, or a second after the
task was decided. What no policy drives, as a demonstration, is recorded from ~/start on.
~/succeeded, ~/failed and ~/stop end an episode of either kind, ~/discard removes it.

Messages are taken serialized and written as they are; only chunks and task status are looked into.
A recorder that is too busy loses some: how many, of which topic, is told in the log, in what ~/stop
and the like answer, and in the recording's metadata (`lost_messages`).
"""

from __future__ import annotations

import functools
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vla_ros.msg import ActionChunk, TaskStatus
from vla_ros.nodes.parameters import RECORDER as PARAMETERS
from vla_ros.recording import UNFINISHED, EpisodeBag, episode_name
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import OK, WARN, LifecycleNode
from vla_ros.ros.lost_messages import LostMessages
from vla_ros.ros.running import run
from vla_ros.ros.texts import shorten
from vla_ros.ros.types import message_class, message_definition

_INSTRUCTION, _CHUNK, _STATUS = "instruction", "action_chunk", "sim_robot/task_status"
COMMANDS = ("start", "stop", "succeeded", "failed", "discard")
_OUTCOMES = {TaskStatus.SUCCEEDED: "succeeded", TaskStatus.FAILED: "failed"}
_SECOND = 10**9  # ns
_PERIOD = 0.25  # s between two looks at topics and ends; what is recorded is flushed as often
_DEPTH = 50  # messages that may wait: half a second of joint states, more of anything else
_REMEMBERED = 2 * _SECOND  # an episode begins with a frame that was there before its chunk
_LOOKS = 2  # after its first chunk an episode is opened: what was overtaken has come by then
_LEAD_IN = _SECOND // 5  # joint states may be older than the first frame by so much
_TAIL = 1 * _SECOND  # after the task was decided: how the policy ends is worth learning
_STAMP = slice(4, 12)  # of a serialized message that begins with a header


class Heard(NamedTuple):
    """A serialized message."""

    received: int  # ns since 1970
    topic: str
    data: bytes
    lost: int | None = 0  # messages of its publisher right before it; None: nobody knows


class Kind(NamedTuple):
    """What messages a topic has."""

    name: str  # sensor_msgs/msg/Image
    offered: QoSProfile  # by whoever publishes them


@dataclass
class Recording:
    """The episode being recorded."""

    bag: EpisodeBag
    instruction: str
    began: int  # ns since 1970, by the first chunk or by ~/start
    automatic: bool  # it follows a policy, not ~/start
    undecided: bool = False  # the task was seen to run: what decides it is this episode's doing
    outcome: str = ""
    due: int = sys.maxsize  # ns since 1970, when it ends by itself
    lost: Counter[str] = field(default_factory=Counter)  # messages, by topic
    counts_lost: bool = True  # whether the middleware tells of them

    @property
    def lost_text(self) -> str:
        """Which messages were lost; "" if none were, as far as is known."""
        return ", ".join(f"{count} of {topic}" for topic, count in sorted(self.lost.items()))


class RecorderNode(LifecycleNode):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__("recorder", PARAMETERS, **kwargs)
        self._recording: Recording | None = None
        self._first_chunk: Heard | None = None

    def configure(self) -> None:
        if not self.params.folder:
            raise ValueError("folder is empty: name one for the recordings")
        self._folder = Path(self.params.folder).expanduser().absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        if left := [path.name for path in sorted(self._folder.glob(f"{UNFINISHED}/*"))]:
            self.get_logger().warning(
                f"{self._folder / UNFINISHED} holds what a recorder left when it was killed: "
                f"{', '.join(left)}. It can be read as far as it goes"
            )
        for name in COMMANDS:
            callback = functools.partial(self._on_command, name)
            service = self.create_service(Trigger, f"~/{name}", callback)
            self._while_configured.append(functools.partial(self.destroy_service, service))

    def activate(self) -> None:
        self._kinds: dict[str, Kind] = {}  # of the topics that are subscribed, by their full names
        self._wanted = {self.resolve_topic_name(topic) for topic in self.params.topics}
        self._recent: deque[Heard] = deque()
        self._latched: dict[str, Heard] = {}  # the newest message of each latched topic
        self._instruction = ""  # the newest on the topic
        self._followed: tuple[str, int] | None = None  # instruction and number of the newest chunk
        self._first_chunk = None  # of an episode that is to be opened
        self._looks = 0  # since then
        self._quiet = 0  # looks since the newest chunk: not time, in which the recorder may stall
        self._counted = self._told_lost = 0
        self._lost_messages = LostMessages()
        # Known types: the first chunk must not be missed while its topic is being discovered.
        self._chunk_topic, self._status_topic = (
            self._listen(self.resolve_topic_name(topic), kind, [profile], callback)
            for topic, kind, profile, callback in (
                (_CHUNK, "vla_ros/msg/ActionChunk", qos.standard(1), self._on_chunk),
                (_STATUS, "vla_ros/msg/TaskStatus", qos.latched(), self._on_status),
            )
        )
        said = self._said_topic = self.resolve_topic_name(_INSTRUCTION)
        self._kinds[said] = Kind("std_msgs/msg/String", qos.latched())
        on_message = functools.partial(self._on_raw, said, self._on_instruction)
        self.subscribe_latched_or_not(String, said, on_message, raw=True)
        clock = Clock(clock_type=ClockType.STEADY_TIME)  # a robot's clock may stand still
        timer = self.create_timer(_PERIOD, self._watch, clock=clock)
        self._while_active.append(functools.partial(self.destroy_timer, timer))

    def deactivate(self) -> None:
        self._end("the recorder was deactivated")

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        recording = self._recording
        details = {"silent": ", ".join(sorted(self._wanted - self.heard))}
        if recording is None:
            return OK, "waiting for an episode", details
        count, self._counted = self._counted, recording.bag.count
        lost = recording.lost.total()
        details |= {"messages": self._counted, "messages_per_second": self._counted - count}
        details |= {"lost": lost if recording.counts_lost else "unknown"}
        losing, self._told_lost = lost > self._told_lost, lost
        self.log_edge("losing", "messages are lost: the recorder has no time for them" * losing)
        bad = losing or self._counted == count
        text = f"recording {recording.bag.path}"
        return (WARN if bad else OK), text + f", {lost} messages are lost" * bool(lost), details

    @property
    def heard(self) -> set[str]:
        """Full names of the topics that lately said something."""
        return {heard.topic for heard in list(self._recent)}

    # --- topics -----------------------------------------------------------------------------

    def _watch(self) -> None:
        for topic in self._wanted - set(self._kinds):
            publishers = self.get_publishers_info_by_topic(topic)
            if publishers:
                offered = [publisher.qos_profile for publisher in publishers]
                try:
                    self._listen(topic, publishers[0].topic_type, offered, self._on_message)
                except ValueError as error:
                    self.log_edge(topic, f"{topic} is not recorded: {error}")
        self._looks += 1
        if self._looks >= _LOOKS:
            self._open_for_policy()
        recording = self._recording
        if recording is None:
            return
        self._quiet += 1
        if recording.automatic and self._quiet * _PERIOD > self.params.silence:
            self._followed = None
            self._end("the policy has ended")
        elif time.time_ns() > recording.due:
            self._end("the task is decided")
        else:
            try:
                recording.bag.flush()
            except OSError as error:
                self._break_off(error)

    def _listen(self, topic: str, kind: str, offered: list[QoSProfile], callback: Any) -> str:
        """Subscribe to serialized messages. Raises ValueError when the type is not installed."""
        message_definition(kind)
        profile = qos.matching(offered, _DEPTH)
        on_message = functools.partial(self._on_raw, topic, callback)
        self.subscribe(message_class(kind), topic, on_message, profile, raw=True)
        self._kinds[topic] = Kind(kind, offered[0])
        return topic

    def _on_raw(self, topic: str, callback: Any, data: bytes, info: dict[str, int]) -> None:
        lost = self._lost_messages.before(topic, info)
        callback(Heard(info["received_timestamp"], topic, data, lost))

    def _on_message(self, heard: Heard) -> None:
        self._recent.append(heard)
        while heard.received - self._recent[0].received > _REMEMBERED:
            self._recent.popleft()
        if self._kinds[heard.topic].offered.durability == qos.latched().durability:
            self._latched[heard.topic] = heard
        if self._recording is not None:
            self._write(heard)

    def _on_chunk(self, heard: Heard) -> None:
        chunk = deserialize_message(heard.data, ActionChunk)
        before, self._followed = self._followed, (chunk.instruction, chunk.tick)
        anew = before is None or before[0] != chunk.instruction or before[1] >= chunk.tick
        self._quiet = 0
        running = self._recording
        if anew and self.params.automatic and (running is None or running.automatic):
            self._end("the policy began anew")
            if chunk.instruction:  # else it only goes back, between two subtasks
                self._first_chunk, self._looks = heard, 0
        self._on_message(heard)

    def _on_instruction(self, heard: Heard) -> None:
        self._instruction = deserialize_message(heard.data, String).data.strip()
        if self._first_chunk is not None and heard.received > self._first_chunk.received:
            self._open_for_policy()
        recording = self._recording
        if recording is None or heard.received < recording.began:
            return  # topics overtake each other: it is the one that is followed
        if recording.automatic:
            self._end(f"told: {self._instruction or 'stop'}")
        else:
            recording.instruction = recording.instruction or self._instruction
            self._write(heard)

    def _on_status(self, heard: Heard) -> None:
        self._on_message(heard)
        if self._recording is not None:
            self._judge(self._recording, heard)

    def _judge(self, recording: Recording, heard: Heard) -> None:
        outcome = _OUTCOMES.get(deserialize_message(heard.data, TaskStatus).outcome, "")
        if not outcome:
            recording.undecided = True
        elif recording.undecided and not recording.outcome:
            recording.outcome = outcome
            if recording.automatic:
                recording.due = heard.received + _TAIL

    # --- episodes ---------------------------------------------------------------------------

    def _open_for_policy(self) -> None:
        """Open the recording that the first chunk of an instruction asked for, if one did."""
        chunk, self._first_chunk = self._first_chunk, None
        if chunk is None:
            return
        stamp = chunk.data[_STAMP]
        since = min(
            (h.received for h in self._recent if h.data[_STAMP] == stamp), default=chunk.received
        )
        # Chunks before the first one answer another instruction.
        heard = [
            h
            for h in self._recent
            if h.received >= since - _LEAD_IN
            and (h.topic != self._chunk_topic or h.received >= chunk.received)
        ]
        instruction = deserialize_message(chunk.data, ActionChunk).instruction
        self._open(instruction, since, chunk.received, heard, automatic=True)

    def _open(
        self, instruction: str, since: int, began: int, heard: list[Heard], automatic: bool
    ) -> None:
        """Open a recording under an instruction that counts since then, and write these to it."""
        try:
            bag = EpisodeBag(self._folder, episode_name(instruction))
        except OSError as error:
            self.log_edge("writing", f"cannot record: {error}")
            return
        self._recording = recording = Recording(bag, instruction, began, automatic)
        self._counted = self._told_lost = 0
        self.log_edge("writing", "")
        self.get_logger().info(f"recording {bag.path}")
        begin = min((h.received for h in heard), default=since)
        written = [
            h._replace(received=begin, lost=0) for h in self._latched.values() if h.received < begin
        ]
        if instruction:
            said = serialize_message(String(data=instruction))
            written.append(Heard(since, self._said_topic, said))
        for one in sorted(written + heard, key=attrgetter("received")):
            self._write(one)
            if one.topic == self._status_topic and one.received >= began:
                self._judge(recording, one)

    def _write(self, heard: Heard) -> None:
        recording = self._recording
        if recording is None:  # a write before this one failed
            return
        try:
            if heard.topic not in recording.bag:
                kind = self._kinds[heard.topic]
                definition = message_definition(kind.name)
                recording.bag.announce(heard.topic, kind.name, definition, kind.offered)
            recording.bag.write(heard.topic, heard.received, heard.data)
            if heard.lost:
                recording.lost[heard.topic] += heard.lost
            recording.counts_lost &= heard.lost is not None
        except OSError as error:
            self._break_off(error)

    def _break_off(self, error: OSError) -> None:
        """A full disk ends the recording, never the robot's other nodes in this process."""
        recording, self._recording = self._recording, None
        self.log_edge("writing", f"recording {recording.bag.path} broke off: {error}")
        recording.bag.abandon()

    def _end(self, reason: str) -> str:
        """Finish what is being recorded. Returns where it is, "" when there was nothing."""
        self._open_for_policy()
        recording = self._recording
        if recording is None:
            return ""
        custom = {
            "instruction": recording.instruction,
            "outcome": recording.outcome,
            "robot": self.params.robot,
            "lost_messages": recording.lost_text if recording.counts_lost else "unknown",
        }
        try:
            if not recording.bag.count:
                recording.bag.discard()
                raise OSError("no topic said anything")
            path = str(recording.bag.finish(custom))
        except OSError as error:
            self._break_off(error)
            return ""
        self._recording = None
        outcome = recording.outcome or "no outcome"
        text = f"recorded {path} ({outcome}, {recording.bag.count} messages): {reason}"
        if recording.lost:
            self.get_logger().warning(shorten(f"{text}; messages were lost: {recording.lost_text}"))
        else:
            self.get_logger().info(text)
        if not recording.counts_lost:
            self.get_logger().warning("the middleware does not tell of lost messages", once=True)
        return path

    # --- commands ---------------------------------------------------------------------------

    def _on_command(
        self, name: str, _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            response.success, response.message = True, self.obey(name)
        except ValueError as error:
            response.message = shorten(str(error))
        return response

    def obey(self, command: str) -> str:
        """Do one of `COMMANDS`, in the thread that spins the node; return what was done.

        Raises:
            ValueError: it cannot be done, with the reason.
        """
        if self.state != "active":
            raise ValueError(f"the recorder is {self.state}: activate it first")
        if command == "start":
            self._end("started anew")
            now = time.time_ns()
            self._open(self._instruction, now, now, [], automatic=False)
            if self._recording is None:
                raise ValueError(f"{self._folder} cannot be written: see the log")
            return f"recording {self._recording.bag.path}"
        self._open_for_policy()
        recording = self._recording
        if recording is None:
            raise ValueError(f"nothing is being recorded: {command} what?")
        if command == "discard":
            self._recording = None
            try:
                recording.bag.discard()
            except OSError as error:
                raise ValueError(f"{recording.bag.path} cannot be removed: {error}") from None
            return f"discarded {recording.bag.path}"
        recording.outcome = {"stop": recording.outcome}.get(command, command)
        path = self._end(command)
        if not path:
            raise ValueError(f"{recording.bag.path} cannot be finished: see the log")
        if recording.lost:
            return f"recorded {path}, but messages were lost: {recording.lost_text}"
        return f"recorded {path}"


def main(args: list[str] | None = None) -> int:
    return run(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
