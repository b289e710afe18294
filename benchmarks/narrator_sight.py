"""What the narrator sees and says of it, beside the truth: `python benchmarks/narrator_sight.py`.

On scenes of the simulated arm that nothing was trained on. Glances show what it sees: things laid
out anew, the arm anywhere. Episodes show what it says while the arm moves, driven by the wandering
expert and, with --policy, by a policy. Truth is the simulator's physics: of a scene as it is, of a
narration also as it is 0.2 s later. The blind control gets the pictures of other scenes. Intervals
are of resampled scenes or episodes (bootstrap, 95 %).
"""

from __future__ import annotations

import argparse
import json
import random
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from measuring import machine, table
from narrator_sightings import (
    FRAMES,
    Line,
    Shown,
    answers_to,
    ask,
    description_true,
    elsewhere,
    episodes,
    glances,
    scenes_of,
    tell_all,
    tell_plan,
    tell_truth_of,
)
from results import add_write_option, write_section
from world_model import resampled

from vla_ros.checkpoints import resolve
from vla_ros.models.narrator import Narrator
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.scene_language.facts import related, true_of
from vla_ros.scene_language.questions import Is, Question
from vla_ros.scene_language.scenes import Scene
from vla_ros.sim.arm import ArmWorld
from vla_ros.training.narrator.measures import (
    attributes_right,
    balanced,
    close_relations,
    movable,
    names_right,
    place_errors,
    relation_asked,
    slot_f1,
    wording_scores,
)
from vla_ros.training.narrator.sightings import Cameras

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

QUESTIONS = 2  # of each glance
FEW = 5  # of a relation, below which it does not count
BLIND = 0.5  # share of the glances that the blind control is given
ON_SHEET = (4, 6)  # rows and columns
RELATIONS_OF = ("relations", "relations of things seen")
SEEN = {  # figures and their headings
    "attributes": "attributes",
    "precision": "of names said right",
    "recall": "of things named",
    "all names": "scenes all right",
    **{name: name for name in RELATIONS_OF},
}
TOLD = ("true", "unsound", "true where sound", "exact", "meaning")
Interval = list[float]  # a figure and its interval


# -- scenes ----------------------------------------------------------------------------------------


def over(values: Iterable, groups: Sequence[int], figure: Callable = np.mean) -> Interval:
    """`figure` of rows, and its interval over resampled groups of them."""
    return list(resampled(np.array(list(values)), np.array(groups), lambda v: float(figure(v))))


def judged_relations(true: Scene, seen: Scene) -> list[tuple[str, bool, bool, bool]]:
    """Of all relations that hold or nearly do: which, whether it holds, whether the seen scene says
    so too, and whether it has both things; if not, it is wrong."""
    judged = []
    for fact, holds in close_relations(true):
        there = fact.subject in seen and fact.landmarks[0] in seen
        told = there and related(fact.relation, fact.subject, fact.landmarks, seen)
        judged.append((fact.relation, holds, there and told == holds, there))
    return judged


def as_much_yes_as_no(judged: Sequence[tuple[str, bool, bool]]) -> float | None:
    """See `measures.balanced`; None if there are too few."""
    try:
        return balanced(judged, FEW)
    except ValueError:
        return None


def sight_figures(true: Sequence[Scene], seen: Sequence[Scene]) -> dict[str, Any]:
    """How well scenes are seen: names, places and relations of things."""
    groups = range(len(true))
    pairs = list(zip(true, seen, strict=True))
    names = [names_right(*pair) for pair in pairs]
    attributes = [attributes_right(*pair) for pair in pairs]
    errors = np.concatenate([place_errors(t, s, movable(t)) for t, s in pairs])
    judged = [one for pair in pairs for one in judged_relations(*pair)]
    known = [one[:3] for one in judged if one[3]]
    return {
        "attributes": over(attributes, groups, lambda n: n[:, 0].sum() / n[:, 1].sum()),
        "precision": over(names, groups, lambda n: n[:, 0].sum() / max(n[:, 1].sum(), 1)),
        "recall": over(names, groups, lambda n: n[:, 0].sum() / n[:, 2].sum()),
        "all names": over([right == found == there for right, found, there in names], groups),
        "error": [[float(np.quantile(errors[:, i], q)) for q in (0.5, 0.9)] for i in range(3)]
        if len(errors)
        else None,
        "relations": as_much_yes_as_no([one[:3] for one in judged]),
        "relations of things seen": as_much_yes_as_no(known),
    }


def question_figures(
    asked: Sequence[tuple[int, Question, Any]], said: Sequence[Any]
) -> dict[str, Any]:
    """Answers about relations: shares right, and "is it so?" with as much yes as no."""
    right = [answer == truth for (_, _, truth), answer in zip(asked, said, strict=True)]
    yes_no = [
        (relation_asked(question, truth), truth, ok)
        for (_, question, truth), ok in zip(asked, right, strict=True)
        if isinstance(question, Is)
    ]
    other = [
        (number, ok)
        for (number, question, _), ok in zip(asked, right, strict=True)
        if not isinstance(question, Is)
    ]
    return {
        "all": over(right, [number for number, _, _ in asked]),
        "is": as_much_yes_as_no(yes_no),
        "others": over([ok for _, ok in other], [number for number, _ in other]) if other else None,
    }


