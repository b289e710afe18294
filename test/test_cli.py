"""`vla`: what it offers, and that mistakes are told in one line."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vla_ros import cli


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], ["demo", "eval", "imagine", "train", "bringup", "bench"]),
        (["eval", "--help"], ["--episodes", "--seed", "--json", "--live"]),
        (["demo", "--help"], ["--episodes", "--instruction"]),
        (["imagine", "--help"], ["--codes", "--plan", "--play", "--grid", "--from", "--data"]),
        (["train", "--help"], ["policy"]),
        (["train", "policy", "--help"], ["--rounds", "--out"]),
    ],
)
def test_help_names_the_options(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in said)


@pytest.mark.parametrize(
    "words",
    [[], ["dance"], ["train"], ["eval", "--robot", "real"], ["imagine"]]
    + [["imagine", "--play", "--grid"], ["imagine", "--plan", "--family", "dance"]],
)
def test_a_wrong_command_ends_with_usage(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "usage: vla" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "--checkpoint", "nowhere"], "nowhere"),
        (["eval", "--seed", "1000000000"], "training"),
        (["eval", "--episodes", "0"], "--episodes"),
        (["eval", "--workers", "0"], "--workers"),
        (["eval", "--latency-ticks", "99"], "latency is 99"),
        (["eval", "--compare", "no.json"], "no.json"),
        (["imagine", "--checkpoint", "nowhere", "--play"], "nowhere"),
        (["demo", "--checkpoint", "nowhere"], "nowhere"),
        (["demo", "--episodes", "0"], "--episodes"),
        (["demo", "--seed", "999999999"], "training"),
        (["train", "scenes", "--resume", "--out", "nowhere"], "no run in nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(words, said, capsys):
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_bench_lists_what_the_repository_measures_and_passes_arguments_on(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench"]) == 0  # of the repository that this runs from
    assert "ros_overhead" in capfd.readouterr().out
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages/vla_ros/cli.py"))
    (tmp_path / "benchmarks").mkdir()
    assert cli.main(["bench", "speed"]) == 1
    assert "a clone of the repository" in capfd.readouterr().err

    (tmp_path / "benchmarks/shared.py").write_text('"""No script."""\n')
    (tmp_path / "benchmarks/speed.py").write_text(
        '"""How fast it is."""\nimport sys, shared\n'
        'if __name__ == "__main__":\n    print(sys.argv[1:])\n    sys.exit(3)\n'
    )
    assert cli.main(["bench"]) == 0
    listed = capfd.readouterr().out
    assert "speed" in listed and "How fast it is." in listed and "shared" not in listed
    assert cli.main(["bench", "walk"]) == 1
    assert "no benchmark 'walk': choose of speed" in capfd.readouterr().err
    assert cli.main(["bench", "speed", "--help", "-x"]) == 3
    assert capfd.readouterr().out == "['--help', '-x']\n"


def test_it_runs_as_a_module_and_without_ros(tmp_path):
    """Offline evaluation and training must not need ROS 2."""
    for package in ("rclpy", "sensor_msgs", "std_msgs"):
        (tmp_path / f"{package}.py").write_text(f"raise ImportError('{package} was imported')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for words in (["eval", "--help"], ["imagine", "--help"], ["train", "policy", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "vla_ros.cli", *words],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "usage: vla" in done.stdout


def test_rendering_needs_no_screen():
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    code = "from vla_ros.sim.arm import ArmWorld; print(ArmWorld().render('camera').shape)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "(128, 128, 3)", done.stderr


def test_benchmarks_change_the_page_of_results_only_when_they_are_asked_to(tmp_path, capsys):
    """Each has --write, and gives it to the one function that writes."""
    folder = Path(__file__).parents[1] / "benchmarks"
    for path in sorted(folder.glob("*.py")):
        text = path.read_text()
        if path.name != "results.py" and "write_section(" in text:
            assert "add_write_option(parser)" in text and ".write" in text, path.name
    spec = importlib.util.spec_from_file_location("results", folder / "results.py")
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    page = tmp_path / "RESULTS.md"
    results.write_section("speed", "| fast |", None)
    assert capsys.readouterr().out == "| fast |\n" and not page.exists()
    results.write_section("speed", "| fast |", page)
    assert "| fast |" in page.read_text()
