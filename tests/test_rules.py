"""Samplers by composition: final classes only, laws by rules, and what a rule says of its race."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import math
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import final

import numpy as np
import pytest
import torch

import precision_lab.samplers
from precision_lab.atoms import Atoms
from precision_lab.errors import InputError
from precision_lab.formats import FP16, FP32, FP64
from precision_lab.laws.argmax import argmax_law
from precision_lab.laws.law import target_law
from precision_lab.samplers import SAMPLERS, Sampler, Stages, UniformSampler, chunks, with_tolerance
from precision_lab.samplers.inverse_cdf import InverseCDF
from precision_lab.samplers.noise_maps import exponential, gumbel, negative_log, unchanged
from precision_lab.samplers.rules import (
    Enumerated,
    LawRule,
    Overflowing,
    Race,
    Truncated,
    WithinBound,
)
from precision_lab.samplers.sampler import emulated_arithmetic
from precision_lab.samplers.weights import Cast, Exponentials, Softmax, Weights
from precision_lab.types import Guarantee
from precision_lab.uniforms import TORCH_CPU_BF16, TORCH_CPU_FP64, TORCH_RAND, Source

INF = math.inf
PACKAGE = Path(precision_lab.samplers.__file__).parent


# -- the shape of the package
def family(base: type) -> list[type]:
    """A class and all its descendants that this package defines."""
    below = [cls for child in base.__subclasses__() for cls in family(child)]
    return [cls for cls in (base, *below) if cls.__module__.startswith("precision_lab.")]


def faults(base: type) -> list[str]:
    """Classes that are neither abstract nor final, and concrete methods that are overridden, one line each."""
    found = []
    for cls in family(base):
        if not inspect.isabstract(cls) and not getattr(cls, "__final__", False):
            found.append(f"{cls.__name__} is neither abstract nor final")
        for parent in cls.__mro__[1:-1]:
            found += [f"{cls.__name__} overrides {parent.__name__}.{name}" for name in overridden(cls, parent)]
    return found


def overridden(cls: type, parent: type) -> Iterator[str]:
    """Concrete methods and properties of ``parent`` that ``cls`` has of its own; what ``dataclass`` writes
    is no method."""
    for name, member in vars(cls).items():
        theirs = vars(parent).get(name)
        is_code = isinstance(member, property) or inspect.isfunction(member)
        is_concrete = theirs is not None and not getattr(theirs, "__isabstractmethod__", False)
        if is_code and is_concrete and not name.startswith("__"):
            yield name


def uses_of_super(source: str) -> int:
    """Methods asked of ``super()``; the constructor of a class of torch's is none."""
    asked = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr != "__init__"
    ]
    callees = [node.value.func for node in asked if isinstance(node.value, ast.Call)]
    return sum(isinstance(function, ast.Name) and function.id == "super" for function in callees)


class TestComposition:
    @pytest.mark.parametrize("base", [Sampler, LawRule, Weights])
    def test_every_class_is_abstract_or_final_and_overrides_nothing(self, base):
        for module in pkgutil.walk_packages([str(PACKAGE)], "precision_lab.samplers."):
            importlib.import_module(module.name)
        assert len(family(base)) >= 4
        assert faults(base) == []

    def test_nobody_asks_super(self):
        sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
        assert len(sources) > 20
        assert sum(map(uses_of_super, sources)) == 0
        method = "class A(B):\n    def f(self):\n        return super().f() + super(A, self).g"
        assert uses_of_super(method) == 2
        assert uses_of_super(method.replace("super().f()", "super().__init__()")) == 1

    def test_the_reader_sees_what_is_forbidden(self, monkeypatch):
        class Base(ABC):
            @abstractmethod
            def asked(self): ...

            def told(self):
                return 1

        class Loose(Base):
            def asked(self): ...

        @final
        class Overrides(Loose):
            def asked(self): ...

            def told(self):
                return 2

        for cls in (Base, Loose, Overrides):
            monkeypatch.setattr(cls, "__module__", "precision_lab.somewhere")
        assert faults(Base) == [
            "Loose is neither abstract nor final",
            "Overrides overrides Loose.asked",
            "Overrides overrides Base.told",
        ]

    def test_samplers_of_one_kind_are_equal_by_their_data(self):
        for sampler in SAMPLERS.values():
            assert replace(sampler) == sampler
            assert isinstance(hash(sampler), int)


