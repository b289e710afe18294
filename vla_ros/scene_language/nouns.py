"""A noun with its article and adjectives, in the words of people who have not read the grammar.

What is not understood is left alone, so that an instruction is not refused for a word that means
nothing here; but what a colour stands before is a thing, known or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vla_ros.scene_language.instructions import VOCABULARY
from vla_ros.scene_language.reference_words import (
    ADJECTIVES,
    ALSO_OTHER_WORDS,
    ANY_NOUNS,
    ARTICLES,
    BOWL_NOUNS,
    COLOR_WORDS,
    EXTREMES,
    FARTHEST,
    FREE,
    FUNCTION_WORDS,
    HAND,
    NEAREST,
    NUMBERS,
    ORDINALS,
    PAD_NOUNS,
    SHAPED,
    SHAPES_OF,
    WEAK_EXTREMES,
    YELLOW_NOUNS,
)
from vla_ros.scene_language.references import UNSAID, Clause, Extreme, Reference
from vla_ros.scene_language.scenes import BOWL, PAD, Name


def nouns(words: tuple[str, ...], at: int) -> Iterator[Reference]:
    """The noun phrase that begins at a token, without clauses; that of a plural behind "of" too:
    "the left one of the two cans"."""
    head = _noun_phrase(words, at)
    if head is None:
        return
    if words[head.end : head.end + 1] == ("of",):
        whole = partitive(words, head.end)
        if whole is not None and head.noun in ("one", "ones", "", "two", *FREE):
            yield replace(
                head,
                words=" ".join(words[at : whole.end]), end=whole.end, noun=whole.noun,
                colors=head.colors + whole.colors, shapes=whole.shapes, plural=head.plural,
                unknown=whole.unknown, clauses=head.clauses + whole.clauses,
            )  # fmt: skip
            return
    if head.noun or head.colors or head.extremes:
        yield head


def partitive(words: tuple[str, ...], at: int) -> Reference | None:
    """The plural of "of the two cans", "among all the blocks"."""
    if words[at : at + 1] not in (("of",), ("among",), ("amongst",), ("from",), ("between",)):
        if words[at : at + 2] != ("out", "of"):
            return None
        at += 1
    at += 1
    at += words[at : at + 1] == ("all",)
    at += words[at : at + 1] == ("of",)
    whole = _noun_phrase(words, at)
    if whole is not None and (whole.plural or whole.count):
        return whole
    number = at + (words[at : at + 1] == ("the",))
    if number < len(words) and words[number] in NUMBERS:
        return Reference("them", at, number + 1, noun="one", count=NUMBERS[words[number]])
    if words[at : at + 1] == ("them",) or words[at : at + 2] in (("these",), ("those",)):
        return Reference("them", at, at + 1, noun="one")
    return None


def _noun_phrase(words: tuple[str, ...], at: int) -> Reference | None:
    begin, colors, shapes, extremes = at, [], (), []
    without: list[str] = []
    other, rank, count = False, 1, 0
    while at < len(words) and words[at] in ARTICLES:
        at += 1
    free = at > begin and words[at - 1] in FREE
    definite = free or words[begin:at] == ("the",)
    weak = False
    head = None
    while at < len(words):
        word = words[at]
        if word in COLOR_WORDS:
            colors.append(COLOR_WORDS[word])
        elif word in ("non", "not") and at > begin and _is_color(words, at + 1):
            without.append(COLOR_WORDS[words[at + 1]])
            at += 1
        elif word in NUMBERS:
            count = NUMBERS[word]
            at += words[at + 1 : at + 2] == ("of",)
            at += words[at + 1 : at + 2] == ("the",)
        elif word in ORDINALS:
            rank = ORDINALS[word]
        elif definite and word in NEAREST | FARTHEST and _of_a_landmark(words, at + 1):
            free = True  # "the nearest to the bowl"
            break
        elif word in EXTREMES and at > begin:
            extremes.append(Extreme(*EXTREMES[word], rank))
        elif at > begin and (end := _weak_extreme(words, at)):
            extremes.append(Extreme(*WEAK_EXTREMES[words[end[0]]], rank))
            weak, at = True, end[1] - 1
        elif word in ("other", "remaining"):
            other = True
        elif word in SHAPED and (_noun(words, at + 1, ()) or ("", 0, "x"))[2] == "":
            shapes = (SHAPED[word],)
        elif word == "and" and colors and _is_color(words, at + 1):
            pass  # "red and blue"
        elif word in EXTREMES and not colors and _noun(words, at + 1, ()):
            extremes.append(Extreme(*EXTREMES[word], rank))  # "leftmost cube"
        elif word not in ADJECTIVES:
            if at > begin or word not in ALSO_OTHER_WORDS:
                head = _noun(words, at, colors)
            break
        at += 1
    if head is None and free:
        head, at = ("whatever", False, ""), at - 1
    elif head is None and other:
        head, at = ("one", False, ""), at - 1  # "the other"
    if head is None and not colors and not (extremes and not weak and _ends_here(words, at)):
        if not (extremes and words[at : at + 1] == ("of",)) and not (
            count and words[at : at + 1] == ("of",)
        ):
            return None
    noun, plural, unknown = head or ("", False, "")
    at += bool(head)
    if at < len(words) and words[at] == "'s" and _is_color(words, at + 1):
        return None
    fixture = _fixture(noun, colors)
    if fixture is None and noun in PAD_NOUNS | BOWL_NOUNS and not shapes and noun != "square":
        unknown = " ".join([*colors, noun])  # "the red bowl"
    by_noun = SHAPES_OF.get(noun, ("cube",) if noun == "square" else ())
    said = " ".join(words[begin:at])
    excluded = tuple(
        Clause("is", (Reference(color, begin, at, colors=(color,)),), negated=True)
        for color in without
    )
    if rank > 1 and not extremes:
        extremes.append(Extreme(UNSAID, 0, rank))
    return Reference(
        said, begin, at, tuple(colors), () if fixture else shapes or by_noun, fixture, noun,
        "" if fixture else unknown, plural, count, tuple(extremes), excluded, other,
    )  # fmt: skip


def _weak_extreme(words: tuple[str, ...], at: int) -> tuple[int, int] | None:
    """Place of "left" and the end of it in "(far) left (hand|most)" before a noun."""
    strengthened = words[at] in ("far", "very", "extreme", "most")
    if strengthened and at + 1 < len(words) and words[at + 1] in WEAK_EXTREMES:
        at += 1
    if words[at] not in WEAK_EXTREMES:
        return None
    end = at + 1
    end += words[end : end + 1] in (("hand",), ("most",), ("side",), ("handed",))
    behind = end
    while behind < len(words) and (words[behind] in COLOR_WORDS or words[behind] in ADJECTIVES):
        behind += 1
    if words[behind : behind + 1] == ("of",) and words[at] in NEAREST | FARTHEST:
        return (at, end)
    noun = _noun(words, behind, ())
    return (at, end) if noun is not None and not noun[2] else None


def _of_a_landmark(words: tuple[str, ...], at: int) -> bool:
    return words[at : at + 1] in (("to",), ("from",), ("away",), ("the",))


def _ends_here(words: tuple[str, ...], at: int) -> bool:
    """Whether a phrase without a noun ends here: "the leftmost, please"."""
    return at >= len(words) or not (words[at].isalpha() and words[at] not in VOCABULARY)


def _is_color(words: Sequence[str], at: int) -> bool:
    return at < len(words) and words[at] in COLOR_WORDS


def _noun(words: Sequence[str], at: int, colors: Sequence[str]) -> tuple[str, bool, str] | None:
    """Noun, whether it is plural, and the noun if it means nothing here."""
    if at >= len(words):
        return None
    word = words[at]
    for noun, plural in ((word, False), (_singular(word), True)):
        if noun in SHAPES_OF or noun in PAD_NOUNS | BOWL_NOUNS:
            return noun, plural and noun != word, ""
        if noun in YELLOW_NOUNS and "yellow" in colors:
            return noun, plural and noun != word, ""
    # After a colour comes what is coloured, unless it is a word that instructions go on with.
    passed_over = {*VOCABULARY, *HAND, *FUNCTION_WORDS}
    if colors and word.isalpha() and word not in passed_over:
        return "", False, word
    return None


def _singular(word: str) -> str:
    return word[:-2] if word.endswith("xes") else word[:-1] if word.endswith("s") else word


def _fixture(noun: str, colors: Sequence[str]) -> Name | None:
    """The pad or the bowl by its noun, or by its colour, which nothing else has, and a noun that
    may mean anything ("the yellow carpet")."""
    for name, nouns_of_it in ((PAD, PAD_NOUNS), (BOWL, BOWL_NOUNS)):
        if noun in nouns_of_it and set(colors) <= {name.color}:
            return name
        anything = YELLOW_NOUNS | {"", *ANY_NOUNS}
        if set(colors) == {name.color} and noun in anything:
            return name
    return None
