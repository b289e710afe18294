"""Launch files name only what exists; with `launch` present they load and give the nodes."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch" / "arm.launch.py"
# Parameters of nodes; config/widowx.yaml describes a robot to training.
CONFIGS = sorted(path for path in ROOT.glob("config/*.yaml") if path.name != "widowx.yaml")
NARRATOR = {"narrator", "narrator_eye"}
ALWAYS = {"vision_encoder", "action_policy", "world_model", "command_gate"} | NARRATOR
LIFECYCLE = ALWAYS | {"recorder"}
EXECUTABLES = {"narrator_eye": "vision_encoder"}  # of nodes that are named otherwise


def strings(*paths: Path) -> set[str]:
    """Return all string constants of these Python files."""
    return {
        node.value
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def declared_parameters(node: str) -> set[str]:
    executable = EXECUTABLES.get(node, node)
    return strings(ROOT / "vla_ros" / "nodes" / f"{executable}.py", *ROOT.glob("vla_ros/ros/*.py"))


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
    names = {call.args[0].value for call in calls("lifecycle_node")}
    assert names == LIFECYCLE
    names = {EXECUTABLES.get(name, name) for name in names}
    names |= {k.value.value for c in calls("Node") for k in c.keywords if k.arg == "executable"}
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
    from_file = actions(narrator="")
    assert set(from_file) == {f"/{other}" for other in ALWAYS - NARRATOR | {"sim_robot"}}
    eye = actions()["/narrator_eye"]
    assert eye.node_executable == "vision_encoder"
    assert eye.expanded_remapping_rules == [("visual_tokens", "narrator/visual_tokens")]


def test_missing_params_file_is_an_error():
    pytest.importorskip("launch_ros", reason="launch and launch_ros are not installed")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        actions(params_file="/nowhere/arm.yaml")
