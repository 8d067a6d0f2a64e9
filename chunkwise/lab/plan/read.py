"""Plan documents: text that says which parts of a system to remove, replace or add -> entries, and
back.

`parse` takes what people have: the published Markdown page, the same wrapped in HTML or with broken
encoding, the answer of a language model with its JSON among prose, tables, LaTeX lists, names in
bold or with a number, labels alone, JSON, JSON lines, YAML or CSV. It is total: it never raises on
any text, a good entry survives bad neighbours, and what could not be used stands in `diagnostics`.
`render` writes the page form without HTML, and `parse(render(document))` gives the same document
again.

    document   = { other } , [ title ] , { other } , [ trace-head , trace ] , plan-head , { entry }
               ;
    title      = first level-1 heading before any section
    trace-head = heading ~ "reasoning trace"
    plan-head  = heading ~ "ablation plan" | "ablations" | "proposed ablation studies" ...
    entry      = name , { field | sub-item | continuation | note } ;
    name       = heading | bold line | numbered line | none
    field      = [ bullet ] , [ "**" ] , label , [ "**" ] , ":" , [ value ]

Without a plan-head every part with its labels is an entry, wherever it stands. `labels` has the
words, `layouts`, `names` and `tables` bring other layouts to this one. Time is linear in the text.

What plan text says is data: it is matched against names, never executed, and never used as a path.
"""

import hashlib
from pathlib import Path

from chunkwise.core.errors import PlanError
from chunkwise.core.packs import packaged_files, packaged_names
from chunkwise.lab.plan.document import Diagnostic, Entry, PlanDocument, render
from chunkwise.lab.plan.entries import FORM, Entries
from chunkwise.lab.plan.forms import read_objects
from chunkwise.lab.plan.front import Front
from chunkwise.lab.plan.inline import split_list
from chunkwise.lab.plan.lines import Line
from chunkwise.lab.plan.objects import ObjectReader
from chunkwise.lab.plan.pages import PageReader
from chunkwise.lab.plan.tables import flat_tables
from chunkwise.lab.plan.text import MAX_BYTES, clean_lines, decode, plain_text

__all__ = ["Diagnostic", "Entry", "PlanDocument", "check", "parse", "render", "split_list"]


def check(plan: Path | str) -> PlanDocument:
    """Read a plan: a file (Markdown, text, HTML, JSON lines, JSON or YAML), or a packaged plan by
    name.

    Raises:
        PlanError: there is no such plan, or its file cannot be read. Whatever is in it ends in
            `diagnostics`.
    """
    return parse(plan_bytes(plan))


def plan_bytes(plan: Path | str) -> bytes:
    """What a plan's file holds, or the packaged plan of this name; a file before a name.

    Raises:
        PlanError: there is no such plan, or its file cannot be read.
    """
    packaged = packaged_files("plan").get(str(plan))
    try:
        if packaged is not None and not Path(plan).is_file():
            return packaged.read_bytes()
        with Path(plan).open("rb") as file:
            return file.read(MAX_BYTES + 1)  # the last byte tells `parse` that there are too many
    except FileNotFoundError:
        raise PlanError(
            f"no plan {str(plan)!r}: neither a file nor one of the packaged plans "
            f"({packaged_names('plan')})"
        ) from None
    except OSError as error:
        raise PlanError(f"cannot read the plan {plan}: {error.strerror}") from None


def parse(source: str | bytes) -> PlanDocument:
    """Read a plan. Never raises; an input without a plan gives no entries and an error in
    `diagnostics`.
    """
    data = source
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    entries = Entries()
    front = Front()
    text = _text_of(data, entries)
    if text is not None:
        _read(text, entries, front)
    # By line, as a reader of the file meets them; remarks on the whole file have none and lead.
    diagnostics = sorted(entries.diagnostics, key=lambda diagnostic: diagnostic.line or 0)
    return PlanDocument(
        source_sha256=hashlib.sha256(data).hexdigest(),
        title=front.title,
        trace=front.trace,
        paper="; ".join(dict.fromkeys(front.papers)),
        front=tuple(dict.fromkeys(front.lines)),
        entries=tuple(entries.entries),
        diagnostics=tuple(diagnostics),
    )


def _text_of(data: bytes, entries: Entries) -> str | None:
    """The text of a plan's bytes; None for what is no text, which is reported."""
    if len(data) > MAX_BYTES:
        entries.report(
            "error",
            "too-large",
            f"expected a plan of at most {MAX_BYTES} bytes; this file is larger",
        )
        return None
    if b"\x00" in data:
        entries.report(
            "error", "binary", "expected text; the file holds NUL bytes, so it is a binary file"
        )
        return None
    text, is_utf8 = decode(data)
    if not is_utf8:
        entries.report("warning", "not-utf-8", "not valid UTF-8; read as windows-1252")
    text, is_repaired = plain_text(text)
    if is_repaired:
        entries.report(
            "note", "mojibake", "broken encoding (UTF-8 read as windows-1252) was repaired"
        )
    return text


def _read(text: str, entries: Entries, front: Front) -> None:
    reader = ObjectReader(entries, front)
    # First, for a page is never JSON or YAML as a whole, and JSON has lines as a page has them.
    objects = read_objects(text)
    if objects is not None:
        reader.read_document(objects)
    elif not _read_json_lines(text, reader):
        page = PageReader(entries, front, reader)
        page.read(clean_lines(flat_tables(text)))
    # An error already says why there is none.
    has_error = any(remark.severity == "error" for remark in entries.diagnostics)
    if not entries.entries and not has_error:
        entries.report("error", "no-entry", f"the plan holds no entry; {FORM}")


def _read_json_lines(text: str, reader: ObjectReader) -> bool:
    """Read a text that begins with an object; False if that is not JSON."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        lines.append(Line(number, line))
    return reader.read_lines(lines)
