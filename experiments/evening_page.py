"""The page of the profile `evening`, from its report: RETRO's and InstructRetro's own questions, beside their figures.

    chunkwise ablate mechanism --profile evening --out runs/evening
    python experiments/evening_page.py runs/evening/report.json --out docs/results/evening

Copies the report to OUT/report.json and writes OUT/README.md, which is made of it alone; without an argument the page
again from OUT/report.json.
"""

import argparse
import json
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.paper_rows import (
    Json,
    beside_table_13,
    by_overlap,
    conditions_lines,
    markdown_row,
    overlap_lines,
    table_13_lines,
)

# RETRO, table 13: bits per byte on C4, 247M parameters, one run each. By our label of the arm; "" is the baseline.
TABLE_13 = {
    "": ("shared embeddings", 0.823),
    "REMOVE chunk-wise cross-attention": ("no retrieval", 0.987),
    "neighbour only": ("neighbours only", 0.950),
    "continuation only": ("continuations only", 0.895),
    "REMOVE query conditioning of the encoder": ("no query conditioning", 0.829),
    "Number of neighbours: 1": ("trained with 1 neighbour", 0.858),
    "Number of neighbours: 4": ("trained with 4 neighbours", 0.847),
    "one mid layer": ("one layer, 6 of 12", 0.823),
}


class Asked(NamedTuple):
    """An arm and condition of ours that answers questions, and InstructRetro's figure."""

    arm: str
    condition: str
    published: float | None
    """Exact match on Natural Questions, arXiv:2310.07713v3: a 43B decoder, one run each."""


QUESTIONS = {
    "twin, tuned; passages in the prompt": Asked("twin", "prompt", 37.0),
    "Retro, tuned with its gate shut; shut at inference (their 43B)": Asked("retro", "prompt", 38.9),
    "the same, open at inference (their 48B)": Asked("retro", "both", 38.6),
    "the same, passages for the encoder alone": Asked("retro", "encoder", None),
    "Retro, tuned with its gate open; open at inference": Asked("gate-1", "both", None),
    "Retro, not tuned; open at inference": Asked("untuned", "both", None),
    "the same, shut at inference": Asked("untuned", "prompt", None),
    "twin, without passages": Asked("twin", "closed", 21.2),
    "Retro, without passages": Asked("retro", "closed", 21.8),
}


def paragraph(text: str) -> str:
    """Text of the page, wrapped."""
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


ROWS_REMARK = paragraph(
    "Rows are matched by what was changed; the baselines are not alike (layers 2, 3, 4 of 4 against 6, 9, 12 of 12, a "
    "curriculum and random neighbours in training here)."
)
QUESTIONS_REMARK = paragraph(
    "Is cross-attention worth anything once the model is tuned, and tuned how? Published: exact match on Natural "
    "Questions of a 43B decoder, one run each. Here: one of four options, answers that stand in the datastore and in "
    "no training text; chance is 25 %. The columns compare in sign and order alone."
)


def accuracy(results: Json, arm: str, condition: str) -> list[float]:
    """Choice accuracy of each replicate, in percent; none where it was not measured."""
    # Smaller datastores are no question of this page.
    at = {"arm": arm, "condition": condition, "view": "full"}
    cells = [cell for cell in results["cells"] if cell["metric"] == "choice_accuracy"]
    return [100 * cell["value"] for cell in cells if cell["at"] == at]


def question_lines(results: Json) -> list[str]:
    """Accuracy beside InstructRetro's, mean over replicates and each of them."""
    lines = ["| what answers | published, NQ | choice accuracy here | replicates |", "|---|---:|---:|---|"]
    for words, asked in QUESTIONS.items():
        values = accuracy(results, asked.arm, asked.condition)
        cells = [
            words,
            str(asked.published or "–"),
            f"{mean(values):.1f} %" if values else "not measured",
            ", ".join(f"{value:.1f}" for value in values),
        ]
        lines.append(markdown_row(cells))
    return lines


