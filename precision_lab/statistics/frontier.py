"""The temperature frontier of a model: generative perplexity against entropy. A sampler that only trades diversity for
perplexity, as a lower temperature does, stays on it; to be better or worse is to leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..types import Float, Int
from ._checks import check_tokens
from .diversity import sequence_entropy
from .estimate import Estimate
from .joint import Region, joint_region, stratified_bootstrap
from .perplexity import Scores


@dataclass(frozen=True)
class Generated:
    """Entropy, nats and scored tokens of each of n sequences, (n,) each: a point of the plane."""

    entropy: Float
    nats: Float
    tokens: Int

    @staticmethod
    def of(tokens: ArrayLike, scores: Scores, definition: str = "mdlm") -> Generated:
        """Of generated ids (n, length) and a judge's scores of them; the definition chooses the tokens that count."""
        rows, (nats, counts) = check_tokens(tokens), scores.sums(definition)
        if len(rows) != len(nats):
            raise InputError(
                f"{len(rows)} sequences and {len(nats)} scores", "as many", "judge the same sequences"
            )
        return Generated(sequence_entropy(rows), nats, counts)

    def __len__(self) -> int:
        return len(self.entropy)

    def point(self, at: Int | slice = slice(None)) -> tuple[float, float]:
        """Mean entropy of a sequence, and log perplexity sum S / sum T, of the sequences ``at``."""
        return float(self.entropy[at].mean()), float(self.nats[at].sum() / self.tokens[at].sum())

    def region(self, confidence: float = 0.95) -> Region:
        """The joint region of :meth:`point`."""
        return joint_region(self.point, len(self), confidence)


@dataclass(frozen=True)
class Matched:
    """``ratio``: perplexity of a point over the frontier's at the same entropy, 1 on the frontier, below 1 better.
    ``temperature``: where the frontier has that entropy."""

    ratio: Estimate
    temperature: Estimate


def matched_entropy(
    point: Generated, frontier: Mapping[float, Generated], *, rng: np.random.Generator, confidence: float = 0.95
) -> Matched | None:
    """A point against a frontier (temperature -> what was generated there), at the point's entropy.

    The frontier is the polygon through its points, no further than they go: entropy h and log perplexity l are linear in the
    temperature between two of them (an h that falls with it is held). temperature* solves h = entropy of the point,
    ratio = exp(l_point - l(temperature*)). None where the frontier does not reach that entropy. Interval: sequences of every
    point are drawn again, each point by itself; all numbers where too many resamples do not reach. A chord misses a
    smooth frontier l(h) by at most |l''| gap^2 / 8, gap of the entropy: keep the temperatures close where it matters.
    Errors: InputError for fewer than two temperatures.
    """
    heats = np.array(sorted(frontier))
    if len(heats) < 2:
        raise InputError(f"{len(heats)} temperatures", "two or more", "a line needs them")
    samples = [*(frontier[heat] for heat in heats), point]

    def solve(at: list[Int]) -> tuple[float, float]:
        """ratio and temperature*, NaN beyond the frontier."""
        *curve, (entropy, log_p) = (sample.point(i) for sample, i in zip(samples, at, strict=True))
        h, l = np.array(curve).T
        h = np.maximum.accumulate(h)
        if not h[0] <= entropy <= h[-1]:
            return np.nan, np.nan
        heat = float(np.interp(entropy, h, heats))
        return float(np.exp(log_p - np.interp(heat, heats, l))), heat

    sizes = [len(sample) for sample in samples]
    if np.isnan(solve([np.arange(size) for size in sizes])[0]):
        return None
    return Matched(*stratified_bootstrap(solve, sizes, rng=rng, confidence=confidence))
