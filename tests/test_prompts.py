"""What every decoder takes: a prompt, temperature 0, a sampler by name or as a plain function; and one unit
of network calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from judging import statistical

from precision_lab import SAMPLERS
from precision_lab.errors import InputError
from precision_lab.laws.law import Law
from precision_lab.mdm.conformance import Probe
from precision_lab.mdm.decode import (
    ancestral,
    autoregressive,
    confidence_ordered,
    event_driven,
    first_hitting,
    two_stage,
)
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.mdm.texts import DECODERS, generate
from precision_lab.statistics import Counts
from precision_lab.statistics.testing import chi_square_test
from precision_lab.types import Guarantee

EXACT = SAMPLERS["inverse_cdf_fp64"]
LENGTH, VOCAB, MASK, STEPS = 4, 3, 3, 3
START = torch.tensor([[0, MASK, MASK, 1], [2, MASK, 0, MASK], [1, MASK, 2, 2]])  # 2, 2 and 1 masks
BATCH = 15_000  # of each of the three prompts
FALSE_FAIL = 1e-8


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Untold(Probe):
    """A probe that is not told the time, as event-driven decoding asks for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config = type(self.config)(self.vocab, timed=False)

    def hidden(self, tokens, t=None):
        return super().hidden(tokens, torch.zeros(len(tokens)))


Laws = dict[tuple[int, ...], float]


def mu_at(probe: Probe, state: tuple[int, ...]) -> np.ndarray:
    return probe.log_probs(probe.answer(torch.tensor([state])))[0].exp().numpy()


def filled(state: tuple[int, ...], places, tokens) -> tuple[int, ...]:
    row = list(state)
    for place, token in zip(places, tokens, strict=True):
        row[place] = token
    return tuple(row)


def together(probe: Probe, state: tuple[int, ...], places: tuple[int, ...]) -> Laws:
    """All of ``places`` at once, each from its own prediction."""
    mu = mu_at(probe, state)
    found: Laws = {}
    for tokens in itertools.product(range(VOCAB), repeat=len(places)):
        p = float(np.prod([mu[place, token] for place, token in zip(places, tokens, strict=True)]))
        found[filled(state, places, tokens)] = p
    return found


def masks(state: tuple[int, ...]) -> list[int]:
    return [place for place, token in enumerate(state) if token == MASK]


def by_steps(probe: Probe, start: tuple[int, ...], steps: int) -> Laws:
    """N ancestral steps: each masked place comes with 1 / (N - i), whatever the others do."""
    law: Laws = {start: 1.0}
    for i in range(steps):
        after: Laws = {}
        r = 1 / (steps - i)
        for state, p in law.items():
            left = masks(state)
            for size in range(len(left) + 1):
                for places in itertools.combinations(left, size):
                    q = p * r**size * (1 - r) ** (len(left) - size)
                    for text, share in together(probe, state, places).items():
                        after[text] = after.get(text, 0.0) + q * share
        law = after
    return law


def one_by_one(probe: Probe, start: tuple[int, ...]) -> Laws:
    """First-hitting: each masked place is next with the same probability."""
    law: Laws = {start: 1.0}
    while any(masks(state) for state in law):
        after: Laws = {}
        for state, p in law.items():
            left = masks(state)
            for place in left or [None]:
                found = {state: 1.0} if place is None else together(probe, state, (place,))
                for text, share in found.items():
                    after[text] = after.get(text, 0.0) + p / max(len(left), 1) * share
        law = after
    return law


def surest(probe: Probe, start: tuple[int, ...]) -> Laws:
    """LLaDA's order, one token a call: every place proposes, the surest proposal stays, of equal ones the
    leftmost."""
    law: Laws = {start: 1.0}
    while any(masks(state) for state in law):
        after: Laws = {}
        for state, p in law.items():
            left, mu = masks(state), mu_at(probe, state)
            if not left:
                after[state] = after.get(state, 0.0) + p
                continue
            for tokens in itertools.product(range(VOCAB), repeat=len(left)):
                sure = [float(mu[place, token]) for place, token in zip(left, tokens, strict=True)]
                best = int(np.argmax(sure))
                text = filled(state, [left[best]], [tokens[best]])
                after[text] = after.get(text, 0.0) + p * float(np.prod(sure))
        law = after
    return law


Case = tuple[Callable[..., Any], Callable[[Probe, tuple[int, ...]], Laws]]
CASES: dict[str, Case] = {
    "ancestral": (
        lambda network, **o: ancestral(network, EXACT, steps=STEPS, **o),
        lambda probe, start: by_steps(probe, start, STEPS),
    ),
    "faithful": (
        lambda network, **o: ancestral(network, steps=STEPS, **o),
        lambda probe, start: by_steps(probe, start, STEPS),
    ),
    "two_stage": (
        lambda network, **o: two_stage(network, EXACT, steps=STEPS, **o),
        lambda probe, start: by_steps(probe, start, STEPS),
    ),
    "event_driven": (
        lambda network, **o: event_driven(network, "gumbel_max_fp64", steps=STEPS, **o),
        lambda probe, start: by_steps(probe, start, STEPS),
    ),
    "first_hitting": (lambda network, **o: first_hitting(network, EXACT, **o), one_by_one),
    "confidence": (lambda network, **o: confidence_ordered(network, EXACT, **o), surest),
}
SMALLER = {"event_driven": 1_500, "faithful": 4_000}  # texts of each prompt: slower a text


