"""The page of `experiments/onset.py`: where copying and reading set in, tables, and figures, from records alone.

A point of a curve is {step, tokens, found, off, random, oracle, shifted_oracle}, losses in nats per token; of the
twin's {step, tokens, twin}. A group is what runs share that may be compared: (size, corpus, steps).
"""

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from chunkwise.core.io import atomic_file
from chunkwise.lab.measure.statistics import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = dict[str, Any]
Group = tuple[str, str, int]

PHASES = ("aligned_steps", "widening_steps", "hold_steps", "fall_steps")
BASELINE = "curriculum"

COPYING_NATS = 0.1
"""How far below the shut gate the shifted oracle must be before it counts as copying."""
READING_NATS = 0.01
"""The same for found neighbours, of which most hold nothing to copy."""


@dataclass(frozen=True)
class Plan:
    """What the page needs to know beside the records: what may be run, and a sentence on each variant."""

    variants: Mapping[str, str]
    replicated: Sequence[str]
    replicates: int
    sizes: Sequence[str]
    corpora: Sequence[str]
    forms: Mapping[str, tuple[str, str]]
    """Form of the model -> its variants without and with the curriculum."""


# --- onset --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Onset:
    """Something sets in after one validation point and not later than the next; equal where it held from the first."""

    after_step: int
    step: int
    after_tokens: int
    tokens: int

    def __str__(self) -> str:
        tokens = f"{self.after_tokens / 1e6:.2f}M to {self.tokens / 1e6:.2f}M tokens"
        return f"between step {self.after_step} and {self.step} ({tokens})"


def first_for_good(holds: Sequence[bool]) -> int | None:
    """Index of the first point from which on all hold; None where the last one does not."""
    first = None
    for index in reversed(range(len(holds))):
        if not holds[index]:
            break
        first = index
    return first


def onset(curve: Sequence[Mapping[str, Any]], holds: Callable[[Mapping[str, Any]], bool]) -> Onset | None:
    """The interval in which something sets in for good; None where it does not hold at the end."""
    first = first_for_good([holds(point) for point in curve])
    if first is None:
        return None
    before, point = curve[max(0, first - 1)], curve[first]
    return Onset(before["step"], point["step"], before["tokens"], point["tokens"])


def copying_onset(curve: Sequence[Mapping[str, Any]]) -> Onset | None:
    """When the true continuation, at a random place of its window, begins to help: a matter of content, not of place.

    From that point on it stays COPYING_NATS or more below the shut gate.
    """
    return onset(curve, lambda point: point["off"] - point["shifted_oracle"] >= COPYING_NATS)


def reading_onset(curve: Sequence[Mapping[str, Any]], twin_curve: Sequence[Mapping[str, Any]]) -> Onset | None:
    """When found neighbours begin to help: from that point on READING_NATS or more below the shut gate.

    None also where the run ends above its twin: a gate that harms when shut is no gain.
    """
    if not curve or not twin_curve or curve[-1]["found"] >= twin_curve[-1]["twin"]:
        return None
    return onset(curve, lambda point: point["off"] - point["found"] >= READING_NATS)


# --- figures in words ---------------------------------------------------------------------------------------------


def percent(difference: float) -> str:
    """A difference of losses as a change of perplexity."""
    return f"{exp(difference) - 1:+.1%}"


def with_interval(differences: Sequence[float], show: Callable[[float], str]) -> str:
    """The mean; from three replicates on with the 95 % interval of Student's t."""
    shown = show(mean(differences))
    interval = t_interval(differences) if len(differences) >= 3 else None
    return f"{shown} [{show(interval[0])}, {show(interval[1])}]" if interval else shown


def nats(value: float) -> str:
    return f"{value:+.3f}"


