"""The gate's promises, as numbers, under ordinary and under hostile input."""

import math
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.safety.gate import UNKNOWN, Chunk, CommandGate, GateConfig, State

NAMES = ("shoulder", "elbow", "finger")
LOWER = np.array([-2.0, -1.0, 0.0])
UPPER = np.array([2.0, 3.0, 0.04])
VELOCITY = np.array([2.0, 1.0, 0.1])
START = np.array([0.5, 1.0, 0.02])


def make_gate(**changes) -> CommandGate:
    return CommandGate(GateConfig(NAMES, LOWER, UPPER, VELOCITY, **changes))


def make_chunk(stamp, points=START, horizon=8, names=NAMES, dt=0.05) -> Chunk:
    return Chunk(stamp, dt, names, np.tile(np.asarray(points, dtype=float), (horizon, 1)))


def open_gate(now=10.0, **changes) -> CommandGate:
    gate = make_gate(**changes)
    assert gate.update_state(NAMES, START, now) == ""
    assert gate.accept(make_chunk(now), now) == ""
    assert gate.command(now) is not None
    return gate


# --- opening ----------------------------------------------------------------------------------


def test_closed_until_chunk_and_joint_states_are_here():
    gate = make_gate()
    assert gate.command(1.0) is None and "joint states" in gate.reason
    gate.update_state(NAMES, START, 1.0)
    assert gate.command(1.0) is None and "chunk" in gate.reason
    gate.accept(make_chunk(1.0), 1.0)
    command = gate.command(1.0)
    assert gate.state is State.ACTIVE and gate.reason == "" and not command.hold
    np.testing.assert_allclose(command.positions, START)


def test_chunk_before_joint_states_opens_when_they_come():
    gate = make_gate()
    assert gate.accept(make_chunk(1.0), 1.0) == ""
    assert gate.command(1.0) is None and gate.state is State.CLOSED
    gate.update_state(NAMES, START, 1.02)
    assert gate.command(1.02) is not None


def test_stale_joint_states_do_not_open():
    gate = make_gate()
    gate.update_state(NAMES, START, 1.0)
    assert gate.accept(make_chunk(1.3), 1.3) == ""
    assert gate.command(1.3) is None and gate.state is State.CLOSED


def test_robot_far_outside_its_limits_does_not_open():
    gate = make_gate()
    gate.update_state(NAMES, [5.0, 1.0, 0.0], 1.0)
    gate.accept(make_chunk(1.0), 1.0)
    assert gate.command(1.0) is None
    assert "shoulder" in gate.reason and "limits" in gate.reason


def test_first_command_starts_at_the_measured_positions():
    gate = make_gate()
    gate.update_state(NAMES, START, 1.0)
    gate.accept(make_chunk(1.0, [2.0, -1.0, 0.0]), 1.0)
    step = gate.command(1.0).positions - START
    np.testing.assert_allclose(np.abs(step), VELOCITY * 0.04)
    assert gate.limited == 1


# --- following --------------------------------------------------------------------------------


def test_set_point_is_the_chunk_at_the_time_it_is_due():
    gate = make_gate()
    gate.update_state(NAMES, START, 0.0)
    ramp = START + np.arange(1, 9)[:, None] * np.array([0.05, 0.02, 0.001])
    gate.accept(Chunk(0.0, 0.05, NAMES, ramp), 0.0)
    for now in (0.02, 0.04, 0.06, 0.08):
        command = gate.command(now)
    # Due at 0.12 s: between point 1 (0.10 s) and point 2 (0.15 s).
    np.testing.assert_allclose(command.positions, 0.6 * ramp[1] + 0.4 * ramp[2])
    assert command.stamp == 0.0 and command.time_from_start == pytest.approx(0.12)
    assert gate.limited == 0


def test_due_time_is_always_ahead_of_now():
    gate = open_gate()
    for now in np.arange(10.0, 10.145, 0.013):
        command = gate.command(now)
        assert command.stamp + command.time_from_start == pytest.approx(now + 0.04)


