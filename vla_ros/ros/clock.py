"""Times that cannot be are not let into a node."""

from __future__ import annotations

from rclpy.node import Node
from rosgraph_msgs.msg import Clock

# A stamp in whole seconds ends in 2038; what comes just before it leaves no room to count from.
_LATEST = 2**31 - 10**6  # s
_WARN_PERIOD = 5.0  # s


def ignore_impossible_clocks(node: Node) -> None:
    """Let a node pass over /clock messages that are no time: rclpy raises ValueError, and ends.

    The node's clock stands still meanwhile, as when nothing is published.
    """
    source = node._time_source  # rclpy has no public way to look at a clock before it is set
    accept = source.clock_callback

    def check(message: Clock) -> None:
        time = message.clock
        if 0 <= time.sec < _LATEST and time.nanosec < 10**9:
            accept(message)
            return
        node.get_logger().warning(
            f"/clock is ignored while it says {time.sec} s and {time.nanosec} ns: "
            "look at who publishes it",
            throttle_duration_sec=_WARN_PERIOD,
        )

    source.clock_callback = check  # for when use_sim_time is set later
    if source._clock_sub is not None:
        source._clock_sub.callback = check
