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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.datastore.config import ViewConfig
from chunkwise.evaluation.config import BagOfWordsConfig
from chunkwise.evaluation.stages import BAG_OF_WORDS, GATE_OFF_CHECK, PERPLEXITY, QA
from chunkwise.graph.jobs import Job, Jobs
from chunkwise.graph.stage import Stage
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.resolution import Resolution
from chunkwise.lab.study.data import DATA_STAGES, Data, prepare
from chunkwise.lab.terms import FULL, Arm, Comparison, Selector
from chunkwise.neighbours.config import RebuildCheckConfig
from chunkwise.neighbours.stages import REBUILD_CHECK
from chunkwise.training import stages as trainings
from chunkwise.training.config import PACKAGED, AdoptedBase

QUESTION_METRICS = ("choice_accuracy", "exact_match", "f1", "answer_nll")
WRITTEN_METRICS = ("exact_match", "f1")
RETRO, TWIN, BASE = "retro", "twin", "base"
PLACEBO, TWIN_PLACEBO, UNTUNED, WORDS, WORDS_PLACEBO = (
    "placebo",
    "twin-placebo",
    "untuned",
    "bag-of-words",
    "bag-of-words-placebo",
)
"""Arms of cells that are no training of their own: the same models read placebo passages or were
not tuned.
"""

NATURAL = {
    "in_prompt": ("in_prompt", "prompt"),
    "wider": ("none", "prompt"),
    "none": ("none", "prompt"),
}
"""Mechanism without cross-attention -> condition for text, cell for questions."""

CONDITION = {"found": "on", "random": "random", "shuffled": "shuffled", "own": "own"}
"""Source of the neighbours in training -> condition for text: what is read is of the kind that was
trained with.
"""


@dataclass(frozen=True)
class Trained:
    """One way of training: a model in every replicate.

    Attributes:
        view: the view that it was trained on and reads; None: the baseline's.
        arm: of the resolution; None for the ones that every study has.
        models, tuned: a job for each replicate; the same where nothing is tuned.
    """

    id: str
    label: str
    words: str
    profile: Profile
    mechanism: str
    data: Data
    view: ViewConfig | None = None
    arm: Arm | None = None
    models: list[Job] = field(default_factory=list)
    tuned: list[Job] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """One cell before it is measured, and the job that measures it."""

    at: Selector
    replicate: int
    job: Job


