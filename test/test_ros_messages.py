"""Messages to numpy and back, bit for bit, and what is refused."""

import numpy as np
import pytest
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from vla_ros.images import image_from_message
from vla_ros.msg import ActionChunk, VisualTokens
from vla_ros.ros.messages import (
    chunk_from_message,
    chunk_message,
    image_message,
    joint_state_message,
    seconds,
    to_duration,
    to_time,
    tokens_from_message,
    tokens_message,
    trajectory_message,
)
from vla_ros.safety.gate import Command

HEADER = Header(stamp=to_time(12.25), frame_id="here")


@pytest.mark.parametrize("value", [0.0, 1.5, 1_795_333_666.123456])
def test_time_survives_the_round_trip(value):
    assert seconds(to_time(value)) == pytest.approx(value, abs=1e-6)
    assert seconds(to_duration(value)) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_tokens_survive_the_round_trip(kind):
    tokens = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(kind)
    message = tokens_message(tokens, HEADER, "abc", ("left", "right"), 0.5)
    back = tokens_from_message(message)
    assert back.dtype == kind and message.header.stamp == HEADER.stamp
    np.testing.assert_array_equal(back, tokens)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"dtype": 9}, "dtype 9"), ({"shape": [1, 2, 3]}, "shape"), ({"data": b"123"}, "3 bytes")],
)
def test_broken_tokens_are_refused(change, word):
    message = tokens_message(np.zeros((1, 2, 2, 3), np.float16), HEADER, "abc", ("one",), 0.0)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=word):
        tokens_from_message(message)
    with pytest.raises(ValueError):
        tokens_from_message(VisualTokens())


def test_chunk_survives_the_round_trip():
    points = np.random.default_rng(0).normal(size=(4, 3))
    message = chunk_message(points, ("a", "b", "c"), 0.05, header=HEADER, tick=7, done=0.5)
    chunk = chunk_from_message(message)
    assert (chunk.stamp, chunk.dt, chunk.names) == (12.25, 0.05, ("a", "b", "c"))
    assert message.tick == 7 and message.done == 0.5
    np.testing.assert_array_equal(chunk.points, points)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"control_mode": ActionChunk.TWIST}, "control mode 2"),
        ({"horizon": 5}, "not 5 points"),
        ({"dof": 2**32 - 1}, "points of"),
    ],
)
def test_broken_chunk_is_refused(change, word):
    message = chunk_message(np.zeros((4, 3)), ("a", "b", "c"), 0.05)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=word):
        chunk_from_message(message)


@pytest.mark.parametrize(
    ("image", "encoding"),
    [
        (np.arange(60, dtype=np.uint8).reshape(4, 5, 3), "rgb8"),
        (np.arange(20, dtype=np.uint8).reshape(4, 5), "mono8"),
        (np.arange(20, dtype=np.float32).reshape(4, 5), "32FC1"),
        (np.arange(20, dtype=np.uint16).reshape(4, 5), "16UC1"),
    ],
)
def test_images_carry_their_encoding(image, encoding):
    message = image_message(image, HEADER)
    assert (message.encoding, message.height, message.width) == (encoding, 4, 5)
    assert message.step * message.height == len(message.data) == image.nbytes
    if encoding == "rgb8":
        np.testing.assert_array_equal(image_from_message(message), image)


def test_image_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="float64"):
        image_message(np.zeros((4, 5)), HEADER)


def test_joint_states_and_trajectory_keep_their_numbers():
    state = joint_state_message(("a", "b"), np.array([1, 2]), HEADER, np.array([0.5, 0.25]))
    assert isinstance(state, JointState)
    assert list(state.position) == [1.0, 2.0] and list(state.velocity) == [0.5, 0.25]
    command = Command(np.array([0.1, 0.2]), 0.125, 12.25, False)
    trajectory = trajectory_message(command, ("a", "b"), HEADER)
    assert list(trajectory.joint_names) == ["a", "b"] and trajectory.header.stamp == HEADER.stamp
    (point,) = trajectory.points
    assert list(point.positions) == [0.1, 0.2] and seconds(point.time_from_start) == 0.125
