"""What ROS 2 costs between camera and command: `python benchmarks/ros_overhead.py`.

The arm follows instructions live: with all nodes in one process, with those that no command waits
for in processes of their own, and with every node in its own (the simulated robot always in the
measuring one). For every camera frame:

    latency  = from the beginning of rendering to the arrival of the first command that answers it
    overhead = latency - rendering of both cameras - forward passes of encoder and policy

World model and narrator run beside; a sentence is what the narrator takes to read a scene and say
something about it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from results import add_write_option, write_section

import vla_ros.nodes  # noqa: F401  (before torch: sets how many threads libraries use)
from vla_ros.checkpoints import resolve
from vla_ros.live import Cost, LiveArm, running
from vla_ros.scene_language.instructions import FAMILIES

FORMS = {"one process": "none", "those aside apart": "aside", "a process per node": "all"}


def cpu_seconds(process: int) -> float:
    """Time that a process has run on a processor so far, all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(arm: LiveArm, seconds: float) -> tuple[float, dict[str, float]]:
    """Play episodes for so long. Returns action chunks per second and each process's CPU share."""
    processes = {"in this process": os.getpid()}
    for name, process in arm.stack.processes.items():
        processes[name] = process.pid
    arm.play(FAMILIES[0], 0)  # warm
    arm.costs.clear()
    arm.sentences.clear()
    before = {name: cpu_seconds(process) for name, process in processes.items()}
    began, seed, rates = time.perf_counter(), 1, []
    while time.perf_counter() - began < seconds:
        rates.append(arm.play(FAMILIES[seed % len(FAMILIES)], seed).rate)
        seed += 1
    wall = time.perf_counter() - began
    shares = {
        name: (cpu_seconds(process) - before[name]) / wall for name, process in processes.items()
    }
    return statistics.median(rates), shares


def row(title: str, costs: list[Cost], rate: float, sentences: list[float]) -> str:
    def figures(values: list[float]) -> str:
        middle, late = np.percentile(1e3 * np.array(values), (50, 95))
        return f"{middle:.1f} / {late:.1f}"

    columns = [
        figures([cost.latency for cost in costs]),
        figures([cost.render for cost in costs]),
        figures([cost.forward for cost in costs]),
        figures([cost.overhead for cost in costs]),
        figures(sentences) if sentences else "none",
    ]
    return f"| {title} | {rate:.1f} | {len(costs)} | {' | '.join(columns)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="arm", help="name or folder; default arm")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each form; default 30")
    add_write_option(parser)
    options = parser.parse_args()
    checkpoint = str(resolve(options.checkpoint))

    rows, shares = [], []
    for title, processes in FORMS.items():
        with running(checkpoint, processes=processes) as arm:
            rate, share = measure(arm, options.seconds)
            rows.append(row(title, arm.costs, rate, arm.sentences))
        parts = ", ".join(f"{name} {part:.0%}" for name, part in share.items())
        shares.append(f"- {title}: {parts}")
    text = f"""
## From camera to command

`python benchmarks/ros_overhead.py --checkpoint {options.checkpoint} --seconds {options.seconds:g}`
on {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} over the last minute), two 128x128 cameras
rendered on the same machine. Milliseconds, median / 95th percentile; overhead is latency less
rendering and forward passes.

| nodes | commands/s | frames | latency | rendering | forward passes | overhead | a sentence |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Processor time, share of one core. "In this process" are the simulated robot, with physics and
rendering, and the benchmark itself, and all nodes that are not named.

{chr(10).join(shares)}
"""
    write_section("ros_overhead", text, options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
