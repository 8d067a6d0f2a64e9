"""The text of a plan document, before its grammar: bytes -> clean, numbered lines, and back to safe
text.

Published plan pages arrive wrapped in HTML and often with broken encoding: UTF-8 that was read as
windows-1252 and written again, once or twice. Both are undone here, so that `read.py` sees plain
Markdown. Every function is total and takes time linear in the text. `escape` is the way back:
`clean_lines(escape(x))` gives x again, also where x looks like a tag, an entity or broken encoding.
"""

import html
import re
import unicodedata

# A larger file is not a plan: the longest of the published pages has 60 kB.
MAX_BYTES = 1_000_000

# Stands for a line break that HTML implies, so that the lines of the source keep their numbers.
_BREAK = "\x1e"

# windows-1252 leaves five bytes undefined; browsers, and so broken pages, map them to themselves.
_FROM_BYTE = {}
for _byte in range(256):
    _FROM_BYTE[_byte] = bytes([_byte]).decode("cp1252", "ignore") or chr(_byte)
# Broken pages also hold C1 controls where windows-1252 has a character: they stand for their byte.
_TO_BYTE = {}
for _byte in range(0x80, 0x100):
    _TO_BYTE[chr(_byte)] = _byte
    _TO_BYTE[_FROM_BYTE[_byte]] = _byte
# Line breaks are among them: "&#10;" must not open a new line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WORD = re.compile(r"[^\W_]+")
_NON_ASCII_RUN = re.compile(r"[^\x00-\x7f]+")

_TAG = re.compile(
    r"<(?P<close>/?)(?P<name>h[1-6]|div|span|section|article|details|summary|p|br|ul|ol|li|strong|b|dt|dd)"
    r"(?:\s[^<>]*|\s*/)?>",
    re.IGNORECASE,
)
# What a browser does not show.
_HIDDEN = {
    "<!--": "-->",
    "<style": "</style>",
    "<script": "</script>",
}
# Their ends end a line. A list item does not: the next item or the end of the list does.
_BLOCKS = {
    "div",
    "section",
    "article",
    "details",
    "summary",
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "dd",
}


def decode(data: bytes) -> tuple[str, bool]:
    """Bytes as text, and whether they were UTF-8; if not, they are read as windows-1252, which
    never fails.
    """
    try:
        return data.decode("utf-8"), True
    except UnicodeDecodeError:
        return "".join(_FROM_BYTE[byte] for byte in data), False


def repair_mojibake(text: str) -> str:
    """Undo UTF-8 that was read as windows-1252, at most twice.

    Each run of non-ASCII characters is repaired as a whole or not at all: it must map to
    windows-1252 bytes that are valid UTF-8, which correct text practically never does.
    """
    once = _NON_ASCII_RUN.sub(_repair_run, text)
    return _NON_ASCII_RUN.sub(_repair_run, once)


def _repair_run(match: re.Match) -> str:
    try:
        data = bytes(_TO_BYTE[character] for character in match[0])
        return data.decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return match[0]


def plain_text(text: str) -> tuple[str, bool]:
    """Text with LF line ends, without BOM and with its encoding repaired; and whether the encoding
    was broken.
    """
    text = re.sub("\r\n?", "\n", text)
    repaired = repair_mojibake(text)
    # After the repair: a BOM that was read as windows-1252 is one only then.
    return repaired.removeprefix("\ufeff"), repaired != text


def clean_lines(text: str) -> list[tuple[int, str]]:
    """The output of `plain_text` as (line number in the source, from 1; clean line) pairs.

    HTML becomes Markdown, and each line is unescaped once and brought to Unicode NFC; control
    characters become spaces, tabs 4 spaces, and the right end is stripped.
    """
    lines = []
    markdown = _html_to_markdown(text.replace(_BREAK, " "))
    for number, line in enumerate(markdown.split("\n"), start=1):
        for part in line.split(_BREAK):
            # Unescaped after the tags are gone: "&lt;b&gt;" is text and must not become a tag.
            part = html.unescape(part)
            lines.append((number, plain_line(part)))
    return lines


