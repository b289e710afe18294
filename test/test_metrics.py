"""Metrics of actions, trajectories and sentences, against oracles and what must not change them."""

import json
import sys

import numpy as np
import pytest

from vla_ros.training import metrics
from vla_ros.training.metrics import (
    ChunkErrors,
    SentenceEmbedder,
    path_length,
    resampled_interval,
    sentence_scores,
    trajectory_distance,
)

NAMES = ("x", "y", "grip")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# -- actions ---------------------------------------------------------------------------------------


def test_errors_are_those_of_a_loop_over_known_actions(rng):
    wanted = rng.normal(3.0, 0.5, (7, 4, 3))
    guess, other = wanted + rng.normal(size=(7, 4, 3)), np.zeros((7, 4, 3))
    known = np.arange(7)[:, None] + np.arange(4) < 7
    errors = ChunkErrors(NAMES, 4)
    errors.add(wanted, known, {"policy": guess, "zero": other})
    figures = errors.figures()
    for place in range(4):
        kept = [t for t in range(7) if known[t, place]]
        for column in range(3):
            values = wanted[kept, place, column]
            off = guess[kept, place, column] - values
            assert figures["mse"]["policy"][place][column] == pytest.approx((off**2).mean())
            assert figures["mse"]["zero"][place][column] == pytest.approx((values**2).mean())
            assert figures["mse"]["mean_action"][place][column] == pytest.approx(values.var())
    mse, variance = (np.array(figures["mse"][who]) for who in ("policy", "mean_action"))
    over = figures["over_variance"]["policy"]
    assert over["all"] == pytest.approx((mse / variance).mean())
    assert over["by_place"] == pytest.approx((mse / variance).mean(1).tolist())
    assert list(over["by_name"].values()) == pytest.approx((mse / variance).mean(0).tolist())
    assert figures["frames"] == 7 and set(figures["over_variance"]) == {"policy", "zero"}


def test_errors_are_the_same_added_at_once_in_parts_and_in_any_order(rng):
    wanted, guess = rng.normal(100.0, 1e-3, (2, 30, 2, 3))
    known = rng.random((30, 2)) < 0.8
    whole, parts = ChunkErrors(NAMES, 2), ChunkErrors(NAMES, 2)
    whole.add(wanted, known, {"policy": guess})
    order = rng.permutation(30)
    for rows in np.split(order, [0, 1, 12]):
        part = ChunkErrors(NAMES, 2)
        part.add(wanted[rows], known[rows], {"policy": guess[rows]})
        parts.merge(part)
    one, other = whole.figures(), parts.figures()
    for who in ("policy", "mean_action"):
        np.testing.assert_allclose(one["mse"][who], other["mse"][who], rtol=1e-6)


def test_equal_actions_have_no_error_and_the_unit_does_not_matter_over_the_variance(rng):
    wanted, known = rng.normal(size=(9, 2, 3)), np.ones((9, 2), bool)
    guess = wanted + 0.1 * rng.normal(size=wanted.shape)

    def over_variance(scale, guessed):
        errors = ChunkErrors(NAMES, 2)
        errors.add(scale * wanted, known, {"policy": scale * guessed})
        return errors.figures()["over_variance"]["policy"]["all"]

    assert over_variance(1.0, wanted) == 0.0
    assert over_variance(1000.0, guess) == pytest.approx(over_variance(1.0, guess))


def test_an_action_that_never_varies_has_no_error_over_its_variance(rng):
    wanted = rng.normal(size=(9, 2, 3)).astype(np.float32)
    wanted[..., 2] = 0.1  # which no float holds exactly
    known = np.ones((9, 2), bool)
    known[:, 1] = False  # an episode of one frame has one place only
    errors = ChunkErrors(NAMES, 2)
    errors.add(wanted, known, {"policy": wanted + 1.0})
    figures = errors.figures()
    over = figures["over_variance"]["policy"]
    assert over["by_name"]["grip"] is None and over["by_place"][1] is None
    assert over["all"] == pytest.approx(np.mean([over["by_name"]["x"], over["by_name"]["y"]]))
    assert figures["mse"]["policy"][1] == [None, None, None]
    assert figures["mse"]["mean_action"][0][2] == 0.0
    json.dumps(figures, allow_nan=False)


def test_what_has_come_to_rest_later_in_the_chunk_does_not_swamp_the_error_over_the_variance(rng):
    wanted = rng.normal(size=(9, 2, 3))
    wanted[:, 1, 2] = 0.01 + 1e-6 * rng.normal(size=9)  # a gripper that is closed by then
    errors = ChunkErrors(NAMES, 2)
    errors.add(wanted, np.ones((9, 2), bool), {"policy": wanted + 1.0})
    over = errors.figures()["over_variance"]["policy"]
    assert over["all"] < 100 and over["by_name"]["grip"] == pytest.approx(1 / wanted[:, 0, 2].var())


# -- trajectories ----------------------------------------------------------------------------------


def warped(one, other):
    """The textbook's recursion."""
    cost = np.linalg.norm(one[:, None] - other[None], axis=-1)
    total = np.full((len(one) + 1, len(other) + 1), np.inf)
    total[0, 0] = 0.0
    for i, j in np.ndindex(cost.shape):
        total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return total[-1, -1] / max(len(one), len(other))


@pytest.mark.parametrize("sizes", [(20, 33, 3), (33, 20, 7), (1, 12, 2), (1, 1, 1)])
def test_trajectories_are_as_far_apart_as_the_textbook_says(rng, sizes):
    first, second, width = sizes
    one, other = (np.cumsum(rng.normal(size=(n, width)), axis=0) for n in (first, second))
    assert trajectory_distance(one, other) == pytest.approx(warped(one, other))
    assert trajectory_distance(other, one) == pytest.approx(warped(one, other))
    as_floats = trajectory_distance(one.astype(np.float32), np.asfortranarray(other))
    assert as_floats == pytest.approx(warped(one, other), rel=1e-5)


