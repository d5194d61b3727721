"""The law of a plain function against the function itself, run on every combination of random values.

The oracle plants each combination in the place of torch's draws, runs the user's function once on all of
them, and adds their probabilities: it shares nothing with the code that reads functions. Uniforms are
coarse (32 values) where every combination must be visited. No test here draws at random, so none fails by
chance.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from precision_lab.laws.law import Law
from precision_lab.samplers import SAMPLERS, Sampler, resolve
from precision_lab.samplers.function import FunctionSampler
from precision_lab.samplers.sampler import with_tolerance

CELLS = 32
ROWS = (
    torch.tensor([0.0, -1.0, -2.5]),
    torch.tensor([0.0, 0.0, -torch.inf]),
    torch.tensor([5.0, -30.0, 4.9]),
)
LOOSE = {"tolerance": 1e-5, "relative": 1e-3}  # of float32 laws by 2^24 noise values


# -- the oracle


class Planted(TorchDispatchMode):
    """Each random operation gives the next of ``values``, in its shape."""

    def __init__(self, values: list[Tensor]) -> None:
        super().__init__()
        self._values = list(values)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            result.copy_(self._values.pop(0).reshape(result.shape))
        return result


@functools.cache
def half_uniform() -> tuple[Tensor, np.ndarray]:
    """torch.rand in float16: one value in each of 32 cells, and the probability of the cell. From torch
    2.13 on a value is a 24-bit uniform rounded, 1 becoming 0; before, a multiple of 2^-11, so that all
    cells are alike. Which of them this torch draws is seen on 4,096 values: half of the newer ones are no
    multiples."""
    drawn = torch.rand(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float16).double() * 2**11
    if bool((drawn == drawn.floor()).all()):
        return (torch.arange(CELLS) / CELLS), np.full(CELLS, 1 / CELLS)
    rounded = (torch.arange(1 << 24).float() * 2.0**-24).half().float()
    cell = torch.where(rounded == 1, 0.0, rounded).mul(CELLS).floor().long()
    weights = torch.bincount(cell, minlength=CELLS).double().numpy() * 2.0**-24
    return (torch.arange(CELLS) / CELLS), weights


def coarse(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    """A uniform of 32 values, float32."""
    return (torch.rand(shape, generator=generator, dtype=torch.float16) * CELLS).floor().float() / CELLS


def enumerated(function: Callable[..., Tensor], row: Tensor, gates: int = 0) -> np.ndarray:
    """(vocab,) probabilities of ids from one call with a draw for each combination of ``vocab`` coarse
    uniforms, and of ``gates`` further ones that are drawn after them."""
    values, weights = half_uniform()
    axes = [torch.arange(CELLS)] * (len(row) + gates)
    chosen = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    planted = [values[chosen[:, : len(row)]], *(values[chosen[:, len(row) + k]] for k in range(gates))]
    with Planted(planted):
        ids = function(row[None], len(chosen), generator=torch.Generator())
    mass = weights[chosen.numpy()].prod(axis=1)
    return np.bincount(ids.reshape(-1).numpy(), weights=mass, minlength=len(row))


def by_one_uniform(function: Callable[..., Tensor], row: Tensor) -> np.ndarray:
    """The same for a function with one coarse uniform a draw."""
    values, weights = half_uniform()
    with Planted([values]):
        ids = function(row[None], CELLS, generator=torch.Generator())
    return np.bincount(ids.reshape(-1).numpy(), weights=weights, minlength=len(row))


def law(function: Callable[..., Tensor], row: Tensor, **options: float) -> Law:
    sampler = resolve(function)
    assert isinstance(sampler, FunctionSampler)
    return sampler.reading(row).law(**options)


def gumbel(u: Tensor) -> Tensor:
    return -(-u.log()).log()


# -- races


def scores(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return logits + gumbel(coarse(n, *logits.shape, generator=generator))


def exponentials(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return -coarse(n, *logits.shape, generator=generator).log()


RACES: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "sum": lambda l, n, g: scores(l, n, g).argmax(-1),
    "one minus u": lambda l, n, g: (l + gumbel(1 - coarse(n, *l.shape, generator=g))).argmax(-1),
    "max": lambda l, n, g: scores(l, n, g).max(-1).indices,
    "topk": lambda l, n, g: scores(l, n, g).topk(1, -1).indices[..., 0],
    "gumbel topk": lambda l, n, g: scores(l, n, g).topk(2, -1).indices[..., 0],
    "sort": lambda l, n, g: scores(l, n, g).sort(descending=True, stable=True).indices[..., 0],
    "guard": lambda l, n, g: (
        l + gumbel(torch.where((u := coarse(n, *l.shape, generator=g)) == 0, 1e-7, u))
    ).argmax(-1),
    "clamp": lambda l, n, g: (l + gumbel(coarse(n, *l.shape, generator=g).clamp(1e-6, 1 - 1e-6))).argmax(-1),
    "clamp below": lambda l, n, g: (l + gumbel(coarse(n, *l.shape, generator=g).clamp(min=0.3))).argmax(-1),
    "clamp above": lambda l, n, g: (l + gumbel(coarse(n, *l.shape, generator=g).clamp(max=0.3))).argmax(-1),
    "added eps": lambda l, n, g: (
        l - torch.log(-torch.log(coarse(n, *l.shape, generator=g) + 1e-20) + 1e-20)
    ).argmax(-1),
    "not monotone": lambda l, n, g: (l + 3 * (coarse(n, *l.shape, generator=g) - 0.5).abs()).argmax(-1),
    "softmax after": lambda l, n, g: scores(l, n, g).softmax(-1).argmax(-1),
    "log softmax after, infinite noise": lambda l, n, g: (
        (l + gumbel(1 - coarse(n, *l.shape, generator=g))).log_softmax(-1).argmax(-1)
    ),
    "temperature after": lambda l, n, g: (scores(l, n, g) / 0.7).softmax(-1).argmax(-1),
    "temperature of noise": lambda l, n, g: (l + 0.7 * gumbel(coarse(n, *l.shape, generator=g))).argmax(-1),
    "temperature before": lambda l, n, g: scores(l / 0.7, n, g).argmax(-1),
    "largest logit taken off after": lambda l, n, g: (scores(l, n, g) - l.amax(-1, keepdim=True)).argmax(-1),
    "exp after": lambda l, n, g: scores(l, n, g).exp().argmax(-1),
    "shift after": lambda l, n, g: (scores(l, n, g) + 1000.0).argmax(-1),
    "one-hot": lambda l, n, g: (
        torch.zeros(n, *l.shape).scatter_(-1, scores(l, n, g).argmax(-1, keepdim=True), 1.0).argmax(-1)
    ),
    "masked after": lambda l, n, g: scores(l, n, g).masked_fill(l < -2, -torch.inf).argmax(-1),
    "masked after, infinite noise": lambda l, n, g: (
        (l + gumbel(1 - coarse(n, *l.shape, generator=g))).masked_fill(l < -2, -torch.inf).argmax(-1)
    ),
    "masked after by the least float": lambda l, n, g: (
        scores(l, n, g).masked_fill(l < -2, torch.finfo(torch.float32).min).argmax(-1)
    ),
    "float16 sum": lambda l, n, g: (l.half() + gumbel(coarse(n, *l.shape, generator=g)).half()).argmax(-1),
    "float16 after the sum": lambda l, n, g: scores(l, n, g).half().argmax(-1),
    "bfloat16 after the sum": lambda l, n, g: scores(l, n, g).bfloat16().argmax(-1),
    "float64 after the draw": lambda l, n, g: (
        l.double() + gumbel(coarse(n, *l.shape, generator=g).double())
    ).argmax(-1),
    "float64 sum to float32": lambda l, n, g: (
        (l.double() + gumbel(coarse(n, *l.shape, generator=g).double())).float().argmax(-1)
    ),
    "quotient": lambda l, n, g: (l.softmax(-1) / exponentials(l, n, g)).argmax(-1),
    "in place": lambda l, n, g: l.softmax(-1).repeat(n, 1, 1).div_(exponentials(l, n, g)).argmax(-1),
    "log of a quotient": lambda l, n, g: (l.softmax(-1) / exponentials(l, n, g)).log().argmax(-1),
    "negative noise": lambda l, n, g: (l.softmax(-1) / coarse(n, *l.shape, generator=g).log()).argmin(-1),
    "ratio": lambda l, n, g: (exponentials(l, n, g) / l.softmax(-1)).argmin(-1),
    "ratio of minus 0": lambda l, n, g: (-(1 - coarse(n, *l.shape, generator=g)).log() / l.softmax(-1)).argmin(
        -1
    ),
    "negative ratio": lambda l, n, g: (coarse(n, *l.shape, generator=g).log() / l.softmax(-1)).argmax(-1),
    "log space": lambda l, n, g: (l.log_softmax(-1) - exponentials(l, n, g).log()).argmax(-1),
    "log space, argmin": lambda l, n, g: (exponentials(l, n, g).log() - l.log_softmax(-1)).argmin(-1),
    "ids of int32": lambda l, n, g: scores(l, n, g).argmax(-1).int(),
    "where of one side": lambda l, n, g: torch.where(
        l.max(-1).values > 100, l.argmax(-1), scores(l, n, g).argmax(-1)
    ),
    "no grad": lambda l, n, g: torch.no_grad()(scores)(l, n, g).argmax(-1),
    "inference mode": lambda l, n, g: torch.inference_mode()(scores)(l, n, g).argmax(-1),
}


def sampler_of(body: Callable[[Tensor, int, torch.Generator], Tensor]) -> Callable[..., Tensor]:
    def sample(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        return body(logits, n, generator)

    return sample


@pytest.mark.parametrize("name", RACES)
def test_race_is_that_of_every_combination(name: str) -> None:
    """A wrong reading is off by at least the 2^-15 of one combination, unless its law counts no combination
    otherwise."""
    function = sampler_of(RACES[name])
    for row in ROWS:
        found = law(function, row)
        expected = enumerated(function, row)
        assert np.abs(found.probs - expected).max() <= found.error + 1e-12
        assert found.error < 1e-3 or "after" in name


def unmask(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    tokens = scores(logits, n, generator).argmax(-1)
    return torch.where(coarse(n, len(logits), generator=generator) < 0.3, tokens, 2)


def stay_masked(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    tokens = scores(logits, n, generator).argmax(-1)
    return torch.where(coarse(n, len(logits), generator=generator) >= 0.25, 2, tokens)


def unmask_by_the_row(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    tokens = scores(logits, n, generator).argmax(-1)
    rate = logits.softmax(-1)[:, 0]
    return torch.where(coarse(n, len(logits), generator=generator) <= rate, tokens, torch.full_like(tokens, 1))


def unmask_then_clamp(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    return unmask(logits, n, generator=generator).clamp(max=1)


def unmask_rows_alone(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    tokens = torch.stack([scores(row[None], n, generator)[:, 0].argmax(-1) for row in logits], dim=1)
    return torch.where(coarse(n, len(logits), generator=generator) < 0.3, tokens, 2)


def stay_filled(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    tokens = scores(logits, n, generator).argmax(-1)
    return tokens.masked_fill(coarse(n, len(logits), generator=generator) > 0.3, 2)


def stay_assigned(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    tokens = scores(logits, n, generator).argmax(-1)
    remasked = coarse(n, len(logits), generator=generator) >= 0.25
    tokens[remasked] = 2
    return tokens


def stay_unless_open(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    tokens = scores(logits, n, generator).argmax(-1)
    opened = coarse(n, len(logits), generator=generator) < logits.softmax(-1)[:, 0]
    tokens[~opened] = torch.tensor(1)
    return tokens


GATES = [
    *(unmask_rows_alone, unmask, stay_masked, unmask_by_the_row, unmask_then_clamp),
    *(stay_filled, stay_assigned, stay_unless_open),
]


@pytest.mark.parametrize("function", GATES)
def test_gate_is_that_of_every_combination(function: Callable[..., Tensor]) -> None:
    for row in ROWS[:2]:
        assert np.abs(law(function, row).probs - enumerated(function, row, gates=1)).max() < 1e-12


@pytest.mark.parametrize("opens", ["<", "<=", ">", ">="])
def test_gate_in_float64_is_counted_in_words(opens: str) -> None:
    """53 bits: u < 0.3 for ceil(0.3 2^53) of the words, and one more for u <= 0.5, which is one of them."""
    compare = {"<": torch.lt, "<=": torch.le, ">": torch.gt, ">=": torch.ge}[opens]
    for rate in (0.3, 0.5):

        def gated(logits: Tensor, n: int, *, generator: torch.Generator, rate: float = rate) -> Tensor:
            tokens = scores(logits, n, generator).argmax(-1)
            u = torch.rand(n, len(logits), dtype=torch.float64, generator=generator)
            return torch.where(compare(u, rate), tokens, 2)

        below = math.ceil(Fraction(rate) * 2**53)
        equal = Fraction(rate).denominator <= 2**53
        share = {"<": below, "<=": below + equal, ">": 2**53 - below - equal, ">=": 2**53 - below}[opens]
        inside = enumerated(lambda l, n, *, generator: scores(l, n, generator).argmax(-1), ROWS[0])
        expected = inside * float(Fraction(share, 2**53))
        expected[2] += float(1 - Fraction(share, 2**53))
        assert np.abs(law(gated, ROWS[0]).probs - expected).max() < 1e-15


# -- one-hot rows


def one_hot_sum(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    vocab = logits.shape[-1]
    rows = F.one_hot(scores(logits, n, generator).argmax(-1), vocab)
    return (rows * torch.arange(vocab)).sum(-1)


def one_hot_product(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    """A table of ids that the logits decide: the best three first."""
    best = logits.argsort(-1, descending=True)
    drawn = scores(logits.gather(-1, best), n, generator).argmax(-1)
    rows = F.one_hot(drawn, logits.shape[-1]).float()
    return (rows * best.float()).sum(-1).long()


def one_hot_matrix(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    rows = F.one_hot(scores(logits, n, generator).argmax(-1), logits.shape[-1]).float()
    return (rows @ torch.arange(logits.shape[-1]).flip(0).float()).long()


def one_hot_argmax(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    return F.one_hot(scores(logits, n, generator).argmax(-1), logits.shape[-1]).argmax(-1)


@pytest.mark.parametrize("function", [one_hot_sum, one_hot_product, one_hot_matrix, one_hot_argmax])
def test_one_hot_rows_are_ids(function: Callable[..., Tensor]) -> None:
    for row in ROWS[:2]:
        assert np.abs(law(function, row).probs - enumerated(function, row)).max() < 1e-12


# -- rates


@pytest.mark.parametrize(
    ("dtype", "rate"),
    [
        (torch.float16, 0.25),
        (torch.bfloat16, 4.0),
        (torch.bfloat16, 0.5),
        (torch.float32, 3.0),
        (torch.float64, 0.7),
    ],
)
def test_a_rate_is_a_division(dtype: torch.dtype, rate: float) -> None:
    """exponential_(rate) against exponential_() / rate: in half precision, for a power of two, the same law; in wide
    formats the target, within a bound that counts the division."""

    def race(logits: Tensor, n: int, generator: torch.Generator, rate: float, over: float) -> Tensor:
        noise = torch.empty(n, *logits.shape, dtype=dtype).exponential_(rate, generator=generator)
        return (logits.softmax(-1).to(dtype) / (noise / over)).argmax(-1)

    def at_once(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        return race(logits, n, generator, rate, 1.0)

    def divided(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        return race(logits, n, generator, 1.0, rate)

    for row in ROWS[:2]:
        found = law(at_once, row)
        same = law(divided, row)
        assert np.abs(found.probs - same.probs).max() <= 1e-15
        if dtype.itemsize == 2:
            assert found.error == same.error < 1e-9
        else:
            unit = torch.finfo(dtype).eps / 2
            assert found.error - same.error > 2 * 2 * unit  # two ulp in place of the rounding of one division
            assert found.error < 200 * unit


# -- cumulative sums


def sums(logits: Tensor) -> Tensor:
    return logits.softmax(-1).cumsum(-1)


def one(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return coarse(n, len(logits), 1, generator=generator)


def last(logits: Tensor) -> int:
    return logits.shape[-1] - 1


def of_sorted(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    probs, order = logits.softmax(-1).sort(-1, descending=True)
    place = (probs.cumsum(-1) <= one(logits, n, generator)).sum(-1).clamp(max=last(logits))
    return order.expand(n, *order.shape).gather(-1, place[..., None])[..., 0]


SUMS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "searchsorted right": lambda l, n, g: (
        torch.searchsorted(sums(l), coarse(len(l), n, generator=g), right=True).clamp(max=last(l)).T
    ),
    "searchsorted left": lambda l, n, g: (
        torch.searchsorted(sums(l), coarse(len(l), n, generator=g)).clamp(max=last(l)).T
    ),
    "bucketize": lambda l, n, g: torch.stack(
        [torch.bucketize(coarse(n, generator=g), row, right=True).clamp(max=last(l)) for row in sums(l)], 1
    ),
    "first above": lambda l, n, g: (sums(l) > one(l, n, g)).int().argmax(-1),
    "first reached": lambda l, n, g: (sums(l) >= one(l, n, g)).float().argmax(-1),
    "count below": lambda l, n, g: (sums(l) < one(l, n, g)).sum(-1).clamp(max=last(l)),
    "count reached": lambda l, n, g: (sums(l) <= one(l, n, g)).sum(-1).clamp(max=last(l)),
    "uniform first": lambda l, n, g: (one(l, n, g) > sums(l)).long().sum(-1).clamp(max=last(l)),
    "first false": lambda l, n, g: (sums(l) <= one(l, n, g)).int().argmin(-1),
    "times the last sum": lambda l, n, g: (
        (3 * sums(l) <= one(l, n, g) * (3 * sums(l))[:, -1:]).sum(-1).clamp(max=last(l))
    ),
    "one minus u": lambda l, n, g: (sums(l) < 1 - one(l, n, g)).sum(-1).clamp(max=last(l)),
    "from the end": lambda l, n, g: (
        last(l) - (l.softmax(-1).flip(-1).cumsum(-1) <= one(l, n, g)).sum(-1).clamp(max=last(l))
    ),
    "bfloat16 sums": lambda l, n, g: (l.bfloat16().softmax(-1).cumsum(-1) > one(l, n, g)).int().argmax(-1),
    "sorted": of_sorted,
}


@pytest.mark.parametrize("name", SUMS)
def test_cumulative_sum_is_that_of_every_uniform(name: str) -> None:
    function = sampler_of(SUMS[name])
    for row in ROWS:
        assert np.abs(law(function, row).probs - by_one_uniform(function, row)).max() < 1e-12


def rising(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    u = torch.rand(n, len(logits), 1, dtype=torch.float64, generator=generator)
    return (sums(logits.double()) <= u).sum(-1).clamp(max=last(logits))


def falling(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    u = torch.rand(n, len(logits), 1, dtype=torch.float64, generator=generator)
    return (sums(logits.double()) < 1 - u).sum(-1).clamp(max=last(logits))


@pytest.mark.parametrize("function", [rising, falling])
def test_float64_uniform_is_counted_in_words(function: Callable[..., Tensor]) -> None:
    """k / 2^53 < c for ceil(2^53 c) values of k; 1 - u takes the same values but 0 for 1."""
    c = sums(ROWS[0].double()).numpy()
    below = np.ceil(c * 2.0**53) if function is rising else np.floor(c * 2.0**53)
    expected = np.diff(np.concatenate([[0.0], below])) * 2.0**-53
    expected[-1] = 1 - expected[:-1].sum()
    assert np.abs(law(function, ROWS[0]).probs - expected).max() < 1e-15


# -- ways to write and to call


def chunks(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    out = torch.empty(n, len(logits), dtype=torch.long)
    for first in range(0, n, 7):
        size = min(7, n - first)
        out[first : first + size] = scores(logits, size, generator).argmax(-1)
    return out


def rows_alone(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    return torch.stack([scores(row[None], n, generator)[:, 0].argmax(-1) for row in logits], dim=1)


def vocabulary_in_parts(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    half = logits.shape[-1] // 2
    left = coarse(n, len(logits), half, generator=generator)
    right = coarse(n, len(logits), logits.shape[-1] - half, generator=generator)
    return (logits + gumbel(torch.cat([left, right], -1))).argmax(-1)


def noise_in_slices(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    u = torch.empty(n, *logits.shape)
    half = logits.shape[-1] // 2
    u[..., :half] = coarse(n, len(logits), half, generator=generator)
    u[..., half:] = coarse(n, len(logits), logits.shape[-1] - half, generator=generator)
    return (logits + gumbel(u)).argmax(-1)


def draw_by_draw(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    return torch.stack([scores(logits, 1, generator)[0].argmax(-1) for _ in range(n)])


def written_out(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    u = coarse(n, *logits.shape, generator=generator)
    torch.log(u, out=u)
    u.neg_().log_().neg_()
    return u.add_(logits).argmax(-1)


def vocabulary_first(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    u = coarse(logits.shape[-1], n, len(logits), generator=generator).permute(1, 2, 0)
    return (logits + gumbel(u)).argmax(-1)


def shared_by_draws(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    return (logits + gumbel(coarse(*logits.shape, generator=generator).expand(n, *logits.shape))).argmax(-1)


def one_draw_for_all(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    return scores(logits, 1, generator)[0].argmax(-1).expand(n, -1)


def shared_by_rows(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    return (logits + gumbel(coarse(n, 1, logits.shape[-1], generator=generator))).argmax(-1)


def with_a_default(logits: Tensor, n: int, temperature: float = 1.0, *, generator: torch.Generator) -> Tensor:
    return scores(logits / temperature, n, generator).argmax(-1)


def plain(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    return scores(logits, n, generator).argmax(-1)


class Module(torch.nn.Module):
    def forward(self, logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        return plain(logits, n, generator=generator)


class Decoder:
    def sample(self, logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        return plain(logits, n, generator=generator)

    def __call__(self, logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        return plain(logits, n, generator=generator)


def one_row_each(logits: Tensor, generator: torch.Generator) -> Tensor:
    return (logits + gumbel(coarse(*logits.shape, generator=generator))).argmax(-1)


def global_generator(logits: Tensor) -> Tensor:
    return (logits + gumbel(coarse(*logits.shape))).argmax(-1, keepdim=True)


WAYS = {
    "chunks": chunks,
    "rows alone": rows_alone,
    "vocabulary in parts": vocabulary_in_parts,
    "noise in slices": noise_in_slices,
    "draw by draw": draw_by_draw,
    "written out": written_out,
    "vocabulary first": vocabulary_first,
    "shared by draws": shared_by_draws,
    "shared by rows": shared_by_rows,
    "one draw for all": one_draw_for_all,
    "partial": functools.partial(with_a_default, temperature=1.0),
    "module": Module(),
    "method": Decoder().sample,
    "callable": Decoder(),
    "lambda": lambda logits, n, generator: plain(logits, n, generator=generator),
    "one row each": one_row_each,
    "global generator": global_generator,
    "requires grad": lambda logits, n, generator: plain(
        logits.clone().requires_grad_(), n, generator=generator
    ).detach(),
}


@pytest.mark.parametrize("name", WAYS)
def test_ways_to_write_the_same_sampler_have_one_law(name: str) -> None:
    for row in ROWS[:2]:
        assert np.abs(law(WAYS[name], row).probs - enumerated(plain, row)).max() < 1e-12


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one draw for all", ("draws",)),
        ("shared by draws", ("draws",)),
        ("shared by rows", ("rows",)),
        ("chunks", ()),
        ("noise in slices", ()),
    ],
)
def test_shared_noise_is_reported(name: str, expected: tuple[str, ...]) -> None:
    sampler = resolve(WAYS[name])
    assert isinstance(sampler, FunctionSampler)
    assert sampler.reading(ROWS[0]).confirmed.shared == expected


# -- processors


def top_k(logits: Tensor) -> Tensor:
    values, at = logits.topk(2)
    return torch.full_like(logits, -torch.inf).scatter(-1, at, values)


def top_p(logits: Tensor) -> Tensor:
    """As in Hugging Face's generation: ascending bfloat16 sums, the best token always kept."""
    values, at = logits.bfloat16().sort(descending=False)
    remove = values.softmax(-1).cumsum(-1) <= 1 - 0.9
    remove[..., -1:] = 0
    return logits.masked_fill(remove.scatter(-1, at, remove), -torch.inf)


