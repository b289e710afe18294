"""The narrator: what a robot sees as a scene, what it does as a sentence, and answers.

    images ── encode ── visual tokens ─┬─ see ─► scene ─┬─ narrate (instruction, plan) ─► sentence
                       proprioception ─┘                └─ answer (question) ───────────► answer

It has an eye of its own, finer than a policy's, because it has to tell shapes. One SVL does the
rest. It reads the scene off the visual tokens, constrained to what is a scene;
sentences and answers then follow from that scene in spatial tokens, which makes it plain what they
rest on, and lets them be checked against it: what is no sentence of the scene language, or does
not hold of the scene that was read, is told apart (`Said.sound`).

Shapes: N cameras, S pixels of either side of their images, h, w, C of their token grids, K points
of an action chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla_ros.models.config_fields import config_from
from vla_ros.models.part import Part
from vla_ros.models.svl import SVL, Allowed, Generated, fourier
from vla_ros.models.svl_config import EYE, SVLConfig
from vla_ros.models.vision import VisionEncoder, build_encoder, encode_images, fingerprint
from vla_ros.scene_language import questions
from vla_ros.scene_language.actions import LEVELS, ZERO, Action
from vla_ros.scene_language.facts import Fact, Moving, true_of
from vla_ros.scene_language.grounding import MARK
from vla_ros.scene_language.questions import Question
from vla_ros.scene_language.scenes import (
    BIN,
    BINS,
    BOX_LOW,
    FINGER_RANGE,
    Place,
    Scene,
    SceneReader,
    from_tokens,
    place_tokens,
    read_place,
    to_tokens,
)
from vla_ros.scene_language.sentences import parse
from vla_ros.scene_language.vocabulary import (
    BOS,
    COORDINATES,
    EOS,
    IDS,
    PAD,
    TOKENS,
    VERSION,
    decode,
    encode,
    text_of,
    tokens_of,
)

PUNCTUATION = (".", ",", "?")
_POOL = 2  # tokens of either side of a camera's grid that are one feature of the prefix
_STD = 0.02  # of what is learned about places in the picture, at first
_LONGEST_SCENE = 100  # tokens: twelve things
LONGEST_SENTENCE = 120  # with its grounds


@dataclass(frozen=True)
class NarratorConfig:
    """What a narrator is.

    Args:
        language: shape of the SVL.
        vision: the eye's description, see vision.build_encoder; one eye serves all cameras.
        cameras: their names.
        horizon: s, how far ahead the plans reach that it tells of.
        vocabulary: version of the scene language's.

    Raises:
        ValueError: they do not fit each other, or this package.
    """

    language: SVLConfig
    vision: dict
    cameras: tuple[str, ...]
    horizon: float
    vocabulary: int = VERSION

    def __post_init__(self) -> None:
        if isinstance(self.language, Mapping):  # from JSON
            object.__setattr__(self, "language", config_from(SVLConfig, self.language))
        object.__setattr__(self, "cameras", tuple(self.cameras))
        if not 0.0 < self.horizon < math.inf:
            raise ValueError(f"horizon is {self.horizon}: give seconds")
        if (self.vocabulary, self.language.vocab_size) != (VERSION, len(TOKENS)):
            raise ValueError(
                f"a narrator of vocabulary {self.vocabulary} with {self.language.vocab_size} "
                f"tokens, but this package speaks version {VERSION} with {len(TOKENS)}: train it "
                "with this one"
            )

    @classmethod
    def of(
        cls,
        size: str,
        horizon: float,
        vision: dict = EYE,
        cameras: tuple[str, ...] = ("camera",),
        **changes: Any,
    ) -> NarratorConfig:
        """Of `svl.SIZES`; `changes` are of SVLConfig. Raises ValueError: there is no such size."""
        width, count = _prefix_shape(_grid(build_encoder(vision), cameras))
        language = SVLConfig.of(
            size, len(TOKENS), pad=PAD, bos=BOS, eos=EOS, coordinate_groups=COORDINATES,
            prefix_width=width, prefix_tokens=count, **changes,
        )  # fmt: skip
        return cls(language, vision, cameras, horizon)


@dataclass(frozen=True)
class Sight:
    """What was read off a picture; `log_probability` in nats."""

    scene: Scene
    log_probability: float


@dataclass(frozen=True)
class Said:
    """A sentence or an answer.

    Attributes:
        words: and punctuation; places too in answers.
        grounds: spatial tokens of what it rests on, see `scene_language.grounding`.
        log_probability: sum over all these and the end, nats.
        fact: what it says; None if it is no sentence of the scene language.
        sound: whether that holds of the scene that it was said about.
    """

    words: tuple[str, ...]
    grounds: tuple[str, ...]
    log_probability: float
    fact: Fact | None
    sound: bool

    @property
    def text(self) -> str:
        """To be read."""
        return text_of(self.words)


class Narrator(Part):
    """See the module's text."""

    Config = NarratorConfig

    def __init__(self, config: NarratorConfig) -> None:
        super().__init__()
        self.config = config
        self.language = SVL(config.language)
        self.eye = build_encoder(config.vision)
        prefix = (config.language.prefix_width, config.language.prefix_tokens)
        if prefix != _prefix_shape(self.grid):
            raise ValueError(f"a prefix of {prefix} does not fit visual tokens {list(self.grid)}")
        with torch.no_grad():
            self.language.prefix_position += _STD * _places(self.grid, config.language.width)

    geometry_description = None  # it sees by images alone

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names, in the order in which `encode` takes their images."""
        return self.config.cameras

    @property
    def image_size(self) -> int:
        """Pixels of either side of an input image."""
        return self.eye.image_size

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """Shape of the visual tokens: cameras, height, width, channels."""
        return _grid(self.eye, self.config.cameras)

    @property
    def encoder_id(self) -> str:
        """See `vision.fingerprint`."""
        return fingerprint(self.eye)

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Visual tokens float16 [N, h, w, C] of one frame of every camera of `config.cameras`: see
        `vision.encode_images`."""
        return encode_images([self.eye], self.config.cameras, images)

    def see(self, tokens: np.ndarray, proprioception: np.ndarray) -> Sight:
        """The scene that cameras show.

        Args:
            tokens: visual tokens [N, h, w, C].
            proprioception: float [4], tool x, y, z (m, base frame) and finger opening (m).

        Raises:
            ValueError: wrong shapes, NaN or infinity.
        """
        if tokens.shape != self.grid:
            raise ValueError(f"expected visual tokens {list(self.grid)}, got {list(tokens.shape)}")
        if not (np.isfinite(tokens).all() and np.isfinite(proprioception).all()):
            raise ValueError("the observation holds NaN or infinity")
        grid = torch.from_numpy(np.ascontiguousarray(tokens))[None]
        prompt = [*felt_ids(proprioception), IDS["<scene>"]]
        said = self._generate(prompt, _LONGEST_SCENE, prefix_of(grid), _scene_only(len(prompt)))
        return Sight(from_tokens(["<scene>", *decode(said.ids)]), said.log_probability)

    def narrate(self, scene: Scene, plan: Action, instruction: str = "") -> Said:
        """What the gripper is doing.

        Args:
            scene: as it is now.
            plan: see `plan_of`.
            instruction: what the robot was told, or "".

        Raises:
            ValueError: the instruction has unknown words; all of them are named.
        """
        return checked_narration(
            self._say(narration_prompt(scene, plan, instruction), "<text>"), scene
        )

    def describe(self, scene: Scene) -> Said:
        """Something that is true of a scene."""
        said = self._say(["<bos>", *to_tokens(scene), MARK], "<text>")
        return replace(said, sound=true_of(said.fact, scene))

    def answer(self, scene: Scene, question: str) -> Said:
        """The answer to a question about a scene, such as "where is the blue block?".

        Raises:
            ValueError: the question has unknown words (all are named), is none of the scene
                language, or has no answer here, as it is about what is not there.
        """
        asked = questions.parse(question)
        questions.answer(asked, scene)  # raises when there is none
        words = [word for word in tokens_of(question) if word not in PUNCTUATION]
        said = self._say(["<bos>", *to_tokens(scene), "<q>", *words, "?", MARK], "<ans>")
        return checked_answer(said, asked, scene)

    def _say(self, prompt: Sequence[str], mark: str) -> Said:
        said = self._generate(encode(prompt), LONGEST_SENTENCE)
        return said_by(decode(said.ids), mark, said.log_probability)

    def _generate(
        self,
        prompt: list[int],
        most: int,
        prefix: Tensor | None = None,
        allowed: Allowed | None = None,
    ) -> Generated:
        most = min(most, self.language.config.context - len(prompt))
        if prefix is not None:
            prefix = prefix.to(self.language.embed.weight.device)
        (said,) = self.language.generate([prompt], most, prefix=prefix, allowed=allowed)
        return said


