"""From a plan to arms: match the part, read the replacements, build and check the arms.

    entry --Registry.match--> component(s) --Interpreter--> settings --> arms

An arm may differ from the baseline in the matched components' fields and their declared
consequences only (contrast hygiene). Arms of a composition are compared with a view of as many
tokens in natural proportions, never with the full datastore; a removal that can be read in two ways
gets both arms. Nothing here runs or reads data; what the built datastore cannot serve is found in
the run (`run.check_views`), and marked by `mark_infeasible`.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chunkwise.core.config import load_yaml
from chunkwise.core.errors import ConfigError, PlanError
from chunkwise.core.io import canonical_json, digest_bytes
from chunkwise.lab.plan.document import Entry, PlanDocument
from chunkwise.lab.plan.quantities import ratio_words
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import NameIndex, PartMatch, Registry, field_kind
from chunkwise.lab.resolve.paper import Paper, load_paper
from chunkwise.lab.resolve.resolution import (
    HARMLESS,
    EntryResolution,
    MetricResolution,
    ReplacementResolution,
    Resolution,
    Status,
)
from chunkwise.lab.resolve.values import EntryOverride, Interpreter, Overrides, Unclear, Wish, equal
from chunkwise.lab.terms import METRICS, Arm

SECOND_MEANINGS = {
    "model.cca": ("model.cca.gate", "trained with retrieval, evaluated with its gate at 0")
}
"""REMOVE of the component is also read as REMOVE of the second one, which is always shown beside
it.
"""

ARM_NAMES = {
    ("mechanism", "none"): "twin",
    ("mechanism", "in_prompt"): "in-prompt",
    ("mechanism", "wider"): "wider",
    ("gate", 0.0): "gate-off",
}

_METRIC_NAMES: Mapping[str, tuple[str, ...]] = {
    "perplexity": (
        "perplexity",
        "validation perplexity",
        "test perplexity",
        "language modeling perplexity",
        "loss",
        "validation loss",
        "cross-entropy",
        "negative log-likelihood",
        "nll",
        "language modeling loss",
    ),
    "bits_per_byte": ("bits per byte", "bpb"),
    "choice_accuracy": (
        "zero-shot QA accuracy",
        "QA accuracy",
        "accuracy",
        "zero-shot accuracy",
        "choice accuracy",
        "question answering accuracy",
        "multiple-choice accuracy",
        "zero-shot question answering",
    ),
    "exact_match": ("exact match", "exact match accuracy", "EM score"),
    "f1": ("F1", "F1 score", "token F1"),
    "answer_nll": ("answer likelihood", "answer perplexity", "answer negative log-likelihood"),
}
assert set(_METRIC_NAMES) == set(METRICS)


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
        paper: whose values quantities are translated against; default: the one that the profile
            names.

    Raises:
        PlanError: the document holds no usable entry, or an override names what does not exist.
    """
    if not document.entries:
        problems = "; ".join(
            found.message for found in document.diagnostics if found.severity == "error"
        )
        hint = "`chunkwise plan check FILE` shows how the plan is read"
        raise PlanError(f"the plan holds no usable entry: {problems}", hint=hint)
    if paper is None and profile.paper:
        paper = load_paper(profile.paper)
    overrides, registry = overrides or Overrides(), registry or Registry(type(profile))
    names = {name for entry in document.entries for name in (entry.name, str(entry.index))}
    for name, answer in overrides.entries.items():
        if name not in names:
            known = ", ".join(entry.name for entry in document.entries)
            raise PlanError(
                f"the overrides name an entry {name!r}, which the plan does not have; it has: "
                f"{known}"
            )
        if answer.component and answer.component not in registry.components:
            known = ", ".join(registry.components)
            raise PlanError(f"the overrides name a component {answer.component!r}; known: {known}")
    resolver = _Resolver(profile, paper, registry)
    entries = tuple(resolver.entry(entry, overrides.of(entry)) for entry in document.entries)
    varied = {row.component for entry in entries for row in entry.replacements if row.arm}
    told = {_not_varied(registry.components[component].title) for component in varied if component}
    entries = tuple(  # another entry may vary what this one only names
        entry.model_copy(
            update={"warnings": tuple(text for text in entry.warnings if text not in told)}
        )
        for entry in entries
    )
    return Resolution(
        plan_sha256=document.source_sha256,
        plan_title=document.title,
        profile=profile.name,
        profile_digest=digest_bytes(canonical_json(profile.model_dump(mode="json")).encode()),
        paper=paper.id if paper else None,
        registry_digest=registry.digest,
        overrides=overrides.model_dump(mode="json") if overrides.entries else None,
        entries=entries,
    )


