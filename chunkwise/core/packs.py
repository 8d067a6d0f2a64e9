"""What ships with the package beside its code, by name: the folder `packs`, which holds data only.

    packs/laptop/laptop.profile.yaml        chunkwise ablate PLAN --profile laptop
    packs/laptop/instructretro.plan.md      chunkwise ablate instructretro
    packs/laptop/instructretro.paper.yaml   paper: instructretro
    packs/laptop/base/                      pretrained: packaged
    packs/training_presets.yaml             train: {preset: retro-fit}

A pack is a study that runs as it is, with what it needs; `papers` holds what other papers used,
for plans about them. A file is called NAME.KIND.yaml (or .md)
and is found by its name in whichever pack it lies, so a plan of one pack runs with the profile of
another.
"""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from chunkwise.core.errors import ConfigError

Kind = Literal["profile", "plan", "paper"]

PACKS: Traversable = resources.files("chunkwise") / "packs"

PACKAGED = "packaged"
"""Name of the base model that ships with the package."""

_ENDINGS: dict[Kind, str] = {
    "profile": ".profile.yaml",
    "plan": ".plan.md",
    "paper": ".paper.yaml",
}


def packaged_files(kind: Kind) -> dict[str, Traversable]:
    """The packaged files of a kind by name, in the order of their names."""
    ending = _ENDINGS[kind]
    files = {}
    for pack in PACKS.iterdir():
        if not pack.is_dir():
            continue
        for file in pack.iterdir():
            if file.name.endswith(ending):
                files[file.name.removesuffix(ending)] = file
    # Resources may come in any order, and messages list these names.
    return dict(sorted(files.items()))


def packaged_names(kind: Kind) -> str:
    """The names of the packaged files of a kind, for messages and help: "evening, laptop"."""
    return ", ".join(packaged_files(kind))


def packaged_base() -> Path:
    """The folder of the packaged base model: weights, settings and tokenizer.

    Raises:
        ConfigError: this installation has none.
    """
    folder = Path(str(PACKS / "laptop" / "base"))
    if not (folder / "config.json").is_file():
        raise ConfigError(
            "pretrained: packaged asks for the base model that ships with the package, and "
            "this installation has none",
            hint=(
                "set `base` in the profile to train one in the run, or name a folder or a hub model"
            ),
        )
    return folder
