"""The benchmark of adapters and decoders counts calls and compares within a round; its numbers are no tests."""

from __future__ import annotations

import math

from precision_lab.bench.models import TOKENS, bench_models


def test_rows(capsys):
    table = {row["run"]: row for row in bench_models(vocab=400, length=32, rounds=2)}
    assert table["network alone"]["ratio"] == 1.0
    assert table["first_hitting"]["network_calls"] == TOKENS
    assert table["confidence_ordered"]["network_calls"] == TOKENS
    assert 1 <= table["event_driven"]["network_calls"] <= TOKENS
    for row in table.values():
        assert row["seconds"] > 0
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert math.isnan(row["peak_arrays"]) or row["peak_arrays"] >= 0
    assert "round 2/2" in capsys.readouterr().err
