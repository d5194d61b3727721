"""Evidence that outlives a run: an e-process on disk, so that every run adds draws and none is repeated.

One JSON file for each (sampler, code hash), written atomically, never unpickled. Numbers are hexadecimal
floats, so a resumed process has the very same capital. A changed null, family, weight or bet has another
sha256 and is refused.

Writers at once: everything that writes reads the file, compares and replaces it under one lock of the
folder, so that a record which was written is never lost. ``add`` bets on counts from whatever capital is on
disk then, and so takes in what others recorded while the draws were made; ``record`` refuses a process that
was resumed before that.

A run that is killed: each draw of words (a seed) may be counted once. An entry holds the run's name, the
``key`` of the command that draws (what decides which words are used for what) and whether the run is
``complete``, which the run writes last of all, with its verdict in hand. ``begun``, asked before the first
draw, refuses a run that is complete and one of another key, for that would count some of the words twice; a
run of the same key that is not complete goes on: it makes the same draws again, and ``add`` counts only
what is not recorded. Entries of ledgers that know no keys are complete. Another code hash is another file:
the same seed is new there, as other code turns the same words into other draws.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import locked, read_json, write_json
from ..laws.law import Law
from .counts import Counts
from .e_process import EProcess

_VERSION = 1


class Ledger:
    """``Ledger(folder, sampler, code)``: the file folder/sampler-code.json. ``code``: hash of what made the
    draws.

    ``begun(run, key)`` before the draws, ``add(process, counts, run, key)`` after them, ``finish(run)`` at
    the end. Or ``resume(process)``, which gives a fresh process the recorded capital, and ``record(process,
    run)``, which writes it back. A run's name must be new: it names the words (a seed, a counter range), as
    the same words twice are no evidence. A new code hash opens a new account, with an error rate of its
    own.
    """

    def __init__(self, folder: Path | str, sampler: str, code: str) -> None:
        for name, value in (("sampler", sampler), ("code", code)):
            if not re.fullmatch(r"[\w.+-]+", value):
                raise InputError(f"{name} {value!r}", "letters, digits and . _ + -", "it becomes a file name")
        self.sampler, self.code = sampler, code
        self.path = Path(folder) / f"{sampler}@{code}.json"
        self._resumed: int | None = None  # n of the record that the process goes on from

    def begun(self, run: str, key: str) -> bool:
        """Whether this very run has been recorded and not finished. InputError for a run that is finished,
        or was begun with another key."""
        found = _entry(self._sound(), run) if self.path.exists() else None
        if found is not None and not _goes_on(found, key):
            raise _used(run)
        return found is not None

    def add(self, process: EProcess, counts: Counts, run: str, key: str) -> EProcess:
        """The fresh process with all that is recorded and, once, ``counts``, which are recorded with it.
        InputError for a run that is finished, or was begun with another key."""
        with locked(self.path.parent):
            kept = self._read(process)
            self._load(process, kept)
            found = _entry(kept, run)
            if found is None:
                process.update(counts)
                self._write(process, kept, {"run": run, "key": key, "complete": False})
            elif not _goes_on(found, key):
                raise _used(run)
        return process

    def finish(self, run: str) -> None:
        """Say that the run is complete: its words are used up. Nothing where the run is not recorded."""
        with locked(self.path.parent):
            if not self.path.exists():
                return
            kept = self._sound()
            found = _entry(kept, run)
            if found is not None:
                found["complete"] = True
                self._seal(kept)

    def resume(self, process: EProcess) -> EProcess:
        """The process, with the recorded n, capital and peak if there is a record. InputError unless it is
        fresh."""
        self._load(process, self._read(process))
        return process

    def _load(self, process: EProcess, kept: dict[str, Any]) -> None:
        if process.n:
            raise InputError(f"a process of {process.n} draws", "a fresh one", "resume before the first update")
        process.n, process.peak = kept["n"], float.fromhex(kept["peak"])
        process.log_wealth = np.array([float.fromhex(x) for x in kept["log_wealth"]])
        self._resumed = process.n

    def record(self, process: EProcess, run: str) -> None:
        """Write the process. InputError for a run that is recorded, no new draws, or a record that has
        moved on."""
        with locked(self.path.parent):
            self._record(process, run)

    def _record(self, process: EProcess, run: str) -> None:
        kept = self._read(process)
        if _entry(kept, run) is not None:
            raise _used(run)
        if self._resumed != kept["n"]:
            raise InputError(
                f"a process resumed at n = {self._resumed}", f"n = {kept['n']}", "resume, update, record"
            )
        if process.n <= kept["n"]:
            raise InputError("no new draws", "at least one", "update the process before it is recorded")
        self._write(process, kept, {"run": run})

    def _write(self, process: EProcess, kept: dict[str, Any], entry: dict[str, Any]) -> None:
        entry |= {"n": process.n, "log_e": process.log_e.hex()}
        self._seal(self._state(process) | {"runs": [*kept["runs"], entry]})
        self._resumed = process.n

    def _seal(self, state: dict[str, Any]) -> None:
        write_json(self.path, state | {"sha256": _seal(state)})

    def _state(self, process: EProcess) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "sampler": self.sampler,
            "code": self.code,
            "null": law_sha256(process.null),
            "family": family_sha256(process),
            "n": process.n,
            "peak": float(process.peak).hex(),
            "log_wealth": [float(x).hex() for x in process.log_wealth],
        }

    def _read(self, process: EProcess) -> dict[str, Any]:
        """The record, checked whole; that of a fresh process where there is no file."""
        fresh = self._state(EProcess(process.null, process.alternatives, process.weights, bet=process.bet))
        if not self.path.exists():
            return fresh | {"runs": []}
        kept = self._sound()
        _check(kept, fresh, self.path)
        return kept

    def _sound(self) -> dict[str, Any]:
        """The file as it was written. InputError for any other."""
        kept = read_json(self.path)
        if not isinstance(kept, dict) or kept.get("sha256") != _seal(kept):
            raise InputError(
                f"{self.path}, corrupt", "a ledger as it was written", "restore it, or start a new one"
            )
        return kept


def _entry(kept: dict[str, Any], run: str) -> dict[str, Any] | None:
    """The run's own entry."""
    found: list[dict[str, Any]] = [entry for entry in kept["runs"] if entry["run"] == run]
    return found[0] if found else None


def _goes_on(entry: dict[str, Any], key: str) -> bool:
    """Whether a run with this key may go on from the entry."""
    return entry.get("key") == key and entry.get("complete") is False


def _used(run: str) -> InputError:
    return InputError(f"run {run!r}, which is recorded", "new words", "draw from another seed or counter range")


def law_sha256(law: Law) -> str:
    """Of the log probabilities, as little-endian float64, and the error bound."""
    return hashlib.sha256(law.log_probs.astype("<f8").tobytes() + float(law.error).hex().encode()).hexdigest()


def family_sha256(process: EProcess) -> str:
    """Of the alternatives in order, their weights and the bet."""
    parts = [law_sha256(law) for law in process.alternatives]
    parts += [float(weight).hex() for weight in process.weights] + [float(process.bet).hex()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _seal(record: dict[str, Any]) -> str:
    """sha256 of all but the seal itself."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check(kept: dict[str, Any], fresh: dict[str, Any], path: Path) -> None:
    """InputError unless ``kept`` speaks of the same sampler, code, null and family."""
    for name in ("version", "sampler", "code", "null", "family"):
        if kept[name] != fresh[name]:
            raise InputError(
                f"{path} for another {name}",
                f"{name} {str(fresh[name])[:16]}",
                "start a new ledger: the test changed",
            )
