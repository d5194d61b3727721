"""A finite law on the reals: values with integer weights that sum to 2^bits exactly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .files import read_npz, write_npz
from .types import Float, Int

MOST_ROWS = 1 << 27  # of a table read from a file: 84 million are the float32 values of 32-bit words
COUNTS = ("|u1", "<u2", "<u4", "<i8")


@dataclass(frozen=True)
class Atoms:
    """P(X = values[k]) = counts[k] / 2^bits.  values: (k,) float64, ascending, distinct, no NaN; counts: (k,)
    int64 > 0."""

    values: Float
    counts: Int
    bits: int
    cache: dict = field(default_factory=dict, init=False, repr=False, compare=False)  # derived tables

    def __post_init__(self) -> None:
        if self.values.shape != self.counts.shape or self.values.ndim != 1 or not len(self.values):
            raise InputError(
                f"values {self.values.shape} and counts {self.counts.shape}", "one count per value", "pair them"
            )
        if not 0 <= self.bits <= 62:
            raise InputError(f"bits = {self.bits}", "0..62", "use a coarser grid")
        ascending = (self.values[1:] > self.values[:-1]).all()  # false for NaN, but for one alone
        if np.isnan(self.values[0]) or not ascending:
            raise InputError(
                "values that are NaN, repeated or unsorted", "ascending distinct values", "use Atoms.of"
            )
        if self.counts.min() <= 0:
            raise InputError(
                f"a count of {int(self.counts.min())}", "positive counts", "leave out values that do not occur"
            )
        if int(self.counts.sum()) != 1 << self.bits:
            raise InputError(
                f"counts that sum to {int(self.counts.sum())}",
                f"counts that sum to 2^{self.bits} = {1 << self.bits}",
                "the weights of a law sum to one exactly",
            )

    @staticmethod
    def of(values: Float, counts: Int | int, bits: int) -> Atoms:
        """Sort and merge equal values (-0 is 0)."""
        values = np.asarray(values, dtype=np.float64) + 0.0
        if (values[1:] > values[:-1]).all():
            distinct, merged = values, np.broadcast_to(np.asarray(counts, dtype=np.int64), values.shape)
        elif np.ndim(counts) == 0:
            distinct, merged = np.unique(values, return_counts=True)
            merged = merged * counts
        else:
            order = np.argsort(values, kind="stable")
            distinct, start = np.unique(values[order], return_index=True)
            merged = np.add.reduceat(np.asarray(counts, dtype=np.int64)[order], start)
        return Atoms(distinct, np.ascontiguousarray(merged, dtype=np.int64), bits)

    def push(self, function: Callable[[Float], Float]) -> Atoms:
        """The law of ``function(X)``; the function need not be monotone."""
        return Atoms.of(function(self.values), self.counts, self.bits)

    @property
    def probs(self) -> Float:
        """Exact in float64: counts below 2^53 times a power of two."""
        return np.ldexp(self.counts.astype(np.float64), -self.bits)

    def below(self, x: Float, *, inclusive: bool) -> Float:
        """P(X < x), or P(X <= x) if ``inclusive``; any shape of x."""
        cumulative = np.concatenate([[0], np.cumsum(self.counts)])
        at = np.searchsorted(self.values, x, side="right" if inclusive else "left")
        return np.ldexp(cumulative[at].astype(np.float64), -self.bits)

    @property
    def ceiling(self) -> float:
        return float(self.values[-1])

    @property
    def floor(self) -> float:
        return float(self.values[0])

    def sha256(self) -> str:
        """A hash of the table: little-endian values, counts and bits."""
        digest = hashlib.sha256(self.values.astype("<f8").tobytes())
        digest.update(self.counts.astype("<i8").tobytes() + bytes([self.bits]))
        return digest.hexdigest()

    def save(self, path: Path | str, metadata: Mapping[str, Any]) -> None:
        """Write the table as a NumPy archive (.npz, nothing pickled), atomically: ``values`` (float32 where
        that holds them), ``counts`` (the narrowest integers), ``bits``, and ``metadata`` as JSON, to which
        the table's sha256 is added. Say in it what was measured, on which device, driver and torch.

        Raises InputError for metadata that JSON cannot hold, or a name that does not end in .npz.
        """
        try:
            text = json.dumps({**metadata, "sha256": self.sha256()}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"metadata: {error}", "strings and finite numbers", "leave the rest out") from None
        narrow = self.values.astype("<f4")
        exact = np.array_equal(narrow.astype(np.float64), self.values)
        counts = next(kind for kind in COUNTS if self.counts.max() <= np.iinfo(kind).max)
        arrays = {
            "values": narrow if exact else self.values.astype("<f8"),
            "counts": self.counts.astype(counts),
            "bits": np.array(self.bits, dtype="<i8"),
            "metadata": np.frombuffer(text.encode(), dtype="|u1"),
        }
        write_npz(Path(path), arrays)

    @staticmethod
    def load(path: Path | str) -> tuple[Atoms, dict[str, Any]]:
        """What :meth:`save` wrote: the table and its metadata. Nothing is unpickled, and no more than 2^27
        rows are read.

        Raises InputError if the file is missing, cut short, of other dtypes or shapes, not a law (NaN, counts
        that do not sum), or has another sha256 than its metadata say."""
        path = Path(path)
        dtypes = {"values": ("<f4", "<f8"), "counts": COUNTS, "bits": ("<i8",), "metadata": ("|u1",)}
        held = read_npz(path, dtypes=dtypes, most=MOST_ROWS)
        try:
            metadata = json.loads(held["metadata"].tobytes())
        except ValueError as error:
            raise InputError(
                f"{path}: {error}", "metadata in JSON", "restore the file or measure it again"
            ) from None
        if not isinstance(metadata, dict) or held["bits"].shape != ():
            raise InputError(
                f"{path} without bits and metadata", "a table", "restore the file or measure it again"
            )
        atoms = Atoms(held["values"].astype(np.float64), held["counts"].astype(np.int64), int(held["bits"]))
        if (found := atoms.sha256()) != metadata.get("sha256"):
            said = str(metadata.get("sha256"))
            raise InputError(
                f"{path} of sha256 {found[:16]}...", f"{said[:16]}...", "restore the file or measure it again"
            )
        return atoms, metadata
