"""What tests of running nodes share: a node as its own process, and a probe to talk to it."""

import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import Header

from vla_ros.robots import panda
from vla_ros.ros.messages import joint_state_message, to_time
from vla_ros.ros.running import choose_transport

# s: a busy machine takes long to start a process, and to let it be discovered. With three times as
# many programs as cores, a node that loads a model was up after 70 s.
PATIENCE = 180.0
_ANSWER_TIME = 15.0  # s after which a service is asked again


def wait_for(condition, timeout=PATIENCE):
    """Wait for the condition to hold; return its value."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"waited {timeout} s in vain")


_MOST_GONE = 8  # nodes that may be on the network though they are destroyed
_gone = []


@contextlib.contextmanager
def nodes_of(kind, **defaults):
    """What makes nodes of a kind in this process, of a checkpoint's folder and parameters."""
    context, nodes = Context(), []
    rclpy.init(context=context)

    def make(folder, **parameters):
        parameters = {"checkpoint": str(folder), **defaults, **parameters}
        overrides = [Parameter(key, value=value) for key, value in parameters.items()]
        nodes.append(kind(context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()
    _gone.extend([kind.__name__] * len(nodes))
    if len(_gone) >= _MOST_GONE:  # see no_participants_left in conftest.py
        nodes.clear()
        gc.collect()
        _gone.clear()


def header(stamp):
    return Header(stamp=to_time(stamp), frame_id="camera_optical_frame")


def feel(node, stamp, joints=panda.HOME):
    """Let a node hear joint states."""
    node._on_joint_states(joint_state_message(panda.JOINT_NAMES, joints, header(stamp)))


class NodeProcess:
    """One node in its own process. Its output is kept for the asserts."""

    def __init__(self, folder: Path, namespace: str, node: str, *arguments: str) -> None:
        self.log = folder / f"{node}-{time.monotonic_ns()}.txt"
        command = [sys.executable, "-m", f"vla_ros.nodes.{node}", "--ros-args"]
        command += ["-r", f"__ns:={namespace}", *arguments]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """Ask it to end as a launch system does; return the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        try:
            return self._process.wait(timeout=PATIENCE)
        finally:
            self.kill()


class Probe:
    """A node that spins in a thread of its own and keeps what it hears.

    `heard` has a list of (time, message) for each topic listened to. The time is the one of
    publication, s of the system clock: a test that is slow to hear sees no late messages.
    """

    def __init__(self, name: str, namespace: str) -> None:
        choose_transport()
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(name, namespace=namespace, context=self.context)
        self.heard: dict[str, list] = {}
        self._clients: dict[str, object] = {}
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin)

    def start(self) -> None:
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException, ShutdownException):
            self.executor.spin()

    def close(self) -> None:
        self.executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        self.context.try_shutdown()

    # --- topics -----------------------------------------------------------------------------

    def listen(self, kind, topic, profile):
        heard = self.heard[topic] = []

        def hear(message, info):
            heard.append((info["source_timestamp"] / 1e9, message))

        return self.node.create_subscription(kind, topic, hear, profile)

    def publishers(self, topic) -> list[str]:
        """Names of the nodes that publish it, as far as they are known."""
        return [one.node_name for one in self.node.get_publishers_info_by_topic(topic)]

    def messages(self, topic, since=0.0) -> list:
        """Those published since then."""
        return [message for at, message in self.heard[topic] if at > since]

    def next_at(self, topic, fits=lambda message: True, timeout=PATIENCE):
        """Time and message of the first that fits, published from now on."""
        start = time.time()

        def found():
            return next((x for x in self.heard[topic] if x[0] > start and fits(x[1])), None)

        return wait_for(found, timeout)

    def next(self, topic, fits=lambda message: True, timeout=PATIENCE):
        """The first message that fits, published from now on."""
        return self.next_at(topic, fits, timeout)[1]

    # --- services ---------------------------------------------------------------------------

    def client(self, kind, service):
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
        return self._clients[service]

    def call(self, kind, service, request):
        """The answer of a service.

        A server that has not discovered a new client yet answers nobody, so it is asked again.
        Servers discover clients in the order in which they were made: one that has answered will
        not lose an answer to an earlier client.
        """
        client = self.client(kind, service)
        assert client.wait_for_service(PATIENCE), f"no service {service}"
        for _ in range(int(PATIENCE / _ANSWER_TIME)):
            future = client.call_async(request)
            with contextlib.suppress(AssertionError):
                wait_for(future.done, _ANSWER_TIME)
                return future.result()
        raise AssertionError(f"no answer from {service}")
