"""Replacements that are amounts: which field takes one, and what it is there.

A share of the datastore and an amount of data translate by their ratio to the paper's amount, a
hyper-parameter is taken as it stands. The arithmetic is in `sizes`, the words of it in `wording`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from chunkwise.lab.plan.amounts import directions_in
from chunkwise.lab.plan.document import Entry
from chunkwise.lab.plan.quantities import RawValue, ratio_words
from chunkwise.lab.plan.text import fold
from chunkwise.lab.resolve.arms.reading import Reading, Unclear
from chunkwise.lab.resolve.arms.scope import Scope, require_section
from chunkwise.lab.resolve.arms.sizes import (
    is_ratio,
    number_here,
    ratio_here,
    require_action,
    require_known_words,
)
from chunkwise.lab.resolve.arms.wording import (
    change_words,
    number_words,
    paper_words,
    share_words,
)
from chunkwise.lab.resolve.paper import PaperFact, is_number
from chunkwise.lab.resolve.parts import Component
from chunkwise.lab.resolve.vocabulary import KnobField

_PARAMETERS = "parameters"
_LEAST_PARAMETERS = 10_000
# Below these a view has so few documents that its difference is that of their subjects.
_LEAST_CHUNKS = 1000
_LEAST_CHUNKS_PER_NEIGHBOUR = 50


@dataclass(frozen=True)
class Numbers:
    """Reads amounts as values of the components that an entry names.

    Attributes:
        refusal: why amounts of data cannot be read; "" where they can.
    """

    scope: Scope
    entry: Entry
    refusal: str = ""

    def read(self, value: RawValue) -> Reading:
        """The one numeric field whose unit fits; fields of one component with one name are one
        setting.

        Raises:
            Unclear: no field takes it, or several do.
        """
        readings: list[Reading] = []
        refusals: dict[str | None, Unclear] = {}  # by the field's unit
        for field in self._fields_for(value):
            try:
                reading = self._of_field(value, field)
            except Unclear as unclear:
                # No matter where another field takes the value.
                refusals.setdefault(field.unit, unclear)
                continue
            if reading is not None:
                readings.append(reading)
        if not readings:
            raise self._refusal_of(value, refusals)
        settings = {(reading.field.component, reading.field.name) for reading in readings}
        if len(settings) > 1:
            paths = ", ".join(reading.field.path for reading in readings)
            raise Unclear(
                f"{value.text!r} fits several settings: {paths}; choose one in the overrides"
            )
        # One setting in two places, as the chunk length of datastore and model: both must change.
        changes: dict[str, Any] = {}
        for reading in readings:
            changes |= reading.changes
        return replace(readings[0], changes=changes)

    def _refusal_of(self, value: RawValue, refusals: Mapping[str | None, Unclear]) -> Unclear:
        # What the field of this unit says is what the plan's author can act on.
        if value.unit in refusals:
            return refusals[value.unit]
        for refusal in refusals.values():
            return refusal
        components = ", ".join(dict.fromkeys(self.scope.component_ids))
        return Unclear(f"{components} takes no number")

    def _fields_for(self, value: RawValue) -> list[KnobField]:
        """The fields that may take it; "layers 2, 3" names a placement below the part too."""
        own = self.scope.own
        if value.kind != "literal" or any(field.kind == "vector" for field in own):
            return own
        names_layers = fold(value.text).startswith(("layer", "only"))
        return self.scope.family if names_layers else own

    def _of_field(self, value: RawValue, field: KnobField) -> Reading | None:
        """What an amount makes of a field; None where the field takes none.

        Raises:
            Unclear: it takes amounts, and not this one.
        """
        if field.kind == "vector":
            return self._layers(value, field)
        if field.kind not in ("share", "amount", "number"):
            return None
        require_section(self.scope.profile, field.path, component=field.component)
        component = self.scope.registry.components[field.component]
        self._require_no_parameters(value, component)
        names = [self.entry.ablated_part, *component.names]
        for sibling in component.fields:
            names += sibling.beside
        require_known_words(value, field, names)
        if field.kind == "share":
            return self._share(value, field)
        if field.kind == "amount":
            return self._amount(value, field)
        return self._absolute(value, field)

    def _require_no_parameters(self, value: RawValue, component: Component) -> None:
        """Refuse "410M parameters" of a base that is set by its shape: many shapes have as many."""
        papers = [field.paper for field in component.fields if field.paper is not None]
        if all(paper.unit != _PARAMETERS for paper in papers):
            return
        # "1.3B" of a model's size; no base has a million layers.
        is_large = is_number(value.value) and value.value >= _LEAST_PARAMETERS
        if value.unit not in (_PARAMETERS, None) or not is_large:
            return
        shape = []
        for field in component.fields:
            baseline = self.scope.baseline_number(field)
            if baseline is not None:
                shape.append(f"{baseline:g} {field.unit}")
        raise Unclear(
            f"{value.text!r} counts parameters, and many shapes have as many; the baseline's size "
            f"is {' and '.join(shape)}: write a number of one of them instead",
            component=component.id,
        )

    def _layers(self, value: RawValue, field: KnobField) -> Reading | None:
        if not isinstance(value.value, list):
            raise Unclear(f"{field.title}: write the numbers of layers ('layers 2, 3')")
        if value.kind != "literal":
            return None
        description = f"{field.title}: {value.value}"
        return self.scope.with_value(value.text, field, value.value, description)

    def _ratio(self, value: RawValue, field: KnobField) -> tuple[float, PaperFact | None]:
        """What an amount of data is of the baseline, and the paper's amount.

        Raises:
            Unclear: it has no ratio.
        """
        if is_ratio(value):
            fact = self.scope.paper_fact(field, field.unit)
            ratio = ratio_here(value, field, None)
        elif self.refusal:
            raise Unclear(f"it is {self.refusal}", component=field.component, path=field.path)
        else:
            fact = self.scope.paper_fact(field, value.unit or field.unit)
            ratio = ratio_here(value, field, fact)
        require_action(value, _direction_of(self.entry), ratio, 1.0)
        return ratio, fact

    # --- shares of the datastore ------------------------------------------------------------------

    def _share(self, value: RawValue, field: KnobField) -> Reading:
        """An amount of data: the ratio to the paper's amount, times our baseline's share."""
        ratio, fact = self._ratio(value, field)
        target = self._target_share(ratio, field, fact)
        # Of a profile that cannot say how much text it will find, the share alone is shown.
        tokens = None
        chunks = self.scope.profile.expected_datastore_chunks
        if chunks:
            tokens = chunks * self.scope.profile.datastore.chunk_tokens
        is_quantity = not is_ratio(value)
        return self.scope.with_value(
            value.text,
            field,
            target,
            f"nested {ratio_words(target)} of the datastore",
            paper=fact,
            says=share_words(ratio, target, tokens, fact, is_quantity),
            ratio=ratio,
            message=value.note or "",
        )

    def _target_share(self, ratio: float, field: KnobField, fact: PaperFact | None) -> float:
        """The share of the whole datastore.

        Raises:
            Unclear: there is no such view, or too few chunks are in it.
        """
        facts: dict[str, Any] = {
            "component": field.component,
            "path": field.path,
            "ratio": ratio,
            "paper": fact,
        }
        if ratio <= 0:
            raise Unclear("an amount must be above 0; to do without it, write REMOVE", **facts)
        share = self.scope.profile.value(field.path)
        if share is None:
            share = 1.0
        # Rounded: 600B / 1.2T is 1/2, whatever the last bit says.
        target = round(ratio * float(share), 12)
        facts["local"] = target
        if target > 1:
            raise Unclear(
                f"{ratio_words(ratio)} times the baseline is more data than the corpus holds; "
                f"declare a larger corpus, of which the baseline's {field.path} is at most "
                f"{ratio_words(1 / ratio)}",
                **facts,
            )
        problem = self._too_small(target)
        if problem:
            message = f"{ratio_words(ratio)} of the baseline, {problem}"
            raise Unclear(message, "infeasible", **facts)
        return target

    def _too_small(self, share: float) -> str:
        """Why a view of this share is infeasible; empty if it is not, or the size is not known."""
        profile = self.scope.profile
        chunks = profile.expected_datastore_chunks
        if not chunks:
            return ""
        needed = max(_LEAST_CHUNKS, _LEAST_CHUNKS_PER_NEIGHBOUR * profile.retrofit.retro.neighbours)
        if share * chunks >= needed:
            return ""
        return (
            f"about {share * chunks:,.0f} chunks here; fewer than {needed:,} would be about a "
            "handful of documents"
        )

    # --- amounts that a field counts --------------------------------------------------------------

    def _amount(self, value: RawValue, field: KnobField) -> Reading:
        """An amount that the field counts: the ratio to the paper's amount, times what the baseline
        uses.
        """
        # First what the value says: its unit may be another one.
        ratio, fact = self._ratio(value, field)
        profile = self.scope.profile
        baseline = profile.amount(field.path)
        if baseline is None:
            raise Unclear(f"profile {profile.name} does not set {field.path}")
        target = round(ratio * baseline)
        share = f"{ratio_words(ratio)} of the baseline's {baseline:,} {field.unit}"
        facts: dict[str, Any] = {
            "component": field.component,
            "path": field.path,
            "paper": fact,
            "local": target,
            "ratio": ratio,
        }
        if target < 1:
            raise Unclear(f"{share} is less than one here", "infeasible", **facts)
        if field.path == "questions.instructions" and ratio > 1:
            raise Unclear(
                f"{share}: the tuning reads no more than these; lengthen it in the profile "
                "(instruct.train) to read more",
                **facts,
            )
        description = f"{field.title}: {target:,} {field.unit}, {share}"
        words = change_words(ratio) if is_ratio(value) else paper_words(ratio, fact)
        return self.scope.with_value(
            value.text,
            field,
            target,
            description,
            paper=fact,
            says=f"{words}: {description}",
            ratio=ratio,
            message=value.note or "",
        )

    # --- hyper-parameters -------------------------------------------------------------------------

    def _absolute(self, value: RawValue, field: KnobField) -> Reading:
        """A hyper-parameter: taken as it stands, or against the baseline's."""
        baseline = self.scope.baseline_number(field)
        number = number_here(value, field, baseline, self.scope.paper_fact(field))
        require_action(value, _direction_of(self.entry), number, baseline)
        number = _as_field_takes(number, value, field)
        description = f"{field.title}: {number:g}"
        if field.unit:
            description = f"{description} {field.unit}"
        is_relative = value.kind in ("multiple", "change", "percent") and not field.is_bounded
        # The baseline may have it by leaving it open.
        is_open = baseline == number and self.scope.profile.value(field.path) is None
        return self.scope.with_value(
            value.text,
            field,
            None if is_open else number,
            description,
            says=number_words(field, number, baseline, is_relative),
            message=value.note or "",
        )


def _as_field_takes(number: float, value: RawValue, field: KnobField) -> float:
    """A whole number where the field takes no other, without the last bits of a product.

    Raises:
        Unclear: a part of a whole number that is none itself.
    """
    if not field.is_integer:
        # 0.4 * 0.75 is 0.3, whatever the last bit says.
        return float(f"{number:.12g}")
    # A part of a whole number, 1/3 of 6, may miss a whole number by its last bits.
    if not math.isclose(number, round(number), abs_tol=1e-9):
        raise Unclear(f"{field.path} takes whole numbers, and {value.text!r} gives {number:g}")
    return round(number)


def _direction_of(entry: Entry) -> int:
    """-1 or 1 where the action says less or more, as in "REPLACE (reduce)"; else 0.

    The reader of the plan keeps an action's further words among the notes.
    """
    directions: set[int] = set()
    for note in entry.notes:
        if note.startswith("Action: "):
            directions |= directions_in(note)
    return directions.pop() if len(directions) == 1 else 0
