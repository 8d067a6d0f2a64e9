"""Write docs/families.md: python scripts/families_docs.py. It tries everything that the page says, for some minutes.

tests/model/test_families.py holds what is tried, and checks that this was run.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from tests.model.test_families import PAGE, render

    PAGE.write_text(render(), encoding="utf-8")
