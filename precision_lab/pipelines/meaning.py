"""What a step means, in float64: which tokens of a row it keeps.

Masses are compared with p from the side on which they are small, and what lies within the rounding of float64
of p counts as equal to it, so that a mass of 0.1 + 0.2 meets p = 0.3 as it does on paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..steps import MinP, Step, Temperature, TopK, TopP
from ..types import Array, Float, Int

ULP = 2.0**-53


@dataclass(frozen=True)
class Row:
    """One row on its way through a pipeline.

    ``logits``: (vocab,) float64 less their largest, -inf where a token is out.  ``whole``: the same before
    any token was dropped.  ``size``: (vocab,) magnitude of the logits as they were given, at the temperature:
    what a float format rounds.
    """

    logits: Float
    whole: Float
    size: Float

    @staticmethod
    def of(logits: Float) -> Row:
        """A row of checked logits, at temperature 1."""
        shifted = logits - logits.max()
        size = np.where(np.isfinite(logits), np.abs(logits), 0.0)
        return Row(shifted, shifted, size)

    @property
    def alive(self) -> Array:
        return np.isfinite(self.logits)

    def at_temperature(self, temperature: float) -> Row:
        """The row with its logits divided. Of a tiny temperature the quotients may be -inf: such tokens are
        out."""
        with np.errstate(over="ignore"):
            tempered = [part / temperature for part in (self.logits, self.whole, self.size)]
        return Row(*tempered)

    def keeping(self, kept: Array) -> Row:
        """The row with all but ``kept``, (vocab,) bool, out."""
        return replace(self, logits=np.where(kept, self.logits, -np.inf))


def greedy_as_top_k(step: Step) -> Step:
    """Temperature 0 keeps what top-k with k = 1 keeps; every other step is itself."""
    if isinstance(step, Temperature) and step.value == 0:
        return TopK(1, step.ties)
    return step


def act(step: Step, row: Row) -> Row:
    """The row after the step."""
    step = greedy_as_top_k(step)
    if isinstance(step, Temperature):
        return row.at_temperature(step.value)
    return row.keeping(kept(step, row))


def kept(step: Step, row: Row) -> Array:
    """(vocab,) bool: the tokens that a truncating step keeps. Where ``ties=any``, the first index wins."""
    if isinstance(step, MinP):
        return _kept_min_p(step, row)
    ranked = order(row.logits, step.ties)
    if isinstance(step, TopK):
        count = min(step.k, len(ranked))
        ties = step.ties
    else:
        assert isinstance(step, TopP)
        count = _count_top_p(step, row, ranked)
        ties = step.ties
    if ties == "all":
        return row.alive & (row.logits >= row.logits[ranked[count - 1]])
    chosen = np.zeros(len(row.logits), dtype=bool)
    chosen[ranked[:count]] = True
    return chosen


def order(logits: Float, ties: str) -> Int:
    """The tokens that are left, the largest logit first; of equal ones the last index first where ``ties``
    is last."""
    if ties == "last":
        ranked = len(logits) - 1 - np.argsort(-logits[::-1], kind="stable")
    else:
        ranked = np.argsort(-logits, kind="stable")
    return ranked[: int(np.isfinite(logits).sum())]


def masses(step: TopP, row: Row) -> Float:
    """(vocab,) probabilities that top-p adds up: of the tokens kept so far, or of the whole row."""
    weights = np.exp(row.whole if step.mass == "whole" else row.logits)
    return weights / weights.sum()


def _kept_min_p(step: MinP, row: Row) -> Array:
    if step.ratio == 0:
        return row.alive
    edge = math.log(step.ratio)
    slack = 8 * ULP * (1 + abs(edge))
    return row.alive & (row.logits >= row.logits.max() + edge - slack)


def _count_top_p(step: TopP, row: Row, ranked: Int) -> int:
    """How many of the ranked tokens are in, by :attr:`TopP.crossing`."""
    if step.p == 1:
        return len(ranked)
    share = masses(step, row)[ranked]
    through = np.cumsum(share)
    before = np.concatenate([[0.0], through[:-1]])
    dropped = masses(step, row)[~row.alive].sum()  # of tokens out that still have mass: mass=whole
    after = dropped + np.cumsum(share[::-1])[::-1]
    beyond = np.concatenate([after[1:], [dropped]])
    reach = float(np.abs(row.logits[ranked]).max())
    slack = (2 * len(row.logits) + 2 * reach + 8) * ULP
    if step.crossing == "dropped":
        inside = at_most(through, beyond, step.p, slack)
    elif step.crossing == "beyond":
        inside = at_most(before, after, step.p, slack)
    else:
        inside = below(before, after, step.p, slack)
    return max(1, int(inside.sum()))


def below(mass: Float, rest: Float, p: float, slack: float) -> Array:
    """Whether mass < p, where mass + rest = 1 and both are right to ``slack``, relatively."""
    from_above = rest > (1 - p) * (1 + slack)
    from_below = mass < p * (1 - slack)
    return np.where(mass < 0.5, from_below, from_above)


def at_most(mass: Float, rest: Float, p: float, slack: float) -> Array:
    """Whether mass <= p, likewise."""
    from_above = rest >= (1 - p) * (1 - slack)
    from_below = mass <= p * (1 + slack)
    return np.where(mass < 0.5, from_below, from_above)
