"""A short calibration (`--dry-run --measure`): how fast this machine trains and evaluates at a
profile's sizes.

The profile is run in miniature by the real stages: made-up words in place of its corpus, its own
model, batch and row lengths. Everything is run twice, short and long, and the rate is read off the
difference, which is free of loading and of first-time costs. All workers do it at once, since cores
that share memory slow each other down.

Cost: about a minute for the laptop profile, most of it imports and first calls.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from chunkwise.core.errors import ChunkwiseError
from chunkwise.core.io import write_jsonl
from chunkwise.core.progress import display
from chunkwise.core.store import Artefact, Store
from chunkwise.corpus.stages import SEQUENCES
from chunkwise.evaluation.stages import PERPLEXITY, QA
from chunkwise.graph.jobs import Job, Jobs
from chunkwise.graph.schedule import Schedule
from chunkwise.graph.workers import Workers
from chunkwise.lab.profile import Profile
from chunkwise.lab.study.cost import TRAININGS, Costs, costs_of, counted
from chunkwise.lab.study.data import Data, prepare, tokenizer_config
from chunkwise.neighbours.stages import NEIGHBOURS
from chunkwise.training.config import AdoptedBase
from chunkwise.training.stages import ADOPTED_BASE, BASE, IN_PROMPT, INSTRUCT, RETROFIT, TWIN

SHORT_STEPS, LONG_STEPS = 2, 7
SHORT_BATCHES, LONG_BATCHES = 1, 3
DOCUMENTS, BODY_WORDS = 480, 120


Probe = tuple[Job, Job]
"""A short job and a long one of one stage, which differ in nothing else."""


def calibrate(
    profile: Profile, workers: int, study_jobs: Jobs, to_do: Iterable[Job]
) -> tuple[Costs, str]:
    """Measure the rates that a study's jobs need.

    Args:
        study_jobs: all of the study.
        to_do: those that are not in the store; only their stages are measured.

    Returns:
        (costs of the study with measured rates, a sentence on how they were measured).
    """
    started = time.monotonic()
    stages = {job.stage.name for job in to_do}
    with tempfile.TemporaryDirectory(prefix="chunkwise-calibration-") as name:
        folder = Path(name)
        _write_text(folder)
        jobs, probes = _probes(profile, folder, workers, stages)
        miniature_costs = costs_of(profile, jobs)
        schedule = Schedule(jobs, miniature_costs, workers, quiet=True)
        with display(), Workers(workers, Store(folder / "store"), threads=1) as pool:
            schedule.run(pool, jobs)
        if schedule.failures:
            raise ChunkwiseError(
                f"the calibration failed: {next(iter(schedule.failures.values()))}",
                hint="the study would fail alike; run without --dry-run to see where",
            )
        rates = _rates(probes, miniature_costs, schedule.artefacts)
    # Rates hold for the study, and the sizes of a decoder that it adopts; those of the made-up text
    # do not.
    costs = costs_of(profile, study_jobs)
    if profile.base is None:
        costs.decoder = miniature_costs.decoder
    costs.rates = rates
    return costs, (
        f"{', '.join(rates)} were run at this profile's sizes on made-up text, on {workers} "
        f"workers at once, for {SHORT_STEPS} and {LONG_STEPS} steps (or {SHORT_BATCHES} and "
        f"{LONG_BATCHES} batches); the difference gives the rate. "
        f"It took {time.monotonic() - started:.0f} s."
    )


def _rates(
    probes: Iterable[Probe], costs: Costs, artefacts: Mapping[str, Artefact]
) -> dict[str, tuple[float, float]]:
    """Stage -> (work, seconds) by which its long jobs exceed its short ones, over all workers."""
    rates: dict[str, tuple[float, float]] = {}
    for short, long in probes:
        stage = short.stage.name
        work, seconds = rates.get(stage, (0.0, 0.0))
        work += _work(long, costs, artefacts) - _work(short, costs, artefacts)
        # Where the jobs are tiny, noise can make the long one the faster of the two.
        difference = artefacts[long.id].record.seconds - artefacts[short.id].record.seconds
        rates[stage] = (work, seconds + max(1e-3, difference))
    return {stage: rate for stage, rate in rates.items() if rate[0] > 0}


def _work(job: Job, costs: Costs, artefacts: Mapping[str, Artefact]) -> float:
    if job.stage.name == "perplexity":  # it reads as much as its own text holds
        text = costs.texts["evaluation"]
        for stage in ("sequences", "neighbours"):
            text = counted(text, stage, artefacts[job.inputs[stage]].counts)
        costs = replace(costs, texts=costs.texts | {"evaluation": text})
    return costs.work(job)


def _probes(
    profile: Profile, folder: Path, workers: int, stages: set[str]
) -> tuple[Jobs, list[Probe]]:
    """The jobs of a calibration: data once, and each training and evaluation twice per worker."""
    small = _miniature(profile, folder)
    tuning = small.instruct_config()
    jobs = Jobs()
    data = prepare(jobs, small, questions=not stages.isdisjoint({"qa", "instruct"}))
    probes: list[Probe] = []
    for worker in range(workers):
        base = _base(jobs, small, data, worker)
        plain = {"base": base, "sequences": data.text}
        read = plain | {"neighbours": data.text_neighbours, "datastore": data.datastore}
        # In any case, even where the store has the study's own: evaluations need a model.
        retrofit = jobs.add(RETROFIT, small.retrofit_config(), read, seed=worker)
        trainings = [base, retrofit, jobs.add(TWIN, small.twin_config(), plain, seed=worker)]
        if "in-prompt" in stages:
            trainings.append(jobs.add(IN_PROMPT, small.in_prompt_config(), read, seed=worker))
        if "instruct" in stages and tuning is not None:
            inputs = {"model": retrofit, "instructions": data.questions, "tokens": data.tokens}
            inputs["datastore"] = data.datastore
            trainings.append(jobs.add(INSTRUCT, tuning, inputs, seed=worker))
        # An adopted base is no training, and has no steps that could be more.
        timed = stages.intersection(TRAININGS)
        probes += [(job, _longer(jobs, job)) for job in trainings if job.stage.name in timed]
        for stage, evaluate in (("perplexity", _reading), ("qa", _answering)):
            if stage in stages:
                short = evaluate(jobs, small, data, retrofit, SHORT_BATCHES)
                long = evaluate(jobs, small, data, retrofit, LONG_BATCHES)
                probes.append((short, long))
    return jobs, probes


def _base(jobs: Jobs, small: Profile, data: Data, worker: int) -> Job:
    if small.base is None:
        adopted = AdoptedBase(name=str(small.pretrained))
        return jobs.add(ADOPTED_BASE, adopted, {"tokens": data.tokens})
    return jobs.add(BASE, small.base, {"sequences": data.text}, seed=worker)


def _longer(jobs: Jobs, job: Job) -> Job:
    """The same training for more steps."""
    train = job.config.train.model_copy(update={"steps": LONG_STEPS, "log_steps": LONG_STEPS})
    inputs = {name: jobs[needed] for name, needed in job.inputs.items()}
    config = job.config.model_copy(update={"train": train})
    return jobs.add(job.stage, config, inputs, seed=job.replicate)


def _reading(jobs: Jobs, small: Profile, data: Data, model: Job, batches: int) -> Job:
    """An evaluation of perplexity on text of so many batches."""
    rows = batches * small.perplexity.batch_rows
    tokens = rows * small.evaluation_text.sequence_tokens
    text_config = small.evaluation_text.model_copy(update={"max_tokens": tokens})
    text = jobs.add(SEQUENCES, text_config, {"tokens": data.tokens})
    inputs = {"datastore": data.datastore, "sequences": text}
    inputs["neighbours"] = jobs.add(NEIGHBOURS, small.neighbours, inputs)
    config = small.perplexity.model_copy(
        update={"k": small.retrofit.retro.neighbours, "overlap_neighbours": 0}
    )
    return jobs.add(PERPLEXITY, config, inputs | {"model": model})


def _answering(jobs: Jobs, small: Profile, data: Data, model: Job, batches: int) -> Job:
    """An evaluation on so many batches of questions; nothing is written."""
    inputs = {"model": model, "questions": data.questions, "tokens": data.tokens}
    inputs |= {"question_neighbours": data.question_neighbours, "datastore": data.datastore}
    changes = {
        "n_questions": batches * small.qa.batch_questions,
        "k": small.retrofit.retro.neighbours,
        "n_generate": 0,
    }
    return jobs.add(QA, small.qa.model_copy(update=changes), inputs)


# --- the miniature --------------------------------------------------------------------------------


def _miniature(profile: Profile, folder: Path) -> Profile:
    """The profile with made-up text and few steps; all sizes of models, rows and batches stay."""
    # Text for the longest of the probes and no more, so that preparing it takes seconds.
    row = profile.training_text.sequence_tokens
    batch = profile.retrofit.train.batch_sequences
    changed = profile.changed(
        {
            "corpus": {
                "sources": [{"kind": "jsonl", "path": str(folder / "text.jsonl")}],
                "near_duplicate_jaccard": None,
                "decontamination": "none",
                "valid_fraction": 0.3,
                "held_fraction": 0.35,
            },
            "tokenizer": tokenizer_config(profile).model_dump(mode="json"),
            "training_text.max_tokens": LONG_STEPS * batch * row,
            "evaluation_text.max_tokens": 8 * row,
            # All of the made-up text is of one package.
            "training_text.max_package_share": None,
            "evaluation_text.max_package_share": None,
            "questions.max_package_share": 1.0,
            "questions.questions": LONG_BATCHES * profile.qa.batch_questions,
            "questions.min_questions": 1,
            "questions.instructions": 200,
            "question_file": None,
            "datastore.splits": ["train", "held"],
            "view": {},
            "replicates": 1,
            "retrofit.made_neighbours.share": 0.0,  # a curriculum is longer than these few steps
        }
    )
    train = {
        "steps": SHORT_STEPS,
        "tokens": None,
        "warmup_steps": 0,
        "validation_sequences": 0,
        "checkpoint_steps": None,
        "log_steps": SHORT_STEPS,
    }
    values = changed.model_dump(mode="json")
    for section in ("base", "retrofit", "instruct"):
        if values[section] is not None:
            # Not by `changed`, a field at a time: steps and tokens exclude each other.
            values[section]["train"] |= train
    return Profile.parse(values, where=f"profile {profile.name} in miniature")


def _write_text(folder: Path) -> None:
    """Documents of made-up words, in the form that questions are made from; enough pairs for any
    small vocabulary.
    """
    # Seeded: every calibration of a profile does the same work.
    draw = random.Random(0)

    def word() -> str:
        return "".join(
            draw.choice("bcdfghjklmnpqrstvwxz") + draw.choice("aeiou")
            for _ in range(draw.randint(2, 5))
        )

    # Bodies share their words as text does; names and answers stand once, as questions need it.
    common = [word() for _ in range(3000)]
    rows = []
    for number in range(DOCUMENTS):
        answer = " ".join(word() for _ in range(8))
        body = " ".join(draw.choice(common) for _ in range(BODY_WORDS)).capitalize()
        text = f"function made.part{number}.{word()}(x)\n    Gives {answer}.\n    {body}.\n"
        rows.append({"id": f"made/part{number}.py#docstrings", "text": text})
    write_jsonl(folder / "text.jsonl", rows)
