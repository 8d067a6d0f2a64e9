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

Titles are free text, so the last but one is a judgement: a coined name ("GaLore", "Self-RAG"), a
page `planner/model/paper`, or words that a title of one's own ablations would not have.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Literal

from chunkwise.core.config import Config, parse_yaml
from chunkwise.core.packs import packaged_files, packaged_names
from chunkwise.lab.plan.document import PlanDocument
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import Registry, normalise
from chunkwise.lab.resolve.paper import Paper, load_paper

LONGEST_TITLE = 400  # characters; what follows is no title
SHOWN = 80  # characters of a title in a message

Kind = Literal["given", "named", "assumed", "other", "foreign", "none"]


class Subject(Config):
    """Which paper a plan is about here."""

    kind: Kind = "none"
    says: str = ""
    """One line for people, the first of every output on the plan."""
    refusal: str = ""
    """Why an amount of data has no meaning here, and what to do; "" where it has one."""


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
    own = load_paper(profile.paper) if profile.paper else None
    papers = {name: load_paper(name) for name in packaged_files("paper")}
    # The profile's and the given one may be files of the user's.
    for paper in (own, given):
        if paper is not None and paper.id not in papers:
            papers[paper.id] = paper
    where, named = _named(document, papers)
    stranger = None
    # A text that cites InstructRetro does not make a plan for GaLore one for InstructRetro.
    if where == "text":
        stranger = _stranger(document, profile, registry)
        named = {} if stranger else named
    if stranger and len(stranger) > SHOWN:
        stranger = f"{stranger[: SHOWN - 1]}…"
    if given is not None:
        return _given(given, where, named, stranger), given
    if own is not None and own.id in {paper.id for paper in named.values()}:
        says = f"Paper: {own.called}, which the plan's {where} names."
        return Subject(kind="named", says=says), own
    profiles = "profile " + profile.name
    whose = f"{profiles} is about {own.called}" if own else f"{profiles} names no paper"
    if named:
        names, paper = next(iter(named.items()))
        refusal = (
            f"an amount of {paper.called}, and {whose}; say --paper {names} to read it as a share "
            f"of that paper's, or write a share (1/2, 50%)"
        )
        called = " and ".join(paper.called for paper in named.values())
        says = (
            f"ANOTHER PAPER: the plan's {where} names {called}, and {whose}. Its amounts of data "
            f"are refused without --paper {' or --paper '.join(named)}."
        )
        return Subject(kind="other", says=says, refusal=refusal), None
    if stranger is not None:
        refusal = (
            f"an amount of another paper's ({stranger!r}), and {whose}; say --paper NAME or FILE, "
            "or write a share (1/2, 50%)"
        )
        says = (
            f"ANOTHER PAPER: the plan is titled {stranger!r}, and {whose}. Its amounts of data are "
            f"refused without --paper NAME or FILE ({packaged_names('paper')})."
        )
        return Subject(kind="foreign", says=says, refusal=refusal), None
    if own is None:
        return Subject(says=f"Paper: none; {whose}, so only shares of data can be read."), None
    says = f"Paper: taken as {own.called}, the paper of {profiles}; the plan names none."
    return Subject(kind="assumed", says=says), own


def _given(given: Paper, where: str, named: dict[str, Paper], stranger: str | None) -> Subject:
    says = f"Paper: {given.called}, as --paper says"
    others = [paper.called for paper in named.values() if paper.id != given.id]
    if others and len(others) == len(named):
        says = f"ANOTHER PAPER: the plan's {where} names {' and '.join(others)}, and its amounts "
        says += f"are read as those of {given.called}, as --paper says"
    elif stranger is not None:
        says = f"ANOTHER PAPER: the plan is titled {stranger!r}, and its amounts are read as "
        says += f"those of {given.called}, as --paper says"
    return Subject(kind="given", says=says + ".")


# --- the papers that we know ----------------------------------------------------------------------


def _named(document: PlanDocument, papers: dict[str, Paper]) -> tuple[str, dict[str, Paper]]:
    """The papers that the title names, or else those of the text, and which of the two it was."""
    title = _title(document)
    in_title = {id: paper for id, paper in papers.items() if _is_named(paper, title, exact=False)}
    if in_title:
        return "title", in_title
    text = "\n".join(_texts(document))
    return "text", {id: paper for id, paper in papers.items() if _is_named(paper, text, exact=True)}


def _title(document: PlanDocument) -> str:
    # Pages write the paper's title as an identifier, with underscores for what is no letter.
    title = (document.paper_id or document.title or "").replace("_", " ").strip()
    return title[:LONGEST_TITLE]


def _texts(document: PlanDocument) -> Iterator[str]:
    yield document.trace
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
    if f" {fold(paper.title)} " in f" {fold(text)} ":
        return True
    flags = re.NOFLAG if exact else re.IGNORECASE
    # Neither in "InstructRetro", "RETRO++" and "Retro-li", other papers, nor in "retrofit".
    after = r"(?![\w+]|-(?!style|like|based|type|fit)\w)"
    return any(
        re.search(rf"(?<![\w-]){re.escape(name)}{after}", text, flags) for name in paper.names
    )


# --- titles of something else ---------------------------------------------------------------------


def _stranger(document: PlanDocument, profile: Profile, registry: Registry) -> str | None:
    """The title, where it is that of something which no paper here is."""
    title = _title(document)
    words = re.findall(r"[^\W_]+(?:-[^\W_]+)*", title)
    lists = _title_words()
    known = frozenset().union(*lists.values(), fold(profile.name).split(), _words_of(registry))
    unknown = [word for word in words if not _is_known(word, known)]
    if not unknown:
        return None
    own_work = any(word.casefold() in lists["work"] for word in words)
    own_work |= title.endswith("?") or words[0].casefold() in lists["asking"]
    # The third part of planner/model/paper says itself that it is a paper.
    is_paper = document.paper_id or any(_is_coined(word, title) for word in unknown)
    if is_paper or (unknown[0][0].isupper() and title.startswith(f"{unknown[0]}:")):
        return title
    if own_work:
        return None
    content = [word for word in words if word.casefold() not in lists["ordinary"]]
    in_title_case = (
        len(words) >= 4
        and title[:1].isupper()
        and len(words) / 2 <= sum(word[0].isupper() for word in words)
    )
    is_name = len(content) == 1 and content[0][0].isupper()
    return title if len(unknown) >= 2 or is_name or in_title_case else None


@functools.cache
def _title_words() -> dict[str, frozenset[str]]:
    file = resources.files("chunkwise.lab.resolve") / "titles.yaml"
    lists = parse_yaml(file.read_text(encoding="utf-8"), "titles.yaml")
    return {name: frozenset(words) for name, words in lists.items()}


def _words_of(registry: Registry) -> set[str]:
    names = [name for part in registry.components.values() for name in part.names]
    return {word for name in names for word in (*fold(name).split(), *normalise(name).split())}


def _is_known(word: str, known: Iterable[str]) -> bool:
    folded = fold(word).split()
    # "v2", "3" and "B" number a draft.
    longest = 2 if len(folded) == 1 else 1  # "li" of "Retro-li" is half a name
    return all(
        part in known or len(part) <= longest or re.search(r"^\w?\d+$", part) for part in folded
    )


def _is_coined(word: str, title: str) -> bool:
    """Whether a word is written as names are: "GaLore", "BERT", "Self-RAG"."""
    if title.isupper() and len(title.split()) > 1:
        return False  # "ABLATION PLAN" shouts, and names nothing
    return any(
        sum(letter.isupper() for letter in part) >= 2 or part[1:].lower() != part[1:]
        for part in word.split("-")
    )
