"""Masked diffusion: bound, network, baselines, schedule, decoders, training, captures. No network access.

Toy models have every weight random, so that what they predict depends on the context. Laws of whole decodes
are enumerated in float64 and compared with draws by exact binomial tests, one per outcome (see
:func:`worst_p_value`).
"""

from __future__ import annotations

import itertools
import json
import math
import types
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from precision_lab.errors import InputError
from precision_lab.files import read_json, write_json, write_safetensors
from precision_lab.laws.process import faithful_step
from precision_lab.mdm import capture as recorder
from precision_lab.mdm import train as training
from precision_lab.mdm.baselines import trigram_cross_entropy, unigram_cross_entropy
from precision_lab.mdm.capture import MASK_RATIOS, capture_mdm, capture_smollm2
from precision_lab.mdm.corpus import Corpus, windows
from precision_lab.mdm.cost import expected_nfe
from precision_lab.mdm.decode import ancestral, event_driven, first_hitting
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig, rotate
from precision_lab.mdm.evaluate import validation_bound
from precision_lab.mdm.loss import (
    continuous_bound,
    mask_counts,
    masked_cross_entropy,
    next_token_cross_entropy,
    random_subset,
    times,
)
from precision_lab.mdm.schedule import unmask_probabilities
from precision_lab.mdm.train import load_model, train
from precision_lab.mdm.trainer import TrainConfig, Trainer, rate
from precision_lab.provenance import file_sha256, versions
from precision_lab.samplers import SAMPLERS, Sampler, Stages
from precision_lab.statistics import tail_test

FALSE_FAIL = 1e-6


def toy(vocab=3, *, layers=1, heads=2, width=8, seed=0, causal=False) -> Denoiser:
    """Every weight normal: the answers depend on the context and are far from uniform."""
    model, rng = (
        Denoiser(DenoiserConfig(vocab, layers, heads, width, causal)),
        torch.Generator().manual_seed(seed),
    )
    for weight in model.parameters():
        weight.data = 0.7 * torch.randn(weight.shape, generator=rng)
    return model.eval().requires_grad_(False)


def spy(model, monkeypatch) -> list[torch.Tensor]:
    """The inputs of every network call from now on."""
    calls, hidden = [], model.hidden
    monkeypatch.setattr(
        model, "hidden", lambda tokens, t=None: (calls.append(tokens.clone()), hidden(tokens))[1]
    )
    return calls


