"""The VLAM's core over whole sequences: whether all forms agree, and what training takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from measuring import SLOW, interleaved, mb, ms, peak_memory, ratio, table
from rivals import (
    CausalTransformer,
    MatrixProducts,
    TransformersStack,
    mambapy_stack,
    mambapy_version,
)
from torch import Tensor, nn
from tqdm import tqdm

from vla_ros.models import mamba_native
from vla_ros.models.mamba import MambaStack, MambaState

T = TypeVar("T")

MIXERS = {"mamba2": "Mamba-2", "mamba1": "Mamba-1"}
RIVALS = {"mamba2": ["transformers mamba2"], "mamba1": ["transformers mamba1", "mambapy"]}
# Backward through transformers' Mamba-1 takes seconds at length 256 and minutes at 1024: for every
# input it makes a gradient of the whole sequence.
_LONGEST_BACKWARD = 256
PIECE = 250  # inputs


@dataclass(frozen=True)
class Scale:
    """How large the benchmark is, and where it runs."""

    d_model: int = 512
    layers: int = 4
    states: tuple[tuple[str, int], ...] = (("mamba2", 64), ("mamba1", 16))
    shapes: tuple[tuple[int, int], ...] = ((1, 64), (1, 256), (1, 1024), (1, 5000), (8, 256))
    training_length: int = 1024  # of the comparison of memory
    contexts: tuple[int, ...] = (1, 100, 250, 500, 750, 1000, 1500, 2000, 3000, 5000)
    claimed: tuple[int, ...] = (2000, 5000)  # contexts at which the claims are checked
    drift: int = 1000  # steps over which half precision is compared
    seconds: float = 4.0  # for one comparison, at least three rounds
    buffer: int = 1 << 29  # bytes that no cache holds
    whole: bool = True  # time the size "small" as well
    device: str = "cpu"

    @property
    def longest(self) -> int:
        return self.contexts[-1]

    def inputs(self, batch: int, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(length)
        return torch.randn(batch, length, self.d_model, generator=generator).to(self.device)


QUICK = Scale(
    d_model=64,
    layers=2,
    states=(("mamba2", 16), ("mamba1", 8)),
    shapes=((1, 8), (2, 70)),
    training_length=70,
    contexts=(1, 20, 70),
    claimed=(70,),
    drift=20,
    seconds=0.0,
    buffer=1 << 20,
    whole=False,
)


def build(kind: str, scale: Scale) -> nn.Module:
    """A stack by its name: "transformer", "mambapy", or of "ours", "plain" (ours without native
    kernels) or "transformers" with "mamba2" or "mamba1"."""
    torch.manual_seed(0)
    maker, _, mixer = kind.partition(" ")
    shape = (scale.d_model, scale.layers)
    states = dict(scale.states)
    if maker in ("ours", "plain"):
        stack = MambaStack(*shape, states[mixer], mixer=mixer)
    elif maker == "transformers":
        stack = TransformersStack(mixer, *shape, states[mixer])
    elif maker == "mambapy":
        stack = mambapy_stack(*shape, states["mamba1"])
    else:
        ours = sum(p.numel() for p in build("ours mamba2", scale).parameters())
        stack = CausalTransformer(*shape, ours, scale.longest)
    return stack.to(scale.device).eval()


def output(stack: nn.Module, x: Tensor) -> Tensor:
    y = stack(x)
    return y[0] if isinstance(y, tuple) else y


def forward(stack: nn.Module, x: Tensor) -> Callable[[], None]:
    """A pass over x [B, L, D] as a call."""

    @torch.no_grad()
    def call() -> None:
        output(stack, x)

    return call


def forward_backward(stack: nn.Module, x: Tensor) -> Callable[[], None]:
    """The same with the gradients of the weights and of x."""
    x = x.clone().requires_grad_()
    gradient = torch.ones_like(x)

    def call() -> None:
        stack.zero_grad()
        x.grad = None
        output(stack, x).backward(gradient)

    return call


def in_pieces(stack: nn.Module, x: Tensor) -> Callable[[], None]:
    """A pass over x piece by piece, what is remembered carried on; outputs are not kept."""

    @torch.no_grad()
    def call() -> None:
        transformer = isinstance(stack, CausalTransformer)
        past = stack.cache(len(x), x.shape[1]) if transformer else None
        for start in range(0, x.shape[1], PIECE):
            piece = x[:, start : start + PIECE]
            if transformer:
                stack.advance(piece, past, start)
            else:
                _, past = stack(piece, past)

    return call


FORMS = {
    "forward": forward,
    "forward + backward": forward_backward,
    f"forward in pieces of {PIECE}": in_pieces,
}


def native(scale: Scale) -> bool:
    """Whether ours computes with native kernels here, so that plain torch differs."""
    return scale.device == "cpu" and mamba_native.in_use()


def plainly(call: Callable[[], T]) -> Callable[[], T]:
    """The same call without our native kernels."""

    def plain() -> T:
        mamba_native.enabled = False
        try:
            return call()
        finally:
            mamba_native.enabled = True

    return plain


def prepare(kind: str, scale: Scale, length: int, form: str) -> Callable[[], None]:
    """For `peak_memory`: weights and inputs exist before; all else counts, gradients too."""
    stack = build(kind, scale)
    warm, call = (FORMS[form](stack, scale.inputs(1, n)) for n in (min(64, length), length))
    if kind.startswith("plain"):
        warm, call = plainly(warm), plainly(call)
    warm()
    stack.zero_grad()
    return call


@torch.no_grad()
def equivalence(scale: Scale) -> str:
    """All forms of our Mambas against each other, and against the rivals with our weights."""
    rows = []
    half, uneven = scale.longest // 2, (1, 2, 3, 61, scale.longest - 67)
    for mixer, title in MIXERS.items():
        stack = build(f"ours {mixer}", scale)
        x = scale.inputs(1, scale.longest)
        y, _ = stack(x)
        forms = {"steps": stepped(stack, x, stack.initial_state(1))}
        before, states = stack(x[:, :half])
        forms["prefill + steps"] = torch.cat([before, stepped(stack, x[:, half:], states)], dim=1)
        pieces, states = [], None
        for piece in x.split(uneven, dim=1):
            out, states = stack(piece, states)
            pieces.append(out)
        forms["uneven pieces"] = torch.cat(pieces, dim=1)
        if native(scale):
            forms["plain torch"] = plainly(lambda: stack(x)[0])()  # noqa: B023
        if scale.device != "cpu":
            forms["on the CPU"] = copy.deepcopy(stack).cpu()(x.cpu())[0].to(scale.device)
        for rival in RIVALS[mixer]:
            other = build(rival, scale)
            other.load_state_dict(stack.state_dict())
            forms[rival.split()[0]] = output(other, x)
        differences = {name: f"{(form - y).abs().max():.1e}" for name, form in forms.items()}
        rows.append({"": title, "largest output": f"{y.abs().max():.1f}", **differences})
    head = rows[-1].keys()  # Mamba-1's: it has the most rivals
    return f"""
