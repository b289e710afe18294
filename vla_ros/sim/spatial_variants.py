"""Tasks in which it matters how far away things are: stacked, hidden in part, of other heights.

A picture alone tells little of a thing that stands on another, that is half hidden, or that is not
as tall as all others: it might as well be nearer, or larger.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.sim.tasks import TableObject, Task, has_room

CAMERA_SHIFT = 0.10  # m
_BASE = (0.021, 0.024), (0.019, 0.026)  # m, least and most of the half extents of what is below
_OFF_CENTRE = 0.003  # m
_HEIGHTS = 0.013, 0.042  # m, half of the least and the most
_HIDING = 0.034, 0.040  # m, half heights of what hides another thing
_CAMERA = np.array([1.15, 0.0])  # m, what is hidden is so from there
_GAP = 0.072  # m between centres of what hides and what is hidden
_CLEARANCE = (0.085, 0.10, 0.12)  # m, to the other object, pad and bowl
_ANGLES = np.radians([0, 15, -15, 30, -30, 45, -45, 60, -60])


def stack(task: Task, rng: np.random.Generator) -> Task:
    """The object that is meant stands on the second one; of a push, which nothing on top of another
    can do, the third does, and the one that is meant stays on the table."""
    top, base = (2, 1) if task.goal.family == "push" else (0, 1)
    objects = list(task.objects)
    place = objects[base if task.goal.family == "push" else top].position
    below = tuple(float(rng.uniform(*bounds)) for bounds in _BASE)
    objects[base] = replace(objects[base], position=place, half_extents=below)
    above = np.array(place) + rng.uniform(-_OFF_CENTRE, _OFF_CENTRE, 2)
    objects[top] = replace(objects[top], position=tuple(above), height=2 * below[1])
    return replace(task, objects=tuple(objects))


def vary_heights(task: Task, rng: np.random.Generator) -> Task:
    """Each object is of another height: flat ones, and some that are twice as tall as usual."""
    heights = rng.uniform(*_HEIGHTS, len(task.objects))
    objects = tuple(
        replace(item, half_extents=(item.half_extents[0], float(height)))
        for item, height in zip(task.objects, heights, strict=True)
    )
    return replace(task, objects=objects)


def hide(task: Task, rng: np.random.Generator) -> Task:
    """A tall object stands between the front camera and the one that is meant, or where it stood if
    there is no room: in the way of a push nothing stands."""
    meant, tall, other = task.objects
    place = np.array(meant.position)
    towards = (_CAMERA - place) / np.linalg.norm(_CAMERA - place)
    height = float(rng.uniform(*_HIDING))
    there = np.array(tall.position)
    for angle in _ANGLES:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if _has_place(task, place + _GAP * turn @ towards, other):
            there = place + _GAP * turn @ towards
            break
    tall = replace(tall, position=tuple(there), half_extents=(tall.half_extents[0], height))
    return replace(task, objects=(meant, tall, other))


def move_camera(task: Task, distance: float, rng: np.random.Generator) -> Task:
    """The front camera stands elsewhere, `distance` (m) away, and still looks at the table."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    look = task.appearance
    offset = np.array(look.camera_offset) + distance * direction
    return replace(task, appearance=replace(look, camera_offset=tuple(offset)))


def _has_place(task: Task, place: np.ndarray, other: TableObject) -> bool:
    others = np.array([other.position, task.pad, task.bowl])
    if (np.linalg.norm(others - place, axis=1) < _CLEARANCE).any():
        return False
    meant, direction = np.array(task.objects[0].position), task.goal.direction
    return not direction or has_room(meant, direction, place[None], 0.085)
