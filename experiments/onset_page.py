"""The page of `experiments/onset.py`: when copying and reading set in, and tables of losses, from records alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from statistics import mean

from chunkwise.core.io import atomic_file
from chunkwise.lab.measure.statistics import t_interval
from experiments.onset_curves import (
    BASELINE,
    COPYING_NATS,
    PHASES,
    READING_NATS,
    Group,
    Onset,
    Record,
    gain,
    group_of,
    grouped,
    label_of,
    of_variant,
    onsets,
)
from experiments.onset_figures import curves_figure, variants_figure

Groups = Mapping[Group, list[Record]]


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

    def in_order(self, variants: set[str]) -> list[str]:
        """As the plan lists them; what it does not know any more stands last."""
        names = list(self.variants)
        listed = [name for name in names if name in variants]
        return listed + sorted(variants - set(names))


# --- figures in words ---------------------------------------------------------------------------------------------


def percent(difference: float) -> str:
    """A difference of losses as a change of perplexity."""
    return f"{exp(difference) - 1:+.1%}"


def nats(value: float) -> str:
    return f"{value:+.3f}"


def with_interval(differences: Sequence[float], show: Callable[[float], str]) -> str:
    """The mean; from three replicates on with the 95 % interval of Student's t."""
    text = show(mean(differences))
    # Of two, the interval is twelve times as wide as their distance is.
    interval = t_interval(differences) if len(differences) >= 3 else None
    if interval is None:
        return text
    low, high = map(show, interval)
    return f"{text} [{low}, {high}]"


def spread(values: Sequence[float]) -> str:
    """Mean, least and most."""
    if not values:
        return "–"
    if len(values) == 1:
        return nats(values[0])
    return f"{nats(mean(values))} ({nats(min(values))} to {nats(max(values))})"


