"""What the narrator makes of scenes that it is told: `python benchmarks/narrator_language.py`.

No pictures: scenes, actions and questions are told, as in training stories but of the held-out
split. The same stories are put to the narrator, to its language before it learned to see
(--spatial), to a text-only GPT of the same shape that learned the same stories all in words
(--words), and to what counting alone gives. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, table
from narrator_tasks import (
    CHOSEN_ON,
    COUNTED,
    FIRST_SEED,
    MEASURED,
    STEPS,
    Speaker,
    Told,
    by_majority,
    by_rule,
    episodes,
    held_out,
    inverse,
    judge,
    majorities,
    of_checkpoint,
    of_counts,
    of_stories,
    permuted,
    rollouts,
    standing_still,
    transitive,
)
from results import add_write_option, write_section
from tqdm import tqdm

from vla_ros.checkpoints import resolve
from vla_ros.scene_language.stories import Stories
from vla_ros.training.evaluation import wilson_interval
from vla_ros.training.metrics import resampled_interval
from vla_ros.training.narrator.measures import balanced

KINDS = ("Is", "What", "Where")
RESAMPLES = 300
FEW = 5  # questions about a relation with one answer, below which it does not count


def rate(right: Sequence[bool], seeds: Sequence[int] = ()) -> dict[str, Any]:
    """A share with its interval, and, with the seed of each, the share of every seed."""
    low, high = wilson_interval(sum(right), len(right))
    by_seed = [
        float(np.mean([ok for ok, s in zip(right, seeds, strict=True) if s == seed]))
        for seed in sorted(set(seeds))
    ]
    share = sum(right) / len(right) if right else None
    return {"share": share, "of": len(right), "low": low, "high": high, "by_seed": by_seed}


def rate_of(told: Sequence[Told], what: str) -> dict[str, Any]:
    return rate([one.right[what] for one in told], [one.seed for one in told])


def cell(found: dict[str, Any] | None, seeds: bool = False) -> str:
    """Per cent and interval; with `seeds` also the lowest and the highest seed."""
    if found is None or found["share"] is None:
        return "-"
    text = f"{found['share']:.1%} ({100 * found['low']:.0f} to {100 * found['high']:.0f})"
    if seeds and found["by_seed"]:
        text += f", seeds {min(found['by_seed']):.1%} to {max(found['by_seed']):.1%}"
    return text


def balanced_of(told: Sequence[Told]) -> list[float] | None:
    """See `measures.balanced`; with the interval of resampled questions. None: too few."""
    judged = [(one.relation, one.yes, one.right["answer"]) for one in told]
    groups: dict[tuple, list] = {}
    for one in judged:
        groups.setdefault(one[:2], []).append(one)

    def of(*drawn: np.ndarray) -> float:
        pairs = zip(groups.values(), drawn, strict=True)
        return balanced(group[i] for group, chosen in pairs for i in chosen)

    try:
        found = balanced(judged, FEW)
    except ValueError:
        return None
    return [found, *resampled_interval(of, [*map(len, groups.values())], RESAMPLES)]


def answer_figures(told: Sequence[Told]) -> dict[str, Any]:
    relations = sorted({one.relation for one in told})
    return {
        "all": rate_of(told, "answer"),
        **{kind: rate_of([t for t in told if t.kind == kind], "answer") for kind in KINDS},
        "balanced": balanced_of([one for one in told if one.kind == "Is"]),
        "relations": {
            name: rate_of([t for t in told if t.relation == name], "answer") for name in relations
        },
    }


def figures_of(told: Sequence[Told], kind: str) -> dict[str, Any]:
    if kind == "ask":
        return answer_figures(told)
    found = {what: rate_of(told, what) for what in told[0].right}
    if kind == "next":
        found["given gripper"] = rate_of([one for one in told if one.right["gripper"]], "scene")
    return found


def measure(speakers: dict[str, Speaker], seeds: int, items: int) -> dict[str, Any]:
    """All figures, by what is measured and by speaker."""
    forms = sorted({speaker.form for speaker in speakers.values()})
    counts = {"ask": items, "next": items // 2, "narrate": items // 3}
    usual = majorities([Stories(0, "train", "words", MEASURED)[i] for i in range(CHOSEN_ON * 4)])
    found: dict[str, Any] = {kind: {} for kind in (*MEASURED, "seven", "permuted")}
    for kind, count in counts.items():
        stories = {form: held_out(form, kind, range(seeds), count) for form in forms}
        for name, speaker in tqdm(speakers.items(), desc=kind):
            found[kind][name] = figures_of(of_stories(speaker, stories[speaker.form]), kind)
        some = stories[forms[0]]
        found[kind]["majority"] = figures_of(by_majority(usual, some), kind)
        if kind != "ask":
            found[kind]["action alone"] = figures_of(by_rule(some), kind)
    seven = {form: held_out(form, "ask", range(seeds), items // 3, 7) for form in forms}
    asked = held_out("spatial", "ask", range(seeds), items // 3)
    chains = episodes(max(items // 6, 1), FIRST_SEED)
    found |= {"inverse": {}, "transitive": {}}
    found["rollout"] = {"all stays": standing_still(chains).mean(0).tolist()}
    for name, speaker in tqdm(speakers.items(), desc="beyond"):
        told = of_stories(speaker, seven[speaker.form])
        found["seven"][name] = rate_of(told, "answer")
        if speaker.form == "spatial":
            said = speaker.speak([permuted(story.prompt) for _, story in asked])
            pairs = zip(asked, said, strict=True)
            told = [judge(story, seed, tokens, "spatial") for (seed, story), tokens in pairs]
            found["permuted"][name] = rate_of(told, "answer")
        same, right = inverse(speaker, items // 2, FIRST_SEED)
        found["inverse"][name] = {"same": rate(same), "right": rate(right)}
        found["transitive"][name] = rate(transitive(speaker, items // 2, FIRST_SEED))
        found["rollout"][name] = rollouts(speaker, chains, FIRST_SEED).mean(0).tolist()
    found["seven"]["majority"] = rate_of(by_majority(usual, seven[forms[0]]), "answer")
    return found


def said_balanced(found: list[float] | None) -> str:
    return "-" if found is None else "{:.1%} ({:.1%} to {:.1%})".format(*found)


def report(found: dict[str, Any], told: str, counted: str) -> str:
    asked = found["ask"]
    rows = [
        [name, cell(one["all"], seeds=True), *(cell(one[kind]) for kind in KINDS)]
        + [said_balanced(one["balanced"])]
        for name, one in asked.items()
    ]
    relations = sorted({name for one in asked.values() for name in one["relations"]})
    by_relation = [
        [name, *(f"{one['relations'][name]['share']:.0%}" for one in asked.values())]
        for name in relations
    ]
    nexts = [
        [name, *(cell(one[what]) for what in ("scene", "gripper", "things", "given gripper"))]
        for name, one in found["next"].items()
    ]
    narrations = [
        [name, *(cell(one[w]) for w in ("fact", "true"))] for name, one in found["narrate"].items()
    ]
    beyond = [
        [name, cell(one["all"]), cell(found["seven"].get(name)), cell(found["permuted"].get(name))]
        for name, one in asked.items()
    ]
    consistent = [
        [name, cell(one["same"]), cell(one["right"]), cell(found["transitive"][name])]
        + [found["transitive"][name]["of"]]
        for name, one in found["inverse"].items()
    ]
    rolled = [
        [name, *(f"{gripper:.2f} / {things:.2f}" for gripper, things in errors)]
        for name, errors in found["rollout"].items()
    ]
    return f"""## Narrator: language

