"""Published set-ups: the data is whole, and what the experiment makes of it agrees with independent
formulas."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from precision_lab import engine, target_law
from precision_lab.laws.process import faithful_step, lattice_step
from precision_lab.mdm.setups import SETUPS, sampler_of
from precision_lab.pipelines import parse_pipeline
from precision_lab.targets import Capture

engine.load_study("published_setups")
from experiments import published_setups as study  # noqa: E402  (load_study makes the folder importable)

VOCAB = 300


@pytest.fixture
def rows(monkeypatch):
    """Two small rows at two mask ratios in place of the captured ones."""
    logits = np.random.default_rng(5).normal(0, 3, (2, VOCAB)).astype(np.float16)
    capture = Capture(
        logits, np.array([0.25, 0.5]), np.zeros(2, dtype=np.int64), {"model": "small", "sha256": "0" * 64}
    )
    monkeypatch.setattr(study, "capture", lambda model: capture)
    return capture


def cell(**changes):
    default = {
        "race": True,
        "steps": 50_000,
        "pipeline": "",
        "stored": "",
        "sampler": "mdlm_fp32",
        "model": "small",
    }
    return default | {"row": 1} | changes


class TestData:
    def test_names_are_unique(self):
        assert len({setup.name for setup in SETUPS}) == len(SETUPS)

    @pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
    def test_each_names_its_source_and_samplers_that_exist(self, setup):
        assert re.search(r"\([0-9a-f]{7}\)|\(0\.33\.0\)", setup.source)
        for name in (setup.published, setup.float32, setup.bfloat16):
            assert sampler_of(name).name == name
        if setup.pipeline:
            parse_pipeline(setup.pipeline)
        assert setup.vocab > 1
        assert setup.steps >= 1

    def test_an_unknown_sampler_is_refused(self):
        with pytest.raises(KeyError):
            sampler_of("gumbel_max_fp128")


class TestMeasure:
    def test_a_float32_race_agrees_with_the_closed_form(self, rows):
        (row,) = study.measure(cell(sampler="gumbel_max_fp32"), None)
        log_p = target_law(rows.logits[1].astype(np.float64)).log_probs
        r = 1 / (50_000 * 0.5)
        lattice = lattice_step(log_p, r).sum() / r
        assert lattice < 0.99  # else the test would not tell float32 from the faithful law
        assert row["multiplier"] == pytest.approx(lattice, rel=5e-4)
        assert row["entropy_lost"] > 0.01

    def test_a_float64_race_is_faithful(self, rows):
        (row,) = study.measure(cell(sampler="remdm_fp64"), None)
        log_p = target_law(rows.logits[1].astype(np.float64)).log_probs
        assert row["multiplier"] == pytest.approx(faithful_step(log_p, 0.1).sum() / 0.1, abs=1e-5)
        assert abs(row["entropy_lost"]) < 1e-5

    def test_a_single_draw_has_no_steps(self, rows):
        (row,) = study.measure(
            cell(race=False, steps=1, sampler="llada_fp64", pipeline="temperature=0.7"), None
        )
        assert row["multiplier"] == 1
        assert row["total_variation"] < 1e-6

    def test_a_pipeline_changes_what_is_asked(self, rows):
        (plain,) = study.measure(cell(race=False, steps=1, sampler="d1_bf16"), None)
        (warm,) = study.measure(cell(race=False, steps=1, sampler="d1_bf16", pipeline="temperature=2"), None)
        assert plain["entropy_lost"] != warm["entropy_lost"]

    def test_probabilities_kept_in_float16_lose_the_rare_ones(self):
        log_p = np.log([0.5, 2.0**-24, 2.0**-27])
        kept = np.exp(study.handed_on(log_p, "fp16"))
        assert kept == pytest.approx([0.5, 2.0**-24, 0.0], rel=1e-12, abs=0)
        assert study.handed_on(log_p, "") is log_p


class TestWords:
    @pytest.mark.parametrize(
        ("low", "high", "word"),
        [
            (-0.01, 0.009, "harmless"),
            (-0.02, 0.0, "visible"),
            (0.04, 0.2, "visible"),
            (0.06, 0.2, "decisive"),
            (-0.2, -0.06, "decisive"),
            (-0.2, 0.2, "visible"),
        ],
    )
    def test_of_an_interval(self, low, high, word):
        assert study.side(low, high, study.RATE) == word

    def test_the_worst_counts(self):
        assert study.worst(["harmless", "decisive", "visible"]) == "decisive"
        assert study.worst(["no draw"]) == "no draw"

    def test_mask_ratios_come_in_turn(self, rows):
        assert study.rows_of("small", 2) == [1, 0]


class TestPage:
    def test_the_page_is_made_of_the_committed_table(self):
        folder = engine.FOLDER.parent
        table = load_result_summary(folder)
        text = (folder / "docs" / "published_setups.md").read_text()
        assert study.page(table) in text

    def test_a_law_that_is_not_there_is_said(self):
        empty = pd.DataFrame({"setup": [], "variant": [], "word": []})
        assert "not computed" in study.page(empty)
        assert "| no draw |" in study.page(empty)


def load_result_summary(folder):
    return pd.read_csv(folder / "results" / "full" / "published_setups_summary.csv")
