"""The parallel and the recurrent form are one model; the state carries everything that matters."""

import pytest
import torch

from vla_ros.models import mamba_native
from vla_ros.models.mamba import Mamba1, Mamba2, MambaStack, MambaState, quantize_
from vla_ros.models.scans import SelectiveScan, ssd

WIDTH = 32
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["kernels", "plain"])
def way(request, monkeypatch) -> str:
    """Both ways to compute: the native kernels (where they were built) and plain torch."""
    if request.param == "plain":
        monkeypatch.setattr(mamba_native, "enabled", False)
    elif not mamba_native.in_use():
        pytest.skip("the native kernels were not built or are switched off")
    return request.param


@pytest.fixture(params=["mamba2", "mamba1"])
def stack(request, way) -> MambaStack:
    torch.manual_seed(0)
    stack = MambaStack(WIDTH, n_layers=2, d_state=16, mixer=request.param).eval()
    for layer in stack.layers:
        layer.mixer.chunk = 8
    return stack


def run_steps(stack, x: torch.Tensor, states):
    outputs = []
    for t in range(x.shape[1]):
        y, states = stack.step(x[:, t], states)
        outputs.append(y)
    return torch.stack(outputs, dim=1), states


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def assert_same_states(actual: list[MambaState], expected: list[MambaState]):
    for one, other in zip(actual, expected, strict=True):
        assert one.ssm.dtype == torch.float32
        assert_same(one.ssm, other.ssm)
        assert_same(one.conv, other.conv)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 31, 32, 33, 100])
@torch.no_grad()
def test_steps_equal_the_parallel_form(stack, batch, length):
    x = torch.randn(batch, length, WIDTH)
    parallel, end = stack(x)
    stepped, last = run_steps(stack, x, stack.initial_state(batch))
    assert_same(stepped, parallel)
    assert_same_states(last, end)


@torch.no_grad()
def test_five_thousand_steps_do_not_drift(stack, way):
    if way == "plain":
        stack.layers = stack.layers[:1]  # slow, and enough
    x = torch.randn(1, 5000, WIDTH)
    parallel, end = stack(x)
    stepped, last = run_steps(stack, x, stack.initial_state(1))
    assert_same(stepped, parallel)
    assert_same_states(last, end)


@pytest.mark.parametrize("prefix", [1, 2, 31, 32])
@torch.no_grad()
def test_a_prefilled_state_continues_the_sequence(stack, prefix):
    x = torch.randn(2, 50, WIDTH)
    whole, _ = stack(x)
    _, states = stack(x[:, :prefix])
    rest, _ = stack(x[:, prefix:], states)
    stepped, _ = run_steps(stack, x[:, prefix:], states)
    assert_same(rest, whole[:, prefix:])
    assert_same(stepped, whole[:, prefix:])


@torch.no_grad()
def test_a_saved_state_brings_back_the_same_bits(stack):
    x = torch.randn(1, 20, WIDTH)
    _, states = stack(x[:, :9])
    saved = [MambaState(*(part.clone() for part in state)) for state in states]
    first, _ = run_steps(stack, x[:, 9:], states)
    again, _ = run_steps(stack, x[:, 9:], saved)
    assert torch.equal(first, again)
    for state, copy in zip(states, saved, strict=True):
        assert torch.equal(state.ssm, copy.ssm) and torch.equal(state.conv, copy.conv)


@torch.no_grad()
def test_the_future_never_reaches_the_past(stack):
    x = torch.randn(1, 40, WIDTH)
    changed = x.clone()
    changed[:, 12:] += 1.0
    before, after = stack(x)[0], stack(changed)[0]
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


@torch.no_grad()
def test_rows_of_a_batch_do_not_meet(stack):
    x = torch.randn(3, 20, WIDTH)
    together, states = stack(x)
    for i in range(3):
        alone, state = stack(x[i : i + 1])
        assert_same(together[i : i + 1], alone)
        assert_same_states([MambaState(s.conv[i : i + 1], s.ssm[i : i + 1]) for s in states], state)


@pytest.mark.parametrize("mixer", [Mamba1, Mamba2])
@torch.no_grad()
def test_the_chunk_length_changes_nothing(mixer, monkeypatch):
    monkeypatch.setattr(mamba_native, "enabled", False)
    torch.manual_seed(0)
    layer = mixer(WIDTH, d_state=16)
    u = torch.randn(1, 70, WIDTH)
    results = []
    for chunk in (1, 5, 64, 128):
        layer.chunk = chunk
        results.append(layer(u)[0])
    for other in results[1:]:
        assert_same(other, results[0])


