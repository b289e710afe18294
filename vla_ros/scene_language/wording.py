"""The words of the scene language: phrases for things, relations and motions, and the templates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from vla_ros.scene_language.phrases import Grammar, Slot
from vla_ros.scene_language.scenes import BINS, BOWL, COLORS, GRIPPER, MOVABLE, PAD, SHAPES

# What a shape is called: singular, plural.
_NOUNS = {
    "cube": (("cube", "cubes"), ("block", "blocks"), ("box", "boxes")),
    "cylinder": (("cylinder", "cylinders"), ("can", "cans"), ("tube", "tubes")),
    "sphere": (("sphere", "spheres"), ("ball", "balls")),
    "cone": (("cone", "cones"),),
    "ring": (("ring", "rings"),),
    "thing": (("thing", "things"), ("object", "objects")),
}
_ADJECTIVES = {color: (color,) for color in COLORS} | {"gray": ("gray", "grey")}
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
)
# "between" has two landmarks and templates of its own.
RELATION_PHRASES = {
    "left": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right of", "on the right side of"),
    "behind": ("behind", "farther from the robot than", "further away than", "beyond"),
    "front": ("in front of", "closer to the robot than", "nearer to the robot than"),
    "above": ("above", "over", "higher up over"),
    "below": ("below", "under", "underneath"),
    "on": ("on", "on top of"),
    "inside": ("in", "inside", "inside of"),
    "near": ("near", "next to", "close to", "beside"),
    "nearest": ("nearest to", "closest to"),
    "farthest": ("farthest from", "furthest from"),
}
_DIRECTION_PHRASES = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "away": ("away from the robot", "forward", "forwards"),
    "closer": ("closer to the robot", "back", "backwards"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}


def _the(article: str) -> dict:
    """Phrases of all movable things' names with an article."""
    phrases = {}
    for name in MOVABLE:
        adjectives, nouns = _ADJECTIVES[name.color], [noun for noun, _ in _NOUNS[name.shape]]
        said = [f"{adjective} {noun}" for noun, adjective in product(nouns, adjectives)]
        a = "an" if name.color[0] in "aeio" else "a"
        phrases[name] = [f"{article or a} {text}" for text in said]
    return phrases


def _counted(plural: int) -> dict:
    kinds = {shape: [forms[plural] for forms in nouns] for shape, nouns in _NOUNS.items()}
    things = kinds["thing"]
    return kinds | {
        color: [f"{said} {thing}" for thing in things for said in _ADJECTIVES[color]]
        for color in COLORS
    }


_THINGS = _the("the") | {
    PAD: ["the pad", "the yellow pad", "the mat"],
    BOWL: ["the bowl", "the white bowl", "the dish"],
}
_SOME = _the("") | {PAD: ["a pad", "a yellow pad"], BOWL: ["a bowl", "a white bowl"]}
SLOTS = {
    "thing": Slot(_THINGS),
    "subject": Slot(_THINGS | {GRIPPER: ["the gripper", "the hand"]}),
    "some": Slot(_SOME),
    "landmark": Slot(_THINGS | {GRIPPER: ["the gripper", "the hand"]}),
    "relation": Slot(RELATION_PHRASES),
    "direction": Slot(_DIRECTION_PHRASES),
    "bin": Slot({i: [" ".join(str(i))] for i in range(max(BINS))}),
    "number": Slot({i: [word] for i, word in enumerate(_NUMBERS)}),
    "kind": Slot(_counted(0)),
    "kinds": Slot(_counted(1)),
    "shape": Slot({shape: [noun for noun, _ in _NOUNS[shape]] for shape in SHAPES}),
    "color": Slot(_ADJECTIVES),
    "fingers": Slot({True: ["open"], False: ["closed"]}),
    "forth": Slot({1: ["away"], -1: ["closer"]}),
    "aside": Slot({1: ["left"], -1: ["right"]}),
    "upward": Slot({1: ["up"], -1: ["down"]}),
}
BY = "{relation} {landmark}"
AMID = "between {landmark} and {landmark2}"
_TARGETS = {
    "": ("",),
    "target": (" toward {thing2}", " towards {thing2}", " to {thing2}"),
    "target which": (
        f" toward {{thing2}} , which is {BY}",
        f" towards {{thing2}} , which stands {BY}",
        f" to {{thing2}} , which is {BY}",
    ),
    "target amid": (
        f" toward {{thing2}} , which is {AMID}",
        f" to {{thing2}} , which stands {AMID}",
    ),
}
VERBS = {
    "move": ("the gripper is moving {direction}", "the hand moves {direction}"),
    "carry": (
        "the gripper is carrying {thing} {direction}",
        "the hand carries {thing} {direction}",
    ),
    "push": ("the gripper is pushing {thing} {direction}", "the hand pushes {thing} {direction}"),
}
_EVENTS = {
    "grasped": ("the gripper grasps {thing}", "the gripper takes hold of {thing}"),
    "released": ("the gripper lets go of {thing}", "the gripper releases {thing}"),
    "slid": ("{thing} slides over the table", "{thing} is pushed over the table"),
}
_LANDINGS = {
    "released": ("the gripper puts {thing} WHERE", "the gripper lets go of {thing} , now WHERE"),
    "slid": ("{thing} slides WHERE", "{thing} is pushed WHERE"),
}


