"""Whole batches: each fault of rows is called by its name with a call that shows it; right samplers are
left alone."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from judging import statistical
from scipy import stats
from scipy.special import softmax

from precision_lab.calibration.verdicts import RightDraws, small_design
from precision_lab.errors import InputError
from precision_lab.pipelines import parse_pipeline
from precision_lab.samplers import SAMPLERS
from precision_lab.statistics.testing._binomial import conditional_power
from precision_lab.verdict.batch_rows import PLACES, STRANGER, Batch, batch_logits, rows_at, with_setting
from precision_lab.verdict.batches import (
    LARGE,
    SIZES,
    SMALL,
    TESTS,
    decide,
    design,
    detectable_in_company,
    examine_batches,
)
from precision_lab.verdict.caller import Caller, Misbehaved
from precision_lab.verdict.check import check
from precision_lab.verdict.company import Drawn, agreements, events, explained, sign_p_values
from precision_lab.verdict.invariance import examine_identity
from precision_lab.verdict.row_settings import VALUES, log_e_value

LEVEL = 1e-8  # of every stage here


def multinomial(logits, n, *, generator):
    p = torch.softmax(logits.double(), -1)
    return torch.multinomial(p, n, replacement=True, generator=generator).mT


def race(logits, n, *, generator):
    noise = torch.empty(n, *logits.shape, dtype=torch.float64).exponential_(generator=generator)
    return (torch.softmax(logits.double(), -1) / noise).argmax(-1)


def numpy_gumbel(logits, n, *, rng):
    return (logits + rng.gumbel(size=(n, *logits.shape))).argmax(-1)


def first_for_all(logits, n, *, generator):
    return race(logits[:1].expand_as(logits), n, generator=generator)


def copies_the_first(logits, n, *, generator):
    return race(logits, n, generator=generator)[:, :1].expand(n, len(logits))


def reversed_rows(logits, n, *, generator):
    return race(logits, n, generator=generator).flip(1)


def swapped_pair(logits, n, *, generator):
    ids = race(logits, n, generator=generator)
    return ids[:, [0, 2, 1, *range(3, len(logits))]] if len(logits) > 2 else ids


def sometimes_late(logits, n, *, generator):
    """In a quarter of the draws the rows have the answer of the row before."""
    ids = race(logits, n, generator=generator)
    late = torch.rand(n, 1, generator=generator) < 0.25
    return torch.where(late, ids.roll(1, 1), ids)


def not_unsorted(logits, n, *, generator):
    """From 16 rows on they are sorted by their first logit, and come back so."""
    order = logits[:, 0].argsort() if len(logits) >= 16 else torch.arange(len(logits))
    return race(logits[order], n, generator=generator)


def from_eight_on(logits, n, *, generator):
    return race(logits / 0.7 if len(logits) >= 8 else logits, n, generator=generator)


def above_64(logits, n, *, generator):
    return race(logits / 0.7 if len(logits) > 64 else logits, n, generator=generator)


def one_alone(logits, n, *, generator):
    return race(logits / 0.7 if len(logits) == 1 else logits, n, generator=generator)


def last_row(logits, n, *, generator):
    bent = logits.clone()
    if len(bent) > 1:
        bent[-1] /= 0.5
    return race(bent, n, generator=generator)


def fourth_row(logits, n, *, generator):
    bent = logits.clone()
    bent[3:4] /= 0.5
    return race(bent, n, generator=generator)


def greatest_of_the_batch(logits, n, *, generator):
    """exp(logits - greatest of all rows), in float32: rows 100 nats below have no weight left."""
    weights = (logits - logits.max()).exp() + 1e-30
    noise = torch.empty(n, *logits.shape).exponential_(generator=generator)
    return (weights / noise).argmax(-1)


def scaled_by_the_batch(logits, n, *, generator):
    """Flatter, the more the rows differ."""
    spread = logits.std(0).nan_to_num(0.0).mean() if len(logits) > 1 else 0.0
    return race(logits / (1 + spread), n, generator=generator)


def one_noise(logits, n, *, generator):
    noise = torch.empty(n, 1, logits.shape[-1], dtype=torch.float64).exponential_(generator=generator)
    return (torch.softmax(logits.double(), -1) / noise).argmax(-1)


def one_uniform(logits, n, *, generator):
    """Inverse transform with one uniform for all rows."""
    total = torch.softmax(logits.double(), -1).cumsum(-1)
    u = torch.rand(n, 1, 1, generator=generator, dtype=torch.float64)
    return (total[None] < u * total[None, :, -1:]).sum(-1)


def noise_of_pairs(logits, n, *, generator):
    """Rows 0 and 1 share, rows 2 and 3, and so on."""
    rows, vocab = logits.shape
    noise = torch.empty(n, (rows + 1) // 2, vocab, dtype=torch.float64).exponential_(generator=generator)
    return (torch.softmax(logits.double(), -1) / noise.repeat_interleave(2, 1)[:, :rows]).argmax(-1)


def reads_memory(logits, n, *, generator):
    """Strides are not looked at."""
    flat = logits.as_strided((logits.numel(),), (1,)) if logits.stride(0) else logits
    return race(flat.reshape(logits.shape), n, generator=generator)


def half_as_integers(logits, n, *, generator):
    """Sixteen bits are read as float16, whichever they are."""
    read = logits.view(torch.float16) if logits.dtype == torch.bfloat16 else logits
    return race(read, n, generator=generator)


def seed_zero_is_random(logits, n, *, generator):
    if generator.initial_seed() == 0:
        generator = torch.Generator()
        generator.seed()
    return race(logits, n, generator=generator)


def seed_zero_is_stuck(logits, n, *, generator):
    if generator.initial_seed() == 0:
        return logits.argmax(-1).expand(n, len(logits))
    return race(logits, n, generator=generator)


def forgets_the_sign(logits, n, *, generator):
    """The largest seed is read as 32 bits, and taken for 'none given'."""
    seed = generator.initial_seed()
    start = 0 if seed == 2**63 - 1 else seed
    return race(logits, n, generator=torch.Generator().manual_seed(start))


def loses_the_mask(logits, n, *, generator):
    """From 3 rows on the mask of the first row is that of all."""
    if len(logits) >= 3 and torch.isneginf(logits).any():
        logits = torch.where(torch.isneginf(logits[:1]), -torch.inf, logits.clamp(min=-60.0))
    return race(logits, n, generator=generator)


def one_mask_for_all(logits, n, *, generator):
    return race(
        torch.where(torch.isneginf(logits[:1]), -torch.inf, logits.clamp(min=-9.0)), n, generator=generator
    )


def squeezes(logits, n, *, generator):
    return race(logits, n, generator=generator).squeeze(1)


# sampler -> what the verdict says, and words of the detail
PLANTED = {
    first_for_all: ("rows mixed up", "row 1 is given the token of row 0"),
    copies_the_first: ("rows mixed up", "row 1 is given the token of row 0"),
    reversed_rows: ("rows mixed up", "row 0 gets the token of row 1"),
    swapped_pair: ("rows mixed up", "row 1 gets the token of row 2, row 2 gets the token of row 1"),
    sometimes_late: ("rows mixed up", "in part of its draws"),
    not_unsorted: (
        "rows mixed up",
        "in a batch of 16, the rows come back in reversed order; not in batches of up to 9",
    ),
    from_eight_on: ("depends on the batch size", "up to 7 rows, otherwise from 8 rows on"),
    above_64: ("depends on the batch size", "up to 64 rows, otherwise from 65 rows on"),
    one_alone: ("depends on the batch size", "a row alone draws otherwise"),
    last_row: ("depends on its place in the batch", "the last row"),
    fourth_row: ("depends on its place in the batch", "row 3"),
    greatest_of_the_batch: ("depends on its neighbours", "100 nats higher"),
    scaled_by_the_batch: ("depends on its neighbours", "beside different rows"),
    one_noise: ("same noise for all rows", "all pairs of 64 rows"),
    one_uniform: ("same noise for all rows", "pairs of 64 rows"),
    noise_of_pairs: ("same noise for several rows", "32 of 2016 pairs of 64 rows"),
    reads_memory: ("depends on the layout of its logits", "columns of a (vocab, batch) array"),
    half_as_integers: ("depends on the dtype of its logits", "given as bfloat16"),
    seed_zero_is_random: ("ignores its generator", "two calls with seed 0"),
    seed_zero_is_stuck: ("depends on its seed", "with seed 0"),
    forgets_the_sign: ("ignores its generator", "seeds 0 and 9223372036854775807 give the same"),
    loses_the_mask: ("depends on its neighbours", "other tokens at -inf"),
    one_mask_for_all: ("draws a token of probability zero", "for a batch of 8"),
    squeezes: ("wrong shape", "for one row"),
}


def stage(sampler, seed: int = 0, **options):
    return examine_batches(Caller.of(sampler), seed=seed, level=LEVEL, **options)


class TestPlanted:
    @pytest.mark.parametrize("sampler", PLANTED, ids=lambda f: f.__name__)
    def test_each_is_called_by_its_name(self, sampler):
        """Each is missed less than once in 1e6 seeds: the powers below, and total failures."""
        what, detail = PLANTED[sampler]
        with pytest.raises(Misbehaved) as fault:
            stage(sampler)
        assert what in fault.value.what
        assert detail in fault.value.detail
        assert "Batch(" in fault.value.call

    @pytest.mark.parametrize(
        "name", ["one_alone", "reversed_rows", "from_eight_on", "reads_memory", "half_as_integers"]
    )
    def test_the_shown_call_shows_it(self, name, capsys):
        """Pasted, it prints a row whose likeliest token came otherwise than expected: off by 6 standard
        deviations."""
        with pytest.raises(Misbehaved) as fault:
            examine_batches(Caller.of(f"{__file__}:{name}"), seed=0, level=LEVEL)
        exec(fault.value.call, {})
        off = []
        for line in capsys.readouterr().out.splitlines():
            came, n, expected = re.search(r" in (\d\.\d+) of (\d+) draws, expected (\d\.\d+)", line).groups()
            off.append((float(came) - float(expected)) / math.sqrt(0.25 / int(n)))
        assert max(map(abs, off)) > 6

    def test_a_call_with_settings_and_strides_can_be_read_back(self):
        batch = Batch(
            "own", 2, 4, 3, 5, layout="column view", dtype="float16", settings={"seed": [1, 2]}, first=1
        )
        again = eval(str(batch), {"Batch": Batch})
        assert vars(again) == vars(batch)


class TestRight:
    @statistical(false_fail=2 * LEVEL)
    @pytest.mark.parametrize("sampler", [multinomial, race, numpy_gumbel], ids=lambda f: f.__name__)
    def test_right_samplers_pass(self, sampler):
        found = stage(sampler)
        assert set(found) == set(TESTS)
        assert not any(result.failed for result in found.values())

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_no_sampler_of_the_package_mixes_its_rows(self, name):
        """Their laws can be wrong: that is told by ``row_laws`` as a test. Of rows none is accused: 1e-8
        each, 6e-7 in all over the choice of the seed."""
        found = stage(name)
        assert set(found) == set(TESTS)
        assert not found["company"].failed
        if name.endswith("fp64"):
            assert not found["row_laws"].failed

    @pytest.mark.parametrize("name", ["gumbel_max_bf16", "exponential_race_bf16", "jax_low_bf16"])
    def test_a_wrong_law_is_a_wrong_law_and_no_fault_of_rows(self, name):
        found = stage(name)
        assert found["row_laws"].failed
        assert not found["company"].failed

    @pytest.mark.slow
    def test_jax(self):
        jax = pytest.importorskip("jax")

        def sample(logits, n, *, key):
            return jax.random.categorical(key, logits, shape=(n, logits.shape[0]))

        heard = []
        assert set(stage(sample, say=heard.append)) == set(TESTS)
        assert heard == ["sample: rows that differ, alone and in batches of 2, 8, 64"]

    def test_strides_are_not_asked_of_jax(self):
        jax = pytest.importorskip("jax")
        caller = Caller.of(
            lambda logits, n, *, key: jax.random.categorical(key, logits, shape=(n, len(logits)))
        )
        with pytest.raises(InputError, match="strides"):
            caller.fresh(0, batch_logits("own", 2, 4), 3, layout="column view")

    def test_refusals_are_told_and_are_no_faults(self):
        def float32_matrices(logits, n, *, generator):
            if logits.dtype != torch.float32 or not logits.is_contiguous() or logits.ndim != 2:
                raise TypeError(f"no {logits.dtype}")
            return race(logits, n, generator=generator)

        heard = []
        assert set(stage(float32_matrices, say=heard.append)) == set(TESTS)
        for given in ("column view", "every other", "expanded", "one row", "float16", "bfloat16"):
            assert any(f"takes no {given} logits: raises, TypeError" in line for line in heard)

    def test_another_vocabulary_refused_leaves_the_stage_out(self):
        def of_300(logits, n, *, generator):
            if logits.shape[-1] != 300:
                raise ValueError("300 tokens")
            return race(logits, n, generator=generator)

        heard = []
        assert stage(of_300, say=heard.append) == {}
        assert "batches are not judged" in heard[0]

    def test_draws_of_one_call_that_depend_on_each_other_are_left_to_their_test(self):
        def once(logits, n, *, generator):
            return race(logits, 1, generator=generator).expand(n, len(logits))

        def twice(logits, n, *, generator):
            return race(logits, (n + 1) // 2, generator=generator).repeat_interleave(2, 0)[:n]

        for sampler in (once, twice):
            heard = []
            assert stage(sampler, say=heard.append) == {}
            assert "depend on each other" in heard[-1]


class TestRows:
    @pytest.mark.parametrize("vocab", [2, 4, 16, 66])
    def test_every_row_has_a_law_of_its_own_and_no_two_share_a_rank(self, vocab):
        logits = batch_logits("own", vocab, vocab)
        assert all(sorted(row) == sorted(-np.arange(float(vocab))) for row in logits)
        assert all(len(set(column)) == vocab for column in logits.T)

    @pytest.mark.parametrize("kind", PLACES)
    def test_half_precision_holds_every_logit(self, kind):
        logits = torch.from_numpy(batch_logits(kind, 16 if kind == "masked" else 8, 16))
        for dtype in (torch.float16, torch.bfloat16):
            assert torch.equal(logits.to(dtype).float(), logits)

    def test_places(self):
        assert sorted(rows_at("permuted", 8)) == list(range(8))
        assert not (rows_at("permuted", 8) == np.arange(8)).any()
        assert rows_at("joined", 4).tolist() == [STRANGER, STRANGER, 0, 1]
        assert rows_at("own", 2, first=3).tolist() == [3, 4]

    def test_half_precision_is_left_out_only_where_steps_run_before(self):
        """Without steps nothing runs before a sampler, and it is given every dtype."""
        plain = design(0, before=True)
        assert plain.left_out == ()
        assert {"float16", "bfloat16"} <= {batch.dtype for batch in plain.company}
        assert not any(batch.before for batch in plain.company)
        assert design(0, pipeline=parse_pipeline("top_k=5"), before=True).left_out == ("float16", "bfloat16")

    def test_bad_input(self):
        with pytest.raises(InputError, match="own"):
            batch_logits("onw", 2, 16)
        with pytest.raises(InputError, match="a prime less 1"):
            batch_logits("own", 2, 15)

    def test_every_decision_is_counted(self):
        """The union bound is over at least as many p-values as there are."""
        asked = design(0)
        assert asked.decisions > 4 * sum(SIZES)
        assert asked.decisions - sum(r * (r - 1) // 2 for r in (2, 8, 64)) == 4 * (
            1 + sum(1 + int((b.rows_at != STRANGER).sum()) for b in asked.company if b.kind != "alike")
        )


NOBODY = SimpleNamespace(spec="laws", takes=frozenset())


class TestErrorRates:
    """Simulations of more runs: ``company``, ``row_laws`` and ``row_pairs`` of the calibration."""

    @statistical(false_fail=1e-8)
    def test_the_decision_keeps_its_level(self):
        """500 right samplers at a level of 0.05: no more fails of either test than a binomial of that rate has,
        but for 1e-8 in all. Of the laws of rows there are some: the test is no constant."""
        asked, rng = small_design(), np.random.default_rng(1)
        right = RightDraws(asked)
        called, laws = 0, 0
        for _ in range(500):
            alone, drawn = right.stage(rng)
            try:
                laws += decide(asked, alone, drawn, [], 0.05, 1e-3, NOBODY)["row_laws"].failed
            except Misbehaved:
                called += 1
        most = stats.binom.isf(5e-9, 500, 0.05)
        assert called <= most
        assert 0 < laws <= most

    @statistical(false_fail=1e-8)
    def test_the_same_decision_sees_a_fault_of_rows(self):
        """50 such samplers that answer the rows of every batch in reverse: each is called, but for one in a
        hundred at most, so that fewer than 40 calls have a probability below 1e-11."""
        asked, rng = small_design(), np.random.default_rng(2)
        draws = RightDraws(asked)
        called = 0
        for _ in range(50):
            alone, drawn = draws.stage(rng)
            reversed_ = [Drawn(each.batch, each.ids[:, ::-1]) for each in drawn]
            try:
                decide(asked, alone, reversed_, [], 0.05, 1e-3, NOBODY)
            except Misbehaved:
                called += 1
        assert called >= 40

    @pytest.mark.parametrize(
        ("rows", "temperature", "most"),
        [(8, 0.7, 1e-6), (8, 1.5, 1e-6), (64, 0.7, 1e-6), (2, 0.5, 1e-6), (2, 2.5, 1e-6)],
    )
    def test_power_against_a_temperature_from_some_size_on(self, rows, temperature, most):
        """Exact, by the likeliest token of all rows together."""
        level = 1e-7 / design(0).decisions
        assert miss(rows * SIZES[rows], level, likeliest(temperature)) <= most

    def test_power_against_a_temperature_of_the_last_row_alone(self):
        level = 1e-7 / design(0).decisions
        assert miss(sum(SIZES.values()), level, likeliest(0.5)) <= 1e-6
        assert miss(sum(SIZES.values()), level, likeliest(2.5)) <= 1e-6

    @pytest.mark.parametrize("rows", SIZES)
    def test_power_against_another_rows_token(self, rows):
        """One place of a batch that has the law of any other row: exact, by the set of tokens that tells
        most."""
        level = 1e-7 / design(0).decisions
        vocab = SMALL if rows <= SMALL else LARGE
        probs = Batch("own", rows, vocab, 1, 0).probs
        worst = {}
        for j in range(rows):
            sets = events(j, vocab)
            own, others = sets @ probs[j], probs @ sets.T
            clearest = np.abs(others - own).argmax(axis=1)
            for i in range(rows):
                if i != j:
                    other = others[i, clearest[i]]
                    worst.setdefault(round(abs(other - own[clearest[i]]), 3), (other, own[clearest[i]]))
        assert miss(SIZES[rows], level, *worst[min(worst)]) <= 1e-6

    def test_the_stated_effect_is_seen(self):
        level = 1e-7 / design(0).decisions
        d = detectable_in_company(4096, level, 1e-3)
        assert 0.2 < d < 0.5
        assert miss(4096, level, likeliest(1 + d)) <= 1e-3 * (1 + 1e-6)
        assert miss(4096, level, likeliest(1 - d)) <= 1e-3 * (1 + 1e-6)
        assert miss(4096, level, likeliest(1 + d / 2)) > 1e-3

    def test_pairs_of_rows_agree_as_told(self):
        ids = np.array([[1, 1, 0], [0, 2, 1], [1, 2, 2], [3, 0, 0], [2, 2, 2], [2, 1, 0]])
        together, apart = agreements(ids)  # pairs (0, 1), (0, 2), (1, 2)
        assert together.tolist() == [1, 0, 1]
        assert apart.tolist() == [0, 0, 1]

    def test_p_values_of_coins(self):
        assert sign_p_values(np.array(0), np.array(0)) == 1
        assert sign_p_values(np.array(10), np.array(0)) == pytest.approx(2**-9)
        assert sign_p_values(np.array(3), np.array(3)) == 1


def likeliest(temperature: float) -> float:
    return float(1 / np.exp(-np.arange(16) / temperature).sum())


def miss(
    pairs: int, level: float, other: float, own: float = 1 / sum(math.exp(-k) for k in range(16))
) -> float:
    """False-pass rate where the rate of a set of tokens is ``other`` in company and ``own`` alone."""
    up, down = other * (1 - own), own * (1 - other)
    return 1 - conditional_power(pairs, up + down, level)(max(up, down) / (up + down))


class TestNaming:
    PROBS = Batch("own", 4, 16, 1, 0).probs

    def draws(self, law, n=400):
        return np.repeat(np.arange(16), np.round(law * n).astype(int))

    def test_whose_law_it_is(self):
        assert explained(self.draws(self.PROBS[2]), self.PROBS, 1)[0] == 2
        assert explained(self.draws(self.PROBS[1]), self.PROBS, 1) == (1, 1.0)
        row, share = explained(self.draws(0.7 * self.PROBS[1] + 0.3 * self.PROBS[0]), self.PROBS, 1)
        assert (row, share) == (0, pytest.approx(0.3, abs=0.03))

    @pytest.mark.parametrize("temperature", [0.3, 0.8, 1.3, 3.0])
    def test_a_wrong_temperature_is_no_other_row(self, temperature):
        wrong = with_setting(self.PROBS[1], "temperature", temperature)
        assert explained(self.draws(wrong), self.PROBS, 1)[0] == 1

    def test_a_flat_law_is_no_other_row(self):
        assert explained(np.arange(320) % 16, self.PROBS, 1)[0] == 1


class Settled:
    """A sampler with settings by row, by Gumbel-max in NumPy. ``change``: what it makes of the settings
    that it is given; ``noise``: (seed of the call, seeds of the rows, rows) -> the generator of each
    row."""

    spec = "settled"

    def __init__(self, *takes, change=dict, noise=None):
        self.takes = frozenset(takes)
        self.change = change
        self.noise = noise or own_noise

    def fresh(self, seed, logits, n, *, settings=None, layout="plain", dtype="float32"):
        given = self.change({name: list(values) for name, values in (settings or {}).items()})
        probs = softmax(logits.astype(np.float64), axis=1)
        for name, values in given.items():
            if name != "seed":
                probs = np.stack([with_setting(p, name, v) for p, v in zip(probs, values, strict=True)])
        rngs = self.noise(seed, given.get("seed"), len(logits))
        with np.errstate(divide="ignore"):
            return np.stack(
                [
                    (np.log(p) + rng.gumbel(size=(n, len(p)))).argmax(-1)
                    for p, rng in zip(probs, rngs, strict=True)
                ],
                1,
            )


def own_noise(seed, seeds, rows):
    return [np.random.default_rng([seed, j] if seeds is None else seeds[j]) for j in range(rows)]


def first_ones(settings):
    return {name: [values[0]] * len(values) for name, values in settings.items()}


def ignored(settings):
    return {}


def squared(settings):
    return {
        name: [v * v for v in values] if name == "temperature" else values for name, values in settings.items()
    }


def reversed_settings(settings):
    return {name: values[::-1] for name, values in settings.items()}


EACH = ("temperature", "top_k", "top_p", "min_p")


class TestSettings:
    def stage(self, drawer, **options):
        return examine_batches(drawer, seed=0, level=LEVEL, **options)

    @statistical(false_fail=2 * LEVEL)
    def test_rows_with_their_own_settings_pass(self):
        found = self.stage(Settled(*EACH))
        assert not any(result.failed for result in found.values())

    @pytest.mark.parametrize("name", EACH)
    @pytest.mark.parametrize(
        ("change", "says"),
        [(first_ones, "of row 0"), (ignored, "has no effect"), (reversed_settings, "in reversed order")],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_other_settings_than_their_own_are_told(self, name, change, says):
        """A token that a row forbids, or 256 draws at twice the temperature: e-values of 1e20 and more."""
        with pytest.raises(Misbehaved, match="ignores row settings") as fault:
            self.stage(Settled(name, change=change))
        assert says in fault.value.detail
        assert name in fault.value.detail
        assert f"settings={{'{name}'" in fault.value.call

    def test_a_temperature_applied_twice(self):
        with pytest.raises(Misbehaved, match="the temperature is applied twice"):
            self.stage(Settled("temperature", change=squared))

    def test_the_e_value_is_one_on_average(self):
        """Over all outcomes of two draws, exactly: sum of p(x) e(x) = 1 for laws that forbid what p forbids."""
        p, others = np.array([0.5, 0.3, 0.2]), [np.array([0.2, 0.2, 0.6]), np.array([1 / 3] * 3)]
        mean = sum(
            p[i] * p[j] * math.exp(log_e_value(np.array([i, j]), p, others)) for i in range(3) for j in range(3)
        )
        assert mean == pytest.approx(1)
        assert log_e_value(np.array([2]), np.array([0.5, 0.5, 0.0]), others) == math.inf

    def test_no_value_lies_on_an_edge(self):
        """Truncated by any rule of the crossing token, the set of tokens is the same as a little to either
        side."""
        probs = Batch("own", 1, 16, 1, 0).probs[0]
        for name in ("top_p", "min_p"):
            for value in VALUES[name]:
                kept = [with_setting(probs, name, value * (1 + d)) > 0 for d in (-0.003, 0.0, 0.003)]
                assert (kept[0] == kept[1]).all()
                assert (kept[1] == kept[2]).all()

    def test_caller_refuses_settings_that_its_sampler_does_not_take(self):
        with pytest.raises(InputError, match="temperature"):
            Caller.of(race).fresh(0, batch_logits("own", 2, 4), 3, settings={"temperature": np.ones(2)})


def one_generator(seed, seeds, rows):
    """One generator for the whole batch: a row's noise depends on how many rows there are."""
    return [np.random.default_rng([seed, rows, j]) for j in range(rows)]


