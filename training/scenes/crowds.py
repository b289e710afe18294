"""Pictures with more things in them than a text names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.models.scenes.layout import Picture
from vla_ros.scene_language.scenes import FIXTURES, NAMES, Place, Thing

MOST = 8  # things of a picture
_MORE = 4  # things that come in addition, at most
_ROOM, _ROOM_FIXTURE = 8, 11  # bins to the middles of others
_EDGE = 4  # bins from the walls
_TRIES = 8


def with_more_things(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture, perhaps with further things where there is room."""
    things = list(picture.things)
    names = {name for name, _ in things}
    for _ in range(int(rng.integers(_MORE + 1))):
        # The pad and the bowl are seldom missing on a table.
        some = NAMES[-2:] if rng.random() < 0.4 else NAMES
        name = some[int(rng.integers(len(some)))]
        if name in names or len(things) == MOST:
            continue
        own = _ROOM_FIXTURE if name.shape in FIXTURES else _ROOM
        for _ in range(_TRIES):
            x, y = (int(value) for value in rng.integers(_EDGE, 64 - _EDGE, size=2))
            if all(_apart(other, x, y, own) for other in things):
                things.append(Thing(name, Place(x, y, int(name.shape not in FIXTURES))))
                names.add(name)
                break
    return replace(picture, things=tuple(things))


def _apart(other: Thing, x: int, y: int, own: int) -> bool:
    room = max(own, _ROOM_FIXTURE if other.name.shape in FIXTURES else _ROOM)
    return (other.place.x - x) ** 2 + (other.place.y - y) ** 2 >= room**2
