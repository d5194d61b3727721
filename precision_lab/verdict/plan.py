"""What is asked of a sampler: which tests, at which level each, on how many draws. Everything here precedes
the draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import InputError, unknown_name
from ..laws.law import Law, target_law
from ..pipelines import Pipeline
from ..statistics import (
    Chance,
    agreement,
    detectable_temperature,
    draws_needed_blocked_identity,
    draws_needed_sharing,
    draws_needed_tail,
    draws_needed_temperature,
)
from ..statistics.tempered import Tempered
from ..statistics.testing.tie_order import tie_halves
from ..targets import Target
from ..types import Array, Budget, Float
from .batches import TESTS as BATCH_TESTS
from .lattice import SHARES, lattice_draws

STREAMS, ROWS = 4, 4  # seeds, and equal rows of logits in every call
# tests of every question whose draws are not all one token
OF_ANY_LAW = ("identity", "support", "rows", "serial", "streams", "repeats")
LEAST_SHARED = 1e-6  # by which shared noise must make draws agree more often
UNIT = 2 * STREAMS * ROWS  # draws in two calls of every stream: consecutive draws are compared in pairs
TAIL_MASS = 0.1  # the tail: the rarest tokens that hold at most this together
DEFAULT_DETECT = "temperature=0.02"
OF_UNEQUAL = ("temperature", "tail", "float32")  # effects that need tokens of two probabilities
FLAT_TV = 0.05  # looked for where a target leaves nothing of them
# noise values (draws x vocabulary) of all targets together, and draws of one target. 2^26 values: about a
# second of a core
CAPS = {Budget.SMOKE: (2**30, 2**21), Budget.CI: (2**33, 2**23), Budget.FULL: (2**36, 2**25)}
CHEAP = 2**25  # noise values that are drawn whatever is wished

# effect -> (tests that must see it, its unit). "sharing" is wished for by every check.
EFFECTS = {
    "temperature": (("temperature",), "|temperature - 1|"),
    "tail": (("tail",), f"relative deviation of the mass of the rarest {TAIL_MASS:.0%}"),
    "tv": (("identity",), "total variation"),
    "unmask": (
        ("unmask",),
        "share of the unmaskings that are missing, in a step of masked diffusion",
    ),
    "float32": (("lattice",), "share of the way from the target to a race of 24-bit uniforms, one of SHARES"),
    "sharing": (("rows", "serial", "streams"), "share of pairs of draws with one vector of noise"),
}


def parse_detect(text: str | Iterable[str]) -> dict[str, float]:
    """``temperature=0.02,tail=0.1`` -> sizes by effect; ``sharing`` is 1 unless named. InputError for
    anything else."""
    wished = {"sharing": 1.0}
    for item in [text] if isinstance(text, str) else text:
        for part in filter(None, (part.strip() for part in item.split(","))):
            name, _, size = part.partition("=")
            if name not in EFFECTS:
                raise unknown_name("effect", name, EFFECTS)
            try:
                value = float(size)
            except ValueError:
                value = math.nan
            if not 0 < value < (2 if name in ("temperature", "tail") else 1 + 1e-12):
                raise InputError(
                    f"--detect {part}", f"{name}=NUMBER, {EFFECTS[name][1]}", "for example tv=0.05"
                )
            if name == "float32" and value not in SHARES:
                raise InputError(f"--detect {part}", f"float32= one of {SHARES}", "1 is float32 noise itself")
            wished[name] = value
    return wished


@dataclass(frozen=True, eq=False)
class Asked:
    """A target and what is wished to be seen on it. ``wished``: sizes by effect; empty: its tests must only
    not fail.

    ``without``: tests left out.  ``also``: tests beyond those that its law calls for.  ``least``: draws
    that are made whatever is wished; None: as the plan has them.
    """

    target: Target
    wished: dict[str, float] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    least: int | None = None
    pipeline: Pipeline | None = None  # what the sampler does to the logits before it draws
    also: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Question:
    """One row of logits and what is asked of its draws.

    ``logits``: (vocab,) as the sampler is given them.  ``law``: their softmax.  ``tests``: names, fixed
    before the draws. ``tail``: (vocab,) bool, the rarest :data:`TAIL_MASS`.  ``wished``: sizes by effect.
    ``needed``: draws by effect. ``n``: draws that will be made.  ``length``: of the vectors that should not
    come back. ``pipeline``: the steps inside the sampler.  ``laws``: those that rounding at its edges
    allows, :attr:`law` first.  ``notes``: what was wished and cannot be seen here, and why.
    """

    target: Target
    law: Law
    logits: np.ndarray
    tests: tuple[str, ...]
    tail: Array
    wished: dict[str, float] = field(default_factory=dict)
    needed: dict[str, int] = field(default_factory=dict)
    n: int = 0
    length: int = 1
    pipeline: Pipeline | None = None
    laws: tuple[Law, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lone(self) -> bool:
        """Whether one token is certain: every draw must be it, and no effect can be looked for."""
        return float(self.law.probs.max()) == 1

    @property
    def recipe_logits(self) -> np.ndarray:
        """(vocab,) what a recipe without processors of its own draws from: with a pipeline, the law's
        logarithms."""
        return self.logits if self.pipeline is None else self.law.log_probs

    @property
    def wish_of(self) -> dict[str, float]:
        """Sizes by test."""
        return by_test(self.wished)

    @property
    def unmask_rate(self) -> tuple[float, float]:
        """The rate at which the mask goes in a step of masked diffusion, and a bound on its error."""
        mask = self.target.mask
        if mask is None:
            raise InputError(f"the unmasking rate of {self.target.name}", "a step with a mask", "use mdm_step")
        return math.fsum(np.delete(self.law.probs, mask)), self.law.error

    @property
    def tail_mass(self) -> tuple[float, float]:
        """Mass of the tail, and a bound on its error."""
        size = int(self.tail.sum())
        return math.fsum(self.law.probs[self.tail]), min(size, self.law.vocab - size) * self.law.error

    def planned(self, needed: dict[str, int], n: int, length: int) -> Question:
        """The question with its numbers."""
        return replace(self, needed=needed, n=n, length=length)


@dataclass(frozen=True, eq=False)
class Plan:
    """``level``: of one test, false_fail / their number, those of whole batches included.
    ``wished``: sizes by effect, see :data:`EFFECTS`."""

    questions: tuple[Question, ...]
    wished: dict[str, float]
    false_fail: float
    false_pass: float
    level: float

    @property
    def wish_of(self) -> dict[str, float]:
        """Sizes by test, of what is wished everywhere."""
        return by_test(self.wished)

    def wishes(self, target: str) -> dict[str, float]:
        """Sizes by test, of what is wished on one target."""
        for question in self.questions:
            if question.target.name == target:
                return question.wish_of
        return self.wish_of


def by_test(wished: dict[str, float]) -> dict[str, float]:
    """Sizes by test, from sizes by effect."""
    return {test: size for effect, size in wished.items() for test in EFFECTS[effect][0]}


def ask(
    target: Target,
    extra: Sequence[str] = (),
    without: Sequence[str] = (),
    dtype: type[np.floating] = np.float32,
    pipeline: Pipeline | None = None,
) -> Question:
    """The question of one target. ``extra``, ``without``: tests beyond those its law calls for, and left out.

    ``dtype``: of the logits as the sampler has them. ``pipeline``: the steps that it is to take from there;
    what is judged is their law. Where one token is certain (greedy, or a target with all mass on it), every
    draw must be that token, and only that is asked. InputError for too many doubts.
    """
    given = target.logits.astype(dtype)
    if pipeline is not None:
        return ask_pipeline(target, given, pipeline, (*OF_ANY_LAW, *extra), without)
    law = target_law(given)
    tests = list(OF_ANY_LAW)
    tail = rarest(law.probs)
    if float(law.probs.max()) == 1:
        return Question(target, law, given, ("support",), tail)
    if not Tempered.of(law).flat:
        tests = ["temperature", *(["tail"] if tail.any() else []), "lattice", *tests]
    if has_ties(given):
        tests.append("ties")
    if target.mask is not None:
        tests.append("unmask")
    kept = tuple(test for test in (*tests, *extra) if test not in without)
    return Question(target, law, given, kept, tail)


def ask_pipeline(
    target: Target, given: np.ndarray, pipeline: Pipeline, tests: Sequence[str], without: Sequence[str]
) -> Question:
    """The question of one target whose sampler has a pipeline inside, in float32 or better.

    No test of ties: tied tokens may be cut apart.
    """
    laws = tuple(pipeline.laws_in_doubt(given.astype(np.float64), "float32"))
    law = laws[0]
    tail = rarest(law.probs)
    named = replace(target, name=f"{target.name} > {pipeline}")
    if not 0 < float(law.probs.max()) < 1:
        return Question(named, law, given, ("support",), tail, pipeline=pipeline, laws=laws)
    chosen = list(tests)
    if not Tempered.of(law).flat:
        chosen = ["temperature", *(["tail"] if tail.any() else []), "lattice", *tests]
    kept = tuple(test for test in chosen if test not in without)
    return Question(named, law, given, kept, tail, pipeline=pipeline, laws=laws)


def rarest(probs: Float) -> Array:
    """(vocab,) bool: the rarest tokens that hold at most :data:`TAIL_MASS` together; none where the rarest
    holds more."""
    order = np.argsort(probs, kind="stable")
    tail = np.zeros(len(probs), dtype=bool)
    tail[order[np.cumsum(probs[order]) <= TAIL_MASS]] = True
    return tail & (probs[tail].sum() > 0)


def has_ties(logits: np.ndarray) -> bool:
    try:
        tie_halves(logits)
    except InputError:
        return False
    return True


def plan(
    targets: Iterable[Target | Asked],
    wished: dict[str, float],
    *,
    budget: Budget | int,
    false_fail: float,
    false_pass: float,
    extra: Sequence[str] = (),
) -> Plan:
    """For every target as many draws as its wished effects need at the level of one test, but no more than
    the budget.

    ``wished``: of every target that comes without wishes of its own.  ``budget``: a name, or noise values
    (draws times vocabulary) of all targets together. Targets without a wish take their least first; the
    others share what is left, and none takes more than it needs.
    """
    for name, rate in (("false_fail", false_fail), ("false_pass", false_pass)):
        if not 1e-9 <= rate < 0.5:
            raise InputError(f"{name} = {rate}", "1e-9 to 0.5", "1e-6 and 1e-3 are the defaults")
    each = [item if isinstance(item, Asked) else Asked(item, wished) for item in targets]
    asked = []
    for item in each:
        question = ask(item.target, (*item.also, *extra), item.without, pipeline=item.pipeline)
        wished_here, notes = seeable(question, item.wished, item.without)
        asked.append(replace(question, wished=wished_here, notes=notes))
    level = false_fail / (sum(len(question.tests) for question in asked) + len(BATCH_TESTS))
    values, most = CAPS[budget] if isinstance(budget, Budget) else (budget, CAPS[Budget.FULL][1])
    needed: list[dict[str, int]] = []
    sought: list[int] = []  # draws of each target, before the budget
    for item, question in zip(each, asked, strict=True):
        draws = {
            effect: _rounded(draws_needed(question, effect, size, level, false_pass))
            for effect, size in question.wished.items()
        }
        least = min(2**16, CHEAP // question.law.vocab) if item.least is None else item.least
        needed.append(draws)
        sought.append(min(max(_rounded(least), *draws.values(), UNIT), _rounded(most)))
    shares = _shared([n * question.law.vocab for n, question in zip(sought, asked, strict=True)], values)
    questions = []
    for question, draws, n, share in zip(asked, needed, sought, shares, strict=True):
        affordable = max(UNIT, share // question.law.vocab // UNIT * UNIT)
        made = min(n, affordable)
        questions.append(question.planned(draws, made, vector_length(question.law, made, level)))
    return Plan(tuple(questions), wished, false_fail, false_pass, level)


def seeable(
    question: Question, wished: dict[str, float], without: Sequence[str] = ()
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Of the wishes those that the draws of this target can show, and sentences about the others.

    One certain token shows nothing but itself. Equal probabilities have no temperature, tail or lattice: in
    their place a total variation of :data:`FLAT_TV` is looked for, unless another one is wished. Where draws
    agree anyway, shared noise cannot be seen. ``without``: tests left out on purpose, whose wishes stay.
    """
    name = question.target.name
    if question.lone:
        token = int(question.law.probs.argmax())
        said = f"{name} is certain: every draw must be token {token}, and nothing else can be asked of it"
        return {}, (said,)
    left = dict(wished)
    notes = []
    lost = [effect for effect in OF_UNEQUAL if effect in wished and _untested(question, effect, without)]
    for effect in lost:
        del left[effect]
    if lost:
        why = (
            "is flat" if Tempered.of(question.law).flat else f"has no tokens that hold at most {TAIL_MASS:.0%}"
        )
        size = left.setdefault("tv", FLAT_TV)
        notes.append(
            f"{name} {why}: {' and '.join(lost)} cannot be estimated there, and tv={size:g} is looked for"
        )
    alone, shared = agreement(question.law, question.law)
    if "sharing" in left and not shared - alone > LEAST_SHARED:
        del left["sharing"]
        notes.append(f"{name} is nearly certain: draws agree anyway, and shared noise cannot be seen there")
    return left, tuple(notes)


