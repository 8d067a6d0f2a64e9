"""Reading of Megatron-LM's checkpoint files, without Megatron and without executing what they hold.

    PATH/latest_checkpointed_iteration.txt           "20000" or "release"
    PATH/iter_0020000/mp_rank_00/model_optim_rng.pt  one folder for each tensor-parallel rank;
                                                     PATH/release/... likewise

The files are pickles. They are read by torch's restricted unpickler, and before that the whole list
of names in them is checked: tensors, plain data and argparse.Namespace pass; for some names
(Megatron's enums, numpy's random state) an object stands in that takes any arguments and does
nothing; any other name is refused. Only zip files are read, as torch.save has written them since
2020: they are mapped into memory, so what is not used (the optimizer) costs nothing.

What settings and tensors mean is `megatron`'s business; here they are names and values.
"""

import argparse
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chunkwise.core.errors import InputError, MismatchError, ShapeError
from chunkwise.core.io import digest_file
from chunkwise.core.progress import track

FILE_NAMES = ("model_optim_rng.pt", "model_rng.pt")
# the second one where the optimizer has files of its own
LATEST = "latest_checkpointed_iteration.txt"
WHICH_FOLDER = f"give the folder that holds {LATEST}, or the iteration's own"
DEEPEST = 8
"""Dictionaries inside dictionaries that are followed; Megatron's are 4 deep, and a pickle may hold
itself.
"""


