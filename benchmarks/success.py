"""The policy's success, usual and not: a section of what `vla eval` measured, for RESULTS.md.

vla eval --robot sim --episodes 300 --seed 0 --json offline.json
vla eval --live --episodes 30 --seed 0 --json live.json --compare offline.json
vla eval --robot sim --episodes 100 --seed 0 --condition camera lights ... --json conditions.json
vla eval --robot sim --checkpoint TWIN --episodes 100 --condition held-out-pairs --json twin.json
vla eval --robot sim --episodes 300 --seed 0 --phrasings benchmarks/phrasings.json --json words.json
python benchmarks/success.py offline.json live.json --conditions conditions.json --words words.json
                             --twin twin.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from measuring import table
from results import add_write_option, write_section

from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.training.evaluation import wilson_interval

Report = dict[str, Any]  # the JSON of an evaluation
# What a policy would reach that does not listen, and by guessing gets the object right one time in
# three; without an instruction it has to guess the family too, and to push also where to.
_OBJECT, _FAMILY, _DIRECTION = 1 / 3, 1 / 5, 1 / 4
CHANCE = {
    "swapped-instruction": dict.fromkeys(FAMILIES, _OBJECT),
    "no-instruction": dict.fromkeys(FAMILIES, _OBJECT * _FAMILY)
    | {"push": _OBJECT * _FAMILY * _DIRECTION},
}
_TOGETHER = "all"


def counts(report: Report, family: str) -> tuple[int, int]:
    """Successes and episodes, of one family or of all together."""
    if family == _TOGETHER:
        wins, episodes = zip(*(counts(report, f) for f in report["episodes"]), strict=True)
        return sum(wins), sum(episodes)
    episodes = report["episodes"][family]
    return round(report["success"][family] * episodes), episodes


def cell(report: Report, family: str) -> str:
    """Successes of episodes, and the 95 % interval."""
    wins, episodes = counts(report, family)
    low, high = (100 * bound for bound in wilson_interval(wins, episodes))
    return f"{wins}/{episodes} ({low:.0f} to {high:.0f} %)"


def rate(report: Report, family: str) -> float:
    """Per cent."""
    wins, episodes = counts(report, family)
    return 100 * wins / episodes


def failures(report: Report) -> str:
    lost = [run for run in report["runs"] if not run["success"]]
    texts = [
        f"{run['family']} {run['seed']} '{run['instruction']}': {run['reason']}" for run in lost
    ]
    return "\n".join(f"- {text}" for text in texts) or "- none"


def command(report: Report) -> str:
    """That made the report, but for --json."""
    parts = ["vla eval", "--live" if report["live"] else "--robot sim"]
    if report["checkpoint"] != "arm":
        parts.append(f"--checkpoint {report['checkpoint']}")
    parts.append(f"--episodes {report['episodes']['reach']} --seed {report['seed']}")
    if "conditions" in report:
        parts.append(f"--condition {' '.join(report['conditions'])}")
    elif report.get("condition", "usual") != "usual":
        parts.append(f"--condition {report['condition']}")
    if report.get("phrasings"):
        parts.append(f"--phrasings {report['phrasings']}")
    return f"`{' '.join(parts)}`"


def usual(offline: Report, live: Report) -> str:
    rows = [
        [family, cell(offline, family), cell(live, family), _times(offline, live, family)]
        for family in [*FAMILIES, _TOGETHER]
    ]
    return f"""Seeds that training never sees; judged from physics; 95 % intervals (Wilson).
Offline, in simulated time: {command(offline)}.
Live, in real time through the ROS 2 nodes: {command(live)}.

{table(["family", "offline", "live", "mean time, offline / live"], rows)}

Failures offline:

{failures(offline)}

Failures live:

{failures(live)}"""


def _times(offline: Report, live: Report, family: str) -> str:
    if family == _TOGETHER:
        return ""
    means = [report["mean_seconds"][family] for report in (offline, live)]
    return " / ".join("-" if mean is None else f"{mean:.1f} s" for mean in means)


def conditions(report: Report) -> str:
    rows = []
    for name, summary in report["conditions"].items():
        rows.append([name, *(f"{rate(summary, f):.1f} %" for f in [*FAMILIES, _TOGETHER])])
        if name in CHANCE:
            chance = [100 * CHANCE[name][family] for family in FAMILIES]
            chance.append(sum(chance) / len(chance))
            rows.append(["by chance", *(f"{value:.1f} %" for value in chance)])
    return f"""### Under conditions

