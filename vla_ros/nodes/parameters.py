"""The parameters of the nodes, by name of the node: type, default, meaning and bounds.

Apart from the nodes, which import what they run: whoever looks at a parameter file before a start
needs neither models nor a simulator.
"""

from __future__ import annotations

from collections.abc import Mapping

from vla_ros.cameras import TOGETHER
from vla_ros.ros.parameters import AUTOSTART, Parameter
from vla_ros.scene_language.instructions import FAMILIES
from vla_ros.stack.description import NODES

VISION_ENCODER = {
    "checkpoint": Parameter("arm", "A checkpoint of the package by name, or the path of a folder."),
    "camera_topics": Parameter(
        ["camera/image_raw", "wrist_camera/image_raw"],
        "Image topics, one for each camera of the checkpoint and in its order.",
    ),
    "depth_topics": Parameter(
        [""],
        "Depth that is registered to the images, one topic for each camera, of checkpoints whose "
        "geometry needs it; empty: depth/image_raw beside each image topic.",
    ),
    "camera_info_topics": Parameter(
        [""],
        "Calibrations of the images, one topic for each camera, of checkpoints whose geometry "
        "needs them; empty: camera_info beside each image topic.",
    ),
    "geometry_rate": Parameter(
        0.0,
        "Make geometry anew at most this often by the images' stamps, Hz, and use the last in "
        "between; 0: of each frame, as in training.",
        0.0,
        100.0,
        live=True,
    ),
    "pairing_tolerance": Parameter(
        TOGETHER,
        "Images whose stamps differ by no more belong together, s; else the newest before the "
        "first camera's does, at most 1.5 of its camera's periods old.",
        0.0,
        1.0,
        live=True,
    ),
    "rate": Parameter(
        0.0, "Encode at most this often by the images' stamps, Hz; 0: each.", 0.0, 100.0, live=True
    ),
}

ACTION_POLICY = {
    "checkpoint": Parameter("arm", "A checkpoint of the package by name, or the path of a folder."),
    "instruction": Parameter("", "Follow this from activation on; empty waits for one."),
    "done_threshold": Parameter(
        0.9, "Probability from which a step counts as fulfilled.", 0.0, 1.0, live=True
    ),
    "done_steps": Parameter(
        5, "So many fulfilled steps in a row end an instruction.", 1, 1000, live=True
    ),
    "time_limit": Parameter(
        30.0, "Give up after this time, s, unless the goal sets its own.", 0.1, 3600.0, live=True
    ),
    "scene_check": Parameter(
        "refuse",
        "What to do about an instruction that does not fit what the narrator sees: refuse it, ask "
        "(refuse it with a question, which the next instruction may answer), or ignore that.",
        choices=("refuse", "ask", "ignore"),
    ),
    "state_topics": Parameter(
        ["joint_states"],
        "Topics of joint states that together give the robot's, such as arm and gripper.",
    ),
    "state_timeout": Parameter(
        0.2, "Joint states may be older than the images by this much, s.", 0.005, 5.0, live=True
    ),
}

NARRATOR = {
    "checkpoint": Parameter(
        "narrator", "A checkpoint of the package by name, or the path of a folder."
    ),
    "rate": Parameter(
        1.0, "Narrate this often, Hz; 0: only when what the robot is told changes.", 0.0, 20.0,
        live=True,
    ),
    "scenes": Parameter(
        "scenes",
        "Scores each sentence against what is seen: a checkpoint of text -> scene -> text by name, "
        "or the path of a folder; empty: no scores.",
    ),
    "doubt_below": Parameter(
        0.1, "A sentence with a lower cycle score is doubtful.", 0.0, 1.0, live=True
    ),
    "state_topics": Parameter(
        ["joint_states"],
        "Topics of joint states that together give the robot's, such as arm and gripper.",
    ),
    "state_timeout": Parameter(
        0.2, "Joint states may be older than the images by this much, s.", 0.005, 5.0, live=True
    ),
}  # fmt: skip

WORLD_MODEL = {
    "checkpoint": Parameter(
        "world", "A checkpoint of the package by name, or the path of a folder."
    ),
    "camera_topic": Parameter(
        "", "Image topic; empty: CAMERA/image_raw of the camera that the checkpoint knows."
    ),
    "state_topics": Parameter(
        ["joint_states"],
        "Topics of joint states that together give the robot's, such as arm and gripper.",
    ),
    "horizon": Parameter(
        8, "Frames that are imagined every imagine_period; the checkpoint has a limit.", 1, 1000
    ),
    "imagine_period": Parameter(
        1.0, "Imagine what comes next this often, s; 0: only when asked.", 0.0, 3600.0, live=True
    ),
    "scenes": Parameter(
        "scenes",
        "Paints what imagine_scene is asked for: a checkpoint of text -> scene -> text by name, or "
        "the path of a folder; empty: that service refuses.",
    ),
}

RECORDER = {
    "folder": Parameter("", "Folder for the recordings, made when it is not there."),
    "topics": Parameter(
        [
            "camera/image_raw",
            "camera/camera_info",
            "wrist_camera/image_raw",
            "wrist_camera/camera_info",
            "joint_states",
            "joint_trajectory",
            "gate_status",
            "narration",
            "robot_description",
        ],
        "What to record, of any type, when somebody publishes it. instruction, action_chunk and "
        "sim_robot/task_status always are.",
    ),
    "robot": Parameter("panda", "Name of the robot, kept with each recording."),
    "automatic": Parameter(
        True, "Record whenever a policy follows an instruction; false: by ~/start.", live=True
    ),
    "silence": Parameter(
        1.0,
        "An episode ends when its policy has said nothing for so long, s.",
        0.1,
        60.0,
        live=True,
    ),
}

SIM_ROBOT = {
    "family": Parameter(
        "reach",
        "Task family at the start; ~/set_task changes it.",
        choices=FAMILIES,
        read_only=True,
    ),
    "seed": Parameter(0, "Seed of the task at the start.", 0, 2**31 - 1, read_only=True),
    "image_size": Parameter(128, "Height of the images, pixels.", 64, 960, read_only=True),
    "image_width": Parameter(
        0, "Width of the images, pixels; 0 for square ones.", 0, 1280, read_only=True
    ),
    "camera_rate": Parameter(20.0, "Frames per second of both cameras.", 1.0, 100.0, live=True),
    "realtime_factor": Parameter(
        1.0, "Simulated seconds per second; less when the machine cannot.", 0.05, 10.0, live=True
    ),
    "visuals": Parameter(
        "hulls", "What the arm looks like.", choices=("hulls", "meshes"), read_only=True
    ),
    "shadows": Parameter(False, "Cast shadows (slow without a GPU).", read_only=True),
    "publish_clock": Parameter(
        True,
        "Publish /clock and stamp with simulation time; false stamps with system time.",
        read_only=True,
    ),
}


def tables() -> Mapping[str, Mapping[str, Parameter]]:
    """Of all nodes that a stack may have, by the name that each has in it."""
    # Not at the top: it stands with its node.
    from vla_ros.nodes.command_gate import PARAMETERS as COMMAND_GATE

    of_executables = {
        "vision_encoder": VISION_ENCODER,
        "action_policy": ACTION_POLICY,
        "narrator": NARRATOR,
        "world_model": WORLD_MODEL,
        "command_gate": COMMAND_GATE,
        "recorder": RECORDER,
        "sim_robot": SIM_ROBOT,
    }
    return {
        node.name: ({"autostart": AUTOSTART} if node.has_lifecycle else {})
        | of_executables[node.executable]
        for node in NODES
    }
