"""How our figures look, and how they are saved. Colours are Okabe and Ito's; every series also has its own
marker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .errors import unknown_name
from .files import atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PRECISIONS = (
    "float32",
    "float64",
    "truncated",
    "two-stage",
    "float16",
    "bfloat16",
    "real text",
)  # index: the series
FILLINGS = {
    "integers": "full",
    "float32": "none",
    "float64": "bottom",
}  # of markers, where many samplers share a colour
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
    """A context in which figures have the house style; matplotlib's settings return to the user's
    afterwards."""
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
    """Colour and filling by the precision of a sampler's noise, one of :data:`FILLINGS`, and the marker of the
    index-th sampler: also told apart where there is no colour."""
    colour = "#000000" if precision == "integers" else COLOURS[PRECISIONS.index(precision)]
    markers = (*MARKERS, "<", ">", "h", "p", "8")
    filling = {"fillstyle": FILLINGS[precision], "markerfacecoloralt": "white"}
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


def precision_of(name: str) -> str:
    """Which of PRECISIONS a sampler or a law of a step has: "gumbel_max_fp64_truncated" -> "truncated", "lattice" ->
    "float32". A name that is none of them comes back unchanged."""
    if name.endswith("truncated") or name == "Prop. 5.2":
        return "truncated"
    for ending, precision in (
        ("bf16", "bfloat16"),
        ("fp16", "float16"),
        ("fp32", "float32"),
        ("fp64", "float64"),
    ):
        if name.endswith(ending):
            return precision
    return {"lattice": "float32", "faithful": "float64", "two_stage": "two-stage"}.get(name, name)


def precision(name: str) -> dict[str, Any]:
    """Colour and marker of a precision, the same in every figure; ``name``: one of PRECISIONS, a sampler or a law with one.
    Raises InputError for any other."""
    known = precision_of(name)
    if known not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    return series(PRECISIONS.index(known))


def interval(
    axes: Axes,
    x: Any,
    value: Any,
    low: Any,
    high: Any,
    *,
    label: str | None,
    index: int = 0,
    line: str = "-",
    look: dict[str, Any] | None = None,
) -> None:
    """Points with their intervals, joined by a line. ``look``: keywords of matplotlib in place of the
    index-th series."""
    axes.errorbar(
        x,
        value,
        yerr=[value - low, high - value],
        label=label,
        linestyle=line,
        capsize=2,
        elinewidth=0.9,
        **(series(index) if look is None else look),
    )


def estimates(
    axes: Axes,
    x: Any,
    found: Any,
    *,
    label: str | None,
    index: int = 0,
    line: str = "none",
    look: dict[str, Any] | None = None,
) -> None:
    """:func:`interval` of a sequence of objects with value, low and high."""
    value, low, high = (np.array([getattr(each, end) for each in found]) for end in ("value", "low", "high"))
    interval(axes, x, value, low, high, label=label, index=index, line=line, look=look)


def sweep(
    axes: Axes,
    table: Any,
    x: str,
    column: str = "value",
    *,
    label: str | None,
    look: dict[str, Any],
    line: str = "-",
    factor: float = 1.0,
) -> None:
    """:func:`interval` of the rows of a table, by ``x``: ``column`` with ``column_low`` and ``column_high``
    ("value": low and high). ``factor``: of x, so that several sweeps stand side by side on a logarithmic
    axis."""
    part = table.sort_values(x)
    ends = ("low", "high") if column == "value" else (f"{column}_low", f"{column}_high")
    low, high = (part[end].to_numpy(dtype=float) for end in ends)
    at, value = part[x].to_numpy() * factor, part[column].to_numpy(dtype=float)
    interval(axes, at, value, low, high, label=label, line=line, look=look)


def power_of_ten(number: float) -> str:
    """One digit and the power of ten, as short as a cell of a matrix needs it: 3.1e5 -> "3e5"."""
    mantissa, exponent = f"{number:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


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
