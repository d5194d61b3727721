"""Decoders against laws on networks that can be enumerated, and the conformance tests against wrong
first-hitting samplers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from judging import statistical

from precision_lab import SAMPLERS
from precision_lab.errors import InputError
from precision_lab.formats import BF16, FP32
from precision_lab.laws.law import Law
from precision_lab.laws.process import faithful_step, step_law_of, two_stage_step
from precision_lab.mdm.conformance import Probe, assert_first_hitting_conformance, first_hitting_conformance
from precision_lab.mdm.decode import (
    ancestral,
    autoregressive,
    confidence_ordered,
    even_counts,
    event_driven,
    first_hitting,
    hitting_times,
    two_stage,
)
from precision_lab.mdm.decode.decoded import Clock, permutations, uniforms
from precision_lab.mdm.denoiser import START, Denoiser, DenoiserConfig
from precision_lab.mdm.schedule import COSINE, LINEAR, cancelling, polynomial, unmask_probabilities
from precision_lab.samplers import Sampler, Stages
from precision_lab.statistics import Counts
from precision_lab.statistics.testing import chi_square_test
from precision_lab.types import Guarantee

EXACT = SAMPLERS["inverse_cdf_fp64"]
FALSE_FAIL = 1e-8


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@dataclass(frozen=True)
class Witness(Sampler):
    """Another sampler, and the rows it was asked for."""

    inner: Sampler = field(kw_only=True)
    rows: list = field(default_factory=list, kw_only=True, compare=False)

    @property
    def ceiling(self):
        return self.inner.ceiling

    def row_law(self, logits):
        return self.inner.row_law(logits)

    def bits_per_draw(self, vocab):
        return self.inner.bits_per_draw(vocab)

    @property
    def emulated(self):
        return self.inner.emulated

    def sample(self, logits, n, *, rng):
        self.rows.append(logits.clone())
        return self.inner.sample(logits, n, rng=rng)


def witness(inner: Sampler = EXACT) -> Witness:
    return Witness("witness", "test", "here", Stages.all("fp64"), inner=inner)


class Moving:
    """A network whose prediction at every position is linear in the time: mu = (1 - t) a + t b, whatever
    the state."""

    def __init__(self, length: int, vocab: int) -> None:
        self.config = SimpleNamespace(vocab=vocab, mask_id=vocab, timed=True)
        self.a, self.b = (torch.from_numpy(rng(k).dirichlet(np.ones(vocab), length)) for k in (1, 2))
        self.asked: list = []

    def hidden(self, tokens, t):
        self.asked.append((tokens.clone(), t.clone()))
        return self.at(t)

    def at(self, t):
        return ((1 - t.double())[:, None, None] * self.a + t.double()[:, None, None] * self.b).log()

    def log_probs(self, hidden):
        return hidden


def text_law(probs: dict, length: int, vocab: int) -> Law:
    values = np.array([probs.get(text, 0.0) for text in itertools.product(range(vocab), repeat=length)])
    return Law.from_probs(values, "enumeration", 1e-12, Guarantee.CERTIFIED)


def counts_of(tokens: torch.Tensor, vocab: int) -> Counts:
    length = tokens.shape[1]
    code = (tokens * vocab ** torch.arange(length - 1, -1, -1)).sum(1).numpy()
    return Counts.from_tokens(code, vocab**length)


class TestFirstHitting:
    @statistical(false_fail=1e-8)
    @pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda s: s.name)
    def test_conforms(self, schedule):
        """Level 1e-8 each; sees what TestConformance shows."""

        def decode(network, **options):
            return first_hitting(network, EXACT, schedule=schedule, **options).tokens

        assert_first_hitting_conformance(decode, rng=rng(3), schedule=schedule, false_fail=FALSE_FAIL)

    @statistical(false_fail=1e-8)
    def test_torch_generator(self):
        def decode(network, **options):
            return first_hitting(network, EXACT, **options).tokens

        assert_first_hitting_conformance(decode, rng=torch.Generator().manual_seed(1), false_fail=FALSE_FAIL)

    def test_hitting_times_are_order_statistics(self):
        """E[share of the k-th hit of L] = (L + 1 - k) / (L + 1): 200,000 sequences, 8 standard errors
        (1e-15)."""
        t = hitting_times(200_000, 5, rng=rng(1)).numpy()
        assert (np.diff(t, axis=1) <= 0).all()
        expected = np.arange(5, 0, -1) / 6
        assert np.abs(t.mean(0) - expected).max() < 8 * math.sqrt(
            expected.max() * (1 - expected.min()) / 7 / 200_000
        )
        cubic = polynomial(3).masked(hitting_times(200_000, 5, rng=rng(1), schedule=polynomial(3)).numpy())
        np.testing.assert_allclose(cubic, t, rtol=1e-9)

    def test_a_thousand_tokens_do_not_underflow(self):
        t = hitting_times(2, 4096, rng=rng(2)).numpy()
        assert (t > 0).all()

    @statistical(false_fail=FALSE_FAIL)
    def test_parallel_decoding_draws_from_one_state(self):
        """Two tokens of the first call are independent given nothing; the third sees both: the law,
        enumerated."""
        probe = Probe(3, 2, seed=5)
        mask, law = 2, {}

        def at(*state):
            return probe.log_probs(probe.answer(torch.tensor([state])))[0].exp().numpy()

        start = at(mask, mask, mask)
        for pair in itertools.combinations(range(3), 2):
            (last,) = set(range(3)) - set(pair)
            for a, b, c in itertools.product(range(2), repeat=3):
                state = [mask] * 3
                state[pair[0]], state[pair[1]] = a, b
                p = start[pair[0], a] * start[pair[1], b] * at(*state)[last, c] / 3
                state[last] = c
                law[tuple(state)] = law.get(tuple(state), 0) + p
        done = first_hitting(probe, EXACT, batch=40_000, length=3, rng=rng(6), per_call=[2, 1])
        assert (done.nfe, done.draws) == (2, 120_000)
        assert not chi_square_test(counts_of(done.tokens, 2), text_law(law, 3, 2), false_fail=FALSE_FAIL).failed
        one_by_one = first_hitting(probe, EXACT, batch=40_000, length=3, rng=rng(6))
        assert chi_square_test(
            counts_of(one_by_one.tokens, 2), text_law(law, 3, 2), false_fail=FALSE_FAIL
        ).failed

    def test_extrapolation_is_exact_where_mu_is_linear_in_time(self):
        """Every row that is drawn from is mu at the time of its own token; without extrapolation, at that
        of the call."""
        length, network = 8, Moving(8, 5)
        for extrapolate, wanted in ((True, "own"), (False, "call")):
            seen, again = witness(), rng(7)
            done = first_hitting(
                network, seen, batch=1, length=length, rng=again, per_call=[2] * 4, extrapolate=extrapolate
            )
            order, tau = self.replay(length)
            assert done.nfe == 4
            for call, rows in enumerate(seen.rows):
                for k, row in enumerate(rows):
                    hit = 2 * call + k
                    t = tau[:, hit] if wanted == "own" and call else tau[:, 2 * call]
                    mu = network.at(t)[0, order[0, hit]]
                    np.testing.assert_allclose(row.exp(), mu.exp(), atol=1e-6)

    def replay(self, length):
        again = rng(7)
        return permutations(1, length, rng=again), hitting_times(1, length, rng=again)

    def test_extrapolation_below_zero_is_clipped(self):
        from precision_lab.mdm.decode.first_hitting import _lagrange

        now, before = torch.tensor([[[0.9, 0.1]]]).log(), torch.tensor([[[0.6, 0.4]]]).log()
        t, t_before = torch.tensor([0.5]), torch.tensor([0.6])
        found = _lagrange(now, before, torch.tensor([[0.4]]), t, t_before).exp()
        np.testing.assert_allclose(found, [[[1.0, 0.0]]], atol=1e-7)  # 1.2 and -0.2
        same = _lagrange(now, before, torch.tensor([[0.5]]), t, t_before).exp()
        np.testing.assert_allclose(same, now.exp(), atol=1e-7)
        np.testing.assert_allclose(
            _lagrange(now, before, torch.tensor([[0.4]]), t, t).exp(), now.exp(), atol=1e-7
        )

    def test_the_corrector_draws_the_last_tokens_again_from_the_newest_prediction(self):
        probe, seen = Probe(4, 3, seed=1), witness()
        done = first_hitting(probe, seen, batch=1, length=4, rng=rng(8), correct=True)
        assert (done.nfe, done.draws, len(seen.rows)) == (4, 7, 7)
        states = [tokens[0] for tokens, _ in probe.asked]
        for call in range(1, 4):
            last = int(((states[call] != states[call - 1]) & (states[call - 1] == 3)).nonzero()[0])
            newest = probe.log_probs(probe.answer(states[call][None]))[0, last]
            np.testing.assert_allclose(seen.rows[2 * call - 1][0], newest)
        assert len(probe.asked) == 4

    @pytest.mark.parametrize("per_call", [[], [1], [2, 2], [3, 0], [4, -1]])
    def test_bad_counts(self, per_call):
        with pytest.raises(InputError, match="per_call"):
            first_hitting(Probe(3, 2), EXACT, batch=1, length=3, rng=rng(), per_call=per_call)

    def test_even_counts(self):
        assert even_counts(10, 4) == [3, 3, 2, 2]
        for calls in (0, 11):
            with pytest.raises(InputError, match="calls"):
                even_counts(10, calls)

    @pytest.mark.parametrize("per_call", [[2.9, 2.9], [1.5, 1.5], "21", 3, [True, None]])
    def test_counts_that_are_no_whole_numbers(self, per_call):
        with pytest.raises(InputError, match="positive whole numbers of sum 3"):
            first_hitting(Probe(3, 2), EXACT, batch=1, length=3, rng=rng(), per_call=per_call)

    @pytest.mark.parametrize(
        ("size", "schedule", "said"),
        [((2, 0), LINEAR, "at least 1"), ((2, -1), LINEAR, "at least 1"), ((2, 3), polynomial(2), None),
         ((2, 3), replace(COSINE, name="nowhere", time=lambda m: m * math.nan), "nowhere"),
         ((2, 3), replace(COSINE, name="other", unmask=LINEAR.unmask), "other")],
    )  # fmt: skip
    def test_hitting_times_at_their_door(self, size, schedule, said):
        if said is None:
            assert hitting_times(*size, rng=rng(), schedule=schedule).shape == size
            return
        with pytest.raises(InputError, match=said):
            hitting_times(*size, rng=rng(), schedule=schedule)


class TestGiven:
    """Infilling: what is given stays, and what is masked has the law of the rest of a run."""

    STATE = torch.tensor([[0, 3, 3, 1]])

    @statistical(false_fail=2e-8)
    @pytest.mark.parametrize("decoder", ["first_hitting", "ancestral"])
    def test_the_law_of_the_rest(self, decoder):
        """Two masks of four, 30,000 texts against the exact law: either place first. One step of ancestral
        decoding draws both at once, of another law (control)."""
        probe, law, both, size = Probe(4, 3, seed=2), {}, {}, {"batch": 30_000, "length": 4, "rng": rng(9)}

        def at(*state):
            return probe.log_probs(probe.answer(torch.tensor([state])))[0].exp().numpy()

        start = at(0, 3, 3, 1)
        for a, b in itertools.product(range(3), repeat=2):
            left, right_ = start[1, a] * at(0, a, 3, 1)[2, b], start[2, b] * at(0, 3, b, 1)[1, a]
            law[0, a, b, 1], both[0, a, b, 1] = (left + right_) / 2, start[1, a] * start[2, b]
        given = self.STATE.expand(30_000, -1)
        if decoder == "first_hitting":
            done, other = first_hitting(probe, EXACT, given=given, **size), both
            assert (done.nfe, done.draws) == (2, 60_000)
        else:
            done, other = ancestral(probe, EXACT, steps=1, given=given, **size), law
            law = both
            assert (done.nfe, done.draws) == (1, 60_000)
        assert (done.steps[:, [0, 3]] == -1).all()
        counts = counts_of(done.tokens, 3)
        assert not self.failed(counts, law)
        assert self.failed(counts, other)

    def failed(self, counts, law):
        kept = [i for i, text in enumerate(itertools.product(range(3), repeat=4)) if text in law]
        assert counts.counts[kept].sum() == counts.n  # what is given stays
        inside = Counts(counts.counts[kept], counts.n)
        probs = Law.from_probs(np.array([*law.values()]), "enumeration", 1e-12, Guarantee.CERTIFIED)
        return chi_square_test(inside, probs, false_fail=FALSE_FAIL).failed

    def test_the_callers_tensor_is_left_alone(self):
        given = self.STATE.clone()
        for decode in (first_hitting, lambda *a, **k: ancestral(*a, steps=3, **k)):
            decode(Probe(4, 3), EXACT, batch=1, length=4, rng=rng(), given=given)
            assert (given == self.STATE).all()

    @pytest.mark.parametrize(
        "given",
        [torch.tensor([[0, 3, 3]]), torch.tensor([[0, 3, 3, 4]]), torch.tensor([[0, 3, 3, -1]]), torch.tensor([[0, 1, 2, 1]]),
         torch.tensor([[0.0, 3, 3, 1]]), [[0, 3, 3, 1]]],
    )  # fmt: skip
    def test_what_is_no_state(self, given):
        for decode in (first_hitting, lambda *a, **k: ancestral(*a, steps=3, **k)):
            with pytest.raises(InputError, match=r"given of (shape|type list)"):
                decode(Probe(4, 3), EXACT, batch=1, length=4, rng=rng(), given=given)


def test_large_vocabularies_are_mixed_in_pieces():
    """50,000 tokens: 10 positions at a time, 4 MB; 8,192 and fewer: 64, as ever."""
    from precision_lab.mdm.decode.decoded import rows_at_once

    assert [rows_at_once(vocab) for vocab in (1, 8192, 16_384, 50_257, 10**7)] == [64, 64, 32, 10, 1]


def right(network, *, batch, length, rng, shared=False, leftmost=False, old=False, two=False, heat=1.0):
    """A second first-hitting sampler, written loop by loop, and its possible mistakes."""
    mask = network.config.mask_id
    tokens, t = torch.full((batch, length), mask), torch.ones(batch, dtype=torch.float64)
    k = 0
    while k < length:
        left = length - k
        u = torch.from_numpy(rng.random(1).repeat(batch) if shared else rng.random(batch))
        new = t * u ** (1 / left)
        hidden = network.hidden(tokens, t if old else new)
        for _ in range(2 if two and left > 1 else 1):
            for b in range(batch):
                where = (tokens[b] == mask).nonzero()[:, 0]
                at = int(where[0] if leftmost else where[rng.integers(len(where))])
                p = (network.log_probs(hidden)[b, at] / heat).softmax(0).numpy()
                tokens[b, at] = int(rng.choice(len(p), p=p / p.sum()))
            k += 1
        t = new
    return tokens


class TestConformance:
    """Each mistake is failed by the verdict that is there for it; the second implementation passes."""

    @statistical(false_fail=1e-8)
    def test_another_right_one_passes(self):
        assert not any(
            result.failed
            for result in first_hitting_conformance(right, rng=rng(1), batch=1500, false_fail=FALSE_FAIL)
        )

    @pytest.mark.parametrize(
        ("mistake", "verdict"),
        [
            ({"shared": True}, "within_batch"),
            ({"leftmost": True}, "uniform_position"),
            ({"old": True}, "hitting_times"),
            ({"two": True}, "one_token_per_hit"),
            ({"heat": 0.4}, "final_law"),
        ],
        ids=lambda x: str(x),
    )
    def test_mistakes_are_named(self, mistake, verdict):
        def decode(network, **options):
            return right(network, **options, **mistake)

        failed = [r.test for r in first_hitting_conformance(decode, rng=rng(2), batch=1500) if r.failed]
        assert verdict in failed
        with pytest.raises(AssertionError, match=verdict):
            assert_first_hitting_conformance(decode, rng=rng(2), batch=1500)

    def test_rows_that_share_their_tokens(self):
        def copied(network, *, batch, length, rng):
            half = right(network, batch=batch // 2, length=length, rng=rng)
            network.asked = [(s.repeat_interleave(2, 0), t.repeat_interleave(2)) for s, t in network.asked]
            return half.repeat_interleave(2, 0)

        failed = [r.test for r in first_hitting_conformance(copied, rng=rng(3), batch=1000) if r.failed]
        assert "within_batch" in failed

    @pytest.mark.parametrize("given_as", [torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.int])
    def test_tokens_in_any_form(self, given_as):
        """The same verdicts to the last digit."""

        def decode(network, **options):
            return given_as(first_hitting(network, EXACT, **options).tokens)

        def same(network, **options):
            return first_hitting(network, EXACT, **options).tokens

        assert first_hitting_conformance(decode, rng=rng(1), batch=200) == first_hitting_conformance(
            same, rng=rng(1), batch=200
        )

    @pytest.mark.parametrize("returned", [None, "text", np.zeros((200, 3)), [[1, 2], [3]]])
    def test_what_are_no_tokens(self, returned):
        with pytest.raises(InputError, match=r"decode\(\) that returns"):
            first_hitting_conformance(lambda *_, **__: returned, rng=rng(), batch=200)

    @pytest.mark.parametrize("token", [-1, 4, 99])
    def test_tokens_that_are_none(self, token):
        def stray(network, **options):
            tokens = first_hitting(network, EXACT, **options).tokens
            tokens[7, 1] = token
            return tokens

        (only,) = first_hitting_conformance(stray, rng=rng(1), batch=200)
        assert only.failed
        assert only.test == "one_token_per_hit"

    @pytest.mark.parametrize(
        ("options", "said"),
        [({"false_fail": 0}, "false_fail = 0"), ({"false_fail": 1.0}, "false_fail"), ({"batch": 201}, "an even number"),
         ({"batch": 0}, "batch"), ({"batch": 2.5}, "batch"), ({"length": 0}, "length"), ({"vocab": 2.5}, "vocab"),
         ({"length": 40}, "at most 16777216 numbers"), ({"vocab": 10**6}, "at most 16777216 numbers"),
         ({"schedule": replace(LINEAR, name="short", masked=lambda t: t / 2)}, "short")],
    )  # fmt: skip
    def test_bad_options(self, options, said):
        with pytest.raises(InputError, match=said):
            first_hitting_conformance(right, rng=rng(), **options)

    @statistical(false_fail=FALSE_FAIL)
    @pytest.mark.parametrize(("length", "vocab"), [(1, 1), (1, 3), (2, 1), (4, 2)])
    def test_small_probes(self, length, vocab):
        def decode(network, **options):
            return first_hitting(network, EXACT, **options).tokens

        found = first_hitting_conformance(
            decode, rng=rng(1), batch=400, length=length, vocab=vocab, false_fail=FALSE_FAIL
        )
        assert [result.failed for result in found] == [False] * 5

    def test_the_law_of_the_probe_sums_to_one(self):
        law = Probe(3, 3).law()
        assert law.probs.sum() == pytest.approx(1, abs=1e-12)


class TestAncestral:
    @statistical(false_fail=FALSE_FAIL)
    @pytest.mark.parametrize("schedule", [LINEAR, COSINE, polynomial(2)], ids=lambda s: s.name)
    def test_the_time_of_unmasking_follows_the_schedule(self, schedule):
        """P(step i) = masked(t_i) - masked(t_i+1): 40,000 positions of a network that ignores its input."""
        done = ancestral(Probe(1, 2), EXACT, batch=40_000, length=1, steps=8, rng=rng(4), schedule=schedule)
        due = -np.diff(schedule.masked(np.linspace(1, 0, 9)))
        law = Law.from_probs(due, "differences of the schedule", 1e-13, Guarantee.CERTIFIED)
        assert not chi_square_test(Counts.from_tokens(done.steps[:, 0], 8), law, false_fail=FALSE_FAIL).failed
        other = Law.from_probs(np.full(8, 0.125), "linear", 0.0, Guarantee.EXACT)
        if schedule is not LINEAR:
            assert chi_square_test(Counts.from_tokens(done.steps[:, 0], 8), other, false_fail=FALSE_FAIL).failed

    def test_a_network_that_is_told_the_time_is_asked_at_every_step(self):
        probe = Probe(2, 2)
        done = ancestral(probe, EXACT, batch=3, length=2, steps=6, rng=rng(5))
        assert done.nfe == len(probe.asked) > 2
        np.testing.assert_allclose([float(t[0]) for _, t in probe.asked], np.arange(6, 6 - done.nfe, -1) / 6)

    def test_the_temperature_is_of_mu_and_not_of_the_mask(self):
        for wrong in (False, True):
            probe, seen = Probe(1, 3), witness()
            ancestral(
                probe, seen, batch=1, length=1, steps=4, rng=rng(6), temperature=0.5, temper_the_mask=wrong
            )
            row, mu = seen.rows[0][0].exp(), probe.log_probs(probe.answer(torch.tensor([[3]])))[0, 0].exp()
            squared = mu**2 / (mu**2).sum()
            if wrong:
                both = torch.cat([mu / 4, torch.tensor([0.75])]) ** 2
                np.testing.assert_allclose(row, both / both.sum(), rtol=1e-6)
            else:
                np.testing.assert_allclose(row, torch.cat([squared / 4, torch.tensor([0.75])]), rtol=1e-6)

    def test_given_probabilities_of_another_arithmetic(self):
        seen = witness()
        r = cancelling(1000, FP32)
        ancestral(Probe(1, 2), seen, batch=1, length=1, steps=1000, rng=rng(7), unmask=r)
        for row, p in zip(seen.rows[:-1], r, strict=False):
            assert float(row[0, -1].exp()) == pytest.approx(1 - p, rel=1e-12)
        with pytest.raises(InputError, match="unmask of shape"):
            ancestral(Probe(1, 2), EXACT, batch=1, length=1, steps=5, rng=rng(), unmask=r)

    def test_no_mask_left_in_another_arithmetic_unmasks(self):
        """0 / 0 behind an r of 1 is no error, for no mask is left; the last counts as 1, rounding above 1
        too."""
        seen = witness()
        r = torch.tensor([0.0, 0.0, 1.0078125, math.nan]).bfloat16()
        ancestral(Probe(1, 2), seen, batch=1, length=1, steps=4, rng=rng(7), unmask=r)
        assert [float(rows[0, -1].exp()) for rows in seen.rows] == [1, 1, 0]
        ancestral(Probe(1, 2), seen, batch=1, length=1, steps=2, rng=rng(7), unmask=[0.0, 0.995])
        assert float(seen.rows[-1][0, -1].exp()) == 0

    @pytest.mark.parametrize(
        ("unmask", "message"),
        [
            ([math.nan, 0.5, 1.0], "NaN in step 0"),
            ([0.5, math.nan, 1.0], "NaN in step 1"),
            ([-0.1, 0.5, 1.0], "unmask from -0.1"),
            ([0.5, 1.1, 1.0], "unmask from 0.5 to 1.1"),
            ([0.0, 0.0, 0.0], "leaves 1 of the masks"),
            ([0.5, 0.5, 0.5], "leaves 0.125 of the masks"),
        ],
    )
    @pytest.mark.parametrize("sampler", [EXACT, None], ids=["sampler", "faithful"])
    def test_what_is_no_schedule_that_ends(self, unmask, message, sampler):
        with pytest.raises(InputError, match=message):
            ancestral(Probe(1, 2), sampler, batch=1, length=1, steps=3, rng=rng(), unmask=unmask)

    @pytest.mark.parametrize("format", [FP32, BF16], ids=lambda f: f.name)
    @pytest.mark.parametrize("steps", [10, 5000])
    def test_public_arithmetic_ends(self, format, steps):
        ancestral(Probe(1, 2), batch=1, length=1, steps=steps, rng=rng(), unmask=cancelling(steps, format))

    @pytest.mark.parametrize("unmask", ["many", ["a", "b"], [[0.1], [0.2, 0.3]], [{}, {}]])
    def test_probabilities_that_are_no_numbers(self, unmask):
        with pytest.raises(InputError, match="unmask of other things"):
            ancestral(Probe(1, 2), EXACT, batch=1, length=1, steps=2, rng=rng(), unmask=unmask)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_a_network_speaks_in_its_own_format(self, dtype):
        """What is drawn from is its log-probabilities to the last bit, in float64, and log r in the last
        step is 0."""
        probe, seen = Probe(2, 3), witness()
        probe.table = probe.table.to(dtype)
        ancestral(probe, seen, batch=1, length=2, steps=1, rng=rng())
        due = probe.log_probs(probe.answer(torch.full((1, 2), 3)))[0].double()
        assert torch.equal(seen.rows[0][:, :3], due)

    def test_time_is_kept_by_part(self):
        for sampler in (EXACT, None):
            done = ancestral(Probe(2, 2), sampler, batch=2, length=2, steps=3, rng=rng())
            assert set(done.seconds) == {"network", "categorical"}
            assert min(done.seconds.values()) > 0

    def test_a_part_within_a_part_counts_for_itself_alone(self):
        """Seconds by a clock that is read: 1, 2, 4, ... so that every difference is another."""
        clock = Clock()
        times = iter([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
        clock.now = lambda: next(times)
        with clock("categorical"):
            with clock("network"):
                pass
            with clock("network"):
                pass
        assert clock.seconds == {"network": 2.0 + 8.0, "categorical": 31.0 - 10.0}


class TestFaithfulAncestral:
    """Without a sampler: coins of exactly r, and a draw for every token that comes."""

    @statistical(false_fail=2 * FALSE_FAIL)
    @pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda s: s.name)
    @pytest.mark.parametrize("generator", [lambda: rng(14), lambda: torch.Generator().manual_seed(2)])
    def test_the_law_of_the_text_and_of_its_times(self, schedule, generator):
        """As TestTwoStage has it: 40,000 texts against the enumerated law of three steps; of one step is
        refused."""
        probe = Probe(2, 3)
        done = ancestral(probe, batch=40_000, length=2, steps=3, rng=generator(), schedule=schedule)
        counts = Counts.from_tokens(done.tokens @ torch.tensor([3, 1]), 9)
        for steps, refused in ((3, False), (1, True)):
            law = TestTwoStage.law(probe, schedule, steps)
            assert chi_square_test(counts, law, false_fail=FALSE_FAIL).failed == refused
        due = -np.diff(schedule.masked(np.linspace(1, 0, 4)))
        law = Law.from_probs(due, "differences of the schedule", 1e-13, Guarantee.CERTIFIED)
        assert not chi_square_test(Counts.from_tokens(done.steps[:, 0], 3), law, false_fail=FALSE_FAIL).failed

    @statistical(false_fail=2 * FALSE_FAIL)
    def test_the_two_ways_have_one_law(self):
        """Every draw made by a sampler whose law is right to 1e-15, and the default: both against one
        enumeration, at a temperature of 0.7, which at 1 is refused."""
        probe, size = Probe(2, 3), {"batch": 40_000, "length": 2, "steps": 4, "temperature": 0.7}
        cold = replace(probe, asked=[])
        cold.table = torch.log_softmax(probe.table / 0.7, -1)
        law, warm = (TestTwoStage.law(p, LINEAR, 4) for p in (cold, probe))
        for sampler in (None, EXACT):
            done = ancestral(probe, sampler, rng=rng(3), **size)
            counts = Counts.from_tokens(done.tokens @ torch.tensor([3, 1]), 9)
            assert not chi_square_test(counts, law, false_fail=FALSE_FAIL).failed
            assert chi_square_test(counts, warm, false_fail=FALSE_FAIL).failed

    def test_the_network_runs_where_a_token_comes_and_its_head_there_alone(self):
        probe, rows = Probe(3, 3), []
        answered = probe.log_probs
        probe.log_probs = lambda hidden: rows.append(hidden.shape) or answered(hidden)
        done = ancestral(probe, batch=4, length=3, steps=50, rng=rng(15))
        assert done.nfe == len(done.steps.unique()) == len(probe.asked) == len(rows)
        assert done.draws == sum(shape[0] for shape in rows) == 12
        state = torch.full((4, 3), 3)
        for step, (asked, t) in zip(done.steps.unique().tolist(), probe.asked, strict=True):
            text = (done.steps == step).any(1)
            assert torch.equal(asked, state[text])
            assert float(t[0]) == pytest.approx((50 - step) / 50)
            state[done.steps == step] = done.tokens[done.steps == step]

    @pytest.mark.parametrize("batch", [1, 2, 7])
    def test_a_text_does_not_depend_on_its_batch(self, batch):
        """Of a network whose answers do not, and of a generator whose first values are the same: numpy's."""
        whole = ancestral(Probe(3, 3), batch=9, length=3, steps=20, rng=rng(4))
        part = ancestral(Probe(3, 3), batch=batch, length=3, steps=20, rng=rng(4))
        assert torch.equal(part.tokens, whole.tokens[:batch])
        assert torch.equal(part.steps, whole.steps[:batch])
        assert len({tuple(text) for text in whole.steps.tolist()}) > 1

    def test_what_is_given_stays_and_steps_have_their_probabilities(self):
        given = torch.tensor([[0, 3, 3, 1]])
        done = ancestral(Probe(4, 3), batch=1, length=4, steps=3, rng=rng(), given=given, unmask=[0, 1, 1])
        assert done.tokens[0, [0, 3]].tolist() == [0, 1]
        assert done.steps.tolist() == [[-1, 1, 1, -1]]
        last = ancestral(Probe(4, 3), batch=1, length=4, steps=3, rng=rng(), given=given, unmask=[0, 0, 1])
        assert last.steps.tolist() == [[-1, 2, 2, -1]]
        assert given.tolist() == [[0, 3, 3, 1]]

    def test_progress(self):
        seen = []
        done = ancestral(Probe(2, 2), batch=1, length=2, steps=30, rng=rng(), progress=seen.append)
        assert seen == list(range(1, int(done.steps.max()) + 2))

    def test_a_temperature_of_the_mask_needs_a_sampler(self):
        with pytest.raises(InputError, match="temper_the_mask without a sampler"):
            ancestral(Probe(1, 2), batch=1, length=1, steps=2, rng=rng(), temper_the_mask=True)


