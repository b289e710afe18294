"""The state of recordings: in parts, out of order, by place; and as the live nodes take it."""

import numpy as np
import pytest
from recordings import SECOND, header, image, joints, make, picture, robot, text, write_bag

from vla_ros.joint_states import JointHistory
from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.alignment import Align, Stream
from vla_ros.training.data.bag import Bag
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bags import open_bag

KIND = "sensor_msgs/msg/JointState"


def contract(names="ab", state="/joint_states", **action) -> Contract:
    names = tuple(names)
    settings = {"action_names": names, "proprioception_names": names, "dt": 0.1} | action
    dim = len(settings["action_names"])
    return Contract(
        ActionConfig("arm", dim, (-10, 10), settings.pop("joint_names", ()), **settings),
        cameras={"front": Stream("/camera")},
        state=state if isinstance(state, list | Stream) else Stream(state),
        command=Stream("/command", Align.HOLD),
    )


def pictures(count: int = 20, names: str = "ab"):
    for i in range(count):
        yield image("/camera", 100 + 0.1 * i, picture(i))
        yield joints("/command", 99.99 + 0.1 * i, dict.fromkeys(names, 1.0))


def nameless(stamp, values):
    fields = {"velocity": np.zeros(0), "effort": np.zeros(0)}
    message = make(KIND, header=header(stamp), name=[], position=np.array(values), **fields)
    return "/joint_states", KIND, stamp, message


def twice(stamp):
    fields = {"velocity": np.zeros(0), "effort": np.zeros(0)}
    values = np.array([0.5, 0.0, -0.5])
    named = make(KIND, header=header(stamp), name=["a", "b", "a"], position=values, **fields)
    return "/joint_states", KIND, stamp, named


def read(path, wanted):
    (episode,) = open_bag(path, wanted)
    return episode


def arm(topic="/joint_states", rate=100, begin=99.8, **when):
    """a is the time since 100 s, b its half."""
    for t in np.arange(begin, 102, 1 / rate).round(6):
        yield joints(topic, t, {"a": t - 100, "b": (t - 100) / 2})


def hand(topic, rate=30, begin=99.803):
    for t in np.arange(begin, 102, 1 / rate).round(6):
        yield joints(topic, t, {"g": 0.02 + 0.01 * np.sin(t)})


def swapped(said):
    """Pairs of messages that come in the other order than they are stamped."""
    said = list(said)
    for first, second in zip(said[::2], said[1::2], strict=False):
        yield second
        yield *first[:2], second[2] + 0.0005, first[3]


