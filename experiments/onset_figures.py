"""The figures of `experiments/onset.py`, as SVG files: losses during training, and each variant beside the baseline."""

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chunkwise.lab.report import draw
from chunkwise.lab.report.draw import MUTED, Style
from experiments.onset_curves import BASELINE, PHASES, Group, Point, Record, grouped, label_of, of_variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = ("#f4f6f8", "#e6eaee")


@dataclass(frozen=True)
class Look:
    colour: str
    line: str
    width: float


LOOKS = {
    "found": Look("#0072b2", "-", 1.6),
    "off": Look("#e69f00", "-", 1.3),
    "random": Look("#d55e00", "--", 1.1),
    "oracle": Look("#009e73", "-", 1.1),
    "shifted_oracle": Look("#aa4499", "--", 1.1),
    "twin": Look("#1f2933", ":", 1.6),
}
"""By loss. Most colour-blind readers tell the colours apart (Okabe and Ito); lines differ too."""
COMPARED = ("found", "off", "random")
"""Losses that are also drawn less the twin's; the oracles lie too far below for one axis."""
GROUP_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00", "#56b4e9", "#332288", "#882255", "#999933")
LINEAR_NATS = 0.2
"""Differences are drawn to scale within this, and on a logarithmic scale beyond: early ones are nats, late ones not."""
DIFFERENCE_TICKS = (-1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 1, 2, 5)

SETTINGS: dict[Any, Any] = draw.SETTINGS | {
    # Text as outlines: the file stands alone, wherever it is opened.
    "svg.fonttype": "path",
    # Smaller than in a report: four panels stand side by side.
    "font.size": 8,
    "axes.titlesize": 8.5,
    "legend.fontsize": "medium",
    "grid.linewidth": 0.5,
}


def svg_file(name: str, height: float, plot: Callable[["Figure"], None]) -> str:
    """One figure as SVG text, the same bytes for the same numbers on the same matplotlib.

    As `chunkwise.lab.report.draw.draw`, but for a file that stands alone: on white, with the colours written out.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Without a salt matplotlib draws random ids.
    with mpl.rc_context(SETTINGS | {"svg.hashsalt": name}):
        figure = Figure(figsize=(9.0, height), layout="constrained", facecolor="white")
        plot(figure)
        text = io.StringIO()
        # The date and the version of matplotlib would change the bytes.
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", metadata=metadata)
    # matplotlib leaves blanks at the ends of lines, which checks of a repository refuse.
    return re.sub(r"[ \t]+$", "", text.getvalue(), flags=re.M)


# --- losses during training ---------------------------------------------------------------------------------------


def curves_figure(runs: Sequence[Record]) -> str:
    """Loss against tokens and difference to the twin, a row a group, a thin line a replicate of the baseline."""
    groups = grouped([run for run in runs if run["variant"] == BASELINE])

    def plot(figure: "Figure") -> None:
        grid = figure.subplots(len(groups), 2, squeeze=False)
        for (left, right), (group, runs) in zip(grid, groups.items(), strict=True):
            members = of_variant(runs, BASELINE)
            for axes in (left, right):
                shade_phases(axes, members[0])
                axes.set_xlabel("tokens, millions")
                axes.margins(x=0)
            draw_losses(left, members)
            differences = draw_differences(right, members)
            left.set_title(f"{label_of(group)}: nats per token", pad=14)
            right.set_title("less the twin (logarithmic beyond 0.2)", pad=14)
            difference_axis(right, differences or [0.0])
        handles = [key(look.colour, look.line) for look in LOOKS.values()]
        names = [name.replace("_", " ") for name in LOOKS]
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))

    return svg_file("onset curves", 0.4 + 2.9 * len(groups), plot)


def draw_losses(axes: "Axes", members: Sequence[Record]) -> None:
    for run in members:
        for name in LOOKS:
            points = run["twin"]["curve"] if name == "twin" else run["curve"]
            losses = [point[name] for point in points]
            axes.plot(millions(points), losses, **style(name, len(members)))


def draw_differences(axes: "Axes", members: Sequence[Record]) -> list[float]:
    """Losses less the twin's at the same tokens; returns the differences."""
    differences: list[float] = []
    for run in members:
        twin = {point["tokens"]: point["twin"] for point in run["twin"]["curve"]}
        shared = [point for point in run["curve"] if point["tokens"] in twin]
        for name in COMPARED:
            values = [point[name] - twin[point["tokens"]] for point in shared]
            axes.plot(millions(shared), values, **style(name, len(members)))
            differences += values
    return differences


