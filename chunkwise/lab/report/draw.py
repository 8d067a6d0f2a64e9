"""How figures of the report are drawn: inline SVG, the same bytes for the same numbers.

Text stays text (searchable, readable by a screen reader); colours are CSS variables with a
fallback, so that a page can switch them for a dark screen. Series differ in line style and marker
as well as in colour: they survive grayscale printing. Axes carry units. An exported file (PDF, PNG)
has the fallback colours.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, BAND = "#1f2933", "#616e7c", "#d9dee4", "#eef1f4"
BLUE, ORANGE, GREEN = "#1f6fb2", "#c2570c", "#2f855a"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    BAND: "band",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
}
STYLES = [(BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, ":", "^"), (MUTED, "-.", "D")]
WIDTH_INCHES = 7.4

Style = dict[str, Any]
"""Keyword arguments of one of matplotlib's drawing calls."""


# Any as the type of the keys: matplotlib's stubs list each of its settings.
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "axes.unicode_minus": True,
    "text.parse_math": False,  # labels hold a plan's words, and a dollar sign is a dollar sign
}


def draw(name: str, alt: str, height: float, plot: Callable[[Figure], None]) -> str:
    """One figure as an `<svg>` element.

    Args:
        name: salt of the identifiers inside, so that two figures of a page do not share them.
        alt: what the figure shows, in a sentence, for readers who do not see it.
        height: inches, at a width of WIDTH_INCHES.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Without a salt matplotlib draws random ids, and without pyplot it needs no display.
    with mpl.rc_context(SETTINGS | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        figure.patch.set_alpha(0)
        plot(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        text = io.StringIO()
        # The date and the version of matplotlib would change the bytes.
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", metadata=metadata)
    return _for_page(text.getvalue(), name, alt)


def _for_page(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page that holds several figures."""
    # What stands before <svg, the XML declaration and a doctype, is for files alone.
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.S)
    # Without width and height it takes the width of the page.
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        r'<svg xmlns="http://www.w3.org/2000/svg" '
        rf'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="\1" '
        rf'role="img" class="figure"><title>{escape(alt)}</title>',
        svg,
        count=1,
    )
    # The font that the layout was measured with is rarely on the reader's machine.
    svg = re.sub(
        r"font: ([^;\"]*?)[\d.]+px [^;\"]*",
        lambda font: font[0].replace("'DejaVu Sans'", "sans-serif"),
        svg,
    )
    # An id may stand only once in a page; what points to it is renamed with it.
    prefix = re.sub(r"\W+", "-", name)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable}, {colour})")
    return svg.strip()


def bounded_bar(
    axes: Axes, y: float, bounds: tuple[float, float], limits: tuple[float, float]
) -> None:
    """A horizontal interval; where it leaves the axis it ends in an arrow head.

    Intervals of two replicates are wide: an axis that held them would show nothing else.
    """
    low, high = limits
    axes.plot(np.clip(bounds, low, high), [y, y], color=INK, lw=1.2)
    if bounds[0] < low:
        axes.plot(low, y, "<", color=INK, ms=4, clip_on=False)
    if bounds[1] > high:
        axes.plot(high, y, ">", color=INK, ms=4, clip_on=False)


def zero_line(axes: Axes, *, vertical: bool = False) -> None:
    """Where nothing changes; behind the marks, and thinner than they are."""
    line = axes.axvline if vertical else axes.axhline
    line(0, color=MUTED, lw=0.8)


def list_rows(axes: Axes, labels: Sequence[str], *, room: float = 0.5) -> None:
    """Name the rows of a figure on its y axis, the first on top.

    Args:
        room: before the first row and after the last, in rows.
    """
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - (1 - room), -room)
    # The labels are no scale: a line at each would only cross the bars.
    axes.grid(axis="y", visible=False)


def wrapped(text: str, width: int = 40) -> str:
    """A label in at most two lines, with an ellipsis where it was longer."""
    lines = textwrap.wrap(text, width, max_lines=2, placeholder="\N{HORIZONTAL ELLIPSIS}")
    return "\n".join(lines)


def short(text: str, limit: int = 40) -> str:
    """A label that fits, with an ellipsis where it was longer."""
    if len(text) <= limit:
        return text
    # The ellipsis takes the place of one character, and never follows a blank.
    start = text[: limit - 1].rstrip()
    return f"{start}\N{HORIZONTAL ELLIPSIS}"
