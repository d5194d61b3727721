"""Does a row draw in company as it draws alone? Matched pairs of draws, and what their difference is called.

A draw of a row alone and one of the same row in company come from one law, whatever it is, unless the
company matters: of the pairs in which one is in a set of tokens and the other is not, each half is as
likely (McNemar's exact test). So a sampler whose law is wrong everywhere alike passes here, and is left to
the tests of its law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from ..types import Array, Float, Int
from .batch_rows import STRANGER, Batch, rank_of
from .caller import Misbehaved

EVENTS = 4  # sets of tokens that are counted: see events()
MARGIN = 10.0  # nats by which another row's law must explain draws better than any law of the row itself
TEMPERATURES = (0.125, 0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0)  # at which a row's own law may be
MISFIT = (
    10.0  # nats, and one for each token seen, by which a mixture may fall short of the frequencies themselves
)
COARSE = 0.1  # nats a draw by which another row's law alone may
WHOLE = 0.9  # share from which a row counts as given another's token in all draws
WIDE = 7  # rows from which one wrong row hardly moves all of them together
NEARLY_ALL = 0.9  # share of pairs of rows that agree too often, from which all rows share
NAMED = 4  # rows that a message lists
Alone = dict[tuple[str, int, int], Int]


@dataclass(frozen=True, eq=False)
class Drawn:
    """``ids``: (n, rows), the answer to ``batch``."""

    batch: Batch
    ids: Int


@dataclass(frozen=True, eq=False)
class Compared:
    """One batch against its rows alone. ``places``: of its rows.  ``first``, ``second``: (places, EVENTS)
    pairs of draws with company's alone in the set, and with the other alone in it.  ``pairs``: of each
    place."""

    drawn: Drawn
    places: Int
    first: Int
    second: Int
    pairs: Int


def events(row: int, vocab: int) -> Array:
    """(EVENTS, vocab) bool: the likeliest token; all but two; all but four; the tokens of the upper half by
    number."""
    rank = rank_of(row, vocab)
    return np.stack([rank < 1, rank >= 2, rank >= 4, np.arange(vocab) >= vocab // 2])


def compare(drawn: Drawn, alone: Alone) -> Compared:
    """``alone``: (kind, row, vocab) -> ids of that row alone. A row at several places takes new draws for
    each."""
    used: dict[int, int] = {}
    places = []
    first = []
    second = []
    pairs = []
    for place, row in enumerate(drawn.batch.rows_at):
        if row == STRANGER:
            continue
        start = used.get(row, 0)
        other = alone[drawn.batch.alone, int(row), drawn.batch.vocab][start : start + drawn.batch.n]
        used[row] = start + drawn.batch.n
        sets = events(int(row), drawn.batch.vocab)
        inside, outside = sets[:, drawn.ids[: len(other), place]], sets[:, other]
        places.append(place)
        first.append((inside & ~outside).sum(axis=1))
        second.append((outside & ~inside).sum(axis=1))
        pairs.append(len(other))
    return Compared(drawn, np.array(places), np.array(first), np.array(second), np.array(pairs))


def sign_p_values(first: Int, second: Int) -> Float:
    """Two-sided exact p-values of ``first`` of first + second fair coins; 1 where there are none."""
    both = first + second
    return np.minimum(1.0, 2 * stats.binom.sf(np.maximum(first, second) - 1, both, 0.5))


def agreements(ids: Int) -> tuple[Int, Int]:
    """Pairs of rows i < j, as a list: how often they agree in one draw and not in two, and the other way round.

    Of three draws t, t + 1, t + 2 the first gives the pair (i, t), (j, t), the others (i, t + 1), (j, t +
    2): as likely to agree where the draws of all rows are independent, whatever their laws.
    """
    whole = ids[: len(ids) // 3 * 3].reshape(-1, 3, ids.shape[1])
    i, j = np.triu_indices(ids.shape[1], 1)
    same = whole[:, 0, i] == whole[:, 0, j]
    apart = whole[:, 1, i] == whole[:, 2, j]
    return (same & ~apart).sum(axis=0), (apart & ~same).sum(axis=0)


def decisions(batches: Sequence[Batch]) -> int:
    """How many p-values a stage of these batches has: for its levels, set before any draw."""
    found = EVENTS  # the last rows of all sizes together
    for batch in batches:
        rows = int((batch.rows_at != STRANGER).sum())
        found += EVENTS * (rows + 1) if batch.kind != "alike" else rows * (rows - 1) // 2
    return found


@dataclass(frozen=True, eq=False)
class Evidence:
    """All batches of a stage. ``level``: of one p-value."""

    compared: tuple[Compared, ...]
    alike: tuple[Drawn, ...]
    level: float

    @staticmethod
    def of(drawn: Sequence[Drawn], alone: Alone, level: float) -> Evidence:
        compared = tuple(compare(each, alone) for each in drawn if each.batch.kind != "alike")
        return Evidence(compared, tuple(each for each in drawn if each.batch.kind == "alike"), level)

    def sizes(self) -> list[Compared]:
        """The plain batches of different rows, by size: of one size the first."""
        found: dict[int, Compared] = {}
        for each in self.compared:
            if _plain(each.drawn.batch) and each.drawn.batch.kind == "own":
                found.setdefault(each.drawn.batch.rows, each)
        return [found[rows] for rows in sorted(found)]

    def least(self) -> float:
        """The smallest p-value of all."""
        found = [float(sign_p_values(each.first, each.second).min()) for each in self.compared]
        found += [float(_pooled(each).min()) for each in self.compared]
        found += [float(sign_p_values(*agreements(each.ids)).min()) for each in self.alike]
        return min([*found, float(self.last_rows().min())])

    def last_rows(self) -> Float:
        """(EVENTS,) p-values of the last rows of all sizes: they are different rows, so their pairs add up."""
        sizes = self.sizes()
        if not sizes:
            return np.ones(EVENTS)
        return sign_p_values(sum(each.first[-1] for each in sizes), sum(each.second[-1] for each in sizes))

    def wrong_places(self, each: Compared) -> list[int]:
        """Places whose row draws otherwise than alone."""
        p = sign_p_values(each.first, each.second).min(axis=1)
        return [int(place) for place in each.places[p <= self.level]]

    def wrong(self, each: Compared) -> bool:
        return bool(_pooled(each).min() <= self.level) or bool(self.wrong_places(each))

    @property
    def n(self) -> int:
        """Pairs of draws."""
        return int(sum(each.pairs.sum() for each in self.compared))


def _pooled(each: Compared) -> Float:
    return sign_p_values(each.first.sum(axis=0), each.second.sum(axis=0))


def _plain(batch: Batch) -> bool:
    return batch.layout == "plain" and batch.dtype == "float32"


def fault(evidence: Evidence, drawer: object, reserved: Sequence[int] = ()) -> Misbehaved | None:
    """The fault that the evidence shows at its level, called by its name, or None.

    ``reserved``: seeds that stand for themselves, and not for chance. In this order: rows mixed up; noise
    shared; then what every batch shows from some size on; a place; the company; the layout; the dtype; the
    seed.
    """
    for each in evidence.compared:
        ordinary = _plain(each.drawn.batch) and each.drawn.batch.seed not in reserved
        if ordinary and evidence.wrong(each) and (found := mixed_up(each, drawer)):
            smaller = [size for size in evidence.sizes() if size.drawn.batch.rows < each.drawn.batch.rows]
            if each in evidence.sizes() and smaller:
                found.detail += f"; not in batches of up to {smaller[-1].drawn.batch.rows}"
            return found
    for drawn in reversed(evidence.alike):
        if found := shared_noise(drawn, evidence.level, drawer):
            return found
    if found := _by_size(evidence, drawer):
        return found
    for each in evidence.compared:
        if evidence.wrong(each):
            return _by_company(evidence, each, drawer, reserved)
    return None


def mixed_up(each: Compared, drawer: object) -> Misbehaved | None:
    """Where the draws of a place follow the law of another row of the batch, and no law of its own row."""
    batch, ids = each.drawn.batch, each.drawn.ids
    sources: dict[int, int] = {}
    part = False
    for place in each.places:
        source, share = explained(ids[:, place], batch.probs, int(place))
        if source != place:
            sources[int(place)] = source
            part |= share < WHOLE
    if not sources:
        return None
    said = sources_said(sources, batch.rows, part)
    return Misbehaved("rows mixed up", f"in a batch of {batch.rows}, {said}", batch.call(drawer))


def sources_said(sources: Mapping[int, int], rows: int, part: bool = False) -> str:
    """Which row each place of a batch of ``rows`` has its token from, in words. ``part``: not always."""
    often = "in part of its draws " if part else ""
    if len(set(sources.values())) == 1:
        one = next(iter(sources.values()))
        return f"{_rows(list(sources))} {often}given the token of row {one}"
    if len(sources) > 2 and all(source == rows - 1 - place for place, source in sources.items()):
        return f"the rows come back {often}in reversed order"
    listed = [f"row {place} gets the token of row {source}" for place, source in sources.items()]
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return f"{often}{', '.join(listed[:NAMED])}{more}"


def explained(ids: Int, probs: Float, place: int) -> tuple[int, float]:
    """(row, share): whose law the ids of ``place`` follow, and in what share of the draws; (place, 1) if
    their own.

    Another row's law, mixed with the own in the likeliest share, must explain them MARGIN nats better than
    the own law at any of TEMPERATURES or the flat law do, and about as well as the frequencies themselves.
    Of rows with one law the first.
    """
    counts = np.bincount(ids, minlength=probs.shape[1]).astype(np.float64)
    seen = counts > 0
    drawn, n = counts[seen], float(counts.sum())
    with np.errstate(divide="ignore"):
        log_own = np.log(probs[place])
    best = max(float(drawn @ _tempered(log_own, t)[seen]) for t in TEMPERATURES)
    best = max(best, -n * math.log(len(counts)))
    shares, found = _likeliest_shares(drawn, probs[place][seen], probs[:, seen])
    short = float(drawn @ np.log(drawn / n)) - found
    fits = short <= np.where(shares >= WHOLE, max(COARSE * n, MISFIT + len(drawn)), MISFIT + len(drawn))
    others = (probs != probs[place]).any(axis=1)
    found = np.where(fits & others, found, -np.inf)
    source = int(found.argmax())
    return (source, float(shares[source])) if found[source] > best + MARGIN else (place, 1.0)


def _likeliest_shares(drawn: Float, own: Float, others: Float) -> tuple[Float, Float]:
    """(rows,) shares of each other law in a mixture with the own, by expectation and maximisation;
    log-likelihoods.

    Laws of the tokens that were seen, ``drawn`` times each."""
    shares = np.full(len(others), 0.5)
    tiny = 1e-300
    for _ in range(60):
        part = shares[:, None] * others
        shares = part / ((1 - shares[:, None]) * own + part + tiny) @ drawn / drawn.sum()
    mixtures = (1 - shares[:, None]) * own + shares[:, None] * others
    return shares, np.log(mixtures + tiny) @ drawn


def _tempered(log_probs: Float, temperature: float) -> Float:
    scaled = log_probs / temperature
    return scaled - np.logaddexp.reduce(scaled)


def shared_noise(drawn: Drawn, level: float, drawer: object) -> Misbehaved | None:
    """Rows that agree in one draw more often than in two."""
    together, apart = agreements(drawn.ids)
    wrong = (sign_p_values(together, apart) <= level) & (together > apart)
    if not wrong.any():
        return None
    i, j = np.triu_indices(drawn.batch.rows, 1)
    at = int(np.flatnonzero(wrong)[0])
    rate = float((drawn.ids[:, i[at]] == drawn.ids[:, j[at]]).mean())
    independent = float(drawn.batch.probs[i[at]] @ drawn.batch.probs[j[at]])
    which = "all pairs" if wrong.all() else f"{int(wrong.sum())} of {wrong.size} pairs"
    pair = f"rows {i[at]} and {j[at]} agree in {rate:.2f} of the draws"
    said = f"{which} of {drawn.batch.rows} rows draw together: {pair}"
    said += f", {independent:.2f} if independent"
    what = "same noise for all rows" if wrong.mean() > NEARLY_ALL else "same noise for several rows"
    return Misbehaved(what, said, drawn.batch.call(drawer))


def _by_size(evidence: Evidence, drawer: object) -> Misbehaved | None:
    """Plain batches of different rows draw otherwise than their rows alone: at a place, from a size on, or
    in company."""
    sizes = evidence.sizes()
    off = [each for each in sizes if evidence.wrong(each)]
    last = bool(evidence.last_rows().min() <= evidence.level)
    if not off and not last:
        return None
    if place := _one_place(evidence, off, last):
        shown = next((each for each in off if each.drawn.batch.rows >= WIDE), sizes[-1])
        return Misbehaved("depends on its place in the batch", place, shown.drawn.batch.call(drawer))
    first = off[0].drawn.batch
    listed = ", ".join(str(each.drawn.batch.rows) for each in off)
    equal = [
        each for each in evidence.compared if each.drawn.batch.kind == "equal" and _plain(each.drawn.batch)
    ]
    if len(off) == len(sizes) and not any(evidence.wrong(each) for each in equal):
        beside = f"beside different rows (in batches of {listed})"
        said = f"a row draws otherwise {beside} than alone or beside equal ones"
        return Misbehaved("depends on its neighbours", said, first.call(drawer))
    right = [each.drawn.batch.rows for each in sizes if each not in off]
    from_there = [each for each in sizes if each.drawn.batch.rows >= first.rows]
    if len(off) == len(sizes):
        said = "a row alone draws otherwise than a row in company, in batches of 2 rows and more"
        one = replace(first, rows=1)
        return Misbehaved(
            "depends on the batch size", said, f"{first.call(drawer)}; show({_spec(drawer)!r}, {one})"
        )
    elif off == from_there:
        said = (
            f"a row draws as alone in batches of up to {max(right)} rows, otherwise from {first.rows} rows on"
        )
    else:
        said = (
            f"a row draws otherwise than alone in batches of {listed} rows, not of {', '.join(map(str, right))}"
        )
    return Misbehaved("depends on the batch size", said, first.call(drawer))


def _one_place(evidence: Evidence, off: list[Compared], last: bool) -> str:
    """A sentence where one place is wrong and the others together are right, in all batches that have
    enough rows to tell."""
    wide = [each for each in off if each.drawn.batch.rows >= WIDE]
    if last and all(_right_without(evidence, each, len(each.places) - 1) for each in wide):
        return "the last row of a batch draws otherwise than alone, the others as alone"
    places = {place for each in wide for place in evidence.wrong_places(each)}
    if len(places) == 1:
        place = places.pop()
        if all(place < len(each.places) and _right_without(evidence, each, place) for each in wide):
            listed = ", ".join(str(each.drawn.batch.rows) for each in wide)
            return f"row {place} draws otherwise than alone in batches of {listed} rows, the others as alone"
    return ""


def _right_without(evidence: Evidence, each: Compared, place: int) -> bool:
    """Whether the other rows of the batch draw as alone. Of "own" rows, each place is its own index."""
    first, second = np.delete(each.first, place, axis=0), np.delete(each.second, place, axis=0)
    least = min(sign_p_values(first, second).min(), sign_p_values(first.sum(axis=0), second.sum(axis=0)).min())
    return bool(least > evidence.level)


def _by_company(evidence: Evidence, each: Compared, drawer: object, reserved: Sequence[int]) -> Misbehaved:
    """What else the batch is like, where plain batches of different rows are right."""
    batch = each.drawn.batch
    places = evidence.wrong_places(each)
    which = _rows(places) if places else "the rows together are"
    call = batch.call(drawer)
    if batch.layout != "plain":
        otherwise = "drawn otherwise than from the same logits in a plain array"
        said = f"given as {LAYOUTS_SAID[batch.layout]}, {which} {otherwise}"
        return Misbehaved("depends on the layout of its logits", said, call)
    if batch.dtype != "float32":
        otherwise = "drawn otherwise than given as float32"
        said = f"given as {batch.dtype}, which holds these logits exactly, {which} {otherwise}"
        return Misbehaved("depends on the dtype of its logits", said, call)
    if batch.seed in reserved:
        return Misbehaved(
            "depends on its seed", f"with seed {batch.seed}, {which} drawn otherwise than with others", call
        )
    beside = {
        "permuted": "in another order",
        "padded": "with as many rows of zeros after them",
        "joined": "after as many rows whose logits are 100 nats higher",
        "equal": "beside rows equal to them",
        "own": "beside different rows",
        "masked": "beside rows with other tokens at -inf",
    }[batch.kind]
    return Misbehaved("depends on its neighbours", f"{beside}, {which} drawn otherwise than alone", call)


LAYOUTS_SAID = {
    "column view": "columns of a (vocab, batch) array, not contiguous",
    "every other": "every other entry of a larger array, not contiguous",
    "expanded": "one row expanded to all without a copy",
    "one row": "one row, (vocab,)",
}


def _spec(drawer: object) -> str:
    return str(getattr(drawer, "spec", "?"))


def _rows(places: list[int]) -> str:
    """ "row 3 is", "rows 1, 2, 3, 4 and 60 more are"."""
    if len(places) == 1:
        return f"row {places[0]} is"
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return f"rows {', '.join(map(str, places[:NAMED]))}{more} are"
