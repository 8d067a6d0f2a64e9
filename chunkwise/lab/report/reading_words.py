"""What a report says first where the model does not read what is retrieved, and what would help."""

from __future__ import annotations

from chunkwise.lab.measure.analysis import READS, Analysis
from chunkwise.lab.measure.results import StudyResults
from chunkwise.lab.report import wording as say


def unread_words(study: StudyResults, analysis: Analysis) -> str:
    """Why there is no verdict on the datastore, and what would help; "" where the model reads, or
    that is not clear, or was not measured.
    """
    checks = {check.id: check for check in analysis.mechanism_checks}
    check = checks.get(READS)
    if check is None or check.answer != "no" or study.controls is None:
        return ""
    metric = study.metric(study.controls.metric)
    return (
        "This model does not read what is retrieved: found neighbours serve it no better than "
        f"random ones (perplexity {check.detail}; what counts is {say.threshold(metric)}), so "
        "nothing here says whether the datastore or its parts matter. What would help: "
        f"{_remedies(study)}."
    )


def _remedies(study: StudyResults) -> str:
    """Training, form and overlap, with what the study had of each, where that is known."""
    tokens = [arm.train_tokens for arm in study.arms if arm.role == "retro" and arm.train_tokens]
    had = f" (it had {say.count(tokens[0])})" if tokens else ""
    training = (
        f"more tokens of training with retrieval{had}, with made neighbours first "
        "(retrofit.made_neighbours.share)"
    )
    form = (
        "another form of the model (retrofit.retro: more layers with cross-attention, "
        "previous_token_keys, similarity_init)"
    )
    return f"{training}; {form}; text that shares more with the datastore{_little_overlap(study)}"


def _little_overlap(study: StudyResults) -> str:
    """How much of the evaluated text is in the lowest range of overlap."""
    total = sum(row.tokens for row in study.overlap)
    if not total:
        return ""
    lowest = min(row.high for row in study.overlap)
    tokens = sum(row.tokens for row in study.overlap if row.high == lowest)
    return (
        f" ({100 * tokens / total:.0f} % of the evaluated tokens have at most {lowest:g} as the "
        f"{study.overlap_unit})"
    )
