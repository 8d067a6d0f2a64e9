"""What a study computes: arms x replicates x evaluations, as jobs that share all they can.

    corpus -> tokenizer -> tokens -> text, questions, datastore -> neighbour tables   (data)
    base -> retrofit | twin | in-prompt [-> instruct] -> perplexity, qa               (study)

Which text is read under which setting:

    perplexity  before tuning: retro with found, random and oracle neighbours and gate 0; the twin;
                variants as trained
    questions   after tuning: the tested cell of a Retro model is `both` (encoder and prompt), of
                the twin `prompt`
    views       `swap`: the trained model reads another datastore. `retrain`: it was trained on it
                too
"""

from __future__ import annotations

from dataclasses import replace

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.corpus.config import QuestionsConfig
from chunkwise.corpus.stages import QUESTIONS
from chunkwise.evaluation.stages import GATE_OFF_CHECK
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.resolution import Resolution
from chunkwise.lab.study.comparisons import comparisons_of
from chunkwise.lab.study.data import Data, prepare
from chunkwise.lab.study.stops import Places, Stops
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import (
    BASE,
    OWN_PASSAGE,
    PLACEBO,
    RETRO,
    TWIN,
    TWIN_PLACEBO,
    UNTUNED,
    WORDS,
    WORDS_PLACEBO,
    Trained,
    mechanism_of,
    natural,
    retro_neighbours,
)
from chunkwise.lab.terms import FULL, Arm, Selector
from chunkwise.neighbours.config import RebuildCheckConfig
from chunkwise.neighbours.stages import REBUILD_CHECK

DATA_FIELDS = (
    "corpus",
    "tokenizer",
    "training_text",
    "evaluation_text",
    "datastore",
    "neighbours",
    "question_neighbours",
    "pretrained",
)
"""Of a profile: what its data depends on, beside the questions."""


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
    # Before any arm: what arms share with these two is then named after them.
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
    study.comparisons = tuple(comparisons_of(study))
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
    # One replicate: a gate that leaks leaks in all of them.
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
    bases = study.bases(retro)
    base = Trained(
        id=BASE,
        label="Base",
        words="before continued training",
        profile=study.profile,
        mechanism="none",
        data=retro.data,
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
    # Without a tuning the untuned models are the tuned ones, and were asked already.
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
        inputs = {"corpus": data.corpus}
        data = replace(data, instructions=study.jobs.add(QUESTIONS, profile.questions, inputs))
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
    bases = study.bases(trained)
    own = replace(
        trained,
        id=f"{trained.id}-base",
        label=f"Base of {arm.label}",
        words=f"trained on as many tokens in rows of {trained.profile.in_prompt_row_tokens:,}",
        mechanism="none",
        arm=None,
        models=bases,
        tuned=bases,
    )
    study.trained[own.id] = own
    study.read_text(own, "none")


def _same_data(profile: Profile, other: Profile) -> bool:
    """Whether two profiles ask for equal data, up to the number of instructions."""
    if _questions_asked(profile) != _questions_asked(other):
        return False
    return all(getattr(profile, name) == getattr(other, name) for name in DATA_FIELDS)


def _questions_asked(profile: Profile) -> QuestionsConfig:
    """The settings of the questions alone: instructions are made with them, and may be more."""
    return profile.questions.model_copy(update={"instructions": None})


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
