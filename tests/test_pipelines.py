"""Pipelines: grammar, the law that they mean against exact fractions, and what rounding leaves open."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precision_lab.errors import InputError
from precision_lab.pipelines import MinP, Pipeline, Temperature, TopK, TopP, parse_pipeline, row_laws
from precision_lab.pipelines import settings as row_settings

# -- an oracle of its own: whole numbers as weights, fractions throughout -------------------------


def exact_law(weights: list[int], text: str) -> list[Fraction]:
    """The law of ``text`` for probabilities in proportion to whole-number weights. Temperatures are 1 / n."""
    left = {token: Fraction(weight) for token, weight in enumerate(weights)}
    whole = dict(left)
    for part in text.split(">"):
        words = dict(word.split("=") for word in part.split())
        name = next(iter(words))
        value = Fraction(words[name])
        ties = words.get("ties", "first")
        if name == "temperature" and value == 0:
            name, value = "top_k", Fraction(1)
        if name == "temperature":
            power = 1 / value
            assert power.denominator == 1
            left = {token: weight**power.numerator for token, weight in left.items()}
            whole = {token: weight**power.numerator for token, weight in whole.items()}
            continue
        sign = -1 if ties == "last" else 1
        ranked = sorted(left, key=lambda token: (-left[token], sign * token))
        if name == "min_p":
            chosen = [token for token in ranked if left[token] >= value * left[ranked[0]]]
        elif name == "top_k":
            chosen = ranked[: int(value)]
        else:
            base = whole if words.get("mass") == "whole" else left
            chosen = by_mass(ranked, base, value, words.get("crossing", "kept"))
        if ties == "all":
            chosen = [token for token in ranked if left[token] >= left[chosen[-1]]]
        left = {token: left[token] for token in chosen}
    total = sum(left.values())
    return [left.get(token, Fraction(0)) / total for token in range(len(weights))]


def by_mass(ranked: list[int], weights: dict[int, Fraction], p: Fraction, crossing: str) -> list[int]:
    total = sum(weights.values())
    chosen = []
    before = Fraction(0)
    for token in ranked:
        through = before + weights[token] / total
        inside = {"kept": before < p, "beyond": before <= p, "dropped": through <= p}[crossing]
        if not chosen or inside:
            chosen.append(token)
        before = through
    return chosen


WEIGHTS = st.lists(st.integers(1, 12), min_size=1, max_size=9)
RULE = st.sampled_from(["first", "last", "all"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """One to four steps with values that fractions and floats share, or nearly."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["temperature", "top_k", "top_p", "min_p"]))
        if kind == "temperature":
            parts.append(f"temperature={draw(st.sampled_from(['1', '0.5', '0.25', '0']))} ties={draw(RULE)}")
        elif kind == "top_k":
            parts.append(f"top_k={draw(st.integers(1, 12))} ties={draw(RULE)}")
        elif kind == "top_p":
            p = draw(st.integers(1, 40)) / 40
            crossing = draw(st.sampled_from(["kept", "beyond", "dropped"]))
            mass = draw(st.sampled_from(["kept", "whole"]))
            parts.append(f"top_p={p} ties={draw(RULE)} crossing={crossing} mass={mass}")
        else:
            parts.append(f"min_p={draw(st.integers(0, 20)) / 20}")
    return " > ".join(parts)


