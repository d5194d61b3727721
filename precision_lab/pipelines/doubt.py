"""Which tokens a step may keep or drop by rounding alone, when it is computed in a float format.

With unit roundoff u (float32 2^-24, bfloat16 2^-8):

* a temperature leaves logits right to u |l_i / T|, so that the order of two tokens can become a tie and no more;
* top-p adds V masses, each of them right to the rounding of its logit: in any order a sum is right to V u, pairwise
  to (log2 V + 1) u, and softmax adds u |l_i - m| a token and 8 u in all;
* min-p compares two exponentials: u (|l_i - m| + |log ratio| + 8) nats beside the logits' own rounding.

A step after a doubtful one has intervals for masses and ranks: what it may see with the doubtful tokens in,
and out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..steps import MinP, Step, Temperature, TopK, TopP
from ..types import Array, Float, Int
from .meaning import ULP, Row, greedy_as_top_k, order

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Doubt:
    """A token that may be in or out.

    ``margin``: its distance from the edge, in ``unit``: nats of its logit, or mass.  ``bound``: the
    rounding that was allowed for; the token is in doubt because its margin is no larger.  ``inside``:
    whether it is in, as specified.
    """

    token: int
    step: str
    margin: float
    bound: float
    unit: str
    inside: bool


@dataclass(frozen=True)
class Seen:
    """A row of which some tokens are surely left and some perhaps.

    ``row``: with both.  ``sure``: (vocab,) bool.  ``error``: (vocab,) nats, bound on the rounding of the
    logits.
    """

    row: Row
    sure: Array
    error: Float


@dataclass(frozen=True)
class Edge:
    """What one step decides: (vocab,) bool ``inside`` surely and ``perhaps``; (vocab,) ``margin`` and
    ``bound``."""

    inside: Array
    perhaps: Array
    margin: Float
    bound: Float
    unit: str


def edge(step: Step, seen: Seen, unit: float) -> Edge:
    """The decision of a truncating step on each token, computed with unit roundoff ``unit``."""
    step = greedy_as_top_k(step)
    if isinstance(step, TopK):
        return _edge_top_k(step, seen)
    if isinstance(step, TopP):
        return _edge_top_p(step, seen, unit, seen.error)
    assert isinstance(step, MinP)
    return _edge_min_p(step, seen, unit)


def tempered(step: Temperature, seen: Seen, unit: float) -> Seen:
    """The row at a temperature other than 0, with the rounding of the quotients."""
    row = seen.row.at_temperature(step.value)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.nan_to_num(seen.error / step.value + unit * row.size, posinf=np.inf)
    if step.value == 1:
        error = seen.error
    return Seen(row, seen.sure & row.alive, error)


def after(seen: Seen, found: Edge) -> Seen:
    """The row after a truncating step: sure tokens are those surely left before and surely inside."""
    left = found.inside | found.perhaps
    return Seen(seen.row.keeping(left & seen.row.alive), seen.sure & found.inside, seen.error)


def _ahead(seen: Seen, ties: str, values: Float, error: Float) -> tuple[Float, Float]:
    """(least, most) of the sum of ``values`` over the tokens ahead of each one in the order of logits.

    Ahead at least are sure tokens that an ``error`` of the logits cannot bring level; at most all that it
    can, and of equal logits those that the rule puts first; with ``ties=all`` equal ones are not ahead.
    """
    row = seen.row
    ranked = order(row.logits, ties)
    logits = row.logits[ranked]
    sums = _running(values[ranked])
    sure = _running(np.where(seen.sure, values, 0.0)[ranked])
    place = np.arange(len(ranked))
    exact = not error[ranked].any()
    if exact and ties in ("first", "last"):
        first, last = place, place
    else:
        # the logits fall, so that -logits rise and can be searched
        low = logits - error[ranked]
        high = logits + error[ranked]
        # bounds on bounds, so that they fall too: the least low so far, the greatest high from here on
        low_so_far = np.minimum.accumulate(low)
        high_from_here = np.maximum.accumulate(high[::-1])[::-1]
        first = np.searchsorted(-low_so_far, -high, side="left")
        if exact and ties == "all":
            last = np.searchsorted(-high_from_here, -low, side="left")
        else:
            last = np.searchsorted(-high_from_here, -low, side="right")
    least = np.zeros(len(row.logits))
    most = np.zeros(len(row.logits))
    least[ranked] = sure[np.minimum(first, place)]
    reached = np.maximum(last, place)
    itself = np.where(reached > place, values[ranked], 0.0)
    if exact and ties == "all":
        reached = last
        itself = np.zeros(len(ranked))
    most[ranked] = sums[reached] - itself
    return least, most


def _running(values: Float) -> Float:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _edge_top_k(step: TopK, seen: Seen) -> Edge:
    row, alive = seen.row, seen.row.alive
    least, most = _ahead(seen, step.ties, np.ones(len(row.logits)), seen.error)
    inside = alive & (most < step.k)
    perhaps = alive & ~inside & (least < step.k)
    ranked = order(row.logits, step.ties)
    margin = np.full(len(row.logits), np.inf)
    if len(ranked) > step.k:
        last_in = row.logits[ranked[step.k - 1]]
        first_out = row.logits[ranked[step.k]]
        margin = np.where(row.logits >= last_in, row.logits - first_out, last_in - row.logits)
        margin = np.where(alive, np.abs(margin), np.inf)
        edges = max(seen.error[ranked[step.k - 1]], seen.error[ranked[step.k]])
        return Edge(inside, perhaps, margin, seen.error + edges, "nats")
    return Edge(inside, perhaps, margin, seen.error, "nats")


def by_place(step: TopP, seen: Seen, unit: float) -> Edge:
    """The decision of top-p on each *place* of the order, whichever of tied tokens takes it."""
    placed = replace(step, ties="first") if step.ties == "any" else step
    return _edge_top_p(placed, seen, unit, np.zeros(len(seen.error)))


def _edge_top_p(step: TopP, seen: Seen, unit: float, error: Float) -> Edge:
    """``error``: of the logits, as far as it moves their order."""
    row, alive = seen.row, seen.row.alive
    vocab = len(row.logits)
    if step.p == 1:
        return Edge(alive, np.zeros(vocab, dtype=bool), np.full(vocab, np.inf), np.zeros(vocab), "mass")
    weights = np.exp(row.logits)
    source = np.exp(row.whole) if step.mass == "whole" else weights
    total = source.sum()
    least, most = _ahead(seen, step.ties, weights, error)
    itself = weights if step.crossing == "dropped" else 0.0
    if step.mass == "whole":
        low = (least + itself) / total
        high = (most + itself) / total
    else:
        # the share ahead is least with every token left, and largest with only the sure ones behind
        sure_weights = np.where(seen.sure, weights, 0.0)
        _, sure_ahead = _ahead(seen, step.ties, sure_weights, error)
        behind = sure_weights.sum() - sure_ahead + np.where(seen.sure, 0.0, weights)
        behind = np.maximum(behind, weights)  # the token itself is behind
        low = (least + itself) / total
        high = (most + itself) / np.maximum(most + behind, 1e-300)
    reach = np.where(alive, np.abs(row.logits), 0.0) * unit + np.minimum(seen.error, 1.0)
    count = int(np.count_nonzero(source))
    added = count if step.sums == "any" else math.log2(count) + 1
    bound = (added + 8) * unit + 2 * float((source / total) @ np.where(alive, reach, 0.0))
    bound = min(bound + 4 * count * ULP, 1.0)
    inside = alive & (high + bound < step.p)
    outside = low - bound > step.p
    # the first of the order is in by every rule, unless another may be the first
    top = row.logits.max()
    leaders = alive & (row.logits + error >= top - error[row.logits.argmax()])
    if int(leaders.sum()) == 1 or step.ties in ("first", "all"):
        inside = inside | (np.arange(vocab) == row.logits.argmax())
    if step.ties == "all" and not error.any():
        inside = inside | (alive & (row.logits == top))
    if step.ties == "last" and not error.any():
        inside[order(row.logits, "last")[0]] = True
    perhaps = alive & ~inside & (~outside | leaders)
    distance = np.maximum(np.maximum(low - step.p, step.p - high), 0.0)
    margin = np.where(alive, distance, np.inf)
    return Edge(inside, perhaps, margin, np.full(vocab, bound), "mass")


def _edge_min_p(step: MinP, seen: Seen, unit: float) -> Edge:
    row, alive = seen.row, seen.row.alive
    vocab = len(row.logits)
    if step.ratio == 0:
        return Edge(alive, np.zeros(vocab, dtype=bool), np.full(vocab, np.inf), np.zeros(vocab), "nats")
    threshold = math.log(step.ratio)
    top = int(row.logits.argmax())
    distance = np.where(alive, np.abs(row.logits), 0.0)
    bound = seen.error + seen.error[top] + max(unit, ULP) * (distance + abs(threshold) + 8)
    height = row.logits - row.logits[top] - threshold
    inside = alive & (height > bound)
    inside[top] = True
    perhaps = alive & ~inside & (height >= -bound)
    return Edge(inside, perhaps, np.where(alive, np.abs(height), np.inf), bound, "nats")


def doubtful_tokens(steps: tuple[Step, ...], row: Row, unit: float, final: Array) -> list[Doubt]:
    """Every token in doubt, at the first step that leaves it so. ``final``: (vocab,) bool, in as specified.

    A token that a later step surely drops is not in doubt.
    """
    seen = Seen(row, row.alive, np.zeros(len(row.logits)))
    noted: dict[int, Doubt] = {}
    for step in steps:
        plain = greedy_as_top_k(step)
        if isinstance(plain, Temperature):
            seen = tempered(plain, seen, unit)
            continue
        found = edge(plain, seen, unit)
        tokens: Int = np.flatnonzero(found.perhaps)
        for token in tokens:
            i = int(token)
            if i not in noted:
                margin, bound = float(found.margin[i]), float(found.bound[i])
                noted[i] = Doubt(i, str(step), margin, bound, found.unit, bool(final[i]))
        seen = after(seen, found)
    left = seen.row.alive & ~seen.sure
    return [noted[i] for i in sorted(noted) if left[i]]
