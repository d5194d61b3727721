"""Laws, counts and numbers at the edges of what the judge accepts, and one call of each of its public
functions on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy.special import logsumexp

from precision_lab import statistics
from precision_lab.laws.law import Law
from precision_lab.statistics import Counts
from precision_lab.types import Guarantee

MOST = 2**53  # the largest whole number below which float64 has them all
GAPS = (0.0, 1e-300, 1e-16, 1e-8, 0.5, 1.0, 17.0, 37.0, 50.0, 100.0, 354.0, 700.0, 745.0, 800.0, math.inf)
ERRORS = (0.0, 1e-17, 1e-9, 0.01, 1.0)
ORDERS = (
    0.0,
    5e-324,
    0.5,
    1 - 2**-53,
    1.0,
    1 + 2**-52,
    1 + 1e-9,
    1.0625,
    2.0,
    15.99,
    16.01,
    700.0,
    1e10,
    1e300,
)
RATES = (5e-324, 1e-300, 1e-16, 1e-6, 0.05, 0.5, 0.9, 1 - 2**-53)
TOTALS = (1, 2, 3, 7, 1000, 10**9 - 1, 10**9, 10**10 + 1, 2**50, 2**50 + 1, MOST - 1, MOST)


@dataclass(frozen=True, eq=False)
class Case:
    """One input of everything: two laws over one vocabulary, counts and token ids of it, and numbers."""

    p: Law
    q: Law
    counts: Counts
    other: Counts
    tokens: np.ndarray  # (sequences, length)
    values: np.ndarray  # (k,) real numbers
    order: float
    size: int
    total: int
    hits: int
    rate: float
    seed: int

    def __repr__(self) -> str:
        return (
            f"Case(log p={self.p.log_probs.tolist()} error={self.p.error:g}, log q={self.q.log_probs.tolist()}, "
            f"counts={self.counts.counts.tolist()}, other={self.other.counts.tolist()}, "
            f"tokens={self.tokens.tolist()}, values={self.values.tolist()}, order={self.order!r}, "
            f"size={self.size}, total={self.total}, hits={self.hits}, rate={self.rate!r}, seed={self.seed})"
        )

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def law_of_gaps(gaps: Sequence[float], error: float = 0.0) -> Law:
    """The law whose tokens lie so many nats below the first, which is at 0."""
    logits = -np.array([0.0, *gaps])
    return Law(logits - logsumexp(logits), "edge", error, Guarantee.EXACT)


@st.composite
def laws(draw: st.DrawFn, vocab: int, error: float = 0.0) -> Law:
    """Peaked to 800 nats, ties, -inf, flat, nearly flat, in any order of the tokens."""
    gap = st.one_of(st.sampled_from(GAPS), st.floats(0, 30), st.floats(0, 800))
    kind = draw(st.sampled_from(("any", "any", "flat", "one gap")))
    if kind == "flat":
        gaps = [0.0] * (vocab - 1)
    elif kind == "one gap":
        gaps = [draw(gap)] * (vocab - 1)
    else:
        gaps = draw(st.lists(gap, min_size=vocab - 1, max_size=vocab - 1))
    made = law_of_gaps(gaps, error)
    order = draw(st.permutations(range(vocab)))
    return Law(made.log_probs[list(order)], made.how, error, made.guarantee)


@st.composite
def counted(draw: st.DrawFn, vocab: int) -> Counts:
    """Nothing, ones, or very many of each token; the sum up to 2^53."""
    each = st.one_of(st.integers(0, 5), st.integers(0, 1000), st.sampled_from((0, 10**9, 10**12, 2**49)))
    counts = draw(st.lists(each, min_size=vocab, max_size=vocab))
    if not any(counts):
        counts[draw(st.integers(0, vocab - 1))] = draw(st.sampled_from(TOTALS))
    return Counts(np.array(counts, dtype=np.int64), sum(counts))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A :class:`Case` of 1 to 6 tokens."""
    vocab = draw(st.sampled_from((1, 2, 2, 2, 3, 4, 6)))
    total = draw(st.one_of(st.sampled_from(TOTALS), st.integers(1, 50), st.integers(1, MOST)))
    shape = draw(st.sampled_from(((1, 1), (1, 5), (2, 4), (6, 3))))
    scale = draw(st.sampled_from((1.0, 0.0, 1e-320, 1e-110, 1e110, 1e300, -1e16)))
    numbers = st.one_of(st.floats(-2, 2), st.sampled_from((0.0, 1.0, 1e-9)))
    return Case(
        p=draw(laws(vocab, draw(st.sampled_from(ERRORS)))),
        q=draw(laws(vocab)),
        counts=draw(counted(vocab)),
        other=draw(counted(vocab)),
        tokens=np.array(
            draw(
                st.lists(st.integers(0, vocab - 1), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
            )
        ).reshape(shape),
        values=scale * np.array(draw(st.lists(numbers, min_size=1, max_size=7))),
        order=draw(st.one_of(st.sampled_from(ORDERS), st.floats(0, 4))),
        size=draw(st.one_of(st.integers(1, 30), st.sampled_from(TOTALS))),
        total=total,
        hits=draw(st.one_of(st.integers(0, total), st.sampled_from((0, total, total // 2)))),
        rate=draw(st.one_of(st.sampled_from(RATES), st.floats(0.001, 0.999))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


LOOSE = {"false_fail": 0.05}  # what a simulated null of 19 rows can say


def mean_and_square(values: np.ndarray) -> list[float]:
    with np.errstate(over="ignore"):
        return [values.mean(), (values**2).mean()]


CALLS: dict[str, Callable[[Case], Any]] = {
    "agreement": lambda c: statistics.agreement(c.p, c.q),
    "agreement_test": lambda c: statistics.agreement_test(c.tokens[0], c.tokens[-1], c.p, c.q),
    "alternative_laws": lambda c: statistics.alternative_laws(c.p),
    "benjamini_hochberg": lambda c: statistics.benjamini_hochberg(np.abs(c.values)),
    "blocked_identity_test": lambda c: statistics.blocked_identity_test(
        [c.counts, c.counts], c.p, rng=c.rng, false_fail=0.05, resamples=99
    ),
    "chao_jost": lambda c: [statistics.chao_jost(c.counts, k) for k in (0, 1, 2)],
    "chao_wang_jost": lambda c: statistics.chao_wang_jost(c.counts),
    "Chance.of_draws": lambda c: statistics.Chance.of_draws(c.p, c.q, times=min(c.size, 10**6)),
    "chi_square_test": lambda c: statistics.chi_square_test(c.counts, c.p),
    "cluster_bootstrap": lambda c: statistics.cluster_bootstrap(
        lambda at: float(c.values[at].mean()), len(c.values), rng=c.rng, resamples=1 + c.size % 30
    ),
    "cluster_jackknife": lambda c: statistics.cluster_jackknife(
        lambda at: float(c.values[at].mean()), len(c.values)
    ),
    "combined_e": lambda c: [statistics.combined_e(c.values, independent=so) for so in (False, True)],
    "coupled_test": lambda c: statistics.coupled_test(c.tokens, c.tokens[::-1], c.p.probs > 0.3),
    "coverage_estimate": lambda c: statistics.coverage_estimate(c.counts),
    "cross_row_test": lambda c: statistics.cross_row_test(c.tokens, c.p),
    "detectable_blocked_identity": lambda c: statistics.detectable_blocked_identity(max(4, c.total), c.p),
    "detectable_chi_square": lambda c: statistics.detectable_chi_square(c.total, c.p),
    "detectable_coupled": lambda c: statistics.detectable_coupled(c.total, c.rate),
    "detectable_difference": lambda c: statistics.detectable_difference(statistics.mean(c.values), c.size),
    "detectable_identity": lambda c: statistics.detectable_identity(c.total, c.p),
    "detectable_likelihood_ratio": lambda c: statistics.detectable_likelihood_ratio(c.total, c.p, c.q),
    "detectable_reachability": lambda c: statistics.detectable_reachability(c.total, c.p),
    "detectable_sharing": lambda c: statistics.detectable_sharing(c.total, c.p, c.q),
    "detectable_state_bits": lambda c: statistics.detectable_state_bits(
        max(2, c.total), statistics.Chance.of_draws(c.p)
    ),
    "detectable_tail": lambda c: statistics.detectable_tail(c.total, c.rate, p0_error=c.p.error * c.rate),
    "detectable_temperature": lambda c: statistics.detectable_temperature(c.total, c.p),
    "detectable_temperature, asymptotic": lambda c: statistics.detectable_temperature(
        c.total, c.p, asymptotic=True
    ),
    "detectable_tie_order": lambda c: statistics.detectable_tie_order(c.total),
    "detectable_two_sample": lambda c: statistics.detectable_two_sample(c.total, c.p),
    "detectable_unmask_rate": lambda c: statistics.detectable_unmask_rate([c.total, 3], [c.rate, 0.5]),
    "difference": lambda c: statistics.difference(
        statistics.mean(c.values), statistics.mean(c.values[::-1] + 1.0)
    ),
    "diversity": lambda c: statistics.diversity(c.tokens, statistics.sequence_entropy, rng=c.rng),
    "draft_target_test": lambda c: statistics.draft_target_test(c.tokens[0], c.tokens[-1], c.p, c.q),
    "draw_jackknife": lambda c: statistics.draw_jackknife(statistics.entropy, c.counts),
    "draws_needed_chi_square": lambda c: statistics.draws_needed_chi_square(c.p, c.q),
    "draws_needed_blocked_identity": lambda c: statistics.draws_needed_blocked_identity(c.p, c.rate),
    "draws_needed_coupled": lambda c: statistics.draws_needed_coupled(c.rate / 2, c.rate / 3),
    "draws_needed_identity": lambda c: statistics.draws_needed_identity(c.p, c.q),
    "draws_needed_likelihood_ratio": lambda c: statistics.draws_needed_likelihood_ratio(c.p, c.q),
    "draws_needed_reachability": lambda c: statistics.draws_needed_reachability(c.p, c.q),
    "draws_needed_sharing": lambda c: statistics.draws_needed_sharing(c.p, c.q, c.rate),
    "draws_needed_tail": lambda c: statistics.draws_needed_tail(c.rate, c.rate * 0.9),
    "draws_needed_tail of laws": lambda c: statistics.draws_needed_tail(c.p, c.q),
    "draws_needed_temperature": lambda c: statistics.draws_needed_temperature(c.p, 10 * c.rate),
    "draws_needed_temperature of laws": lambda c: statistics.draws_needed_temperature(c.p, c.q),
    "draws_needed_tie_order": lambda c: statistics.draws_needed_tie_order(c.p.log_probs, c.q),
    "draws_needed_two_sample": lambda c: statistics.draws_needed_two_sample(c.p, c.q),
    "draws_needed_unmask_rate": lambda c: statistics.draws_needed_unmask_rate([c.rate, 0.5], 0.9),
    "e_bh": lambda c: statistics.e_bh(c.values),
    "effective_temperature": lambda c: statistics.effective_temperature(c.q, c.p),
    "entropy": lambda c: [statistics.entropy(source) for source in (c.p, c.counts)],
    "EProcess": lambda c: e_process(c),
    "EProcess.draws_needed": lambda c: statistics.EProcess(c.p, [c.q]).draws_needed(c.q),
    "family": lambda c: statistics.family({"one": statistics.tail_test(c.hits, c.total, c.rate)}),
    "forecast_pytorch_repeats": lambda c: statistics.forecast_pytorch_repeats(abs(c.values[0]), c.size),
    "forecast_vllm_streams": lambda c: statistics.forecast_vllm_streams(c.p, c.rate, c.total),
    "hill": lambda c: [statistics.hill(draws, k) for draws in (c.counts, c.tokens) for k in (0, 1, 2)],
    "hill, coverage": lambda c: statistics.hill(c.counts, 1, coverage=c.rate),
    "hill, size": lambda c: statistics.hill(c.counts, 1, size=c.size),
    "hill_difference": lambda c: statistics.hill_difference(c.counts, c.counts, 2),
    "hill_number": lambda c: [statistics.hill_number(source, c.order) for source in (c.p, c.counts)],
    "holm": lambda c: statistics.holm(np.abs(c.values)),
    "identity_test": lambda c: statistics.identity_test(
        c.counts, c.p, rng=c.rng, false_fail=0.05, resamples=19
    ),
    "joint_region": lambda c: statistics.joint_region(lambda at: mean_and_square(c.values[at]), len(c.values)),
    "kl_divergence": lambda c: statistics.kl_divergence(c.q, c.p),
    "lack_of_fit_test": lambda c: statistics.lack_of_fit_test(c.counts, c.p, c.q),
    "lack_of_fit_test of bands": lambda c: statistics.lack_of_fit_test(c.counts, c.p, [-300.0, -2.0]),
    "lattice_law": lambda c: [statistics.lattice_law(c.p, 24, centred=so) for so in (False, True)],
    "likelihood_ratio_test": lambda c: statistics.likelihood_ratio_test(c.counts, c.p, c.q),
    "log_odds_spectrum": lambda c: statistics.log_odds_spectrum(c.q, c.p, [-np.inf, -20.0, -1.0, 1.0]),
    "longest_run": lambda c: statistics.longest_run(c.tokens),
    "max_log_ratio": lambda c: statistics.max_log_ratio(c.q, c.p),
    "mean": lambda c: statistics.mean(c.values),
    "median": lambda c: statistics.median(c.values, rng=c.rng),
    "miller_madow": lambda c: statistics.miller_madow(c.counts),
    "passing_temperatures": lambda c: [
        statistics.passing_temperatures(c.p, c.rate, n) for n in (None, c.total)
    ],
    "proportion": lambda c: statistics.proportion(c.hits, c.total, c.rate),
    "public criteria": lambda c: [rule(c.counts, c.p) for rule in statistics.PUBLIC_CRITERIA.values()],
    "public forecasts": lambda c: [
        rule.forecast(c.q, c.p, c.total) for rule in statistics.PUBLIC_CRITERIA.values()
    ],
    "rarefied": lambda c: statistics.rarefied(c.counts, c.size, c.order),
    "rarefied law": lambda c: statistics.rarefied(c.p, min(c.size, 1 + 10**6 % c.size), c.order),
    "rarefied_coverage": lambda c: statistics.rarefied_coverage(c.counts, c.size),
    "rarefied_to_coverage": lambda c: statistics.rarefied_to_coverage(c.counts, c.rate, c.order),
    "ratio_of_proportion": lambda c: statistics.ratio_of_proportion(c.hits, c.total, c.rate),
    "ratio_of_sums": lambda c: statistics.ratio_of_sums(c.values, c.values[::-1]),
    "reachability_test": lambda c: statistics.reachability_test(c.counts, c.p),
    "repeated_vector_test": lambda c: statistics.repeated_vector_test(
        c.tokens, statistics.Chance.of_draws(*[c.p] * c.tokens.shape[1])
    ),
    "repetition": lambda c: [statistics.repetition(c.tokens, 2), statistics.distinct_n(c.tokens, 2)],
    "sample_coverage": lambda c: statistics.sample_coverage(c.counts),
    "sequence_entropy": lambda c: [
        statistics.sequence_entropy(c.tokens, how) for how in ("plug-in", "miller-madow", "chao-wang-jost")
    ],
    "serial_test": lambda c: statistics.serial_test(c.tokens.ravel(), c.p),
    "shuffle_test": lambda c: statistics.shuffle_test(
        c.tokens[0], c.tokens[-1], rng=c.rng, resamples=99, false_fail=0.05
    ),
    "size_at_coverage": lambda c: statistics.size_at_coverage(c.counts, c.rate),
    "spectrum_from_draws": lambda c: [
        statistics.spectrum_from_draws(draws, c.p, [-np.inf, -20.0, -1.0, 1.0])
        for draws in (c.counts, c.tokens)
    ],
    "stratified_bootstrap": lambda c: statistics.stratified_bootstrap(
        lambda at: c.values[at[0]].mean(), [len(c.values)], rng=c.rng, resamples=1 + c.size % 30
    ),
    "suppressed_mass": lambda c: statistics.suppressed_mass(c.q, c.p),
    "tail_set": lambda c: statistics.tail_set(c.p, c.q, c.total),
    "tail_test": lambda c: statistics.tail_test(c.hits, c.total, c.rate),
    "temperature_from_draws": lambda c: [
        statistics.temperature_from_draws(draws, c.p) for draws in (c.counts, c.tokens)
    ],
    "temperature_from_rows": lambda c: statistics.temperature_from_rows(
        [
            statistics.Rows(
                np.tile(c.p.log_probs, (c.tokens.size, 1)), c.tokens.ravel(), np.arange(c.tokens.size) // 2
            )
        ]
    ),
    "temperature_test": lambda c: [
        statistics.temperature_test(c.counts, c.p, asymptotic=so) for so in (False, True)
    ],
    "tempered_law": lambda c: statistics.tempered_law(c.p, max(1e-300, abs(c.values[0]))),
    "tie_order_test": lambda c: statistics.tie_order_test(c.counts, c.p.log_probs),
    "total_variation": lambda c: statistics.total_variation(c.q, c.p),
    "two_laws_log_likelihood": lambda c: statistics.two_laws_log_likelihood(c.counts, c.q, c.p),
    "two_sample_test": lambda c: statistics.two_sample_test(c.counts, c.other, rng=c.rng, **LOOSE),
    "two_sample_test of sequences": lambda c: statistics.two_sample_test(
        c.tokens, c.tokens, rng=c.rng, **LOOSE
    ),
    "unmask_rate_e_value": lambda c: statistics.unmask_rate_e_value([c.hits, 1], [c.total, 3], [c.rate, 0.5]),
    "unmask_rate_test": lambda c: statistics.unmask_rate_test([c.hits, 1], [c.total, 3], [c.rate, 0.5]),
    "window_test": lambda c: statistics.window_test(c.tokens, c.p, [0]),
    "vllm_streams": lambda c: statistics.vllm_streams(c.tokens[0], c.tokens[-1], c.p),
}


def e_process(c: Case) -> list[Any]:
    """What a process of one alternative says after counts."""
    process = statistics.EProcess(c.p, [c.q], bet=c.rate)
    process.update(c.counts)
    return [process.log_e, process.p_value, process.peak, process.rejected(), process.growth(c.q).tolist()]
