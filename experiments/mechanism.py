"""Does a decoder that was given retrieval use it, and which parts matter: RETRO's ablations, small, with replicates.

    python experiments/mechanism.py --data DIR --out docs/results/mechanism

DIR holds documentation, news, books and papers as JSON Lines (`docs.train.jsonl.zst` and so on, field `text`). A Llama
of 3.4 million parameters is trained on one half of the documents. Then the documentation alone, whose pages repeat one
another as news and books do not, gives the text to train on and the datastore (both halves), and the decoder is given
retrieval in seven ways, three times each, and measured on pages of neither half. About two hours of CPU; interrupted,
the same call goes on.

Two forms of Retro, because the published one, whose neighbour encoder starts from random numbers, learns nothing from
found neighbours in the sixth of a million tokens of this budget (experiments/onset.py has what teaches it). `copying`
has the four departures of the profile laptop-copying (docs/decisions.md), one head, no conditioning, no positions, and
random neighbours for 30 % of the chunks, and takes what can be asked of any form; `published` has the package's
defaults (RETRO's cross-attention and conditioning, InstructRetro's width, embeddings and trained backbone), and takes
the rest.

Writes OUT/copying.json and OUT/published.json (the studies' reports, whole), and OUT/README.md and OUT/summary.json,
which are made from them alone (what stands beside RETRO's table 13, Kendall's tau); --render makes these two again.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SourceConfig
from chunkwise.lab.profile import Profile
from chunkwise.lab.run import ablate
from chunkwise.training.config import BaseConfig, DecoderConfig
from experiments import base_model
from experiments.paper_rows import Json, beside_table_13, by_overlap, conditions_lines, overlap_lines, table_13_lines

SOURCES = ("docs", "news", "books", "papers")
STUDIED = ("docs",)
BASE = BaseConfig(
    decoder=DecoderConfig(width=192, layers=6, heads=6, max_tokens=1024, feed_forward_width=512),
    train=base_model.BASE_CONFIG.train.model_copy(update={"tokens": 3_276_800, "log_steps": 25}),
)
THREE = [2, 4, 6]
FORMS: dict[str, dict[str, Any]] = {
    "copying": {
        "retro": {
            "cca_heads": 1,
            "encoder": "decoder",
            "encoder_layers": 2,
            "query_conditioning": False,
            "relative_positions": "none",
            "previous_token_keys": 1,
            "similarity_init": True,
            "null_key": True,
        },
        "random_neighbours": 0.3,
    },
    "published": {"retro": {"encoder": "new", "encoder_layers": 2, "encoder_embeddings": "shared"}},
}
LIMITS = {
    "copying": (
        "Settings of retrieval are those of the profile laptop-copying, chosen on another corpus, but for the layers "
        "and for random neighbours (30 % of the chunks, there 40), which were set after a look at another corpus; no "
        "arm was tuned."
    ),
    "published": "Settings of retrieval are the package's defaults; nothing was tuned.",
}
SINCE = {
    "published": (
        " It read found neighbours alone; with made neighbours the same form learns to read\n([log](../../log.md))."
    )
}
"""What is known by now and was not when the studies were made."""
PLANS = {
    "copying": {
        "Cross-attention": ("REMOVE", "chunk-wise cross-attention", None),
        "What is read of a neighbour": ("REPLACE", "neighbour continuation", "neighbour only, continuation only"),
        "Layers": ("REPLACE", "CCA layers", "one mid layer, all layers"),
    },
    "published": {
        "Cross-attention": ("REMOVE", "chunk-wise cross-attention", None),
        "Conditioning": ("REMOVE", "query conditioning", None),
    },
}
# RETRO, table 13: bits per byte on C4, 247M parameters, one run each. By our label of the arm; "" is the baseline.
TABLE_13 = {
    "copying": {
        "": ("default", 0.822),
        "REMOVE chunk-wise cross-attention": ("no retrieval", 0.987),
        "neighbour only": ("neighbours only", 0.950),
        "continuation only": ("continuations only", 0.895),
        "one mid layer": ("one layer, 6 of 12", 0.823),
        "all layers": ("all layers", 0.860),
    },
    "published": {
        "": ("shared embeddings", 0.823),
        "REMOVE chunk-wise cross-attention": ("no retrieval", 0.987),
        "REMOVE query conditioning": ("no query conditioning", 0.829),
    },
}


def corpus_of(data: Path, sources: tuple[str, ...]) -> CorpusConfig:
    """Some sources; 3 % of the documents are measured, 45 % stand in the datastore alone: by a hash, so the same ones
    whatever other sources there are."""
    return CorpusConfig(
        sources=tuple(
            SourceConfig(kind="jsonl", source=name, path=str(data / f"{name}.train.jsonl.zst")) for name in sources
        ),
        valid_fraction=0.03,
        held_fraction=0.45,
    )


def profile_of(form: str, corpus: CorpusConfig, base: Path, replicates: int, steps: int) -> Profile:
    """The baseline of one form: three layers with cross-attention, two neighbours, both halves of each."""
    retro = {"neighbours": 2, "cca_layers": THREE} | FORMS[form]["retro"]
    return Profile.parse(
        {
            "name": f"mechanism-{form}",
            "corpus": corpus.model_dump(mode="json"),
            "tokenizer": base_model.TOKENIZER_CONFIG.model_dump(mode="json"),
            "training_text": {"layout": "documents", "max_rows_per_document": 8},
            "evaluation_text": {
                "split": "valid", "layout": "documents", "max_rows_per_document": 6, "max_tokens": 50_000,
            },
            "pretrained": str(base),
            "retrofit": FORMS[form] | {
                "retro": retro,
                "train": {
                    "steps": steps, "batch_sequences": 8, "learning_rate": 5e-4, "retrieval_learning_rate": 3e-3,
                    "warmup_steps": 10, "log_steps": 10, "validation_sequences": 0, "checkpoint_steps": 40,
                },
            },
            "replicates": replicates,
            "metrics": ["perplexity"],
            "limits": [LIMITS[form]],
        },
        where=f"the profile {form}",
    )  # fmt: skip


def plan_text(form: str) -> str:
    """The plan, as a person would write it."""
    lines = [f"# RETRO's ablations, {form} form", "## Ablation Plan"]
    for name, (action, part, replacement) in PLANS[form].items():
        lines += [f"### {name}", f"- **Ablated Part**: {part}", f"- **Action**: {action}"]
        lines += [f"- **Replacement**: {replacement}"] if replacement else []
        lines += ["- **Metrics**: perplexity"]
    return "\n".join(lines) + "\n"


def summary_of(reports: dict[str, Json]) -> Json:
    """All that the page says, by form."""
    return {form: study_summary(form, results) for form, results in reports.items()}


def study_summary(form: str, results: Json) -> Json:
    names = ("label", "parameters", "steps", "train_tokens")
    return {
        "replicates": results["replicates"],
        "arms": [{name: arm[name] for name in names} for arm in results["arms"]],
        "conditions": results["mechanism"],
        "checks": results["mechanism_checks"],
        "overlap": by_overlap(results),
        "table_13": beside_table_13(TABLE_13[form], results),
    }


ROWS_REMARK = [
    "Rows are matched by what was changed; the baselines are not alike (layers 2, 4, 6 of 6 against 6, 9, 12\n"
    "of 12; see the head of the experiment for the rest)."
]


def page(summary: Json) -> str:
    """README.md, of the summary alone."""
    lines = [
        "# Does it read, and what matters: RETRO's ablations, small, with replicates",
        "",
        "Made by `experiments/mechanism.py` from the studies' reports beside it; its head says what was done. A",
        "decoder of 3.4 million parameters, retrofitted with a sixth of a million tokens: figures tell whether the",
        "mechanism works and what it hangs on here, not what RETRO reaches. Differences are nats per token of",
        "evaluated text, below 0 is better; intervals are paired by replicate, 95 % unless a level is given.",
        "",
        "The documentation was chosen after a look: a first try on all four sources was stopped after five trainings",
        "of 60 steps, whose losses with 2 and with 4 neighbours agreed to three digits; random neighbours went from",
        "40 to 30 % of the chunks at the same time. News, books and abstracts",
        "seldom repeat one another, and little can be copied from what is found for them.",
    ]
    for form, study in summary.items():
        lines += ["", f"## The {form} form", "", *form_lines(study, SINCE.get(form, ""))]
    return "\n".join(lines) + "\n"


def form_lines(study: Json, since: str) -> list[str]:
    """What one form's study says.

    Args:
        since: what is known by now.
    """
    retro = next(arm for arm in study["arms"] if arm["label"] == "Retro")
    return [
        f"{study['replicates']} replicates; {retro['parameters'] / 1e6:.1f} million parameters with retrieval, "
        f"{retro['steps']} steps, {retro['train_tokens']:,} tokens.{since}",
        "",
        *conditions_lines(study["conditions"], study["checks"]),
        "",
        *overlap_lines(study["overlap"]),
        "",
        *table_13_lines(study["table_13"], ROWS_REMARK),
    ]


def render(out: Path) -> None:
    """summary.json and README.md from the reports that are in `out`."""
    reports = {}
    for form in FORMS:
        file = out / f"{form}.json"
        # While the first study is there and the second still runs.
        if file.exists():
            reports[form] = json.loads(file.read_text(encoding="utf-8"))["results"]
    summary = summary_of(reports)
    (out / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "README.md").write_text(page(summary), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the four sources")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/mechanism"), help="reports as pages, and plans")
    parser.add_argument("--steps", type=int, default=80, help="of each continued training, 2,048 tokens each")
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--dry-run", action="store_true", help="what would be trained, and how long")
    parser.add_argument("--render", action="store_true", help="train nothing: the page again, from the reports")
    options = parser.parse_args()
    if options.render:
        render(options.out)
        return
    if options.data is None:
        parser.error("--data: name the folder with the four sources")
    store, data, base = Store(), options.data.resolve(), options.work.resolve() / "base"
    # On all four sources, so that the decoder knows more than the text that is studied.
    base_model.train(BASE, corpus_of(data, SOURCES), store, base)
    corpus = corpus_of(data, STUDIED)
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for form in options.forms:
        plan = options.work / f"{form}.md"
        plan.write_text(plan_text(form), encoding="utf-8")
        out = options.work / form
        profile = profile_of(form, corpus, base, options.replicates, options.steps)
        ablate(plan, profile, out, store=store, dry_run=options.dry_run, command="python experiments/mechanism.py")
        if not options.dry_run:
            report = (out / "report.json").read_text(encoding="utf-8")
            for here, name in ((data, "DATA"), (options.work.resolve(), "WORK")):  # as it is on every machine
                report = report.replace(str(here), name)
            (options.out / f"{form}.json").write_text(report, encoding="utf-8")
            # After each form: the second takes another hour.
            render(options.out)


if __name__ == "__main__":
    main()
