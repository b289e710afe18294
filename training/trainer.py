"""The Hugging Face Trainer as policies use it.

The Trainer owns the loop, precision, processes and progress. Here is what differs: a batch is a
function of (step, rank), so that a run that was killed draws the batches it would have drawn; what
a run saves is safetensors and JSON, nothing that is unpickled; and its folders are whole:

    checkpoint/               what the run came to
    best/                     the weights with the lowest loss on held-out episodes
    resume/step-N/            weights, optimizer and history to go on from
    losses.csv, losses.png    curves
    run.json                  the settings that a resumed run must share
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers.trainer_callback import ProgressCallback, TrainerCallback

from vla_ros.models import checkpoint
from vla_ros.models.vlam import VisionLanguageActionModel
from vla_ros.training.curves import TABLE, Curves, ProgressLine
from vla_ros.training.data.folders import whole_folder
from vla_ros.training.data.windows import Batch
from vla_ros.training.recipes import Settings
from vla_ros.training.run_folder import newest_state, state_folder, step_of

_OPTIMIZER = "optimizer.safetensors"
_STATE = "trainer_state.json"
_LAST_RATE = 0.02  # of the learning rate, at the end of the cosine


class Objective(nn.Module):
    """A policy and what it is trained for.

    Args:
        policy: the model.
        losses: takes the policy and a batch; returns losses by name.
        weights: of the losses in their sum, by name.
    """

    accepts_loss_kwargs = False  # the Trainer has nothing to pass on

    def __init__(
        self,
        policy: VisionLanguageActionModel,
        losses: Callable[[VisionLanguageActionModel, Batch], dict[str, Tensor]],
        weights: dict[str, float],
    ) -> None:
        super().__init__()
        self.policy, self._losses, self.weights = policy, losses, weights

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        """The losses by name, and "loss", their weighted sum."""
        losses = self._losses(self.policy, batch)
        total = sum(weight * losses[name] for name, weight in self.weights.items())
        return {"loss": total, **losses}


class _Steps(IterableDataset):
    """Batches of the steps `first` to `total` - 1; loaders (worker processes) take turns."""

    def __init__(self, draw: Callable[[int], Batch], first: int, total: int) -> None:
        self._draw, self._first, self._total = draw, first, total

    def __iter__(self) -> Iterator[Batch]:
        loader = get_worker_info()
        offset, stride = (loader.id, loader.num_workers) if loader else (0, 1)
        for step in range(self._first + offset, self._total, stride):
            yield self._draw(step)


class PolicyTrainer(transformers.Trainer):
    """Trains an Objective.

    Args:
        objective: policy and losses.
        settings: of the run.
        args: of `begin`.
        draw: the batch of (step, rank).
        held_out: batches of episodes that are not trained on.
        tensorboard: write the curves to out/tensorboard too.
        callbacks: of the Trainer.
    """

    def __init__(
        self,
        objective: Objective,
        settings: Settings,
        args: transformers.TrainingArguments,
        draw: Callable[[int, int], Batch],
        held_out: Sequence[Batch],
        *,
        tensorboard: bool = False,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self._settings, self._out = settings, Path(args.output_dir)
        self._draw = draw
        self._first = 0  # the step to begin with
        self._newest: dict[str, Tensor] = {}  # losses of the newest batch
        self._waited, self._since = 0.0, time.perf_counter()
        callbacks = [*callbacks, Curves(self._out, tuple(objective.weights))]
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter
            from transformers.integrations import TensorBoardCallback

            callbacks.append(TensorBoardCallback(SummaryWriter(str(self._out / "tensorboard"))))
        super().__init__(objective, args, eval_dataset=held_out, callbacks=callbacks)
        self.remove_callback(ProgressCallback)
        self.add_callback(ProgressLine())

    def fit(self) -> Path:
        """Train from where the run stands to its end; returns out/checkpoint.

        Raises:
            FloatingPointError: the loss is not finite.
            ValueError: it was interrupted, and used DeepSpeed, which keeps its state to itself.
        """
        if self.is_deepspeed_enabled and (self._out / TABLE).exists():
            raise ValueError(
                f"{self._out} holds a run with DeepSpeed, which cannot be resumed, because its "
                "state would have to be unpickled: train in another folder"
            )
        newest = newest_state(self._out)
        self._first = 0 if newest is None else step_of(newest)
        if self._first < self._settings.total:
            self.train(resume_from_checkpoint=None if newest is None else str(newest))
        else:
            self._load_from_checkpoint(str(newest))
        if self.args.should_save:
            self.model.policy.eval().save_pretrained(self._out / "checkpoint")
        self.accelerator.wait_for_everyone()
        return self._out / "checkpoint"

    # -- batches -----------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        rank = self.args.process_index
        steps = _Steps(lambda step: self._draw(step, rank), self._first, self._settings.total)
        loaders = self._settings.loaders
        context = "fork" if loaders else None  # data are mapped, not sent
        return DataLoader(
            steps, batch_size=None, num_workers=loaders, multiprocessing_context=context
        )

    def get_batch_samples(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        samples = super().get_batch_samples(*arguments)
        self._waited += time.perf_counter() - began
        return samples

    # -- a step ------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            self.optimizer = torch.optim.AdamW(
                trained, lr=self._settings.learning_rate, weight_decay=self._settings.weight_decay
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            warmup = self._settings.warmup
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: schedule(self._first + step, warmup, num_training_steps),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, *arguments: Any) -> Tensor:
        # Whatever is drawn within a step (dropout) depends on it alone, as its batch does.
        place = self.state.global_step * self.args.world_size + self.args.process_index
        torch.manual_seed(self._settings.seed + place)
        return super().training_step(*arguments)

    def compute_loss(self, model: nn.Module, inputs: Batch, *_: Any, **__: Any) -> Tensor:
        outputs = model(**inputs)
        loss = outputs.pop("loss")
        if not torch.isfinite(loss):
            raise FloatingPointError("the loss is not finite: look at the newest data")
        self._newest = {name: value.detach() for name, value in outputs.items()}
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "grad_norm" in logs:
            now = time.perf_counter()
            share = self._waited / (now - self._since)
            self._waited, self._since = 0.0, now
            losses = {name: value.item() for name, value in self._newest.items()}
            logs.update(losses, data_wait=share)
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean losses of the held-out batches; each process computes them all."""
        self.model.eval()
        sums: dict[str, float] = {}
        for batch in self.eval_dataset:
            for name, value in self.model(**self._prepare_inputs(batch)).items():
                sums[name] = sums.get(name, 0.0) + value.item()
        metrics = {f"eval_{name}": value / len(self.eval_dataset) for name, value in sums.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # -- what is kept ------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if not self.args.should_save:
            return
        step = self.state.global_step
        if self.state.best_global_step == step:
            self.model.policy.save_pretrained(self._out / "best")
        if self.is_deepspeed_enabled:
            return
        folder = state_folder(self._out, step)
        with whole_folder(folder) as partial:
            self.model.policy.save_pretrained(partial)
            save_file(self._optimizer_tensors(), partial / _OPTIMIZER)
            self.state.save_to_json(str(partial / _STATE))
        for older in folder.parent.glob("step-*"):
            if older != folder:
                shutil.rmtree(older)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint.read_weights(Path(resume_from_checkpoint), self.model.policy)

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        names = self._trained_names()
        return {
            f"{names[i]}/{key}": value if value.ndim else value[None]
            for i, state in self.optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors = load_file(Path(checkpoint, _OPTIMIZER))
        state: dict[int, dict[str, Tensor]] = {}
        trained = [(n, p) for n, p in self.model.policy.named_parameters() if p.requires_grad]
        for i, (name, parameter) in enumerate(trained):
            if f"{name}/step" in tensors:  # a part that had no gradient yet has no state
                state[i] = {"step": tensors[f"{name}/step"][0]}
                for key in ("exp_avg", "exp_avg_sq"):  # a single number was saved as [1]
                    state[i][key] = tensors[f"{name}/{key}"].reshape(parameter.shape)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def _trained_names(self) -> list[str]:
        return [name for name, p in self.model.policy.named_parameters() if p.requires_grad]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing is drawn that does not depend on the step alone."""


def schedule(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    angle = math.pi * (step - warmup) / max(total - warmup, 1)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(angle))
