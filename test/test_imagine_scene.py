"""`vla imagine --scene`: what texts look like, what is read back, which words did it, mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_scenes import tiny_scenes

from vla_ros import cli
from vla_ros.models.scenes.attribution import attribution
from vla_ros.models.scenes.reading import in_words
from vla_ros.training.scenes.sheets import Card, sheet

TEXT = "a red cube left of the bowl"
MOVING = "The gripper is moving left toward the red cube, which is behind the bowl."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    tiny_scenes().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return tiny_scenes()


def imagine(*words):
    return cli.main(["imagine", *map(str, words)])


# -- what it leaves --------------------------------------------------------------------------------


def test_a_text_becomes_a_picture_with_what_is_read_back_and_its_score(
    folder, model, tmp_path, capsys
):
    out = tmp_path / "new" / "scene.png"
    assert imagine("--scene", TEXT, "--seed", 3, "--checkpoint", folder, "--out", out) == 0
    wanted = model.imagine(TEXT, 3)
    said = capsys.readouterr().out
    assert said.splitlines()[0] == TEXT
    assert f"read back: {in_words(wanted.picture) or 'nothing'}" in said
    assert f"missing: {wanted.missing}" in said
    assert f"cycle score: {wanted.score:.2f}" in said and str(out) in said
    shown = np.asarray(Image.open(out))
    large = np.kron(wanted.image, np.ones((5, 5, 1), np.uint8))
    assert has(shown, large)
    assert [path.name for path in out.parent.iterdir()] == ["scene.png"]


def has(canvas, part):
    """Whether a picture is somewhere on a larger one."""
    corners = np.argwhere((canvas[: 1 - len(part), : 1 - part.shape[1]] == part[0, 0]).all(-1))
    return any((canvas[y : y + len(part), x : x + part.shape[1]] == part).all() for y, x in corners)


def test_several_texts_are_one_sheet_in_a_folder(folder, model, tmp_path, capsys):
    texts = [TEXT, MOVING, "there is a green can", TEXT]
    words = [word for text in texts for word in ("--scene", text)]
    assert imagine(*words, "--checkpoint", folder, "--out", tmp_path / "a") == 0
    assert capsys.readouterr().out.count("cycle score") == 4
    (path,) = (tmp_path / "a").iterdir()
    assert path.name == "scenes.png"
    shown = np.asarray(Image.open(path))
    assert has(shown, np.kron(model.imagine(MOVING).image, np.ones((5, 5, 1), np.uint8)))


def test_the_same_seed_gives_the_same_sheet_and_another_seed_another(folder, tmp_path):
    sheets = []
    for seed in (1, 1, 2):
        out = tmp_path / "x.png"
        assert imagine("--scene", TEXT, "--seed", seed, "--checkpoint", folder, "--out", out) == 0
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_attribution_shows_a_tile_for_each_word(folder, tmp_path):
    plain, told = tmp_path / "plain.png", tmp_path / "told.png"
    words = ["--scene", TEXT, "--checkpoint", folder]
    assert imagine(*words, "--out", plain) == imagine(*words, "--attribution", "--out", told) == 0
    assert Image.open(told).width > Image.open(plain).width + 3 * 82


def test_cards_keep_their_words_within_the_sheet():
    image = np.full((64, 64, 3), 90, np.uint8)
    long = "a red cube and " * 20
    cards = [Card(long, image, long, 0.3, long), Card("x" * 300, image, "", 1.0)]
    canvas = np.asarray(sheet(cards))
    assert (canvas[-8:] == canvas[-1, -1]).all()  # nothing is cut at the lower edge
    one, five = sheet(cards[1:]), sheet(cards[1:] * 5)
    assert five.width == 3 * (one.width - 16) + 16


def test_the_shipped_scenes_look_as_the_words_say(tmp_path, capsys):
    assert imagine("--scene", TEXT, "--out", tmp_path) == 0
    said = capsys.readouterr().out
    assert "red cube" in said.splitlines()[1] and "bowl" in said.splitlines()[1]
    assert "missing" not in said


# -- which words did it ----------------------------------------------------------------------------


def test_attribution_is_how_the_picture_would_change_without_the_word(model):
    found = attribution(model, MOVING, seed=1)
    assert found.words[:3] == ("the", "gripper", "is") and found.words[-1] == "."
    assert found.maps.shape == (len(found.words), 64, 64)
    assert 0.0 <= found.maps.min() and found.maps.max() <= 1.0 and found.maps.max() > 0.0
    again = attribution(model, MOVING, seed=1)
    np.testing.assert_array_equal(found.maps, again.maps)


def test_a_word_that_the_picture_does_not_depend_on_has_no_pixels(model, monkeypatch):
    text, red, embed = "there is a red cube left of the bowl", 4, model.language.embed
    said = model.encode([text])

    def knows_one_word(ids):
        one = said.repeat(len(ids), 1)
        one[:, red] = ids[:, red]
        return embed(one)

    monkeypatch.setattr(model.language, "embed", knows_one_word)
    found = attribution(model, text)
    assert found.words[red - 1] == "red" and found.maps[red - 1].max() > 0.0
    assert np.delete(found.maps, red - 1, axis=0).max() < 1e-5


def test_a_text_that_is_none_has_no_attribution(model):
    with pytest.raises(ValueError, match="'teapot'"):
        attribution(model, "a red teapot")


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scene", "a red teapot on a quxly"], "unknown words 'teapot', 'quxly'"),
        (["--scene", TEXT, "--scene", "a red teapot"], "unknown word 'teapot'"),
        (["--scene", ""], "the text has no words"),
        (["--scene", "a red cube " * 40], "120 words and punctuation marks, 94 at most"),
        (["--scene", TEXT, "--seed", "-1"], "--seed is -1"),
        (["--scene", TEXT, "--family", "pick"], "--family with --scene"),
        (["--scene", TEXT, "--from", "x.png"], "--from with --scene"),
        (["--scene", TEXT, "--at", "1"], "--at with --scene"),
        (["--scene", TEXT] * 101, "101 times --scene: give 100 at most"),
        (["--scene", TEXT, "--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
        (["--scene", TEXT, "--checkpoint", "world"], "ScenesConfig"),
        (["--plan", "--attribution"], "--attribution is of --scene"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(words, said, folder, tmp_path, capsys):
    if "--checkpoint" not in words:
        words = [*words, "--checkpoint", folder]
    assert imagine(*words, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for out, said in ((tmp_path / "file", "is a file"), (tmp_path / "folder.png", "is a folder")):
        assert imagine("--scene", TEXT, "--checkpoint", folder, "--out", out) == 1
        assert said in capsys.readouterr().err
