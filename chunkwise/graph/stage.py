"""A stage is a value: what it is called, what it takes, and where the function is that builds it.

    RETROFIT = declare(Stage(
        name="retrofit",
        version=3,
        config=RetrofitConfig,
        inputs={"base": MODEL, "sequences": SEQUENCES, "validation": SEQUENCES.or_none()},
        resolve="chunkwise.training.resolve:retrofit",
        build="chunkwise.training.continued:build_retrofit",
        seeded=True,
    ))

Constructing one runs and imports nothing. `core.store` asks it for a recipe to find an artefact,
and for its builder only when there is none:

    store.key(RETROFIT, config, inputs, seed=0)             40 digits
    store.find(RETROFIT, config, inputs, seed=0)            what is stored, or None
    store.get_or_build(RETROFIT, config, inputs, seed=0)    what is stored, or what is built now

Two functions stand behind a stage, each named as "module:function" and imported when it is called:

    resolve(config, seed, **inputs) -> Resolved | Artefact
        What the call comes down to: no field left open, fields that do not apply at their defaults,
        inputs checked to belong together. It is quick and loads no weights. An artefact means that
        nothing is to be built (the twin of a frozen backbone is its base). Without the hook
        everything that is given counts.

    build(config, run, **inputs) -> counts
        Writes plain files into `run.folder`. It gets the resolved config, and all inputs that were
        given.

Compare marin's `ArtifactStep` (lib/marin/src/marin/execution/lazy.py), where constructing one runs
nothing either.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError, ConfigError
from chunkwise.core.extras import extras_named
from chunkwise.core.recipe import recipe_key
from chunkwise.core.team import Team, world_size

Inputs = Mapping[str, Artefact | None]
"""Input name -> artefact; None, like a missing name, for an optional input that is not given."""


@dataclass(frozen=True)
class Input:
    """What a stage takes under one name.

    Attributes:
        kinds: store folders (`Artefact.stage`) of which it may come.
        optional: whether the stage runs without it.
    """

    kinds: tuple[str, ...]
    optional: bool = False

    def or_none(self) -> Input:
        """The same input where it may be left out."""
        return replace(self, optional=True)


@dataclass(frozen=True)
class Resolved:
    """What a call comes down to: what is built, and what of it makes the key.

    Attributes:
        config: for the builder.
        params, inputs, seeds: of the key; None: the config, all inputs that are given, and the
            seed.
    """

    config: Config
    params: Config | Mapping[str, Any] | None = None
    inputs: Mapping[str, Artefact | str] | None = None
    seeds: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Run:
    """What a builder is given beside config and inputs: where to write, and how to run.

    Attributes:
        folder: gets the artefact's files.
        scratch: keeps what a killed build goes on from.
        seed: of a seeded stage; 0 otherwise.
        threads, device, tracking: how it runs, which changes no result: threads of a search, where
            a model is put (None: a GPU where there is one), where the curves of a training go.
    """

    folder: Path
    scratch: Path
    seed: int = 0
    threads: int | None = None
    device: str | None = None
    tracking: Any = None


RUNNING = ("threads", "device", "tracking")
"""The attributes of a Run that a caller of the store decides."""


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: what jobs, progress and the command line call it: lower-case letters and hyphens.
        version: raised when the same recipe gives other results.
        config: the class of its settings.
        inputs: name -> what it may be. The names are keyword arguments of both functions.
        build, resolve: "module:function", see the module.
        seeded: whether results depend on a seed, the replicate of a study.
        per_call: fields of the config that whoever calls the stage decides for each call, as a
            study does by arm, view and replicate; settings that stand for many calls leave them
            alone.
        folder: of the store, where it is not the name: two stages may make artefacts of one kind.
        team: "module:function" that returns the processes of this launch, where all of them build
            together.
    """

    name: str
    version: int
    config: type[Config]
    inputs: Mapping[str, Input] = field(hash=False)  # a dictionary has no hash
    build: str
    resolve: str | None = None
    seeded: bool = False
    per_call: tuple[str, ...] = ()
    folder: str | None = None
    team: str | None = None

    @property
    def kind(self) -> str:
        """Folder of the store, and `Artefact.stage` of what is built."""
        return self.folder or self.name

    def describe(self) -> dict[str, Any]:
        """The declaration as plain values, for lists and pages."""
        inputs = {}
        for name, source in self.inputs.items():
            inputs[name] = {"from": list(source.kinds), "optional": source.optional}
        return {
            "stage": self.name,
            "makes": self.kind,
            "version": self.version,
            "inputs": inputs,
            "seeded": self.seeded,
            "config": self.config.__name__,
            "builder": self.build,
        }

    def call(
        self, config: Config, inputs: Inputs | None = None, *, seed: int | None = None
    ) -> Call | Artefact:
        """What `config` and `inputs` come down to, without building anything.

        Raises:
            ConfigError: an input is missing. ArtefactError: an input comes from a stage that cannot
            be its source. Whatever the hook `resolve` refuses.
        """
        # inputs first: what a user can mend is named before what a caller has wrong
        artefacts = self._checked(inputs or {})
        self._require_use(config, seed)
        number = seed or 0
        resolved: Resolved | Artefact = Resolved(config)
        if self.resolve is not None:
            with extras_named():
                resolve = function(self.resolve)
                resolved = resolve(config, number, **artefacts)
        if isinstance(resolved, Artefact):
            return resolved
        seeds = resolved.seeds
        # a hook that names none leaves it to the declaration
        if seeds is None:
            seeds = {"replicate": number} if self.seeded else {}
        return Call(
            stage=self,
            config=resolved.config,
            arguments=artefacts,
            seed=number,
            # `is None`: no inputs, or no parameters, may be what the hook wants in the key
            params=resolved.config if resolved.params is None else resolved.params,
            inputs=artefacts if resolved.inputs is None else resolved.inputs,
            seeds=seeds,
        )

    def _require_use(self, config: Config, seed: int | None) -> None:
        """TypeErrors: what a caller's code has wrong, not a user's settings."""
        if not isinstance(config, self.config):
            expected = self.config.__name__
            got = type(config).__name__
            raise TypeError(f"stage {self.name} takes a {expected}, got a {got}")
        if seed is not None and not self.seeded:
            raise TypeError(f"stage {self.name} takes no seed")
        if self.seeded and seed is None:
            raise TypeError(f"stage {self.name} needs a seed")

    def require_running(self, running: Mapping[str, Any]) -> None:
        """TypeError for words that say nothing about how a stage runs: `thread` for `threads`."""
        for name in running:
            if name not in RUNNING:
                known = ", ".join(RUNNING)
                raise TypeError(f"stage {self.name} runs with {known}, got {name!r}")

    def _checked(self, inputs: Inputs) -> dict[str, Artefact]:
        """The inputs that are given, in the order of the declaration."""
        for name in inputs:
            if name not in self.inputs:
                known = ", ".join(self.inputs)
                raise TypeError(f"stage {self.name} takes no input {name!r}; it takes {known}")
        artefacts: dict[str, Artefact] = {}
        for name, source in self.inputs.items():
            artefact = inputs.get(name)
            kinds = " or ".join(source.kinds)
            if artefact is None:
                if not source.optional:
                    raise ConfigError(f"stage {self.name} needs its input {name!r}, a {kinds}")
            elif not isinstance(artefact, Artefact):
                raise TypeError(
                    f"stage {self.name}: expected an artefact as {name!r}, got {artefact!r}; "
                    "Store.resolve opens a folder or key"
                )
            elif artefact.stage not in source.kinds:
                raise ArtefactError(
                    f"stage {self.name}: expected {kinds} as {name!r}, got a {artefact.stage}: "
                    f"{artefact.path}"
                )
            else:
                artefacts[name] = artefact
        return artefacts


