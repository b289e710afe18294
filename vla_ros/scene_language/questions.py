"""Questions about a scene, their words, and the one answer that each has."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vla_ros.scene_language.facts import (
    Coloured,
    Counted,
    Fact,
    Fingers,
    Holding,
    Placed,
    Present,
    Related,
    checked_landmarks,
    count,
    holds,
    related,
    where,
)
from vla_ros.scene_language.phrases import Grammar
from vla_ros.scene_language.scenes import Name, Place, Scene, place_tokens, read_place
from vla_ros.scene_language.sentences import relation_of, relation_values
from vla_ros.scene_language.vocabulary import tokens_of
from vla_ros.scene_language.wording import AMID, BY, SLOTS


@dataclass(frozen=True)
class Where:
    """Where is it? The answer is the fact that `where` finds: Related, Holding or Placed."""

    subject: Name


@dataclass(frozen=True)
class What:
    """What is left of the bowl? The answer is a name, or None if nothing is."""

    relation: str
    landmarks: tuple[Name, ...]

    def __post_init__(self) -> None:
        landmarks = checked_landmarks(self.relation, self.landmarks)
        object.__setattr__(self, "landmarks", landmarks)


@dataclass(frozen=True)
class Is:
    """Is it so? The answer is True or False."""

    fact: Related | Holding | Fingers | Present


@dataclass(frozen=True)
class HowMany:
    """How many things of this shape or colour (or "thing") are there? The answer is a number."""

    kind: str


@dataclass(frozen=True)
class WhatColor:
    """Which colour has the only thing of this shape? The answer is the colour."""

    shape: str


@dataclass(frozen=True)
class WhatHeld:
    """What does the gripper hold? The answer is a name, or None."""


@dataclass(frozen=True)
class WhichPlace:
    """In which bin is it? The answer is a Place."""

    subject: Name


Question = Where | What | Is | HowMany | WhatColor | WhatHeld | WhichPlace
Answer = Fact | Place | Name | bool | int | str | None


def answer(question: Question, scene: Scene) -> Answer:
    """The answer to `question`, of the type that the question's class tells.

    Raises:
        ValueError: it has none or several answers here: a thing is not there, or several things are
            (they are named).
    """
    if isinstance(question, Where):
        return where(question.subject, scene)
    if isinstance(question, WhichPlace):
        return scene.place_of(question.subject)
    if isinstance(question, HowMany):
        return count(question.kind, scene)
    if isinstance(question, WhatHeld):
        return scene.holds
    if isinstance(question, Is):
        return holds(question.fact, scene)
    names = _fitting(question, scene)
    if len(names) > 1:
        raise ValueError(f"there is more than one: {', '.join(map(str, names))}")
    if isinstance(question, What):
        return names[0] if names else None
    if not names:
        raise ValueError(f"there is no {question.shape} in this scene")
    return names[0].color


def _fitting(question: What | WhatColor, scene: Scene) -> list[Name]:
    names = [thing.name for thing in scene.things]
    if isinstance(question, WhatColor):
        return [name for name in names if name.shape == question.shape]
    for landmark in question.landmarks:
        scene.place_of(landmark)
    others = [name for name in names if name not in question.landmarks]
    return [n for n in others if related(question.relation, n, question.landmarks, scene)]


def fact_of(question: Question, answer: Answer) -> Fact | None:
    """What is known from an answer; None if it is only that something is not so."""
    if isinstance(question, Where):
        return answer
    if isinstance(question, WhichPlace):
        return Placed(question.subject, answer)
    if isinstance(question, HowMany):
        return Counted(question.kind, answer)
    if isinstance(question, WhatColor):
        return Coloured(question.shape, answer)
    if isinstance(question, WhatHeld):
        return Holding(answer)
    if isinstance(question, Is):
        return question.fact if answer else None
    return None if answer is None else Related(answer, question.relation, question.landmarks)


def asked_for(fact: Fact) -> list[tuple[Question, Answer]]:
    """The questions with the answers from which `fact_of` knows `fact`.

    Whether the answer is the only one (What, WhatColor) or the best one (Where), the scene decides.
    """
    if isinstance(fact, Related):
        what = What(fact.relation, fact.landmarks)
        return [(Is(fact), True), (what, fact.subject), (Where(fact.subject), fact)]
    if isinstance(fact, Holding):
        asked = [(Is(fact), True), (WhatHeld(), fact.thing)]
        return asked if fact.thing is None else [*asked, (Where(fact.thing), fact)]
    if isinstance(fact, Placed):
        return [(WhichPlace(fact.subject), fact.place), (Where(fact.subject), fact)]
    if isinstance(fact, Counted):
        return [(HowMany(fact.kind), fact.number)]
    if isinstance(fact, Coloured):
        return [(WhatColor(fact.shape), fact.color)]
    return [(Is(fact), True)] if isinstance(fact, Fingers | Present) else []


# -- words ----------------------------------------------------------------------------------------


def _whats(by: str) -> list[str]:
    return [f"what is {by}", f"which thing is {by}", f"what do you see {by}", f"what stands {by}"]


def _ises(by: str) -> list[str]:
    return [
        f"is {{subject}} {by}",
        f"is it true that {{subject}} is {by}",
        f"do you see {{subject}} {by}",
        f"can you find {{subject}} {by}",
    ]


GRAMMAR = Grammar(
    SLOTS,
    {
        "where": [
            "where is {subject}",
            "where can i find {subject}",
            "where do you see {subject}",
            "tell me where {subject} is",
        ],
        "what": _whats(BY),
        "what amid": _whats(AMID),
        "is": _ises(BY),
        "is amid": _ises(AMID),
        "is holding": [
            "does the gripper hold {thing}",
            "is the gripper holding {thing}",
            "is {thing} in the gripper",
        ],
        "is empty": ["is the gripper empty", "does the gripper hold nothing"],
        "is fingers": ["is the gripper {fingers}", "is the hand {fingers}"],
        "is present": ["is there {some}", "do you see {some}", "can you see {some}"],
        "how many": [
            "how many {kinds} are there",
            "how many {kinds} do you see",
            "count the {kinds}",
        ],
        "color": [
            "what color is the {shape}",
            "what colour is the {shape}",
            "which color has the {shape}",
            "what is the color of the {shape}",
        ],
        "held": [
            "what does the gripper hold",
            "what is in the gripper",
            "what is the gripper holding",
        ],
        "place": [
            "in which row and column is {subject}",
            "at which place is {subject}",
            "give me the row , column and height of {subject}",
        ],
    },
)
ANSWERS = Grammar(
    SLOTS,
    {
        "holding": ["in the gripper"],  # before a relation, which would be "inside"
        "related": [BY],
        "amid": [AMID],
        "place": ["row {bin1} , column {bin2} , height {bin3}"],
        "name": ["{thing}"],
        "nothing": ["nothing"],
        "yes": ["yes"],
        "no": ["no"],
        "number": ["{number}"],
        "color": ["{color}"],
    },
)
# What an answer to a question may be.
_KINDS = {
    Where: ("holding", "related", "amid", "place"),
    What: ("name", "nothing"),
    Is: ("yes", "no"),
    HowMany: ("number",),
    WhatColor: ("color",),
    WhatHeld: ("name", "nothing"),
    WhichPlace: ("place",),
}


def _statement(question: Question) -> tuple[str, dict]:
    if isinstance(question, Where | WhichPlace):
        kind = "where" if isinstance(question, Where) else "place"
        return kind, {"subject": question.subject}
    if isinstance(question, What):
        kind = "what amid" if question.relation == "between" else "what"
        return kind, relation_values(question.relation, question.landmarks)
    if isinstance(question, HowMany):
        return "how many", {"kinds": question.kind}
    if isinstance(question, WhatColor):
        return "color", {"shape": question.shape}
    if isinstance(question, WhatHeld):
        return "held", {}
    fact = question.fact
    if isinstance(fact, Related):
        kind = "is amid" if fact.relation == "between" else "is"
        return kind, relation_values(fact.relation, fact.landmarks) | {"subject": fact.subject}
    if isinstance(fact, Holding):
        return ("is empty", {}) if fact.thing is None else ("is holding", {"thing": fact.thing})
    if isinstance(fact, Fingers):
        return "is fingers", {"fingers": fact.open}
    return "is present", {"some": fact.subject}


def _question_of(kind: str, values: dict) -> Question:
    if kind in ("is", "is amid"):
        return Is(relation_of(values["subject"], values))
    if kind in ("what", "what amid"):
        landmarks = tuple(values[k] for k in ("landmark", "landmark2") if k in values)
        return What(values.get("relation", "between"), landmarks)
    return {
        "where": lambda: Where(values["subject"]),
        "place": lambda: WhichPlace(values["subject"]),
        "how many": lambda: HowMany(values["kinds"]),
        "color": lambda: WhatColor(values["shape"]),
        "held": WhatHeld,
        "is holding": lambda: Is(Holding(values["thing"])),
        "is empty": lambda: Is(Holding(None)),
        "is fingers": lambda: Is(Fingers(values["fingers"])),
        "is present": lambda: Is(Present(values["some"])),
    }[kind]()


def ask(question: Question, rng: random.Random | None = None) -> list[str]:
    """Words of a question and "?": the first phrasing, or one that `rng` chooses."""
    return [*GRAMMAR.say(*_statement(question), rng), "?"]


def phrasings(question: Question) -> Iterator[list[str]]:
    """All that `ask` may return."""
    for words in GRAMMAR.phrasings(*_statement(question)):
        yield [*words, "?"]


def parse(text: str | Sequence[str]) -> Question:
    """The question that a text, or its tokens, asks; case and punctuation are free.

    Raises:
        ValueError: it has words that are not in the vocabulary (all are named), or is no question
            of the grammar.
    """
    words = tokens_of(text) if isinstance(text, str) else text
    found, problem = set(), "is no question that the scene language knows"
    for kind, values in GRAMMAR.parse(words):
        try:
            found.add(_question_of(kind, values))
        except ValueError as error:
            problem = f"asks what cannot be: {error}"
    if len(found) != 1:
        raise ValueError(
            f"'{' '.join(words)}' {problem}: ask as in 'where is the blue cube?', 'what is behind "
            "the bowl?' or 'how many cubes are there?'"
        )
    return found.pop()


def reply(question: Question, answer: Answer, spatial: bool = False) -> list[str]:
    """The words of an answer, always the same ones.

    Args:
        question: what was asked.
        answer: as `answer` gives it.
        spatial: tell places by their three tokens instead of by row, column and height.
    """
    if isinstance(answer, Placed):
        answer = answer.place
    if isinstance(answer, Place):
        if spatial:
            return place_tokens(answer)
        bins = {f"bin{i + 1}": value for i, value in enumerate(answer)}
        return ANSWERS.say("place", bins)
    if isinstance(answer, Related):
        kind = "amid" if answer.relation == "between" else "related"
        return ANSWERS.say(kind, relation_values(answer.relation, answer.landmarks))
    if isinstance(answer, Holding):
        return ANSWERS.say("holding", {})
    if isinstance(answer, bool):
        return ["yes" if answer else "no"]
    if isinstance(answer, int):
        return ANSWERS.say("number", {"number": answer})
    if isinstance(answer, Name):
        return ANSWERS.say("name", {"thing": answer})
    return ["nothing" if answer is None else answer]


def read_reply(question: Question, words: str | Sequence[str]) -> Answer:
    """The answer that `words` (a text, or tokens, also spatial ones) gives to `question`.

    Raises:
        ValueError: unknown words (all are named), or no answer to this question.
    """
    words = tokens_of(words) if isinstance(words, str) else list(words)
    if len(words) == 3 and all(word.startswith("<") for word in words):
        found = [("place", {f"bin{i + 1}": bin_ for i, bin_ in enumerate(read_place(words))})]
    else:
        found = ANSWERS.parse(words)
    for kind, values in found:
        if kind in _KINDS[type(question)]:
            return _answer_of(question, kind, values)
    raise ValueError(f"'{' '.join(words)}' is no answer to '{' '.join(ask(question))}'")


def _answer_of(question: Question, kind: str, values: dict) -> Answer:
    if kind == "place":
        place = Place(values["bin1"], values["bin2"], values["bin3"])
        return Placed(question.subject, place) if isinstance(question, Where) else place
    if kind in ("related", "amid"):
        return relation_of(question.subject, values)
    if kind == "holding":
        return Holding(question.subject)
    if kind in ("yes", "no"):
        return kind == "yes"
    return None if kind == "nothing" else values["thing" if kind == "name" else kind]
