"""The life-cycle node that the others build on.

A node fills in four hooks. `configure` reads parameters and loads the model, and raises
ValueError or OSError with the cure when it cannot; `activate` subscribes; `deactivate` sends what
makes the robot safe; `cleanup` lets go of the model. What `publisher`, `subscribe` and `every`
create is destroyed by the base at the right transition.

Everything happens in the one thread that spins the node, so a model is never called twice at once.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lifecycle_msgs.msg import State
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode as RclpyLifecycleNode
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from vla_ros.ros import qos
from vla_ros.ros.latched_or_not import LatchedOrNot
from vla_ros.ros.parameters import AUTOSTART, Parameter, Parameters
from vla_ros.ros.texts import kind, shorten

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR

_LAST_WORDS = Duration(seconds=0.3)  # for each publisher to be heard before the process ends
_EDGES = 4  # lines about one condition in a row; then one in a second
OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN


class LifecycleNode(RclpyLifecycleNode):
    """Raises ParameterError when a parameter is out of bounds."""

    def __init__(self, name: str, table: dict[str, Parameter], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.failure = ""  # why the last transition failed
        self._while_active: list[Callable[[], Any]] = []
        self._while_configured: list[Callable[[], Any]] = []
        self._edges: dict[str, str] = {}  # what `log_edge` was told of each condition
        # What it logged, when (s), and how many lines more it may log then.
        self._logged: dict[str, tuple[str, float, float]] = {}
        self.params = Parameters(
            self, {"autostart": AUTOSTART, **table}, lambda: self.state != "unconfigured"
        )
        self._shorten_labels()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.standard())
        # Steady time: a node must be able to say that the ROS clock has stopped.
        self.create_timer(
            1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def _shorten_labels(self) -> None:
        """Of transitions that others ask for: rcl logs one that is unknown as long as it is."""
        service = self._service_change_state  # rclpy has no public way to look at a request first
        change_state = service.callback

        def check(request: Any, response: Any) -> Any:
            request.transition.label = shorten(request.transition.label)
            return change_state(request, response)

        service.callback = check

    # --- hooks ------------------------------------------------------------------------------

    def configure(self) -> None:
        """Get ready. Raise ValueError or OSError, naming the cure, when that is impossible."""

    def activate(self) -> None:
        """Subscribe and begin; the same errors as `configure`."""

    def deactivate(self) -> None:
        """Leave everything safe; publishers still work."""

    def cleanup(self) -> None:
        """Let go of what `configure` made; called also when that failed half-way."""

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Return level, message and details for /diagnostics; called at 1 Hz while active."""
        return OK, "running", {}

    # --- helpers ----------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Label of the primary state: unconfigured, inactive, active or finalized."""
        return self._state_machine.current_state[1]

    @property
    def now(self) -> float:
        """Seconds on the node's clock (simulation time when use_sim_time is set)."""
        return self.get_clock().now().nanoseconds * 1e-9

    def publisher(self, message_type: type, topic: str, profile: QoSProfile) -> Any:
        """A publisher that speaks while the node is active. Use in `configure`.

        A message that the middleware cannot send is lost, with a warning; the caller goes on.
        """
        publisher = self.create_lifecycle_publisher(message_type, topic, profile)
        publish = publisher.publish

        def try_to_publish(message: Any) -> None:
            problem = ""
            try:
                publish(message)
            except rclpy_implementation.RCLError as error:
                problem = f"cannot publish {topic}: {error}"
            self.log_edge(f"publish {topic}", problem)

        publisher.publish = try_to_publish
        self._while_configured.append(lambda: self.destroy_lifecycle_publisher(publisher))
        return publisher

    def subscribe(
        self,
        message_type: type,
        topic: str,
        callback: Callable,
        profile: QoSProfile,
        raw: bool = False,
    ) -> None:
        """Subscribe while the node is active, `raw` for serialized messages. Use in `activate`."""
        subscription = self.create_subscription(message_type, topic, callback, profile, raw=raw)
        self._while_active.append(lambda: self.destroy_subscription(subscription))

    def subscribe_latched_or_not(
        self, message_type: type, topic: str, callback: Callable, raw: bool = False
    ) -> None:
        """Subscribe while the node is active to latched and volatile publishers alike: to what the
        first said before, and to `ros2 topic pub`. `callback` is given the message and its info.
        """
        heard = LatchedOrNot(callback)
        self.subscribe(message_type, topic, heard.live, qos.standard(), raw)
        self.subscribe(message_type, topic, heard.retained, qos.latched(), raw)

    def every(self, period: float, callback: Callable[[], None], steady: bool = False) -> None:
        """Call back every `period` s while the node is active. Use in `activate`.

        The time is ROS time, or `steady` time, which runs when there is no simulation too.
        """
        clock = Clock(clock_type=ClockType.STEADY_TIME) if steady else None
        timer = self.create_timer(period, callback, clock=clock)
        self._while_active.append(lambda: self.destroy_timer(timer))

    def log_edge(self, topic: str, problem: str) -> None:
        """Log when the condition named `topic` changes: a warning, and one line when it ends.

        `problem` is the present state of that condition in words, "" when all is well. Texts that
        differ only in their numbers are of one fault. One that comes and goes again and again is
        logged once a second.
        """
        self._edges[topic] = shorten(problem)
        self._log_change(topic)

    def _log_change(self, topic: str) -> None:
        problem = self._edges[topic]
        before, at, lines = self._logged.get(topic, ("", 0.0, _EDGES))
        if problem == before or kind(problem) == kind(before):
            return
        now = time.monotonic()
        lines = min(lines + now - at, _EDGES)
        if lines < 1.0:  # asked again with the next diagnostics
            return
        self._logged[topic] = problem, now, lines - 1.0
        if problem:
            self.get_logger().warning(problem)
        else:
            self.get_logger().info(f"no longer: {before}")

    def bring_up(self) -> str:
        """Configure and activate; return "" or the reason for which that failed."""
        if self.state == "unconfigured" and self.trigger_configure() != SUCCESS:
            return self.failure
        if self.state == "inactive" and self.trigger_activate() != SUCCESS:
            return self.failure
        return ""

    def bring_down(self) -> None:
        """Deactivate when active: called before the process ends, with which go unsent messages."""
        if self.state == "active":
            self.trigger_deactivate()
            for publisher in self.publishers:
                publisher.wait_for_all_acked(_LAST_WORDS)

    # --- transitions ------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._attempt(self.configure)
        if result != SUCCESS:
            self._release()
            return result
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)  # publishers first: activate() may publish
        if result == SUCCESS:
            result = self._attempt(self.activate)
        if result != SUCCESS:
            self._undo(self._while_active)
            super().on_deactivate(state)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._undo(self._while_active)
        result = self._attempt(self.deactivate)
        super().on_deactivate(state)
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if state.state_id == State.PRIMARY_STATE_ACTIVE:
            self.on_deactivate(state)
        self._release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return SUCCESS

    def _attempt(self, hook: Callable[[], None]) -> TransitionCallbackReturn:
        self.failure = ""
        try:
            hook()
        except (ValueError, OSError) as error:
            self.failure = shorten(str(error))
            self.get_logger().error(f"cannot {hook.__name__}: {self.failure}")
            return FAILURE
        except Exception as error:  # rclpy would swallow it without a word
            self.failure = shorten(f"{type(error).__name__}: {error}")
            self.get_logger().error(f"{hook.__name__} failed:\n{traceback.format_exc()}")
            return ERROR
        return SUCCESS

    def _release(self) -> None:
        self._undo(self._while_active)
        self.cleanup()
        self._undo(self._while_configured)
        self._edges.clear()
        self._logged.clear()

    @staticmethod
    def _undo(actions: list[Callable[[], Any]]) -> None:
        while actions:
            actions.pop()()

    def _publish_diagnostics(self) -> None:
        for topic in self._edges:
            self._log_change(topic)
        level, message, details = OK, self.state, {}
        if self.state == "active":
            level, message, details = self.diagnose()
        elif self.failure:
            level, message = DiagnosticStatus.ERROR, self.failure
        status = DiagnosticStatus(
            level=level,
            name=self.get_fully_qualified_name(),
            message=shorten(message),
            hardware_id="",
            values=[KeyValue(key=key, value=shorten(str(v))) for key, v in details.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)
