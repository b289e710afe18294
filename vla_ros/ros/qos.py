"""Quality-of-service profiles, named as Nav2 names them."""

from collections.abc import Sequence

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def standard(depth: int = 10) -> QoSProfile:
    """Reliable and volatile: states and commands. Depth 1 where only the newest counts."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def latched() -> QoSProfile:
    """Reliable, and the last message is kept for those who come later."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def sensor(depth: int = 1) -> QoSProfile:
    """Best effort: a frame that is lost is followed by a newer one."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


def matching(offered: Sequence[QoSProfile], depth: int) -> QoSProfile:
    """What gets most from these publishers: as reliable and as latched as all of them are."""
    reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in offered)
    latched_ = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in offered)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched_ else DurabilityPolicy.VOLATILE,
    )
