"""A short calibration: how fast this machine trains and evaluates at a profile's sizes.

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
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from chunkwise.core.errors import ChunkwiseError
from chunkwise.core.io import write_jsonl
from chunkwise.core.progress import display
from chunkwise.core.store import Store
from chunkwise.corpus.stages import SEQUENCES
from chunkwise.evaluation.stages import PERPLEXITY, QA
from chunkwise.graph.jobs import Job, Jobs
from chunkwise.graph.schedule import Schedule
from chunkwise.graph.workers import Workers
from chunkwise.lab.profile import Profile
from chunkwise.lab.study.cost import Costs, costs_of
from chunkwise.lab.study.data import Data, prepare, tokenizer_config
from chunkwise.neighbours.stages import NEIGHBOURS
from chunkwise.training.config import AdoptedBase
from chunkwise.training.stages import ADOPTED_BASE, BASE, IN_PROMPT, INSTRUCT, RETROFIT, TWIN

SHORT_STEPS, LONG_STEPS = 2, 7
SHORT_BATCHES, LONG_BATCHES = 1, 3
DOCUMENTS, BODY_WORDS = 480, 120


def calibrate(profile: Profile, workers: int, to_do: Iterable[Job]) -> tuple[Costs, str]:
    """Measure the rates that a study's jobs need.

    Args:
        to_do: the study's jobs; only their stages are measured.

    Returns:
        (costs of the study with measured rates, a sentence on how they were measured).
    """
    started = time.monotonic()
    stages = {job.stage.name for job in to_do}
    costs = costs_of(profile)
    with tempfile.TemporaryDirectory(prefix="chunkwise-calibration-") as folder:
        _write_text(Path(folder))
        jobs, probes = _probes(profile, Path(folder), workers, stages)
        schedule = Schedule(jobs, costs, workers, quiet=True)  # which tells the costs what it finds
        with display(), Workers(workers, Store(Path(folder) / "store"), threads=1) as pool:
            schedule.run(pool, jobs)
        if schedule.failures:
            raise ChunkwiseError(
                f"the calibration failed: {next(iter(schedule.failures.values()))}",
                hint="the study would fail alike; run without --dry-run to see where",
            )
        rates: dict[str, list[float]] = {}
        for short, long, text in probes:
            artefacts = [schedule.artefacts[job.id] for job in (short, long)]
            seconds = max(1e-3, artefacts[1].record.seconds - artefacts[0].record.seconds)
            at = [costs, costs]
            if text:  # evaluations read as much as their own text holds
                at = [
                    replace(costs, text_tokens=schedule.artefacts[source.id].counts["tokens"])
                    for source in text
                ]
            known = rates.setdefault(short.stage.name, [0.0, 0.0])
            known[0] += at[1].work(long) - at[0].work(short)
            known[1] += seconds
    decoder = costs.decoder
    costs = costs_of(profile)
    costs.decoder = decoder
    costs.rates = {stage: known for stage, known in rates.items() if known[0] > 0}
    measured = ", ".join(costs.rates)
    return costs, (
        f"{measured} were run at this profile's sizes on made-up text, on {workers} workers at "
        "once, for "
        f"{SHORT_STEPS} and {LONG_STEPS} steps (or {SHORT_BATCHES} and {LONG_BATCHES} batches); "
        "the difference gives "
        f"the rate. It took {time.monotonic() - started:.0f} s."
    )


Probe = tuple[Job, Job, tuple[Job, Job] | None]
"""A short job, a long one, and for evaluations the texts that they read."""


def _probes(
    profile: Profile, folder: Path, workers: int, stages: set[str]
) -> tuple[Jobs, list[Probe]]:
    """What is run: data once, and for each worker every training and evaluation twice."""
    small = _miniature(profile, folder)
    asks = bool(stages & {"qa", "instruct"})
    jobs = Jobs()
    data = prepare(jobs, small, questions=asks)
    probes: list[Probe] = []
    for worker in range(workers):
        base = _base(jobs, small, data, worker)
        if "base" in stages and small.base is not None:
            probes.append((base, _longer(jobs, base), None))
        plain = {"base": base, "sequences": data.text}
        read = plain | {"neighbours": data.text_neighbours, "datastore": data.datastore}
        retrofit = jobs.add(RETROFIT, small.retrofit_config(), read, seed=worker)
        trainings = [retrofit, jobs.add(TWIN, small.twin_config(), plain, seed=worker)]
        if "in-prompt" in stages:
            trainings.append(jobs.add(IN_PROMPT, small.in_prompt_config(), read, seed=worker))
        tuning = small.instruct_config()
        if "instruct" in stages and tuning is not None:
            inputs = {"model": retrofit, "instructions": data.questions, "tokens": data.tokens}
            trainings.append(
                jobs.add(INSTRUCT, tuning, inputs | {"datastore": data.datastore}, seed=worker)
            )
        probes += [(job, _longer(jobs, job), None) for job in trainings if job.stage.name in stages]
        if "perplexity" in stages:
            probes.append(_text_probe(jobs, small, data, retrofit))
        if "qa" in stages:
            probes.append(_question_probe(jobs, small, data, retrofit))
    return jobs, probes


def _base(jobs: Jobs, small: Profile, data: Data, worker: int) -> Job:
    if small.base is None:
        return jobs.add(
            ADOPTED_BASE, AdoptedBase(name=str(small.pretrained)), {"tokens": data.tokens}
        )
    return jobs.add(BASE, small.base, {"sequences": data.text}, seed=worker)


def _longer(jobs: Jobs, job: Job) -> Job:
    """The same training for more steps."""
    config = job.config.model_copy(
        update={
            "train": job.config.train.model_copy(
                update={"steps": LONG_STEPS, "log_steps": LONG_STEPS}
            )
        }
    )
    inputs = {name: jobs[needed] for name, needed in job.inputs.items()}
    return jobs.add(job.stage, config, inputs, seed=job.replicate)


def _text_probe(jobs: Jobs, small: Profile, data: Data, model: Job) -> Probe:
    texts, pair = [], []
    for batches in (SHORT_BATCHES, LONG_BATCHES):
        tokens = batches * small.perplexity.batch_rows * small.evaluation_text.sequence_tokens
        text = jobs.add(
            SEQUENCES,
            small.evaluation_text.model_copy(update={"max_tokens": tokens}),
            {"tokens": data.tokens},
        )
        table = jobs.add(
            NEIGHBOURS, small.neighbours, {"datastore": data.datastore, "sequences": text}
        )
        config = small.perplexity.model_copy(
            update={"k": small.retrofit.retro.neighbours, "overlap_neighbours": 0}
        )
        inputs = {
            "model": model,
            "sequences": text,
            "neighbours": table,
            "datastore": data.datastore,
        }
        pair.append(jobs.add(PERPLEXITY, config, inputs))
        texts.append(text)
    return pair[0], pair[1], (texts[0], texts[1])


def _question_probe(jobs: Jobs, small: Profile, data: Data, model: Job) -> Probe:
    inputs = {
        "model": model,
        "questions": data.questions,
        "question_neighbours": data.question_neighbours,
    }
    inputs |= {"datastore": data.datastore, "tokens": data.tokens}
    pair = []
    for batches in (SHORT_BATCHES, LONG_BATCHES):
        config = small.qa.model_copy(
            update={
                "n_questions": batches * small.qa.batch_questions,
                "k": small.retrofit.retro.neighbours,
                "n_generate": 0,
            }
        )
        pair.append(jobs.add(QA, config, inputs))
    return pair[0], pair[1], None


# --- the miniature --------------------------------------------------------------------------------


def _miniature(profile: Profile, folder: Path) -> Profile:
    """The profile with made-up text and few steps; all sizes of models, rows and batches stay."""
    row = profile.training_text.sequence_tokens
    batch = profile.retrofit.train.batch_sequences
    changes = {
        "corpus": {
            "sources": [{"kind": "jsonl", "path": str(folder / "text.jsonl")}],
            "near_duplicate_jaccard": None,
            "decontaminate_jaccard": None,
            "valid_fraction": 0.3,
            "held_fraction": 0.35,
        },
        "tokenizer": tokenizer_config(profile).model_dump(mode="json"),
        "training_text.max_tokens": LONG_STEPS * batch * row,
        "evaluation_text.max_tokens": 8 * row,
        "questions.questions": LONG_BATCHES * profile.qa.batch_questions,
        "questions.min_questions": 1,
        "questions.instructions": 200,
        "datastore.splits": ["train", "held"],
        "view": {},
        "replicates": 1,
        "retrofit.made_neighbours.share": 0.0,  # a curriculum is longer than these few steps
    }
    for section in ("base", "retrofit", "instruct"):
        if getattr(profile, section) is not None:
            train = {
                "steps": SHORT_STEPS,
                "tokens": None,
                "warmup_steps": 0,
                "validation_sequences": 0,
            }
            train |= {"checkpoint_steps": None, "log_steps": SHORT_STEPS}
            changes |= {f"{section}.train.{name}": value for name, value in train.items()}
    changed = profile.changed(
        {path: value for path, value in changes.items() if "train." not in path}
    )
    values = changed.model_dump(
        mode="json"
    )  # steps and tokens exclude each other, so they must change together
    for path, value in changes.items():
        if "train." in path:
            section, _, name = path.split(".")
            values[section]["train"][name] = value
    return Profile.parse(values, where=f"profile {profile.name} in miniature")


def _write_text(folder: Path) -> None:
    """Documents of made-up words, in the form that questions are made from; enough pairs for any
    small vocabulary.
    """
    draw = random.Random(0)

    def word() -> str:
        return "".join(
            draw.choice("bcdfghjklmnpqrstvwxz") + draw.choice("aeiou")
            for _ in range(draw.randint(2, 5))
        )

    common = [word() for _ in range(3000)]
    rows = []
    for number in range(DOCUMENTS):
        answer = " ".join(word() for _ in range(8))
        body = " ".join(draw.choice(common) for _ in range(BODY_WORDS)).capitalize()
        text = f"function made.part{number}.{word()}(x)\n    Gives {answer}.\n    {body}.\n"
        rows.append({"id": f"made/part{number}.py#docstrings", "text": text})
    write_jsonl(folder / "text.jsonl", rows)