def table(head: str, rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """A Markdown table; all columns but the first `left` are numbers."""
    columns = [name.strip() for name in head.split("|")]
    rule = ["---" if number < left else "---:" for number in range(len(columns))]
    return ["", *("| " + " | ".join(row) + " |" for row in (columns, rule, *rows)), ""]


def gains(runs: Sequence[Record], against: str) -> list[float]:
    """Final loss with found neighbours less another one, for each run."""
    return [run["final"]["found"] - run["final"][against] for run in runs]


def label_of(group: Group) -> str:
    size, corpus, steps = group
    return f"{size}, {corpus}, {steps:,} steps"


def grouped(runs: Sequence[Record]) -> dict[Group, list[Record]]:
    """Group -> its runs, both in order."""
    groups: dict[Group, list[Record]] = {}
    for run in runs:
        groups.setdefault((run["size"], run["corpus"], run["steps"]), []).append(run)
    return dict(sorted(groups.items(), key=lambda item: (float(item[0][0].removesuffix("m")), *item[0])))


def of_variant(runs: Sequence[Record], variant: str) -> list[Record]:
    return sorted((run for run in runs if run["variant"] == variant), key=lambda run: run["replicate"])


# --- the page -----------------------------------------------------------------------------------------------------

CONDITIONS = {
    "found": "neighbours that BM25 found, none of the row's own document",
    "off": "the same model with its gate at 0: retrieval skipped",
    "random": "random chunks of the datastore",
    "oracle": "each chunk with its true continuation, as a perfect find would have it: always at the same place",
    "shifted oracle": "the true continuation at a random place of a neighbour: it has to be found by its content",
    "twin": "the decoder trained on without retrieval: same rows, order and steps",
}


def introduction(count: int) -> list[str]:
    return [
        "# When the published form begins to read",
        "",
        f"Made by `experiments/onset.py` from `runs.json` beside it ({count} {'run' if count == 1 else 'runs'}).",
        "",
        "Each run gives a small trained decoder retrieval in RETRO's published form, a new bidirectional encoder with",
        "query conditioning and RETRO's positions, and trains it on. The baseline begins with made neighbours: windows",
        "of the row's own text that contain the next chunk, first at their beginning (aligned), then at offsets that",
        "widen; full width is held for a while, then their share falls to nothing. Measured are rows of documents that",
        "stand in neither training text nor datastore. Made neighbours are for training alone. Losses, in nats per",
        "token, by what is read:",
        "",
        *(f"- **{name}**: {words}" for name, words in CONDITIONS.items()),
        "",
        f"**Copying** has set in when the shifted oracle is at least {COPYING_NATS:g} nats below off, and stays there.",
        f"**Reading** has set in when found is at least {READING_NATS:g} nats below off, stays there, and ends below",
        "the twin. Both are known between two validation points. The points are taken from some of the rows that the",
        "final losses are taken from.",
        "",
    ]


def settings_section(groups: Mapping[Group, list[Record]]) -> list[str]:
    """What was trained: the baseline of each group."""
    rows = []
    for group, runs in groups.items():
        baseline = of_variant(runs, BASELINE)
        if not baseline:
            continue
        run = baseline[0]
        settings, parameters = run["settings"], run["parameters"]
        made = settings["made_neighbours"]
        phases = " + ".join("to the end" if made[phase] is None else str(made[phase]) for phase in PHASES)
        rows.append(
            [
                label_of(group),
                f"{parameters['decoder'] / 1e6:.1f} + {parameters['retrieval'] / 1e6:.1f}M",
                f"{run['tokens'] / 1e6:.2f}M",
                f"{settings['learning_rate']:g}, {settings['retrieval_learning_rate']:g}",
                phases,
                f"{made['share']:g}",
                f"{made['replaced_tokens']:g}",
                f"{settings['random_neighbours']:g}",
                ", ".join(sorted({f"{one['machine']}, {one['dtype']}" for one in runs})),
                f"{mean(one['seconds'] for one in baseline):,.0f}",
            ]
        )
    if not rows:
        return []
    head = "baseline | weights | tokens | rates | phases | made | replaced | random | trained on | seconds"
    return [
        "## What was trained",
        "",
        "Weights of decoder and retrieval; learning rates of the two; steps of the aligned, widening, held and falling",
        "phase; the share of chunks with a made neighbour until the fall, of its tokens that random ones replace, and",
        "of other chunks that read random neighbours. The machines of all of a group's runs. Seconds are a baseline's,",
        "on a machine that it shared with other runs; where a run was resumed, those since.",
        *table(head, rows),
    ]


def onset_section(groups: Mapping[Group, list[Record]], variants: Sequence[str]) -> list[str]:
    rows = []
    for group, runs in groups.items():
        for variant in variants:
            for run in of_variant(runs, variant):
                copying, reading = onsets(run)
                rows.append(
                    [label_of(group), variant, str(run["replicate"]), *(str(x or "never") for x in (copying, reading))]
                )
    if not rows:
        return []
    return ["## When it sets in", *table("group | training | replicate | copying | reading", rows, left=5)]


def onsets(run: Record) -> tuple[Onset | None, Onset | None]:
    """Of copying and of reading."""
    return copying_onset(run["curve"]), reading_onset(run["curve"], run["twin"]["curve"])


LOSSES = ("found", "off", "random", "oracle", "twin")


def losses_section(groups: Mapping[Group, list[Record]], variants: Sequence[str]) -> list[str]:
    """Final losses of each replicate, and their mean."""
    rows = []
    for group, runs in groups.items():
        for variant in variants:
            members = of_variant(runs, variant)
            for run in members:
                losses = [f"{run['final'][name]:.3f}" for name in LOSSES]
                [difference] = gains([run], "twin")
                about = [label_of(group), variant, str(run["replicate"])]
                rows.append([*about, *losses, nats(difference), percent(difference)])
            if len(members) > 1:
                losses = [f"{mean(run['final'][name] for run in members):.3f}" for name in LOSSES]
                differences = gains(members, "twin")
                shown = [with_interval(differences, show) for show in (nats, percent)]
                rows.append([label_of(group), variant, "mean", *losses, *shown])
    if not rows:
        return []
    head = f"group | training | replicate | {' | '.join(LOSSES)} | found − twin | perplexity"
    return [
        "## Final losses",
        "",
        "Below 0 is better. Intervals are of differences within replicates, 95 %, by Student's t, from three on.",
        *table(head, rows, left=2),
        *contrasts(groups, variants),
    ]


def contrasts(groups: Mapping[Group, list[Record]], variants: Sequence[str]) -> list[str]:
    """What the found neighbours are worth, and what retrieval costs where it has nothing to say."""
    pairs = (("found", "twin"), ("found", "off"), ("found", "random"), ("off", "twin"), ("random", "twin"))
    rows = []
    for group, runs in groups.items():
        for variant in variants:
            members = of_variant(runs, variant)
            if not members:
                continue
            shown = [
                with_interval([run["final"][one] - run["final"][other] for run in members], nats)
                for one, other in pairs
            ]
            rows.append([label_of(group), variant, str(len(members)), *shown])
    head = " | ".join(f"{one} − {other}" for one, other in pairs)
    return ["Differences, mean over the replicates:", *table(f"group | training | replicates | {head}", rows, left=2)]


def variants_section(groups: Mapping[Group, list[Record]], plan: Plan) -> list[str]:
    """Replicate 0 of every variant, beside the baseline's."""
    lines = []
    for group, runs in groups.items():
        firsts = [run for run in runs if run["replicate"] == 0]
        present = [run["variant"] for run in firsts]
        if not set(present) - set(plan.replicated):
            continue
        rows = []
        for run in sorted(firsts, key=lambda run: order(plan, run["variant"])):
            steps = [f"{found.after_step} to {found.step}" if found else "never" for found in onsets(run)]
            losses = [f"{run['final'][name]:.3f}" for name in LOSSES]
            [difference] = gains([run], "twin")
            rows.append([run["variant"], *steps, *losses, nats(difference), percent(difference), run["machine"]])
        head = f"variant | copying | reading | {' | '.join(LOSSES)} | found − twin | perplexity | on"
        lines += [f"### {label_of(group)}", *table(head, rows)]
    if not lines:
        return []
    shown = {run["variant"] for runs in groups.values() for run in runs}
    return [
        "## Which part matters",
        "",
        "One change each, replicate 0. Two variants differ by single runs: compare with the spread of the replicates",
        "above. Copying and reading: the steps between which they set in.",
        "",
        *(f"- **{name}**: {sentence}" for name, sentence in plan.variants.items() if name in shown),
        "",
        *lines,
    ]


def forms_section(groups: Mapping[Group, list[Record]], plan: Plan) -> list[str]:
    """What the curriculum does for other forms of the model."""
    pairs = (("found", "twin"), ("oracle", "twin"), ("random", "twin"))
    rows = []
    for group, runs in groups.items():
        present = {form: [of_variant(runs, name) for name in names] for form, names in plan.forms.items()}
        whole = {form: both for form, both in present.items() if all(both)}
        for form, both in whole.items():
            cells = [
                nats(mean(run["final"][one] - run["final"][other] for run in members))
                for one, other in pairs
                for members in both
            ]
            rows.append([label_of(group), form, *cells])
    if not rows:
        return []
    head = " | ".join(f"{one} − {other}, without | with" for one, other in pairs)
    return [
        "## Other forms of the model",
        "",
        "Each form trained without the curriculum and with it; means over what replicates there are.",
        *table(f"group | form | {head}", rows, left=2),
    ]


def order(plan: Plan, variant: str) -> int:
    names = list(plan.variants)
    return names.index(variant) if variant in names else len(names)


def overlap_section(groups: Mapping[Group, list[Record]]) -> list[str]:
    """Nats saved by found neighbours, by how much of a chunk stands in what is found for it."""
    rows = []
    for group, runs in groups.items():
        baseline = of_variant(runs, BASELINE)
        for number, bucket in enumerate(baseline[0]["overlap"] if baseline else ()):
            buckets = [run["overlap"][number] for run in baseline]
            row = [label_of(group), f"{bucket['above']:.1%} to {bucket['at_most']:.1%}", f"{bucket['tokens']:,}"]
            for against in ("off", "twin"):
                # A bucket of a small text may hold no predicted token, and then has no loss.
                saved = [one[against] - one["found"] for one in buckets if one["found"] is not None]
                row.append(spread(saved))
            rows.append(row)
    if not rows:
        return []
    return [
        "## By overlap",
        "",
        "Nats saved by found neighbours of the baseline, by the longest run of tokens that a chunk shares with one of",
        "its 10 nearest neighbours, as a share of the chunk. The first row of a group is text without long shared",
        "runs. Mean over the replicates, in brackets the least and the most; above 0 is better.",
        *table("group | overlap | tokens | against off | against the twin", rows, left=2),
    ]


def spread(values: Sequence[float]) -> str:
    """Mean, least and most."""
    if not values:
        return "–"
    if len(values) == 1:
        return nats(values[0])
    return f"{nats(mean(values))} ({nats(min(values))} to {nats(max(values))})"


def missing_section(groups: Mapping[Group, list[Record]], plan: Plan) -> list[str]:
    """What the plan has and the records have not."""
    lines = []
    fullest = max((len({run["variant"] for run in runs}) for runs in groups.values()), default=0)
    for group, runs in groups.items():
        present = sorted({run["variant"] for run in runs}, key=lambda name: order(plan, name))
        missing = [name for name in plan.variants if name not in present]
        if set(present) <= set(plan.replicated) or len(present) < fullest:
            lines.append(f"- {label_of(group)}: nothing but {' and '.join(present)}.")
        elif missing:
            lines.append(f"- {label_of(group)}: not run: {'; '.join(missing)}.")
        for name in plan.replicated:
            count = len(of_variant(runs, name))
            if 0 < count < plan.replicates:
                lines.append(f"- {label_of(group)}: {name} has {count} of {plan.replicates} replicates.")
        single = [name for name in plan.variants if name not in plan.replicated and len(of_variant(runs, name)) == 1]
        if single:
            lines.append(f"- {label_of(group)}: one replicate only of {len(single)} of the other variants.")
    run_at = {(size, corpus) for size, corpus, _ in groups}
    for size in plan.sizes:
        corpora = [corpus for corpus in plan.corpora if (size, corpus) not in run_at]
        if corpora:
            lines.append(f"- {size}: nothing was run on {'; '.join(corpora)}.")
    return ["## Not run yet", "", *(lines or ["Nothing is missing."]), ""]


def failures_section(failed: Sequence[Record]) -> list[str]:
    """Trainings that came to no end."""
    if not failed:
        return []
    lines = [
        f"- {label_of((run['size'], run['corpus'], run['steps']))}, {run['variant']}, replicate {run['replicate']}: "
        f"{run['failed']}."
        for run in failed
    ]
    return ["## What failed", "", *lines, ""]


def page(records: Sequence[Record], plan: Plan) -> str:
    """README.md, of the records alone."""
    failed = [record for record in records if "failed" in record]
    runs = [record for record in records if "failed" not in record]
    groups = grouped(runs)
    lines = introduction(len(runs))
    if of_variant(runs, BASELINE):
        lines += ["![Losses during training, and their difference to the twin](curves.svg)", ""]
    lines += settings_section(groups)
    lines += onset_section(groups, plan.replicated)
    lines += losses_section(groups, plan.replicated)
    lines += variants_section(groups, plan)
    if runs:
        lines += ["![Found less off during training, for each variant](variants.svg)", ""]
    lines += forms_section(groups, plan)
    lines += overlap_section(groups)
    lines += failures_section(failed)
    lines += missing_section(grouped(records), plan)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def write(out: Path, runs: Sequence[Record], plan: Plan) -> None:
    """README.md, curves.svg, variants.svg, and onset.svg: the curves of the group with the most replicates alone."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"README.md": page(runs, plan)}
    runs = [run for run in runs if "failed" not in run]
    if of_variant(runs, BASELINE):
        files["curves.svg"] = curves_figure(runs)
        groups = grouped(of_variant(runs, BASELINE)).values()
        order = list(plan.corpora)
        # Of groups with as many replicates, the one whose corpus the plan names first.
        files["onset.svg"] = curves_figure(
            max(groups, key=lambda group: (len(group), -order.index(group[0]["corpus"])))
        )
    if runs:
        files["variants.svg"] = variants_figure(runs, plan)
    for name, text in files.items():
        with atomic_file(out / name) as file:
            file.write(text.encode())


# --- figures ------------------------------------------------------------------------------------------------------

INK, MUTED, GRID = "#1f2933", "#616e7c", "#d9dee4"
BANDS = ("#f4f6f8", "#e6eaee")
STYLES = {
    "found": ("#0072b2", "-", 1.6),
    "off": ("#e69f00", "-", 1.3),
    "random": ("#d55e00", "--", 1.1),
    "oracle": ("#009e73", "-", 1.1),
    "shifted_oracle": ("#aa4499", "--", 1.1),
    "twin": ("#1f2933", ":", 1.6),
}
"""Loss -> colour, line, width. Most colour-blind readers tell the colours apart (Okabe and Ito); lines differ too."""
GROUP_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00", "#56b4e9", "#332288", "#882255", "#999933")
LINEAR_NATS = 0.2
"""Differences are drawn to scale within this, and on a logarithmic scale beyond: early ones are nats, late ones not."""
DIFFERENCE_TICKS = (-1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 1, 2, 5)


def draw(name: str, height: float, plot: Callable[["Figure"], None]) -> str:
    """One figure as SVG text, the same bytes for the same numbers on the same matplotlib.

    As `chunkwise.lab.report.draw.draw`, but for a file that stands alone: on white, with the colours written out.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.hashsalt": name, "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 8,
        "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.titlesize": 8.5, "axes.titlecolor": INK,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.5, "text.color": INK,
        "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
        "legend.frameon": False, "axes.unicode_minus": True,
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=(9.0, height), layout="constrained", facecolor="white")
        plot(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return re.sub(r"[ \t]+$", "", text.getvalue(), flags=re.M)


def shade_phases(axes: "Axes", run: Record, *, names: bool) -> None:
    """The curriculum behind the curves, with the names of its phases above them."""
    made = run["settings"]["made_neighbours"]
    if not made["share"]:
        return
    per_step = run["tokens"] / run["settings"]["steps"] / 1e6
    begin = 0.0
    for number, phase in enumerate(PHASES):
        if begin >= run["tokens"] / 1e6:
            break
        steps = made[phase]
        end = run["tokens"] / 1e6 if steps is None else begin + steps * per_step
        if end == begin:
            continue
        axes.axvspan(begin, end, color=BANDS[number % 2], lw=0)
        if names:
            place = axes.get_xaxis_transform()
            axes.text((begin + end) / 2, 1.01, phase.removesuffix("_steps"), transform=place, ha="center", va="bottom",
                      fontsize=6.5, color=MUTED)  # fmt: skip
        begin = end


def difference_axis(axes: "Axes", values: Sequence[float]) -> None:
    """A symmetric logarithmic axis that holds all values."""
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_yscale("symlog", linthresh=LINEAR_NATS, linscale=0.8)
    low, high = min(-0.02, *values) * 1.15, max(0.02, *values) * 1.15
    ticks = [tick for tick in DIFFERENCE_TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(low, high)


def millions(points: Sequence[Mapping[str, Any]]) -> list[float]:
    return [point["tokens"] / 1e6 for point in points]


def less_twin(run: Record, name: str) -> tuple[list[float], list[float]]:
    """A loss less the twin's at the same tokens: (tokens in millions, differences)."""
    twin = {point["tokens"]: point["twin"] for point in run["twin"]["curve"]}
    shared = [point for point in run["curve"] if point["tokens"] in twin]
    return millions(shared), [point[name] - twin[point["tokens"]] for point in shared]


def curves_figure(runs: Sequence[Record]) -> str:
    """Loss against tokens and difference to the twin, a row a group, a thin line a replicate of the baseline."""
    groups = {group: of_variant(members, BASELINE) for group, members in grouped(runs).items()}
    groups = {group: members for group, members in groups.items() if members}

    def plot(figure: "Figure") -> None:
        from matplotlib.lines import Line2D

        grid = figure.subplots(len(groups), 2, squeeze=False)
        for (left, right), (group, members) in zip(grid, groups.items(), strict=True):
            for axes in (left, right):
                shade_phases(axes, members[0], names=True)
                axes.set_xlabel("tokens, millions")
                axes.margins(x=0)
            differences = []
            for run in members:
                for name, (colour, line, width) in STYLES.items():
                    style = {"color": colour, "ls": line, "lw": width if len(members) == 1 else 0.7 * width}
                    points = run["twin"]["curve"] if name == "twin" else run["curve"]
                    left.plot(millions(points), [point[name] for point in points], **style)
                    if name in ("found", "off", "random"):
                        tokens, values = less_twin(run, name)
                        right.plot(tokens, values, **style)
                        differences += values
            left.set_title(f"{label_of(group)}: nats per token", pad=14)
            right.set_title("less the twin (logarithmic beyond 0.2)", pad=14)
            difference_axis(right, differences or [0.0])
        handles = [Line2D([], [], color=colour, ls=line, lw=1.6) for colour, line, _ in STYLES.values()]
        names = [name.replace("_", " ") for name in STYLES]
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))

    return draw("onset curves", 0.4 + 2.9 * len(groups), plot)


