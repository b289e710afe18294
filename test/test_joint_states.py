"""Joint states that come in parts, out of order, from two clocks or two robots: one rule."""

from types import SimpleNamespace

import numpy as np
import pytest

from vla_ros.joint_states import (
    CLOCK_RESTART,
    SECOND,
    History,
    JointHistory,
    MissingJoints,
    contradiction,
    read_positions,
)

MS = SECOND // 1000


def state(**positions: float) -> SimpleNamespace:
    return SimpleNamespace(name=list(positions), position=list(positions.values()))


def nameless(*positions: float) -> SimpleNamespace:
    return SimpleNamespace(name=[], position=list(positions))


def history(*said, topics=("joint_states",)) -> JointHistory:
    """Of (ms, message) or (ms, message, topic)."""
    made = JointHistory(topics)
    for at, message, *topic in said:
        made.add(topic[0] if topic else topics[0], at * MS, message)
    return made


def at(made: JointHistory, names: str, ms: int, timeout: int = 200) -> list[float]:
    return made.positions(list(names), ms * MS, timeout * MS).tolist()


def test_what_comes_late_is_put_in_its_place_and_a_clock_that_restarts_forgets():
    rng = np.random.default_rng(0)
    stamps = np.arange(0, SECOND, 10 * MS)
    late = stamps + rng.integers(0, 40 * MS, len(stamps))  # as they come
    found: History[int] = History(3 * SECOND)
    for stamp in stamps[np.argsort(late)].tolist():
        assert not found.add(stamp, stamp)
    assert [stamp for stamp, _ in found.back_from(2 * SECOND)] == stamps[::-1].tolist()
    assert next(found.back_from(99 * MS)) == (90 * MS, 90 * MS)
    newest = int(stamps[-1])
    assert not found.add(newest - CLOCK_RESTART, 0)
    assert found.add(newest - CLOCK_RESTART - 1, 0) and len(found) == 1
    for stamp in range(0, 20 * SECOND, SECOND):
        found.add(stamp, 0)
    assert len(found) == 4, "no more than it has to remember"


def test_arm_and_gripper_in_messages_of_their_own_are_one_state():
    for topics, where in ((("joint_states",), "joint_states"), (("joint_states", "hand"), "hand")):
        made = history(
            (0, state(g=0.1), where),
            *((k, state(b=k, a=-k)) for k in range(10, 60, 10)),
            (33, state(g=0.2), where),
            topics=topics,
        )
        assert at(made, "abg", 30) == [-30, 30, 0.1]
        assert at(made, "abg", 33) == [-30, 30, 0.2]
        assert at(made, "gab", 50, timeout=20) == [0.2, -50, 50]
        with pytest.raises(MissingJoints, match=f"^without (g on )?{where} of the last 0.01 s$"):
            at(made, "abg", 50, timeout=10)
        with pytest.raises(MissingJoints, match="lacks z: it has .*b, a"):
            at(made, "abz", 50)
    with pytest.raises(MissingJoints, match="no joint states of the 0.2 s before the image on arm"):
        at(JointHistory(["arm", "hand"]), "ab", 50)


def test_a_joint_of_two_topics_is_refused():
    made = history((0, state(a=1.0)), (0, state(a=2.0), "hand"), topics=("joint_states", "hand"))
    with pytest.raises(ValueError, match="joint_states and hand both tell of a: leave one"):
        at(made, "a", 0)


def test_a_joint_twice_in_a_message_is_refused_by_name():
    twice = SimpleNamespace(name=["a", "b", "a"], position=[0.5, 0.0, -0.5])
    with pytest.raises(ValueError, match="names a twice in one message"):
        read_positions(twice, ["a", "b"])
    assert read_positions(twice, ["b"]) == {"b": 0.0}, "the others are not asked about"
    with pytest.raises(ValueError, match="names a twice"):
        at(history((0, twice)), "ab", 0)


def test_what_is_not_asked_about_may_be_anything():
    message = SimpleNamespace(name=["wheel", "b", "a"], position=[np.nan, 1.0, 2.0])
    assert read_positions(message, ["a", "b"]) == {"a": 2.0, "b": 1.0}
    assert read_positions(SimpleNamespace(name=["wheel"], position=[]), ["a"]) == {}
    with pytest.raises(ValueError, match="names 2 joints but has 0 positions"):
        read_positions(SimpleNamespace(name=["a", "b"], position=[]), ["a"])
    with pytest.raises(ValueError, match="NaN or infinity for b"):
        read_positions(state(a=0.0, b=np.inf), ["a", "b"])


def test_drivers_without_names_are_read_by_place():
    made = history((0, nameless(1.0, 2.0)))
    assert at(made, "ab", 0) == [1.0, 2.0] and made.nameless == {"joint_states"}
    with pytest.raises(ValueError, match="names no joints and holds 2 positions, but 3 are wanted"):
        at(made, "abc", 0)


