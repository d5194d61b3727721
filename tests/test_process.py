"""The closed-form law of an ancestral step, and the decoder that jumps from event to event with it."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precision_lab import SAMPLERS, target_law
from precision_lab.errors import InputError
from precision_lab.laws.process import faithful_step, lattice_step, truncated_step
from precision_lab.mdm.decode import event_driven
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.samplers.gumbel_max import FP32_CEILING
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import mdm_step, normal, zipf

ROWS = Path(__file__).parent.parent / "models" / "mdm" / "logits.safetensors"
LAWS = {"faithful": faithful_step, "lattice": lattice_step, "truncated": partial(truncated_step, ceiling=FP32_CEILING)}


def toy(vocab: int = 3, seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    model = Denoiser(DenoiserConfig(vocab=vocab, layers=1, heads=2, width=16))
    for block in model.blocks:  # the blocks start at zero: give them something to say
        torch.nn.init.normal_(block.out.weight, std=0.5)
    torch.nn.init.normal_(model.embedding.weight, std=0.5)
    return model.eval().requires_grad_(False)


class TestStepLaws:
    @pytest.mark.parametrize("r", [5e-2, 1e-3, 1e-4])
    def test_the_lattice_is_the_exact_float32_law_of_real_rows(self, r):
        """The measured claim of the docstring: unmasking probability to 3e-5, total variation of the token to 1e-4."""
        log_p = target_law(load_capture(ROWS).logits[2].astype(np.float64)).log_probs
        exact = SAMPLERS["gumbel_max_fp32"].law(mdm_step(log_p, r)).probs[:-1]
        closed = lattice_step(log_p, r)
        assert abs(closed.sum() / exact.sum() - 1) < 3e-5
        assert np.abs(closed - exact).sum() / 2 / exact.sum() < 1e-4
        truncated = LAWS["truncated"](log_p, r)  # the control: the continuum is told apart
        assert abs(truncated.sum() / exact.sum() - 1) > 1e-4

    @pytest.mark.parametrize("bits", [8, 12])
    def test_fewer_bits_against_enumeration(self, bits):
        """A coarser lattice, judged by the race over its atoms: -log(-log u), u = k 2^-bits, scores in float32."""
        from precision_lab.atoms import Atoms
        from precision_lab.formats import FP32
        from precision_lab.laws.argmax import argmax_law

        with np.errstate(divide="ignore"):
            noise = Atoms.of(FP32.round(-np.log(-np.log(np.arange(1 << bits) / (1 << bits)))), 1, bits)
        log_p, r = normal(vocab=50, sd=1.0), 0.02
        exact = argmax_law(FP32.round(mdm_step(log_p, r)), noise, combine="add", score=FP32).probs[:-1]
        loss = 1 - exact.sum() / r  # what the lattice costs: the closed form explains all but a few per cent of it
        assert loss > 1e-3
        assert abs(lattice_step(log_p, r, bits=bits).sum() - exact.sum()) / r < 0.1 * loss

    @given(st.floats(1e-6, 0.5), st.integers(2, 60), st.sampled_from(sorted(LAWS)))
    def test_no_more_than_asked_and_faithful_where_the_noise_reaches(self, r, vocab, name):
        log_p = zipf(vocab)
        mass = LAWS[name](log_p, r)
        assert (mass >= 0).all()
        assert mass.sum() <= r + 2.0**-24 + 1e-12
        if r > 1e-2:
            np.testing.assert_allclose(mass, faithful_step(log_p, r), rtol=1e-3)

    @given(st.floats(1e-5, 0.3), st.randoms(use_true_random=False), st.sampled_from(sorted(LAWS)))
    def test_permuting_the_tokens_permutes_the_law(self, r, random, name):
        log_p = zipf(40)
        order = random.sample(range(40), 40)
        np.testing.assert_allclose(LAWS[name](log_p[order], r), LAWS[name](log_p, r)[order], rtol=1e-9)

    def test_impossible_tokens_stay_so(self):
        log_p = np.append(zipf(10), -np.inf)
        for law in LAWS.values():
            assert law(log_p, 1e-3)[-1] == 0


class TestEventDrivenCost:
    # that its law is that of brute force is tested in test_mdm.py, by enumeration
    def test_cost_is_events_not_steps(self):
        """50,000 steps of a faithful law: one candidate a token, at most one network call a token."""
        done = event_driven(
            toy(), faithful_step, batch=2, length=8, steps=50_000, rng=np.random.default_rng(0), excess=0.0
        )
        assert done.draws == 16
        assert done.nfe <= 16
        assert (done.tokens < 3).all()

    def test_one_step_decodes_everything(self):
        done = event_driven(toy(), lattice_step, batch=2, length=8, steps=1, rng=np.random.default_rng(0))
        assert done.nfe == 2
        assert (done.tokens < 3).all()

    def test_a_law_above_its_bound_is_refused(self):
        with pytest.raises(InputError, match="raise excess"):
            event_driven(
                toy(), lambda p, r: 2 * r * np.exp(p), batch=1, length=4, steps=9, rng=np.random.default_rng(0)
            )
