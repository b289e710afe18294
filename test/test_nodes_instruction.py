"""Instructions and stops come from latched publishers and `ros2 topic pub` alike, each once."""

import subprocess
import sys
import time

import pytest
import rclpy
from probe import wait_for
from rclpy.context import Context
from rclpy.parameter import Parameter
from std_msgs.msg import String

from vla_ros.nodes.action_policy import ActionPolicyNode
from vla_ros.ros import qos
from vla_ros.ros.latched_or_not import LatchedOrNot
from vla_ros.ros.running import Threads

REACH, LIFT = "reach for the red cube", "lift the blue block"

# What `ros2 topic pub --once` does: wait for a subscription, publish once, and end.
PUB_ONCE = """
import sys, time, rclpy
from rclpy.qos import QoSProfile
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node("cli")
publisher = node.create_publisher(String, sys.argv[1], QoSProfile(depth=int(sys.argv[3])))
while publisher.get_subscription_count() < 1:
    time.sleep(0.1)
publisher.publish(String(data=sys.argv[2]))
time.sleep(0.1)
node.destroy_node()
rclpy.shutdown()
"""


def pub_once(text, depth=10):
    command = [sys.executable, "-c", PUB_ONCE, "/told/instruction", text, str(depth)]
    subprocess.run(command, check=True, timeout=60)


class Policy:
    """An active action_policy, and what it was told to follow, or to stop ("")."""

    def __init__(self, checkpoint):
        self.context = Context()
        rclpy.init(context=self.context)
        self.told = []
        self.threads = Threads(self.context)
        self.node = self.threads.start(lambda: self.make(checkpoint))

    def make(self, checkpoint):
        node = ActionPolicyNode(
            context=self.context,
            namespace="told",
            parameter_overrides=[Parameter("checkpoint", value=str(checkpoint))],
        )
        handle = node._on_instruction
        node._on_instruction = lambda message, info: (
            self.told.append(message.data),
            handle(message),
        )
        return node

    def close(self):
        self.threads.stop()
        self.context.try_shutdown()


@pytest.fixture
def user():
    """A node beside the policy, with a latched publisher."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("user", namespace="told", context=context)
    node.told = node.create_publisher(String, "instruction", qos.latched())
    yield node
    node.destroy_node()
    context.try_shutdown()


def test_everybody_can_instruct_and_stop_and_is_heard_once(user, checkpoint):
    user.told.publish(String(data=REACH))
    time.sleep(0.2)
    policy = Policy(checkpoint)
    try:
        wait_for(lambda: policy.told == [REACH])  # said before the policy was there
        pub_once("")
        wait_for(lambda: policy.told == [REACH, ""])
        assert policy.node._following is None
        pub_once(LIFT)
        pub_once(LIFT, depth=1)  # the same words again are a new instruction
        wait_for(lambda: policy.told == [REACH, "", LIFT, LIFT])
        user.told.publish(String(data=REACH))
        wait_for(lambda: policy.told[4:] == [REACH])
        user.told.publish(String(data=REACH))
        wait_for(lambda: policy.told[4:] == [REACH, REACH])
        time.sleep(0.3)
        assert policy.told[4:] == [REACH, REACH]  # though two subscriptions hear it
    finally:
        policy.close()


def info(seconds):
    return {"source_timestamp": int(seconds * 1e9)}


@pytest.mark.parametrize("order", ["live first", "retained first", "in turns"])
def test_two_subscriptions_give_each_message_once_in_any_order(order):
    given, said = [], [REACH, REACH, ""]
    heard = LatchedOrNot(lambda message, _: given.append(message.data))
    calls = [(heard.live, k) for k in range(3)] + [(heard.retained, k) for k in range(3)]
    if order == "retained first":
        calls = calls[3:] + calls[:3]
    elif order == "in turns":
        calls.sort(key=lambda call: call[1])
    for hear, k in calls:
        hear(String(data=said[k]), info(k + 1))
    assert given == said


def test_a_stop_is_not_undone_by_what_was_said_before_it():
    given = []
    heard = LatchedOrNot(lambda message, _: given.append(message.data))
    heard.live(String(data=""), info(5.0))
    heard.retained(String(data=REACH), info(3.0))  # kept by a latched publisher, and late
    assert given == [""]
    # A machine whose clock is behind is heard all the same.
    heard.live(String(data=LIFT), info(4.0))
    heard.live(String(data=""), info(4.5))
    assert given == ["", LIFT, ""]
