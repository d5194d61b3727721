"""An experiment as a literal: a question, a grid of cells, a measure of one cell, a figure, a verdict."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .types import Profile

Cell = dict[str, Any]  # JSON values only: its text identifies it
Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """``cells(profile)`` lists the grid; ``measure(cell, rng)`` returns tidy rows; ``draw(frame)`` a matplotlib figure;
    ``verdict(frame)`` the answer in one or two sentences, made from the rows; ``summary(frame)``, if there is one, the table
    that a reader wants, saved beside the rows. Raise ``version`` when the meaning of a
    cell changes, so that cells on disk are not mistaken for the new ones. ``clocked``: columns of wall time, which no second
    run repeats; all others are the same for the same seed."""

    name: str
    question: str
    cells: Callable[[Profile], list[Cell]]
    measure: Callable[[Cell, np.random.Generator], list[Row]]
    draw: Callable[[Any], Any]
    verdict: Callable[[Any], str]
    version: int = 1
    summary: Callable[[Any], Any] | None = None
    clocked: tuple[str, ...] = ()

    def cell_id(self, cell: Cell, seed: int) -> str:
        """The hash of everything that defines a cell's numbers."""
        text = json.dumps([self.name, self.version, seed, cell], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def rng(self, cell: Cell, seed: int) -> np.random.Generator:
        """One Philox stream per cell, keyed by the cell itself: adding a cell changes no other number."""
        entropy = int(self.cell_id(cell, seed), 16)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, entropy])))