def fails(tokens: torch.Tensor, law: Laws) -> bool:
    texts = [*law]
    code = {text: k for k, text in enumerate(texts)}
    if any(tuple(row) not in code for row in tokens.tolist()):
        return True  # a text that cannot come
    counts = np.bincount([code[tuple(row)] for row in tokens.tolist()], minlength=len(texts))
    probs = Law.from_probs(np.array([*law.values()]), "enumeration", 1e-12, Guarantee.CERTIFIED)
    return chi_square_test(Counts(counts, len(tokens)), probs, false_fail=FALSE_FAIL).failed


class TestLawOfThePrompt:
    """Three prompts in one batch, one of them with fewer masks: each text has the enumerated law of its own
    prompt."""

    @statistical(false_fail=3e-8)
    @pytest.mark.parametrize("decoder", CASES)
    def test_by_enumeration(self, decoder):
        decode, law_of = CASES[decoder]
        probe = Untold(LENGTH, VOCAB, seed=2)
        each = SMALLER.get(decoder, BATCH)
        given = START.repeat(each, 1)
        before = given.clone()
        done = decode(probe, batch=3 * each, length=LENGTH, rng=rng(4), given=given)
        assert torch.equal(given, before)
        assert torch.equal(done.tokens[given != MASK], given[given != MASK])
        assert torch.equal(done.steps == -1, given != MASK)
        for k, start in enumerate(START.tolist()):
            assert not fails(done.tokens[k::3], law_of(probe, tuple(start)))

    def test_the_laws_differ(self):
        """A decoder that took one for the other would be seen: all at once, by steps, one by one, by
        confidence."""
        probe = Untold(LENGTH, VOCAB, seed=2)
        start = tuple(START[0].tolist())
        laws = [
            by_steps(probe, start, 1),
            by_steps(probe, start, STEPS),
            one_by_one(probe, start),
            surest(probe, start),
        ]
        for a, b in itertools.combinations(laws, 2):
            assert sum(abs(a.get(text, 0.0) - b.get(text, 0.0)) for text in a | b) / 2 > 0.02
        wrong = first_hitting(
            probe, EXACT, batch=BATCH, length=LENGTH, rng=rng(5), given=START[:1].repeat(BATCH, 1)
        )
        assert fails(wrong.tokens, laws[3])

    @statistical(false_fail=1e-8)
    def test_extrapolated_and_corrected_prompts_of_unequal_length(self):
        """Untold the time, extrapolation changes nothing; the corrector draws again only where a call is
        left."""
        probe = Untold(LENGTH, VOCAB, seed=2)
        given = START.repeat(3000, 1)
        size = {"batch": 9000, "length": LENGTH, "given": given}
        plain = first_hitting(probe, EXACT, rng=rng(6), extrapolate=True, **size)
        assert torch.equal(plain.tokens[given != MASK], given[given != MASK])
        corrected = first_hitting(probe, EXACT, rng=rng(6), correct=True, **size)
        assert (corrected.nfe, corrected.draws) == (2, 3000 * (2 + 2 + 1 + 2))
        assert not fails(corrected.tokens[2::3], one_by_one(probe, tuple(START[2].tolist())))

    def test_calls_and_sequences_have_one_unit(self):
        probe = Untold(LENGTH, VOCAB)
        for decode, _ in CASES.values():
            probe.asked.clear()
            done = decode(probe, batch=3, length=LENGTH, rng=rng(7), given=START)
            assert done.nfe == len(probe.asked)
            assert done.asked == sum(len(tokens) for tokens, _ in probe.asked)

    def test_counts_a_call_need_equal_prompts(self):
        for decode in (first_hitting, confidence_ordered):
            with pytest.raises(InputError, match="1 to 2 masks"):
                decode(Untold(4, 3), EXACT, batch=3, length=4, rng=rng(), given=START, per_call=[1, 1])

    def test_steps_over_unequal_prompts(self):
        """LLaDA's schedule of each sequence: 5 masks in 2 calls are 3 and 2, 1 mask is 1 and 0."""
        given = torch.tensor([[3] * 5, [0, 1, 3, 2, 0]])
        done = confidence_ordered(Untold(5, 3), EXACT, batch=2, length=5, rng=rng(), given=given, steps=2)
        assert (done.nfe, done.asked) == (2, 3)
        assert sorted(done.steps[0].tolist()) == [0, 0, 0, 1, 1]
        assert done.steps[1].tolist() == [-1, -1, 0, -1, -1]


