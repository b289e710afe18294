"""Runs the numerical part of the tests as other machines would: `make test-portable`.

Other processors have other kernels, which sum in another order and round otherwise. Libraries can
be told to take those of an older processor; the other variants change the number of threads, leave
out oneDNN or our own kernels, or compile those for another processor. Each variant also draws its
own random weights, so that no test passes by its seed alone.

    python test/portable.py [VARIANT ...] [-- pytest's arguments]
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# All that computes with torch, without nodes.
NUMERICAL = """
    genie genie_models language mamba mamba_native mamba_transformers narrator narrator_truth
    recorded_evaluation surprise svl training_narrator training_policy training_world_model vision
    vlam world_checkpoint
"""
# These start processes, which do without the options: that they agree with this one is tested by
# `make test`.
OTHER_PROCESSES = (
    "test_a_killed_run_resumes_to_the_same_weights",
    "test_a_killed_run_from_recordings_resumes_to_the_same_weights",
    "test_a_failure_to_collect_ends_the_run",
    "test_two_processes_train",
)
# Name: (environment, pytest's arguments)
VARIANTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "as it is": ({}, []),
    "torch without vectors": ({"ATEN_CPU_CAPABILITY": "default"}, []),
    "torch with AVX2": ({"ATEN_CPU_CAPABILITY": "avx2"}, []),
    "MKL as on any processor": ({"MKL_CBWR": "COMPATIBLE"}, []),
    "MKL with AVX2": ({"MKL_CBWR": "AVX2"}, []),
    "oneDNN with SSE4.1": ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, []),
    "oneDNN with AVX2": ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, []),
    "oneDNN with AVX-512 without bfloat16": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, []),
    "an old processor": (
        {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "VLA_ROS_KERNELS": "off",
        },
        [],
    ),
    "torch without oneDNN": ({}, ["--no-onednn"]),
    "two threads": ({"OMP_NUM_THREADS": "2"}, []),
    "without our kernels": ({"VLA_ROS_KERNELS": "off"}, []),
    "our kernels for x86-64": ({}, ["--kernels=x86-64"]),
    "our kernels for x86-64-v3": ({}, ["--kernels=x86-64-v3"]),
}


def main(words: list[str]) -> int:
    names, arguments = words, []
    if "--" in words:
        names, arguments = words[: words.index("--")], words[words.index("--") + 1 :]
    if unknown := [name for name in names if name not in VARIANTS]:
        print(f"error: no variant {', '.join(unknown)}: choose {'; '.join(VARIANTS)}")
        return 2
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names or VARIANTS:
            began = time.monotonic()
            said, passed = run(name, arguments, Path(folder))
            print(f"{name:40} {said}, {time.monotonic() - began:.0f} s", flush=True)
            failed += [name] * (not passed)
    print(f"failed: {', '.join(failed)}" if failed else "all variants pass")
    return bool(failed)


def run(name: str, arguments: list[str], folder: Path) -> tuple[str, bool]:
    """What came of a variant, and whether it passed."""
    environment, options = VARIANTS[name]
    options = [*options, f"--seed-shift={list(VARIANTS).index(name)}"]
    if options[0].startswith("--kernels="):
        march = options[0].partition("=")[2]
        if not (library := kernels(march, folder)):
            return "passed over: no compiler here makes them", True
        options[0] = f"--kernels={library}"
    expression = " and ".join(f"not {test}" for test in OTHER_PROCESSES)
    files = [f"test/test_{part}.py" for part in NUMERICAL.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=0"]
    command += ["--timeout=1200", "-k", expression, *options, *files, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", flush=True)
    counted = [line for line in lines if re.search(r"\d+ (passed|failed|error)", line)]
    return counted[-1].split(" in ")[0] if counted else "nothing ran", done.returncode == 0


def kernels(march: str, folder: Path) -> Path | None:
    """Our kernels compiled for another processor; None where that cannot be done or run."""
    compiler = shutil.which("c++")
    if platform.machine() != "x86_64" or compiler is None:
        return None
    if march == "x86-64-v3" and " avx2 " not in Path("/proc/cpuinfo").read_text():
        return None
    library = folder / f"{march}.so"
    sources = sorted((ROOT / "vla_ros/models/native").glob("*.cpp"))
    flags = ["-std=c++17", "-O3", f"-march={march}", "-shared", "-fPIC", "-Wno-psabi"]
    subprocess.run([compiler, *flags, "-o", str(library), *map(str, sources)], check=True)
    return library


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