def lost_in_company(seed, seeds, rows):
    return own_noise(seed, seeds if rows == 1 else None, rows)


def zero_is_random(seed, seeds, rows):
    return [np.random.default_rng() if s == 0 else np.random.default_rng(s) for s in seeds or [seed] * rows]


def thirty_two_bits(seed, seeds, rows):
    return [np.random.default_rng(s % 2**32) for s in seeds or [seed] * rows]


def by_place(seed, seeds, rows):
    return [np.random.default_rng([s, j]) for j, s in enumerate(seeds or [seed] * rows)]


def first_seed(seed, seeds, rows):
    return own_noise(seed, [seeds[0]] * rows if seeds else None, rows)


def by_call(seed, seeds, rows):
    return [np.random.default_rng([seed, s, 7]) for s in seeds or range(rows)]


class TestIdentity:
    def test_seeds_of_rows(self):
        examine_identity(Settled("seed"), seed=0)

    def test_without_seeds_of_rows_a_place_keeps_its_noise(self):
        heard = []
        examine_identity(Settled(), seed=0, say=heard.append)
        assert "takes no seeds by row" in heard[0]

    @pytest.mark.parametrize(
        ("takes", "noise", "what", "detail"),
        [
            ((), one_generator, "depends on the batch size", "alone, from the same seed"),
            (("seed",), one_generator, "depends on the batch size", "from the same seed 0"),
            (("seed",), lost_in_company, "depends on the batch size", "row 0 gets"),
            (("seed",), zero_is_random, "does not repeat its ids", "row 0"),
            (("seed",), by_place, "depends on the batch size", "row 1"),
            (("seed",), first_seed, "depends on the batch size", "row 1"),
            (("seed",), by_call, "depends on more than the seeds of its rows", "row 0"),
            (("seed",), thirty_two_bits, "ignores row settings", "from seeds 0 and 4294967296"),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_what_breaks_it(self, takes, noise, what, detail):
        """Rows with other noise have the same 64 ids with 2^-71."""
        with pytest.raises(Misbehaved, match=what) as fault:
            examine_identity(Settled(*takes, noise=noise), seed=5)
        assert detail in fault.value.detail
        assert "Batch(" in fault.value.call

    def test_company_that_is_looked_at(self):
        class Nosy(Settled):
            def fresh(self, seed, logits, n, **options):
                return super().fresh(seed + int(abs(logits[-1]).sum() == 0), logits, n, **options)

        with pytest.raises(Misbehaved, match="depends on its neighbours") as fault:
            examine_identity(Nosy(), seed=0)
        assert "before rows of zeros" in fault.value.detail

    def test_it_is_asked_by_the_option_alone(self):
        drawer = Settled(noise=one_generator)
        assert set(examine_batches(drawer, seed=0, level=LEVEL)) == set(TESTS)
        with pytest.raises(Misbehaved, match="batch size"):
            examine_batches(drawer, seed=0, level=LEVEL, identity=True)


RARE = """
import torch
def rare(logits, n, *, generator):
    ids = torch.multinomial(logits.double().softmax(-1), n, replacement=True, generator=generator).mT
    never = torch.rand((), generator=generator) < 0.02
    return ids + logits.shape[-1] if never and logits.shape[-1] > 100 else ids
def varying(logits, n, *, generator):
    noise = torch.empty(n, *logits.shape, dtype=torch.float64).exponential_(generator=generator)
    return (logits.double().softmax(-1) / noise).argmax(-1)
def invariant(logits, n, *, generator):
    seed = int(torch.randint(2**40, (), generator=generator))
    rows = [torch.Generator().manual_seed(seed + 1000 * place) for place in range(len(logits))]
    p = logits.double().softmax(-1)
    return torch.stack([torch.multinomial(q, n, replacement=True, generator=g) for q, g in zip(p, rows)], 1)
"""


class TestReplay:
    def test_a_fault_deep_in_a_stream_is_repeated_by_its_line(self, tmp_path, monkeypatch, capsys):
        """One call in 50 answers beyond the vocabulary: 128 calls and more without one have probability
        0.07, and then the draws pass; with this seed one has it."""
        (tmp_path / "mine.py").write_text(RARE)
        monkeypatch.chdir(tmp_path)
        report = check("mine.py:rare", targets=["zipf[vocab=300]"], seed=1, say=lambda line: None)
        assert report.fault is not None
        assert report.fault.what == "ids out of range"
        assert "calls=[" in report.fault.call
        with pytest.raises(Misbehaved, match=re.escape(report.fault.detail)):
            exec(report.fault.call, {})


class TestCommand:
    def test_check_batch(self, tmp_path, monkeypatch):
        """In its own process: batch invariant, and not. Four thousand draws at the most."""
        (tmp_path / "mine.py").write_text(RARE)
        monkeypatch.chdir(tmp_path)
        options = {"targets": ["zipf[vocab=100]"], "detect": "temperature=0.1", "say": lambda line: None}
        assert check("mine.py:invariant", batch=True, **options).outcome == "pass"
        report = check("mine.py:varying", batch=True, **options)
        assert report.fault.what == "depends on the batch size"
        assert "--batch" in report.command
