"""The emulation of ros2_control's joint trajectory controller."""

import numpy as np
import pytest

from vla_ros.sim.controller import JointTrajectoryController

NAMES = ("a", "b")


@pytest.fixture
def controller() -> JointTrajectoryController:
    return JointTrajectoryController(NAMES, np.zeros(2))


def test_holds_where_it_was_put_until_told_otherwise(controller):
    np.testing.assert_array_equal(controller.sample(123.0), [0.0, 0.0])
    controller.hold(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(controller.sample(0.0), [1.0, 2.0])


def test_interpolates_from_the_desired_position_and_holds_the_last_point(controller):
    controller.accept(NAMES, [[1.0, -1.0], [3.0, -1.0]], [1.0, 2.0], 10.0, 10.0)
    np.testing.assert_allclose(controller.sample(10.0), [0.0, 0.0])
    np.testing.assert_allclose(controller.sample(10.5), [0.5, -0.5])
    np.testing.assert_allclose(controller.sample(11.5), [2.0, -1.0])
    np.testing.assert_allclose(controller.sample(99.0), [3.0, -1.0])


def test_a_new_trajectory_replaces_the_running_one_without_a_jump(controller):
    controller.accept(NAMES, [[1.0, 0.0]], [1.0], 0.0, 10.0)
    controller.accept(NAMES, [[0.0, 0.0]], [1.0], 0.0, 10.5)
    np.testing.assert_allclose(controller.sample(10.5), [0.5, 0.0])
    np.testing.assert_allclose(controller.sample(11.0), [0.25, 0.0])


def test_points_that_are_past_already_are_skipped(controller):
    controller.accept(NAMES, [[5.0, 5.0], [1.0, 1.0]], [0.1, 1.0], 10.0, 10.5)
    np.testing.assert_allclose(controller.sample(10.75), [0.5, 0.5])


def test_joints_may_come_in_any_order(controller):
    controller.accept(("b", "a"), [[2.0, 1.0]], [1.0], 0.0, 10.0)
    np.testing.assert_array_equal(controller.sample(11.0), [1.0, 2.0])


@pytest.mark.parametrize(
    ("names", "points", "times", "stamp", "words"),
    [
        (("a", "c"), [[0, 0]], [1], 0, "b, c"),
        (("a",), [[0]], [1], 0, "every joint exactly once: look at b"),
        (("a", "a"), [[0, 0]], [1], 0, "exactly once"),
        (NAMES, [[0, 0, 0]], [1], 0, "shape"),
        (NAMES, [[0, 0]], [1, 2], 0, "2 times"),
        (NAMES, np.zeros((0, 2)), [], 0, "0 times"),
        (NAMES, [[0, np.nan]], [1], 0, "NaN"),
        (NAMES, [[0, 0], [1, 1]], [1, 1], 0, "increase"),
        (NAMES, [[0, 0]], [1], 5, "in the past"),
    ],
)
def test_what_it_refuses_is_named_and_changes_nothing(
    controller, names, points, times, stamp, words
):
    controller.accept(NAMES, [[1.0, 1.0]], [1.0], 9.5, 10.0)
    with pytest.raises(ValueError, match=words):
        controller.accept(names, points, times, stamp, 10.0)
    np.testing.assert_allclose(controller.sample(11.0), [1.0, 1.0])
