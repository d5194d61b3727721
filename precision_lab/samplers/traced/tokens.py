"""From the index that a decision gives to the token that comes back: which index each id was, and what
became of it."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from ...types import Int
from .anatomy import Draw, GatedDraw, LibraryDraw, RaceDraw, Relabel, ThresholdDraw, weighed_one_hot
from .chain import ELEMENTWISE, LAYOUT, constant, places_of
from .record import Record, Step, Value, refused


def origins(record: Record, draws: list[Draw]) -> list[Tensor]:
    """For each draw, where its indices went: (ids,) int64, the place in the flat index of the draw that
    each id of the result comes from, -1 for ids of other draws. InputError where an id comes from none."""
    starts, flat = _places_of_ids(record.result, draws)
    if flat is None:
        raise refused(
            "ids whose way from the decision to the result is not one to one", "one id for each decision"
        )
    if bool((flat < 0).any()):
        share = float((flat < 0).double().mean())
        raise refused(
            f"ids of which {share:.2g} are no draw at these logits: a plain choice beside the draws",
            "a draw for every id",
        )
    found = []
    for start, end in itertools.pairwise(starts):
        inside = (flat >= start) & (flat < end)
        found.append(torch.where(inside, flat - start, -1))
    return found


def repeated(record: Record, draws: list[Draw]) -> bool:
    """Whether one index gives several ids, as where one draw is expanded to n."""
    _, flat = _places_of_ids(record.result, draws)
    if flat is None:
        return False
    drawn = flat[flat >= 0]
    return len(drawn.unique()) < len(drawn)


def _places_of_ids(ids: Value, draws: list[Draw]) -> tuple[list[int], Tensor | None]:
    """(ids,) the place of each id among the indices of all draws, and where those of each draw begin; None:
    not known."""
    numbers: dict[int, Tensor] = {}
    starts = [0]
    for draw in draws:
        shape = draw.index.shape
        count = int(torch.Size(shape).numel())
        numbers[id(draw.index)] = torch.arange(starts[-1], starts[-1] + count).reshape(shape)
        starts.append(starts[-1] + count)
    places = places_of(ids, numbers)
    return starts, None if places is None else places.reshape(-1)


def indices_a_row(draw: Draw) -> int:
    """How many indices one row of scores gives: k of topk, the number of draws of multinomial, else 1."""
    if isinstance(draw, GatedDraw):
        return 1
    if isinstance(draw, LibraryDraw):
        return draw.draws
    return draw.count if isinstance(draw, RaceDraw) else 1


def weights_behind(draw: Draw, place: Tensor) -> Tensor:
    """(ids, tokens): the weights, sums or probabilities that decided the indices at ``place`` of the flat
    index."""
    if isinstance(draw, GatedDraw):
        starts, flat = _places_of_ids(draw.inside_ids, draw.draws)
        if flat is None or bool((flat < 0).any()):
            raise refused(
                f"a gate over tokens that are put together, at {draw.decision.where}", "one token, one gate"
            )
        inside = flat.reshape(draw.inside_ids.shape).expand(draw.index.shape).reshape(-1)[place]
        which = torch.bucketize(inside, torch.tensor(starts[1:]), right=True)
        rows = [
            weights_behind(draw.draws[k], (at - starts[k])[None])
            for k, at in zip(which.tolist(), inside, strict=True)
        ]
        return torch.cat(rows)
    if isinstance(draw, LibraryDraw):
        return draw.probs.reshape(-1, draw.probs.shape[-1])[place // draw.draws]
    if isinstance(draw, RaceDraw):
        return decided_by(draw).reshape(-1, draw.weights.shape[-1])[place // draw.count]
    return _sums_behind(draw, place)


def decided_by(draw: RaceDraw) -> Tensor:
    """The weights, those of tokens that are ruled out -inf, or 0 where weights multiply or are divided."""
    if draw.ruled_out is None:
        return draw.weights
    return draw.weights.masked_fill(draw.ruled_out, -torch.inf if draw.combine == "add" else 0.0)


def _sums_behind(draw: ThresholdDraw, place: Tensor) -> Tensor:
    if draw.compare.name in ("searchsorted", "bucketize"):
        if draw.sums.ndim == 1:
            return draw.sums.expand(len(place), -1)
        return draw.sums.reshape(-1, draw.sums.shape[-1])[place // draw.index.shape[-1]]
    rows = draw.sums.expand(draw.compare.outputs[0].shape)
    return rows.reshape(-1, rows.shape[-1])[place]


def tokens_of(relabel: Relabel, size: int) -> Int:
    """The token that each index 0..size-1 becomes."""
    current = torch.arange(size)
    for step in reversed(relabel.steps):
        current = _step_on_ids(step, current)
    return np.asarray(current.long().numpy(), dtype=np.int64)


def _step_on_ids(step: Step, ids: Tensor) -> Tensor:
    if step.name in LAYOUT:
        return ids
    if step.name in ("_to_copy", "to", "copy"):
        return ids.to(step.outputs[0].dtype)
    if step.name in ("gather", "take_along_dim", "index_select", "embedding", "take", "index"):
        return _looked_up(step, _table(step), ids)
    weighed = weighed_one_hot(step)
    if weighed is not None:
        return _looked_up(step, _same_for_all(step, weighed[1]), ids)
    if step.name in ELEMENTWISE:
        answer = step.run(lambda value: ids if value.is_random else constant(value).cpu())
        return answer if isinstance(answer, Tensor) else answer[0]
    raise refused(
        f"ids that go through {step.name} at {step.where}", "a table of ids, clamp, or sums with constants"
    )


def _table(step: Step) -> Tensor:
    """The ids that a gathering operation looks up, (tokens,): the same for every draw."""
    tables = [value for value in step.inputs if not value.is_random and value.kept is not None]
    table = tables[0].kept if tables else None
    if table is None:
        raise refused(
            f"{step.name} from a random table at {step.where}", "a table of ids that the logits decide"
        )
    return _same_for_all(step, table.reshape(-1, table.shape[-1]))


def _looked_up(step: Step, table: Tensor, ids: Tensor) -> Tensor:
    if int(ids.max()) >= len(table):
        raise refused(
            f"an index {int(ids.max())} into a table of {len(table)} at {step.where}", "an index inside it"
        )
    return table.cpu()[ids.long()]


def _same_for_all(step: Step, rows: Tensor) -> Tensor:
    """The table, (size,), that every row of a call has."""
    if not bool((rows == rows[0]).all()):
        raise refused(
            f"{step.name} from a table other for each draw, at {step.where}", "one table for a row of logits"
        )
    return rows[0]