def torch_rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def philox(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def worst_p_value(counts: dict, law: dict) -> float:
    """Exact binomial p-value of the worst outcome, times the number of outcomes: a right sampler gets <=
    ``FALSE_FAIL`` with probability at most ``FALSE_FAIL`` (union bound). 0 if something impossible was
    drawn."""
    n = sum(counts.values())
    if any(law.get(outcome, 0) == 0 for outcome in counts):
        return 0.0
    return min(
        1.0, len(law) * min(tail_test(counts.get(o, 0), n, p).p_value for o, p in law.items() if 0 < p < 1)
    )


def outcomes(tokens: torch.Tensor) -> Counter:
    return Counter(map(tuple, tokens.tolist()))


def total_variation(a: dict, b: dict) -> float:
    return sum(abs(a.get(k, 0) - b.get(k, 0)) for k in a | b) / 2


# -- the bound -----------------------------------------------------------------------------------
class TestTimeAgnosticBound:
    length, vocab = 3, 3

    @pytest.fixture
    def model(self):
        return toy(self.vocab, layers=2, seed=1).double()

    def log_mu(self, model, x, masked) -> np.ndarray:
        """(length,) log mu_l(x_l | x with ``masked`` hidden), float64."""
        tokens = torch.tensor(x)
        hidden = model.hidden(tokens.masked_fill(torch.tensor(masked), model.config.mask_id)[None])
        return model.log_probs(hidden)[0].gather(1, tokens[:, None])[:, 0].numpy()

    def by_counts(self, model, x, weights) -> float:
        """sum_n w_n E over uniform n-subsets of the mean cross-entropy at the masked positions."""
        total = 0.0
        for n, weight in weights.items():
            subsets = list(itertools.combinations(range(self.length), n))
            for subset in subsets:
                masked = [l in subset for l in range(self.length)]
                total -= weight * self.log_mu(model, x, masked)[list(subset)].mean() / len(subsets)
        return total

    def by_orders(self, model, x) -> tuple[float, float]:
        """Per token: the any-order autoregressive mean of -log p(x | order), and -log of the mean of p(x |
        order)."""
        logs = []
        for order in itertools.permutations(range(self.length)):
            seen = [
                self.log_mu(model, x, [l in order[k:] for l in range(self.length)])[order[k]]
                for k in range(len(order))
            ]
            logs.append(sum(seen))
        return -np.mean(logs) / self.length, -np.log(np.mean(np.exp(logs))) / self.length

    def test_equals_the_any_order_autoregressive_bound_exactly(self, model):
        """Prop. 3.1 with a network that is not told the time, for all 27 texts; only n uniform gives the
        identity."""
        uniform = dict.fromkeys((1, 2, 3), 1 / 3)
        for x in itertools.product(range(self.vocab), repeat=self.length):
            bound, marginal = self.by_orders(model, x)
            assert self.by_counts(model, x, uniform) == pytest.approx(bound, abs=1e-12)
            assert bound > marginal + 1e-6  # Jensen: it is an upper bound, and strict here
            assert abs(self.by_counts(model, x, {1: 1 / 6, 2: 2 / 6, 3: 3 / 6}) - bound) > 1e-5  # the control

    def test_the_loss_enumerated_over_all_masks_is_that_bound(self, model):
        """``masked_cross_entropy`` (float32 inside) on all 7 masks of all 27 texts at once."""
        masks = [m for m in itertools.product([False, True], repeat=self.length) if any(m)]
        weight = torch.tensor([1 / self.length / math.comb(self.length, sum(m)) for m in masks])
        for x in itertools.product(range(self.vocab), repeat=self.length):
            losses = masked_cross_entropy(model, torch.tensor(x).expand(len(masks), -1), torch.tensor(masks))
            assert (weight * losses).sum().item() == pytest.approx(self.by_orders(model, x)[0], rel=2e-6)


class TestLoss:
    def test_masked_cross_entropy_is_the_naive_loop(self):
        model, rng = toy(12, width=64, layers=2), torch_rng(0)
        tokens = torch.randint(12, (5, 9), generator=rng)
        masked = random_subset(torch.tensor([1, 9, 4, 6, 2]), 9, rng=rng)
        found = masked_cross_entropy(model, tokens, masked)
        for i in range(5):
            hidden_from = tokens[i].clone()
            hidden_from[masked[i]] = 12
            log_mu = model.log_probs(model.hidden(hidden_from[None]))[0]
            naive = -sum(float(log_mu[l, tokens[i, l]]) for l in range(9) if masked[i, l]) / int(
                masked[i].sum()
            )
            assert float(found[i]) == pytest.approx(naive, rel=1e-5)

    def test_next_token_cross_entropy_is_the_naive_loop(self):
        """One prefix at a time, with attention and rotation written out: nothing but the weights is shared."""
        model, tokens = toy(5, width=8, heads=2, causal=True), torch.tensor([[3, 1, 4], [0, 2, 2]])
        weights = {name: value.double() for name, value in model.state_dict().items()}

        def unit(x):
            return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()

        expected = []
        for row in tokens.tolist():
            total, shown = 0.0, [0]
            for token in row:
                x = unit(weights["embedding.weight"][shown])
                q, k, v = (unit(x) @ weights["blocks.0.qkv.weight"].T).view(-1, 3, 2, 4).unbind(1)
                mixed = torch.zeros(2, 4, dtype=torch.float64)
                for head in range(2):

                    def turn(z, head=head):
                        return rotate(unit(z[:, head]).double()[None, None])[0, 0]

                    mixed[head] = (turn(q)[-1] @ turn(k).T / 2).softmax(-1) @ v[:, head]
                last = x[-1] + weights["blocks.0.out.weight"] @ mixed.flatten()
                gate, up = (weights["blocks.0.gate_up.weight"] @ unit(last)).chunk(2)
                last = unit(last + weights["blocks.0.down.weight"] @ (F.silu(gate) * up))
                logits = weights["embedding.weight"][:5] @ last + weights["bias"]
                total -= logits.log_softmax(-1)[token].item()
                shown.append(token)
            expected.append(total / 3)
        assert next_token_cross_entropy(model, tokens).tolist() == pytest.approx(expected, rel=1e-5)

    def test_what_is_not_masked_is_not_scored_but_is_seen(self):
        model = toy(12, width=64, seed=2)
        tokens = torch.tensor([[3, 1, 4, 1]])
        masked = torch.tensor([[True, False, True, False]])
        shown = tokens.clone()
        shown[0, 1] = 7
        assert masked_cross_entropy(model, tokens, masked) != masked_cross_entropy(model, shown, masked)

    def test_each_loss_is_of_its_own_kind_of_network(self):
        """A masked network sees the token after which it would be asked, a causal one no mask: numbers that
        mean nothing."""
        tokens, all_masked = torch.tensor([[1, 2, 0]]), torch.ones(1, 3, dtype=torch.bool)
        with pytest.raises(InputError, match="got a causal network"):
            masked_cross_entropy(toy(causal=True), tokens, all_masked)
        with pytest.raises(InputError, match="got a causal network"):
            continuous_bound(toy(causal=True), tokens, rng=torch_rng(0))
        with pytest.raises(InputError, match="sees what is to come"):
            next_token_cross_entropy(toy(), tokens)

    @pytest.mark.parametrize("size", [(3, 0), (0, 3), (3, -1), (3, 2.5)])
    def test_counts_of_nothing(self, size):
        with pytest.raises(InputError, match="a whole number, 1 or more"):
            mask_counts(*size, rng=torch_rng(0))

    @pytest.mark.parametrize("scheme", ["independent", "shared", "stratified"])
    def test_times_stay_below_one(self, scheme, monkeypatch):
        """Also where u + i is rounded up to B."""
        monkeypatch.setattr(
            torch, "rand", lambda size, **_: torch.full((size,), 1 - 2.0**-53, dtype=torch.float64)
        )
        for batch in (1, 2, 3, 8, 1000):
            found = times(batch, rng=torch_rng(0), scheme=scheme)
            assert 0 <= found.min() <= found.max() < 1

    @given(batch=st.integers(1, 20), length=st.integers(1, 40), seed=st.integers(0, 2**31))
    def test_counts_are_stratified(self, batch, length, seed):
        """n_i lies in (L i / B, L (i + 1) / B], rounded up: one count in every stratum."""
        counts = mask_counts(batch, length, rng=torch_rng(seed)).tolist()
        for i, n in enumerate(counts):
            assert (
                max(1, math.floor(Fraction(length * i, batch)))
                <= n
                <= math.ceil(Fraction(length * (i + 1), batch))
            )

    @pytest.mark.parametrize(("batch", "length"), [(1, 12), (4, 12), (5, 12), (8, 3), (7, 20)])
    def test_counts_are_uniform(self, batch, length, monkeypatch):
        """Exact: the uniforms run over the midpoints of a grid that all strata and counts divide."""
        fine = math.lcm(batch, length) // batch
        grid = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine
        counts = Counter()
        for u in grid:
            monkeypatch.setattr(torch, "rand", lambda size, u=u, **_: u.expand(size))
            counts.update(mask_counts(batch, length, rng=torch_rng(0)).tolist())
        assert counts == dict.fromkeys(range(1, length + 1), fine * batch // length)

    def test_counts_at_the_ends_of_the_uniform(self, monkeypatch):
        for u, expected in ((0.0, [1, 5]), (1 - 2.0**-53, [5, 10])):
            monkeypatch.setattr(
                torch, "rand", lambda size, u=u, **_: torch.full((size,), u, dtype=torch.float64)
            )
            assert mask_counts(2, 10, rng=torch_rng(0)).tolist() == expected

    @given(data=st.data(), length=st.integers(1, 12), seed=st.integers(0, 2**31))
    def test_a_subset_has_the_size_asked_for(self, data, length, seed):
        counts = torch.tensor(data.draw(st.lists(st.integers(0, length), min_size=1, max_size=6)))
        subset = random_subset(counts, length, rng=torch_rng(seed))
        assert subset.shape == (len(counts), length)
        assert subset.sum(1).tolist() == counts.tolist()

    def test_subsets_are_uniform(self, monkeypatch):
        """Exact: uniforms come in every order equally often, so here each order once; a subset n! (L - n)!
        times."""
        length, orders = 5, torch.tensor(list(itertools.permutations(range(5)))).double()
        monkeypatch.setattr(torch, "rand", lambda *size, **_: orders)
        for n in range(1, length + 1):
            seen = outcomes(random_subset(torch.full((len(orders),), n), length, rng=torch_rng(0)))
            assert set(seen.values()) == {math.factorial(n) * math.factorial(length - n)}
            assert len(seen) == math.comb(length, n)


# -- the network ---------------------------------------------------------------------------------
class TestDenoiser:
    @pytest.fixture
    def model(self):
        return toy(12, width=64, layers=2, heads=4)

    def test_no_mass_on_the_mask_and_normalised(self, model):
        tokens = torch.tensor([[12, 12, 3, 12, 0], [1, 2, 3, 4, 12]])
        log_mu = model.log_probs(model.hidden(tokens))
        assert log_mu.shape == (2, 5, 12)
        assert model.config.mask_id == 12
        torch.testing.assert_close(log_mu.exp().sum(-1), torch.ones(2, 5))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_weights_are_normalised_in_float32(self, dtype):
        model = toy(12, width=64).to(dtype)
        log_mu = model.log_probs(model.hidden(torch.tensor([[12, 3, 12]])))
        assert log_mu.dtype == torch.float32
        torch.testing.assert_close(log_mu.exp().sum(-1), torch.ones(1, 3))

    def test_sequences_of_a_batch_do_not_see_each_other(self, model):
        tokens = torch.randint(13, (6, 10), generator=torch_rng(0))
        together = model.log_probs(model.hidden(tokens))
        for i in range(6):
            torch.testing.assert_close(together[i], model.log_probs(model.hidden(tokens[i : i + 1]))[0])

    def test_every_position_sees_every_other(self, model):
        """Bidirectional: changing any one token changes the prediction at every position."""
        tokens = torch.randint(12, (1, 6), generator=torch_rng(1))
        base = model.log_probs(model.hidden(tokens))[0]
        for l in range(6):
            other = tokens.clone()
            other[0, l] = (other[0, l] + 1) % 12
            assert ((model.log_probs(model.hidden(other))[0] - base).abs().amax(-1) > 1e-4).all()

    def test_a_causal_network_sees_what_is_before_only(self):
        """Changing token l changes no prediction at 0 .. l, bit for bit, and every one after; so do the
        gradients."""
        model = toy(12, width=64, layers=2, heads=4, causal=True)
        tokens = torch.randint(12, (1, 6), generator=torch_rng(1))
        base = model.log_probs(model.hidden(tokens))[0]
        for l in range(6):
            other = tokens.clone()
            other[0, l] = (other[0, l] + 1) % 12
            moved = (model.log_probs(model.hidden(other))[0] - base).abs().amax(-1)
            assert (moved[: l + 1] == 0).all()
            assert (moved[l + 1 :] > 1e-4).all()
        inputs = []
        model.embedding.register_forward_hook(lambda _, __, out: inputs.append(out.requires_grad_()) or out)
        log_probs = model.log_probs(model.hidden(tokens))
        for l in range(6):  # row k of the embedding is what position k was shown: START, x_0, x_1, ...
            (slope,) = torch.autograd.grad(log_probs[0, l].max(), inputs[0], retain_graph=True)
            assert ((slope[0].abs().amax(-1) > 0) == (torch.arange(6) <= l)).all()

    def test_a_causal_network_starts_at_the_end_of_a_text(self):
        model, asked = toy(12, width=64, causal=True), []
        model.embedding.register_forward_pre_hook(lambda _, given: asked.append(given[0]))
        model.hidden(torch.tensor([[5, 6, 7]]))
        assert asked[0].tolist() == [[0, 5, 6]]

    def test_both_kinds_have_the_same_weights(self):
        one, other = (Denoiser(DenoiserConfig(12, 2, 2, 64, causal)).state_dict() for causal in (False, True))
        assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}

    def test_a_fresh_network_is_its_bias(self):
        """Blocks start as the identity: with a zero embedding the prediction is softmax(bias)."""
        model = Denoiser(DenoiserConfig(12, 2, 2, 64))
        model.embedding.weight.data.zero_()
        model.bias.data = torch.arange(12.0)
        log_mu = model.log_probs(model.hidden(torch.tensor([[12, 1, 12]])))
        torch.testing.assert_close(log_mu, F.log_softmax(torch.arange(12.0), -1).expand(1, 3, 12))

    def test_rotation_keeps_lengths_and_depends_on_distance_only(self):
        rng = torch_rng(3)
        q, k = (
            torch.randn(1, 1, 1, 8, generator=rng, dtype=torch.float64),
            torch.randn(1, 1, 1, 8, generator=rng).double(),
        )
        many_q, many_k = rotate(q.expand(1, 1, 20, 8)), rotate(k.expand(1, 1, 20, 8))
        torch.testing.assert_close(many_q.norm(dim=-1), q.norm(dim=-1).expand(1, 1, 20))
        scores = (many_q @ many_k.transpose(-1, -2))[0, 0]
        for shift in range(-19, 20):
            diagonal = scores.diagonal(shift)
            torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
        assert scores[0].unique().numel() == 20  # and it does depend on the distance
        assert scores[0, 5] != scores[5, 0]  # and on its sign

    @pytest.mark.parametrize(
        "changed",
        [
            {"heads": 3},  # 64 numbers for 3 heads
            {"width": 6, "heads": 2},  # 3 numbers a head: no pairs to turn
            *(
                {name: bad}
                for name in ("vocab", "layers", "heads", "width")
                for bad in (0, -5, "11", 11.0, True, None)
            ),
            *({name: bad} for name in ("causal", "timed") for bad in ("false", 0, None)),
            {"causal": True, "timed": True},
        ],
    )
    def test_configurations_that_cannot_be(self, changed):
        with pytest.raises(InputError, match=r"heads|whole number|True or False|causal and timed"):
            DenoiserConfig(**({"vocab": 12, "layers": 1, "heads": 2, "width": 64} | changed))

    def test_sizes_are_plain_integers(self):
        """So that a manifest can hold them."""
        config = DenoiserConfig(*np.array([12, 1, 2, 64]))
        assert config == DenoiserConfig(12, 1, 2, 64)
        assert {type(size) for size in (config.vocab, config.layers, config.heads, config.width)} == {int}

    def test_only_a_causal_network_has_a_reader(self, model):
        with pytest.raises(InputError, match="sees what is to come"):
            model.reader()

    def test_rotation_is_the_identity_at_position_zero(self):
        x = torch.randn(2, 3, 1, 8, generator=torch_rng(4))
        torch.testing.assert_close(rotate(x), x)


# -- count models --------------------------------------------------------------------------------
def slow_trigram(train, validation, vocab) -> float:
    """Witten-Bell from the formula, in exact fractions, one history at a time."""

    def p(history: tuple, word: int) -> Fraction:
        if not history:
            return Fraction(train.count(word) + 1, len(train) + vocab)
        after = [
            train[i + len(history)]
            for i in range(len(train) - len(history))
            if tuple(train[i : i + len(history)]) == history
        ]
        lower = p(history[1:], word)
        if not after:
            return lower
        return (after.count(word) + len(set(after)) * lower) / Fraction(len(after) + len(set(after)))

    terms = [p((validation[i - 2], validation[i - 1]), validation[i]) for i in range(2, len(validation))]
    return -sum(math.log(term) for term in terms) / len(terms)


class TestBaselines:
    def test_unigram(self):
        found = unigram_cross_entropy(np.array([0, 0, 1], np.uint16), np.array([0, 1, 2, 2], np.uint16), 3)
        assert found == pytest.approx((math.log(6 / 3) + math.log(6 / 2) + 2 * math.log(6)) / 4, rel=1e-15)

    @given(
        vocab=st.integers(1, 5),
        data=st.data(),
    )
    def test_trigram_is_the_formula(self, vocab, data):
        token = st.integers(0, vocab - 1)
        train = data.draw(st.lists(token, min_size=3, max_size=40))
        validation = data.draw(st.lists(token, min_size=3, max_size=12))
        found = trigram_cross_entropy(np.array(train, np.uint16), np.array(validation, np.uint16), vocab)
        assert found == pytest.approx(slow_trigram(train, validation, vocab), rel=1e-12, abs=1e-15)

    def test_trigram_probabilities_sum_to_one(self):
        """After histories that were seen, half seen and never seen, token ids near 2^16 included."""
        train = np.array([5, 9, 5, 9, 7, 5, 9, 5, 65535, 65535], np.uint16)
        for history in ([5, 9], [9, 5], [7, 9], [0, 5], [1, 2], [65535, 65535]):
            losses = [
                trigram_cross_entropy(train, np.array([*history, w], np.uint16), 65536)
                for w in (5, 7, 9, 65535, 0, 1, 2)
            ]
            seen = sum(math.exp(-loss) for loss in losses[:4])
            unseen = math.exp(-losses[4])  # all words that never occurred have the same probability
            assert seen + (65536 - 4) * unseen == pytest.approx(1, abs=1e-12)
            assert losses[4:] == pytest.approx([losses[4]] * 3)

    def test_a_trigram_knows_a_pattern_that_a_unigram_does_not(self):
        text = np.tile(np.array([0, 1, 2, 0, 2, 1], np.uint16), 100)
        assert unigram_cross_entropy(text, text, 3) == pytest.approx(math.log(3), rel=1e-3)
        assert trigram_cross_entropy(text, text, 3) < 0.75

    @pytest.mark.parametrize("law", [unigram_cross_entropy, trigram_cross_entropy])
    @pytest.mark.parametrize("text", [[0], [0, 1], [0, 1, 3], [0, -1, 2], [0.0, 1.0, 2.0], [[0, 1, 2]]])
    def test_texts_that_cannot_be(self, law, text):
        good = np.array([0, 1, 2, 2])
        for texts in ((np.array(text), good), (good, np.array(text))):
            with pytest.raises(InputError, match=r"three or more|ids from 0 to 2|integers"):
                law(*texts, 3)


# -- the schedule --------------------------------------------------------------------------------
class TestSchedule:
    @given(steps=st.integers(1, 3000))
    def test_the_marginal_telescopes(self, steps):
        """The probability of being masked after step i is 1 - (i + 1) / N."""
        r = unmask_probabilities(steps)
        assert len(r) == steps
        assert r[-1] == 1
        np.testing.assert_allclose(np.cumprod(1 - r), 1 - np.arange(1, steps + 1) / steps, rtol=1e-11, atol=0)

    def test_it_is_the_linear_schedule(self):
        alpha = [1 - Fraction(7 - i, 7) for i in range(8)]
        exact = [(alpha[i + 1] - alpha[i]) / (1 - alpha[i]) for i in range(7)]
        assert unmask_probabilities(7).tolist() == [float(r) for r in exact]

    @pytest.mark.parametrize("steps", [0, -3])
    def test_no_steps(self, steps):
        with pytest.raises(InputError, match="at least 1"):
            unmask_probabilities(steps)


# -- decoders ------------------------------------------------------------------------------------
def mu(model, state) -> np.ndarray:
    """(length, vocab) log-probabilities at a partially masked state."""
    return model.log_probs(model.hidden(torch.tensor([state])))[0].double().numpy()


def ancestral_law(model, length, steps, step_law=faithful_step) -> dict:
    """The law of the final sequence, by pushing the law of the state through every step of Eq. 10.
    ``step_law``: what the tokens get of a step, as a sampler really gives it; in the last step it is
    renormalised."""
    mask = model.config.mask_id
    law = {(mask,) * length: 1.0}
    for step, r in enumerate(unmask_probabilities(steps)):
        after: dict = Counter()
        for state, p in law.items():
            log_mu, choices = mu(model, state), []
            for l, token in enumerate(state):
                if token != mask:
                    choices.append({token: 1.0})
                    continue
                given = step_law(log_mu[l], r)
                if step == steps - 1:
                    given = given / given.sum()
                choices.append(dict(enumerate(given)) | ({mask: 1 - given.sum()} if step < steps - 1 else {}))
            for outcome in itertools.product(*choices):
                after[outcome] += p * math.prod(
                    choice[token] for choice, token in zip(choices, outcome, strict=True)
                )
        law = after
    return dict(law)


def first_hitting_law(model, length) -> dict:
    """The mean over all orders of the product of the conditionals."""
    law: dict = Counter()
    orders = list(itertools.permutations(range(length)))
    for order in orders:
        for x in itertools.product(range(model.config.vocab), repeat=length):
            state, p = [model.config.mask_id] * length, 1.0 / len(orders)
            for l in order:
                p *= math.exp(mu(model, state)[l, x[l]])
                state[l] = x[l]
            law[x] += p
    return dict(law)


@dataclass(frozen=True)
class Always(Sampler):
    """Draws one and the same index, counted from the end."""

    index: int = -1

    @property
    def ceiling(self) -> float:
        return math.nan

    @property
    def emulated(self) -> str | None:
        return None

    def bits_per_draw(self, vocab: int) -> float:
        return 0.0

    def sample(self, logits, n, *, rng):
        return torch.full((n, len(logits)), self.index % logits.shape[1])

    def row_law(self, logits):
        raise NotImplementedError


FAITHFUL = SAMPLERS["gumbel_max_fp64"]
THE_MASK = Always("always the mask", "test", "here", Stages.all("fp64"))


class TestAncestral:
    draws = 30_000  # sees, with 1 - 1e-6, an outcome of probability 0.1 that is off by 19 %

    @pytest.fixture
    def model(self):
        return toy(3, seed=5)

    @pytest.mark.parametrize("rng", [philox(1), torch_rng(1)], ids=["philox", "torch"])
    def test_the_law_of_whole_decodes(self, model, rng):
        """L = 2, three tokens, three steps, 9 outcomes. False-fail rate 1e-6 over seeds; detects a shift of
        total variation 0.05: the same draws are refused by the laws of one step and of endless steps."""
        found = ancestral(model, FAITHFUL, batch=self.draws, length=2, steps=3, rng=rng)
        law, counts = ancestral_law(model, 2, 3), outcomes(found.tokens)
        assert math.fsum(law.values()) == pytest.approx(1)
        assert worst_p_value(counts, law) > FALSE_FAIL
        for other in (ancestral_law(model, 2, 1), first_hitting_law(model, 2)):
            assert total_variation(law, other) > 0.05
            assert worst_p_value(counts, other) < FALSE_FAIL

    def test_more_steps_approach_first_hitting(self, model):
        """Prop. 4.1, no draws: the distance of the two exact laws falls like 1/N."""
        limit = first_hitting_law(model, 2)
        distance = [total_variation(ancestral_law(model, 2, n), limit) for n in (1, 10, 100)]
        assert distance[0] > 0.1
        np.testing.assert_allclose(distance[:2], [10 * d for d in distance[1:]], rtol=0.02)

    @pytest.mark.parametrize(
        ("batch", "length", "steps"), [(1, 1, 1), (3, 8, 40), (4, 6, 5), (2, 5, 1), (20, 9, 12)]
    )
    def test_the_cache_changes_nothing(self, batch, length, steps, monkeypatch):
        """Same noise, same tokens as a decoder that asks the network at every step, with fewer calls."""
        model = toy(12, width=64, seed=6)
        tokens, plain_rng, draws, asked = torch.full((batch, length), 12), philox(7), 0, batch
        for r in unmask_probabilities(steps):
            if not (tokens == 12).any():
                break
            before, log_mu = tokens.clone(), model.log_probs(model.hidden(tokens)).double()
            for where in (tokens == 12).nonzero().split(64):
                mask = torch.full((len(where), 1), float(np.log1p(-r)) if r < 1 else -math.inf)
                rows = torch.cat([log_mu[where[:, 0], where[:, 1]] + math.log(r), mask], 1)
                tokens[where[:, 0], where[:, 1]] = FAITHFUL.sample(rows, 1, rng=plain_rng)[0]
                draws += len(where)
            asked += int(((tokens != before).any(1) & (tokens == 12).any(1)).sum())
        calls = spy(model, monkeypatch)
        found = ancestral(model, FAITHFUL, batch=batch, length=length, steps=steps, rng=philox(7))
        torch.testing.assert_close(found.tokens, tokens, rtol=0, atol=0)
        assert found.draws == draws
        assert found.nfe == len(calls) <= min(steps, batch * length)
        assert not (found.tokens == 12).any()
        assert sum(map(len, calls)) == asked  # a sequence is asked about again only if it changed and has masks

    def test_network_calls_follow_the_law_of_occupied_steps(self, model):
        """One sequence of 3 tokens in 4 steps: nfe = number of steps hit = 1, 2, 3 with probability 1/16,
        9/16, 6/16. False-fail rate 1e-6 over seeds; 600 decodes see 2 calls at 9/16 off by 37 %, or one
        call too many (control)."""
        rng, law = philox(8), {1: 1 / 16, 2: 9 / 16, 3: 6 / 16}
        counts = Counter(
            ancestral(model, FAITHFUL, batch=1, length=3, steps=4, rng=rng).nfe for _ in range(600)
        )
        assert worst_p_value(counts, law) > FALSE_FAIL
        assert sum(k * p for k, p in law.items()) == pytest.approx(expected_nfe(4, 3))
        assert worst_p_value(Counter({k + 1: n for k, n in counts.items()}), law) < FALSE_FAIL

    def test_a_sampler_that_draws_the_mask_in_the_last_step_is_reported(self, model):
        with pytest.raises(InputError, match="always the mask drew the mask at probability 0"):
            ancestral(model, THE_MASK, batch=2, length=3, steps=4, rng=philox(0))

    def test_progress_and_an_early_end(self, model):
        seen = []
        found = ancestral(
            model, replace(THE_MASK, index=1), batch=2, length=3, steps=9, rng=philox(0), progress=seen.append
        )
        assert seen == [1]  # everything was unmasked in the first step
        assert (found.nfe, found.draws) == (1, 6)
        assert (found.tokens == 1).all()

    @pytest.mark.parametrize("bad", ["batch", "length", "steps"])
    def test_sizes_below_one(self, model, bad):
        with pytest.raises(InputError, match="at least 1 of each"):
            ancestral(model, FAITHFUL, **({"batch": 1, "length": 1, "steps": 1} | {bad: 0}), rng=philox(0))


class TestFirstHitting:
    @pytest.fixture
    def model(self):
        return toy(3, seed=5)

    @pytest.mark.parametrize("rng", [philox(2), torch_rng(2)], ids=["philox", "torch"])
    def test_the_law_of_whole_decodes(self, model, rng):
        """L = 2, 9 outcomes, 30,000 sequences. False-fail rate 1e-6 over seeds; detects an outcome of
        probability 0.1 off by 19 %: the law of a decoder that goes left to right is refused."""
        found = first_hitting(model, FAITHFUL, batch=30_000, length=2, rng=rng)
        law, counts = first_hitting_law(model, 2), outcomes(found.tokens)
        assert worst_p_value(counts, law) > FALSE_FAIL
        left_to_right = {
            (a, b): math.exp(mu(model, (3, 3))[0, a] + mu(model, (a, 3))[1, b])
            for a in range(3)
            for b in range(3)
        }
        assert worst_p_value(counts, left_to_right) < FALSE_FAIL

    @pytest.mark.parametrize("rng", [philox(3), torch_rng(3)], ids=["philox", "torch"])
    def test_one_token_a_call_in_a_uniformly_random_order(self, model, rng, monkeypatch):
        """The 6 orders of 3 positions, 6000 sequences. False-fail rate 1e-6; detects an order off by 31 %."""
        calls = spy(model, monkeypatch)
        found = first_hitting(model, FAITHFUL, batch=6000, length=3, rng=rng)
        assert found.nfe == len(calls) == 3
        assert found.draws == 18_000
        masks = [tokens == 3 for tokens in [*calls, found.tokens]]
        assert [set(m.sum(1).tolist()) for m in masks] == [{3}, {2}, {1}, {0}]
        order = torch.stack([(a & ~b).int().argmax(1) for a, b in itertools.pairwise(masks)], 1)
        law = dict.fromkeys(itertools.permutations(range(3)), 1 / 6)
        assert worst_p_value(outcomes(order), law) > FALSE_FAIL
        assert worst_p_value(outcomes(order.sort(1).values), law) < FALSE_FAIL  # the control

    def test_a_token_once_drawn_stays(self, model, monkeypatch):
        calls = spy(model, monkeypatch)
        found = first_hitting(model, FAITHFUL, batch=50, length=6, rng=philox(4))
        for before, after in itertools.pairwise([*calls, found.tokens]):
            shown = before != 3
            assert torch.equal(before[shown], after[shown])

    def test_sizes_below_one(self, model):
        for sizes in ({"batch": 0, "length": 1}, {"batch": 1, "length": 0}):
            with pytest.raises(InputError, match="at least 1 of each"):
                first_hitting(model, FAITHFUL, **sizes, rng=philox(0))

    def test_progress(self, model):
        seen = []
        first_hitting(model, FAITHFUL, batch=1, length=4, rng=philox(0), progress=seen.append)
        assert seen == [1, 2, 3, 4]


class Table:
    """A network by its table: the answers of ``model`` at every state of two positions. Only faster."""

    def __init__(self, model: Denoiser) -> None:
        self.config, side = model.config, model.config.vocab + 1
        states = torch.tensor(list(itertools.product(range(side), repeat=2)))
        self.answers, self.place = model.log_probs(model.hidden(states)).flatten(0, 1), torch.tensor([side, 1])

    def hidden(self, tokens):
        """Where in the table each position's answer is: (batch, 2)."""
        return 2 * (tokens * self.place).sum(-1, keepdim=True) + torch.arange(2)

    def logits(self, hidden):
        return self.answers[hidden]


def thrifty_step(log_probs, r):
    """A biased step: token 0 loses half of what it should get."""
    return r * np.exp(log_probs) * np.array([0.5, 1, 1])


class TestEventDriven:
    @pytest.fixture
    def model(self):
        return toy(3, seed=5)

    @pytest.mark.parametrize("step_law", [faithful_step, thrifty_step])
    def test_the_law_is_that_of_brute_force(self, model, step_law):
        """L = 2, three steps, 9 outcomes, against the enumeration of every step. False-fail rate 1e-6 over
        seeds; 12,000 sequences see an outcome of probability 0.1 off by 30 %: each of the two laws is
        refused for the other."""
        found = event_driven(Table(model), step_law, batch=12_000, length=2, steps=3, rng=philox(9))
        counts = outcomes(found.tokens)
        assert worst_p_value(counts, ancestral_law(model, 2, 3, step_law)) > FALSE_FAIL
        other = thrifty_step if step_law is faithful_step else faithful_step
        assert worst_p_value(counts, ancestral_law(model, 2, 3, other)) < FALSE_FAIL

    @pytest.mark.parametrize("share", [1.0, 0.6])
    def test_when_a_position_is_unmasked(self, share):
        """A step that can only give the token of its own number, with ``share`` of the mass it should: the
        text is the time. False-fail rate 1e-6 over seeds; 8000 positions see a step of probability 1/4 off
        by 20 %."""

        def clock(log_probs, r):
            return share * r * (np.arange(4) == 4 - round(1 / r))

        r = unmask_probabilities(4)
        still = np.cumprod([1.0, *(1 - share * r[:-1])])
        law = dict(enumerate(still * [*(share * r[:-1]), 1]))
        assert math.fsum(law.values()) == pytest.approx(1)
        found = event_driven(Table(toy(4)), clock, batch=4000, length=2, steps=4, rng=philox(14))
        assert worst_p_value(Counter(found.tokens.flatten().tolist()), law) > FALSE_FAIL

    def test_one_step_and_a_large_excess(self, model):
        """One step: 3000 draws from the product of the first predictions. A loose bound only costs candidates.
        False-fail rate 1e-6 each; sees an outcome of probability 0.1 off by 62 %."""
        once = event_driven(Table(model), faithful_step, batch=3000, length=2, steps=1, rng=philox(10))
        assert worst_p_value(outcomes(once.tokens), ancestral_law(model, 2, 1)) > FALSE_FAIL
        assert once.nfe < once.asked == 3000
        loose = event_driven(
            Table(model), faithful_step, batch=3000, length=2, steps=3, rng=philox(11), excess=0.3
        )
        assert worst_p_value(outcomes(loose.tokens), ancestral_law(model, 2, 3)) > FALSE_FAIL
        assert loose.draws > 6300  # two a sequence would do if none were refused

    def test_the_last_step_takes_what_is_left(self, model):
        """A law that never unmasks before the end: every token comes in the last step, from mu given
        nothing."""

        def late(log_probs, r):
            return np.exp(log_probs) * (r if r == 1 else 0)

        found = event_driven(model, late, batch=200, length=4, steps=6, rng=philox(12))
        assert not (found.tokens == 3).any()
        assert found.asked == 200

    def test_a_law_above_the_bound_is_reported(self, model):
        def eager(log_probs, r):
            return min(2 * r, 1.0) * np.exp(log_probs)

        with pytest.raises(InputError, match="raise excess"):
            event_driven(model, eager, batch=20, length=4, steps=6, rng=philox(13))

    def test_sizes_below_one(self, model):
        with pytest.raises(InputError, match="at least 1 of each"):
            event_driven(model, faithful_step, batch=1, length=1, steps=0, rng=philox(0))


# -- training ------------------------------------------------------------------------------------
TINY = TrainConfig(
    model=DenoiserConfig(vocab=12, layers=1, heads=2, width=64), steps=4, batch=4, length=16, evaluate_every=2
)


def noise_text(seed: int = 0, tokens: int = 2000) -> Corpus:
    rng = np.random.default_rng(seed)
    return Corpus(
        rng.integers(0, 12, tokens, dtype=np.uint16), rng.integers(0, 12, 330, dtype=np.uint16), {"of": "noise"}
    )


def without_time(curve):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in curve]


