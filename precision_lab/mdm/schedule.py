"""The linear schedule alpha_t = 1 - t on a uniform grid, and the probability of unmasking in one step."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..types import Float


def unmask_probabilities(steps: int) -> Float:
    """(alpha_s - alpha_t) / (1 - alpha_t) of each step, in order of decoding; (steps,) float64, the last is 1.

    With alpha_t = 1 - t and t = (steps - i) / steps this is 1 / (steps - i), i = 0..steps - 1: no cancellation.
    """
    if steps < 1:
        raise InputError(f"steps = {steps}", "at least 1", "ask for one step")
    return 1.0 / np.arange(steps, 0, -1)


def expected_nfe(steps: int, tokens: int) -> float:
    """Expected network calls of cached ancestral decoding (Eq. 73): N (1 - (1 - 1/N)^tokens), tokens = batch x length."""
    return float(-steps * np.expm1(tokens * np.log1p(-1.0 / steps))) if steps > 1 else 1.0
