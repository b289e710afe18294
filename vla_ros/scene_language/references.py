"""What a noun phrase of an instruction means, and which thing of a scene it means there.

"the block nearest to the bowl" is a `Reference`: what it says of a thing, with a clause on where it
is. `resolve` finds the one thing of a scene that fits, or raises `Unresolved` with a sentence that
says what is there instead. Words may be those of people who have not read the grammar: what is not
understood is left alone, so that an instruction is not refused for a word that means nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vla_ros.scene_language.facts import centimetres, clearly, related
from vla_ros.scene_language.instructions import VOCABULARY
from vla_ros.scene_language.scenes import BOWL, COLORS, PAD, Name, Place, Scene
from vla_ros.scene_language.wording import RELATION_PHRASES

ABSENT, AMBIGUOUS, CONTRADICTORY = "absent", "ambiguous", "contradictory"
IMPOSSIBLE = "impossible"  # no task of this robot

# Colours that a person may name; those that no thing of a scene has make a reference to nothing.
_COLORS = {
    **{color: color for color in (*COLORS, "yellow", "white", "brown", "cyan", "magenta")},
    **{"grey": "gray", "violet": "purple", "golden": "gold", "gold": "gold", "silver": "silver"},
    **{"turquoise": "turquoise", "beige": "beige", "crimson": "red", "navy": "blue"},
}
# Nouns, singular, and the shapes that they may mean; () is any movable thing.
_SHAPES_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cube", "block", "box", "brick", "dice", "die"), ("cube",)),
    **dict.fromkeys(("cylinder", "can", "tube", "tin", "barrel", "pillar", "drum"), ("cylinder",)),
    **dict.fromkeys(("sphere", "ball", "globe", "marble"), ("sphere",)),
    **{"cone": ("cone",), "ring": ("ring",), "donut": ("ring",), "hoop": ("ring",)},
    **dict.fromkeys(("object", "thing", "one", "piece", "item", "toy", "part"), ()),
}
_PAD_NOUNS = frozenset({"pad", "mat", "square", "target", "plate"})
_YELLOW_NOUNS = frozenset({"area", "zone", "spot", "patch", "tile", "surface", "one", "square"})
_BOWL_NOUNS = frozenset({"bowl", "dish", "container", "basin", "cup"})
_ARTICLES = frozenset({"the", "a", "an", "that", "this", "your", "my", "our", "any", "some"})
# Nouns only behind an article, an adjective or a colour: "can you ...", "one more", "ring it".
_ALSO_OTHER_WORDS = frozenset({"can", "one", "ring", "part", "die", "target", "square", "box"})
# What may follow a colour without being what is coloured, and is no word of the grammar.
_FUNCTION_WORDS = frozenset(
    {"by", "but", "or", "with", "until", "while", "so", "before", "after", "about", "there", "here"}
    | {"without", "not", "don't", "below", "under", "underneath", "behind", "beside", "between"}
    | {"across", "along", "past", "through", "because", "if", "when", "where", "dear", "beyond"}
)
# Adjectives that say nothing here, and those that narrow a noun down to a shape.
_ADJECTIVES = frozenset(
    {"small", "little", "big", "large", "tiny", "colored", "coloured", "flat", "toy", "wooden"}
    | {"plastic", "shiny", "nice", "other", "same", "single", "only", "bright", "dark", "light"}
)
_SHAPED = {"round": "cylinder", "cylindrical": "cylinder", "square": "cube", "cubic": "cube"}
_HAND = frozenset({"gripper", "hand", "arm", "finger", "fingers", "claw", "tool", "robot", "you"})
_SUPERLATIVES = {
    **{"leftmost": (1, 1), "rightmost": (1, -1)},
    **{"farthest": (0, 1), "furthest": (0, 1), "backmost": (0, 1)},
    **{"closest": (0, -1), "nearest": (0, -1), "frontmost": (0, -1)},
}  # axis, and which end of it, seen from the robot
_ROBOT = ("you", "yourself", "the robot", "your base")
# Behind the noun: "the cube closest to you", "the cube on the left".
_ENDS_OF_THE_TABLE = [
    (tuple(text.split()), end)
    for texts, end in (
        ([f"{near} to {robot}" for near in ("closest", "nearest") for robot in _ROBOT], (0, -1)),
        ([f"{far} from {robot}" for far in ("farthest", "furthest") for robot in _ROBOT], (0, 1)),
        (("on the left", "to the left", "at the left", "on your left"), (1, 1)),
        (("on the right", "to the right", "at the right", "on your right"), (1, -1)),
    )
    for text in texts
]
_NOT = re.compile(r"\b(?:not|don't|dont|never|without|instead of|rather than|avoid|ignore)\b")
# Longest first, so that "in front of" is not read as "in".
_RELATIONS = sorted(
    (
        (tuple(text.split()), relation)
        for relation, texts in (
            *RELATION_PHRASES.items(),
            ("left", ("left from", "to the left from")),
            ("right", ("right from", "to the right from")),
            ("near", ("by", "alongside")),
            ("nearest", ("nearest", "closest", "most near to")),
            ("farthest", ("farthest away from", "furthest away from")),
        )
        for text in texts
    ),
    key=lambda pair: -len(pair[0]),
)


class Unresolved(ValueError):
    """It is not clear what is meant, or it cannot be: `kind` is ABSENT, AMBIGUOUS, CONTRADICTORY or
    IMPOSSIBLE; the text says why, and what is there instead."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Reference:
    """What a noun phrase says of one thing.

    Attributes:
        words: the phrase as it was said.
        begin, end: which tokens of the instruction it is.
        colors: those named; more than one contradict each other.
        shapes: that the noun may mean; () is any movable thing.
        fixture: PAD or BOWL if it is that one.
        noun: as said; "" if there was none.
        unknown: a noun that means nothing here, as "banana"; "" if there was none.
        plural: more than one thing is meant.
        extreme: (axis, sign) of "leftmost", "closest to you" and the like.
        relation, landmarks: where it is said to be; relation "" if nothing was said.
    """

    words: str
    begin: int
    end: int
    colors: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    fixture: Name | None = None
    noun: str = ""
    unknown: str = ""
    plural: bool = False
    extreme: tuple[int, int] | None = None
    relation: str = ""
    landmarks: tuple[Reference, ...] = ()

    def fits(self, name: Name) -> bool:
        """Whether colour and noun are those of a thing, wherever it is."""
        if self.fixture is not None:
            return name == self.fixture
        return (
            name not in (PAD, BOWL)
            and all(name.color == color for color in self.colors)
            and (not self.shapes or name.shape in self.shapes)
        )


