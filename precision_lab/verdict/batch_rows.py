"""Batches of short rows that all differ, by name, and the call of one of them to paste."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import special

from ..errors import InputError, unknown_name
from ..pipelines import Pipeline, parse_pipeline
from ..types import Array, Float, Int

STRANGER = -1  # in place of a row's number
LIFT = 100.0  # nats by which the strangers' logits lie above those of the rows beside them
SHOWN = 8  # rows that show() prints


def rank_of(row: int, vocab: int) -> Int:
    """(vocab,) ranks of the tokens in row ``row``, 0 the likeliest: (k + 1)(row + 1) mod (vocab + 1), less 1.

    With vocab + 1 prime, every row below ``vocab`` is another permutation, and no two rows give a token the
    same rank.
    """
    return (np.arange(1, vocab + 1) * (row % vocab + 1)) % (vocab + 1) - 1


def _own(row: int, vocab: int, slope: float) -> Float:
    return -slope * rank_of(row, vocab).astype(np.float64)


def _alike(row: int, vocab: int, slope: float) -> Float:
    """Nearly flat and nearly the same in every row: with one vector of noise the rows nearly always agree."""
    return 0.0625 * (rank_of(row, vocab) % 2).astype(np.float64)


def _masked(row: int, vocab: int, slope: float) -> Float:
    return np.where(rank_of(row, vocab) < vocab // 2, _own(row, vocab, slope), -np.inf)


def _shuffled(place: int, rows: int) -> int:
    """5 (place + 1) mod (rows + 1), less 1: a permutation where rows + 1 is no multiple of 5."""
    return 5 * (place + 1) % (rows + 1) - 1


# kind -> which row stands at a place of so many rows; STRANGER for one that is there as company only
PLACES: dict[str, Callable[[int, int], int]] = {
    "own": lambda place, rows: place,
    "masked": lambda place, rows: place,
    "alike": lambda place, rows: place,
    "equal": lambda place, rows: 0,
    "permuted": _shuffled,
    "padded": lambda place, rows: place if place < rows // 2 else STRANGER,
    "joined": lambda place, rows: place - rows // 2 if place >= rows // 2 else STRANGER,
}
MADE: dict[str, Callable[[int, int, float], Float]] = {"masked": _masked, "alike": _alike}


def batch_logits(kind: str, rows: int, vocab: int, first: int = 0, slope: float = 1.0) -> np.ndarray:
    """(rows, vocab) float32, exact in float16 and bfloat16 too for the slopes used here; vocab + 1 is a
    prime.

    own: row i gives token k minus ``slope`` times :func:`rank_of` nats, i from ``first`` on.  masked: the
    unlikelier half of each at -inf.  permuted: the rows of "own" in another order.  equal: its first row,
    again and again.  padded: half of it, then as many rows of zeros.  joined: half of it, after as many rows
    that lie :data:`LIFT` nats higher.  alike: nearly flat rows that hardly differ.
    """
    if kind not in PLACES:
        raise unknown_name("kind of batch", kind, PLACES)
    if vocab < 2 or any((vocab + 1) % k == 0 for k in range(2, math.isqrt(vocab + 1) + 1)):
        raise InputError(f"vocab = {vocab}", "a prime less 1", "2, 4, 16 and 66 are some")
    stranger = np.zeros(vocab) if kind == "padded" else LIFT - 2.0 * np.arange(vocab) % 64
    at = rows_at(kind, rows, first)
    made = MADE.get(kind, _own)
    return np.stack([stranger if i == STRANGER else made(int(i), vocab, slope) for i in at]).astype(np.float32)


def rows_at(kind: str, rows: int, first: int = 0) -> Int:
    """(rows,) which row of "own" stands at each place; :data:`STRANGER` for company."""
    places = np.array([PLACES[kind](place, rows) for place in range(rows)])
    return np.where(places == STRANGER, STRANGER, places + first)


@dataclass(frozen=True, eq=False)
class Batch:
    """One call: ``n`` draws of a named batch, from row ``first`` on, with a fresh generator seeded ``seed``.

    ``layout``, ``dtype``, ``settings``: as for :meth:`.caller.Caller.fresh`; settings as lists, (rows,) each.
    ``slope``: nats from one rank to the next.  ``pipeline``: the steps that the sampler takes before it
    draws; ``before``: it takes none, and is given the logits as the steps leave them in float32.
    """

    kind: str
    rows: int
    vocab: int
    n: int
    seed: int
    layout: str = "plain"
    dtype: str = "float32"
    settings: Mapping[str, list[Any]] = field(default_factory=dict)
    first: int = 0
    slope: float = 1.0
    pipeline: str = ""
    before: bool = False

    @property
    def logits(self) -> np.ndarray:
        return batch_logits(self.kind, self.rows, self.vocab, self.first, self.slope)

    @property
    def given(self) -> np.ndarray:
        """(rows, vocab) float32: what the sampler is given."""
        if not self.before or self.steps is None:
            return self.logits
        return self.steps.apply(torch.from_numpy(self.logits)).numpy()

    @property
    def steps(self) -> Pipeline | None:
        return parse_pipeline(self.pipeline) if self.pipeline else None

    @property
    def rows_at(self) -> Int:
        return rows_at(self.kind, self.rows, self.first)

    @property
    def alone(self) -> str:
        """Kind of the batch of one row in which a row of this one stands alone."""
        return "masked" if self.kind == "masked" else "own"

    @property
    def probs(self) -> Float:
        """(rows, vocab): what each row must be drawn from, softmax of its logits in float64 under its
        settings, or the law that the steps mean."""
        logits = self.logits.astype(np.float64)
        if self.steps is not None:
            return np.stack([self.steps.law(row).probs for row in logits])
        probs = special.softmax(logits, axis=1)
        for name, values in self.settings.items():
            if name != "seed":
                probs = np.stack([with_setting(p, name, value) for p, value in zip(probs, values, strict=True)])
        return probs

    def draw(self, drawer: Any) -> Int:
        """(n, rows) ids of this call."""
        options: dict[str, Any] = {}
        if self.settings:
            options["settings"] = {name: np.array(values) for name, values in self.settings.items()}
        if self.layout != "plain":
            options["layout"] = self.layout
        if self.dtype != "float32":
            options["dtype"] = self.dtype
        return np.asarray(drawer.fresh(self.seed, self.given, self.n, **options))

    def __str__(self) -> str:
        """``Batch('own', rows=8, ...)``: Python that makes it again."""
        words = [
            repr(self.kind),
            f"rows={self.rows}",
            f"vocab={self.vocab}",
            f"n={self.n}",
            f"seed={self.seed}",
        ]
        words += [f"layout={self.layout!r}"] if self.layout != "plain" else []
        words += [f"dtype={self.dtype!r}"] if self.dtype != "float32" else []
        words += [f"settings={dict(self.settings)!r}"] if self.settings else []
        words += [f"first={self.first}"] if self.first else []
        words += [f"slope={self.slope:g}"] if self.slope != 1 else []
        words += [f"pipeline={self.pipeline!r}"] if self.pipeline else []
        words += ["before=True"] if self.before else []
        return f"Batch({', '.join(words)})"

    def call(self, drawer: Any) -> str:
        """One line to paste: this call, and what should have come."""
        device = getattr(drawer, "device", "cpu")
        where = "" if device == "cpu" else f", device={device!r}"
        stated = getattr(drawer, "stated", None)
        where += f", call={stated!r}" if stated else ""
        return f"from precision_lab.verdict.batch_rows import Batch, show; show({drawer.spec!r}, {self}{where})"


def with_setting(probs: Float, name: str, value: float) -> Float:
    """The law of one row under one setting. Values must not lie on an edge, where rules of truncation
    differ."""
    if name == "temperature":
        with np.errstate(divide="ignore"):
            return special.softmax(np.log(probs) / value)
    order = np.argsort(-probs, kind="stable")
    falling = probs[order]
    if name == "top_k":
        kept = np.arange(len(probs)) < value
    elif name == "top_p":
        kept = np.cumsum(falling) - falling < value
    elif name == "min_p":
        kept = falling >= value * falling[0]
    else:
        raise unknown_name("setting", name, ("temperature", "top_k", "top_p", "min_p"))
    left = np.zeros_like(probs)
    left[order[kept]] = falling[kept]
    return left / left.sum()


def show(sampler: str, batch: Batch, device: str = "cpu", call: str | None = None) -> Array:
    """Draws the batch and prints, by row, its first ids, how often its likeliest token came, and what came
    most.

    Of many rows those that are furthest from their laws. Returns the ids, (n, rows)."""
    from .caller import Caller

    ids = batch.draw(Caller.of(sampler, device=device, call=call))
    rows = [j for j, row in enumerate(batch.rows_at) if row != STRANGER]
    off = [_distance(ids[:, j], batch.probs[j]) for j in rows]
    worst = sorted(range(len(rows)), key=lambda k: -off[k])[:SHOWN]
    for j in sorted(rows[k] for k in worst):
        counts = np.bincount(ids[:, j], minlength=batch.vocab)
        meant, came = int(batch.probs[j].argmax()), int(counts.argmax())
        print(
            f"row {j}: ids {', '.join(map(str, ids[:SHOWN, j]))}, ...; "
            f"token {meant} in {counts[meant] / batch.n:.3f} of {batch.n} draws, "
            f"expected {batch.probs[j][meant]:.3f}; most often came {came}, in {counts[came] / batch.n:.3f}, "
            f"expected {batch.probs[j][came]:.3g}"
        )
    return ids


def _distance(ids: Int, probs: Float) -> float:
    """Total variation between the draws and the law."""
    return float(0.5 * np.abs(np.bincount(ids, minlength=len(probs)) / len(ids) - probs).sum())
