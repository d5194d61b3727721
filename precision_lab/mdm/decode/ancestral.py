"""Ancestral sampling with a cache (Eq. 10 of arXiv:2409.02908).

With a sampler by name every categorical draw of every step is made, against the mask, as public code has
it. Without one each step is :func:`~precision_lab.faithful.unmask_step`: the same law, to the last bit of
r, from a coin for every masked place and a draw for every token that comes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...faithful import unmask_step
from ...samplers.sampler import Sampler
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
    rows_at_once,
    tempered,
    timed,
)


def ancestral(
    model: Network,
    sampler: Sampler | None = None,
    *,
    batch: int,
    length: int,
    steps: int,
    rng: Rng,
    schedule: Schedule = LINEAR,
    unmask: Float | None = None,
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
    it, see ``schedule.cancelling``; clipped to [0, 1], the last taken as 1, and NaN as 1 too: 0 / 0, of a
    step before which that arithmetic has no mask left. ``temperature``: of mu, before the mask is mixed in.
    ``temper_the_mask``: the wrong order, the temperature of the whole step, which changes the unmasking
    probability too; to be measured, not used. ``given``: (batch, length) ids to begin with; what is not the
    mask stays.
    """
    check_size(batch, length, steps)
    mask, device = model.config.mask_id, device_of(model)
    check_rng(rng, device)
    clock, some = Clock(device), rows_at_once(mask)
    heat, mixed = (
        (1.0, check_temperature(temperature)) if temper_the_mask else (check_temperature(temperature), 1.0)
    )
    r = unmask_probabilities(steps, schedule) if unmask is None else _given(unmask, steps)
    if sampler is None:
        if temper_the_mask:
            got = "temper_the_mask without a sampler"
            raise InputError(got, "a sampler that meets the mask", "name one; the faithful choice never does")
        text = beginning(given, batch, length, model)
        return _faithful(model, text, r, heat, rng=rng, progress=progress, clock=clock)
    tokens, came = beginning(given, batch, length, model), torch.full((batch, length), -1, device=device)
    log_mu: Tensor | None = None
    stale, nfe, draws = torch.ones(batch, dtype=torch.bool, device=device), 0, 0
    for step, p in enumerate(torch.from_numpy(r)):
        masked = tokens == mask
        if not masked.any():
            break
        if (todo := (stale | timed(model)) & masked.any(1)).any():
            with clock("network"), torch.no_grad():
                t = torch.full((int(todo.sum()),), (steps - step) / steps, device=device)
                found = model.log_probs(ask(model, tokens[todo], t))
                log_mu = found.new_empty(batch, *found.shape[1:]) if log_mu is None else log_mu
                log_mu[todo] = found
            nfe += 1
            stale[:] = False
        assert log_mu is not None
        with clock("categorical"):
            for where in masked.nonzero().split(some):
                rows = torch.empty(len(where), mask + 1, dtype=torch.float64, device=device)
                torch.add(tempered(log_mu[where[:, 0], where[:, 1]], heat), torch.log(p), out=rows[:, :mask])
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
    return Decoded(tokens.cpu(), nfe, draws, came.cpu(), clock.seconds)


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
    nfe = draws = 0
    masked = tokens == model.config.mask_id
    for step, p in enumerate(r.tolist()):

        def rows(comes: Tensor, step: int = step) -> Tensor:
            with clock("network"), torch.no_grad():
                text = comes.any(1)
                t = torch.full((int(text.sum()),), (steps - step) / steps, device=device)
                found = head(ask(model, tokens[text], t)[comes[text]])
            return drawable(found)

        with clock("categorical"):
            comes, drawn = unmask_step(
                rows, p, masked=masked, generator=seeds, temperature=temperature, position=step
            )
        if len(drawn):
            nfe += 1
            draws += len(drawn)
            tokens[comes] = drawn
            came[comes] = step
            masked &= ~comes
        if progress is not None:
            progress(step + 1)
        if not masked.any():
            break
    return Decoded(tokens.cpu(), nfe, draws, came.cpu(), clock.seconds)


def _seeds(count: int, rng: Rng) -> list[int]:
    """A seed of 62 bits for every sequence."""
    if isinstance(rng, np.random.Generator):
        return [int(seed) for seed in words((count,), 62, rng=rng)]
    drawn = torch.randint(0, 1 << 62, (count,), generator=rng, device=rng.device)
    return [int(seed) for seed in drawn.tolist()]


def _given(unmask: Float, steps: int) -> Float:
    try:
        r = np.nan_to_num(np.clip(np.asarray(unmask, dtype=np.float64), 0.0, 1.0), nan=1.0)
    except (TypeError, ValueError):
        raise InputError(
            "unmask of other things than numbers", f"({steps},) probabilities", "mend them"
        ) from None
    if r.shape != (steps,):
        raise InputError(f"unmask of shape {r.shape}", f"({steps},)", "give one probability a step")
    return np.append(r[:-1], 1.0)
