"""The recorder as its own process, fed by a probe: what it writes, when, and what a kill leaves."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from probe import NodeProcess, Probe, wait_for
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from vla_ros import cli
from vla_ros.msg import ActionChunk, Narration, TaskStatus
from vla_ros.recording import UNFINISHED, EpisodeBag, episode_name
from vla_ros.robots import panda
from vla_ros.robots.action_config import ActionConfig
from vla_ros.ros import qos
from vla_ros.ros.lost_messages import LostMessages
from vla_ros.ros.messages import chunk_message, image_message, joint_state_message, seconds
from vla_ros.ros.types import message_class, message_definition
from vla_ros.training.data.alignment import Align, Stream
from vla_ros.training.data.bag import Bag
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bags import open_bag

NAMESPACE = "/recorded"
PICTURE = np.zeros((16, 16, 3), np.uint8)
CONTRACT = Contract(
    ActionConfig.get_arm_config(),
    cameras={"camera": Stream("recorded/camera/image_raw")},
    state=Stream("recorded/joint_states"),
    command=Stream("recorded/action_chunk", Align.DROP, tolerance=0.0),
    instruction="recorded/instruction",
    task_status="recorded/sim_robot/task_status",
)


class Robot(Probe):
    """A robot at rest whose camera counts frames, and a policy when it has an instruction."""

    def __init__(self) -> None:
        super().__init__("robot", NAMESPACE)
        node = self.node
        self.instruction = node.create_publisher(String, "instruction", qos.latched())
        self._camera = node.create_publisher(Image, "camera/image_raw", qos.sensor())
        self._joints = node.create_publisher(JointState, "joint_states", qos.standard())
        self._chunks = node.create_publisher(ActionChunk, "action_chunk", qos.standard())
        self._voice = node.create_publisher(Narration, "narration", qos.standard())
        self._status = node.create_publisher(TaskStatus, "sim_robot/task_status", qos.latched())
        self.joint_stamps: list[float] = []  # of all joint states so far
        self.following, self._tick = "", itertools.count()
        self.way_back = False  # between two subtasks
        self.outcome = TaskStatus.RUNNING
        self._number = 0
        self.listen(DiagnosticArray, "/diagnostics", qos.standard())
        node.create_timer(0.05, self._frame)
        self.start()

    def follow(self, text: str, frames: int = 6) -> None:
        """As the action policy does it: numbers of chunks begin anew with an instruction.

        Returns after so many frames.
        """

        def obey() -> None:  # in the thread of the frames
            self.instruction.publish(String(data=text))
            self.following, self._tick = text, itertools.count()

        wait_for(self.executor.create_task(obey).done)
        self.go_on(frames)

    def go_on(self, frames: int = 6) -> None:
        end = self._number + frames
        wait_for(lambda: self._number >= end)

    def burst(self, count: int) -> None:
        """So many joint states at once."""

        def say() -> None:  # in the thread of the frames
            for _ in range(count):
                self._say_joints(Header(stamp=self.node.get_clock().now().to_msg()))

        wait_for(self.executor.create_task(say).done)

    def _say_joints(self, header: Header) -> None:
        self.joint_stamps.append(seconds(header.stamp))
        self._joints.publish(joint_state_message(panda.JOINT_NAMES, panda.HOME, header))

    def _frame(self) -> None:
        header = Header(stamp=self.node.get_clock().now().to_msg())
        self._say_joints(header)
        self._number += 1
        self._camera.publish(image_message(PICTURE, header))
        self._status.publish(TaskStatus(header=header, outcome=self.outcome))
        if self.following:
            points = np.tile(panda.HOME, (2, 1))
            told = "" if self.way_back else self.following
            fields = {"header": header, "instruction": told, "tick": next(self._tick)}
            self._chunks.publish(chunk_message(points, panda.JOINT_NAMES, 0.05, **fields))
            told = {"instruction": self.following, "unknown_words": ["it"], "log_probability": -0.5}
            said = {"tokens": ["<grip>", "<x1>"], "scene": ["<scene>"], **told}
            self._voice.publish(Narration(header=header, text="so it is.", **said))

    def ask(self, command: str) -> tuple[bool, str]:
        answer = self.call(Trigger, f"recorder/{command}", Trigger.Request())
        return answer.success, answer.message


@pytest.fixture(scope="module")
def robot():
    robot = Robot()
    yield robot
    robot.close()


@pytest.fixture
def record(robot, tmp_path):
    """Start a recorder of `folder`; it is active and hears the robot."""
    started = []

    def record(*arguments: str, folder: str = "bags") -> NodeProcess:
        robot.following, robot.outcome = "", TaskStatus.RUNNING
        options = ("-p", f"folder:={tmp_path / folder}", *arguments)
        process = NodeProcess(tmp_path, NAMESPACE, "recorder", *options)
        started.append(process)
        robot.next("/diagnostics", lambda m: hears("joint_states", "camera/image_raw", message=m))
        return process

    yield record
    for process in started:
        process.end()
        assert "Traceback" not in process.output


def hears(*topics: str, message: DiagnosticArray) -> bool:
    """Whether these are the diagnostics of a recorder that has heard these topics."""
    (status,) = message.status
    silent = {value.key: value.value for value in status.values}.get(
        "silent", f"{NAMESPACE}/joint_states"
    )
    return status.name == f"{NAMESPACE}/recorder" and not {
        f"{NAMESPACE}/{topic}" for topic in ("joint_states", "camera/image_raw")
    } & set(silent.split(", "))


def finished(folder) -> list:
    return sorted(path for path in folder.glob("*") if path.name != UNFINISHED)


def one(path):
    """The episode of a recording. Where frames were lost on a busy machine it comes in parts."""
    episodes = list(open_bag(path, CONTRACT))
    first, last = episodes[0], episodes[-1]
    assert {e.instruction for e in episodes} == {first.instruction}
    stamps = np.concatenate([e.stamps for e in episodes])
    return SimpleNamespace(
        instruction=first.instruction, robot=first.robot, outcome=last.outcome, stamps=stamps,
        parts=episodes,
    )  # fmt: skip


# --- episodes of a policy -------------------------------------------------------------------------


def test_an_episode_lasts_from_the_first_frame_acted_on_to_the_next_instruction(
    robot, record, tmp_path
):
    process = record()
    robot.follow("lift the red cube", frames=30)
    robot.way_back = True
    robot.go_on(10)
    robot.way_back = False
    robot.follow("push it", frames=10)
    robot.following = ""  # the policy is done: chunks cease
    first, second = wait_for(lambda: len(p := finished(tmp_path / "bags")) == 2 and p)
    assert first.name.endswith("_lift_the_red_cube") and second.name.endswith("_push_it")
    assert process.end() == 0

    for path, text in ((first, "lift the red cube"), (second, "push it")):
        episode, bag = one(path), Bag(path)
        assert (episode.instruction, episode.robot, episode.outcome) == (text, "panda", None)
        chunks = list(bag.messages(bag.topic("recorded/action_chunk")))
        assert [chunk.tick for chunk in chunks] == list(range(len(chunks)))
        assert {chunk.instruction for chunk in chunks} == {text}
        stamps = np.array([seconds(chunk.header.stamp) for chunk in chunks])
        # From the first frame acted on, though it came before its chunk; some may be lost.
        assert abs(episode.stamps[0] - stamps[0]) < 1e-6 and len(episode.stamps) > 0.5 * len(stamps)
        assert np.abs(episode.stamps[:, None] - stamps).min(axis=1).max() < 1e-6
    assert not (tmp_path / "bags" / UNFINISHED).exists()


def test_the_outcome_is_the_one_decided_meanwhile(robot, record, tmp_path):
    record()
    robot.outcome = TaskStatus.SUCCEEDED
    robot.go_on()
    robot.follow("lift it")  # that it succeeded before is not this episode's doing
    robot.follow("put it down")
    robot.outcome = TaskStatus.RUNNING
    robot.go_on()
    robot.outcome = TaskStatus.FAILED  # ends it, though the policy goes on
    before, after = wait_for(lambda: len(p := finished(tmp_path / "bags")) == 2 and p)
    assert Bag(before).custom["outcome"] == "" and Bag(after).custom["outcome"] == "failed"
    assert one(after).outcome is False
    robot.go_on(10)
    assert len(finished(tmp_path / "bags")) == 2 and robot.ask("stop")[0] is False


# --- messages that are lost -----------------------------------------------------------------------


def test_a_recorder_that_stalls_tells_how_many_messages_it_lost(robot, record, tmp_path, capsys):
    process = record("-p", "automatic:=false")
    assert robot.ask("start")[0]
    robot.go_on()
    process.signal(signal.SIGSTOP)
    robot.burst(1000)
    process.signal(signal.SIGCONT)
    robot.go_on()
    ok, said = robot.ask("succeeded")
    assert ok and "but messages were lost: " in said
    (path,) = finished(tmp_path / "bags")
    bag = Bag(path)
    topic = f"{NAMESPACE}/joint_states"
    lost = int(re.search(rf"(\d+) of {topic}", bag.custom["lost_messages"])[1])
    recorded = {seconds(message.header.stamp) for message in bag.messages(bag.topic(topic))}
    during = [stamp for stamp in robot.joint_stamps if min(recorded) <= stamp <= max(recorded)]
    # Just those, and what a busy machine may have lost before the first that was recorded.
    assert 500 < len(during) - len(recorded) <= lost <= len(robot.joint_stamps) - len(recorded)
    assert re.search(r"succeeded, \d+ messages\).*; messages were lost: ", process.output)
    assert cli.main(["bag", "report", str(path)]) == 0
    assert f"lost while this was recorded: {bag.custom['lost_messages']}" in capsys.readouterr().out


def test_what_is_lost_is_counted_by_publisher():
    def info(number, publisher=b"a"):
        return {"publication_sequence_number": number, "publisher_gid": {"data": publisher}}

    lost = LostMessages()
    numbers = [7, 8, 11, 10, 11, 12]  # the first number says nothing; one is late, one heard twice
    assert [lost.before("/a", info(n)) for n in numbers] == [0, 0, 2, 0, 0, 0]
    assert [lost.before("/a", info(n, b"b")) for n in (1, 2, 2**40)] == [0, 0, 2**40 - 3]
    assert lost.before("/b", info(20)) == 0 and lost.before("/a", info(13)) == 0
    assert lost.before("/a", {"publication_sequence_number": None}) is None
    assert lost.before("/a", {"publication_sequence_number": 3}) is None


# --- episodes of an operator ----------------------------------------------------------------------


def test_an_operator_starts_ends_and_discards(robot, record, tmp_path):
    record("-p", "automatic:=false")
    folder = tmp_path / "bags"
    robot.follow("pour the tea")
    assert not list(folder.iterdir())
    assert robot.ask("failed") == (False, "nothing is being recorded: failed what?")

    ok, said = robot.ask("start")
    assert ok and UNFINISHED in said and not finished(folder)
    robot.go_on(20)
    ok, said = robot.ask("succeeded")
    (path,) = finished(folder)
    assert ok and said == f"recorded {path}"
    episode = one(path)
    assert (episode.instruction, episode.outcome) == ("pour the tea", True)
    assert len(episode.stamps) >= 5

    assert robot.ask("start")[0] and robot.ask("discard")[0]
    assert finished(folder) == [path] and not (folder / UNFINISHED).exists()
    robot.following = ""


def test_ending_the_process_finishes_the_recording(robot, record, tmp_path):
    process = record("-p", "automatic:=false")
    assert robot.ask("start")[0]
    robot.go_on()
    assert process.end() == 0
    (path,) = finished(tmp_path / "bags")
    assert Bag(path).notes == []


# --- what the files are ---------------------------------------------------------------------------


def test_another_reader_reads_it_and_players_get_what_publishers_offered(robot, record, tmp_path):
    record()
    robot.follow("lift it")
    wait_for(lambda: robot.ask("succeeded")[0])
    robot.following = ""
    (path,) = finished(tmp_path / "bags")
    with Reader(path) as reader:
        topics = {c.topic: c for c in reader.connections}
        counts = dict.fromkeys(topics, 0)
        for connection, _, _ in reader.messages():
            counts[connection.topic] += 1
    custom = {"instruction": "lift it", "outcome": "succeeded", "robot": "panda"}
    told = Bag(path).custom
    assert {**custom, "lost_messages": told["lost_messages"]} == told
    assert set(counts) == {
        f"{NAMESPACE}/{name}"
        for name in (
            "camera/image_raw",
            "joint_states",
            "action_chunk",
            "narration",
            "instruction",
            "sim_robot/task_status",
        )
    }
    assert counts == {name: c.msgcount for name, c in topics.items()} and min(counts.values()) > 0
    offered = {name: c.ext.offered_qos_profiles[0] for name, c in topics.items()}
    assert offered[f"{NAMESPACE}/instruction"].durability.name == "TRANSIENT_LOCAL"
    assert offered[f"{NAMESPACE}/camera/image_raw"].reliability.name == "BEST_EFFORT"
    narrated = Bag(path).topic(f"{NAMESPACE}/narration")
    message = next(Bag(path).messages(narrated))
    assert (message.text, message.instruction) == ("so it is.", "lift it")
    assert (list(message.tokens), list(message.scene)) == (["<grip>", "<x1>"], ["<scene>"])
    assert list(message.unknown_words) == ["it"] and message.log_probability == -0.5
    # The package's own types can be read where the package is not.
    definition = topics[f"{NAMESPACE}/action_chunk"].msgdef.data
    assert "uint64 tick" in definition and "MSG: std_msgs/Header" in definition


def test_what_was_flushed_survives_a_kill(robot, record, tmp_path, capsys):
    process = record()
    robot.follow("lift it", frames=30)
    folder = tmp_path / "bags"
    (path,) = wait_for(lambda: list((folder / UNFINISHED).iterdir()))
    written = wait_for(lambda: len(Bag(path).topic("recorded/joint_states")))  # while it records
    killed = time.time()
    process.kill()
    robot.following = ""
    assert not finished(folder)
    states = Bag(path).topic("recorded/joint_states")
    assert len(states) >= written
    assert killed - states.received[-1] / 1e9 < 2.0  # 0.25 s, if the machine is not overloaded
    episode = one(path)
    assert episode.instruction == "lift it" and len(episode.stamps)
    for part in episode.parts:
        assert sum(1 for _ in part.frames("camera")) == len(part)
    assert cli.main(["bag", "report", str(path)]) == 0
    assert "unfinished recording" in capsys.readouterr().out

    again = record()
    wait_for(lambda: path.name in again.output)  # it says what lies there, and leaves it alone
    assert again.end() == 0 and path.is_dir()


def test_a_recording_that_cannot_be_finished_is_told_and_the_next_one_is_made(
    robot, record, tmp_path
):
    process = record("-p", "automatic:=false")
    assert robot.ask("start")[0]
    robot.go_on()
    (path,) = (tmp_path / "bags" / UNFINISHED).iterdir()
    moved = path.rename(tmp_path / "elsewhere")
    ok, said = robot.ask("stop")
    assert not ok and "cannot be finished" in said
    wait_for(lambda: "broke off" in process.output)
    assert list(moved.iterdir())
    assert robot.ask("start")[0]
    robot.go_on()
    assert robot.ask("stop")[0]


def test_bags_of_one_folder_do_not_disturb_each_other(tmp_path):
    kind = "std_msgs/msg/String"
    bags = [EpisodeBag(tmp_path, name) for name in ("one", "two")]
    for number, bag in enumerate(bags):
        bag.announce("/said", kind, message_definition(kind), qos.latched())
        bag.write("/said", 100 + number, b"\0\1\0\0\2\0\0\0a\0")
        bag.flush()
        bag.flush()  # nothing new: no empty chunk
    assert bags[0].finish({}).name == "one"
    bags[1].discard()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    (said,) = (bag := Bag(tmp_path / "one")).messages(bag.topic("said"))
    assert said.data == "a" and not bag.notes


def test_names_sort_by_time_and_are_good_for_files():
    assert episode_name("Lift the <red> cube!").endswith("_lift_the_red_cube")
    assert episode_name("抬起").endswith("_episode")
    first = episode_name("b")
    time.sleep(0.002)
    assert first < episode_name("a")


# --- mistakes -------------------------------------------------------------------------------------


def test_a_folder_must_be_named(tmp_path):
    process = NodeProcess(tmp_path, NAMESPACE, "recorder")
    assert process.wait() == 1
    last = process.output.strip().splitlines()[-1]
    assert last == "error: recorder: folder is empty: name one for the recordings"


@pytest.mark.parametrize("find", [message_class, message_definition])
def test_a_type_that_is_not_installed_is_named(find):
    with pytest.raises(ValueError, match="none_msgs/msg/Nothing"):
        find("none_msgs/msg/Nothing")


def test_vla_record_obeys_the_keyboard(robot, tmp_path):
    robot.following = ""
    command = [sys.executable, "-m", "vla_ros.cli", "record", str(tmp_path / "bags"), "--manual"]
    command += ["--namespace", NAMESPACE, "--robot", "left arm", "--topics", "joint_states"]
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True, env=os.environ
        )
    try:
        robot.next("/diagnostics", lambda m: hears("joint_states", message=m))
        for word, answer in (
            ("start", "recording "),
            ("dance", "'dance' is none of start"),
            ("f", "recorded "),
        ):
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            wait_for(lambda answer=answer: f"\n{answer}" in f"\n{log.read_text()}")
            robot.go_on()
        process.terminate()
        assert process.wait(timeout=20.0) == 0
    finally:
        process.kill()
    (path,) = finished(tmp_path / "bags")
    bag = Bag(path)
    assert bag.custom["robot"] == "left arm" and bag.custom["outcome"] == "failed"
    assert len(bag.topic("recorded/joint_states")) > 0
    assert "recorded/camera/image_raw" not in bag.topics
