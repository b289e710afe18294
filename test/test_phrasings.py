"""Goals in words from a file: each phrasing in its turn, and no mistake in the file passes."""

import copy
import json
from collections import Counter

import pytest

from vla_ros.scene_language.instructions import DIRECTIONS, FAMILIES, Goal
from vla_ros.training.phrasings import Phrasings

TOLD = {
    "nouns": {"cube": ["cube", "box"], "cylinder": ["can", "tube", "tin"]},
    "reach": ["reach the {color} {cube}", "go to the {color} {cube}", "touch the {color} one"],
    "pick": ["pick up the {color} {cube}"],
    "pad": ["put the {color} {cube} on the pad", "the {cube} that is {color} goes on the pad"],
    "bowl": ["put the {color} {cube} in the bowl"],
    "push": {
        direction: [
            f"push the {{color}} {{cube}} {direction}",
            f"{direction} with the {{color}} {{cube}}",
        ]
        for direction in DIRECTIONS
    },
}


def load(tmp_path, told):
    path = tmp_path / "phrasings.json"
    path.write_text(json.dumps(told))
    return Phrasings.load(path)


def test_a_goal_is_said_in_one_of_its_phrasings_with_its_colour_and_a_noun(tmp_path):
    phrasings = load(tmp_path, TOLD)
    assert phrasings.instruction(Goal("reach", "red", "cube"), 0) == "reach the red cube"
    assert phrasings.instruction(Goal("pick", "blue", "cylinder"), 1) == "pick up the blue tube"
    for seed in range(8):
        said = phrasings.instruction(Goal("push", "green", "cube", "left"), seed)
        assert "left" in said and "green" in said and "{" not in said
        assert said == phrasings.instruction(Goal("push", "green", "cube", "left"), seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_phrasings_and_nouns_are_used_equally_often(tmp_path, family):
    phrasings = load(tmp_path, TOLD)
    direction = "away" if family == "push" else ""
    for shape, nouns in TOLD["nouns"].items():
        seeds = range(5, 5 + 2 * 3 * 12)
        said = Counter(
            phrasings.instruction(Goal(family, "red", shape, direction), s) for s in seeds
        )
        texts = TOLD[family][direction] if direction else TOLD[family]
        expected = {
            text.replace("{color}", "red").replace("{cube}", noun)
            for text in texts
            for noun in nouns
        }
        assert set(said) == expected, "every phrasing with every noun"
        by_text = Counter(number for number in (seed % len(texts) for seed in seeds))
        assert len(set(by_text.values())) == 1
        complete = [count for text, count in said.items() if "one" not in text]
        assert len(set(complete)) == 1, "with every noun equally often"


def changed(*place, to):
    told = copy.deepcopy(TOLD)
    part = told
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = to
    return told


def without(*place):
    told = copy.deepcopy(TOLD)
    part = told
    for key in place[:-1]:
        part = part[key]
    del part[place[-1]]
    return told


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([], "the file must have the keys nouns, reach"),
        (without("pad"), "the file must have the keys nouns, reach"),
        (changed("dance", to=["dance with the {color} {cube}"]), "it has nouns, .*dance"),
        (without("nouns", "cylinder"), "nouns must have the keys cube, cylinder"),
        (without("push", "away"), "push must have the keys left, right, away, closer"),
        (changed("pick", to=[]), r"pick must be a list of texts, one or more"),
        (changed("pick", to="pick the {color} {cube}"), r"pick must be a list"),
        (changed("push", "left", to=[3]), r"push\.left\[0\] must be a text"),
        (changed("nouns", "cube", to=["cube", " "]), r"nouns\.cube\[1\] must be a text"),
        (changed("nouns", "cube", to=["{color} cube"]), r"nouns\.cube\[0\] has \{color\}"),
        (changed("bowl", to=["put the {cube} in the bowl"]), r"bowl\[0\] lacks \{color\}"),
        (changed("pad", to=["{color} {cube} {place}"]), r"pad\[0\] has \{place\}: use \{color\}"),
        (changed("pad", to=["{color} {cube"]), r"pad\[0\] has \{: use"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(tmp_path, told, said):
    with pytest.raises(ValueError, match=rf"phrasings\.json: .*{said}"):
        load(tmp_path, told)


def test_a_file_that_is_no_json_is_told(tmp_path):
    path = tmp_path / "phrasings.json"
    for written, match in ((b"\xff{", "is no text"), (b"{", "is no JSON")):
        path.write_bytes(written)
        with pytest.raises(ValueError, match=match):
            Phrasings.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Phrasings.load(tmp_path / "nowhere")
