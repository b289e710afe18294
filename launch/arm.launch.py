"""The whole stack for one robot arm, each node a process: `ros2 launch vla_ros arm.launch.py`.

With robot:=sim the simulated arm is part of it; with robot:=real the robot's own driver is expected
to publish `joint_states` and `camera/*`, and to take joint trajectories. What the nodes do is set
in the params file; the arguments here only say how they are run.

A node that commands wait for (robot, encoder, policy, gate) ends the whole when it ends. Of the
others the launch log tells that they died; they are started again a few times, and the arm goes on.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare

from vla_ros.nodes.parameters import tables
from vla_ros.ros.parameter_file import ParameterFile, full_name
from vla_ros.stack.description import (
    COMMAND_TOPIC,
    RESTART_DELAY,
    RESTARTS,
    NodeDescription,
    check_namespace,
    clock_remapping,
    command_topic,
    describe,
)

USUAL = PathJoinSubstitution([FindPackageShare("vla_ros"), "config", "arm.yaml"])
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
        default_value=USUAL,
        description="parameters that go before those of config/arm.yaml, as YAML",
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
        "of its eye; none: do not run them",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="auto",
        description="take the time from /clock: true, false, or auto, which is true with sim",
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
        description="start world_model, narrator, its eye and recorder again when they die, "
        "a few times; any other node that ends ends the launch",
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", description="debug, info, warn, error or fatal"
    ),
]


def nodes(context: LaunchContext) -> list[Node]:
    """Return the node actions for the arguments given in `context`.

    Raises ParameterError when params_file is no file, or something in it fits no node (launch
    itself would only warn, if at all, and the nodes would run with defaults).
    """
    given = {
        argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS
    }
    use_sim_time = given["use_sim_time"].lower()
    if use_sim_time not in ("auto", "true", "false"):
        raise ValueError(f"use_sim_time is '{use_sim_time}': give true, false or auto")
    check_namespace(given["namespace"])
    # As in vla_ros.stack: a file of few lines must not take the rest back to the nodes' own.
    files = [
        ParameterFile(p) for p in dict.fromkeys((USUAL.perform(context), given["params_file"]))
    ]
    for file in files:
        file.check(tables(), given["namespace"])

    clock = clock_remapping(given["robot"], given["namespace"])
    common = {
        "package": "vla_ros",
        "namespace": given["namespace"],
        "output": "screen",
        "emulate_tty": True,
        "ros_arguments": [
            *("--log-level", given["log_level"]),
            *(w for rule in clock for w in ("-r", ":=".join(rule))),
        ],
    }
    described = describe(
        robot=given["robot"],
        checkpoint=given["checkpoint"],
        instruction=given["instruction"],
        use_sim_time=None if use_sim_time == "auto" else use_sim_time == "true",
        record=given["record"],
        world_model=given["world_model"] == "true",
        narrator=given["narrator"],
    )
    topic = command_topic(given["robot"], given["command_topic"])

    def files_for(name: str) -> list[str]:
        """The parameter files that say something of a node."""
        full = full_name(given["namespace"], name)
        return [
            str(file.path)
            for file in files
            if any(section.matches(full) for section in file.sections)
        ]

    def action(node: NodeDescription) -> Node:
        own = dict(node.parameters)
        if node.has_lifecycle:
            own["autostart"] = given["autostart"] == "true"
        remappings = [*node.remappings]
        if node.uses_command_topic:
            remappings.append((COMMAND_TOPIC, topic))
        if node.in_control_path:
            end = {"on_exit": Shutdown(reason=f"{node.name} has ended")}
        else:
            end = {
                "respawn": given["use_respawn"] == "true",
                "respawn_delay": RESTART_DELAY,
                "respawn_max_retries": RESTARTS,
            }
        kind = LifecycleNode if node.has_lifecycle else Node
        return kind(
            name=node.name,
            executable=node.executable,
            parameters=[*files_for(node.name), *([own] if own else [])],
            remappings=remappings,
            prefix=f"nice -n {node.nice}" if node.nice else None,
            **end,
            **common,
        )

    return [action(node) for node in described]


def generate_launch_description() -> LaunchDescription:
    """Return the description that `ros2 launch` runs."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
