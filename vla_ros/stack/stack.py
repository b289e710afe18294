"""The whole stack of an arm, from the parameter file the launch file reads too.

Nodes of this process have a thread and an executor each, so the command gate never waits for a
model. They share Python's lock, though: where two cores are few, what no command waits for is
better a process of its own.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

import vla_ros.nodes  # noqa: F401  (before torch: sets how many threads libraries use)
from vla_ros.nodes.parameters import tables
from vla_ros.ros.parameter_file import ParameterError, check_given, is_foreign, noted, unknown
from vla_ros.ros.running import StartError, Threads, begin, choose_transport, one_line
from vla_ros.stack import description
from vla_ros.stack.description import NodeDescription
from vla_ros.stack.processes import Processes

PROCESSES = ("aside", "all", "none")  # which nodes are processes of their own
_START_TIME = 60.0  # s that processes may take to come up


class Stack:
    """The running nodes of an arm: a context manager. Entered, it has all nodes active.

    From then on it ends with any node that a command waits for. One of the others is started again
    when its process dies, a few times; when it fails in this process the others go on without it.

        with Stack(robot="sim", instruction="lift the red cube") as stack:
            stack.wait(10.0)

    Args:
        robot: "sim" runs the simulated robot too, "real" expects a driver on the topics.
        params_file: parameters that go before those of config/arm.yaml; None for that alone.
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
        processes: which nodes are processes of their own: "none"; "aside", those that no command
            waits for, which then give way to the others; or "all" but the simulated robot.
        overrides: parameters by node name, before those of the file.
        ros_args: further ROS arguments for all nodes, such as ["-r", "old:=new"].

    Attributes:
        nodes: those of this process, by name.
        still_starting: names of nodes that had not come up within a minute; no command waits for
            them.

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
        processes: str = "none",
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        ros_args: Sequence[str] = (),
    ) -> None:
        if processes not in PROCESSES:
            raise StartError(f"processes is '{processes}': choose of {', '.join(PROCESSES)}")
        try:
            description.check_namespace(namespace)
            nodes = description.describe(
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
        if params_file is not None and not Path(params_file).is_file():
            raise StartError(f"parameter file '{params_file}' does not exist: name an existing one")
        # A file of few lines must not take the rest back to what nodes have by themselves: they
        # would not heed surprise, and the narrator's eye would want the policy's cameras.
        usual = Path(get_package_share_directory("vla_ros"), "config", "arm.yaml")
        files = [usual] if params_file is None else [usual, params_file]
        self.robot = robot
        self.nodes: dict[str, Node] = {}
        self.still_starting: list[str] = []
        self.context = Context()
        self._threads = Threads(self.context)
        self._described = {node.name: node for node in _with(nodes, overrides or {})}
        self._namespace = namespace
        named = [word for file in files for word in ("--params-file", str(file))]
        self._arguments = [*named, "--log-level", log_level, *ros_args]
        topic = description.command_topic(robot, command_topic)
        if topic != description.COMMAND_TOPIC:
            self._arguments += ["-r", f"{description.COMMAND_TOPIC}:={topic}"]
        for old, new in description.clock_remapping(robot, namespace):
            self._arguments += ["-r", f"{old}:={new}"]
        apart = ["-r", f"__ns:=/{namespace.strip('/')}"] if namespace.strip("/") else []
        self._processes = Processes([*apart, *self._arguments], self._threads.ended)
        self._apart = [node for node in self._described.values() if _is_apart(node, processes)]

    @property
    def names(self) -> list[str]:
        """Of all nodes, here and in processes of their own."""
        return list(self._described)

    @property
    def apart(self) -> list[str]:
        """Names of the nodes that are processes of their own."""
        return [node.name for node in self._apart]

    def __enter__(self) -> Stack:
        try:
            choose_transport()
            here = {k: node for k, node in self._described.items() if k not in self.apart}
            # The simulation's libraries last, as these and those have been seen to block each other
            # when they are loaded in two threads: see `_wait_until_drawing`.
            kinds = {name: _kind(node) for name, node in reversed(here.items())}
            begin(self.context, ["--ros-args", *self._arguments])
            self._check_parameters()
            for node in self._apart:
                self._processes.start(node)
            for name, node in here.items():
                if name == "command_gate":  # before there is anything to miss
                    self._processes.wait_until_up(["recorder"], _START_TIME)
                self._start(node, kinds[name])
            self._wait_for_processes()
            self._processes.begun = True
        except StartError:
            self.stop()
            raise
        except ParameterError as error:
            self.stop()
            raise StartError(str(error)) from error
        except Exception as error:
            self.stop()
            raise StartError(f"{type(error).__name__}: {one_line(error)}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _check_parameters(self) -> None:
        """Raises ParameterError when a parameter file, or a further argument, fits no node."""
        known = tables()
        remapped = [word for word in self._arguments if word.startswith("__ns:=")]
        namespace = remapped[-1].removeprefix("__ns:=") if remapped else self._namespace
        for file in noted(self.context):
            file.check(known, namespace)
        check_given(self._arguments, {n for table in known.values() for n in table}, "any node")
        for node in self._described.values():
            for name in node.parameters:
                if name not in known[node.name] and not is_foreign(name):
                    raise ParameterError(unknown(name, node.name, known[node.name]))

    def _start(self, node: NodeDescription, kind: type[Node]) -> None:
        def build() -> Node:
            return kind(
                context=self.context,
                namespace=self._namespace,
                cli_args=["--ros-args", *node.naming()],
                parameter_overrides=[Parameter(k, value=v) for k, v in node.parameters.items()],
            )

        self.nodes[node.name] = self._threads.start(build, not node.in_control_path)
        if node.name == "sim_robot":
            _wait_until_drawing(self.nodes[node.name], self._threads)

    def _wait_for_processes(self) -> None:
        self.still_starting = self._processes.wait_until_up(self.apart, _START_TIME)
        late = [node.name for node in self._apart if node.in_control_path]
        late = [name for name in late if name in self.still_starting]
        if late and not self.ended.is_set():
            raise StartError(f"{', '.join(late)} did not come up within {_START_TIME:g} s")

    @property
    def processes(self) -> dict[str, Any]:
        """subprocess.Popen of the nodes that are processes of their own, by name."""
        return self._processes.popen

    def restart(self, name: str) -> None:
        """Start a node's process once more, after it has ended."""
        self._processes.start(self._described[name])

    @property
    def failure(self) -> str:
        """Why a node that the others need ended by itself; "" while all of those run."""
        return self._threads.failure or self._processes.failure

    @property
    def ended(self) -> threading.Event:
        """Set when a node that the others need has ended, or to ask `wait` to return."""
        return self._threads.ended

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the stack, at most `timeout` s. Returns whether it has ended."""
        return self._threads.ended.wait(timeout)

    def stop(self) -> None:
        """Deactivate and end all nodes. The command gate leaves a hold with the robot."""
        # Nodes of this process wait for those processes only that the simulated robot outlives.
        self._processes.stop([node.name for node in self._apart if node.in_control_path])
        self._threads.stop()
        self.nodes.clear()
        self._processes.stop()
        if self.context.ok():
            self.context.try_shutdown()


def _with(
    nodes: Sequence[NodeDescription], overrides: Mapping[str, Mapping[str, Any]]
) -> list[NodeDescription]:
    names = [node.name for node in nodes]
    for name in overrides:
        if name not in names:
            known = ", ".join(names)
            raise StartError(f"no node '{name}' to override parameters of: there are {known}")
    return [
        replace(node, parameters={**node.parameters, **overrides.get(node.name, {})})
        for node in nodes
    ]


def _is_apart(node: NodeDescription, processes: str) -> bool:
    if node.name == "sim_robot":  # its frames tell what a command costs, and it owns the world
        return False
    return processes == "all" or processes == "aside" and not node.in_control_path


def _kind(node: NodeDescription) -> type[Node]:
    return getattr(importlib.import_module(f"vla_ros.nodes.{node.executable}"), node.class_name)


def _wait_until_drawing(robot: Any, threads: Threads) -> None:
    """Wait for the simulated robot's OpenGL context before any other node is made.

    Both load libraries, and in two threads at once they have been seen to block each other.

    Raises:
        StartError: the robot has ended instead.
    """
    while not robot.ready.wait(0.05):
        if threads.failure:
            raise StartError(threads.failure)
