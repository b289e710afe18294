"""Comparing what the same numbers give in another order of summation.

Kernels for other shapes, other processors or other numbers of threads round otherwise, so a vector
near the border between two codes may get either of them. What is compared is the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

BORDER = 1e-3  # a hundred times the rounding errors of the small models of these tests


@contextlib.contextmanager
def quantized_by(quantizer: nn.Module) -> Iterator[list[Tensor]]:
    """The vectors [..., C] that a quantizer of the world model is given meanwhile."""
    given: list[Tensor] = []
    hook = quantizer.register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
    try:
        yield given
    finally:
        hook.remove()


@torch.no_grad()
def assert_same_codes(found: Tensor, wanted: Tensor, quantizer: nn.Module, vectors: Tensor) -> None:
    """Indices [...] are the same for all `vectors` [..., C] that no rounding moves over a border.

    Entries of a codebook may be equal but for a rounding, so the codes are compared, not their
    indices.
    """

    def same(index: Tensor) -> Tensor:
        return torch.isclose(quantizer.codes(index), codes, rtol=0, atol=BORDER).all(-1)

    assert found.shape == wanted.shape == vectors.shape[:-1]
    codes = quantizer.codes(wanted)
    clear = torch.ones_like(wanted, dtype=torch.bool)
    for _ in range(16):
        _, near, _ = quantizer(vectors + BORDER * torch.randn_like(vectors))
        clear &= same(near)
    assert clear.float().mean() > 0.5, "too little is left to compare"
    wrong = clear & ~same(found)
    assert not wrong.any(), f"{int(wrong.sum())} of {int(clear.sum())} codes differ"
