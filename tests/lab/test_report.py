"""The report: complete, the same bytes for the same input, safe, and the same numbers in all three files."""

import html as entities
import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest

from chunkwise.core.errors import ArtefactError
from chunkwise.lab.measure.analysis import analyse
from chunkwise.lab.measure.cuts import Chunks
from chunkwise.lab.measure.results import Check, PlanEntry, Run, StudyResults
from chunkwise.lab.measure.sides import Examples
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.names import Names
from chunkwise.lab.report.page import Row, Table
from chunkwise.lab.report.write import rewrite_report, write_report
from chunkwise.lab.resolve.resolution import ResolutionRow
from chunkwise.lab.terms import METRICS, Comparison, Look, Selector
from tests.lab.study_fixture import REMOVE, made_log, made_study


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(made_study(), made_log(), folder)
    return folder


def test_the_same_study_gives_the_same_bytes_and_results_know_no_time(report, tmp_path):
    later = made_log().model_copy(update={"date": "2027-01-01 00:00"})
    write_report(made_study(), later, tmp_path)
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (report, tmp_path))
    assert first["results"] == second["results"]
    assert first["run_log"] != second["run_log"]
    for path in sorted(p for p in report.rglob("*") if p.is_file()):
        again = (tmp_path / path.relative_to(report)).read_bytes()
        assert path.read_bytes() == again.replace(later.date.encode(), made_log().date.encode()), path.name


def test_contrasts_in_json_hold_what_readers_are_promised(report):
    contrasts = json.loads((report / "report.json").read_text())["results"]["contrasts"]
    promised = {"entry", "arm", "experiment", "metric", "n", "difference", "interval", "p_holm", "verdict"}
    assert all(promised <= contrast.keys() for contrast in contrasts)
    views = [contrast for contrast in contrasts if contrast["realised_fraction"]]
    assert {round(8 * view["realised_fraction"]) for view in views} == {4, 2, 1}
    assert "NaN" not in (report / "report.json").read_text()


def test_pages_can_be_rendered_again_from_the_json(report, tmp_path):
    rewrite_report(report / "report.json", tmp_path)
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes()


def test_another_json_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ArtefactError, match="not a report"):
        rewrite_report(tmp_path / "x.json", tmp_path)


def test_a_report_of_another_version_names_it(report, tmp_path):
    stored = json.loads((report / "report.json").read_text())
    stored["results"]["contrasts"][0]["interval_90"] = [0, 1]
    (tmp_path / "report.json").write_text(json.dumps(stored))
    with pytest.raises(ArtefactError, match=r"expected a report of this version, got one of 0\.1\.0 \(3f2a91c\)"):
        rewrite_report(tmp_path / "report.json", tmp_path / "out")


def test_the_page_needs_nothing_from_outside_and_stays_small(report):
    html = (report / "report.html").read_text()
    assert "<script" not in html and "@import" not in html
    addresses = set(re.findall(r"(?:src|href)=\"([^\"]+)\"", html))
    assert all(address.startswith("#") or address == "report.json" for address in addresses)
    assert not re.search(r"url\((?!#)", html)
    assert len(html) < 2_000_000
    assert not re.search(r"\bnan\b", html.lower())


def test_the_answer_table_stands_first_and_sections_follow_the_order(report):
    html = (report / "report.html").read_text()
    anchors = re.findall(r'<section id="([a-z]+)"', html)
    order = (
        "short answers open figures mechanism contributions exchange overlap resolution limits words questions parity "
        "noise runs integrity reproduce"
    )
    assert anchors == order.split()
    assert html.index('class="answers"') < html.index("<svg")


class _Wellformed(HTMLParser):
    VOID = {"meta", "br", "hr", "img", "link", "path", "use"}

    def __init__(self):
        super().__init__()
        self.open, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_ids_are_unique(report):
    parser = _Wellformed()
    parser.feed((report / "report.html").read_text().replace("<!doctype html>", ""))
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))


def test_every_figure_says_what_it_shows(report):
    html = (report / "report.html").read_text()
    assert html.count("<svg") == html.count('role="img"') == html.count("<figcaption")
    assert all("<title>" in svg for svg in re.findall(r"<svg.*?</svg>", html, flags=re.S))


