"""The parts of the world model: causality, caches, codes, masks."""

import pytest
import torch
from rounding import assert_same_codes, quantized_by

from vla_ros.models.genie.dynamics import Dynamics, DynamicsConfig, schedule
from vla_ros.models.genie.latent_actions import LatentActionConfig, LatentActionModel
from vla_ros.models.genie.quantizers import FSQ, VQ, codebook_use
from vla_ros.models.genie.st_transformer import STTransformer
from vla_ros.models.genie.tokenizer import (
    TokenizerConfig,
    VideoTokenizer,
    foreground,
    moving,
)

TOKENIZER = TokenizerConfig(
    image_size=16, patch=4, channels=(8,), width=16, heads=2, decoder_width=16, decoder_heads=2,
    window=3, levels=(4, 3),
)  # fmt: skip
PATCHES = TokenizerConfig(
    image_size=16, patch=4, channels=(), width=16, heads=2, decoder_width=16, decoder_heads=2,
    window=3, quantizer="vq", codes=12, code_width=4,
)  # fmt: skip
LATENT = LatentActionConfig(
    image_size=16, patch=4, width=16, heads=2, encoder_layers=2, decoder_layers=1
)
DYNAMICS = DynamicsConfig(
    vocabulary=12, tokens=16, actions=8, width=16, heads=2, layers=2, window=3
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def unset(model):
    """The model in evaluation mode with weights that let everything through."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


# -- the transformer -------------------------------------------------------------------------------


def test_the_future_never_changes_the_past_and_the_window_ends():
    model = unset(STTransformer(16, 2, 2, positions=5, window=3))
    x = torch.randn(2, 9, 5, 16)
    y = model(x)
    later = x.clone()
    later[:, 6:] += 1.0
    assert torch.equal(model(later)[:, :6], y[:, :6])
    assert not torch.allclose(model(later)[:, 6:], y[:, 6:], atol=1e-3)
    # Two layers of window 3 reach 4 frames back, and not further.
    earlier = x.clone()
    earlier[:, 2] += 1.0
    assert not torch.allclose(model(earlier)[:, 6], y[:, 6], atol=1e-3)
    torch.testing.assert_close(model(earlier)[:, 7:], y[:, 7:], atol=1e-6, rtol=0)


def test_steps_give_what_the_parallel_form_gives_for_longer_than_the_window():
    model = unset(STTransformer(16, 2, 2, positions=5, window=3))
    x = torch.randn(2, 12, 5, 16)
    past, found = None, []
    for t in range(12):
        model.step(torch.randn(2, 1, 5, 16), past)  # a step that is only tried
        frame, past = model.step(x[:, t : t + 1], past)
        found.append(frame)
    torch.testing.assert_close(torch.cat(found, 1), model(x), atol=2e-5, rtol=1e-5)
    assert all(k.shape[-2] == v.shape[-2] == 2 for k, v in past)  # no longer than the window


def test_positions_matter_in_space_and_order_in_time():
    model = unset(STTransformer(16, 1, 2, positions=5, window=4))
    x = torch.randn(1, 4, 5, 16)
    turned = model(x.flip(2)).flip(2)
    assert not torch.allclose(turned, model(x), atol=1e-3)
    swapped = x[:, [1, 0, 2, 3]]
    assert not torch.allclose(model(swapped)[:, 3], model(x)[:, 3], atol=1e-4)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 18"):
        STTransformer(18, 1, 4, positions=2, window=2)


# -- codes -----------------------------------------------------------------------------------------


def test_fsq_codes_and_indices_are_each_other():
    fsq = FSQ((8, 5, 5, 5))
    index = torch.arange(fsq.size)
    codes = fsq.codes(index)
    assert fsq.size == 1000 and len(codes.unique(dim=0)) == 1000
    vectors = torch.special.logit((codes + 1) / 2, eps=1e-4) / 2
    again, found, _ = fsq(vectors)
    assert torch.equal(found, index)
    torch.testing.assert_close(again, codes)


def test_fsq_lets_gradients_through():
    x = torch.randn(6, 2, requires_grad=True)
    FSQ((4, 3))(x)[0].sum().backward()
    assert (x.grad > 0).all()


def test_a_dead_code_comes_back():
    vq = VQ(4, 3).train()
    near = torch.tensor([1.0, 0.0, -1.0])
    for _ in range(60):
        vq(near + 0.01 * torch.randn(32, 3))
    spread = torch.randn(64, 3)
    vq.idle[1:3] = 50
    for _ in range(10):
        _, index, _ = vq(spread)
    assert codebook_use(index, 4) == 1.0


def test_vq_learns_where_the_vectors_are_and_only_in_training():
    vq = VQ(2, 3).train()
    ways = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    for _ in range(300):
        vq(ways[torch.randint(2, (64,))])
    before = vq.codebook.clone()
    vq.eval()
    _, index, loss = vq(ways)
    assert len(index.unique()) == 2 and loss < 1e-3
    assert torch.equal(vq.codebook, before)


# -- tokenizer and latent actions ------------------------------------------------------------------


@pytest.mark.parametrize("config", [TOKENIZER, PATCHES], ids=["fsq", "vq"])
def test_the_tokenizer_is_causal_and_steps_as_it_trains(config):
    model = VideoTokenizer(config)
    model.quantizer.train()
    model(torch.rand(2, 3, 3, 16, 16))  # sets a codebook's beginning
    unset(model)
    frames = torch.rand(2, 6, 3, 16, 16)
    out = model(frames)
    tokens, vectors = out["tokens"], out["vectors"].detach()
    assert tokens.shape == (2, 6, 16) and int(tokens.max()) < config.vocabulary == 12
    assert len(tokens.unique()) > 3
    later = frames.clone()
    later[:, 4:] = 0.5
    assert torch.equal(model.encode(later)[:, :4], tokens[:, :4])
    decoded = model.decode(tokens)
    torch.testing.assert_close(decoded, out["frames"].clamp(0, 1), atol=1e-4, rtol=0)
    encoding = showing = None
    for t in range(6):
        found, encoding = model.encode_step(frames[:, t : t + 1], encoding)
        assert_same_codes(found[:, 0], tokens[:, t], model.quantizer, vectors[:, t])
        shown, showing = model.decode_step(tokens[:, t : t + 1], showing)
        torch.testing.assert_close(shown[:, 0], decoded[:, t], atol=1e-3, rtol=0)


def test_a_reference_is_drawn_upon_only_where_it_is_given():
    model = unset(VideoTokenizer(TOKENIZER))
    frames = torch.rand(2, 3, 3, 16, 16)
    tokens = model.encode(frames)
    alone = model.decode(tokens)
    drawn = model.decode(tokens, frames[:, 0])
    assert not torch.allclose(drawn, alone, atol=1e-2)
    assert not torch.allclose(model.decode(tokens, frames[:, 1]), drawn, atol=1e-2)
    mixed = model(frames, frames[:, 0], torch.tensor([True, False]))
    torch.testing.assert_close(mixed["frames"][0].clamp(0, 1), drawn[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(mixed["frames"][1].clamp(0, 1), alone[1], atol=1e-3, rtol=0)
    assert torch.equal(mixed["tokens"], tokens)  # what is told does not depend on it
    shown, past = model.decode_step(tokens[:, :1], None, frames[:, 0])
    torch.testing.assert_close(shown[:, 0], drawn[:, 0], atol=1e-3, rtol=0)
    shown, _ = model.decode_step(tokens[:, 1:2], past)  # the past holds nothing of it
    torch.testing.assert_close(shown[:, 0], alone[:, 1], atol=1e-3, rtol=0)


def test_an_untrained_decoder_shows_half_of_its_reference():
    model = VideoTokenizer(TOKENIZER).eval()
    frames = torch.rand(1, 1, 3, 16, 16)
    shown = model.decode(model.encode(frames), frames[:, 0])
    error = (shown - frames).abs().mean()
    assert error < 0.7 * (model.decode(model.encode(frames)) - frames).abs().mean()


def test_foreground_is_what_stands_out_or_moves():
    frames = torch.full((1, 2, 3, 64, 64), 0.4)
    frames[:, :, 0, 10:14, 10:14] = 0.9
    frames[:, 1, :, 40:44, 40:44] += 0.08
    front = foreground(frames)[0, :, 0]
    assert front[:, 11, 11].tolist() == [1, 1] and front[:, 30, 60].tolist() == [0, 0]
    assert front[:, 41, 41].tolist() == [0, 1]
    assert moving(frames)[0, :, 0, 41, 41].tolist() == [0, 1] and moving(frames)[0, 0].sum() == 0


def test_latent_actions_step_as_they_train_and_see_no_future():
    model = LatentActionModel(LATENT)
    model.train()
    model(torch.rand(4, 3, 3, 16, 16))
    encoder = unset(model).encoder
    frames = torch.rand(2, 6, 3, 16, 16)
    with quantized_by(encoder.quantizer) as given:
        _, index, _ = encoder(frames)
    (vectors,) = given
    later = frames.clone()
    later[:, 4:] = 0.5
    assert torch.equal(encoder(later)[1][:, :3], index[:, :3])
    past = None
    for t in range(6):
        found, past = encoder.step(frames[:, t : t + 1], past)
        if t > 0:
            wanted = index[:, t - 1]
            assert_same_codes(found, wanted, encoder.quantizer, vectors[:, t - 1])


def square_moves(count):
    """Clips [count, 2, 3, 16, 16] of a square that goes to the right or to the left; which."""
    frames, right = torch.zeros(count, 2, 3, 16, 16), torch.rand(count) < 0.5
    frames[:, 0, :, 6:10, 6:10] = 1.0
    frames[right, 1, :, 6:10, 10:14] = 1.0
    frames[~right, 1, :, 6:10, 2:6] = 1.0
    return frames, right


@torch.no_grad()
def codes_tell_the_way(model):
    """The two ways have codes of their own, and with another clip's code the guess is far off."""
    model.eval()
    frames, right = square_moves(32)
    out = model(frames)
    codes = out["actions"][:, 0]
    swapped = model.encoder.quantizer.codes(codes.roll(1))[:, None]
    told = ((out["frames"] - frames[:, 1:]) ** 2).mean()
    astray = ((model.predict(frames[:, :1], swapped) - frames[:, 1:]) ** 2).mean()
    model.train()
    return not set(codes[right].tolist()) & set(codes[~right].tolist()) and told < 0.2 * astray


def test_the_decoder_of_latent_actions_must_use_them():
    """Nothing but the code tells where the square goes; after a little training it does.

    When that comes is chance: 100 to 500 steps. It is waited for, from up to three beginnings.
    """
    for _ in range(3):
        model = LatentActionModel(LATENT).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(600):
            frames, _ = square_moves(16)
            out = model(frames)
            loss = ((out["frames"] - frames[:, 1:]) ** 2).mean() + out["commitment"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            if step % 20 == 19 and codes_tell_the_way(model):
                return
    pytest.fail("the decoder does without the codes")


# -- dynamics --------------------------------------------------------------------------------------


def test_the_schedule_is_a_cosine_that_ends_at_none():
    assert schedule(64, 1) == [0]
    left = schedule(64, 8)
    assert left[0] == 62 and left[3] == 45 and left[-1] == 0
    for count, steps in ((64, 64), (64, 25), (5, 5), (16, 3)):
        left = [count, *schedule(count, steps)]
        assert all(a > b for a, b in zip(left, left[1:], strict=False)) and left[-1] == 0
    for steps in (0, 65):
        with pytest.raises(ValueError, match="give 1 to 64"):
            schedule(64, steps)


def test_masks_are_bernoulli_with_a_rate_a_frame():
    model = Dynamics(DYNAMICS)
    shares = model.rates(torch.zeros(400, 5, 200)).float().mean(-1).flatten()
    assert 0.3 < shares.min() < 0.55 and shares.max() > 0.97
    assert abs(shares.mean() - 0.75) < 0.02 and abs(shares.std() - 0.5 / 12**0.5) < 0.02


def test_hidden_frames_see_what_a_rollout_sees():
    """Training in parallel gives the same logits as running with a cache."""
    model = unset(Dynamics(DYNAMICS))
    tokens, actions = torch.randint(12, (2, 7, 16)), torch.randint(8, (2, 6))
    hide = torch.rand(2, 6, 16) < 0.6
    logits, prior = model(tokens, actions, hide)
    whole = torch.zeros(2, 6, 16, 12)
    whole[hide] = logits
    past = None
    for t in range(7):
        action = actions[:, t - 1] if t else None
        if t:
            covered = tokens[:, t].masked_fill(hide[:, t - 1], model.hidden)
            found, _, _ = model.step(covered, action, past)
            now = hide[:, t - 1]
            torch.testing.assert_close(found[now], whole[:, t - 1][now], atol=1e-4, rtol=1e-4)
        _, next_action, past = model.step(tokens[:, t], action, past)
        if t < 6:
            torch.testing.assert_close(next_action, prior[:, t], atol=1e-4, rtol=1e-4)


def test_logits_depend_on_the_action_and_not_on_the_future():
    model = unset(Dynamics(DYNAMICS))
    tokens, actions = torch.randint(12, (1, 5, 16)), torch.zeros(1, 4, dtype=torch.int64)
    hide = torch.ones(1, 4, 16, dtype=torch.bool)
    logits = model(tokens, actions, hide)[0].unflatten(0, (4, 16))
    other = tokens.clone()
    other[:, 3:] = (other[:, 3:] + 1) % 12
    assert torch.equal(model(other, actions, hide)[0].unflatten(0, (4, 16))[:3], logits[:3])
    asked = actions.clone()
    asked[:, 2] = 5
    moved = model(tokens, asked, hide)[0].unflatten(0, (4, 16))
    assert torch.equal(moved[:2], logits[:2]) and not torch.allclose(moved[2], logits[2])


def test_the_mask_is_inside_the_embedding_and_is_never_drawn():
    model = unset(Dynamics(DYNAMICS))
    assert model.hidden == 12 and model.embed.num_embeddings == 13
    _, _, past = model.step(torch.randint(12, (3, 16)), None, None)
    for steps, temperature in ((1, 1.0), (4, 0.0), (16, 2.0)):
        tokens = model.sample(
            torch.zeros(3, dtype=torch.int64), past, steps=steps, temperature=temperature
        )
        assert tokens.shape == (3, 16) and 0 <= tokens.min() and tokens.max() < 12


def test_temperature_spreads_what_is_drawn():
    model = unset(Dynamics(DYNAMICS))
    _, _, past = model.step(torch.randint(12, (1, 16)).repeat(64, 1), None, None)
    action = torch.zeros(64, dtype=torch.int64)

    def spread(temperature):
        generator = torch.Generator().manual_seed(0)
        drawn = model.sample(action, past, steps=1, temperature=temperature, generator=generator)
        return sum(len(drawn[:, i].unique()) for i in range(16)) / 16

    assert spread(0.0) == 1.0 < spread(0.5) < spread(5.0)


def test_likelihood_is_of_the_groups_in_turn():
    model = unset(Dynamics(DYNAMICS))
    _, _, past = model.step(torch.randint(12, (1, 16)), None, None)
    tokens, actions = torch.randint(12, (1, 16)), torch.tensor([2, 5])
    found = model.log_likelihood(tokens, actions, past, rounds=1)
    for i, action in enumerate(actions):
        logits, _, _ = model.step(torch.full((1, 16), 12), action[None], past)
        wanted = logits.log_softmax(-1).gather(-1, tokens[..., None]).sum()
        torch.testing.assert_close(found[i], wanted, atol=1e-4, rtol=1e-4)
    # One token a round is the chain rule; its first factor is that of one round.
    chain = model.log_likelihood(tokens, actions, past, rounds=16)
    assert chain.shape == (2,) and (chain < 0).all() and not torch.allclose(chain, found)
