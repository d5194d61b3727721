"""A pipeline: steps in an order, the law that they mean, and what of it rounding leaves open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..errors import InputError, unknown_name
from ..laws.law import Law, check_logits
from ..steps import STEPS, MinP, Step, Temperature, TopK, TopP
from ..types import Array, Guarantee
from .alternatives import MOST, alternatives
from .doubt import UNITS, Doubt, doubtful_tokens
from .implemented import run
from .meaning import ULP, Row, act


@dataclass(frozen=True)
class Pipeline:
    """Steps between logits and a draw, in the order in which they act: ``Pipeline((Temperature(0.7),
    TopK(50)))``.

    ``str(pipeline)`` is the text that :func:`~.texts.parse_pipeline` reads. InputError for what is not a
    step, and for none.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        steps = tuple(self.steps)
        object.__setattr__(self, "steps", steps)
        if not steps:
            raise InputError("a pipeline without steps", "one step or more", "temperature=1 changes nothing")
        for step in steps:
            if not isinstance(step, tuple(STEPS.values())):
                kinds = ", ".join(kind.__name__ for kind in STEPS.values())
                raise InputError(f"a step of type {type(step).__name__}", kinds, "for example Temperature(0.7)")

    def __str__(self) -> str:
        return " > ".join(str(step) for step in self.steps)

    def law(self, logits: Array) -> Law:
        """The law that the steps mean for one row of logits, (vocab,), in float64.

        softmax over the tokens kept, of the logits at the product of the temperatures. At an edge where
        ``ties=any`` the first index is taken; see :meth:`laws_in_doubt`. Probabilities are right to (vocab
        + 8) ulp of float64, given the set of tokens, and the set to the rounding of float64 (masses that
        near to p count as p). Errors: InputError for what is no row of logits.
        """
        return self._law_of(self._left(_row(logits)))

    def kept(self, logits: Array) -> Array:
        """(vocab,) bool: the tokens of :meth:`law` that can be drawn."""
        return ~np.isneginf(self.law(logits).log_probs)

    def doubtful(self, logits: Array, dtype: str = "float32") -> list[Doubt]:
        """The tokens whose place inside or outside depends on rounding where the steps are computed in
        ``dtype``.

        ``logits`` are taken as they are: round them first if the pipeline does. By token. A tie that the
        specification leaves open is in doubt with margin 0 in every format. Errors: InputError.
        """
        row = _row(logits)
        return doubtful_tokens(self.steps, row, _unit(dtype), self._left(row).alive)

    def laws_in_doubt(self, logits: Array, dtype: str = "float32", limit: int = MOST) -> list[Law]:
        """The laws that an implementation in ``dtype`` may have: the doubtful tokens in or out; :meth:`law`
        first.

        InputError where there are more than ``limit``.
        """
        row = _row(logits)
        meant = self._law_of(self._left(row))
        found = {_key(meant): meant}
        for left in alternatives(self.steps, row, _unit(dtype), limit):
            law = self._law_of(left)
            found.setdefault(_key(law), law)
        return list(found.values())

    def apply(self, logits: Tensor) -> Tensor:
        """(rows, vocab) logits as the steps leave them, computed in the dtype of ``logits``; dropped tokens
        are -inf."""
        return run(self.steps, logits)

    def _left(self, row: Row) -> Row:
        for step in self.steps:
            row = act(step, row)
        return row

    def _law_of(self, left: Row) -> Law:
        shifted = left.logits - left.logits.max()
        log_probs = shifted - np.log(np.exp(shifted).sum())
        error = (len(shifted) + 8) * ULP
        return Law(log_probs, f"softmax in float64 after {self}", error, Guarantee.CERTIFIED)


def row_laws(pipelines: Sequence[Pipeline], logits: Array) -> list[Law]:
    """The law of each row of (rows, vocab) logits by its own pipeline. InputError where their numbers
    differ."""
    if np.ndim(logits) != 2 or len(logits) != len(pipelines):
        got = f"{len(pipelines)} pipelines for logits of shape {np.shape(logits)}"
        raise InputError(got, "(rows, vocab) logits and a pipeline for each row", "repeat the pipeline")
    return [pipeline.law(row) for pipeline, row in zip(pipelines, logits, strict=True)]


def settings(pipelines: Iterable[Pipeline]) -> dict[str, Array]:
    """Settings by row, (rows,) each: ``temperature``, ``top_k``, ``top_p`` and ``min_p``, as batched
    samplers take them.

    A name that no pipeline has is left out; where only some have it, the others get what changes nothing:
    temperature 1, top_k -1, top_p 1, min_p 0. InputError where a pipeline has a step twice, as settings
    have no order.
    """
    neutral: dict[str, float] = {"temperature": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0}
    each = [_values(pipeline) for pipeline in pipelines]
    named = [name for name in neutral if any(name in values for values in each)]
    found: dict[str, Array] = {}
    for name in named:
        column = [values.get(name, neutral[name]) for values in each]
        found[name] = np.array(column, dtype=np.int64 if name == "top_k" else np.float64)
    return found


def _values(pipeline: Pipeline) -> dict[str, float]:
    values: dict[str, float] = {}
    for step in pipeline.steps:
        if step.name in values:
            raise InputError(f"{step.name} twice in {pipeline}", "each step once", "settings have no order")
        values[step.name] = _value(step)
    return values


def _value(step: Step) -> float:
    if isinstance(step, Temperature):
        return step.value
    if isinstance(step, TopK):
        return step.k
    return step.p if isinstance(step, TopP) else step.ratio


def _row(logits: Array) -> Row:
    return Row.of(check_logits(np.asarray(logits)))


def _unit(dtype: str) -> float:
    if dtype not in UNITS:
        raise unknown_name("dtype", str(dtype), UNITS)
    return UNITS[dtype]


def _key(law: Law) -> bytes:
    return np.isneginf(law.log_probs).tobytes()


__all__ = ["MinP", "Pipeline", "Temperature", "TopK", "TopP", "row_laws", "settings"]
