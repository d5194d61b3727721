"""``check --speculative``: right rules pass, each planted fault fails by its test, answers no trial can
give are named."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import speculators as functions
from judging import statistical
from scipy import stats

from precision_lab import __main__ as command_line
from precision_lab.errors import InputError
from precision_lab.formats import BF16, FP16
from precision_lab.laws.acceptance import (
    AcceptanceRule,
    acceptance_law,
    expected_accepted,
    match_rate,
    overlap,
)
from precision_lab.laws.law import target_law
from precision_lab.statistics import agreement, cells_test, detectable_cells, tail_test
from precision_lab.types import Budget
from precision_lab.verdict import speculative
from precision_lab.verdict.caller import Misbehaved
from precision_lab.verdict.report import Outcome
from precision_lab.verdict.speculative import (
    FEWEST,
    ROUNDING,
    TOKENS,
    asked_of_tv,
    call,
    check_speculative,
    classes,
    context_test,
    drafted_test,
    examine_speculative,
    pairs,
    plan_speculative,
    recovery_test,
)
from precision_lab.verdict.speculator import SpeculativeCaller, SpeculativeChild

RATE = 1e-8  # of every test here
PAIRS = {pair.name: pair for pair in pairs()}
FLAT, PEAKED, SHUNNED = (
    "flat draft, peaked target",
    "peaked draft, flat target",
    "draft likes what the target shuns",
)


def verdict(name, promise="ratio", asked=None, tv=0.05):
    caller = SpeculativeCaller.of(getattr(functions, name))
    chosen = tuple(PAIRS.values()) if asked is None else tuple(PAIRS[pair] for pair in asked)
    return examine_speculative(
        caller, plan_speculative(chosen, promise, caller.handed, tv=tv, false_fail=RATE), 0
    )


def failing(report):
    return {judged.test for judged in report.judged if judged.outcome is Outcome.FAIL}


class TestRightOnes:
    @statistical(false_fail=RATE)
    @pytest.mark.parametrize(
        ("name", "promise"),
        [
            ("standard", "ratio"),
            ("standard_float32", "ratio"),
            ("drafting", "ratio"),
            ("numpy_rule", "ratio"),
            ("exact_match", "match"),
            ("taken_for_certain", "match"),
            ("block_verification", "any"),
        ],
    )
    def test_pass_on_every_pair(self, name, promise):
        """False-fail 1e-8 over seeds. float32's 24-bit u move rates by 2^-24 at most, and its softmax by
        1e-6."""
        report = verdict(name, promise)
        assert report.outcome is Outcome.PASS, report.text()
        assert {judged.target.split(", position")[0] for judged in report.judged} == set(PAIRS)
        assert all(judged.result.detectable <= 0.05 for judged in report.judged if judged.wished is not None)
        assert sum(judged.wished is not None for judged in report.judged) == len(PAIRS)

    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("name", ["exact_match", "standard"])
    def test_any_rule_is_judged_by_its_tokens(self, name):
        report = verdict(name, "any", [FLAT, PEAKED])
        assert report.outcome is Outcome.PASS, report.text()
        assert {judged.test for judged in report.judged} == TOKENS

    @statistical(false_fail=2 * RATE)
    def test_equality_of_draws_from_one_noise_is_right_and_accepts_more(self):
        """False-fail 1e-8 for the verdict and for the rate: acceptance is that of the coupling."""
        report = verdict("exact_match_of_one_noise", "any", [FLAT])
        assert report.outcome is Outcome.PASS, report.text()
        pair = PAIRS[FLAT]
        trials = call(functions.exact_match_of_one_noise, FLAT, n=50_000, seed=1)
        shared = agreement(pair.q(0), pair.p(0))[1]
        assert tail_test(int((trials[:, -1] > 0).sum()), 50_000, shared, false_fail=RATE).p_value > RATE
        assert shared > 4 * match_rate(pair.p(0).probs, pair.q(0).probs)

    def test_a_rule_that_looks_ahead_fails_what_holds_for_others(self):
        """Given that a place was reached, block verification accepts more than sum min(p, q): by 14 to 21
        sigma."""
        assert "acceptance" in failing(verdict("block_verification", "ratio", [FLAT, PEAKED]))


class TestPlantedFaults:
    @pytest.mark.parametrize(
        ("name", "asked", "tests"),
        [
            ("residual_is_the_target", [FLAT], {"marginal", "replaced"}),
            ("ratio_upside_down", [FLAT], {"marginal", "acceptance", "kept"}),
            ("accepts_all", [PEAKED], {"marginal", "acceptance", "kept"}),
            ("residual_upside_down", [PEAKED], {"marginal", "replaced"}),
            ("residual_not_normalised", [FLAT], {"marginal", "replaced"}),
            ("one_row_too_far", ["equal rows"], {"marginal", "acceptance"}),
            ("half_precision", [SHUNNED], {"acceptance", "drafted"}),
            ("half_precision_drafting", [SHUNNED], {"acceptance"}),
            ("one_uniform_for_both", [FLAT], {"marginal", "replaced", "recovery"}),
            ("draft_uniform_reused", [FLAT], {"marginal", "acceptance"}),
            ("noise_of_the_draft", [FLAT], {"marginal", "replaced"}),
            ("trials_in_pairs", [FLAT], {"serial"}),
        ],
    )
    def test_fail_by_their_tests(self, name, asked, tests):
        """Each is off by far more than its test sees: p below 1e-9 after correction on 300,000 trials or
        more."""
        report = verdict(name, "ratio", asked, tv=0.02)
        assert report.exit_code == 1
        assert tests <= failing(report), report.text()
        assert report.headline().startswith(f"FAIL: {name} ")

    def test_drafts_of_bfloat16_logits(self):
        """Off by 0.0079 in a rate of 0.33: nine sigma at 289,000 trials; their law says so."""
        report = verdict("drafts_in_bfloat16", "ratio", [PEAKED], tv=0.02)
        assert "acceptance" in failing(report)
        pair = PAIRS[PEAKED]
        drawn = target_law(BF16.round(pair.draft[0].astype(np.float64))).probs
        law = acceptance_law(pair.p(0).probs, pair.q(0).probs, AcceptanceRule(), drawn=drawn)
        found = next(j.result.estimate for j in report.judged if j.test == "acceptance")
        assert found.low <= law.rate <= found.high
        assert abs(law.rate - law.overlap) > 0.005

    def test_half_precision_accepts_as_its_law_says(self):
        report = verdict("half_precision", "ratio", [SHUNNED])
        pair = PAIRS[SHUNNED]
        law = acceptance_law(pair.p(0).probs, pair.q(0).probs, AcceptanceRule("u < p / q", 11, FP16))
        found = next(j.result.estimate for j in report.judged if j.test == "acceptance")
        assert found.low <= law.rate <= found.high
        assert law.rate > 5 * law.overlap

    @pytest.mark.parametrize("promise", ["match", "any"])
    def test_one_noise_for_all_places(self, promise):
        """The token at a place then knows the one before it: the exact match is right only with noise of
        each own."""
        report = verdict("same_noise_at_every_place", promise, ["equal rows", PEAKED])
        assert "context" in failing(report)

    def test_an_exact_match_keeps_the_tokens_and_loses_acceptance(self):
        report = verdict("exact_match", "ratio", [PEAKED, "rough rows of 256"])
        assert "acceptance" in failing(report)
        assert not failing(report) & TOKENS
        said = report.headline()
        assert "emits the target's tokens as far as seen, but does not accept by the rule" in said
        assert "these are the shares of equality with the target's own draw: only acceptance is lost" in said

    def test_accepting_none_keeps_the_tokens(self):
        report = verdict("accepts_none", "ratio", [PEAKED, "equal rows"])
        assert "acceptance" in failing(report)
        assert not failing(report) & TOKENS
        assert "these are the shares of neither" in report.headline()

    def test_accepting_all_is_seen_by_tokens_alone(self):
        assert failing(verdict("accepts_all", "any", [PEAKED, "disjoint rows"])) >= {"marginal"}

    def test_a_token_of_probability_zero_is_certain(self):
        """Every kept draft of disjoint rows is one."""
        report = verdict("accepts_all", "ratio", ["disjoint rows"])
        first = next(j for j in report.judged if j.test == "marginal")
        assert first.result.p_value < 1e-10


class TestMisbehaviour:
    @pytest.mark.parametrize(
        ("name", "what", "detail"),
        [
            ("too_many", "returns more than it may", "4 places for 2 drafts and one token more"),
            ("goes_on_after_a_rejection", "returns more than it may", "instead of -1 after the last token"),
            ("counts_the_bonus", "accepts more than was drafted", "accepts 3 of 2 drafts"),
            ("counts_one_more", "accepted does not match ids", "has -1 at place"),
            ("without_bonus", "accepted does not match ids", "accepts 2 and has -1 at place 2"),
            ("other_drafts", "accepts what was not drafted", "drafted was"),
            ("floats", "wrong dtype", "ids: float64 instead of integers"),
            ("ids_alone", "wrong answer", "Tensor instead of (ids, accepted)"),
            ("ignores_the_generator", "ignores its generator", "two calls with seed"),
            ("one_answer", "ignores its generator", "give the same 64 trials"),
            ("global_noise", "uses the global random state", "global generator"),
            ("in_place", "changes its arguments in place", "target_logits"),
            ("raises", "raises", "RuntimeError: no kernel image"),
        ],
    )
    def test_is_a_verdict(self, name, what, detail):
        report = verdict(name, "ratio", ["nearly equal rows"])
        assert report.exit_code == 1
        assert report.fault is not None
        assert report.fault.what == what
        assert detail in report.fault.detail

    def test_the_call_shows_it(self, tmp_path):
        """The call is run as printed, and raises the same fault."""
        source = Path(functions.__file__)
        report = examine_speculative(
            SpeculativeCaller.of(f"{source}:goes_on_after_a_rejection"),
            plan_speculative((PAIRS["nearly equal rows"],), "ratio", True, tv=0.5),
            0,
        )
        with pytest.raises(Exception, match=re.escape(report.fault.detail.split(": ", 1)[1])):
            exec(report.fault.call, {})

    @pytest.mark.parametrize(
        ("function", "said"),
        [
            (functions.without_source, "generator"),
            (functions.without_n, "fn(draft_logits, target_logits, n"),
            ("gumbel_max_fp64", "fn(draft_logits"),
        ],
    )
    def test_what_is_no_speculative_function(self, function, said):
        with pytest.raises(InputError, match=re.escape(said)):
            SpeculativeCaller.of(function)


class TestPlan:
    def test_levels_share_the_false_fail_rate(self):
        design = plan_speculative(tuple(PAIRS.values()), "ratio", True)
        assert design.level == pytest.approx(1e-6 / len(design.tests))
        assert len(set(design.tests)) == len(design.tests)
        assert design.n >= max(design.needed.values())

    def test_too_few_trials_are_inconclusive(self):
        caller = SpeculativeCaller.of(functions.standard)
        design = plan_speculative((PAIRS[FLAT],), "ratio", True, tv=0.01)
        report = examine_speculative(caller, design, 0)
        assert report.outcome is Outcome.INCONCLUSIVE
        assert f"{FLAT} {design.needed[FLAT]:,}" in report.headline()

    def test_degenerate_laws_are_not_asked(self):
        """Equal rows reject nothing, disjoint rows accept nothing: no law of what never happens."""
        design = plan_speculative(tuple(PAIRS.values()), "ratio", True)
        asked = {(pair, test) for pair, _, test in design.tests}
        assert ("equal rows", "acceptance") in asked
        assert ("equal rows", "replaced") not in asked
        assert ("disjoint rows", "kept") not in asked
        assert ("disjoint rows", "replaced") in asked

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: plan_speculative(pairs(), "exact", True), "exact"),
            (lambda: plan_speculative(pairs(), "ratio", True, tv=0), "tv = 0"),
            (lambda: plan_speculative(pairs(), "ratio", True, false_fail=1), "false_fail = 1"),
            (lambda: pairs(8), "vocab = 8"),
            (lambda: pairs(16, 0), "gamma = 0"),
            (lambda: asked_of_tv("temperature=0.02"), "--detect temperature=0.02"),
            (lambda: asked_of_tv(["tv=x"]), "--detect tv=x"),
            (lambda: call(functions.standard, "no such pair", n=1, seed=0), "no such pair"),
        ],
    )
    def test_bad_input(self, make, said):
        with pytest.raises(InputError, match=re.escape(said)):
            make()

    def test_pairs_are_what_they_are_called(self):
        rates = {name: overlap(pair.p(0).probs, pair.q(0).probs) for name, pair in PAIRS.items()}
        assert rates["equal rows"] == pytest.approx(1, abs=1e-12)
        assert rates["disjoint rows"] == 0
        assert 0.99 < rates["nearly equal rows"] < 0.999
        assert rates[SHUNNED] < 1e-3
        masks = PAIRS["masks on either side"]
        for logits in (masks.draft, masks.target):
            assert np.isneginf(logits).sum(axis=1).tolist() == [4] * len(logits)
        for pair in PAIRS.values():
            assert len(pair.target) == len(pair.draft) + 1 == 4
            assert not np.array_equal(pair.p(0).probs, pair.p(1).probs) or pair.name == PEAKED
        assert match_rate(masks.p(0).probs, masks.q(0).probs) < rates["masks on either side"]


class TestPage:
    def test_its_numbers_are_computed(self):
        """Every row of the module's table, to the digits it prints."""
        rows = [line.split(" | ") for line in (speculative.__doc__ or "").splitlines() if line.count("|") == 8]
        assert len(rows) == 2 + 6
        for row in rows[2:]:
            name, *numbers = [cell.strip("| ") for cell in row]
            pair = PAIRS[name]
            laws = [(pair.p(j), pair.q(j)) for j in range(pair.gamma)]
            rates = [
                [overlap(p.probs, q.probs) for p, q in laws],
                [agreement(q, p)[1] for p, q in laws],
                [match_rate(p.probs, q.probs) for p, q in laws],
            ]
            due = [each[0] for each in rates] + [expected_accepted(each) for each in rates]
            assert numbers == [f"{value:.3g}" for value in due]
            assert rates[2][0] <= rates[1][0] <= rates[0][0]


