"""The trial of the judge is itself right: its simulations ask what the judge asks, and a broken promise is
found."""

from __future__ import annotations

import numpy as np
import pytest
from judging import statistical
from scipy import stats

from precision_lab import statistics
from precision_lab.calibration import LEVELS, PROMISES, Promise, judged
from precision_lab.calibration.defective import COMMON, DEFECTIVE, STEP, ZERO, folded
from precision_lab.calibration.e_values import paths, stopped
from precision_lab.calibration.every_test import TESTS, fails, needed
from precision_lab.calibration.promise import by_value, draws, of_probs, tokens
from precision_lab.calibration.remembered import remembered
from precision_lab.calibration.targets import LARGE, SMALL, coarse, waved
from precision_lab.calibration.verdicts import (
    RightDraws,
    in_doubt,
    row_pairs,
    rows_of_file,
    shared,
    small_design,
    sources_seen,
)
from precision_lab.defects import DEFECTS
from precision_lab.laws.law import Law
from precision_lab.statistics import (
    Counts,
    EProcess,
    agreement_test,
    alternative_laws,
    proportion,
    temperature_test,
)
from precision_lab.statistics.testing.identity import _null_counts
from precision_lab.types import Guarantee

RNG = np.random.default_rng


class TestWhatIsTried:
    def test_every_test_has_a_false_fail_rate(self) -> None:
        tried = {p.judge.split(",")[0] for p in PROMISES.values() if p.kind in ("false fail", "e-value")}
        asked = {name.removesuffix("_test") for name in statistics.__all__ if name.endswith("_test")}
        assert asked | {"e_process", "unmask_rate_e_value", "combined_e", "holm", "e_bh"} <= tried

    def test_every_statement_of_power_has_a_false_pass_rate(self) -> None:
        tried = {p.judge.split(",")[0] for p in PROMISES.values() if p.kind == "false pass"}
        asked = {
            name.removeprefix("detectable_") for name in statistics.__all__ if name.startswith("detectable_")
        }
        named = {"sharing": "agreement", "state_bits": "repeated_vector"}
        asked -= {"difference"}  # of two intervals: its power is tried in test_statistics.py
        assert {named.get(name, name) for name in asked} <= tried

    def test_every_interval_has_a_coverage(self) -> None:
        tried = {p.judge.split(",")[0].split(" ")[0] for p in PROMISES.values() if p.kind == "coverage"}
        made = {
            "proportion",
            "ratio_of_proportion",
            "mean",
            "difference",
            "cluster_bootstrap",
            "cluster_jackknife",
        }
        made |= {
            "draw_jackknife",
            "temperature_from_draws",
            "temperature_from_rows",
            "spectrum_from_draws",
            "hill",
        }
        made |= {
            "hill_difference",
            "coverage_estimate",
            "diversity",
            "two_laws_log_likelihood",
            "likelihood_ratio",
        }
        assert made <= tried

    def test_what_a_verdict_adds_is_tried(self) -> None:
        judged_too = {"company", "row_laws", "row_pairs", "judge_each", "row_sources", "row_uniformity"}
        assert judged_too <= {p.judge for p in PROMISES.values() if p.kind == "false fail"}
        assert {"row_pairs", "row_sources"} <= {p.judge for p in PROMISES.values() if p.kind == "false pass"}

    @pytest.mark.parametrize("kind", ["false fail", "false pass", "coverage", "e-value"])
    def test_a_tally_counts(self, kind: str) -> None:
        values = (
            np.array([0.0005, 0.005, 0.5, 200.0])
            if kind in ("false fail", "e-value")
            else np.array([1, 0, 1, 1])
        )
        promise = Promise("x", "y", kind, Guarantee.FINITE_SAMPLE, 1, lambda: lambda runs, rng: values)  # type: ignore[arg-type]
        totals = {row["quantity"]: row["total"] for row in promise.tally(4, RNG(0))}
        assert (
            totals
            == {
                "false fail": {"false fail at 0.01": 2, "false fail at 0.001": 1},
                "false pass": {"false pass": 3},
                "coverage": {"coverage": 3},
                "e-value": {"mean of e": values.sum(), "P(e >= 100)": 1, "P(e >= 1000)": 0},
            }[kind]
        )


