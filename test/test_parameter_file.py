"""Parameter files: what no node would take, or would take for something else, stops the start."""

import subprocess
import sys
from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context

from vla_ros.nodes.command_gate import CommandGateNode
from vla_ros.nodes.parameters import tables
from vla_ros.ros import parameter_file
from vla_ros.ros.parameter_file import ParameterError, ParameterFile
from vla_ros.ros.running import StartError, begin
from vla_ros.stack.stack import Stack

ARM = Path(__file__).parents[1] / "config" / "arm.yaml"
GATE = "/**/command_gate:\n  ros__parameters:\n    "


def written(folder, text):
    path = folder / "robot.yaml"
    path.write_text(text)
    return path


def refused(folder, text, namespace=""):
    """What is said of a file that a stack is given."""
    path = written(folder, text)
    with pytest.raises(ParameterError) as told:
        ParameterFile(path).check(tables(), namespace)
    said = str(told.value)
    assert said.startswith(str(path)) and "\n" not in said
    return said


# --- what it says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GATE + "velocity_scal: 0.1\n", ["line 3", "velocity_scal ", "velocity_scale meant"]),
        (GATE + "velocity_scale: &a 0.1\n    slowdown: *a\n", ["line 4", "no aliases", "*a"]),
        ("&a\n/**/command_gate: *a\n", ["line 2", "no aliases"]),
        ("[" * 3000, ["nested too deep"]),
        (GATE + "velocity_scale: \n", ["line 3", "velocity_scale has no value"]),
        (GATE + "velocity_scale: ~\n", ["velocity_scale has no value"]),
        (GATE + "velocity_scale: fast\n", ["velocity_scale", "a number is wanted"]),
        (GATE + "velocity_scale: '0.1'\n", ["velocity_scale", "a number is wanted"]),
        (GATE + "velocity_scale: 1_0.0\n", ["velocity_scale", "a number is wanted"]),
        (GATE + "velocity_scale: yes\n", ["velocity_scale is true", "a number is wanted"]),
        (GATE + "velocity_scale: [0.1]\n", ["velocity_scale", "not a list"]),
        (GATE + "velocity_scale: .nan\n", ["velocity_scale is nan", "finite"]),
        (GATE + "velocity_scale: 7.0\n", ["velocity_scale is 7", "1 or less"]),
        (GATE + "rate: 050\n", ["rate is 050", "octal"]),
        (GATE + "rate: 20.0\n    rate: 50.0\n", ["line 4", "rate is given twice"]),
        (GATE + "rate: 20.0\n" + GATE + "rate: 50.0\n", ["line 6", "rate is given twice"]),
        (GATE + "velocity_limit: [2.0, 2]\n", ["velocity_limit", "2.0 for 2"]),
        (GATE + "velocity_limit: [2.0, a]\n", ["velocity_limit", "one type"]),
        (
            GATE + "joint_names: [a, b]\n    velocity_limit: [1.0, 1.0, 1.0]\n",
            ["line 4", "velocity_limit has 3 numbers, but there are 2 joint_names: give one, or"],
        ),
        (
            GATE + "position_margin: [0.1, 0.1, 0.1]\n    joint_names: [a, b]\n",
            ["line 3", "position_margin has 3 numbers, but there are 2 joint_names"],
        ),
        (GATE + "velocity_limit: []\n", ["velocity_limit is an empty list"]),
        (GATE + "velocity_limit: [[2.0], [2.0]]\n", ["velocity_limit", "flat lists"]),
        (GATE + "velocity_limit: 2.0\n", ["velocity_limit", "a list is wanted"]),
        (GATE + "velocity: {scale: 0.1}\n", ["velocity.scale is no parameter"]),
        ("/**/command_gate:\n  rate: 50.0\n", ["line 2", "has no ros__parameters"]),
        ("/**/command_gate:\n  ros_parameters:\n    rate: 50.0\n", ["has no ros__parameters"]),
        ("/**/command_gate:\n\tros__parameters:\n\t\trate: 50.0\n", ["line 2", "tab"]),
        ("**/command_gate:\n  ros__parameters: {rate: 50.0}\n", ["line 1", "begin", "/**/"]),
        ("/**/command-gate:\n  ros__parameters: {rate: 50.0}\n", ["command-gate", "no name"]),
        ("/**/comand_gate:\n  ros__parameters: {rate: 50.0}\n", ["is command_gate meant"]),
        ("/**:\n  ros__parameters: {velocity_scal: 0.1}\n", ["velocity_scale meant"]),
        ("/**/action_policy:\n  ros__parameters: {instruction: yes}\n", ["put it in quotes"]),
        ("/**/action_policy:\n  ros__parameters: {done_steps: 5.0}\n", ["a whole number"]),
        ("/**/sim_robot:\n  ros__parameters: {family: dance}\n", ["family", "choose from"]),
        ("ros__parameters: {rate: 50.0}\n", ["under no node"]),
        ("- rate\n", ["line 1", "/**/NODE"]),
        ("rate", ["/**/NODE"]),
        ("a: [1\n", ["not YAML"]),
    ],
)
def test_one_line_names_file_line_and_cure(tmp_path, text, words):
    said = refused(tmp_path, text)
    assert all(word in said for word in words), said


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(ParameterError, match=f"'{path}' cannot be read"):
            ParameterFile(path)
    (tmp_path / "x.yaml").write_bytes(b"\x93NUMPY\x01\xff")
    with pytest.raises(ParameterError, match=r"x.yaml is not text"):
        ParameterFile(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "name",
    ["position_lower", "position_upper", "position_margin", "velocity_limit", "tracking_tolerance"],
)
def test_a_list_is_of_the_joints_wherever_they_are_listed(tmp_path, name):
    """In another file, or nowhere: then the node itself counts."""
    context = Context()
    path = written(tmp_path, GATE + f"{name}: [0.1, 0.1]\n")
    begin(context, ["--ros-args", "--params-file", str(path)])
    said = f"{path}: parameter {name} has 2 numbers, but there are 8 joint_names"
    with pytest.raises(ParameterError, match=said):
        CommandGateNode(context=context)
    context.try_shutdown()


