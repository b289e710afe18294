"""The whole stack of an arm in one process, from the parameter file the launch file reads too.

Every node has its own thread and executor, so the command gate never waits for a model.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

import vla_ros.nodes  # noqa: F401  (before torch: sets how many threads libraries use)
from vla_ros.nodes.action_policy import ActionPolicyNode
from vla_ros.nodes.command_gate import CommandGateNode
from vla_ros.nodes.narrator import NarratorNode
from vla_ros.nodes.vision_encoder import VisionEncoderNode
from vla_ros.nodes.world_model import WorldModelNode
from vla_ros.ros.running import (
    StartError,
    Threads,
    choose_transport,
    stop_on_signals,
    switch_threads_often,
)
from vla_ros.stack.description import COMMAND_TOPIC, NODES, describe
from vla_ros.stack.description import command_topic as topic_of_commands

# What makes a vision_encoder the narrator's.
_EYE = next(node for node in NODES if node.name == "narrator_eye")
NARRATOR_EYE = ["--ros-args", *_EYE.ros_arguments()]


class Stack:
    """The running nodes of an arm, by name in `nodes`: a context manager.

        with Stack(robot="sim", instruction="lift the red cube") as stack:
            stack.wait(10.0)

    Args:
        robot: "sim" runs the simulated robot too, "real" expects a driver on the topics.
        params_file: parameters of all nodes; None for config/arm.yaml of the package.
        checkpoint: of encoder and policy, a name or a folder; "" as in the file.
        instruction: what to follow from the start; "" as in the file.
        namespace: of all nodes and topics.
        log_level: debug, info, warn, error or fatal.
        use_sim_time: None for yes with "sim".
        command_topic: where joint trajectories go; "" for the robot's usual one.
        record: folder for a recording of each episode; "" for none.
        world_model: whether to run the node that imagines what the camera will show.
        narrator: checkpoint of the node that says what it sees and of its eye, a name or a
            folder; "" to run without them.
        overrides: parameters by node name, before those of the file.
        ros_args: further ROS arguments for all nodes, such as ["-r", "old:=new"].

    Raises:
        StartError: a node cannot be made, configured or activated; none is left running.
    """

    def __init__(
        self,
        robot: str = "sim",
        params_file: str | Path | None = None,
        checkpoint: str = "",
        instruction: str = "",
        namespace: str = "",
        log_level: str = "info",
        use_sim_time: bool | None = None,
        command_topic: str = "",
        record: str | Path = "",
        world_model: bool = True,
        narrator: str = "narrator",
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        ros_args: Sequence[str] = (),
    ) -> None:
        try:
            nodes = describe(
                robot=robot,
                checkpoint=checkpoint,
                instruction=instruction,
                use_sim_time=use_sim_time,
                record=str(record),
                world_model=world_model,
                narrator=narrator,
            )
        except ValueError as error:
            raise StartError(str(error)) from None
        if params_file is None:
            params_file = Path(get_package_share_directory("vla_ros"), "config", "arm.yaml")
        if not Path(params_file).is_file():
            raise StartError(f"parameter file '{params_file}' does not exist: name an existing one")
        self.robot = robot
        self.nodes: dict[str, Node] = {}
        self.context = Context()
        self._threads = Threads(self.context)
        self._arguments = ["--ros-args", "--params-file", str(params_file)]
        self._arguments += ["--log-level", log_level, *ros_args]
        topic = topic_of_commands(robot, command_topic)
        if topic != COMMAND_TOPIC:
            self._arguments += ["-r", f"{COMMAND_TOPIC}:={topic}"]
        self._namespace = namespace
        self._parameters = {node.name: dict(node.parameters) for node in nodes}
        for name, values in (overrides or {}).items():
            if name not in self._parameters:
                known = ", ".join(self._parameters)
                raise StartError(f"no node '{name}' to override parameters of: there are {known}")
            self._parameters[name] |= values

    def __enter__(self) -> Stack:
        try:
            choose_transport()
            rclpy.init(
                args=self._arguments,
                context=self.context,
                signal_handler_options=SignalHandlerOptions.NO,
            )
            # The robot first, as it is outside a simulation; last to go, so that the gate's last
            # command reaches it.
            if self.robot == "sim":
                from vla_ros.nodes.sim_robot import SimRobot

                self._start("sim_robot", SimRobot)
                wait_until_drawing(self.nodes["sim_robot"], self._threads)
            if "recorder" in self._parameters:  # before there is anything to miss
                from vla_ros.nodes.recorder import RecorderNode

                self._start("recorder", RecorderNode)
            self._start("command_gate", CommandGateNode)
            if "world_model" in self._parameters:
                self._start("world_model", WorldModelNode)
            self._start("action_policy", ActionPolicyNode)
            if "narrator" in self._parameters:
                self._start("narrator", NarratorNode)
                eye = functools.partial(VisionEncoderNode, cli_args=NARRATOR_EYE)
                self._start("narrator_eye", eye)
            self._start("vision_encoder", VisionEncoderNode)
        except StartError:
            self.stop()
            raise
        except Exception as error:
            self.stop()
            raise StartError(f"{type(error).__name__}: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, name: str, make: Callable[..., Node]) -> None:
        parameters = [Parameter(key, value=value) for key, value in self._parameters[name].items()]

        def build() -> Node:
            return make(
                context=self.context, namespace=self._namespace, parameter_overrides=parameters
            )

        self.nodes[name] = self._threads.start(build)

    @property
    def failure(self) -> str:
        """Why a node ended by itself; "" while all run."""
        return self._threads.failure

    @property
    def ended(self) -> Any:
        """threading.Event that is set when a node ended, or to ask `wait` to return."""
        return self._threads.ended

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the stack, at most `timeout` s. Returns whether it has ended."""
        return self._threads.ended.wait(timeout)

    def stop(self) -> None:
        """Deactivate and end all nodes. The command gate leaves a hold with the robot."""
        self._threads.stop()
        self.nodes.clear()
        if self.context.ok():
            self.context.try_shutdown()


