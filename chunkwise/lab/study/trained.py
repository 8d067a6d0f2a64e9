"""What a study trains, and what it measures of that, as values.

Each name below is the id of an arm that every study has, whatever its plan asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chunkwise.datastore.config import ViewConfig
from chunkwise.graph.jobs import Job
from chunkwise.lab.profile import Profile
from chunkwise.lab.study.data import Data
from chunkwise.lab.terms import Arm, Selector

Evidence = Literal["found", "placebo", "own"]
Experiment = Literal["swap", "retrain", "arm"]

CHOICE_METRICS = ("reading_accuracy", "found_and_copied", "yes_no_accuracy", "choice_accuracy")
WRITTEN_METRICS = ("exact_match", "f1")
QUESTION_METRICS = (*CHOICE_METRICS, *WRITTEN_METRICS, "answer_nll")

# Trained in every study, or what all trainings start from.
RETRO = "retro"
TWIN = "twin"
BASE = "base"

# Without a training of their own: the same models read placebo passages, or the passage that holds
# the answer, or are asked before their tuning, or there is no model at all.
PLACEBO = "placebo"
OWN_PASSAGE = "own-passage"
TWIN_PLACEBO = "twin-placebo"
UNTUNED = "untuned"
WORDS = "bag-of-words"
WORDS_PLACEBO = "bag-of-words-placebo"


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


def mechanism_of(profile: Profile) -> str:
    """How an arm reads neighbours; a retrofit with 0 of them has nothing to read: it is the
    twin.
    """
    # A wider twin reads none either, and is another model than the twin.
    if profile.mechanism == "wider" or profile.retrofit.retro.neighbours:
        return profile.mechanism
    return "none"


def natural(profile: Profile) -> tuple[str, str]:
    """How an arm is read: condition for text, cell for questions."""
    has_passages = bool(profile.qa.passages)
    without_encoder = "prompt" if has_passages else "closed"
    mechanism = mechanism_of(profile)
    if mechanism == "in_prompt":
        return "in_prompt", without_encoder
    if mechanism != "cross-attention":
        return "none", without_encoder
    if not profile.neighbours_read:
        return "off", without_encoder
    # A control reads the kind of neighbours that it was trained with.
    source = profile.retrofit.neighbour_source
    condition = "on" if source == "found" else source
    return condition, "both" if has_passages else "encoder"


def retro_neighbours(profile: Profile) -> int:
    """k of the baseline, where a table must serve one neighbour at least."""
    return max(1, profile.retrofit.retro.neighbours)
