"""Schedules against 50-digit arithmetic, and what cancellation costs."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precision_lab.errors import InputError
from precision_lab.formats import BF16, FP32, FP64
from precision_lab.mdm.schedule import COSINE, LINEAR, cancelling, checked, polynomial, unmask_probabilities

EXACT = {  # masked share in mpmath, by the definition of alpha
    "linear": lambda t: t,
    "cosine": lambda t: mpmath.cos(mpmath.pi / 2 * (1 - t)),
    "polynomial_3": lambda t: t**3,
    "polynomial_0.5": lambda t: mpmath.sqrt(t),
}
SCHEDULES = [LINEAR, COSINE, polynomial(3), polynomial(0.5)]
pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
class TestSchedules:
    def test_is_one(self, schedule):
        assert checked(schedule) is schedule
        assert schedule.alpha(np.array([0.0, 1.0])) == pytest.approx([1.0, 0.0], abs=1e-15)

    @given(t=st.floats(1e-6, 1))
    def test_time_inverts(self, schedule, t):
        assert schedule.masked(schedule.time(schedule.masked(t))) == pytest.approx(
            schedule.masked(t), rel=1e-13
        )

    @given(t=st.floats(1e-6, 1.0), step=st.floats(1e-9, 1.0))
    def test_unmask_has_no_cancellation(self, schedule, t, step):
        """Relative error below 1e-13 at any step, 1e-9 of t included; plain subtraction would have 1e-7."""
        s = t - t * step
        if s == t:
            return
        with mpmath.workdps(50):
            m = EXACT[schedule.name]
            s, t = float(s), float(t)
            exact = (m(mpmath.mpf(t)) - m(mpmath.mpf(s))) / m(mpmath.mpf(t))
        assert float(schedule.unmask(s, t)) == pytest.approx(float(exact), rel=1e-13)

    def test_steps_multiply_to_a_whole(self, schedule):
        """P(masked after i steps) = masked(t_i): the product of the 1 - r telescopes."""
        r = unmask_probabilities(1000, schedule)
        assert r[-1] == 1.0
        left = np.cumprod(1 - r[:-1])
        np.testing.assert_allclose(left, schedule.masked(np.arange(999, 0, -1) / 1000), rtol=1e-11)


def test_linear_is_one_over_k_exactly():
    assert unmask_probabilities(7).tolist() == [1 / k for k in range(7, 0, -1)]


@pytest.mark.parametrize("steps", [1000, 10**6])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_unmask_to_the_last_places(steps, schedule):
    """At the float64 points of the grid, 200 steps at either end and in the middle: within 8 units in the last place."""
    left = np.concatenate([start - np.arange(200) for start in (steps, steps // 2, 200)])
    s, t = (left - 1) / steps, left / steps
    found, m = schedule.unmask(s, t), EXACT[schedule.name]
    with mpmath.workdps(50):
        exact = [1 - m(mpmath.mpf(float(a))) / m(mpmath.mpf(float(b))) for a, b in zip(s, t, strict=True)]
        off = [float(abs(mpmath.mpf(float(r)) / e - 1)) for r, e in zip(found, exact, strict=True)]
    assert max(off) < 8 * 2.0**-53


class TestCancelling:
    def test_float64_is_nearly_right_and_float32_is_not(self):
        """At N = 50,000, t near 1: r = 2e-5 is a difference of float32 numbers near 1e-5 apart, spacing 2^-24 (6e-8)."""
        r, right = {f.name: cancelling(50_000, f) for f in (FP32, FP64)}, unmask_probabilities(50_000)
        worst = {name: np.abs(values / right - 1)[:-1].max() for name, values in r.items()}
        assert worst["fp64"] < 1e-9
        assert 1e-3 < worst["fp32"] < 2e-2

    def test_bfloat16_loses_steps_whole(self):
        """Spacing 2^-8 below 1: of 4096 steps most unmask nothing at all."""
        assert (cancelling(4096, BF16) == 0).mean() > 0.5


@pytest.mark.parametrize(
    "broken",
    [
        replace(LINEAR, name="rising", masked=lambda t: 1 - t),
        replace(LINEAR, name="flat", masked=lambda t: np.minimum(1.0, 2 * t)),
        replace(LINEAR, name="short", masked=lambda t: 0.5 * t),
        replace(COSINE, name="no inverse", time=lambda m: m),
        replace(COSINE, name="nowhere", time=lambda m: m * np.nan),
        replace(COSINE, name="another r", unmask=LINEAR.unmask),
        replace(COSINE, name="no r", unmask=lambda s, t: t * np.nan),
    ],
    ids=lambda s: s.name,
)
def test_what_is_no_schedule_is_refused(broken):
    with pytest.raises(InputError, match=broken.name):
        unmask_probabilities(10, broken)
    with pytest.raises(InputError, match=broken.name):
        cancelling(10, FP32, broken)


@pytest.mark.parametrize("steps", [0, -1, 2.5, 2.0, "2", None])
def test_bad_steps(steps):
    for r in (unmask_probabilities, lambda n: cancelling(n, FP32)):
        with pytest.raises(InputError, match="a whole number, at least 1"):
            r(steps)
    assert len(unmask_probabilities(np.int64(3))) == 3


@pytest.mark.parametrize("power", [0, -1, float("inf"), float("nan")])
def test_bad_power(power):
    with pytest.raises(InputError, match="power"):
        polynomial(power)
