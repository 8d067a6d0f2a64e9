"""One entry of a plan: the rows, arms and warnings that its replacements become."""

import contextlib
from collections.abc import Iterable
from dataclasses import replace

from chunkwise.lab.plan.document import Entry
from chunkwise.lab.plan.quantities import RawValue, parse_value
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.build import ArmBuilder, check_hygiene
from chunkwise.lab.resolve.arms.buildable import base_facts
from chunkwise.lab.resolve.arms.companions import (
    SECOND_DONE,
    SECOND_MEANINGS,
    as_second_meaning,
    with_mixture,
    without_lone_level,
)
from chunkwise.lab.resolve.arms.layers import layer_numbers
from chunkwise.lab.resolve.arms.overrides import EntryOverride
from chunkwise.lab.resolve.arms.reading import Reading, Unclear, part_words
from chunkwise.lab.resolve.arms.status import entry_status
from chunkwise.lab.resolve.arms.values import Interpreter
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.entry_part import EntryPart
from chunkwise.lab.resolve.metrics import metrics_of
from chunkwise.lab.resolve.outside import outside_value
from chunkwise.lab.resolve.paper import Paper
from chunkwise.lab.resolve.resolution import EntryResolution, ReplacementResolution
from chunkwise.lab.resolve.routes import asked_next, remark_on, removed_instead, unclear_removal
from chunkwise.lab.resolve.subject import Subject
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.resolve.words import is_denial, normalise
from chunkwise.lab.terms import Arm

# Values that say no more than that something is there or is not.
_SWITCHES = {
    *("on", "yes", "true", "enabled", "1"),
    *("off", "no", "false", "disabled", "none", "nothing", "0"),
}
# First stages of arms whose models are the baseline's as long as text is measured.
_AFTER_TEXT = ("questions", "instruct", "qa")
_TEXT_METRICS = ("perplexity", "bits_per_byte")


