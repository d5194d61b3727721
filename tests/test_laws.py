"""Laws against exhaustive enumeration in Fractions, against closed forms, and under exact symmetries. No
draws."""

from __future__ import annotations

import faulthandler
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from precision_lab.atoms import Atoms
from precision_lab.errors import InputError
from precision_lab.formats import BF16, FORMATS, FP16, FP32, FP64
from precision_lab.laws import _sweep, argmax
from precision_lab.laws.argmax import (
    argmax_law,
    argmax_laws,
    nonfinite_probs,
    perturbed_law,
    race_law,
    truncated_gumbel_law,
)
from precision_lab.laws.inverse_cdf import inverse_cdf_law, threshold_law
from precision_lab.laws.law import Law, check_logits, target_law
from precision_lab.laws.reference import enumerate_argmax, enumerate_inverse_cdf, numpy_score
from precision_lab.samplers.gumbel_max import gumbel_max
from precision_lab.types import Guarantee
from precision_lab.uniforms import TORCH_RAND

INF = float("inf")
ULP = 2.0**-50  # room for the exp(log(p)) of a Law


def torch_score(weight: torch.Tensor, noise: torch.Tensor, combine: str) -> torch.Tensor:
    """The score whose largest wins; of a ratio, whose least wins, the negative."""
    if combine == "add":
        return weight + noise
    if combine == "divide":
        return weight / noise
    return weight * noise if combine == "multiply" else -(noise / weight)


def torch_bf16_score(combine: str) -> Callable[[float, float], float]:
    """bfloat16 scalars are torch's: no NumPy type, and no code of the law."""

    def score(weight: float, noise: float) -> float:
        a, b = (torch.tensor(x, dtype=torch.float64).to(torch.bfloat16) for x in (weight, noise))
        return float(torch_score(a, b, combine))

    return score


@cache
def reference_score(combine: str, name: str) -> Callable[[float, float], float]:
    scalar = {"fp16": np.float16, "fp32": np.float32, "fp64": np.float64}
    return cache(torch_bf16_score(combine) if name == "bf16" else numpy_score(combine, scalar[name]))


def pairs(atoms: Atoms) -> list[tuple[float, Fraction]]:
    return [
        (v, Fraction(c, 1 << atoms.bits))
        for v, c in zip(atoms.values.tolist(), atoms.counts.tolist(), strict=True)
    ]


def exactly(weights: np.ndarray, atoms: Atoms, combine: str, name: str, tie: str = "first") -> np.ndarray:
    law = enumerate_argmax(weights.tolist(), pairs(atoms), reference_score(combine, name), tie=tie)
    assert sum(law) == 1
    return np.array([float(p) for p in law])


def assert_is(law: Law, expected: np.ndarray, within: float = 1e-12) -> None:
    np.testing.assert_allclose(law.probs, expected, rtol=0, atol=within)
    np.testing.assert_allclose(law.probs, expected, rtol=0, atol=law.error + ULP)
    assert ((expected == 0) >= (law.probs == 0)).all()  # a reachable token is never called unreachable


def random_atoms(rng: np.random.Generator, combine: str, fmt, bits: int) -> Atoms:
    """2^bits words on few values: smooth, coarse, huge, or with 0 and infinities among them."""
    size = 1 << bits
    kind = rng.integers(4)
    values = rng.normal(0, 2, size) if kind else rng.integers(-2, 3, size).astype(float)
    if kind == 2:
        values *= fmt.max / 8
    if combine != "add":
        values = abs(values)
    if kind == 3:
        special = [-INF, INF, 0.0] if combine == "add" else [0.0, INF]
        values[rng.random(size) < 0.4] = rng.choice(special)
        values[rng.integers(size)] = rng.choice(special)
    return Atoms.of(fmt.round(values), 1, bits)


def random_weights(rng: np.random.Generator, combine: str, fmt, vocab: int) -> np.ndarray:
    kind = rng.integers(4)
    w = rng.normal(0, 2, vocab) if kind else rng.integers(-1, 2, vocab).astype(float)
    if kind == 2:
        w *= fmt.max / 16
    w = fmt.round(w if combine == "add" else abs(w))
    if rng.random() < 0.4:
        w[rng.integers(vocab)] = -INF if combine == "add" else 0.0
    if rng.random() < 0.3:
        w[rng.integers(vocab)] = w[rng.integers(vocab)]  # equal logits
    if combine == "add" and np.isneginf(w).all():
        w[0] = 1.0
    return w


class TestReference:
    """The judge, by hand."""

    COIN = ((0.0, Fraction(1, 2)), (1.0, Fraction(1, 2)))

    def test_two_tokens_and_a_coin(self):
        add = numpy_score("add", np.float32)
        assert enumerate_argmax([0.0, 0.0], self.COIN, add) == [Fraction(3, 4), Fraction(1, 4)]
        assert enumerate_argmax([0.0, 0.0], self.COIN, add, tie="last") == [Fraction(1, 4), Fraction(3, 4)]
        assert enumerate_argmax([0.0, 0.5], self.COIN, add) == [Fraction(1, 4), Fraction(3, 4)]

    def test_nan_beats_infinity(self):
        divide = numpy_score("divide", np.float16)
        assert math.isnan(divide(0.0, 0.0))
        assert enumerate_argmax([1.0, 0.0], [(0.0, Fraction(1))], divide) == [0, 1]

    def test_scalars_round(self):
        assert numpy_score("add", np.float16)(1.0, 2.0**-11) == 1.0
        assert numpy_score("add", np.float32)(1.0, 2.0**-11) == 1 + 2.0**-11
        assert torch_bf16_score("add")(1.0, 2.0**-8) == 1.0
        assert torch_bf16_score("divide")(1.0, 3.0) == float(BF16.round(np.float64(1 / 3)))

    def test_inverse_cdf_by_hand(self):
        grid = [(k / 4, Fraction(1, 4)) for k in range(4)]
        assert enumerate_inverse_cdf([0.25, 0.5, 0.9], grid, strict=True) == [
            Fraction(1, 4),
            Fraction(1, 4),
            Fraction(1, 2),
        ]
        assert enumerate_inverse_cdf([0.25, 0.5, 0.5], grid, strict=False) == [
            Fraction(1, 2),
            Fraction(1, 4),
            Fraction(1, 4),
        ]


COMBINES = ("add", "divide", "multiply", "ratio")