class TestTwoStage:
    @staticmethod
    def law(probe: Probe, schedule, steps: int) -> Law:
        """The law of N ancestral steps by enumeration: in each, every masked position is unmasked or not."""
        mask, law = probe.vocab, {(probe.vocab,) * probe.length: 1.0}
        for r in unmask_probabilities(steps, schedule):
            after: dict[tuple[int, ...], float] = {}
            for state, p in law.items():
                mu = probe.log_probs(probe.answer(torch.tensor([state])))[0].exp().numpy()
                choices = [
                    [(token, 1.0)]
                    if token != mask
                    else [(mask, 1 - r), *((j, r * mu[l, j]) for j in range(mask))]
                    for l, token in enumerate(state)
                ]
                for change in itertools.product(*choices):
                    to = tuple(token for token, _ in change)
                    after[to] = after.get(to, 0.0) + p * math.prod(q for _, q in change)
            law = after
        ends = itertools.product(range(mask), repeat=probe.length)
        return Law.from_probs(np.array([law[end] for end in ends]), "enumeration", 1e-12, Guarantee.CERTIFIED)

    @statistical(false_fail=2 * FALSE_FAIL)
    @pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=lambda s: s.name)
    def test_the_law_of_the_text_and_of_its_times(self, schedule):
        """Three steps, two positions, three tokens, 40,000 texts; one step would be another law, and is
        refused."""
        probe = Probe(2, 3)
        done = two_stage(probe, EXACT, batch=40_000, length=2, steps=3, rng=rng(14), schedule=schedule)
        counts = Counts.from_tokens(done.tokens @ torch.tensor([3, 1]), 9)
        assert not chi_square_test(counts, self.law(probe, schedule, 3), false_fail=FALSE_FAIL).failed
        assert chi_square_test(counts, self.law(probe, schedule, 1), false_fail=FALSE_FAIL).failed
        due = -np.diff(schedule.masked(np.linspace(1, 0, 4)))
        law = Law.from_probs(due, "differences of the schedule", 1e-13, Guarantee.CERTIFIED)
        assert not chi_square_test(Counts.from_tokens(done.steps[:, 0], 3), law, false_fail=FALSE_FAIL).failed

    def test_the_enumeration_is_that_of_first_hitting_for_many_steps(self):
        probe = Probe(2, 3)
        np.testing.assert_allclose(self.law(probe, LINEAR, 4000).probs, probe.law().probs, atol=2e-4)

    @statistical(false_fail=FALSE_FAIL)
    def test_imprecise_tokens_follow_two_stage_step(self):
        """One position, two steps, bfloat16 noise: step and token of 800,000 texts against r times the
        sampler's own law of mu. The raced law of the same sampler, which meets the mask, is refused."""
        probe, sampler = Probe(1, 3, seed=4), SAMPLERS["gumbel_max_bf16"]
        probe.table = torch.tensor([[0.9, 0.07, 0.03]], dtype=torch.float64).log().expand(4, 3)
        done = two_stage(probe, sampler, batch=800_000, length=1, steps=2, rng=rng(17))
        counts = Counts.from_tokens((3 * done.steps + done.tokens)[:, 0], 6)
        step_law = step_law_of(sampler.law)
        for law, refused in (partial(two_stage_step, token_law=step_law), False), (step_law, True):
            first, last = (law(probe.table[0].numpy(), r) for r in (0.5, 1.0))
            joint = np.append(first, (1 - first.sum()) * last / last.sum())
            due = Law.from_probs(joint, "two steps", 1e-9, Guarantee.CERTIFIED)
            assert chi_square_test(counts, due, false_fail=FALSE_FAIL).failed == refused

    def test_the_sampler_never_sees_the_mask(self):
        probe, seen = Probe(2, 3), witness()
        done = two_stage(probe, seen, batch=3, length=2, steps=50, rng=rng(15), temperature=0.5)
        assert (done.draws, sum(map(len, seen.rows))) == (6, 6)
        assert all(rows.shape[1] == 3 for rows in seen.rows)
        assert done.nfe == len(done.steps.unique()) == len(probe.asked)
        first = done.steps.min()
        row = (done.steps == first).nonzero()[0]
        mu = probe.log_probs(probe.answer(torch.full((1, 2), 3)))[0, row[1]].exp() ** 2
        np.testing.assert_allclose(seen.rows[0][0].exp(), mu / mu.sum(), rtol=1e-12)
        assert float(probe.asked[0][1][0]) == pytest.approx((50 - int(first)) / 50)

    def test_one_step_unmasks_everything(self):
        done = two_stage(Probe(2, 3), EXACT, batch=4, length=2, steps=1, rng=torch.Generator().manual_seed(1))
        assert (done.steps == 0).all()
        assert (done.tokens < 3).all()
        assert done.nfe == 1

    @pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"temperature": -1.0}])
    def test_bad_input(self, wrong):
        with pytest.raises(InputError):
            two_stage(Probe(1, 2), EXACT, **({"batch": 1, "length": 1, "steps": 2, "rng": rng()} | wrong))

    def test_no_gradient_is_kept(self):
        """A sampler by way of NumPy, and a network whose weights want gradients."""
        done = two_stage(
            Denoiser(DenoiserConfig(11, 1, 1, 16)),
            SAMPLERS["numpy_choice"],
            batch=2,
            length=3,
            steps=4,
            rng=rng(),
        )
        assert (done.tokens < 11).all()


