"""The calls of stages that a verb makes one after another, and what a dry run says instead of
making them.

A verb names artefacts by folder or key; a datastore knows from which text it was cut, so the verb
asks for it alone and finds the rest in the store (`graph.origin`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from chunkwise.cli.output import print_columns, print_json
from chunkwise.core.artefact import RECORD, Artefact, read_content, require_free
from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError, MismatchError
from chunkwise.core.io import read_json
from chunkwise.core.progress import note
from chunkwise.core.store import Store
from chunkwise.corpus.config import (
    QuestionFileConfig,
    QuestionsConfig,
    SequencesConfig,
    TokenizerConfig,
)
from chunkwise.corpus.sequences import require_documents
from chunkwise.corpus.stages import QUESTION_FILE, QUESTIONS, SEQUENCES, TOKENIZER
from chunkwise.evaluation.stages import MODEL_INPUT
from chunkwise.graph.origin import origin
from chunkwise.graph.schedule import duration_words
from chunkwise.graph.stage import Stage
from chunkwise.neighbours.config import NeighboursConfig
from chunkwise.neighbours.stages import NEIGHBOURS


@dataclass(frozen=True)
class Pending:
    """What a dry run would build, in the place of the artefact.

    Attributes:
        key: None where it depends on an artefact that is not built yet.
    """

    stage: Stage
    key: str | None


class Steps:
    """Calls stages in one store; with `dry_run` it looks each of them up and builds nothing.

    Args:
        root: folder of the store, see `Store`.
    """

    def __init__(self, root: Path | None, dry_run: bool = False) -> None:
        self.store, self.dry_run = Store(root), dry_run
        self.rows: list[dict[str, Any]] = []

    def call(
        self,
        stage: Stage,
        config: Config,
        inputs: Mapping[str, Any] | None = None,
        *,
        seed: int | None = None,
        out: Path | None = None,
        **running: Any,
    ) -> Any:
        """The artefact of this call; in a dry run a stored one, or what stands for it (Pending)."""
        if not self.dry_run:
            return self.store.get_or_build(stage, config, inputs, seed=seed, out=out, **running)
        result = self._look_up(stage, config, inputs or {}, seed)
        # the run checks the folder before it builds; a dry run must not promise more than it
        if out is not None:
            require_free(out.resolve(), result.key)
        # the rows are printed at the end, in one table, when nothing can fail any more
        stored = isinstance(result, Artefact)
        seconds = None if stored else expected_seconds(self.store, stage, config)
        self.rows.append(
            {"stage": stage.name, "key": result.key, "stored": stored, "expected_seconds": seconds}
        )
        return result

    def _look_up(
        self, stage: Stage, config: Config, inputs: Mapping[str, Any], seed: int | None
    ) -> Artefact | Pending:
        # a key holds the content of the inputs, so behind a pending input there is none to look up
        if any(isinstance(value, Pending) for value in inputs.values()):
            return Pending(stage, None)
        call = stage.call(config, inputs, seed=seed)
        if isinstance(call, Artefact):
            return call
        return self.store.stored(stage.kind, call.key) or Pending(stage, call.key)

    def announce_training(
        self,
        stage: Stage,
        config: Any,
        inputs: Mapping[str, Any],
        *,
        seed: int,
        row_tokens: int,
    ) -> None:
        """Say what a training will take, before it starts; nothing where it is in the store.

        Args:
            row_tokens: tokens that a row counts as.
        """
        if isinstance(self._look_up(stage, config, inputs, seed), Artefact):
            return
        steps = config.train.steps_for(row_tokens)
        tokens = steps * config.train.batch_sequences * row_tokens
        # a budget of tokens has become steps, and the expectation goes by steps
        train = config.train.model_copy(update={"steps": steps, "tokens": None})
        timed = config.model_copy(update={"train": train})
        seconds = expected_seconds(self.store, stage, timed)
        if seconds is None:
            duration = f"how long is not known: no training {stage.name} is in the store"
        else:
            duration = (
                f"{duration_words(seconds)} in all, if a step takes as long as in the store's"
            )
        note(f"{stage.name}: {steps:,} steps, {tokens:,} tokens; {duration}")

    def print(self, as_json: bool) -> None:
        """What a dry run ends with."""
        if as_json:
            print_json(self.rows)
            return
        table = [["stage", "key", "what happens", "takes"]]
        for row in self.rows:
            key = row["key"][:12] if row["key"] else "after the ones above"
            seconds = row["expected_seconds"]
            if row["stored"]:
                fate, duration = "is in the store", ""
            elif seconds is None:
                fate, duration = "would be built", "not known: none was built here"
            else:
                fate, duration = "would be built", duration_words(seconds)
            table.append([row["stage"], key, fate, duration])
        print_columns(table)

    def model(self, reference: str) -> Artefact:
        """A trained model."""
        # not resolve(reference, stage): a model may come from any of five stages
        artefact = self.store.resolve(reference)
        if artefact.stage not in MODEL_INPUT.kinds:
            raise ArtefactError(
                f"expected a model, got an artefact of stage {artefact.stage!r}: {artefact.path}",
                hint="models are made by chunkwise train base, retrofit, twin and instruct",
            )
        return artefact

    def decoder(self, reference: str, tokens: Artefact) -> Any:
        """A model of ours, or a folder with config.json and safetensors, which is taken over as a
        base.
        """
        folder = Path(reference)
        # an artefact of ours has a record, and its config.json lies one folder deeper
        if not (folder / "config.json").is_file() or (folder / RECORD).exists():
            return self.model(reference)
        from chunkwise.training.config import AdoptedBase
        from chunkwise.training.stages import ADOPTED_BASE

        return self.call(ADOPTED_BASE, AdoptedBase(name=str(folder)), {"tokens": tokens})

    def datastore(self, reference: str) -> Artefact:
        """A datastore."""
        return self.store.resolve(reference, "datastore")

    def text(self, reference: str) -> tuple[Artefact, Artefact | None]:
        """(tokens, datastore or None) from a datastore or a tokens artefact.

        Raises:
            ArtefactError: neither, or the text of the datastore is not in the store.
        """
        artefact = self.store.resolve(reference)
        # enough wherever nothing is looked up
        if artefact.stage == "tokens":
            return artefact, None
        if artefact.stage != "datastore":
            raise ArtefactError(
                f"expected a datastore or tokens, got stage {artefact.stage!r}: {artefact.path}"
            )
        return origin(self.store, artefact, "tokens"), artefact

    def questions(
        self, reference: str | None, kind: str, config: QuestionsConfig, tokens: Artefact
    ) -> Any:
        """Questions or instructions: an artefact of stage `questions`, a JSON Lines file, which
        becomes one, or, without a reference, what is made from the documents behind `tokens`.

        Args:
            kind: "questions" or "instructions".
            config: how they are made.

        Raises:
            InputError: a record lacks a field; the message names it.
        """
        if reference is None:
            corpus = origin(self.store, tokens, "corpus")
            return self.call(QUESTIONS, config, {"corpus": corpus})
        if not Path(reference).is_file():
            artefact = self.store.resolve(reference, "questions")
            # the stage makes questions or instructions; `file` refuses the ones for the others
            artefact.file(f"{kind}.jsonl")
            return artefact
        file = QuestionFileConfig.parse({"path": reference, "kind": kind}, where="questions")
        return self.call(QUESTION_FILE, file)

    def training_rows(self, text: SequencesConfig, tokens: Artefact) -> tuple[Any, Any]:
        """(training sequences, validation sequences of the same shape; None where there is no split
        `valid`).
        """
        require_split(tokens, text.split)
        rows = self.call(SEQUENCES, text, {"tokens": tokens})
        if not tokens.counts["splits"].get("valid"):
            return rows, None
        # max_tokens bounds the training text; it must not shrink the validation text
        changes = {"split": "valid", "layout": "packed", "max_tokens": None}
        validation = text.model_copy(update=changes)
        return rows, self.call(SEQUENCES, validation, {"tokens": tokens})

    def neighbours(
        self, search: NeighboursConfig, datastore: Artefact | None, sequences: Any
    ) -> Any:
        """The neighbours of these rows; None without a datastore, or without rows."""
        if datastore is None or sequences is None:
            return None
        return self.call(NEIGHBOURS, search, {"datastore": datastore, "sequences": sequences})

    def tokenizer_folder(self, digest: str, folder: Path | None, of: str) -> Path:
        """The tokenizer with this digest: the one in `folder`, or the store's.

        Args:
            of: whose tokens it wrote, for the message.

        Raises:
            MismatchError: the folder holds another one. ArtefactError: no folder is given, and the
                store has none.
        """
        if folder is None:
            stored = self.store.of_digest(digest, ("tokenizer",))
            if stored is None:
                raise ArtefactError(
                    f"the tokenizer of {of} ({digest[:12]}) is not in the store {self.store.root}",
                    hint=(
                        "give its folder with --tokenizer, or the store that it was made in with "
                        "--store"
                    ),
                )
            return stored.path
        if (folder / RECORD).exists():
            artefact = self.store.resolve(folder, "tokenizer")
        else:
            # only the stage brings a tokenizer into the form that digests are taken of
            pretrained = TokenizerConfig(pretrained=str(folder))
            artefact = self.store.get_or_build(TOKENIZER, pretrained)
        if artefact.digest != digest:
            raise MismatchError(
                f"{of} was made with tokenizer {digest[:12]}, the one in {folder} is "
                f"{artefact.digest[:12]}",
                hint=(
                    "give the tokenizer that it was made with, or leave --tokenizer out to look it "
                    "up in the store"
                ),
            )
        return artefact.path


def expected_seconds(store: Store, stage: Stage, config: Config) -> float | None:
    """How long a call should take, from those of the same stage that were built in this store; None
    without any.

    Trainings are compared by the step, everything else is taken to be as long as the ones before
    (their median).
    """
    rates, durations = [], []
    # not store.list(): one broken record must not end a dry run
    for _, artefact in store.finished():
        if not isinstance(artefact, Artefact) or artefact.stage != stage.kind:
            continue
        seconds, trained_steps = artefact.record.seconds, artefact.counts.get("steps")
        if seconds and trained_steps:
            rates.append(seconds / trained_steps)
        elif seconds:
            durations.append(seconds)
    if not hasattr(config, "train"):
        return median(durations) if durations else None
    # the config is not resolved: a budget of tokens is no number of steps yet
    steps = getattr(config.train, "steps", None)
    return median(rates) * steps if rates and steps else None


def require_split(tokens: Artefact, split: str) -> None:
    """Refuse a split without documents: InputError."""
    require_documents(len(tokens.counts["splits"].get(split, ())), split)


def tokenizer_digest(artefact: Artefact) -> str:
    """Digest of the tokenizer that a model, a datastore or tokens belong to."""
    # a model is of one of five stages, and each of them writes training.json
    name = artefact.stage if artefact.stage in ("datastore", "tokens") else "training"
    return str(read_content(artefact.file(f"{name}.json"))["tokenizer_digest"])


def require_same_tokenizer(model: Any, other: Artefact) -> None:
    """Refuse a model together with text or a datastore of another tokenizer: MismatchError."""
    if isinstance(model, Pending):  # a folder that is not taken over yet; the stage looks at it
        return
    model_digest, other_digest = tokenizer_digest(model), tokenizer_digest(other)
    if model_digest != other_digest:
        raise MismatchError(
            f"the model was trained with tokenizer {model_digest[:12]}, the {other.stage} was made "
            f"with tokenizer {other_digest[:12]}",
            hint=(
                "build the datastore with the model's tokenizer: chunkwise datastore build ... "
                "--tokenizer DIR"
            ),
        )


def retro_settings(model: Artefact) -> dict[str, Any] | None:
    """config.json of a model that reads neighbours; None for a plain decoder."""
    settings = dict(read_json(model.file("model/config.json")))
    return settings if settings.get("model_type") == "retro" else None


def chunk_tokens(datastore: Artefact) -> int:
    """Tokens of a chunk."""
    return int(read_content(datastore.file("datastore.json"))["chunk_tokens"])


def row_tokens(datastore: Artefact | None) -> dict[str, int]:
    """Default length of rows: about 256 tokens, a whole number of the datastore's chunks."""
    if datastore is None:
        return {}
    # whole chunks, because neighbours are looked up by whole chunks
    tokens = chunk_tokens(datastore)
    return {"sequence_tokens": tokens * max(1, 256 // tokens)}
