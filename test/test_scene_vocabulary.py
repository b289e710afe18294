"""The narrator's vocabulary: fixed, complete, and never guessing."""

import hashlib

import pytest

from vla_ros.scene_language import questions, vocabulary
from vla_ros.scene_language.descriptions import DESCRIPTION_WORDS
from vla_ros.scene_language.instructions import VOCABULARY
from vla_ros.scene_language.vocabulary import TOKENS, decode, encode, text_of, tokens_of
from vla_ros.scene_language.wording import GRAMMAR


def test_the_list_is_the_one_of_its_version():
    """Checkpoints hold ids: whoever changes the list must add at its end and raise VERSION."""
    digest = hashlib.sha256(" ".join(TOKENS).encode()).hexdigest()
    assert (vocabulary.VERSION, len(TOKENS), digest[:16]) == (1, 685, "a86ce94e3aa5f6ad")


def test_every_token_is_there_once_and_decodes():
    assert len(set(TOKENS)) == len(TOKENS)
    assert decode(encode(TOKENS)) == list(TOKENS)
    assert TOKENS[0] == "<pad>" and vocabulary.PAD == 0


def test_it_has_all_words_of_instructions_descriptions_and_the_grammar():
    said = GRAMMAR.words() | questions.GRAMMAR.words() | questions.ANSWERS.words()
    assert set(VOCABULARY) | set(DESCRIPTION_WORDS) | said <= set(TOKENS)


def test_coordinates_are_in_order():
    firsts = [TOKENS[first : first + count] for first, count in vocabulary.COORDINATES]
    for axis, tokens in zip("xyza", firsts, strict=True):
        assert tokens == tuple(f"<{axis}{i}>" for i in range(len(tokens)))
    assert [count for _, count in vocabulary.COORDINATES] == [64, 64, 16, 32]


@pytest.mark.parametrize("known", ["The red cube", "<scene> <x12>"])
def test_unknown_words_are_all_named(known):
    with pytest.raises(ValueError, match="unknown words 'blurple', 'zorb' in"):
        encode([*known.lower().split(), "blurple", "red", "zorb", "zorb"])


def test_unknown_words_of_a_text_are_all_named_and_none_is_guessed():
    with pytest.raises(ValueError, match="unknown words 'blok', 'kübe' in 'The red blok, a kübe'"):
        tokens_of("The red blok, a kübe")
    with pytest.raises(ValueError, match="unknown word 'cubess' in"):
        tokens_of("two cubess")
    with pytest.raises(ValueError, match="unknown words '\u2192', '\U0001f534' in"):
        tokens_of("what is \u2192 of the \U0001f534 cube?")


@pytest.mark.parametrize("index", [-1, len(TOKENS)])
def test_ids_beyond_the_list_are_refused(index):
    with pytest.raises(ValueError, match=f"{index} is no id of the vocabulary: ids are 0 to 684"):
        decode([1, index])


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("the hand waits .", "The hand waits."),
        ("is it so ? yes .", "Is it so? Yes."),
        ("in row 1 2 , column 7 .", "In row 12, column 7."),
        ("the hand is open . then the hand waits .", "The hand is open. Then the hand waits."),
    ],
)
def test_tokens_become_a_readable_text_and_again_tokens(tokens, text):
    assert text_of(tokens.split()) == text
    assert tokens_of(text) == tokens.split()
