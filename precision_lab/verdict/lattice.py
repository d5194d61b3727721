"""The bet against float32 noise: a race of 24-bit uniforms in closed form, and the draws that show it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..laws.law import Law
from ..statistics import draws_needed_likelihood_ratio, lattice_law
from ..types import Float

LATTICE_BITS = 24  # of a float32 uniform
SHARES = (0.1, 0.25, 0.5, 1.0)  # of the way to the lattice, for which the draws needed are told


def lattice_bet(law: Law) -> Law:
    """Half the law, half that of a float32 race: the alternative of the lattice test, safe where the lattice is not right."""
    lattice = lattice_law(law, LATTICE_BITS)
    with np.errstate(invalid="ignore"):
        log_probs = np.logaddexp(law.log_probs, lattice.log_probs) - math.log(2)
    return replace(lattice, log_probs=log_probs)


def lattice_draws(law: Law, share: float, level: float, false_pass: float) -> int:
    """Draws with which :func:`lattice_bet` fails a sampler ``share`` of the way to the lattice. Certified, by Chernoff."""
    lattice = lattice_law(law, LATTICE_BITS)
    truth = replace(
        lattice, log_probs=np.logaddexp(lattice.log_probs + math.log(share), _scaled(law, 1 - share))
    )
    return draws_needed_likelihood_ratio(law, lattice_bet(law), level, false_pass, truth=truth)


def detectable_lattice(n: int, law: Law, level: float, false_pass: float) -> float:
    """The smallest of :data:`SHARES` that n draws see; inf where none is."""
    for share in SHARES:
        try:
            if lattice_draws(law, share, level, false_pass) <= n:
                return share
        except InputError:  # no n shows it
            continue
    return math.inf


def _scaled(law: Law, share: float) -> Float:
    return law.log_probs + math.log(share) if share > 0 else np.full(law.vocab, -np.inf)
