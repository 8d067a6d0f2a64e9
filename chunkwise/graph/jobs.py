"""A job is one call of one stage: what a study is made of, and what a worker is handed.

Jobs refer to each other by id. An id is a digest of stage, settings, seed and the ids of the
inputs, so two arms that ask for the same thing ask for one job. (The store's key is finer: it holds
the *contents* of the inputs, which are known only once they are built. Jobs of equal id have equal
keys; two ids may still meet in one key.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.config import Config
from chunkwise.core.io import canonical_json, digest_bytes
from chunkwise.core.store import Store
from chunkwise.graph.stage import Stage


@dataclass(frozen=True)
class Job:
    """One call of one stage.

    Attributes:
        config: of the stage's own class.
        inputs: input name of the stage -> id of the job that makes it.
        replicate: the seed of a seeded stage; else for display.
        arm, detail: who asked first, and for which evaluation; for display and logs.
    """

    id: str
    stage: Stage
    config: Any
    inputs: Mapping[str, str]
    replicate: int | None = None
    arm: str = ""
    detail: str = ""

    @property
    def title(self) -> str:
        """ "perplexity, retro, oracle, replicate 2"."""
        parts = [self.stage.name, self.arm, self.detail]
        if self.replicate is not None:
            parts.append(f"replicate {self.replicate}")
        return ", ".join(filter(None, parts))

    @property
    def seed(self) -> int | None:
        """What the stage takes as its seed."""
        return self.replicate if self.stage.seeded else None

    def find(self, artefacts: Mapping[str, Artefact], store: Store) -> Artefact | None:
        """What is stored of this job, or None.

        Args:
            artefacts: job id -> artefact, of all its inputs.
        """
        return store.find(self.stage, self.config, self.pick(artefacts), seed=self.seed)

    def pick(self, artefacts: Mapping[str, Artefact]) -> dict[str, Artefact]:
        """Input name -> artefact, out of artefacts by job id."""
        return {name: artefacts[job_id] for name, job_id in self.inputs.items()}

    def has_inputs(self, artefacts: Mapping[str, Artefact]) -> bool:
        """Whether all inputs are among artefacts by job id."""
        return all(job_id in artefacts for job_id in self.inputs.values())

    def perform(
        self, inputs: Mapping[str, Artefact], store: Store, *, threads: int = 1
    ) -> Artefact:
        """Call the stage; what is in the store already is returned from there.

        Args:
            inputs: input name -> artefact.
            threads: for stages that can use several; no part of any identity.
        """
        return store.get_or_build(self.stage, self.config, inputs, seed=self.seed, threads=threads)


@dataclass
class Jobs:
    """All jobs of a study, each once, inputs before the jobs that need them.

    Attributes:
        asked: stage name -> how often it was asked for; more than there are jobs where arms share.
    """

    by_id: dict[str, Job] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        stage: Stage,
        config: Config,
        inputs: Mapping[str, Job | None] | None = None,
        *,
        replicate: int | None = None,
        seed: int | None = None,
        arm: str = "",
        detail: str = "",
    ) -> Job:
        """The job of this identity, made when it is new.

        Args:
            replicate: for display, of stages that take no seed.
            seed: of seeded stages, and part of the identity.
        """
        input_ids = {}
        for name, job in (inputs or {}).items():
            if job is not None:
                input_ids[name] = job.id
        identity = {
            "stage": stage.name,
            "config": config.model_dump(mode="json"),
            "inputs": input_ids,
            "seed": seed,
        }
        # 64 bits are enough for the jobs of a study, and readable in a log
        digest = digest_bytes(canonical_json(identity).encode())
        job_id = digest[:16]
        self.asked[stage.name] += 1
        # the first arm that asks names the job: arm, detail and a display replicate are no identity
        number = replicate if seed is None else seed
        new = Job(job_id, stage, config, input_ids, number, arm, detail)
        return self.by_id.setdefault(job_id, new)

    @classmethod
    def union(cls, parts: Iterable[Jobs]) -> Jobs:
        """The jobs of several studies, each once, in the order of the studies."""
        jobs = cls()
        for part in parts:
            for job in part:
                jobs.by_id.setdefault(job.id, job)
            jobs.asked.update(part.asked)
        return jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(self.by_id.values())

    def __len__(self) -> int:
        return len(self.by_id)

    def __getitem__(self, job_id: str) -> Job:
        return self.by_id[job_id]

    @property
    def dependants(self) -> dict[str, list[str]]:
        """Id -> ids of the jobs that need it directly."""
        # the last jobs of a study have none, and are keys all the same
        dependants: dict[str, list[str]] = {}
        for job_id in self.by_id:
            dependants[job_id] = []
        for job in self:
            for needed in job.inputs.values():
                dependants[needed].append(job.id)
        return dependants

    def stored(self, store: Store) -> dict[str, Artefact]:
        """Job id -> artefact, of all jobs whose result is in the store. Nothing is built."""
        artefacts: dict[str, Artefact] = {}
        for job in self:
            # reading sources for a key is slow, and needless where nothing of their kind is stored
            folder = store.root / job.stage.kind
            if not job.inputs and not folder.is_dir():
                continue
            # without all its inputs a job has no key that could be looked up
            if not job.has_inputs(artefacts):
                continue
            artefact = job.find(artefacts, store)
            if artefact is not None:
                artefacts[job.id] = artefact
        return artefacts


def by_stage(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    """Jobs by the name of their stage, in the order in which stages first appear."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.stage.name, []).append(job)
    return groups
