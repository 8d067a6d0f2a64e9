"""`chunkwise verdict`: whether a difference between other people's runs holds."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from chunkwise.cli.options import JsonOption

if TYPE_CHECKING:
    from chunkwise.lab.verdict.forms import Reader
    from chunkwise.lab.verdict.judge import Outcome, Question

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


@dataclass(frozen=True)
class VerdictOptions:
    """The options of `verdict`, in the order of its help."""

    baseline: Annotated[
        str | None, Option(help="The arm that others are compared with. Default: the first one.")
    ] = None
    arm: Annotated[
        list[str] | None, Option("--arm", help="Compare this arm; repeatable. Default: all.")
    ] = None
    metric: Annotated[
        list[str] | None,
        Option(
            "--metric", help="Metric, or column of a wide table; repeatable, the first decides."
        ),
    ] = None
    threshold: Annotated[
        list[str] | None,
        Option(
            "--threshold",
            metavar="[METRIC=]VALUE",
            help=(
                "Smallest difference that counts, in the unit of the values; 0: any. Needed where "
                "the metric's name does not say."
            ),
        ),
    ] = None
    higher: Annotated[
        bool | None,
        Option(
            "--higher-is-better/--lower-is-better",
            help="Which way the deciding metric improves. Needed where its name does not say.",
        ),
    ] = None
    alpha: Annotated[
        float, Option(min=0.0001, max=0.4, help="Error rate of the whole family of comparisons.")
    ] = 0.05
    step: Annotated[
        float | None, Option(help="Step at which exported curves are read. Default: the last one.")
    ] = None
    run_names: Annotated[
        str | None,
        Option(
            metavar="PATTERN",
            help=(
                "How runs are named, as {arm}-{seed}. Default: a seed is spelt out, as in "
                "base-seed3."
            ),
        ),
    ] = None
    column: Annotated[
        list[str] | None,
        Option(
            "--column",
            metavar="ROLE=NAME",
            help=(
                "A column by another name: arm, seed, metric, value, example, group, weight or "
                "unit; repeatable."
            ),
        ),
    ] = None
    out: Annotated[Path | None, Option("--out", help="Also write the JSON to this file.")] = None
    as_json: JsonOption = False


def verdict(options: VerdictOptions, runs: RunsArgument) -> None:
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
    from chunkwise.lab.verdict.judge import judge_runs
    from chunkwise.lab.verdict.names import places
    from chunkwise.lab.verdict.words import as_json

    # what is wrong with an option is said before any file is read
    reader, question = _reader(options), _question(options)
    outcome = judge_runs(reader.read(places(runs)), question)
    # on stderr, so that the table can be piped
    for line in (*outcome.notes, *outcome.remarks):
        print(line, file=sys.stderr)
    if options.out:
        write_json(options.out, as_json(outcome))
    if options.as_json:
        from chunkwise.cli.output import print_json

        print_json(as_json(outcome))
    else:
        _print(outcome)
    # a script asks for the decision by the exit code alone
    raise typer.Exit(outcome.decision.exit_code)


def _reader(options: VerdictOptions) -> "Reader":
    from chunkwise.lab.verdict.forms import Reader
    from chunkwise.lab.verdict.names import RunNames
    from chunkwise.lab.verdict.tables import columns_named

    return Reader(
        RunNames(options.run_names),
        columns_named(options.column or ()),
        metrics=tuple(options.metric or ()),
        step=options.step,
    )


def _question(options: VerdictOptions) -> "Question":
    from chunkwise.lab.verdict.judge import Question
    from chunkwise.lab.verdict.rules import Better

    # three states: a flag that is not given says nothing
    better: Better | None = None
    if options.higher is not None:
        better = "higher" if options.higher else "lower"
    return Question(
        baseline=options.baseline,
        metrics=tuple(options.metric or ()),
        arms=tuple(options.arm or ()),
        thresholds=_thresholds(options.threshold or ()),
        better=better,
        alpha=options.alpha,
    )


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
