"""Tests for independence, where every marginal is perfect: across seeds, positions, rows of a batch, draft and target.

Two faults leave two traces. Noise made from few states makes whole vectors of draws return: :mod:`.repeats`. Noise that two
draws share makes them agree, at once or after a shift of the token: :mod:`.agreement`, paired as :mod:`.pairings` says.
Laws are the sampler's own, each known within its ``error``. Every p-value holds at every n.
"""

from .agreement import agreement, agreement_test, assert_agreement, detectable_sharing, draws_needed_sharing
from .pairings import (
    assert_cross_row,
    assert_draft_target,
    assert_serial,
    assert_shuffle,
    assert_window,
    cross_row_test,
    draft_target_test,
    serial_test,
    shuffle_test,
    window_test,
)
from .repeats import (
    Chance,
    assert_repeated_vector,
    detectable_state_bits,
    draws_needed_state_bits,
    repeated_vector_test,
)

__all__ = [
    "Chance",
    "agreement",
    "agreement_test",
    "assert_agreement",
    "assert_cross_row",
    "assert_draft_target",
    "assert_repeated_vector",
    "assert_serial",
    "assert_shuffle",
    "assert_window",
    "cross_row_test",
    "detectable_sharing",
    "detectable_state_bits",
    "draft_target_test",
    "draws_needed_sharing",
    "draws_needed_state_bits",
    "repeated_vector_test",
    "serial_test",
    "shuffle_test",
    "window_test",
]
