"""The report: complete, the same bytes for the same input, safe, and the same numbers in all three files."""

import json
import re
from html.parser import HTMLParser

import pytest

from chunkwise.core.errors import ArtefactError
from chunkwise.lab.measure.results import Check, PlanEntry, Run, StudyResults
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.write import rewrite_report, write_report
from chunkwise.lab.resolve.resolution import ResolutionRow
from chunkwise.lab.terms import METRICS
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
        "short answers reading figures mechanism contributions exchange overlap questions resolution parity noise runs"
    )
    assert anchors == [*order.split(), "integrity", "limits", "reproduce"]
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
    for banner in ("an anecdote", "is unresolved", "1 of 1 runs failed", "Check failed: same examples in all arms",
                   "profile laptop leaves it out: slow."):  # fmt: skip
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