def tokens(text: str) -> list[str]:
    """Lower-case words and punctuation."""
    text = re.sub(r"\b(that|which|it)'s\b", r"\1 is", text.lower().replace("’", "'"))
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[,.;:!?]", text)


def references(words: Sequence[str]) -> list[Reference]:
    """The noun phrases in the tokens of an instruction that mean things to be found in a scene.

    What is told not to be touched, and the robot's own parts, are passed over.
    """
    found, at = [], 0
    negated = _negated(words)
    while at < len(words):
        phrase = None if at in negated else _phrase(words, at)
        if phrase is None:
            at += 1
            continue
        found.append(phrase)
        at = phrase.end
    return found


def resolve(reference: Reference, scene: Scene) -> Name:
    """The thing of the scene that is meant.

    Raises:
        Unresolved: there is none, or more than one, or what is said of it is not true.
    """
    if len(set(reference.colors)) > 1:
        raise Unresolved(
            CONTRADICTORY,
            f"'{reference.words}' is {' and '.join(reference.colors)} at once: name one colour",
        )
    if reference.unknown:
        raise Unresolved(
            ABSENT, f"I do not know what a {reference.unknown} is; {what_is_there(scene)}"
        )
    if reference.plural:
        raise Unresolved(
            AMBIGUOUS, f"'{reference.words}' are several: name one thing; {what_is_there(scene)}"
        )
    fitting = [thing.name for thing in scene.things if reference.fits(thing.name)]
    if not fitting:
        raise Unresolved(ABSENT, f"{what_is_there(scene)}, no {_plain(reference)}")
    if reference.relation:
        fitting = _related(reference, fitting, scene)
    if len(fitting) > 1 and reference.extreme is not None:
        fitting = _outermost(reference.extreme, fitting, scene)
    if len(fitting) > 1:
        raise Unresolved(
            AMBIGUOUS,
            f"'{reference.words}' may be {_listed(fitting, 'or')}: say which",
        )
    return fitting[0]


def what_is_there(scene: Scene) -> str:
    """The movable things of a scene: "I see a red cube and a green can"."""
    movable = [thing.name for thing in scene.things if thing.name not in (PAD, BOWL)]
    if not movable:
        return "I see nothing to move"
    said = [f"{'an' if name.color[0] in 'aeiou' else 'a'} {' '.join(name)}" for name in movable]
    return f"I see {_join(said, 'and')}"


