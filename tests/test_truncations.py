"""Draws of truncated laws against raw logits: the truncation is named, with its parameter, and not a
temperature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from precision_lab.laws.law import target_law
from precision_lab.pipelines import parse_pipeline
from precision_lab.statistics import Counts
from precision_lab.targets import Target, parse_target
from precision_lab.verdict.audit import audit
from precision_lab.verdict.plan import ask
from precision_lab.verdict.suspects import FAITHFUL, TEMPERATURE, suspects
from precision_lab.verdict.truncations import Prefixes, RowTruncations, truncations

TARGETS = ("zipf[vocab=500]", "normal[vocab=500,seed=1]", "normal[vocab=500,sd=1,seed=2]")


def drawn(text, names=TARGETS, n=20_000, seed=0):
    """Laws of raw logits, and counts of draws of what the pipeline leaves."""
    rng = np.random.default_rng(seed)
    targets = [parse_target(name) for name in names]
    laws = [target_law(target.logits) for target in targets]
    steps = parse_pipeline(text)
    counts = [counted(rng.multinomial(n, _probs(steps.law(target.logits)))) for target in targets]
    return targets, laws, counts


def counted(counts):
    return Counts(counts, int(counts.sum()))


def _probs(law):
    return law.probs / law.probs.sum()


class TestEvidence:
    @pytest.mark.parametrize("size", [1, 2, 5, 9])
    def test_the_likelihood_is_that_of_the_cut_law(self, size):
        """By definition: the log ratio of the truncated law's probabilities to the whole law's, draw by
        draw."""
        law = target_law(np.log([0.3, 0.05, 0.2, 0.1, 0.1, 0.05, 0.1, 0.06, 0.04]))
        pick = np.argsort(-law.probs, kind="stable")[:size]
        counts = np.zeros(9, dtype=np.int64)
        counts[pick] = np.arange(1, size + 1)
        prefix = Prefixes.of(law, counted(counts))
        assert prefix.least == size
        cut = prefix.cut(law, size)
        by_draw = float(counts[pick] @ (cut.log_probs[pick] - law.log_probs[pick]))
        assert by_draw == pytest.approx(-counts.sum() * np.log(prefix.mass[size - 1]), abs=1e-12)

    def test_top_k_evidence_by_enumeration(self):
        law = target_law(np.log([0.5, 0.25, 0.125, 0.125]))
        counts = counted(np.array([3, 2, 0, 0]))
        prior = np.array([1, 1 / 2, 1 / 3, 1 / 4])
        prior /= prior.sum()
        likelihood = np.array([0, 0.75**-5, 0.875**-5, 1.0])
        (top_k, *_) = truncations([law], [counts])
        assert top_k.evidence == pytest.approx(np.log(prior @ likelihood), abs=1e-12)
        assert top_k.recipe == "truncated: top-k about 2"

    def test_top_p_evidence_by_integration(self):
        law = target_law(np.log([0.5, 0.25, 0.125, 0.125]))
        counts = counted(np.array([3, 2, 0, 0]))
        p = (np.arange(100_000) + 0.5) / 100_000
        size = 1 + np.searchsorted([0.5, 0.75, 0.875], p, side="left")
        likelihood = np.where(size >= 2, np.array([0.5, 0.75, 0.875, 1.0])[size - 1] ** -5.0, 0.0)
        found = {each.recipe.split()[1]: each for each in truncations([law], [counts])}
        assert found["top-p"].evidence == pytest.approx(np.log(likelihood.mean()), abs=1e-4)

    def test_min_p_evidence_by_integration(self):
        law = target_law(np.log([0.5, 0.25, 0.125, 0.125]))
        counts = counted(np.array([3, 2, 0, 0]))
        ratio = np.exp(np.log(1e-6) * (np.arange(200_000) + 0.5) / 200_000)
        mass = np.where(ratio > 0.5, 0.5, np.where(ratio > 0.25, 0.75, 1.0))
        likelihood = np.where(ratio > 0.5, 0.0, mass**-5.0)
        prefixes = truncations([law], [counts])
        found = {each.recipe.split()[1]: each.evidence for each in prefixes}
        assert special.logsumexp(found["min-p"]) == pytest.approx(np.log(likelihood.mean()), abs=1e-4)

    def test_draws_of_the_whole_law_are_not_called_truncated(self):
        """Twenty sets of 20,000 draws of three laws; a tail token unseen is no evidence."""
        for seed in range(20):
            targets, laws, counts = drawn("temperature=1", seed=seed)
            assert all(each.evidence < 3 for each in truncations(laws, counts))
            assert targets


class TestSuspects:
    @pytest.mark.parametrize(
        ("text", "family", "value", "near"),
        [("top_p=0.9", "top-p", 0.9, 0.01), ("top_k=40", "top-k", 40, 0), ("min_p=0.02", "min-p", 0.02, 0.002)],
    )
    def test_the_truncation_is_named(self, text, family, value, near):
        targets, _, counts = drawn(text)
        best = suspects([ask(target, dtype=np.float64) for target in targets], counts)[0]
        assert best.recipe.startswith(f"truncated: {family} about ")
        assert abs(float(best.recipe.split()[-1]) - value) <= near
        assert best.posterior > 0.95

    @pytest.mark.parametrize("text", ["top_p=0.9", "top_k=40", "min_p=0.02"])
    def test_one_row_names_a_truncation_if_not_which(self, text):
        targets, _, counts = drawn(text, TARGETS[:1])
        listed = suspects([ask(targets[0], dtype=np.float64)], counts)
        assert listed[0].recipe.startswith("truncated: ")
        assert sum(each.posterior for each in listed if each.recipe.startswith("truncated: ")) > 0.99

    def test_a_temperature_before_it_is_named_too(self):
        targets, _, counts = drawn("temperature=0.7 > top_k=40")
        best = suspects([ask(target, dtype=np.float64) for target in targets], counts)[0]
        assert best.recipe == f"{TEMPERATURE}, and truncated: top-k about 40"
        assert "T = 0.7" in best.how or "T = 0.69" in best.how

    def test_a_temperature_alone_is_not_called_truncated(self):
        targets, _, counts = drawn("temperature=0.8")
        listed = suspects([ask(target, dtype=np.float64) for target in targets], counts)
        assert TEMPERATURE in listed[0].recipe
        assert listed[0].recipe == TEMPERATURE or listed[1].recipe == TEMPERATURE

    def test_right_draws_are_not_called_truncated(self):
        targets, _, counts = drawn("temperature=1")
        listed = suspects([ask(target, dtype=np.float64) for target in targets], counts)
        assert FAITHFUL in [each.recipe for each in listed if each.posterior > 0.05]


class TestRows:
    def rows(self, text, n=2000, seed=0):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(n, 60)) * rng.uniform(0.5, 3, size=(n, 1))
        steps = parse_pipeline(text)
        tokens = np.array([rng.choice(60, p=_probs(steps.law(row))) for row in logits])
        return logits, tokens

    @pytest.mark.parametrize(
        ("text", "family", "value", "near"),
        [("top_p=0.9", "top-p", 0.9, 0.01), ("top_k=8", "top-k", 8, 1), ("min_p=0.05", "min-p", 0.05, 0.005)],
    )
    def test_the_family_and_its_value(self, text, family, value, near):
        found = RowTruncations().update(*self.rows(text)).found()
        best = max(found, key=lambda each: each[2])[0]
        assert best.startswith(f"truncated: {family} about ")
        assert abs(float(best.split()[-1]) - value) <= near

    def test_whole_rows(self):
        assert [
            each for each in RowTruncations().update(*self.rows("temperature=1")).found() if each[2] > 3
        ] == []

    def test_audit_says_it(self, tmp_path):
        logits, tokens = self.rows("top_p=0.9")
        path = tmp_path / "draws.npz"
        np.savez(path, tokens=tokens, logits=logits)
        report = audit(path, path, detect="temperature=0.9")
        assert report.suspects[0].recipe.startswith("truncated: top-p about 0.9")

    def test_audit_of_one_row_says_it(self, tmp_path):
        row = parse_target("zipf[vocab=500]").logits
        tokens = np.random.default_rng(0).choice(500, 20_000, p=_probs(parse_pipeline("top_p=0.9").law(row)))
        path = tmp_path / "draws.npz"
        np.savez(path, tokens=tokens, logits=row)
        report = audit(path, path)
        assert "best fit: truncated" in report.best_fit()
        assert isinstance(Target("row", row, "a test"), Target)
