"""`vla imagine`: where it begins, what it leaves, keys in a real terminal, and mistakes."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from episodes import episode, reader
from PIL import Image
from tiny_world import tiny_config, untrained

from vla_ros import cli
from vla_ros.images import image_from_compressed
from vla_ros.models.genie.config import WorldModelConfig
from vla_ros.models.genie.genie import WorldModel
from vla_ros.observations import preprocess_image
from vla_ros.robots.action_config import ActionConfig
from vla_ros.training import genie_sheets, genie_starts
from vla_ros.training.commands.imagine import parse_codes
from vla_ros.training.data.shards import write_shards
from vla_ros.training.genie_play import filmed
from vla_ros.training.genie_sheets import FILM_SIZE, Run, contact_sheet, meanings
from vla_ros.training.genie_terminal import half_blocks
from vla_ros.video import Video

ARM = ActionConfig.get_arm_config()
TINY = tiny_config(longest=6)
CODES = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint that knows nothing, but whose codes differ."""
    folder = tmp_path_factory.mktemp("world")
    untrained(TINY).save_pretrained(folder)
    return folder


@pytest.fixture
def world(folder):
    return WorldModel.from_pretrained(folder)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "scene.png"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels[..., ::-1])
    return path, pixels


def driven(number=0, length=41, **changes):
    """Frames of one grey each, that count up; the tool moves by as many mm a frame."""
    grey = np.arange(length, dtype=np.uint8)[:, None, None, None]
    felt = np.zeros((length, 4), np.float32)
    felt[:, 0] = 0.5 + 0.001 * np.arange(length) ** 2 / 2
    felt[:, 1] = 0.001 * np.arange(length)
    noise = np.random.default_rng(number).integers(0, 60, (length, 16, 16, 3), dtype=np.uint8)
    pictures = noise + 2 * grey
    values = {
        "control_mode": ARM.control_mode,
        "dt": 0.05,
        "action_names": ARM.action_names,
        "proprioception_names": ARM.proprioception_names,
        "proprioception": felt,
        "actions": np.full((length, 4), 0.01, np.float32),
        "stamps": 0.05 * np.arange(length),
        "pictures": {"camera": reader(pictures)},
        "depths": {},
    }
    return episode(number, length, **(values | changes))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    target = tmp_path_factory.mktemp("data") / "shards"
    write_shards(target, [driven(0), driven(1, length=30)], ("camera",), 16)
    return target


def imagine(*words):
    return cli.main(["imagine", *map(str, words)])


def frames_of(path):
    video = cv2.VideoCapture(str(path))
    found = []
    while (read := video.read())[0]:
        found.append(read[1])
    return found, video.get(cv2.CAP_PROP_FPS)


# -- what it leaves --------------------------------------------------------------------------------


def test_codes_become_a_video_and_a_sheet(folder, picture, tmp_path):
    out = tmp_path / "a" / "out"
    assert (
        imagine("--checkpoint", folder, "--from", picture[0], "--codes", "0,3,3,1", "--out", out)
        == 0
    )
    frames, rate = frames_of(out / "imagined.mp4")
    assert len(frames) == 1 + 4 and rate == pytest.approx(5.0)
    assert {frame.shape for frame in frames} == {(*FILM_SIZE, 3)}
    assert sorted(path.name for path in out.iterdir()) == ["imagined.mp4", "imagined.png"]
    sheet = cv2.imread(str(out / "imagined.png"))
    assert sheet.shape[1] > 5 * 100 and sheet.std() > 10


