"""Kinds of fault that users have met in public samplers, in our own words: each fails by its name, a right
one passes.

What mixes up rows, layouts and seeds is in test_batches.py; conventions, in test_conventions.py; files, in
test_recorded.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from judging import statistical
from safetensors.torch import save_file

from precision_lab.errors import InputError
from precision_lab.laws.law import target_law
from precision_lab.pipelines import parse_pipeline
from precision_lab.recorded import Recorded
from precision_lab.statistics import Counts
from precision_lab.statistics.row_sources import RowSources
from precision_lab.statistics.row_tests import RowEvidence
from precision_lab.targets import Target, parse_target, parse_use
from precision_lab.testing import SamplerFailed, check_categorical
from precision_lab.types import Budget
from precision_lab.verdict.audit import audit
from precision_lab.verdict.caller import Caller, Misbehaved
from precision_lab.verdict.check import Progress, draw, examine
from precision_lab.verdict.judge import judge, likely_tokens
from precision_lab.verdict.misbehaviour import probe
from precision_lab.verdict.plan import Asked, Plan, ask, plan
from precision_lab.verdict.replay import shown_by
from precision_lab.verdict.report import Outcome
from precision_lab.verdict.uses import REAL_VOCABULARY, asked_in

RATE = 1e-6
RATES = {"false_fail": RATE, "false_pass": 1e-3}
DEFAULTS = plan(
    asked_in(parse_use("lm"), {"temperature": 0.02}, Budget.SMOKE), {}, budget=Budget.SMOKE, **RATES
)


def inverse(logits, n, generator):
    """Right: the first token whose cumulative sum is beyond a uniform number. (n, rows)"""
    cum = logits.double().softmax(-1).cumsum(-1)
    u = torch.rand(len(logits), n, generator=generator, dtype=torch.float64)
    return torch.searchsorted(cum / cum[:, -1:], u, right=True).T


def constant_above_16_bits(logits, n, *, generator):
    """Beyond 65,536 tokens a mask is lost, and one id stands for all above."""
    return inverse(logits, n, generator).clamp(max=65_536)


def ids_of_16_bits(logits, n, *, generator):
    return inverse(logits, n, generator) % 65_536


def without_the_last(logits, n, *, generator):
    """An off-by-one at the end of the row."""
    return inverse(logits, n, generator).clamp(max=logits.shape[-1] - 2)


def without_the_first(logits, n, *, generator):
    """An off-by-one at its beginning."""
    return inverse(logits, n, generator).clamp(min=1)


def a_tile_too_few(logits, n, *, generator):
    """Tiles of 1,024 tokens, the last of them left out where it is not whole."""
    kept = logits.clone()
    whole = logits.shape[-1] // 1024 * 1024
    if whole:
        kept[:, whole:] = -torch.inf
    return inverse(kept, n, generator)


def right(logits, n, *, generator):
    return inverse(logits, n, generator)


def by_default(sampler, name: str, seed: int = 0) -> tuple[set[str], str]:
    """(failed tests, their notes) of one default question, at its level within the whole check."""
    (question,) = [each for each in DEFAULTS.questions if each.target.name.startswith(name)]
    tokens = draw(Caller.of(sampler), question, seed + 1, Progress(1 << 60, lambda line: None))
    found = judge(question, tokens, DEFAULTS, np.random.default_rng(seed))
    failed = {test: result for test, result in found.items() if result.failed}
    return set(failed), "; ".join(result.note for result in failed.values())


class TestLargeVocabularies:
    @statistical(false_fail=RATE)
    def test_right_draws_pass(self):
        assert by_default(right, "ends") == (set(), "")

    @pytest.mark.parametrize(
        ("sampler", "token"),
        [
            (constant_above_16_bits, "token 65536"),
            (ids_of_16_bits, "token 0"),
            (without_the_last, f"token {REAL_VOCABULARY - 1}: 0 draws, 22 expected"),
            (without_the_first, "token"),
            (a_tile_too_few, f"token {REAL_VOCABULARY - 1}: 0 draws"),
        ],
        ids=lambda each: getattr(each, "__name__", ""),
    )
    def test_what_breaks_there_fails_by_default(self, sampler, token):
        """800 draws; a token of 2.8 % that never comes has p = 2 x 32 e^-22.8 = 8e-9, below the level of
        2.3e-8."""
        failed, note = by_default(sampler, "ends")
        assert "tokens" in failed
        assert token in note

    def test_a_token_that_never_comes_is_within_the_level(self):
        (question,) = [each for each in DEFAULTS.questions if each.target.name.startswith("ends")]
        likely = question.law.probs[question.law.probs > 0.005]
        assert len(likely) * 2 * (1 - likely.min()) ** question.n < DEFAULTS.level
        assert "identity" not in question.tests  # it would see nothing there

    @statistical(false_fail=4e-7)
    def test_the_level_holds(self):
        """20,000 runs of 50 draws at 10 %: at most 10 % and 5 standard deviations fail."""
        law = target_law(np.log([0.5, 0.3, 0.15, 0.05]))
        asked = Plan((), {}, 0.1, 1e-3, 0.1)
        rng, runs = np.random.default_rng(0), 20_000
        different, times = np.unique(rng.multinomial(50, law.probs, size=runs), axis=0, return_counts=True)
        failed = sum(
            int(number)
            for counts, number in zip(different, times, strict=True)
            if likely_tokens(Counts(counts, 50), law, asked).failed
        )
        assert 0.01 * runs < failed <= runs * 0.1 + 5 * (runs * 0.1 * 0.9) ** 0.5

    def test_the_stated_effect_is_seen(self):
        """The rate of one token changed by ``detectable``: 400 runs, of which 99.9 % should fail and 95 %
        must."""
        law = target_law(np.log([0.5, 0.3, 0.2]))
        asked, n = Plan((), {}, 0.01, 1e-3, 0.01), 2000
        rng = np.random.default_rng(1)
        size = likely_tokens(Counts(rng.multinomial(n, law.probs), n), law, asked).detectable
        other = np.array([0.5, 0.3, 0.2 * (1 - size)])
        other[:2] *= (1 - other[2]) / 0.8
        seen = [likely_tokens(Counts(rng.multinomial(n, other), n), law, asked).failed for _ in range(400)]
        assert np.mean(seen) > 0.95


class TestUnnormalisedLogits:
    @staticmethod
    def no_maximum(logits, n, *, rng):
        """exp of the logits as they come, in float32: overflow beyond 88, nothing left below -103."""
        with np.errstate(all="ignore"):
            cum = np.exp(logits).cumsum(-1)
            u = rng.random((n, len(logits))) * cum[:, -1]
            below = (cum[None] <= u[..., None]).sum(-1)
        return np.minimum(below, logits.shape[1] - 1)

    @pytest.mark.parametrize("name", ["shifted[vocab=1024,by=1000]", "shifted[vocab=1024,by=-1000]"])
    def test_they_are_asked_by_default(self, name):
        failed, _ = by_default(self.no_maximum, name)
        assert failed >= {"identity", "support"}

    def test_the_verdict_names_the_row(self):
        """Ordinary rows are right, so it is the whole check that must find it, and say where."""
        asked = plan([Asked(parse_target("shifted[vocab=64,by=1000]"))], {}, budget=Budget.SMOKE, **RATES)
        found = examine(Caller.of(self.no_maximum), asked, 0, "precision-lab check this")
        assert found.outcome is Outcome.FAIL
        assert "identity on shifted[vocab=64,by=1000]" in found.text()
        assert "again: precision-lab check this" in found.text()

    def test_a_call_shows_it_where_ids_are_clamped(self, tmp_path, capsys):
        """No id is out of range, so it is a test that fails: the call prints the row, its logits and the
        ids."""
        path = tmp_path / "clamped.py"
        path.write_text(CLAMPED)
        asked = plan([Asked(parse_target("shifted[vocab=64,by=1000]"))], {}, budget=Budget.SMOKE, **RATES)
        found = examine(Caller.of(f"{path}:sample"), asked, 0, "precision-lab check this")
        assert f"shown by: {found.shown}" in found.text()
        exec(found.shown, {})
        said = capsys.readouterr().out
        assert "row shifted[vocab=64,by=1000]: logits 998.4" in said
        assert "ids 63, 63, 63" in said
        assert "token 63, logit 994.284" in said

    def test_what_one_call_does_not_show_has_none(self):
        """A temperature of 0.97 takes thousands of draws; the right one has nothing to show."""
        question = ask(parse_target("zipf[vocab=64]"))
        rng = np.random.default_rng(0)
        for temperature in (1.0, 0.97):
            p = np.exp(question.law.log_probs / temperature)
            ids = rng.choice(64, size=(32, 4), p=p / p.sum())
            assert shown_by("mine.py:sample", question, 0, ids) == ""
        assert "n=32" in shown_by("mine.py:sample", question, 0, np.zeros((32, 4), np.int64))
        unnamed = ask(Target("logits", question.target.logits, "a test"))
        assert shown_by("mine.py:sample", unnamed, 0, np.zeros((32, 4), np.int64)) == ""

    def test_a_call_with_a_pipeline(self, tmp_path, capsys):
        path = tmp_path / "clamped.py"
        path.write_text(CLAMPED)
        steps = parse_pipeline("top_k=3")
        question = ask(parse_target("zipf[vocab=64]"), pipeline=steps)
        line = shown_by(f"{path}:sample", question, 0, np.full((32, 4), 9))
        assert "pipeline='top_k=3'" in line
        exec(line, {})
        assert "expected" in capsys.readouterr().out


CLAMPED = """
import numpy as np


