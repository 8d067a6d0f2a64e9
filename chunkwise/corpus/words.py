"""What counts as a word of a text, in every script: the one normalisation that copies, leaks and
answers are looked for by.

A text is folded (Unicode's NFKC, then case), and cut into words:

- a run of letters, digits, combining marks and `_` is a word; quotes, dashes, other punctuation,
  blanks and mathematical signs only separate words;
- scripts that write no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan
  and their neighbours) give a word a character: a document in one of them would else be one "word",
  and share no run of words with its own copy;
- a pictograph (emoji, arrow, box) is a word too;
- what is not seen is not there: soft hyphens, zero-width blanks, variation selectors.

So wrapped lines, indentation, curly quotes, full-width letters and ligatures change nothing.

Cost: about 80 MB of ASCII a second on one core, which needs no folding, and 20 MB of other text.

Source: Unicode Standard Annex 15 (NFKC) and 44 (general categories); categories are those of the
Python that runs.
"""

import string
import unicodedata
from dataclasses import dataclass

import numpy as np

_SEPARATES, _WORD, _ALONE, _MARK, _UNSEEN, _UNKNOWN = range(6)
"""What a character does: _ALONE is a word by itself, _MARK belongs to the character before it."""

_UNSPACED = (
    (0x0E00, 0x109F),  # Thai, Lao, Tibetan, Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark, zero
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),  # Bopomofo and Katakana, extended
    (0x3400, 0x9FFF),  # Han
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9FF),  # Javanese, Burmese extended
    (0xAA60, 0xAADF),  # Burmese extended, Tai Viet
    (0xF900, 0xFAFF),  # Han that NFKC leaves as it is
    (0x16FE0, 0x18D8F),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # Kana, Nushu
    (0x20000, 0x3FFFF),  # Han
)
"""First and last code points of scripts without blanks between words."""

_classes = np.full(0x110000, _UNKNOWN, np.uint8)
"""Of each code point. Those beyond ASCII are looked up when they are first met: a million look-ups
at import would take longer than most corpora.
"""
_classes[:128] = _SEPARATES
_ascii_words = string.ascii_letters + string.digits + "_"
_classes[list(map(ord, _ascii_words))] = _WORD


@dataclass(frozen=True)
class Characters:
    """A folded text as numbers.

    Attributes:
        codes: code points; uint8 where all are ASCII, else uint32.
        starts, ends: int64, where each word begins, and the place after its last character.
    """

    codes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def characters(text: str) -> Characters:
    """Fold a text and find its words."""
    if text.isascii():
        # Neither folding nor unspaced scripts: this is most text, and four times as fast.
        lowered = text.lower().encode()
        codes = np.frombuffer(lowered, np.uint8)
        starts, ends = _edges(_classes[codes])
        return Characters(codes, starts, ends)
    # Case folding may undo the composition ("ΐ"), so the text is normalised again.
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = unicodedata.normalize("NFKC", folded)
    # Halves of surrogate pairs are no text, but a reader of JSON lets them through.
    encoded = folded.encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(encoded, "<u4")
    classes = _classes_of(codes)
    is_seen = classes != _UNSEEN
    if not is_seen.all():
        # Folded once more: what a soft hyphen kept apart may compose ("e", hyphen, accent).
        seen_text = _text(codes[is_seen])
        return characters(seen_text)
    starts, ends = _unspaced_edges(classes)
    return Characters(codes, starts, ends)


def words_of(text: str) -> list[str]:
    """'The  “Cat”, again: 茶叶' -> ['the', 'cat', 'again', '茶', '叶']."""
    folded = characters(text)
    letters = _text(folded.codes)
    # Lists: an item of an array takes several times as long to read.
    starts = folded.starts.tolist()
    ends = folded.ends.tolist()
    return [letters[start:end] for start, end in zip(starts, ends, strict=True)]


def word_line(text: str) -> str:
    """The words of a text with one blank before, between and after them; " " where it has none."""
    return " ".join(["", *words_of(text), ""])


def holds_phrase(text: str, phrase: str) -> bool:
    """Whether the words of a phrase stand in a text, one after the other. A phrase without words
    stands nowhere.
    """
    line = word_line(phrase)
    return line != " " and line in word_line(text)


def _text(codes: np.ndarray) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _classes_of(codes: np.ndarray) -> np.ndarray:
    """The class of each code point; looks up those that no text had so far."""
    classes = _classes[codes]
    is_unknown = classes == _UNKNOWN
    if not is_unknown.any():
        return classes
    unknown = np.unique(codes[is_unknown])
    for code in unknown.tolist():
        _classes[code] = _class_of(code)
    return _classes[codes]


def _class_of(code: int) -> int:
    character = chr(code)
    category = unicodedata.category(character)
    name = unicodedata.name(character, "")
    if category == "Cf" or name.startswith("VARIATION SELECTOR"):
        return _UNSEEN
    if category[0] == "M":
        return _MARK
    if category == "So":
        return _ALONE
    # Connectors (Pc) such as `_` belong to words, all other punctuation does not.
    is_sign = category[0] in "PSZ" and category != "Pc"
    if is_sign or category == "Cc":
        return _SEPARATES
    for first, last in _UNSPACED:
        if first <= code <= last:
            return _ALONE
    # Of unassigned and private ones too: a later Unicode may know them as letters.
    return _WORD


def _edges(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the runs of _WORD, where nothing else but separators occurs."""
    is_word = (classes == _WORD).astype(np.int8)
    # A separator before and after the text, so that its first and last words have edges too.
    steps = np.diff(is_word, prepend=0, append=0)
    starts = np.flatnonzero(steps == 1)
    ends = np.flatnonzero(steps == -1)
    return starts, ends


def _unspaced_edges(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the words of a text with any characters but unseen ones."""
    is_mark = classes == _MARK
    kinds = _kinds(classes, is_mark)
    # A separator before and after the text, so that its first and last words have edges too.
    padded = np.pad(kinds, 1, constant_values=_SEPARATES)
    before = padded[:-2]
    after = padded[2:]
    is_word = kinds != _SEPARATES
    stands_alone = (kinds == _ALONE) & ~is_mark
    begins = is_word & (stands_alone | (kinds != before))
    next_begins = np.append(begins[1:], False)
    finishes = is_word & (next_begins | (after == _SEPARATES))
    starts = np.flatnonzero(begins)
    ends = np.flatnonzero(finishes) + 1
    return starts, ends


def _kinds(classes: np.ndarray, is_mark: np.ndarray) -> np.ndarray:
    """The class of each character, where a mark has that of the character that it stands on."""
    indices = np.arange(len(classes))
    carriers = np.maximum.accumulate(np.where(is_mark, 0, indices))
    kinds = classes[carriers]
    kinds[kinds == _MARK] = _SEPARATES  # on nothing: at the start of the text
    return kinds
