"""The narrator: what it reads, says and answers is well formed, checked and kept in checkpoints."""

import numpy as np
import pytest
import torch
from tiny_narrator import CAMERAS, EYE, GRID, tiny_narrator

from vla_ros.models.checkpoint import CONFIG
from vla_ros.models.narrator import (
    Narrator,
    checked_answer,
    checked_narration,
    felt_ids,
    narration_prompt,
    nearest_place,
    plan_of,
    prefix_of,
    said_by,
)
from vla_ros.scene_language import questions, sentences
from vla_ros.scene_language.actions import Action, step
from vla_ros.scene_language.facts import Moving, Related, narration
from vla_ros.scene_language.grounding import of_answer, of_narration
from vla_ros.scene_language.scenes import Name, Place, Scene, to_tokens
from vla_ros.scene_language.vocabulary import decode

FELT = np.array([0.505, 0.105, 0.2, 0.04], np.float32)
RED, BOWL = Name("red", "cube"), Name("white", "bowl")
SCENE = Scene.of_metres(
    [("red", "cube", (0.52, 0.10, 0.02)), ("white", "bowl", (0.40, 0.10, 0.0))],
    gripper=(0.50, -0.05, 0.12),
    opening=0.04,
)
PLAN = Action(1, 6, 0, 31)
NEXT = ("<grip>", "<x35>", "<y33>", "<z6>")  # grounds: where the gripper will be


@pytest.fixture(scope="module")
def model():
    return tiny_narrator()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in CAMERAS]


@pytest.fixture
def pictures(model, images):
    return model.encode(images)


def narrated(grounds, fact):
    """As the language says it, and checked against SCENE."""
    tokens = [*grounds, "<text>", *sentences.say(fact)]
    return checked_narration(said_by(tokens, "<text>", -1.5), SCENE)


def answered(question, *tokens):
    return checked_answer(said_by(tokens, "<ans>", -1.5), questions.parse(question), SCENE)


# -- seeing ----------------------------------------------------------------------------------------


def test_its_eye_serves_each_camera(model, images, pictures):
    assert pictures.shape == model.grid == GRID and pictures.dtype == np.float16
    assert model.image_size == 16
    assert np.array_equal(model.encode(images[::-1]), pictures[::-1])


def test_images_of_other_cameras_are_refused(model, images):
    with pytest.raises(ValueError, match="expected images of camera, wrist_camera"):
        model.encode(images[:1])
    with pytest.raises(ValueError, match=r"wrist_camera: expected uint8 \[16, 16, 3\]"):
        model.encode([images[0], images[1][:8]])


def test_another_eye_has_another_fingerprint(model):
    other = tiny_narrator()
    assert other.encoder_id == model.encoder_id
    torch.nn.init.zeros_(other.language.embed.weight)
    assert other.encoder_id == model.encoder_id
    torch.nn.init.zeros_(other.eye.stem.bias)
    assert other.encoder_id != model.encoder_id


def test_what_is_read_off_a_picture_is_always_a_scene(model, pictures):
    seen = model.see(pictures, FELT)
    assert isinstance(seen.scene, Scene) and seen.log_probability < 0
    assert model.see(pictures, FELT) == seen


def test_another_picture_or_posture_is_read_otherwise(model, pictures):
    model = tiny_narrator()
    torch.manual_seed(1)
    for parameter in model.language.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    seen = model.see(pictures, FELT)
    assert model.see(pictures[:, ::-1].copy(), FELT) != seen
    assert model.see(pictures, FELT + np.float32([0, 0.1, 0, 0])) != seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, f: (p[:1], f), r"expected visual tokens \[2, 4, 4, 3\], got \[1, 4, 4, 3\]"),
        (lambda p, f: (np.full_like(p, np.nan), f), "NaN"),
        (lambda p, f: (p, f * np.nan), "NaN"),
    ],
)
def test_what_cannot_be_seen_is_refused(model, pictures, change, message):
    with pytest.raises(ValueError, match=message):
        model.see(*change(pictures, FELT))


def test_a_prefix_has_each_square_of_tokens_once():
    tokens = torch.arange(np.prod(GRID)).reshape(1, *GRID)
    prefix = prefix_of(tokens)
    assert prefix.shape == (1, 2 * 2 * 2, 4 * 3)
    corner = tokens[0, 0, :2, :2].flatten()
    assert torch.equal(prefix[0, 0], corner.float())
    assert torch.equal(prefix.flatten().sort().values, tokens.flatten().float())


def test_near_places_of_a_picture_begin_near_each_other():
    model = tiny_narrator(vision={**EYE, "image_size": 64}, cameras=CAMERAS[:1])
    places = model.language.prefix_position.detach().reshape(8, 8, -1)
    for way in (0, 1):  # rows, columns
        apart = [
            (places.narrow(way, far, 8 - far) - places.narrow(way, 0, 8 - far)).norm(dim=-1).mean()
            for far in (1, 5)
        ]
        assert apart[0] < 0.97 * apart[1]  # much of it is chance


# -- what is felt and planned ----------------------------------------------------------------------


def test_what_is_felt_is_told_in_bins():
    assert decode(felt_ids(FELT)) == ["<bos>", "<grip>", "<a31>", "<x34>", "<y42>", "<z10>"]
    assert decode(felt_ids(FELT * [1, 1, 1, 0]))[2] == "<a0>"


def test_outside_the_box_is_its_nearest_bin():
    assert nearest_place((0.0, 9.0, 0.5)) == Place(0, 63, 15)


