"""The table of measurements: every number of the study, once, with both standard errors."""

import csv
import importlib.util
import math
import re
from pathlib import Path

import pyarrow.parquet
import pytest

from chunkwise.lab.measure.results import Measurement
from chunkwise.lab.measure.table import COLUMNS, CSV, PARQUET, rows_of, write_table
from chunkwise.lab.terms import Selector
from tests.lab.study_fixture import made_study

ROOT = Path(__file__).parent.parent.parent


def test_every_measurement_is_a_row(tmp_path):
    study = made_study()
    write_table(study, tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / PARQUET)
    assert table.column_names == list(COLUMNS) and table.num_rows == len(study.cells)
    with open(tmp_path / CSV, newline="") as file:
        lines = list(csv.DictReader(file))
    for row, line, cell in zip(table.to_pylist(), lines, study.cells, strict=True):
        assert (row["arm"], row["condition"], row["view"]) == (cell.at.arm, cell.at.condition, cell.at.view)
        assert (row["metric"], row["replicate"], row["value"]) == (cell.metric, cell.replicate, cell.value)
        assert {name: "" if value is None else str(value) for name, value in row.items()} == line


def test_both_standard_errors_worked_by_hand():
    at = Selector(arm="retro")
    cells = tuple(
        Measurement(at=at, replicate=number, metric="perplexity", value=value, standard_error=0.5, examples=7)
        for number, value in enumerate((1.0, 2.0, 4.0, None))
    )
    study = made_study().model_copy(update={"cells": cells})
    rows = rows_of(study)
    # The mean is 7/3, the squared distances add to 42/9, so s = sqrt(7/3) and s / sqrt(3) = sqrt(7)/3.
    assert [row["standard_error_replicates"] for row in rows] == pytest.approx([math.sqrt(7) / 3] * 4)
    assert {row["replicates"] for row in rows} == {3} and rows[3]["value"] is None
    assert rows[0]["standard_error_examples"] == 0.5 and rows[0]["examples"] == 7
    alone = rows_of(study.model_copy(update={"cells": cells[:1]}))
    assert alone[0]["standard_error_replicates"] is None and alone[0]["replicates"] == 1


def test_units_are_those_of_the_values():
    units = {row["metric"]: row["unit"] for row in rows_of(made_study())}
    assert units["perplexity"] == "nats per token" and units["choice_accuracy"] == "share"
    shares = [row["value"] for row in rows_of(made_study()) if row["unit"] == "share" and row["value"] is not None]
    assert shares and all(0 <= value <= 1 for value in shares)


def test_the_page_is_up_to_date_and_its_example_runs(tmp_path):
    spec = importlib.util.spec_from_file_location("measurements_docs", ROOT / "scripts" / "measurements_docs.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    assert page == script.render(), "run: python scripts/measurements_docs.py"
    study = made_study()
    write_table(study, tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scope = {}
    exec(code.replace("runs/demo", str(tmp_path)), scope)
    value = {(cell.at, cell.replicate): cell.value for cell in study.cells if cell.metric == "perplexity"}
    expected = [
        value[Selector(arm="retro"), number] - value[Selector(arm="twin", condition="none"), number]
        for number in range(study.replicates)
    ]
    difference = scope["pc"].subtract(scope["found"]["value"], scope["twin"]["value"]).to_pylist()
    assert difference == pytest.approx(expected)
