"""The certified argmax: the token of real arithmetic for the same words, whatever decides it; and its
words."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precision_lab.errors import InputError
from precision_lab.faithful import certified, certified_argmax, noise
from precision_lab.faithful.noise import CUT, FLOOR, TILE, Pair
from precision_lab.uniforms.philox import philox4x32

INF = math.inf
EDGES = [
    0,
    1,
    2**32 - 1,
    (FLOOR << 32) - 1,
    FLOOR << 32,
    (CUT << 32) - 1,
    CUT << 32,
    2**63,
    2**64 - 1 - (FLOOR << 32),
    2**64 - (FLOOR << 32),
    2**64 - 2,
    2**64 - 1,
]
WORD = st.sampled_from(EDGES) | st.integers(0, 2**64 - 1)
LOGIT = st.sampled_from([0.0, -1e-3, -30.0, -INF]) | st.floats(-60, 5, width=32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signed(words) -> torch.Tensor:
    """int64 of the same bits."""
    return torch.from_numpy(np.array(words, dtype=np.uint64).view(np.int64))


def true_score(logit: float, word: int):
    """To 400 digits: a denormal logit beside one of 1 counts."""
    with mpmath.workdps(400):
        u = (mpmath.mpf(word) + 0.5) / mpmath.mpf(2) ** 64
        return mpmath.mpf(logit) - mpmath.log(-mpmath.log(1 - u))


def oracle(row: list[float], words: list[int]) -> int:
    """The first index of the largest score."""
    scores = [true_score(l, k) if l > -INF else -mpmath.inf for l, k in zip(row, words, strict=True)]
    return scores.index(max(scores))


def eager(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """What a device without the compiled loop runs."""
    source = certified._Source.of_generator(seeded(seed), logits, 0)
    found = torch.empty((n, len(logits)), dtype=torch.int64)
    rows = certified.Rows(logits, logits.amax(-1))
    certified._eager(rows, source, found)
    certified._settle_all(rows, source, found)
    return found


class TestWords:
    def test_the_layout_by_the_other_philox(self):
        """Words of a few tokens of one draw, straight from the definition, by an implementation that shares
        no code."""
        key = torch.tensor([[11, 2**32 - 5, 7, 9]])
        pair = noise.words_of(key, torch.tensor([3]), torch.tensor([2**33 + 1]), 6, 3000)
        of_draw = philox4x32((6, 3 | 255 << 24, 7 ^ 1, 9 ^ 2), (11, 2**32 - 5))
        k0, k1, c2, c3 = (int(word) for word in of_draw)
        for token in (0, 255, 256, 1023, 1024, 2000, 2999):
            block = TILE // 4 * (token // TILE) + token % 256
            first = philox4x32((block, 0, c2, c3), (k0, k1))[token // 256 % 4]
            second = philox4x32((token, 1, c2, c3), (k0, k1))[0]
            assert (int(pair.first[0, token]), int(pair.second[0, token])) == (int(first), int(second))

    @pytest.mark.parametrize("vocab", [1, 5, TILE - 1, TILE, TILE + 1, 5000])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_loop_eager_and_given_words_agree(self, vocab, dtype):
        logits = (torch.randn(6, vocab, generator=seeded(1), dtype=torch.float64) * 3).to(dtype)
        found = certified_argmax(logits, 3, generator=seeded(2)).tokens
        wide = logits if dtype is torch.float64 else logits.float()
        assert torch.equal(found, eager(wide, 3, 2))
        source = certified._Source.of_generator(seeded(2), logits, 0)
        pairs = [source.pair(draw, slice(None), vocab, logits.device) for draw in range(3)]
        words = torch.stack([(pair.first << 32) | pair.second for pair in pairs])
        assert torch.equal(certified_argmax(logits, 3, words=words).tokens, found)
        assert torch.equal(certified_argmax(logits, 3, words=words.view(torch.uint64)).tokens, found)


class TestExact:
    @given(st.lists(st.tuples(LOGIT, WORD), min_size=1, max_size=6).filter(lambda row: max(row)[0] > -INF))
    def test_every_row_is_that_of_mpmath(self, row):
        logits, words = zip(*row, strict=True)
        tensor = torch.tensor(logits)
        found = certified_argmax(tensor, words=signed([words]))
        assert found.tokens.item() == oracle(tensor.tolist(), list(words))

    def test_many_rows(self):
        rng = np.random.default_rng(0)
        logits = torch.from_numpy(rng.normal(0, 4, (400, 7))).float()
        words = rng.integers(0, 2**64, (1, 400, 7), dtype=np.uint64)
        found = certified_argmax(logits, words=signed(words)).tokens[0].tolist()
        assert found == [oracle(row, w) for row, w in zip(logits.tolist(), words[0].tolist(), strict=True)]

    @pytest.mark.parametrize("steps", [-2, -1, 0, 1, 2])
    @pytest.mark.parametrize("where", [2, 1500])
    def test_planted_near_ties(self, steps, where):
        """Two scores as near as float64 logits can have them, in one tile or in two, and some floats apart:
        all are refined, the nearest by decimals. Float64 alone gets some of them wrong."""
        rng = np.random.default_rng(1)
        count, vocab = 40, 1600
        words = rng.integers(2**62, 2**63, (1, count, vocab), dtype=np.uint64)
        words[0, :, [0, where]] = rng.integers(0, 2**60, (2, count), dtype=np.uint64)
        logits = np.full((count, vocab), -20.0)
        logits[:, 0] = rng.normal(0, 1, count)
        with mpmath.workdps(60):
            for r in range(count):
                score = true_score(logits[r, 0], int(words[0, r, 0]))
                level = float(score - true_score(0.0, int(words[0, r, where])))
                logits[r, where] = level + steps * np.spacing(level)
        found = certified_argmax(torch.from_numpy(logits), words=signed(words))
        wanted = [
            oracle(logits[r, [0, where]].tolist(), words[0, r, [0, where]].tolist()) for r in range(count)
        ]
        assert found.tokens[0].tolist() == [where if each else 0 for each in wanted]
        assert (found.refined, found.exact, found.draws, found.share) == (count, count, count, 1.0)
        u = (words[0][:, [0, where]].astype(np.float64) + 0.5) * 2.0**-64
        plain = (logits[:, [0, where]] - np.log(-np.log1p(-u))).argmax(-1)
        assert steps != 0 or (plain != np.array(wanted)).any()

    @pytest.mark.parametrize("apart", [1e-6, 1e-9])
    def test_near_ties_that_float64_decides(self, apart):
        """The same word for both, and logits so far apart."""
        words = signed([[12345 << 40] * 2])
        for logits, winner in (([0.0, apart], 1), ([apart, 0.0], 0)):
            found = certified_argmax(torch.tensor(logits, dtype=torch.float64), words=words)
            assert (found.tokens.item(), found.refined, found.exact) == (winner, 1, 0)

    @pytest.mark.parametrize("word", EDGES)
    def test_equal_pairs_go_to_the_first(self, word):
        row = torch.tensor([-3.0, 0.0, 0.0, -INF, 0.0])
        found = certified_argmax(row, words=signed([[word] * 5]))
        assert (found.tokens.item(), found.refined, found.exact) == (1, 1, 1)

    def test_the_second_word_decides_where_the_first_is_equal(self):
        """Words 2^55 + 1 and 2^55 share their first 32 bits, and all that float32 or float64 holds."""
        words = signed([[2**55 + 1, 2**55], [2**55, 2**55 + 1]])
        assert certified_argmax(torch.zeros(2), 2, words=words).tokens.tolist() == [1, 0]

    def test_from_48_nats_on_nothing_wins(self):
        """The largest noise against the smallest: a token 48.8 nats down wins, one of 48.9 does not."""
        words = signed([[2**64 - 1, 0]])
        with mpmath.workdps(60):
            edge = float(true_score(0.0, 0) - true_score(0.0, 2**64 - 1))
        assert 48.8 < edge < 48.9 < -certified.LEAST
        for gap in (48.8, 48.9, 61.0, 1e30):
            found = certified_argmax(torch.tensor([0.0, -gap]), words=words).tokens.item()
            assert found == int(gap < edge)

    def test_the_bound_of_a_float32_score(self):
        """4.7e-6, relative, is what the margin of 2^-16 rests on: at logits of every kind and words at the
        edges of each branch."""
        rng = np.random.default_rng(2)
        around = [FLOOR, CUT, 2**32 - FLOOR, 2**31, 1 << 24, 1 << 26]
        first = [min(max(each + by, 0), 2**32 - 1) for each in (0, *around, 2**32 - 1) for by in range(-40, 41)]
        first += rng.integers(0, 2**32, 3000).tolist() + np.geomspace(1, 2**32 - 1, 3000).astype(int).tolist()
        second = rng.choice([0, 1, 2**31, 2**32 - 1], len(first))
        x = -np.concatenate([[0.0], rng.uniform(0, 60, len(first) - 1)]).astype(np.float32)
        top = 2.625
        logits = torch.from_numpy(x + np.float32(top))
        pair = Pair(torch.tensor(first), torch.from_numpy(second))
        scores = certified._scores(logits, torch.tensor(top), pair).numpy() / 2.0**22
        wrong = 0.0
        for logit, score, k0, k1 in zip(logits.tolist(), scores.tolist(), first, second.tolist(), strict=True):
            if logit - top >= certified.LEAST:
                with mpmath.workdps(40):
                    true = mpmath.exp(true_score(logit - top, (k0 << 32) | k1))
                    wrong = max(wrong, abs(float(score / true - 1)))
        assert 1e-7 < wrong < 4.7e-6
        assert 1 / (1 - certified.MARGIN) > (1 + 4.7e-6) / (1 - 4.7e-6)

    def test_without_a_margin_the_first_words_decide_wrongly(self, monkeypatch):
        """Words that differ in the second half only tie in float32: the control of the tests above."""
        monkeypatch.setattr(certified, "MARGIN", -1.0)
        monkeypatch.setattr(certified, "race_loop", certified.race_loop.__wrapped__)
        words = signed([[2**55 + 1, 2**55]])
        assert certified_argmax(torch.zeros(2), words=words).tokens.item() == 0

    def test_decimals_of_any_length(self):
        """Scores that differ by a part of the word only 2^-64 of a word that is near 2^63: 20 digits; and
        logits of 1e300."""
        words = signed([[2**63, 2**63 - 1]])
        assert certified_argmax(torch.zeros(2), words=words).tokens.item() == 1
        huge = torch.tensor([1e300, 1e300], dtype=torch.float64)
        assert certified_argmax(huge, words=words).tokens.item() == 1
        small = torch.tensor([0.0, 5e-324], dtype=torch.float64)
        found = certified_argmax(small, words=signed([[2**63, 2**63]]))
        assert (found.tokens.item(), found.exact) == (1, 1)


class TestReport:
    def test_the_share_refined(self):
        """Flat rows of 50: P(refined) <= 2^-16 a draw; of 400,000 at most 30 but with probability 1e-13, and
        none with 0.003."""
        found = certified_argmax(torch.zeros(1, 50), 400_000, generator=seeded(3))
        assert found.draws == 400_000
        assert 0 < found.refined <= 30
        assert found.exact == 0
        assert found.share == found.refined / found.draws

    def test_of_nothing(self):
        found = certified_argmax(torch.zeros(2, 3), 0, generator=seeded())
        assert (found.tokens.shape, found.share) == ((0, 2), 0.0)

    @pytest.mark.parametrize(
        "bad",
        [
            {},
            {"generator": seeded(), "words": torch.zeros(1, 2, 3, dtype=torch.int64)},
            {"words": torch.zeros(1, 2, 3)},
            {"words": np.zeros((1, 2, 3), dtype=np.int64)},
            {"words": torch.zeros(2, 3, dtype=torch.int64)},
            {"words": torch.zeros(1, 2, 4, dtype=torch.int64)},
        ],
        ids=["neither", "both", "floats", "an array", "no draws", "another vocab"],
    )
    def test_words_or_a_generator(self, bad):
        with pytest.raises(InputError):
            certified_argmax(torch.zeros(2, 3), **bad)