def inverse_exponential(u: torch.Tensor) -> torch.Tensor:
    return 1 / exponential(u).abs()


# -- toys
@dataclass(frozen=True)
class Listed(Source):
    """Given values, each with its count of words."""

    values: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    def from_words(self, words):
        upto = torch.tensor(self.counts).cumsum(0)
        return torch.tensor(self.values)[torch.searchsorted(upto, words, right=True)].to(self.dtype)

    def native(self, shape, *, rng):
        return self.from_words(torch.randint(0, 1 << self.bits, shape, generator=rng))

    def atoms(self) -> Atoms:
        return Atoms(np.array(self.values), np.array(self.counts), self.bits)


# E = 0 and six more float16 values; counts that make no short binary fractions of their odds.
RARE_ZERO = Listed(
    "rare zero", FP16, 20, (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0), (3, 7, 1001, 4099, 99_991, 300_007, 643_468)
)


def gumbel_softmax(source: Source) -> UniformSampler:
    return UniformSampler(
        "toy",
        "test",
        "nowhere",
        Stages.all("fp16"),
        source,
        negative_log,
        "add",
        nonfinite="first index",
    )


def law_by_fractions(sampler: UniformSampler, logits: list[float]) -> list[Fraction]:
    """Every combination of noise atoms, each score in NumPy's float16, the winner by the words of the
    docstring."""
    atoms = sampler.noise_atoms()
    probs = [Fraction(int(count), 1 << atoms.bits) for count in atoms.counts]
    law = [Fraction(0)] * len(logits)
    with np.errstate(over="ignore", invalid="ignore"):
        table = [np.float16(logit) + atoms.values.astype(np.float16) for logit in logits]
    for combination in itertools.product(range(len(probs)), repeat=len(logits)):
        scores = [float(table[i][k]) for i, k in enumerate(combination)]
        best = -INF
        winner = 0
        for i, score in enumerate(scores):
            if score > best:
                best, winner = score, i
        if any(math.isnan(score) or score == INF for score in scores):
            winner = 0
        law[winner] += math.prod(probs[k] for k in combination)
    return law


class TestNanRows:
    @pytest.mark.parametrize(
        "logits",
        [
            [0.0, 0.0, -100.0, 0.0],
            [-100.0, 0.0, 0.0, 0.25],
            [-INF, -INF, 1.0, -INF],
            [0.0, -INF, -3.0, -4.0],
            [3.0, -0.5, -1.0, 0.5],
            [1.0, -2.4775390625, 1.0, -2.5],
            [65504.0, 65472.0, 0.0, 65504.0],
            [-INF, 65504.0, -INF, 65472.0],
            [0.0, 65504.0, 65504.0, 65504.0],
        ],
    )
    def test_against_every_combination_in_fractions(self, logits):
        """Probabilities to 1e-12, and zero where no combination gives the token and only there."""
        sampler = gumbel_softmax(RARE_ZERO)
        exact = law_by_fractions(sampler, logits)
        assert sum(exact) == 1
        law = sampler.law(torch.tensor(logits))
        np.testing.assert_allclose(law.probs, [float(p) for p in exact], rtol=0, atol=1e-12)
        assert law.unreachable.tolist() == [i for i, p in enumerate(exact) if p == 0]

    def test_what_the_published_recipe_cannot_draw_is_zero(self):
        """A gap of 1e4 is past every float16 Gumbel value; token 0 alone has the rows with E = 0."""
        law = SAMPLERS["torch_gumbel_softmax_fp16"].law(
            torch.tensor([0.0, -1.0e4, -0.5, -INF, -3.0, -1.0e4, 1.0])
        )
        assert law.unreachable.tolist() == [1, 3, 5]
        assert law.probs.sum() == pytest.approx(1, abs=1e-12)


