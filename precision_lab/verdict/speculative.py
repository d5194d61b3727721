"""``check --speculative``: what comes out of draft and target must be the target's, whatever the draft.

A *pair* is gamma rows of draft logits and gamma + 1 of target logits that do not depend on the drafted
tokens, so that every law is known. Of trials that reach a position (all drafts before it were accepted)
these are asked:

| test | null |
|---|---|
| marginal | the token there has the target's law |
| context | ... whatever the token before it |
| acceptance | a draft is accepted in sum min(p, q) of them |
| kept | the accepted token has the law min(p, q), normalised |
| replaced | the token in place of a rejected one has the law (p - q)+, normalised |
| drafted | acceptance by drafted token: min(p, q) / q, in classes of tokens (drafts handed over) |
| recovery | the token in place of a rejected one does not depend on which was rejected (drafts handed over) |
| serial, streams | first tokens of consecutive trials, and of two seeds, are independent |

Of ``promise="match"`` (accept if equal to the target's own draw) p q and p (1 - q) take the place of min(p, q)
and (p - q)+. ``promise="any"`` asks of the tokens alone: what a trial leaves open is filled with true draws
of the target, and every place must then have the target's law; that also holds for rules that look ahead
(block verification, Sun et al. 2024, arXiv:2403.10444), whose tokens *given that a place was reached* need not.

What "accept if equal to the target's own draw" costs, and what it does not: its tokens are the target's
(:mod:`..laws.acceptance` has the proof), only acceptance is lost. Share of first drafts accepted, and of 3
drafts how many, by the ratio rule (sum min(p, q)), by equality where draft and target share one vector of
Gumbel noise a place (:func:`~..statistics.agreement`; tokens are right there too), and by equality of
independent draws (sum p q):

| pair | ratio | shared | match | of 3: ratio | shared | match |
|---|---|---|---|---|---|---|
| equal rows | 1 | 1 | 0.139 | 3 | 3 | 0.161 |
| nearly equal rows | 0.995 | 0.995 | 0.139 | 2.97 | 2.97 | 0.161 |
| flat draft, peaked target | 0.328 | 0.277 | 0.0625 | 0.472 | 0.375 | 0.0667 |
| masks on either side | 0.263 | 0.206 | 0.0347 | 0.35 | 0.256 | 0.036 |
| ties | 0.945 | 0.899 | 0.119 | 2.68 | 2.43 | 0.135 |
| rough rows of 256 | 0.702 | 0.655 | 0.0752 | 1.54 | 1.36 | 0.0813 |

What the tests cannot see: u of 24 bits or more move probabilities by 2^-24, which takes some 10^7 trials even
where it makes an impossible token possible.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import numpy as np

from ..devices import checked
from ..errors import InputError, unknown_name
from ..laws.acceptance import expected_accepted, match_rate, overlap, split
from ..laws.law import Law, target_law
from ..statistics import (
    Counts,
    TestResult,
    agreement_test,
    blocked_identity_test,
    cells_test,
    draws_needed_blocked_identity,
    family,
    serial_test,
)
from ..types import Array, Budget, Float, Guarantee, Int
from .caller import Misbehaved
from .report import Fault, Judged, Outcome, Report
from .speculator import END, SpeculativeCaller, SpeculativeChild

Promise = Literal["ratio", "match", "any"]
GAMMA = 3  # drafted tokens
VOCAB = 256  # of the largest pair
STREAMS = 4
BLOCKS = 4  # of the identity test
SHIFT = 24.3  # of logits that are not normalised
CLASSES = 4  # of tokens, runs of about equal mass, in two-way tables
FEWEST = 256  # trials below which an identity test is left out
ROUNDING = 1e-6  # how far a rate may be off: float32 softmax and 24-bit uniforms stay below
MOST_VALUES = 1 << 22  # n x (gamma + 1) x vocab of one call
CAPS = {Budget.SMOKE: 2**19, Budget.CI: 2**21, Budget.FULL: 2**23}  # trials of a pair
DEFAULT_TV = 0.03
TOKENS = {"marginal", "context", "serial", "streams"}  # tests of what comes out; the others, of how
NAMES = {
    "ratio": "the ratio rule, sum min(p, q)",
    "match": "equality with the target's own draw, sum p q",
}
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Pair:
    """``draft``: (gamma, vocab) float32 logits, ``target``: (gamma + 1, vocab)."""

    name: str
    draft: np.ndarray
    target: np.ndarray

    @property
    def gamma(self) -> int:
        return len(self.draft)

    @property
    def vocab(self) -> int:
        return self.draft.shape[1]

    def p(self, position: int) -> Law:
        return target_law(self.target[position])

    def q(self, position: int) -> Law:
        return target_law(self.draft[position])

    def split(self, position: int, promise: str) -> tuple[Float, Float]:
        """(vocab,) mass of the token by what became of the draft: accepted, and rejected."""
        p, q = self.p(position).probs, self.q(position).probs
        return split(p, q, "match" if promise == "match" else "ratio")


class Speculator(Protocol):
    """A SpeculativeCaller, here or in a child process."""

    spec: str

    def probe(self, seed: int) -> None: ...
    def takes_drafts(self) -> bool: ...
    def speculate(
        self, seed: int, draft: np.ndarray, target: np.ndarray, n: int, draft_ids: Int | None = None
    ) -> Int: ...


def pairs(vocab: int = VOCAB, gamma: int = GAMMA) -> tuple[Pair, ...]:
    """The pairs that are asked, each shifted by three tokens from position to position: a row too far is seen.

    ``vocab``: of the last, 16 or more. InputError below that, and for gamma < 1.
    """
    if vocab < 16:
        raise InputError(f"vocab = {vocab}", "16 or more", "256 is the default")
    if gamma < 1:
        raise InputError(f"gamma = {gamma}", "1 or more drafted tokens", "3 is the default")
    token = np.arange(16)
    zipf = -np.log(token + 1.0)
    levels = -(token % 4).astype(np.float64)
    none = -np.inf
    # the draft's favourite is 3e-5 of the target: fewer words of an 11-bit uniform than one
    liked = np.where(token == 0, 9.0, zipf - 2.0)
    shunned = np.where(token == 0, math.log(1e-4), zipf)
    rng = np.random.Generator(np.random.Philox(0))
    # as a model's head gives them: not normalised, so that bfloat16 keeps steps of 1/8
    rough = SHIFT + 2.0 * rng.standard_normal(vocab)
    rows = {
        "equal rows": (zipf, zipf),
        "nearly equal rows": (zipf + 0.01 * (-1.0) ** token, zipf),
        "disjoint rows": (np.where(token % 2 == 1, zipf, none), np.where(token % 2 == 0, zipf, none)),
        "flat draft, peaked target": (0.0 * zipf, 2 * zipf),
        "peaked draft, flat target": (SHIFT + 2 * zipf, 0.0 * zipf),
        "draft likes what the target shuns": (liked, shunned),
        "masks on either side": (
            np.where(token % 4 == 1, none, zipf),
            np.where(token % 4 == 2, none, zipf[::-1]),
        ),
        "ties": (np.where(levels < -1, -5.0 - levels, levels), levels),
        f"rough rows of {vocab}": (rough + rng.standard_normal(vocab) * 0.7, rough),
    }
    return tuple(_shifted(name, draft, target, gamma) for name, (draft, target) in rows.items())


def _shifted(name: str, draft: Float, target: Float, gamma: int) -> Pair:
    drafts = [np.roll(draft, 3 * j) for j in range(gamma)]
    targets = [np.roll(target, 3 * j) for j in range(gamma + 1)]
    return Pair(name, np.array(drafts, dtype=np.float32), np.array(targets, dtype=np.float32))


def drafts(pair: Pair, n: int, seed: int) -> Int:
    """(n, gamma) drafted tokens, each from its row in float64, independent of what the function draws."""
    rng = np.random.default_rng([seed, 1])
    return np.column_stack([_draw(pair.q(j), n, rng) for j in range(pair.gamma)])


def call(function: str | Callable[..., Any], pair: str, *, n: int, seed: int, vocab: int = VOCAB) -> Int:
    """What one call of a check returned: (n, gamma + 2), see :meth:`.SpeculativeCaller.speculate`."""
    named = {each.name: each for each in pairs(vocab)}
    if pair not in named:
        raise unknown_name("pair", pair, named)
    caller, asked = SpeculativeCaller.of(function), named[pair]
    ids = drafts(asked, n, seed) if caller.handed else None
    return caller.speculate(seed, asked.draft, asked.target, n, ids)


@dataclass(frozen=True)
class SpeculativeReport(Report):
    """``promise``: what was asked.  ``trials``: of each pair.  ``acceptance``: one sentence on what was
    accepted."""

    promise: str = "ratio"
    trials: int = 0
    acceptance: str = ""

    def headline(self) -> str:
        if self.fault:
            return super().headline()
        name = f"{self.outcome.upper()}: {self.name}"
        failed = [judged for judged in self.judged if judged.outcome is Outcome.FAIL]
        rates = f"{self.trials:,} trials a pair; false-fail <= {self.false_fail:g} over all tests"
        said = f"; {self.acceptance}" if self.acceptance else ""
        if not failed:
            if self.outcome is Outcome.PASS:
                return (
                    f"{name} fails none of {len(self.judged)} tests; {rates}, "
                    f"false-pass <= {self.false_pass:g}{said}"
                )
            wanted = ", ".join(f"{pair} {draws:,}" for pair, draws in self.needed.items())
            return f"{name}: too few trials to see the wished effect; trials needed: {wanted}; {rates}{said}"
        which = ", ".join(dict.fromkeys(judged.test for judged in failed))
        what = "does not emit the target's tokens"
        if not {judged.test for judged in failed} & TOKENS:
            what = "emits the target's tokens as far as seen, but does not accept by the rule"
        return f"{name} {what}: fails {len(failed)} of {len(self.judged)} tests ({which}); {rates}{said}"

    def json(self) -> dict[str, Any]:
        return super().json() | {
            "promise": self.promise,
            "trials": self.trials,
            "acceptance": self.acceptance,
        }


@dataclass(frozen=True, eq=False)
class SpeculativePlan:
    """``tests``: (pair, position, test), fixed before the draws; position -1: of the whole pair.  ``level``: of
    one.  ``n``: trials of a pair.  ``needed``: by pair, to see ``tv`` at the first position."""

    pairs: tuple[Pair, ...]
    promise: Promise
    tests: tuple[tuple[str, int, str], ...]
    level: float
    n: int
    needed: dict[str, int]
    false_fail: float
    false_pass: float
    tv: float


def plan_speculative(
    asked: tuple[Pair, ...],
    promise: Promise,
    handed: bool,
    *,
    tv: float = DEFAULT_TV,
    budget: Budget = Budget.SMOKE,
    false_fail: float = 1e-6,
    false_pass: float = 1e-3,
) -> SpeculativePlan:
    """As many trials as see a total variation of ``tv`` in every pair's first token, within the budget.

    Each test has the level false_fail / their number (Bonferroni; the verdict is Holm's).
    """
    if promise not in get_args(Promise):
        raise unknown_name("promise", promise, get_args(Promise))
    if not 0 < tv <= 1:
        raise InputError(f"tv = {tv}", "a total variation in (0, 1]", "0.03 is the default")
    for name, rate in (("false_fail", false_fail), ("false_pass", false_pass)):
        if not 1e-9 <= rate < 0.5:
            raise InputError(f"{name} = {rate}", "1e-9 to 0.5", "1e-6 and 1e-3 are the defaults")
    tests = tuple(_tests(asked, promise, handed))
    level = false_fail / len(tests)
    needed = {
        pair.name: draws_needed_blocked_identity(pair.p(0), tv, level, false_pass, blocks=BLOCKS)
        for pair in asked
    }
    unit = 2 * STREAMS * BLOCKS
    n = min(CAPS[budget], math.ceil(max(needed.values()) / unit) * unit)
    return SpeculativePlan(asked, promise, tests, level, n, needed, false_fail, false_pass, tv)


def asked_of_tv(detect: str | Iterable[str] | None) -> float:
    """The size of ``tv=SIZE``, the only effect that can be wished for here; the default where there is none."""
    size = DEFAULT_TV
    for part in [detect] if isinstance(detect, str) else detect or ():
        name, _, number = part.strip().partition("=")
        try:
            size = float(number) if name == "tv" else math.nan
        except ValueError:
            size = math.nan
        if not 0 < size <= 1:
            raise InputError(f"--detect {part} with --speculative", "tv=NUMBER", "for example tv=0.02")
    return size


def _tests(asked: tuple[Pair, ...], promise: str, handed: bool) -> Iterator[tuple[str, int, str]]:
    for pair in asked:
        for position in range(pair.gamma + 1):
            yield pair.name, position, "marginal"
            if position > 0:
                yield pair.name, position, "context"
            if position == pair.gamma or promise == "any":
                continue
            accepted, rejected = pair.split(position, promise)
            yield pair.name, position, "acceptance"
            if _varied(accepted):
                yield pair.name, position, "kept"
            if _varied(rejected):
                yield pair.name, position, "replaced"
            if handed and min(accepted.sum(), rejected.sum()) > ROUNDING:
                yield pair.name, position, "drafted"
                if _varied(rejected):
                    yield pair.name, position, "recovery"
        yield pair.name, -1, "serial"
        yield pair.name, -1, "streams"


def _varied(mass: Float) -> bool:
    """Whether an event of more than rounding has two tokens or more."""
    return bool(mass.sum() > ROUNDING and np.count_nonzero(mass) > 1)


def check_speculative(
    function: str,
    *,
    promise: Promise = "ratio",
    vocab: int = VOCAB,
    tv: float = DEFAULT_TV,
    false_fail: float = 1e-6,
    false_pass: float = 1e-3,
    budget: Budget = Budget.SMOKE,
    seed: int = 0,
    timeout: float = 60.0,
    device: str = "cpu",
    say: Say = lambda line: None,
) -> SpeculativeReport:
    """The verdict on ``file.py:function`` or ``module:function``, see :class:`.SpeculativeCaller` for what it
    takes and returns, run in a process of its own.

    ``promise``: "ratio", "match" or "any", see the module.  ``vocab``: of the largest pair.  Fails a right
    function at most ``false_fail`` often over all tests; passes only where a total variation of ``tv`` of the
    first token would be missed at most ``false_pass`` often, in every pair.
    Errors: InputError for anything the user can mend; what the function does wrong is in the report.
    """
    asked = pairs(vocab)
    rates: dict[str, Any] = {"tv": tv, "budget": budget, "false_fail": false_fail, "false_pass": false_pass}
    words = ["precision-lab", "check", "--speculative", function, "--accept", promise]
    words += ["--vocab", str(vocab)] if vocab != VOCAB else []
    words += ["--detect", f"tv={tv:g}", "--false-fail", f"{false_fail:g}", "--false-pass", f"{false_pass:g}"]
    words += ["--device", device] if device != "cpu" else []
    command = shlex.join([*words, "--budget", str(budget), "--seed", str(seed)])
    plan_speculative(asked, promise, False, **rates)  # bad input first
    try:
        with SpeculativeChild(function, timeout, checked(device)) as child:
            design = plan_speculative(asked, promise, child.takes_drafts(), **rates)
            return examine_speculative(child, design, seed, command, say=say)
    except Misbehaved as fault:  # before the first call
        design = plan_speculative(asked, promise, False, **rates)
        return _report(design, function, seed, command, fault=Fault(fault.what, fault.detail, fault.call))


def examine_speculative(
    speculator: Speculator,
    design: SpeculativePlan,
    seed: int,
    command: str = "",
    *,
    say: Say = lambda line: None,
) -> SpeculativeReport:
    """Probe, draw, judge. ``speculator``: a SpeculativeCaller or a SpeculativeChild. Faults show a call that
    makes the same draws, in this process."""
    results: dict[tuple[str, str], TestResult] = {}
    rates: list[tuple[str, int, int, int]] = []  # pair, position, reached, accepted
    first, *seeds = np.random.SeedSequence(seed).spawn(len(design.pairs) + 1)
    base = int(first.generate_state(1)[0])
    handed = speculator.takes_drafts()
    try:
        say(f"{speculator.spec}: generator, shapes, global state")
        speculator.probe(base)
    except Misbehaved as fault:
        shown = (
            "from precision_lab.verdict.speculator import SpeculativeCaller; "
            f"SpeculativeCaller.of({speculator.spec!r}).probe({base})"
        )
        return _report(design, speculator.spec, seed, command, fault=Fault(fault.what, fault.detail, shown))
    for i, pair in enumerate(design.pairs):
        say(f"{pair.name}: {design.n:,} trials")
        try:
            trials, drafted = _draw_pair(speculator, pair, design, base + 2 + i * 2**16, handed)
        except Misbehaved as fault:
            return _report(
                design, speculator.spec, seed, command, fault=Fault(fault.what, fault.detail, fault.call)
            )
        rng = np.random.default_rng(seeds[i])
        for (name, position, test), result in judge_pair(pair, trials, drafted, design, rng).items():
            place = f"{name}, position {position + 1}" if position >= 0 else name
            results[place, test] = result
        rates += _rates(pair, trials)
    verdicts = family({f"{a}\n{b}": r for (a, b), r in results.items()}, level=design.false_fail)
    judged = tuple(
        Judged(
            place,
            test,
            result,
            verdicts[f"{place}\n{test}"],
            design.tv if test == "marginal" and place.endswith("position 1") else None,
        )
        for (place, test), result in results.items()
    )
    return _report(design, speculator.spec, seed, command, judged=judged, acceptance=spoken_for(design, rates))


def _draw_pair(
    speculator: Speculator, pair: Pair, design: SpeculativePlan, base: int, handed: bool
) -> tuple[Int, Int | None]:
    """(n, gamma + 2) trials in streams one after another, and (n, gamma) drafts where they are handed over.
    Every call has a seed of its own, so that any can be made again."""
    most = max(1, MOST_VALUES // ((pair.gamma + 1) * pair.vocab))
    each = design.n // STREAMS
    found = []
    drafted = []
    seed = base
    for _ in range(STREAMS):
        for start in range(0, each, most):
            n = min(most, each - start)
            ids = drafts(pair, n, seed) if handed else None
            try:
                found.append(speculator.speculate(seed, pair.draft, pair.target, n, ids))
            except Misbehaved as fault:
                vocab = f", vocab={pair.vocab}" if pair.vocab not in (16, VOCAB) else ""
                shown = (
                    "from precision_lab.verdict.speculative import call; "
                    f"print(call({speculator.spec!r}, {pair.name!r}, n={n}, seed={seed}{vocab}))"
                )
                raise Misbehaved(fault.what, f"{pair.name}: {fault.detail}", shown) from None
            drafted += [ids] if ids is not None else []
            seed += 1
    return np.concatenate(found), np.concatenate(drafted) if drafted else None


def judge_pair(
    pair: Pair, trials: Int, drafted: Int | None, design: SpeculativePlan, rng: np.random.Generator
) -> dict[tuple[str, int, str], TestResult]:
    """The tests of one pair that so many trials allow, by (pair, position, test). ``trials``: (n, gamma + 2).

    Each is exact given how many trials reached its position. An identity test of fewer than 256 trials is left
    out, and a table without trials: that loses no level, as the level of each was set before.
    """
    ids, accepted = trials[:, :-1].copy(), trials[:, -1]
    reached = [accepted >= j for j in range(pair.gamma + 1)]
    if design.promise == "any":
        for j in range(pair.gamma + 1):
            left = ids[:, j] == END
            ids[left, j] = _draw(pair.p(j), int(left.sum()), rng)
        reached = [np.ones(len(ids), dtype=bool)] * (pair.gamma + 1)
    rates: dict[str, Any] = {"false_fail": design.level, "false_pass": design.false_pass}
    first, half = ids[:, 0], len(ids) // 2

    def identity(tokens: Int, law: Law) -> TestResult | None:
        size = len(tokens) // BLOCKS
        if size < FEWEST // BLOCKS:
            impossible = np.isin(tokens, law.unreachable).any()
            return _certain(len(tokens), design.level) if impossible else None
        blocks = [Counts.from_tokens(tokens[k * size : (k + 1) * size], pair.vocab) for k in range(BLOCKS)]
        result = blocked_identity_test(blocks, law, rng=rng, **rates)
        left = tokens[BLOCKS * size :]
        return _certain(len(tokens), design.level) if np.isin(left, law.unreachable).any() else result

    def one(position: int, test: str) -> TestResult | None:
        if test == "serial":
            return serial_test(first, pair.p(0), **rates)
        if test == "streams":
            return agreement_test(first[:half], first[half:], pair.p(0), pair.p(0), **rates)
        here = reached[position]
        if test == "marginal":
            return identity(ids[here, position], pair.p(position))
        if test == "context":
            return context_test(
                ids[here, position - 1], ids[here, position], pair.p(position), pair.p(position - 1), **rates
            )
        kept, lost = pair.split(position, design.promise)
        goes_on = accepted[here] > position
        if test == "acceptance":
            return rate_test(int(goes_on.sum()), len(goes_on), math.fsum(kept), **rates)
        if test == "kept":
            return identity(ids[here, position][goes_on], _normalised(kept))
        if test == "replaced":
            return identity(ids[here, position][~goes_on], _normalised(lost))
        assert drafted is not None
        known = drafted[here, position]
        if test == "drafted":
            return drafted_test(known, goes_on, kept, pair.q(position).probs, **rates)
        replaced = ids[here, position][~goes_on]
        return recovery_test(known[~goes_on], replaced, pair, position, design.promise, **rates)

    found = {key: one(*key[1:]) for key in design.tests if key[0] == pair.name}
    return {key: result for key, result in found.items() if result is not None}


def rate_test(hits: int, n: int, rate: float, **rates: float) -> TestResult | None:
    """Is the share of accepted drafts ``rate``, to within :data:`ROUNDING`? None without trials."""
    return _cells(np.array([[hits]]), np.array([n]), np.array([[rate]]), **rates)


def context_test(before: Int, tokens: Int, law: Law, law_before: Law, **rates: float) -> TestResult | None:
    """Does a token depend on the one before? Given the class of the token before, the class of this one is
    binomial with the target's mass, whatever the law of those before."""
    of_before, of_this = classes(law_before.probs), classes(law.probs)
    table = _table(of_before[before], of_this[tokens])
    mass = np.bincount(of_this, weights=law.probs, minlength=CLASSES)
    return _cells(table, table.sum(axis=1), np.tile(mass, (CLASSES, 1)), **rates)


def drafted_test(drafted: Int, accepted: Array, kept: Float, q: Float, **rates: float) -> TestResult | None:
    """Acceptance by drafted token: of drafts from the class A, sum_A kept / sum_A q are accepted.

    Classes: tokens in the order of their acceptance, in runs of about equal mass of q.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.argsort(np.nan_to_num(kept / q), kind="stable")
    of = np.empty(len(q), dtype=np.int64)
    of[order] = classes(q[order])
    hits = np.bincount(of[drafted[accepted]], minlength=CLASSES)
    trials = np.bincount(of[drafted], minlength=CLASSES)
    total = np.bincount(of, weights=q, minlength=CLASSES)
    due = np.bincount(of, weights=kept, minlength=CLASSES) / np.maximum(total, 1e-300)
    return _cells(hits[:, None], trials, due[:, None], **rates)


def recovery_test(
    rejected: Int, replaced: Int, pair: Pair, position: int, promise: str, **rates: float
) -> TestResult | None:
    """Does the token that replaces know which was rejected? Given the class of the rejected one, the class of
    the other is binomial: with the mass of (p - q)+ under the ratio rule, and under "match" with that of p
    without the rejected token, averaged over the rejected tokens of the class."""
    p, q = pair.p(position).probs, pair.q(position).probs
    _, lost = pair.split(position, promise)
    law = lost / math.fsum(lost)
    gone = q * (1 - p) if promise == "match" else np.maximum(q - p, 0.0)  # P(drafted and rejected)
    of_rejected, of_replaced = classes(gone), classes(law)
    due: Float = np.tile(np.bincount(of_replaced, weights=law, minlength=CLASSES), (CLASSES, 1))
    if promise == "match":
        drafts_of = np.bincount(of_rejected, weights=q, minlength=CLASSES)
        mass = np.bincount(of_replaced, weights=p, minlength=CLASSES)
        both: Float = np.zeros((CLASSES, CLASSES))
        np.add.at(both, (of_rejected, of_replaced), q * p)
        weight = np.bincount(of_rejected, weights=gone, minlength=CLASSES)
        due = (np.outer(drafts_of, mass) - both) / np.maximum(weight, 1e-300)[:, None]
    table = _table(of_rejected[rejected], of_replaced[replaced])
    return _cells(table, table.sum(axis=1), due, **rates)


def _table(rows: Int, columns: Int) -> Int:
    """(CLASSES, CLASSES) how often each pair of classes came."""
    flat = np.bincount(CLASSES * rows + columns, minlength=CLASSES**2)
    return flat.reshape(CLASSES, CLASSES).astype(np.int64)


def _cells(hits: Int, trials: Int, due: Float, **rates: float) -> TestResult | None:
    """The binomial cells of a table (rows, columns) whose rows had so many ``trials``; None without any."""
    if not trials.any():
        return None
    each = np.broadcast_to(trials[:, None], hits.shape)
    result = cells_test(hits.ravel(), each.ravel(), np.clip(due, 0, 1).ravel(), rate_error=ROUNDING, **rates)
    return replace(result, n=int(trials.sum()))


def classes(mass: Float) -> Int:
    """(vocab,) labels 0..CLASSES - 1 of runs of tokens of about equal mass."""
    share = mass / math.fsum(mass)
    middle = np.cumsum(share) - share / 2
    return np.clip((CLASSES * middle).astype(np.int64), 0, CLASSES - 1)


def spoken_for(design: SpeculativePlan, rates: list[tuple[str, int, int, int]]) -> str:
    """One sentence: the share of drafts accepted, and the rule whose shares these are, if one of ours."""
    fits = {name: 1.0 for name in NAMES}
    due: dict[str, list[float]] = {name: [] for name in NAMES}
    named = {pair.name: pair for pair in design.pairs}
    seen: list[tuple[int, int]] = []
    for name, position, reached, accepted in rates:
        p, q = named[name].p(position).probs, named[name].q(position).probs
        for rule, rate in (("ratio", overlap(p, q)), ("match", match_rate(p, q))):
            result = rate_test(accepted, reached, rate, false_fail=design.level, false_pass=design.false_pass)
            fits[rule] = min(fits[rule], 1.0 if result is None else result.p_value)
            if position == 0:
                due[rule].append(rate)
        seen += [(accepted, reached)] if position == 0 else []
    share = math.fsum(a / n for a, n in seen if n) / len(seen)
    mean = {rule: math.fsum(values) / len(values) for rule, values in due.items()}
    said = f"accepts {share:.4g} of first drafts, averaged over pairs"
    for rule in ("ratio", "match"):
        said += f"; {NAMES[rule]}: {mean[rule]:.4g}"
    alike = [NAMES[rule].split(",")[0] for rule, p_value in fits.items() if p_value > design.level]
    said += (
        f"; these are the shares of {' and of '.join(alike)}" if alike else "; these are the shares of neither"
    )
    gamma = design.pairs[0].gamma
    if alike == [NAMES["match"].split(",")[0]]:
        rough = design.pairs[-1]
        both = [
            expected_accepted([rule(rough.p(j).probs, rough.q(j).probs) for j in range(gamma)])
            for rule in (match_rate, overlap)
        ]
        said += f": only acceptance is lost, {both[0]:.3g} of {gamma} drafts on {rough.name} in place of {both[1]:.3g}"
    return said


def _rates(pair: Pair, trials: Int) -> list[tuple[str, int, int, int]]:
    accepted = trials[:, -1]
    return [(pair.name, j, int((accepted >= j).sum()), int((accepted > j).sum())) for j in range(pair.gamma)]


def _report(
    design: SpeculativePlan,
    name: str,
    seed: int,
    command: str,
    *,
    judged: tuple[Judged, ...] = (),
    fault: Fault | None = None,
    acceptance: str = "",
) -> SpeculativeReport:
    return SpeculativeReport(
        name=name,
        judged=judged,
        fault=fault,
        false_fail=design.false_fail,
        false_pass=design.false_pass,
        seed=seed,
        needed={pair: most for pair, most in design.needed.items() if most > design.n},
        command=command,
        promise=design.promise,
        trials=design.n,
        acceptance=acceptance,
    )


def _normalised(mass: Float) -> Law:
    return Law.from_probs(mass / math.fsum(mass), "of the rule", len(mass) * 2.0**-50, Guarantee.CERTIFIED)


def _certain(n: int, level: float) -> TestResult:
    """A token that cannot be there, was."""
    return TestResult(0.0, math.inf, n, 0.0, level, "identity_test", "a token of probability zero")


def _draw(law: Law, n: int, rng: np.random.Generator) -> Int:
    """(n,) tokens by the cumulative sum in float64; none of probability zero."""
    edges = np.cumsum(law.probs)
    last = int(np.flatnonzero(law.probs)[-1])
    return np.minimum(np.searchsorted(edges / edges[last], rng.random(n), side="right"), last).astype(np.int64)
