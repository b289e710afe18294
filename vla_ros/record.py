"""Record episodes of the running stack: `vla record FOLDER`, and words on the keyboard.

The node `recorder` as a process of its own; what it obeys as services it also takes from the
terminal, for somebody who demonstrates with both hands full and one finger free.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from functools import partial
from typing import TextIO

from rclpy.parameter import Parameter

from vla_ros.nodes.recorder import COMMANDS, RecorderNode
from vla_ros.ros.running import run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="gets a recording an episode; made when it is not there")
    parser.add_argument(
        "--topics", nargs="+", metavar="TOPIC", help="what to record (default: the stack's topics)"
    )
    parser.add_argument(
        "--manual", action="store_true", help="not by itself when a policy follows an instruction"
    )
    parser.add_argument("--robot", help="name of the robot, kept with each recording")
    parser.add_argument("--namespace", default="", help="of all nodes and topics")
    parser.add_argument("--command-topic", default="", help="takes the joint trajectories")


def main(arguments: argparse.Namespace) -> int:
    """Record until SIGINT or SIGTERM. Returns the exit code: 1 when the recorder fails."""
    given = {"folder": arguments.folder, "topics": arguments.topics, "robot": arguments.robot}
    parameters = [Parameter(name, value=value) for name, value in given.items() if value]
    parameters.append(Parameter("automatic", value=not arguments.manual))

    def make() -> RecorderNode:
        node = RecorderNode(namespace=arguments.namespace, parameter_overrides=parameters)
        threading.Thread(target=_listen, args=(node, sys.stdin), daemon=True).start()
        return node

    remapped = ["-r", f"joint_trajectory:={arguments.command_topic}"]
    return run(make, ["--ros-args", *remapped] if arguments.command_topic else [])


def _listen(node: RecorderNode, source: TextIO) -> None:
    """Obey the lines of `source`, in the thread that spins the node."""
    while node.executor is None:
        time.sleep(0.05)
    if source.isatty():
        print(f"type {', '.join(COMMANDS)}, or the first letters of one; Ctrl-C ends")
    for line in source:
        fitting = [command for command in COMMANDS if command.startswith(line.strip())]
        if not line.strip() or len(fitting) != 1:
            print(f"'{line.strip()}' is none of {', '.join(COMMANDS)}")
        else:
            node.executor.create_task(partial(_obey, node, fitting[0]))


def _obey(node: RecorderNode, command: str) -> None:
    try:
        print(node.obey(command), flush=True)
    except ValueError as error:
        print(error, flush=True)