@dataclass
class Study:
    """All jobs, and what their results mean. Built from plan and profile alone; nothing here has
    run.

    Attributes:
        views: id -> view of the datastore, FULL first.
        places: (arm id, experiment) -> selector for text, selector for questions.
    """

    profile: Profile
    resolution: Resolution
    jobs: Jobs = field(default_factory=Jobs)
    trained: dict[str, Trained] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    views: dict[str, ViewConfig] = field(default_factory=dict)
    places: dict[tuple[str, str], tuple[Selector, Selector]] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    rebuild_check: Job | None = None
    gate_check: Job | None = None

    # --- what a profile and a plan ask for --------------------------------------------------------

    @property
    def asks_questions(self) -> bool:
        """Whether any metric of the plan is about questions."""
        return any(metric in QUESTION_METRICS for metric in self.metric_ids)

    @property
    def metric_ids(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(
                metric for entry in self.resolution.entries for metric in self.metrics_of(entry)
            )
        )

    def metrics_of(self, entry) -> tuple[str, ...]:
        """Measured metrics of an entry, the primary one first; the profile's where it names none
        that we know.
        """
        return (
            tuple(dict.fromkeys(metric.id for metric in entry.metrics if metric.id))
            or self.profile.metrics
        )

    @property
    def replicates(self) -> range:
        return range(self.profile.replicates)

    def view_of(self, view_id: str) -> ViewConfig | None:
        """What stages are given: None for the whole datastore."""
        view = self.views[view_id]
        return None if view == ViewConfig() else view

    # --- building ---------------------------------------------------------------------------------

    def train(self, trained: Trained) -> Trained:
        """Add the jobs that train an arm, in all replicates."""
        for replicate in self.replicates:
            model = self._model(trained, replicate)
            trained.models.append(model)
            trained.tuned.append(self._tuned(trained, model, replicate))
        self.trained[trained.id] = trained
        return trained

    def _model(self, trained: Trained, replicate: int) -> Job:
        profile, data = trained.profile, trained.data
        base = self.base(profile, data, replicate)
        about: dict[str, Any] = {"seed": replicate, "arm": trained.id}
        inputs = {"base": base, "sequences": data.text, "validation": data.validation}
        if trained.mechanism in ("none", "wider"):
            return self.jobs.add(trainings.TWIN, profile.twin_config(), inputs, **about)
        inputs |= {
            "neighbours": data.text_neighbours,
            "validation_neighbours": data.validation_neighbours,
        }
        inputs |= {"datastore": data.datastore}
        if trained.mechanism == "in_prompt":
            return self.jobs.add(
                trainings.IN_PROMPT, profile.in_prompt_config(trained.view), inputs, **about
            )
        return self.jobs.add(
            trainings.RETROFIT, profile.retrofit_config(trained.view), inputs, **about
        )

    def base(self, profile: Profile, data: Data, replicate: int) -> Job:
        """The decoder that a replicate starts from."""
        if profile.base is None:
            adopted = AdoptedBase(name=profile.pretrained or PACKAGED)
            return self.jobs.add(trainings.ADOPTED_BASE, adopted, {"tokens": data.tokens}, arm=BASE)
        inputs = {"sequences": data.text, "validation": data.validation}
        return self.jobs.add(
            trainings.BASE,
            profile.base,
            inputs,
            seed=0 if profile.share_base else replicate,
            arm=BASE,
        )

    def _tuned(self, trained: Trained, model: Job, replicate: int) -> Job:
        config = trained.profile.instruct_config(trained.view)
        if config is None or trained.data.questions is None:
            return model
        if (
            trained.mechanism != "cross-attention"
            or trained.profile.retrofit.neighbour_source != "found"
        ):
            config = config.model_copy(
                update={"gate": 0}
            )  # a plain decoder has no other, and controls find nothing
        data = trained.data
        inputs = {"model": model, "instructions": data.questions, "tokens": data.tokens}
        if config.passages or config.gate:
            inputs["datastore"] = data.datastore
        return self.jobs.add(trainings.INSTRUCT, config, inputs, seed=replicate, arm=trained.id)

    def read_text(self, at: Selector, trained: Trained, *, model: Job | None = None) -> None:
        """Evaluate perplexity in every replicate; `at.condition` and `at.view` say how."""
        profile, data = trained.profile, trained.data
        view = trained.view or (profile.whole_view if at.view == FULL else self.view_of(at.view))
        overlap = (
            at.arm in (RETRO, TWIN) and at.condition in ("on", "off", "none") and at.view == FULL
        )
        for replicate in self.replicates:
            config = profile.perplexity.model_copy(
                update={
                    "condition": at.condition,
                    "k": max(1, profile.neighbours_read),
                    "view": view,
                    "view_seed": replicate,
                    "random_seed": replicate,
                    # Overlap is a fact of the text, the same for all arms: three evaluations
                    # suffice.
                    "overlap_neighbours": profile.perplexity.overlap_neighbours if overlap else 0,
                }
            )
            inputs = {"model": model or trained.models[replicate], "sequences": data.evaluation}
            inputs |= {"neighbours": data.evaluation_neighbours, "datastore": data.datastore}
            self._evaluate(PERPLEXITY, config.used(), inputs, at, replicate)

    def ask(
        self,
        at: Selector,
        trained: Trained,
        *,
        cell: str | None = None,
        evidence: str = "found",
        models: list[Job] | None = None,
        write: bool = False,
    ) -> None:
        """Answer the questions in every replicate.

        Args:
            cell: where it is not `at.condition`.
            models: others than the tuned ones.
            write: also generate free-form answers (slow).
        """
        profile, data = trained.profile, trained.data
        if data.questions is None:
            return
        for replicate in self.replicates:
            config = profile.qa.model_copy(
                update={"cell": cell or at.condition, "evidence": evidence}
                | self._reading(trained, at, replicate)
            )
            source = profile.retrofit.neighbour_source
            if source != "found" and config.in_encoder and evidence == "found":
                config = config.model_copy(update={"encoder_reads": source})
            if not write:
                config = config.model_copy(update={"n_generate": 0})
            inputs: dict[str, Job | None] = {
                "model": (models or trained.tuned)[replicate],
                "questions": data.questions,
            }
            inputs |= {"question_neighbours": data.question_neighbours, "datastore": data.datastore}
            self._evaluate(QA, config.used(), inputs | {"tokens": data.tokens}, at, replicate)

    def count_words(
        self, at: Selector, trained: Trained, *, reads: Any, evidence: Any = "found"
    ) -> None:
        """The rival without a model, on the same questions and passages."""
        profile, data = trained.profile, trained.data
        for replicate in self.replicates:
            reading = self._reading(trained, at, replicate)
            reading.pop("k")
            same = {
                name: getattr(profile.qa, name)
                for name in ("passages", "passage_chunks", "n_questions")
            }
            config = BagOfWordsConfig(reads=reads, evidence=evidence, **same, **reading)
            inputs = {"questions": data.questions, "question_neighbours": data.question_neighbours}
            inputs |= {"datastore": data.datastore, "tokens": data.tokens}
            self._evaluate(BAG_OF_WORDS, config.used(), inputs, at, replicate)

    def _reading(self, trained: Trained, at: Selector, replicate: int) -> dict:
        """What passages are drawn from."""
        view = trained.view or (
            trained.profile.whole_view if at.view == FULL else self.view_of(at.view)
        )
        k = max(1, trained.profile.neighbours_read)
        return {"k": k, "view": view, "view_seed": replicate, "placebo_seed": replicate}

    def _evaluate(
        self, stage: Stage, config, inputs: Mapping[str, Job | None], at: Selector, replicate: int
    ) -> None:
        view = "" if at.view == FULL else at.view
        detail = " ".join(part for part in (at.condition, view) if part)
        job = self.jobs.add(stage, config, inputs, replicate=replicate, arm=at.arm, detail=detail)
        self.evaluations.append(Evaluation(at, replicate, job))

    def data_jobs(self) -> Iterator[Job]:
        """The jobs that train and evaluate nothing."""
        return (job for job in self.jobs if job.stage.name in DATA_STAGES)


