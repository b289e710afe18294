"""A topic heard whether or not its publishers are latched.

A latched subscription hears latched publishers alone, and `ros2 topic pub` is not one; a volatile
one hears all of them, but nothing of what was said before it was there. So there are two, and what
both hear counts once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

_REMEMBERED = 32  # samples: the two subscriptions' callbacks are a few messages apart at most


class LatchedOrNot:
    """The callbacks of the two subscriptions, `live` and `retained`; each calls `handle` with a
    message and its info, once a sample.

    A sample is known by when it was published (`source_timestamp`, ns) and what it says.
    """

    def __init__(self, handle: Callable[[Any, dict[str, Any]], None]) -> None:
        self._handle = handle
        self._known: deque[tuple[int, Any]] = deque(maxlen=_REMEMBERED)
        self._newest = 0  # ns: when the newest of those handled was published

    def live(self, message: Any, info: dict[str, Any]) -> None:
        """A message as it is published, by whomever."""
        self._take(message, info)

    def retained(self, message: Any, info: dict[str, Any]) -> None:
        """A message of a latched publisher, perhaps from before this subscription.

        What was said before something that has been heard already comes too late: a stop must not
        be undone by what it stopped.
        """
        if info["source_timestamp"] >= self._newest:
            self._take(message, info)

    def _take(self, message: Any, info: dict[str, Any]) -> None:
        sample = info["source_timestamp"], getattr(message, "data", message)
        if sample in self._known:
            return
        self._known.append(sample)
        self._newest = max(self._newest, info["source_timestamp"])
        self._handle(message, info)
