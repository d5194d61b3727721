"""What is asked in a use: the targets that tell recipes apart, what draws of them decide, and what a budget
buys."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from judging import statistical
from scipy import stats

from precision_lab import SAMPLERS
from precision_lab.errors import InputError
from precision_lab.laws.law import Law, target_law
from precision_lab.samplers.head_and_tail import head_and_tail_law, true_tail
from precision_lab.statistics import Counts, detectable_shortfall, draws_needed_tail, tail_test
from precision_lab.targets import parse_target, parse_use
from precision_lab.types import Budget, Guarantee
from precision_lab.verdict.budget import Seconds, affordable, parse_budget
from precision_lab.verdict.caller import Caller
from precision_lab.verdict.check import asked_of, check, examine
from precision_lab.verdict.crew import by_lane
from precision_lab.verdict.harm import Harm, harm_of, rows_of
from precision_lab.verdict.plan import CAPS, Asked, Plan, parse_detect, plan
from precision_lab.verdict.report import Outcome, Report
from precision_lab.verdict.uses import (
    HARM,
    KNOWN,
    REAL_VOCABULARY,
    STEP_VALUES,
    asked_in,
    default_budget,
    telling_gap,
    telling_step,
    values_needed,
)

RATE = 1e-8  # of every test here
MDM = parse_use("mdm:4096")
LM = parse_use("lm")


def planned(asked: list[Asked], budget: Budget | int = STEP_VALUES, false_fail: float = 1e-6) -> Plan:
    return plan(asked, parse_detect("temperature=0.02"), budget=budget, false_fail=false_fail, false_pass=1e-3)


class Drawing:
    """A sampler that draws from a law, whatever the logits: the right one times ``ratio`` where the mask
    goes."""

    spec = "drawing"
    lanes = 1
    takes = frozenset()
    note = ""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.streams: dict[int, np.random.Generator] = {}

    def probe(self, vocab: int, seed: int) -> None:
        pass

    def fresh(self, seed: int, logits: np.ndarray, n: int, **options: object) -> np.ndarray:
        if options.get("layout", "plain") != "plain" or options.get("dtype", "float32") != "float32":
            raise InputError(str(options), "a plain call", "leave them out")
        noise = np.random.default_rng(seed).gumbel(size=(n, *logits.shape))
        return (logits + noise).argmax(-1)

    def draw(self, stream: int, logits: np.ndarray, n: int) -> np.ndarray:
        rng = self.streams.setdefault(stream, np.random.default_rng(stream))
        rows, vocab = logits.shape
        rate = target_law(logits[0]).probs[:-1].sum()
        unmasked = rng.random((n, rows)) < self.ratio * rate
        return np.where(unmasked, rng.integers(0, vocab - 1, (n, rows)), vocab - 1)


class TestTellingStep:
    @pytest.mark.parametrize(
        ("recipe", "name"),
        [
            ("24-bit noise", "gumbel_max_fp32"),
            ("23-bit noise", "jax_low_fp32"),
            ("24-bit noise, cast", "duo_ar_fp64"),
            ("exponential_ on CUDA", "torch_cuda_race_fp32"),
        ],
    )
    def test_the_forms_are_the_exact_laws(self, recipe, name):
        """Each closed form against the enumeration of the recipe over two classes, at a gap of 18.2."""
        gap, mass = 18.2, 1 / 4096
        exact = head_and_tail_law(SAMPLERS[name], gap, mass).probs[1] / true_tail(gap, mass)
        assert float(KNOWN[recipe](np.array([gap]))[0]) == pytest.approx(exact, abs=0.003)

    def test_the_gap_is_where_the_hardest_recipe_is_cheapest(self):
        gap = telling_gap(100.0)
        assert 17.5 < gap < 19

        def hardest(at: float) -> float:
            return max(float(values_needed(np.array([at]), form(np.array([at])))[0]) for form in KNOWN.values())

        assert all(hardest(gap) <= hardest(other) for other in (15.0, 16.0, 17.0, 17.5, 19.0, 19.5))
        assert 1e9 < hardest(gap) < 4e9

    @pytest.mark.parametrize("steps", [256, 1024, 4096, 50_000])
    def test_the_step_is_one_of_the_use(self, steps):
        asked = telling_step(parse_use(f"mdm:{steps}"), REAL_VOCABULARY)
        law = target_law(asked.target.logits)
        assert law.probs[asked.target.mask] == pytest.approx(1 - 1 / steps, rel=1e-12)
        assert len(asked.target.logits) <= REAL_VOCABULARY + 1
        np.testing.assert_allclose(law.probs[:-1], law.probs[0], rtol=1e-12)
        assert asked.wished["unmask"] >= HARM

    def test_where_such_noise_does_no_harm_nothing_is_wished(self):
        """At 16 steps of a vocabulary of 50,257 the flattest row loses less than a quarter."""
        assert telling_step(parse_use("mdm:16"), 50_257).wished == {}

    def test_the_draws_decide_within_the_budget(self):
        """Every known recipe is missed with at most 1e-3, by the exact power at the planned number of draws."""
        asked = planned(list(asked_in(MDM, parse_detect("temperature=0.02"), Budget.SMOKE)))
        question = asked.questions[-1]
        assert question.target.mask is not None
        assert question.n >= question.needed["unmask"]
        assert sum(q.n * q.law.vocab for q in asked.questions) <= STEP_VALUES
        rate, error = question.unmask_rate
        gap = math.log(4096) + math.log(question.law.vocab - 1)
        fails_at = next(
            k
            for k in range(10_000)
            if tail_test(k, question.n, rate, false_fail=asked.level, p0_error=error).p_value > asked.level
        )
        for recipe, form in KNOWN.items():
            found = rate * float(form(np.array([gap]))[0])
            assert stats.binom.cdf(fails_at - 1, question.n, found) >= 1 - 1.1e-3, recipe

    def test_the_shortfall_that_is_seen_is_the_one_that_was_planned(self):
        n = draws_needed_tail(1e-3, 0.4e-3, 1e-7, 1e-3)
        assert detectable_shortfall(n, 1e-3, 1e-7, 1e-3) <= 0.6
        assert detectable_shortfall(n // 2, 1e-3, 1e-7, 1e-3) > 0.6
        assert detectable_shortfall(10, 1e-3, 1e-7, 1e-3) == math.inf


SMALL = [Asked(parse_target("mdm_step[vocab=50,exponent=0,unmask=0.05]"), {"unmask": 0.5})]


class TestVerdict:
    @statistical(false_fail=RATE)
    def test_a_right_step_passes_and_a_lacking_one_fails(self):
        """The lacking one, 0.4 of its unmaskings, passes at most 1e-3 often: fixed seeds."""
        asked = planned(SMALL, 2**26, RATE)
        right = examine(Drawing(1.0), asked, 0, "", use=MDM)
        assert right.outcome is Outcome.PASS, right.text()
        assert "fine for 4,096 ancestral steps (unmasks" in right.headline()
        wrong = examine(Drawing(0.4), asked, 0, "", use=MDM)
        assert wrong.outcome is Outcome.FAIL
        assert "unmask" in {j.test for j in wrong.judged if j.outcome is Outcome.FAIL}
        assert "not for 4,096 ancestral steps (unmasks 0.4" in wrong.headline()

    def test_more_than_asked_for_fails_too(self):
        assert examine(Drawing(1.9), planned(SMALL, 2**26), 0, "", use=MDM).outcome is Outcome.FAIL

    def test_too_few_draws_of_a_step_are_inconclusive(self):
        report = examine(Drawing(1.0), planned(SMALL, 2**12), 0, "", use=MDM)
        assert report.outcome is Outcome.INCONCLUSIVE
        assert "undecided for 4,096 ancestral steps" in report.headline()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["gumbel_max_fp32", "jax_low_fp32", "duo_ar_fp64", "torch_cuda_race_fp32"])
    def test_float32_recipes_fail_by_draws_alone(self, name):
        report = check(name, use="mdm:4096", law=False, say=lambda line: None)
        assert report.outcome is Outcome.FAIL
        assert {j.test for j in report.judged if j.outcome is Outcome.FAIL} >= {"unmask"}

    @pytest.mark.slow
    @statistical(false_fail=1e-6)
    def test_float64_noise_passes(self):
        report = check("gumbel_max_fp64", use="mdm:4096", law=False, say=lambda line: None)
        assert report.outcome is Outcome.PASS, report.text()


class TestQuestionsOfNextTokens:
    ASKED = asked_in(LM, parse_detect("temperature=0.02"), Budget.SMOKE)

    def test_they_hold_what_samplers_break_on(self):
        rows = [asked.target.logits for asked in self.ASKED]
        assert max(map(len, rows)) >= 151_936
        assert min(row.min() for row in rows) < -1e38
        assert max(row.max() for row in rows) > 990
        assert any(np.isneginf(row).any() for row in rows)
        laws = [target_law(row.astype(np.float32)).probs for row in rows]
        assert any(p[0] > 0.01 and p[-1] > 0.01 for p in laws)
        assert any(p.max() > 0.4 and (p > 0).sum() > 2 for p in laws)

    def test_only_the_main_row_has_wishes(self):
        assert [bool(asked.wished) for asked in self.ASKED] == [True, *[False] * (len(self.ASKED) - 1)]

    def test_the_vocabulary_is_the_users(self):
        asked = asked_in(LM, {}, Budget.SMOKE, 500)
        assert {len(a.target.logits) for a in asked} == {500}

    @pytest.mark.parametrize("vocab", [2, 3, 8])
    def test_small_vocabularies_can_be_asked_about(self, vocab):
        asked = planned(list(asked_in(LM, {}, Budget.SMOKE, vocab)))
        assert all(question.n > 0 for question in asked.questions)

    def test_the_users_targets_take_their_place(self):
        (asked,) = asked_of(MDM, ["zipf[vocab=10]"], {"unmask": 0.5}, Budget.SMOKE, None)
        assert asked.target.mask == 10
        assert asked.wished == {"unmask": 0.5}
        with pytest.raises(InputError, match="a step already"):
            asked_of(MDM, ["mdm_step[vocab=10]"], {}, Budget.SMOKE, None)
        with pytest.raises(InputError, match="says nothing"):
            asked_of(LM, [], {}, Budget.SMOKE, 1)

    def test_first_hitting_asks_for_places_too(self):
        names = [a.target.name for a in asked_in(parse_use("first-hitting"), {}, Budget.SMOKE)]
        assert "uniform[vocab=1024]" in names

    def test_cheap_questions_come_first_and_the_rest_is_shared(self):
        asked = [
            Asked(parse_target("zipf[vocab=100]"), {"temperature": 0.001}),
            Asked(parse_target("zipf[vocab=200]"), {}, least=64),
        ]
        found = planned(asked, 2**22).questions
        assert found[1].n == 64
        assert found[0].n * 100 == pytest.approx(2**22 - 64 * 200, rel=0.01)


class TestBudget:
    def test_words(self):
        assert parse_budget("ci") is Budget.CI
        assert parse_budget("20s") == Seconds(20.0)
        assert parse_budget("1.5m") == Seconds(90.0)
        assert parse_budget("3e9") == 3_000_000_000
        assert parse_budget(str(Seconds(600.0))) == Seconds(600.0)

    @pytest.mark.parametrize("text", ["", "fast", "0s", "-1m", "nan", "1e99s", "5", "1..5m", "10 m", "m"])
    def test_bad_words(self, text):
        with pytest.raises(InputError, match="--budget"):
            parse_budget(text)

    def test_defaults(self):
        assert default_budget(LM) is Budget.SMOKE
        assert default_budget(MDM) == STEP_VALUES > CAPS[Budget.SMOKE][0]

    def test_seconds_buy_what_the_slowest_target_allows(self):
        """A sampler that sleeps 10 ms a call: the values of the pilot's calls in three quarters of the
        time, to a factor of two on a busy machine."""

        class Slow(Drawing):
            def draw(self, stream, logits, n):
                time.sleep(0.01)
                self.size = n * logits.size
                return super().draw(stream, logits, n)

        slow = Slow(1.0)
        questions = planned(SMALL, 2**26).questions
        bought = affordable(slow, questions, 1000.0)
        assert bought <= 0.75 * 1000 / 0.01 * slow.size

    def test_time_that_is_up_leaves_the_draws_there_are(self):
        asked = planned(SMALL, 2**26)
        report = examine(Drawing(1.0), asked, 0, "", until=time.monotonic())
        n = {j.result.n for j in report.judged if j.test == "support"}
        assert 0 < min(n) < asked.questions[0].n
        assert report.outcome in (Outcome.INCONCLUSIVE, Outcome.PASS)
        assert report.needed or min(n) >= asked.questions[0].needed["unmask"]

    def test_lanes_work_at_once_and_errors_come_through(self):
        assert by_lane(lambda lane: lane * 10, 3) == [0, 10, 20]

        def fails(lane: int) -> int:
            raise InputError(f"lane {lane}", "none", "mend it")

        with pytest.raises(InputError, match="lane 0"):
            by_lane(fails, 2)

    def test_streams_are_the_same_in_any_number_of_lanes(self):
        asked = planned([Asked(parse_target("zipf[vocab=50]"), {}, least=4096)], 2**26)

        class Lanes(Caller):
            many = 1

            @property
            def lanes(self) -> int:
                return self.many

        def counted(lanes: int) -> list[float]:
            caller = Lanes.of("gumbel_max_fp64")
            caller.__class__ = Lanes
            caller.many = lanes
            return [j.result.statistic for j in examine(caller, asked, 3, "").judged]

        assert counted(1) == counted(2)


class TestHarm:
    def law_of(self, log_probs: np.ndarray, error: float = 0.0, kind: Guarantee = Guarantee.EXACT) -> Law:
        return Law(log_probs, "test", error, kind)

    def test_next_tokens(self):
        (use, target), _ = rows_of(LM, 50)
        right = harm_of(target_law(target.logits.astype(np.float32)), use, target)
        assert (right.harmful, right.value) == (False, 0.0)
        assert right.sentence().startswith("fine for next tokens (tv <= ")
        flat = harm_of(self.law_of(np.full(50, -math.log(50.0))), use, target)
        assert flat.harmful
        assert flat.sentence().startswith("not for next tokens (tv <= ")

    def test_a_step(self):
        ((use, target),) = rows_of(MDM, 50)
        probs = target_law(target.logits).probs
        probs[:-1] *= 0.86
        probs[-1] = 1 - probs[:-1].sum()
        found = harm_of(self.law_of(np.log(probs)), use, target)
        assert found.value == pytest.approx(0.86, abs=1e-5)
        assert found.harmful
        assert "not for 4,096 ancestral steps (unmasks 0.86 of what it should" in found.sentence()

    def test_what_is_not_proved_harms_nobody(self):
        (use, target), _ = rows_of(LM, 50)
        guess = self.law_of(np.full(50, -math.log(50.0)), kind=Guarantee.HEURISTIC)
        assert not harm_of(guess, use, target).harmful
        unsure = self.law_of(np.full(50, -math.log(50.0)), error=1.0)
        assert not harm_of(unsure, use, target).harmful

    def test_a_law_that_harms_the_use_fails_it_and_the_other_only_is_told(self):
        harm = Harm(MDM, "a step", "unmasking multiplier", 0.7, 0.0, "exact", "enumeration")
        passing = examine(
            Caller.of("gumbel_max_fp64"), planned([Asked(parse_target("zipf[vocab=50]"), {}, least=64)]), 0, ""
        )
        judged = passing.judged
        assert passing.outcome is Outcome.PASS
        assert Report("s", judged, use=MDM, harms=(harm,)).outcome is Outcome.FAIL
        told = Report("s", judged, use=LM, harms=(harm,))
        assert told.outcome is Outcome.PASS
        assert "not for 4,096 ancestral steps (unmasks 0.7 of what it should on a step)" in told.headline()

    def test_draws_confirm_a_law_and_contradict_another(self):
        """Of a Zipf row and of a step, as many draws of each token as are expected: nothing is random."""
        for use, target in (
            rows_of(LM, 50)[0],
            (MDM, parse_target("mdm_step[vocab=50,exponent=0,unmask=0.05]")),
        ):
            law = target_law(target.logits.astype(np.float32))
            drawn = np.round(40_000 * law.probs).astype(np.int64)
            counts = Counts(drawn, int(drawn.sum()))
            own = harm_of(law, use, target).confirmed_by(counts, np.random.default_rng(1))
            assert not own.contradicted
            other = self.law_of(np.full(law.vocab, -math.log(law.vocab)))
            wrong = harm_of(other, use, target).confirmed_by(counts, np.random.default_rng(1))
            assert wrong.contradicted
            assert not wrong.harmful
            assert "contradict" in wrong.sentence()
