"""What the training programs of SpatialVLA are told, by the command line or a YAML or JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from transformers import HfArgumentParser, TrainingArguments

from vla_ros.models.spatial_vla.policy import PROMPT
from vla_ros.models.spatial_vla.tokenizer import MODES
from vla_ros.paths import check_folder, read_json
from vla_ros.training.data import settings_file
from vla_ros.training.spatial_vla.lora import TARGETS, Lora


def _told(help_: str, default: Any = None, **more: Any) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help_, **more})
    return field(default=default, metadata={"help": help_, **more})


@dataclass
class Tuning:
    """What of a model is trained."""

    freeze_vision_tower: bool = _told("leave the image encoder as it is", False)
    freeze_llm_embed: bool = _told("leave the embeddings of words as they are", True)
    freeze_language_model: bool = _told(
        "leave the language model as it is, but for action tokens", False
    )
    lora: int = _told("rank of LoRA adapters; 0: none, all that is not frozen is trained", 0)
    lora_alpha: float = _told("their sum is scaled by alpha / rank", 32.0)
    lora_dropout: float = _told("of what adapters take", 0.0)
    lora_target: list[str] = _told(
        f"what has adapters: {', '.join(TARGETS)}, or ends of names of linear layers", ["linear"]
    )
    modules_to_save: list[str] = _told(
        "trained whole beside adapters, such as spatial_embed_tokens", []
    )
    merge_lora: bool = _told("write the merged model too, as out/checkpoint", True)
    attn_implementation: str = _told("eager, flash_attention_2, ...; default: transformers'", "")

    def adapters(self) -> Lora | None:
        """Raises ValueError: see `Lora`."""
        if self.lora == 0:
            return None
        return Lora(
            self.lora, self.lora_alpha, self.lora_target, self.lora_dropout, self.modules_to_save
        )


@dataclass
class Start(Tuning):
    """What fine-tuning begins from."""

    model_name_or_path: str = _told("checkpoint folder of SpatialVLA, ours or published", "")
    adapt_emb: str = _told(
        "another grid of action tokens, of `vla fit-actions`, or `fit` to fit it to these data: "
        "embeddings and output are resampled onto it",
        "",
    )


@dataclass
class Beginning(Tuning):
    """What pretraining begins from."""

    vlm_path: str = _told("checkpoint folder of PaliGemma 2; empty: random weights", "")
    config: str = _told("of random weights: tiny, or a config.json of SpatialVLA", "tiny")
    grid: str = _told("grid of `vla fit-actions`; empty: it is fitted to the data", "")
    statistics: str = _told("its statistics, where they are not beside it", "")


@dataclass
class Data:
    """What is learned from."""

    data: list[str] = _told("recordings of one robot: bags, RLDS datasets, shards", [])
    robot: str = _told("what they are of: a preset, or a YAML file", "")
    msg: list[str] = _told("folders of .msg files", [])
    cameras: list[str] = _told("of the robot; default: those it names, or all", [])
    columns: list[str] = _told("the robot's names for x y z roll pitch yaw gripper, - for none", [])
    data_mix: str = _told("a mixture of datasets by name, or a YAML file, instead of --data", "")
    data_root_dir: str = _told("folder with the mixture's datasets, NAME/VERSION or NAME", "")
    exclude: list[str] = _told("datasets of the mixture to leave out", [])
    unnorm_key: str = _told(
        "name of the statistics; those of a checkpoint by that name are used; default: measured, "
        "and called by the robot or dataset",
        "",
    )
    prompt: str = _told("what is asked, with {} for the instruction", PROMPT)
    held_out: float = _told("share of the episodes that is not trained on", 0.1)
    augment: bool = _told("shift pictures, and change their light", False)
    mode: str = _told(f"of a new grid: {' or '.join(MODES)}", "corrected")
    min_sigma: float = _told("of a new grid: axes that vary less are taken to vary so much", 0.02)


@dataclass
class Training(TrainingArguments):
    """Of the Trainer, with the defaults of this package; bf16 and all others can be given."""

    output_dir: str = field(default="runs/spatial_vla", metadata={"help": "folder of the run"})
    learning_rate: float = field(default=2e-5, metadata={"help": "at its highest"})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "of the learning rate"})
    warmup_steps: float = field(default=0.005, metadata={"help": "steps, or a share below 1"})
    weight_decay: float = field(default=0.0, metadata={"help": "of AdamW"})
    logging_steps: float = field(default=10, metadata={"help": "steps"})
    save_steps: float = field(default=500, metadata={"help": "steps"})
    save_total_limit: int | None = field(default=3, metadata={"help": "checkpoints to go on from"})
    report_to: str | None = field(default="none", metadata={"help": "tensorboard, wandb, ..."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "samples have none"})
    fsdp: bool | None = field(
        default=None, metadata={"help": "shard the model; tuned by --fsdp_config"}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "default: the newest of the run in output_dir; `no` for none"},
    )


def parse(kinds: Sequence[type], given: Sequence[str], description: str) -> tuple[Any, ...]:
    """Dataclasses of what is told on the command line, or in the one file that it names.

    Raises:
        ValueError: a file with unknown keys or wrong types, values that do not go together, or
            something that this machine cannot do.
    """
    _check_extras(given)
    if len(given) == 1 and given[0].endswith((".yaml", ".yml", ".json")):
        path = Path(given[0])
        if not path.is_file():
            raise ValueError(f"{path} does not exist")
        values = read_json(path) if path.suffix == ".json" else settings_file.read(path)
        if not isinstance(values, dict):
            raise ValueError(f"{path} has no keys")
        known = [each.name for kind in kinds for each in dataclasses.fields(kind) if each.init]
        settings_file.check_keys(values, known, str(path))
        _check_extras([f"--{name}" for name, value in values.items() if value])
        given = [word for name, value in values.items() for word in _words(name, value)]
    parser = HfArgumentParser(kinds, description=description)
    parsed = parser.parse_args_into_dataclasses(given, look_for_args_file=False)
    return parsed


def _words(name: str, value: Any) -> list[str]:
    """A key of a file as words of the command line."""
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)] if value else []
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(value)]
    return [] if value is None else [f"--{name}", str(value)]


def _check_extras(given: Sequence[str]) -> None:
    """What is missing is told before anything is loaded, with the command that installs it."""
    options = {word.split("=")[0] for word in given}
    from importlib.util import find_spec

    for option, module, extra in (("--deepspeed", "deepspeed", "deepspeed"),):
        if option in options and find_spec(module) is None:
            raise ModuleNotFoundError(
                f"{option} needs {module}, which is not installed: pip install 'vla_ros[{extra}]'"
            )


def check(data: Data, args: Training) -> None:
    """Raises ValueError for what cannot be meant, before anything is read."""
    check_folder(Path(args.output_dir), "--output_dir")
    if bool(data.data) == bool(data.data_mix):
        raise ValueError("give either --data with --robot, or --data_mix with --data_root_dir")
    if data.data and not data.robot:
        raise ValueError("--data needs --robot: what the recorded actions mean")
    if data.data_mix and not data.data_root_dir:
        raise ValueError("--data_mix needs --data_root_dir, the folder with its datasets")
    if data.robot and data.data_mix:
        raise ValueError("--robot is for --data: datasets of a mixture tell what they are of")
    if not 0 <= data.held_out < 1:
        raise ValueError(f"--held_out is {data.held_out}: give 0 or more, below 1")
    if data.prompt.count("{}") != 1:
        raise ValueError(f"--prompt {data.prompt!r} must have {{}} once, for the instruction")
    if data.mode not in MODES:
        raise ValueError(f"--mode is {data.mode!r}: choose {' or '.join(MODES)}")
    if args.fsdp and args.deepspeed:
        raise ValueError("--fsdp and --deepspeed both shard the model: give one")
    for name in ("deepspeed", "fsdp_config"):
        value = getattr(args, name)
        if isinstance(value, str) and value.endswith(".json") and not Path(value).is_file():
            raise ValueError(f"--{name} {value} is no file: see config/training/")


def run(program: Callable[[Sequence[str]], None], given: Sequence[str] | None = None) -> int:
    """Call a training program; returns the exit code: 1 after an error, told in one line."""
    transformers.logging.set_verbosity_warning()
    try:
        program(list(sys.argv[1:] if given is None else given))
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        if os.environ.get("RANK", "0") == "0" or not isinstance(error, ValueError):
            print(f"error: {' '.join(str(error).split())[:2000]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130
    return 0
