"""The library beside the bare expression: the same tokens, a row for every way, memory of many draws."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from precision_lab import __main__ as command_line
from precision_lab.bench import overhead
from precision_lab.errors import InputError
from precision_lab.samplers import SAMPLERS


def test_draws_a_second_beside_the_bare_expression(monkeypatch, capsys):
    monkeypatch.setattr(overhead, "VALUES", 1 << 12)
    monkeypatch.setattr(
        sys,
        "argv",
        ["precision-lab", "overhead", "--vocab", "100", "--rows", "2", "--seconds", "0.01", "-f", "json"],
    )
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert not stop.value.code
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 3 * len(overhead.EXPRESSIONS)
    for row in rows:
        assert row["low"] <= row["draws_per_second_over_bare"] <= row["high"]
        assert row["way"].startswith("bare") == (row["low"] == row["high"] == 1)


@pytest.mark.parametrize("name", overhead.EXPRESSIONS)
def test_the_bare_expression_draws_the_same_tokens(name):
    """So it is the recipe, and nothing is left out of it."""
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    prepare, draw = overhead.EXPRESSIONS[name]
    bare = draw(prepare(logits), torch.Generator().manual_seed(1), 50)
    assert torch.equal(bare, SAMPLERS[name].draw(logits, 50, rng=torch.Generator().manual_seed(1)))


def test_memory():
    found = overhead.memory(vocab=50, draws={"faithful_masses": (3 * overhead.BLOCK // 2,)})
    assert [row["draws"] for row in found] == [1, 3 * overhead.BLOCK // 2]
    assert all(row["peak_mib"] > 10 for row in found)


def test_a_sampler_without_an_expression():
    with pytest.raises(InputError, match=r"one of gumbel_max_fp32"):
        overhead.overhead(samplers=("faithful_masses",))
