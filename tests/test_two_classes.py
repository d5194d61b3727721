"""The law of a head and many equal tokens against the general enumeration, fractions and the closed form.
No draws."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from precision_lab import SAMPLERS
from precision_lab.atoms import Atoms
from precision_lab.errors import InputError
from precision_lab.formats import BF16, FORMATS, FP16, FP32, FP64
from precision_lab.laws.argmax import argmax_law
from precision_lab.laws.law import target_law
from precision_lab.laws.reference import enumerate_argmax, numpy_score
from precision_lab.laws.two_classes import two_class_law
from precision_lab.samplers.head_and_tail import head_and_tail_law, true_tail
from precision_lab.targets.synthetic import head_and_tail
from precision_lab.types import Guarantee
from precision_lab.uniforms.cuda import TORCH_CUDA_EXPONENTIAL


def coarse_atoms(rng: np.random.Generator, combine: str, fmt) -> Atoms:
    """At most 16 values in the format, with equal scores among them, 0 and infinity included."""
    values = rng.integers(0, 8, 16) / 4 if combine == "divide" else rng.integers(-6, 7, 16) / 4
    values = values.astype(np.float64)
    values[rng.integers(16)] = np.inf if rng.random() < 0.5 else values[0]
    return Atoms.of(fmt.round(values), 1, 4)


class TestAgainstEnumeration:
    @pytest.mark.parametrize("fmt", [FP16, BF16, FP32, FP64], ids=lambda f: f.name)
    @pytest.mark.parametrize("combine", ["add", "divide"])
    def test_is_the_general_law(self, combine, fmt):
        """40 random races of up to 60 equal tokens, most of their scores tied."""
        rng = np.random.default_rng([*combine.encode(), fmt.precision])
        for _ in range(40):
            atoms, count = coarse_atoms(rng, combine, fmt), int(rng.integers(1, 60))
            head, tail = fmt.round(rng.choice([0.25, 0.3, 0.5, 1.0], 2)).tolist()
            law = two_class_law(head, tail, count, atoms, combine=combine, score=fmt)
            full = argmax_law(
                np.array([head] + [tail] * count), atoms, combine=combine, score=fmt, tolerance=1e-15
            )
            np.testing.assert_allclose(law.probs, [full.probs[0], full.probs[1:].sum()], rtol=0, atol=5e-12)
            assert law.guarantee is Guarantee.EXACT

    def test_ties_go_to_the_head_in_fractions(self):
        coin = ((1.0, Fraction(1, 2)), (2.0, Fraction(1, 2)))
        expected = enumerate_argmax([1.0, 1.0, 1.0], coin, numpy_score("add", np.float32))
        law = two_class_law(1.0, 1.0, 2, Atoms.of(np.array([1.0, 2.0]), 1, 1), combine="add", score=FP32)
        np.testing.assert_allclose(
            law.probs, [float(expected[0]), float(expected[1] + expected[2])], atol=1e-12
        )

    @pytest.mark.parametrize("gap", [17.0, 18.0, 19.0])
    def test_a_tail_that_outnumbers_memory_follows_the_lattice(self, gap):
        """Up to 18 million tokens, E = k 2^-24 each, against a continuous head: with y = 2^-24 e^gap and
        the tail mass t in units of the head's, P(tail) = 1 - (1 - e^-y) / (1 - e^-(1 + t) y). To 1e-4, what
        the rounding of scores moves, and two words of the head, u = 0 among them."""
        law = head_and_tail_law(SAMPLERS["gumbel_max_fp32"], gap)
        y = 2.0**-24 * math.exp(gap)
        expected = 1.0 - math.expm1(-y) / math.expm1(-1.1 * y)
        assert law.probs[1] == pytest.approx(expected, rel=1e-4, abs=2.0**-23)


class TestSamplers:
    @pytest.mark.parametrize(
        "name", ["gumbel_max_fp32", "gumbel_max_bf16", "mdlm_fp32", "torch_multinomial_fp32"]
    )
    def test_is_the_law_at_the_logits(self, name):
        """The softmax of torch may be an ulp of float32 off: 2^-22 of the tail."""
        sampler, logits = SAMPLERS[name], head_and_tail(9.0)
        law, full = head_and_tail_law(sampler, 9.0), sampler.law(logits)
        assert law.probs[1] == pytest.approx(full.probs[1:].sum(), rel=2.0**-20)

    def test_a_bound_is_that_of_the_whole_vocabulary(self):
        sampler, logits = SAMPLERS["torch_multinomial_fp32"], head_and_tail(9.0)
        assert head_and_tail_law(sampler, 9.0).error == pytest.approx(
            sampler.law(logits).error, rel=1e-12, abs=0
        )

    def test_an_emulated_law_says_so(self, monkeypatch):
        """On the atoms of 24 bits, which stand in for the 84 million of the source."""
        atoms = SAMPLERS["mdlm_fp32"].noise_atoms()
        sampler = SAMPLERS["torch_cuda_race_fp32"]
        monkeypatch.setattr(type(sampler.source), "push", lambda source, function: atoms)
        monkeypatch.setattr(type(sampler.source), "emulated", "an H100's logarithm")
        law = head_and_tail_law(sampler, 9.0)
        assert law.guarantee is Guarantee.EMULATED
        assert "an H100's logarithm" in law.how
        assert law.error > TORCH_CUDA_EXPONENTIAL["fp32"].relative_bound


class TestErrors:
    ATOMS = Atoms.of(np.array([1.0, 2.0]), 1, 1)

    @pytest.mark.parametrize(
        ("head", "tail", "count", "combine"),
        [(1.0, 1.0, 0, "add"), (math.inf, 1.0, 1, "add"), (1.0, 0.0, 1, "divide"), (1.0, 1.0, 1, "ratio")],
    )
    def test_refused(self, head, tail, count, combine):
        with pytest.raises(InputError):
            two_class_law(head, tail, count, self.ATOMS, combine=combine, score=FORMATS["fp32"])

    @pytest.mark.parametrize("name", ["inverse_cdf_fp32", "gumbel_max_fp64", "torch_gumbel_softmax_fp16"])
    def test_other_samplers(self, name):
        with pytest.raises(InputError):
            head_and_tail_law(SAMPLERS[name], 9.0)

    def test_no_tail(self):
        with pytest.raises(InputError, match="at least one"):
            head_and_tail_law(SAMPLERS["gumbel_max_fp32"], 1.0)

    def test_the_target_has_the_tail_that_the_logits_have(self):
        law = head_and_tail_law(SAMPLERS["torch_multinomial_fp32"], 9.0)
        np.testing.assert_allclose(law.probs[0], target_law(head_and_tail(9.0)).probs[0], rtol=1e-12)
        assert law.probs[1] == pytest.approx(true_tail(9.0), rel=1e-12, abs=0)