def variants_figure(runs: Sequence[Record], plan: Plan) -> str:
    """Found less off against steps: a panel a variant, a colour a group, the group's baseline thin behind it."""
    firsts = [run for run in runs if run["replicate"] == 0]
    variants = sorted({run["variant"] for run in firsts}, key=lambda name: order(plan, name))
    groups = grouped(firsts)
    colours = {group: GROUP_COLOURS[number % len(GROUP_COLOURS)] for number, group in enumerate(groups)}
    rows = -(-len(variants) // 4)

    def gain(run: Record) -> list[float]:
        return [point["found"] - point["off"] for point in run["curve"]]

    def steps(run: Record) -> list[int]:
        return [point["step"] for point in run["curve"]]

    def plot(figure: "Figure") -> None:
        from matplotlib.lines import Line2D

        grid = figure.subplots(rows, 4, squeeze=False, sharey=True)
        every = [value for run in firsts for value in gain(run)]
        for axes, variant in zip(grid.flat, variants, strict=False):
            for group, members in groups.items():
                for run in of_variant(members, variant):
                    for baseline in of_variant(members, BASELINE):
                        axes.plot(steps(baseline), gain(baseline), color=colours[group], lw=1.0, ls=":")
                    axes.plot(steps(run), gain(run), color=colours[group], lw=1.4)
            axes.set_title(textwrap.fill(variant, 30), fontsize=7.5)
            axes.margins(x=0)
            difference_axis(axes, every)
        for axes in grid.flat[len(variants) :]:
            axes.set_visible(False)
        figure.supxlabel("steps", fontsize=8)
        figure.supylabel("found less off, nats per token", fontsize=8)
        handles = [Line2D([], [], color=colour, lw=1.6) for colour in colours.values()]
        handles.append(Line2D([], [], color=MUTED, lw=1.0, ls=":"))
        names = [*map(label_of, colours), f"{BASELINE} of the same group"]
        figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(names)))

    return draw("onset variants", 0.7 + 1.75 * rows, plot)
