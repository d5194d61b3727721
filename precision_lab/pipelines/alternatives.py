"""The few sets of tokens that a pipeline may keep where some of them are in doubt.

Rounding can make ties of two logits and never turns them round, and sums of masses cross p a little sooner
or later; so the sets are nested, but for ties, of which any choice of the right number may be kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from ..errors import InputError
from ..steps import MinP, Step, Temperature, TopK, TopP
from ..types import Array, Int
from .doubt import Seen, by_place, edge, tempered
from .meaning import Row, greedy_as_top_k, order

MOST = 16  # laws of one row


def alternatives(steps: tuple[Step, ...], row: Row, unit: float, limit: int = MOST) -> list[Row]:
    """The rows that the steps may leave, the specified one not marked. InputError for more than ``limit``."""
    found = [Seen(row, row.alive, np.zeros(len(row.logits)))]
    for step in steps:
        plain = greedy_as_top_k(step)
        if isinstance(plain, Temperature):
            found = [tempered(plain, seen, unit) for seen in found]
            continue
        branches: dict[bytes, Seen] = {}
        for seen in found:
            for kept in _sets(plain, seen, unit):
                left = seen.row.keeping(kept)
                branches[left.alive.tobytes()] = Seen(left, left.alive, seen.error)
                if len(branches) > limit:
                    raise _too_many(step, limit)
        found = list(branches.values())
    return [seen.row for seen in found]


def _too_many(step: Step, limit: int) -> InputError:
    ties = "name the rule for ties (ties=first, last or all)"
    remedy = f"choose a row or a value with no token at the edge, {ties}, or say how masses are added (sums=pairwise)"
    return InputError(
        f"{step}, whose edge is in doubt by more than {limit} sets of tokens", f"at most {limit}", remedy
    )


def _sets(step: Step, seen: Seen, unit: float) -> Iterator[Array]:
    """(vocab,) bool masks. Every token of ``seen`` is sure here."""
    found = by_place(step, seen, unit) if isinstance(step, TopP) else edge(step, seen, unit)
    ties = "all" if isinstance(step, MinP) else step.ties
    open_places = (
        isinstance(step, TopP) and ties != "all"
    )  # which of tied tokens takes a place is still to be said
    if not found.perhaps.any() and not open_places:
        yield found.inside
        return
    ranked = order(seen.row.logits, ties)
    perhaps = ranked[found.perhaps[ranked]]
    wanted = step.k - int(found.inside.sum()) if isinstance(step, TopK) else 0
    if isinstance(step, TopK) and ties != "all":
        for chosen in combinations(perhaps, wanted):
            yield _with(found.inside, chosen)
        return
    least = max(wanted, 0 if found.inside.any() else 1)
    for count in range(least, len(perhaps) + 1):
        if ties == "all":
            if count == 0 or (not seen.error[perhaps].any() and not _ends_group(seen, perhaps, count)):
                continue
            yield _with(found.inside, perhaps[:count])
        else:
            yield from _with_ties(seen, ranked[: int(found.inside.sum()) + count], ties)
    if ties == "all" and least == 0:
        yield found.inside


def _ends_group(seen: Seen, perhaps: Int, count: int) -> bool:
    """Whether the first ``count`` tokens, whose logits fall, end where a group of equal ones ends."""
    logits = seen.row.logits[perhaps]
    return count == len(logits) or bool(logits[count] < logits[count - 1])


def _with_ties(seen: Seen, chosen: Int, ties: str) -> Iterator[Array]:
    """As many tokens as ``chosen``, with every choice among those that may be level with the last of them."""
    logits = seen.row.logits
    nobody = np.zeros(len(logits), dtype=bool)
    last = chosen[-1]
    reach = seen.error + seen.error[last]
    if not reach[seen.row.alive].any() and ties != "any":
        yield _with(nobody, chosen)
        return
    level = seen.row.alive & (np.abs(logits - logits[last]) <= reach)
    above = chosen[~level[chosen]]
    group = order(np.where(level, logits, -np.inf), ties)
    for some in combinations(group, len(chosen) - len(above)):
        yield _with(nobody, np.concatenate([above, np.array(some, dtype=np.int64)]))


def _with(inside: Array, tokens: object) -> Array:
    kept = inside.copy()
    kept[np.asarray(tokens, dtype=np.int64)] = True
    return kept