def test_messages_that_come_late_are_waited_for_as_long_as_they_usually_are():
    steady = history(*((k, state(a=k)) for k in range(0, 100, 10)))
    assert steady.complete == steady.newest == 90 * MS
    swapped = history(*((k, state(a=k)) for k in (10, 0, 30, 20, 50, 40)))
    assert swapped.newest == 50 * MS and 39.9 * MS < swapped.complete < 40 * MS
    second = history(*((k, state(a=k)) for k in (100, 0, 200, 100)))
    assert second.complete == 200 * MS, "a driver that is far behind is not"
    assert JointHistory().complete is None


def train(rate: float, position, begin: float = 0.0, length: float = 3.0):
    """(ms, message) of a driver."""
    for t in np.arange(begin, length, 1 / rate):
        yield round(1000 * t), state(**position(t))


def honest(t: float) -> dict[str, float]:
    return {"a": 0.3 * np.sin(2 * t), "b": 0.4, "g": 0.04 * (t > 1)}


@pytest.mark.parametrize(
    ("rate", "other"),
    [
        (100, lambda t: {"a": 0.0, "b": 0.0, "g": 0.0}),
        (10, lambda t: {"a": 0.0, "b": 0.0, "g": 0.0}),
        (100, lambda t: {"a": 0.3 * np.sin(2 * t) + 0.2, "b": 0.4, "g": 0.0}),
        (20, lambda t: {"a": -1.0, "b": 0.4, "g": 0.0}),
    ],
)
def test_two_robots_on_one_topic_are_noticed(rate, other):
    both = sorted([*train(100, honest), *train(rate, other, begin=0.0031)], key=lambda m: m[0])
    made = history(*both)
    with pytest.raises(ValueError, match="joint_states contradicts itself.*Two publishers"):
        at(made, "abg", 2990)
    made = history(*both, *((k, state(**honest(k / 1000))) for k in range(3000, 8000, 10)))
    assert at(made, "b", 7990) == [0.4], "the second one has gone"


def test_zeros_between_messages_that_are_far_apart_are_noticed():
    said = [p for i in range(8) for p in ({"a": 0.1 * i, "b": 0.0}, {"a": 0.0, "b": 0.0})]
    assert "0 for every joint" in contradiction(said, ["a", "b"])
    reset = [{"a": 0.1 * i, "b": 0.05 * i} for i in range(10)]
    assert contradiction(5 * reset, ["a", "b"]) == "", (
        "a robot that begins anew, and goes on from 0"
    )


def test_a_driver_that_jitters_or_has_coarse_encoders_contradicts_nothing():
    rng = np.random.default_rng(1)
    names = ["a", "b", "g"]
    ticks = 2 * np.pi / 4096
    coarse = [
        {
            "a": np.round((0.3 * np.sin(t) + rng.normal(0, ticks)) / ticks) * ticks,
            "b": 0.0,
            "g": 0.0,
        }
        for t in np.arange(0, 3, 0.01)
    ]
    degrees = [{"a": 10 + 0.088 * rng.integers(0, 2), "b": 0.0, "g": 0.0} for _ in range(300)]
    clicking = [{"a": 0.01 * i, "b": 0.0, "g": float(i % 2)} for i in range(300)]
    wild = [dict(zip("abg", row, strict=True)) for row in rng.normal(size=(300, 3)).tolist()]
    resting = [{"a": 0.0, "b": ticks * rng.integers(0, 2), "g": 0.0} for _ in range(300)]
    for said in (coarse, degrees, clicking, wild, resting, [*map(honest, np.arange(0, 3, 0.1))]):
        assert contradiction(said, names) == ""


def test_a_sender_without_end_does_not_fill_the_memory():
    made = JointHistory()
    for k in range(20_000):
        made.add("joint_states", 0, state(a=float(k)))  # a driver without a clock
    assert at(made, "a", 0) == [19_999.0]
    assert len(made._histories["joint_states"]) <= 10_000
    for k in range(1, 5_000):
        made.add("joint_states", k, state(a=float(k), **{f"x{k}": 0.0}))
    assert at(made, "a", 1) == [4_999.0] and len(made._known["joint_states"]) <= 1_003
    made.add("joint_states", 10_000, state(**{"a": 7.0, "x" * 10_000_000: 0.0}))
    assert at(made, "a", 1) == [4_999.0], "of no robot"


@pytest.mark.parametrize("every", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("other", [{"a": 0.0, "b": 0.0}, {"a": 1.2, "b": -1.0}])
@pytest.mark.parametrize("parts", [False, True])
def test_a_second_publisher_is_noticed_at_any_rate(every, other, parts):
    said = []
    for i in range(250):
        there = {"a": 0.5 + 0.3 * np.sin(i / 40), "b": 0.7 + 0.1 * np.cos(i / 40)}
        said += [{"a": there["a"]}, {"b": there["b"]}] if parts else [there]
        if i % every == every // 2:
            said.append(other)
    assert contradiction(said, ["a", "b"])
    assert contradiction([one for one in said if one is not other], ["a", "b"]) == ""


def test_a_gripper_that_snaps_contradicts_nothing():
    closing = np.isin(np.arange(300) % 90, (40,))
    said = [
        {"arm": float(np.sin(i / 50)), "gripper": 0.01 if closed else 0.08 + 1e-4 * (i % 9)}
        for i, closed in enumerate(closing)
    ]
    assert contradiction(said, ["arm", "gripper"]) == ""