class TestAgainstEnumeration:
    """60 random cases for each recipe, 2,880 in all: V <= 4, at most 8 words, every kind of IEEE trouble
    among them."""

    @pytest.mark.parametrize("tie", ["first", "last", "highest"])
    @pytest.mark.parametrize("fmt", [FP16, BF16, FP32, FP64], ids=lambda f: f.name)
    @pytest.mark.parametrize("combine", COMBINES)
    def test_law_is_the_enumeration(self, combine, fmt, tie):
        rng = np.random.default_rng([*combine.encode(), fmt.precision, len(tie)])
        for _ in range(60):
            vocab = int(rng.integers(1, 5))
            atoms = random_atoms(rng, combine, fmt, int(rng.integers(0, 4)))
            weights = random_weights(rng, combine, fmt, vocab)
            law = argmax_law(weights, atoms, combine=combine, score=fmt, tie=tie)
            assert_is(law, exactly(weights, atoms, combine, fmt.name, tie))
            assert law.guarantee is Guarantee.EXACT

    @pytest.mark.parametrize("fmt", [FP16, BF16, FP32], ids=lambda f: f.name)
    def test_weighted_atoms_with_many_bits(self, fmt):
        rng = np.random.default_rng(fmt.precision)
        for combine in ("add", "divide"):
            cuts = np.sort(rng.choice(np.arange(1, 1 << 20), 4, replace=False))
            counts = np.diff([0, *cuts, 1 << 20])
            atoms = Atoms.of(fmt.round(np.sort(abs(rng.normal(size=5))) + np.arange(5)), counts, 20)
            weights = fmt.round(abs(rng.normal(size=4)))
            law = argmax_law(weights, atoms, combine=combine, score=fmt)
            assert_is(law, exactly(weights, atoms, combine, fmt.name))

    CASES = (
        # weights, atoms, combine: what each is there for
        ([1.0, 0.0], [0.0, 1.0], "divide"),  # 0/0 is NaN and wins; 1/0 is infinite
        ([0.5, 0.5, 0.0], [0.0, 0.0, 1.0, INF], "divide"),  # E = inf: score 0, as high as that of a zero weight
        ([0.0, 0.0, 0.0], [1.0, 2.0], "divide"),  # all scores zero: the first index
        ([0.0, 0.0], [0.0, INF], "divide"),  # NaN or 0
        ([0.0, -INF], [INF, 0.0], "add"),  # -inf + inf is NaN and wins
        ([0.0, 1.0, -INF], [-INF, 0.0], "add"),  # u = 0: every score may be -inf
        (
            [-INF, 0.0],
            [-INF, -INF, -INF, 5.0],
            "add",
        ),  # mostly all -inf: the first index, which cannot else be drawn
        ([2.0, 2.0, 2.0, 2.0], [0.0, 1.0], "add"),  # equal logits
        ([65504.0, 65504.0, 60000.0], [16.0, 32.0, 0.0, -32.0], "add"),  # float16 overflows: ties at infinity
        ([1.0, 2.0, 3.0], [0.0], "add"),  # one atom: no randomness
        ([1.0], [0.0, INF], "divide"),  # one token
        ([-INF, -3.0, -INF], [0.0, -INF], "add"),  # one token alive
        ([1.0, 0.0], [0.0, 1.0], "multiply"),  # every product zero, or only the second
        ([0.0, 1.0], [1.0, INF], "multiply"),  # 0 inf is NaN and wins; 1 inf is infinite
        ([0.0, 0.5, 0.5], [INF, INF, 0.0, 2.0], "multiply"),
        ([60000.0, 65504.0], [1.0, 2.0], "multiply"),  # float16 overflows: ties at infinity
        ([1.0, 0.0], [0.0, 1.0], "ratio"),  # 0/0 is NaN and wins; 1/0 is infinite and loses
        ([0.0, 0.0], [1.0, 2.0], "ratio"),  # every ratio infinite: the first index
        ([0.0, 0.5, 0.5], [0.0, INF, 1.0, 1.0], "ratio"),  # inf / w = inf, as high as that of a zero weight
        ([2.0**-14, 1.0], [8.0, 16.0], "ratio"),  # float16 overflows: inf loses
    )

    @pytest.mark.parametrize("tie", ["first", "last"])
    @pytest.mark.parametrize("fmt", [FP16, BF16, FP32], ids=lambda f: f.name)
    @pytest.mark.parametrize(("weights", "values", "combine"), CASES)
    def test_ieee_corners(self, weights, values, combine, fmt, tie):
        atoms = Atoms.of(np.array(values), 1, round(math.log2(len(values))))
        w = fmt.round(np.array(weights))
        assert_is(
            argmax_law(w, atoms, combine=combine, score=fmt, tie=tie), exactly(w, atoms, combine, fmt.name, tie)
        )

    @pytest.mark.parametrize("fmt", ["float16", "bfloat16", "float32", "float64"])
    @pytest.mark.parametrize("combine", COMBINES)
    def test_law_is_what_torch_picks(self, combine, fmt):
        """torch's own tensors, argmax and argmin over all words of three tokens: 25 random cases a recipe."""
        dtype, score = (
            getattr(torch, fmt),
            {"float16": FP16, "bfloat16": BF16, "float32": FP32, "float64": FP64}[fmt],
        )
        rng = np.random.default_rng([*combine.encode(), *fmt.encode()])
        for _ in range(25):
            atoms, weights = random_atoms(rng, combine, score, 2), random_weights(rng, combine, score, 3)
            words = np.repeat(atoms.values, atoms.counts)
            noise = torch.tensor(words[np.indices((4, 4, 4)).reshape(3, -1).T]).to(dtype)
            w = torch.tensor(weights).to(dtype)
            picked = torch_score(w, noise, combine).argmax(dim=-1)
            if combine == "ratio":
                picked = (noise / w).argmin(dim=-1)
            expected = np.bincount(picked.numpy(), minlength=3) / 64
            assert_is(argmax_law(weights, atoms, combine=combine, score=score), expected)

    def test_the_largest_float32_is_not_infinity(self):
        """A finite score of 3.4e38 loses to +inf, and +inf loses to NaN."""
        atoms = Atoms.of(np.array([0.0, 2.0**-20]), 1, 1)
        for weights in (
            [FP32.max * 2.0**-20, 1.0],
            [1.0, FP32.max * 2.0**-20],
            [0.0, FP32.max * 2.0**-20, 1.0],
        ):
            w = np.array(weights)
            assert_is(argmax_law(w, atoms, combine="divide", score=FP32), exactly(w, atoms, "divide", "fp32"))


class TestBadInput:
    ATOMS = Atoms.of(np.array([0.0, 1.0]), 1, 1)

    @pytest.mark.parametrize(
        "weights",
        [[], [[0.0, 1.0]], 0.0, [np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf], [0.0, np.nan, -np.inf]],
    )
    def test_weights(self, weights):
        with pytest.raises(InputError, match="weights of shape"):
            argmax_law(np.array(weights), self.ATOMS, combine="add", score=FP32)

    def test_negative_probability(self):
        with pytest.raises(InputError, match="weights of shape"):
            argmax_law(np.array([0.5, -0.5]), self.ATOMS, combine="divide", score=FP32)

    @pytest.mark.parametrize("combine", ["divide", "multiply", "ratio"])
    def test_negative_exponential(self, combine):
        with pytest.raises(InputError, match="negative atom"):
            argmax_law(np.array([0.5, 0.5]), Atoms.of(np.array([-1.0, 1.0]), 1, 1), combine=combine, score=FP32)

    def test_unknown_combine(self):
        with pytest.raises(InputError, match="add, divide, multiply or ratio"):
            argmax_law(np.array([0.5, 0.5]), self.ATOMS, combine="subtract", score=FP32)

    @pytest.mark.parametrize("score", [FP16, BF16, FP32], ids=lambda f: f.name)
    def test_a_weight_that_float32_does_not_hold(self, score):
        with pytest.raises(InputError, match="use float64"):
            argmax_law(np.array([1e39, 0.0]), self.ATOMS, combine="add", score=score)

    @pytest.mark.parametrize("tie", ["", "second", None])
    def test_tie(self, tie):
        with pytest.raises(InputError, match="first, last or highest"):
            argmax_law(np.array([0.5, 0.5]), self.ATOMS, combine="add", score=FP32, tie=tie)

    @pytest.mark.parametrize("tolerance", [0.0, -1.0, 1.0, np.nan])
    def test_tolerance(self, tolerance):
        with pytest.raises(InputError, match="mass below 1"):
            argmax_law(np.array([0.5, 0.5]), self.ATOMS, combine="add", score=FP32, tolerance=tolerance)

    def test_a_race_too_long(self, monkeypatch):
        """Said before it starts, with the remedy."""
        monkeypatch.setattr(argmax, "_EVENTS", 1000)
        with pytest.raises(InputError, match="larger tolerance"):
            argmax_law(np.arange(50) / 64, lattice(10, "add"), combine="add", score=FP32)

    def test_a_vocabulary_too_large(self, monkeypatch):
        monkeypatch.setattr(argmax, "_BYTES", 1 << 16)
        with pytest.raises(InputError, match="part of the vocabulary"):
            argmax_law(np.zeros(1000), self.ATOMS, combine="add", score=FP32)

    def test_a_table_too_large(self, monkeypatch):
        monkeypatch.setattr(argmax, "_BYTES", 1 << 10)
        with pytest.raises(InputError, match="merge atoms"):
            argmax_law(np.zeros(2), lattice(10, "add"), combine="add", score=FP32)


def first_index_if_not_finite(
    weights: np.ndarray, atoms: Atoms, combine: str, name: str
) -> tuple[list[Fraction], list[Fraction]]:
    """(law, P(score is NaN or +inf) of each token) where such a score sends the row to index 0, by
    enumeration."""
    score, law = reference_score(combine, name), [Fraction(0)] * len(weights)
    lost = [Fraction(0)] * len(weights)
    noise = pairs(atoms)
    for k, w in enumerate(weights.tolist()):
        lost[k] = sum((mass for value, mass in noise if not score(w, value) < INF), Fraction(0))
    for drawn in itertools.product(noise, repeat=len(weights)):
        scores = [score(w, value) for w, (value, _) in zip(weights.tolist(), drawn, strict=True)]
        finite = all(s < INF for s in scores)
        law[scores.index(max(scores)) if finite else 0] += math.prod(mass for _, mass in drawn)
    return law, lost


class TestScoresThatAreNotFinite:
    """``softmax(scores).max()``: one NaN or +inf anywhere, and the index is 0."""

    @pytest.mark.parametrize("fmt", [FP16, BF16, FP32], ids=lambda f: f.name)
    @pytest.mark.parametrize("combine", COMBINES)
    def test_is_the_enumeration(self, combine, fmt):
        """40 random cases a recipe; what no finite score can pick has probability 0, to the bit."""
        rng = np.random.default_rng([*combine.encode(), fmt.precision, 7])
        seen = 0
        for _ in range(40):
            atoms = random_atoms(rng, combine, fmt, int(rng.integers(0, 4)))
            weights = random_weights(rng, combine, fmt, int(rng.integers(1, 5)))
            expected, lost = first_index_if_not_finite(weights, atoms, combine, fmt.name)
            law = argmax_law(weights, atoms, combine=combine, score=fmt, nonfinite="first index")
            assert_is(law, np.array([float(p) for p in expected]))
            assert ((law.probs == 0) == (np.array(expected) == 0)).all()
            found = nonfinite_probs(weights, atoms, combine=combine, score=fmt)
            np.testing.assert_array_equal(found, [float(p) for p in lost])
            seen += any(lost)
        assert seen > 2

    def test_is_what_torch_does(self):
        """The softmax and max of torch itself, over all words of three tokens in float16."""
        noise = Atoms.of(np.array([-1.0, 0.0, 2.0, INF]), 1, 2)
        words = torch.tensor(noise.values[np.indices((4, 4, 4)).reshape(3, -1).T]).half()
        for weights in ([0.0, -INF, 1.0], [0.0, 1.0, 65000.0], [-INF, 3.0, 3.0]):
            scores = torch.tensor(weights).half() + words
            picked = torch.softmax(scores.float(), dim=-1).max(dim=-1).indices
            law = argmax_law(np.array(weights), noise, combine="add", score=FP16, nonfinite="first index")
            np.testing.assert_allclose(
                law.probs, np.bincount(picked.numpy(), minlength=3) / 64, rtol=0, atol=1e-15
            )

    @pytest.mark.parametrize(("nonfinite", "tie"), [("first index", "last"), ("loses", "first")])
    def test_bad_options(self, nonfinite, tie):
        with pytest.raises(InputError, match="what a NaN score does"):
            argmax_law(np.zeros(2), few([0.0, 1.0]), combine="add", score=FP32, nonfinite=nonfinite, tie=tie)


