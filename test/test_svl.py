"""The narrator's model: causality, caches, constraints, sampling, prefixes, checkpoints."""

import math
from dataclasses import replace

import pytest
import torch

from vla_ros.models.checkpoint import WEIGHTS
from vla_ros.models.svl import SVL
from vla_ros.models.svl_config import SVLConfig

PAD, BOS, EOS = 0, 1, 2
TINY = SVLConfig(24, context=32, width=24, heads=2, layers=2, prefix_width=5, prefix_tokens=4)
PROMPTS = [[BOS, 5, 6, 7], [BOS], [BOS, 9, 3, 3, 14, 8, 20]]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def unset(config=TINY, std=0.3):
    """A model with weights that let everything through."""
    model = SVL(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def pictures(rows):
    return torch.randn(rows, TINY.prefix_tokens, TINY.prefix_width)


def seen_only(*rows, of):
    return torch.tensor([b in rows for b in range(of)])


def word_for_word(model, prompt, count, prefix=None, allowed=None):
    """Greedy ids without any cache, and their log probability."""
    ids, total = list(prompt), 0.0
    for _ in range(count):
        logits = model(torch.tensor([ids]), prefix)[0, -1]
        if allowed is not None and (may := allowed(ids)) is not None:
            only = torch.full_like(logits, -math.inf)
            only[list(may)] = logits[list(may)]
            logits = only
        ids.append(int(logits.argmax()))
        total += logits.log_softmax(-1)[ids[-1]].item()
        if ids[-1] == EOS:
            break
    return ids[len(prompt) :], total


def said(generated):
    return [*generated.ids, EOS] if generated.ended else generated.ids


# -- what sees what --------------------------------------------------------------------------------


@pytest.mark.parametrize("sighted", [False, True])
def test_what_comes_later_changes_nothing_before(sighted):
    model, ids = unset(), torch.randint(3, 24, (2, 12))
    prefix = pictures(2) if sighted else None
    other = ids.clone()
    other[:, 7] = 23 - other[:, 7] % 10
    before, after = model(ids, prefix), model(other, prefix)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.isclose(before[:, 7:], after[:, 7:], atol=1e-3).all(-1).any()


def test_order_matters_and_pads_behind_do_not():
    model = unset(replace(TINY, layers=1))  # of two, the second might count what the first saw
    ids = torch.tensor([[BOS, 5, 6, 7]])
    swapped = model(torch.tensor([[BOS, 6, 5, 7]]))
    assert not torch.allclose(model(ids)[:, -1], swapped[:, -1], atol=1e-3)
    filled = torch.nn.functional.pad(ids, (0, 5), value=PAD)
    torch.testing.assert_close(model(filled)[:, :4], model(ids))
    torch.testing.assert_close(model.loss(filled), model.loss(ids))


def test_every_feature_reaches_every_id_and_places_in_the_picture_count():
    model, ids, prefix = unset(), torch.randint(3, 24, (1, 6)), pictures(1)
    logits = model(ids, prefix)
    for place in range(TINY.prefix_tokens):
        other = prefix.clone()
        other[:, place] = -other[:, place]
        assert not torch.isclose(model(ids, other), logits, atol=1e-3).all(-1).any()
    assert not torch.allclose(model(ids, prefix.flip(1)), logits, atol=1e-3)


def test_features_of_the_prefix_see_each_other_in_both_directions():
    # Ids that attend to the first feature only still learn of the last one.
    model, prefix = unset(), pictures(1)
    other = prefix.clone()
    other[:, -1] += 1.0
    inputs = []
    model.blocks[1].register_forward_hook(lambda _, args, __: inputs.append(args[0]))
    model(torch.tensor([[BOS]]), prefix)
    model(torch.tensor([[BOS]]), other)
    assert not torch.allclose(inputs[0][:, 0], inputs[1][:, 0], atol=1e-3)


def test_rows_without_a_prefix_are_as_if_there_were_none():
    model, ids, prefix = unset(), torch.randint(3, 24, (3, 6)), pictures(3)
    prefix[1] = math.nan
    logits = model(ids, prefix, seen_only(0, 2, of=3))
    torch.testing.assert_close(logits[1], model(ids)[1])
    torch.testing.assert_close(logits[::2], model(ids[::2], prefix[::2]))
    assert not torch.isclose(logits[0], model(ids)[0], atol=1e-3).all(-1).any()
    model.loss(ids, None, prefix, seen_only(0, 2, of=3)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# -- speaking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sight", ["blind", "all", "some"])
def test_the_cache_gives_what_whole_sequences_give(sight):
    model = unset()
    prefix = None if sight == "blind" else pictures(3)
    seen = seen_only(0, 1, of=3) if sight == "some" else None
    together = model.generate(PROMPTS, 20, prefix=prefix, seen=seen)
    assert len({tuple(one.ids) for one in together}) == 3, "prompts matter"
    for b, (prompt, one) in enumerate(zip(PROMPTS, together, strict=True)):
        sees = prefix is not None and (seen is None or seen[b])
        own = prefix[b : b + 1] if sees else None
        ids, chance = word_for_word(model, prompt, 20, own)
        assert said(one) == ids
        assert one.log_probability == pytest.approx(chance, abs=1e-3)
        row = torch.tensor([[*prompt, *ids]])
        answer = torch.arange(row.shape[1])[None] >= len(prompt)
        assert float(model.score(row, answer, own)) == pytest.approx(chance, abs=1e-3)


def test_it_stops_at_the_eos_and_for_want_of_room():
    model = unset()
    model.embed.weight.data[EOS] = 0.0
    cut = model.generate(PROMPTS, 6)
    assert [len(one.ids) for one in cut] == [6, 6, 6] and not any(one.ended for one in cut)

    def third(row):
        return [EOS] if len(row) >= 6 else [10, 11]

    rows = model.generate(PROMPTS, 6, allowed=third)
    assert [len(one.ids) for one in rows] == [2, 5, 0] and all(one.ended for one in rows)
    assert EOS not in {i for one in rows for i in one.ids}


def test_only_what_is_allowed_is_said_and_its_chances_sum_to_one():
    model = unset()
    asked = []

    def allowed(row):
        asked.append(list(row))
        return None if len(row) % 3 == 0 else range(10, 13) if row[-1] < 10 else [4, 5, EOS]

    greedy = model.generate(PROMPTS, 12, allowed=allowed)
    assert all(row in asked for row in PROMPTS)
    for prompt, one in zip(PROMPTS, greedy, strict=True):
        ids, chance = word_for_word(model, prompt, 12, allowed=allowed)
        assert said(one) == ids
        assert one.log_probability == pytest.approx(chance, abs=1e-3)
    free = model.generate(PROMPTS, 12)
    assert [one.ids for one in free] != [one.ids for one in greedy]

    drawn = model.generate([[BOS, 7]] * 300, 12, allowed=allowed, temperature=5.0, top_k=20)
    for one in drawn:
        row = [BOS, 7, *said(one)]
        for n in range(2, len(row)):
            may = allowed(row[:n])
            assert may is None or row[n] in may
    # One step: the chances of all that may be said are those of a distribution.
    ones = model.generate([[BOS, 7]] * 300, 1, allowed=lambda row: [4, 5, EOS], temperature=5.0)
    chances = {tuple(one.ids): one.log_probability for one in ones}
    assert len(chances) == 3 and sum(map(math.exp, chances.values())) == pytest.approx(1.0)


def frequencies(model, prompt, count=8000, **how):
    generator = torch.Generator().manual_seed(1)
    rows = model.generate([prompt] * count, 1, generator=generator, **how)
    ids = torch.tensor([said(one)[0] for one in rows])
    return torch.bincount(ids, minlength=TINY.vocab_size) / count


def test_temperature_and_top_k_act_on_logits():
    model = unset(std=0.25)
    logits = model(torch.tensor([[BOS, 8]]))[0, -1].detach()
    plain = logits.softmax(-1)

    def apart(one, other):
        return float((one - other).abs().sum() / 2)

    for temperature in (0.4, 1.0, 2.5):
        wanted = (logits / temperature).softmax(-1)
        assert apart(frequencies(model, [BOS, 8], temperature=temperature), wanted) < 0.03
        assert temperature == 1.0 or apart(wanted, plain) > 0.1, "or else this shows nothing"
    best = logits.topk(3)
    wanted = torch.zeros_like(logits).scatter(0, best.indices, (best.values / 2).softmax(-1))
    assert apart(frequencies(model, [BOS, 8], temperature=2.0, top_k=3), wanted) < 0.03
    # Too low a temperature is greedy, not a NaN; more than all ids are all ids.
    assert frequencies(model, [BOS, 8], count=50, temperature=1e-40)[logits.argmax()] == 1.0
    assert apart(frequencies(model, [BOS, 8], temperature=1.0, top_k=1000), plain) < 0.03
    hot = model.generate([[BOS, 8]] * 20, 1, temperature=9.0, top_k=2)
    for one in hot:  # as the model has it, however it was drawn
        assert one.log_probability == pytest.approx(float(plain.log()[said(one)[0]]), abs=1e-4)


def test_pads_are_never_said():
    model = unset()
    assert (model(torch.randint(0, 24, (2, 9)))[..., PAD] == -math.inf).all()
    assert frequencies(model, [BOS], temperature=50.0)[PAD] == 0.0


def test_the_same_generator_says_the_same():
    model = unset()

    def say(seed):
        generator = torch.Generator().manual_seed(seed)
        return model.generate(PROMPTS, 12, temperature=1.0, generator=generator)

    assert say(3) == say(3)
    assert say(3) != say(4)


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [16, 32, 64])
def test_near_bins_start_near_each_other(count):
    config = SVLConfig(300, coordinate_groups=((40, count), (200, 20)))
    weight = SVL(config).embed.weight.detach()

    def distances(first):
        bins = weight[first : first + count]
        return torch.stack([(bins[n:] - bins[:-n]).norm(dim=1).mean() for n in range(1, count)])

    apart = distances(40)
    assert (apart[1:5] > apart[:4]).all(), "each step away is a step further"
    assert 2 * apart[0] < apart[count // 4 :].min(), "what is far is further than what is near"
    other = distances(110)[: count // 2]  # of no group
    assert other.min() > 0.9 * other.max()
    assert weight[40 : 40 + count].std() == pytest.approx(float(weight[110:190].std()), rel=0.3)


def test_loss_and_score_are_about_the_targets_alone():
    model, ids = unset(), torch.randint(3, 24, (3, 8))
    ids[1, 5:] = PAD
    targets = torch.rand(3, 8) < 0.5
    targets[2] = False
    nats = model(ids).log_softmax(-1)
    chances = [[], [], []]
    for b in range(3):
        for t in range(1, 8):
            if targets[b, t] and ids[b, t] != PAD:
                chances[b].append(nats[b, t - 1, ids[b, t]].item())
    flat = sum(chances, [])
    assert model.loss(ids, targets).item() == pytest.approx(-sum(flat) / len(flat), rel=1e-4)
    wanted = torch.tensor([sum(row) for row in chances])
    torch.testing.assert_close(model.score(ids, targets), wanted, rtol=1e-4, atol=1e-4)
    assert wanted[2] == 0.0
    torch.testing.assert_close(model.loss(ids), model.loss(ids, torch.ones(3, 8) > 0))


def test_it_learns_eight_sentences_by_heart_some_from_what_it_sees():
    # The last four differ in what is seen only.
    prompts = [[BOS, 30 + n] for n in range(4)] + [[BOS, 34]] * 4
    answers = torch.randint(3, 30, (8, 18)).tolist()
    prefix, seen = torch.randn(8, 3, 6), torch.arange(8) >= 4
    ids = torch.tensor([[*p, *a, EOS] for p, a in zip(prompts, answers, strict=True)])
    targets = torch.arange(ids.shape[1]).expand_as(ids) >= 2
    model = SVL(
        SVLConfig(40, context=24, width=64, heads=2, layers=2, prefix_width=6, prefix_tokens=3)
    )
    first = model.loss(ids, targets, prefix, seen).item()
    assert first == pytest.approx(math.log(40), rel=0.1), "it begins without an opinion"
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):  # 45 are enough
        loss = model.loss(ids, targets, prefix, seen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    out = model.generate(prompts, 19, prefix=prefix, seen=seen)
    assert [one.ids for one in out] == answers and all(one.ended for one in out)


def test_it_learns_and_speaks_in_bfloat16():
    model, ids = SVL(TINY), torch.randint(3, 24, (4, 16))
    prefix = pictures(4)
    exact = model.loss(ids, None, prefix).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(ids, None, prefix.bfloat16())
        out = model.generate(PROMPTS, 4, prefix=prefix[:3])
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, rel=0.02)
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert len(out) == 3 and all(one.log_probability < 0 for one in out)


# -- checkpoints and bad input ---------------------------------------------------------------------


def test_a_checkpoint_brings_the_same_model(tmp_path):
    config = SVLConfig(60, 16, 24, 2, 1, 5, 4, coordinate_groups=((10, 8), (20, 30)))
    model = unset(config)
    model.save_pretrained(tmp_path)
    again = SVL.from_pretrained(tmp_path)
    assert again.config == config and not again.training
    ids, prefix = torch.randint(3, 60, (2, 9)), pictures(2)
    assert torch.equal(again(ids, prefix), model(ids, prefix))
    (tmp_path / WEIGHTS).write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"):
        SVL.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=WEIGHTS):
        SVL.from_pretrained(tmp_path)


def test_the_sizes_are_what_they_say():
    def count(size):
        config = SVLConfig.of(size, 1000, prefix_width=32, prefix_tokens=64)
        with torch.device("meta"):
            return sum(p.numel() for p in SVL(config).parameters())

    assert 4 * count("nano") < 5e6, "bytes of a checkpoint"
    assert 10e6 < count("small") < 12e6
    assert SVLConfig.of("nano", 1000, context=99).context == 99
    with pytest.raises(ValueError, match="'huge'.*nano, small"):
        SVLConfig.of("huge", 1000)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"width": 50, "heads": 4}, "even multiple"),
        ({"layers": 0}, "1 or more"),
        ({"prefix_width": 8}, "both"),
        ({"eos": 1}, "three ids below 40"),
        ({"pad": 40}, "three ids below 40"),
        ({"coordinate_groups": ((30, 11),)}, "within the vocabulary of 40"),
        ({"coordinate_groups": ((9, 5), (4, 6))}, "none in two groups"),
        ({"coordinate_groups": ((9, 1),)}, "two ids or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SVLConfig(40, **wrong)


IDS = torch.full((2, 5), 4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m(IDS + 20), "hold 24, but the vocabulary has 24 ids"),
        (lambda m: m(IDS - 5), "hold -1"),
        (lambda m: m(IDS.float()), "give int64"),
        (lambda m: m(IDS[0]), "give int64"),
        (lambda m: m(IDS[:, :0]), "not empty"),
        (lambda m: m(IDS.repeat(1, 7)), "35 ids.*context of 32: shorten"),
        (lambda m: m.loss(torch.tensor([[4, 4, 24]])), "hold 24"),
        (lambda m: m.loss(IDS[:, :1]), "T of 2 or more"),
        (lambda m: m.loss(IDS * 0), "no id is a target"),
        (lambda m: m.loss(IDS, IDS), r"give bool \[2, 5\]"),
        (lambda m: m.score(IDS, torch.ones(2, 4) > 0), r"give bool \[2, 5\]"),
        (lambda m: m(IDS, pictures(3)), r"\[3, 4, 5\]: give floating point \[2, 4, 5\]"),
        (lambda m: m(IDS, pictures(2).int()), "int32.*give floating point"),
        (lambda m: SVL(SVLConfig(9, 8, 8, 2, 1))(IDS, pictures(2)), "give none"),
        (lambda m: m(IDS, None, seen_only(0, of=2)), "only with a prefix"),
        (lambda m: m(IDS, pictures(2), seen_only(0, of=3)), r"give bool \[2\]"),
        (lambda m: m.generate([], 4), "one or more"),
        (lambda m: m.generate([[1], []], 4), "none empty"),
        (lambda m: m.generate([[1], [24]], 4), "hold 24"),
        (lambda m: m.generate([[1] * 30], 4), "34 ids.*context of 32: shorten"),
        (lambda m: m.generate([[1]], 0), "max_tokens 0"),
        (lambda m: m.generate([[1]], 4, temperature=-1.0), "temperature -1"),
        (lambda m: m.generate([[1]], 4, temperature=math.nan), "temperature nan"),
        (lambda m: m.generate([[1]], 4, top_k=0), "top_k 0"),
        (lambda m: m.generate([[1], [1, 7]], 4, allowed=lambda row: []), r"row 0 .* after \[1\]"),
        (lambda m: m.generate([[1]], 4, allowed=lambda row: [PAD]), "row 0 nothing to say"),
        (lambda m: m.generate([[1]], 4, allowed=lambda row: [3, 24]), "allowed.. returned 24"),
        (lambda m: m.generate([[1]], 4, allowed=lambda row: [-1]), "allowed.. returned -1"),
        (lambda m: m.generate([[1]], 4, prefix=pictures(2)), r"\[1, 4, 5\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(SVL(TINY))


def test_the_longest_prompt_and_answer_that_fit_are_said():
    model = unset()
    out = model.generate([[BOS] * 20, [BOS]], 12, allowed=lambda row: [5])
    assert [len(one.ids) for one in out] == [12, 12]
