"""Robot files: everything in one is checked when it is loaded, and what is wrong is named."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla_ros.training.data.alignment import Align
from vla_ros.training.data.recordings import Robot

ROOT = Path(__file__).resolve().parents[1]
GOOD = """\
action:
  robot_type: arm
  joint_names: [a, b]
  action_bounds: [[-3.2, 3.2], [-3.2, 3.2]]
  proprioception_names: [a, b]
  control_mode: joint_position
  horizon: 8
  dt: 0.1
cameras: [front]
bag:
  cameras: {front: /camera}
  state: /joint_states
  command: {topic: /command, align: hold}
rlds:
  cameras: [steps/observation/front]
"""


@pytest.fixture
def load(tmp_path):
    def load_text(text: str | bytes) -> Robot:
        file = tmp_path / "mine.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Robot.load(str(file))

    return load_text


def test_a_robot_file_is_read(load):
    robot = load(GOOD)
    assert robot.action.action_names == ("a", "b") and robot.action.horizon == 8
    assert robot.bag["state"].topic == "/joint_states" and robot.bag["command"].align is Align.HOLD
    assert robot.cameras == ("front",) and set(robot.rlds) == {"cameras"}


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("dt: 0.1", "dt: 1e-1", ("dt", 0.1)),
        ("dt: 0.1", "dt: 1E-1", ("dt", 0.1)),
        ("dt: 0.1", "dt: .1", ("dt", 0.1)),
        ("dt: 0.1", "dt: 2", ("dt", 2.0)),
        ("horizon: 8", "horizon: 8.0", ("horizon", 8)),
        ("horizon: 8", "horizon: 1e1", ("horizon", 10)),
        ("horizon: 8", "horizon: 010", ("horizon", 10)),
        ("[[-3.2, 3.2], [-3.2, 3.2]]", "[-3e0, +3e0]", ("action_bounds", ((-3.0, 3.0),) * 2)),
        ("joint_names: [a, b]", "joint_names: [on, no]", ("joint_names", ("on", "no"))),
    ],
)
def test_numbers_and_texts_are_what_they_look_like(load, old, new, value):
    text = GOOD.replace(old, new)
    if "on, no" in new:
        text = text.replace("names: [a, b]", "names: [on, no]")
    assert getattr(load(text).action, value[0]) == value[1]


def test_numbers_of_streams_are_numbers(load):
    robot = load(GOOD.replace("align: hold", "align: drop, tolerance: 1e-2"))
    assert robot.bag["command"].tolerance == 0.01


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cameras: [front]", "camera: [front]", "camera is not known: did you mean cameras"),
        ("control_mode: joint_p", "control_mode: joint_pp", "did you mean joint_position?"),
        ("control_mode", "contol_mode", "action.contol_mode is not known: did you mean control_m"),
        ("  state:", "  states:", "bag.states is not known: did you mean state?"),
        ("{topic: /c", "{topics: /c", "bag.command.topics is not known: did you mean topic?"),
        ("  cameras: [s", "  camera: [s", "rlds.camera is not known: did you mean cameras?"),
        ("dt: 0.1", "dt: '0.1'", "action.dt is the text '0.1': give a finite number, without quot"),
        ("dt: 0.1", "dt: true", "action.dt is true: give a finite number"),
        ("dt: 0.1", "dt:", "action.dt is empty: give a finite number"),
        ("dt: 0.1", "dt: .nan", "action.dt is nan: give a finite number"),
        ("dt: 0.1", "dt: [0.1]", r"action.dt is \[0.1\]: give a finite number"),
        ("horizon: 8", "horizon: 8.5", "action.horizon is 8.5: give a whole number"),
        ("horizon: 8", "horizon: 0", "action: action_dim, horizon and dt must be positive"),
        ("joint_names: [a, b]", "joint_names: a b", "joint_names is the text 'a b': give a list:"),
        ("joint_names: [a, b]", "joint_names: [1, 2]", r"names\[0\] is 1: give a text: \"1\""),
        ("cameras: [front]", "cameras: front", r"is the text 'front': give a list: \[front\]"),
        ("cameras: [front]", "cameras: [back]", "cameras: back is not of bag.cameras: front"),
        ("robot_type: arm", "robot_type: am", "robot_type is the text 'am': did you mean arm?"),
        ("align: hold", "align: nearest", "bag.command.align is the text 'nearest': choose hold"),
        ("align: hold", "tolerance: -1", "bag.command: tolerance is -1.0: give seconds, 0 or more"),
        ("{front: /camera}", "[/camera]", r"bag.cameras is \['/camera'\]: give names, each with"),
        ("3.2], [-3.2, 3.2]]", "3.2], [3.2, -3.2]]", r"action: bounds of b are \[3.2, -3.2\]"),
        ("  dt: 0.1", "  dt: 0.1\n  dt: 0.2", "line 9: dt is there already, in line 8"),
        ("  dt: 0.1", "\tdt: 0.1", "no YAML: line 8: .*indent with spaces"),
        ("action:", "action: [", "is no YAML: line"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line_with_its_place(load, old, new, said):
    assert old in GOOD
    with pytest.raises(ValueError, match=said) as caught:
        load(GOOD.replace(old, new, 1))
    text = str(caught.value)
    assert "\n" not in text and "mine.yaml" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "mine.yaml has no keys"),
        (b"- a", "has no keys"),
        (bytes(range(256)), "is no text"),
        (GOOD.encode("utf-16"), "is no text"),
        (b"\0\0", "is no YAML"),
        (b"action: " + b"[" * 20_000, "is no YAML"),
        (b"a: 1\n" * 300_000, "more than 1000000 bytes"),
        (b"action: !!python/object/apply:os.getcwd []", "is no YAML: line 1: could not determine"),
        (b"action: &a {action_names: *a}", "is no YAML"),
        (b"cameras: [front]", "action is missing"),
        (b"action:\ncameras: [front]", "action is missing"),
        (b"action: {robot_type: arm, action_bounds: [0, 1]}", "action.action_names is missing"),
        (b"action: {robot_type: arm, action_names: [x]}", "action.action_bounds is missing"),
        (GOOD.split("bag:")[0].encode() + b"bag:\n", "bag is empty: give keys of cameras, state"),
    ],
)
def test_what_is_no_robot_file_is_refused(load, content, said):
    with pytest.raises(ValueError, match=said):
        load(content)


def test_a_folder_or_nothing_is_no_robot(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        Robot.load(str(tmp_path))
    with pytest.raises(ValueError, match="no robot 'toaster': choose arm"):
        Robot.load("toaster")


WORDS = re.findall(r"[\w./-]+|[\[\]{}:,\n]|  ", GOOD)
ODD = [
    "",
    "~",
    "1e3",
    "[]",
    "{}",
    "'",
    "\t",
    "&a",
    "*a",
    "<<",
    "!!x",
    "- ",
    "? ",
    "#",
    "\x85",
    "null",
]


CHANGES = st.tuples(st.integers(0, len(WORDS) - 1), st.sampled_from(ODD + WORDS))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(CHANGES, max_size=4))
def test_a_damaged_file_is_read_or_refused_in_one_line(load, changes):
    words = list(WORDS)
    for place, word in changes:
        words[place] = word
    text = " ".join(words)  # spaces between the words of GOOD change nothing but the indentation
    text = re.sub(r" ?\n ?", "\n", text)
    for candidate in (text, GOOD.replace(WORDS[changes[0][0]], changes[0][1]) if changes else GOOD):
        try:
            assert isinstance(load(candidate), Robot)
        except ValueError as error:
            assert "\n" not in str(error)


def test_the_files_that_ship_are_read():
    for path in sorted((ROOT / "config").glob("widowx*.yaml")):
        assert Robot.load(str(path)).action.action_dim == 7