def test_a_plan_is_imagined_beside_what_came(folder, shards, tmp_path, capsys):
    words = ["--checkpoint", folder, "--data", shards, "--robot", "arm", "--plan", "3"]
    assert imagine(*words, "--out", tmp_path / "out") == 0
    assert re.search(r"imagined [\d.]+ dB .* last frame seen [\d.]+ dB", capsys.readouterr().out)
    frames, _ = frames_of(tmp_path / "out/imagined.mp4")
    assert len(frames) == 6 + 3  # what was seen in the second before it begins
    one, two = (f[100:300, 20:320].astype(int).mean() for f in frames[-2:])
    assert two > one + 4  # the left side shows the episode, which gets brighter
    assert imagine(*words, "--episode", 1, "--at", 0.4, "--out", tmp_path / "other") == 0
    assert len(frames_of(tmp_path / "other/imagined.mp4")[0]) == 3 + 3


def test_the_simulator_is_where_it_begins_if_nothing_is_told(folder, tmp_path, capsys):
    words = ["--checkpoint", folder, "--family", "reach", "--plan", "2", "--at", "0.6"]
    assert imagine(*words, "--seed", 3, "--out", tmp_path / "out") == 0
    assert len(frames_of(tmp_path / "out/imagined.mp4")[0]) == 4 + 2
    assert "dB" in capsys.readouterr().out


