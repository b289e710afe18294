"""Texts that come from outside, on their way into a log, /diagnostics or a status."""

from __future__ import annotations

import re

LONGEST = 400  # characters: enough for any message of our own
# Not part of a name, such as the 1 of panda_joint1.
_NUMBER = re.compile(r"(?<![\w.])[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?(?!\w)", re.IGNORECASE)


def shorten(text: str, longest: int = LONGEST) -> str:
    """Cut a text that is too long, and say how long it was: anyone may send 10 MB of a name.

    What begins a line or commands a terminal is written as in Python: nobody else's line shall look
    like one of ours.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: longest + 1])
    if len(shown) <= longest:
        return shown
    return f"{shown[: longest - 40]} ... ({len(text)} characters)"


def kind(text: str) -> str:
    """What stays the same in the texts of one fault: all but its numbers."""
    return _NUMBER.sub("#", text)
