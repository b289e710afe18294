"""The VLAM's core one input at a time, as on the robot: beside a transformer and the hardware."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from measuring import bandwidth, crossing, interleaved, mb, ms, now, peak_memory, table
from torch import nn
from tqdm import tqdm
from vlam_core import FORMS, MIXERS, Scale, build, native, plainly, prepare, stepped

from vla_ros.models.mamba import quantize_

CLAIMED_TIME, CLAIMED_MEMORY = 0.37, 0.51  # less than the transformer's


def stepper(stack: nn.Module, scale: Scale, context: int) -> Callable[[], None]:
    """A call that makes the step with `context` inputs in all, its own included."""
    x = scale.inputs(1, context)
    past, x = x[:, : context - 1], x[:, -1].contiguous()
    if hasattr(stack, "initial_state"):
        state = stack(past)[1] if context > 1 else stack.initial_state(1)

        def call() -> None:
            nonlocal state
            _, state = stack.step(x, state)

    elif hasattr(stack, "after"):
        cache = stack.after(past if context > 1 else x[:, None])

        def call() -> None:
            stack.step(x, cache)

    else:
        cache = stack.cache(1, scale.longest).normal_()

        def call() -> None:
            stack.step(x, cache, context - 1)

    return call


def state_bytes(stack: nn.Module, context: int) -> int:
    """What is remembered of `context` inputs: constant, or keys and values of each."""
    if hasattr(stack, "initial_state"):
        states = stack.initial_state(1)
        return sum(tensor.nbytes for state in states for tensor in (state.conv, state.ssm))
    return stack.cache(1, context).nbytes


def weight_bytes(stack: nn.Module) -> int:
    return sum(weights.nbytes for weights in stack.state_dict().values())


def less(ours: float, theirs: float) -> str:
    """How much smaller ours is: "37 % less", or "12 % more"."""
    change = 100 * (1 - ours / theirs)
    return f"{abs(change):.0f} % {'less' if change >= 0 else 'more'}"


@torch.no_grad()
def streaming(scale: Scale) -> str:
    """Time and memory of a step, and of whole sequences, beside a causal transformer."""
    kinds = {
        "ours mamba2": "our Mamba-2",
        "ours mamba1": "our Mamba-1",
        "transformers mamba2": "transformers' Mamba-2",
        "transformer": "causal transformer",
    }
    stacks = {kind: build(kind, scale) for kind in kinds}
    ours, theirs = stacks["ours mamba2"], stacks["transformer"]
    times: dict[int, dict[str, float]] = {}
    for context in tqdm(scale.contexts, desc="streaming"):
        work = {kind: stepper(stack, scale, context) for kind, stack in stacks.items()}
        if native(scale):
            work["plain mamba2"] = plainly(stepper(ours, scale, context))
        times[context] = interleaved(work, scale.seconds, scale.device, calls=20)
    rows = []
    for context in scale.contexts:
        time = times[context]
        sizes = [state_bytes(stacks[kind], context) for kind in ("ours mamba2", "ours mamba1")]
        cache = state_bytes(theirs, context)
        whole = less(sizes[0] + weight_bytes(ours), cache + weight_bytes(theirs))
        rows.append(
            [context, *(ms(time[kind]) for kind in kinds), ms(time.get("plain mamba2"))]
            + [less(time["ours mamba2"], time["transformer"])]
            + [*map(mb, (*sizes, cache)), whole]
        )
    counts = ", ".join(
        f"{kinds[kind]} {sum(p.numel() for p in stacks[kind].parameters()) / 1e6:.2f} M"
        for kind in ("transformer", "ours mamba2", "ours mamba1")
    )
    head = ["context", *(f"{title} ms" for title in kinds.values())]
    head += ["our Mamba-2 in plain torch ms", "Mamba-2's time"]
    head += ["Mamba-2 state MB", "Mamba-1 state MB", "keys and values MB", "Mamba-2's memory"]
    return f"""
## The core: step by step

One input at batch 1, {scale.layers} layers, d_model {scale.d_model}, fp32; milliseconds, medians
of rounds in which all take turns, 20 steps a turn. Context: inputs so far, this one included. The
causal transformer: pre-norm, torch's scaled_dot_product_attention over a preallocated cache of keys
and values; its MLP is as wide as makes the parameters equal ({counts}). Memory: weights, and what
is remembered of the context. Plain torch: ours without its native kernels, on the same products as
the transformer: the architectures alone.

{table(head, rows)}

{_verdict(scale, stacks, times)}

{_sequences(scale, stacks)}
"""


def _sequences(scale: Scale, stacks: dict[str, nn.Module]) -> str:
    """Peak memory of whole sequences, with its explanation."""
    rows = []
    cells = [(length, form) for length in scale.claimed for form in FORMS]
    for length, form in tqdm(cells, desc="memory of sequences"):
        ours, theirs = (
            weight_bytes(stacks[kind]) + peak_memory(prepare, kind, scale, length, form)
            for kind in ("ours mamba2", "transformer")
        )
        rows.append([f"L{length}", form, mb(ours), mb(theirs), less(ours, theirs)])
    return f"""\
