"""Settings of each row: does every row follow its own temperature, top-k, top-p and min-p?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from ..types import Float, Int
from .batch_rows import Batch, with_setting
from .caller import Misbehaved
from .company import MISFIT, Drawn

# by row; none at an edge, where rules of truncation differ: the rows fall by e from token to token
VALUES: dict[str, list[Any]] = {
    "temperature": [0.7, 0.25, 4.0, 0.5, 2.0, 1.0, 0.6, 1.5],
    "top_k": [2, 1, 4, 8, 3, 16, 6, 12],
    "top_p": [0.75, 0.5, 0.9, 0.97, 0.3, 0.99, 0.75, 0.9],
    "min_p": [0.22, 0.6, 0.08, 0.03, 0.22, 0.6, 0.08, 0.01],
}
VOCAB, DRAWS = 16, 256


def settings_batches(takes: frozenset[str], seed: int) -> list[Batch]:
    """One batch for each setting that the sampler takes; seeds from ``seed``."""
    named = [name for name in VALUES if name in takes]
    return [
        Batch("own", len(VALUES[name]), VOCAB, DRAWS, seed + i, settings={name: VALUES[name]})
        for i, name in enumerate(named)
    ]


def mistakes(batch: Batch) -> dict[str, Float]:
    """What else all rows may have been drawn with: sentence -> (rows, vocab) laws."""
    name, values = _setting(batch)
    plain = Batch(batch.kind, batch.rows, batch.vocab, 1, 0).probs
    made = {f"{name} by row has no effect": plain}
    for row, value in enumerate(values):
        laws = np.stack([with_setting(p, name, value) for p in plain])
        made[f"every row is drawn with the {name} of row {row}, {value:g}"] = laws
    made[f"rows are drawn with the {name} of each other, in reversed order"] = _with(plain, name, values[::-1])
    if name == "temperature":
        made["the temperature is applied twice"] = _with(plain, name, [v * v for v in values])
        made["the temperature is applied the wrong way round"] = _with(plain, name, [1 / v for v in values])
    return made


def _with(probs: Float, name: str, values: Sequence[Any]) -> Float:
    return np.stack([with_setting(p, name, value) for p, value in zip(probs, values, strict=True)])


def log_e_value(ids: Int, own: Float, others: Sequence[Float]) -> float:
    """log of the mean over ``others`` of prod q(x) / p(x), p = ``own``: an e-value, so exp(-it) is a p-value.

    inf where a token was drawn that ``own`` forbids."""
    counts = np.bincount(ids, minlength=len(own)).astype(np.float64)
    seen = counts > 0
    if not own[seen].all():
        return math.inf
    with np.errstate(divide="ignore"):
        ratios = [float(counts[seen] @ np.log(q[seen] / own[seen])) for q in others]
    return float(special.logsumexp(ratios) - math.log(len(ratios)))


def log_p_values(drawn: Drawn) -> Float:
    """(rows,) logs of the p-values, one for each row, against all :func:`mistakes`."""
    probs, others = drawn.batch.probs, list(mistakes(drawn.batch).values())
    found = [
        -log_e_value(drawn.ids[:, j], probs[j], [laws[j] for laws in others]) for j in range(drawn.batch.rows)
    ]
    return np.minimum(0.0, found)


def ignored(drawn: Drawn, level: float, drawer: object) -> Misbehaved | None:
    """Where a row follows other settings than its own, each row at ``level``."""
    wrong = np.flatnonzero(log_p_values(drawn) <= math.log(level))
    if not wrong.size:
        return None
    name, values = _setting(drawn.batch)
    said = [sentence for sentence, laws in mistakes(drawn.batch).items() if _explains(drawn, laws)]
    rows = f"row {wrong[0]}" if len(wrong) == 1 else f"rows {', '.join(map(str, wrong))}"
    detail = (
        f"{said[0]} ({rows})" if said else f"{rows}, of {name} {[values[j] for j in wrong]}, drawn otherwise"
    )
    return Misbehaved("ignores row settings", detail, drawn.batch.call(drawer))


def _explains(drawn: Drawn, laws: Float) -> bool:
    """Whether the laws explain the rows as well as their own frequencies do, but for MISFIT nats and one a
    token."""
    short = 0.0
    seen = 0
    for j, law in enumerate(laws):
        counts = np.bincount(drawn.ids[:, j], minlength=drawn.batch.vocab).astype(np.float64)
        came = counts > 0
        with np.errstate(divide="ignore"):
            short += float(counts[came] @ np.log(counts[came] / counts.sum() / law[came]))
        seen += int(came.sum())
    return short <= MISFIT + seen


def _setting(batch: Batch) -> tuple[str, list[Any]]:
    return next(iter(batch.settings.items()))
