"""From a record to its parts: which draws make an id, where noise meets the logits, and what decides.

The ids are followed back to the operations that chose them. Each is a :class:`RaceDraw` (the best of
rounded scores), a :class:`ThresholdDraw` (one uniform against a cumulative sum), a :class:`LibraryDraw`
draw (``torch.multinomial``), or a :class:`GatedDraw` (a uniform that decides whether one of these comes at
all). What cannot be followed is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .chain import JOINED, LAYOUT, NoiseMap, first_tensor, formula, random_steps
from .record import DECLARE, Record, Step, Value, is_random, refused

DTYPE_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}
_LARGEST = {"argmax", "max", "topk", "sort"}
_SMALLEST = {"argmin", "min"}
_COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_SHIFT = {"add", "sub"}
_SCALE = {"mul", "div"}
_SQUASH = {"_softmax", "softmax", "_log_softmax", "log_softmax", "exp"}  # of sums; log: of quotients
_CASTS = {"_to_copy", "to", "copy"}

Combine = Literal["add", "divide", "multiply", "ratio"]
Rule = Literal["u < c", "u <= c"]


@dataclass(eq=False)
class Relabel:
    """What is done to an index after the decision: ``steps``, last first, back to ``index``."""

    steps: list[Step] = field(default_factory=list)

    def then(self, step: Step) -> Relabel:
        return Relabel([*self.steps, step])


@dataclass(eq=False)
class RaceDraw:
    """The index of the best score(weights, noise). ``weights``: as they meet the noise, with the sign that
    makes the largest score win; ``ruled_out``: tokens whose scores are replaced by ``lowest``, in the shape
    of the weights; ``shape``: of the scores; ``axis``: the axis of the vocabulary.

    ``score``: dtype in which the score is rounded.  ``blurred``: monotone operations after it, whose
    rounding can make equals of two scores; ``shift``: the largest number added by one of them;
    ``nan_rows``: one infinite score makes the whole row NaN, so that index 0 comes.
    """

    noise: NoiseMap
    noise_sign: int
    weights: Tensor
    ruled_out: Tensor | None
    lowest: float
    weights_formula: str
    combine: Combine
    score: torch.dtype
    shape: tuple[int, ...]
    axis: int
    decision: Step
    index: Value
    relabel: Relabel
    blurred: list[Step]
    shift: float
    nan_rows: bool
    join: Step
    count: int  # how many indices the decision gives: k of topk

    kind = "race"


@dataclass(eq=False)
class ThresholdDraw:
    """The first index whose sum exceeds (``u < c``) or reaches (``u <= c``) a uniform; ``beyond``: the
    index that comes where no sum does: "last + 1" or "first"."""

    noise: NoiseMap
    sums: Tensor  # as they are compared, the vocabulary last
    weights_formula: str
    rule: Rule
    beyond: Literal["last + 1", "first"]
    decision: Step
    index: Value
    relabel: Relabel
    compare: Step

    kind = "cumulative sum"


@dataclass(eq=False)
class LibraryDraw:
    """``torch.multinomial(probs, n, replacement)``."""

    probs: Tensor
    weights_formula: str
    draws: int
    replacement: bool
    decision: Step
    index: Value
    relabel: Relabel

    kind = "torch.multinomial"

    @property
    def races(self) -> bool:
        """One draw, or several without replacement: an exponential race. Several with replacement: a
        cumulative sum."""
        return self.draws == 1 or not self.replacement


@dataclass(eq=False)
class GatedDraw:
    """``where(u < rate, token, other)``: a token of ``draws``, all alike, if the gate opens; ``other``: the
    ids that stay if not. So do ``masked_fill`` and ``tokens[u >= rate] = other`` have it."""

    noise: NoiseMap
    rate: Tensor
    rate_formula: str
    rule: str  # "<", "<=", ">" or ">=": u rule rate opens it
    draws: list[Draw]
    inside_ids: Value
    other: Tensor
    decision: Step
    index: Value
    relabel: Relabel  # after the gate: of tokens drawn and of ids that stay

    kind = "gate"

    @property
    def inside(self) -> Draw:
        return self.draws[0]


Draw = RaceDraw | ThresholdDraw | LibraryDraw | GatedDraw


def draws_of(record: Record) -> list[Draw]:
    """The draws behind the ids, in the order in which they are put together; InputError where one cannot be
    followed."""
    if not record.result.is_random:
        raise refused(_no_draw(record), "ids that come from torch's random operations")
    if record.ids.is_floating_point() or record.ids.dtype is torch.bool:
        raise refused(
            f"{record.ids.dtype} ids", "an integer tensor of token ids", "return indices, such as argmax"
        )
    found: list[Draw] = []
    _follow(record.result, Relabel(), found, set())
    if not found:
        raise refused(
            "ids that are no draw at these logits: where(...) takes its other side",
            "a draw, whatever the logits are",
        )
    if not any(_reads_logits(draw) for draw in found):
        raise refused(
            "ids that do not depend on the logits", "a draw from softmax(logits)", "check the function"
        )
    return found


def _no_draw(record: Record) -> str:
    if record.random:
        return f"ids that do not depend on the random operation {record.random[0].name}"
    if record.result.step is None:
        return "ids that no torch operation made: drawn with NumPy, JAX or an extension"
    return "a function without a random operation of torch: greedy, or drawn with NumPy, JAX or an extension"


def _reads_logits(draw: Draw) -> bool:
    if isinstance(draw, GatedDraw):
        return _reads_logits(draw.inside)
    return draw.weights_formula.count("l") > 0


def _follow(value: Value, relabel: Relabel, found: list[Draw], seen: set[int]) -> None:
    """Back from ids to the decisions that gave them."""
    if not value.is_random or id(value) in seen:
        return
    seen.add(id(value))
    step = value.step
    assert step is not None
    if step.name == "multinomial":
        found.append(_library(step, value, relabel))
    elif step.name in _LARGEST | _SMALLEST and not value.dtype.is_floating_point:
        found.append(_decided(step, value, relabel))
    elif step.name in ("searchsorted", "bucketize"):
        found.append(_searched(step, value, relabel))
    elif (weighed := weighed_one_hot(step)) is not None:
        index, _ = weighed
        before = len(found)
        _follow(index, relabel.then(step), found, seen)
        _is_in_row(step, found[before:])
        value.stands_for = index
    elif step.name in ("sum", "count_nonzero"):
        found.append(_counted(step, value, relabel))
    elif (choice := _choice(step)) is not None:
        found.append(_gate(step, choice, relabel))
    elif step.name in LAYOUT or step.name in _CASTS:
        _follow(first_tensor(step), relabel.then(step), found, seen)
    elif step.name in JOINED or step.name == "write":
        for part in step.reads:
            _follow(part, relabel, found, seen)
    elif step.name == "where":
        for part in _taken(step):
            _follow(part, relabel, found, seen)
    elif _one_random_input(step) is not None:
        # clamp, gather, index, add an offset: one index in, one id out; what it does is asked of it later
        operand = _one_random_input(step)
        assert operand is not None
        _follow(operand, relabel.then(step), found, seen)
    else:
        raise refused(
            f"ids made by {step.name} at {step.where}", "argmax, searchsorted, multinomial and the like"
        )


def _taken(step: Step) -> list[Value]:
    """The sides of ``where(condition, first, second)`` that are taken somewhere, the condition not being
    random."""
    condition = step.inputs[0].kept
    assert condition is not None
    sides = []
    if bool(condition.any()):
        sides.append(step.args[1])
    if not bool(condition.all()):
        sides.append(step.args[2])
    return [side for side in sides if isinstance(side, Value)]


def _one_random_input(step: Step) -> Value | None:
    random = {id(operand): operand for operand in step.reads if operand.is_random}
    operand = next(iter(random.values())) if len(random) == 1 else None
    if operand is None or is_random(step) or operand.dtype.is_floating_point:
        return None
    return operand


def _library(step: Step, value: Value, relabel: Relabel) -> LibraryDraw:
    probs = step.inputs[0]
    if probs.is_random:
        raise refused(
            f"multinomial of probabilities that are random themselves, at {step.where}",
            "one draw for each token",
        )
    draws, replacement = int(step.argument(1, "num_samples")), bool(step.argument(2, "replacement", False))
    assert probs.kept is not None
    return LibraryDraw(probs.kept, formula(probs), draws, replacement, step, value, relabel)


def _decided(step: Step, value: Value, relabel: Relabel) -> Draw:
    """argmax and its kin: of a comparison, of a one-hot row, or of scores."""
    operand = step.inputs[0]
    compared = _comparison(operand)
    if compared is not None:
        return _first_true(step, value, relabel, compared)
    chosen = _one_hot(operand)
    if chosen is not None:
        if chosen.kept is None or not torch.equal(chosen.kept.reshape(-1), value.kept.reshape(-1)):  # type: ignore[union-attr]
            raise refused(
                f"{step.name} of a row that is not one-hot, at {step.where}", "the index that was drawn"
            )
        found: list[Draw] = []
        _follow(chosen, relabel, found, set())
        if len(found) != 1:
            raise refused(f"one-hot rows of {len(found)} draws at {step.where}", "one draw behind one row")
        _is_in_row(step, found)
        value.stands_for = chosen
        return found[0]
    return _race(step, value, relabel)


def _comparison(value: Value) -> Step | None:
    """The comparison that a value is, through casts."""
    step = value.step
    while step is not None and (step.name in _CASTS or step.name in LAYOUT):
        step = first_tensor(step).step
    if step is None or step.name not in _COMPARE:
        return None
    return step if any(operand.is_random for operand in step.inputs) else None


def _one_hot(value: Value) -> Value | None:
    """The index behind ``scatter(zeros, -1, index, 1.0)``, also with the straight-through pair - s + s
    around it."""
    step = _moved(value).step
    if step is not None and step.name == "add" and all(isinstance(part, Value) for part in step.args[:2]):
        kept, soft = step.args[0], step.args[1]
        inner = _moved(kept).step
        if inner is None or inner.name != "sub" or not isinstance(inner.args[1], Value):
            return None
        if _moved(inner.args[1]) is not _moved(soft) or not isinstance(inner.args[0], Value):
            return None
        step = _moved(inner.args[0]).step
    if step is not None and step.name == "eq":
        return _compared_with_all(step)
    if step is None or step.name != "scatter":
        return None
    target = step.inputs[0]
    index = step.inputs[1]
    placed = step.args[-1]
    empty = not target.is_random and (target.kept is None or not bool(target.kept.any()))
    return index if index.is_random and empty and placed == 1 else None


def _compared_with_all(step: Step) -> Value | None:
    """The index behind ``index[..., None] == arange(size)``, as :func:`torch.nn.functional.one_hot` is
    recorded."""
    first, second = step.args[0], step.args[1]
    if not isinstance(first, Value) or not isinstance(second, Value):
        return None
    index, numbers = (first, second) if first.is_random else (second, first)
    size = step.outputs[0].shape[-1] if step.outputs[0].shape else 0
    if numbers.is_random or numbers.kept is None or index.dtype.is_floating_point:
        return None
    if index.shape[-1:] != (1,) or numbers.kept.shape[-1:] != (size,):
        return None
    rows = numbers.kept.reshape(-1, size)
    return index if bool((rows == torch.arange(size, device=rows.device)).all()) else None


def weighed_one_hot(step: Step) -> tuple[Value, Tensor] | None:
    """The index, and the number that each index becomes, (rows, size), of ``(one_hot * numbers).sum(-1)`` and
    of ``one_hot @ numbers``; None for other operations.

    A sum of zeros and one number is that number: nothing is rounded. InputError where a number is not finite,
    as 0 times it is NaN."""
    if step.name == "sum":
        row = step.inputs[0]
        dims = step.argument(1, "dim", None)
        product = _moved(row).step
        if product is None or product.name != "mul" or dims not in ([-1], [len(row.shape) - 1]):
            return None
    elif step.name in ("mv", "mm", "bmm"):
        product = step
    else:
        return None
    parts = [part for part in product.args[:2] if isinstance(part, Value)]
    random = [part for part in parts if part.is_random]
    if len(parts) != 2 or len(random) != 1 or (product is step and random[0] is not parts[0]):
        return None
    index = _one_hot(random[0])
    numbers = next(part for part in parts if not part.is_random).kept
    if index is None or numbers is None:
        return None
    size = random[0].shape[-1]
    if product is step:
        if step.name != "mv" and numbers.shape[-1] != 1:
            return None
        rows = numbers.reshape(-1, size)
    else:
        rows = numbers.expand(*numbers.shape[:-1], size).reshape(-1, size)
    if not bool(rows.isfinite().all()):
        raise refused(f"one-hot rows times numbers that are not finite, at {step.where}", "a table of ids")
    return index, rows.to(step.outputs[0].dtype)


def _is_in_row(step: Step, draws: list[Draw]) -> None:
    """A one-hot row has a place for every index of its draws: for others torch raises, which no replay
    shows."""
    one_hot = step.inputs[0]
    size = one_hot.shape[-1]
    for draw in draws:
        if size < _indices(draw):
            raise refused(
                f"one-hot rows of {size} for a draw of {_indices(draw)}, at {step.where}",
                "a place for every token",
            )


def _indices(draw: Draw) -> int:
    """How many indices a draw can give."""
    if isinstance(draw, GatedDraw):
        return max(_indices(draw.inside), int(draw.other.max()) + 1)
    if isinstance(draw, RaceDraw):
        return draw.weights.shape[-1]
    if isinstance(draw, ThresholdDraw):
        return draw.sums.shape[-1] + (draw.beyond == "last + 1")
    return draw.probs.shape[-1]


def _moved(value: Value) -> Value:
    """The value behind views, copies in another layout, and casts."""
    while value.step is not None and (value.step.name in LAYOUT or value.step.name in _CASTS):
        value = first_tensor(value.step)
    return value


# -- races


@dataclass
class _Walk:
    """Backwards from the scores that are compared to the operation where noise meets the logits."""

    sign: int = 1
    blurred: list[Step] = field(default_factory=list)
    nan_rows: bool = False
    cast: torch.dtype | None = None  # a narrowing cast right after the join
    squashed: bool = False  # a softmax or exp of the scores
    logarithm: bool = False  # a log of the scores
    shift: float = 0.0  # the largest number that was added to the scores
    # True where a token is ruled out, in the shape of the scores
    masks: list[Tensor] = field(default_factory=list)
    lowest: float = -float("inf")  # what their scores are replaced by
    cast_step: Step | None = None


def _race(step: Step, value: Value, relabel: Relabel) -> RaceDraw:
    scores = step.inputs[0]
    largest = step.name in _LARGEST
    if step.name == "sort":
        largest = bool(step.kwargs.get("descending", step.args[-1] if len(step.args) > 1 else False))
    if step.name == "topk":
        largest = bool(step.argument(3, "largest", True))
    if step.name in ("max", "min") and len(step.outputs) < 2:
        raise refused(
            f"{step.name} without a dim at {step.where}", "the index of the best score for each row", "give dim"
        )
    axis = _axis(step, scores)
    walk = _Walk()
    join = _to_join(scores, walk)
    noise_operand, weights_operand = _operands(join)
    weights = weights_operand.kept
    assert weights is not None
    sign = walk.sign if largest else -walk.sign
    combine, weights, noise_sign = _combination(join, noise_operand, weights, sign)
    if (walk.squashed and combine != "add") or (walk.logarithm and combine == "add"):
        raise refused(
            f"scores {combine} that go through {' and '.join(past.name for past in walk.blurred)}, at {step.where}",
            "argmax of the scores themselves, a softmax of sums or a logarithm of quotients",
        )
    weights = weights.expand(join.outputs[0].shape)
    ruled_out = _ruled_out(walk.masks, weights, step)
    if ruled_out is not None and walk.nan_rows:
        raise refused(f"tokens ruled out beside a softmax of the scores, at {step.where}", "one of the two")
    score = join.outputs[0].dtype
    if walk.cast is not None:
        assert walk.cast_step is not None
        if score != torch.float32:
            walk.blurred.append(walk.cast_step)
        else:
            score = walk.cast
    count = 1
    if step.name == "topk":
        count = int(step.argument(1, "k"))
    elif step.name == "sort":
        count = scores.shape[axis]
    return RaceDraw(
        noise=NoiseMap(noise_operand),
        noise_sign=noise_sign,
        weights=weights,
        ruled_out=ruled_out,
        lowest=walk.lowest,
        weights_formula=formula(weights_operand),
        combine=combine,
        score=score,
        shape=join.outputs[0].shape,
        axis=axis,
        decision=step,
        index=value,
        relabel=relabel,
        blurred=walk.blurred,
        shift=walk.shift,
        nan_rows=walk.nan_rows,
        join=join,
        count=count,
    )


def _ruled_out(masks: list[Tensor], weights: Tensor, step: Step) -> Tensor | None:
    """All masks as one, in the shape of the weights."""
    if not masks:
        return None
    try:
        return torch.stack([mask.expand(weights.shape) for mask in masks]).any(dim=0)
    except RuntimeError:
        raise refused(
            f"tokens ruled out in another shape than that of the scores, at {step.where}",
            "a mask of the logits' shape",
        ) from None


def _axis(step: Step, scores: Value) -> int:
    place = 2 if step.name == "topk" else 1
    default = -1 if step.name in ("topk", "sort") else None
    dim = step.argument(place, "dim", default)
    if step.name == "sort":
        dim = next(
            (a for a in step.args[1:] if isinstance(a, int) and not isinstance(a, bool)),
            step.kwargs.get("dim", -1),
        )
    if dim is None and len(scores.shape) > 1 and max(scores.shape) != torch.Size(scores.shape).numel():
        raise refused(
            f"{step.name} over all axes at once, at {step.where}", "one draw for each row", "give dim=-1"
        )
    dim = -1 if dim is None else int(dim)
    axis = dim % len(scores.shape)
    if axis != len(scores.shape) - 1:
        raise refused(
            f"{step.name} along axis {axis} of {len(scores.shape)}", "the vocabulary last", "move the axis"
        )
    return axis


def _to_join(value: Value, walk: _Walk) -> Step:
    """The step where noise that does not know the logits meets them."""
    while True:
        step = value.step
        assert step is not None
        if not value.depends.logits:
            raise refused(f"scores without logits at {step.where}", "scores made of logits and noise")
        random = [operand for operand in step.reads if operand.is_random]
        if not random or is_random(step):
            raise refused(f"scores made by {step.name} at {step.where}", "scores made of logits and noise")
        if any(not operand.depends.logits for operand in random) and len(random) == 1:
            return step
        if len(random) == 1 and step.name in ("where", "masked_fill"):
            value = _masked(step, walk)
            continue
        if len({id(operand) for operand in random}) > 1:
            raise refused(
                f"{step.name} of two values that both hold noise and logits, at {step.where}",
                "one operation where noise meets the logits",
            )
        value = _monotone(step, random[0], walk)


def _monotone(step: Step, operand: Value, walk: _Walk) -> Value:
    """Past one operation after the join that keeps the order of the scores in a row."""
    name = step.name
    if name in LAYOUT:
        return first_tensor(step)
    if name in _CASTS:
        wide = _precision(operand.dtype) <= _precision(step.outputs[0].dtype)
        if not wide and walk.blurred:
            walk.blurred.append(step)
        elif not wide:
            if walk.cast is not None:
                raise refused(f"scores that are cast twice, at {step.where}", "one cast of the scores")
            walk.cast = step.outputs[0].dtype
            walk.cast_step = step
        return operand
    if name == "neg":
        walk.sign = -walk.sign
        return operand
    if name in _SQUASH:
        if (
            "softmax" in name
            and int(step.argument(1, "dim", -1)) % len(operand.shape) != len(operand.shape) - 1
        ):
            raise refused(f"{name} of scores over another axis, at {step.where}", "dim=-1, the vocabulary")
        walk.squashed = True
        walk.nan_rows = walk.nan_rows or "softmax" in name
        walk.blurred.append(step)
        return operand
    if name == "log":
        walk.logarithm = True
        walk.blurred.append(step)
        return operand
    if name in _SHIFT | _SCALE:
        return _shifted(step, operand, walk)
    raise refused(
        f"the operation {name} on scores, at {step.where}", "operations that keep the order of the scores"
    )


def _shifted(step: Step, operand: Value, walk: _Walk) -> Value:
    """Past ``scores * c``, ``scores / c`` and ``scores + c``, c the same for every token."""
    first_is_score = step.args[0] is operand
    other = step.args[1] if first_is_score else step.args[0]
    number = _row_number(other, step)
    if step.name in _SCALE:
        if step.name == "div" and not first_is_score:
            raise refused(
                f"{number} divided by scores, at {step.where}", "operations that keep the order of the scores"
            )
        if number == 0 or not number == number:
            raise refused(
                f"scores times {number}, at {step.where}",
                "a temperature above 0",
                "draw greedily without noise",
            )
        walk.sign = walk.sign if number > 0 else -walk.sign
        if abs(number) != 1 or isinstance(other, Value):  # a tensor may be another one in the next call
            walk.blurred.append(step)
        return operand
    if step.name == "sub" and not first_is_score:
        walk.sign = -walk.sign
    if number != 0 or isinstance(other, Value):
        walk.blurred.append(step)
        walk.shift = max(walk.shift, _largest(other))
    return operand


def _largest(number: object) -> float:
    if isinstance(number, int | float):
        return abs(float(number))
    assert isinstance(number, Value)
    assert number.kept is not None
    return float(number.kept.abs().max())


def _row_number(other: object, step: Step) -> float:
    if isinstance(other, int | float):
        return float(other)
    assert isinstance(other, Value)
    kept = other.kept
    assert kept is not None
    if kept.numel() > 1 and kept.shape[-1] > 1 and not bool((kept == kept[..., :1]).all()):
        raise refused(
            f"{step.name} of scores and a value other for each token, at {step.where}",
            "one operation where noise meets the logits: a second one rounds the scores again",
            "add everything that depends on the token to the logits first",
        )
    flat = kept.reshape(-1)
    if not bool((flat > 0).all() or (flat < 0).all() or (flat == 0).all()):
        raise refused(
            f"{step.name} of scores and numbers of both signs, at {step.where}", "one sign in every row"
        )
    return float(flat[0]) if bool((flat == flat[0]).all()) else float(flat.sign()[0]) * 2.0


def _masked(step: Step, walk: _Walk) -> Value:
    """Past ``where(mask, -inf, scores)`` and ``masked_fill``: tokens that are ruled out after the noise."""
    if step.name == "masked_fill":
        scores = step.args[0]
        mask = step.args[1]
        filled = step.args[2]
        out = True
    else:
        mask = step.args[0]
        first = step.args[1]
        second = step.args[2]
        out = not (isinstance(first, Value) and first.is_random)
        scores, filled = (second, first) if out else (first, second)
    number = float(filled.kept.reshape(-1)[0]) if isinstance(filled, Value) else float(filled)  # type: ignore[union-attr]
    if walk.sign * number != -float("inf") and number > -1e30:
        raise refused(f"scores replaced by {number:g} at {step.where}", "-inf for tokens that are ruled out")
    assert isinstance(mask, Value)
    assert isinstance(scores, Value)
    assert mask.kept is not None
    walk.lowest = max(walk.lowest, number)
    walk.masks.append(mask.kept if out else ~mask.kept)
    return scores


def _operands(join: Step) -> tuple[Value, Value]:
    if join.name not in ("add", "sub", "rsub", "mul", "div"):
        raise refused(
            f"the operation {join.name} where noise meets the logits, at {join.where}",
            "a sum, difference, product or quotient of weights and noise",
        )
    if join.kwargs.get("alpha", 1) != 1 or join.kwargs.get("rounding_mode") is not None:
        raise refused(
            f"{join.name} with options at {join.where}", "a plain sum or quotient", "scale the noise before it"
        )
    first, second = join.args[0], join.args[1]
    if not isinstance(first, Value) or not isinstance(second, Value):
        raise refused(f"{join.name} of a number at {join.where}", "weights and noise")
    return (second, first) if second.is_random else (first, second)


def _combination(join: Step, noise: Value, weights: Tensor, sign: int) -> tuple[Combine, Tensor, int]:
    """The join as score(weights, noise), largest first: combine, weights, and the sign that the noise
    takes. Changing signs rounds nothing."""
    noise_first = join.args[0] is noise
    if join.name == "rsub":
        noise_first = not noise_first
    if join.name == "add":
        return "add", weights * sign, sign
    if join.name in ("sub", "rsub"):
        weights_sign, noise_sign = (-sign, sign) if noise_first else (sign, -sign)
        return "add", weights * weights_sign, noise_sign
    if bool((weights < 0).any()):
        raise refused(
            f"negative weights in {join.name} at {join.where}",
            "probabilities times or over noise",
            f"give it probabilities, --takes probs, if that is what it takes; or {DECLARE}",
        )
    if join.name == "mul":
        return "multiply", weights, sign
    return ("ratio", weights, -sign) if noise_first else ("divide", weights, sign)


# -- cumulative sums


def _searched(step: Step, value: Value, relabel: Relabel) -> ThresholdDraw:
    """``searchsorted(sums, u)`` and ``bucketize(u, sums)``."""
    if step.name == "searchsorted":
        sums, uniform = step.args[0], step.args[1]
    else:
        uniform, sums = step.args[0], step.args[1]
    if not isinstance(sums, Value) or not isinstance(uniform, Value) or sums.is_random:
        raise refused(f"{step.name} in random sums at {step.where}", "one uniform searched in a cumulative sum")
    right = bool(step.kwargs.get("right", False)) or step.kwargs.get("side") == "right"
    assert sums.kept is not None
    return ThresholdDraw(
        NoiseMap(uniform),
        sums.kept,
        formula(sums),
        "u < c" if right else "u <= c",
        "last + 1",
        step,
        value,
        relabel,
        step,
    )


def _sides(compare: Step) -> tuple[Value, Value, str]:
    """(uniform, sums, rule): u rule c is what the comparison says."""
    first, second = compare.args[0], compare.args[1]
    if not isinstance(first, Value) or not isinstance(second, Value) or (first.is_random and second.is_random):
        raise refused(
            f"{compare.name} with a number at {compare.where}", "a uniform compared with a cumulative sum"
        )
    rule = _COMPARE[compare.name]
    if first.is_random:
        return first, second, rule
    return second, first, {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[rule]


def _one_uniform(uniform: Value, compare: Step) -> None:
    if len(uniform.shape) and uniform.shape[-1] != 1 and compare.outputs[0].shape[-1] == uniform.shape[-1]:
        raise refused(f"a uniform for each token, compared at {compare.where}", "one uniform for each draw")


def _first_true(step: Step, value: Value, relabel: Relabel, compare: Step) -> ThresholdDraw:
    """``(sums > u).argmax()``: the first True; 0 where there is none. ``argmin``: the first False."""
    uniform, sums, rule = _sides(compare)
    _one_uniform(uniform, compare)
    wanted: dict[str, Rule] = {"<": "u < c", "<=": "u <= c"}
    if step.name in _SMALLEST:
        wanted = {">": "u <= c", ">=": "u < c"}
    if rule not in wanted:
        raise refused(
            f"{step.name} of u {rule} c at {step.where}", "the first token whose sum exceeds the uniform"
        )
    if step.name not in ("argmax", "argmin", "max", "min"):
        raise refused(f"{step.name} of a comparison at {step.where}", "argmax, whose first True wins")
    assert sums.kept is not None
    return ThresholdDraw(
        NoiseMap(uniform),
        sums.kept,
        formula(sums),
        wanted[rule],
        "first",
        step,
        value,
        relabel,
        compare,
    )


def _counted(step: Step, value: Value, relabel: Relabel) -> ThresholdDraw:
    """``(sums < u).sum(-1)``: how many sums the uniform has passed."""
    compare = _comparison(step.inputs[0])
    if compare is None:
        raise refused(f"ids made by {step.name} at {step.where}", "a count of the sums below one uniform")
    uniform, sums, rule = _sides(compare)
    _one_uniform(uniform, compare)
    if rule not in (">", ">="):
        raise refused(f"a count of u {rule} c at {step.where}", "a count of the sums below the uniform")
    assert sums.kept is not None
    passed: Rule = "u <= c" if rule == ">" else "u < c"
    return ThresholdDraw(
        NoiseMap(uniform), sums.kept, formula(sums), passed, "last + 1", step, value, relabel, compare
    )


# -- gates


_Choice = tuple[Value, Any, Any]  # a random condition, what is taken where it is true, and where not


def _choice(step: Step) -> _Choice | None:
    """``where(condition, first, second)``, ``second.masked_fill(condition, first)`` and ``second[condition] =
    first`` with a random condition; None for other operations."""
    if step.name == "where":
        condition, first, second = step.args[:3] if len(step.args) > 2 else (None, None, None)
    elif step.name == "masked_fill":
        second, condition, first = step.args[:3]
    elif step.name == "index_put":
        second, indices, first = step.args[:3]
        condition = indices[0] if len(indices) == 1 else None
        plain = not step.argument(3, "accumulate", False) and torch.Size(first.shape).numel() == 1
        if not plain or condition is None or condition.shape != second.shape:
            return None
    else:
        return None
    if not isinstance(condition, Value) or not condition.is_random or condition.dtype is not torch.bool:
        return None
    return condition, first, second


def _gate(step: Step, choice: _Choice, relabel: Relabel) -> GatedDraw:
    condition, first, second = choice
    condition, negated = _condition(condition)
    if negated:
        first, second = second, first
    compare = _comparison(condition)
    if compare is None:
        raise refused(f"a random condition at {step.where}", "a uniform compared with a rate: u < rate")
    uniform, rate, rule = _gate_sides(compare)
    if not any(isinstance(branch, Value) and branch.is_random for branch in (first, second)):
        raise refused(f"a gate between two constants at {step.where}", "a token drawn, or what was there")
    opens = isinstance(first, Value) and first.is_random
    inside, other = (first, second) if opens else (second, first)
    if isinstance(other, Value) and other.is_random:
        raise refused(f"a choice between two draws at {step.where}", "a token drawn, or what was there")
    if isinstance(rate, Value) and rate.is_random:
        raise refused(
            f"a uniform compared with a random number at {step.where}", "a uniform compared with a rate"
        )
    found: list[Draw] = []
    _follow(inside, relabel, found, set())
    if not found:
        raise refused(f"a gate over no draw at {step.where}", "a draw behind the gate")
    if {drawn.number for drawn in random_steps(uniform)} & {drawn.number for drawn in random_steps(inside)}:
        raise refused(
            f"a gate that is decided by the random values that decide the token, at {step.where}",
            "a uniform of its own for the gate",
            "draw another torch.rand for the gate",
        )
    kept = other.kept if isinstance(other, Value) else torch.tensor(int(other))
    assert kept is not None
    if not opens:
        rule = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}[rule]
    text = formula(rate) if isinstance(rate, Value) else f"{rate:g}"
    number = rate.kept if isinstance(rate, Value) else torch.tensor(float(rate), dtype=uniform.dtype)
    assert number is not None
    return GatedDraw(NoiseMap(uniform), number, text, rule, found, inside, kept, step, step.outputs[0], relabel)


def _gate_sides(compare: Step) -> tuple[Value, Value | float, str]:
    first = compare.args[0]
    second = compare.args[1]
    rule = _COMPARE[compare.name]
    if isinstance(first, Value) and first.is_random:
        return first, second, rule
    return second, first, {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[rule]


def _condition(value: Value) -> tuple[Value, bool]:
    """A condition without conjunctions that are true throughout, ``is_mask & (u < rate)``, and without ``~``; and
    whether it is the contrary."""
    negated = False
    step = value.step
    while step is not None and step.name in ("bitwise_and", "logical_and", "mul", "bitwise_not", "logical_not"):
        if step.name in ("bitwise_not", "logical_not"):
            negated = not negated
            value = step.inputs[0]
            step = value.step
            continue
        plain = [operand for operand in step.inputs if not operand.is_random]
        random = [operand for operand in step.reads if operand.is_random]
        if len(plain) != 1 or plain[0].kept is None or not bool(plain[0].kept.all()):
            return value, negated
        value = random[0]
        step = value.step
    return value, negated


def _precision(dtype: torch.dtype) -> float:
    return {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24, torch.float64: 53}.get(dtype, 64)
