"""Whether a node finds the time for its work: it steps back if it does not, and says so once, and
once more when it is back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOKS = 5  # newest seconds that are looked at
_LATE = 2  # of them in which there was no time: it steps back
_CALM = 5  # seconds in time after which it is back, and twice as many each time it fails again
_MOST_CALM = 60
_LASTING = 3  # seconds that a problem must last to be told
_BUSY = 0.5  # share of the time, at work or waiting for a processor
_WAITING = Path("/proc/thread-self/schedstat")  # ns at work, ns that it waited for a processor


class KeepingUp:
    """Whether there is time for the work of one thread, which alone calls all of this.

    Args:
        warn: says that it steps back.
        info: says that it is back.
        text: what is the matter while it has no time.
    """

    def __init__(
        self, warn: Callable[[str], object], info: Callable[[str], object], text: str
    ) -> None:
        self._warn, self._info, self._text = warn, info, text
        self._late: deque[bool] = deque(maxlen=_LOOKS)
        self._calm, self._wanted = 0, _CALM
        self._since, self._waited, self._worked = time.perf_counter(), _waited(), 0.0
        self._lasting: dict[str, tuple[int, str]] = {}
        self.is_behind = False

    @property
    def problem(self) -> str:
        """What is the matter, in words; "" if it keeps up."""
        return self._text if self.is_behind else ""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around the work that takes the time."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._worked += time.perf_counter() - began

    def note(self, missed: bool) -> None:
        """Once a second: whether in the last one something was late or left out.

        That is for want of time only if the node was busy all the while.
        """
        now, waited = time.perf_counter(), _waited()
        elapsed = max(now - self._since, 1e-6)
        busy = max(self._worked, waited - self._waited) / elapsed > _BUSY
        self._since, self._waited, self._worked = now, waited, 0.0
        self.judge(not (missed and busy))

    def judge(self, in_time: bool) -> None:
        """Once a second, for who knows it better: whether there was time for all of it."""
        self._late.append(not in_time)
        self._calm = self._calm + 1 if in_time else 0
        if not self.is_behind and sum(self._late) >= _LATE:
            self.is_behind = True
            self._warn(self._text)
        elif self.is_behind and self._calm >= self._wanted:
            self.is_behind = False
            self._late.clear()
            self._info(f"no longer: {self._text}")
            self._wanted = min(2 * self._wanted, _MOST_CALM)

    def lasting(self, topic: str, problem: str) -> str:
        """Once a second: the problem, once it has lasted; what was told last while it is behind.

        A node without time meets one problem after the other, and all for that one reason.
        """
        seconds, told = self._lasting.get(topic, (0, ""))
        seconds = seconds + 1 if problem else 0
        if not self.is_behind:
            told = problem if seconds >= _LASTING else ""
        self._lasting[topic] = seconds, told
        return told


def _waited() -> float:
    """How long this thread has waited for a processor so far, s; 0 where that is not told."""
    try:
        return int(_WAITING.read_text().split()[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return 0.0