def min_p(logits: Tensor) -> Tensor:
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < 0.1 * probs.amax(-1, keepdim=True), -torch.inf)


@pytest.mark.parametrize("processor", [top_k, top_p, min_p])
def test_processors_are_run_as_they_are(processor: Callable[[Tensor], Tensor]) -> None:
    row = torch.tensor([0.0, -1.5, -2.5, -1.4])
    function = sampler_of(lambda logits, n, generator: scores(processor(logits), n, generator).argmax(-1))
    kept = torch.isfinite(processor(row[None])[0])
    found = law(function, row)
    assert 1 < int(kept.sum()) < 4
    assert (found.probs[~kept.numpy()] < 1e-4).all()  # all noise -inf: the first token comes
    assert np.abs(found.probs - enumerated(function, row)).max() < 1e-12


# -- a function and its recipe


def gumbel_max(dtype: torch.dtype) -> Callable[..., Tensor]:
    def sample(logits: Tensor) -> Tensor:
        logits = logits.to(dtype)
        return (logits - torch.log(-torch.log(torch.rand_like(logits)))).argmax(-1)

    return sample


def exponential_race(dtype: torch.dtype) -> Callable[..., Tensor]:
    def sample(logits: Tensor) -> Tensor:
        probs = logits.to(dtype).softmax(-1)
        return (probs / -torch.log(torch.rand_like(probs))).argmax(-1)

    return sample