def gradients(stack, x) -> list[torch.Tensor]:
    y, states = stack(x)
    loss = y.square().mean() + sum(state.ssm.square().mean() for state in states)
    return torch.autograd.grad(loss, [x, *stack.parameters()])


def test_gradients_repeat_bit_for_bit(stack):
    x = torch.randn(2, 40, WIDTH, requires_grad=True)
    for one, other in zip(gradients(stack, x), gradients(stack, x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("batch, length", [(16, 1), (4, 3), (2, 40)])
def test_it_trains_under_autocast(stack, batch, length):
    x = torch.randn(batch, length, WIDTH)
    target = torch.randn(batch, length, WIDTH)
    optimizer = torch.optim.Adam(stack.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, states = stack(x)
        assert all(state.ssm.dtype == torch.float32 for state in states)
        loss = (y.float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    exact, _ = stack(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = stack(x)
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("precision, error", [("bf16", 0.005), ("int8", 0.015)])
@torch.no_grad()
def test_quantised_projections_stay_close(stack, precision, error):
    x = torch.randn(1, 30, WIDTH)
    exact = stack(x)[0] - x
    quantize_(stack, precision)
    parallel = stack(x)[0]
    stepped, _ = run_steps(stack, x, stack.initial_state(1))
    assert_same(stepped, parallel)
    assert 0 < (parallel - x - exact).norm() < error * exact.norm()


def test_quantising_refuses_what_it_cannot_do(stack):
    with pytest.raises(ValueError, match="fp4"):
        quantize_(stack, "fp4")
    quantize_(stack, "int8")
    with pytest.raises(ValueError, match="already"):
        quantize_(stack, "bf16")


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="mamba3"):
        MambaStack(WIDTH, 1, 16, "mamba3")
    with pytest.raises(ValueError, match="headdim 24"):
        Mamba2(WIDTH, headdim=24)


def test_ssd_equals_the_recurrence_it_stands_for():
    torch.manual_seed(1)
    batch, length, heads, width, states = 2, 13, 3, 4, 5
    x = torch.randn(batch, length, heads, width, dtype=torch.float64)
    dt = torch.rand(batch, length, heads, dtype=torch.float64)
    a = -torch.rand(heads, dtype=torch.float64) * 3
    b = torch.randn(batch, length, states, dtype=torch.float64)
    c = torch.randn(batch, length, states, dtype=torch.float64)
    h = torch.randn(batch, heads, width, states, dtype=torch.float64)
    y, end = ssd(x, dt, a, b, c, h, chunk=4)
    for t in range(length):
        decay = (dt[:, t] * a).exp()[..., None, None]
        h = decay * h + torch.einsum("bh,bhp,bn->bhpn", dt[:, t], x[:, t], b[:, t])
        torch.testing.assert_close(y[:, t], torch.einsum("bhpn,bn->bhp", h, c[:, t]))
    torch.testing.assert_close(end, h)


def test_plain_gradients_are_right():
    torch.manual_seed(2)

    def draw(*shape):
        return torch.rand(*shape, dtype=torch.float64).add(0.1).requires_grad_()

    x, dt, b, c = draw(1, 6, 2, 3), draw(1, 6, 2), draw(1, 6, 4), draw(1, 6, 4)
    inputs = (x, dt, draw(2), b, c, draw(1, 2, 3, 4))
    assert torch.autograd.gradcheck(lambda x, dt, a, *rest: ssd(x, dt, -a, *rest, 4), inputs)
    inputs = (draw(2, 6, 3), draw(2, 6, 3), draw(3, 4), draw(2, 6, 4), draw(2, 6, 4), draw(2, 3, 4))
    assert torch.autograd.gradcheck(
        lambda x, dt, a, *rest: SelectiveScan.apply(x, dt, -a, *rest, 4), inputs
    )


@needs_cuda
@pytest.mark.parametrize("mixer", [Mamba1, Mamba2])
def test_cuda_gives_the_same_numbers(mixer):
    torch.manual_seed(0)
    layer = mixer(64, d_state=16)
    u = torch.randn(2, 100, 64)
    expected, state = layer(u)
    layer.cuda()
    actual, _ = layer(u.cuda())
    # mamba-ssm multiplies in TF32.
    torch.testing.assert_close(actual.cpu(), expected, atol=5e-3, rtol=5e-3)
    on_device = MambaState(*(part.cuda() for part in state))
    continued, _ = layer(u.cuda(), on_device)
    torch.testing.assert_close(continued.cpu(), layer.cpu()(u, state)[0], atol=5e-3, rtol=5e-3)
