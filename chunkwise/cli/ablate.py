"""`chunkwise ablate`: run a plan."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from chunkwise.cli.options import PlanArgument, SetOption, StoreOption
from chunkwise.core.packs import packaged_names

if TYPE_CHECKING:
    from chunkwise.lab.profile import Profile

ProfileOption = Annotated[
    str, Option(help="How large everything is: a packaged name or a YAML file.")
]
ReportOption = Annotated[
    Path | None, Option(help="Folder for the report. Default: runs/ and the plan's name.")
]
PaperOption = Annotated[
    str | None,
    Option(
        help=(
            "Paper against which amounts of data are read: a packaged name "
            f"({packaged_names('paper')}) or a YAML file. Default: the profile's, unless the plan "
            "names another one."
        )
    ),
]
OverridesOption = Annotated[
    Path | None, Option(help="YAML file with your reading of entries that are not resolved.")
]
PlannedOption = Annotated[
    bool,
    Option(
        "--dry-run",
        help="Print what each entry becomes, jobs, what they share and the time; run nothing.",
    ),
]
MeasureOption = Annotated[
    bool,
    Option(
        "--measure",
        help="With --dry-run: time a miniature on this machine (a minute), not from records.",
    ),
]
StrictOption = Annotated[
    bool,
    Option("--strict", help="Refuse a plan of which some entry cannot be run as it is written."),
]
WorkersOption = Annotated[
    int | None, Option(min=1, help="Parallel jobs. Default: one per GPU, else one per core.")
]
BasesOption = Annotated[
    int | None,
    Option(
        min=2,
        help="Run the plan on so many bases and print how much of the noise lies in the base.",
    ),
]


def ablate(
    plan: PlanArgument,
    profile: ProfileOption = "laptop",
    settings: SetOption = None,
    out: ReportOption = None,
    paper: PaperOption = None,
    overrides: OverridesOption = None,
    dry_run: PlannedOption = False,
    measure: MeasureOption = False,
    strict: StrictOption = False,
    bases: BasesOption = None,
    workers: WorkersOption = None,
    store: StoreOption = None,
) -> None:
    """Run an ablation plan: resolve its words to arms, train and evaluate them, test the
    differences, write a report.

    OUT gets report.html, report.md, report.json, the figures, and all measurements as one table
    (measurements.parquet,
    measurements.csv: docs/measurements.md). What was finished is kept: after Ctrl-C or a crash the
    same command goes on. Exit 0: all of the plan was run; 3: some of it.

    \b
    Example:
      chunkwise ablate instructretro --profile laptop --out runs/demo
      chunkwise ablate my_plan.md --set replicates=5 --dry-run
      chunkwise ablate my_plan.md --profile small.yaml --bases 3
    """
    from chunkwise.core.errors import ConfigError
    from chunkwise.core.store import Store
    from chunkwise.core.team import world_size
    from chunkwise.lab.profile import load_profile

    if world_size() > 1:  # its jobs would wait for each other's processes
        raise ConfigError(
            f"a study was started {world_size()} times at once; it starts its own processes",
            hint="run chunkwise ablate without a launcher, with --workers",
        )
    folder = out or Path("runs") / Path(plan).stem
    baseline = load_profile(profile, settings or ())
    options: dict[str, Any] = {
        "store": Store(store),
        "paper": paper,
        "overrides": overrides,
        "strict": strict,
        "workers": workers,
    }
    if measure and not dry_run:
        raise ConfigError("--measure goes with --dry-run; a run measures its own time as it goes")
    if dry_run:
        raise typer.Exit(_dry_run(plan, baseline, bases, measure, options))
    from chunkwise.lab.run import ablate as run  # statistics and figures, which no dry run needs

    options["command"] = _command(plan, profile, settings or [], paper, overrides)
    if bases is not None:
        raise typer.Exit(_measure_bases(plan, baseline, folder, bases, options))
    code = run(plan, baseline, folder, **options)
    typer.echo(str(folder / "report.html"))
    # 3 where some entries or runs are missing; the report says which, so it is no error
    raise typer.Exit(code)


def _dry_run(
    plan: str, profile: "Profile", bases: int | None, measure: bool, options: dict[str, Any]
) -> int:
    from chunkwise.lab.study.dry_run import dry_run

    if bases is not None:
        from chunkwise.lab.bases import require_bases

        require_bases(profile, bases)
        typer.echo(f"{bases} times this study, each with a base of its own:")
    return dry_run(plan, profile, measure=measure, **options)


def _measure_bases(
    plan: str, profile: "Profile", folder: Path, bases: int, options: dict[str, Any]
) -> int:
    """The same plan on several bases; each has its own report below `folder`."""
    from chunkwise.lab.bases import BASES_JSON, measure_bases, sentence

    code, table = measure_bases(plan, profile, folder, bases, **options)
    for row in table:
        typer.echo(sentence(row))
    typer.echo(str(folder / BASES_JSON))
    return code


def _command(
    plan: str, profile: str, settings: list[str], paper: str | None, overrides: Path | None
) -> str:
    """The call as the report shows it: files by name alone; where they lie is left out."""
    # a report is handed on, and must not tell the folders of the machine that wrote it
    words = ["chunkwise", "ablate", Path(plan).name, "--profile", Path(profile).name]
    for setting in settings:
        words += ["--set", setting]
    if paper is not None:
        words += ["--paper", Path(paper).name]
    if overrides is not None:
        words += ["--overrides", overrides.name]
    return shlex.join([*words, "--out", "OUT"])