def test_html_and_markdown_show_the_same_differences(report):
    html, markdown = ((report / name).read_text() for name in ("report.html", "report.md"))
    differences = re.findall(r"[+−]\d[\d.]* \[[^\]]+\] (?:nats|points)", html)
    assert len(differences) >= 20
    shown = markdown.replace("\\", "")
    assert all(difference in shown for difference in differences)


def test_text_of_a_plan_is_escaped(tmp_path):
    attack = "<script>alert(1)</script> | `x` $a$ {{ 7*7 }}"
    study = made_study()
    entry = study.entries[1].model_copy(update={"ablated_part": attack})
    comparisons = [
        one.model_copy(update={"label": attack}) if one.entry == REMOVE else one for one in study.comparisons
    ]
    study = study.model_copy(
        update={"title": attack, "entries": (study.entries[0], entry), "comparisons": tuple(comparisons)}
    )
    write_report(study, made_log(), tmp_path)
    html, markdown = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "<script" not in markdown and "49" not in html.split("</title>")[0]
    borders = 0
    attacked = 0
    for line in markdown.splitlines():
        count = len(re.findall(r"(?<!\\)\|", line))  # the pipe in the label is no border
        if line.startswith("|---") or line.startswith("| ---"):
            borders = count
        elif line.startswith("| &lt;script"):
            attacked += 1
            assert count == borders
    assert attacked >= 2


def test_an_almost_empty_study_shows_what_it_has(tmp_path):
    study = StudyResults(
        title="t", source_digest="d", profile="laptop", replicates=1,
        entries=(PlanEntry(name="e", ablated_part="x", action="REMOVE"),),
        resolution=(
            ResolutionRow(entry="e", words="x", status="unresolved"),
            ResolutionRow(entry="e", words="y", status="left-out", warnings=("profile laptop leaves it out: slow",)),
        ),
        runs=(Run(arm="a", replicate=0, status="failed", failure="divergence: loss is not finite at step 12"),),
        checks=(Check(name="same examples in all arms", passed=False, detail="2 digests"),),
    )  # fmt: skip
    write_report(study, made_log(), tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert re.findall(r'<section id="([a-z]+)"', html) == ["resolution", "runs", "integrity", "reproduce"]
    for banner in ("an anecdote", "written (unresolved): &#39;x&#39; of &#39;e&#39;", "1 of 1 runs failed",
                   "Check failed: same examples in all arms", "Left out: &#39;y&#39; of &#39;e&#39;",
                   "profile laptop leaves it out: slow"):  # fmt: skip
        assert banner in html


def test_one_and_ten_replicates_render_too(tmp_path):
    for replicates in (1, 10):
        write_report(made_study(replicates), made_log(), tmp_path / str(replicates))
    one, ten = ((tmp_path / n / "report.md").read_text() for n in ("1", "10"))
    assert "anecdote" in one and "Holm p 0" not in one
    assert "Sign-flip p" in ten and "Exploratory" not in ten


# --- words and numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567.0, "1,230,000"), (0.0123456, "0.0123"), (-2.5, "−2.50"), (0, "0"), (99.96, "100.0"), (None, None)],
)
def test_three_significant_figures(value, text):
    assert say.number(value) == text


def test_the_interval_decides_the_digits():
    assert say.estimate(0.05234, (0.0312, 0.0735)) == "+0.052 [+0.031, +0.073]"
    assert say.estimate(-0.1303, (-0.137, -0.124), 100) == "−13.03 [−13.70, −12.40]"
    assert say.estimate(0.5, None) == "+0.500"
    assert say.estimate(None, None) is None


def test_means_are_shown_as_readers_know_them():
    assert say.level(METRICS["perplexity"], 3.4) == "3.400 (30.0)"
    assert say.familiar(METRICS["choice_accuracy"], 0.3514) == "35.1 %"
    assert say.threshold(METRICS["choice_accuracy"]) == "1 point"
    assert say.count(1_234_567) == "1.23 M" and say.count(999) == "999"


