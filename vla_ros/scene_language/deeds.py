"""What an instruction asks to be done with a thing: the family of the task, and the direction.

By the words that are left when the noun phrases are taken out. Other people's verbs are many, so
what is not understood is no error: a policy may know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros.scene_language.reference_words import NEAREST
from vla_ros.scene_language.references import Reference
from vla_ros.scene_language.scenes import PAD


@dataclass(frozen=True)
class Deed:
    """One of instructions.FAMILIES, and of DIRECTIONS for "push"."""

    family: str
    direction: str = ""


PUSHING = frozenset(
    {"push", "slide", "shove", "nudge", "scoot", "shift", "bump", "sweep", "poke", "tap", "knock"}
)
_PUSHING = PUSHING | {"drag", "press", "drive", "budge", "steer", "force", "roll", "pull", "ease"}
_MOVING = frozenset(
    {"move", "bring", "send", "get", "make", "have", "go", "need", "belong", "should", "want"}
    | {"give", "want", "like", "put", "take", "carry", "let", "draw", "haul", "moved", "prod"}
)
TAKING = frozenset(
    {"pick", "lift", "grab", "grasp", "grip", "raise", "hoist", "elevate", "seize", "catch"}
)
_TAKING = TAKING | {
    *("clutch", "collect", "fetch", "remove", "scoop", "snatch", "pluck", "hold", "retrieve"),
    *("hand", "pass"),
}
_LIFTING = _TAKING - {"hold", "hand", "pass", "grasp"}  # whatever is said of the hand
_SHIFTING = _PUSHING | _MOVING
_GETTING = frozenset({"get", "take", "give", "bring", "pull", "have", "need", "want", "close"})
_LOOKING = frozenset({"find", "locate", "show", "reach", "hover", "touch", "point", "approach"})
_REACHING = frozenset(
    {"reach", "hover", "touch", "point", "approach", "find", "locate", "float", "aim", "tap"}
    | _LOOKING
    | {"poke", "stretch", "extend", "travel", "wait", "stay", "stop", "stand", "position", "come"}
    | {"show", "align", "line", "center", "centre", "head", "go", "prod", "contact", "indicate"}
    | {"move", "be", "put", "place", "keep", "bring", "get", "lower", "feel", "see", "tip"}
)
PLACING = frozenset(
    {
        *("put", "place", "set", "drop", "lay", "leave", "rest", "stick", "deposit", "release"),
        *("stack", "deliver", "transfer", "transport", "relocate", "park", "move", "bring"),
        *("carry", "send", "toss", "throw", "dump", "store", "pop", "chuck", "insert", "add"),
        *("goes", "belongs", "should", "needs", "sit", "take", "get", "have", "want", "need"),
    }
)
_PLACING = PLACING | {
    *("go", "belong", "like", "position", "fill", "cover", "land", "fall", "let", "make", "end"),
    *("see", "tip", "plop", "tuck", "plant", "tidy", "return", "would", "i'd", "wants", "must"),
    *("has", "ought", "be", "load", "lower", "shift", "slide", "plunk", "keep"),
}
_INTO = frozenset({"into", "onto", "to"})
_IN = frozenset({"in", "on", "inside", "within", "at", "over", "upon", "atop", "above"})
_OF = (
    *(("on", "top"), ("in", "the", "middle"), ("in", "the", "center"), ("inside",)),
    *(("in", "the", "centre"), ("to", "the", "top"), ("the", "top"), ("the", "middle")),
)
_WHERE = frozenset({"next", "close", "near", "adjacent", "left", "right", *NEAREST})
_HANDS = frozenset({"gripper", "hand", "arm", "claw", "tool", "yourself", "fingers", "effector"})
_IRREGULAR = {
    **{"took": "take", "taken": "take", "held": "hold", "brought": "bring", "gone": "go"},
    **{"goes": "go", "laid": "lay", "left": "left", "slid": "slide", "sent": "send"},
    **{"gotten": "get", "got": "get", "caught": "catch", "given": "give", "stuck": "stick"},
    **{"found": "find", "shown": "show", "has": "has", "lying": "lie", "laying": "lay"},
    **{"driven": "drive", "thrown": "throw", "swept": "sweep", "sought": "seek"},
}
_KNOWN = _PUSHING | _MOVING | _TAKING | _GETTING | _REACHING | _PLACING
_ROBOTS = frozenset({"you", "yourself", "robot", "base", "body", "yours", "arm"})
_LEFT = frozenset({"left", "leftward", "leftwards"})
_RIGHT = frozenset({"right", "rightward", "rightwards"})
_AWAY = frozenset({"away", "forward", "forwards", "ahead", "out", "outward", "outwards", "onward"})
_BACK = frozenset({"back", "backward", "backwards", "inward", "inwards", "in"})
_MORE = frozenset({"further", "farther"})
_NEARER = frozenset({"closer", "nearer", "near", "toward", "towards"})
_THING, _FIXTURE = "<thing>", "<fixture>"
_ALWAYS = frozenset({"beside", "next", "above", "over", "in", "on", "by", "near", "behind"})


def verb(word: str) -> str:
    """The verb that a word is a form of, or the word."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _KNOWN:
        return word
    for ending in ("ing", "ed", "es", "s"):
        stem = word.removesuffix(ending)
        if stem == word:
            continue
        for form in (stem, stem + "e", stem[:-1]):
            if form in _KNOWN:
                return form
    return word


