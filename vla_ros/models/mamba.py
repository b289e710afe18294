"""Selective state-space layers: Mamba-2 (Dao and Gu 2024, "Transformers are SSMs", arXiv
2405.21060) and Mamba-1 (Gu and Dao 2023, "Mamba", arXiv 2312.00752).

A layer has two forms with the same numbers: `forward` over a whole sequence for training, and
`step` for one input at a time at constant cost on the robot. Parameters carry mamba-ssm's names and
shapes, so weights of transformers' backbones load unrenamed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models import mamba_native
from vla_ros.models.linear import Linear, QuantizedLinear
from vla_ros.models.scans import convolve, mamba1_scan, mamba2_scan


class MambaState(NamedTuple):
    """What one layer remembers.

    `conv` [B, channels, d_conv - 1] holds the past inputs of the convolution (before its
    activation); `ssm`, always fp32, is [B, heads, headdim, d_state] in Mamba-2 and
    [B, d_inner, d_state] in Mamba-1.
    """

    conv: Tensor
    ssm: Tensor


class Mamba2(nn.Module):
    """One Mamba-2 mixer. Maps [B, L, d_model] to the same shape, causally.

    Args:
        d_model: width of input and output.
        d_state: state size of each head channel.
        d_conv: kernel of the causal depthwise convolution.
        expand: inner width as a multiple of d_model.
        headdim: channels of a head; divides expand * d_model.
        chunk: length of the blocks of the parallel form; changes speed, not results.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        d_inner = expand * d_model
        if d_inner % headdim:
            raise ValueError(f"headdim {headdim} does not divide the inner width {d_inner}")
        self.d_inner, self.d_state, self.d_conv = d_inner, d_state, d_conv
        self.headdim, self.heads, self.chunk = headdim, d_inner // headdim, chunk
        self.dt_rank = 0
        conv_dim = d_inner + 2 * d_state
        self.in_proj = Linear(d_model, d_inner + conv_dim + self.heads, bias=False)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, d_conv, groups=conv_dim)
        # Decays start uniform in [1, 16] (section 5).
        self.dt_bias = nn.Parameter(_initial_dt_bias(self.heads))
        self.A_log = nn.Parameter(torch.log(torch.empty(self.heads).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(d_inner)
        self.out_proj = Linear(d_inner, d_model, bias=False)

    def initial_state(self, batch: int) -> MambaState:
        return _zeros(self.conv1d, batch, self.heads, self.headdim, self.d_state)

    def forward(self, u: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """Parallel form.

        Args:
            u: [B, L, d_model].
            state: what came before; None starts from nothing.

        Returns:
            [B, L, d_model] and the state after the last input.
        """
        past, ssm = state or (None, None)
        z, xbc, dt = self._project(u)
        # Half precision would let the state drift.
        with torch.autocast(u.device.type, enabled=False):
            xbc, conv = convolve(self.conv1d, xbc, past)
            x, b, c = xbc.split([self.d_inner, self.d_state, self.d_state], dim=-1)
            a = -self.A_log.float().exp()
            y, ssm = mamba2_scan(x, dt, a, b, c, self.D.float(), z, ssm, self.chunk)
        return self.out_proj(self.norm(y).to(u.dtype)), MambaState(conv, ssm)

    def step(self, u: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Recurrent form: h = exp(dt A) h + dt x B^T, y = h C + D x (equation 1, discretised).

        Args:
            u: [B, d_model], the next input.
            state: after the previous input.
        """
        z, xbc, dt = self._project(u)
        xbc, conv = _convolve_step(self.conv1d, xbc, state.conv)
        x, b, c = xbc.float().split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.unflatten(-1, (self.heads, self.headdim))
        decay = torch.exp(-dt * self.A_log.float().exp())
        ssm = decay[:, :, None, None] * state.ssm
        ssm = ssm + (dt[:, :, None] * x)[..., None] * b[:, None, None, :]
        y = (ssm @ c[:, None, :, None]).squeeze(-1) + self.D[:, None] * x
        y = self.norm(y.flatten(-2) * F.silu(z.float()))
        return self.out_proj(y.to(u.dtype)), MambaState(conv, ssm)

    def _project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate z, convolution input xBC, and positive time steps dt; all fp32."""
        conv_dim = self.conv1d.in_channels
        z, xbc, dt = self.in_proj(u).float().split([self.d_inner, conv_dim, self.heads], dim=-1)
        return z, xbc, F.softplus(dt + self.dt_bias.float())


class Mamba1(nn.Module):
    """One Mamba-1 mixer. Maps [B, L, d_model] to the same shape, causally.

    Args:
        d_model: width of input and output.
        d_state: state size of each channel.
        d_conv: kernel of the causal depthwise convolution.
        expand: inner width as a multiple of d_model.
        dt_rank: rank of the projection to time steps; None is ceil(d_model / 16).
        chunk: length of the blocks of the parallel form; changes speed, not results.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        chunk: int = 16,
    ) -> None:
        super().__init__()
        d_inner = expand * d_model
        rank = dt_rank or math.ceil(d_model / 16)
        self.d_inner, self.d_state, self.d_conv = d_inner, d_state, d_conv
        self.headdim, self.dt_rank, self.chunk = 1, rank, chunk
        self.in_proj = Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner)
        self.x_proj = Linear(d_inner, rank + 2 * d_state, bias=False)
        self.dt_proj = Linear(rank, d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        self.dt_proj.bias.data = _initial_dt_bias(d_inner)
        # Decays start as 1, 2, ..., d_state in every channel (section 3.6).
        decays = torch.arange(1.0, d_state + 1).repeat(d_inner, 1)
        self.A_log = nn.Parameter(torch.log(decays))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = Linear(d_inner, d_model, bias=False)

    def initial_state(self, batch: int) -> MambaState:
        return _zeros(self.conv1d, batch, self.d_inner, self.d_state)

    def forward(self, u: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """Parallel form.

        Args:
            u: [B, L, d_model].
            state: what came before; None starts from nothing.

        Returns:
            [B, L, d_model] and the state after the last input.
        """
        past, ssm = state or (None, None)
        x, z = self.in_proj(u).float().chunk(2, dim=-1)
        with torch.autocast(u.device.type, enabled=False):
            x, conv = convolve(self.conv1d, x, past)
        dt, b, c = self._select(x)
        with torch.autocast(u.device.type, enabled=False):
            a = -self.A_log.float().exp()
            y, ssm = mamba1_scan(x, dt, a, b, c, self.D.float(), z, ssm, self.chunk)
        return self.out_proj(y.to(u.dtype)), MambaState(conv, ssm)

    def step(self, u: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Recurrent form: h = exp(dt A) h + dt B x, y = h C + D x (equation 2, discretised).

        Args:
            u: [B, d_model], the next input.
            state: after the previous input.
        """
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, conv = _convolve_step(self.conv1d, x, state.conv)
        dt, b, c = self._select(x)
        decay = torch.exp(-dt[..., None] * self.A_log.float().exp())
        ssm = decay * state.ssm + (dt * x)[..., None] * b[:, None]
        y = ((ssm @ c[..., None]).squeeze(-1) + self.D * x) * F.silu(z.float())
        return self.out_proj(y.to(u.dtype)), MambaState(conv, ssm)

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positive time steps dt [..., d_inner], B and C [..., d_state] of x; all fp32."""
        dt, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = F.linear(dt, self.dt_proj.weight).float() + self.dt_proj.bias.float()
        return F.softplus(dt), b.float(), c.float()


class Block(nn.Module):
    """One layer of a stack: a norm and a mixer."""

    def __init__(self, norm: RMSNorm, mixer: Mamba1 | Mamba2) -> None:
        super().__init__()
        self.norm, self.mixer = norm, mixer


class MambaStack(nn.Module):
    """Pre-norm residual blocks, x = x + mixer(norm(x)).

    Args:
        d_model: width of input and output.
        n_layers: number of blocks.
        d_state: state size of each channel.
        mixer: "mamba2" or "mamba1".

    Raises:
        ValueError: another mixer.
    """

    def __init__(self, d_model: int, n_layers: int, d_state: int, mixer: str = "mamba2") -> None:
        super().__init__()
        mixers = {"mamba2": Mamba2, "mamba1": Mamba1}
        if mixer not in mixers:
            raise ValueError(f'mixer is {mixer!r}: give "mamba2" or "mamba1"')
        self.layers = nn.ModuleList(
            Block(RMSNorm(d_model), mixers[mixer](d_model, d_state)) for _ in range(n_layers)
        )
        self._widths = (d_model, self.layers[0].mixer.d_inner, d_state)

    def initial_state(self, batch: int) -> list[MambaState]:
        return [layer.mixer.initial_state(batch) for layer in self.layers]

    def forward(
        self, x: Tensor, states: Sequence[MambaState] | None = None
    ) -> tuple[Tensor, list[MambaState]]:
        """Parallel form of [B, L, d_model]; `states` is what came before, None is nothing."""
        after = []
        for layer, state in zip(self.layers, states or [None] * len(self.layers), strict=True):
            y, state = layer.mixer(layer.norm(x), state)
            x = x + y
            after.append(state)
        return x, after

    def step(self, x: Tensor, states: Sequence[MambaState]) -> tuple[Tensor, list[MambaState]]:
        """Recurrent form of one input [B, d_model]; `states` stay as they were."""
        one = len(x) == 1 and not torch.is_grad_enabled()
        if one and mamba_native.serves(x, *self._widths):
            x, after = mamba_native.step(self.layers, x, states)
            return x, [MambaState(*state) for state in after]
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            y, state = layer.mixer.step(layer.norm(x), state)
            x = x + y
            after.append(state)
        return x, after


def quantize_(stack: MambaStack, precision: str) -> None:
    """Keep the in- and out-projections, nearly all of the weights, in "bf16" or "int8".

    A step at batch 1 takes the time of reading the weights, so it becomes faster; longer inputs do
    not. Activations, states and all arithmetic stay fp32. Inference only.

    Raises:
        ValueError: another precision, or a stack that has been quantised before.
    """
    if precision not in ("bf16", "int8"):
        raise ValueError(f'precision is {precision!r}: give "bf16" or "int8"')
    for layer in stack.layers:
        for name in ("in_proj", "out_proj"):
            linear = getattr(layer.mixer, name)
            if not isinstance(linear, Linear):
                raise ValueError("the stack is quantised already: quantise a fresh one")
            setattr(layer.mixer, name, QuantizedLinear(linear, precision))


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        if mamba_native.serves(self.weight, *self.weight.shape):
            return mamba_native.Norm.apply(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def _initial_dt_bias(size: int) -> Tensor:
    """Biases whose softplus, the time step, is log-uniform in [0.001, 0.1]."""
    dt = torch.exp(torch.empty(size).uniform_(math.log(0.001), math.log(0.1)))
    return dt + torch.log(-torch.expm1(-dt))


def _zeros(conv: nn.Conv1d, batch: int, *ssm: int) -> MambaState:
    weight = conv.weight
    past = weight.new_zeros(batch, conv.in_channels, conv.kernel_size[0] - 1)
    return MambaState(past, weight.new_zeros(batch, *ssm, dtype=torch.float32))


def _convolve_step(conv: nn.Conv1d, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    history = torch.cat([past, x[:, :, None]], dim=2)
    y = F.silu((history * conv.weight[:, 0]).sum(2) + conv.bias)
    return y, history[:, :, 1:].contiguous()
