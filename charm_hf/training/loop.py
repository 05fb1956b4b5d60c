"""The loop of a run: optimizer steps, what an epoch comes to, states to go on from, and the best model."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from charm_hf.files import remove_folder, replaced_folder, write_json
from charm_hf.models.scores_charm import correlation_loss, ranking_loss
from charm_hf.training.batches import EpochBatchSampler, WaitClock
from charm_hf.training.curves import plot_curves
from charm_hf.training.mixout import state_dict_without_mixout
from charm_hf.training.run_folder import publish_files
from charm_hf.training.run_state import Progress, TrainingParts, find_state, load_state, save_state


logger = get_logger(__name__)

Batch = dict[str, torch.Tensor]
# What stands in a batch for the loop, and not for the model.
_FOR_THE_LOOP = ("index", "scores", "group")


def batch_loss(
    model: nn.Module, batch: Batch, correlation_weight: float = 0.0, ranking_weight: float = 0.0
) -> torch.Tensor:
    """EMD or squared error, as the labels are, plus the correlation and the ranking loss if they are wanted."""
    outputs = model(**{name: value for name, value in batch.items() if name not in _FOR_THE_LOOP})
    loss = outputs.loss
    if correlation_weight and len(batch["scores"]) > 1:
        loss = loss + correlation_weight * correlation_loss(outputs.scores, batch["scores"])
    if ranking_weight:
        loss = loss + ranking_weight * ranking_loss(outputs.normalized_scores, batch["scores"], batch["group"])
    return loss


def train_steps(
    parts: TrainingParts,
    batches: Iterable[Batch],
    loss_of: Callable[[nn.Module, Batch], torch.Tensor] = batch_loss,
    *,
    accelerator: Accelerator,
    wrapped: nn.Module | None = None,
    accumulate: int = 1,
    max_grad_norm: float = 1.0,
    image_ids: Sequence[str] | None = None,
) -> Iterator[float]:
    """Make one optimizer step after another, and yield the loss of each, averaged over photos and processes.

    Args:
        batches: of one process, `accumulate` of them a step; the first dimension of every tensor counts photos.
        loss_of: the mean loss (a scalar) of a model over the photos of a batch.
        wrapped: the model as `accelerator.prepare` gave it, if it did.
        image_ids: names of the photos by `batch["index"]`, for the message of an error.

    Raises:
        FloatingPointError: if loss or gradient is not finite; the message names the photos.
    """
    wrapped = parts.model if wrapped is None else wrapped
    parameters = [parameter for parameter in parts.model.parameters() if parameter.requires_grad]
    batches = iter(batches)
    while group := list(itertools.islice(batches, accumulate)):
        sizes = [len(next(iter(batch.values()))) for batch in group]
        total = torch.zeros((), device=accelerator.device)
        for number, (batch, photos) in enumerate(zip(group, sizes, strict=True), start=1):
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            # Gradients are exchanged once a step, and a short last batch counts for the photos that it has.
            with nullcontext() if number == len(group) else accelerator.no_sync(wrapped):
                loss = loss_of(wrapped, batch) * (photos / sum(sizes))
                _require_finite("loss", loss, image_ids, [batch])
                accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(parameters, max_grad_norm)
        _require_finite("gradient", norm, image_ids, group)
        parts.optimizer.step()
        parts.optimizer.zero_grad()
        parts.scheduler.step()
        if parts.ema is not None:
            parts.ema.update_parameters(parts.model)  # type: ignore[operator]
        yield accelerator.reduce(total, "mean").item()


def _require_finite(name: str, value: torch.Tensor, image_ids: Sequence[str] | None, batches: Iterable[Batch]) -> None:
    """Stop the run where it goes wrong, with the photos that it went wrong on."""
    if not value.isfinite():
        indices = [index for batch in batches if "index" in batch for index in batch["index"].tolist()]
        photos = ", ".join(image_ids[index] for index in indices) if image_ids is not None else "this step"
        raise FloatingPointError(f"The {name} is {value.item()} in a batch of the photos {photos}.")


class Run:
    """A run of a training script: how far it has come, and what it leaves in `--output_dir`.

    All processes call the methods together.

    Attributes:
        progress: how far the run has come.
        scored_model: what is evaluated and kept: the average of the weights, if there is one.
    """

    def __init__(
        self, args: argparse.Namespace, accelerator: Accelerator, parts: TrainingParts, sampler: EpochBatchSampler
    ) -> None:
        self.args, self.accelerator, self.parts, self.sampler = args, accelerator, parts, sampler
        self.progress = Progress()
        self.scored_model: Any = parts.model if parts.ema is None else parts.ema.to(accelerator.device).module
        self.wrapped = accelerator.prepare(parts.model)
        torch.manual_seed(args.seed + accelerator.process_index)  # from here on, each process drops out on its own
        if args.report_to:
            values = {name: value for name, value in vars(args).items() if isinstance(value, (int, float, str))}
            accelerator.init_trackers("charm", values)

    def resume(self) -> None:
        """Go on where `--resume_from_checkpoint` says, if it says so and there is a state to go on from."""
        wanted = self.args.resume_from_checkpoint
        if wanted and (found := find_state(wanted, self.args.output_dir)):
            self.progress = load_state(found, self.accelerator, self.parts)
            logger.info("Going on from %s: %d epochs are done", found, self.progress.epoch)

    def is_over(self) -> bool:
        """Whether all epochs are done, or the last ones brought nothing."""
        args = self.args
        return self.progress.is_over(args.num_train_epochs, args.metric_for_best_model, args.early_stopping_patience)

    def train_epoch(self, loader: DataLoader, image_ids: Sequence[str]) -> dict[str, Any]:
        """Train the rest of the epoch under way; gives what it came to, to be completed and handed to `end_epoch`."""
        args, progress, accelerator, clock = self.args, self.progress, self.accelerator, WaitClock()
        steps_per_epoch = -(-len(self.sampler) // args.gradient_accumulation_steps)
        self.sampler.set_position(progress.epoch, progress.epoch_step * args.gradient_accumulation_steps)
        self.parts.model.train()
        steps = train_steps(
            self.parts,
            clock.watch(loader),
            lambda model, batch: batch_loss(model, batch, args.correlation_weight, args.ranking_weight),
            accelerator=accelerator,
            wrapped=self.wrapped,
            accumulate=args.gradient_accumulation_steps,
            max_grad_norm=args.max_grad_norm,
            image_ids=image_ids,
        )
        title = f"Epoch {progress.epoch + 1}/{args.num_train_epochs}"
        hidden = not accelerator.is_local_main_process
        bar = tqdm(steps, title, steps_per_epoch, initial=progress.epoch_step, disable=hidden)
        for loss in bar:
            progress.step, progress.epoch_step = progress.step + 1, progress.epoch_step + 1
            progress.epoch_loss += loss
            bar.set_postfix(loss=f"{loss:.4f}", waiting=f"{clock.share:.0%}")
            accelerator.log({"step_loss": loss}, step=progress.step)
            if args.checkpointing_steps != "epoch" and progress.step % int(args.checkpointing_steps) == 0:
                self._save_state()
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": progress.epoch_loss / steps_per_epoch,
            "learning_rate": self.parts.scheduler.get_last_lr()[0],
            "data_wait": round(clock.share, 4),
        }

    def end_epoch(self, record: dict[str, Any], processor: Any) -> None:
        """Note what the epoch came to, keep its model if it is the best, and write a state to go on from."""
        self.progress.end_epoch(record)
        logger.info(", ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items()))
        self.accelerator.log({k: v for k, v in record.items() if k != "step"}, step=self.progress.step)
        folder = self.args.output_dir
        if self.accelerator.is_main_process:
            if self.best is record:
                with replaced_folder(self._best_folder) as temporary:
                    weights = state_dict_without_mixout(self.scored_model.state_dict())
                    self.scored_model.save_pretrained(temporary, state_dict=weights)
                    processor.save_pretrained(temporary)
            write_json(folder / "history.json", self.progress.history)
            plot_curves(self.progress.history, folder / "curves.png")
        self._save_state()
        if self.accelerator.is_main_process:  # only now can no resumed run ask for an earlier one
            for old in set(folder.glob("checkpoint-best-epoch-*")) - {self._best_folder}:
                remove_folder(old)

    def finish(self) -> dict[str, Any] | None:
        """Leave the best model at the top of the folder; gives its record in the main process, else nothing."""
        self.accelerator.end_training()
        if not self.accelerator.is_main_process:
            return None
        publish_files(self._best_folder, self.args.output_dir)
        logger.info("%s holds the checkpoint of epoch %d", self.args.output_dir, self.best["epoch"])
        return self.best

    @property
    def best(self) -> dict[str, Any]:
        """Record of the best epoch so far."""
        return self.progress.best(self.args.metric_for_best_model)

    @property
    def _best_folder(self) -> Path:
        """Where the model of an epoch is kept while it is the best."""
        return self.args.output_dir / f"checkpoint-best-epoch-{self.best['epoch']:04d}"

    def _save_state(self) -> None:
        save_state(self.args.output_dir, self.accelerator, self.parts, self.progress, self.args.save_total_limit)
