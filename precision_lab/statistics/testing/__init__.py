"""Goodness of fit with declared error rates. Each test x comes as four: ``x_test``, ``assert_x`` (raises
SamplerRejected), ``detectable_x`` (the smallest effect that n draws see) and ``draws_needed_x``.

| test | asks | level | power |
|---|---|---|---|
| tail | the rate of a set of tokens, chosen from two laws | exact | exact |
| identity | the whole law, sparse counts welcome | simulated null | asymptotic |
| blocked_identity | the same, at levels too small to simulate | simulated nulls, Fisher | asymptotic |
| chi_square | the whole law, n p >= 5 everywhere | asymptotic | asymptotic |
| likelihood_ratio | one law against one other | Chernoff | Chernoff |
| unmask_rate | unmaskings at many predicted rates | Hoeffding, Chernoff | the same |
| reachability | zeros that were drawn, tokens that never were | union, Chernoff | union |
| rare_draws | one draw of tokens too rare to be drawn | exact | exact |
| tie_order | equal logits, first half against last | exact | exact |
| coupled | two precisions on the same words | exact | exact |
| cells | several rates at once, the cells of a table; without ``draws_needed`` | exact | exact |
| two_sample | two samplers or decoders, unknown law | permutations | asymptotic |
"""

from .blocked_identity import (
    assert_blocked_identity,
    blocked_identity_test,
    detectable_blocked_identity,
    draws_needed_blocked_identity,
)
from .cells import assert_cells, cells_test, detectable_cells
from .chi_square import assert_chi_square, chi_square_test, detectable_chi_square, draws_needed_chi_square
from .coupled import assert_coupled, coupled_test, detectable_coupled, draws_needed_coupled
from .identity import assert_identity, detectable_identity, draws_needed_identity, identity_test
from .likelihood_ratio import (
    assert_likelihood_ratio,
    detectable_likelihood_ratio,
    draws_needed_likelihood_ratio,
    likelihood_ratio_test,
    two_laws_log_likelihood,
)
from .rare_draws import (
    RareDraws,
    RareToken,
    assert_rare_draws,
    chances,
    detectable_rare_draws,
    draws_needed_rare_draws,
    rare_draws_p_value,
    rare_draws_p_values,
    rare_draws_test,
)
from .reachability import (
    assert_reachability,
    detectable_reachability,
    draws_needed_reachability,
    reachability_test,
)
from .result import SamplerRejected, TestResult, asserting
from .tail import (
    TailSet,
    assert_tail,
    detectable_shortfall,
    detectable_tail,
    draws_needed_tail,
    tail_set,
    tail_test,
)
from .tie_order import assert_tie_order, detectable_tie_order, draws_needed_tie_order, tie_order_test
from .two_sample import assert_two_sample, detectable_two_sample, draws_needed_two_sample, two_sample_test
from .unmask_rate import (
    assert_unmask_rate,
    detectable_unmask_rate,
    draws_needed_unmask_rate,
    unmask_rate_e_value,
    unmask_rate_test,
)

__all__ = [
    "RareDraws",
    "RareToken",
    "SamplerRejected",
    "TailSet",
    "TestResult",
    "assert_blocked_identity",
    "assert_cells",
    "assert_chi_square",
    "assert_coupled",
    "assert_identity",
    "assert_likelihood_ratio",
    "assert_rare_draws",
    "assert_reachability",
    "assert_tail",
    "assert_tie_order",
    "assert_two_sample",
    "assert_unmask_rate",
    "asserting",
    "blocked_identity_test",
    "cells_test",
    "chances",
    "chi_square_test",
    "coupled_test",
    "detectable_blocked_identity",
    "detectable_cells",
    "detectable_chi_square",
    "detectable_coupled",
    "detectable_identity",
    "detectable_likelihood_ratio",
    "detectable_rare_draws",
    "detectable_reachability",
    "detectable_shortfall",
    "detectable_tail",
    "detectable_tie_order",
    "detectable_two_sample",
    "detectable_unmask_rate",
    "draws_needed_blocked_identity",
    "draws_needed_chi_square",
    "draws_needed_coupled",
    "draws_needed_identity",
    "draws_needed_likelihood_ratio",
    "draws_needed_rare_draws",
    "draws_needed_reachability",
    "draws_needed_tail",
    "draws_needed_tie_order",
    "draws_needed_two_sample",
    "draws_needed_unmask_rate",
    "identity_test",
    "likelihood_ratio_test",
    "rare_draws_p_value",
    "rare_draws_p_values",
    "rare_draws_test",
    "reachability_test",
    "tail_set",
    "tail_test",
    "tie_order_test",
    "two_laws_log_likelihood",
    "two_sample_test",
    "unmask_rate_e_value",
    "unmask_rate_test",
]
