"""The policy's success beside the live stack's: writes what `vla eval` measured into RESULTS.md.

vla eval --robot sim --episodes 100 --seed 0 --json offline.json
vla eval --live --episodes 80 --seed 0 --json live.json --compare offline.json
python benchmarks/success.py offline.json live.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from results import write_section

from vla_ros.scene_language.instructions import FAMILIES


def cell(report: dict[str, Any], family: str) -> str:
    """Successes of episodes, and the 95 % interval."""
    episodes = report["episodes"][family]
    low, high = (100 * bound for bound in report["intervals"][family])
    return f"{round(report['success'][family] * episodes)}/{episodes} ({low:.0f} to {high:.0f} %)"


def failures(report: dict[str, Any]) -> str:
    lost = [run for run in report["runs"] if not run["success"]]
    texts = [
        f"{run['family']} {run['seed']} '{run['instruction']}': {run['reason']}" for run in lost
    ]
    return "\n".join(f"- {text}" for text in texts) or "- none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("offline", type=Path, help="JSON of vla eval")
    parser.add_argument("live", type=Path, help="JSON of vla eval --live")
    options = parser.parse_args()
    offline, live = (json.loads(path.read_text()) for path in (options.offline, options.live))
    if offline["live"] or not live["live"]:
        raise SystemExit("error: give the offline report first, then the live one")
    rows = [
        f"| {family} | {cell(offline, family)} | {cell(live, family)} "
        f"| {offline['mean_seconds'][family]:.1f} / {live['mean_seconds'][family]:.1f} s |"
        for family in FAMILIES
    ]
    write_section(
        "success",
        "\n".join(
            [
                f"## Success of the policy '{offline['checkpoint']}'\n",
                "Seeds that training never sees; judged from physics; 95 % intervals. Offline:",
                f"`vla eval --robot sim --episodes {offline['episodes']['reach']} --seed "
                f"{offline['seed']}`. Live, in real time through the ROS 2 nodes: `vla eval --live",
                f"--episodes {live['episodes']['reach']} --seed {live['seed']}`.\n",
                "| family | offline | live | mean time, offline / live |",
                "|---|---|---|---|",
                *rows,
                f"\nFailures offline:\n\n{failures(offline)}\n\nFailures live:\n\n{failures(live)}",
            ]
        ),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