def deed_of(
    words: Sequence[str], found: Sequence[Reference], passed_over: set[int]
) -> tuple[Deed | None, set[int], Reference | None]:
    """What is to be done, which tokens said so (without the verb), and where to put it."""
    items = _items(words, found, passed_over)
    said = [word for word, _ in items]
    verbs = {verb(word) for word in said}
    hand = _hand(said)
    has_thing = _THING in said
    used: set[int] = set()
    if hand and not verbs & _LIFTING and not _fixture_places(items, verbs):
        return (Deed("reach") if has_thing else None), used, None
    places = _fixture_places(items, verbs)
    if has_thing and places and not (verbs & {"push"} and _directions(items)[0]):
        if verbs & (_PLACING | _TAKING | _PUSHING | _GETTING) or len(said) <= 8:
            fixtures = {fixture for _, fixture in places}
            if len(fixtures) != 1 or {"left", "right"} & _directions(items)[0]:
                return None, used, None
            for positions, _ in places:
                used |= positions
            at = _named_at(found, used)
            return Deed("pad" if fixtures == {PAD} else "bowl"), used, at
    directions, positions = _directions(items)
    if has_thing and directions and verbs & (_PUSHING if directions == {"?"} else _SHIFTING):
        if len(directions) == 1 and "?" not in directions:
            return Deed("push", directions.pop()), positions, None
        return None, used, None
    if not has_thing:
        return (Deed("reach") if _FIXTURE in said and verbs & _REACHING else None), used, None
    return _at_the_thing(said, verbs), used, None


def _at_the_thing(said: list[str], verbs: set[str]) -> Deed | None:
    """Picking it up or reaching for it."""
    text = " ".join(said)
    if "leave the table" in text or "in your gripper" in text or "in your hand" in text:
        return Deed("pick")
    if verbs & _LOOKING and not verbs & _LIFTING:
        return Deed("reach")
    if verbs & (_PUSHING - {"poke", "tap", "bump", "press"}) - {"pull"}:
        return None  # where to?
    if "get ready" in text or "be ready" in text:
        return Deed("reach")
    if verbs & _TAKING or "air" in verbs or "lifted" in said:
        return Deed("pick")
    near = any(f"{word} {_THING}" in text for word in ("to", "near", "above", "over", "toward"))
    near = near or any(f"{word} {_THING}" in text for word in ("towards", "at", "for", "by", "top"))
    near = near or any(f"{word} {_THING}" in text for word in ("of", "close", "next", "with"))
    if verbs & _GETTING and not near:
        return Deed("pick") if verbs & _GETTING - {"need", "want"} or "up" in said else None
    if "of" in said and "hold" in verbs:
        return Deed("pick")
    if verbs & {"move", "bring", "put", "place"} and not near and "up" not in said:
        return None
    if "up" in said and verbs & {"move", "bring", "come", "pull"} and "line" not in verbs:
        return Deed("pick")
    return Deed("reach") if verbs & _REACHING else None


def _items(
    words: Sequence[str], found: Sequence[Reference], passed_over: set[int]
) -> list[tuple[str, set[int] | Reference]]:
    """The words, with things and fixtures in the place of their noun phrases."""
    begins = {r.begin: r for r in found}
    items, at = [], 0
    has_thing = any(r.fixture is None for r in found)
    while at < len(words):
        if at in begins:
            reference = begins[at]
            items.append((_THING if reference.fixture is None else _FIXTURE, reference))
            at = max(reference.end, at + 1)
            continue
        word = words[at]
        if at not in passed_over:
            it = word in ("it", "them") or word in ("this", "that") and not has_thing
            items.append((_THING if it and not has_thing else word, {at}))
        at += 1
    return items


def _positions(item: tuple[str, set[int] | Reference]) -> set[int]:
    where = item[1]
    return set(range(where.begin, where.end)) if isinstance(where, Reference) else where


def _hand(said: list[str]) -> bool:
    """Whether the robot's hand is what is to be moved, not what it is to be done with."""
    for at, word in enumerate(said):
        if word not in _HANDS or said[at + 1 : at + 2] in (["side"], ["me"]):
            continue
        before = said[max(0, at - 2) : at]
        if {"with", "in", "use", "into", "using", "from", "to", "toward", "towards"} & set(before):
            continue
        if word == "arm" and (at == 0 or said[at - 1] in (",", "robot")):
            continue
        return True
    return False


