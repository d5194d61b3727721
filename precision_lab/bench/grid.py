"""The benchmark's cells and its table.

A cell is either the *times* of all rivals at one vocabulary and batch, in turn, or the *law* of one rival on
one row. Cells are kept on disk one by one, so that a long grid resumes by the same command. Laws do not
depend on the batch; :func:`table` puts the two together.

Timed are rows of logits that differ. On a CPU, of a large batch as many rows are drawn as hold
:data:`MOST_VALUES` values: the others are the same work again.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..devices import checked
from ..errors import InputError
from ..laws.law import target_law
from ..samplers import Sampler, with_tolerance
from ..statistics import total_variation
from ..store import Store
from ..study import Analysis, Cell, Row, Study
from ..targets import parse_target
from .rivals import OURS, REFERENCE, RIVALS, here
from .timing import Clock, best_rows, paired, peak_bytes, ratio

VOCABS = (4096, 32_768, 50_257, 128_256, 151_936, 262_144)
BATCHES = (1, 8, 128, 1024)
MOST_VALUES = (
    1 << 21
)  # logits of a batch that is timed on a CPU: 8 MB in float32, more than a core's own caches
TOLERANCE = 1e-7  # of a law: on any one probability
FOLDER = Path("runs/bench")
CLOCKED = (
    "microseconds",
    "ratio",
    "ratio_low",
    "ratio_high",
    "of_ours",
    "of_ours_low",
    "of_ours_high",
    "rounds",
    "rows_at_once",
    "peak_mib",
)


def rows_timed(vocab: int, batch: int, device: str = "cpu") -> int:
    """How many rows of a batch are drawn for its time: on a GPU all."""
    return min(batch, max(1, MOST_VALUES // vocab)) if device == "cpu" else batch


def time_cells(
    vocabs: Iterable[int], batches: Iterable[int], seconds: float, device: str, rivals: Iterable[str]
) -> list[Cell]:
    """The cells of the times of these rivals; of batches of which as many rows are timed, the first."""
    names = list(rivals)
    found = []
    for vocab in vocabs:
        seen = set()
        for batch in batches:
            rows = rows_timed(vocab, batch, device)
            if rows in seen:
                continue
            seen.add(rows)
            cell = {"kind": "times", "device": device, "vocab": vocab, "batch": batch}
            found.append(cell | {"seconds": seconds, "rivals": names})
    return found


def law_cells(vocabs: Iterable[int], rows: Iterable[str], device: str, rivals: Iterable[str]) -> list[Cell]:
    """The cells of the laws of these rivals, as far as they are known, on rows "zipf" or "normal"."""
    found = []
    for vocab in vocabs:
        for row in rows:
            for name in rivals:
                if RIVALS[name].recipe if device == "cpu" else RIVALS[name].cuda_recipe:
                    cell = {"kind": "law", "device": device, "vocab": vocab, "row": row, "sampler": name}
                    found.append(cell)
    return found


def measure(cell: Cell, rng: np.random.Generator) -> list[Row]:
    """The rows of one cell."""
    return times_of(cell, rng) if cell["kind"] == "times" else [law_of(cell)]


def times_of(cell: Cell, rng: np.random.Generator) -> list[Row]:
    """A row a rival: time of a token and its ratio to :data:`REFERENCE`, with what is behind them."""
    vocab, batch, device = cell["vocab"], cell["batch"], cell["device"]
    rows = rows_timed(vocab, batch, device)
    logits = torch.from_numpy(rng.normal(0.0, 3.0, (rows, vocab)).astype(np.float32)).to(checked(device))
    clock, seed = Clock.of(device), int(rng.integers(2**62))
    chosen = {}
    ways = {}
    peaks = {}
    for name in cell["rivals"]:
        rival = RIVALS[name]
        chosen[name] = best_rows(rival, logits, seed=seed, clock=clock)
        ways[name] = rival.prepare(logits, seed, chosen[name])
        ways[name]()
        peaks[name] = peak_bytes(ways[name], device)
    taken = paired(ways, clock=clock, seconds=cell["seconds"])
    found = []
    for name in cell["rivals"]:
        against = ratio(taken[name], taken[REFERENCE], rng=rng)
        ours = ratio(taken[name], taken.get(OURS, taken[REFERENCE]), rng=rng)
        found.append(
            {
                "kind": "times",
                "device": device,
                "vocab": vocab,
                "batch": batch,
                "sampler": name,
                "microseconds": float(np.median(taken[name])) / rows * 1e6,
                "ratio": against.value,
                "ratio_low": against.low,
                "ratio_high": against.high,
                "of_ours": ours.value if OURS in taken else math.nan,
                "of_ours_low": ours.low if OURS in taken else math.nan,
                "of_ours_high": ours.high if OURS in taken else math.nan,
                "rounds": len(taken[name]),
                "rows_at_once": chosen[name],
                "peak_mib": peaks[name] / 2**20,
                "rows_timed": rows,
                "clock": clock.name,
                "threads": torch.get_num_threads(),
            }
        )
    return found


def law_of(cell: Cell) -> Row:
    """One row: the distance of a rival's law from softmax of one row of logits, and what is behind it."""
    sampler = RIVALS[cell["sampler"]].sampler(cell["device"])
    assert sampler is not None
    logits = parse_target(f"{cell['row']}[vocab={cell['vocab']}]").logits.astype(np.float32)
    return cell | fidelity(sampler, logits)


