"""A pipeline as code would run it: torch operations in the dtype of the logits, one after another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InputError
from ..steps import MinP, Step, Temperature, TopK, TopP


def run(steps: tuple[Step, ...], logits: Tensor) -> Tensor:
    """(rows, vocab) floating logits, or one row, -> the same shape and dtype; tokens that are dropped
    become -inf.

    Ties of ``any`` go to the first index. Masses are added from the largest down. Errors: InputError for
    integers.
    """
    if not logits.dtype.is_floating_point or logits.ndim not in (1, 2):
        got = f"logits {logits.dtype} of shape {tuple(logits.shape)}"
        raise InputError(got, "floating (rows, vocab)", "convert them, or index the rows you mean")
    left = logits.reshape(-1, logits.shape[-1])
    whole = left
    for step in steps:
        if isinstance(step, Temperature) and step.value > 0:
            left = left / step.value
            whole = whole / step.value
        else:
            left = left.masked_fill(~_kept(step, left, whole), -math.inf)
    return left.reshape(logits.shape)


def _kept(step: Step, logits: Tensor, whole: Tensor) -> Tensor:
    """(rows, vocab) bool."""
    if isinstance(step, MinP):
        probs = logits.softmax(dim=-1)
        return (probs >= step.ratio * probs.amax(dim=-1, keepdim=True)) & (logits > -math.inf)
    if isinstance(step, Temperature):
        step = TopK(1, step.ties)
    ordered, ids = descending(logits, step.ties)
    if isinstance(step, TopK):
        inside = torch.arange(logits.shape[-1], device=logits.device) < step.k
        inside = inside.expand_as(ordered)
    else:
        inside = _inside_top_p(step, ordered, ids, whole)
    if step.ties == "all":
        last = inside.sum(dim=-1, keepdim=True) - 1
        inside = ordered >= ordered.gather(-1, last)
    return torch.zeros_like(inside).scatter(-1, ids, inside) & (logits > -math.inf)


def _inside_top_p(step: TopP, ordered: Tensor, ids: Tensor, whole: Tensor) -> Tensor:
    if step.p == 1:
        return torch.ones_like(ordered, dtype=torch.bool)
    if step.mass == "whole":
        share = whole.softmax(dim=-1).gather(-1, ids)
    else:
        share = ordered.softmax(dim=-1)
    through = share.cumsum(dim=-1)
    if step.crossing == "dropped":
        inside = through <= step.p
    else:
        before = torch.nn.functional.pad(through[..., :-1], (1, 0))
        inside = before < step.p if step.crossing == "kept" else before <= step.p
    inside[..., 0] = True
    return inside


def descending(logits: Tensor, ties: str = "first") -> tuple[Tensor, Tensor]:
    """Sorted logits, the largest first, and their ids; of equal ones the last index first where ``ties`` is
    last."""
    if ties == "last":
        ordered, ids = logits.flip(-1).sort(dim=-1, descending=True, stable=True)
        return ordered, logits.shape[-1] - 1 - ids
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    return ordered, ids