def _fixture_places(items: list, verbs: set[str]) -> list[tuple[set[int], object]]:
    """Where a fixture is named as the place to put something, with the words for it."""
    places = []
    for at, item in enumerate(items):
        if item[0] != _FIXTURE:
            continue
        before = [word for word, _ in items[max(0, at - 4) : at]]
        if before[-1:] == ["to"] and before[-2:-1] and before[-2] in _WHERE:
            continue  # "next to the bowl" is beside it
        if before[-1:] == ["of"]:
            for text in _OF:
                if tuple(before[-1 - len(text) : -1]) == text:
                    before = [*before[: -1 - len(text)], "on"]
                    break
        if before and before[-1] in ("in", "on") and before[-2:-1] == ["down"]:
            pass
        dynamic = bool(before) and before[-1] in _INTO
        static = bool(before) and before[-1] in _IN and bool(verbs & _PLACING)
        behind = [word for word, _ in items[at + 1 : at + 3]]
        is_where = behind in (["is", "where"], ["needs", _THING], ["should", "have"])
        filled = bool(verbs & {"fill", "cover", "load"}) and _THING in [w for w, _ in items]
        short = len(items) <= 4 and bool(before) and before[-1] in _IN
        if dynamic or static or is_where or filled or short:
            positions = _positions(item) | (_positions(items[at - 1]) if before else set())
            places.append((positions, item[1].fixture))
    return places or _by_pronoun(items, verbs)


def _by_pronoun(items: list, verbs: set[str]) -> list[tuple[set[int], object]]:
    """ "put the ball by the bowl into it", "see the mat? put the ball on it"."""
    named: list[Reference] = []
    for at, (word, what) in enumerate(items):
        if isinstance(what, Reference):
            named += [r for r in (what, *what.landmarks) if r.fixture is not None]
        if word not in ("it", "there") or not at or len({r.fixture for r in named}) != 1:
            continue
        into = items[at - 1][0]
        if into in _INTO | {"in", "on", "inside"} and verbs & (_PLACING | _TAKING | _PUSHING):
            return [(_positions(items[at]) | _positions(items[at - 1]), named[0].fixture)]
    return []


def _named_at(found: Sequence[Reference], used: set[int]) -> Reference | None:
    return next((r for r in found if r.fixture is not None and r.begin in used), None)


def _directions(items: list) -> tuple[set[str], set[int]]:
    """The directions that are said, "?" for one that depends on a thing, and the tokens of them."""
    said = [word for word, _ in items]
    found: set[str] = set()
    used: set[int] = set()
    for at, word in enumerate(said):
        after = [w for w in said[at + 1 : at + 4] if w not in ("the", "your", "own")]
        next_word = after[0] if after else ""
        direction = ""
        if word in _LEFT or word in _RIGHT:
            if next_word == "of" and after[1:2] != ["you"]:
                continue
            adverb = next_word in _ALWAYS or next_word in ("away", "now", "there", "here", "up")
            if word == "right" and adverb and said[at - 1 : at] not in (["the"], ["your"]):
                continue
            direction = "left" if word in _LEFT else "right"
            if said[max(0, at - 1) : at] == ["my"]:
                direction = "?"
        elif word in _AWAY or word in _MORE:
            if said[at - 1 : at] == ["right"] and word == "away":
                continue
            if word == "out" and next_word in ("of", "to", "for"):
                continue
            if word == "ahead" and said[at - 1 : at] == ["go"]:
                continue
            direction = "away"
            if word in _MORE and next_word == "to" and not {*_LEFT, *_RIGHT} & set(after[1:2]):
                pass
            elif word in _MORE and next_word in (
                *_LEFT,
                *_RIGHT,
                *_BACK,
                "to",
                "toward",
                "towards",
            ):
                continue
            if next_word == "from" and not _ROBOTS & set(after[1:2]):
                direction = "?"
        elif word in _NEARER:
            if next_word in ("to",) and _ROBOTS & set(after[1:2]) or _ROBOTS & {next_word}:
                direction = "closer"
            elif word in ("closer", "nearer") and next_word != "to":
                direction = "closer"
            elif next_word in (_THING, _FIXTURE) or after[1:2] in ([_THING], [_FIXTURE]):
                direction = "?" if word != "near" else ""
        elif word in _BACK and (word != "in" or at == len(said) - 1):
            direction = "closer"
        if direction:
            found.add(direction)
            for item in items[max(0, at - 2) : at + 1]:
                used |= _positions(item) if item[0] not in (_THING, _FIXTURE) else set()
    return found, used