def test_joint_order_does_not_matter():
    straight, mixed = make_gate(), make_gate()
    order = [2, 0, 1]
    names = [NAMES[i] for i in order]
    points = START + np.random.default_rng(0).normal(0, 0.01, (8, 3))
    straight.update_state(NAMES, START, 0.0)
    mixed.update_state(["wheel", *names], [9.0, *START[order]], 0.0)
    assert straight.accept(Chunk(0.0, 0.05, NAMES, points), 0.0) == ""
    assert mixed.accept(Chunk(0.0, 0.05, names, points[:, order]), 0.0) == ""
    for now in (0.0, 0.03, 0.1):
        np.testing.assert_array_equal(straight.command(now).positions, mixed.command(now).positions)


def test_targets_keep_the_margin_and_commands_are_copies():
    gate = make_gate(margin=[0.1, 0.1, 0.0], chunk_timeout=9.0, state_timeout=9.0)
    gate.update_state(NAMES, START, 0.0)
    gate.accept(make_chunk(0.0, [99.0, 99.0, 99.0], horizon=200), 0.0)
    for now in np.arange(0.0, 4.0, 0.02):
        command = gate.command(now)
        kept = command.positions.copy()
        command.positions[:] = np.nan
    np.testing.assert_allclose(kept, [1.9, 2.9, 0.04])


def test_changing_a_chunk_after_it_was_accepted_changes_nothing():
    gate = open_gate()
    chunk = make_chunk(10.0)
    gate.accept(chunk, 10.0)
    chunk.points[:] = np.nan
    assert np.isfinite(gate.command(10.02).positions).all()


# --- refusing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk", "word"),
    [
        (make_chunk(10.0, [math.nan, 0, 0]), "NaN"),
        (make_chunk(10.0, [math.inf, 0, 0]), "infinite"),
        (make_chunk(10.0, [0, 0], names=("shoulder", "elbow")), "finger is missing"),
        (make_chunk(10.0, [0, 0, 0, 0], names=(*NAMES, "tail")), "tail is unknown"),
        (make_chunk(10.0, [0, 0, 0, 0], names=(*NAMES, "elbow")), "elbow is given twice"),
        (make_chunk(10.0, [0, 0], names=NAMES), "shape"),
        (make_chunk(10.0, horizon=0), "shape"),
        (Chunk(10.0, 0.05, NAMES, START), "shape"),
        (make_chunk(10.0, dt=0.0), "dt"),
        (make_chunk(10.0, dt=-0.05), "dt"),
        (make_chunk(10.0, dt=math.nan), "dt"),
        (make_chunk(math.nan), "stamp"),
        (make_chunk(10.2), "future"),
        (make_chunk(9.7), "old"),
        (make_chunk(9.99), "older than the chunk in use"),
    ],
)
def test_bad_chunk_is_refused_by_name_and_changes_nothing(chunk, word):
    gate, twin = open_gate(), open_gate()
    reason = gate.accept(chunk, 10.02)
    assert word in reason
    assert (gate.rejected, gate.accepted, gate.last_rejection) == (1, 1, reason)
    np.testing.assert_array_equal(gate.command(10.02).positions, twin.command(10.02).positions)


@pytest.mark.parametrize(
    ("names", "positions", "word"),
    [
        (("shoulder", "finger"), [0, 0], "elbow is missing"),
        (NAMES, [0, 0], "3 names but 2 positions"),
        (NAMES, [0, math.nan, 0], "not finite"),
    ],
)
def test_bad_joint_states_are_refused_and_lead_to_a_hold_that_names_them(names, positions, word):
    gate = open_gate()
    assert word in gate.update_state(names, positions, 10.1)
    gate.accept(make_chunk(10.2), 10.2)
    assert gate.command(10.21).hold and word in gate.reason