def sample(logits, n, *, rng):
    with np.errstate(all="ignore"):
        cum = np.exp(logits).cumsum(-1)
        u = rng.random((n, len(logits))) * cum[:, -1]
        return (cum[None] <= u[..., None]).sum(-1).clip(max=logits.shape[1] - 1)
"""


class TestTruncated:
    """More kept than the rule allows: the tokens beyond it are named with their counts."""

    N = 20_000

    @pytest.mark.parametrize("rows", [False, True], ids=["one row", "a row a draw"])
    @pytest.mark.parametrize("rule", ["top-k", "top-p"])
    def test_ties_at_the_edge(self, tmp_path, rule, rows):
        if rule == "top-k":
            # in bfloat16 the 5th and the 6th are one number: "not below the 5th" keeps both
            logits = np.array([3.0, 2.5, 2.0, 1.5, 1.0, 1.0, 0.5, 0.0])
            meant = np.arange(8) < 5
            loose = logits >= 1.0
            beyond = 5
        else:
            # two tokens hold 0.75 exactly: "until the sum is above 0.75" keeps a third
            logits = np.log([0.25, 0.125, 0.125, 0.5])
            meant = np.array([1, 0, 0, 1], bool)
            loose = np.array([1, 1, 0, 1], bool)
            beyond = 1
        p = np.where(loose, np.exp(logits), 0)
        tokens = np.random.default_rng(2).choice(len(p), self.N, p=p / p.sum())
        truncated = np.where(meant, logits, -np.inf).astype(np.float32)
        path = tmp_path / "draws.npz"
        np.savez(path, tokens=tokens, logits=np.tile(truncated, (self.N, 1)) if rows else truncated)
        found = audit(path, path)
        assert found.outcome is Outcome.FAIL
        count = int((tokens == beyond).sum())
        place = int(np.flatnonzero(tokens == beyond)[0])
        assert (
            f"token {beyond} ({count:,} draws, first at {'row' if rows else 'draw'} {place})"
            in found.headline()
        )
        assert "best fit: faithful" not in found.text()
        # what follows it wrong by the law, and not the other way round
        assert "can fail with serial" not in found.best_fit()


class TestRowsOfFiles:
    def test_the_row_of_another_request(self, tmp_path):
        """Batches of four, recorded a row a draw; everybody's token comes from the first row, or from the
        mirrored one."""
        rng = np.random.default_rng(3)
        logits = rng.normal(0, 2, (4000, 4, 200)).astype(np.float32)
        tokens = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        first = (logits[:, :1] + rng.gumbel(size=logits.shape)).argmax(-1)
        path = tmp_path / "draws.npz"
        for wrong in (first, tokens[:, ::-1]):
            np.savez(path, logits=logits.reshape(-1, 200), tokens=wrong.reshape(-1))
            found = audit(path, path)
            assert found.outcome is Outcome.FAIL
            assert "in [inf, inf]" not in found.text()

    def test_a_temperature_that_no_draws_allow_has_no_estimate(self):
        """Draws of the least likely token: no positive temperature gives them."""
        evidence = RowEvidence(())
        logits = np.tile(np.array([3.0, 0.0, -3.0], dtype=np.float32), (500, 1))
        evidence.update(logits, np.full(500, 2), np.arange(500))
        found = evidence.temperature_test(1e-6, 1e-3)
        assert found.failed
        assert found.estimate is None
        assert "no temperature explains" in str(found)

    @pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet", ".json"])
    @pytest.mark.parametrize("name", ["token_ids", "input_ids", "ids"])
    def test_usual_names_of_ids_in_every_format(self, tmp_path, suffix, name):
        path = tmp_path / f"draws{suffix}"
        ids, rows = np.array([2, 0, 1]), np.zeros((3, 4), np.float32)
        if suffix == ".npz":
            np.savez(path, **{name: ids, "logits": rows})
        elif suffix == ".safetensors":
            save_file({name: torch.from_numpy(ids), "logits": torch.from_numpy(rows)}, str(path))
        elif suffix == ".parquet":
            pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pa.table({name: ids, "logits": pa.array(list(rows))}), path)
        else:
            path.write_text(f'{{"{name}": [2, 0, 1], "logits": []}}')
        np.testing.assert_array_equal(Recorded(path, "tokens").whole(), ids)

    def test_other_names_are_refused_by_the_name_that_is_wanted(self, tmp_path):
        path = tmp_path / "draws.npz"
        np.savez(path, drawn=np.zeros(3, int), scores=np.zeros((3, 4)))
        with pytest.raises(InputError, match=r"holds 'drawn', 'scores'.*save it under the name 'tokens'"):
            Recorded(path, "tokens")


class TestFlatAndCertain:
    """Targets that have no temperature get an answer: what can be asked of them is asked, the rest is said."""

    FLAT = parse_target("uniform[vocab=64]")

    def test_the_plan_of_a_flat_target(self):
        asked = plan(
            [self.FLAT], {"temperature": 0.02, "tail": 0.1, "sharing": 1.0}, budget=Budget.SMOKE, **RATES
        )
        (question,) = asked.questions
        assert question.wished == {"sharing": 1.0, "tv": 0.05}
        assert set(question.tests) >= {"identity", "support", "ties"}
        assert "is flat: temperature and tail cannot be estimated there, and tv=0.05" in question.notes[0]

    def test_a_wish_of_the_user_stays(self):
        asked = plan([self.FLAT], {"temperature": 0.02, "tv": 0.2}, budget=Budget.SMOKE, **RATES)
        assert asked.questions[0].wished == {"tv": 0.2}

    @pytest.mark.parametrize("logits", [[0.0, -np.inf, -np.inf], [0.0, -60.0, -60.0]])
    def test_the_plan_of_a_certain_target(self, logits):
        asked = plan(
            [Target("row", np.array(logits), "a test")], {"temperature": 0.02}, budget=Budget.SMOKE, **RATES
        )
        (question,) = asked.questions
        assert (question.tests, question.wished) == (("support",), {})
        assert "every draw must be token 0" in question.notes[0]

    def test_where_draws_agree_anyway_shared_noise_is_not_wished(self):
        asked = plan(
            [Target("row", np.array([0.0, -16.0]), "a test")],
            {"tv": 0.5, "sharing": 1.0},
            budget=Budget.SMOKE,
            **RATES,
        )
        assert asked.questions[0].wished == {"tv": 0.5}
        assert "shared noise cannot be seen" in asked.questions[0].notes[0]

    @statistical(false_fail=1e-8)
    def test_right_draws_pass_by_the_fixture(self):
        assert check_categorical(right, np.zeros(64), false_fail=1e-8).exit_code == 0

    @statistical(false_fail=1e-8)
    def test_a_certain_row_passes_by_the_fixture(self):
        found = check_categorical(right, np.array([0.0, -60.0, -60.0]), false_fail=1e-8)
        assert found.exit_code == 0
        assert "every draw must be token 0" in found.text()

    def test_without_the_last_a_flat_target_fails(self):
        """A token that never comes in thousands of draws of 64: total failure."""
        with pytest.raises(SamplerFailed, match="support on logits"):
            check_categorical(without_the_last, np.zeros(64))

    def test_what_is_drawn_beside_the_certain_token_fails(self):
        """At a temperature of 12 the others come in 1 % of the draws."""

        def hot(logits, n, *, generator):
            return inverse(logits / 12, n, generator)

        with pytest.raises(SamplerFailed, match=r"row_laws|support"):
            check_categorical(hot, np.array([0.0, -60.0, -60.0]))

    @statistical(false_fail=1e-8)
    @pytest.mark.parametrize("rows", [False, True], ids=["one row", "a row a draw"])
    def test_flat_rows_in_a_file(self, tmp_path, rows):
        """20,000 draws show a total variation of 0.1; 20 % of them moved to one token are a failure with
        p = 4e-9, the least that four nulls can say."""
        n, vocab = 20_000, 50
        tokens = np.random.default_rng(4).integers(0, vocab, n)
        logits = np.zeros((n, vocab) if rows else vocab, np.float32)
        path = tmp_path / "draws.npz"
        np.savez(path, tokens=tokens, logits=logits)
        found = audit(path, path, detect="tv=0.1", false_fail=1e-8)
        assert found.outcome is Outcome.PASS
        assert found.judged[0].wished == 0.1
        np.savez(path, tokens=np.where(np.arange(n) % 5 == 0, 7, tokens), logits=logits)
        assert audit(path, path).outcome is Outcome.FAIL

    def test_too_few_draws_of_flat_rows_are_inconclusive(self, tmp_path):
        path = tmp_path / "draws.npz"
        np.savez(
            path, tokens=np.random.default_rng(0).integers(0, 50, 400), logits=np.zeros((400, 50), np.float32)
        )
        found = audit(path, path)
        assert found.outcome is Outcome.INCONCLUSIVE
        assert found.needed["draws.npz"] > 400


class TestMessages:
    def test_a_greedy_choice_is_called_so(self):
        greedy = Caller.of(lambda logits, n, *, generator: logits.argmax(-1).repeat(n, 1))
        with pytest.raises(Misbehaved, match="each the likeliest of its row: a greedy choice"):
            probe(greedy, 50, 0)

    def test_constant_ids_that_are_not_the_likeliest_are_not(self):
        stuck = Caller.of(lambda logits, n, *, generator: logits.argmin(-1).repeat(n, 1) * 0 + 1)
        with pytest.raises(Misbehaved) as found:
            probe(stuck, 50, 0)
        assert "greedy" not in found.value.detail

    def test_a_token_that_slips_through_now_and_then_is_not_taken_for_probabilities(self):
        """One draw in eight is of a masked token: no softmax was forgotten, and nothing is said of one."""

        def slips(logits, n, *, generator):
            ids = inverse(logits, n, generator)
            ids[:: max(8, n // 2)] = logits.argmin(-1)
            return ids

        logits = np.array([[0.0, 1.0, -np.inf]], dtype=np.float32)
        with pytest.raises(Misbehaved, match="probability zero") as found:
            Caller.of(slips).draw(0, logits, 64)
        assert "where it wants probabilities" not in found.value.detail

    def test_the_fixture_names_mixed_rows_too(self):
        def first_for_all(logits, n, *, generator):
            return inverse(logits[:1].expand_as(logits), n, generator)

        with pytest.raises(
            SamplerFailed, match="rows mixed up: in a batch of 2, row 1 is given the token of row 0"
        ):
            check_categorical(first_for_all, -torch.arange(1.0, 51.0).log())


class TestRowsMixedUpInFiles:
    """Batches of four, recorded a row a draw: 4,000 draws of 200 tokens say thousands of nats for another row.

    Level and power: the calibration of the judge."""

    VOCAB, ROWS = 200, 4

    @classmethod
    def drawn(cls, n=1000, seed=3):
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 2, (n, cls.ROWS, cls.VOCAB)).astype(np.float32)
        return logits, (logits + rng.gumbel(size=logits.shape)).argmax(-1), rng

    def audited(self, tmp_path, logits, tokens, **options):
        path = tmp_path / "draws.npz"
        np.savez(path, logits=logits.reshape(-1, logits.shape[-1]), tokens=tokens.reshape(-1))
        return audit(path, path, **options)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (lambda t: np.repeat(t[:, :1], 4, axis=1), "rows 1, 2, 3 are given the token of row 0"),
            (lambda t: t[:, ::-1], "the rows come back in reversed order"),
            (lambda t: t[:, [0, 2, 1, 3]], "row 1 gets the token of row 2, row 2 gets the token of row 1"),
            (lambda t: np.roll(t.reshape(-1), 1), "every draw is of the row 1 before its own"),
            (
                lambda t: np.where(np.random.default_rng(1).random((1000, 1)) < 0.7, t, t[:, ::-1]),
                "in part of its draws",
            ),
        ],
        ids=["row 0 for all", "reversed", "permuted", "one late", "now and then"],
    )
    def test_they_are_named(self, tmp_path, wrong, said):
        logits, tokens, _ = self.drawn()
        found = self.audited(tmp_path, logits, wrong(tokens))
        assert found.outcome is Outcome.FAIL
        assert "has its rows mixed up" in found.headline()
        assert said in found.headline()
        assert found.suspects[0].recipe == "rows mixed up"

    @statistical(false_fail=1e-8)
    def test_right_draws_are_not_accused(self, tmp_path):
        logits, tokens, _ = self.drawn()
        found = self.audited(tmp_path, logits, tokens, false_fail=1e-8)
        assert found.outcome is not Outcome.FAIL
        assert "mixed" not in found.text()

    def test_another_temperature_is_no_mixing(self, tmp_path):
        """Its draws fit other rows better than their own, and a temperature better still: by 1,800 nats."""
        logits, _, rng = self.drawn()
        hot = (logits / 2 + rng.gumbel(size=logits.shape)).argmax(-1)
        found = self.audited(tmp_path, logits, hot)
        assert found.outcome is Outcome.FAIL
        assert "mixed" not in found.headline()
        assert found.suspects[0].recipe == "temperature wrong"

    def test_one_impossible_draw_is_no_mixing(self, tmp_path):
        """A masked token of 1e-4000 says no more than 46 nats of one draw."""
        logits, tokens, _ = self.drawn()
        logits[500, 2, 7] = -1e4
        tokens[500, 2] = 7
        found = self.audited(tmp_path, logits, tokens)
        assert found.outcome is Outcome.FAIL
        assert found.impossible[0].token == 7
        assert "mixed" not in found.headline()

    def test_rows_set_aside_do_not_hide_it(self, tmp_path):
        """One row in seven is dead: the places of the others stay what they were."""
        logits, tokens, rng = self.drawn()
        logits.reshape(-1, self.VOCAB)[rng.choice(4000, 572, replace=False)] = -np.inf
        found = self.audited(tmp_path, logits, tokens[:, ::-1])
        assert "the rows come back in reversed order" in found.headline()
        assert found.set_aside == 572

    def test_blocks_of_any_size_give_the_same(self):
        logits, tokens, _ = self.drawn(200)
        rows = logits.reshape(-1, self.VOCAB).astype(np.float64)
        p = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
        x = tokens[:, ::-1].reshape(-1)
        results = []
        for step in (1, 50, 333, 800):
            sources = RowSources(800)
            for first in range(0, 800, step):
                at = np.arange(first, min(first + step, 800))
                sources.update(p[at], x[at], at)
            results.append((sources.test(1e-6, 1e-3).statistic, sources.found()))
        assert all(each == results[0] for each in results)
        half = np.arange(400, 800)
        ratio = p[half // 4 * 4 + 3 - half % 4, x[half]] / p[half, x[half]]
        direct = (
            np.log(np.mean([np.exp(np.log1p(w * (ratio - 1)).sum() - 1400) for w in (0.1, 0.5, 0.95)])) + 1400
        )
        assert results[0][0] == pytest.approx(direct, rel=1e-5)  # of probabilities in float32

    def test_large_vocabularies_keep_fewer_rows(self):
        """Of 2^19 tokens eight rows are kept, and 2^26 probabilities are looked at: 128 draws, of 20 nats
        each."""
        vocab, sources = 1 << 19, RowSources(200)
        rng = np.random.default_rng(0)
        for i in range(0, 200, 2):
            likely = rng.integers(0, vocab, 2)
            p = np.full((2, vocab), 1e-6 / vocab)
            p[[0, 1], likely] = 1 - 1e-6
            sources.update(p, likely[::-1], np.array([i, i + 1]))
        found = sources.found()
        assert sources.n == 128
        assert (found.size, found.sources) == (2, {0: 1, 1: 0})
