"""An experiment as a literal: a question, a grid of cells, a measure of one cell, an analysis, a figure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError
from .finding import Finding
from .types import Profile

Cell = dict[str, Any]  # JSON values only: its text identifies it
Row = dict[str, Any]


@dataclass(frozen=True)
class Analysis:
    """What the rows say. ``findings``: claims and what became of them; ``notes``: sentences of measured numbers that nobody
    claimed anything of; ``head``: what all these numbers are (quantity, unit, interval); ``summary``: the table that a
    reader wants, saved beside the rows; ``details``: what the figure shows besides."""

    findings: Sequence[Finding] = ()
    notes: Sequence[str] = ()
    head: str = ""
    summary: Any = None
    details: Any = None

    def text(self) -> str:
        """The verdict: head, findings, notes."""
        clauses = [finding.text() for finding in self.findings] + list(self.notes)
        return f"{self.head}. " * bool(self.head) + "; ".join(clauses) + "."


@dataclass(frozen=True)
class Study:
    """``cells(profile)`` lists the grid. ``measure(cell, rng)`` returns tidy rows. ``analyse(rows)`` returns an
    :class:`Analysis`. ``figure(rows, analysis)`` returns a matplotlib figure.

    ``keys``: the columns that identify a row; if they are named, ``analyse`` gets the committed long run beside the fresh
    rows (:func:`precision_lab.result.with_committed_run`). ``version``: raise it when the meaning of a cell changes, so that
    cells on disk are not mistaken for the new ones. ``clocked``: columns of wall time, which no second run repeats; all others
    are the same for the same seed. ``draw``, ``verdict`` and ``summary``, functions of the rows, are the older form of
    ``figure`` and ``analyse``. Raises InputError for a study without an analysis or without a figure."""

    name: str
    question: str
    cells: Callable[[Profile], list[Cell]]
    measure: Callable[[Cell, np.random.Generator], list[Row]]
    draw: Callable[[Any], Any] | None = None
    verdict: Callable[[Any], str] | None = None
    version: int = 1
    summary: Callable[[Any], Any] | None = None
    clocked: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    analyse: Callable[[Any], Analysis] | None = None
    figure: Callable[[Any, Analysis], Any] | None = None

    def __post_init__(self) -> None:
        if (self.analyse or self.verdict) is None or (self.figure or self.draw) is None:
            raise InputError(
                f"the study {self.name!r} without an analysis or a figure",
                "Study(..., analyse=analyse, figure=figure)",
                "name both functions",
            )

    def analysis(self, rows: Any) -> Analysis:
        """What ``rows`` say."""
        if self.analyse is not None:
            return self.analyse(rows)
        assert self.verdict is not None
        text = self.verdict(rows).removesuffix(".")
        return Analysis(notes=[text], summary=None if self.summary is None else self.summary(rows))

    def drawn(self, rows: Any, analysis: Analysis) -> Any:
        """The figure of ``rows``; call it inside :func:`precision_lab.figures.style`."""
        if self.figure is not None:
            return self.figure(rows, analysis)
        assert self.draw is not None
        return self.draw(rows)

    def cell_id(self, cell: Cell, seed: int) -> str:
        """The hash of name, version, seed and cell: what identifies a cell's numbers, given the code."""
        text = json.dumps([self.name, self.version, seed, cell], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def rng(self, cell: Cell, seed: int) -> np.random.Generator:
        """One Philox stream per cell, keyed by the cell itself: adding a cell changes no other number."""
        entropy = int(self.cell_id(cell, seed), 16)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, entropy])))
