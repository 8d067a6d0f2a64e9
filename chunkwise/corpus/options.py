"""Options for questions: what may stand beside a right answer so that the question alone does not
tell which it is.

Questions are formed in *circles*: four candidates of one kind, each of whose answers is an option
of all four. So every option is right exactly once in four, and any preference that does not look at
the question (the longest, the most fluent, the one seen most often) scores exactly 25 %. Within a
circle, pairwise:

- *no lexical clue*: no content word of an answer can be matched with the other's question, nor with
  its own, by its letters (`gives_a_clue`); the documents differ, the lengths are similar, and the
  answers do not say the same;
- *no topic clue*: `scipy.sparse` would be asked about "triplet format" beside three answers about
  wheels. A guess that relates the words of question and option by the company they keep in the
  training text (`TopicGuess`) is right for at most one member of the circle, and hardly closer to
  the right answers than to the others (`topic_margin`). Without this rule another guess of that
  sort, made from whole words, reaches 52 % on 35 MB of Python; with it, 38 % (35 % on 52 MB), and
  with a margin of 0, 34 %, at the price of a third of the questions.

Partners are the candidates whose answers are drawn most to the question, of the same package as far
as they go: options of one package read like options, and mixed ones like a riddle.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from chunkwise.corpus.readers import Document

STEM_LETTERS = 4

STOP_WORDS = frozenset(
    """
    a an and any are as at be been being but by can could did do does doing done each either else
    every for from given had has have having how if in into is it its itself may might more most
    must neither no nor not of off on once one only onto or other our out over own per same shall
    should so some such than that the their them then there these they this those through to too
    under until up upon us used uses using very via was we were what when where whether which
    while who whose why will with within without would you your
    """.split()  # noqa: SIM905 - words read better as text
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # camelCase and snake_case come apart


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question with its right answer, before options are found."""

    identifier: str
    kind: str
    package: str
    question: str
    answer: str
    document: Document


# Letters


def content_words(text: str) -> list[str]:
    """Words of three letters and more that are no stop words, case-folded; identifiers are taken
    apart.
    """
    words = [word.casefold() for word in _WORD.findall(text)]
    return [word for word in words if len(word) >= 3 and word not in STOP_WORDS]


def stems(text: str) -> set[str]:
    """The first letters of each content word."""
    return {word[:STEM_LETTERS] for word in content_words(text)}


def gives_a_clue(question: str, option: str) -> bool:
    """Whether a content word of the option can be matched with the question from the letters alone.

    It can when it begins with the first four letters (or all three) of a content word of the
    question, or when its own first four letters stand anywhere in the question: `get_clipbox` and
    "clip".
    """
    return _matches(question.casefold(), tuple(stems(question)), content_words(option))


def _matches(whole: str, asked: tuple[str, ...], words: Iterable[str]) -> bool:
    return any(
        word.startswith(asked) or (len(word) > 3 and word[:STEM_LETTERS] in whole) for word in words
    )


def too_alike(first: set[str], second: set[str]) -> bool:
    """Whether two answers, given by their stems, share half of them: then both may be right."""
    return 2 * len(first & second) >= min(len(first), len(second))


# Topics


class TopicGuess:
    """Relates texts by the company that their words keep in the training text: latent semantic
    analysis.

    The matrix of stems by windows of training text, weighted by inverse window frequency, is cut to
    its strongest dimensions (Deerwester et al. 1990); stems that stand in similar windows then
    point the same way, also when no window holds both. A text is the sum of its stems, rare ones
    weighing more.
    """

    DIMENSIONS = 100
    WINDOW_CHARACTERS = 3000

    def __init__(self, texts: Iterable[str], training_texts: Iterable[str]):
        """texts: all that will be compared, so that only their stems are counted."""
        from scipy.sparse import csr_array
        from scipy.sparse.linalg import svds

        self._index = {
            stem: row
            for row, stem in enumerate(sorted({stem for text in texts for stem in stems(text)}))
        }
        present: list[list[int]] = []
        for text in training_texts:
            for start in range(0, len(text), self.WINDOW_CHARACTERS):
                found = Counter(
                    word[:STEM_LETTERS]
                    for word in content_words(text[start : start + self.WINDOW_CHARACTERS])
                )
                present.append([self._index[stem] for stem in found if stem in self._index])
        S, W = len(self._index), len(present)
        windows_with = np.bincount([row for rows in present for row in rows], minlength=S)
        self._weight = np.log(max(W, 1) / np.maximum(windows_with, 1))
        rank = min(self.DIMENSIONS, S - 1, W - 1)
        self._vectors = np.zeros((S, max(rank, 1)))
        if rank < 1:
            return  # too little text to tell topics: every text is a zero, every guess a tie
        rows = np.array([row for rows in present for row in rows])
        columns = np.repeat(np.arange(W), [len(rows) for rows in present])
        matrix = csr_array((self._weight[rows], (rows, columns)), shape=(S, W))
        # A fixed start, so that the result is the same each time.
        left, strength, _ = svds(matrix, k=rank, v0=np.ones(min(S, W)), return_singular_vectors="u")
        vectors = left * strength
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, lengths, out=self._vectors, where=lengths > 1e-9)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [texts, dimensions], of length 1, or 0 for a text without a known word."""
        rows = np.zeros((len(texts), self._vectors.shape[1]))
        for number, text in enumerate(texts):
            known = [
                self._index[word[:STEM_LETTERS]]
                for word in content_words(text)
                if word[:STEM_LETTERS] in self._index
            ]
            rows[number] = self._weight[known] @ self._vectors[known]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.divide(rows, lengths, out=np.zeros(rows.shape), where=lengths > 0)

    def relatedness(self, questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """Cosines [questions, answers], rounded so that no machine's last bit decides a guess."""
        return np.round(self.vectors(questions) @ self.vectors(answers).T, 6)


