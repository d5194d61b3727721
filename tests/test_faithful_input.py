"""Every faithful implementation on hard input, the right answer or one clear error; and what must not change
its draws: layout, company, order, a shift, the size of a block, the short way of a small call."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from precision_lab.errors import InputError
from precision_lab.faithful import (
    categorical,
    categorical_masses,
    certified_argmax,
    exponential_race,
    gumbel_like,
    gumbel_topk,
    unmask_step,
)
from precision_lab.faithful.drop_in import (
    Categorical,
    DrawnToken,
    add_gumbel_noise,
    multinomial,
    numpy_categorical,
    random_sample,
    sample_categorical,
)
from precision_lab.faithful.eager import draw_eagerly
from precision_lab.faithful.words import keys_of

INF = math.inf
Draw = Callable[[Tensor, torch.Generator], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_torch_operations(logits: Tensor, generator: torch.Generator) -> Tensor:
    """What a GPU without Triton runs, behind the same checks."""
    categorical(logits, 0, generator=torch.Generator())
    rows = logits.detach()
    rows = rows if rows.dtype is torch.float64 else rows.float()
    count = len(rows)
    zero = np.zeros(count, dtype=np.int64)
    return draw_eagerly(rows, None, keys_of(generator, count), np.arange(count), zero, 1)[0]


BY_LOGITS: dict[str, Draw] = {
    "categorical": lambda l, g: categorical(l, generator=g)[0],
    "categorical at T = 1": lambda l, g: categorical(l, generator=g, temperature=1.0)[0],
    "categorical by torch operations": by_torch_operations,
    "exponential_race": lambda l, g: exponential_race(l, generator=g)[0],
    "exponential_race at T = 1": lambda l, g: exponential_race(l, generator=g, temperature=1.0)[0],
    "certified_argmax": lambda l, g: certified_argmax(l, generator=g).tokens[0],
    "gumbel_topk": lambda l, g: gumbel_topk(l, 1, generator=g)[:, 0],
    "unmask_step": lambda l, g: unmask_step(l, 1.0, generator=g).tokens,
    "Categorical(logits)": lambda l, g: Categorical(logits=l).sample(generator=g),
    "add_gumbel_noise": lambda l, g: add_gumbel_noise(l, 1.0, generator=g).argmax(-1),
    "DrawnToken": lambda l, g: DrawnToken(generator=g)(torch.zeros(len(l), 0), l).argmax(-1),
    "numpy_categorical": lambda l, g: torch.from_numpy(
        numpy_categorical(as_array(l), rng=np.random.default_rng(g.initial_seed()))[0]
    ),
}
BY_WEIGHTS: dict[str, Draw] = {
    "multinomial": lambda p, g: multinomial(p, 1, generator=g)[:, 0],
    "multinomial with replacement": lambda p, g: multinomial(p, 1, True, generator=g)[:, 0],
    "Categorical(probs)": lambda p, g: Categorical(probs=p).sample(generator=g),
    "sample_categorical": lambda p, g: sample_categorical(p, generator=g),
    "random_sample": lambda p, g: random_sample(p, dict(enumerate([g] * len(p)))),
}


def as_array(logits: Tensor) -> np.ndarray:
    """NumPy has no bfloat16."""
    plain = logits.detach()
    return (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()


# A row, and the tokens that may come; the others have a probability below e^-500, or none at all.
LOGITS = {
    "one finite logit": ([-INF, -3.0, -INF], {1}),
    "one token": ([5.0], {0}),
    "identical": ([2.5] * 4, {0, 1, 2, 3}),
    "1e38": ([1e38, 1e38, -1e38], {0, 1}),
    "the largest float and its negative": ([-3.4e38, 3.4e38], {1}),
    "a spread of 1e4": ([1e4, -1e4, 0.0], {0}),
    "far below 0": ([-1e4, -1e4 - 600, -INF], {0}),
    "denormals": ([1e-45, 0.0, -1e-45, -INF], {0, 1, 2}),
    "zeros of either sign": ([0.0, -0.0, -INF], {0, 1}),
}
BAD_LOGITS = {"NaN": [0.0, math.nan], "+inf": [0.0, INF], "only -inf": [-INF, -INF]}
WEIGHTS = {
    "one above 0": ([0.0, 0.3, 0.0], {1}),
    "one token": ([5.0], {0}),
    "not normalised": ([3e38, 0.0, 3e38], {0, 2}),
    "denormals": ([1e-45, 0.0, 1e-45], {0, 2}),
    "a spread of 1e60": ([1e30, 1e-30], {0}),
}
BAD_WEIGHTS = {"NaN": [0.5, math.nan], "+inf": [0.5, INF], "negative": [0.5, -0.5], "zeros": [0.0, 0.0]}


class TestRows:
    @pytest.mark.parametrize("case", LOGITS)
    @pytest.mark.parametrize("name", BY_LOGITS)
    def test_logits(self, name, case):
        row, may_come = LOGITS[case]
        found = BY_LOGITS[name](torch.tensor([row] * 64), seeded(1))
        assert found.shape == (64,)
        assert set(found.tolist()) <= may_come
        assert len(set(found.tolist())) >= min(2, len(may_come))  # one of two alone: a probability of 2^-63

    @pytest.mark.parametrize("case", BAD_LOGITS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("name", BY_LOGITS)
    def test_bad_logits(self, name, case, dtype):
        logits = torch.tensor([[1.0, 0.0], BAD_LOGITS[case]], dtype=dtype)
        with pytest.raises(InputError, match="row 1"):
            BY_LOGITS[name](logits, seeded())

    def test_a_nan_with_a_sign_is_one(self):
        """inf - inf is a NaN with its sign bit set on x86."""
        logits = torch.tensor([[3.0, 0.0]]) + torch.tensor([[0.0, INF]]) - torch.tensor([[0.0, INF]])
        for draw in BY_LOGITS.values():
            with pytest.raises(InputError, match="NaN in row 0"):
                draw(logits, seeded())

    @pytest.mark.parametrize("case", WEIGHTS)
    @pytest.mark.parametrize("name", BY_WEIGHTS)
    def test_weights(self, name, case):
        row, may_come = WEIGHTS[case]
        weights = torch.tensor([row] * 64)
        if name == "Categorical(probs)" and case in ("not normalised", "denormals"):
            weights = weights.double()  # torch's own class divides by the sum first
        found = BY_WEIGHTS[name](weights, seeded(1))
        assert set(found.tolist()) <= may_come

    @pytest.mark.parametrize("case", BAD_WEIGHTS)
    @pytest.mark.parametrize("name", BY_WEIGHTS)
    def test_bad_weights(self, name, case):
        with pytest.raises(InputError, match="row 1"):
            BY_WEIGHTS[name](torch.tensor([[0.5, 0.5], BAD_WEIGHTS[case]]), seeded())


EVERY = BY_LOGITS | BY_WEIGHTS


def some_rows(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    logits = torch.randn(6, 300, generator=seeded(3)) * 2
    return (logits if name in BY_LOGITS else torch.softmax(logits, -1)).to(dtype)


class TestLayout:
    @pytest.mark.parametrize("name", EVERY)
    def test_strides(self, name):
        if name == "Categorical(probs)":
            pytest.skip("torch's own class divides by a sum whose order follows the layout")
        rows = some_rows(name)
        whole = EVERY[name](rows, seeded(4))
        assert torch.equal(EVERY[name](rows.T.contiguous().T, seeded(4)), whole)
        assert torch.equal(EVERY[name](rows.repeat(1, 2)[:, :300], seeded(4)), whole)

    @pytest.mark.parametrize("name", EVERY)
    def test_gradients(self, name):
        rows = some_rows(name).requires_grad_()
        found = EVERY[name](rows, seeded(4))
        assert not found.requires_grad
        assert torch.equal(found, EVERY[name](rows.detach(), seeded(4)))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("name", EVERY)
    def test_half_precision_is_widened(self, name, dtype):
        rows = some_rows(name, dtype)
        if name == "Categorical(probs)":
            pytest.skip("torch's own class divides by the sum, in the dtype of the weights")
        assert torch.equal(EVERY[name](rows, seeded(4)), EVERY[name](rows.float(), seeded(4)))

    @pytest.mark.parametrize(
        "draw",
        [
            lambda a: numpy_categorical(a, rng=np.random.default_rng(0)),
            lambda a: multinomial(np.exp(a), 2, True, generator=seeded()),
            lambda a: sample_categorical(np.exp(a), generator=seeded()),
            lambda a: random_sample(np.exp(a), {row: seeded(row) for row in range(len(a))}),
            lambda a: add_gumbel_noise(a, 1.0, generator=seeded()),
        ],
        ids=["numpy_categorical", "multinomial", "sample_categorical", "random_sample", "add_gumbel_noise"],
    )
    def test_arrays_that_run_backwards(self, draw):
        array = some_rows("categorical").numpy()
        backwards = array[::-1, ::-1]
        assert min(backwards.strides) < 0
        assert np.array_equal(draw(backwards), draw(backwards.copy()))

    @pytest.mark.parametrize(
        "draw", [categorical, exponential_race, lambda l, n, **kw: gumbel_topk(l, n, **kw).T]
    )
    def test_nothing_asked_for(self, draw):
        assert draw(torch.zeros(3, 5), 0, generator=seeded()).shape == (0, 3)
        assert draw(torch.zeros(0, 5), 2, generator=seeded()).shape == (2, 0)


LIMITS = {
    "temperature below 0": lambda draw: draw(torch.zeros(2, 3), 1, generator=seeded(), temperature=-1.0),
    "temperature NaN": lambda draw: draw(torch.zeros(2, 3), 1, generator=seeded(), temperature=math.nan),
    "temperature inf": lambda draw: draw(torch.zeros(2, 3), 1, generator=seeded(), temperature=INF),
    "temperature in words": lambda draw: draw(torch.zeros(2, 3), 1, generator=seeded(), temperature="warm"),
    "temperatures of other rows": lambda draw: draw(
        torch.zeros(2, 3), 1, generator=seeded(), temperature=torch.ones(3)
    ),
    "n below 0": lambda draw: draw(torch.zeros(2, 3), -1, generator=seeded()),
    "n a fraction": lambda draw: draw(torch.zeros(2, 3), 1.5, generator=seeded()),
    "n a bool": lambda draw: draw(torch.zeros(2, 3), True, generator=seeded()),
    "position a fraction": lambda draw: draw(torch.zeros(2, 3), 1, generator=seeded(), position=0.5),
    "position of 65 bits": lambda draw: draw(torch.zeros(2, 3), 1, generator=seeded(), position=2**64),
    "positions of other rows": lambda draw: draw(
        torch.zeros(2, 3), 1, generator=seeded(), position=torch.arange(3)
    ),
    "a seed for the batch": lambda draw: draw(torch.zeros(2, 3), 1, generator=7),
    "a generator of NumPy": lambda draw: draw(torch.zeros(2, 3), 1, generator=np.random.default_rng(0)),
    "no tokens": lambda draw: draw(torch.zeros(2, 0), 1, generator=seeded()),
    "too many tokens": lambda draw: draw(torch.zeros(1, 2**18 + 1), 1, generator=seeded()),
    "whole numbers": lambda draw: draw(torch.zeros(2, 3, dtype=torch.int64), 1, generator=seeded()),
    "a list": lambda draw: draw([[0.0, 1.0]], 1, generator=seeded()),
}


class TestLimits:
    @pytest.mark.parametrize("draw", [categorical, exponential_race, certified_argmax, gumbel_topk])
    def test_whole_numbers_of_numpy_are_whole(self, draw):
        ids = [draw(torch.zeros(2, 9), n, generator=seeded()) for n in (np.int64(5), np.uint8(5), 5)]
        ids = [getattr(each, "tokens", each) for each in ids]
        assert torch.equal(ids[0], ids[2])
        assert torch.equal(ids[1], ids[2])

    @pytest.mark.parametrize("draw", [categorical, exponential_race, certified_argmax, gumbel_topk])
    @pytest.mark.parametrize("case", LIMITS)
    def test_what_is_refused(self, draw, case):
        with pytest.raises(InputError) as error:
            LIMITS[case](draw)
        assert len(str(error.value).splitlines()) == 1

    @pytest.mark.parametrize("k", [4, 2])
    def test_more_tokens_than_are_alive(self, k):
        with pytest.raises(InputError):
            gumbel_topk(torch.tensor([0.0, -INF, -INF]), k, generator=seeded())
        with pytest.raises(InputError):
            multinomial(torch.tensor([1.0, 0.0, 0.0]), k, generator=seeded())

    @pytest.mark.parametrize("r", [-0.1, 1.1, math.nan])
    def test_probabilities_of_coming(self, r):
        with pytest.raises(InputError):
            unmask_step(torch.zeros(2, 3), r, generator=seeded())

    def test_cold_places_without_replacement_have_an_order_of_their_own(self):
        with pytest.raises(InputError, match=r"torch\.topk"):
            gumbel_topk(torch.zeros(3), 2, generator=seeded(), temperature=0)


GRID = st.integers(-4000, 4000).map(lambda k: k / 64)
ROWS = st.lists(GRID | st.just(-INF), min_size=1, max_size=30).filter(lambda row: max(row) > -INF)


class TestUnchanged:
    @given(ROWS, st.integers(-1000, 1000))
    def test_a_shift(self, row, shift):
        """Of logits that float64 holds with the shift: the masses, and the race's token for the same words."""
        wide = torch.tensor(row, dtype=torch.float64)
        assert torch.equal(categorical_masses(wide + shift), categorical_masses(wide))
        tokens = certified_argmax(wide, 4, generator=seeded(5)).tokens
        assert torch.equal(certified_argmax(wide + shift, 4, generator=seeded(5)).tokens, tokens)

    @given(ROWS, st.randoms(use_true_random=False))
    def test_an_order(self, row, random):
        """Tokens in another order, with their words: the masses and the race's token are those in that
        order."""
        wide = torch.tensor(row, dtype=torch.float64)
        order = list(range(len(row)))
        random.shuffle(order)
        moved = torch.tensor(order)
        assert torch.equal(categorical_masses(wide[moved]), categorical_masses(wide)[moved])
        words = torch.tensor([[random.getrandbits(63) for _ in row]])
        token = certified_argmax(wide, words=words).tokens
        assert torch.equal(moved[certified_argmax(wide[moved], words=words[:, moved]).tokens], token)

    @given(st.lists(ROWS, min_size=2, max_size=5), st.integers(0, 4))
    def test_company(self, rows, which):
        """A row with a seed of its own draws alike in any batch."""
        assume(which < len(rows))
        width = max(map(len, rows))
        batch = torch.tensor([row + [-INF] * (width - len(row)) for row in rows])
        seeds = torch.arange(len(rows)) + 11
        for draw in (categorical, exponential_race):
            whole = draw(batch, 3, generator=seeds)
            alone = draw(batch[which : which + 1], 3, generator=seeds[which : which + 1])
            assert torch.equal(whole[:, which : which + 1], alone)

    @pytest.mark.parametrize("block", [1, 7, 1000])
    def test_the_size_of_a_block(self, block, monkeypatch):
        module = sys.modules[categorical.__module__]
        logits = torch.randn(40, 700, generator=seeded(6)) * 3
        drawn = categorical(logits, 2, generator=seeded(7))
        monkeypatch.setattr(module, "BLOCK", block)
        loop = module._loop.__wrapped__()
        monkeypatch.setattr(module, "_loop", lambda: loop)
        monkeypatch.setattr(module, "CHUNK", 3 * 700)
        assert torch.equal(categorical(logits, 2, generator=seeded(7), position=torch.tensor(0)), drawn)

    @pytest.mark.parametrize(
        "draw", [categorical, exponential_race, lambda l, n, **kw: certified_argmax(l, n, **kw).tokens]
    )
    @pytest.mark.parametrize("shape", [(1,), (700,), (1, 700), (9, 1030), (300, 2)])
    def test_a_small_call_draws_as_a_large_one(self, draw, shape):
        """The short way takes float32 in order with one position; a position in a tensor takes the long one."""
        logits = torch.randn(shape, generator=seeded(8)) * 3
        for n in (0, 1, 50):
            short_generator, long_generator = seeded(9), seeded(9)
            short = draw(logits, n, generator=short_generator, position=2**40 + 5)
            long = draw(logits, n, generator=long_generator, position=torch.tensor(2**40 + 5))
            assert torch.equal(short, long)
            assert torch.equal(short_generator.get_state(), long_generator.get_state())

    def test_a_small_call_that_float32_leaves_open(self):
        """Many draws of equal tokens, of which some are refined: the short way settles them as the long one."""
        short = certified_argmax(torch.zeros(1, 50), 400_000, generator=seeded(3))
        long = certified_argmax(torch.zeros(1, 50), 400_000, generator=seeded(3), position=torch.tensor(0))
        assert short.refined == long.refined > 0
        assert torch.equal(short.tokens, long.tokens)


