"""docs/stages.md is what the declarations say."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def script():
    spec = importlib.util.spec_from_file_location("stages_docs", ROOT / "scripts" / "stages_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date():
    page = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
    assert page == script().render(), "run: python scripts/stages_docs.py"
