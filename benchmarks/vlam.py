"""What the VLAM costs, side by side with its rivals: `vla bench vlam`.

All parts take about ten minutes; `--only streaming,floor` runs some. `--quick` runs tiny sizes, to
see that it works, and writes nothing. The rival mambapy: `pip install "mambapy>=1.2"`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace

import vla_ros.nodes  # noqa: F401  (before torch: sets how many threads libraries use)

import torch  # isort: skip
from measuring import machine
from results import add_write_option, write_section
from vlam_core import QUICK, Scale, equivalence, memory, scan
from vlam_step import floor, streaming
from vlam_whole import latency, sizes

from vla_ros.models import mamba_native

PARTS: dict[str, Callable[[Scale], str]] = {
    "equivalence": equivalence,
    "scan": scan,
    "memory": memory,
    "streaming": streaming,
    "floor": floor,
    "sizes": sizes,
    "latency": latency,
}
BESIDE_MAMBAPY = {"equivalence", "scan", "memory"}


def kernel() -> str:
    """How the core computes here."""
    return "native kernels" if mamba_native.in_use() else "no native kernels: plain torch"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="vla bench vlam", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", metavar="PART,...", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default cpu")
    add_write_option(parser)
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    if BESIDE_MAMBAPY & set(names) and importlib.util.find_spec("mambapy") is None:
        parser.error('the rival mambapy is not installed: pip install "mambapy>=1.2"')
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no such device")

    torch.set_num_threads(1)
    scale = replace(QUICK if options.quick else Scale(), device=options.device)
    for name in names:
        title, _, rest = PARTS[name](scale).strip().partition("\n")
        command = f"vla bench vlam --only {name}"
        command += " --quick" * options.quick
        command += f" --device {options.device}" * (options.device != "cpu")
        text = f"{title}\n\n`{command}`\non {machine(kernel(), scale.device)}.\n{rest}"
        section = f"vlam {name}" + " cuda" * (options.device != "cpu")
        write_section(section, text, options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
