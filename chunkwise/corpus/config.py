"""Settings of the corpus stages. A setting is here only if it changes the bytes that a stage
writes.

Where a corpus comes from (`SourceConfig.path`) is the one exception: it is needed to read, and left
out of the identity, in which the content of the files stands instead.
"""

from typing import Literal

from pydantic import Field, model_validator

from chunkwise.core.config import Config

MEBIBYTE = 2**20

# For `exclude` of model_dump: `path` of every item of `sources`.
_PATHS = {"sources": {"__all__": {"path"}}}

_DECONTAMINATION_FIELDS = {
    "none": set(),
    "whole_document": {"decontaminate_ngram", "decontaminate_jaccard"},
    "containment": {
        "decontaminate_ngram",
        "decontaminate_containment",
        "decontaminate_run_words",
    },
}
"""The settings that each rule reads."""

SOURCE_KINDS = ("text", "markdown", "jsonl", "parquet", "code", "huggingface", "python")

DEFAULT_INCLUDE: dict[str, tuple[str, ...]] = {
    "text": ("*.txt",),
    "markdown": ("*.md", "*.markdown"),
    "jsonl": ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst", "*.ndjson"),
    "parquet": ("*.parquet",),
    "code": (
        "*.py",
        "*.c",
        "*.h",
        "*.cc",
        "*.cpp",
        "*.hpp",
        "*.rs",
        "*.go",
        "*.java",
        "*.js",
        "*.ts",
        "*.jl",
        "*.sh",
    ),
    "huggingface": (),
    "python": ("*",),
}
"""Globs taken when a source names none, whatever the case of a name. `*` also crosses folder
borders, as in `fnmatch`.
"""

PYTHON_EXCLUDE = (
    "*/test/*",
    "*/tests/*",
    "*/testing/*",
    "*/test_*.py",
    "*_test.py",
    "*/conftest.py",
    "python/idlelib/*",  # absent from some distributions of Python, as are the next two
    "python/lib2to3/*",
    "python/turtledemo/*",
    "python/_sysconfigdata*",  # differs from machine to machine
    "python/config-*",
)
"""What a `python` source leaves out unless told otherwise: tests, and files that not every
installation has.
"""


class SourceConfig(Config):
    """One place that documents come from.

    Which fields count depends on `kind`:

    text, markdown, code   `path` is a file or a folder; a file is a document
    jsonl                  `path` is a file or a folder of .jsonl, .jsonl.gz, .jsonl.zst; a line is
                           a document
    parquet                `path` is a file or a folder; a row is a document
    huggingface            `path` is what `datasets.load_dataset` takes: a hub name or a local
                           folder
    python                 no path: the running interpreter's standard library and the distributions
                           in `packages`
    """

    kind: Literal[SOURCE_KINDS]  # type: ignore[valid-type]
    source: str | None = None
    """Label of the documents, by which compositions are asked for. Default: the kind; for `python`
    see `label`.
    """
    path: str | None = None
    include: tuple[str, ...] = ()
    """Globs over paths below `path` (for `python`: over `package/path`), see DEFAULT_INCLUDE."""
    exclude: tuple[str, ...] | None = None
    """Globs that win over `include`. Default: nothing; for `python` PYTHON_EXCLUDE."""
    id_field: str = "id"
    text_field: str = "text"
    title_field: str = "title"
    source_field: str | None = None
    """Field that holds the label of each record, when it differs from record to record."""
    group_field: str | None = None
    """Field that holds the group of each record (documents of one group share their split)."""
    dataset_configuration: str | None = None
    dataset_split: str = "train"
    dataset_revision: str | None = None
    packages: tuple[str, ...] = ()
    standard_library: bool = True
    python_kinds: tuple[Literal["code", "docstrings", "prose"], ...] = (
        "code",
        "docstrings",
        "prose",
    )
    label: Literal["kind", "package"] = "kind"
    """Labels of a `python` source: code, docstrings, prose, or the names of the packages."""
    fraction: float = Field(1.0, gt=0, le=1)
    """Share of the files that is read, chosen by a hash of the name: a sample of a large folder or
    of large packages at a small cost. A larger fraction holds a smaller one. (`max_documents_bytes`
    cuts the corpus, after reading.)"""
    unreadable: Literal["error", "skip"] | None = None
    """What to do with a file that is binary, not UTF-8 or too large: stop with one error, or leave
    it out and count it. Default: "error" for files of your own, "skip" for `python`, whose files
    nobody chose one by one."""

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> "SourceConfig":
        if self.kind == "python":
            if self.path is not None:
                raise ValueError(
                    "kind python takes `packages` (installed distributions), not `path`"
                )
            if not self.packages and not self.standard_library:
                raise ValueError(
                    "kind python with standard_library: false needs at least one name in `packages`"
                )
        elif not self.path:  # "" would be the folder in which the command runs
            raise ValueError(f"kind {self.kind} needs `path`")
        elif self.packages:
            raise ValueError(f"`packages` belongs to kind python, not to kind {self.kind}")
        return self

    @property
    def place(self) -> str:
        """`path`, which every kind but `python` has."""
        assert self.path is not None
        return self.path

    @property
    def globs(self) -> tuple[str, ...]:
        # An empty `include` is the default too: a source of no files is no source.
        return self.include or DEFAULT_INCLUDE[self.kind]

    @property
    def excluded_globs(self) -> tuple[str, ...]:
        # `is not None`: an empty `exclude` is how a user asks for tests too.
        if self.exclude is not None:
            return self.exclude
        return PYTHON_EXCLUDE if self.kind == "python" else ()

    @property
    def skips_unreadable(self) -> bool:
        if self.unreadable is not None:
            return self.unreadable == "skip"
        return self.kind == "python"