class TestNulls:
    """The tests of tables, on trials drawn by the law itself."""

    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("promise", ["ratio", "match"])
    def test_recovery_and_drafted_hold_for_the_rule(self, promise):
        """p-values of 100 simulated right samplers at 0.02: binomial, false fail 1e-8 over the seed."""
        pair = PAIRS["masks on either side"]
        rng = np.random.default_rng(0)
        runs = 100
        n = 800
        p, q = pair.p(0).probs, pair.q(0).probs
        kept, lost = pair.split(0, promise)
        rates = {"false_fail": 0.02, "false_pass": 0.1}
        failed = np.zeros(3, dtype=int)
        for _ in range(runs):
            drafted = rng.choice(16, size=n, p=q / q.sum())
            accepted = rng.random(n) * q[drafted] < kept[drafted]
            out = drafted[~accepted]
            weights = np.tile(lost / lost.sum(), (len(out), 1))
            if promise == "match":
                weights = np.tile(p, (len(out), 1))
                weights[np.arange(len(out)), out] = 0
                weights /= weights.sum(1, keepdims=True)
            replaced = (weights.cumsum(1) > rng.random(len(out))[:, None]).argmax(1)
            before = rng.choice(16, size=n, p=kept / kept.sum())
            tokens = rng.choice(16, size=n, p=p / p.sum())
            found = (
                drafted_test(drafted, accepted, kept, q, **rates),
                recovery_test(out, replaced, pair, 0, promise, **rates),
                context_test(before, tokens, pair.p(0), pair.p(0), **rates),
            )
            failed += [result.failed for result in found]
        most = stats.binom.isf(RATE / 3, runs, 0.02)
        assert (failed <= most).all(), failed

    @pytest.mark.slow
    @statistical(false_fail=3 * RATE)
    @pytest.mark.parametrize(
        ("name", "promise"), [("standard", "ratio"), ("exact_match", "match"), ("block_verification", "any")]
    )
    def test_a_right_function_fails_as_often_as_stated(self, name, promise, monkeypatch):
        """60 verdicts at false_fail = 0.05 on few trials: binomial, false fail 1e-8 over seeds."""
        monkeypatch.setattr(SpeculativeCaller, "probe", lambda self, seed: None)
        caller, asked = (
            SpeculativeCaller.of(getattr(functions, name)),
            (PAIRS[FLAT], PAIRS["masks on either side"]),
        )
        design = plan_speculative(asked, promise, caller.handed, tv=0.9, false_fail=0.05)
        design = dataclasses.replace(design, n=2048)
        failed = [examine_speculative(caller, design, seed).outcome is Outcome.FAIL for seed in range(60)]
        assert sum(failed) <= stats.binom.isf(RATE, 60, 0.05), sum(failed)

    def test_classes_have_about_equal_mass(self):
        mass = np.full(16, 1 / 16)
        assert classes(mass).tolist() == sorted([0, 1, 2, 3] * 4)
        assert np.bincount(classes(np.array([0.97, 0.01, 0.01, 0.01]))).sum() == 4


