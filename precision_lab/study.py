"""An experiment as a literal: a question, a grid of cells, a measure of one cell, an analysis, a figure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .finding import Finding
from .types import Profile

Cell = dict[str, Any]  # JSON values only: its text identifies it
Row = dict[str, Any]


@dataclass(frozen=True)
class Analysis:
    """What the rows say. ``findings``: claims and what became of them; ``notes``: sentences of measured
    numbers that nobody claimed anything of; ``head``: what all these numbers are (quantity, unit,
    interval); ``summary``: the table that a reader wants, saved beside the rows; ``details``: what the
    figure shows besides."""

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

    ``keys``: the columns that identify a row; if they are named, ``analyse`` gets the committed long run
    beside the fresh rows (:func:`precision_lab.result.with_committed_run`). ``version``: raise it when the
    meaning of a cell changes, so that cells on disk are not mistaken for the new ones. ``clocked``: columns
    of wall time, which no second run repeats; all others are the same for the same seed."""

    name: str
    question: str
    cells: Callable[[Profile], list[Cell]]
    measure: Callable[[Cell, np.random.Generator], list[Row]]
    analyse: Callable[[Any], Analysis]
    figure: Callable[[Any, Analysis], Any]
    version: int = 1
    clocked: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def cell_id(self, cell: Cell, seed: int) -> str:
        """The hash of name, version, seed and cell: what identifies a cell's numbers, given the code."""
        text = json.dumps([self.name, self.version, seed, cell], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def rng(self, cell: Cell, seed: int) -> np.random.Generator:
        """One Philox stream per cell, keyed by the cell itself: adding a cell changes no other number."""
        entropy = int(self.cell_id(cell, seed), 16)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, entropy])))
