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


CONVENTIONS = """
import functools

import pytest
import torch

RATE = 1e-8
ROW = torch.log_softmax(-0.5 * torch.arange(12.0), 0)
TOP = ROW.masked_fill(torch.arange(12) >= 3, -torch.inf)


def adapt(scale):
    def sample(logits, seed, top_k):
        generator = torch.Generator().manual_seed(seed)
        kept = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
        return torch.multinomial((scale * kept).softmax(-1), 1, generator=generator)
    return sample


def of_probs(weights, source, k):
    return torch.multinomial(weights, 1, generator=source)


def from_the_global_generator(probs):
    return torch.multinomial(probs, 1)[:, 0]


def test_seed_and_top_k(assert_categorical):
    options = {"settings": {"top_k": 3}, "expected": TOP, "detect": "temperature=0.2"}
    report = assert_categorical(adapt(1.0), ROW, **options, false_fail=RATE)
    assert report.name.endswith(".sample")
    assert "<locals>" not in report.name


def test_stated(assert_categorical):
    assert_categorical(of_probs, ROW, call="of_probs(probs, g, k=4)", detect="temperature=0.2", false_fail=RATE)


def test_partial(assert_categorical):
    assert_categorical(functools.partial(adapt(1.0), top_k=12), ROW, detect="temperature=0.2", false_fail=RATE)


def test_global(assert_categorical):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    report = assert_categorical(from_the_global_generator, ROW, detect="temperature=0.2", false_fail=RATE)
    assert "draws from torch's global generator" in report.text()
    assert torch.equal(torch.get_rng_state(), state)


def test_cold_settings(assert_categorical):
    assert_categorical(adapt(2.0), ROW, settings={"top_k": 3}, expected=TOP, detect="temperature=0.2")


def test_a_batch(assert_categorical):
    assert_categorical(adapt(1.0), torch.stack([ROW, ROW]), settings={"top_k": 3})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"settings": {"topk": 3}}, "topk for"),
        ({"settings": {"top_k": 3}, "call": "sample(logits, seed, 3)"}, "one of them"),
        ({"settings": {"top_k": 3}, "expected": ROW[:5]}, "expected of 5 tokens"),
        ({"call": "sample(logits, seed, open('x'))"}, "ARGUMENT: logits, probs"),
    ],
)
def test_usage(assert_categorical, options, says):
    with pytest.raises(ValueError, match="got ") as error:
        assert_categorical(adapt(1.0), ROW, **options)
    assert says in str(error.value)
"""


@statistical(false_fail=4e-8)
def test_conventions_in_the_fixture(pytester):
    """Four right samplers, each failed with 1e-8 at most; a temperature of 0.5 where 1 is meant is seen
    with 1 - 1e-3."""
    pytester.makepyfile(test_theirs=CONVENTIONS)
    result = pytester.runpytest_inprocess("-p", "precision_lab.testing", "-rN")
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["passed"]) == (2, 8)
    result.stdout.fnmatch_lines(
        [
            "*SamplerFailed: FAIL: test_theirs.sample fails *temperature*",
            "*called as sample(logits, seed=seed, top_k=3): a new seed every call; *",
            "*InputError: got *logits of shape (2, 12)*index the row you mean*",
        ]
    )


def test_the_message_is_no_traceback_of_ours(pytester):
    """From the test's own line to the report there is no line of this package, of a verdict and of bad
    input alike."""
    pytester.makepyfile(test_theirs=CONVENTIONS)
    result = pytester.runpytest_inprocess(
        "-p", "precision_lab.testing", "-rN", "-k", "test_cold_settings or test_a_batch"
    )
    result.assert_outcomes(failed=2)
    said = [line for line in result.outlines if "precision_lab" in line and "pytest '" not in line]
    assert [line for line in said if ".py:" in line or "def " in line] == []
    assert len(result.outlines) < 50
