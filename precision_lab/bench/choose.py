"""The decision table of one use on this machine: what each sampler gets wrong there, beside what it costs
here."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..devices import checked
from ..errors import InputError
from ..faithful import unmask_step
from ..laws.law import Law, target_law
from ..pipelines import parse_pipeline
from ..samplers import SAMPLERS, Sampler, with_tolerance
from ..samplers.rules import Enumerated
from ..statistics import total_variation
from ..statistics.entropies import entropy
from ..statistics.unmasking import unmasking
from ..targets import Target, is_file_of_logits, load_row, parse_target, parse_use
from ..targets.use import Use
from ..types import Guarantee
from .grid import rows_timed
from .rivals import REFERENCE, here
from .timing import Clock, best_rows, paired, ratio

ENOUGH = 1e-6  # total variation of what comes: a chi-square test sees it after about 1e12 draws
LEAST_TOLERANCE = 1e-12  # of an enumerated law: its arithmetic alone is off by twice as much
STEP = "faithful.unmask_step"
COMING = 4  # places that come in one timed call of unmask_step, on average, if that takes few calls
MOST_CALLS = 2000


@dataclass(frozen=True)
class Choice:
    """``rows``: a sampler each, those to take first. ``recommendation``: one sentence with its reason.
    ``given``: what was drawn from, and how it was timed."""

    rows: list[dict[str, Any]]
    recommendation: str
    given: str


@dataclass(frozen=True)
class _Row:
    """What is drawn from. ``given``: (vocab,) float32, as a sampler gets it, of a step with the mask last;
    ``tokens``: (vocab,) float32 logits of the token, over the temperature and truncated; ``share``: the
    probability that a token comes, 1 without a mask."""

    name: str
    given: np.ndarray
    tokens: np.ndarray
    share: float


def choose(
    *,
    vocab: int | None = None,
    batch: int = 1,
    use: str = "lm",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    target: str | None = None,
    device: str = "cpu",
    seconds: float = 5.0,
    seed: int = 0,
) -> Choice:
    """Every sampler that runs here, by law and by clock, in one use.

    ``use``: "lm", "mdm:N" or "first-hitting". The row: ``target``, by name or FILE[:ROW] of logits, else
    Zipf(1) over ``vocab`` tokens (50,257 if neither is given); then temperature, top-k, top-p and min-p, in
    this order, in float32. In mdm:N they act on the token, and the mask is mixed in afterwards, as the first
    of N steps has it: r = 1/N. Fidelity is from the laws on that very row, no draws: total variation as a
    share of what comes, with a bound on its own error (see :func:`bound_of`), nats of entropy lost, of a step
    the unmasking multiplier. Cost is of a token (of a step: of a masked place) in a batch, processing left
    out: medians over paired rounds, ``seconds`` in all, ratios to float32 Gumbel-max with 95 % bootstrap
    intervals.
    A sampler is proved right enough where both together are at most :data:`ENOUGH`, but not where its law is
    of arithmetic that was not measured here (``Guarantee.EMULATED``).
    Raises InputError for a vocabulary below 2, a batch below 1, temperature 0, a row of another width, a
    truncation out of range, an unknown use, and a device that is not there.
    """
    checked(device)
    if batch < 1:
        raise InputError(f"--batch {batch}", "a whole number from 1 on", "1 is one text")
    if not 0 < seconds < math.inf:
        raise InputError(f"--seconds {seconds}", "a number above 0", "5 is the default")
    asked = parse_use(use)
    row = _row(asked, _target(vocab, target), _steps(temperature, top_k, top_p, min_p))
    rng = np.random.default_rng(seed)
    costs, how = _costs(asked, row, batch, device, seconds, rng)
    rows = []
    for name, (law, what) in _laws(asked, row, device).items():
        rows.append(
            {"sampler": name} | _fidelity(law, what, row, of_step=asked.steps is not None and name != STEP)
        )
        rows[-1] |= costs[name]
        if asked.steps is None:
            del rows[-1]["unmasks"]
    rows.sort(key=lambda each: (not each["enough"], each["ratio"]))
    return Choice(rows, _recommend(rows, asked), f"{row.name}, {how}")


def _target(vocab: int | None, target: str | None) -> Target:
    if vocab is not None and vocab < 2:
        raise InputError(f"--vocab {vocab}", "2 tokens or more", "of one token nothing is drawn")
    if target is None:
        return parse_target(f"zipf[vocab={vocab or 50_257}]")
    path, colon, row = target.rpartition(":")
    if colon and row.isdigit() and is_file_of_logits(path):
        found = load_row(path, int(row))
    else:
        found = load_row(target, 0) if is_file_of_logits(target) else parse_target(target)
    if vocab is not None and vocab != len(found.logits):
        got = f"--vocab {vocab} with a row of {len(found.logits)}"
        raise InputError(got, "one of them, or both alike", "leave --vocab out")
    return found


def _steps(temperature: float, top_k: int | None, top_p: float | None, min_p: float | None) -> str:
    """The text of the pipeline; "" where nothing is between logits and draw."""
    if not 0 < temperature < math.inf:
        remedy = "at 0 the largest logit is taken, and no sampler is needed"
        raise InputError(f"--temperature {temperature}", "a number above 0", remedy)
    asked = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    steps = [f"temperature={temperature!r}"] if temperature != 1 else []
    steps += [f"{name}={value!r}" for name, value in asked.items() if value is not None]
    return " > ".join(steps)


def _row(use: Use, target: Target, steps: str) -> _Row:
    logits = torch.from_numpy(target.logits).float()
    name = target.name
    if steps:
        logits = parse_pipeline(steps).apply(logits)
        name = f"{name} > {steps}"
    tokens = logits.numpy()
    law = target_law(tokens.astype(np.float64))
    if float(law.probs.max()) == 1.0:
        raise InputError(f"{name}, which leaves one token", "two or more", "a larger temperature, k or p")
    if use.steps is None:
        return _Row(name, tokens, tokens, 1.0)
    step = use.of(Target(name, law.log_probs, target.provenance, target.mask))
    return _Row(step.name, step.logits.astype(np.float32), tokens, 1 / use.steps)


def _laws(use: Use, row: _Row, device: str) -> dict[str, tuple[Law | None, Sampler | None]]:
    """The law of every sampler here, of what it is given; of :data:`STEP` that of the token, given that one
    comes, which is its law in every step."""
    known: dict[str, Sampler | None] = {rival.name: rival.sampler(device) for rival in here(device)}
    found: dict[str, tuple[Law | None, Sampler | None]] = {}
    for name, sampler in known.items():
        print(f"law of {name}", file=sys.stderr, flush=True)
        law = None
        if sampler is not None:
            tolerance = max(ENOUGH * row.share / len(row.given), LEAST_TOLERANCE)
            exact = with_tolerance(sampler, tolerance=tolerance, relative=np.inf)
            law = exact.law(row.given)
        found[name] = law, sampler
    if use.steps is not None:
        masses = SAMPLERS["faithful_masses"]
        found[STEP] = masses.law(row.tokens), masses
    return found


def bound_of(law: Law, sampler: Sampler) -> float:
    """A bound on the total variation between ``law`` and the truth, from ``law.error``.

    The error of :func:`~precision_lab.laws.argmax.perturbed_law` is one: its argument holds for a set of
    tokens as for one, since which of two sets has the winner is a half-line in every uniform too. That of a
    sum over atoms or integers is of one token: then error * vocab / 2.
    """
    rule: Any = getattr(sampler, "rule", None)
    while hasattr(rule, "inner"):
        rule = rule.inner
    of_one_token = isinstance(rule, Enumerated) or law.guarantee is Guarantee.EXACT
    return min(1.0, law.error * law.vocab / 2) if of_one_token else law.error


def _fidelity(law: Law | None, sampler: Sampler | None, row: _Row, *, of_step: bool) -> dict[str, Any]:
    """``wrong_by``: total variation as a share of what comes. ``bound``: of it, the law's own error.
    ``enough``: whether both together are proved to be at most :data:`ENOUGH`."""
    if law is None or sampler is None:
        none = {"wrong_by": math.nan, "bound": math.nan, "enough": False, "unmasks": math.nan}
        return none | {"entropy_lost": math.nan, "ceiling": math.nan, "guarantee": "no law is known here"}
    share = row.share if of_step else 1.0
    target = target_law((row.given if of_step or row.share == 1 else row.tokens).astype(np.float64))
    wrong = total_variation(law, target) / share
    bound = bound_of(law, sampler) / share
    unmasks = 1.0
    if not of_step:
        lost = entropy(target) - entropy(law)
    elif law.probs[:-1].sum() > 0:
        effect = unmasking(law, target)
        unmasks, lost = effect.multiplier, effect.entropy_lost
    else:
        unmasks, lost = 0.0, math.nan
    return {
        "wrong_by": wrong,
        "bound": bound,
        "enough": law.guarantee is not Guarantee.EMULATED and wrong + bound <= ENOUGH,
        "unmasks": unmasks,
        "entropy_lost": lost,
        "ceiling": sampler.ceiling,
        "guarantee": str(law.guarantee),
    }


def _costs(
    use: Use, row: _Row, batch: int, device: str, seconds: float, rng: np.random.Generator
) -> tuple[dict[str, dict[str, Any]], str]:
    """Time of a token of every sampler here, paired, and how it was taken."""
    rows = rows_timed(len(row.given), batch, device)
    batched = torch.from_numpy(row.given).expand(rows, -1).contiguous().to(device)
    clock, seed = Clock.of(device), int(rng.integers(2**62))
    ways: dict[str, Callable[[], Any]] = {}
    calls = {}
    for rival in here(device):
        print(f"time of {rival.name}", file=sys.stderr, flush=True)
        ways[rival.name] = rival.prepare(batched, seed, best_rows(rival, batched, seed=seed, clock=clock))
        calls[rival.name] = 1
    if use.steps is not None:
        places = torch.from_numpy(row.tokens).expand(rows, -1).contiguous().to(device)
        calls[STEP] = max(1, min(MOST_CALLS, math.ceil(COMING / (rows * row.share))))
        ways[STEP] = _steps_of(places, row.share, calls[STEP], seed)
    taken = paired(ways, clock=clock, seconds=seconds)
    found = {}
    for name, times in taken.items():
        each = [once / calls[name] for once in times]
        against = ratio(each, taken[REFERENCE], rng=rng)
        found[name] = {
            "microseconds": float(np.median(each)) / rows * 1e6,
            "ratio": against.value,
            "ratio_low": against.low,
            "ratio_high": against.high,
            "rounds": len(each),
        }
    many = f"{rows} of {batch} rows" if rows < batch else f"{rows} row{'s' if rows > 1 else ''}"
    return found, f"{many}, {device}, {torch.get_num_threads()} threads, {clock.name} time"


def _steps_of(places: Tensor, r: float, calls: int, seed: int) -> Callable[[], Any]:
    generator = torch.Generator(device=places.device).manual_seed(seed)
    return lambda: [unmask_step(places, r, generator=generator) for _ in range(calls)]


def _recommend(rows: list[dict[str, Any]], use: Use) -> str:
    best = rows[0]
    others = {row["sampler"]: row for row in rows}
    plain = others[REFERENCE]
    cost = "{ratio:.2g} [{ratio_low:.2g}, {ratio_high:.2g}]".format
    if not best["enough"]:
        least = min(rows, key=lambda row: math.inf if math.isnan(row["wrong_by"]) else row["wrong_by"])
        return (
            f"Take {least['sampler']} for {use.described}: none is proved within {ENOUGH:g} of the law, and it is "
            f"the nearest (wrong by {least['wrong_by']:.2g}), at {cost(**least)} of float32 Gumbel-max's time."
        )
    enough = [row for row in rows if row["enough"]]
    text = (
        f"Take {best['sampler']} for {use.described}: the cheapest of the {len(enough)} proved within {ENOUGH:g} "
        f"of the law (wrong by at most {best['wrong_by'] + best['bound']:.2g})"
    )
    if best is plain:
        return f"{text}."
    text += f", at {cost(**best)} of the time of float32 Gumbel-max, which is wrong by {plain['wrong_by']:.2g}"
    if use.steps is not None:
        text += f" and unmasks {plain['unmasks']:.2g} of what it should"
    close = [row["sampler"] for row in enough[1:] if row["ratio_low"] <= best["ratio_high"]]
    if close:
        text += f"; {', '.join(close)} cost as much, as far as these rounds tell"
    return f"{text}."