def table(head: str, rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """A Markdown table; all columns but the first `left` are numbers."""
    columns = [name.strip() for name in head.split("|")]
    rule = ["---"] * left + ["---:"] * (len(columns) - left)
    lines = ["| " + " | ".join(row) + " |" for row in (columns, rule, *rows)]
    return ["", *lines, ""]


# --- the page -----------------------------------------------------------------------------------------------------

CONDITIONS = {
    "found": "neighbours that BM25 found, none of the row's own document",
    "off": "the same model with its gate at 0: retrieval skipped",
    "random": "random chunks of the datastore",
    "oracle": "each chunk with its true continuation, as a perfect find would have it: always at the same place",
    "shifted oracle": "the true continuation at a random place of a neighbour: it has to be found by its content",
    "twin": "the decoder trained on without retrieval: same rows, order and steps",
}


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
    if of_first_replicate(runs):
        lines += ["![Found less off during training, for each variant](variants.svg)", ""]
    lines += forms_section(groups, plan)
    lines += overlap_section(groups)
    lines += failures_section(failed)
    # A training that failed was run: what is missing was not.
    lines += missing_section(grouped(records), plan)
    text = "\n".join(lines)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def write(out: Path, records: Sequence[Record], plan: Plan) -> None:
    """README.md, curves.svg, variants.svg, and onset.svg: the curves of the group with the most replicates alone."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"README.md": page(records, plan)}
    runs = [record for record in records if "failed" not in record]
    baseline = of_variant(runs, BASELINE)
    if baseline:
        files["curves.svg"] = curves_figure(baseline)
        files["onset.svg"] = curves_figure(largest_group(baseline, plan))
    firsts = of_first_replicate(runs)
    if firsts:
        variants = plan.in_order({run["variant"] for run in firsts})
        files["variants.svg"] = variants_figure(firsts, variants)
    for name, text in files.items():
        with atomic_file(out / name) as file:
            file.write(text.encode())


def of_first_replicate(runs: Sequence[Record]) -> list[Record]:
    return [run for run in runs if run["replicate"] == 0]


def largest_group(runs: Sequence[Record], plan: Plan) -> list[Record]:
    """The group with the most replicates; of those with as many, the one whose corpus the plan names first."""
    corpora = list(plan.corpora)

    def rank(members: list[Record]) -> tuple[int, int]:
        return len(members), -corpora.index(members[0]["corpus"])

    return max(grouped(runs).values(), key=rank)


def introduction(count: int) -> list[str]:
    runs = "1 run" if count == 1 else f"{count} runs"
    return [
        "# When the published form begins to read",
        "",
        f"Made by `experiments/onset.py` from `runs.json` beside it ({runs}).",
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


# --- settings and onset -------------------------------------------------------------------------------------------


def settings_section(groups: Groups) -> list[str]:
    """What was trained: the baseline of each group."""
    rows = []
    for group, runs in groups.items():
        baseline = of_variant(runs, BASELINE)
        if baseline:
            rows.append([label_of(group), *settings_cells(baseline), machines(runs), seconds(baseline)])
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


def settings_cells(baseline: Sequence[Record]) -> list[str]:
    # The replicates differ in their seed alone.
    run = baseline[0]
    settings, parameters = run["settings"], run["parameters"]
    made_neighbours = settings["made_neighbours"]
    phases = []
    for phase in PHASES:
        steps = made_neighbours[phase]
        phases.append("to the end" if steps is None else str(steps))
    return [
        f"{parameters['decoder'] / 1e6:.1f} + {parameters['retrieval'] / 1e6:.1f}M",
        f"{run['tokens'] / 1e6:.2f}M",
        f"{settings['learning_rate']:g}, {settings['retrieval_learning_rate']:g}",
        " + ".join(phases),
        f"{made_neighbours['share']:g}",
        f"{made_neighbours['replaced_tokens']:g}",
        f"{settings['random_neighbours']:g}",
    ]


def machines(runs: Sequence[Record]) -> str:
    names = {f"{run['machine']}, {run['dtype']}" for run in runs}
    return ", ".join(sorted(names))


def seconds(runs: Sequence[Record]) -> str:
    return f"{mean(run['seconds'] for run in runs):,.0f}"


def onset_section(groups: Groups, variants: Sequence[str]) -> list[str]:
    rows = []
    for group, runs in groups.items():
        for variant in variants:
            for run in of_variant(runs, variant):
                about = [label_of(group), variant, str(run["replicate"])]
                rows.append(about + [str(onset or "never") for onset in onsets(run)])
    if not rows:
        return []
    head = "group | training | replicate | copying | reading"
    return ["## When it sets in", *table(head, rows, left=5)]


# --- losses -------------------------------------------------------------------------------------------------------

LOSSES = ("found", "off", "random", "oracle", "twin")


def losses_section(groups: Groups, variants: Sequence[str]) -> list[str]:
    """Final losses of each replicate, and their mean."""
    rows = []
    for group, runs in groups.items():
        for variant in variants:
            members = of_variant(runs, variant)
            about = [label_of(group), variant]
            rows += [[*about, str(run["replicate"]), *losses_cells([run])] for run in members]
            if len(members) > 1:
                rows.append([*about, "mean", *losses_cells(members)])
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


def losses_cells(runs: Sequence[Record]) -> list[str]:
    """Mean losses, and the difference of found neighbours to the twin, in nats and as perplexity."""
    losses = [f"{mean(run['final'][name] for run in runs):.3f}" for name in LOSSES]
    differences = [gain(run, over="twin") for run in runs]
    return [*losses, with_interval(differences, nats), with_interval(differences, percent)]


@dataclass(frozen=True)
class Pair:
    """Two final losses, of which the second is taken from the first."""

    loss: str
    other: str

    def __str__(self) -> str:
        return f"{self.loss} − {self.other}"

    def differences(self, runs: Sequence[Record]) -> list[float]:
        return [gain(run, of=self.loss, over=self.other) for run in runs]


# What the found neighbours are worth, and what retrieval costs where it has nothing to say.
CONTRASTS = (
    Pair("found", "twin"),
    Pair("found", "off"),
    Pair("found", "random"),
    Pair("off", "twin"),
    Pair("random", "twin"),
)


def contrasts(groups: Groups, variants: Sequence[str]) -> list[str]:
    rows = []
    for group, runs in groups.items():
        for variant in variants:
            members = of_variant(runs, variant)
            if not members:
                continue
            cells = [with_interval(pair.differences(members), nats) for pair in CONTRASTS]
            rows.append([label_of(group), variant, str(len(members)), *cells])
    head = f"group | training | replicates | {' | '.join(map(str, CONTRASTS))}"
    return ["Differences, mean over the replicates:", *table(head, rows, left=2)]


# --- variants and forms -------------------------------------------------------------------------------------------


def variants_section(groups: Groups, plan: Plan) -> list[str]:
    """Replicate 0 of every variant, beside the baseline's."""
    lines = []
    for group, runs in groups.items():
        firsts = {run["variant"]: run for run in of_first_replicate(runs)}
        # A group of nothing but the replicated variants has all of them above.
        if not set(firsts) - set(plan.replicated):
            continue
        rows = [variant_cells(firsts[variant]) for variant in plan.in_order(set(firsts))]
        head = f"variant | copying | reading | {' | '.join(LOSSES)} | found − twin | perplexity | on"
        lines += [f"### {label_of(group)}", *table(head, rows)]
    if not lines:
        return []
    variants = {run["variant"] for runs in groups.values() for run in runs}
    return [
        "## Which part matters",
        "",
        "One change each, replicate 0. Two variants differ by single runs: compare with the spread of the replicates",
        "above. Copying and reading: the steps between which they set in.",
        "",
        *(f"- **{name}**: {sentence}" for name, sentence in plan.variants.items() if name in variants),
        "",
        *lines,
    ]


def variant_cells(run: Record) -> list[str]:
    steps = [steps_of(onset) for onset in onsets(run)]
    return [run["variant"], *steps, *losses_cells([run]), run["machine"]]


def steps_of(onset: Onset | None) -> str:
    return "never" if onset is None else f"{onset.after_step} to {onset.step}"


FORM_CONTRASTS = (Pair("found", "twin"), Pair("oracle", "twin"), Pair("random", "twin"))


def forms_section(groups: Groups, plan: Plan) -> list[str]:
    """What the curriculum does for other forms of the model."""
    rows = []
    for group, runs in groups.items():
        for form, variants in plan.forms.items():
            without_and_with = [of_variant(runs, variant) for variant in variants]
            # One of the two alone says nothing about the curriculum.
            if not all(without_and_with):
                continue
            cells = []
            for pair in FORM_CONTRASTS:
                cells += [nats(mean(pair.differences(members))) for members in without_and_with]
            rows.append([label_of(group), form, *cells])
    if not rows:
        return []
    head = " | ".join(f"{pair}, without | with" for pair in FORM_CONTRASTS)
    return [
        "## Other forms of the model",
        "",
        "Each form trained without the curriculum and with it; means over what replicates there are.",
        *table(f"group | form | {head}", rows, left=2),
    ]


# --- overlap ------------------------------------------------------------------------------------------------------


def overlap_section(groups: Groups) -> list[str]:
    """Nats saved by found neighbours, by how much of a chunk stands in what is found for it."""
    rows = []
    for group, runs in groups.items():
        baseline = of_variant(runs, BASELINE)
        # A range of the shared share, of all replicates.
        for buckets in zip(*(run["overlap"] for run in baseline), strict=True):
            rows.append([label_of(group), *bucket_cells(buckets)])
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


def bucket_cells(buckets: Sequence[Record]) -> list[str]:
    first = buckets[0]
    cells = [f"{first['above']:.1%} to {first['at_most']:.1%}", f"{first['tokens']:,}"]
    # A bucket of a small text may hold no predicted token, and then has no loss.
    measured = [bucket for bucket in buckets if bucket["found"] is not None]
    for rival in ("off", "twin"):
        cells.append(spread([bucket[rival] - bucket["found"] for bucket in measured]))
    return cells


# --- what is not there --------------------------------------------------------------------------------------------


def failures_section(failed: Sequence[Record]) -> list[str]:
    """Trainings that came to no end."""
    if not failed:
        return []
    lines = []
    for run in failed:
        name = f"{label_of(group_of(run))}, {run['variant']}, replicate {run['replicate']}"
        lines.append(f"- {name}: {run['failed']}.")
    return ["## What failed", "", *lines, ""]


def missing_section(groups: Groups, plan: Plan) -> list[str]:
    """What the plan has and the records have not."""
    lines = []
    variants = [{run["variant"] for run in runs} for runs in groups.values()]
    most = max(map(len, variants), default=0)
    for group, runs in groups.items():
        for sentence in missing_of(runs, plan, most):
            lines.append(f"- {label_of(group)}: {sentence}.")
    run_at = {(size, corpus) for size, corpus, _ in groups}
    for size in plan.sizes:
        corpora = [corpus for corpus in plan.corpora if (size, corpus) not in run_at]
        if corpora:
            lines.append(f"- {size}: nothing was run on {'; '.join(corpora)}.")
    return ["## Not run yet", "", *(lines or ["Nothing is missing."]), ""]


def missing_of(runs: Sequence[Record], plan: Plan, most: int) -> list[str]:
    """Of one group, in sentences without their end.

    Args:
        most: variants of the fullest group, with which the others are compared.
    """
    counts = {name: len(of_variant(runs, name)) for name in plan.variants}
    present = plan.in_order({run["variant"] for run in runs})
    missing = [name for name in plan.variants if name not in present]
    sentences = []
    if set(present) <= set(plan.replicated) or len(present) < most:
        # Where most is missing, what is there is the shorter list.
        sentences.append(f"nothing but {' and '.join(present)}")
    elif missing:
        sentences.append(f"not run: {'; '.join(missing)}")
    for name in plan.replicated:
        if 0 < counts[name] < plan.replicates:
            sentences.append(f"{name} has {counts[name]} of {plan.replicates} replicates")
    single = [name for name in plan.variants if name not in plan.replicated and counts[name] == 1]
    if single:
        sentences.append(f"one replicate only of {len(single)} of the other variants")
    return sentences