@pytest.fixture(scope="module")
def causal() -> Denoiser:
    torch.manual_seed(0)
    model = Denoiser(DenoiserConfig(4, 1, 2, 16, causal=True)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    return model


class TestAutoregressive:
    @statistical(false_fail=2e-8)
    @pytest.mark.parametrize("reads", [True, False])
    def test_the_law_behind_a_prompt(self, causal, reads):
        """Prompts of two and of one token: the next tokens have the network's conditional law."""
        network = causal if reads else _NoReader(causal)
        start = torch.tensor([[3, 1, 4], [2, 4, 4]])
        done = autoregressive(network, EXACT, batch=8000, length=3, rng=rng(1), given=start.repeat(4000, 1))
        assert torch.equal(done.steps[:2], torch.tensor([[-1, -1, 2], [-1, 1, 2]]))
        assert done.draws == 4000 * 3
        for k, prompt in enumerate(([3, 1], [2])):
            law: Laws = {(*prompt,): 1.0}
            for _ in range(3 - len(prompt)):
                law = {
                    (*text, token): p * q
                    for text, p in law.items()
                    for token, q in enumerate(self.following(causal, text))
                }
            assert not fails(done.tokens[k::2], law)

    def following(self, model: Denoiser, text: tuple[int, ...]) -> list[float]:
        with torch.no_grad():
            row = model.log_probs(model.hidden(torch.tensor([[*text, 0]]))[0, -1])
        return row.double().exp().div(row.double().exp().sum()).tolist()

    def test_a_token_behind_a_mask(self, causal):
        with pytest.raises(InputError, match="does not see what is to come"):
            autoregressive(causal, EXACT, batch=1, length=3, rng=rng(), given=torch.tensor([[1, 4, 2]]))


class _NoReader:
    def __init__(self, model: Denoiser) -> None:
        self.config, self.hidden, self.log_probs = model.config, model.hidden, model.log_probs


class Tied(Untold):
    """Tokens 1 and 2 are the likeliest of all everywhere, and equal."""

    def log_probs(self, hidden):
        row = torch.tensor([0.2, 0.4, 0.4], dtype=torch.float64).log()
        return row.expand(*hidden.shape, 3)


class TestGreedy:
    @pytest.mark.parametrize("sampler", ["gumbel_max_fp32", "gumbel_max_bf16", "torch_multinomial_fp32"])
    @pytest.mark.parametrize("decoder", [d for d in DECODERS if d not in ("event_driven", "autoregressive")])
    def test_the_first_of_ties(self, decoder, sampler):
        done = generate(Tied(6, 3), decoder, sampler, 4, batch=2, length=6, rng=rng(), temperature=0)
        assert (done.tokens == 1).all()

    def test_without_a_sampler(self):
        done = ancestral(Tied(6, 3), batch=2, length=6, steps=9, rng=rng(), temperature=0)
        assert (done.tokens == 1).all()
        assert len(done.steps.unique()) > 1  # the unmasking has no temperature

    def test_left_to_right(self, causal):
        done = autoregressive(causal, EXACT, batch=1, length=4, rng=rng(), temperature=0)
        text: list[int] = []
        for _ in range(4):
            with torch.no_grad():
                row = causal.log_probs(causal.hidden(torch.tensor([[*text, 0]]))[0, -1])
            text.append(int(row.argmax()))
        assert done.tokens[0].tolist() == text


def drawn(logits, n, *, generator):
    """A plain function."""
    probs = torch.softmax(logits, -1)
    return torch.multinomial(probs, n, replacement=True, generator=generator).T


class TestSamplers:
    @pytest.mark.parametrize("decoder", [name for name in CASES if name not in ("faithful", "event_driven")])
    def test_by_name_and_as_a_function(self, decoder):
        run = {
            "ancestral": lambda s: ancestral(Probe(4, 3), sampler=s, batch=2, length=4, steps=5, rng=rng(1)),
            "two_stage": lambda s: two_stage(Probe(4, 3), sampler=s, batch=2, length=4, steps=5, rng=rng(1)),
            "first_hitting": lambda s: first_hitting(Probe(4, 3), sampler=s, batch=2, length=4, rng=rng(1)),
            "confidence": lambda s: confidence_ordered(Probe(4, 3), sampler=s, batch=2, length=4, rng=rng(1)),
        }[decoder]
        named, held = run("gumbel_max_fp32"), run(SAMPLERS["gumbel_max_fp32"])
        assert torch.equal(named.tokens, held.tokens)
        assert int(run(drawn).tokens.max()) < 3
        with pytest.raises(InputError, match="did you mean"):
            run("gumbel_max_fp23")

    def test_event_driven_by_name(self):
        for name in ("gumbel_max_fp32", "gumbel_max_bf16", "inverse_cdf_fp64"):
            done = event_driven(Untold(4, 3), sampler=name, batch=2, length=4, steps=5, rng=rng(1))
            assert (done.tokens < 3).all()

    def test_left_to_right(self, causal):
        assert autoregressive(causal, sampler=drawn, batch=2, length=3, rng=rng()).draws == 6
