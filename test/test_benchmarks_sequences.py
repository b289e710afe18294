"""The section on instructions that need the scene: what was played goes on, and is counted."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from vla_ros.sim.report import EpisodeReport

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import sequences  # noqa: E402


def episode(family, seed, success=True, **changes):
    reason = "fulfilled" if success else "step 1 of 2: it fell"
    return asdict(EpisodeReport(family, seed, "lift it", success, reason, 4.0, 80, **changes))


def test_what_was_played_is_kept_and_goes_on(tmp_path):
    path = tmp_path / "played.jsonl"
    assert sequences.played(path) == {}
    path.write_text("".join(json.dumps(episode("relation", seed)) + "\n" for seed in range(3)))
    assert set(sequences.played(path)) == {("relation", seed) for seed in range(3)}
    path.write_text(path.read_text() + '{"family": "relat')
    with pytest.raises(ValueError, match="played.jsonl, line 4 is no episode: remove it"):
        sequences.played(path)


def test_the_table_counts_each_kind_and_names_what_failed():
    episodes = [episode("two-step", seed, success=seed != 3) for seed in range(20)]
    episodes += [episode("absent", 0, refusal="I see a red cube, no green can")]
    text = sequences.section(episodes, "python benchmarks/sequences.py")
    assert "| two, one after the other | 19/20 | 95.0 | 76.4 to 99.1 | 4.0 s |" in text
    assert "| refused: absent | 1/1 | 100.0 | 20.7 to 100.0 |" in text
    assert "- two-step 3 'lift it': step 1 of 2: it fell" in text and "three" not in text.split("|")
