"""Evaluation in the simulator: success rates, comparison with the expert, file and page."""

import argparse
import json
import math
from contextlib import nullcontext

import numpy as np
import pytest

from vla_ros.models.episode import Action
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.sim.conditions import Condition
from vla_ros.sim.experts import expert_chunk, expert_description
from vla_ros.sim.report import EpisodeReport
from vla_ros.sim.tasks import sample_task
from vla_ros.training import evaluation
from vla_ros.training.commands import evaluate
from vla_ros.training.evaluation_page import draw
from vla_ros.training.evaluation_text import overview, table
from vla_ros.training.phrasings import Phrasings
from vla_ros.training.scenarios import parse_scenario, scenario_name
from vla_ros.training.simulated_evaluation import (
    Evaluator,
    Played,
    compared,
)


def report(family="reach", seed=0, success=True, reason="fulfilled", seconds=2.0):
    return Played(EpisodeReport(family, seed, "reach it", success, reason, seconds, steps=40))


def options(*words):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return parser.parse_args(words)


TIMES = {
    name: {"median": 1.0, "p95": 2.0, "percentiles": list(range(21))}
    for name in ("encode", "act", "both")
}


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Computed independently: scipy.stats.binomtest(...).proportion_ci(method="wilson").
    [
        (95, 100, 0.8882495, 0.9784563),
        (50, 100, 0.4038315, 0.5961685),
        (1, 3, 0.0614919, 0.7923404),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_intervals_are_wilsons(successes, trials, low, high):
    assert evaluation.wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-6)


def test_a_summary_has_figures_for_each_family():
    reports = [
        report("push", 1, False, "not fulfilled within 10 s", 10.0),
        report("push", 0),
        report("reach", 0, seconds=1.5),
    ]
    summary = evaluation.summarize(reports, {"live": False})
    assert summary["success"] == {"reach": 1.0, "push": 0.5}
    assert summary["intervals"]["push"] == evaluation.wilson_interval(1, 2)
    assert summary["episodes"] == {"reach": 1, "push": 2}
    assert summary["mean_seconds"] == {"reach": 1.5, "push": 2.0}
    assert summary["failures"] == {"reach": {}, "push": {"not fulfilled within 10 s": 1}}
    assert [(run["family"], run["seed"]) for run in summary["runs"]] == [
        ("reach", 0),
        ("push", 0),
        ("push", 1),
    ]
    assert summary["live"] is False and summary["runs"][0]["latency"] is None


def test_the_table_names_reasons_and_differences():
    reports = [report(), report(seed=1, success=False, reason="fell over")]
    summary = evaluation.summarize(reports, {})
    text = table(summary, {"success": {"reach": 0.75}})
    assert "50.0%" in text and "-25.0 pts" in text and "1 x fell over" in text
    assert "difference" not in table(summary)


def test_scenarios_are_read_and_named():
    assert parse_scenario("usual") == ()
    assert parse_scenario("latency+camera") == (Condition.CAMERA, Condition.LATENCY)
    for text in ("usual", *Condition, "camera+lights"):
        assert scenario_name(parse_scenario(text)) == text
    for text in ("fog", "camera+fog", "usual+camera", ""):
        with pytest.raises(ValueError, match="use one of usual, camera, lights"):
            parse_scenario(text)


def test_the_page_of_plots_takes_scenarios_without_any_success(tmp_path):
    good = evaluation.summarize([report(), report("push", 1, False)], {})
    bad = evaluation.summarize([report(success=False), report("push", 1, False)], {})
    conditions = {"usual": good, "camera": bad}
    rest = {"checkpoint": "arm", "live": False, "inference_ms": TIMES, "conditions": conditions}
    picture = tmp_path / "new" / "page.png"
    draw({**good, **rest}, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in picture.parent.iterdir()] == ["page.png"]
    text = overview(conditions)
    assert [line.split() for line in text.splitlines()] == [
        ["condition", "reach", "push"],
        ["usual", "100.0%", "0.0%"],
        ["camera", "0.0%", "0.0%"],
    ]


def test_inference_is_timed_in_its_parts(checkpoint):
    times = evaluation.inference_times(VisionLanguageActionModel.from_pretrained(checkpoint), 20)
    assert set(times) == {"encode", "act", "both"}
    for part in times.values():
        assert 0 < part["median"] <= part["p95"]
    assert times["both"]["median"] > times["encode"]["median"]


def test_the_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "figures.json"
    evaluation.write_json(path, {"success": {"reach": 0.5}})
    assert json.loads(path.read_text()) == {"success": {"reach": 0.5}}
    with pytest.raises(ValueError):
        evaluation.write_json(path, {"success": math.nan})
    assert json.loads(path.read_text()) == {"success": {"reach": 0.5}}
    assert [file.name for file in path.parent.iterdir()] == ["figures.json"]


