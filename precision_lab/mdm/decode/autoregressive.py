"""Left-to-right sampling of a causal network: the fair rival."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import InputError
from ...samplers import Sampler, resolve
from ...uniforms import Rng
from ..denoiser import START
from .decoded import (
    Clock,
    Decoded,
    Network,
    Progress,
    beginning,
    check_rng,
    check_size,
    check_temperature,
    device_of,
    tempered,
)


def autoregressive(
    model: Network,
    sampler: Sampler | str | Callable[..., Tensor],
    *,
    batch: int,
    length: int,
    rng: Rng,
    temperature: float = 1.0,
    given: Tensor | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """Token l from p(. | x_<l): ``length`` network calls, one draw a token. ``steps``: position.

    A network with a ``reader`` (:meth:`precision_lab.mdm.denoiser.Denoiser.reader`) keeps its keys and
    values; another reads the whole prefix again. ``given``: (batch, length) ids, in each sequence a prompt,
    which stays, and then the mask. ``temperature`` 0: the likeliest token, the first of those that tie.
    """
    check_size(batch, length)
    sampler = resolve(sampler)
    if not getattr(model.config, "causal", False):
        raise InputError("a network that sees what is to come", "a causal one", "train with --kind ar")
    heat, device = check_temperature(temperature), device_of(model)
    check_rng(rng, device)
    clock, read = Clock(device), model.reader() if hasattr(model, "reader") else None
    text = beginning(given, batch, length, model)
    masked = text == model.config.mask_id
    if bool((masked[:, :-1] & ~masked[:, 1:]).any()):
        got = "given with a token behind a mask"
        raise InputError(got, "prompts, then masks", "a causal network does not see what is to come")
    tokens = torch.full((batch, length + 1), START, device=device)  # shifted by one: token l lies at l + 1
    prompt = int((~masked).sum(1).min())  # of every sequence, at least
    draws = 0
    nfe = 0
    for l in range(length):
        todo = masked[:, l]
        if not todo.all():
            tokens[:, l + 1] = text[:, l]
        if l < prompt and read is None:
            continue
        with clock("network"), torch.no_grad():
            hidden = read(tokens[:, l]) if read else model.hidden(tokens[:, 1 : l + 2])[:, l]
            log_mu = model.log_probs(hidden if todo.all() else hidden[todo]) if todo.any() else None
        nfe += 1
        with clock("categorical"):
            if log_mu is not None:
                tokens[todo, l + 1] = sampler.sample(tempered(log_mu, heat), 1, rng=rng)[0]
                draws += len(log_mu)
        if progress is not None:
            progress(l + 1)
    came = torch.arange(length).expand(batch, -1).masked_fill(~masked.cpu(), -1)
    return Decoded(tokens[:, 1:].cpu(), nfe, draws, came, clock.seconds, asked=nfe * batch)
