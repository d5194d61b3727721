"""The benchmark of adapters and decoders counts calls and compares within a round; its numbers are no tests."""

from __future__ import annotations

import math

import pytest

from precision_lab.bench.models import TOKENS, bench_models
from precision_lab.errors import InputError


def test_rows(capsys):
    table = {row["run"]: row for row in bench_models(vocab=400, length=32, rounds=2)}
    assert table["network alone"]["ratio"] == 1.0
    assert table["first_hitting"]["network_calls"] == TOKENS
    assert table["confidence_ordered"]["network_calls"] == TOKENS
    assert 1 <= table["event_driven"]["network_calls"] <= TOKENS
    for row in table.values():
        assert row["seconds"] > 0
        assert row["ratio_least"] <= row["ratio"] <= row["ratio_most"]
        assert math.isnan(row["peak_arrays"]) or row["peak_arrays"] >= 0
    assert "round 2/2" in capsys.readouterr().err


def test_a_vocabulary_without_room_for_the_mask():
    with pytest.raises(InputError, match="200 or more"):
        bench_models(vocab=199)
