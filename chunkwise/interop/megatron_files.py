"""Where the files of a Megatron-LM checkpoint lie.

PATH/latest_checkpointed_iteration.txt           "20000" or "release"
PATH/iter_0020000/mp_rank_00/model_optim_rng.pt  one folder for each tensor-parallel rank;
                                                 PATH/release/... likewise
"""

import re
from collections.abc import Iterable
from pathlib import Path

from chunkwise.core.errors import InputError

FILE_NAMES = ("model_optim_rng.pt", "model_rng.pt")
# the second one where the optimizer has files of its own
LATEST = "latest_checkpointed_iteration.txt"
WHICH_FOLDER = f"give the folder that holds {LATEST}, or the iteration's own"


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
        raise InputError(missing_ranks(missing, folder), hint="fetch them too")
    return files


def missing_ranks(ranks: Iterable[int], folder: Path) -> str:
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
