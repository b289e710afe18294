"""What the policy refuses, and which joint states it puts beside an image."""

import json
import shutil

import numpy as np
import pytest
import rclpy
from probe import nodes_of, wait_for
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Header, String

from vla_ros.msg import Narration
from vla_ros.nodes.action_policy import ActionPolicyNode
from vla_ros.robots import panda
from vla_ros.robots.returning import Return
from vla_ros.ros.lifecycle import FAILURE
from vla_ros.ros.messages import joint_state_message, to_time, tokens_message
from vla_ros.scene_language.scenes import Scene, to_tokens
from vla_ros.srv import Ask

INSTRUCTION = "reach for the red cube"


@pytest.fixture
def make():
    with nodes_of(ActionPolicyNode) as make:
        yield make


@pytest.fixture
def policy(make, checkpoint):
    """Active, and keeping the chunks that it publishes in `published`."""
    node = make(checkpoint)
    assert node.bring_up() == ""
    node.published = []
    node._publisher.publish = node.published.append
    return node


def put_joints(node, *stamps):
    for stamp in stamps:
        header = Header(stamp=to_time(stamp))
        node._on_joint_states(joint_state_message(panda.JOINT_NAMES, panda.HOME, header))


def put_moving(node, *stamps):
    """Joint states of which the first joint is where the clock is."""
    for stamp in stamps:
        measured = np.append(stamp, panda.HOME[1:])
        header = Header(stamp=to_time(stamp))
        node._on_joint_states(joint_state_message(panda.JOINT_NAMES, measured, header))


def positions(node, stamp):
    """Where the first joint is taken to be at `stamp`."""
    return node._history.joint_positions(panda.JOINT_NAMES, to_time(stamp))[0]


def tokens(node, stamp, encoder_id=None):
    values = np.zeros(node._model.grid, np.float16)
    return tokens_message(
        values,
        Header(stamp=to_time(stamp)),
        encoder_id or node._encoder_id,
        node._model.config.cameras,
        0.25,
    )


def test_a_policy_without_instructions_is_started_by_any_and_stopped_by_none(
    make, checkpoint, tmp_path
):
    folder = shutil.copytree(checkpoint, tmp_path / "silent")
    config = json.loads((folder / "config.json").read_text())
    config["language_conditioned"] = False
    (folder / "config.json").write_text(json.dumps(config))
    node = make(folder)
    assert node.bring_up() == ""
    assert node._following is None, "it waits for a start"
    node._on_instruction(String(data="mach das"))
    assert node._following.episode.instruction == "mach das"
    node._on_instruction(String(data=" "))
    assert node._following is None


