"""Nodes as processes of their own: started, watched, and all ended with the one that started them.

A process that dies is noticed and named. One that no command waits for is started again, a few
times, and the others go on; any other is a failure of the whole. However this process ends, by a
signal that nobody can catch too, the others end with it: see vla_ros.ros.parent.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rclpy.logging import get_logger

from vla_ros.ros import parent
from vla_ros.ros.running import StartError
from vla_ros.stack.description import RESTART_DELAY, RESTARTS, NodeDescription

# Of a Ctrl-C only this process hears, and ends the others in order. Not a session where that can be
# avoided: the kernel may share time among sessions first, and then a process gives way to none.
_OWN_GROUP: dict[str, Any] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)
_PATIENCE = 10.0  # s that a process may take to end before it is killed
RESTART_WINDOW = 60.0  # s in which a node that dies again and again is one that cannot be helped


class NodeProcess:
    """One node that runs as a process.

    Args:
        node: which one.
        arguments: further ROS arguments.
        tell: called, from a thread of its own, when the node has come up and when it has ended.

    Attributes:
        node: as given.
        popen: the process.
        is_up: whether the node is active, as far as it activates itself.
        failure: why it ended by itself; "" while it runs, and when it was asked to end.
    """

    def __init__(
        self, node: NodeDescription, arguments: Sequence[str], tell: Callable[[NodeProcess], None]
    ) -> None:
        self.is_up, self.failure = False, ""
        self.node, self._tell, self._stopping = node, tell, False
        line, end = parent.line()
        command = [sys.executable, "-m", f"vla_ros.nodes.{node.executable}"]
        command += ["--ros-args", *node.naming(), *arguments, *node.settings()]
        if node.nice:
            command = ["nice", "-n", str(node.nice), *command]
        with end:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env=parent.environment(end),
                pass_fds=[end.fileno()],
                **_OWN_GROUP,
            )
        self._thread = threading.Thread(target=self._listen, args=(line,), daemon=True)
        self._thread.start()

    def _listen(self, line: socket.socket) -> None:
        reason = ""
        with line, line.makefile(encoding="utf-8", errors="replace") as words:
            for said in words:
                what, _, text = said.strip().partition(" ")
                if what == parent.FAILED:
                    reason = text
                else:
                    self.is_up = True
                    self._tell(self)
        code = self.popen.wait()
        self.is_up = False
        if not self._stopping:
            self.failure = reason or f"{self.node.name} {_how(code)}"
        self._tell(self)

    def ask_to_end(self) -> None:
        """Once: a second signal would meet a process that has put its handlers away."""
        asked, self._stopping = self._stopping, True
        if not asked and self.popen.poll() is None:
            self.popen.terminate()

    def end(self) -> None:
        """Wait until it has ended, and kill it when it does not."""
        self.ask_to_end()
        try:
            self.popen.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self._thread.join(_PATIENCE)


class Processes:
    """The node processes of a stack, by name.

    Once the stack has `begun`, one that no command waits for is started again when it dies, up to
    `RESTARTS` times in `RESTART_WINDOW` s; then the others go on without it. Before that it is a
    failure as any: something is wrong with what it was given.

    Args:
        arguments: ROS arguments of all of them.
        ended: set when the stack cannot go on, because one of them has ended by itself.

    Attributes:
        begun: whether the stack runs; to be set.
    """

    def __init__(self, arguments: Sequence[str], ended: threading.Event) -> None:
        self._arguments, self._ended = list(arguments), ended
        self._news = threading.Condition()
        self._stopping = threading.Event()
        self.begun = False
        self._running: dict[str, NodeProcess] = {}
        self._failures: dict[str, str] = {}  # of those that the others need, by name
        self._restarts: dict[str, deque[float]] = {}  # monotonic s of the last ones, by name

    def start(self, node: NodeDescription) -> None:
        """Start a node's process, once more if it has ended."""
        self._failures.pop(node.name, None)
        self._running[node.name] = NodeProcess(node, self._arguments, self._on_news)

    def _on_news(self, process: NodeProcess) -> None:
        if process.failure and self.begun and not process.node.in_control_path:
            self._go_on_without(process)
        elif process.failure:
            self._failures[process.node.name] = process.failure
            self._ended.set()
        with self._news:
            self._news.notify_all()

    def _go_on_without(self, process: NodeProcess) -> None:
        """Say that a node has died, and start it again if that is not in vain."""
        node, now, log = process.node, time.monotonic(), get_logger("bringup")
        restarts = self._restarts.setdefault(node.name, deque(maxlen=RESTARTS))
        if len(restarts) == RESTARTS and now - restarts[0] < RESTART_WINDOW:
            log.error(
                f"{process.failure}, and {RESTARTS} restarts within {RESTART_WINDOW:g} s did not "
                f"help: the arm goes on without {node.name}"
            )
            return
        restarts.append(now)
        log.error(f"{process.failure}: it is started again, and the arm goes on")
        if not self._stopping.wait(RESTART_DELAY):
            with self._news:
                if not self._stopping.is_set():
                    self.start(node)

    @property
    def popen(self) -> dict[str, subprocess.Popen]:
        return {name: process.popen for name, process in self._running.items()}

    @property
    def failure(self) -> str:
        """Why a node ended by itself without which the others cannot go on; "" while all run."""
        return next(iter([*self._failures.values()]), "")

    def starting(self) -> list[str]:
        """Names of the nodes that are not up yet."""
        return [name for name, process in self._running.items() if not process.is_up]

    def wait_until_up(self, names: Iterable[str], timeout: float) -> list[str]:
        """Wait at most `timeout` s for these nodes. Returns those that are still starting.

        Raises:
            StartError: a node has ended instead; the text is its own.
        """
        wanted, end = set(names), time.monotonic() + timeout
        with self._news:
            while True:
                if self.failure:
                    raise StartError(self.failure)
                left = [name for name in self.starting() if name in wanted]
                if not left or self._ended.is_set() or time.monotonic() > end:
                    return left
                self._news.wait(0.1)

    def stop(self, names: Iterable[str] | None = None) -> None:
        """Ask all to end, and wait for these, or for all. None is started again."""
        with self._news:
            self._stopping.set()
        for process in list(self._running.values()):
            process.ask_to_end()
        for name in list(self._running if names is None else names):
            if name in self._running:
                self._running[name].end()


def _how(code: int) -> str:
    """In words, how a process ended that returned this code."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended by itself with exit code {code}"
