"""What differs between a checkpoint and where it is to run is told, or it is refused."""

from dataclasses import replace

import pytest
from tiny_policy import ACTION, TinyPolicy

from vla_ros.models.compatibility import (
    camera_differences,
    proprioception_order,
    with_recordings,
    with_robot,
)
from vla_ros.robots.action_config import ActionConfig

ROBOT = ActionConfig.get_arm_config()
CAMERAS = ("camera", "wrist_camera")


def policy(cameras=CAMERAS, **changes):
    return TinyPolicy(replace(ROBOT, **changes), cameras)


def compared(one, **given):
    return with_robot(one, **{"robot": ROBOT, "cameras": CAMERAS, "checkpoint": "it", **given})


def test_nothing_is_told_where_nothing_differs():
    for fit in (
        compared(policy()),
        compared(policy(cameras=CAMERAS[::-1])),
        with_recordings(policy(), ROBOT, CAMERAS, checkpoint="it"),
    ):
        assert fit.require() is fit and fit.table() == "" and fit.rows() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"control_mode": "twist"}, "control_mode: the checkpoint has twist, here it is end_eff"),
        ({"joint_names": "abcdefgh"}, "joint_names: the checkpoint has a, b, c"),
        ({"action_names": ("y", "x", "z", "finger_opening")}, "action_names: .* y, x, z"),
        ({"proprioception_names": ("tool_x", "weight")}, "nothing tells weight"),
        ({"cameras": ("camera", "left")}, "cameras: .*, wrist_camera: there is no left to see by"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line_with_a_cure(changes, words):
    with pytest.raises(ValueError, match=words) as refused:
        compared(policy(**changes)).require()
    text = str(refused.value)
    assert text.startswith("the checkpoint it does not fit the robot: ")
    assert text.endswith("choose another checkpoint") and "\n" not in text


def test_all_reasons_are_told_at_once():
    with pytest.raises(ValueError, match="twist.*nothing tells weight.*no left"):
        compared(
            policy(("left",), control_mode="twist", proprioception_names=("weight",))
        ).require()


def test_what_runs_all_the_same_is_one_table_in_words():
    reach = ((-0.5, 0.16), *ROBOT.action_bounds[1:])
    fit = compared(policy(("camera",), action_bounds=reach, dt=0.1)).require()
    head, names, *rows = fit.table().splitlines()
    assert head == "the checkpoint it and the robot differ:"
    assert names.split() == "what checkpoint here what is done about it".split()
    assert [row.split("  ")[1].strip() for row in rows] == ["dt", "bounds of x", "cameras"]
    assert "-0.5 to 0.16" in rows[1] and "gate limits" in rows[1]
    assert rows[2].endswith("not looked through: wrist_camera")
    starts = {
        row.index(end) for row, end in zip(rows, ("chunks", "the comm", "not l"), strict=True)
    }
    assert len(starts) == 1, "columns stand one below the other"
    assert [row["what"] for row in fit.rows()] == ["dt", "bounds of x", "cameras"]


def test_proprioception_is_given_by_name():
    one = TinyPolicy(ACTION)
    (row,) = compared(one, cameras=None).require().differences
    assert row.what == "proprioception" and "by name" in row.consequence
    assert proprioception_order(one, ROBOT.proprioception_names) == [3, 2]
    assert proprioception_order(policy(proprioception_names=()), ROBOT.proprioception_names) == []


def test_recordings_must_be_of_the_same_time_step_and_need_no_joints():
    slow = policy(dt=0.2, joint_names=tuple("abc"))
    with pytest.raises(ValueError, match="not fit the recordings: dt: .*has 0.2, here it is 0.05"):
        with_recordings(slow, ROBOT, checkpoint="it").require()
    with_recordings(policy(joint_names=tuple("abc")), ROBOT, checkpoint="it").require()


def test_geometry_is_no_difference_as_what_it_needs_is_looked_for_where_images_are_read():
    one = policy()
    one.geometry_description = {"model_type": "depth_camera"}
    assert compared(one, cameras=None).differences == ()
    for fit in (compared(one), with_recordings(one, ROBOT, checkpoint="it")):
        fit.require()


def test_more_cameras_than_the_policy_looks_through_do_no_harm():
    (row,) = camera_differences(policy(("camera",)), ("side", "camera"))
    assert row.runs and row.consequence == "not looked through: side"


@pytest.mark.parametrize(
    ("keys", "chosen", "runs", "words"),
    [
        (("bridge", "fractal"), "", False, "none is chosen"),
        (("bridge", "fractal"), "kuka", False, "here it is kuka"),
        (("bridge", "fractal"), "fractal", True, "scaled as those of fractal"),
    ],
)
def test_statistics_of_several_datasets_need_a_choice_among_them(keys, chosen, runs, words):
    one = policy()
    one.statistics_keys, one.statistics_key = keys, chosen
    (row,) = compared(one).differences
    assert row.runs is runs and words in str(row)


def test_statistics_of_the_one_dataset_there_is_are_not_worth_a_word():
    one = policy()
    one.statistics_keys, one.statistics_key = ("bridge",), "bridge"
    assert compared(one).differences == ()
