"""Ancestral sampling in two stages: *whether* a position is unmasked by a float64 Bernoulli draw, *which*
token by a sampler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...samplers import Sampler, resolve
from ...uniforms import Rng
from ..schedule import LINEAR, Schedule, unmask_probabilities
from .decoded import (
    Clock,
    Decoded,
    Network,
    Progress,
    ask,
    beginning,
    check_rng,
    check_size,
    check_temperature,
    device_of,
    public,
    tempered,
    uniforms,
)


def two_stage(
    model: Network,
    sampler: Sampler | str | Callable[..., Tensor],
    *,
    batch: int,
    length: int,
    steps: int,
    rng: Rng,
    schedule: Schedule = LINEAR,
    temperature: float = 1.0,
    given: Tensor | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """The law of ``steps`` ancestral steps (Eq. 10 of arXiv:2409.02908); ``sampler`` draws from mu alone,
    not against the mask.

    A masked position is unmasked in step i with probability r_i = (alpha_s - alpha_t) / (1 - alpha_t),
    whatever the network says. The step of each position is drawn at once: the first i with e <= -sum_{j <=
    i} log(1 - r_j), e a float64 exponential. So imprecise noise cannot prefer tokens in time; what is left
    is its error against the likeliest *token*. One draw a token; the network runs only on sequences that
    receive a token, at most once a token. ``given``: (batch, length) ids to begin with; what is not the
    mask stays. ``temperature`` 0: the likeliest token, the first of those that tie.
    """
    check_size(batch, length, steps)
    sampler = resolve(sampler)
    heat, device = check_temperature(temperature), device_of(model)
    check_rng(rng, device)
    clock = Clock(device)
    with np.errstate(divide="ignore"):
        hazard = np.cumsum(-np.log1p(-unmask_probabilities(steps, schedule)))  # the last is infinite
    came = torch.from_numpy(np.searchsorted(hazard, -np.log(uniforms((batch, length), rng=rng).cpu().numpy())))
    tokens = beginning(given, batch, length, model)
    masked = (tokens == model.config.mask_id).cpu()
    came = came.masked_fill(~masked, -1)
    nfe = 0
    asked = 0
    for step in came[masked].unique().tolist():
        row, position = (came == step).nonzero().to(device).unbind(1)
        changed, place = row.unique(return_inverse=True)
        with clock("network"), torch.no_grad():
            t = torch.full((len(changed),), (steps - step) / steps, device=device)
            log_mu = model.log_probs(ask(model, tokens[changed], t)[place, position])
        with clock("categorical"):
            tokens[row, position] = sampler.sample(tempered(log_mu, heat), 1, rng=rng)[0]
        nfe += 1
        asked += len(changed)
        if progress is not None:
            progress(step + 1)
    return Decoded(public(model, tokens).cpu(), nfe, int(masked.sum()), came, clock.seconds, asked=asked)