# -- where things are ------------------------------------------------------------------------------


def _related(reference: Reference, fitting: list[Name], scene: Scene) -> list[Name]:
    landmarks = tuple(resolve(landmark, scene) for landmark in reference.landmarks)
    others = [name for name in fitting if name not in landmarks]
    if not others:
        raise Unresolved(
            CONTRADICTORY, f"'{reference.words}' names {fitting[0]} and where it is by itself"
        )
    if reference.relation in ("nearest", "farthest"):
        return _by_distance(reference.relation, others, landmarks[0], scene)
    true = [n for n in others if related(reference.relation, n, landmarks, scene)]
    if true:
        return true
    # The relations have margins; a person may mean what is on that side by less.
    leaning = [
        n
        for n in others
        if _leans(reference.relation, scene.place_of(n), scene.place_of(landmarks[0]))
    ]
    if leaning:
        return leaning
    where = " and ".join(map(str, landmarks))
    phrase = RELATION_PHRASES.get(reference.relation, ("between",))[0]
    if len(others) == 1:
        raise Unresolved(CONTRADICTORY, f"{others[0]} is not {phrase} {where}")
    raise Unresolved(CONTRADICTORY, f"neither {_listed(others, 'nor')} is {phrase} {where}")


def _leans(relation: str, place: Place, landmark: Place) -> bool:
    dx, dy = place[0] - landmark[0], place[1] - landmark[1]
    return {"left": dy > 0, "right": dy < 0, "behind": dx > 0, "front": dx < 0}.get(relation, False)


def _by_distance(relation: str, names: list[Name], landmark: Name, scene: Scene) -> list[Name]:
    """Those that no other is clearly nearer (farther) than."""
    origin = scene.place_of(landmark)
    away = {name: centimetres(scene.place_of(name), origin) for name in names}
    return [
        name
        for name in names
        if not any(clearly(relation, away[o], away[name]) for o in names if o != name)
    ]


def _outermost(extreme: tuple[int, int], names: list[Name], scene: Scene) -> list[Name]:
    axis, sign = extreme
    along = {name: sign * scene.place_of(name)[axis] for name in names}
    most = max(along.values())
    return [name for name in names if most - along[name] < 2]


# -- reading ---------------------------------------------------------------------------------------


def _negated(words: Sequence[str]) -> set[int]:
    """Places of tokens that are said of what not to do: from "not" to the next comma, "and", "but"
    or end."""
    places: set[int] = set()
    for at, word in enumerate(words):
        if not _NOT.fullmatch(word) and not _NOT.fullmatch(" ".join(words[at : at + 2])):
            continue
        for place in range(at, len(words)):
            if place > at and words[place] in (",", ".", ";", "and", "but", "then"):
                break
            places.add(place)
    return places


def _phrase(words: Sequence[str], at: int, clause: bool = True) -> Reference | None:
    """The noun phrase that begins at a token."""
    begin, colors, shapes, extreme = at, [], (), None
    while at < len(words) and words[at] in _ARTICLES:
        at += 1
    head = None
    while at < len(words):
        word = words[at]
        if word in _COLORS:
            colors.append(_COLORS[word])
        elif word in _SUPERLATIVES and not _relation_at(words, at):
            extreme = _SUPERLATIVES[word]
        elif word in _SHAPED and (_noun(words, at + 1, ()) or ("", 0, "x"))[2] == "":
            shapes = (_SHAPED[word],)
        elif word == "and" and colors and at + 1 < len(words) and words[at + 1] in _COLORS:
            pass  # "red and blue"
        elif word not in _ADJECTIVES:
            if at > begin or word not in _ALSO_OTHER_WORDS:
                head = _noun(words, at, colors)
            break
        at += 1
    if head is None and not colors:
        return None
    noun, plural, unknown = head or ("", False, "")
    at += bool(head)
    if at < len(words) and words[at] in ("that", "which") and _is_color(words, at + 2):
        colors.append(_COLORS[words[at + 2]])
        at += 3
    fixture = _fixture(noun, colors)
    reference = Reference(
        " ".join(words[begin:at]), begin, at, tuple(colors),
        () if fixture else shapes or _SHAPES_OF.get(noun, ("cube",) if noun == "square" else ()),
        fixture, noun, "" if fixture else unknown, plural, extreme,
    )  # fmt: skip
    reference = _with_apposition(reference, words)
    return _with_clause(reference, words) if clause else reference


