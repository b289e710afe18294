"""An episode checks what it is made of and reads pictures only when asked."""

from dataclasses import replace

import numpy as np
import pytest

from vla_ros.training.data.episode import Episode


def pictures(first: int, last: int):
    for number in range(first, last):
        yield np.full((4, 6, 3), number, np.uint8)


def make(**changes) -> Episode:
    values = {
        "name": "a bag, episode 0",
        "robot": "arm",
        "control_mode": "joint_position",
        "instruction": "lift the red cube",
        "dt": 0.1,
        "action_names": ["x", "grip"],
        "proprioception_names": ["x"],
        "stamps": 5.0 + 0.1 * np.arange(4),
        "proprioception": np.zeros((4, 1)),
        "actions": np.ones((4, 2)),
        "pictures": {"front": pictures},
    }
    return Episode(**{**values, **changes})


def test_pictures_are_read_when_asked_for():
    read = []

    def reader(first, last):
        for picture in pictures(first, last):
            read.append(picture[0, 0, 0])
            yield picture

    episode = make(pictures={"front": reader})
    frames = episode.frames("front", 1, 3)
    assert read == []
    assert next(frames)[0, 0, 0] == 1 and read == [1]
    assert [frame[0, 0, 0] for frame in frames] == [2]
    assert len(list(episode.frames("front"))) == len(episode) == 4


def test_small_arrays_have_one_type():
    episode = make()
    assert (episode.stamps.dtype, episode.actions.dtype) == (np.float64, np.float32)
    assert episode.proprioception.dtype == np.float32
    assert episode.cameras == ("front",)


def test_a_source_that_breaks_off_is_an_error_not_a_shift():
    episode = make(pictures={"front": lambda first, last: pictures(first, last - 1)})
    with pytest.raises(ValueError, match="front ended after 3 of 4"):
        list(episode.frames("front"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"actions": np.ones((3, 2))}, r"actions are \[3, 2\], not \[4, 2\]"),
        ({"proprioception": np.full((4, 1), np.nan)}, "NaN or infinity in frame 0"),
        ({"stamps": np.array([0.0, 0.1, 0.1, 0.2])}, "do not increase at frame 2"),
        ({"dt": 0.0}, "dt"),
        ({"depths": {"wrist": pictures}}, "wrist"),
    ],
)
def test_nonsense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_unknown_camera_and_frames_are_named():
    episode = make()
    with pytest.raises(ValueError, match="no camera 'wrist'; it has: front"):
        episode.frames("wrist")
    with pytest.raises(ValueError, match="no depth camera 'front'; it has: none"):
        episode.depth("front")
    with pytest.raises(ValueError, match="frames 0 to 4, not 2 to 5"):
        episode.frames("front", 2, 5)


def test_an_episode_may_be_empty():
    nothing = {"proprioception": np.zeros((0, 1)), "actions": np.zeros((0, 2))}
    empty = replace(make(), stamps=np.zeros(0), actions_known=None, **nothing)
    assert len(empty) == 0 and list(empty.frames("front")) == []