class EntryResolver:
    """Collects the rows, arms and warnings of one entry."""

    def __init__(
        self,
        entry: Entry,
        override: EntryOverride,
        profile: Profile,
        paper: Paper | None,
        registry: Registry,
        subject: Subject,
    ) -> None:
        self.entry = entry
        self.profile = profile
        self.registry = registry
        self.subject = subject
        self.builder = ArmBuilder(profile, registry)
        self.by_user = bool(override.component)
        self.part = EntryPart(entry, profile, registry, subject, override.component)
        self.match = self.part.match
        self.asked = self.part.straightened()
        self.interpreter = Interpreter(
            profile,
            paper,
            registry,
            self.match.components,
            override.replacements,
            subject.refusal,
            is_turned=self.asked.action != entry.action,
        )
        self.rows: list[ReplacementResolution] = []
        self.arms: dict[str, Arm] = {}
        self.warnings: list[str] = []

    def _fields_of(self, component: str) -> list[KnobField]:
        return self.registry.components[component].fields

    # --- the entry as a whole ---------------------------------------------------------------------

    def resolution(self) -> EntryResolution:
        """What the entry became."""
        if not self.match.components:
            self._refuse()
        elif not self._has_replacement():
            self._resolve()
        entry, match = self.entry, self.match
        runner_up = match.runner_up
        return EntryResolution(
            index=entry.index,
            name=entry.name,
            ablated_part=entry.ablated_part,
            action=entry.action,
            status=entry_status(self.rows),
            components=match.components,
            score=match.score,
            runner_up=runner_up and runner_up.owner,
            runner_up_score=runner_up and runner_up.score,
            by="user" if self.by_user else "rule",
            replacements=tuple(self.rows),
            arms=tuple(self.arms.values()),
            metrics=metrics_of(entry, self.profile, self.subject),
            warnings=tuple(self.warnings),
        )

    def _refuse(self) -> None:
        message = self.match.outside or self.part.closest()
        self.warnings.append(message)
        words = [value.text for value in self.entry.replacements]
        for text in words or [part_words(self.entry)]:
            self._add_refused(text, message)

    def _add_refused(self, words: str, message: str) -> None:
        row = ReplacementResolution(words=words, status="unresolved", message=message)
        self.rows.append(row)

    def _has_replacement(self) -> bool:
        """Refuse the replacements of a REMOVE: the whole part would go, and not what they ask."""
        if self.entry.action != "REMOVE":
            return False
        values = [value for value in self.entry.replacements if not is_denial(value.text)]
        for value in values:
            message = (
                f"REMOVE takes the whole part away and takes no replacement, got {value.text!r}; "
                "write REPLACE to put it in the part's place, or leave it out"
            )
            self._add_refused(value.text, message)
            self.warnings.append(message)
        return bool(values)

    def _resolve(self) -> None:
        for value in self._requests():
            row, arm = self._row(value, self.interpreter)
            self.rows.append(row)
            if arm:
                # Equal replacements share an arm.
                self.arms.setdefault(arm.id, arm)
                self._warn(row, arm)
        # All rows first: the mixture holds what every composition of the entry names.
        self.arms = with_mixture(self.arms, self.profile)
        # Beside a joint removal the gate alone at 0 would be the removal of something else.
        is_joint = any(arm.joint for arm in self.arms.values())
        if self.asked.action == "REMOVE" and self.arms and not is_joint:
            for component in self.match.components:
                self._add_second_meaning(component)
        self.arms = without_lone_level(self.arms)
        # The mixture gave some arms another id; here they are still under the id of their row.
        for position, row in enumerate(self.rows):
            if row.arm in self.arms:
                arm_id = self.arms[row.arm].id
                self.rows[position] = row.model_copy(update={"arm": arm_id})

    def _requests(self) -> list[RawValue | None]:
        """What the entry asks for, without the lines of which only a part is understood."""
        values = []
        for value in self.entry.replacements:
            problem = self._half_understood(value)
            if problem:
                self._add_refused(value.text, problem)
            else:
                values.append(value)
        if self.entry.replacements and not values:
            return []
        entry = self.entry.model_copy(update={"replacements": tuple(values)})
        return self.interpreter.requests(entry)

    def _half_understood(self, value: RawValue) -> str:
        """Why a line is no list of values, "" where it is: in "600B tokens, random subset" words
        may limit the amount, which alone would be another arm.
        """
        if not isinstance(value.value, list) or value.kind != "list":
            return ""
        if value.text in self.interpreter.answers:
            return ""
        pieces = [parse_value(str(text)) for text in value.value]
        unknown = [piece.text for piece in pieces if not self._is_known(piece)]
        if not unknown or len(unknown) == len(pieces):
            return ""
        return (
            f"{value.text!r} is understood in part only: {unknown[0]!r} may limit the other values "
            "or be one more, unknown here; write one value a line"
        )

    def _is_known(self, piece: RawValue) -> bool:
        """Whether a piece of a line is an amount, or words that mean something for the part."""
        if piece.kind != "prose":
            return True
        try:
            self._read(piece, self.interpreter)
        except Unclear as unclear:
            return unclear.update["status"] != "unresolved"
        return True

    def _add_second_meaning(self, component: str) -> None:
        """Add the other arm of a removal that can be read in two ways."""
        second = SECOND_MEANINGS.get(component)
        if second not in self.registry.components:
            return
        interpreter = replace(self.interpreter, component_ids=(second,))
        row, arm = self._row(None, interpreter)
        if row.status == "left-out":
            self.warnings.append(f"{row.words} has a second meaning that is not run: {row.message}")
        if arm:
            self.arms[arm.id] = as_second_meaning(arm, row.words)
            self.warnings.append(
                f"{row.words} has a second meaning, {arm.id}: {SECOND_DONE}; it is shown beside "
                "the first"
            )

    def _warn(self, row: ReplacementResolution, arm: Arm) -> None:
        """Add what to know of an arm before it is believed."""
        warnings = [row.message] if row.message else []
        for component in self.match.components:
            warnings += remark_on(component, self.entry.ablated_part)
        if arm.joint:
            warnings.append(
                "a joint change of several settings, which cannot be attributed to one of them"
            )
        if arm.unused:
            sections = " and ".join(arm.unused)
            warnings.append(
                f"nothing uses {sections} any more, so what they set up is dropped; the arm has "
                "fewer parameters and FLOPs, so the contrast is confounded by size"
            )
        if arm.id == "twin" and self.profile.retrofit.freeze_backbone:
            warnings.append("the backbone is frozen, so the twin is the base itself")
        if self._is_after_text(arm):
            metrics = metrics_of(self.entry, self.profile, self.subject)
            if any(metric.id in _TEXT_METRICS for metric in metrics):
                warnings.append(
                    "perplexity is measured before tuning and without prompts, so it cannot differ"
                )
        for warning in warnings:
            self.warnings.append(f"{row.words}: {warning}")

    def _is_after_text(self, arm: Arm) -> bool:
        """Whether all that an arm changes comes after text is measured."""
        fields = [self.registry.fields.get(path) for path in arm.changes]
        stages = {field.stage for field in fields if field is not None}
        return stages.issubset(_AFTER_TEXT)

    # --- one replacement --------------------------------------------------------------------------

    def _row(
        self, value: RawValue | None, interpreter: Interpreter
    ) -> tuple[ReplacementResolution, Arm | None]:
        """The row of one request, and its arm if it makes one."""
        words = value.text if value else part_words(self.entry)
        row = ReplacementResolution(words=words, status="unresolved")
        try:
            reading, interpreter = self._read(value, interpreter)
            # It keeps what was read, also where no arm can be made of it.
            row = reading.row
            arm = self.builder.arm(reading)
        except Unclear as unclear:
            return row.model_copy(update=unclear.update), None
        if arm is None:
            message = row.message or "this is the baseline's value"
            return row.model_copy(update={"arm": "baseline", "message": message}), None
        check_hygiene(arm, interpreter.component_ids, self.registry)
        return row.model_copy(update={"arm": arm.id}), arm

    def _read(
        self, value: RawValue | None, interpreter: Interpreter
    ) -> tuple[Reading, Interpreter]:
        """What a request means, asked of the part's components and then of those that its words may
        belong to.

        Raises:
            Unclear: it means nothing here.
        """
        self._require_clear_switch(value)
        self._require_clear_removal(value, interpreter)
        try:
            reading = interpreter.read(self.asked, value)
        except Unclear as unclear:
            refusal = unclear
        else:
            self._require_one_part(value, reading)
            return reading, interpreter
        # A value that no component has is refused as such, before others are asked for it.
        outside = outside_value(value.text) if value else None
        if outside:
            raise Unclear(outside, component=self.match.components[0])
        if value is None or len(interpreter.component_ids) != 1:
            raise refusal
        return self._read_elsewhere(value, interpreter, refusal)

    def _read_elsewhere(
        self, value: RawValue, interpreter: Interpreter, refusal: Unclear
    ) -> tuple[Reading, Interpreter]:
        """What a value means to the components that it may belong to, the part's own first.

        Args:
            refusal: of the part's own component.
        """
        (component,) = interpreter.component_ids
        value = self._with_layers(value, component)
        candidates = [component, *asked_next(component, value)]
        if is_denial(value.text):
            candidates = self._denied(value, candidates)
        candidates = [name for name in candidates if name in self.registry.components]
        for candidate in candidates:
            neighbour = replace(interpreter, component_ids=(candidate,))
            with contextlib.suppress(Unclear):
                return neighbour.read(self.asked, value), neighbour
        if value.kind == "prose":
            # For its message, which lists the options of all of them.
            together = replace(interpreter, component_ids=tuple(candidates))
            together.read(self.asked, value)
        raise refusal

    def _require_clear_switch(self, value: RawValue | None) -> None:
        """Refuse "on" of a part that names the opposite of its setting: a backbone that is unfrozen
        is a frozen one that is off.
        """
        if value is None or fold(value.text) not in _SWITCHES or not self.part.is_opposite():
            return
        options: list[str] = []
        for field in self.part.fields():
            options += field.options
        names = f" ({', '.join(options)})" if options else ""
        raise Unclear(
            f"{value.text!r} may be of {self.entry.ablated_part!r} or of the setting that it is "
            f"the opposite of; write ADD or REMOVE, or an option{names}",
            component=self.match.components[0],
        )

    def _require_clear_removal(self, value: RawValue | None, interpreter: Interpreter) -> None:
        """Refuse "none" for a part whose removal means two things."""
        if value is None or not is_denial(value.text):
            return
        # REMOVE of several says that all of them go, and none of them may be meant otherwise.
        if len(interpreter.component_ids) != 1:
            return
        (component,) = interpreter.component_ids
        reason = unclear_removal(component, self.entry.ablated_part)
        if reason:
            raise Unclear(reason, component=component)

    def _require_one_part(self, value: RawValue | None, reading: Reading) -> None:
        """Refuse a bare number or share of a part that is several, of which more than one takes it:
        "learning rate and warm-up" by 10, "neighbours and database size" by 25%.

        Raises:
            Unclear: it may be the other one's.
        """
        # Words beside the number or its unit have said which of them it is.
        if value is None or value.unit or value.beside:
            return
        if not isinstance(value.value, (int, float)):
            return
        for component in self.match.components:
            if component == reading.field.component:
                continue
            fields = self._fields_of(component)
            if any(_takes(field, value.kind, value.value) for field in fields):
                title = self.registry.components[component].title
                raise Unclear(
                    f"the part is several parts, and {value.text!r} may be {title} or "
                    f"{reading.field.title}; write an entry for each"
                )

    def _denied(self, value: RawValue, candidates: list[str]) -> list[str]:
        """Those that "none" may remove or that have an option of these words ("no LoRA"): the next
        part that can be removed is not the one that the plan does without.
        """
        target = removed_instead(candidates[0], self.entry.ablated_part)
        words = normalise(value.text)
        denied = []
        for component in candidates:
            is_part = component in (candidates[0], target)
            if is_part or words in _option_names(self._fields_of(component)):
                denied.append(component)
        return denied

    def _with_layers(self, value: RawValue, component: str) -> RawValue:
        """The value as layer numbers, where it names some and they can be meant."""
        if not component.startswith("model.cca") or value.kind != "prose":
            return value
        base = base_facts(self.profile)
        numbers = layer_numbers(value.text, base.sizes.layers) if base else None
        if numbers is None:
            return value
        return value.model_copy(update={"kind": "literal", "value": numbers})


def _takes(field: KnobField, kind: str, number: float) -> bool:
    """Whether a field may take a bare number, or a share of what the baseline has."""
    if kind in ("percent", "multiple"):
        return field.kind in ("share", "amount", "number")
    if kind != "number":
        return False
    if field.kind == "vector":
        return True
    if field.kind != "number":
        return False
    is_whole = number % 1 == 0
    return is_whole or not field.is_integer


def _option_names(fields: Iterable[KnobField]) -> set[str]:
    """What the options of fields are called, as names are compared."""
    names: set[str] = set()
    for field in fields:
        for title, option in field.options.items():
            names.update(map(normalise, (title, *option.aliases)))
    return names