def kind_of(arm: Arm, baseline: Profile) -> str:
    """What an arm needs: `view` (another datastore), `off` (a closed gate), or `training` of its
    own.
    """
    if all(path.startswith("view.") for path in arm.changes):
        return "view"
    if arm.changes == {"retrofit.retro.gate": 0.0} and baseline.mechanism == "cross-attention":
        return "off"
    return "training"


def mechanism_of(profile: Profile) -> str:
    """A retrofit that reads 0 neighbours has nothing to read: it is the twin."""
    reads = profile.mechanism == "wider" or profile.retrofit.retro.neighbours
    return profile.mechanism if reads else "none"


def natural(profile: Profile) -> tuple[str, str]:
    """How an arm is read: condition for text, cell for questions."""
    mechanism = mechanism_of(profile)
    if mechanism != "cross-attention":
        return NATURAL[mechanism]
    if not profile.neighbours_read:
        return "off", "prompt"
    return CONDITION[profile.retrofit.neighbour_source], "both"


def plan_study(profile: Profile, resolution: Resolution) -> Study:
    """All jobs and comparisons of a study.

    Besides what the plan asks for, every study has the mechanism controls: the twin, gate 0, random
    neighbours and the true continuation; and where questions are asked the cells that tell prompt,
    encoder and tuning apart.

    Raises:
        ConfigError: the baseline itself has no retrieval.
    """
    if natural(profile) != ("on", "both"):
        raise ConfigError(
            f"profile {profile.name}: the baseline of a study is a Retro model; got "
            f"mechanism={profile.mechanism} "
            f"with {profile.retrofit.retro.neighbours} neighbours, {profile.neighbours_read} of "
            "them read, source "
            f"{profile.retrofit.neighbour_source}",
            hint=(
                "leave `mechanism`, `evaluation_neighbours` and `neighbour_source` out; what "
                "differs is an arm"
            ),
        )
    study = Study(profile, resolution)
    data = prepare(study.jobs, profile, questions=study.asks_questions)
    study.views[FULL] = profile.view
    arms = resolution.arms
    for arm in arms.values():
        if kind_of(arm, profile) == "view":
            study.views[arm.id] = arm.profile(profile).view

    retro = Trained(
        RETRO, "Retro", "trained and read with retrieval", profile, "cross-attention", data
    )
    twin = Trained(TWIN, "Twin", "same base, tokens and order, no retrieval", profile, "none", data)
    for always in (retro, twin):
        study.train(always)
    _controls(study, retro, twin)
    for arm in arms.values():
        kind = kind_of(arm, profile)
        if kind == "off":
            study.places[arm.id, arm.experiment] = (
                Selector(arm=RETRO, condition="off"),
                Selector(arm=RETRO, condition="prompt"),
            )
        elif kind == "training":
            _variant(study, arm, data)
        else:
            _view_arm(study, arm, retro)
    study.comparisons = tuple(_comparisons(study))
    read = {"model": retro.models[0], "sequences": data.evaluation}
    study.gate_check = study.jobs.add(GATE_OFF_CHECK, Config(), read)
    drawn = {view_id: view for view_id, view in study.views.items() if view_id != FULL}
    if drawn:
        smallest = min(
            drawn.values(), key=lambda view: (view.fraction is None, view.fraction or 1.0)
        )
        config = RebuildCheckConfig(view=smallest, view_seed=0, k=retro_neighbours(profile))
        inputs = {"neighbours": data.evaluation_neighbours, "datastore": data.datastore}
        study.rebuild_check = study.jobs.add(REBUILD_CHECK, config, inputs)
    return study


