"""Launch files name only what exists; with `launch` present they load and give the nodes."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from vla_ros.nodes.parameters import tables
from vla_ros.ros.parameter_file import ParameterError
from vla_ros.stack.description import NODES

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch" / "arm.launch.py"
# Parameters of nodes; config/widowx.yaml describes a robot to training.
CONFIGS = sorted(path for path in ROOT.glob("config/*.yaml") if path.name != "widowx.yaml")
NARRATOR = {"narrator", "narrator_eye"}
ALWAYS = {"vision_encoder", "action_policy", "world_model", "command_gate"} | NARRATOR
LIFECYCLE = ALWAYS | {"recorder"}


def declared_parameters(node: str) -> set[str]:
    return set(tables()[node])


def calls(name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(LAUNCH.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name
    ]


def test_arguments_are_those_promised_and_described():
    described = {
        call.args[0].value: any(k.arg == "description" for k in call.keywords)
        for call in calls("DeclareLaunchArgument")
    }
    assert set(described) >= {
        "robot",
        "namespace",
        "params_file",
        "record",
        "world_model",
        "narrator",
        "checkpoint",
        "instruction",
        "use_sim_time",
        "autostart",
        "use_respawn",
        "log_level",
    }
    assert all(described.values())


def test_executables_are_built():
    assert {node.name for node in NODES if node.has_lifecycle} == LIFECYCLE
    names = {node.executable for node in NODES}
    (built,) = re.findall(r"foreach\(node ([\w\s]+)\)", (ROOT / "CMakeLists.txt").read_text())
    assert names <= set(built.split())


@pytest.mark.parametrize(
    ("node", "parameter"),
    [
        *[(node, name) for node in sorted(LIFECYCLE) for name in ("autostart",)],
        ("vision_encoder", "checkpoint"),
        ("narrator", "checkpoint"),
        ("action_policy", "checkpoint"),
        ("action_policy", "instruction"),
        ("recorder", "folder"),
    ],
)
def test_parameter_set_by_the_launch_file_is_declared(node, parameter):
    assert parameter in declared_parameters(node)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.name)
def test_config_names_only_nodes_and_parameters_that_exist(config):
    for pattern, content in yaml.safe_load(config.read_text()).items():
        # A bare node name would match in the root namespace only, and be ignored in any other.
        assert pattern.startswith("/**/"), f"write /**/{pattern}"
        known = declared_parameters(pattern.removeprefix("/**/"))
        assert set(content) == {"ros__parameters"}
        assert set(content["ros__parameters"]) <= known


def actions(**arguments: str) -> dict[str, object]:
    """Return the nodes that the launch file starts with these arguments, by their full names."""
    pytest.importorskip("launch_ros", reason="launch and launch_ros are not installed")
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument

    spec = importlib.util.spec_from_file_location("arm_launch", LAUNCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    for argument in description.entities:
        if isinstance(argument, DeclareLaunchArgument):
            argument.visit(context)
    nodes = module.nodes(context)
    for node in nodes:
        node._perform_substitutions(context)
    return {node.node_name: node for node in nodes}


def test_sim_starts_the_simulated_robot_beside_the_nodes():
    from_file = actions()
    assert set(from_file) == {f"/{name}" for name in ALWAYS | {"sim_robot"}}
    assert from_file["/command_gate"].expanded_remapping_rules == [
        ("joint_trajectory", "joint_trajectory")
    ]


def test_real_leaves_the_robot_to_its_driver():
    from_file = actions(robot="real", namespace="arm1")
    assert set(from_file) == {f"/arm1/{name}" for name in ALWAYS}
    assert from_file["/arm1/command_gate"].expanded_remapping_rules == [
        ("joint_trajectory", "panda_arm_controller/joint_trajectory")
    ]


def test_a_folder_for_recordings_starts_the_recorder_on_the_robots_topics():
    from_file = actions(robot="real", record="/tmp/bags")
    assert set(from_file) == {f"/{name}" for name in LIFECYCLE}
    assert (
        from_file["/recorder"].expanded_remapping_rules
        == from_file["/command_gate"].expanded_remapping_rules
    )


def test_the_world_model_can_be_left_out():
    from_file = actions(world_model="false")
    assert set(from_file) == {f"/{other}" for other in ALWAYS - {"world_model"} | {"sim_robot"}}


def test_the_narrator_and_its_eye_can_be_left_out():
    from_file = actions(narrator="none")
    assert set(from_file) == {f"/{other}" for other in ALWAYS - NARRATOR | {"sim_robot"}}
    eye = actions()["/narrator_eye"]
    assert eye.process_description.prefix[0].text == "nice -n 3"
    assert eye.node_executable == "vision_encoder"
    assert eye.expanded_remapping_rules == [("visual_tokens", "narrator/visual_tokens")]


@pytest.mark.parametrize("use_respawn", ["true", "false"])
def test_only_what_commands_wait_for_ends_the_launch(use_respawn):
    from_file = actions(record="/tmp/bags", use_respawn=use_respawn)
    needed = {node.name for node in NODES if node.in_control_path}
    assert needed == {"sim_robot", "command_gate", "action_policy", "vision_encoder"}
    for name, node in from_file.items():
        arguments = vars(node)
        respawns = arguments["_ExecuteLocal__respawn"]
        ends = arguments["_ExecuteLocal__on_exit"]
        if name.strip("/") in needed:
            assert not respawns and type(ends).__name__ == "Shutdown"
        else:
            assert respawns == (use_respawn == "true") and ends is None
            assert arguments["_ExecuteLocal__respawn_max_retries"] == 3


def test_missing_params_file_is_an_error():
    pytest.importorskip("launch_ros", reason="launch and launch_ros are not installed")
    with pytest.raises(ParameterError, match="nowhere"):
        actions(params_file="/nowhere/arm.yaml")


def test_params_file_of_which_something_fits_no_node_is_an_error(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text("command_gate:\n  ros__parameters:\n    velocity_scale: 0.1\n")
    gate = actions(params_file=str(path))["/command_gate"]
    files = [str(each) for each, _ in gate._Node__expanded_parameter_arguments][:2]
    assert Path(files[0]).name == "arm.yaml" and files[1] == str(path)  # the last one counts
    # The others are not given a file that says nothing to them.
    encoder = actions(params_file=str(path))["/vision_encoder"]
    assert str(path) not in [str(each) for each, _ in encoder._Node__expanded_parameter_arguments]
    with pytest.raises(ParameterError, match=r"write /\*\*/command_gate"):
        actions(params_file=str(path), namespace="left")
    path.write_text("/**/command_gate:\n  ros__parameters:\n    velocity_scal: 0.1\n")
    with pytest.raises(ParameterError, match="velocity_scale meant"):
        actions(params_file=str(path))


def test_defaults_are_words_that_can_be_read_and_written():
    """`ros2 launch -s` shows them, and NAME:= with nothing behind it is no argument to launch."""
    described = {call.args[0].value: call for call in calls("DeclareLaunchArgument")}
    defaults = {k.arg: k.value for k in described["use_sim_time"].keywords}
    assert isinstance(defaults["default_value"], ast.Constant)
    for name, call in described.items():
        (description,) = [k.value.value for k in call.keywords if k.arg == "description"]
        assert f'{name}:=""' not in description and f"{name}:=''" not in description


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({}, True), ({"robot": "real"}, False), ({"use_sim_time": "false"}, False)]
    + [({"robot": "real", "use_sim_time": "True"}, True)],
)
def test_time_comes_from_the_simulation_where_there_is_one(arguments, expected):
    gate = actions(**arguments)["/command_gate"]
    (path,) = [p for p, _ in gate._Node__expanded_parameter_arguments if "launch_params" in str(p)]
    written = yaml.safe_load(Path(path).read_text())["/command_gate"]["ros__parameters"]
    assert written["use_sim_time"] is expected
