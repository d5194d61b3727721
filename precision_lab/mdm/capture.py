"""Record rows of logits from real models on real text: the target laws of the experiments."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..targets.captured import Capture
from .decode.decoded import Network, device_of, ours, public
from .loss import MaskedNetwork
from .smollm2 import SmolLM2

MASK_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
CONTEXT = 8  # tokens that come before the last one read, at least


def _half(logits: Tensor) -> np.ndarray:
    """float16 log-probabilities, shifted so that the largest logit is 0: these values are the target from
    here on."""
    return (logits - logits.amax(-1, keepdim=True)).half().cpu().numpy()


def _own_columns(model: MaskedNetwork, row: Tensor) -> Tensor:
    """(vocab,) in the numbering of decoders -> in the model's own, the mask among them, where an adapter
    renumbers."""
    if not hasattr(model, "to_public"):
        return row
    ids = public(model, torch.arange(len(row), device=row.device))
    found = row.new_full((len(row) + 1,), -torch.inf)
    found[ids] = row
    return found


def _check_rows(rows: int, text: Tensor, length: int) -> None:
    if text.ndim != 2 or text.shape[1] < length:
        raise InputError(
            f"text of shape {tuple(text.shape)}", f"(windows, {length} or more tokens)", "take longer windows"
        )
    if rows < 1 or rows > len(text):
        raise InputError(f"rows = {rows} from {len(text)} windows", f"1..{len(text)}", "ask for fewer rows")


def capture_mdm(
    model: MaskedNetwork,
    text: Tensor,
    *,
    rows: int,
    rng: np.random.Generator,
    manifest: dict[str, Any] | None = None,
) -> Capture:
    """``rows`` rows in all, as even as can be over ``MASK_RATIOS``. text: (windows, length) int64 real text.

    For each row a fresh window has a uniformly random share of its positions masked, and one masked
    position is kept. Of an adapted model ids and columns are its own, and its mask has the logit -inf.
    """
    if model.config.causal:
        raise InputError("a causal network", "a masked one", "it is not shown the mask")
    _check_rows(rows, text, 1)
    length, mask, device = text.shape[1], model.config.mask_id, device_of(model)
    logits, ratios, truth = [], [], []
    for i, window in enumerate(rng.permutation(len(text))[:rows]):
        count = max(round(MASK_RATIOS[i % len(MASK_RATIOS)] * length), 1)
        positions = rng.permutation(length)[:count]
        tokens = ours(model, text[window]).clone()
        tokens[positions] = mask
        with torch.no_grad():
            row = model.logits(model.hidden(tokens[None].to(device))[0, int(positions[0])]).float()
            row = _own_columns(model, row)
        logits.append(_half(row))
        ratios.append(count / length)
        truth.append(int(text[window, positions[0]]))
    return Capture(
        np.stack(logits),
        np.array(ratios),
        np.array(truth),
        {"model": "mdm", "length": length, **(manifest or {})},
    )


def capture_smollm2(
    model: SmolLM2, text: Tensor, *, rows: int, rng: np.random.Generator, manifest: dict[str, Any] | None = None
) -> Capture:
    """``rows`` next-token rows, each at a random position of a window of its own. text: (windows, length)
    int64."""
    _check_rows(rows, text, CONTEXT + 2)
    logits, truth, device = [], [], device_of(cast(Network, model))
    for window in rng.permutation(len(text))[:rows]:
        position = int(rng.integers(CONTEXT, text.shape[1] - 1))
        with torch.no_grad():
            hidden = model.hidden(text[window, : position + 1][None].to(device))[0, -1]
            logits.append(_half(model.head(hidden).float()))
        truth.append(int(text[window, position + 1]))
    note = {"model": "SmolLM2-135M-Instruct-Q4_1", "length": text.shape[1], **(manifest or {})}
    return Capture(np.stack(logits), np.full(rows, np.nan), np.array(truth), note)
