"""Functions that have no law by reading: each is refused by one error that names the operation and a
remedy, whether its reading would show in a few draws or only in events too rare to be drawn. Nothing here
fails by chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from precision_lab.errors import InputError
from precision_lab.laws.law import Law
from precision_lab.samplers import resolve
from precision_lab.samplers.function import FunctionSampler
from precision_lab.samplers.traced.source import stretch_here

ROW = torch.tensor([0.0, -1.0, -2.5, -0.5])
LOOSE = {"tolerance": 1e-5, "relative": 1e-3}
OWN = torch.Generator()


def law(function: Callable[..., Any], row: Tensor = ROW) -> Law:
    sampler = resolve(function)
    assert isinstance(sampler, FunctionSampler)
    return sampler.reading(row).law(**LOOSE)


def gumbel(u: Tensor) -> Tensor:
    return -(-u.log()).log()


def uniform(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, *logits.shape, generator=generator, dtype=torch.bfloat16).float()


def scores(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return logits + gumbel(uniform(logits, n, generator))


def draw(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return scores(logits, n, generator).argmax(-1)


def of(body: Callable[[Tensor, int, torch.Generator], Any]) -> Callable[..., Any]:
    def sample(logits: Tensor, n: int, *, generator: torch.Generator) -> Any:
        return body(logits, n, generator)

    return sample


# -- what a few draws show


def rejection(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    while True:
        ids = draw(logits, n, generator)
        if bool((ids >= 0).all()):
            return ids


def looks(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    if float(logits.max()) > 1:
        logits = logits * 0.9
    return draw(logits, n, generator)


def numpy_after(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return torch.from_numpy(scores(logits, n, generator).numpy().argmax(-1))


def numpy_noise(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return (logits + torch.from_numpy(np.random.default_rng().gumbel(size=(n, *logits.shape)))).argmax(-1)


def numpy_before(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return draw(torch.from_numpy(np.asarray(logits) - 1), n, generator)


def two_recipes(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    half = n // 2
    first = draw(logits, half, generator)
    second = (logits + gumbel(uniform(logits, n - half, generator).clamp(min=0.1))).argmax(-1)
    return torch.cat([first, second])


def by_shape(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    if logits.shape[-1] > 2000:
        return (logits.softmax(-1) / -uniform(logits, n, generator).log()).argmax(-1)
    return draw(logits, n, generator)


def in_place(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return draw(logits.mul_(0.5), n, generator)


def summed(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return (logits + gumbel((uniform(logits, n, generator) + uniform(logits, n, generator)) / 2)).argmax(-1)


def joined_twice(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return (scores(logits, n, generator) + torch.arange(logits.shape[-1])).argmax(-1)


def bernoulli(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return torch.bernoulli(logits.softmax(-1).expand(n, *logits.shape), generator=generator).argmax(-1)


PLAIN: dict[str, tuple[Callable[[Tensor, int, torch.Generator], Any], str]] = {
    "no ids": (lambda l, n, g: None, "NoneType"),
    "scores": (lambda l, n, g: scores(l, n, g)[..., 0], "float32 ids"),
    "wrong shape": (lambda l, n, g: draw(l, n, g).T.contiguous(), "ids of shape"),
    "greedy": (lambda l, n, g: l.argmax(-1).expand(n, -1), "without a random operation"),
    "own generator": (lambda l, n, g: draw(l, n, OWN), "generator of its own"),
    "rejection": (rejection, "a random value that Python reads"),
    "looks": (looks, "a value of the logits that Python reads"),
    "int": (lambda l, n, g: draw(l / int(l.max() + 9), n, g), "a value of the logits that Python reads"),
    "tolist": (lambda l, n, g: draw(torch.tensor(l.tolist()), n, g), "tolist"),
    "raises": (lambda l, n, g: [][0], "raising IndexError"),
    "numpy before": (numpy_before, "of a value that depends on the logits"),
    "numpy after": (numpy_after, "numpy"),
    "numpy noise": (numpy_noise, "NumPy"),
    "normal noise": (lambda l, n, g: (l + torch.randn(n, *l.shape, generator=g)).argmax(-1), "randn"),
    "bernoulli": (bernoulli, "bernoulli"),
    "summed": (summed, "random value"),
    "cumsum of noise": (lambda l, n, g: (l + uniform(l, n, g).cumsum(-1)).argmax(-1), "cumsum"),
    "sorted noise": (lambda l, n, g: (l + uniform(l, n, g).sort(-1).values).argmax(-1), "sort"),
    "noise by its largest": (
        lambda l, n, g: (l + (u := uniform(l, n, g)) / u.amax(-1, keepdim=True)).argmax(-1),
        "amax",
    ),
    "joined twice": (joined_twice, "other for each token"),
    "two recipes": (two_recipes, "in one call"),
    "by shape": (by_shape, "differently by shape"),
    "in place": (in_place, "changed in place"),
    "infinite": (lambda l, n, g: draw(l * torch.inf, n, g), "NaN"),
    "sigmoid": (lambda l, n, g: scores(l, n, g).sigmoid().argmax(-1), "sigmoid"),
    "other axis": (lambda l, n, g: scores(l, n, g).softmax(0).argmax(-1), "another axis"),
    "finite mask": (lambda l, n, g: scores(l, n, g).masked_fill(l < -2, -3.0).argmax(-1), "-inf for tokens"),
    "alpha": (lambda l, n, g: torch.add(l, gumbel(uniform(l, n, g)), alpha=0.5).argmax(-1), "options"),
    "rounded quotient": (
        lambda l, n, g: torch.div(l.softmax(-1), uniform(l, n, g), rounding_mode="floor").argmax(-1),
        "options",
    ),
    "from the end": (
        lambda l, n, g: l.shape[-1] - 1 - scores(l, n, g).flip(-1).argmax(-1),
        "the function's index",
    ),
    "logits for probabilities": (lambda l, n, g: (l / -uniform(l, n, g).log()).argmax(-1), "--takes probs"),
    "ids added": (lambda l, n, g: draw(l, n, g) + draw(l, n, g), "ids made by add"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_refused_by_name(name: str) -> None:
    body, said = PLAIN[name]
    with pytest.raises(InputError) as refusal:
        law(of(body))
    assert said in str(refusal.value)
    assert refusal.value.remedy


# -- what a few draws do not show: the law would be believed, and wrong


def cached(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    torch.manual_seed(0)
    return (logits + gumbel(torch.rand(n, *logits.shape, dtype=torch.bfloat16).float())).argmax(-1)


def one_hot_and_noise(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    row = torch.zeros(n, *logits.shape).scatter_(-1, draw(logits, n, generator)[..., None], 1.0)
    return (row + 1e-3 * torch.rand(row.shape, generator=generator)).argmax(-1)


def gate_of_the_noise(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    u = uniform(logits, n, generator)
    return torch.where(u[..., 0] < 0.3, (logits + gumbel(u)).argmax(-1), 2)


def decaying(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    drawn = []
    for step in range(n):
        drawn.append(draw(logits * 0.99**step, 1, generator)[0])
    return torch.stack(drawn)


def every_second_given(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    even = (torch.arange(n) % 2 == 0)[:, None]
    return torch.where(even, draw(logits, n, generator), logits.argmax(-1))


def turning(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(n, len(logits), 1, dtype=torch.float64, generator=generator)
    return (logits.double().softmax(-1).cumsum(-1) <= (7 * u).frac()).sum(-1).clamp(max=logits.shape[-1] - 1)


def twice_used(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    u = uniform(logits, n, generator)
    return (logits + gumbel(u + 1e-12 * u.flip(-1))).argmax(-1)


def half_the_noise(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    half = -(-logits.shape[-1] // 2)
    u = torch.rand(n, len(logits), half, generator=generator, dtype=torch.bfloat16).float()
    return (logits + gumbel(u.repeat(1, 1, 2)[..., : logits.shape[-1]])).argmax(-1)


def nan_loses(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """A quotient 0 / 0 wins an argmin and is last in a sort."""
    return (-torch.log1p(-uniform(logits, n, generator)) / logits.softmax(-1)).sort(-1).indices[..., 0]


RARE: dict[str, tuple[Callable[[Tensor, int, torch.Generator], Any], str]] = {
    "seeded by itself": (cached, "whatever the state"),
    "second best": (lambda l, n, g: scores(l, n, g).topk(2, -1).indices[..., 1], "the first is left out"),
    "second of multinomial": (
        lambda l, n, g: torch.stack([torch.multinomial(l.softmax(-1), 2, generator=g)[:, 1] for _ in range(n)]),
        "the first is left out",
    ),
    "by the number of draws": (lambda l, n, g: draw(l * (1 + 1 / n), n, g), "number of draws"),
    "by the batch": (lambda l, n, g: draw(l * (1 + 1 / len(l)), n, g), "other rows"),
    "first row for all": (lambda l, n, g: draw(l[:1].expand_as(l), n, g), "other rows"),
    "rows turned": (lambda l, n, g: draw(l, n, g).flip(-1), "other rows"),
    "decaying": (decaying, "weights"),
    "every second given": (every_second_given, "no draw at these logits"),
    "greedy where sure": (
        lambda l, n, g: torch.where(l.max(-1).values > -1, l.argmax(-1), draw(l, n, g)),
        "other side",
    ),
    "one-hot and noise": (one_hot_and_noise, "both hold noise and logits"),
    "gate of the noise": (gate_of_the_noise, "a uniform of its own"),
    "turning uniform": (turning, "rise and fall"),
    "noise used twice": (twice_used, "one random value for each token"),
    "half the noise": (half_the_noise, "several tokens"),
    "one value for all": (
        lambda l, n, g: (l + gumbel(uniform(l, n, g)[..., :1].expand(n, *l.shape))).argmax(-1),
        "several tokens",
    ),
    "minus zero": (
        lambda l, n, g: (l.softmax(-1) / -(1 - uniform(l, n, g)).log()).argmax(-1),
        "-0 for some random values",
    ),
    "nan of the log": (lambda l, n, g: (l + (uniform(l, n, g) - 1e-3).log()).argmax(-1), "NaN"),
    "nan loses": (nan_loses, "the function's index"),
    "exp that overflows": (lambda l, n, g: (scores(l, n, g) + 84).exp().argmax(-1), "the function's index"),
    "sums that fall": (
        lambda l, n, g: (
            (l.softmax(-1).cumsum(-1) * (l > -torch.inf) <= torch.rand(n, len(l), 1, generator=g)).sum(-1)
        ).clamp(max=l.shape[-1] - 1),
        "the function's index",
    ),
    "cast twice": (lambda l, n, g: scores(l, n, g).half().bfloat16().argmax(-1), "cast twice"),
}


@pytest.mark.parametrize("name", RARE)
def test_rare_differences_are_refused(name: str) -> None:
    body, said = RARE[name]
    row = torch.tensor([0.0, -1.0, -torch.inf, -0.5]) if name == "nan loses" else ROW
    with pytest.raises(InputError) as refusal:
        law(of(body), row)
    assert said in str(refusal.value)


def test_narrow_ids_wrap() -> None:
    """uint8 holds 256 ids: with 300 tokens the function returns id - 256 for the last ones, and so has its
    law."""
    row = torch.zeros(300)
    plain = law(of(draw), row).probs
    found = law(of(lambda l, n, g: draw(l, n, g).to(torch.uint8)), row).probs
    assert np.abs(found[:44] - (plain[:44] + plain[256:])).max() < 1e-12
    assert found[256:].sum() == 0


def test_rounding_after_the_sum_is_in_the_error() -> None:
    """Scores near 10,000 in float16 are multiples of 8: all are equal, and no bound below 1 can be given."""
    assert law(of(lambda l, n, g: (scores(l, n, g) + 1e4).half().softmax(-1).argmax(-1))).error == 1.0


def test_id_beyond_the_vocabulary_is_named() -> None:
    def beyond(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        return (0.5 * logits.softmax(-1).cumsum(-1) < torch.rand(n, len(logits), 1, generator=generator)).sum(
            -1
        )

    with pytest.raises(InputError, match=r"id 4 of 4 with probability 0\.5"):
        law(of(beyond))


def test_tie_rule_of_a_nonzero_probability_is_asked_of_the_library() -> None:
    """Two equal logits and 8-bit noise tie often: argmax takes the first, and the reading must say so."""
    found = law(of(draw), torch.zeros(2))
    assert found.probs[0] - found.probs[1] > 1e-3


def test_maps_that_print_alike_have_tables_of_their_own() -> None:
    """clamp(min=) and clamp(max=) with one number read alike as text."""
    low = law(of(lambda l, n, g: (l + gumbel(uniform(l, n, g).clamp(min=0.5))).argmax(-1)))
    high = law(of(lambda l, n, g: (l + gumbel(uniform(l, n, g).clamp(max=0.5))).argmax(-1)))
    assert np.abs(low.probs - high.probs).max() > 0.01


def test_exception_at_the_row_is_told() -> None:
    """The shapes of the replay are taken; the row in question is not."""

    def sample(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        if logits.shape[-1] == 4:
            raise ZeroDivisionError("no four tokens")
        return draw(logits, n, generator)

    with pytest.raises(InputError, match="raising ZeroDivisionError: no four tokens"):
        law(of(sample))


def test_refusal_that_the_function_catches_is_told() -> None:
    """The row in question goes another way than the rows of the replay; what the recording says of it is
    caught."""

    def sample(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        temperature = 1.0
        try:
            if logits.max() > 100:
                temperature = 2.0
        except Exception:
            temperature = 1.0
        return draw(logits / temperature, n, generator)

    with pytest.raises(InputError, match="a value of the logits that Python reads"):
        law(of(sample), torch.tensor([200.0, 199.0, 198.0]))


def test_refusal_that_the_function_makes_another_error_of_is_told() -> None:
    """As TorchScript does."""

    def sample(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        try:
            temperature = 2.0 if logits.max() > 100 else 1.0
        except Exception as error:
            raise RuntimeError("something failed") from error
        return draw(logits / temperature, n, generator)

    with pytest.raises(InputError, match="a value of the logits that Python reads"):
        law(of(sample))


def test_bound_that_says_nothing_says_so() -> None:
    """A softmax in bfloat16 behind the sum makes so many scores equal that no bound below 1 is proved."""

    def sample(logits: Tensor) -> Tensor:
        return F.gumbel_softmax(logits, tau=0.5, hard=True).argmax(-1)

    found = law(sample, ROW.bfloat16())
    assert (found.error >= 1) == ("says nothing" in found.how)
    assert "says nothing" in found.how
    assert "says nothing" not in law(of(draw)).how


def test_checks_of_distributions_that_decide_are_named() -> None:
    """Half precision probabilities may fail the check of their sum; a function that catches it is greedy
    from then on."""

    def sample(logits: Tensor) -> Tensor:
        probs = logits.softmax(-1)
        try:
            torch.distributions.Bernoulli(probs=torch.tensor(1.5))
            return torch.multinomial(probs, 1).squeeze(-1)
        except ValueError:
            return probs.argmax(-1)

    with pytest.raises(InputError, match=r"torch\.distributions finds fault"):
        law(sample)


def test_other_ids_at_the_row_alone_are_refused() -> None:
    """The rows of the replay are drawn again alike; the row in question is not."""
    calls: Iterator[int] = iter(range(10**9))

    def sample(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        turns = logits.shape[-1] == 4 and next(calls) == 0
        return draw(-logits if turns else logits, n, generator)

    with pytest.raises(InputError, match="other ids when it is called again"):
        law(of(sample))


def _masked_select(coin: Tensor) -> int:
    return coin.masked_select(coin < 1e-4).numel()


def _index(coin: Tensor) -> int:
    return len(coin[coin < 1e-4])


def _unique(coin: Tensor) -> int:
    return len((coin < 1e-4).unique()) - 1


def _allclose(coin: Tensor) -> int:
    return int(torch.allclose(coin, torch.zeros(2), atol=1e-4))


@pytest.mark.parametrize("shows", [_masked_select, _index, _unique, _allclose])
def test_shape_that_tells_a_random_value_is_refused(shows: Callable[[Tensor], int]) -> None:
    """Once in 5,000 calls the temperature is another: no replay meets that, and Python reads no value, but
    a length."""

    def sample(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        coin = torch.rand(2, generator=generator)
        return draw(logits / (5.0 if shows(coin) else 1.0), n, generator)

    with pytest.raises(InputError, match="a random value that Python reads"):
        law(of(sample))


@pytest.mark.parametrize("coin", [random.random, np.random.random])
def test_other_generators_are_refused(coin: Callable[[], float]) -> None:
    """Once in 10,000 calls the temperature is another, by a generator that torch does not know."""

    def sample(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
        return draw(logits / (5.0 if coin() < 1e-4 else 1.0), n, generator)

    with pytest.raises(InputError, match="the random module or from NumPy's global generator"):
        law(of(sample))


def test_counter_is_refused() -> None:
    calls: Iterator[int] = iter(range(10**9))

    def sample(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        return draw(logits * (1 + 0.1 * (next(calls) % 2)), n, generator)

    with pytest.raises(InputError, match="other ids when it is called again"):
        law(sample)


def test_noise_kept_between_calls_is_refused() -> None:
    kept: dict[tuple[int, ...], Tensor] = {}

    def sample(logits: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
        shape = (n, *logits.shape)
        if shape not in kept:
            kept[shape] = torch.rand(shape, generator=generator)
        return (logits + gumbel(kept[shape])).argmax(-1)

    with pytest.raises(InputError, match="random operation"):
        law(sample)


def test_another_argument_is_named() -> None:
    def sample(logits: Tensor, n: int, temperature: float, *, generator: torch.Generator) -> Tensor:
        return draw(logits / temperature, n, generator)

    with pytest.raises(InputError, match="needs 'temperature'"):
        law(sample)


@pytest.mark.parametrize("bad", [torch.full((4,), -torch.inf), torch.tensor([0.0, torch.nan, 0.0, 0.0])])
def test_rows_that_are_no_logits_are_refused(bad: Tensor) -> None:
    with pytest.raises(InputError):
        resolve(of(draw)).law(bad)


def test_compiled_functions_are_right_or_refused() -> None:
    """torch.jit.script keeps torch's operations; the reading of it has the law of the plain function, or is
    refused."""

    @torch.jit.script
    def scripted(logits: Tensor, u: Tensor) -> Tensor:
        return (logits - torch.log(-torch.log(u))).argmax(-1)

    expected = law(of(lambda l, n, g: (l - torch.log(-torch.log(uniform(l, n, g)))).argmax(-1)))
    try:
        found = law(of(lambda l, n, g: scripted(l, uniform(l, n, g))))
    except InputError:
        return
    assert np.abs(found.probs - expected.probs).max() < 1e-12


def test_uniform_between_bounds_is_rounded_as_torch_does() -> None:
    """(b - a) u + a in one rounding or in two, whichever this torch was compiled to; they differ in a quarter of the
    draws, and the map is found on others than these."""
    for dtype in (torch.float32, torch.float64):
        drawn = torch.empty(20_000, dtype=dtype).uniform_(1e-6, 1.0, generator=torch.Generator().manual_seed(1))
        u = torch.rand(20_000, dtype=dtype, generator=torch.Generator().manual_seed(1))
        stretch = stretch_here(1e-6, 1.0, dtype, "cpu")
        assert stretch is not None
        assert torch.equal(drawn, stretch(u, 1e-6, 1.0))


def two_rates(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """E / 1 for the first half of the vocabulary, E / 2 for the second."""
    half = logits.shape[-1] // 2
    shape = (n, len(logits))
    first = torch.empty(*shape, half).exponential_(1.0, generator=generator)
    second = torch.empty(*shape, logits.shape[-1] - half).exponential_(2.0, generator=generator)
    return (logits.softmax(-1) / torch.cat([first, second], -1)).argmax(-1)


def two_uniforms(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    half = logits.shape[-1] // 2
    shape = (n, len(logits))
    first = torch.empty(*shape, half).uniform_(0.0, 1.0, generator=generator)
    second = torch.empty(*shape, logits.shape[-1] - half).uniform_(0.25, 1.0, generator=generator)
    return (logits + gumbel(torch.cat([first, second], -1))).argmax(-1)


def rate_of_three(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    noise = torch.empty(n, *logits.shape, dtype=torch.bfloat16).exponential_(3.0, generator=generator)
    return (logits.softmax(-1).bfloat16() / noise).argmax(-1)


def assigned_twice(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """A whole column of draws is assigned, by one random value each."""
    tokens = draw(logits, n, generator)
    tokens[torch.rand(n, generator=generator) < 0.5] = 2
    return tokens


def assigned_and_added(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    tokens = draw(logits, n, generator)
    gate = torch.rand(n, len(logits), generator=generator) < 0.5
    return tokens.index_put((gate,), torch.tensor(1), accumulate=True)


def short_rows(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Rows for all tokens but the last, which is not drawn in a replay; F.one_hot raises there."""
    logits = F.pad(logits, (0, 1), value=-200.0)
    return F.one_hot(draw(logits, n, generator), logits.shape[-1] - 1).argmax(-1)