@pytest.mark.parametrize(
    ("setting", "value", "word"),
    [
        ("control_mode", "twist", "control_mode: the checkpoint has twist"),
        ("joint_names", list("abcdefgh"), "joint_names: the checkpoint has a, b"),
    ],
)
def test_checkpoint_of_another_robot_does_not_configure(
    make, checkpoint, tmp_path, setting, value, word
):
    folder = shutil.copytree(checkpoint, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config["action"][setting] = value
    (folder / "config.json").write_text(json.dumps(config))
    node = make(folder)
    assert node.trigger_configure() == FAILURE
    assert word in node.failure and "choose" in node.failure
    assert node.state == "unconfigured"


def test_tokens_of_another_encoder_end_the_instruction_with_the_reason(policy):
    following = policy._follow(INSTRUCTION)
    put_joints(policy, 10.0)
    policy._on_tokens(tokens(policy, 10.0, encoder_id="other"))
    success, reason = following.ended.result()
    assert not success and "encoder other" in reason and "one checkpoint" in reason
    assert not policy.published


def test_image_is_seen_with_the_joints_at_its_time_never_later_ones(policy):
    put_moving(policy, 9.98, 9.99, 10.0, 10.01, 10.02)
    assert positions(policy, 10.0) == positions(policy, 10.005) == pytest.approx(10.0)
    with pytest.raises(ValueError, match="joint_states"):
        positions(policy, 9.9)  # all of them lie in its future
    with pytest.raises(ValueError, match="joint_states"):
        positions(policy, 10.5)  # all of them are too old


def test_an_image_that_came_before_its_joints_waits_for_them_and_yields_to_a_newer_one(policy):
    policy._follow(INSTRUCTION)
    put_joints(policy, 9.99)
    policy._on_tokens(tokens(policy, 10.0))
    policy._on_tokens(tokens(policy, 10.05))
    put_joints(policy, 10.04)
    assert not policy.published
    put_joints(policy, 10.05, 10.06)
    (chunk,) = policy.published
    assert chunk.header.stamp == to_time(10.05)


def test_clock_that_restarts_forgets_the_joints_of_before(policy):
    put_moving(policy, 100.0, 1.0)
    assert positions(policy, 1.0) == 1.0
    with pytest.raises(ValueError, match="joint_states"):
        positions(policy, 100.0)


def test_joint_states_out_of_order_are_ordered_and_waited_for(policy):
    """As of two drivers, or of one that is busy: the stamps step back by milliseconds."""
    policy._follow(INSTRUCTION)
    for stamp in np.arange(10.0, 10.5, 0.02):
        put_moving(policy, stamp + 0.01, stamp)  # swapped in pairs
        assert positions(policy, stamp + 0.005) == pytest.approx(stamp)
    policy._on_tokens(tokens(policy, 10.505))
    put_moving(policy, 10.51)
    assert not policy.published, "the one before it is known to come after it"
    put_moving(policy, 10.5, 10.53, 10.52)
    (chunk,) = policy.published
    assert chunk.header.stamp == to_time(10.505)


def test_chunk_answers_its_observation(policy):
    policy._follow(INSTRUCTION)
    put_joints(policy, 10.0)
    for _ in range(2):
        policy._on_tokens(tokens(policy, 10.0))
    first, second = policy.published
    assert (first.tick, second.tick) == (0, 1)
    assert first.header.stamp == to_time(10.0) and first.header.frame_id == panda.BASE_FRAME
    assert first.inference_time > 0.25  # the encoder's and its own
    assert 0.0 <= first.done <= 1.0 and 0.0 <= first.confidence <= 1.0


def test_without_joints_there_is_no_chunk_and_the_next_observation_goes_on(policy):
    policy._follow(INSTRUCTION)
    policy._on_tokens(tokens(policy, 10.0))
    assert not policy.published
    put_joints(policy, 10.0)
    policy._on_tokens(tokens(policy, 10.0))
    assert len(policy.published) == 1


def test_every_instruction_starts_with_a_fresh_memory(policy):
    put_joints(policy, 10.0)

    def first_two_chunks():
        policy.published.clear()
        policy._follow(INSTRUCTION)
        for _ in range(2):
            policy._on_tokens(tokens(policy, 10.0))
        return [list(chunk.data) for chunk in policy.published]

    once, again = first_two_chunks(), first_two_chunks()
    assert once == again and once[0] != once[1]


@pytest.mark.parametrize("text", ["", "  ", "frobnicate the cube"])
def test_empty_or_unknown_instruction_stops_the_one_before(policy, text):
    following = policy._follow(INSTRUCTION)
    policy._on_instruction(String(data=text))
    assert policy._following is None and following.ended.done()


def test_the_same_instruction_again_goes_on(policy):
    policy._on_instruction(String(data=INSTRUCTION))
    following = policy._following
    policy._on_instruction(String(data=f" {INSTRUCTION}"))
    assert policy._following is following and not following.ended.done()
    policy._on_instruction(String(data=""))
    policy._on_instruction(String(data=INSTRUCTION))
    assert policy._following is not following


def test_time_runs_from_the_first_clock_and_over_again_after_a_restart(policy, monkeypatch):
    times = {"now": 0.0}  # simulated time that nobody has published yet
    monkeypatch.setattr(ActionPolicyNode, "now", property(lambda _: times["now"]))
    policy._on_instruction(String(data=INSTRUCTION))
    following = policy._following
    for now in (0.0, 5000.0, 5000.0 + policy.params.time_limit - 0.1, 3.0, 20.0):
        times["now"] = now
        policy._watch_time()
        assert policy._following is following, f"ended at {now} s"
    times["now"] = 3.1 + policy.params.time_limit
    policy._watch_time()
    assert policy._following is None


@pytest.mark.parametrize(
    ("stamp", "instruction", "shown"),
    [
        (20.5, INSTRUCTION, True),
        (19.9, INSTRUCTION, False),  # of a goal before, in the same words
        (20.5, "lift the red cube", False),
        (20.5, "", False),  # a description
        (99.0, INSTRUCTION, False),  # of a clock that was set back
    ],
)
def test_feedback_has_the_narration_of_this_instruction_and_moment(
    policy, monkeypatch, stamp, instruction, shown
):
    times = {"now": 20.0}
    monkeypatch.setattr(ActionPolicyNode, "now", property(lambda _: times["now"]))
    following = policy._follow(INSTRUCTION)
    header = Header(stamp=to_time(stamp))
    policy._on_narration(Narration(header=header, text="so it is", instruction=instruction))
    times["now"] = 21.0
    assert policy._narrated(following) == ("so it is" if shown else "")
    times["now"] = 25.0  # the narrator has said nothing since
    assert policy._narrated(following) == ""


# --- instructions held against the scene ----------------------------------------------------------

SCENE = Scene.of_metres(
    [("red", "cube", (0.52, 0.10, 0.02)), ("blue", "cube", (0.40, 0.0, 0.02)),
     ("green", "cylinder", (0.45, -0.10, 0.02)), ("white", "bowl", (0.40, 0.15, 0.0))],
    gripper=(0.50, 0.0, 0.20), opening=0.04,
)  # fmt: skip


class Narrator:
    """Answers `ask` with a scene, in a thread of its own, until it is closed."""

    def __init__(self, context, scene=SCENE):
        self.scene, self.age, self.questions = scene, 0.0, 0
        self.node = rclpy.create_node("narrator", context=context)
        self.node.create_service(Ask, "ask", self._answer)

    def _answer(self, request, response):
        self.questions += 1
        response.scene = [] if self.scene is None else to_tokens(self.scene)
        response.message = "" if self.scene else "nothing was seen yet"
        response.stamp = (self.node.get_clock().now() - Duration(seconds=self.age)).to_msg()
        return response


@pytest.fixture
def asking(make, checkpoint):
    """Make a policy beside a narrator; both are spun until something holds."""
    executors = []

    def start(**parameters):
        node = make(checkpoint, **parameters)
        assert node.bring_up() == ""
        narrator = Narrator(node.context)
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        executor.add_node(narrator.node)
        executors.append((executor, narrator.node))

        def until(condition):
            def held():
                executor.spin_once(timeout_sec=0.01)
                return condition()

            return wait_for(held)

        until(node._scene_look._client.service_is_ready)
        return node, narrator, until

    yield start
    for executor, narrator in executors:
        executor.shutdown()
        narrator.destroy_node()


def test_what_is_not_there_is_refused_with_what_is(asking):
    node, narrator, until = asking()
    following = node._follow("push the green cube to the left")
    assert following.episode is None, "nothing is begun before the scene is known"
    until(following.ended.done)
    success, reason = following.ended.result()
    assert not success and "a green cylinder and a blue cube, no green cube" in reason
    assert narrator.questions == 1 and following.plan.told() == [reason]


def test_the_policy_is_told_colour_and_shape_of_what_was_named_by_its_place(asking):
    node, _, until = asking()
    node._follow("lift the block nearest to the bowl")
    until(lambda: node._following.episode)
    assert node._following.episode.instruction == "lift the red cube"


def test_subtasks_follow_each_other_and_it_is_what_the_last_was_about(asking):
    node, narrator, until = asking()
    following = node._follow("push the can left, then push it right")
    until(lambda: following.episode)
    assert following.episode.instruction == "push the green cylinder left"
    for _ in range(node.params.done_steps):
        node._judge(following, 1.0)
    assert following.episode is None, "the scene is looked at again"
    until(lambda: following.episode)
    assert following.episode.instruction == "push the green cylinder right"
    for _ in range(node.params.done_steps):
        node._judge(following, 1.0)
    assert following.ended.result() == (True, "fulfilled")
    assert following.plan.told() == ["fulfilled", "fulfilled"] and narrator.questions == 2


def test_between_subtasks_the_arm_goes_up_and_back_to_where_it_began(policy):
    following = policy._follow("push the green can left, then push the red cube right")
    put_joints(policy, 10.0)
    policy._on_tokens(tokens(policy, 10.0))
    home, _ = policy._kinematics.forward(panda.HOME[:-1])
    low = home + (0.05, 0.10, -0.15)
    measured = np.append(policy._kinematics.solve(panda.HOME[:-1], low, iterations=50), 0.01)
    for _ in range(policy.params.done_steps):
        policy._judge(following, 1.0)
    assert following.plan.told() == ["fulfilled", ""]
    way = []
    for k in range(1, 80):
        stamp = 10.0 + 0.05 * k
        header = Header(stamp=to_time(stamp))
        policy._on_joint_states(joint_state_message(panda.JOINT_NAMES, measured, header))
        policy._on_tokens(tokens(policy, stamp))
        if following.episode is not None:
            break
        chunk = policy.published[-1]
        assert chunk.instruction == "", "a recording of either subtask has none of it"
        measured = np.array(chunk.data[: chunk.dof])
        assert measured[-1] == pytest.approx(following.opening), "what is held is kept"
        way.append(policy._kinematics.forward(measured[:-1])[0])
    assert following.episode.instruction == "push the red cube right"
    assert np.linalg.norm(way[-1] - home) < 0.03
    beside = [np.linalg.norm(tool[:2] - low[:2]) for tool in way if tool[2] < home[2] - 0.08]
    assert len(beside) > 1 and max(beside) < 0.005, "it goes over what stands there"


def test_a_way_back_that_is_blocked_is_given_up(policy):
    end, _ = policy._kinematics.forward(panda.HOME[:-1])
    way = Return(policy._kinematics, end + 0.1, began=5.0)
    assert not way.is_over(panda.HOME, 5.1)
    assert way.is_over(panda.HOME, 10.0) and way.is_over(panda.HOME, 0.0), "or the clock began anew"
    assert Return(policy._kinematics, end, began=5.0).is_over(panda.HOME, 5.1)


def test_an_ambiguous_instruction_can_be_completed_by_an_answer(asking):
    node, _, until = asking(scene_check="ask")
    following = node._follow("lift the cube")
    until(following.ended.done)
    assert "the red cube or the blue cube: say which" in following.ended.result()[1]
    node._follow("the blue one")
    until(lambda: node._following.episode)
    assert node._following.episode.instruction == "lift the blue cube"


def test_an_old_picture_is_not_believed_and_no_scene_is_no_reason_to_refuse(asking):
    node, narrator, until = asking()
    narrator.age = 5.0
    following = node._follow("push the green cube to the left")
    until(lambda: narrator.questions >= 3)
    assert following.episode is None, "it asked again for a newer one"
    narrator.age = 0.0
    until(following.ended.done)
    assert "no green cube" in following.ended.result()[1]
    narrator.age = 5.0
    node._follow(INSTRUCTION)
    until(lambda: node._following.episode)  # in the end it goes on without
    narrator.scene = None
    node._follow("push the green cube to the left")
    until(lambda: node._following.episode)
    assert node._following.episode.instruction == "push the green cube to the left"


def test_the_scene_can_be_ignored(asking):
    node, narrator, _ = asking(scene_check="ignore")
    assert node._follow("push the green cube to the left").episode is not None
    assert narrator.questions == 0


def test_a_stop_while_the_scene_is_looked_at_is_a_stop(asking):
    node, narrator, until = asking()
    following = node._follow(INSTRUCTION)
    node._on_instruction(String(data=""))
    until(lambda: narrator.questions)
    assert following.ended.result() == (False, "stopped") and node._following is None
