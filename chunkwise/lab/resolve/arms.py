"""From a plan to arms: match the part, read the replacements, build and check the arms.

    entry --Registry.match--> component(s) --Interpreter.read--> readings --> rows and arms

An arm may differ from the baseline in the matched components' fields and their declared
consequences only (contrast hygiene). Arms of a composition are compared with a view of as many
tokens in natural proportions, never with the full datastore; a removal that can be read in two ways
gets both arms. Nothing here runs or reads data; what the built datastore cannot serve is found in
the run (`run.check_views`), and marked by `mark_infeasible`.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chunkwise.core.config import load_yaml
from chunkwise.core.errors import ConfigError, PlanError
from chunkwise.core.io import canonical_json, digest_bytes
from chunkwise.lab.plan.document import Entry, PlanDocument
from chunkwise.lab.plan.quantities import RawValue, ratio_words
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.buildable import base_facts, obstacle, unbuildable
from chunkwise.lab.resolve.components import PartMatch, Registry
from chunkwise.lab.resolve.consequences import computed
from chunkwise.lab.resolve.layers import layer_numbers
from chunkwise.lab.resolve.metrics import metrics_of
from chunkwise.lab.resolve.narrower import narrower
from chunkwise.lab.resolve.outside import outside_value
from chunkwise.lab.resolve.paper import Paper
from chunkwise.lab.resolve.resolution import (
    HARMLESS,
    EntryResolution,
    ReplacementResolution,
    Resolution,
    Status,
)
from chunkwise.lab.resolve.routes import asked_next, removed_instead, unclear_removal
from chunkwise.lab.resolve.subject import Subject, subject_of
from chunkwise.lab.resolve.values import (
    EntryOverride,
    Interpreter,
    Overrides,
    Reading,
    Unclear,
    equal,
    part_words,
)
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.resolve.words import is_denial, is_specific, normalise
from chunkwise.lab.terms import Arm

# REMOVE of the first is also read as REMOVE of the second, which is always shown beside it.
SECOND_MEANINGS = {"model.cca": "model.cca.gate"}
_SECOND_DONE = "trained with retrieval, evaluated with its gate at 0"

CLOSE_SCORE = 0.35  # from which a part is worth naming to someone whose words mean none surely

ARM_NAMES = {
    ("mechanism", "none"): "twin",
    ("mechanism", "in_prompt"): "in-prompt",
    ("mechanism", "wider"): "wider",
    ("gate", 0.0): "gate-off",
}


# First stages of arms whose models are the baseline's as long as text is measured.
_AFTER_TEXT = ("questions", "instruct", "qa")
_TEXT_METRICS = ("perplexity", "bits_per_byte")


def load_overrides(path: Path | str) -> Overrides:
    """Overrides from a YAML file."""
    return Overrides.parse(load_yaml(path), where=str(path))


def resolve(
    document: PlanDocument,
    profile: Profile,
    *,
    paper: Paper | None = None,
    overrides: Overrides | None = None,
    registry: Registry | None = None,
) -> Resolution:
    """Turn a plan into arms.

    Args:
        paper: whose values quantities are translated against, whatever the plan names; default:
            the profile's, unless the plan names another one.

    Raises:
        PlanError: the document holds no usable entry, or an override names what does not exist.
    """
    if not document.entries:
        errors = [remark.message for remark in document.diagnostics if remark.severity == "error"]
        hint = "`chunkwise plan check PLAN` shows how the plan is read"
        raise PlanError(f"the plan holds no usable entry: {'; '.join(errors)}", hint=hint)
    overrides = overrides or Overrides()
    registry = registry or Registry(type(profile))
    subject, paper = subject_of(document, profile, registry, paper)
    _require_known(overrides, document, registry)
    _require_leaves_out(profile, registry)
    entries = []
    for entry in document.entries:
        resolver = _EntryResolver(entry, overrides.of(entry), profile, paper, registry, subject)
        entries.append(resolver.resolution())
    # Only now is it known what the other entries vary.
    varied = {row.component for entry in entries for row in entry.replacements if row.arm}
    profile_json = canonical_json(profile.model_dump(mode="json"))
    resolution = Resolution(
        plan_sha256=document.source_sha256,
        plan_title=document.title,
        profile=profile.name,
        profile_digest=digest_bytes(profile_json.encode()),
        paper=paper.id if paper else None,
        subject=subject,
        registry_digest=registry.digest,
        overrides=overrides.model_dump(mode="json") if overrides.entries else None,
        entries=tuple(_not_varied(entry, varied, registry) for entry in entries),
    )
    return mark_infeasible(resolution, unbuildable(resolution, profile))


def _require_known(overrides: Overrides, document: PlanDocument, registry: Registry) -> None:
    """Refuse overrides of entries and components that do not exist.

    Raises:
        PlanError: names one of them, and those that exist.
    """
    names = [entry.name for entry in document.entries]
    numbers = [str(entry.index) for entry in document.entries]
    for name, answer in overrides.entries.items():
        if name not in names + numbers:
            raise PlanError(
                f"the overrides name an entry {name!r}, which the plan does not have; it has: "
                f"{', '.join(names)}"
            )
        if answer.component and answer.component not in registry.components:
            components = ", ".join(registry.components)
            raise PlanError(
                f"the overrides name a component {answer.component!r}; known: {components}"
            )


def _not_varied(
    entry: EntryResolution, varied: set[str | None], registry: Registry
) -> EntryResolution:
    """The entry with a warning for each component that it names and no entry varies."""
    warnings = list(entry.warnings)
    own = {row.component for row in entry.replacements}
    # A part of one component varies it or says in its rows why not.
    if entry.action == "REPLACE" and len(entry.components) > 1:
        for component in entry.components:
            if component not in own | varied:
                title = registry.components[component].title
                warnings.append(f"{title} is named but not varied")
    return entry.model_copy(update={"warnings": tuple(dict.fromkeys(warnings))})


class _EntryResolver:
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
        self.entry, self.profile, self.registry = entry, profile, registry
        self.subject = subject
        removes = entry.action == "REMOVE"
        self.match = self._routed(registry.match(entry.ablated_part, removes=removes))
        self.by_user = bool(override.component)
        if override.component:
            self.match = PartMatch((override.component,), 1.0)
        self.asked = self._straightened(entry)
        self.interpreter = Interpreter(
            profile,
            paper,
            registry,
            self.match.components,
            override.replacements,
            subject.refusal,
        )
        self.rows: list[ReplacementResolution] = []
        self.arms: dict[str, Arm] = {}
        self.warnings: list[str] = []

    def _routed(self, match: PartMatch) -> PartMatch:
        """The match, of another component where REMOVE of the part is REMOVE of that."""
        part = self.entry.ablated_part
        # "Cross-attention" of a paper that we do not know is seldom the one that we have.
        if self.subject.kind == "foreign" and match.components and not is_specific(part):
            reason = (
                f"the plan is about another paper, whose {part!r} may be another part than "
                f"{' and '.join(match.components)} here; say --paper if it is not"
            )
            return replace(match, components=(), outside=reason)
        components = [self.registry.components[id] for id in match.components]
        reason = narrower(self.entry, components, self.profile)
        if not reason and self.entry.action == "REMOVE" and len(components) == 1:
            reason = unclear_removal(components[0].id, part)
        if reason:
            return replace(match, components=(), outside=reason)
        if self.entry.action == "REMOVE" and len(match.components) == 1:
            target = removed_instead(match.components[0], part)
            if target in self.registry.components:
                return replace(match, components=(target,))
        return match

    def _straightened(self, entry: Entry) -> Entry:
        """The entry as its part's setting takes it: removing "unfrozen backbone" is adding a frozen
        one.
        """
        turned = {"ADD": "REMOVE", "REMOVE": "ADD"}.get(entry.action)
        fields = [field for id in self.match.components for field in self._fields_of(id)]
        if turned is None or not any(field.turns_round(entry.ablated_part) for field in fields):
            return entry
        return entry.model_copy(update={"action": turned})

    def _fields_of(self, component: str) -> list[KnobField]:
        return self.registry.components[component].fields

    def resolution(self) -> EntryResolution:
        if self.match.components:
            self._resolve()
        else:
            self._refuse()
        entry, match = self.entry, self.match
        runner_up = match.runner_up
        return EntryResolution(
            index=entry.index,
            name=entry.name,
            ablated_part=entry.ablated_part,
            action=entry.action,
            status=_entry_status(self.rows),
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
        message = self.match.outside or self._closest_parts()
        self.warnings.append(message)
        words = [value.text for value in self.entry.replacements]
        for text in words or [part_words(self.entry)]:
            row = ReplacementResolution(words=text, status="unresolved", message=message)
            self.rows.append(row)

    def _closest_parts(self) -> str:
        """Why no part is clear, and what to write instead."""
        part = self.entry.ablated_part
        closest = []
        for score in self.match.ranking[:2]:
            if score.score >= CLOSE_SCORE:
                closest.append(f"{self.registry.components[score.owner].title!r} ({score.owner})")
        if not closest:
            return (
                f"{part!r} is no part that is known here, so it is taken as not in this system; "
                "`chunkwise plan components` lists what can be named"
            )
        return (
            f"{part!r} is not surely a part that is known here; write {' or '.join(closest)}, or "
            "name it in the overrides"
        )

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
            row = ReplacementResolution(words=value.text, status="unresolved", message=message)
            self.rows.append(row)
            self.warnings.append(message)
        return bool(values)

    def _resolve(self) -> None:
        if self._has_replacement():
            return
        for value in self.interpreter.requests(self.entry):
            row, arm = self._row(value, self.interpreter)
            self.rows.append(row)
            if arm:
                self.arms.setdefault(arm.id, arm)  # equal replacements share an arm
                self._warn(row, arm)
        self._add_mixture()
        if self.asked.action == "REMOVE" and self.arms:
            for component in self.match.components:
                self._add_second_meaning(component)
        series = [key for key, arm in self.arms.items() if arm.series]
        if len(series) == 1:  # one level has no slope
            (key,) = series
            self.arms[key] = self.arms[key].model_copy(update={"series": None})
        # The mixture gave some arms another id; here they are still under the id of their row.
        for position, row in enumerate(self.rows):
            if row.arm in self.arms:
                update = {"arm": self.arms[row.arm].id}
                self.rows[position] = row.model_copy(update=update)

    def _row(
        self, value: RawValue | None, interpreter: Interpreter
    ) -> tuple[ReplacementResolution, Arm | None]:
        """The row of one request, and its arm if it makes one."""
        words = value.text if value else part_words(self.entry)
        row = ReplacementResolution(words=words, status="unresolved")
        try:
            reading, interpreter = self._read(value, interpreter)
            row = reading.row  # it keeps what was read, also where no arm can be made of it
            arm = self._arm(reading)
        except Unclear as unclear:
            return row.model_copy(update=unclear.update), None
        if arm:
            check_hygiene(arm, interpreter.component_ids, self.registry)
            return row.model_copy(update={"arm": arm.id}), arm
        message = row.message or "this is the baseline's value"
        return row.model_copy(update={"arm": "baseline", "message": message}), None

    def _read(
        self, value: RawValue | None, interpreter: Interpreter
    ) -> tuple[Reading, Interpreter]:
        """What a request means, asked of the part's components and then of those that its words may
        belong to.

        Raises:
            Unclear: it means nothing here.
        """
        is_none = value is not None and is_denial(value.text)
        if is_none and len(interpreter.component_ids) == 1:
            reason = unclear_removal(interpreter.component_ids[0], self.entry.ablated_part)
            if reason:
                raise Unclear(reason, component=interpreter.component_ids[0])
        try:
            reading = interpreter.read(self.asked, value)
        except Unclear as unclear:
            refusal = unclear
        else:
            self._require_one_part(value, reading)
            return reading, interpreter
        outside = outside_value(value.text) if value else None
        if outside:
            raise Unclear(outside, component=self.match.components[0])
        if value is None or len(interpreter.component_ids) != 1:
            raise refusal
        value = self._with_layers(value, interpreter)
        candidates = [*interpreter.component_ids, *asked_next(interpreter.component_ids[0], value)]
        if is_none:
            candidates = self._denied(value, candidates)
        candidates = [name for name in candidates if name in self.registry.components]
        for component in candidates:
            other = replace(interpreter, component_ids=(component,))
            with contextlib.suppress(Unclear):
                return other.read(self.asked, value), other
        if value.kind == "prose":
            # For its message, which lists the options of all of them.
            replace(interpreter, component_ids=tuple(candidates)).read(self.asked, value)
        raise refusal

    def _require_one_part(self, value: RawValue | None, reading: Reading) -> None:
        """Refuse a bare number of a part that is several, of which more than one takes numbers:
        "learning rate and warm-up" by 10.

        Raises:
            Unclear: it may be the other one's.
        """
        number = value.value if value and value.kind == "number" and not value.unit else None
        if not isinstance(number, (int, float)) or value is None:
            return
        for component in self.match.components:
            for field in self._fields_of(component):
                takes = field.kind == "vector" or (
                    field.kind == "number" and not (field.is_integer and number % 1)
                )
                if takes and component != reading.field.component:
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
            options = [
                name
                for field in self._fields_of(component)
                for title, option in field.options.items()
                for name in (title, *option.aliases)
            ]
            if component in (candidates[0], target) or words in map(normalise, options):
                denied.append(component)
        return denied

    def _with_layers(self, value: RawValue, interpreter: Interpreter) -> RawValue:
        """The value as layer numbers, where it names some and they can be meant."""
        if not interpreter.component_ids[0].startswith("model.cca") or value.kind != "prose":
            return value
        base = base_facts(self.profile)
        numbers = layer_numbers(value.text, base.sizes.layers) if base else None
        if numbers is None:
            return value
        return value.model_copy(update={"kind": "literal", "value": numbers})

    def _warn(self, row: ReplacementResolution, arm: Arm) -> None:
        warnings = [row.message] if row.message else []
        if arm.joint:
            warnings.append(
                "a joint change of several settings, which cannot be attributed to one of them"
            )
        if arm.unused:
            warnings.append(
                f"nothing uses {' and '.join(arm.unused)} any more, so what they set up is "
                "dropped; the arm has fewer "
                "parameters and FLOPs, so the contrast is confounded by size"
            )
        if arm.id == "twin" and self.profile.retrofit.freeze_backbone:
            warnings.append("the backbone is frozen, so the twin is the base itself")
        if arm.stage in _AFTER_TEXT:
            metrics = metrics_of(self.entry, self.profile, self.subject)
            if any(metric.id in _TEXT_METRICS for metric in metrics):
                warnings.append(
                    "perplexity is measured before tuning and without prompts, so it cannot differ"
                )
        self.warnings += [f"{row.words}: {warning}" for warning in warnings]

    def _add_mixture(self) -> None:
        """Compare compositions with a view of as many tokens in natural proportions."""
        compositions = {key: arm for key, arm in self.arms.items() if "view.sources" in arm.changes}
        if not compositions:
            return
        named: set[str] = set()
        for arm in compositions.values():
            named.update(arm.profile(self.profile).view.sources or ())
        sources = [source for source in self.profile.sources if source in named]
        # The number of tokens depends on all sources of the entry, so the ids name them too.
        suffix = f"-of-{'-'.join(sources)}"
        if sources == list(self.profile.sources):
            suffix = ""
        mixture = Arm(
            id="mixed" + suffix,
            label="mixed",
            done=(
                "all sources in their natural proportions, as many tokens as "
                f"{', '.join(sources)} alone can fill"
            ),
            changes={"view.match_sources": sources},  # type: ignore[dict-item]  # a list of str is JSON
            stage="view",
            role="reference",
            experiment=self.profile.size_experiment,
        )
        for key, arm in compositions.items():
            update = {
                "id": arm.id + suffix,
                "changes": arm.changes | mixture.changes,
                "against": mixture.id,
            }
            self.arms[key] = arm.model_copy(update=update)
        self.arms["mixed"] = mixture

    def _add_second_meaning(self, component: str) -> None:
        """Add the other arm of a removal that can be read in two ways."""
        second = SECOND_MEANINGS.get(component)
        if second not in self.registry.components:
            return
        row, arm = self._row(None, replace(self.interpreter, component_ids=(second,)))
        if row.status == "left-out":
            self.warnings.append(f"{row.words} has a second meaning that is not run: {row.message}")
        if arm:
            update = {
                "label": row.words,
                "done": _SECOND_DONE,
                "says": _SECOND_DONE,
                "role": "second-meaning",
            }
            self.arms[arm.id] = arm.model_copy(update=update)
            self.warnings.append(
                f"{row.words} has a second meaning, {arm.id}: {_SECOND_DONE}; it is shown beside "
                "the first"
            )

    def _arm(self, reading: Reading) -> Arm | None:
        """The arm of a reading, None where it is the baseline; checked as a whole profile.

        Raises:
            Unclear: the settings do not fit the profile.
        """
        field, profile = reading.field, self.profile
        if field.path.startswith("tokenizer.") and profile.pretrained is not None:
            raise Unclear(
                f"profile {profile.name} starts from a trained decoder, whose "
                "tokenizer comes with it; "
                "train a base in the run (`base`) to vary it",
                "not-applicable",
            )
        self._require_sections(reading.changes)
        changes = {
            path: value
            for path, value in reading.changes.items()
            if not self._is_baseline(path, value)
        }
        if not changes:
            return None
        asked = changes
        changes, remark = self._fitting(asked, reading)
        for left_out in profile.leaves_out:
            if left_out.setting in changes and left_out.means(changes[left_out.setting]):
                # Another profile would not run either what no base of this kind can have.
                reason = obstacle(profile.changed(changes), questions=False)
                if reason:
                    raise Unclear(reason, "infeasible")
                raise Unclear(
                    f"profile {profile.name} leaves it out: {left_out.because}", "left-out"
                )
        # Some settings take effect only with others: a phase of a curriculum that nobody follows.
        if profile.changed(changes).used == profile.used:
            paths = " and ".join(changes)
            raise Unclear(
                f"the baseline does not use {paths}, so this would change nothing", "not-applicable"
            )
        is_removal = field.can_be_removed and changes.get(field.path) == field.remove
        unused = []
        for path in field.consequences:
            if is_removal and isinstance(profile.value(path), Mapping):
                unused.append(path)
        is_view = all(path.startswith("view.") for path in changes)
        is_share = field.kind == "share"
        # A series has the levels of one quantity alone: no removal, no joint change.
        is_level = is_share and not is_removal and not reading.joint
        # The id is that of what was asked for, where the rest follows from it and the profile.
        own = asked if computed(profile, asked)[0] else changes
        return Arm(
            id=_arm_id(own),
            label=reading.row.words,
            done="; ".join(filter(None, (reading.description, remark))),
            says="; ".join(filter(None, (reading.says or reading.description, remark))),
            changes=changes,
            unused=tuple(unused),
            stage=field.stage,
            experiment=profile.size_experiment if is_view else "arm",
            series=field.component if is_level else None,
            fraction=changes[field.path] if is_share else None,
            joint=reading.joint,
        )

    def _require_sections(self, paths: Iterable[str]) -> None:
        """Refuse a change of a section that the profile leaves out, such as `instruct`.

        Raises:
            Unclear: there is no such section in this profile.
        """
        for path in paths:
            section, _, setting = path.partition(".")
            if setting and getattr(self.profile, section, None) is None:
                raise Unclear(
                    f"profile {self.profile.name} has no section {section!r}, so {path} changes "
                    "nothing; add the section to vary it",
                    "not-applicable",
                )

    def _is_baseline(self, path: str, value: Any) -> bool:
        """Whether the profile has this value already; a share that is not set is 1."""
        baseline = self.profile.value(path)
        field = self.registry.fields.get(path)
        if field and field.kind == "share":
            baseline = 1.0 if baseline is None else baseline
            value = 1.0 if value is None else value
        if isinstance(baseline, Mapping) and not isinstance(value, Mapping):
            # A LoRA rank is short for the options of LoRA: only the built profile tells them apart.
            with contextlib.suppress(ConfigError):
                return self.profile.changed({path: value}) == self.profile
        return equal(baseline, value)

    def _fitting(self, changes: dict[str, Any], reading: Reading) -> tuple[dict[str, Any], str]:
        """The changes with what has to change together with them, and that in words.

        What the profile asks for always comes along; what the knob needs, and the removal of its
        consequences, only where the profile does not fit together without.
        """
        field, problem = reading.field, ""
        further, remark = computed(self.profile, changes)
        removals = {}
        for path in field.consequences:
            consequence = self.registry.fields.get(path)
            if consequence and consequence.remove is not None:
                removals[path] = consequence.remove
        # Needed by the setting, not by taking it away.
        is_removal = field.can_be_removed and changes.get(field.path) == field.remove
        needs = {} if is_removal else field.needs
        for extra in (further, needs, removals, removals | needs):
            attempt = extra | changes
            try:
                self.profile.changed(attempt, where=f"{reading.row.words!r} here")
            except ConfigError as error:
                # The first is about what the plan asks for.
                problem = problem or "; ".join(filter(None, (str(error), error.hint)))
                continue
            added = [f"{path} = {value}" for path, value in attempt.items() if path not in changes]
            return attempt, remark or ("with it " + ", ".join(added) if added else "")
        raise Unclear(problem)


def _require_leaves_out(profile: Profile, registry: Registry) -> None:
    """Refuse what a profile leaves out and no arm could ever ask for.

    Raises:
        ConfigError: a setting that no plan can vary, or the profile's own value.
    """
    for left_out in profile.leaves_out:
        where = f"profile {profile.name} leaves out {left_out.setting!r}"
        if left_out.setting not in registry.fields:
            raise ConfigError(f"{where}, which is no setting that a plan can vary")
        for value in left_out.values or ():
            # As an arm would have it: "1" or 0 would never equal the value of an arm.
            changed = profile.changed({left_out.setting: value}, where=where)
            written = changed.value(left_out.setting)
            if written == profile.value(left_out.setting):
                raise ConfigError(f"{where}={value!r}, which is its own value")
            if not left_out.means(written):
                raise ConfigError(f"{where}={value!r}, which is written {written!r}")


def check_hygiene(arm: Arm, components: Iterable[str], registry: Registry) -> None:
    """Refuse an arm that changes anything but its components' fields and their declared
    consequences.

    Raises:
        PlanError: the arm's contrast would not be about the component.
    """
    allowed: list[str] = []
    for field in registry.family(components):
        allowed += [field.path, *field.consequences, *field.needs]
    # What is below an allowed section is allowed too; the dot tells `view` from `viewer`.
    above = tuple(f"{path}." for path in allowed)
    stray = [path for path in arm.changes if not f"{path}.".startswith(above)]
    if stray:
        raise PlanError(
            f"arm {arm.id} of {', '.join(components)} also changes {', '.join(stray)}, so its "
            "difference would not be "
            "about the ablated part",
            hint=(
                "write the second change as an entry of its own, or declare it as a consequence of "
                "the knob"
            ),
        )


def mark_infeasible(resolution: Resolution, problems: Mapping[str, str]) -> Resolution:
    """The resolution without the arms that cannot be run, and without those that are compared with
    one of them.

    Args:
        problems: id of an arm -> why.
    """
    entries = []
    for entry in resolution.entries:
        reasons: dict[str | None, str] = {}
        for arm in entry.arms:
            reason = problems.get(arm.id) or problems.get(arm.against)
            if reason:
                reasons[arm.id] = reason
        if not reasons:
            entries.append(entry)
            continue
        rows = []
        for row in entry.replacements:
            if row.arm in reasons:
                message = reasons[row.arm]
                row = row.model_copy(
                    update={"status": "infeasible", "message": message, "arm": None}
                )
            rows.append(row)
        arms = tuple(arm for arm in entry.arms if arm.id not in reasons)
        if all(arm.role != "arm" for arm in arms):
            arms = ()  # nobody is left who would be compared with a reference
        update = {"replacements": tuple(rows), "arms": arms, "status": _entry_status(rows)}
        entries.append(entry.model_copy(update=update))
    return resolution.model_copy(update={"entries": tuple(entries)})


def _entry_status(rows: Iterable[ReplacementResolution]) -> Status:
    statuses = {row.status for row in rows}
    # What asks for nothing takes nothing away from the rest.
    statuses = statuses - set(HARMLESS) or statuses
    if len(statuses) == 1:
        return statuses.pop()
    if statuses == set(HARMLESS):
        return "left-out"
    return "partly" if "resolved" in statuses else "unresolved"


def _arm_id(changes: Mapping[str, Any]) -> str:
    """A readable name that equal changes share: "fraction-1-2", "twin", "sources-code"."""
    parts = []
    for path, value in sorted(changes.items()):
        leaf = path.rpartition(".")[2]
        words = str(value)
        if isinstance(value, list):
            words = " ".join(str(item) for item in value)
        elif leaf == "fraction" and isinstance(value, (int, float)):
            words = ratio_words(value)
        # 1e+06 is not 1e-06.
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", words.replace("e+", "e")).strip("-")
        name = f"{leaf.replace('_', '-')}-{slug}"
        if value is None:
            name = f"no-{leaf.replace('_', '-')}"
        # A list has no hash; and `instruct.gate`, another gate, has the int 0, which equals 0.0.
        if isinstance(value, (str, float)):
            name = ARM_NAMES.get((leaf, value), name)
        parts.append(name)
    return "+".join(dict.fromkeys(parts))
