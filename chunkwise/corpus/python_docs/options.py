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
    words = [word.casefold() for word in _WORD.findall(text) if len(word) >= 3]
    return [word for word in words if word not in STOP_WORDS]


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
        if len(word) > 3 and word[:STEM_LETTERS] in letters:
            return True
    return False


def too_alike(first: set[str], second: set[str]) -> bool:
    """Whether two answers, given by their stems, share half of them: then both may be right."""
    shared = len(first & second)
    return 2 * shared >= min(len(first), len(second))


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

        vocabulary = sorted(set().union(*map(stems, texts)))
        self._index = {stem: row for row, stem in enumerate(vocabulary)}
        windows = []
        for text in training_texts:
            for start in range(0, len(text), self.WINDOW_CHARACTERS):
                window = text[start : start + self.WINDOW_CHARACTERS]
                windows.append(set(self._rows(window)))
        S, W = len(vocabulary), len(windows)
        rows = np.array([row for window in windows for row in window], np.int64)
        # At least 1: a stem that no window holds weighs most, and its vector is zero.
        windows_with_stem = np.maximum(np.bincount(rows, minlength=S), 1)
        self._weight = np.log(max(W, 1) / windows_with_stem)
        # ARPACK, which finds the strongest dimensions alone, cannot find all of them.
        rank = min(self.DIMENSIONS, S - 1, W - 1)
        if rank < 1:
            # Too little text to tell topics: every text is a zero, every guess a tie.
            self._vectors = np.zeros((S, 1))
            return
        columns = np.repeat(np.arange(W), [len(window) for window in windows])
        weights = self._weight[rows]
        matrix = csr_array((weights, (rows, columns)), shape=(S, W))
        # A fixed start, so that the result is the same each time.
        v0 = np.ones(min(S, W))
        left, strength, _ = svds(matrix, k=rank, v0=v0, return_singular_vectors="u")
        # Rounding leaves a stem of no window with a tiny vector, which is no direction.
        self._vectors = _unit_rows(left * strength, longer_than=1e-9)

    def _rows(self, text: str) -> list[int]:
        """Row of each content word whose stem is known, as often as it occurs."""
        text_stems = [word[:STEM_LETTERS] for word in content_words(text)]
        return [self._index[stem] for stem in text_stems if stem in self._index]

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [texts, dimensions], of length 1, or 0 for a text without a known word."""
        dimensions = self._vectors.shape[1]
        sums = np.zeros((len(texts), dimensions))
        for number, text in enumerate(texts):
            rows = self._rows(text)
            sums[number] = self._weight[rows] @ self._vectors[rows]
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
    free = np.ones(len(candidates), bool)
    circles: list[list[int]] = []
    for mixed in (False, True):  # circles of one package first; what is left over makes mixed ones
        for first in range(len(candidates)):
            if not free[first]:
                continue
            partners = np.flatnonzero(fits[first] & free).tolist()
            if not mixed:
                package = candidates[first].package
                partners = [other for other in partners if candidates[other].package == package]
            members = [first, *_nearest(first, partners, candidates, related)]
            # Inside, members are called by their place in `members`: 0 is the first.
            block = np.ix_(members, members)
            places = _first_fitting(fits[block], related[block], choices, topic_margin)
            if places is not None:
                circle = [members[place] for place in places]
                circles.append(circle)
                free[circle] = False
    return [[candidates[member] for member in circle] for circle in circles]


def _nearest(
    first: int, partners: list[int], candidates: Sequence[Candidate], related: np.ndarray
) -> list[int]:
    """The partners whose answers are drawn most to the first one's question, and the other way."""
    # How far each answer is drawn to the other's question, against its pull to its own.
    pull = related[first] + related[:, first] - np.diagonal(related)

    def order(other: int) -> tuple[float, str]:
        # The identifier breaks ties: cosines are rounded, so there are some.
        return -pull[other], candidates[other].identifier

    return sorted(partners, key=order)[:_NEAREST_TRIED]


def _first_fitting(
    fits: np.ndarray, related: np.ndarray, choices: int, topic_margin: float
) -> tuple[int, ...] | None:
    """The first circle of candidate 0, by the nearness of its partners, that gives no clue."""
    # Lists: an item of an array takes several times as long to read.
    fitting = fits.tolist()
    cosines = related.tolist()
    for partners in combinations(range(1, len(fitting)), choices - 1):
        pairs = combinations(partners, 2)  # candidate 0 fits each of them already
        if all(fitting[i][j] for i, j in pairs):
            circle = (0, *partners)
            if _hides_topics(circle, cosines, topic_margin):
                return circle
    return None


def _hides_topics(circle: tuple[int, ...], cosines: list[list[float]], topic_margin: float) -> bool:
    """Whether a guess by topic is right for at most one member, and the questions are hardly closer
    to their own answers than to all of the circle.
    """
    choices = len(circle)
    guessed_right, own, total = 0.0, 0.0, 0.0
    for member in circle:
        row = [cosines[member][answer] for answer in circle]
        to_own_answer = cosines[member][member]
        own += to_own_answer
        total += sum(row)
        best = max(row)
        if to_own_answer == best:
            guessed_right += 1 / row.count(best)  # options that tie for the best share the point
    mean_of_all = total / choices**2
    return guessed_right <= 1 and own / choices <= mean_of_all + topic_margin


def _pairwise(candidates: Sequence[Candidate], length_tolerance: float) -> np.ndarray:
    """bool [n, n]: which two may stand in one circle."""
    letters = [_Letters(candidate) for candidate in candidates]
    n = len(candidates)
    fits = np.zeros((n, n), bool)
    for i, j in combinations(range(n), 2):
        fits[i, j] = fits[j, i] = letters[i].fits(letters[j], length_tolerance)
    return fits


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
        shorter, longer = sorted((self.length, other.length))
        # Cheapest first: most pairs differ in length.
        if longer > (1 + length_tolerance) * shorter or self.group == other.group:
            return False
        if too_alike(self.answer_stems, other.answer_stems):
            return False
        return not (self.gives_away(other) or other.gives_away(self))

    def gives_away(self, other: "_Letters") -> bool:
        """Whether the other's answer stands out beside this question."""
        return _matches(self.question, self.question_stems, other.answer_words)
