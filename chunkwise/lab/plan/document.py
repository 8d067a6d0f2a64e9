"""A plan as it was read, in one form for all the forms that plans come in, and as the page that it
renders to.

What plan text says is data: it is matched against names, never executed, and never used as a path.
"""

from typing import Any, Literal

from pydantic import Field

from chunkwise.core.config import Config
from chunkwise.lab.plan.quantities import RawValue
from chunkwise.lab.plan.text import escape

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
    """The metrics as one line, where the plan wrote them so; splitting it is a reading of ours."""
    extra: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lines: tuple[int, int]
    """First and last line in the source, from 1."""

    def content(self) -> dict[str, Any]:
        """What the entry asks for, apart from where and how it was written."""
        asked = self.model_dump(
            mode="json", include={"name", "ablated_part", "action", "metrics", "extra", "notes"}
        )
        return asked | {"replacements": [value.text for value in self.replacements]}


class Diagnostic(Config):
    """One remark on a plan; `code` is stable, `message` is for people."""

    severity: Severity
    code: str
    message: str
    line: int | None = None


class PlanDocument(Config):
    """A plan as it was read. Unusable entries stand in `diagnostics` alone."""

    source_sha256: str
    title: str | None = None
    """"planner/model/paper-id" on published pages."""
    trace: str = ""
    """The reasoning that led to the plan; shown, never interpreted."""
    entries: tuple[Entry, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def planner(self) -> str | None:
        return self._title_part(0)

    @property
    def model(self) -> str | None:
        return self._title_part(1)

    @property
    def paper_id(self) -> str | None:
        return self._title_part(2)

    def _title_part(self, place: int) -> str | None:
        parts = (self.title or "").split("/")
        return (
            parts[place].strip()
            if len(parts) == 3 and all(part.strip() for part in parts)
            else None
        )

    def content(self) -> dict[str, Any]:
        """What the document says, apart from how it was written: equal for all forms of one
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
        return 3 if any(diagnostic.severity == "error" for diagnostic in self.diagnostics) else 0

    def summary(self) -> dict[str, Any]:
        """The object that `chunkwise plan check --json` prints."""
        entries = [
            entry.content()
            | {
                "index": entry.index,
                "lines": list(entry.lines),
                "values": [value.model_dump(mode="json") for value in entry.replacements],
            }
            for entry in self.entries
        ]
        about = {
            "title": self.title,
            "planner": self.planner,
            "model": self.model,
            "paper_id": self.paper_id,
        }
        diagnostics = [diagnostic.model_dump(mode="json") for diagnostic in self.diagnostics]
        return {
            "source_sha256": self.source_sha256,
            **about,
            "entries": entries,
            "diagnostics": diagnostics,
        }


def render(document: PlanDocument) -> str:
    """The document in the published page form, without HTML; `plan.parse` reads it back to the same
    content.
    """
    blocks = [f"# {escape(document.title)}"] if document.title else []
    if document.trace:
        trace = "\n".join(escape(line) for line in document.trace.split("\n"))
        blocks += ["## 🧠 Reasoning Trace", trace]
    blocks.append("## 📋 Ablation Plan")
    for entry in document.entries:
        lines = [
            f"### {entry.name}",
            f"- **Ablated Part**: {entry.ablated_part}",
            f"- **Action**: {entry.action}",
        ]
        if entry.replacements:
            lines += ["- **Replacement**:", *(f"  - {value.text}" for value in entry.replacements)]
        if entry.metrics_text:
            lines.append(f"- **Metrics**: {entry.metrics_text}")
        elif entry.metrics:
            lines += ["- **Metrics**:", *(f"  - {metric}" for metric in entry.metrics)]
        for label, texts in entry.extra.items():
            lines += [f"- **{label}**:", *(f"  - {text}" for text in texts)]
        if entry.notes:
            lines += ["- **Notes**:", *(f"  - {note}" for note in entry.notes)]
        blocks.append("\n".join(escape(line) for line in lines))
    return "\n\n".join(blocks) + "\n"
