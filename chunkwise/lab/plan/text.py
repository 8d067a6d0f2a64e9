"""The text of a plan document, before its grammar: bytes -> clean, numbered lines, and back to safe
text.

Published plan pages arrive wrapped in HTML and often with broken encoding: UTF-8 that was read as
windows-1252 and written again, once or twice. Both are undone here, so that `plan.py` sees plain
Markdown. Everything is total and takes time linear in the text: whatever comes, lines come out.
`escape` is the way back: `clean_lines` of `escape(x)` gives x again, also where x looks like a tag,
an entity or broken encoding.
"""

import html
import re
import unicodedata

MAX_BYTES = 1_000_000
"""A larger file is no plan; the longest of the published pages has 60 kB."""

_BREAK = "\x1e"
"""Stands for a line break that HTML implies, so that the numbers of the source's own lines stay
right.
"""

# windows-1252 leaves five bytes undefined; browsers, and so broken pages, map them to themselves.
# So do C1 controls.
_TO_BYTE = {character: byte for byte in range(0x80, 0x100) for character in [chr(byte)]}
_TO_BYTE |= {
    bytes([byte]).decode("cp1252", "ignore") or chr(byte): byte for byte in range(0x80, 0xA0)
}
_FROM_BYTE = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(256)}
_NON_ASCII_RUN = re.compile(r"[^\x00-\x7f]+")

_TAG = re.compile(
    r"<(?P<close>/?)(?P<name>h[1-6]|div|span|section|article|details|summary|p|br|ul|ol|li|strong|b)"
    r"(?:\s[^<>]*|\s*/)?>",
    re.IGNORECASE,
)
_BLOCKS = {"div", "section", "article", "details", "summary", "p"}


def decode(data: bytes) -> tuple[str, bool]:
    """Bytes as text, and whether they were UTF-8; if not, they are read as windows-1252, which
    never fails.
    """
    try:
        return data.decode("utf-8"), True
    except UnicodeDecodeError:
        return "".join(_FROM_BYTE[byte] for byte in data), False


def repair_mojibake(text: str) -> tuple[str, bool]:
    """Undo UTF-8 that was read as windows-1252, at most twice; also whether anything changed.

    Each run of non-ASCII characters is repaired as a whole or not at all: it must map to
    windows-1252 bytes that are valid UTF-8, which correct text practically never does.
    """
    repaired = _NON_ASCII_RUN.sub(_repair_run, _NON_ASCII_RUN.sub(_repair_run, text))
    return repaired, repaired != text


def _repair_run(match: re.Match) -> str:
    try:
        return bytes(_TO_BYTE[character] for character in match[0]).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return match[0]


def plain_text(text: str) -> tuple[str, bool]:
    """Text with LF line ends, without BOM and with its encoding repaired, and whether it had to
    be.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is no character
    text, repaired = repair_mojibake(text.replace("\r\n", "\n").replace("\r", "\n"))
    return text.removeprefix("\ufeff"), repaired


def clean_lines(text: str) -> list[tuple[int, str]]:
    """What `plain_text` gave, as (line number in the source, from 1; clean line) pairs.

    HTML becomes Markdown, and each line is unescaped once and brought to Unicode NFC; control
    characters become spaces, tabs 4 spaces, and the right end is stripped.
    """
    lines = []
    for number, line in enumerate(
        _html_to_markdown(text.replace(_BREAK, " ")).split("\n"), start=1
    ):
        lines += [(number, plain_line(html.unescape(part))) for part in line.split(_BREAK)]
    return lines


def plain_line(text: str) -> str:
    """One line in Unicode NFC, tabs expanded, every control character a space, nothing at its right
    end.
    """
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8")).expandtabs(
        4
    )
    return "".join(" " if unicodedata.category(c) == "Cc" else c for c in text).rstrip()


def _html_to_markdown(text: str) -> str:
    """Headings, list items and bold as Markdown; layout tags dropped with their content kept; other
    `<...>` stay.
    """
    for opening, closing in (("<!--", "-->"), ("<style", "</style>"), ("<script", "</script>")):
        text = _without_blocks(text, opening, closing)
    depth = 0

    def replacement(match: re.Match) -> str:
        nonlocal depth
        name, closes = match["name"].lower(), bool(match["close"])
        if name in ("ul", "ol"):
            depth = max(0, depth + (-1 if closes else 1))
            return ""
        if name == "li":
            return "" if closes else f"{_BREAK}{'  ' * min(max(0, depth - 1), 8)}- "
        if name in ("strong", "b"):
            return "**"
        if name[0] == "h" and len(name) == 2:
            return _BREAK if closes else f"{_BREAK}{'#' * int(name[1])} "
        return _BREAK if name == "br" or (closes and name in _BLOCKS) else ""

    return _TAG.sub(replacement, text)


def _without_blocks(text: str, opening: str, closing: str) -> str:
    """Drop everything from `opening` to the next `closing`, keeping line ends; without a `closing`,
    keep all.
    """
    lowered = (
        text.lower() if len(text.lower()) == len(text) else text
    )  # some letters grow when lowered
    kept, position = [], 0
    while (start := lowered.find(opening, position)) >= 0 and (
        end := lowered.find(closing, start)
    ) >= 0:
        end += len(closing)
        kept += [text[position:start], "\n" * text.count("\n", start, end)]
        position = end
    return "".join([*kept, text[position:]])


def escape(text: str) -> str:
    """`text` (one line) so that `clean_lines` gives it back unchanged."""
    has_tag = re.search(r"<[A-Za-z/!]", text)
    broken = repair_mojibake(text)[1]
    if html.unescape(text) != text or has_tag or broken:
        text = text.replace("&", "&amp;")
    if has_tag:
        text = re.sub(r"<(?=[A-Za-z/!])", "&lt;", text)
    # the first character of a run that would be "repaired" leaves the run, so the rest is not UTF-8
    if broken:
        text = _NON_ASCII_RUN.sub(
            lambda run: (
                f"&#{ord(run[0][0])};{run[0][1:]}" if repair_mojibake(run[0])[1] else run[0]
            ),
            text,
        )
    return text


def one_line(text: str) -> str:
    """`plain_line` with every run of white space as one space."""
    return " ".join(plain_line(text).split())


def fold(text: str) -> str:
    """Case-folded words of letters and digits, one space between: what headings and labels are
    compared by.
    """
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))
