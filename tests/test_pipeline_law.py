"""``law --pipeline``: the law of a sampler with its processors against what the steps mean."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from precision_lab.__main__ import app
from precision_lab.compare import compare
from precision_lab.errors import InputError
from precision_lab.laws.law import target_law
from precision_lab.pipelines import parse_pipeline
from precision_lab.samplers import resolve
from precision_lab.statistics import total_variation
from precision_lab.targets import Target, parse_target, parse_use

ROW = Target("row", np.log([0.4, 0.3, 0.2, 0.06, 0.04]), "a test")
SPECIFIED = "temperature=0.5 > top_p=0.95"


def cools_then_cuts(logits, n, *, generator):
    """temperature=0.5 > top_p=0.95, in float64 noise."""
    return race(cut(logits / 0.5, 0.95), n, generator)


def cuts_then_cools(logits, n, *, generator):
    return race(cut(logits, 0.95) / 0.5, n, generator)


def cools_twice(logits, n, *, generator):
    return race(logits / 0.5 / 0.5, n, generator)


def drops_the_crossing_token(logits, n, *, generator):
    ordered, ids = (logits / 0.5).sort(-1, descending=True)
    outside = ordered.softmax(-1).cumsum(-1) > 0.95
    outside[..., 0] = False
    kept = torch.zeros_like(outside).scatter(-1, ids, ~outside)
    return race((logits / 0.5).masked_fill(~kept, -torch.inf), n, generator)


def cut(logits, p):
    ordered, ids = logits.sort(-1, descending=True)
    share = ordered.softmax(-1)
    inside = share.cumsum(-1) - share < p
    kept = torch.zeros_like(inside).scatter(-1, ids, inside)
    return logits.masked_fill(~kept, -torch.inf)


def race(logits, n, generator):
    u = torch.rand(n, *logits.shape, generator=generator, dtype=torch.float64)
    return (logits.double() - torch.log(-torch.log(u))).argmax(-1)


def found(function, text=SPECIFIED, target=ROW, **options):
    return compare(resolve(function), target, pipeline=parse_pipeline(text), **options)


class TestOfAFunction:
    def test_as_specified(self):
        row = found(cools_then_cuts)
        assert row["total_variation"] < 1e-6
        assert row["tokens_kept"] == 3
        assert (row["tokens_in_doubt"], row["tokens_beyond"], row["tokens_lost"]) == (0, 0, 0)

    def test_order_swapped(self):
        """0.4, 0.3, 0.2 hold 0.90: cut first, a fourth token stays; squared they hold 0.9824."""
        row = found(cuts_then_cools)
        assert (row["tokens_beyond"], row["tokens_lost"]) == (1, 0)
        squares = np.array([0.4, 0.3, 0.2, 0.06]) ** 2
        assert row["mass_beyond"] == pytest.approx(squares[3] / squares.sum(), rel=1e-5)
        assert row["total_variation"] == pytest.approx(squares[3] / squares.sum(), rel=1e-5)

    def test_temperature_twice(self):
        """At 0.25 where 0.5 was meant: half of it."""
        row = found(cools_twice, "temperature=0.5")
        assert row["effective_temperature"] == pytest.approx(0.5, rel=1e-5)
        assert row["temperature_share"] == pytest.approx(1, rel=1e-5)

    def test_crossing_token_dropped(self):
        """Squared and normalised: 0.546, 0.307, 0.137. The third crosses 0.95."""
        row = found(drops_the_crossing_token)
        assert (row["tokens_beyond"], row["tokens_lost"]) == (0, 1)
        assert row["kl_divergence"] < math.inf
        assert row["total_variation"] == pytest.approx(0.04 / (0.16 + 0.09 + 0.04), rel=1e-5)

    def test_a_token_in_doubt_is_not_held_against_it(self):
        """p = 0.9 is the mass of three tokens, to rounding: a fourth may stay."""
        row = found(
            lambda logits, n, *, generator: race(cut(logits, 0.9), n, generator), "top_p=0.9 sums=pairwise"
        )
        assert row["tokens_in_doubt"] == 1
        assert (row["tokens_beyond"], row["tokens_lost"]) == (0, 0)


class TestOfANamedSampler:
    def test_the_steps_run_before_it(self):
        """Its law at the truncated logits, by hand."""
        pipeline = parse_pipeline("temperature=0.7 > top_k=5")
        target = parse_target("zipf[vocab=50]")
        row = compare(resolve("gumbel_max_bf16"), target, pipeline=pipeline)
        logits = torch.from_numpy(target.logits).float()
        by_hand = resolve("gumbel_max_bf16").law(pipeline.apply(logits))
        assert row["total_variation"] == pytest.approx(
            total_variation(by_hand, pipeline.law(logits.double().numpy()))
        )
        assert (row["tokens_kept"], row["tokens_beyond"], row["tokens_lost"]) == (5, 0, 0)

    def test_in_bfloat16_the_logits_themselves_are_rounded(self):
        """The specification is read at the logits as rounded, so that the rounding of the input is not
        counted."""
        target = parse_target("zipf[vocab=50]")
        row = compare(resolve("gumbel_max_fp64"), target, dtype="bfloat16", pipeline=parse_pipeline("top_k=50"))
        assert row["total_variation"] < 1e-9
        rounded = torch.from_numpy(target.logits).bfloat16().double().numpy()
        assert total_variation(target_law(rounded), target_law(target.logits)) > 1e-3


class TestErrors:
    def test_a_step_of_masked_diffusion(self):
        step = parse_use("mdm:8").of(parse_target("zipf[vocab=50]"))
        with pytest.raises(InputError, match="masked diffusion"):
            compare(resolve("gumbel_max_fp64"), step, pipeline=parse_pipeline("top_k=5"))

    def test_command_line(self):
        runner = CliRunner()
        words = ["law", "--sampler", "gumbel_max_bf16", "--target", "zipf[vocab=50]", "-f", "json"]
        shown = runner.invoke(app, [*words, "--pipeline", "temperature=0.7 > top_k=5"])
        assert json.loads(shown.stdout)["tokens_kept"] == 5
        refused = runner.invoke(app, [*words, "--pipeline", "top_k=0"])
        assert isinstance(refused.exception, InputError)