def test_two_entries_on_the_size_have_a_figure_each(tmp_path):
    study = made_study()
    again = tuple(one.model_copy(update={"entry": "Size again"}) for one in study.comparisons if one.fraction)
    entries = (*study.entries, study.entries[0].model_copy(update={"name": "Size again"}))
    twice = {"comparisons": (*study.comparisons, *again), "entries": entries}
    write_report(study.model_copy(update=twice), made_log(), tmp_path)
    names = sorted(path.stem for path in (tmp_path / "figures").glob("dose-response-*"))
    assert names == [f"dose-response-{experiment}" for experiment in ("retrain", "retrain-2", "swap", "swap-2")]


def test_a_row_says_at_which_look_it_stopped_and_has_the_interval_of_that_look(tmp_path):
    looks = (Look(replicates=3, spent=0.2, open=("an entry: an arm",)), Look(replicates=6, spent=0.8))
    study = made_study(6)
    cells = tuple(cell for cell in study.cells if cell.replicate < 3)
    first = study.model_copy(update={"cells": cells, "replicates": 3, "looks": looks, "look": 1})
    before = analyse(first).contrasts
    last = study.model_copy(update={"looks": looks, "look": 2})
    analysis = write_report(last, made_log(), tmp_path, before=before)
    assert {one.look for one in analysis.contrasts if one.family == "primary"} == {1, 2}
    text = (tmp_path / "report.md").read_text()
    assert "Sequential: look 2 of 2 (after 3, 6 replicates, which spend 1, 4 of 5 % of error)" in text
    assert "After 3 these went on: an entry: an arm." in text
    # Five primary tests: 5 % x 0.2 / 5 at the first look, 5 % x 0.8 / 5 at the second, which heads the column.
    rows = [line for line in text.splitlines() if "3, stopped at look 1 of 2" in line]
    assert rows and "Difference \\[99.2 % interval\\]" in text
    removed = next(line for line in rows if "perplexity" in line and "cross-attention" in line)
    assert "interval of 99.8 %" in removed
    open_row = next(line for line in text.splitlines() if line.startswith("| Neighbours in the prompt"))
    assert "stopped" not in open_row and "| 6 |" in open_row and "interval of" not in open_row
    rewrite_report(tmp_path / "report.json", tmp_path / "again")
    assert (tmp_path / "again" / "report.html").read_bytes() == (tmp_path / "report.html").read_bytes()


def test_a_level_is_never_rounded_up_to_certainty():
    assert [say.level_words(level) for level in (0.95, 0.9833, 0.99986, 0.9999996, 1.0)] == [
        "95 %", "98.3 %", "99.99 %", "99.99996 %", "100 %"
    ]  # fmt: skip


# --- what a page says, and how briefly --------------------------------------------------------------------------


def _words(html: str, *, folded: bool) -> int:
    body = re.sub(r"<svg.*?</svg>", "", html[html.index("<body>") :], flags=re.S)
    if not folded:
        body = re.sub(r"(</summary>).*?(</details>)", r"\1\2", body, flags=re.S)
    return len(entities.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_reader_meets_half_as_many_words_as_before_this_was_counted(report):
    html = (report / "report.html").read_text()
    assert _words(html, folded=False) < 3115 * 0.68
    assert _words(html, folded=True) < 4019 * 0.8


def test_a_size_of_the_plan_never_stands_without_the_tokens_that_ran(report):
    page = (report / "report.md").read_text()
    figures = [path.read_text() for path in (report / "figures").glob("*.svg")]
    # The plan's own words stand where they are quoted as such.
    quoted = r"^(- Asked.*|## (How the plan was read|Reproduce)\n(.|\n)*?(?=^## |\Z))"
    page = re.sub(quoted, "", page, flags=re.M)
    for text in (page, *figures):
        assert "600B tokens" not in text
    sizes = [view.tokens for view in made_study().views if view.view == "1/2"]
    name = f"{float(f'{np.mean(sizes) / 1e6:.3g}'):g}M tokens (the plan's 600B, 1/2)"
    assert page.count(name) >= 4
    assert any(name in entities.unescape(text) for text in figures)


def _named(label: str, *, entry: str = "Depth", part: str = "encoder depth", **fields: object) -> Names:
    arm = Selector(arm="x")
    one = Comparison(entry=entry, label=label, done="d", arm=arm, baseline=Selector(arm="retro"), metrics=(), **fields)
    entries = (PlanEntry(name=entry, ablated_part=part, action="REPLACE"),)
    study = StudyResults(
        title="t", source_digest="d", profile="p", replicates=1, entries=entries, comparisons=(one,)
    )  # fmt: skip
    return Names(study)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("4", "encoder depth: 4"),
        ("1/4", "encoder depth: 1/4"),
        ("REMOVE gates", "without gates"),
        ("ADD gates", "with gates"),
        ("one middle layer", "one middle layer"),
        ("REMOVE gates, second meaning", "d"),
    ],
)
def test_arms_are_named_for_people(label, name):
    assert _named(label).arm("Depth", label) == name


