"""The GPU script on a processor: its refusal, its number of draws, and what it writes when a step fails or
is cut short."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import gpu
import numpy as np
import pytest
import torch
from scipy import stats

from precision_lab.files import read_json

EAGER = {name: function for name, function in gpu.SAMPLERS.items() if not name.startswith("compiled")}


@pytest.fixture
def short(monkeypatch):
    """One gap and no compilation."""
    monkeypatch.setattr(gpu, "SAMPLERS", EAGER)
    monkeypatch.setattr(gpu, "DRY_EFFECTS", {5.0: 0.2})


def fake_run(monkeypatch, returncode: int, stdout: str = "", stderr: str = "", report: str = "") -> None:
    """Every program ends like this; pytest writes ``report`` first."""

    def run(command, **options):
        for argument in command:
            if argument.startswith("--junitxml="):
                Path(argument.removeprefix("--junitxml=")).write_text(report)
        return subprocess.CompletedProcess(command, returncode, stdout, stderr)

    monkeypatch.setattr(gpu.subprocess, "run", run)


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: got no CUDA device; expected one; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("effect", [0.025, 0.05, 0.2])
def test_the_number_of_draws_has_the_power_that_is_said(effect):
    """By exact binomial laws: false-fail rate 1e-6, and a tail off by the effect is missed about once in a
    thousand; half the draws miss it over ten times as often. The formula's normal laws are off by a factor
    of 3 at most here."""
    tail = 1 / 11
    n = gpu.draws_needed(tail, effect)
    low, high = stats.binom.ppf([0.5e-6, 1 - 0.5e-6], n, tail)
    for factor in (1 - effect, 1 + effect):
        law = stats.binom(n, tail * factor)
        assert law.cdf(high) - law.cdf(low - 1) < 3e-3
    half = stats.binom(n // 2, tail * (1 + effect))
    assert half.cdf(stats.binom.ppf(1 - 0.5e-6, n // 2, tail)) > 0.03


def test_draws_on_a_processor(short, tmp_path):
    """Three samplers, each within 5.5 standard deviations of the true tail: false-fail rate 1e-7. Sees a
    tail off by 22 % with 1 - 1e-3."""
    assert gpu.main(["--device", "cpu", "--steps", "draws", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    found = read_json(path)
    assert path.stem == gpu.card_of("cpu").slug
    assert found["torch"] == torch.__version__
    points = found["draws"]["points"]
    assert [point["sampler"] for point in points] == list(EAGER)
    for point in points:
        assert (point["gap"], point["vocab"]) == (5.0, 16)
        assert point["n"] >= point["n_wanted"] == gpu.draws_needed(point["true_tail"], 0.2)
        assert point["true_tail"] == pytest.approx(15 * np.exp(-5) / (1 + 15 * np.exp(-5)), rel=1e-12)
        p = point["true_tail"]
        assert abs(point["tail_draws"] / point["n"] - p) < 5.5 * np.sqrt(p * (1 - p) / point["n"])
        assert point["low"] < point["ratio"] == point["tail_draws"] / point["n"] / p < point["high"]


@pytest.mark.slow
def test_compiled_samplers_draw_the_tail():
    """As above, with a C++ compiler: a minute."""
    for name in gpu.SAMPLERS.keys() - EAGER.keys():
        point = gpu.head_and_tail_point(name, 5.0, 0.2, "cpu", time.monotonic() + 300)
        p = point["true_tail"]
        assert abs(point["tail_draws"] / point["n"] - p) < 5.5 * np.sqrt(p * (1 - p) / point["n"])


def test_a_deadline_that_has_passed_leaves_no_draws_and_is_no_success(short, monkeypatch, capsys):
    monkeypatch.setitem(gpu.SECONDS, "draws", -1)
    assert gpu.main(["--device", "cpu", "--steps", "draws"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [point["n"] for point in found["draws"]["points"]] == [0, 0, 0]
    assert "ratio" not in found["draws"]["points"][0]


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: out of memory"), subprocess.TimeoutExpired("pytest", 1)]
)
def test_a_step_that_fails_is_recorded_and_the_next_goes_on(error, monkeypatch, capsys):
    def broken(device, deadline):
        raise error

    monkeypatch.setattr(gpu, "STEPS", {"tests": broken, "tables": lambda device, deadline: {"ok": True}})
    assert gpu.main(["--device", "cpu", "--steps", "tests", "tables"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["tests"]["ok"]
    assert found["tests"]["error"]
    assert found["tables"]["ok"]


def test_tables(monkeypatch):
    fake_run(monkeypatch, 0, stdout='{"what": "rand", "greatest": 0.99, "file": "/tmp/x.npz"}')
    found = gpu.measure_tables("cpu", time.monotonic() + 10)
    assert found == {"ok": True, "tables": [{"op": "rand", "dtype": "bf16", "what": "rand", "greatest": 0.99}]}
    fake_run(monkeypatch, 2, stderr="warning\nerror: got no such op; expected another; choose one\n")
    found = gpu.measure_tables("cuda", time.monotonic() + 10)
    assert not found["ok"]
    assert len(found["tables"]) == 4
    assert found["tables"][0]["error"] == ["error: got no such op; expected another; choose one"]


def test_marked_tests(monkeypatch):
    cases = "".join(
        f'<testcase classname="t" name="{name}">{inside}</testcase>'
        for name, inside in (("a", ""), ("b", "<skipped/>"), ("c", "<failure/>"))
    )
    fake_run(monkeypatch, 1, report=f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    found = gpu.run_marked_tests("cpu", time.monotonic() + 10)
    assert found == {"ok": False, "tests": {"t::a": "passed", "t::b": "skipped", "t::c": "failed"}}


def test_the_benchmark_on_a_processor(capsys):
    """Every call is timed, in at least one round, and the copy beside itself."""
    assert gpu.main(["--device", "cpu", "--steps", "kernels"]) == 0
    found = json.loads(capsys.readouterr().out)["kernels"]
    assert len(found["lines"]) == 2 * 7
    for line in found["lines"]:
        assert line["rounds"] >= 1
        assert 0 < line["us_least"] <= line["us"] <= line["us_most"]
        if line["call"] == "copy":
            assert (line["time_of_copy"], line["bandwidth_of_copy"]) == (1, 0.5)


def test_a_benchmark_without_time_leaves_out_and_says_so(monkeypatch, capsys):
    monkeypatch.setitem(gpu.SECONDS, "kernels", -1)
    assert gpu.main(["--device", "cpu", "--steps", "kernels"]) == 1
    found = json.loads(capsys.readouterr().out)["kernels"]
    assert found["lines"] == []
    assert len(found["left_out"]) == 2


def test_names_of_cards():
    assert gpu.Card("NVIDIA H100 80GB HBM3", "").slug == "nvidia-h100-80gb-hbm3"
    assert sum(gpu.SECONDS.values()) <= 220  # of four minutes
