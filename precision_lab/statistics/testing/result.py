"""What every test returns, and the one way to make an assertion of a test."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

from ...types import Guarantee
from ..estimate import Estimate

P = ParamSpec("P")


@dataclass(frozen=True)
class TestResult:
    """A test on ``n`` draws that fails a right sampler with probability at most ``false_fail``.

    ``statistic``: to read, not to decide.  ``detectable``: the smallest effect that this n sees, in the
    unit that ``effect`` names.  ``guarantee``: in what sense the level holds.  ``estimate``, ``expected``:
    what was found and what the null says, where one number says it.  ``note``: what else a reader must know
    of the numbers.
    """

    __test__ = False  # not a test class: keeps pytest from collecting it

    p_value: float
    statistic: float
    n: int
    detectable: float
    false_fail: float
    test: str = "test"
    effect: str = "relative deviation of the rate"
    guarantee: Guarantee = Guarantee.FINITE_SAMPLE
    estimate: Estimate | None = None
    expected: float | None = None
    note: str = ""

    @property
    def failed(self) -> bool:
        return self.p_value <= self.false_fail

    def __str__(self) -> str:
        e, sign = self.estimate, "<=" if self.failed else ">"
        found = [] if e is None else [f"estimate {e.value:.6g} in [{e.low:.6g}, {e.high:.6g}] ({e.method})"]
        if self.expected is not None:
            found.append(f"expected {self.expected:.6g}")
        return "; ".join(
            [
                f"{self.test}: p = {self.p_value:.3g} {sign} {self.false_fail:g} ({self.guarantee})",
                f"n = {self.n}",
                f"statistic {self.statistic:.6g}",
                *found,
                f"smallest effect seen by this n: {self.detectable:.3g} ({self.effect})",
                *([self.note] if self.note else []),
            ]
        )


class SamplerRejected(AssertionError):
    """A sampler failed a test. ``result``: the :class:`TestResult`."""

    def __init__(self, result: TestResult) -> None:
        super().__init__(f"sampler rejected by {result}")
        self.result = result


def asserting(test: Callable[P, TestResult]) -> Callable[P, TestResult]:
    """``assert_x`` of ``x_test``: the same arguments and result; raises :class:`SamplerRejected` where the
    test fails."""

    @functools.wraps(test)
    def check(*args: P.args, **kwargs: P.kwargs) -> TestResult:
        result = test(*args, **kwargs)
        if result.failed:
            raise SamplerRejected(result)
        return result

    check.__name__ = check.__qualname__ = f"assert_{test.__name__.removesuffix('_test')}"
    check.__doc__ = f"SamplerRejected where :func:`{test.__name__}` fails, else its result; same arguments."
    return check
