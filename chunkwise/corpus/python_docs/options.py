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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

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
    words = []
    for match in _WORD.findall(text):
        word = match.casefold()
        if len(match) >= 3 and word not in STOP_WORDS:
            words.append(word)
    return words


def stems(text: str) -> set[str]:
    """The first letters of each content word."""
    return {word[:STEM_LETTERS] for word in content_words(text)}


def gives_a_clue(question: str, option: str) -> bool:
    """Whether a content word of the option can be matched with the question from the letters alone.

    It can when it begins with the first four letters (or all three) of a content word of the
    question, or when its own first four letters stand anywhere in the question: `get_clipbox` and
    "clip".
    """
    letters = question.casefold()
    question_stems = tuple(stems(question))
    return _matches(letters, question_stems, content_words(option))


def _matches(letters: str, question_stems: tuple[str, ...], words: Iterable[str]) -> bool:
    for word in words:
        if word.startswith(question_stems):
            return True
        # Three letters stand in any long question by chance.
        is_long = len(word) > 3
        if is_long and word[:STEM_LETTERS] in letters:
            return True
    return False


def too_alike(first: set[str], second: set[str]) -> bool:
    """Whether two answers, given by their stems, share half of them: then both may be right."""
    smaller = min(len(first), len(second))
    return 2 * len(first & second) >= smaller


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
        vocabulary: set[str] = set()
        for text in texts:
            vocabulary |= stems(text)
        self._index = {stem: row for row, stem in enumerate(sorted(vocabulary))}
        windows = self._windows(training_texts)
        S = len(vocabulary)
        W = len(windows)
        rows = np.fromiter(chain.from_iterable(windows), np.int64)
        windows_with_stem = np.bincount(rows, minlength=S)
        # At least 1: a stem that no window holds weighs most, and its vector is zero.
        shares = max(W, 1) / np.maximum(windows_with_stem, 1)
        self._weight = np.log(shares)
        # ARPACK, which finds the strongest dimensions alone, cannot find all of them.
        rank = min(self.DIMENSIONS, S - 1, W - 1)
        if rank < 1:
            # Too little text to tell topics: every text is a zero, every guess a tie.
            self._vectors = np.zeros((S, 1))
        else:
            stems_per_window = [len(window) for window in windows]
            columns = np.repeat(np.arange(W), stems_per_window)
            self._vectors = self._strongest(rows, columns, (S, W), rank)

    def _windows(self, training_texts: Iterable[str]) -> list[set[int]]:
        """The rows of the stems in each window of the training text."""
        windows = []
        for text in training_texts:
            for start in range(0, len(text), self.WINDOW_CHARACTERS):
                end = start + self.WINDOW_CHARACTERS
                rows = self._rows(text[start:end])
                windows.append(set(rows))
        return windows

    def _strongest(
        self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], rank: int
    ) -> np.ndarray:
        """A vector for each stem: the matrix that has its weight at (rows, columns), cut to its
        strongest dimensions.
        """
        from scipy.sparse import csr_array
        from scipy.sparse.linalg import svds

        weights = self._weight[rows]
        matrix = csr_array((weights, (rows, columns)), shape=shape)
        # A fixed start, so that the result is the same each time.
        v0 = np.ones(min(shape))
        left_vectors, strength, _ = svds(matrix, k=rank, v0=v0, return_singular_vectors="u")
        # Rounding leaves a stem of no window with a tiny vector, which is no direction.
        return _unit_rows(left_vectors * strength, longer_than=1e-9)

    def _rows(self, text: str) -> list[int]:
        """Row of each content word whose stem is known, as often as it occurs."""
        rows = []
        for word in content_words(text):
            row = self._index.get(word[:STEM_LETTERS])
            if row is not None:
                rows.append(row)
        return rows

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [texts, dimensions], of length 1, or 0 for a text without a known word."""
        _stems, dimensions = self._vectors.shape
        sums = np.zeros((len(texts), dimensions))
        for number, text in enumerate(texts):
            rows = self._rows(text)
            weights = self._weight[rows]
            sums[number] = weights @ self._vectors[rows]
        return _unit_rows(sums, longer_than=0)

    def relatedness(self, questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """Cosines [questions, answers], rounded so that no machine's last bit decides a guess."""
        cosines = self.vectors(questions) @ self.vectors(answers).T
        return np.round(cosines, 6)


