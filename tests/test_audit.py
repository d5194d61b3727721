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
from precision_lab.statistics import lattice_law, tempered_law, two_laws_log_likelihood
from precision_lab.statistics.counts import Counts
from precision_lab.statistics.row_tests import RowEvidence
from precision_lab.verdict.audit import audit
from precision_lab.verdict.report import Outcome

RECORDER = Path(__file__).parent.parent / "examples" / "record_draws.py"
VOCAB, N, RATE = 60, 24_000, 1e-8


def rows_of(n: int, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A row of logits for each draw, and draws of it at a temperature, by float64 Gumbel-max."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, VOCAB)).astype(np.float32)
    tokens = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(1)
    return logits, tokens


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
        assert {j.test for j in report.judged} == {"temperature", "tail", "support"}

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
        for a, b in zip(whole["tests"], parts["tests"], strict=True):
            assert a["p_adjusted"] == pytest.approx(b["p_adjusted"], rel=1e-9)
            assert a["n"] == b["n"] == 700

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
        """Chernoff at level 0.2 fails a right sampler in at most a fifth of all runs of 5 draws, enumerated on 2 tokens."""
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
            (lambda l, t: (np.where(np.arange(VOCAB) == 3, np.nan, l), t), "largest logit of nan in row 0"),
            (lambda l, t: (np.where(np.arange(VOCAB) == 3, np.inf, l), t), "largest logit of inf"),
            (lambda l, t: (np.full_like(l, -np.inf), t), "largest logit of -inf"),
            (lambda l, t: (l, t + VOCAB), f"expected 0 to {VOCAB - 1}"),
            (lambda l, t: (l, t - VOCAB), f"expected 0 to {VOCAB - 1}"),
            (lambda l, t: (l, t.astype(np.float32)), "tokens of dtype float32"),
            (lambda l, t: (l.astype(np.int64), t), "floats"),
            (lambda l, t: (l.reshape(2, 100, VOCAB), t), "expected .n,. and .n, vocab"),
            (lambda l, t: (np.zeros_like(l), t), "flat or certain"),
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
            ("good.safetensors", ["--logits", "other.npz"], "no 'logits'"),
        ],
    )
    def test_the_command_says_it_in_one_line(self, good, tmp_path, monkeypatch, capsys, draws, options, says):
        write(tmp_path / "other.npz", scores=np.zeros(3))
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
