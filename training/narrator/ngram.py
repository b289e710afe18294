"""What counting gives: an n-gram model with backoff, the least that a narrator is to beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vla_ros.scene_language.vocabulary import EOS, PAD, TOKENS

MOST = 6  # the highest order whose ids fit one int64 with the id that follows
Row = tuple[Sequence[int], Sequence[bool]]  # ids, and which of them are asked for


class NGrams:
    """Says what most often followed the longest part of the past that it has met.

    Args:
        rows: what to count; only what is asked for, given all that is before it.
        order: 1 (the past does not matter) to MOST: ids that count, the next one among them.

    Raises:
        ValueError: an order outside of this, or nothing is asked for.
    """

    def __init__(self, rows: Iterable[Row], order: int) -> None:
        if not 1 <= order <= MOST:
            raise ValueError(f"order {order}: give 1 to {MOST}")
        self.order = order
        pasts, nexts = _asked(rows)
        if not len(nexts):
            raise ValueError("nothing is asked for in these rows: there is nothing to count")
        # Of each length of past: those met, sorted, and what followed most often.
        self._met: list[tuple[np.ndarray, np.ndarray]] = []
        for length in range(order):
            pairs, counts = np.unique(
                _code(pasts, length) * len(TOKENS) + nexts, return_counts=True
            )
            past = pairs // len(TOKENS)
            best = np.lexsort((-counts, past))  # of each past the most frequent pair comes first
            met, first = np.unique(past[best], return_index=True)
            self._met.append((met, pairs[best][first] % len(TOKENS)))

    def following(self, pasts: np.ndarray) -> np.ndarray:
        """The id [N] after each of `pasts`, int64 [N, MOST - 1], filled up with pads in front."""
        said = np.full(len(pasts), -1)
        for length in reversed(range(self.order)):
            met, best = self._met[length]
            codes = _code(pasts, length)
            place = np.searchsorted(met, codes).clip(max=len(met) - 1)
            known = (met[place] == codes) & (said < 0)
            said[known] = best[place[known]]
        return said

    def generate(self, prompt: Sequence[int], most: int) -> list[int]:
        """At most `most` ids after a prompt, without the eos."""
        row = [*[PAD] * (MOST - 1), *prompt]
        begin = len(row)
        while len(row) - begin < most:
            said = int(self.following(np.array([row[-MOST + 1 :]]))[0])
            if said == EOS:
                break
            row.append(said)
        return row[begin:]

    def right(self, rows: Iterable[Row]) -> float:
        """Share of what is asked for that it would say, given what really is before it."""
        pasts, nexts = _asked(rows)
        return float((self.following(pasts) == nexts).mean())


def best_order(rows: Sequence[Row], others: Sequence[Row]) -> NGrams:
    """The one counted on `rows` of the order that says most of `others` right."""
    models = [NGrams(rows, order) for order in range(1, MOST + 1)]
    return max(models, key=lambda model: model.right(others))


def _asked(rows: Iterable[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Pasts int64 [N, MOST - 1] and next ids [N] of all that is asked for."""
    pasts, nexts = [], []
    for ids, asked in rows:
        padded = np.concatenate([np.full(MOST - 1, PAD), np.asarray(ids, np.int64)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, MOST)
        chosen = windows[np.asarray(asked, bool)]
        pasts.append(chosen[:, :-1])
        nexts.append(chosen[:, -1])
    if not pasts:
        return np.zeros((0, MOST - 1), np.int64), np.zeros(0, np.int64)
    return np.concatenate(pasts), np.concatenate(nexts)


def _code(pasts: np.ndarray, length: int) -> np.ndarray:
    """The last `length` ids of each past as one number."""
    code = np.zeros(len(pasts), np.int64)
    for i in range(length):
        code = code * len(TOKENS) + pasts[:, pasts.shape[1] - length + i]
    return code