class TestEnumerated:
    def test_a_race_without_a_sampler(self):
        """A rule needs a race and weights: no logits, no name."""
        race = Race(TORCH_CPU_BF16, gumbel, "add", FP32)
        weights = np.array([0.0, -1.0, -2.5])
        seen: list[float] = []
        law = Enumerated().law(race, weights, seen.append)
        direct = argmax_law(weights, TORCH_CPU_BF16.push(gumbel), combine="add", score=FP32)
        np.testing.assert_array_equal(law.probs, direct.probs)
        assert (law.error, law.relative, seen[-1]) == (direct.error, direct.relative, 1.0)

    @pytest.mark.parametrize("rule", [Enumerated(tolerance=7.5), Enumerated(relative=-0.5)])
    def test_tolerances_reach_the_enumeration(self, rule):
        with pytest.raises(InputError, match=rf"tolerance {rule.tolerance}, relative {rule.relative}"):
            rule.law(Race(TORCH_CPU_BF16, gumbel, "add", FP32), np.zeros(3))

    def test_with_tolerance_reaches_inner_rules_and_leaves_other_samplers(self):
        assert Truncated(Enumerated(), 3.0).with_tolerance(1e-3, 1e-2) == Truncated(Enumerated(1e-3, 1e-2), 3.0)
        assert Overflowing(WithinBound(0.1, 0.1)).with_tolerance(1e-3, 1e-2) == Overflowing(
            WithinBound(0.1, 0.1)
        )
        race = SAMPLERS["d1_bf16"]
        assert with_tolerance(race, 1e-3, 1e-2) == replace(race, rule=Enumerated(1e-3, 1e-2, overflow=True))
        assert with_tolerance(SAMPLERS["inverse_cdf_fp32"], 1e-3, 1e-2) is SAMPLERS["inverse_cdf_fp32"]


class TestWithinBound:
    @pytest.mark.parametrize(
        ("score", "top", "half_ulp"),
        [(FP32, 0.0, 2.0**-20), (FP32, 1.5, 2.0**-19), (FP32, -480.0, 2.0**-16), (FP64, 33.0, 2.0**-48)],
    )
    def test_a_sum_is_off_by_half_an_ulp_of_the_largest_score(self, score, top, half_ulp):
        """|top| + 31 lies in (2^(k-1), 2^k]; numbers below 2^k are 2^(k - p) apart."""
        race = Race(TORCH_CPU_FP64, gumbel, "add", score)
        law = WithinBound(relative=2.0**-30, spacing=2.0**-40, reach=31.0).law(race, np.array([top, top - 1.0]))
        assert law.error == 2 * 2.0**-40 + 2 * (2.0**-30 + half_ulp)
        biggest = abs(top) + 31
        apart = float(np.spacing(np.float32(biggest) if score is FP32 else np.float64(biggest)))
        assert half_ulp in (apart / 2, apart / 4)  # the second where |top| + 31 is a power of two

    def test_a_quotient_has_no_sum(self):
        race = Race(TORCH_CPU_FP64, unchanged, "divide", FP64)
        law = WithinBound(relative=2.0**-30, spacing=2.0**-40).law(race, np.array([3.0, 1.0, 0.0]))
        assert law.error == 3 * 2.0**-40 + 2 * 2.0**-30
        assert law.probs == pytest.approx([0.75, 0.25, 0.0], abs=1e-15)

    def test_overflow_is_a_share_of_the_largest_double(self):
        race = Race(TORCH_CPU_FP64, unchanged, "divide", FP64)
        inner = WithinBound(relative=2.0**-44, spacing=2.0**-52)
        weights = np.array([2.0**1014, 2.0**1013])
        extra = Overflowing(inner).law(race, weights).error - inner.law(race, weights).error
        assert extra == pytest.approx(1.5 * 2.0**-10, rel=1e-9)

    def test_every_declared_bound_is_the_one_used(self):
        """Errors of the published float32 and float64 rows at logits 0 to -3, from their declarations."""
        for name, expected in {
            "gumbel_max_fp64": 3 * 2.0**-52 + 2.0**-43,
            "exponential_race_fp64": 3 * 2.0**-52 + 2.0**-43,
            "remdm_fp64": 3 * 1.01e-10 + 2.0**-43,
            "jax_highest_fp32": 3 * 2.0**-44 + 2 * (2.0**-19 + 2.0**-21 + 2.0**-20),
            "torch_gumbel_softmax_cpu_fp32": 3 * 2.0**-46 + 2 * (2.0**-19 + 2.0**-23 + 2.0**-20),
            "torch_multinomial_fp32": 3 * 2.0**-52 + 5 * 2.0**-24,
        }.items():
            assert SAMPLERS[name].law(torch.tensor([0.0, -1.0, -3.0])).error == pytest.approx(
                expected, rel=1e-12
            )