def test_two_entries_with_one_word_are_told_apart():
    one, two = (_named("on", entry=entry, part=part).study for entry, part in (("A", "gate"), ("B", "dedup")))
    other = two.comparisons[0].model_copy(update={"arm": Selector(arm="y")})
    study = one.model_copy(update={"comparisons": (*one.comparisons, other), "entries": (*one.entries, *two.entries)})
    assert (Names(study).arm("A", "on"), Names(study).arm("B", "on")) == ("gate: on", "dedup: on")


def test_rows_and_groups_without_a_value_are_not_printed():
    rows = [Row(["a"], "group"), Row(["x", None, ""]), Row(["b"], "group"), Row(["y", "1", None]), Row(["c"], "group")]
    table = Table(["name", "value", "other"], rows).tidy()
    assert [list(row.cells) for row in table.rows] == [["b"], ["y", "1"]]
    assert table.headers == ["name", "value"]
    assert not Table(["name", "value"], [Row(["x", None])]).tidy().rows


def _tables(markdown: str) -> list[list[str]]:
    """Lines of each table of answers."""
    return [block.splitlines() for block in re.split(r"\n\n", markdown) if block.startswith("| What was changed")]


def _half_at_chance() -> StudyResults:
    """Retro and one of its variants at chance, which is not tested, in a family whose others are clear of it."""
    at_chance = {
        Selector(arm="retro", condition="both"): (0.249, 0.251, 0.250),
        Selector(arm="retro-mid", condition="both"): (0.252, 0.249, 0.253),
    }
    cells = []
    for cell in made_study().cells:
        if cell.metric == "choice_accuracy":
            value = cell.value + 0.2
            if cell.at in at_chance:
                value = at_chance[cell.at][cell.replicate]
            cell = cell.model_copy(update={"value": value})
        cells.append(cell)
    return made_study().model_copy(update={"cells": tuple(cells)})


def test_intervals_of_one_table_have_one_level(tmp_path):
    study = _half_at_chance()
    analysis = write_report(study, made_log(), tmp_path)
    tables = _tables((tmp_path / "report.md").read_text().replace("\\", ""))
    (untested,) = (one for one in analysis.contrasts if one.verdict == "no signal")
    # Its own interval is one of 95 %, and those beside it are corrected.
    assert untested.interval and untested.level == 0.95
    for contrast in analysis.contrasts:
        text = say.with_unit(contrast.difference, contrast.interval, study.metric(contrast.metric))
        level = f"[{say.level_words(contrast.level)} interval]"
        shown = [table[0] for table in tables if any(text in line for line in table)]
        assert not shown if contrast is untested else any(level in head for head in shown)


