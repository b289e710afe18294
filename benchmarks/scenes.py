"""Text -> scene -> text: what words look like, and whether they come back: `vla bench scenes`.

Texts that training did not draw are painted, and what is read in the pictures is held against what
the texts say. Read by the model's own captioner, which sees pixels only, and by a judge that has
seen nothing but drawings; from other pictures and from none, where nothing may be read; and from
the pixels themselves. Intervals are 95 %, of texts drawn again (bootstrap).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine
from results import add_write_option, write_section
from scenes_page import report

from vla_ros.checkpoints import resolve
from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.models.scenes.layout import Picture
from vla_ros.models.scenes.reading import shows
from vla_ros.scene_language.scenes import COLORS
from vla_ros.training.metrics import auroc
from vla_ros.training.recipes import ScenesRecipe
from vla_ros.training.scenes import measures, pixels
from vla_ros.training.scenes.judge import Judge, train_judge
from vla_ros.training.scenes.losses import drawn
from vla_ros.training.scenes.measures import Agreement, Reader, tally
from vla_ros.training.scenes.narrations import (
    KINDS,
    Narrated,
    descriptions,
    named,
    narrations,
    scores,
    similarities,
)
from vla_ros.training.scenes.texts import SPLITS, Text, Texts
from vla_ros.training.scenes.watch import FIXED, write_scenes

FIRST_SEED = 1_000_000  # of what training never draws from
AMONG = 100  # texts of which one is to be found
BINS = 5  # of the reliability of scores
_RECIPE = ScenesRecipe()


def trained(checkpoint: Path, seeds: Sequence[int] = ()) -> set[tuple[str, ...]]:
    """All texts that a checkpoint was trained on, by the settings beside it, or the usual ones, and
    as many of each further seed."""
    path = checkpoint.parent / "run.json"
    told = json.loads(path.read_text()) if path.is_file() else vars(_RECIPE)
    count = told["epochs"] * told["num_samples"]
    lists = [Texts(seed) for seed in {told["seed"], *seeds}]
    return {texts[i].words for texts in lists for i in range(count)}


def unseen(
    split: str, seeds: int, count: int, known: set[tuple[str, ...]]
) -> tuple[list[Text], int]:
    """`count` texts of each seed that are not `known`, and how many were left out."""
    found: list[Text] = []
    left_out = 0
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        texts, number = Texts(seed, split), 0
        enough = len(found) + count
        while len(found) < enough:
            text = texts[number]
            number += 1
            if text.words in known:
                left_out += 1
            else:
                found.append(text)
    return found, left_out


# -- reading ---------------------------------------------------------------------------------------


def shares(rows: np.ndarray) -> dict[str, Any]:
    return {**asdict(Agreement.of(rows)), "intervals": measures.intervals(rows)}


def reading(model: CycleScenes, judge: Judge, texts: Sequence[Text]) -> dict[str, Any]:
    """What is read in the scenes of texts, by whom, and where nothing can be read."""
    parts = measures.decoded(model, texts, FIRST_SEED)
    scenes, meant = measures.scenes_of(parts), measures.layouts_of(parts)
    captioner: Reader = lambda some: measures.read(model.captioner, some)  # noqa: E731
    judged = tally(texts, measures.read(judge.captioner, scenes))
    found = measures.controls(texts, scenes, captioner)
    rows = {
        "captioner": found["own"],
        "judge": judged,
        "the layout itself": tally(texts, meant),
        "judge, from drawings of the layouts": tally(
            texts, measures.read(judge.captioner, drawn(meant))
        ),
        "chance: of another text": found["chance"],
        "shuffled texts": found["shuffled"],
        "blank pictures": found["blank"],
        "blank: of another text": found["blank, chance"],
        "noise": found["noise"],
        "noise: of another text": found["noise, chance"],
    }
    return {
        "texts": len(texts),
        "read": {name: shares(one) for name, one in rows.items()},
        "suspicions": measures.suspicions(found, judged),
        "retrieved": retrieval(model, texts, scenes),
        "failures": measures.failures(texts, captioner(scenes)),
        "harm": harm(model, judge, texts, torch.cat([part.scene for part in parts])),
    }


def retrieval(model: CycleScenes, texts: Sequence[Text], scenes: torch.Tensor) -> dict[str, Any]:
    chosen = measures.different(texts)
    said = measures.embedded(model, [texts[i] for i in chosen])
    own = scenes[chosen]
    other = torch.from_numpy(measures.others(len(chosen)))
    pictures = {
        "captioner": own,
        "shuffled texts": own[other],
        "blank pictures": measures.blanks(len(chosen)),
        "noise": measures.noises(len(chosen)),
    }
    return {
        name: rate(measures.retrieved(partial(measures.fits, model), said, some, AMONG))
        for name, some in pictures.items()
    }


def harm(
    model: CycleScenes, judge: Judge, texts: Sequence[Text], scenes: torch.Tensor
) -> dict[str, Any]:
    """Names and exact pictures, as both read them, of pictures that something happened to."""
    ways = {"nothing": lambda some: some} | pixels.HARM
    return {
        name: {
            who: asdict(Agreement.of(tally(texts, measures.read(reader.captioner, harmed))))
            for who, reader in (("captioner", model), ("judge", judge))
        }
        for name, harmed in ((name, way(scenes)) for name, way in ways.items())
    }


def rate(hits: np.ndarray) -> dict[str, float]:
    """A mean with its interval."""
    return interval(lambda rows: float(hits[rows].mean()), len(hits))


def interval(of: Callable[[np.ndarray], float], count: int) -> dict[str, float]:
    """A figure of rows with its interval, of rows drawn again."""
    low, high = measures.resampled(of, count)
    return {"value": of(np.arange(count)), "low": float(low), "high": float(high), "of": count}


# -- pixels ----------------------------------------------------------------------------------------


def in_pixels(model: CycleScenes, count: int) -> dict[str, Any]:
    """A linear probe, one changed word, and the looks of words, of `count` texts or pairs."""
    texts = pixels.single(FIRST_SEED, count)
    parts = measures.decoded(model, texts, FIRST_SEED)
    scenes, places = measures.scenes_of(parts), pixels.layouts(parts).place[:, 0]
    names = [text.names[0] for text in texts]
    colors = torch.tensor([COLORS.index(name.color) for name in names])
    half = count // 2
    drawings = drawn(measures.layouts_of(parts))
    probes = {}
    for name, (learned, tested) in {
        "scenes": (scenes, scenes),
        "drawings": (drawings, scenes),
        "drawings, tested on drawings": (drawings, drawings),
    }.items():
        probe = pixels.Probe.fit(learned[:half], colors[:half].tolist(), places[:half])
        color, place = probe(tested[half:])
        off = (place - places[half:]).norm(dim=1)
        off = off.nan_to_num(float(pixels.SIZE))
        right = (color == colors[half:]).double().numpy()
        probes[name] = {
            "color": rate(right),
            "mean": off.mean().item(),
            "within": rate((off <= 2).double().numpy()),
        }
    middle = places[:half].mean(0)
    changed = pixels.edits(model, Texts(FIRST_SEED), count, FIRST_SEED)
    return {
        "probes": probes,
        "middle": (places[half:] - middle).norm(dim=1).mean().item(),
        "edits": {
            "inside": rate(changed.inside),
            "changed": rate(changed.changed.astype(float)),
            "unrelated": rate(changed.unrelated),
        },
        "looks": {k: asdict(v) for k, v in pixels.looks(scenes, names, places).items()},
    }


# -- the cycle score -------------------------------------------------------------------------------


def cycle_score(model: CycleScenes, seeds: int, count: int) -> dict[str, Any]:
    """How far scores tell true sentences from ones with a wrong word, and what others tell."""
    seeds = [FIRST_SEED + s for s in range(seeds)]
    moving = [one for seed in seeds for one in narrations(count, seed)]
    told = [*moving, *(one for seed in seeds for one in descriptions(count // 2, seed))]
    scenes = [one.picture for one in told]
    other = measures.others(len(told))
    true, false = (
        similarities(model, [getattr(one, name) for one in told], scenes)
        for name in ("true", "false")
    )
    elsewhere = similarities(model, [one.true for one in told], [scenes[i] for i in other])
    blind = similarities(model, [one.false for one in told], [scenes[i] for i in other])
    speakers = {
        "cycle score": (true, false),
        "names that are there": _each(told, _names_there),
        "the cycle score of another scene": (elsewhere, blind),
        "the sentence parsed, its facts checked": _each(told, _facts_hold),
    }
    kinds = np.array([one.kind for one in told])
    held = np.array([one.held_out for one in told])
    narrated = np.arange(len(told)) < len(moving)
    groups = {"all": narrated, **{kind: narrated & (kinds == kind) for kind in KINDS}}
    groups |= {"seen": narrated & ~held, "held out": narrated & held, "descriptions": ~narrated}
    return {
        "auroc": {
            name: {group: _auroc(high[mask], low[mask]) for group, mask in groups.items()}
            for name, (high, low) in speakers.items()
        },
        "calibration": {
            name: calibration(scores(model, true[mask]), scores(model, false[mask]))
            for name, mask in (("narrations", narrated), ("descriptions", ~narrated))
        },
    }


def _auroc(high: np.ndarray, low: np.ndarray) -> dict[str, float]:
    return interval(lambda rows: auroc(high[rows], low[rows]), len(high))


def _each(
    told: Sequence[Narrated], of: Callable[[Picture, Any], float]
) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([of(one.picture, one.fact) for one in told]),
        np.array([of(one.picture, one.wrong) for one in told]),
    )


def _names_there(picture: Picture, fact: Any) -> float:
    """A bag of words: the share of the sentence's things that are in the picture."""
    there, names = {name for name, _ in picture.things}, named(fact)
    return float(np.mean([name in there for name in names])) if names else 1.0


