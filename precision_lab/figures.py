"""How our figures look, and how they are saved. Colours are Okabe and Ito's; every series also has its own marker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .files import atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PRECISIONS = {"integers": "full", "float32": "none", "float64": "bottom"}  # and how its markers are filled
STYLE: Any = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "precision_lab",
    "svg.fonttype": "none",
}


def style() -> Any:
    """A context in which figures have the house style; matplotlib's settings return to the user's afterwards."""
    return plt.rc_context(STYLE)


def canvas(
    columns: int = 1, rows: int = 1, *, width: float = 4.2, height: float = 3.2
) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row. Call it, and draw, inside :func:`style`."""
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    return figure, list(axes.flat)


def series(index: int) -> dict[str, Any]:
    """Colour and marker of the index-th series, the same in every figure."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def precise(precision: str, index: int) -> dict[str, Any]:
    """Colour and filling by the precision of a sampler's noise, one of :data:`PRECISIONS`, and the marker of the
    index-th sampler: also told apart where there is no colour."""
    colour = COLOURS[list(PRECISIONS).index(precision)]
    markers = (*MARKERS, "<", ">", "h", "p", "8")
    filling = {"fillstyle": PRECISIONS[precision], "markerfacecoloralt": "white"}
    return filling | {"color": colour, "marker": markers[index % len(markers)]}


def box(
    axes: Axes, x: tuple[float, float, float], y: tuple[float, float, float], *, label: str, **look: Any
) -> None:
    """A point (value, low, high) in x and y with both its intervals."""
    axes.errorbar(
        x[0],
        y[0],
        xerr=[[x[0] - x[1]], [x[2] - x[0]]],
        yerr=[[y[0] - y[1]], [y[2] - y[0]]],
        label=label,
        linestyle="none",
        capsize=2,
        elinewidth=0.9,
        **look,
    )


def interval(
    axes: Axes, x: Any, value: Any, low: Any, high: Any, *, label: str, index: int, line: str = "-"
) -> None:
    """Points with their intervals, joined by a line."""
    axes.errorbar(
        x,
        value,
        yerr=[value - low, high - value],
        label=label,
        linestyle=line,
        capsize=2,
        elinewidth=0.9,
        **series(index),
    )


def estimates(axes: Axes, x: Any, found: Any, *, label: str, index: int, line: str = "none") -> None:
    """:func:`interval` of a sequence of objects with value, low and high."""
    value, low, high = (np.array([getattr(each, end) for each in found]) for end in ("value", "low", "high"))
    interval(axes, x, value, low, high, label=label, index=index, line=line)


def cell(x: float, y: float, share: float) -> Any:
    """A unit square for a matrix of probabilities: white at 0, orange at 1."""
    from matplotlib.patches import Rectangle

    return Rectangle(
        (x - 0.5, y - 0.5), 1, 1, facecolor=COLOURS[1], alpha=0.75 * float(share), edgecolor="white"
    )


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.svg`` and ``stem.png``; the same figure gives the same bytes."""
    written = []
    with style():
        for suffix in (".svg", ".png"):
            path = stem.with_suffix(suffix)
            with atomic(path) as partial:
                figure.savefig(partial, metadata={"Date": None} if suffix == ".svg" else {"Software": None})
                if suffix == ".png":
                    with_palette(partial)
            written.append(path)
    plt.close(figure)
    return written


def with_palette(path: Path) -> None:
    """The picture with at most 256 colours, a third of the bytes; nothing where it would not be smaller."""
    import io

    from PIL import Image

    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        made = io.BytesIO()
        few.save(made, "PNG", optimize=True, dpi=picture.info.get("dpi"))
    if len(made.getvalue()) < path.stat().st_size:
        path.write_bytes(made.getvalue())