class TestConfidence:
    @pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
    def test_against_a_loop_over_positions(self, order):
        """The proposals are witnessed; which of them stays is recomputed by hand, one position at a time."""
        for seed in range(20):
            probe, seen = Probe(4, 3, seed=seed), witness()
            done = confidence_ordered(probe, seen, batch=1, length=4, rng=rng(seed), order=order, steps=4)
            state, tokens = [3] * 4, done.tokens[0].tolist()
            for call, rows in enumerate(seen.rows):
                masked = [l for l, token in enumerate(state) if token == 3]
                (chosen,) = [l for l in masked if done.steps[0, l] == call]
                score = {}
                for l, row in zip(masked, rows.exp().numpy(), strict=True):
                    top = np.sort(row)[::-1]
                    score[l] = {"margin": top[0] - top[1], "entropy": (row * np.log(row)).sum()}.get(order, row)
                # of the tokens proposed, of which only the chosen is known: it beats ...
                if order == "confidence":
                    assert all(score[chosen][tokens[chosen]] >= score[l].min() for l in masked)
                else:
                    assert chosen == max(masked, key=lambda l: score[l])
                state[chosen] = tokens[chosen]

    def test_greedy_confidence_is_the_surest_token(self):
        """With the likeliest token as proposal, the position of the largest probability comes first."""
        likeliest = Likeliest("likeliest", "test", "here", Stages.all("fp64"))
        for seed in range(20):
            probe = Probe(4, 3, seed=seed)
            done = confidence_ordered(probe, likeliest, batch=1, length=4, rng=rng(), steps=4)
            first = probe.log_probs(probe.answer(torch.full((1, 4), 3)))[0].max(-1).values.argmax()
            assert int(done.steps[0].argmin()) == int(first)

    def test_coarse_confidence_goes_left_to_right(self):
        """Every probability above 1 - 2^-9 is 1 in bfloat16: ties, leftmost first."""
        sure = Sure(6)
        for format, expected in ((BF16, [0, 1, 2, 3, 4, 5]), (FP32, [5, 4, 3, 2, 1, 0])):
            done = confidence_ordered(
                sure, EXACT, batch=2, length=6, rng=rng(), steps=6, confidence_format=format
            )
            assert done.steps.tolist() == [expected] * 2

    @statistical(false_fail=FALSE_FAIL)
    def test_random_order_is_not_rounded(self):
        """Of 60 uniform numbers the largest is often 1 in bfloat16, and ties go left: rounded, the first
        positions of 40,000 texts come first a fifth more often than the last (chi-square 209, p = 1e-18);
        against equal shares."""
        done = confidence_ordered(
            Sure(60),
            EXACT,
            batch=40_000,
            length=60,
            rng=rng(10),
            order="random",
            per_call=[1, 59],
            confidence_format=BF16,
        )
        first = Counts.from_tokens(done.steps.argmin(1), 60)
        equal = Law.from_probs(np.full(60, 1 / 60), "equally likely", 0.0, Guarantee.EXACT)
        assert not chi_square_test(first, equal, false_fail=FALSE_FAIL).failed

    @pytest.mark.parametrize(
        ("options", "said"),
        [({"order": "surest"}, "confidence, margin, entropy, random"), ({"steps": 2, "per_call": [1, 2]}, "one of the two"),
         ({"steps": 2.0}, "calls = 2.0"), ({"order": None}, "order None")],
    )  # fmt: skip
    def test_bad_options(self, options, said):
        with pytest.raises(InputError, match=said):
            confidence_ordered(Probe(3, 2), EXACT, batch=1, length=3, rng=rng(), **options)

    @statistical(false_fail=FALSE_FAIL)
    def test_random_order_is_parallel_first_hitting(self):
        probe = Probe(3, 2, seed=9)
        done = confidence_ordered(probe, EXACT, batch=40_000, length=3, rng=rng(9), order="random", steps=3)
        assert (done.nfe, done.draws) == (3, 40_000 * 6)
        assert not chi_square_test(counts_of(done.tokens, 2), probe.law(), false_fail=FALSE_FAIL).failed


