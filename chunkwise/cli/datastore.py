"""`chunkwise datastore`: build one from text, search it, look at it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from chunkwise.cli.options import (
    DATASTORE,
    ConfigOption,
    DryRunOption,
    JsonOption,
    OutOption,
    SetOption,
    StoreOption,
    TokenizerOption,
)

if TYPE_CHECKING:
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


@app.command(short_help="Build a datastore from text.")
def build(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="Files and folders of text.", show_default=False),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="auto (by file suffix), text, markdown, jsonl, parquet, code; huggingface: SOURCE "
            "is a data set; "
            "python: SOURCE is an installed package, or `python` for the standard library."
        ),
    ] = "auto",
    out: OutOption = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="train: learn one from the text; or the folder or hub name of an existing one."
        ),
    ] = "train",
    vocabulary_size: Annotated[
        int | None,
        typer.Option(
            min=258, help="Tokens of a trained tokenizer. Default: 4096.", show_default=False
        ),
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(min=2, max=255, help="Tokens of a chunk. Default: 64.", show_default=False),
    ] = None,
    valid: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the documents kept out, to evaluate on. Default: 0.05.",
            show_default=False,
        ),
    ] = None,
    held: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help=(
                "Share that is in the datastore and never trained on, to make questions from. "
                "Default: 0."
            ),
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
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
    from chunkwise.core.progress import display
    from chunkwise.core.store import Store
    from chunkwise.corpus.config import TokensConfig
    from chunkwise.corpus.stages import CORPUS, TOKENIZER, TOKENS
    from chunkwise.datastore.stages import DATASTORE

    found = [
        source.model_dump(mode="json", exclude_unset=True)
        for source in _sources(sources or [], kind)
    ]
    if not found and config is None:
        raise ConfigError(
            "no text to build from", hint="name files or folders, or a --config with corpus.sources"
        )
    chosen = read_settings(
        BuildSettings,
        config,
        settings,
        defaults={"corpus": {"held_fraction": 0.0}},
        options={
            "corpus": {"sources": found or None, "valid_fraction": valid, "held_fraction": held},
            "tokenizer": {
                "pretrained": None if tokenizer == "train" else tokenizer,
                "vocabulary_size": vocabulary_size,
            },
            "datastore": {"chunk_tokens": chunk_tokens},
        },
    )
    calls = Steps(Store(store), dry_run)
    with display():
        corpus = calls.call(CORPUS, chosen.corpus)
        words = calls.call(TOKENIZER, chosen.tokenizer, {"corpus": corpus})
        tokens = calls.call(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": words})
        made = calls.call(DATASTORE, chosen.datastore, {"tokens": tokens}, out=out)
    if dry_run:
        calls.print(as_json)
        return
    print_artefact(made, out, _facts(made.counts), as_json)


def _sources(names: list[str], kind: str) -> list["SourceConfig"]:
    """One source for each name; with `auto` one for each format that a folder holds."""
    from chunkwise.core.errors import ConfigError
    from chunkwise.corpus.config import SOURCE_KINDS, SourceConfig
    from chunkwise.corpus.readers import sources_of

    if kind not in ("auto", *SOURCE_KINDS):
        raise ConfigError(
            f"unknown --kind {kind!r}", hint=f"known: auto, {', '.join(SOURCE_KINDS)}"
        )
    if kind == "python" and names:
        packages = tuple(name for name in names if name != "python")
        return [SourceConfig(kind="python", packages=packages, standard_library="python" in names)]
    if kind == "auto":
        return [source for name in names for source in sources_of(name)]
    return [SourceConfig(kind=kind, path=name) for name in names]


@app.command(short_help="Show the chunks that share most with a text.")
def search(
    datastore: Annotated[
        str, typer.Argument(metavar="DATASTORE", help=DATASTORE, show_default=False)
    ],
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="Words to look for.", show_default=False)
    ],
    k: Annotated[int, typer.Option("--k", min=1, help="Chunks to show, best first.")] = 5,
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
    from chunkwise.core.store import Store
    from chunkwise.datastore.reader import Datastore

    calls = Steps(Store(store))
    artefact = calls.datastore(datastore)
    words = calls.tokenizer_folder(
        tokenizer_digest(artefact), tokenizer, f"the datastore {datastore}"
    )
    passages = Datastore.open(artefact).find(query, k, tokenizer=words)
    found = [
        {"rank": rank, **asdict(passage), "score": round(passage.score or 0.0, 4)}
        for rank, passage in enumerate(passages, start=1)
    ]
    if as_json:
        print_json(found)
        return
    for hit in found:
        typer.echo(
            f"{hit['rank']}. {hit['document']}  chunk {hit['chunk']}  score {hit['score']:.2f}"
        )
        typer.echo("".join(f"   {line}\n" for line in hit["text"].strip().splitlines()))
    if not found:
        typer.echo("no chunk shares a word with the query")


@app.command(short_help="Show what a datastore holds.")
def info(
    datastore: Annotated[
        str, typer.Argument(metavar="DATASTORE", help=DATASTORE, show_default=False)
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a datastore holds: documents, chunks, tokens by source, and how it was made.

    \b
    Example:
      chunkwise datastore info runs/notes --json
    """
    from chunkwise.cli.output import about, print_facts, print_json
    from chunkwise.core.io import read_json
    from chunkwise.core.store import Store

    artefact = Store(store).resolve(datastore, "datastore")
    head = read_json(artefact.file("datastore.json"))
    size = sum(facts["bytes"] for facts in artefact.record.files.values())
    if as_json:
        print_json({**about(artefact), **head, "bytes": size, "settings": artefact.record.params})
        return
    bm25 = artefact.record.params["bm25"]
    print_facts(
        {
            "datastore": artefact.path,
            "key": artefact.key,
            **_facts(artefact.counts),
            "tokens per chunk": head["chunk_tokens"],
            "splits": ", ".join(artefact.record.params["splits"]),
            "search": f"BM25 over {bm25['terms']}, k1 {bm25['k1']}, b {bm25['b']}",
            "vocabulary": head["vocabulary_size"],
            "tokenizer": head["tokenizer_digest"][:16],
            "megabytes": size / 1e6,
            "built in": (
                f"{artefact.record.seconds:.1f} s with chunkwise "
                f"{artefact.record.code.get('package')}"
            ),
        }
    )


def _facts(counts: dict[str, Any]) -> dict[str, Any]:
    by_source = ", ".join(f"{label} {tokens:,}" for label, tokens in counts["by_source"].items())
    facts = {name: counts[name] for name in ("documents", "chunks", "tokens")}
    return facts | {
        "tokens by source": by_source,
        "documents too short": counts["short_documents"] or None,
    }
