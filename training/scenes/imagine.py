"""`vla imagine --scene`: what texts look like, on a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vla_ros.models.scenes.attribution import attribution
from vla_ros.models.scenes.cycle import CycleScenes
from vla_ros.models.scenes.reading import in_words
from vla_ros.training.genie_sheets import save
from vla_ros.training.scenes.sheets import Card, sheet


def card_of(model: CycleScenes, text: str, seed: int, attribute: bool = False) -> Card:
    """A text as it is imagined. Raises ValueError: unknown words, none, or too many."""
    imagined = model.imagine(text, seed)
    words = attribution(model, text, seed) if attribute else None
    caption = in_words(imagined.picture)
    return Card(text, imagined.image, caption, imagined.score, imagined.missing, words)


def imagine_scenes(
    checkpoint: Path, texts: Sequence[str], seed: int, attribute: bool, out: Path
) -> None:
    """Print what is read back of each text, and write a sheet of all.

    Raises:
        ValueError: of a text; nothing is written then.
        OSError: the checkpoint is not there, or the sheet cannot be written.
    """
    torch.set_num_threads(1)
    model = CycleScenes.from_pretrained(checkpoint)
    cards = [card_of(model, text, seed, attribute) for text in texts]
    for card in cards:
        print(card.text)
        print(f"  read back: {card.caption or 'nothing'}")
        if card.missing:
            print(f"  missing: {card.missing}")
        print(f"  cycle score: {card.score:.2f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    save(sheet(cards), out)
    print(f"look at {out}")