def _facts_hold(picture: Picture, fact: Any) -> float:
    return float(shows(picture, fact))


def calibration(true: np.ndarray, false: np.ndarray) -> dict[str, Any]:
    """How honest scores are, half of the sentences being true."""
    score = np.concatenate([true, false])
    right = np.concatenate([np.ones(len(true)), np.zeros(len(false))])
    place = np.minimum((score * BINS).astype(int), BINS - 1)
    reliability = [
        [float(score[place == i].mean()), float(right[place == i].mean()), int((place == i).sum())]
        for i in range(BINS)
        if (place == i).any()
    ]
    thresholds = np.unique(score)
    best = max(float(np.mean((score >= t) == (right > 0))) for t in thresholds)
    return {
        "brier": float(np.mean((score - right) ** 2)),
        "at half": float(np.mean((score >= 0.5) == (right > 0))),
        "at best": best,
        "reliability": reliability,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="scenes", help="a shipped one, or a folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=500, help="of each seed and split")
    parser.add_argument(
        "--judge", type=Path, default=Path("runs/scenes_judge"), help="folder of the judge's run"
    )
    parser.add_argument("--judge-steps", type=int, default=3000, help="that it is trained for")
    parser.add_argument(
        "--trained-seeds", type=int, nargs="+", default=[0], help="of texts it was trained on"
    )
    parser.add_argument("--picture", type=Path, help="write a grid of scenes there (.png)")
    parser.add_argument("--json", type=Path, help="write all figures there too")
    add_write_option(parser)
    options = parser.parse_args()
    if options.seeds < 1 or options.texts * options.seeds < 2 * AMONG or options.judge_steps < 1:
        parser.error(
            f"--seeds and --judge-steps must be 1 or more, all texts together {2 * AMONG} or more"
        )
    if options.picture and options.picture.suffix != ".png":
        parser.error(f"--picture {options.picture} does not end in .png")
    torch.set_num_threads(1)
    checkpoint = resolve(options.checkpoint)
    model = CycleScenes.from_pretrained(checkpoint)
    judge = train_judge(options.judge, model.config, options.judge_steps)
    torch.set_num_threads(1)
    known = trained(checkpoint, options.trained_seeds)
    found: dict[str, Any] = {"left_out": {}}
    for split in SPLITS:
        texts, found["left_out"][split] = unseen(split, options.seeds, options.texts, known)
        found[split] = reading(model, judge, texts)
    found["pixels"] = in_pixels(model, options.seeds * options.texts)
    found["score"] = cycle_score(model, options.seeds, options.texts)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.picture:
        write_scenes(model, FIXED, options.picture)
    command = (
        f"python benchmarks/scenes.py --checkpoint {options.checkpoint} --seeds {options.seeds} "
        f"--texts {options.texts} --judge-steps {options.judge_steps}"
    )
    text = report(found, command, machine("plain torch"), options.judge_steps)
    write_section("scenes", text, options.write)


if __name__ == "__main__":
    main()
