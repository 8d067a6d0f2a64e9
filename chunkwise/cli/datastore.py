"""`chunkwise datastore`: build one from text, search it, look at it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from chunkwise.cli.options import (
    DatastoreArgument,
    JsonOption,
    OutOption,
    StageOptions,
    StoreOption,
    TokenizerOption,
    verb,
)

if TYPE_CHECKING:
    from chunkwise.cli.settings import BuildSettings
    from chunkwise.cli.steps import Steps
    from chunkwise.corpus.config import SourceConfig

app = typer.Typer(
    no_args_is_help=True,
    short_help="Build, search and show datastores.",
    help="""Datastores: text that a model can look things up in.

    \b
    Example:
      chunkwise datastore build notes/ --out runs/notes
    """,
)


Sources = Annotated[
    list[str] | None, Argument(metavar="SOURCE...", help="Files and folders of text.")
]
KindOption = Annotated[
    str,
    Option(
        help="auto (by file suffix), text, markdown, jsonl, parquet, code; huggingface: SOURCE is "
        "a data set; python: SOURCE is an installed package, or `python` for the standard library."
    ),
]
LearnedTokenizerOption = Annotated[
    str,
    Option(help="train: learn one from the text; or the folder or hub name of an existing one."),
]
VocabularyOption = Annotated[
    int | None, Option(min=258, help="Tokens of a trained tokenizer. Default: 4096.")
]
ChunkOption = Annotated[int | None, Option(min=2, max=255, help="Tokens of a chunk. Default: 64.")]
ValidOption = Annotated[
    float | None,
    Option(min=0, max=1, help="Share of the documents kept out, to evaluate on. Default: 0.05."),
]
HeldOption = Annotated[
    float | None,
    Option(
        min=0,
        max=1,
        help="Share that is in the datastore and never trained on, to make questions from. "
        "Default: 0.",
    ),
]


@verb(app, "build", short_help="Build a datastore from text.")
def build(
    options: StageOptions,
    sources: Sources = None,
    kind: KindOption = "auto",
    out: OutOption = None,
    tokenizer: LearnedTokenizerOption = "train",
    vocabulary_size: VocabularyOption = None,
    chunk_tokens: ChunkOption = None,
    valid: ValidOption = None,
    held: HeldOption = None,
) -> None:
    """Build a datastore: read documents, drop duplicates, split, learn a tokenizer, cut into
    chunks, index.

    Each step is kept in the store and not repeated. Settings: corpus, tokenizer, datastore.

    \b
    Example:
      chunkwise datastore build notes/ papers.jsonl.gz --out runs/notes
      chunkwise datastore build python numpy --kind python --held 0.25
    """
    from chunkwise.cli.output import print_artefact
    from chunkwise.cli.settings import BuildSettings, read_settings
    from chunkwise.cli.steps import Steps
    from chunkwise.core.errors import ConfigError

    corpus_sources = []
    for source in _sources(sources or [], kind):
        corpus_sources.append(source.model_dump(mode="json", exclude_unset=True))
    # with a file the parser decides, which names the missing key
    if not corpus_sources and options.config is None:
        raise ConfigError(
            "no text to build from", hint="name files or folders, or a --config with corpus.sources"
        )
    values = {
        # an empty list would replace the sources of the file
        "corpus.sources": corpus_sources or None,
        "corpus.valid_fraction": valid,
        "corpus.held_fraction": held,
        "tokenizer.pretrained": None if tokenizer == "train" else tokenizer,
        "tokenizer.vocabulary_size": vocabulary_size,
        "datastore.chunk_tokens": chunk_tokens,
    }
    # a user's text makes a datastore to look things up in; a study holds some of it out
    defaults = {"corpus": {"held_fraction": 0.0}}
    settings = read_settings(
        BuildSettings, options.config, options.settings, defaults=defaults, options=values
    )
    calls = Steps(options.store, options.dry_run)
    artefact = _call_stages(calls, settings, out)
    if calls.dry_run:
        calls.print(options.as_json)
    else:
        print_artefact(artefact, out, _facts(artefact.counts), options.as_json)


def _call_stages(calls: "Steps", settings: "BuildSettings", out: Path | None) -> Any:
    """Call the stages from documents to the datastore, which is returned."""
    from chunkwise.core.progress import display
    from chunkwise.corpus.config import TokensConfig
    from chunkwise.corpus.stages import CORPUS, TOKENIZER, TOKENS
    from chunkwise.datastore.stages import DATASTORE

    with display():
        corpus = calls.call(CORPUS, settings.corpus)
        words = calls.call(TOKENIZER, settings.tokenizer, {"corpus": corpus})
        tokens = calls.call(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": words})
        return calls.call(DATASTORE, settings.datastore, {"tokens": tokens}, out=out)


def _sources(names: list[str], kind: str) -> list["SourceConfig"]:
    """One source for each name; with `auto` one for each format that a folder holds."""
    from chunkwise.core.errors import ConfigError
    from chunkwise.corpus.config import SOURCE_KINDS, SourceConfig
    from chunkwise.corpus.readers import sources_of

    if kind not in ("auto", *SOURCE_KINDS):
        raise ConfigError(
            f"unknown --kind {kind!r}", hint=f"known: auto, {', '.join(SOURCE_KINDS)}"
        )
    # all names make one source: two would hold the standard library twice
    if kind == "python" and names:
        packages = tuple(name for name in names if name != "python")
        return [SourceConfig(kind="python", packages=packages, standard_library="python" in names)]
    if kind == "auto":
        return [source for name in names for source in sources_of(name)]
    return [SourceConfig(kind=kind, path=name) for name in names]


@app.command(short_help="Show the chunks that share most with a text.")
def search(
    datastore: DatastoreArgument,
    query: Annotated[str, Argument(metavar="QUERY", help="Words to look for.")],
    k: Annotated[int, Option("--k", min=1, help="Chunks to show, best first.")] = 5,
    tokenizer: TokenizerOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the chunks of a datastore that share most with a text, by BM25, with their documents and
    scores.

    \b
    Example:
      chunkwise datastore search runs/notes "how do chunks overlap" --k 3
    """
    from dataclasses import asdict

    from chunkwise.cli.output import print_json
    from chunkwise.cli.steps import Steps, tokenizer_digest
    from chunkwise.datastore.reader import Datastore

    calls = Steps(store)
    artefact = calls.datastore(datastore)
    words = calls.tokenizer_folder(
        tokenizer_digest(artefact), tokenizer, f"the datastore {datastore}"
    )
    # cut by the datastore's own tokenizer: any other gives terms that its index does not have
    passages = Datastore.open(artefact).find(query, k, tokenizer=words)
    hits = [
        {"rank": rank, **asdict(passage), "score": round(passage.score or 0.0, 4)}
        for rank, passage in enumerate(passages, start=1)
    ]
    if as_json:
        print_json(hits)
        return
    for hit in hits:
        typer.echo("{rank}. {document}  chunk {chunk}  score {score:.2f}".format_map(hit))
        typer.echo("".join(f"   {line}\n" for line in hit["text"].strip().splitlines()))
    # an answer, not an error: stdout and exit code 0
    if not hits:
        typer.echo("no chunk shares a word with the query")


