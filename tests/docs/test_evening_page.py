"""The page of the profile `evening` says what its committed report says."""

import json
import re
import shutil
from pathlib import Path

import pytest

from experiments import evening_page

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results" / "evening"


def test_the_page_is_made_of_the_report(tmp_path):
    shutil.copyfile(RESULTS / "report.json", tmp_path / "report.json")
    evening_page.render(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == (RESULTS / "README.md").read_text(encoding="utf-8")


def test_every_row_beside_a_paper_is_measured():
    results = json.loads((RESULTS / "report.json").read_text(encoding="utf-8"))["results"]
    table = evening_page.beside_table_13(evening_page.TABLE_13, results)
    assert len(table["rows"]) == len(evening_page.TABLE_13) == 8
    for arm, condition, _ in evening_page.QUESTIONS.values():
        assert len(evening_page.accuracy(results, arm, condition)) == results["replicates"]


def test_the_order_of_the_rows_worked_by_hand():
    contrasts = [
        {"metric": "perplexity", "entry": "k", "arm": "1", "baseline_mean": 2.0, "difference": 0.3},
        {"metric": "perplexity", "entry": "k", "arm": "4", "baseline_mean": 2.0, "difference": -0.1},
        {"metric": "perplexity", "entry": "c", "arm": "x", "baseline_mean": 2.0, "difference": 0.1},
        {"metric": "perplexity", "entry": "c", "arm": "y", "baseline_mean": 2.0, "difference": 0.2},
        {"metric": "choice_accuracy", "entry": "k", "arm": "1", "baseline_mean": 0.5, "difference": 0.0},
    ]
    facts = {"interval": None, "level": None, "p_holm": None, "verdict": "matters"}
    results = {"contrasts": [one | facts for one in contrasts]}
    published = {"": ("b", 0.8), "k: 1": ("1", 0.9), "k: 4": ("4", 0.7), "x": ("x", 0.82), "y": ("y", 0.81)}
    table = evening_page.beside_table_13(published, results)
    # Ours: 4, baseline, x, y, 1; the paper's: 4, baseline, y, x, 1. Of ten pairs one is the other way round.
    assert table["kendall_tau"] == pytest.approx(0.8)
    assert [row["nats_per_token"] for row in table["rows"]] == pytest.approx([2.0, 2.3, 1.9, 2.1, 2.2])


def test_the_readme_repeats_what_the_page_says():
    readme = (RESULTS.parents[2] / "README.md").read_text(encoding="utf-8").replace("−", "-")
    section = readme.partition("## What it depends on")[2].partition("\n## ")[0]
    page = (RESULTS / "README.md").read_text(encoding="utf-8").replace("−", "-")
    differences = re.findall(r"[+-]\d\.\d{3} \[[^\]]+\]|(?:[+-]\d\.\d{3}, ){2}[+-]\d\.\d{3}(?!\])", section)
    assert len(differences) > 20
    for difference in differences:
        assert difference in page, difference
    for accuracy in re.findall(r"\d\d\.\d %", section):
        assert accuracy in page, accuracy