def test_an_untrained_policy_is_measured_in_a_worker_process(checkpoint, tmp_path, capsys):
    path = tmp_path / "figures.json"
    words = ["--checkpoint", str(checkpoint), "--episodes", "2", "--families", "reach"]
    evaluate.main(options(*words, "--seed", "7", "--workers", "1", "--json", str(path)))
    figures = json.loads(path.read_text())
    assert figures["success"]["reach"] in (0.0, 0.5, 1.0)
    assert len(figures["intervals"]["reach"]) == 2
    assert figures["seed"] == 7 and figures["live"] is False and figures["robot"] == "sim"
    assert [run["seed"] for run in figures["runs"]] == [7, 8]
    assert figures["condition"] == "usual" and "conditions" not in figures
    assert figures["inference_ms"]["both"]["median"] > 0
    assert "reach" in capsys.readouterr().out


def test_conditions_are_measured_in_turn(checkpoint, tmp_path, capsys):
    path, page = tmp_path / "figures.json", tmp_path / "page.png"
    words = ["--checkpoint", str(checkpoint), "--episodes", "1", "--families", "reach"]
    words += ["--condition", "usual", "distractors+meshes", "no-instruction", "usual"]
    evaluate.main(options(*words, "--workers", "1", "--json", str(path), "--plot", str(page)))
    figures = json.loads(path.read_text())
    assert list(figures["conditions"]) == ["usual", "meshes+distractors", "no-instruction"]
    told = [summary["runs"][0]["instruction"] for summary in figures["conditions"].values()]
    assert told[0] == told[1] != "" == told[2]
    assert figures["success"] == figures["conditions"]["usual"]["success"]
    assert page.is_file() and "-- meshes+distractors" in capsys.readouterr().out


def test_conditions_are_for_episodes_offline(checkpoint):
    words = ["--checkpoint", str(checkpoint), "--live", "--condition", "camera"]
    with pytest.raises(ValueError, match="leave out --live"):
        evaluate.main(options(*words))


def test_live_episodes_give_the_same_figures_and_the_nodes_rate(checkpoint, tmp_path, monkeypatch):
    from vla_ros import live

    class Arm:
        def play(self, family, seed):
            return EpisodeReport(
                family, seed, "go", seed != 3, "it ended", 2.0, 40, rate=20.0, latency=0.02
            )

    def running(folder, *, processes, cameras):
        assert folder == str(checkpoint) and processes == "all"
        assert cameras == ("camera", "wrist_camera")
        return nullcontext(Arm())

    monkeypatch.setattr(live, "running", running)
    path = tmp_path / "figures.json"
    words = ["--live", "--processes", "--checkpoint", str(checkpoint), "--episodes", "4"]
    evaluate.main(options(*words, "--json", str(path)))
    figures = json.loads(path.read_text())
    assert set(figures["success"].values()) == {0.75} and figures["live"] is True
    assert figures["failures"]["bowl"] == {"it ended": 1}
    assert figures["mean_rate"] == 20.0 and figures["mean_latency"] == pytest.approx(0.02)
    assert figures["phrasings"] is None and "actions" not in figures


def test_a_missing_checkpoint_is_one_clear_error():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate.main(options("--checkpoint", "nowhere"))


def test_equal_seeds_give_equal_episodes(checkpoint):
    evaluator = Evaluator(checkpoint, latency_ticks=2)
    first, again = evaluator.play("reach", 3), evaluator.play("reach", 3)
    assert repr(first) == repr(again)  # by repr, for NaN is not equal to itself
    assert first.measures is None


# -- beside the expert -----------------------------------------------------------------------------


class Expert:
    """Stands in for the model's episode: it does and says what the expert would."""

    def __init__(self, evaluator):
        self._evaluator = evaluator

    @property
    def _world(self):
        (rollout,) = self._evaluator._rollouts.values()
        return rollout.world

    def act(self, tokens, felt):
        return Action(expert_chunk(self._world, 8, 0.05), done=0.0, confidence=1.0)

    def describe(self):
        return [expert_description(self._world)]


