"""The law of speculative sampling against enumeration in fractions, and what rounding does to it."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precision_lab.errors import InputError
from precision_lab.formats import BF16, FP16, FP32, FP64
from precision_lab.laws.acceptance import (
    AcceptanceRule,
    acceptance_law,
    accepted_law,
    accepting_words,
    expected_accepted,
    match_rate,
    overlap,
    split,
)
from precision_lab.laws.law import target_law
from precision_lab.samplers.published.acceptance import ACCEPTANCE_RULES

COMPARISONS = ("u < p / q", "u <= p / q", "u q < p", "u q <= p")
EIGHTHS = st.lists(st.integers(0, 8), min_size=2, max_size=5).filter(any)


def row(weights: list[int]) -> list[Fraction]:
    """Probabilities over 64ths, the last of which takes the rest: float64 holds them."""
    total = sum(weights)
    found = [Fraction(64 * weight // total, 64) for weight in weights]
    found[max(range(len(found)), key=found.__getitem__)] += 1 - sum(found)
    return found


def floats(values: list[Fraction]) -> np.ndarray:
    return np.array([float(value) for value in values])


def enumerated(
    p: list[Fraction], q: list[Fraction], comparison: str, bits: int, certain: bool
) -> tuple[list[Fraction], Fraction]:
    """(law of the token emitted, share accepted): every draft, every word of u, every replacing token."""
    emitted, accepted = [Fraction(0)] * len(p), Fraction(0)
    for drafted, word in itertools.product(range(len(p)), range(2**bits)):
        if q[drafted] == 0:
            continue
        mass = q[drafted] / 2**bits
        left = Fraction(word, 2**bits) * (1 if certain else q[drafted])
        keeps = left < p[drafted] if "<=" not in comparison else left <= p[drafted]
        if keeps:
            emitted[drafted] += mass
            accepted += mass
            continue
        weights = [max(a - b, Fraction(0)) for a, b in zip(p, q, strict=True)]
        if certain:
            weights = [Fraction(0) if x == drafted else a for x, a in enumerate(p)]
        for x, weight in enumerate(weights):
            emitted[x] += mass * weight / sum(weights)
    return emitted, accepted


class TestAgainstEnumeration:
    @pytest.mark.parametrize("comparison", COMPARISONS)
    @pytest.mark.parametrize("certain", [False, True])
    @given(first=EIGHTHS, second=EIGHTHS, bits=st.integers(1, 5))
    @settings(max_examples=40, deadline=None)
    def test_every_draft_and_every_word(self, comparison, certain, first, second, bits):
        size = min(len(first), len(second))
        if not (any(first[:size]) and any(second[:size])):
            return
        p, q = row(first[:size]), row(second[:size])
        if max(p) == 1 or p == q:  # nothing to replace a token with
            return
        emitted, accepted = enumerated(p, q, comparison, bits, certain)
        found = acceptance_law(floats(p), floats(q), AcceptanceRule(comparison, bits, FP64, certain))
        assert found.rate == pytest.approx(float(accepted), abs=1e-15)
        assert np.abs(found.token.probs - floats(emitted)).max() <= found.token.error
        variation = sum(abs(a - b) for a, b in zip(p, emitted, strict=True)) / 2
        assert found.total_variation == pytest.approx(float(variation), abs=1e-14)

    @pytest.mark.parametrize(("format", "bits", "dtype"), [(FP16, 11, np.float16), (FP32, 12, np.float32)])
    @pytest.mark.parametrize("comparison", COMPARISONS)
    def test_words_as_numpy_rounds(self, format, bits, dtype, comparison):
        """Every word through NumPy's own division, product and comparison in the dtype."""
        rng = np.random.default_rng(0)
        p = rng.dirichlet(np.full(12, 0.3))
        q = np.append(p[:4] * (1 + 2.0**-11), rng.dirichlet(np.full(8, 0.3)) * (1 - p[:4].sum()))
        u = (np.arange(2**bits) / 2**bits).astype(dtype)
        with np.errstate(divide="ignore", under="ignore", over="ignore"):
            a, b = p.astype(dtype)[:, None], q.astype(dtype)[:, None]
            left, right = (u, a / b) if comparison.endswith("p / q") else (u * b, a)
        keeps = left <= right if "<=" in comparison else left < right
        found = accepting_words(p, q, AcceptanceRule(comparison, bits, format))
        assert found.tolist() == np.broadcast_to(keeps, (12, 2**bits)).sum(axis=1).tolist()