def _not_varied(title: str) -> str:
    return f"{title} is named but not varied"


class _Resolver:
    def __init__(self, profile: Profile, paper: Paper | None, registry: Registry) -> None:
        self.profile, self.registry = profile, registry
        _require_leaves_out(profile, registry)
        self.words = Interpreter(profile, paper, registry)
        self.metrics = NameIndex(_METRIC_NAMES)

    def entry(self, entry: Entry, override: EntryOverride) -> EntryResolution:
        chosen = override.component
        match = PartMatch((chosen,), 1.0) if chosen else self.registry.match(entry.ablated_part)
        base = EntryResolution(
            index=entry.index,
            name=entry.name,
            ablated_part=entry.ablated_part,
            action=entry.action,
            status="unresolved",
            components=match.components,
            score=match.score,
            runner_up=match.runner_up.owner if match.runner_up else None,
            runner_up_score=match.runner_up.score if match.runner_up else None,
            by="user" if chosen else "rule",
            metrics=self._metrics(entry),
        )
        if not match.components:
            near = ", ".join(f"{score.owner} ({score.score:.2f})" for score in match.ranking[:3])
            message = (
                f"no component is surely {entry.ablated_part!r}; nearest: {near}. Name one in the "
                "overrides"
            )
            words = [value.text for value in entry.replacements] or [entry.action]
            refused = tuple(
                ReplacementResolution(words=text, status="unresolved", message=message)
                for text in words
            )
            return base.model_copy(update={"replacements": refused, "warnings": (message,)})

        rows: list[ReplacementResolution] = []
        arms: dict[str, Arm] = {}
        warnings: list[str] = []
        for text, wish in self.words.wishes(entry, match.components, override):
            row, arm = self._row(text, wish, match.components)
            rows.append(row)
            if arm:
                arms.setdefault(arm.id, arm)
            warnings += self._warnings(row, arm)
        arms = self._with_partners(
            entry, match.components, arms, warnings
        )  # still under the ids that the rows have
        rows = [
            row.model_copy(update={"arm": arms[row.arm].id}) if row.arm in arms else row
            for row in rows
        ]
        if entry.action == "REPLACE":
            varied = {row.component for row in rows}
            named = match.components if len(match.components) > 1 else ()
            titles = [
                self.registry.components[component].title
                for component in named
                if component not in varied
            ]
            warnings += [_not_varied(title) for title in titles]
        return base.model_copy(
            update={
                "status": _entry_status(rows),
                "replacements": tuple(rows),
                "arms": tuple(arms.values()),
                "warnings": tuple(dict.fromkeys(warnings)),
            }
        )

    def _row(
        self, text: str, wish: Wish | Unclear, components: tuple[str, ...]
    ) -> tuple[ReplacementResolution, Arm | None]:
        """The table's row for a wish, and its arm if it makes one."""
        facts: dict[str, Any] = {"words": text}
        arm = None
        if isinstance(wish, Wish):
            knob = wish.field.knob
            facts |= {
                "component": knob.component,
                "path": wish.field.path,
                "by": wish.by,
                "ratio": wish.ratio,
            }
            facts["paper"] = wish.paper or self.words.paper_fact(wish.field)
            facts["local"] = wish.changes.get(wish.field.path)
            try:
                if wish.field.path.startswith("tokenizer.") and self.profile.pretrained is not None:
                    raise Unclear(
                        f"profile {self.profile.name} starts from a trained decoder, whose "
                        "tokenizer comes with it; "
                        "train a base in the run (`base`) to vary it",
                        status="not-applicable",
                    )
                arm = self._arm(wish, components)
            except Unclear as unclear:
                wish = unclear
        if isinstance(wish, Unclear):
            return ReplacementResolution(
                **facts | {"status": wish.status, "message": str(wish)} | wish.facts
            ), None
        message = wish.note or ("" if arm else "this is the baseline's value")
        arm_id = arm.id if arm else "baseline"
        return ReplacementResolution(**facts, status="resolved", arm=arm_id, message=message), arm

    def _warnings(self, row: ReplacementResolution, arm: Arm | None) -> list[str]:
        if arm is None:
            return []
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
        return [f"{row.words}: {warning}" for warning in warnings]

    def _with_partners(
        self, entry: Entry, components: tuple[str, ...], arms: dict[str, Arm], warnings: list[str]
    ):
        """Add what the arms are compared with, and second meanings."""
        compositions = [arm for arm in arms.values() if "view.sources" in arm.changes]
        if compositions:
            asked = {
                source
                for arm in compositions
                for source in arm.profile(self.profile).view.sources or ()
            }
            match = [source for source in self.profile.sources if source in asked]
            mixed = Arm(
                id="mixed" + self._of(match),
                label="mixed",
                done=(
                    "all sources in their natural proportions, as many tokens as "
                    f"{', '.join(match)} alone can fill"
                ),
                changes={"view.match_sources": match},  # type: ignore[dict-item]  # a list of str is JSON
                stage="view",
                role="reference",
                experiment=self.profile.size_experiment,
            )
            for composed in compositions:
                update = {"changes": composed.changes | mixed.changes, "against": mixed.id}
                arms[composed.id] = composed.model_copy(
                    update=update | {"id": composed.id + self._of(match)}
                )
            arms["mixed"] = mixed
        for component in components:
            second, done = SECOND_MEANINGS.get(component, (None, ""))
            if entry.action == "REMOVE" and arms and second in self.registry.components:
                words = f"REMOVE {entry.ablated_part}"
                row, arm = self._row(words, self.words.removal(words, (second,)), (second,))
                if row.status == "left-out":
                    warnings.append(
                        f"{row.words} has a second meaning that is not run: {row.message}"
                    )
                if arm:
                    arms[arm.id] = arm.model_copy(
                        update={"label": row.words, "done": done, "role": "second-meaning"}
                    )
                    warnings.append(
                        f"{row.words} has a second meaning, {arm.id}: {done}; it is shown beside "
                        "the first"
                    )
        series = [arm for arm in arms.values() if arm.series]
        if len(series) < 2:
            arms |= {arm.id: arm.model_copy(update={"series": None}) for arm in series}
        return arms

    def _of(self, sources: list[str]) -> str:
        """What tells a composition's arms from those of another choice of sources; nothing where it
        is all of them.
        """
        return "" if sources == list(self.profile.sources) else f"-of-{'-'.join(sources)}"

    # --- arms -------------------------------------------------------------------------------------

    def _arm(self, wish: Wish, components: tuple[str, ...]) -> Arm | None:
        """The arm of a wish, None where it is the baseline; checked as a whole profile.

        Raises:
            Unclear: the settings do not fit the profile.
        """
        changes = {
            path: new for path, new in wish.changes.items() if not self._is_baseline(path, new)
        }
        if not changes:
            return None
        changes = self._fitting(changes, wish)
        for left_out in self.profile.leaves_out:
            if left_out.setting in changes and left_out.means(changes[left_out.setting]):
                raise Unclear(
                    f"profile {self.profile.name} leaves it out: {left_out.because}", "left-out"
                )
        if self.profile.changed(changes).used == self.profile.used:
            paths = " and ".join(changes)
            raise Unclear(
                f"the baseline does not use {paths}, so this would change nothing", "not-applicable"
            )
        knob, kind = wish.field.knob, field_kind(wish.field)
        removed = knob.remove is not None and changes.get(wish.field.path) == knob.remove
        sections = [
            path for path in knob.consequences if isinstance(self.profile.value(path), Mapping)
        ]
        is_view = all(path.startswith("view.") for path in changes)
        arm = Arm(
            id=_arm_id(changes),
            label=wish.words,
            done=wish.done,
            changes=changes,
            unused=tuple(sections) if removed else (),
            stage=knob.stage,
            experiment=self.profile.size_experiment if is_view else "arm",
            series=knob.component if kind == "share" and not wish.joint and not removed else None,
            fraction=changes[wish.field.path] if kind == "share" else None,
            joint=wish.joint,
        )
        check_hygiene(arm, components, self.registry)
        return arm

    def _is_baseline(self, path: str, value: Any) -> bool:
        """Whether the profile has this value already; a share that is not set is 1."""
        baseline, member = self.profile.value(path), self.registry.fields.get(path)
        if member is not None and field_kind(member) == "share":
            baseline, value = (1.0 if share is None else share for share in (baseline, value))
        if isinstance(baseline, Mapping) and not isinstance(
            value, Mapping
        ):  # short for options, as a LoRA rank is
            with contextlib.suppress(ConfigError):
                return self.profile.changed({path: value}) == self.profile
        return equal(baseline, value)

    def _fitting(self, changes: dict[str, Any], wish: Wish) -> dict[str, Any]:
        """The changes; with their consequences removed too where the profile does not fit together
        without that.
        """
        fields = [
            self.registry.fields[path]
            for path in wish.field.knob.consequences
            if path in self.registry.fields
        ]
        removals = {
            member.path: member.knob.remove for member in fields if member.knob.remove is not None
        }
        problem = ""
        for attempt in (changes, removals | changes):
            try:
                self.profile.changed(attempt, where=f"{wish.words!r} here")
                return attempt
            except ConfigError as error:
                problem = problem or str(error)
        raise Unclear(problem)

    def _metrics(self, entry: Entry) -> tuple[MetricResolution, ...]:
        if not entry.metrics:
            return tuple(
                MetricResolution(words=name, id=name, defaulted=True)
                for name in self.profile.metrics
            )
        found = []
        for words in entry.metrics:
            metric, ranking = self.metrics.find(words)
            nearest = () if metric else tuple(score.owner for score in ranking[:2])
            found.append(MetricResolution(words=words, id=metric, nearest=nearest))
        return tuple(found)


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
            written = profile.changed({left_out.setting: value}, where=where).value(
                left_out.setting
            )
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
    family = registry.family(components)
    allowed = {member.path for member in family} | {
        path for member in family for path in member.knob.consequences
    }
    stray = [
        path
        for path in arm.changes
        if not any(path == good or path.startswith(f"{good}.") for good in allowed)
    ]
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
        hit = {arm.id: problems.get(arm.id) or problems.get(arm.against) for arm in entry.arms}
        hit = {arm_id: problem for arm_id, problem in hit.items() if problem}
        rows = tuple(
            row.model_copy(update={"status": "infeasible", "message": hit[row.arm], "arm": None})
            if row.arm in hit
            else row
            for row in entry.replacements
        )
        arms = tuple(arm for arm in entry.arms if arm.id not in hit)
        if not any(arm.role == "arm" for arm in arms):
            arms = ()  # nobody is left who would be compared with a reference
        update = {"replacements": rows, "arms": arms, "status": _entry_status(rows)}
        entries.append(entry.model_copy(update=update) if hit else entry)
    return resolution.model_copy(update={"entries": tuple(entries)})


def _entry_status(rows: Iterable[ReplacementResolution]) -> Status:
    kinds = {row.status for row in rows}
    if not kinds:
        return "unresolved"
    if not kinds <= set(HARMLESS):  # what asks for nothing takes nothing away from the rest
        kinds -= set(HARMLESS)
    if len(kinds) == 1:
        return kinds.pop()
    if kinds <= set(HARMLESS):
        return "left-out"
    return "partly" if "resolved" in kinds else "unresolved"


def _arm_id(changes: Mapping[str, Any]) -> str:
    """A readable name that equal changes share: "fraction-1-2", "twin", "sources-code"."""
    parts = []
    for path, value in sorted(changes.items()):
        leaf = path.rsplit(".", 1)[-1]
        words = (
            ratio_words(value) if leaf == "fraction" and isinstance(value, (int, float)) else value
        )
        slug = re.sub(
            r"[^A-Za-z0-9.]+",
            "-",
            " ".join(map(str, words)) if isinstance(words, list) else str(words),
        )
        special = ARM_NAMES.get((leaf, value)) if isinstance(value, (str, float)) else None
        parts.append(special or f"{leaf.replace('_', '-')}-{slug.strip('-')}")
    return "+".join(parts)
