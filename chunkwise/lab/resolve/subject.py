"""Which paper a plan is about, so that its amounts are read against that paper's or not at all.

"600B tokens" is half of InstructRetro's database and a third of RETRO's. A plan says in its title
which one it means, sometimes only in its text; where it names another paper than the profile's,
nothing is translated until the user says `--paper`. A title that names no paper at all ("My
ablations of retrieval") leaves the profile's.

    given      --paper says it
    named      the plan names the profile's paper
    assumed    the plan names none, so it is the profile's
    other      the plan names another paper whose values are packaged
    foreign    the plan is titled after something that no packaged paper is
    none       the profile has no paper, and the plan names none

Titles are free text, so the last but one is a judgement, made in `titles`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from chunkwise.core.config import Config
from chunkwise.core.packs import packaged_files, packaged_names
from chunkwise.lab.plan.document import Entry, PlanDocument
from chunkwise.lab.plan.labels import is_data_label, is_paper_label
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.paper import Paper, load_paper
from chunkwise.lab.resolve.titles import LONGEST_TITLE, Titles

SHOWN = 80  # characters of a title in a message

_LONG_HALF = 5  # words
_NO_PAPER = {"", "none", "n a", "unknown", "not given", "null"}
# "Unlike InstructRetro" names what a plan is not about.
_UNLIKE = re.compile(
    r"\b(?:unlike|not|instead of|rather than|in contrast to|contrary to|other than|as opposed to)"
    r"\s+(?:(?:in|for|of|the|that)\s+){0,3}[\w+-]+",
    re.IGNORECASE,
)

Kind = Literal["given", "named", "assumed", "other", "foreign", "none"]


class Subject(Config):
    """Which paper a plan is about here."""

    kind: Kind = "none"
    says: str = ""
    """One line for people, the first of every output on the plan."""
    refusal: str = ""
    """Why an amount of data has no meaning here, and what to do; "" where it has one."""
    data: tuple[str, ...] = ()
    """What the plan says, beside its entries, that its metrics are measured on."""


def subject_of(
    document: PlanDocument,
    profile: Profile,
    registry: Registry,
    given: Paper | None = None,
) -> tuple[Subject, Paper | None]:
    """What a plan is about, and the paper that its amounts are read against, if any.

    Args:
        given: the paper that the user named for this plan.
    """
    subject, paper = _subject_of(document, profile, registry, given)
    return subject.model_copy(update={"data": data_named(document.front)}), paper


def subject_of_entry(
    entry: Entry, profile: Profile, registry: Registry, subject: Subject, paper: Paper | None
) -> tuple[Subject, Paper | None]:
    """What an entry is about: the paper that a heading above it names, or what its plan is about.

    Args:
        subject: of the plan, and `paper`: what the plan's amounts are read against.
    """
    # Who says --paper has seen the headings.
    if subject.kind == "given" or not entry.below:
        return subject, paper
    own = load_paper(profile.paper) if profile.paper else None
    whose = _whose(profile, own)
    titles = Titles.of(profile.name, registry)
    # The nearest heading that names a paper says it.
    for heading in reversed(entry.below):
        named = _named_in(heading, _papers(own), exact=True)
        about: Subject | None = None
        if own is not None and own.id in [each.id for each in named.values()]:
            says = f"Paper: {own.called}, which the heading {heading!r} names."
            return Subject(kind="named", says=says, data=subject.data), own
        if named:
            about = _other(named, f"heading {heading!r}", whose)
        elif titles.is_of_paper(heading):
            about = _foreign(_shortened(heading), whose)
        if about is not None:
            return about.model_copy(update={"data": subject.data}), None
    return subject, paper


def data_named(lines: Iterable[str]) -> tuple[str, ...]:
    """What lines such as "Dataset: SQuAD" name."""
    sets = []
    for line in lines:
        label, _, value = line.partition(":")
        value = value.strip("*_ ")
        if value and is_data_label(label.strip("*_ ")):
            sets.append(value)
    return tuple(sets)


def _subject_of(
    document: PlanDocument, profile: Profile, registry: Registry, given: Paper | None
) -> tuple[Subject, Paper | None]:
    own = load_paper(profile.paper) if profile.paper else None
    where, named = _named(document, _papers(own, given))
    stranger = None
    # A text that cites InstructRetro does not make a plan for GaLore one for InstructRetro.
    if where == "text":
        titles = Titles.of(profile.name, registry)
        stranger = _stranger(document, titles, any_paper=bool(named))
    if stranger is not None:
        named = {}
        stranger = _shortened(stranger)
    # What the user says holds, whatever the plan names; the plan's own words are only shown.
    if given is not None:
        return _given(given, where, named, stranger), given
    named_ids = [paper.id for paper in named.values()]
    if own is not None and own.id in named_ids:
        says = f"Paper: {own.called}, which the plan's {where} names."
        return Subject(kind="named", says=says), own
    whose = _whose(profile, own)
    if named:
        return _other(named, where, whose), None
    if stranger is not None:
        return _foreign(stranger, whose), None
    if own is None:
        return Subject(says=f"Paper: none; {whose}, so only shares of data can be read."), None
    says = (
        f"Paper: taken as {own.called}, the paper of profile {profile.name}; the plan names none."
    )
    return Subject(kind="assumed", says=says), own


def _whose(profile: Profile, own: Paper | None) -> str:
    """Which paper a profile's amounts are of, in words."""
    if own is None:
        return f"profile {profile.name} names no paper"
    return f"profile {profile.name} is about {own.called}"