@dataclass(frozen=True)
class Call:
    """A stage with all that one artefact of it depends on.

    Attributes:
        config, arguments, seed: for the builder.
        params, inputs, seeds: of the key.
    """

    stage: Stage
    config: Config
    arguments: Mapping[str, Artefact]
    seed: int
    params: Config | Mapping[str, Any]
    inputs: Mapping[str, Artefact | str]
    seeds: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Of the artefact in the store."""
        stage = self.stage
        return recipe_key(stage.kind, stage.version, self.params, self.inputs, self.seeds)

    @property
    def builder(self) -> Callable[..., Mapping[str, Any]]:
        """The function that builds it; imports its module."""
        return function(self.stage.build)

    def build(self, folder: Path, scratch: Path, **running: Any) -> Mapping[str, Any]:
        """Build it. `running`: see the last attributes of Run."""
        run = Run(folder, scratch, self.seed, **running)
        with extras_named():
            return self.builder(self.config, run, **self.arguments)

    def team(self) -> Team | None:
        """The processes that build it together; None for one alone."""
        if self.stage.team is None or world_size() <= 1:
            return None
        return function(self.stage.team)()


def function(path: str) -> Callable[..., Any]:
    """The function behind "module:function".

    Raises:
        MachineError: it needs a package that is not installed.
    """
    module, _, name = path.partition(":")
    # a stage that is only declared needs none of its packages; one that runs names what is missing
    with extras_named():
        return getattr(importlib.import_module(module), name)


FOLDERS = ("corpus", "datastore", "neighbours", "training", "evaluation")
"""The folders of this package that declare stages, each in its `stages.py`, in the order of the
data flow.
"""

_DECLARED: dict[str, Stage] = {}


def declare(stage: Stage) -> Stage:
    """Add a stage to the registry.

    Raises:
        ValueError: another one has the name.
    """
    # the same again is no error: a module that is imported under two names declares twice
    if _DECLARED.setdefault(stage.name, stage) != stage:
        raise ValueError(f"two stages are called {stage.name!r}")
    return stage


def stages() -> dict[str, Stage]:
    """Name -> stage, in the order of the data flow; those of other packages come last.

    Another package declares its stages in a module, and names that as an entry point of the group
    `chunkwise.stages`.
    """
    # here, not at the top: those modules import this one
    for folder in FOLDERS:
        importlib.import_module(f"chunkwise.{folder}.stages")
    for entry_point in importlib.metadata.entry_points(group="chunkwise.stages"):
        entry_point.load()
    # sorted, because the modules import each other and so declare in an order of their own
    in_order = sorted(_DECLARED.values(), key=_flow_order)
    return {stage.name: stage for stage in in_order}


def _flow_order(stage: Stage) -> int:
    package, folder, *_names = stage.build.split(".")
    if package != "chunkwise":
        return len(FOLDERS)
    return FOLDERS.index(folder)
