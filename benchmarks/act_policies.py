"""The policies that benchmarks/act.py compares, and how they are evaluated: all in one loop."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.robots.action_config import ActionConfig
from vla_ros.scene_language.instructions import COLORS, DIRECTIONS, FAMILIES, SHAPES, Goal
from vla_ros.sim.arm import ArmWorld
from vla_ros.sim.conditions import evaluation_stage
from vla_ros.sim.tasks import Outcome, Task, sample_task
from vla_ros.training.evaluation import write_json
from vla_ros.training.rollout import Actor, Observation, Rollout

ACTION = ActionConfig.get_arm_config()
WORKER = Path(__file__).parent / "workers/act_lerobot.py"
MAKE_ENVIRONMENT = (
    "python3.11 -m venv /tmp/act_env && /tmp/act_env/bin/pip install lerobot==0.4.4, "
    "then --lerobot /tmp/act_env/bin/python"
)
LATENCY_TICKS = 2
TIMED = 300  # observations


def goal_code(goal: Goal) -> np.ndarray:
    """What is asked for, as ACT is told: one-hot family, colour, shape, direction; float32 [15]."""
    told = (
        (FAMILIES, goal.family),
        (COLORS, goal.color),
        (SHAPES, goal.shape),
        (DIRECTIONS, goal.direction),
    )
    return np.array([name == value for names, value in told for name in names], np.float32)


def worker_environment() -> dict[str, str]:
    """One thread, no look at a hub, and none of the paths of this environment."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def check_lerobot(python: Path) -> None:
    """Raises SystemExit, with the cure, where there is no LeRobot."""
    command = [str(python), "-c", "import lerobot.policies.act.modeling_act"]
    try:
        found = subprocess.run(command, env=worker_environment(), capture_output=True, text=True)
        told = found.stderr.strip().splitlines()[-1:] if found.returncode else None
    except OSError as error:
        told = [str(error)]
    if told is not None:
        raise SystemExit(f"{python} has no LeRobot ({''.join(told)}): {MAKE_ENVIRONMENT}")


# -- policies --------------------------------------------------------------------------------------


class Ours:
    """A checkpoint of this package."""

    def __init__(self, folder: Path) -> None:
        self._model = VisionLanguageActionModel.from_pretrained(folder)
        self.image_size = self._model.image_size
        self.parameters = sum(p.numel() for p in self._model.parameters())
        self.seconds: list[float] = []  # of processor time, for each observation

    def start(self, task: Task) -> Actor:
        episode = self._model.start(task.instruction)

        def act(observation: Observation) -> np.ndarray:
            began = time.process_time()
            tokens = self._model.encode(observation.images)
            chunk = episode.act(tokens, observation.proprioception).actions
            self.seconds.append(time.process_time() - began)
            return chunk

        return act

    def close(self) -> None:
        pass


class Act:
    """LeRobot's ACT behind a pipe; `seconds` is its own process' time, without the pipe."""

    def __init__(self, python: Path, folder: Path, ensembled: bool = False) -> None:
        how = "ensembled" if ensembled else "usual"
        self._process = subprocess.Popen(
            [str(python), str(WORKER), "serve", str(folder), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(),
        )
        told = json.loads(self._read_line())
        self.image_size, self.parameters = told["image_size"], told["parameters"]
        self._shape = (told["horizon"], told["width"])
        self.seconds: list[float] = []

    def start(self, task: Task) -> Actor:
        goal, first = goal_code(task.goal), True

        def act(observation: Observation) -> np.ndarray:
            nonlocal first
            self._process.stdin.write(observation_bytes(observation, goal, first))
            self._process.stdin.flush()
            first = False
            spent, chunk = parse_answer(self._read(8 + 4 * int(np.prod(self._shape))), self._shape)
            self.seconds.append(spent)
            return chunk

        return act

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _read_line(self) -> bytes:
        line = self._process.stdout.readline()
        return line or self._read(1)

    def _read(self, count: int) -> bytes:
        answer = self._process.stdout.read(count)
        if len(answer) < count:
            raise RuntimeError("ACT's process ended: see its words above")
        return answer


def observation_bytes(observation: Observation, goal: np.ndarray, first: bool) -> bytes:
    """What act_lerobot.serve reads."""
    images = np.ascontiguousarray(np.stack(observation.images))
    numbers = np.concatenate([observation.proprioception, goal]).astype(np.float32)
    return bytes([first]) + images.tobytes() + numbers.tobytes()


def parse_answer(answer: bytes, shape: tuple[int, int]) -> tuple[float, np.ndarray]:
    """What act_lerobot.serve answers: seconds, and the chunk [K, A]."""
    (spent,) = struct.unpack_from("<d", answer)
    return spent, np.frombuffer(answer, np.float32, offset=8).reshape(shape).astype(np.float64)


Maker = Callable[[], Ours | Act]

# -- evaluation ------------------------------------------------------------------------------------


def evaluate(make: Maker, out: Path, families: Sequence[str], seeds: range) -> dict[str, list]:
    """Judge's verdicts by family: [seed, success, reason] of each episode; kept in `out`."""
    if not out.exists():
        torch.set_num_threads(1)
        policy = make()
        rollout = Rollout(ArmWorld(), image_size=policy.image_size, dt=ACTION.dt)
        verdicts: dict[str, list] = {}
        for family in families:
            verdicts[family] = []
            for seed in seeds:
                stage = evaluation_stage(family, seed, (), LATENCY_TICKS)
                rollout.latency_ticks = stage.latency_ticks
                won = rollout.run(stage.task, policy.start(stage.task)) is Outcome.SUCCEEDED
                verdicts[family].append([seed, won, rollout.world.judge.reason])
        policy.close()
        write_json(out, {"parameters": policy.parameters, "verdicts": verdicts})
    return json.loads(out.read_text())


def inference_ms(policies: dict[str, Ours | Act]) -> dict[str, tuple[float, float]]:
    """Median and 95th percentile of one observation to a chunk, ms of processor time, in turns."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    task = sample_task("pick", 0)
    actors = {name: policy.start(task) for name, policy in policies.items()}
    for _ in range(TIMED + 20):
        for name, policy in policies.items():
            shape = (2, policy.image_size, policy.image_size, 3)
            images = list(rng.integers(256, size=shape, dtype=np.uint8))
            actors[name](Observation(images, np.array([0.45, 0, 0.2, 0.04], np.float32), None))
    found = {}
    for name, policy in policies.items():
        times = 1e3 * np.array(policy.seconds[-TIMED:])  # the first ones warm up
        found[name] = float(np.median(times)), float(np.quantile(times, 0.95))
    return found