def state_of(folder):
    """Every tensor of the resume state; the clock is left out."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "state.safetensors")
    extra = json.loads(bytes(tensors.pop("extra").tolist()))
    return tensors, (extra["step"], without_time(extra["curve"]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Four steps without a break."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, train(TINY, noise_text(), folder)


class TestTraining:
    def assert_same_run(self, one, other):
        (tensors, extra), (others, other_extra) = state_of(one), state_of(other)
        assert tensors.keys() == others.keys()
        assert {"rng", "model.bias", "average.bias"} <= tensors.keys()
        assert any("momentum" in name for name in tensors)
        for name, tensor in tensors.items():
            assert torch.equal(tensor, others[name]), name
        assert extra == other_extra
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()

    def test_an_interrupted_run_resumes_bit_for_bit(self, trained, tmp_path, monkeypatch):
        advance = Trainer.advance

        def interrupted(self):
            if self.step == 3:  # one step after the last save
                raise KeyboardInterrupt
            return advance(self)

        monkeypatch.setattr(Trainer, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, noise_text(), tmp_path)
        assert state_of(tmp_path)[1][0] == 2
        assert not (tmp_path / "model.safetensors").exists()
        monkeypatch.setattr(Trainer, "advance", advance)
        manifest = train(TINY, noise_text(), tmp_path)
        self.assert_same_run(trained[0], tmp_path)
        assert manifest["nats_per_token"] == trained[1]["nats_per_token"]

    def test_two_steps_and_two_more_are_four(self, trained, tmp_path):
        """``steps`` may be raised on resuming: during the warm-up it does not matter."""
        train(replace(TINY, steps=2), noise_text(), tmp_path)
        train(TINY, noise_text(), tmp_path)
        self.assert_same_run(trained[0], tmp_path)

    def test_weights_of_the_number_of_masks(self, tmp_path):
        """The loss of a step is the mean of w_n times each window's, on the same masks; all 1 is the bound.
        A run goes on with its weights, and with no others."""
        w = tuple(2.0**-k for k in range(TINY.length))
        runs = [
            Trainer(replace(TINY, mask_weights=of), noise_text(), tmp_path) for of in (None, (1.0,) * len(w), w)
        ]
        tokens = runs[0].validation[:4]
        plain, ones, weighted = (run.loss(tokens).item() for run in runs)
        assert plain == ones != weighted
        again = Trainer(TINY, noise_text(), tmp_path)
        counts = mask_counts(4, TINY.length, rng=again.rng)
        losses = masked_cross_entropy(again.model, tokens, random_subset(counts, TINY.length, rng=again.rng))
        due = sum(w[n - 1] * x for n, x in zip(counts.tolist(), losses.tolist(), strict=True)) / 4
        assert weighted == pytest.approx(due, rel=1e-6)
        train(replace(TINY, mask_weights=w, steps=2), noise_text(), tmp_path)
        train(replace(TINY, mask_weights=w), noise_text(), tmp_path)
        assert state_of(tmp_path)[1][0] == TINY.steps
        with pytest.raises(InputError, match="mask_weights"):
            train(replace(TINY, mask_weights=w[::-1], steps=6), noise_text(), tmp_path)

    @pytest.mark.parametrize("wrong", [(), (1.0,), (0.0,) * TINY.length, (math.nan,) * TINY.length])
    def test_weights_that_are_none(self, wrong):
        with pytest.raises(InputError, match="mask_weights"):
            replace(TINY, mask_weights=wrong)

    def test_a_causal_network_has_no_weights(self):
        with pytest.raises(InputError, match="causal"):
            replace(TINY, model=replace(TINY.model, causal=True), mask_weights=(1.0,) * TINY.length)

    def test_another_seed_is_another_run(self, trained, tmp_path):
        train(replace(TINY, seed=1), noise_text(), tmp_path)
        assert not torch.equal(state_of(tmp_path)[0]["model.bias"], state_of(trained[0])[0]["model.bias"])

    def test_a_finished_run_is_left_as_it_is(self, trained):
        folder, manifest = trained
        again = train(TINY, noise_text(), folder)
        assert again["weights_sha256"] == manifest["weights_sha256"]
        assert again["nats_per_token"] == manifest["nats_per_token"]

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"batch": 8}, "other batch"),
            ({"seed": 3, "muon_lr": 0.1}, "other muon_lr, seed"),
            ({"model": DenoiserConfig(12, 2, 2, 64)}, "other model"),
        ],
    )
    def test_other_settings_are_refused_on_resuming(self, trained, changed, says):
        with pytest.raises(InputError, match=says):
            train(replace(TINY, **changed), noise_text(), trained[0])

    @pytest.mark.parametrize("damage", ["garbage", "truncated", "empty", "other", "no config"])
    def test_a_damaged_state_is_an_error_that_names_it(self, trained, tmp_path, damage):
        raw = (trained[0] / "state.safetensors").read_bytes()
        path = tmp_path / "state.safetensors"
        if damage == "other":
            write_safetensors(path, {"x": torch.zeros(3)})
        elif damage == "no config":
            write_safetensors(path, {"extra": torch.frombuffer(bytearray(b"{}"), dtype=torch.uint8)})
        else:
            path.write_bytes(
                {"garbage": b"not a state" * 50, "truncated": raw[: len(raw) // 2], "empty": b""}[damage]
            )
        with pytest.raises(InputError, match=r"state\.safetensors"):
            train(TINY, noise_text(), tmp_path)

    def damage(self, extra, tensors, what):
        if what == "float extra":
            return {**tensors, "extra": tensors["extra"].float()}
        if what == "wide extra":
            return {**tensors, "extra": tensors["extra"].long() + 1000}
        if what == "no numbers":
            return {**tensors, "rng": tensors["rng"].float()}
        if what in ("momentum", "exp_avg", "model", "average"):
            name = next(k for k in tensors if what in k and tensors[k].ndim)
            return {**tensors, name: tensors[name].flatten()[1:]}
        if what == "odd key":
            return {**tensors, "optimiser.0.x.": torch.zeros(1)}
        if what == "missing slot":
            return {k: v for k, v in tensors.items() if k != "optimiser.1.0.exp_avg"}
        extra |= what
        return {**tensors, "extra": torch.frombuffer(bytearray(json.dumps(extra).encode()), dtype=torch.uint8)}

    @pytest.mark.parametrize(
        "what",
        [
            *("float extra", "wide extra", "no numbers", "momentum", "exp_avg", "model", "average", "odd key"),
            "missing slot",
            *({"step": bad} for bad in ("5", -3, 2.0, None, True)),
            *({"schedule": bad} for bad in ([], {}, None, 3, [{}], [3])),
            *({"seconds": bad} for bad in ("1", -1, None, math.inf)),
            *({"curve": bad} for bad in ({}, None, [3], [{"step": 1}])),
            *({"config": bad} for bad in ([], {}, None, {"steps": 1, "model": []})),
        ],
        ids=str,
    )
    def test_a_state_damaged_inside_changes_nothing(self, trained, tmp_path, what):
        from safetensors.torch import load_file

        tensors = load_file(trained[0] / "state.safetensors")
        extra = json.loads(bytes(tensors["extra"].tolist()))
        write_safetensors(tmp_path / "state.safetensors", self.damage(extra, tensors, what))
        trainer, fresh = (Trainer(TINY, noise_text(), str(tmp_path)) for _ in range(2))
        with pytest.raises(
            InputError, match=r"state\.safetensors that does not hold a run .*remove it to start again"
        ):
            trainer.load_state()
        assert (trainer.step, trainer.curve, trainer.schedule) == (0, [], fresh.schedule)
        assert torch.equal(trainer.rng.get_state(), fresh.rng.get_state())
        for one, other in ((trainer.model, fresh.model), (trainer.average, fresh.average)):
            assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
        assert trainer.advance() == fresh.advance()  # the optimisers too

    def test_a_state_before_the_first_step_or_validation_resumes(self, tmp_path):
        trainer = Trainer(TINY, noise_text(), tmp_path)
        for step in (0, 1):
            trainer.save_state()
            other = Trainer(TINY, noise_text(), str(tmp_path))
            other.load_state()
            assert other.step == step
            assert other.advance() == trainer.advance()

    @pytest.mark.parametrize(
        "changed",
        [
            *(
                {name: bad}
                for name in ("steps", "batch", "length", "warmup", "evaluate_every")
                for bad in (0, -1, 1.5)
            ),
            *({"decay": bad} for bad in (0, -0.5, 1.5, math.nan)),
            *({"ema": bad} for bad in (-0.1, 1.1, math.nan)),
            {"seed": -1},
        ],
        ids=str,
    )
    def test_settings_that_cannot_be(self, changed):
        with pytest.raises(InputError, match=next(iter(changed))):
            replace(TINY, **changed)

    @pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99", ""])
    def test_a_device_that_is_not_there(self, device, tmp_path):
        with pytest.raises(InputError, match=f"device '{device}'"):
            Trainer(replace(TINY, device=device), noise_text(), tmp_path)

    def test_ids_that_the_vocabulary_lacks(self, tmp_path):
        text, odd = noise_text(), np.full(330, 12, np.uint16)
        for corpus in (replace(text, train=odd), replace(text, validation=odd)):
            with pytest.raises(InputError, match="ids from 0 to 11"):
                Trainer(TINY, corpus, tmp_path)

    def test_the_manifest(self, trained):
        folder, manifest = trained
        assert manifest == read_json(folder / "manifest.json")
        assert manifest["config"]["model"] == {
            "vocab": 12,
            "layers": 1,
            "heads": 2,
            "width": 64,
            "causal": False,
            "timed": False,
        }
        assert manifest["weights_sha256"] == file_sha256(folder / "model.safetensors")
        assert manifest["validation_sha256"] == file_sha256(folder / "validation.npy")
        assert manifest["corpus"] == {"of": "noise"}
        assert manifest["parameters"] == sum(p.numel() for p in Denoiser(TINY.model).parameters())
        assert manifest["versions"] == versions()
        assert {"commit", "processor", "seconds", "kind"} <= manifest.keys()
        text, nats = noise_text(), manifest["nats_per_token"]
        assert nats["unigram"] == unigram_cross_entropy(text.train, text.validation, 12)
        assert nats["trigram"] == trigram_cross_entropy(text.train, text.validation, 12)
        assert nats["bound_low"] < nats["bound"] < nats["bound_high"]
        assert nats["windows"] == 330 // 16

    def test_the_held_out_text_is_that_of_the_validation_split(self, trained):
        kept = np.load(trained[0] / "validation.npy", allow_pickle=False)
        assert kept.dtype == np.uint16
        # all of it: fewer than HELD_OUT
        np.testing.assert_array_equal(kept, windows(noise_text().validation, 16))
        assert len(kept) < training.HELD_OUT

    def test_the_curve(self, trained):
        lines = (trained[0] / "loss.csv").read_text().splitlines()
        assert lines[0] == "step,tokens,seconds,train_loss,validation_bound,standard_error"
        assert [line.split(",")[:2] for line in lines[1:]] == [["2", "128"], ["4", "256"]]

    def test_the_bound_in_the_manifest_is_that_of_the_file(self, trained):
        folder, manifest = trained
        text = torch.from_numpy(windows(noise_text().validation, 16))
        bound, error = validation_bound(load_model(folder), text, seed=TINY.seed + 3)
        assert bound == pytest.approx(manifest["nats_per_token"]["bound"], rel=1e-12)
        assert 1.96 * error == pytest.approx(manifest["nats_per_token"]["bound_high"] - bound, rel=1e-9)

    def test_a_model_that_knows_nothing_is_at_the_entropy(self):
        model = Denoiser(DenoiserConfig(12, 1, 2, 64))
        model.embedding.weight.data.zero_()
        bound, error = validation_bound(model, torch.zeros(10, 16, dtype=torch.int64), seed=0)
        assert bound == pytest.approx(math.log(12), rel=1e-6)
        assert error == pytest.approx(0, abs=1e-6)

    def test_it_learns(self, tmp_path):
        """0 1 0 1 ...: one token shown tells all others: the bound ends far below the unigram's log 2.
        Fixed seed."""
        text = np.tile(np.array([0, 1], np.uint16), 500)
        config = replace(TINY, steps=120, warmup=5, evaluate_every=120, batch=16)
        manifest = train(config, Corpus(text, text[:330], {}), tmp_path)
        assert manifest["nats_per_token"]["unigram"] > 0.69
        assert manifest["nats_per_token"]["bound_high"] < 0.35

    def test_a_text_shorter_than_a_window(self, tmp_path):
        ids = np.zeros(16, np.uint16)
        with pytest.raises(InputError, match="a training text of 16 tokens; expected more than a window of 16"):
            train(TINY, Corpus(ids, np.zeros(40, np.uint16), {}), tmp_path)
        with pytest.raises(InputError, match="a text of 15 tokens; expected at least one window of 16"):
            train(TINY, Corpus(np.zeros(99, np.uint16), ids[:15], {}), tmp_path)

    def test_another_text_is_refused_on_resuming(self, trained):
        with pytest.raises(InputError, match="other text"):
            train(TINY, noise_text(1), trained[0])

    def test_other_steps_are_recorded(self, trained, tmp_path):
        assert trained[1]["schedule"] == [{"from_step": 0, "steps": 4, "device": "cpu"}]
        assert trained[1]["tokens_seen"] == 4 * 4 * 16
        train(replace(TINY, steps=2), noise_text(), tmp_path)
        manifest = train(replace(TINY, steps=6), noise_text(), tmp_path)
        assert [(part["from_step"], part["steps"]) for part in manifest["schedule"]] == [(0, 2), (2, 6)]
        assert train(replace(TINY, steps=6), noise_text(), tmp_path)["schedule"] == manifest["schedule"]

    def test_a_state_without_the_younger_settings_resumes(self, tmp_path):
        """As the first version wrote it: no kind, device, schedule or text."""
        train(replace(TINY, steps=2), noise_text(), tmp_path)
        from safetensors.torch import load_file

        tensors = load_file(tmp_path / "state.safetensors")
        extra = json.loads(bytes(tensors["extra"].tolist()))
        del extra["schedule"], extra["text"], extra["config"]["device"], extra["config"]["model"]["causal"]
        tensors["extra"] = torch.frombuffer(bytearray(json.dumps(extra).encode()), dtype=torch.uint8)
        write_safetensors(tmp_path / "state.safetensors", tensors)
        manifest = train(TINY, noise_text(), tmp_path)
        assert [part["steps"] for part in manifest["schedule"]] == [2, 4]

    def test_nats_by_source(self, tmp_path):
        """Of each source's own windows; a source of one window has no standard error and is left out."""
        corpus = replace(noise_text(), spans={"a": (0, 100), "b": (100, 120), "c": (120, 330)})
        manifest = train(TINY, corpus, tmp_path)
        found, model = manifest["nats_per_token"]["by_source"], load_model(tmp_path)
        assert {name: row["windows"] for name, row in found.items()} == {"a": 6, "c": 13}
        text = torch.from_numpy(windows(corpus.validation[120:], 16))
        assert found["c"]["bound"] == pytest.approx(
            validation_bound(model, text, seed=TINY.seed + 3)[0], rel=1e-12
        )
        nats = manifest["nats_per_token"]
        assert nats["windows"] == 19  # those across a border or in "b" belong to nobody
        assert nats["bound"] == pytest.approx(
            (6 * found["a"]["bound"] + 13 * found["c"]["bound"]) / 19, rel=1e-12
        )

    def test_rate(self):
        config = TrainConfig(steps=100, warmup=10, decay=0.5)
        rates = [rate(config, step) for step in range(100)]
        assert rates[:10] == pytest.approx([0.1 * (k + 1) for k in range(10)])
        assert set(rates[9:51]) == {1.0}
        assert rates[50:] == pytest.approx([1 - k / 50 for k in range(50)])


