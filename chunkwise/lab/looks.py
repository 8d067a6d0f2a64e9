"""What one look of a study sees, and how far a study that looks several times has come.

A look decides by what was measured up to it alone, so what it decided can be said again from the
store: a run that resumes does so, and a dry run says what is left.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import ChunkwiseError, ConfigError, MismatchError
from chunkwise.core.store import Store
from chunkwise.lab.measure.analysis import analyse
from chunkwise.lab.measure.collect import collect
from chunkwise.lab.measure.contrast import Contrast, goes_on, open_questions
from chunkwise.lab.measure.outcome import Outcome
from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.plan import mark_infeasible
from chunkwise.lab.resolve.resolution import Resolution
from chunkwise.lab.study.asked import Asked
from chunkwise.lab.study.planning import plan_study
from chunkwise.lab.study.stops import Taken
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import RETRO, retro_neighbours
from chunkwise.lab.terms import FULL, Comparison, Look


def looks_taken(asked: Asked, store: Store) -> Taken:
    """How far a study has come, by what is in the store; nothing is built.

    A look counts as taken once all of its jobs are stored. One that was taken although a job failed
    does not: the run would try that job again.
    """
    profile = asked.profile
    looks = list(profile.planned_looks())
    taken = Taken(resolution=asked.resolution)
    contrasts: Sequence[Contrast] = ()
    for number, look in enumerate(looks, start=1):
        assert taken.resolution is not None
        study = plan_study(profile.at_look(look), taken.resolution, taken.stops)
        artefacts = study.jobs.stored(store)
        if not {job.id for job in study.data_jobs()} <= artefacts.keys():
            break
        # As in the run: arms that the data cannot serve have no jobs to wait for.
        resolution = check_views(study, artefacts, {}, looks[-1].replicates)
        if resolution != study.resolution:
            study = plan_study(study.profile, resolution, taken.stops)
        if not study.jobs.by_id.keys() <= artefacts.keys():
            break
        # From here on as in the run, whose report it would be.
        outcome = Outcome(study, artefacts, {})
        results = collected(asked, outcome, looks, number, command="")
        contrasts = analyse(results, functools.cache(outcome.examples), None, contrasts).contrasts
        unsettled = tuple(open_questions(contrasts))
        looks[number - 1] = look.model_copy(update={"open": unsettled})
        stops = study.stops_after(going_on(study, contrasts))
        taken = Taken(number, unsettled, stops, resolution)
        if not unsettled:
            break
    return taken


def collected(
    asked: Asked, outcome: Outcome, looks: Sequence[Look], number: int, command: str
) -> StudyResults:
    """Everything that was measured up to a look.

    Args:
        looks: all that are planned.
        number: of this one, from 1.
        command: what a reader types to run the study again.
    """
    results = collect(
        outcome,
        asked.document,
        plan_text=asked.plan_text,
        profile_text=_profile_text(asked.profile),
        command=command,
    )
    if len(looks) == 1:
        return results
    return results.model_copy(update={"looks": tuple(looks), "look": number})


def _profile_text(profile: Profile) -> str:
    """The profile as YAML, without what is the default."""
    values = profile.model_dump(mode="json", exclude_defaults=True)
    if profile.paper and "paper" in values:
        # A file by its name alone: a report must not tell the folders of its machine.
        values["paper"] = Path(profile.paper).name
    return yaml.safe_dump(values, sort_keys=False)


def going_on(study: Study, contrasts: Sequence[Contrast]) -> list[Comparison]:
    """The comparisons that get more replicates at the next look."""
    return [comparison for comparison in study.comparisons if goes_on(comparison, contrasts)]


def check_views(
    study: Study,
    artefacts: Mapping[str, Artefact],
    failures: Mapping[str, ChunkwiseError],
    replicates: int,
) -> Resolution:
    """The resolution without the views that the datastore or the neighbour tables cannot serve.

    A view needs enough chunks, its quota within 1 %, and k neighbours for 99 % of the queries, in
    every replicate.

    Raises:
        ChunkwiseError: the baseline's own view cannot be served, or its data could not be made.
    """
    from chunkwise.datastore.reader import Datastore
    from chunkwise.datastore.views import check_view_serves, members
    from chunkwise.neighbours.table import NeighbourTable

    profile, data = study.profile, study.trained[RETRO].data
    k = retro_neighbours(profile)
    # Each table with the neighbours that every query must get.
    needs = [(data.evaluation_neighbours, k)]
    if data.question_neighbours is not None:
        needs.append((data.question_neighbours, max(k, profile.qa.passages)))
    needs.append((data.text_neighbours, k))
    # The training's table is needed in any case: without it there is no baseline.
    if not {data.datastore.id, *(job.id for job, _ in needs)} <= artefacts.keys():
        raise next(iter(failures.values()))
    if profile.size_experiment != "retrain":
        needs.pop()  # no training reads any other view than the baseline's
    datastore = artefacts[data.datastore.id]
    documents = Datastore.open(datastore).documents
    tables = []
    for job, neighbours in needs:
        tables.append((NeighbourTable.open(artefacts[job.id], datastore), neighbours))
    problems: dict[str, str] = {}
    for view_id, view in study.views.items():
        try:
            for replicate in range(replicates):
                inside = members(view, documents, replicate)
                check_view_serves(view, inside, documents, k)
                for table, neighbours in tables:
                    table.select(inside, neighbours, complete=view.searched_itself)
        except (ConfigError, MismatchError) as error:
            if view_id == FULL:  # without the baseline nothing can be compared
                raise
            problems[view_id] = f"{error}. {error.hint or ''}".rstrip(" .")
    return mark_infeasible(study.resolution, problems) if problems else study.resolution
