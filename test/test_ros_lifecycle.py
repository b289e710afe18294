"""Parameters are checked before they count; transitions fail with the reason and can be mended."""

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter as RclpyParameter

from vla_ros.nodes.command_gate import CommandGateNode
from vla_ros.ros.lifecycle import FAILURE, LifecycleNode
from vla_ros.ros.parameters import Parameter, ParameterError
from vla_ros.ros.texts import LONGEST, shorten

TABLE = {
    "speed": Parameter(1.0, "How fast, m/s.", 0.0, 2.0, live=True),
    "steps": Parameter(3, "How many.", 1, 10),
    "mode": Parameter("slow", "How.", choices=("slow", "quick")),
    "limits": Parameter([1.0, 2.0], "One a joint.", 0.0, 9.0),
}


@pytest.fixture
def make(context):
    nodes = []

    def make(cls=None, **overrides):
        parameters = [RclpyParameter(name, value=value) for name, value in overrides.items()]
        args = () if cls else ("example", TABLE)
        node = (cls or LifecycleNode)(*args, context=context, parameter_overrides=parameters)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.destroy_node()


def set_parameter(node, name, value):
    return node.set_parameters([RclpyParameter(name, value=value)])[0]


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("speed", 3.0, "speed"),
        ("speed", float("nan"), "speed"),
        ("speed", "quick", "speed"),
        ("steps", 0, "steps"),
        ("mode", "sideways", "slow, quick"),
        ("limits", [1.0, -2.0], "limits is -2"),
    ],
)
def test_value_out_of_bounds_stops_the_start_and_is_named(make, name, value, word):
    with pytest.raises(ParameterError, match=word):
        make(**{name: value})


def test_description_range_and_constraints_are_declared(make):
    descriptor = make().describe_parameter("speed")
    assert descriptor.description == "How fast, m/s."
    assert descriptor.floating_point_range[0].to_value == 2.0
    assert make().describe_parameter("autostart").read_only


def test_live_parameter_changes_others_only_before_configuration(make):
    node = make()
    assert set_parameter(node, "steps", 4).successful and node.params.steps == 4
    node.trigger_configure()
    assert set_parameter(node, "speed", 0.5).successful and node.params.speed == 0.5
    refused = set_parameter(node, "steps", 5)
    assert not refused.successful and "unconfigured" in refused.reason
    assert node.params.steps == 4
    refused = set_parameter(node, "speed", 5.0)
    assert not refused.successful and node.params.speed == 0.5


class Flaky(LifecycleNode):
    """Fails as it is told to."""

    def __init__(self, **kwargs):
        super().__init__("flaky", {"fault": Parameter("", "What goes wrong.")}, **kwargs)
        self.cleaned = 0

    def configure(self):
        if self.params.fault == "value":
            raise ValueError("the checkpoint is missing: train one")
        if self.params.fault == "bug":
            raise ZeroDivisionError("oops")

    def cleanup(self):
        self.cleaned += 1


def test_failed_configuration_says_why_and_can_be_mended(make):
    node = make(Flaky, fault="value")
    assert node.bring_up() == "the checkpoint is missing: train one"
    assert node.state == "unconfigured" and node.cleaned == 1
    set_parameter(node, "fault", "")
    assert node.bring_up() == "" and node.state == "active"


def test_bug_while_configuring_is_reported_not_swallowed(make):
    node = make(Flaky, fault="bug")
    assert "ZeroDivisionError: oops" in node.bring_up()
    assert node.state == "unconfigured"


def test_whole_cycle_can_be_repeated(make):
    node = make(Flaky)
    for _ in range(2):
        assert node.bring_up() == ""
        node.trigger_deactivate()
        assert node.state == "inactive"
        node.trigger_cleanup()
        assert node.state == "unconfigured"
    assert node.bring_up() == ""
    node.trigger_shutdown()
    assert node.state == "finalized"


def test_name_of_a_transition_that_is_none_is_cut_before_rcl_logs_it(make, capfd):
    node = make()
    for label in ("x" * 100_000, "configure"):
        request = ChangeState.Request(transition=Transition(label=label))
        response = node._service_change_state.callback(request, ChangeState.Response())
        assert response.success == (label == "configure")
    assert node.state == "inactive"
    assert len(capfd.readouterr().err) < 1000


def test_texts_of_others_are_told_in_one_line_and_command_no_terminal():
    assert shorten("ein Würfel, 箱") == "ein Würfel, 箱"
    assert shorten("cube\n[INFO] well\x1b[2J") == r"cube\n[INFO] well\x1b[2J"
    assert len(shorten("\n" * LONGEST)) <= LONGEST


ONE_FOR_ALL = {
    **{"position_lower": [-1.0], "position_upper": [1.0], "velocity_limit": [1.0]},
    **{"position_margin": [0.0], "tracking_tolerance": [0.5]},
}


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"position_margin": [9.0]}, "panda_joint1"),
        ({"lookahead": 0.01}, "lookahead"),
        ({"joint_names": ["a", "a"], **ONE_FOR_ALL}, "twice"),
    ],
)
def test_gate_with_unsafe_limits_does_not_configure(make, overrides, word):
    node = make(CommandGateNode, **overrides)
    assert node.trigger_configure() == FAILURE
    assert word in node.failure


def test_limits_of_too_few_joints_make_no_gate(make):
    with pytest.raises(ValueError, match="velocity_limit has 2 numbers, but there are 8 joint"):
        make(CommandGateNode, velocity_limit=[1.0, 2.0])


def test_gate_creates_and_removes_its_topics(make):
    node = make(CommandGateNode)
    subscriptions = len(list(node.subscriptions))
    node.bring_up()
    assert len(list(node.subscriptions)) == subscriptions + 3
    node.trigger_deactivate()
    assert len(list(node.subscriptions)) == subscriptions
    node.trigger_cleanup()
    assert node.count_publishers("joint_trajectory") == 0
