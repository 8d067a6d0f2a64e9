"""What a plan's words for a metric are measured as here, and on what.

A metric is what it is on: "EM on NQ" is not exact match of our questions, "PPL on C4" not the
perplexity of our text; where a label ("Dataset: NQ") or another metric of its line names the data,
it is on that too. So a metric is matched word by word, and every word must be one that this
page knows: the measure's own, or one that says nothing about data and task ("validation", "score",
"zero-shot"). Any other word, "PIQA", "video" or "top-5", may name another data set, another task or
another protocol, and leaves the metric not measured. There is no list of data sets to keep.

Where a plan is about another paper than any that we know, "accuracy", "loss" and the like are of
that paper's task, whatever it is, and are not matched either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from chunkwise.lab.plan.document import Entry
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import Profile, QuestionFile
from chunkwise.lab.resolve.names import NameIndex
from chunkwise.lab.resolve.resolution import MetricResolution
from chunkwise.lab.resolve.subject import Subject, data_named
from chunkwise.lab.terms import METRICS, TEXT_METRICS

LONGEST = 200  # characters; a longer metric is prose, and is not taken apart
_NEAR_SCORE = 0.3  # from which a measure is worth naming to someone whose metric is none


@dataclass(frozen=True)
class Naming:
    """How plans name a measure.

    Attributes:
        names: each is the measure, alone or with words of `beside`.
        bare: names that many tasks have: the measure's only in a plan about a paper that we know.
    """

    names: tuple[str, ...]
    bare: tuple[str, ...] = ()
    beside: frozenset[str] = frozenset()


# One spelling for each word that has several.
_SPELLINGS = {
    "ppl": "perplexity",
    "perplexities": "perplexity",
    "em": "exact match",
    "bpb": "bits per byte",
    "nll": "negative log likelihood",
    "modelling": "modeling",
    "losses": "loss",
    "acc": "accuracy",
    "0": "zero",
    "zeroshot": "zero shot",
}
_SMALL = {"a", "an", "the", "of", "for", "in", "on", "at", "by", "our", "is"}
# Words that change neither the measure nor what it is measured on: differences are what a study
# reports, and every number is a mean over held-out text. Without "drop", for DROP is a data set.
_ANYWHERE = {"average", "averaged", "mean", "overall", "final", "score", "value", "result"}
_ANYWHERE |= {"change", "delta", "difference", "gain", "degradation", "improvement"}
_ANYWHERE |= {"increase", "reduction", "lower", "higher", "better"}
# The split that is evaluated, and the text or questions of the profile.
_HELD_OUT = re.compile(
    r"\b(?:held out|heldout|validation|valid|val|test|dev|development|evaluation|eval|unseen)"
    r"(?: (?:set|split|text|data|corpus|document|token|portion|part|question))?\b"
)
_OF_TEXT = {"language", "lm", "model", "modeling", "autoregressive", "causal"}
_OF_TEXT |= {"next", "token", "level", "prediction", "per", "log", "nat"}
_OF_QUESTIONS = {"qa", "question", "answer", "answering", "zero", "shot"}

_NAMINGS: Mapping[str, Naming] = {
    # A loss is the same measurement: perplexity is analysed in nats per token.
    "perplexity": Naming(
        (
            "perplexity",
            "negative log-likelihood",
            "language modeling loss",
            "language model loss",
            "lm loss",
            "next-token prediction loss",
            "next-token loss",
            "nats per token",
        ),
        ("loss", "cross-entropy", "cross-entropy loss"),
        frozenset(_OF_TEXT),
    ),
    "bits_per_byte": Naming(
        ("bits per byte", "bits/byte"), (), frozenset(_OF_TEXT - {"token", "level", "log"})
    ),
    "reading_accuracy": Naming(
        (
            "reading accuracy",
            "QA accuracy",
            "question answering accuracy",
            "zero-shot question answering",
            "zero-shot QA",
            "multiple-choice accuracy",
            "multiple-choice QA accuracy",
            "QA task accuracy",
            "zero-shot QA performance",
            "QA performance",
            "question answering performance",
        ),
        ("accuracy", "zero-shot accuracy"),
        frozenset(_OF_QUESTIONS),
    ),
    "found_and_copied": Naming(("found and copied", "string copying accuracy")),
    "yes_no_accuracy": Naming(("yes/no accuracy", "yes-no accuracy", "yes/no question accuracy")),
    "choice_accuracy": Naming(("choice accuracy",), (), frozenset(_OF_QUESTIONS)),
    "exact_match": Naming(
        ("QA exact match", "zero-shot exact match", "answer exact match"),
        ("exact match", "exact match accuracy", "exact match rate"),
        frozenset(_OF_QUESTIONS),
    ),
    "f1": Naming(
        ("token F1", "token-level F1", "QA F1", "answer F1", "zero-shot F1"),
        ("F1",),
        frozenset(_OF_QUESTIONS | {"token", "level"}),
    ),
    "answer_nll": Naming(
        ("answer likelihood", "answer log-likelihood", "answer negative log-likelihood",
         "answer perplexity", "answer loss", "answer nll"),
        (),
        frozenset({"zero", "shot", "qa"}),
    ),
}  # fmt: skip
# A metric without names could never be asked for.
assert set(_NAMINGS) == set(METRICS)
_ALL_NAMES = {id: (*naming.names, *naming.bare) for id, naming in _NAMINGS.items()}
_NEAREST = NameIndex(_ALL_NAMES)


def metrics_of(
    entry: Entry, profile: Profile, subject: Subject | None = None
) -> tuple[MetricResolution, ...]:
    """What each metric of an entry is measured as; of an entry without any, the profile's."""
    subject = subject or Subject()
    metrics: list[MetricResolution] = []
    labelled = _data_of(entry, subject)
    for words, shared in zip(entry.metrics, _shared_data(entry), strict=True):
        sets = [*labelled, shared] if shared else labelled
        data = ", ".join(dict.fromkeys(sets))
        metrics += _resolved(words, profile, subject, data)
    if all(metric.id is None for metric in metrics):
        for id in profile.metrics:
            data = on(id, profile.question_file)
            metrics.append(MetricResolution(words=id, id=id, on=data, defaulted=True))
    return tuple(metrics)


