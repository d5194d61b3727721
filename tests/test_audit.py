"""``audit``: verdicts from files, every broken file one clear error, and the recorder's round trip."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from judging import statistical
from safetensors.numpy import save_file

from precision_lab import __main__ as command_line
from precision_lab import recorded
from precision_lab.errors import InputError
from precision_lab.laws.law import target_law
from precision_lab.statistics import agreement, lattice_law, tempered_law, two_laws_log_likelihood
from precision_lab.statistics.counts import Counts
from precision_lab.statistics.row_sharing import Sharing, shared_agreement
from precision_lab.statistics.row_tests import RowEvidence
from precision_lab.verdict.audit import audit
from precision_lab.verdict.report import Outcome
from precision_lab.verdict.suspects import FAITHFUL, SHARED

RECORDER = Path(__file__).parent.parent / "examples" / "record_draws.py"
VOCAB, N, RATE = 60, 24_000, 1e-8


def rows_of(n: int, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A row of logits for each draw, and draws of it at a temperature, by float64 Gumbel-max."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, VOCAB)).astype(np.float32)
    tokens = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(1)
    return logits, tokens


def gumbel(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(99).gumbel(size=shape)


def write(path: Path, **arrays: np.ndarray) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(path))
    else:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {n: pa.array(a) if a.ndim == 1 else pa.array(list(a)) for n, a in arrays.items()}
        parquet.write_table(pa.table(columns), path)
    return path


class TestARowADraw:
    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
    def test_right_draws_pass(self, tmp_path, suffix):
        logits, tokens = rows_of(N)
        path = write(tmp_path / f"draws{suffix}", logits=logits, tokens=tokens)
        report = audit(path, path, detect="temperature=0.05", false_fail=RATE)
        assert report.outcome is Outcome.PASS, report.text()
        assert {j.test for j in report.judged} == {"temperature", "tail", "support", "serial", "sources"}

    def test_a_temperature_fails_and_is_named(self, tmp_path):
        """T = 0.9 at 24,000 draws is 12 standard errors from the level's."""
        path = write(tmp_path / "draws.npz", **dict(zip(("logits", "tokens"), rows_of(N, 0.9), strict=True)))
        report = audit(path, path)
        assert report.outcome is Outcome.FAIL
        words = report.suspects[0].how.split()
        assert report.suspects[0].recipe == "temperature wrong"
        assert abs(float(words[2]) - 0.9) < 5 * float(words[4])

    @statistical(false_fail=RATE)
    def test_few_draws_are_inconclusive(self, tmp_path):
        path = write(tmp_path / "draws.npz", **dict(zip(("logits", "tokens"), rows_of(500), strict=True)))
        report = audit(path, path, false_fail=RATE)
        assert report.outcome is Outcome.INCONCLUSIVE
        assert next(iter(report.needed.values())) > 20_000

    def test_a_masked_token_fails(self, tmp_path):
        logits, tokens = rows_of(500)
        logits[7, tokens[7]] = -np.inf
        report = audit(*[write(tmp_path / "draws.npz", logits=logits, tokens=tokens)] * 2)
        assert "support" in {j.test for j in report.judged if j.outcome is Outcome.FAIL}

    def test_chunks_do_not_matter(self, tmp_path, monkeypatch):
        path = write(tmp_path / "draws.npz", **dict(zip(("logits", "tokens"), rows_of(700), strict=True)))
        whole = audit(path, path).json()
        monkeypatch.setattr(recorded, "VALUES", 7 * VOCAB)
        parts = audit(path, path).json()
        assert whole["notes"] == parts["notes"]
        for a, b in zip(whole["tests"], parts["tests"], strict=True):
            assert a["p_adjusted"] == pytest.approx(b["p_adjusted"], rel=1e-9)
            assert a["n"] == b["n"]
            assert a["n"] == 700 or a["test"] in ("serial", "sources")

    def test_evidence_of_one_row_is_that_of_its_law(self):
        """Cumulants and lattices row by row against the laws that the library has for one row."""
        logits, tokens = rows_of(1)[0][0], np.arange(VOCAB)
        law, found = target_law(logits), RowEvidence()
        found.update(np.tile(logits, (VOCAB, 1)), tokens)
        counts = Counts.from_tokens(tokens, VOCAB)
        for bits in (23, 24):
            expected = two_laws_log_likelihood(counts, lattice_law(law, bits), law).value
            assert found.lattice[bits] == pytest.approx(expected, abs=1e-9)
        at = tempered_law(law, 0.5)  # t = 1
        expected = two_laws_log_likelihood(counts, at, law).value
        assert found.score - found.cumulant[1, -1] == pytest.approx(expected, rel=1e-9)

    def test_the_bound_holds_at_every_n(self):
        """Chernoff at level 0.2 fails a right sampler in at most a fifth of all runs of 5 draws, enumerated
        on 2 tokens."""
        logits = np.log(np.array([0.9, 0.1]))
        total = 0.0
        for word in range(2**5):
            tokens = np.array([word >> i & 1 for i in range(5)])
            result = RowEvidence().update(np.tile(logits, (5, 1)), tokens).temperature_test(0.2, 0.5)
            total += result.failed * float(np.prod(np.where(tokens == 1, 0.1, 0.9)))
        assert 0 < total <= 0.2


