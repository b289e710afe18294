"""Words that noun phrases of instructions are made of, in the language of people who have not read
the grammar: colours, nouns, adjectives, and how it is said where a thing is."""

from __future__ import annotations

from vla_ros.scene_language.scenes import COLORS
from vla_ros.scene_language.wording import RELATION_PHRASES

# Colours that a person may name; those that no thing of a scene has make a reference to nothing.
COLOR_WORDS = {
    **{color: color for color in (*COLORS, "yellow", "white", "brown", "cyan", "magenta")},
    **{"grey": "gray", "violet": "purple", "golden": "gold", "gold": "gold", "silver": "silver"},
    **{"turquoise": "turquoise", "beige": "beige", "crimson": "red", "navy": "blue"},
}
ANY_NOUNS = frozenset(
    {"object", "thing", "one", "piece", "item", "toy", "part", "something", "anything", "stuff"}
)
# Nouns, singular, and the shapes that they may mean; () is any movable thing.
SHAPES_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cube", "block", "box", "brick", "dice", "die"), ("cube",)),
    **dict.fromkeys(("cylinder", "can", "tube", "tin", "barrel", "pillar", "drum"), ("cylinder",)),
    **dict.fromkeys(("sphere", "ball", "globe", "marble"), ("sphere",)),
    **{"cone": ("cone",), "ring": ("ring",), "donut": ("ring",), "hoop": ("ring",)},
    **dict.fromkeys(ANY_NOUNS, ()),
}
PAD_NOUNS = frozenset({"pad", "mat", "square", "target", "plate"})
YELLOW_NOUNS = frozenset({"area", "zone", "spot", "patch", "tile", "surface", "one", "square"})
BOWL_NOUNS = frozenset({"bowl", "dish", "container", "basin", "cup"})
# Words for a thing that is told by a clause only: "whatever is in the bowl".
FREE = frozenset({"whatever", "whichever", "what", "something", "anything", "everything"})
ARTICLES = frozenset(
    {"the", "a", "an", "that", "this", "your", "my", "our", "any", "some", "whichever", "which"}
    | {"what", "whatever", "both", "all", "every", "each"}
)
# Nouns only behind an article, an adjective or a colour: "can you ...", "one more", "ring it".
ALSO_OTHER_WORDS = frozenset({"can", "one", "ring", "part", "die", "target", "square", "box"})
# What may follow a colour without being what is coloured, and is no word of the grammar.
FUNCTION_WORDS = frozenset(
    {"by", "but", "or", "with", "until", "while", "so", "before", "after", "about", "there", "here"}
    | {"without", "not", "don't", "below", "under", "underneath", "behind", "beside", "between"}
    | {"across", "along", "past", "through", "because", "if", "when", "where", "dear", "beyond"}
    | {"nor", "neither", "other", "than", "except", "among", "nearest", "closest", "sits", "lies"}
    | {"stands", "rests", "sitting", "standing", "lying", "resting", "has", "having", "alongside"}
    | {"farthest", "furthest", "whose", "who", "was", "were", "does", "'s", "rather", "instead"}
)
# Adjectives that say nothing here, and those that narrow a noun down to a shape.
ADJECTIVES = frozenset(
    {"small", "little", "big", "large", "tiny", "colored", "coloured", "flat", "toy", "wooden"}
    | {"plastic", "shiny", "nice", "same", "single", "only", "bright", "dark", "light", "lone"}
)
SHAPED = {"round": "cylinder", "cylindrical": "cylinder", "square": "cube", "cubic": "cube"}
HAND = frozenset({"gripper", "hand", "arm", "finger", "fingers", "claw", "tool", "robot", "you"})
NUMBERS = {"two": 2, "three": 3, "four": 4, "both": 2, "couple": 2, "pair": 2}
ORDINALS = {"second": 2, "2nd": 2, "third": 3, "3rd": 3, "fourth": 4}

