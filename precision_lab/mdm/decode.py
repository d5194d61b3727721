"""Decoders of a masked diffusion model. Each takes any categorical sampler and records what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..laws.process import StepLaw
from ..samplers.sampler import Sampler
from ..types import Int
from ..uniforms import Rng, words
from .denoiser import Denoiser
from .schedule import unmask_probabilities

_ROWS = 64  # positions in float64 at once


@dataclass(frozen=True)
class Decoded:
    """``tokens``: (batch, length) int64, no mask left. ``nfe``: network calls. ``draws``: categorical draws."""

    tokens: Tensor
    nfe: int
    draws: int


def ancestral(
    model: Denoiser,
    sampler: Sampler,
    *,
    batch: int,
    length: int,
    steps: int,
    rng: Rng,
    progress: Callable[[int], None] | None = None,
) -> Decoded:
    """Ancestral sampling with cache (Eq. 10): at each step every masked position draws from its tokens and the mask.

    A position's law is ``r mu`` over tokens and ``1 - r`` on the mask, r = 1 / (steps - i) for the linear schedule; the
    logarithms are float64 and the sampler does its own casting. The network runs only on sequences that changed; in the
    last step r = 1 and the mask has no mass, so a draw of the mask is an error of the sampler and is reported as one.
    """
    _check(batch, length, steps)
    mask = model.config.mask_id
    tokens = torch.full((batch, length), mask)
    log_mu = torch.empty(batch, length, model.config.vocab, dtype=torch.float32)
    stale, nfe, draws = torch.ones(batch, dtype=torch.bool), 0, 0
    for step, r in enumerate(torch.from_numpy(unmask_probabilities(steps))):
        masked = tokens == mask
        if not masked.any():
            break
        if (todo := stale & masked.any(1)).any():
            with torch.no_grad():
                log_mu[todo] = model.log_probs(model.hidden(tokens[todo]))
            nfe += 1
            stale[:] = False
        for where in masked.nonzero().split(_ROWS):
            rows = torch.empty(len(where), mask + 1, dtype=torch.float64)
            torch.add(log_mu[where[:, 0], where[:, 1]], torch.log(r), out=rows[:, :mask])
            rows[:, mask] = torch.log1p(-r)
            drawn = sampler.sample(rows, 1, rng=rng)[0]
            draws += len(where)
            hit = drawn != mask
            if step == steps - 1 and not hit.all():
                raise InputError(
                    f"{sampler.name} drew the mask at probability 0", "a token", "this sampler cannot decode here"
                )
            tokens[where[hit, 0], where[hit, 1]] = drawn[hit]
            stale[where[hit, 0]] = True
        if progress is not None:
            progress(step + 1)
    return Decoded(tokens, nfe, draws)


def first_hitting(
    model: Denoiser,
    sampler: Sampler,
    *,
    batch: int,
    length: int,
    rng: Rng,
    progress: Callable[[int], None] | None = None,
) -> Decoded:
    """The first-hitting sampler (Prop. 4.1): one uniformly chosen masked position per network call, token from mu.

    The network is not told the time, so the hitting times tau are not needed and are not drawn; the law of the result
    is that of ancestral sampling as steps -> infinity. The head runs on the chosen position alone.
    """
    _check(batch, length, 1)
    tokens = torch.full((batch, length), model.config.mask_id)
    order = (
        words((batch, length), 62, rng=rng)
        if not isinstance(rng, torch.Generator)
        else torch.rand(batch, length, generator=rng, dtype=torch.float64)
    )
    order = order.argsort(1)  # a uniformly random permutation for each sequence
    rows = torch.arange(batch)
    for k in range(length):
        with torch.no_grad():
            log_mu = model.log_probs(model.hidden(tokens)[rows, order[:, k]])
        tokens[rows, order[:, k]] = sampler.sample(log_mu.double(), 1, rng=rng)[0]
        if progress is not None:
            progress(k + 1)
    return Decoded(tokens, length, batch * length)


def _check(batch: int, length: int, steps: int) -> None:
    if min(batch, length, steps) < 1:
        raise InputError(f"batch {batch}, length {length}, steps {steps}", "at least 1 of each", "change the smallest")


def event_driven(
    model: Denoiser,
    step_law: StepLaw,
    *,
    batch: int,
    length: int,
    steps: int,
    rng: np.random.Generator,
    excess: float = 2.0**-24,
) -> Decoded:
    """Ancestral decoding of a sampler known by its law: the same law as N brute-force steps, at the cost of its events.

    Thinning: whatever the network says, a step unmasks with probability at most d_i = r_i + ``excess``, so every masked
    position carries candidate steps of that Bernoulli process, drawn in closed form and independent of the network. Only
    at a candidate is the law asked: it is accepted with probability (sum of step_law) / d_i, and the token drawn from the
    law. In the last step r = 1 and the law is renormalised. ``draws`` counts the candidates.
    Raises InputError if the law unmasks more often than d_i allows.
    """
    _check(batch, length, steps)
    r = unmask_probabilities(steps)
    survival = np.cumsum(np.log1p(-np.minimum(r[:-1] + excess, 1.0 - 2.0**-53)))  # log P(no candidate up to step i)
    tokens, mask, nfe, draws = torch.full((batch, length), model.config.mask_id), model.config.mask_id, 0, 0

    def next_candidate(after: Int) -> Int:
        """First candidate step > ``after`` (steps - 1 if none before: the last step takes all)."""
        done = np.where(after >= 0, survival[np.maximum(after, 0)], 0.0) if len(survival) else np.zeros(len(after))
        return np.searchsorted(-survival, rng.exponential(size=len(after)) - done)

    for sequence in tokens:
        candidate = next_candidate(np.full(length, -1))
        hidden: Tensor | None = None
        while (sequence == mask).any():
            step = int(candidate.min())
            if hidden is None:
                with torch.no_grad():
                    hidden = model.hidden(sequence[None])[0]
                nfe += 1
            changed: dict[int, int] = {}
            for position in np.flatnonzero(candidate == step):
                with torch.no_grad():  # the head runs at candidates alone
                    log_mu = torch.log_softmax(model.logits(hidden[position]).double(), dim=-1).numpy()
                given = step_law(log_mu, float(r[step]))
                total, bound = float(given.sum()), min(float(r[step]) + excess, 1.0)
                draws += 1
                if total > bound * (1 + 1e-9):
                    raise InputError(f"a step law of mass {total:.6g}", f"at most {bound:.6g}", "raise excess")
                if step == steps - 1 or rng.random() * bound < total:
                    cumulative = np.cumsum(given)
                    changed[int(position)] = int(
                        np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
                    )
                    candidate[position] = steps
                else:
                    candidate[position] = next_candidate(np.array([step]))[0]
            for where, token in changed.items():
                sequence[where] = token
            hidden = None if changed else hidden
    return Decoded(tokens, nfe, draws)