class TestOneSharedRow:
    LOGITS = rows_of(1)[0][0]

    def drawn(self, n: int, temperature: float = 1.0) -> np.ndarray:
        law = tempered_law(target_law(self.LOGITS), temperature)
        return np.random.default_rng(3).choice(VOCAB, n, p=law.probs)

    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("shape", [(VOCAB,), (1, VOCAB)])
    def test_right_draws_pass(self, tmp_path, shape):
        draws = write(tmp_path / "draws.npz", tokens=self.drawn(100_003).astype(np.int32))
        logits = write(tmp_path / "logits.safetensors", logits=self.LOGITS.reshape(shape))
        report = audit(draws, logits, detect="temperature=0.03", false_fail=RATE)
        assert report.outcome is Outcome.PASS, report.text()
        assert {j.test for j in report.judged} >= {"identity", "serial", "repeats"}
        assert report.judged[0].result.n == 100_000  # whole pairs of four blocks

    def test_wrong_ones_fail(self, tmp_path):
        logits = write(tmp_path / "logits.npz", logits=self.LOGITS)
        cold = write(tmp_path / "cold.npz", tokens=self.drawn(100_000, 0.95))
        assert audit(cold, logits).suspects[0].recipe == "temperature wrong"
        twice = write(tmp_path / "twice.npz", tokens=np.repeat(self.drawn(50_000), 2))
        assert {j.test for j in audit(twice, logits).judged if j.outcome is Outcome.FAIL} >= {"serial"}


MASKS = [-30.0, -100.0, -800.0, -1e4, -65504.0, -1e9, float(np.finfo(np.float32).min), -np.inf]