def _papers(*files: Paper | None) -> dict[str, Paper]:
    """The packaged papers by name, and these by id, which may be files of the user's."""
    papers = {name: load_paper(name) for name in packaged_files("paper")}
    for paper in files:
        if paper is not None:
            papers.setdefault(paper.id, paper)
    return papers


def _shortened(title: str) -> str:
    """A title that fits into a message."""
    if len(title) <= SHOWN:
        return title
    start = title[: SHOWN - 1]
    return f"{start}…"


# --- what is said of each case --------------------------------------------------------------------


def _given(given: Paper, where: str, named: Mapping[str, Paper], stranger: str | None) -> Subject:
    """The subject that --paper says, beside what the plan says itself."""
    says = f"Paper: {given.called}, as --paper says"
    others = [paper.called for paper in named.values() if paper.id != given.id]
    if others and len(others) == len(named):
        called = " and ".join(others)
        says = (
            f"ANOTHER PAPER: the plan's {where} names {called}, and its amounts are read as those "
            f"of {given.called}, as --paper says"
        )
    elif stranger is not None:
        says = (
            f"ANOTHER PAPER: the plan is about {stranger!r}, and its amounts are read as those of "
            f"{given.called}, as --paper says"
        )
    return Subject(kind="given", says=says + ".")


def _other(named: Mapping[str, Paper], where: str, whose: str) -> Subject:
    """The plan names papers that are packaged, and the profile's is none of them."""
    name, paper = next(iter(named.items()))
    refusal = (
        f"an amount of {paper.called}, and {whose}; say --paper {name} to read it as a share of "
        "that paper's, or write a share (1/2, 50%)"
    )
    called = " and ".join(each.called for each in named.values())
    options = " or ".join(f"--paper {name}" for name in named)
    says = (
        f"ANOTHER PAPER: the plan's {where} names {called}, and {whose}. Its amounts of data are "
        f"refused without {options}."
    )
    return Subject(kind="other", says=says, refusal=refusal)


def _foreign(stranger: str, whose: str) -> Subject:
    """The plan is titled after something that no packaged paper is."""
    refusal = (
        f"an amount of another paper's ({stranger!r}), and {whose}; say --paper NAME or FILE, or "
        "write a share (1/2, 50%)"
    )
    says = (
        f"ANOTHER PAPER: the plan is about {stranger!r}, and {whose}. Its amounts of data are "
        f"refused without --paper NAME or FILE ({packaged_names('paper')})."
    )
    return Subject(kind="foreign", says=says, refusal=refusal)


