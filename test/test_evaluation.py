"""Success rates: their intervals, their seeds, and the file they are written to."""

import argparse
import json
import math

import pytest

from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.sim.conditions import Condition
from vla_ros.sim.report import EpisodeReport
from vla_ros.training import evaluation
from vla_ros.training.success_plot import plot_success


def report(family="reach", seed=0, success=True, reason="fulfilled", seconds=2.0):
    return EpisodeReport(family, seed, "reach it", success, reason, seconds, steps=40)


def options(*words):
    parser = argparse.ArgumentParser()
    evaluation.add_arguments(parser)
    return parser.parse_args(words)


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
    text = evaluation.table(summary, {"success": {"reach": 0.75}})
    assert "50.0%" in text and "-25.0 pts" in text and "1 x fell over" in text
    assert "difference" not in evaluation.table(summary)


def test_scenarios_are_read_and_named():
    assert evaluation.parse_scenario("usual") == ()
    assert evaluation.parse_scenario("latency+camera") == (Condition.CAMERA, Condition.LATENCY)
    for text in ("usual", *Condition, "camera+lights"):
        assert evaluation.scenario_name(evaluation.parse_scenario(text)) == text
    for text in ("fog", "camera+fog", "usual+camera", ""):
        with pytest.raises(ValueError, match="use one of usual, camera, lights"):
            evaluation.parse_scenario(text)


def test_the_page_of_plots_takes_scenarios_without_any_success(tmp_path):
    good = evaluation.summarize([report(), report("push", 1, False)], {})
    bad = evaluation.summarize([report(success=False), report("push", 1, False)], {})
    times = {name: {"median": 1.0, "p95": 2.0} for name in ("encode", "act", "both")}
    picture = tmp_path / "new" / "page.png"
    plot_success({"usual": good, "camera": bad}, times, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = evaluation.overview({"usual": good, "camera": bad})
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
    evaluation.main(options(*words, "--seed", "7", "--workers", "1", "--json", str(path)))
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
    evaluation.main(options(*words, "--workers", "1", "--json", str(path), "--plot", str(page)))
    figures = json.loads(path.read_text())
    assert list(figures["conditions"]) == ["usual", "meshes+distractors", "no-instruction"]
    told = [summary["runs"][0]["instruction"] for summary in figures["conditions"].values()]
    assert told[0] == told[1] != "" == told[2]
    assert figures["success"] == figures["conditions"]["usual"]["success"]
    assert page.is_file() and "-- meshes+distractors" in capsys.readouterr().out


def test_conditions_are_for_episodes_offline(checkpoint):
    words = ["--checkpoint", str(checkpoint), "--live", "--condition", "camera"]
    with pytest.raises(ValueError, match="leave out --live"):
        evaluation.main(options(*words))


def test_a_missing_checkpoint_is_one_clear_error():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluation.main(options("--checkpoint", "nowhere"))


def test_equal_seeds_give_equal_episodes(checkpoint):
    evaluator = evaluation.Evaluator(checkpoint, latency_ticks=2)
    first, again = evaluator.play("reach", 3), evaluator.play("reach", 3)
    assert repr(first) == repr(again)  # by repr, for NaN is not equal to itself
