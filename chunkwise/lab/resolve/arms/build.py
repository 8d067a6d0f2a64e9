"""A reading becomes an arm: the profile with a few fields changed, checked as a whole.

What does not fit together, changes nothing or is left to another profile is refused here; what the
base of the profile cannot carry is found once for all arms of a plan, in `buildable`.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chunkwise.core.errors import ConfigError, PlanError
from chunkwise.lab.plan.quantities import ratio_words
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.buildable import obstacle
from chunkwise.lab.resolve.arms.consequences import computed
from chunkwise.lab.resolve.arms.reading import Reading, Unclear, changes_words, equal
from chunkwise.lab.resolve.arms.scope import require_section
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.vocabulary import KnobField
from chunkwise.lab.terms import Arm

_ARM_NAMES = {
    ("mechanism", "none"): "twin",
    ("mechanism", "in_prompt"): "in-prompt",
    ("mechanism", "wider"): "wider",
    ("gate", 0.0): "gate-off",
}
"""Last part of a path, and its value -> the arm's id."""


@dataclass(frozen=True)
class ArmBuilder:
    """Builds arms of one profile."""

    profile: Profile
    registry: Registry

    def arm(self, reading: Reading) -> Arm | None:
        """The arm of a reading, None where it is the baseline; checked as a whole profile.

        Raises:
            Unclear: the settings do not fit the profile.
        """
        self._require_own_tokenizer(reading.field)
        # Before any value is asked for: a section that is left out has none.
        for path in reading.changes:
            require_section(self.profile, path)
        asked_for = {}
        for path, value in reading.changes.items():
            if not self._is_baseline(path, value):
                asked_for[path] = value
        if not asked_for:
            return None
        changes, remark = self._fitting(asked_for, reading)
        self._require_not_left_out(changes)
        self._require_effect(changes)
        # The id is that of what was asked for, where the rest follows from it and the profile.
        follows = computed(self.profile, asked_for)[0]
        arm_id = _arm_id(asked_for if follows else changes)
        return self._arm(arm_id, changes, remark, reading)

    def _arm(self, arm_id: str, changes: dict[str, Any], remark: str, reading: Reading) -> Arm:
        field = reading.field
        is_share = field.kind == "share"
        # A view needs no training of its own, so it may be exchanged at evaluation alone.
        is_view = all(path.startswith("view.") for path in changes)
        # A series has the levels of one quantity alone: no removal, no joint change.
        is_level = is_share and not _is_removal(field, changes) and not reading.joint
        return Arm(
            id=arm_id,
            label=reading.row.words,
            done=_sentence(reading.description, remark),
            says=_sentence(reading.says or reading.description, remark),
            changes=changes,
            unused=self._unused(field, changes),
            stage=field.stage,
            experiment=self.profile.size_experiment if is_view else "arm",
            series=field.component if is_level else None,
            fraction=changes[field.path] if is_share else None,
            joint=reading.joint,
        )

    def _unused(self, field: KnobField, changes: Mapping[str, Any]) -> tuple[str, ...]:
        """Sections of the baseline that nothing uses any more."""
        if not _is_removal(field, changes):
            return ()
        sections = []
        for path in field.consequences:
            if isinstance(self.profile.value(path), Mapping):
                sections.append(path)
        return tuple(sections)

    def _require_own_tokenizer(self, field: KnobField) -> None:
        if field.path.startswith("tokenizer.") and self.profile.pretrained is not None:
            raise Unclear(
                f"profile {self.profile.name} starts from a trained decoder, whose tokenizer comes "
                "with it; train a base in the run (`base`) to vary it",
                "not-applicable",
            )

    def _require_not_left_out(self, changes: Mapping[str, Any]) -> None:
        """Refuse what the profile leaves to another one."""
        profile = self.profile
        for left_out in profile.leaves_out:
            path = left_out.setting
            if path not in changes or not left_out.means(changes[path]):
                continue
            # Another profile would not run either what no base of this kind can have.
            reason = obstacle(profile.changed(changes), questions=False)
            if reason:
                raise Unclear(reason, "infeasible")
            message = f"profile {profile.name} leaves it out: {left_out.because}"
            raise Unclear(message, "left-out")

    def _require_effect(self, changes: Mapping[str, Any]) -> None:
        """Refuse settings that take effect only with others: a phase of a curriculum that nobody
        follows.
        """
        # `used` leaves out what the mechanism and the phases of this profile never read.
        if self.profile.changed(changes).used == self.profile.used:
            paths = " and ".join(changes)
            message = f"the baseline does not use {paths}, so this would change nothing"
            raise Unclear(message, "not-applicable")

    def _is_baseline(self, path: str, value: Any) -> bool:
        """Whether the profile has this value already; a share that is not set is 1."""
        baseline = self.profile.value(path)
        field = self.registry.fields.get(path)
        if field and field.kind == "share":
            if baseline is None:
                baseline = 1.0
            if value is None:
                value = 1.0
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
        field = reading.field
        further, remark = computed(self.profile, changes)
        removals = self._removals_with(field)
        # Needed by the setting, not by taking it away.
        needs = {} if _is_removal(field, changes) else field.needs
        problem = ""
        # In the order of how much they add to what the plan asks for.
        for extra in (further, needs, removals, removals | needs):
            attempt = extra | changes
            try:
                self.profile.changed(attempt, where=f"{reading.row.words!r} here")
            except ConfigError as error:
                # The first is about what the plan asks for.
                problem = problem or _sentence(str(error), error.hint)
                continue
            extra = {path: value for path, value in extra.items() if path not in changes}
            if extra and not remark:
                remark = f"with it {changes_words(extra)}"
            return attempt, remark
        raise Unclear(problem)

    def _removals_with(self, field: KnobField) -> dict[str, Any]:
        """The removal of the consequences that can be removed."""
        removals = {}
        for path in field.consequences:
            consequence = self.registry.fields.get(path)
            if consequence is not None and consequence.remove is not None:
                removals[path] = consequence.remove
        return removals


def _is_removal(field: KnobField, changes: Mapping[str, Any]) -> bool:
    return field.can_be_removed and changes.get(field.path) == field.remove


def _sentence(*parts: str | None) -> str:
    """Those that say something, in one line."""
    return "; ".join(part for part in parts if part)


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
        part = ", ".join(components)
        paths = ", ".join(stray)
        raise PlanError(
            f"arm {arm.id} of {part} also changes {paths}, so its difference would not be about "
            "the ablated part",
            hint=(
                "write the second change as an entry of its own, or declare it as a consequence of "
                "the knob"
            ),
        )


def _arm_id(changes: Mapping[str, Any]) -> str:
    """A readable name that equal changes share: "fraction-1-2", "twin", "sources-code"."""
    names = [_change_id(path, value) for path, value in sorted(changes.items())]
    return "+".join(dict.fromkeys(names))


def _change_id(path: str, value: Any) -> str:
    setting = path.rpartition(".")[2]
    # A list has no hash; and `instruct.gate`, another gate, has the int 0, which equals 0.0.
    if isinstance(value, (str, float)) and (setting, value) in _ARM_NAMES:
        return _ARM_NAMES[setting, value]
    name = setting.replace("_", "-")
    if value is None:
        return f"no-{name}"
    words = str(value)
    if isinstance(value, list):
        words = " ".join(str(item) for item in value)
    elif setting == "fraction" and isinstance(value, (int, float)):
        words = ratio_words(value)
    # 1e+06 is not 1e-06.
    words = words.replace("e+", "e")
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-")
    return f"{name}-{slug}"
