"""What a study ran on, in words: model, datastore, evaluated text, questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chunkwise.core.artefact import read_table
from chunkwise.core.store import Artefact
from chunkwise.lab.measure.outcome import Outcome
from chunkwise.lab.measure.results import ArmRow, Setting
from chunkwise.lab.plan.quantities import amount_words
from chunkwise.lab.profile import Profile
from chunkwise.lab.study.trained import RETRO
from chunkwise.lab.terms import Selector


def setting_of(outcome: Outcome, arms: Sequence[ArmRow]) -> Setting:
    """The head of a report; a part of it is empty where it is not known."""
    study = outcome.study
    return Setting(
        model=_model_words(arms),
        datastore=_datastore_words(outcome.of(study.trained[RETRO].data.datastore)),
        text=_text_words(outcome),
        questions=_question_words(outcome, study.profile),
    )


def rounded(value: float) -> str:
    """A count in words, to three significant figures: 1.36M."""
    return amount_words(float(f"{value:.3g}"))


def _model_words(arms: Sequence[ArmRow]) -> str:
    for arm in arms:
        if arm.role == "retro" and arm.parameters:
            return f"RETRO of {rounded(arm.parameters)} parameters"
    return ""


def _datastore_words(datastore: Artefact | None) -> str:
    if datastore is None:
        return ""
    table = read_table(datastore.file("documents.parquet"), ["source", "tokens"], only=True)
    tokens: Counter[str] = Counter()
    for row in table.to_pylist():
        tokens[row["source"]] += row["tokens"]
    total = tokens.total()
    shares = []
    for source, count in tokens.items():
        percent = 100 * count / total
        shares.append(f"{percent:.0f} % {source}")
    return f"{rounded(total)} tokens ({', '.join(shares)})"


def _text_words(outcome: Outcome) -> str:
    baseline = Selector(arm=RETRO)
    artefacts = [
        artefact
        for evaluation, artefact in outcome.evaluated("perplexity")
        if evaluation.at == baseline
    ]
    if not artefacts:
        return ""
    # Every replicate reads the same text.
    records = read_table(artefacts[0].file("records.parquet"), ["tokens", "group"], only=True)
    tokens = sum(records["tokens"].to_pylist())
    files = len(set(records["group"].to_pylist()))
    row_tokens = outcome.study.profile.evaluation_text.sequence_tokens
    return (
        f"{tokens:,} predicted tokens of {len(records)} documents in {files} files, in "
        f"rows of {row_tokens} that do not overlap"
    )


def _question_words(outcome: Outcome, profile: Profile) -> str:
    artefacts = [artefact for _, artefact in outcome.evaluated("qa")]
    if not artefacts:
        return ""
    # All evaluations ask the same questions, as a check of the report says.
    records = read_table(artefacts[0].file("records.parquet"), ["task"], only=True)
    file = profile.question_file
    if file:
        return f"{len(records)} questions of {file.name}"
    kinds = []
    tasks = Counter(records["task"].to_pylist())
    for task, count in tasks.items():
        name = (task or "of no task").replace("_", " ")
        kinds.append(f"{count} {name}")
    return f"{len(records)} questions ({', '.join(kinds)})"