def held_figures(shown: Sequence[Shown], seen: Sequence[Scene]) -> dict[str, Interval | None]:
    """Of frames in which something is held, and of those in which nothing is, the share right."""
    found = {}
    for name, some in (("something", True), ("nothing", False)):
        rows = [
            (scene.holds == one.sight.scene.holds, one.group)
            for one, scene in zip(shown, seen, strict=True)
            if (one.sight.scene.holds is not None) == some
        ]
        found[name] = over([r for r, _ in rows], [g for _, g in rows]) if rows else None
        found[f"{name}, frames"] = len(rows)
    return found


# -- narrations ------------------------------------------------------------------------------------


def narration_figures(shown: Sequence[Shown], lines: Sequence[Line]) -> dict[str, Any]:
    """How true sentences are, and how near to what is best said."""
    groups = [one.group for one in shown]
    best = [one.narration for one in shown]
    true = [is_true(one, line) for one, line in zip(shown, lines, strict=True)]
    sound = [ok for ok, line in zip(true, lines, strict=True) if line.sound]
    pairs = list(zip(lines, best, strict=True))
    return {
        "true": over(true, groups),
        "unsound": over([not line.sound for line in lines], groups),
        "true where sound": float(np.mean(sound)) if sound else None,
        "exact": over([line.fact == fact for line, fact in pairs], groups),
        "meaning": over([slot_f1(line.fact, fact) for line, fact in pairs], groups),
        **wording_scores([line.text for line in lines], best),
    }


def is_true(one: Shown, line: Line) -> bool:
    return true_of(line.fact, one.sight.scene, one.sight.after)


def description_figures(shown: Sequence[Shown]) -> dict[str, Any]:
    """The policy's own descriptions, as far as what they say can be judged from two scenes."""
    judged = [(description_true(one), one.group) for one in shown]
    told = [(ok, group) for ok, group in judged if ok is not None]
    true = over([ok for ok, _ in told], [group for _, group in told]) if told else None
    return {"true": true, "judged": len(told), "of": len(shown)}


def draw(shown: Sequence[Shown], lines: Sequence[Line], picture: Path) -> None:
    """Frames with what is said of them: green what is true, red what is not."""
    rows, columns = ON_SHEET
    chosen = np.linspace(0, len(shown) - 1, min(rows * columns, len(shown))).astype(int)
    figure, axes = pyplot.subplots(rows, columns, figsize=(2.5 * columns, 3.3 * rows))
    for axis in axes.flat:
        axis.axis("off")
    for axis, number in zip(axes.flat, chosen, strict=False):
        one, line = shown[number], lines[number]
        axis.imshow(one.sight.images[0], interpolation="nearest")
        color = "tab:green" if is_true(one, line) else "tab:red"
        words = textwrap.fill(line.text or "(nothing)", 34)
        axis.set_title(words if line.sound else f"{words} [unsound]", color=color, fontsize=7)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


# -- the page --------------------------------------------------------------------------------------


def percent(found: Interval | float | None) -> str:
    if found is None:
        return "-"
    if isinstance(found, float):
        return f"{found:.1%}"
    return f"{found[0]:.1%} ({100 * found[1]:.0f} to {100 * found[2]:.0f})"


def report(found: dict[str, Any], told: str, glanced: int) -> str:
    seen = [[name, *(percent(one[what]) for what in SEEN)] for name, one in found["sight"].items()]
    places = [
        [name, *("-" if one["error"] is None else f"{a:.0f} / {b:.0f}" for a, b in one["error"])]
        for name, one in found["sight"].items()
        if one["error"] is not None
    ]
    asked = [
        [name, *(percent(one[what]) for what in ("all", "is", "others"))]
        for name, one in found["questions"].items()
    ]
    held = [
        [name, *(percent(one[what]) for what in ("something", "nothing"))]
        for name, one in found["held"].items()
    ]
    frames = next(iter(found["held"].values()))
    narrated = [
        [
            name,
            *(percent(one[what]) for what in TOLD),
            f"{one['bleu4']:.1f}",
            f"{one['rougeL']:.1f}",
        ]
        for name, one in found["narrations"].items()
    ]
    own = found.get("descriptions")
    policy = (
        ""
        if own is None
        else f"""

The policy's own descriptions (one of a fixed list) while it drives: {percent(own["true"])} true by
physics, of the {own["judged"]} of {own["of"]} frames whose description tells of a motion."""
    )
    return f"""## Narrator: sight

`python benchmarks/narrator_sight.py {told}`
on {machine("plain torch")}.

{glanced} glances at scenes on seeds that nothing was trained on. "Blind" is the narrator with the
pictures of other scenes and its own proprioception; "chance" are the true scenes of those other
pictures, what perfect eyes would get from them. Attributes: colour and shape of each movable thing,
each for itself, of what is seen within 10 cm of it; names: both, wherever it is seen;
relations among all things that hold or would hold 3 cm beside, half each, where always saying the
same gives 50 % and what is not seen is wrong:

{table(["", *SEEN.values()], seen)}

How far off the things are that are named right, in bins along each axis (1, 1 and 2 cm), median /
90th percentile:

{table(["", "x", "y", "z"], places)}

Questions about relations, put to the narrator about what it saw; "is it so?" half yes and half no
of each relation:

{table(["", "all", "is it so?", "what and where"], asked)}

What the gripper holds, right of {frames["something, frames"]} frames of expert episodes in which it
holds something, and of {frames["nothing, frames"]} in which it holds nothing:

{table(["", "something", "nothing"], held)}

Narrations: true by physics between a frame and 0.2 s later; unsound by the narrator's own check;
the fact that is best said, exactly; F1 of the pieces of both facts (verb, direction, colour and
shape of each thing, relation; as SPICE does, without a model of words); BLEU-4 and ROUGE-L beside
all phrasings of that fact. "Plan alone" tells the direction of the action chunk and no more, which
is nearly always true and says little; "chance" is what is best said of another frame:

{table(["", *TOLD, "BLEU-4", "ROUGE-L"], narrated)}{policy}"""