class TestTrainingOfTheRival:
    """The autoregressive kind goes through the same trainer."""

    AR = replace(TINY, model=replace(TINY.model, causal=True))

    def test_it_resumes_bit_for_bit(self, tmp_path):
        straight, broken = tmp_path / "straight", tmp_path / "broken"
        train(self.AR, noise_text(), straight)
        train(replace(self.AR, steps=2), noise_text(), broken)
        train(self.AR, noise_text(), broken)
        TestTraining().assert_same_run(straight, broken)
        with pytest.raises(InputError, match="other model"):
            train(TINY, noise_text(), straight)

    def test_the_manifest_names_the_cross_entropy(self, tmp_path):
        manifest = train(self.AR, noise_text(), tmp_path)
        nats, model = manifest["nats_per_token"], load_model(tmp_path)
        assert model.config.causal
        assert manifest["kind"].startswith("autoregressive")
        assert "bound" not in nats
        text = torch.from_numpy(windows(noise_text().validation, 16))
        losses = next_token_cross_entropy(model, text).double()
        assert nats["cross_entropy"] == pytest.approx(losses.mean().item(), rel=1e-6)
        half = 1.96 * losses.std().item() / math.sqrt(len(losses))
        assert nats["cross_entropy_high"] - nats["cross_entropy"] == pytest.approx(half, rel=1e-6)
        assert "validation_cross_entropy" in (tmp_path / "loss.csv").read_text().splitlines()[0]

    def test_it_learns(self, tmp_path):
        """0 1 0 1 ... from either end: only the first token of a window is unknown."""
        text = np.tile(np.array([0, 1], np.uint16), 500)
        config = replace(self.AR, steps=120, warmup=5, evaluate_every=120, batch=16)
        manifest = train(config, Corpus(text, text[:330], {}), tmp_path)
        assert math.log(2) / 16 / 2 < manifest["nats_per_token"]["cross_entropy"] < 0.15


