"""Under what an evaluation in the simulator is played."""

from __future__ import annotations

from collections.abc import Sequence

from vla_ros.sim.conditions import Condition

MAX_LATENCY = 14  # ticks; the gate refuses chunks whose observation is older than 0.15 s
USUAL = "usual"  # the scenario of no condition
Scenario = tuple[Condition, ...]  # conditions that hold together
_TELLING = {Condition.SWAPPED_INSTRUCTION, Condition.NO_INSTRUCTION}


def parse_scenario(text: str) -> Scenario:
    """Conditions joined by "+", or "usual" for none.

    Raises:
        ValueError: one of them is unknown.
    """
    names = [] if text == USUAL else text.split("+")
    if unknown := set(names) - set(Condition):
        known = ", ".join([USUAL, *Condition])
        raise ValueError(f"unknown condition '{min(unknown)}': use one of {known}, or some with +")
    return tuple(condition for condition in Condition if condition in names)


def scenario_name(scenario: Scenario) -> str:
    return "+".join(scenario) or USUAL


def check_telling(scenarios: Sequence[Scenario]) -> None:
    """Refuse conditions that say themselves what the policy is told, where phrasings do.

    Raises:
        ValueError: there is one.
    """
    for scenario in scenarios:
        if told := _TELLING & set(scenario):
            raise ValueError(
                f"--condition {min(told)} and --phrasings both say what the policy is told: leave "
                "out one"
            )


def check_latency(ticks: int) -> None:
    """Refuse a latency with which the gate would take no action chunk.

    Raises:
        ValueError: it is negative or more than MAX_LATENCY.
    """
    if not 0 <= ticks <= MAX_LATENCY:
        raise ValueError(f"the latency is {ticks} ticks: give 0 to {MAX_LATENCY}")