class TestGrammar:
    @given(texts())
    def test_what_is_printed_reads_back(self, text):
        pipeline = parse_pipeline(text)
        assert parse_pipeline(str(pipeline)) == pipeline

    def test_as_data_and_as_text(self):
        pipeline = Pipeline((Temperature(0.7), TopK(50), TopP(0.95), MinP(0.05)))
        assert str(pipeline) == "temperature=0.7 > top_k=50 > top_p=0.95 > min_p=0.05"
        assert parse_pipeline("temperature=0.7>top_k=50 > top_p=0.95 >min_p=0.05") == pipeline

    def test_order_is_kept(self):
        assert parse_pipeline("top_p=0.9 > temperature=2") != parse_pipeline("temperature=2 > top_p=0.9")

    def test_rules_are_written_only_where_they_are_not_the_default(self):
        assert (
            str(Pipeline((TopK(3, ties="any"), TopP(0.5, crossing="beyond"))))
            == "top_k=3 > top_p=0.5 crossing=beyond"
        )

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("temperature=-1", "temperature = -1"),
            ("temperature=nan", "temperature = nan"),
            ("temperature=inf", "temperature = inf"),
            ("top_k=0", "top_k = 0"),
            ("top_k=-1", "top_k = -1"),
            ("top_k=2.5", "top_k = 2.5"),
            ("top_k=inf", "top_k = inf"),
            ("top_p=0", "top_p = 0"),
            ("top_p=1.01", "top_p = 1.01"),
            ("top_p=nan", "top_p = nan"),
            ("min_p=-0.1", "min_p = -0.1"),
            ("min_p=1.5", "min_p = 1.5"),
            ("typical_p=0.9", "'typical_p'"),
            ("top_k=5 ties=maybe", "'maybe'"),
            ("min_p=0.1 ties=all", "'ties'"),
            ("top_k=5 ties=all ties=last", "twice"),
            ("top_k", "'top_k'"),
            ("top_k=", "'top_k='"),
            ("top_k=many", "'many'"),
            ("top_k=5 >", "steps with >"),
            ("", "steps with >"),
            ("temperature=0.7, top_k=50", "rule 'top_k' of temperature"),
        ],
    )
    def test_bad_steps_are_one_clear_error(self, text, said):
        with pytest.raises(InputError, match="expected") as caught:
            parse_pipeline(text)
        assert said in str(caught.value)

    def test_bad_data(self):
        with pytest.raises(InputError, match="without steps"):
            Pipeline(())
        with pytest.raises(InputError, match="type str"):
            Pipeline(("top_k=5",))
        with pytest.raises(InputError, match="a number"):
            TopK("5")


