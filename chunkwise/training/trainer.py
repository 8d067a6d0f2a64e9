"""The training loop: transformers' Trainer, with order, learning rates and curves of our own.

What is overridden, and why:

    get_train_dataloader   rows in the order of (replicate, step), without a random stream (`data`)
    create_optimizer       two peaks of the learning rate, by parameter group; fused AdamW
    create_scheduler       the curve of TrainOptions
    _wrap_model            what is called in a step is the loss (`processes.StepModule`), sharded
                           over the processes
    training_step          reseeds torch by (replicate, dropout seed, step, part), so dropout
                           depends on nothing else
    _clip_grad_norm        decoder and retrieval may be clipped each by its own norm
    compute_loss           loss over the tokens that are predicted, and logits for those only, some
                           at a time
    save_model, _save_..., _load_...   checkpoints of our own form (`checkpoint`): sharded, no
                                       pickle
    floating_point_ops     nothing: `flops` counts by formula, once (Trainer's own walks all modules
                           each step)

A run that is killed goes on from its last complete checkpoint and ends in the same bytes on a CPU,
with as many processes as before. The rows of a step, and its loss, are the same for any number of
processes, up to rounding.

Cost: the Trainer adds little to a step; `keep_freed_memory` saves more than that for small models
on a CPU, which otherwise hand their memory back to the system and ask for it again at every step.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - the Trainer needs it, and would say so in its own words
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from chunkwise.core.errors import ConfigError, DivergedError
from chunkwise.core.io import machine_errors, read_json, write_json
from chunkwise.core.progress import note, track
from chunkwise.core.team import rank, world_size
from chunkwise.model.config import tokens_read
from chunkwise.model.loss import plain_head, states_of, summed_cross_entropy
from chunkwise.neighbours.in_prompt import IGNORED
from chunkwise.training import checkpoint as checkpoints
from chunkwise.training.attention import plain_attention
from chunkwise.training.checkpoint import CURVES, last_checkpoint
from chunkwise.training.config import TrainOptions
from chunkwise.training.data import Collate, RowOrder, keyed_seed
from chunkwise.training.dropout import dropout
from chunkwise.training.feed_forward import lean_feed_forwards
from chunkwise.training.lora import Updates
from chunkwise.training.processes import StepModule, gather, shard, under_a_launcher
from chunkwise.training.trackers import Tracking


@dataclass
class Curves:
    """What a training leaves behind besides its weights; a checkpoint carries it along.

    Attributes:
        loss: points {step, tokens, loss}: mean loss of the steps since the last point, in nats.
        validation: points {step, tokens, nll, predicted_tokens}, with conditions also {conditions:
            {name: nll}}.
        recent: losses of the steps since the last point.
        predicted_tokens: tokens that losses were taken of.
        decoder_tokens, decoder_squares: sums of L and L^2 over the rows that the decoder ran, L
            tokens long.
        reading_chunks, neighbours: chunks that had a neighbour, and neighbours that were read.
    """

    loss: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    predicted_tokens: int = 0
    decoder_tokens: int = 0
    decoder_squares: int = 0
    reading_chunks: int = 0
    neighbours: int = 0


@dataclass(frozen=True)
class Job:
    """A training, ready to run.

    Attributes:
        model: trained in place; weights without `requires_grad` stay.
        options: resolved.
        rows: S, rows that there are.
        row_tokens: tokens that a row counts as in curves (n, whatever the layout makes of it).
        collate: row numbers and their places in the order -> batch.
        retrieval_names: parameters that take the retrieval learning rate.
        validation: (row numbers, collate) of the validation curve; None for no curve.
        forward: further arguments of the model's forward, such as the gate.
        updates: low-rank ones that are trained instead of the decoder's weights.
        conditions: other ways to lay out the same validation rows, by name; each is a further loss
            of every point.
        decoder_rate: step 0, 1, ... -> a further factor on the learning rate of all but what
            retrieval added.
    """

    model: PreTrainedModel
    options: TrainOptions
    replicate: int
    rows: int
    row_tokens: int
    collate: Collate
    retrieval_names: frozenset[str] = frozenset()
    validation: tuple[Sequence[int], Collate] | None = None
    forward: dict[str, Any] = field(default_factory=dict)
    updates: Updates | None = None
    conditions: Mapping[str, Collate] = field(default_factory=dict)
    decoder_rate: Callable[[int], float] | None = None


def train(job: Job, scratch: Path, *, description: str, tracking: Tracking | None = None) -> Curves:
    """Run a training to its end, from its last complete checkpoint where there is one; all
    processes call it.

    Args:
        scratch: where checkpoints lie; what is there belongs to this training.
        description: for the progress display.
        tracking: where curves go while it runs.

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
    model, options = job.model, job.options
    with contextlib.ExitStack() as stack:
        stack.enter_context(under_a_launcher())
        stack.enter_context(machine_errors())
        stack.enter_context(quiet_transformers())
        stack.enter_context(during_training(model, options))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if tracking is not None:
            stack.enter_context(tracking.on())
            note(f"{description}: curves for {', '.join(tracking.trackers)} in {tracking.folder}")
        advance = stack.enter_context(track(description, total=options.steps, unit="steps"))
        trainer = OrderedTrainer(job, curves, folder, advance, tracking)
        advance(0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.step_module.sharded:
            gather(trainer.step_module)
    model.eval()
    return trainer.curves


class OrderedTrainer(Trainer):
    """See the head of this module. Built by `train`."""

    def __init__(
        self,
        job: Job,
        curves: Curves,
        folder: Path,
        advance: Callable[[int], None],
        tracking: Tracking | None,
    ) -> None:
        self.job, self.curves, self.advance = job, curves, advance
        arguments = training_arguments(job.options, folder, tracking)
        whole = not plain_head(job.model)  # asked of the model while it is in one piece
        loss = functools.partial(loss_of_batch, forward=job.forward, whole_logits=whole)
        self.step_module = StepModule(job.model, loss)
        if world_size() > 1:
            shard(self.step_module, arguments.device, job.options.dtype)
        super().__init__(
            model=job.model,
            args=arguments,
            data_collator=self.collate_entries,
            train_dataset=RowOrder(
                job.replicate,
                rows=job.rows,
                batch=job.options.batch_sequences,
                steps=job.options.total_steps,
            ),
            callbacks=[_Follow(self)],
        )
        self.remove_callback(PrinterCallback)  # prints to stdout, which belongs to results
        self.step_losses: list[Tensor] = []
        # Of this process, in this step: tokens predicted, tokens read, their squares, reading
        # chunks, neighbours.
        self.step_counts = [0, 0, 0, 0, 0]

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Rows front to back, in this process: gathering neighbours is cheap beside a step."""
        assert isinstance(self.train_dataset, torch.utils.data.Dataset)
        loader = torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            shuffle=False,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def collate_entries(self, entries: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The batch of some places in the order of rows, as RowOrder hands them out."""
        rows, places = zip(*entries, strict=True)
        return self.job.collate(rows, places)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with up to four groups: {backbone, retrieval} x {matrices, the rest}."""
        if self.optimizer is None:
            groups = parameter_groups(self.job.model, self.job.options, self.job.retrieval_names)
            # Fused: one pass over memory. On a CPU the same bits as the plain loop would need, in
            # one kernel.
            self.optimizer = torch.optim.AdamW(groups, betas=self.job.options.betas, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Every group follows the same curve below its own peak; the decoder's may be held back."""
        if self.lr_scheduler is None:
            self.lr_scheduler = self._follow_rates(optimizer or self.optimizer, done=0)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _follow_rates(self, optimizer: Any, done: int) -> Any:
        """The learning rates of a training of which some steps are done; sets the next step's."""
        share, decoder_rate = self.job.options.learning_rate_share, self.job.decoder_rate

        def held_back(step: int) -> float:
            return share(step) * (1.0 if decoder_rate is None else decoder_rate(step))

        curves: list[Callable[[int], float]] = [
            share if group["retrieval"] else held_back for group in optimizer.param_groups
        ]
        return torch.optim.lr_scheduler.LambdaLR(optimizer, curves, last_epoch=done - 1)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Accelerate adds autocast and leaves the rest as it is."""
        return self.accelerator.prepare_model(
            self.step_module, device_placement=False, evaluation_mode=True
        )

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """One forward and backward pass; its random numbers are those of this step and part of a
        step.
        """
        # Parts are dealt out in turn: so it is that of one process which takes as many rows at a
        # time.
        part = len(self.step_losses) * world_size() + rank()
        job = self.job
        torch.manual_seed(
            keyed_seed(
                "dropout", job.replicate, job.options.dropout_seed, self.state.global_step, part
            )
        )
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_losses.append(loss)
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean loss over the predicted tokens of the whole step, of which this batch may be a
        part.
        """
        labels = inputs.pop("labels")
        rows, length = inputs["input_ids"].shape
        reading = neighbours_read(inputs, self.job.model)
        loss_sum, predicted = model(inputs, labels)
        counts = (int(predicted), rows * length, rows * length * length, *reading)
        self.step_counts = [
            before + count for before, count in zip(self.step_counts, counts, strict=True)
        ]
        loss = loss_sum / (predicted if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = (
                loss * self.accelerator.num_processes
            )  # gradients are averaged over processes later
        return (loss, None) if return_outputs else loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """One norm of all gradients, or with `clip: apart` one of the decoder's and one of
        retrieval's.
        """
        if self.job.options.clip == "together":
            return super()._clip_grad_norm(model)
        parts: dict[bool, list[Tensor]] = {False: [], True: []}
        for name, parameter in self.job.model.named_parameters():
            if parameter.requires_grad:
                parts[name in self.job.retrieval_names].append(parameter)
        norms = [
            self.accelerator.clip_grad_norm_(parameters, self.args.max_grad_norm)
            for parameters in parts.values()
            if parameters
        ]
        return torch.linalg.vector_norm(torch.stack([torch.as_tensor(norm) for norm in norms]))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def end_step(self, step: int) -> None:
        """Called after optimiser step number `step`, from 1."""
        step_loss = sum(float(loss) for loss in self.step_losses) / world_size()  # see compute_loss
        loss, *counts = self.of_all_processes(step_loss, *self.step_counts)
        self.step_losses.clear()
        self.step_counts = [0, 0, 0, 0, 0]
        self.curves.recent.append(loss)
        self.curves.predicted_tokens += int(counts[0])
        self.curves.decoder_tokens += int(counts[1])
        self.curves.decoder_squares += int(counts[2])
        self.curves.reading_chunks += int(counts[3])
        self.curves.neighbours += int(counts[4])
        options = self.job.options
        if step % options.log_steps == 0 or step == options.steps:
            mean = sum(self.curves.recent) / len(self.curves.recent)
            if not math.isfinite(mean):
                raise DivergedError(
                    f"the loss became {mean} by step {step} of {options.steps}",
                    hint="lower learning_rate (and retrieval_learning_rate), or raise warmup_steps",
                )
            self.curves.loss.append({"step": step, "tokens": self.tokens_after(step), "loss": mean})
            self.curves.recent.clear()
            if self.args.report_to:
                self.log({"loss": mean, "learning_rate": self._get_learning_rate()})
        if step % (options.validation_steps or options.total_steps) == 0 or step == options.steps:
            self.validate(step)
        self.advance(1)

    def of_all_processes(self, *numbers: float) -> list[float]:
        """Sums over the processes."""
        if world_size() == 1:
            return list(numbers)
        own = torch.tensor(numbers, dtype=torch.float64, device=self.args.device)
        return self.accelerator.reduce(own, "sum").tolist()

    def tokens_after(self, step: int) -> int:
        """Tokens read in `step` steps, padding included."""
        return step * self.job.options.batch_sequences * self.job.row_tokens

    def validate(self, step: int) -> None:
        """Add a point to the validation curve."""
        if self.job.validation is None:
            return
        rows, collate = self.job.validation
        nll, predicted = self.validation_nll(rows, collate)
        point: dict[str, Any] = {
            "step": step,
            "tokens": self.tokens_after(step),
            "nll": nll,
            "predicted_tokens": predicted,
        }
        conditions = {
            name: self.validation_nll(rows, other)[0] for name, other in self.job.conditions.items()
        }
        if conditions:
            point["conditions"] = conditions
        self.curves.validation.append(point)
        if self.args.report_to:
            self.log(
                {"validation_nll": nll}
                | {f"validation_nll_{name}": value for name, value in conditions.items()}
            )

    def validation_nll(self, rows: Sequence[int], collate: Collate) -> tuple[float, int]:
        """Mean loss of some rows in nats per token, and the number of tokens."""
        batch, dtype = self.args.per_device_train_batch_size, self.job.options.dtype
        loss, predicted = self.of_all_processes(
            *validation_loss(
                self.step_module, rows, collate, batch=batch, dtype=dtype, device=self.args.device
            )
        )
        return loss / max(1, predicted), int(predicted)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing: a checkpoint's weights stand beside the optimiser's state."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        prepared: Any = self.optimizer  # by Accelerate, around ours
        checkpoints.save(self.step_module, prepared.optimizer, Path(output_dir))

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing: random numbers are keyed by step."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing yet: once the optimiser is there, weights and its state are read together."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            prepared: Any = self.optimizer
            checkpoints.load(self.step_module, prepared.optimizer, Path(checkpoint))
            self.lr_scheduler = self._follow_rates(prepared, done=self.state.global_step)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: see `_save_rng_state`."""


class _Follow(TrainerCallback):
    """Passes the loop's events on."""

    def __init__(self, trainer: OrderedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.trainer.validate(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if rank() == 0:  # the others' parts are written: saving ends when all have done so
            write_json(
                Path(args.output_dir) / f"checkpoint-{state.global_step}" / CURVES,
                asdict(self.trainer.curves),
            )


def rows_at_a_time(options: TrainOptions, processes: int) -> tuple[int, int]:
    """(sequences in one forward pass of one process, forward passes of a process in one step).

    As many as `microbatch_sequences` allows: it bounds what a process holds, whatever their number.

    Raises:
        ConfigError: a step's sequences cannot be dealt out evenly.
    """
    own, rest = divmod(options.batch_sequences, processes)
    if rest:
        raise ConfigError(
            f"the {options.batch_sequences} sequences of a step (train.batch_sequences) cannot be "
            "dealt out to "
            f"{processes} processes",
            hint="start as many processes as divide it, or change it, which is another training",
        )
    most = min(own, options.microbatch_sequences or options.batch_sequences)
    rows = max(size for size in range(1, most + 1) if own % size == 0)
    return rows, own // rows


def training_arguments(
    options: TrainOptions, folder: Path, tracking: Tracking | None
) -> TrainingArguments:
    """What the Trainer is told; everything that it would do on its own account is switched off."""
    rows, parts = rows_at_a_time(options, world_size())
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=options.total_steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=parts,
        max_grad_norm=options.max_grad_norm,
        bf16=options.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no" if options.checkpoint_steps is None else "steps",
        save_steps=options.checkpoint_steps or 1,
        # never fewer: while the newest is being written, the one before it must be whole
        save_total_limit=2,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to=list(tracking.trackers) if tracking is not None else "none",
        project="chunkwise",
        run_name=tracking.folder.name if tracking is not None else None,
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    arguments._n_gpu = min(
        1, arguments.n_gpu
    )  # several GPUs are torchrun's business, never DataParallel's
    return arguments


def parameter_groups(
    model: PreTrainedModel, options: TrainOptions, retrieval_names: frozenset[str]
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay; groups without parameters are left
    out.

    Weight decay falls on matrices. Vectors (norms, biases) and tables of biases have none.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.dim() >= 2 and not name.endswith("bias")
            groups.setdefault((name in retrieval_names, decays), []).append(parameter)
    rates = {False: options.learning_rate, True: options.retrieval_learning_rate}
    return [
        {
            "params": parameters,
            "lr": rates[retrieval],
            "weight_decay": options.weight_decay if decays else 0.0,
            "retrieval": retrieval,
        }
        for (retrieval, decays), parameters in sorted(groups.items())
    ]


def loss_of_batch(
    model: Any,
    inputs: dict[str, Any],
    labels: Tensor,
    forward: dict[str, Any],
    *,
    whole_logits: bool = False,
) -> tuple[Tensor, Tensor]:
    """Summed loss of a batch in nats, and how many tokens it is the loss of.

    Logits are made only for the tokens that are predicted (a fifth of them in the prompt arm, where
    they would otherwise be most of the work), and only some at a time (`model.loss`).

    Args:
        labels: [B, L], the token itself where it is predicted, from the place before it.
        whole_logits: make the logits in one piece, as decoders must that do more to them than one
            product.
    """
    targets = F.pad(
        labels[:, 1:], (0, 1), value=IGNORED
    )  # shifting targets copies less than shifting states
    there = targets != IGNORED
    predicted = there.sum()
    if whole_logits:
        logits = model(**inputs, use_cache=False, **forward).logits
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return loss, predicted
    states = states_of(model, **inputs, use_cache=False, **forward)
    head = model.get_output_embeddings()
    return summed_cross_entropy(states[there], head.weight, head.bias, targets[there]), predicted


def neighbours_read(inputs: dict[str, Any], model: PreTrainedModel) -> tuple[int, int]:
    """(chunks of a batch that have a neighbour, neighbours): those with a token that the model
    reads.
    """
    if "neighbour_mask" not in inputs:
        return 0, 0
    read = tokens_read(model.config.continuation, model.config.chunk_tokens)
    there_BCk = inputs["neighbour_mask"][..., read].any(-1)
    return int(there_BCk.any(-1).sum()), int(there_BCk.sum())


def validation_loss(
    step: StepModule,
    rows: Sequence[int],
    collate: Collate,
    *,
    batch: int,
    dtype: str,
    device: torch.device,
) -> tuple[float, int]:
    """Summed loss of this process's share of `rows`, in nats, and its number of tokens. Leaves no
    trace in the model.

    All processes call the model equally often; one that has no row left goes over the first ones
    and counts nothing.
    """
    was_training = step.training
    step.eval()
    total, count = 0.0, 0
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        for start in range(0, len(rows), batch * world_size()):
            own = rows[start + rank() * batch : start + (rank() + 1) * batch]
            inputs = collate(own if len(own) else rows[:batch])
            labels = (
                inputs.pop("labels") if len(own) else torch.full_like(inputs.pop("labels"), IGNORED)
            )
            inputs = {name: values.to(device) for name, values in inputs.items()}
            loss, predicted = step(inputs, labels.to(device))
            total += float(loss)
            count += int(predicted)
    step.train(was_training)
    return total, count


@contextlib.contextmanager
def during_training(model: PreTrainedModel, options: TrainOptions) -> Any:
    """Dropout and attention as the options say, feed-forwards that keep less; what was changed is
    put back, so the saved model knows of none of it.

    Raises:
        ConfigError: dropout is asked for and the decoder has no place for it.
    """
    use_cache = {name: value for name, value in vars(model.config).items() if name == "use_cache"}
    try:
        attention = plain_attention() if options.attention == "plain" else contextlib.nullcontext()
        with dropout(model, options.dropout), attention, lean_feed_forwards(model):
            yield
    finally:
        vars(model.config).pop("use_cache", None)  # the Trainer sets it, and would for good
        vars(model.config).update(use_cache)


@contextlib.contextmanager
def quiet_transformers() -> Any:
    """No progress bars and no notices from transformers: progress is shown by `core.progress`,
    faults are raised.
    """
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep large blocks that were freed, instead of giving them back at
    once.

    A training step frees and allocates the same few hundred megabytes over and over. By default
    each block comes fresh from the kernel, which zeroes it page by page: up to a third of a step on
    a CPU. No effect on results; where there is no glibc (macOS, musl), nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in malloc.h
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