class TestWhatRoundingDoes:
    @pytest.mark.parametrize("bits", [11, 24, 53])
    def test_an_inclusive_comparison_keeps_what_the_target_cannot_draw(self, bits):
        """q(x) 2^-bits of it, in every such token; "u < p / q" keeps none."""
        p, q = np.array([0.75, 0.25, 0.0]), np.array([0.125, 0.125, 0.75])
        leak = acceptance_law(p, q, AcceptanceRule("u <= p / q", bits)).leaked
        assert leak == pytest.approx(0.75 * 2.0**-bits, rel=1e-12)
        assert acceptance_law(p, q, AcceptanceRule("u < p / q", bits)).leaked == 0

    def test_half_precision_keeps_rare_tokens_too_often(self):
        """r = 2^-13 is below the first of 2^11 words: "u < r" keeps the token at u = 0, four times too
        often."""
        p, q = np.array([2.0**-14, 1 - 2.0**-14]), np.array([0.5, 0.5])
        law = acceptance_law(p, q, AcceptanceRule("u < p / q", 11, FP16))
        assert law.accept[0] == 2.0**-11
        assert law.token.probs[0] == pytest.approx(0.5 * 2.0**-11, rel=1e-12)

    @pytest.mark.parametrize("comparison", COMPARISONS)
    def test_total_variation_is_at_most_one_word(self, comparison):
        """In float64 with 24 bits, at a real vocabulary: |a - r| <= 2^-24 for every token."""
        rng = np.random.default_rng(1)
        p = target_law(rng.normal(0, 3, 151_936)).probs
        q = target_law(np.log(p) + rng.normal(0, 0.5, len(p))).probs
        law = acceptance_law(p, q, AcceptanceRule(comparison, 24))
        assert 1e-10 < law.total_variation <= 2.0**-24
        assert law.rate == pytest.approx(law.overlap, abs=2.0**-24)
        assert law.token.probs.sum() == pytest.approx(1, abs=1e-12)

    def test_a_draft_of_another_law_than_it_is_taken_for(self):
        """Drawn from bfloat16 logits, judged by the float32 ones: the token is off by q'(x) a(x) - q(x)
        a(x)."""
        rng = np.random.default_rng(2)
        logits = rng.normal(0, 3, 500)
        p, q = target_law(logits + rng.normal(0, 1, 500)).probs, target_law(logits).probs
        drawn = target_law(BF16.round(logits)).probs
        assert acceptance_law(p, q, AcceptanceRule()).total_variation < 1e-14
        off = acceptance_law(p, q, AcceptanceRule(), drawn=drawn)
        accept = np.minimum(1, p / q)
        rest = 1 - drawn @ accept
        by_hand = drawn * accept + rest * np.maximum(p - q, 0) / np.maximum(p - q, 0).sum()
        assert np.allclose(off.token.probs, by_hand, rtol=0, atol=1e-14)
        assert off.total_variation > 1e-3


