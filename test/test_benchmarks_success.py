"""The section on success: its arithmetic, and reports that do not belong together."""

import json
import sys
from pathlib import Path

import pytest

from vla_ros.scene_language.instructions import FAMILIES

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import success  # noqa: E402


def report(rate=0.75, episodes=20, **changes):
    one = {
        "success": dict.fromkeys(FAMILIES, rate),
        "episodes": dict.fromkeys(FAMILIES, episodes),
        "mean_seconds": dict.fromkeys(FAMILIES, 1.5),
        "failures": {family: {} for family in FAMILIES},
        "runs": [],
        "checkpoint": "arm",
        "live": False,
        "seed": 0,
        "phrasings": None,
    }
    return one | changes


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Runs the script on reports; returns the section."""

    def run(**reports):
        words = []
        for name, content in reports.items():
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(content))
            words += [str(path)] if name in ("offline", "live") else [f"--{name}", str(path)]
        sections = []
        monkeypatch.setattr(
            success, "write_section", lambda name, text, page: sections.append(text)
        )
        monkeypatch.setattr(sys, "argv", ["success.py", *words])
        assert success.main() == 0
        return sections[0]

    return run


def row(text, name, after=""):
    (line, *_) = (li for li in text[text.index(after) :].splitlines() if li.startswith(f"| {name}"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_rates_intervals_and_differences_are_told_with_their_commands(written):
    failed = {"family": "push", "seed": 4, "instruction": "push it", "success": False}
    lost = {**report()["failures"], "push": {"instruction refused": 3, "fell": 2}}
    text = written(
        offline=report(runs=[{**failed, "reason": "fell"}]),
        live=report(1.0, 8, live=True),
        conditions=report(
            conditions={
                "usual": report(),
                "swapped-instruction": report(0.05),
                "no-instruction": report(0.1),
            }
        ),
        twin=report(0.5, checkpoint="other", condition="held-out-pairs"),
        words=report(0.5, phrasings="words.json", failures=lost, runs=[failed | {"reason": "x"}]),
    )
    assert row(text, "reach") == [
        "15/20 (53 to 89 %)",
        "8/8 (68 to 100 %)",
        "1.5 s / 1.5 s",
    ]
    assert row(text, "all")[0] == "75/100 (66 to 82 %)"
    assert text.count("push 4 'push it'") == 1, "the outsider's phrasings are not shown"
    assert "`vla eval --live --episodes 8 --seed 0`" in text
    assert "`vla eval --robot sim --episodes 20 --seed 0 --condition usual swapped-" in text
    assert row(text, "10/20", "never seen together")[-1] == "50/100 (40 to 60 %)"
    assert (
        "`vla eval --robot sim --checkpoint other --episodes 20 --seed 0 --condition held" in text
    )
    assert row(text, "swapped-instruction") == ["5.0 %"] * 6
    assert row(text, "by chance", "| swapped")[:2] == ["33.3 %", "33.3 %"]
    assert row(text, "by chance", "| no-instruction")[:2] == ["6.7 %", "1.7 %"]
    assert row(text, "push", "In words of")[-1] == "-25.0"
    assert "3 of 100 instructions were refused" in text
    assert "--phrasings words.json" in text


@pytest.mark.parametrize(
    ("reports", "said"),
    [
        ({"offline": report(live=True)}, "offline report first"),
        ({"live": report()}, "offline report first"),
        ({"live": report(live=True, checkpoint="other")}, "different checkpoints"),
        ({"conditions": report()}, "was not made by vla eval --condition, with several"),
        ({"twin": report(condition="usual")}, "was not made by vla eval --condition held-out"),
        ({"words": report()}, "was not made by vla eval --phrasings"),
        ({"words": report(phrasings="w", seed=1)}, "not of the same tasks"),
        ({"offline": {"robot": "widowx.yaml"}}, "offline is no report of the simulator"),
        ({"offline": report(success={"reach": 1.0})}, "offline has not all families"),
    ],
)
def test_reports_that_do_not_belong_together_are_refused(written, reports, said):
    with pytest.raises(SystemExit, match=said):
        written(**{"offline": report(), "live": report(live=True), **reports})