class TestCeilings:
    @pytest.mark.parametrize("combine", ["add", "divide", "multiply", "ratio"])
    def test_one_race_has_one_ceiling_however_it_is_written(self, combine):
        """float32 u ends at 1 - 2^-24: E = 2^-24 to a float32 rounding or two."""
        noise_of = {
            "add": gumbel,
            "divide": exponential,
            "multiply": inverse_exponential,
            "ratio": exponential,
        }[combine]
        sampler = UniformSampler("toy", "t", "n", Stages.all("fp32"), TORCH_RAND["fp32"], noise_of, combine)
        assert sampler.ceiling == pytest.approx(24 * math.log(2), abs=2e-6)

    def test_noise_at_its_end_is_infinite(self):
        closed = Listed("closed", FP16, 1, (0.5, 1.0), (1, 1))
        for combine, noise_of in (("divide", exponential), ("multiply", inverse_exponential), ("add", gumbel)):
            assert UniformSampler("toy", "t", "n", Stages.all("fp16"), closed, noise_of, combine).ceiling == INF


class TestChunks:
    def test_the_generator_is_used_in_the_order_said(self, monkeypatch):
        """Three rows, two at a time, and three draws, one at a time: a counter, chunk by chunk and in its
        places."""
        monkeypatch.setattr(chunks, "VALUES_IN_MEMORY", 20)
        counter = itertools.count()
        calls: list[list[int]] = []

        def decide(part: torch.Tensor, count: int) -> torch.Tensor:
            calls.append([next(counter) for _ in range(count * len(part))])
            return torch.tensor(calls[-1]).reshape(count, len(part))

        out = chunks.draw_in_chunks(decide, torch.zeros(3, 5), 3, values_per_row=10)
        assert calls == [[0, 1], [2], [3, 4], [5], [6, 7], [8]]
        assert out.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]

    @pytest.mark.parametrize("name", ["gumbel_max_fp32", "torch_multinomial_fp32", "d1_bf16"])
    def test_weights_are_made_of_a_chunk_at_a_time(self, name, monkeypatch):
        """The ids of a seed are those of weights made of all rows at once."""
        logits = torch.randn(7, 16, generator=torch.Generator().manual_seed(0)).double()

        def drawn() -> torch.Tensor:
            return SAMPLERS[name].draw(logits, 5, rng=torch.Generator().manual_seed(1))

        whole = drawn()
        monkeypatch.setattr(chunks, "VALUES_IN_MEMORY", 3 * 16)
        made = []
        seen = chunks.draw_in_chunks

        def watched(decide, inputs, n, *, values_per_row, prepare):
            def prepared(part: torch.Tensor) -> torch.Tensor:
                made.append(part.numel())
                return prepare(part)

            return seen(decide, inputs, n, values_per_row=values_per_row, prepare=prepared)

        monkeypatch.setattr(sys.modules[type(SAMPLERS[name]).__module__], "draw_in_chunks", watched)
        assert torch.equal(drawn(), whole)
        assert max(made) == 3 * 16

    def test_rows_of_an_inverse_cdf_are_drawn_part_by_part(self, monkeypatch):
        """Of three rows two have sums at a time: their draws come before those of the third."""
        monkeypatch.setattr(sys.modules[InverseCDF.__module__], "SUMS_IN_MEMORY", 2 * 64)
        rows = torch.zeros(3, 1000)
        found = SAMPLERS["inverse_cdf_fp64"].draw(rows, 4, rng=torch.Generator().manual_seed(0))
        rng = torch.Generator().manual_seed(0)
        parts = [SAMPLERS["inverse_cdf_fp64"].draw(part, 4, rng=rng) for part in rows.split(2)]
        assert torch.equal(found, torch.cat(parts, 1))


