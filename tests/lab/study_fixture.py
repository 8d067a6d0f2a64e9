"""A made-up study with known effects, as the run engine would hand it over."""

import numpy as np

from chunkwise.lab.measure.reference import reference_of
from chunkwise.lab.measure.results import (
    ArmRow,
    Check,
    Controls,
    Curve,
    CurvePoint,
    Grid,
    JobRow,
    Measurement,
    OverlapRow,
    PlanEntry,
    Run,
    RunLog,
    StudyResults,
    ViewRow,
    Waterfall,
    WaterfallStep,
)
from chunkwise.lab.resolve.paper import load_paper
from chunkwise.lab.resolve.resolution import ResolutionRow
from chunkwise.lab.terms import Comparison, Selector

HALVING = 0.03  # nats per halving of the datastore, planted
TWIN_LOSS = 3.55
SIZE, REMOVE = "Ablation on Retrieval Database Size", "Ablation on Chunk-wise Cross-Attention"
VIEWS = {"1/2": (0.5, "600B tokens"), "1/4": (0.25, "300B tokens"), "1/8": (0.125, "150B tokens")}


def made_study(replicates: int = 3, *, halving: float = HALVING, noise: float = 0.002, seed: int = 0) -> StudyResults:
    """Losses of the twin 3.55, with retrieval 3.40; each halving costs `halving`; accuracy 0.40 against 0.27."""
    random = np.random.default_rng(seed)
    cells, views = [], []
    runs_of = range(replicates)
    level = {r: random.normal(0, 0.01) for r in runs_of}  # what a replicate shares over its arms

    def add(at: Selector, metric: str, mean: float, spread: float, error: float | None = None) -> None:
        for r in runs_of:
            value = mean + (level[r] if metric == "perplexity" else 0.3 * level[r]) + random.normal(0, spread)
            cells.append(
                Measurement(at=at, replicate=r, metric=metric, value=value, standard_error=error, examples=600)
            )

    retro, twin = Selector(arm="retro"), Selector(arm="twin", condition="none")
    for name, mean in {"on": 3.40, "off": 3.556, "random": 3.552, "oracle": 2.31}.items():
        add(Selector(arm="retro", condition=name), "perplexity", mean, noise)
    add(twin, "perplexity", TWIN_LOSS, noise)
    add(Selector(arm="base", condition="none"), "perplexity", 3.71, noise)
    add(Selector(arm="retro-mid"), "perplexity", 3.402, noise / 4)
    add(Selector(arm="prompted", condition="prompt"), "perplexity", 3.47, noise * 8)
    both, prompt = Selector(arm="retro", condition="both"), Selector(arm="twin", condition="prompt")
    add(both, "choice_accuracy", 0.40, 0.004, 0.02)
    add(prompt, "choice_accuracy", 0.27, 0.004, 0.018)
    for arm, scores in {
        "retro": {"closed": 0.258, "prompt": 0.291, "encoder": 0.362},
        "twin": {"closed": 0.251},
        "placebo": {"closed": 0.249, "prompt": 0.253, "encoder": 0.247, "both": 0.251},
        "words": {"prompt": 0.315},
    }.items():
        for condition, mean in scores.items():
            add(Selector(arm=arm, condition=condition), "choice_accuracy", mean, 0.004, 0.018)
    add(Selector(arm="retro-mid", condition="both"), "choice_accuracy", 0.395, 0.01, 0.02)
    add(Selector(arm="prompted", condition="prompt"), "choice_accuracy", 0.262, 0.004, 0.018)
    for step, view in enumerate(VIEWS, start=1):
        add(Selector(arm="retro", view=view), "perplexity", 3.40 + halving * step, noise)
        add(Selector(arm="retro", condition="both", view=view), "choice_accuracy", 0.40 - 0.035 * step, 0.004, 0.02)
        add(Selector(arm=f"retro-{view}", view=view), "perplexity", 3.40 + 0.8 * halving * step, 3 * noise)
    for r in runs_of:
        for view, fraction, label in [("full", 1.0, "full"), *((v, f, v) for v, (f, _) in VIEWS.items())]:
            real = fraction if view == "full" else fraction * (1 + random.normal(0, 0.01))
            views.append(
                ViewRow(
                    view=view,
                    label=label,
                    replicate=r,
                    realised_fraction=real,
                    tokens=int(9.1e6 * real),
                    documents=int(14210 * real),
                    chunks=int(151000 * real),
                    neighbours_per_chunk=2.0 - 0.02 * (1 - real),
                    share_short=0.004 * (1 - real),
                    drops={"same document": 81230, "overlap": 412},
                )
            )

    def curve(arm: str, r: int, end: float) -> Curve:
        tokens = [65_536 * 2**i for i in range(7)]
        losses = [3.71 - (3.71 - end) * (i / 6) ** 0.8 + level[r] for i in range(7)]
        points = [
            CurvePoint(step=t // 8192, tokens=t, train_loss=x - 0.05, validation_loss=x)
            for t, x in zip(tokens, losses, strict=True)
        ]
        return Curve(arm=arm, replicate=r, points=tuple(points))

    comparisons = [
        Comparison(
            entry=SIZE,
            label=label,
            done=f"nested {view} of the datastore",
            experiment="swap",
            series="size",
            fraction=fraction,
            arm=Selector(arm="retro", view=view),
            baseline=retro,
            metrics=("perplexity", "choice_accuracy"),
            at={"choice_accuracy": (Selector(arm="retro", condition="both", view=view), both)},
        )
        for view, (fraction, label) in VIEWS.items()
    ]
    comparisons += [
        Comparison(
            entry=SIZE,
            label=label,
            done=f"trained with nested {view}",
            experiment="retrain",
            role="extra",
            series="size",
            fraction=fraction,
            arm=Selector(arm=f"retro-{view}", view=view),
            baseline=retro,
            metrics=("perplexity",),
        )
        for view, (fraction, label) in VIEWS.items()
    ]
    comparisons += [
        Comparison(
            entry=REMOVE,
            label=label,
            done=done,
            arm=arm,
            baseline=retro,
            metrics=("perplexity", "choice_accuracy"),
            at={"choice_accuracy": (asked, both)},
        )
        for label, done, arm, asked in (
            ("without cross-attention", "the twin: same base, tokens and order, never retrieved", twin, prompt),
            (
                "gate at 0",
                "trained with retrieval, evaluated without",
                Selector(arm="retro", condition="off"),
                Selector(arm="retro", condition="prompt"),
            ),
        )
    ]
    modify = "Ablation on the Design of Cross-Attention"
    comparisons += [
        Comparison(
            entry=modify,
            label=label,
            done=done,
            arm=arm,
            baseline=retro,
            metrics=("perplexity", "choice_accuracy"),
            at={"choice_accuracy": (asked, both)},
        )
        for label, done, arm, asked in (
            (
                "one middle layer",
                "cross-attention in layer 3 of 6 only",
                Selector(arm="retro-mid"),
                Selector(arm="retro-mid", condition="both"),
            ),
            (
                "neighbours in the prompt",
                "neighbours as text before the chunk, at equal tokens",
                Selector(arm="prompted", condition="prompt"),
                Selector(arm="prompted", condition="prompt"),
            ),
        )
    ]
    base = ArmRow(
        id="base",
        label="Base",
        role="base",
        parameters=11_200_000,
        trainable_parameters=11_200_000,
        train_tokens=0,
        steps=0,
        train_flops=0.0,
        eval_flops_per_token=2.4e7,
        implied=("parameters", "trainable_parameters", "train_tokens", "steps", "train_flops", "eval_flops_per_token"),
    )
    size = {
        "parameters": 13_600_000,
        "trainable_parameters": 13_600_000,
        "train_tokens": 4_194_304,
        "steps": 512,
        "train_flops": 4.1e14,
        "eval_flops_per_token": 3.3e7,
    }
    smaller = size | {
        "parameters": 11_200_000,
        "trainable_parameters": 11_200_000,
        "train_flops": 2.8e14,
        "eval_flops_per_token": 2.4e7,
    }
    cost = ("parameters", "trainable_parameters", "train_flops", "eval_flops_per_token")
    arms = (
        ArmRow(id="retro", label="Retro", words="retrofitted with the full datastore", role="retro", **size),
        ArmRow(
            id="twin",
            label="Twin",
            words="same base, tokens and order, no retrieval",
            role="twin",
            implied=cost,
            **smaller,
        ),
        ArmRow(id="retro-mid", label="Retro, one middle layer", implied=cost, **(size | {"parameters": 12_300_000})),
        ArmRow(
            id="prompted", label="Neighbours in the prompt", implied=cost, **(smaller | {"train_tokens": 4_190_208})
        ),
        base,
    )
    ranges = [(0.0, 0.02), (0.02, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)]
    overlap = tuple(
        OverlapRow(
            replicate=r,
            low=low,
            high=high,
            tokens=tokens,
            losses={"on": 3.5 - gain + random.normal(0, 0.01), "twin": 3.5, "off": 3.506},
        )
        for r in runs_of
        for (low, high), gain, tokens in zip(
            ranges, (0.01, 0.06, 0.22, 0.6, 1.2), (52e4, 21e4, 9e4, 5e4, 2e4), strict=True
        )
    )
    systems = {"Retro (ours)": "retro", "Twin": "twin", "Placebo datastore": "placebo", "Bag of words": "words"}
    columns = ("closed", "prompt", "encoder", "both")
    placed = {(cell.at.arm, cell.at.condition) for cell in cells if cell.metric == "choice_accuracy"}
    rows = tuple(
        (label, tuple(Selector(arm=arm, condition=c) if (arm, c) in placed else None for c in columns))
        for label, arm in systems.items()
    )
    question = [
        ("Base model tuned, closed book", Selector(arm="twin", condition="closed")),
        ("Passages in the prompt", prompt),
        ("Continued pretraining with retrieval", Selector(arm="retro", condition="prompt")),
        ("Cross-attention at inference", both),
    ]
    text = [
        ("Base model", Selector(arm="base", condition="none")),
        ("Continued pretraining", twin),
        ("Trained with retrieval, gate at 0", Selector(arm="retro", condition="off")),
        ("Cross-attention at inference", retro),
    ]
    entries = (
        PlanEntry(
            name=SIZE,
            ablated_part="retrieval database size and composition",
            action="REPLACE",
            replacements=("600B tokens", "300B tokens", "150B tokens"),
            metrics=("perplexity", "zero-shot QA accuracy"),
        ),
        PlanEntry(
            name=REMOVE,
            ablated_part="chunk-wise cross-attention mechanism",
            action="REMOVE",
            metrics=("perplexity", "zero-shot QA accuracy"),
        ),
        PlanEntry(
            name=modify,
            ablated_part="chunk-wise cross-attention",
            action="REPLACE",
            replacements=("one middle layer", "neighbours in the prompt"),
            metrics=("perplexity",),
        ),
    )
    return StudyResults(
        title="InstructRetro: instruction tuning post retrieval-augmented pretraining",
        source_digest="375750af1848d3db9c1e0b7f5a6d2c43",
        profile="laptop",
        replicates=replicates,
        entries=entries,
        resolution=(
            *(
                ResolutionRow(
                    entry=SIZE,
                    words=label,
                    status="resolved",
                    component="datastore.size",
                    score=0.93,
                    runner_up="datastore.composition 0.71",
                    paper_value="1.2T tokens",
                    ratio=view,
                    local_target=view,
                    realised=f"{100 * fraction:.1f} % of tokens",
                    arm=f"retro on {view}",
                )
                for view, (fraction, label) in VIEWS.items()
            ),
            ResolutionRow(
                entry=REMOVE,
                words="chunk-wise cross-attention mechanism",
                status="resolved",
                component="model.cross_attention",
                score=1.0,
                arm="twin",
                warnings=("parameters shrink with it",),
            ),
        ),
        comparisons=tuple(comparisons),
        arms=arms,
        views=tuple(views),
        cells=tuple(cells),
        curves=tuple(curve(arm, r, end) for arm, end in (("retro", 3.40), ("twin", 3.55)) for r in runs_of),
        overlap=overlap,
        controls=Controls(
            on=retro,
            off=Selector(arm="retro", condition="off"),
            twin=twin,
            random=Selector(arm="retro", condition="random"),
            oracle=Selector(arm="retro", condition="oracle"),
        ),
        waterfalls=(
            Waterfall(metric="perplexity", steps=tuple(WaterfallStep(label=a, at=b) for a, b in text)),
            Waterfall(metric="choice_accuracy", steps=tuple(WaterfallStep(label=a, at=b) for a, b in question)),
        ),
        grids=(
            Grid(
                title="Questions on documents outside all training text",
                metric="choice_accuracy",
                columns=("closed-book", "prompt", "encoder", "both"),
                rows=rows,
            ),
        ),
        exchange=("retro", "twin"),
        runs=tuple(
            Run(arm=arm.id, replicate=r, key=f"{arm.id}{r}".encode().hex().ljust(24, "0"))
            for arm in arms
            for r in runs_of
        ),
        checks=(
            Check(name="views are nested", passed=True, detail="1/8 in 1/4 in 1/2 in all replicates"),
            Check(name="one view equals a rebuilt index", passed=True, detail="1/4, 2,000 queries, 0 rows differ"),
            Check(name="gate at 0 equals the decoder", passed=True, detail="largest logit difference 0"),
        ),
        reference=reference_of(load_paper("retro")),
        not_measured={"human preference": "no such metric here; nearest: choice accuracy"},
        limits=(
            "Scale: 13.6 M parameters and 9.1 M datastore tokens against 48 B and 1.2 T in the paper.",
            "Arms were not re-tuned: one learning rate, chosen for the twin.",
        ),
        shared_base=True,
        commands=("chunkwise ablate instructretro --profile laptop --out runs/demo",),
        plan_text="### Ablation on Retrieval Database Size\n- **Ablated Part**: retrieval database size",
        profile_text="replicates: 3\nsize_experiment: swap",
    )


def made_log() -> RunLog:
    return RunLog(
        date="2026-11-23 06:40",
        seconds=812.4,
        machine="2 cores, 8 GB, no accelerator",
        version="0.1.0 (3f2a91c)",
        lock_digest="77ab01",
        jobs=(
            JobRow(stage="retrofit", key="726574726f30", seconds=101.2),
            JobRow(stage="corpus", key="aa", cached=True),
        ),
    )
