"""The parallel and the recurrent form are one model; the state carries everything that matters."""

import pytest
import torch

from vla_ros.models.mamba import Mamba2
from vla_ros.models.scans import ssd


@pytest.fixture
def layer() -> Mamba2:
    torch.manual_seed(0)
    return Mamba2(d_model=32, d_state=16, headdim=16, chunk=8).eval()


def run_steps(layer: Mamba2, u: torch.Tensor, state):
    outputs = []
    for t in range(u.shape[1]):
        y, state = layer.step(u[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


@pytest.mark.parametrize("length", [1, 3, 7, 8, 9, 100])
def test_steps_equal_the_parallel_form(layer, length):
    u = torch.randn(2, length, 32)
    with torch.no_grad():
        parallel, end = layer(u)
        stepped, last = run_steps(layer, u, layer.initial_state(2))
    torch.testing.assert_close(stepped, parallel, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last.ssm, end.ssm, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last.conv, end.conv, atol=1e-6, rtol=1e-6)


def test_a_prefilled_state_continues_the_sequence(layer):
    u = torch.randn(1, 50, 32)
    with torch.no_grad():
        whole, _ = layer(u)
        _, state = layer(u[:, :31])
        rest, _ = layer(u[:, 31:], state)
        stepped, _ = run_steps(layer, u[:, 31:], state)
    torch.testing.assert_close(rest, whole[:, 31:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stepped, whole[:, 31:], atol=1e-5, rtol=1e-5)


def test_the_chunk_length_changes_nothing(layer):
    u = torch.randn(1, 70, 32)
    results = []
    with torch.no_grad():
        for chunk in (1, 5, 64, 128):
            layer.chunk = chunk
            results.append(layer(u)[0])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=1e-5)


def test_the_future_never_reaches_the_past(layer):
    u = torch.randn(1, 20, 32)
    changed = u.clone()
    changed[:, 12:] += 1.0
    with torch.no_grad():
        before, after = layer(u)[0], layer(changed)[0]
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


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


def test_gradients_are_right():
    torch.manual_seed(2)
    inputs = [
        torch.randn(1, 6, 2, 3, dtype=torch.float64, requires_grad=True),
        torch.rand(1, 6, 2, dtype=torch.float64).add(0.1).requires_grad_(),
        (-torch.rand(2, dtype=torch.float64)).requires_grad_(),
        torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True),
        torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True),
        torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True),
    ]
    assert torch.autograd.gradcheck(lambda *args: ssd(*args, 4), inputs)
