"""A tiny narrator that learned a few sentences by heart, some of them false."""

from __future__ import annotations

import numpy as np
import torch

from vla_ros.models.narrator import (
    Narrator,
    NarratorConfig,
    narration_prompt,
    nearest_place,
    plan_of,
    prefix_of,
)
from vla_ros.models.vision import build_encoder, encode_images, fingerprint
from vla_ros.observations import proprioception
from vla_ros.robots import panda
from vla_ros.robots.kinematics import ArmKinematics
from vla_ros.scene_language import questions
from vla_ros.scene_language.facts import Present, narration
from vla_ros.scene_language.grounding import MARK, of_answer, of_fact, of_narration
from vla_ros.scene_language.scenes import Name, Place, Scene, Thing, to_tokens
from vla_ros.scene_language.sentences import say
from vla_ros.scene_language.vocabulary import encode, text_of
from vla_ros.training.narrator.rows import Row, pack, sight_row
from vla_ros.training.narrator.sightings import Sighting

FELT = proprioception(panda.HOME, ArmKinematics())
RED, BLUE, BOWL = Name("red", "cube"), Name("blue", "cube"), Name("white", "bowl")
_HAND = nearest_place(FELT[:3])
CAMERAS = ("camera",)
torch.manual_seed(0)
EYE = build_encoder({"model_type": "small", "image_size": 16, "channels": 8})
ENCODER = fingerprint(EYE)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16, 3), np.uint8)
PICTURES = np.stack([encode_images([EYE], CAMERAS, images) for images in IMAGES])  # their tokens
# What the two images show.
SCENES = tuple(
    Scene((Thing(one, Place(30, 20, 1)), Thing(BOWL, Place(20, 40, 0))), _HAND, True)
    for one in (RED, BLUE)
)
REACH, FALSE = "reach for the red cube", "push the red cube"
# What the robot is told, as (instruction, whether the hand is to be open), and where the gripper
# then goes, in bins.
WAYS = {
    (REACH, True): (0, -6, 0),
    (REACH, False): (0, 0, -4),
    ("", True): (6, 0, 0),
    (FALSE, True): (0, 6, 0),
}
SENTENCES: dict[tuple[str, bool], str] = {}  # what is said then
DESCRIPTIONS = tuple(text_of(say(Present(one))) for one in (RED, BLUE))
QUESTION, WRONG = "where is the red cube", "how many cubes are there"


def taught_narrator() -> Narrator:
    """Sees `SCENES` in `IMAGES`, whose tokens are `PICTURES`, and says `SENTENCES` and
    `DESCRIPTIONS` of them. What it says when told `FALSE` and answers to `WRONG` is false."""
    torch.manual_seed(0)
    small = {"width": 64, "heads": 2, "layers": 2}
    narrator = Narrator(NarratorConfig.of("nano", 0.2, EYE.description(), CAMERAS, **small))
    narrator.eye.load_state_dict(EYE.state_dict())
    ids, asked = pack([[row] for row in (*_narrations(), *_descriptions(), *_answers())], 100)
    sights = [
        sight_row(Sighting(images, np.zeros((1, 8, 2)), FELT, np.zeros(4), scene))
        for images, scene in zip(IMAGES, SCENES, strict=True)
    ]
    seen, seen_asked = pack([[row] for row in sights], 40)
    prefix = prefix_of(torch.from_numpy(PICTURES))
    optimizer = torch.optim.AdamW(narrator.language.parameters(), lr=3e-3)
    for _ in range(1000):
        loss = narrator.language.loss(ids, asked) + narrator.language.loss(seen, seen_asked, prefix)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            return narrator.eval()
    raise AssertionError(f"it did not learn a few sentences by heart: {loss:.3f} nats are left")


def _narrations() -> list[Row]:
    rows, scene = [], SCENES[0]
    for (instruction, opened), way in WAYS.items():
        place = Place(*(a + b for a, b in zip(scene.gripper, way, strict=True)))
        after = scene.moved({}, gripper=place)
        words = say(narration(scene, after))
        SENTENCES[instruction, opened] = text_of(words)
        grounds = of_narration(scene, after, None)
        if instruction == FALSE:  # the grounds tell of another way
            grounds = of_narration(scene, scene.moved({}, gripper=Place(*_HAND[:2], 9)), None)
        plan = plan_of(FELT, np.array([0.0, 0.0, 0.0, 0.04 * opened]))
        prompt = narration_prompt(scene, plan, instruction)
        rows.append(_row(prompt, [*grounds, "<text>", *words, "<eos>"]))
    return rows


def _descriptions() -> list[Row]:
    rows = []
    for scene, one in zip(SCENES, (RED, BLUE), strict=True):
        fact = Present(one)
        grounds = of_fact(fact, scene)
        prompt = ["<bos>", *to_tokens(scene), MARK]
        rows.append(_row(prompt, [*grounds, "<text>", *say(fact), "<eos>"]))
    return rows


def _answers() -> list[Row]:
    rows, scene = [], SCENES[0]
    for text, told in ((QUESTION, None), (WRONG, 2)):
        question = questions.parse(text)
        found = told or questions.answer(question, scene)
        prompt = ["<bos>", *to_tokens(scene), "<q>", *text.split(), "?", MARK]
        grounds = of_answer(question, found, scene)
        words = questions.reply(question, found)
        rows.append(_row(prompt, [*grounds, "<ans>", *words, "<eos>"]))
    return rows


def _row(prompt: list[str], said: list[str]) -> Row:
    return encode([*prompt, *said]), [False] * len(prompt) + [True] * len(said)
