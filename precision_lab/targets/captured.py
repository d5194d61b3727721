"""Rows of logits recorded from a real model: float16 values in safetensors beside a manifest with their sha256."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import read_json, write_json
from ..types import Float, Int
from .synthetic import mdm_step
from .target import Target


@dataclass(frozen=True)
class Capture:
    """``logits``: (rows, vocab) float16, the values *are* the target (no rounding remains); ``mask_ratio``:
    (rows,) share of the text that was masked, NaN for an autoregressive model; ``tokens``: (rows,) the true
    token ids."""

    logits: np.ndarray
    mask_ratio: Float
    tokens: Int
    manifest: dict[str, Any]

    def row(self, index: int) -> Target:
        if not 0 <= index < len(self.logits):
            raise InputError(f"row {index}", f"0..{len(self.logits) - 1}", "choose another row")
        return Target(
            f"{self.manifest['model']} row {index}",
            self.logits[index].astype(np.float64),
            f"captured: {self.manifest['model']}",
        )

    def step(self, index: int, steps: int) -> Target:
        """One ancestral step of N = ``steps`` with a linear schedule at the row's own share t of masked
        text: r = 1 / (N t), the mask last. InputError where the row has no share, or r > 1."""
        token, masked = self.row(index), float(self.mask_ratio[index])
        if not masked * steps >= 1:
            got = f"row {index} with masked share {masked} and N = {steps}"
            raise InputError(got, "N t of at least 1", "use a row of a masked model, or more steps")
        logits = mdm_step(token.logits, 1 / (steps * masked))
        return Target(f"{token.name}, one of {steps} steps", logits, token.provenance, mask=len(logits) - 1)


def save_capture(path: Path, capture: Capture) -> None:
    """Write ``path`` (.safetensors) and ``path`` with .json: the manifest with sha256, shape and what it
    was given."""
    from safetensors.numpy import save_file

    from ..files import atomic
    from ..provenance import file_sha256

    with atomic(path) as partial:
        save_file(
            {
                "logits": np.ascontiguousarray(capture.logits, dtype=np.float16),
                "mask_ratio": np.ascontiguousarray(capture.mask_ratio, dtype=np.float64),
                "tokens": np.ascontiguousarray(capture.tokens, dtype=np.int64),
            },
            str(partial),
        )
    rows, vocab = capture.logits.shape
    write_json(
        path.with_suffix(".json"),
        {**capture.manifest, "rows": rows, "vocab": vocab, "dtype": "float16", "sha256": file_sha256(path)},
    )


def load_capture(path: Path) -> Capture:
    """Read and check a capture, or any safetensors file with a 2-D ``logits`` tensor (its manifest may be
    absent).

    Raises InputError for a missing, corrupt or altered file, NaN, +inf, a row of -inf, or wrong shapes.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from ..provenance import file_sha256

    if not path.is_file():
        raise InputError(f"no file {path}", "logits in safetensors", "check the path")
    manifest: dict[str, Any] = {"model": path.stem}
    if path.with_suffix(".json").is_file():
        note = read_json(path.with_suffix(".json"))
        expected = note.get("sha256") if isinstance(note, dict) else None
        if expected != (actual := file_sha256(path)):
            raise InputError(
                f"{path} with sha256 {actual[:16]}...",
                f"{str(expected)[:16]}... as its manifest says",
                "restore it, or capture again",
            )
        manifest |= note
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: {error}", "a safetensors file", "restore the file from its source") from None
    logits = tensors.get("logits")
    if logits is None or logits.ndim not in (1, 2) or logits.dtype.kind != "f" or not logits.size:
        shape = "no tensor 'logits'" if logits is None else f"logits {logits.dtype} {logits.shape}"
        raise InputError(f"{shape} in {path}", "a floating (rows, vocab) tensor named logits", "save it so")
    logits = np.atleast_2d(logits)
    top = logits.max(axis=1)
    if not np.isfinite(top).all():
        at = int(np.flatnonzero(~np.isfinite(top))[0])
        raise InputError(
            f"row {at} of {path} with maximum {top[at]}", "numbers or -inf, one finite", "drop the row"
        )
    rows = len(logits)
    ratio, tokens = tensors.get("mask_ratio", np.full(rows, np.nan)), tensors.get("tokens", np.full(rows, -1))
    if ratio.shape != (rows,) or tokens.shape != (rows,):
        raise InputError(
            f"mask_ratio {ratio.shape}, tokens {tokens.shape}", f"({rows},)", "one per row of logits"
        )
    return Capture(logits, ratio, tokens, manifest)