def wait_until_drawing(robot: Any, threads: Threads) -> None:
    """Wait for the simulated robot's OpenGL context before any other node is made.

    Both load libraries, and in two threads at once they have been seen to block each other.

    Raises:
        StartError: the robot has ended instead.
    """
    while not robot.ready.wait(0.05):
        if threads.failure:
            raise StartError(threads.failure)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bringup", description="Run encoder, policy, command gate and robot in one process."
    )
    parser.add_argument("--robot", choices=("sim", "real"), default="sim")
    parser.add_argument("--params", metavar="FILE", help="parameters of all nodes (YAML)")
    parser.add_argument("--checkpoint", default="", help="name or folder of the policy")
    parser.add_argument("--instruction", default="", help="what to do from the start")
    parser.add_argument("--namespace", default="", help="of all nodes and topics")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--command-topic", default="", help="takes the joint trajectories")
    parser.add_argument("--record", metavar="FOLDER", default="", help="of episodes, one bag each")
    parser.add_argument(
        "--world-model",
        choices=("true", "false"),
        default="true",
        help="imagine what the camera will show (default: true)",
    )
    parser.add_argument(
        "--narrator",
        metavar="CHECKPOINT",
        default="narrator",
        help="name or folder of what says what is seen and done, and answers questions; empty: "
        "without (default: narrator)",
    )
    parser.add_argument(
        "--use-sim-time",
        choices=("true", "false"),
        help="take the time from /clock (default: with --robot sim)",
    )
    own, ros_args = list(arguments), []
    if "--ros-args" in own:
        index = own.index("--ros-args")
        own, ros_args = own[:index], own[index + 1 :]
    options = parser.parse_args(own)
    options.ros_args = ros_args
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM. Returns the exit code: 1 when a node fails."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    switch_threads_often()
    use_sim_time = None if options.use_sim_time is None else options.use_sim_time == "true"
    try:
        stack = Stack(
            robot=options.robot,
            params_file=options.params,
            checkpoint=options.checkpoint,
            instruction=options.instruction,
            namespace=options.namespace,
            log_level=options.log_level,
            use_sim_time=use_sim_time,
            command_topic=options.command_topic,
            record=options.record,
            world_model=options.world_model == "true",
            narrator=options.narrator,
            ros_args=options.ros_args,
        )
        stop_on_signals(stack.ended)
        with stack:
            stack.wait()
            failure = stack.failure
    except StartError as error:
        failure = str(error)
    if failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