# -- what was said ---------------------------------------------------------------------------------


def said_by(tokens: Sequence[str], mark: str, log_probability: float) -> Said:
    """Grounds and, behind the mark, words. Nothing is checked yet: it is not `sound`."""
    cut = tokens.index(mark) if mark in tokens else len(tokens)
    words = tuple(tokens[cut + 1 :])
    try:
        fact = parse(words)
    except ValueError:
        fact = None
    return Said(words, tuple(tokens[:cut]), log_probability, fact, False)


def checked_narration(said: Said, scene: Scene) -> Said:
    """Whether a narration holds of the scene and of where, by its grounds, the gripper will be."""
    after = _expected(scene, said)
    return replace(said, sound=after is not None and true_of(said.fact, scene, after))


def checked_answer(said: Said, asked: Question, scene: Scene) -> Said:
    """Whether an answer is that of the scene; its fact is what is known from it."""
    try:
        given = questions.read_reply(asked, [t for t in said.words if t not in PUNCTUATION])
    except ValueError:
        return replace(said, fact=None)
    fact = questions.fact_of(asked, given)
    return replace(said, fact=fact, sound=given == questions.answer(asked, scene))


def _expected(scene: Scene, said: Said) -> Scene | None:
    """The scene that a narration expects next; None if its grounds do not tell."""
    place = _place_of_gripper(said.grounds)
    if place is None or not isinstance(said.fact, Moving):
        return None
    moved = [scene.holds] if said.fact.verb != "push" else [said.fact.thing]
    way = [b - a for a, b in zip(scene.gripper, place, strict=True)]
    places = {
        name: Place(*(a + d for a, d in zip(scene.place_of(name), way, strict=True)))
        for name in moved
        if name is not None and name in scene
    }
    try:
        return scene.moved(places, gripper=place)
    except ValueError:  # out of the box
        return None


