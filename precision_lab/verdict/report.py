"""A verdict as rows, sentences, Markdown and JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..errors import printable
from ..statistics import Estimate, TestResult, Verdict, family
from ..statistics.testing import RareToken
from ..targets import Use
from .harm import Harm
from .plan import EFFECTS, Plan
from .suspects import FAITHFUL, MIXED, SHARED, UNEXPLAINED, Suspect

CERTAIN = 0.95  # posterior from which one recipe is named
SHOWN = 5  # suspects
UNBOUNDED = 1e3  # ratio of the ends of an interval from which a temperature is not estimable
LISTED = 100  # impossible tokens in JSON
# tests of the law, of independence, and of the first those that a dependence can fail
LAW = {"temperature", "tail", "tokens"}
INDEPENDENCE = {"rows", "serial", "streams", "repeats"}
SUPPOSING = {"identity", "support", "temperature", "tail", "tokens", "lattice"}
ALONE = INDEPENDENCE | {"identity"}
EFFECT_OF = {test: effect for effect, (tests, _) in EFFECTS.items() for test in tests}
NAMED = {
    "temperature": "a temperature off by {:g}",
    "tail": "a tail mass off by a share of {:g}",
    "tv": "a total variation of {:g}",
    "float32": "{:g} of a 24-bit lattice",
    "sharing": "noise shared by {:.0%} of the pairs of draws",
    "unmask": "a step that lacks {:.0%} of its unmaskings",
}


class Outcome(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


EXIT = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}


@dataclass(frozen=True)
class Judged:
    """One test of one target. ``wished``: the effect it had to be able to see, None if it only had not to
    fail."""

    target: str
    test: str
    result: TestResult
    verdict: Verdict
    wished: float | None

    @property
    def outcome(self) -> Outcome:
        if self.verdict.failed:
            return Outcome.FAIL
        blind = self.wished is not None and not self.result.detectable <= self.wished
        return Outcome.INCONCLUSIVE if blind else Outcome.PASS

    def _interval(self, found: Estimate) -> str:
        level = _level(found.confidence)
        if self.test == "temperature" and not 0 < found.high < UNBOUNDED * max(found.low, 1 / UNBOUNDED):
            high = f"{found.high:.3g}" if found.high < UNBOUNDED else "infinity"
            return (
                f"not estimable: {self.result.n:,} draws leave it between {found.low:.3g} and {high} at {level}"
            )
        return f"[{found.low:.5g}, {found.high:.5g}] at {level}"

    def row(self) -> dict[str, Any]:
        result, found = self.result, self.result.estimate
        return {
            "target": self.target,
            "test": self.test,
            "n": result.n,
            "statistic": result.statistic,
            "estimate": None if found is None else found.value,
            "interval": "" if found is None else self._interval(found),
            "expected": result.expected,
            "p_adjusted": self.verdict.adjusted,
            "smallest_effect_seen": result.detectable,
            "wished": self.wished,
            "effect": result.effect,
            "guarantee": str(result.guarantee),
            "verdict": str(self.outcome),
        }


@dataclass(frozen=True)
class Fault:
    """A misbehaviour: no test, one call shows it."""

    what: str
    detail: str
    call: str


@dataclass(frozen=True)
class Impossible:
    """Draws that a row makes impossible: ``count`` of ``token``, the ``first`` at this ``place`` (draw, row).

    ``why``: its probability, or that there is no such token.
    """

    target: str
    token: int
    count: int
    first: int
    why: str
    place: str = "draw"

    @staticmethod
    def of(target: str, rare: RareToken, place: str = "draw") -> Impossible:
        if math.isinf(rare.log_p):
            why = "its logit is -inf"
        else:
            why = f"p = {_power_of_ten(rare.log_p)} there"
            if rare.chance > 0:
                why += f"; a draw so rare among so many has a chance of {rare.chance:.1g} or less"
        return Impossible(target, rare.token, rare.count, rare.first, why, place)

    def __str__(self) -> str:
        draws = "1 draw" if self.count == 1 else f"{self.count:,} draws"
        return f"token {self.token} ({draws}, first at {self.place} {self.first}): {self.why}"


@dataclass(frozen=True)
class Report:
    """``needed``: draws in all that the wished effects want, by target.  ``command``: what gives the same
    verdict again.

    ``impossible``: draws that fail alone.  ``set_aside``: rows that are no law.  ``notes``: what else a
    reader must know, such as how the sampler was called.  ``use``: what was judged.  ``harms``: what the
    sampler's own law does to it, and ``no_law``, why that is not known.  ``what``: what is wrong, in words
    that the tests alone do not say.  ``supposes``: on what a failure rests, where that is not certain.
    ``shown``: a call that shows it.
    """

    name: str
    judged: tuple[Judged, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    fault: Fault | None = None
    false_fail: float = 1e-6
    false_pass: float = 1e-3
    seed: int | None = None
    needed: dict[str, int] = field(default_factory=dict)
    command: str = ""
    impossible: tuple[Impossible, ...] = ()
    set_aside: int = 0
    notes: tuple[str, ...] = ()
    use: Use | None = None
    harms: tuple[Harm, ...] = ()
    no_law: str = ""
    what: str = ""
    supposes: str = ""
    shown: str = ""

    @property
    def outcome(self) -> Outcome:
        found = {judged.outcome for judged in self.judged}
        if self.fault or Outcome.FAIL in found or self.harmful_law:
            return Outcome.FAIL
        return Outcome.INCONCLUSIVE if Outcome.INCONCLUSIVE in found or not found else Outcome.PASS

    @property
    def harmful_law(self) -> bool:
        """Whether the sampler's own law harms the use that was judged."""
        return any(harm.harmful for harm in self.harms if harm.use == self.use)

    @property
    def exit_code(self) -> int:
        return EXIT[self.outcome]

    def headline(self) -> str:
        """One sentence: the verdict, what it means for the use, and why."""
        name = f"{self.outcome.upper()}: {self.name}"
        if self.fault:
            return f"{name} {self.fault.what}: {self.fault.detail}"
        use = self.for_the_use()
        if use:
            name = f"{name} is {use}; it"
        if self.what:
            name = f"{name} {self.what}; it"
        n = sum({judged.target: judged.result.n for judged in self.judged if judged.test == "support"}.values())
        rates = f"false-fail <= {self.false_fail:g} over all tests"
        if self.set_aside:
            rates += f"; {self._set_aside()}"
        failed = [judged for judged in self.judged if judged.outcome is Outcome.FAIL]
        if failed:
            which = ", ".join(dict.fromkeys(judged.test for judged in failed))
            said = f"{name} fails {len(failed)} of {len(self.judged)} tests ({which}); n = {n:,}; {rates}"
            if self.impossible:
                others = len(self.impossible) - 1
                more = f", and {others:,} other token{'s' if others > 1 else ''}" if others else ""
                said += f"; impossible: {self.impossible[0]}{more}"
            return f"{said}; {self.supposes}" if self.supposes else said
        blind = [judged for judged in self.judged if judged.outcome is Outcome.INCONCLUSIVE]
        if not blind:
            seen = (
                f"fails none of {len(self.judged)} tests; n = {n:,}; {rates}, false-pass <= {self.false_pass:g}"
            )
            return f"{name} {seen}; {self.scope()}"
        which = ", ".join(dict.fromkeys(f"{judged.test} on {judged.target}" for judged in blind))
        wanted = ", ".join(f"{target} {draws:,}" for target, draws in self.needed.items())
        aside = f"; {self._set_aside()}" if self.set_aside else ""
        seen = f"n = {n:,} cannot show the wished effect ({which}); draws needed: {wanted or 'more'}{aside}"
        return f"{name}: {seen}" if not use else f"{name} drew too little: {seen}"

    def for_the_use(self) -> str:
        """What the sampler is good for, by its own law: "fine for next tokens (tv <= 0.0004 on zipf), not
        for 4,096 ancestral steps (unmasks ...)"; where there is none, what its draws say of the judged use.
        Empty where neither says anything."""
        told = {harm.use: harm for harm in reversed(self.harms)}  # the first of each use
        if not told:
            return self.by_draws()
        kinds = ", ".join(sorted({harm.guarantee for harm in told.values()}))
        said = ", ".join(harm.sentence() for harm in reversed(told.values()))
        return f"{said} by its own law ({kinds})"

    def by_draws(self) -> str:
        """What the draws of a step say of its unmasking rate."""
        for judged in self.judged:
            found, expected = judged.result.estimate, judged.result.expected
            if judged.test != "unmask" or found is None or not expected or self.use is None:
                continue
            low, value, high = (each / expected for each in (found.low, found.value, found.high))
            said = "not" if judged.outcome is Outcome.FAIL else "fine"
            if judged.outcome is Outcome.INCONCLUSIVE:
                said = "undecided"
            elif judged.outcome is Outcome.PASS and self.outcome is Outcome.FAIL:
                said = "not shown to be wrong"  # something else fails
            rate = f"unmasks {value:.2g} [{low:.2g}, {high:.2g}] of what it should on {judged.target}"
            return f"{said} for {self.use.described} ({rate}) by its draws"
        return ""

    def _set_aside(self) -> str:
        return f"{self.set_aside:,} {'row was' if self.set_aside == 1 else 'rows were'} set aside"

    def scope(self) -> str:
        """On what the verdict rests: targets, effects that are excluded, and those that were not looked for."""
        if self.fault or not self.judged:
            return "one call was judged, no law"
        targets = list(dict.fromkeys(judged.target for judged in self.judged))
        shown = ", ".join(targets[:SHOWN]) + (
            f" and {len(targets) - SHOWN} more" if len(targets) > SHOWN else ""
        )
        wished: dict[str, float] = {}
        unseen: dict[str, float] = {}
        for judged in self.judged:
            effect = EFFECT_OF.get(judged.test)
            if effect is None:
                continue
            if judged.wished is None:
                unseen[effect] = min(unseen.get(effect, math.inf), judged.result.detectable)
            elif judged.outcome is Outcome.PASS:
                wished.setdefault(effect, judged.wished)
        blind = {EFFECT_OF.get(judged.test) for judged in self.judged if judged.outcome is not Outcome.PASS}
        excluded = [NAMED[effect].format(size) for effect, size in wished.items() if effect not in blind]
        asked = {EFFECT_OF.get(judged.test) for judged in self.judged if judged.wished is not None}
        left = [effect for effect in EFFECTS if effect not in asked]
        use = f"for {self.use.described} " if self.use else ""
        said = [f"{use}on {shown}", f"excluded: {', '.join(excluded) or 'nothing'}"]
        if left:
            named = [
                f"{effect} (seen from {unseen[effect]:.3g} on)"
                if unseen.get(effect, math.inf) < math.inf
                else effect
                for effect in left
            ]
            said.append(f"not looked for: {', '.join(named)}")
        return "; ".join(said)

    def best_fit(self) -> str:
        """Which recipe the draws speak for, and against which they cannot decide; of a failure, what
        explains it."""
        if not self.suspects:
            return ""
        best = self.suspects[0]
        failed = {judged.test for judged in self.judged if judged.outcome is Outcome.FAIL}
        alike = [s.recipe for s in self.suspects if s.posterior > 1 - CERTAIN]
        if self.outcome is Outcome.FAIL and FAITHFUL in alike:
            said = f"no listed recipe explains what failed ({', '.join(sorted(failed))})"
            if self.impossible:
                said += ": none draws such tokens"
            elif not failed - ALONE:
                said += "; one by one the draws look faithful: the fault is in how they depend on each other"
            if len(alike) > 1:
                rest = "the rest of the draws does" if self.impossible else "these draws do"
                said += f"; {rest} not tell the target's own law from: {_others(alike)}"
        elif self.outcome is Outcome.FAIL and best.fit is not None and best.fit <= UNEXPLAINED:
            said = f"no listed recipe explains the draws; the nearest is {best.recipe} ({best.how}), with p = {best.fit:.2g}"
        elif FAITHFUL in alike and len(alike) > 1:
            said = f"best fit: faithful, within {best.log_likelihood:.2g} nats of the best; these draws do not tell it from: "
            said += _others(alike)
        else:
            said = f"best fit: {best.recipe} ({best.how}), posterior {best.posterior:.3g}, "
            if best.recipe == FAITHFUL:
                said += f"{-self.suspects[1].log_likelihood:.4g} nats above {self.suspects[1].recipe}"
            else:
                said += f"log likelihood {best.log_likelihood:+.4g} nats against faithful"
            if len(alike) > 1:
                said += f"; hardly to be told from: {'; '.join(alike[1:])}"
        said += f"; n = {best.n:,}"
        apart = ", ".join(sorted(failed & INDEPENDENCE))
        if apart and (best.recipe == SHARED or not (failed & LAW or self.impossible)):
            supposing = sorted({judged.test for judged in self.judged} & SUPPOSING)
            if supposing:
                said += f"; {', '.join(supposing)} suppose independent draws, and can fail with {apart}"
        else:
            of_law = failed & INDEPENDENCE if best.recipe == MIXED else failed & (INDEPENDENCE | {"sources"})
            if of_law:
                said += f"; {', '.join(sorted(of_law))} suppose the target's law, and can fail with it"
        return said

    def rows(self) -> list[dict[str, Any]]:
        """The tests, or the fault as the one row."""
        if self.fault:
            return [
                {
                    "verdict": "fail",
                    "fault": self.fault.what,
                    "detail": self.fault.detail,
                    "call": self.fault.call,
                }
            ]
        return [judged.row() for judged in self.judged]

    def suspect_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "recipe": s.recipe,
                "law": s.how,
                "log_likelihood": s.log_likelihood,
                "posterior": s.posterior,
                "n": s.n,
                "fit": s.fit,
            }
            for s in self.suspects[:SHOWN]
        ]

    def json(self) -> dict[str, Any]:
        return {
            "sampler": self.name,
            "verdict": str(self.outcome),
            "false_fail": self.false_fail,
            "false_pass": self.false_pass,
            "seed": self.seed,
            "fault": vars(self.fault) if self.fault else None,
            "tests": [] if self.fault else self.rows(),
            "best_fit": self.best_fit(),
            "suspects": self.suspect_rows(),
            "draws_needed": self.needed,
            "scope": self.scope(),
            "impossible": [vars(each) for each in self.impossible[:LISTED]],
            "rows_set_aside": self.set_aside,
            "notes": self.all_notes(),
            "command": self.command,
            "shown_by": self.shown,
            "for": self.use.name if self.use else None,
            "own_law": [harm.row() for harm in self.harms],
            "no_law": self.no_law,
        }

    def all_notes(self) -> list[str]:
        """Impossible draws by token, what was set aside, what the numbers look like, and notes of the tests."""
        shown = [f"impossible: {each}" for each in self.impossible[:SHOWN]]
        if len(self.impossible) > SHOWN:
            shown.append(f"impossible: {len(self.impossible) - SHOWN:,} more tokens")
        of_tests = [f"{j.test} on {j.target}: {j.result.note}" for j in self.judged if j.result.note]
        return [*shown, *self.notes, *of_tests]

    def text(self) -> str:
        """Headline, failed or blind tests, best fit, notes and how to repeat it, as plain lines."""
        lines = [self.headline()]
        if self.fault:
            lines.append(f"  shown by: {self.fault.call}")
        elif self.shown and self.outcome is Outcome.FAIL:
            lines.append(f"  shown by: {self.shown}")
        if self.no_law:
            lines.append(f"  {self.no_law}")
        lines += [f"  {j.test} on {j.target}: {j.result}" for j in self.judged if j.outcome is not Outcome.PASS]
        scope = "" if self.fault or self.outcome is Outcome.PASS else f"scope: {self.scope()}"
        again = f"again: {self.command}" if self.command else ""
        lines += [f"  {line}" for line in (self.best_fit(), *self.all_notes(), scope, again) if line]
        return "\n".join(printable(line) for line in lines)


def _others(recipes: list[str]) -> str:
    return "; ".join(recipe for recipe in recipes if recipe != FAITHFUL)


def _power_of_ten(log: float) -> str:
    """e^log, written so that it does not underflow."""
    tens = log / math.log(10)
    if tens > -300:
        return f"{math.exp(log):.2g}"
    return f"1e{math.floor(tens)}" if tens > -1e6 else f"1e-({-tens:.2g})"


def judged_all(results: dict[str, dict[str, TestResult]], plan: Plan) -> tuple[Judged, ...]:
    """Every test of every target with its place in the family of all: Holm at the plan's false_fail."""
    flat = {(target, test): r for target, tests in results.items() for test, r in tests.items()}
    verdicts = family({f"{a}\n{b}": r for (a, b), r in flat.items()}, level=plan.false_fail)
    return tuple(
        Judged(target, test, result, verdicts[f"{target}\n{test}"], plan.wishes(target).get(test))
        for (target, test), result in flat.items()
    )


def _level(confidence: float) -> str:
    return f"{confidence:.0%}" if confidence < 0.999 else f"1 - {1 - confidence:.0e}".replace("e-0", "e-")
