"""Where a thing is said to be: "left of the bowl", "between the two cubes", "nearest to the can",
"on the far left"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from vla_ros.scene_language.nouns import nouns, partitive
from vla_ros.scene_language.reference_words import (
    ADVERBS,
    FARTHEST,
    GRIPPERS,
    ITS_SIDES,
    MIDDLE,
    NEAREST,
    ORDINALS,
    RELATION_WORDS,
    ROBOTS,
    SIDES,
)
from vla_ros.scene_language.references import Clause, Extreme, Reference
from vla_ros.scene_language.scenes import BOWL

Words = tuple[str, ...]
Landmarks = Callable[[int], tuple[Reference, ...]]
# What a clause adds to a reference, and the token behind it.
Added = tuple[Clause | Extreme | str, int]

HIM = frozenset({"it", "itself", "them"})


def where(words: Words, at: int, landmarks: Landmarks) -> Iterator[Added]:
    """ "left of the bowl", "between the two cubes", "nearest to the can", "on the far left"."""
    for begin in adverbs(words, at):
        yield from _relations(words, begin, landmarks)
        yield from _between(words, begin, landmarks)
        yield from _nearest(words, begin, landmarks)
        yield from _possessive(words, begin, landmarks)
        yield from _end_of_the_table(words, begin)


def adverbs(words: Words, at: int) -> Iterator[int]:
    yield at
    while at < len(words) and words[at] in ADVERBS:
        at += 1
        yield at


def _relations(words: Words, at: int, landmarks: Landmarks) -> Iterator[Added]:
    for outside in (("outside", "of"), ("outside",)):
        if words[at : at + len(outside)] == outside:
            for landmark in places(words, at + len(outside), landmarks):
                yield Clause("inside", (landmark,), negated=True), landmark.end
            return
    for phrase, relation in RELATION_WORDS:
        end = at + len(phrase)
        if words[at:end] != phrase or relation in ("nearest", "farthest"):
            continue
        found = list(places(words, end, landmarks))
        for landmark in found:
            if relation in ("on", "inside") and landmark.fixture is not None:
                meant = "inside" if landmark.fixture == BOWL else "on"
                yield Clause(meant, (landmark,)), landmark.end
            elif phrase[0] not in ("from", "off", "out"):
                yield Clause(relation, (landmark,)), landmark.end
        if found:
            return


def places(
    words: Words, at: int, landmarks: Landmarks, of_the_gripper: bool = False
) -> Iterator[Reference]:
    """Landmarks: things, "it", the gripper."""
    if at < len(words) and words[at] in HIM and words[at + 1 : at + 2] != ("'s",):
        yield Reference(words[at], at, at + 1, pronoun=True)
    for text in GRIPPERS if of_the_gripper else ():
        if words[at : at + len(text)] == text:
            yield Reference(" ".join(text), at, at + len(text), gripper=True)
    yield from (r for r in landmarks(at) if not r.plural and words[r.end : r.end + 1] != ("'s",))


def _between(words: Words, at: int, landmarks: Landmarks) -> Iterator[Added]:
    for text in (("in", "between"), ("in", "the", "middle", "of"), ("midway", "between")):
        if words[at : at + len(text)] == text:
            at += len(text) - 1
            break
    if words[at : at + 1] not in (("between",), ("of",)) or at >= len(words):
        return
    for first in landmarks(at + 1):
        if first.plural and not first.fixture:
            yield Clause("between", (first,)), first.end
        if words[first.end : first.end + 1] == ("and",) and words[at] == "between":
            for second in landmarks(first.end + 1):
                if not first.noun and first.colors and second.noun:
                    first = replace(first, noun=second.noun.rstrip("s"), shapes=second.shapes)
                second = replace(second, plural=False)
                yield Clause("between", (first, second)), second.end


def _nearest(words: Words, at: int, landmarks: Landmarks) -> Iterator[Added]:
    rank = 1
    at += words[at : at + 1] == ("the",)
    if at < len(words) and words[at] in ORDINALS:
        rank, at = ORDINALS[words[at]], at + 1
    as_ = words[at : at + 1] == ("as",)
    at += as_
    if at >= len(words):
        return
    near = words[at] in NEAREST or as_ and words[at] in ("near", "close")
    if not near and words[at] not in FARTHEST and not (as_ and words[at] == "far"):
        if words[at : at + 2] not in (("most", "near"), ("most", "distant")):
            return
        near, at = words[at + 1] == "near", at + 1
    at += 1
    at += words[at : at + 1] in (("away",), ("by",), ("out",))
    preposition = words[at : at + 1] in ((("to",) if near else ("from",)), ("of",))
    at += preposition
    if not near and not preposition:
        return
    for robot in ROBOTS:
        if words[at : at + len(robot)] == robot:
            end = _than_the_other(words, at + len(robot), as_)
            if end is not None:
                yield Extreme(0, -1 if near else 1, rank), end
            return
    for landmark in places(words, at, landmarks, of_the_gripper=True):
        end = _than_the_other(words, landmark.end, as_)
        if end is not None:
            relation = "nearest" if near else "farthest"
            yield Clause(relation, (landmark,), rank=rank), end


def _than_the_other(words: Words, at: int, as_: bool) -> int | None:
    """Behind "than the other (one)", "as possible"; None if something else follows "than"."""
    if as_:
        return at + 2 if words[at : at + 2] in (("as", "possible"), ("as", "can")) else None
    if words[at : at + 1] != ("than",):
        return at
    if words[at + 1 : at + 3] not in (("the", "other"), ("the", "others"), ("any", "other")):
        return None
    end = at + 3
    for other in nouns(words, at + 1):
        if other.other:
            end = max(end, other.end)
    return end


def _possessive(words: Words, at: int, landmarks: Landmarks) -> Iterator[Added]:
    """ "to the bowl's left"."""
    if words[at : at + 1] not in (("to",), ("on",), ("at",)):
        return
    for landmark in landmarks(at + 1):
        end = landmark.end
        if words[end : end + 1] != ("'s",):
            continue
        for text, relation in ITS_SIDES:
            if words[end + 1 : end - 1 + len(text)] == text[2:]:
                yield Clause(relation, (landmark,)), end - 1 + len(text)
                return


def _end_of_the_table(words: Words, at: int) -> Iterator[Added]:
    """ "on the (far) left (side)", "furthest to the right", "at the very back", "in the middle"."""
    begin = at
    most = at < len(words) and words[at] in (*FARTHEST, "most", "far", "more")
    at += most
    rank_from = words[at : at + 1] == ("from",)
    prepositions = ("on", "at", "to", "in", "toward", "towards", "from")
    preposition = at < len(words) and words[at] in prepositions
    at += preposition
    article = words[at : at + 1] in (("the",), ("your",))
    at += article
    strong = at < len(words) and words[at] in ("very", "far", "extreme", "furthest", "farthest")
    strong = strong and at + 1 < len(words)
    if strong and words[at : at + 2] in (("far", "side"), ("far", "end")):
        yield from _of_the_table(words, at + 2, Extreme(0, 1))
        return
    if words[at : at + 2] in (("near", "side"), ("near", "end")):
        yield from _of_the_table(words, at + 2, Extreme(0, -1))
        return
    at += strong
    if at >= len(words) or words[at] not in SIDES:
        if words[begin + 1 : begin + 2] in (("to",), ("from",), ("your",), ("the",)):
            return
        if most and words[begin] in FARTHEST:
            end = begin + 1
            end += words[end : end + 1] in (("away",), ("out",), ("forward",))
            if words[end : end + 1] != ("from",):
                yield Extreme(0, 1), end
        elif begin < len(words) and words[begin] in ("closest", "nearest"):
            yield Extreme(0, -1), begin + 1 + (words[begin + 1 : begin + 2] == ("by",))
        return
    side = SIDES[words[at]]
    in_front = words[at] == "front" and preposition  # "in front"
    if not (preposition and (article or in_front) or most):
        return
    if side == (MIDDLE, 1) and rank_from:
        return
    end = at + 1
    end += words[end : end + 1] == ("most",)
    end += words[end : end + 1] == ("hand",)
    end += words[end : end + 1] in (("side",), ("end",), ("edge",), ("one",), ("part",))
    yield from _of_the_table(words, end, Extreme(*side))


def _of_the_table(words: Words, at: int, extreme: Extreme) -> Iterator[Added]:
    """With "of the table", "of the two cubes"; what is "of" anything else is on no end."""
    if words[at : at + 1] != ("of",):
        yield extreme, at
        return
    for table in (("the", "table"), ("the", "row"), ("the", "group"), ("you",), ("the", "bunch")):
        if words[at + 1 : at + 1 + len(table)] == table:
            yield extreme, at + 1 + len(table)
    whole = partitive(words, at)
    if whole is not None:
        yield extreme, whole.end
