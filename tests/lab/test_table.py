"""The table of measurements: every number of the study, once, with both standard errors."""

import csv
import importlib.util
import math
import re
from pathlib import Path

import pyarrow.parquet
import pytest

from chunkwise.lab.measure.results import Measurement
from chunkwise.lab.measure.table import (
    COLUMNS,
    CSV,
    PARQUET,
    TRAINING,
    VALIDATION_LOSS,
    Measurements,
    rows_of,
    write_table,
)
from chunkwise.lab.terms import Selector
from tests.lab.study_fixture import made_study

ROOT = Path(__file__).parent.parent.parent


def test_every_measurement_is_a_row(tmp_path):
    study = made_study()
    write_table(study, tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / PARQUET)
    readings = sum(len(curve.points) for curve in study.curves)
    assert table.column_names == list(COLUMNS) and table.num_rows == len(study.cells) + readings
    with open(tmp_path / CSV, newline="") as file:
        lines = list(csv.DictReader(file))
    for row, line in zip(table.to_pylist(), lines, strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == line
    for row, cell in zip(table.to_pylist(), study.cells, strict=False):  # readings during training stand last
        assert (row["arm"], row["condition"], row["view"]) == (cell.at.arm, cell.at.condition, cell.at.view)
        assert (row["metric"], row["replicate"], row["value"]) == (cell.metric, cell.replicate, cell.value)
        assert row["train_tokens"] is None and row["condition"] != TRAINING


def test_readings_during_training_are_rows_of_their_own():
    study = made_study()
    rows = [row for row in rows_of(study) if row.condition == TRAINING]
    points = [(curve.arm, curve.replicate, point) for curve in study.curves for point in curve.points]
    for row, (arm, replicate, point) in zip(rows, points, strict=True):
        assert (row.arm, row.replicate, row.metric) == (arm, replicate, VALIDATION_LOSS)
        assert (row.train_tokens, row.value) == (point.tokens, point.validation_loss)
    measurements = Measurements(rows_of(study))
    first = study.curves[0]
    curve = measurements.curve(first.arm, first.replicate)
    assert curve == sorted((point.tokens, point.validation_loss) for point in first.points if point.tokens)
    assert measurements.curve("nobody", 0) == []
    # They are no measurements of the arm at its end.
    assert measurements.values(VALIDATION_LOSS, Selector(arm="retro", condition=TRAINING))[0].size == 0


def test_the_table_is_paired_over_the_replicates_that_all_have():
    retro, twin, other = (Selector(arm=name) for name in ("retro", "twin", "other"))
    cells = [
        Measurement(at=at, replicate=replicate, metric="perplexity", value=value)
        for at, values in {retro: [3.0, 3.1, 3.2, 3.3], twin: [3.5, None, 3.7, 3.8], other: [1.0, 2.0, 3.0]}.items()
        for replicate, value in enumerate(values)
    ]
    measurements = Measurements(rows_of(made_study().model_copy(update={"cells": tuple(cells), "curves": ()})))
    columns, replicates = measurements.complete("perplexity", retro, twin, other)
    assert replicates == [0, 2]
    assert [[row.value for row in column] for column in columns] == [[3.0, 3.2], [3.5, 3.7], [1.0, 3.0]]
    assert [values.tolist() for values in measurements.values("perplexity", twin, retro)] == [
        [3.5, 3.7, 3.8],
        [3.0, 3.2, 3.3],
    ]
    assert measurements.complete("perplexity", retro, Selector(arm="nobody")) == ([[], []], [])
    assert measurements.complete("f1", retro) == ([[]], [])


def test_shares_of_a_view_are_what_it_came_out_as():
    study = made_study()
    measurements = Measurements(rows_of(study))
    known = {(view.view, view.replicate): view.realised_fraction for view in study.views}
    assert measurements.fraction("full", 0) == 1.0
    assert measurements.fraction("1/4", 1, target=0.25) == known["1/4", 1] != 0.25
    assert measurements.fraction("nowhere", 1) is None
    assert measurements.fraction("nowhere", 1, target=0.3) == 0.3
    at = [Selector(arm="retro"), Selector(arm="retro", view="1/2"), Selector(arm="retro", view="nowhere")]
    fractions = measurements.fractions([2, 0], at, [None, 0.5, None])
    assert fractions[:, 1].tolist() == [known["1/2", 2], known["1/2", 0]]
    assert fractions[:, 0].tolist() == [1, 1] and all(math.isnan(value) for value in fractions[:, 2])


def test_places_have_names():
    measurements = Measurements(rows_of(made_study()))
    names = {
        Selector(arm="retro"): "Retro",
        Selector(arm="retro", condition="off"): "Retro (off)",
        Selector(arm="retro", condition="both", view="1/2"): "Retro on 1/2",
        Selector(arm="twin", condition="none"): "Twin",
        Selector(arm="nobody", condition="prompt"): "nobody (prompt)",
    }
    assert {at: measurements.name(at) for at in names} == names


def test_both_standard_errors_worked_by_hand():
    at = Selector(arm="retro")
    cells = tuple(
        Measurement(at=at, replicate=number, metric="perplexity", value=value, standard_error=0.5, examples=7)
        for number, value in enumerate((1.0, 2.0, 4.0, None))
    )
    study = made_study().model_copy(update={"cells": cells, "curves": ()})
    rows = rows_of(study)
    # The mean is 7/3, the squared distances add to 42/9, so s = sqrt(7/3) and s / sqrt(3) = sqrt(7)/3.
    assert [row.standard_error_replicates for row in rows] == pytest.approx([math.sqrt(7) / 3] * 4)
    assert {row.replicates for row in rows} == {3} and rows[3].value is None
    assert rows[0].standard_error_examples == 0.5 and rows[0].examples == 7
    alone = rows_of(study.model_copy(update={"cells": cells[:1]}))
    assert alone[0].standard_error_replicates is None and alone[0].replicates == 1


def test_units_are_those_of_the_values():
    units = {row.metric: row.unit for row in rows_of(made_study())}
    assert units["perplexity"] == units[VALIDATION_LOSS] == "nats per token" and units["choice_accuracy"] == "share"
    shares = [row.value for row in rows_of(made_study()) if row.unit == "share" and row.value is not None]
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
