"""From the contrasts of a study to families of tests, and to a verdict for each.

Each family is corrected on its own: `primary` holds every first-metric contrast of the plan (for an
ordered replacement the slope per halving, instead of its levels); `secondary` the further metrics
of the same contrasts; `levels` the rows below a slope; `extra` the experiment that is not the
profile's primary one; `controls`. Families other than the primary one are exploratory and have one
family per metric.

A question about what is retrieved, put to a model that does not read (`reading`), is tested like
the others, so that their level does not depend on it; its word is "no signal" whatever the test
says. Only a difference that is shown of an arm with a training of its own keeps its word.

Not tested, hence not counted in a family: contrasts that are invalid, at chance, identical, or of
one replicate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from chunkwise.lab.measure import statistics as st
from chunkwise.lab.measure.contrast import QUESTION, Contrast, Settles, Stopping
from chunkwise.lab.measure.noise import PairedTest
from chunkwise.lab.measure.sides import Sides
from chunkwise.lab.measure.verdicts import (
    CONFIRMED_FROM,
    FUTILE_BELOW,
    OPEN,
    REAL,
    Judgement,
    Verdict,
    chance_of_another_word,
    judge,
)
from chunkwise.lab.terms import Comparison, Metric

Fields = dict[str, Any]  # of a Contrast, by name
_NO_TEST = PairedTest(())
_ABOUT_THE_MODEL = (*REAL, Verdict.NONE, Verdict.INCONCLUSIVE, Verdict.IDENTICAL)
"""Words that a model has to read for."""


@dataclass
class Draft:
    """A contrast before its family is tested.

    Attributes:
        fields: of the `Contrast`; each step adds its own.
        obstacles: why there is no verdict, in words; the first that is not None counts.
        not_asked: why the question does not arise.
        unread: of a question about what is retrieved: why the model cannot answer it.
        trained_apart: whether the arm has a training of its own, in which it may have learned to
            read.
    """

    metric: Metric
    fields: Fields
    sides: Sides
    obstacles: list[str | None]
    comparisons: Sequence[Comparison] = ()
    not_asked: str | None = None
    unread: str | None = None
    trained_apart: bool = False
    test: PairedTest = _NO_TEST

    @property
    def question(self) -> tuple[str, ...]:
        """As of the `Contrast`."""
        return tuple(self.fields[name] for name in QUESTION)

    @property
    def at_chance(self) -> bool:
        """Whether no side is clear of chance. One clear side is the effect that is looked for, not
        a lack of signal.
        """
        if self.metric.chance is None:
            return False
        for column, values in zip(self.sides.columns, self.sides.values_SL.T, strict=True):
            errors = [row.standard_error_examples for row in column]
            if not st.at_chance(values, errors, self.metric.chance):
                return False
        return True


def family_of(comparison: Comparison, metric: Metric, *, level: bool) -> str:
    """The family of a comparison on one metric.

    Args:
        level: one size of an ordered replacement, whose slope is the headline.
    """
    if comparison.role == "control":
        return f"controls: {metric.title}"
    if comparison.role == "extra":
        kind = "levels" if level else "extra"
        return f"{kind} ({comparison.experiment}): {metric.title}"
    if level:
        return f"levels: {metric.title}"
    # One primary family for all metrics, since each entry contributes its first metric alone.
    first = metric.id == comparison.metrics[0]
    return "primary" if first else f"secondary: {metric.title}"


@dataclass(frozen=True)
class Families:
    """Judges the drafts of one look.

    Attributes:
        alpha: of a family, over all looks.
    """

    alpha: float
    stopping: Stopping

    def judge(self, drafts: Iterable[Draft], stopped: Iterable[Contrast]) -> None:
        """Add verdicts to the fields of all drafts, a family at a time.

        Args:
            stopped: contrasts that have their verdict since an earlier look.
        """
        families: dict[str, list[Draft]] = defaultdict(list)
        for draft in drafts:
            families[draft.fields["family"]].append(draft)
        p_stopped: dict[str, list[float]] = defaultdict(list)
        for contrast in stopped:
            if contrast.p is not None:
                p_stopped[contrast.family].append(contrast.p)
        for name, family in families.items():
            self._judge_family(family, p_stopped[name])

    def _judge_family(self, family: Sequence[Draft], p_before: Sequence[float]) -> None:
        """One family: who is tested, then a verdict for each, corrected for those.

        Args:
            p_before: of its tests that have their verdict since an earlier look.
        """
        tested = []
        for draft in family:
            draft.fields |= _estimates(draft.test)
            untested = _untested(draft)
            if untested is None:
                tested.append(draft)
            else:
                draft.fields["verdict"], draft.fields["reason"] = untested
        tests = [draft.test for draft in tested]
        judgements = judge(
            tests,
            [draft.metric.threshold for draft in tested],
            self.alpha,
            others=len(p_before),
            spent=self.stopping.look.spent,
        )
        p_values = [test.p for test in tests]
        # Those of earlier looks count in the family, and have their own q already.
        q_values = st.false_discovery_q([*p_values, *p_before])[: len(tests)]
        family_size = len(tests) + len(p_before)
        for draft, judgement, q in zip(tested, judgements, q_values, strict=True):
            draft.fields |= _test_results(draft.test, judgement)
            if draft.fields["family"] == "primary":
                draft.fields |= self._futility(draft, judgement, family_size)
            else:
                # The primary family confirms; a false discovery rate is for exploring.
                draft.fields["q"] = q
        for draft in family:
            draft.fields |= _without_reading(draft)

    def _futility(self, draft: Draft, judgement: Judgement, family_size: int) -> Fields:
        """Whether it ends here because more replicates are unlikely to change its word.

        Ending early can only lower the error of what is said, so no level depends on it.
        """
        if self.stopping.ends or judgement.verdict not in OPEN:
            return {}
        last = self.stopping.last
        chance = chance_of_another_word(
            draft.test,
            judgement.verdict,
            draft.metric.threshold,
            last.replicates - len(draft.fields["dropped"]),
            last.spent * self.alpha / family_size,
        )
        return {"chance": chance, "stopped": "futile" if chance < FUTILE_BELOW else None}


def _estimates(test: PairedTest) -> Fields:
    """What the differences show whether or not they can be tested."""
    fields: Fields = {"differences": test.differences}
    if test.n > 0:
        fields["difference"] = test.mean
    if test.n > 1:
        fields["seed_sd"] = test.sd
        fields["p_sign_flip"] = st.sign_flip_p(test.differences)
        fields["interval_bca"] = st.bca_interval(test.differences)
    if test.testable:
        fields["interval"] = test.interval()
        fields["error_replicates"] = math.sqrt(test.variance_replicates)
    if test.examples is not None:
        fields["error_examples"] = math.sqrt(test.variance_examples)
        fields["groups"] = test.examples.groups
    return fields


def _test_results(test: PairedTest, judgement: Judgement) -> Fields:
    """The verdict, and what it rests on."""
    alone = PairedTest(test.differences, floor=test.floor)
    needed = judgement.needed
    claims = judgement.verdict in REAL
    return {
        "interval": judgement.interval,
        "level": judgement.level,
        "p": judgement.p,
        "p_family": judgement.p_family,
        "p_holm": judgement.p_holm,
        "p_equivalence": judgement.p_equivalence,
        "interval_equivalence": judgement.interval_equivalence,
        "interval_replicates": alone.interval(judgement.level),
        "p_replicates": alone.p,
        "detectable": judgement.detectable,
        "settles": Settles(**vars(needed)) if needed else None,
        "verdict": judgement.verdict,
        "confirmed": test.n >= CONFIRMED_FROM or not claims,
    }


def _without_reading(draft: Draft) -> Fields:
    """The word of a question about what is retrieved, where the model does not read."""
    verdict = draft.fields["verdict"]
    if draft.unread is None or verdict not in _ABOUT_THE_MODEL:
        return {}
    # Trained on something else, the arm may read where the baseline does not: what is shown holds.
    if draft.trained_apart and verdict in REAL:
        return {}
    return {
        "verdict": Verdict.NO_SIGNAL,
        "reason": draft.unread,
        # More replicates of a model that does not read settle nothing.
        "settles": None,
        "chance": None,
        "stopped": None,
        "confirmed": True,
    }


def _untested(draft: Draft) -> tuple[Verdict, str] | None:
    """The verdict on a contrast that cannot be tested, with the reason; None: it can."""
    test = draft.test
    if draft.not_asked:
        return Verdict.NOT_ASKED, draft.not_asked
    for obstacle in draft.obstacles:
        if obstacle:
            return Verdict.INVALID, obstacle
    if draft.at_chance:
        return Verdict.NO_SIGNAL, f"both sides are at chance ({draft.metric.chance:.0%})"
    if test.n == 1:
        return Verdict.ANECDOTE, "one replicate: no test, it speaks about this checkpoint only"
    if test.testable:
        return None
    if test.mean == 0:
        return Verdict.IDENTICAL, "both sides agree in every replicate, to the bit"
    reason = "the difference is the same in every replicate, so they are not independent runs"
    return Verdict.INVALID, reason
