"""The closed-form law of an ancestral step, and the law of a whole run made of such steps.

Oracles: enumeration of atoms, exact fractions, and real decoding by brute force with a network that ignores
its input.
"""

import math
import tracemalloc
from collections import Counter
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precision_lab import SAMPLERS, target_law
from precision_lab.atoms import Atoms
from precision_lab.errors import InputError
from precision_lab.formats import FP32
from precision_lab.laws.argmax import argmax_law
from precision_lab.laws.law import Law
from precision_lab.laws.process import (
    RunLaw,
    autoregressive_law,
    faithful_step,
    first_hitting_law,
    interpolation,
    lattice_step,
    run_law,
    step_law_of,
    times_alone,
    tokens_alone,
    truncated_step,
    two_stage_step,
)
from precision_lab.mdm.decode import ancestral, event_driven
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.samplers.gumbel_max import FP32_CEILING
from precision_lab.statistics import effective_temperature, entropy, tail_test, total_variation
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import mdm_step, normal, zipf
from precision_lab.types import Guarantee

ROWS = Path(__file__).parent.parent / "models" / "mdm" / "logits.safetensors"
LAWS = {
    "faithful": faithful_step,
    "lattice": lattice_step,
    "truncated": partial(truncated_step, ceiling=FP32_CEILING),
}


def coarse(bits: int) -> Atoms:
    """-log(-log u), u = k 2^-bits, as float32."""
    with np.errstate(divide="ignore"):
        return Atoms.of(FP32.round(-np.log(-np.log(np.arange(1 << bits) / (1 << bits)))), 1, bits)


def row(index: int) -> np.ndarray:
    return target_law(load_capture(ROWS).logits[index].astype(np.float64)).log_probs


def conditional(law, log_p: np.ndarray, r: float) -> Law:
    """The token given that it is unmasked."""
    mass = law(log_p, r)
    return Law.from_probs(mass / mass.sum(), "", 0.0, Guarantee.EXACT)


