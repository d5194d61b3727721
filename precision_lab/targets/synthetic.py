"""Synthetic rows of logits. Each returns (vocab,) float64 natural-log values; random ones take their seed
as data."""

from __future__ import annotations

import math

import numpy as np

from ..errors import InputError
from ..types import Float

MOST = 1 << 24  # tokens in a row


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < np.inf:
            raise InputError(f"{name} = {value}", "a positive number", "change it")
        if name == "vocab" and value > MOST:
            raise InputError(f"vocab = {value}", f"at most {MOST} tokens", "change it")


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise InputError(f"seed = {seed}", "a whole number, 0 or more", "change it")
    return np.random.default_rng(seed)


def uniform(vocab: int = 50257) -> Float:
    """p_i = 1 / vocab."""
    _positive(vocab=vocab)
    return np.full(vocab, -np.log(vocab))


def zipf(vocab: int = 50257, exponent: float = 1.0) -> Float:
    """p_i ~ (i + 1)^-exponent."""
    _positive(vocab=vocab)
    if not np.isfinite(exponent):
        raise InputError(f"exponent = {exponent}", "a number", "change it")
    return normalise(-exponent * np.log(np.arange(1, vocab + 1)))


def geometric(vocab: int = 1000, ratio: float = 0.9) -> Float:
    """p_i ~ ratio^i."""
    _positive(vocab=vocab, ratio=ratio)
    return normalise(np.arange(vocab) * np.log(ratio))


def dirichlet(vocab: int = 1000, concentration: float = 0.1, seed: int = 0) -> Float:
    """p ~ Dirichlet(concentration, ...): log-gamma variates computed in logs, so that no token underflows
    to zero."""
    _positive(vocab=vocab, concentration=concentration)
    rng = _generator(seed)
    # Gamma(a) = Gamma(a + 1) U^(1/a) (Marsaglia and Tsang 2000)
    return normalise(
        np.log(rng.standard_gamma(concentration + 1, vocab)) + np.log(rng.random(vocab)) / concentration
    )


def normal(vocab: int = 50257, sd: float = 3.0, seed: int = 0) -> Float:
    """logits ~ N(0, sd^2): the bulk of a language model's row."""
    _positive(vocab=vocab, sd=sd)
    return normalise(_generator(seed).normal(0.0, sd, vocab))


def head_and_tail(gap: float = 15.0, tail_mass: float = 0.1) -> Float:
    """A head at logit 0 and N = round(tail_mass e^gap) equal tokens at -gap. The head is token 0."""
    _positive(gap=gap, tail_mass=tail_mass)
    wanted = tail_mass * math.exp(min(gap, 100.0))  # e^100 is far beyond MOST, and finite
    if not 0.5 < wanted <= MOST:
        raise InputError(
            f"{wanted:.4g} tail tokens (gap {gap}, tail_mass {tail_mass})", f"1 to {MOST}", "change the gap"
        )
    count = round(wanted)
    return normalise(np.concatenate([[0.0], np.full(count, -gap)]))


def mdm_step(log_probs: Float, unmask: float) -> Float:
    """One ancestral step of masked diffusion (Eq. 10) at a masked position: each token keeps ``unmask`` of
    its mass and the mask, appended last, has the rest. ``unmask`` = (alpha_s - alpha_t) / (1 - alpha_t), in
    (0, 1]."""
    if not 0 < unmask <= 1:
        raise InputError(
            f"unmask = {unmask}", "a probability in (0, 1]", "use (alpha_s - alpha_t) / (1 - alpha_t)"
        )
    with np.errstate(divide="ignore"):
        return np.append(normalise(np.asarray(log_probs, dtype=np.float64)) + np.log(unmask), np.log1p(-unmask))


def mdm_step_of_zipf(vocab: int = 50257, exponent: float = 1.0, unmask: float = 1e-3) -> Float:
    """:func:`mdm_step` of :func:`zipf`."""
    return mdm_step(zipf(vocab, exponent), unmask)


def ends(vocab: int = 151_936, share: float = 0.5) -> Float:
    """``share`` of the mass in equal parts on the first token, the last, and those beside every power of
    two from 256 on, where ids wrap and buffers end; the rest of the tokens as in :func:`zipf`."""
    _positive(vocab=vocab)
    if not 0 < share < 1:
        raise InputError(f"share = {share}", "between 0 and 1", "0.5 is the default")
    powers = 2 ** np.arange(8, 25)
    edges = np.unique(np.concatenate([[0, vocab - 1], powers - 1, powers, powers + 1]))
    edges = edges[(edges >= 0) & (edges < vocab)]
    probs = np.exp(zipf(vocab))
    probs[edges] = 0.0
    rest = probs.sum()
    if rest > 0:
        probs *= (1 - share) / rest
    probs[edges] = (share if rest > 0 else 1.0) / len(edges)
    return np.log(probs)


def shifted(vocab: int = 1024, by: float = 1000.0) -> Float:
    """:func:`zipf` with ``by`` added to every logit: a row as a network gives it, not normalised. exp overflows
    float32 beyond 88."""
    if not np.isfinite(by):
        raise InputError(f"by = {by}", "a number", "change it")
    return zipf(vocab) + by


def spread(vocab: int = 1024, nats: float = 180.0) -> Float:
    """Logits from nats/2 down to -nats/2 in equal steps, not normalised: exp overflows float32 at one end and
    underflows at the other."""
    _positive(vocab=vocab, nats=nats)
    return np.linspace(nats / 2, -nats / 2, vocab)


def masked(vocab: int = 1024) -> Float:
    """A peaked row with what samplers stumble over, not normalised: token 0 and the last share nine tenths,
    the others tie in fours; of every eight tokens one is -inf, one -10,000, one -1e9 and one the least
    float32."""
    _positive(vocab=vocab)
    row = -np.log(np.arange(vocab) // 4 + 2.0)
    inside = np.arange(1, vocab - 1)
    for place, value in ((1, -np.inf), (3, -1e4), (5, -1e9), (6, float(np.finfo(np.float32).min))):
        row[inside[inside % 8 == place]] = value
    others = np.exp(row[1:-1]).sum()
    row[[0, -1]] = np.log(4.5 * others) if others > 0 else 0.0
    return row


def normalise(logits: Float) -> Float:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
