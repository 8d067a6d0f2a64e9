"""Write docs/stages.md from the declarations: python scripts/stages_docs.py (tests/docs checks that it was run)."""

from pathlib import Path

from chunkwise.graph.stage import Stage, stages

PAGE = Path(__file__).parent.parent / "docs" / "stages.md"
HEAD = """# Stages

Every step of the pipeline is a stage: a value that names its config, its inputs and the function that builds it
([chunkwise/graph/stage.py](../chunkwise/graph/stage.py)). Results are found again by the recipe and the content of the
inputs. `chunkwise stage run NAME` runs any of them; `chunkwise stage ls --json` lists them. Written by
`python scripts/stages_docs.py`; do not edit.

| stage | makes | inputs (optional ones in brackets) | seed | settings | builder |
|---|---|---|---|---|---|
"""


def render() -> str:
    """The page."""
    return HEAD + "".join(f"{row(stage)}\n" for stage in stages().values())


def row(stage: Stage) -> str:
    """One stage as a row of the table."""
    inputs = [f"[{name}]" if wanted.optional else name for name, wanted in stage.inputs.items()]
    module, _, name = stage.build.partition(":")
    cells = (
        f"`{stage.name}`",
        f"`{stage.kind}`",
        ", ".join(inputs) or "none",
        "yes" if stage.seeded else "no",
        f"`{stage.config.__name__}`",
        f"`{module.removeprefix('chunkwise.')}.{name}`",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