{command(report)}
Each differs from the usual in one respect (`vla_ros/sim/conditions.py`). The last two are controls:
the policy is told about another object, or nothing. Who does not listen and guesses the object
succeeds as often as by chance; who listens, when told about another object, should nearly never.

{table(["condition", *FAMILIES, _TOGETHER], rows)}"""


def pairs(twin: Report) -> str:
    names = [*FAMILIES, _TOGETHER]
    return f"""### Colours of shapes never seen together

{command(twin)}
Green cylinders and purple cubes were kept from the training of this policy, not of the one that
ships (`vla train policy --hold-out-pairs`). Every object that an instruction means is one of them.

{table(names, [[cell(twin, family) for family in names]])}"""


def words(seen: Report, unseen: Report) -> str:
    rows = [
        [
            family,
            cell(seen, family),
            cell(unseen, family),
            f"{rate(unseen, family) - rate(seen, family):+.1f}",
        ]
        for family in [*FAMILIES, _TOGETHER]
    ]
    refused = sum(
        count
        for reasons in unseen["failures"].values()
        for reason, count in reasons.items()
        if reason == "instruction refused"
    )
    return f"""### In words of somebody else

{command(unseen)}
The same tasks, their goals said in phrasings that an outsider wrote and that nobody who worked on
the policy had read. {refused} of {counts(unseen, _TOGETHER)[1]} instructions were refused because
the policy knows too few of their words; they count as failed.

{table(["family", "phrasings as in training", "the outsider's", "difference, points"], rows)}"""


def check(options: argparse.Namespace, reports: dict[str, Report]) -> None:
    """Raises ValueError if the reports are not what their places say, or of different policies."""
    for name, report in reports.items():
        if missing := {"success", "episodes", "checkpoint", "live"} - set(report):
            raise ValueError(f"{name} is no report of the simulator: it lacks {min(missing)}")
        if set(report["success"]) != set(FAMILIES):
            raise ValueError(f"{name} has not all families: leave out --families")
    live = {name: report["live"] for name, report in reports.items()}
    if live != {name: name == "live" for name in reports}:
        raise ValueError("give the offline report first, then the live one")
    twin = reports.get("twin")
    if twin and twin["condition"] != "held-out-pairs":
        raise ValueError(f"{options.twin} was not made by vla eval --condition held-out-pairs")
    if len({report["checkpoint"] for report in reports.values() if report is not twin}) > 1:
        raise ValueError("the reports are of different checkpoints")
    if "conditions" in reports and "conditions" not in reports["conditions"]:
        raise ValueError(f"{options.conditions} was not made by vla eval --condition, with several")
    if "words" in reports:
        seen, unseen = reports["offline"], reports["words"]
        if not unseen.get("phrasings"):
            raise ValueError(f"{options.words} was not made by vla eval --phrasings")
        if any(seen[what] != unseen[what] for what in ("seed", "episodes")):
            raise ValueError(f"{options.offline} and {options.words} are not of the same tasks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("offline", type=Path, help="JSON of vla eval")
    parser.add_argument("live", type=Path, help="JSON of vla eval --live")
    parser.add_argument("--conditions", type=Path, help="JSON of vla eval --condition")
    parser.add_argument("--twin", type=Path, help="JSON of vla eval --condition held-out-pairs")
    parser.add_argument("--words", type=Path, help="JSON of vla eval --phrasings")
    add_write_option(parser)
    options = parser.parse_args()
    paths = {name: path for name, path in vars(options).items() if path is not None}
    try:
        reports = {name: json.loads(path.read_text()) for name, path in paths.items()}
        check(options, reports)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    parts = [f"## Success of the policy '{reports['offline']['checkpoint']}'"]
    parts.append(usual(reports["offline"], reports["live"]))
    if "conditions" in reports:
        parts.append(conditions(reports["conditions"]))
    if "twin" in reports:
        parts.append(pairs(reports["twin"]))
    if "words" in reports:
        parts.append(words(reports["offline"], reports["words"]))
    write_section("success", "\n\n".join(parts), options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