class TestTemperature:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_it_divides(self, dtype):
        """The race at T draws what the race of the quotients in float64 draws; one temperature a row."""
        logits = (torch.randn(20, 400, generator=seeded(1)) * 3).to(dtype)
        heat = torch.linspace(0.1, 3, 20, dtype=torch.float64)
        quotients = (logits.double() - logits.double().amax(-1, keepdim=True)) / heat[:, None]
        for n in (1, 3):
            found = exponential_race(logits, n, generator=seeded(2), temperature=heat)
            assert torch.equal(found, exponential_race(quotients, n, generator=seeded(2)))
        ordered = gumbel_topk(logits, 5, generator=seeded(2), temperature=heat)
        assert torch.equal(ordered, gumbel_topk(quotients, 5, generator=seeded(2)))

    def test_one_for_all_is_one_for_each(self):
        logits = torch.randn(7, 90, generator=seeded(1))
        one = exponential_race(logits, 5, generator=seeded(2), temperature=0.7)
        each = exponential_race(logits, 5, generator=seeded(2), temperature=torch.full((7,), 0.7).double())
        assert torch.equal(one, each)

    def test_cold_rows_take_the_first_of_the_largest(self):
        logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, -INF], [0.0, 0.0, 0.0]])
        heat = torch.tensor([0.0, 0.0, 1.0])
        found = certified_argmax(logits, 40, generator=seeded(), temperature=heat).tokens
        assert found[:, :2].tolist() == [[1, 0]] * 40
        assert len(found[:, 2].unique()) == 3  # but for a probability of 3 (2/3)^40
        assert torch.equal(
            exponential_race(logits, 2, generator=seeded(), temperature=0),
            found[:2] * 0 + torch.tensor([1, 0, 0]),
        )

    def test_noise_has_none(self):
        """gumbel_like looks at the shape alone: it is for the caller to divide the logits."""
        logits = torch.randn(3, 50, generator=seeded())
        assert torch.equal(
            gumbel_like(logits, generator=[1, 2, 3]), gumbel_like(logits * 2, generator=[1, 2, 3])
        )