def fidelity(sampler: Sampler, logits: np.ndarray) -> dict[str, Any]:
    """Total variation of the law from softmax, the bound on any probability of that law, its guarantee, and
    ceiling and bits of a draw. ``logits``: (vocab,) float32."""
    law = with_tolerance(sampler, tolerance=TOLERANCE, relative=np.inf).law(logits)
    return {
        "total_variation": total_variation(law, target_law(logits.astype(np.float64))),
        "law_error": law.error,
        "guarantee": str(law.guarantee),
        "ceiling": sampler.ceiling,
        "bits_per_draw": sampler.bits_per_draw(len(logits)),
    }


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Times beside laws: a row for each device, vocabulary, batch and sampler, with the total variation on
    each row of logits and the larger ``law_error``. The cheapest first."""
    times = frame[frame.kind == "times"].dropna(axis=1, how="all")
    laws = frame[frame.kind == "law"]
    key = ["device", "vocab", "sampler"]
    for row, part in laws.groupby("row", sort=False):
        names = {"total_variation": f"tv_{row}"}
        times = times.merge(part[[*key, *names]].rename(columns=names), on=key, how="left")
    if len(laws):
        same = {"law_error": "max", "guarantee": "first", "ceiling": "first", "bits_per_draw": "first"}
        times = times.merge(laws.groupby(key, as_index=False).agg(same), on=key, how="left")
    order = ["device", "vocab", "batch", "ratio"]
    return times.drop(columns="kind").sort_values(order, ignore_index=True)


def run(
    vocabs: tuple[int, ...],
    batches: tuple[int, ...],
    *,
    seconds: float = 5.0,
    device: str = "cpu",
    rows: tuple[str, ...] = ("zipf",),
    samplers: tuple[str, ...] | None = None,
    folder: Path = FOLDER,
    seed: int = 0,
) -> pd.DataFrame:
    """The table of a grid on this machine. ``seconds``: of timing in each cell, spread over its rivals.

    Cells that ``folder`` has are not measured again; progress goes to stderr. InputError for vocabularies
    and batches below 1, no seconds, a device that is not there, and rivals that are unknown here.
    """
    checked(device)
    _whole("vocab", vocabs)
    _whole("batch", batches)
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds {seconds}", "a number above 0", "5 is the default")
    rivals = [rival.name for rival in here(device, samplers)]
    for name in samplers or ():
        if name not in RIVALS:
            raise InputError(f"sampler {name!r}", "a name of the table", f"one of: {', '.join(RIVALS)}")
        if name not in rivals:
            raise InputError(f"{name} on {device}", "what runs here", f"it needs {RIVALS[name].package}")
    if REFERENCE not in rivals:
        rivals.append(REFERENCE)
    cells = time_cells(vocabs, batches, seconds, device, rivals)
    cells += law_cells(vocabs, rows, device, rivals)
    study = replace(_STUDY, name=f"bench_{device}")
    store = Store(folder, study, seed)
    found: list[Row] = []
    for done, cell in enumerate(cells, 1):
        record = store.get(cell)
        if record is None:
            started = time.monotonic()
            record = store.put(cell, measure(cell, study.rng(cell, seed)), time.monotonic() - started)
        what = " ".join(f"{k}={v}" for k, v in cell.items() if k not in ("rivals", "seconds"))
        print(f"{done}/{len(cells)}  {what}  {record['seconds']:.1f} s", file=sys.stderr, flush=True)
        found += record["rows"]
    return table(pd.DataFrame(found))


def _whole(name: str, values: tuple[int, ...]) -> None:
    for value in values:
        if value < 1:
            raise InputError(f"--{name} {value}", "whole numbers from 1 on", f"leave {value} out")
    if not values:
        raise InputError(f"--{name} without a number", "one or more", "for example 4096,50257")


_STUDY = Study(
    "bench",
    "What does a faithful draw cost?",
    cells=lambda profile: [],
    measure=measure,
    analyse=lambda rows: Analysis(),
    figure=lambda rows, analysis: None,
)
