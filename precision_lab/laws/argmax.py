"""The law of ``argmax_i score(weight_i, noise_i)`` when every noise value is one of finitely many atoms.

With F_j(s) = P(score_j <= s) and m_i(s) = P(score_i = s), and the first index winning ties,

    P(i) = sum_s m_i(s) * prod_{j < i} F_j(s-) * prod_{j > i} F_j(s).

Sort all events (token, score) by score descending, then by index, and let d_j(s) = log F_j(s) - log F_j(s-). Then the
product at one event is ``exp(L - (sum of d over earlier events) - log F_i(s))`` with L = 0: one sort and one cumulative
sum give every probability, ties included, with no binning. Two facts make it fast at any vocabulary:

* once all scores lie below s with small probability, blocks of events can share one product within the tolerance, so
  only about 16 times the number of atoms are ever sorted, whatever the vocabulary;
* the likeliest token is never enumerated: its F is looked up, and its probability is one minus the others'.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FP32, FP64, FloatFormat
from ..types import Float, Guarantee, Int
from .law import Law

Combine = Literal["add", "divide"]
Tie = Literal["first", "last"]
_EVENTS = 1 << 22  # events per sort: 4M, about 0.5 GiB in all


def argmax_law(
    weights: Float,
    noise: Atoms,
    *,
    combine: Combine,
    score: FloatFormat,
    tie: Tie = "first",
    tolerance: float = 1e-9,
    progress: Callable[[float], None] | None = None,
) -> Law:
    """Exact law of an argmax sampler.

    ``weights``: (vocab,) float64, the logits (``combine="add"``: score = w + noise) or probabilities
    (``combine="divide"``: score = w / noise) *as the sampler holds them*; ``score``: the format in which the sum or
    quotient is rounded (float16 and bfloat16 are computed in float32 and rounded again, as torch does; the second
    rounding is innocuous). u = 0, infinite noise, 0/0 and zero weights follow IEEE arithmetic, NaN winning as in torch.

    Error: a proved bound on any probability: the mass that shared a product times its spread, plus the rounding of the
    cumulative sums. ``tolerance`` steers the first; very coarse atoms can exceed it, and ``Law.error`` says so.
    Raises InputError for float64 scores (2^53 atoms) and weights that are not (vocab,) numbers.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or not w.size or not np.isfinite(w.max()) or (combine == "divide" and (w < 0).any()):
        raise InputError(f"weights of shape {w.shape}", "(vocab,) numbers, not all -inf", "check the row of logits")
    if score is FP64:
        raise InputError("a float64 score", "float16, bfloat16 or float32", "use perturbed_law")
    race = _Race.of(w if tie == "first" else w[::-1], noise, combine, score)
    probs, error = race.solve(tolerance, progress)
    return Law.from_probs(
        probs if tie == "first" else probs[::-1],
        f"enumeration of {len(noise.values)} noise atoms, ties to the {tie} index",
        error,
        Guarantee.EXACT if error < 1e-12 else Guarantee.CERTIFIED,
    )


