"""Left-to-right sampling of a causal network: the fair rival."""

from __future__ import annotations

import torch

from ...errors import InputError
from ...samplers.sampler import Sampler
from ...uniforms import Rng
from .decoded import Clock, Decoded, Network, Progress, check_size, check_temperature, tempered


def autoregressive(
    model: Network,
    sampler: Sampler,
    *,
    batch: int,
    length: int,
    rng: Rng,
    temperature: float = 1.0,
    progress: Progress | None = None,
) -> Decoded:
    """Token l from p(. | x_<l): ``length`` network calls (each on the whole prefix), one draw a token. ``steps``: position."""
    check_size(batch, length)
    if not getattr(model.config, "causal", False):
        raise InputError("a network that sees what is to come", "a causal one", "train with --kind ar")
    heat, clock = check_temperature(temperature), Clock()
    tokens = torch.zeros((batch, length), dtype=torch.int64)
    for l in range(length):
        with clock("network"), torch.no_grad():
            log_mu = model.log_probs(model.hidden(tokens[:, : l + 1])[:, l])
        with clock("categorical"):
            tokens[:, l] = sampler.sample(tempered(log_mu, heat), 1, rng=rng)[0]
        if progress is not None:
            progress(l + 1)
    return Decoded(tokens, length, batch * length, torch.arange(length).expand(batch, -1).contiguous(), clock.seconds)