class TestStepLaws:
    @pytest.mark.slow
    @pytest.mark.parametrize("r", [5e-2, 1e-3, 1e-4])
    def test_the_lattice_is_the_exact_float32_law_of_real_rows(self, r):
        """The measured claim of the docstring: unmasking probability to 3e-5, total variation of the token
        to 1e-4."""
        log_p, noise = row(2), SAMPLERS["gumbel_max_fp32"].noise_atoms()
        weights = mdm_step(log_p, r).astype(np.float32).astype(np.float64)
        exact = argmax_law(weights, noise, combine="add", score=FP32, tolerance=1e-9).probs[:-1]
        closed = lattice_step(log_p, r)
        assert abs(closed.sum() / exact.sum() - 1) < 3e-5
        assert np.abs(closed - exact).sum() / 2 / exact.sum() < 1e-4
        truncated = LAWS["truncated"](log_p, r)  # the control: the continuum is told apart
        assert abs(truncated.sum() / exact.sum() - 1) > 1e-4

    @pytest.mark.parametrize("r", [0.3, 5e-2, 1e-2, 1e-3])
    def test_a_lattice_of_16_bits_on_a_real_row(self, r):
        """The same, 256 times coarser, by a race over 65,536 atoms: 5 to 58 % of the unmasking is lost, and
        the closed form has it to 0.1 %, the continuum of Prop. 5.2 not to 2 %."""
        log_p = row(2)
        exact = argmax_law(FP32.round(mdm_step(log_p, r)), coarse(16), combine="add", score=FP32).probs[:-1]
        closed = lattice_step(log_p, r, bits=16)
        assert exact.sum() / r < 0.95
        assert abs(closed.sum() / exact.sum() - 1) < 1e-3
        assert np.abs(closed - exact).sum() / 2 / exact.sum() < 1.2e-3
        truncated = truncated_step(log_p, r, ceiling=coarse(16).ceiling)
        assert abs(truncated.sum() / exact.sum() - 1) > 2e-2

    @pytest.mark.parametrize("bits", [8, 12])
    def test_fewer_bits_against_enumeration(self, bits):
        """A coarser lattice, judged by the race over its atoms: -log(-log u), u = k 2^-bits, scores in
        float32."""
        log_p, r = normal(vocab=50, sd=1.0), 0.02
        exact = argmax_law(FP32.round(mdm_step(log_p, r)), coarse(bits), combine="add", score=FP32).probs[:-1]
        # what the lattice costs: the closed form explains all but a few per cent of it
        loss = 1 - exact.sum() / r
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

    @pytest.mark.parametrize(
        ("steps", "lattice", "truncated"),
        [
            (128, (0.922, 7.155), (0.879, 6.903)),
            (1024, (0.750, 6.042), (0.699, 5.720)),
            (5000, (0.610, 5.091), (0.560, 4.764)),
            (50_000, (0.410, 3.680), (0.358, 3.328)),
        ],
    )
    def test_zipf_at_half_time_is_the_exact_law_of_the_log(self, steps, lattice, truncated):
        """Multiplier and entropy of the unmasked token at t = 0.5; the exact laws took a race over 2^24
        atoms."""
        log_p, r = zipf(50257), 2 / steps
        for name, (multiplier, nats) in (("lattice", lattice), ("truncated", truncated)):
            assert LAWS[name](log_p, r).sum() / r == pytest.approx(multiplier, abs=6e-4)
            assert entropy(conditional(LAWS[name], log_p, r)) == pytest.approx(nats, abs=2e-3)

    def test_the_word_zero_of_the_mask_is_what_the_design_value_lacked(self):
        """0.408 and 3.66 nats at N = 50,000 leave out u = 0 of the mask: d / r = 0.0015 more unmasking,
        from p itself."""
        log_p, r, d = zipf(50257), 2 / 50_000, 2.0**-24
        without = lattice_step(log_p, r) - d * np.exp(log_p)
        assert without.sum() / r == pytest.approx(0.4085, abs=2e-4)
        assert lattice_step(log_p, r).sum() / r - without.sum() / r == pytest.approx(d / r, rel=1e-9)

    @pytest.mark.parametrize("bits", [8, 12])
    def test_without_a_mask_it_is_one_draw(self, bits):
        """r = 1, renormalised, against the race over the atoms: what is left of the deviation is second
        order."""
        log_p = normal(vocab=60, sd=2.0)
        exact = argmax_law(FP32.round(log_p), coarse(bits), combine="add", score=FP32)
        found = autoregressive_law(log_p, partial(lattice_step, bits=bits)).token
        deviation = total_variation(exact, target_law(log_p))
        assert deviation > 2.0**-bits
        assert total_variation(exact, found) < 0.15 * deviation

    @pytest.mark.slow
    def test_without_a_mask_it_is_one_draw_in_float32(self):
        """A real row of 8,192 tokens: the law is 2e-4 from the target and 1e-7 from the closed form. About
        a minute."""
        log_p, noise = row(2), SAMPLERS["gumbel_max_fp32"].noise_atoms()
        weights = log_p.astype(np.float32).astype(np.float64)
        exact = argmax_law(weights, noise, combine="add", score=FP32, tolerance=1e-9)
        assert total_variation(exact, target_law(log_p)) > 1e-4
        assert total_variation(exact, autoregressive_law(log_p, lattice_step).token) < 2e-7

    def test_the_law_of_any_sampler(self):
        """``step_law_of`` appends the mask and asks: the same probabilities as a row made by hand; at r = 1
        no mask."""
        log_p = normal(vocab=30, sd=2.0)
        law = step_law_of(SAMPLERS["gumbel_max_bf16"].law)
        for r in (1e-3, 0.25, 1.0):
            by_hand = SAMPLERS["gumbel_max_bf16"].law(mdm_step(log_p, r)).probs
            np.testing.assert_array_equal(law(log_p, r), by_hand[:-1])
            assert by_hand[-1] == pytest.approx(1 - law(log_p, r).sum(), abs=1e-12)
        assert law(log_p, 1.0).sum() == pytest.approx(1, abs=1e-12)
        assert law(log_p, 1e-5).sum() > 100e-5  # u = 0 of the mask: half precision unmasks far too often


