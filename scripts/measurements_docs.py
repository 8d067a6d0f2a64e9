"""Write docs/measurements.md from the columns: python scripts/measurements_docs.py (a test checks that it was run)."""

from pathlib import Path

from chunkwise.lab.measure.table import COLUMNS

PAGE = Path(__file__).parent.parent / "docs" / "measurements.md"
HEAD = """# The table of measurements

Beside every report stand `measurements.parquet` and `measurements.csv`: one number a row, all that the report's
statistics start from. Written by `python scripts/measurements_docs.py`; do not edit.

| column | type | meaning |
|---|---|---|
"""
EXAMPLE = """
Differences are taken within a replicate, since arms of a replicate share their data order. The gain of retrieval over
the twin, replicate by replicate:

```python
import pyarrow.compute as pc
import pyarrow.parquet as pq

table = pq.read_table("runs/demo/measurements.parquet")
loss = table.filter((pc.field("metric") == "perplexity") & (pc.field("view") == "full"))
loss = loss.sort_by("replicate")
found = loss.filter((pc.field("arm") == "retro") & (pc.field("condition") == "on"))
twin = loss.filter((pc.field("arm") == "twin") & (pc.field("condition") == "none"))
print(pc.subtract(found["value"], twin["value"]))
```
"""


def render() -> str:
    """The page."""
    rows = [f"| `{name}` | {kind} | {meaning} |\n" for name, (kind, meaning) in COLUMNS.items()]
    return HEAD + "".join(rows) + EXAMPLE


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
