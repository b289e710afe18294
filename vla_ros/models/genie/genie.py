"""The world model: what a camera will show next, if the robot does this (Genie, section 2.2).

    world = WorldModel.from_pretrained(folder)
    dream = world.start()
    for frame in camera: surprise = dream.observe(frame).surprise
    for frame, code in dream.imagine(8, latent_actions=[3] * 8): ...

Frames are `config.dt` apart. A frame costs the same however many came before: every part keeps the
keys and values of the few frames that it can see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.models.genie.config import WorldModelConfig
from vla_ros.models.genie.dynamics import Dynamics
from vla_ros.models.genie.latent_actions import FramePast, LatentActionEncoder, LatentActionModel
from vla_ros.models.genie.robot_actions import RobotActions
from vla_ros.models.genie.st_transformer import Past
from vla_ros.models.genie.surprise import Unexpected, rarity, unexpected
from vla_ros.models.genie.tokenizer import VideoTokenizer
from vla_ros.models.part import Part

_LIKELY = 0.05  # of an action, to be among those that an expectation is made of

_ROUNDS = 4  # of MaskGIT for a frame; eight take twice the time and gain 0.2 dB


class WorldModel(Part):
    """Video tokenizer, encoder of latent actions, dynamics, and what maps robot actions."""

    Config = WorldModelConfig

    def __init__(self, config: WorldModelConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or WorldModelConfig()
        self.tokenizer = VideoTokenizer(c.tokenizer)
        self.latent_actions = LatentActionEncoder(c.latent_actions)
        self.dynamics = Dynamics(c.dynamics)
        self.robot = RobotActions(c.robot) if c.robot else None

    @classmethod
    def from_size(cls, size: str, **changes) -> WorldModel:
        """An untrained model of `config.SIZES`; `changes` replace fields of WorldModelConfig.

        Raises:
            ValueError: there is no such size.
        """
        return cls(WorldModelConfig.of(size, **changes))

    @classmethod
    def of_parts(
        cls,
        tokenizer: VideoTokenizer,
        latent_actions: LatentActionModel,
        dynamics: Dynamics,
        robot: RobotActions | None = None,
        **changes,
    ) -> WorldModel:
        """Put trained parts together; the latent action model's decoder has done its work.

        Raises:
            ValueError: they do not fit each other.
        """
        model = cls(
            WorldModelConfig(
                tokenizer.config,
                latent_actions.config,
                dynamics.config,
                robot.config if robot else None,
                **changes,
            )
        )
        for own, trained in (
            (model.tokenizer, tokenizer),
            (model.latent_actions, latent_actions.encoder),
            (model.dynamics, dynamics),
            (model.robot, robot),
        ):
            if own is not None:
                own.load_state_dict(trained.state_dict())
        return model.eval()

    @property
    def image_size(self) -> int:
        """Pixels of either side of a frame."""
        return self.config.tokenizer.image_size

    @property
    def codes(self) -> int:
        """Number of latent actions."""
        return self.config.dynamics.actions

    def start(self, seed: int = 0) -> Dream:
        """Begin with no memory. The same seed and frames give the same imaginations."""
        return Dream(self, seed)


@dataclass(frozen=True)
class Observed:
    """What a frame told. All are None for the first."""

    surprise: float | None  # see `surprise.rarity`: above 2 is one frame in 100
    latent_action: int | None  # that led to it, as the model sees it
    unexpected: Unexpected | None  # what the surprise is made of


class Imagined(NamedTuple):
    """A frame to come."""

    frame: np.ndarray  # uint8 [S, S, 3]
    latent_action: int  # that leads to it


@dataclass(frozen=True)
class _Memory:
    """The past of each part, and what it thinks will be done."""

    encoder: Past | None = None
    decoder: Past | None = None
    latent: FramePast | None = None
    dynamics: Past | None = None
    prior: Tensor | None = None  # logits [A]
    last: Tensor | None = None  # the frame that was seen last, [1, 3, S, S]
    tokens: Tensor | None = None  # its tokens, [N]


class Dream:
    """A session of the world model: it watches, and imagines from what it saw."""

    def __init__(self, world: WorldModel, seed: int) -> None:
        self._world, self._seed = world, seed
        self._memory = _Memory()
        self._count = 0  # frames seen

    @torch.inference_mode()
    def observe(
        self,
        frame: np.ndarray,
        *,
        latent_action: int | None = None,
        actions: np.ndarray | None = None,
        proprioception: np.ndarray | None = None,
    ) -> Observed:
        """See the next frame, `dt` after the one before.

        Args:
            frame: uint8 [S, S, 3].
            latent_action: that was meant to lead to it.
            actions: or what the robot was told in between, [P, A], physical units.
            proprioception: with `actions`: float [F], felt when it began.

        Returns:
            The surprise is given the action, or over all actions that could have been: those that
            the model thinks likely count more; see models/genie/surprise.py.

        Raises:
            ValueError: wrong size or type, unknown code, both actions, or robot actions that the
                model was not trained on.
        """
        pixels = self._pixels(frame)
        chances = self._chances(latent_action, actions, proprioception)
        world, old = self._world, self._memory
        tokens, encoder = world.tokenizer.encode_step(pixels, old.encoder)
        code, latent = world.latent_actions.step(pixels, old.latent)
        observed = Observed(None, None, None)
        if old.dynamics is not None:
            moved = (pixels[0, 0] - old.last[0]).abs().amax(0)
            moved = F.max_pool2d(moved[None], world.config.tokenizer.patch)[0]
            found = unexpected(self._expected(chances), tokens[0, 0], old.tokens, moved)
            surprise = rarity(found, world.config.calibration)
            observed = Observed(surprise, int(code), found)
        self._memory = replace(
            old, encoder=encoder, latent=latent, last=pixels[:, 0], tokens=tokens[0, 0]
        )
        self._memory = self._after(tokens, code if self._count else None)
        self._count += 1
        return observed

    def imagine(
        self,
        horizon: int | None = None,
        *,
        latent_actions: Sequence[int] | None = None,
        actions: np.ndarray | None = None,
        proprioception: np.ndarray | None = None,
        steps: int = _ROUNDS,
        temperature: float = 0.5,
        randomness: float = 1.0,
    ) -> Iterator[Imagined]:
        """What comes next; the session's memory stays as it is.

        Args:
            horizon: frames; as many as there are actions if left out.
            latent_actions: one a frame.
            actions: or the robot's plan, [H * P, A], physical units; offsets from the tool are
                told from where it is now. Frames beyond it follow the actions that the model thinks
                most likely.
            proprioception: with `actions`: float [F], felt now.
            steps, temperature, randomness: see `Dynamics.sample`.

        Returns:
            Frames as they are imagined. With neither kind of actions, those that the model thinks
            most likely.

        Raises:
            ValueError: nothing was seen yet, a horizon that is too short or too long or does not
                fit the actions, or as `observe`.
        """
        codes = self._codes(horizon, latent_actions, actions, proprioception)
        return self._imagine(self._seen(), codes, steps, temperature, randomness)

    def play(
        self,
        latent_actions: Iterable[int],
        *,
        steps: int = _ROUNDS,
        temperature: float = 0.5,
        randomness: float = 1.0,
    ) -> Iterator[Imagined]:
        """As `imagine`, by latent actions that are chosen while one looks: each is taken when its
        frame is asked for. Ends with them, or with the longest imagination.

        Raises:
            ValueError: nothing was seen yet; when its frame is asked for, an unknown code.
        """
        codes = map(self._check, islice(latent_actions, self._world.config.longest))
        return self._imagine(self._seen(), codes, steps, temperature, randomness)

    def _seen(self) -> _Memory:
        if self._memory.dynamics is None:
            raise ValueError("nothing was seen yet: observe a frame before imagining")
        return self._memory

    # -- the steps ---------------------------------------------------------------------------------

    def _imagine(
        self,
        memory: _Memory,
        codes: Iterable[int | None],
        steps: int,
        temperature: float,
        randomness: float,
    ) -> Iterator[Imagined]:
        generator = torch.Generator().manual_seed(self._seed + self._count)
        for chosen in codes:
            with torch.inference_mode():
                code = memory.prior.argmax(-1) if chosen is None else torch.tensor(chosen)
                code = code.reshape(1)
                tokens = self._world.dynamics.sample(
                    code,
                    memory.dynamics,
                    steps=steps,
                    temperature=temperature,
                    randomness=randomness,
                    generator=generator,
                )
                frame, decoder = self._world.tokenizer.decode_step(
                    tokens[:, None], memory.decoder, memory.last
                )
                _, prior, past = self._world.dynamics.step(tokens, code, memory.dynamics)
                memory = replace(memory, decoder=decoder, dynamics=past, prior=prior[0])
                picture = (frame[0, 0] * 255).round().to(torch.uint8).permute(1, 2, 0)
            yield Imagined(np.ascontiguousarray(picture.numpy()), int(code))

    def _after(self, tokens: Tensor, code: Tensor | None) -> _Memory:
        """The memory with a seen frame's tokens [1, 1, N] and the action that led to it."""
        old, world = self._memory, self._world
        _, decoder = world.tokenizer.decode_step(tokens, old.decoder, pixels=False)
        _, prior, past = world.dynamics.step(tokens[:, 0], code, old.dynamics)
        return replace(old, decoder=decoder, dynamics=past, prior=prior[0])

    def _expected(self, chances: Tensor | None) -> Tensor:
        """Probabilities [N, V] of the tokens of the next frame, whichever action leads to it."""
        if chances is None:
            chances = self._memory.prior.softmax(-1)
        likely = (chances > _LIKELY).nonzero()[:, 0]
        weight = chances[likely] / chances[likely].sum()
        dynamics, rows = self._world.dynamics, len(likely)
        hidden = torch.full((rows, dynamics.config.tokens), dynamics.hidden)
        past = [
            tuple(kept.expand(rows, *kept.shape[1:]) for kept in layer)
            for layer in self._memory.dynamics
        ]
        logits = dynamics.step(hidden, likely, past)[0].float()
        return (weight[:, None, None] * logits.softmax(-1)).sum(0)

    # -- what is asked for -------------------------------------------------------------------------

    def _pixels(self, frame: np.ndarray) -> Tensor:
        size = self._world.image_size
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
            kind = getattr(frame, "dtype", type(frame).__name__)
            raise ValueError(f"a frame is uint8 [{size}, {size}, 3], not {kind}")
        if frame.shape != (size, size, 3):
            raise ValueError(
                f"a frame is uint8 [{size}, {size}, 3], not {list(frame.shape)}: scale it with "
                "observations.preprocess_image"
            )
        pixels = torch.from_numpy(np.array(frame)).float() / 255
        return pixels.permute(2, 0, 1)[None, None]

    def _chances(
        self,
        latent_action: int | None,
        actions: np.ndarray | None,
        proprioception: np.ndarray | None,
    ) -> Tensor | None:
        """Probabilities [A] of the action of one step; None: nothing is known of it."""
        if latent_action is not None and actions is not None:
            raise ValueError("give robot actions or a latent action, not both")
        if latent_action is not None:
            self._check(latent_action)
            return torch.eye(self._world.codes)[latent_action]
        if actions is None:
            return None
        chances = self._of_robot(actions, proprioception)
        if len(chances) != 1:
            points = self._world.config.robot.points
            raise ValueError(f"{len(actions)} robot actions led to the frame: give {points}")
        return chances[0]

    def _codes(
        self,
        horizon: int | None,
        latent_actions: Sequence[int] | None,
        actions: np.ndarray | None,
        proprioception: np.ndarray | None,
    ) -> list[int | None]:
        if latent_actions is not None and actions is not None:
            raise ValueError("give robot actions or latent actions, not both")
        codes: list[int | None] | None = None
        if latent_actions is not None:
            codes = [self._check(code) for code in latent_actions]
        elif actions is not None:
            codes = self._of_robot(actions, proprioception).argmax(-1).tolist()
            codes += [None] * ((horizon or 0) - len(codes))
        if horizon is None:
            if codes is None:
                raise ValueError("give a horizon, or actions")
            horizon = len(codes)
        longest = self._world.config.longest
        if not 1 <= horizon <= longest:
            raise ValueError(f"the horizon is {horizon} frames: give 1 to {longest}")
        if codes is not None and len(codes) != horizon:
            raise ValueError(f"the horizon is {horizon} frames, but there are {len(codes)} actions")
        return [None] * horizon if codes is None else codes

    def _check(self, code: int) -> int:
        if not 0 <= code < self._world.codes:
            raise ValueError(f"latent action {code} is unknown: give 0 to {self._world.codes - 1}")
        return int(code)

    @torch.inference_mode()
    def _of_robot(self, actions: np.ndarray, proprioception: np.ndarray | None) -> Tensor:
        robot = self._world.robot
        if robot is None:
            raise ValueError("this world model was trained without robot actions: give latent ones")
        if proprioception is None:
            if robot.config.proprioception_names:
                names = ", ".join(robot.config.proprioception_names)
                raise ValueError(f"robot actions need proprioception: {names}")
            proprioception = np.zeros(0)
        plan, felt = (
            torch.from_numpy(np.array(value, dtype=np.float32))
            for value in (actions, proprioception)
        )
        return robot.rollout(plan, felt)
