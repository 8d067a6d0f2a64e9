"""What a study computes: arms x replicates x evaluations, as jobs that share all they can, and what
is compared.

    corpus -> tokenizer -> tokens -> text, questions, datastore -> neighbour tables   (data)
    base -> retrofit | twin | in-prompt [-> instruct] -> perplexity, qa               (Study)

Every arm is carried through the whole chain of its own profile; jobs of equal identity are one job
(`jobs`), so what arms share is found, not declared. For five arms and three replicates the base is
trained once, and a smaller datastore costs two evaluations.

Which text is read under which setting:

    perplexity  before tuning: retro with found, random and oracle neighbours and gate 0; the twin;
                variants as trained
    questions   after tuning: the tested cell of a Retro model is `both` (encoder and prompt), of
                the twin `prompt`
    views       `swap`: the trained model reads another datastore. `retrain`: it was trained on it
                too
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.core.packs import PACKAGED
from chunkwise.corpus.stages import QUESTIONS, SEQUENCES
from chunkwise.datastore.config import ViewConfig
from chunkwise.evaluation.config import BagOfWordsConfig
from chunkwise.evaluation.stages import BAG_OF_WORDS, GATE_OFF_CHECK, PERPLEXITY, QA
from chunkwise.graph.jobs import Job, Jobs
from chunkwise.graph.stage import Stage
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.resolution import EntryResolution, Resolution
from chunkwise.lab.study.data import DATA_STAGES, LONG_ROWS, Data, prepare
from chunkwise.lab.study.stops import Places, Stops
from chunkwise.lab.terms import FULL, Arm, Comparison, Selector
from chunkwise.neighbours.config import RebuildCheckConfig
from chunkwise.neighbours.stages import REBUILD_CHECK
from chunkwise.training import stages as trainings
from chunkwise.training.config import AdoptedBase

Evidence = Literal["found", "placebo", "own"]
Experiment = Literal["swap", "retrain", "arm"]

CHOICE_METRICS = ("reading_accuracy", "found_and_copied", "yes_no_accuracy", "choice_accuracy")
QUESTION_METRICS = (*CHOICE_METRICS, "exact_match", "f1", "answer_nll")
WRITTEN_METRICS = ("exact_match", "f1")
RETRO, TWIN, BASE = "retro", "twin", "base"
PLACEBO, OWN_PASSAGE, TWIN_PLACEBO, UNTUNED, WORDS, WORDS_PLACEBO = (
    "placebo",
    "own-passage",
    "twin-placebo",
    "untuned",
    "bag-of-words",
    "bag-of-words-placebo",
)
"""Arms without a training of their own: the same models read placebo passages, or the passage that
holds the answer, or are asked before their tuning, or there is no model at all.
"""


@dataclass(frozen=True)
class Trained:
    """One way of training: a model in every replicate.

    Attributes:
        view: the view that it was trained on and reads; None: the baseline's.
        arm: of the resolution; None for the ones that every study has.
        times: of the twin alone: steps, in those of the study's twin.
        models, tuned: a job for each replicate; the same where nothing is tuned. A twin that is
            trained for longer has replicate 0 alone.
    """

    id: str
    label: str
    words: str
    profile: Profile
    mechanism: str
    data: Data
    view: ViewConfig | None = None
    arm: Arm | None = None
    times: float = 1.0
    models: list[Job] = field(default_factory=list)
    tuned: list[Job] = field(default_factory=list)

    @property
    def is_base(self) -> bool:
        """Whether it is a state before all of the study's continued trainings."""
        return self.models[0].stage.kind == "base"


@dataclass(frozen=True)
class Evaluation:
    """What is measured of one arm in one replicate, and the job that measures it."""

    at: Selector
    replicate: int
    job: Job


