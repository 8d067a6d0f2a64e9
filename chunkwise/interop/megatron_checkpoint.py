"""What all files of a Megatron-LM checkpoint hold together: settings, and tensors by name and rank.

That the files are of one checkpoint, and that the tensors are those that are expected, is checked
here. What settings and tensors mean is `megatron`'s business; here they are names and values.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chunkwise.core.errors import InputError, MismatchError, ShapeError
from chunkwise.core.io import digest_file
from chunkwise.core.progress import track
from chunkwise.interop.megatron_files import find_files, missing_ranks
from chunkwise.interop.megatron_pickle import is_inert, is_plain, kind_of, read_contents

_OLDER_NORM = re.compile(r"\b(input|post_attention|post_inter_attention|final)_layernorm\.")
DEEPEST = 8
"""Dictionaries inside dictionaries that are followed; Megatron's are 4 deep, and a pickle may hold
itself.
"""


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
        shape = list(self.shape)
        if self.split is not None:
            shape[self.split] //= ranks
        return tuple(shape)

    def merge(self, pieces: list[Tensor]) -> Tensor:
        """The whole from its pieces, which is no copy where there is one."""
        if self.split is None or len(pieces) == 1:
            return pieces[0]
        if self.parts == 1:
            return torch.cat(pieces, dim=self.split)
        # each rank holds its piece of gate over its piece of up: all of gate comes first
        by_rank = [piece.chunk(self.parts, dim=self.split) for piece in pieces]
        in_order: list[Tensor] = []
        for of_part in zip(*by_rank, strict=True):
            in_order.extend(of_part)
        return torch.cat(in_order, dim=self.split)


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
                shape = list(tensors[name].shape)
                expected_shape = list(weight.shape_on(len(self.ranks)))
                if shape != expected_shape:
                    problems.append(f"{name}{on_rank}: expected {expected_shape}, got {shape}")
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
            content = read_contents(file)
            # before the digest, which reads all of the file
            _check_ranks(content, file, files, path)
            contents.append(content)
            name = file.relative_to(root).as_posix()
            sources.append(SourceFile(name, file.stat().st_size, digest_file(file)))
            advance()
    _check_agreement(contents, decisive)
    first = contents[0]
    ranks = []
    for content, file in zip(contents, files, strict=True):
        ranks.append(_tensors(content["model"], file))
    version = first.get("checkpoint_version")
    iteration = first.get("iteration")
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


def _check_ranks(content: dict[str, Any], file: Path, files: list[Path], path: Path) -> None:
    """That this file's checkpoint has as many ranks as there are files."""
    ranks = getattr(content["args"], "tensor_model_parallel_size", None)
    if type(ranks) is not int or ranks < 1:
        raise InputError(
            f"{file}: expected tensor_model_parallel_size in 'args', got {kind_of(ranks)}"
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
        missing = missing_ranks(range(len(files), ranks), file.parent.parent)
        raise InputError(missing, hint="fetch them too")
    raise MismatchError(
        f"{file}: its tensor_model_parallel_size is {ranks}, and there are {len(files)} mp_rank_ "
        "folders",
        hint="files of another checkpoint lie among them; take them away",
    )


def _check_agreement(contents: list[dict[str, Any]], decisive: tuple[str, ...]) -> None:
    """That all ranks are of one checkpoint."""
    first, *others = [_facts(content, decisive) for content in contents]
    differences = []
    for rank, facts in enumerate(others, start=1):
        for name, value in first.items():
            if _differ(value, facts[name]):
                own = kind_of(facts[name])
                differences.append(f"{name} is {kind_of(value)} on rank 0 and {own} on rank {rank}")
    if differences:
        raise MismatchError(
            f"the shards are not of one checkpoint: {'; '.join(differences)}",
            hint="fetch all ranks of one iteration",
        )


def _facts(content: dict[str, Any], decisive: tuple[str, ...]) -> dict[str, Any]:
    """What must be equal on all ranks, by name."""
    facts = {name: content.get(name) for name in ("iteration", "checkpoint_version")}
    for name in decisive:
        facts[name] = getattr(content["args"], name, None)
    return facts


def _differ(value: Any, other: Any) -> bool:
    if type(value) is not type(other):
        return True
    # values that are not plain are stand-ins, and no two of these are equal
    return is_plain(value) and value != other


def _tensors(model: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """Nested dictionaries as flat names in today's spelling; `_extra_state` without content is left
    out.

    Older versions spelt `layernorm` for `norm` and `.attention.` for `.self_attention.`.
    """
    tensors: dict[str, Tensor] = {}
    problems = []
    for name, value in _leaves(model):
        is_extra_state = name.rpartition(".")[2] == "_extra_state"
        if is_extra_state and (value is None or is_inert(value)):
            continue
        name = _OLDER_NORM.sub(r"\1_norm.", name)
        name = name.replace(".attention.", ".self_attention.")
        if name in tensors:
            problems.append(f"{name} stands twice, in an old and a new spelling")
        elif _is_weight(value):
            tensors[name] = value
        else:
            problems.append(f"{name} is {kind_of(value)}")
    if problems:
        raise InputError(
            f"{file}: expected floating-point tensors under 'model'; {'; '.join(problems)}"
        )
    return tensors


def _is_weight(value: Any) -> bool:
    # by type: a subclass may compute something else when it is read
    if type(value) is not Tensor or value.layout != torch.strided:
        return False
    return value.is_floating_point()


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