def _with_apposition(reference: Reference, words: Sequence[str]) -> Reference:
    """The reference with ", the cube" behind "the green one"."""
    at = reference.end
    if words[at : at + 1] != [","] or words[at + 1 : at + 2] != ["the"]:
        return reference
    other = _phrase(words, at + 1, clause=False)
    if other is None or other.colors or other.fixture or other.unknown or reference.shapes:
        return reference
    said = " ".join(words[reference.begin : other.end])
    return replace(reference, words=said, end=other.end, shapes=other.shapes, noun=other.noun)


def _is_color(words: Sequence[str], at: int) -> bool:
    return at < len(words) and words[at] in _COLORS


def _noun(words: Sequence[str], at: int, colors: Sequence[str]) -> tuple[str, bool, str] | None:
    """Noun, whether it is plural, and the noun if it means nothing here."""
    if at >= len(words):
        return None
    word = words[at]
    for noun, plural in ((word, False), (_singular(word), True)):
        if noun in _SHAPES_OF or noun in _PAD_NOUNS | _BOWL_NOUNS:
            return noun, plural and noun != word, ""
        if noun in _YELLOW_NOUNS and "yellow" in colors:
            return noun, plural and noun != word, ""
    # After a colour comes what is coloured, unless it is a word that instructions go on with.
    passed_over = {*VOCABULARY, *_HAND, *_FUNCTION_WORDS}
    if colors and word.isalpha() and word not in passed_over:
        return "", False, word
    return None


def _singular(word: str) -> str:
    return word[:-2] if word.endswith("xes") else word[:-1] if word.endswith("s") else word


def _fixture(noun: str, colors: Sequence[str]) -> Name | None:
    """The pad or the bowl by its noun, or by its colour, which nothing else has, and a noun that
    may mean anything ("the yellow carpet")."""
    for name, nouns in ((PAD, _PAD_NOUNS), (BOWL, _BOWL_NOUNS)):
        if noun in nouns and set(colors) <= {name.color}:
            return name
        if set(colors) == {name.color} and noun in _YELLOW_NOUNS | {"", "thing", "object", "item"}:
            return name
    return None


def _relation_at(words: Sequence[str], at: int) -> tuple[str, int] | None:
    """A relation that a token begins, and the place behind it; it must have a landmark."""
    if tuple(words[at : at + 1]) == ("between",):
        return "between", at + 1
    for phrase, relation in _RELATIONS:
        end = at + len(phrase)
        if tuple(words[at:end]) == phrase and _landmark(words, end) is not None:
            return relation, end
    return None


def _landmark(words: Sequence[str], at: int) -> Reference | None:
    landmark = _phrase(words, at, clause=False)
    return None if landmark is None or landmark.noun == "" and not landmark.colors else landmark


def _with_clause(reference: Reference, words: Sequence[str]) -> Reference:
    """The reference with "(that is) left of the bowl", if that follows."""
    at = reference.end
    while at < len(words) and words[at] in ("that", "which", "is", "standing", "lying", ","):
        at += 1
    if at < len(words) and words[at] in ("sitting", "located", "placed"):
        at += 1
    for phrase, extreme in _ENDS_OF_THE_TABLE:
        end = at + len(phrase)
        if tuple(words[at:end]) != phrase:
            continue
        end += words[end : end + 1] == ["side"]
        if words[end : end + 1] != ["of"]:
            said = " ".join(words[reference.begin : end])
            return replace(reference, words=said, end=end, extreme=extreme)
    found = _relation_at(words, at)
    if found is None:
        return reference
    relation, at = found
    first = _landmark(words, at)
    if first is None:
        return reference
    landmarks, end = (first,), first.end
    if relation == "between":
        second = _landmark(words, end + 1) if words[end : end + 1] == ["and"] else None
        if second is None:
            return reference
        landmarks, end = (first, second), second.end
    said = " ".join(words[reference.begin : end])
    return replace(reference, words=said, end=end, relation=relation, landmarks=landmarks)


# -- words -----------------------------------------------------------------------------------------


def _plain(reference: Reference) -> str:
    return " ".join([*reference.colors, reference.noun or "thing"])


def _listed(names: Sequence[Name], last: str) -> str:
    return _join([str(name) for name in names], last)


def _join(said: Sequence[str], last: str) -> str:
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} {last} {said[-1]}"
