"""How the benchmarks of models measure: processor time, memory, bandwidth; and how they say it.

One thread and its processor time, so that another program on the machine changes little; what is
compared runs in turns in one process, so that what does change, changes for all. On CUDA the time
is the wall's, synchronised.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

SLOW = 10.0  # s: what takes longer runs once
_MOST_ROUNDS = 25


def now(device: str) -> float:
    """Seconds of processor time of this process; of the wall, all work done, on another device."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    work: dict[str, Callable[[], object]], seconds: float, device: str = "cpu", calls: int = 1
) -> dict[str, float]:
    """Time each of `work` in turns: at least three rounds, then until they took `seconds`.

    The first round warms up, and counts only for what takes over `SLOW` seconds, which runs once.

    Args:
        calls: of one function in a row in each turn.

    Returns:
        Median seconds of one call, for each name.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    began = now(device)
    for turn in range(_MOST_ROUNDS):
        if turn >= 3 and now(device) - began > seconds:
            break
        names = [name for name in work if not times[name] or times[name][0] < SLOW]
        for name in names if turn % 2 else reversed(names):
            start = now(device)
            for _ in range(calls):
                work[name]()
            times[name].append((now(device) - start) / calls)
    return {name: statistics.median(values[1:] or values) for name, values in times.items()}


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments: Any) -> int:
    """Bytes that a call takes at its peak beyond what the process had before, in a fresh process.

    Args:
        prepare: a function of a module. Called there with `arguments`, it makes everything that
            shall not count and returns the call that shall.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_peak_memory, prepare, arguments).result()


def _peak_memory(prepare: Callable[..., Callable[[], object]], arguments: Sequence[Any]) -> int:
    torch.set_num_threads(1)
    call = prepare(*arguments)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what preparing left behind would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the peak, starts from here (proc(5))
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}: peak memory needs Linux")


def bandwidth(size: int, device: str = "cpu", repeats: int = 7) -> float:
    """Bytes a second at which one thread sums up a buffer of `size` bytes, again and again.

    A sum has no weights to share the cache with and no result to write: the fastest of the readers
    in torch (a matrix-vector product and a dot product read more slowly).
    """
    buffer = torch.ones(size // 4, device=device)
    calls = max(1, (1 << 28) // size)  # 256 MiB a repeat or more: the clock is not that fine
    best = float("inf")
    for _ in range(repeats):
        start = now(device)
        for _ in range(calls):
            buffer.sum()
        best = min(best, (now(device) - start) / calls)
    return 4 * buffer.numel() / best


def crossing(
    places: Sequence[float], first: Sequence[float], second: Sequence[float]
) -> float | None:
    """Where `first` falls to `second` and stays below: interpolated; None if not at the last.

    Returns:
        A place between two of `places`, or the first place if it is below everywhere.
    """
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    if gaps[-1] > 0:
        return None
    above = [i for i, gap in enumerate(gaps) if gap > 0]
    if not above:
        return places[0]
    i = above[-1]
    return places[i] + (places[i + 1] - places[i]) * gaps[i] / (gaps[i] - gaps[i + 1])


def machine(kernel: str, device: str = "cpu") -> str:
    """The line that says where and with what a table was measured."""
    if device == "cpu":
        model = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        place = f"{os.cpu_count()} cores ({model[0] if model else platform.machine()})"
    else:
        place = torch.cuda.get_device_name()
    return (
        f"{place}, {torch.get_num_threads()} thread, torch {torch.__version__}, "
        f"transformers {importlib.metadata.version('transformers')}, {kernel}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def ms(seconds: float | None) -> str:
    """Milliseconds with three figures; a dash for what was not measured."""
    if seconds is None:
        return "-"
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def mb(size: float) -> str:
    """Megabytes (10^6 bytes)."""
    return f"{size / 1e6:.0f}" if size >= 1e8 else f"{size / 1e6:.3g}"


def ratio(rival: float | None, ours: float) -> str:
    """How many times ours the rival's figure is."""
    return "-" if rival is None else f"{rival / ours:.2f}"
