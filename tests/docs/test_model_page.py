"""The page on the model: its worked example is what the model does, and the settings it names are there."""

import re
from pathlib import Path

import torch

from chunkwise.model import RetroOptions
from chunkwise.model.grid import Grid

PAGE = (Path(__file__).parent.parent.parent / "docs" / "model.md").read_text(encoding="utf-8")


def row(name: str) -> list[int | None]:
    """The numbers of the worked example's row that begins so; None for a dash."""
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {name}"))
    return [None if cell.strip() == "–" else int(cell) for cell in line.strip("|").split("|")[1:]]


def test_the_worked_example_is_the_grid():
    m, tokens = 4, 12
    assert row("position") == list(range(tokens))
    assert row("chunk u") == [position // m for position in range(tokens)]
    grid = Grid.of(0, tokens, m, m, [0])
    states = torch.arange(1, tokens + 1).reshape(1, tokens, 1)  # 0 is left for the places that a row lacks
    rows = grid.group(states)[0, ..., 0]
    reads, slots = [None] * tokens, [None] * tokens
    for window, places in enumerate(rows.tolist()):
        for slot, token in enumerate(places):
            if token:
                reads[token - 1], slots[token - 1] = window, slot
    assert row("reads neighbours of chunk") == reads
    assert row("slot i") == slots


def test_the_settings_that_the_page_names_exist():
    table = PAGE[PAGE.index("## Settings") : PAGE.index("Controls are settings")]
    cells = [line.strip("|").split("|")[1] for line in table.splitlines() if line.startswith("| ")][1:]
    named = {name.split(":")[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert named and named <= set(RetroOptions.model_fields)
