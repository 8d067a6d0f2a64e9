"""From what a user names to artefacts: a datastore knows by digest which text it was cut from and which tokenizer
wrote its tokens, so a verb asks for the datastore alone and finds the rest in the store.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chunkwise.core.artefact import RECORD, Artefact, read_artefact
from chunkwise.core.errors import ArtefactError, MismatchError
from chunkwise.core.io import read_json
from chunkwise.core.store import Store
from chunkwise.corpus.config import QuestionFileConfig, SequencesConfig, TokenizerConfig
from chunkwise.corpus.stages import QUESTION_FILE, SEQUENCES, TOKENIZER
from chunkwise.evaluation.stages import MODEL_INPUT


def finished(store: Store) -> Iterator[tuple[Path, Artefact | ArtefactError]]:
    """Every finished artefact of the store by stage and key; an error where its record cannot be read."""
    for record in sorted(store.root.glob(f"*/*/{RECORD}")):
        if record.parent.parent.name in ("scratch", "temporary", "locks", "tracking"):
            continue
        try:
            yield record.parent, read_artefact(record.parent)
        except ArtefactError as error:
            yield record.parent, error


def read_unchecked(store: Store, reference: str) -> tuple[Path, Artefact | ArtefactError]:
    """As `finished`, for one folder or key: its files may be missing or damaged, which is what is to be found out."""
    if (Path(reference) / RECORD).exists():
        folders = [Path(reference)]
    else:
        folders = [folder for folder, _ in finished(store) if reference and folder.name.startswith(reference)]
    if len(folders) != 1:
        many = "several artefacts" if folders else "no artefact"
        raise ArtefactError(
            f"{reference!r} names {many} in the store {store.root}", hint='"chunkwise store ls" lists the keys'
        )
    try:
        return folders[0], read_artefact(folders[0])
    except ArtefactError as error:
        return folders[0], error


def by_digest(store: Store, digest: str, stage: str) -> Artefact | None:
    """The artefact of a stage with this content, None where the store has none."""
    for folder, artefact in finished(store):
        if isinstance(artefact, Artefact) and artefact.stage == stage and artefact.digest == digest:
            return store.resolve(folder)
    return None


def resolve_model(store: Store, reference: str) -> Artefact:
    """A trained model."""
    artefact = store.resolve(reference)
    if artefact.stage not in MODEL_INPUT.kinds:
        raise ArtefactError(
            f"expected a model, got an artefact of stage {artefact.stage!r}: {artefact.path}",
            hint="models are made by chunkwise train base, retrofit, twin and instruct",
        )
    return artefact


def resolve_decoder(store: Store, reference: str, tokens: Artefact) -> Artefact:
    """A model of ours, or a folder with config.json and safetensors, which is taken over as a base."""
    folder = Path(reference)
    if (folder / "config.json").is_file() and not (folder / RECORD).exists():
        from chunkwise.training.config import AdoptedBase
        from chunkwise.training.stages import ADOPTED_BASE

        return store.get_or_build(ADOPTED_BASE, AdoptedBase(name=str(folder)), {"tokens": tokens})
    return resolve_model(store, reference)


def resolve_text(store: Store, reference: str) -> tuple[Artefact, Artefact | None]:
    """(tokens, datastore or None) from a datastore or a tokens artefact.

    Raises:
        ArtefactError: neither, or the text of the datastore is not in the store.
    """
    artefact = store.resolve(reference)
    if artefact.stage == "tokens":
        return artefact, None
    if artefact.stage != "datastore":
        raise ArtefactError(f"expected a datastore or tokens, got stage {artefact.stage!r}: {artefact.path}")
    tokens = by_digest(store, artefact.record.inputs["tokens"], "tokens")
    if tokens is None:
        raise ArtefactError(
            f"the text that the datastore {reference} was cut from is not in the store {store.root}",
            hint="name the store that it was built in: --store DIR, or CHUNKWISE_STORE",
        )
    return tokens, artefact


def resolve_datastore(store: Store, reference: str) -> Artefact:
    """A datastore."""
    return store.resolve(reference, "datastore")


def resolve_corpus(store: Store, tokens: Artefact) -> Artefact:
    """The documents that some tokens were made from."""
    corpus = by_digest(store, tokens.record.inputs["corpus"], "corpus")
    if corpus is None:
        raise ArtefactError(
            f"the corpus of the tokens {tokens.key[:12]} is not in the store {store.root}",
            hint="name the store that it was built in: --store DIR, or CHUNKWISE_STORE",
        )
    return corpus


def tokenizer_folder(store: Store, digest: str, given: Path | None, of: str) -> Path:
    """The tokenizer with this digest: the one that is given, or the store's.

    Args:
        of: whose tokens it wrote, for the message.

    Raises:
        MismatchError: the given one is another. ArtefactError: none is given, and the store has none.
    """
    if given is None:
        found = by_digest(store, digest, "tokenizer")
        if found is None:
            raise ArtefactError(
                f"the tokenizer of {of} ({digest[:12]}) is not in the store {store.root}",
                hint="give its folder with --tokenizer, or the store that it was made in with --store",
            )
        return found.path
    if (given / RECORD).exists():
        artefact = store.resolve(given, "tokenizer")
    else:
        artefact = adopt_tokenizer(store, str(given))
    if artefact.digest != digest:
        raise MismatchError(
            f"{of} was made with tokenizer {digest[:12]}, the one in {given} is {artefact.digest[:12]}",
            hint="give the tokenizer that it was made with, or leave --tokenizer out to look it up in the store",
        )
    return artefact.path


def adopt_tokenizer(store: Store, name: str) -> Artefact:
    """A tokenizer from a folder or hub name, as an artefact; no corpus is read for that."""
    return store.get_or_build(TOKENIZER, TokenizerConfig(pretrained=name))


def tokenizer_digest(artefact: Artefact) -> str:
    """Digest of the tokenizer that a model, a datastore or tokens belong to."""
    name = {"datastore": "datastore.json", "tokens": "tokens.json"}.get(artefact.stage, "training.json")
    return str(read_json(artefact.file(name))["tokenizer_digest"])


def require_same_tokenizer(model: Artefact, other: Artefact) -> None:
    """Refuse a model together with text or a datastore of another tokenizer: MismatchError."""
    if tokenizer_digest(model) != tokenizer_digest(other):
        raise MismatchError(
            f"the model was trained with tokenizer {tokenizer_digest(model)[:12]}, the {other.stage} was made with "
            f"tokenizer {tokenizer_digest(other)[:12]}",
            hint="build the datastore with the model's tokenizer: chunkwise datastore build ... --tokenizer DIR",
        )


def model_settings(model: Artefact) -> dict[str, Any]:
    """config.json of a model."""
    return dict(read_json(model.file("model/config.json")))


def is_retro(model: Artefact) -> bool:
    """Whether a model reads neighbours; told from its config, without loading it."""
    return model_settings(model).get("model_type") == "retro"


def row_tokens(datastore: Artefact | None) -> dict[str, int]:
    """Default length of rows: about 256 tokens, a whole number of the datastore's chunks."""
    if datastore is None:
        return {}
    chunk_tokens = int(read_json(datastore.file("datastore.json"))["chunk_tokens"])
    return {"sequence_tokens": chunk_tokens * max(1, 256 // chunk_tokens)}


def training_rows(store: Store, text: SequencesConfig, tokens: Artefact) -> tuple[Artefact, Artefact | None]:
    """(training sequences, validation sequences of the same shape; None where the corpus has no split `valid`)."""
    rows = store.get_or_build(SEQUENCES, text, {"tokens": tokens})
    if not tokens.counts["splits"].get("valid"):
        return rows, None
    held = text.model_copy(update={"split": "valid", "layout": "packed", "max_tokens": None})
    return rows, store.get_or_build(SEQUENCES, held, {"tokens": tokens})


def question_file(store: Store, reference: str, kind: str) -> Artefact:
    """Questions or instructions: an artefact of stage `questions`, or a JSON Lines file, which becomes one.

    Args:
        kind: "questions" or "instructions".

    Raises:
        InputError: a record lacks a field; the message names it.
    """
    path = Path(reference)
    if not path.is_file():
        artefact = store.resolve(reference, "questions")
        artefact.file(f"{kind}.jsonl")
        return artefact
    config = QuestionFileConfig.parse({"path": reference, "kind": kind}, where="questions")
    return store.get_or_build(QUESTION_FILE, config)