def test_a_plan_leads_from_bin_to_bin():
    assert plan_of(FELT, np.array([0.031, -0.052, -0.041, 0.0])) == Action(3, -5, -2, 0)
    assert plan_of(FELT, np.array([0.0, 0.0, 0.0, 0.04])) == Action(0, 0, 0, 31)
    far = plan_of(FELT, np.array([0.29, -0.4, 0.0, 0.04]))
    assert (far.dx, far.dy) == (15, -16)


# -- saying ----------------------------------------------------------------------------------------


def test_a_true_narration_is_sound():
    after = step(SCENE, PLAN)
    fact = narration(SCENE, after, RED)
    grounds = of_narration(SCENE, after, RED)
    said = narrated(grounds, fact)
    assert said.sound and said.fact == fact and said.grounds == tuple(grounds)
    assert said.text == "The gripper is moving left toward the red cube, which is behind the bowl."
    assert said.log_probability == -1.5


def test_a_narration_follows_instruction_scene_and_plan():
    told = ["<bos>", "<text>", "reach", "the", "red", "cube", "."]
    prompt = narration_prompt(SCENE, PLAN, "Reach the red cube.")
    assert prompt == [*told, *to_tokens(SCENE), *PLAN.to_tokens(), "<rel>"]
    assert narration_prompt(SCENE, PLAN, "")[:2] == ["<bos>", "<scene>"]


@pytest.mark.parametrize(
    "fact",
    [
        Moving("move", "right"),
        Moving("carry", "left", RED),
        Moving("move", "left", target=Name("blue", "cube")),
        Moving("move", "left", None, BOWL, Related(BOWL, "left", (RED,))),
        Moving("move", "left", None, RED, Related(RED, "left", (BOWL,))),
        Moving("stay"),
        Related(RED, "behind", (BOWL,)),
    ],
)
def test_what_does_not_hold_of_the_scene_is_not_sound(fact):
    said = narrated(NEXT, fact)
    assert said.fact == fact and not said.sound


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        ["<text>", "the", "gripper", "is", "moving", "left", "."],
        [*NEXT[:3], "<text>", "the", "gripper", "is", "moving", "left", "."],
        [*NEXT, "<text>", "left", "gripper", "the", "."],
        [*NEXT, "the", "gripper", "is", "moving", "left", "."],
    ],
)
def test_what_is_no_narration_is_not_sound(tokens):
    assert not checked_narration(said_by(tokens, "<text>", -1.0), SCENE).sound


def test_a_carried_or_pushed_thing_goes_with_the_gripper():
    held = SCENE.moved({RED: SCENE.gripper}, open=False, holds=RED)
    for verb, scene, sound in (
        ("carry", held, True),
        ("carry", SCENE, False),
        ("push", SCENE, True),
        ("push", held, False),
    ):
        tokens = [*NEXT, "<text>", *sentences.say(Moving(verb, "left", RED))]
        assert checked_narration(said_by(tokens, "<text>", -1.0), scene).sound is sound


def test_whatever_is_said_is_told_apart(model):
    said = model.narrate(SCENE, PLAN)
    assert (said.fact is None) <= (not said.sound) and said.log_probability < 0
    assert not model.describe(SCENE).sound  # random weights say nothing that is true


def test_unknown_words_are_named_not_guessed(model):
    with pytest.raises(ValueError, match="unknown words 'fetchez', 'vache' in"):
        model.narrate(SCENE, PLAN, "fetchez the vache")
    with pytest.raises(ValueError, match="unknown word 'zebra' in"):
        model.answer(SCENE, "Where is the zebra?")


# -- answering -------------------------------------------------------------------------------------


def test_answers_are_read_and_checked():
    where = questions.parse("where is the red block?")
    grounds = of_answer(where, questions.answer(where, SCENE), SCENE)
    said = answered("Where is the red block?", *grounds, "<ans>", "behind", "the", "bowl", ".")
    assert said.sound and said.fact == Related(RED, "behind", (BOWL,))
    assert said.text == "Behind the bowl." and said.grounds == tuple(grounds)
    assert not answered("Where is the red cube?", "<ans>", "on", "the", "bowl").sound
    said = answered("Where is the red block?", *grounds, "<ans>", "yes", ".")
    assert said.fact is None and not said.sound


def test_places_are_answered_in_tokens():
    question = "In which row and column is the red cube?"
    said = answered(question, "<ans>", "<x36>", "<y42>", "<z1>", ".")
    assert said.sound and said.words[:3] == ("<x36>", "<y42>", "<z1>")
    assert not answered(question, "<ans>", "<x36>", "<y41>", "<z1>", ".").sound


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("where is the blue cube?", "there is no blue cube"),
        ("the red cube", "is no question"),
    ],
)
def test_questions_without_an_answer_are_refused(model, question, message):
    with pytest.raises(ValueError, match=message):
        model.answer(SCENE, question)


# -- checkpoints -----------------------------------------------------------------------------------


def test_a_checkpoint_keeps_all(model, pictures, tmp_path):
    model.save_pretrained(tmp_path)
    again = Narrator.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.see(pictures, FELT) == model.see(pictures, FELT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"vocabulary": 1', '"vocabulary": 0', "vocabulary 0 .* train it with this one"),
        ('"prefix_tokens": 8', '"prefix_tokens": 9', "does not fit visual tokens"),
        ('"cameras"', '"camera"', "unexpected or missing settings of NarratorConfig"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(model, tmp_path, old, new, message):
    model.save_pretrained(tmp_path)
    path = tmp_path / CONFIG
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        Narrator.from_pretrained(tmp_path)


def test_odd_grids_are_refused():
    with pytest.raises(ValueError, match="a grid needs even sides"):
        tiny_narrator(vision={**EYE, "image_size": 20})
