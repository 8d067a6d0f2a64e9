"""The figure of docs/model.md: who reads whose neighbours, drawn from the rule and beside it measured on a model.

    python scripts/model_figure.py           # writes docs/model.png

The measurement: a small Llama with retrieval and random weights reads 12 tokens in chunks of 4. The neighbours of one
chunk are replaced, and the largest change of the logits is taken at every position. Nothing is trained: where nothing
changes, nothing can be read.
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from transformers import LlamaConfig, LlamaForCausalLM

from chunkwise.model import RetroForCausalLM, RetroOptions

M, CHUNKS, LAYERS = 4, 3, 4
TOKENS = M * CHUNKS
COLOURS = ("#4477aa", "#cc8833", "#228866")
INK = "#222222"


def reads(position: int) -> int | None:
    """Which chunk's neighbours a position reads in cross-attention; None for the first m - 1."""
    return (position - (M - 1)) // M if position >= M - 1 else None


def influence(cca_layers: tuple[int, ...]) -> np.ndarray:
    """[chunk, position]: largest change of the logits when the neighbours of one chunk are replaced."""
    torch.manual_seed(0)
    decoder = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
            pad_token_id=0,
        )
    ).double()  # fmt: skip
    # Without conditioning: with it the encoder reads the query chunk too, and its own states decide what changes.
    options = RetroOptions(chunk_tokens=M, cca_layers=cca_layers, encoder_layers=1, query_conditioning=False)
    model = RetroForCausalLM.from_decoder(decoder, options).eval()
    with torch.no_grad():
        for name in model.retrieval_parameter_names():
            parameter = model.get_parameter(name)
            if not parameter.any():
                parameter.normal_(std=0.1)  # a fresh output projection is zero: it would read and add nothing
        text = torch.randint(1, 97, (1, TOKENS))
        neighbours = torch.randint(1, 97, (1, CHUNKS, 2, 2 * M))
        before = model(text, neighbour_ids=neighbours).logits
        changes = np.zeros((CHUNKS, TOKENS))
        for chunk in range(CHUNKS):
            other = neighbours.clone()
            other[:, chunk] = torch.randint(1, 97, other[:, chunk].shape)
            changes[chunk] = (model(text, neighbour_ids=other).logits - before).abs().amax(-1)[0]
    return changes


def draw_rule(axes: plt.Axes) -> None:
    """Chunks, their neighbours, and the positions that read them."""
    axes.set_xlim(-2.6, TOKENS + 0.1)
    axes.set_ylim(-0.4, 4.35)
    axes.axis("off")
    for y, name in ((0.15, "text"), (1.95, "neighbours\nof the chunk"), (3.55, "cross-attention\nat position")):
        axes.text(-0.35, y + 0.3, name, ha="right", va="center", fontsize=9, color=INK)
    for position in range(TOKENS):
        chunk, read = position // M, reads(position)
        axes.add_patch(Rectangle((position + 0.05, 0), 0.9, 0.75, facecolor=COLOURS[chunk], edgecolor="none"))
        axes.text(position + 0.5, 0.37, str(position), ha="center", va="center", color="white", fontsize=9)
        face = "#eeeeee" if read is None else to_rgb(COLOURS[read])
        axes.add_patch(Rectangle((position + 0.05, 3.45), 0.9, 0.75, facecolor=face, edgecolor="none"))
        ink = "#777777" if read is None else "white"
        axes.text(position + 0.5, 3.82, str(position), ha="center", va="center", color=ink, fontsize=9)
    for chunk in range(CHUNKS):
        # Its neighbours are known when its last token is there: they stand above that token and reach no further back.
        left = M * chunk + M - 1
        width = min(M, TOKENS - left)
        box = FancyBboxPatch((left + 0.1, 1.85), width - 0.2, 0.8, boxstyle="round,pad=0.02,rounding_size=0.12",
                             facecolor="white", edgecolor=COLOURS[chunk], linewidth=1.8)  # fmt: skip
        axes.add_patch(box)
        label = f"found for\n{M * chunk} to {M * chunk + M - 1}" if width > 1 else f"for\n{M * chunk} to {TOKENS - 1}"
        axes.text(left + width / 2, 2.25, label, ha="center", va="center", fontsize=7.5, color=INK)
        style = {"arrowstyle": "-|>", "mutation_scale": 11, "color": COLOURS[chunk], "linewidth": 1.5}
        axes.add_patch(FancyArrowPatch((M * chunk + M / 2, 0.8), (left + min(0.5, width / 2), 1.8), **style))
        axes.add_patch(FancyArrowPatch((left + width / 2, 2.7), (left + width / 2, 3.42), **style))


def draw_measured(axes: plt.Axes, changes: np.ndarray, title: str) -> None:
    """A cell is filled where the logits moved; a dot where they did not, to the bit."""
    for chunk in range(CHUNKS):
        for position in range(TOKENS):
            moved = changes[chunk, position]
            if moved == 0:
                axes.plot(position, chunk, ".", color="#bbbbbb", markersize=4)
                continue
            share = 0.35 + 0.65 * moved / changes.max()
            corner = position - 0.46, chunk - 0.44
            axes.add_patch(Rectangle(corner, 0.92, 0.88, facecolor=COLOURS[chunk], alpha=share))
    axes.set_xlim(-0.6, TOKENS - 0.4)
    axes.set_ylim(CHUNKS - 0.4, -0.6)
    axes.set_xticks(range(TOKENS))
    axes.set_yticks(range(CHUNKS), [f"{M * c} to {M * c + M - 1}" for c in range(CHUNKS)])
    axes.tick_params(length=0, labelsize=8)
    axes.set_xlabel("logits at position", fontsize=9)
    axes.set_title(title, fontsize=9.5, loc="left")
    for side in axes.spines.values():
        side.set_visible(False)


def main() -> None:
    figure = plt.figure(figsize=(9.6, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.55, 1))
    draw_rule(figure.add_subplot(grid[0, :]))
    last, first = influence((LAYERS,)), influence((1,))
    left, right = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    draw_measured(left, last, "measured: cross-attention in the last layer")
    draw_measured(right, first, "measured: in the first; self-attention passes it on")
    left.set_ylabel("neighbours replaced\nof chunk", fontsize=9)
    figure.savefig(Path(__file__).resolve().parents[1] / "docs" / "model.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
