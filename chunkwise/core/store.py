"""The artefact store: what was built once, from these inputs by this recipe, is not built again.

    <root>/<stage>/<key>/        a finished artefact: plain files and record.json, written last;
                                 read-only
    <root>/scratch/<key>/        what a stage keeps to resume from (checkpoints); survives a kill,
                                 removed on success
    <root>/temporary/<key>/      an artefact in the making; swept away when its builder is gone
    <root>/locks/<key>           one builder at a time; the operating system frees it when the
                                 builder dies

The key is a digest of the recipe: stage, version, parameters, seeds, and the *content* digests of
the inputs. So an input that was rebuilt to the same bytes changes nothing downstream. No path,
host, time or worker count has a part in key or digest. A change of code is recorded, not keyed:
raise the stage's version when results change.

Several processes that were started together (`core.team`) may all ask for the same artefact. As a
rule one of them gets the lock and builds, the others wait and find it. Where they have to build it
together (a training), they are given to `make` as a team: process 0 owns folder, record and commit,
the others take part in the work alone.

Cost: one BLAKE2b pass over what was built (about 1 GB/s). Locks are flock(2): Linux and macOS, one
machine or a file system that shares locks.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from chunkwise.core.artefact import (
    RECORD,
    Artefact,
    Record,
    commit,
    open_artefact,
    place,
    plain_files,
    read_artefact,
    require_free,
    seal,
)
from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError, ChunkwiseError, MachineError
from chunkwise.core.io import canonical_json, digest_file, digest_tree, machine_errors
from chunkwise.core.progress import note
from chunkwise.core.provenance import code_facts, library_versions
from chunkwise.core.recipe import (
    OWN_FOLDERS,
    InputDigests,
    Params,
    Recipe,
    make_recipe,
    recipe_key,
    require_stage_name,
)
from chunkwise.core.team import BUILD, FAILED, FOUND, WAIT, Team, Tell, agree, hear, rank, telling

if TYPE_CHECKING:
    from chunkwise.graph.stage import Inputs, Stage

__all__ = ["Artefact", "Record", "Store", "recipe_key"]

Builder = Callable[[Path, Path], Mapping[str, Any]]
"""builder(folder, scratch) -> counts, see `Store.make`."""
CodeFacts = Callable[[], dict[str, Any]]


class Store:
    """A folder of artefacts.

    Args:
        root: the folder; default `$CHUNKWISE_STORE`, else `.chunkwise` where the process was
            started.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        folder = root or os.environ.get("CHUNKWISE_STORE") or ".chunkwise"
        # Absolute: workers and builders may change the working folder.
        self.root = Path(folder).absolute()

    # --- a stage, called by its declaration ------------------------------------------------------

    @staticmethod
    def key(
        stage: "Stage", config: Config, inputs: "Inputs | None" = None, *, seed: int | None = None
    ) -> str:
        """The key of what this stage makes of these: 40 hexadecimal digits. Nothing is built."""
        return stage.call(config, inputs, seed=seed).key

    def find(
        self,
        stage: "Stage",
        config: Config,
        inputs: "Inputs | None" = None,
        *,
        seed: int | None = None,
    ) -> Artefact | None:
        """What is stored of this call, its sizes checked, or None. Nothing is built."""
        call = stage.call(config, inputs, seed=seed)
        if isinstance(call, Artefact):
            return call
        return self.stored(stage.kind, call.key)

    def get_or_build(
        self,
        stage: "Stage",
        config: Config,
        inputs: "Inputs | None" = None,
        *,
        seed: int | None = None,
        out: Path | str | None = None,
        **running: Any,
    ) -> Artefact:
        """The artefact of this call, built where it is not stored.

        Args:
            stage: its declaration (`graph.stage`).
            inputs: input name -> artefact, as the declaration names them.
            seed: of a seeded stage.
            out: see `make`.
            running: threads, device, tracking; how it runs, which is no part of the identity.

        Raises:
            As `Stage.call` and `make`, and whatever the builder refuses.
        """
        # A slip in the last words would else show after hours of waiting for the lock.
        stage.require_running(running)
        call = stage.call(config, inputs, seed=seed)
        if isinstance(call, Artefact):
            # Nothing is to be built; what is wanted may still be put into a folder.
            if out is not None and rank() == 0:
                folder = Path(out).resolve()
                require_free(folder, call.key)
                place(call, folder)
            return call

        def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
            return call.build(folder, scratch, **running)

        return self.make(
            stage.kind,
            stage.version,
            call.params,
            call.inputs,
            build,
            out=out,
            seeds=call.seeds,
            team=call.team(),
            code=lambda: code_facts(call.builder),
        )

    # --- what lies below -------------------------------------------------------------------------

    def stored(self, kind: str, key: str) -> Artefact | None:
        """The finished artefact of this key, its sizes checked, or None."""
        folder = self.root / kind / key
        has_record = (folder / RECORD).exists()
        return open_artefact(folder) if has_record else None

    def make(
        self,
        stage: str,
        version: int,
        params: Params,
        inputs: InputDigests,
        build: Builder,
        *,
        out: Path | str | None = None,
        seeds: Mapping[str, int] | None = None,
        team: Team | None = None,
        code: CodeFacts | None = None,
    ) -> Artefact:
        """Return the artefact of this recipe, building it when it is not there.

        Args:
            stage: a lower-case name, the folder below the root.
            version: raise it when the same recipe gives other results.
            params: only what the stage uses; all values count, defaults included.
            inputs: artefacts, or content digests of things outside the store.
            build: build(folder, scratch) writes plain files into `folder`, may keep what it resumes
                from in `scratch` (which survives a kill), and returns counts for the record, JSON
                values.
            out: a new or empty folder that gets the artefact too, as hard links or copies; of
                several processes it is the first that puts it there.
            seeds: the seeds that the stage uses, and no others.
            team: the processes that call `build` together, all of them or none; process 0 alone
                writes into `folder`.
            code: gives the record's facts about the code, asked for after building; default, those
                of `build`.

        Raises:
            ArtefactError: `out` holds something else; what is stored is corrupted; `build` wrote no
                plain file.
            ChunkwiseError: process 0 of the team failed, whose own error says how.
            MismatchError: the processes of the team ask for different things.
            MachineError: the disk is full. Nothing half-written is left, the scratch folder stays.
        """
        require_stage_name(stage)
        recipe = make_recipe(stage, version, params, inputs, seeds)
        # All processes of a launch get `out`; the first alone writes there.
        out = Path(out).resolve() if out is not None and rank() == 0 else None
        with machine_errors():
            if team is not None:
                agree(team, stage, recipe.key)
                if team.rank:
                    return self._join(recipe, build, team)
            code = code or (lambda: code_facts(build))
            artefact = self._lead(_Making(recipe, build, code, team), out)
            if out is not None:
                place(artefact, out)
        return artefact

    def _lead(self, making: "_Making", out: Path | None) -> Artefact:
        """`make`, for process 0 of a team and for a process by itself."""
        recipe = making.recipe
        with telling(making.team) as tell:
            if out is not None:
                require_free(out, recipe.key)  # before hours of building, and not after
            # Looked for without the lock first: what is stored is found at once.
            artefact = self.stored(recipe.stage, recipe.key)
            if artefact is None:
                artefact = self._build_alone(making, tell)
            if artefact.reused:
                tell(FOUND)
        return artefact

    def _join(self, recipe: Recipe, build: Builder, team: Team) -> Artefact:
        """`make`, for the processes of a team that are not the first."""
        word = hear(team)
        if word == BUILD:
            folder, scratch = self._working_folders(recipe)
            build(folder, scratch)
        if word != FAILED:
            with self._lock(recipe):  # held by process 0 until it has committed, or died
                artefact = self.stored(recipe.stage, recipe.key)
            if artefact is not None:
                return replace(artefact, reused=word == FOUND)
        raise ChunkwiseError(
            f"process 0 did not finish the {recipe.stage}; what it says itself is the reason"
        )

    def _working_folders(self, recipe: Recipe) -> tuple[Path, Path]:
        """Where an artefact is made, and where its builder keeps what it resumes from."""
        folder = self.root / "temporary" / recipe.key
        scratch = self.root / "scratch" / recipe.key
        return folder, scratch

    def resolve(self, reference: str | Path, stage: str | None = None) -> Artefact:
        """The artefact that a user means: a folder that holds record.json, a key, or the unique
        beginning of one.

        Args:
            stage: refuse an artefact of any other stage.

        Raises:
            ArtefactError: none, several, of another stage, or files missing or of the wrong size.
        """
        folder = Path(reference)
        if not (folder / RECORD).exists():
            folder = self._folder_of_key(str(reference), stage)
        artefact = open_artefact(folder)
        if stage is not None and artefact.stage != stage:
            raise ArtefactError(
                f"expected a {stage!r} artefact, got one of stage {artefact.stage!r}: {folder}"
            )
        return artefact

    def _folder_of_key(self, text: str, stage: str | None) -> Path:
        # Checked before it becomes a part of a glob pattern, where "*" means any artefact.
        is_key = re.fullmatch(r"[0-9a-f]{4,40}", text)
        folders = self._finished_folders(f"{text}*") if is_key else []
        if not folders:
            what = f"{stage} artefact" if stage else "artefact"
            raise ArtefactError(
                f"{text!r} is neither a folder with {RECORD} nor the key of a stored artefact "
                f"in {self.root}",
                hint=(
                    f'"chunkwise store ls" lists the keys; give that of one {what}, or 4 or '
                    f"more digits of it"
                ),
            )
        if len(folders) > 1:
            keys = [f"{folder.parent.name}/{folder.name}" for folder in folders]
            raise ArtefactError(
                f"{text!r} begins several keys: {', '.join(keys)}", hint="give more digits"
            )
        return folders[0]

    def _finished_folders(self, keys: str = "*") -> list[Path]:
        """Folders with a record whose name matches, by stage and key."""
        folders = []
        for record in sorted(self.root.glob(f"*/{keys}/{RECORD}")):
            folder = record.parent
            if folder.parent.name not in OWN_FOLDERS:
                folders.append(folder)
        return folders

    def verify(self, artefact: Artefact) -> list[str]:
        """Read every byte again and compare with the record: one sentence for each problem, none
        when sound.
        """
        record = artefact.record
        present = set(plain_files(artefact.path))
        problems = []
        for name in sorted(present.difference(record.files, [RECORD])):
            problems.append(f"{name}: not in the record")
        for name, facts in record.files.items():
            path = artefact.path / name
            problem = _problem_of(path, facts) if name in present else "missing"
            if problem is not None:
                problems.append(f"{name}: {problem}")
        # A record can be edited as well: digest and key are made again from what it says.
        if digest_tree(record.files) != record.digest:
            problems.append(f"{RECORD}: digest does not follow from its list of files")
        if _recipe_of(record).key != record.key:
            problems.append(f"{RECORD}: key does not follow from its recipe")
        return problems

    def _build_alone(self, making: "_Making", tell: Tell) -> Artefact:
        """Build under the lock, unless another process did while this one waited for it."""
        recipe = making.recipe
        waiting = None if making.team is None else lambda: tell(WAIT)
        with self._lock(recipe, waiting):
            artefact = self.stored(recipe.stage, recipe.key)
            return artefact or self._build(making, tell)

    def _build(self, making: "_Making", tell: Tell) -> Artefact:
        """Temporary folder, record last, one rename."""
        recipe = making.recipe
        final = self.root / recipe.stage / recipe.key
        if final.exists():
            raise ArtefactError(
                f"{final} exists without {RECORD}", hint="remove that folder and run again"
            )
        self._sweep()
        folder, scratch = self._working_folders(recipe)
        shutil.rmtree(folder, ignore_errors=True)  # of a builder that was killed: the lock is ours
        folder.mkdir(parents=True)
        scratch.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            tell(BUILD)
            counts = dict(making.build(folder, scratch))
            files = seal(folder, recipe.stage)
            seconds = time.monotonic() - started
            record = Record(
                **asdict(recipe),
                key=recipe.key,
                files=files,
                digest=digest_tree(files),
                counts=json.loads(canonical_json(counts)),
                seconds=round(seconds, 3),
                code=making.code(),
                versions=library_versions(),
            )
            commit(folder, record, final)
        except BaseException:  # Ctrl-C too
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                scratch.rmdir()  # only when nothing is kept in it
            raise
        shutil.rmtree(scratch, ignore_errors=True)
        return Artefact(final, record, reused=False)

    @contextlib.contextmanager
    def _lock(self, recipe: Recipe, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock of a key; `waiting` is called every second until it is free."""
        path = self.root / "locks" / recipe.key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "w")  # noqa: SIM115 - closed by the next block
        except OSError as error:
            raise MachineError(
                f"cannot write to the artefact store {self.root}: {error.strerror}",
                hint="set CHUNKWISE_STORE to a folder that you may write to",
            ) from error
        with file:
            if not _try_lock(file):
                short_key = recipe.key[:12]
                note(f"waiting for another process that builds {recipe.stage} {short_key}")
                if waiting is None:
                    fcntl.flock(file, fcntl.LOCK_EX)
                else:
                    # In touch meanwhile: who waits in a collective gives up in time.
                    while not _try_lock(file):
                        waiting()
                        time.sleep(1)
            yield  # closing the file frees the lock

    def _sweep(self) -> None:
        """Remove what killed builders left: temporary folders whose lock is free, scratch of what
        is finished.
        """
        for folder in (self.root / "temporary").glob("*"):
            with open(self.root / "locks" / folder.name, "a") as file:
                if _try_lock(file):
                    shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.root / "scratch").glob("*"):
            if self._finished_folders(folder.name):
                shutil.rmtree(folder, ignore_errors=True)  # killed between commit and tidying up

    def finished(self) -> Iterator[tuple[Path, Artefact | ArtefactError]]:
        """Folder of each finished artefact by stage and key, and its record; an error where that
        cannot be read.
        """
        for folder in self._finished_folders():
            try:
                yield folder, read_artefact(folder)
            except ArtefactError as error:
                yield folder, error

    def of_digest(self, digest: str, kinds: Iterable[str]) -> Artefact | None:
        """The artefact with this content, of one of these stages; None where the store has none."""
        for folder, artefact in self.finished():
            if isinstance(artefact, ArtefactError) or artefact.stage not in kinds:
                continue
            if artefact.digest == digest:
                return self.resolve(folder)  # which looks at its files too
        return None

    # Last, because from here on `list` names this method in the class body.
    def list(self) -> list[Artefact]:
        """All finished artefacts by stage and key; their files are not looked at (see `verify`)."""
        return [read_artefact(folder) for folder in self._finished_folders()]


@dataclass(frozen=True)
class _Making:
    """A call of `make`: what is wanted, and how it is built where it is not stored."""

    recipe: Recipe
    build: Builder
    code: CodeFacts
    team: Team | None


def _problem_of(path: Path, facts: Mapping[str, Any]) -> str | None:
    """What is wrong with a file, held against size and digest of the record; None where nothing."""
    size = path.stat().st_size
    if size != facts["bytes"]:
        return f"expected {facts['bytes']} bytes, found {size}"
    if digest_file(path) != facts["blake2b"]:
        return "content differs from what was built"
    return None


def _recipe_of(record: Record) -> Recipe:
    return make_recipe(record.stage, record.version, record.params, record.inputs, record.seeds)


def _try_lock(file: IO[str]) -> bool:
    """Take a lock, unless another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
