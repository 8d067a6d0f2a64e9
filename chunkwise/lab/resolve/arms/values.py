"""From an entry's words to settings: which field of the matched components a replacement means, and
which value.

Amounts of data translate by ratio: 600B tokens of the paper's 1.2T are 1/2 of our datastore,
whatever its size, and a ratio is never clamped. Hyper-parameters (layers, neighbours, chunk length)
are taken as they stand. What is not clear is refused with the question that would settle it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from chunkwise.lab.plan.document import Entry
from chunkwise.lab.plan.lists import whole_numbers
from chunkwise.lab.plan.quantities import RawValue, parse_value
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.numbers import Numbers
from chunkwise.lab.resolve.arms.options import Options
from chunkwise.lab.resolve.arms.reading import Reading, Unclear, changes_words, equal, part_words
from chunkwise.lab.resolve.arms.scope import ENCODER_WIDTH, Scope, require_section
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.paper import Paper
from chunkwise.lab.resolve.vocabulary import KnobField

_NONE_WORDS = {"none", "nothing", "off", "removed", "remove", "disabled", "no", "n a"}
_BASELINE_WORDS = {
    "baseline",
    "full",
    "default",
    "as is",
    "unchanged",
    "original",
    "full model",
    "full database",
}
_DECODER_WORDS = {fold(words) for words in ("decoder's", "the decoder's")}


@dataclass
class Interpreter:
    """Reads an entry's replacements against its components and the baseline of a profile.

    Attributes:
        component_ids: the components that the ablated part means.
        answers: the user's settings for some words, path -> value.
        refusal: why amounts of data cannot be read; "" where they can.
        is_turned: ADD and REMOVE are turned round: the plan names the opposite of the setting.
    """

    profile: Profile
    paper: Paper | None
    registry: Registry
    component_ids: tuple[str, ...]
    answers: Mapping[str, dict[str, JsonValue]]
    refusal: str = ""
    is_turned: bool = False

    def __post_init__(self) -> None:
        self.scope = Scope(self.profile, self.paper, self.registry, self.component_ids)

    def requests(self, entry: Entry) -> list[RawValue | None]:
        """The replacements to read, one by one; None stands for the ablated part itself."""
        # The reader of the plan has warned that a REMOVE ignores its replacements.
        if entry.action == "REMOVE" or not entry.replacements:
            return [None]
        requests: list[RawValue | None] = []
        for value in entry.replacements:
            requests += self._single_values(value)
        return requests

    def _single_values(self, value: RawValue) -> list[RawValue]:
        """A replacement as the several that it lists, or as it is."""
        if value.text in self.answers:
            return [value]
        counts = whole_numbers(value.text) if self._takes_counts_only() else None
        if counts and value.kind == "prose":
            return [parse_value(text) for text in counts]
        # A list is one value where a field takes vectors, and several replacements elsewhere;
        # "layers 2, 3" and the grid "8x8" are never several.
        takes_vectors = any(field.kind == "vector" for field in self.scope.family)
        is_bracketed = value.text.strip().startswith(("[", "("))
        is_several = value.kind == "list" or (is_bracketed and not takes_vectors)
        if not is_several or not isinstance(value.value, list):
            return [value]
        texts = [str(item) for item in value.value]
        # The unit of the last may be written once for all of them.
        is_shared = any(text not in value.text for text in texts)
        if value.kind == "list" and is_shared and self._takes_amounts_of_several():
            return [value]
        return [parse_value(text) for text in texts]

    def _takes_amounts_of_several(self) -> bool:
        """Whether a list may have an amount for each of several parts: "4 and 32 tokens" of
        neighbours and chunk length is no list of 4 tokens and 32 tokens.
        """
        takers = set()
        for field in self.scope.own:
            if field.kind in ("share", "amount", "number"):
                takers.add(field.component)
        return len(takers) > 1

    def _takes_counts_only(self) -> bool:
        """Whether all numbers of the components are whole, so that "1,4" is no decimal number."""
        takes_counts = False
        for field in self.scope.own:
            if field.kind == "number" and field.is_integer:
                takes_counts = True
            elif field.kind in ("share", "amount", "number"):
                return False
        return takes_counts

    def read(self, entry: Entry, value: RawValue | None) -> Reading:
        """What one request of an entry means.

        Raises:
            Unclear: it means nothing here, or more than one thing.
        """
        # The user's answer first: it is there because a rule failed, or read something else.
        if value and value.text in self.answers:
            return self._by_user(value.text, self.answers[value.text])
        if value:
            reading = self._replacement(value, entry)
            if entry.action == "ADD":
                return self._added(reading, value)
            return reading
        words = part_words(entry)
        if entry.action == "REMOVE":
            return self._removal(words)
        if entry.action == "ADD":
            return self._addition(words)
        raise Unclear("REPLACE without a replacement; say what to put in its place")

    def _by_user(self, words: str, changes: dict[str, Any]) -> Reading:
        fields = []
        for path in changes:
            if path in self.registry.fields:
                fields.append(self.registry.fields[path])
        if not fields:
            paths = ", ".join(changes)
            raise Unclear(f"the override sets {paths}, which no component owns", by="user")
        # The chunk length of datastore and model is one setting in two places.
        settings = {(field.component, field.name) for field in fields}
        is_joint = len(settings) > 1 or len(fields) < len(changes)
        description = changes_words(changes)
        return self.scope.reading(words, fields[0], changes, description, is_joint, by="user")

    # --- the part itself, removed or added --------------------------------------------------------

    def _removal(self, words: str) -> Reading:
        """REMOVE: every field of the components that has a value for it takes that value."""
        fields: list[KnobField] = []
        titles_on: list[str] = []
        titles_off: list[str] = []
        for component in self.scope.components:
            if not component.removable:
                raise Unclear(
                    f"{component.id} has no setting that removes it; REPLACE it by a value",
                    component=component.id,
                )
            if all(self.scope.is_removed(field) for field in component.removable):
                titles_off.append(component.title)
                continue
            titles_on.append(component.title)
            fields += component.removable
        if not fields:
            raise self._already(is_on=False)
        changes = {field.path: field.remove for field in fields}
        description = _called(fields, changes)
        if not description:
            description = f"without {' and '.join(titles_on)} ({changes_words(changes)})"
        message = ""
        if titles_off:
            message = f"{' and '.join(titles_off)} is already off in the baseline"
        # What is off already is no second change: the arm's difference is that of the other part.
        is_joint = len(titles_on) > 1
        return self.scope.reading(words, fields[0], changes, description, is_joint, message=message)

    def _addition(self, words: str) -> Reading:
        """ADD without a replacement: what is off in the baseline takes its value for ADD."""
        component = self.scope.components[0]
        off = [field for field in component.removable if self.scope.is_removed(field)]
        if component.removable and not off:
            raise self._already(is_on=True)
        # A flag has a single value that means "on", other fields where the vocabulary names one.
        changes: dict[str, Any] = {}
        for field in off:
            if field.add is not None:
                changes[field.path] = field.add
            elif field.kind == "flag":
                changes[field.path] = not field.remove
        if len(changes) != 1:
            names = self._names_to_add()
            options = f" ({', '.join(names)})" if names else ""
            raise Unclear(
                f"{component.id} has no single value that ADD means; name one as the "
                f"replacement{options}",
                component=component.id,
            )
        (path,) = changes
        field = self.registry.fields[path]
        description = _called([field], changes)
        if not description:
            description = f"with {field.title} ({changes_words(changes)})"
        return self.scope.reading(words, field, changes, description)

    def _already(self, *, is_on: bool) -> Unclear:
        """The refusal of what the baseline has, in the words of the plan's own part."""
        message = "it is already off in the baseline; ADD it to see what it does"
        # An unfrozen backbone is on where the frozen one is off.
        if is_on != self.is_turned:
            message = "it is already on in the baseline; REMOVE it to see what it does"
        return Unclear(message, "not-applicable", component=self.component_ids[0])

    def _names_to_add(self) -> list[str]:
        """Options that are something else than the part's removal."""
        names = []
        for field in self.scope.family:
            for name, option in field.options.items():
                is_removal = field.can_be_removed and equal(option.value, field.remove)
                if not is_removal:
                    names.append(name)
        return names

    def _added(self, reading: Reading, value: RawValue) -> Reading:
        """The reading of an ADD with a value: an amount is added to what the baseline has.

        Raises:
            Unclear: it may be added, or be the whole.
        """
        field = reading.field
        if not reading.changes or field.kind in ("choice", "flag"):
            return reading
        # An option is read without the baseline, so nobody has asked yet whether there is one.
        require_section(self.profile, field.path, component=field.component)
        baseline = self.profile.value(field.path)
        if field.kind == "share" and baseline is None:
            baseline = 1.0
        if field.can_be_removed and equal(baseline, field.remove):
            return reading
        if field.kind == "vector":
            return self._added_layers(reading, value, baseline)
        if field.kind == "sources":
            raise Unclear(
                f"ADD {value.text!r} may be the only source or one more; write REPLACE and the "
                "sources that are kept",
                component=field.component,
                path=field.path,
            )
        value = parse_value(value.text, with_names=True)
        # Options, "2 more", "25% larger" and "twice as large" say themselves what they are.
        if value.kind in ("prose", "change", "multiple") or value.direction != 0:
            return reading
        # What is added to nothing is the whole.
        if field.kind == "number" and not self.scope.baseline_number(field):
            return reading
        raise Unclear(
            f"ADD {value.text!r} may be added to the baseline or be the whole of it; write "
            f"REPLACE, and '{value.text} more' for the first or {value.text!r} for the second",
            component=field.component,
            path=field.path,
        )

    def _added_layers(self, reading: Reading, value: RawValue, baseline: Any) -> Reading:
        """The baseline's layers and those that are added to them."""
        field = reading.field
        layers = reading.changes.get(field.path)
        has_numbers = isinstance(baseline, (list, tuple)) and len(reading.changes) == 1
        # A rule ("middle") has no numbers to add to, or to be added.
        if not has_numbers or not isinstance(layers, (list, tuple)):
            whole = f"the baseline's {field.title} ({baseline})"
            raise Unclear(
                f"ADD {value.text!r} may be added to {whole} or stand in their place; write "
                "REPLACE and the numbers of all layers",
                component=field.component,
                path=field.path,
            )
        both = sorted({*baseline, *layers})
        return self.scope.with_value(value.text, field, both, f"{field.title}: {both}")

    # --- what is put in the part's place ----------------------------------------------------------

    def _replacement(self, value: RawValue, entry: Entry) -> Reading:
        """The one field and value that a replacement means."""
        options = Options(self.scope, entry)
        own = self.scope.own
        if isinstance(value.value, dict):
            return options.joint(value.text, value.value)
        if value.kind == "list":
            raise Unclear(
                f"the part is several parts, and {value.text!r} may be a value for each or several "
                "for one of them; write an entry for each part"
            )
        # Options first: some are called as other things are below ("no masks", "full").
        reading = options.by_name(value.text) or options.by_two_names(value.text)
        if reading is not None:
            return reading
        words = fold(value.text)
        if words in _BASELINE_WORDS:
            return self.scope.reading(value.text, own[0], {})
        reading = options.by_sources(value.text)
        if reading is not None:
            return reading
        if words in _DECODER_WORDS and [field.path for field in own] == [ENCODER_WIDTH]:
            return self.scope.with_value(value.text, own[0], None)
        if words in _NONE_WORDS or options.denies_part(words):
            return self._removal(value.text)
        if value.kind == "prose":
            # Now that the part is known, so are the words that may stand beside a number.
            value = parse_value(value.text, with_names=True)
        if value.kind == "prose":
            raise Unclear(options.prose_problem(value))
        reading = Numbers(self.scope, entry, self.refusal).read(value)
        self._require_remark(value, entry, reading)
        return reading

    def _require_remark(self, value: RawValue, entry: Entry, reading: Reading) -> None:
        """Refuse an amount whose remark in brackets does not say the same.

        Raises:
            Unclear: the remark says something else, or nothing that is understood.
        """
        if value.remark is None:
            return
        try:
            remark = self._replacement(parse_value(value.remark), entry)
        except Unclear:
            raise Unclear(
                f"'({value.remark})' is not understood, and may change what is meant; write the "
                "amount alone, and the rest as an entry of its own"
            ) from None
        for path in reading.changes | remark.changes:
            baseline = self.profile.value(path)
            if path == "view.fraction" and baseline is None:
                baseline = 1.0
            left = reading.changes.get(path, baseline)
            right = remark.changes.get(path, baseline)
            if not equal(left, right):
                raise Unclear(
                    f"the amount gives {path} = {left}, and '({value.remark})' gives {right}; "
                    "write one of them"
                )


def _called(fields: Sequence[KnobField], changes: Mapping[str, Any]) -> str:
    """The change in the words of the option that it is; "" where it is none, or several changes."""
    if len(fields) != 1:
        return ""
    (field,) = fields
    value = changes[field.path]
    for name, option in field.options.items():
        if equal(option.value, value):
            setting = changes_words(changes)
            return f"{field.title}: {name} ({setting})"
    return ""
