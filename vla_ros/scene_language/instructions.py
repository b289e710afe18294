"""The instructions an arm understands: task families, their phrasings, a word vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.scene_language.words import words_of

FAMILIES = ("reach", "push", "pick", "pad", "bowl")
SHAPES = ("cube", "cylinder")
COLORS = ("red", "green", "blue", "purple")
DIRECTIONS = ("left", "right", "away", "closer")

# "it" stands for the object's noun phrase the first time, "there" for the direction's.
_VERBS = {
    "reach": (
        "reach it",
        "reach for it",
        "reach out to it",
        "reach out for it",
        "reach over to it",
        "reach towards it",
        "reach toward it",
        "extend the arm to it",
        "extend your arm toward it",
        "stretch out to it",
        "move to it",
        "move over to it",
        "move above it",
        "move over it",
        "move close to it",
        "move next to it",
        "move near it",
        "move right above it",
        "move the gripper to it",
        "move the gripper over it",
        "move the hand over it",
        "move your hand to it",
        "move the arm to it",
        "move yourself over it",
        "move your fingers to it",
        "bring the gripper to it",
        "bring your hand above it",
        "bring the gripper close to it",
        "bring the tool above it",
        "bring your arm over it",
        "go to it",
        "go over to it",
        "go above it",
        "go near it",
        "head to it",
        "head over to it",
        "travel to it",
        "hover over it",
        "hover above it",
        "hover just above it",
        "hover around it",
        "hover the gripper above it",
        "float above it",
        "wait above it",
        "stay above it",
        "stop above it",
        "stand over it",
        "be above it",
        "point at it",
        "point to it",
        "aim at it",
        "aim for it",
        "approach it",
        "approach it from above",
        "get close to it",
        "get to it",
        "get near it",
        "get above it",
        "get your gripper over it",
        "come to it",
        "come close to it",
        "find it",
        "locate it",
        "show me it",
        "show me where it is",
        "position the gripper above it",
        "position yourself over it",
        "place the gripper above it",
        "place your hand over it",
        "put the gripper over it",
        "put your hand above it",
        "hold the gripper over it",
        "hold your hand above it",
        "keep the gripper above it",
        "align the gripper with it",
        "line up with it",
        "line up the gripper with it",
        "line the gripper up over it",
        "center the gripper over it",
        "touch it",
        "almost touch it",
        "reach it without touching it",
        "hover over it without touching it",
        "get ready to grab it but do not touch it",
        "move over it but don't touch it",
        "move above it but do not pick it up",
        "go to it and stop",
        "go to it and wait",
    ),
    "push": (
        "push it there",
        "push it over there",
        "push it a bit there",
        "push it a little there",
        "push it some there",
        "push it slightly there",
        "push it along the table there",
        "push it across the table there",
        "push it a few centimeters there",
        "push it six centimeters there",
        "slide it there",
        "slide it over there",
        "slide it a bit there",
        "slide it a little there",
        "slide it across the table there",
        "slide it on the table there",
        "slide it along there",
        "shove it there",
        "shove it over there",
        "shove it a little there",
        "nudge it there",
        "nudge it a bit there",
        "nudge it over there",
        "move it there",
        "move it a bit there",
        "move it a little there",
        "move it over there",
        "move it along the table there",
        "scoot it there",
        "scoot it over there",
        "shift it there",
        "shift it a bit there",
        "shift it over there",
        "bump it there",
        "drag it there",
        "press it there",
        "sweep it there",
        "poke it there",
        "tap it there",
        "send it there",
        "drive it there",
        "knock it there",
        "pull it there",
        "bring it there",
        "force it there",
        "steer it there",
        "budge it there",
        "get it to move there",
        "get it to slide there",
        "give it a push there",
        "give it a little push there",
        "give it a nudge there",
        "give it a shove there",
        "make it slide there",
        "make it move there",
        "make it go there",
        "have it slide there",
        "get it moved there",
        "use the gripper to push it there",
        "use your hand to slide it there",
        "with the gripper push it there",
        "it needs to go there",
        "it should go there",
        "it should be pushed there",
        "it needs to move there",
        "there is where it should go",
    ),
    "pick": (
        "pick it up",
        "pick up it",
        "pick it",
        "pick it off the table",
        "pick it up from the table",
        "pick up it from the table",
        "pick it up and hold it",
        "pick it up and hold it up",
        "pick up it and hold it in the air",
        "pick it up and keep it",
        "pick it up off the table",
        "lift it",
        "lift it up",
        "lift up it",
        "lift it into the air",
        "lift it up high",
        "lift it from the table",
        "lift it above the table",
        "lift it up off the table",
        "lift it a bit",
        "lift it a little",
        "grab it",
        "grab hold of it",
        "grab it and lift",
        "grab it and lift it",
        "grab it and raise it",
        "grab it and hold it up",
        "grab it from the table",
        "grab it off the table",
        "go grab it",
        "go get it",
        "get it",
        "get it up",
        "get hold of it",
        "get a hold of it and lift it",
        "get it up in the air",
        "get it off the table",
        "get it from the table",
        "grasp it",
        "grasp it and lift",
        "grasp it and lift it up",
        "grip it",
        "grip it and lift it",
        "grip it and raise it",
        "close the gripper around it and lift",
        "close your hand on it and lift it",
        "clutch it",
        "catch it",
        "seize it",
        "hoist it",
        "hoist it up",
        "elevate it",
        "take it",
        "take it up",
        "take it off the table",
        "take it from the table",
        "take hold of it",
        "take hold of it and lift it",
        "take it in your hand",
        "take it and lift it",
        "collect it",
        "fetch it",
        "fetch me it",
        "remove it from the table",
        "hand me it",
        "give me it",
        "bring it up",
        "raise it",
        "raise it up",
        "raise it from the table",
        "raise it off the table",
        "raise it above the table",
        "pull it up",
        "hold it",
        "hold it up",
        "hold it up high",
        "hold it in the air",
        "hold it above the table",
        "make it leave the table",
        "i need it in your gripper",
        "i want it lifted",
        "i want it in the air",
        "it should be lifted",
        "it needs to be picked up",
        "it needs to come up",
        "scoop up it",
        "snatch it",
        "snatch up it",
        "pluck it from the table",
    ),
    "pad": tuple(
        text
        for verb in ("put", "place", "set", "drop", "lay", "leave", "rest", "position", "stick")
        for text in (f"{verb} it on the pad", f"{verb} it onto the pad")
    )
    + (
        "put it down on the pad",
        "put it on top of the pad",
        "put it over on the pad",
        "put it in the middle of the pad",
        "put it at the pad",
        "put down it on the pad",
        "place it down on the pad",
        "place it on top of the pad",
        "place it in the center of the pad",
        "place it over the pad",
        "set it down on the pad",
        "set it down onto the pad",
        "set it on top of the pad",
        "set down it on the pad",
        "lay it down on the pad",
        "drop it off on the pad",
        "drop it over the pad",
        "deposit it on the pad",
        "release it on the pad",
        "stack it on the pad",
        "deliver it to the pad",
        "transfer it to the pad",
        "transport it to the pad",
        "relocate it to the pad",
        "park it on the pad",
        "move it to the pad",
        "move it onto the pad",
        "move it on top of the pad",
        "move it over to the pad",
        "bring it to the pad",
        "bring it over to the pad",
        "bring it onto the pad",
        "carry it to the pad",
        "carry it over to the pad",
        "carry it onto the pad",
        "take it to the pad",
        "take it and put it on the pad",
        "take it and place it on the pad",
        "take it over to the pad",
        "get it on the pad",
        "get it onto the pad",
        "get it to the pad",
        "get it and put it on the pad",
        "send it to the pad",
        "grab it and put it on the pad",
        "grab it and place it onto the pad",
        "grab it and drop it on the pad",
        "grasp it and set it on the pad",
        "lift it onto the pad",
        "lift it and put it on the pad",
        "lift it and place it on the pad",
        "pick it up and put it on the pad",
        "pick it up and place it on the pad",
        "pick it up and set it down on the pad",
        "pick up it and place it on the pad",
        "pick up it and put it onto the pad",
        "pick up it and drop it on the pad",
        "pick it and place it on the pad",
        "have it on the pad",
        "make it sit on the pad",
        "let it sit on the pad",
        "let it rest on the pad",
        "cover the pad with it",
        "it goes on the pad",
        "it goes onto the pad",
        "it belongs on the pad",
        "it should be on the pad",
        "it should go on the pad",
        "it should end up on the pad",
        "it has to go on the pad",
        "it needs to be on the pad",
        "it needs to go onto the pad",
        "it on the pad",
        "it onto the pad",
        "it to the pad",
        "i need it on the pad",
        "i want it on the pad",
        "i would like it on the pad",
        "i'd like it on the pad",
        "on the pad put it",
        "on the pad place it",
        "onto the pad with it",
        "the pad is where it goes",
        "the pad needs it",
        "use the gripper to put it on the pad",
    ),
    "bowl": tuple(
        text
        for verb in ("put", "place", "set", "drop", "lay", "leave", "toss", "throw", "dump")
        for text in (f"{verb} it in the bowl", f"{verb} it into the bowl")
    )
    + (
        "put it inside the bowl",
        "put it inside of the bowl",
        "put it down in the bowl",
        "put it within the bowl",
        "put away it in the bowl",
        "place it inside the bowl",
        "place it down in the bowl",
        "drop it inside the bowl",
        "drop it off in the bowl",
        "drop it down into the bowl",
        "set it down in the bowl",
        "set it inside the bowl",
        "deposit it in the bowl",
        "deposit it into the bowl",
        "release it in the bowl",
        "release it over the bowl",
        "store it in the bowl",
        "stick it in the bowl",
        "pop it in the bowl",
        "pop it into the bowl",
        "chuck it in the bowl",
        "insert it into the bowl",
        "fill the bowl with it",
        "add it to the bowl",
        "deliver it to the bowl",
        "transfer it to the bowl",
        "transfer it into the bowl",
        "transport it to the bowl",
        "move it to the bowl",
        "move it into the bowl",
        "move it over to the bowl",
        "bring it to the bowl",
        "bring it into the bowl",
        "bring it over to the bowl",
        "carry it to the bowl",
        "carry it over to the bowl",
        "carry it into the bowl",
        "take it to the bowl",
        "take it and put it in the bowl",
        "take it and drop it into the bowl",
        "take it over to the bowl",
        "get it in the bowl",
        "get it into the bowl",
        "get it inside the bowl",
        "get it and put it in the bowl",
        "send it to the bowl",
        "grab it and put it in the bowl",
        "grab it and place it into the bowl",
        "grab it and drop it in the bowl",
        "grasp it and set it in the bowl",
        "lift it into the bowl",
        "lift it and put it in the bowl",
        "lift it and drop it in the bowl",
        "pick it up and put it in the bowl",
        "pick it up and drop it in the bowl",
        "pick it up and place it inside the bowl",
        "pick up it and drop it in the bowl",
        "pick up it and put it into the bowl",
        "pick up it and place it in the bowl",
        "pick it and place it in the bowl",
        "have it in the bowl",
        "make it land in the bowl",
        "let it fall into the bowl",
        "it goes in the bowl",
        "it goes into the bowl",
        "it belongs in the bowl",
        "it should be in the bowl",
        "it should go in the bowl",
        "it should end up in the bowl",
        "it has to go into the bowl",
        "it needs to be in the bowl",
        "it needs to go into the bowl",
        "it in the bowl",
        "it into the bowl",
        "it to the bowl",
        "i need it in the bowl",
        "i want it in the bowl",
        "i would like it in the bowl",
        "i'd like it inside the bowl",
        "in the bowl put it",
        "into the bowl place it",
        "into the bowl with it",
        "the bowl is where it goes",
        "the bowl needs it",
        "use the gripper to put it in the bowl",
    ),
}
_NOUNS = {
    "cube": ("cube", "block", "box", "cube", "brick", "square block", "dice", "cubic block"),
    "cylinder": ("cylinder", "can", "tube", "cylinder", "tin", "round block", "barrel", "pillar"),
}
_ANY_NOUNS = ("object", "thing", "one", "piece", "item", "toy", "part")
# COLOR stands for the colour, NOUN for the shape's or any noun.
_NOUN_PHRASES = (
    *("the COLOR NOUN",) * 10,
    *("COLOR NOUN",) * 2,
    "that COLOR NOUN",
    "this COLOR NOUN",
    "your COLOR NOUN",
    "my COLOR NOUN",
    "our COLOR NOUN",
    "a COLOR NOUN",
    "the small COLOR NOUN",
    "the little COLOR NOUN",
    "the COLOR colored NOUN",
    "the COLOR coloured NOUN",
    "the NOUN that is COLOR",
    "the NOUN which is COLOR",
    "the COLOR NOUN on the table",
    "the COLOR NOUN in front of you",
)
_PAD_NOUNS = (
    *("pad", "yellow pad", "mat", "yellow mat", "square", "yellow square", "target"),
    *("yellow area", "yellow target", "yellow zone", "yellow spot", "flat pad", "yellow patch"),
    *("yellow one", "flat yellow pad", "yellow tile", "yellow surface", "yellow plate"),
)
_BOWL_NOUNS = (
    *("bowl", "dish", "container", "white bowl", "white dish", "white container", "basin"),
    *("round bowl", "cup", "white cup", "big bowl", "small bowl"),
)
_DIRECTIONS = {
    "left": (
        *("left", "to the left", "leftwards", "to your left", "to the left side", "leftward"),
        *("towards the left", "toward the left", "toward your left", "left a bit", "left a little"),
        *("a bit to the left", "to the left of you", "on your left", "over to the left"),
        *("further left", "more to the left", "in the left direction", "to the left hand side"),
    ),
    "right": (
        *("right", "to the right", "rightwards", "to your right", "to the right side", "rightward"),
        *("towards the right", "toward the right", "toward your right", "right a bit"),
        *("right a little", "a bit to the right", "to the right of you", "on your right"),
        *("over to the right", "further right", "more to the right", "in the right direction"),
        "to the right hand side",
    ),
    "away": (
        *("away", "away from you", "forward", "forwards", "further away", "farther away"),
        *("away from yourself", "away from the robot", "away from your base", "out", "outward"),
        *("ahead", "straight ahead", "further out", "farther from you", "further from you"),
        *("a bit away", "a bit forward", "a little forward", "away from your body", "outwards"),
        *("farther", "further", "more forward", "straight forward", "away from the base"),
    ),
    "closer": (
        *("closer", "closer to you", "towards you", "toward you", "nearer", "backwards"),
        *("towards yourself", "toward yourself", "toward the robot", "towards the robot", "back"),
        *("back to you", "back towards you", "closer to yourself", "closer to the robot", "inward"),
        *("near you", "nearer to you", "toward your base", "closer to your base", "a bit closer"),
        *("in", "backward", "a little closer", "towards your base", "closer to the base"),
    ),
}
_OPENINGS = (
    *("please", "now", "robot", "could you", "can you", "would you", "could you please"),
    *("i want you to", "you should", "go ahead and", "next", "then", "ok now", "hey robot"),
    *("hey", "hi robot", "ok robot", "okay", "alright", "first", "just", "kindly", "try to"),
    *("i would like you to", "i'd like you to", "i need you to", "you need to", "you have to"),
    *("would you mind", "would you please", "can you please", "will you", "do you think you can"),
    *("your task is to", "your job is to", "it is time to", "let's", "let us", "may i ask you to"),
    *(
        "so",
        "well",
        "use your arm to",
        "use the gripper to",
        "use your gripper to",
        "be so kind and",
    ),
    *(
        "would it be possible to",
        "are you able to",
        "help me",
        "please help me",
        "time to",
        "quickly",
    ),
    *("carefully", "slowly", "gently", "robot please", "arm", "i think you should", "we need to"),
)
_CLOSINGS = (
    *("please", "now", "for me", "carefully", "slowly", "gently", "with the gripper", "thanks"),
    *("thank you", "robot", "if you can", "if you could", "if possible", "right now", "quickly"),
    *("with your arm", "with your hand", "with your gripper", "would you", "will you", "could you"),
    *(
        "as fast as you can",
        "next",
        "first",
        "again",
        "when you are ready",
        "and stop",
        "ok",
        "okay",
    ),
    *("and be careful", "without touching the others", "without knocking anything over"),
    *("and nothing else", "and then stop", "to start", "at once", "right away", "this time"),
)


@dataclass(frozen=True)
class Goal:
    """What an instruction asks for.

    `direction` is one of DIRECTIONS for the family "push" and "" otherwise. Directions are the
    robot's own: left is +y, right -y, away +x, closer -x of its base frame.
    """

    family: str
    color: str
    shape: str
    direction: str = ""


def phrase(goal: Goal, rng: np.random.Generator) -> str:
    """One of the many ways to say `goal`, chosen by `rng`. The colour is always named."""

    def choose(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    noun = choose(_ANY_NOUNS if rng.random() < 0.2 else _NOUNS[goal.shape])
    filled = {"COLOR": goal.color, "NOUN": noun}
    thing = " ".join(filled.get(word, word) for word in choose(_NOUN_PHRASES).split())
    words = choose(_VERBS[goal.family]).split()
    named = False
    for i, word in enumerate(words):
        if word == "it" and not named:
            words[i], named = thing, True
        elif word == "there":
            words[i] = choose(_DIRECTIONS[goal.direction])
        elif word == "pad":
            words[i] = choose(_PAD_NOUNS)
        elif word == "bowl":
            words[i] = choose(_BOWL_NOUNS)
    text = " ".join(words)
    if rng.random() < 0.3:
        text = f"{choose(_OPENINGS)} {text}"
    if rng.random() < 0.2:
        text = f"{text} {choose(_CLOSINGS)}"
    return text


def _all_phrases() -> list[str]:
    groups = (
        *_VERBS.values(),
        *_NOUNS.values(),
        *_DIRECTIONS.values(),
        _ANY_NOUNS,
        _NOUN_PHRASES,
        _PAD_NOUNS,
        _BOWL_NOUNS,
        _OPENINGS,
        _CLOSINGS,
        COLORS,
    )
    return [text for group in groups for text in group]


# All words of instructions.
VOCABULARY = tuple(
    sorted(
        {word for text in _all_phrases() for word in words_of(text)} - {"there", "color", "noun"}
    )
)
# What cannot be guessed from the rest of an instruction.
ESSENTIAL_WORDS = frozenset(
    word for text in (*COLORS, *sum(_DIRECTIONS.values(), ())) for word in words_of(text)
)


def empty_instruction(text: str) -> ValueError:
    what = f" '{text}' has no word in it and is empty" if text.strip() else " is empty"
    return ValueError(f"the instruction{what}: say what to do, such as 'pick up the red cube'")


def unknown_words(text: str, unknown: Sequence[str]) -> ValueError:
    """The error about words in the instruction `text` that the policy was not taught."""
    return ValueError(
        f"unknown word{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))} in the "
        f"instruction '{text}': use words of the policy's vocabulary"
    )


def missing_word(text: str, needed: Sequence[str]) -> ValueError:
    """The error about an instruction `text` that has none of the words it `needed`."""
    return ValueError(f"the instruction '{text}' names none of {', '.join(needed)}: say which")