def _data_of(entry: Entry, subject: Subject) -> list[str]:
    """What an entry or its plan says below a label of its own that metrics are measured on."""
    lines = []
    for label, texts in entry.extra.items():
        lines += [f"{label}: {text}" for text in texts]
    return [*subject.data, *data_named([*lines, *entry.notes, *entry.metrics])]


# What stands behind a metric: "on LAMBADA", "(SQuAD)".
_BEHIND = re.compile(
    r"(?:\b(?:on|over|in|for|from|using)\s+|\s*[(\[@]\s*)(?P<data>[^()\[\]@]+)[)\]]?\s*$"
)


def _shared_data(entry: Entry) -> list[str]:
    """What each metric of a list on one line takes from the others: in "NQ: EM, F1" and "EM, F1
    (SQuAD)" the data set is that of both. Whether it is in "EM on NQ, F1" nobody can tell, and a
    metric that may be of other data is not ours. Text and questions are other data anyway:
    "perplexity, EM on NQ" are two.
    """
    sets = [words for words in entry.metrics if _is_data_set(words)]
    line = entry.metrics_text or ""
    is_listed = "," in line or ";" in line
    # Items of a list that the plan writes one a line say themselves what they are on.
    metrics = entry.metrics if line and len(entry.metrics) > 1 else ()
    shared = []
    before = ""
    for words in entry.metrics:
        # What names its own data takes none from the others.
        if _data_behind(words) or _HELD_OUT.search(fold(words)):
            shared.append("")
            continue
        names = [data_set for data_set in sets if _may_be_on(words, data_set)]
        if metrics:
            before = _data_before(words) or before
            names += [before] if before else []
        for other in metrics:
            if not is_listed or _may_share(words, other):
                names += [_data_behind(other)] if _data_behind(other) else []
        shared.append(", ".join(names))
    return shared


def _may_share(words: str, other: str) -> bool:
    """Whether the data set behind another metric of a list may be that of this one too."""
    if _is_of_text(words) != _is_of_text(other):
        return False
    # "zero-shot QA accuracy, F1 on NarrativeQA": the first says itself what it is of.
    is_full = bool(find(words, bare=False))
    return not is_full or bool(find(_BEHIND.sub("", other), bare=False))