def test_the_expert_itself_has_no_error_and_says_what_it_says(checkpoint, monkeypatch):
    evaluator = Evaluator(checkpoint, latency_ticks=2, measure=True)
    monkeypatch.setattr(evaluator._model, "start", lambda told: Expert(evaluator))
    played = [evaluator.play("reach", seed) for seed in (0, 1)]
    assert all(one.report.success for one in played)
    figures = compared(played)
    assert np.max(figures["actions"]["mse"]["policy"]) == 0.0
    over = figures["actions"]["over_variance"]["last_action"]
    assert 0.0 < over["by_place"][0] < over["by_place"][-1], "soon it is where it was sent"
    assert over["by_name"]["finger_opening"] is None, "reaching, they stay open"
    assert figures["actions"]["frames"] == sum(one.report.steps for one in played)
    assert figures["trajectory"]["reach"]["p95"] < 1e-12
    assert 0.1 < figures["trajectory"]["all"]["length"] < 1.0
    scores = figures["sentences"]["reach"]
    assert scores["exact"] == scores["rougeL"] == 100.0 == pytest.approx(scores["bleu"])


def test_nothing_is_compared_where_every_instruction_was_refused():
    assert compared([report()]) == {"actions": None, "trajectory": None, "sentences": None}


# -- in other words --------------------------------------------------------------------------------


@pytest.fixture
def phrasings(tmp_path):
    """Of the family "reach" the second one is beyond the policy's words."""
    texts = ["reach the {color} {cube}", "frobnicate quuxwards zzyzx {color} {cube}"]
    told = dict.fromkeys(("reach", "pick", "pad", "bowl"), texts)
    told["push"] = dict.fromkeys(("left", "right", "away", "closer"), texts)
    told["nouns"] = {"cube": ["block"], "cylinder": ["can"]}
    path = tmp_path / "phrasings.json"
    path.write_text(json.dumps(told))
    return path


def test_a_policy_is_told_the_phrasings_and_compared_and_a_refusal_is_a_failure(
    checkpoint, phrasings, tmp_path, capsys
):
    path, page = tmp_path / "figures.json", tmp_path / "page.png"
    words = ["--checkpoint", str(checkpoint), "--episodes", "2", "--families", "reach", "--metrics"]
    words += ["--phrasings", str(phrasings), "--workers", "1"]
    evaluate.main(options(*words, "--json", str(path), "--plot", str(page)))
    figures = json.loads(path.read_text())
    first, second = figures["runs"]
    goal = sample_task("reach", 0).goal
    noun = {"cube": "block", "cylinder": "can"}[goal.shape]
    assert first["instruction"] == f"reach the {goal.color} {noun}" and first["steps"] > 0
    assert second["instruction"].startswith("frobnicate") and second["steps"] == 0
    assert not second["success"] and "'zzyzx'" in second["reason"]
    assert figures["failures"]["reach"]["instruction refused"] == 1
    assert figures["phrasings"] == str(phrasings) and figures["episodes"]["reach"] == 2

    assert figures["actions"]["over_variance"]["policy"]["all"] > 0.1
    assert figures["trajectory"]["all"]["median"] == first["distance"] > 0.01
    assert "distance" not in second
    assert figures["sentences"]["reach"] == figures["sentences"]["all"]
    assert figures["sentences"]["all"]["frames"] == first["steps"]
    text = capsys.readouterr().out
    assert "over the variance" in text and "DTW" in text and "bleu" in text
    assert "zzyzx" not in text, "one reason, not one a phrasing"
    assert page.read_bytes().startswith(b"\x89PNG")


def test_the_tasks_stay_those_of_their_seeds(checkpoint, monkeypatch):
    """Whatever is said: who knows the goal does the same as ever."""
    told = Phrasings({"cube": ["it"], "cylinder": ["it"]}, {("reach", ""): ["{color} {cube}"]})
    usual, other = (Evaluator(checkpoint, 2, phrasings) for phrasings in (None, told))
    for evaluator in (usual, other):
        monkeypatch.setattr(evaluator._model, "start", lambda told, e=evaluator: Expert(e))
    one, again = (evaluator.play("reach", 4).report for evaluator in (usual, other))
    assert again.instruction == f"{sample_task('reach', 4).goal.color} it" != one.instruction
    assert (again.seconds, again.steps, again.success) == (one.seconds, one.steps, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--live", "--phrasings", "FILE"], "--phrasings is for episodes offline"),
        (["--live", "--metrics"], "--metrics is for episodes offline"),
        (["--phrasings", "FILE", "--condition", "camera+no-instruction"], "no-instruction and --p"),
        (["--minilm", "FOLDER"], "add --metrics"),
        (["--plot", "page.unheard"], "page.unheard is no picture"),
        (["--plot", "page"], "page is no picture"),
        (["--metrics", "--minilm", "FOLDER"], "FOLDER holds no config.json"),
    ],
)
def test_options_that_do_not_go_together_are_told(checkpoint, phrasings, words, said):
    words = [str(phrasings) if word == "FILE" else word for word in words]
    with pytest.raises((ValueError, OSError), match=said):
        evaluate.main(options("--checkpoint", str(checkpoint), *words))