def _then(texts: Sequence[str]) -> list[str]:
    return [*texts, *(f"then {text}" for text in texts)]


def _related(where: str) -> list[str]:
    return [
        f"{{subject}} is {where}",
        f"{where} is {{subject}}",
        f"there is {{some}} {where}",
        f"you can find {{subject}} {where}",
        f"i see {{subject}} {where}",
        f"it is {{subject}} that is {where}",
    ]


_TEMPLATES: dict[object, Sequence[str]] = {
    "related": _related(BY),
    "amid": _related(AMID),
    "placed": [
        "{subject} is in row {bin1} , column {bin2} , at height {bin3}",
        "there is {some} in row {bin1} and column {bin2} at height {bin3}",
        "at row {bin1} , column {bin2} and height {bin3} is {subject}",
        "you can find {subject} in column {bin2} and row {bin1} at height {bin3}",
    ],
    "fingers": ["the gripper is {fingers}", "the hand is {fingers}", "the fingers are {fingers}"],
    "holding": [
        "the gripper holds {thing}",
        "the gripper is holding {thing}",
        "{thing} is in the gripper",
        "{thing} is held by the gripper",
    ],
    "empty": [
        "the gripper holds nothing",
        "the gripper is empty",
        "nothing is in the gripper",
        "the hand holds nothing",
    ],
    "present": ["there is {some}", "i see {some}", "you can see {some}", "{some} is there"],
    "one": ["there is one {kind}", "i see one {kind}", "you can count one {kind}"],
    "counted": [
        "there are {number} {kinds}",
        "i see {number} {kinds}",
        "you can count {number} {kinds}",
    ],
    "coloured": ["the {shape} is {color}", "the only {shape} is {color}", "{color} is the {shape}"],
    "stay": ["the gripper is not moving", "the gripper stays where it is", "the hand waits"],
    "action": [
        "the gripper moves {bin1} {forth} , {bin2} {aside} , {bin3} {upward} and LAST",
        "move {bin1} {forth} , {bin2} {aside} , {bin3} {upward} and LAST",
    ],
}


def _all_templates() -> dict[object, Sequence[str]]:
    templates = dict(_TEMPLATES)
    for verb, end in product(VERBS, _TARGETS):
        said = product(VERBS[verb], _TARGETS[end])
        templates[verb, end] = [base + target for base, target in said]
    for event, texts in _EVENTS.items():
        templates[event, ""] = _then(texts)
    for event, texts in _LANDINGS.items():
        for end, where in (("by", BY), ("amid", AMID)):
            templates[event, end] = _then([text.replace("WHERE", where) for text in texts])
    moves = templates.pop("action")
    lasts = {
        "close": ("closes", "close"),
        "open": ("opens", "open"),
        "set": ("sets the fingers to {bin4}", "set the fingers to {bin4}"),
    }
    for end, forms in lasts.items():
        said = zip(moves, forms, strict=True)
        templates["action", end] = [text.replace("LAST", form) for text, form in said]
    return templates


GRAMMAR = Grammar(SLOTS, _all_templates())
