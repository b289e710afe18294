"""The whole stack for one robot arm, each node a process: `ros2 launch vla_ros arm.launch.py`.

With robot:=sim the simulated arm is part of it; with robot:=real the robot's own driver is expected
to publish `joint_states` and `camera/*`, and to take joint trajectories. What the nodes do is set
in the params file; the arguments here only say how they are run.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import EqualsSubstitution, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = [
    DeclareLaunchArgument(
        "robot",
        default_value="sim",
        choices=["sim", "real"],
        description="sim: start the simulated arm too; real: its driver runs already",
    ),
    DeclareLaunchArgument(
        "namespace", default_value="", description="namespace of all nodes and topics"
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([FindPackageShare("vla_ros"), "config", "arm.yaml"]),
        description="parameters of all nodes, as YAML",
    ),
    DeclareLaunchArgument(
        "checkpoint",
        default_value="",
        description="name or folder of the policy; empty: as in params_file",
    ),
    DeclareLaunchArgument(
        "instruction",
        default_value="",
        description="what to do from the start; empty: as in params_file",
    ),
    DeclareLaunchArgument(
        "command_topic",
        default_value="",
        description="topic that takes the robot's joint trajectories; empty: joint_trajectory "
        "for sim, panda_arm_controller/joint_trajectory for real",
    ),
    DeclareLaunchArgument(
        "record",
        default_value="",
        description="folder for a recording of each episode; empty: none are made",
    ),
    DeclareLaunchArgument(
        "world_model",
        default_value="true",
        choices=["true", "false"],
        description="run the node that imagines what the camera will show",
    ),
    DeclareLaunchArgument(
        "narrator",
        default_value="narrator",
        description="name or folder of the node that says what it sees and does, and answers, and "
        "of its eye; empty: do not run them",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value=EqualsSubstitution(LaunchConfiguration("robot"), "sim"),
        description="take the time from /clock; true by default for sim",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="true: nodes configure and activate themselves, also after a respawn",
    ),
    DeclareLaunchArgument(
        "use_respawn",
        default_value="true",
        choices=["true", "false"],
        description="start a node again when its process dies",
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", description="debug, info, warn, error or fatal"
    ),
]


def nodes(context: LaunchContext) -> list[Node]:
    """Return the node actions for the arguments given in `context`.

    Raises FileNotFoundError when params_file is no file (launch itself would only warn, and the
    nodes would run with defaults).
    """
    given = {
        argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS
    }
    params_file = given["params_file"]
    if not Path(params_file).is_file():
        raise FileNotFoundError(f"params_file '{params_file}' is no file: name an existing one")

    common = {
        "package": "vla_ros",
        "namespace": given["namespace"],
        "output": "screen",
        "emulate_tty": True,
        "respawn": given["use_respawn"] == "true",
        "respawn_delay": 0.5,
        "ros_arguments": ["--log-level", given["log_level"]],
    }
    every = {
        "use_sim_time": given["use_sim_time"].lower() == "true",
        "autostart": given["autostart"] == "true",
    }
    checkpoint = {"checkpoint": given["checkpoint"]} if given["checkpoint"] else {}
    instruction = {"instruction": given["instruction"]} if given["instruction"] else {}
    command_topic = given["command_topic"] or (
        "joint_trajectory" if given["robot"] == "sim" else "panda_arm_controller/joint_trajectory"
    )

    def lifecycle_node(
        name: str, parameters: dict, executable: str = "", **options
    ) -> LifecycleNode:
        return LifecycleNode(
            name=name,
            executable=executable or name,
            parameters=[params_file, every | parameters],
            **common,
            **options,
        )

    actions = [
        lifecycle_node("vision_encoder", checkpoint),
        lifecycle_node("action_policy", checkpoint | instruction),
        lifecycle_node("command_gate", {}, remappings=[("joint_trajectory", command_topic)]),
    ]
    if given["world_model"] == "true":
        actions.append(lifecycle_node("world_model", {}))
    if given["narrator"]:
        checkpoint = {"checkpoint": given["narrator"]}
        actions.append(lifecycle_node("narrator", checkpoint))
        remappings = [("visual_tokens", "narrator/visual_tokens")]
        actions.append(
            lifecycle_node("narrator_eye", checkpoint, "vision_encoder", remappings=remappings)
        )
    if given["record"]:
        remappings = [("joint_trajectory", command_topic)]
        folder = {"folder": given["record"]}
        actions.append(lifecycle_node("recorder", folder, remappings=remappings))
    if given["robot"] == "sim":
        # It makes the time, so it does not take it from /clock.
        actions.append(
            Node(
                name="sim_robot",
                executable="sim_robot",
                parameters=[params_file],
                remappings=[("joint_trajectory", command_topic)],
                **common,
            )
        )
    return actions


def generate_launch_description() -> LaunchDescription:
    """Return the description that `ros2 launch` runs."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