class TestVerdicts:
    @pytest.mark.parametrize(
        ("quantity", "guarantee", "stated", "total", "verdict"),
        [
            ("false fail at 0.01", "finite sample", 0.01, 90, "holds"),
            ("false fail at 0.01", "finite sample", 0.01, 120, "holds within interval"),
            ("false fail at 0.01", "finite sample", 0.01, 200, "broken"),
            ("false fail at 0.01", "asymptotic", 0.01, 200, "off"),
            ("coverage", "finite sample", 0.95, 9600, "holds"),
            ("coverage", "finite sample", 0.95, 9450, "holds within interval"),
            ("coverage", "asymptotic", 0.95, 9000, "off"),
            ("false pass", "certified", 0.0, 1, "broken"),
        ],
    )
    def test_of_a_rate(self, quantity: str, guarantee: str, stated: float, total: float, verdict: str) -> None:
        found = judged(quantity, guarantee, stated, 10_000, total, total)
        assert found["verdict"] == verdict
        assert found["measured"] == total / 10_000

    def test_of_a_mean(self) -> None:
        e = RNG(0).exponential(2.0, 1000)
        found = judged("mean of e", "anytime", 1.0, 1000, float(e.sum()), float((e**2).sum()))
        assert found["verdict"] == "broken"
        assert found["measured"] == pytest.approx(e.mean())
        half = float(stats.t.isf(5e-5, 999)) * e.std(ddof=1) / np.sqrt(1000)
        assert (found["low"], found["high"]) == pytest.approx((e.mean() - half, e.mean() + half))

    def test_a_test_without_its_correction_is_found(self) -> None:
        """The least of 17 p-values, not multiplied by 17."""
        broken = Promise(
            "x",
            "y",
            "false fail",
            Guarantee.FINITE_SAMPLE,
            1,
            lambda: lambda runs, rng: rng.random((runs, 17)).min(axis=1),
        )
        rows = broken.tally(10_000, RNG(0))
        found = [
            judged(r["quantity"], r["guarantee"], r["stated"], 10_000, r["total"], r["squares"]) for r in rows
        ]
        assert [each["verdict"] for each in found] == ["broken", "broken"]


class TestSimulations:
    def test_what_is_remembered_is_the_same(self) -> None:
        def results() -> list[object]:
            rng, found = RNG(1), []
            for p in (SMALL, coarse(SMALL)):
                for counts in draws(p, 60, 2, rng):
                    found.append(temperature_test(counts, p))
                    found.append(agreement_test(*tokens(p, (2, 50), rng), p, p))
            return found

        plain = results()
        with remembered():
            assert results() == plain
        assert results() == plain

    def test_a_path_is_what_an_e_process_says(self) -> None:
        log_e = paths(SMALL, 30, 3, RNG(5))
        rng = RNG(5)
        for row in log_e:
            process = EProcess(
                SMALL, alternative_laws(SMALL, bits=(4, 6, 10, 12), temperatures=(0.9, 0.95, 1.05, 1.1))
            )
            each = [process.update(token).log_e for token in tokens(SMALL, (30,), rng)]
            np.testing.assert_allclose(row, each, atol=1e-12)

    def test_a_stop(self) -> None:
        log_e = np.log([[1.0, 30.0, 5.0], [1.0, 2.0, 3.0]])
        np.testing.assert_allclose(stopped(log_e), [30.0, 3.0])

    @pytest.mark.parametrize("p", [SMALL, LARGE], ids=["20", "2000"])
    def test_a_wave_is_as_far_as_it_says(self, p: Law) -> None:
        q = waved(p, 0.04, p.probs)
        assert float(((q.probs - p.probs) ** 2 / p.probs).sum()) == pytest.approx(0.04, rel=1e-9)
        assert q.probs.sum() == pytest.approx(1, abs=1e-12)

    def test_each_value_is_asked_once(self) -> None:
        asked: list[tuple[int, int]] = []
        found = by_value(lambda a, b: asked.append((a, b)) or a - b, np.array([3, 1, 3]), np.array([1, 1, 1]))
        assert found.tolist() == [2, 0, 2]
        assert sorted(asked) == [(1, 1), (3, 1)]


class TestVerdictsOnTrial:
    """What ``calibration/verdicts.py`` simulates is what it says: it fails where the judge is made wrong."""

    @statistical(false_fail=1e-8)
    def test_draws_of_a_stage_have_their_laws(self) -> None:
        """Ranks of 20 stages, by exact binomials of the likeliest token: sees a rate off by 0.02."""
        asked = small_design()
        right = RightDraws(asked)
        rng, likeliest, n = RNG(3), 0, 0
        for _ in range(20):
            alone, drawn = right.stage(rng)
            for each in drawn:
                if each.batch.kind == "own":
                    likeliest += int((each.ids == each.batch.probs.argmax(axis=1)).sum())
                    n += each.ids.size
            likeliest += sum(int((ids == 0).sum()) for (_, row, _), ids in alone.items() if row == 0)
            n += 60
        rate = float(asked.by_rank[16][0])
        assert stats.binom.cdf(likeliest, n, rate) > 5e-9
        assert stats.binom.sf(likeliest - 1, n, rate) > 5e-9

    @statistical(false_fail=2e-9)
    def test_rows_on_one_vector_of_noise_are_seen_and_independent_ones_are_not(self) -> None:
        assert not shared(8, 192, "race")(20, RNG(0)).any()
        assert not shared(8, 192, "uniform")(20, RNG(0)).any()
        assert (row_pairs(8, 192)(20, RNG(0)) > 1e-10).all()

    @statistical(false_fail=9e-9)
    def test_each_law_in_doubt_passes(self) -> None:
        """Each of the laws passes as one of the three."""
        assert min(in_doubt(which)(3, RNG(which)).min() for which in range(3)) > 1e-9

    @statistical(false_fail=5e-9)
    def test_draws_of_the_next_row_are_seen(self) -> None:
        passed = sources_seen(600, 30, least=1.0)(5, RNG(1))
        assert not passed.any()
        assert (rows_of_file(600, 30, "sources")(5, RNG(1)) > 1e-9).all()


