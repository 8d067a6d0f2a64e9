"""Questions before their options have an order, and which of them are asked.

Drafts come in *sets* that are asked together or not at all: four that lend each other their
answers, four of yes and no about two definitions, or one alone. Taking whole sets keeps what was
balanced inside of them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from chunkwise.corpus.config import QuestionsConfig
from chunkwise.corpus.readers import Document
from chunkwise.corpus.split import unit_hash


@dataclass(frozen=True)
class Draft:
    """A question with its right option and the others.

    Attributes:
        group: questions of one group share options or a document: they are no independent draws.
        kind: of what is asked about: function, class, method, parameter or constant.
        support: the pieces of the document that settle the question, in their order.
        extra: further fields of the record.
    """

    task: str
    identifier: str
    group: str
    kind: str
    question: str
    right: str
    others: tuple[str, ...]
    document: Document
    support: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """The first part of the document's name."""
        return package_of(self.document)


DraftSet = list[Draft]

TaskSets = Mapping[str, Sequence[DraftSet]]
"""The sets of each task, by its name in `config.TASKS`."""


def package_of(document: Document) -> str:
    """`numpy/linalg/_linalg.py#docstrings` -> `numpy`."""
    return document.document_id.partition("/")[0]


def at_most_per_document(
    sets: Iterable[DraftSet], config: QuestionsConfig, drops: Counter[str]
) -> list[DraftSet]:
    """Sets in hash order, as long as their document has not `config.per_document` questions."""
    # In hash order: else the beginning of each document would be asked about.
    per_document: Counter[str] = Counter()
    remaining = []
    for drafts in _in_hash_order(sets, config.seed):
        document_id = drafts[0].document.document_id
        if per_document[document_id] + len(drafts) > config.per_document:
            drops["document_has_enough"] += len(drafts)
            continue
        per_document[document_id] += len(drafts)
        remaining.append(drafts)
    return remaining


def select(sets: TaskSets, config: QuestionsConfig) -> dict[str, list[DraftSet]]:
    """The sets of each task that are asked, spread over packages as evenly as they allow.

    `config.tasks`, `questions` and the two shares are kept to, but for a share that could only be
    kept to by asking fewer than `config.min_questions`: that one is let go. Packages come last:
    where one has most of a task, keeping to their share may raise that of another task.
    """
    limits = _task_limits(sets, config)
    unlimited = _take(sets, config, limits, package_limit=None)
    share = config.max_package_share
    least = config.min_questions
    limit = _share_limit(_packages(unlimited), share, least)
    # Whole sets may leave less in all than was reckoned with: then packages have to have less too.
    while limit:
        selection = _take(sets, config, limits, package_limit=limit)
        packages = _packages(selection)
        total = packages.total()
        if total < least:
            break
        if max(packages.values()) <= share * total:
            return selection
        limit -= 1
    return unlimited


def _task_limits(sets: TaskSets, config: QuestionsConfig) -> Mapping[str, int]:
    """Questions of each task, at most."""
    limits: Counter[str] = Counter()
    for task, of_task in sets.items():
        available = sum(map(len, of_task))
        most = getattr(config.tasks, task)
        limits[task] = available if most is None else min(available, most)
    # Before the shares, which are of what is left in all.
    if config.questions is not None and limits.total() > config.questions:
        level = _level(limits, config.questions)
        limits = _cut(limits, level)
    limit = _share_limit(limits, config.max_task_share, config.min_questions)
    return limits if limit is None else _cut(limits, limit)


def _cut(counts: Mapping[str, int], limit: int) -> Counter[str]:
    cut: Counter[str] = Counter()
    for name, count in counts.items():
        cut[name] = min(count, limit)
    return cut


def _level(counts: Mapping[str, int], total: int) -> int:
    """The largest limit of every count under which they sum to at most `total`."""
    # One at a time: the counts are some hundreds.
    limit = max(counts.values())
    while _cut(counts, limit).total() > total:
        limit -= 1
    return limit


