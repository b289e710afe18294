"""Running nodes: each in its own thread with its own executor, ended by a signal or a failure.

One process may hold one node (`ros2 run`) or the whole stack (bringup); both start here. A model
that thinks in one thread never delays another node's callbacks.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from vla_ros.ros import parameter_file
from vla_ros.ros.clock import ignore_impossible_clocks
from vla_ros.ros.lifecycle import LifecycleNode
from vla_ros.ros.parameters import ParameterError
from vla_ros.ros.parent import FAILED, UP, Parent
from vla_ros.ros.texts import shorten
from vla_ros.stack.description import NAMES

RCLError = rclpy_implementation.RCLError

_AFTER_ERROR = 0.01  # s of rest, so that a failure that lasts leaves time for others
_WARN_PERIOD = 5.0  # s


class StartError(RuntimeError):
    """A node could not be brought to work; the text says which and why."""


class Threads:
    """Nodes of one context, each spinning in a thread of its own.

    `ended` is set when a thread fails whose node the others need; `failure` then says why.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ended = threading.Event()
        self.failure = ""
        self.nodes: list[Node] = []
        self._running: dict[Node, tuple[SingleThreadedExecutor, threading.Thread]] = {}

    def start(self, make: Callable[[], Node], spared: bool = False) -> Node:
        """Make a node, bring it up when it is a life-cycle node with autostart, and spin it.

        `spared`: the others go on when it fails later, without it.

        Raises StartError when it cannot be made or brought up.
        """
        try:
            node = make()
        except (ValueError, OSError) as error:
            raise StartError(one_line(error)) from error
        self.nodes.append(node)
        ignore_impossible_clocks(node)
        if isinstance(node, LifecycleNode) and node.params.autostart:
            reason = node.bring_up()
            if reason:
                raise StartError(f"{node.get_name()}: {reason}")
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)
        thread = threading.Thread(
            target=self._spin, args=(node, executor, spared), name=node.get_name(), daemon=True
        )
        self._running[node] = executor, thread
        thread.start()
        return node

    def _spin(self, node: Node, executor: SingleThreadedExecutor, spared: bool) -> None:
        try:
            while self._spin_until_error(node, executor):
                time.sleep(_AFTER_ERROR)
        except (ExternalShutdownException, ShutdownException):
            pass
        except Exception as error:
            traceback.print_exc()
            failure = f"{node.get_name()}: {type(error).__name__}: {error}"
            if spared:
                node.get_logger().error(shorten(f"{failure}: the rest goes on without it"))
                return
            self.failure = failure
        self.ended.set()

    def _spin_until_error(self, node: Node, executor: SingleThreadedExecutor) -> bool:
        """Returns whether to go on: the middleware failed, with a message that could not be sent
        or read. That is a message lost, and no reason for a node to end."""
        try:
            executor.spin()
        except RCLError as error:
            if not self.context.ok():
                return False
            node.get_logger().warning(
                f"a message is lost: {shorten(str(error))}", throttle_duration_sec=_WARN_PERIOD
            )
            return True
        return False

    def stop(self) -> None:
        """End the nodes, the last started first: stop spinning, deactivate, destroy."""
        while self.nodes:
            node = self.nodes.pop()
            if node in self._running:
                executor, thread = self._running.pop(node)
                # Not by its shutdown, which takes away what the thread may be waiting on.
                executor.create_task(_end_spinning)
                thread.join(timeout=5.0)
                executor.shutdown(timeout_sec=0.0)
            if isinstance(node, LifecycleNode):
                node.bring_down()
            node.destroy_node()


def _end_spinning() -> None:
    raise ExternalShutdownException


def choose_transport() -> None:
    """Let Fast DDS use config/fastdds.xml, unless the environment already says what to use.

    Call before the first node of a process. With the default shared memory of 512 KB, a reader
    that is killed takes buffers of the image publisher with it: after one or two, its successor
    and every other new reader get no images at all.
    """
    before_fast_dds_3 = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    profiles = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
    if not any(os.environ.get(name) for name in (*profiles, "FASTDDS_BUILTIN_TRANSPORTS")):
        path = Path(get_package_share_directory("vla_ros"), "config", "fastdds.xml")
        os.environ[profiles[before_fast_dds_3]] = str(path)


def switch_threads_often() -> None:
    """Let Python's threads take turns every 0.5 ms: call in a process that runs several nodes.

    Its own 5 ms are the better part of all the time that a command may spend in ROS.
    """
    sys.setswitchinterval(0.0005)


def stop_on_signals(event: threading.Event) -> None:
    """Set the event on SIGINT and SIGTERM, and do nothing else: there is something to send yet."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: event.set())


def begin(context: Context, arguments: Sequence[str] | None) -> None:
    """Initialise a context with ROS arguments; None for those of this process.

    Raises:
        StartError: ROS does not understand them, or a parameter file; the text is one line.
    """
    arguments = sys.argv if arguments is None else arguments
    try:
        parameter_file.note(context, arguments)
        rclpy.init(args=arguments, context=context, signal_handler_options=SignalHandlerOptions.NO)
    except ParameterError as error:
        raise StartError(str(error)) from None
    except Exception as error:  # one of several classes, some of them private
        raise StartError(f"ROS arguments: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The text of an error without line breaks, and without the places in rcl that rcl names."""
    return re.split(r",? at /\S+\.(?:c|cpp):\d+", " ".join(str(error).split()))[0]


def _check_arguments(node: Node, arguments: Sequence[str] | None) -> None:
    """Raises ParameterError when something of the arguments is not for this node."""
    if arguments is None and (foreign := remove_ros_args(sys.argv)[1:]):
        raise ParameterError(
            f"not understood: {' '.join(foreign)} (arguments of ROS follow --ros-args)"
        )
    arguments = sys.argv if arguments is None else arguments
    parameter_file.check_for_node(node, arguments, NAMES)


def run(make: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Run one node as this process until a signal, or until the process that started it has gone.

    Returns the exit code, 1 for a failure, which is told that process, or else printed.
    """
    choose_transport()
    parent = Parent()
    context = rclpy.get_default_context()
    threads = Threads(context)
    stop_on_signals(threads.ended)
    parent.watch(threads.ended.set)

    def make_checked() -> Node:
        node = make()
        if not parent:  # which has looked at all that it hands on
            _check_arguments(node, args)
        return node

    try:
        begin(context, args)
        threads.start(make_checked)
        parent.say(UP)
        threads.ended.wait()
    except StartError as error:
        threads.failure = str(error)
    finally:
        threads.stop()
        rclpy.try_shutdown()
    if threads.failure:
        if parent:
            parent.say(FAILED, threads.failure)
        else:
            print(f"error: {threads.failure}", file=sys.stderr)
        return 1
    return 0
