"""What would settle the answers that are open, and why others have no verdict."""

from __future__ import annotations

from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.verdicts import OPEN
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table, Text


def settling(material: Material) -> Blocks:
    rows = []
    untested: dict[str, list[str]] = {}
    for contrast in material.contrasts.values():
        if contrast.family.startswith("levels"):
            continue
        name = say.capital(material.name(contrast))
        if contrast.experiment != "arm":
            name += f", {contrast.experiment}"
        title = material.metric(contrast.metric).title
        if contrast.verdict in OPEN:
            rows.append(Row([name, title, *_needs(contrast), _stopped(contrast)]))
        elif contrast.reason:
            reason = f"{title}, because {_stopped(contrast)}"
            untested.setdefault(reason, []).append(name)
    headers = ["Open", "Metric", "Replicates (range)", "Text", "Chance", "Stopped"]
    caption = (
        "Replicates, and text where more of it is needed, that would settle it; the range is what "
        "the noise seen here leaves open, the chance that of a verdict."
    )
    blocks: Blocks = [Table(headers, rows, caption, words=(0, 1, 5))]
    for reason, names in untested.items():
        blocks.append(Text(f"No verdict on {reason}: {'; '.join(names)}.", "item"))
    return blocks


def _needs(contrast: Contrast) -> tuple[str | None, str | None, str | None]:
    """Replicates with their range, text, and the chance of a verdict."""
    settles = contrast.settles
    # As far as the search for a number goes.
    if settles is None:
        return "more than 1,000", None, None
    low, high = _many(settles.low), _many(settles.high)
    replicates = f"{settles.replicates} ({low} to {high})"
    text = None if settles.text == 1 else f"{settles.text}\N{MULTIPLICATION SIGN}"
    return replicates, text, f"{100 * settles.chance:.0f} %"


def _many(replicates: int | None) -> str:
    return "more than 1,000" if replicates is None else f"{replicates}"


def _stopped(contrast: Contrast) -> str:
    """Why nothing more was trained for it, or why it was not tested."""
    if contrast.stopped != "futile" or contrast.chance is None:
        return contrast.reason
    return (
        f"stopped at look {contrast.look} of {contrast.looks}: a chance of "
        f"{100 * contrast.chance:.0f} % that all replicates would change the word"
    )
