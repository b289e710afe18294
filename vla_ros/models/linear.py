"""Linear layers that are fast on CPUs, and linear layers with small weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Below, a call costs more than it gains.
_FEWEST_ROWS = 64
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


class Linear(nn.Linear):
    """nn.Linear with oneDNN for single precision on the CPU.

    torch gives such products to MKL, which keeps to AVX2 on AMD processors; oneDNN uses AVX-512
    there (twice as fast) and is as fast elsewhere. The last bits are rounded differently.
    torch.backends.mkldnn.flags(enabled=False) brings MKL back.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _served(x, self.weight):
            return _OneDNNLinear.apply(x, self.weight, self.bias)
        return super().forward(x)


class QuantizedLinear(nn.Module):
    """A linear layer without bias that keeps its weights in bf16 or int8; inference only.

    int8 weights have one scale for each output, such that the largest weight becomes 127.

    Args:
        linear: what to quantise.
        precision: "bf16" or "int8".
    """

    def __init__(self, linear: nn.Linear, precision: str) -> None:
        super().__init__()
        weight, scale = linear.weight.detach(), None
        if precision == "int8":
            scale = weight.abs().amax(1).clamp(min=1e-12) / 127
            weight = (weight / scale[:, None]).round().to(torch.int8)
        self.register_buffer("weight", weight.bfloat16() if precision == "bf16" else weight)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.weight.to(x.dtype))
        return y if self.scale is None else y * self.scale


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        dx = _product(dy, weight.t()) if wants_x else None
        rows = dy.reshape(-1, dy.shape[-1])
        dweight = None
        if wants_weight:
            dweight = _product(rows.t(), x.reshape(-1, x.shape[-1]).t())
        return dx, dweight, rows.sum(0) if wants_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _served(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() >= _FEWEST_ROWS * x.shape[-1]
        and _HAS_ONEDNN
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
    )
