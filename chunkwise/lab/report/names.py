"""Names of arms and views for people.

A plan names what it changes in few words: "600B tokens", "1". Beside a number of this report such
a word says too little, or what did not happen, so here it stands with the tokens that ran and with
the part that it is a value of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.cuts import CutRow
from chunkwise.lab.measure.results import ArmRow, StudyResults, ViewRow
from chunkwise.lab.plan.quantities import amount_words, ratio_words
from chunkwise.lab.report import wording as say
from chunkwise.lab.terms import FULL, Comparison

_SETTING = re.compile(r" \([\w.]+ = [^()]*\)$")
_ACTIONS = {"REMOVE ": "without ", "ADD ": "with "}
_SECOND_MEANING = ", second meaning"  # whose words are what was done
_TRAINED_ON = "Retro trained on "


class Names:
    """The words of one study."""

    def __init__(self, study: StudyResults):
        self.study = study

    def contrast(self, contrast: Contrast) -> str:
        return self._answer(contrast.kind, contrast.entry, contrast.arm)

    def cut(self, cut: CutRow) -> str:
        """The same of an answer on a part of the text."""
        return self._answer(cut.kind, cut.entry, cut.arm)

    def _answer(self, kind: str, entry: str, arm: str) -> str:
        # A slope is of all arms of its entry, and of none.
        if kind == "slope":
            return "each halving of the datastore"
        return self.arm(entry, arm)

    def arm(self, entry: str, label: str) -> str:
        """ "7.1M tokens (the plan's 600B, 1/2)", "number of neighbours: 1", "without gates"."""
        comparison = self._comparisons.get((entry, label))
        if comparison is not None and comparison.arm.view != FULL:
            return self._of_view(comparison)
        if comparison is not None and label.endswith(_SECOND_MEANING):
            return comparison.done
        for action, word in _ACTIONS.items():
            if label.startswith(action):
                return word + label.removeprefix(action)
        # A number, or a word that two parts share, does not say what it is a value of.
        if not re.search("[A-Za-z]", label) or self._is_ambiguous(label):
            return f"{self._parts.get(entry, entry)}: {label}"
        return label

    def done(self, contrast: Contrast) -> str:
        """What was done here, where the name does not say it; without settings of a profile."""
        if contrast.arm.endswith(_SECOND_MEANING):
            return ""
        name = self.contrast(contrast)
        done = _SETTING.sub("", contrast.done)
        # A share of the datastore, a plain number and a removal are in the name.
        if contrast.realised_fraction is not None and done.startswith("nested"):
            return ""
        if name.endswith(f": {contrast.arm}"):
            return ""
        if name.startswith("without ") and done.startswith("without "):
            return ""
        # "layers with cross-attention: one mid layer" of the arm "one mid layer"
        part, colon, option = done.partition(": ")
        if colon and option.lower() in name.lower():
            return part
        return done

    def view(self, view: ViewRow) -> str:
        """The datastore that was read."""
        if view.view == FULL:
            return "full datastore"
        for comparison in self.study.comparisons:
            if comparison.arm.view == view.view:
                return self.arm(comparison.entry, comparison.label)
        return view.label

    def model(self, arm: ArmRow) -> str:
        """A trained arm."""
        comparison = self._of_model(arm.id)
        if comparison is None or not self.is_compared(arm):
            return arm.label
        name = self.arm(comparison.entry, comparison.label)
        if arm.label.startswith(_TRAINED_ON):
            return _TRAINED_ON + name
        return say.capital(name)

    def is_compared(self, arm: ArmRow) -> bool:
        """Whether a row of the answers says what this arm changes."""
        return arm.role == "variant" and self._of_model(arm.id) is not None

    def model_of(self, id: str, label: str) -> str:
        """The same by the arm's id, where it is one; `label` elsewhere."""
        for arm in self.study.arms:
            if arm.id == id and arm.role == "variant":
                return self.model(arm)
        return label

    def place(self, name: str) -> str:
        """A name as the table of measurements makes it: "Retro on 600B tokens"."""
        for view in self.study.views:
            if name.endswith(f" on {view.label}"):
                return name.removesuffix(view.label) + self.view(view)
        return name

    def _of_view(self, comparison: Comparison) -> str:
        views = self.study.views
        sizes = [view.tokens for view in views if view.view == comparison.arm.view]
        tokens = f"{_mean_amount(sizes)} tokens" if sizes else ""
        if comparison.fraction is None:
            return f"{comparison.label} ({tokens})" if tokens else comparison.label
        share = ratio_words(comparison.fraction)
        words = re.sub(r"\s+tokens$", "", comparison.label)
        if words != share:
            words = f"{words}, {share}"
        # A dry run, or a study that failed, has no view to count.
        size = tokens or f"{share} of the datastore"
        return f"{size} (the plan's {words})"

    def _of_model(self, id: str) -> Comparison | None:
        for comparison in self.study.comparisons:
            if comparison.arm.arm == id:
                return comparison
        return None

    def _is_ambiguous(self, label: str) -> bool:
        comparisons = self.study.comparisons
        arms = {comparison.arm for comparison in comparisons if comparison.label == label}
        return len(arms) > 1

    @cached_property
    def _comparisons(self) -> dict[tuple[str, str], Comparison]:
        # The first is the profile's primary experiment.
        comparisons: dict[tuple[str, str], Comparison] = {}
        for comparison in self.study.comparisons:
            comparisons.setdefault((comparison.entry, comparison.label), comparison)
        return comparisons

    @cached_property
    def _parts(self) -> dict[str, str]:
        return {entry.name: entry.ablated_part for entry in self.study.entries}


def _mean_amount(sizes: Sequence[int]) -> str:
    """Three figures: each replicate draws its view anew, and their sizes differ by some percent."""
    mean = sum(sizes) / len(sizes)
    return amount_words(float(f"{mean:.3g}"))
