"""A look at the scene before something is begun: the narrator is asked what is there now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rclpy.node import Node
from rclpy.task import Future

from vla_ros.ros.messages import seconds
from vla_ros.srv import Ask

# s, ROS time, that the narrator may take, and its eye for a picture of after the question
PATIENCE = 5.0
_QUESTION = "what does the gripper hold?"  # any: what is wanted is the scene that comes with it

# Called with the spatial tokens of the scene, or with none and the reason.
Tell = Callable[[Sequence[str], str], None]


class SceneLook:
    """Asks for the scene on behalf of a node, whose thread calls everything here.

    Args:
        node: its service `ask` is that of the narrator, by the node's names and remappings.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._client = node.create_client(Ask, "ask")
        self._tell: Tell | None = None  # who waits for an answer
        # s, ROS time, of the question: older pictures may show what was there before.
        self._since = 0.0
        self._again = False  # the newest picture was one of those, or there was none
        self._why = ""  # there was none, in the narrator's words

    def destroy(self) -> None:
        self._tell = None
        self._node.destroy_client(self._client)

    def ask(self, tell: Tell) -> bool:
        """Ask what is there from now on; `tell` is called once, unless another question or `forget`
        comes first.

        Returns whether there is a narrator to ask. Without one `tell` is not called.
        """
        self.forget()
        if not self._client.service_is_ready():
            return False
        self._tell, self._since, self._why = tell, self._now(), ""
        self._look()
        return True

    def forget(self) -> None:
        """Nobody waits any more."""
        self._tell = None

    def watch(self) -> None:
        """Ask again after an old picture or none, and give up in the end; to be called often."""
        if self._tell is None:
            return
        if self._since == 0.0:  # there was no clock yet
            self._since = self._now()
        if not 0.0 <= self._now() - self._since <= PATIENCE:  # less: the clock began anew
            what = "has seen no new picture" if self._again else "has not answered"
            self._answer((), self._why or f"the narrator {what} for {PATIENCE:g} s")
        elif self._again:
            self._look()

    def _now(self) -> float:
        return self._node.get_clock().now().nanoseconds * 1e-9

    def _look(self) -> None:
        tell, self._again = self._tell, False
        answer = self._client.call_async(Ask.Request(question=_QUESTION))
        answer.add_done_callback(lambda future: self._on_answer(tell, future))

    def _on_answer(self, tell: Tell, answer: Future) -> None:
        if self._tell is not tell:
            return
        response = answer.result()
        if response is None or not response.scene:  # it may have just come up
            self._again = True
            self._why = response.message if response else "the narrator gave no answer"
        elif seconds(response.stamp) < self._since:
            self._again, self._why = True, ""
        else:
            self._answer(response.scene, "")

    def _answer(self, scene: Sequence[str], why: str) -> None:
        tell, self._tell = self._tell, None
        tell(scene, why)
