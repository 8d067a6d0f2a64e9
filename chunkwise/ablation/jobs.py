"""A job is one call of one stage: what a study is made of, and what a worker is handed.

Jobs refer to each other by id. An id is a digest of stage, settings, replicate and the ids of the inputs, so two arms
that ask for the same thing ask for one job. (The store's key is finer: it holds the *contents* of the inputs, which are
known only once they are built. Jobs of equal id have equal keys; two ids may still meet in one key.)
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError, MachineError
from chunkwise.core.io import canonical_json, digest_bytes, write_json
from chunkwise.core.store import Artefact, Store
from chunkwise.datastore.config import ViewConfig

PACKAGED = "packaged"


class AdoptedBase(Config):
    """A base that is taken as it is: a folder, a hub name, or `packaged`."""

    name: str


class RebuildConfig(Config):
    """One view to be built physically and compared with its filtered form."""

    view: ViewConfig
    view_seed: int
    k: int


@dataclass(frozen=True)
class Job:
    """One call of one stage.

    Attributes:
        stage: a key of `CALLS`; the name under which progress counts it.
        config: of the stage.
        inputs: argument of the stage function -> id of the job that makes it.
        replicate: given to stages that take one.
        arm, detail: who asked first, and for which evaluation; for display and logs.
    """

    id: str
    stage: str
    config: Any  # a Config of the stage's own class
    inputs: Mapping[str, str]
    replicate: int | None = None
    arm: str = ""
    detail: str = ""

    @property
    def title(self) -> str:
        """ "perplexity, retro, oracle, replicate 2"."""
        replicate = "" if self.replicate is None else f"replicate {self.replicate}"
        return ", ".join(part for part in (self.stage, self.arm, self.detail, replicate) if part)


@dataclass
class Jobs:
    """All jobs of a study, each once, inputs before the jobs that need them.

    Attributes:
        asked: stage -> how often it was asked for; more than there are jobs where arms share.
    """

    by_id: dict[str, Job] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        stage: str,
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
            replicate: for display, and given to stages that take a seed as `replicate`.
            seed: the replicate where it is part of the identity; None for stages whose config holds their seeds.
        """
        known = {name: job.id for name, job in (inputs or {}).items() if job is not None}
        identity = {"stage": stage, "config": config.model_dump(mode="json"), "inputs": known, "seed": seed}
        job_id = digest_bytes(canonical_json(identity).encode())[:16]
        self.asked[stage] += 1
        if job_id not in self.by_id:
            shown = replicate if seed is None else seed
            self.by_id[job_id] = Job(job_id, stage, config, known, shown, arm, detail)
        return self.by_id[job_id]

    def __iter__(self) -> Iterator[Job]:
        return iter(self.by_id.values())

    def __len__(self) -> int:
        return len(self.by_id)

    def __getitem__(self, job_id: str) -> Job:
        return self.by_id[job_id]

    @property
    def dependants(self) -> dict[str, list[str]]:
        """Id -> ids of the jobs that need it directly."""
        found: dict[str, list[str]] = {job_id: [] for job_id in self.by_id}
        for job in self:
            for needed in job.inputs.values():
                found[needed].append(job.id)
        return found


# --- from a job to a call ----------------------------------------------------------------------------------------

CALLS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "corpus": ("corpus", "build_corpus", ()),
    "tokenizer": ("corpus", "train_tokenizer", ()),
    "tokens": ("corpus", "tokenize", ()),
    "sequences": ("corpus", "pack_sequences", ()),
    "questions": ("corpus", "make_questions", ()),
    "datastore": ("datastore", "build_datastore", ()),
    "neighbours": ("neighbours", "find_neighbours", ("threads",)),
    "question-neighbours": ("neighbours", "find_question_neighbours", ("threads",)),
    "base": ("training", "train_base", ("replicate",)),
    "retrofit": ("training", "train_retrofit", ("replicate",)),
    "twin": ("training", "train_twin", ("replicate",)),
    "in-prompt": ("training", "train_in_prompt", ("replicate",)),
    "instruct": ("training", "train_instruct", ("replicate",)),
    "perplexity": ("evaluation", "evaluate_perplexity", ()),
    "qa": ("evaluation", "evaluate_questions", ()),
    "bag-of-words": ("evaluation", "evaluate_bag_of_words", ()),
}
"""Stage -> (folder, function of its stage module, what it takes besides config, inputs and store)."""