# Measures that we do not have: written like the names of data sets, and none.
_OTHER_MEASURES = re.compile(
    r"\b(?:time|speed|rate|score|evaluation|cost|memory|usage|size|count|latency|throughput|"
    r"bleu|rouge|meteor|chrf|mauve|bert ?score|m?rr|ndcg|m?ap|auc|auroc|auprc|wer|cer|fid|"
    r"[tgm]?flops?|ttft|tps|ram|vram|gpu|cpu|iou|psnr|ssim|recall|precision|hits?|em|ppl|nll|bpb|"
    r"bpc|ece|mse|rmse|mae|mcc|kl|std|ci)\b"
)
# Data sets that people also write in small letters; the others have capitals.
_TEXT_SETS = {"lambada", "wikitext", "thepile", "c4", "ptb", "enwik8"}
_QUESTION_SETS = {
    "squad",
    "nq",
    "naturalquestions",
    "triviaqa",
    "hotpotqa",
    "narrativeqa",
    "newsqa",
    "quac",
    "quoref",
    "qasper",
    "musique",
    "popqa",
    "webquestions",
    "boolq",
    "piqa",
    "openbookqa",
    "race",
    "arc",
    "hellaswag",
    "winogrande",
    "mmlu",
}
_LONGEST_SET = 4  # words


def _is_data_set(words: str) -> bool:
    """Whether an item of a list of metrics is a data set alone: "EM, F1, SQuAD"."""
    folded = fold(words)
    if not folded or len(folded.split()) > _LONGEST_SET or len(words) > LONGEST:
        return False
    if folded.replace(" ", "") in _QUESTION_SETS | _TEXT_SETS:
        return True
    if _names_measure(words) or _OTHER_MEASURES.search(folded) or not _is_data(words):
        return False
    # "SQuAD", "NQ" and "HellaSwag"; in "Answer Quality" each word has one.
    for word in re.findall(r"[^\W_]+", words):
        if sum(letter.isupper() for letter in word) >= 2:
            return True
    return False


def _may_be_on(words: str, data_set: str) -> bool:
    """Whether a metric may be on a data set of its list: no perplexity is on SQuAD. A set that is
    not known may hold either.
    """
    name = fold(data_set).replace(" ", "")
    if _is_of_text(words):
        return name not in _QUESTION_SETS
    return name not in _TEXT_SETS


def _is_of_text(words: str) -> bool:
    """Whether a metric is of running text and not of questions: perplexity, a loss."""
    measures = find(_BEHIND.sub("", words))
    return "perplexity" in measures or "bits_per_byte" in measures


def _data_behind(words: str) -> str:
    if len(words) > LONGEST:
        return ""
    match = _BEHIND.search(words)
    if match is None or not _is_data(match["data"]):
        return ""
    # "ROUGE on XSum" is about no measure of ours, and says nothing about the others.
    if match.start() > 0 and not _names_measure(words):
        return ""
    return match["data"].strip()


def _data_before(words: str) -> str:
    """The data set before a metric, if one surely stands there: "NQ: EM", "SQuAD EM"."""
    if len(words) > LONGEST:
        return ""
    with_colon = re.sub(r"\s[–—-]\s", ":", words)
    head, separator, _ = with_colon.partition(":")
    if separator and _is_data(head):
        return head.strip()
    first, _, rest = words.partition(" ")
    # Names of data sets have capitals, and "training" of "training loss" has none.
    if sum(letter.isupper() for letter in first) < 2:
        return ""
    return first if _is_data(first) and _names_measure(rest) else ""


def _is_data(words: str) -> bool:
    """Whether words hold one that no measure of ours is written with: "NQ", "LAMBADA"."""
    return bool(frozenset(_plain(words).split()) - _WORDS)


def _names_measure(words: str) -> bool:
    bag = frozenset(_plain(words).split())
    return any(name.words <= bag for name in _NAMES)


def _resolved(
    words: str, profile: Profile, subject: Subject, data: str = ""
) -> list[MetricResolution]:
    """What one metric is measured as: one measure, several of "EM/F1", or a refusal.

    Args:
        data: what the metric is on by words that stand elsewhere.
    """
    file = profile.question_file
    is_our_task = subject.kind != "foreign"
    request = f"{words}, {data}" if data else words
    request, is_named = _without_name(request, file)
    ids = find(request, bare=is_our_task or is_named)
    if file is not None:
        ids = _on_file(ids, file, is_named=is_named)
    if not ids:
        because = _because(request, is_our_task=is_our_task)
        if data and find(words, bare=is_our_task):
            because = (
                f"the plan says that it is on other data ({data}); give these questions as the "
                "profile's question_file, or write a metric of other data in an item of its own"
            )
        return [MetricResolution(words=words, nearest=_nearest(words), because=because)]
    if "reading_accuracy" in ids:
        # Beside it, never instead: what a model does that finds a string and copies it.
        ids = (*ids, "found_and_copied")
    return [MetricResolution(words=words, id=id, on=on(id, file)) for id in dict.fromkeys(ids)]


