"""Which documents are trained on, which are only in the datastore, which are in neither.

| split | training text | datastore | used for |
|---|---|---|---|
| train | yes | yes | all training |
| held  | no  | yes | questions whose answer only retrieval can know |
| dev   | no  | no  | validation curves, and whatever settings are chosen by |
| valid | no  | no  | perplexity, as reports give it |

A group (say, the code and the docstrings of one file) goes to one split as a whole. The place is a
function of the group's name and the seed alone: documents that come or go move no other.
"""

from hashlib import blake2b
from typing import Literal

Split = Literal["train", "held", "dev", "valid"]
SPLITS: tuple[Split, ...] = ("train", "held", "dev", "valid")
"""In the order in which a corpus holds them."""


def unit_hash(name: str, seed: int, purpose: str) -> float:
    """A number in [0, 1) that looks drawn, from a name. Different purposes are independent
    draws.
    """
    text = f"{purpose}\0{seed}\0{name}"
    digest = blake2b(text.encode(), digest_size=8).digest()
    bits = int.from_bytes(digest, "big") >> 11
    return bits / 2**53  # 53 bits: what a double holds exactly


def split_of(
    group: str,
    *,
    seed: int,
    valid_fraction: float,
    held_fraction: float,
    dev_share: float = 0.0,
) -> Split:
    """The split of a group. Raising a fraction only moves groups towards valid and held, never
    back.

    Args:
        dev_share: of the groups in neither training text nor datastore, those to choose settings
            by. Drawn on its own, so that it moves no group in or out of training text.
    """
    draw = unit_hash(group, seed, "split")
    if draw < valid_fraction:
        return "dev" if unit_hash(group, seed, "dev") < dev_share else "valid"
    if draw >= 1 - held_fraction:
        return "held"
    return "train"