def test_the_grid_has_a_row_a_code_and_tells_the_motion(folder, shards, tmp_path, capsys):
    words = ["--checkpoint", folder, "--data", shards, "--robot", "arm", "--grid", "2"]
    assert imagine(*words, "--out", tmp_path / "out") == 0
    rows = capsys.readouterr().out.splitlines()[1 : 1 + CODES]
    assert [int(row.split()[0]) for row in rows] == list(range(CODES))
    assert sum(int(row.split()[1]) for row in rows) == (41 - 4) + (30 - 4)
    for row in rows:  # dy of every step is 4 mm
        assert row.split()[1] == "0" or row.split()[3:] == ["+0.4", "+0.0"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["codes.png"]


def test_the_grid_needs_no_robot(folder, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert imagine("--checkpoint", folder, "--from", picture[0], "--grid", "--out", out) == 0
    assert "steps" not in capsys.readouterr().out
    assert cv2.imread(str(out / "codes.png")).shape[0] > CODES * 100


def place(canvas, grey):
    """Where the one picture of that grey is: y, x."""
    found = np.argwhere((np.asarray(canvas) == grey).all(-1))
    assert len(found) >= 100**2, grey
    return found.mean(0)


def flat(grey):
    return np.full((16, 16, 3), grey, np.uint8)


def test_places_in_the_grid():
    starts = [flat(200), flat(210)]
    imagined = [[[flat(60 + 4 * c + s), flat(100 + 4 * c + s)] for s in range(2)] for c in range(3)]
    motions = genie_starts.Motions(np.array([3, 0, 1]), np.zeros((3, 3)))
    plain, told = (meanings(starts, imagined, 0.2, m) for m in (None, motions))
    assert told.width > plain.width
    for canvas in (plain, told):
        for code in range(3):
            row = [place(canvas, 60 + 4 * code), place(canvas, 100 + 4 * code)]
            row += [place(canvas, 61 + 4 * code), place(canvas, 101 + 4 * code)]
            assert len({y for y, _ in row}) == 1
            assert [x for _, x in row] == sorted(x for _, x in row)
        rows = [place(canvas, 60 + 4 * code)[0] for code in range(3)]
        assert rows == sorted(rows) and rows[0] < rows[2]
    assert genie_sheets._told(motions, 1) == ["0 steps"]
    assert genie_sheets._told(motions, 0)[0] == "3 steps"


def test_a_sheet_shows_every_frame_and_what_came():
    run = Run(flat(40), [flat(80 + i) for i in range(9)])
    run.frames, run.codes = [flat(120 + i) for i in range(9)], list(range(9))
    sheet = contact_sheet([run, Run(flat(30))], 0.2)
    tops = [place(sheet, grey)[0] for grey in (120, 80, 128, 88, 30)]
    assert tops == sorted(tops) and len(set(tops)) == 5
    assert place(sheet, 120)[0] == place(sheet, 126)[0]
    assert place(sheet, 121)[1] == place(sheet, 81)[1]
    assert place(sheet, 121)[1] < place(sheet, 122)[1]


def test_nothing_is_left_when_it_is_interrupted(world, picture, tmp_path):
    start = genie_starts.of_files([picture[0]], world)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), filmed(out, start, 0.2) as film:
        for one in start.watched(world).imagine(latent_actions=[1, 2]):
            film.add(one)
        raise KeyboardInterrupt
    assert not list(out.iterdir())


# -- where it begins -------------------------------------------------------------------------------


def test_pictures_are_scaled_as_for_training(world, picture):
    path, pixels = picture
    start = genie_starts.of_files([path, path], world)
    assert start.seen.shape == (2, 16, 16, 3) and not len(start.real)
    np.testing.assert_array_equal(start.seen[0], preprocess_image(pixels, 16))


@pytest.mark.parametrize("kind", ["turned by EXIF", "with alpha", "grey"])
def test_pictures_of_files_are_read_as_those_of_messages(world, tmp_path, kind):
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8), (48, 32))
    path = tmp_path / ("seen.jpg" if kind == "turned by EXIF" else "seen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    modes = {"with alpha": "RGBA", "grey": "L"}
    shown = Image.fromarray(smooth).convert(modes.get(kind, "RGB"))
    shown.save(path, exif=exif)
    message = SimpleNamespace(format="", data=np.fromfile(path, np.uint8))
    pixels = image_from_compressed(message)
    assert pixels.shape == (32, 48, 3)
    start = genie_starts.of_files([path], world)
    np.testing.assert_array_equal(start.seen[0], preprocess_image(pixels, 16))


def test_the_end_of_a_video_is_seen_at_the_models_pace(world, tmp_path):
    with Video(tmp_path / "seen.mp4", 10.0) as video:
        for number in range(25):
            video.add(np.full((32, 48, 3), 10 * number, np.uint8))
    seen = genie_starts.of_files([tmp_path / "seen.mp4"], world).seen
    np.testing.assert_allclose(seen.mean((1, 2, 3)), range(100, 241, 20), atol=4)


def test_an_episode_is_cut_where_it_is_asked_for(world):
    one = driven()
    frames = np.stack([*one.frames("camera")])
    start = genie_starts.of_episode(one, 0.5, 3, world, acted=True)
    np.testing.assert_array_equal(start.seen, frames[[2, 6, 10]])
    np.testing.assert_array_equal(start.real, frames[[14, 18, 22]])
    np.testing.assert_array_equal(start.proprioception, one.proprioception[10])
    # Where the arm was told to be, from where its tool is now.
    wanted = one.proprioception[10:22, :3] + 0.01 - one.proprioception[10, :3]
    np.testing.assert_allclose(start.actions[:, :3], wanted, atol=1e-6)
    late = genie_starts.of_episode(one, 2.0, 0, world)
    np.testing.assert_array_equal(late.seen, frames[12:41:4])  # no more than it can make use of
    short = driven(length=14)
    start = genie_starts.of_episode(short, None, 3, world)
    np.testing.assert_array_equal(start.seen, [[*short.frames("camera")][1]])


def test_motions_are_those_of_the_inferred_latent_actions(world):
    one = driven()
    found = genie_starts.motions([one], world)
    moved = [[] for _ in range(CODES)]
    frames = np.stack([*one.frames("camera")])
    for phase in range(4):
        dream, index = world.start(), np.arange(phase, len(one), 4)
        codes = [dream.observe(frames[i]).latent_action for i in index][1:]
        for code, before, after in zip(codes, index, index[1:], strict=False):
            moved[code].append(one.proprioception[after, :3] - one.proprioception[before, :3])
    assert found.steps.tolist() == [len(steps) for steps in moved]
    assert (found.steps > 0).sum() > 1
    for code, steps in enumerate(moved):
        if steps:
            np.testing.assert_allclose(found.mean[code], np.mean(steps, axis=0), atol=1e-6)
    nameless = driven(proprioception_names=("a", "b", "c", "d"))
    assert genie_starts.motions([one, nameless], world) is None


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "1,", "a", "1;2", "-1", "1, 2", "1.0"])
def test_codes_are_numbers_with_commas_between(text):
    with pytest.raises(ValueError, match="as 0,3,3,1"):
        parse_codes(text)


