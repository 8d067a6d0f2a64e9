"""What a training changes around itself and puts back, of the model and of transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import PreTrainedModel

from chunkwise.core.progress import note
from chunkwise.training.attention import plain_attention
from chunkwise.training.dropout import dropout
from chunkwise.training.feed_forward import lean_feed_forwards
from chunkwise.training.options import TrainOptions
from chunkwise.training.trackers import Tracking


@contextlib.contextmanager
def during_training(model: PreTrainedModel, options: TrainOptions) -> Iterator[None]:
    """Dropout and attention as the options say, feed-forwards that keep less; what was changed is
    put back, so the saved model knows of none of it.

    Raises:
        ConfigError: dropout is asked for and the decoder has no place for it.
    """
    settings = vars(model.config)
    had_use_cache = "use_cache" in settings
    use_cache = settings.get("use_cache")
    attention = plain_attention() if options.attention == "plain" else contextlib.nullcontext()
    try:
        with dropout(model, options.dropout), attention, lean_feed_forwards(model):
            yield
    finally:
        # The Trainer sets `use_cache`, which would be saved with the model.
        settings.pop("use_cache", None)
        if had_use_cache:
            settings["use_cache"] = use_cache


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no notices from transformers: progress is shown by `core.progress`,
    faults are raised.
    """
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def curves_tracked(tracking: Tracking | None, description: str) -> Iterator[None]:
    """Within this block the curves go to the trackers, if any."""
    if tracking is None:
        yield
        return
    with tracking.on():
        names = ", ".join(tracking.trackers)
        note(f"{description}: curves for {names} in {tracking.folder}")
        yield
