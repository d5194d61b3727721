"""A verdict as rows, sentences, Markdown and JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..errors import printable
from ..statistics import TestResult, Verdict, family
from ..targets import Use
from .harm import Harm
from .plan import Plan
from .suspects import FAITHFUL, UNEXPLAINED, Suspect

CERTAIN = 0.95  # posterior from which one recipe is named
SHOWN = 5  # suspects
LAW, INDEPENDENCE = {"temperature", "tail"}, {"rows", "serial", "streams"}  # tests of one and of the other


class Outcome(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


EXIT = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}


@dataclass(frozen=True)
class Judged:
    """One test of one target. ``wished``: the effect it had to be able to see, None if it only had not to fail."""

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

    def row(self) -> dict[str, Any]:
        result, found = self.result, self.result.estimate
        return {
            "target": self.target,
            "test": self.test,
            "n": result.n,
            "statistic": result.statistic,
            "estimate": None if found is None else found.value,
            "interval": ""
            if found is None
            else f"[{found.low:.5g}, {found.high:.5g}] at {_level(found.confidence)}",
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
class Report:
    """``needed``: draws in all that the wished effects want, by target.  ``command``: what gives the same verdict again.

    ``note``: how the sampler was called, and what is unusual about it.  ``use``: what was judged.  ``harms``: what the
    sampler's own law does to it, and ``no_law``, why that is not known.
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
    note: str = ""
    use: Use | None = None
    harms: tuple[Harm, ...] = ()
    no_law: str = ""

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
        n = sum({judged.target: judged.result.n for judged in self.judged if judged.test == "support"}.values())
        rates = f"false-fail <= {self.false_fail:g} over all tests"
        failed = [judged for judged in self.judged if judged.outcome is Outcome.FAIL]
        if failed:
            which = ", ".join(dict.fromkeys(judged.test for judged in failed))
            return f"{name} fails {len(failed)} of {len(self.judged)} tests ({which}); n = {n:,}; {rates}"
        blind = [judged for judged in self.judged if judged.outcome is Outcome.INCONCLUSIVE]
        if not blind:
            seen = f"fails none of {len(self.judged)} tests; n = {n:,}; {rates}"
            return f"{name} {seen}, false-pass <= {self.false_pass:g}"
        which = ", ".join(dict.fromkeys(f"{judged.test} on {judged.target}" for judged in blind))
        wanted = ", ".join(f"{target} {draws:,}" for target, draws in self.needed.items())
        seen = f"n = {n:,} cannot show the wished effect ({which}); draws needed: {wanted or 'more'}"
        return f"{name}: {seen}" if not use else f"{name} drew too little: {seen}"

    def for_the_use(self) -> str:
        """ "fine for next tokens (tv <= 0.0004 on zipf), not for 4,096 ancestral steps (unmasks ...)": by the sampler's own
        law; where there is none, what its draws say of the judged use. Empty where neither says anything."""
        if self.harms:
            reliable = {harm.guarantee for harm in self.harms}
            return f"{', '.join(harm.sentence() for harm in self.harms)} by its own law ({', '.join(sorted(reliable))})"
        return self.by_draws()

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
            rate = f"unmasks {value:.2g} [{low:.2g}, {high:.2g}] of what it should on {judged.target}"
            return f"{said} for {self.use.described} ({rate}) by its draws"
        return ""

    def best_fit(self) -> str:
        """Which recipe the draws speak for, and against which they cannot decide."""
        if not self.suspects:
            return ""
        best = self.suspects[0]
        alike = [s.recipe for s in self.suspects if s.posterior > 1 - CERTAIN]
        if FAITHFUL in alike and len(alike) > 1:
            said = f"best fit: faithful, within {best.log_likelihood:.2g} nats of the best; these draws do not tell it from: "
            said += "; ".join(recipe for recipe in alike if recipe != FAITHFUL)
        else:
            said = f"best fit: {best.recipe} ({best.how}), posterior {best.posterior:.3g}, "
            if best.recipe == FAITHFUL:
                said += f"{-self.suspects[1].log_likelihood:.4g} nats above {self.suspects[1].recipe}"
            else:
                said += f"log likelihood {best.log_likelihood:+.4g} nats against faithful"
            if len(alike) > 1:
                said += f"; hardly to be told from: {'; '.join(alike[1:])}"
        said += f"; n = {best.n:,}"
        if self.outcome is Outcome.FAIL and best.fit is not None and best.fit <= UNEXPLAINED:
            said += f"; but no listed recipe explains the draws (p = {best.fit:.2g})"
        failed = {judged.test for judged in self.judged if judged.outcome is Outcome.FAIL}
        if failed & LAW and failed & INDEPENDENCE:
            said += (
                f"; {', '.join(sorted(failed & INDEPENDENCE))} suppose the target's law, and can fail with it"
            )
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
            "command": self.command,
            "for": self.use.name if self.use else None,
            "own_law": [harm.row() for harm in self.harms],
            "no_law": self.no_law,
            "note": self.note,
        }

    def text(self) -> str:
        """Headline, failed or blind tests, best fit and how to repeat it, as plain lines."""
        lines = [self.headline()]
        if self.fault:
            lines.append(f"  shown by: {self.fault.call}")
        if self.no_law:
            lines.append(f"  {self.no_law}")
        lines += [f"  {j.test} on {j.target}: {j.result}" for j in self.judged if j.outcome is not Outcome.PASS]
        lines += [
            f"  {line}"
            for line in (self.best_fit(), self.note, f"again: {self.command}" if self.command else "")
            if line
        ]
        return "\n".join(printable(line) for line in lines)


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
