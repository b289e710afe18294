"""The scene of these seconds: what was read from several pictures, one after another.

A reading may mistake a shape, or miss what the arm hides; what most readings agree on is there.
"""

from __future__ import annotations

from collections import Counter, deque

from vla_ros.scene_language.scenes import Name, Scene, Thing


class RecentScenes:
    """Scenes as they were read, newest last.

    Args:
        life: s, how old one may be to count.
        most: how many count.
    """

    def __init__(self, life: float = 5.0, most: int = 5) -> None:
        self.life = life
        self._scenes: deque[tuple[float, Scene]] = deque(maxlen=most)

    def add(self, stamp: float, scene: Scene) -> None:
        """Take a reading of `stamp` (s). One that is older than the newest begins anew: the clock
        was set back."""
        if self._scenes and stamp < self._scenes[-1][0]:
            self._scenes.clear()
        self._scenes.append((stamp, scene))

    def forget(self, before: float) -> None:
        """Drop readings of before that time: the scene has been changed since."""
        while self._scenes and self._scenes[0][0] < before:
            self._scenes.popleft()

    def at(self, now: float) -> Scene | None:
        """What the readings of the last `life` seconds agree on; None if there are none.

        Of things that cannot be told apart by their colour, the shape that was read most often
        stands, of equally many the newest; what half of them or fewer saw is left out. Places,
        gripper and what it holds are those of the newest reading.
        """
        scenes = [scene for stamp, scene in self._scenes if now - stamp <= self.life]
        if not scenes:
            return None
        seen = Counter(name for scene in scenes for name, _ in scene.things)
        newest: dict[Name, Thing] = {}
        order: dict[Name, int] = {}
        for number, scene in enumerate(scenes):
            for thing in scene.things:
                newest[thing.name], order[thing.name] = thing, number
        things = []
        for color in dict.fromkeys(name.color for name in seen):
            names = [name for name in seen if name.color == color]
            if sum(seen[name] for name in names) * 2 <= len(scenes):
                continue
            # Two of one colour are there if most readings saw both at once.
            together = Counter(
                sum(name.color == color for name, _ in scene.things) for scene in scenes
            )
            count = max(together.most_common(1)[0][0], 1)
            names.sort(key=lambda name: (seen[name], order[name]), reverse=True)
            things += [newest[name] for name in names[:count]]
        last = scenes[-1]
        holds = last.holds if last.holds in [thing.name for thing in things] else None
        opened = last.open and holds is None
        return Scene(tuple(things), last.gripper, opened, holds)
