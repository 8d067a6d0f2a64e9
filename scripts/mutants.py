"""Tests that bite: change the package one operator at a time, and see whether a test fails.

    python scripts/mutants.py                            # all modules below, as far as they were not run yet
    python scripts/mutants.py noise verdicts --jobs 2    # modules by name
    python scripts/mutants.py --list                     # what a run would change

Every mutant is a copy of the package in which one comparison, operator, constant, boolean or call of min and max is
another one. The tests of its module run on it in a process that is forked from one with numpy, scipy and pytest loaded,
which makes a mutant cost a few seconds and the quick modules an hour or two. Results are kept in .mutants/results.json
under the text of the change, so a run that was stopped goes on and an edit elsewhere in a module costs nothing.

A survivor is a line that no test holds, or a change that means the same: docs/mutants.md lists those, each with its
reason, and they count as explained. No tool of its own (mutmut, cosmic-ray): it would be one more dependency, and what
it changes is the same.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".mutants" / "results.json"
EXPLAINED = ROOT / "docs" / "mutants.md"
MEASURE, PLAN, RESOLVE = "chunkwise/lab/measure/", "chunkwise/lab/plan/", "chunkwise/lab/resolve/"
TESTS = {
    MEASURE + "noise.py": "lab/test_noise lab/test_contrasts",
    MEASURE + "critical.py": "lab/test_critical lab/test_noise",
    MEASURE + "verdicts.py": "lab/test_verdicts lab/test_contrasts",
    MEASURE + "slopes.py": "lab/test_slopes lab/test_contrasts",
    MEASURE + "statistics.py": "lab/test_statistics lab/test_contrasts",
    MEASURE + "sides.py": "lab/test_contrast_cases lab/test_contrasts",
    MEASURE + "contrast.py": "lab/test_contrast_cases lab/test_contrasts",
    MEASURE + "contrasts.py": "lab/test_contrast_cases lab/test_contrasts",
    MEASURE + "families.py": "lab/test_contrast_cases lab/test_contrasts",
    MEASURE + "checks.py": "lab/test_checks",
    MEASURE + "gains.py": "lab/test_gains",
    MEASURE + "exchange.py": "lab/test_exchange",
    MEASURE + "published.py": "lab/test_published",
    "chunkwise/lab/study/stops.py": "lab/test_stops",
    PLAN + "amount_items.py": "lab/test_quantities lab/test_values",
    PLAN + "amounts.py": "lab/test_quantities lab/test_values",
    PLAN + "lists.py": "lab/test_quantities lab/test_values",
    PLAN + "pieces.py": "lab/test_quantities lab/test_values",
    PLAN + "unclear.py": "lab/test_quantities lab/test_values",
    RESOLVE + "arms/build.py": "lab/test_resolve lab/test_variants lab/test_study",
    RESOLVE + "arms/entry.py": "lab/test_resolve lab/test_variants lab/test_study",
    RESOLVE + "arms/numbers.py": "lab/test_values lab/test_resolve",
    RESOLVE + "arms/options.py": "lab/test_values lab/test_resolve",
    RESOLVE + "arms/sizes.py": "lab/test_values lab/test_resolve",
    RESOLVE + "arms/status.py": "lab/test_resolve lab/test_variants lab/test_study",
    RESOLVE + "arms/values.py": "lab/test_values lab/test_resolve",
    RESOLVE + "arms/wording.py": "lab/test_values lab/test_resolve",
    RESOLVE + "components.py": "lab/test_registry lab/test_resolve",
    RESOLVE + "paper.py": "lab/test_subject lab/test_resolve",
    RESOLVE + "resolution.py": "lab/test_resolve lab/test_variants",
    RESOLVE + "entry_part.py": "lab/test_resolve lab/test_parts lab/test_subject",
    RESOLVE + "names.py": "lab/test_registry lab/test_parts lab/test_vocabulary",
    RESOLVE + "parts.py": "lab/test_registry lab/test_parts lab/test_resolve",
    RESOLVE + "words.py": "lab/test_parts lab/test_vocabulary",
    RESOLVE + "vocabulary.py": "lab/test_vocabulary lab/test_registry lab/test_resolve",
    "chunkwise/evaluation/overlap.py": "evaluation/test_overlap",
    "chunkwise/corpus/decontaminate.py": "corpus/test_decontaminate corpus/test_disguises",
}
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        key: module, function and change in words; stays the same when other lines move.
        source: of the whole module with the change.
    """

    module: str
    key: str
    source: str


