"""Left-to-right sampling of a causal network: the fair rival."""

from __future__ import annotations

import torch

from ...errors import InputError
from ...samplers.sampler import Sampler
from ...uniforms import Rng
from ..denoiser import START
from .decoded import (
    Clock,
    Decoded,
    Network,
    Progress,
    check_rng,
    check_size,
    check_temperature,
    device_of,
    tempered,
)


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
    """Token l from p(. | x_<l): ``length`` network calls, one draw a token. ``steps``: position. A network with a ``reader``
    (:meth:`precision_lab.mdm.denoiser.Denoiser.reader`) keeps its keys and values; another reads the whole prefix again."""
    check_size(batch, length)
    if not getattr(model.config, "causal", False):
        raise InputError("a network that sees what is to come", "a causal one", "train with --kind ar")
    heat, device = check_temperature(temperature), device_of(model)
    check_rng(rng, device)
    clock, read = Clock(device), model.reader() if hasattr(model, "reader") else None
    tokens = torch.full((batch, length + 1), START, device=device)  # shifted by one: token l lies at l + 1
    for l in range(length):
        with clock("network"), torch.no_grad():
            hidden = read(tokens[:, l]) if read else model.hidden(tokens[:, 1 : l + 2])[:, l]
            log_mu = model.log_probs(hidden)
        with clock("categorical"):
            tokens[:, l + 1] = sampler.sample(tempered(log_mu, heat), 1, rng=rng)[0]
        if progress is not None:
            progress(l + 1)
    came = torch.arange(length).expand(batch, -1).contiguous()
    return Decoded(tokens[:, 1:].cpu(), length, batch * length, came, clock.seconds)