def retro_neighbours(profile: Profile) -> int:
    return max(1, profile.retrofit.retro.neighbours)


def _controls(study: Study, retro: Trained, twin: Trained) -> None:
    """Evaluations that every study has."""
    both, prompt = Selector(arm=RETRO, condition="both"), Selector(arm=TWIN, condition="prompt")
    study.places["baseline", "arm"] = Selector(arm=RETRO), both
    study.places["twin", "arm"] = Selector(arm=TWIN, condition="none"), prompt
    for condition in ("on", "off", "random", "oracle"):
        study.read_text(Selector(arm=RETRO, condition=condition), retro)
    study.read_text(Selector(arm=TWIN, condition="none"), twin)
    bases = [study.base(study.profile, retro.data, replicate) for replicate in study.replicates]
    base = Trained(
        BASE,
        "Base",
        "before continued training",
        study.profile,
        "none",
        retro.data,
        None,
        None,
        bases,
        bases,
    )
    study.trained[BASE] = base
    study.read_text(Selector(arm=BASE, condition="none"), base)
    if not study.asks_questions:
        return
    for cell in ("closed", "prompt", "encoder", "both"):
        write = cell == "both" or (
            cell == "prompt" and _writes(study)
        )  # prompt: gate-off's side of exact match
        study.ask(Selector(arm=RETRO, condition=cell), retro, write=write)
    for cell in ("closed", "prompt"):
        study.ask(Selector(arm=TWIN, condition=cell), twin, write=cell == "prompt")
    study.ask(Selector(arm=PLACEBO, condition="both"), retro, evidence="placebo")
    study.ask(Selector(arm=TWIN_PLACEBO, condition="prompt"), twin, evidence="placebo")
    study.count_words(Selector(arm=WORDS, condition="prompt"), retro, reads="passages")
    study.count_words(Selector(arm=WORDS, condition="closed"), retro, reads="question")
    study.count_words(
        Selector(arm=WORDS_PLACEBO, condition="prompt"), retro, reads="passages", evidence="placebo"
    )
    # Two more models for the waterfall: before continued pretraining, and before tuning.
    for cell in ("closed", "prompt"):
        study.ask(Selector(arm=BASE, condition=cell), base)
    if retro.tuned != retro.models:
        for cell in ("prompt", "both"):
            study.ask(Selector(arm=UNTUNED, condition=cell), retro, models=retro.models)


