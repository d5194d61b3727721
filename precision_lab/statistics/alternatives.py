"""Laws to bet on: what a race of too few bits draws, with and without centring, and what a wrong
temperature draws.

They steer a test's power only; its level holds whatever they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from ..errors import InputError
from ..laws.law import Law
from ..types import Guarantee
from ._checks import check_whole


def lattice_law(target: Law, bits: int = 24, *, centred: bool = False) -> Law:
    """q_i ~ p_i y / (e^y - 1), y = 2^-bits (1 - p_i) / p_i: uniforms k / 2^bits; or p_i y / (2 sinh(y /
    2)), centred ones.

    Closed form of an argmax race in which token i meets the continuum of all others; ties and the rounding
    of the logarithms are left out, so it is no certified law: ``error`` is 1. Tokens far below 2^-bits get
    log q_i ~ -y.
    """
    bits, p = check_whole("bits", bits, 1), target.probs
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = 2.0**-bits * (1 - p) / p
        log_y, decay = np.log(y), np.log(-np.expm1(-y))
        share = log_y - decay - (y / 2 if centred else y)
    log_q = target.log_probs + np.where(p >= 1, 0.0, np.where(np.isposinf(y), -np.inf, share))
    how = f"{'centred ' if centred else ''}lattice of {bits} bits, closed form"
    return Law(log_q - special.logsumexp(log_q), how, 1.0, Guarantee.HEURISTIC)


def tempered_law(target: Law, temperature: float) -> Law:
    """q_i ~ p_i^(1 / temperature)."""
    if not 0 < temperature < np.inf:
        raise InputError(f"temperature = {temperature}", "a positive number", "1 is the target itself")
    with np.errstate(over="ignore"):
        log_q = (target.log_probs - target.log_probs.max()) / temperature
    return Law(log_q - special.logsumexp(log_q), f"temperature {temperature:g}", 1.0, Guarantee.HEURISTIC)


def alternative_laws(
    target: Law,
    bits: Sequence[int] = (8, 11, 16, 23, 24, 32),
    temperatures: Sequence[float] = (0.9, 0.95, 0.98, 0.995, 1.005, 1.02, 1.05, 1.1),
) -> list[Law]:
    """Lattices of each width, plain and centred, and tilts: the alternatives of an e-process that expects
    nothing yet."""
    lattices = [lattice_law(target, width, centred=centred) for width in bits for centred in (False, True)]
    return lattices + [tempered_law(target, temperature) for temperature in temperatures]