@dataclass(frozen=True)
class Scale:
    """How numbers of a metric are shown."""

    factor: int
    digits: int
    unit: str

    def level(self, value: float | None) -> str:
        return "–" if value is None else f"{self.factor * value:.{self.digits}f}"

    def change(self, value: float | None) -> str:
        return "–" if value is None else f"{self.factor * value:+.{self.digits}f}"


NATS = Scale(1, 3, "nats")
POINTS = Scale(100, 1, "points")


def contrast_lines(results: Json) -> list[str]:
    """Every contrast of the plan, with its verdict."""
    lines = [
        "| entry | arm | metric | baseline | arm's | difference [interval] | each replicate | Holm p | verdict |",
        "|---|---|---|---:|---:|---|---|---:|---|",
    ]
    units = {metric["id"]: metric["unit"] for metric in results["metrics"]}
    for contrast in results["contrasts"]:
        # A metric that the report does not describe is one of perplexity.
        in_nats = units.get(contrast["metric"], "nats per token") == "nats per token"
        lines.append(markdown_row(contrast_cells(contrast, NATS if in_nats else POINTS)))
    return lines


def contrast_cells(contrast: Json, scale: Scale) -> list[str]:
    difference = scale.change(contrast["difference"])
    if contrast["interval"]:
        low, high = map(scale.change, contrast["interval"])
        difference += f" [{low}, {high}]"
    return [
        contrast["entry"],
        contrast["arm"],
        contrast["metric"].replace("_", " "),
        scale.level(contrast["baseline_mean"]),
        scale.level(contrast["arm_mean"]),
        f"{difference} {scale.unit}",
        ", ".join(map(scale.change, contrast["differences"])),
        p_value(contrast["p_holm"]),
        contrast["verdict"],
    ]


def p_value(p: float | None) -> str:
    # What was not tested has none.
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def page(report: Json) -> str:
    """README.md."""
    results, run = report["results"], report["run_log"]
    retro = next(arm for arm in results["arms"] if arm["role"] == "retro")
    table = beside_table_13(TABLE_13, results)
    lines = [
        "# An evening's answers: RETRO's and InstructRetro's own questions, in the published form",
        "",
        paragraph(
            "Made by `experiments/evening_page.py` from `report.json` beside it, which `chunkwise ablate mechanism "
            f"--profile evening` wrote on {run['date'][:10]} ({run['machine']}; {run['version']}). Its verdicts are "
            "those of that version, on trainings alone: the choice of files is not in the intervals, and each row has "
            "Holm's level of its own. That version's `chunkwise report` makes its page."
        ),
        "",
        paragraph(
            f"{results['replicates']} replicates that share nothing but the text: each has a base of its own, and each "
            f"arm learnt to read through a curriculum of its own. {retro['parameters'] / 1e6:.1f} million parameters "
            f"with retrieval, {retro['steps']} steps, {retro['train_tokens']:,} tokens. Differences are nats per token "
            "of evaluated text, below 0 is better; intervals are paired by replicate, 95 % unless a level is given."
        ),
        "",
        "## Does it read",
        "",
        *conditions_lines(results["mechanism"], results["mechanism_checks"]),
        "",
        *overlap_lines(by_overlap(results)),
        "",
        "## What matters",
        "",
        *table_13_lines(table, [ROWS_REMARK]),
        "",
        "All contrasts of the plan, perplexity in nats per token and accuracy in percent:",
        "",
        *contrast_lines(results),
        "",
        "## InstructRetro's questions",
        "",
        QUESTIONS_REMARK,
        "",
        *question_lines(results),
    ]
    return "\n".join(lines) + "\n"


def render(out: Path) -> None:
    """README.md from OUT/report.json."""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (out / "README.md").write_text(page(report), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, nargs="?", help="report.json of a finished run")
    parser.add_argument("--out", type=Path, default=Path("docs/results/evening"))
    options = parser.parse_args()
    if options.report is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(options.report, options.out / "report.json")
    render(options.out)


if __name__ == "__main__":
    main()
