"""Every file of experiments/: a well-formed STUDY whose smoke profile runs to a table, a verdict and a figure.

They read what is committed in models/, as ``make figures`` does; only the ones that draw are random, and no
test here judges their numbers: that is done where the laws, the decoders and the intervals are tested.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib

import numpy as np
import pandas as pd
import pytest
import torch

from precision_lab import engine, report
from precision_lab.files import read_json
from precision_lab.mdm.corpus import Corpus
from precision_lab.mdm.denoiser import DenoiserConfig
from precision_lab.mdm.train import TrainConfig, train
from precision_lab.result import load_result
from precision_lab.samplers.head_and_tail import head_and_tail_law, true_tail
from precision_lab.statistics import tail_test
from precision_lab.study import Study
from precision_lab.types import Profile

EXPERIMENTS = sorted(engine.experiments())
PARTS = ["grid", "measure", "analyse", "figure"]


@pytest.fixture(scope="module", params=EXPERIMENTS)
def name(request):
    return request.param


class TestLiterals:
    def test_there_are_experiments(self):
        assert len(EXPERIMENTS) >= 4

    def test_the_study_is_named_after_its_file_and_asks_something(self, name):
        study = engine.load_study(name)
        assert isinstance(study, Study)
        assert study.name == name
        assert study.question.endswith("?")
        assert study.version >= 1

    def test_the_file_says_what_it_costs(self, name):
        assert "Cost: " in sys.modules[f"experiments.{engine.load_study(name).name}"].__doc__

    def test_the_four_parts_stand_in_their_order(self, name):
        source = engine.experiments()[name].read_text()
        assert re.findall(r"^# -{10,} (\w+)$", source, re.MULTILINE) == PARTS
        functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        assert [each for each in functions if each in ("cells", *PARTS)] == ["cells", *PARTS[1:]]

    @pytest.mark.parametrize("profile", Profile)
    def test_cells_are_json_and_each_is_its_own(self, name, profile):
        study = engine.load_study(name)
        cells = study.cells(profile)
        assert cells
        assert all(json.loads(json.dumps(cell, allow_nan=False)) == cell for cell in cells)
        assert len({study.cell_id(cell, 0) for cell in cells}) == len(cells)
        assert study.cells(profile) == cells  # the grid does not depend on when it is asked for

    def test_the_profiles_grow(self, name):
        sizes = [len(engine.load_study(name).cells(profile)) for profile in Profile]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[1]


class TestStyle:
    def test_short_functions_and_lines_by_the_linter_and_no_way_around_it(self):
        folder = engine.FOLDER
        rules = tomllib.loads((folder / "ruff.toml").read_text())
        assert rules["line-length"] == rules["lint"]["pycodestyle"]["max-line-length"] == 110
        assert "C901" in rules["lint"]["extend-select"]
        assert rules["lint"]["mccabe"]["max-complexity"] == 12
        for path in folder.glob("*.py"):
            assert not re.search(r"# (fmt|noqa|ruff)\b|# type: ignore", path.read_text()), path.name

    def test_the_linter_agrees(self):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--no-cache", str(engine.FOLDER)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


class TestSmoke:
    """One test an experiment, so that parallel workers run none of them twice."""

    def test_run_resume_repeat(self, name, tmp_path, monkeypatch):
        result, files = report.run(name, Profile.SMOKE, tmp_path)
        self.check_table_verdict_and_figure(name, result, files)
        self.check_last_cell_gives_the_same_rows_alone(name, result)
        before = {
            path: path.read_bytes() for path in files if path.suffix != ".json"
        }  # the manifest holds seconds
        monkeypatch.setattr(engine, "_measure", lambda *_: pytest.fail("a cell was measured again"))
        again, files = report.run(name, Profile.SMOKE, tmp_path)
        pd.testing.assert_frame_equal(again.frame, result.frame)
        assert {path: path.read_bytes() for path in files if path.suffix != ".json"} == before

    def check_table_verdict_and_figure(self, name, result, files):
        assert len(result.frame) >= len(engine.load_study(name).cells(Profile.SMOKE))
        assert result.frame.columns.is_unique
        verdict = result.manifest["verdict"]
        assert len(verdict) > 40
        assert not re.search(r"\bnan\b", verdict)
        summary = ["_summary.csv"] if result.analysis.summary is not None else []
        assert [path.name for path in files] == [
            f"{name}{end}" for end in (".csv", ".json", *summary, ".svg", ".png")
        ]
        assert files[-1].read_bytes().startswith(b"\x89PNG")
        assert "<svg" in files[-2].read_text()
        assert read_json(files[1])["verdict"] == verdict
        assert load_result(files[0].parent, name).frame.shape == result.frame.shape

    def check_last_cell_gives_the_same_rows_alone(self, name, result):
        """No state is carried from cell to cell. Columns of wall time are there, and exempt."""
        study = engine.load_study(name)
        cell = study.cells(Profile.SMOKE)[-1]
        rows = json.loads(json.dumps(study.measure(cell, study.rng(cell, 0))))
        for row, kept in zip(rows, result.frame.iloc[-len(rows) :].to_dict("records"), strict=True):
            for timed in study.clocked:
                assert row.pop(timed) > 0
                assert kept.pop(timed) > 0
            assert {k: v for k, v in row.items() if v is not None} == {
                k: v for k, v in kept.items() if not pd.isna(v)
            }


class TestDiversityOnATinyModel:
    """``diversity_by_steps`` beside a stand-in for models/mdm: it needs nothing but that folder."""

    def test_smoke(self, tmp_path):
        (tmp_path / "experiments").mkdir()
        source = engine.experiments()["diversity_by_steps"]
        (tmp_path / "experiments" / source.name).write_bytes(source.read_bytes())
        rng, model = np.random.default_rng(0), DenoiserConfig(12, 1, 2, 64)
        text = Corpus(rng.integers(0, 12, 600, np.uint16), rng.integers(0, 12, 1300, np.uint16), {})
        train(TrainConfig(model=model, steps=1, batch=2, length=128), text, tmp_path / "models" / "mdm")
        result, files = report.run(
            "diversity_by_steps", Profile.SMOKE, tmp_path / "out", folder=tmp_path / "experiments"
        )
        assert all(path.stat().st_size for path in files)
        tokens = torch.tensor([list(map(int, row.split())) for row in result.frame.tokens])
        assert tokens.shape[1] == 128
        assert tokens.max() < 12
        entropy = [
            float(torch.distributions.Categorical(torch.bincount(row) / 128.0).entropy()) for row in tokens
        ]
        np.testing.assert_allclose(result.frame.sequence_entropy, entropy, rtol=1e-5)
        assert "real text" in result.manifest["verdict"]


class TestRecordedDraws:
    """``devices``: counts that a GPU drew, against the laws that are emulated here. The counts are data:
    what is random is in them. A right law fails one of twelve at most once in 1e5."""

    def test_follow_the_emulated_laws_and_not_the_true_tail(self):
        """p >= 1e-6 under the law of the same line on CUDA. From 15 nats on the race has p < 1e-6 under the
        true tail."""
        engine.load_study("devices")
        devices = sys.modules["experiments.devices"]
        points = read_json(devices.RECORDED)["draws"]["points"]
        for point in points:
            tail = true_tail(point["gap"])
            law = head_and_tail_law(devices.SERIES[point["law"]][0], point["gap"])
            found = tail_test(point["tail_draws"], point["n"], float(law.probs[1]), p0_error=law.error)
            assert found.p_value >= 1e-6
            if point["gap"] >= 15:
                assert tail_test(point["tail_draws"], point["n"], tail).p_value < 1e-6
        assert len(points) == 12
