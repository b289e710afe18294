"""The service `imagine_scene`: what a text looks like, painted when its node has the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from std_msgs.msg import Header

from vla_ros.checkpoints import resolve
from vla_ros.ros.lifecycle import LifecycleNode
from vla_ros.ros.messages import image_message
from vla_ros.ros.texts import shorten
from vla_ros.srv import ImagineScene

if TYPE_CHECKING:
    from vla_ros.models.scenes.cycle import CycleScenes

_Answer = ImagineScene.Response


class ImaginedScenes:
    """Takes what is asked for; the node, whose thread calls everything here, says when to paint.

    Args:
        node: its service it is, from now on and for as long as the node lives, so that every call
            is answered.
        wake: called when there is something to paint.
    """

    def __init__(self, node: LifecycleNode, wake: Callable[[], None]) -> None:
        self._node, self._wake = node, wake
        self._model: CycleScenes | None = None
        self._waiting: deque[tuple[ImagineScene.Request, Header, Future]] = deque()
        # A group of its own, as an unfinished call would keep the others of its group waiting.
        group = ReentrantCallbackGroup()
        node.create_service(ImagineScene, "imagine_scene", self._on_call, callback_group=group)

    def __bool__(self) -> bool:
        """Whether a text waits to be painted."""
        return bool(self._waiting)

    def load(self, checkpoint: str) -> None:
        """Use a checkpoint by name or folder; "": none.

        Raises:
            ValueError, OSError: it is none of text -> scene -> text.
        """
        self._model = None
        if checkpoint:
            # Only now: the grammar takes a third of a second, which is for nothing without it.
            from vla_ros.models.scenes.cycle import CycleScenes

            self._model = CycleScenes.from_pretrained(resolve(checkpoint))

    def paint_one(self) -> None:
        """Answer the call that has waited longest. It takes about as long as an imagined frame."""
        request, header, answer = self._waiting.popleft()
        try:
            answer.set_result(self._painted(request, header))
        except ValueError as error:
            answer.set_result(_refusal(error))

    def end(self, problem: str) -> None:
        """Refuse what still waits."""
        while self._waiting:
            self._waiting.popleft()[2].set_result(_refusal(problem))

    async def _on_call(self, request: ImagineScene.Request, _: _Answer) -> _Answer:
        try:
            return await self.ask(request)
        except ValueError as error:
            return _refusal(error)

    def ask(self, request: ImagineScene.Request) -> Future:
        """Of the answer. Raises ValueError when there is none to be had."""
        name = self._node.get_name()
        if self._node.state != "active":
            raise ValueError(f"{name} is {self._node.state}: configure and activate it first")
        if self._model is None:
            raise ValueError(
                f"{name} has no checkpoint of scenes: give its parameter scenes a name or a folder"
            )
        answer = Future()
        header = Header(stamp=self._node.get_clock().now().to_msg())
        self._waiting.append((request, header, answer))
        self._wake()
        return answer

    def _painted(self, request: ImagineScene.Request, header: Header) -> _Answer:
        """Raises ValueError: unknown words, none, or too many."""
        from vla_ros.models.scenes.reading import in_words

        imagined = self._model.imagine(request.text, request.seed)
        return _Answer(
            success=True,
            message=shorten(imagined.missing),
            image=image_message(imagined.image, header),
            caption=in_words(imagined.picture),
            tokens=imagined.caption,
            cycle_score=imagined.score,
        )


def _refusal(problem: object) -> _Answer:
    return _Answer(message=shorten(str(problem)))
