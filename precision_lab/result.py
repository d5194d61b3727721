"""The evidence of a study: one tidy table and its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .errors import InputError
from .files import atomic, read_json, write_json


@dataclass(frozen=True)
class Result:
    """``frame``: tidy rows. ``manifest``: question, verdict, profile, seed, versions, device, commit, seconds."""

    name: str
    frame: pd.DataFrame
    manifest: dict[str, Any]

    def save(self, out: Path) -> list[Path]:
        """Write ``<name>.csv`` and ``<name>.json``."""
        table, note = out / f"{self.name}.csv", out / f"{self.name}.json"
        with atomic(table) as partial:
            self.frame.to_csv(partial, index=False, float_format="%.9g", lineterminator="\n")
        write_json(note, self.manifest)
        return [table, note]


def estimates_table(found: Mapping[tuple, Any], names: Sequence[str]) -> pd.DataFrame:
    """One row an estimate: its key, under ``names``, and value, low, high and n."""
    rows = [[*key, e.value, e.low, e.high, e.n] for key, e in found.items()]
    return pd.DataFrame(rows, columns=[*names, "value", "low", "high", "n"])


def with_long_run(frame: pd.DataFrame, root: Path, name: str, keys: list[str]) -> pd.DataFrame:
    """``frame`` and the committed long run of the same experiment (``root``/results/full), if there is one; rows of the
    same ``keys`` are the same numbers and taken once."""
    if not (root / "results" / "full" / f"{name}.json").exists():
        return frame
    both = pd.concat([frame, load_result(root / "results" / "full", name).frame], ignore_index=True)
    return both.drop_duplicates(keys)


def load_result(out: Path, name: str) -> Result:
    """Read back a saved result; InputError if its manifest is missing or damaged."""
    manifest, table = read_json(out / f"{name}.json"), out / f"{name}.csv"
    if not table.is_file():
        raise InputError(f"no file {table}", "the table beside its manifest", "run the experiment again")
    return Result(name, pd.read_csv(table, dtype={"weights": str, "logits": str}), manifest)  # hashes are not numbers
