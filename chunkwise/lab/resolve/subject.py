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
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from typing import Literal

from chunkwise.core.config import Config, parse_yaml
from chunkwise.core.packs import packaged_files, packaged_names
from chunkwise.lab.plan.document import PlanDocument
from chunkwise.lab.plan.labels import is_data_label, is_paper_label
from chunkwise.lab.plan.text import fold
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.components import Registry, normalise
from chunkwise.lab.resolve.paper import Paper, load_paper

LONGEST_TITLE = 400  # characters; what follows is no title
SHOWN = 80  # characters of a title in a message

_NO_PAPER = {"", "none", "n a", "unknown", "not given", "null"}
# "Unlike InstructRetro" names what a plan is not about.
_UNLIKE = re.compile(
    r"\b(?:unlike|not|instead of|rather than|in contrast to|contrary to|other than|as opposed to)"
    r"\s+(?:(?:in|for|of|the|that)\s+){0,3}[\w+-]+",
    re.IGNORECASE,
)
_PLAN_OF = re.compile(
    r"\b(?:ablation|ablate|ablating|ablations)(?:\s+(?:plans?|study|studies|experiments?|of)){0,2}"
    r"\s*(?:[:–—-]\s*|\b(?:for|of|on|to|about)\s+)?[\w\"'`*+-]+(?:\s+[A-Z][\w+-]*|\s+\d\w*){0,6}",
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


def data_named(lines: Iterable[str]) -> tuple[str, ...]:
    """What lines such as "Dataset: SQuAD" name."""
    pairs = (line.partition(":") for line in lines)
    return tuple(
        value.strip("*_ ")
        for label, _, value in pairs
        if value.strip("*_ ") and is_data_label(label.strip("*_ "))
    )


def _subject_of(
    document: PlanDocument,
    profile: Profile,
    registry: Registry,
    given: Paper | None = None,
) -> tuple[Subject, Paper | None]:
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
        stranger = _stranger(document, profile, registry, any_paper=bool(named))
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
            f"ANOTHER PAPER: the plan is about {stranger!r}, and {whose}. Its amounts of data are "
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
        says = f"ANOTHER PAPER: the plan is about {stranger!r}, and its amounts are read as "
        says += f"those of {given.called}, as --paper says"
    return Subject(kind="given", says=says + ".")


# --- the papers that we know ----------------------------------------------------------------------


def _named(document: PlanDocument, papers: dict[str, Paper]) -> tuple[str, dict[str, Paper]]:
    """The papers that the title names, or else those of the text, and which of the two it was."""
    for where, head in (("paper line", _paper_line(document)), ("title", _title(document))):
        in_head = {id: paper for id, paper in papers.items() if _is_named(paper, head, exact=False)}
        if in_head:
            return where, in_head
        if where == "paper line" and head:
            return "text", {}
    text = "\n".join(_texts(document))
    return "text", {id: paper for id, paper in papers.items() if _is_named(paper, text, exact=True)}


def _title(document: PlanDocument) -> str:
    # Pages write the paper's title as an identifier, with underscores for what is no letter.
    title = (document.paper_id or document.title or "").replace("_", " ").strip()
    return title[:LONGEST_TITLE]


def _paper_line(document: PlanDocument) -> str:
    """The paper that the plan or an entry names below a label of its own."""
    lines = [document.paper]
    for entry in document.entries:
        for label, texts in entry.extra.items():
            lines += texts if is_paper_label(label) else ()
        for note in entry.notes:
            label, _, value = note.partition(":")
            lines += [value] if is_paper_label(label) else []
    said = [line.strip() for line in lines if fold(line) not in _NO_PAPER]
    return "; ".join(dict.fromkeys(said))[:LONGEST_TITLE]


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
    titles = [part for part in re.split(r"[:?]", paper.title) if len(part.split()) >= 5]
    if any(f" {fold(title)} " in f" {fold(text)} " for title in (paper.title, *titles)):
        return True
    flags = re.NOFLAG if exact else re.IGNORECASE
    # Neither in "InstructRetro", "RETRO++" and "Retro-li", other papers, nor in "retrofit".
    after = r"(?![\w+]|-(?!style|like|based|type|fit)\w)"
    return any(
        re.search(rf"(?<![\w-]){re.escape(name)}{after}", text, flags) for name in paper.names
    )


# --- titles of something else ---------------------------------------------------------------------


def _stranger(
    document: PlanDocument, profile: Profile, registry: Registry, *, any_paper: bool
) -> str | None:
    """What the plan is about, where no paper here is that.

    Args:
        any_paper: the text names a paper that we know, which says more than a phrase of its prose.
    """
    lists = _title_words()
    known = frozenset().union(*lists.values(), fold(profile.name).split(), _words_of(registry))
    if line := _paper_line(document):
        return line
    if title := _strange_title(_title(document), known, is_paper=bool(document.paper_id)):
        return title
    for text in () if any_paper else document.front:
        for phrase in _PLAN_OF.finditer(text[:LONGEST_TITLE]):
            words = re.findall(r"[^\W_]+(?:-[^\W_]+)*", phrase[0])
            # In prose a name has a capital; other words of it are any.
            has_name = any(word[0].isupper() and not _is_known(word, known) for word in words)
            has_name |= any(re.fullmatch(r"GPT-?\d\w*", word) for word in words)
            if has_name and _strange_title(phrase[0], known, is_paper=False):
                return phrase[0]
        if text.casefold().startswith("title:"):
            title = text.partition(":")[2].strip("*_ ")
            if _strange_title(title, known, is_paper=False):
                return title
    return None


def _strange_title(title: str, known: frozenset[str], *, is_paper: bool) -> str | None:
    """The title itself, where it is that of something which no paper here is."""
    words = re.findall(r"[^\W_]+(?:-[^\W_]+)*", title)
    lists = _title_words()
    # A retrofitted GPT-2 is one's own model; ablations of GPT-3 are those of a paper.
    is_own_model = bool(re.search(r"\bretrofit", title, re.IGNORECASE))
    unknown = [
        word
        for word in words
        if not _is_known(word, known)
        or (re.fullmatch(r"gpt-?\d\w*", word, re.IGNORECASE) and not is_own_model)
    ]
    if not unknown:
        return None
    own_work = any(word.casefold() in lists["work"] for word in words)
    own_work |= title.endswith("?") or words[0].casefold() in lists["asking"]
    # The third part of planner/model/paper says itself that it is a paper.
    is_paper = is_paper or any(_is_coined(word, title) for word in unknown)
    if is_paper or (unknown[0][0].isupper() and title.startswith(f"{unknown[0]}:")):
        return title
    content = [
        word
        for word in words
        if word.casefold() not in lists["ordinary"] and re.search(r"[^\W\d_]{2}", word)
    ]
    if own_work:
        # "Atlas ablations" and "ablations of atlas" are of a paper; "a stronger plan" is ours.
        is_named = any(
            _is_subject(place, words, title) for place, word in enumerate(words) if word in unknown
        )
        return title if is_named else None
    in_title_case = (
        len(words) >= 4
        and title[:1].isupper()
        and len(words) / 2 <= sum(word[0].isupper() for word in words)
    )
    is_name = len(content) == 1 and content[0][0].isupper()
    return title if len(unknown) >= 2 or is_name or in_title_case else None


def _is_subject(place: int, words: Sequence[str], title: str) -> bool:
    """Whether an unknown word of a title of one's own work is what the work is about."""
    word = words[place]
    if word in _behind_of(title):
        return True
    following = words[place + 1] if place + 1 < len(words) else ""
    if following.casefold().startswith("ablat"):
        return True
    # The first word has its capital for being the first, and in "A Title Like This" all have one.
    in_title_case = sum(each[0].isupper() for each in words) > len(words) / 2
    return place > 0 and word[0].isupper() and not in_title_case


def _behind_of(title: str) -> list[str]:
    """What ends a title behind "of", "for" or a colon, and what "ablating" is followed by."""
    name = r"[\"'`*_]*([^\W_]+(?:-[^\W_]+)*)[\"'`*_.]*(?:\s+\S+){0,2}$"
    return re.findall(rf"(?:\b(?:of|for)|:|^ablating)\s+{name}", title, re.IGNORECASE)


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
    if re.fullmatch(r"[a-pr-u]\d", word, re.IGNORECASE):
        return False  # "T5", "R1"
    return all(
        part in known or len(part) <= longest or re.search(r"^[vq]?\d+$", part) for part in folded
    )


def _is_coined(word: str, title: str) -> bool:
    """Whether a word is written as names are: "GaLore", "BERT", "Self-RAG"."""
    if title.isupper() and len(title.split()) > 1:
        return False  # "ABLATION PLAN" shouts, and names nothing
    return any(
        sum(letter.isupper() for letter in part) >= 2 or part[1:].lower() != part[1:]
        for part in word.split("-")
    ) or bool(re.fullmatch(r"[A-Z]\d\w*", word))
