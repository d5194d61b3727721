"""Confidence-ordered decoding, as LLaDA and Dream do it: at each step every masked position proposes a token, and the surest
proposals stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ...errors import InputError
from ...formats import FP64, FloatFormat
from ...samplers.sampler import Sampler
from ...uniforms import Rng
from .decoded import (
    Clock,
    Decoded,
    Network,
    Progress,
    ask,
    check_rng,
    check_size,
    check_temperature,
    device_of,
    tempered,
    uniforms,
)
from .first_hitting import _counts, even_counts

Order = Literal["confidence", "margin", "entropy", "random"]


def confidence_ordered(
    model: Network,
    sampler: Sampler,
    *,
    batch: int,
    length: int,
    rng: Rng,
    steps: int | None = None,
    per_call: Sequence[int] | None = None,
    order: Order = "confidence",
    temperature: float = 1.0,
    confidence_format: FloatFormat = FP64,
    progress: Progress | None = None,
) -> Decoded:
    """``steps`` network calls, over which the tokens are spread evenly, the larger first, as LLaDA; or ``per_call`` tokens at
    each; by default one.

    ``order``: what makes a proposal sure. "confidence": mu of the proposed token (LLaDA, ``low_confidence``); "margin": the
    largest mu less the second; "entropy": minus that of mu (Dream); "random": a uniform number, never rounded, which is
    parallel first-hitting decoding. Confidence is of mu itself, at temperature 1, as LLaDA has it, rounded to
    ``confidence_format``: in bfloat16 every mu above 1 - 2^-9 is 1, and ties go to the leftmost position. The law is not
    that of the model.
    """
    check_size(batch, length)
    if order not in get_args(Order):
        raise InputError(f"order {order!r}", f"one of {', '.join(get_args(Order))}", "choose one of these")
    if steps is not None and per_call is not None:
        raise InputError(f"steps = {steps} and per_call", "one of the two", "leave out steps")
    counts = _counts(per_call, length) if steps is None else even_counts(length, steps)
    heat, mask, device = check_temperature(temperature), model.config.mask_id, device_of(model)
    check_rng(rng, device)
    clock, rows, draws = Clock(device), torch.arange(batch, device=device)[:, None], 0
    tokens, came = (torch.full((batch, length), value, device=device) for value in (mask, -1))
    for call, count in enumerate(counts):
        where = (tokens == mask).nonzero()[:, 1].view(batch, -1)  # as many are masked in every sequence
        with clock("network"), torch.no_grad():
            hidden = ask(model, tokens, torch.full((batch,), where.shape[1] / length, device=device))
            log_mu = model.log_probs(hidden[rows, where]).double()
        with clock("categorical"):
            drawn = sampler.sample(tempered(log_mu, heat).flatten(0, 1), 1, rng=rng)[0].view(where.shape)
            draws += drawn.numel()
            if order == "random":
                sure = uniforms(tuple(where.shape), rng=rng)
            else:
                sure = torch.from_numpy(confidence_format.round(_sure(log_mu, drawn, order).cpu().numpy())).to(
                    device
                )
            best = sure.argsort(dim=1, descending=True, stable=True)[:, :count]
            at = where.gather(1, best)
            tokens[rows, at], came[rows, at] = drawn.gather(1, best), call
        if progress is not None:
            progress(call + 1)
    return Decoded(tokens.cpu(), len(counts), draws, came.cpu(), clock.seconds)


def _sure(log_mu: Tensor, drawn: Tensor, order: Order) -> Tensor:
    """(batch, masked) float64."""
    mu = log_mu.exp()
    if order == "confidence":
        return mu.gather(-1, drawn[..., None])[..., 0]
    if order == "margin":
        top = mu.topk(min(2, mu.shape[-1]), dim=-1).values
        return top[..., 0] - top[..., 1] if top.shape[-1] > 1 else top[..., 0]
    return torch.xlogy(mu, mu).sum(-1)