def _nearest(words: str) -> tuple[str, ...]:
    """The measure whose names are nearest, if any is near."""
    _, ranking = _NEAREST.find(words[:LONGEST])
    best = ranking[0]
    return (best.owner,) if best.score >= _NEAR_SCORE else ()


def _without_name(words: str, file: QuestionFile | None) -> tuple[str, bool]:
    """The words without the name of the profile's own questions, and whether it was there."""
    if file is None or len(words) > LONGEST:
        return words, False
    for name in sorted((file.name, *file.also), key=len, reverse=True):
        # "NQ-open" is not "NQ".
        alone = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
        rest, count = re.subn(alone, " ", words, flags=re.IGNORECASE)
        if count:
            return rest, True
    return words, False


def _on_file(ids: tuple[str, ...], file: QuestionFile, *, is_named: bool) -> tuple[str, ...]:
    """What is measured where the questions are the user's own, () where one of them cannot be."""
    # Accuracy of questions that nobody sorted by task: of options, or else of written answers.
    accuracy = "choice_accuracy" if file.choices else "exact_match"
    own = tuple(accuracy if id == "reading_accuracy" else id for id in ids)
    possible = set(file.metrics)
    if not is_named:
        possible.update(TEXT_METRICS)
    return own if possible.issuperset(own) else ()


def find(words: str, *, bare: bool = True) -> tuple[str, ...]:
    """The measures that a plan's words for a metric surely mean; several of "EM/F1", often none.

    Args:
        bare: whether names that many tasks have ("accuracy", "loss") are the measure's.
    """
    whole = _find_one(words, bare=bare)
    if whole is not None:
        return (whole,)
    if len(words) > LONGEST:
        return ()
    ids = []
    for piece in re.split(r"[/&+;]|\band\b", words):
        if not piece.strip():
            continue
        id = _find_one(piece, bare=bare)
        # "F1 / ROUGE": the half that is known would stand for the whole.
        if id is None:
            return ()
        ids.append(id)
    return tuple(dict.fromkeys(ids))


def _find_one(words: str, *, bare: bool) -> str | None:
    """The measure of which some name and words beside it are all that is said."""
    bag = frozenset(_plain(words).split())
    matches = []
    for name in _NAMES:
        if name.bare and not bare:
            continue
        if name.words <= bag <= name.words | name.beside:
            matches.append((len(name.words), name.owner))
    # The longest name: "answer perplexity" holds another one's.
    return max(matches)[1] if matches else None


def _plain(words: str) -> str:
    """Words as metrics are compared: singular, one spelling, without the split's name."""
    plain: list[str] = []
    for word in fold(words).split():
        if word in _SMALL:
            continue
        for spelt in _SPELLINGS.get(word, word).split():
            is_plural = len(spelt) > 3 and spelt != "loss"
            plain.append(spelt.removesuffix("s") if is_plural else spelt)
    without_split = _HELD_OUT.sub(" ", " ".join(plain))
    return " ".join(without_split.split())


def _because(words: str, *, is_our_task: bool) -> str:
    """Why a metric is not measured."""
    if not is_our_task and find(words):
        return "of the task of another paper; say --paper to have it measured here"
    if _is_data_set(words):
        return "it is a data set and no measure; the other metrics of its list may be on it"
    if not _names_measure(words):
        return "no measure here has this name"
    foreign = frozenset(_plain(words).split()) - _WORDS
    # In the plan's own spelling: of "EM on NQ" the reader looks for NQ.
    spelt = [word for word in re.findall(r"[^\W_]+", words) if _plain(word) in foreign]
    names = ", ".join(dict.fromkeys(spelt))
    return f"it names other data, another task or protocol ({names or words})"


@dataclass(frozen=True)
class _Name:
    owner: str
    words: frozenset[str]
    beside: frozenset[str]
    bare: bool


def _names() -> Iterator[_Name]:
    for owner, naming in _NAMINGS.items():
        beside = naming.beside | _ANYWHERE
        for names, bare in ((naming.names, False), (naming.bare, True)):
            for name in names:
                words = frozenset(_plain(name).split())
                yield _Name(owner, words, beside, bare)


_NAMES = tuple(_names())
_WORDS = frozenset().union(*(name.words for name in _NAMES), *(name.beside for name in _NAMES))


def on(id: str, file: QuestionFile | None = None) -> str:
    """What a measure is measured on, in words."""
    if id in TEXT_METRICS:
        return "held-out text of the profile's corpus"
    if file is not None:
        return f"the profile's questions {file.name}"
    return "questions that are made from held-out documents of the profile's corpus"
