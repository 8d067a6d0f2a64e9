"""The evaluation stages: a model and data in, per-example records and metrics.json out.

    perplexity     metrics.json, records.parquet (a document a row), chunks.parquet (a chunk a row),
                   token_nll.npy float32 [S, n] (nats; NaN where nothing is predicted)
    qa             metrics.json, records.parquet (a question a row)

The device is where results are computed, not what they are: it is an argument and no part of the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.core.errors import ConfigError, MismatchError
from chunkwise.core.io import load_npy, read_json, read_parquet, save_npy, write_json, write_parquet
from chunkwise.core.precision import resolve_dtype
from chunkwise.core.store import Artefact, Store
from chunkwise.evaluation.bypass import check_gate_off
from chunkwise.evaluation.compare import Signal, compare_perplexity, signal
from chunkwise.evaluation.config import BagOfWordsConfig, PerplexityConfig, QuestionsEvalConfig

__all__ = [
    "BagOfWordsConfig", "PerplexityConfig", "QuestionsEvalConfig", "Signal",
    "check_gate_off", "compare_perplexity", "evaluate_bag_of_words", "evaluate_perplexity", "evaluate_questions",
    "signal",
]  # fmt: skip

PERPLEXITY_VERSION = 1
QA_VERSION = 1


def _load_model(model: Artefact, device: str | None):
    import torch

    from chunkwise.model.weights import load

    return load(model.file("model"), device=device or ("cuda" if torch.cuda.is_available() else "cpu"))


def evaluate_perplexity(
    config: PerplexityConfig,
    model: Artefact,
    sequences: Artefact,
    neighbours: Artefact | None,
    datastore: Artefact | None,
    store: Store,
    *,
    out: Path | str | None = None,
    device: str | None = None,
) -> Artefact:
    """Loss of one model on documents under one condition.

    Args:
        config: see PerplexityConfig; fields that its condition ignores do not count.
        model: a "model" artefact, Retro or plain.
        sequences: rows of layout "documents".
        neighbours: the hits of these rows. The conditions on, shuffled and in_prompt read them; with the others they
            only serve the overlap of each chunk (None: no overlap is given).
        datastore: what `neighbours` was searched in; needed with it, and by condition random.
        out: also place the artefact here.
        device: default a GPU where there is one.

    Returns:
        A "perplexity" artefact. metrics.json: nll (nats per token), perplexity, bits_per_byte, tokens, bytes,
        documents, by_source, by_overlap and by_readable_overlap (see `overlap.by_overlap`; None without a table),
        neighbours (counts), work (tokens of the text, and of the neighbours that were read).

        chunks.parquet: `overlap` is RETRO's, of a chunk with its own nearest neighbours in the whole datastore, the
        same for every arm; `readable_overlap` is with the neighbours that the chunk could read in this evaluation,
        which are those found for the chunk before it.

    Raises:
        MismatchError: rows not of layout "documents"; model, table or datastore not made for each other or for the
            condition; a view that the table cannot serve.
        ConfigError: the condition needs a table or a datastore, and none is given.
    """
    config = config.used().model_copy(update={"dtype": resolve_dtype(config.dtype)})
    facts = read_json(sequences.file("sequences.json"))
    if facts["layout"] != "documents":
        raise MismatchError(
            f"perplexity is measured by document; these sequences have the layout {facts['layout']!r}",
            hint='pack the evaluation split with layout="documents"',
        )
    if config.reads_the_table and neighbours is None:
        raise ConfigError(f"condition {config.condition!r} needs the neighbours of these sequences")
    if datastore is None and (neighbours is not None or config.condition == "random"):
        raise ConfigError(f"condition {config.condition!r} needs the datastore (and so does a neighbour table)")
    if neighbours is not None and neighbours.record.inputs.get("sequences") != sequences.digest:
        raise MismatchError(
            "the neighbour table was made for other sequences", hint="find the neighbours of these sequences first"
        )
    inputs = {"model": model, "sequences": sequences}
    inputs |= {"neighbours": neighbours} if neighbours is not None else {}
    inputs |= {"datastore": datastore} if datastore is not None else {}

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        return _perplexity(config, _load_model(model, device), sequences, facts, neighbours, datastore, folder)

    return store.make("perplexity", PERPLEXITY_VERSION, config, inputs, build, out=out)


def _perplexity(
    config: PerplexityConfig,
    model: Any,
    sequences: Artefact,
    facts: Mapping[str, Any],
    neighbours: Artefact | None,
    datastore: Artefact | None,
    folder: Path,
) -> dict[str, Any]:
    from chunkwise.datastore.reader import Datastore
    from chunkwise.evaluation import perplexity
    from chunkwise.evaluation.inference import require
    from chunkwise.evaluation.overlap import by_overlap
    from chunkwise.neighbours.table import NeighbourTable

    if config.condition != "off":  # a plain decoder is its own gate-off
        retrieval = config.condition not in ("none", "in_prompt")
        require(model, retrieval=retrieval, what=f"condition {config.condition!r}")
    chunk_tokens = _chunk_tokens(model, datastore)
    _require_vocabulary(model, facts["vocabulary_size"])
    rows = perplexity.Rows(
        tokens_Sn=load_npy(sequences.file("sequences.npy")),
        lengths_S=load_npy(sequences.file("lengths.npy"), mmap=False).astype(np.int64),
        bytes_S=load_npy(sequences.file("bytes.npy"), mmap=False),
        document_S=load_npy(sequences.file("first_document.npy"), mmap=False),
        pad=facts["pad"],
    )
    base = None if datastore is None else Datastore.open(datastore)
    if base is not None:
        base.require_tokenizer(facts["tokenizer_digest"], "the sequences artefact")
    table = None
    if neighbours is not None and datastore is not None:
        table = NeighbourTable.open(neighbours, datastore)
    given = _given_neighbours(config, rows, sequences, base, table, chunk_tokens)
    nll_Sn = perplexity.token_losses(
        model,
        rows,
        chunk_tokens=chunk_tokens,
        neighbours=given.read if given else None,
        in_prompt=config.condition == "in_prompt",
        batch_rows=config.batch_rows,
        dtype=config.dtype,
    )

    chunk_Qm, length_Q = perplexity.chunks_of(rows, chunk_tokens)
    tokens_Q, nats_Q = perplexity.chunk_table(nll_Sn, chunk_tokens=chunk_tokens)
    overlap_Q = readable_Q = np.full(len(tokens_Q), np.nan)
    if table is not None and config.overlap_neighbours:
        nearest = table.select(None, config.overlap_neighbours, allow_short=True).ids
        overlap_Q = perplexity.overlap_share(chunk_Qm, length_Q, lambda block: table.datastore.gather(nearest[block]))
    chunks = len(tokens_Q) // len(nll_Sn)
    if given is not None:
        readable_Q = perplexity.overlap_share(chunk_Qm, length_Q, given.before)
        readable_Q[::chunks] = np.nan  # nothing is read before the end of a row's first chunk

    documents = perplexity.document_table(nll_Sn, rows)
    listed = read_parquet(sequences.file("documents.parquet")).to_pydict()
    place = {document: index for index, document in enumerate(listed["document"])}
    positions = [place[document] for document in documents["document"].tolist()]
    source = np.array([listed["source"][position] for position in positions], dtype=object)
    write_parquet(
        folder / "records.parquet",
        {
            "document": documents["document"],
            "document_id": [listed["document_id"][position] for position in positions],
            "source": source.tolist(),
            **{name: documents[name] for name in ("tokens", "text_tokens", "bytes", "nats", "nll")},
        },
    )
    kept_Q = length_Q > 0
    write_parquet(
        folder / "chunks.parquet",
        {
            "row": np.repeat(np.arange(len(nll_Sn)), chunks)[kept_Q],
            "chunk": np.tile(np.arange(chunks), len(nll_Sn))[kept_Q],
            "document": np.repeat(rows.document_S, chunks)[kept_Q],
            "tokens": tokens_Q[kept_Q],
            "nats": nats_Q[kept_Q],
            "overlap": overlap_Q[kept_Q],
            "readable_overlap": readable_Q[kept_Q],
        },
    )
    save_npy(folder / "token_nll.npy", nll_Sn)
    metrics = {
        **perplexity.summary(documents),
        "by_source": {label: perplexity.summary(documents, source == label) for label in sorted(set(source.tolist()))},
        "by_overlap": by_overlap(overlap_Q, tokens_Q, nats_Q) if table is not None else None,
        "by_readable_overlap": by_overlap(readable_Q, tokens_Q, nats_Q) if given is not None else None,
        "neighbours": None if given is None else given.counts,
        "work": {"text_tokens": int(rows.lengths_S.sum()), "neighbour_tokens": given.tokens_read if given else 0},
        "condition": config.condition,
        "chunk_tokens": chunk_tokens,
        "sequences": sequences.digest,
    }
    write_json(folder / "metrics.json", metrics)
    return {name: metrics[name] for name in ("nll", "perplexity", "bits_per_byte", "tokens", "documents", "neighbours")}


def _given_neighbours(config, rows, sequences: Artefact, base, table, chunk_tokens: int):
    """What the chunks may read under the condition; None where nothing is read."""
    from chunkwise.datastore.views import members
    from chunkwise.evaluation.perplexity import GivenNeighbours
    from chunkwise.neighbours.controls import oracle_neighbours, random_neighbours, shuffled_neighbours

    if not config.reads_neighbours:
        return None
    rows_S, width = rows.tokens_Sn.shape
    if width % chunk_tokens:
        raise MismatchError(
            f"rows of {width} tokens are no whole number of chunks of {chunk_tokens} tokens",
            hint=f"pack sequences of {-(-width // chunk_tokens) * chunk_tokens} tokens",
        )
    chunks = width // chunk_tokens
    if config.condition in ("oracle", "own"):
        continued = config.condition == "oracle"
        given = rows.tokens_Sn, rows.lengths_S, chunk_tokens, config.k, rows.pad
        return GivenNeighbours.of_tokens(*oracle_neighbours(*given, continued=continued))
    if config.condition == "random":
        has_query = (rows.lengths_S[:, None] > np.arange(chunks) * chunk_tokens).reshape(-1)
        exclude: dict[str, Any] = {}
        if sequences.record.inputs.get("tokens") == base.tokens_digest:
            document_Q = np.repeat(rows.document_S, chunks)
            exclude = {"exclude_first_document": document_Q, "exclude_last_document": document_Q}
        ids_Qk = random_neighbours(base, rows_S * chunks, config.k, config.random_seed, has_query=has_query, **exclude)
        counts = {"queries": int(has_query.sum()), "mean_neighbours": float(config.k)}
    else:
        inside = None if config.view is None else members(config.view, base.documents, config.view_seed)
        complete = config.view is not None and config.view.searched_itself
        selection = table.select(inside, config.k, complete=complete)
        ids_Qk, counts = selection.ids, selection.counts()
        if config.condition == "shuffled":
            ids_Qk = shuffled_neighbours(ids_Qk, table.has_query, table.exclude, config.random_seed)
    return GivenNeighbours.of_chunks(ids_Qk.reshape(rows_S, chunks, -1), base, counts)


def _chunk_tokens(model: Any, datastore: Artefact | None) -> int:
    """m, on which model and datastore must agree; 64 where neither has one."""
    from chunkwise.evaluation.inference import has_retrieval

    stored = None if datastore is None else int(read_json(datastore.file("datastore.json"))["chunk_tokens"])
    wanted = int(model.config.chunk_tokens) if has_retrieval(model) else None
    if stored is not None and wanted is not None and stored != wanted:
        raise MismatchError(
            f"the model reads chunks of {wanted} tokens, the datastore holds chunks of {stored}",
            hint=f"build a datastore with chunk_tokens={wanted}",
        )
    return stored or wanted or 64


def _require_vocabulary(model: Any, size: int) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < size:
        raise MismatchError(
            f"the model knows {rows} tokens, the tokenizer has {size}",
            hint="use the tokenizer that the model was trained with",
        )


def evaluate_questions(
    config: QuestionsEvalConfig,
    model: Artefact,
    questions: Artefact,
    question_neighbours: Artefact | None,
    datastore: Artefact | None,
    tokens: Artefact,
    store: Store,
    *,
    out: Path | str | None = None,
    device: str | None = None,
) -> Artefact:
    """Zero-shot answers of one model in one cell.

    Args:
        config: see QuestionsEvalConfig; fields that its cell ignores do not count.
        model: a "model" artefact; a plain decoder has the cells closed and prompt.
        questions: a "questions" artefact.
        question_neighbours, datastore: hits of these questions, and what was searched; the cell closed ignores them.
        tokens: the "tokens" artefact that carries the tokenizer.
        out: also place the artefact here.
        device: default a GPU where there is one.

    Returns:
        A "qa" artefact: records.parquet and metrics.json (see `questions.metrics`).

    Raises:
        MismatchError: model, tokenizer, table and datastore were not made for each other, or not for the cell.
        ConfigError: the cell shows passages, and no table or datastore is given.
    """
    config = config.used().model_copy(update={"dtype": resolve_dtype(config.dtype)})
    facts = read_json(tokens.file("tokens.json"))
    shows = config.cell != "closed"
    inputs = _evidence_inputs(questions, question_neighbours, datastore, shows, f"cell {config.cell!r}")
    inputs |= {"model": model, "tokenizer": facts["tokenizer_digest"]}

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        from chunkwise.corpus.questions import read_questions
        from chunkwise.corpus.tokenizer import load_tokenizer
        from chunkwise.evaluation import questions as answering
        from chunkwise.evaluation.inference import has_retrieval, require

        loaded = _load_model(model, device)
        if config.in_encoder:
            require(loaded, retrieval=True, what=f"cell {config.cell!r}")
        _require_vocabulary(loaded, facts["vocabulary_size"])
        tokenizer = load_tokenizer(tokens.file("tokenizer"))
        everything = read_questions(questions.file("questions.jsonl"))
        chosen = answering.first_by_hash([record["id"] for record in everything], config.n_questions)
        evidence = None
        if shows:
            wanted = max(config.k if config.in_encoder else 0, config.passages if config.in_prompt else 0)
            evidence = _open_evidence(config, wanted, question_neighbours, datastore, everything, facts)
        prepared = []
        for position in chosen:
            passages = []
            if evidence is not None and config.in_prompt:
                passages = evidence.passages(position, config.passages, config.passage_chunks)
            prepared.append(
                answering.prepare(tokenizer, everything[position], passages, prompt_tokens=config.prompt_tokens)
            )
        chunk_tokens = _chunk_tokens(loaded, datastore if has_retrieval(loaded) else None)
        neighbours = None
        if evidence is not None and config.in_encoder:
            if config.encoder_reads == "own":
                prompts = [question.prompt for question in prepared]
                neighbours = answering.own_chunks(prompts, chunk_tokens, config.k, facts["pad"])
            else:
                ids = _encoder_ids(config, evidence, question_neighbours, datastore)
                neighbours = evidence.datastore.gather(ids[chosen])
        answers = answering.answer(
            loaded,
            tokenizer,
            prepared,
            config,
            chunk_tokens=chunk_tokens,
            pad=facts["pad"],
            eos=facts["eos"],
            neighbours=neighbours,
        )
        own_found = np.zeros(len(chosen), bool)
        if evidence is not None:
            shown = [max(config.k if config.in_encoder else 0, len(question.shown)) for question in prepared]
            own_found = evidence.holds_own(chosen, shown)
        columns, metrics = answering.records(prepared, answers, config.scoring, own_found)
        write_parquet(folder / "records.parquet", columns, schema=_record_schema())
        metrics |= {
            "cell": config.cell,
            "evidence": config.evidence if evidence else None,
            "neighbours": evidence.counts if evidence else None,
            "scoring": config.scoring,
            "work": {"prompt_tokens": answers.prompt_tokens, "option_tokens": answers.option_tokens},
        }
        write_json(folder / "metrics.json", metrics)
        return {name: metrics[name] for name in _QA_COUNTS}

    return store.make("qa", QA_VERSION, config, inputs, build, out=out)


_QA_COUNTS = ("questions", "choice_accuracy", "answer_nll", "exact_match", "f1")


def evaluate_bag_of_words(
    config: BagOfWordsConfig,
    questions: Artefact,
    question_neighbours: Artefact | None,
    datastore: Artefact | None,
    tokens: Artefact,
    store: Store,
    *,
    out: Path | str | None = None,
) -> Artefact:
    """Four-way choice by shared words; the same files as `evaluate_questions`, with null where only a model has values.

    Args:
        config: see BagOfWordsConfig. Reading the question alone needs neither table nor datastore.

    Raises:
        As `evaluate_questions`.
    """
    config = config.used()
    facts = read_json(tokens.file("tokens.json"))
    inputs = _evidence_inputs(questions, question_neighbours, datastore, config.reads == "passages", "reading passages")
    inputs |= {"tokenizer": facts["tokenizer_digest"]}

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        from chunkwise.corpus.questions import read_questions
        from chunkwise.corpus.tokenizer import load_tokenizer
        from chunkwise.evaluation import bag_of_words
        from chunkwise.evaluation import questions as answering

        everything = read_questions(questions.file("questions.jsonl"))
        chosen = answering.first_by_hash([record["id"] for record in everything], config.n_questions)
        evidence, read = None, [[everything[position]["question"]] for position in chosen]
        if config.reads == "passages":
            evidence = _open_evidence(config, config.passages, question_neighbours, datastore, everything, facts)
            tokenizer = load_tokenizer(tokens.file("tokenizer"))
            read = [
                [tokenizer.decode(ids) for ids in evidence.passages(position, config.passages, config.passage_chunks)]
                for position in chosen
            ]
        own_found = np.zeros(len(chosen), bool)
        if evidence is not None:
            own_found = evidence.holds_own(chosen, [config.passages] * len(chosen))
        columns, metrics = bag_of_words.records([everything[position] for position in chosen], read, own_found)
        write_parquet(folder / "records.parquet", columns, schema=_record_schema())
        metrics |= {
            "cell": f"bag of words: {config.reads}",
            "evidence": config.evidence if evidence else None,
            "neighbours": evidence.counts if evidence else None,
            "scoring": "bag of words",
        }
        write_json(folder / "metrics.json", metrics)
        return {name: metrics[name] for name in _QA_COUNTS}

    return store.make("qa", QA_VERSION, {"bag_of_words": config.model_dump(mode="json")}, inputs, build, out=out)


def _evidence_inputs(
    questions: Artefact, table: Artefact | None, datastore: Artefact | None, used: bool, what: str
) -> dict[str, Artefact | str]:
    """The inputs that count, checked to belong together."""
    if not used:
        return {"questions": questions}
    if table is None or datastore is None:
        raise ConfigError(f"{what} needs the neighbours of the questions, and the datastore that they were found in")
    if table.record.inputs.get("questions") != questions.digest:
        raise MismatchError(
            "the neighbour table was made for other questions", hint="find the neighbours of these questions first"
        )
    return {"questions": questions, "question_neighbours": table, "datastore": datastore}


def _open_evidence(
    config, n: int, table: Artefact | None, datastore: Artefact | None, records: list, facts: Mapping[str, Any]
):
    from chunkwise.evaluation.evidence import Evidence, find_evidence, own_documents
    from chunkwise.neighbours.table import NeighbourTable

    assert table is not None and datastore is not None  # `_evidence_inputs` refused their absence
    opened = NeighbourTable.open(table, datastore)
    opened.datastore.require_tokenizer(facts["tokenizer_digest"], "the tokens artefact")
    own_Q = own_documents(opened.datastore, [record.get("document_id") for record in records])
    ids, counts = find_evidence(
        config.evidence,
        n,
        table=opened,
        view=config.view,
        view_seed=config.view_seed,
        placebo_seed=config.placebo_seed,
        own_Q=own_Q,
    )
    return Evidence(opened.datastore, ids, own_Q, counts)


def _encoder_ids(config, evidence, table: Artefact | None, datastore: Artefact | None) -> np.ndarray:
    """Chunk ids [Q, k] that the encoder is given for each question."""
    from chunkwise.evaluation.evidence import find_evidence
    from chunkwise.neighbours.controls import shuffled_neighbours
    from chunkwise.neighbours.table import NeighbourTable

    ids = evidence.ids[:, : config.k]
    if config.encoder_reads == "shuffled":
        return shuffled_neighbours(ids, (ids >= 0).any(1), None, config.placebo_seed)
    if config.encoder_reads == "random":
        about = {"view": config.view, "view_seed": config.view_seed, "placebo_seed": config.placebo_seed}
        opened = NeighbourTable.open(table, datastore)
        ids, _ = find_evidence("placebo", config.k, table=opened, own_Q=evidence.own_Q, **about)
    return ids


def _record_schema():
    """Types of records.parquet, fixed because whole columns may be null."""
    import pyarrow

    from chunkwise.evaluation.questions import RECORD_COLUMNS

    text, number, real, truth = pyarrow.string(), pyarrow.int32(), pyarrow.float64(), pyarrow.bool_()
    kinds = dict.fromkeys(("question", "document_id", "source", "kind", "prediction"), text)
    kinds |= dict.fromkeys(("answer_index", "choice", "answer_tokens", "prompt_tokens", "passages"), number)
    kinds |= dict.fromkeys(("margin", "answer_nll", "f1"), real)
    kinds |= dict.fromkeys(("correct", "exact_match", "own_document_found", "answer_in_prompt"), truth)
    return pyarrow.schema([(name, kinds[name]) for name in RECORD_COLUMNS])