def test_codes_are_read_in_order():
    assert parse_codes("0,3,3,12") == [0, 3, 3, 12] and parse_codes("5") == [5]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--from {scene} --codes 0,8", "latent action 8 is unknown: give 0 to 7"),
        ("--from {scene} --codes 0,1,0,1,0,1,0", "horizon is 7 frames: give 1 to 6"),
        ("--from {scene} --codes 0,x", "'0,x'"),
        ("--from {empty}/no.png --codes 0", "no.png"),
        ("--from {text} --codes 0", "neither a picture nor a video"),
        ("--from {scene} {text} --codes 0", "is no picture"),
        ("--from {small} --codes 0", "smaller than the model's 16x16"),
        ("--from {scene} --plan", "--plan with --from"),
        ("--from {scene} --at 0 --codes 0", "--at with --from"),
        ("--from {scene} --seed 0 --codes 0", "--seed with --from"),
        ("--from {scene} --data {shards} --robot arm --codes 0", "--data with --from"),
        ("--from {scene} --play", "needs a terminal"),
        ("--data {shards} --codes 0", "--data and --robot belong together"),
        ("--data {shards} --robot dog --codes 0", "no robot 'dog'"),
        ("--data {empty}/nothing --robot arm --codes 0", "nothing does not exist"),
        ("--data {shards} --robot arm --episode 2 --codes 0", "no episode 2"),
        ("--data {shards} --robot arm --plan 7", "--plan is 7 frames: give 1 to 6"),
        ("--data {shards} --robot arm --plan 0", "--plan is 0"),
        ("--data {shards} --robot arm --plan 5 --at 1.5", "too few for 5 frames"),
        ("--data {shards} --robot arm --at -1 --codes 0", "--at is -1"),
        ("--data {shards} --robot arm --grid 0", "--grid is 0"),
        ("--episode 1 --codes 0", "--episode is of --data"),
        ("--seed -1 --codes 0", "-1"),
        ("--checkpoint nowhere --codes 0", "no checkpoint 'nowhere'"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    words, said, folder, shards, picture, tmp_path, capsys
):
    (tmp_path / "text.png").write_text("no picture")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((9, 20, 3), np.uint8))
    places = {
        "scene": picture[0],
        "empty": tmp_path,
        "text": tmp_path / "text.png",
        "small": tmp_path / "small.png",
        "shards": shards,
    }
    words = [word.format(**places) for word in words.split()]
    if "--checkpoint" not in words:
        words += ["--checkpoint", folder]
    assert imagine(*words, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err  # OpenCV may have said more, elsewhere
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_robots_episodes_have_no_plan_for_it(world):
    for changes, said in (
        ({"control_mode": "end_effector_delta"}, "control mode is end_effector_delta"),
        ({"dt": 0.1, "stamps": 0.1 * np.arange(41)}, "actions in a frame is 2"),
    ):
        with pytest.raises(ValueError, match=said):
            genie_starts.of_episode(driven(**changes), 0.5, 2, world, acted=True)
    plain = WorldModel(WorldModelConfig(**{**vars(TINY), "robot": None}))
    with pytest.raises(ValueError, match="without robot actions"):
        genie_starts.of_episode(driven(), 0.5, 2, plain, acted=True)


# -- keys ------------------------------------------------------------------------------------------


def test_codes_are_taken_when_their_frame_is_asked_for(world, picture):
    dream = genie_starts.of_files([picture[0]], world).watched(world)
    taken = []

    def choose():
        for code in (1, 2, 3):
            taken.append(code)
            yield code

    played = dream.play(choose())
    assert not taken
    first = next(played)
    assert taken == [1] and first.latent_action == 1
    frames = [first, *played]
    for one, other in zip(frames, dream.imagine(latent_actions=[1, 2, 3]), strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)
    assert len(list(dream.play([1] * 20))) == 6
    with pytest.raises(ValueError, match="latent action 9 is unknown"):
        list(dream.play([9]))
    with pytest.raises(ValueError, match="nothing was seen"):
        world.start().play([1])


def test_half_blocks_show_two_rows_a_line():
    frame = np.zeros((4, 3, 3), np.uint8)
    frame[0, 0], frame[1, 0] = (1, 2, 3), (4, 5, 6)
    lines = half_blocks(frame).splitlines()
    assert len(lines) == 2 and [line.count("\u2580") for line in lines] == [3, 3]
    assert lines[0].startswith("\x1b[38;2;1;2;3;48;2;4;5;6m\u2580")


class Player:
    """`vla imagine --play` in a terminal of its own."""

    def __init__(self, *words):
        self._own, self._its = pty.openpty()
        termios.tcsetwinsize(self._its, (30, 90))
        self.before = termios.tcgetattr(self._its)
        name = os.ttyname(self._its)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vla_ros.cli", "imagine", "--play", *map(str, words)],
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(name, os.O_RDWR)),  # Ctrl-C comes from it
        )
        self.said = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self._own)
        os.close(self._its)

    def wait_for(self, words, timeout=120.0):
        """Read on until it has said the words."""
        begin, end = len(self.said), time.monotonic() + timeout
        while words not in self.said[begin:]:
            assert time.monotonic() < end, f"no {words!r} in {self.said[begin:]!r}"
            if select.select([self._own], [], [], 0.1)[0]:
                self.said += os.read(self._own, 65536).decode(errors="replace")
        return self.said[begin:]

    def press(self, keys):
        os.write(self._own, keys.encode())

    def ended(self, timeout=60.0):
        """The exit code; what it says until then is read."""
        end = time.monotonic() + timeout
        while self.process.poll() is None or select.select([self._own], [], [], 0.0)[0]:
            assert time.monotonic() < end, f"did not end: {self.said!r}"
            if select.select([self._own], [], [], 0.1)[0]:
                self.said += os.read(self._own, 65536).decode(errors="replace")
        assert termios.tcgetattr(self._its) == self.before  # echo and lines, as they were
        return self.process.returncode