# --- the papers that we know ----------------------------------------------------------------------


def _named(document: PlanDocument, papers: Mapping[str, Paper]) -> tuple[str, dict[str, Paper]]:
    """The papers that the title names, or else those of the text, and which of the two it was."""
    # In this order: a line that says so stands above a title, and a title above the text.
    heads = {"paper line": _paper_line(document), "title": _title(document)}
    for where, head in heads.items():
        named = _named_in(head, papers, exact=False)
        if named:
            return where, named
        # It says which paper it is, so a paper that the text mentions beside is another one.
        if where == "paper line" and head:
            return "text", {}
    text = "\n".join(_texts(document))
    return "text", _named_in(text, papers, exact=True)


def _named_in(text: str, papers: Mapping[str, Paper], *, exact: bool) -> dict[str, Paper]:
    named = {}
    for name, paper in papers.items():
        if _is_named(paper, text, exact=exact):
            named[name] = paper
    return named


def _title(document: PlanDocument) -> str:
    # Pages write the paper's title as an identifier, with underscores for what is no letter.
    title = document.paper_id or document.title or ""
    words = title.replace("_", " ").strip()
    return words[:LONGEST_TITLE]


def _paper_line(document: PlanDocument) -> str:
    """The paper that the plan or an entry names below a label of its own."""
    lines = [document.paper]
    for entry in document.entries:
        for label, texts in entry.extra.items():
            if is_paper_label(label):
                lines += texts
        for note in entry.notes:
            label, _, value = note.partition(":")
            if is_paper_label(label):
                lines.append(value)
    papers = [line.strip() for line in lines if fold(line) not in _NO_PAPER]
    return "; ".join(dict.fromkeys(papers))[:LONGEST_TITLE]


def _texts(document: PlanDocument) -> Iterator[str]:
    yield document.trace
    yield from document.front
    for entry in document.entries:
        yield f"{entry.name}\n{entry.ablated_part}"
        yield from entry.notes
        for texts in entry.extra.values():
            yield from texts


def _is_named(paper: Paper, text: str, *, exact: bool) -> bool:
    """Whether a text names a paper: by its number, its title or one of its short names.

    Args:
        exact: short names as they are spelt alone. In a text "Retro encoder" is a part of many
            models, and "RETRO" the paper.
    """
    if paper.arxiv and paper.arxiv in text:
        return True
    text = _UNLIKE.sub(" ", text)
    # Each half of "Short name: what it is about", if it is long enough to be no common phrase.
    titles = [paper.title]
    for half in re.split(r"[:?]", paper.title):
        if len(half.split()) >= _LONG_HALF:
            titles.append(half)
    folded = f" {fold(text)} "
    for title in titles:
        if f" {fold(title)} " in folded:
            return True
    flags = re.NOFLAG if exact else re.IGNORECASE
    # Neither in "InstructRetro", "RETRO++" and "Retro-li", other papers, nor in "retrofit".
    after = r"(?![\w+]|-(?!style|like|based|type|fit)\w)"
    for name in paper.names:
        spelt = re.escape(name)
        if re.search(rf"(?<![\w-]){spelt}{after}", text, flags):
            return True
    return False


# --- what the plan is about, where no paper here is that ------------------------------------------


def _stranger(document: PlanDocument, titles: Titles, *, any_paper: bool) -> str | None:
    """What the plan is about, where no paper here is that.

    Args:
        any_paper: the text names a paper that we know, which says more than a phrase of its prose.
    """
    line = _paper_line(document)
    if line:
        return line
    title = _title(document)
    if titles.is_strange(title, is_paper=bool(document.paper_id)):
        return title
    # A paper that is named tells more than the words around a phrase do.
    if any_paper:
        return None
    for text in document.front:
        phrase = titles.strange_phrase(text)
        if phrase is not None:
            return phrase
        if text.casefold().startswith("title:"):
            title = text.partition(":")[2].strip("*_ ")
            if titles.is_strange(title, is_paper=False):
                return title
    return None