# Axis (0: x, 1: y; MIDDLE: of both) and which end of it, seen from the robot.
MIDDLE = -1
SIDES = {
    **{"left": (1, 1), "right": (1, -1), "front": (0, -1), "back": (0, 1), "rear": (0, 1)},
    **dict.fromkeys(("middle", "center", "centre"), (MIDDLE, 1)),
}
# Before a noun, behind an article.
EXTREMES = {
    **{"leftmost": (1, 1), "rightmost": (1, -1)},
    **dict.fromkeys(("farthest", "furthest", "backmost", "rearmost", "hindmost"), (0, 1)),
    **dict.fromkeys(("closest", "nearest", "frontmost", "foremost"), (0, -1)),
    **dict.fromkeys(("middlemost", "central"), (MIDDLE, 1)),
}
WEAK_EXTREMES = {
    **SIDES,
    **dict.fromkeys(("farther", "further", "far"), (0, 1)),
    **dict.fromkeys(("closer", "nearer", "near", "close"), (0, -1)),
}  # words with other meanings: only before a noun
NEAREST = frozenset({"nearest", "closest", "nearer", "closer"})
FARTHEST = frozenset({"farthest", "furthest", "farther", "further"})
ROBOTS = [
    tuple(text.split())
    for text in (
        *("where you are", "where you stand", "your own base", "your base", "your body", "you"),
        *("yourself", "the robot", "robot", "the robot 's base", "your side", "your end"),
        *("the base", "the robot base", "your side of the table"),
    )
]
ROBOTS.sort(key=len, reverse=True)
GRIPPERS = [
    tuple(f"{whose} {hand}".split())
    for whose in ("the", "your", "the robot 's")
    for hand in ("gripper", "hand", "claw", "fingers", "tool")
]
# Said before a place without changing it.
ADVERBS = frozenset(
    {"just", "directly", "immediately", "slightly", "somewhere", "straight", "currently", "now"}
    | {"still", "already", "right", "over", "way", "all", "also", "very", "a", "bit", "little"}
    | {"down", "there", "here", "almost", "only", "closely", "quite"}
)
COPULAS = frozenset(
    {"is", "are", "was", "stands", "sits", "lies", "rests", "lives", "waits", "happens", "being"}
    | {"remains", "hides", "stays", "goes", "appears", "seems"}
)
PARTICIPLES = frozenset(
    {"standing", "lying", "sitting", "located", "placed", "resting", "positioned", "situated"}
    | {"found", "laying", "sat", "hiding", "waiting", "parked", "seated"}
)
# Beside those of the grammar.
_MORE_RELATION_WORDS = {
    "left": (
        *("left from", "to the left from", "at the left of", "on the left hand of"),
        *("to the left side of", "on the left hand side of", "at the left side of"),
        *("further left than", "farther left than", "more to the left than"),
        *("further to the left than", "farther to the left than"),
    ),
    "right": (
        *("right from", "to the right from", "at the right of", "on the right hand of"),
        *("to the right side of", "on the right hand side of", "at the right side of"),
        *("further right than", "farther right than", "more to the right than"),
        *("further to the right than", "farther to the right than"),
    ),
    "behind": (
        *("on the far side of", "on the other side of", "at the back of", "in back of"),
        *("to the back of", "to the rear of", "further from you than", "at the far side of"),
        *("farther from you than", "further away from you than", "farther away than"),
        *("farther away from you than", "further back than", "farther back than"),
        "further away from the robot than",
    ),
    "front": (
        *("on the near side of", "on this side of", "closer to you than", "nearer to you than"),
        *("nearer you than", "at the front of", "on your side of", "in the front of", "ahead of"),
    ),
    "near": (
        *("by", "alongside", "adjacent to", "close by", "touching", "against", "next door to"),
        *("in the vicinity of", "not far from", "near to", "neighboring", "neighbouring"),
        *("by the side of", "at the side of"),
    ),
    "on": ("upon", "atop", "on the top of", "occupying", "covering", "from", "off", "off of"),
    "inside": ("within", "in the middle of", "out of", "from inside", "from within"),
}
# Longest first, so that "in front of" is not read as "in".
RELATION_WORDS = sorted(
    (
        (tuple(text.split()), relation)
        for relation, texts in RELATION_PHRASES.items()
        for text in (*texts, *_MORE_RELATION_WORDS.get(relation, ()))
    ),
    key=lambda pair: -len(pair[0]),
)
# On the other side of it: "the cube with the bowl to its left".
ITS_SIDES = sorted(
    (
        (tuple(f"{to} its {side}{end}".split()), relation)
        for to in ("to", "on", "at")
        for side, relation in (
            *(("left", "left"), ("right", "right"), ("side", "near"), ("back", "behind")),
            *(("front", "front"), ("rear", "behind"), ("far side", "behind")),
            ("near side", "front"),
        )
        for end in ("", " side", " hand side")
    ),
    key=lambda pair: -len(pair[0]),
)