FINE_BITS = 18  # 2^18 words: more events of one token than a window of the sweep holds


@cache
def fine_noise(combine: str) -> Atoms:
    """Distinct exponentials, Gumbel values or reciprocals in float32, the infinite one among them."""
    u = np.arange(1 << FINE_BITS) / (1 << FINE_BITS)
    with np.errstate(divide="ignore"):
        noise = {"add": -np.log(-np.log(u)), "multiply": -1 / np.log(u)}.get(combine, -np.log(u))
    return Atoms.of(FP32.round(noise + 0.0), 1, FINE_BITS)


class TestNoRowIsSlow:
    """Every row is answered after a bounded amount of work: atoms read and tokens looked at, counted and
    not timed.

    What is spent: an event of one token takes at least 2^-bits of log P, and 48 to 51 nats of it are spent
    before P is below 1e-22, so that 51 2^bits (token, atom) pairs are read once; a window that does not fit
    is read again, as is its last half. Allowed are 4 times as many, and for the windows 3,000 looks at
    every token, with 64 more in each segment. A sweep that never ends cannot be counted: after ten minutes
    the run is ended with a traceback.
    """

    LIMIT = 4 * 51 * (1 << FINE_BITS)

    @pytest.fixture(autouse=True)
    def _backstop(self) -> Iterator[None]:
        faulthandler.dump_traceback_later(600, exit=True)
        yield
        faulthandler.cancel_dump_traceback_later()

    def work(self, weights: np.ndarray, combine: str, score, monkeypatch_context) -> int:
        """What the sweeps of one law count, and a check that the law is one."""
        done = []

        def counted(*arguments):
            left, *work = sweep(*arguments)
            done.append(work)
            return left, *work

        sweep = _sweep.sweep
        with monkeypatch_context() as patch:
            patch.setattr(_sweep, "sweep", counted)
            law = argmax_law(weights, fine_noise(combine), combine=combine, score=score)
        assert -1e-9 <= 1 - law.probs.sum() <= law.vocab * law.error + 1e-9
        assert law.error <= 1.1e-10
        windows = 3000 + 64 * len(done)
        return sum(atoms + tokens for atoms, tokens in done) - windows * len(weights)

    @settings(max_examples=25)
    @given(
        st.sampled_from(COMBINES),
        st.sampled_from([FP16, BF16, FP32, FP64]),
        st.integers(1, 1000),
        st.lists(
            st.floats(-FP32.max, FP32.max, width=32) | st.floats(-1100, 50) | st.just(-INF),
            min_size=1,
            max_size=6,
        ),
        st.floats(0, 10),
        st.booleans(),
    )
    def test_any_row(self, combine, score, vocab, levels, spread, alike):
        """Up to six levels anywhere in float32, alone or as crowds of equal or of different tokens."""
        rng = np.random.default_rng(vocab)
        levels = np.array(levels if max(levels) > -INF else [*levels, 0.0])
        row = np.resize(levels, max(vocab, len(levels)))
        if not alike:
            row = row + spread * rng.normal(size=len(row))
        if combine != "add":
            with np.errstate(under="ignore", over="ignore"):
                row = np.exp2(np.clip(row, -INF, 127.9))
        row = score.round(FP32.round(row))
        row = np.where(row > score.max, score.max, row)
        assume(np.isfinite(row.max()))
        assert self.work(row, combine, score, pytest.MonkeyPatch.context) <= self.LIMIT

    @pytest.mark.parametrize("combine", COMBINES)
    @pytest.mark.parametrize("gap", [700.0, 711.0, 720.0, 800.0, 999.0, 1000.0, 2000.0, 1e10, 3e38])
    def test_far_below(self, gap, combine):
        """Beyond 709 nats no exponential of the head reaches the tokens: the thresholds are at the end of
        the floats, and the atoms of four tokens are more than one window holds."""
        row = np.array([0.0, -1.0, -gap, -gap - 1, -gap - 2.25, -gap - 4])
        row = row if combine == "add" else FP32.round(np.ldexp(1.0, np.maximum(row / 8, -149).astype(int)))
        assert self.work(row, combine, FP32, pytest.MonkeyPatch.context) <= self.LIMIT

    @pytest.mark.parametrize(
        "row", [[1e38, 0.0, -1.0], [1e38, 1e38, 0.0, -1.0], [3e38, -3e38], [-3e38, -2e38], [1e10, 0.0, 1.0]]
    )
    @pytest.mark.parametrize("score", [FP32, FP64], ids=lambda f: f.name)
    def test_a_head_that_no_noise_moves(self, row, score):
        assert self.work(score.round(np.array(row)), "add", score, pytest.MonkeyPatch.context) <= self.LIMIT

    @pytest.mark.parametrize("combine", ["divide", "multiply", "ratio"])
    @pytest.mark.parametrize(
        "row", [[2.0**-149, 0.0], [1.0, 2.0**-149], [0.0, 0.0], [3e38, 2.0**-149], [3e38, 1.0]]
    )
    def test_subnormal_zero_and_huge_weights(self, row, combine):
        assert self.work(np.array(row), combine, FP32, pytest.MonkeyPatch.context) <= self.LIMIT

    def test_a_thousand_weights_that_absorb_the_noise(self):
        """Each has one score, or two where u = 0, whatever the number of atoms, which are not read one by
        one."""
        weights = FP32.round(np.random.default_rng(0).uniform(-3e38, 3e38, 1000))
        assert self.work(weights, "add", FP32, pytest.MonkeyPatch.context) < 200 * len(weights)

    def test_the_law_below_is_the_law_above(self):
        """A head exhausted, the rest race as if it were absent: the part of mass 2^-bits, where u = 0 took
        the head."""
        gap, noise = 800.0, fine_noise("add")
        rest = np.array([0.0, -1.0, -3.0])
        law = argmax_law(
            FP32.round(np.concatenate([[0.0], rest - gap])), noise, combine="add", score=FP32, relative=1e-9
        )
        alone = argmax_law(FP32.round(rest - gap), noise, combine="add", score=FP32).probs
        np.testing.assert_allclose(law.probs[1:], alone * 2.0**-FINE_BITS, rtol=1e-6)

    @given(
        st.floats(allow_nan=False) | st.sampled_from([-INF, INF, 0.0, 5e-324, -5e-324]),
        st.floats(allow_nan=False) | st.sampled_from([-INF, INF, 0.0, 5e-324, -5e-324]),
    )
    def test_64_halvings_leave_one_float(self, a, b):
        assume(a != b)
        low, high = min(a, b), max(a, b)
        assert _sweep.between(low, high, 0) == low
        assert _sweep.between(low, high, 64) == np.nextafter(high, -INF)
        path = [_sweep.between(low, high, k) for k in range(65)]
        assert path == sorted(path)


@cache
def torch_gumbel() -> Atoms:
    """-log(-log(torch.rand)) in float32, as computed here."""
    return (
        TORCH_RAND["fp32"]
        .atoms()
        .push(lambda u: -torch.log(-torch.log(torch.from_numpy(u).float())).double().numpy())
    )


@pytest.mark.parametrize("row", [[0.0, -1.0, -800.0], [0.0, -1000.0], [1e38, 0.0]])
def test_torch_float32_rows_that_took_for_ever(row):
    """The table of torch's own float32 Gumbel noise, 2^24 words."""
    law = argmax_law(FP32.round(np.array(row)), torch_gumbel(), combine="add", score=FP32)
    assert law.error <= 1.1e-10
    assert abs(law.probs.sum() - 1) <= 1e-9
    assert 0 < law.probs[-1] < 2.0**-23  # where u = 0 took the others


EIGHTHS = st.integers(-32, 32).map(lambda k: k / 8)
WORDS = st.integers(1, 4).flatmap(lambda bits: st.lists(EIGHTHS, min_size=1 << bits, max_size=1 << bits))
LOGITS = st.lists(st.one_of(EIGHTHS, st.just(-INF)), min_size=1, max_size=8).filter(lambda w: max(w) > -INF)


def few(words: list[float]) -> Atoms:
    return Atoms.of(np.array(words), 1, round(math.log2(len(words))))


