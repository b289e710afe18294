"""Beside LeRobot's ACT: the same demonstrations, processor time and evaluation.

    python3.11 -m venv /tmp/act_env
    /tmp/act_env/bin/pip install lerobot==0.4.4
    python benchmarks/act.py --lerobot /tmp/act_env/bin/python

ACT lives in its own environment, because LeRobot brings a torch of its own; there runs
workers/act_lerobot.py. What is made is in --out, each part whole or not there: an interrupted run
goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from act_policies import ACTION, Act, Maker, Ours, check_lerobot, evaluate, inference_ms
from act_training import (
    HELD_OUT,
    SHARD,
    TURNS,
    Cost,
    demonstrations,
    train_act,
    train_ours,
    without_second_labels,
)
from measuring import machine, table
from results import add_write_option, write_section

from vla_ros.checkpoints import resolve
from vla_ros.models.vlam_config import SMALL_ENCODER
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.sim.tasks import check_seeds
from vla_ros.training.evaluation import wilson_interval, write_json

OUR_SIZE = SMALL_ENCODER["image_size"]  # pixels
ONE_FAMILY = "reach"  # on which ACT is trained alone too, to see that it learns
ONE_EPISODES = 150
POLICIES = {
    "act": "ACT",
    "cloned": "ours, the same labels",
    "labelled": "ours, as usually trained",
    "arm": "ours, as shipped (far more training)",
}
FREE = ("lerobot", "jobs", "out", "without")  # what may change when a run is gone on with


@dataclass(frozen=True)
class Trial:
    """One policy from its training to its verdicts, in a process of its own."""

    name: str
    train: Callable[[], Cost | None]
    make: Maker
    verdicts: Path
    families: tuple[str, ...]
    seeds: range

    def run(self) -> dict:
        cost = self.train()
        print(f"{self.name}: trained", flush=True)
        found = evaluate(self.make, self.verdicts, self.families, self.seeds)
        print(f"{self.name}: evaluated", flush=True)
        return {**found, "cost": cost and vars(cost)}


def nothing() -> None:
    """A checkpoint that is there is not trained."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot", type=Path, required=True, help="python of its environment")
    parser.add_argument("--episodes", type=int, default=300, help="demonstrations; default 300")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training; default 20")
    parser.add_argument(
        "--one-minutes",
        type=float,
        default=10.0,
        help=f"of ACT's on {ONE_FAMILY} alone; default 10",
    )
    parser.add_argument("--trials", type=int, default=40, help="of each family; default 40")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; default 0")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once; default 2")
    parser.add_argument("--out", type=Path, default=Path("runs/act"), help="default runs/act")
    parser.add_argument(
        "--without", nargs="+", choices=("labelled", "arm"), default=[], help="rows to leave out"
    )
    parser.add_argument("--act-image", type=int, default=64, help="pixels; default 64")
    parser.add_argument("--act-batch", type=int, default=32, help="default 32")
    parser.add_argument("--act-rate", type=float, default=1e-4, help="learning rate; default 1e-4")
    parser.add_argument("--act-precision", choices=("fp32", "bf16"), default="bf16")
    add_write_option(parser)
    options = parser.parse_args()
    seeds = check_seeds(options.seed, options.trials)
    if not SHARD <= options.episodes or not 0 < options.minutes:
        raise SystemExit(f"--episodes must be {SHARD} or more, and --minutes more than 0")
    check_lerobot(options.lerobot)
    check_folder(options.out, {k: v for k, v in vars(options).items() if k not in FREE})
    results = measure(options, seeds)
    write_json(options.out / "results.json", results)
    text = report(options, results)
    write_section("act", text, options.write)


def check_folder(out: Path, told: dict) -> None:
    """Raises SystemExit if `out` holds a run with other options than `told`."""
    path = out / "options.json"
    if not path.exists():
        write_json(path, told)
    elif (before := json.loads(path.read_text())) != told:
        names = [name for name in told if before.get(name) != told[name]]
        differences = ", ".join(f"{name} {before.get(name)} not {told[name]}" for name in names)
        raise SystemExit(f"{out} holds a run with {differences}: name another folder with --out")


