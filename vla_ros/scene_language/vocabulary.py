"""The narrator's vocabulary: words, places and actions in one fixed list of tokens.

The list belongs to every checkpoint that was trained with it. Tokens are never moved; new ones come
at the end, with a new VERSION.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

VERSION = 1
FORMS = ("spatial", "words", "mixed")  # in which stories are told
SPECIALS = (
    *("<pad>", "<bos>", "<eos>", "<scene>", "<obj>", "<grip>"),
    *("<rel>", "<q>", "<ans>", "<act>", "<next>", "<text>"),
)
_WORDS = """
a able above across add after again ahead aim air align all almost along already alright an and
another anything approach are area arm around as ask at away back backward backwards ball balls
barrel base basin be because before behind beige belongs below beside between beyond big bit black
block blocks blue body both bottom bowl box boxes brick bring brown budge bump but by camera can
cannot cans careful carefully carries carry carrying catch center centimeters chuck close closed
closer closes closest clutch collect color colored colour coloured column come cone cones
container corner could count cover cube cubes cubic cup cyan cylinder cylinders d deliver deposit
dice direction dish do does don done down downwards drag drive drop dropped dump edge eight
elevate eleven else empty end every expected extend failed fall falls far farther farthest fast
fell fetch few fill find fingers finished first five flat float floor for force forward forwards
four from front full further furthest gently get getting give go goal goes gold grab grasp
grasping grasps gray green grey grip gripper hand has have head height held hello help hey hi
hidden high higher hoist hold holding holds hover hovering how i if in insert inside instruction
into inward is it item job just keep kind kindly knock knocking know land large last lay leave
left leftward leftwards less let lets lies lift lifted lifting like line little locate long look
low lowering make many mat may maybe me meters middle mind more most move moved moves moving my
near nearer nearest need needs next nine no not nothing now nudge object objects of off ok okay on
once one only onto open opens orange other others our out outward outwards over pad park part past
patch pick picked piece pillar pink place placed plate please pluck point poke pop position
possible press pull purple push pushed pushes pushing put puts putting quickly raise reach
reaching ready rectangle red release releases releasing relocate remove rest right rightward
rightwards ring rings robot rolls round row s same scoop scoot second seconds see seen seize send
set sets seven shift short should shove show side silver sit six slid slide slides slightly slowly
small snatch so some soon sorry sphere spheres spot square stack stand stands star start stay
stays steer step steps stick still stood stop store straight stretch success surface surprised
sweep t table take takes tall tap target task tell ten than thank thanks that the then there thing
things think third this three throw tile time tin to tool top toss touch touching toward towards
toy transfer transport travel triangle true try tube tubes turning twelve two unclear under
underneath unknown until up upwards us use visible wait waiting waits wall want we well what when
where which while white wide will with within without would wrong yellow yes you your yourself
zero zone
"""
TOKENS = (
    *SPECIALS,
    *(f"<x{i}>" for i in range(64)),
    *(f"<y{i}>" for i in range(64)),
    *(f"<z{i}>" for i in range(16)),
    *(f"<a{i}>" for i in range(32)),
    *".,?",
    *"0123456789",
    *_WORDS.split(),
)
IDS = {token: i for i, token in enumerate(TOKENS)}
PAD, BOS, EOS = IDS["<pad>"], IDS["<bos>"], IDS["<eos>"]
# Tokens that are numbers on an axis: (first id, count) of x, y, z and the actions.
COORDINATES = tuple(
    (IDS[f"<{axis}0>"], count) for axis, count in (("x", 64), ("y", 64), ("z", 16), ("a", 32))
)
_PART = re.compile(r"[^\W\d_]+|\d|[.,?]")


def encode(tokens: Iterable[str]) -> list[int]:
    """Ids of tokens.

    Raises:
        ValueError: some are not in the vocabulary; all of these are named.
    """
    tokens = list(tokens)
    try:
        return [IDS[token] for token in tokens]
    except KeyError:
        raise _unknown([t for t in tokens if t not in IDS], " ".join(tokens)) from None


def decode(ids: Iterable[int]) -> list[str]:
    """Tokens of ids.

    Raises:
        ValueError: an id is not from 0 to len(TOKENS) - 1.
    """
    ids = [int(i) for i in ids]
    for i in ids:
        if not 0 <= i < len(TOKENS):
            raise ValueError(f"{i} is no id of the vocabulary: ids are 0 to {len(TOKENS) - 1}")
    return [TOKENS[i] for i in ids]


def tokens_of(text: str) -> list[str]:
    """A text's words in lower case, its digits one by one, and ". , ?"; other punctuation is
    dropped.

    Raises:
        ValueError: words are not in the vocabulary; all of them are named, none is guessed.
    """
    text = unicodedata.normalize("NFKC", text)
    parts = [*_PART.findall(text.lower()), *_symbols(_PART.sub(" ", text.lower()))]
    unknown = [part for part in parts if part not in IDS]
    if unknown:
        raise _unknown(unknown, text)
    return parts


def _symbols(text: str) -> list[str]:
    """What tells something, though it is no word: arrows, emojis, marks of letters."""
    return [c for c in text if not c.isascii() and unicodedata.category(c)[0] in "LMNS"]


def text_of(tokens: Sequence[str]) -> str:
    """Words, digits and punctuation as a text to be read; `tokens_of` gives the tokens again."""
    text = ""
    for token, last in zip(tokens, ["", *tokens], strict=False):
        glued = token in ".,?" or (token.isdigit() and last.isdigit())
        word = token.capitalize() if last in ("", ".", "?") else token
        text += word if glued or not text else f" {word}"
    return text


def _unknown(words: Sequence[str], text: str) -> ValueError:
    named = ", ".join(map(repr, dict.fromkeys(words)))
    plural = "s" if len(set(words)) > 1 else ""
    return ValueError(f"unknown word{plural} {named} in '{text}': the scene language has none such")
