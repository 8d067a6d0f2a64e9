"""`chunkwise generate`: text from a model, and the evidence that it read."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chunkwise.cli.options import JsonOption, StoreOption, TokenizerOption

if TYPE_CHECKING:
    import numpy as np

    from chunkwise.datastore.reader import Datastore
    from chunkwise.datastore.retriever import Bm25Retriever


def generate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model: a folder or key from `chunkwise train`, or a Hugging Face folder.",
            show_default=False,
        ),
    ],
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT", help="Text to go on from; - reads stdin.", show_default=False
        ),
    ],
    datastore: Annotated[
        str | None,
        typer.Option(
            help="Datastore to look things up in. Without it nothing is looked up.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "--k", min=1, help="Neighbours of a chunk. Default: the model's.", show_default=False
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens, at most.")] = 64,
    question: Annotated[
        bool,
        typer.Option(
            "--question", help="The prompt is a question or instruction, for a tuned model."
        ),
    ] = False,
    passages: Annotated[
        int,
        typer.Option(
            min=0, help="With --question and --datastore: passages in the prompt, best first."
        ),
    ] = 0,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the likeliest token each time.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws at a temperature above 0.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="Type of the weights: float32, bfloat16, float16 (GPU only).")
    ] = "float32",
    tokenizer: TokenizerOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on from a prompt. The new text goes to stdout, what was looked up for it to stderr (or
    both into --json).

    The prompt is padded on the left so that it ends with a chunk: what is found for its last chunk
    serves the first new token. Later lookups follow whenever a chunk is complete.

    \b
    Example:
      chunkwise generate runs/tuned "What does shuffle do?" --question --datastore runs/notes
      chunkwise generate runs/retrofit "A neighbour is" --datastore runs/notes --max-tokens 40
    """
    from chunkwise.core.errors import ConfigError, InputError, MismatchError

    dtypes = ("float32", "bfloat16", "float16")
    if dtype not in dtypes:
        raise ConfigError(f"unknown --dtype {dtype!r}", hint=f"known: {', '.join(dtypes)}")
    text = sys.stdin.read() if prompt == "-" else prompt
    if passages and not (question and datastore):
        raise ConfigError("--passages needs --question and --datastore")
    if not text.strip():
        raise InputError("the prompt holds no text")

    import torch

    from chunkwise.cli.output import print_json
    from chunkwise.core.progress import note
    from chunkwise.core.store import Store
    from chunkwise.corpus.chat_format import render_question
    from chunkwise.corpus.tokenizer import encode, load_tokenizer
    from chunkwise.evaluation.inference import has_retrieval
    from chunkwise.evaluation.prompts import pad_left
    from chunkwise.model.weights import load
    from chunkwise.training.trainer import quiet_transformers

    kept = Store(store)
    folder, words_folder, source = _open(kept, model, datastore, tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with quiet_transformers():
        loaded: Any = load(folder, dtype=getattr(torch, dtype), device=device)
        words = load_tokenizer(words_folder)
    shown: list[int] = []
    if passages and source is not None:
        ids, shown = _prompt_with_passages(
            source, words, text, passages, _reach(loaded) - max_tokens
        )
    else:
        ids = encode(words, [render_question(text) if question else text])[0].tolist()
    _require_reach(loaded, len(ids), max_tokens)
    retrieval: dict[str, Any] = {"gate": 0.0} if has_retrieval(loaded) else {}
    chunk_tokens, evidence = 1, None
    if source is not None and (has_retrieval(loaded) or not passages):
        if not has_retrieval(loaded):
            raise MismatchError(
                f"--datastore needs a model with retrieval; {model} is a plain decoder "
                f"({type(loaded).__name__})",
                hint="leave --datastore out, write passages into the prompt (--question --passages "
                "3), or give what "
                "`chunkwise train retrofit` made",
            )
        chunk_tokens = int(loaded.config.chunk_tokens)
        evidence = _evidence(source, chunk_tokens)
        retrieval = {"retriever": evidence, "neighbours": k, "chunk_start": 0}
    elif has_retrieval(loaded):
        note("no --datastore: the model goes on without retrieval")
    row, mask = pad_left([ids], chunk_tokens=chunk_tokens, pad=words.pad_token_id)
    torch.manual_seed(seed)
    drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with quiet_transformers(), torch.inference_mode():
        written = loaded.generate(
            torch.from_numpy(row).to(device),
            attention_mask=torch.from_numpy(mask).long().to(device),
            max_new_tokens=max_tokens,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            **drawn,
            **retrieval,
        )[0, row.shape[1] :].tolist()
    answer = str(words.decode(written, skip_special_tokens=True))
    found: list[dict[str, Any]] = []
    if source is not None and shown:
        found.append(
            {"lookup": 0, "neighbours": [_described(source, chunk, words) for chunk in shown]}
        )
    if source is not None and evidence is not None:
        for number, chunks in enumerate(evidence.found, start=1):
            found.append(
                {
                    "lookup": number,
                    "neighbours": [_described(source, chunk, words) for chunk in chunks],
                }
            )
    if as_json:
        print_json({"prompt": text, "text": answer, "tokens": len(written), "evidence": found})
        return
    typer.echo(answer)
    for lookup in found:
        for neighbour in lookup["neighbours"]:
            start = " ".join(neighbour["text"].split())[:80]
            place = f"lookup {lookup['lookup']}" if lookup["lookup"] else "in the prompt"
            note(f"{place}: {neighbour['document']}, chunk {neighbour['chunk']}: {start}")


def _described(source: "Datastore", chunk: int, words: Any) -> dict[str, Any]:
    """A chunk as evidence: whose it is, and its text."""
    from dataclasses import asdict

    from chunkwise.datastore.from_text import passage

    values = asdict(passage(source, chunk, words))
    del values["score"]  # generation keeps none
    return values


def _open(
    store: Any, model: str, datastore: str | None, tokenizer: Path | None
) -> tuple[Path, Path, "Datastore | None"]:
    """(model folder, tokenizer folder, datastore), checked to belong together."""
    from chunkwise.cli.steps import Steps, require_same_tokenizer, tokenizer_digest
    from chunkwise.core.artefact import RECORD
    from chunkwise.datastore.reader import Datastore

    calls = Steps(store)
    found = None if datastore is None else calls.datastore(datastore)
    source = None if found is None else Datastore.open(found)
    folder = Path(model)
    if (folder / "config.json").is_file() and not (folder / RECORD).exists():
        return (
            folder,
            tokenizer or folder,
            source,
        )  # from elsewhere: whether its tokenizer fits cannot be told
    trained = calls.model(model)
    if found is not None:
        require_same_tokenizer(trained, found)
    words = calls.tokenizer_folder(tokenizer_digest(trained), tokenizer, f"the model {model}")
    return trained.file("model"), words, source


def _evidence(source: "Datastore", chunk_tokens: int) -> "_Evidence":
    from chunkwise.core.errors import MismatchError
    from chunkwise.datastore.retriever import Bm25Retriever

    if source.chunk_tokens != chunk_tokens:
        raise MismatchError(
            f"the model reads chunks of {chunk_tokens} tokens, the datastore holds chunks of "
            f"{source.chunk_tokens}",
            hint=f"build a datastore with --chunk-tokens {chunk_tokens}",
        )
    return _Evidence(Bm25Retriever(source, threads=1))


class _Evidence:
    """A retriever that remembers what it gave, lookup by lookup."""

    def __init__(self, retriever: "Bm25Retriever") -> None:
        self.retriever = retriever
        self.found: list[list[int]] = []

    def neighbours(self, chunk_ids: "np.ndarray", k: int) -> tuple["np.ndarray", "np.ndarray"]:
        ids = self.retriever.search(chunk_ids, k)
        self.found += [[chunk for chunk in row if chunk >= 0] for row in ids.tolist()]
        return self.retriever.datastore.gather(ids)


def _prompt_with_passages(
    source: "Datastore", words: Any, question: str, passages: int, max_tokens: int
) -> tuple[list[int], list[int]]:
    """Token ids of a question below its best passages, as many as fit, and the chunks that were
    taken.
    """
    import numpy as np

    from chunkwise.evaluation.evidence import passage_tokens
    from chunkwise.evaluation.prompts import build_prompt, encode

    query = np.array([encode(words, question)])
    hits = (
        source.search(query, np.array([query.shape[1]]), passages, threads=1)
        .ids[0]
        .astype(np.int64)
    )
    texts: list[list[int]] = []
    chunks: list[int] = []
    for place in range(
        len(hits)
    ):  # a chunk that an earlier passage holds already makes no passage of its own
        longer = passage_tokens(source, hits[: place + 1], passages=passages, chunks=2)
        if len(longer) > len(texts):
            texts, chunks = longer, [*chunks, int(hits[place])]
    ids, shown = build_prompt(words, question, texts, max_tokens)
    return ids, chunks[: len(shown)]


def _reach(model: Any) -> int:
    """Tokens that the decoder was made for; a large number where it does not say."""
    config = getattr(model.config, "decoder", model.config)
    return int(getattr(config, "max_position_embeddings", None) or 10**6)


def _require_reach(model: Any, prompt_tokens: int, max_tokens: int) -> None:
    """Refuse more text than the decoder was made for."""
    from chunkwise.core.errors import InputError

    reach = _reach(model)
    if prompt_tokens + max_tokens > reach:
        raise InputError(
            f"the model reads {reach} tokens; the prompt has {prompt_tokens}, and {max_tokens} new "
            "ones are asked for",
            hint="shorten the prompt, or lower --max-tokens",
        )
