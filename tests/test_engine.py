"""Study, store, engine, result, figures, files: a run is resumed, never trusted blindly, and always the same.

The experiment is a fake of a few cells that notes each measurement beside its own file.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

from precision_lab import engine, figures, provenance, report
from precision_lab.errors import InputError, PrecisionLabError, unknown_name
from precision_lab.files import atomic, read_json, read_safetensors, write_json, write_safetensors
from precision_lab.finding import Finding
from precision_lab.result import Result, load_result
from precision_lab.statistics import Estimate
from precision_lab.store import Store
from precision_lab.study import Analysis, Study
from precision_lab.types import Profile

FAKE = """
from pathlib import Path
from precision_lab import figures
from precision_lab.study import Analysis, Study

HERE = Path(__file__).parent


def measure(cell, rng):
    with open(HERE / "measured.txt", "a") as file:
        print(cell["k"], file=file)
    if (HERE / f"stop at {cell['k']}").exists():
        raise KeyboardInterrupt
    return [cell | {"draw": i, "u": rng.random(), "none": None} for i in range(3)]


def analyse(rows):
    return Analysis(notes=[f"{len(rows)} rows"])


def figure(rows, analysis):
    drawn, (axes,) = figures.canvas()
    part = rows.groupby("k").u.mean()
    figures.interval(axes, part.index, part, part - 0.1, part + 0.1, label="mean", index=0)
    return drawn


STUDY = Study(
    name="fake",
    question="Is it so?",
    cells=lambda profile: [{"k": k} for k in range({"smoke": 3, "quick": 4, "full": 5}[profile])],
    measure=measure,
    analyse=analyse,
    figure=figure,
)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "fake.py").write_text(FAKE)
    (tmp_path / "experiments" / "_helper.py").write_text("raise RuntimeError('not an experiment')")
    return tmp_path / "experiments"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


def rewritten(folder, text: str) -> None:
    """Another experiment in the same file; a process loads a file once, so this one must forget it."""
    (folder / "fake.py").write_text(text)
    engine.load_study.cache_clear()


def measured(folder) -> list[int]:
    """Which cells were measured since the last call."""
    path = folder / "measured.txt"
    found = [int(line) for line in path.read_text().split()] if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def cell_files(out):
    return sorted((out / "cells" / "fake").iterdir())