class TestWhatIsImpossible:
    """A token too rare to be drawn fails whether its logit is -inf or not, and is named."""

    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("value", MASKS)
    def test_masked_rows(self, tmp_path, value):
        """Right draws never fail; one draw of a masked token of 20,000 does, and nothing else is said of it."""
        logits, tokens = rows_of(4000)
        logits[:, 40:] = value
        tokens = (np.where(np.arange(VOCAB) < 40, logits, -np.inf) + gumbel(logits.shape)).argmax(1)
        path = write(tmp_path / "draws.npz", logits=logits, tokens=tokens)
        right = audit(path, path, detect="temperature=0.5", false_fail=RATE)
        assert right.outcome is Outcome.PASS, right.text()
        assert right.impossible == ()
        tokens[[17, 90]] = 50
        wrong = audit(write(tmp_path / "leak.npz", logits=logits, tokens=tokens), tmp_path / "leak.npz")
        assert [j.test for j in wrong.judged if j.outcome is Outcome.FAIL] == ["support"]
        named = wrong.impossible[0]
        assert (named.token, named.count, named.first, named.place) == (50, 2, 17, "row")
        assert "token 50 (2 draws, first at row 17)" in wrong.headline()
        assert "best fit: faithful" not in wrong.text()
        assert next(s for s in wrong.suspects if s.recipe == FAITHFUL).log_likelihood == 0
        assert all(s.log_likelihood < 10 for s in wrong.suspects)

    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("value", MASKS)
    def test_one_masked_row(self, tmp_path, value):
        row = np.where(np.arange(VOCAB) < 40, rows_of(1)[0][0], np.float32(value))
        tokens = np.random.default_rng(5).choice(40, 40_000, p=target_law(row[:40]).probs)
        path = write(tmp_path / "draws.npz", logits=row, tokens=tokens)
        right = audit(path, path, detect="temperature=0.5", false_fail=RATE)
        assert right.outcome is Outcome.PASS, right.text()
        tokens[77] = 50
        wrong = audit(write(tmp_path / "leak.npz", logits=row, tokens=tokens), tmp_path / "leak.npz")
        assert [j.test for j in wrong.judged if j.outcome is Outcome.FAIL] == ["support"]
        assert (wrong.impossible[0].token, wrong.impossible[0].first) == (50, 77)
        assert "no listed recipe explains what failed (support): none draws such tokens" in wrong.best_fit()
        assert all(s.log_likelihood < 10 for s in wrong.suspects)

    def test_ids_beyond_the_vocabulary(self, tmp_path):
        """Of rows and of one row: a verdict with the place, and the rest is judged."""
        logits, tokens = rows_of(1000)
        tokens[[3, 8, 500]] = [VOCAB + 7, -1, VOCAB + 7]
        found = audit(*[write(tmp_path / "rows.npz", logits=logits, tokens=tokens)] * 2)
        assert found.outcome is Outcome.FAIL
        assert [(i.token, i.count, i.first) for i in found.impossible] == [(VOCAB + 7, 2, 3), (-1, 1, 8)]
        assert f"beyond the vocabulary, 0 to {VOCAB - 1}" in found.headline()
        assert next(j for j in found.judged if j.test == "temperature").result.n == 997
        one = audit(*[write(tmp_path / "one.npz", logits=logits[0], tokens=tokens)] * 2)
        assert (one.exit_code, one.impossible[0].first) == (1, 3)

    def test_nothing_but_ids_of_another_vocabulary(self, tmp_path):
        logits, tokens = rows_of(200)
        found = audit(*[write(tmp_path / "draws.npz", logits=logits, tokens=tokens + VOCAB)] * 2)
        assert found.exit_code == 1
        assert f"draws ids beyond the vocabulary: token {tokens[0] + VOCAB} at draw 0" in found.headline()

    def test_dead_rows_are_named_and_set_aside(self, tmp_path):
        logits, tokens = rows_of(1000)
        logits[20] = -np.inf
        logits[300, 4] = np.nan
        logits[301, 4] = np.inf
        tokens[20] = VOCAB + 5
        found = audit(*[write(tmp_path / "draws.npz", logits=logits, tokens=tokens)] * 2)
        assert "2 rows were set aside" in found.headline()  # the draw of the first is no token at all
        assert "row 300 (NaN in it), row 301 (+inf in it)" in found.text()
        assert (found.impossible[0].token, found.impossible[0].first) == (VOCAB + 5, 20)
        tokens[20] = 1
        again = audit(*[write(tmp_path / "draws.npz", logits=logits, tokens=tokens)] * 2)
        assert "3 rows were set aside" in again.headline()
        assert "row 20 (all -inf)" in again.text()
        assert again.outcome is Outcome.INCONCLUSIVE

    @pytest.mark.parametrize("mask", [-np.inf, -1e9])
    def test_certain_rows_have_a_clear_answer(self, tmp_path, mask):
        row = np.where(np.arange(VOCAB) == 3, 0.0, mask)
        tokens = np.full(100, 3)
        for logits in (row, np.tile(row, (100, 1))):
            right = audit(*[write(tmp_path / "draws.npz", logits=logits, tokens=tokens)] * 2)
            assert right.exit_code == 0
            assert "certain" in right.text()
            other = np.where(np.arange(100) == 60, 4, tokens)
            wrong = audit(*[write(tmp_path / "wrong.npz", logits=logits, tokens=other)] * 2)
            assert (wrong.exit_code, wrong.impossible[0].token, wrong.impossible[0].first) == (1, 4, 60)