@dataclass
class Study:
    """All jobs, and what their results mean. Built from plan and profile alone, before anything
    runs.

    Attributes:
        stops: what gets no further replicates, in a study that looks several times.
        views: id -> view of the datastore, FULL first.
        places: (arm id, experiment) -> where the arm is measured.
    """

    profile: Profile
    resolution: Resolution
    stops: Stops = field(default_factory=Stops)
    jobs: Jobs = field(default_factory=Jobs)
    trained: dict[str, Trained] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    views: dict[str, ViewConfig] = field(default_factory=dict)
    places: dict[tuple[str, str], Places] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    rebuild_check: Job | None = None
    gate_check: Job | None = None

    # --- what a profile and a plan ask for --------------------------------------------------------

    @property
    def asks_questions(self) -> bool:
        """Whether any metric of the plan is about questions."""
        return any(metric in QUESTION_METRICS for metric in self.metric_ids)

    @property
    def writes_answers(self) -> bool:
        """Whether any metric of the plan is about answers in the model's own words."""
        return any(metric in WRITTEN_METRICS for metric in self.metric_ids)

    @property
    def metric_ids(self) -> tuple[str, ...]:
        metrics = [m for entry in self.resolution.entries for m in self.metrics_of(entry)]
        return tuple(dict.fromkeys(metrics))

    def metrics_of(self, entry: EntryResolution) -> tuple[str, ...]:
        """Measured metrics of an entry, the primary one first; the profile's where it names none
        that we know.
        """
        metrics = dict.fromkeys(metric.id for metric in entry.metrics if metric.id)
        return tuple(metrics) or self.profile.metrics

    @property
    def replicates(self) -> range:
        return range(self.profile.replicates)

    def view_of(self, view_id: str) -> ViewConfig | None:
        """What stages are given: None for the whole datastore."""
        view = self.views[view_id]
        return None if view == ViewConfig() else view

    # --- building ---------------------------------------------------------------------------------

    def train(self, trained: Trained) -> Trained:
        """Add the jobs that train an arm, in all replicates that it gets."""
        for replicate in self.stops.training(trained.id, len(self.replicates)):
            model = self._model(trained, replicate)
            trained.models.append(model)
            trained.tuned.append(self._tuned(trained, model, replicate))
        self.trained[trained.id] = trained
        return trained

    def _model(self, trained: Trained, replicate: int) -> Job:
        profile, data = trained.profile, trained.data
        inputs = {
            "base": self.base(profile, data, replicate, trained.mechanism),
            "sequences": data.text,
            "validation": data.validation,
        }
        config: Config
        if trained.mechanism in ("none", "wider"):
            stage, config = trainings.TWIN, profile.twin_config(trained.times)
        else:
            inputs |= {
                "neighbours": data.text_neighbours,
                "validation_neighbours": data.validation_neighbours,
                "datastore": data.datastore,
            }
            stage, config = trainings.RETROFIT, profile.retrofit_config(trained.view)
            if trained.mechanism == "in_prompt":
                stage, config = trainings.IN_PROMPT, profile.in_prompt_config(trained.view)
        return self.jobs.add(
            stage,
            config,
            inputs,
            seed=replicate,
            arm=trained.id,
        )

    def train_longer(self, twin: Trained, times: float) -> Trained:
        """Add the twin that is trained for so many times the tokens, in replicate 0 alone."""
        longer = replace(
            twin,
            id=f"{twin.id}-{times:g}x",
            label=f"{twin.label}, {times:g} times the tokens",
            words="same base, no retrieval, trained for longer, replicate 0 alone",
            times=times,
        )
        model = self._model(longer, replicate=0)
        # A list of its own: the twin's would gain a model.
        longer = replace(longer, models=[model], tuned=[model])
        self.trained[longer.id] = longer
        return longer

    @property
    def longer_twins(self) -> list[Trained]:
        return [trained for trained in self.trained.values() if trained.times != 1]

    def base(self, profile: Profile, data: Data, replicate: int, mechanism: str = "none") -> Job:
        """The decoder that a replicate starts from; with neighbours in the text one that has read
        rows of that length, where it is trained in the study.
        """
        if profile.base is None:
            adopted = AdoptedBase(name=profile.pretrained or PACKAGED)
            return self.jobs.add(trainings.ADOPTED_BASE, adopted, {"tokens": data.tokens}, arm=BASE)
        config, detail = profile.base, ""
        inputs = {"sequences": data.text, "validation": data.validation}
        if mechanism == "in_prompt":
            config, detail = profile.in_prompt_base(profile.base), LONG_ROWS
            rows = profile.in_prompt_base_text
            # Without a curve: the rows that others are validated on are short.
            text = self.jobs.add(SEQUENCES, rows, {"tokens": data.tokens}, detail=detail)
            inputs = {"sequences": text}
        # With one seed all replicates ask for the same job.
        seed = profile.base_seed if profile.share_base else replicate
        return self.jobs.add(trainings.BASE, config, inputs, seed=seed, arm=BASE, detail=detail)

    def _tuned(self, trained: Trained, model: Job, replicate: int) -> Job:
        profile, data = trained.profile, trained.data
        config = profile.instruct_config(trained.view)
        if config is None or data.instructions is None:
            return model
        source = profile.retrofit.neighbour_source
        if trained.mechanism != "cross-attention" or source != "found":
            # A plain decoder has no gate to open, and controls find nothing to tune on.
            config = config.model_copy(update={"gate": 0})
        inputs = {"model": model, "instructions": data.instructions, "tokens": data.tokens}
        # Only where it is read: inputs are part of a job's identity.
        if config.passages or config.gate:
            inputs["datastore"] = data.datastore
        return self.jobs.add(
            trainings.INSTRUCT,
            config,
            inputs,
            seed=replicate,
            arm=trained.id,
        )

    def read_text(self, trained: Trained, condition: str, view: str = FULL) -> None:
        """Evaluate perplexity in every replicate, under a condition, with a view of `views`."""
        at = Selector(arm=trained.id, condition=condition, view=view)
        profile, data = trained.profile, trained.data
        changes = {
            "condition": condition,
            "k": max(1, profile.neighbours_read),
            "view": self._view_read(trained, view),
        }
        # Overlap is a fact of the text, the same for all arms: three evaluations suffice.
        plain = condition in ("on", "off", "none") and view == FULL
        if trained.id not in (RETRO, TWIN) or not plain:
            changes["overlap_neighbours"] = 0
        for replicate in self.stops.place(at, len(trained.models)):
            changes |= {"view_seed": replicate, "random_seed": replicate}
            config = profile.perplexity.model_copy(update=changes)
            inputs = {
                "model": trained.models[replicate],
                "sequences": data.evaluation,
                "neighbours": data.evaluation_neighbours,
                "datastore": data.datastore,
            }
            self._evaluate(PERPLEXITY, config.used(), inputs, at, replicate)

    def ask(
        self,
        trained: Trained,
        cell: str,
        view: str = FULL,
        *,
        arm: str | None = None,
        evidence: Evidence = "found",
        models: list[Job] | None = None,
        write: bool = False,
    ) -> None:
        """Answer the questions in every replicate, if the study has any.

        Args:
            arm: the name of the results, where it is not that of the training.
            models: others than the tuned ones.
            write: also generate free-form answers (slow).
        """
        profile, data = trained.profile, trained.data
        if data.questions is None:
            return
        at = Selector(arm=arm or trained.id, condition=cell, view=view)
        changes = {
            "cell": cell,
            "evidence": evidence,
            "k": max(1, profile.neighbours_read),
            "view": self._view_read(trained, view),
        }
        source = profile.retrofit.neighbour_source
        if source != "found" and evidence == "found":
            changes["encoder_reads"] = source  # as in training; cells without encoder drop it
        if not write:
            changes["n_generate"] = 0
        models = models or trained.tuned
        for replicate in self.stops.place(at, len(models)):
            changes |= {"view_seed": replicate, "placebo_seed": replicate}
            config = profile.qa.model_copy(update=changes)
            model = models[replicate]
            inputs = {"model": model, **data.question_inputs}
            # `used`, so that settings that a cell ignores do not make two jobs of one evaluation.
            self._evaluate(QA, config.used(), inputs, at, replicate)

    def count_words(
        self,
        arm: str,
        cell: str,
        trained: Trained,
        reads: Literal["passages", "question"],
        evidence: Evidence = "found",
    ) -> None:
        """The rival without a model, on the same questions and passages."""
        at = Selector(arm=arm, condition=cell)
        # It counts words in the passages that the models read: the settings are theirs.
        qa = trained.profile.qa
        for replicate in range(len(trained.models)):
            config = BagOfWordsConfig(
                reads=reads,
                evidence=evidence,
                passages=qa.passages,
                passage_chunks=qa.passage_chunks,
                n_questions=qa.n_questions,
                view=self._view_read(trained, FULL),
                view_seed=replicate,
                placebo_seed=replicate,
            )
            inputs = trained.data.question_inputs
            self._evaluate(BAG_OF_WORDS, config.used(), inputs, at, replicate)

    def _view_read(self, trained: Trained, view: str) -> ViewConfig | None:
        """The part of the datastore that an evaluation may read."""
        if trained.view is not None:
            return trained.view
        # The arm's own whole view: an arm may change it together with other fields.
        return trained.profile.whole_view if view == FULL else self.view_of(view)

    def _evaluate(
        self,
        stage: Stage,
        config: Config,
        inputs: Mapping[str, Job | None],
        at: Selector,
        replicate: int,
    ) -> None:
        detail = at.condition if at.view == FULL else f"{at.condition} {at.view}"
        job = self.jobs.add(
            stage,
            config,
            inputs,
            replicate=replicate,
            arm=at.arm,
            detail=detail,
        )
        self.evaluations.append(Evaluation(at, replicate, job))

    def replicates_of_view(self, view_id: str) -> range:
        """The replicates in which a view is read."""
        replicates = [one.replicate for one in self.evaluations if one.at.view == view_id]
        return range(max(replicates, default=-1) + 1)

    def stops_after(self, going_on: Iterable[Comparison]) -> Stops:
        """What gets no further replicates once only these comparisons go on."""
        return self.stops.after(
            len(self.replicates),
            self.comparisons,
            going_on,
            self.places.values(),
            self.trained,
            self.places["baseline", "arm"],
        )

    def data_jobs(self) -> Iterator[Job]:
        """The jobs that train and evaluate nothing."""
        return (job for job in self.jobs if job.stage.name in DATA_STAGES)