class TestTheTargetsOwnDraw:
    """Accept if the drafted token equals the target's own draw: the page of ``laws.acceptance``, by
    enumeration."""

    P = ([Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)], [Fraction(1, 5), Fraction(1, 5), Fraction(3, 5)])
    Q = (Fraction(1, 10), Fraction(1, 10), Fraction(4, 5))

    def outcomes(self, joint):
        """Two positions, the second reached if d = t at the first; else the text goes on with a true draw."""
        text: dict[tuple[int, int], Fraction] = {}
        accepted = Fraction(0)
        for (drafted, own), mass in joint.items():
            accepted += mass if drafted == own else 0
            for second, other in enumerate(self.P[1]):
                text[own, second] = text.get((own, second), Fraction(0)) + mass * other
        return text, accepted

    def test_independent_draws_give_the_target_and_lose_acceptance(self):
        joint = {(d, t): self.Q[d] * self.P[0][t] for d in range(3) for t in range(3)}
        text, accepted = self.outcomes(joint)
        assert text == {(a, b): self.P[0][a] * self.P[1][b] for a in range(3) for b in range(3)}
        assert accepted == sum(a * b for a, b in zip(self.P[0], self.Q, strict=True)) == Fraction(13, 60)
        assert sum(map(min, self.P[0], self.Q)) == Fraction(11, 30)

    def test_shared_noise_gives_the_target_too(self):
        """One uniform through both inverse CDFs: every atom of their common refinement."""
        edges = [list(itertools.accumulate(row)) for row in (self.Q, self.P[0])]
        cuts = sorted({Fraction(0), *edges[0], *edges[1]})
        joint: dict[tuple[int, int], Fraction] = {}
        for low, high in itertools.pairwise(cuts):
            at = tuple(next(i for i, edge in enumerate(row) if low < edge) for row in edges)
            joint[at] = joint.get(at, Fraction(0)) + high - low
        text, accepted = self.outcomes(joint)
        assert text == {(a, b): self.P[0][a] * self.P[1][b] for a in range(3) for b in range(3)}
        assert accepted != sum(a * b for a, b in zip(self.P[0], self.Q, strict=True))

    @given(first=EIGHTHS, second=EIGHTHS)
    @settings(max_examples=50, deadline=None)
    def test_taking_drafts_for_certain_is_the_same_law(self, first, second):
        """u < p(d), else p without d: accepted with probability p(d), as the target's own draw equals d."""
        size = min(len(first), len(second))
        if not (any(first[:size]) and any(second[:size])):
            return
        p, q = floats(row(first[:size])), floats(row(second[:size]))
        law = acceptance_law(p, q, AcceptanceRule(certain=True))
        assert law.rate == pytest.approx(match_rate(p, q), abs=1e-14)
        assert np.abs(law.token.probs - p).max() < 1e-14
        assert match_rate(p, q) <= overlap(p, q) + 1e-15

    @pytest.mark.parametrize("promise", ["ratio", "match"])
    def test_both_split_the_target(self, promise):
        p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.1, 0.8])
        kept, replaced = split(p, q, promise)
        assert np.allclose(kept + replaced, p, atol=1e-16)


class TestHowMany:
    @given(st.floats(0, 0.999), st.integers(1, 9))
    def test_leviathan_equation_1(self, rate, gamma):
        assert 1 + expected_accepted([rate] * gamma) == pytest.approx((1 - rate ** (gamma + 1)) / (1 - rate))

    def test_unequal_rates(self):
        assert accepted_law([0.5, 0.25]).tolist() == [0.5, 0.375, 0.125]
        assert expected_accepted([0.5, 0.25]) == 0.625


class TestPublishedRules:
    def test_which_leak(self):
        """Probabilities 0 in the target and not in the draft: kept at u = 0 by "<=", never by "<"."""
        p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
        leaks = {name: acceptance_law(p, q, rule).leaked for name, (rule, _) in ACCEPTANCE_RULES.items()}
        due = {"vllm_v1_float64": 2.0**-54}
        assert leaks == {name: pytest.approx(due.get(name, 2.0**-25), rel=1e-12) for name in ACCEPTANCE_RULES}
        assert ACCEPTANCE_RULES["sglang_target_only"][0].certain

    def test_every_rule_names_its_source(self):
        assert all("/" in source and " " in source for _, source in ACCEPTANCE_RULES.values())


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: AcceptanceRule("u > p / q"), "comparison 'u > p / q'"),
            (lambda: AcceptanceRule(bits=54), "bits = 54"),
            (lambda: acceptance_law(np.array([1.0, -1.0]), np.ones(2) / 2, AcceptanceRule()), "p of shape"),
            (lambda: acceptance_law(np.array([3.0, 1.0]), np.ones(2) / 2, AcceptanceRule()), "p of sum 4"),
            (lambda: acceptance_law(np.ones(2) / 2, np.ones(4) / 4, AcceptanceRule()), "rows of 2, 4 and 4"),
            (lambda: accepted_law([0.5, 1.5]), "rates"),
            (lambda: split(np.ones(1), np.ones(1), "any"), "promise 'any'"),
        ],
    )
    def test_is_named(self, make, said):
        with pytest.raises(InputError) as error:
            make()
        assert error.value.got.startswith(said)

    def test_rejected_drafts_that_nothing_replaces(self):
        """p = 1 / 3 twice and q like it, in float16: the row sums to less than 1, and (p - q)+ is zero."""
        p = np.array([0.25, 0.25, 0.5])
        rule = AcceptanceRule("u < p / q", 24, FP16)
        with pytest.raises(InputError, match="a residual to draw from"):
            acceptance_law(p, p * (1 + 2.0**-10), rule)