def test_arm_and_finger_may_come_in_messages_of_their_own():
    gate = make_gate(tracking=0.5)
    assert gate.update_state(NAMES[:2], START[:2], 10.0, partial=True) == ""
    gate.accept(make_chunk(10.0), 10.0)
    assert gate.command(10.0) is None and "finger is missing" in gate.reason
    assert gate.update_state(["finger", "lamp"], [START[2], 9.0], 10.0, partial=True) == ""
    assert gate.command(10.0) is not None and gate.state is State.ACTIVE
    np.testing.assert_array_equal(gate.measured, START)
    assert gate.update_state(["lamp"], [9.0], 10.1, partial=True) != ""
    for now in np.arange(10.02, 10.3, 0.02):  # the finger's driver died
        assert gate.update_state(NAMES[:2], START[:2], now, partial=True) == ""
        gate.accept(make_chunk(now), now)
        command = gate.command(now)
    assert command.hold and "finger are older" in gate.reason
    assert "jumped: elbow" in gate.update_state(["elbow"], [2.9], 10.3, partial=True)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"names": ()}, "names"),
        ({"names": ("a", "a", "b")}, "twice"),
        ({"lower": [0.0, 0.0]}, "lower"),
        ({"upper": [math.nan, 1.0, 1.0]}, "upper"),
        ({"velocity": 0.0}, "velocity"),
        ({"lower": UPPER, "upper": LOWER}, "shoulder"),
        ({"margin": 1.0}, "finger"),
        ({"margin": -0.1}, "margin"),
        ({"lookahead": 0.0}, "lookahead"),
        ({"chunk_timeout": math.inf}, "chunk_timeout"),
        ({"hold_time": -1.0}, "hold_time"),
        ({"surprise_hold": -1.0}, "surprise_hold"),
        ({"surprise_slow": math.nan}, "surprise_slow"),
        ({"surprise_slow": 3.0, "surprise_hold": 2.0}, "held before it is slowed"),
        ({"slowdown": 0.0}, "slowdown"),
        ({"slowdown": 1.1}, "slowdown"),
        ({"surprise_pause": 0.0}, "surprise_pause"),
        ({"surprise_timeout": math.inf}, "surprise_timeout"),
    ],
)
def test_unsafe_configuration_is_refused_by_name(changes, word):
    fields = {"names": NAMES, "lower": LOWER, "upper": UPPER, "velocity": VELOCITY, **changes}
    with pytest.raises(ValueError, match=word):
        GateConfig(**fields)


# --- holding ----------------------------------------------------------------------------------


def run(gate: CommandGate, times, fresh_states=True):
    for now in times:
        if fresh_states:
            gate.update_state(NAMES, START, now)
        yield now, gate.command(now)


@pytest.mark.parametrize("fresh_states", [True, False])
def test_stale_input_holds_within_the_timeout_then_falls_silent(fresh_states):
    gate = open_gate()
    moments = np.arange(10.02, 11.0, 0.02)
    seen = list(run(gate, moments, fresh_states))
    first_hold = next(now for now, command in seen if command is not None and command.hold)
    assert 10.15 - 1e-6 <= first_hold <= 10.15 + 0.02 + 1e-6
    holds = [command for _, command in seen if command is not None and command.hold]
    assert 14 <= len(holds) <= 16  # 0.3 s at 50 Hz
    assert all(hold.stamp == 0.0 and 0.01 <= hold.time_from_start <= 0.04 for hold in holds)
    times = [now + c.time_from_start for now, c in seen if c is not None and c.hold]
    assert times[0] == pytest.approx(first_hold + 0.02), "due when the last command was"
    assert holds[-1].time_from_start == 0.01, "the robot is there already"
    assert seen[-1][1] is None and gate.state is State.HOLD


def test_finished_chunk_holds_its_last_command():
    gate = make_gate(chunk_timeout=5.0)
    gate.update_state(NAMES, START, 0.0)
    gate.accept(make_chunk(0.0, horizon=2), 0.0)
    last = [c for _, c in run(gate, np.arange(0.0, 0.06, 0.02)) if c is not None][-1]
    hold = gate.command(0.08)
    assert hold.hold and "finished" in gate.reason
    np.testing.assert_array_equal(hold.positions, last.positions)


def test_resumes_from_the_last_command_while_the_hold_is_sent():
    gate = open_gate(chunk_timeout=0.1)
    gate.update_state(NAMES, START - [0.3, 0, 0], 10.12)  # the robot lags behind
    held = gate.command(10.12)
    assert held.hold
    gate.accept(make_chunk(10.12, [-2.0, 1.0, 0.0]), 10.14)
    command = gate.command(10.14)
    assert not command.hold and gate.state is State.ACTIVE
    assert (np.abs(command.positions - held.positions) <= VELOCITY * 0.02 + 1e-9).all()