def run_in_fractions(p: list[Fraction], steps: int, share) -> tuple[list[Fraction], list[Fraction]]:
    """(law of the time, law of the token) of a run whose step gives share(j, r) r p_j: every path, one step
    at a time."""
    alive, time, token = Fraction(1), [], [Fraction(0)] * len(p)
    for i in range(steps):
        r = Fraction(1, steps - i)
        q = [share(j, r) * r * x for j, x in enumerate(p)]
        if i == steps - 1:
            q = [x / sum(q) for x in q]
        time.append(alive * sum(q))
        token = [t + alive * x for t, x in zip(token, q, strict=True)]
        alive *= 1 - sum(q)
    return time, token

    @pytest.mark.parametrize("r", [-0.1, 1.1, 2.0, math.nan])
    @pytest.mark.parametrize(
        "step_law",
        [
            faithful_step,
            lattice_step,
            two_stage_step,
            lambda log_p, r: truncated_step(log_p, r, ceiling=16.6355),
            tokens_alone(faithful_step),
            times_alone(faithful_step),
        ],
    )
    def test_no_share_of_masks(self, step_law, r):
        with pytest.raises(InputError, match="r = "):
            step_law(np.log([0.25, 0.75]), r)

    @pytest.mark.parametrize("r", [1e-12, 1e-300, 5e-324])
    def test_the_rarest_token_of_a_truncated_step_is_never_nan(self, r):
        step = truncated_step(np.array([0.0, -700.0]), r, ceiling=16.6355)
        assert (step == 0).all()  # a mass of 1e-12 needs 11 nats more than the ceiling leaves


