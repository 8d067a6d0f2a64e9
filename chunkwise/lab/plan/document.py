"""A plan as it was read: one model for every format of a plan, and the Markdown page it renders to.

What plan text says is data: it is matched against names, never executed, and never used as a path.
"""

from collections.abc import Sequence
from typing import Any, Literal

from chunkwise.core.config import Config
from chunkwise.lab.plan.inline import values_of_line
from chunkwise.lab.plan.quantities import RawValue
from chunkwise.lab.plan.text import escape

BELOW_LABEL = "Section"  # of a rendered page, on which an entry stands below no other heading
Action = Literal["ADD", "REMOVE", "REPLACE"]
Severity = Literal["error", "warning", "note"]


class Entry(Config):
    """One ablation: what is done to which part, and by which metrics it is judged."""

    index: int
    """Place among the usable entries, from 1."""
    name: str
    ablated_part: str
    action: Action
    replacements: tuple[RawValue, ...] = ()
    metrics: tuple[str, ...] = ()
    metrics_text: str | None = None
    """The metrics as the one line that the plan wrote; `metrics` is our split of it."""
    extra: dict[str, tuple[str, ...]] = {}
    notes: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    """The headings that it stands below, the plan's own and the title left out, outermost first."""
    lines: tuple[int, int]
    """First and last line in the source, from 1."""

    def content(self) -> dict[str, Any]:
        """What the entry asks for, apart from where and how it was written."""
        names = {"name", "ablated_part", "action", "metrics", "extra", "notes"}
        fields = self.model_dump(mode="json", include=names)
        # The text alone: how a value is understood may improve, and the plan is still the same.
        return fields | {"replacements": [value.text for value in self.replacements]}

    def summary(self) -> dict[str, Any]:
        """The content, where it stands, and how each value is understood."""
        values = [value.model_dump(mode="json") for value in self.replacements]
        return self.content() | {
            "index": self.index,
            "lines": list(self.lines),
            "values": values,
        }


class Diagnostic(Config):
    """One remark on a plan; `code` is stable, `message` is for people."""

    severity: Severity
    code: str
    message: str
    line: int | None = None


class PlanDocument(Config):
    """A plan as it was read. Unusable entries are reported in `diagnostics` only."""

    source_sha256: str
    title: str | None = None
    """"planner/model/paper-id" on published pages."""
    trace: str = ""
    """The reasoning that led to the plan; shown, never interpreted."""
    paper: str = ""
    """The paper that the plan says it is about, below a label or key of its own."""
    front: tuple[str, ...] = ()
    """Lines and keys beside the entries, which may say what all of them are about."""
    entries: tuple[Entry, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def planner(self) -> str | None:
        return self._title_parts()[0]

    @property
    def model(self) -> str | None:
        return self._title_parts()[1]

    @property
    def paper_id(self) -> str | None:
        return self._title_parts()[2]

    def _title_parts(self) -> list[str] | list[None]:
        title = self.title or ""
        parts = [part.strip() for part in title.split("/")]
        if len(parts) != 3 or not all(parts):
            # A title of another form is free text, whose slashes separate nothing.
            return [None, None, None]
        return parts

    def content(self) -> dict[str, Any]:
        """What the document says, apart from how it was written: equal for every format of one
        plan.
        """
        return {
            "title": self.title,
            "trace": self.trace,
            "entries": [entry.content() for entry in self.entries],
        }

    @property
    def exit_code(self) -> int:
        """0 all entries usable, 3 some are not, 2 none is."""
        if not self.entries:
            return 2
        # Beside usable entries, each error is an unusable one; warnings and notes lose no entry.
        has_error = any(diagnostic.severity == "error" for diagnostic in self.diagnostics)
        if has_error:
            return 3
        return 0

    def summary(self) -> dict[str, Any]:
        """The object that `chunkwise plan check --json` prints."""
        return {
            "source_sha256": self.source_sha256,
            "title": self.title,
            "planner": self.planner,
            "model": self.model,
            "paper_id": self.paper_id,
            "entries": [entry.summary() for entry in self.entries],
            "diagnostics": [diagnostic.model_dump(mode="json") for diagnostic in self.diagnostics],
        }


def render(document: PlanDocument) -> str:
    """The document as a published page without HTML; `read.parse` reads it back to the same
    content.
    """
    blocks = []
    if document.title:
        title = escape(document.title)
        blocks.append(f"# {title}")
    if document.trace:
        blocks.append("## 🧠 Reasoning Trace")
        trace = document.trace.split("\n")
        blocks.append(_escaped(trace))
    about = []
    if document.paper:
        about.append(f"**Paper**: {document.paper}")
    for line in document.front:
        about.append(f"**About**: {line}")
    if about:
        # Without a heading of their own these lines would be read as the trace's.
        if document.trace:
            blocks.append("## About")
        blocks.append(_escaped(about))
    blocks.append("## 📋 Ablation Plan")
    for entry in document.entries:
        blocks.append(_escaped(_entry_lines(entry)))
    return "\n\n".join(blocks) + "\n"


def _escaped(lines: list[str]) -> str:
    return "\n".join(escape(line) for line in lines)


def _entry_lines(entry: Entry) -> list[str]:
    lines = [
        f"### {entry.name}",
        f"- **Ablated Part**: {entry.ablated_part}",
        f"- **Action**: {entry.action}",
    ]
    lines += _replacement_lines(entry.replacements)
    if entry.metrics_text:
        lines.append(f"- **Metrics**: {entry.metrics_text}")
    else:  # items stay items: on one line they would be split at their commas when read again
        lines += _list_field("Metrics", entry.metrics)
    lines += _list_field(BELOW_LABEL, entry.below)
    for label, texts in entry.extra.items():
        lines += _list_field(label, texts)
    return lines + _list_field("Notes", entry.notes)


def _replacement_lines(values: Sequence[RawValue]) -> list[str]:
    """The values as items, but for one that is a whole line, which would be no list as an item."""
    texts = [value.text for value in values]
    if len(values) == 1 and values[0].kind == "list":
        (line,) = texts
        if values_of_line(line, is_one_part=True) == list(values):
            return [f"- **Replacement**: {line}"]
    return _list_field("Replacement", texts)


def _list_field(label: str, texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    lines = [f"- **{label}**:"]
    for text in texts:
        lines.append(f"  - {text}")
    return lines