class TestSharedNoise:
    """Draws of rows of their own that share a vector of noise, or one uniform number; and those that do not
    (control)."""

    COUNT, WIDTH = 4000, 200

    def logits(self):
        return np.random.default_rng(11).normal(0, 2, (self.COUNT, self.WIDTH)).astype(np.float32)

    def audited(self, folder, logits, tokens):
        path = write(folder / "draws.npz", logits=logits, tokens=tokens)
        return audit(path, path, detect="temperature=0.9", false_fail=RATE)

    @statistical(false_fail=RATE)
    def test_noise_of_their_own_passes(self, tmp_path):
        logits = self.logits()
        found = self.audited(tmp_path, logits, (logits + gumbel(logits.shape)).argmax(1))
        assert found.outcome is Outcome.PASS, found.text()
        assert "shared noise was looked for between draws 1, 2, " in found.text()
        assert "cannot be seen" in found.text()

    @pytest.mark.parametrize("group", [2, 16])
    @pytest.mark.parametrize("kind", ["vector", "uniform"])
    def test_requests_with_one_seed_fail(self, tmp_path, group, kind):
        """Groups of rows that follow each other: 2,000 pairs agree some 30 times as often as they should,
        or lie within 1/8 of each other on the scale of cumulative sums more often than by 50 standard
        deviations."""
        logits, rng = self.logits(), np.random.default_rng(3)
        if kind == "vector":
            noise = np.repeat(rng.gumbel(size=(self.COUNT // group, self.WIDTH)), group, axis=0)
            tokens = (logits + noise).argmax(1)
        else:
            p = np.exp(logits.astype(np.float64))
            p /= p.sum(1, keepdims=True)
            u = np.repeat(rng.random(self.COUNT // group), group)
            tokens = np.minimum((p.cumsum(1) < u[:, None]).sum(1), self.WIDTH - 1)
        found = self.audited(tmp_path, logits, tokens)
        assert "serial" in {j.test for j in found.judged if j.outcome is Outcome.FAIL}
        assert found.suspects[0].recipe == SHARED
        assert "suppose independent draws" in found.best_fit()

    def test_a_lag_is_found(self, tmp_path):
        """Requests of 50 draws, one after the other, each with the noise of the first: the lag is 50."""
        logits = self.logits()
        noise = np.tile(np.random.default_rng(4).gumbel(size=(50, self.WIDTH)), (self.COUNT // 50, 1))
        found = self.audited(tmp_path, logits, (logits + noise).argmax(1))
        result = next(j.result for j in found.judged if j.test == "serial")
        assert result.failed
        lag = int(result.effect.split()[-2])
        assert lag % 50 == 0

    def test_agreement_with_shared_noise_is_that_of_the_library(self):
        p = np.random.default_rng(0).dirichlet(np.ones(30), 5)
        q = np.random.default_rng(1).dirichlet(np.ones(30), 5)
        q[2, :4] = 0
        q[2] /= q[2].sum()
        expected = [agreement(a, b)[1] for a, b in zip(p, q, strict=True)]
        np.testing.assert_allclose(shared_agreement(p, q), expected, rtol=1e-10)

    def test_what_is_far_is_not_seen_and_the_report_says_so(self, tmp_path):
        """Rows without a likely token in common: no pair can agree, and the wished effect is not excluded."""
        logits = np.full((400, 800), -np.inf, dtype=np.float32)
        for i in range(400):
            logits[i, 2 * i : 2 * i + 2] = [0.0, -1.0]
        tokens = (logits + gumbel(logits.shape)).argmax(1)
        found = self.audited(tmp_path, logits, tokens)
        serial = next(j for j in found.judged if j.test == "serial")
        assert (serial.outcome, serial.result.detectable) == (Outcome.INCONCLUSIVE, np.inf)
        assert "have no likely token in common, cannot be seen" in found.text()


class TestRowsMadeFromTheDraws:
    """Each row prefers the token drawn before it, as a text that repeats itself does: a right sampler seems to
    draw from the row after its own, and the headline says on what that rests."""

    SAID = "this supposes rows that were not made from the draws"

    def repeating(self, count=4000, bent=1.0):
        rng = np.random.default_rng(5)
        logits = rng.normal(0, 1, (count, 50)).astype(np.float32)
        tokens = np.zeros(count, dtype=np.int64)
        for i in range(count):
            if i:
                logits[i, tokens[i - 1]] += 4
            tokens[i] = (bent * logits[i] + rng.gumbel(size=50)).argmax()
        return logits, tokens

    @statistical(false_fail=RATE)
    def test_the_headline_says_on_what_the_failure_rests(self, tmp_path):
        """The tests of the law have their level; those of the rows fail by hundreds of nats."""
        logits, tokens = self.repeating()
        path = write(tmp_path / "draws.npz", logits=logits, tokens=tokens)
        found = audit(path, path, false_fail=RATE)
        failed = {j.test for j in found.judged if j.outcome is Outcome.FAIL}
        assert failed
        assert failed <= {"serial", "sources"}
        assert self.SAID in found.headline()

    def test_not_where_the_law_is_wrong_too(self, tmp_path):
        logits, tokens = self.repeating(bent=2.0)
        found = audit(*[write(tmp_path / "draws.npz", logits=logits, tokens=tokens)] * 2)
        assert {j.test for j in found.judged if j.outcome is Outcome.FAIL} >= {"temperature", "sources"}
        assert self.SAID not in found.headline()
        assert any(self.SAID in note for note in found.all_notes())


def test_the_two_streams_of_flat_rows_are_not_one(tmp_path, monkeypatch):
    """The places of the draws and the chances of the test of them: one seed gives them other numbers."""
    seen = []

    def spied(self, false_fail, false_pass, rng):
        seen.append((self.uniforms, rng.random(len(self.uniforms))))
        return judged(self, false_fail, false_pass, rng)

    judged = Sharing.uniformity_test
    monkeypatch.setattr(Sharing, "uniformity_test", spied)
    tokens = np.random.default_rng(0).integers(0, 8, 400)
    audit(*[write(tmp_path / "draws.npz", logits=np.zeros((400, 8), np.float32), tokens=tokens)] * 2)
    ((places, chances),) = seen
    assert not np.isin(places, chances).any()


class TestWhatIsSaid:
    def test_probabilities_in_place_of_logits(self, tmp_path):
        logits, tokens = rows_of(2000)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for saved in (p, p.astype(np.float16)):
            found = audit(*[write(tmp_path / "draws.npz", logits=saved, tokens=tokens)] * 2)
            assert "these look like probabilities" in found.text()
            assert "at the edge of the range 0.5 to 2" in found.best_fit()
        found = audit(*[write(tmp_path / "draws.npz", logits=logits, tokens=tokens)] * 2)
        assert "look like probabilities" not in found.text()

    def test_a_temperature_that_cannot_be_estimated(self, tmp_path):
        logits, tokens = rows_of(3)
        found = audit(*[write(tmp_path / "draws.npz", logits=logits, tokens=tokens)] * 2)
        said = found.judged[0].row()["interval"]
        assert said.startswith("not estimable: 3 draws leave it between ")
        assert "e+1" not in said

    def test_no_recipe_explains_it_in_row_mode_either(self, tmp_path):
        """The likeliest token of each row is never drawn: no temperature makes that, and no truncation."""
        logits, _ = rows_of(20_000)
        cut = np.where(logits == logits.max(axis=1, keepdims=True), -np.inf, logits)
        found = audit(
            *[write(tmp_path / "d.npz", logits=logits, tokens=(cut + gumbel(cut.shape)).argmax(1))] * 2
        )
        assert found.exit_code == 1
        assert "no listed recipe explains the draws; the nearest is" in found.best_fit()

    @statistical(false_fail=RATE)
    def test_a_pass_says_what_it_excludes(self, tmp_path):
        path = write(tmp_path / "draws.npz", **dict(zip(("logits", "tokens"), rows_of(N), strict=True)))
        said = audit(path, path, detect="temperature=0.05", false_fail=RATE).headline()
        assert "on draws.npz; excluded: a temperature off by 0.05, noise shared by 100% of the pairs" in said
        assert "not looked for: tail (seen from 0." in said


class TestBrokenFiles:
    @pytest.fixture
    def good(self, tmp_path):
        logits, tokens = rows_of(200)
        return {s: write(tmp_path / f"good{s}", logits=logits, tokens=tokens) for s in (".npz", ".safetensors")}

    @pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
    @pytest.mark.parametrize("keep", [0, 10, 0.3, 0.9])
    def test_truncated(self, good, tmp_path, suffix, keep):
        data = good[suffix].read_bytes()
        path = tmp_path / f"torn{suffix}"
        path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
        with pytest.raises(InputError, match="torn"):
            audit(path, path)

    @pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
    def test_truncated_parquet(self, tmp_path, keep):
        logits, tokens = rows_of(200)
        data = write(tmp_path / "good.parquet", logits=logits, tokens=tokens).read_bytes()
        path = tmp_path / "torn.parquet"
        path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
        with pytest.raises(InputError, match="torn"):
            audit(path, path)

    def test_parquet_lists_of_unequal_length(self, tmp_path):
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "draws.parquet"
        parquet.write_table(pa.table({"tokens": [0, 1], "logits": [[0.0, 1.0, 2.0], [0.0]]}), path)
        with pytest.raises(InputError, match="unequal length"):
            audit(path, path)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda l, t: (l[:-1], t), "200 tokens and 199 rows"),
            (lambda l, t: (l[:0], t), "one row or more"),
            (lambda l, t: (l, t[:0]), "one row or more"),
            (
                lambda l, t: (np.where(np.arange(VOCAB) == 3, np.nan, l), t),
                "largest logit of nan in row 0.*no row",
            ),
            (lambda l, t: (np.where(np.arange(VOCAB) == 3, np.inf, l), t), "largest logit of inf"),
            (lambda l, t: (np.full_like(l, -np.inf), t), "largest logit of -inf"),
            (lambda l, t: (l, t.astype(np.float32)), "tokens of dtype float32"),
            (lambda l, t: (l.astype(np.int64), t), "floats"),
            (lambda l, t: (l.reshape(2, 100, VOCAB), t), "expected .n,. and .n, vocab"),
            (lambda l, t: (np.asfortranarray(l), t), "column-major"),
            (lambda l, t: (l.astype(object), t), "Python objects"),
            (lambda l, t: (np.array([0.0, np.nan, 1.0]), t % 3), "NaN"),
        ],
    )
    def test_wrong_contents(self, tmp_path, change, says):
        logits, tokens = change(*rows_of(200))
        path = write(tmp_path / "draws.npz", logits=logits, tokens=tokens)
        with pytest.raises(InputError, match=says):
            audit(path, path)

    @pytest.mark.parametrize(
        ("draws", "options", "says"),
        [
            ("absent.npz", [], "no file"),
            ("draws.csv", [], "ending in"),
            ("good.npz", ["--detect", "tv=0.1"], "one shared row"),
            ("good.npz", ["--false-fail", "2"], "false_fail"),
            ("good.safetensors", ["--logits", "other.npz"], "no array 'logits'"),
        ],
    )
    def test_the_command_says_it_in_one_line(self, good, tmp_path, monkeypatch, capsys, draws, options, says):
        write(tmp_path / "other.npz", scores=np.zeros(3), mask=np.zeros(3))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["precision-lab", "audit", draws, "--logits", draws, *options])
        with pytest.raises(SystemExit) as stopped:
            command_line.main()
        out, err = capsys.readouterr()
        assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
        assert says in err

    def test_the_command(self, good, monkeypatch, capsys):
        words = [str(good[".npz"]), "--logits", str(good[".npz"]), "-f", "json"]
        monkeypatch.setattr(sys, "argv", ["precision-lab", "audit", *words])
        with pytest.raises(SystemExit) as stopped:
            command_line.main()
        assert stopped.value.code == 3
        assert json.loads(capsys.readouterr().out)["verdict"] == "inconclusive"


class TestTheRecorder:
    def test_runs_on_python_3_9_with_torch_alone(self):
        source = RECORDER.read_text()
        tree = ast.parse(source, feature_version=(3, 9))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert names == {"numpy", "torch"}
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    @statistical(false_fail=RATE)
    def test_round_trip(self, tmp_path):
        """bfloat16 logits are kept to the bit; draws of their softmax pass."""
        spec = importlib.util.spec_from_file_location("record_draws", RECORDER)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        recorder, rng = module.Recorder(), torch.Generator().manual_seed(0)
        every = []
        for _ in range(10):
            logits = (2 * torch.randn(4, 300, VOCAB, generator=rng)).bfloat16()
            probs = torch.softmax(logits.double(), -1).reshape(-1, VOCAB)
            recorder.record(logits, torch.multinomial(probs, 1, generator=rng).reshape(4, 300))
            every.append(logits.reshape(-1, VOCAB))
        path = tmp_path / "draws.npz"
        recorder.save(path)
        kept = np.load(path, allow_pickle=False)
        assert torch.equal(torch.from_numpy(kept["logits"]).bfloat16(), torch.cat(every))
        report = audit(path, path, detect="temperature=0.1", false_fail=RATE)
        assert report.outcome is Outcome.PASS, report.text()
        assert report.judged[0].result.n == 12_000
