"""Two promises of the judge about itself: every number says what stands behind it, and all its random tests
together rarely fail right code."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from judging import probs, sequences, statistical, zipf

from precision_lab import statistics
from precision_lab.atoms import Atoms
from precision_lab.statistics import (
    Counts,
    Estimate,
    Rows,
    Scores,
    TestResult,
    mean,
    proportion,
    sequence_entropy,
    tail_test,
)
from precision_lab.types import Guarantee

MOST = 1e-5  # false fails of one run

P, Q = zipf(4), probs(0.55, 0.25, 0.15, 0.05)
COUNTS = Counts(np.array([21, 9, 6, 4]), 40)
TOKENS = sequences(P, (5, 8), 0.2, np.random.default_rng(0))
SCORES = Scores.of("judge", list(TOKENS), [0.1 * row + 1.0 for row in TOKENS], 0, np.zeros(5), np.zeros(5))
FRONTIER = {
    t: statistics.Generated(np.linspace(3, 4, 9) + 3 * t, np.linspace(40, 60, 9) * t, np.full(9, 8))
    for t in (0.8, 0.9, 1.0, 1.1)
}
FINE = {"rng": np.random.default_rng(0)}
LEVEL = {"rng": np.random.default_rng(0), "false_fail": 0.05}
SAMPLES: dict[str, Callable[[], object]] = {
    "agreement_test": lambda: statistics.agreement_test(TOKENS[0], TOKENS[1], P, P),
    "benjamini_hochberg": lambda: statistics.benjamini_hochberg([0.1, 0.2]),
    "cells_test": lambda: statistics.cells_test([3, 4], [9, 9], [0.2, 0.5]),
    "chi_square_test": lambda: statistics.chi_square_test(Counts(5 * COUNTS.counts, 200), P),
    "cluster_bootstrap": lambda: statistics.cluster_bootstrap(lambda at: float(TOKENS[at].mean()), 5, **FINE),
    "cluster_jackknife": lambda: statistics.cluster_jackknife(lambda at: float(TOKENS[at].mean()), 5),
    "coupled_test": lambda: statistics.coupled_test(TOKENS[0], TOKENS[1], P.probs > 0.3),
    "coverage_estimate": lambda: statistics.coverage_estimate(TOKENS),
    "cross_row_test": lambda: statistics.cross_row_test(TOKENS, P),
    "difference": lambda: statistics.difference(proportion(1, 9), mean([1.0, 2.0])),
    "diversity": lambda: statistics.diversity(TOKENS, sequence_entropy, **FINE),
    "diversity_difference": lambda: statistics.diversity_difference(
        TOKENS, TOKENS[:, ::-1], sequence_entropy, **FINE
    ),
    "draft_target_test": lambda: statistics.draft_target_test(TOKENS[0], TOKENS[1], P, P),
    "draw_jackknife": lambda: statistics.draw_jackknife(statistics.entropy, COUNTS),
    "e_bh": lambda: statistics.e_bh([0.0, 1.0]),
    "effective_temperature": lambda: statistics.effective_temperature(Q, P),
    "family": lambda: statistics.family({"one": tail_test(3, 9, 0.5)}),
    "forecast_jax_gumbel_ks": lambda: statistics.forecast_jax_gumbel_ks(
        Atoms(np.array([0.1, 0.9]), np.array([1, 1]), 1)
    ),
    "forecast_pytorch_repeats": lambda: statistics.forecast_pytorch_repeats(32.0),
    "forecast_vllm_streams": lambda: statistics.forecast_vllm_streams(P, 0.5, 1000),
    "generative_perplexity": lambda: statistics.generative_perplexity(SCORES, **FINE),
    "perplexity_beside_diversity": lambda: statistics.perplexity_beside_diversity(TOKENS, SCORES, **FINE),
    "hill": lambda: [
        statistics.hill(COUNTS, 1),
        statistics.hill(TOKENS, 0, size=20),
        statistics.hill(COUNTS, 2),
    ],
    "hill_difference": lambda: statistics.hill_difference(COUNTS, TOKENS, 1),
    "holm": lambda: statistics.holm([0.1, 0.2]),
    "blocked_identity_test": lambda: statistics.blocked_identity_test([COUNTS, COUNTS], P, **LEVEL),
    "identity_test": lambda: statistics.identity_test(COUNTS, P, **LEVEL),
    "joint_region": lambda: statistics.joint_region(lambda at: TOKENS[at, :2].mean(0), 5),
    "lack_of_fit_test": lambda: statistics.lack_of_fit_test(COUNTS, P, [-1.5]),
    "likelihood_ratio_test": lambda: statistics.likelihood_ratio_test(COUNTS, P, Q),
    "matched_entropy": lambda: statistics.matched_entropy(FRONTIER[1.0], FRONTIER, **FINE),
    "mean": lambda: statistics.mean([1.0, 2.0]),
    "median": lambda: statistics.median([1.0, 2.0, 4.0], **FINE),
    "ratio_of_sums": lambda: statistics.ratio_of_sums([1.0, 2.0, 4.0], [2.0, 3.0, 5.0]),
    "proportion": lambda: statistics.proportion(1, 9),
    "ratio_of_proportion": lambda: statistics.ratio_of_proportion(1, 9, 0.2),
    "rare_draws_test": lambda: statistics.rare_draws_test(COUNTS, P),
    "reachability_test": lambda: statistics.reachability_test(COUNTS, P),
    "repeated_vector_test": lambda: statistics.repeated_vector_test(TOKENS, statistics.Chance(0.001, 0.01)),
    "serial_test": lambda: statistics.serial_test(TOKENS[0], P),
    "shuffle_test": lambda: statistics.shuffle_test(TOKENS[0], TOKENS[1], **FINE),
    "spectrum_from_draws": lambda: [
        statistics.spectrum_from_draws(d, P, [-3, -1, 0]) for d in (COUNTS, TOKENS)
    ],
    "stratified_bootstrap": lambda: statistics.stratified_bootstrap(
        lambda at: TOKENS[at[0]].mean(), [5], **FINE
    ),
    "tail_test": lambda: statistics.tail_test(1, 9, 0.2),
    "temperature_from_draws": lambda: [
        statistics.temperature_from_draws(draws, P) for draws in (COUNTS, TOKENS)
    ],
    "temperature_from_rows": lambda: statistics.temperature_from_rows(
        [Rows(np.tile(P.log_probs, (8, 1)), TOKENS[0], np.arange(8) // 2)]
    ),
    "temperature_test": lambda: statistics.temperature_test(COUNTS, P),
    "tie_order_test": lambda: statistics.tie_order_test(COUNTS, [0.0, 0.0, 0.0, -1.0]),
    "two_laws_log_likelihood": lambda: statistics.two_laws_log_likelihood(COUNTS, Q, P),
    "two_sample_test": lambda: statistics.two_sample_test(COUNTS, COUNTS, **LEVEL),
    "unmask_rate_test": lambda: statistics.unmask_rate_test([4, 5], [10, 20], [0.5, 0.25]),
    "window_test": lambda: statistics.window_test(TOKENS, P, [0]),
}


def parts(value: Any) -> Iterator[Any]:
    """The value and everything in its fields and items."""
    yield value
    inside: list[Any] = []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        inside = list(value.values())
    elif isinstance(value, list | tuple):
        inside = list(value)
    for each in inside:
        yield from parts(each)


def labelled_classes() -> set[str]:
    """Names of public dataclasses with a guarantee, or with a field of such a class."""
    fields = {
        name: {field.name: str(field.type) for field in dataclasses.fields(getattr(statistics, name))}
        for name in statistics.__all__
        if dataclasses.is_dataclass(getattr(statistics, name))
    }
    found = {name for name, kinds in fields.items() if "guarantee" in kinds}
    while more := {
        name for name, kinds in fields.items() if name not in found and named(" ".join(kinds.values()), found)
    }:
        found |= more
    return found


def named(annotation: str, classes: set[str]) -> bool:
    return not classes.isdisjoint(re.findall(r"\w+", annotation))


def labelled_functions() -> list[str]:
    """Public functions whose annotation promises an estimate, a test result or what holds one; ``assert_x``
    is ``x_test``."""
    classes, functions = labelled_classes(), {name: getattr(statistics, name) for name in statistics.__all__}
    return [
        name
        for name, function in functions.items()
        if inspect.isfunction(function)
        and not hasattr(function, "__wrapped__")
        and named(str(inspect.signature(function).return_annotation).partition("Callable")[0], classes)
    ]


def wrong(found: object) -> list[str]:
    """What is missing of the labels of a returned value, one line each."""
    lines, labels = [], 0
    for part in parts(found):
        if not hasattr(part, "guarantee"):
            continue
        labels += 1
        if not isinstance(part.guarantee, Guarantee):
            lines.append(f"guarantee {part.guarantee!r}")
        if isinstance(part, Estimate):
            if not part.method or not isinstance(part.method, str):
                lines.append(f"method {part.method!r}")
            if not (0 < part.confidence <= 1) or (part.confidence == 1) != (
                part.guarantee in {Guarantee.EXACT, Guarantee.CERTIFIED}
            ):
                lines.append(f"confidence {part.confidence} of {part.guarantee}")
            if not isinstance(part.n, int) or part.n < 0:
                lines.append(f"n {part.n!r}")
            if not part.low <= part.value <= part.high:
                lines.append(f"{part.value} outside [{part.low}, {part.high}]")
        if isinstance(part, TestResult) and not (
            0 <= part.p_value <= 1 and 0 < part.false_fail < 1 and part.n >= 0
        ):
            lines.append(f"test result {part}")
    return lines or ([] if labels else ["no label at all"])


class TestLabels:
    def test_every_function_that_promises_a_label_has_a_sample(self) -> None:
        missing = sorted(set(labelled_functions()) - SAMPLES.keys())
        assert not missing, f"add to SAMPLES a call of {', '.join(missing)}"
        assert {"Estimate", "TestResult", "EffectiveTemperature", "DrawnBand", "Verdict"} <= labelled_classes()
        assert {"mean", "temperature_test", "spectrum_from_draws", "family"} <= set(labelled_functions())

    @pytest.mark.parametrize("name", SAMPLES)
    def test_every_returned_number_is_labelled(self, name: str) -> None:
        assert wrong(SAMPLES[name]()) == []

    def test_the_walk_sees_what_is_missing(self) -> None:
        good = mean([1.0, 2.0])
        assert wrong([good, {"a": good}]) == []
        assert wrong(1.0) == ["no label at all"]
        for change, said in (
            ({"guarantee": "asymptotic"}, "guarantee 'asymptotic'"),
            ({"method": ""}, "method ''"),
            ({"confidence": 95.0}, "confidence 95.0 of asymptotic"),
            ({"confidence": 1.0}, "confidence 1.0 of asymptotic"),
            ({"n": 2.0}, "n 2.0"),
            ({"low": 3.0}, f"1.5 outside [3.0, {good.high}]"),
            ({"value": 1e9}, f"1000000000.0 outside [{good.low}, {good.high}]"),
        ):
            assert wrong((dataclasses.replace(good, **change),)) == [said]
        result = tail_test(1, 9, 0.2)
        assert len(wrong(dataclasses.replace(result, p_value=2.0))) == 1


def rates(items: list[Any]) -> list[float]:
    """What the collected tests declare (``judging.statistical``), each parameter by itself."""
    return [
        item.function.false_fail for item in items if hasattr(getattr(item, "function", None), "false_fail")
    ]


def undeclared(items: list[Any]) -> list[str]:
    """Tests that speak of their false-fail rate in a comment, in a module that declares rates, and do not
    declare it."""
    return [
        item.nodeid
        for item in items
        if hasattr(getattr(item, "module", None), "statistical")
        and re.search(r"[Ff]alse[ -]fails?(?: rate)?:? (?:below )?\d", inspect.getsource(item.function))
        and not hasattr(item.function, "false_fail")
    ]


def silent() -> None:
    pass  # False fail 1e-7 over seeds.


@statistical(false_fail=1e-7)
def declaring() -> None:
    pass  # False fail 1e-7 over seeds.


class TestErrorRates:
    def test_all_tests_of_this_run_together(self, request: pytest.FixtureRequest) -> None:
        assert math.fsum(rates(request.session.items)) < MOST

    def test_each_is_small(self, request: pytest.FixtureRequest) -> None:
        assert all(0 < rate <= 1e-6 for rate in rates(request.session.items))

    def test_a_rate_in_a_comment_is_declared(self, request: pytest.FixtureRequest) -> None:
        assert undeclared(request.session.items) == []

    def test_every_item_counts(self) -> None:
        @statistical(false_fail=1e-6)
        def random() -> None: ...

        def certain() -> None: ...

        items = [SimpleNamespace(function=function) for function in (random, certain, random)]
        assert rates([*items, SimpleNamespace()]) == [1e-6, 1e-6]

    def test_a_comment_without_a_declaration_is_found(self) -> None:
        module = SimpleNamespace(statistical=statistical)
        item = SimpleNamespace(module=module, function=silent, nodeid="here")
        loud = SimpleNamespace(module=module, function=declaring, nodeid="there")
        assert undeclared([item, loud, SimpleNamespace()]) == ["here"]
