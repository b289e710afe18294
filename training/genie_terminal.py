"""Pictures and keys in a terminal: half blocks in colour, no screen needed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import termios
import tty
from collections.abc import Iterator

import cv2
import numpy as np

_ESCAPED = re.compile(rb"\x1b[\[O]?[0-9;]*[A-Za-z~]?")  # what arrow keys and the like send
_CLEAR, _HOME, _PLAIN, _REST = "\x1b[2J", "\x1b[H", "\x1b[0m", "\x1b[K"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"  # the cursor


class Terminal:
    """Standard input and output as they are while somebody plays. A context manager.

    Raises:
        ValueError: they are no terminal.
    """

    def __init__(self) -> None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise ValueError("--play needs a terminal: without one give --codes")
        self._input = sys.stdin.fileno()

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(self._input)
        tty.setcbreak(self._input)  # keys come at once, and Ctrl-C still ends
        print(_HIDE + _CLEAR, end="")
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)
        print(_PLAIN + _SHOW, flush=True)

    def keys(self) -> Iterator[str]:
        """The keys that are pressed, until the terminal is closed."""
        while pressed := os.read(self._input, 1024):
            yield from _ESCAPED.sub(b"", pressed).decode(errors="ignore")

    def draw(self, frame: np.ndarray, words: str) -> None:
        """Show a square frame, uint8 [S, S, 3], as large as fits, and words below it."""
        columns, lines = shutil.get_terminal_size()
        side = max(2, min(len(frame), columns, 2 * (lines - 2)) // 2 * 2)
        if side < len(frame):
            frame = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
        print(_HOME + half_blocks(frame) + words[: columns - 1] + _REST, end="", flush=True)


def half_blocks(frame: np.ndarray) -> str:
    """A line for every two rows of uint8 [H, W, 3], H even, in 24-bit colour."""
    lines = []
    for upper, lower in zip(frame[::2].tolist(), frame[1::2].tolist(), strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m\u2580"
            for a, b in zip(upper, lower, strict=True)
        )
        lines.append("".join(cells) + _PLAIN + _REST + "\r\n")
    return "".join(lines)