class TestSparseNull:
    """The null of ``identity_test`` with fewer draws than tokens."""

    @statistical(false_fail=1e-9)
    def test_it_is_multinomial(self) -> None:
        """Counts of a token over 20,000 rows against their binomial law; sees a rate off by 1.5 %."""
        p = np.array([0.0, 0.3, 0.0, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0])
        counts = _null_counts(10, p, 20_000, RNG(7))
        assert counts.shape == (20_000, 11)
        assert (counts.sum(axis=1) == 10).all()
        assert not counts[:, p == 0].any()
        seen, due = np.bincount(counts[:, 1], minlength=11), 20_000 * stats.binom.pmf(np.arange(11), 10, 0.3)
        cells = np.append(seen[:7], seen[7:].sum()), np.append(due[:7], due[7:].sum())
        assert stats.chisquare(*cells).pvalue > 1e-9

    def test_many_draws_are_made_as_before(self) -> None:
        p = SMALL.probs / SMALL.probs.sum()
        assert (_null_counts(100, p, 5, RNG(3)) == RNG(3).multinomial(100, p, size=5)).all()


@pytest.mark.parametrize("n", [1, 50, 10**6, 10**12])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 1 - 1e-6])
def test_ends_of_a_proportion_are_relatively_exact(n: int, confidence: float) -> None:
    """P(X >= k) at the lower end and P(X <= k) at the upper one are (1 - confidence) / 2, for the smallest
    rates too."""
    for k in {0, 1, min(2, n), n // 3}:
        found, side = proportion(k, n, confidence), (1 - confidence) / 2
        assert (
            found.low == 0 if k == 0 else stats.binom.sf(k - 1, n, found.low) == pytest.approx(side, rel=1e-6)
        )
        assert found.high == 1 if k == n else stats.binom.cdf(k, n, found.high) == pytest.approx(side, rel=1e-6)


class TestDefects:
    def test_they_are_the_twelve(self) -> None:
        assert [str(number) for number in DEFECTIVE] == [name.split()[0] for name in DEFECTS]

    @pytest.mark.parametrize("number", [1, 3, 5, 6, 9, 10, 12])
    def test_law_and_draws(self, number: int) -> None:
        case = DEFECTIVE[number]
        logits = case.logits(case.telling)
        p = of_probs(np.exp(logits))
        q, drawn = case.law(logits, p), case.draw(logits, 4, RNG(0))
        assert q.probs.sum() == pytest.approx(1, abs=1e-9)
        assert len(drawn) == 4
        assert (q.probs[drawn] > 0).all()
        if number == 6:
            assert (drawn[:, 0] == drawn[:, 1]).all()
        if number == 9:
            assert q.probs[-1] == pytest.approx((1 - ZERO) ** 1000 * p.probs[-1] + ZERO * (1 - ZERO) ** 999)

    def test_folded_words(self) -> None:
        """Against the exact law of the sampler, 2.2086e-6 at gap 20 with 1,000 tokens."""
        q = folded(of_probs(np.exp(DEFECTIVE[11].logits("1,000 at gap 20"))))
        assert float(q.probs[1:].sum()) == pytest.approx(2.2086e-6, rel=1e-4)

    def test_a_common_target(self) -> None:
        assert len(DEFECTIVE[9].logits(STEP)) == 50_258
        assert set(COMMON) == {STEP, "Zipf, 50,257"}

    def test_draws_needed_and_verdicts(self) -> None:
        p, logits = SMALL, SMALL.log_probs
        q = of_probs(np.append(0.2, 0.8 * p.probs[1:] / p.probs[1:].sum()))
        right = Counts(np.round(1e4 * p.probs).astype(np.int64), int(np.round(1e4 * p.probs).sum()))
        wrong = Counts(np.round(1e4 * q.probs).astype(np.int64), int(np.round(1e4 * q.probs).sum()))
        for test in TESTS[:-2]:
            ask = lambda counts: fails(test, counts, p, q, logits, right, step=False, rng=RNG(2))  # noqa: B023, E731
            if test in ("reachability", "tie_order", "unmask_rate", "coupled"):
                assert ask(wrong) in (None, False)
                continue
            assert ask(right) is False
            assert ask(wrong) is True
            assert 10 < (needed(test, p, q, logits, step=False) or 0) < 100_000
        assert needed("reachability", p, q, logits, step=False) is None
        assert needed("unmask_rate", p, q, logits, step=False) is None
        assert needed("unmask_rate", p, q, logits, step=True) is not None
        assert LEVELS[0] > LEVELS[1]
