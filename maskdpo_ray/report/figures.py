"""How every plot of the project looks: matplotlib figures as SVG, the same bytes for the same
data."""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

# Told apart by shape as well as by colour (Okabe and Ito's palette). Seven colours and four dashes
# repeat at different steps, so that 28 lines look different.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":")


def line_style(index: int, points: Sequence[int], marked: bool = False) -> dict[str, Any]:
    """Line style of a system; a series of one point is no line and needs its marker."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)] if marked or len(points) == 1 else None,
    }


def legend(figure: Any, axis: Any) -> None:
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=min(len(names), 6), frameon=False)


def new_figure(rows: int, columns: int, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(9.6, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.title.set_fontsize(10)
    return figure, axes


def as_svg(figure: Any, name: str, title: str) -> str:
    """The figure as an ``svg`` element: its ids prefixed, since a page holds each id once."""
    from matplotlib import rc_context

    target = io.StringIO()
    # A fixed salt and no date: the same run gives the same page.
    look = {"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}
    with rc_context(look), warnings.catch_warnings():
        # Text stays text in the page, drawn with the fonts of who reads it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            target, format="svg", transparent=True, metadata={"Date": None, "Title": title}
        )
    svg = "<svg" + target.getvalue().partition("<svg")[2]  # without the XML prologue
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
