"""`chunkwise ablate`: run a plan."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from chunkwise.cli.options import PlanArgument, SetOption, StoreOption
from chunkwise.core.packs import packaged_names

if TYPE_CHECKING:
    from chunkwise.core.store import Store
    from chunkwise.lab.profile import Profile
    from chunkwise.lab.study.asked import Asked
    from chunkwise.lab.study.stops import Taken

ProfileOption = Annotated[
    str, Option(help="How large everything is: a packaged name or a YAML file.")
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


@dataclass(frozen=True)
class AblateOptions:
    """The options of `ablate`, in the order of its help."""

    profile: ProfileOption = "laptop"
    settings: SetOption = None
    out: Annotated[
        Path | None, Option(help="Folder for the report. Default: runs/ and the plan's name.")
    ] = None
    paper: PaperOption = None
    overrides: OverridesOption = None
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            help="Print what each entry becomes, jobs, what they share and the time; run nothing.",
        ),
    ] = False
    measure: Annotated[
        bool,
        Option(
            "--measure",
            help="With --dry-run: time a miniature on this machine (a minute), not from records.",
        ),
    ] = False
    strict: Annotated[
        bool,
        Option(
            "--strict", help="Refuse a plan of which some entry cannot be run as it is written."
        ),
    ] = False
    bases: Annotated[
        int | None,
        Option(
            min=2,
            help="Run the plan on so many bases and print how much of the noise lies in the base.",
        ),
    ] = None
    workers: Annotated[
        int | None, Option(min=1, help="Parallel jobs. Default: one per GPU, else one per core.")
    ] = None
    store: StoreOption = None


def ablate(options: AblateOptions, plan: PlanArgument) -> None:
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
    baseline = load_profile(options.profile, options.settings or ())
    if options.measure and not options.dry_run:
        raise ConfigError("--measure goes with --dry-run; a run measures its own time as it goes")
    # what the run and the dry run take alike
    running: dict[str, Any] = {
        "store": Store(options.store),
        "paper": options.paper,
        "overrides": options.overrides,
        "strict": options.strict,
        "workers": options.workers,
    }
    if options.dry_run:
        raise typer.Exit(_dry_run(plan, baseline, options, running))
    # 3 where some entries or runs are missing; the report says which, so it is no error
    raise typer.Exit(_run(plan, baseline, options, running))


def _dry_run(plan: str, profile: "Profile", options: AblateOptions, running: dict[str, Any]) -> int:
    from chunkwise.lab.study.dry_run import dry_run

    return dry_run(
        plan,
        profile,
        measure=options.measure,
        bases=options.bases,
        looks_taken=_looks_taken,
        **running,
    )


def _looks_taken(asked: "Asked", store: "Store") -> "Taken":
    # statistics, which only a study that looks several times needs
    from chunkwise.lab.looks import looks_taken

    return looks_taken(asked, store)


def _run(plan: str, profile: "Profile", options: AblateOptions, running: dict[str, Any]) -> int:
    """Run the plan, or with several bases the same plan on each; these have reports below OUT."""
    folder = options.out or Path("runs") / Path(plan).stem
    running["command"] = _command(plan, options)
    if options.bases is None:
        # statistics and figures, which no dry run needs
        from chunkwise.lab.run import ablate as run

        code = run(plan, profile, folder, **running)
        typer.echo(str(folder / "report.html"))
        return code
    from chunkwise.lab.bases import BASES_JSON, measure_bases, sentence

    code, table = measure_bases(plan, profile, folder, options.bases, **running)
    # the answer first, then where the numbers are
    for row in table:
        typer.echo(sentence(row))
    typer.echo(str(folder / BASES_JSON))
    return code


def _command(plan: str, options: AblateOptions) -> str:
    """The call as the report shows it: files by name alone; where they lie is left out."""
    # a report is handed on, and must not tell the folders of the machine that wrote it
    words = ["chunkwise", "ablate", Path(plan).name, "--profile", Path(options.profile).name]
    for setting in options.settings or ():
        words += ["--set", setting]
    if options.paper is not None:
        words += ["--paper", Path(options.paper).name]
    if options.overrides is not None:
        words += ["--overrides", options.overrides.name]
    return shlex.join([*words, "--out", "OUT"])
