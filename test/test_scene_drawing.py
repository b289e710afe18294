"""Drawings of scenes: they show what is where, and can be read back."""

import random

import numpy as np
import pytest
from random_scenes import any_scene

from vla_ros.scene_language.drawing import TABLE_RGB, draw, read_drawing
from vla_ros.scene_language.scenes import BOWL, NAMES, PAD, Name, Place, Scene, Thing
from vla_ros.scene_language.worlds import sample_scene

RED = Name("red", "cube")


def test_things_are_read_back_unless_something_hides_their_middle():
    rng, seen, there = random.Random(0), 0, 0
    for i in range(600):
        scene = any_scene(rng) if i % 2 else sample_scene(rng)
        image = draw(scene)
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        things, gripper, is_open = read_drawing(image)
        assert (gripper, is_open) == (scene.gripper, scene.open)
        assert set(things) <= set(scene.things)
        assert things == tuple(sorted(things, key=scene.things.index))
        seen, there = seen + len(things), there + len(scene.things)
    assert seen > 0.85 * there


@pytest.mark.parametrize("name", NAMES)
def test_every_thing_is_read_back_at_every_height_and_at_the_edges(name):
    places = [Place(30, 30, z) for z in range(16)] + [Place(0, 0, 1), Place(63, 63, 1)]
    for place in places:
        scene = Scene((Thing(name, place),), Place(10, 50, 9))
        assert read_drawing(draw(scene))[0] == scene.things


def test_the_gripper_is_read_back_everywhere():
    for y in range(64):
        for is_open in (True, False):
            scene = Scene((), Place(y, y, y % 16), is_open)
            assert read_drawing(draw(scene))[1:] == (scene.gripper, is_open)


def test_the_same_scene_is_the_same_picture_whatever_the_order():
    things = (Thing(RED, Place(30, 30, 1)), Thing(PAD, Place(30, 32, 0)))
    first, second = (draw(Scene(order, Place(5, 5, 5))) for order in (things, things[::-1]))
    assert (first == second).all()


def test_up_is_away_and_left_is_left():
    for place, row, column in (((60, 60, 1), 3, 3), ((3, 60, 1), 60, 3), ((60, 3, 1), 3, 60)):
        image = draw(Scene((Thing(RED, Place(*place)),), Place(30, 30, 5)))
        assert image[row, column, 0] > 100 and image[row, column, 1] < 50
        assert (image[row, column + (4 if column < 30 else -4)] == TABLE_RGB).all()


def test_shapes_look_different_and_higher_things_are_brighter():
    def pixels(name, z):
        image = draw(Scene((Thing(name, Place(30, 30, z)),), Place(5, 5, 5)))
        return image, (image != draw(Scene((), Place(5, 5, 5)))).any(axis=2)

    masks = [pixels(name, 1)[1] for name in (*(n for n in NAMES if n.color == "red"), PAD, BOWL)]
    assert len({mask.tobytes() for mask in masks}) == 7
    low, mask = pixels(RED, 1)
    high, _ = pixels(RED, 12)
    assert (high[mask].mean(axis=1) > low[mask].mean(axis=1)).all()


def test_what_is_on_top_hides_what_is_below():
    things = (Thing(RED, Place(30, 30, 1)), Thing(PAD, Place(30, 30, 0)))
    image = draw(Scene(things, Place(5, 5, 5)))
    assert read_drawing(image)[0] == (things[0],)


@pytest.mark.parametrize(
    "image",
    [np.zeros((64, 64, 3)), np.zeros((32, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)],
)
def test_other_pictures_are_refused(image):
    with pytest.raises(ValueError, match="the picture (is|shows no gripper)"):
        read_drawing(image)
