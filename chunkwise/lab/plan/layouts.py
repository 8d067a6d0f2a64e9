"""Other layouts of a page -> the page form: quotes, page fences, LaTeX, underlined headings.

What a page quotes above its plan stays as it is: only what stands below the heading "Ablation Plan"
is brought to the page form, or the whole page where there is none. Every function takes time linear
in the lines, each of which is (number in the source, text).
"""

import re

from chunkwise.lab.plan.labels import head_rank
from chunkwise.lab.plan.lines import match_label, opening_of
from chunkwise.lab.plan.outline import fenced_positions, heading_of

NumberedLine = tuple[int, str]

_PAGE_FENCE = re.compile(r"\s*(?P<mark>```|~~~)(?:markdown|md)\s*")
_QUOTE = re.compile(r"^> ?")
_LATEX = re.compile(r"\s*\\(?:item|begin\{|(?:sub)*section|paragraph)")
_LATEX_LIST = re.compile(r"\s*\\(?P<way>begin|end)\{(?:itemize|enumerate|description)\}")
_LATEX_BOLD = re.compile(r"\\(?:textbf|mathbf)\{([^{}]*)\}")
_LATEX_STYLE = re.compile(r"\\(?:textit|texttt|emph|textsc|text|underline)\{([^{}]*)\}")
_LATEX_SIGN = re.compile(r"\\([%&_#$])")
_LATEX_HEAD = re.compile(r"\\(?P<name>(?:sub)*section|paragraph)\*?\{(?P<text>.*)\}")
_LATEX_ITEM = re.compile(
    r"\\item"
    r"(?:\[(?P<label>[^\[\]]*)\])?"  # of a description
    r"\s*(?P<rest>.*)"
)
_LATEX_LAYOUT = re.compile(r"\\(?:begin|end|label|centering)\b")
_LATEX_HEADS = {
    "section": "##",
    "subsection": "###",
    "subsubsection": "####",
    "paragraph": "####",
}
_DEEPEST_ITEM = 8  # levels of a list; deeper ones would make the text grow quadratically
_UNDERLINE = re.compile(r"\s*(?P<sign>[=-])(?P=sign){2,}\s*")
_LONGEST_HEADING = 80  # characters of an underlined one; a longer line is a sentence above a rule


def as_markdown(lines: list[NumberedLine]) -> list[NumberedLine]:
    """The lines of a plan with its LaTeX and underlined headings as Markdown."""
    start = _plan_start(lines)
    if start is None:
        start = 0
        # With a heading above it the fence would be an example within the plan.
        lines = _without_page_fence(lines)
    plan = _unquoted(lines[start:])
    plan = _latex_lines(plan)
    plan = _spread_lines(plan)
    return lines[:start] + _underlined_headings(plan)


def _plan_start(lines: list[NumberedLine]) -> int | None:
    """Position of the first heading "Ablation Plan" outside fences."""
    texts = [text for _, text in lines]
    fenced = fenced_positions(texts)
    for position, text in enumerate(texts):
        if position in fenced:
            continue
        heading = heading_of(text, position)
        if heading and head_rank(heading.words) == 0:
            return position
    return None


def _without_page_fence(lines: list[NumberedLine]) -> list[NumberedLine]:
    """A whole plan that a language model has put into a fence, without the fence."""
    start = end = None
    mark = ""
    for position, (_, text) in enumerate(lines):
        if start is None:
            opening = _PAGE_FENCE.fullmatch(text)
            if opening:
                start = position
                mark = opening["mark"]
        elif text.strip() == mark:
            end = position  # the last one: the plan may hold fences
    if start is None or end is None:
        return lines
    lines = list(lines)
    for position in (start, end):
        number, _ = lines[position]
        lines[position] = (number, "")
    return lines


def _unquoted(lines: list[NumberedLine]) -> list[NumberedLine]:
    """Lines without their "> ", if most of them are quoted."""
    texts = [text for _, text in lines if text]
    quoted = sum(text.startswith(">") for text in texts)
    if 2 * quoted <= len(texts):
        return lines
    return [(number, _QUOTE.sub("", text)) for number, text in lines]


def _latex_lines(lines: list[NumberedLine]) -> list[NumberedLine]:
    """LaTeX lists and sections as Markdown; lines without LaTeX lists among them as they are."""
    # A page without LaTeX may hold any signs that LaTeX uses.
    if not any(_LATEX.match(text) for _, text in lines):
        return lines
    depth = 0
    markdown = []
    for number, text in lines:
        border = _LATEX_LIST.match(text)
        if not border:
            text = _latex_line(text, depth)
        elif border["way"] == "begin":
            text = ""
            depth += 1
        else:
            text = ""
            depth = max(0, depth - 1)
        markdown.append((number, text))
    return markdown


def _latex_line(text: str, depth: int) -> str:
    if text.lstrip().startswith("\\"):
        text = text.strip()
    text = _LATEX_BOLD.sub(r"**\1**", text)
    text = _LATEX_STYLE.sub(r"\1", text)
    text = _LATEX_SIGN.sub(r"\1", text)
    text = text.removesuffix("\\\\")
    if head := _LATEX_HEAD.match(text):
        mark = _LATEX_HEADS.get(head["name"], "####")
        return f"{mark} {head['text']}"
    if item := _LATEX_ITEM.match(text):
        return _latex_item(item, depth)
    if _LATEX_LAYOUT.match(text):
        return ""
    return text


def _latex_item(item: re.Match[str], depth: int) -> str:
    level = max(0, min(depth - 1, _DEEPEST_ITEM))
    label = ""
    if item["label"]:
        words = item["label"].strip("*: ")
        label = f"**{words}**: "
    content = item["rest"].lstrip(": ")
    indent = "  " * level
    return f"{indent}- {label}{content}"


def _spread_lines(lines: list[NumberedLine]) -> list[NumberedLine]:
    """An entry on one line, "1. **Name** | Part: ... | Action: ...", as a name and its labels."""
    if not any(" | " in text for _, text in lines):
        return lines
    spread = []
    # A row of a table begins with its border, and has no label before one.
    for number, text in lines:
        name, *pieces = text.split(" | ")
        labels = [piece.strip() for piece in pieces]
        if not _are_entry(labels) or match_label(name):
            spread.append((number, text))
            continue
        spread.append((number, name))
        for label in labels:
            spread.append((number, f"   - {label}"))
    return spread


def _are_entry(texts: list[str]) -> bool:
    """Whether all texts are labels with values, and the part and the action are among them."""
    fields = set()
    for text in texts:
        label = match_label(text)
        if label is None:
            return False
        fields.add(label.field)
    return "part" in fields and "action" in fields


def _underlined_headings(lines: list[NumberedLine]) -> list[NumberedLine]:
    """Headings that are a line with "===" or "---" below it, as headings with "#"."""
    headings: list[NumberedLine] = []
    above = ""
    for number, text in lines:
        underline = _UNDERLINE.fullmatch(text)
        if underline and _may_be_heading(above):
            mark = "#" if underline["sign"] == "=" else "##"
            number_above, _ = headings.pop()
            headings.append((number_above, f"{mark} {above}"))
            headings.append((number, ""))
        else:
            headings.append((number, text))
        above = text
    return headings


def _may_be_heading(text: str) -> bool:
    if not text or len(text) > _LONGEST_HEADING:
        return False
    if text.startswith((" ", "#", "|", ">")):
        return False
    if text[-1] in ".!?:;,":
        return False
    return not opening_of(text).has_bullet and not match_label(text)
