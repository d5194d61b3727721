"""``check``: known wrong samplers fail, faithful ones pass, too few draws are inconclusive, misbehaviour is
a verdict."""

from __future__ import annotations

import json
import math
import sys
import textwrap

import numpy as np
import pytest
import torch
from judging import statistical
from scipy import stats

from precision_lab import __main__ as command_line
from precision_lab.errors import InputError
from precision_lab.laws.law import target_law
from precision_lab.samplers import SAMPLERS
from precision_lab.statistics import (
    Counts,
    SamplerRejected,
    assert_blocked_identity,
    blocked_identity_test,
    detectable_blocked_identity,
    draws_needed_blocked_identity,
    lattice_law,
    likelihood_ratio_test,
    tempered_law,
)
from precision_lab.targets import Target, parse_target
from precision_lab.types import Budget
from precision_lab.verdict.batches import TESTS as BATCH_TESTS
from precision_lab.verdict.caller import Caller, Misbehaved, ramp
from precision_lab.verdict.check import check, examine, targets_of
from precision_lab.verdict.child import Child
from precision_lab.verdict.lattice import detectable_lattice, lattice_bet, lattice_draws
from precision_lab.verdict.misbehaviour import probe
from precision_lab.verdict.plan import (
    CAPS,
    UNIT,
    Plan,
    ask,
    parse_detect,
    plan,
)
from precision_lab.verdict.report import Outcome
from precision_lab.verdict.suspects import FAITHFUL, LAST, MISSING, SHARED, pairs_of, suspects

RATE = 1e-8  # of every test here


def design(*specs: str, detect: str = "temperature=0.02", budget: Budget = Budget.SMOKE) -> Plan:
    targets = [parse_target(spec) for spec in specs]
    return plan(targets, parse_detect(detect), budget=budget, false_fail=RATE, false_pass=1e-3)


ZIPF = design("zipf[vocab=300]")


def verdict(sampler, asked: Plan = ZIPF):
    return examine(Caller.of(sampler), asked, 0, "")


def faithful(logits, n, *, generator):
    return torch.multinomial(torch.softmax(logits.double(), -1), n, replacement=True, generator=generator).T


def cold(logits, n, *, generator):
    return faithful(logits / 0.95, n, generator=generator)


def shared_noise(logits, n, *, generator):
    u = torch.rand(n, 1, logits.shape[-1], generator=generator, dtype=torch.float64)
    return (logits - torch.log(-torch.log(u))).argmax(-1)


def shared_by_equal_rows(logits, n, *, generator):
    """Rows that differ have noise of their own."""
    equal = bool((logits == logits[:1]).all())
    return (shared_noise if equal else faithful)(logits, n, generator=generator)


def few_states(logits, n, *, generator):
    state = int(torch.randint(0, 500, (1,), generator=generator))
    return faithful(logits, n, generator=torch.Generator().manual_seed(state))