@pytest.mark.parametrize("name", ["command_gate", "/command_gate", "/right/command_gate"])
def test_a_section_for_another_namespace_is_not_lost(tmp_path, name):
    text = f"{name}:\n  ros__parameters:\n    velocity_scale: 0.1\n"
    said = refused(tmp_path, text, "left")
    assert "does not match /left/command_gate" in said and "write /**/command_gate" in said
    # Beside one for all namespaces it would be lost as well.
    assert "line 4" in refused(tmp_path, GATE + "rate: 50.0\n" + text, "left")


def test_one_file_may_serve_two_arms(tmp_path):
    arms = [f"/{arm}/command_gate:\n  ros__parameters: {{rate: 50.0}}\n" for arm in "ab"]
    file = ParameterFile(written(tmp_path, "".join(arms)))
    for namespace in ("a", "/b/"):
        file.check(tables(), namespace)
    with pytest.raises(ParameterError, match="does not match /c/command_gate"):
        file.check(tables(), "c")


def test_what_ships_fits_in_any_namespace():
    for namespace in ("", "left", "/a/b"):
        ParameterFile(ARM).check(tables(), namespace)
        ParameterFile(ARM).check_sections(tables(), "command_gate", namespace or "/")


# --- as rcl reads it --------------------------------------------------------------------------

SCALARS = "4e-2 1e5 -0x1F 5 +5 -7 5. .5 -1.5E+3 nan .inf -.inf yes N Off 1_000 1:30 1d2 'yes' \"3\""


def rcl_reads(path, namespace=""):
    """The parameters of the node command_gate as rclpy gives them, by name."""
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(path)], context=context)
    node = rclpy.create_node("command_gate", namespace=namespace, context=context)
    values = {name: value.value for name, value in node._parameter_overrides.items()}
    node.destroy_node()
    context.try_shutdown()
    return values


def test_values_are_those_that_rcl_reads(tmp_path):
    lines = [f"p{i}: {text}" for i, text in enumerate(SCALARS.split())]
    lines += ["list: [4e-2, 1.5]", "words: [a, 'b c']", "nest: {in: {side: 3}}"]
    path = written(tmp_path, GATE + "\n    ".join(lines) + "\n")
    (section,) = ParameterFile(path).sections
    ours = {name: value.value for name, value in section.values.items()}
    theirs = {k: v if isinstance(v, bool | int | float | str) else [*v] for k, v in
              rcl_reads(path).items()}  # fmt: skip
    assert repr(sorted(ours.items())) == repr(sorted(theirs.items()))


