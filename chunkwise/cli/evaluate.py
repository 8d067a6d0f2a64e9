"""`chunkwise evaluate`: perplexity and questions, one line for each way of reading."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from chunkwise.cli.options import (
    DatastoreArgument,
    ModelArgument,
    StageOptions,
    TextArgument,
    verb,
)

app = typer.Typer(
    no_args_is_help=True,
    short_help="Measure loss and answers.",
    help="""Measure a model: loss on text it never saw, answers to questions.

    \b
    Example:
      chunkwise evaluate perplexity runs/retrofit runs/notes
    """,
)

# in place of OutOption: a verb that makes several records gives each a folder of its own
_OutOption = Annotated[
    Path | None,
    Option("--out", help="Also place the records here, in a folder for each line."),
]


@verb(app, "perplexity", short_help="Loss on documents that were never seen.")
def perplexity(
    options: StageOptions,
    model: ModelArgument,
    text: TextArgument,
    conditions: Annotated[
        list[str] | None,
        Option(
            "--condition",
            help="on, off, random, shuffled, own, oracle, in_prompt, none; repeatable. Default: on "
            "and off for a model with retrieval, none for a plain decoder.",
        ),
    ] = None,
    out: _OutOption = None,
) -> None:
    """Loss on the documents that are in neither datastore nor training text (split valid).

    on: the datastore's neighbours are read; off: the same model with its gate at 0; random:
    neighbours drawn at random; shuffled: what was found for another chunk; own: the chunk itself;
    oracle: the true continuation as a neighbour; none: a plain decoder.
    Settings: k, view, batch_rows, ..., text (sequence_tokens, max_tokens, ...), search (K, ...).

    \b
    Example:
      chunkwise evaluate perplexity runs/retrofit runs/notes --condition on --condition random
      chunkwise evaluate perplexity runs/twin runs/notes
    """
    from chunkwise.cli.evaluation import measure_perplexity

    measure_perplexity(options, model, text, conditions, out)


@verb(app, "questions", short_help="Zero-shot answers to questions.")
def questions(
    options: StageOptions,
    model: ModelArgument,
    datastore: DatastoreArgument,
    questions_file: Annotated[
        str | None,
        Option(
            "--questions",
            help="JSON Lines with question, answers and, for a choice, choices and answer_index; "
            "or a folder or key from the stage questions. Default: made from the docstrings of the "
            "datastore's held documents.",
        ),
    ] = None,
    cells: Annotated[
        list[str] | None,
        Option(
            "--cell",
            help="closed, prompt, encoder, both; repeatable. Default: all that the model can do.",
        ),
    ] = None,
    out: _OutOption = None,
) -> None:
    """Zero-shot answers: choice among options, exact match, F1, likelihood of the right answer.

    closed: no passages; prompt: passages in the prompt; encoder: in the neighbour encoder; both.
    Settings: k, passages, evidence, scoring, n_questions, ..., search (K, ...), made (how questions
        are made).

    \b
    Example:
      chunkwise evaluate questions runs/tuned runs/notes --questions quiz.jsonl --cell both
    """
    from chunkwise.cli.evaluation import answer_questions

    answer_questions(options, model, datastore, questions_file, cells, out)