def pairs(logits, n, *, generator):
    """Every draw is made twice."""
    return faithful(logits, (n + 1) // 2, generator=generator).repeat_interleave(2, dim=0)[:n]


def numpy_choice(logits, n, *, rng):
    p = np.exp(logits.astype(np.float64))
    return np.stack([rng.choice(len(row), size=n, p=row / row.sum()) for row in p], axis=1)


class TestVerdicts:
    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("sampler", [faithful, numpy_choice], ids=lambda f: f.__name__)
    def test_faithful_ones_pass(self, sampler):
        """False-fail 1e-8 over seeds; sees |T - 1| = 0.02 with 1 - 1e-3."""
        report = verdict(sampler)
        assert report.outcome is Outcome.PASS, report.text()
        assert report.exit_code == 0
        assert {j.test for j in report.judged} == {*ZIPF.questions[0].tests, *BATCH_TESTS}
        assert all(j.result.detectable <= j.wished for j in report.judged if j.wished is not None)

    @statistical(false_fail=RATE)
    def test_float64_gumbel_max_passes_on_two_targets_with_ties(self):
        asked = design("zipf[vocab=300]", "head_and_tail[gap=4,tail_mass=1]")
        report = verdict("gumbel_max_fp64", asked)
        assert report.outcome is Outcome.PASS, report.text()
        assert len(report.judged) == 9 + 10 + 2
        assert asked.level == pytest.approx(RATE / 21)

    @pytest.mark.parametrize(
        ("sampler", "test", "recipe"),
        [
            ("gumbel_max_bf16", "tail", "bfloat16 noise, Gumbel-max"),
            ("gumbel_max_fp16", "tail", "float16 noise, Gumbel-max"),
            ("inverse_cdf_fp16", "identity", "float16 cumulative sum absorbs"),
            (cold, "temperature", "temperature wrong"),
            (shared_by_equal_rows, "rows", SHARED),
            (few_states, "repeats", FAITHFUL),
            (pairs, "serial", SHARED),
        ],
        ids=lambda value: getattr(value, "__name__", value),
    )
    def test_wrong_ones_fail_and_their_recipe_is_named(self, sampler, test, recipe):
        """Each is off by far more than its test sees: exact powers over 1 - 1e-6."""
        asked = design("zipf[vocab=5000]", detect="sharing=1") if str(sampler).endswith("16") else ZIPF
        report = verdict(sampler, asked)
        assert report.exit_code == 1
        assert test in {j.test for j in report.judged if j.outcome is Outcome.FAIL}
        assert report.suspects[0].recipe.startswith(recipe.split()[0]) or recipe == FAITHFUL
        if recipe == FAITHFUL:  # every marginal is right
            assert report.suspects[0].log_likelihood < 5
            assert "no listed recipe explains" in report.best_fit()
        elif recipe == SHARED:
            assert "suppose independent draws" in report.best_fit()
        else:
            kin = recipe.split()[0]  # a precision: JAX's bfloat16 noise is nearly the textbook's
            assert sum(s.posterior for s in report.suspects if s.recipe.startswith(kin)) > 0.95
        assert "FAIL" in report.text()

    def test_the_fitted_temperature_is_read(self):
        """Off by five half-widths of the 95 % interval with a chance of 1e-22 or so."""
        words = verdict(cold).suspects[0].how.split()
        assert abs(float(words[2]) - 0.95) < 5 * float(words[4])

    def test_what_a_wrong_law_does_to_tests_of_independence_is_said(self):
        """They compare pairs with the target's own law; a shared vector of noise alone gets no such excuse
        (control)."""
        report = verdict(cold)
        failed = {j.test for j in report.judged if j.outcome == "fail"}
        assert ({"rows", "serial", "streams"} & failed != set()) is (
            "suppose the target's law" in report.best_fit()
        )
        alone = verdict(pairs)
        assert "serial" in {j.test for j in alone.judged if j.outcome == "fail"}
        assert "suppose the target's law" not in alone.best_fit()
        assert "suppose independent draws" in alone.best_fit()
        assert "identity and support suppose" not in report.best_fit()

    def test_noise_shared_by_rows_that_differ_is_told_before_the_draws(self):
        """Of 2,016 pairs of rows each would have to agree by chance: 2^-64 and less."""
        report = verdict(shared_noise)
        assert (report.outcome, report.fault.what) == (Outcome.FAIL, "same noise for all rows")

    def test_a_law_that_no_recipe_explains_is_said(self):
        def flatter_head(logits, n, *, generator):
            bent = logits.clone()
            bent[:, :10] = logits[:, :10].mean(1, keepdim=True)
            return faithful(bent if bent.isfinite().all() else logits, n, generator=generator)

        report = verdict(flatter_head)
        assert report.exit_code == 1
        assert "no listed recipe explains" in report.best_fit()

    @pytest.mark.parametrize("value", [-1e9, -1e4, -60.0])
    def test_a_masked_token_that_slips_through_is_named(self, value):
        """1 in 300 draws: the mask is a large negative number, not -inf. The chance that none slips is
        below e^-100."""
        row = np.where(np.arange(300) < 200, -np.log(np.arange(1.0, 301)), value)

        def leaky(logits, n, *, generator):
            drawn = faithful(logits, n, generator=generator)
            slip = torch.rand(drawn.shape, generator=generator) < 1 / 300
            return torch.where(slip & (logits.shape[-1] == 300), 250, drawn)

        asked = plan(
            [Target("masked", row, "")], parse_detect(""), budget=Budget.SMOKE, false_fail=RATE, false_pass=1e-3
        )
        report = verdict(leaky, asked)
        assert report.exit_code == 1
        assert report.impossible[0].token == 250
        assert f"token 250 ({report.impossible[0].count:,} draws" in report.headline()
        assert "best fit: faithful" not in report.text()

    def test_a_missing_token_is_named(self):
        """Counts by hand: one likely token never drawn, or the last one."""
        for token, recipe in ((7, MISSING), (299, LAST)):
            p = ZIPF.questions[0].law.probs
            counts = np.round(1e5 * p).astype(np.int64)
            due = counts[token]
            counts[token] = 0
            best = suspects(ZIPF.questions, [Counts(counts, int(counts.sum()))])[0]
            assert best.recipe == recipe
            assert best.how.startswith(f"token {token}, expected ")
            assert abs(float(best.how.split()[3].replace(",", "")) - due) < 0.02 * due + 1
            assert np.isneginf(best.law_at(ZIPF.questions[0]).log_probs[token])

    def test_pairs_are_counted(self):
        tokens = np.zeros((2, 4, 3), dtype=int)
        tokens[:, 1::2] = 1
        assert [(p.pairs, p.agreed) for p in pairs_of(tokens)] == [(8, 8), (12, 0), (12, 12)]

    def test_too_few_draws_are_inconclusive_and_say_how_many(self):
        asked = design("zipf[vocab=300]", detect="temperature=0.0001")
        few = Plan(
            tuple(q.planned(q.needed, 64 * UNIT, 4) for q in asked.questions),
            asked.wished,
            1e-6,
            1e-3,
            asked.level,
        )
        report = verdict(faithful, few)
        assert (report.outcome, report.exit_code) == (Outcome.INCONCLUSIVE, 3)
        assert report.needed == {"zipf[vocab=300]": asked.questions[0].needed["temperature"]}
        assert f"{report.needed['zipf[vocab=300]']:,}" in report.headline()
        assert verdict("gumbel_max_bf16", few).exit_code == 1  # few draws fail what is far off

    def test_the_same_seed_gives_the_same_numbers(self):
        first, second = verdict(faithful).json(), verdict(faithful).json()
        assert first == second

    def test_the_float64_word_and_faithful_cannot_be_told_apart_at_this_n(self):
        counts = Counts(np.bincount([0, 1, 2] * 50, minlength=300).astype(np.int64), 150)
        found = suspects(ZIPF.questions, [counts])
        assert FAITHFUL in {s.recipe for s in found}
        assert sum(s.posterior for s in found) == pytest.approx(1)


class TestPlan:
    def test_the_levels_sum_to_the_declared_one(self):
        asked = design("zipf[vocab=300]", "normal[vocab=200]", "uniform[vocab=8]", detect="tv=0.2")
        tests = sum(len(q.tests) for q in asked.questions)
        assert asked.level * (tests + len(BATCH_TESTS)) == pytest.approx(RATE)
        assert "temperature" not in asked.questions[2].tests
        assert "ties" in asked.questions[2].tests

    @pytest.mark.parametrize("detect", ["temperature=0.1", "tail=0.3", "tv=0.2", "sharing=0.2"])
    def test_the_draws_suffice_for_what_is_wished(self, detect):
        name, size = detect.split("=")
        question = design("normal[vocab=400,sd=2]", detect=detect).questions[0]
        assert question.needed[name] % UNIT == 0
        smaller = design("normal[vocab=400,sd=2]", detect=f"{name}={float(size) / 2}").questions[0]
        assert 2 < smaller.needed[name] / question.needed[name] < 6  # about 4: n falls with the square

    def test_the_budget_caps_the_draws(self):
        question = design("zipf[vocab=50257]", detect="temperature=0.001").questions[0]
        values, _ = CAPS[Budget.SMOKE]
        assert question.n <= values / 50257 < question.needed["temperature"]

    @pytest.mark.parametrize(
        ("detect", "says"),
        [
            ("temp=1", "did you mean temperature"),
            ("tv=2", "tv=2"),
            ("tail=x", "tail=x"),
            ("float32=0.3", "float32= one of"),
            ("temperature=-1", "temperature=-1"),
        ],
    )
    def test_bad_effects(self, detect, says):
        with pytest.raises(InputError, match=says):
            parse_detect(detect)

    def test_bad_targets(self):
        with pytest.raises(InputError, match="twice"):
            targets_of(["zipf", "zipf"])

    def test_rows_of_a_capture(self):
        rows = targets_of(["models/mdm/logits.safetensors:3"])
        assert len(rows) == 1
        assert len(rows[0].logits) > 8000


class TestBlockedIdentity:
    LAW = target_law(np.log(np.arange(1.0, 41.0)))

    def blocks(self, law, n: int, seed: int) -> list[Counts]:
        rng = np.random.default_rng(seed)
        return [Counts(rng.multinomial(n, law.probs / law.probs.sum()).astype(np.int64), n) for _ in range(4)]

    @statistical(false_fail=RATE)
    def test_right_draws_pass(self):
        rng = np.random.default_rng(0)
        blocks = self.blocks(self.LAW, 2000, 1)
        assert not assert_blocked_identity(blocks, self.LAW, rng=rng, false_fail=RATE).failed

    def test_the_wished_distance_is_seen(self):
        """A distance of 0.15 at the planned n: 20 seeds, each missed with 1e-3 or less (asymptotic); none
        is."""
        far = tempered_law(self.LAW, 0.62)
        distance = 0.5 * np.abs(far.probs - self.LAW.probs).sum()
        n = draws_needed_blocked_identity(self.LAW, distance, 1e-6, 1e-3)
        assert detectable_blocked_identity(n, self.LAW, 1e-6, 1e-3) <= distance
        for seed in range(20):
            with pytest.raises(SamplerRejected):
                assert_blocked_identity(
                    self.blocks(far, n // 4, seed), self.LAW, rng=np.random.default_rng(seed), false_pass=1e-3
                )

    @pytest.mark.slow
    @statistical(false_fail=RATE)
    def test_p_values_are_uniform_or_larger(self):
        """How many of 500 are at or below 0.05: binomial, beyond its quantile but RATE often."""
        rng = np.random.default_rng(5)
        p = [
            blocked_identity_test(self.blocks(self.LAW, 200, s), self.LAW, rng=rng, false_fail=0.01).p_value
            for s in range(500)
        ]
        assert np.count_nonzero(np.array(p) <= 0.05) <= stats.binom.isf(RATE, 500, 0.05)

    def test_a_level_that_999_rows_cannot_reach(self):
        """1e-9 in all: every block gets as many rows as its level needs, and the wrong law still fails."""
        far = self.blocks(tempered_law(self.LAW, 0.5), 4000, 2)
        assert blocked_identity_test(far, self.LAW, rng=np.random.default_rng(0), false_fail=1e-10).failed
        with pytest.raises(InputError, match="resamples"):
            blocked_identity_test(far, self.LAW, rng=np.random.default_rng(0), false_fail=1e-10, resamples=99)

    def test_unequal_blocks(self):
        few, many = self.blocks(self.LAW, 10, 0)[0], self.blocks(self.LAW, 11, 0)[0]
        with pytest.raises(InputError, match="10, 11"):
            blocked_identity_test([few, many], self.LAW, rng=np.random.default_rng(0))


def misbehaviours() -> dict[str, tuple]:
    """name -> (function, what the verdict says)."""
    forever: list[torch.Tensor] = []

    def raises(logits, n, *, generator):
        raise IndexError("off by one")

    def wrong_shape(logits, n, *, generator):
        return faithful(logits, n, generator=generator).T

    def wrong_dtype(logits, n, *, generator):
        return faithful(logits, n, generator=generator).float()

    def a_list(logits, n, *, generator):
        return faithful(logits, n, generator=generator).tolist()

    def out_of_range(logits, n, *, generator):
        return faithful(logits, n, generator=generator) + logits.shape[-1]

    def own_seed(logits, n, *, generator):
        return faithful(logits, n, generator=torch.Generator().manual_seed(1))

    def own_entropy(logits, n, *, generator):
        fresh = torch.Generator()
        fresh.seed()
        return faithful(logits, n, generator=fresh)

    def not_advancing(logits, n, *, generator):
        return faithful(logits, n, generator=torch.Generator().manual_seed(generator.initial_seed()))

    def cached(logits, n, *, generator):
        if not forever:
            forever.append(faithful(logits, n, generator=generator))
        return forever[0]

    def global_state(logits, n, *, generator):
        return faithful(logits, n, generator=None)

    def numpy_global_state(logits, n, *, rng):
        return np.random.randint(1, 3, (n, len(logits)))  # noqa: NPY002

    def mutates(logits, n, *, generator):
        logits -= 1
        return faithful(logits, n, generator=generator)

    def draws_the_dead(logits, n, *, generator):
        return faithful(torch.where(torch.isinf(logits), -2.0, logits), n, generator=generator)

    return {
        "raises": (raises, "raises: IndexError: off by one"),
        "wrong_shape": (wrong_shape, "wrong shape"),
        "wrong_dtype": (wrong_dtype, "wrong dtype"),
        "a_list": (a_list, "wrong dtype: list"),
        "out_of_range": (out_of_range, "ids out of range"),
        "own_seed": (own_seed, "ignores its generator"),
        "own_entropy": (own_entropy, "ignores its generator"),
        "not_advancing": (not_advancing, "does not advance its generator"),
        "cached": (cached, "ignores its generator"),
        "global_state": (
            global_state,
            "uses the global random state: the call moves the global state of torch",
        ),
        "numpy_global_state": (numpy_global_state, "global state of numpy.random"),
        "mutates": (mutates, "changes its logits in place"),
        "draws_the_dead": (draws_the_dead, "draws a token of probability zero"),
    }


class TestMisbehaviour:
    @pytest.mark.parametrize("name", misbehaviours())
    def test_is_a_fail_with_the_call_that_shows_it(self, name):
        function, says = misbehaviours()[name]
        report = verdict(function)
        assert report.exit_code == 1
        assert says in report.headline()
        assert "resolve(" in report.fault.call
        assert report.rows()[0]["verdict"] == "fail"
        json.dumps(report.json())

    def test_the_shown_call_shows_it(self, tmp_path, monkeypatch):
        """Pasted, it raises what the verdict says."""
        (tmp_path / "bad.py").write_text(
            "def f(logits, n, *, generator):\n    raise IndexError('off by one')\n"
        )
        monkeypatch.chdir(tmp_path)
        report = verdict("bad.py:f")
        with pytest.raises(IndexError, match="off by one"):
            exec(report.fault.call, {})

    def test_well_behaved_ones_are_left_alone(self):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        for sampler in (
            faithful,
            numpy_choice,
            *[SAMPLERS[f"gumbel_max_{f}"] for f in ("bf16", "fp16", "fp32", "fp64")],
        ):
            for vocab in (2, 3, 4, 100):
                probe(Caller.of(sampler), vocab, 7)
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002

    def test_a_sampler_without_randomness_is_bad_input(self):
        with pytest.raises(InputError, match="cannot be repeated from a seed"):
            Caller.of(lambda logits, n: None).probe(10, 0)

    def test_jax(self):
        jax = pytest.importorskip("jax")

        def sample(logits, n, *, key):
            return jax.random.categorical(key, logits, shape=(n, logits.shape[0]))

        caller = Caller.of(sample)
        probe(caller, 30, 1)
        assert caller.draw(3, ramp(2, 30), 5).shape == (5, 2)


HANGS = """
import os, time, torch
def hangs(logits, n, *, generator):
    time.sleep(60)
def dies(logits, n, *, generator):
    os._exit(9)
def prints(logits, n, *, generator):
    print("chatter")
    return torch.multinomial(torch.softmax(logits.double(), -1), n, replacement=True, generator=generator).T
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "theirs.py"
    path.write_text(textwrap.dedent(HANGS))
    return path


class TestInItsOwnProcess:
    @pytest.mark.parametrize(
        ("name", "says"),
        [("hangs", "blocks: no answer to probe within 1 s"), ("dies", "exit code 9 during probe")],
    )
    def test_a_sampler_that_hangs_or_dies(self, file, name, says):
        report = check(f"{file}:{name}", vocab=64, timeout=1.0, say=lambda line: None)
        assert report.exit_code == 1
        assert says in report.headline()

    @pytest.mark.parametrize("spec", ["{file}:absent"])
    def test_no_such_sampler_is_bad_input(self, file, spec):
        with pytest.raises(InputError), Child(spec.format(file=file), 30.0):
            pass

    def test_a_run_that_is_killed_between_targets_goes_on(self, tmp_path):
        """The same command again: all tests as of a run that was not killed, each target on the ledger
        once; then the seed is used up, and that is said before a token is drawn. Another command with the
        seed is refused as well."""
        calls = []

        def counted(logits, n, *, generator):
            calls.append(n)
            return faithful(logits, n, generator=generator)

        def stops(line):
            if line.startswith("normal"):
                raise KeyboardInterrupt

        targets = [parse_target(spec) for spec in ("zipf[vocab=50]", "normal[vocab=40]")]
        rates = {"budget": Budget.SMOKE, "false_fail": RATE, "false_pass": 1e-3, "extra": ["ledger"]}
        asked = plan(targets, parse_detect("temperature=0.1"), **rates)
        run = {"code": "c", "say": lambda line: None}
        with pytest.raises(KeyboardInterrupt):
            examine(Caller.of(counted), asked, 7, "", **run | {"ledger": tmp_path / "a", "say": stops})
        assert len(list((tmp_path / "a").iterdir())) == 1
        fewer = plan(targets[:1], parse_detect("temperature=0.1"), **rates)
        with pytest.raises(InputError, match="seed-7"):
            examine(Caller.of(counted), fewer, 7, "", ledger=tmp_path / "a", **run)
        resumed = examine(Caller.of(counted), asked, 7, "", ledger=tmp_path / "a", **run)
        straight = examine(Caller.of(counted), asked, 7, "", ledger=tmp_path / "b", **run)
        assert json.dumps(resumed.json()) == json.dumps(straight.json())
        for path in (tmp_path / "a").iterdir():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        calls.clear()
        for command in (asked, fewer):
            with pytest.raises(InputError, match="seed-7"):
                examine(Caller.of(counted), command, 7, "", ledger=tmp_path / "a", **run)
        assert calls == []

    @statistical(false_fail=RATE)
    def test_the_command(self, file, monkeypatch, capfd, tmp_path):
        """A right sampler that prints: stdout is one JSON object, exit 0; the ledger keeps the run and
        refuses its seed."""
        words = [
            "precision-lab",
            "check",
            f"{file}:prints",
            "--vocab",
            "100",
            "--false-fail",
            str(RATE),
            "-f",
            "json",
            "--ledger",
            str(tmp_path / "l"),
        ]

        def run(*more: str) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", [*words, *more])
            with pytest.raises(SystemExit) as stopped:
                command_line.main()
            return (int(stopped.value.code or 0), *capfd.readouterr())

        code, out, err = run()
        assert code == 0, err
        found = json.loads(out)
        assert found["verdict"] == "pass"
        assert {test["test"] for test in found["tests"]} >= {"temperature", "identity", "ledger"}
        assert "chatter" in err
        code, out, err = run()
        assert (code, out) == (2, "")
        assert "seed-0" in err

    def test_bad_input_is_exit_2(self, monkeypatch, capsys, tmp_path):
        for words in (
            ["--detect", "tv=7"],
            ["--targets", "zipff"],
            ["--targets", str(tmp_path / "no.safetensors")],
        ):
            monkeypatch.setattr(sys, "argv", ["precision-lab", "check", "gumbel_max_fp32", *words])
            with pytest.raises(SystemExit) as stopped:
                command_line.main()
            out, err = capsys.readouterr()
            assert (stopped.value.code, out) == (2, "")
            assert err.startswith("error: got ")

    def test_markdown(self, capsys):
        report = verdict(cold)
        with pytest.raises(command_line.typer.Exit):
            command_line.show(report, command_line.Format.MD)
        out = capsys.readouterr().out
        assert out.startswith("**FAIL: cold fails")
        assert "| target | test | n | statistic |" in out
        assert "| temperature wrong | T = 0.94" in out


class TestFloat32:
    """A head and 4,096 tokens 17 nats below it: 24-bit noise takes most of what little mass they have."""

    TARGET = Target("deep", np.append(0.0, np.full(1 << 12, -17.0)), "")

    def test_needed_draws_fail_it_and_pass_the_faithful(self):
        """The level holds at every n; the needed draws fail the lattice itself with 1 - 1e-3 by Chernoff,
        20 of 20 here."""
        law = ask(self.TARGET).law
        n = lattice_draws(law, 1.0, RATE, 1e-3)
        assert detectable_lattice(n, law, RATE, 1e-3) == 1.0
        assert detectable_lattice(n // 2, law, RATE, 1e-3) == math.inf
        rng, truth = np.random.default_rng(0), lattice_law(law, 24)
        failed = [
            likelihood_ratio_test(
                Counts(rng.multinomial(n, truth.probs / truth.probs.sum()).astype(np.int64), n),
                law,
                lattice_bet(law),
                false_fail=RATE,
            ).failed
            for _ in range(20)
        ]
        assert all(failed)

    def test_a_wish_for_it_is_planned(self):
        wished = parse_detect("float32=1")
        asked = plan([self.TARGET], wished, budget=Budget.SMOKE, false_fail=RATE, false_pass=1e-3)
        question = asked.questions[0]
        assert question.needed["float32"] >= lattice_draws(question.law, 1.0, asked.level, 1e-3)
        assert question.n == min(max(question.needed.values()), question.n)

    def test_half_the_way_needs_about_four_times_as_many(self):
        law = ask(self.TARGET).law
        ratio = lattice_draws(law, 0.5, RATE, 1e-3) / lattice_draws(law, 1.0, RATE, 1e-3)
        assert 3 < ratio < 6


@pytest.mark.slow
class TestLong:
    def test_float32_is_named_on_a_masked_diffusion_step(self):
        """2^22 draws: the rarest sixth of the unmaskings comes a fifth as often as it should, 14 times for
        68."""
        asked = design("mdm_step[vocab=1024,unmask=0.0001]", detect="float32=1")
        more = Plan(
            tuple(q.planned(q.needed, 1 << 22, q.length) for q in asked.questions),
            asked.wished,
            1e-6,
            1e-3,
            asked.level,
        )
        report = verdict("gumbel_max_fp32", more)
        assert report.exit_code == 1
        assert report.suspects[0].recipe in {
            "float32 noise, truncated",
            "float64 noise cut at the float32 ceiling",
        }
        assert next(s for s in report.suspects if s.recipe == FAITHFUL).posterior < 1e-3

    def test_misbehaved_is_an_exception_that_says_what(self):
        assert str(Misbehaved("blocks", "1 s")) == "blocks: 1 s"
