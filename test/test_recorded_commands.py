"""Commands in recordings: parts that are merged, numbers by place, velocities that stay such."""

import numpy as np
import pytest
from recordings import header, image, joints, make, picture, robot, write_bag

from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.alignment import Align, Stream
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bags import open_bag


def contract(control_mode="joint_position", names=("a", "b"), **changes) -> Contract:
    action = ActionConfig(
        robot_type="arm",
        action_dim=len(names),
        action_bounds=(-100.0, 100.0),
        joint_names=(),
        action_names=names,
        proprioception_names=("a",),
        control_mode=control_mode,
        dt=0.1,
    )
    values = {"cameras": {"front": Stream("camera")}, "command": Stream("command")}
    return Contract(action, **{**values, **changes})


def read(path, **changes) -> list:
    return [*open_bag(path, contract(**changes))]


def without_commands(count=6) -> list:
    return [one for one in robot(count) if one[0] != "/command"]


def array(stamp, *values):
    layout = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    kind = "std_msgs/msg/Float64MultiArray"
    return "/command", kind, stamp, make(kind, layout=layout, data=np.array(values, np.float64))


def twist(stamp, forward):
    def vector(x):
        return make("geometry_msgs/msg/Vector3", x=x, y=0.0, z=0.0)

    moved = make("geometry_msgs/msg/Twist", linear=vector(forward), angular=vector(0.0))
    kind = "geometry_msgs/msg/TwistStamped"
    return "/command", kind, stamp, make(kind, header=header(stamp), twist=moved)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_commands_of_arm_and_gripper_in_messages_of_their_own_are_merged(tmp_path, storage):
    said = without_commands()
    for i in range(6):
        said.append(joints("/command", 99.96 + 0.1 * i, {"a": i + 1.0}))
        if i != 1:  # one of 0.14 s before stands in
            said.append(joints("/command", 99.97 + 0.1 * i, {"b": -i - 1.0}))
    (episode,) = read(write_bag(tmp_path / "bag", said, storage))
    assert episode.actions.tolist() == [[1, -1], [2, -1], [3, -3], [4, -4], [5, -5], [6, -6]]


def test_frames_before_all_joints_were_commanded_are_left_out_and_said(tmp_path):
    said = without_commands()
    said += [joints("/command", 99.96 + 0.1 * i, {"a": i + 1.0}) for i in range(6)]
    said += [joints("/command", 99.97 + 0.1 * i, {"b": -i - 1.0}) for i in range(2, 6)]
    (episode,) = read(write_bag(tmp_path / "bag", said))
    assert episode.actions.tolist() == [[3, -3], [4, -4], [5, -5], [6, -6]]
    assert episode.notes == ("2 frames left out: without b on /command of the last 0.2 s",)
    path = write_bag(tmp_path / "one", [s for s in said if s[0] != "/command"] + said[-1:])
    with pytest.raises(ValueError, match="no topic of the command has a: /command has b"):
        read(path)


@pytest.mark.parametrize("kind", ["array", "joints"])
def test_numbers_without_names_are_taken_by_the_places_that_the_file_tells(tmp_path, kind):
    said = without_commands()
    for i in range(6):
        stamp, values = 99.99 + 0.1 * i, (-i - 1.0, 7.0, i + 1.0)
        if kind == "array":
            said.append(array(stamp + 0.002, *values))
        else:
            one = joints("/command", stamp, dict(zip("bca", values, strict=True)))
            one[3].name = []
            said.append(one)
    stream = Stream("command", names=("b", "c", "a"))
    (episode,) = read(write_bag(tmp_path / "bag", said), command=stream)
    assert episode.actions.tolist() == [[i + 1, -i - 1] for i in range(6)]


def test_names_that_tell_nothing_are_refused():
    with pytest.raises(ValueError, match="names of command lack b: a, c"):
        contract(command=Stream("command", names=("a", "c")))
    with pytest.raises(ValueError, match="camera front has names: those are of state and command"):
        contract(cameras={"front": Stream("camera", names=("a",))})


@pytest.mark.parametrize("field", ["velocity", "effort"])
def test_a_velocity_is_read_as_such_and_never_a_position_in_its_place(tmp_path, field):
    said = [*robot()]
    for topic, _, _, message in said:
        if topic == "/command":
            setattr(message, field, 10 * message.position)
    path = write_bag(tmp_path / "bag", said)
    (episode,) = read(path, control_mode=f"joint_{field}")
    assert episode.actions.tolist() == [[10 * i + 10, -10 * i - 10] for i in range(6)]
    path = write_bag(tmp_path / "places", robot())
    with pytest.raises(ValueError, match="/command names 2 joints but has 0 (velocities|efforts)"):
        read(path, control_mode=f"joint_{field}")


def test_velocities_do_not_add_up_to_a_way(tmp_path):
    said = without_commands()
    said += [twist(99.99 + 0.02 * i, 0.25) for i in range(40)]
    path = write_bag(tmp_path / "bag", said)
    (episode,) = read(path, control_mode="end_effector_velocity", names=("linear_x",))
    assert episode.actions.tolist() == [[0.25]] * 6
    with pytest.raises(ValueError, match="/command has 5 messages a frame of .*are velocities"):
        read(path, control_mode="end_effector_delta", names=("linear_x",))


def test_what_is_commanded_may_jump_as_no_joint_can(tmp_path):
    said = [image("/camera", 100 + 0.1 * i, picture(i)) for i in range(40)]
    told = [float(i if i % 5 else -i) for i in range(40)]
    for i, value in enumerate(told):
        said.append(joints("/joint_states", 99.99 + 0.1 * i, {"a": float(i), "b": 0.5}))
        said.append(joints("/command", 99.99 + 0.1 * i, {"a": value, "b": 0.0}))
    stream = Stream("command", Align.HOLD)
    (episode,) = read(write_bag(tmp_path / "bag", said), command=stream)
    assert episode.actions[:, 0].tolist() == told