class CorpusConfig(Config):
    """Documents: where from, how they are cleaned, how they are split."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    seed: int = 0
    """Decides the splits and the order of the documents; replicates share it."""
    valid_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the groups in neither training text nor datastore: perplexity is measured on
    these.
    """
    dev_share: float = Field(0.0, ge=0, lt=1)
    """Share of those that are set apart to choose settings by (split `dev`): validation curves read
    them, and no reported perplexity does. 0: curves read what is reported.
    """
    held_fraction: float = Field(0.25, ge=0, lt=1)
    """Share of the groups in the datastore and in no training text: questions are made from
    these.
    """
    near_duplicate_jaccard: float | None = Field(0.8, gt=0, le=1)
    """Jaccard of word 5-grams from which the later of two documents is dropped; None keeps
    near-duplicates.
    """
    decontamination: Literal["none", "whole_document", "containment"] = "whole_document"
    """Which train and held documents are dropped for repeating a valid document: near-copies of the
    whole (`decontaminate_jaccard`), or all that hold a part of one (`decontaminate_containment`,
    `decontaminate_run_words`); see `corpus.decontaminate`.
    """
    decontaminate_ngram: int = Field(13, ge=2)
    """Words an n-gram, of both rules."""
    decontaminate_jaccard: float = Field(0.8, gt=0, le=1)
    """whole_document: Jaccard of n-grams with a valid document from which a document is dropped."""
    decontaminate_containment: float = Field(0.2, gt=0, le=1)
    """containment: share of a valid document's n-grams from which a document that holds them is
    dropped.
    """
    decontaminate_run_words: int = Field(32, ge=2)
    """containment: a document that shares a run of this many words with a valid one is dropped."""
    min_document_bytes: int = Field(64, ge=1)
    max_document_bytes: int = Field(16 * MEBIBYTE, ge=1024)
    """A larger file or record is not read into memory; see SourceConfig.unreadable."""
    max_documents_bytes: int | None = Field(None, ge=1)
    """Text to keep in all, in bytes: whole groups in hash order until it is reached. None:
    everything.
    """

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "CorpusConfig":
        # dev is a share of valid, so these two are all that is taken away.
        if self.valid_fraction + self.held_fraction >= 1:
            raise ValueError(
                f"valid_fraction {self.valid_fraction} + held_fraction {self.held_fraction} leaves "
                "nothing to train "
                "on; their sum must be below 1"
            )
        return self

    def identity(self) -> dict:
        """The parameters as they enter the store's key: everything but where the files are, and
        what the rule of decontamination does not ask for.
        """
        parameters = self.model_dump(mode="json", exclude=_PATHS)
        used = _DECONTAMINATION_FIELDS[self.decontamination]
        of_any_rule = set().union(*_DECONTAMINATION_FIELDS.values())
        for name in of_any_rule - used:
            del parameters[name]
        return parameters


class TokenizerConfig(Config):
    """A byte-level BPE trained on the split train, or an existing tokenizer."""

    vocabulary_size: int = Field(4096, ge=257 + 1)
    """256 bytes, the end-of-text token, and merges."""
    training_bytes: int | None = Field(16 * MEBIBYTE, ge=1)
    """Text that the merges are learned from: whole documents in hash order. None: all of split
    train.
    """
    pretrained: str | None = None
    """A folder or hub name for `AutoTokenizer.from_pretrained`, or `packaged`, the tokenizer of the
    packaged base model; then nothing is trained and the size is its own.
    """


