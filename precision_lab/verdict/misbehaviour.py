"""What a sampler may not do whatever its law: asked by a few small calls before the draws."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..laws.law import target_law
from .caller import Caller, Misbehaved, ramp
from .replay import RAMP, replayed

NUMBERED = {"seed", "seeds"}  # such functions often seed a global generator and draw from it
CHANCE_BITS = 64  # independent answers agree with probability 2^-64 at most
CALLS = 4  # of one probe


def probe(caller: Caller, vocab: int, seed: int, called: Callable[[], None] = lambda: None) -> None:
    """Raises Misbehaved where the ids do not follow the generator, or anything else is touched.

    ``called`` is told after each of the :data:`CALLS` calls, as each of them has the time of one.

    Two rows of :func:`~.caller.ramp`. The same seed must give the same ids, another seed and a second call
    others, and the global generators of Python, NumPy and torch must stay as they were. Two independent
    answers agree with probability 2^-64 at most. The global states are put back.
    """
    logits = ramp(2, vocab)
    alike = float((target_law(logits[0]).probs ** 2).sum())
    n = max(8, math.ceil(CHANCE_BITS / (-2 * math.log2(alike))))
    call = caller.shown(logits.shape, n, seed)
    with global_seed(1):
        before, source = _global_state(), caller.source(seed)
        first = caller.call(source, logits, n, seed)
        called()
        touched = [name for name, state in _global_state().items() if state != before[name]]
        try:
            again = caller.call(source, logits, n, seed)
        except Misbehaved as fault:
            row = f"{RAMP}[vocab={vocab}]"
            shown = replayed(caller.spec, row, 2, seed, [n, n], caller.device, caller.stated)
            raise Misbehaved(fault.what, fault.detail, shown) from fault.__cause__
        called()
    with global_seed(2):
        repeated = caller.call(caller.source(seed), logits, n, seed)
        called()
    with global_seed(1):
        other = caller.call(caller.source(seed + 1), logits, n, seed + 1)
        called()
    if touched and caller.random in NUMBERED:
        caller.touched = touched  # how such functions seed themselves: said in the note
    elif touched:
        detail = f"the call moves the global state of {' and '.join(touched)}"
        raise Misbehaved("uses the global random state", detail, call)
    its = {"global": "the global generators", "seed": "its seed", "seeds": "its seeds"}.get(caller.random)
    ignores = "ignores " + (its or "its generator")
    if not np.array_equal(first, repeated):
        raise Misbehaved(ignores, f"two calls with seed {seed} give different ids", f"{call}  # twice")
    if np.array_equal(first, other):
        detail = f"seeds {seed} and {seed + 1} give the same {first.size} ids"
        if (first == logits.argmax(axis=1)).all():
            detail += ", each the likeliest of its row: a greedy choice is no draw, and there is no law to judge it by"
        raise Misbehaved(ignores, detail, f"{call}  # and with seed {seed + 1}")
    if np.array_equal(first, again):
        what = "does not advance its generator" if its is None else ignores
        detail = f"a second call with the same generator gives the same {first.size} ids"
        raise Misbehaved(what, detail, f"{call}  # twice with one generator")


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """The global generators in a known state; as they were afterwards."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])


def _global_state() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    return {
        "random": random.getstate(),
        "numpy.random": tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in numpy_state),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
