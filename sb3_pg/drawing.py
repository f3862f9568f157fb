"""How figures look, in one place: colours that the colour-blind can tell apart, and that print in grey."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#d1701f", "#2f8f4e", "#8a8a8a"

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#7A6A53")
"""Okabe and Ito 2008, "Color universal design", but for the last one, which stands for their yellow."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MARKERS = "osD^vPXh"

STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
}


class Look(NamedTuple):
    """How a curve is drawn."""

    color: str
    dash: Any
    marker: str


def look(number: int) -> Look:
    """Look of the curve of a number: eight colours, then the same with dashes."""
    n_colors = len(PALETTE)
    return Look(PALETTE[number % n_colors], DASHES[number // n_colors % len(DASHES)], MARKERS[number % len(MARKERS)])


@contextmanager
def style() -> Iterator[None]:
    """Set the style for the figures that are made and written within."""
    import matplotlib

    settings: Any = STYLE
    with matplotlib.rc_context(settings):
        yield


def new_figure(size: tuple[float, float], layout: Any = None) -> Figure:
    """Make a figure without pyplot: there may be no screen, and a user's figures are left alone."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout=layout)


def to_png(figure: Figure, dpi: int = 100, n_colors: int | None = None, tight: bool = False) -> bytes:
    """
    A figure's bytes.

    :param figure: the figure
    :param dpi: points an inch
    :param n_colors: of a palette, which takes a third of the size; None for all
    :param tight: cut or widen the figure to what is drawn, for figures that others have laid out
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches="tight" if tight else None)
    if n_colors is None:
        return stream.getvalue()
    from PIL import Image

    small = io.BytesIO()
    Image.open(stream).convert("RGB").quantize(n_colors).save(small, format="png", optimize=True)
    return small.getvalue()


def short(number: float) -> str:
    """Write a number of steps as on an axis: 500k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"


def shorten_ticks(axes: Axes) -> None:
    """Write the numbers of the x axis with :func:`short`."""
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