class TestLaw:
    @settings(max_examples=400, deadline=None)
    @given(WEIGHTS, texts())
    def test_it_is_the_law_of_exact_fractions(self, weights, text):
        exact = exact_law(weights, text)
        law = parse_pipeline(text).law(np.log(np.array(weights, dtype=np.float64)))
        assert [p > 0 for p in law.probs] == [p > 0 for p in exact]
        assert np.abs(law.probs - np.array([float(p) for p in exact])).max() < 1e-14

    @pytest.mark.parametrize(
        ("text", "kept"),
        [  # probabilities 1/4, 1/8, 1/8, 1/2
            ("top_p=0.75", [0, 3]),
            ("top_p=0.75 crossing=beyond", [0, 1, 3]),
            ("top_p=0.75 crossing=beyond ties=last", [0, 2, 3]),
            ("top_p=0.75 crossing=beyond ties=all", [0, 1, 2, 3]),
            ("top_p=0.7 crossing=dropped", [3]),
            ("top_p=0.1 crossing=dropped", [3]),
            ("top_p=0.1", [3]),
            ("top_p=1", [0, 1, 2, 3]),
            ("top_k=3", [0, 1, 3]),
            ("top_k=3 ties=last", [0, 2, 3]),
            ("top_k=3 ties=all", [0, 1, 2, 3]),
            ("top_k=100", [0, 1, 2, 3]),
            ("min_p=0.5", [0, 3]),
            ("min_p=0.51", [3]),
            ("min_p=0", [0, 1, 2, 3]),
            ("min_p=1", [3]),
            ("temperature=0", [3]),
            ("top_k=2 > top_p=0.6", [3]),
            ("top_k=2 > top_p=0.6 mass=whole", [0, 3]),
        ],
    )
    def test_edges(self, text, kept):
        pipeline = parse_pipeline(text)
        assert np.flatnonzero(pipeline.kept(np.log([0.25, 0.125, 0.125, 0.5]))).tolist() == kept

    def test_greedy_of_equal_logits(self):
        row = np.array([1.0, 2.0, 2.0])
        assert parse_pipeline("temperature=0").law(row).probs.tolist() == [0, 1, 0]
        assert parse_pipeline("temperature=0 ties=last").law(row).probs.tolist() == [0, 0, 1]
        assert parse_pipeline("temperature=0 ties=all").law(row).probs.tolist() == [0, 0.5, 0.5]

    def test_masked_tokens_stay_out(self):
        law = parse_pipeline("top_k=3 ties=all").law(np.array([-np.inf, 0.0, -np.inf, -np.inf]))
        assert law.probs.tolist() == [0, 1, 0, 0]

    def test_orders_differ(self):
        """3, 2, 1 with top_p = 0.8 and T = 0.5: cooled first, one token has 0.86 of the mass."""
        row = np.array([3.0, 2.0, 1.0])
        assert parse_pipeline("temperature=0.5 > top_p=0.8").kept(row).tolist() == [True, False, False]
        assert parse_pipeline("top_p=0.8 > temperature=0.5").kept(row).tolist() == [True, True, False]

    @settings(deadline=None)
    @given(WEIGHTS, texts(), st.integers(-1000, 1000))
    def test_it_is_blind_to_a_shift(self, weights, text, shift):
        row = np.log(np.array(weights, dtype=np.float64))
        pipeline = parse_pipeline(text)
        rounded = np.round(row * 2**20) / 2**20  # so that the shift itself rounds nothing
        plain, moved = pipeline.law(rounded), pipeline.law(rounded + shift)
        assert np.array_equal(plain.log_probs, moved.log_probs)

    @settings(deadline=None)
    @given(WEIGHTS, texts())
    def test_never_empty(self, weights, text):
        law = parse_pipeline(text).law(np.log(np.array(weights, dtype=np.float64)))
        assert abs(law.probs.sum() - 1) < 1e-12
        assert law.probs.argmax() in np.flatnonzero(np.array(weights) == max(weights))

    @settings(deadline=None)
    @given(WEIGHTS, st.integers(1, 12), st.sampled_from(["any", "first", "last"]))
    def test_never_more_than_k(self, weights, k, ties):
        kept = Pipeline((TopK(k, ties),)).kept(np.log(np.array(weights, dtype=np.float64)))
        assert kept.sum() == min(k, len(weights))

    @settings(deadline=None)
    @given(WEIGHTS, st.floats(0.01, 1.0))
    def test_the_mass_kept_is_p_and_not_more_than_it_takes(self, weights, p):
        share = np.array(weights) / sum(weights)
        kept = Pipeline((TopP(p),)).kept(np.log(share))
        assert share[kept].sum() >= p - 1e-12
        assert share[kept].sum() - share[kept].min() < p + 1e-12

    @settings(deadline=None)
    @given(
        WEIGHTS, st.sampled_from([TopK(3), TopK(2, "all"), MinP(0.3), TopP(0.6, mass="whole"), Temperature(0)])
    )
    def test_twice_is_once(self, weights, step):
        """Of steps whose edge does not move with the tokens that are left; top-p of the kept mass is not
        one."""
        row = np.log(np.array(weights, dtype=np.float64))
        assert np.array_equal(Pipeline((step,)).kept(row), Pipeline((step, step)).kept(row))

    @settings(deadline=None)
    @given(WEIGHTS, st.floats(0.1, 4.0), st.floats(0.1, 4.0))
    def test_temperatures_multiply(self, weights, a, b):
        row = np.log(np.array(weights, dtype=np.float64))
        both = Pipeline((Temperature(a), Temperature(b))).law(row)
        assert np.abs(both.probs - Pipeline((Temperature(a * b),)).law(row).probs).max() < 1e-12

    @pytest.mark.parametrize("row", [[0.0, np.nan], [-np.inf, -np.inf], [[0.0, 1.0]], []])
    def test_bad_rows(self, row):
        with pytest.raises(InputError):
            parse_pipeline("top_k=2").law(np.array(row))


