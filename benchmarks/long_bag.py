"""Memory and data wait of training from a long recording: `python benchmarks/long_bag.py`.

A recording of 640x480 rgb8 pictures is trained from by `vla train policy --data`, and another of a
quarter of its size. Memory is the resident set of the processes that train, loaders included, added
up and sampled ten times a second: what they share counts for each of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from bags import write
from measuring import machine, table
from results import add_write_option, write_section

ROBOT = """
action:
  robot_type: arm
  action_dim: 1
  action_bounds: [[-1.1, 1.1]]
  action_names: [a]
  joint_names: [a]
  proprioception_names: [a]
  control_mode: joint_position
  horizon: 8
  dt: 0.05
bag:
  cameras: {camera: camera}
  command: joint_states
"""
EPISODE = 25  # pictures
PERIOD = 0.1  # s between two looks at the memory


def resident(process: psutil.Process) -> int:
    """Bytes of it and of all that it started."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def train(folder: Path, size: float, steps: int) -> tuple[int, float, float, float]:
    """Write a recording of `size` bytes and train from it.

    Returns peak bytes resident, s until the pictures were prepared, s of a step from then on, and
    the share of the steps' time in which they waited for data (without the first steps, which start
    the loader).
    """
    write(folder / "bag", size, "MCAP", EPISODE)
    (folder / "robot.yaml").write_text(ROBOT)
    out = folder / "run"
    words = ["--data", folder / "bag", "--robot", folder / "robot.yaml", "--out", out]
    words += ["--steps", steps, "--save-every", steps]
    command = [sys.executable, "-m", "vla_ros.cli", "train", "policy", *map(str, words)]
    began, peak, prepared = time.perf_counter(), 0, 0.0
    child = subprocess.Popen(command)
    process = psutil.Process(child.pid)
    while child.poll() is None:
        peak = max(peak, resident(process))
        if not prepared and (out / "data").is_dir():
            prepared = time.perf_counter() - began
        time.sleep(PERIOD)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    state = json.loads((out / f"resume/step-{steps:08d}/trainer_state.json").read_text())
    waits = [entry["data_wait"] for entry in state["log_history"] if "data_wait" in entry]
    step = (time.perf_counter() - began - prepared) / steps
    return peak, prepared, step, float(np.mean(waits[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=4.0, help="of the recording, GB; default 4")
    parser.add_argument("--steps", type=int, default=200, help="of training; default 200")
    add_write_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as who trains has
    rows = []
    for size in (options.size / 4, options.size):
        with tempfile.TemporaryDirectory() as folder:
            peak, prepared, step, wait = train(Path(folder), 1e9 * size, options.steps)
        rows.append(
            (
                f"{size:g}",
                f"{peak / 1e6:.0f}",
                f"{prepared:.0f}",
                f"{1e3 * step:.0f}",
                f"{wait:.1%}",
            )
        )
    head = ("recording, GB", "peak, MB", "preparing, s", "ms a step", "waiting for data")
    write_section(
        "long bag",
        f"""## Training from long recordings

`python benchmarks/long_bag.py --size {options.size:g} --steps {options.steps}`
on {machine("native kernels")}.

One camera, 640x480 rgb8 at 20 Hz, joint states at 100 Hz, MCAP; episodes of {EPISODE} pictures;
size tiny, 256 frames a step. The pictures are brought to the model's size once, before training.
Peak: resident sets of the process that trains and of its loader, added up.

{table(head, rows)}""",
        options.write,
    )


if __name__ == "__main__":
    main()
