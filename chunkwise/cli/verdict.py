"""`chunkwise verdict`: whether a difference between other people's runs holds."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from chunkwise.cli.options import JsonOption

if TYPE_CHECKING:
    from chunkwise.lab.verdict.judge import Outcome

RunsArgument = Annotated[
    list[str],
    Argument(
        metavar="RUNS",
        help=(
            "One table with all arms, or a file, folder or quoted pattern for each arm: the first "
            "is the baseline."
        ),
    ),
]
BaselineOption = Annotated[
    str | None, Option(help="The arm that others are compared with. Default: the first one.")
]
ArmOption = Annotated[
    list[str] | None, Option("--arm", help="Compare this arm; repeatable. Default: all.")
]
MetricOption = Annotated[
    list[str] | None,
    Option("--metric", help="Metric, or column of a wide table; repeatable, the first decides."),
]
ThresholdOption = Annotated[
    list[str] | None,
    Option(
        "--threshold",
        metavar="[METRIC=]VALUE",
        help=(
            "Smallest difference that counts, in the unit of the values; 0: any. Needed where the "
            "metric's name does not say."
        ),
    ),
]
BetterOption = Annotated[
    bool | None,
    Option(
        "--higher-is-better/--lower-is-better",
        help="Which way the deciding metric improves. Needed where its name does not say.",
    ),
]
AlphaOption = Annotated[
    float, Option(min=0.0001, max=0.4, help="Error rate of the whole family of comparisons.")
]
StepOption = Annotated[
    float | None, Option(help="Step at which exported curves are read. Default: the last one.")
]
RunNamesOption = Annotated[
    str | None,
    Option(
        metavar="PATTERN",
        help="How runs are named, as {arm}-{seed}. Default: a seed is spelt out, as in base-seed3.",
    ),
]
ColumnOption = Annotated[
    list[str] | None,
    Option(
        "--column",
        metavar="ROLE=NAME",
        help=(
            "A column by another name: arm, seed, metric, value, example, group, weight or unit; "
            "repeatable."
        ),
    ),
]
JsonFileOption = Annotated[Path | None, Option("--out", help="Also write the JSON to this file.")]


def verdict(
    runs: RunsArgument,
    baseline: BaselineOption = None,
    arm: ArmOption = None,
    metric: MetricOption = None,
    threshold: ThresholdOption = None,
    higher: BetterOption = None,
    alpha: AlphaOption = 0.05,
    step: StepOption = None,
    run_names: RunNamesOption = None,
    column: ColumnOption = None,
    out: JsonFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a difference between runs holds: runs of anything, paired by seed, with the
    statistics and words of a study's report.

    Reads tables (CSV, TSV, JSON lines, Parquet) with the columns arm, seed, metric, value and,
    where known, example, group and weight, or with a column a metric; lm-evaluation-harness
    samples; W&B and TensorBoard exports (docs/verdict.md).

    Exit 0: keep, every arm is better and the difference counts. 3: undecided. 4: discard, every arm
    is worse or makes no difference that counts. 1 and 2 are errors.

    \b
    Example:
      chunkwise verdict runs.csv --baseline base --metric loss --lower-is-better --threshold 0.01
      chunkwise verdict evals/base evals/changed --metric arc_easy/acc
    """
    from chunkwise.core.io import write_json
    from chunkwise.lab.verdict.forms import Reader, columns_named
    from chunkwise.lab.verdict.judge import Question, judge_runs
    from chunkwise.lab.verdict.names import RunNames, places
    from chunkwise.lab.verdict.words import as_json as plain

    reader = Reader(
        RunNames(run_names),
        columns_named(column or ()),
        metrics=tuple(metric or ()),
        step=step,
    )
    question = Question(
        baseline=baseline,
        metrics=tuple(metric or ()),
        arms=tuple(arm or ()),
        thresholds=_thresholds(threshold or ()),
        better=None if higher is None else "higher" if higher else "lower",
        alpha=alpha,
    )
    outcome = judge_runs(reader.read(places(runs)), question)
    for line in (*outcome.notes, *outcome.remarks):
        print(line, file=sys.stderr)
    if out:
        write_json(out, plain(outcome))
    if as_json:
        from chunkwise.cli.output import print_json

        print_json(plain(outcome))
    else:
        _print(outcome)
    raise typer.Exit(outcome.decision.exit_code)


def _thresholds(settings: Sequence[str]) -> dict[str | None, float]:
    """Metric -> smallest difference that counts; None stands for the metric that decides."""
    from chunkwise.core.errors import ConfigError
    from chunkwise.lab.verdict.files import parse_number

    thresholds: dict[str | None, float] = {}
    for setting in settings:
        # Names may hold an equals sign; the value is what follows the last one.
        metric, _, text = setting.rpartition("=")
        value = parse_number(text)
        if value is None or not 0 <= value < float("inf"):
            raise ConfigError(
                f"--threshold: expected VALUE or METRIC=VALUE, 0 or more, got {setting!r}"
            )
        if (metric or None) in thresholds:
            raise ConfigError(f"--threshold: expected one for {metric or 'the metric'}, got two")
        thresholds[metric or None] = value
    return thresholds


def _print(outcome: "Outcome") -> None:
    from chunkwise.cli.output import print_columns
    from chunkwise.lab.verdict.words import paragraphs, table

    typer.echo(f"baseline: {outcome.baseline}")
    print_columns(table(outcome))
    typer.echo()
    for paragraph in paragraphs(outcome):
        typer.echo(paragraph)
