"""Confidence-ordered decoding, as LLaDA and Dream do it: at each step every masked position proposes a
token, and the surest proposals stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...formats import FP64, FloatFormat
from ...samplers import Sampler, resolve
from ...uniforms import Rng
from ..schedule import LINEAR, Schedule
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
from .first_hitting import _counts, even_counts

Order = Literal["confidence", "margin", "entropy", "random"]


def confidence_ordered(
    model: Network,
    sampler: Sampler | str | Callable[..., Tensor],
    *,
    batch: int,
    length: int,
    rng: Rng,
    steps: int | None = None,
    per_call: Sequence[int] | None = None,
    order: Order = "confidence",
    temperature: float = 1.0,
    confidence_format: FloatFormat = FP64,
    given: Tensor | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """``steps`` network calls, over which the tokens are spread evenly, the larger first, as LLaDA; or
    ``per_call`` tokens at each; by default one.

    ``order``: what makes a proposal sure. "confidence": mu of the proposed token (LLaDA,
    ``low_confidence``); "margin": the largest mu less the second; "entropy": minus that of mu (Dream);
    "random": a uniform number, never rounded, which is parallel first-hitting decoding. Confidence is of mu
    itself, at temperature 1, as LLaDA has it, rounded to ``confidence_format``: in bfloat16 every mu above
    1 - 2^-9 is 1, and ties go to the leftmost position. The law is not that of the model. ``given``:
    (batch, length) ids to begin with; what is not the mask stays, and of prompts of unequal length each
    sequence has its own masks spread over the calls. ``temperature`` 0, LLaDA's default: the likeliest
    token, the first of those that tie.
    """
    check_size(batch, length)
    sampler = resolve(sampler)
    if order not in get_args(Order):
        raise InputError(f"order {order!r}", f"one of {', '.join(get_args(Order))}", "choose one of these")
    if steps is not None and per_call is not None:
        raise InputError(f"steps = {steps} and per_call", "one of the two", "leave out steps")
    heat, mask, device = check_temperature(temperature), model.config.mask_id, device_of(model)
    check_rng(rng, device)
    tokens = beginning(given, batch, length, model)
    came = torch.full((batch, length), -1, device=device)
    left = (tokens == mask).sum(1)
    counts = _counts_of_each(left.tolist(), steps, per_call)
    clock, draws, asked = Clock(device), 0, 0
    for call in range(counts.shape[1]):
        open_ = tokens == mask
        live = open_.any(1).nonzero()[:, 0]
        row, position = open_[live].nonzero().unbind(1)  # one after another, sequence by sequence
        with clock("network"), torch.no_grad():
            hidden = ask(model, tokens[live], _time_of(model, open_[live]))
        drawn, sure = [], []
        for part in _pieces(len(row), mask):
            with clock("network"), torch.no_grad():
                log_mu = model.log_probs(hidden[row[part], position[part]]).double()
            with clock("categorical"):
                found = sampler.sample(tempered(log_mu, heat), 1, rng=rng)[0]
                drawn.append(found)
                if order != "random":
                    values = confidence_format.round(_sure(log_mu, found, order).cpu().numpy())
                    sure.append(torch.from_numpy(values).to(device))
        del hidden  # the next answer would lie beside it
        with clock("categorical"):
            token = torch.cat(drawn)
            if order == "random":
                sure = [uniforms((len(row),), rng=rng)]
            at = _surest(torch.cat(sure), row, counts[live.cpu(), call])
            tokens[live[row[at]], position[at]] = token[at]
            came[live[row[at]], position[at]] = call
        draws += len(token)
        asked += len(live)
        if progress is not None:
            progress(call + 1)
    return Decoded(public(model, tokens).cpu(), counts.shape[1], draws, came.cpu(), clock.seconds, asked=asked)


def _time_of(model: Network, open_: Tensor) -> Tensor:
    """The time of each sequence, (batch,) float64, by the share of its places that are masked, (batch,
    length) bool, and the schedule that the network was trained with."""
    share = open_.double().mean(1).cpu().numpy()
    schedule: Schedule = getattr(model, "schedule", LINEAR)
    return torch.from_numpy(np.asarray(schedule.time(share))).to(open_.device)


def _counts_of_each(left: list[int], steps: int | None, per_call: Sequence[int] | None) -> Tensor:
    """(batch, calls): how many tokens come to each sequence at each call; 0 where it is done."""
    most = max(left)
    if per_call is not None and min(left) != most:
        got = f"per_call for sequences with {min(left)} to {most} masks"
        raise InputError(got, "as many masks in every sequence", "pass steps, or decode them one by one")
    if steps is None:
        full = _counts(per_call, most)
        if min(left) == most:
            return torch.tensor([full] * len(left))
        return (torch.arange(most) < torch.tensor(left)[:, None]).long()
    even_counts(most, steps)  # the door
    return torch.tensor([[n // steps + (k < n % steps) for k in range(steps)] for n in left])


def _pieces(count: int, vocab: int) -> Iterator[slice]:
    """Rows that are proposed to at once: no more than 2^26 numbers, which are as many as published runs of
    ours had."""
    size = max((1 << 26) // vocab, 1)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _surest(sure: Tensor, row: Tensor, counts: Tensor) -> Tensor:
    """Which places stay: the ``counts`` surest of each row, of equal ones the leftmost. Places come row by
    row."""
    order = sure.to(row.device).argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]  # row by row, in each the surest first
    first = torch.searchsorted(row[order].contiguous(), torch.arange(len(counts), device=row.device))
    rank = torch.arange(len(order), device=row.device) - first[row[order]]
    return order[rank < counts.to(row.device)[row[order]]]


def _sure(log_mu: Tensor, drawn: Tensor, order: Order) -> Tensor:
    """(n,) float64, of n rows and their proposals."""
    mu = log_mu.exp()
    if order == "confidence":
        return mu.gather(-1, drawn[..., None])[..., 0]
    if order == "margin":
        top = mu.topk(min(2, mu.shape[-1]), dim=-1).values
        return top[..., 0] - top[..., 1] if top.shape[-1] > 1 else top[..., 0]
    return torch.xlogy(mu, mu).sum(-1)
