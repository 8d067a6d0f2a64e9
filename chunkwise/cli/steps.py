"""The calls of stages that a verb makes one after another, and what a dry run says instead of
making them.

A verb names artefacts by folder or key; a datastore knows from which text it was cut, so the verb
asks for it alone and finds the rest in the store (`graph.origin`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from chunkwise.core.artefact import RECORD, Artefact
from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError, MismatchError
from chunkwise.core.io import read_json
from chunkwise.core.store import Store, require_free
from chunkwise.corpus.config import QuestionFileConfig, SequencesConfig, TokenizerConfig
from chunkwise.corpus.stages import QUESTION_FILE, SEQUENCES, TOKENIZER
from chunkwise.evaluation.stages import MODEL_INPUT
from chunkwise.graph.origin import origin
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


@dataclass
class Steps:
    """Calls stages in one store; with `dry_run` it looks each of them up and builds nothing."""

    store: Store
    dry_run: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)

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
        if any(isinstance(value, Pending) for value in (inputs or {}).values()):
            result: Artefact | Pending = Pending(stage, None)
        else:
            made = stage.call(config, inputs, seed=seed)
            if isinstance(made, Artefact):
                result = made
            else:
                result = self.store.stored(stage.kind, made.key) or Pending(stage, made.key)
        if out is not None:
            require_free(out.resolve(), result.key)
        stored = isinstance(result, Artefact)
        seconds = None if stored else expected_seconds(self.store, stage, config)
        self.rows.append(
            {"stage": stage.name, "key": result.key, "stored": stored, "expected_seconds": seconds}
        )
        return result

    def print(self, as_json: bool) -> None:
        """What a dry run ends with."""
        from chunkwise.cli.output import print_columns, print_json
        from chunkwise.graph.schedule import duration_words

        if as_json:
            print_json(self.rows)
            return
        table = [["stage", "key", "what happens", "takes"]]
        for row in self.rows:
            seconds = row["expected_seconds"]
            takes = "not known: none was built here" if seconds is None else duration_words(seconds)
            happens = "is in the store" if row["stored"] else "would be built"
            key = row["key"][:12] if row["key"] else "after the ones above"
            table.append([row["stage"], key, happens, "" if row["stored"] else takes])
        print_columns(table)

    # --- what a user names ------------------------------------------------------------------------

    def model(self, reference: str) -> Artefact:
        """A trained model."""
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
        if artefact.stage == "tokens":
            return artefact, None
        if artefact.stage != "datastore":
            raise ArtefactError(
                f"expected a datastore or tokens, got stage {artefact.stage!r}: {artefact.path}"
            )
        return origin(self.store, artefact, "tokens"), artefact

    def questions(self, reference: str, kind: str) -> Any:
        """Questions or instructions: an artefact of stage `questions`, or a JSON Lines file, which
        becomes one.

        Args:
            kind: "questions" or "instructions".

        Raises:
            InputError: a record lacks a field; the message names it.
        """
        if not Path(reference).is_file():
            artefact = self.store.resolve(reference, "questions")
            artefact.file(f"{kind}.jsonl")
            return artefact
        config = QuestionFileConfig.parse({"path": reference, "kind": kind}, where="questions")
        return self.call(QUESTION_FILE, config)

    # --- what several verbs do on the way ---------------------------------------------------------

    def training_rows(self, text: SequencesConfig, tokens: Artefact) -> tuple[Any, Any]:
        """(training sequences, validation sequences of the same shape; None where there is no split
        `valid`).
        """
        rows = self.call(SEQUENCES, text, {"tokens": tokens})
        if not tokens.counts["splits"].get("valid"):
            return rows, None
        held = text.model_copy(update={"split": "valid", "layout": "packed", "max_tokens": None})
        return rows, self.call(SEQUENCES, held, {"tokens": tokens})

    def neighbours(
        self, search: NeighboursConfig, datastore: Artefact | None, sequences: Any
    ) -> Any:
        """The neighbours of these rows; None without a datastore, or without rows."""
        if datastore is None or sequences is None:
            return None
        return self.call(NEIGHBOURS, search, {"datastore": datastore, "sequences": sequences})

    def tokenizer_folder(self, digest: str, given: Path | None, of: str) -> Path:
        """The tokenizer with this digest: the one that is given, or the store's.

        Args:
            of: whose tokens it wrote, for the message.

        Raises:
            MismatchError: the given one is another. ArtefactError: none is given, and the store has
                none.
        """
        if given is None:
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
        if (given / RECORD).exists():
            artefact = self.store.resolve(given, "tokenizer")
        else:
            artefact = self.store.get_or_build(TOKENIZER, TokenizerConfig(pretrained=str(given)))
        if artefact.digest != digest:
            raise MismatchError(
                f"{of} was made with tokenizer {digest[:12]}, the one in {given} is "
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
    records = [
        artefact.record for _, artefact in store.finished() if isinstance(artefact, Artefact)
    ]
    records = [record for record in records if record.stage == stage.kind and record.seconds]
    steps = getattr(getattr(config, "train", None), "steps", None)
    if hasattr(config, "train"):
        rates = [
            record.seconds / record.counts["steps"]
            for record in records
            if record.counts.get("steps")
        ]
        return median(rates) * steps if rates and steps else None
    others = [record.seconds for record in records if not record.counts.get("steps")]
    return median(others) if others else None


# --- what an artefact says of itself --------------------------------------------------------------


def tokenizer_digest(artefact: Artefact) -> str:
    """Digest of the tokenizer that a model, a datastore or tokens belong to."""
    name = {"datastore": "datastore.json", "tokens": "tokens.json"}.get(
        artefact.stage, "training.json"
    )
    return str(read_json(artefact.file(name))["tokenizer_digest"])


def require_same_tokenizer(model: Any, other: Artefact) -> None:
    """Refuse a model together with text or a datastore of another tokenizer: MismatchError."""
    if isinstance(model, Pending):  # a folder that is not taken over yet; the stage looks at it
        return
    if tokenizer_digest(model) != tokenizer_digest(other):
        raise MismatchError(
            f"the model was trained with tokenizer {tokenizer_digest(model)[:12]}, the "
            f"{other.stage} was made with "
            f"tokenizer {tokenizer_digest(other)[:12]}",
            hint=(
                "build the datastore with the model's tokenizer: chunkwise datastore build ... "
                "--tokenizer DIR"
            ),
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
