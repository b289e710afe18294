"""What there was no time to imagine is imagined afterwards, from what was known at the time."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_world import tiny_config, untrained

from vla_ros.film.imagining import Commands, can_be_expected, imagine_afterwards
from vla_ros.film.states import Recording, View
from vla_ros.film.timeline import Expectations
from vla_ros.robots import panda
from vla_ros.safety.gate import Chunk
from vla_ros.sim.tasks import Outcome, sample_task

BEGAN = 50.03  # s: not with a frame of the camera


@pytest.fixture(scope="module")
def world():
    return untrained(tiny_config())


def recorded(seconds=2.0, changed_from=float("inf")):
    """An episode whose camera shows noise: other noise from a time on."""
    recording = Recording(sample_task("pick", 1), BEGAN)
    for k in range(round(20 * seconds)):
        time = 50.05 + 0.05 * k
        noise = np.random.default_rng(k if time < changed_from else 1000 + k)
        frame = noise.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        recording.views.append(View(time, frame, np.array(panda.HOME)))
    recording.times = [BEGAN, *(50.1 + 0.1 * k for k in range(round(10 * seconds)))]
    recording.states = [np.zeros(3)] * len(recording.times)
    recording.outcomes = [Outcome.RUNNING] * len(recording.times)
    return recording


def commands(direction=1.0):
    """Chunks that turn the arm, on every frame of the camera."""
    path = np.tile(panda.HOME, (8, 1))
    path[:, 0] += direction * np.linspace(0.02, 0.16, 8)
    chunks = [Chunk(50.05 + 0.05 * k, 0.05, panda.JOINT_NAMES, path) for k in range(40)]
    return Commands(chunks, [(50.0 + 0.1 * k, True) for k in range(25)])


def expected(recording, seen):
    found = [seen.imagined(recording.times[k], BEGAN) for k in can_be_expected(recording, 0.2)]
    return [one and (one.made, one.live, one.frame.tobytes()) for one in found]


def test_every_frame_of_a_film_has_an_imagined_one_afterwards(world):
    recording, seen = recorded(), Expectations()
    imagine_afterwards(world, recording, commands(), seen)
    kept = can_be_expected(recording, 0.2)
    assert kept == list(range(2, 21))  # nothing was seen before the first two
    found = [seen.imagined(recording.times[k], BEGAN) for k in kept]
    assert all(one is not None and not one.live for one in found)
    assert all(one.made < recording.times[k] for one, k in zip(found, kept, strict=True))
    assert max(one.ahead for one in found) < 1.3
    surprises = seen.surprises(50.0, 53.0)
    np.testing.assert_allclose([time for time, _ in surprises], 50.25 + 0.2 * np.arange(9))


def test_what_was_imagined_live_stays_and_only_the_rest_is_added(world):
    recording, seen = recorded(), Expectations()
    live = np.full((16, 16, 3), 7, np.uint8)
    seen.add_imagination(50.45, 0.2, [live] * 4, 0.125)  # 50.65 .. 51.25
    imagine_afterwards(world, recording, commands(), seen)
    for k in can_be_expected(recording, 0.2):
        time = recording.times[k]
        assert seen.imagined(time, BEGAN).live == (50.54 < time < 51.36)
    assert seen.surprise(50.45, 0.01) == 0.125


def test_nothing_is_done_where_nothing_is_missing(world):
    recording, seen = recorded(1.0), Expectations()
    for k in range(5):
        frames = [np.zeros((16, 16, 3), np.uint8)] * 2
        seen.add_imagination(50.05 + 0.2 * k, 0.2, frames, 0.5)
    before = expected(recording, seen)
    imagine_afterwards(world, recording, commands(), seen)
    assert expected(recording, seen) == before and all(live for _, live, _ in before)


def test_the_plan_counts_and_the_future_does_not(world):
    def films(recording, told):
        seen = Expectations()
        imagine_afterwards(world, recording, told, seen)
        return expected(recording, seen)

    usual = films(recorded(), commands())
    assert films(recorded(), commands()) == usual
    assert films(recorded(), commands(-1.0)) != usual
    held = commands()
    held.gate = [(stamp, False) for stamp, _ in held.gate]
    assert films(recorded(), held) == films(recorded(), Commands())  # the robot did not obey
    later = films(recorded(changed_from=51.0), commands())
    same = [a == b for a, b in zip(later, usual, strict=True)]
    made = [one[0] for one in usual]
    assert all(equal for equal, at in zip(same, made, strict=True) if at < 51.0)
    assert not all(same)


def test_an_episode_without_pictures_has_nothing_to_imagine_from(world):
    recording, seen = recorded(), Expectations()
    recording.views.clear()
    imagine_afterwards(world, recording, commands(), seen)
    assert can_be_expected(recording, 0.2) == [] and not seen.surprises(0.0, 99.0)


def test_the_demo_says_how_much_was_imagined_when(world, monkeypatch, capsys):
    from vla_ros.film import demo

    monkeypatch.setattr(demo.WorldModel, "from_pretrained", lambda _: world)
    watcher = SimpleNamespace(expectations=Expectations(), commands=commands())
    watcher.expectations.add_imagination(50.45, 0.2, [np.zeros((16, 16, 3), np.uint8)] * 4, -1.0)
    first, blind = recorded(), recorded(1.0)
    blind.views.clear()
    blind.began, blind.times = BEGAN + 50.0, [time + 50.0 for time in blind.times]
    assert demo._complete([first, blind], watcher) == 10.0  # frames a second
    assert len(first.times) == 19 and len(blind.times) == 11
    assert watcher.expectations.camera(first.times[0], BEGAN) is not None
    told = capsys.readouterr().out
    assert "imagined for 8 of the film's 30 frames while the robot moved, for 11 after" in told
    assert "nothing could be imagined for 11 frames" in told
