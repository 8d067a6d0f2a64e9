"""Several processes that were started together to do one thing: their numbers, and what they can
agree on.

torchrun, accelerate and Slurm's launchers put RANK and WORLD_SIZE into the environment of each
process; nothing else is read here, and no library of theirs is imported. Process 0 speaks for all:
it alone prints results and progress, and it alone commits what they build (`core.store`).
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Protocol

from chunkwise.core.errors import MismatchError


def rank() -> int:
    """Number of this process, from 0; 0 where there is one only."""
    return int(os.environ.get("RANK") or 0)


def world_size() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


class Team(Protocol):
    """The processes of one launch, as far as the store has to know of them."""

    rank: int

    def share(self, number: int) -> int:
        """The number that process 0 gives, on every process; all call it, equally often."""
        ...


FOUND, BUILD, WAIT, FAILED = range(4)
"""What process 0 of a team says to the others: the artefact is there; build it with me; ask again;
it will not be there.
"""

Tell = Callable[[int], None]


def agree(team: Team, stage: str, key: str) -> None:
    """Refuse to build together what is not one thing: settings that machines resolve differently,
    other inputs.

    Raises:
        MismatchError: this process asks for another artefact than process 0.
    """
    own = int(key[:15], 16)  # 60 bits: what fits into the int64 that a collective call carries
    if team.share(own) != own:
        raise MismatchError(
            f"process {team.rank} was about to build another {stage} ({key[:12]}) than process 0",
            hint=(
                "start all processes with the same settings and inputs; where dtype or attention "
                "is auto, name it"
            ),
        )


def hear(team: Team) -> int:
    """What process 0 has decided: any word but WAIT."""
    # Every word is a collective call, which times out: process 0 repeats WAIT until it knows.
    word = team.share(WAIT)
    while word == WAIT:
        word = team.share(WAIT)
    return word


@contextlib.contextmanager
def telling(team: Team | None) -> Iterator[Tell]:
    """Process 0's way to say what it will do; where it fails before it could, the others hear of
    that too.
    """
    is_decided = False

    def tell(word: int) -> None:
        nonlocal is_decided
        # The others stop listening at the first word but WAIT; another call would find nobody.
        if team is not None and not is_decided:
            is_decided = word != WAIT
            team.share(word)

    try:
        yield tell
    except BaseException:
        tell(FAILED)
        raise
