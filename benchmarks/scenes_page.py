"""The section of `scenes.py` on the page of results."""

from __future__ import annotations

from typing import Any

from measuring import table

SPLITS = {"train": "seen compositions", "held_out": "held-out compositions"}
PARTS = {
    **{"colors": "colour, F1", "shapes": "shape, F1", "names": "colour and shape, F1"},
    **{"facts": "facts", "exact": "exact"},
}


def percent(found: dict[str, float]) -> str:
    """A share and its interval, per cent."""
    return f"{100 * found['value']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def points(share: float) -> str:
    return f"{100 * share:.1f}"


def readings(found: dict[str, Any]) -> str:
    head = ["", *PARTS.values()]
    rows = []
    for name, one in found["read"].items():
        cells = []
        for part in PARTS:
            low, high = one["intervals"][part]
            cells.append(percent({"value": one[part], "low": low, "high": high}))
        rows.append([name, *cells])
    return table(head, rows)


def retrieved(found: dict[str, Any]) -> str:
    rows = [
        [name, *(percent(found[split]["retrieved"][name]) for split in SPLITS)]
        for name in found["train"]["retrieved"]
    ]
    return table(["", *SPLITS.values()], rows)


def failing(found: dict[str, Any], what: str) -> str:
    groups = {split: found[split]["failures"][what] for split in SPLITS}
    names = list(dict.fromkeys(name for group in groups.values() for name in group))

    def cell(split: str, name: str) -> str:
        right, of = groups[split].get(name, (0, 0))
        return f"{right / of:.0%} of {of}" if of else "-"

    return table(
        [what, *SPLITS.values()], [[name, *(cell(s, name) for s in SPLITS)] for name in names]
    )


def harmed(found: dict[str, Any]) -> str:
    rows = []
    for name in found["train"]["harm"]:
        row = [name]
        for split in SPLITS:
            for who in ("captioner", "judge"):
                one = found[split]["harm"][name][who]
                row.append(f"{points(one['names'])} / {points(one['exact'])}")
        rows.append(row)
    head = [f"{who}, {split}" for split in SPLITS.values() for who in ("captioner", "judge")]
    return table(["names, F1 / exact, %", *head], rows)


def probes(found: dict[str, Any]) -> str:
    rows = [
        [name, percent(one["color"]), f"{one['mean']:.2f}", percent(one["within"])]
        for name, one in found["probes"].items()
    ]
    return table(["learned from", "colour, %", "place off by, px", "within 2 px, %"], rows)


def looks(found: dict[str, Any]) -> str:
    rows = [
        [color, f"{one['spread']:.1f}", f"{one['gap']:.0f}", points(one["own"])]
        for color, one in found["looks"].items()
    ]
    return table(["", "spread", "to the nearest other", "nearest to its own, %"], rows)


def judged(found: dict[str, Any]) -> str:
    groups = next(iter(found["auroc"].values()))
    head = ["", *(f"{name} ({one['of']})" for name, one in groups.items())]
    rows = [
        [name, *(percent(group) for group in one.values())] for name, one in found["auroc"].items()
    ]
    return table(head, rows)


def reliable(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{score:.2f}", f"{share:.2f}", count]
        for name, one in found.items()
        for score, share, count in one["reliability"]
    ]
    return table(["", "mean score", "share that is true", "sentences"], rows)


def honest(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{one['brier']:.3f}", f"{one['at half']:.1%}", f"{one['at best']:.1%}"]
        for name, one in found.items()
    ]
    return table(["", "Brier score", "right at 0.5", "right at the best threshold"], rows)


def suspected(found: dict[str, Any]) -> str:
    told = [f"- {SPLITS[split]}: {line}" for split in SPLITS for line in found[split]["suspicions"]]
    return "\n".join(told) or "None is found."


def report(found: dict[str, Any], command: str, where: str, judge_steps: int) -> str:
    score, pixels = found["score"], found["pixels"]
    edits = pixels["edits"]
    left = ", ".join(f"{count} of {SPLITS[split]}" for split, count in found["left_out"].items())
    return f"""## Text -> scene -> text

`{command}`
on {where}.

{found["train"]["texts"]} texts of seen compositions and {found["held_out"]["texts"]} with one that
is held out, none of them trained on (left out, because training drew them too: {left}). Each is
painted once and read from 8-bit pixels, word by word, without the text. The judge is a captioner
that was trained on drawings only ({judge_steps} steps). "Exact" is a picture that shows just the
things named and of which every fact holds. Per cent, with 95 % intervals (bootstrap over texts).

Seen compositions:

{readings(found["train"])}

Held-out compositions:

{readings(found["held_out"])}

The layout is what the decoder meant to paint, so that its row has the mistakes of language alone;
the judge's row from drawings of it adds those of the judge. "Chance" is what was read in another
text's picture; "shuffled texts" are read anew, as a decoder that never hears its text.

Ways of cheating that show in these figures:

{suspected(found)}

The text of a picture among 100, by the matcher, which sees its pixels; chance is 1 %:

{retrieved(found)}

Where it fails. Exact by the number of things named, facts by kind, and exact by the words with
which it goes worst:

{failing(found, "things")}

{failing(found, "facts")}

{failing(found, "words")}

Pictures that something happened to:

{harmed(found)}

A linear probe of pixels (logistic regression from red, green and blue of one pixel to a colour or
the table; all pixels of a picture decide on its colour, and their middle is its place), on scenes
of one thing. Learned from drawings it tells whether a word has the colour that it has elsewhere:

{probes(pixels)}

Always saying the middle of all places is off by {pixels["middle"]:.1f} px.

One word changed, the draw being the same: of the pixels that change,
{percent(edits["inside"])} % lie in the box of the changed thing (9 x 9 pixels), and in
{percent(edits["changed"])} % of the pairs it changes; between two unrelated texts
{percent(edits["unrelated"])} % lie there.

The same word over texts and draws, levels of 255 (root mean square distance from the mean colour of
its things, and from that to the mean of the nearest other colour):

{looks(pixels)}

### The cycle score

A true narration of a scene (of all its things, as the narrator tells them) beside one with a wrong
word: how often the true one has the higher score (area under the receiver's curve, %). "All" to
"held out" are of narrations; descriptions say what is there and how it lies while nothing moves:

{judged(score)}

"Names that are there" is a bag of words: the share of the things named that the scene has. Parsing
the sentence and checking its facts on the scene is what the score is to come near to without a
grammar.

As a probability, half of the sentences being true (always saying one half has a Brier score of
0.25):

{honest(score["calibration"])}

{reliable(score["calibration"])}"""