class TestCells:
    @pytest.mark.parametrize(("hits", "n", "rate"), [(7, 20, 0.2), (0, 30, 0.3), (30, 30, 0.999)])
    def test_one_cell_is_the_binomial_test(self, hits, n, rate):
        found = cells_test([hits], [n], [rate], false_fail=0.01, false_pass=0.1)
        tails = stats.binom.cdf(hits, n, rate), stats.binom.sf(hits - 1, n, rate)
        assert found.p_value == pytest.approx(min(1, 2 * min(tails)), rel=1e-12)

    def test_rates_of_zero_and_one(self):
        assert cells_test([0, 50], [50, 50], [0.0, 1.0]).p_value == 1
        assert cells_test([1, 50], [50, 50], [0.0, 1.0]).p_value == 0
        allowed = cells_test([1], [50], [0.0], rate_error=1e-3)
        assert allowed.p_value == pytest.approx(2 * stats.binom.sf(0, 50, 1e-3))

    def test_empty_cells_cost_no_level(self):
        assert cells_test([5, 0], [10, 0], [0.5, 0.1]).p_value == cells_test([5], [10], [0.5]).p_value

    def test_the_worst_cell_is_named_and_paid_for(self):
        found = cells_test([50, 90], [100, 100], [0.5, 0.5])
        assert found.estimate.value == 0.9
        assert found.expected == 0.5
        assert found.p_value == pytest.approx(2 * 2 * stats.binom.sf(89, 100, 0.5))

    @pytest.mark.parametrize("side", [-1, 1])
    def test_what_is_seen_is_seen_as_often_as_stated(self, side):
        """Exact power of the cell that sees most, at the deviation stated."""
        trials, rates = np.array([400, 50]), np.array([0.3, 0.3])
        d = detectable_cells(trials, rates, 0.01, 0.05)
        hits = np.arange(401)
        fails = [cells_test([k, 15], trials, rates, false_fail=0.01).failed for k in hits]
        power = stats.binom.pmf(hits, 400, 0.3 + side * d)[fails].sum()
        assert power >= 0.95
        assert min(stats.binom.pmf(hits, 400, 0.3 + s * d * 0.9)[fails].sum() for s in (-1, 1)) < 0.95

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            (([1], [2, 3], [0.5]), "shapes"),
            (([3], [2], [0.5]), "hits"),
            (([1], [2], [1.5]), "rates"),
            (([0], [0], [0.5]), "no trials"),
        ],
    )
    def test_bad_input(self, arrays, said):
        with pytest.raises(InputError, match=said):
            cells_test(*arrays)