def test_resumes_from_the_measured_positions_after_silence():
    gate = open_gate()
    moved = START + [0.4, 0.0, 0.0]
    for now in np.arange(10.02, 12.0, 0.02):
        gate.command(now)
    gate.update_state(NAMES, moved, 12.0)
    gate.accept(make_chunk(12.0, START), 12.0)
    command = gate.command(12.0)
    assert (np.abs(command.positions - moved) <= VELOCITY * 0.04 + 1e-9).all()


def push(gate: CommandGate, start: float, by) -> float:
    """The robot is moved away from START in 0.5 s, seen at 100 Hz. Returns when it arrived."""
    for now in start + 0.01 * np.arange(1, 51):
        gate.update_state(NAMES, START + np.asarray(by) * (now - start) / 0.5, now)
    return now


def test_joint_off_its_track_is_held_where_it_is():
    gate = open_gate(tracking=[0.5, 0.5, np.inf])
    now = push(gate, 10.0, [0.0, 0.7, 0.0])
    found = START + [0.0, 0.7, 0.0]
    command = gate.command(now)
    assert command.hold and "elbow" in gate.reason
    np.testing.assert_allclose(command.positions, found)
    assert command.time_from_start >= 0.7 - 1e-6, "1 rad/s"
    assert gate.command(now + 0.02).hold and "elbow" in gate.reason  # needs a new chunk to go on
    while gate.command(now := now + 0.02) is not None:
        assert now < 11.0
    for _ in range(20):
        gate.command(now := now + 0.02)
    gate.update_state(NAMES, found, now)
    gate.accept(make_chunk(now, found), now)
    assert not gate.command(now).hold and gate.reason == ""


def test_robot_moved_away_during_a_hold_is_not_dragged_back():
    gate = open_gate(tracking=0.5, hold_time=5.0)
    for now in np.arange(10.02, 10.24, 0.02):
        gate.update_state(NAMES, START, now)
        held = gate.command(now)
    assert held.hold
    now = push(gate, now, [0.8, 0.0, 0.0])
    np.testing.assert_allclose(gate.command(now).positions, START + [0.8, 0.0, 0.0])


# --- surprise ---------------------------------------------------------------------------------

SURPRISE = {"surprise_slow": 1.0, "surprise_hold": 2.0, "slowdown": 0.25}
FAR = [2.0, 3.0, 0.04]


def drive(gate: CommandGate, start: float, end: float, surprise=None):
    """Commands at 50 Hz to a robot that follows them, and its plan is always to go FAR.

    `surprise(stamp)` is told every 0.2 s, 0.1 s after its frame. Yields time and command.
    """
    for tick in range(round((end - start) * 50)):
        now = start + tick * 0.02
        gate.update_state(NAMES, START if gate.last is None else gate.last, now)
        assert gate.accept(make_chunk(now, FAR), now) == ""
        if surprise is not None and tick % 10 == 5:
            assert gate.update_surprise(surprise(now - 0.1), now - 0.1, now) == ""
        yield now, gate.command(now)


def moving_gate(now=10.0, **changes):
    """Active for so long that surprises count, at START."""
    gate = open_gate(now=now - 0.6, **changes)
    for since in np.arange(0.58, -0.01, -0.02):
        gate.update_state(NAMES, START, now - since)
        gate.accept(make_chunk(now - since), now - since)
        assert not gate.command(now - since).hold
    return gate


def test_surprise_slows_until_it_is_over():
    gate = open_gate(**SURPRISE)
    before = START
    steps, slowed = {}, {}
    for now, command in drive(gate, 10.02, 11.5, lambda t: 1.5 if 10.35 < t < 10.75 else 0.5):
        steps[now] = (command.positions - before) / (VELOCITY * 0.02)
        before, slowed[now] = command.positions, gate.slowed
    # Told at 10.52 of 10.42, at 10.72 of 10.62, and no longer at 10.92.
    slow = [now for now, is_slow in slowed.items() if is_slow]
    assert slow == pytest.approx(np.arange(10.52, 10.91, 0.02))
    for now, step in steps.items():
        expected = 0.25 if slowed[now] else 1.0
        np.testing.assert_allclose(step[1], expected, rtol=1e-6)