# -- the run ---------------------------------------------------------------------------------------


def look(narrator: Narrator, shown: Sequence[Shown]) -> tuple[dict, dict]:
    """Figures of sight and of questions."""
    rng = random.Random(0)
    true = [one.sight.scene for one in shown]
    seen = scenes_of(narrator, shown, shown)
    asked = ask(true, QUESTIONS, rng)
    count = max(int(BLIND * len(shown)), 2)
    others = elsewhere(count)
    blind = scenes_of(narrator, shown[:count], [shown[i] for i in others])
    some = [one for one in asked if one[0] < count]
    sight = {
        "narrator": sight_figures(true, seen),
        "blind": sight_figures(true[:count], blind),
        "chance": sight_figures(true[:count], [true[i] for i in others]),
    }
    told = {
        "narrator": question_figures(asked, answers_to(asked, seen, narrator)),
        "blind": question_figures(some, answers_to(some, blind, narrator)),
        "chance": question_figures(some, answers_to(some, [true[i] for i in others])),
    }
    return sight, told


def listen(
    narrator: Narrator, shown: Sequence[Shown], driver: str, picture: Path | None
) -> tuple[dict, dict]:
    """Figures of narrations and of the thing held."""
    others = elsewhere(len(shown))
    seen = scenes_of(narrator, shown, shown)
    lines = tell_all(narrator, shown, seen)
    told = {driver: narration_figures(shown, lines)}
    held = {driver: held_figures(shown, seen)}
    if picture is not None:
        draw(shown, lines, picture)
        blind = scenes_of(narrator, shown, [shown[i] for i in others])
        truth = [one.sight.scene for one in shown]
        of_others = [tell_truth_of(shown[i]) for i in others]
        told |= {
            f"{driver}, told the true scene": narration_figures(
                shown, tell_all(narrator, shown, truth)
            ),
            f"{driver}, blind": narration_figures(shown, tell_all(narrator, shown, blind)),
        }
        told[f"{driver}, plan alone"] = narration_figures(shown, [tell_plan(one) for one in shown])
        told[f"{driver}, chance"] = narration_figures(shown, of_others)
        held[f"{driver}, blind"] = held_figures(shown, blind)
        held[f"{driver}, chance"] = held_figures(shown, [truth[i] for i in others])
    return told, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--narrator", default="narrator", help="a shipped one, or a folder")
    parser.add_argument("--policy", help="let this one drive too, half as many episodes")
    parser.add_argument("--glances", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/narrator-sight"), help="of a sheet")
    add_write_option(parser)
    options = parser.parse_args()
    if options.glances < 10 or options.episodes < 2:
        parser.error("--glances must be 10 or more, --episodes 2 or more")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    narrator = Narrator.from_pretrained(resolve(options.narrator))
    cameras = Cameras(narrator.config.cameras, narrator.image_size)
    world = ArmWorld()
    shown = glances(world, cameras, options.glances)
    found: dict[str, Any] = {}
    found["sight"], found["questions"] = look(narrator, shown)
    driven = episodes(world, cameras, options.episodes)
    told, held = listen(narrator, driven, "expert", options.out / "sheet.png")
    words = f"--narrator {options.narrator} --glances {options.glances} "
    words += f"--episodes {options.episodes}"
    if options.policy:
        words += f" --policy {options.policy}"
        policy = VisionLanguageActionModel.from_pretrained(resolve(options.policy))
        driven = episodes(world, cameras, max(options.episodes // 2, 1), policy)
        found["descriptions"] = description_figures(driven)
        more, also = listen(narrator, driven, "policy", None)
        told, held = told | more, held | also
    world.close()
    found |= {"narrations": told, "held": held, "frames of an episode": FRAMES}
    (options.out / "figures.json").write_text(json.dumps(found, indent=1))
    text = report(found, words, options.glances)
    write_section("narrator_sight", text, options.write)


if __name__ == "__main__":
    main()