# ---- changes ----


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                changed = copy.deepcopy(node)
                changed.ops[place] = other()
                yield changed
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        changed = copy.deepcopy(node)
        changed.op = OPERATORS[type(node.op)]()
        yield changed
    elif isinstance(node, ast.BoolOp):
        changed = copy.deepcopy(node)
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield changed
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.If | ast.IfExp):
        changed = copy.deepcopy(node)
        changed.test = ast.UnaryOp(ast.Not(), node.test)
        yield changed
    elif isinstance(node, ast.Call):
        name = node.func
        if isinstance(name, ast.Name) and name.id in CALLS:
            yield ast.Call(ast.Name(CALLS[name.id], ast.Load()), node.args, node.keywords)
        elif isinstance(name, ast.Attribute) and name.attr in CALLS:
            attribute = ast.Attribute(name.value, CALLS[name.attr], ast.Load())
            yield ast.Call(attribute, node.args, node.keywords)


def _changeable(node: ast.AST, place: tuple[str, ...]) -> Iterator[tuple[ast.AST, str, int | None, tuple[str, ...]]]:
    """(parent, field, index, names of the functions around) of what runs; no annotation, text of an error or assert."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return  # an assert in other words
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        place = (*place, node.name)
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield node, name, index, place
                yield from _changeable(child, place)


def mutants_of(module: str) -> Iterator[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    for parent, name, index, place in _changeable(tree, ()):
        value = getattr(parent, name)
        child = value if index is None else value[index]
        for other in replacements(child):
            before, after = _words(child), _words(other)
            key = f"{module} {'.'.join(place) or 'module'}: {before} -> {after}"
            seen[key] += 1
            if seen[key] > 1:
                key += f" ({seen[key]})"
            _set(parent, name, index, other)
            yield Mutant(module, key, ast.unparse(ast.fix_missing_locations(tree)))
            _set(parent, name, index, child)


def _set(parent: ast.AST, name: str, index: int | None, value: ast.AST) -> None:
    if index is None:
        setattr(parent, name, value)
    else:
        getattr(parent, name)[index] = value


def _words(node: ast.AST) -> str:
    """A node on one line; of an `if` its condition."""
    if isinstance(node, ast.If):
        return f"if {_words(node.test)}"
    return " ".join(ast.unparse(node).split())


# ---- running them ----


@dataclass
class Worker:
    """A copy of the tree in which one mutant at a time is tested."""

    folder: Path
    process: int = 0
    mutant: Mutant | None = None
    deadline: float = 0.0
    original: dict[str, str] = field(default_factory=dict)

    def start(self, mutant: Mutant, seconds: float) -> None:
        """Test a mutant in a child of this process."""
        self.write(mutant.module, mutant.source)
        self.mutant, self.deadline = mutant, time.monotonic() + seconds
        self.process = os.fork()
        if self.process == 0:
            test(self.folder, mutant.module)

    def end(self) -> None:
        """The module as it was."""
        assert self.mutant is not None
        self.write(self.mutant.module, self.original[self.mutant.module])
        self.mutant = None

    def write(self, module: str, source: str) -> None:
        path = self.folder / module
        self.original.setdefault(module, path.read_text(encoding="utf-8"))
        path.write_text(source, encoding="utf-8")


def copy_tree(folder: Path) -> None:
    """What git would commit, with what is not added yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def test(folder: Path, module: str) -> None:
    """In a child: the tests of a module; ends the process with pytest's status."""
    os.setsid()
    os.chdir(folder)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.path[:] = [str(folder), *(path for path in sys.path if path not in ("", str(ROOT), str(ROOT / "scripts")))]
    sys.dont_write_bytecode = True  # a mutant of the same length and second would be taken for its neighbour
    import pytest

    files = [f"tests/{name}.py" for name in TESTS[module].split()]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutants", "-m", "not slow"]
    status = 3
    try:
        status = int(pytest.main([*options, *files]))
    finally:
        os._exit(status)


