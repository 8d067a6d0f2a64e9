"""The profile: how large everything is here.

A profile is the baseline arm: one setting of every stage. Each of its fields stands in one place;
what several stages must agree on (the view, the number of neighbours, the training budget of
retrofit, twin and in-prompt) is handed to them by the methods below. An arm is the profile with a
few fields changed, path -> value, and nothing else.

    corpus -> tokenizer -> tokens -> sequences -> base -> retrofit | twin | in-prompt -> instruct
                              `-> datastore -> neighbours -> view ---^      `-> perplexity, qa
"""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from chunkwise.core.config import Config, load_yaml, override, parse_yaml
from chunkwise.core.errors import ConfigError
from chunkwise.core.packs import Kind, packaged_files
from chunkwise.corpus.config import CorpusConfig, QuestionsConfig, SequencesConfig, TokenizerConfig
from chunkwise.datastore.config import DatastoreConfig, ViewConfig
from chunkwise.evaluation.config import PerplexityConfig, QuestionsEvalConfig
from chunkwise.evaluation.stages import PERPLEXITY, QA
from chunkwise.lab.terms import METRICS, TEXT_METRICS, Look, Metric, looks_after
from chunkwise.neighbours.config import NeighboursConfig, QuestionNeighboursConfig
from chunkwise.training.config import (
    BaseConfig,
    InPromptConfig,
    InstructConfig,
    RetrofitConfig,
    TwinConfig,
)
from chunkwise.training.flops import in_prompt_row_tokens
from chunkwise.training.stages import INSTRUCT, RETROFIT

Mechanism = Literal["cross-attention", "in_prompt", "wider", "none"]

SECTIONS = {"retrofit": RETROFIT, "instruct": INSTRUCT, "perplexity": PERPLEXITY, "qa": QA}
"""Section of a profile -> the stage whose config it is, where the study decides some of its
fields.
"""

DECIDED_PER_CALL = tuple(
    f"{section}.{field}" for section, stage in SECTIONS.items() for field in stage.per_call
)
"""Fields of stages that arm and replicate decide; a profile that sets one of them is refused."""


class LeftOut(Config):
    """An arm that a profile does not run, because it has no time for it or cannot tell anything by
    it.
    """

    setting: str
    """Dotted path of the field that the arm would change."""
    values: tuple[JsonValue, ...] | None = None
    """The values that are left out, as the profile would write them; None: every value but the
    profile's own.
    """
    because: str
    """The reason, and where the arm is run instead; stands in the dry run and in the report.
    Without a full stop.
    """

    def means(self, value: Any) -> bool:
        """Whether an arm with this value of the setting is left out."""
        # With the type, because in Python 1 == True == 1.0.
        options = [(type(option), option) for option in self.values or ()]
        return self.values is None or (type(value), value) in options


class ExchangeRateConfig(Config):
    """How far the twin is trained on, to say how many training tokens retrieval is worth."""

    times: tuple[Annotated[float, Field(gt=1, le=64)], ...] = ()
    """The twin is also trained for so many times the tokens, rising; each once (replicate 0), from
    the same base and by a schedule of its own that ends where it does. Empty: not at all, and the
    report gives a bound.
    """

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if list(self.times) != sorted(set(self.times)):
            raise ValueError(f"times: expected rising numbers, got {list(self.times)}")
        return self


