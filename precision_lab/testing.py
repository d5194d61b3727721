"""A pytest plug-in: ``assert_categorical(sample, logits)`` fails where a sampler is wrong, or where no draw could tell.

Registered by the entry point ``pytest11``; nothing heavy is imported before a test asks for the fixture.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from .types import Budget


class SamplerFailed(AssertionError):
    """``report``: the :class:`~precision_lab.verdict.report.Report` whose lines are the message."""

    def __init__(self, report: Any) -> None:
        super().__init__(report.text())
        self.report = report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("precision-lab").addoption(
        "--precision-lab-budget",
        choices=[str(budget) for budget in Budget],
        default=str(Budget.SMOKE),
        help="draws that assert_categorical may make: smoke (seconds), ci (a minute or two), full",
    )


@pytest.fixture
def assert_categorical(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """:func:`check_categorical` with the budget of the command line, and the test's own name in the message."""
    budget = Budget(request.config.getoption("--precision-lab-budget"))

    def check(sample: Callable[..., Any], logits: Any, **options: Any) -> Any:
        command = f"pytest '{request.node.nodeid}' --precision-lab-budget {budget}"
        return check_categorical(sample, logits, **{"budget": budget, "command": command} | options)

    return check


def check_categorical(
    sample: Callable[..., Any],
    logits: Any,
    *,
    detect: str = "temperature=0.02",
    false_fail: float = 1e-6,
    false_pass: float = 1e-3,
    seed: int = 0,
    budget: Budget = Budget.SMOKE,
    command: str = "",
    pipeline: Any = None,
) -> Any:
    """The verdict of ``precision-lab check`` on ``sample(logits, n, *, generator | rng | key)`` at ``logits``, (vocab,).

    torch tensors are given to samplers with ``generator``, NumPy arrays to those with ``rng``, JAX arrays to those with
    ``key`` (a new one every call), as (batch, vocab) float32; ids come back as (n, batch) integers. The argument's name
    decides, and where the sampler takes any keyword the type of ``logits``. It runs in this process: no watchdog.
    ``pipeline``: a :class:`~precision_lab.pipelines.Pipeline` or its text, ``"temperature=0.7 > top_k=50"``, of what
    the function does to the logits before it draws: it is given the raw row and judged by the law that the steps mean.
    Raises :class:`SamplerFailed` on a fail *and* where the budget's draws could not show the effect (inconclusive), else
    returns the report. Errors: InputError for logits that are no row, or another bad argument.
    """
    import numpy as np

    from .errors import InputError
    from .laws.law import check_logits
    from .pipelines import parse_pipeline
    from .targets import Target
    from .verdict.caller import Caller
    from .verdict.check import examine
    from .verdict.plan import Asked, parse_detect, plan

    library = library_of(logits)
    row = logits.detach().cpu() if library == "torch" else logits
    if library == "torch" and row.dtype not in _numpy_dtypes():
        row = row.float()
    target = Target("logits", check_logits(np.asarray(row)), "given to the test")
    wished = parse_detect(detect)
    steps = parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    question = Asked(target, wished, pipeline=steps)
    asked = plan([question], wished, budget=Budget(budget), false_fail=false_fail, false_pass=false_pass)
    if not callable(sample):
        raise InputError(f"a {type(sample).__name__}", "sample(logits, n, *, generator)", "pass a function")
    caller = Caller.of(sample, _by_signature(sample) or library, _spec(sample))
    report = examine(caller, asked, seed, command)
    if report.exit_code:
        raise SamplerFailed(report)
    return report


def _spec(sample: Callable[..., Any]) -> str:
    """``file.py:name`` where that names the function, for the call that shows a fault; else its name."""
    name = getattr(sample, "__qualname__", type(sample).__name__)
    try:
        path = inspect.getsourcefile(sample)
    except TypeError:
        path = None
    return f"{path}:{name}" if path and "." not in name else name


def library_of(logits: Any) -> str:
    """torch, numpy or jax, by the module that the array's type comes from."""
    root = type(logits).__module__.partition(".")[0]
    return {"torch": "torch", "jaxlib": "jax", "jax": "jax"}.get(root, "numpy")


def _by_signature(sample: Callable[..., Any]) -> str | None:
    """None where the function takes any keyword: then the array decides. Without a random argument: Caller's error."""
    try:
        kinds = {p.kind for p in inspect.signature(sample).parameters.values()}
    except (TypeError, ValueError):
        return None
    from .verdict.caller import library_by_name

    return None if inspect.Parameter.VAR_KEYWORD in kinds else library_by_name(sample)


def _numpy_dtypes() -> set[Any]:
    import torch

    return {torch.float16, torch.float32, torch.float64}