def run(mutants: list[Mutant], results: dict[str, str], jobs: int) -> None:
    """Fill in `results`: "killed", "survived", or "killed (timeout)"."""
    waiting = list(reversed(mutants))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        workers = [Worker(Path(folder, str(number))) for number in range(jobs)]
        for worker in workers:
            copy_tree(worker.folder)
        limits: dict[str, float] = {}
        while waiting or any(worker.mutant for worker in workers):
            for worker in workers:
                if worker.mutant is None and waiting:
                    mutant = waiting.pop()
                    if mutant.module not in limits:
                        limits[mutant.module] = 30 + 4 * _unchanged(worker, mutant.module)
                    worker.start(mutant, limits[mutant.module])
            time.sleep(0.05)
            for worker in workers:
                if worker.mutant and (outcome := _outcome(worker)):
                    results[worker.mutant.key] = outcome
                    print(f"{outcome:10} {worker.mutant.key}  [{len(waiting)} left]", flush=True)
                    worker.end()
                    _write(results)


def _unchanged(worker: Worker, module: str) -> float:
    """Seconds that the tests of a module take; they must pass."""
    source = (worker.folder / module).read_text(encoding="utf-8")
    start = time.monotonic()
    worker.start(Mutant(module, "unchanged", ast.unparse(ast.parse(source))), 3600)
    while (outcome := _outcome(worker)) is None:
        time.sleep(0.05)
    worker.end()
    if outcome != "survived":
        sys.exit(f"{module}: {TESTS[module]} fail without any change")
    seconds = time.monotonic() - start
    print(f"{module}: {TESTS[module]} take {seconds:.0f} s", flush=True)
    return seconds


def _outcome(worker: Worker) -> str | None:
    """How a child ended; None while it runs."""
    process, status = os.waitpid(worker.process, os.WNOHANG)
    if process:
        return "survived" if status == 0 else "killed"
    if time.monotonic() < worker.deadline:
        return None
    os.killpg(worker.process, signal.SIGKILL)
    os.waitpid(worker.process, 0)
    return "killed (timeout)"


def _write(results: dict[str, str]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(results, indent=0, sort_keys=True), encoding="utf-8")
    part.replace(RESULTS)


def summary(mutants: list[Mutant], results: dict[str, str]) -> str:
    """A line for each module, and the survivors that nobody has explained."""
    explained = EXPLAINED.read_text(encoding="utf-8") if EXPLAINED.exists() else ""
    lines, unexplained = [], []
    for module in dict.fromkeys(mutant.module for mutant in mutants):
        keys = [mutant.key for mutant in mutants if mutant.module == module]
        survivors = [key for key in keys if results.get(key) == "survived"]
        killed = sum(results.get(key, "").startswith("killed") for key in keys)
        known = sum(f"`{key}`" in explained for key in survivors)
        unexplained += [key for key in survivors if f"`{key}`" not in explained]
        share = 100 * killed / max(1, killed + len(survivors))
        lines.append(
            f"{module}: {killed} of {killed + len(survivors)} killed ({share:.1f} %), {known} survivors explained, "
            f"{len(survivors) - known} not, {len(keys) - killed - len(survivors)} not run"
        )
    return "\n".join([*lines, *(f"not explained: {key}" for key in unexplained)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="parts of their names; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time; default 2")
    parser.add_argument("--list", action="store_true", help="run nothing: the mutants, with results where there are")
    parser.add_argument("--again", action="store_true", help="also those that survived before")
    options = parser.parse_args()
    modules = [name for name in TESTS if not options.modules or any(part in name for part in options.modules)]
    mutants = [mutant for module in modules for mutant in mutants_of(module)]
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if options.list:
        for mutant in mutants:
            print(f"{results.get(mutant.key, 'not run'):10} {mutant.key}")
    else:
        done = {key for key, outcome in results.items() if not (options.again and outcome == "survived")}
        for name in ("pytest", "hypothesis", "numpy", "scipy.stats", "scipy.optimize", "pydantic"):
            __import__(name)  # before the forks, which then share them
        run([mutant for mutant in mutants if mutant.key not in done], results, options.jobs)
    print(summary(mutants, results))


if __name__ == "__main__":
    main()
