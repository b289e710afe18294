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


class MambaState(NamedTuple):
    """What one layer remembers.

    `conv` [B, channels, d_conv - 1] holds the past inputs of the convolution (before its
    activation); `ssm`, always fp32, is [B, heads, headdim, d_state] in Mamba-2 and
    [B, d_inner, d_state] in Mamba-1.
    """

    conv: Tensor
    ssm: Tensor


Mamba2State = MambaState


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
        conv_dim = d_inner + 2 * d_state
        self.in_proj = nn.Linear(d_model, d_inner + conv_dim + self.heads, bias=False)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, d_conv, groups=conv_dim)
        # Decays start uniform in [1, 16] (section 5).
        self.dt_bias = nn.Parameter(_initial_dt_bias(self.heads))
        self.A_log = nn.Parameter(torch.log(torch.empty(self.heads).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

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
        state = state or self.initial_state(len(u))
        z, xbc, dt = self._project(u)
        xbc, conv = _convolve(self.conv1d, xbc, state.conv)
        x, b, c = xbc.float().split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.unflatten(-1, (self.heads, self.headdim))
        # Half precision would let the state drift.
        with torch.autocast(u.device.type, enabled=False):
            y, ssm = ssd(x, dt, -self.A_log.float().exp(), b, c, state.ssm, self.chunk)
        y = (y + self.D[:, None] * x).flatten(-2)
        return self.out_proj(self.norm(y * F.silu(z.float())).to(u.dtype)), MambaState(conv, ssm)

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
        """Gate z, convolution input xBC, and positive time steps dt (fp32)."""
        conv_dim = self.conv1d.weight.shape[0]
        z, xbc, dt = self.in_proj(u).split([self.d_inner, conv_dim, self.heads], dim=-1)
        return z, xbc, F.softplus(dt.float() + self.dt_bias.float())


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
        self.d_inner, self.d_state, self.dt_rank, self.chunk = d_inner, d_state, rank, chunk
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner)
        self.x_proj = nn.Linear(d_inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        self.dt_proj.bias.data = _initial_dt_bias(d_inner)
        # Decays start as 1, 2, ..., d_state in every channel (section 3.6).
        decays = torch.arange(1.0, d_state + 1).repeat(d_inner, 1)
        self.A_log = nn.Parameter(torch.log(decays))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

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
        state = state or self.initial_state(len(u))
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, conv = _convolve(self.conv1d, x, state.conv)
        dt, b, c = self._select(x)
        a = -self.A_log.float().exp()
        with torch.autocast(u.device.type, enabled=False):
            y, ssm = SelectiveScan.apply(x.float(), dt, a, b, c, state.ssm, self.chunk)
        y = (y + self.D * x) * F.silu(z.float())
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
            nn.ModuleDict({"norm": RMSNorm(d_model), "mixer": mixers[mixer](d_model, d_state)})
            for _ in range(n_layers)
        )

    def initial_state(self, batch: int) -> list[MambaState]:
        return [layer["mixer"].initial_state(batch) for layer in self.layers]

    def forward(
        self, x: Tensor, states: Sequence[MambaState] | None = None
    ) -> tuple[Tensor, list[MambaState]]:
        """Parallel form of [B, L, d_model]; `states` is what came before, None is nothing."""
        after = []
        for layer, state in zip(self.layers, states or self.initial_state(len(x)), strict=True):
            y, state = layer["mixer"](layer["norm"](x), state)
            x = x + y
            after.append(state)
        return x, after

    def step(self, x: Tensor, states: Sequence[MambaState]) -> tuple[Tensor, list[MambaState]]:
        """Recurrent form of one input [B, d_model]; `states` stay as they were."""
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            y, state = layer["mixer"].step(layer["norm"](x), state)
            x = x + y
            after.append(state)
        return x, after


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


class SelectiveScan(torch.autograd.Function):
    """h_t = exp(dt_t A) h_t-1 + dt_t x_t B_t, y_t = h_t C_t, channel by channel.

    A whole chunk is discretised and read out at once; only the recurrence itself goes time step by
    time step, in place. Backward keeps the state before each chunk and computes the others again.

    apply(x [B, L, D], dt [B, L, D], a [D, N], b [B, L, N], c [B, L, N], state [B, D, N], chunk)
    returns y [B, L, D] and the state after the last input.
    """

    @staticmethod
    def forward(ctx, x, dt, a, b, c, state, chunk):
        y = torch.empty_like(x)
        befores = [state]
        for start in range(0, x.shape[1], chunk):
            part = slice(start, start + chunk)
            _, states = _scan_chunk(x[:, part], dt[:, part], a, b[:, part], befores[-1])
            y[:, part] = (states @ c[:, part, :, None]).squeeze(-1)
            befores.append(states[:, -1].clone())
        ctx.chunk = chunk
        ctx.save_for_backward(x, dt, a, b, c, *befores[:-1])
        return y, befores[-1]

    @staticmethod
    def backward(ctx, dy, dstate):
        x, dt, a, b, c, *befores = ctx.saved_tensors
        dx, ddt, db, dc = (torch.empty_like(t) for t in (x, dt, b, c))
        da = torch.zeros_like(a)
        for i, before in reversed(list(enumerate(befores))):
            part = slice(i * ctx.chunk, (i + 1) * ctx.chunk)
            xs, dts, bs, cs, dys = (t[:, part] for t in (x, dt, b, c, dy))
            decay, states = _scan_chunk(xs, dts, a, bs, before)
            dc[:, part] = (dys[:, :, None] @ states).squeeze(2)
            dstates = dys[..., None] * cs[:, :, None]
            for t in reversed(range(dys.shape[1])):
                dstates[:, t].add_(dstate)
                dstate = dstates[:, t] * decay[:, t]
            db[:, part] = ((dts * xs)[:, :, None] @ dstates).squeeze(2)
            dinput = (dstates @ bs[..., None]).squeeze(-1)
            dx[:, part] = dinput * dts
            # Of the exponent dt A, from here on in place.
            dstates[:, 0].mul_(before)
            dstates[:, 1:].mul_(states[:, :-1])
            dstates.mul_(decay)
            ddt[:, part] = dinput * xs + (dstates * a).sum(-1)
            da += (dstates * dts[..., None]).sum((0, 1))
        return dx, ddt, da, db, dc, dstate, None


def _scan_chunk(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, before: Tensor):
    """Decays and states [B, Q, D, N] of one chunk."""
    decay = torch.exp(dt[..., None] * a)
    states = (dt * x)[..., None] * b[:, :, None]
    for t in range(x.shape[1]):
        before = states[:, t].addcmul_(decay[:, t], before)
    return decay, states


def ssd(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Chunked state-space dual form (section 6): quadratic inside chunks, recurrent between them.

    Args:
        x: [B, L, H, P] inputs.
        dt: [B, L, H] positive time steps.
        a: [H] negative decay rates.
        b, c: [B, L, N], shared by all heads.
        state: [B, H, P, N] before the first input.
        chunk: block length.

    Returns:
        y [B, L, H, P] (without the D skip) and the state [B, H, P, N] after the last input.
    """
    outputs = []
    for start in range(0, x.shape[1], chunk):
        part = slice(start, start + chunk)
        bs, cs = b[:, part], c[:, part]
        log_decay = (dt[:, part] * a).cumsum(1).transpose(1, 2)  # [B, H, Q]
        xdt = (x[:, part] * dt[:, part, :, None]).transpose(1, 2)  # [B, H, Q, P]
        # Decay from source j to target i; the mask goes on before exp, which would overflow above.
        gap = log_decay[..., :, None] - log_decay[..., None, :]
        later = torch.ones(gap.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        decay = gap.masked_fill(later, -torch.inf).exp()
        scores = (cs @ bs.transpose(1, 2))[:, None]  # C B^T once, for all heads
        y = (scores * decay) @ xdt
        y = y + log_decay.exp()[..., None] * (cs[:, None] @ state.transpose(2, 3))
        outputs.append(y.transpose(1, 2))
        to_end = (log_decay[..., -1:] - log_decay).exp()
        state = (
            log_decay[..., -1].exp()[..., None, None] * state
            + (xdt * to_end[..., None]).transpose(2, 3) @ bs[:, None]
        )
    return torch.cat(outputs, dim=1), state


def _initial_dt_bias(size: int) -> Tensor:
    """Biases whose softplus, the time step, is log-uniform in [0.001, 0.1]."""
    dt = torch.exp(torch.empty(size).uniform_(math.log(0.001), math.log(0.1)))
    return dt + torch.log(-torch.expm1(-dt))


def _zeros(conv: nn.Conv1d, batch: int, *ssm: int) -> MambaState:
    weight = conv.weight
    past = weight.new_zeros(batch, conv.in_channels, conv.kernel_size[0] - 1)
    return MambaState(past, weight.new_zeros(batch, *ssm, dtype=torch.float32))


def _convolve(conv: nn.Conv1d, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """silu(causal depthwise convolution) of x [B, L, C], and the new past [B, C, K - 1]."""
    history = torch.cat([past.to(x.dtype), x.transpose(1, 2)], dim=2)
    return F.silu(conv(history)).transpose(1, 2), history[:, :, history.shape[2] - past.shape[2] :]


def _convolve_step(conv: nn.Conv1d, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    history = torch.cat([past, x[:, :, None]], dim=2)
    return F.silu((history * conv.weight[:, 0]).sum(2) + conv.bias), history[:, :, 1:]
