"""How many messages were lost on the way to a subscription.

Publishers number their messages, and the middleware tells the numbers: where one is left out, a
message was lost. It was overwritten in a queue while the node was busy, or dropped by a network.
DDS' own event for lost samples is of no use for this: Fast DDS does not raise it for a full queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class LostMessages:
    """Counts by the message infos that rclpy gives, of any topics."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, bytes], int] = {}  # number, by topic and publisher

    def before(self, topic: str, info: Mapping[str, Any]) -> int | None:
        """How many messages of its publisher are missing between this one and the one before.

        None when the middleware does not say: it numbers no messages, or tells no publishers.
        """
        number, publisher = info.get("publication_sequence_number"), info.get("publisher_gid")
        if number is None or publisher is None:
            return None
        key = topic, bytes(publisher["data"])
        before = self._newest.get(key)
        if before is not None and number <= before:  # late, or heard twice
            return 0
        self._newest[key] = number
        return 0 if before is None else number - before - 1
