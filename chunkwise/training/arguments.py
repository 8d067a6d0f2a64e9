"""What transformers' Trainer is told: rows of a pass, its arguments, and groups of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainingArguments

from chunkwise.core.errors import ConfigError
from chunkwise.core.team import world_size
from chunkwise.training.options import TrainOptions
from chunkwise.training.trackers import Tracking


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
            f"dealt out to {processes} processes",
            hint="start as many processes as divide it, or change it, which is another training",
        )
    most = min(own, options.microbatch_sequences or options.batch_sequences)
    # The largest divisor, since all parts of a step are of one size; 1 at the latest.
    rows = most
    while own % rows:
        rows -= 1
    return rows, own // rows


def training_arguments(
    options: TrainOptions, folder: Path, tracking: Tracking | None
) -> TrainingArguments:
    """What the Trainer is told; everything that it would do on its own account is switched off."""
    rows, parts = rows_at_a_time(options, world_size())
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=options.total_steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=parts,
        train_sampling_strategy="sequential",
        max_grad_norm=options.max_grad_norm,
        bf16=options.dtype == "bfloat16",  # by autocast; weights stay float32
        use_cpu=not on_gpu,
        save_strategy="no" if options.checkpoint_steps is None else "steps",
        save_steps=options.checkpoint_steps or 1,
        # never fewer: while the newest is being written, the one before it must be whole
        save_total_limit=2,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # `log_loss` refuses such a loss
        report_to=list(tracking.trackers) if tracking is not None else [],
        project="chunkwise",
        run_name=tracking.folder.name if tracking is not None else None,
        disable_tqdm=True,
        # Gathering neighbours is cheap beside a step, so this process does it.
        dataloader_num_workers=0,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,  # RowOrder hands out pairs of numbers, not columns
    )
    # Several GPUs are torchrun's business, never DataParallel's.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def parameter_groups(
    model: PreTrainedModel, options: TrainOptions, retrieval_names: frozenset[str]
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay; groups without parameters are left
    out.

    Weight decay falls on matrices. Vectors (norms, biases) and tables of biases have none.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}  # (retrieval's, with decay) -> parameters
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = parameter.dim() >= 2 and not name.endswith("bias")
            group = groups.setdefault((name in retrieval_names, is_decayed), [])
            group.append(parameter)
    rates = {False: options.learning_rate, True: options.retrieval_learning_rate}
    decays = {False: 0.0, True: options.weight_decay}
    return [
        {
            "params": parameters,
            "lr": rates[is_retrieval],
            "weight_decay": decays[is_decayed],
            "retrieval": is_retrieval,
        }
        for (is_retrieval, is_decayed), parameters in sorted(groups.items())
    ]