@dataclass(frozen=True)
class Likeliest(Sampler):
    @property
    def ceiling(self):
        return math.nan

    def row_law(self, logits):
        return Law.from_probs(np.eye(len(logits))[int(logits.argmax())], "certain", 0.0, Guarantee.EXACT)

    def bits_per_draw(self, vocab):
        return 0.0

    @property
    def emulated(self):
        return None

    def sample(self, logits, n, *, rng):
        return logits.argmax(-1).expand(n, -1)


class Sure:
    """One token all but certain everywhere, the surer the further right; all above 1 - 2^-9."""

    def __init__(self, length: int) -> None:
        self.config = SimpleNamespace(vocab=2, mask_id=2)
        rare = (
            1e-12 * 2.0 ** -torch.arange(length, dtype=torch.float64)
            + 2.0 ** -torch.arange(14, 14 + length).double()
        )
        self.table = torch.stack([1 - rare, rare], -1).log()

    def hidden(self, tokens):
        return self.table.expand(len(tokens), -1, -1)

    def log_probs(self, hidden):
        return hidden


class TestAutoregressive:
    def test_rows_are_those_of_the_whole_text(self):
        """What each token was drawn from is what the causal network says of the finished text."""
        torch.manual_seed(0)
        model = Denoiser(DenoiserConfig(11, 2, 2, 16, causal=True))
        for p in model.parameters():
            p.data = p.data + 0.3 * torch.randn(p.shape)
        seen = witness()
        done = autoregressive(model, seen, batch=3, length=5, rng=rng(1), temperature=0.8)
        with torch.no_grad():
            due = torch.log_softmax(model.log_probs(model.hidden(done.tokens)).double() / 0.8, -1)
        for l, rows in enumerate(seen.rows):
            np.testing.assert_allclose(rows, due[:, l], atol=1e-5)
        assert (done.nfe, done.draws, done.steps.tolist()) == (5, 15, [[0, 1, 2, 3, 4]] * 3)

    def test_kept_keys_and_values_change_nothing(self):
        """Row by row what the whole prefix gives, in float64; a network without a reader decodes the same
        text."""
        torch.manual_seed(1)
        model = Denoiser(DenoiserConfig(11, 2, 2, 16, causal=True)).double()
        for p in model.parameters():
            p.data = p.data + 0.3 * torch.randn(p.shape, dtype=torch.float64)
        tokens = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
        with torch.no_grad():
            read, due = model.reader(), model.hidden(tokens)
            for l, last in enumerate([torch.full((2,), START), *tokens.T[:-1]]):
                torch.testing.assert_close(read(last), due[:, l], rtol=1e-9, atol=1e-9)
        plain = SimpleNamespace(config=model.config, hidden=model.hidden, log_probs=model.log_probs)
        texts = [autoregressive(m, EXACT, batch=40, length=7, rng=rng(2)).tokens for m in (model, plain)]
        assert torch.equal(*texts)

    def test_a_network_that_looks_ahead_is_refused(self):
        with pytest.raises(InputError, match="causal"):
            autoregressive(Denoiser(DenoiserConfig(11, 1, 1, 16)), EXACT, batch=1, length=2, rng=rng())