class TestWeights:
    def test_formulas(self):
        logits = torch.tensor([[0.0, 1.0, -INF]])
        cast, softmax, exp = (
            w.of(logits, format="fp32", sampler="mine") for w in (Cast(), Softmax(), Exponentials())
        )
        assert torch.equal(cast, logits)
        np.testing.assert_allclose(softmax[0], target_law(logits[0].numpy()).probs, atol=1e-7)
        np.testing.assert_allclose(exp[0], [1.0, math.e, 0.0], rtol=1e-7)
        for weights in (Cast(), Softmax(), Exponentials()):
            assert weights.of(logits, format="bf16", sampler="mine").dtype is torch.bfloat16

    def test_a_row_out_of_range_names_the_sampler(self):
        with pytest.raises(InputError, match=r"from -20 to 12 for mine; expected at most 11\.09"):
            Exponentials().of(torch.tensor([[12.0], [-20.0]]), format="fp16", sampler="mine")
        with pytest.raises(InputError, match="expected -14 to 88"):
            Exponentials(least=1e-6).of(torch.tensor([[-15.0, -INF]]), format="fp32", sampler="mine")


# -- what was not confirmed here
@dataclass(frozen=True)
class Elsewhere(Listed):
    @property
    def emulated(self):
        return "a toy GPU's logarithm, evaluated with the CPU's"


class TestEmulated:
    def test_the_source_speaks_first_and_then_the_backend(self):
        elsewhere = Elsewhere("elsewhere", FP16, 1, (0.25, 0.5), (1, 1))
        assert emulated_arithmetic(elsewhere, "cpu") == elsewhere.emulated
        assert emulated_arithmetic(elsewhere, "cuda") == elsewhere.emulated
        assert (
            emulated_arithmetic(RARE_ZERO, "rocm") == "rocm's arithmetic, emulated with torch's on this machine"
        )
        for home in ("cpu", "numpy"):
            assert emulated_arithmetic(RARE_ZERO, home) is None

    @pytest.mark.parametrize("backend", ["cpu", "jax cpu"])
    def test_a_law_keeps_its_numbers_and_loses_its_guarantee(self, backend):
        here = UniformSampler("toy", "t", "n", Stages.all("bf16"), TORCH_CPU_BF16, gumbel, "add")
        there = replace(here, backend=backend, source=Elsewhere("e", FP16, 1, (0.25, 0.5), (1, 1)))
        logits = torch.tensor([0.0, -1.0])
        plain = there.row_law(logits)
        law = there.law(logits)
        assert plain.guarantee in (Guarantee.EXACT, Guarantee.CERTIFIED)
        assert law.guarantee is Guarantee.EMULATED
        assert law.how == f"{plain.how}; emulated: {there.emulated}"
        assert (law.error, law.relative) == (plain.error, plain.relative)
        np.testing.assert_array_equal(law.log_probs, plain.log_probs)

    def test_no_recipe_of_another_machine_is_exact_or_certified(self):
        """The cheap ones; the contract asks all."""
        logits = torch.tensor([0.0, -1.0])
        for name in (
            "jax_low_bf16",
            "jax_highest_fp32",
            "tensorflow_cpu",
            "llama_cpp",
            "vllm_64bit",
            "sglang_seeded",
        ):
            assert SAMPLERS[name].law(logits).guarantee is Guarantee.EMULATED
        numpy_choice = SAMPLERS["numpy_choice"]
        assert isinstance(numpy_choice, InverseCDF)
        assert numpy_choice.backend == "numpy"
        assert numpy_choice.emulated == numpy_choice.source.emulated

    def test_the_table_has_both_kinds(self):
        said = {name for name, sampler in SAMPLERS.items() if sampler.emulated is not None}
        assert {name for name, sampler in SAMPLERS.items() if sampler.backend not in ("cpu", "numpy")} <= said
        assert {"tl_rand", "jax_low_fp32", "candle", "aiter_rocm"} <= said
