"""``check``, ``audit`` and the pytest fixture with a pipeline: samplers with processors, right and wrong.

Every verdict here is at a false-fail rate of 1e-6; faults of total variation 0.02 and more are found at
thousands of draws.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from judging import statistical
from scipy import stats

from precision_lab.calibration.verdicts import in_doubt
from precision_lab.errors import InputError
from precision_lab.pipelines import parse_pipeline
from precision_lab.targets import Target, parse_target
from precision_lab.testing import SamplerFailed, check_categorical
from precision_lab.types import Budget
from precision_lab.verdict.audit import audit
from precision_lab.verdict.batch_rows import Batch
from precision_lab.verdict.batches import TESTS, design, examine_batches
from precision_lab.verdict.caller import Caller, Misbehaved
from precision_lab.verdict.check import asked_of, parse_use
from precision_lab.verdict.invariance import examine_identity
from precision_lab.verdict.plan import Asked, ask, plan
from precision_lab.verdict.processed import asked_for, judge_each, rows_after, with_steps_before

ROW = torch.log(torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]))
TIED = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0, -1.0])


def drawing(process):
    """A sampler that draws rightly from what ``process`` makes of the logits."""

    def sample(logits, n, *, generator):
        probs = process(logits).double().softmax(-1)
        return torch.multinomial(probs, n, replacement=True, generator=generator).T

    return sample


def top_k(k):
    def strict(logits):
        top = logits.topk(k, -1)
        return torch.full_like(logits, -torch.inf).scatter(-1, top.indices, top.values)

    return strict


def not_below_the_kth(k):
    def loose(logits):
        return logits.masked_fill(logits < logits.topk(k, -1).values[:, -1:], -torch.inf)

    return loose


def checked(process, text, row=ROW, **options):
    return check_categorical(drawing(process), row, pipeline=text, detect="tv=0.1", **options)


class TestFixture:
    @pytest.mark.parametrize(
        "text", ["temperature=0.7 > top_k=4 > top_p=0.9", "top_p=0.7", "min_p=0.3", "top_k=3"]
    )
    def test_right_ones_pass(self, text):
        assert checked(parse_pipeline(text).apply, text).exit_code == 0

    @pytest.mark.parametrize(
        ("process", "text"),
        [
            (lambda row: row / 0.8 / 0.8, "temperature=0.8"),
            (
                lambda row: parse_pipeline("top_p=0.7 > temperature=0.5").apply(row),
                "temperature=0.5 > top_p=0.7",
            ),
            (lambda row: parse_pipeline("top_p=0.7 crossing=dropped").apply(row), "top_p=0.7"),
            (lambda row: parse_pipeline("top_k=4").apply(row), "top_k=3"),
            (lambda row: row, "min_p=0.3"),
        ],
        ids=[
            "temperature twice",
            "order swapped",
            "crossing token dropped",
            "one too many",
            "min-p does nothing",
        ],
    )
    def test_faults_fail(self, process, text):
        with pytest.raises(SamplerFailed) as caught:
            checked(process, text)
        assert "support" in str(caught.value) or "identity" in str(caught.value)

    def test_more_than_k_where_logits_tie(self):
        assert checked(top_k(2), "top_k=2", TIED).exit_code == 0
        with pytest.raises(SamplerFailed, match="support"):
            checked(not_below_the_kth(2), "top_k=2", TIED)
        assert checked(not_below_the_kth(2), "top_k=2 ties=all", TIED).exit_code == 0
        with pytest.raises(SamplerFailed):
            checked(top_k(2), "top_k=2 ties=all", TIED)

    @pytest.mark.parametrize("p", [0.65, 0.8])
    def test_a_mass_that_is_p_to_rounding_may_be_cut_either_way(self, p):
        """0.4 + 0.25 and 0.4 + 0.25 + 0.15 are the p to rounding; a token more or less is in doubt, two are
        not."""
        text = f"top_p={p}"
        count = {0.65: 2, 0.8: 3}[p]
        for kept, nudged in ((count, p - 1e-6), (count + 1, p + 1e-6)):
            process = parse_pipeline(f"top_p={nudged}").apply
            assert int(process(ROW[None]).isfinite().sum()) == kept
            assert checked(process, text).exit_code == 0
        for wrong in (count - 1, count + 2):
            with pytest.raises(SamplerFailed):
                checked(top_k(wrong), text)

    def test_greedy(self):
        assert checked(lambda row: parse_pipeline("temperature=0").apply(row), "temperature=0").exit_code == 0
        with pytest.raises(SamplerFailed, match="support"):
            checked(lambda row: row / 0.2, "temperature=0")

    def test_greedy_by_argmax_may_ignore_its_generator(self):
        def greedy(logits, n, *, generator):
            return logits.argmax(-1).repeat(n, 1)

        assert check_categorical(greedy, ROW, pipeline="temperature=0").exit_code == 0
        with pytest.raises(SamplerFailed, match="ignores its generator"):
            check_categorical(greedy, ROW)

    def test_two_tokens_left_are_not_taken_for_a_generator_ignored(self):
        """The probe of the generator asks for 64 bits of disagreement, which two tokens do not have."""
        for seed in range(5):
            assert checked(top_k(2), "top_k=2", seed=seed).exit_code == 0

    def test_bad_pipelines(self):
        with pytest.raises(InputError, match="top_p = 0"):
            checked(lambda row: row, "top_p=0")
        with pytest.raises(InputError, match="more than 16"):
            checked(lambda row: row, "top_k=8", torch.cat([ROW, torch.zeros(20)]))


class TestQuestion:
    def test_the_law_is_the_pipelines(self):
        question = ask(Target("row", ROW.double().numpy(), "a test"), pipeline=parse_pipeline("top_k=2"))
        assert question.law.probs == pytest.approx([0.4 / 0.65, 0.25 / 0.65, 0, 0, 0, 0])
        assert question.logits == pytest.approx(ROW.numpy())
        assert np.exp(question.recipe_logits) == pytest.approx(question.law.probs)
        assert "ties" not in question.tests

    def test_one_token_is_a_question_of_its_own(self):
        target = Target("row", ROW.double().numpy(), "a test")
        pipeline = parse_pipeline("temperature=0")
        rates = {"false_fail": 1e-6, "false_pass": 1e-3}
        (question,) = plan(
            [Asked(target, {"temperature": 0.02}, pipeline=pipeline)], {}, budget=Budget.SMOKE, **rates
        ).questions
        assert question.lone
        assert (question.tests, question.wished) == (("support",), {})

    @pytest.mark.parametrize(
        "text",
        [
            "top_k=50",
            "top_p=0.9",
            "top_p=0.95",
            "min_p=0.05",
            "temperature=0.7 > top_k=50 > top_p=0.95 > min_p=0.05",
        ],
    )
    def test_default_targets_leave_nothing_in_doubt(self, text):
        pipeline = parse_pipeline(text)
        main, *shapes = asked_for(pipeline, {"temperature": 0.02})
        assert main.wished == {"temperature": 0.02}
        assert pipeline.doubtful(main.target.logits.astype(np.float32).astype(np.float64)) == []
        assert shapes
        assert all(not shape.wished for shape in shapes)

    def test_only_next_tokens(self):
        with pytest.raises(InputError, match="next tokens"):
            asked_of(parse_use("mdm:8"), [], {}, Budget.SMOKE, None, parse_pipeline("top_k=5"))

    def test_a_sampler_by_name_is_given_what_the_steps_leave(self):
        pipeline = parse_pipeline("top_k=2")
        target = parse_target("zipf[vocab=8]")
        asked = plan(
            [Asked(target, {"tv": 0.1}, pipeline=pipeline)],
            {},
            budget=Budget.SMOKE,
            false_fail=1e-6,
            false_pass=1e-3,
        )
        (question,) = with_steps_before(asked, pipeline).questions
        assert np.isfinite(question.logits).tolist() == [True, True] + [False] * 6


class TestTheNull:
    @statistical(false_fail=3e-8)
    def test_a_right_sampler_of_any_law_in_doubt_fails_no_more_often(self):
        """100 sets of draws of each of three laws, of 16 draws: at a level of 0.2 no more than 0.2 of them are
        rejected, but for 1e-8 of each. More of them: ``judge_each`` of the calibration."""
        for which in range(3):
            p_values = in_doubt(which)(100, np.random.default_rng(which))
            assert (p_values <= 0.2).sum() <= stats.binom.isf(1e-8, 100, 0.2)
            assert p_values.min() < 0.9

    def test_what_no_law_allows_is_rejected(self):
        question = ask(Target("tied", TIED.double().numpy(), "a test"), pipeline=parse_pipeline("top_k=2"))
        rates = {"false_fail": 1e-6, "false_pass": 1e-3}
        asked = plan([Asked(question.target, {"tv": 0.5})], {}, budget=Budget.SMOKE, **rates)
        tokens = np.random.default_rng(0).integers(0, 4, (4, 16, 4))
        held, found = judge_each(question, tokens, asked, np.random.default_rng(0))
        assert found["support"].p_value == 0
        assert any(held.law is law for law in question.laws)


class TestAudit:
    def written(self, tmp_path, process, rows, seed=0):
        rng = np.random.default_rng(seed)
        logits = np.asarray(rows, dtype=np.float32)
        laws = process(torch.from_numpy(logits)).double().softmax(-1).numpy()
        tokens = np.array([rng.choice(len(law), p=law / law.sum()) for law in laws])
        path = tmp_path / "draws.npz"
        np.savez(path, tokens=tokens, logits=logits)
        return path

    def rows(self, n):
        return np.random.default_rng(1).normal(size=(n, 20)) * 2

    @pytest.mark.parametrize("text", ["temperature=0.7 > top_p=0.9", "top_k=5", "min_p=0.1"])
    def test_a_row_a_draw(self, tmp_path, text):
        path = self.written(tmp_path, parse_pipeline(text).apply, self.rows(3000))
        # shared noise is wished for too, and these rows may be too short to show it
        assert str(audit(path, path, pipeline=text, detect="temperature=0.9").outcome) != "fail"
        assert str(audit(path, path, detect="temperature=0.9").outcome) == "fail"

    def test_order_swapped_a_row_a_draw(self, tmp_path):
        path = self.written(tmp_path, parse_pipeline("top_p=0.8 > temperature=0.5").apply, self.rows(3000))
        report = audit(path, path, pipeline="temperature=0.5 > top_p=0.8", detect="temperature=0.9")
        failed = [judged.test for judged in report.judged if judged.verdict.failed]
        assert "support" in failed

    def test_one_row(self, tmp_path):
        path = self.written(tmp_path, parse_pipeline("top_k=3").apply, np.tile(ROW.numpy(), (4000, 1)))
        with np.load(path) as file:
            np.savez(tmp_path / "one.npz", tokens=file["tokens"], logits=file["logits"][0])
        one = tmp_path / "one.npz"
        assert str(audit(one, one, pipeline="top_k=3", detect="tv=0.2").outcome) == "pass"
        report = audit(one, one, pipeline="top_k=2", detect="tv=0.2")
        assert str(report.outcome) == "fail"
        assert "--pipeline top_k=2" in report.command

    def test_greedy_in_one_row(self, tmp_path):
        path = tmp_path / "greedy.npz"
        np.savez(path, tokens=np.zeros(64, dtype=np.int64), logits=ROW.numpy())
        assert str(audit(path, path, pipeline="temperature=0").outcome) == "pass"
        np.savez(path, tokens=np.arange(64) % 2, logits=ROW.numpy())
        assert str(audit(path, path, pipeline="temperature=0").outcome) == "fail"

    def test_tokens_in_doubt_are_set_aside(self):
        rows = np.tile(ROW.double().numpy(), (6, 1))
        left, counted = rows_after(parse_pipeline("top_p=0.65"), rows, np.arange(6))
        assert np.flatnonzero(counted).tolist() == [0, 1, 3, 4, 5]
        assert np.isfinite(left).tolist() == [[True, True] + [False] * 4] * 5


def after_steps(pipeline, fault):
    """``fault``, a sampler, drawing from what the steps leave."""

    def sample(logits, n, *, generator):
        return fault(pipeline.apply(logits.float()), n, generator=generator)

    sample.__name__ = fault.__name__
    return sample


def race(logits, n, *, generator):
    noise = torch.empty(n, *logits.shape, dtype=torch.float64).exponential_(generator=generator)
    return (torch.softmax(logits.double(), -1) / noise).argmax(-1)


def first_for_all(logits, n, *, generator):
    return race(logits[:1].expand_as(logits), n, generator=generator)


def from_eight_on(logits, n, *, generator):
    return race(logits / 0.5 if len(logits) >= 8 else logits, n, generator=generator)


def one_noise(logits, n, *, generator):
    noise = torch.empty(n, 1, logits.shape[-1], dtype=torch.float64).exponential_(generator=generator)
    return (torch.softmax(logits.double(), -1) / noise).argmax(-1)


CHAIN = parse_pipeline("temperature=0.7 > top_k=50 > top_p=0.95")


class TestWholeBatches:
    """Rows that differ, with the steps inside the sampler: a right one is failed with 2e-8, the faults here
    are missed with less than 1e-6."""

    @pytest.mark.parametrize("text", [str(CHAIN), "temperature=0"])
    @statistical(false_fail=2e-8)
    def test_right_ones_pass(self, text):
        pipeline = parse_pipeline(text)
        drawer = Caller.of(after_steps(pipeline, race))
        found = examine_batches(drawer, seed=0, level=1e-8, identity=False, pipeline=pipeline)
        assert set(found) == set(TESTS)
        assert not any(result.failed for result in found.values())

    @pytest.mark.parametrize(
        ("fault", "what"),
        [
            (first_for_all, "rows mixed up"),
            (from_eight_on, "depends on the batch size"),
            (one_noise, "same noise for all rows"),
        ],
        ids=lambda each: getattr(each, "__name__", ""),
    )
    def test_faults_are_called_by_their_names(self, fault, what):
        drawer = Caller.of(after_steps(CHAIN, fault))
        with pytest.raises(Misbehaved, match=what) as found:
            examine_batches(drawer, seed=0, level=1e-8, pipeline=CHAIN)
        assert f"pipeline='{CHAIN}'" in found.value.call

    def test_greedy_rows_are_mixed_up_too(self):
        pipeline = parse_pipeline("temperature=0")
        drawer = Caller.of(after_steps(pipeline, first_for_all))
        with pytest.raises(Misbehaved, match="row 1 is given the token of row 0"):
            examine_batches(drawer, seed=0, level=1e-8, pipeline=pipeline)

    def test_other_steps_than_stated_are_a_wrong_law_of_rows(self):
        """Tokens that top-k forbids: total failure."""
        drawer = Caller.of(after_steps(parse_pipeline("top_k=6"), race))
        found = examine_batches(drawer, seed=0, level=1e-8, pipeline=parse_pipeline("top_k=4"))
        assert found["row_laws"].p_value == 0
        assert not found["company"].failed

    def test_the_fixture_judges_them(self):
        with pytest.raises(SamplerFailed, match="rows mixed up"):
            check_categorical(after_steps(CHAIN, first_for_all), ROW, pipeline=CHAIN, detect="tv=0.1")

    def test_a_sampler_by_name_is_given_what_the_steps_leave(self):
        pipeline = parse_pipeline("top_k=3")
        given = []

        class Drawer:
            spec = "named"
            takes = frozenset()

            def fresh(self, seed, logits, n, **options):
                given.append((logits, options))
                generator = torch.Generator().manual_seed(seed)
                return race(torch.from_numpy(logits.copy()), n, generator=generator).numpy()

        examine_batches(Drawer(), seed=0, level=1e-8, pipeline=pipeline, before=True)
        assert all((np.isfinite(rows).sum(axis=1) <= 3).all() for rows, _ in given)
        assert not any("dtype" in options for _, options in given)

    @pytest.mark.parametrize("text", ["top_k=5", "min_p=0.05", "top_p=0.9", "temperature=0", str(CHAIN)])
    def test_rows_are_such_that_nothing_is_in_doubt(self, text):
        pipeline = parse_pipeline(text)
        asked = design(0, pipeline=pipeline)
        for batch in asked.company:
            if batch.kind in ("own", "masked"):
                for row in batch.logits[:2].astype(np.float64):
                    assert pipeline.doubtful(row, batch.dtype) == []
        left = float(asked.by_rank[16].max())
        assert (left == 1) == (text == "temperature=0")

    def test_where_every_row_is_in_doubt_batches_are_not_judged(self):
        """A mass of 1 - 1e-9 is not told from 1 in float32."""
        heard = []
        pipeline = parse_pipeline("top_p=0.999999999")
        drawer = Caller.of(after_steps(pipeline, race))
        assert examine_batches(drawer, seed=0, level=1e-8, pipeline=pipeline, say=heard.append) == {}
        assert "batches are not judged" in heard[0]

    def test_invariance_takes_as_many_draws_as_few_tokens_need(self):
        """Two tokens, 0.73 to 0.27, agree with 0.61: 71 bits take 99 draws. One token: other seeds give no
        others."""
        for text, draws in (("top_k=2", 99), ("temperature=0", 64)):
            pipeline = parse_pipeline(text)
            asked = []

            class Drawer:
                spec = "rows"
                takes = frozenset({"seed"})

                def fresh(self, seed, logits, n, settings):
                    asked.append(n)  # noqa: B023
                    ids = np.empty((n, len(logits)), dtype=np.int64)
                    for j, (row, number) in enumerate(zip(logits, settings["seed"], strict=True)):
                        p = pipeline.law(row.astype(np.float64)).probs  # noqa: B023
                        ids[:, j] = np.random.default_rng(int(number)).choice(len(p), size=n, p=p / p.sum())
                    return ids

            examine_identity(Drawer(), like=Batch("own", 1, 16, 1, 0, pipeline=text))
            assert set(asked) == {draws}

    def test_the_shown_call_shows_it(self, capsys, tmp_path):
        """Pasted, it prints a row whose likeliest token never came."""
        path = tmp_path / "mixed.py"
        path.write_text(MIXED)
        with pytest.raises(Misbehaved) as fault:
            examine_batches(Caller.of(f"{path}:sample"), seed=0, level=1e-8, pipeline=parse_pipeline("top_k=2"))
        exec(fault.value.call, {})
        assert "in 0.000 of" in capsys.readouterr().out


MIXED = """
import torch


def sample(logits, n, *, generator):
    top = logits.float().topk(2, -1)
    kept = torch.full_like(logits, -torch.inf, dtype=torch.float32).scatter(-1, top.indices, top.values)
    p = kept.softmax(-1)[:1].expand(logits.shape)
    return torch.multinomial(p, n, replacement=True, generator=generator).T
"""
