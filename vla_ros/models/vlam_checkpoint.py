"""What lies beside the weights in a checkpoint of the vision-language-action model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from vla_ros.models import checkpoint
from vla_ros.models.vlam_config import Statistics, VLAMConfig
from vla_ros.robots.action_config import ActionConfig

TYPE = "vlam"  # of policies, in config.json
STATISTICS = "statistics.json"
TOKENIZER = "tokenizer.json"


def texts(config: VLAMConfig, statistics: Statistics, tokenizer: Tokenizer) -> dict[str, str]:
    """The files, by name."""
    action = {**asdict(config.action), "robot_type": config.action.robot_type.value}
    shape = {"type": TYPE, **asdict(config), "action": action}
    numbers = {name: value.tolist() for name, value in vars(statistics).items()}
    return {
        checkpoint.CONFIG: json.dumps(shape, indent=1) + "\n",
        STATISTICS: json.dumps(numbers, indent=1) + "\n",
        TOKENIZER: tokenizer.to_str(pretty=True) + "\n",
    }


def read(folder: Path) -> tuple[VLAMConfig, Statistics, Tokenizer]:
    """What `texts` left in a folder.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing, also if it is that of the weights.
        ValueError: a file is damaged or does not fit the others, or another type of policy's.
    """
    checkpoint.require(folder, checkpoint.CONFIG, STATISTICS, TOKENIZER, checkpoint.WEIGHTS)
    config = _read_config(folder)
    statistics = _read_statistics(folder, config.action)
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # what the library raises has no class of its own
        raise checkpoint.damaged(folder, f"{TOKENIZER}: {error}") from error
    return config, statistics, tokenizer


def _read_config(folder: Path) -> VLAMConfig:
    values = checkpoint.read_json(folder, checkpoint.CONFIG)
    if (named := values.pop("type", TYPE)) != TYPE:
        raise ValueError(
            f"checkpoint {folder} is of type {named!r}, not {TYPE!r}: load it by "
            "vla_ros.models.policy.load_policy, or choose another"
        )
    try:
        return VLAMConfig.from_dict(values)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise checkpoint.damaged(folder, error) from error


def _read_statistics(folder: Path, action: ActionConfig) -> Statistics:
    values = checkpoint.read_json(folder, STATISTICS)
    try:
        statistics = Statistics(**{k: np.array(v, dtype=np.float64) for k, v in values.items()})
    except (ValueError, TypeError) as error:
        raise checkpoint.damaged(folder, f"{STATISTICS}: {error}") from error
    if problem := statistics.problem(action):
        raise checkpoint.damaged(folder, f"{STATISTICS}: {problem}")
    return statistics
