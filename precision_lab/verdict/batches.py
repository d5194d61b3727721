"""Whole batches: rows that differ, in every number, order, company, layout and dtype, each as it is drawn
alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy import optimize, special, stats

from ..errors import InputError
from ..pipelines import Pipeline
from ..statistics import TestResult
from ..statistics.testing._binomial import conditional_power, detected_rates
from ..types import Float, Int
from .batch_rows import STRANGER, Batch, batch_logits, rank_of
from .caller import Misbehaved
from .company import Alone, Drawn, Evidence, decisions, fault, sign_p_values
from .invariance import examine_identity
from .row_settings import ignored, log_p_values, settings_batches

BATCHES = "rows that differ"  # in place of the name of a target
TESTS = ("row_laws", "company")  # of one stage, each at the level that examine_batches is given
SMALL, LARGE = 16, 66  # vocabularies: of up to 16 rows, and of more
# rows -> draws of each: about 4,096 pairs of draws in every size, twice that in those that have many rows
SIZES = {2: 2048, 3: 1408, 7: 640, 8: 512, 9: 512, 16: 256, 63: 256, 64: 256, 65: 256}
COMPILED_SIZES = {2: 2048, 8: 512, 64: 256}  # where every shape is compiled, at about a second each
ROWS, DRAWS = 8, 512  # of the batches in other company, layout or dtype
EQUAL = SIZES[2] // ROWS  # draws of equal rows: the one that they all are was drawn alone so often
ALIKE = {2: 384, 8: 192, 64: 192}  # rows -> draws, where noise that is shared is looked for
EXTREME = (0, 2**63 - 1)  # seeds like others
CLASSES = 6  # ranks that the test of laws counts: 0 to 4, and the rest
AGAIN = 24  # calls of the first row alone, of as many draws each
SERIAL = 1e-9  # below, the draws of one call depend on each other, and pairs of them are no evidence
WIDEST = 16.0  # temperatures from 1/16 to 16 are thought of
SLOPES = (1.0, 0.5, 1.5, 0.75, 0.25, 2.0)  # nats between ranks, one of them for a pipeline; exact in bfloat16
PLAIN = tuple(special.softmax(-np.arange(float(SMALL))).tolist())  # law of a row by rank
CHANCE = 2.0**-60  # of two equal answers from different seeds, below which they are a fault
Say = Callable[[str], None]


class Drawer(Protocol):
    """A Caller, here or in a child process."""

    spec: str

    @property
    def takes(self) -> frozenset[str]: ...

    def fresh(
        self,
        seed: int,
        logits: np.ndarray,
        n: int,
        *,
        settings: Mapping[str, np.ndarray] | None = None,
        layout: str = "plain",
        dtype: str = "float32",
    ) -> Int: ...


@dataclass(frozen=True, eq=False)
class Design:
    """Every call of a stage, fixed before the first.

    ``alone``: one row each.  ``again``: the first of them, from other seeds.  ``company``: what is compared
    with them. ``optional``: of ``company``, what a sampler may refuse.  ``settings``: rows with settings of
    their own.  ``left_out``: dtypes in which the edge of a pipeline is in doubt.
    """

    alone: tuple[Batch, ...]
    again: tuple[Batch, ...]
    company: tuple[Batch, ...]
    optional: frozenset[Batch]
    settings: tuple[Batch, ...]
    left_out: tuple[str, ...] = ()

    @property
    def by_rank(self) -> dict[int, Float]:
        """The law of a row by rank, by vocabulary."""
        row = replace(self.alone[0], kind="own", rows=1, first=0)
        return {vocab: replace(row, vocab=vocab).probs[0] for vocab in (SMALL, LARGE)}

    @property
    def decisions(self) -> int:
        return decisions(self.company) + sum(batch.rows for batch in self.settings)


def design(
    seed: int,
    takes: frozenset[str] = frozenset(),
    compiled: bool = False,
    pipeline: Pipeline | None = None,
    before: bool = False,
) -> Design:
    """The calls of a stage; their seeds are consecutive from a 32-bit number that ``seed`` gives, but for
    EXTREME.

    ``compiled``: few shapes, for a library that compiles each. Without 1-D and strided arrays, two tokens,
    and padding to 16 rows. ``pipeline``: the steps inside the sampler; rows are at the first of
    :data:`SLOPES` at which none of their tokens is in doubt, dtypes in which some are are left out, and so
    are settings by row, as the steps state them. ``before``: the steps, if there are any, are no part of the
    sampler, see :class:`~.batch_rows.Batch`; all rows are then float32. InputError where every slope leaves
    doubts.
    """
    before = before and pipeline is not None
    slope = 1.0 if pipeline is None else slope_for(pipeline)
    steps = "" if pipeline is None else str(pipeline)
    make = functools.partial(Batch, slope=slope, pipeline=steps, before=before)
    seeds = iter(range(int(np.random.SeedSequence(seed).generate_state(1)[0]), 2**62))
    sizes, wide = (COMPILED_SIZES, ROWS) if compiled else (SIZES, 2 * ROWS)
    rows_alone = {row: max(n for rows, n in sizes.items() if row < rows) for row in range(SMALL)}
    if compiled:
        rows_alone = dict.fromkeys(range(SMALL), sizes[2])
    alone = [make("own", 1, SMALL, n, next(seeds), first=row) for row, n in rows_alone.items()]
    alone += [make("own", 1, LARGE, sizes[64], next(seeds), first=row) for row in range(max(sizes))]
    masked_draws = sizes[2] if compiled else DRAWS
    alone += [make("masked", 1, SMALL, masked_draws, next(seeds), first=row) for row in range(ROWS)]
    company = [make("own", rows, _vocab(rows), n, next(seeds)) for rows, n in sizes.items()]
    company.append(make("equal", ROWS, SMALL, DRAWS if compiled else EQUAL, next(seeds)))
    company += [make(kind, ROWS, SMALL, DRAWS, next(seeds)) for kind in ("permuted", "masked")]
    company += [make(kind, wide, SMALL, DRAWS, next(seeds)) for kind in ("padded", "joined")]
    company += [make("own", ROWS, SMALL, DRAWS, extreme) for extreme in EXTREME]
    half = [make("own", ROWS, SMALL, DRAWS, next(seeds), dtype=dtype) for dtype in ("float16", "bfloat16")]
    left_out = tuple(batch.dtype for batch in half if before or _doubts(pipeline, slope, batch.dtype))
    half = [batch for batch in half if batch.dtype not in left_out]
    optional = half
    if compiled:
        company.append(make("alike", ROWS, SMALL, DRAWS, next(seeds)))
    else:
        alone += [make("own", 1, 2, sizes[2], next(seeds), first=row) for row in range(2)]
        company.append(make("own", 2, 2, sizes[2], next(seeds)))
        company += [make("alike", rows, SMALL, n, next(seeds)) for rows, n in ALIKE.items()]
        optional = [
            make("own", ROWS, SMALL, DRAWS, next(seeds), layout="column view"),
            make("own", ROWS, SMALL, DRAWS, next(seeds), layout="every other"),
            make("equal", ROWS, SMALL, EQUAL, next(seeds), layout="expanded"),
            make("own", 1, SMALL, sizes[2], next(seeds), layout="one row"),
            *half,
        ]
    again = tuple(make("own", 1, SMALL, AGAIN, next(seeds)) for _ in range(AGAIN))
    settings = settings_batches(takes if pipeline is None else frozenset(), next(seeds))
    both = (*company, *optional)
    return Design(tuple(alone), again, both, frozenset(optional), tuple(settings), left_out)


@functools.cache
def slope_for(pipeline: Pipeline) -> float:
    """The slope of rows for a pipeline: nothing is in doubt in float32, and if that can be had two tokens are
    left or more, and nothing is in doubt in bfloat16 either. InputError where there is none."""
    clear = [slope for slope in SLOPES if not _doubts(pipeline, slope, "float32")]
    if not clear:
        remedy = "name the rule for ties, or how masses are added (sums=pairwise)"
        raise InputError(f"{pipeline} on short rows", "an edge that some of them meets clearly", remedy)

    def poor(slope: float) -> tuple[bool, bool]:
        row = batch_logits("own", 1, SMALL, slope=slope)[0].astype(np.float64)
        return float(pipeline.law(row).probs.max()) == 1, _doubts(pipeline, slope, "bfloat16")

    return min(clear, key=poor)


def _doubts(pipeline: Pipeline | None, slope: float, dtype: str) -> bool:
    """Whether a token of the rows is in doubt; they are all one row by rank."""
    if pipeline is None:
        return False
    rows = [("own", 2), ("own", SMALL), ("own", LARGE), ("masked", SMALL)]
    each = [batch_logits(kind, 1, vocab, slope=slope)[0].astype(np.float64) for kind, vocab in rows]
    return any(pipeline.doubtful(row, dtype) for row in each)


def examine_batches(
    drawer: Drawer,
    *,
    seed: int,
    level: float,
    false_pass: float = 1e-3,
    identity: bool = False,
    pipeline: Pipeline | None = None,
    before: bool = False,
    say: Say = lambda line: None,
) -> dict[str, TestResult]:
    """Results by name, :data:`TESTS`, each valid at ``level``; raises Misbehaved for the faults that it can
    name.

    Rows of 2 to 66 tokens, each with a law of its own, are drawn alone and in batches: of the numbers in
    :data:`SIZES`; in another order; before rows of zeros, after rows 100 nats higher, among equal rows; as
    a column view, a strided and an expanded view, a 1-D row; as float16 and bfloat16; from the seeds 0 and
    2^63 - 1. Layouts and dtypes that a sampler refuses by an exception are left out, and said; so is the
    whole stage where it refuses a vocabulary of 16. ``company``: matched pairs of a row's draws alone and
    in a batch; pairs of rows that agree in one draw and in two; and e-values of rows under their own
    settings, where ``drawer.takes`` any. Exact, by a union bound over all of them. ``row_laws``: the ranks
    of all plain draws against their law, exact binomials. ``identity``: also whether (seed, row, position)
    -> token depends on nothing else, see :mod:`.invariance`.  ``pipeline``, ``before``: see :func:`design`.

    Without a pipeline, power at least 1 - 1e-6 at the level of a check at 1e-6: rows mixed up, in any
    batch; noise that two rows share; temperature 0.7 or 1.5 from a number of 8 rows on; 0.5 or 2.5 in any
    batch, or of its last row alone.
    """
    try:
        asked = design(seed, drawer.takes, getattr(drawer, "arrays", "torch") == "jax", pipeline, before)
    except InputError as refusal:
        say(f"{drawer.spec}: {refusal}; batches are not judged")
        return {}
    try:
        replace(asked.company[0], n=1, seed=seed).draw(drawer)
    except (Misbehaved, InputError) as refusal:
        if isinstance(refusal, Misbehaved) and refusal.what != "raises":
            raise
        say(f"{drawer.spec}: refuses a vocabulary of {SMALL} ({refusal}); batches are not judged")
        return {}
    if asked.left_out:
        why = "the steps run before the sampler" if before else "a token of these rows is in doubt there"
        say(f"{drawer.spec}: {' and '.join(asked.left_out)} are not tried: {why}")
    say(f"{drawer.spec}: rows that differ, alone and in batches of {_sizes(asked)}")
    alone: Alone = {
        (batch.kind, batch.first, batch.vocab): _answer(batch, drawer)[:, 0] for batch in asked.alone
    }
    again = np.concatenate([_answer(batch, drawer)[:, 0] for batch in asked.again])
    if depends(alone["own", 0, SMALL], again):
        say(f"{drawer.spec}: the draws of one call depend on each other; batches are not judged")
        return {}
    drawn: list[Drawn] = []
    forbidden: list[Misbehaved] = []
    for batch in asked.company:
        try:
            drawn += [each] if (each := _drawn(batch, drawer, batch in asked.optional, say)) else []
        except Misbehaved as wrong:
            # rows that are mixed up draw each other's forbidden tokens: that has a better name
            if batch.kind != "masked":
                raise
            forbidden.append(wrong)
    _seeds(drawn, drawer)
    with_settings = [Drawn(batch, _answer(batch, drawer)) for batch in asked.settings]
    results = decide(asked, alone, drawn, with_settings, level, false_pass, drawer)
    if forbidden:
        raise forbidden[0]
    if identity:
        steps = "" if pipeline is None else str(pipeline)
        like = Batch("own", 1, SMALL, 1, asked.again[0].seed + 1000, slope=asked.company[0].slope)
        examine_identity(drawer, like=replace(like, pipeline=steps, before=before), say=say)
    return results


def decide(
    asked: Design,
    alone: Alone,
    drawn: Sequence[Drawn],
    with_settings: Sequence[Drawn],
    level: float,
    false_pass: float,
    drawer: Any,
) -> dict[str, TestResult]:
    """What these draws say; raises Misbehaved where ``company`` fails. No draws are made."""
    each = level / asked.decisions
    evidence = Evidence.of(drawn, alone, each)
    found = fault(evidence, drawer, EXTREME)
    for settings in with_settings:
        found = found or ignored(settings, each, drawer)
    if found:
        raise found
    least = min([evidence.least(), *[math.exp(float(log_p_values(s).min())) for s in with_settings]])
    company = TestResult(
        min(1.0, least * asked.decisions),
        least,
        evidence.n,
        detectable_in_company(ROWS * DRAWS, each, false_pass, tuple(asked.by_rank[SMALL].tolist())),
        level,
        "company_test",
        f"|temperature - 1| of the rows of a batch of {ROWS} or more",
    )
    return {"row_laws": row_laws(alone, drawn, level, false_pass, asked.by_rank), "company": company}


def row_laws(
    alone: Alone, drawn: Sequence[Drawn], level: float, false_pass: float, by_rank: Mapping[int, Float]
) -> TestResult:
    """How often the tokens of each rank were drawn, by vocabulary, over all rows in plain float32 arrays.

    ``by_rank``: the law of every row by rank, by vocabulary. Exact two-sided binomials, times their number.
    ``statistic``: z of the least.  ``detectable``: of the temperature, by the likeliest tokens of the
    smaller rows.
    """
    counts = {vocab: np.zeros(CLASSES, dtype=np.int64) for vocab in (SMALL, LARGE)}
    for (kind, row, vocab), ids in alone.items():
        if vocab in counts and kind == "own":
            counts[vocab] += _by_rank(ids, row, vocab)
    for each in drawn:
        batch = each.batch
        if (
            batch.layout != "plain"
            or batch.dtype != "float32"
            or batch.kind in ("alike", "masked")
            or batch.vocab not in counts
        ):
            continue
        for place, row in enumerate(batch.rows_at):
            if row != STRANGER:
                counts[batch.vocab] += _by_rank(each.ids[:, place], int(row), batch.vocab)
    p_values, scores = [], []
    for vocab, found in counts.items():
        n, rates = int(found.sum()), _rank_rates(by_rank[vocab])
        if not n:
            continue
        fewer, more = stats.binom.cdf(found, n, rates), stats.binom.sf(found - 1, n, rates)
        p_values += np.minimum(1.0, 2 * np.minimum(fewer, more)).tolist()
        spread = np.sqrt(n * rates * (1 - rates))
        scores += np.where(spread > 0, (found - n * rates) / np.maximum(spread, 1e-300), 0.0).tolist()
    worst, events = int(np.argmin(p_values)), len(p_values)
    n = int(counts[SMALL].sum())
    return TestResult(
        min(1.0, events * p_values[worst]),
        scores[worst],
        n + int(counts[LARGE].sum()),
        _detectable_temperature(n, level / events, false_pass, tuple(by_rank[SMALL].tolist())),
        level,
        "row_laws_test",
        "|temperature - 1|",
    )


@functools.cache
def detectable_in_company(pairs: int, level: float, false_pass: float, law: tuple[float, ...] = PLAIN) -> float:
    """Smallest d such that so many pairs of draws see rows at temperatures 1 + d or more, and 1 - d or
    less, in company. ``law``: of a row, by rank.

    By the likeliest token alone, at ``level`` for its p-value. Exact power; inf where none up to
    :data:`WIDEST` is seen.
    """
    own = _likeliest(1.0, law)
    if own == 1:
        return math.inf

    def seen(temperature: float) -> float:
        other = _likeliest(temperature, law)
        up, down = other * (1 - own), own * (1 - other)
        share = max(up, down) / (up + down)
        return conditional_power(pairs, up + down, level)(share) - (1 - false_pass)

    return max(_edge(seen, 1 / WIDEST, below=True), _edge(seen, WIDEST, below=False))


def depends(ids: Int, again: Int) -> bool:
    """Whether a draw agrees with the next of its call more often than with those of other calls of the same
    row.

    So much that it is no evidence for or against the company: the test of consecutive draws will tell."""
    half = len(again)
    together = ids[: 2 * half : 2] == ids[1 : 2 * half : 2]
    apart = ids[2 * half : 3 * half] == again
    first, second = int((together & ~apart).sum()), int((apart & ~together).sum())
    return first > second and float(sign_p_values(np.array(first), np.array(second))) <= SERIAL


@functools.cache
def _detectable_temperature(n: int, level: float, false_pass: float, law: tuple[float, ...]) -> float:
    rate = _likeliest(1.0, law)
    if rate == 1:
        return math.inf
    low, high = detected_rates(n, rate, rate, level, false_pass)

    def above(temperature: float) -> float:
        return low - _likeliest(temperature, law)

    def below(temperature: float) -> float:
        return _likeliest(temperature, law) - high

    return max(_edge(below, 1 / WIDEST, below=True), _edge(above, WIDEST, below=False))


def _edge(seen: Callable[[float], float], farthest: float, below: bool) -> float:
    """|T - 1| where ``seen`` becomes positive between 1 and ``farthest``; inf where it does not."""
    if not seen(farthest) > 0:
        return math.inf
    root = float(optimize.brentq(seen, farthest, 1 - 1e-9 if below else 1 + 1e-9, xtol=1e-6))
    return abs(root - 1)


def _likeliest(temperature: float, law: tuple[float, ...]) -> float:
    with np.errstate(divide="ignore"):
        return float(special.softmax(np.log(law) / temperature)[0])


def _rank_rates(falling: Float) -> Float:
    return np.append(falling[: CLASSES - 1], falling[CLASSES - 1 :].sum())


def _by_rank(ids: Int, row: int, vocab: int) -> Int:
    return np.bincount(np.minimum(rank_of(row, vocab)[ids], CLASSES - 1), minlength=CLASSES)


def _sizes(asked: Design) -> str:
    return ", ".join(
        str(rows) for rows in SIZES if any(b.rows == rows and b.kind == "own" for b in asked.company)
    )


def _vocab(rows: int) -> int:
    return SMALL if rows <= SMALL else LARGE


def _answer(batch: Batch, drawer: Any) -> Int:
    """The ids; what the call did wrong is told with this very call."""
    try:
        return batch.draw(drawer)
    except Misbehaved as wrong:
        where = f"a batch of {batch.rows}" if batch.rows > 1 else "one row"
        raise Misbehaved(wrong.what, f"{wrong.detail}, for {where}", batch.call(drawer)) from None


def _drawn(batch: Batch, drawer: Any, optional: bool, say: Say) -> Drawn | None:
    """None where the sampler, or its library, refuses what it need not take."""
    given = batch.layout if batch.layout != "plain" else batch.dtype
    try:
        return Drawn(batch, _answer(batch, drawer))
    except InputError as refusal:  # of ours, or of a library without such arrays
        say(f"{drawer.spec}: {batch.kind} rows as {given} are not tried: {refusal}")
    except Misbehaved as wrong:
        one_row = batch.layout == "one row" and wrong.what.startswith("wrong")
        if not optional or (wrong.what != "raises" and not one_row):
            raise
        say(f"{drawer.spec}: takes no {given} logits: {wrong.what}, {wrong.detail}")
    return None


def _seeds(drawn: Sequence[Drawn], drawer: Any) -> None:
    """The extreme seeds repeat their ids and differ from each other."""
    extreme = [each for each in drawn if each.batch.seed in EXTREME]
    for each in extreme:
        if not np.array_equal(_answer(each.batch, drawer), each.ids):
            said = f"two calls with seed {each.batch.seed} give different ids"
            raise Misbehaved("ignores its generator", said, f"{each.batch.call(drawer)}  # twice")
    first, second = extreme
    batch = first.batch
    chance = np.prod((batch.probs**2).sum(axis=1) ** batch.n)
    # wrong steps may leave one token of every row: that is told by the laws of the rows
    varied = not batch.pipeline or bool((first.ids != first.ids[0]).any())
    if chance < CHANCE and varied and np.array_equal(first.ids, second.ids):
        said = f"seeds {first.batch.seed} and {second.batch.seed} give the same {first.ids.size} ids"
        raise Misbehaved("ignores its generator", said, f"{first.batch.call(drawer)}  # and the other seed")
