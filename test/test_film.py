"""The demo's film: episodes drawn again, and beside them what was seen and what was expected."""

import cv2
import numpy as np
import pytest

from vla_ros.film import drawing, timeline
from vla_ros.film.states import FRAMES_PER_SECOND, Recording
from vla_ros.scene_language.facts import Related
from vla_ros.scene_language.scenes import BOWL, PAD
from vla_ros.scene_language.sentences import say
from vla_ros.scene_language.vocabulary import text_of
from vla_ros.sim.arm import TICK, ArmWorld
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import Outcome, sample_task
from vla_ros.sim.truth import Witness, scene_of
from vla_ros.video import Video


def grey(value, side=8):
    return np.full((side, side, 3), value, np.uint8)


def value_of(frame):
    return None if frame is None else int(frame[0, 0, 0])


def frames_of(path):
    video = cv2.VideoCapture(str(path))
    found = []
    while (read := video.read())[0]:
        found.append(read[1][..., ::-1])
    return found


def test_a_recorded_episode_becomes_a_film_and_a_sheet(tmp_path):
    task = sample_task("pick", 1)
    studio = drawing.Studio()
    world = studio._world
    world.reset(task)
    recording = Recording(task)
    for _ in range(3):
        recording.states.append(world.data.qpos.copy())
        recording.outcomes.append(Outcome.RUNNING)
    pictures = list(studio.pictures(recording))
    studio.close()
    assert len(pictures) == 3 and pictures[0].shape == (480, 640, 3)
    seen = timeline.Expectations()
    with Video(tmp_path / "film.mp4", FRAMES_PER_SECOND) as video:
        for number, picture in enumerate(pictures):
            told = drawing.caption(picture, "episode 1 of 1", "x " * 100, Outcome.SUCCEEDED)
            video.add(drawing.beside(told, seen, 0.1 * number, (0.0, 0.2)))
    (first, *others) = frames_of(tmp_path / "film.mp4")
    assert len(others) == 2 and first.shape[0] == told.shape[0] and first.shape[1] > 640
    assert np.abs(first[:480, :400].astype(int) - pictures[0][:, :400]).mean() < 10
    report = EpisodeReport("pick", 1, "lift the red cube " * 5, True, "fulfilled", 2.0, 40)
    sheet = drawing.contact_sheet([(report, pictures), (report, pictures[:2])])
    assert sheet.height > 300 and np.asarray(sheet).std() > 10
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_the_frame_beside_is_the_one_expected_for_that_time():
    seen = timeline.Expectations()
    seen.add_imagination(10.0, 0.2, [grey(v) for v in (1, 2, 3, 4, 5)], 0.5)  # 10.2 .. 11.0
    seen.add_imagination(10.4, 0.2, [grey(v) for v in (11, 12)], -1.0)  # 10.6, 10.8

    def at(time, since=9.0):
        found = seen.imagined(time, since)
        return found and (value_of(found.frame), round(found.ahead, 6))

    assert at(10.21) == (1, 0.2) and at(10.38) == (2, 0.4)
    assert at(10.6) == (11, 0.2) and at(10.77) == (12, 0.4)  # made last
    assert at(11.0) == (5, 1.0)
    assert at(10.0) is None and at(11.2) is None
    assert at(10.6, since=10.1) == (11, 0.2) and at(10.4, since=10.1) is None
    assert at(10.9, since=10.5) is None  # of another episode


def test_what_was_imagined_live_goes_before_what_was_imagined_afterwards():
    seen = timeline.Expectations()
    seen.add_imagination(10.0, 0.2, [grey(v) for v in (1, 2)], 0.5)
    seen.add_imagination(10.1, 0.2, [grey(v) for v in (11, 12, 13)], -1.0, live=False)
    found = seen.imagined(10.3, 9.0)  # the later one is as near, and was made last
    assert (value_of(found.frame), found.live) == (1, True)
    found = seen.imagined(10.7, 9.0)
    assert (value_of(found.frame), found.live) == (13, False)


def test_the_camera_beside_is_what_it_showed_last():
    seen = timeline.Expectations()
    for number in range(4):
        seen.add_camera(5.0 + 0.05 * number, grey(number))
    assert value_of(seen.camera(5.11, 0.0)) == 2 and value_of(seen.camera(5.3, 0.0)) == 3
    assert seen.camera(4.9, 0.0) is None and seen.camera(6.0, 0.0) is None
    assert seen.camera(5.11, 5.2) is None