class TestRunLaw:
    @pytest.mark.parametrize("steps", [1, 2, 5, 20, 21, 60, 100])
    def test_against_exact_fractions(self, steps):
        """A made-up sampler that starves tokens as r falls, rational in r: share_j = r / (r + j / 10). 60
        and 100 steps are interpolated (it is a mixture of exponentials in 1/r), and go through both kinds
        of runs of steps."""
        p = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 12), Fraction(1, 12)]
        time, token = run_in_fractions(p, steps, lambda j, r: r / (r + Fraction(j, 10)))

        def starved(log_p, r):
            return r * np.exp(log_p) * r / (r + np.arange(4) / 10)

        for smooth in (True, False):
            found = run_law(np.log([float(x) for x in p]), steps, starved, smooth=smooth)
            np.testing.assert_allclose(found.time, [float(x) for x in time], rtol=1e-12)
            assert np.abs(found.token.probs - [float(x) for x in token]).max() <= found.token.error
            np.testing.assert_allclose(
                found.survival[:-1], 1 - np.cumsum([float(x) for x in time])[:-1], rtol=1e-11
            )
            assert found.survival[-1] == pytest.approx(0, abs=1e-15)
            assert found.left == pytest.approx(float(time[-1]), rel=1e-12)
            asked = sum(float(sum(time[i:])) / (steps - i) for i in range(steps))
            assert found.mean_multiplier == pytest.approx(1 / asked, rel=1e-12)
            assert found.token.guarantee is (Guarantee.CERTIFIED if smooth and steps > 40 else Guarantee.EXACT)

    @pytest.mark.parametrize("name", sorted(LAWS))
    @pytest.mark.parametrize("steps", [41, 47, 1000])
    def test_interpolation_is_below_the_rounding(self, name, steps):
        """Every step evaluated, against 20 points an octave, on a real row: the proved bound, and the
        entropy that has none."""
        fast, slow = (run_law(row(2), steps, LAWS[name], smooth=smooth) for smooth in (True, False))
        np.testing.assert_allclose(fast.given, slow.given, rtol=1e-12)
        np.testing.assert_allclose(fast.time, slow.time, rtol=1e-12)
        np.testing.assert_allclose(fast.entropy, slow.entropy, atol=1e-11)
        assert np.abs(fast.token.probs / slow.token.probs - 1).max() < 1e-10
        assert np.abs(fast.token.probs - slow.token.probs).max() < fast.token.error

    def test_fewer_points_would_be_seen(self, monkeypatch):
        """The control of the two tests above: with 6 points an octave the step that is compared tells."""
        monkeypatch.setattr("precision_lab.laws.process._NODES", 6)
        with pytest.raises(InputError, match="smooth=False"):
            run_law(row(2), 1000, lattice_step)

    def test_a_law_with_jumps_is_refused_and_can_be_summed(self):
        law, log_p = step_law_of(SAMPLERS["gumbel_max_bf16"].law), normal(vocab=12)
        with pytest.raises(InputError, match="off its interpolant"):
            run_law(log_p, 60, law)
        found = run_law(log_p, 60, law, smooth=False)
        assert found.token.probs.sum() == pytest.approx(1, abs=1e-12)
        assert found.given[[0, 37]] == pytest.approx([law(log_p, 1 / k).sum() for k in (60, 23)], rel=1e-12)
        assert found.mean_multiplier < 0.9

    @pytest.mark.parametrize(("sampler", "steps"), [("gumbel_max_bf16", 6), ("gumbel_max_fp16", 3)])
    def test_real_decoding_by_brute_force_and_by_events(self, sampler, steps):
        """A network that ignores its input keeps mu fixed: the run's law is then the law of each position.
        8 tokens, 24,000 positions, exact binomial tests with a union bound: false-fail rate 1e-6 each; sees
        a token of probability 0.1 off by 19 %. The faithful law of the token is refused (control)."""
        model = Denoiser(DenoiserConfig(8, 1, 2, 16))
        model.embedding.weight.data.zero_()
        model.bias.data = torch.tensor(normal(vocab=8, sd=3.0)).float()
        mu = model.log_probs(torch.zeros(16)).double().detach().numpy()
        law = step_law_of(SAMPLERS[sampler].law)
        found, faithful = run_law(mu, steps, law, smooth=False).token, target_law(mu)
        once = cache(lambda r: law(mu, r))
        size = {"batch": 8000, "length": 3, "steps": steps}
        brute = ancestral(model, SAMPLERS[sampler], **size, rng=np.random.default_rng(1))
        events = event_driven(model, lambda _, r: once(r), **size, rng=np.random.default_rng(2), excess=0.05)
        for decoded in (brute, events):
            assert worst_p_value(decoded.tokens, found) > 1e-6
        if sampler == "gumbel_max_bf16":
            assert worst_p_value(brute.tokens, faithful) < 1e-6

    @pytest.mark.parametrize("steps", [1, 9, 50_000])
    def test_a_faithful_run(self, steps):
        """Survival 1 - (i + 1) / N, every step equally likely, the token mu, nothing lost."""
        found, log_p = run_law(zipf(500), steps, faithful_step), zipf(500)
        np.testing.assert_allclose(found.survival, 1 - np.arange(1, steps + 1) / steps, atol=1e-11)
        np.testing.assert_allclose(found.time, 1 / steps, rtol=1e-7)
        np.testing.assert_allclose(found.multiplier, 1, rtol=1e-12)
        np.testing.assert_allclose(found.token.probs, np.exp(log_p), rtol=1e-10)
        assert found.entropy_lost == pytest.approx(0, abs=1e-9)
        assert found.target_entropy == pytest.approx(entropy(target_law(log_p)))

    def test_zipf_in_1024_steps(self):
        """What "averaged over a 1024-step run" can mean, Zipf(1) over 50,257 tokens, float32. The plain
        mean over steps is 0.8956 and -1.380 nats; what tokens really get is less, because they come later,
        where less is lost: 0.9047, -1.245.
        """
        log_p = zipf(50257)
        found, target = run_law(log_p, 1024, lattice_step), target_law(log_p)
        assert found.target_entropy - found.entropy.mean() == pytest.approx(1.380, abs=1e-3)
        assert found.entropy_lost == pytest.approx(1.2446, abs=1e-3)
        assert effective_temperature(found.token, target).temperature.value == pytest.approx(0.9047, abs=1e-4)
        heat = [  # 64 strata of 16 steps, by their middles
            effective_temperature(conditional(lattice_step, log_p, 1 / k), target).temperature.value
            for k in np.arange(8.5, 1024, 16)
        ]
        assert np.mean(heat) == pytest.approx(0.8956, abs=3e-4)
        assert found.mean_multiplier == pytest.approx(0.7851, abs=1e-4)
        assert found.left * 1024 == pytest.approx(1.8516, abs=1e-3)  # the last step has nearly twice its share
        assert run_law(log_p, 1024, LAWS["truncated"]).entropy_lost == pytest.approx(1.5065, abs=1e-3)

    @given(st.integers(1, 300), st.integers(1, 30), st.sampled_from(sorted(LAWS)), st.floats(-50, 50))
    def test_laws_are_laws(self, steps, vocab, name, shift):
        found = run_law(zipf(vocab) + shift, steps, LAWS[name])
        assert found.time.min() >= 0
        assert found.time.sum() == pytest.approx(1, abs=1e-12)
        assert found.token.probs.sum() == pytest.approx(1, abs=1e-12)
        assert (np.diff(found.survival) <= 0).all()
        np.testing.assert_allclose(np.cumsum(found.time), 1 - found.survival, atol=1e-12)
        assert found.multiplier.max() < 1 + 2.0**-24 * steps + 1e-9

    @given(st.integers(2, 200), st.randoms(use_true_random=False), st.sampled_from(sorted(LAWS)))
    def test_permuting_the_tokens_permutes_the_run(self, steps, random, name):
        log_p, order = zipf(25), random.sample(range(25), 25)
        a, b = run_law(log_p, steps, LAWS[name]), run_law(log_p[order], steps, LAWS[name])
        np.testing.assert_allclose(b.token.probs, a.token.probs[order], rtol=1e-9)
        np.testing.assert_allclose(b.time, a.time, rtol=1e-9)

    @pytest.mark.parametrize("name", sorted(LAWS))
    def test_impossible_tokens_and_a_single_one(self, name):
        with_hole = run_law(np.append(zipf(10), -np.inf), 300, LAWS[name])
        without = run_law(zipf(10), 300, LAWS[name])
        assert with_hole.token.probs[-1] == 0
        np.testing.assert_allclose(with_hole.token.probs[:-1], without.token.probs, rtol=1e-9)
        alone = run_law(np.zeros(1), 300, LAWS[name])
        assert alone.token.probs[0] == pytest.approx(1)
        assert alone.entropy_lost == pytest.approx(0, abs=1e-12)

    def test_coarser_noise_and_more_steps_cost_more(self):
        lost = [
            [run_law(row(2), n, partial(lattice_step, bits=b)).entropy_lost for b in (16, 20, 24, 32)]
            for n in (64, 4096)
        ]
        assert (np.diff(lost, axis=1) < 0).all()
        assert (np.diff(lost, axis=0) > 0).all()
        assert lost[0][3] < 1e-3 < 1 < lost[1][0]

    def test_memory_is_that_of_a_few_rows(self):
        """50,000 steps over 50,257 tokens would be 20 GB as an array."""
        tracemalloc.start()
        found = run_law(zipf(50257), 50_000, lattice_step)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.time.sum() == pytest.approx(1, abs=1e-10)
        assert peak < 64 * 2**20

    @pytest.mark.parametrize(
        ("log_probs", "said"),
        [
            (np.array([0.0, math.nan]), "NaN"),
            (np.array([0.0, math.inf]), "inf"),
            (np.full(3, -math.inf), "all -inf"),
            (np.zeros(0), "empty"),
            (np.zeros((2, 2)), "one row"),
            (np.arange(3), "floating"),
        ],
    )
    def test_bad_rows(self, log_probs, said):
        with pytest.raises(InputError, match=said):
            run_law(log_probs, 4, faithful_step)

    def test_bad_sizes_and_bad_laws(self):
        with pytest.raises(InputError, match="steps = 0"):
            run_law(zipf(3), 0, faithful_step)
        with pytest.raises(InputError, match="length = 0"):
            first_hitting_law(zipf(3), 0, faithful_step)
        for no_number in (1.5, "3", None, True, math.nan):
            with pytest.raises(InputError, match=r"steps = .*; expected a whole number"):
                run_law(zipf(3), no_number, faithful_step)
            with pytest.raises(InputError, match=r"length = .*; expected a whole number"):
                first_hitting_law(zipf(3), no_number, faithful_step)
        for step in (faithful_step, lattice_step, LAWS["truncated"]):
            for no_share in (-0.1, 1.1, math.nan, "0.5", None):
                with pytest.raises(InputError, match="expected a probability, 0 to 1"):
                    step(np.log([0.25, 0.75]), no_share)
        for wrong in (
            lambda p, r: 3 * r * np.exp(p),  # more than 1 at r = 1/2
            lambda p, r: -r * np.exp(p),
            lambda p, r: np.full(3, math.nan),
            lambda p, r: np.exp(p) * (r if r < 1 else 0),  # nothing to renormalise in the last step
        ):
            with pytest.raises(InputError, match="a step law of mass"):
                run_law(zipf(3), 4, wrong)


