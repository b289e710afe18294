"""An instruction while it is being followed: its subtasks, and how far it has come."""

from __future__ import annotations

from dataclasses import replace

from vla_ros.scene_language.references import Unresolved
from vla_ros.scene_language.requests import Subtask, ground, subtasks_of
from vla_ros.scene_language.scenes import Name, Place, Scene, Thing

FULFILLED = "fulfilled"


class Plan:
    """The subtasks of an instruction.

    Attributes:
        instruction: as it was given.
        subtasks: its parts, as they were said.
        outcomes: of those that have ended, FULFILLED or why not.
    """

    def __init__(self, instruction: str) -> None:
        self.instruction = instruction
        self.subtasks = subtasks_of(instruction) or [instruction]
        self.outcomes: list[str] = []
        self._about: Name | None = None  # what "it" is
        self._things: dict[Name, Place] = {}  # where each was when the scene was seen last

    @property
    def number(self) -> int:
        """Of the subtask that is to be done now, from 0."""
        return len(self.outcomes)

    @property
    def finished(self) -> bool:
        return self.number == len(self.subtasks)

    def check(self, scene: Scene) -> None:
        """Raises Unresolved if a later subtask is about what is not there at all, whatever the
        earlier ones do: nothing is begun that cannot be ended."""
        for later in self.subtasks[self.number + 1 :]:
            try:
                ground(later, scene, self._about)
            except Unresolved as error:
                if error.kind in ("absent", "impossible"):
                    raise Unresolved(error.kind, f"'{later}': {error}") from None

    def begin(self, scene: Scene | None) -> str:
        """What to tell the policy about the subtask that is to be done now.

        Args:
            scene: as it is; None: it is not known, and the words stay as they are.

        Raises:
            Unresolved: it cannot be done in this scene.
        """
        words = self.subtasks[self.number]
        if scene is None:
            self._about = None
            return words
        subtask: Subtask = ground(words, self._remembered(scene), self._about)
        self._about = subtask.thing
        return subtask.text

    def _remembered(self, scene: Scene) -> Scene:
        """The scene, with what was there before and not what was not.

        Nothing turns into another thing while it is moved: where one is read that was not there
        and one is missing, the first is taken for a misreading, and the other to be where it was.
        What is missing and nothing read in its place is gone.
        """
        now = {thing.name: thing.place for thing in scene.things}
        new = now.keys() - self._things.keys() if self._things else set()
        missing = self._things.keys() - now.keys()
        if new and missing:
            now = {name: place for name, place in now.items() if name not in new}
            now |= {name: self._things[name] for name in missing}
            holds = None if scene.holds in new else scene.holds
            things = tuple(Thing(name, place) for name, place in now.items())
            scene = replace(scene, things=things, holds=holds)
        self._things = now
        return scene

    def end(self, outcome: str) -> None:
        """The subtask has ended."""
        self.outcomes.append(outcome)

    def told(self) -> list[str]:
        """The outcome of each subtask, "" of those that were not begun."""
        return self.outcomes + [""] * (len(self.subtasks) - self.number)