def _share_limit(counts: Mapping[str, int], share: float, least: int) -> int | None:
    """The largest limit of every count under which none has more than `share` of the sum; None
    where that leaves less than `least` in all.
    """
    limit = max(counts.values(), default=0)
    while limit > 0:
        total = _cut(counts, limit).total()
        if total < least:
            break
        if limit <= share * total:
            return limit
        limit -= 1
    return None


def _take(
    sets: TaskSets,
    config: QuestionsConfig,
    limits: Mapping[str, int],
    package_limit: int | None,
) -> dict[str, list[DraftSet]]:
    """One set of each task in turn, until the tasks are full or have no more."""
    waiting: dict[str, Iterator[DraftSet]] = {}
    selection: dict[str, list[DraftSet]] = {}
    for task, of_task in sets.items():
        waiting[task] = _package_by_package(of_task, config.seed)
        selection[task] = []
    task_sizes: Counter[str] = Counter()
    package_sizes: Counter[str] = Counter()
    while waiting:
        for task in list(waiting):
            drafts = next(waiting[task], None)
            if drafts is None:
                del waiting[task]
                continue
            # A circle may be of several packages.
            packages = package_sizes + Counter(draft.package for draft in drafts)
            task_size = task_sizes[task] + len(drafts)
            largest = max(packages.values())
            is_over = package_limit is not None and largest > package_limit
            if is_over or task_size > limits[task]:
                continue
            selection[task].append(drafts)
            task_sizes[task] = task_size
            package_sizes = packages
    return selection


def _package_by_package(sets: Sequence[DraftSet], seed: int) -> Iterator[DraftSet]:
    """One set of each package in turn, each package's in hash order."""
    queues: dict[str, list[DraftSet]] = defaultdict(list)
    for drafts in _in_hash_order(sets, seed):
        queues[drafts[0].package].append(drafts)
    turn = 0
    while queues:
        # A list, from which no package goes away while the loop runs.
        for package in sorted(queues):
            if turn < len(queues[package]):
                yield queues[package][turn]
            else:
                del queues[package]
        turn += 1


def _in_hash_order(sets: Iterable[DraftSet], seed: int) -> list[DraftSet]:
    def draw(drafts: DraftSet) -> float:
        first = drafts[0]
        return unit_hash(first.identifier, seed, first.task)

    return sorted(sets, key=draw)


def _packages(sets: TaskSets) -> Counter[str]:
    """Questions of each package."""
    counts: Counter[str] = Counter()
    for of_task in sets.values():
        for drafts in of_task:
            counts.update(draft.package for draft in drafts)
    return counts


# Records


def records(sets: TaskSets, seed: int) -> list[dict[str, Any]]:
    """Questions as they are written. Within a task every place holds the right option equally
    often, as far as the number of questions divides.
    """
    rows = []
    for of_task in sets.values():
        # Counted on from set to set, or a set of one would always have its right option first.
        for number, draft in enumerate(chain.from_iterable(of_task)):
            rows.append(_record(draft, number, seed))
    return rows


def _record(draft: Draft, number: int, seed: int) -> dict[str, Any]:
    choices = _choices(draft, number, seed)
    extra = dict(draft.extra)
    remembered = extra.pop("remembered", None)
    if remembered is not None:
        extra["remembered_index"] = choices.index(remembered)
    return {
        "id": draft.identifier,
        "task": draft.task,
        "group": draft.group,
        "question": draft.question,
        "choices": choices,
        "answer_index": choices.index(draft.right),
        "answers": [draft.right],
        "document_id": draft.document.document_id,
        "kind": draft.kind,
        "source": draft.document.source,
        "support": list(draft.support),
        **extra,
    }


def _choices(draft: Draft, number: int, seed: int) -> list[str]:
    """The options in the order in which they are shown."""
    if draft.task == "yes_no":
        # Always in this order: both are right equally often.
        return sorted([draft.right, *draft.others], reverse=True)

    def place(option: str) -> float:
        return unit_hash(f"{draft.identifier}\0{option}", seed, "place")

    choices = sorted(draft.others, key=place)
    choices.insert(number % (len(choices) + 1), draft.right)
    return choices