def infinite_table(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """0 times infinity is NaN, whatever was drawn."""
    table = torch.arange(logits.shape[-1]).float()
    table[0] = torch.inf
    return (F.one_hot(draw(logits, n, generator), logits.shape[-1]) * table).sum(-1).long()


def gate_that_turns(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(n, len(logits), dtype=torch.float64, generator=generator)
    return draw(logits, n, generator).masked_fill((7 * u).frac() < 0.5, 2)


UNSOUND: dict[str, tuple[Callable[[Tensor, int, torch.Generator], Any], str]] = {
    "one-hot of what was drawn": (lambda l, n, g: F.one_hot(draw(l, n, g)).argmax(-1), "Python reads"),
    "one-hot rows too short": (short_rows, "a place for every token"),
    "one-hot times infinity": (infinite_table, "not finite"),
    "two rates": (two_rates, "several kinds of draws"),
    "two uniforms": (two_uniforms, "several kinds of draws"),
    "a rate of three in bfloat16": (rate_of_three, "a power of two"),
    "columns assigned": (assigned_twice, "index_put"),
    "assigned and added": (assigned_and_added, "index_put"),
    "a gate in float64 that turns": (gate_that_turns, "rise and fall"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_likenesses_of_what_is_read_are_refused(name: str) -> None:
    function, message = UNSOUND[name]
    with pytest.raises(InputError, match=message):
        law(of(function))
