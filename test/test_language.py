"""Words in and words out: the tokenizer names what it does not know, the decoder can learn."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from vla_ros.checkpoints import resolve
from vla_ros.models import language
from vla_ros.models.language import InstructionEncoder, LanguageDecoder, word_tokenizer
from vla_ros.scene_language.descriptions import DESCRIPTION_WORDS, SENTENCES
from vla_ros.scene_language.instructions import COLORS, DIRECTIONS, VOCABULARY, Goal, phrase
from vla_ros.scene_language.words import words_of

TOKENIZER = word_tokenizer(VOCABULARY, DESCRIPTION_WORDS)
HEARD = 3 + len(VOCABULARY)


def encode(text: str, heard: int = HEARD) -> list[int]:
    return language.encode(TOKENIZER, text, heard)


def test_every_sentence_survives_the_tokenizer():
    for sentence in SENTENCES:
        ids = torch.tensor(encode(sentence, TOKENIZER.get_vocab_size()))
        assert language.decode(TOKENIZER, ids) == sentence


def test_case_and_punctuation_do_not_matter():
    assert encode("Pick up, the RED cube!") == encode("pick up the red cube")


def test_words_that_were_not_taught_are_all_named():
    with pytest.raises(ValueError, match="'juggle', 'teapot'.*'Juggle the red teapot'"):
        encode("Juggle the red teapot")
    with pytest.raises(ValueError, match="'123', '🔴', 'ни', '拿', 'drücke'"):
        encode("123 🔴 НИ 拿 drücke")


def test_an_instruction_without_words_is_told_apart_from_unknown_words():
    with pytest.raises(ValueError, match="the instruction is empty"):
        encode(" ")
    with pytest.raises(ValueError, match=r"' ,\. \(\)' has no word in it and is empty"):
        encode(" ,. ()")


def test_what_is_only_said_cannot_be_asked():
    assert "carrying" in DESCRIPTION_WORDS and "carrying" not in VOCABULARY
    with pytest.raises(ValueError, match="unknown word 'carrying'"):
        encode("carrying the red cube")
    assert encode("carrying the red cube", TOKENIZER.get_vocab_size())


def test_unknown_words_are_passed_over_beside_a_needed_one():
    def ids(text):
        return language.encode(TOKENIZER, text, HEARD, ("red", "blue"))

    unknown = TOKENIZER.token_to_id(language.UNKNOWN)
    assert ids("juggle the red cube") == [unknown, *encode("the red cube")]
    assert ids("carrying red") == [unknown, *encode("red")], "it is said, but never asked"
    assert language.unheard(TOKENIZER, "Juggle the red teapot", HEARD) == ["juggle", "teapot"]
    with pytest.raises(ValueError, match="'juggle the cube' names none of red, blue"):
        ids("juggle the cube")
    with pytest.raises(ValueError, match="unknown words 'juggle', 'several', 'teapots'"):
        ids("juggle several red teapots")


def test_special_tokens_cannot_be_said():
    for token in (language.PAD, language.END, language.UNKNOWN):
        with pytest.raises(ValueError, match="unknown words '<', .*'>'"):
            encode(f"push the red cube {token}")


def test_long_instructions_are_read_to_the_end_or_refused():
    begin = "pick up the red cube " * 120
    ends = encode(begin + "in the bowl"), encode(begin + "on the pad")
    assert ends[0] != ends[1] and len(ends[0]) == 603
    with pytest.raises(ValueError, match="has 40000 characters: say it in 10000 at most"):
        encode("red " * 10_000)


def test_a_word_tokenizer_in_a_file_gives_the_same_ids(tmp_path):
    texts = "press button 13", "拿起 5 cm", "drücke"
    mine = word_tokenizer({word for text in texts for word in words_of(text)})
    mine.save(str(tmp_path / "tokenizer.json"))
    read = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in texts:
        ids = language.encode(mine, text, 100)
        assert language.encode(read, text, 100) == ids
        assert read.encode(" ".join(words_of(text))).ids == ids, "as others use the file"


def test_the_tokenizer_that_ships_keeps_its_ids_and_hears_what_it_does_not_know():
    """It drops all but the letters a to z if left to itself."""
    shipped = Tokenizer.from_file(str(resolve("arm") / "tokenizer.json"))
    rng = np.random.default_rng(0)
    for color, direction in zip(COLORS, DIRECTIONS, strict=True):
        text = phrase(Goal("push", color, "cube", direction), rng)
        assert language.encode(shipped, text, 313) == shipped.encode(text).ids
    assert language.unheard(shipped, "press the red button 2 → 5 cm", 313) == [
        *("button", "2", "→", "5", "cm")
    ]


def test_reading_stops_at_the_end():
    ids = encode("the red cube")
    assert language.decode(TOKENIZER, torch.tensor([*ids, 1, *ids])) == "the red cube"
    assert language.decode(TOKENIZER, torch.tensor([*ids, 0, 0])) == "the red cube"


def test_padding_changes_no_instruction():
    torch.manual_seed(0)
    encoder = InstructionEncoder(HEARD, 16)
    ids = language.pad([encode("lift the red cube"), encode("now put it on the yellow pad please")])
    together = encoder(ids)
    alone = encoder(ids[:1, :4])
    torch.testing.assert_close(together[:1], alone)
    torch.testing.assert_close(encoder(torch.nn.functional.pad(ids, (0, 3))), together)


def test_a_byte_pair_tokenizer_serves_as_well():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = [language.PAD, language.END, language.UNKNOWN]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    language.check_tokenizer(tokenizer, 400)
    assert language.encode(tokenizer, "juggle the teapot", 400)
    with pytest.raises(ValueError, match="raise vocab_size"):
        language.check_tokenizer(tokenizer, 100)


def test_a_tokenizer_without_the_special_tokens_is_refused():
    with pytest.raises(ValueError, match="<pad> as id 0"):
        language.check_tokenizer(Tokenizer(models.WordLevel({"red": 0})), 10)


@pytest.fixture
def decoder() -> LanguageDecoder:
    torch.manual_seed(0)
    return LanguageDecoder(features=8, vocab_size=20, width=32, n_layers=2)


def test_a_token_depends_on_the_features_and_on_earlier_tokens_only(decoder):
    features, ids = torch.randn(2, 8), torch.randint(3, 20, (2, 6))
    changed = ids.clone()
    changed[:, 3] = 3 + (changed[:, 3] - 2) % 17
    with torch.no_grad():
        before, after = decoder(features, ids), decoder(features, changed)
        elsewhere = decoder(features + 1.0, ids)
    assert before.shape == (2, 7, 20)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    assert not torch.allclose(before[:, 0], elsewhere[:, 0])


def test_generating_is_the_greedy_reading_of_the_training_form(decoder):
    features = torch.randn(5, 8)
    with torch.no_grad():
        said = decoder.generate(features, max_tokens=9)
        logits = decoder(features, said[:, :-1])
    greedy = logits.argmax(-1)
    for row, best in zip(said.tolist(), greedy.tolist(), strict=True):
        end = row.index(1) if 1 in row else len(row)
        assert row[: end + 1] == best[: end + 1]
        assert not any(row[end + 1 :])


def test_the_loss_counts_words_and_the_end_but_no_padding(decoder):
    features, ids = torch.randn(1, 8), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        log_p = decoder(features, ids).log_softmax(-1)[0]
        expected = -(log_p[0, 5] + log_p[1, 6] + log_p[2, 7] + log_p[3, 1]) / 4
        for padding in (0, 3):
            padded = torch.nn.functional.pad(ids, (0, padding))
            loss = language.sentence_loss(decoder(features, padded), padded)
            torch.testing.assert_close(loss[0], expected)


def test_it_learns_to_say_what_the_features_hold(decoder):
    torch.manual_seed(1)
    ids = torch.tensor([[4, 5, 6, 0], [4, 7, 0, 0], [8, 9, 10, 11]])
    features = torch.eye(3, 8)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = language.sentence_loss(decoder(features, ids), ids).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    said = decoder.generate(features)
    assert said[:, :4].masked_fill(said[:, :4] == 1, 0).tolist() == ids.tolist()
