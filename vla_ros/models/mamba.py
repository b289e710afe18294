"""Mamba-2 (Dao and Gu 2024, "Transformers are SSMs", arXiv 2405.21060) in plain PyTorch.

One layer has two forms with the same numbers: `forward` over a whole sequence (the chunked
state-space-dual algorithm of section 6, matrix products only) for training, and `step` for one
input at a time at constant cost on the robot. Parameters carry mamba-ssm's names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Mamba2State:
    """What one layer remembers: `conv` [B, conv_dim, d_conv - 1] past inputs of the convolution
    (before its activation) and `ssm` [B, heads, headdim, d_state], fp32."""

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
        conv_dim = d_inner + 2 * d_state
        self.in_proj = nn.Linear(d_model, d_inner + conv_dim + self.heads, bias=False)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, d_conv, groups=conv_dim)
        # Time steps start log-uniform in [0.001, 0.1], decays uniform in [1, 16] (section 5).
        dt = torch.exp(torch.empty(self.heads).uniform_(-6.9078, -2.3026))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.log(torch.empty(self.heads).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def initial_state(self, batch: int) -> Mamba2State:
        weight = self.in_proj.weight
        conv_dim = self.conv1d.weight.shape[0]
        return Mamba2State(
            weight.new_zeros(batch, conv_dim, self.d_conv - 1),
            weight.new_zeros(batch, self.heads, self.headdim, self.d_state, dtype=torch.float32),
        )

    def forward(self, u: Tensor, state: Mamba2State | None = None) -> tuple[Tensor, Mamba2State]:
        """Parallel form.

        Args:
            u: [B, L, d_model].
            state: what came before; None starts from nothing.

        Returns:
            [B, L, d_model] and the state after the last input.
        """
        batch, length, _ = u.shape
        state = state or self.initial_state(batch)
        z, xbc, dt = self._project(u)
        history = torch.cat([state.conv.to(xbc.dtype), xbc.transpose(1, 2)], dim=2)
        xbc = F.silu(self.conv1d(history)).transpose(1, 2)
        x, b, c = xbc.float().split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.reshape(batch, length, self.heads, self.headdim)
        # Half precision would let the state drift.
        with torch.autocast(u.device.type, enabled=False):
            y, ssm = ssd(x, dt, -self.A_log.float().exp(), b, c, state.ssm, self.chunk)
        y = (y + self.D[:, None] * x).reshape(batch, length, self.d_inner)
        out = self.out_proj(self.norm(y * F.silu(z.float())).to(u.dtype))
        return out, Mamba2State(history[:, :, history.shape[2] - self.d_conv + 1 :], ssm)

    def step(self, u: Tensor, state: Mamba2State) -> tuple[Tensor, Mamba2State]:
        """Recurrent form: h = exp(dt A) h + dt x B^T, y = h C + D x (equation 1, discretised).

        Args:
            u: [B, d_model], the next input.
            state: after the previous input.
        """
        z, xbc, dt = self._project(u)
        history = torch.cat([state.conv, xbc[:, :, None]], dim=2)
        xbc = F.silu((history * self.conv1d.weight[:, 0]).sum(2) + self.conv1d.bias)
        x, b, c = xbc.float().split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.reshape(-1, self.heads, self.headdim)
        decay = torch.exp(-dt * self.A_log.float().exp())
        ssm = decay[:, :, None, None] * state.ssm
        ssm = ssm + (dt[:, :, None] * x)[..., None] * b[:, None, None, :]
        y = (ssm @ c[:, None, :, None]).squeeze(-1) + self.D[:, None] * x
        y = y.reshape(-1, self.d_inner)
        out = self.out_proj(self.norm(y * F.silu(z.float())).to(u.dtype))
        return out, Mamba2State(history[:, :, 1:], ssm)

    def _project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate z, convolution input xBC, and positive time steps dt (fp32)."""
        conv_dim = self.conv1d.weight.shape[0]
        z, xbc, dt = self.in_proj(u).split([self.d_inner, conv_dim, self.heads], dim=-1)
        return z, xbc, F.softplus(dt.float() + self.dt_bias.float())


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


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
