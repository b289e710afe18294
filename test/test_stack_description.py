"""The one list of nodes: it names what there is, and says what the arguments change."""

import importlib
import subprocess
import sys

import pytest
import yaml

from vla_ros.ros.lifecycle import LifecycleNode
from vla_ros.stack.description import NAMES, NODES, check_namespace, command_topic, describe


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_every_node_is_where_the_list_says(node):
    module = importlib.import_module(f"vla_ros.nodes.{node.executable}")
    kind = getattr(module, node.class_name)
    assert issubclass(kind, LifecycleNode) == node.has_lifecycle
    every = describe(record="bags", checkpoint="mine", instruction="lift it")
    (told,) = [each.parameters for each in every if each.name == node.name]
    assert set(told) <= {*module.PARAMETERS, "use_sim_time"}


def test_the_arguments_say_which_nodes_there_are_and_what_they_are_told():
    usual = {node.name: node for node in describe(checkpoint="mine", instruction="lift it")}
    assert set(usual) == set(NAMES) - {"recorder"}
    assert usual["vision_encoder"].parameters == {"use_sim_time": True, "checkpoint": "mine"}
    assert usual["action_policy"].parameters["instruction"] == "lift it"
    assert usual["narrator_eye"].parameters["checkpoint"] == "narrator"
    assert not usual["sim_robot"].parameters  # it makes the time
    bare = describe(robot="real", world_model=False, narrator="", record="bags")
    names = [node.name for node in bare]
    assert names == ["recorder", "command_gate", "action_policy", "vision_encoder"]
    assert bare[0].parameters == {"folder": "bags"}
    assert bare[1].parameters == {"use_sim_time": False}
    assert describe(narrator="none") == describe(narrator="")
    assert command_topic("sim") == "joint_trajectory" and command_topic("real", "a") == "a"
    with pytest.raises(ValueError, match="sim or real"):
        describe(robot="imagined")


def test_a_namespace_is_one_that_ros_takes():
    for namespace in ("", "/", "left", "/left", "a/b_2/"):
        check_namespace(namespace)
    for namespace in ("a b", "2a", "a//b", "ü", "a-b", "~a"):
        with pytest.raises(ValueError, match="namespace is"):
            check_namespace(namespace)


def test_what_commands_wait_for_never_gives_way():
    for node in NODES:
        assert node.in_control_path <= (node.nice == 0)
    aside = {node.name for node in NODES if not node.in_control_path}
    assert aside == {"recorder", "world_model", "narrator", "narrator_eye"}


@pytest.mark.parametrize(
    "value", ["12", "true", "a: b", 'said "so"', "ü/日", 1.5, True, "", [1, 2]]
)
def test_parameters_keep_their_type_on_the_command_line(value):
    (node,) = [node for node in describe() if node.name == "command_gate"]
    node.parameters["x"] = value
    word = node.settings()[-1]
    assert yaml.safe_load(word.removeprefix("x:=")) == value


def test_the_list_is_plain_python():
    """A launch file imports it, in a process that need not load ROS or a model."""
    code = "import sys, vla_ros.stack.description; print([m for m in ('rclpy', 'torch', 'numpy')"
    code += " if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr
