"""Clauses behind a noun: where a thing is, what it is not, what is beside it.

"(the cube) that is neither red nor in the bowl", "(the can) with the ball right behind it", "(the
block) on the far left". `with_a_clause` gives the references that one more clause makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vla_ros.scene_language.locations import HIM, Added, Landmarks, Words, adverbs, places, where
from vla_ros.scene_language.nouns import nouns
from vla_ros.scene_language.reference_words import (
    COLOR_WORDS,
    COPULAS,
    ITS_SIDES,
    PARTICIPLES,
    RELATION_WORDS,
)
from vla_ros.scene_language.references import UNSAID, Clause, Extreme, Reference
from vla_ros.scene_language.scenes import BOWL

_THAT = frozenset({"that", "which", "who"})
_ANY = frozenset({"any", "every", "all", "anything", "everything"})
_HOLDS = (("holds",), ("contains",), ("carries",))
_WITH = frozenset({"with", "has", "having"})
_INSTEAD = (("other", "than"), ("rather", "than"), ("instead", "of"), ("except", "for"))
_NEUTRAL = sorted(
    (
        tuple(text.split())
        for text in (
            *("on the table", "from the table", "off the table", "over there", "there", "here"),
            *("in front of you", "in front of the robot", "you see", "you can see", "of them"),
            *("on the tabletop", "on this table", "on the desk", "before you", "i see", "of all"),
        )
    ),
    key=len,
    reverse=True,
)
_BASE_FORMS = frozenset({"sit", "lie", "stand", "rest", "live"})


def with_a_clause(reference: Reference, words: Words, landmarks: Landmarks) -> list[Reference]:
    """The reference with one more clause behind it, in all ways that the words can be read."""
    found = []
    for added, end in _clauses(reference, words, landmarks):
        said = " ".join(words[reference.begin : end])
        longer = replace(reference, words=said, end=end)
        if isinstance(added, Clause):
            longer = replace(longer, clauses=(*reference.clauses, added))
        elif isinstance(added, Extreme):
            ranks = [e.rank for e in reference.extremes if e.axis == UNSAID]
            others = tuple(e for e in reference.extremes if e.axis != UNSAID)
            ranked = replace(added, rank=max([added.rank, *ranks]))
            longer = replace(longer, extremes=(*others, ranked))
        elif added:
            longer = _colored(longer, added)
        found.append(longer)
    apposition = _apposition(reference, words)
    return [*found, apposition] if apposition is not None else found


def _colored(reference: Reference, color: str) -> Reference:
    """A "square" may be the pad, but not "the square that is red"."""
    colors = (*reference.colors, color)
    if reference.fixture is None or color == reference.fixture.color:
        return replace(reference, colors=colors)
    if reference.noun == "square":
        return replace(reference, colors=colors, fixture=None, shapes=("cube",))
    unknown = f"{color} {reference.noun}"
    return replace(reference, colors=colors, fixture=None, unknown=unknown)


def _clauses(reference: Reference, words: Words, landmarks: Landmarks) -> Iterator[Added]:
    at = reference.end
    for text in _NEUTRAL:
        if words[at : at + len(text)] == text and words[at + len(text) :][:1] != ("of",):
            yield "", at + len(text)
            break
    yield from _exclusions(reference, words, at, landmarks)
    at += words[at : at + 1] == (",",)
    if reference.end != at or reference.clauses:
        at += words[at : at + 1] in (("and",), ("but",))  # "and behind the can"
    said_that = words[at : at + 1] != () and words[at] in _THAT
    at += said_that
    if said_that:
        yield from _stranded(words, at, landmarks)
    else:
        yield from _stranded(words, at, landmarks)
    if words[at : at + 2] == ("does", "not"):
        if words[at + 2 : at + 3] == ("have",):
            yield from _accompanied(words, at + 3, landmarks, negated=True)
        elif at + 2 < len(words) and words[at + 2] in _BASE_FORMS:
            yield from _predicates(words, at + 3, landmarks, negated=True)
        return
    copula = at < len(words) and words[at] in COPULAS
    at += copula
    while at < len(words) and words[at] in ("currently", "now", "still"):
        at += 1
    negated = words[at : at + 1] == ("not",)
    yield from _predicates(words, at, landmarks, colors=said_that or copula)
    if at + negated < len(words) and words[at + negated] in PARTICIPLES:
        yield from _predicates(words, at + negated + 1, landmarks, negated)
    if at < len(words) and words[at] in _WITH:
        yield from _accompanied(words, at + 1, landmarks, negated=False)
    if words[at : at + 1] == ("without",):
        yield from _accompanied(words, at + 1, landmarks, negated=True)


def _predicates(
    words: Words, at: int, landmarks: Landmarks, negated: bool = False, colors: bool = False
) -> Iterator[Added]:
    """ "red", "not in the bowl", "neither red nor blue", "left of the can"."""
    if words[at : at + 1] == ("neither",):
        yield from _neither(words, at + 1, landmarks)
        return
    if words[at : at + 1] == ("not",):
        negated, at = True, at + 1
    for added, end in _predicate(words, at, landmarks, negated):
        if isinstance(added, str) and not colors:
            continue
        yield added, end
        if not negated or words[end : end + 1] != ("or",):
            continue
        for second, last in _predicate(words, end + 1, landmarks, negated):
            if isinstance(added, Clause) and isinstance(second, Clause):
                yield _none_of([added, second]), last


def _neither(words: Words, at: int, landmarks: Landmarks) -> Iterator[Added]:
    for first, end in _predicate(words, at, landmarks, True):
        if words[end : end + 1] not in (("nor",), ("or",)) or not isinstance(first, Clause):
            continue
        for second, last in _predicate(words, end + 1, landmarks, True):
            if isinstance(second, Clause):
                yield _none_of([first, second]), last


def _none_of(clauses: list[Clause]) -> Clause:
    """One clause that says that none of them is true."""
    described = tuple(
        Reference("", 0, 0, clauses=(replace(clause, negated=False),)) for clause in clauses
    )
    return Clause("is", described, negated=True)


def _predicate(words: Words, at: int, landmarks: Landmarks, negated: bool) -> Iterator[Added]:
    if at < len(words) and words[at] in COLOR_WORDS:
        color = COLOR_WORDS[words[at]]
        if not negated:
            yield color, at + 1
        else:
            described = Reference(color, at, at + 1, colors=(color,))
            yield Clause("is", (described,), negated=True), at + 1
    if negated:
        for other in landmarks(at):
            if other.noun or other.colors or other.extremes:
                yield Clause("is", (other,), negated=True), other.end
    for added, end in where(words, at, landmarks):
        if not negated:
            yield added, end
        elif isinstance(added, Clause):
            yield replace(added, negated=not added.negated), end
        elif isinstance(added, Extreme):
            one = Reference("", at, end, extremes=(added,))
            yield Clause("is", (one,), negated=True), end


def _accompanied(words: Words, at: int, landmarks: Landmarks, negated: bool) -> Iterator[Added]:
    """ "(with) the ball right behind it", "(with) a can to its left", "(with) it on the left"."""
    for companion in landmarks(at):
        end = companion.end
        for begin in adverbs(words, end):
            for phrase, relation in ITS_SIDES:
                if words[begin : begin + len(phrase)] == phrase:
                    clause = Clause(relation, (companion,), negated, inverse=True)
                    yield clause, begin + len(phrase)
            for phrase, relation in RELATION_WORDS:
                it = begin + len(phrase)
                if words[begin:it] == phrase and it < len(words) and words[it] in HIM:
                    yield Clause(relation, (companion,), negated, inverse=True), it + 1
            inner = words[begin : begin + 1]
            if companion.fixture is None and inner in (("inside",), ("nearby",), ("alongside",)):
                if inner != ("inside",):
                    yield Clause("near", (companion,), negated, inverse=True), begin + 1


def _stranded(words: Words, at: int, landmarks: Landmarks) -> Iterator[Added]:
    """ "(the cube) that the ball is next to", "(the thing) the bowl holds"."""
    for companion in landmarks(at):
        end = companion.end
        fixture = companion.fixture
        if fixture is not None and words[end : end + 1] in _HOLDS:
            yield Clause("inside" if fixture == BOWL else "on", (companion,)), end + 1
        if end >= len(words) or words[end] not in COPULAS:
            continue
        end += 1
        negated = words[end : end + 1] == ("not",)
        end += negated
        for begin in adverbs(words, end):
            for phrase, relation in RELATION_WORDS:
                last = begin + len(phrase)
                # What the ball is nearest to is not the nearest to the ball.
                if relation in ("nearest", "farthest"):
                    continue
                if words[begin:last] == phrase and not _places_exist(words, last, landmarks):
                    yield Clause(relation, (companion,), negated, inverse=True), last
                    break


def _places_exist(words: Words, at: int, landmarks: Landmarks) -> bool:
    return any(True for _ in places(words, at, landmarks))


def _exclusions(
    reference: Reference, words: Words, at: int, landmarks: Landmarks
) -> Iterator[Added]:
    """ ", not the red one", "other than the cube in the bowl", "(any ball) but the red one"."""
    any_but = words[reference.begin] in _ANY and words[at : at + 1] == ("but",)
    at += words[at : at + 1] == (",",)
    at += words[at : at + 1] in (("but",), ("and",)) and words[at + 1 : at + 2] == ("not",)
    if words[at : at + 2] in _INSTEAD:
        at += 2
    elif any_but and words[at : at + 1] == ("but",):
        at += 1
    elif words[at : at + 1] in (("not",), ("except",), ("besides",)):
        at += 1
    else:
        return
    for other in landmarks(at):
        if other.fixture is None and (other.noun or other.colors or other.extremes):
            yield Clause("is", (other,), negated=True), other.end


def _apposition(reference: Reference, words: Words) -> Reference | None:
    """The reference with ", the cube" behind "the green one", ", the red one" behind "the cube"."""
    at = reference.end
    if words[at : at + 1] != (",",) or words[at + 1 : at + 2] != ("the",):
        return None
    for other in nouns(words, at + 1):
        if other.noun == "square" and other.fixture and reference.colors:
            other = replace(other, fixture=None, shapes=("cube",))
        if other.fixture or other.unknown or other.extremes or other.other or reference.fixture:
            return None
        if other.colors and (reference.colors or other.noun != "one"):
            return None
        if other.shapes and reference.shapes:
            return None
        said = " ".join(words[reference.begin : other.end])
        return replace(
            reference, words=said, end=other.end, colors=reference.colors or other.colors,
            shapes=reference.shapes or other.shapes,
            noun=other.noun if other.shapes else reference.noun,
        )  # fmt: skip
    return None
