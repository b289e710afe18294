"""How soon the arm stands still when a node is killed: `python benchmarks/killed_nodes.py`.

Every node but the simulated robot runs as its own process. While the arm is on its way, one of them
gets SIGKILL. From then on it is measured in the physics, every 10 ms, when the controller's set
point changed for the last time and when the last joint came to rest; then the node is started again
and the arm must move again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import rclpy
from results import add_write_option, write_section
from std_msgs.msg import String

import vla_ros.nodes  # noqa: F401  (before torch: sets how many threads libraries use)
from vla_ros.ros import qos
from vla_ros.sim.tasks import sample_task
from vla_ros.stack.stack import Stack

VICTIMS = ("command_gate", "action_policy", "vision_encoder")
_MOVING = 0.4  # rad/s of the fastest joint: on its way
_RESTING = 0.02  # rad/s
_SAME = 1e-4  # rad: a set point that moves less stands still
_WATCHED = 1.0  # s after the kill
_PATIENCE = 60.0  # s for a node to come up and the arm to move


class Watch:
    """Kills a process as soon as the arm moves fast, and follows the arm from there.

    Called after every tick in the thread of the simulation.
    """

    def __init__(self, robot, kill: Callable[[], None]) -> None:
        self._world, self._kill = robot.world, kill
        self._killed: float | None = None
        self._set_point: np.ndarray | None = None
        self.stopped = self.rested = 0.0  # s after the kill
        self.ended = threading.Event()

    def __call__(self) -> None:
        now = time.perf_counter()
        speed = float(np.abs(self._world.joint_velocities()[:7]).max())
        set_point = self._world.controller.sample(self._world.time)
        if self._killed is None:
            if speed > _MOVING:
                self._kill()
                self._killed, self._set_point = now, set_point
            return
        if np.abs(set_point - self._set_point).max() > _SAME:
            self._set_point, self.stopped = set_point, now - self._killed
        if speed > _RESTING:
            self.rested = now - self._killed
        if now - self._killed > _WATCHED:
            self.ended.set()


def moves(stack: Stack, say: Callable[[], None]) -> bool:
    """Whether the arm starts to move within the patience, told again and again what to do."""
    world, end = stack.nodes["sim_robot"].world, time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        say()
        for _ in range(20):
            if np.abs(world.joint_velocities()[:7]).max() > 0.1:
                return True
            time.sleep(0.1)
    return False


def trial(stack: Stack, victim: str, seed: int, publisher) -> tuple[float, float, float]:
    """Kill `victim` in full motion. Returns s to the last set point, to rest, and to recovery."""
    robot = stack.nodes["sim_robot"]
    task = sample_task("bowl", seed)
    begun = threading.Event()

    def begin() -> None:
        robot.reset(task)
        robot.hook = None
        begun.set()

    publisher.publish(String(data=""))
    time.sleep(0.5)
    robot.hook = begin
    begun.wait()
    time.sleep(0.5)
    watch = Watch(robot, stack.processes[victim].kill)
    robot.hook = watch
    if not moves(stack, lambda: publisher.publish(String(data=task.instruction))):
        raise RuntimeError(f"the arm did not move before {victim} was to be killed")
    if not watch.ended.wait(_PATIENCE):
        raise RuntimeError("the arm never moved fast enough")
    robot.hook = None
    stack.processes[victim].wait()
    stack.restart(victim)
    began = time.perf_counter()
    if not moves(stack, lambda: publisher.publish(String(data=task.instruction))):
        raise RuntimeError(f"the arm did not move again after {victim} had returned")
    return watch.stopped, watch.rested, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5, help="for each node; default 5")
    parser.add_argument("--checkpoint", default="arm", help="name or folder; default arm")
    add_write_option(parser)
    options = parser.parse_args()
    rows = []
    with Stack(checkpoint=options.checkpoint, log_level="error", processes="all") as stack:
        node = rclpy.create_node("killer", context=stack.context)
        publisher = node.create_publisher(String, "instruction", qos.latched())
        for victim in VICTIMS:
            results = [trial(stack, victim, seed, publisher) for seed in range(options.trials)]
            columns = [
                f"{statistics.median(column):.2f} / {max(column):.2f}"
                for column in zip(*results, strict=True)
            ]
            rows.append(f"| {victim} | {' | '.join(columns)} |")
            print(rows[-1], flush=True)
        node.destroy_node()
    write_section(
        "killed nodes",
        f"## Killed nodes\n\n`python benchmarks/killed_nodes.py --trials {options.trials}`\n"
        f"Seconds after SIGKILL in motion (fastest joint above {_MOVING} rad/s), median / worst\n"
        f"of {options.trials}: last change of the controller's set point, last joint below "
        f"{_RESTING} rad/s, and from\nthe restart of the process to motion.\n\n"
        "| killed | last set point | at rest | moving again |\n|---|---|---|---|\n"
        + "\n".join(rows),
        options.write,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
