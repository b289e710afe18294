"""What a policy wants of a ROS 2 recording, and which topics have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vla_ros.cameras import longest_held
from vla_ros.robots.action_config import ActionConfig
from vla_ros.robots.kinematics import check_known
from vla_ros.training.data.alignment import Align, Stream

_TOOL = ("tool_x", "tool_y", "tool_z", "finger_opening")
_NUMBERS_HELD = 0.2  # s
INSTRUCTION, TASK_STATUS = "instruction", "sim_robot/task_status"  # which need not be there


@dataclass(frozen=True)
class Contract:
    """What a policy wants of a recording, and which topics have it.

    The frames of the first camera are the episode's, thinned to one each `action.dt`; everything
    else is the newest at that frame. Pictures of other cameras are held as long as 1.5 of their own
    periods, 0.5 s at most, unless their stream has a tolerance. Defaults are the topics of the
    package's own nodes.

    Args:
        action: names, control mode and timing of what is learnt.
        cameras: name of a camera -> its pictures; a CompressedImage will do.
        state: joints, of each the newest position: a topic of sensor_msgs/JointState, or several
            that together have them all. Messages may hold some of the joints. Others that are a row
            of numbers will do: Float64MultiArray by place, Twist, TwistStamped.
        command: what the robot was told: JointState, JointTrajectory or ActionChunk by the names
            of joints (messages of JointState may hold some of them), Float64MultiArray by place
            (the stream's `names` tell which if it holds others), Twist or TwistStamped by names
            that end in linear_x and the like. In control mode end_effector_offset joints are turned
            into the tool's way from where it is, unless `action` has no joints: then the names it
            has are what was recorded.
        instruction: topic of std_msgs/String; each message begins an episode, an empty one ends
            it, and the same one again changes nothing unless the task was decided in between. A bag
            without it is one episode, its instruction in the metadata's custom data.
        task_status: topic that tells whether the task succeeded: vla_ros/TaskStatus, or
            std_msgs/Bool, of which the last one of an episode counts.
        depth: name of a camera -> its depth pictures, registered to its own.
        camera_info: name of a camera -> topic of its sensor_msgs/CameraInfo, which may not change.
    """

    action: ActionConfig
    cameras: Mapping[str, Stream] = field(
        default_factory=lambda: {
            "camera": Stream("camera/image_raw"),
            "wrist_camera": Stream("wrist_camera/image_raw"),
        }
    )
    state: Stream | Sequence[Stream] = Stream("joint_states")
    command: Stream = Stream("joint_trajectory", Align.HOLD)
    instruction: str = INSTRUCTION
    task_status: str = TASK_STATUS
    depth: Mapping[str, Stream] = field(default_factory=dict)
    camera_info: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("a contract needs a camera: its frames are the episode's")
        if not self.states:
            raise ValueError("state is an empty list: give the topics of the joints")
        topics = [stream.topic.lstrip("/") for stream in self.states]
        if len(set(topics)) < len(topics):
            raise ValueError(f"state names a topic twice: {', '.join(topics)}")
        for name, stream in (*self.cameras.items(), *self.depth.items()):
            if stream.names:
                raise ValueError(f"camera {name} has names: those are of state and command")
        told = self.action.joint_names if self.tool_offsets else self.action.action_names
        for what, named in (("depth", self.depth), ("camera_info", self.camera_info)):
            if unknown := [name for name in named if name not in self.cameras]:
                there = ", ".join(self.cameras)
                raise ValueError(f"{what}: {unknown[0]} is not of the cameras: {there}")
        known = self.command.names
        if known and (missing := [name for name in told if name not in known]):
            raise ValueError(f"names of command lack {', '.join(missing)}: {', '.join(known)}")
        if self.tool_offsets or self.tool_felt:
            check_known(self.action.joint_names)

    @property
    def states(self) -> tuple[Stream, ...]:
        """The topics that together give the state."""
        return (self.state,) if isinstance(self.state, Stream) else tuple(self.state)

    @property
    def tool_offsets(self) -> bool:
        """Whether commanded joints become ways of the tool."""
        return bool(self.action.joint_names) and self.action.control_mode == "end_effector_offset"

    @property
    def tool_felt(self) -> bool:
        """Whether proprioception is computed from the joints."""
        return bool(self.action.joint_names) and tuple(self.action.proprioception_names) == _TOOL

    @property
    def state_names(self) -> tuple[str, ...]:
        """What is read of the state."""
        felt = self.action.joint_names if self.tool_felt else self.action.proprioception_names
        measured = self.action.joint_names if self.tool_offsets else ()
        return tuple(dict.fromkeys((*felt, *measured)))


def held_for(stream: Stream, period: float | None = None) -> float | None:
    """How old the newest message of a stream may be at a frame, s; None: any age will do.

    Args:
        period: s, of a camera; None for what is no camera.
    """
    if stream.align is Align.HOLD:
        return None
    if stream.tolerance is not None:
        return stream.tolerance
    return _NUMBERS_HELD if period is None else longest_held(period)
