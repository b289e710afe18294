"""Node sim_robot: the simulated arm, speaking as a ros2_control robot with two cameras does.

`joint_trajectory` in; `joint_states`, `camera/*`, `wrist_camera/*`, `/clock` and `~/task_status`
out. Everything, rendering included, happens in the thread that spins the node.
"""

from __future__ import annotations

import math
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros.msg import TaskStatus
from vla_ros.nodes.parameters import SIM_ROBOT as PARAMETERS
from vla_ros.robots import panda
from vla_ros.ros import qos
from vla_ros.ros.keeping_up import KeepingUp
from vla_ros.ros.messages import filled, image_message, joint_state_message, seconds, to_time
from vla_ros.ros.parameters import Parameters
from vla_ros.ros.running import run
from vla_ros.ros.texts import shorten
from vla_ros.sim.arm import CAMERAS, TICK, ArmWorld
from vla_ros.sim.scene_tasks import task_of
from vla_ros.sim.tasks import Outcome, Task
from vla_ros.srv import SetTask

_STATUS_PERIOD = 0.1  # s
_MAX_LAG = 0.1  # s behind the wall clock from which the simulation slows down
_TOO_SLOW = "this machine is too slow: simulated time runs slower than realtime_factor asks for"
_WARN_PERIOD = 5.0  # s between two warnings of a kind
# Commands without a stamp that arrive this long after a reset were given before it (the command
# gate repeats a hold): they would drag the arm to where it was.
_FORGET_TIME = 0.4  # s


@dataclass
class Frame:
    """How long one camera frame took; wall time, s."""

    stamp: int  # ns, ROS time
    captured: float  # perf_counter when rendering began
    render: float  # both cameras
    latency: float = math.nan  # from `captured` to the first command that carries the stamp


