"""``check``, ``audit`` and the pytest fixture with a pipeline: samplers with processors, right and wrong.

Every verdict here is at a false-fail rate of 1e-6; faults of total variation 0.02 and more are found at
thousands of draws.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from precision_lab.errors import InputError
from precision_lab.pipelines import parse_pipeline
from precision_lab.targets import Target, parse_target
from precision_lab.testing import SamplerFailed, check_categorical
from precision_lab.types import Budget
from precision_lab.verdict.audit import audit
from precision_lab.verdict.check import asked_of, parse_use
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
        assert checked(top_k(count), text).exit_code == 0
        assert checked(top_k(count + 1), text).exit_code == 0
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
    def test_a_right_sampler_of_any_law_in_doubt_fails_no_more_often(self):
        """At a level of 0.2, 200 sets of draws of each law: no more than 0.2 of them rejected, and 5
        standard deviations (false-fail 3e-7 a law). The test of identity, which simulates, is left out for
        its seconds."""
        target = Target("tied", TIED.double().numpy(), "a test")
        rates = {"false_fail": 0.2, "false_pass": 0.1}
        asked = plan(
            [Asked(target, {"tv": 0.5}, pipeline=parse_pipeline("top_k=3"))], {}, budget=Budget.SMOKE, **rates
        )
        (question,) = asked.questions
        assert len(question.laws) == 3
        question = replace(question, tests=("temperature", "support", "streams", "serial"))
        asked = replace(asked, level=0.2 / len(question.tests))
        rng = np.random.default_rng(0)
        for law in question.laws:
            rejected = 0
            for _ in range(200):
                tokens = rng.choice(6, (4, 16, 4), p=law.probs)
                _, found = judge_each(question, tokens, asked, rng)
                rejected += min(result.p_value for result in found.values()) <= asked.level
            assert rejected <= 200 * 0.2 + 5 * np.sqrt(200 * 0.2 * 0.8)

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
