"""The native kernels compute what plain torch computes, forward and backward."""

import runpy

import pytest
import torch

from vla_ros.models import mamba_native
from vla_ros.models.linear import Linear
from vla_ros.models.mamba import Mamba1, Mamba2, MambaStack, MambaState, RMSNorm

pytestmark = pytest.mark.skipif(
    not mamba_native.in_use(), reason="the native kernels were not built or are switched off"
)


def both_ways(monkeypatch, compute):
    """What compute() gives with the kernels, and in plain torch."""
    native = compute()
    with monkeypatch.context() as patch:
        patch.setattr(mamba_native, "enabled", False)
        assert not mamba_native.in_use()
        return native, compute()


def assert_same(actual, expected):
    """Gradients are sums over a batch's steps in another order: 1e-5 of the largest, now and then.
    Anything that is forgotten in a kernel shows in the first digits."""
    for one, other in zip(actual, expected, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, atol=1e-4 * max(scale, 1.0), rtol=0)


@pytest.mark.parametrize("batch, length", [(3, 1), (2, 3), (1, 31), (2, 32), (1, 33), (2, 100)])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: Mamba2(32, d_state=16, headdim=16),
        lambda: Mamba2(32, d_state=64, headdim=64),
        lambda: Mamba2(16, d_state=32, headdim=32, d_conv=2),
        lambda: Mamba1(32, d_state=16),
        lambda: Mamba1(16, d_state=32, d_conv=3),
    ],
)
def test_a_layer_and_its_gradients(monkeypatch, layer, batch, length):
    torch.manual_seed(0)
    layer = layer()
    with torch.no_grad():
        layer.D.uniform_(-1, 1)
        layer.conv1d.bias.uniform_(-1, 1)
    u = torch.randn(batch, length, layer.in_proj.in_features, requires_grad=True)
    state = MambaState(*(torch.randn_like(part) for part in layer.initial_state(batch)))
    inputs = [u, *(part.requires_grad_() for part in state), *layer.parameters()]
    weights = [torch.randn_like(u), *map(torch.randn_like, state)]

    def compute():
        y, after = layer(u, state)
        outputs = [y, *after]
        loss = sum((w * out).sum() for w, out in zip(weights, outputs, strict=True))
        return [*outputs, *torch.autograd.grad(loss, inputs)]

    assert_same(*both_ways(monkeypatch, compute))


def test_extreme_inputs(monkeypatch):
    torch.manual_seed(0)
    stack = MambaStack(32, 2, 16)
    with torch.no_grad():
        for layer in stack.layers:
            layer.mixer.dt_bias.copy_(torch.tensor([30.0]))  # the state forgets everything at once
    for size in (0.0, 1e-20, 1e4):
        x = size * torch.randn(1, 10, 32)
        native, plain = both_ways(monkeypatch, lambda x=x: stack(x)[0].detach())
        assert_same([native], [plain])


@torch.no_grad()
def test_nan_comes_out_of_what_it_went_into():
    torch.manual_seed(0)
    for mixer in ("mamba1", "mamba2"):
        stack = MambaStack(32, 1, 16, mixer)
        x = torch.randn(1, 10, 32)
        x[:, 5] = torch.nan
        y, _ = stack(x)
        assert y[:, :5].isfinite().all() and y[:, 5:].isnan().all()
        y, _ = stack.step(x[:, 5], stack.initial_state(1))
        assert y.isnan().all()


def test_norm_and_its_gradients(monkeypatch):
    torch.manual_seed(0)
    norm = RMSNorm(48)
    x = torch.randn(5, 7, 48, requires_grad=True)
    weight = torch.randn(5, 7, 48)

    def compute():
        y = norm(x)
        return [y, *torch.autograd.grad((y * weight).sum(), [x, norm.weight])]

    assert_same(*both_ways(monkeypatch, compute))


def test_linear_and_its_gradients():
    torch.manual_seed(0)
    fast = Linear(48, 40)
    plain = torch.nn.Linear(48, 40)
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(3, 50, 48, requires_grad=True)
    weight = torch.randn(3, 50, 40)
    results = []
    for linear in (fast, plain):
        y = linear(x)
        results.append([y, *torch.autograd.grad((y * weight).sum(), [x, *linear.parameters()])])
    assert_same(*results)


@torch.no_grad()
def test_a_step_sees_weights_that_were_changed_or_replaced():
    torch.manual_seed(0)
    stack, other = MambaStack(32, 2, 16), MambaStack(32, 2, 16)
    x = torch.randn(1, 32)
    expected, _ = other.step(x, other.initial_state(1))
    assert not torch.equal(stack.step(x, stack.initial_state(1))[0], expected)
    stack.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(stack.step(x, stack.initial_state(1))[0], expected)
    other.layers[0].mixer.out_proj.weight.mul_(2)  # shared with stack now
    changed, _ = stack.step(x, stack.initial_state(1))
    assert not torch.equal(changed, expected)


@pytest.mark.parametrize("mixer", ["mamba1", "mamba2"])
@torch.no_grad()
def test_states_in_any_layout_and_no_other_shape(mixer):
    torch.manual_seed(0)
    stack = MambaStack(32, 1, 16, mixer)
    x = torch.randn(1, 4, 32)
    _, (state,) = stack(x)
    spread = MambaState(*(part.transpose(1, 2).contiguous().transpose(1, 2) for part in state))
    assert torch.equal(stack(x, [spread])[0], stack(x, [state])[0])
    for wrong in (stack.initial_state(2), [MambaState(state.conv, state.ssm[..., :8])]):
        with pytest.raises(ValueError, match="state|past"):
            stack(x, wrong)
        with pytest.raises(ValueError, match="state"):
            stack.step(x[:, 0], wrong)
    with pytest.raises(ValueError, match="float32"):
        stack.step(x[:, 0], [MambaState(state.conv, state.ssm.double())])


@pytest.mark.parametrize("mixer", ["mamba1", "mamba2"])
def test_kernels_go_on_from_plain_states(monkeypatch, mixer):
    torch.manual_seed(0)
    stack = MambaStack(32, n_layers=2, d_state=16, mixer=mixer)
    u = torch.randn(1, 12, 32)
    with torch.no_grad():
        whole, _ = stack(u)
        monkeypatch.setattr(mamba_native, "enabled", False)
        _, states = stack(u[:, :10])
        _, states = stack.step(u[:, 10], states)
        assert all(state.conv.is_contiguous() for state in states), "no view of the history"
        monkeypatch.setattr(mamba_native, "enabled", True)
        last, _ = stack.step(u[:, 11], states)
    torch.testing.assert_close(last, whole[:, 11], atol=1e-5, rtol=1e-5)


def test_the_environment_switches_the_kernels_off(monkeypatch):
    monkeypatch.setenv("VLA_ROS_KERNELS", "off")
    assert not runpy.run_path(mamba_native.__file__)["in_use"]()
    monkeypatch.delenv("VLA_ROS_KERNELS")
    assert runpy.run_path(mamba_native.__file__)["in_use"]()