def test_pace_does_not_part_trajectories_but_place_does(rng):
    path = np.cumsum(rng.normal(size=(30, 3)), axis=0)
    assert trajectory_distance(path, path) == 0.0
    assert trajectory_distance(path, np.repeat(path, 3, axis=0)) == 0.0
    away = trajectory_distance(path, path + [0.0, 0.0, 1e-3])
    assert 0.0 < away <= 1e-3 + 1e-12
    other = path + rng.normal(size=path.shape)
    far = trajectory_distance(path, other)
    assert trajectory_distance(10 * path, 10 * other) == pytest.approx(10 * far)


@pytest.mark.parametrize("shapes", [((0, 3), (4, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_paths_that_cannot_be_compared_are_refused(shapes):
    with pytest.raises(ValueError, match="cannot be compared"):
        trajectory_distance(*map(np.zeros, shapes))


def test_a_path_is_as_long_as_its_parts():
    assert path_length(np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])) == pytest.approx(6.0)
    assert path_length(np.zeros((1, 3))) == 0.0


# -- sentences -------------------------------------------------------------------------------------


def test_equal_sentences_score_a_hundred_and_others_nothing():
    truth = ["lifting the red cube", "holding it up"]  # the second is too short for a 4-gram
    for texts in (truth, truth[1:]):
        scores = sentence_scores(texts, texts)
        assert scores == pytest.approx(
            {"frames": len(texts), "exact": 100, "bleu": 100, "rouge1": 100, "rougeL": 100}
        )
    scores = sentence_scores(["a b c d e", "f g h"], truth)
    assert scores["exact"] == scores["rouge1"] == scores["rougeL"] == 0.0 and scores["bleu"] < 10


def test_sentences_score_what_is_worked_out_by_hand():
    """One word of four is wrong, in one frame of four; then the words come in another order."""
    truth = ["lifting the red cube"] * 4
    scores = sentence_scores([*truth[:3], "lifting the blue cube"], truth)
    assert scores["exact"] == 75.0
    assert scores["rouge1"] == scores["rougeL"] == pytest.approx(100 * (3 + 3 / 4) / 4)
    shares = 15 / 16, 10 / 12, 6 / 8, 3 / 4  # of 1- to 4-grams that are right
    assert scores["bleu"] == pytest.approx(100 * np.prod(shares) ** 0.25)
    swapped = sentence_scores(["red the lifting cube"], truth[:1])
    assert swapped["rouge1"] == 100.0 and swapped["rougeL"] == pytest.approx(50.0)


def test_the_order_of_frames_does_not_matter(rng):
    said = ["lifting the red cube", "moving to the red cube", "grasping the can", "lifting it"]
    truth = ["lifting the red cube", "grasping the red cube", "grasping the red can", "lifting it"]
    order = rng.permutation(4)
    again = sentence_scores([said[i] for i in order], [truth[i] for i in order])
    assert again == pytest.approx(sentence_scores(said, truth))


def test_sentences_without_counterparts_are_refused():
    for said, truth in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="cannot be compared"):
            sentence_scores(said, truth)


def test_semantic_similarity_is_the_mean_cosine():
    angles = {"one": 0.0, "near": 60.0, "other": 90.0}

    def embed(texts):
        turned = np.radians([angles[text] for text in texts])
        return np.stack([np.cos(turned), np.sin(turned)], axis=1)

    scores = sentence_scores(["one", "near", "other", "one"], ["one"] * 4, embed)
    assert scores["semantic"] == pytest.approx(100 * (1 + 0.5 + 0 + 1) / 4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder as a sentence encoder's, its weights of no use."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lifting", "the", "red", "cube"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
        )
    ).save_pretrained(folder)
    return folder


def test_embeddings_are_means_over_tokens_whatever_stands_beside_them(encoder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["lifting the red cube", "cube", "the red cube"]
    found = SentenceEmbedder(encoder)(texts)
    model, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            alone = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, alone / alone.norm(), atol=1e-5)
    assert sentence_scores(texts, texts, SentenceEmbedder(encoder))["semantic"] == pytest.approx(
        100.0, abs=1e-3
    )


def test_a_missing_encoder_is_told_with_the_cure(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="holds no config.json: give a folder as"):
        SentenceEmbedder(tmp_path)
    monkeypatch.setattr(metrics, "_MINILM", "no_such_wheel")
    with pytest.raises(FileNotFoundError, match=r"-r environment/minilm.txt"):
        SentenceEmbedder()


@pytest.mark.parametrize("package", ["dtaidistance", "rouge_score", "sacrebleu"])
def test_a_missing_package_is_told_with_the_cure(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for module in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(RuntimeError, match=rf"{package}.* is missing: pip install '\.\[eval\]'"):
        metrics.require()


def test_interval_of_rows_drawn_again_is_that_of_a_mean_and_pairs_are_drawn_apart(rng):
    values = rng.normal(2.0, 3.0, 400)
    low, high = resampled_interval(lambda rows: float(values[rows].mean()), [400], 2000)
    spread = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - spread, abs=0.05)
    assert high == pytest.approx(values.mean() + spread, abs=0.05)
    assert resampled_interval(lambda rows: float(values[rows].mean()), [400], 2000) == (low, high)

    def difference(some, others):
        assert some.max() < 300 and len(some) == 300 and len(others) == 100
        return float(values[:300][some].mean() - values[300:][others].mean())

    low, high = resampled_interval(difference, [300, 100], 500)
    assert low < values[:300].mean() - values[300:].mean() < high
