"""No command asks for more than the velocity limits, in whatever state the gate is."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from vla_ros.safety.gate import Chunk, Command, CommandGate, GateConfig, State

NAMES = ("shoulder", "elbow", "finger")
LOWER = np.array([-2.0, -1.0, 0.0])
UPPER = np.array([2.0, 3.0, 0.04])
VELOCITY = np.array([2.0, 1.0, 0.1])
TRACKING = np.array([0.5, 0.5, 1.0])  # the finger may rest anywhere: it grips
START = np.array([0.5, 1.0, 0.02])


@dataclass
class Controller:
    """What a joint trajectory controller does. One whose clock stepped back is at its start."""

    target: np.ndarray
    start: np.ndarray | None = None
    begin: float = 0.0
    due: float = 0.0

    def at(self, time: float) -> np.ndarray:
        if self.start is None or time >= self.due:
            return self.target
        share = max((time - self.begin) / (self.due - self.begin), 0.0)
        return self.start + share * (self.target - self.start)

    def accept(self, command: Command, now: float, time: float) -> np.ndarray:
        """Take a command that the gate gave at `now`, its clock. Returns the speed [D] it asks."""
        duration = command.stamp + command.time_from_start - (0.0 if command.hold else now)
        assert duration > 0.0
        start = self.at(time)
        self.start, self.begin, self.due = start, time, time + duration
        self.target = command.positions
        return np.abs(command.positions - start) / duration


def make_gate(**changes) -> CommandGate:
    return CommandGate(GateConfig(NAMES, LOWER, UPPER, VELOCITY, tracking=TRACKING, **changes))


@dataclass
class Cell:
    """A gate, its controller and a robot that follows well; `now` moves in ticks of 20 ms."""

    gate: CommandGate = field(default_factory=make_gate)
    measured: np.ndarray = field(default_factory=START.copy)
    now: float = 10.0

    def __post_init__(self):
        self.controller = Controller(self.measured.copy())
        self.commands = []

    def tick(self, goal=None, states=True, follow=True) -> Command | None:
        """One period: joint states and a chunk that stays at `goal`, where there are any."""
        self.now += 0.02
        if follow:
            self.measured = self.controller.at(self.now)
        if states:
            self.gate.update_state(NAMES, self.measured, self.now)
        if goal is not None:
            points = np.tile(np.asarray(goal, dtype=float), (8, 1))
            self.gate.accept(Chunk(self.now, 0.05, NAMES, points), self.now)
        command = self.gate.command(self.now)
        if command is not None:
            speed = self.controller.accept(command, self.now, self.now)
            assert (speed <= VELOCITY * (1 + 1e-6)).all()
            self.commands.append(command)
        return command


def moving_cell(**changes) -> Cell:
    """Shoulder and elbow at full speed."""
    cell = Cell(make_gate(**changes))
    for _ in range(15):
        cell.tick([2.0, 3.0, 0.02])
    assert cell.gate.state is State.ACTIVE
    return cell


# --- joint states that jump -------------------------------------------------------------------


def test_one_glitch_is_not_believed_and_holds_for_a_moment():
    cell = moving_cell()
    last = cell.commands[-1].positions
    assert "jumped" in cell.gate.update_state(NAMES, UPPER, cell.now + 0.01)
    held = cell.tick([2.0, 3.0, 0.02])
    assert held.hold and "joint states jumped" in cell.gate.reason
    np.testing.assert_array_equal(held.positions, last)
    ticks = 0
    while cell.tick([2.0, 3.0, 0.02]).hold:
        ticks += 1
    assert ticks * 0.02 == pytest.approx(0.2, abs=0.03)


def test_false_joint_states_beside_the_driver_do_not_move_the_robot():
    cell = moving_cell()
    place = cell.commands[-1].positions
    false = np.array([-1.5, 2.9, 0.0])
    for _ in range(50):
        for share in (0.2, 0.4, 0.6, 0.8):
            cell.gate.update_state(NAMES, false, cell.now + 0.02 * share)
        command = cell.tick([2.0, 3.0, 0.02])
        assert command is None or (command.hold and (command.positions == place).all())


def test_robot_that_was_set_elsewhere_is_believed_when_it_stays_there():
    cell = Cell()
    for _ in range(5):
        cell.tick(START)
    cell.measured = np.array([-1.0, 2.0, 0.02])
    refused = 0
    while (cell.tick(cell.measured, follow=False).positions == START).all():
        assert cell.commands[-1].hold
        refused += 1
    assert refused * 0.02 == pytest.approx(0.2, abs=0.03)
    assert "off its command" in cell.gate.reason
    np.testing.assert_array_equal(cell.commands[-1].positions, cell.measured)
    for _ in range(60):  # 1.5 rad at 2 rad/s
        cell.tick(cell.measured, follow=False)
    assert cell.gate.state is State.ACTIVE


def test_simulation_that_begins_anew_with_the_robot_elsewhere_moves_on_soon():
    cell = moving_cell()
    cell.now = 1.0
    cell.measured = cell.measured - [0.3, 0.0, 0.0]  # 0.15 s of the fastest motion
    began = cell.now
    cell.tick(START, follow=False)
    assert cell.gate.state is State.CLOSED
    while cell.gate.state is not State.ACTIVE:
        cell.tick(START, follow=False)
    assert cell.now - began < 0.2 + 0.15 + 0.05, "believed, and its controller is there"


def test_joint_pushed_off_its_track_is_held_where_it_is_without_a_jump():
    cell = Cell()
    cell.tick(START)
    while cell.gate.state is not State.HOLD:
        cell.measured = cell.measured + [0.0, 0.03, 0.0]  # 1.5 rad/s
        command = cell.tick(START, follow=False)
    assert "elbow" in cell.gate.reason and command.hold
    np.testing.assert_array_equal(command.positions, cell.measured)
    assert command.time_from_start >= (command.positions - START)[1] / VELOCITY[1] - 1e-6
    for _ in range(40):  # a new chunk, and the robot follows again
        cell.tick(cell.measured, follow=False)
    assert cell.gate.state is State.ACTIVE


# --- a controller that did not follow -----------------------------------------------------------


def test_hold_gives_a_robot_that_did_not_follow_the_time_it_needs():
    cell = moving_cell()
    behind = cell.commands[-1].positions - [0.3, 0.2, 0.0]
    cell.gate.measured = behind
    for _ in range(20):
        cell.now += 0.02
        command = cell.gate.command(cell.now)
        if command is not None and command.hold:
            speed = np.abs(command.positions - behind) / command.time_from_start
            assert (speed <= VELOCITY * (1 + 1e-6)).all()
    assert cell.gate.state is State.HOLD


def test_last_command_before_the_gate_closes_keeps_the_limits_too():
    cell = moving_cell()
    cell.gate.measured = cell.commands[-1].positions - [0.3, 0.2, 0.0]
    last = cell.gate.stop("deactivated", cell.now)
    assert last.hold and last.time_from_start >= 0.2 - 1e-6
    assert cell.gate.state is State.CLOSED and cell.gate.reason.startswith("deactivated")
    assert cell.gate.stop("deactivated", cell.now) is None, "a closed gate has nothing to send"


# --- a gripper that holds something -------------------------------------------------------------


def gripping_cell() -> Cell:
    """The finger is told to close and stands at 0.02 m: there is something between."""
    cell = Cell(measured=np.array([0.5, 1.0, 0.02]))
    for _ in range(20):
        cell.tick([0.5, 1.0, 0.0], follow=False)
    assert cell.commands[-1].positions[2] == 0.0 and cell.gate.state is State.ACTIVE
    return cell


@pytest.mark.parametrize("why", ["stale", "jump", "interlock", "off track"])
def test_hold_while_gripping_keeps_the_gripper_closed(why):
    cell = gripping_cell()
    if why == "interlock":
        cell.gate.interlock("another gate")
    for _ in range(12):
        if why == "jump":
            cell.gate.update_state(NAMES, UPPER, cell.now + 0.01)
        if why == "off track":
            cell.measured = cell.measured + [0.05, 0.0, 0.0]
        command = cell.tick(None if why == "stale" else [0.5, 1.0, 0.0], follow=False)
        assert command.positions[2] == 0.0
    assert cell.gate.state is State.HOLD


def test_restart_after_silence_while_gripping_keeps_the_gripper_closed():
    cell = gripping_cell()
    while cell.tick(follow=False) is not None:
        pass
    for _ in range(10):
        assert cell.tick([0.5, 1.0, 0.0], follow=False).positions[2] == 0.0
    assert cell.gate.state is State.ACTIVE


def test_joint_states_without_names_are_not_guessed_and_the_cure_is_told():
    gate = make_gate()
    gate.update_state((), START, 10.0, partial=True)
    assert gate.command(10.0) is None and "let the driver name them" in gate.reason


# --- clocks ---------------------------------------------------------------------------------------


STEPS = [-50.0, -0.2, -0.04, -0.01, 0.01, 0.06, 0.12, 0.3, 50.0]


def follow_after(cell: Cell, step: float, steady: bool) -> None:
    """Turn back at once when the clock steps, and a second time later.

    `steady`: the controller has a clock of its own, and the gate a second one.
    """
    controller, time = cell.controller, cell.now
    cell.measured = cell.measured.copy()
    for tick in range(160):
        cell.now, time = cell.now + 0.02 + step * (tick in (0, 80)), time + 0.02
        time = time if steady else cell.now
        cell.measured += 0.2 * (controller.at(time) - cell.measured)
        cell.gate.update_state(NAMES, cell.measured, cell.now)
        goal = [-2.0, -1.0, 0.02] if tick < 60 else [2.0, 3.0, 0.02]
        cell.gate.accept(Chunk(cell.now, 0.05, NAMES, np.tile(goal, (8, 1))), cell.now)
        command = cell.gate.command(cell.now, time if steady else None)
        if command is not None:
            assert (controller.accept(command, cell.now, time) <= VELOCITY * (1 + 1e-6)).all()
    assert cell.gate.state is State.ACTIVE


@pytest.mark.parametrize("step", STEPS)
def test_clock_that_steps_while_the_robot_moves_breaks_no_limit(step):
    follow_after(moving_cell(), step, steady=True)


@pytest.mark.parametrize("step", STEPS)
def test_clock_that_steps_for_gate_and_controller_breaks_no_limit(step):
    follow_after(moving_cell(), step, steady=False)


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -math.inf])
def test_time_that_is_not_finite_holds_and_is_never_trusted(absurd):
    gate = make_gate()
    assert gate.command(absurd) is None and "clock" in gate.reason
    cell = moving_cell()
    gate, last = cell.gate, cell.commands[-1].positions
    assert "clock" in gate.accept(Chunk(-5.0, 0.05, NAMES, START[None]), absurd)
    assert gate.update_surprise(1.0, 10.0, absurd)
    for _ in range(3):
        command = gate.command(absurd)
        assert command.hold and math.isfinite(command.time_from_start) and "clock" in gate.reason
        np.testing.assert_array_equal(command.positions, last)
    cell.tick([2.0, 3.0, 0.02])
    assert gate.state is State.ACTIVE, "and the next good time is good"


def test_time_that_passes_while_it_is_not_finite_is_not_known_and_breaks_no_limit():
    cell = moving_cell()
    for goal in [[-2.0, -1.0, 0.02]] * 4 + [[2.0, 3.0, 0.02]] * 4:
        cell.now += 0.02
        command = cell.gate.command(math.nan)
        speed = cell.controller.accept(command, cell.now, cell.now)
        assert (speed <= VELOCITY * (1 + 1e-6)).all()
        for _ in range(3):
            cell.tick(goal)


# --- reasons from outside -------------------------------------------------------------------------


def test_interlock_keeps_the_gate_closed_and_stops_a_moving_robot():
    cell = Cell()
    cell.gate.interlock("someone else commands")
    assert cell.tick(START) is None and cell.gate.reason == "someone else commands"
    cell.gate.interlock("")
    cell.tick(START)
    assert cell.gate.state is State.ACTIVE
    cell.gate.interlock("someone else commands")
    commands = [cell.tick(START) for _ in range(30)]
    assert commands[0].hold and commands[-1] is None and cell.gate.state is State.HOLD


# --- whatever comes -------------------------------------------------------------------------------


def random_config(rng: np.random.Generator) -> GateConfig:
    joints = int(rng.integers(1, 9))
    lower = rng.uniform(-3.0, 0.0, joints)
    span = rng.choice([0.02, 1.0, 6.0], joints)
    velocity = rng.choice([0.05, 0.5, 3.0], joints)
    return GateConfig(
        [f"joint{i}" for i in range(joints)],
        lower,
        lower + span,
        velocity,
        margin=rng.choice([0.0, 0.2]) * span,
        tracking=rng.choice([0.1, 0.5, 10.0, math.inf], joints),
        lookahead=rng.choice([0.03, 0.04, 0.1]),
        hold_time=rng.choice([0.0, 0.1, 0.3]),
        surprise_slow=1.0,
        surprise_hold=3.0,
        slowdown=0.3,
    )


class Adversary:
    """Feeds one gate what a bad day brings, and follows its commands as controllers do."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.config = config = random_config(rng)
        self.gate = CommandGate(config)
        self.now = float(rng.choice([0.0, 100.0, 1.7e9]))  # the gate's clock
        self.time = 0.0  # the controller's
        self.robot = rng.uniform(config.lower, config.upper)
        self.controller = Controller(self.robot.copy())
        self.told = False
        self.log = []

    def step(self) -> None:
        kind = self.rng.choice(
            ["state", "chunk", "well", "glitch", "push", "stuck", "clock", "late", "odd", "other"],
            p=[0.1, 0.1, 0.6, 0.04, 0.03, 0.03, 0.03, 0.03, 0.03, 0.01],
        )
        self.log.append(str(kind))
        getattr(self, kind)()
        passed = float(self.rng.choice([0.0, 0.005, 0.02, 0.02, 0.02, 0.03]))
        self.now, self.time = self.now + passed, self.time + passed
        self.check(self.gate.command(self.now))

    def state(self) -> None:
        self.gate.update_state(self.config.names, self.robot, self.now - self.rng.choice([0, 0.03]))

    def chunk(self) -> None:
        config, rng = self.config, self.rng
        goal = rng.uniform(config.lower - 0.5, config.upper + 0.5)
        points = np.tile(goal, (int(rng.integers(1, 9)), 1))
        stamp = self.now - rng.choice([0.0, 0.05, 0.2, -0.04])
        self.gate.accept(Chunk(stamp, 0.05, config.names, points), self.now)

    def well(self) -> None:
        self.robot = self.controller.at(self.time)
        self.state()
        self.chunk()

    def glitch(self) -> None:
        for _ in range(int(self.rng.integers(1, 30))):
            false = self.rng.uniform(self.config.lower, self.config.upper)
            self.gate.update_state(self.config.names, false, self.now)

    def push(self) -> None:
        self.robot = self.rng.uniform(self.config.lower - 0.1, self.config.upper + 0.1)
        for _ in range(int(self.rng.integers(1, 20))):
            self.now, self.time = self.now + 0.02, self.time + 0.02
            self.state()

    def stuck(self) -> None:
        for _ in range(int(self.rng.integers(1, 20))):
            self.now, self.time = self.now + 0.02, self.time + 0.02
            self.state()
            self.chunk()
            self.check(self.gate.command(self.now))

    def clock(self) -> None:
        self.now += float(self.rng.choice([-20.0, -0.3, -0.03, 0.3, 20.0]))

    def late(self) -> None:
        passed = self.rng.uniform(0.05, 1.0)
        self.now, self.time = self.now + passed, self.time + passed

    def odd(self) -> None:
        bad = float(self.rng.choice([math.nan, math.inf, 1e308]))
        with np.errstate(over="ignore"):
            self.gate.update_state(self.config.names, self.robot * bad, self.now)
            stamp = float(self.rng.choice([1e308, -1e308, bad, self.now + 0.2, -5.0]))
            self.gate.update_state(self.config.names, self.robot, stamp)
        self.gate.accept(Chunk(bad, 0.05, self.config.names, self.robot[None]), self.now)
        self.gate.update_surprise(float(self.rng.choice([1.5, 4.0])), self.now - 0.01, self.now)
        if not math.isfinite(bad):
            self.check(self.gate.command(bad))

    def other(self) -> None:
        self.gate.interlock(str(self.rng.choice(["", "another"])))
        if self.rng.random() < 0.3:
            self.check(self.gate.stop("deactivated", self.now))

    def check(self, command: Command | None) -> None:
        if command is None:
            return
        config, what = self.config, " ".join(self.log[-12:])
        position = command.positions
        assert np.isfinite(position).all(), what
        assert (position >= config.lower).all() and (position <= config.upper).all(), what
        if not self.told:  # where the controller is before the first command is not known
            self.controller = Controller(self.gate.measured.clip(config.lower, config.upper))
            self.told = True
        speed = self.controller.accept(command, self.now, self.time)
        # Of float seconds since 1970 a millionth of a second is left.
        slack = 1e-9 + config.velocity * 3e-6 / command.time_from_start * (self.now > 1e9)
        assert (speed <= config.velocity * (1 + 1e-4) + slack).all(), what
        measured = self.gate.measured
        possible = measured is not None and (measured >= config.lower).all()
        if command.hold and possible and (measured <= config.upper).all():
            speed = np.abs(position - measured) / command.time_from_start
            assert (speed <= config.velocity * (1 + 1e-6)).all(), what


@pytest.mark.filterwarnings("error")
def test_no_sequence_of_events_breaks_a_velocity_limit():
    seen = dict.fromkeys(State, 0)
    for seed in range(60):
        adversary = Adversary(seed)
        for _ in range(80):
            adversary.step()
            seen[adversary.gate.state] += 1
    assert min(seen.values()) > 100, "every state is met"
