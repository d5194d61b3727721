"""A step of masked diffusion: coins of exactly r, tokens of the faithful sampler, and only the rows that
come are looked at."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from judging import statistical
from scipy import stats

from precision_lab.errors import InputError
from precision_lab.faithful import categorical, unmask_step, which_come
from precision_lab.faithful.words import compiled, keys_of

RATE = 1e-8  # of every random test here
ALL = torch.ones(4, 50, dtype=torch.bool)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first_words(seed: int, places: int, position: int = 0) -> list[tuple[int, int]]:
    """The two first words of each place of a text with this seed, by the counter as it is documented."""
    pair, key = compiled(), keys_of([seed], 1)[0].tolist()
    return [
        tuple(map(int, pair(key[0], key[1], 2**32 - 1, 0, place ^ key[2], position ^ key[3])))
        for place in range(places)
    ]


class TestCoins:
    @pytest.mark.parametrize("r", [0.5, 1 / 3, 0.1, 1e-3, 2.0**-11, 1e-5, 1.0, 0.0, 5e-324])
    def test_the_word_is_below_r_as_a_fraction(self, r):
        """Every place against its own words in whole numbers; nothing is rounded."""
        masked = torch.ones(1, 3000, dtype=torch.bool)
        comes = which_come(masked, r, generator=[7], position=3)[0].tolist()
        due = [
            Fraction((first << 64) + second, 1 << 128) < Fraction(r)
            for first, second in first_words(7, 3000, 3)
        ]
        assert comes == due

    def test_the_edge_is_where_it_should_be(self):
        """r = the leading 53 bits of a place's word: it stays; 2^-53 more: it comes."""
        masked = torch.ones(1, 200, dtype=torch.bool)
        r = torch.tensor([[(first >> 11) * 2.0**-53 for first, _ in first_words(1, 200)]], dtype=torch.float64)
        assert not which_come(masked, r, generator=[1]).any()
        assert which_come(masked, r + 2.0**-53, generator=[1]).all()

    def test_what_a_word_does_not_decide_the_next_does(self):
        """Where a word W below 2^51 equals floor(r 2^64), r = (W + rest) 2^-64: the second word against
        rest 2^64."""
        places = 40_000  # five of them should have such a word
        small = [(i, a, b) for i, (a, b) in enumerate(first_words(2, places)) if a < 2**51]
        assert len(small) > 2
        for i, first, second in small:
            masked = torch.zeros(1, places, dtype=torch.bool)
            masked[0, i] = True
            for quarters in range(4):
                r = (first + quarters / 4) * 2.0**-64
                assert Fraction(r) == Fraction(4 * first + quarters, 2**66)
                assert bool(which_come(masked, r, generator=[2])[0, i]) == (second < quarters << 62)

    @statistical(false_fail=RATE)
    @pytest.mark.parametrize("r", [0.3, 1e-3])
    @pytest.mark.parametrize("seeds", [False, True])
    def test_frequencies(self, r, seeds):
        """4e5 coins, and the pairs of neighbours that both come, each exactly binomial; 1.5 r is refused."""
        masked = torch.ones(400, 1000, dtype=torch.bool)
        generator = torch.arange(400) if seeds else seeded(5)
        comes = which_come(masked, r, generator=generator)
        both = int((comes[:, 0::2] & comes[:, 1::2]).sum())
        seen = int(comes.sum())

        def p_value(k, n, p):
            return stats.binomtest(k, n, p).pvalue

        assert p_value(seen, comes.numel(), r) > RATE / 2
        assert p_value(both, comes.numel() // 2, r**2) > RATE / 2
        assert p_value(seen, comes.numel(), 1.5 * r) < RATE / 2

    def test_steps_and_texts_have_coins_of_their_own(self):
        masked = torch.ones(3, 2000, dtype=torch.bool)
        steps = [which_come(masked, 0.5, generator=[1, 2, 1], position=step) for step in (0, 1, 2**31 - 1, 0)]
        assert torch.equal(steps[0], steps[3])
        assert torch.equal(steps[0][0], steps[0][2])
        agree = [
            float((a == b).float().mean())
            for a, b in [(steps[0][0], steps[0][1]), (steps[0], steps[1]), (steps[1], steps[2])]
        ]
        assert all(0.4 < share < 0.6 for share in agree)  # 2000 fair coins: less than 1e-18 outside

    def test_places_that_are_not_masked_never_come(self):
        masked = torch.zeros(4, 50, dtype=torch.bool)
        masked[:, ::2] = True
        assert torch.equal(which_come(masked, 1.0, generator=seeded()), masked)
        assert not which_come(masked, 0.0, generator=seeded()).any()

    def test_a_probability_for_every_place(self):
        r = torch.zeros(4, 50)
        r[1] = 1.0
        assert which_come(ALL, r, generator=seeded()).sum(1).tolist() == [0, 50, 0, 0]
        assert which_come(ALL, r[:, :1], generator=seeded()).sum(1).tolist() == [0, 50, 0, 0]


class TestTokens:
    def test_they_are_the_faithful_draws_of_the_rows_that_come(self):
        """From one generator: what is drawn after the coins, by ``categorical``."""
        logits = torch.randn(4, 50, 300, generator=seeded(1))
        comes, tokens = unmask_step(logits, 0.3, generator=seeded(2), temperature=0.7)
        again = seeded(2)
        assert torch.equal(comes, which_come(ALL, 0.3, generator=again))
        assert torch.equal(tokens, categorical(logits[comes], generator=again, temperature=0.7)[0])

    def test_and_with_seeds_those_of_the_place_and_the_step(self):
        logits = torch.randn(4, 50, 300, generator=seeded(1))
        comes, tokens = unmask_step(logits, 0.3, generator=[5, 6, 7, 8], position=9)
        for (text, place), token in zip(comes.nonzero().tolist(), tokens.tolist(), strict=True):
            row = logits[text, place][None]
            at = (9 << 32) | place
            assert int(categorical(row, generator=[5 + text], position=at)) == token

    @pytest.mark.parametrize("kind", ["seeds", "tensor", "generators"])
    def test_a_text_does_not_depend_on_its_batch(self, kind):
        logits = torch.randn(6, 20, 300, generator=seeded(1))

        def own(texts):
            if kind == "generators":
                return [seeded(text) for text in texts]
            return torch.tensor(texts) if kind == "tensor" else texts

        def text(texts):
            step = unmask_step(logits[texts], 0.5, generator=own(texts))
            placed = torch.full(step.comes.shape, -1)
            placed[step.comes] = step.tokens
            return placed

        whole = text([0, 1, 2, 3, 4, 5])
        assert torch.equal(text([4, 2]), whole[[4, 2]])
        assert torch.equal(text([3]), whole[[3]])

    def test_rows_that_stay_are_not_read(self):
        """They hold NaN, which ``categorical`` refuses; a function makes the others alone, and where none
        comes nothing."""
        comes = which_come(ALL, 0.2, generator=seeded(3))
        logits = torch.full((4, 50, 7), math.nan)
        logits[comes] = torch.randn(int(comes.sum()), 7, generator=seeded(4))
        by_rows = unmask_step(logits, 0.2, generator=seeded(3))
        asked = []

        def rows(which):
            asked.append(which)
            return logits[which]

        by_function = unmask_step(rows, 0.2, masked=ALL, generator=seeded(3))
        assert torch.equal(by_rows.tokens, by_function.tokens)
        assert torch.equal(asked.pop(), comes)
        none = unmask_step(rows, 0.0, masked=ALL, generator=seeded(3))
        assert (len(none.tokens), bool(none.comes.any()), asked) == (0, False, [])

    @statistical(false_fail=2 * RATE)
    def test_the_law_of_a_step(self):
        """r mu on the tokens and 1 - r on the mask, 2e5 places by chi-square; r mu of another r, or of another
        temperature, is refused."""
        row = torch.tensor([0.0, -1.0, -2.0, -4.0])
        mu = torch.softmax(row.double(), 0).numpy()
        logits = row.expand(200, 1000, 4)
        comes, tokens = unmask_step(logits, 0.1, generator=seeded(6))
        seen = np.append(np.bincount(tokens.numpy(), minlength=4), int((~comes).sum()))

        def p_value(r, mu):
            due = np.append(r * mu, 1 - r)
            return stats.chisquare(seen, due / due.sum() * seen.sum()).pvalue

        colder = mu**1.1 / (mu**1.1).sum()
        assert p_value(0.1, mu) > 2 * RATE
        assert p_value(0.11, mu) < RATE
        assert p_value(0.1, colder) < RATE

    @pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (0, 5), (3, 0)])
    def test_shapes(self, shape):
        comes, tokens = unmask_step(torch.zeros(*shape, 9), 1.0, generator=seeded())
        assert comes.shape == shape
        assert tokens.shape == (math.prod(shape),)
        text = torch.full(shape, 9)
        text[comes] = tokens
        assert (text < 9).all()

    def test_greedy(self):
        logits = torch.tensor([[[0.0, 2.0, 1.0], [3.0, 1.0, 0.0]]])
        assert unmask_step(logits, 1.0, generator=seeded(), temperature=0).tokens.tolist() == [1, 0]


