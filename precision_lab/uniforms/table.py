"""A measured table as a source like any other: values and counts, from a file that :meth:`Atoms.save`
wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..atoms import Atoms
from ..errors import InputError
from ..formats import FORMATS
from .agreement import device_name
from .source import Source
from .wide import torch_words


@dataclass(frozen=True)
class TableSource(Source):
    """Value of a word: the first whose cumulative count exceeds it. ``metadata``: what was measured, and
    where.

    Raises InputError for a table whose bits are not the source's, or whose values its format does not hold.
    """

    sha256: str
    table: Atoms = field(compare=False, repr=False)
    metadata: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.table.bits != self.bits:
            raise InputError(f"a table of {self.table.bits} bits", f"{self.bits}", "name the bits of the table")
        if not np.array_equal(self.format.round(self.table.values), self.table.values):
            raise InputError(
                f"values that {self.format.name} does not hold", "values of the format", "name a wider one"
            )

    @staticmethod
    def load(path: Path | str) -> TableSource:
        """From a file of :meth:`Atoms.save`; the metadata name the format ("fp16", "bf16", "fp32",
        "fp64")."""
        atoms, metadata = Atoms.load(path)
        if metadata.get("format") not in FORMATS:
            got = f"{path} of format {metadata.get('format')!r}"
            raise InputError(got, f"one of {', '.join(FORMATS)}", "write it with: precision-lab measure")
        name = str(metadata.get("what", Path(path).stem))
        format = FORMATS[metadata["format"]]
        return TableSource(name, format, atoms.bits, metadata["sha256"], atoms, metadata)

    @property
    def enumerable(self) -> bool:
        return True

    @property
    def emulated(self) -> str | None:
        """None where torch and the device are those that the table was measured with."""
        device = str(self.metadata.get("device", "an unnamed device"))
        version = str(self.metadata.get("torch", "of an unnamed version"))
        kind = "cpu" if device.startswith("cpu") else "cuda"
        here = kind == "cpu" or torch.cuda.is_available()
        if here and (device, version) == (device_name(kind), torch.__version__):
            return None
        return f"{self.name}, measured on {device}, torch {version}; not confirmed here"

    def from_words(self, words: Tensor) -> Tensor:
        if "words" not in self.table.cache:
            last = torch.from_numpy(np.cumsum(self.table.counts))
            self.table.cache["words"] = last, torch.from_numpy(self.table.values).to(self.dtype)
        last, values = self.table.cache["words"]
        return values.to(words.device)[torch.searchsorted(last.to(words.device), words.long(), right=True)]

    def native(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        return self.from_words(torch_words(shape, self.bits, rng=rng))

    def atoms(self) -> Atoms:
        return self.table
