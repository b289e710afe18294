"""Whether a policy fits a robot or recordings: what differs, and what is done about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from vla_ros.models.policy import Policy
from vla_ros.robots.action_config import ActionConfig

_HEAD = ("what", "checkpoint", "here", "what is done about it")
_MOST = 40  # characters of a value in a table


@dataclass(frozen=True)
class Difference:
    """One thing that is otherwise in a checkpoint than where it is to run.

    Args:
        what: the setting.
        checkpoint, here: its value there and here, to be read.
        consequence: what is done about it, or why nothing can be.
        runs: whether the policy can run all the same.
    """

    what: str
    checkpoint: str
    here: str
    consequence: str
    runs: bool = True

    def __str__(self) -> str:
        return (
            f"{self.what}: the checkpoint has {self.checkpoint}, here it is {self.here}: "
            f"{self.consequence}"
        )


@dataclass(frozen=True)
class Compatibility:
    """What differs between a checkpoint and where it is to run."""

    checkpoint: str  # name or folder
    where: str  # "the robot", "the recordings"
    differences: tuple[Difference, ...]

    def require(self) -> Compatibility:
        """Itself. Raises ValueError when the policy cannot run there: one line with all reasons."""
        if stops := [str(one) for one in self.differences if not one.runs]:
            raise ValueError(
                f"the checkpoint {self.checkpoint} does not fit {self.where}: {'; '.join(stops)}; "
                "train one for it or choose another checkpoint"
            )
        return self

    def table(self) -> str:
        """The differences as lines of text; "" if there are none."""
        if not self.differences:
            return ""
        rows = [_HEAD]
        for one in self.differences:
            values = (_cut(one.checkpoint), _cut(one.here))
            rows.append((one.what, *values, one.consequence))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"the checkpoint {self.checkpoint} and {self.where} differ:"]
        for row in rows:
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            lines.append(f"  {'  '.join(cells)}".rstrip())
        return "\n".join(lines)

    def rows(self) -> list[dict]:
        """The differences as plain values, for a file."""
        return [asdict(one) for one in self.differences]


def with_robot(
    policy: Policy,
    robot: ActionConfig,
    cameras: Sequence[str] | None = None,
    *,
    checkpoint: str,
) -> Compatibility:
    """What differs between a policy and a robot that it is to drive.

    Args:
        robot: what the robot can be told and feels.
        cameras: that it has, which are all that its images come from; None: the visual tokens
            come from elsewhere.
        checkpoint: its name, for messages.
    """
    mine = policy.action_config
    found = [
        *_same(mine, robot, "control_mode", "nothing makes commands of these actions"),
        *_same(mine, robot, "joint_names", "they are not the joints of this robot"),
        *_same(mine, robot, "action_names", "nothing makes commands of these actions"),
        *_proprioception(mine, robot),
    ]
    if mine.dt != robot.dt:
        consequence = "chunks keep the checkpoint's time, images come as the cameras send them"
        found.append(Difference("dt", f"{mine.dt:g} s", f"{robot.dt:g} s", consequence))
    if mine.action_names == robot.action_names:
        found += _bounds(mine, robot)
    if cameras is not None:
        found += camera_differences(policy, cameras)
    return Compatibility(checkpoint, "the robot", (*found, *_statistics(policy)))


def with_recordings(
    policy: Policy,
    robot: ActionConfig,
    cameras: Sequence[str] | None = None,
    *,
    checkpoint: str,
) -> Compatibility:
    """What differs between a policy and recordings whose actions it is to be compared with.

    Args:
        robot: what the recorded numbers are.
        cameras: that were recorded; None: not known yet.
        checkpoint: its name, for messages.
    """
    mine, other = policy.action_config, "the actions cannot be compared"
    found = [
        *_same(mine, robot, "control_mode", other),
        *_same(mine, robot, "action_names", other),
        *_same(mine, robot, "dt", other),
        *_proprioception(mine, robot),
    ]
    if cameras is not None:
        found += camera_differences(policy, cameras)
    return Compatibility(checkpoint, "the recordings", (*found, *_statistics(policy)))


def camera_differences(policy: Policy, cameras: Sequence[str]) -> list[Difference]:
    """What differs between the cameras of a policy and those that are there; their order may."""
    mine = policy.cameras
    if missing := [name for name in mine if name not in cameras]:
        consequence = f"there is no {_said(missing)} to see by"
        return [Difference("cameras", _said(mine), _said(cameras), consequence, runs=False)]
    if more := [name for name in cameras if name not in mine]:
        consequence = f"not looked through: {_said(more)}"
        return [Difference("cameras", _said(mine), _said(cameras), consequence)]
    return []


def proprioception_order(policy: Policy, names: Sequence[str]) -> list[int]:
    """Where each number that the policy feels stands among `names`, all of which are there."""
    names = list(names)
    return [names.index(name) for name in policy.action_config.proprioception_names]


def _same(mine: ActionConfig, robot: ActionConfig, what: str, consequence: str) -> list[Difference]:
    values = getattr(mine, what), getattr(robot, what)
    if values[0] == values[1]:
        return []
    return [Difference(what, *map(_said, values), consequence, runs=False)]


def _proprioception(mine: ActionConfig, robot: ActionConfig) -> list[Difference]:
    what, wanted, there = "proprioception", mine.proprioception_names, robot.proprioception_names
    if wanted == there:
        return []
    said = (_said(wanted), _said(there))
    if missing := [name for name in wanted if name not in there]:
        return [Difference(what, *said, f"nothing tells {_said(missing)}", runs=False)]
    return [Difference(what, *said, "given by name, as the checkpoint wants them")]


def _bounds(mine: ActionConfig, robot: ActionConfig) -> list[Difference]:
    """Those of the actions that reach further than the robot is told to."""
    found = []
    for name, own, there in zip(
        mine.action_names, mine.action_bounds, robot.action_bounds, strict=True
    ):
        if own[0] < there[0] or own[1] > there[1]:
            values = (f"{low:g} to {high:g}" for low, high in (own, there))
            consequence = "the command gate limits what the robot cannot do"
            found.append(Difference(f"bounds of {name}", *values, consequence))
    return found


def _statistics(policy: Policy) -> list[Difference]:
    keys, chosen = policy.statistics_keys, policy.statistics_key
    if not keys or (chosen in keys and len(keys) == 1):
        return []
    what, here = "statistics", chosen or "none is chosen"
    if chosen not in keys:
        return [Difference(what, _said(keys), here, "its actions have no scale", runs=False)]
    return [Difference(what, _said(keys), here, f"actions are scaled as those of {chosen}")]


def _said(value: str | float | Iterable[str]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(value) or "nothing"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[: _MOST - 4]} ..."
