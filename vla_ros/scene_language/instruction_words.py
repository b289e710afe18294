"""How people name things and directions in instructions, and what they say around them."""

NOUNS = {
    "cube": ("cube", "block", "box", "cube", "brick", "square block", "dice", "cubic block"),
    "cylinder": ("cylinder", "can", "tube", "cylinder", "tin", "round block", "barrel", "pillar"),
}
ANY_NOUNS = ("object", "thing", "one", "piece", "item", "toy", "part")
# COLOR stands for the colour, NOUN for the shape's or any noun.
NOUN_PHRASES = (
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
PAD_NOUNS = (
    *("pad", "yellow pad", "mat", "yellow mat", "square", "yellow square", "target"),
    *("yellow area", "yellow target", "yellow zone", "yellow spot", "flat pad", "yellow patch"),
    *("yellow one", "flat yellow pad", "yellow tile", "yellow surface", "yellow plate"),
)
BOWL_NOUNS = (
    *("bowl", "dish", "container", "white bowl", "white dish", "white container", "basin"),
    *("round bowl", "cup", "white cup", "big bowl", "small bowl"),
)
DIRECTION_PHRASES = {
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
OPENINGS = (
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
CLOSINGS = (
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
