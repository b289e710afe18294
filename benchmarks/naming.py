"""Things named by where they are, in an outsider's words: `python benchmarks/naming.py`.

naming.json has 100 instructions with their tables, by somebody who did not know the grammar, and
what a careful human would do. The rules were made with the first half; nobody who made them has
read the second. Colours that no thing has were exchanged (yellow things are pink, pad and bowl are
yellow and white). Counted are those of which thing, task and direction are right; a refusal is
better than anything wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from results import add_write_option, write_section

from vla_ros.paths import read_json
from vla_ros.scene_language.references import Unresolved
from vla_ros.scene_language.requests import ground, subtasks_of
from vla_ros.scene_language.scenes import FIXTURES, Name, Place, Scene, Thing
from vla_ros.training.evaluation import wilson_interval

SENTENCES = Path(__file__).with_name("naming.json")
HALVES = {"made_with": "the rules were made with these", "unseen": "never read"}
GRIPPER = Place(32, 32, 8)


def table_of(said: dict[str, Any]) -> Scene:
    """The scene of a sentence: [colour, shape, x, y] in bins."""
    things = (
        Thing(Name(color, shape), Place(x, y, 0 if shape in FIXTURES else 1))
        for color, shape, x, y in said["things"]
    )
    return Scene(tuple(things), GRIPPER)


def verdict(said: dict[str, Any]) -> str:
    """ "right", "refused" or "wrong"."""
    subtasks = subtasks_of(said["instruction"])
    if len(subtasks) != 1:
        return "wrong"
    try:
        found = ground(subtasks[0], table_of(said))
    except Unresolved:
        return "refused"
    if found.thing != Name(*said["target"]) or found.deed is None:
        return "wrong"
    asked = (found.deed.family, found.deed.direction)
    return "right" if asked == (said["family"], said["direction"]) else "wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_write_option(parser)
    options = parser.parse_args()
    sentences = read_json(SENTENCES)
    lines = [
        "## Things named by where they are",
        "",
        "`python benchmarks/naming.py`",
        "An outsider's sentences about tables of four to six things: which thing, what to do with "
        "it and in which direction.",
        "",
        "| sentences | right | refused | wrong | of | right, 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for half, what in HALVES.items():
        found = Counter(map(verdict, sentences[half]))
        low, high = wilson_interval(found["right"], len(sentences[half]))
        lines.append(
            f"| {what} | {found['right']} | {found['refused']} | {found['wrong']} | "
            f"{len(sentences[half])} | {100 * low:.1f} to {100 * high:.1f} % |"
        )
    write_section("naming", "\n".join(lines), options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
