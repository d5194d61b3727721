"""Ancestral decoding of a sampler known by its law, at the cost of its events instead of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...laws.process import StepLaw
from ...samplers import Sampler
from ...types import Float, Int
from ..schedule import unmask_probabilities
from .decoded import (
    ROWS,
    Clock,
    Decoded,
    Network,
    Progress,
    beginning,
    check_size,
    device_of,
    drawable,
    public,
    put,
    timed,
)
from .step_laws import law_and_excess

_TOKENS = 256  # tokens in one network call: more are slower, on a CPU


class Candidate(NamedTuple):
    """One candidate step of one masked position. ``bound``: P(candidate at this step), whatever the network
    says; ``r``: what a step asks for; ``log_mu``: (vocab,) nats; ``q``: (vocab,) the step law there;
    ``token``: what came, -1 for none.

    So the sum over candidates of g / bound estimates, without bias, the sum of g over all steps of all
    masked positions. In the last step every masked position is a candidate, bound = 1 and q is
    renormalised.
    """

    sequence: int
    position: int
    step: int
    r: float
    bound: float
    log_mu: Float
    q: Float
    token: int


def event_driven(
    model: Network,
    sampler: StepLaw | Sampler | str,
    *,
    batch: int,
    length: int,
    steps: int,
    rng: np.random.Generator,
    excess: float | None = None,
    given: Tensor | None = None,
    progress: Progress | None = None,
    watch: Callable[[Candidate], None] | None = None,
) -> Decoded:
    """Ancestral decoding of a sampler known by its law: the same law as N brute-force steps, at the cost of
    its events.

    Thinning: whatever the network says, a step unmasks with probability at most d_i = min(r_i + ``excess``,
    1), so every masked position carries candidate steps of that Bernoulli process, drawn in closed form and
    independent of the network. Only at a candidate is the law asked: with u uniform below d_i, the token is
    the first j with u < q_1 + ... + q_j, and none, where u exceeds the sum, is a refusal. In the last step
    r = 1 and the law is renormalised. Sequences advance each at its own pace and share network calls of up
    to 256 tokens. ``draws``: candidates; ``progress``: called with the number of tokens that have come;
    ``watch``: with every candidate, its token in our numbering. ``sampler``: by name, or a step law, see
    :mod:`precision_lab.laws.process`; of a sampler without a closed form its exact law is computed at every
    candidate. ``excess``: what it may give above r; u = 0 is 2^-24 in float32, 2^-9 in bfloat16. ``given``:
    (batch, length) ids to begin with; what is not the mask stays. Raises InputError if the law unmasks more
    often than d_i allows, and for a network that is told the time: its predictions change from step to
    step, whether tokens come or not.
    """
    check_size(batch, length, steps)
    if timed(model):
        raise InputError("a network that is told the time", "one that is not", "use decode.ancestral")
    if not callable(getattr(rng, "exponential", None)):
        raise InputError(
            f"rng of type {type(rng).__name__}", "numpy.random.Generator", "pass rng=np.random.default_rng(...)"
        )
    r, device = unmask_probabilities(steps), device_of(model)
    step_law, usual = law_and_excess(sampler)
    excess = usual if excess is None else excess
    clock = Clock(device)
    bound = np.minimum(r + excess, 1.0)
    survival = np.cumsum(np.log1p(-np.minimum(bound[:-1], 1.0 - 2.0**-53)))  # log P(no candidate up to step i)

    def next_candidate(after: Int) -> Int:
        """First candidate step > ``after``; the last step takes all."""
        done = np.append(survival, 0.0)[after]  # after = -1: none yet
        return np.maximum(np.searchsorted(-survival, rng.exponential(size=after.shape) - done), after + 1)

    tokens, came = beginning(given, batch, length, model), np.full((batch, length), -1)
    masked = (tokens == model.config.mask_id).cpu().numpy()
    candidate, stale = next_candidate(came), np.ones(batch, dtype=bool)
    candidate[~masked] = steps
    nfe, asked, draws = 0, 0, 0
    hidden: Tensor | None = None
    head = getattr(model, "logits", None) or model.log_probs
    while (open_ := np.flatnonzero((masked & (came < 0)).any(1))).size:
        for todo in _split(open_[stale[open_]], max(_TOKENS // length, 1)):
            hidden = None if batch == 1 else hidden  # two would lie side by side
            with clock("network"), torch.no_grad():
                found = model.hidden(tokens[todo])
            chosen = torch.zeros(batch, dtype=torch.bool, device=found.device)
            chosen[todo] = True
            hidden = put(hidden, chosen, found)
            del found
            stale[todo] = False
            nfe += 1
            asked += len(todo)
        assert hidden is not None
        now = candidate[open_].min(1)
        at, where = np.nonzero(candidate[open_] == now[:, None])
        for part in _split(np.arange(len(at)), ROWS):
            row, position, step = open_[at[part]], where[part], now[at[part]]
            with clock("network"), torch.no_grad():  # the head runs at candidates alone
                nats = drawable(torch.log_softmax(head(hidden[row, position]).double(), dim=-1))
                log_mu = nats.cpu().numpy()
            draws += len(part)
            with clock("categorical"):
                for i, p, s, log_p in zip(row, position, step, log_mu, strict=True):
                    q, last = step_law(log_p, float(r[s])), s == steps - 1
                    cumulative = np.cumsum(q)
                    total = float(cumulative[-1])
                    if not float(last) * 2.0**-60 <= total <= bound[s] * (1 + 1e-9):
                        got = f"a step law of mass {total:.6g} at r = {r[s]:.6g}"
                        raise InputError(
                            got, f"0 to r + excess = {bound[s]:.6g}", "raise excess, or mend the law"
                        )
                    u = rng.random() * (total if last else bound[s])
                    u = min(u, np.nextafter(total, 0.0)) if last else u  # a product can round up to the total
                    token = int(np.searchsorted(cumulative, u, side="right")) if u < total else -1
                    if watch is not None:
                        law = q / total if last else q
                        watch(
                            Candidate(int(i), int(p), int(s), float(r[s]), float(bound[s]), log_p, law, token)
                        )
                    if token >= 0:
                        tokens[i, p], came[i, p] = token, s
                        candidate[i, p], stale[i] = steps, True
                    else:
                        candidate[i, p] = next_candidate(candidate[i : i + 1, p])[0]
        if progress is not None:
            progress(int((came >= 0).sum()))
    return Decoded(public(model, tokens).cpu(), nfe, draws, torch.from_numpy(came), clock.seconds, asked=asked)


def _split(index: Int, size: int) -> list[Int]:
    return [index[i : i + size] for i in range(0, len(index), size)]