def _place_of_gripper(grounds: Sequence[str]) -> Place | None:
    if tuple(grounds[:1]) != ("<grip>",):
        return None
    try:
        return read_place(grounds[1:4])
    except ValueError:
        return None


# -- what is told to the language ------------------------------------------------------------------


def prefix_of(tokens: Tensor) -> Tensor:
    """Visual tokens [B, N, h, w, C] as features [B, P, D] of the SVL's prefix: squares of 2 x 2
    tokens, camera by camera, as floats."""
    rows, cameras, height, width, channels = tokens.shape
    squares = tokens.float().reshape(
        rows, cameras, height // _POOL, _POOL, width // _POOL, _POOL, channels
    )
    return squares.permute(0, 1, 2, 4, 3, 5, 6).reshape(rows, -1, _POOL * _POOL * channels)


def _places(grid: Sequence[int], width: int) -> Tensor:
    """Where in the picture the features of a prefix are: [P, D], half of it tells the row and half
    the column, as the bins of an axis are told."""
    cameras, *sides, _ = grid
    rows, columns = (fourier(side // _POOL, width // 2) for side in sides)
    rows, columns = torch.broadcast_tensors(rows[:, None], columns[None])
    return torch.cat([rows, columns], dim=-1).flatten(0, 1).repeat(cameras, 1)


def _grid(eye: VisionEncoder, cameras: Sequence[str]) -> tuple[int, int, int, int]:
    return (len(cameras), *eye.grid, eye.channels)


def _prefix_shape(grid: Sequence[int]) -> tuple[int, int]:
    cameras, height, width, channels = grid
    if height % _POOL or width % _POOL:
        raise ValueError(f"visual tokens {list(grid)}: a grid needs even sides")
    return _POOL * _POOL * channels, cameras * (height // _POOL) * (width // _POOL)


def felt_ids(proprioception: np.ndarray) -> list[int]:
    """Prompt that tells what the robot feels: `<bos> <grip>`, the opening as an action level, and
    the tool's place, which is the nearest of the box if it is outside."""
    level = round(float(np.clip(proprioception[3] / FINGER_RANGE, 0, 1)) * (LEVELS - 1))
    place = nearest_place(proprioception[:3])
    return encode(["<bos>", "<grip>", f"<a{level}>", *place_tokens(place)])


def nearest_place(point: Sequence[float]) -> Place:
    """The bin of a point [3], m, base frame; outside the box, the nearest one of it."""
    low = np.array(BOX_LOW)
    high = low + np.array(BIN) * BINS
    return Place.of_metres(np.clip(point, low, high - 1e-6))


def plan_of(proprioception: np.ndarray, point: np.ndarray) -> Action:
    """The motion that a robot was told, in bins.

    Args:
        proprioception: float [4], tool x, y, z (m, base frame) and finger opening (m).
        point: float [4] of an action chunk: offset of the tool from there, m, and finger opening.
    """
    now = nearest_place(proprioception[:3])
    then = nearest_place(np.asarray(proprioception[:3]) + point[:3])
    ways = (min(max(b - a, -ZERO), LEVELS - ZERO - 1) for a, b in zip(now, then, strict=True))
    return Action(*ways, Action.of_metres(np.zeros(3), float(point[3])).fingers)


def narration_prompt(scene: Scene, plan: Action, instruction: str) -> list[str]:
    """Tokens that a narration follows: those of a story of kind "narrate".

    Raises:
        ValueError: the instruction has unknown words.
    """
    told = [word for word in tokens_of(instruction) if word not in PUNCTUATION]
    begin = ["<bos>", "<text>", *told, "."] if told else ["<bos>"]
    return [*begin, *to_tokens(scene), *plan.to_tokens(), MARK]


def _scene_only(begin: int) -> Allowed:
    """Allows what is a scene, from place `begin` - 1 of a row on."""
    reader, read = SceneReader(), begin - 1

    def allowed(row: Sequence[int]) -> list[int]:
        nonlocal read
        for token in decode(row[read:]):
            reader.take(token)
        read = len(row)
        return [EOS] if reader.complete else [IDS[token] for token in reader.allowed]

    return allowed