def added(weights, atoms: Atoms, **more) -> Law:
    """The law of a sum whose every score is exact in float32."""
    return argmax_law(np.array(weights, dtype=np.float64), atoms, combine="add", score=FP32, **more)


class TestProperties:
    """Exact statements: sums of eighths are exact in float32, so no rounding blurs them."""

    @given(LOGITS, WORDS)
    def test_sums_to_one_and_no_dead_token_is_drawn(self, logits, words):
        law = added(logits, few(words))
        assert abs(law.probs.sum() - 1) <= 1e-12
        assert (law.probs >= 0).all()
        assert (law.probs[np.isneginf(logits)] == 0).all()

    @given(LOGITS, WORDS, st.integers(-1000, 1000))
    def test_shift(self, logits, words, shift):
        law, moved = added(logits, few(words)), added(np.array(logits) + shift, few(words))
        np.testing.assert_allclose(moved.probs, law.probs, rtol=0, atol=1e-13)

    @given(LOGITS, WORDS, st.integers(-20, 20))
    def test_scale_of_a_race(self, logits, words, power):
        """Probabilities times a power of two: the same race."""
        w, atoms = np.exp2(np.array(logits)), few([abs(x) for x in words])
        law = argmax_law(FP32.round(w), atoms, combine="divide", score=FP32)
        scaled = argmax_law(np.ldexp(FP32.round(w), power), atoms, combine="divide", score=FP32)
        np.testing.assert_allclose(scaled.probs, law.probs, rtol=0, atol=1e-13)

    @given(LOGITS, WORDS)
    def test_last_wins_is_first_wins_from_the_other_end(self, logits, words):
        last = added(logits, few(words), tie="last")
        np.testing.assert_array_equal(last.probs, added(logits[::-1], few(words)).probs[::-1])

    @given(st.data(), st.integers(2, 7), st.lists(st.integers(-4, 4), min_size=8, max_size=8))
    def test_permutation_where_nothing_ties(self, data, vocab, words):
        """Integer noise and distinct fractions: no two tokens can tie, so the order of tokens means nothing."""
        logits = np.array([data.draw(st.integers(-2, 2)) + i / 8 for i in range(vocab)])
        order = np.array(data.draw(st.permutations(range(vocab))))
        law = added(logits, few(words))
        np.testing.assert_allclose(added(logits[order], few(words)).probs, law.probs[order], rtol=0, atol=1e-13)
        np.testing.assert_allclose(added(logits, few(words), tie="last").probs, law.probs, rtol=0, atol=1e-13)

    @given(st.data(), st.integers(1, 6), st.lists(st.integers(-4, 4), min_size=8, max_size=8))
    def test_a_duplicated_token(self, data, vocab, words):
        """The pair swaps with the tie rule, the first has the ties, the others see one rule like the other."""
        logits = np.array([data.draw(st.integers(-2, 2)) + i / 8 for i in range(vocab)])
        at = data.draw(st.integers(0, vocab - 1))
        twice = np.insert(logits, at, logits[at])
        first, last = added(twice, few(words)).probs, added(twice, few(words), tie="last").probs
        swapped = last.copy()
        swapped[[at, at + 1]] = last[[at + 1, at]]
        np.testing.assert_allclose(first, swapped, rtol=0, atol=1e-13)
        assert first[at] >= first[at + 1] - 1e-13
        once = added(logits, few(words)).probs
        assert first[at] + first[at + 1] >= once[at] - 1e-13
        assert (np.delete(first, [at, at + 1]) <= np.delete(once, at) + 1e-13).all()

    @given(LOGITS, WORDS, st.data())
    def test_restriction(self, logits, words, data):
        """-inf, or a weight that no noise can lift to the head, is as good as absent."""
        keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
        full = np.array(logits)
        assume((full[keep] > -INF).any())
        small = added(full[keep], few(words)).probs
        for lost in (-INF, -1000.0):
            law = added(np.where(keep, full, lost), few(words)).probs
            np.testing.assert_allclose(law[keep], small, rtol=0, atol=1e-13)
            assert (law[~keep] == 0).all()

    @given(LOGITS, WORDS, st.integers(0, 7))
    def test_extreme_gap(self, logits, words, at):
        w = np.array(logits)
        w[at % len(w)] = 1000.0
        law = added(w, few(words))
        assert law.probs[at % len(w)] == 1.0
        assert len(law.unreachable) == len(w) - 1

    @given(LOGITS, WORDS)
    def test_only_the_ties_separate_equal_tokens(self, logits, words):
        """A row that is a palindrome: one rule is the other, mirrored."""
        w = [*logits, *logits[::-1]]
        first, last = added(w, few(words)).probs, added(w, few(words), tie="last").probs
        np.testing.assert_allclose(first, last[::-1], rtol=0, atol=1e-13)


def lattice(bits: int, combine: str) -> Atoms:
    """The noise of a sampler with u = k / 2^bits, cast to float32: -log u, or -log(-log u)."""
    with np.errstate(divide="ignore"):
        exponential = -np.log(np.arange(1 << bits) / (1 << bits)) + 0.0
        values = exponential if combine == "divide" else -np.log(exponential)
    return Atoms.of(FP32.round(values), 1, bits)


class TestToleranceAndSegments:
    """What is left out is stated, and how the work is cut changes nothing."""

    @staticmethod
    def rows(combine: str) -> list[np.ndarray]:
        rng = np.random.default_rng(5)
        logits = [
            rng.normal(0, 3, 40),
            -np.log(np.arange(1.0, 61)),
            np.zeros(25),
            np.array([8.0, *np.zeros(50)]),
        ]
        logits.append(np.array([-INF, 0.0, 0.0, *rng.normal(0, 5, 20), -INF]))
        return [
            FP32.round(l if combine == "add" else np.exp(l - l.max()) / np.exp(l - l.max()).sum())
            for l in logits
        ]

    @pytest.mark.parametrize("fmt", [BF16, FP32], ids=lambda f: f.name)
    @pytest.mark.parametrize("combine", ["add", "divide"])
    def test_a_large_tolerance_errs_by_no_more_than_it_says(self, combine, fmt):
        """And never above the true probability: the mass left out is missing, not misplaced."""
        atoms, missing = lattice(12, combine), []
        for w in map(fmt.round, self.rows(combine)):
            exact = argmax_law(w, atoms, combine=combine, score=fmt)
            for tolerance in (1e-9, 1e-5, 1e-2, 0.1):
                coarse = argmax_law(w, atoms, combine=combine, score=fmt, tolerance=tolerance, relative=INF)
                assert coarse.error <= tolerance + 2e-12
                assert (coarse.probs <= exact.probs + ULP).all()
                missing.append(1 - coarse.probs.sum())
                assert abs(coarse.probs - exact.probs).max() <= coarse.error + ULP
                seen = exact.probs > 1e-15
                assert (abs(coarse.probs[seen] / exact.probs[seen] - 1) <= coarse.relative + 1e-7).all()
        assert max(missing) > 1e-3

    def test_a_low_ceiling_does_not_make_every_atom_an_event(self):
        """Noise that ends at 4 (u < 0.98) among 3000 unequal tokens: the winners are decided long before
        the last atom."""
        full = lattice(14, "add")
        kept = full.values < 4.0
        counts = full.counts[kept].copy()
        counts[0] += full.counts[~kept].sum()
        atoms, w = Atoms(full.values[kept], counts, 14), FP32.round(np.random.default_rng(0).normal(0, 1, 3000))
        race = argmax._Race.of(w, argmax._Table.of(atoms, "add", FP32), 1e-10, 1e-7)
        assert race.events < 0.2 * len(w) * len(atoms.values)
        law = argmax_law(w, atoms, combine="add", score=FP32)
        assert law.probs.sum() == pytest.approx(1, abs=1e-9)
        assert law.relative < 1e-6

    @pytest.mark.parametrize("fmt", [BF16, FP32, FP64], ids=lambda f: f.name)
    @pytest.mark.parametrize("combine", ["add", "divide"])
    @pytest.mark.parametrize("segments", [2, 7])
    def test_the_number_of_segments_does_not_matter(self, monkeypatch, combine, fmt, segments):
        """2^18 atoms: some millions of events; with two segments and with many."""
        atoms, rows = lattice(18, combine), [fmt.round(w) for w in self.rows(combine)[:3:2]]
        to_the_end = {"combine": combine, "score": fmt, "tolerance": 1e-15, "relative": 1e-13}
        whole = [argmax_law(w, atoms, **to_the_end) for w in rows]
        monkeypatch.setattr(argmax, "_SEGMENTS", segments)
        for w, law in zip(rows, whole, strict=True):
            np.testing.assert_allclose(
                argmax_law(w, atoms, **to_the_end).probs, law.probs, rtol=1e-11, atol=1e-27
            )

    def test_rows_of_a_batch_are_the_rows(self):
        rows = np.stack([FP32.round(np.random.default_rng(k).normal(0, 3, 30)) for k in (0, 1, 0, 2, 1)])
        laws = argmax_laws(rows, lattice(10, "add"), combine="add", score=FP32)
        assert laws[0] is laws[2]  # equal rows are computed once
        for row, law in zip(rows, laws, strict=True):
            np.testing.assert_array_equal(law.probs, added(row, lattice(10, "add")).probs)

    def test_a_race_is_a_quotient(self):
        w = self.rows("divide")[0]
        law = argmax_law(w, lattice(9, "divide"), combine="divide", score=FP32, tie="last")
        np.testing.assert_array_equal(
            race_law(w, lattice(9, "divide"), score=FP32, tie="last").probs, law.probs
        )

    def test_progress_rises_to_one(self):
        seen: list[float] = []
        added(self.rows("add")[0], lattice(18, "add"), progress=seen.append)
        assert len(seen) > 1
        assert seen == sorted(seen)
        assert seen[-1] == 1.0