def worst_p_value(tokens: torch.Tensor, law: Law) -> float:
    """Exact binomial p-value of the worst token, times the number of tokens."""
    counts, n = Counter(tokens.flatten().tolist()), tokens.numel()
    return min(
        1.0, law.vocab * min(tail_test(counts[j], n, p).p_value for j, p in enumerate(law.probs) if 0 < p < 1)
    )


class TestWithoutAMask:
    def test_first_hitting_is_one_draw_at_a_uniform_turn(self):
        found, once = first_hitting_law(row(2), 7, lattice_step), autoregressive_law(row(2), lattice_step)
        np.testing.assert_allclose(found.time, 1 / 7)
        assert found.mean_multiplier == pytest.approx(1)
        np.testing.assert_array_equal(found.token.probs, once.token.probs)
        assert found.entropy_lost == pytest.approx(once.entropy_lost)
        assert isinstance(once, RunLaw)
        assert once.time.tolist() == [1.0]

    def test_float32_hardly_touches_it(self):
        """A real row: one draw loses 2e-4 of the entropy that 1024 ancestral steps lose."""
        once = autoregressive_law(row(2), lattice_step)
        many = run_law(row(2), 1024, lattice_step)
        assert 0 < once.entropy_lost < 0.02 * many.entropy_lost


