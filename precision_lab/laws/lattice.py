"""What a grid of uniforms costs, in closed form, and the least that any sampler with so many random bits
must cost."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..types import Float


def reach(gap: Float, bits: int, *, centred: bool = False) -> Float:
    """q / p of a rare token ``gap`` nats below a head that holds nearly all mass, y = 2^-bits e^gap:

    y / (e^y - 1) for uniforms k 2^-bits, a first-order loss; y / (2 sinh(y / 2)) for (k + 1/2) 2^-bits, a
    second-order one. A token's exponential takes the values d, 2d, 3d, ... (or d/2, 3d/2, ...), d =
    2^-bits, each with mass d, and must beat the head's, of rate e^gap: a geometric sum. Left out: the
    head's own grid, an absolute 2^-bits in each term, relative to q below 4 e^y 2^-bits (tested).
    """
    if not 1 <= bits <= 1000:
        raise InputError(f"bits = {bits}", "1..1000", "name the width of the uniform's word")
    with np.errstate(over="ignore"):
        y = np.ldexp(np.exp(np.asarray(gap, dtype=np.float64)), -bits)
        half = np.minimum(y / 2, 700.0)
        ratio = half / np.sinh(half)
        return ratio if centred else ratio * np.exp(-half)


def best_total_variation(probs: Float, bits: int) -> float:
    """The least total variation from ``probs`` of any law whose probabilities are whole multiples of
    2^-bits: what a sampler that uses ``bits`` random bits a draw cannot go below.

    Rounding down, the words left over go one each to the largest fractions: sum of max(p - q, 0) over
    tokens. Exact to the rounding of the sum. ``probs``: (vocab,) summing to 1. Beyond 62 bits, where
    float64 is coarser than the grid, an upper bound, vocab 2^-(bits + 1): each token is off by less than
    2^-bits.
    """
    p = np.asarray(probs, dtype=np.float64)
    if p.ndim != 1 or not p.size or (p < 0).any() or not np.isclose(p.sum(), 1.0, atol=1e-6):
        raise InputError(
            f"probs of shape {p.shape} and mass {p.sum():.6g}", "(vocab,) summing to one", "normalise"
        )
    if bits < 1:
        raise InputError(f"bits = {bits}", "at least 1", "name the random bits of a draw")
    if bits > 62:
        return float(np.ldexp(p.size, -min(bits + 1, 2000)))
    scaled = np.ldexp(p, bits)
    floor = np.floor(scaled)
    fraction = scaled - floor
    spare = round(float(2.0**bits - floor.sum())) if bits <= 50 else round(float(fraction.sum()))
    lifted = np.argsort(-fraction, kind="stable")[: max(spare, 0)]
    fraction[lifted] = 0.0  # these got one word more than they lost
    return float(np.ldexp(fraction.sum(), -bits))


def tail_ratio_of_atoms(exponentials: Float, masses: Float, gaps: Float) -> Float:
    """q / p of one token ``gap`` nats below a head that has the rest, where the token's exponential takes
    the values E_k with probabilities m_k: (1 + e^gap) sum_k m_k exp(-E_k e^gap). The head's exponential is
    continuous.

    ``exponentials``, ``masses``: (k,); only values up to some 40 e^-gap count, so the smallest ones
    suffice. 1 for the grid of a fine uniform. Returns one ratio for each gap.
    """
    values = np.asarray(exponentials, dtype=np.float64)
    weights = np.broadcast_to(np.asarray(masses, dtype=np.float64), values.shape)
    if (weights < 0).any() or weights.sum() > 1 + 1e-9:
        raise InputError(f"masses that sum to {weights.sum():.6g}", "probabilities", "one for each value")
    odds = np.exp(np.asarray(gaps, dtype=np.float64))
    return np.array([(1 + each) * float(weights @ np.exp(-values * each)) for each in odds])
