"""The running stack as it ships: what the narrator sees decides what the policy is told."""

import pytest
from probe import wait_for

from vla_ros.action import FollowInstruction
from vla_ros.live import running
from vla_ros.ros import scene_look

pytestmark = pytest.mark.timeout(240)
RELATION, SEQUENCE, PATIENCE = ("relation", 2), ("two-step", 8), 120.0


@pytest.fixture(scope="module")
def arm():
    """One stack for all: starting it takes longest. It has time enough on a busy machine, too."""
    with pytest.MonkeyPatch.context() as patch, running("arm", realtime_factor=0.5) as arm:
        patch.setattr(scene_look, "PATIENCE", 60.0)
        wait_for(lambda: not arm.stack.still_starting)
        yield arm


@pytest.mark.parametrize(
    ("family", "seed", "said"),
    [
        ("absent", 1, "I see a green cube, a blue cylinder and a purple cylinder, no green tin"),
        ("ambiguous", 1, "'the cube' may be the blue cube or the purple cube: say which"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_is_there_and_nothing_moves(
    arm, family, seed, said
):
    report = arm.play(family, seed)
    assert report.success, report
    assert report.refusal == said and report.steps == 0 and report.told == ()
    assert report.outcomes == (said,)


def test_a_thing_is_found_by_where_it_is(arm):
    report = arm.play(*RELATION)
    assert report.instruction == "move the gripper over the block nearest to the bowl"
    assert report.told == ("move the gripper over the blue cube",)
    assert report.success, report


def test_a_sequence_tells_how_far_it_is_and_what_came_of_each_subtask(arm):
    task = arm.lay_out(*SEQUENCE)
    feedback, goal = [], FollowInstruction.Goal(instruction=task.instruction, time_limit=60.0)
    result = arm.follow(goal, feedback.append)
    wait_for(result.done, PATIENCE)
    ended = result.result().result
    assert (ended.success, list(ended.outcomes)) == (True, ["fulfilled", "fulfilled"]), ended
    assert list(ended.subtasks) == [
        "reach for the blue cylinder",
        "place the block nearest to the bowl on the yellow pad",
    ]
    told = dict.fromkeys((f.feedback.subtask, f.feedback.subtask_text) for f in feedback)
    assert list(told) == [
        (0, "reach for the blue cylinder"),
        (1, "place the purple cube on the yellow pad"),
    ]
    assert ended.steps >= max(f.feedback.step for f in feedback)
