"""The training loop: transformers' Trainer, with order, learning rates and curves of our own.

What is overridden, and why:

    create_optimizer       two peaks of the learning rate, by parameter group; fused AdamW
    create_scheduler       the curve of TrainOptions
    _wrap_model            what is called in a step is the loss (`processes.StepModule`), sharded
                           over the processes
    training_step          reseeds torch by (replicate, dropout seed, step, part), so dropout
                           depends on nothing else
    _clip_grad_norm        decoder and retrieval may be clipped each by its own norm
    compute_loss           loss over the tokens that are predicted, and logits for those only, some
                           at a time (`loss`)
    save_model, _save_..., _load_...   checkpoints of our own form (`checkpoint`): sharded, no
                                       pickle; by steps, and by the clock (`watch`)
    floating_point_ops     nothing: `flops` counts by formula, once (Trainer's own walks all modules
                           each step)

The Trainer reads the rows of `data.RowOrder` front to back, so their order needs no random stream.

A run that is killed goes on from its last complete checkpoint and ends in the same bytes on a CPU,
with as many processes as before. The rows of a step, and its loss, are the same for any number of
processes, up to rounding.

Cost: the Trainer adds little to a step; `keep_freed_memory` saves more than that for small models
on a CPU.
"""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - the Trainer needs it, and would say so in its own words
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback

from chunkwise.core.errors import DivergedError
from chunkwise.core.io import machine_errors, read_json, write_json
from chunkwise.core.memory import keep_freed_memory
from chunkwise.core.progress import track
from chunkwise.core.team import rank, world_size
from chunkwise.model.loss import plain_head
from chunkwise.neighbours.in_prompt import IGNORED
from chunkwise.training import checkpoint as checkpoints
from chunkwise.training.arguments import parameter_groups, training_arguments
from chunkwise.training.checkpoint import CURVES, last_checkpoint, step_of
from chunkwise.training.data import Batch, Collate, RowOrder, Rows, keyed_seed
from chunkwise.training.job import Curves, Job, Point
from chunkwise.training.loss import loss_of_batch, neighbours_read
from chunkwise.training.processes import StepModule, gather, shard, team, under_a_launcher
from chunkwise.training.surroundings import (
    curves_tracked,
    during_training,
    quiet_transformers,
)
from chunkwise.training.trackers import Tracking
from chunkwise.training.watch import Clock, Watch


def train(
    job: Job,
    scratch: Path,
    *,
    description: str,
    tracking: Tracking | None = None,
    clock: Clock = time.monotonic,
) -> Curves:
    """Run a training to its end, from its last complete checkpoint where there is one; all
    processes call it.

    Args:
        scratch: where checkpoints lie; what is there belongs to this training.
        description: for the progress display.
        tracking: where curves go while it runs.
        clock: says when a line on how far it is, or a checkpoint, is due; no result depends on it.

    Returns:
        The curves; the model is trained in place, and in evaluation mode. Of several processes the
        first has it whole.

    Raises:
        DivergedError: the loss is not a number. ConfigError: dropout without a place for it.
            MachineError: disk full.
    """
    keep_freed_memory()
    folder = scratch / "checkpoints"
    checkpoint = last_checkpoint(folder)
    curves = Curves(**read_json(checkpoint / CURVES)) if checkpoint else Curves()
    with (
        # Before the trainer is built, since Accelerate reads the launcher's settings then.
        under_a_launcher(),
        machine_errors(),
        quiet_transformers(),
        during_training(job.model, job.options),
        # `training_step` reseeds torch; the caller's numbers go on as if nothing had been drawn.
        torch.random.fork_rng(devices=[]),
        curves_tracked(tracking, description),
        track(description, total=job.options.steps, unit="steps") as advance,
    ):
        step_tokens = job.options.batch_sequences * job.row_tokens
        watch = Watch(description, job.options.total_steps, step_tokens, clock)
        trainer = OrderedTrainer(job, curves, folder, advance, tracking, watch)
        advance(step_of(checkpoint) if checkpoint else 0)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.step_module.sharded:
            gather(trainer.step_module)
    job.model.eval()
    return curves