@app.command(short_help="Show what a datastore holds.")
def info(
    datastore: DatastoreArgument,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a datastore holds: documents, chunks, tokens by source, and how it was made.

    \b
    Example:
      chunkwise datastore info runs/notes --json
    """
    from chunkwise.cli.output import about, print_facts, print_json, size_bytes
    from chunkwise.core.artefact import read_content
    from chunkwise.core.store import Store

    # its records are enough, the index stays closed
    artefact = Store(store).resolve(datastore, "datastore")
    head = read_content(artefact.file("datastore.json"))
    record = artefact.record
    size = size_bytes(artefact)
    if as_json:
        print_json({**about(artefact), **head, "bytes": size, "settings": record.params})
        return
    bm25 = record.params["bm25"]
    facts = {
        "datastore": artefact.path,
        "key": artefact.key,
        **_facts(artefact.counts),
        "tokens per chunk": head["chunk_tokens"],
        "splits": ", ".join(record.params["splits"]),
        "search": f"BM25 over {bm25['terms']}, k1 {bm25['k1']}, b {bm25['b']}",
        "vocabulary": head["vocabulary_size"],
        "tokenizer": head["tokenizer_digest"][:16],
        "megabytes": size / 1e6,
        "built in": f"{record.seconds:.1f} s with chunkwise {record.code.get('package')}",
    }
    print_facts(facts)


def _facts(counts: dict[str, Any]) -> dict[str, Any]:
    by_source = [f"{label} {tokens:,}" for label, tokens in counts["by_source"].items()]
    return {
        "documents": counts["documents"],
        "chunks": counts["chunks"],
        "tokens": counts["tokens"],
        "tokens by source": ", ".join(by_source),
        "documents too short": counts["short_documents"] or None,  # 0 would read as a finding
    }