class TestOrderOfEvents:
    """The sorts of the sweep against NumPy's. Each seed is fixed: nothing here fails by chance."""

    @staticmethod
    def in_buckets(key: np.ndarray, inverse: bool) -> tuple[bool, np.ndarray, np.ndarray]:
        raw = np.stack([key, np.linspace(0, 1, len(key)), np.arange(len(key)) % 5.0], axis=1)
        ordered, room = np.empty_like(raw), np.zeros(len(key) + 1, np.int32)
        low, high = _sweep.span(key, inverse, INF, 0.0 if inverse else -INF)
        done = _sweep.bucket_sort(
            len(key), inverse, low, high, np.empty(len(key), np.int32), room, raw, ordered
        )
        return done, ordered, raw[np.argsort(-key, kind="stable")]

    @pytest.mark.parametrize("inverse", [False, True])
    @pytest.mark.parametrize("distinct", [1, 7, 1000, 1 << 30])
    def test_a_bucket_sort_is_a_stable_sort(self, inverse, distinct):
        """Keys spread evenly over what is linear in x, all equal, in crowds or nearly all distinct."""
        x = (np.random.default_rng(distinct).integers(0, distinct, 5000) + 1.0) / distinct
        done, ordered, expected = self.in_buckets(1 / x if inverse else -x, inverse)
        assert done
        np.testing.assert_array_equal(ordered, expected)

    def test_a_bucket_of_too_many_is_left_to_numpy(self):
        """One key far away puts the others into one bucket."""
        key = np.append(np.random.default_rng(0).random(5000), -1e100)
        done, *_ = self.in_buckets(key, inverse=False)
        assert not done

    @pytest.mark.parametrize("bits", [4, 9, 10, 17, 20])
    def test_tokens(self, bits):
        """By insertion and by one, two and three digits."""
        size = min(1 << (bits - 1), 3000)
        order = np.random.default_rng(bits).permutation(1 << bits)[:size]
        tokens = order.astype(np.int32)
        count = np.full(_sweep.DIGITS + 1, 7, np.int32)
        _sweep.sort_tokens.py_func(size, tokens, tokens.copy(), count)
        np.testing.assert_array_equal(tokens, np.sort(order))

    def test_a_crowd_is_the_same_sorted_or_found_among_all(self):
        """60 equal tokens of each of three classes, shuffled, which tie at every score: alone, where they are
        most of the vocabulary, and among 2,000 tokens that cannot be drawn, where they are sorted."""
        order = np.random.default_rng(4).permutation(180)
        alone = np.repeat([0.0, 1.0, 2.0], 60)[order]
        among = np.full(2180, -INF)
        among[::12][:180] = alone
        noise = Atoms.of(np.arange(64.0), 1, 6)
        laws = [argmax_law(w, noise, combine="add", score=FP32) for w in (alone, among)]
        np.testing.assert_array_equal(laws[1].probs[::12][:180], laws[0].probs)
        assert laws[0].probs.min() > 0


