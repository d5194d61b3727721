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
from .company import Drawn

# by row; none at an edge, where rules of truncation differ: the rows fall by e from token to token
VALUES: dict[str, list[Any]] = {
    "temperature": [1.0, 0.25, 4.0, 0.5, 2.0, 1.0, 0.7, 1.5],
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


def alternatives(batch: Batch, place: int) -> dict[str, Float]:
    """What else the row may have been drawn from: its logits with no setting, or with another row's."""
    (name, values), plain = _setting(batch), Batch("own", batch.rows, batch.vocab, 1, 0).probs[place]
    laws = {f"no {name}": plain}
    for row, value in enumerate(values):
        if value != values[place]:
            laws.setdefault(f"{name} = {value:g}", with_setting(plain, name, value))
            laws[f"that of row {row}"] = laws[f"{name} = {value:g}"]
    if name == "temperature" and values[place] != 1:
        laws["the temperature twice"] = with_setting(plain, name, values[place] ** 2)
        laws["the inverse of the temperature"] = with_setting(plain, name, 1 / values[place])
    return laws


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
    """(rows,) logs of the p-values, one for each row."""
    probs = drawn.batch.probs
    places = range(drawn.batch.rows)
    others = [list(alternatives(drawn.batch, j).values()) for j in places]
    return np.array([min(0.0, -log_e_value(drawn.ids[:, j], probs[j], others[j])) for j in places])


def ignored(drawn: Drawn, level: float, drawer: object) -> Misbehaved | None:
    """Where a row follows other settings than its own, each row at ``level``."""
    wrong = np.flatnonzero(log_p_values(drawn) <= math.log(level))
    if not wrong.size:
        return None
    name, values = _setting(drawn.batch)
    best = {int(j): _best(drawn, int(j)) for j in wrong}
    followed = [[word for word in found] for found in best.values()]
    common = [word for word in followed[0] if all(word in found for found in followed)]
    if common and common[0] == f"no {name}":
        said = f"{name} by row has no effect ({_listed(wrong)})"
    elif common:
        row = common[-1].rpartition(" ")[2]
        said = (
            f"{_listed(wrong)} drawn with {name} = {values[int(row)]:g}, {common[-1]}"
            if row.isdigit()
            else common[0]
        )
    else:
        j = int(wrong[0])
        drawn_as = best[j][0] if best[j] else "no other row's"
        said = f"row {j} with {name} = {values[j]:g} is drawn with {drawn_as} ({wrong.size} of {drawn.batch.rows} rows are wrong)"
    return Misbehaved("ignores row settings", said, drawn.batch.call(drawer))


def _best(drawn: Drawn, place: int) -> list[str]:
    """Names of the likeliest alternative, which can have several; none where it forbids what was drawn."""
    counts = np.bincount(drawn.ids[:, place], minlength=drawn.batch.vocab).astype(np.float64)
    seen = counts > 0
    laws = alternatives(drawn.batch, place)
    with np.errstate(divide="ignore"):
        found = {word: float(counts[seen] @ np.log(law[seen])) for word, law in laws.items()}
    most = max(found.values())
    return [word for word, value in found.items() if value == most and math.isfinite(most)]


def _setting(batch: Batch) -> tuple[str, list[Any]]:
    return next(iter(batch.settings.items()))


def _listed(rows: Int) -> str:
    return f"row {rows[0]}" if len(rows) == 1 else f"rows {', '.join(map(str, rows))}"