def _untested(question: Question, effect: str, without: Sequence[str]) -> bool:
    test = EFFECTS[effect][0][0]
    return test not in question.tests and test not in without


def _shared(sought: Sequence[int], values: int) -> list[int]:
    """Noise values of each target: the cheapest get what they seek, the others equal parts of what is left."""
    given = [0] * len(sought)
    left, waiting = values, len(sought)
    for i in sorted(range(len(sought)), key=lambda i: sought[i]):
        given[i] = min(sought[i], left // waiting)
        left -= given[i]
        waiting -= 1
    return given


def draws_needed(question: Question, effect: str, size: float, level: float, false_pass: float) -> int:
    """Draws with which every test that must see the effect does, at any deviation of ``size`` or more."""
    law = question.law
    if effect != "sharing" and EFFECTS[effect][0][0] not in question.tests:
        got = f"{effect} on {question.target.name}"
        if effect == "unmask":
            raise InputError(got, "a step of masked diffusion", "use --for mdm:N, or mdm_step[...]")
        raise InputError(got, "a target whose question has this test", "wish for tv=0.05 instead")
    if effect == "temperature":
        sides = [1 + size, *([1 - size] if size < 1 else [])]
        n = max(draws_needed_temperature(law, side, level, false_pass) for side in sides)
        while detectable_temperature(n, law, level, false_pass) > size:
            n += math.ceil(n / 100)
        return n
    if effect == "tail":
        mass, error = question.tail_mass
        rates = [mass * (1 + size), mass * max(0.0, 1 - size)]
        return max(draws_needed_tail(mass, rate, level, false_pass, error) for rate in rates)
    if effect == "unmask":
        rate, error = question.unmask_rate
        return draws_needed_tail(rate, rate * max(0.0, 1 - size), level, false_pass, error)
    if effect == "float32":
        return lattice_draws(law, size, level, false_pass)
    if effect == "tv":
        return draws_needed_blocked_identity(law, size, level, false_pass, blocks=STREAMS)
    alone, shared = agreement(law, law)
    if not shared - alone > LEAST_SHARED:
        raise InputError(
            f"{question.target.name}, where draws agree anyway", "a flatter target", "choose another"
        )
    pairs = ROWS * (ROWS - 1) // 2
    return ROWS * draws_needed_sharing(law, law, size, false_fail=level / pairs, false_pass=false_pass)


def vector_length(law: Law, n: int, level: float) -> int:
    """The least L such that even one return among all n / L vectors of L draws would be a failure."""
    pair, length = Chance.of_draws(law).pair, 1
    while length < n and 2 * math.log(n / length) + length * math.log(pair) > math.log(level):
        length += max(1, length // 8)
    return length


def _rounded(n: int) -> int:
    return math.ceil(n / UNIT) * UNIT
