"""A pytest plug-in: ``assert_categorical(sample, logits)`` fails where a sampler is wrong, or where no draw
could tell.

Registered by the entry point ``pytest11``; nothing heavy is imported before a test asks for the fixture.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
        __tracebackhide__ = True
        command = f"pytest '{request.node.nodeid}' --precision-lab-budget {budget}"
        return check_categorical(sample, logits, **{"budget": budget, "command": command} | options)

    return check


def check_categorical(
    sample: Callable[..., Any],
    logits: Any,
    *,
    call: str | None = None,
    settings: Mapping[str, Any] | None = None,
    expected: Any = None,
    detect: str | Sequence[str] = "temperature=0.02",
    false_fail: float = 1e-6,
    false_pass: float = 1e-3,
    seed: int = 0,
    budget: Budget = Budget.SMOKE,
    command: str = "",
    pipeline: Any = None,
) -> Any:
    """The verdict of ``precision-lab check`` on a function at ``logits``, (vocab,).

    The names of its arguments tell how it is called: logits or probs (batch, vocab) first, perhaps n, and
    generator, rng, key or seed; a function without any of these is judged by the global generators, which
    are put back. Without n it is called once for each draw. ``call``: how to call it where they do not
    tell, such as ``"sample(probs, seed=seed).T"`` (:data:`~precision_lab.verdict.conventions.GRAMMAR`).
    ``settings``: arguments that it is given every time, such as ``{"top_k": 50}``. ``expected``: logits
    (vocab,) of the law that it should then have, where that is not softmax(logits).

    torch tensors are given to samplers with ``generator``, NumPy arrays to those with ``rng``, JAX arrays
    to those with ``key`` (a new one every call), else arrays of the library of ``logits``, as float32; ids
    come back as integers (n, batch), or without n as (batch,) or (batch, 1). It runs in this process: no
    watchdog. ``pipeline``: a :class:`~precision_lab.pipelines.Pipeline` or its text, ``"temperature=0.7 >
    top_k=50"``, of what the function does to the logits before it draws: it is given the raw row and judged
    by the law that the steps mean. Raises :class:`SamplerFailed` on a fail *and* where the budget's draws
    could not show the effect (inconclusive), else returns the report. Errors: InputError for logits that
    are no row, or another bad argument.
    """
    __tracebackhide__ = True
    from .errors import InputError

    try:
        report = _report(
            sample,
            logits,
            logits if expected is None else expected,
            call,
            settings,
            detect,
            {"false_fail": false_fail, "false_pass": false_pass, "budget": Budget(budget)},
            seed,
            command,
            pipeline,
        )
    except InputError as error:
        raise error.with_traceback(None) from None
    if report.exit_code:
        raise SamplerFailed(report)
    return report


def _report(
    sample: Callable[..., Any],
    logits: Any,
    expected: Any,
    call: str | None,
    settings: Mapping[str, Any] | None,
    detect: str | Sequence[str],
    rates: dict[str, Any],
    seed: int,
    command: str,
    pipeline: Any,
) -> Any:
    from .errors import InputError
    from .pipelines import parse_pipeline
    from .targets import Target
    from .verdict.caller import Caller
    from .verdict.check import examine
    from .verdict.misbehaviour import global_seed
    from .verdict.plan import Asked, parse_detect, plan

    given, wanted = _row(logits), _row(expected)
    if given.shape != wanted.shape:
        raise InputError(
            f"expected of {len(wanted)} tokens for logits of {len(given)}", "as many", "mask tokens by -inf"
        )
    steps = parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    wished = parse_detect(detect)
    question = Asked(Target("logits", wanted, "given to the test"), wished, pipeline=steps)
    asked = plan([question], wished, **rates)
    if not callable(sample):
        raise InputError(f"a {type(sample).__name__}", "sample(logits, n, *, generator)", "pass a function")
    caller = Caller.of(sample, library_of(logits), _spec(sample), call=call, constants=settings)
    with global_seed(seed % (1 << 32)):
        bound = isinstance(sample, functools.partial) or caller.convention is None or caller.convention.constant
        own = (steps is not None or not bound) and expected is logits
        report = examine(_AtOneRow(caller, given, own), asked, seed, command)
    return replace(report, name=_name(sample))


class _AtOneRow:
    """A caller that is given one row of logits, whatever the law that its draws should have.

    ``own``: that law is the softmax of what it is given, or what its steps make of it, for all that is
    known, so that other rows can be judged too.
    """

    def __init__(self, caller: Any, row: Any, own: bool) -> None:
        self.spec, self.stated = caller.spec, caller.stated
        self._caller = caller
        self._row = row
        self._own = own

    @property
    def lanes(self) -> int:
        return self._caller.lanes

    @property
    def note(self) -> str:
        return self._caller.note

    @property
    def takes(self) -> frozenset[str]:
        return self._caller.takes

    def probe(self, vocab: int, seed: int) -> None:
        self._caller.probe(vocab, seed)

    def draw(self, stream: int, logits: Any, n: int, settings: Any = None) -> Any:
        import numpy as np

        rows = np.tile(self._row.astype(np.float32), (len(logits), 1))
        return self._caller.draw(stream, rows, n, settings)

    def fresh(self, seed: int, logits: Any, n: int, **options: Any) -> Any:
        from .errors import InputError

        if not self._own:
            raise InputError(
                "other rows", "the one whose expected law was given", "leave settings and expected out"
            )
        return self._caller.fresh(seed, logits, n, **options)


def _row(logits: Any) -> Any:
    """(vocab,) float64. InputError for anything that is not one row of logits."""
    import numpy as np

    from .laws.law import check_logits

    if library_of(logits) == "torch":
        import torch

        logits = logits.detach().cpu()
        if logits.dtype not in (torch.float16, torch.float32, torch.float64):
            logits = logits.float()
    return check_logits(np.asarray(logits))


def _name(sample: Callable[..., Any]) -> str:
    """``module.name``, without the function that it was made in; of a partial, of what it binds."""
    while isinstance(sample, functools.partial):
        sample = sample.func
    own = getattr(sample, "__qualname__", type(sample).__qualname__).rpartition("<locals>.")[2]
    module = getattr(sample, "__module__", None) or type(sample).__module__
    return f"{module}.{own}"


def _spec(sample: Callable[..., Any]) -> str:
    """``file.py:name`` where that names the function, for the call that shows a fault; else its name."""
    name = getattr(sample, "__qualname__", type(sample).__name__)
    try:
        path = inspect.getsourcefile(sample)
    except TypeError:
        path = None
    return f"{path}:{name}" if path and "<" not in name else name


def library_of(logits: Any) -> str | None:
    """torch, numpy or jax, by the module that the array's type comes from; None for lists."""
    root = type(logits).__module__.partition(".")[0]
    return {"torch": "torch", "jaxlib": "jax", "jax": "jax", "numpy": "numpy"}.get(root)
