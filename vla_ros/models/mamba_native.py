"""The CPU kernels in native/ as differentiable functions of tensors.

The normal build makes them for the processor at hand. Where they are missing (`pip install .`) or
do not fit (see `serves`), plain torch computes the same numbers, only slower. `in_use` tells which
it is; VLA_ROS_KERNELS=off in the environment, or `enabled = False`, forces plain torch.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Sequence
from ctypes import byref, c_float, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import vla_ros

_LANES = 16  # channels and states come in multiples of this


def _load() -> ctypes.CDLL | None:
    for folder in vla_ros.__path__:
        path = Path(folder) / "models" / "libvla_ros_mamba.so"
        if path.is_file():
            return ctypes.CDLL(str(path))
    return None


_library = _load()
enabled = os.environ.get("VLA_ROS_KERNELS") != "off"


def in_use() -> bool:
    """True with the native kernels, False with plain torch."""
    return enabled and _library is not None


def serves(weight: Tensor, *widths: int) -> bool:
    """Whether the kernels can work with weights like this one and with these widths."""
    return (
        enabled
        and _library is not None
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and not any(width % _LANES for width in widths)
    )


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class _Scan(ctypes.Structure):
    _fields_ = [
        *_fields(c_int64, "batch length channels states headdim"),
        *_fields(c_void_p, "x dt a b c d z before"),
        *_fields(c_int64, "x_row dt_row bc_row z_row"),
        *_fields(c_void_p, "y after checkpoints"),
    ]


class _ScanGradients(ctypes.Structure):
    _fields_ = _fields(c_void_p, "dy dafter dx ddt da db dc dd dz dbefore")


class _Convolution(ctypes.Structure):
    _fields_ = [
        *_fields(c_int64, "batch length channels kernel"),
        *_fields(c_void_p, "x past weight bias"),
        *_fields(c_int64, "x_row"),
        *_fields(c_void_p, "y after"),
    ]


class _ConvolutionGradients(ctypes.Structure):
    _fields_ = _fields(c_void_p, "dy dafter dx dpast dweight dbias")


def _pointer(tensor: Tensor | None) -> int:
    if tensor is None:
        return 0
    if tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise ValueError(
            f"a weight or state is {tensor.dtype} or not contiguous: the Mamba kernels take "
            "contiguous float32"
        )
    return tensor.data_ptr()


def _check_shape(name: str, tensor: Tensor, *shape: int) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} is {list(tensor.shape)}, expected {list(shape)}")


def _rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors [B, L, C] whose time steps are equally far apart, as in slices of a wider one.

    Copies those that are not, and all if they do not agree on how far.
    """
    if all(x.stride(2) == 1 and x.stride(0) == x.shape[1] * _row(x) for x in tensors):
        if len({_row(x) for x in tensors}) == 1:
            return tensors
    return tuple(x.contiguous() for x in tensors)


def _row(x: Tensor) -> int:
    return x.stride(1) if x.shape[1] > 1 else x.stride(0)


class Scan(torch.autograd.Function):
    """h_t = exp(dt_t A) h_t-1 + dt_t x_t B_t, y_t = (h_t C_t + D x_t) silu(z_t).

    Mamba-2: dt [B, L, H], a [H], d [H]. Mamba-1: dt [B, L, D], a [D, N], d [D]. Both: x, z
    [B, L, D], b, c [B, L, N], before [B, D, N] or None; slices of wider tensors are welcome.
    """

    @staticmethod
    def forward(ctx, x, dt, a, b, c, d, z, before):
        batch, length, channels = x.shape
        (x,), (dt,), (z,), (b, c) = _rows(x), _rows(dt), _rows(z), _rows(b, c)
        if before is not None:
            _check_shape("the state before a scan", before, batch, channels, b.shape[-1])
            before = before.contiguous()
        y, after = x.new_empty(x.shape), x.new_empty(batch, channels, b.shape[-1])
        scan = Scan._arguments(x, dt, a, b, c, d, z, before)
        scan.y, scan.after = y.data_ptr(), after.data_ptr()
        kept = None
        if any(ctx.needs_input_grad):
            chunks = -(-length // _library.mamba_checkpoint_every())
            kept = x.new_empty(chunks - 1, *after.shape)
            scan.checkpoints = kept.data_ptr()
        _library.mamba_scan(byref(scan))
        ctx.save_for_backward(x, dt, a, b, c, d, z, before, kept)
        ctx.set_materialize_grads(False)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dafter):
        *inputs, kept = ctx.saved_tensors
        x, before = inputs[0], inputs[-1]
        scan = Scan._arguments(*inputs)
        scan.checkpoints = kept.data_ptr()
        gradients = [tensor.new_zeros(tensor.shape) for tensor in inputs[:-1]]
        gradients.append(torch.empty_like(before) if ctx.needs_input_grad[-1] else None)
        dy = x.new_zeros(x.shape) if dy is None else dy.contiguous()
        dafter = None if dafter is None else dafter.contiguous()
        arguments = _ScanGradients(*map(_pointer, (dy, dafter, *gradients)))
        _library.mamba_scan_backward(byref(scan), byref(arguments))
        return tuple(gradients)

    @staticmethod
    def _arguments(x, dt, a, b, c, d, z, before) -> _Scan:
        batch, length, channels = x.shape
        headdim = channels // len(d) if a.dim() == 1 else 1
        return _Scan(
            *(batch, length, channels, b.shape[-1], headdim),
            *(x.data_ptr(), dt.data_ptr(), _pointer(a), b.data_ptr(), c.data_ptr()),
            *(_pointer(d), z.data_ptr(), _pointer(before)),
            *map(_row, (x, dt, b, z)),
        )