CAUSAL = SimpleNamespace(vocab=2, mask_id=2, causal=True)
DECODERS = {
    "ancestral": partial(ancestral, steps=2),
    "faithful": lambda model, _, **options: ancestral(model, **({"steps": 2} | options)),
    "two_stage": partial(two_stage, steps=2),
    "event_driven": lambda model, sampler, **options: event_driven(model, faithful_step, steps=2, **options),
    "first_hitting": first_hitting,
    "extrapolated": partial(first_hitting, extrapolate=True),
    "confidence": confidence_ordered,
    "autoregressive": autoregressive,
}


class Says:
    """The same row at every position of every state."""

    def __init__(self, *row: float, device: str | None = None) -> None:
        self.config, self.row, self.device = CAUSAL, torch.tensor(row), device

    def hidden(self, tokens):
        return torch.zeros((*tokens.shape, 1))

    def log_probs(self, hidden):
        return self.row.expand(*hidden.shape[:-1], -1)


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
class TestEveryDecoder:
    @pytest.mark.parametrize("row", [(math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0), (-math.inf, -math.inf)])
    def test_rows_that_nothing_can_be_drawn_from(self, decode, row):
        with pytest.raises(InputError, match="log-probabilities with NaN"):
            decode(Says(*row), EXACT, batch=2, length=3, rng=rng())

    def test_a_token_that_cannot_come(self, decode):
        assert (decode(Says(-math.inf, 0.0), EXACT, batch=2, length=3, rng=rng()).tokens == 1).all()

    def test_a_temperature_that_overflows(self, decode):
        if decode is DECODERS["faithful"]:  # there is no overflow: the likeliest token
            done = decode(Says(-3.0, -4.0), EXACT, batch=2, length=3, rng=rng(), temperature=1e-308)
            assert (done.tokens == 0).all()
        elif decode is not DECODERS["event_driven"]:
            with pytest.raises(InputError, match="a temperature near 0"):
                decode(Says(-3.0, -4.0), EXACT, batch=2, length=3, rng=rng(), temperature=1e-308)

    @pytest.mark.parametrize(
        "size", [{"batch": 2.5}, {"length": 2.5}, {"batch": "2"}, {"length": None}, {"batch": 0}]
    )
    def test_sizes_that_are_no_whole_numbers(self, decode, size):
        with pytest.raises(InputError, match="whole numbers, at least 1 of each"):
            decode(Says(0.0, 0.0), EXACT, **({"batch": 2, "length": 3, "rng": rng()} | size))

    def test_fractional_steps(self, decode):
        if "steps" in getattr(decode, "keywords", ()) or decode is DECODERS["faithful"]:
            with pytest.raises(InputError, match=r"steps 2\.5"):
                decode(Says(0.0, 0.0), EXACT, batch=2, length=3, rng=rng(), steps=2.5)

    @pytest.mark.parametrize("wrong", [None, 0, np.random])
    def test_no_generator(self, decode, wrong):
        if not (decode is DECODERS["event_driven"] and wrong is np.random):
            with pytest.raises(InputError, match="rng of type"):
                decode(Says(0.0, 0.0), EXACT, batch=2, length=3, rng=wrong)

    @pytest.mark.parametrize("generator", [rng, torch.Generator], ids=["numpy", "torch"])
    def test_a_generator_on_another_device(self, decode, generator):
        """Event-driven decoding draws on the CPU, wherever the network is."""
        if decode is not DECODERS["event_driven"]:
            with pytest.raises(InputError, match=r"network on cuda:0 and a (numpy|torch)\S* generator on cpu"):
                decode(Says(0.0, 0.0, device="cuda:0"), EXACT, batch=2, length=3, rng=generator())


