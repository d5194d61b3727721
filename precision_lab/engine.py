"""Run a study: cells on disk are kept, the others are measured, in this process or several; then table and
verdict."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from types import ModuleType

import pandas as pd

from .devices import described, of_run
from .errors import InputError, PrecisionLabError, unknown_name
from .files import check_writable
from .provenance import git_commit, versions
from .result import Result, with_committed_run
from .store import Store
from .study import Analysis, Cell, Study
from .types import Profile

_BESIDE = Path(__file__).parent.parent / "experiments"  # a checkout; otherwise the folder the user stands in
FOLDER = _BESIDE if _BESIDE.is_dir() else Path("experiments")


def experiments(folder: Path = FOLDER) -> dict[str, Path]:
    """Name -> file of every experiment in the folder."""
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


@cache
def load_study(name: str, folder: Path = FOLDER) -> Study:
    """The STUDY literal of one experiment file; the file is executed once per process."""
    known = experiments(folder)
    if name not in known:
        raise unknown_name("experiment", name, known)
    spec = importlib.util.spec_from_file_location(f"experiments.{name}", known[name])
    if spec is None or spec.loader is None:
        raise InputError(f"{known[name]}", "a Python file", "check the path")
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise InputError(
            f"{known[name]} without a STUDY", "STUDY = Study(...)", "define it at the end of the file"
        )
    return study


@cache
def _commit() -> str | None:
    """The commit whose code this process has in memory: asked once, near its start."""
    return git_commit()


def analysed(
    study: Study, frame: pd.DataFrame, seed: int, folder: Path = FOLDER
) -> tuple[pd.DataFrame, Analysis]:
    """The rows that the study's analysis takes, with the committed long run of results/full where it names
    ``keys``, and the analysis. ``folder``: where the experiments are; results/ is beside it."""
    rows = frame
    if study.keys:
        rows = with_committed_run(frame, seed, study.keys, folder.parent / "results" / "full", study.name)
    return rows, study.analyse(rows)


def _measure(name: str, folder: Path, cell: Cell, seed: int, out: Path) -> dict:
    """One cell, in whatever process; the record goes to disk before it is returned."""
    study = load_study(name, folder)
    if (found := Store(out, study, seed).get(cell)) is not None:  # another run on the same folder was faster
        return found
    started = time.monotonic()
    rows = study.measure(cell, study.rng(cell, seed))
    return Store(out, study, seed).put(cell, rows, time.monotonic() - started, commit=_commit())


def _end_with_parent() -> None:
    """In a worker: a thread that ends it when the process that started it is gone, by whatever signal."""
    parent = parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(
    name: str, profile: Profile, out: Path, *, seed: int = 0, jobs: int = 1, folder: Path = FOLDER
) -> tuple[Result, list[Path]]:
    """Measure and save one experiment. Interrupt it at will: the same command resumes.

    Returns the result and the files written: table and manifest. Raises InputError for a name that
    is not an experiment and for jobs < 1, OSError before anything is measured where ``out`` cannot be written
    to, PrecisionLabError where a worker is killed. Workers end with this process.
    """
    if jobs < 1:
        raise InputError(f"jobs = {jobs}", "at least 1", "use -j 1")
    study = load_study(name, folder)
    cells, store, started = study.cells(profile), Store(out, study, seed), time.monotonic()
    check_writable(store.folder)
    records = {i: found for i, cell in enumerate(cells) if (found := store.get(cell)) is not None}
    kept, todo = len(records), [i for i in range(len(cells)) if i not in records]

    def report(i: int) -> None:
        what = " ".join(f"{k}={v}" for k, v in cells[i].items())
        print(
            f"{name}: {len(records)}/{len(cells)}  {what}  {records[i]['seconds']:.1f} s",
            file=sys.stderr,
            flush=True,
        )

    if kept:
        print(f"{name}: {kept}/{len(cells)} cells kept from {store.folder}", file=sys.stderr, flush=True)
    if jobs == 1:
        for i in todo:
            records[i] = _measure(name, folder, cells[i], seed, out)
            report(i)
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
            futures = {pool.submit(_measure, name, folder, cells[i], seed, out): i for i in todo}
            try:
                for future in as_completed(futures):
                    records[futures[future]] = future.result()
                    report(futures[future])
            except BrokenProcessPool:
                raise PrecisionLabError(
                    f"a worker was killed, perhaps for want of memory; {len(records)} of {len(cells)} cells are "
                    "measured and kept; the same command resumes"
                ) from None
            except BaseException:  # a failed cell or Ctrl-C: start no further ones; what is done is on disk
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    frame = pd.DataFrame([row for i in range(len(cells)) for row in records[i]["rows"]])
    rows, analysis = analysed(study, frame, seed, folder)
    manifest = {
        "experiment": name,
        "question": study.question,
        "verdict": analysis.text(),
        "findings": [finding.record() for finding in analysis.findings],
        "profile": profile.value,
        "seed": seed,
        "cells": len(cells),
        "seconds_measuring": round(sum(record["seconds"] for record in records.values()), 1),
        "seconds_this_run": round(time.monotonic() - started, 1),
        "device": described(of_run()),
        "versions": versions(),
        "commit": git_commit(),
        "cells_by_commit": dict(Counter(record.get("commit") or "unknown" for record in records.values())),
        "format": 1,
    }
    result = Result(name, frame, manifest, rows, analysis)
    return result, result.save(out)