class OrderedTrainer(Trainer):
    """See the head of this module. Built by `train`."""

    def __init__(
        self,
        job: Job,
        curves: Curves,
        folder: Path,
        advance: Callable[[int], None],
        tracking: Tracking | None,
        watch: Watch,
    ) -> None:
        self.job = job
        self.watch = watch
        self.options = options = job.options
        self.curves = curves
        self.advance = advance
        arguments = training_arguments(options, folder, tracking)
        # `plain_head` runs the model, so it comes before the weights are spread over processes.
        whole_logits = not plain_head(job.model)
        loss = functools.partial(loss_of_batch, forward=job.forward, whole_logits=whole_logits)
        self.step_module = StepModule(job.model, loss)
        if world_size() > 1:
            shard(self.step_module, arguments.device, options.dtype)
        order = RowOrder(
            job.replicate, rows=job.rows, batch=options.batch_sequences, steps=options.total_steps
        )
        super().__init__(
            model=job.model,
            args=arguments,
            data_collator=self.collate_entries,
            train_dataset=order,
            callbacks=[_Follow(self)],
        )
        self.remove_callback(PrinterCallback)  # prints to stdout, which belongs to results
        self.step_losses: list[Tensor] = []
        self.team = team()
        # Sums over the parts of this step in this process, by their names in Curves.
        self.step_counts: Counter[str] = Counter()

    def collate_entries(self, entries: Sequence[tuple[int, int]]) -> Batch:
        """The batch of some entries of the order of rows, as RowOrder hands them out."""
        rows, numbers = zip(*entries, strict=True)
        return self.job.collate(rows, numbers)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with up to four groups: {backbone, retrieval} x {matrices, the rest}."""
        groups = parameter_groups(self.job.model, self.options, self.job.retrieval_names)
        # Fused: one pass over memory. On a CPU the same bits as the plain loop would need, in one
        # kernel.
        self.optimizer = torch.optim.AdamW(groups, betas=self.options.betas, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Every group follows the same curve below its own peak; the decoder's may be held back."""
        return self._follow_rates(done=0)

    def _follow_rates(self, done: int) -> Any:
        """The learning rates of a training of which some steps are done; sets the next step's."""
        share = self.options.learning_rate_share
        decoder_rate = self.job.decoder_rate

        def decoder_share(step: int) -> float:
            if decoder_rate is None:
                return share(step)
            return share(step) * decoder_rate(step)

        optimizer: Any = self.optimizer
        curves: list[Callable[[int], float]] = []
        for group in optimizer.param_groups:
            curves.append(share if group["retrieval"] else decoder_share)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, curves, last_epoch=done - 1
        )
        return self.lr_scheduler

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Accelerate adds autocast and leaves the rest as it is."""
        return self.accelerator.prepare_model(
            self.step_module, device_placement=False, evaluation_mode=True
        )

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; its random numbers are those of this step and part of a
        step.
        """
        # Parts are dealt out in turn, so this is the number that the same rows have in a training
        # of one process which takes as many rows at a time.
        part = len(self.step_losses) * world_size() + rank()
        step = self.state.global_step
        seeds = (self.job.replicate, self.options.dropout_seed)
        torch.manual_seed(keyed_seed("dropout", *seeds, step, part))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_losses.append(loss)
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean loss over the predicted tokens of the whole step, of which this batch may be a
        part.
        """
        labels = inputs.pop("labels")
        rows, length = inputs["input_ids"].shape
        reading_chunks, neighbours = neighbours_read(inputs, self.job.model)
        loss, predicted = model(inputs, labels)
        self.step_counts.update(
            predicted_tokens=int(predicted),
            decoder_tokens=rows * length,
            decoder_squares=rows * length * length,
            reading_chunks=reading_chunks,
            neighbours=neighbours,
        )
        loss = loss / (predicted if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The number of items is that of all processes, and gradients are averaged over them
            # later.
            loss = loss * self.accelerator.num_processes
        return (loss, None) if return_outputs else loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """One norm of all gradients, or with `clip: apart` one of the decoder's and one of
        retrieval's.
        """
        if self.options.clip == "together":
            return super()._clip_grad_norm(model)
        parts: dict[bool, list[Tensor]] = {False: [], True: []}
        for name, parameter in self.job.model.named_parameters():
            if parameter.requires_grad:
                parts[name in self.job.retrieval_names].append(parameter)
        norms = []
        for parameters in parts.values():
            if parameters:
                norm = self.accelerator.clip_grad_norm_(parameters, self.args.max_grad_norm)
                norms.append(torch.as_tensor(norm))
        return torch.linalg.vector_norm(torch.stack(norms))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def end_step(self, step: int) -> None:
        """Called after optimiser step number `step`, from 1."""
        step_loss = sum(float(loss) for loss in self.step_losses)
        step_loss /= world_size()  # `compute_loss` has multiplied it
        loss, *counts = self.of_all_processes(step_loss, *self.step_counts.values())
        self.curves.recent.append(loss)
        self.curves.count(dict(zip(self.step_counts, counts, strict=True)))
        self.step_losses.clear()
        self.step_counts.clear()
        is_last = step == self.options.steps
        if is_last or step % self.options.log_steps == 0:
            self.log_loss(step)
        validation_steps = self.options.validation_steps
        if is_last or (validation_steps and step % validation_steps == 0):
            self.validate(step)
        self.watch.step(step, loss)
        self.advance(1)

    def is_checkpoint_due(self, step: int) -> bool:
        """Whether the clock asks for a checkpoint after this step; the same on all processes."""
        is_due = self.watch.is_checkpoint_due(step)
        if self.team is None:
            return is_due
        # Clocks differ, and saving is a thing that all do together: process 0 decides.
        return bool(self.team.share(int(is_due)))

    def log_loss(self, step: int) -> None:
        """Add a point to the loss curve.

        Raises:
            DivergedError: the loss is not a number.
        """
        mean = sum(self.curves.recent) / len(self.curves.recent)
        if not math.isfinite(mean):
            raise DivergedError(
                f"the loss became {mean} by step {step} of {self.options.steps}",
                hint="lower learning_rate (and retrieval_learning_rate), or raise warmup_steps",
            )
        tokens = self.tokens_after(step)
        self.curves.loss.append({"step": step, "tokens": tokens, "loss": mean})
        self.curves.recent.clear()
        if self.args.report_to:
            self.log({"loss": mean, "learning_rate": self._get_learning_rate()})

    def of_all_processes(self, *numbers: float) -> list[float]:
        """Sums over the processes."""
        if world_size() == 1:
            return list(numbers)
        # float64 holds every whole number up to 2^53, more than a step counts of anything.
        own = torch.tensor(numbers, dtype=torch.float64, device=self.args.device)
        return self.accelerator.reduce(own, "sum").tolist()

    def tokens_after(self, step: int) -> int:
        """Tokens read in `step` steps, padding included."""
        return step * self.options.batch_sequences * self.job.row_tokens

    def validate(self, step: int) -> None:
        """Add a point to the validation curve."""
        if self.job.validation is None:
            return
        rows, collate = self.job.validation
        nll, predicted = self.validation_nll(rows, collate)
        point: Point = {
            "step": step,
            "tokens": self.tokens_after(step),
            "nll": nll,
            "predicted_tokens": predicted,
        }
        logs = {"validation_nll": nll}
        conditions = {}
        for name, collate in self.job.conditions.items():
            conditions[name], _ = self.validation_nll(rows, collate)
            logs[f"validation_nll_{name}"] = conditions[name]
        if conditions:
            point["conditions"] = conditions
        self.curves.validation.append(point)
        if self.args.report_to:
            self.log(logs)

    def validation_nll(self, rows: Rows, collate: Collate) -> tuple[float, int]:
        """Mean loss of some rows in nats per token, and the number of tokens.

        All processes call the model equally often; one that has no row left goes over the first
        ones and counts nothing.
        """
        batch = self.args.per_device_train_batch_size
        device = self.args.device
        in_bfloat16 = self.options.dtype == "bfloat16"
        was_training = self.step_module.training
        self.step_module.eval()
        total = 0.0
        count = 0
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
            for start in range(0, len(rows), batch * world_size()):
                first = start + rank() * batch
                own_rows = rows[first : first + batch]
                inputs = collate(own_rows if len(own_rows) else rows[:batch])
                inputs = {name: values.to(device) for name, values in inputs.items()}
                labels = inputs.pop("labels")
                if not len(own_rows):
                    labels = torch.full_like(labels, IGNORED)
                loss, predicted = self.step_module(inputs, labels)
                total += float(loss)
                count += int(predicted)
        self.step_module.train(was_training)
        loss_sum, tokens = self.of_all_processes(total, count)
        return loss_sum / max(1, tokens), int(tokens)

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """In place of what the Trainer saves and loads."""

    # A checkpoint's weights lie beside the optimiser's state and are read with it; random numbers
    # are keyed by step.
    save_model = _load_from_checkpoint = _nothing
    _save_rng_state = _load_rng_state = _nothing

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        prepared: Any = self.optimizer  # by Accelerate, around ours
        checkpoints.save(self.step_module, prepared.optimizer, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            prepared: Any = self.optimizer
            checkpoints.load(self.step_module, prepared.optimizer, Path(checkpoint))
            self._follow_rates(done=self.state.global_step)


class _Follow(TrainerCallback):
    """Passes the loop's events on."""

    def __init__(self, trainer: OrderedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.trainer.validate(0)
        self.trainer.watch.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step(state.global_step)
        # The Trainer's own callback came first, and has asked for those by steps.
        if self.trainer.is_checkpoint_due(state.global_step):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.watch.saved()
        if rank() == 0:  # the others' parts are written: saving ends when all have done so
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / CURVES, asdict(self.trainer.curves))