def style(name: str, replicates: int) -> Style:
    """How a loss is drawn: thinner where several replicates lie over each other."""
    look = LOOKS[name]
    width = look.width if replicates == 1 else 0.7 * look.width
    return {"color": look.colour, "ls": look.line, "lw": width}


def shade_phases(axes: "Axes", run: Record) -> None:
    """The curriculum behind the curves, with the names of its phases above them."""
    made_neighbours = run["settings"]["made_neighbours"]
    if not made_neighbours["share"]:
        return
    last = run["tokens"] / 1e6
    per_step = run["tokens"] / run["settings"]["steps"] / 1e6
    begin = 0.0
    for number, phase in enumerate(PHASES):
        if begin >= last:
            break
        steps = made_neighbours[phase]
        # A phase without a number of steps goes on to the end.
        end = last if steps is None else begin + steps * per_step
        if end == begin:
            continue
        axes.axvspan(begin, end, color=BANDS[number % 2], lw=0)
        name = phase.removesuffix("_steps")
        middle = (begin + end) / 2
        text = {"ha": "center", "va": "bottom", "fontsize": 6.5, "color": MUTED}
        axes.text(middle, 1.01, name, transform=axes.get_xaxis_transform(), **text)
        begin = end


def difference_axis(axes: "Axes", values: Sequence[float]) -> None:
    """A symmetric logarithmic axis that holds all values."""
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_yscale("symlog", linthresh=LINEAR_NATS, linscale=0.8)
    # Room around 0 also where all values are on one side of it.
    low, high = min(-0.02, *values) * 1.15, max(0.02, *values) * 1.15
    ticks = [tick for tick in DIFFERENCE_TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(low, high)


def millions(points: Sequence[Point]) -> list[float]:
    """Tokens of the points."""
    return [point["tokens"] / 1e6 for point in points]


def key(colour: str, line: str = "-", width: float = 1.6) -> Any:
    """A line for the legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, ls=line, lw=width)


# --- variants -----------------------------------------------------------------------------------------------------

PANELS = 4
"""Side by side; more would be too narrow for the names of variants."""


def variants_figure(runs: Sequence[Record], variants: Sequence[str]) -> str:
    """Found less off against steps: a panel a variant, a colour a group, the group's baseline thin behind it.

    Args:
        runs: replicate 0 of each variant.
        variants: in the order of the panels.
    """
    groups = grouped(runs)
    colours: dict[Group, str] = {}
    for number, group in enumerate(groups):
        colours[group] = GROUP_COLOURS[number % len(GROUP_COLOURS)]
    rows = -(-len(variants) // PANELS)

    def plot(figure: "Figure") -> None:
        grid = figure.subplots(rows, PANELS, squeeze=False, sharey=True)
        values = [value for run in runs for value in found_less_off(run)]
        # Not strict: the last row may have places too many.
        for axes, variant in zip(grid.flat, variants, strict=False):
            draw_variant(axes, variant, groups, colours)
            axes.set_title(textwrap.fill(variant, 30), fontsize=7.5)
            axes.margins(x=0)
            difference_axis(axes, values)
        for axes in grid.flat[len(variants) :]:
            axes.set_visible(False)
        figure.supxlabel("steps", fontsize=8)
        figure.supylabel("found less off, nats per token", fontsize=8)
        handles = [key(colour) for colour in colours.values()]
        handles.append(key(MUTED, ":", 1.0))
        names = [*map(label_of, colours), f"{BASELINE} of the same group"]
        figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(names)))

    return svg_file("onset variants", 0.7 + 1.75 * rows, plot)


def draw_variant(
    axes: "Axes", variant: str, groups: Mapping[Group, Sequence[Record]], colours: Mapping[Group, str]
) -> None:
    for group, members in groups.items():
        colour = colours[group]
        for run in of_variant(members, variant):
            # The baseline first, so that the variant lies over it.
            for baseline in of_variant(members, BASELINE):
                axes.plot(steps(baseline), found_less_off(baseline), color=colour, lw=1.0, ls=":")
            axes.plot(steps(run), found_less_off(run), color=colour, lw=1.4)


def found_less_off(run: Record) -> list[float]:
    return [point["found"] - point["off"] for point in run["curve"]]


def steps(run: Record) -> list[int]:
    return [point["step"] for point in run["curve"]]