class _AtThreadEnd:
    """Kept in a `threading.local`, calls `function` in that thread when the thread ends.

    An OpenGL context can be freed by its own thread only, and that is the executor's.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def __del__(self) -> None:
        self._function()


class SimRobot(Node):
    """See the module's text.

    `frames` holds what the newest camera frames cost, `pictures` the newest itself: uint8 [H, W, 3]
    by camera, as far as somebody listens; another dict for every frame. `hook`, when set, is called
    after every tick, in the spinning thread, the only one that may touch `world`. `ready` is set
    when it can draw.

    Raises:
        ParameterError: a parameter is out of bounds.
        FileNotFoundError: the robot's model is not installed.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("sim_robot", **kwargs)
        params = self.params = Parameters(self, PARAMETERS, lambda: False)
        size = (params.image_size, params.image_width or params.image_size)
        self.world = ArmWorld(size, visuals=params.visuals, shadows=params.shadows)
        self.ticks = 0
        self.frames: deque[Frame] = deque(maxlen=2000)
        self.pictures: dict[str, np.ndarray] = {}
        self.hook: Callable[[], None] | None = None
        self.ready = threading.Event()

        self._joint_states = self.create_publisher(JointState, "joint_states", qos.standard())
        self._images, self._infos, self._depths, self._depth_infos = {}, {}, {}, {}
        for camera in CAMERAS:
            self._images[camera] = self.create_publisher(Image, f"{camera}/image_raw", qos.sensor())
            self._infos[camera] = self.create_publisher(
                CameraInfo, f"{camera}/camera_info", qos.sensor()
            )
            # Registered to the image: of the same pixels, in the same frame.
            self._depths[camera] = self.create_publisher(
                Image, f"{camera}/depth/image_raw", qos.sensor()
            )
            self._depth_infos[camera] = self.create_publisher(
                CameraInfo, f"{camera}/depth/camera_info", qos.sensor()
            )
        self._clock_publisher = None
        if params.publish_clock:
            self._clock_publisher = self.create_publisher(ClockMessage, "/clock", qos.sensor())
        self._statuses = self.create_publisher(TaskStatus, "~/task_status", qos.latched())
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.standard())
        self.reset(task_of(params.family, params.seed))

        self.create_subscription(
            JointTrajectory, "joint_trajectory", self._on_trajectory, qos.standard(1)
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetTask, "~/set_task", self._on_set_task)
        wall = Clock(clock_type=ClockType.STEADY_TIME)  # paced by it, so never by our own /clock
        self._thread = threading.local()
        log = self.get_logger()
        self._keeping_up = KeepingUp(log.warning, log.info, _TOO_SLOW)
        self._lagged = False  # in the second since the last look
        self._began: float | None = None  # when tick `_paced_from` was due
        self._paced_from = 0
        self._paced_factor = params.realtime_factor
        self._reported = (time.perf_counter(), self.world.time)
        self.create_timer(TICK / 2, self._run, clock=wall)
        self.create_timer(1.0, self._publish_diagnostics, clock=wall)

    # --- time -------------------------------------------------------------------------------

    def _run(self) -> None:
        """Do the tick that is due, and one more when late: never a burst, never a skipped tick."""
        if self._began is None:
            self._thread.end = _AtThreadEnd(self.world.close)
            for camera in CAMERAS:  # making the OpenGL context takes long: before the time runs
                self.world.render(camera)
            self.ready.set()
            self._began = time.perf_counter()
        for _ in range(2):
            factor = self.params.realtime_factor
            now = time.perf_counter()
            lag = now - self._began - (self.ticks - self._paced_from) * TICK / self._paced_factor
            if lag < 0.0:
                return
            if lag > _MAX_LAG:
                self._lagged = True
            if lag > _MAX_LAG or factor != self._paced_factor:
                self._began, self._paced_from, self._paced_factor = now, self.ticks, factor
            self._tick()

    def _tick(self) -> None:
        self.world.tick()
        self.ticks += 1
        stamp = self._stamp()
        if self._clock_publisher is not None:
            self._clock_publisher.publish(ClockMessage(clock=stamp))
        joints = joint_state_message(
            panda.JOINT_NAMES,
            self.world.joint_positions(),
            Header(stamp=stamp, frame_id=panda.BASE_FRAME),
            self.world.joint_velocities(),
        )
        joints.effort = filled("d", self.world.joint_efforts())
        self._joint_states.publish(joints)
        frames = self.ticks * TICK * self.params.camera_rate + 1e-6
        if frames % 1.0 < TICK * self.params.camera_rate:
            self._publish_cameras(stamp)
        if self.world.outcome is not self._told or self.world.time >= self._status_due:
            self._publish_status()
        if self.hook is not None:
            self.hook()

    def _stamp(self) -> Any:
        if self.params.publish_clock:
            return to_time(self.world.time)
        return self.get_clock().now().to_msg()

    # --- cameras ----------------------------------------------------------------------------

    def _publish_cameras(self, stamp: Any) -> None:
        """Both cameras at one moment; only what somebody listens to is rendered."""
        listened = [camera for camera in CAMERAS if self._images[camera].get_subscription_count()]
        begin = time.perf_counter()
        pictures = {camera: self.world.render(camera) for camera in listened}
        if pictures:
            render = time.perf_counter() - begin
            self.frames.append(Frame(_nanoseconds(stamp), begin, render))
            self.pictures = pictures
        for camera in CAMERAS:
            header = Header(stamp=stamp, frame_id=f"{camera}_optical_frame")
            info = self._camera_info(camera, header)
            self._infos[camera].publish(info)
            self._depth_infos[camera].publish(info)
            if camera in pictures:
                self._images[camera].publish(image_message(pictures[camera], header))
            if self._depths[camera].get_subscription_count():
                depth = self.world.render(camera, depth=True)
                self._depths[camera].publish(image_message(depth, header))

    def _camera_info(self, camera: str, header: Header) -> CameraInfo:
        matrix = self.world.intrinsics(camera)
        height, width = self.world.image_size
        return CameraInfo(
            header=header,
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=[0.0] * 5,
            k=matrix.flatten(),
            r=np.eye(3).flatten(),
            p=np.hstack([matrix, np.zeros((3, 1))]).flatten(),
        )

    # --- commands ---------------------------------------------------------------------------

    def _on_trajectory(self, message: JointTrajectory) -> None:
        world = self.world
        stamp = seconds(message.header.stamp)
        if stamp > 0.0:
            self._note_latency(_nanoseconds(message.header.stamp))
            if not self.params.publish_clock:
                # The world has a time of its own: keep how far the stamp is from now.
                stamp += world.time - seconds(self.get_clock().now().to_msg())
            if stamp < self._reset_at:
                return  # meant for the scene before
        elif world.time - self._reset_at < _FORGET_TIME:
            return
        try:
            if any(len(point.positions) != len(message.joint_names) for point in message.points):
                raise ValueError("a point does not hold one position for each joint")
            world.controller.accept(
                message.joint_names,
                np.array([point.positions for point in message.points]),
                np.array([seconds(point.time_from_start) for point in message.points]),
                stamp,
                world.time,
            )
        except ValueError as error:
            self.get_logger().warning(
                shorten(f"trajectory rejected: {error}"), throttle_duration_sec=_WARN_PERIOD
            )

    def _note_latency(self, stamp: int) -> None:
        for frame in reversed(self.frames):
            if frame.stamp == stamp:
                if math.isnan(frame.latency):
                    frame.latency = time.perf_counter() - frame.captured
                return
            if frame.stamp < stamp:
                return

    # --- tasks ------------------------------------------------------------------------------

    def reset(self, task: Task) -> None:
        """Lay out a task and start judging it. Call in the spinning thread, as from `hook`."""
        self.world.reset(task)
        self._reset_at = self.world.time
        self._publish_status()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.reset(self.world.task)
        response.success = True
        return response

    def _on_set_task(self, request: SetTask.Request, response: SetTask.Response) -> Any:
        try:
            task = task_of(request.family, request.seed)
        except ValueError as error:
            response.success, response.message = False, shorten(str(error))
            return response
        self.reset(task)
        response.success, response.instruction = True, task.instruction
        return response

    def _publish_status(self) -> None:
        world = self.world
        self._told = world.outcome
        self._status_due = world.time + _STATUS_PERIOD
        self._statuses.publish(
            TaskStatus(
                header=Header(stamp=self._stamp(), frame_id=panda.BASE_FRAME),
                family=world.task.family,
                seed=world.task.seed,
                instruction=world.task.instruction,
                outcome=world.outcome.value,
                reason="" if world.outcome is Outcome.RUNNING else world.judge.reason,
                elapsed=world.time - self._reset_at,
            )
        )

    # --- diagnostics ------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        (wall, simulated), now = self._reported, (time.perf_counter(), self.world.time)
        self._reported = now
        factor = (now[1] - simulated) / (now[0] - wall)
        recent = [frame for frame in list(self.frames)[-100:] if frame.captured >= wall]
        answered = [frame.latency for frame in recent if not math.isnan(frame.latency)]
        details = {"realtime_factor": f"{factor:.2f}", "frames_per_second": len(recent)}
        if recent:
            render = statistics.median(frame.render for frame in recent)
            details["render_ms"] = f"{1e3 * render:.1f}"
        if answered:
            details["camera_to_command_ms"] = f"{1e3 * statistics.median(answered):.1f}"
        slow = factor < 0.9 * self.params.realtime_factor
        self._keeping_up.judge(not self._lagged)
        self._lagged = False
        level = DiagnosticStatus.WARN if slow else DiagnosticStatus.OK
        message = "slower than realtime_factor asks for" if slow else "simulating"
        if other := self._other_clock():
            level, message = DiagnosticStatus.ERROR, other
            self.get_logger().error(other, once=True)
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = [
            DiagnosticStatus(
                level=level,
                name=self.get_fully_qualified_name(),
                message=message,
                values=[KeyValue(key=key, value=str(value)) for key, value in details.items()],
            )
        ]
        self._diagnostics.publish(array)

    def _other_clock(self) -> str:
        """That somebody else makes the time, too, in words; "" when nobody does."""
        if self._clock_publisher is None:
            return ""
        topic = self._clock_publisher.topic_name
        makers = self.get_publishers_info_by_topic(topic)
        if len(makers) < 2:
            return ""
        names = [f"{one.node_namespace.rstrip('/')}/{one.node_name}" for one in makers]
        others = set(names) - {self.get_fully_qualified_name()} or {names[0]}
        return (
            f"{', '.join(sorted(others))} publishes {topic} too, so that time jumps: end it, give "
            "one of them a namespace, or set another ROS_DOMAIN_ID"
        )


def _nanoseconds(stamp: Any) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def main(args: list[str] | None = None) -> int:
    return run(SimRobot, args)


if __name__ == "__main__":
    sys.exit(main())