def write(tmp_path, name):
    path = tmp_path / "accept.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(Path(functions.__file__).parent)!r})\n")
    path.write_text(path.read_text() + f"from speculators import {name}\n")
    return f"{path}:{name}"


class TestCommandLine:
    def run(self, capsys, *words):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["precision-lab", "check", *words])
            with pytest.raises(SystemExit) as end:
                command_line.main()
        return end.value.code, capsys.readouterr().out

    @statistical(false_fail=RATE)
    def test_a_right_function_in_a_process_of_its_own(self, capsys, tmp_path):
        """False-fail 1e-8, as asked."""
        words = ["--speculative", write(tmp_path, "drafting"), "--detect", "tv=0.1", "-f", "json"]
        words += ["--false-fail", "1e-8"]
        code, out = self.run(capsys, *words)
        report = json.loads(out)
        assert (code, report["verdict"], report["promise"]) == (0, "pass", "ratio")
        assert "--accept ratio" in report["command"]
        assert report["trials"] > FEWEST
        assert report["acceptance"].endswith("these are the shares of the ratio rule")

    def test_a_wrong_one(self, capsys, tmp_path):
        code, out = self.run(capsys, "--speculative", write(tmp_path, "accepts_none"), "--detect", "tv=0.2")
        assert code == 1
        assert "emits the target's tokens as far as seen, but does not accept by the rule" in out

    @pytest.mark.parametrize(
        "words",
        [
            ["--speculative", "FILE", "--targets", "zipf"],
            ["--speculative", "FILE", "--detect", "temperature=0.1"],
            ["--speculative", "FILE", "--vocab", "3"],
            ["--accept", "any", "FILE"],
            ["--speculative", "gumbel_max_fp64"],
        ],
    )
    def test_usage_errors(self, capsys, tmp_path, words):
        spec = write(tmp_path, "standard")
        assert self.run(capsys, *[spec if word == "FILE" else word for word in words])[0] == 2

    def test_the_call_of_a_child_shows_it(self, tmp_path):
        """Faults come back over the border, and the call that is shown raises the same one here."""
        report = check_speculative(write(tmp_path, "goes_on_after_a_rejection"), tv=0.5)
        assert report.fault.what == "returns more than it may"
        with pytest.raises(Exception, match=re.escape(report.fault.detail.split(": ", 1)[1])):
            exec(report.fault.call, {})

    def test_what_comes_back_is_looked_at_again(self, monkeypatch):
        """An answer of the right form that no trial can give, from a process that does not check it."""
        child = SpeculativeChild.__new__(SpeculativeChild)
        answer = np.array([[5, 5, 0]])
        monkeypatch.setattr(SpeculativeChild, "ask", lambda self, *arguments, **options: answer)
        logits = np.zeros((2, 8), dtype=np.float32)
        with pytest.raises(Misbehaved, match="returns more than it may"):
            child.speculate(0, logits[:1], logits, 1)

    def test_a_function_that_ends_the_process(self, tmp_path):
        path = tmp_path / "ends.py"
        path.write_text(
            textwrap.dedent(
                """
                import os
                def fn(draft_logits, target_logits, n, *, generator):
                    os._exit(3)
                """
            )
        )
        report = check_speculative(f"{path}:fn", budget=Budget.SMOKE)
        assert report.exit_code == 1
        assert report.fault.what == "ends the process"


def test_rounding_is_below_what_is_seen():
    """The tolerance on rates is a hundredth of the least deviation that a full budget sees."""
    assert detectable_cells([2**23], [0.5], 1e-8, 1e-3) > 100 * ROUNDING
    assert math.isfinite(detectable_cells([2**19], [1.0], 1e-8, 1e-3, ROUNDING))
