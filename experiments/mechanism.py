"""Does a decoder that was given retrieval use it, and which parts matter: RETRO's ablations, small, with replicates.

    python experiments/mechanism.py --data DIR --out docs/results/mechanism

DIR holds documentation, news, books and papers as JSON Lines (`docs.train.jsonl.zst` and so on, field `text`). A Llama
of 3.4 million parameters is trained on one half of the documents, then given retrieval from both halves in a dozen
ways, three times each, and measured on documents of neither. About two hours of CPU; interrupted, the same call goes on.

Two forms of Retro, because the published one, whose neighbour encoder starts from random numbers, learns to read in
billions of tokens and not in the eighth of a million of this budget: `copying` has the four departures of the laptop
profile (docs/decisions.md) and takes what can be asked of any form; `published` is RETRO's, and takes the rest.

Writes OUT/copying.json and OUT/published.json (the studies' reports, whole), and OUT/README.md and OUT/summary.json,
which are made from them alone (what stands beside RETRO's table 13, Kendall's tau); --render makes these two again.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from chunkwise.ablation.config import Profile
from chunkwise.ablation.run import ablate
from chunkwise.core.store import Store
from chunkwise.corpus.config import CorpusConfig, SequencesConfig, SourceConfig, TokenizerConfig, TokensConfig
from chunkwise.corpus.stage import build_corpus, pack_sequences, tokenize, train_tokenizer
from chunkwise.training.config import BaseConfig, DecoderConfig, TrainOptions
from chunkwise.training.stage import train_base

SOURCES = ("docs", "news", "books", "papers")
TOKENIZER = TokenizerConfig(vocabulary_size=4096)
BASE = BaseConfig(
    decoder=DecoderConfig(width=192, layers=6, heads=6, max_tokens=1024, feed_forward_width=512),
    train=TrainOptions(
        tokens=3_276_800,
        batch_sequences=16,
        learning_rate=3e-3,
        schedule="wsd",
        decay_share=0.25,
        final_share=0.05,
        warmup_steps=50,
        validation_steps=200,
        checkpoint_steps=100,
    ),
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
        "random_neighbours": 0.4,
    },
    "published": {"retro": {"encoder": "new", "encoder_layers": 2, "encoder_embeddings": "shared"}},
}
PLANS = {
    "copying": {
        "Cross-attention": ("REMOVE", "chunk-wise cross-attention", None),
        "What is read of a neighbour": ("REPLACE", "neighbour continuation", "neighbour only, continuation only"),
        "Neighbours": ("REPLACE", "number of neighbours", "1 neighbour, 4 neighbours"),
        "Layers": ("REPLACE", "CCA layers", "layer 1, one mid layer, last layer, all layers"),
    },
    "published": {
        "Cross-attention": ("REMOVE", "chunk-wise cross-attention", None),
        "Conditioning": ("REMOVE", "query conditioning", None),
        "Positions": ("REMOVE", "positional encodings in cross-attention", None),
    },
}
# RETRO, table 13: bits per byte on C4, 247M parameters, one run each. By our label of the arm; "" is the baseline.
TABLE_13 = {
    "copying": {
        "": ("default", 0.822),
        "REMOVE chunk-wise cross-attention": ("no retrieval", 0.987),
        "neighbour only": ("neighbours only", 0.950),
        "continuation only": ("continuations only", 0.895),
        "1 neighbour": ("trained with 1 neighbour", 0.858),
        "4 neighbours": ("trained with 4 neighbours", 0.847),
        "layer 1": ("one layer, 1 of 12", 0.827),
        "one mid layer": ("one layer, 6 of 12", 0.823),
        "last layer": ("one layer, 12 of 12", 0.831),
        "all layers": ("all layers", 0.860),
    },
    "published": {
        "": ("shared embeddings", 0.823),
        "REMOVE chunk-wise cross-attention": ("no retrieval", 0.987),
        "REMOVE query conditioning": ("no query conditioning", 0.829),
        "REMOVE positional encodings in cross-attention": ("no positions in cross-attention", 0.826),
    },
}


def corpus_of(data: Path) -> CorpusConfig:
    """The four sources; 3 % of the documents are measured, 45 % stand in the datastore alone."""
    return CorpusConfig(
        sources=tuple(
            SourceConfig(kind="jsonl", source=name, path=str(data / f"{name}.train.jsonl.zst")) for name in SOURCES
        ),
        valid_fraction=0.03,
        held_fraction=0.45,
    )


def train_decoder(corpus_config: CorpusConfig, store: Store, folder: Path) -> None:
    """Write the base of all arms and its tokenizer; it has read one half of the documents and none of the other."""
    corpus = build_corpus(corpus_config, store)
    tokenizer = train_tokenizer(TOKENIZER, corpus, store)
    tokens = tokenize(TokensConfig(), corpus, tokenizer, store)
    rows = pack_sequences(SequencesConfig(split="train", sequence_tokens=256), tokens, store)
    validation = pack_sequences(SequencesConfig(split="valid", sequence_tokens=256), tokens, store)
    base = train_base(BASE, rows, store, 0, validation=validation)
    folder.mkdir(parents=True, exist_ok=True)
    for file in (*(base.path / "model").iterdir(), *map(tokenizer.file, ("tokenizer.json", "tokenizer_config.json"))):
        shutil.copyfile(file, folder / file.name)


def profile_of(form: str, corpus: CorpusConfig, base: Path, replicates: int, steps: int) -> Profile:
    """The baseline of one form: three layers with cross-attention, two neighbours, both halves of each."""
    retro = {"neighbours": 2, "cca_layers": THREE} | FORMS[form]["retro"]
    return Profile.parse(
        {
            "name": f"mechanism-{form}",
            "corpus": corpus.model_dump(mode="json"),
            "tokenizer": TOKENIZER.model_dump(mode="json"),
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
            "limits": ["Settings of retrieval are the laptop profile's, chosen on another corpus; no arm was tuned."],
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


def beside_retro(form: str, results: dict[str, Any]) -> dict[str, Any]:
    """Our perplexities in the rows of RETRO's table, and how far the two orders agree.

    Kendall's tau-b over the rows; 1 the same order, 0 none, -1 the reverse. p: two-sided, exact, of no association.
    """
    contrasts = {
        (one["arm"] if one["experiment"] == "retrain" else None): one
        for one in results["contrasts"]
        if one["metric"] == "perplexity"
    }
    rows = []
    for label, (published_label, bits) in TABLE_13[form].items():
        if not label:
            some = next(iter(contrasts.values()))
            row = {"loss": some["baseline_mean"], "difference": 0.0, "interval": None, "verdict": "baseline"}
        else:
            found = next(one for one in results["contrasts"] if one["arm"] == label and one["metric"] == "perplexity")
            row = {
                "loss": found["arm_mean"],
                "difference": found["difference"],
                "interval": found["interval"],
                "verdict": found["verdict"],
            }
        rows.append({"label": label or "baseline", "published_label": published_label, "published_bpb": bits, **row})
    tau = kendalltau([row["published_bpb"] for row in rows], [row["loss"] for row in rows])
    return {"rows": rows, "kendall_tau": float(tau.statistic), "kendall_p": float(tau.pvalue)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the four sources")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/mechanism"), help="reports as pages, and plans")
    parser.add_argument("--steps", type=int, default=60, help="of each continued training, 2,048 tokens each")
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--dry-run", action="store_true", help="what would be trained, and how long")
    options = parser.parse_args()
    store, corpus = Store(), corpus_of(options.data.resolve())
    base = options.work.resolve() / "base"
    train_decoder(corpus, store, base)
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for form in options.forms:
        plan = options.work / f"{form}.md"
        plan.write_text(plan_text(form), encoding="utf-8")
        out = options.work / form
        profile = profile_of(form, corpus, base, options.replicates, options.steps)
        ablate(plan, profile, out, store=store, dry_run=options.dry_run, command="python experiments/mechanism.py")
        if not options.dry_run:
            shutil.copyfile(out / "report.json", options.out / f"{form}.json")


if __name__ == "__main__":
    main()