def mechanism_of(profile: Profile) -> str:
    """A retrofit that reads 0 neighbours has nothing to read: it is the twin."""
    reads = profile.mechanism == "wider" or profile.retrofit.retro.neighbours
    return profile.mechanism if reads else "none"


def natural(profile: Profile) -> tuple[str, str]:
    """How an arm is read: condition for text, cell for questions."""
    prompt, both = ("prompt", "both") if profile.qa.passages else ("closed", "encoder")
    mechanism = mechanism_of(profile)
    if mechanism != "cross-attention":
        return "in_prompt" if mechanism == "in_prompt" else "none", prompt
    if not profile.neighbours_read:
        return "off", prompt
    # A control reads the kind of neighbours that it was trained with.
    source = profile.retrofit.neighbour_source
    return "on" if source == "found" else source, both


def plan_study(profile: Profile, resolution: Resolution, stops: Stops | None = None) -> Study:
    """All jobs and comparisons of a study.

    Besides what the plan asks for, every study has the mechanism controls: the twin, gate 0, random
    neighbours and the true continuation; and where questions are asked the cells that tell prompt,
    encoder and tuning apart.

    Args:
        stops: of a study that looks several times: what an earlier look has ended.

    Raises:
        ConfigError: the baseline itself has no retrieval.
    """
    _require_retro(profile)
    study = Study(profile, resolution, stops or Stops())
    study.views[FULL] = profile.view  # first: views are listed and checked in this order
    data = prepare(study.jobs, profile, questions=study.asks_questions)
    retro = Trained(
        id=RETRO,
        label="Retro",
        words="trained and read with retrieval",
        profile=profile,
        mechanism="cross-attention",
        data=data,
    )
    twin = Trained(
        id=TWIN,
        label="Twin",
        words="same base, tokens and order, no retrieval",
        profile=profile,
        mechanism="none",
        data=data,
    )
    study.train(retro)
    study.train(twin)
    _controls(study, retro, twin)
    _longer_twins(study, twin)
    for arm in resolution.arms.values():
        if all(path.startswith("view.") for path in arm.changes):
            _view_arm(study, arm, retro)
        elif arm.changes == {"retrofit.retro.gate": 0.0}:
            # A closed gate needs no training: the baseline's own evaluations show it.
            study.places[arm.id, arm.experiment] = _places(RETRO, "off", "prompt")
        else:
            _variant(study, arm, data)
    study.comparisons = tuple(_comparisons(study))
    _integrity_checks(study, retro)
    return study


