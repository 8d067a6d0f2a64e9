"""`chunkwise evaluate`: perplexity and questions, one line for each way of reading."""

from pathlib import Path
from typing import Annotated, Any

import typer

from chunkwise.cli.options import (
    DATASTORE,
    MODEL,
    TEXT,
    ConfigOption,
    DryRunOption,
    JsonOption,
    SetOption,
    StoreOption,
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

_OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Also place the records here, in a folder for each line.", show_default=False
    ),
]


@app.command(short_help="Loss on documents that were never seen.")
def perplexity(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL, show_default=False)],
    text: Annotated[str, typer.Argument(metavar="TEXT", help=TEXT, show_default=False)],
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            help="on, off, random, shuffled, own, oracle, in_prompt, none; repeatable. Default: on "
            "and off for a model "
            "with retrieval, none for a plain decoder.",
            show_default=False,
        ),
    ] = None,
    out: _OutOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
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
    from chunkwise.cli.output import about, print_columns, print_json
    from chunkwise.cli.settings import PerplexitySettings, read_settings, stage_config
    from chunkwise.cli.steps import (
        Steps,
        is_retro,
        model_settings,
        require_same_tokenizer,
        row_tokens,
    )
    from chunkwise.core.io import read_json
    from chunkwise.core.progress import display
    from chunkwise.core.store import Store
    from chunkwise.corpus.stages import SEQUENCES
    from chunkwise.evaluation.config import PerplexityConfig
    from chunkwise.evaluation.resolve import require_condition
    from chunkwise.evaluation.stages import PERPLEXITY
    from chunkwise.training.trainer import quiet_transformers

    calls = Steps(Store(store), dry_run)
    measured = calls.model(model)
    tokens, source = calls.text(text)
    require_same_tokenizer(measured, source or tokens)
    retro = is_retro(measured)
    defaults: dict[str, Any] = {
        "text": {"split": "valid", "layout": "documents", **row_tokens(source)}
    }
    if retro:
        defaults["k"] = model_settings(measured)["neighbours"]
    wanted = [
        read_settings(
            PerplexitySettings,
            config,
            settings,
            defaults=defaults,
            options={"condition": condition},
        )
        for condition in conditions or (["on", "off"] if retro else ["none"])
    ]
    for one in wanted:  # here, before neighbours are searched
        require_condition(measured, one)
    results = []
    with display(), quiet_transformers():
        rows = calls.call(SEQUENCES, wanted[0].text, {"tokens": tokens})
        found = calls.neighbours(wanted[0].search, source, rows)
        for one in wanted:
            place = None if out is None else out / one.condition
            made = calls.call(
                PERPLEXITY,
                stage_config(one, PerplexityConfig),
                {"model": measured, "sequences": rows, "neighbours": found, "datastore": source},
                out=place,
            )
            if dry_run:
                continue
            metrics = read_json(made.file("metrics.json"))
            results.append({"condition": one.condition, **about(made, place), "metrics": metrics})
    if dry_run:
        calls.print(as_json)
        return
    if as_json:
        print_json(results)
        return
    heading = ["condition", "nats per token", "perplexity", "bits per byte", "documents", "tokens"]
    lines = [
        [
            result["condition"],
            *(f"{result['metrics'][name]:.4f}" for name in ("nll", "perplexity", "bits_per_byte")),
            *(f"{result['metrics'][name]:,}" for name in ("documents", "tokens")),
        ]
        for result in results
    ]
    print_columns([heading, *lines])


@app.command(short_help="Zero-shot answers to questions.")
def questions(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL, show_default=False)],
    datastore: Annotated[
        str, typer.Argument(metavar="DATASTORE", help=DATASTORE, show_default=False)
    ],
    asked: Annotated[
        str | None,
        typer.Option(
            "--questions",
            help="JSON Lines with question, answers and, for a choice, choices and answer_index; "
            "or "
            "a folder or key "
            "from the stage questions. Default: made from the docstrings of the datastore's held "
            "documents.",
            show_default=False,
        ),
    ] = None,
    cells: Annotated[
        list[str] | None,
        typer.Option(
            "--cell",
            help="closed, prompt, encoder, both; repeatable. Default: all that the model can do.",
            show_default=False,
        ),
    ] = None,
    out: _OutOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Zero-shot answers: choice among options, exact match, F1, likelihood of the right answer.

    closed: no passages; prompt: passages in the prompt; encoder: in the neighbour encoder; both.
    Settings: k, passages, evidence, scoring, n_questions, ..., search (K, ...), made (how questions
        are made).

    \b
    Example:
      chunkwise evaluate questions runs/tuned runs/notes --questions quiz.jsonl --cell both
    """
    from chunkwise.cli.output import about, print_columns, print_json
    from chunkwise.cli.settings import QuestionsSettings, read_settings, stage_config
    from chunkwise.cli.steps import Steps, is_retro, model_settings, require_same_tokenizer
    from chunkwise.core.io import read_json
    from chunkwise.core.progress import display
    from chunkwise.core.store import Store
    from chunkwise.corpus.stages import QUESTIONS
    from chunkwise.evaluation.config import QuestionsEvalConfig
    from chunkwise.evaluation.resolve import require_cell
    from chunkwise.evaluation.stages import QA
    from chunkwise.graph.origin import origin
    from chunkwise.neighbours.stages import QUESTION_NEIGHBOURS
    from chunkwise.training.trainer import quiet_transformers

    calls = Steps(Store(store), dry_run)
    measured = calls.model(model)
    source = calls.datastore(datastore)
    tokens, _ = calls.text(datastore)
    require_same_tokenizer(measured, source)
    retro = is_retro(measured)
    defaults = {"k": model_settings(measured)["neighbours"]} if retro else {}
    wanted = [
        read_settings(
            QuestionsSettings, config, settings, defaults=defaults, options={"cell": cell}
        )
        for cell in cells or ["closed", "prompt", *(["encoder", "both"] if retro else [])]
    ]
    for one in wanted:
        require_cell(measured, one)
    results = []
    with display(), quiet_transformers():
        if asked is None:
            made = calls.call(
                QUESTIONS, wanted[0].made, {"corpus": origin(calls.store, tokens, "corpus")}
            )
        else:
            made = calls.questions(asked, "questions")
        found = calls.call(
            QUESTION_NEIGHBOURS,
            wanted[0].search,
            {"datastore": source, "questions": made, "tokens": tokens},
        )
        for one in wanted:
            place = None if out is None else out / one.cell
            answered = calls.call(
                QA,
                stage_config(one, QuestionsEvalConfig),
                {
                    "model": measured,
                    "questions": made,
                    "question_neighbours": found,
                    "datastore": source,
                    "tokens": tokens,
                },
                out=place,
            )
            if dry_run:
                continue
            metrics = read_json(answered.file("metrics.json"))
            results.append({"cell": one.cell, **about(answered, place), "metrics": metrics})
    if dry_run:
        calls.print(as_json)
        return
    if as_json:
        print_json(results)
        return
    names = ("choice_accuracy", "exact_match", "f1", "answer_nll")
    heading = ["cell", "questions", "choice accuracy", "exact match", "F1", "nats per answer token"]
    lines = [
        [
            result["cell"],
            f"{result['metrics']['questions']:,}",
            *(_value(result["metrics"][name]) for name in names),
        ]
        for result in results
    ]
    print_columns([heading, *lines])


def _value(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}"
