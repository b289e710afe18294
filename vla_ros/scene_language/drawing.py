"""Scenes as small pictures seen from above, and what can be read from such a picture."""

from __future__ import annotations

import numpy as np

from vla_ros.scene_language.scenes import (
    BINS,
    BOWL,
    COLORS,
    FIXTURES,
    PAD,
    SHAPES,
    Name,
    Place,
    Scene,
    Thing,
    name_order,
)

SIZE = 64  # pixels; one is a bin of x and y
TABLE_RGB = (186, 176, 160)
_RGB = {
    **{"red": (214, 32, 26), "green": (26, 158, 46), "blue": (28, 66, 214)},
    **{"purple": (144, 40, 170), "orange": (240, 128, 16), "black": (62, 58, 54)},
    **{"pink": (246, 132, 186), "gray": (138, 138, 142)},
    **{"yellow": (232, 206, 30), "white": (234, 234, 236)},
}
_LOWEST = 0.6  # brightness of what is at height 0; the highest has 1
_KINDS = (*SHAPES, *FIXTURES)
_APART = {True: 4, False: 3}  # pixels from the gripper's place to its fingers, open and closed
_FINGER_RGB = (20, 20, 24)
_STEPS, _CORNERS = (5, 6, 7, 8), [(r, c) for r in (-4, 4) for c in (-4, -2, 2, 4)]
_TRAILS = {
    **{"left": [(0, -i) for i in _STEPS], "right": [(0, i) for i in _STEPS]},
    **{"away": [(-i, 0) for i in _STEPS], "closer": [(i, 0) for i in _STEPS]},
    **{"up": _CORNERS, "down": _CORNERS},
}
_TRAIL_RGB = (255, 250, 205), (40, 36, 60)


def _mask(shape: str) -> np.ndarray:
    """Pixels [n, 2] (row, column) of a shape around its middle; the middle itself comes last."""
    reach = {"pad": 4, "bowl": 6}.get(shape, 2)
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    square = row * row + column * column
    filled = {
        "cube": np.abs(row) <= 2,
        "cylinder": square <= 5,
        "sphere": np.abs(row) + np.abs(column) <= 2,
        "cone": 2 * np.abs(column) <= row + 2,
        "ring": np.maximum(np.abs(row), np.abs(column)) == 2,
        "pad": np.abs(row) <= 4,
        "bowl": (square > 22) & (square <= 40),
    }[shape]
    pixels = np.stack([row[filled], column[filled]], axis=1)
    return np.concatenate([pixels, np.zeros((1, 2), int)])


_MASKS = {shape: _mask(shape) for shape in _KINDS}


def _fill(color: str, z: int) -> tuple[int, int, int]:
    """Higher things are brighter."""
    share = _LOWEST + (1 - _LOWEST) * z / (BINS[2] - 1)
    return tuple(round(value * share) for value in _RGB[color])


def _middle(name: Name, z: int) -> tuple[int, int, int]:
    """The middle pixel is a few levels bluer; how many, says the shape."""
    red, green, blue = _fill(name.color, z)
    return red, green, blue + 1 + _KINDS.index(name.shape)


def _finger(side: int, z: int, is_open: bool) -> tuple[int, int, int]:
    return 255 if side < 0 else 245, 8 * z + is_open, 255


_THINGS = {
    _middle(name, z): (name, z)
    for name in (*(Name(color, shape) for color in COLORS for shape in SHAPES), PAD, BOWL)
    for z in range(BINS[2])
}
_FINGERS = {
    _finger(side, z, is_open): (side, z, is_open)
    for side in (-1, 1)
    for z in range(BINS[2])
    for is_open in (True, False)
}


def draw(scene: Scene, gripper: bool = True, motion: str = "") -> np.ndarray:
    """The scene from above, uint8 RGB [64, 64, 3].

    Args:
        scene: what to draw.
        gripper: whether to draw it too.
        motion: one of facts.DIRECTIONS: light dots lead from the gripper that way, or mark its
            corners: light ones for up, dark ones for down.

    The robot stands below the picture: up is away from it (x), left is its left (y); a pixel is a
    bin. Higher things are drawn later and brighter. The gripper is two dark fingers with a bright
    middle, apart when it is open, on the robot's left and right of its place; they hide what is
    below them.
    """
    image = np.full((SIZE, SIZE, 3), TABLE_RGB, np.uint8)
    for name, place in sorted(scene.things, key=lambda thing: thing.place.z):
        rows, columns = (_MASKS[name.shape] + _pixel(place)).T
        inside = (rows >= 0) & (rows < SIZE) & (columns >= 0) & (columns < SIZE)
        image[rows[inside], columns[inside]] = _fill(name.color, place.z)
        image[_pixel(place)] = _middle(name, place.z)
    if not gripper:
        return image
    row, column = _pixel(scene.gripper)
    for down, right in _TRAILS.get(motion, ()):
        if 0 <= row + down < SIZE and 0 <= column + right < SIZE:
            image[row + down, column + right] = _TRAIL_RGB[motion == "down"]
    for side in (-1, 1):
        beside = column + side * _APART[scene.open]
        if 0 <= beside < SIZE:
            image[max(row - 1, 0) : row + 2, beside] = _FINGER_RGB
            image[row, beside] = _finger(side, scene.gripper.z, scene.open)
    return image


def _pixel(place: Place) -> tuple[int, int]:
    return SIZE - 1 - place[0], SIZE - 1 - place[1]


def read_drawing(image: np.ndarray) -> tuple[tuple[Thing, ...], Place, bool]:
    """What `draw` drew: things in canonical order, the gripper's place, whether it is open.

    Exact for every thing whose middle pixel nothing hides; the others are missing.

    Raises:
        ValueError: not uint8 [64, 64, 3], or without a gripper, so not drawn by `draw`.
    """
    if image.shape != (SIZE, SIZE, 3) or image.dtype != np.uint8:
        raise ValueError(f"the picture is {image.dtype} {image.shape}, not uint8 (64, 64, 3)")
    things, gripper = [], None
    codes = image.astype(int) @ (1 << 16, 1 << 8, 1)
    for code in np.unique(codes).tolist():
        rgb = (code >> 16, code >> 8 & 255, code & 255)
        if rgb not in _THINGS and rgb not in _FINGERS:
            continue
        for row, column in np.argwhere(codes == code).tolist():
            x, y = SIZE - 1 - row, SIZE - 1 - column
            if rgb in _THINGS:
                name, z = _THINGS[rgb]
                things.append(Thing(name, Place(x, y, z)))
            else:
                side, z, is_open = _FINGERS[rgb]
                gripper = Place(x, y + side * _APART[is_open], z), is_open
    if gripper is None:
        raise ValueError("the picture shows no gripper: it is none of draw()")
    return tuple(sorted(things, key=lambda thing: name_order(thing.name))), *gripper