class TokensConfig(Config):
    """Documents as token ids. There is nothing to choose: corpus and tokenizer decide."""


class SequencesConfig(Config):
    """Rows of equal length, for training (packed) or for evaluation (documents)."""

    split: Literal["train", "held", "dev", "valid"] = "train"
    sequence_tokens: int = Field(256, ge=2)
    layout: Literal["packed", "documents"] = "packed"
    """packed: the split as one stream, cut anywhere. documents: a row never holds two documents."""
    max_tokens: int | None = Field(None, ge=1)
    """Whole documents in hash order until this many tokens are reached. None: the whole split."""
    max_rows_per_document: int | None = Field(None, ge=1)
    """Layout documents: only the first rows of each document, so that a few long ones do not
    decide. None: all.
    """
    max_package_share: float | None = Field(None, gt=0, le=1)
    """Layout documents: no package (what stands before the first slash of a document's id) has more
    than this share of the rows; later documents of a larger one are left out. None: no limit.
    """

    @model_validator(mode="after")
    def _a_packed_row_has_no_document(self) -> "SequencesConfig":
        for name in ("max_rows_per_document", "max_package_share"):
            if self.layout == "packed" and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} needs layout: documents; a packed row belongs to no document"
                )
        return self


TASKS = (
    "copied",
    "same_document",
    "default_value",
    "which_function",
    "yes_no",
    "counterfactual",
)
"""What the questions of the stage `questions` ask for; `python_docs.questions` describes them."""

READING_TASKS = ("same_document", "default_value", "which_function")
"""Tasks of four options that a bag of words cannot do."""


class TaskNumbers(Config):
    """Questions of each task, at most; None: all that the rules leave. `python_docs.questions` says
    what the tasks are.
    """

    copied: int | None = Field(240, ge=0)
    same_document: int | None = Field(240, ge=0)
    default_value: int | None = Field(240, ge=0)
    which_function: int | None = Field(240, ge=0)
    yes_no: int | None = Field(240, ge=0)
    counterfactual: int | None = Field(160, ge=0)


class QuestionsConfig(Config):
    """Multiple-choice questions from documents of split held, instructions from those of split
    train.
    """

    questions: int | None = Field(1000, ge=1)
    """At most this many in all: the tasks that have most give way. None: no such limit."""
    tasks: TaskNumbers = TaskNumbers()
    min_questions: int = Field(500, ge=1)
    """Fewer than this in all is an error: they would tell two models apart only by luck."""
    max_task_share: float = Field(0.4, gt=0, le=1)
    """No task has more than this share of the questions, where `min_questions` are left then."""
    max_package_share: float = Field(0.25, gt=0, le=1)
    """No package has more than this share of the questions, where `min_questions` are left then."""
    instructions: int | None = Field(4000, ge=0)
    choices: int = Field(4, ge=2, le=26)
    """Options of a question; those of the task yes_no are always two."""
    min_answer_words: int = Field(3, ge=1)
    max_answer_words: int = Field(24, ge=1)
    opening_sentences: int = Field(3, ge=1)
    """The answer is one of this many first sentences of a docstring. Later ones are far from the
    name.
    """
    length_tolerance: float = Field(0.5, gt=0)
    """An option is longer than another, in characters, by at most this share of it."""
    nearby_length_tolerance: float = Field(1.0, gt=0)
    """The same for options of one document, which are few."""
    nearby_characters: int = Field(800, ge=1)
    """Length of the part of a document that a question about it needs, all options included, at
    most: what a few chunks hold.
    """
    topic_margin: float = Field(0.03, ge=0)
    """How much closer a question of the task copied may be to its own answer than to the mean
    option, in the cosine of `TopicGuess`.
    """
    per_document: int = Field(12, ge=1)
    """At most this many questions of one task from one document, so that no module dominates."""
    passage_characters: int = Field(360, ge=40)
    """Length of a counterfactual passage, at most: it has to fit into two chunks."""
    seed: int = 0


class TextsConfig(Config):
    """Documents that are taken as they are."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)

    def identity(self) -> dict:
        """As `CorpusConfig.identity`; one name deeper, so that no corpus shares the key."""
        return {"texts": self.model_dump(mode="json", exclude=_PATHS)}


class QuestionFileConfig(Config):
    """A user's own questions or instructions, JSON Lines (`corpus.questions` has the fields)."""

    path: str
    kind: Literal["questions", "instructions"]
