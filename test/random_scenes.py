"""Scenes at random for the tests of the scene language."""

import random

from vla_ros.scene_language.scenes import FIXTURES, NAMES, Place, Scene, Thing


def any_place(rng: random.Random) -> Place:
    return Place(rng.randrange(64), rng.randrange(64), rng.randrange(16))


def any_scene(rng: random.Random, least: int = 0, most: int = 8) -> Scene:
    """Things anywhere in the box, also inside each other; not only scenes that could be."""
    names = rng.sample(NAMES, rng.randint(least, most))
    things = tuple(Thing(name, any_place(rng)) for name in names)
    movable = [name for name in names if name.shape not in FIXTURES]
    held = rng.choice(movable) if movable and rng.random() < 0.3 else None
    return Scene(things, any_place(rng), held is None and rng.random() < 0.5, held)


def crowded_scene(rng: random.Random) -> Scene:
    """Three to six things close together, so that close relations are met."""
    names = rng.sample(NAMES, rng.randint(3, 6))
    x, y = rng.randint(10, 50), rng.randint(10, 50)
    things = tuple(
        Thing(name, Place(x + rng.randint(-9, 9), y + rng.randint(-9, 9), rng.randint(0, 4)))
        for name in names
    )
    return Scene(things, Place(x, y, rng.randint(0, 9)))
