"""The benchmark's own arithmetic, on tiny sizes: what it measures with must be right itself."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import measuring  # noqa: E402
import rivals  # noqa: E402
import vlam  # noqa: E402
import vlam_core  # noqa: E402
import vlam_step  # noqa: E402
import vlam_whole  # noqa: E402

from vla_ros.models.mamba import MambaStack  # noqa: E402
from vla_ros.models.vlam_config import SIZES  # noqa: E402


def test_where_one_line_falls_below_another():
    places = [1, 10, 20, 40]
    assert measuring.crossing(places, [5, 5, 5, 5], [1, 3, 7, 9]) == 15
    assert measuring.crossing(places, [5, 5, 5, 5], [6, 7, 8, 9]) == 1
    assert measuring.crossing(places, [5, 5, 5, 5], [6, 7, 8, 4]) is None
    # Below, above, and below for good: only the last counts.
    assert measuring.crossing(places, [5, 5, 5, 5], [6, 4, 6, 9]) == 15


def test_all_take_turns_and_what_is_slow_runs_once(monkeypatch):
    clock, calls = 0.0, []

    def work(name: str, seconds: list[float]):
        nonlocal clock
        calls.append(name)
        clock += seconds.pop(0)

    monkeypatch.setattr(measuring, "now", lambda device: clock)
    times = measuring.interleaved(
        {
            "slow": partial(work, "slow", [measuring.SLOW + 1]),
            "fast": partial(work, "fast", [9.0, 1.0, 3.0]),
        },
        seconds=0.0,
    )
    assert times == {"slow": measuring.SLOW + 1, "fast": 2.0}  # the first round is not counted
    assert sorted(calls[:2]) == ["fast", "slow"] and calls[2:] == ["fast", "fast"]


def test_the_time_is_of_one_call():
    def spin():
        end = measuring.now("cpu") + 0.002
        while measuring.now("cpu") < end:
            pass

    assert measuring.interleaved({"spin": spin}, 0.0, calls=5)["spin"] == pytest.approx(2e-3, 0.2)


def test_peak_memory_is_what_the_call_takes():
    size = 64 << 20
    assert measuring.peak_memory(partial, torch.ones, size // 4) == pytest.approx(size, rel=0.05)


def test_figures():
    assert [measuring.ms(t) for t in (None, 0.00012345, 0.0123456, 0.98765)] == [
        "-", "0.123", "12.3", "988",
    ]  # fmt: skip
    assert (measuring.mb(1_234_567), measuring.mb(123_456_789)) == ("1.23", "123")
    assert (measuring.ratio(3.0, 2.0), measuring.ratio(None, 2.0)) == ("1.50", "-")
    assert (vlam_step.less(49, 100), vlam_step.less(120, 100)) == ("51 % less", "20 % more")


@torch.no_grad()
def test_the_causal_transformer_is_one_and_as_large_as_asked():
    torch.manual_seed(0)
    wanted = sum(p.numel() for p in MambaStack(128, 2, 16).parameters())
    transformer = rivals.CausalTransformer(128, 2, wanted, context=20)
    assert sum(p.numel() for p in transformer.parameters()) == pytest.approx(wanted, rel=0.02)

    x = torch.randn(2, 20, 128)
    y, cache = transformer(x), transformer.cache(2, 20)
    torch.testing.assert_close(transformer.advance(x[:, :3], cache, 0), y[:, :3])
    torch.testing.assert_close(transformer.advance(x[:, 3:12], cache, 3), y[:, 3:12])
    for t in range(12, 20):
        torch.testing.assert_close(transformer.step(x[:, t], cache, t), y[:, t])
    assert vlam_step.state_bytes(transformer, 10) == 2 * 2 * 10 * 128 * 4
    with pytest.raises(ValueError, match="attention alone"):
        rivals.CausalTransformer(128, 2, 1000, context=20)


@torch.no_grad()
@pytest.mark.parametrize("mixer", ["mamba2", "mamba1"])
def test_transformers_step_goes_on_where_its_sequence_ended(mixer):
    torch.manual_seed(0)
    stack = rivals.TransformersStack(mixer, 64, 2, 8).eval()
    x = torch.randn(1, 9, 64)
    cache = stack.after(x[:, :8])
    torch.testing.assert_close(stack.step(x[:, 8], cache), stack(x)[:, 8], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_step_is_made_in_the_context_asked_for():
    seen = []

    class Stack(torch.nn.Module):
        def initial_state(self, batch):
            return 0

        def forward(self, x):
            return x, x.shape[1]

        def step(self, x, state):
            seen.append(state)
            return x, state

    for context in (1, 20):
        vlam_step.stepper(Stack(), vlam_core.QUICK, context)()
    assert seen == [0, 19]


def test_sizes_need_no_weights_on_the_machine():
    assert [vlam_whole.vision(size)["model_type"] for size in SIZES] == ["small"] + 3 * ["dinov2"]
    table = vlam_whole.sizes(vlam_core.QUICK)
    assert all(f"| {size} |" in table for size in SIZES)
    assert "not within" not in table


def test_parts_are_written_to_the_page_asked_for(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    arguments = ["vlam.py", "--quick", "--only", "floor"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert vlam.main() == 0
    assert not page.exists() and "| fp32 |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*arguments, "--write", str(page)])
    assert vlam.main() == 0
    text = page.read_text()
    assert "<!-- begin vlam floor -->" in text
    assert "`vla bench vlam --only floor --quick`" in text and "1 thread, torch" in text
    assert "| fp32 |" in text

    monkeypatch.setattr(sys, "argv", ["vlam.py", "--only", "floor,speed"])
    with pytest.raises(SystemExit):
        vlam.main()
    assert "no part speed: choose of equivalence" in capsys.readouterr().err
