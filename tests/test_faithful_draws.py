"""Very many draws of each faithful implementation beside its exact law, and our judge on them: minutes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from judging import statistical
from scipy import stats
from torch import Tensor

from precision_lab import law
from precision_lab.faithful import categorical, exponential_race, gumbel_topk, unmask_step
from precision_lab.faithful.drop_in import multinomial, sample_categorical
from precision_lab.types import Float
from precision_lab.verdict.check import check
from precision_lab.verdict.report import Outcome

RATE = 1e-8  # of every random test here
VOCAB = 257
TAIL = 1e-5  # tokens rarer than this are counted together

Draws = Callable[[Tensor, int, torch.Generator], Iterator[Tensor]]


def by_n(draw: Callable[..., Tensor]) -> Draws:
    """A million draws of one row at a time."""

    def draws(row: Tensor, n: int, generator: torch.Generator) -> Iterator[Tensor]:
        for start in range(0, n, 10**6):
            yield draw(row, min(10**6, n - start), generator)

    return draws


def by_rows(draw: Callable[..., Tensor]) -> Draws:
    """A row for each draw, twenty thousand at a time."""

    def draws(row: Tensor, n: int, generator: torch.Generator) -> Iterator[Tensor]:
        rows = row.expand(20_000, -1).contiguous()
        for start in range(0, n, 20_000):
            yield draw(rows[: min(20_000, n - start)], generator)

    return draws


# Draws of each: some minutes of one core for all of them together.
IMPLEMENTATIONS: dict[str, tuple[int, Draws]] = {
    "categorical": (10**9, by_n(lambda row, n, g: categorical(row, n, generator=g))),
    "categorical, a row a draw": (10**8, by_rows(lambda rows, g: categorical(rows, generator=g)[0])),
    "exponential_race": (10**8, by_n(lambda row, n, g: exponential_race(row, n, generator=g))),
    "gumbel_topk": (10**8, by_rows(lambda rows, g: gumbel_topk(rows, 1, generator=g)[:, 0])),
    "unmask_step": (10**8, by_rows(lambda rows, g: unmask_step(rows, 1.0, generator=g).tokens)),
    "multinomial": (
        10**9,
        by_n(lambda row, n, g: multinomial(torch.softmax(row.double(), -1), n, True, generator=g)),
    ),
    "sample_categorical": (
        10**8,
        by_rows(lambda rows, g: sample_categorical(torch.softmax(rows.double(), -1), generator=g)),
    ),
}


def p_values(draws: Draws, row: Tensor, expected: Float, n: int, seed: int) -> tuple[float, float]:
    """Of chi-square over the tokens above :data:`TAIL` and the rest together, and of the number of tokens in the
    rest, exactly binomial."""
    counts = np.zeros(VOCAB, dtype=np.int64)
    for ids in draws(row, n, torch.Generator().manual_seed(seed)):
        counts += np.bincount(ids.numpy().ravel(), minlength=VOCAB)
    assert counts.sum() == n
    rare = expected < TAIL
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum()) * n
    fit = stats.chisquare(seen, wanted * n / wanted.sum()).pvalue
    tail = stats.binomtest(int(seen[-1]), n, float(expected[rare].sum())).pvalue
    return float(fit), float(tail)


def row_with_a_tail() -> Tensor:
    """16 tokens of most of the mass, and 241 that are 16 nats below them: together 5e-6."""
    return torch.cat([torch.linspace(0, -3, 16), torch.full((VOCAB - 16,), -16.0)])


def tried(name: str, n: int) -> None:
    """Chi-square and the tail pass for the law; chi-square fails for a temperature off by 30 standard
    errors."""
    row = row_with_a_tail()
    draws = IMPLEMENTATIONS[name][1]
    right = law("faithful_masses", row).probs
    fit, tail = p_values(draws, row, right, n, 1)
    assert fit > RATE
    assert tail > RATE
    spread = float((right * row.numpy() ** 2).sum() - (right * row.numpy()).sum() ** 2)
    off = 1 + 30 / math.sqrt(n * spread)
    fit, _ = p_values(draws, row / off, right, n, 1)
    assert fit < RATE


class TestDraws:
    @statistical(false_fail=2 * RATE)
    @pytest.mark.parametrize("name", IMPLEMENTATIONS)
    def test_some(self, name):
        """4e5 draws, of which 2 lie in the tail; a temperature off by 30 standard errors fails."""
        tried(name, 4 * 10**5)

    @pytest.mark.slow
    @statistical(false_fail=2 * RATE)
    @pytest.mark.parametrize("name", IMPLEMENTATIONS)
    def test_a_thousand_million(self, name):
        """1e8 or 1e9 draws, of which 500 or 5,000 lie in the tail: see the next test for what that shows."""
        tried(name, IMPLEMENTATIONS[name][0])

    @pytest.mark.slow
    @statistical(false_fail=RATE)
    def test_the_tail_test_sees_noise_that_ends(self):
        """1e9 draws whose tail has 0.757 of its mass, as float32 Gumbel-max has it at 16 nats."""
        row = row_with_a_tail()
        cut = row.clone()
        cut[16:] += math.log(0.757)
        right = law("faithful_masses", row).probs
        _, tail = p_values(IMPLEMENTATIONS["categorical"][1], cut, right, 10**9, 1)
        assert tail < RATE


class TestJudge:
    @pytest.mark.slow
    @statistical(false_fail=1e-7)
    @pytest.mark.parametrize("use", ["lm", "mdm:4096", "first-hitting"])
    @pytest.mark.parametrize("name", ["faithful_masses", "faithful_race"])
    def test_it_passes_them_in_every_use(self, name, use):
        report = check(name, use=use, false_fail=1e-7, say=lambda line: None)
        assert report.outcome is Outcome.PASS, report.text()

    @pytest.mark.slow
    def test_it_fails_the_truncated_twin(self):
        """float64 noise that ends where float32's does: its law harms ancestral steps."""
        report = check("gumbel_max_fp64_truncated", use="mdm:4096", say=lambda line: None)
        assert report.outcome is Outcome.FAIL, report.text()
