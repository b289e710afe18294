"""Sentences: facts, actions and whole scenes in many phrasings, and what a sentence says."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from vla_ros.scene_language.actions import CLOSED, OPEN, Action
from vla_ros.scene_language.facts import (
    Coloured,
    Counted,
    Fact,
    Fingers,
    Happened,
    Holding,
    Moving,
    Placed,
    Present,
    Related,
)
from vla_ros.scene_language.phrases import Values
from vla_ros.scene_language.scenes import GRIPPER, Name, Place, Scene, Thing
from vla_ros.scene_language.vocabulary import tokens_of
from vla_ros.scene_language.wording import GRAMMAR, VERBS

# -- facts and what their templates are filled with -----------------------------------------------


def relation_values(relation: str, landmarks: tuple[Name, ...]) -> dict:
    """What the slots of a relation are filled with."""
    if relation == "between":
        return {"landmark": landmarks[0], "landmark2": landmarks[1]}
    return {"relation": relation, "landmark": landmarks[0]}


def _statement(fact: Fact | Action) -> tuple[object, dict]:
    """Kind and values of a statement."""
    if isinstance(fact, Related):
        kind = "amid" if fact.relation == "between" else "related"
        subject = {"subject": fact.subject, "some": fact.subject}
        return kind, subject | relation_values(fact.relation, fact.landmarks)
    if isinstance(fact, Placed):
        bins = {f"bin{i + 1}": value for i, value in enumerate(fact.place)}
        return "placed", bins | {"subject": fact.subject, "some": fact.subject}
    if isinstance(fact, Fingers):
        return "fingers", {"fingers": fact.open}
    if isinstance(fact, Holding):
        return ("empty", {}) if fact.thing is None else ("holding", {"thing": fact.thing})
    if isinstance(fact, Present):
        return "present", {"some": fact.subject}
    if isinstance(fact, Counted):
        if fact.number == 1:
            return "one", {"kind": fact.kind}
        return "counted", {"kinds": fact.kind, "number": fact.number}
    if isinstance(fact, Coloured):
        return "coloured", {"shape": fact.shape, "color": fact.color}
    return _change(fact)


def _change(fact: Moving | Happened | Action) -> tuple[object, dict]:
    if isinstance(fact, Happened):
        values = {"thing": fact.thing}
        if fact.where is None:
            return (fact.event, ""), values
        end = "amid" if fact.where.relation == "between" else "by"
        return (fact.event, end), values | relation_values(
            fact.where.relation, fact.where.landmarks
        )
    if isinstance(fact, Moving):
        if fact.verb == "stay":
            return "stay", {}
        values, end = {"direction": fact.direction, "thing": fact.thing}, ""
        if fact.target is not None:
            values["thing2"], end = fact.target, "target"
        if fact.which is not None:
            end += " amid" if fact.which.relation == "between" else " which"
            values |= relation_values(fact.which.relation, fact.which.landmarks)
        return (fact.verb, end), values
    values = {"bin4": fact.fingers}
    ways = ((1, "forth", fact.dx), (2, "aside", fact.dy), (3, "upward", fact.dz))
    for number, sign, way in ways:
        values |= {f"bin{number}": abs(way), sign: -1 if way < 0 else 1}
    return ("action", {CLOSED: "close", OPEN: "open"}.get(fact.fingers, "set")), values


def relation_of(subject: object, values: Values) -> Related | None:
    """The relation of `subject` that `relation_values` tell; None if they tell none.

    Raises:
        ValueError: there is no such relation, as of a thing with itself.
    """
    if "landmark2" in values:
        return Related(subject, "between", (values["landmark"], values["landmark2"]))
    if "relation" in values:
        return Related(subject, values["relation"], (values["landmark"],))
    return None


def _subject(values: Values) -> object:
    return values["subject"] if "subject" in values else values["some"]


def _action_of(kind: tuple[str, str], v: Values) -> Action:
    fingers = {"close": CLOSED, "open": OPEN}.get(kind[1], v.get("bin4"))
    return Action(v["bin1"] * v["forth"], v["bin2"] * v["aside"], v["bin3"] * v["upward"], fingers)


_READERS: dict[str, Callable[[Values], Fact]] = {
    "related": lambda v: relation_of(_subject(v), v),
    "amid": lambda v: relation_of(_subject(v), v),
    "placed": lambda v: Placed(_subject(v), Place(v["bin1"], v["bin2"], v["bin3"])),
    "fingers": lambda v: Fingers(v["fingers"]),
    "holding": lambda v: Holding(v["thing"]),
    "empty": lambda v: Holding(None),
    "present": lambda v: Present(v["some"]),
    "one": lambda v: Counted(v["kind"], 1),
    "counted": lambda v: Counted(v["kinds"], v["number"]),
    "coloured": lambda v: Coloured(v["shape"], v["color"]),
    "stay": lambda v: Moving("stay"),
}


def _fact_of(kind: object, values: Values) -> Fact | Action:
    if isinstance(kind, str):
        return _READERS[kind](values)
    if kind[0] == "action":
        return _action_of(kind, values)
    if kind[0] in VERBS:
        target = values.get("thing2")
        which = relation_of(target, values)
        return Moving(kind[0], values["direction"], values.get("thing"), target, which)
    return Happened(kind[0], values["thing"], relation_of(values["thing"], values))


# -- sentences ------------------------------------------------------------------------------------


def say(fact: Fact | Action, rng: random.Random | None = None) -> list[str]:
    """Words and punctuation of a sentence for `fact`: the first phrasing, or one of `rng`.

    Raises:
        ValueError: there are no words for it, such as for 13 things.
    """
    return [*GRAMMAR.say(*_statement(fact), rng), "."]


def phrasings(fact: Fact | Action) -> Iterator[list[str]]:
    """All sentences for `fact`."""
    for words in GRAMMAR.phrasings(*_statement(fact)):
        yield [*words, "."]


def parse(sentence: str | Sequence[str]) -> Fact | Action:
    """The fact or action that a sentence (text, or its tokens) says; case and punctuation are free.

    Raises:
        ValueError: it has words that are not in the vocabulary (all are named), or it is no
            sentence of the grammar, or what it says cannot be (a cube left of itself).
    """
    words = tokens_of(sentence) if isinstance(sentence, str) else sentence
    found, problem = set(), "is no sentence of the scene language"
    for kind, values in GRAMMAR.parse(words):
        try:
            found.add(_fact_of(kind, values))
        except ValueError as error:
            problem = f"says what cannot be: {error}"
    if len(found) != 1:
        raise ValueError(
            f"'{' '.join(words)}' {problem}: say it as in 'the red cube is left of the bowl' or "
            "'the gripper is moving left toward the red cube'"
        )
    return found.pop()


def facts_of(scene: Scene) -> list[Fact]:
    """The facts that determine a scene: all places, then the gripper and what it does."""
    placed = [Placed(thing.name, thing.place) for thing in scene.things]
    return [*placed, Placed(GRIPPER, scene.gripper), _hand(scene)]


def _hand(scene: Scene) -> Fact:
    return Fingers(scene.open) if scene.holds is None else Holding(scene.holds)


def tell(scene: Scene, rng: random.Random | None = None) -> list[str]:
    """A text that determines `scene`: a sentence for each of `facts_of`.

    Args:
        scene: what to tell.
        rng: chooses the phrasings; the first ones if left out.
    """
    return [word for fact in facts_of(scene) for word in say(fact, rng)]


def tell_changes(before: Scene, after: Scene, rng: random.Random | None = None) -> list[str]:
    """A text that says where `after` differs: things that are elsewhere, and all of the gripper."""
    pairs = zip(before.things, after.things, strict=True)
    facts = [Placed(new.name, new.place) for old, new in pairs if old != new]
    facts += [Placed(GRIPPER, after.gripper), _hand(after)]
    return [word for fact in facts for word in say(fact, rng)]


def read(text: str | Sequence[str], before: Scene | None = None) -> Scene:
    """The scene of a text as `tell` makes it, or, with `before`, as `tell_changes` does.

    Raises:
        ValueError: a sentence cannot be read (see `parse`), says something else than a place or the
            gripper's state, contradicts another, or one is missing.
    """
    words = tokens_of(text) if isinstance(text, str) else list(text)
    places: dict[object, Place] = {}
    hand: Fingers | Holding | None = None
    for sentence in _sentences(words):
        fact = parse(sentence)
        if isinstance(fact, Placed) and fact.subject not in places:
            places[fact.subject] = fact.place
        elif isinstance(fact, Fingers | Holding) and hand is None:
            hand = fact
        else:
            raise ValueError(f"'{' '.join(sentence)}' is said twice or does not describe a scene")
    if GRIPPER not in places or hand is None or hand == Holding(None):
        raise ValueError("the text does not say where the gripper is and whether it is open")
    state = {"gripper": places.pop(GRIPPER), "open": hand == Fingers(True)}
    state["holds"] = hand.thing if isinstance(hand, Holding) else None
    if before is None:
        return Scene(tuple(Thing(name, place) for name, place in places.items()), **state)
    for name in places:
        before.place_of(name)
    return before.moved(places, **state)


def _sentences(words: Sequence[str]) -> Iterator[list[str]]:
    sentence: list[str] = []
    for word in words:
        if word != ".":
            sentence.append(word)
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence
