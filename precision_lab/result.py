"""The evidence of a study: one tidy table and its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import InputError
from .files import atomic, read_json, write_json
from .statistics import Estimate, cluster_bootstrap
from .study import Analysis

HASHES = (
    "weights",
    "logits",
    "digest",
)  # columns of hexadecimal digits: read as text, though they may be all digits
RUN_SEED = "run_seed"  # column of joined tables: the seed of the run that a row is from


@dataclass(frozen=True)
class Result:
    """``frame``: tidy rows. ``manifest``: question, verdict, profile, seed, versions, device, commit (and
    the cells that earlier commits measured), seconds. ``rows``: the same with the committed long run, and
    ``analysis``: what they say; None for a result that was read back."""

    name: str
    frame: pd.DataFrame
    manifest: dict[str, Any]
    rows: pd.DataFrame | None = None
    analysis: Analysis | None = None

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


def with_committed_run(
    frame: pd.DataFrame, seed: int, keys: Sequence[str], committed: Path, name: str
) -> pd.DataFrame:
    """Rows of a run with ``seed`` and those of the committed long run of experiment ``name`` (in the folder
    ``committed``), if there is one; ``run_seed`` says of which seed. Rows of the same ``keys`` and seed are
    the same numbers and taken once.
    """
    fresh = frame.assign(**{RUN_SEED: seed})
    if not (committed / f"{name}.json").exists():
        return fresh
    known = load_result(committed, name)
    long = known.frame.assign(**{RUN_SEED: known.manifest["seed"]})
    return pd.concat([fresh, long], ignore_index=True).drop_duplicates([*keys, RUN_SEED])


def load_result(out: Path, name: str) -> Result:
    """Read back a saved result; InputError if its manifest is missing or damaged."""
    manifest, table = read_json(out / f"{name}.json"), out / f"{name}.csv"
    if not table.is_file():
        raise InputError(f"no file {table}", "the table beside its manifest", "run the experiment again")
    return Result(name, pd.read_csv(table, dtype=dict.fromkeys(HASHES, str)), manifest)


def averages(frame: pd.DataFrame, keys: list[str], columns: list[str]) -> pd.DataFrame:
    """One row for each value of ``keys``: ``n``, and the mean over rows of each column with the 95 %
    interval of a BCa bootstrap over rows (``<column>``, ``<column>_low``, ``<column>_high``); a row must be
    independent of the others."""
    found = []
    for key, part in frame.groupby(keys):
        row = dict(zip(keys, key, strict=True)) | {"n": len(part)}
        for name in columns:
            value = average(part[name].to_numpy())
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        found.append(row)
    return pd.DataFrame(found)


def average(values: np.ndarray) -> Estimate:
    """Mean of independent values, 95 % BCa bootstrap with a generator of its own: the same values, the same
    interval."""
    return cluster_bootstrap(lambda at: float(values[at].mean()), len(values), rng=np.random.default_rng(0))
