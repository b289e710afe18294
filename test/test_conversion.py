"""RLDS to recordings and back: what went in comes out, over topics that anything can read."""

import numpy as np
import pytest
from episodes import assert_same, episode, reader
from recordings import image, joints, picture, robot, text, write_bag

from vla_ros import cli
from vla_ros.images import depth_from_message, image_from_message
from vla_ros.robots import panda
from vla_ros.robots.action_config import ActionConfig
from vla_ros.training.data.bag import SECOND, Bag
from vla_ros.training.data.bag_contract import Contract
from vla_ros.training.data.bag_to_rlds import write_rlds
from vla_ros.training.data.bags import open_bag
from vla_ros.training.data.rlds import open_rlds
from vla_ros.training.data.rlds_to_bag import contract_of, write_bags


def read_back(path):
    (one,) = open_bag(path, contract_of(Bag(path)))
    assert one.notes == ()
    return one


def test_rlds_to_recordings(tmp_path):
    dataset = write_rlds(tmp_path, "toys", map(episode, range(3)))
    assert write_bags(tmp_path / "bags", open_rlds(dataset)) == 3
    paths = sorted((tmp_path / "bags").iterdir())
    assert [path.name for path in paths] == ["episode_00000", "episode_00001", "episode_00002"]
    for number, path in enumerate(paths):
        assert_same(read_back(path), episode(number))


def test_recordings_to_rlds(tmp_path):
    write_bags(tmp_path / "bags", map(episode, range(3)))
    recorded = [read_back(path) for path in sorted((tmp_path / "bags").iterdir())]
    for number, one in enumerate(open_rlds(write_rlds(tmp_path, "toys", recorded))):
        assert_same(one, episode(number))
    assert number == 2


def test_topics_hold_standard_messages(tmp_path):
    one = episode(1)
    write_bags(tmp_path / "bags", [one])
    bag = Bag(tmp_path / "bags" / "episode_00000")
    assert {name: (topic.type, len(topic)) for name, topic in bag.topics.items()} == {
        "/front/image_raw": ("sensor_msgs/msg/Image", 4),
        "/front/depth/image_raw": ("sensor_msgs/msg/Image", 4),
        "/wrist/image_raw": ("sensor_msgs/msg/Image", 4),
        "/joint_states": ("sensor_msgs/msg/JointState", 4),
        "/action": ("sensor_msgs/msg/JointState", 4),
        "/instruction": ("std_msgs/msg/String", 1),
    }
    for name, topic in bag.topics.items():
        if topic.stamped:
            np.testing.assert_allclose(topic.stamps / SECOND, one.stamps, rtol=0.0, atol=2.5e-7)
            np.testing.assert_array_equal(topic.stamps, topic.received, err_msg=name)
    messages = {name: next(bag.messages(topic)) for name, topic in bag.topics.items()}
    assert messages["/instruction"].data == one.instruction
    assert messages["/front/image_raw"].header.frame_id == "front"
    seen = image_from_message(messages["/wrist/image_raw"])
    np.testing.assert_array_equal(seen, next(one.frames("wrist")))
    far = depth_from_message(messages["/front/depth/image_raw"])
    np.testing.assert_array_equal(far, next(one.depth("front")))
    assert list(messages["/action"].name) == list(one.action_names)
    np.testing.assert_array_equal(messages["/action"].position, one.actions[0])
    assert bag.custom["outcome"] == "succeeded" and bag.custom["robot"] == "toy"


def test_offsets_of_the_tool_are_not_taken_for_joints(tmp_path):
    names = ("tool_x", "tool_y", "tool_z", "finger_opening")
    felt = np.random.default_rng(3).normal(size=(4, 4))
    one = episode(
        control_mode="end_effector_offset",
        proprioception_names=names,
        proprioception=felt,
        action_names=("x", "y", "z", "finger_opening"),
        actions=-felt,
    )
    write_bags(tmp_path / "bags", [one])
    assert_same(read_back(tmp_path / "bags" / "episode_00000"), one)


def test_stamps_from_zero_on_are_moved_for_zero_means_unset(tmp_path):
    one = episode(stamps=0.1 * np.arange(4))
    write_bags(tmp_path / "bags", [one])
    read = read_back(tmp_path / "bags" / "episode_00000")
    np.testing.assert_allclose(read.stamps, 1.0 + one.stamps, atol=1e-9)
    assert_same(read, one, stamps=False)


def test_names_that_ros_does_not_allow_are_mended(tmp_path):
    views = {"0/left-eye": reader(np.array([picture(i) for i in range(4)]))}
    one = episode(pictures=views, depths={})
    write_bags(tmp_path / "bags", [one])
    path = tmp_path / "bags" / "episode_00000"
    assert "/camera_0/left_eye/image_raw" in Bag(path).topics
    assert_same(read_back(path), one)
    clash = {"left-eye": views["0/left-eye"], "left_eye": views["0/left-eye"]}
    with pytest.raises(ValueError, match="two streams would be /left_eye/image_raw"):
        write_bags(tmp_path / "others", [episode(pictures=clash, depths={})])
    assert not (tmp_path / "others").exists()