def _require_retro(profile: Profile) -> None:
    if natural(profile) != ("on", "both"):
        raise ConfigError(
            f"profile {profile.name}: the baseline of a study is a Retro model; got "
            f"mechanism={profile.mechanism} with {profile.retrofit.retro.neighbours} neighbours, "
            f"{profile.neighbours_read} of them read, source {profile.retrofit.neighbour_source}, "
            f"{profile.qa.passages} passages in the prompt",
            hint=(
                "leave `mechanism`, `evaluation_neighbours` and `neighbour_source` out; what "
                "differs is an arm"
            ),
        )


def _integrity_checks(study: Study, retro: Trained) -> None:
    """That gate 0 is the plain decoder, and that a filtered view is what a rebuilt index finds."""
    data = retro.data
    inputs = {"model": retro.models[0], "sequences": data.evaluation}
    study.gate_check = study.jobs.add(GATE_OFF_CHECK, Config(), inputs)
    views = [view for view_id, view in study.views.items() if view_id != FULL]
    if views:
        # The smallest one is rebuilt fastest; views without a fraction come last.
        smallest = min(views, key=lambda view: (view.fraction is None, view.fraction or 1.0))
        config = RebuildCheckConfig(view=smallest, view_seed=0, k=retro_neighbours(study.profile))
        inputs = {"neighbours": data.evaluation_neighbours, "datastore": data.datastore}
        study.rebuild_check = study.jobs.add(REBUILD_CHECK, config, inputs)


