"""The sequence operations of the Mamba layers: one meaning each, several ways to compute it.

On the CPU the kernels in native/ serve (see mamba_native.py); on CUDA, where mamba-ssm is
installed, its scans; else the plain torch forms below, which also define what is meant.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vla_ros.models import mamba_native


def convolve(conv: nn.Conv1d, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """silu(causal depthwise convolution) of x [B, L, C], and the new past [B, C, K - 1].

    `past` None is zeros.
    """
    if past is None:
        past = x.new_zeros(len(x), conv.in_channels, conv.kernel_size[0] - 1)
    if mamba_native.serves(conv.weight, conv.in_channels):
        return mamba_native.Convolution.apply(x, past, conv.weight, conv.bias)
    history = torch.cat([past, x.transpose(1, 2)], dim=2)
    y = F.silu(conv(history)).transpose(1, 2).to(x.dtype)
    # A state of its own: a view would keep the whole history.
    return y, history[:, :, history.shape[2] - past.shape[2] :].contiguous()


def mamba2_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor,
    state: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t a) h_t-1 + dt_t x_t B_t, y_t = (h_t C_t + d x_t) silu(z_t) with heads.

    Args:
        x, z: [B, L, H * P] inputs and gates.
        dt: [B, L, H] positive time steps.
        a, d: [H] negative decay rates and skips.
        b, c: [B, L, N], shared by all heads.
        state: [B, H, P, N] before the first input; None is zeros.
        chunk: block length of the plain form; changes speed, not results.

    Returns:
        y [B, L, H * P] and the state after the last input.
    """
    heads, headdim = len(a), x.shape[-1] // len(a)
    if mamba_native.serves(x, headdim, b.shape[-1]):
        before = None if state is None else state.flatten(1, 2)
        y, after = mamba_native.Scan.apply(x, dt, a, b, c, d, z, before)
        return y, after.unflatten(1, (heads, headdim))
    if state is None:
        state = x.new_zeros(len(x), heads, headdim, b.shape[-1])
    x, z = (tensor.unflatten(-1, (heads, headdim)) for tensor in (x, z))
    if x.is_cuda and (triton := _mamba_ssm("triton.ssd_combined")):
        y, state = triton.mamba_chunk_scan_combined(
            *(x, dt, a, b[:, :, None], c[:, :, None], chunk),
            D=d,
            z=z,
            initial_states=state,
            return_final_states=True,
        )
    else:
        y, state = ssd(x, dt, a, b, c, state, chunk)
        y = (y + d[:, None] * x) * F.silu(z)
    return y.flatten(-2), state


def mamba1_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    z: Tensor,
    state: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """The same with dt [B, L, D] and d [D] of each channel, a [D, N] and state [B, D, N].

    On CUDA, mamba-ssm's scan starts from nothing (state None) and no gradient comes back through
    the state it returns; with a state the plain form computes.
    """
    if state is None and x.is_cuda and (cuda := _mamba_ssm("selective_scan_interface")):
        x, dt, b, c, z = (tensor.transpose(1, 2) for tensor in (x, dt, b, c, z))
        y, state = cuda.selective_scan_fn(x, dt, a, b, c, d, z, return_last_state=True)
        return y.transpose(1, 2), state.detach()
    if mamba_native.serves(x, *a.shape):
        return mamba_native.Scan.apply(x, dt, a, b, c, d, z, state)
    if state is None:
        state = x.new_zeros(len(x), *a.shape)
    y, state = SelectiveScan.apply(x, dt, a, b, c, state, chunk)
    return (y + d * x) * F.silu(z), state


@cache
def _mamba_ssm(module: str) -> ModuleType | None:
    try:
        return import_module(f"mamba_ssm.ops.{module}")
    except ImportError:
        return None


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
    @once_differentiable
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
