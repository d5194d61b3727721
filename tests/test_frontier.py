"""Matched entropy on frontiers with known answers, and the experiment beside miniature models."""

from __future__ import annotations

import math
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import statistical
from scipy import stats

from precision_lab import engine, report
from precision_lab.errors import InputError
from precision_lab.mdm.corpus import Corpus
from precision_lab.mdm.denoiser import DenoiserConfig
from precision_lab.mdm.fetch import Unavailable
from precision_lab.mdm.judges import SMOLLM2_NAME, SameTokens
from precision_lab.mdm.texts import real_texts
from precision_lab.mdm.train import TrainConfig, load_model, train
from precision_lab.statistics import Generated, Scores, joint_region, matched_entropy, sequence_entropy
from precision_lab.types import Profile

HEATS = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(entropy: float, log_p: float, n: int, noise: float, draws: np.random.Generator) -> Generated:
    """n sequences of 100 tokens around a point; their two numbers are correlated, as those of text are."""
    both = draws.normal(size=n)
    nats = 100 * (log_p + noise * (both + draws.normal(size=n)))
    return Generated(entropy + noise * (both + draws.normal(size=n)) / 2, nats, np.full(n, 100))


def curve(heat: float) -> tuple[float, float]:
    return 2 + 3 * heat - heat**2, 1 + 4 * heat**2


def frontier(noise: float, draws: np.random.Generator, n: int = 12) -> dict[float, Generated]:
    return {heat: drawn(*curve(heat), n, noise, draws) for heat in HEATS}


def chord(heat: float) -> tuple[float, float]:
    """On the polygon through the curve at HEATS."""
    h, l = np.array([curve(at) for at in HEATS]).T
    return float(np.interp(heat, HEATS, h)), float(np.interp(heat, HEATS, l))


