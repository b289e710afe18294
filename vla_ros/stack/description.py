"""The one list of the stack's nodes: what each is, how it is run, and what the arguments set in it.

Launch file, bringup and demo read it. Plain Python, without ROS: a launch file imports it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ROBOTS = ("sim", "real")
COMMAND_TOPIC = "joint_trajectory"  # as the nodes name it
REAL_COMMAND_TOPIC = "panda_arm_controller/joint_trajectory"
# A node that no command waits for is started again so often when it dies, after so many s.
RESTARTS, RESTART_DELAY = 3, 0.5


@dataclass(frozen=True)
class NodeDescription:
    """One node of the stack.

    Attributes:
        name: of the node, and of its section in a parameter file.
        executable: `ros2 run vla_ros EXECUTABLE`, which is the module vla_ros.nodes.EXECUTABLE.
        class_name: of the node, in that module.
        in_control_path: whether a command waits for it. The others give way to those that do.
        nice: by how much, when it is a process of its own (see nice(1)).
        remappings: of its topics, from the name in the node to the one in the stack.
        uses_command_topic: whether it takes or gives the robot's commands.
        parameters: that the stack's arguments set, before those of the parameter file.
    """

    name: str
    executable: str
    class_name: str
    in_control_path: bool = True
    nice: int = 0
    remappings: tuple[tuple[str, str], ...] = ()
    uses_command_topic: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_lifecycle(self) -> bool:
        """All but the simulated robot have: that one is there from the start, as a real one is."""
        return self.executable != "sim_robot"

    def naming(self) -> list[str]:
        """ROS arguments with its name and topics: before others, as the first that fits counts."""
        arguments = ["-r", f"__node:={self.name}"] if self.name != self.executable else []
        for old, new in self.remappings:
            arguments += ["-r", f"{old}:={new}"]
        return arguments

    def settings(self) -> list[str]:
        """ROS arguments with its parameters: after those with a parameter file, the last count."""
        arguments = []
        for key, value in self.parameters.items():
            # As YAML that keeps its type: a folder named 12 is no number.
            arguments += ["-p", f"{key}:={json.dumps(value, ensure_ascii=False)}"]
        return arguments


# In the order in which they are started. The robot first, as it is outside a simulation, and last
# to go, so that the gate's last command reaches it; the recorder before there is anything to miss.
NODES = (
    NodeDescription("sim_robot", "sim_robot", "SimRobot", uses_command_topic=True),
    NodeDescription(
        "recorder", "recorder", "RecorderNode", in_control_path=False, uses_command_topic=True
    ),
    NodeDescription("command_gate", "command_gate", "CommandGateNode", uses_command_topic=True),
    NodeDescription("action_policy", "action_policy", "ActionPolicyNode"),
    NodeDescription("vision_encoder", "vision_encoder", "VisionEncoderNode"),
    NodeDescription("world_model", "world_model", "WorldModelNode", in_control_path=False, nice=5),
    # What it says is worth less the later it comes: not so much as world_model.
    NodeDescription("narrator", "narrator", "NarratorNode", in_control_path=False, nice=3),
    NodeDescription(
        "narrator_eye",
        "vision_encoder",
        "VisionEncoderNode",
        in_control_path=False,
        nice=3,
        remappings=(("visual_tokens", "narrator/visual_tokens"),),
    ),
)
# Of all nodes that there are, whatever the arguments: what sections of a parameter file may name.
NAMES = tuple(node.name for node in NODES)


def describe(
    *,
    robot: str = "sim",
    checkpoint: str = "",
    instruction: str = "",
    use_sim_time: bool | None = None,
    record: str = "",
    world_model: bool = True,
    narrator: str = "narrator",
) -> tuple[NodeDescription, ...]:
    """The nodes of a stack in the order in which they are started, with their parameters.

    Args:
        robot: "sim" for the simulated robot too, "real" where a driver is on the topics.
        checkpoint: of encoder and policy, a name or a folder; "": as in the parameter file.
        instruction: what to follow from the start; "": as in the parameter file.
        use_sim_time: whether time comes from /clock; None: with "sim".
        record: folder for a recording of each episode; "": none are made.
        world_model: whether there is the node that imagines what the camera will show.
        narrator: checkpoint of narrator and its eye, a name or a folder; "none" or "": without
            them.

    Raises:
        ValueError: there is no such kind of robot.
    """
    if robot not in ROBOTS:
        raise ValueError(f"robot is '{robot}': choose {' or '.join(ROBOTS)}")
    use_sim_time = robot == "sim" if use_sim_time is None else use_sim_time
    policy = {"checkpoint": checkpoint} if checkpoint else {}
    own: dict[str, dict[str, Any]] = {
        "vision_encoder": policy,
        "action_policy": policy | ({"instruction": instruction} if instruction else {}),
        "command_gate": {},
    }
    if robot == "sim":
        own["sim_robot"] = {}
    if record:
        own["recorder"] = {"folder": record}
    if world_model:
        own["world_model"] = {}
    if narrator not in ("", "none"):  # a launch argument cannot be empty
        own["narrator"] = own["narrator_eye"] = {"checkpoint": narrator}
    # The simulated robot makes the time, and the recorder writes when it received what: neither
    # takes it from /clock.
    time = {"use_sim_time": use_sim_time}
    return tuple(
        replace(
            node,
            parameters=own[node.name]
            if node.name in ("sim_robot", "recorder")
            else time | own[node.name],
        )
        for node in NODES
        if node.name in own
    )


def check_namespace(namespace: str) -> None:
    """Raises ValueError for what ROS does not take as a namespace."""
    if not re.fullmatch(r"/?([A-Za-z_]\w*(/[A-Za-z_]\w*)*/?)?", namespace, re.ASCII):
        raise ValueError(
            f"namespace is '{namespace}': give letters, digits and _, with / between, such as left"
        )


def clock_remapping(robot: str, namespace: str) -> tuple[tuple[str, str], ...]:
    """Where a simulation in a namespace has its time: there, so that two may run side by side.

    Nodes take simulated time from /clock, whatever their namespace.
    """
    place = namespace.strip("/")
    return (("/clock", f"/{place}/clock"),) if robot == "sim" and place else ()


def command_topic(robot: str, given: str = "") -> str:
    """The topic that takes the robot's joint trajectories; `given` if it is not empty."""
    return given or (COMMAND_TOPIC if robot == "sim" else REAL_COMMAND_TOPIC)
