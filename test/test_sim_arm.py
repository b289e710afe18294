"""The simulated Panda: its body, its cameras, and that it does the same thing twice."""

import numpy as np
import pytest

from vla_ros.robots import panda
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.sim.arm import CAMERAS, TICK, ArmWorld
from vla_ros.sim.panda_model import panda_spec
from vla_ros.sim.tasks import FAMILIES, Outcome, sample_task


@pytest.fixture(scope="module")
def world():
    world = ArmWorld((96, 128))
    yield world
    world.close()


def move(world, joints, seconds):
    world.controller.accept(panda.JOINT_NAMES, joints[None], [0.5 * seconds], 0.0, world.time)
    for _ in range(round(seconds / TICK)):
        world.tick()


# --- body -----------------------------------------------------------------------------------------


def test_model_and_constants_have_the_same_limits(world):
    # test_kinematics.py compares the constants with the URDF.
    for i, name in enumerate(panda.JOINT_NAMES):
        low, high = world.model.joint(name).range
        assert (low, high) == pytest.approx((panda.LOWER[i], panda.UPPER[i]), abs=1e-4), name


def test_kinematics_agree_with_the_physics_everywhere(world):
    kinematics, rng = ArmKinematics(), np.random.default_rng(0)
    world.reset(sample_task("reach", 0))
    for _ in range(5):
        joints = panda.HOME + np.append(rng.uniform(-0.25, 0.25, 7), 0.0)
        move(world, np.clip(joints, panda.LOWER, panda.UPPER), 1.0)
        position, _ = kinematics.forward(world.joint_positions()[:-1])
        np.testing.assert_allclose(position, world.tool_position(), atol=1e-4)


def test_it_follows_a_trajectory_and_reports_velocity_and_effort(world):
    world.reset(sample_task("reach", 0))
    start = world.joint_positions()
    target = start + np.append(np.full(7, 0.1), -0.02)
    world.controller.accept(panda.JOINT_NAMES, target[None], [0.5], 0.0, world.time)
    for _ in range(25):
        world.tick()
    assert (world.joint_velocities()[:7] > 0.05).all()
    assert np.abs(world.joint_efforts()).max() > 0.1
    for _ in range(100):
        world.tick()
    np.testing.assert_allclose(world.joint_positions(), target, atol=5e-3)


def test_time_goes_on_over_a_reset(world):
    before = world.time
    world.reset(sample_task("push", 1))
    assert world.time >= before
    before = world.time
    world.tick()
    assert world.time == pytest.approx(before + TICK)
    assert world.outcome is Outcome.RUNNING


def test_equal_tasks_give_equal_worlds():
    def run():
        world = ArmWorld((64, 64))
        world.reset(sample_task("bowl", 4))
        move(world, panda.HOME, 0.3)
        image, state = world.render("camera"), world.data.qpos.copy()
        world.close()
        return image, state

    (image, state), (image2, state2) = run(), run()
    np.testing.assert_array_equal(state, state2)
    np.testing.assert_array_equal(image, image2)


@pytest.mark.parametrize("family", FAMILIES)
def test_objects_lie_still_where_the_task_puts_them(world, family):
    task = sample_task(family, 11)
    world.reset(task)
    move(world, panda.HOME, 0.3)
    places = np.array([(*item.position, item.half_extents[1]) for item in task.objects])
    np.testing.assert_allclose(world.object_positions()[:, :2], places[:, :2], atol=1e-3)
    np.testing.assert_allclose(world.object_positions()[:, 2], places[:, 2], atol=5e-4)


def test_unknown_visuals_are_refused():
    with pytest.raises(ValueError, match="'wireframe'"):
        panda_spec("wireframe")


# --- cameras --------------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", CAMERAS)
def test_images_have_the_size_asked_for_and_show_something(world, camera):
    world.reset(sample_task("pick", 2))
    image = world.render(camera)
    assert image.shape == (96, 128, 3) and image.dtype == np.uint8
    assert image.std() > 10
    assert world.render(camera, size=(240, 320)).shape == (240, 320, 3)


def test_depth_is_in_metres(world):
    world.reset(sample_task("pick", 2))
    depth = world.render("camera", depth=True)
    assert depth.shape == (96, 128) and depth.dtype == np.float32
    # The camera looks at a spot of the table 0.9 m away.
    distance = np.linalg.norm(np.array([1.15, 0.0, 0.62]) - (0.45, 0.0, 0.06))
    assert np.median(depth[40:56, 56:72]) == pytest.approx(distance, abs=0.12)
    assert depth.min() > 0.3


def test_an_unknown_camera_is_refused(world):
    with pytest.raises(ValueError, match="'ceiling'.*camera, wrist_camera"):
        world.render("ceiling")


COLOR_TESTS = {
    "red": lambda r, g, b: (r > 2 * g) & (r > 2 * b),
    "green": lambda r, g, b: (g > 1.6 * r) & (g > 1.6 * b),
    "blue": lambda r, g, b: (b > 1.6 * r) & (b > 1.6 * g),
}


@pytest.mark.parametrize("camera", ["camera", "wrist_camera"])
def test_depth_and_intrinsics_put_points_where_the_physics_has_them(world, camera):
    """From depth through the matrix to where a ray of the physics ends: to a tenth of a mm."""
    import mujoco  # after vla_ros.sim, which chooses how it draws

    world.reset(sample_task("pick", 3))
    depth, matrix = world.render(camera, depth=True), world.intrinsics(camera)
    pose = world.data.cam("front" if camera == "camera" else "panda_wrist")
    missed = []
    for row, column in np.random.default_rng(0).integers(0, depth.shape, (300, 2)):
        ray = np.linalg.inv(matrix) @ (column, row, 1.0) * (1, -1, -1)
        ray = pose.xmat.reshape(3, 3) @ ray
        length, geom = np.linalg.norm(ray), np.zeros(1, np.int32)
        hit = mujoco.mj_ray(world.model, world.data, pose.xpos, ray / length, None, 1, -1, geom)
        if 0.03 < hit < 3.0 * length:
            missed.append(abs(hit / length - depth[row, column]))
    assert len(missed) > 200
    assert np.median(missed) < 1e-4
    assert np.mean(np.array(missed) < 1e-4) > 0.95  # all but outlines, and what no ray hits


def test_intrinsics_put_every_object_on_its_colour(world):
    """Projected through the published matrix, an object lands on the pixels of its colour."""
    found = 0
    for seed in range(4):
        world.reset(sample_task("push", seed))
        image = world.render("camera").astype(int)
        matrix, pose = world.intrinsics("camera"), world.data.cam("front")
        for item, position in zip(world.task.objects, world.object_positions(), strict=True):
            if item.color not in COLOR_TESTS:
                continue
            seen = pose.xmat.reshape(3, 3).T @ (position - pose.xpos)
            point = matrix @ (seen * (1, -1, -1))  # MuJoCo looks along -z, an optical frame along z
            column, row = (point[:2] / point[2]).round().astype(int)
            blob = COLOR_TESTS[item.color](*np.moveaxis(image, -1, 0))
            assert blob[row - 1 : row + 2, column - 1 : column + 2].any(), (seed, item)
            rows, columns = np.nonzero(blob)
            assert np.hypot(rows.mean() - row, columns.mean() - column) < 4
            found += 1
    assert found >= 6