def test_playing_in_a_terminal_leaves_the_frames_that_were_chosen(folder, picture, tmp_path):
    out = tmp_path / "out"
    with Player("--checkpoint", folder, "--from", picture[0], "--out", out) as player:
        shown = player.wait_for("q: end")
        assert shown.count("\u2580") == 16 * 8 and "keys 0-7" in shown
        player.press("3")
        assert "frame 1 of 6, latent action 3" in player.wait_for("q: end")
        player.press("x9\x1b[3~\x1b[A0")  # neither keys that mean nothing nor Delete nor an arrow
        player.wait_for("frame 2 of 6, latent action 0")
        player.press("r")
        player.wait_for("seen;")
        player.press("1111111")  # one more than the longest imagination has
        player.wait_for("frame 6 of 6")
        player.press("q")
        assert player.ended() == 0
    assert "played: 3,0\r\nplayed: 1,1,1,1,1,1\r\n" in player.said
    frames, _ = frames_of(out / "imagined.mp4")
    assert len(frames) == (1 + 2) + (1 + 6)
    assert sorted(path.name for path in out.iterdir()) == ["imagined.mp4", "imagined.png"]


def test_control_c_while_playing_leaves_no_file(folder, picture, tmp_path):
    out = tmp_path / "out"
    with Player("--checkpoint", folder, "--from", picture[0], "--out", out) as player:
        player.wait_for("q: end")
        player.press("3")
        player.wait_for("frame 1 of 6")
        player.press("\x03")
        assert player.ended() == 130
    assert "stopped" in player.said and not list(out.iterdir())
