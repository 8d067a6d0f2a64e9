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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
DOCUMENTS, BODY_WORDS, COMMON_WORDS = 480, 120, 3000


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
    seconds = time.monotonic() - started
    return costs, (
        f"{', '.join(rates)} were run at this profile's sizes on made-up text, on {workers} "
        f"workers at once, for {SHORT_STEPS} and {LONG_STEPS} steps (or {SHORT_BATCHES} and "
        f"{LONG_BATCHES} batches); the difference gives the rate. It took {seconds:.0f} s."
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
    jobs = Jobs()
    data = prepare(jobs, small, questions=not stages.isdisjoint({"qa", "instruct"}))
    miniature = _Miniature(jobs, small, data)
    probes: list[Probe] = []
    for worker in range(workers):
        # In any case, even where the store has the study's own: evaluations need a model.
        base = miniature.base(worker)
        retrofit = miniature.retrofit(base, worker)
        # An adopted base is no training, and has no steps that could be more.
        timed = stages.intersection(TRAININGS)
        for job in (base, retrofit, *miniature.other_trainings(base, retrofit, stages, worker)):
            if job.stage.name in timed:
                probes.append((job, miniature.longer(job)))
        if "perplexity" in stages:
            short = miniature.perplexity(retrofit, SHORT_BATCHES)
            probes.append((short, miniature.perplexity(retrofit, LONG_BATCHES)))
        if "qa" in stages:
            short = miniature.questions(retrofit, SHORT_BATCHES)
            probes.append((short, miniature.questions(retrofit, LONG_BATCHES)))
    return jobs, probes


@dataclass(frozen=True)
class _Miniature:
    """The jobs of a profile in miniature, by stage."""

    jobs: Jobs
    profile: Profile
    data: Data

    def base(self, worker: int) -> Job:
        if self.profile.base is None:
            adopted = AdoptedBase(name=str(self.profile.pretrained))
            return self.jobs.add(ADOPTED_BASE, adopted, {"tokens": self.data.tokens})
        return self.jobs.add(BASE, self.profile.base, {"sequences": self.data.text}, seed=worker)

    def _rows(self, base: Job) -> dict[str, Job]:
        """What a training on rows with neighbours reads."""
        return {
            "base": base,
            "sequences": self.data.text,
            "neighbours": self.data.text_neighbours,
            "datastore": self.data.datastore,
        }

    def retrofit(self, base: Job, worker: int) -> Job:
        return self.jobs.add(
            RETROFIT, self.profile.retrofit_config(), self._rows(base), seed=worker
        )

    def other_trainings(
        self, base: Job, retrofit: Job, stages: set[str], worker: int
    ) -> Iterator[Job]:
        """The twin, and what else the study trains."""
        profile, data = self.profile, self.data
        plain = {"base": base, "sequences": data.text}
        yield self.jobs.add(TWIN, profile.twin_config(), plain, seed=worker)
        if "in-prompt" in stages:
            config = profile.in_prompt_config()
            yield self.jobs.add(IN_PROMPT, config, self._rows(base), seed=worker)
        tuning = profile.instruct_config()
        if "instruct" in stages and tuning is not None:
            inputs = {
                "model": retrofit,
                "instructions": data.questions,
                "tokens": data.tokens,
                "datastore": data.datastore,
            }
            yield self.jobs.add(INSTRUCT, tuning, inputs, seed=worker)

    def longer(self, job: Job) -> Job:
        """The same training for more steps."""
        train = job.config.train.model_copy(update={"steps": LONG_STEPS, "log_steps": LONG_STEPS})
        inputs = {name: self.jobs[job_id] for name, job_id in job.inputs.items()}
        config = job.config.model_copy(update={"train": train})
        return self.jobs.add(job.stage, config, inputs, seed=job.replicate)

    def perplexity(self, model: Job, batches: int) -> Job:
        """An evaluation of perplexity on text of so many batches."""
        profile, data = self.profile, self.data
        rows = batches * profile.perplexity.batch_rows
        tokens = rows * profile.evaluation_text.sequence_tokens
        text_config = profile.evaluation_text.model_copy(update={"max_tokens": tokens})
        text = self.jobs.add(SEQUENCES, text_config, {"tokens": data.tokens})
        inputs = {"datastore": data.datastore, "sequences": text}
        inputs["neighbours"] = self.jobs.add(NEIGHBOURS, profile.neighbours, inputs)
        inputs["model"] = model
        changes = {"k": profile.retrofit.retro.neighbours, "overlap_neighbours": 0}
        return self.jobs.add(PERPLEXITY, profile.perplexity.model_copy(update=changes), inputs)

    def questions(self, model: Job, batches: int) -> Job:
        """An evaluation on so many batches of questions; nothing is written."""
        profile = self.profile
        changes = {
            "n_questions": batches * profile.qa.batch_questions,
            "k": profile.retrofit.retro.neighbours,
            "n_generate": 0,
        }
        inputs = {"model": model, **self.data.question_inputs}
        return self.jobs.add(QA, profile.qa.model_copy(update=changes), inputs)


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
        syllables = []
        for _ in range(draw.randint(2, 5)):
            syllables.append(draw.choice("bcdfghjklmnpqrstvwxz") + draw.choice("aeiou"))
        return "".join(syllables)

    # Bodies share their words as text does; names and answers stand once, as questions need it.
    common = [word() for _ in range(COMMON_WORDS)]
    rows = []
    for number in range(DOCUMENTS):
        answer = " ".join(word() for _ in range(8))
        body = " ".join(draw.choice(common) for _ in range(BODY_WORDS)).capitalize()
        text = f"function made.part{number}.{word()}(x)\n    Gives {answer}.\n    {body}.\n"
        rows.append({"id": f"made/part{number}.py#docstrings", "text": text})
    write_jsonl(folder / "text.jsonl", rows)