def test_patterns_match_what_they_match_in_rcl(tmp_path):
    patterns = "/** /*/command_gate /**/command_gate /a/command_gate a/command_gate command_gate"
    patterns += " /a/* /a/** /* /**/* /a/b/command_gate /a/**/command_gate /*/*/command_gate"
    names = {f"p{i}": pattern for i, pattern in enumerate(patterns.split())}
    text = "".join(f"{p}:\n  ros__parameters:\n    {n}: 1\n" for n, p in names.items())
    path = written(tmp_path, text)
    for namespace in ("", "a", "a/b"):
        full = parameter_file.full_name(namespace, "command_gate")
        ours = {n for s in ParameterFile(path).sections if s.matches(full) for n in s.values}
        assert ours == set(rcl_reads(path, f"/{namespace}")), namespace


# --- at the start -----------------------------------------------------------------------------


def test_whole_numbers_and_exponents_are_taken_where_numbers_are_meant(tmp_path):
    context = Context()
    text = GATE + "rate: 40\n    lookahead: 6e-2\n    velocity_limit: [2, 2, 2, 2, 2, 2, 2, 1]\n"
    begin(context, ["--ros-args", "--params-file", str(written(tmp_path, text))])
    node = CommandGateNode(context=context)
    params = node.params
    assert (params.rate, params.lookahead) == (40.0, 0.06) and isinstance(params.rate, float)
    assert list(params.velocity_limit) == [2.0] * 7 + [1.0]
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("command_gate:\n  ros__parameters:\n    velocity_scale: 0.1\n", "write /\\*\\*/command_"),
        ("/**/comand_gate:\n  ros__parameters:\n    velocity_scale: 0.1\n", "command_gate meant"),
        (GATE + "velocity_scal: 0.1\n", "velocity_scale meant"),
        ("/**/narrator:\n  ros__parameters:\n    velocity_scale: 0.1\n", "no parameter of narr"),
        (GATE + "velocity_limit: [2.0, 2]\n", "2.0 for 2"),
    ],
)
def test_a_stack_does_not_start_with_a_file_of_which_something_is_lost(tmp_path, text, words):
    path = written(tmp_path, text)
    stack = Stack(robot="real", params_file=path, namespace="left", checkpoint="nowhere")
    with pytest.raises(StartError, match=words), stack:
        pass


def test_a_stack_refuses_parameters_that_no_node_has():
    overrides = {"command_gate": {"velocity_scal": 0.1}}
    for more in ({"ros_args": ["-p", "velocity_scal:=0.1"]}, {"overrides": overrides}):
        stack = Stack(robot="real", params_file=ARM, **more)
        with pytest.raises(StartError, match="velocity_scale meant"), stack:
            pass


def node_alone(*arguments):
    """Start a command gate as a process of its own that must end; what it says."""
    command = [sys.executable, "-m", "vla_ros.nodes.command_gate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    errors = [
        line for line in done.stderr.splitlines() if "XMLPARSER" not in line and "[rcl]" not in line
    ]
    assert len(errors) == 1 and errors[0].startswith("error: "), done.stderr
    return errors[0]


def test_a_node_alone_says_what_it_is_given_in_vain(tmp_path):
    others = written(tmp_path, "/**/narrator:\n  ros__parameters:\n    rate: 1.0\n")
    assert "no section applies to the node /command_gate" in node_alone(
        "--ros-args", "--params-file", str(others)
    )
    misspelt = written(tmp_path, "/**/comand_gate:\n  ros__parameters:\n    rate: 50.0\n")
    assert "command_gate meant" in node_alone("--ros-args", "--params-file", str(misspelt))
    assert "--ros-args" in node_alone("--params-file", str(ARM))
    given = "velocity_scal:=0.1"
    assert "velocity_scale meant" in node_alone("--ros-args", "-p", given)
    assert "ROS arguments" in node_alone("--ros-args", "-r", "no rule")
