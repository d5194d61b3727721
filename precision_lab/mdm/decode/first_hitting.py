"""The first-hitting sampler (Prop. 4.1 of arXiv:2409.02908) and its faster relatives: the law of ancestral
sampling as steps -> infinity, at one network call a token or fewer."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...errors import InputError
from ...samplers import Sampler, resolve
from ...uniforms import Rng
from ..schedule import LINEAR, Schedule, checked, whole
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
    permutations,
    public,
    tempered,
    timed,
    uniforms,
)


def hitting_times(batch: int, length: int, *, rng: Rng, schedule: Schedule = LINEAR) -> Tensor:
    """(batch, length) float64, falling: the time at which each token comes, independent for each sequence.

    With n masks left, 1 - alpha(tau_{n-1}) = u^(1/n) (1 - alpha(tau_n)), tau_L = 1: order statistics,
    largest first, of ``length`` independent times whose masked share is uniform. log u / n is summed, so
    that no product underflows.
    """
    check_size(batch, length)
    left = torch.arange(length, 0, -1, dtype=torch.float64)
    share = (uniforms((batch, length), rng=rng).cpu().log() / left).cumsum(1).exp()
    return torch.from_numpy(checked(schedule).time(share.numpy()))


def first_hitting(
    model: Network,
    sampler: Sampler | str | Callable[..., Tensor],
    *,
    batch: int,
    length: int,
    rng: Rng,
    schedule: Schedule = LINEAR,
    temperature: float = 1.0,
    per_call: Sequence[int] | None = None,
    extrapolate: bool = False,
    correct: bool = False,
    given: Tensor | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """At each hitting time one uniformly chosen masked position draws its token from mu(x, tau), tau the
    *new* time. A network that is not told the time needs no tau, and none is drawn for it. The head runs at
    the chosen positions alone.

    ``per_call``: tokens decoded at each network call, summing to ``length`` (parallel decoding, first order
    in the number of calls); the call is made at the time of its first token. ``extrapolate``: the token
    that comes at tau takes mu + (mu - mu') (tau - t) / (t - t'), through the last two calls at t' > t; what
    falls below 0 is set to 0 and the rest normalised. ``correct``: the tokens of the last call are drawn
    again from the newest prediction *at their positions*, in which they are no longer masked; no network
    call is added. ``given``: (batch, length) ids to begin with; what is not the mask stays, and ``length``
    above is the number of masks. They may be more in some sequences than in others (without ``per_call``):
    a sequence that is done is not asked again. ``temperature`` 0: the likeliest token, the first of those
    that tie. ``steps`` of the result: the call in which each token came (for the last time).
    """
    check_size(batch, length)
    sampler = resolve(sampler)
    heat, device = check_temperature(temperature), device_of(model)
    check_rng(rng, device)
    clock = Clock(device)
    tokens = beginning(given, batch, length, model)
    came = torch.full((batch, length), -1, device=device)
    masked = tokens == model.config.mask_id
    left = masked.sum(1)  # of each sequence
    n = int(left.max())
    if per_call is not None and n != int(left.min()):
        got = f"per_call for sequences with {int(left.min())} to {n} masks"
        raise InputError(
            got, "as many masks in every sequence", "leave per_call out, or decode them one by one"
        )
    counts = _counts(per_call, n)
    needs_time = timed(model) or extrapolate
    order = permutations(batch, length, rng=rng, among=None if given is None else masked).to(device)
    tau = _times(left.tolist(), rng, schedule) if needs_time else torch.ones(batch, n)
    groups, hits = order.split(counts, dim=1), tau.to(device).split(counts, dim=1)
    begun = [sum(counts[:call]) for call in range(len(counts))]  # tokens that came before each call
    draws = asked = 0
    before = None  # the last call's time, and its prediction at the positions of this one

    def draw(log_mu: Tensor, rows: Tensor, where: Tensor, call: int) -> int:
        drawn = sampler.sample(tempered(log_mu, heat).flatten(0, 1), 1, rng=rng)[0]
        tokens[rows, where], came[rows, where] = drawn.view(where.shape), call
        return where.numel()

    for call in range(len(counts)):
        live = (left > begun[call]).nonzero()[
            :, 0
        ]  # sequences that are not done; where all masks are equal, all
        rows, each = live[:, None], torch.arange(len(live), device=device)[:, None]
        now, t = groups[call][live], hits[call][live, 0]
        with clock("network"), torch.no_grad():
            hidden = ask(model, tokens[live], t)
            log_mu = model.log_probs(hidden[each, now]).double()
            last = groups[call - 1][live] if correct and call else None
            again = None if last is None else model.log_probs(hidden[each, last])
            ahead = None
            if extrapolate and call + 1 < len(counts):
                stays = (left[live] > begun[call + 1]).nonzero()[:, 0]
                next_ = groups[call + 1][live[stays]]
                ahead = t[stays], tempered(model.log_probs(hidden[stays[:, None], next_]), 1.0)
            del hidden  # the next answer would lie beside it
        with clock("categorical"):
            if again is not None and last is not None:
                draws += draw(again, rows, last, call)
            if before is not None:
                log_mu = _lagrange(log_mu, before[1], hits[call][live], t, before[0])
            draws += draw(log_mu, rows, now, call)
        before = ahead
        asked += len(live)
        if progress is not None:
            progress(begun[call] + counts[call])
    return Decoded(public(model, tokens).cpu(), len(counts), draws, came.cpu(), clock.seconds, asked=asked)


def _times(left: list[int], rng: Rng, schedule: Schedule) -> Tensor:
    """:func:`hitting_times` of as many tokens as are left in each sequence, (batch, most of them)."""
    most = max(left)
    if min(left) == most:
        return hitting_times(len(left), most, rng=rng, schedule=schedule)
    found = torch.ones(len(left), most, dtype=torch.float64)
    for row, count in enumerate(left):
        if count:
            found[row, :count] = hitting_times(1, count, rng=rng, schedule=schedule)[0]
    return found


def _counts(per_call: Sequence[int] | None, length: int) -> list[int]:
    try:
        counts = [1] * length if per_call is None else [operator.index(count) for count in per_call]
    except TypeError:
        counts = []
    if min(counts, default=0) < 1 or sum(counts) != length:
        raise InputError(f"per_call {per_call!s:.60}", f"positive whole numbers of sum {length}", "mend them")
    return counts


def even_counts(length: int, calls: int) -> list[int]:
    """``length`` tokens over ``calls`` calls, as evenly as whole numbers allow, the larger first."""
    if not (whole(calls, length) and calls <= length):
        raise InputError(
            f"calls = {calls!r}", f"a whole number, 1 to {length}", "decode at least one token a call"
        )
    return [length // calls + (i < length % calls) for i in range(calls)]


def _lagrange(log_mu: Tensor, log_before: Tensor, tau: Tensor, t: Tensor, t_before: Tensor) -> Tensor:
    """log of mu extrapolated from t' and t to tau. (batch, count, vocab); where nothing positive is left,
    mu."""
    mu, gap = log_mu.exp(), (t - t_before)[:, None]
    slope = torch.where(gap != 0, (tau - t[:, None]) / gap, 0.0)
    found = (mu + (mu - log_before.exp()) * slope[..., None]).clamp(min=0.0)
    total = found.sum(-1, keepdim=True)
    return torch.where(total > 0, found / total, mu).log()
