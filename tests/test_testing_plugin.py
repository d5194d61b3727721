"""The pytest plug-in, run by pytest on a small project of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from judging import statistical

pytest_plugins = ["pytester"]

PROJECT = """
import numpy as np
import pytest
import torch

from precision_lab.types import Budget
from precision_lab.verdict import plan

RATE = 1e-8
ROW = torch.log_softmax(-0.5 * torch.arange(12.0), 0)


def right(logits, n, *, generator):
    return torch.multinomial(torch.softmax(logits.double(), -1), n, replacement=True, generator=generator).T


def cold(logits, n, *, generator):
    return right(logits / 0.9, n, generator=generator)


def in_numpy(logits, n, *, rng):
    return (logits + rng.gumbel(size=(n, *logits.shape))).argmax(-1)


def any_keyword(logits, n, **random):
    return (right if isinstance(logits, torch.Tensor) else in_numpy)(logits, n, **random)


def test_right(assert_categorical):
    assert assert_categorical(right, ROW, false_fail=RATE).exit_code == 0


def test_numpy(assert_categorical):
    assert_categorical(in_numpy, ROW.numpy(), false_fail=RATE)


def test_the_array_decides(assert_categorical):
    assert_categorical(any_keyword, ROW, detect="tv=0.2", false_fail=RATE)
    assert_categorical(any_keyword, ROW.numpy(), detect="tv=0.2", false_fail=RATE)


def test_cold(assert_categorical):
    assert_categorical(cold, ROW, seed=5)


def test_blind(assert_categorical, monkeypatch):
    monkeypatch.setitem(plan.CAPS, Budget.SMOKE, (2**20, 2**16))
    assert_categorical(right, ROW, detect="temperature=0.0001", false_fail=RATE)


def test_nan(assert_categorical):
    with pytest.raises(ValueError, match="NaN"):
        assert_categorical(right, ROW * float("nan"))


def test_jax(assert_categorical):
    jax = pytest.importorskip("jax")

    def sample(logits, n, *, key):
        return jax.random.categorical(key, logits, shape=(n, logits.shape[0]))

    assert_categorical(sample, jax.numpy.asarray(ROW.numpy()), detect="temperature=0.1", false_fail=RATE)
"""


@statistical(false_fail=6e-8)
def test_a_project_that_uses_it(pytester):
    """Six right samplers, each failed with 1e-8 at most."""
    pytester.makepyfile(test_theirs=PROJECT)
    result = pytester.runpytest_inprocess(
        "-p", "precision_lab.testing", "--precision-lab-budget", "smoke", "-rN"
    )
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["passed"] + outcomes.get("skipped", 0)) == (2, 5)
    result.stdout.fnmatch_lines(
        [
            "*SamplerFailed: FAIL: *cold fails *temperature*",
            "*temperature on logits: temperature_test: p = * estimate 0.*",
            "*best fit: temperature wrong (T = 0.*",
            "*again: pytest 'test_theirs.py::test_cold' --precision-lab-budget smoke*",
            "*SamplerFailed: INCONCLUSIVE: *draws needed: logits *",
        ]
    )


def test_an_unknown_budget_is_refused(pytester):
    result = pytester.runpytest_inprocess("-p", "precision_lab.testing", "--precision-lab-budget", "huge")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_importing_it_is_light():
    """pytest starts without torch, NumPy or scipy."""
    script = "import sys, precision_lab.testing; print(sorted({'torch', 'numpy', 'scipy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