def test_slowed_robot_that_is_slow_anyway_does_as_planned():
    slowed, free = moving_gate(**SURPRISE), moving_gate()
    assert slowed.update_surprise(1.5, 10.0, 10.0) == ""
    # From START, where the first command is due at 10.04, on at a fifth of the limits.
    ramp = START + (np.arange(1, 9)[:, None] * 0.05 - 0.04) * 0.2 * VELOCITY
    for gate in (slowed, free):
        assert gate.accept(Chunk(10.0, 0.05, NAMES, ramp), 10.0) == ""
    for now in np.arange(10.02, 10.14, 0.02):
        np.testing.assert_array_equal(slowed.command(now).positions, free.command(now).positions)
    assert slowed.slowed and slowed.limited == 0 and not free.slowed


def test_one_spike_holds_at_once_and_for_one_pause():
    gate = open_gate(**SURPRISE)
    held = []
    for now, command in drive(gate, 10.02, 13.0, lambda t: 2.5 if 10.35 < t < 10.55 else 0.5):
        if gate.state is State.HOLD:
            assert command is None or command.hold
            assert gate.reason.endswith("not expected: surprise 2.5 over 2") and not gate.slowed
            held.append(now)
        else:
            assert gate.state is State.ACTIVE and gate.reason == ""
    assert held == pytest.approx(np.arange(10.52, 11.51, 0.02))


def test_fault_that_lasts_pauses_again_and_again():
    gate = open_gate(**SURPRISE, surprise_pause=0.5)
    states = [(now, gate.state) for now, _ in drive(gate, 10.02, 14.0, lambda t: 9.0)]
    changes = [now for (_, before), (now, after) in pairwise(states) if before != after]
    begins, ends = changes[::2], changes[1::2]
    assert len(begins) >= 3
    for begin, end in zip(begins, ends, strict=False):
        assert end - begin == pytest.approx(0.5)
    for end, begin in zip(ends, begins[1:], strict=False):
        # A frame of 0.4 s after the pause or later, one frame is 0.2 s, and 0.1 s to tell it.
        assert 0.5 - 1e-6 <= begin - end <= 0.7 + 1e-6


def test_frames_of_a_pause_do_not_count():
    gate = moving_gate(**SURPRISE, surprise_timeout=5.0)
    gate.update_surprise(3.0, 10.01, 10.01)

    def fresh(now):
        gate.update_state(NAMES, START, now)
        gate.accept(make_chunk(now), now)
        return gate.command(now)

    assert fresh(10.02).hold
    for stamp in (10.5, 11.0, 11.4):  # in the pause, and until 0.38 s after it
        assert gate.update_surprise(3.0, stamp, stamp) == ""
        fresh(stamp + 0.025)
        assert (gate.state is State.HOLD) == (stamp < 11.0) and not gate.slowed
    gate.update_surprise(3.0, 11.43, 11.43)
    assert fresh(11.44).hold


def test_what_happened_to_a_robot_at_rest_does_not_count():
    gate = open_gate(**SURPRISE)
    for now, command in drive(gate, 10.02, 10.5, lambda t: 9.0):  # frames until 0.4 s after
        assert not command.hold and not gate.slowed, now
    for now, command in drive(gate, 10.5, 10.7, lambda t: 9.0):
        assert command.hold == (now >= 10.59), now


def test_pause_begins_only_where_the_robot_would_have_moved():
    gate = open_gate(**SURPRISE)
    gate.command(10.2)
    gate.update_surprise(3.0, 10.2, 10.2)
    assert gate.command(10.21).hold and "older" in gate.reason and not gate.slowed
    gate.update_state(NAMES, START, 10.5)
    gate.accept(make_chunk(10.5), 10.5)
    gate.update_surprise(0.5, 10.5, 10.5)
    assert not gate.command(10.5).hold


def test_surprise_of_a_world_model_that_went_silent_is_forgotten():
    gate = moving_gate(**SURPRISE)
    gate.update_surprise(1.5, 10.0, 10.0)
    for now, _ in drive(gate, 10.02, 12.0):
        assert gate.slowed == (now <= 11.0 + 1e-9)
        assert gate.surprise == (1.5 if gate.slowed else UNKNOWN)
        assert gate.state is State.ACTIVE