class TestCompiling:
    """The loops are compiled beside the body of ``with compiling(...)``."""

    def test_both_go_on_at_once(self, monkeypatch):
        begun, made = threading.Event(), threading.Event()

        def compile_(score):
            begun.set()
            assert made.wait(60)

        monkeypatch.setattr(argmax, "_compile", compile_)
        with argmax.compiling(FP32):
            assert begun.wait(60)
            made.set()

    def test_an_error_of_either_comes_out(self, monkeypatch):
        with pytest.raises(KeyError), argmax.compiling(FP32):
            raise KeyError
        monkeypatch.setattr(argmax, "_compile", lambda score: 1 // 0)
        with pytest.raises(ZeroDivisionError), argmax.compiling(FP32):
            pass


class TestRelativeError:
    """Law.relative: tokens above 1e-15 to a part in a million and far better, against fractions."""

    @pytest.mark.parametrize("combine", ["add", "divide"])
    def test_rare_tokens_against_fractions(self, combine):
        """Weighted atoms of 20 bits; probabilities from 1 down to 1e-17, the rare ones by rare atoms."""
        counts = np.array([1, 3, 40, 1000, (1 << 20) - 1044])
        values = (
            np.array([4.0, 3.0, 2.0, 1.0, 0.5]) if combine == "add" else np.array([0.25, 0.5, 1.0, 2.0, 8.0])
        )
        atoms = Atoms.of(values, counts, 20)
        weights = np.array([2.75, 1.5, 0.25, 0.0]) if combine == "add" else np.array([1.0, 0.2, 0.06, 0.05])
        law, expected = (
            argmax_law(w := FP32.round(weights), atoms, combine=combine, score=FP32),
            exactly(w, atoms, combine, "fp32"),
        )
        seen = expected > 1e-15
        assert law.relative < 1e-6
        np.testing.assert_allclose(law.probs[seen], expected[seen], rtol=law.relative)
        assert 0 < expected[seen].min() < 1e-4

    def test_what_is_left_by_many_halvings_stays_above_zero(self):
        """Two tokens that win only where seven others draw u = 0 in bfloat16: 6e-20 each, right to a part in 10,000
        and not below 0, though the mass before them was halved some sixty times."""
        logits = np.array([-4.0, -1.5, 0.0, -2.0, -3.0, -5.0, -6.0, -19.0, -19.0])
        weights = BF16.round(logits - np.logaddexp.reduce(logits))
        atoms = gumbel_max("bf16").noise_atoms()
        law = argmax_law(weights, atoms, combine="add", score=BF16)
        expected = by_scores(weights, atoms, "add", "first", "bf16")
        assert 1e-20 < expected[-1] < expected[-2] < 1e-19
        np.testing.assert_allclose(law.probs, expected, rtol=1e-4)

    @pytest.mark.parametrize("tie", ["first", "last"])
    @pytest.mark.parametrize("combine", ["add", "divide"])
    def test_classes_of_equal_tokens_among_others(self, combine, tie):
        """Two classes of equal tokens, interleaved, and single ones, ties between all of them: the sum over
        scores, token by token, in fractions."""
        rng, atoms = np.random.default_rng(8), lattice(9, combine)
        choices = FP32.round(
            np.array([0.0, -2.0, 1.0, 3.0]) if combine == "add" else np.array([0.02, 0.003, 0.05, 0.4])
        )
        w = choices[np.concatenate([rng.permutation([0] * 12 + [1] * 12), [2, 3]])]
        law = argmax_law(w, atoms, combine=combine, score=FP32, tie=tie)
        expected = by_scores(w, atoms, combine, tie)
        np.testing.assert_allclose(law.probs[expected > 1e-15], expected[expected > 1e-15], rtol=2e-12)
        same = law.probs[w == choices[0]]
        assert same.max() / same.min() > 1 + 1e-6  # the order of equal tokens matters, and is seen

    @pytest.mark.parametrize("tie", ["first", "last"])
    @pytest.mark.parametrize("name", ["bf16", "fp16"])
    def test_a_crowd_at_every_score(self, name, tie):
        """Two hundred tokens of three weights share half-precision scores of odds from 2^-33 to more than a half:
        scores at which the order of the tokens is left out, those whose tokens are visited once for eight, and
        those that leave little. Against the sum over scores, token by token, in mpmath."""
        fmt, bits = FORMATS[name], 40
        rng = np.random.default_rng(11)
        w = rng.choice([1.0, 2.0, 4.0], 200)
        values = np.geomspace(2.0**-6, 8.0, 60)
        counts = np.geomspace(2.0**7, 2.0**37, 60).astype(np.int64)
        counts[-1] += (1 << bits) - counts.sum()
        atoms = Atoms.of(fmt.round(values), counts, bits)
        law = argmax_law(w, atoms, combine="divide", score=fmt, tie=tie)
        expected = by_scores(w, atoms, "divide", tie, name)
        assert law.relative < 1e-11
        np.testing.assert_allclose(law.probs, expected, rtol=law.relative)
        same = law.probs[w == 1.0]
        assert same.max() / same.min() > 1 + 1e-3

    def test_many_equal_tokens_by_moments(self):
        """20,000 equal tokens, 2^16 atoms: the k-th has sum_s o P (1 - o)^k; here with mpmath for a few of
        them."""
        size, bits = 20_000, 16
        values = np.arange(1 << bits, dtype=np.float64) + 1.0  # E = 1, 2, ...: one score an atom
        law = argmax_law(np.ones(size), Atoms.of(values, 1, bits), combine="divide", score=FP32)
        with mpmath.workdps(30):
            total = mpmath.mpf(1 << bits)
            for k in (0, 1, 9_999, 19_999):
                expected = mpmath.fsum(
                    (1 - j / total) ** (size - 1 - k) * (1 - (j + 1) / total) ** k / total for j in range(400)
                )
                assert law.probs[k] == pytest.approx(float(expected), rel=2e-12)
        assert law.probs[0] / law.probs[-1] > 1.1

    def test_float64_scores_of_float32_noise(self):
        """The cast after the draw: float64 scores keep every bit of the logits, and still end at the
        noise's ceiling."""
        rng, atoms = np.random.default_rng(3), lattice(4, "add")
        w = np.array([0.0, 1e-9, *rng.normal(0, 1, 2)])
        law = argmax_law(w, atoms, combine="add", score=FP64)
        score = cache(numpy_score("add", np.float64))
        expected = enumerate_argmax(w.tolist(), pairs(atoms), score)
        np.testing.assert_allclose(law.probs, [float(p) for p in expected], rtol=2e-12)
        # 1e-9 breaks every tie, which float32 would leave to the index
        assert law.probs[1] > law.probs[0] * 1.01


def by_scores(w: np.ndarray, atoms: Atoms, combine: str, tie: str, name: str = "fp32") -> np.ndarray:
    """P(i) = sum_s m_i(s) prod_{j before i} F_j(s-) prod_{j after i} F_j(s) with logarithms in mpmath, one
    row at a time."""
    order = range(len(w)) if tie == "first" else range(len(w))[::-1]
    score, total = reference_score(combine, name), 1 << atoms.bits
    ladders = {
        x: sorted((score(x, v), c) for v, c in zip(atoms.values.tolist(), atoms.counts.tolist(), strict=True))
        for x in set(w.tolist())
    }
    keys = sorted({s for ladder in ladders.values() for s, _ in ladder})
    below, upto = {}, {}
    with mpmath.workdps(30):
        for x, ladder in ladders.items():
            at, cum = 0, 0
            for s in keys:
                below[x, s] = mpmath.mpf(cum) / total
                while at < len(ladder) and ladder[at][0] == s:
                    cum, at = cum + ladder[at][1], at + 1
                upto[x, s] = mpmath.mpf(cum) / total
        out = [mpmath.mpf(0)] * len(w)
        for s in keys:
            after = mpmath.mpf(1)
            for i in order:
                after *= upto[w[i], s]
            if not after:
                continue
            product = after
            for i in order:  # moving token i from "after" to "before"
                product /= upto[w[i], s]
                out[i] += (upto[w[i], s] - below[w[i], s]) * product
                product *= below[w[i], s]
                if not product:
                    break
        return np.array([float(p) for p in out])


class TestRealFloat32Table:
    """The 2^24 atoms of torch.rand, a minute of the whole suite's budget at most."""

    @staticmethod
    @cache
    def race() -> Atoms:
        return (
            TORCH_RAND["fp32"].atoms().push(lambda u: -torch.log(torch.from_numpy(u).float()).double().numpy())
        )

    def test_a_tail_below_a_head_follows_the_closed_form(self):
        """A head and N tokens of probability p each, u = k / 2^24, s = 2^-24, y = s / p.

        The least of N exponentials is j s with probability e^{-N (j-1) s} - e^{-N j s}, the head's is above
        with e^{-j s p_0 / p}: together P(tail) = (e^{N s} - 1) / (e^y - 1), and s more, for the head's u =
        0."""
        gap, count = 14.0, 2000
        probs = np.full(count + 1, math.exp(-gap))
        probs[0] = 1.0
        weights = FP32.round(probs / probs.sum())
        law = argmax_law(weights, self.race(), combine="divide", score=FP32)
        spacing = 2.0**-24
        assert spacing / weights[1] == pytest.approx(0.072, abs=1e-3)
        expected = math.expm1(count * spacing) / math.expm1(spacing / weights[1]) + spacing
        assert law.probs[1:].sum() == pytest.approx(expected, rel=1e-6, abs=law.error)
        assert law.error < 1e-11
        assert law.probs[1:].sum() < 0.97 * weights[1:].sum()  # what float32 does to a tail at gap 14

    def test_rare_tokens_follow_the_closed_form(self):
        """A token at gap g as in the closed form; and when the head has u = 0, with probability 2^-24,
        another is drawn."""
        weights = FP32.round(np.array([0.999, 0.0006, 0.0003, 0.0001]))
        law = argmax_law(weights, self.race(), combine="divide", score=FP32)
        y, share = 2.0**-24 / weights[1:], weights[1:] / weights[1:].sum()
        np.testing.assert_allclose(law.probs[1:], weights[1:] * y / np.expm1(y) + 2.0**-24 * share, rtol=1e-5)


def at_or_above(key: np.float32, weights: np.ndarray, noise: np.ndarray, *, strictly: bool) -> np.ndarray:
    """How many of the ascending ``noise`` give a float32 sum >= key (> key if ``strictly``), for each
    weight. A sum rounds to a float above the midpoint below it, or to it at the midpoint if its last bit is
    even; long doubles hold them."""
    least = np.nextafter(key, np.float32(np.inf)) if strictly else key
    middle = (np.longdouble(least) + np.longdouble(np.nextafter(least, np.float32(-np.inf)))) / 2
    even = int(least.view(np.int32)) % 2 == 0
    return len(noise) - np.searchsorted(
        noise, middle - weights.astype(np.longdouble), side="left" if even else "right"
    )


@pytest.mark.parametrize("relative", [1e-2, pytest.param(1e-7, marks=pytest.mark.slow)])
def test_a_real_vocabulary_against_mpmath(relative):
    """An ancestral step of Zipf(1) over 50,257 tokens in float32: the sum over a token's own atoms of the
    product of 50,256 distribution functions, for a suppressed token and a rare one.

    The first 100 atoms in 30 digits. They hold the race against the mask; the others, a long and even row,
    the runs in which the mask itself has the word 0, 2^-24 of all: 1e-4 of the first token's probability and
    four fifths of the second's. These in float64, until what is left is below a tenth of the tolerance.
    """
    atoms = torch_gumbel()
    p = 1 / np.arange(1.0, 50_258)
    weights = np.append(np.log(1e-3 * p / p.sum()), math.log1p(-1e-3)).astype(np.float32)
    law = argmax_law(weights.astype(np.float64), atoms, combine="add", score=FP32, relative=relative)
    total = 1 << atoms.bits
    used = np.append(np.cumsum(atoms.counts[::-1])[::-1], 0)  # words whose noise is the k-th value or more
    noise = atoms.values.astype(np.longdouble)
    assert law.relative < 1.1 * relative
    for token in (20_000,) if relative > 1e-3 else (3000, 20_000):
        expected = 0.0
        for rank in range(20_000):
            k = len(noise) - 1 - rank
            key = np.float32(weights[token] + np.float32(noise[k]))
            below = at_or_above(key, weights[:token], noise, strictly=False)  # F_j(s-): none is as high
            upto = at_or_above(key, weights[token + 1 :], noise, strictly=True)  # F_j(s): none is above
            count = used[-1 - np.append(below, upto)]
            none_above = product_30_digits(count, total) if rank < 100 else product(count, total)
            term = int(atoms.counts[k]) / total * none_above
            expected += term
            if term < expected * relative * 1e-4:  # the terms fall by one in some 70 or 500
                break
        else:
            pytest.fail("the sum over the atoms did not end")
        assert law.probs[token] == pytest.approx(expected, rel=law.relative + relative * 1e-1, abs=0)


def product(count: np.ndarray, total: int) -> float:
    """prod_j (1 - count_j / total) in float64, each logarithm to the last digit."""
    return math.exp(math.fsum(np.log1p(-count / total)))


@mpmath.workdps(30)
def product_30_digits(count: np.ndarray, total: int) -> float:
    words, times = np.unique(count, return_counts=True)
    log = mpmath.fsum(
        int(m) * mpmath.log(1 - mpmath.mpf(int(c)) / total) for c, m in zip(words, times, strict=True) if c
    )
    return float(mpmath.exp(log))


@mpmath.workdps(30)
def by_integration(probs: list[float], ceiling: float) -> list[float]:
    """P(n) = integral of the density of score n times the others' distribution functions, noise conditioned
    below M."""
    p, m = [mpmath.mpf(x) for x in probs], mpmath.mpf(ceiling)
    norm = mpmath.exp(-mpmath.exp(-m))

    def distribution(s, x):
        return min(mpmath.exp(-mpmath.exp(-(s - mpmath.log(x)))) / norm, mpmath.mpf(1))

    result = []
    for n, x in enumerate(p):
        top = mpmath.log(x) + m
        kinks = sorted({mpmath.log(y) + m for y in p if y <= x})
        edges = [top - 60, top - 12, top - 6, top - 3, top - 1, *kinks]
        edges = sorted({e for e in edges if e <= top})

        def density(s, x=x, n=n):
            own = mpmath.exp(-(s - mpmath.log(x)) - mpmath.exp(-(s - mpmath.log(x)))) / norm
            others = [distribution(s, y) for k, y in enumerate(p) if k != n]
            return own * mpmath.fprod(others)

        result.append(float(mpmath.quad(density, edges)))
    return result


SHARES = st.lists(st.integers(1, 50), min_size=1, max_size=8).map(lambda k: np.array(k) / sum(k))


class TestTruncatedGumbel:
    @pytest.mark.parametrize("ceiling", [-0.5, 0.5, 2.0, 5.0])
    @pytest.mark.parametrize(
        "probs", [[0.5, 0.5], [0.9, 0.1], [0.2, 0.5, 0.3], [0.01, 0.04, 0.25, 0.7], [0.1, 0.1, 0.2, 0.3, 0.3]]
    )
    def test_is_the_integral(self, probs, ceiling):
        law = truncated_gumbel_law(np.log(probs), ceiling)
        np.testing.assert_allclose(law.probs, by_integration(probs, ceiling), rtol=0, atol=1e-12)
        assert law.guarantee is Guarantee.CERTIFIED

    @given(SHARES)
    def test_tends_to_the_target(self, p):
        """|q - p| falls like the mass of noise above M, e^-M."""
        for ceiling in (5.0, 10.0, 20.0, 40.0):
            law = truncated_gumbel_law(np.log(p), ceiling)
            assert abs(law.probs - p).max() <= len(p) * math.exp(-ceiling) + 2 * law.error
            assert abs(law.probs.sum() - 1) <= 2 * law.error + ULP

    @given(SHARES, st.floats(-1, 12))
    def test_stretches_every_ratio(self, p, ceiling):
        """The likelier of two tokens gains, and gains more the lower the ceiling."""
        order = np.argsort(p, kind="stable")
        high, low = (truncated_gumbel_law(np.log(p), m).log_probs[order] for m in (ceiling + 1, ceiling))
        for steeper, flatter in ((high, np.log(p[order])), (low, high)):
            reached = steeper > -40
            assert (np.diff(steeper[reached]) >= np.diff(flatter[reached]) - 1e-9).all()

    @given(SHARES, st.floats(-1, 12), st.randoms(use_true_random=False))
    def test_permutation(self, p, ceiling, random):
        order = random.sample(range(len(p)), len(p))
        law = truncated_gumbel_law(np.log(p), ceiling).probs
        np.testing.assert_allclose(
            truncated_gumbel_law(np.log(p[order]), ceiling).probs, law[order], rtol=0, atol=1e-13
        )

    def test_equal_tokens_are_drawn_equally(self):
        law = truncated_gumbel_law(np.log([0.25] * 4), 1.0)
        np.testing.assert_allclose(law.probs, 0.25, atol=1e-15)

    def test_dead_tokens_stay_dead_and_take_no_part(self):
        alive = truncated_gumbel_law(np.log([0.7, 0.3]), 2.0).probs
        law = truncated_gumbel_law(np.array([-INF, math.log(0.7), -INF, math.log(0.3)]), 2.0)
        np.testing.assert_allclose(law.probs, [0, alive[0], 0, alive[1]], atol=1e-15)
        np.testing.assert_array_equal(law.unreachable, [0, 2])

    @pytest.mark.parametrize("gap", [700.0, 726.5, 730.0, 740.0, 745.1, 746.0, 1e5])
    def test_far_tokens_have_probability_zero_and_no_nan(self, gap):
        """e^-M / p overflows from 726 nats on; the truth is below e^(-e^600)."""
        for row in ([0.0, -gap], [0.0, -gap, -1.0], [-gap, -gap, 0.0]):
            log_p = np.array(row) - np.logaddexp.reduce(row)
            law = truncated_gumbel_law(log_p, 16.6355)
            assert (law.probs[np.array(row) == -gap] == 0).all()
            kept = np.array(row) > -gap
            near = truncated_gumbel_law(log_p[kept] - np.logaddexp.reduce(log_p[kept]), 16.6355)
            np.testing.assert_allclose(law.probs[kept], near.probs, rtol=1e-14)

    @pytest.mark.parametrize("ceiling", [math.nan, -31.0, -INF])
    def test_a_ceiling_that_leaves_no_digits(self, ceiling):
        with pytest.raises(InputError, match="a ceiling of"):
            truncated_gumbel_law(np.log([0.5, 0.5]), ceiling)

    def test_no_ceiling_is_the_target(self):
        np.testing.assert_allclose(truncated_gumbel_law(np.log([0.2, 0.8]), INF).probs, [0.2, 0.8], rtol=1e-15)

    def test_one_token(self):
        assert truncated_gumbel_law(np.array([0.0]), 3.0).probs == pytest.approx([1.0], abs=1e-15)

    @pytest.mark.parametrize("log_probs", [[0.0, 0.0], [], [[0.0]], [-1.0], [np.nan]])
    def test_what_is_not_normalised_is_refused(self, log_probs):
        with pytest.raises(InputError, match="summing to one"):
            truncated_gumbel_law(np.array(log_probs), 3.0)


class TestPerturbedLaw:
    """The bound |q - p| <= vocab lattice + 2 relative, held against exact laws of coarse lattices."""

    @staticmethod
    def deviation(w: np.ndarray, values: np.ndarray, bits: int, fmt) -> float:
        law = argmax_law(w, Atoms.of(fmt.round(values), 1, bits), combine="divide", score=fmt)
        assert law.error < 1e-8
        return float(abs(law.probs - w / w.sum()).max())

    @pytest.mark.parametrize("bits", [2, 4, 7, 10])
    @pytest.mark.parametrize("flipped", [False, True])
    def test_uniforms_on_a_lattice(self, bits, flipped):
        """-log1p(-u), whose small values are coarse, and -log u, whose large ones are: infinite at u = 0."""
        u = np.arange(1 << bits) / (1 << bits)
        with np.errstate(divide="ignore"):
            noise = -np.log1p(-u) + 0.0 if flipped else -np.log(u) + 0.0
        rng, worst = np.random.default_rng(bits), 0.0
        for vocab in (1, 2, 3, 5, 20):
            for concentration in (0.2, 1.0, 10.0):
                w = FP32.round(rng.dirichlet(np.full(vocab, concentration)))
                bound = perturbed_law(np.log(w / w.sum()), relative=2.5 * 2.0**-24, lattice=2.0**-bits).error
                seen = self.deviation(w, noise, bits, FP32)
                assert seen <= bound
                worst = max(worst, seen / bound)
        assert worst > 0.05  # the bound is not so wide that nothing could break it

    @pytest.mark.parametrize("fmt", [FP16, BF16], ids=lambda f: f.name)
    def test_rounded_scores(self, fmt):
        """Noise and quotient each rounded in a coarse format, on a fine lattice: relative = 2.5 ulp / 2."""
        noise = -np.log1p(-(np.arange(1 << 14) + 0.5) / (1 << 14))
        rng, worst = np.random.default_rng(fmt.precision), 0.0
        for vocab in (2, 3, 8, 30):
            for _ in range(5):
                w = fmt.round(rng.dirichlet(np.ones(vocab)))
                bound = perturbed_law(
                    np.log(w / w.sum()), relative=2.5 * 2.0**-fmt.precision, lattice=2.0**-14
                ).error
                seen = self.deviation(w, noise, 14, fmt)
                assert seen <= bound
                worst = max(worst, seen / bound)
        assert worst > 0.02

    def test_states_the_target_and_never_more_than_one(self):
        law = perturbed_law(np.log([0.25, 0.75]), relative=2.0**-20, lattice=2.0**-30)
        np.testing.assert_allclose(law.probs, [0.25, 0.75], rtol=1e-15)
        assert law.error == 2 * 2.0**-30 + 2.0**-19
        assert law.guarantee is Guarantee.CERTIFIED
        assert perturbed_law(np.log([0.25, 0.75]), relative=0.6, lattice=0.0).error == 1.0


def grid(bits: int) -> list[tuple[float, Fraction]]:
    return [(k / (1 << bits), Fraction(1, 1 << bits)) for k in range(1 << bits)]


class TestInverseCdf:
    RULES = ("u < c", "u <= c")

    @pytest.mark.parametrize("rule", RULES)
    @given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 6))
    def test_is_the_enumeration_exactly(self, rule, steps, bits):
        """Sums below, at and above one; repeated sums; sums on and off the grid."""
        cumulative = np.cumsum(steps) / 97.0 * 1.5
        expected = enumerate_inverse_cdf(cumulative.tolist(), grid(bits), strict=rule == "u < c")
        law = inverse_cdf_law(cumulative, bits=bits, rule=rule)
        with np.errstate(divide="ignore"):
            np.testing.assert_array_equal(law.log_probs, np.log([float(p) for p in expected]))

    @pytest.mark.parametrize("rule", RULES)
    @given(
        st.lists(st.integers(0, 16), min_size=1, max_size=6),
        st.lists(st.integers(0, 16), min_size=8, max_size=8),
    )
    def test_on_given_atoms(self, rule, steps, values):
        """Sums and atoms on one grid of sixteenths, so that u = c happens."""
        cumulative, atoms = np.cumsum(steps) / 16, Atoms.of(np.array(values) / 16, 1, 3)
        expected = enumerate_inverse_cdf(cumulative.tolist(), pairs(atoms), strict=rule == "u < c")
        law = inverse_cdf_law(
            cumulative, bits=3, rule=rule, uniform_atoms=(atoms.values, np.cumsum(atoms.probs))
        )
        with np.errstate(divide="ignore"):
            np.testing.assert_array_equal(law.log_probs, np.log([float(p) for p in expected]))

    @pytest.mark.parametrize("rule", RULES)
    def test_the_grid_is_the_atoms_of_the_grid(self, rule):
        cumulative = np.cumsum(np.random.default_rng(0).dirichlet(np.ones(9)))
        values = np.arange(1 << 10) / (1 << 10)
        atoms = (values, np.cumsum(np.full(1 << 10, 2.0**-10)))
        law = inverse_cdf_law(cumulative, bits=10, rule=rule, uniform_atoms=atoms)
        np.testing.assert_array_equal(law.log_probs, inverse_cdf_law(cumulative, bits=10, rule=rule).log_probs)

    @pytest.mark.parametrize("name", ["fp16", "fp32"])
    def test_absorbed_tokens_are_unreachable(self, name):
        """1/2, then tokens of a quarter ulp of 1/2: the rounded sum stands still until the last takes the
        rest."""
        fmt = FORMATS[name]
        tiny = 2.0 ** -(fmt.precision + 2)
        total, cumulative = 0.0, []
        for p in (0.5, *[tiny] * 100, 0.25):
            total = float(fmt.round(np.float64(total + p)))
            cumulative.append(total)
        law = inverse_cdf_law(np.array(cumulative), bits=24, rule="u < c")
        np.testing.assert_array_equal(law.unreachable, np.arange(1, 101))
        np.testing.assert_array_equal(law.probs[[0, -1]], [0.5, 0.5])

    def test_53_bits_are_counted_exactly(self):
        law = inverse_cdf_law(np.array([2.0**-53, 0.75, 1.0]), bits=53, rule="u <= c")
        np.testing.assert_array_equal(law.log_probs, np.log([2.0**-52, 0.75 - 2.0**-53, 0.25 - 2.0**-53]))

    def test_a_zero_probability_token_is_drawn_at_u_zero(self):
        assert inverse_cdf_law(np.array([0.0, 1.0]), bits=10, rule="u <= c").probs[0] == 2.0**-10
        assert inverse_cdf_law(np.array([0.0, 1.0]), bits=10, rule="u < c").probs[0] == 0.0

    @pytest.mark.parametrize("cumulative", [[], [[0.5, 1.0]], [0.5, 0.4], [np.nan, 1.0], [-0.1, 1.0]])
    def test_bad_sums_are_refused(self, cumulative):
        with pytest.raises(InputError, match="non-decreasing"):
            inverse_cdf_law(np.array(cumulative), bits=24, rule="u < c")


