"""Messages become model inputs the same way for every class that has the fields."""

from types import SimpleNamespace

import numpy as np
import pytest

from vla_ros.observations import joints_from_message, preprocess_image, proprioception
from vla_ros.robots import panda
from vla_ros.robots.kinematics import ArmKinematics


def test_preprocessing_crops_the_centre_and_averages():
    image = np.zeros((128, 160, 3), np.uint8)
    image[:, 16:144:2] = 200  # alternating columns inside the centre square
    small = preprocess_image(image, 64)
    assert small.shape == (64, 64, 3) and (small == 100).all()


def test_preprocessing_refuses_what_it_would_have_to_invent():
    with pytest.raises(ValueError, match="smaller than the model"):
        preprocess_image(np.zeros((32, 64, 3), np.uint8), 64)
    with pytest.raises(ValueError, match="expected uint8"):
        preprocess_image(np.zeros((64, 64, 3), np.float32), 64)


def test_joints_are_found_by_name_not_by_place():
    message = SimpleNamespace(name=["c", "a", "b"], position=[3.0, 1.0, 2.0])
    assert joints_from_message(message, ("a", "b", "c")).tolist() == [1.0, 2.0, 3.0]


def test_bad_joint_states_are_named():
    message = SimpleNamespace(name=["a", "b"], position=[1.0, float("nan")])
    with pytest.raises(ValueError, match="for b"):
        joints_from_message(message, ("a", "b"))
    with pytest.raises(ValueError, match="lacks z"):
        joints_from_message(message, ("a", "z"))
    with pytest.raises(ValueError, match="1 positions"):
        joints_from_message(SimpleNamespace(name=["a", "b"], position=[1.0]), ("a",))


def test_proprioception_is_the_tool_and_the_finger():
    felt = proprioception(panda.HOME, ArmKinematics())
    assert felt.dtype == np.float32
    np.testing.assert_allclose(felt, [0.45, 0.0, 0.2, panda.GRIPPER_OPEN], atol=1e-3)
