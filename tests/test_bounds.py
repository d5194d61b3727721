"""The two forms of the training bound are one number: by enumeration on a tiny network, and by their own Monte Carlo."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.mdm.loss import (
    continuous_bound,
    mask_counts,
    masked_cross_entropy,
    masked_cross_entropy_sum,
    random_subset,
    times,
)
from precision_lab.mdm.schedule import COSINE, LINEAR, polynomial

SCHEMES = ["independent", "shared", "stratified"]
LENGTH = 4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=[False, True], ids=["time-free", "timed"])
def model(request):
    torch.manual_seed(1)
    network = Denoiser(DenoiserConfig(7, 1, 2, 16, timed=request.param))
    for p in network.parameters():
        p.data = p.data + 0.4 * torch.randn(p.shape)
    return network.double().eval().requires_grad_(False)


TEXT = torch.tensor([[3, 1, 6, 0]])


def subset_sums(model, t=None) -> dict[int, list[float]]:
    """n -> sums of -log mu over the masked positions, one for each subset of n positions."""
    found: dict[int, list[float]] = {}
    for n in range(1, LENGTH + 1):
        for chosen in itertools.combinations(range(LENGTH), n):
            masked = torch.zeros(1, LENGTH, dtype=torch.bool)
            masked[0, list(chosen)] = True
            at = None if t is None else torch.tensor([t])
            found.setdefault(n, []).append(float(masked_cross_entropy_sum(model, TEXT, masked, at)))
    return found


def discrete(model) -> float:
    """(1/L) sum_n mean over subsets of (sum / n)."""
    return sum(np.mean(sums) / n for n, sums in subset_sums(model).items()) / LENGTH


def continuous(model, schedule) -> float:
    """int_0^1 dm / m E[sum] / L, by Gauss and Legendre's quadrature over the masked share m; the network is told t = m^-1(m)."""

    def integrand(m: float) -> float:
        sums = subset_sums(model, float(schedule.time(m)))
        return sum(m ** (n - 1) * (1 - m) ** (LENGTH - n) * sum(values) for n, values in sums.items()) / LENGTH

    x, weight = np.polynomial.legendre.leggauss(48)
    return float(sum(w / 2 * integrand((y + 1) / 2) for y, w in zip(x, weight, strict=True)))


class TestTheTwoBounds:
    @pytest.mark.parametrize("schedule", [LINEAR, COSINE, polynomial(2)], ids=lambda s: s.name)
    def test_are_equal_for_a_network_that_is_not_told_the_time(self, model, schedule):
        """Exactly, whatever the schedule; a network that is told the time has a bound for every schedule (control)."""
        same = continuous(model, schedule) == pytest.approx(discrete(model), rel=1e-6)
        assert bool(same) is (not model.config.timed)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_monte_carlo_has_the_mean(self, model, scheme):
        """20,000 batches of 2; 7 standard errors (false-fail 3e-12 each) are about 3 % of the bound."""
        expected = continuous(model, LINEAR) if model.config.timed else discrete(model)
        rng, text = seeded(3), TEXT.expand(8, -1)
        draws = [continuous_bound(model, text, rng=rng, scheme=scheme).mean() for _ in range(2500)]
        values = torch.stack(draws).numpy()
        assert abs(values.mean() - expected) < 7 * values.std() / math.sqrt(len(values))
        if not model.config.timed:
            counts = [mask_counts(8, LENGTH, rng=rng, scheme=scheme) for _ in range(1000)]
            masked = [
                masked_cross_entropy(model, text, random_subset(n, LENGTH, rng=rng)).mean() for n in counts
            ]
            values = torch.stack(masked).numpy()
            assert abs(values.mean() - expected) < 7 * values.std() / math.sqrt(len(values))

    def test_the_weight_matters(self, model):
        """Without 1 / m the mean is another: the control of the test above."""
        rng, text = seeded(4), TEXT.expand(64, -1)
        values = torch.stack([continuous_bound(model, text, rng=rng).mean() for _ in range(200)]).numpy()
        unweighted = np.mean([np.mean(sums) for sums in subset_sums(model).values()]) / LENGTH
        assert abs(values.mean() - unweighted) > 7 * values.std() / math.sqrt(200)


class TestTimes:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_each_is_uniform(self, scheme):
        """Kolmogorov-Smirnov of each place in the batch, 4000 batches: false-fail 1e-7 each."""
        rng = seeded(5)
        t = torch.stack([times(4, rng=rng, scheme=scheme) for _ in range(4000)]).numpy()
        if scheme == "stratified":
            t = (t * 4) % 1.0  # place i is uniform on its quarter
        assert min(stats.kstest(column, "uniform").pvalue for column in t.T) > 1e-7
        assert ((t >= 0) & (t < 1)).all()

    def test_spread_evenly(self):
        for scheme in ("shared", "stratified"):
            for seed in range(20):
                t = np.sort(times(16, rng=seeded(seed), scheme=scheme).numpy())
                assert np.bincount((t * 16).astype(int), minlength=16).max() <= (
                    1 if scheme == "stratified" else 2
                )
        assert np.ptp(np.diff(np.sort(times(16, rng=seeded(0), scheme="shared").numpy()))) < 1e-12

    def test_an_unknown_scheme(self):
        with pytest.raises(InputError, match="scheme"):
            times(4, rng=seeded(0), scheme="sobol")

    def test_low_discrepancy_has_less_variance(self):
        """Of the mean of t^2 over a batch of 32: 4/45/32 if independent; spread evenly at most a tenth of it, seen in 600
        batches beyond chance (F test, 1e-9)."""
        rng = seeded(6)
        v = {
            s: np.var([float((times(32, rng=rng, scheme=s) ** 2).mean()) for _ in range(600)], ddof=1)
            for s in SCHEMES
        }
        limit = stats.f.isf(1e-9, 599, 599)
        assert v["independent"] == pytest.approx(4 / 45 / 32, rel=limit - 1)
        assert v["independent"] > 10 / limit * max(v["shared"], v["stratified"])


