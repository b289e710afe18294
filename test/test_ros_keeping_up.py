"""A node that finds no time steps back, and says so on the edges only."""

import time

import pytest

from vla_ros.ros import keeping_up
from vla_ros.ros.keeping_up import KeepingUp

TEXT = "no time: less is done"


@pytest.fixture
def lines():
    return []


@pytest.fixture
def node(lines):
    return KeepingUp(lines.append, lines.append, TEXT)


def seconds(node, *missed):
    """Seconds in which all the time went into work, and something was missed or not."""
    for one in missed:
        node._worked = 1e9
        node.note(one)


def test_it_steps_back_after_two_bad_seconds_and_is_back_after_five_good_ones(node, lines):
    seconds(node, True, False, False, False, False)
    assert not node.is_behind and not node.problem and not lines
    seconds(node, True, False, True)
    assert node.is_behind and node.problem == TEXT and lines == [TEXT]
    seconds(node, *[True] * 20, *[False] * 4)
    assert node.is_behind and len(lines) == 1
    seconds(node, False)
    assert not node.is_behind and lines == [TEXT, f"no longer: {TEXT}"]


def test_the_more_often_it_fails_the_longer_it_waits(node, lines):
    for _ in range(150 // 7):  # as soon as it is back, it fails again
        seconds(node, True, True, *[False] * 5)
    assert len(lines) < 12


def test_what_is_missed_while_there_is_nothing_to_do_is_no_want_of_time(node, lines):
    for _ in range(5):
        time.sleep(0.01)
        node.note(True)  # a camera that is slow
    assert not node.is_behind and not lines


def test_the_time_of_the_work_is_measured(node):
    for _ in range(2):
        with node.working():
            time.sleep(0.02)
        node.note(True)
    assert node.is_behind


def test_waiting_for_a_processor_counts_as_busy(node, monkeypatch):
    monkeypatch.setattr(keeping_up, "_waited", lambda: time.perf_counter())
    for _ in range(3):
        time.sleep(0.01)
        node.note(True)
    assert node.is_behind
    monkeypatch.undo()
    assert keeping_up._waited() >= 0.0


def test_a_problem_is_told_once_it_lasts_and_not_while_there_is_no_time(node):
    told = [node.lasting("a", problem) for problem in ("", "p", "p", "", "p", "p", "p", "q", "")]
    assert told == ["", "", "", "", "", "", "p", "q", ""]
    seconds(node, True, True)
    assert [node.lasting("a", "r") for _ in range(5)] == [""] * 5
    seconds(node, *[False] * 5)
    assert node.lasting("a", "r") == "r"
