"""`vla bag report --robot`: every number with its range, and an error where it cannot be right."""

import pytest
from recordings import robot, write_bag

from vla_ros.cli import main

ROBOT = """
action: {robot_type: arm, action_names: [a, b], action_bounds: BOUNDS, binary_names: [b],
         proprioception_names: [a], dt: 0.1}
bag: {cameras: {front: /camera}, state: /joint_states, command: {topic: /command, align: hold}}
"""


@pytest.mark.parametrize(
    ("bounds", "code", "word"),
    [
        ("[[-50, 50], [-30, -1]]", 0, "action b "),
        ("[[-50, 50], [-400, 400]]", 1, "b is binary and recorded between -30 and -1"),
    ],
)
def test_the_ranges_of_a_recording_are_reported(tmp_path, capsys, bounds, code, word):
    write_bag(tmp_path / "bag", robot(30))
    (tmp_path / "robot.yaml").write_text(ROBOT.replace("BOUNDS", bounds))
    told = ["bag", "report", str(tmp_path / "bag"), "--robot", str(tmp_path / "robot.yaml")]
    assert main(told) == code
    out, err = capsys.readouterr()
    assert "action a " in out and "state  a " in out and word in out + err


def test_a_robot_that_is_none_is_an_error(tmp_path, capsys):
    write_bag(tmp_path / "bag", robot())
    assert main(["bag", "report", str(tmp_path / "bag"), "--robot", "nobody"]) == 1
    assert "error: no robot 'nobody'" in capsys.readouterr().err
