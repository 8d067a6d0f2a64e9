"""Where the runs of an arm lie, and which arm and seed a run is by its name.

A seed is read from a name only where it is spelt out ("seed 3", "seed-3", "s3", "replicate_3", as a
word of its own), or where a pattern says so; everything else is refused or said.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chunkwise.core.errors import ConfigError, InputError
from chunkwise.lab.verdict.files import SUFFIXES, stem

ONLY = "only run"
"""The seed of an arm's single run that has none of its own."""
SAMPLES = "samples_"
"""How names of lm-evaluation-harness's files of samples begin."""
_SEED = re.compile(
    r"(?:^|(?<=[-_ ./]))(?:seed|replicate|s)[-_ =]?(\d+)(?=$|[-_ ./])", re.IGNORECASE
)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Place:
    """One argument: the files of one arm.

    Attributes:
        arm: its name in the output.
        root: what names of runs are relative to.
        files: sorted.
    """

    arm: str
    root: Path
    files: tuple[Path, ...]


def places(arguments: Sequence[str]) -> list[Place]:
    """One arm for each argument: a file, a folder, or a pattern such as "runs/base-*.csv".

    Raises:
        InputError: an argument is not there, or holds nothing to read.
    """
    if len(set(arguments)) < len(arguments):
        raise InputError(f"expected different arms, got the same twice: {', '.join(arguments)}")
    labels = [Path(argument).name or argument for argument in arguments]
    # "a/runs" and "b/runs" are told apart by the whole of what was written.
    if len(set(labels)) < len(labels):
        labels = list(arguments)
    return [_place(label, argument) for label, argument in zip(labels, arguments, strict=True)]


def _place(arm: str, argument: str) -> Place:
    path = Path(argument)
    if path.is_dir():
        return Place(arm, path, tuple(_below(path)))
    if path.exists():
        return Place(arm, path, (path,))
    files: set[Path] = set()
    if _WILD.search(argument):
        for match in map(Path, glob.glob(argument, recursive=True)):
            files.update(_below(match) if match.is_dir() else [match])
    if not files:
        raise InputError(f"expected a file, a folder or a pattern with matches, got {argument!r}")
    # What a pattern leaves open is what tells the runs apart.
    fixed = Path(*_parts_before_wild(path))
    return Place(arm, fixed, tuple(sorted(files)))


def _parts_before_wild(path: Path) -> list[str]:
    parts = []
    for part in path.parts[:-1]:
        if _WILD.search(part):
            break
        parts.append(part)
    return parts


def _below(folder: Path) -> list[Path]:
    """Files of samples where there are any: results lie beside them. Else every file of rows."""
    samples, rows = [], []
    for path in sorted(folder.rglob("*")):
        name = path.name.removesuffix(".gz")
        if not name.endswith(SUFFIXES) or not path.is_file():
            continue
        if path.name.startswith(SAMPLES):
            samples.append(path)
        # Settings and summaries lie beside runs as JSON; an array of records is given by its name.
        elif not name.endswith(".json"):
            rows.append(path)
    if not samples and not rows:
        raise InputError(
            f"{folder}: expected files that end in .csv, .tsv, .jsonl or .parquet, got none"
        )
    return samples or rows


def run_name(place: Place, file: Path) -> str:
    """A run's name inside its arm: the path without the arm's part; files of samples are named by
    their folder, which holds one evaluation.
    """
    if file == place.root:
        return ""
    inside = file.relative_to(place.root)
    if not file.name.startswith(SAMPLES):
        return inside.with_name(stem(file)).as_posix()
    return "" if inside.parent == Path() else inside.parent.as_posix()


class RunNames:
    """How arm and seed are read from names of runs; `used` says whether a pattern was asked.

    Args:
        pattern: "{arm}-{seed}" and the like; None: a seed must be spelt out.

    Raises:
        ConfigError: a pattern without {seed}.
    """

    def __init__(self, pattern: str | None):
        self.pattern = pattern
        self.used = False
        self._expression: re.Pattern[str] | None = None
        if pattern is None:
            return
        if pattern.count("{seed}") != 1 or pattern.count("{arm}") > 1:
            raise ConfigError(
                f"expected a pattern with {{seed}}, such as '{{arm}}-{{seed}}', got {pattern!r}"
            )
        expression = re.escape(pattern)
        # A seed ends at a folder; the name of an arm may hold several.
        expression = expression.replace(re.escape("{seed}"), r"(?P<seed>[^/]+?)")
        expression = expression.replace(re.escape("{arm}"), r"(?P<arm>.+)")
        self._expression = re.compile(expression)

    def seed(self, name: str) -> str | None:
        """The seed of a run inside its arm; None: its name does not say."""
        if self._expression:
            self.used = True
            # The pattern may be of the file, or of one of the folders that it lies in.
            for text in (name, *name.split("/")):
                if match := self._expression.fullmatch(text):
                    return match["seed"]
            return None
        # "seed1/seed-1" says one thing twice; "s1-seed2" says two.
        seeds = set(_SEED.findall(name))
        return seeds.pop() if len(seeds) == 1 else None

    def seeds(self, names: Sequence[str], arm: str) -> dict[str, str]:
        """Name -> seed, of all runs of an arm.

        Raises:
            InputError: two runs have one seed, or only some have one.
        """
        by_name = {name: self.seed(name) for name in names}
        silent = [name for name, seed in by_name.items() if seed is None]
        if len(by_name) == 1 and silent:
            return dict.fromkeys(by_name, ONLY)
        if silent and (len(silent) < len(by_name) or self._expression):
            raise InputError(
                f"arm {arm!r}: expected a seed in the name of each run, got none in {silent[0]!r}",
                hint="name runs as in 'seed3', or say how: --run-names 'run_{seed}'",
            )
        if silent:
            # Runs are paired by their whole names then.
            return {name: name for name in by_name}
        owners: dict[str, str] = {}
        seeds: dict[str, str] = {}
        for name, seed in by_name.items():
            assert seed is not None
            owner = owners.setdefault(seed, name)
            if owner != name:
                raise InputError(
                    f"arm {arm!r}: expected each seed once, got seed {seed} in {owner!r} "
                    f"and {name!r}"
                )
            seeds[name] = seed
        return seeds

    def split(self, name: str, where: str) -> tuple[str, str]:
        """Arm and seed of a run that stands beside those of other arms."""
        hint = "say how runs are named: --run-names '{arm}-{seed}'"
        if self._expression:
            self.used = True
            match = self._expression.fullmatch(name)
            # A pattern may leave the arm out, where each folder is one.
            if not match or "arm" not in match.groupdict():
                raise InputError(
                    f"{where}: expected runs named like {self.pattern!r}, got {name!r}", hint=hint
                )
            return match["arm"], match["seed"]
        matches = list(_SEED.finditer(name))
        if len(matches) != 1:
            raise InputError(
                f"{where}: expected one seed in the name of each run, as in 'base-seed3', got "
                f"{name!r}",
                hint=hint,
            )
        # What stands around the seed is the arm: "base-seed3-lr1" is an arm of its own.
        (match,) = matches
        before, after = name[: match.start()], name[match.end() :]
        arm = before.rstrip("-_ ./") + after.rstrip("-_ ./")
        if not arm:
            raise InputError(f"{where}: expected an arm in the name of a run, got {name!r}")
        return arm, match[1]
