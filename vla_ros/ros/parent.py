"""The line between a node's process and the process that started it, if one did and said so.

A process that starts nodes holds one end of a socket pair, and gives the other to the node's
process. The node says over it when it is up, or why it cannot be; and when the line breaks, because
the one that started it has ended in whatever way, the node ends too. Nothing is left behind.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping

VARIABLE = "VLA_ROS_PARENT"  # environment: number of the node's end of the line
UP, FAILED = "up", "failed"
_PATIENCE = 10.0  # s that a node may take to end when its parent is gone


class Parent:
    """The parent of this process; without one nothing is said and nothing watched."""

    def __init__(self) -> None:
        number = os.environ.pop(VARIABLE, "")  # not for processes that this one starts
        self._line = socket.socket(fileno=int(number)) if number else None
        if self._line:
            self._line.set_inheritable(False)

    def __bool__(self) -> bool:
        return self._line is not None

    def watch(self, end: Callable[[], None]) -> None:
        """Call `end` when the parent is gone; if that does not end this process, end it."""
        if self._line:
            threading.Thread(target=self._watch, args=(end,), name="parent", daemon=True).start()

    def _watch(self, end: Callable[[], None]) -> None:
        try:
            while self._line.recv(64):
                pass
        except OSError:
            pass
        end()
        threading.Event().wait(_PATIENCE)
        os._exit(1)

    def say(self, what: str, text: str = "") -> None:
        """Tell the parent that the node is UP, or that it FAILED and why, in one line."""
        if self._line:
            try:
                self._line.sendall(f"{what} {' '.join(text.split())}\n".encode())
            except OSError:  # it is gone
                pass


def line() -> tuple[socket.socket, socket.socket]:
    """A new line: the parent's end, and the end for a node's process."""
    return socket.socketpair()


def environment(end: socket.socket) -> Mapping[str, str]:
    """The environment of a node's process that is given this end of the line."""
    return os.environ | {VARIABLE: str(end.fileno())}
