"""Runs an evaluation for its verb: one call of the stage, and one line, for each way of reading."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from chunkwise.cli.checks import require_chunks, require_hits, require_served, require_view
from chunkwise.cli.options import StageOptions
from chunkwise.cli.output import about, print_columns, print_json
from chunkwise.cli.settings import read_settings, settings_class, stage_config
from chunkwise.cli.steps import (
    Steps,
    chunk_tokens,
    require_same_tokenizer,
    require_split,
    retro_settings,
    row_tokens,
)
from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.progress import display
from chunkwise.corpus.stages import SEQUENCES
from chunkwise.evaluation.resolve import (
    require_cell,
    require_condition,
    require_documents,
    require_sources,
)
from chunkwise.evaluation.stages import PERPLEXITY, QA
from chunkwise.graph.stage import Stage
from chunkwise.neighbours.queries import require_whole_chunks
from chunkwise.neighbours.stages import QUESTION_NEIGHBOURS
from chunkwise.training.surroundings import quiet_transformers


def measure_perplexity(
    options: StageOptions,
    model: str,
    text: str,
    conditions: Sequence[str] | None,
    out: Path | None,
) -> None:
    """Loss on documents, one measurement a condition."""
    calls = Steps(options.store, options.dry_run)
    artefact = calls.model(model)
    tokens, source = calls.text(text)
    require_same_tokenizer(artefact, source or tokens)
    retro = retro_settings(artefact)
    layout = {"split": "valid", "layout": "documents", **row_tokens(source)}
    defaults = {"text": layout, **_own_neighbours(retro)}
    # off beside on: the difference between the two is what retrieval is worth
    conditions = conditions or (["on", "off"] if retro else ["none"])
    measurements = _read(PERPLEXITY, options, defaults, "condition", conditions)
    for settings in measurements:
        require_condition(artefact, settings)
        require_sources(settings, source is not None, source is not None)
        if settings.reads_the_table and source is not None:
            require_hits(settings.k, settings.search)
            require_view(settings.view, settings.view_seed, source)
    rows = measurements[0].text
    require_documents(rows.layout)
    require_split(tokens, rows.split)
    if source is not None:
        require_whole_chunks(rows.sequence_tokens, chunk_tokens(source))
        if retro is not None:
            require_chunks(retro["chunk_tokens"], source)
    with display(), quiet_transformers():
        # the measurements differ in their condition alone: they share rows and neighbours
        sequences = calls.call(SEQUENCES, measurements[0].text, {"tokens": tokens})
        table = calls.neighbours(measurements[0].search, source, sequences)
        for settings in measurements:
            # a run selects in a moment what this would select twice
            if calls.dry_run and settings.reads_the_table and source is not None:
                require_served(table, source, settings.view, settings.view_seed, settings.k)
        inputs = {
            "model": artefact,
            "sequences": sequences,
            "neighbours": table,
            "datastore": source,
        }
        results = _measure(calls, PERPLEXITY, measurements, "condition", inputs, out)
    headings = {
        "nll": "nats per token",
        "perplexity": "perplexity",
        "bits_per_byte": "bits per byte",
        "documents": "documents",
        "tokens": "tokens",
    }
    _print(calls, options, results, "condition", headings)


def answer_questions(
    options: StageOptions,
    model: str,
    datastore: str,
    questions: str | None,
    cells: Sequence[str] | None,
    out: Path | None,
) -> None:
    """Zero-shot answers, one measurement a cell."""
    calls = Steps(options.store, options.dry_run)
    artefact = calls.model(model)
    source = calls.datastore(datastore)
    tokens, _ = calls.text(datastore)
    require_same_tokenizer(artefact, source)
    retro = retro_settings(artefact)
    cells = cells or ["closed", "prompt", *(["encoder", "both"] if retro else [])]
    measurements = _read(QA, options, _own_neighbours(retro), "cell", cells)
    for settings in measurements:
        require_cell(artefact, settings)
        _require_evidence(settings, source)
    if retro is not None:
        require_chunks(retro["chunk_tokens"], source)
    with display(), quiet_transformers():
        settings = measurements[0]
        question_set = calls.questions(questions, "questions", settings.made, tokens)
        evidence = {"datastore": source, "questions": question_set, "tokens": tokens}
        neighbours = calls.call(QUESTION_NEIGHBOURS, settings.search, evidence)
        for settings in measurements:
            chunks = _chunks_found(settings)
            if calls.dry_run and chunks:
                require_served(neighbours, source, settings.view, settings.view_seed, chunks)
        inputs = {"model": artefact, "question_neighbours": neighbours, **evidence}
        results = _measure(calls, QA, measurements, "cell", inputs, out)
    # Of several tasks one share would be a mixture.
    has_tasks = any(result["metrics"]["by_task"] for result in results)
    headings = {
        "questions": "questions",
        **(_BY_TASK if has_tasks else {"choice_accuracy": "choice accuracy"}),
        "exact_match": "exact match",
        "f1": "F1",
        "answer_nll": "nats per answer token",
    }
    _print(calls, options, results, "cell", headings)


def _require_evidence(settings: Any, source: Artefact) -> None:
    """Refuse passages that the search or the view cannot give."""
    # a question's own passage is given whatever the view holds
    if settings.used().cell != "closed" and settings.evidence != "own":
        require_view(settings.view, settings.view_seed, source)
    require_hits(_chunks_found(settings), settings.search)


def _chunks_found(settings: Any) -> int:
    """Chunks of a question that are taken from its neighbours; 0 where they come from elsewhere."""
    if settings.evidence != "found":
        return 0
    return max(settings.encoder_chunks, settings.prompt_chunks)


_BY_TASK = {
    "reading_accuracy": "reading",
    "found_and_copied": "found and copied",
    "yes_no_accuracy": "yes or no",
    "follows_passage": "follows passage",
}
"""Metrics of questions that have tasks; `evaluation.records` says what each one is."""


def _own_neighbours(retro: Mapping[str, Any] | None) -> dict[str, Any]:
    """As many neighbours as the model was trained with; nothing of a plain decoder."""
    return {} if retro is None else {"k": retro["neighbours"]}


def _read(
    stage: Stage,
    options: StageOptions,
    defaults: Mapping[str, Any],
    field: str,
    values: Iterable[str],
) -> list[Any]:
    """Settings of each measurement, which differ in the field `field`."""
    read_one = partial(
        read_settings, settings_class(stage), options.config, options.settings, defaults=defaults
    )
    return [read_one(options={field: value}) for value in values]


def _measure(
    calls: Steps,
    stage: Stage,
    measurements: Iterable[Any],
    field: str,
    inputs: Mapping[str, Any],
    out: Path | None,
) -> list[dict[str, Any]]:
    """The result of each measurement as JSON; nothing in a dry run."""
    results = []
    for settings in measurements:
        value = getattr(settings, field)
        folder = None if out is None else out / value
        artefact = calls.call(stage, stage_config(settings, stage), inputs, out=folder)
        # there is nothing to read yet, only a row of the plan
        if not calls.dry_run:
            metrics = read_content(artefact.file("metrics.json"))
            results.append({field: value, **about(artefact, folder), "metrics": metrics})
    return results


def _print(
    calls: Steps,
    options: StageOptions,
    results: list[dict[str, Any]],
    field: str,
    headings: Mapping[str, str],
) -> None:
    """Results as JSON, or as a table with the metrics that have a heading."""
    if calls.dry_run:
        calls.print(options.as_json)
    elif options.as_json:
        print_json(results)
    else:
        rows = [[field, *headings.values()]]
        for result in results:
            metrics = result["metrics"]
            rows.append([result[field], *(_cell(metrics[name]) for name in headings)])
        print_columns(rows)


def _cell(value: float | None) -> str:
    if value is None:  # no question has the metric: choice accuracy without choices
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
