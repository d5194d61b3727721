"""The table of defects: what each law says, beside the fact that it is about; draws agree with the law."""

from __future__ import annotations

import re

import numpy as np
import pytest

from precision_lab.defects import DEFECTS, defects

# The table of noise of these has tens of millions of atoms, or their draws take seconds.
LARGE = ("7", "8", "11", "2", "12", "9")
EXPECTED = {  # number: (true, law), to the digits at which the fact is known
    "1": (0.99993, 0.1419),
    "2": (0.6442, 0.9988),
    "3": (2.0**-9, 0.0),
    "4": (0.0, 1 - (1 - 2.0**-25) ** 152_000),
    "5": (0.0, 400_000 * 399_999 / 2 / 2**32),
    "6": (0.02934, 1.0),
    "7": (0.0, 1 - (1 - 2.0**-25) ** 152_000),
    "8": (3.058e-4, 2.280e-4),
    "9": (0.0, 2.0**-23),
    "10": (82 / 8192, 0.2745),
    "11": (2.0611e-6, 2.2086e-6),
    "12": (1e-3, 6.906e-4),
}


def test_there_are_twelve():
    assert [name.split()[0] for name in DEFECTS] == [str(k) for k in range(1, 13)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n.split()[0] in LARGE else ()) for n in DEFECTS],
    ids=lambda n: n.split()[0],
)
def test_law_and_draws(name):
    """False-fail: the draws' 95 % interval is widened to five times its half-width, 1e-12 or so for a right law."""
    found = DEFECTS[name](np.random.default_rng(1))
    true, law = EXPECTED[name.split()[0]]
    assert found.true == pytest.approx(true, rel=1e-3, abs=1e-20)
    assert found.law == pytest.approx(law, rel=1e-3)
    assert abs(found.law - found.true) > 0.05 * max(found.true, found.law)
    if match := re.match(r"(\S+) \[(\S+), (\S+)\]", found.draws):
        value, low, high = map(float, match.groups())
        assert value - 5 * (value - low) - 1e-12 <= found.law <= value + 5 * (high - value)


def test_rows_of_the_table(monkeypatch, capsys):
    monkeypatch.setattr(
        "precision_lab.defects.DEFECTS", {k: v for k, v in DEFECTS.items() if k[:2] in ("4 ", "10")}
    )
    rows = list(defects(seed=3))
    assert [set(row) for row in rows] == [{"defect", "quantity", "true", "law", "draws", "published_rule"}] * 2
    assert "a right sampler" in rows[0]["published_rule"]
    assert "defect 2/2" in capsys.readouterr().err