class TestMatchedEntropy:
    @settings(max_examples=20)
    @given(st.floats(0.7, 1.0) | st.sampled_from(HEATS), st.floats(0.3, 3))
    def test_exact_on_the_polygon(self, heat, factor):
        entropy, log_p = chord(heat)
        found = matched_entropy(
            drawn(entropy, log_p + math.log(factor), 5, 0, rng()), frontier(0, rng()), rng=rng()
        )
        assert found.ratio.value == pytest.approx(factor, rel=1e-9)
        assert found.temperature.value == pytest.approx(heat, abs=1e-9)
        assert found.ratio.low == pytest.approx(found.ratio.high)

    @settings(max_examples=20)
    @given(st.floats(0.7, 1.0))
    def test_a_smooth_frontier_is_missed_by_little(self, heat):
        """By |l''(h)| gap^2 / 8: 0.02 in the widest gap, 0.7 to 0.8, where h rises by 0.15 and l(h) has l''
        = 7.1."""
        entropy, log_p = curve(heat)
        found = matched_entropy(drawn(entropy, log_p, 5, 0, rng()), frontier(0, rng()), rng=rng())
        assert abs(math.log(found.ratio.value)) < 0.0205

    @pytest.mark.parametrize("heat", [0.69, 1.01])
    def test_none_beyond_the_frontier(self, heat):
        assert matched_entropy(drawn(*curve(heat), 5, 0, rng()), frontier(0, rng()), rng=rng()) is None

    def test_near_the_end_the_interval_is_all_numbers(self):
        """Where many resamples have no frontier at their entropy, nothing is claimed."""
        entropy, log_p = chord(0.99)
        point = Generated(
            np.tile([entropy - 0.1, entropy + 0.1], 6), np.full(12, 100 * log_p), np.full(12, 100)
        )
        found = matched_entropy(point, frontier(0, rng()), rng=rng())
        assert found.ratio.value == pytest.approx(1, rel=1e-4)
        assert (found.ratio.low, found.ratio.high) == (-math.inf, math.inf)

    def test_an_entropy_that_falls_is_held(self):
        """The point of 0.8 lies below that of 0.7: the frontier waits there, and rises from 0.8 on."""
        line = {heat: drawn(h, heat, 5, 0, rng()) for heat, h in ((0.7, 2.0), (0.8, 1.9), (0.9, 3.0))}
        found = matched_entropy(drawn(2.5, 0.85, 5, 0, rng()), line, rng=rng())
        assert (found.temperature.value, found.ratio.value) == pytest.approx((0.85, 1.0))

    @statistical(false_fail=1e-6)
    def test_the_interval_holds_the_truth(self):
        """50 samples of a point 2.5 times above the frontier. Misses of the truth: false fail 1e-6 if it covers 0.90 (the
        nominal 0.95 is asymptotic, n = 12). No interval holds 1, which is ten standard errors away."""
        missed, confused, (entropy, log_p) = 0, 0, curve(0.87)
        for k in range(50):
            draws = rng(100 + k)
            point = drawn(entropy, log_p + math.log(2.5), 12, 0.1, draws)
            found = matched_entropy(point, frontier(0.1, draws), rng=rng(k))
            missed += not found.ratio.contains(2.5)
            confused += found.ratio.contains(1.0)
        assert missed <= stats.binom.isf(1e-6, 50, 0.1)
        assert confused == 0

    def test_generated_and_its_region(self):
        tokens, nats = rng(3).integers(0, 5, (9, 12)), rng(4).exponential(size=(9, 12))
        none = np.zeros(9)
        point = Generated.of(tokens, Scores.of("x", list(tokens), list(nats), 99, none, none))
        entropy, log_p = point.point()
        assert entropy == pytest.approx(sequence_entropy(tokens).mean())
        # the first token is scored, but not by MDLM's definition
        assert log_p == pytest.approx(nats[:, 1:].mean())
        both = np.stack([sequence_entropy(tokens), nats[:, 1:].mean(1)], 1)
        np.testing.assert_allclose(
            point.region().covariance, joint_region(lambda at: both[at].mean(0), 9).covariance, rtol=1e-9
        )

    def test_refusals(self):
        line = frontier(0, rng())
        with pytest.raises(InputError, match="1 temperatures"):
            matched_entropy(line[1.0], {1.0: line[1.0]}, rng=rng())
        none = np.zeros(9)
        nine = Scores.of("x", [np.ones(2)] * 9, [np.ones(2)] * 9, 0, none, none)
        with pytest.raises(InputError, match="3 sequences and 9 scores"):
            Generated.of([[1, 2]] * 3, nine)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The experiment beside miniature models of 12 tokens, one step old."""
    root = tmp_path_factory.mktemp("bench")
    (root / "experiments").mkdir()
    source = engine.experiments()["temperature_frontier"]
    (root / "experiments" / source.name).write_bytes(source.read_bytes())
    text = Corpus(rng(0).integers(0, 12, 600, np.uint16), rng(1).integers(0, 12, 900, np.uint16), {})
    for kind in ("mdm", "ar"):
        model = DenoiserConfig(12, 1, 2, 16, causal=kind == "ar")
        config = TrainConfig(model=model, steps=1, batch=2, length=24)
        train(config, text, root / "models" / f"{kind}256")
    return root


class TestExperiment:
    def test_smoke(self, bench, tmp_path):
        result, files = report.run(
            "temperature_frontier", Profile.SMOKE, tmp_path, folder=bench / "experiments"
        )
        assert all(path.stat().st_size for path in files)
        assert "not asked here" in result.manifest["verdict"]
        frame = result.frame
        assert set(frame.decoder) == {"first_hitting", "autoregressive", "real"}
        held_out = real_texts(bench / "models" / "mdm256")[::-1][:3, :16]
        text = frame[frame.decoder == "real"].tokens.str.split().tolist()
        assert np.array(text, dtype=int).tolist() == held_out.tolist()
        scores = Scores.read(frame[frame.decoder == "real"])  # and the stored ids give the stored nats again
        again = SameTokens("ar256", load_model(bench / "models" / "ar256")).score(held_out)
        np.testing.assert_allclose(scores.nats, again.nats, rtol=1e-5)

    @pytest.mark.parametrize("had", [True, False])
    def test_full_on_short_text(self, bench, tmp_path, monkeypatch, had):
        engine.load_study.cache_clear()
        study = engine.load_study("temperature_frontier", bench / "experiments")
        module = sys.modules["experiments.temperature_frontier"]
        points = [(d, t, 0, 8) for d in module.FRONTIERS for t in (0.5, 0.75, 1.0)]
        full = [*points, ("event_driven", 1.0, 64, 8), ("real", 1.0, 0, 8)]
        monkeypatch.setitem(module.GRID, "full", full)
        monkeypatch.setitem(module.LENGTH, "full", 24)
        rival = load_model(bench / "models" / "ar256")

        def second(path):
            if not had:
                raise Unavailable("no network: skipped", "the model", "bring it")
            return SameTokens(SMOLLM2_NAME, rival)

        monkeypatch.setattr(module, "smollm2_judge", second)
        module.judge.cache_clear()
        result, files = report.run("temperature_frontier", Profile.FULL, tmp_path, folder=bench / "experiments")
        engine.load_study.cache_clear()
        verdict, frame = result.manifest["verdict"], result.frame
        assert all(path.stat().st_size for path in files)
        assert len(frame) == 2 * 8 * len(full)
        assert frame[frame.judge == SMOLLM2_NAME].missing.isna().all() == had
        assert ("MISSING: got no network" in verdict) == (not had)
        assert verdict.count(" reads ") == 5 * (1 + had)  # findings, and frontiers that do not reach a point
        table = study.analyse(pd.read_csv(files[0])).summary
        assert len(table) == len(full) * (1 + had)
        assert (table.perplexity_low <= table.perplexity).all()
        assert set(table.n) == {8}
