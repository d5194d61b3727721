"""Top-k, top-p and min-p on integer masses: which tokens of a row are left. Exact, without a sort.

The tokens stand in the order of their logits, the largest first, equal ones by index. B is the mass of the
tokens before one, A = B + m the mass with it, M that of all tokens left (``mass=whole``: of the row).
Masses are those of :mod:`.masses` at the temperature that holds there; for top-k every mass is 1.

    top_k = k     in while B < k
    top_p = p     in while B < P or, crossing=beyond, B < P' + 1 or, crossing=dropped, A <= P'
                  P = trunc(M p (1 - 2^-48)),  P' = trunc(M p (1 + 2^-48)): float64, rounded at each product
    min_p = a     in where l - max l >= T (ln a - 2^-50 (1 + |ln a|)), float64

So masses within 2^-48 of p count as p: 0.1 is a float64 below or above a tenth, but of ten equal tokens
top_p=0.1 keeps one. What is left is always an upper part of the order, but for ties: every token above an edge,
and of those that equal it the ones with an index in a range. The edge is found by bisection over the floats:
sums of integers do not depend on their order, so the compiled loop, torch and Triton find the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..grammar import EXAMPLE, parse_steps
from ..steps import STEPS, MinP, Step, Temperature, TopK
from . import masses as mass_maps

SLACK = 2.0**-48  # of the mass: what counts as equal to p
EDGE_SLACK = 2.0**-50  # of a logarithm: what counts as equal to min_p
COUNT, MASS, RATIO = 0, 1, 2
FIRST, LAST, ALL = 0, 1, 2
TIES = {"any": FIRST, "first": FIRST, "last": LAST, "all": ALL}


class HasSteps(Protocol):
    """Such as :class:`precision_lab.pipelines.Pipeline`."""

    @property
    def steps(self) -> tuple[Step, ...]: ...


PipelineLike: TypeAlias = "str | HasSteps | Sequence[Step]"


@dataclass(frozen=True)
class Cut:
    """One truncating step as numbers.

    ``kind``: what is added up, COUNT or MASS, or RATIO for min-p, which adds nothing. ``temperature``: the
    product of the pipeline's temperatures before it. ``room``: k. ``share``: p with its slack, or ln a with
    its. ``over``: 1 where a mass of P' itself is in. ``dropped``: whether A counts, not B. ``whole``:
    whether M is the row's.  ``ties``: FIRST, LAST or ALL.
    """

    kind: int
    temperature: float
    room: int = 0
    share: float = 0.0
    over: int = 0
    dropped: bool = False
    whole: bool = False
    ties: int = FIRST


@dataclass(frozen=True)
class Plan:
    """The cuts of a pipeline in order, and the product of all its temperatures."""

    cuts: tuple[Cut, ...]
    temperature: float


@dataclass(frozen=True)
class Kept:
    """What is left of each row: tokens with a key (:func:`ordered`) above ``edge``, and of those that equal
    it the ones with first <= index < last. (rows,) int64 each."""

    edge: Tensor
    first: Tensor
    last: Tensor

    @staticmethod
    def all_of(rows: Tensor) -> Kept:
        """Every token that is not -inf."""
        none = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        return Kept(none + lowest_key(rows.dtype), none, none)

    def mask(self, keys: Tensor) -> Tensor:
        """(rows, vocab) bool of keys, (rows, vocab)."""
        index = torch.arange(keys.shape[-1], device=keys.device)
        tied = (index >= self.first[:, None]) & (index < self.last[:, None])
        return (keys > self.edge[:, None]) | ((keys == self.edge[:, None]) & tied)


# -- from steps to numbers
def plan_of(pipeline: PipelineLike) -> Plan:
    """The numbers of a pipeline: text, a Pipeline or steps. Errors: InputError."""
    cuts: list[Cut] = []
    temperature = 1.0
    for step in _steps_of(pipeline):
        if isinstance(step, Temperature) and step.value > 0:
            temperature = min(max(temperature * step.value, 5e-324), 1.7e308)
            continue
        cut = _cut_of(step, temperature)
        if cut is not None:
            cuts.append(cut)
    return Plan(tuple(cuts), temperature)


def _steps_of(pipeline: PipelineLike) -> tuple[Step, ...]:
    if isinstance(pipeline, str):
        return parse_steps(pipeline)
    steps = getattr(pipeline, "steps", pipeline)
    known = tuple(STEPS.values())
    if not isinstance(steps, Sequence) or not steps or not all(isinstance(step, known) for step in steps):
        raise InputError(f"a pipeline of type {type(pipeline).__name__}", "text, a Pipeline or steps", EXAMPLE)
    return tuple(steps)


def _cut_of(step: Step, temperature: float) -> Cut | None:
    """None for a step that keeps every token."""
    if isinstance(step, Temperature):  # 0: the largest alone
        return Cut(COUNT, temperature, room=1, ties=TIES[step.ties])
    if isinstance(step, TopK):
        return Cut(COUNT, temperature, room=min(step.k, mass_maps.MOST_VOCAB), ties=TIES[step.ties])
    if isinstance(step, MinP):
        if step.ratio == 0:
            return None
        log = math.log(step.ratio)
        return Cut(RATIO, temperature, share=log - EDGE_SLACK * (1 + abs(log)))
    if step.p == 1:
        return None
    exclusive = step.crossing == "kept"
    return Cut(
        MASS,
        temperature,
        share=step.p * (1 - SLACK) if exclusive else step.p * (1 + SLACK),
        over=0 if exclusive else 1,
        dropped=step.crossing == "dropped",
        whole=step.mass == "whole",
        ties=TIES[step.ties],
    )


def tempers(heat: Tensor | None, factor: float, rows: Tensor) -> Tensor:
    """(rows,) divisors in the dtype that the logits are widened to: ``heat`` (or 1) times ``factor``, inside
    that dtype's normal numbers; 0 stays 0."""
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    if heat is None:
        heat = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    product = heat.double() * factor
    limits = torch.finfo(wide)
    return torch.where(heat == 0, 0.0, product.clamp(limits.tiny, limits.max)).to(wide)


