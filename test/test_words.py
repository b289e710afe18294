"""Words of texts: only case, punctuation and spaces may differ between equal instructions."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.models import language
from vla_ros.models.language import word_tokenizer
from vla_ros.scene_language.words import words_of

DIFFERENT = [
    ("press button 1", "press button 2"),
    ("put it in bin 3", "put it in bin 13"),
    ("move 5 cm left", "move 50 cm left"),
    ("move 5 cm left", "move 5 mm left"),
    ("move 1.5 cm", "move 15 cm"),
    ("move -5 cm", "move 5 cm"),
    ("open by 50 %", "open by 50"),
    ("drücke den Knopf", "drcke den Knopf"),
    ("drücke den Knopf", "drucke den Knopf"),
    ("拿起红色方块", "放下红色方块"),
    ("赤いブロックを取る", "青いブロックを取る"),
    ("빨간 상자", "파란 상자"),
    ("возьми красный куб", "возьми синий куб"),
    ("ارفع المكعب الأحمر", "ارفع المكعب الأزرق"),
    ("लाल घन उठाओ", "लाल घन उठाएँ"),
    ("की", "का"),
    ("move →", "move ←"),
    ("press 🔴", "press 🔵"),
    ("turn 90°", "turn 90"),
    ("heat to 20 °C", "heat to 20 °F"),
    ("κύβος", "κύβοι"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_instructions_have_different_words(one, other):
    assert words_of(one) and words_of(other)
    assert words_of(one) != words_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pick up, the RED cube!", "pick up the red cube"),
        ("5cm", "5 cm"),
        ("bin3", "bin 3"),
        ("cafe\u0301", "café"),
        ("ｒｅｄ　ｃｕｂｅ", "red cube"),
        ("ﬁnd", "find"),
        ("\ufeffred cu\u00adbe", "red cube"),
        ("拿起。红色", "拿起红色"),
        ("\u22125", "-5"),
        ("ΚΎΒΟΣ", "κύβος"),
        ("bin-5", "bin 5"),
        ("don't", "DON\u2019T"),
    ],
)
def test_case_punctuation_and_forms_of_one_letter_do_not_matter(one, other):
    assert words_of(one) == words_of(other)


def test_words_are_these():
    assert words_of("Move it -1.5 cm to bin 3-4, 拿起🔴!") == [
        *("move", "it", "-1.5", "cm", "to", "bin", "3", "4", "拿", "起", "🔴")
    ]
    assert words_of(" .,;:!?()[]\n\t'\"") == []


def core(text: str) -> str:
    """A text without case, punctuation, spaces and what cannot be seen."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    dropped = ("P", "Z", "C", "Sk", "Me")
    kept = [c for c in folded if not unicodedata.category(c).startswith(dropped)]
    return "".join(kept)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cn", "Co"]), max_size=12)


@given(TEXTS)
def test_nothing_but_punctuation_is_lost(text):
    """Whatever can be read in a text is in its words, in the same order."""
    said = "".join(words_of(text))
    kept = "".join(c for c in said if c not in "-.,:%\u2030")
    assert [c for c in core(text) if "VARIATION" not in unicodedata.name(c, "")] == list(kept)


@given(TEXTS)
def test_words_of_words_are_the_same(text):
    words = words_of(text)
    assert words_of(" ".join(words)) == words


@given(TEXTS, TEXTS)
def test_texts_that_can_be_told_apart_have_different_ids(one, other):
    tokenizer = word_tokenizer({*words_of(one), *words_of(other)})
    ids = [
        language.encode(tokenizer, text, tokenizer.get_vocab_size()) if words_of(text) else []
        for text in (one, other)
    ]
    assert (ids[0] == ids[1]) == (words_of(one) == words_of(other))