class _Inert:
    """Takes the place of an object that is in the pickle and that nobody asks: it keeps nothing and
    does nothing.
    """

    # unpickling calls these three with whatever stands in the file
    def __new__(cls, *args: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# the enums have moved with Megatron's versions
ENUMS = tuple(
    f"megatron.{module}.{name}"
    for module in (
        "core.enums",
        "model.enums",
        "legacy.model.enums",
        "core.transformer.enums",
        "enums",
    )
    for name in ("ModelType", "LayerType", "AttnType", "AttnMaskType", "PositionEmbeddingType")
)
NUMPY = (
    "ndarray",
    "dtype",
    *(
        f"{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)
STAND_INS = (*ENUMS, *(f"numpy.{name}" for name in NUMPY), "_io.BytesIO")
"""Names that a checkpoint may hold beside tensors and plain data, and that become `_Inert`: values
of settings, the state of random numbers, and what Transformer Engine keeps about 8-bit numbers."""

Kind = Any  # a class, or a class and the name that it stands in for, as torch takes them
ALLOWED: list[Kind] = [argparse.Namespace, *((_Inert, name) for name in STAND_INS)]


@dataclass(frozen=True)
class SourceFile:
    """A file that was read: its name below the checkpoint's folder, and what it held."""

    name: str
    size_bytes: int
    blake2b: str


@dataclass(frozen=True)
class Weight:
    """What a tensor is expected to be.

    Attributes:
        shape: of the whole.
        split: the dimension that tensor parallelism splits; None where each rank holds the whole.
        parts: 2 where each rank's rows are a piece of a first matrix over a piece of a second one.
    """

    shape: tuple[int, ...]
    split: int | None = None
    parts: int = 1

    def shape_on(self, ranks: int) -> tuple[int, ...]:
        """The shape of one rank's piece."""
        return tuple(
            size // ranks if dim == self.split else size for dim, size in enumerate(self.shape)
        )

    def merge(self, pieces: list[Tensor]) -> Tensor:
        """The whole from its pieces, which is no copy where there is one."""
        if self.split is None or len(pieces) == 1:
            return pieces[0]
        if self.parts == 1:
            return torch.cat(pieces, dim=self.split)
        # each rank holds its piece of gate over its piece of up: all of gate comes first
        halves = [piece.chunk(self.parts, dim=self.split) for piece in pieces]
        return torch.cat(
            [half[part] for part in range(self.parts) for half in halves], dim=self.split
        )


@dataclass(frozen=True)
class Checkpoint:
    """What all ranks of a checkpoint hold.

    Attributes:
        settings: `args` of rank 0, Megatron's command line.
        ranks: tensors of each rank under their names below `model`, in today's spelling.
    """

    settings: Mapping[str, Any]
    iteration: int | None
    version: float
    files: tuple[SourceFile, ...]
    ranks: tuple[Mapping[str, Tensor], ...]

    def check(self, expected: Mapping[str, Weight]) -> None:
        """That the ranks hold these weights and no others.

        Raises:
            InputError: names that are missing, or that are not expected, all of them. ShapeError:
                shapes, all of them.
        """
        self._check_names(expected)
        self._check_shapes(expected)

    def merged(self, expected: Mapping[str, Weight]) -> Iterator[tuple[str, Tensor]]:
        """The tensors as one rank would hold them, one after the other; names and shapes are as
        `check` found them.

        Raises:
            MismatchError: ranks that disagree about what each holds whole.
        """
        for name, weight in expected.items():
            pieces = [tensors[name] for tensors in self.ranks]
            if weight.split is None:
                _require_equal(name, pieces)
            yield name, weight.merge(pieces)

    def _by_rank(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """(what a message says of the rank, its tensors)."""
        for rank, tensors in enumerate(self.ranks):
            yield f" on rank {rank}" if len(self.ranks) > 1 else "", tensors

    def _check_names(self, expected: Mapping[str, Weight]) -> None:
        problems = []
        for on_rank, tensors in self._by_rank():
            if missing := sorted(expected.keys() - tensors.keys()):
                problems.append(f"missing{on_rank}: {', '.join(missing)}")
            if unknown := sorted(tensors.keys() - expected.keys()):
                problems.append(f"not expected{on_rank}: {', '.join(unknown)}")
        if problems:
            raise InputError(
                "the checkpoint's weights are not those that its settings ask for; "
                + "; ".join(problems),
                hint="an unknown weight would be left out of what the model computes, so nothing "
                "was imported",
            )

    def _check_shapes(self, expected: Mapping[str, Weight]) -> None:
        problems = []
        for on_rank, tensors in self._by_rank():
            for name, weight in expected.items():
                wanted_shape, shape = weight.shape_on(len(self.ranks)), tensors[name].shape
                if shape != wanted_shape:
                    problems.append(
                        f"{name}{on_rank}: expected {list(wanted_shape)}, got {list(shape)}"
                    )
        if problems:
            raise ShapeError(
                "the checkpoint's weights do not have the sizes of its settings; "
                + "; ".join(problems),
                hint="settings and weights are of different checkpoints; fetch them again",
            )


def _require_equal(name: str, pieces: list[Tensor]) -> None:
    """Refuse a weight that each rank holds whole, and not the same."""
    first, *others = pieces
    # without rank 0: NaN does not equal itself, and is another error than this one
    for rank, piece in enumerate(others, start=1):
        if not torch.equal(piece, first):
            # in float32, because a small difference of two float16 is rounded away
            difference = (piece.float() - first.float()).abs().max()
            raise MismatchError(
                f"{name}: expected the same values on all ranks, rank {rank} has others than rank "
                f"0 (they differ by up to {difference:.3g})",
                hint="the shards are of different checkpoints, or one was changed; fetch them "
                "again",
            )


def read_checkpoint(path: Path | str, decisive: tuple[str, ...]) -> Checkpoint:
    """The checkpoint at a path; its tensors stay in the files until they are used.

    Args:
        path: the folder with latest_checkpointed_iteration.txt, one iteration's folder, or the only
            rank's file.
        decisive: names of settings that decide about the model: all ranks must agree on them.

    Raises:
        InputError: nothing there, files or ranks missing, no checkpoint, or a pickle that holds
            more than data.
        MismatchError: the files are not of one checkpoint.
    """
    path = Path(path)
    files = find_files(path)
    root = path if path.is_dir() else path.parent
    contents, sources = [], []
    with track("read checkpoint", total=len(files), unit="files") as advance:
        for file in files:
            content = _contents(file)
            # before the digest, which reads all of the file
            _check_ranks(content, file, files, path)
            contents.append(content)
            name = file.relative_to(root).as_posix()
            sources.append(SourceFile(name, file.stat().st_size, digest_file(file)))
            advance()
    _check_agreement(contents, decisive)
    first = contents[0]
    ranks = [
        _tensors(content["model"], file) for content, file in zip(contents, files, strict=True)
    ]
    version, iteration = first.get("checkpoint_version"), first.get("iteration")
    # without a version it is older than 2, which `derive` refuses; True is no version
    if type(version) not in (int, float):
        version = 0.0
    return Checkpoint(
        settings=vars(first["args"]),
        iteration=iteration if type(iteration) is int else None,
        version=float(version or 0.0),
        files=tuple(sources),
        ranks=tuple(ranks),
    )


def find_files(path: Path) -> list[Path]:
    """The ranks' files, by rank; that none is missing at the end only their contents tell.

    Raises:
        InputError: no checkpoint there, a rank missing in between, or a pipeline of several stages.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(
            f"{path}: expected a Megatron checkpoint, got nothing", hint="check the path"
        )
    # an iteration's own folder, or else the one above, which names the iteration
    folder = path
    ranks = _rank_folders(folder)
    if not ranks:
        folder = _latest(path)
        ranks = _rank_folders(folder)
    if not ranks:
        raise InputError(
            f"{folder}: expected folders mp_rank_00, mp_rank_01, ... of a Megatron checkpoint, got "
            "none",
            hint=WHICH_FOLDER,
        )
    files, missing = [], []
    for rank in range(max(ranks) + 1):
        candidates = [ranks[rank] / name for name in FILE_NAMES if rank in ranks]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            missing.append(rank)
        else:
            files.append(file)
    if missing:
        raise InputError(_missing_ranks(missing, folder), hint="fetch them too")
    return files


def _missing_ranks(ranks: Iterable[int], folder: Path) -> str:
    names = ", ".join(f"mp_rank_{rank:02d}/{FILE_NAMES[0]}" for rank in ranks)
    return f"{folder}: expected a file for each tensor-parallel rank, missing are {names}"


def _latest(path: Path) -> Path:
    """The iteration that Megatron would load."""
    latest = path / LATEST
    if not latest.is_file():
        raise InputError(
            f"{path}: expected a Megatron checkpoint ({LATEST}, or folders mp_rank_00, ...), got "
            "neither",
            hint=WHICH_FOLDER,
        )
    content = latest.read_bytes()[:100].decode("utf-8", "replace").strip()
    if content == "release":
        return path / "release"
    if not re.fullmatch(r"[0-9]{1,12}", content):  # it becomes part of a path
        raise InputError(f"{latest}: expected a number of iterations or 'release', got {content!r}")
    return path / f"iter_{int(content):07d}"


def _rank_folders(folder: Path) -> dict[int, Path]:
    """Tensor-parallel rank -> its folder."""
    ranks: dict[int, Path] = {}
    stages = []  # of a pipeline, but for the first one
    for below in sorted(folder.glob("mp_rank_*")):
        match = re.fullmatch(r"mp_rank_([0-9]{2,4})(?:_([0-9]{3,4}))?", below.name)
        if match is None or not below.is_dir():
            continue
        if int(match[2] or 0):
            stages.append(below.name)
        else:
            ranks[int(match[1])] = below
    if stages:
        names = ", ".join(stages[:3] + ["..."] * (len(stages) > 3))
        raise InputError(
            f"{folder}: expected the whole model on each tensor-parallel rank, got pipeline stages "
            f"({names}); Megatron's Retro has no pipeline",
            hint="this is another model's checkpoint",
        )
    return ranks


def _contents(file: Path) -> dict[str, Any]:
    """The dictionary in a file, with `args` and `model`."""
    content = _unpickled(file)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise InputError(
            f"{file}: expected a Megatron checkpoint with 'args' and 'model', got {_kind(content)}",
            hint="a virtual pipeline's 'model0', an optimizer's file or another library's "
            "checkpoint is none",
        )
    args = content.get("args")
    if not isinstance(args, argparse.Namespace):
        raise InputError(
            f"{file}: expected Megatron's settings under 'args', got {_kind(args)}",
            hint="without them nobody knows what the weights mean; Megatron has saved them since "
            "2019",
        )
    return content


def _unpickled(file: Path) -> Any:
    """What is in the file, by torch's restricted unpickler, after a look at all names that its
    pickle holds.
    """
    try:
        with open(file, "rb") as opened:
            start = opened.read(4)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    if start != b"PK\x03\x04":
        raise InputError(
            f"{file}: expected a zip file as torch.save writes it, got other bytes; a bare pickle "
            "is not read",
            hint="the file is damaged, or of torch before 1.6: load and save it there if you trust "
            "it",
        )
    try:
        with torch.serialization.safe_globals(ALLOWED):
            # torch.load refuses such names too, but one at a time, and after reading up to it
            refused = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
            if refused:
                raise InputError(
                    f"{file}: refused, nothing of it was executed: beside tensors, plain data and "
                    f"Megatron's enums its pickle names {', '.join(refused)}",
                    hint="do not load it anywhere if you did not expect this; else keep only "
                    "'args' and 'model' in it",
                )
            return torch.load(str(file), map_location="cpu", weights_only=True, mmap=True)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever bytes that were made to mislead a parser lead it to
        reason = " ".join(str(error).split())[:200]
        problem, hint = "truncated or damaged", "fetch it again"
        # the list of a zip file is at its end: where it is there, the file is not cut short
        if zipfile.is_zipfile(file):
            problem = "its pickle cannot be read as tensors and plain data"
            hint = "refused, nothing of it was executed"
        raise InputError(
            f"{file}: {problem} ({type(error).__name__}: {reason})", hint=hint
        ) from None


def _check_ranks(content: dict[str, Any], file: Path, files: list[Path], path: Path) -> None:
    """That this file's checkpoint has as many ranks as there are files."""
    ranks = getattr(content["args"], "tensor_model_parallel_size", None)
    if type(ranks) is not int or ranks < 1:
        raise InputError(
            f"{file}: expected tensor_model_parallel_size in 'args', got {_kind(ranks)}"
        )
    if ranks == len(files):
        return
    # one rank's matrices are pieces, of which no model can be made
    if path.is_file():
        raise InputError(
            f"{path} is one of {ranks} tensor-parallel shards",
            hint="give the folder above, with all mp_rank_ folders",
        )
    if ranks > len(files):
        missing = _missing_ranks(range(len(files), ranks), file.parent.parent)
        raise InputError(missing, hint="fetch them too")
    raise MismatchError(
        f"{file}: its tensor_model_parallel_size is {ranks}, and there are {len(files)} mp_rank_ "
        "folders",
        hint="files of another checkpoint lie among them; take them away",
    )


def _check_agreement(contents: list[dict[str, Any]], decisive: tuple[str, ...]) -> None:
    """That all ranks are of one checkpoint."""
    facts = [
        {name: content.get(name) for name in ("iteration", "checkpoint_version")}
        | {name: getattr(content["args"], name, None) for name in decisive}
        for content in contents
    ]
    differences = []
    for rank, others in enumerate(facts[1:], start=1):
        for name, value in facts[0].items():
            other = others[name]
            # values that are not plain are stand-ins, and no two of these are equal
            if type(value) is not type(other) or (is_plain(value) and value != other):
                differences.append(
                    f"{name} is {_kind(value)} on rank 0 and {_kind(other)} on rank {rank}"
                )
    if differences:
        raise MismatchError(
            f"the shards are not of one checkpoint: {'; '.join(differences)}",
            hint="fetch all ranks of one iteration",
        )


def _tensors(model: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """Nested dictionaries as flat names in today's spelling; `_extra_state` without content is left
    out.

    Older versions spelt `layernorm` for `norm` and `.attention.` for `.self_attention.`.
    """
    tensors: dict[str, Tensor] = {}
    problems = []
    for name, value in _leaves(model):
        if name.rpartition(".")[2] == "_extra_state" and isinstance(value, _Inert | None):
            continue
        name = re.sub(
            r"\b(input|post_attention|post_inter_attention|final)_layernorm\.", r"\1_norm.", name
        )
        name = name.replace(".attention.", ".self_attention.")
        if name in tensors:
            problems.append(f"{name} stands twice, in an old and a new spelling")
        # by type: a subclass may compute something else when it is read
        elif type(value) is Tensor and value.layout == torch.strided and value.is_floating_point():
            tensors[name] = value
        else:
            problems.append(f"{name} is {_kind(value)}")
    if problems:
        raise InputError(
            f"{file}: expected floating-point tensors under 'model'; {'; '.join(problems)}"
        )
    return tensors


def _leaves(
    tree: dict[Any, Any], above: str = "", ancestors: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Any]]:
    """(name, value) of what nested dictionaries end in; one that holds itself, or is too deep, is
    such an end.
    """
    # only those above: the same dictionary in two places is no cycle
    ancestors = ancestors | {id(tree)}
    for key, value in tree.items():
        name = f"{above}{key}"
        nested = isinstance(value, dict) and id(value) not in ancestors
        if nested and len(ancestors) < DEEPEST:
            yield from _leaves(value, f"{name}.", ancestors)
        else:
            yield name, value


def is_plain(value: Any) -> bool:
    """True for None, numbers and text."""
    # by type: a member of an IntEnum is an int too
    return value is None or type(value) in (bool, int, float, str)


def _kind(value: Any) -> str:
    """A value in a message: itself where that is short."""
    # cut, because a file may hold anything: a text of megabytes, a thousand keys
    if isinstance(value, dict):
        return "a dictionary of " + (", ".join(sorted(map(str, value))[:12]) or "nothing")
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, shape {list(value.shape)}"
    return repr(value)[:60] if is_plain(value) else f"a {type(value).__name__.strip('_')}"