class Top(np.random.Generator):
    """The largest of all integers, every time."""

    def integers(self, low, high=None, size=None, dtype=np.int64, endpoint=False):
        return np.full(size, high - 1, dtype=dtype)


class TestUniforms:
    """In (0, 1]: the largest is 1, and whoever takes them bears it."""

    def test_ends(self):
        class Bottom(Top):
            def integers(self, low, high=None, size=None, dtype=np.int64, endpoint=False):
                return np.zeros(size, dtype=dtype)

        low, high = (float(uniforms((1,), rng=kind(np.random.PCG64()))) for kind in (Bottom, Top))
        assert (low, high) == (2.0**-54, 1.0)

    def test_every_user_bears_one(self):
        top = Top(np.random.PCG64())
        assert (hitting_times(2, 5, rng=top) == 1).all()
        assert permutations(2, 5, rng=top).sort(1).values.tolist() == [[0, 1, 2, 3, 4]] * 2
        among = torch.tensor([[False, True, False, True]])
        assert permutations(1, 4, rng=top, among=among).sort(1).values.tolist() == [[1, 3]]
        done = two_stage(Says(0.0, 0.0), EXACT, batch=2, length=3, steps=7, rng=top)
        assert (done.steps == 0).all()
        assert (
            confidence_ordered(Says(0.0, 0.0), EXACT, batch=2, length=3, rng=top, order="random").tokens < 2
        ).all()

    @pytest.mark.parametrize("wrong", [None, 3, np.random])
    def test_no_generator(self, wrong):
        for take in (uniforms, hitting_times, permutations):
            with pytest.raises(InputError, match="rng of type"):
                take(*((2, 3),) if take is uniforms else (2, 3), rng=wrong)


@pytest.mark.parametrize("temperature", [-1.0, math.inf, math.nan, None, "1"])
def test_bad_temperature(temperature):
    for decode in (
        lambda: ancestral(Probe(1, 2), EXACT, batch=1, length=1, steps=2, rng=rng(), temperature=temperature),
        lambda: first_hitting(Probe(1, 2), EXACT, batch=1, length=1, rng=rng(), temperature=temperature),
        lambda: confidence_ordered(Probe(1, 2), EXACT, batch=1, length=1, rng=rng(), temperature=temperature),
    ):
        with pytest.raises(InputError, match="temperature"):
            decode()


def test_unmask_probabilities_end_in_one():
    for schedule in (LINEAR, COSINE, polynomial(0.5)):
        r = unmask_probabilities(100, schedule)
        assert r[-1] == 1
        assert ((r > 0) & (r <= 1)).all()
