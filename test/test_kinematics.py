"""Kinematics and the way from end-effector actions to joint targets."""

import numpy as np
import pytest

from vla_ros.robots import panda
from vla_ros.robots.actions import end_effector_chunk_to_joints, joint_chunk_to_end_effector
from vla_ros.robots.kinematics import TOOL_DOWN, ArmKinematics


@pytest.fixture(scope="module")
def kinematics() -> ArmKinematics:
    return ArmKinematics()


def test_urdf_and_constants_agree(kinematics):
    np.testing.assert_array_equal(kinematics.lower, panda.LOWER[:-1])
    np.testing.assert_array_equal(kinematics.upper, panda.UPPER[:-1])
    np.testing.assert_array_equal(kinematics.velocity, panda.VELOCITY[:-1])


def test_home_points_down(kinematics):
    position, rotation = kinematics.forward(panda.HOME[:-1])
    np.testing.assert_allclose(rotation, TOOL_DOWN, atol=1e-4)
    np.testing.assert_allclose(position, [0.45, 0.0, 0.2], atol=1e-4)


def test_solve_reaches_every_place_on_the_table(kinematics):
    rng = np.random.default_rng(0)
    for _ in range(50):
        target = rng.uniform((0.35, -0.25, 0.01), (0.62, 0.25, 0.3))
        q = kinematics.solve(panda.HOME[:-1], target, iterations=50)
        position, rotation = kinematics.forward(q)
        np.testing.assert_allclose(position, target, atol=1e-3)
        np.testing.assert_allclose(rotation, TOOL_DOWN, atol=5e-3)


def test_solve_stays_within_limits_when_it_cannot_reach(kinematics):
    q = kinematics.solve(panda.HOME[:-1], np.array([3.0, 0.0, 0.0]), iterations=30)
    assert np.isfinite(q).all()
    assert (q >= kinematics.lower).all() and (q <= kinematics.upper).all()


def test_a_chunk_of_offsets_arrives_where_it_says(kinematics):
    actions = np.zeros((8, 4))
    actions[:, 0] = np.linspace(0.01, 0.05, 8)
    actions[:, 2] = -np.linspace(0.01, 0.04, 8)
    actions[:, 3] = 0.02
    targets = end_effector_chunk_to_joints(kinematics, panda.HOME, actions)
    start, _ = kinematics.forward(panda.HOME[:-1])
    for action, target in zip(actions, targets, strict=True):
        position, _ = kinematics.forward(target[:-1])
        np.testing.assert_allclose(position, start + action[:3], atol=1e-3)
        assert target[-1] == action[3]


def test_offsets_come_back_from_joint_targets(kinematics):
    rng = np.random.default_rng(0)
    measured = panda.HOME + rng.normal(scale=0.05, size=8) * ([1] * 7 + [0])
    tool, _ = kinematics.forward(measured[:-1])
    steps = rng.uniform(-0.01, 0.01, (8, 3)).cumsum(axis=0)
    actions = np.column_stack([steps, rng.uniform(0.0, 0.04, 8)])
    targets = end_effector_chunk_to_joints(kinematics, measured, actions)
    again = joint_chunk_to_end_effector(kinematics, measured, targets)
    np.testing.assert_allclose(again, actions, atol=1e-3)
    # Told from elsewhere, the same targets are other offsets.
    elsewhere = joint_chunk_to_end_effector(kinematics, panda.HOME, targets)
    home, _ = kinematics.forward(panda.HOME[:-1])
    np.testing.assert_allclose(elsewhere[:, :3] - again[:, :3], np.tile(tool - home, (8, 1)))


def test_no_offset_keeps_the_arm_where_it_is(kinematics):
    targets = end_effector_chunk_to_joints(kinematics, panda.HOME, np.zeros((3, 4)))
    np.testing.assert_allclose(targets[:, :-1], np.tile(panda.HOME[:-1], (3, 1)), atol=1e-3)


def test_another_robots_urdf_is_refused(tmp_path):
    other = panda.URDF.read_text().replace("panda_joint3", "elbow")
    (tmp_path / "other.urdf").write_text(other)
    with pytest.raises(ValueError, match="elbow"):
        ArmKinematics(tmp_path / "other.urdf")
    with pytest.raises(ValueError, match="no frame 'gripper'"):
        ArmKinematics(tool_frame="gripper")
