"""Ancestral sampling with a cache (Eq. 10 of arXiv:2409.02908).

With a sampler by name every categorical draw of every step is made, against the mask, as public code has
it. Without one each step is :func:`~precision_lab.faithful.unmask_step`: the same law, to the last bit of
r, from a coin for every masked place and a draw for every token that comes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...faithful import unmask_step
from ...samplers import Sampler, resolve
from ...types import Float
from ...uniforms import Rng, words
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
    drawable,
    kept_as_it_came,
    public,
    put,
    rows_at_once,
    tempered,
    timed,
)

_ROUNDING = 2.0**-7  # what half precision may give above 1
_LEFT = 0.01  # share of the masks that a schedule may leave to its last step


def ancestral(
    model: Network,
    sampler: Sampler | str | Callable[..., Tensor] | None = None,
    *,
    batch: int,
    length: int,
    steps: int,
    rng: Rng,
    schedule: Schedule = LINEAR,
    unmask: Float | Tensor | None = None,
    temperature: float = 1.0,
    temper_the_mask: bool = False,
    given: Tensor | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """At each step every masked position draws from its tokens and the mask: ``r mu`` on tokens, ``1 - r``
    on the mask.

    ``sampler`` None, the default: the faithful choice. A place comes by a coin of exactly r, whatever the
    network says, and its token by :func:`~precision_lab.faithful.categorical`; the network runs only on
    sequences to which a token comes, in that step, and its head at those places alone. ``nfe``: steps in
    which a token came; ``draws``: tokens. Every sequence has a seed of its own, taken from ``rng`` at the
    start, so that what it draws does not hang on the others.

    With a sampler every draw is made, which costs masked x vocab numbers a step: r = (alpha_s - alpha_t) /
    (1 - alpha_t); for the linear schedule 1 / (steps - i). The rows are float64, of what the network says
    in its own format, and the sampler does its own casting. The network runs only on sequences that changed
    (on all where it is told the time); in the last step r = 1 and the mask has no mass, so a draw of the
    mask is an error of the sampler and is reported as one. ``unmask``: (steps,) r as another arithmetic has
    it, see ``schedule.cancelling``, the last taken as 1. Refused are negative values, values above 1 by more
    than rounding, NaN but for 0 / 0 behind an r of 1, where no mask is left, and schedules that do not end:
    by their own r more than 1 % of the masks are left. ``temperature``: of mu, before the mask is mixed in;
    0: the likeliest token, the first of those that tie, comes with probability r. ``temper_the_mask``: the
    wrong order, the temperature of the whole step, which changes the unmasking probability too; to be
    measured, not used. ``given``: (batch, length) ids to begin with; what is not the mask stays.
    """
    check_size(batch, length, steps)
    sampler = None if sampler is None else resolve(sampler)
    mask, device = model.config.mask_id, device_of(model)
    check_rng(rng, device)
    clock, some = Clock(device), rows_at_once(mask)
    heat, mixed = check_temperature(temperature), 1.0
    if temper_the_mask:
        heat, mixed = 1.0, heat
    r = unmask_probabilities(steps, schedule) if unmask is None else _given(unmask, steps)
    if sampler is None:
        if temper_the_mask:
            got = "temper_the_mask without a sampler"
            raise InputError(got, "a sampler that meets the mask", "name one; the faithful choice never does")
        text = beginning(given, batch, length, model)
        return _faithful(model, text, r, heat, rng=rng, progress=progress, clock=clock)
    tokens, came = beginning(given, batch, length, model), torch.full((batch, length), -1, device=device)
    log_mu: Tensor | None = None  # of an adapter: what the network says, whose rows are normalised when drawn
    later = kept_as_it_came(model)
    stale, nfe, draws, asked = torch.ones(batch, dtype=torch.bool, device=device), 0, 0, 0
    for step, p in enumerate(torch.from_numpy(r)):
        masked = tokens == mask
        if not masked.any():
            break
        if (todo := (stale | timed(model)) & masked.any(1)).any():
            log_mu = None if batch == 1 else log_mu  # two would lie side by side
            with clock("network"), torch.no_grad():
                t = torch.full((int(todo.sum()),), (steps - step) / steps, device=device)
                found = ask(model, tokens[todo], t)
                found = found if later else model.log_probs(found)
                log_mu = put(log_mu, todo, found)
                del found
            nfe += 1
            asked += len(t)
            stale[:] = False
        assert log_mu is not None
        with clock("categorical"):
            for where in masked.nonzero().split(some):
                rows = torch.empty(len(where), mask + 1, dtype=torch.float64, device=device)
                mu = log_mu[where[:, 0], where[:, 1]]
                mu = model.log_probs(mu) if later else mu
                torch.add(tempered(mu, heat), torch.log(p), out=rows[:, :mask])
                rows[:, mask] = torch.log1p(-p)
                drawn = sampler.sample(rows if mixed == 1.0 else tempered(rows, mixed), 1, rng=rng)[0]
                draws += len(where)
                hit = drawn != mask
                if step == steps - 1 and not hit.all():
                    raise InputError(
                        f"{sampler.name} drew the mask at probability 0",
                        "a token",
                        "this sampler cannot decode here",
                    )
                tokens[where[hit, 0], where[hit, 1]] = drawn[hit]
                came[where[hit, 0], where[hit, 1]] = step
                stale[where[hit, 0]] = True
        if progress is not None:
            progress(step + 1)
    return Decoded(public(model, tokens).cpu(), nfe, draws, came.cpu(), clock.seconds, asked=asked)


def _faithful(
    model: Network,
    tokens: Tensor,
    r: Float,
    temperature: float,
    *,
    rng: Rng,
    progress: Progress | None,
    clock: Clock,
) -> Decoded:
    """The steps of probabilities ``r`` from the state ``tokens``, (batch, length), which is filled in place."""
    steps, device = len(r), tokens.device
    came = torch.full_like(tokens, -1)
    head = getattr(model, "logits", None) or model.log_probs
    seeds = _seeds(len(tokens), rng)
    heat = 1.0 if temperature == 0.0 else temperature  # at temperature 0 the rows themselves are certain
    nfe = draws = asked = 0
    masked = tokens == model.config.mask_id
    for step, p in enumerate(r.tolist()):

        def rows(comes: Tensor, step: int = step) -> Tensor:
            with clock("network"), torch.no_grad():
                text = comes.any(1)
                t = torch.full((int(text.sum()),), (steps - step) / steps, device=device)
                found = head(ask(model, tokens[text], t)[comes[text]])
            return tempered(found, 0.0) if temperature == 0.0 else drawable(found)

        with clock("categorical"):
            comes, drawn = unmask_step(rows, p, masked=masked, generator=seeds, temperature=heat, position=step)
        if len(drawn):
            nfe += 1
            asked += int(comes.any(1).sum())
            draws += len(drawn)
            tokens[comes] = drawn
            came[comes] = step
            masked &= ~comes
        if progress is not None:
            progress(step + 1)
        if not masked.any():
            break
    return Decoded(public(model, tokens).cpu(), nfe, draws, came.cpu(), clock.seconds, asked=asked)


def _seeds(count: int, rng: Rng) -> list[int]:
    """A seed of 62 bits for every sequence."""
    if isinstance(rng, np.random.Generator):
        return [int(seed) for seed in words((count,), 62, rng=rng)]
    drawn = torch.randint(0, 1 << 62, (count,), generator=rng, device=rng.device)
    return [int(seed) for seed in drawn.tolist()]


def _given(unmask: Float | Tensor, steps: int) -> Float:
    """The r of a caller, (steps,), the last of them 1. InputError for what is no schedule that ends."""
    try:
        r = np.asarray(unmask.double().cpu() if isinstance(unmask, Tensor) else unmask, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            "unmask of other things than numbers", f"({steps},) probabilities", "mend them"
        ) from None
    if r.shape != (steps,):
        raise InputError(f"unmask of shape {r.shape}", f"({steps},)", "give one probability a step")
    open_ = np.append(True, np.cumsum(r[:-1] >= 1.0) == 0)  # before the step, by its own arithmetic
    if (np.isnan(r) & open_).any():
        step = int(np.flatnonzero(np.isnan(r) & open_)[0])
        got = f"unmask of NaN in step {step}, before which masks are left"
        raise InputError(got, "probabilities", "look at the noise level there: 0 times infinity, or t = 1")
    r = np.where(np.isnan(r), 1.0, r)  # 0 / 0, where no mask is left
    if (r < 0).any() or (r > 1 + _ROUNDING).any():
        got = f"unmask from {r.min():.4g} to {r.max():.4g}"
        raise InputError(got, "probabilities, 0 to 1", "(alpha_s - alpha_t) / (1 - alpha_t), with s < t")
    r = np.minimum(r, 1.0)
    if (left := float(np.prod(1.0 - r))) > _LEFT:
        got = f"unmask that leaves {left:.3g} of the masks at the end"
        do = "end with 1, if everything that is left is to come in the last step"
        raise InputError(got, f"at most {_LEFT} of them", do)
    return np.append(r[:-1], 1.0)