def least_gaps(cut: Cut, heat: Tensor | None, rows: Tensor) -> Tensor:
    """(rows,) float64: min-p keeps what is at most that far from the largest logit (numbers below 0)."""
    ones = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    return (ones if heat is None else heat.double()) * cut.temperature * cut.share


# -- keys: integers in the order of the floats
def ordered(rows: Tensor) -> Tensor:
    """(rows, vocab) int64 in the order of the logits; -0 and 0 are equal."""
    wide = (rows if rows.dtype in (torch.float32, torch.float64) else rows.float()) + 0.0
    short = wide.dtype == torch.float32
    bits = wide.view(torch.int32 if short else torch.int64).long()
    return bits ^ ((bits >> 63) & (2**31 - 1 if short else 2**63 - 1))


def value_of(keys: Tensor, dtype: torch.dtype) -> Tensor:
    """The float64 values of keys of logits of that dtype."""
    if dtype == torch.float64:
        return (keys ^ ((keys >> 63) & (2**63 - 1))).view(torch.float64)
    return (keys ^ ((keys >> 63) & (2**31 - 1))).to(torch.int32).view(torch.float32).double()


def lowest_key(dtype: torch.dtype) -> int:
    """The key of -inf."""
    infinity = torch.tensor([-math.inf], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    return int(ordered(infinity))


# -- torch operations, one by one
def kept_eagerly(rows: Tensor, plan: Plan, heat: Tensor | None) -> Kept:
    """What the cuts leave of ``rows``, (rows, vocab), by torch operations: for a GPU without Triton, and the
    oracle of the others. ``heat``: (rows,) temperatures that act before the pipeline; rows of 0 are not cut."""
    keys = ordered(rows)
    kept = Kept.all_of(rows)
    for cut in plan.cuts:
        if cut.kind == RATIO:
            kept = _cut_at_ratio(keys, rows, kept, least_gaps(cut, heat, rows))
        else:
            kept = _cut_at_sum(keys, _weights(rows, cut, heat), kept, cut)
    if heat is None:
        return kept
    whole = Kept.all_of(rows)
    cold = heat == 0
    return Kept(*(torch.where(cold, a, b) for a, b in zip(_parts(whole), _parts(kept), strict=True)))


def masses_kept(rows: Tensor, plan: Plan, heat: Tensor | None) -> Tensor:
    """(rows, vocab) int64 masses of the tokens left, 0 of the others. ``heat`` above 0."""
    heated = heat is not None or plan.temperature != 1
    found = mass_maps.masses(rows, tempers(heat, plan.temperature, rows) if heated else None)
    if not plan.cuts:
        return found
    return found.masked_fill(~kept_eagerly(rows, plan, heat).mask(ordered(rows)), 0)


def _parts(kept: Kept) -> tuple[Tensor, Tensor, Tensor]:
    return kept.edge, kept.first, kept.last


def _weights(rows: Tensor, cut: Cut, heat: Tensor | None) -> Tensor:
    if cut.kind == COUNT:
        return torch.ones(rows.shape, dtype=torch.int64, device=rows.device)
    divisor = tempers(heat, cut.temperature, rows)
    return mass_maps.masses(rows, torch.where(divisor == 0, 1.0, divisor))


def _cut_at_sum(keys: Tensor, weights: Tensor, kept: Kept, cut: Cut) -> Kept:
    alive = kept.mask(keys)
    left = weights.masked_fill(~alive, 0)
    room = _room(weights if cut.whole else left, cut)

    def above(key: Tensor) -> Tensor:
        return left.masked_fill(keys <= key[:, None], 0).sum(-1)

    edge = _least(kept.edge, keys.amax(-1), lambda key: above(key) < room)
    before = above(edge)
    tied = alive & (keys == edge[:, None])
    many = tied.sum(-1)
    weight = weights.masked_fill(~tied, 0).amax(-1)
    need = room - before - (1 if cut.dropped else 0)
    count = need.clamp(min=0) // weight.clamp(min=1)
    if not cut.dropped:
        count += (need > count * weight).long()  # ceil, where the weight is not 0
    count = torch.where(weight == 0, torch.where(room > before, many, 0), count)
    count = torch.minimum(count, many)
    count = torch.where(before == 0, count.clamp(min=1), count)  # the first token is in
    return _ties_kept(tied, edge, count, many, kept, cut.ties)


def _room(weights: Tensor, cut: Cut) -> Tensor:
    """(rows,): a token is in while the mass before it is below this."""
    if cut.kind == COUNT:
        return torch.full((len(weights),), cut.room, dtype=torch.int64, device=weights.device)
    return (weights.sum(-1).double() * cut.share).long() + cut.over


def _ties_kept(tied: Tensor, edge: Tensor, count: Tensor, many: Tensor, kept: Kept, ties: int) -> Kept:
    """``count`` of the ``many`` tied tokens of each row."""
    vocab = tied.shape[-1]
    same = edge == kept.edge
    first = torch.where(same, kept.first, 0)
    last = torch.where(same, kept.last, vocab)
    through = tied.cumsum(-1)
    if ties == FIRST:
        last = torch.where(count < many, (through < count[:, None]).sum(-1) + 1, last)
    if ties == LAST:
        first = torch.where(count < many, (through <= (many - count)[:, None]).sum(-1), first)
    none = count == 0
    return Kept(edge, torch.where(none, 0, first), torch.where(none, 0, last))


def _cut_at_ratio(keys: Tensor, rows: Tensor, kept: Kept, least: Tensor) -> Kept:
    top = keys.amax(-1)
    peak = value_of(top, rows.dtype)
    edge = _least(kept.edge, top, lambda key: value_of(key, rows.dtype) - peak >= least)
    higher = edge > kept.edge
    return Kept(
        torch.where(higher, edge - 1, kept.edge),
        torch.where(higher, 0, kept.first),
        torch.where(higher, 0, kept.last),
    )


def _least(low: Tensor, high: Tensor, holds: Callable[[Tensor], Tensor]) -> Tensor:
    """(rows,) least key from ``low`` to ``high`` at which ``holds(key)``, (rows,) bool, is true: it is at
    ``high``, and at every key above one where it is."""
    while bool((low < high).any()):
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, rounded down, without overflow
        true = holds(middle)
        high = torch.where(true, middle, high)
        low = torch.where(true, low, middle + 1)
    return low


def rules_of(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """(cuts, 6) int64: kind, room, over, dropped, whole, ties; and (cuts,) float64: share. For the compiled
    loop."""
    rows = [[cut.kind, cut.room, cut.over, cut.dropped, cut.whole, cut.ties] for cut in plan.cuts]
    rules = np.array(rows, dtype=np.int64).reshape(-1, 6)
    return rules, np.array([cut.share for cut in plan.cuts], dtype=np.float64)
