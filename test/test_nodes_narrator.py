"""When the narrator's node speaks, of what, what it refuses, and how it answers."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from probe import NodeProcess, Probe, feel, header, nodes_of, wait_for
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from taught_narrator import (
    CAMERAS,
    DESCRIPTIONS,
    ENCODER,
    FALSE,
    PICTURES,
    QUESTION,
    REACH,
    SCENES,
    SENTENCES,
    WRONG,
    taught_narrator,
)
from tiny_scenes import tiny_scenes

from vla_ros import live
from vla_ros.bringup import Stack
from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.models.scenes.layout import Picture
from vla_ros.msg import ActionChunk, Narration, VisualTokens
from vla_ros.nodes.narrator import NarratorNode
from vla_ros.robots import panda
from vla_ros.robots.actions import end_effector_chunk_to_joints
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.ros import qos
from vla_ros.ros.lifecycle import FAILURE, OK, WARN
from vla_ros.ros.messages import (
    chunk_message,
    joint_state_message,
    seconds,
    tokens_message,
)
from vla_ros.scene_language.scenes import from_tokens, to_tokens
from vla_ros.scene_language.vocabulary import tokens_of
from vla_ros.srv import Ask

NAMESPACE = "/narrating"
LEFT_OUT = "frobnicate the red cube, Frobnicate it quxly"  # words that nobody taught


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrator")
    taught_narrator().save_pretrained(folder)
    return folder


@pytest.fixture
def make(monkeypatch):
    # The newest stamp that it saw, so that nothing is old unless a test says so.
    monkeypatch.setattr(
        NarratorNode,
        "now",
        property(lambda node: node._newest and seconds(node._newest.header.stamp)),
    )
    with nodes_of(NarratorNode, scenes="") as make:
        yield make


def awake(node):
    """Active, and keeping the narrations that it publishes in `published`."""
    assert node.bring_up() == ""
    node.published = []
    node._publisher.publish = node.published.append
    return node


@pytest.fixture
def node(make, folder):
    return awake(make(folder))


def tokens(stamp, values=PICTURES[0], encoder_id=ENCODER):
    return tokens_message(values, header(stamp), encoder_id, CAMERAS, 0.01)


def show(node, stamp, picture=0, **changes):
    feel(node, stamp)
    node._on_tokens(tokens(stamp, **{"values": PICTURES[picture], **changes}))


def plan(stamp, instruction=REACH, opened=True, dt=0.05, count=8):
    points = np.tile(panda.HOME, (count, 1))
    points[:, -1] = panda.GRIPPER_OPEN if opened else panda.GRIPPER_CLOSED
    return chunk_message(
        points, panda.JOINT_NAMES, dt, header=header(stamp), instruction=instruction
    )


def act(node, stamp, instruction=REACH, opened=True):
    """A frame, and the chunk that answers it."""
    show(node, stamp)
    node._on_chunk(plan(stamp, instruction, opened))


def said(node):
    return [(round(seconds(one.header.stamp), 6), one.text) for one in node.published]


# --- when it speaks -------------------------------------------------------------------------------


def test_at_rest_it_describes_what_it_sees_at_its_own_rate(node):
    for k in range(45):
        show(node, 10.0 + 0.05 * k, picture=k // 30)
    first, second = DESCRIPTIONS
    assert said(node) == [(10.0, first), (11.0, first), (12.0, second)]
    message = node.published[0]
    assert from_tokens(message.scene) == SCENES[0]
    assert list(message.tokens)[:3] == ["<obj>", "red", "cube"]
    assert message.instruction == "" and not message.unknown_words
    assert message.log_probability < 0.0 < message.inference_time
    assert message.header.frame_id == "camera_optical_frame"


def test_the_rate_can_change_and_be_none(node):
    node.set_parameters([Parameter("rate", value=5.0)])
    for k in range(9):
        show(node, 10.0 + 0.05 * k)
    assert [stamp for stamp, _ in said(node)] == [10.0, 10.2, 10.4]
    node.set_parameters([Parameter("rate", value=0.0)])
    for k in range(9, 60):
        show(node, 10.0 + 0.05 * k)
    assert len(node.published) == 3


def test_while_a_policy_acts_it_tells_what_the_robot_is_told(node):
    for k in range(25):
        act(node, 10.0 + 0.05 * k)
    # The first frame was there before the first chunk.
    sentence = SENTENCES[REACH, True]
    assert said(node) == [(10.0, DESCRIPTIONS[0]), (10.05, sentence), (11.05, sentence)]
    assert [one.instruction for one in node.published] == ["", REACH, REACH]


def test_a_change_of_what_is_told_is_narrated_at_once(node):
    node.set_parameters([Parameter("rate", value=0.0)])
    for k in range(40):
        stamp = 10.0 + 0.05 * k
        if k < 8:
            act(node, stamp)
        elif k < 12:
            act(node, stamp, opened=False)
        elif k < 16:
            act(node, stamp)
        else:
            show(node, stamp)
    assert said(node) == [
        (10.0, DESCRIPTIONS[0]),
        (10.05, SENTENCES[REACH, True]),
        (10.4, SENTENCES[REACH, False]),
        (10.6, SENTENCES[REACH, True]),
        (11.35, DESCRIPTIONS[0]),  # more than 0.5 s after the first frame without a chunk
    ]


def test_another_instruction_is_narrated_at_once(node):
    for k in range(6):
        act(node, 10.0 + 0.05 * k, instruction=REACH if k < 3 else LEFT_OUT)
    assert [stamp for stamp, _ in said(node)] == [10.0, 10.05, 10.15]
    assert node.published[-1].instruction == LEFT_OUT


def test_a_frame_waits_for_its_chunk_while_a_policy_acts(node):
    node.set_parameters([Parameter("rate", value=20.0)])
    act(node, 10.0)
    act(node, 10.05)
    node.published.clear()
    show(node, 10.1)
    show(node, 10.15)
    assert not node.published
    node._on_chunk(plan(10.1))  # a slow policy: the next frame is there already
    assert said(node) == [(10.1, SENTENCES[REACH, True])]


def test_a_frame_waits_for_the_joints_of_its_time_but_not_for_ever(node):
    feel(node, 9.99)
    node._on_tokens(tokens(10.0))
    assert not node.published
    feel(node, 10.0)
    assert [stamp for stamp, _ in said(node)] == [10.0]
    node._on_tokens(tokens(11.5))  # joint states may wait behind it, as it has spoken
    assert len(node.published) == 1 and node.diagnose()[0] == OK
    node._on_tokens(tokens(11.8))
    assert len(node.published) == 1 and "joint_states" in node.diagnose()[1]


def test_what_came_while_it_spoke_is_old_and_is_passed_over(node):
    act(node, 10.0)
    for stamp in (10.05, 10.1, 10.15):
        show(node, stamp)
    node._on_chunk(plan(10.1))
    assert said(node)[-1] == (10.1, SENTENCES[REACH, True])
    node._on_chunk(plan(10.15, opened=False))  # that frame had come before it spoke
    assert said(node)[-1][0] == 10.1
    act(node, 10.4, opened=False)
    assert said(node)[-1] == (10.4, SENTENCES[REACH, False])


def test_silence_counts_from_when_it_listened_again(node):
    act(node, 10.0)
    act(node, 10.05)
    # It spoke for a second: the next frame is there before the chunks that it has not heard yet.
    show(node, 11.05)
    node._on_chunk(plan(10.1))
    node._on_chunk(plan(11.05))
    assert said(node)[-1] == (11.05, SENTENCES[REACH, True])
    assert len(node.published) == 3


# An eye of 5 Hz beside a policy of 20 Hz: sooner than the policy with a frame, as soon, as late as
# the second chunk after, or on a busy machine later still.
@pytest.mark.parametrize("late", [-1, 0, 2, 8, 18])
def test_a_slower_eye_s_frames_are_narrated_with_their_own_chunks(node, late):
    node.set_parameters([Parameter("rate", value=5.0)])
    for k in range(-1, 24 + max(late, 0)):
        stamp = 10.0 + 0.05 * k
        if k >= 0:
            feel(node, stamp)
            node._on_chunk(plan(stamp, opened=k % 8 != 4))
        if (k - late) % 4 == 0 and 0 <= k - late < 20:
            seen = 10.0 + 0.05 * (k - late)
            feel(node, seen)
            node._on_tokens(tokens(seen))
    opened, closed = SENTENCES[REACH, True], SENTENCES[REACH, False]
    told = [(10.2, closed), (10.4, opened), (10.6, closed), (10.8, opened)]
    assert said(node)[1:] == told
    assert said(node)[0] == (10.0, DESCRIPTIONS[0] if late < 0 else opened)


@pytest.mark.parametrize("rate", [2.0, 5.0, 10.0, 20.0])
def test_a_change_is_narrated_with_the_eye_s_next_frame(node, rate):
    node.set_parameters([Parameter("rate", value=0.0)])
    every = round(20.0 / rate)
    for k in range(160):  # it is told to close from 12.1 s on, and nothing more from 14.1 s on
        stamp = 10.0 + 0.05 * k
        feel(node, stamp)
        if k % every == 0:
            node._on_tokens(tokens(stamp))
        if k < 82:
            node._on_chunk(plan(stamp, opened=k < 42))
    rest, opened, closed, end = said(node)
    assert rest == (10.0, DESCRIPTIONS[0])
    assert opened == (10.0 + 1.0 / rate, SENTENCES[REACH, True])
    assert closed[1] == SENTENCES[REACH, False] and 12.1 <= closed[0] < 12.1 + 1.0 / rate
    assert end[1] == DESCRIPTIONS[0] and 0.5 < end[0] - 14.05 <= 0.5 + 2.0 / rate


def test_a_clock_that_goes_back_begins_anew(node):
    act(node, 100.0)
    act(node, 100.05)
    show(node, 3.0)
    assert said(node)[-1] == (3.0, DESCRIPTIONS[0])


# --- what it does not say -------------------------------------------------------------------------


def test_what_does_not_hold_is_not_said_but_counted(node):
    node.set_parameters([Parameter("rate", value=20.0)])
    for k in range(14):
        act(node, 10.0 + 0.05 * k, instruction=FALSE)
    assert said(node) == [(10.0, DESCRIPTIONS[0])]
    level, message, details = node.diagnose()
    assert level == WARN and "did not hold" in message
    assert details["unsound_share"] == round(13 / 14, 2)
    assert details["narrations_per_second"] == 1 and details["inference_ms"] > 0.0
    for k in range(14, 40):
        act(node, 10.0 + 0.05 * k)
    assert node.diagnose()[0] == OK and node.diagnose()[2]["unsound_share"] == 0.0


def test_words_never_taught_leave_the_instruction_out_and_are_named(node):
    for k in range(22):
        act(node, 10.0 + 0.05 * k, instruction=LEFT_OUT)
    sentence = SENTENCES["", True]
    assert said(node)[1:] == [(10.05, sentence), (11.05, sentence)]
    message = node.published[-1]
    assert message.instruction == LEFT_OUT
    assert list(message.unknown_words) == ["frobnicate", "Frobnicate", "quxly"]
    assert node.diagnose()[2]["unknown_words"] == "frobnicate, Frobnicate, quxly"
    assert "never taught: frobnicate, Frobnicate, quxly" in node._edges["instruction"]
    act(node, 11.1)
    assert not node._edges["instruction"]
    assert not node.published[-1].unknown_words and node.diagnose()[2]["unknown_words"] == ""


# --- what it doubts -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    tiny_scenes().save_pretrained(folder)
    return folder


def test_without_scenes_no_sentence_has_a_score(node):
    show(node, 10.0)
    (message,) = node.published
    assert np.isnan(message.cycle_score) and not message.doubtful
    assert node.diagnose()[2]["doubtful_share"] == "unknown"


def test_a_sentence_has_the_score_of_what_is_seen(make, folder, scenes):
    node = awake(make(folder, scenes=str(scenes), rate=20.0))
    act(node, 10.0)
    act(node, 10.05)
    described, told = node.published
    # What the robot is told is where it is already: the gripper is seen, and does not move.
    pictures = Picture.seen(SCENES[0]), Picture.seen(SCENES[0], SCENES[0])
    assert pictures[0].gripper is None and pictures[1].gripper is not None
    model = CycleScenes.from_pretrained(scenes)
    for message, picture in zip((described, told), pictures, strict=True):
        wanted = model.match(tokens_of(message.text), picture)
        assert message.cycle_score == pytest.approx(wanted, abs=1e-6)


def test_the_motion_that_is_seen_is_the_plan_s_and_not_the_sentence_s(make, folder, scenes):
    node = awake(make(folder, scenes=str(scenes), rate=20.0))
    seen = []
    node._scenes.match = lambda words, picture: seen.append(picture) or 0.5
    act(node, 10.0)
    ahead = np.tile(end_effector_chunk_to_joints(
        ArmKinematics(), panda.HOME, np.array([[0.0, 0.05, 0.0, 0.04]])
    ), (8, 1))  # fmt: skip
    message = chunk_message(ahead, panda.JOINT_NAMES, 0.05, header=header(10.05), instruction=REACH)
    show(node, 10.05)
    node._on_chunk(message)
    assert [picture.motion for picture in seen] == ["", "left"]
    assert node.published[-1].text == SENTENCES[REACH, True]  # which tells of another way


def test_a_low_score_is_doubted_in_the_message_the_log_and_the_diagnostics(make, folder, scenes):
    node = awake(make(folder, scenes=str(scenes), rate=20.0, doubt_below=0.2))
    for k, score in enumerate((0.3, 0.1, 0.15, np.nan, 0.9)):
        node._scenes.match = lambda *_, score=score: score
        show(node, 10.0 + 0.05 * k)
        doubt = node._edges["doubt"]
        assert ("score of 0.1" in doubt) is (score < 0.2)
    assert [one.doubtful for one in node.published] == [False, True, True, False, False]
    assert node.diagnose()[2]["doubtful_share"] == 0.5


def test_another_checkpoint_for_scenes_does_not_configure(make, folder):
    node = make(folder, scenes="narrator")
    assert node.trigger_configure() == FAILURE and "ScenesConfig" in node.failure


# --- what it cannot use ---------------------------------------------------------------------------


def test_tokens_of_another_encoder_are_refused_with_the_cure(node):
    show(node, 10.0, encoder_id="other")
    level, message, _ = node.diagnose()
    assert not node.published and level == WARN
    assert "encoder other" in message and ENCODER in message and "checkpoint" in message
    answer = node._on_ask(Ask.Request(question=QUESTION), Ask.Response())
    assert not answer.success and "nothing was seen yet" in answer.message
    assert "encoder other" in answer.message
    show(node, 10.05)
    assert len(node.published) == 1 and node.diagnose()[0] == OK


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((2, 4, 4, 8), np.float16), "[1, 4, 4, 8], got [2, 4, 4, 8]"),
        (np.full((1, 4, 4, 8), np.nan, np.float16), "NaN"),
    ],
)
def test_broken_tokens_are_named_and_good_ones_go_on(node, values, words):
    show(node, 10.0, values=values)
    level, message, _ = node.diagnose()
    assert not node.published and level == WARN and words in message
    show(node, 11.0)
    assert len(node.published) == 1 and node.diagnose()[0] == OK


def test_without_joints_nothing_is_said_and_with_them_it_goes_on(node):
    node._on_tokens(tokens(10.0))
    assert not node.published and "no joint states" in node.diagnose()[1]
    lacking = joint_state_message(panda.JOINT_NAMES[:-1], panda.HOME[:-1], header(10.05))
    node._on_joint_states(lacking)
    node._on_tokens(tokens(10.05))
    assert not node.published and f"lacks {panda.JOINT_NAMES[-1]}" in node.diagnose()[1]
    show(node, 10.1)
    assert said(node) == [(10.1, DESCRIPTIONS[0])] and node.diagnose()[0] == OK


def test_chunks_that_are_none_are_passed_over(node):
    def nothing_is_told(chunk, words):
        show(node, seconds(chunk.header.stamp))
        node._on_chunk(chunk)
        assert not node._told and words in node._edges["chunk"]

    nan = plan(10.0)
    nan.data[3] = np.nan
    nothing_is_told(nan, "NaN")
    others = plan(10.05)
    others.joint_names = list("abcdefgh")
    nothing_is_told(others, "a, b")
    nothing_is_told(plan(10.1, count=3), "3 points 0.05 s apart do not tell")
    act(node, 10.15)
    assert said(node)[-1] == (10.15, SENTENCES[REACH, True])


def test_no_tokens_are_a_warning(node):
    level, message, _ = node.diagnose()
    assert level == WARN and "narrator/visual_tokens" in message and "narrator_eye" in message


@pytest.mark.parametrize("name", ["nowhere", "arm"])
def test_what_is_no_narrator_does_not_configure(make, name):
    node = make(name)
    assert node.trigger_configure() == FAILURE and node.state == "unconfigured"
    assert ("no checkpoint 'nowhere'" if name == "nowhere" else "NarratorConfig") in node.failure


# --- answers --------------------------------------------------------------------------------------


def ask(node, question):
    return node._on_ask(Ask.Request(question=question), Ask.Response())


@pytest.mark.parametrize("question", [QUESTION, QUESTION.capitalize() + "?"])
def test_a_question_is_answered_from_the_newest_picture(node, question):
    show(node, 10.0, picture=1)
    show(node, 10.05, picture=0)  # not narrated
    answer = ask(node, question)
    assert answer.success and answer.message == "" and answer.answer == "Right of the bowl"
    assert from_tokens(answer.scene) == SCENES[0] and answer.log_probability < 0.0
    assert list(answer.tokens)[:3] == ["<obj>", "red", "cube"]


def test_a_question_about_a_picture_whose_joints_are_still_to_come_is_answered(node):
    show(node, 10.0)
    node._on_tokens(tokens(10.6, PICTURES[1]))  # as after it has spoken: old joints come first
    feel(node, 10.05)
    answer = ask(node, QUESTION)
    assert answer.success and from_tokens(answer.scene) == SCENES[0]
    feel(node, 10.6)
    assert from_tokens(ask(node, QUESTION).scene) == SCENES[1]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("where is the frobnicator and the quxly", "unknown words 'frobnicator', 'quxly'"),
        ("lift the red cube", "is no question"),
        ("", "is no question"),
        ("where is the green cylinder", "no green cylinder"),
        (WRONG, "the answer 'Two' does not hold of the scene that was read"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(node, question, words):
    show(node, 10.0)
    answer = ask(node, question)
    assert not answer.success and words in answer.message
    assert answer.answer == "" and not answer.tokens and answer.log_probability == 0.0
    assert list(answer.scene) == to_tokens(SCENES[0])  # so that one sees why


def test_without_a_picture_there_is_no_answer(node):
    answer = ask(node, QUESTION)
    assert not answer.success and "nothing was seen yet" in answer.message
    assert not answer.scene and answer.age == 0.0


def test_an_answer_about_an_old_picture_tells_its_age(node, monkeypatch):
    show(node, 10.0)
    for stamp in np.arange(10.01, 16.0, 0.01):  # the joints go on, and are told otherwise
        feel(node, stamp, np.zeros(8))
    monkeypatch.setattr(NarratorNode, "now", property(lambda _: 10.5))
    answer = ask(node, QUESTION)
    assert answer.success and answer.age == 0.5 and answer.message == ""
    monkeypatch.setattr(NarratorNode, "now", property(lambda _: 75.0))
    later = ask(node, QUESTION)
    assert later.success and later.age == 65.0 and later.answer == answer.answer
    assert from_tokens(later.scene) == SCENES[0]
    assert later.message == "the picture is 65.0 s old: is narrator_eye still active?"


def test_without_time_it_speaks_seldom_and_says_once_why(node, monkeypatch):
    said_of_itself = []
    monkeypatch.setattr(node._keeping_up, "_warn", said_of_itself.append)
    monkeypatch.setattr(node._keeping_up, "_info", said_of_itself.append)
    show(node, 10.0)
    for _ in range(4):
        node._missed, node._keeping_up._worked = True, 1e9
        level, message, details = node.diagnose()
    assert level == WARN and message.startswith("no time") and details["keeps_up"] is False
    for stamp in (11.0, 13.0, 15.0, 16.0):
        show(node, stamp)
    assert [at for at, _ in said(node)] == [10.0, 15.0]
    for second in range(5):
        node._on_tokens(tokens(17.0 + 0.01 * second))
        feel(node, 17.0 + 0.01 * second)
        level, _, details = node.diagnose()
    assert level == OK and details["keeps_up"] is True
    assert len(said_of_itself) == 2 and said_of_itself[1] == f"no longer: {said_of_itself[0]}"


def test_asked_while_a_policy_acts_it_goes_on_narrating(node):
    act(node, 10.0)
    act(node, 10.05)
    assert ask(node, QUESTION).success
    act(node, 11.05)
    assert said(node)[-1] == (11.05, SENTENCES[REACH, True])


# --- over ROS -------------------------------------------------------------------------------------


class Robot(Probe):
    """The other side of the topics: eye, joints and a policy, at 20 Hz of its own time."""

    def __init__(self) -> None:
        super().__init__("robot", NAMESPACE)
        node = self.node
        self._tokens = node.create_publisher(VisualTokens, "narrator/visual_tokens", qos.sensor())
        self._joints = node.create_publisher(JointState, "joint_states", qos.standard())
        self._chunks = node.create_publisher(ActionChunk, "action_chunk", qos.standard(1))
        self.listen(Narration, "narration", qos.standard())
        self.listen(DiagnosticArray, "/diagnostics", qos.standard())
        self.instruction, self.blind = "", False
        node.create_timer(0.05, self._publish)
        self.start()

    def _publish(self) -> None:
        now = self.node.get_clock().now().nanoseconds * 1e-9
        joints = joint_state_message(panda.JOINT_NAMES, panda.HOME, header(now))
        self._joints.publish(joints)
        if not self.blind:
            self._tokens.publish(tokens(now))
        if self.instruction:
            self._chunks.publish(plan(now, self.instruction))

    def ask(self, question) -> Ask.Response:
        return self.call(Ask, "ask", Ask.Request(question=question))

    def change(self, *transitions) -> None:
        for transition in transitions:
            request = ChangeState.Request(transition=Transition(id=transition))
            assert self.call(ChangeState, "narrator/change_state", request).success

    def statuses(self):
        return [message.status[0] for _, message in self.heard["/diagnostics"]]


@pytest.fixture(scope="module")
def running(tmp_path_factory, folder, scenes):
    """The node as a process, and the robot that it watches."""
    robot, logs = Robot(), tmp_path_factory.mktemp("process")
    settings = ("-p", f"checkpoint:={folder}", "-p", f"scenes:={scenes}")
    process = NodeProcess(logs, NAMESPACE, "narrator", *settings)
    robot.output = lambda: process.output
    try:
        wait_for(lambda: robot.heard["narration"])
        yield robot
    finally:
        code = process.end()
        robot.close()
        print(process.output)
    assert code == 0


def test_it_narrates_what_is_done_from_the_moment_that_it_is_told(running):
    message = running.next("narration")
    assert message.text == DESCRIPTIONS[0] and 0.0 <= message.cycle_score <= 1.0
    running.instruction = REACH
    message = running.next("narration", lambda one: one.instruction)
    assert message.text == SENTENCES[REACH, True] and message.instruction == REACH
    running.instruction = LEFT_OUT
    message = running.next("narration", lambda one: one.unknown_words)
    assert message.text == SENTENCES["", True] and message.instruction == LEFT_OUT
    running.instruction = ""
    assert running.next("narration", lambda one: not one.instruction).text == DESCRIPTIONS[0]
    assert running.output().count("narrating without the instruction") == 2  # and no longer


def test_it_answers_over_ros_and_says_how_it_is_doing(running):
    assert running.ask(QUESTION).answer == "Right of the bowl"
    assert "frobnicator" in running.ask("where is the frobnicator?").message
    wait_for(lambda: running.statuses() and running.statuses()[-1].message == "narrating")
    assert {value.key for value in running.statuses()[-1].values} >= {
        "narrations_per_second",
        "inference_ms",
        "unsound_share",
        "unknown_words",
    }


def test_a_dead_eye_is_named_and_its_return_is_enough(running):
    running.blind = True
    try:
        wait_for(lambda: "narrator_eye" in running.statuses()[-1].message)
        wait_for(lambda: "is narrator_eye still active" in running.ask(QUESTION).message)
        answer = running.ask(QUESTION)
        assert answer.success and answer.age > 2.0
    finally:
        running.blind = False
    assert running.next("narration").text == DESCRIPTIONS[0]
    wait_for(lambda: running.statuses()[-1].message == "narrating")


def test_inactive_it_says_so_and_restarted_it_begins_anew(running):
    running.change(Transition.TRANSITION_DEACTIVATE)
    answer = running.ask(QUESTION)
    assert not answer.success and "narrator is inactive" in answer.message
    running.change(
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
    )
    assert running.next("narration").text == DESCRIPTIONS[0]
    assert running.ask(QUESTION).success


def test_an_unknown_checkpoint_ends_it_with_one_line(tmp_path):
    process = NodeProcess(tmp_path, NAMESPACE, "narrator", "-p", "checkpoint:=nowhere")
    assert process.wait() == 1
    last = process.output.strip().splitlines()[-1]
    assert last.startswith("error: narrator: no checkpoint 'nowhere'")
    assert "Traceback" not in process.output


@pytest.mark.parametrize("processes", ["none", "aside", "all"])
def test_in_the_stack_it_narrates_what_its_own_eye_sees(checkpoint, folder, processes):
    listener = Probe("listener", "")
    listener.listen(Narration, "narration", qos.standard())
    listener.start()
    try:
        with live.running(str(checkpoint), processes=processes, narrator=str(folder)) as arm:
            message = listener.next("narration")  # of the two scenes that it knows
            assert message.text in DESCRIPTIONS and message.instruction == ""
            assert from_tokens(message.scene) in SCENES
            assert listener.call(Ask, "ask", Ask.Request(question="is the hand open")).scene
            topic = "/narrator/visual_tokens"
            wait_for(lambda: listener.publishers(topic) == ["narrator_eye"])
            assert not arm.stack.failure
    finally:
        listener.close()


def test_the_shipped_narrator_tells_what_the_simulated_arm_does_and_answers():
    # In a namespace of its own: there is a narrator already that answers in that of the others.
    robot = Probe("listener", "shipped")
    robot.listen(Narration, "narration", qos.standard())
    robot.start()
    seed = {"sim_robot": {"seed": 3}}
    try:
        with Stack(namespace="shipped", instruction=REACH, overrides=seed) as stack:
            message = robot.next("narration", lambda one: one.instruction)
            assert message.instruction == REACH and message.text.endswith(".")
            from_tokens(message.scene)
            answers = []

            def answered():
                answers.append(robot.call(Ask, "ask", Ask.Request(question="is the hand open")))
                return answers[-1].success

            wait_for(answered)
            assert answers[-1].answer in ("Yes.", "No.")
            assert not stack.failure
    finally:
        robot.close()