def retro_neighbours(profile: Profile) -> int:
    return max(1, profile.retrofit.retro.neighbours)


def _places(arm: str, text: str, questions: str, view: str = FULL) -> Places:
    """Where an arm is measured: on text under this condition, on questions in this cell."""
    return (
        Selector(arm=arm, condition=text, view=view),
        Selector(arm=arm, condition=questions, view=view),
    )


def _compare(
    study: Study, key: tuple[str, str], trained: Trained, text: str, cell: str, view: str = FULL
) -> None:
    """The evaluations of an arm that comparisons read."""
    study.places[key] = _places(trained.id, text, cell, view)
    study.read_text(trained, text, view)
    study.ask(trained, cell, view, write=study.writes_answers)


def _controls(study: Study, retro: Trained, twin: Trained) -> None:
    """Evaluations that every study has."""
    study.places["baseline", "arm"] = _places(RETRO, "on", "both")
    study.places["twin", "arm"] = _places(TWIN, "none", "prompt")
    for condition in ("on", "off", "random", "oracle"):
        study.read_text(retro, condition)
    study.read_text(twin, "none")
    profile, data = study.profile, retro.data
    bases = [study.base(profile, data, replicate) for replicate in range(len(retro.models))]
    base = Trained(
        id=BASE,
        label="Base",
        words="before continued training",
        profile=profile,
        mechanism="none",
        data=data,
        models=bases,
        tuned=bases,
    )
    study.trained[BASE] = base
    study.read_text(base, "none")
    if study.asks_questions:
        _question_controls(study, retro, twin, base)


def _longer_twins(study: Study, twin: Trained) -> None:
    """What the exchange rate is read off: losses of twins that were trained for longer."""
    times = study.profile.exchange_rate.times
    if times and study.profile.retrofit.freeze_backbone:
        raise ConfigError(
            f"exchange_rate.times {list(times)}: with a frozen backbone the twin is the base, "
            "which no number of tokens changes",
            hint="leave exchange_rate out, or train the backbone",
        )
    for factor in times:
        study.read_text(study.train_longer(twin, factor), "none")


def _question_controls(study: Study, retro: Trained, twin: Trained, base: Trained) -> None:
    for cell in ("closed", "prompt", "encoder", "both"):
        # Writing is slow. `prompt` is the cell of the arm with its gate off, and is written only
        # where the plan compares what is written.
        write = cell == "both" or (cell == "prompt" and study.writes_answers)
        study.ask(retro, cell, write=write)
    for cell in ("closed", "prompt"):
        study.ask(twin, cell, write=cell == "prompt")
    study.ask(retro, "both", arm=PLACEBO, evidence="placebo")
    file = study.profile.question_file
    if file is None or file.passages:
        study.ask(retro, "both", arm=OWN_PASSAGE, evidence="own")
    study.ask(twin, "prompt", arm=TWIN_PLACEBO, evidence="placebo")
    if file is None or file.choices:  # words can only choose
        study.count_words(WORDS, "prompt", retro, "passages")
        study.count_words(WORDS, "closed", retro, "question")
        study.count_words(WORDS_PLACEBO, "prompt", retro, "passages", "placebo")
    # Two more models for the waterfall: before continued pretraining, and before tuning.
    for cell in ("closed", "prompt"):
        study.ask(base, cell)
    if retro.tuned != retro.models:
        for cell in ("prompt", "both"):
            study.ask(retro, cell, arm=UNTUNED, models=retro.models)