def test_surprises_come_in_order_once_and_only_if_known():
    seen = timeline.Expectations()
    for made, surprise in ((1.0, -1.0), (1.2, 0.5), (1.4, 0.7), (1.2, 0.5), (3.0, 9.0)):
        seen.add_imagination(made, 0.2, [], surprise)
    assert seen.surprises(1.0, 1.3) == [(1.2, 0.5)]
    assert seen.surprises(0.0, 2.0) == [(1.2, 0.5), (1.4, 0.7)]
    assert seen.imagined(1.2, 0.0) is None  # they came without frames
    assert seen.surprise(1.25, 0.1) == 0.5 and seen.surprise(2.0, 0.1) is None
    assert seen.scale() > 0.7 and timeline.Expectations().scale() == 0.0


def test_panels_show_camera_and_imagination_or_are_dark():
    seen = timeline.Expectations()
    seen.add_camera(1.0, grey(200))
    seen.add_imagination(0.8, 0.2, [grey(100)], 0.4)
    seen.add_imagination(1.0, 0.2, [], 0.6)
    picture = np.zeros((544, 640, 3), np.uint8)
    column = drawing.beside(picture, seen, 1.0, (0.0, 2.0))[:, 640:]
    assert column.shape[1] > 200 and (column == 200).all(-1).sum() > 150**2
    assert (column == 100).all(-1).sum() > 150**2
    assert (column == drawing._CURVE).all(-1).sum() > 5
    blank = drawing.beside(picture, timeline.Expectations(), 1.0, (0.0, 2.0))[:, 640:]
    assert (blank == drawing._DARK).all(-1).sum() > 2 * 150**2


@pytest.fixture(scope="module")
def seen():
    """Half a second of an arm that stands still: its witness, times of its frames, its scene."""
    world, witness, times = ArmWorld((16, 16)), Witness(), []
    world.reset(sample_task("pick", 1))
    for _ in range(10):
        witness.look(world)
        times.append(world.time)
        for _ in range(round(0.05 / TICK)):
            world.tick()
    world.close()
    return witness, times, scene_of(world)


def test_a_sentence_is_judged_once_it_is_known_what_came_of_it(seen):
    witness, times, scene = seen
    told = []
    sayings = timeline.Sayings(witness, told.append)
    beside = "left" if scene.place_of(PAD).y > scene.place_of(BOWL).y else "right"
    sayings.add(times[0], "The gripper stays where it is.")
    sayings.add(times[1], text_of(say(Related(PAD, beside, (BOWL,)))))
    sayings.add(times[8], "The gripper is not moving.")
    for now in (times[0], times[4]):  # the frame 0.2 s later is being looked at
        sayings.settle(now)
        assert not told
    sayings.settle(times[5])
    assert [saying.time for saying in told] == times[:1]
    sayings.settle()
    sayings.settle()
    assert told == sayings.judged
    assert [(saying.time, saying.true) for saying in told[1:]] == [
        (times[1], True),
        (times[8], None),
    ]


def test_what_is_true_is_counted_and_what_means_nothing_is_not_true(seen):
    witness, times, _ = seen
    sayings = timeline.Sayings(witness, lambda _: None)
    for text in ("The fingers are open.", "The hand holds the cube.", "Open is the.", "dance!"):
        sayings.add(times[2], text)
    sayings.settle()
    assert [saying.verdict for saying in sayings.judged] == ["true", "false", "false", "false"]
    assert sayings.summary() == "1 of 4 sentences true by physics"
    sayings.add(times[-1] + 9.0, "The hand waits.")
    sayings.settle()
    assert sayings.judged[-1].verdict == "not judged"
    assert sayings.summary() == "1 of 4 sentences true by physics (1 could not be judged)"
    sayings.add(times[2], "The hand holds the cube.", doubtful=True)
    sayings.add(times[2], "The fingers are open.", doubtful=True)
    sayings.settle()
    assert [saying.doubtful for saying in sayings.judged] == [False] * 5 + [True] * 2
    assert sayings.summary() == (
        "2 of 6 sentences true by physics (1 could not be judged); 2 were doubtful, 1 of them false"
    )