class QuestionFile(Config):
    """Questions of one's own, and what plans call them."""

    name: str
    """"NQ": a plan's "EM on NQ" is measured on them."""
    also: tuple[str, ...] = ()
    """Other names, "Natural Questions"."""
    path: str
    """JSON lines; `corpus.questions` has the fields."""
    choices: bool = False
    """Whether they have options to choose from. Without, they are answered in writing alone."""
    passages: bool = False
    """Whether they bring passages or name documents of the corpus, so that a model can be shown the
    one that holds the answer.
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        """What can be measured on them."""
        chosen = ("choice_accuracy",) if self.choices else ()
        return (*chosen, "exact_match", "f1", "answer_nll")


class Profile(Config):
    """The baseline of a study at one scale, and how the study is run."""

    vocabulary: ClassVar[Mapping[str, Any]] = {}
    """Of a profile class of one's own: path -> `Knob`, what plans may name beside the packaged
    vocabulary.
    """

    name: str
    paper: str | None = "instructretro"
    """Paper whose values quantities are translated against: a packaged name or a file."""

    corpus: CorpusConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    training_text: SequencesConfig = SequencesConfig()
    evaluation_text: SequencesConfig = SequencesConfig(split="valid", layout="documents")
    questions: QuestionsConfig = QuestionsConfig()
    question_file: QuestionFile | None = None
    """Asked instead of the questions that are made from the corpus."""
    datastore: DatastoreConfig = DatastoreConfig()
    neighbours: NeighboursConfig = NeighboursConfig()
    question_neighbours: QuestionNeighboursConfig = QuestionNeighboursConfig()
    view: ViewConfig = ViewConfig()
    """The baseline's part of the datastore. A fraction below 1 leaves room for arms with a larger
    datastore.
    """

    pretrained: str | None = None
    """The decoder to start from: a folder, a hub name, or `packaged`. None: `base` is trained in
    the run.
    """
    base: BaseConfig | None = None
    mechanism: Mechanism = "cross-attention"
    """How training and evaluation read neighbours: Retro; written into the text; not at all (the
    twin, or one with a wider feed-forward, whose parameters are as many as Retro's)."""
    retrofit: RetrofitConfig
    """The continued training. Twin and in-prompt arms take its budget, rows and order."""
    evaluation_neighbours: int | None = Field(None, ge=0, le=128)
    """k at evaluation, whatever k was trained with; None: as trained. 0 closes the gate."""
    instruct: InstructConfig | None = None
    perplexity: PerplexityConfig = PerplexityConfig()
    qa: QuestionsEvalConfig = QuestionsEvalConfig()

    replicates: int = Field(3, ge=1)
    looks: tuple[int, ...] = ()
    """Numbers of replicates after which the study looks, the last of them `replicates`. An arm gets
    no more replicates once every primary question about it is settled, or is unlikely to be. Each
    look spends a part of `alpha` in proportion to the square of its replicates, so that all of them
    together err no more often. Empty: one look, at the end.
    """
    share_base: bool = True
    """All replicates continue one base model, so the noise of base training is not in the
    intervals.
    """
    base_seed: int = Field(0, ge=0)
    """Initial values and data order of the shared base. `chunkwise ablate --bases` counts it up."""
    size_experiment: Literal["swap", "retrain"] = "swap"
    """Primary reading of views: `swap` changes the datastore of a trained model, `retrain` trains
    one per view.
    """
    exchange_rate: ExchangeRateConfig = ExchangeRateConfig()
    metrics: tuple[str, ...] = ("perplexity", "reading_accuracy", "found_and_copied")
    """For entries that name none; the first is the primary one."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Smallest difference that matters, by metric id, in nats or shares. Default: 0.01 nat, 0.01 =
    1 point.
    """
    alpha: float = Field(0.05, gt=0, lt=0.5)
    leaves_out: tuple[LeftOut, ...] = ()
    """Arms that belong to another profile; a plan that asks for one is told so, and the rest of it
    is run.
    """
    limits: tuple[str, ...] = ()
    """What a reader must know about this profile; stands among the report's limits."""
    expected_datastore_chunks: int | None = Field(None, ge=1)
    """About how many chunks the datastore will hold, to refuse hopeless arms before it is built."""
    expected_evaluation_tokens: int | None = Field(None, ge=1)
    """About how many tokens of evaluation text there will be, where `max_tokens` does not say: for
    the time that is announced before the text has been read.
    """

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.base is None) == (self.pretrained is None):
            raise ValueError(
                "give `base` (a decoder to train) or `pretrained` (one to start from), one of them"
            )
        self._require_rows()
        self._require_looks()
        self._require_metrics()
        self._require_nothing_decided()
        return self

    def _require_rows(self) -> None:
        """Rows of whole chunks, which the training can read."""
        chunk_tokens = self.retrofit.retro.chunk_tokens
        row_tokens = self.training_text.sequence_tokens
        if chunk_tokens != self.datastore.chunk_tokens:
            raise ValueError(
                f"retrofit.retro.chunk_tokens {chunk_tokens} differs from datastore.chunk_tokens "
                f"{self.datastore.chunk_tokens}; neighbours would not be whole chunks"
            )
        if row_tokens % chunk_tokens:
            raise ValueError(
                f"training_text.sequence_tokens {row_tokens} is not a multiple of "
                f"datastore.chunk_tokens {chunk_tokens}"
            )
        # The retrofit's own validation cannot check this: a budget in tokens becomes a number of
        # steps only with the rows.
        self.retrofit.made_neighbours.require_within(self.retrofit.train.steps_for(row_tokens))
        self.retrofit.require_reading(row_tokens)

    def _require_looks(self) -> None:
        looks = list(self.looks)
        if not looks:
            return
        if looks[-1] != self.replicates or looks != sorted(set(looks)):
            raise ValueError(
                f"looks: expected rising numbers that end with the {self.replicates} replicates, "
                f"got {looks}"
            )
        if looks[0] < 2:
            raise ValueError("looks: nothing can be tested with 1 replicate; look from 2 on")

    def _require_metrics(self) -> None:
        for metric in (*self.metrics, *self.thresholds):
            if metric not in METRICS:
                raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
        file = self.question_file
        possible = (*TEXT_METRICS, *file.metrics) if file else tuple(METRICS)
        if not set(self.metrics) <= set(possible):
            raise ValueError(
                f"metrics {', '.join(self.metrics)}: of the questions in question_file can be "
                f"measured {', '.join(possible)}"
            )

    def _require_nothing_decided(self) -> None:
        """No field that arm and replicate decide."""
        for path in DECIDED_PER_CALL:
            section, field = path.split(".")
            config = getattr(self, section)
            if config is None:
                continue
            # Against the default, not against being set: a dumped profile sets every field.
            if getattr(config, field) != type(config).model_fields[field].default:
                raise ValueError(
                    f"{path} is set by arm and replicate, not by a profile; leave it out"
                )

    def planned_looks(self) -> tuple[Look, ...]:
        """When a study tests, and the share of alpha that each look spends."""
        return looks_after(self.looks or (self.replicates,))

    def at_look(self, look: Look) -> "Profile":
        """The profile as far as a look sees it."""
        if not self.looks:
            return self
        return self.changed({"replicates": look.replicates, "looks": []})

    def on_bases(self, bases: int) -> tuple["Profile", ...]:
        """The profile on so many bases, each trained from initial values of its own and shared by
        all replicates.

        Raises:
            ConfigError: the base is given and not trained, there are fewer than two of bases or
                replicates, or the study looks several times.
        """
        if self.base is None:
            raise ConfigError(
                f"profile {self.name} starts from {self.pretrained!r}, of which there is one",
                hint="measure the noise of bases with a profile that trains its own (`base`)",
            )
        if bases < 2 or self.replicates < 2:
            raise ConfigError(
                f"expected 2 bases and 2 replicates or more, got {bases} and {self.replicates}"
            )
        if self.looks:
            raise ConfigError("looks: every base needs the same replicates; drop the looks")
        return tuple(self.changed({"share_base": True, "base_seed": seed}) for seed in range(bases))

    def value(self, path: str) -> Any:
        """The value of the field at a dotted path, as plain JSON.

        Raises:
            ConfigError: there is no such field.
        """
        value: Any = self.model_dump(mode="json")
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ConfigError(f"profile {self.name} has no field {path!r}")
            value = value[part]
        return value

    def changed(self, changes: Mapping[str, Any], where: str | None = None) -> "Profile":
        """The profile with some fields changed, checked as a whole.

        Raises:
            ConfigError: no such field, or the values do not fit together.
        """
        values = self.model_dump(mode="json")
        for path, value in changes.items():
            self.value(path)  # refuses a field that does not exist
            *parents, name = path.split(".")
            section = values
            for parent in parents:
                section = section[parent]
            # A copy: a later path may lie inside this value, which belongs to the caller.
            section[name] = copy.deepcopy(value)
        return Profile.parse(values, where=where or f"profile {self.name}, changed")

    def amount(self, path: str) -> int | None:
        """How much of a counted field is used: its value, of the instructions those that are read.

        None where the profile does not set it.
        """
        count: int | None = self.value(path)
        if path == "questions.instructions" and self.instruct is not None:
            # A row has one instruction; a short tuning ends before it has seen all of them.
            tuning = self.instruct
            row_tokens = tuning.prompt_tokens + tuning.answer_tokens
            rows = tuning.train.steps_for(row_tokens) * tuning.train.batch_sequences
            return rows if count is None else min(count, rows)
        return count

    @property
    def sources(self) -> tuple[str, ...]:
        """Labels of the corpus's documents, as far as the settings tell."""
        labels: list[str] = []
        for source in self.corpus.sources:
            if source.kind != "python":
                labels.append(source.source or source.kind)
            elif source.label == "kind":
                labels += source.python_kinds
            else:
                labels += source.packages
        return tuple(dict.fromkeys(labels))

    def metric(self, metric_id: str) -> Metric:
        """The metric with this profile's threshold."""
        metric = METRICS[metric_id]
        threshold = self.thresholds.get(metric_id, metric.threshold)
        return metric.model_copy(update={"threshold": threshold})

    # What each stage is given. `view` is the arm's in training only where the experiment is
    # `retrain`.

    @property
    def validation_text(self) -> SequencesConfig:
        """Rows for the validation curves: as the training rows, from the documents that are trained
        on nowhere, and where some are set apart from those.
        """
        split = "dev" if self.corpus.dev_share else "valid"
        return self.training_text.model_copy(update={"split": split, "max_tokens": None})

    @property
    def used(self) -> "Profile":
        """The profile without the settings of the retrofit that its training does not use: equal
        where results are.
        """
        steps = self.retrofit.train.steps_for(self.training_text.sequence_tokens)
        return self.model_copy(update={"retrofit": self.retrofit.used(steps)})

    def retrofit_config(self, view: ViewConfig | None = None) -> RetrofitConfig:
        return self.retrofit.model_copy(update={"view": view or self.whole_view})

    def twin_config(self, times: float = 1.0) -> TwinConfig:
        """The twin, trained for so many times the steps of the retrofit."""
        retrofit = self.retrofit
        train = retrofit.train.prolonged(times)
        if self.mechanism == "wider":
            # What is wider are its own weights: neither frozen nor updated at low rank.
            return TwinConfig(as_large_as=retrofit.retro, train=train)
        return TwinConfig(freeze_backbone=retrofit.freeze_backbone, lora=retrofit.lora, train=train)

    def in_prompt_config(self, view: ViewConfig | None = None) -> InPromptConfig:
        retro = self.retrofit.retro
        return InPromptConfig(
            neighbours=retro.neighbours,
            chunk_tokens=retro.chunk_tokens,
            view=view or self.whole_view,
            train=self.retrofit.train,
        )

    @property
    def in_prompt_row_tokens(self) -> int:
        """Tokens of a training row with its neighbours written into it, at most."""
        retro = self.retrofit.retro
        row_tokens = self.training_text.sequence_tokens
        return in_prompt_row_tokens(row_tokens, retro.chunk_tokens, retro.neighbours)

    @property
    def in_prompt_base_text(self) -> SequencesConfig:
        """Rows for the base of an arm that reads neighbours in its text: as long as its own become.

        Packed, since few documents fill such a row.
        """
        return SequencesConfig(
            split=self.training_text.split,
            max_tokens=self.training_text.max_tokens,
            sequence_tokens=self.in_prompt_row_tokens,
        )

    def in_prompt_base(self, base: BaseConfig) -> BaseConfig:
        """The training of such a base, in as many tokens as that of the others."""
        row_tokens = self.training_text.sequence_tokens
        train = base.train.on_rows(row_tokens, self.in_prompt_row_tokens)
        return base.model_copy(update={"train": train})

    def instruct_config(self, view: ViewConfig | None = None) -> InstructConfig | None:
        if self.instruct is None:
            return None
        retro = self.retrofit.retro
        changes = {
            "view": view or self.whole_view,
            "chunk_tokens": retro.chunk_tokens,
            "neighbours": retro.neighbours,
        }
        return self.instruct.model_copy(update=changes)

    @property
    def neighbours_read(self) -> int:
        """k at evaluation."""
        if self.evaluation_neighbours is not None:  # 0 is a number too
            return self.evaluation_neighbours
        return self.retrofit.retro.neighbours

    @property
    def whole_view(self) -> ViewConfig | None:
        """The baseline's view, None where that is the whole datastore."""
        # Not the empty view: it means the same, and would be another job.
        return None if self.view == ViewConfig() else self.view


def load_profile(name: Path | str, settings: Iterable[str] = ()) -> Profile:
    """A packaged profile by name, or one from a YAML file, with settings "a.b=c" applied.

    Raises:
        ConfigError: no such profile, or it is wrong.
    """
    values = load_named("profile", name)
    values.setdefault("name", Path(name).stem)
    return Profile.parse(override(values, settings), where=f"profile {Path(name).stem}")


def load_named(kind: Kind, name: Path | str) -> dict[str, Any]:
    """The YAML mapping of a file, or of the packaged one of this name."""
    if Path(name).suffix in (".yaml", ".yml"):
        return load_yaml(name)
    files = packaged_files(kind)
    if str(name) not in files:
        raise ConfigError(
            f"no {kind} {str(name)!r}; packaged: {', '.join(files)}",
            hint=f"or give a file: my_{kind}.yaml",
        )
    return parse_yaml(files[str(name)].read_text(encoding="utf-8"), f"{kind} {name}")
