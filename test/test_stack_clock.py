"""Simulated time: each namespace has its own, and two simulations on one clock are noticed."""

import pytest
import rclpy
from probe import wait_for
from rclpy.context import Context
from rosgraph_msgs.msg import Clock

from vla_ros.nodes.sim_robot import SimRobot
from vla_ros.ros.running import Threads
from vla_ros.stack.description import clock_remapping
from vla_ros.stack.stack import Stack


def test_the_clock_is_remapped_for_a_simulation_in_a_namespace_only():
    assert clock_remapping("sim", "/a/b/") == (("/clock", "/a/b/clock"),)
    assert clock_remapping("sim", "") == clock_remapping("sim", "/") == ()
    assert clock_remapping("real", "a") == ()  # its simulator, such as Gazebo, has /clock


@pytest.mark.parametrize("processes", ["none", "all"])
def test_two_simulations_in_two_namespaces_run_side_by_side(checkpoint, processes):
    def stack(namespace):
        return Stack(
            robot="sim",
            namespace=namespace,
            checkpoint=str(checkpoint),
            instruction="reach for the red cube",
            log_level="error",
            world_model=False,
            narrator="none",
            processes=processes,
            overrides={"sim_robot": {"image_size": 64}},
        )

    with stack("left") as left, stack("right") as right:
        robots = [each.nodes["sim_robot"] for each in (left, right)]
        for robot in robots:  # commands that answer frames reach each of them
            wait_for(lambda robot=robot: sum(f.latency > 0 for f in list(robot.frames)) >= 10)
        assert robots[0].count_publishers("/clock") == 0
        assert [r.count_publishers("clock") for r in robots] == [1, 1]
        assert not robots[0]._other_clock() and not left.failure and not right.failure


def test_a_second_simulation_on_one_clock_is_noticed_and_named():
    context = Context()
    rclpy.init(context=context)
    threads = Threads(context)
    try:
        one = threads.start(lambda: SimRobot(context=context))
        wait_for(one.ready.is_set)
        assert not one._other_clock()
        other = rclpy.create_node("gazebo", namespace="hall", context=context)
        other.create_publisher(Clock, "/clock", 1)
        said = wait_for(one._other_clock)
        assert said.startswith("/hall/gazebo publishes /clock too") and "namespace" in said
        other.destroy_node()
    finally:
        threads.stop()
        context.try_shutdown()
