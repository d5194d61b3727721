"""Ancestral sampling with a cache (Eq. 10 of arXiv:2409.02908): every categorical draw of every step is made."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...samplers.sampler import Sampler
from ...types import Float
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
    rows_at_once,
    tempered,
    timed,
)


def ancestral(
    model: Network,
    sampler: Sampler,
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
    """At each step every masked position draws from its tokens and the mask: ``r mu`` on tokens, ``1 - r`` on the mask.

    r = (alpha_s - alpha_t) / (1 - alpha_t); for the linear schedule 1 / (steps - i). The rows are float64, of what the network
    says in its own format, and the sampler does its own casting. The network runs only on sequences that changed (on all
    where it is told the time); in the last step r = 1 and the mask has no mass, so a draw of the mask is an error of the
    sampler and is reported as one.
    ``unmask``: (steps,) r as another arithmetic has it, see ``schedule.cancelling``; clipped to [0, 1], the last taken as 1,
    and NaN as 1 too: 0 / 0, of a step before which that arithmetic has no mask left.
    ``temperature``: of mu, before the mask is mixed in. ``temper_the_mask``: the wrong order, the temperature of the whole
    step, which changes the unmasking probability too; to be measured, not used. ``given``: (batch, length) ids to begin
    with; what is not the mask stays.
    """
    check_size(batch, length, steps)
    mask, device = model.config.mask_id, device_of(model)
    check_rng(rng, device)
    clock, some = Clock(device), rows_at_once(mask)
    heat, mixed = (
        (1.0, check_temperature(temperature)) if temper_the_mask else (check_temperature(temperature), 1.0)
    )
    r = unmask_probabilities(steps, schedule) if unmask is None else _given(unmask, steps)
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