def _variant(study: Study, arm: Arm, data: Data) -> None:
    """An arm with a training of its own."""
    profile = arm.profile(study.profile)
    condition, cell = natural(profile)
    key = (arm.id, arm.experiment)
    if arm.id == TWIN:  # every study has it
        study.places[key] = _places(TWIN, condition, cell)
        return
    if not _same_data(profile, study.profile):
        data = prepare(study.jobs, profile, questions=study.asks_questions)
    elif profile.questions != study.profile.questions and data.questions is not None:
        # Other instructions to tune on, and the questions of everybody else.
        made = study.jobs.add(QUESTIONS, profile.questions, {"corpus": data.corpus})
        data = replace(data, instructions=made)
    trained = Trained(
        id=arm.id,
        label=arm.label[:1].upper() + arm.label[1:],
        words=arm.done,
        profile=profile,
        mechanism=mechanism_of(profile),
        data=data,
        arm=arm,
    )
    study.train(trained)
    if trained.mechanism == "in_prompt" and profile.base is not None:
        _own_bases(study, trained, arm)
    _compare(study, key, trained, condition, cell)


def _own_bases(study: Study, trained: Trained, arm: Arm) -> None:
    """Measure the bases that an arm alone starts from: their difference from the others' is in the
    arm's too.
    """
    profile, data = trained.profile, trained.data
    bases = [
        study.base(profile, data, replicate, trained.mechanism)
        for replicate in range(len(trained.models))
    ]
    own = replace(
        trained,
        id=f"{trained.id}-base",
        label=f"Base of {arm.label}",
        words=f"trained on as many tokens in rows of {profile.in_prompt_row_tokens:,}",
        mechanism="none",
        arm=None,
        models=bases,
        tuned=bases,
    )
    study.trained[own.id] = own
    study.read_text(own, "none")


def _same_data(profile: Profile, other: Profile) -> bool:
    """Whether two profiles ask for equal data, up to the number of instructions."""
    fields = (
        "corpus",
        "tokenizer",
        "training_text",
        "evaluation_text",
        "datastore",
        "neighbours",
        "question_neighbours",
        "pretrained",
    )
    asked = [
        config.questions.model_copy(update={"instructions": None}) for config in (profile, other)
    ]
    equal = (getattr(profile, name) == getattr(other, name) for name in fields)
    return asked[0] == asked[1] and all(equal)


def _view_arm(study: Study, arm: Arm, retro: Trained) -> None:
    """Another datastore: read by the baseline's models, and with `retrain` also trained on."""
    profile = study.profile
    view = arm.profile(profile).view
    study.views[arm.id] = view
    _compare(study, (arm.id, "swap"), retro, "on", "both", arm.id)
    if profile.size_experiment == "retrain":
        trained = Trained(
            id=f"{RETRO}-{arm.id}",
            label=f"Retro trained on {arm.label}",
            words=f"trained and read with {arm.done}",
            profile=profile,
            mechanism="cross-attention",
            data=retro.data,
            view=view,
            arm=arm,
        )
        _compare(study, (arm.id, "retrain"), study.train(trained), "on", "both", arm.id)


def _comparisons(study: Study) -> Iterator[Comparison]:
    """One for each arm of each entry and experiment, in the plan's order, the primary experiment
    first.
    """
    for entry in study.resolution.entries:
        arms = [arm for arm in entry.arms if arm.role != "reference"]
        for arm in arms:
            yield _comparison(study, entry, arm, arm.experiment)
        for arm in arms:
            if arm.experiment == "retrain":  # its view was also swapped
                yield _comparison(study, entry, arm, "swap")


def _done(study: Study, arm: Arm) -> str:
    """What was done for an arm; of one that starts from another base, that it does, since its
    label says the rest.
    """
    own = study.trained.get(f"{arm.id}-base")
    return f"from a base of its own, {own.words}" if own else arm.done


def _comparison(
    study: Study, entry: EntryResolution, arm: Arm, experiment: Experiment
) -> Comparison:
    against = (arm.against, "arm" if arm.against == "baseline" else experiment)
    text, questions = study.places[arm.id, experiment]
    baseline_text, baseline_questions = study.places[against]
    metrics = study.metrics_of(entry)
    of_questions = [metric for metric in metrics if metric in QUESTION_METRICS]
    second = arm.role == "second-meaning"
    # A target is a share of the baseline's view, which may itself be a part of the datastore.
    whole = study.profile.view.fraction or 1.0
    return Comparison(
        entry=entry.name,
        label=f"{arm.label}, second meaning" if second else arm.label,
        done=_done(study, arm),
        arm=text,
        baseline=baseline_text,
        metrics=metrics,
        at=dict.fromkeys(of_questions, (questions, baseline_questions)),
        experiment=experiment,
        role="extra" if second or experiment != arm.experiment else "primary",
        series=arm.series,
        fraction=None if arm.fraction is None else arm.fraction / whole,
    )