def test_recordings_appear_whole_or_not_at_all(tmp_path):
    def breaks_off():
        yield episode(0)
        raise ValueError("the dataset is truncated")

    with pytest.raises(ValueError, match="truncated"):
        write_bags(tmp_path / "bags", breaks_off())
    with pytest.raises(ValueError, match="no episodes"):
        write_bags(tmp_path / "bags", [])
    with pytest.raises(ValueError, match="no camera"):
        write_bags(tmp_path / "bags", [episode(pictures={}, depths={})])
    assert not list(tmp_path.iterdir())
    write_bags(tmp_path / "bags", [episode(0)])
    with pytest.raises(ValueError, match="bags is there already"):
        write_bags(tmp_path / "bags", [episode(0)])


# --- vla bag from-rlds, vla bag to-rlds -----------------------------------------------------------


def test_commands_convert_there_and_back(tmp_path, capsys):
    dataset = write_rlds(tmp_path, "toys", map(episode, range(3)))
    assert cli.main(["bag", "from-rlds", str(dataset), f"{tmp_path}/bags", "--limit", "2"]) == 0
    assert capsys.readouterr().out == f"2 recordings in {tmp_path}/bags\n"
    paths = sorted(map(str, (tmp_path / "bags").iterdir()))
    assert cli.main(["bag", "to-rlds", *paths, str(tmp_path), "--name", "again"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/again/1.0.0\n"
    for number, one in enumerate(open_rlds(tmp_path / "again" / "1.0.0")):
        assert_same(one, episode(number))
    assert number == 1


def test_options_map_a_dataset(tmp_path):
    dataset = write_rlds(tmp_path, "toys", [episode(depths={})])
    (dataset / "metadata.json").unlink()  # as nobody else writes one
    command = ["bag", "from-rlds", str(dataset), f"{tmp_path}/bags"]
    assert cli.main(command) == 1, "dt is not known"
    options = "--cameras steps/observation/wrist --dt 0.1 --robot toy --control-mode twist"
    names = "--action-names vx vy grip --proprioception-names a b"
    assert cli.main([*command, *options.split(), *names.split()]) == 0
    read = read_back(tmp_path / "bags" / "episode_00000")
    assert (read.robot, read.control_mode, read.cameras) == ("toy", "twist", ("wrist",))
    assert read.action_names == ("vx", "vy", "grip") and read.dt == 0.1


def recorded_arm(path):
    """A recording on the topics of the package's own nodes."""
    said = [text("/instruction", 99.9, "lift it")]
    for i in range(8):
        stamp = 100.0 + 0.05 * i
        for topic, shift in (("/joint_states", 0.0), ("/joint_trajectory", 0.01)):
            positions = 0.01 * i + shift + 0.001 * np.arange(len(panda.JOINT_NAMES))
            where = dict(zip(panda.JOINT_NAMES, positions.tolist(), strict=True))
            said.append(joints(topic, stamp - 0.01, where))
        said.append(image("/camera/image_raw", stamp, picture(i)))
        if i not in (2, 3):
            said.append(image("/wrist_camera/image_raw", stamp, picture(i + 10)))
    return write_bag(path, said)


def test_recordings_of_the_package_become_rlds(tmp_path, capsys):
    path = recorded_arm(tmp_path / "bag")
    command = ["bag", "to-rlds", str(path), str(tmp_path), "--name", "arm"]
    assert cli.main(command) == 1
    assert "bag does not say what its actions are: give --robot" in capsys.readouterr().err
    assert cli.main([*command, "--robot", "joint_arm"]) == 0
    assert "episode 0, part 0: 1 frame left out: without /wrist_camera" in capsys.readouterr().err
    read = [*open_rlds(tmp_path / "arm" / "1.0.0")]
    direct = open_bag(path, Contract(ActionConfig.get_joint_arm_config()))
    assert [len(one) for one in read] == [3, 4] and read[0].instruction == "lift it"
    for one, other in zip(read, direct, strict=True):
        assert_same(one, other)


def test_recordings_of_another_robot_become_rlds(tmp_path):
    """Its topics and names are in a file, the one that training reads."""
    write_bag(tmp_path / "bags" / "one", [*robot(), text("/task", 99.0, "go")])
    (tmp_path / "robot.yaml").write_text(
        """
action:
  robot_type: arm
  action_names: [a, b]
  action_bounds: [-10, 10]
  proprioception_names: [a]
  control_mode: joint_position
  dt: 0.1
bag: {cameras: {eye: camera}, command: command, instruction: task}
"""
    )
    options = ["--name", "other", "--robot", str(tmp_path / "robot.yaml")]
    assert cli.main(["bag", "to-rlds", str(tmp_path / "bags"), str(tmp_path), *options]) == 0
    (read,) = open_rlds(tmp_path / "other" / "1.0.0")
    assert (read.instruction, read.cameras, len(read)) == ("go", ("eye",), 6)
    np.testing.assert_array_equal(read.actions[:, 0], np.arange(1, 7))
    np.testing.assert_array_equal(next(read.frames("eye", 3, 4)), picture(3))