KINDS = {
    "whole": (lambda: arm(), "ab", ["/joint_states"]),
    "swapped": (lambda: swapped(arm()), "ab", ["/joint_states"]),
    "two drivers": (lambda: [*arm(), *arm(begin=99.798)], "ab", ["/joint_states"]),
    "partial": (lambda: [*arm(), *hand("/joint_states")], "gab", ["/joint_states"]),
    "gripper topic": (lambda: [*arm(), *hand("/hand")], "abg", ["/joint_states", "/hand"]),
    "both": (
        lambda: [*swapped(arm()), *swapped(hand("/hand", rate=60))],
        "abg",
        ["/joint_states", "/hand"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_live_and_recorded_states_are_the_same_bit_for_bit(tmp_path, kind):
    said, names, topics = KINDS[kind]
    path = write_bag(tmp_path / "bag", [*pictures(names=names), *said()])
    episode = read(path, contract(names, [Stream(topic) for topic in topics]))
    assert len(episode) == 20 and episode.notes == ()

    live, waiting, found = JointHistory(topics), [], []
    bag = Bag(path)
    streams = [bag.topic(topic) for topic in topics]
    order = sorted(
        ((int(at), topic, row) for topic in streams for row, at in enumerate(topic.received)),
        key=lambda one: one[0],
    )
    frames = bag.topic("/camera").stamps.tolist()
    for received, topic, row in order:
        (message,) = bag.messages(topic, [row])
        while frames and frames[0] + 2_000_000 <= received:
            waiting.append(frames.pop(0))  # as an image comes
        live.add(topic.name, int(topic.stamps[row]), message)
        while waiting and waiting[0] <= live.complete:
            found.append(live.positions(names, waiting.pop(0), SECOND // 5))
    found += [live.positions(names, frame, SECOND // 5) for frame in (*waiting, *frames)]
    np.testing.assert_array_equal(np.array(found, np.float32), episode.proprioception)
    assert np.ptp(episode.proprioception, axis=0).min() > 0.001, "all of them move"


def test_what_a_part_may_be_old_is_told_by_its_topic(tmp_path):
    slow = [joints("/hand", 99.9 + 0.5 * i, {"g": float(i)}) for i in range(4)]
    path = write_bag(tmp_path / "bag", [*pictures(names="abg"), *arm(), *slow])
    arms = Stream("/joint_states")
    held = read(path, contract("abg", [arms, Stream("/hand", Align.HOLD)]))
    assert held.proprioception[:, 2].tolist() == [0] * 4 + [1] * 5 + [2] * 5 + [3] * 6
    with pytest.raises(ValueError, match=r"frame at 100.200 s is without /hand of the last 0.2 s"):
        read(path, contract("abg", [arms, Stream("/hand", Align.AS_OF)]))
    with pytest.raises(ValueError, match="/hand is too slow for a frame each 0.1 s"):
        read(path, contract("abg", [arms, Stream("/hand", tolerance=0.05)]))


def test_a_joint_that_no_topic_has_is_named_with_what_there_is(tmp_path):
    path = write_bag(tmp_path / "bag", [*pictures(names="abg"), *arm(), *hand("/hand")])
    with pytest.raises(ValueError, match="no topic of the state has g: /joint_states has a, b"):
        read(path, contract("abg"))
    with pytest.raises(ValueError, match="names a topic twice"):
        contract("abg", [Stream("/hand"), Stream("hand")])
    with pytest.raises(ValueError, match="empty list"):
        contract("abg", [])


def test_joints_of_another_robot_are_named_and_no_silence_is_blamed(tmp_path):
    path = write_bag(tmp_path / "bag", [*pictures(), *arm(begin=99.9)])
    with pytest.raises(ValueError, match="no topic of the state has q, r: /joint_states has a"):
        read(path, contract("qr"))


def test_two_topics_of_one_joint_need_to_be_told_apart(tmp_path):
    other = [joints("/hand", 99.8 + 0.1 * i, {"a": 5.0, "g": 0.1 * i}) for i in range(22)]
    path = write_bag(tmp_path / "bag", [*pictures(names="abg"), *arm(), *other])
    topics = [Stream("/joint_states"), Stream("/hand")]
    with pytest.raises(ValueError, match="/joint_states and /hand both tell of a"):
        read(path, contract("abg", topics))
    topics[1] = Stream("/hand", names=["g"])
    np.testing.assert_allclose(read(path, contract("ag", topics)).proprioception[3], [0.3, 0.5])


def test_states_without_names_are_read_by_place_and_that_is_said(tmp_path):
    said = [nameless(99.9 + 0.05 * i, [0.1 * i, -0.1 * i]) for i in range(44)]
    path = write_bag(tmp_path / "bag", [*pictures(), *said])
    episode = read(path, contract())
    np.testing.assert_allclose(episode.proprioception[3], [0.8, -0.8], rtol=1e-6)
    assert episode.notes == (
        "/joint_states names no joints: its positions are taken by place, as a, b",
    )
    turned = read(path, contract(state=Stream("/joint_states", names=["b", "a"])))
    np.testing.assert_allclose(turned.proprioception[3], [-0.8, 0.8], rtol=1e-6)
    with pytest.raises(ValueError, match="holds 2 positions, but 3 are wanted .a, b, c."):
        read(path, contract("abc"))


def test_a_joint_twice_in_a_message_is_refused_by_name(tmp_path):
    path = write_bag(tmp_path / "bag", [*pictures(), *(twice(99.9 + 0.05 * i) for i in range(44))])
    with pytest.raises(ValueError, match="bag, at 100.000 s: /joint_states names a twice"):
        read(path, contract())


@pytest.mark.parametrize("period", [0.01, 0.1])
def test_a_second_publisher_that_says_zeros_is_an_error(tmp_path, period):
    zeros = [
        joints("/joint_states", t, {"a": 0.0, "b": 0.0}) for t in np.arange(99.903, 102, period)
    ]
    path = write_bag(tmp_path / "bag", [*pictures(), *arm(begin=99.9), *zeros])
    with pytest.raises(ValueError, match="/joint_states contradicts itself.*Two publishers"):
        read(path, contract())


def test_tool_places_of_another_robot_are_not_computed_by_the_pandas_kinematics():
    tool = ("tool_x", "tool_y", "tool_z", "finger_opening")
    with pytest.raises(
        ValueError, match="Franka Panda. alone, joint_names are q1, q2.*learn joint"
    ):
        contract(joint_names=("q1", "q2"), proprioception_names=tool)
    with pytest.raises(ValueError, match="Franka Panda. alone"):
        contract(joint_names=("q1", "q2"), control_mode="end_effector_offset")
    contract(proprioception_names=tool)  # recorded as such: nothing is computed


def test_what_lacks_is_named_when_no_frame_is_left(tmp_path):
    boot = [
        joints("/joint_states", 5 + 0.1 * i, {"a": 0, "b": 0}, received=100 + 0.1 * i)
        for i in range(20)
    ]
    path = write_bag(tmp_path / "boot", [*pictures(), *boot])
    with pytest.raises(ValueError, match="20 frames left out: without /joint_states") as error:
        read(path, contract())
    assert "/joint_states is stamped 5.0 to 6.9 s, /camera 100.0 to 101.9 s" in str(error.value)
    path = write_bag(tmp_path / "silent", [*robot(20), text("/instruction", 103, "go")])
    with pytest.raises(ValueError, match="20 frames left out: without an instruction"):
        read(path, contract())
