"""The page of the mechanism's experiment says what the committed reports say."""

import shutil
from pathlib import Path

from experiments import mechanism

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results" / "mechanism"


def test_the_page_is_made_of_the_reports(tmp_path):
    for form in mechanism.FORMS:
        shutil.copyfile(RESULTS / f"{form}.json", tmp_path / f"{form}.json")
    mechanism.render(tmp_path)
    for name in ("README.md", "summary.json"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (RESULTS / name).read_text(encoding="utf-8")