def plain_line(text: str) -> str:
    """One line in Unicode NFC, tabs expanded, every control character a space, nothing at its right
    end.
    """
    if text.isascii() and text.isprintable():
        return text.rstrip()  # nearly every line, and there is nothing else to do
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON can spell a lone surrogate
    text = unicodedata.normalize("NFC", text).expandtabs(4)
    return _CONTROL.sub(" ", text).rstrip()


def _html_to_markdown(text: str) -> str:
    """Headings, list items and bold as Markdown; layout tags dropped with their content kept; other
    `<...>` stay.
    """
    for opening, closing in _HIDDEN.items():
        text = _without_blocks(text, opening, closing)
    return _TAG.sub(_TagWriter().markdown, text)


class _TagWriter:
    """Writes the tags of a page as Markdown, one after the other.

    Attributes:
        depth: how many lists are open; each indents its items by two spaces.
        in_term: within the term of a definition list, which is a label and bold already.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.in_term = False

    def markdown(self, tag: re.Match[str]) -> str:
        name = tag["name"].lower()
        if name in ("strong", "b"):
            return "" if self.in_term else "**"
        if name == "dt":
            self.in_term = not tag["close"]
            return _BREAK + "- **" if self.in_term else "**: "
        if name in ("ul", "ol"):
            change = -1 if tag["close"] else 1
            self.depth = max(0, self.depth + change)
            return ""
        if name == "br" or (tag["close"] and name in _BLOCKS):
            return _BREAK
        if tag["close"]:
            return ""
        return self._opening(name)

    def _opening(self, name: str) -> str:
        if name == "li":
            # At most 8 levels: deeper lists would make the text grow quadratically.
            level = max(0, min(self.depth - 1, 8))
            return _BREAK + "  " * level + "- "
        if name.startswith("h"):
            mark = "#" * int(name[1])
            return f"{_BREAK}{mark} "
        return ""


def _without_blocks(text: str, opening: str, closing: str) -> str:
    """Drop everything from `opening` to the next `closing`, keeping line ends; without a `closing`,
    keep all.
    """
    lowered = text.lower()
    if len(lowered) != len(text):  # some letters grow, and positions would not fit the text
        lowered = text
    pieces = []
    position = 0
    # Not a lazy regular expression: many openings without a closing would take quadratic time.
    while (start := lowered.find(opening, position)) >= 0:
        end = lowered.find(closing, start)
        if end < 0:
            break
        end += len(closing)
        pieces.append(text[position:start])
        pieces.append("\n" * text.count("\n", start, end))
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def escape(text: str) -> str:
    """`text` (one line) so that `clean_lines` gives it back unchanged."""
    has_tag = re.search(r"<[A-Za-z/!]", text)
    is_broken = repair_mojibake(text) != text
    # Only where something needs it: people read the page too.
    if has_tag or is_broken or html.unescape(text) != text:
        text = text.replace("&", "&amp;")
    if has_tag:
        text = re.sub(r"<(?=[A-Za-z/!])", "&lt;", text)
    if is_broken:
        return _NON_ASCII_RUN.sub(_escape_run, text)
    return text


def _escape_run(match: re.Match) -> str:
    """A run that would be repaired, with its first character as an entity: the rest is not UTF-8
    and stays.
    """
    run = match[0]
    if repair_mojibake(run) == run:
        return run
    code = ord(run[0])
    return f"&#{code};{run[1:]}"


def one_line(text: str) -> str:
    """`plain_line` with every run of white space as one space."""
    if "  " not in text and text.isascii() and text.isprintable():
        return text.strip()
    return " ".join(plain_line(text).split())


def fold(text: str) -> str:
    """Case-folded words of letters and digits, one space between: what headings and labels are
    compared by.
    """
    return " ".join(_WORD.findall(text.casefold()))