class TestInterpolation:
    @given(st.integers(1, 3000), st.integers(1, 3000))
    def test_smooth_functions_of_log_k(self, high, count):
        """Constants exactly, 1/k and e^-k/s to the rounding within an octave; weights sum to 1; few steps
        are themselves."""
        k = np.arange(high, max(high - count, high // 2), -1.0)
        nodes, weight = interpolation(k)
        assert len(nodes) <= 20
        assert nodes.min() >= k.min() * (1 - 1e-12)
        assert nodes.max() <= k.max() * (1 + 1e-12)
        np.testing.assert_allclose(weight.sum(1), 1, rtol=1e-12)
        for f in (lambda x: 1 / x, lambda x: np.exp(-x / high), np.log):
            np.testing.assert_allclose(weight @ f(nodes), f(k), rtol=1e-12, atol=1e-14)

    def test_a_node_that_is_a_step(self):
        """A symmetric span with an odd number of points would divide by zero at its centre; the value there
        is exact."""
        k = np.exp(np.linspace(3, -3, 61))
        nodes, weight = interpolation(np.append(k, []))
        np.testing.assert_allclose(weight @ nodes, k, rtol=1e-9)
        k[30] = nodes[10]
        k = np.sort(k)[::-1]
        nodes, weight = interpolation(k)
        np.testing.assert_allclose(weight @ np.log(nodes), np.log(k), atol=1e-12)