def within(seconds, look, good):
    """What ``look()`` returns, once it is good, or when the time is over."""
    until = time.monotonic() + seconds
    while not good(found := look()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def running(pid: int) -> bool:
    """There and no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return not done.stdout.strip().startswith("Z")


class TestStudy:
    def study(self, **changed):
        def nothing(*_):
            return []

        parts = {"cells": nothing, "measure": nothing, "analyse": nothing, "figure": nothing}
        return Study(**{"name": "s", "question": "?"} | parts | changed)

    def test_the_verdict_is_head_findings_notes(self):
        finding = Finding("x", Estimate.exact(2.0), 1.0)
        assert Analysis([finding], ["a note"], "Head").text() == f"Head. {finding.text()}; a note."
        assert Analysis(notes=["a", "b"]).text() == "a; b."

    def test_a_cell_is_known_by_all_that_defines_its_numbers(self):
        cell, study = {"a": 1, "b": [2.5, None]}, self.study()
        name = study.cell_id(cell, 0)
        assert re.fullmatch("[0-9a-f]{20}", name)
        assert study.cell_id({"b": [2.5, None], "a": 1}, 0) == name
        others = [
            study.cell_id(cell, 1), study.cell_id(cell | {"a": 2}, 0), self.study(version=2).cell_id(cell, 0),
            self.study(name="t").cell_id(cell, 0), study.cell_id(cell | {"c": 0}, 0),
        ]  # fmt: skip
        assert len({name, *others}) == 6

    def test_a_cell_has_its_own_stream(self):
        study = self.study()
        first = study.rng({"a": 1}, 0).random(4)
        np.testing.assert_array_equal(first, study.rng({"a": 1}, 0).random(4))
        for other in (study.rng({"a": 2}, 0), study.rng({"a": 1}, 1), self.study(version=2).rng({"a": 1}, 0)):
            assert not set(first) & set(other.random(4))

    def test_the_streams_are_fixed_for_ever(self):
        """A number committed in results/ can be made again: the key of a stream must not change."""
        assert self.study().rng({"a": 1}, 0).integers(1 << 32, size=2).tolist() == [614227169, 251202364]


class TestStore:
    @pytest.fixture
    def store(self, folder, out):
        return Store(out, engine.load_study("fake", folder), 0)

    def test_what_was_put_is_got(self, store):
        assert store.get({"k": 0}) is None
        rows = [{"x": 0.1, "y": None, "z": "ü"}, {"x": 1e-300, "y": 3, "z": ""}]
        put = store.put({"k": 0}, rows, 1.23456)
        assert store.get({"k": 0}) == put == {"cell": {"k": 0}, "rows": rows, "seconds": 1.235, "commit": None}
        assert store.get({"k": 1}) is None

    def test_a_measure_may_be_infinite_or_absent(self, store):
        store.put({"k": 0}, [{"x": math.inf, "y": -math.inf, "z": math.nan}], 0.0)
        (row,) = store.get({"k": 0})["rows"]
        assert (row["x"], row["y"]) == (math.inf, -math.inf)
        assert math.isnan(row["z"])

    @pytest.mark.parametrize(
        "raw",
        [
            b"", b"{", b"[]", b"null", b"3", b"\xff\xfe\x00", b"{}", b'{"cell": {"k": 0}}',
            b'{"cell": {"k": 1}, "rows": [], "seconds": 0}', b'{"cell": {"k": 0}, "rows": null, "seconds": 0}',
            b'{"cell": {"k": 0}, "rows": []}', b'{"rows": [], "seconds": 0}',
        ],
    )  # fmt: skip
    def test_a_damaged_file_is_not_trusted(self, store, raw):
        store.put({"k": 0}, [], 0.0)
        store.path({"k": 0}).write_bytes(raw)
        assert store.get({"k": 0}) is None

    def test_a_row_that_json_cannot_hold_leaves_nothing_behind(self, store):
        for value in (np.int64(3), {1, 2}):
            with pytest.raises(TypeError):
                store.put({"k": 0}, [{"x": value}], 0.0)
        assert list(store.folder.iterdir()) == []


class TestRun:
    def test_what_a_run_returns_and_writes(self, folder, out, capsys):
        result, files = report.run("fake", Profile.QUICK, out, folder=folder)
        assert [path.name for path in files] == ["fake.csv", "fake.json", "fake.svg", "fake.png"]
        assert all(path.stat().st_size for path in files)
        assert sorted(path.name for path in out.iterdir()) == sorted(["cells", *(path.name for path in files)])
        assert list(result.frame.columns) == ["k", "draw", "u", "none"]
        assert result.frame.k.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
        assert len(cell_files(out)) == 4
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "fake: 4/4  k=3" in captured.err

    def test_the_manifest(self, folder, out):
        result, _ = engine.run("fake", Profile.SMOKE, out, seed=5, folder=folder)
        manifest = read_json(out / "fake.json")
        assert manifest == result.manifest
        assert manifest["experiment"] == "fake"
        assert manifest["question"] == "Is it so?"
        assert manifest["verdict"] == "9 rows."
        assert manifest["profile"] == "smoke"
        assert (manifest["seed"], manifest["cells"], manifest["format"]) == (5, 3, 1)
        assert manifest["versions"] == provenance.versions()
        assert manifest["device"] == f"cpu, {provenance.processor()}"
        assert {"commit", "seconds_measuring", "seconds_this_run"} <= manifest.keys()

    def test_cells_on_disk_are_kept(self, folder, out, capsys):
        first, _ = engine.run("fake", Profile.SMOKE, out, folder=folder)
        assert measured(folder) == [0, 1, 2]
        again, _ = engine.run("fake", Profile.SMOKE, out, folder=folder)
        assert measured(folder) == []
        assert "3/3 cells kept" in capsys.readouterr().err
        pd.testing.assert_frame_equal(first.frame, again.frame)
        assert again.manifest["seconds_measuring"] == first.manifest["seconds_measuring"]

    def test_the_manifest_says_which_commit_measured_the_cells(self, folder, out, monkeypatch):
        """A run that goes on with another commit's cells says so; cells written before commits were noted
        are unknown."""
        monkeypatch.setattr(engine, "_commit", lambda: "a" * 40)
        first, _ = engine.run("fake", Profile.SMOKE, out, folder=folder)
        assert first.manifest["cells_by_commit"] == {"a" * 40: 3}
        monkeypatch.setattr(engine, "_commit", lambda: "b" * 40)
        grown, _ = engine.run("fake", Profile.QUICK, out, folder=folder)
        assert grown.manifest["cells_by_commit"] == {"a" * 40: 3, "b" * 40: 1}
        path = cell_files(out)[0]
        record = read_json(path)
        del record["commit"]
        write_json(path, record)
        again, _ = engine.run("fake", Profile.QUICK, out, folder=folder)
        assert sorted(again.manifest["cells_by_commit"].items())[-1] == ("unknown", 1)

    def test_a_cell_that_another_run_finished_meanwhile_is_not_measured_again(self, folder, out):
        one = engine._measure("fake", folder, {"k": 0}, 0, out)
        assert engine._measure("fake", folder, {"k": 0}, 0, out) == one
        assert measured(folder) == [0]

    def test_a_larger_grid_measures_only_what_is_new_and_changes_no_number(self, folder, out, tmp_path):
        engine.run("fake", Profile.SMOKE, out, folder=folder)
        measured(folder)
        grown, _ = engine.run("fake", Profile.QUICK, out, folder=folder)
        assert measured(folder) == [3]
        at_once, _ = engine.run("fake", Profile.QUICK, tmp_path / "other", folder=folder)
        pd.testing.assert_frame_equal(grown.frame, at_once.frame)

    def test_the_same_seed_gives_the_same_files_and_another_seed_does_not(self, folder, out, tmp_path):
        _, files = report.run("fake", Profile.SMOKE, out, folder=folder)
        _, others = report.run("fake", Profile.SMOKE, tmp_path / "other", folder=folder)
        for one, other in zip(files, others, strict=True):
            if one.suffix != ".json":  # the manifest holds seconds
                assert one.read_bytes() == other.read_bytes(), one.name
        measured(folder)
        result, _ = report.run("fake", Profile.SMOKE, out, seed=1, folder=folder)
        assert measured(folder) == [0, 1, 2]
        assert not set(result.frame.u) & set(load_result(tmp_path / "other", "fake").frame.u)

    def test_a_raised_version_is_measured_anew(self, folder, out):
        engine.run("fake", Profile.SMOKE, out, folder=folder)
        rewritten(folder, FAKE.replace('question="', 'version=2, question="'))
        measured(folder)
        engine.run("fake", Profile.SMOKE, out, folder=folder)
        assert measured(folder) == [0, 1, 2]

    @pytest.mark.parametrize("raw", [b"{", b"[1]", b"\x00\xff"])
    def test_a_damaged_cell_is_measured_again(self, folder, out, raw):
        first, _ = engine.run("fake", Profile.SMOKE, out, folder=folder)
        sound = cell_files(out)[1].read_bytes()
        cell_files(out)[1].write_bytes(raw)
        measured(folder)
        again, _ = engine.run("fake", Profile.SMOKE, out, folder=folder)
        assert measured(folder) == [json.loads(sound)["cell"]["k"]]
        pd.testing.assert_frame_equal(first.frame, again.frame)
        assert json.loads(cell_files(out)[1].read_bytes())["rows"] == json.loads(sound)["rows"]

    def test_an_interrupted_run_keeps_what_was_finished(self, folder, out, tmp_path):
        (folder / "stop at 2").touch()
        with pytest.raises(KeyboardInterrupt):
            engine.run("fake", Profile.QUICK, out, folder=folder)
        assert measured(folder) == [0, 1, 2]
        assert len(cell_files(out)) == 2
        assert not (out / "fake.csv").exists()
        (folder / "stop at 2").unlink()
        resumed, _ = engine.run("fake", Profile.QUICK, out, folder=folder)
        assert measured(folder) == [2, 3]
        straight, _ = engine.run("fake", Profile.QUICK, tmp_path / "straight", folder=folder)
        pd.testing.assert_frame_equal(resumed.frame, straight.frame)

    def test_two_processes_give_what_one_gives(self, folder, out, tmp_path):
        one, files = engine.run("fake", Profile.QUICK, out, folder=folder)
        measured(folder)
        two, others = engine.run("fake", Profile.QUICK, tmp_path / "two", jobs=2, folder=folder)
        assert sorted(measured(folder)) == [0, 1, 2, 3]
        pd.testing.assert_frame_equal(one.frame, two.frame)
        for path, other in zip(files, others, strict=True):
            if path.suffix != ".json":
                assert path.read_bytes() == other.read_bytes()

    def test_a_worker_that_is_killed_is_one_line_and_the_same_command_resumes(self, folder, out, capsys):
        rewritten(folder, FAKE.replace("raise KeyboardInterrupt", "import os; os.kill(os.getpid(), 9)"))
        (folder / "stop at 3").touch()
        with pytest.raises(PrecisionLabError, match="the same command resumes"):
            engine.run("fake", Profile.QUICK, out, jobs=2, folder=folder)
        (folder / "stop at 3").unlink()
        resumed, _ = engine.run("fake", Profile.QUICK, out, folder=folder)
        assert len(resumed.frame) == 12

    def test_workers_end_with_the_process_that_started_them(self, folder, out):
        """Two workers, each asleep in a cell, and a SIGKILL to the main process alone; SIGTERM is no other
        to them."""
        note = 'open(HERE / f"pid {os.getpid()}", "w").close(); time.sleep(1000)'
        rewritten(folder, "import os, time\n" + FAKE.replace("raise KeyboardInterrupt", note))
        for k in range(4):
            (folder / f"stop at {k}").touch()
        code = (
            "from pathlib import Path\nfrom precision_lab import engine\nfrom precision_lab.types import Profile\n"
            f"engine.run('fake', Profile.QUICK, Path({str(out)!r}), jobs=2, folder=Path({str(folder)!r}))\n"
        )
        main = subprocess.Popen([sys.executable, "-c", code])
        pids = within(
            60, lambda: [int(path.name[4:]) for path in folder.glob("pid *")], lambda found: len(found) == 2
        )
        main.send_signal(signal.SIGKILL)
        assert main.wait(20) == -signal.SIGKILL
        assert within(10, lambda: [pid for pid in pids if running(pid)], lambda left: not left) == []

    def test_a_folder_that_cannot_be_written_to_is_found_before_anything_is_measured(
        self, folder, out, monkeypatch
    ):
        """A file system that is there to be read only: nothing can be made in its folders."""

        def refuses(**_):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("tempfile.TemporaryFile", refuses)
        with pytest.raises(OSError, match="Read-only"):
            engine.run("fake", Profile.SMOKE, out, folder=folder)
        assert measured(folder) == []

    @pytest.mark.parametrize("jobs", [0, -1])
    def test_jobs_below_one(self, folder, out, jobs):
        with pytest.raises(InputError, match="use -j 1"):
            report.run("fake", Profile.SMOKE, out, jobs=jobs, folder=folder)
        assert not out.exists()

    def test_verdict_summary_and_figure_are_made_again_from_the_table(self, folder, out):
        _, files = report.run("fake", Profile.SMOKE, out, folder=folder)
        before = {path: path.read_bytes() for path in files}
        measured(folder)
        assert set(report.remake("fake", out, folder=folder)) == {
            path for path in files if path.suffix != ".csv"
        }
        again = {path: path.read_bytes() for path in files}
        coordinates = out / "fake.svg"  # of numbers as the table has them, to nine digits
        assert {path: text for path, text in again.items() if path != coordinates} == {
            path: text for path, text in before.items() if path != coordinates
        }
        coordinates.unlink()
        rewritten(folder, FAKE.replace("} rows", "} lines"))
        report.remake("fake", out, folder=folder)
        manifest = read_json(out / "fake.json")
        assert manifest["verdict"] == "9 lines."
        assert list(manifest) == list(json.loads(before[out / "fake.json"]))
        assert (out / "fake.csv").read_bytes() == before[out / "fake.csv"]
        assert coordinates.read_bytes() == again[coordinates]
        assert measured(folder) == []

    def test_the_committed_run_is_joined_where_keys_are_named(self, folder, out):
        rewritten(folder, FAKE.replace("    cells=lambda", '    keys=("k", "draw"),\n    cells=lambda'))
        committed = folder.parent / "results" / "full"
        result, _ = engine.run("fake", Profile.FULL, committed, folder=folder)
        assert (result.manifest["verdict"], len(result.rows)) == ("15 rows.", 15)
        result, _ = engine.run("fake", Profile.SMOKE, out, folder=folder)
        assert (result.manifest["verdict"], len(result.frame)) == ("15 rows.", 9)
        result, _ = engine.run("fake", Profile.SMOKE, out, seed=1, folder=folder)
        assert (result.manifest["verdict"], len(result.frame)) == ("24 rows.", 9)

    def test_a_verdict_that_fails_leaves_the_cells(self, folder, out):
        rewritten(folder, FAKE.replace('f"{len(rows)} rows"', "rows.missing"))
        with pytest.raises(AttributeError):
            engine.run("fake", Profile.SMOKE, out, folder=folder)
        rewritten(folder, FAKE)
        measured(folder)
        engine.run("fake", Profile.SMOKE, out, folder=folder)
        assert measured(folder) == []


class TestExperimentsFolder:
    def test_files_by_name(self, folder):
        assert engine.experiments(folder) == {"fake": folder / "fake.py"}

    def test_an_unknown_name(self, folder):
        with pytest.raises(
            InputError, match="experiment 'fkae'; expected one of 1 known experiments; did you mean fake"
        ):
            engine.load_study("fkae", folder)
        with pytest.raises(InputError, match="precision-lab ls experiments"):
            engine.load_study("xyz", folder)

    @pytest.mark.parametrize("text", ["", "STUDY = 3"])
    def test_a_file_that_is_no_experiment(self, folder, text):
        (folder / "odd.py").write_text(text)
        with pytest.raises(InputError, match="without a STUDY"):
            engine.load_study("odd", folder)


class TestResult:
    def test_round_trip(self, tmp_path):
        frame = pd.DataFrame(
            {"name": ["a", "b,c"], "x": [1 / 3, 2.0**-40], "n": [3, 1 << 40], "gap": [None, 0.5]}
        )
        saved = Result("table", frame, {"seed": 0, "verdict": "ü"})
        csv, note = saved.save(tmp_path / "new")
        back = load_result(tmp_path / "new", "table")
        assert back.manifest == saved.manifest
        assert back.frame.n.tolist() == frame.n.tolist()
        np.testing.assert_allclose(back.frame.x, frame.x, rtol=1e-8)
        assert np.isnan(back.frame.gap[0])
        assert csv.read_bytes().startswith(b"name,x,n,gap\na,0.333333333,3,\n")
        assert b"\r" not in csv.read_bytes()
        assert note.name == "table.json"

    def test_a_missing_or_damaged_manifest(self, tmp_path):
        with pytest.raises(InputError, match="no file"):
            load_result(tmp_path, "none")
        Result("t", pd.DataFrame({"x": [1]}), {}).save(tmp_path)
        (tmp_path / "t.json").write_text("{")
        with pytest.raises(InputError, match="valid JSON"):
            load_result(tmp_path, "t")


class TestFigures:
    def figure(self):
        figure, axes = figures.canvas(2)
        x = np.arange(5.0)
        for k in range(3):
            figures.interval(axes[0], x, x + k, x + k - 0.2, x + k + 0.3, label=f"series {k}", index=k)
        axes[0].legend()
        axes[1].set(xlabel="steps N", title="a title")
        return figure

    def test_svg_and_png_with_the_same_bytes_every_time(self, tmp_path):
        first, second = (figures.save(self.figure(), tmp_path / name / "figure") for name in ("a", "b"))
        assert [path.name for path in first] == ["figure.svg", "figure.png"]
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes(), one.suffix
        assert first[1].read_bytes().startswith(b"\x89PNG")
        assert sorted((tmp_path / "a").iterdir()) == sorted(first)

    def test_the_svg_is_xml_with_its_text_as_text_and_no_date(self, tmp_path):
        path, _ = figures.save(self.figure(), tmp_path / "figure")
        text = path.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "steps N" in text
        assert "a title" in text
        assert "<dc:date>" not in text

    def test_saving_closes_and_leaves_the_style_of_others_alone(self, tmp_path):
        import matplotlib
        import matplotlib.pyplot as plt

        before, open_before = dict(matplotlib.rcParams), len(plt.get_fignums())
        figures.save(self.figure(), tmp_path / "figure")
        assert len(plt.get_fignums()) == open_before
        assert {k: v for k, v in matplotlib.rcParams.items() if before[k] != v} == {}

    def test_canvas_gives_its_axes_row_by_row(self, tmp_path):
        figure, axes = figures.canvas(2, 3, width=2, height=1)
        assert len(axes) == 6
        assert tuple(figure.get_size_inches()) == (4, 3)
        assert axes[1].get_subplotspec().colspan.start == 1
        figures.save(figure, tmp_path / "f")

    def test_every_precision_has_its_own_look_whatever_it_is_called(self):
        looks = [tuple(figures.precision(name).values()) for name in figures.PRECISIONS]
        assert len(set(looks)) == len(figures.PRECISIONS)
        names = {
            "gumbel_max_fp16": "float16",
            "gumbel_max_bf16": "bfloat16",
            "gumbel_max_fp32": "float32",
            "mdlm_fp32": "float32",
            "gumbel_max_fp64": "float64",
            "gumbel_max_fp64_truncated": "truncated",
            "Prop. 5.2": "truncated",
            "lattice": "float32",
            "faithful": "float64",
            "two_stage": "two-stage",
        }
        assert {name: figures.precision_of(name) for name in names} == names
        assert all(figures.precision(name) == figures.precision(precision) for name, precision in names.items())
        with pytest.raises(InputError, match="candle"):
            figures.precision("candle")

    def test_a_sweep_is_in_the_order_of_x_with_its_intervals(self, tmp_path):
        table = pd.DataFrame({"n": [4, 1], "y": [2.0, 1.0], "y_low": [1.5, 0.0], "y_high": [3.0, 1.25]})
        drawn, (axes,) = figures.canvas()
        figures.sweep(axes, table, "n", "y", label="y", look=figures.precision("float32"), factor=2.0)
        line, _, (bars,) = axes.containers[0]
        assert line.get_xydata().tolist() == [[2.0, 1.0], [8.0, 2.0]]
        assert [bar[:, 1].tolist() for bar in bars.get_segments()] == [[0.0, 1.25], [1.5, 3.0]]
        figures.save(drawn, tmp_path / "f")

    def test_one_digit_and_the_power_of_ten(self):
        assert [figures.power_of_ten(x) for x in (3.1e5, 7e12, 96.0, 1.0)] == ["3e5", "7e12", "1e2", "1e0"]

    def test_every_series_has_its_own_look(self):
        looks = [tuple(figures.series(k).values()) for k in range(8)]
        assert len(set(looks)) == 8
        assert figures.series(8) == figures.series(0)


class TestFiles:
    def test_a_write_is_there_in_full(self, tmp_path):
        path = tmp_path / "new" / "folder" / "x.txt"
        with atomic(path) as partial:
            assert partial.parent == path.parent
            assert partial.suffix == ".txt"
            partial.write_text("whole")
            assert not path.exists()
        assert path.read_text() == "whole"
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_a_failed_write_leaves_the_old_file_and_no_partial(self, tmp_path, error):
        path = tmp_path / "x.txt"
        path.write_text("old")

        def fail():
            with atomic(path) as partial:
                partial.write_text("half of the n")
                raise error

        with pytest.raises(error):
            fail()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_write_that_writes_nothing_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError), atomic(tmp_path / "x"):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_json(self, tmp_path):
        path, value = tmp_path / "x.json", {"b": [1, 2.5, None, "ü"], "a": {"nested": True}}
        write_json(path, value)
        assert read_json(path) == value
        assert list(read_json(path)) == ["b", "a"]  # the order of the writer
        assert path.read_bytes().endswith(b"}\n")
        for bad in (float("nan"), float("-inf")):
            with pytest.raises(ValueError, match="not JSON compliant"):
                write_json(path, {"x": bad})
        assert read_json(path) == value
        assert list(tmp_path.iterdir()) == [path]

    def test_json_that_cannot_be_read(self, tmp_path):
        with pytest.raises(InputError, match="check the path"):
            read_json(tmp_path / "none.json")
        for raw in (b"", b"{'a': 1}", b"\xff\xfe"):
            (tmp_path / "x.json").write_bytes(raw)
            with pytest.raises(InputError, match="valid JSON"):
                read_json(tmp_path / "x.json")

    def test_safetensors(self, tmp_path):
        path = tmp_path / "x.safetensors"
        tensors = {
            "a": torch.arange(6.0).view(2, 3).T,
            "scalar": torch.tensor(3),
            "half": torch.ones(2).bfloat16(),
        }
        write_safetensors(path, tensors, {"note": "ü"})
        back = read_safetensors(path, sha256=provenance.file_sha256(path))
        assert back.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert back[name].dtype == tensor.dtype
            assert torch.equal(back[name], tensor)
        with pytest.raises(InputError, match=r"expected 000000.* as its manifest says"):
            read_safetensors(path, sha256="0" * 64)
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(InputError, match="a safetensors file"):
            read_safetensors(path)
        with pytest.raises(InputError, match="no file"):
            read_safetensors(tmp_path / "none.safetensors")

    def test_a_pickle_is_never_run(self, tmp_path):
        torch.save({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        with pytest.raises(InputError, match="a safetensors file"):
            read_safetensors(tmp_path / "x.safetensors")


class TestProvenance:
    def test_sha256(self, tmp_path):
        (tmp_path / "x").write_bytes(b"abc")
        # FIPS 180-2
        assert provenance.file_sha256(tmp_path / "x").startswith("ba7816bf8f01cfea414140de5dae2223")

    def test_versions(self):
        found = provenance.versions()
        assert torch.__version__.startswith(found["torch"])  # 2.11.0+cu130 where the package is called 2.11.0
        assert found["numpy"] == np.__version__
        assert "not installed" not in found.values()

    def test_commit(self, tmp_path, monkeypatch):
        def git(*arguments):
            return os.system(
                f"git -C {tmp_path} -c user.name=a -c user.email=b {' '.join(arguments)} >/dev/null 2>&1"
            )

        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert provenance.git_commit(tmp_path) is None
        (tmp_path / "x").write_text("1")
        assert git("init") == git("add", "x") == git("commit", "-m", "one") == 0
        clean = provenance.git_commit(tmp_path)
        assert re.fullmatch("[0-9a-f]{40}", clean)
        (tmp_path / "y").write_text("untracked")
        assert provenance.git_commit(tmp_path) == clean
        (tmp_path / "x").write_text("2")
        assert provenance.git_commit(tmp_path) == clean + "+"

    def test_without_git(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert provenance.git_commit() is None


class TestErrors:
    def test_what_came_what_was_expected_what_to_do(self):
        error = InputError("3 rows", "2", "drop one")
        assert str(error) == "got 3 rows; expected 2; drop one"
        assert (error.got, error.expected, error.remedy) == ("3 rows", "2", "drop one")
        assert isinstance(error, PrecisionLabError)
        assert isinstance(error, ValueError)

    def test_the_nearest_names(self):
        assert "did you mean alpha?" in str(unknown_name("thing", "alhpa", ["alpha", "beta"]))
        assert "list them with: precision-lab ls things" in str(unknown_name("thing", "zzz", ["alpha", "beta"]))
