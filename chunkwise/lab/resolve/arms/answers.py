"""The overrides file of a plan, written from what its words became: what is understood stands in
it as settings, what is refused as a comment to fill in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from chunkwise.lab.resolve.arms.said import said
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.resolution import EntryResolution, ReplacementResolution, Resolution
from chunkwise.lab.terms import Arm


def overrides_text(resolution: Resolution, registry: Registry) -> str:
    """A YAML file that `--overrides` takes, and that changes nothing until it is edited."""
    lines: list[str] = []
    is_empty = True
    for entry, became in zip(resolution.entries, said(resolution), strict=True):
        # Of the plan's own words: a line of theirs must not leave the comment.
        lines += [f"  # {' '.join(reason.split())}" for reason in became.reasons]
        answer = _answer(entry, registry)
        if answer:
            is_empty = False
            lines += _written(entry.name, answer)
        else:
            lines += [f"  # {line}" for line in _form(entry)]
    head = [
        f"# How the plan is read under profile {resolution.profile}. Change what is read otherwise",
        "# than you mean it, fill in what is refused, and give the file to --overrides.",
        "# `chunkwise plan components NAME` says what a component takes.",
        "entries: {}" if is_empty else "entries:",
    ]
    return "\n".join(head + lines) + "\n"


def _answer(entry: EntryResolution, registry: Registry) -> dict[str, Any]:
    """What the resolver found, as an override; empty where it found nothing."""
    answer: dict[str, Any] = {}
    # An override names one component; with several the words themselves have to say which.
    if len(entry.components) == 1:
        answer["component"] = entry.components[0]
    replacements = {}
    # What stands for the part itself is no words of the plan that could be answered.
    itself = f"{entry.action} {entry.ablated_part}"
    for row in entry.replacements:
        settings = _settings(row, entry, registry)
        if settings and row.words != itself:
            replacements[row.words] = settings
    if replacements:
        answer["replacements"] = replacements
    return answer


def _settings(
    row: ReplacementResolution, entry: EntryResolution, registry: Registry
) -> dict[str, Any]:
    """Path -> value that a row's words mean, without consequences and references."""
    arm = _arm_of(row, entry)
    if arm is None or row.component is None:
        return {}
    # A value may belong to another part than the one named ("retriever: random neighbours"). The
    # resolver finds it there again; as an answer it would be a stray setting.
    below = [field.component for field in registry.family(entry.components)]
    if row.component not in (*entry.components, *below):
        return {}
    settings = {}
    for path, value in arm.changes.items():
        field = registry.fields.get(path)
        is_of_component = field is not None and field.component == row.component
        if path == row.path or is_of_component:
            settings[path] = value
    return settings


def _arm_of(row: ReplacementResolution, entry: EntryResolution) -> Arm | None:
    """The arm that a row was resolved to."""
    if row.status != "resolved":
        return None
    for arm in entry.arms:
        if arm.id == row.arm:
            return arm
    return None


def _form(entry: EntryResolution) -> Iterator[str]:
    """An entry to fill in."""
    yield f"{_quoted(entry.name)}:"
    yield f"  component: {entry.runner_up or 'NAME'}"


def _written(name: str, answer: dict[str, Any]) -> Iterator[str]:
    """An entry of the file. Words are quoted: a plan may write `1e-4`, `on` or `a: b`."""
    yield f"  {_quoted(name)}:"
    if "component" in answer:
        yield f"    component: {answer['component']}"
    if "replacements" in answer:
        yield "    replacements:"
    for words, settings in answer.get("replacements", {}).items():
        yield f"      {_quoted(words)}:"
        for path, value in settings.items():
            yield f"        {path}: {_quoted(value)}"


def _quoted(value: Any) -> str:
    """A value as JSON, which is YAML too."""
    return json.dumps(value, ensure_ascii=False)