class TestRows:
    def test_a_pipeline_for_each_row(self):
        rows = np.log([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
        laws = row_laws([parse_pipeline("top_k=1"), parse_pipeline("temperature=1")], rows)
        assert laws[0].probs.tolist() == [1, 0, 0]
        assert laws[1].probs == pytest.approx([0.5, 0.3, 0.2])

    def test_numbers_differ(self):
        with pytest.raises(InputError, match="a pipeline for each row"):
            row_laws([parse_pipeline("top_k=1")], np.zeros((2, 3)))
        with pytest.raises(InputError, match="a pipeline for each row"):
            row_laws([parse_pipeline("top_k=1")], np.zeros(3))

    def test_as_settings(self):
        found = row_settings([parse_pipeline("temperature=0.7 > top_k=5"), parse_pipeline("top_p=0.9")])
        assert {name: values.tolist() for name, values in found.items()} == {
            "temperature": [0.7, 1.0],
            "top_k": [5, -1],
            "top_p": [1.0, 0.9],
        }
        with pytest.raises(InputError, match="top_k twice"):
            row_settings([parse_pipeline("top_k=5 > top_k=4")])


# -- what rounding leaves open -------------------------------------------------------------------


def float32_sets(row: np.ndarray, p: float, temperature: float) -> list[np.ndarray]:
    """(vocab,) bool: what top-p after a temperature keeps in float32, masses added from either end and in
    pairs."""
    logits = torch.from_numpy(row.astype(np.float32)) / temperature
    found = []
    for descending in (True, False):
        ordered, ids = logits.sort(descending=descending)
        share = ordered.softmax(-1).numpy()
        for add in (one_by_one, np.cumsum, by_halves):
            through = add(share)
            before = np.concatenate([[np.float32(0)], through[:-1]])
            inside = before < np.float32(p) if descending else through > np.float32(1) - np.float32(p)
            inside[0 if descending else -1] = True
            kept = np.zeros(len(row), dtype=bool)
            kept[ids.numpy()] = inside
            found.append(kept)
    return found


def one_by_one(share: np.ndarray) -> np.ndarray:
    total = np.float32(0)
    sums = []
    for value in share:
        total = np.float32(total + value)
        sums.append(total)
    return np.array(sums)


def by_halves(share: np.ndarray) -> np.ndarray:
    if len(share) == 1:
        return share.copy()
    half = len(share) // 2
    first, second = by_halves(share[:half]), by_halves(share[half:])
    return np.concatenate([first, first[-1] + second])


@st.composite
def rows_at_an_edge(draw: st.DrawFn) -> tuple[np.ndarray, float, float]:
    """A float32 row with ties, a temperature, and a p that is the float32 mass of some tokens, or a step
    beside it."""
    vocab = draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = (np.round(rng.normal(size=vocab) * 4) / 4).astype(np.float32)
    temperature = draw(st.sampled_from([1.0, 0.7, 1.3]))
    share = np.sort(torch.softmax(torch.from_numpy(row) / temperature, 0).numpy())[::-1]
    p = np.float32(share[: draw(st.integers(1, vocab))].sum())
    for _ in range(draw(st.integers(0, 2))):
        p = np.nextafter(p, np.float32(draw(st.sampled_from([0, 2]))))
    return row, float(min(max(p, 1e-6), 1)), temperature


class TestDoubt:
    @settings(max_examples=150, deadline=None)
    @given(rows_at_an_edge())
    def test_what_float32_keeps_is_among_the_laws_in_doubt(self, case):
        row, p, temperature = case
        pipeline = Pipeline((Temperature(temperature), TopP(p)))
        laws = pipeline.laws_in_doubt(row.astype(np.float64), "float32", limit=20_000)
        allowed = {tuple(law.probs > 0) for law in laws}
        doubtful = {doubt.token for doubt in pipeline.doubtful(row.astype(np.float64), "float32")}
        meant = pipeline.kept(row.astype(np.float64))
        for kept in float32_sets(row, p, temperature):
            assert tuple(kept) in allowed
            assert set(np.flatnonzero(kept != meant).tolist()) <= doubtful

    @settings(max_examples=100, deadline=None)
    @given(
        st.permutations(range(12)),
        st.integers(1, 12),
        st.sampled_from(["bfloat16", "float16", "float32"]),
        st.sampled_from(["any", "first", "last", "all"]),
    )
    def test_logits_that_a_temperature_makes_equal(self, places, k, dtype, ties):
        """Twelve neighbours from 1.5 on become fewer than twelve values when they are divided by 1.3."""
        kind = getattr(torch, dtype)
        row = (1.5 + torch.finfo(kind).eps * torch.tensor(places).double()).to(kind)
        assert len(row.unique()) == 12
        assert len((row / 1.3).unique()) < 12
        pipeline = Pipeline((Temperature(1.3), TopK(k, ties)))
        laws = pipeline.laws_in_doubt(row.double().numpy(), dtype, limit=20_000)
        kept = (pipeline.apply(row) > -np.inf).numpy()
        assert tuple(kept) in {tuple(law.probs > 0) for law in laws}

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 2**32), st.sampled_from(["bfloat16", "float32"]))
    def test_whole_pipelines_in_a_dtype(self, seed, dtype):
        rng = np.random.default_rng(seed)
        row = torch.from_numpy(rng.normal(size=10) * 2).to(getattr(torch, dtype))
        ratio = float(np.exp(float(row.double().sort().values[4] - row.double().max())))
        pipeline = Pipeline((Temperature(1.3), TopK(7), TopP(0.9), MinP(ratio)))
        laws = pipeline.laws_in_doubt(row.double().numpy(), dtype, limit=20_000)
        kept = (pipeline.apply(row) > -np.inf).numpy()
        assert tuple(kept) in {tuple(law.probs > 0) for law in laws}
        doubtful = {doubt.token for doubt in pipeline.doubtful(row.double().numpy(), dtype)}
        in_some = np.array([law.probs > 0 for law in laws])
        assert set(np.flatnonzero(in_some.any(0) != in_some.all(0)).tolist()) <= doubtful

    def test_nothing_is_in_doubt_away_from_the_edges(self):
        row = np.log([0.5, 0.25, 0.125, 0.125])
        for text in ("top_p=0.6", "top_k=2", "min_p=0.3", "temperature=0.9 > top_k=2", "temperature=0"):
            assert parse_pipeline(text).doubtful(row) == []
            assert len(parse_pipeline(text).laws_in_doubt(row)) == 1

    def test_margin_and_bound_are_told(self):
        row = np.log([0.5, 0.3, 0.2])
        (doubt,) = parse_pipeline("top_p=0.80000001").doubtful(row)
        assert (doubt.token, doubt.unit, doubt.inside) == (2, "mass", True)
        assert doubt.margin == pytest.approx(1e-8, rel=1e-4)
        assert doubt.margin <= doubt.bound < 1e-5
        assert parse_pipeline("top_p=0.80000001").doubtful(row, "float64") == []

    def test_a_tie_at_the_kth_is_a_choice(self):
        row = np.array([2.0, 1.0, 1.0, 1.0])
        laws = parse_pipeline("top_k=2").laws_in_doubt(row)
        assert [np.flatnonzero(law.probs).tolist() for law in laws] == [[0, 1], [0, 2], [0, 3]]
        assert [doubt.token for doubt in parse_pipeline("top_k=2").doubtful(row)] == [1, 2, 3]
        for ties in ("first", "last", "all"):
            assert parse_pipeline(f"top_k=2 ties={ties}").doubtful(row) == []

    def test_a_doubtful_token_that_a_later_step_drops_is_not_in_doubt(self):
        row = np.array([2.0, 1.0, 1.0])
        assert parse_pipeline("top_k=2 > top_k=1").doubtful(row) == []
        assert len(parse_pipeline("top_k=2 > top_k=1").laws_in_doubt(row)) == 1

    def test_too_many_are_refused(self):
        with pytest.raises(InputError, match="more than 16"):
            parse_pipeline("top_k=10").laws_in_doubt(np.zeros(20))

    def test_unknown_dtype(self):
        with pytest.raises(InputError, match="dtype"):
            parse_pipeline("top_k=1").doubtful(np.zeros(2), "fp8")

    def test_sums_in_pairs_leave_less_in_doubt(self):
        row = np.random.default_rng(0).normal(size=20_000)
        some = parse_pipeline("top_p=0.9").doubtful(row)
        fewer = parse_pipeline("top_p=0.9 sums=pairwise").doubtful(row)
        assert len(fewer) < len(some) / 20


class TestImplemented:
    @settings(max_examples=200, deadline=None)
    @given(WEIGHTS, texts())
    def test_in_float64_it_keeps_what_is_meant_or_what_is_in_doubt(self, weights, text):
        row = np.log(np.array(weights, dtype=np.float64))
        pipeline = parse_pipeline(text)
        kept = (pipeline.apply(torch.from_numpy(row)[None])[0] > -np.inf).numpy()
        laws = pipeline.laws_in_doubt(row, "float64", limit=20_000)
        assert tuple(kept) in {tuple(law.probs > 0) for law in laws}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_it_stays_in_its_dtype(self, dtype):
        out = parse_pipeline("temperature=0.7 > top_k=3 > top_p=0.9").apply(torch.randn(2, 8).to(dtype))
        assert out.dtype is dtype
        assert out.shape == (2, 8)

    def test_bad_tensors(self):
        with pytest.raises(InputError, match="floating"):
            parse_pipeline("top_k=1").apply(torch.zeros(2, 3, dtype=torch.int64))