def test_every_interval_on_the_page_stands_in_the_json(report):
    """Of both signs and to the printed digit: nothing on the page is computed beside the results."""
    pairs: list[tuple[float, float]] = []

    def collect(value: object) -> None:
        if isinstance(value, dict):
            for one in value.values():
                collect(one)
        elif isinstance(value, list):
            if len(value) == 2 and all(isinstance(one, float) for one in value):
                pairs.append((value[0], value[1]))
            for one in value:
                collect(one)

    collect(json.loads((report / "report.json").read_text())["results"])
    page = (report / "report.md").read_text().replace("\\", "").replace("−", "-")
    page = re.sub(r"^## Gain by overlap\n(.|\n)*?(?=^## )", "", page, flags=re.M)  # means of rows that stand there
    shown = re.findall(r"\[([+-]?[\d.]+), ([+-]?[\d.]+)\]", page)
    assert len(shown) > 30
    for low, high in shown:
        half = 0.51 * 10.0 ** -len(low.partition(".")[2])
        scaled = [(factor * a, factor * b) for a, b in pairs for factor in (1, 100)]
        scaled += [(100 * (1 - b), 100 * (1 - a)) for a, b in pairs]  # kept of a gain: what is not lost
        assert any(abs(a - float(low)) <= half and abs(b - float(high)) <= half for a, b in scaled), (low, high)


def test_a_value_on_a_narrow_screen_has_its_header_and_print_opens_the_folds(report):
    html = (report / "report.html").read_text()
    body = html[html.index("<main>") :]
    values = re.findall(r"<td([^>]*)>", body)
    assert len(values) > 200
    assert all("data-label=" in value or 'class="none' in value for value in values)
    print_css = html[html.index("@media print") :].partition("</style>")[0]
    assert "details::details-content { content-visibility: visible" in print_css
    folded = re.findall(r'<section id="([a-z]+)"[^>]*>\s*<details>', html)
    assert {"runs", "reproduce", "noise"} <= set(folded) and "answers" not in folded


def _noisy(row):
    """Examples whose mean is the value of the row, in 20 groups."""
    if row.metric not in ("perplexity", "choice_accuracy"):
        return None
    random = np.random.default_rng(sum(map(ord, f"{row.arm}{row.condition}{row.view}{row.replicate}")))
    noise = random.normal(0, 0.1, 60)
    return Examples(row.value + noise - noise.mean(), np.ones(60), np.arange(60) // 3)


def test_a_dose_response_shows_both_intervals(report, tmp_path):
    write_report(made_study(), made_log(), tmp_path, examples=_noisy)
    both, alone = ((folder / "figures" / "dose-response-swap.svg").read_text() for folder in (tmp_path, report))
    assert "interval over replicates and documents" in both and "interval over replicates alone" in both
    # Without examples there is one interval, and it is named for what it holds.
    assert ">interval over replicates<" in alone and "documents" not in alone


def test_figures_keep_room_for_their_axes_however_wide_an_interval(tmp_path):
    """Two replicates have intervals of any width; a label at the end of one once pushed the axes out of the figure."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout")
        write_report(made_study(2, noise=0.5), made_log(), tmp_path)


def test_a_view_that_is_too_small_is_not_called_broken(tmp_path):
    write_report(made_study(halving=0.06), made_log(), tmp_path)  # an eighth costs 0.18 of a gain of 0.15
    text = (tmp_path / "report.md").read_text().replace("\\", "")
    rows = [line for line in text.splitlines() if "Too small: it is worse than the twin" in line]
    assert rows and all("1/8" in row and "Broken" not in row for row in rows)
    assert "with the full datastore it is not (30" in rows[0]
    assert re.search(r"With datastores too small to help, .* retrieves: [^:]*1/8\)\.", text)


def test_the_slope_stands_among_the_answers_on_parts_of_the_text(tmp_path):
    tokens = np.array([3.0, 4, 3, 4])
    clean = np.array([True, True, False, False])

    def chunks(row):
        nats = tokens * (row.value + np.array([0.01, 0.02, 0.0, -0.01]))
        groups = np.array(["a", "b", "c", "c"])
        return Chunks(nats=nats, tokens=tokens, groups=groups, can_read=clean, clean=clean, shared=tokens / 10)

    write_report(made_study(), made_log(), tmp_path, chunks=chunks)
    text = (tmp_path / "report.md").read_text()
    section = text.partition("## The answers on parts of the text")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert rows.index("Each halving of the datastore") < next(i for i, name in enumerate(rows) if "1/2" in name)
    # Its own row opens the report: the slope is the first answer that holds.
    assert "each halving of the datastore changes perplexity by" in text.partition("## Answers")[0]
