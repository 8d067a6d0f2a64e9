"""Generates text for `chunkwise generate`, and keeps the evidence that was looked up for it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from chunkwise.cli.generate import GenerateOptions
from chunkwise.cli.output import print_json
from chunkwise.cli.steps import Steps, require_same_tokenizer, tokenizer_digest
from chunkwise.core.artefact import RECORD
from chunkwise.core.errors import InputError, MismatchError
from chunkwise.core.progress import note
from chunkwise.corpus.chat_format import render_question
from chunkwise.corpus.tokenizer import load_tokenizer
from chunkwise.datastore.from_text import passage
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.retriever import Bm25Retriever
from chunkwise.evaluation.evidence import passage_tokens
from chunkwise.evaluation.inference import has_retrieval
from chunkwise.evaluation.prompts import build_prompt, encode, pad_left
from chunkwise.model.weights import load
from chunkwise.training.surroundings import quiet_transformers


class RecordingRetriever(Bm25Retriever):
    """A retriever that remembers the chunks of each lookup."""

    def __init__(self, datastore: Datastore) -> None:
        """See the class."""
        super().__init__(datastore, threads=1)
        self.lookups: list[list[int]] = []

    def search(self, chunk_ids: np.ndarray, k: int) -> np.ndarray:
        """As the base class."""
        ids = super().search(chunk_ids, k)
        # -1 stands for neighbours that are missing
        self.lookups += [[chunk for chunk in row if chunk >= 0] for row in ids.tolist()]
        return ids


def run(options: GenerateOptions, reference: str, text: str) -> None:
    """Generate from a prompt and print the new text and its evidence."""
    folder, tokenizer_folder, datastore = _open(options, reference)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with quiet_transformers():
        model: Any = load(folder, dtype=getattr(torch, options.dtype), device=device)
        tokenizer = load_tokenizer(tokenizer_folder)
    # the prompt is cut to its passages before the length is checked: they give way, not the answer
    passages: list[int] = []
    if options.passages and datastore is not None:
        ids, passages = _prompt_with_passages(options, model, tokenizer, datastore, text)
    else:
        ids = encode(tokenizer, render_question(text) if options.question else text)
    _require_reach(model, len(ids), options.max_tokens)
    retriever = _retriever(options, reference, model, datastore)
    new_ids = _generate(options, model, tokenizer, ids, retriever)
    answer = str(tokenizer.decode(new_ids, skip_special_tokens=True))
    evidence: list[dict[str, Any]] = []
    if datastore is not None:
        lookups = retriever.lookups if retriever is not None else []
        evidence = _evidence(datastore, tokenizer, passages, lookups)
    if options.as_json:
        print_json({"prompt": text, "text": answer, "tokens": len(new_ids), "evidence": evidence})
        return
    typer.echo(answer)
    for lookup in evidence:
        label = f"lookup {lookup['lookup']}" if lookup["lookup"] else "in the prompt"
        for neighbour in lookup["neighbours"]:
            beginning = " ".join(neighbour["text"].split())[:80]
            note(f"{label}: {neighbour['document']}, chunk {neighbour['chunk']}: {beginning}")


def _open(options: GenerateOptions, reference: str) -> tuple[Path, Path, Datastore | None]:
    """(model folder, tokenizer folder, datastore), checked to belong together."""
    calls = Steps(options.store)
    artefact = None if options.datastore is None else calls.datastore(options.datastore)
    datastore = None if artefact is None else Datastore.open(artefact)
    folder = Path(reference)
    if (folder / "config.json").is_file() and not (folder / RECORD).exists():
        # from elsewhere: it has no record that would tell whether its tokenizer fits
        return folder, options.tokenizer or folder, datastore
    trained = calls.model(reference)
    if artefact is not None:
        require_same_tokenizer(trained, artefact)
    digest = tokenizer_digest(trained)
    tokenizer_folder = calls.tokenizer_folder(digest, options.tokenizer, f"the model {reference}")
    return trained.file("model"), tokenizer_folder, datastore


def _prompt_with_passages(
    options: GenerateOptions, model: Any, tokenizer: Any, datastore: Datastore, question: str
) -> tuple[list[int], list[int]]:
    """Token ids of a question below its best passages, as many as fit, and the chunks that these
    begin with.
    """
    query = np.array([encode(tokenizer, question)])
    lengths = np.array([query.shape[1]])
    hits = datastore.search(query, lengths, options.passages, threads=1).ids[0].astype(np.int64)
    passages: list[list[int]] = []
    chunks: list[int] = []
    # hit by hit, because a chunk that an earlier passage holds makes no passage of its own, and
    # only a passage that was added tells its chunk
    for count, chunk in enumerate(hits.tolist(), start=1):
        longer = passage_tokens(datastore, hits[:count], passages=options.passages, chunks=2)
        if len(longer) > len(passages):
            passages = longer
            chunks.append(chunk)
    prompt_tokens = _reach(model) - options.max_tokens
    ids, texts = build_prompt(tokenizer, question, passages, prompt_tokens)
    return ids, chunks[: len(texts)]


def _retriever(
    options: GenerateOptions, reference: str, model: Any, datastore: Datastore | None
) -> RecordingRetriever | None:
    """What the model looks things up with while it generates; None where it does not."""
    if not has_retrieval(model):
        if datastore is not None and not options.passages:
            raise MismatchError(
                f"--datastore needs a model with retrieval; {reference} is a plain decoder "
                f"({type(model).__name__})",
                hint="leave --datastore out, write passages into the prompt (--question "
                "--passages 3), or give what `chunkwise train retrofit` made",
            )
        return None
    if datastore is None:
        note("no --datastore: the model goes on without retrieval")
        return None
    chunk_tokens = int(model.config.chunk_tokens)
    if datastore.chunk_tokens != chunk_tokens:
        raise MismatchError(
            f"the model reads chunks of {chunk_tokens} tokens, the datastore holds chunks of "
            f"{datastore.chunk_tokens}",
            hint=f"build a datastore with --chunk-tokens {chunk_tokens}",
        )
    return RecordingRetriever(datastore)


def _generate(
    options: GenerateOptions,
    model: Any,
    tokenizer: Any,
    ids: list[int],
    retriever: RecordingRetriever | None,
) -> list[int]:
    """Ids of the new tokens."""
    chunk_tokens = 1
    retrieval: Mapping[str, Any] = {}
    if retriever is not None:
        chunk_tokens = retriever.datastore.chunk_tokens
        retrieval = {"retriever": retriever, "neighbours": options.k, "chunk_start": 0}
    elif has_retrieval(model):
        retrieval = {"gate": 0.0}
    sampling: dict[str, Any] = {"do_sample": bool(options.temperature)}
    if options.temperature:
        # transformers warns about a temperature that a greedy choice does not use
        sampling["temperature"] = options.temperature
    row, mask = pad_left([ids], chunk_tokens=chunk_tokens, pad=tokenizer.pad_token_id)
    # just before the draws: loading and searching may draw numbers too
    torch.manual_seed(options.seed)
    with quiet_transformers(), torch.inference_mode():
        output = model.generate(
            torch.from_numpy(row).to(model.device),
            attention_mask=torch.from_numpy(mask).long().to(model.device),
            max_new_tokens=options.max_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
            **retrieval,
        )
    new_ids: list[int] = output[0, row.shape[1] :].tolist()
    return new_ids


def _evidence(
    datastore: Datastore, tokenizer: Any, passages: list[int], lookups: list[list[int]]
) -> list[dict[str, Any]]:
    """The chunks of each lookup with their documents and texts; lookup 0 is the prompt's."""
    evidence = []
    for number, chunks in enumerate([passages, *lookups]):
        neighbours = [asdict(passage(datastore, chunk, tokenizer)) for chunk in chunks]
        for neighbour in neighbours:
            del neighbour["score"]  # generation keeps none
        # a later lookup without hits is evidence too: nothing was read there
        if number or chunks:
            evidence.append({"lookup": number, "neighbours": neighbours})
    return evidence


def _reach(model: Any) -> int:
    """Tokens that the decoder was made for; a large number where it does not say."""
    config = getattr(model.config, "decoder", model.config)
    return int(getattr(config, "max_position_embeddings", None) or 10**6)


def _require_reach(model: Any, prompt_tokens: int, max_tokens: int) -> None:
    """Refuse more text than the decoder was made for."""
    reach = _reach(model)
    if prompt_tokens + max_tokens > reach:
        raise InputError(
            f"the model reads {reach} tokens; the prompt has {prompt_tokens}, and {max_tokens} new "
            "ones are asked for",
            hint="shorten the prompt, or lower --max-tokens",
        )
