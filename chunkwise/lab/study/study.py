"""The jobs and results of a study, and how one arm adds its own to them.

Every arm is carried through the whole chain of its own profile; jobs of equal identity are one job
(`jobs`), so what arms share is found, not declared. For five arms and three replicates the base is
trained once, and a smaller datastore costs two evaluations.

`planning` says what is trained and measured; this module says of which jobs that consists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from chunkwise.core.config import Config
from chunkwise.core.packs import PACKAGED
from chunkwise.corpus.stages import SEQUENCES
from chunkwise.datastore.config import ViewConfig
from chunkwise.evaluation.config import BagOfWordsConfig
from chunkwise.evaluation.stages import BAG_OF_WORDS, PERPLEXITY, QA
from chunkwise.graph.jobs import Job, Jobs
from chunkwise.graph.stage import Stage
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.resolution import EntryResolution, Resolution
from chunkwise.lab.study.data import DATA_STAGES, LONG_ROWS, Data
from chunkwise.lab.study.stops import Places, Stops
from chunkwise.lab.study.trained import (
    BASE,
    QUESTION_METRICS,
    RETRO,
    TWIN,
    WRITTEN_METRICS,
    Evaluation,
    Evidence,
    Trained,
)
from chunkwise.lab.terms import FULL, Comparison, Selector
from chunkwise.training import stages as trainings
from chunkwise.training.config import AdoptedBase


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
        return not set(QUESTION_METRICS).isdisjoint(self.metric_ids)

    @property
    def writes_answers(self) -> bool:
        """Whether any metric of the plan is about answers in the model's own words."""
        return not set(WRITTEN_METRICS).isdisjoint(self.metric_ids)

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """Of all entries, each once."""
        ids: dict[str, None] = {}
        for entry in self.resolution.entries:
            ids |= dict.fromkeys(self.metrics_of(entry))
        return tuple(ids)

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

    # --- trainings --------------------------------------------------------------------------------

    def train(self, trained: Trained) -> Trained:
        """Add the jobs that train an arm, in all replicates that it gets."""
        for replicate in self.stops.training(trained.id, len(self.replicates)):
            model = self._model(trained, replicate)
            trained.models.append(model)
            trained.tuned.append(self._tuned(trained, model, replicate))
        self.trained[trained.id] = trained
        return trained

    def _model(self, trained: Trained, replicate: int) -> Job:
        """The continued training of an arm in one replicate."""
        profile, data = trained.profile, trained.data
        inputs = {
            "base": self.base(profile, data, replicate, trained.mechanism),
            "sequences": data.text,
            "validation": data.validation,
        }
        if trained.mechanism in ("none", "wider"):
            twin = profile.twin_config(trained.times)
            return self.jobs.add(trainings.TWIN, twin, inputs, seed=replicate, arm=trained.id)
        inputs |= {
            "neighbours": data.text_neighbours,
            "validation_neighbours": data.validation_neighbours,
            "datastore": data.datastore,
        }
        stage = trainings.RETROFIT
        config: Config = profile.retrofit_config(trained.view)
        if trained.mechanism == "in_prompt":
            stage = trainings.IN_PROMPT
            config = profile.in_prompt_config(trained.view)
        return self.jobs.add(stage, config, inputs, seed=replicate, arm=trained.id)

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

    def bases(self, trained: Trained) -> list[Job]:
        """The decoders that the replicates of a training start from."""
        bases = []
        for replicate in range(len(trained.models)):
            base = self.base(trained.profile, trained.data, replicate, trained.mechanism)
            bases.append(base)
        return bases

    def _tuned(self, trained: Trained, model: Job, replicate: int) -> Job:
        """The model after instruction tuning; as it is where the study tunes nothing."""
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
        return self.jobs.add(trainings.INSTRUCT, config, inputs, seed=replicate, arm=trained.id)

    # --- evaluations ------------------------------------------------------------------------------

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
        is_plain = condition in ("on", "off", "none") and view == FULL
        if trained.id not in (RETRO, TWIN) or not is_plain:
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
            inputs = {"model": models[replicate], **data.question_inputs}
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
        job = self.jobs.add(stage, config, inputs, replicate=replicate, arm=at.arm, detail=detail)
        self.evaluations.append(Evaluation(at, replicate, job))

    # --- what was planned -------------------------------------------------------------------------

    def replicates_of_view(self, view_id: str) -> range:
        """The replicates in which a view is read."""
        replicates = [
            evaluation.replicate for evaluation in self.evaluations if evaluation.at.view == view_id
        ]
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