class TestThresholdLaw:
    """One uniform a row, of any law: the first sum that exceeds (reaches) it."""

    RULES = ("u < c", "u <= c")

    @staticmethod
    def by_enumeration(sums: list[float], atoms: Atoms, rule: str) -> tuple[list[Fraction], Fraction]:
        probs, beyond = [Fraction(0)] * len(sums), Fraction(0)
        for u, mass in pairs(atoms):
            hit = [j for j, c in enumerate(sums) if (u < c if rule == "u < c" else u <= c)]
            if hit:
                probs[hit[0]] += mass
            else:
                beyond += mass
        return probs, beyond

    @pytest.mark.parametrize("rule", RULES)
    @given(
        st.lists(
            st.integers(-4, 20).map(lambda k: k / 16) | st.sampled_from([-INF, INF]), min_size=1, max_size=7
        ),
        st.lists(st.integers(0, 18), min_size=8, max_size=8),
    )
    def test_is_the_enumeration_exactly(self, rule, sums, values):
        """Sums in any order, uniforms of 0 to 9/8 that tie with them."""
        atoms = Atoms.of(np.array(values) / 16, 1, 3)
        probs, beyond = self.by_enumeration(sums, atoms, rule)
        law = threshold_law(np.array(sums), atoms, rule)
        np.testing.assert_array_equal(law.counts, [8 * p for p in probs])
        np.testing.assert_array_equal(law.probs, [float(p) for p in probs])
        assert law.beyond == 8 * beyond

    @pytest.mark.parametrize("rule", RULES)
    def test_is_the_inverse_cdf_on_its_grid(self, rule):
        cumulative = np.cumsum(np.random.default_rng(1).dirichlet(np.ones(9)))
        grid = Atoms.of(np.arange(1 << 10) / (1 << 10), 1, 10)
        law = threshold_law(cumulative, grid, rule).law(-1, "counts")
        np.testing.assert_array_equal(law.log_probs, inverse_cdf_law(cumulative, bits=10, rule=rule).log_probs)

    def test_what_is_beyond_goes_where_it_is_sent(self):
        atoms = Atoms.of(np.arange(4) / 4, 1, 2)
        law = threshold_law(np.array([0.25, 0.5]), atoms, "u < c")
        assert law.beyond == 2
        np.testing.assert_allclose(law.law(-1, "clamped").probs, [0.25, 0.75], rtol=1e-15)
        np.testing.assert_allclose(law.law(0, "argmax of all False").probs, [0.75, 0.25], rtol=1e-15)
        with pytest.raises(InputError, match="which token takes the rest"):
            law.law(2, "out of range")

    def test_62_bits_are_counted_exactly(self):
        atoms = Atoms.of(np.array([0.0, 0.5]), np.array([1, (1 << 62) - 1]), 62)
        law = threshold_law(np.array([0.25, 1.0]), atoms, "u < c")
        assert law.counts.tolist() == [1, (1 << 62) - 1]
        assert law.beyond == 0

    @pytest.mark.parametrize(
        ("sums", "rule"), [([], "u < c"), ([[0.5]], "u < c"), ([math.nan], "u < c"), ([1.0], "<")]
    )
    def test_bad_input(self, sums, rule):
        with pytest.raises(InputError, match=r"none NaN|rule '<'"):
            threshold_law(np.array(sums), Atoms.of(np.array([0.0, 0.5]), 1, 1), rule)