class TestTimedNetwork:
    def test_starts_as_a_network_without_time(self):
        torch.manual_seed(0)
        network = Denoiser(DenoiserConfig(7, 1, 2, 16, timed=True))
        tokens = torch.tensor([[7, 1, 7, 7]])
        torch.testing.assert_close(
            network.hidden(tokens, torch.tensor([0.1])), network.hidden(tokens, torch.tensor([0.9]))
        )

    def test_the_time_is_the_masked_share_unless_given(self):
        torch.manual_seed(0)
        network = Denoiser(DenoiserConfig(7, 1, 2, 16, timed=True))
        for p in network.parameters():
            p.data = p.data + 0.4 * torch.randn(p.shape)
        tokens = torch.tensor([[7, 1, 7, 7]])
        given = network.hidden(tokens, torch.tensor([0.75]))
        assert torch.equal(network.hidden(tokens), given)
        assert not torch.allclose(network.hidden(tokens, torch.tensor([0.5])), given)


class Table(torch.nn.Module):
    """A network by its table: free logits for every state (mask included) and position of a tiny text."""

    def __init__(self, vocab: int, length: int, log_probs: torch.Tensor) -> None:
        super().__init__()
        self.config = DenoiserConfig(vocab)
        self.place = (vocab + 1) ** torch.arange(length)
        self.table = torch.nn.Parameter(log_probs)  # (states, length, vocab)

    def hidden(self, tokens, t=None):
        return self.table[(tokens * self.place).sum(1)]

    def logits(self, hidden):
        return hidden


class TestTheBestPredictor:
    """Prop. 3.2 on an enumerable law of texts (3 tokens, 3 positions, random): exactly, no draws."""

    VOCAB, SIZE = 3, 3
    TEXTS = torch.tensor(list(itertools.product(range(3), repeat=3)))
    LAW = torch.softmax(1.5 * torch.randn(27, generator=seeded(8), dtype=torch.float64), 0)

    def posterior(self, alpha) -> torch.Tensor:
        """(states, position, vocab) P(x_l = v | x_t = state), each token a of a text kept with probability alpha(a)."""
        # by its place value
        states = torch.tensor(list(itertools.product(range(self.VOCAB + 1), repeat=self.SIZE))).flip(1)
        given = torch.full((len(states), self.SIZE, self.VOCAB), 0.0, dtype=torch.float64)
        for i, state in enumerate(states):
            masked = state == self.VOCAB
            keep = alpha(self.TEXTS.double())
            forward = torch.where(masked, 1 - keep, keep * (state == self.TEXTS)).prod(1) * self.LAW
            for l in range(self.SIZE):
                given[i, l] = torch.zeros(self.VOCAB, dtype=torch.float64).index_add_(
                    0, self.TEXTS[:, l], forward
                )
        return given / given.sum(-1, keepdim=True)

    def test_is_the_same_at_every_time(self):
        at = [self.posterior(lambda x, a=a: torch.full_like(x, a)) for a in (0.1, 0.5, 0.93)]
        torch.testing.assert_close(at[0], at[1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(at[0], at[2], rtol=1e-12, atol=1e-12)

    def test_is_not_if_tokens_are_masked_at_different_rates(self):
        """The control: alpha = a^(1 + token)."""
        at = [self.posterior(lambda x, a=a: a ** (1 + x)) for a in (0.1, 0.93)]
        assert (at[0] - at[1]).abs().max() > 0.05

    @pytest.mark.parametrize("weights", [(1, 1, 1), (10, 1, 0.1), (0.01, 1, 5)])
    def test_is_the_optimum_of_the_loss_for_any_positive_weights(self, weights):
        """The gradient of sum_n w_n E[(1/n) cross-entropy] by our loss is 0 at the posterior, and not beside it."""

        def gradient(log_probs):
            network = Table(self.VOCAB, self.SIZE, log_probs.float())
            for n, weight in zip(range(1, self.SIZE + 1), weights, strict=True):
                for chosen in itertools.combinations(range(self.SIZE), n):
                    masked = torch.zeros(len(self.TEXTS), self.SIZE, dtype=torch.bool)
                    masked[:, list(chosen)] = True
                    losses = masked_cross_entropy(network, self.TEXTS, masked)
                    (weight / math.comb(self.SIZE, n) * (self.LAW.float() * losses).sum()).backward()
            return float(network.table.grad.abs().max())

        best = self.posterior(lambda x: torch.full_like(x, 0.5)).log().clamp(min=-60)
        assert gradient(best) < 1e-6 * max(weights)
        noise = 0.3 * torch.randn(best.shape, generator=seeded(9), dtype=torch.float64)
        assert gradient(best + noise) > 1e-3 * min(weights)
