"""Top-k, top-p and min-p on integer masses: three ways of finding the tokens left, against enumeration and
against what the pipeline means."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import statistical
from scipy import stats
from torch import Tensor

from precision_lab.errors import InputError
from precision_lab.faithful import categorical, categorical_masses
from precision_lab.faithful.eager import draw_eagerly
from precision_lab.faithful.masses import masses
from precision_lab.faithful.truncation import kept_eagerly, lowest_key, ordered, plan_of, value_of
from precision_lab.faithful.words import keys_of
from precision_lab.laws.law import Law
from precision_lab.pipelines import MinP, Pipeline, Temperature, TopK, TopP, parse_pipeline
from precision_lab.statistics import total_variation
from precision_lab.types import Guarantee

INF = math.inf
RATE = 1e-8
TEXTS = [
    "top_k=3",
    "top_k=2 ties=last",
    "top_k=2 ties=all",
    "top_p=0.9",
    "top_p=0.3 ties=last",
    "top_p=0.5 ties=all",
    "top_p=0.5 crossing=beyond",
    "top_p=0.4 crossing=dropped",
    "top_p=0.4 crossing=dropped ties=all",
    "min_p=0.1",
    "min_p=1",
    "min_p=0",
    "top_p=1",
    "temperature=0.7 > top_k=50 > top_p=0.95 > min_p=0.05",
    "top_k=2 ties=all > top_p=0.5 ties=last",
    "top_k=4 ties=last > top_k=2 ties=first",
    "top_k=3 > top_p=0.5 mass=whole",
    "top_p=0.9 > temperature=2 > top_p=0.9",
    "temperature=0",
    "temperature=0 ties=last",
    "temperature=0 ties=all > top_p=0.5",
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
# on a grid of 1/2 nat: ties, and masses far from every p
GRID = st.lists(st.integers(-20, 0).map(lambda k: k / 2) | st.just(-INF), min_size=1, max_size=12).filter(
    lambda row: max(row) > -INF
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kept_by_enumeration(row: list[float], pipeline: Pipeline) -> tuple[list[int], float]:
    """The tokens left and the temperature, step by step over a sorted list, masses as fractions of integers."""
    left = [i for i, value in enumerate(row) if value > -INF]
    temperature = 1.0
    logits = torch.tensor([row], dtype=torch.float64)
    for step in pipeline.steps:
        if isinstance(step, Temperature) and step.value > 0:
            temperature *= step.value
            continue
        m = [Fraction(each) for each in masses(logits, torch.tensor([temperature]))[0].tolist()]
        if isinstance(step, MinP):
            least = step.ratio * (1 - 1e-12)
            left = [i for i in left if math.exp((row[i] - max(row)) / temperature) >= least]
            continue
        ties = step.ties
        ranked = sorted(left, key=lambda i, ties=ties: (-row[i], -i if ties == "last" else i))
        if isinstance(step, TopP):
            count = count_of_top_p(step, [m[i] for i in ranked], sum(m))
        else:
            count = 1 if isinstance(step, Temperature) else min(step.k, len(ranked))
        edge = row[ranked[count - 1]]
        left = [i for i in left if row[i] >= edge] if ties == "all" else sorted(ranked[:count])
    return left, temperature


def count_of_top_p(step: TopP, ranked: list[Fraction], whole: Fraction) -> int:
    """A p as it is written, in decimals."""
    p = Fraction(str(step.p))
    total = whole if step.mass == "whole" else sum(ranked)
    count = 0
    before = Fraction(0)
    for mass in ranked:
        after = before + mass
        inside = {
            "kept": before < p * total,
            "beyond": before <= p * total,
            "dropped": after <= p * total,
        }[step.crossing]
        if p < 1 and not inside:
            break
        count += 1
        before = after
    return max(count, 1)


def masses_left(row: list[float], text: str, dtype: torch.dtype = torch.float64) -> list[int]:
    return categorical_masses(torch.tensor(row, dtype=dtype), pipeline=text).tolist()


def drawn_one_by_one(logits: Tensor, heat: Tensor | None, text: str, n: int) -> Tensor:
    """With the words of :func:`categorical` from ``seeded(3)``."""
    rows = len(logits)
    places = np.zeros(rows, dtype=np.int64)
    return draw_eagerly(logits, heat, keys_of(seeded(3), rows), np.arange(rows), places, n, plan_of(text))


class TestWhatIsLeft:
    @settings(max_examples=60)
    @given(GRID, st.sampled_from(TEXTS))
    def test_by_enumeration(self, row, text):
        left, temperature = kept_by_enumeration(row, parse_pipeline(text))
        whole = masses(torch.tensor([row], dtype=torch.float64), torch.tensor([temperature]))[0].tolist()
        assert masses_left(row, text) == [m if i in left else 0 for i, m in enumerate(whole)]

    @pytest.mark.parametrize("text", TEXTS)
    def test_the_law_is_what_the_pipeline_means(self, text):
        """Ties, and rows of 2,000 tokens: the same tokens, and total variation below 1e-7."""
        pipeline = parse_pipeline(text)
        rows = torch.randn(4, 2000, generator=seeded(1)) * 3
        rows[2:] = rows[2:].round()
        rows[:, 5] = -INF
        found = categorical_masses(rows, pipeline=pipeline)
        for row, m in zip(rows, found, strict=True):
            meant = pipeline.law(row.numpy())
            shares = (m.double() / m.sum()).numpy()
            reachable = meant.probs > 2.0**-46  # below it a mass is 0
            assert ((m > 0).numpy() == reachable)[
                np.abs(np.log(meant.probs + 1e-300) + 46 * math.log(2)) > 1
            ].all()
            assert 0.5 * np.abs(shares - meant.probs).sum() < 1e-7

    @pytest.mark.parametrize("p", [0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    @pytest.mark.parametrize("vocab", [10, 1000, 100_000])
    def test_a_decimal_p_of_equal_tokens(self, p, vocab):
        """As on paper, though neither p nor its product with the mass is a float64."""
        m = categorical_masses(torch.zeros(vocab), pipeline=f"top_p={p}")
        assert int((m > 0).sum()) == round(p * vocab)

    def test_one_token_more_or_less_would_be_seen(self):
        """The comparison with the meaning can fail: total variation of top-k with k + 1."""
        row = torch.randn(2000, generator=seeded(2))
        m = categorical_masses(row, pipeline="top_k=50").double()
        meant = parse_pipeline("top_k=51").law(row.numpy())
        assert 0.5 * np.abs((m / m.sum()).numpy() - meant.probs).sum() > 1e-3

    def test_temperatures_of_rows_act_first(self):
        rows = torch.randn(3, 50, generator=seeded(3), dtype=torch.float64)
        heat = torch.tensor([0.5, 1.0, 2.0])
        found = categorical_masses(rows, heat, pipeline="top_p=0.6")
        each = [
            categorical_masses(row, pipeline=f"temperature={t} > top_p=0.6")
            for row, t in zip(rows, heat, strict=True)
        ]
        assert torch.equal(found, torch.stack(each))

    @given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30), st.sampled_from(TEXTS))
    @settings(max_examples=40)
    def test_a_permutation_of_distinct_tokens_permutes(self, row, text):
        logits = torch.tensor(sorted(set(row)), dtype=torch.float32)
        order = torch.randperm(len(logits), generator=seeded(len(logits)))
        found = categorical_masses(logits, pipeline=text)
        assert torch.equal(categorical_masses(logits[order], pipeline=text), found[order])

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_keys(self, dtype):
        """In the order of the floats, -0 with 0, and back."""
        values = torch.tensor([-INF, -3e38, -1.0, -1e-38, -0.0, 0.0, 1e-38, 1.0, 3e38]).to(dtype)
        found = ordered(values)
        assert found.diff().tolist().count(0) == 1
        assert (found.diff() >= 0).all()
        assert found[0] == lowest_key(dtype)
        assert torch.equal(value_of(found, dtype), values.double())


class TestDraws:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("vocab", [1, 2, 300])
    def test_the_compiled_loop_draws_as_the_eager_one(self, dtype, vocab):
        logits = (torch.randn(6, vocab, generator=seeded(vocab), dtype=torch.float64) * 3).to(dtype)
        logits[3:] = logits[3:].round()
        logits[:, 1:2] = -INF
        heat = torch.linspace(0, 2, 6, dtype=torch.float64)
        for text in TEXTS:
            for given_heat in (None, heat):
                found = categorical(logits, 3, generator=seeded(3), temperature=given_heat, pipeline=text)
                assert torch.equal(found, drawn_one_by_one(logits, given_heat, text, 3)), text

    @pytest.mark.parametrize("vocab", [3, 5000])
    @pytest.mark.parametrize("ties", ["first", "last", "all"])
    def test_a_share_smaller_than_any_mass_keeps_the_first(self, vocab, ties):
        """1e-15 of the mass is less than 1: the largest token is left all the same, or all that equal it."""
        logits = torch.arange(vocab).remainder(3).float()[None]
        text = f"top_p=1e-15 ties={ties}"
        kept = {"first": [2], "last": [vocab - vocab % 3 - 1], "all": list(range(2, vocab, 3))}[ties]
        assert categorical_masses(logits, pipeline=text)[0].nonzero().flatten().tolist() == kept
        found = categorical(logits, 3, generator=seeded(3), pipeline=text)
        assert torch.equal(found, drawn_one_by_one(logits, None, text, 3))

    def test_at_the_vocabulary_of_a_model(self):
        logits = torch.randn(2, 151_936, generator=seeded(4)) * 3
        for text in ("temperature=0.7 > top_k=50 > top_p=0.95 > min_p=0.05", "top_p=0.9999"):
            found = categorical(logits, 2, generator=seeded(3), pipeline=text)
            assert torch.equal(found, drawn_one_by_one(logits, None, text, 2))

    @statistical(false_fail=RATE)
    def test_frequencies(self):
        """1e5 draws of a row against its masses by chi-square; top_p=0.9 in place of 0.8 fails it."""
        row = torch.randn(200, generator=seeded(5)) * 2
        expected = categorical_masses(row, pipeline="top_p=0.8").double().numpy()
        inside = expected > 0

        def p_value(text: str) -> float:
            ids = categorical(row, 100_000, generator=seeded(6), pipeline=text).numpy()
            seen = np.bincount(ids, minlength=200)
            if seen[~inside].any():
                return 0.0
            wanted = expected[inside] / expected.sum() * seen.sum()
            return float(stats.chisquare(seen[inside], wanted).pvalue)

        assert p_value("top_p=0.8") > RATE
        assert p_value("top_p=0.9") < RATE

    def test_a_row_does_not_depend_on_its_batch(self):
        logits = torch.randn(32, 900, generator=seeded(7)) * 3
        seeds = torch.arange(32) * 7
        text = "temperature=0.8 > top_k=20 > top_p=0.9"
        whole = categorical(logits, 4, generator=seeds, pipeline=text)
        order = torch.randperm(32, generator=seeded(8))
        assert torch.equal(
            categorical(logits[order], 4, generator=seeds[order], pipeline=text), whole[:, order]
        )
        columns = logits.T.contiguous().T
        assert torch.equal(categorical(columns, 4, generator=seeds, pipeline=text), whole)

    def test_a_temperature_alone_is_the_temperature(self):
        logits = torch.randn(3, 900, generator=seeded(9))
        found = categorical(logits, 5, generator=seeded(1), pipeline="temperature=0.5")
        assert torch.equal(found, categorical(logits, 5, generator=seeded(1), temperature=0.5))

    def test_text_a_pipeline_and_steps_are_one(self):
        logits = torch.randn(3, 50, generator=seeded(9))
        text = "temperature=0.5 > top_k=7"
        drawn = [
            categorical(logits, 5, generator=seeded(1), pipeline=given)
            for given in (text, parse_pipeline(text), (Temperature(0.5), TopK(7)))
        ]
        assert torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[0], drawn[2])


class TestInput:
    @pytest.mark.parametrize(
        "row",
        [
            [1e38, -1e38, 3e38, -3e38],
            [1e4, -1e4, 9999.0, 1e4],
            [-INF, -INF, 2.0, -INF],
            [5.0, 5.0, 5.0, 5.0],
            [7.0],
        ],
        ids=["1e38", "1e4", "one finite", "identical", "one token"],
    )
    @pytest.mark.parametrize("text", ["top_k=2", "top_p=0.6", "temperature=1e-60 > min_p=0.5"])
    def test_extremes(self, row, text):
        logits = torch.tensor(row)
        found = categorical_masses(logits, pipeline=text).double()
        meant = parse_pipeline(text).law(np.array(row))
        assert 0.5 * np.abs((found / found.sum()).numpy() - meant.probs).sum() < 1e-6
        ids = categorical(logits[None], 20, generator=seeded(3), pipeline=text)
        assert torch.equal(ids, drawn_one_by_one(logits[None], None, text, 20))
        assert (found[ids.flatten()] > 0).all()

    def test_denormal_logits_are_told_apart(self):
        """By their order, though their masses are one."""
        logits = torch.tensor([1e-45, -1e-45, 0.0, 1e-40])
        found = categorical_masses(logits, pipeline="top_k=3").tolist()
        assert found == [2**44, 0, 2**44, 2**44]
        ids = categorical(logits[None], 20, generator=seeded(3), pipeline="top_k=3")
        assert torch.equal(ids, drawn_one_by_one(logits[None], None, "top_k=3", 20))

    @pytest.mark.parametrize(
        "bad",
        [
            "top_k=0",
            "top_k=2.5",
            "top_p=0",
            "top_p=1.5",
            "min_p=-0.1",
            "min_p=2",
            "temperature=-1",
            "top_q=3",
            "top_k",
            "",
            "top_k=3 >",
            "top_k=3 ties=some",
            3,
            [],
            [0.7],
            {"top_k": 3},
        ],
        ids=str,
    )
    def test_what_is_no_pipeline(self, bad):
        for call in (categorical, categorical_masses):
            more = {"generator": seeded()} if call is categorical else {}
            with pytest.raises(InputError):
                call(torch.zeros(2, 3), pipeline=bad, **more)

    @pytest.mark.parametrize("bad", [math.nan, INF])
    def test_bad_rows_are_named(self, bad):
        with pytest.raises(InputError, match="in row 1"):
            categorical(torch.tensor([[0.0, 1.0], [bad, 0.0]]), generator=seeded(), pipeline="top_k=1")

    @pytest.mark.parametrize("shape", [(7,), (2, 3, 7), (0, 7)])
    @pytest.mark.parametrize("n", [0, 2])
    def test_shapes_and_gradients(self, shape, n):
        logits = torch.zeros(shape, requires_grad=True)
        assert categorical(logits, n, generator=seeded(), pipeline="top_p=0.5").shape == (n, *shape[:-1])

    def test_the_least_and_largest_temperatures(self):
        """Without a pipeline too: 0 < T below float32's numbers still draws among equal logits, and T beyond
        them takes no token that is -inf."""
        logits = torch.tensor([[1.0, 1.0, 0.0, -INF]])
        cold = categorical(logits, 64, generator=seeded(), temperature=1e-60)
        assert set(cold.flatten().tolist()) == {0, 1}
        hot = categorical(logits, 64, generator=seeded(), temperature=1e60)
        assert set(hot.flatten().tolist()) == {0, 1, 2}


def test_kept_of_rows_of_temperature_0_is_everything():
    rows = torch.tensor([[0.0, 1.0, 2.0]] * 2)
    kept = kept_eagerly(rows, plan_of("top_k=1"), torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert kept.mask(ordered(rows)).sum(-1).tolist() == [3, 1]


def test_total_variation_by_the_judge():
    row = torch.randn(3000, generator=seeded(10))
    text = "temperature=0.9 > top_p=0.95"
    m = categorical_masses(row, pipeline=text)
    own = Law.from_probs((m.double() / m.sum()).numpy(), "whole numbers", 0.0, Guarantee.EXACT)
    assert total_variation(own, parse_pipeline(text).law(row.numpy())) < 1e-7
