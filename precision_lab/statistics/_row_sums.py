"""The inner loop of :mod:`.row_tests`, compiled: all sums over the vocabulary of a row, in one pass."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

jit = njit(nogil=True, cache=True, error_model="numpy")


@jit
def lattice_weight(p, step):
    """y / (e^y - 1), y = step (1 - p) / p: what a lattice of this step makes of p, before it is normalised."""
    if p == 0.0:
        return 0.0
    y = step * (1.0 - p) / p
    if y < 2.0**-8:  # the next term, y^6 / 30240, is below 1e-18
        square = y * y
        return 1.0 - y / 2.0 + square / 12.0 - square * square / 720.0
    return 0.0 if y > 700.0 else y / math.expm1(y)


@jit
def row_sums(rows, tokens, least, first, steps, cumulant, p, own_log_p, own_y, variance, rare, lattice):
    """Of every row of logits, (k, vocab), and the token drawn from it; filled in place:

    ``p``: (k, vocab) softmax.  ``own_log_p``: (k,) log p of the token.  ``own_y``, ``variance``: (k,) y of
    the token and Var y.  ``cumulant``: (2, m), sums over the rows of log E e^(t y) are added, t = -/+ first
    2^0, 2^1, ...  ``rare``: (k,) sum of the p_j <= p of the token.  ``lattice``: (len(steps), k) log q / p
    of the token, q the lattice of each step. y = log p - E log p; 0 where p < least.
    """
    count, vocab = rows.shape
    sizes = cumulant.shape[1]
    up = np.empty(sizes)
    down = np.empty(sizes)
    norms = np.empty(len(steps))
    for i in range(count):
        top = rows[i, 0]
        for j in range(1, vocab):
            top = max(top, rows[i, j])
        total = 0.0
        for j in range(vocab):
            p[i, j] = math.exp(rows[i, j] - top)
            total += p[i, j]
        log_total = math.log(total)
        centre = 0.0
        for j in range(vocab):
            p[i, j] /= total
            if p[i, j] >= least:
                centre += p[i, j] * (rows[i, j] - top - log_total)
        token = tokens[i]
        own = rows[i, token] - top - log_total
        own_log_p[i] = own
        own_y[i] = own - centre if p[i, token] >= least else 0.0
        up[:] = 0.0
        down[:] = 0.0
        norms[:] = 0.0
        spread = 0.0
        below = 0.0
        left = 0.0
        for j in range(vocab):
            mass = p[i, j]
            log_p = rows[i, j] - top - log_total
            if log_p <= own:
                below += mass
            for b in range(len(steps)):
                norms[b] += mass * lattice_weight(mass, steps[b])
            if mass < least:
                left += mass
                continue
            y = log_p - centre
            spread += mass * y * y
            grown = math.exp(first * y)
            shrunk = 1.0 / grown
            for m in range(sizes):
                up[m] += mass * grown
                down[m] += mass * shrunk
                grown *= grown
                shrunk *= shrunk
        variance[i], rare[i] = spread, below
        for m in range(sizes):
            cumulant[0, m] += math.log(down[m] + left)
            cumulant[1, m] += math.log(up[m] + left)
        for b in range(len(steps)):
            weight = lattice_weight(p[i, token], steps[b])
            lattice[b, i] = math.log(weight / norms[b]) if weight > 0.0 else -np.inf