def _unit_rows(rows: np.ndarray, longer_than: float) -> np.ndarray:
    """Rows scaled to length 1; zeros for those that are not longer than this."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit_rows = np.zeros(rows.shape)
    np.divide(rows, lengths, out=unit_rows, where=lengths > longer_than)
    return unit_rows


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
    questions = [candidate.question for candidate in candidates]
    answers = [candidate.answer for candidate in candidates]
    related = topics.relatedness(questions, answers)
    packages = np.array([candidate.package for candidate in candidates])
    is_free = np.ones(len(candidates), bool)
    circles: list[list[Candidate]] = []
    for mixed in (False, True):  # circles of one package first; what is left over makes mixed ones
        for first in range(len(candidates)):
            if not is_free[first]:
                continue
            can_join = fits[first] & is_free
            if not mixed:
                can_join &= packages == packages[first]
            partners = np.flatnonzero(can_join).tolist()
            members = [first, *_nearest(first, partners, candidates, related)]
            # Inside, members are called by their place in `members`: 0 is the first.
            block = np.ix_(members, members)
            positions = _first_fitting(fits[block], related[block], choices, topic_margin)
            if positions is not None:
                circle = [members[position] for position in positions]
                circles.append([candidates[member] for member in circle])
                is_free[circle] = False
    return circles


def _nearest(
    first: int, partners: list[int], candidates: Sequence[Candidate], related: np.ndarray
) -> list[int]:
    """The partners whose answers are drawn most to the first one's question, and the other way."""
    # How far each answer is drawn to the other's question, against its pull to its own.
    to_first = related[:, first]
    to_own_question = np.diagonal(related)
    pull = related[first] + to_first - to_own_question

    def order(partner: int) -> tuple[float, str]:
        # The identifier breaks ties: cosines are rounded, so there are some.
        return -pull[partner], candidates[partner].identifier

    return sorted(partners, key=order)[:_NEAREST_TRIED]


def _first_fitting(
    fits: np.ndarray, related: np.ndarray, choices: int, topic_margin: float
) -> tuple[int, ...] | None:
    """The first circle of candidate 0, by the nearness of its partners, that gives no clue."""
    # Lists: an item of an array takes several times as long to read.
    fitting = fits.tolist()
    cosines = related.tolist()
    others = range(1, len(fitting))
    for partners in combinations(others, choices - 1):
        pairs = combinations(partners, 2)  # candidate 0 fits each of them already
        if not all(fitting[i][j] for i, j in pairs):
            continue
        circle = (0, *partners)
        if _hides_topics(circle, cosines, topic_margin):
            return circle
    return None


def _hides_topics(circle: tuple[int, ...], cosines: list[list[float]], topic_margin: float) -> bool:
    """Whether a guess by topic is right for at most one member, and the questions are hardly closer
    to their own answers than to all of the circle.
    """
    choices = len(circle)
    guessed_right = 0.0
    own = 0.0
    total = 0.0
    for member in circle:
        row = [cosines[member][answer] for answer in circle]
        to_own_answer = cosines[member][member]
        own += to_own_answer
        total += sum(row)
        best = max(row)
        if to_own_answer == best:
            guessed_right += 1 / row.count(best)  # options that tie for the best share the point
    if guessed_right > 1:
        return False
    mean_of_all = total / choices**2
    return own / choices <= mean_of_all + topic_margin


def _pairwise(candidates: Sequence[Candidate], length_tolerance: float) -> np.ndarray:
    """bool [n, n]: which two may stand in one circle."""
    n = len(candidates)
    fits = np.zeros((n, n), bool)
    letters = enumerate(map(_Letters, candidates))
    for (i, first), (j, second) in combinations(letters, 2):
        fits[i, j] = first.fits(second, length_tolerance)
    return fits | fits.T


class _Letters:
    """What a pair compares of a candidate, made once: there are millions of pairs."""

    def __init__(self, candidate: Candidate) -> None:
        question, answer = candidate.question, candidate.answer
        self.group = candidate.document.group
        self.length = len(answer)
        self.question = question.casefold()
        self.question_stems = tuple(stems(question))
        self.answer_stems = stems(answer)
        self.answer_words = set(content_words(answer))

    def fits(self, other: "_Letters", length_tolerance: float) -> bool:
        # Cheapest first: most pairs differ in length.
        shorter, longer = sorted((self.length, other.length))
        if longer > (1 + length_tolerance) * shorter:
            return False
        if self.group == other.group:
            return False
        if too_alike(self.answer_stems, other.answer_stems):
            return False
        return not (self.gives_away(other) or other.gives_away(self))

    def gives_away(self, other: "_Letters") -> bool:
        """Whether the other's answer stands out beside this question."""
        return _matches(self.question, self.question_stems, other.answer_words)