def test_unknown_surprise_is_no_surprise():
    gate = moving_gate(**SURPRISE)
    gate.update_surprise(1.5, 10.0, 10.0)
    assert gate.update_surprise(UNKNOWN, 10.01, 10.01) == ""
    gate.command(10.02)
    assert gate.surprise == UNKNOWN and not gate.slowed


@pytest.mark.parametrize(
    ("value", "stamp", "word"),
    [
        (math.nan, 10.02, "not finite"),
        (math.inf, 10.02, "not finite"),
        (9.0, math.nan, "not finite"),
        (-0.5, 10.02, "negative"),
        (9.0, 10.2, "future"),
        (9.0, 9.0, "older than 0.5 s"),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_bad_surprise_is_named_and_changes_nothing(value, stamp, word, known):
    gate, twin = (open_gate(**SURPRISE, surprise_timeout=0.5) for _ in range(2))
    if known:
        for each in (gate, twin):
            assert each.update_surprise(1.5, 8.9, 9.0) == ""
    assert word in gate.update_surprise(value, stamp, 10.02)
    for now in (10.02, 10.04):
        np.testing.assert_array_equal(gate.command(now).positions, twin.command(now).positions)
    assert (gate.state, gate.slowed, gate.surprise) == (twin.state, twin.slowed, twin.surprise)


def test_surprise_that_comes_after_a_newer_one_is_passed_over():
    gate = moving_gate(**SURPRISE)
    assert gate.update_surprise(0.5, 10.02, 10.03) == ""
    assert gate.update_surprise(9.0, 10.01, 10.03) == ""
    assert gate.update_surprise(9.0, 10.02, 10.03) == ""
    assert not gate.command(10.04).hold and gate.surprise == 0.5


def test_clock_that_restarts_forgets_surprise_and_pause():
    gate = moving_gate(now=100.0, **SURPRISE)
    gate.update_surprise(9.0, 100.0, 100.0)
    assert gate.command(100.01).hold
    assert gate.command(1.0) is None and gate.surprise == UNKNOWN
    gate.update_state(NAMES, START, 1.0)
    gate.accept(make_chunk(1.0), 1.0)
    assert not gate.command(1.0).hold  # and nothing counts so soon
    for now, command in drive(gate, 1.02, 2.0, lambda t: 9.0):
        assert (command is None or command.hold) == (now > 1.5)


# --- time -------------------------------------------------------------------------------------


def test_clock_that_restarts_closes():
    gate = open_gate(now=100.0)
    assert gate.command(1.0) is None
    assert gate.state is State.CLOSED and "backwards" in gate.reason
    gate.update_state(NAMES, START, 1.0)
    gate.accept(make_chunk(1.0), 1.0)
    assert gate.command(1.0) is not None


def test_joint_states_or_chunk_from_a_restarted_clock_close():
    gate = open_gate(now=100.0)
    gate.update_state(NAMES, START, 1.0)
    assert gate.state is State.CLOSED
    gate = open_gate(now=100.0)
    gate.accept(make_chunk(1.0), 1.0)
    assert gate.state is State.CLOSED


def test_small_step_back_of_the_clock_moves_nothing():
    gate = open_gate()
    gate.accept(make_chunk(10.0, [2.0, 3.0, 0.0]), 10.0)
    before = gate.command(10.03).positions
    after = gate.command(10.01).positions
    np.testing.assert_array_equal(before, after)
    assert gate.state is State.ACTIVE


def test_joint_states_from_the_future_do_not_move_the_robot():
    gate = open_gate()
    gate.update_state(NAMES, START, 11.0)
    command = gate.command(10.02)
    assert command.hold and "future" in gate.reason


# --- fuzz -------------------------------------------------------------------------------------

wild = st.floats(width=64)  # NaN, infinities and the huge included
plain = st.floats(-4.0, 4.0)
events = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.0, 0.6)),
        st.tuples(st.just("jitter"), st.floats(-0.04, 0.05)),
        st.tuples(st.just("state"), st.lists(plain, min_size=3, max_size=3)),
        st.tuples(st.just("all well"), st.lists(plain, min_size=3, max_size=3)),
        st.tuples(st.just("odd state"), st.lists(wild, max_size=4)),
        st.tuples(
            st.just("chunk"),
            st.tuples(
                st.lists(
                    st.lists(st.one_of(plain, wild), min_size=3, max_size=3), min_size=1, max_size=9
                ),
                st.floats(-0.3, 0.1),
                st.one_of(st.just(0.05), wild),
            ),
        ),
        st.tuples(st.just("restart"), st.floats(0.1, 50.0)),
        st.tuples(
            st.just("surprise"),
            st.tuples(st.one_of(st.floats(-1.0, 4.0), wild), st.floats(-1.2, 0.1)),
        ),
    ),
    max_size=60,
)


