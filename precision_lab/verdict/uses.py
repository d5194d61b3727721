"""What is asked of a sampler in a use: the targets on which known recipes differ most from their target, per
noise value, and the effects that must be seen there."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from ..laws.lattice import reach, tail_ratio_of_atoms
from ..laws.law import target_law
from ..targets import Use, parse_target
from ..types import Budget, Float
from .plan import Asked

REAL_VOCABULARY = 151_936  # tokens of today's large vocabularies
HARM = 0.25  # share of the unmaskings that are missing from which a recipe is looked for
GAPS = np.arange(14.0, 20.0, 0.05)  # nats between the mask and a token, at which recipes are compared
RATES = (5.6, 3.1)  # standard deviations: false-fail of one test among dozens, false-pass 1e-3

# The row on which the wished effects are looked for, by budget.
MAIN = {Budget.SMOKE: 8192, Budget.CI: 50_257, Budget.FULL: 50_257}
# Every check: what samplers break on, few draws of each. {large} and {small}: the user's vocabulary, if
# there is one.
ENDS = "ends[vocab={large},share=0.9]"
SHAPES = (
    ENDS,
    "shifted[vocab={small},by=1000]",
    "shifted[vocab={small},by=-1000]",
    "spread[vocab={small},nats=180]",
    "masked[vocab={small}]",
)
SMALL_VOCABULARY = 1024
SHAPE_VALUES = 2**24  # noise values of one shape that has no wish
# and at least so many draws: 21 are due to each of the ends' 32 tokens, and one that gets none fails by an
# exact binomial
SHAPE_DRAWS = 800
STEP_VALUES = 9 * 2**29  # noise values: 4.8e9
# What these rows are not for: their masks and steps leave no temperature to speak of, and no tail.
OF_MANY_VALUES = ("temperature", "tail", "lattice")
OF_EVEN_TOKENS = ("temperature", "tail", "lattice", "rows", "serial", "streams", "repeats", "ties")


def lattice_from_third(gap: Float) -> Float:
    """q / p of 24-bit noise whose largest uniform is 1 - 3 2^-24: (y / (e^y - 1)) e^(-2y), y = 2^-24 e^gap."""
    return reach(gap, 24) * np.exp(-2 * np.ldexp(np.exp(gap), -24))


def cuda_race(gap: Float) -> Float:
    """q / p of ``exponential_`` on CUDA, from the smallest values of the fast logarithm as measured on an
    H100."""
    from ..uniforms.fast_log import fast_log_table

    values = fast_log_table().numpy()[:4096].astype(np.float64)
    masses = np.full(len(values), 2.0**-24)
    values[0] = 2.0**-24  # the guard lifts u = 1 and u = 1 - 2^-24 to it
    masses[0] = 1.5 * 2.0**-24
    return tail_ratio_of_atoms(values, masses, gap)


# recipe -> q / p of a rare token, by its gap from the head in nats. Coarser noise is seen wherever these are.
KNOWN: dict[str, Callable[[Float], Float]] = {
    "24-bit noise": partial(reach, bits=24),
    "23-bit noise": partial(reach, bits=23),
    "24-bit noise, cast": lattice_from_third,
    "exponential_ on CUDA": cuda_race,
}


def values_needed(gap: Float, ratio: Float) -> Float:
    """Noise values that show a rate of q where p is right, p = one of e^gap values, q = ratio p: e^gap (a +
    b sqrt(ratio))^2 / (1 - ratio)^2, with a and b the normal quantiles of the two error rates. To choose
    by, not to decide by."""
    fail, miss = RATES
    with np.errstate(divide="ignore"):
        return np.exp(gap) * ((fail + miss * np.sqrt(ratio)) / (1 - ratio)) ** 2


def telling_gap(most: float) -> float:
    """The gap in nats, up to ``most``, at which the hardest of :data:`KNOWN` takes the fewest noise values."""
    gaps = GAPS[most >= GAPS]
    if not len(gaps):
        return most
    hardest = np.max([values_needed(gaps, ratio(gaps)) for ratio in KNOWN.values()], axis=0)
    return float(gaps[hardest.argmin()])


def telling_step(use: Use, vocab: int) -> Asked:
    """The step of ancestral sampling on which known recipes differ most, for each noise value drawn: r = 1
    / N, and e^gap / N equal tokens, no more than ``vocab``.

    Wished: the least share of the unmaskings that one of :data:`KNOWN` lacks there. Where 24-bit noise
    lacks less than
    :data:`HARM` even on so flat a row, it does no harm in this use and nothing is wished.
    """
    steps = use.steps or 1
    gap = telling_gap(math.log(steps) + math.log(vocab))
    tokens = max(2, min(vocab, round(math.exp(gap) / steps)))
    target = parse_target(f"mdm_step[vocab={tokens},exponent=0,unmask={1 / steps!r}]")
    at = np.array([math.log(steps) + math.log(tokens)])
    lacking = [1 - float(ratio(at)[0]) for ratio in KNOWN.values()]
    seen = [share for share in lacking if share >= HARM]
    return Asked(target, {"unmask": min(seen)} if lacking[0] >= HARM else {}, OF_EVEN_TOKENS)


def default_budget(use: Use) -> Budget | int:
    """Smoke; for ancestral steps the noise values by which 24-bit noise is told, and a half more for the other
    questions."""
    return Budget.SMOKE if use.steps is None else STEP_VALUES


def asked_in(use: Use, wished: dict[str, float], budget: Budget, vocab: int | None = None) -> tuple[Asked, ...]:
    """The default questions of a use. ``wished``: the user's effects, looked for on the main row.
    ``vocab``: the user's, of every row; else 8,192 (50,257 from --budget ci on) for the main row and
    :data:`REAL_VOCABULARY` for the ends."""
    main = parse_target(f"zipf[vocab={vocab or MAIN[budget]}]")
    if use.steps == 1:
        use = Use(use.name)  # one step draws from the row itself
    asked = [Asked(main, wished)]
    for shape in SHAPES:
        target = parse_target(shape.format(large=vocab or REAL_VOCABULARY, small=vocab or SMALL_VOCABULARY))
        if not target_law(target.logits.astype(np.float32)).probs.max() < 1:
            continue  # of few tokens one is certain
        least = max(SHAPE_DRAWS, min(2**14, SHAPE_VALUES // len(target.logits)))
        # in fewer draws than tokens the identity test sees nothing
        without = OF_MANY_VALUES if least >= len(target.logits) else (*OF_MANY_VALUES, "identity")
        also = ("tokens",) if shape is ENDS else ()
        asked.append(Asked(target, {}, without, least, also=also))
    if budget is not Budget.SMOKE and use.steps is None:
        asked.append(Asked(parse_target(f"normal[vocab={vocab or 50_257}]"), wished))
    if use.name == "first-hitting":
        # which of the masked places is next: one of equals
        asked.append(
            Asked(
                parse_target("uniform[vocab=1024]"), {"tv": wished["tv"]} if "tv" in wished else {}, least=2**14
            )
        )
    if use.steps is not None:
        asked.append(telling_step(use, vocab or REAL_VOCABULARY))
    return tuple(asked)