class Convolution(torch.autograd.Function):
    """silu(causal depthwise convolution) of x [B, L, C] after past [B, C, K - 1]; the new past."""

    @staticmethod
    def forward(ctx, x, past, weight, bias):
        (x,), past = _rows(x), past.contiguous()
        _check_shape("the past of a convolution", past, len(x), *weight[:, 0, 1:].shape)
        ctx.save_for_backward(x, past, weight, bias)
        y, after = x.new_empty(x.shape), torch.empty_like(past)
        arguments = Convolution._arguments(x, past, weight, bias)
        arguments.y, arguments.after = _pointer(y), _pointer(after)
        _library.mamba_convolve(byref(arguments))
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dafter):
        inputs = ctx.saved_tensors
        gradients = [tensor.new_zeros(tensor.shape) for tensor in inputs]
        dy, dafter = dy.contiguous(), dafter.contiguous()
        arguments = _ConvolutionGradients(*map(_pointer, (dy, dafter, *gradients)))
        _library.mamba_convolve_backward(byref(Convolution._arguments(*inputs)), byref(arguments))
        return tuple(gradients)

    @staticmethod
    def _arguments(x, past, weight, bias) -> _Convolution:
        tensors = map(_pointer, (past, weight, bias))
        return _Convolution(*x.shape, weight.shape[-1], x.data_ptr(), *tensors, _row(x))


class Norm(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        y = torch.empty_like(x)
        _library.mamba_norm(*Norm._addresses(x, weight, y), *Norm._sizes(x, eps))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dy, dx, dweight = dy.contiguous(), torch.empty_like(x), torch.zeros_like(weight)
        addresses = Norm._addresses(dy, x, weight, dx, dweight)
        _library.mamba_norm_backward(*addresses, *Norm._sizes(x, ctx.eps))
        return dx, dweight, None

    @staticmethod
    def _addresses(*tensors: Tensor) -> list[c_void_p]:
        return [c_void_p(_pointer(tensor)) for tensor in tensors]

    @staticmethod
    def _sizes(x: Tensor, eps: float) -> tuple[c_int64, c_int64, c_float]:
        return c_int64(x.numel() // x.shape[-1]), c_int64(x.shape[-1]), c_float(eps)


class _Step(ctypes.Structure):
    _fields_ = [
        *_fields(c_int64, "layers d_model channels states headdim kernel rank weight_bytes"),
        ("eps", c_float),
    ]


def step(
    blocks: Sequence[nn.Module], x: Tensor, states: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """One input x [1, d_model] through all blocks of a MambaStack, in one call.

    `states` are pairs (conv, ssm) and stay as they were; new ones are returned. In a small model
    finding the weights takes as long as multiplying with them, so they are taken from the modules'
    dictionaries, which is several times faster than by attribute.
    """
    x = x.clone(memory_format=torch.contiguous_format)
    table: list[int] = []  # struct Layer of native/step.cpp, layer after layer
    after = []
    for block, (conv, ssm) in zip(blocks, states, strict=True):
        mixer = block._modules["mixer"]
        own, parts = mixer._parameters, mixer._modules
        conv1d = parts["conv1d"]._parameters
        _check_shape("the conv state of a step", conv, 1, len(conv1d["bias"]), mixer.d_conv - 1)
        if ssm.numel() != mixer.d_inner * mixer.d_state:
            raise ValueError(f"the state of a step is {list(ssm.shape)}: give one of batch 1")
        table.append(_pointer(block._modules["norm"]._parameters["weight"]))
        table += *_projection(parts["in_proj"]), *_projection(parts["out_proj"])
        if "dt_bias" in own:  # Mamba-2
            rest = own["dt_bias"], None, None, parts["norm"]._parameters["weight"]
        else:
            dt = parts["dt_proj"]._parameters
            rest = dt["bias"], parts["x_proj"]._parameters["weight"], dt["weight"], None
        new = torch.empty_like(conv), torch.empty_like(ssm)
        after.append(new)
        weights = conv1d["weight"], conv1d["bias"], own["A_log"], own["D"], *rest
        table += map(_pointer, (*weights, conv, ssm, *new))
    in_proj = parts["in_proj"]
    sizes = _Step(
        *(len(blocks), x.shape[1], mixer.d_inner, mixer.d_state, mixer.headdim, mixer.d_conv),
        *(mixer.dt_rank, in_proj.weight.element_size(), block.norm.eps),
    )
    layers = array("Q", table)
    address, _ = layers.buffer_info()
    _library.mamba_step(byref(sizes), c_void_p(address), c_void_p(_pointer(x)))
    return x, after


def _projection(linear: nn.Module) -> tuple[int, int]:
    """Weight and scale of a Linear or a QuantizedLinear."""
    if (weight := linear._parameters.get("weight")) is not None:
        return _pointer(weight), 0
    return linear._buffers["weight"].data_ptr(), _pointer(linear._buffers["scale"])