@dataclass(frozen=True)
class _Race:
    """Atoms in order of favour (best first); the score is monotone along them. A NaN score stands above +inf."""

    weights: Float
    ascending: Float  # the atoms as an ascending key: -noise for a sum, noise for a quotient
    noise: np.ndarray  # float32
    better: Float  # (atoms + 1,) P(noise is one of the first k)
    log_f: Float  # log(1 - better)
    combine: Combine
    format: FloatFormat

    @staticmethod
    def of(weights: Float, noise: Atoms, combine: Combine, score: FloatFormat) -> _Race:
        values, counts = noise.values, noise.counts
        if combine == "add":
            values, counts = -values[::-1], counts[::-1]
        elif values[0] < 0:
            raise InputError("a negative atom", "noise >= 0 for a quotient", "check the recipe")
        better = np.ldexp(np.concatenate([[0], np.cumsum(counts)]).astype(np.float64), -noise.bits)
        with np.errstate(divide="ignore"):
            log_f = np.log1p(-better)
        single = (-values if combine == "add" else values).astype(np.float32)
        return _Race(weights, np.ascontiguousarray(values), single, better, log_f, combine, score)

    def score(self, weight: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The rounded score, float32: computed in float32, then rounded to the score's format. -0 becomes 0."""
        with np.errstate(all="ignore"):
            s = weight + noise if self.combine == "add" else weight / noise
        if self.format is not FP32:
            s = self.format.round(s).astype(np.float32)
        return s + np.float32(0.0)

    def reach(self, threshold: np.float32, weights: Float) -> Int:
        """For each weight, how many atoms give a score >= threshold: a guess in real arithmetic, then galloping and
        bisection on the rounded score, which is monotone along the atoms."""
        count, narrow = len(self.noise), weights.astype(np.float32)

        def above(k: Int) -> np.ndarray:  # True before the first atom, False after the last
            score = self.score(narrow, self.noise[k.clip(0, count - 1)])
            return (k < 0) | ((k < count) & ((score >= threshold) | np.isnan(score)))

        with np.errstate(all="ignore"):
            key = weights - threshold if self.combine == "add" else weights / threshold
        guess = np.searchsorted(self.ascending, np.nan_to_num(key, posinf=np.inf, neginf=-np.inf)).astype(np.int64)
        low, high, width = guess - 1, guess.copy(), 1  # invariant sought: above(low) and not above(high)
        while (wrong := ~above(low)).any():
            low, width = np.where(wrong, np.maximum(low - width, -1), low), 2 * width
        width = 1
        while (wrong := above(high)).any():
            high, width = np.where(wrong, np.minimum(high + width, count), high), 2 * width
        while (high - low > 1).any():
            middle = (low + high) // 2
            ok = above(middle)
            low, high = np.where(ok, middle, low), np.where(ok, high, middle)
        return high

    def threshold(self, x: float, top: float) -> np.float32:
        """The score of a token of the top weight whose exponential is ``x``."""
        with np.errstate(all="ignore"):
            return np.float32(top - np.log(x) if self.combine == "add" else top / x)

    def solve(self, tolerance: float, progress: Callable[[float], None] | None) -> tuple[Float, float]:
        """Probabilities and error bound. Thresholds fall; the mass whose scores all lie below them is ``left``.

        While ``left`` is large every event is enumerated. Once it is below ``128 tolerance`` the events of a whole block
        of scores share one product: each is between exp(-drop) and 1 times its value at the block's top, so with blocks
        of drop D ~ (tolerance / left_0) e^{L/2} the errors sum to less than ``tolerance``.
        """
        w, vocab = self.weights, len(self.weights)
        head = int(np.argmax(w))
        rest = np.delete(np.arange(vocab), head)
        if not len(rest):
            return np.ones(1), 0.0
        probs = np.zeros(vocab)
        head_scores = self.score(w[head].astype(np.float32), self.noise)[::-1]  # ascending, NaN last
        bottom = np.float32(-np.inf if self.combine == "add" else 0.0)
        end = self.reach(np.nextafter(bottom, np.float32(np.inf)), w[rest])  # atoms that score above the bottom
        top = w[head]
        relative = np.exp(w[rest] - top) if self.combine == "add" else w[rest] / (top or 1.0)
        total = max(float(relative.sum()), 1e-300)
        step = x = min(_EVENTS / (2 * total * len(self.noise)), 1e6)
        done, log_all, error, left, block = np.zeros(len(rest), dtype=np.int64), 0.0, 0.0, 1.0, 0.0
        log_error = 0.0  # of log_all, from the cumulative sums
        above = 0  # how many of the head's atoms score at or above the threshold
        head_end = self._head_reach(head_scores, np.array([bottom]), inclusive=False)[0]
        while (done < end).any() and left > tolerance * 2.0**-10:
            if not block and left <= 128 * tolerance:
                block = left
            if block:
                falling = max(float(relative[done < end].sum()), 1e-300) + (
                    above < head_end
                )  # rate of those not at the end
                step = max(min(tolerance / np.sqrt(block * left), 1.0) / falling, 1e-6 * x)
            s = self.threshold(x + step, top)
            until = np.minimum(self.reach(s, w[rest]), end) if s > bottom and x < 1e250 else end
            events = int((until - done).sum())
            if not block and events > 2 * _EVENTS and step > 1e-9 * x:
                step /= 4
                continue
            was, above = above, int(self._head_reach(head_scores, np.array([s]), inclusive=True)[0])
            gain, drop, bound = self._block(done, until, log_all, 1.0 - self.better[[was, above]])
            coarse = bound > tolerance / 16 and events <= 2 * _EVENTS  # few atoms, one large key
            if events and (not block or coarse):
                gain, drop = self._window(rest, head, head_scores, done, until, log_all)
                bound = left * (log_error + events * 2.0**-53 * min(drop * drop / 2, 1.0))
            error += bound
            log_error += events * 2.0**-53 * min(drop, 1e3)
            if not block and events < _EVENTS // 2:
                step *= 2
            probs[rest] += gain
            log_all, done, x = log_all - drop, until, x + step
            left = float(np.exp(log_all) * (1.0 - self.better[above]))
            if progress is not None:
                progress(1.0 - left)
        if (done == end).all():  # every other score is at the bottom: the head if it is above it, else the first index
            probs[0] += np.exp(log_all) * (1.0 - self.better[head_end])
            left = 0.0
        probs[head] = max(1.0 - np.delete(probs, head).sum(), 0.0)
        return probs, left + error + vocab * 2.0**-53

    def _block(self, start: Int, stop: Int, log_all: float, head_f: Float) -> tuple[Float, float, float]:
        """Gains of all atoms ``start[j]..stop[j]`` under one shared product, the fall, and the bound on the error.

        ``head_f``: the head's F at the top and the bottom of the block.
        """
        low, high = self.better[start], self.better[stop]
        with np.errstate(divide="ignore"):
            drop = float((np.log1p(-low) - np.log1p(-high)).sum())
        mass = (high - low) / (1.0 - low) * np.exp(log_all)
        most, least = head_f[0], head_f[1] * np.exp(-drop)  # of the product, over the block
        shared = head_f.mean() * (-np.expm1(-drop) / drop if drop > 0 else 1.0)
        return mass * shared, drop, float(mass.sum()) * float(most - least)

    def _head_reach(self, head_scores: Float, keys: Float, *, inclusive: bool) -> Int:
        """How many of the head's atoms score above ``keys`` (or as high, if ``inclusive``)."""
        return len(head_scores) - np.searchsorted(head_scores, keys, side="left" if inclusive else "right")

    def _events(
        self, rest: Int, start: Int, stop: Int, part: slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The events of some tokens: (slot, score, first atom, last atom), slots ascending, scores descending in each."""
        start, lengths = start[part], stop[part] - start[part]
        slot = np.repeat(np.arange(part.start, part.stop, dtype=np.int32), lengths)
        atom = np.arange(len(slot)) + np.repeat(start - np.cumsum(lengths) + lengths, lengths)
        key = self.score(np.repeat(self.weights[rest[part]].astype(np.float32), lengths), self.noise[atom])
        if self.format is FP32 or not len(slot):
            return slot, key, atom, atom
        new = np.ones(len(slot), dtype=bool)  # many atoms share a coarse score: an event is a (token, score)
        new[1:] = (slot[1:] != slot[:-1]) | (key[1:] != key[:-1])
        first = np.flatnonzero(new)
        return slot[first], key[first], atom[first], atom[np.append(first[1:], len(slot)) - 1]

    def _window(
        self, rest: Int, head: int, head_scores: Float, start: Int, stop: Int, log_all: float
    ) -> tuple[Float, float]:
        """All events of atoms ``start[j]..stop[j]``: each token's gain, and the fall of log prod F over the window."""
        parts = [self._events(rest, start, stop, part) for part in _parts(stop - start)]
        slot, key, atom, final = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = _order(key)
        slot, key, atom, final = slot[order], key[order], atom[order], final[order]
        fall = self.log_f[atom] - self.log_f[final + 1]
        before = np.concatenate([[0.0], np.cumsum(fall)])
        # the head's F at this key: below it if the head's index is smaller (it would win the tie), else up to it
        above = self._head_reach(head_scores, key, inclusive=False)
        as_high = self._head_reach(head_scores, key, inclusive=True)
        head_f = 1.0 - self.better[np.where(head < rest[slot], as_high, above)]
        odds = (self.better[final + 1] - self.better[atom]) / (1.0 - self.better[atom])
        gain = odds * np.exp(log_all - before[:-1]) * head_f
        gains: Float = np.bincount(slot, weights=gain, minlength=len(rest)).astype(np.float64)
        return gains, float(before[-1])


def _parts(lengths: Int) -> list[slice]:
    """Runs of consecutive tokens of at most ``_EVENTS`` events each (or one token)."""
    upto = np.cumsum(lengths)
    edges = np.searchsorted(upto, np.arange(_EVENTS, upto[-1], _EVENTS), side="right")
    edges = np.unique(np.concatenate([[0], edges, [len(lengths)]]))
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _order(key: np.ndarray) -> Int:
    """Stable argsort of fewer than 2^30 float32 keys, descending, NaN first: the key's bits and the event's position fit
    one integer, and sorting integers by value is several times faster than argsort."""
    bits = np.where(np.isnan(key), np.float32(np.nan), key).view(np.int32).astype(np.int64)
    descending = (1 << 31) - np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    shift = len(key).bit_length()
    return np.sort((descending << shift) + np.arange(len(key))) & ((1 << shift) - 1)


def truncated_gumbel_law(log_probs: Float, ceiling: float) -> Law:
    """Proposition 5.2 of arXiv:2409.02908: Gumbel-max with noise conditioned to lie below ``ceiling`` (M).

    With p ascending, A_i = sum_{k >= i} p_k and p_0 = 0,
        P(n) = p_n sum_{i <= n} beta(i),
        beta(i) = [e^{(K+1-i) e^-M - A_i e^-M / p_i} - e^{(K+1-i) e^-M - A_i e^-M / p_{i-1}}] / A_i.
    The continuum's answer: the lattice of the float is not in it. (vocab,) natural-log probabilities in, normalised.
    """
    p = np.exp(np.asarray(log_probs, dtype=np.float64))
    if p.ndim != 1 or not p.size or not np.isclose(p.sum(), 1.0, atol=1e-6):
        raise InputError(f"log_probs of shape {p.shape} and mass {p.sum():.6g}", "(vocab,) summing to one", "normalise")
    order = np.argsort(p, kind="stable")
    order = order[p[order] > 0]
    q = p[order]
    tail = np.cumsum(q[::-1])[::-1]
    floor = np.exp(-ceiling)
    left = floor / q
    right = np.concatenate([[np.inf], left[:-1]])
    count = np.arange(len(q), 0, -1)
    beta = np.exp(count * floor - tail * left) * -np.expm1(-tail * (right - left)) / tail
    out = np.zeros_like(p)
    out[order] = q * np.cumsum(beta)
    return Law.from_probs(
        out, f"Prop. 5.2, Gumbel conditioned below {ceiling:.6g}", len(p) * 2.0**-50, Guarantee.CERTIFIED
    )


def perturbed_law(log_probs: Float, *, relative: float, lattice: float) -> Law:
    """The target law with a proved bound on how far a fine-grained race can be from it.

    Let every uniform be rounded to a grid of spacing ``lattice`` and every score be known to within a factor
    ``1 +- r``, r = ``relative`` <= 1/2. If i wins, then ``E_i / (p_i (1 + r)) <= min_j E_j / (p_j (1 - r))``, which has
    probability ``p_i (1 + r) / (p_i (1 + r) + (1 - p_i)(1 - r)) <= p_i + 2 r p_i (1 - p_i) / (1 - r) <= p_i + r`` with
    continuous uniforms. In any one uniform that event is a half-line, so rounding the uniforms one after another
    changes its probability by at most ``lattice`` each, however coarse E itself is far from 0. The other direction is
    the same with r -> -r. Hence ``|P'(i) - p_i| <= vocab * lattice + relative``; stated with ``2 relative``, which
    reaches 1, and says nothing, where r > 1/2.
    """
    log_probs = np.asarray(log_probs, dtype=np.float64)
    error = min(len(log_probs) * lattice + 2 * relative, 1.0)
    return Law(log_probs, "target law within a proved perturbation bound", error, Guarantee.CERTIFIED)
