"""Rows of logits recorded from a real model: float16 values in safetensors beside a manifest with their sha256;
and rows of any other file that :mod:`..recorded` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import read_json, write_json
from ..recorded import PICKLES, SUFFIXES, Recorded
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
        """As a target; InputError where the row holds NaN, +inf or nothing but -inf."""
        if not 0 <= index < len(self.logits):
            raise InputError(f"row {index}", f"0..{len(self.logits) - 1}", "choose another row")
        name = str(self.manifest["model"])
        return Target(f"{name} row {index}", _checked(self.logits[index], index, name), f"captured: {name}")

    def step(self, index: int, steps: int) -> Target:
        """One ancestral step of N = ``steps`` with a linear schedule at the row's own share t of masked
        text: r = 1 / (N t), the mask last. InputError where the row has no share, or r > 1."""
        token, masked = self.row(index), float(self.mask_ratio[index])
        if not masked * steps >= 1:
            got = f"row {index} with masked share {masked} and N = {steps}"
            raise InputError(got, "N t of at least 1", "use a row of a masked model, or more steps")
        logits = mdm_step(token.logits, 1 / (steps * masked))
        return Target(f"{token.name}, one of {steps} steps", logits, token.provenance, mask=len(logits) - 1)


def save_capture(path: Path | str, capture: Capture) -> None:
    """Write ``path`` (.safetensors) and ``path`` with .json: the manifest with sha256, shape and what it
    was given."""
    from safetensors.numpy import save_file

    from ..files import atomic
    from ..provenance import file_sha256

    path = Path(path)
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


def load_capture(path: Path | str) -> Capture:
    """Read a capture, or any file with (rows, vocab) or (vocab,) floating ``logits``, see
    :class:`..recorded.Recorded`.

    A neighbour ``.json`` with a ``sha256`` is its manifest, and the file must be the one it names. Rows are
    checked where they are asked for, so that a dead one spoils itself alone. Raises InputError for a
    missing, corrupt or altered file, wrong shapes, or more than 2^28 numbers.
    """
    path = Path(path)
    manifest = _manifest(path)
    logits = _logits(path)
    rows = logits.shape[0] if len(logits.shape) > 1 else 1
    found = logits.whole()
    ratio = _beside(path, "mask_ratio", rows, np.full(rows, np.nan))
    tokens = _beside(path, "tokens", rows, np.full(rows, -1))
    return Capture(found.reshape(rows, -1), ratio, tokens, manifest)


def load_row(path: Path | str, index: int = 0) -> Target:
    """Row ``index`` of a file of logits, the only one that is read and checked. Errors: as
    :func:`load_capture`."""
    path = Path(path)
    name = str(_manifest(path)["model"])
    logits = _logits(path)
    row = _checked(logits.row(index), index, name)
    return Target(f"{name} row {index}", row, f"captured: {name}")


def is_file_of_logits(path: Path | str) -> bool:
    """Whether a target's name is a file's: by its ending, or because there is such a file."""
    path = Path(path)
    return path.suffix in (*SUFFIXES, *PICKLES) or path.is_file()


def _logits(path: Path) -> Recorded:
    logits = Recorded(path, "logits")
    if len(logits.shape) > 2 or logits.dtype.kind != "f":
        got = f"{logits.name} {logits.dtype} {logits.shape} in {path}"
        raise InputError(got, "a floating (rows, vocab) array named logits", "save it so")
    return logits


def _manifest(path: Path) -> dict[str, Any]:
    """The neighbour .json: of a capture, or with a sha256. Beside other files, other JSON is no manifest."""
    from ..provenance import file_sha256

    manifest: dict[str, Any] = {"model": path.stem}
    beside = path.with_suffix(".json")
    note: Any = read_json(beside) if path.suffix != ".json" and beside.is_file() else None
    noted = isinstance(note, dict) and "sha256" in note
    if noted or (beside.is_file() and _is_capture(path)):
        actual, expected = file_sha256(path), note["sha256"] if noted else None
        if expected != actual:
            raise InputError(
                f"{path} with sha256 {actual[:16]}...",
                f"{str(expected)[:16]}... as its manifest says",
                "restore it, or capture again",
            )
        manifest |= note
    model = str(manifest["model"])[:200]
    manifest["model"] = "".join(letter if letter.isprintable() else "?" for letter in model)
    return manifest


def _is_capture(path: Path) -> bool:
    """Whether :func:`save_capture` wrote it, and so wrote a manifest."""
    try:
        return path.suffix == ".safetensors" and Recorded(path, "mask_ratio").name == "mask_ratio"
    except InputError:
        return False


def _beside(path: Path, name: str, rows: int, absent: np.ndarray) -> np.ndarray:
    """An array of the same file with one entry a row; ``absent`` where it holds none."""
    if path.suffix not in (".safetensors", ".npz"):
        return absent
    try:
        found = Recorded(path, name)
    except InputError:
        return absent
    if found.name != name:
        return absent
    if found.shape != (rows,):
        raise InputError(f"{name} {found.shape} in {path}", f"({rows},)", "save one per row of logits")
    return found.whole()


def _checked(row: np.ndarray, index: int, name: str) -> Float:
    top = row.max()
    if not np.isfinite(top):
        raise InputError(
            f"row {index} of {name} with maximum {top}", "numbers or -inf, one finite", "drop the row"
        )
    return row.astype(np.float64)