## The core: one model, several forms

Largest absolute difference of the outputs from the parallel form's: {scale.longest} random
inputs, {scale.layers} layers, d_model {scale.d_model}, fp32. Steps: one input at a time. Prefill +
steps: half in parallel, then one at a time. Uneven pieces: 1, 2, 3, 61 and the other inputs, each
in parallel. Plain torch: without our native kernels. transformers and mambapy: their layers with
our weights.

{table(head, [[row.get(name, "-") for name in head] for row in rows])}
"""


def stepped(stack: MambaStack, x: Tensor, states: list[MambaState]) -> Tensor:
    """Outputs [B, L, D] of one step after the other."""
    outputs = []
    for u in tqdm(x.unbind(1), desc="steps", leave=False):
        y, states = stack.step(u, states)
        outputs.append(y)
    return torch.stack(outputs, dim=1)


def scan(scale: Scale) -> str:
    """Time of forward and backward passes beside the rivals' and beside the matrix products."""
    stacks = {
        kind: build(kind, scale)
        for kind in ("ours mamba2", "transformers mamba2", "ours mamba1", "transformers mamba1")
    }
    stacks["mambapy"] = build("mambapy", scale)
    states = dict(scale.states)
    rows: dict[str, list[list[object]]] = {mixer: [] for mixer in MIXERS}
    cells = [(*shape, backward) for shape in scale.shapes for backward in (False, True)]
    for batch, length, backward in tqdm(cells, desc="scan"):
        x, form = scale.inputs(batch, length), "forward + backward" if backward else "forward"
        work = {kind: FORMS[form](stack, x) for kind, stack in stacks.items()}
        if backward and batch * length > _LONGEST_BACKWARD:
            del work["transformers mamba1"]
        for mixer in MIXERS:
            ours = stacks[f"ours {mixer}"]
            if native(scale):
                work[f"plain {mixer}"] = plainly(work[f"ours {mixer}"])
            work[f"products {mixer}"] = MatrixProducts(ours, batch, length, backward)
        times = interleaved(work, scale.seconds, scale.device)
        for stack in stacks.values():
            stack.zero_grad()
        for mixer in MIXERS:
            ours, floor = times[f"ours {mixer}"], times[f"products {mixer}"]
            row = [f"B{batch} L{length}", form, ms(ours)]
            for rival in RIVALS[mixer]:
                row += [ms(times.get(rival)), ratio(times.get(rival), ours)]
            plain = times.get(f"plain {mixer}")
            rows[mixer].append([*row, ms(floor), f"{ours / floor:.2f}", ms(plain)])
    head = ["", "pass", "ours", "transformers", "ratio"]
    tail = ["matrix products", "ours / products", "ours, plain torch"]
    return f"""
## The core: whole sequences

{scale.layers} layers, d_model {scale.d_model}, fp32; d_state {states["mamba2"]} (Mamba-2) and
{states["mamba1"]} (Mamba-1). Milliseconds, medians of rounds in which all take turns; one round for
what takes over {SLOW:.0f} s. Ratio: rival / ours, above 1 ours is faster. transformers' Mamba-2
works in chunks of 64, its fastest here (its default is 256). Matrix products: only those of
ours with its weights, without which no form can do; each over all inputs at once. Plain torch: ours
without its native kernels, as where they are not built.

Mamba-2:

{table([*head, *tail], rows["mamba2"])}

Mamba-1; mambapy {mambapy_version()} is mamba.py with its parallel scan. Dashes: beyond
{_LONGEST_BACKWARD} inputs in all, backward through transformers' Mamba-1 was left out: its
time grows with the square of the length.

{table([*head, "mambapy", "ratio", *tail], rows["mamba1"])}
"""


def memory(scale: Scale) -> str:
    """Peak memory of a training step beside the rivals'."""
    kinds = {
        "ours mamba2": "ours, Mamba-2",
        "plain mamba2": "ours, Mamba-2, plain torch",
        "transformers mamba2": "transformers, Mamba-2",
        "ours mamba1": "ours, Mamba-1",
        "plain mamba1": "ours, Mamba-1, plain torch",
        "mambapy": "mambapy, Mamba-1",
    }
    peaks = {
        kind: peak_memory(prepare, kind, scale, scale.training_length, "forward + backward")
        for kind in tqdm(kinds, desc="memory")
        if native(scale) or not kind.startswith("plain")
    }
    rows = [
        [kinds[kind], mb(peak), *(ratio(peak, peaks[f"ours {mixer}"]) for mixer in MIXERS)]
        for kind, peak in peaks.items()
    ]
    return f"""
## The core: memory of training

Most memory during forward + backward of {scale.training_length} inputs at batch 1 beyond what
the process held before (weights and inputs), gradients included: the peak of the resident set, each
in a fresh process.

{table(["", "peak MB", "of our Mamba-2's", "of our Mamba-1's"], rows)}
"""