def feed(gate, kind, value, now):
    if kind in ("state", "odd state"):
        gate.update_state(NAMES, value, now)
    elif kind == "all well":
        gate.update_state(NAMES, START if gate.last is None else gate.last, now)
        gate.accept(make_chunk(now, value), now)
    elif kind == "chunk":
        points, offset, dt = value
        gate.accept(Chunk(now + offset, dt, NAMES, np.array(points)), now)
    elif kind == "surprise":
        gate.update_surprise(value[0], now + value[1], now)


@settings(max_examples=300, deadline=None)
@given(events, st.booleans())
def test_whatever_comes_in_what_goes_out_is_safe(sequence, follow):
    gate = make_gate(margin=[0.1, 0.1, 0.0], **SURPRISE)
    now, previous, previous_time, sent_hold_until = 1000.0, None, 0.0, 0.0
    for kind, value in sequence:
        before = gate.state
        if kind in ("wait", "jitter"):
            now += value
        elif kind == "restart":
            now -= value
        feed(gate, kind, value, now)
        if follow and gate.last is not None:
            gate.update_state(NAMES, gate.last, now)
        silent = gate.state is not State.ACTIVE and now > sent_hold_until
        command = gate.command(now)
        if command is None:
            continue
        position = command.positions
        assert gate.state is not State.CLOSED
        assert position.shape == (3,) and np.isfinite(position).all()
        assert (position >= LOWER).all() and (position <= UPPER).all()
        assert math.isfinite(command.time_from_start) and command.time_from_start > 0.0
        assert math.isfinite(command.stamp)
        if not command.hold:
            assert now - command.stamp <= 0.15 + 1e-9
            assert now - gate.measured_stamp <= 0.2 + 1e-9
        # The stream is one while commands keep coming; after silence it starts at the robot.
        passed = now - previous_time
        if previous is None or before is State.CLOSED or silent or passed < -0.05:
            start, allowed = np.clip(gate.measured, LOWER, UPPER), 0.04
        else:
            start, allowed = previous, min(max(passed, 0.0), 0.04)
        fastest = VELOCITY * (SURPRISE["slowdown"] if gate.slowed else 1.0)
        assert command.hold or (np.abs(position - start) <= fastest * allowed + 1e-9).all()
        assert not command.hold or (np.abs(position - start) <= VELOCITY * allowed + 1e-9).all()
        assert not (command.hold and gate.slowed)
        previous, previous_time = position, max(now, previous_time if passed > -0.05 else now)
        if command.hold:
            sent_hold_until = gate._hold_since + gate.config.hold_time
        else:
            sent_hold_until = math.inf


@settings(max_examples=200, deadline=None)
@given(events)
def test_without_thresholds_surprise_changes_nothing(sequence):
    told, untold = make_gate(), make_gate()
    now = 1000.0
    for kind, value in sequence:
        if kind in ("wait", "jitter"):
            now += value
        elif kind == "restart":
            now -= value
        feed(told, kind, value, now)
        if kind != "surprise":
            feed(untold, kind, value, now)
        one, other = told.command(now), untold.command(now)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one.positions, other.positions)
            assert one.time_from_start == other.time_from_start and one.hold == other.hold
        assert (told.state, told.reason, told.limited) == (
            untold.state,
            untold.reason,
            untold.limited,
        )


def test_command_is_cheap():
    gate = make_gate(chunk_timeout=100.0, state_timeout=100.0)
    gate.update_state(NAMES, START, 0.0)
    gate.accept(make_chunk(0.0, horizon=2000), 0.0)
    begin = time.thread_time()
    for tick in range(1000):
        gate.command(tick * 0.02)
    # About 15 us of the processor's time; the bound leaves room for slower ones.
    assert (time.thread_time() - begin) / 1000 < 500e-6
