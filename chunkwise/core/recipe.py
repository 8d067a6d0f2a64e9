"""What gives an artefact its key: stage, version, parameters, seeds, and the content of its inputs.

No path, host, time or worker count has a part in it, so a recipe has one key on every machine.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.config import Config
from chunkwise.core.io import canonical_json, digest_bytes

FORMAT = 1

OWN_FOLDERS = ("scratch", "temporary", "locks", "tracking")
"""Folders below a store's root that are no stage's; `tracking` holds the curves of trainings."""

Params = Config | Mapping[str, Any]
InputDigests = Mapping[str, Artefact | str]


@dataclass(frozen=True)
class Recipe:
    """The first fields of a record, as it holds them; `make_recipe` makes one."""

    format: int
    stage: str
    version: int
    params: dict[str, Any]
    inputs: dict[str, str]
    seeds: dict[str, int]

    @cached_property
    def key(self) -> str:
        """40 hexadecimal digits."""
        text = canonical_json(asdict(self))
        # 160 of 256 bits, as git has: short enough for a path, and still without collisions.
        return digest_bytes(text.encode())[:40]


def make_recipe(
    stage: str,
    version: int,
    params: Params,
    inputs: InputDigests,
    seeds: Mapping[str, int] | None = None,
) -> Recipe:
    """The recipe of these, in plain values."""
    values: dict[str, Any] = {}
    for name, value in _plain(params).items():
        values[name] = _plain(value)
    digests: dict[str, str] = {}
    for name, item in inputs.items():
        digests[name] = item.digest if isinstance(item, Artefact) else item
    # Through JSON and back, so that the recipe equals the one that a record holds.
    values = json.loads(canonical_json(values))
    return Recipe(FORMAT, stage, version, values, digests, dict(seeds or {}))


def recipe_key(
    stage: str,
    version: int,
    params: Params,
    inputs: InputDigests,
    seeds: Mapping[str, int] | None = None,
) -> str:
    """The key that `Store.make` gives an artefact of this recipe: 40 hexadecimal digits."""
    return make_recipe(stage, version, params, inputs, seeds).key


def require_stage_name(stage: str) -> None:
    """Refuse a name that cannot be a folder of a store; ValueError, as it stands in code."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", stage) or stage in OWN_FOLDERS:
        raise ValueError(
            f"{stage!r} is no stage name: expected lower-case letters, and none of {OWN_FOLDERS}"
        )


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Config) else value