class TestTargetLaw:
    @given(st.lists(st.one_of(st.floats(-700, 700), st.just(-INF)), min_size=1, max_size=20))
    def test_is_the_softmax(self, logits):
        assume(max(logits) > -INF)
        law = target_law(np.array(logits))
        with mpmath.workdps(40):
            weights = [mpmath.exp(mpmath.mpf(x)) for x in logits]
            expected = np.array([float(w / mpmath.fsum(weights)) for w in weights])
        np.testing.assert_allclose(law.probs, expected, rtol=1e-12, atol=law.error)
        assert law.guarantee is Guarantee.CERTIFIED

    @pytest.mark.parametrize(
        ("logits", "said"),
        [
            (np.array([0.0, np.nan]), "NaN in logits at 1"),
            (np.array([np.inf, 0.0]), r"\+inf in logits at 0"),
            (np.array([-np.inf, -np.inf]), "all -inf"),
            (np.array([]), "empty logits"),
            (np.array([1, 2]), "dtype int64"),
            (np.array([True, False]), "dtype bool"),
            (np.array([1j, 0]), "dtype complex128"),
            (np.zeros((2, 2)), r"shape \(2, 2\)"),
            (np.float64(1.0), r"shape \(\)"),
            ([0.0, 1.0], r"shape \(2,\)"),
        ],
    )
    def test_bad_rows_are_named(self, logits, said):
        with pytest.raises(InputError, match=said):
            check_logits(logits)
        with pytest.raises(InputError, match=said):
            target_law(logits)

    def test_a_law_is_one_row(self):
        for shape in ((2, 2), (0,), ()):
            with pytest.raises(InputError, match="one law at a time"):
                Law(np.zeros(shape), "test", 0.0, Guarantee.EXACT)

    @pytest.mark.parametrize("value", [math.nan, INF])
    def test_a_law_has_no_nan(self, value):
        with pytest.raises(InputError, match=r"at token 1 \(test\)"):
            Law(np.array([0.0, value]), "test", 0.0, Guarantee.EXACT)

    @pytest.mark.parametrize("probs", [[1.0, -0.5], [1.0, math.nan]])
    def test_nor_negative_probabilities(self, probs):
        with pytest.raises(InputError, match="at token 1"):
            Law.from_probs(np.array(probs), "test", 0.0, Guarantee.EXACT)

    @pytest.mark.parametrize(
        ("error", "relative"), [(math.nan, INF), (-1e-9, INF), (0.0, math.nan), (0.0, -1.0)]
    )
    def test_nor_an_error_that_is_no_bound(self, error, relative):
        with pytest.raises(InputError, match="where no bound is known"):
            Law(np.zeros(1), "test", error, Guarantee.EXACT, relative)

    def test_fields(self):
        law = Law.from_probs(np.array([0.0, 0.25, 0.75]), "test", 0.5, Guarantee.HEURISTIC)
        assert (law.vocab, law.how, law.error, law.guarantee) == (3, "test", 0.5, Guarantee.HEURISTIC)
        np.testing.assert_array_equal(law.unreachable, [0])
        np.testing.assert_allclose(law.probs, [0, 0.25, 0.75], rtol=1e-15)