`python benchmarks/narrator_language.py {told}`
on {machine("plain torch")}.

Stories that training never told, without pictures, on {len(asked["majority"]["all"]["by_seed"])}
seeds. Shares in per cent, with Wilson intervals (95 %). "Narrator" is the whole one, which also
learned to see. "Spatial tokens" and "words only" are GPTs of its shape, trained by the commands in
README with equally many steps; to the second the same stories were told in words. N-grams:
{counted}.
Majority is the usual answer to such a question, the usual fact, or a world in which nothing moves.

Questions about relations, all of compositions that training never said (a colour, a shape, the
relation that such a thing has to something, and to what).
A rare relation is mostly asked about where it does not hold, so "is it so?" is also given balanced:
of every relation half yes and half no, where always saying the same is right in 50 %.

{table(["", "all", *KINDS, "Is, balanced"], rows)}

{table(["relation", *asked], by_relation)}

More things than training ever showed (up to 6), and the same questions with the ids of x and of y
each exchanged among themselves, as what is answered from the order of ids must then go wrong:

{table(["", "2 to 6 things", "7 things", "ids exchanged"], beyond)}

The scene after an action, exactly; "action alone" lets the gripper do as told and meet nothing:

{table(["", "scene", "gripper", "things", "scene where the gripper is right"], nexts)}

Narrations of relations never said: the fact of the story exactly, and any true sentence:

{table(["", "that fact", "true"], narrations)}

Answers that agree with each other: "is a left of b?" with "is b right of a?" (a coin agrees in half
of them), the share that agree and are right, and "is a left of c?" where "a is left of b" and "b is
left of c" are true and both said:

{table(["", "inverse", "inverse and right", "transitive", "of"], consistent)}

Error of a rollout, each step from the scene told before, in bins (gripper / things, mean), after so
many steps:

{table(["", *map(str, STEPS)], rolled)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--narrator", default="narrator", help="a shipped one, or a folder")
    parser.add_argument("--spatial", type=Path, help="narrator that learned the language only")
    parser.add_argument("--words", type=Path, help="narrator that learned it in words only")
    parser.add_argument("--items", type=int, default=600, help="questions of each seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all figures there too")
    add_write_option(parser)
    options = parser.parse_args()
    if options.items < 6 or options.seeds < 1:
        parser.error("--items must be 6 or more, --seeds 1 or more")
    torch.set_num_threads(1)
    speakers = {"narrator": of_checkpoint(resolve(options.narrator), "spatial")}
    told = f"--narrator {options.narrator} --items {options.items} --seeds {options.seeds}"
    if options.spatial:
        speakers["spatial tokens"] = of_checkpoint(options.spatial, "spatial")
    if options.words:
        speakers["words only"] = of_checkpoint(options.words, "words")
    counted = []
    for form in ("spatial", "words"):
        speakers[f"n-grams, {form}"], model = of_counts(form)
        counted.append(f"of order {model.order} in {form}")
    told += "".join(f" --{n} {n.upper()}" for n in ("spatial", "words") if getattr(options, n))
    found = measure(speakers, options.seeds, options.items)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    said = f"{' and '.join(counted)}, counted on {COUNTED} training stories"
    text = report(found, told, said)
    write_section("narrator_language", text, options.write)


if __name__ == "__main__":
    main()
