"""Noise for every token: its law by enumeration of words, its draws, what its rows share, and bad input."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from judging import statistical
from scipy import stats

from precision_lab import SAMPLERS, law, target_law
from precision_lab.errors import InputError
from precision_lab.faithful import (
    categorical,
    certified_argmax,
    exponential_race,
    gumbel_like,
    gumbel_topk,
    noise,
    race,
)
from precision_lab.faithful.certified import Rows, _Source
from precision_lab.faithful.noise import CEILING, CUT, FLOOR, Pair, exponentials_of, gumbels_of
from precision_lab.laws.lattice import reach, tail_ratio_of_atoms
from precision_lab.statistics import total_variation
from precision_lab.targets import parse_target
from precision_lab.types import Guarantee
from precision_lab.uniforms.wide import rounded_words

INF = math.inf
RATE = 1e-8  # of every random test here
LOW = 2**32 - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair_of(folded: np.ndarray, bits: int, *, lower: bool) -> Pair:
    """The words of whole numbers counted from the end of U = 0 or of U = 1, in steps of 2^-bits (32: the
    second word is 0)."""
    words = torch.from_numpy(folded.astype(np.int64))
    pair = Pair(words >> 32, words & LOW) if bits == 64 else Pair(words, torch.zeros_like(words))
    return pair if lower else Pair(pair.first ^ LOW, pair.second ^ LOW)


def atoms(bits: int, below: int, *, of: int):
    """(folded words, probabilities) in blocks: the first 2^bits words of ``of`` bits, those below ``below``,
    by one word for all that round to one float32."""
    for value, count in rounded_words(bits, centred=True):
        keep = value < below
        if not keep.any():
            return
        yield np.floor(value[keep]), np.ldexp(count[keep].astype(np.float64), -of)


class TestMaps:
    def test_the_compiled_exponential_is_the_eager_one(self):
        around = [0, FLOOR, CUT, 2**31, 2**32 - FLOOR, 2**32 - 1, 1 << 24]
        ends = [min(max(each + by, 0), LOW) for each in around for by in range(-50, 51)]
        rng = np.random.default_rng(0)
        first = np.concatenate([ends, rng.integers(0, 2**32, 5000), rng.integers(0, FLOOR, 300)])
        second = rng.integers(0, 2**32, len(first))
        out = np.empty(len(first), dtype=np.float32)
        _, exponential, _ = noise.exponential_loops()
        key = np.zeros(4, dtype=np.uint64)
        exponential(first.astype(np.uint32), second.astype(np.uint32), key, 0, True, out)
        eager = exponentials_of(Pair(torch.from_numpy(first), torch.from_numpy(second)))
        assert np.array_equal(out, eager.numpy())
        gumbels = np.empty_like(out)
        noise.gumbel_loop()(out, gumbels)
        assert np.array_equal(gumbels, gumbels_of(eager).numpy())

    @pytest.mark.parametrize("lower", [True, False])
    def test_against_mpmath(self, lower):
        """E to 1.5 units of 2^-23 of that of all 64 bits below 2^52, and of the 32 bits above; G to 0.7 of
        its own unit, or 2^-24."""
        rng = np.random.default_rng(1)
        fine = np.concatenate([np.arange(50), np.geomspace(50, 2**52 - 1, 1500)]).astype(np.int64)
        coarse = rng.integers(FLOOR, CUT if lower else 2**32 - CUT, 1500)
        for folded, bits in ((fine, 64), (coarse, 32)):
            e = exponentials_of(pair_of(folded, bits, lower=lower))
            g = gumbels_of(e)
            for k, found, gumbel in zip(folded.tolist(), e.tolist(), g.tolist(), strict=True):
                with mpmath.workdps(40):
                    v = (mpmath.mpf(k) + 0.5) / mpmath.mpf(2) ** bits
                    exact = -mpmath.log(1 - v) if lower else -mpmath.log(v)
                    assert abs(found / exact - 1) < 1.5 * 2.0**-23
                    unit = float(np.spacing(np.float32(abs(gumbel))))
                    assert abs(gumbel + mpmath.log(found)) <= max(0.7 * unit, 2.0**-24)

    def test_the_ends(self):
        e = exponentials_of(Pair(torch.tensor([0, LOW]), torch.tensor([0, LOW])))
        assert e[0] == 2.0**-65
        assert float(e[1]) == pytest.approx(65 * math.log(2), rel=1e-7)
        g = gumbels_of(e)
        assert float(g[0]) == pytest.approx(CEILING, rel=1e-7)
        assert CEILING > 44
        assert float(g[1]) == pytest.approx(-math.log(65 * math.log(2)), abs=1e-6)


class TestLaw:
    def ratios(self, gaps: np.ndarray, below: int) -> np.ndarray:
        """q / p of a token so many nats below the rest, by its words next to U = 0 that are below ``below``;
        G as it is returned."""
        found = np.zeros(len(gaps))
        for words, masses in atoms(52, below, of=64):
            g = gumbels_of(exponentials_of(pair_of(words, 64, lower=True))).double().numpy()
            found += tail_ratio_of_atoms(np.exp(-g), masses, gaps)
        return found

    def test_rare_tokens_by_their_words(self):
        """From 31 nats on all that counts are words below 2^26: 64-bit noise as the lattice has it, and no
        less. That of 32 bits is gone at 25 nats."""
        gaps = np.array([31.0, 33.0, 35.0, 38.0, 40.0, 42.0, 44.0])
        found = self.ratios(gaps, 2**26)
        np.testing.assert_allclose(
            found, reach(gaps, 64, centred=True), rtol=1e-6
        )  # G has a spacing of 2^-18 there
        assert (abs(found[:4] - 1) < 3e-7).all()
        assert reach(np.array([27.0]), 32, centred=True) < 1e-5

    def test_what_the_second_word_is_for(self):
        """The same words with the second left out: 2^31 in its place."""
        gap = np.array([26.0])
        words, masses = next(atoms(52, 2**25, of=64))
        cut = Pair(torch.zeros(len(words), dtype=torch.int64), torch.full((len(words),), 2**31))
        e = exponentials_of(cut).double().numpy()
        assert tail_ratio_of_atoms(e, masses, gap) < 1e-6

    @pytest.mark.slow
    def test_every_word(self):
        """All words of both ends: 84 million values of 32 bits and 250 million of 64, as the noise returned.
        A token that has p wins p (1 +- 3e-8) against the continuous rest, p from 1 - 2e-5 to 1e-15, which
        bounds the total variation of every row."""
        gaps = np.array([-11.0, 0.0, 8.0, 17.0, 34.5])
        found = np.zeros(len(gaps))
        total = 0.0
        _, exponential, _ = noise.exponential_loops()
        key = np.zeros(4, dtype=np.uint64)
        for bits, of, low in ((32, 32, FLOOR), (52, 64, 0)):
            for words, masses in atoms(bits, 2**bits + 1, of=of):
                for lower in (True, False):
                    end = (CUT if lower else 2**32 - CUT) << (of - 32)
                    keep = (words >= low) & (words < end)
                    if keep.any():
                        pair = pair_of(words[keep], of, lower=lower)
                        first, second = (word.numpy().astype(np.uint32) for word in pair)
                        g = np.empty(len(first), dtype=np.float32)
                        exponential(first, second, key, 0, True, g)
                        noise.gumbel_loop()(g, g)
                        found += tail_ratio_of_atoms(np.exp(-g.astype(np.float64)), masses[keep], gaps)
                        total += float(masses[keep].sum())
        assert total == pytest.approx(1, abs=2e-8)  # at CUT, words that share a float lie on either side
        np.testing.assert_allclose(found, 1, atol=3e-8)

    @pytest.mark.parametrize(
        "spec",
        [
            "zipf[vocab=151936]",
            "normal[vocab=151936]",
            "mdm_step[vocab=50257,unmask=0.00002]",
            "ends[vocab=999]",
        ],
    )
    def test_the_law_of_the_race(self, spec):
        row = parse_target(spec).logits.astype(np.float32)
        found = law("faithful_race", torch.from_numpy(row))
        assert total_variation(found, target_law(row)) < 1e-12
        assert found.guarantee is Guarantee.CERTIFIED
        assert found.error < 1e-10

    def test_as_a_sampler(self):
        sampler = SAMPLERS["faithful_race"]
        assert sampler.ceiling == CEILING
        assert 32 < sampler.bits_per_draw(1) < 33
        assert sampler.emulated is None


class TestDraws:
    @statistical(false_fail=2 * RATE)
    @pytest.mark.parametrize("batch", [1, 1000])
    def test_frequencies(self, batch):
        """2e5 draws of rows of 300 tokens against softmax by chi-square; a temperature of 1.05 in place of 1
        fails it."""
        row = torch.randn(300, generator=seeded(2)) * 2
        expected = law("faithful_race", row).probs

        def p_value(temperature: float) -> float:
            rows = (row / temperature).expand(batch, 300)
            ids = exponential_race(rows, 200_000 // batch, generator=seeded(3)).ravel().numpy()
            large = expected > 5e-4
            seen = np.append(np.bincount(ids, minlength=300)[large], (~large[ids]).sum())
            wanted = np.append(expected[large], expected[~large].sum()) * ids.size
            return float(stats.chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue)

        assert p_value(1.0) > RATE
        assert p_value(1.05) < RATE

    @statistical(false_fail=2 * RATE)
    def test_a_tail_where_the_first_word_is_0(self):
        """A token 23 nats down whose U is below 2^-32, which all draws share, so that the second word
        decides: it wins (1 - e^-y) / y of them, y = 2^-32 e^23. With the second word left out, e^(-y/2): seen
        at once."""
        rng = np.random.default_rng(4)
        n = 400_000
        words = np.empty((n, 2), dtype=np.uint64)
        words[:, 0] = rng.integers(0, 2**64, n, dtype=np.uint64)
        words[:, 1] = rng.integers(0, 2**32, n, dtype=np.uint64)
        y = 2.0**-32 * math.exp(23)
        wanted = -math.expm1(-y) / y
        row = torch.tensor([0.0, -23.0])

        def p_value(given: np.ndarray) -> float:
            tokens = certified_argmax(row, n, words=torch.from_numpy(given.view(np.int64))).tokens
            return float(stats.binomtest(int(tokens.sum()), n, wanted).pvalue)

        assert p_value(words) > RATE
        cut = words.copy()
        cut[:, 1] = 2**31
        assert p_value(cut) < RATE

    @statistical(false_fail=2 * RATE)
    def test_the_second_words_are_uniform(self):
        """Of 2^24 values some 64 have E below 2^-18: E 2^32 less its whole part is uniform by Kolmogorov and
        Smirnov. Without a second word it is 1/2, but for the rounding of G, 0.02: seen at once."""
        g = gumbel_like(torch.zeros(64, 1 << 18), generator=seeded(5)).numpy().ravel()
        e = np.exp(-g[g > 18 * math.log(2)].astype(np.float64))
        assert stats.binomtest(len(e), g.size, -math.expm1(-(2.0**-18))).pvalue > RATE
        words = e * 2.0**32
        assert stats.kstest(words % 1, "uniform").pvalue > RATE
        blurred = 0.5 + np.linspace(-0.02, 0.02, len(e))
        assert stats.kstest(blurred, "uniform").pvalue < RATE

    @statistical(false_fail=RATE)
    def test_gumbel_noise_is_gumbel(self):
        """4e6 values by Kolmogorov and Smirnov, which sees a shift of 0.005."""
        g = gumbel_like(torch.zeros(16, 250_000), generator=seeded(6)).numpy().ravel().astype(np.float64)
        assert stats.kstest(g, "gumbel_r").pvalue > RATE
        assert stats.kstest(g + 0.005, "gumbel_r").pvalue < RATE

    @statistical(false_fail=RATE)
    def test_without_replacement(self):
        """Pairs in order from 5 tokens, 2e5 rows, against p_i p_j / (1 - p_i) by chi-square; a second token
        drawn from p fails it."""
        row = torch.tensor([0.0, -1.0, 0.5, -INF, -2.0])
        p = torch.softmax(row.double(), -1).numpy()
        pairs = gumbel_topk(row.expand(200_000, 5), 2, generator=seeded(7)).numpy()
        assert (pairs[:, 0] != pairs[:, 1]).all()
        seen = np.bincount(5 * pairs[:, 0] + pairs[:, 1], minlength=25).reshape(5, 5)
        right = p[:, None] * p / (1 - p[:, None])
        np.fill_diagonal(right, 0)
        wrong = np.outer(p, p)
        np.fill_diagonal(wrong, 0)
        live = right > 0
        assert seen[~live].sum() == 0

        def p_value(expected):
            expected = expected[live] / expected[live].sum() * seen.sum()
            return float(stats.chisquare(seen[live], expected).pvalue)

        assert p_value(right) > RATE
        assert p_value(wrong) < RATE


class TestOneNoise:
    def test_the_race_draws_with_the_noise_that_is_returned(self):
        """Argmax of l + G, its first place without replacement, and the race are one token but where float32
        rounds: of 2,000 rows none is expected to differ, and two do with a probability below 1e-4 of
        seeds."""
        logits = torch.randn(2000, 1500, generator=seeded(1)) * 3
        tokens = exponential_race(logits, generator=seeded(2))[0]
        scores = logits + gumbel_like(logits, generator=seeded(2))
        best = gumbel_topk(logits, 3, generator=seeded(2))
        assert int((tokens != scores.argmax(-1)).sum()) <= 1
        assert int((best != scores.topk(3).indices).sum()) <= 4

    @pytest.mark.parametrize("vocab", [1, 3, 1023, 1024, 1025, 5000])
    def test_the_loops_are_the_eager_ones(self, vocab):
        logits = torch.randn(6, vocab, generator=seeded(1), dtype=torch.float64) * 3
        logits[1:, 0] = -1e300 if vocab > 1 else 0
        source = _Source.of_generator(seeded(2), logits, 0)
        out = torch.empty(6, vocab)
        race._fill_eagerly(source, out)
        assert torch.equal(gumbel_like(logits, generator=seeded(2)), out)
        for k in {1, min(2, vocab), vocab - 1, vocab} - {0}:
            found = torch.empty((6, k), dtype=torch.int64)
            race._topk_eagerly(Rows(logits, logits.amax(-1)), source, found)
            assert torch.equal(gumbel_topk(logits, k, generator=seeded(2)), found)

    @pytest.mark.parametrize("draw", [gumbel_like, exponential_race, lambda l, **kw: gumbel_topk(l, 4, **kw)])
    def test_a_row_does_not_depend_on_its_batch(self, draw):
        logits = torch.randn(30, 900, generator=seeded(4)) * 3

        def rows(tensor, **options):
            found = draw(tensor, **options)
            return found[0] if draw is exponential_race else found

        alone = rows(logits[:1], generator=seeded(5))
        assert torch.equal(rows(logits, generator=seeded(5))[:1], alone)
        seeds = torch.arange(30) * 7
        whole = rows(logits, generator=seeds)
        order = torch.randperm(30, generator=seeded(6))
        assert torch.equal(rows(logits[order], generator=seeds[order]), whole[order])
        assert torch.equal(rows(logits[3:4], generator=[21]), whole[3:4])
        assert torch.equal(rows(logits.reshape(5, 6, 900), generator=seeded(5)).flatten(0, 1)[:1], alone)
        columns = logits.T.contiguous().T
        assert torch.equal(rows(columns, generator=seeds), whole)

    def test_threads_change_nothing(self):
        logits = torch.randn(40, 30_000, generator=seeded(8)) * 3
        before = torch.get_num_threads()
        drawn = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            try:
                noise_of = gumbel_like(logits, generator=seeded(9))
                ids = exponential_race(logits, 2, generator=seeded(9))
                drawn.append((noise_of, ids, gumbel_topk(logits, 5, generator=seeded(9))))
            finally:
                torch.set_num_threads(before)
        assert all(torch.equal(one, three) for one, three in zip(*drawn, strict=True))

    def test_seeds_couple_and_positions_part(self):
        """Two rows of logits with one seed and position have one noise; other positions, seeds and rows have
        others, and no value of 1,000 in common but by chance, 1e-4 for each pair of calls."""
        logits = torch.randn(1, 1000, generator=seeded())
        first = gumbel_like(logits, generator=[3], position=5)
        assert torch.equal(gumbel_like(logits * 2, generator=[3], position=5), first)
        others = [
            gumbel_like(logits, generator=[3], position=6),
            gumbel_like(logits, generator=[3], position=5 + 2**40),
            gumbel_like(logits, generator=[4], position=5),
            gumbel_like(logits.expand(2, -1), generator=seeded(1))[1:],
        ]
        assert all(int((other == first).sum()) <= 1 for other in others)

    def test_draws_differ(self):
        ids = exponential_race(torch.zeros(1000), 20, generator=seeded())
        assert len(ids.unique()) > 10  # of 20 from 1000: fewer with a probability below 1e-15

    def test_the_words_of_categorical_are_not_those_of_the_race(self):
        """Two equal tokens, 200 draws with one seed: equal throughout with a probability of 2^-200, as often
        opposite."""
        row = torch.zeros(2)
        one = categorical(row, 200, generator=[1])
        two = exponential_race(row, 200, generator=[1])
        assert 20 < int((one != two).sum()) < 180

    def test_the_generator_goes_on(self):
        generator = seeded(0)
        logits = torch.zeros(3, 50)
        assert not torch.equal(
            gumbel_like(logits, generator=generator), gumbel_like(logits, generator=generator)
        )


CALLS = {
    "gumbel_like": gumbel_like,
    "exponential_race": exponential_race,
    "gumbel_topk": lambda logits, **options: gumbel_topk(logits, 1, **options),
    "certified_argmax": lambda logits, **options: certified_argmax(logits, **options).tokens,
}
ARGMAX = [name for name in CALLS if name != "gumbel_like"]


class TestInput:
    @pytest.mark.parametrize("name", ARGMAX)
    @pytest.mark.parametrize(
        ("bad", "said"),
        [([math.nan, 0.0], "NaN"), ([INF, 0.0], r"\+inf"), ([-INF, -INF], "only -inf")],
        ids=["NaN", "+inf", "-inf"],
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_bad_rows_are_named(self, name, bad, said, dtype):
        with pytest.raises(InputError, match=f"{said} in row 1"):
            CALLS[name](torch.tensor([[0.0, 1.0], bad], dtype=dtype), generator=seeded())

    @pytest.mark.parametrize("name", CALLS)
    @pytest.mark.parametrize(
        "bad",
        [
            {"logits": torch.zeros(2, 3, dtype=torch.int64)},
            {"logits": [[0.0, 1.0]]},
            {"logits": torch.tensor(0.0)},
            {"logits": torch.zeros(2, 0)},
            {"logits": torch.zeros(1, 2**18 + 1)},
            {"generator": None},
            {"generator": [1]},
            {"generator": np.random.default_rng(0)},
            {"position": [1, 2, 3]},
        ],
    )
    def test_bad_input(self, name, bad):
        with pytest.raises(InputError):
            CALLS[name](**({"logits": torch.zeros(2, 3), "generator": seeded()} | bad))

    @pytest.mark.parametrize("n", [-1, 1.5, True, "2"])
    def test_bad_counts(self, n):
        for call in (exponential_race, gumbel_topk, certified_argmax):
            with pytest.raises(InputError):
                call(torch.zeros(2, 3), n, generator=seeded())

    def test_more_than_there_are(self):
        with pytest.raises(InputError, match="k = 4 of 3"):
            gumbel_topk(torch.zeros(2, 3), 4, generator=seeded())
        logits = torch.tensor([[0.0, 0.0, -INF], [0.0, -INF, -INF]])
        with pytest.raises(InputError, match="k = 2 of 1 tokens above -inf in row 1"):
            gumbel_topk(logits, 2, generator=seeded())
        assert sorted(gumbel_topk(logits[0], 2, generator=seeded()).tolist()) == [0, 1]

    @pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 7), (0, 7), (2, 1)])
    @pytest.mark.parametrize("n", [0, 1])
    def test_shapes(self, shape, n):
        logits = torch.zeros(shape)
        assert exponential_race(logits, n, generator=seeded()).shape == (n, *shape[:-1])
        assert gumbel_topk(logits, n, generator=seeded()).shape == (*shape[:-1], n)
        assert gumbel_like(logits, generator=seeded()).shape == shape
        assert gumbel_like(logits.half(), generator=seeded()).dtype is torch.float32

    def test_one_token(self):
        assert exponential_race(torch.tensor([-3e38]), 5, generator=seeded()).tolist() == [0] * 5
        assert gumbel_topk(torch.tensor([-3e38]), 1, generator=seeded()).tolist() == [0]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes_that_hold_the_same_numbers(self, dtype):
        logits = torch.randn(4, 600, generator=seeded(3)).bfloat16().half().bfloat16()
        given = logits.to(dtype)
        for call in CALLS.values():
            assert torch.equal(call(given, generator=seeded(1)), call(given.float(), generator=seeded(1)))

    def test_gradients_and_strides_change_nothing(self):
        logits = torch.randn(2, 9, requires_grad=True)
        before = logits.detach().clone()
        for call in CALLS.values():
            found = call(logits, generator=seeded())
            assert not found.requires_grad
            assert torch.equal(found, call(before, generator=seeded()))
            wide = before.repeat_interleave(2, dim=1)[:, ::2]
            assert torch.equal(call(wide, generator=seeded()), found)
        assert torch.equal(logits.detach(), before)

    def test_extremes(self):
        """Spreads of 1e4 to 1e308 and denormals: what has no chance is not drawn, and without replacement
        comes last."""
        for row, dtype in (
            ([3e38, -3e38, 0.0], torch.float32),
            ([1e308, -1e308, 0.0], torch.float64),
            ([1e4, -1e4, 0.0], torch.float32),
        ):
            logits = torch.tensor(row, dtype=dtype)
            assert exponential_race(logits, 50, generator=seeded()).eq(0).all()
            assert gumbel_topk(logits, 1, generator=seeded()).tolist() == [0]
            assert sorted(gumbel_topk(logits, 3, generator=seeded()).tolist()) == [0, 1, 2]
        tiny = torch.tensor([1e-45, 0.0])
        assert 20 < int(exponential_race(tiny, 200, generator=seeded()).sum()) < 180  # outside: 1e-30

    @pytest.mark.parametrize("by", [-1000.0, 64.0])
    def test_a_shift_changes_no_token(self, by):
        logits = torch.randn(3, 500, generator=seeded(), dtype=torch.float64).float().double()
        ids = exponential_race(logits, 5, generator=seeded(1))
        assert torch.equal(exponential_race(logits + by, 5, generator=seeded(1)), ids)