class TestLoadModel:
    @pytest.fixture
    def folder(self, trained, tmp_path):
        for name in ("model.safetensors", "manifest.json"):
            (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
        return tmp_path

    def resign(self, folder, **changed):
        manifest = read_json(folder / "manifest.json")
        manifest["weights_sha256"] = file_sha256(folder / "model.safetensors")
        write_json(folder / "manifest.json", manifest | changed)

    def test_the_averaged_weights_in_float32_and_frozen(self, folder, trained):
        model, tensors = load_model(folder), state_of(trained[0])[0]
        assert not model.training
        for name, weight in model.named_parameters():
            assert weight.dtype == torch.float32
            assert not weight.requires_grad
            assert torch.equal(weight, tensors[f"average.{name}"].half().float()), name

    def test_a_manifest_older_than_the_causal_kind(self, folder):
        config = read_json(folder / "manifest.json")["config"]
        del config["model"]["causal"], config["device"]
        self.resign(folder, config=config)
        assert not load_model(folder).config.causal

    @pytest.mark.parametrize(
        ("name", "vocab", "causal"), [("mdm", 8192, False), ("mdm256", 16384, False), ("ar256", 16384, True)]
    )
    def test_the_committed_models(self, name, vocab, causal):
        model = load_model(Path(__file__).parent.parent / "models" / name)
        assert (model.config.vocab, model.config.causal, model.config.timed) == (vocab, causal, False)

    @pytest.mark.parametrize("sha256", [None, 5, ["x"]])
    def test_a_manifest_without_a_hash(self, folder, sha256):
        self.resign(folder, weights_sha256=sha256)
        with pytest.raises(InputError, match=r"manifest\.json with no model in it .*weights_sha256"):
            load_model(folder)

    @pytest.mark.parametrize(
        "changed", [{"heads": 3}, {"causal": "false"}, {"vocab": 10**30}, {"vocab": 10**17}]
    )
    def test_a_manifest_of_another_network(self, folder, changed):
        config = read_json(folder / "manifest.json")["config"]
        self.resign(folder, config={"model": config["model"] | changed})
        with pytest.raises(InputError, match="manifest"):
            load_model(folder)

    def test_a_changed_weight(self, folder):
        raw = bytearray((folder / "model.safetensors").read_bytes())
        raw[-1] ^= 1
        (folder / "model.safetensors").write_bytes(raw)
        with pytest.raises(InputError, match="as its manifest says"):
            load_model(folder)

    def test_bytes_that_are_no_safetensors(self, folder):
        (folder / "model.safetensors").write_bytes(b"\x80\x04garbage")
        self.resign(folder)
        with pytest.raises(InputError, match="a safetensors file"):
            load_model(folder)

    def test_tensors_of_another_shape(self, folder):
        weights = {
            name: torch.zeros_like(value)
            for name, value in Denoiser(DenoiserConfig(13, 1, 2, 64)).state_dict().items()
        }
        write_safetensors(folder / "model.safetensors", weights)
        self.resign(folder)
        with pytest.raises(InputError, match=r"weights in .*bias|weights in .*embedding"):
            load_model(folder)

    def test_a_tensor_too_few_or_too_many(self, folder):
        weights = dict(Denoiser(TINY.model).state_dict())
        for change in ({"extra": torch.zeros(1)}, {"bias": None}):
            changed = {name: value for name, value in (weights | change).items() if value is not None}
            write_safetensors(folder / "model.safetensors", changed)
            self.resign(folder)
            with pytest.raises(InputError, match="those of its manifest"):
                load_model(folder)

    @pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
    def test_a_missing_file(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(InputError, match=f"no file .*{name}"):
            load_model(folder)

    @pytest.mark.parametrize(
        "text",
        ["[]", "{}", '{"weights_sha256": "x"}', '{"weights_sha256": "x", "config": {"model": {"z": 1}}}'],
    )
    def test_a_manifest_that_says_too_little(self, folder, text):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest"):
            load_model(folder)


# -- captures ------------------------------------------------------------------------------------
class TestCaptureMdm:
    @pytest.fixture
    def text(self):
        return torch.from_numpy(np.random.default_rng(0).integers(0, 12, (11, 10)))

    def test_rows(self, text, monkeypatch):
        """Each row is what the network says at one masked position of a real window, shifted and in float16."""
        model = toy(12, width=64, layers=2)
        asked = spy(model, monkeypatch)
        found = capture_mdm(model, text, rows=7, rng=philox(0), manifest={"note": "x"})
        assert found.logits.shape == (7, 12)
        assert found.logits.dtype == np.float16
        np.testing.assert_array_equal(found.mask_ratio, [MASK_RATIOS[i % 5] for i in range(7)])
        np.testing.assert_array_equal(found.logits.max(1), 0)
        assert found.manifest == {"model": "mdm", "length": 10, "note": "x"}
        used = []
        for i, (tokens,) in enumerate(list(asked)):
            masked = tokens == 12
            assert masked.sum() == round(found.mask_ratio[i] * 10)
            logits = model.logits(model.hidden(tokens[None]))[0]
            expected = (logits - logits.amax(-1, keepdim=True)).half().numpy()
            at = [l for l in range(10) if masked[l] and np.allclose(expected[l], found.logits[i], atol=2e-3)]
            shown = [w for w in range(11) if torch.equal(text[w][~masked], tokens[~masked])]
            used.append({w for w in shown if found.tokens[i] in text[w, at]})
            assert used[-1]
        assert any(len(set(choice)) == 7 for choice in itertools.product(*used))  # a fresh window for each row

    def test_the_same_rng_gives_the_same_rows(self, text):
        one, other, third = (capture_mdm(toy(12, width=64), text, rows=5, rng=philox(s)) for s in (1, 1, 2))
        np.testing.assert_array_equal(one.logits, other.logits)
        assert (one.logits != third.logits).any()

    @pytest.mark.parametrize("rows", [0, 12, -1])
    def test_rows_that_the_text_cannot_give(self, text, rows):
        with pytest.raises(InputError, match=r"expected 1\.\.11"):
            capture_mdm(toy(12), text, rows=rows, rng=philox(0))

    def test_a_causal_network_is_not_shown_the_mask(self, text):
        with pytest.raises(InputError, match="a causal network"):
            capture_mdm(toy(12, causal=True), text, rows=1, rng=philox(0))

    def test_text_without_windows(self):
        for shape in ((5,), (5, 0)):
            with pytest.raises(InputError, match=r"expected \(windows, 1 or more tokens\)"):
                capture_mdm(toy(12), torch.zeros(shape, dtype=torch.int64), rows=1, rng=philox(0))

    def test_a_short_text_has_at_least_one_mask(self):
        found = capture_mdm(toy(12), torch.zeros(3, 2, dtype=torch.int64), rows=3, rng=philox(0))
        np.testing.assert_array_equal(found.mask_ratio, [0.5, 0.5, 0.5])


class TestCaptureSmolLM2:
    """With a stand-in for the network whose hidden state tells what it was shown."""

    model = types.SimpleNamespace(
        hidden=lambda tokens: torch.nn.functional.one_hot(tokens, 12).float().cumsum(1),
        head=lambda hidden: hidden,
    )

    def test_rows(self):
        text = torch.from_numpy(np.random.default_rng(1).integers(0, 12, (6, 20)))
        found = capture_smollm2(self.model, text, rows=6, rng=philox(0), manifest={"note": "x"})
        assert found.logits.shape == (6, 12)
        assert np.isnan(found.mask_ratio).all()
        assert found.manifest["note"] == "x"
        places = set()
        for logits, token in zip(found.logits, found.tokens, strict=True):
            place = [
                (w, end)
                for w in range(6)
                for end in range(9, 20)
                if token == text[w, end]
                and np.array_equal(
                    np.bincount(text[w, :end], minlength=12) - np.bincount(text[w, :end]).max(), logits
                )
            ]
            assert place  # counts of a prefix of at least nine tokens, and the token that follows it
            places.add(place[0][0])
        assert len(places) == 6

    def test_rows_that_the_text_cannot_give(self):
        with pytest.raises(InputError, match=r"expected 1\.\.6"):
            capture_smollm2(self.model, torch.zeros(6, 20, dtype=torch.int64), rows=7, rng=philox(0))

    def test_windows_too_short_for_the_context(self):
        """Eight tokens, the last one read and the one to come: ten."""
        capture_smollm2(self.model, torch.zeros(1, 10, dtype=torch.int64), rows=1, rng=philox(0))
        with pytest.raises(
            InputError, match=r"text of shape \(1, 9\); expected \(windows, 10 or more tokens\)"
        ):
            capture_smollm2(self.model, torch.zeros(1, 9, dtype=torch.int64), rows=1, rng=philox(0))


@pytest.mark.parametrize("capture", [capture_mdm, capture_smollm2])
def test_captured_text_goes_to_the_device_of_the_model(capture, monkeypatch):
    """No second device here: the one that is named shows."""

    class Seen(Exception):
        pass

    def hidden(tokens):
        raise Seen(tokens.device.type)

    monkeypatch.setattr(recorder, "device_of", lambda model: torch.device("meta"))
    model = types.SimpleNamespace(hidden=hidden, logits=None, config=DenoiserConfig(12, 1, 2, 64))
    with pytest.raises(Seen, match="meta"):
        capture(model, torch.zeros(1, 10, dtype=torch.int64), rows=1, rng=philox(0))