def test_the_subtitle_is_what_was_said_last_of_this_episode(seen):
    witness, times, _ = seen
    sayings = timeline.Sayings(witness, lambda _: None)
    for i in (6, 0, 3):  # in whatever order they come
        sayings.add(times[i], f"number {i}")
    sayings.settle()

    def at(time, since=times[0]):
        found = sayings.at(time, since)
        return found and found.text

    assert [at(times[i]) for i in (0, 2, 3, 5, 6, 9)] == [f"number {i}" for i in (0, 0, 3, 3, 6, 6)]
    assert at(times[0] - 0.1) is None and at(times[2], since=times[1]) is None
    assert at(times[6] + 1.4) == "number 6" and at(times[6] + 1.6) is None


def test_a_subtitle_has_the_colour_of_its_truth():
    picture = np.zeros((480, 640, 3), np.uint8)
    silent = drawing.caption(picture, "episode 1 of 1", "lift it", Outcome.RUNNING)
    colors = {True: drawing._COLORS[Outcome.SUCCEEDED], False: drawing._COLORS[Outcome.FAILED]}
    for true, color in colors.items():
        for words in (3, 60):  # more than fit
            saying = timeline.Saying(1.0, "gripper " * words, true)
            told = drawing.caption(picture, "episode 1 of 1", "lift it", Outcome.RUNNING, saying)
            assert told.shape == silent.shape and told.shape[0] % 2 == 0
            assert (told == color).all(-1).sum() > 20
            others = [other for other in colors.values() if other != color]
            assert not (told == others[0]).all(-1).any()
            assert (told[: 480 + 84] == silent[: 480 + 84]).all()  # what is above stays readable


def test_a_robot_without_time_to_speak_is_said_to_be_silent_for_that():
    sayings = timeline.Sayings(Witness(), lambda _: None)
    sayings.add_no_time(12.0)
    silent = [sayings.is_silent(time) for time in (10.4, 10.6, 12.0, 12.1)]
    assert silent == [False, True, True, False] and sayings.seconds_without_time == 1
    picture = np.zeros((480, 640, 3), np.uint8)
    plain = drawing.caption(picture, "episode 1 of 1", "lift it", Outcome.RUNNING)
    told = drawing.caption(picture, "episode 1 of 1", "lift it", Outcome.RUNNING, None, "no time")
    assert (told != plain).any() and (told[: 480 + 60] == plain[: 480 + 60]).all()


def test_a_long_instruction_and_a_note_on_it_are_shown():
    picture = np.zeros((480, 640, 3), np.uint8)
    words = "put the red cube in the bowl, then push the can to the left of the pad away"
    long = drawing.caption(picture, "episode 1 of 1", words, Outcome.RUNNING)
    cut = drawing.caption(picture, "episode 1 of 1", words[:40], Outcome.RUNNING)
    assert (long[496:516] != cut[496:516]).any(), "it has a second line"
    note = drawing.caption(picture, "episode 1 of 1", words, Outcome.RUNNING, note="refused: why")
    changed = (note != long).any((1, 2)).nonzero()[0]
    assert 480 + 56 < changed.min() and changed.max() < 480 + 86


def test_an_interrupted_film_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), Video(tmp_path / "film.mp4", 5.0) as video:
        video.add(grey(0, 64))
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_video_is_of_one_size_and_in_a_folder(tmp_path):
    with pytest.raises(ValueError, match="even"), Video(tmp_path / "a.mp4", 5.0) as video:
        video.add(grey(0, 33))
    with pytest.raises(ValueError, match="32"), Video(tmp_path / "a.mp4", 5.0) as video:
        video.add(grey(0, 64))
        video.add(grey(0, 32))
    with pytest.raises(OSError, match="nowhere"), Video(tmp_path / "nowhere/a.mp4", 5.0) as video:
        video.add(grey(0, 64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("count", "wanted", "chosen"),
    [(1, 6, [0]), (3, 6, [0, 1, 2]), (11, 6, [0, 2, 4, 6, 8, 10])],
)
def test_pictures_are_spread_from_the_first_to_the_last(count, wanted, chosen):
    assert drawing.spread(count, wanted) == chosen
