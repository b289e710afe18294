"""Mean, spread and quantiles of what episodes hold, computed once and kept beside them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vla_ros.training.data.episode import Episode

RESERVOIR = 100_000  # rows; quantiles are exact up to so many frames, of a fair sample beyond
_SEED = 0


@dataclass(frozen=True)
class Distribution:
    """Of each of D numbers, over all frames."""

    names: list[str]
    mean: list[float]
    std: list[float]
    q01: list[float]
    q99: list[float]


@dataclass(frozen=True)
class EpisodeStatistics:
    """Of a set of episodes; `fingerprint` tells exactly which."""

    fingerprint: str
    episodes: int
    frames: int
    control_mode: str
    actions: Distribution
    proprioception: Distribution

    @classmethod
    def load(cls, path: Path) -> EpisodeStatistics:
        """Raises ValueError for a file that is not one of these."""
        try:
            values = json.loads(path.read_text())
            for name in ("actions", "proprioception"):
                values[name] = Distribution(**values[name])
            return cls(**values)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path} holds no statistics: {error}; remove it") from None

    def save(self, path: Path) -> None:
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(partial, path)


class StatisticsBuilder:
    """Takes episodes one by one; memory does not grow with their number.

    Mean and standard deviation are exact (merged in float64, Chan et al. 1979); quantiles are those
    of a reservoir of `RESERVOIR` rows with a fixed seed (Vitter 1985, algorithm R).
    """

    def __init__(self) -> None:
        self._first: Episode | None = None
        self._digest = hashlib.sha256()
        self._episodes = 0
        self._actions, self._felt = _Running(), _Running()

    def add(self, episode: Episode) -> None:
        """Raises ValueError if the episode's numbers mean something else than those before."""
        if self._first is None:
            self._first = episode
            self._digest.update(json.dumps(_meaning(episode)).encode())
        elif _meaning(episode) != _meaning(self._first):
            raise ValueError(
                f"{episode.name} and {self._first.name} differ in control mode, dt or names: "
                "convert them to one kind first"
            )
        self._digest.update(len(episode).to_bytes(8, "little"))
        actions = episode.actions[episode.actions_known]
        for array in (actions, episode.proprioception):
            self._digest.update(np.ascontiguousarray(array).tobytes())
        self._episodes += 1
        self._actions.add(actions)
        self._felt.add(episode.proprioception)

    def result(self) -> EpisodeStatistics:
        """Raises ValueError if there was no frame."""
        if self._first is None or not self._felt.count:
            raise ValueError("no frames: statistics need at least one episode")
        if not self._actions.count:
            raise ValueError("no action of the episodes is known: statistics need one")
        return EpisodeStatistics(
            fingerprint=self._digest.hexdigest(),
            episodes=self._episodes,
            frames=self._felt.count,
            control_mode=self._first.control_mode,
            actions=self._actions.distribution(self._first.action_names),
            proprioception=self._felt.distribution(self._first.proprioception_names),
        )


def statistics(episodes: Iterable[Episode], store: Path) -> EpisodeStatistics:
    """Statistics of `episodes`; those in `store` if their fingerprint agrees, else stored there.

    Raises:
        ValueError: no frames, or episodes of different kinds.
    """
    builder = StatisticsBuilder()
    for episode in episodes:
        builder.add(episode)
    found = builder.result()
    if store.exists() and (kept := EpisodeStatistics.load(store)).fingerprint == found.fingerprint:
        return kept
    found.save(store)
    return found


def _meaning(episode: Episode) -> tuple:
    names = list(episode.action_names), list(episode.proprioception_names)
    return episode.control_mode, episode.dt, *names


class _Running:
    """Moments and a fair sample of rows that come in blocks [T, D]."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._squares = np.zeros(0)
        self._sample = np.zeros((0, 0))
        self._rng = np.random.default_rng(_SEED)

    def add(self, block: np.ndarray) -> None:
        rows = np.asarray(block, dtype=np.float64)
        if not len(rows):
            return
        if not self.count:
            self._mean = self._squares = np.zeros(rows.shape[1])
            self._sample = np.zeros((0, rows.shape[1]), np.float32)
        total, mean = self.count + len(rows), rows.mean(0)
        step = mean - self._mean
        self._squares = (
            self._squares + ((rows - mean) ** 2).sum(0) + step**2 * (self.count * len(rows) / total)
        )
        self._mean = self._mean + step * (len(rows) / total)
        self._keep(np.asarray(block, dtype=np.float32))
        self.count = total

    def _keep(self, rows: np.ndarray) -> None:
        free = RESERVOIR - len(self._sample)
        self._sample = np.concatenate([self._sample, rows[:free]]) if free else self._sample
        late = rows[free:]
        if len(late):
            number = self.count + free + np.arange(len(late))
            place = self._rng.integers(0, number + 1)
            chosen = place < RESERVOIR
            self._sample[place[chosen]] = late[chosen]

    def distribution(self, names: Iterable[str]) -> Distribution:
        low, high = np.quantile(self._sample, (0.01, 0.99), axis=0)
        return Distribution(
            names=list(names),
            mean=self._mean.tolist(),
            std=np.sqrt(self._squares / self.count).tolist(),
            q01=low.tolist(),
            q99=high.tolist(),
        )
