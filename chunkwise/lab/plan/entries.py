"""Complete drafts -> the entries of a plan, and what is said about each of them."""

import re

from chunkwise.lab.plan.actions import ActionText, read_action
from chunkwise.lab.plan.document import BELOW_LABEL, Action, Diagnostic, Entry, Severity
from chunkwise.lab.plan.draft import EXTRA, Draft
from chunkwise.lab.plan.inline import metrics_of_line, values_of_line
from chunkwise.lab.plan.labels import is_numbered_name
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
        name = f"at line {draft.first_line}"
        if draft.name:
            name = repr(draft.name)
        self.report(severity, code, f"entry {name}: {message}", draft.first_line)

    def keep(self, draft: Draft) -> None:
        """Add a complete draft to the entries, unless its part or its action is not usable."""
        self._take_name(draft)
        # A weak label is promoted only now, when it is known that no better one follows.
        draft.promote("part")
        part = ", ".join(draft.texts("part"))
        if not part:
            self._report_entry(draft, "error", "no-part", f"no ablated part; {FORM}")
        action = self._action(draft, part)
        if not part or not action:
            return
        name = draft.name
        if not name:
            name = f"{action} {part}".strip("# ")
        name = self._unique_name(name, draft.first_line)
        # "Setting: x" of what is removed is no replacement.
        if action != "REMOVE":
            draft.promote("replacement")
        draft.promote("metrics")
        replacements = self._replacements(draft, action, part)
        metrics, metrics_text = self._metrics(draft)
        below = _headings_above(draft)
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
                below=below,
                lines=(draft.first_line, draft.last_line),
            )
        )

    def _take_name(self, draft: Draft) -> None:
        """A label "Name" before the heading, which is often a number only."""
        if not draft.name:
            draft.promote("name")
        # Stripped, because a heading cannot give "#" back when the document is rendered.
        labelled = ", ".join(draft.texts("name"))
        name = labelled.strip("# ")
        if not name:
            return
        is_other = draft.name not in ("", name)
        if is_other and not is_numbered_name(draft.name):
            draft.notes.append(draft.name)
        draft.name = name

    def _action(self, draft: Draft, part: str) -> Action | None:
        """The action of a draft; values that stand behind it become its replacement."""
        has_replacement = draft.has("replacement")
        text = " ".join(draft.texts("action"))
        if not text:
            text = _action_elsewhere(draft, part, has_replacement)
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
            self._report_no_action(draft, text)
            return None
        self._take_values(draft, text, reading, has_replacement)
        return reading.action

    def _report_no_action(self, draft: Draft, text: str) -> None:
        code, problem = "no-action", "it is missing"
        if text:
            code, problem = "bad-action", f"got {text!r}"
        self._report_entry(
            draft,
            "error",
            code,
            f"expected the action ADD, REMOVE or REPLACE alone, as '- **Action**: REMOVE'; "
            f"{problem}",
        )

    def _take_values(
        self, draft: Draft, text: str, reading: ActionText, has_replacement: bool
    ) -> None:
        """Add the values of an action such as "replace with 50%" to the draft."""
        if not reading.is_exact:
            self._report_entry(
                draft, "note", "action-synonym", f"action {text!r} is read as {reading.action}"
            )
        if reading.values and has_replacement:
            draft.notes.append(f"Action: {text}")
        elif reading.values:
            draft.add("replacement", reading.values)

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
        values = _values_of(draft, part)
        unique: dict[str, RawValue] = {}
        for value in values:
            word = value.text.casefold()
            if action != "REMOVE" or word not in _NONE:  # "Replacement: none"
                unique.setdefault(word, value)
        if action != "REMOVE" and len(unique) < len(values):
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
        return tuple(unique.values())

    def _metrics(self, draft: Draft) -> tuple[tuple[str, ...], str | None]:
        """The metrics, and the line that they come from if they are written on one."""
        lines = draft.texts("metrics", is_item=False)
        items = draft.texts("metrics", is_item=True)
        metrics = []
        for line in lines:
            metrics += metrics_of_line(line)
        metrics += items
        if not metrics:
            self._report_entry(
                draft, "warning", "no-metrics", "no metrics; the profile's default metrics are used"
            )
        unique = tuple(dict.fromkeys(metrics))
        if not metrics or items or len(lines) > 1:
            return unique, None
        return unique, lines[0]

    def _extra(self, draft: Draft) -> dict[str, tuple[str, ...]]:
        extra = {}
        for key in draft.unknown_keys():
            texts = draft.texts(key)
            if texts:
                label = key.removeprefix(EXTRA)
                extra[label] = tuple(texts)
                self._report_entry(
                    draft,
                    "note",
                    "unknown-label",
                    f"the label {label!r} is not known and kept as it is",
                )
        return extra

    def _report_notes(self, draft: Draft) -> None:
        if not draft.notes:
            return
        count = len(draft.notes)
        lines, more = "a line", ""
        if count > 1:
            lines, more = f"{count} lines", " ..."
        first = one_line(draft.notes[0])[:60]
        self._report_entry(
            draft,
            "note",
            "kept-as-note",
            f"{lines} without a known label kept as notes, and not run: {first!r}{more}",
        )


def _headings_above(draft: Draft) -> tuple[str, ...]:
    """The headings that a draft stands below, on its page or as a rendered page lists them."""
    key = EXTRA + BELOW_LABEL
    listed = draft.texts(key)
    draft.values.pop(key, None)
    return (*draft.below, *listed)


def _action_elsewhere(draft: Draft, part: str, has_replacement: bool) -> str:
    """The action below a label that need not name one: "Type: REMOVE", "What to do: REMOVE"."""
    weak_keys = draft.weak_keys("action")
    for key in weak_keys + draft.unknown_keys():
        text = " ".join(draft.texts(key))
        reading = read_action(text, part, has_replacement)
        # Below a label of any name only the bare word.
        if reading and (reading.is_exact or key in weak_keys):
            del draft.values[key]
            return text
    return ""


# A part that names several: "neighbours and chunk length".
_SEVERAL_PARTS = re.compile(r"[,;&+/]|\b(?:and|plus)\b", re.IGNORECASE)


def _values_of(draft: Draft, part: str) -> list[RawValue]:
    """A draft's replacements in order, a line of several split."""
    lines = draft.texts("replacement", is_item=False)
    items = draft.texts("replacement", is_item=True)
    is_lead_in = bool(lines) and lines[-1].endswith(":")
    if items and is_lead_in:  # "one of:"
        draft.notes.append(lines.pop())
    values = []
    for line in lines:
        values += values_of_line(line, is_one_part=not _SEVERAL_PARTS.search(part))
    values += [parse_value(text) for text in items]
    return values