# Circles

_NEAREST_TRIED = 24
"""Sets of three among so many: 2,024 at most for each circle."""


def form_circles(
    candidates: Sequence[Candidate],
    topics: TopicGuess,
    *,
    choices: int,
    length_tolerance: float,
    topic_margin: float,
) -> list[list[Candidate]]:
    """Disjoint circles of `choices` candidates, found greedily in the order given; what fits
    nowhere is left out.

    Args:
        candidates: of one kind.
        topics: knows the words of all their questions and answers.
        choices: members of a circle.
        length_tolerance: an answer is longer than another of its circle by at most this share.
        topic_margin: a circle's questions are related to their own answers by at most this much
            more, in the mean cosine, than to all answers of the circle.
    """
    fits = _pairwise(candidates, length_tolerance)
    related = topics.relatedness([c.question for c in candidates], [c.answer for c in candidates])
    free = np.ones(len(candidates), bool)
    circles: list[list[int]] = []
    for mixed in (False, True):  # circles of one package first; what is left over makes mixed ones
        for first in range(len(candidates)):
            if not free[first]:
                continue
            # How far each answer is drawn to the other's question, against its pull to its own.
            pull = related[first] + related[:, first] - np.diagonal(related)
            partners = [
                other
                for other in np.flatnonzero(fits[first] & free).tolist()
                if mixed or candidates[other].package == candidates[first].package
            ]
            partners.sort(key=lambda other: (-pull[other], candidates[other].identifier))
            nearest = partners[:_NEAREST_TRIED]
            circle = _first_fitting(first, nearest, choices, topic_margin, fits, related)
            if circle is not None:
                circles.append(circle)
                free[circle] = False
    return [[candidates[member] for member in circle] for circle in circles]


def _first_fitting(
    first: int,
    nearest: list[int],
    choices: int,
    topic_margin: float,
    fits: np.ndarray,
    related: np.ndarray,
) -> list[int] | None:
    members = [first, *nearest]
    fitting = fits[np.ix_(members, members)].tolist()
    cosines = related[np.ix_(members, members)].tolist()
    for others in combinations(range(1, len(members)), choices - 1):
        if not all(fitting[one][other] for one, other in combinations(others, 2)):
            continue
        circle = (0, *others)
        guessed_right, own, total = 0.0, 0.0, 0.0
        for member in circle:
            row = [cosines[member][other] for other in circle]
            own += cosines[member][member]
            total += sum(row)
            if cosines[member][member] == max(row):
                guessed_right += 1 / row.count(
                    max(row)
                )  # options that tie for the best share the point
        if guessed_right <= 1 and own / choices <= total / choices**2 + topic_margin:
            return [members[member] for member in circle]
    return None


def _pairwise(candidates: Sequence[Candidate], length_tolerance: float) -> np.ndarray:
    """bool [n, n]: which two may stand in one circle."""
    questions = [
        (candidate.question.casefold(), tuple(stems(candidate.question)))
        for candidate in candidates
    ]
    words = [sorted(set(content_words(candidate.answer))) for candidate in candidates]
    answer_stems = [stems(candidate.answer) for candidate in candidates]
    lengths = [len(candidate.answer) for candidate in candidates]
    groups = [candidate.document.group for candidate in candidates]
    fits = np.zeros((len(candidates), len(candidates)), bool)
    for i, j in combinations(range(len(candidates)), 2):
        fits[i, j] = fits[j, i] = (
            max(lengths[i], lengths[j]) <= (1 + length_tolerance) * min(lengths[i], lengths[j])
            and groups[i] != groups[j]
            and not too_alike(answer_stems[i], answer_stems[j])
            and not _matches(*questions[i], words[j])
            and not _matches(*questions[j], words[i])
        )
    return fits