def mdlm(logits: Tensor) -> Tensor:
    categorical_probs = logits.softmax(-1)
    gumbel_norm = 1e-10 - (torch.rand_like(categorical_probs) + 1e-10).log()
    return (categorical_probs / gumbel_norm).argmax(dim=-1)


def add_gumbel_noise(dtype: torch.dtype, temperature: float = 1.0) -> Callable[..., Tensor]:
    def sample(logits: Tensor) -> Tensor:
        logits = logits.to(dtype)
        noise = torch.rand_like(logits, dtype=dtype)
        gumbel_noise = (-torch.log(noise)) ** temperature
        return (logits.exp() / gumbel_noise).argmax(-1)

    return sample


def multinomial(dtype: torch.dtype) -> Callable[..., Tensor]:
    def sample(logits: Tensor) -> Tensor:
        return torch.multinomial(logits.to(dtype).softmax(-1), 1)

    return sample


def multinomial_with_replacement(dtype: torch.dtype) -> Callable[..., Tensor]:
    def sample(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        return torch.multinomial(logits.to(dtype).softmax(-1), n, replacement=True, generator=generator).T

    return sample


def distributions_gumbel(logits: Tensor, n: int) -> Tensor:
    return (logits + torch.distributions.Gumbel(0.0, 1.0).sample((n, *logits.shape))).argmax(-1)


def gumbel_softmax(logits: Tensor) -> Tensor:
    return F.gumbel_softmax(logits, hard=True).argmax(-1)


RECIPES: list[tuple[str, Callable[..., Tensor]]] = [
    ("gumbel_max_fp16", gumbel_max(torch.float16)),
    ("gumbel_max_bf16", gumbel_max(torch.bfloat16)),
    ("gumbel_max_fp64", gumbel_max(torch.float64)),
    ("exponential_race_fp16", exponential_race(torch.float16)),
    ("exponential_race_bf16", exponential_race(torch.bfloat16)),
    ("exponential_race_fp64", exponential_race(torch.float64)),
    ("mdlm_fp32", mdlm),
    ("llada_fp64", add_gumbel_noise(torch.float64)),
    ("d1_bf16", add_gumbel_noise(torch.bfloat16)),
    ("torch_multinomial_fp16", multinomial(torch.float16)),
    ("torch_multinomial_fp32", multinomial(torch.float32)),
    ("torch_multinomial_fp64", multinomial(torch.float64)),
    ("torch_multinomial_replacement_fp32", multinomial_with_replacement(torch.float32)),
    ("torch_multinomial_replacement_fp64", multinomial_with_replacement(torch.float64)),
    ("torch_distributions_gumbel_fp32", distributions_gumbel),
    ("torch_gumbel_softmax_cpu_fp32", gumbel_softmax),
]


@pytest.mark.parametrize(("name", "function"), RECIPES, ids=[name for name, _ in RECIPES])
def test_function_and_recipe_have_one_law(name: str, function: Callable[..., Tensor]) -> None:
    row = torch.tensor([0.0, -1.0, -2.5, -torch.inf, -7.0, 0.0])
    recipe: Sampler = with_tolerance(SAMPLERS[name], **LOOSE)
    expected = recipe.law(row)
    found = law(function, row, **LOOSE)
    assert np.abs(found.probs - expected.probs).max() <= found.error + expected.error
    assert found.error < 2e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_are_given_in_their_own_dtype(dtype: torch.dtype) -> None:
    def sample(logits: Tensor) -> Tensor:
        return (logits - torch.log(-torch.log(torch.rand_like(logits)))).argmax(-1)

    row = torch.tensor([0.3, -1.1, 2.2])
    name = {torch.float16: "gumbel_max_fp16", torch.bfloat16: "gumbel_max_bf16"}[dtype]
    assert np.abs(law(sample, row.to(dtype)).probs - SAMPLERS[name].law(row.to(dtype)).probs).max() < 1e-11


def test_temperature_in_float64_is_within_its_bound() -> None:
    """Ten thousand times the bound would be a wrong power of the exponential."""
    row = ROWS[0]
    found = law(add_gumbel_noise(torch.float64, 0.5), row)
    assert np.abs(found.probs - (row.double() / 0.5).softmax(-1).numpy()).max() <= found.error < 1e-12


def test_float32_sum_by_sorted_search() -> None:
    """Two tokens: P(0) is the share of pairs of words with fl(w_0 + g) >= fl(w_1 + g'), counted in integers."""

    def sample(logits: Tensor) -> Tensor:
        return (logits + torch.rand_like(logits).mul(0.5).add(0.25).log()).argmax(-1)

    row = torch.tensor([0.25, 0.0])
    words = (torch.arange(1 << 24).float() * 2.0**-24).mul(0.5).add(0.25).log()
    first = (row[0] + words).numpy()
    second = np.sort((row[1] + words).numpy())
    wins = np.searchsorted(second, first, side="right").astype(np.int64)
    expected = int(wins.sum()) / 2**48
    found = law(sample, row, **LOOSE)
    assert abs(found.probs[0] - expected) <= found.error + 1e-15
    assert found.error < 1e-4


def test_multinomial_after_topk_is_renormalised() -> None:
    def sample(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        values, at = logits.topk(2)
        return at.gather(-1, torch.multinomial(values.softmax(-1), n, replacement=True, generator=generator)).T

    found = law(sample, torch.tensor([0.0, -9.0, 1.0, -8.0]))
    share = 1 / (1 + math.e)
    assert np.abs(found.probs - [share, 0, 1 - share, 0]).max() < 1e-7


def test_bounds_of_uniform_are_rounded_once() -> None:
    """uniform_(1e-6, 1) is one fused product and sum on this CPU: of its values a quarter differ from two
    roundings."""

    def sample(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        u = torch.empty(n, len(logits), 1, dtype=torch.float64).uniform_(0.25, 1.5, generator=generator)
        return (sums(logits.double()) <= u - 0.25).sum(-1).clamp(max=last(logits))

    c = sums(ROWS[0].double()).numpy() / 1.25
    found = law(sample, ROWS[0])
    assert abs(found.probs[0] - c[0]) < 1e-14
    assert abs(found.probs[1] - (c[1] - c[0])) < 1e-14


def test_function_made_for_one_vocabulary_is_read_there() -> None:
    bias = torch.tensor([0.0, 1.0, 0.0, -1.0, 0.5])

    def sample(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        return plain(logits + bias, n, generator=generator)

    row = torch.tensor([0.0, -1.0, -2.0, 0.0, 0.0])
    assert np.abs(law(sample, row).probs - law(plain, row + bias).probs).max() < 1e-12