def measure(options: argparse.Namespace, seeds: range) -> dict:
    out = options.out.resolve()
    shards, held_out = {}, {}
    for name, families, count, size in (
        ("ours", TURNS, options.episodes, OUR_SIZE),
        ("act", TURNS, options.episodes, options.act_image),
        ("act-one", (ONE_FAMILY,), ONE_EPISODES, options.act_image),
    ):
        kind = "one" if name == "act-one" else "all"
        folder = out / "demonstrations" / f"{kind}-{size}"
        shards[name], held_out[name] = demonstrations(folder, families, count, size, options.jobs)
    labelled = held_out["ours"].parent
    cloned = labelled.with_name("first-labels")
    for path in (*shards["ours"], held_out["ours"]):
        without_second_labels(path, cloned / path.name)
    act_options = {
        "rate": options.act_rate,
        "batch_size": options.act_batch,
        "precision": options.act_precision,
        "seed": 0,
    }
    python = options.lerobot.absolute()

    def trial(name: str, train, make, families=FAMILIES) -> Trial:
        return Trial(name, train, make, out / f"{name}.json", tuple(families), seeds)

    def act(name: str, minutes: float) -> partial:
        return partial(
            train_act, python, shards[name], held_out[name], out / name,
            seconds=60 * minutes, **act_options,
        )  # fmt: skip

    def ours(name: str, source: Path) -> Trial:
        train = partial(train_ours, name, source, out / name, 60 * options.minutes, 0)
        return trial(name, train, partial(Ours, out / name / "checkpoint"))

    make_one = partial(Act, python, out / "act-one")
    trials = [
        trial("act", act("act", options.minutes), partial(Act, python, out / "act")),
        ours("cloned", cloned),
        trial("act-one", act("act-one", options.one_minutes), make_one, (ONE_FAMILY,)),
        ours("labelled", labelled),
        trial("arm", nothing, partial(Ours, resolve("arm"))),
    ]
    trials = [t for t in trials if t.name not in options.without]
    spawn = multiprocessing.get_context("spawn")
    # A process for each, whose time is all its own.
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        found = {t.name: pool.submit(t.run) for t in trials}
        found["act-one"].result()
        make = partial(make_one, ensembled=True)
        found["ensembled"] = pool.submit(trial("ensembled", nothing, make, (ONE_FAMILY,)).run)
        results = {name: future.result() for name, future in found.items()}
    policies = {t.name: t.make() for t in trials if t.name != "act-one"}
    times = inference_ms(policies)
    for policy in policies.values():
        policy.close()
    told = {name: json.loads((out / name / "told.json").read_text()) for name in ("act", "act-one")}
    return {"trials": results, "inference_ms": times, "act": told}


# -- report ----------------------------------------------------------------------------------------


def success(verdicts: list[list]) -> str:
    """Of [seed, won, reason] episodes: how many were won, and the 95 % interval."""
    wins = sum(won for _, won, _ in verdicts)
    low, high = wilson_interval(wins, len(verdicts))
    return f"{wins}/{len(verdicts)} ({100 * low:.0f} to {100 * high:.0f} %)"


def report(options: argparse.Namespace, results: dict) -> str:
    trials, act = results["trials"], results["act"]
    rows = []
    for name in results["inference_ms"]:
        trial, cost = trials[name], trials[name]["cost"]
        median, late = results["inference_ms"][name]
        every = [verdict for verdicts in trial["verdicts"].values() for verdict in verdicts]
        rows.append(
            [
                POLICIES[name],
                f"{trial['parameters'] / 1e6:.2f} M",
                f"{cost['seconds']:.0f}" if cost else "-",
                cost["steps"] if cost else "-",
                *map(success, [*trial["verdicts"].values(), every]),
                f"{median:.1f} / {late:.1f}",
            ]
        )
    head = ["policy", "parameters", "training, CPU s", "steps", *FAMILIES, "all", "inference, ms"]
    errors, errors_one = act["act"]["held_out"], act["act-one"]["held_out"]
    one, cost_one = trials["act-one"]["verdicts"][ONE_FAMILY], trials["act-one"]["cost"]
    ensembled = trials["ensembled"]["verdicts"][ONE_FAMILY]
    precision = {"bf16": "bf16 autocast, as ours", "fp32": "fp32"}[options.act_precision]
    last = options.seed + options.trials - 1
    usual = """ "As usually trained": the same episodes with all that the
simulator tells, as `vla train policy` without DAgger (a second instruction for each frame, places,
descriptions)."""
    command = (
        f"python benchmarks/act.py --lerobot PYTHON --episodes {options.episodes} "
        f"--minutes {options.minutes:g} --one-minutes {options.one_minutes:g} "
        f"--trials {options.trials}"
    )
    return f"""## Beside LeRobot's ACT

`{command}`
on {machine("native kernels")};
ACT with LeRobot {act["act"]["lerobot"]} and torch {act["act"]["torch"]}.

{options.episodes} episodes of the scripted experts; the same processor time for training (one
thread; reading of the data counts, writing of the LeRobotDataset does not); seeds {options.seed} to
{last} of each family, the same loop and judge. All start from random weights and are asked at
every frame for a chunk of {ACTION.horizon}, in the same form: offsets of the tool in m and the
fingers' opening, 20 Hz. Inference: one observation to a chunk, processor time of one thread,
median / 95th percentile, in turns, without the pipe between the processes.

{table(head, rows)}

ACT is LeRobot's with its defaults (ResNet-18, width 512, its loss, normalisation and optimizer; no
ImageNet weights, which no package registry has), but for images of {options.act_image} pixels,
batches of {options.act_batch}, a learning rate of {options.act_rate:g} instead of 1e-5, and
{precision}. It has no language, so it is told the goal outright (one-hot family, colour, shape,
direction) where ours hears a sentence. "The same labels": images, proprioception, instruction and
the expert's chunk, as ACT.{usual if "labelled" in trials else ""}

ACT's error on {HELD_OUT} held-out episodes is {1e3 * errors["offset"]:.1f} mm (the mean chunk's:
{1e3 * errors["mean_offset"]:.1f} mm). To see whether it learns here at all, it was also trained on
{ONE_EPISODES} episodes of {ONE_FAMILY} alone for {cost_one["seconds"]:.0f} s: the error is
{1e3 * errors_one["offset"]:.1f} mm (the mean chunk's:
{1e3 * errors_one["mean_offset"]:.1f} mm), and it succeeds in
{success(one)} of them, with its temporal ensembling in {success(ensembled)}."""


if __name__ == "__main__":
    main()
