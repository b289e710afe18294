"""Which features of an RLDS dataset make an episode. Needs nothing of what reading them needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OBSERVATION = "steps/observation/"


@dataclass(frozen=True)
class RldsMapping:
    """Which features make an Episode; None: what most datasets call it, found in features.json.

    Features are named by their whole path, such as "steps/observation/image_0". What follows
    "steps/observation/" becomes the camera's name.

    Args:
        cameras: images of 8 bits, read as RGB: alpha is dropped, grey repeated; by default all
            there are. Some datasets fill cameras that an episode did not have with black images,
            and what they say of it is not reliable: name those you want.
        depths: depth images of those cameras, as float tensors in m or 16-bit images in mm; by
            default what is called as the camera with "_depth" after it.
        state: numbers felt, joined in this order; () for none.
        action: numbers commanded, joined in this order.
        instruction: a text, the same at all steps; "" for none.
        dt: s between steps. Most datasets do not store it.
        stamp: when each step was, in s, ms, us or ns; "" for nothing. An episode is cut where steps
            are missing. By default steps/timestamp and the like, if its steps are dt apart.
        robot, control_mode, action_names, proprioception_names: as in Episode.
    """

    cameras: Sequence[str] | None = None
    depths: Sequence[str] | None = None
    state: Sequence[str] | None = None
    action: Sequence[str] = ("steps/action",)
    instruction: str | None = None
    dt: float | None = None
    stamp: str | None = None
    robot: str | None = None
    control_mode: str | None = None
    action_names: Sequence[str] | None = None
    proprioception_names: Sequence[str] | None = None


def camera_name(key: str) -> str:
    """What a camera is called whose pictures are the feature `key`."""
    return key.removeprefix(OBSERVATION).removeprefix("steps/")