class TestBadInput:
    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            ({"unmask_probability": 1.1}, "1.1"),
            ({"unmask_probability": -1e-9}, "-1e-09"),
            ({"unmask_probability": math.nan}, "nan"),
            ({"unmask_probability": "much"}, "type str"),
            ({"unmask_probability": torch.zeros(3)}, r"\(3,\)"),
            ({"masked": torch.ones(4, 50)}, "float32"),
            ({"masked": torch.ones(4, 49, dtype=torch.bool)}, r"\(4, 49\)"),
            ({"masked": [True]}, "list"),
            ({"logits": torch.zeros(5)}, "place or more"),
            ({"logits": torch.zeros(4, 50, 3, dtype=torch.int64)}, "int64"),
            ({"logits": [[0.0]]}, "type list"),
            ({"logits": torch.full((4, 50, 3), math.nan)}, "NaN"),
            ({"logits": lambda comes: torch.zeros(1, 3)}, "without masked"),
            ({"logits": lambda comes: torch.zeros(1, 3), "masked": ALL}, "200 places that come"),
            ({"logits": lambda comes: None, "masked": ALL}, "NoneType"),
            ({"generator": None}, "generator of type"),
            ({"generator": [1, 2]}, "2 generators or seeds for 4"),
            ({"position": -1}, "position"),
            ({"position": 2**31}, "position"),
            ({"position": True}, "position"),
            ({"temperature": -1.0}, "temperature"),
        ],
    )
    def test_each_is_one_error(self, bad, said):
        given = {"logits": torch.zeros(4, 50, 3), "unmask_probability": 1.0, "generator": seeded()}
        with pytest.raises(InputError, match=said):
            unmask_step(**(given | bad))
