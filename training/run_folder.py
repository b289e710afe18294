"""The folder of a run: its settings and its data, which a run that goes on must share."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import set_seed

from vla_ros.training.curves import TABLE
from vla_ros.training.data.provenance import Provenance
from vla_ros.training.recipes import Settings

_LOG_EVERY = 25  # steps
# What may change from one part of a run to the next.
_FREE = ("workers", "threads", "loaders")
_CURE = "name another folder by --out, or remove this one to train anew"


def begin(
    settings: Settings,
    out: Path,
    identity: dict[str, Any],
    deepspeed: Path | None = None,
    keeps: Sequence[str] = (),
) -> transformers.TrainingArguments:
    """Make the folder of a run, or find that it is of the same run; seed everything.

    Args:
        settings: of the run.
        out: its folder.
        identity: all that makes it another run.
        deepspeed: a configuration file, see config/.
        keeps: what else in the folder depends on the settings, by name.

    A run that has not begun to train takes the settings as they are now. Of what lies at absolute
    paths the names count: `settle` knows its contents, wherever it lies.

    Raises:
        ValueError: the folder's run has other settings.
    """
    transformers.logging.set_verbosity_warning()
    args = transformers.TrainingArguments(
        output_dir=str(out),
        seed=settings.seed,
        max_steps=settings.total,
        logging_steps=_LOG_EVERY,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=settings.save_every,
        save_steps=settings.save_every,
        metric_for_best_model="loss",
        greater_is_better=False,
        ignore_data_skip=True,  # batches are drawn from the step on
        # DeepSpeed has an autocast of its own; its bf16 would keep the weights in bfloat16 too.
        bf16=settings.precision == "bf16" and deepspeed is None,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        ddp_timeout=4 * 3600,  # one process writes the shards of all
        deepspeed=None if deepspeed is None else str(deepspeed),
        report_to="none",
    )
    args._n_gpu = min(args.n_gpu, 1)  # several devices are the launcher's matter
    identity = json.loads(json.dumps(identity | {"deepspeed": deepspeed}, default=str))
    with args.main_process_first(local=False):
        agree(out, identity, keeps)
    torch.set_num_threads(settings.threads)
    set_seed(settings.seed)
    return args


def agree(out: Path, identity: Mapping[str, Any], keeps: Sequence[str] = ()) -> None:
    """Write out/run.json, or find that what it says is the same run.

    Args:
        out: folder of the run.
        identity: all that makes it another run, as JSON has it.
        keeps: as in `begin`.

    Raises:
        ValueError: the folder's run has other settings.
    """
    path, identity = out / "run.json", _placeless(dict(identity))
    kept = begun(out) or any((out / name).exists() for name in keeps)
    before = _settings(path) if kept and path.is_file() else identity
    # Runs of earlier versions know nothing of settings that came later, which are off then.
    off = {name for name, value in identity.items() if name not in before and not value}
    names = {*before, *identity} - off - set(_FREE)
    if other := sorted(n for n in names if before.get(n) != identity.get(n)):
        differences = ", ".join(f"{n} {before.get(n)} not {identity.get(n)}" for n in other)
        raise ValueError(f"{out} holds a run with {differences}: {_CURE}")
    if not (kept and path.is_file()):
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(".run.json.partial")
        partial.write_text(json.dumps(identity, indent=1) + "\n")
        os.replace(partial, path)


def begun(out: Path) -> bool:
    """Whether a run in this folder has trained and kept something of it."""
    found = newest_state(out) or next(out.glob("checkpoint-*"), None)
    return found is not None or any(
        (out / name).exists() for name in ("checkpoint", "adapters", "best", TABLE)
    )


def settle(out: Path, provenance: Provenance, keeps: Sequence[str] = ()) -> None:
    """Keep what a run is trained on, or find that it is what the run began with.

    Args:
        out: folder of the run.
        provenance: of its data, as they are now.
        keeps: as in `begin`; data there that do not tell what they were made from are believed.

    Raises:
        ValueError: the run has begun, and its data are no longer what they were.
    """
    before, changes = Provenance.load(out), []
    if before is not None:
        changes = before.differences(provenance)
    elif begun(out):
        changes = ["it does not tell on which"]
    if changes and (begun(out) or any((out / name).exists() for name in keeps)):
        raise ValueError(f"{out} holds a run on other data: {'; '.join(changes)}: {_CURE}")
    out.mkdir(parents=True, exist_ok=True)
    provenance.save(out)


def _placeless(settings: Any) -> Any:
    """The same settings, of any machine: the name of what an absolute path leads to."""
    if isinstance(settings, dict):
        return {name: _placeless(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_placeless(value) for value in settings]
    if isinstance(settings, str) and os.path.isabs(settings):
        return Path(settings).name
    return settings


def _settings(path: Path) -> dict[str, Any]:
    try:
        return _placeless(dict(json.loads(path.read_text())))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged: {_CURE}") from None


def state_folder(out: Path, step: int) -> Path:
    return out / "resume" / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def newest_state(out: Path) -> Path | None:
    return max((out / "resume").glob("step-*"), default=None)