Long sequences, as in training and in replaying a recording: MB, weights and the most that the pass
holds beyond them and the inputs, that is activations, what is remembered, and in forward + backward
the gradients. In parallel, or in pieces with what is remembered carried from one to the next. Each
in a fresh process.

{table(["", "pass", "Mamba-2", "causal transformer", "Mamba-2's memory"], rows)}"""


def _verdict(scale: Scale, stacks: dict[str, nn.Module], times: dict[int, dict[str, float]]) -> str:
    """From where on the step wins, whether the claims hold, and how flat it is, in a list."""
    contexts = scale.contexts
    theirs = [times[context]["transformer"] for context in contexts]
    weights = weight_bytes(stacks["ours mamba2"]) + state_bytes(stacks["ours mamba2"], 1)
    memory = [
        weight_bytes(stacks["transformer"]) + state_bytes(stacks["transformer"], context)
        for context in contexts
    ]

    def place(first: list[float], second: list[float]) -> str:
        context = crossing(contexts, first, second)
        if context is None:
            return f"not up to context {contexts[-1]}"
        return f"from context {context:.0f} on" if context > contexts[0] else "at every context"

    lines = [
        f"- At least {CLAIMED_MEMORY:.0%} less memory (weights and state): "
        f"{place([weights] * len(memory), [(1 - CLAIMED_MEMORY) * size for size in memory])}.",
    ]
    for kind, name in (("ours mamba2", ""), ("plain mamba2", " in plain torch")):
        if kind in times[contexts[0]]:
            ours = [times[context][kind] for context in contexts]
            claimed = [(1 - CLAIMED_TIME) * time for time in theirs]
            lines += [
                f"- Mamba-2's step{name} takes less time than the transformer's: "
                f"{place(ours, theirs)}; at least {CLAIMED_TIME:.0%} less: {place(ours, claimed)}."
            ]
    for mixer, title in MIXERS.items():
        stack = stacks[f"ours {mixer}"]
        ends = {str(c): stepper(stack, scale, c) for c in (contexts[0], contexts[-1])}
        first, last = interleaved(ends, scale.seconds, scale.device, calls=20).values()
        lines.append(
            f"- {title}'s step at context {contexts[-1]} takes {last / first:.2f} of the time at "
            f"context {contexts[0]}, in turns."
        )
    return "\n".join(lines)


# The core of the arm's shipped policy, and the one of the size "small".
CORES = {"the arm's": (160, 2, 32), "small": (512, 4, 64)}


def _cold(steps: dict[str, Callable[[], None]], scale: Scale, rounds: int = 60) -> dict[str, float]:
    """Median seconds of each step after something else has had the caches."""
    other = torch.ones(scale.buffer // 4, device=scale.device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            other.sum()
            start = now(scale.device)
            step()
            times[name].append(now(scale.device) - start)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.no_grad()
def floor(scale: Scale) -> str:
    """A step beside the time that reading its weights takes."""
    memory = bandwidth(scale.buffer, scale.device)
    rows = []
    for title, (d_model, layers, d_state) in tqdm(CORES.items(), desc="floor"):
        size = replace(scale, d_model=d_model, layers=layers, states=(("mamba2", d_state),))
        variants = {"fp32": build("ours mamba2", size)}
        for precision in ("bf16", "int8"):
            variants[precision] = copy.deepcopy(variants["fp32"])
            quantize_(variants[precision], precision)
        steps = {name: stepper(stack, size, 1) for name, stack in variants.items()}
        warm = interleaved(steps, scale.seconds, scale.device, calls=50)
        cold = _cold(steps, scale)
        x = size.inputs(1, scale.drift)
        exact = stepped(variants["fp32"], x, variants["fp32"].initial_state(1))
        for name, stack in variants.items():
            read = weight_bytes(stack) + state_bytes(stack, 1)
            fastest, cached = read / memory, read / bandwidth(read, scale.device)
            error = stepped(stack, x, stack.initial_state(1)) - exact
            rows.append(
                [title, name, mb(read), ms(fastest), ms(cold[name]), f"{cold[name] / fastest:.1f}"]
                + [ms(cached), ms(warm[name]), f"{warm[name] / cached:.1f}"]
                + [f"{error.abs().max() / exact.abs().max():.1%}"]
                + [f"{error.norm() / exact.norm():.1%}"]
            )
    head = ["core", "weights", "MB", "floor", "step", "step / floor"]
    head += ["floor, cached", "step, cached", "step / floor", "largest error", "relative error"]
    shapes = "; ".join(
        f"{k}: d_model {d}, {n} layers, d_state {s}" for k, (d, n, s) in CORES.items()
    )
    return f"""
## The core: a step and its floor

At batch 1 a step uses every weight once, so reading them and the state takes the least time a step
can. One thread sums up {mb(scale.buffer)} MB at {memory / 1e9:.1f} GB/s. Milliseconds. Floor and
step: other work has filled the caches between the steps. Cached: steps one after the other, and the
floor from the rate at which a buffer of that size is summed up again and again. bf16, int8: weights
of the in- and out-projections. Error of the outputs of {scale.drift} steps: the largest against the
largest output, and in the 2-norm. Cores: {shapes}.

{table(head, rows)}
"""