def _variant(study: Study, arm: Arm, data: Data) -> None:
    """An arm with a training of its own."""
    profile = arm.profile(study.profile)
    mechanism = mechanism_of(profile)
    condition, cell = natural(profile)
    places = Selector(arm=arm.id, condition=condition), Selector(arm=arm.id, condition=cell)
    study.places[arm.id, arm.experiment] = places
    if arm.id == TWIN:
        return  # every study has it
    own = (
        data
        if _same_data(profile, study.profile)
        else prepare(study.jobs, profile, questions=study.asks_questions)
    )
    label = arm.label[:1].upper() + arm.label[1:]
    trained = study.train(Trained(arm.id, label, arm.done, profile, mechanism, own, None, arm))
    study.read_text(places[0], trained)
    if study.asks_questions:
        study.ask(places[1], trained, write=_writes(study))


def _same_data(one: Profile, other: Profile) -> bool:
    fields = (
        "corpus",
        "tokenizer",
        "training_text",
        "evaluation_text",
        "questions",
        "datastore",
        "neighbours",
        "question_neighbours",
        "pretrained",
    )
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def _view_arm(study: Study, arm: Arm, retro: Trained) -> None:
    """Another datastore: read by the baseline's models, and with `retrain` also trained on."""
    swapped = Selector(arm=RETRO, view=arm.id), Selector(arm=RETRO, condition="both", view=arm.id)
    study.places[arm.id, "swap"] = swapped
    study.read_text(swapped[0], retro)
    if study.asks_questions:
        study.ask(swapped[1], retro, write=_writes(study))
    if study.profile.size_experiment != "retrain":
        return
    name = f"{RETRO}-{arm.id}"
    label, words = f"Retro trained on {arm.label}", f"trained and read with {arm.done}"
    trained = study.train(
        Trained(
            name,
            label,
            words,
            study.profile,
            "cross-attention",
            retro.data,
            study.views[arm.id],
            arm,
        )
    )
    retrained = Selector(arm=name, view=arm.id), Selector(arm=name, condition="both", view=arm.id)
    study.places[arm.id, "retrain"] = retrained
    study.read_text(retrained[0], trained)
    if study.asks_questions:
        study.ask(retrained[1], trained, write=_writes(study))


def _writes(study: Study) -> bool:
    return any(metric in WRITTEN_METRICS for metric in study.metric_ids)


def _comparisons(study: Study) -> Iterator[Comparison]:
    """One for each arm of each entry and experiment, in the plan's order, the primary experiment
    first.
    """
    for entry in study.resolution.entries:
        metrics = study.metrics_of(entry)
        extra = "swap" if study.profile.size_experiment == "retrain" else None
        asked: list[tuple[Arm, Any]] = [
            (arm, arm.experiment) for arm in entry.arms if arm.role != "reference"
        ]
        asked += [(arm, extra) for arm, experiment in asked if extra and experiment == "retrain"]
        for arm, experiment in asked:
            at_text, at_questions = study.places[arm.id, experiment]
            against = (
                study.places["baseline", "arm"]
                if arm.against == "baseline"
                else study.places[arm.against, experiment]
            )
            exploratory = arm.role == "second-meaning" or experiment != arm.experiment
            share = study.profile.view.fraction or 1.0
            yield Comparison(
                entry=entry.name,
                label=f"{arm.label}, second meaning" if arm.role == "second-meaning" else arm.label,
                done=arm.done,
                arm=at_text,
                baseline=against[0],
                metrics=metrics,
                at={
                    metric: (at_questions, against[1])
                    for metric in metrics
                    if metric in QUESTION_METRICS
                },
                experiment=experiment,
                role="extra" if exploratory else "primary",
                series=arm.series,
                fraction=None if arm.fraction is None else arm.fraction / share,
            )