TRAININGS = ("base", "retrofit", "twin", "in-prompt", "instruct")
EVALUATIONS = ("perplexity", "qa", "bag-of-words")


def perform(job: Job, inputs: Mapping[str, Artefact], store: Store, *, threads: int = 1) -> Artefact:
    """Call the stage of a job; what is in the store already is returned from there.

    Args:
        inputs: argument name -> artefact, as `job.inputs` names them.
        threads: for stages that can use several; no part of any identity.
    """
    if job.stage == "adopted-base":
        training = importlib.import_module("chunkwise.training.stage")
        return training.adopt_base(base_folder(job.config.name), inputs["tokens"], store)
    if job.stage == "rebuild-check":
        return _rebuild_check(job.config, inputs, store)
    if job.stage == "gate-off-check":
        return importlib.import_module("chunkwise.evaluation.stage").check_gate_off(store=store, **inputs)
    folder, function, takes = CALLS[job.stage]
    arguments: dict[str, Any] = dict(inputs)
    if "threads" in takes:
        arguments["threads"] = threads
    if "replicate" in takes:
        arguments["replicate"] = job.replicate
    stage = importlib.import_module(f"chunkwise.{folder}.stage")  # torch only where a stage needs it
    return getattr(stage, function)(job.config, store=store, **arguments)


class _NotStored(Exception):
    """The lookup's answer where a stage would have to build."""


class _Lookup(Store):
    """A store that finds and never builds."""

    def make(self, stage, version, params, inputs, build, *, seeds=None, **about_building) -> Artefact:
        found = self.find(stage, self.key(stage, version, params, inputs, seeds))
        if found is None:
            raise _NotStored
        return found


def find_stored(jobs: Jobs, store: Store) -> dict[str, Artefact]:
    """Job id -> artefact, for all jobs whose result is in the store."""
    lookup = _Lookup(store.root)
    found: dict[str, Artefact] = {}
    for job in jobs:
        if all(needed in found for needed in job.inputs.values()):
            try:
                found[job.id] = perform(job, {name: found[needed] for name, needed in job.inputs.items()}, lookup)
            except _NotStored:
                continue
    return found


# --- the two jobs that are no stage of their own folder ----------------------------------------------------------


def base_folder(name: str) -> Path:
    """The folder of a decoder: `packaged`, a path, or a hub name, which is downloaded.

    Raises:
        ConfigError: no packaged base in this installation, or nothing of this name. MachineError: no network.
    """
    if name == PACKAGED:
        folder = Path(str(resources.files("chunkwise") / "base"))
        if not (folder / "config.json").is_file():
            raise ConfigError(
                "pretrained: packaged asks for the base model that ships with the package, and this installation has "
                "none",
                hint="set `base` in the profile to train one in the run, or name a folder or a hub model",
            )
        return folder
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except Exception as error:  # the hub's errors are many, and all mean that the model is not there
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MachineError(
            f"pretrained: {name!r} is no folder here and could not be had from the hub: {first}",
            hint="check the name and the network, or download it and give its folder",
        ) from error


def _rebuild_check(config: RebuildConfig, inputs: Mapping[str, Artefact], store: Store) -> Artefact:
    """The view rebuilt as an index of its own, against the filtered table: an artefact with check.json."""
    neighbours, datastore = inputs["neighbours"], inputs["datastore"]

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        from chunkwise.datastore.stage import document_table, members
        from chunkwise.neighbours.stage import NeighbourTable, check_rebuild

        inside = members(config.view, document_table(datastore), config.view_seed)
        check = check_rebuild(NeighbourTable.open(neighbours, datastore), inside, config.k).as_dict()
        write_json(folder / "check.json", check)
        return json.loads(canonical_json(check))

    return store.make("rebuild-check", 1, config, {"neighbours": neighbours, "datastore": datastore}, build)
