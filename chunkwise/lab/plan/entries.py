"""Complete drafts -> the entries of a plan, and what is said about each of them."""

from chunkwise.lab.plan.document import Action, Diagnostic, Entry, Severity
from chunkwise.lab.plan.draft import EXTRA, Draft
from chunkwise.lab.plan.forms import split_list, split_metrics
from chunkwise.lab.plan.labels import is_numbered_name, read_action
from chunkwise.lab.plan.quantities import RawValue, parse_value
from chunkwise.lab.plan.text import one_line

FORM = (
    "write an entry as a heading '### Name', and below it '- **Ablated Part**: ...', "
    "'- **Action**: ADD, REMOVE or REPLACE', '- **Replacement**: ...', '- **Metrics**: ...'"
)

_NONE = {"none", "n/a", "na", "-", "–", "—", "not applicable", "nothing", "null"}


class Entries:
    """The usable entries of one source, and the diagnostics of it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.diagnostics: list[Diagnostic] = []
        # Overrides and reports address an entry by its name.
        self._names: set[str] = set()
        self._last_number: dict[str, int] = {}

    def report(self, severity: Severity, code: str, message: str, line: int | None = None) -> None:
        self.diagnostics.append(
            Diagnostic(severity=severity, code=code, message=message, line=line)
        )

    def _report_entry(self, draft: Draft, severity: Severity, code: str, message: str) -> None:
        name = repr(draft.name) if draft.name else f"at line {draft.first_line}"
        self.report(severity, code, f"entry {name}: {message}", draft.first_line)

    def keep(self, draft: Draft) -> None:
        """Add a complete draft to the entries, unless its part or its action is not usable."""
        self._take_name(draft)
        draft.promote("part")
        part = ", ".join(draft.texts("part"))
        if not part:
            self._report_entry(draft, "error", "no-part", f"no ablated part; {FORM}")
        action = self._action(draft, part)
        if not part or not action:
            return
        name = draft.name or f"{action} {part}".strip("# ")
        name = self._unique_name(name, draft.first_line)
        if action != "REMOVE":
            draft.promote("replacement")
        draft.promote("metrics")
        replacements = self._replacements(draft, action, part)
        metrics, metrics_text = self._metrics(draft)
        extra = self._extra(draft)
        self._report_notes(draft)
        notes = draft.notes + draft.texts("notes")
        self.entries.append(
            Entry(
                index=len(self.entries) + 1,
                name=name,
                ablated_part=part,
                action=action,
                replacements=replacements,
                metrics=metrics,
                metrics_text=metrics_text,
                extra=extra,
                notes=tuple(note for note in notes if note),
                lines=(draft.first_line, draft.last_line),
            )
        )

    def _take_name(self, draft: Draft) -> None:
        """A label "Name" before the heading, which is often a number only."""
        if not draft.name:
            draft.promote("name")
        # Stripped, because a heading cannot give "#" back when the document is rendered.
        name = ", ".join(draft.texts("name")).strip("# ")
        if name and draft.name and draft.name != name and not is_numbered_name(draft.name):
            draft.notes.append(draft.name)
        draft.name = name or draft.name

    def _action(self, draft: Draft, part: str) -> Action | None:
        """The action of a draft; values that stand behind it become its replacement."""
        has_replacement = draft.has("replacement")
        text = " ".join(draft.texts("action"))
        for key in () if text else draft.weak_keys("action") + draft.unknown_keys():
            text = " ".join(draft.texts(key))
            reading = read_action(text, part, has_replacement)
            # Below a label of any name only the bare word: "What to do: REMOVE".
            if reading and (reading.is_exact or key in draft.weak_keys("action")):
                del draft.values[key]
                break
            text = ""
        if not text and has_replacement:
            self._report_entry(
                draft,
                "warning",
                "action-inferred",
                "no action is named; with the replacements that it names it is read as REPLACE",
            )
            return "REPLACE"
        reading = read_action(text, part, has_replacement)
        if reading is None:
            code, problem = (
                ("bad-action", f"got {text!r}") if text else ("no-action", "it is missing")
            )
            self._report_entry(
                draft,
                "error",
                code,
                f"expected the action ADD, REMOVE or REPLACE alone, as '- **Action**: REMOVE'; "
                f"{problem}",
            )
            return None
        if not reading.is_exact:
            self._report_entry(
                draft, "note", "action-synonym", f"action {text!r} is read as {reading.action}"
            )
        if reading.values and has_replacement:
            draft.notes.append(f"Action: {text}")
        elif reading.values:
            draft.add("replacement", reading.values)
        return reading.action

    def _unique_name(self, name: str, line: int) -> str:
        unique = name
        while unique in self._names:
            # Counted on from the last one: from 2 each time would take quadratic time.
            number = self._last_number.get(name, 1) + 1
            self._last_number[name] = number
            unique = f"{name} ({number})"
        self._names.add(unique)
        if unique != name:
            self.report(
                "warning",
                "duplicate-name",
                f"two entries are named {name!r}; this one is {unique!r}",
                line,
            )
        return unique

    def _replacements(self, draft: Draft, action: Action, part: str) -> tuple[RawValue, ...]:
        lines = draft.texts("replacement", is_item=False)
        items = draft.texts("replacement", is_item=True)
        if items and lines and lines[-1].endswith(":"):  # "one of:" leads in to the items
            draft.notes.append(lines.pop())
        texts = [text for line in lines for text in split_list(line)] + items
        unique: dict[str, str] = {}
        for text in texts:
            unique.setdefault(text.casefold(), text)
        if action == "REMOVE":  # "Replacement: none"
            unique = {word: text for word, text in unique.items() if word not in _NONE}
        elif len(unique) < len(texts):
            self._report_entry(
                draft, "warning", "duplicate-replacement", "a replacement stands twice"
            )
        if action == "REMOVE" and unique:
            self._report_entry(
                draft,
                "warning",
                "remove-with-replacement",
                "REMOVE takes no replacement, and with one it is refused "
                "(to try something else in its place, write REPLACE)",
            )
        elif action == "REPLACE" and not unique:
            self._report_entry(draft, "warning", "no-replacement", "REPLACE names no replacement")
        elif action == "ADD" and not unique:
            self._report_entry(
                draft,
                "warning",
                "no-replacement",
                f"ADD names no option; {part!r} itself is added",
            )
        return tuple(parse_value(text) for text in unique.values())

    def _metrics(self, draft: Draft) -> tuple[tuple[str, ...], str | None]:
        """The metrics, and the line that they come from if they are written on one."""
        lines = draft.texts("metrics", is_item=False)
        items = draft.texts("metrics", is_item=True)
        metrics = [metric for line in lines for metric in _metrics_of(line)] + items
        if not metrics:
            self._report_entry(
                draft, "warning", "no-metrics", "no metrics; the profile's default metrics are used"
            )
        line = None
        if metrics and len(lines) == 1 and not items:
            line = lines[0]
        return tuple(dict.fromkeys(metrics)), line

    def _extra(self, draft: Draft) -> dict[str, tuple[str, ...]]:
        extra = {}
        for field in draft.values:
            texts = draft.texts(field)
            if field.startswith(EXTRA) and texts:
                label = field.removeprefix(EXTRA)
                extra[label] = tuple(texts)
                self._report_entry(
                    draft,
                    "note",
                    "unknown-label",
                    f"the label {label!r} is not known and kept as it is",
                )
        return extra

    def _report_notes(self, draft: Draft) -> None:
        if draft.notes:
            count = len(draft.notes)
            lines = "a line" if count == 1 else f"{count} lines"
            self._report_entry(
                draft,
                "note",
                "kept-as-note",
                f"{lines} without a known label kept as notes, and not run: "
                f"{one_line(draft.notes[0])[:60]!r}" + (" ..." if count > 1 else ""),
            )


def _metrics_of(line: str) -> list[str]:
    """The metrics of a line; "[a, b]" is a list of two."""
    if line.startswith("[") and line.endswith("]"):
        return [metric.strip("\"' ") for metric in split_metrics(line[1:-1])]
    return split_metrics(line)
