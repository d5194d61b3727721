"""Evidence that outlives a run: an e-process on disk, so that every run adds draws and none is repeated.

One JSON file for each (sampler, code hash), written atomically, never unpickled. Numbers are hexadecimal floats, so a
resumed process has the very same capital. A changed null, family, weight or bet has another sha256 and is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import read_json, write_json
from ..laws.law import Law
from .e_process import EProcess

_VERSION = 1


class Ledger:
    """``Ledger(folder, sampler, code)``: the file folder/sampler-code.json. ``code``: hash of what made the draws.

    ``resume(process)`` gives a fresh process the recorded capital; ``record(process, run)`` writes it back under the name
    of a run that must be new: it names the words (a seed, a counter range), as the same words twice are no evidence.
    A new code hash opens a new account, with an error rate of its own.
    """

    def __init__(self, folder: Path | str, sampler: str, code: str) -> None:
        for name, value in (("sampler", sampler), ("code", code)):
            if not re.fullmatch(r"[\w.+-]+", value):
                raise InputError(f"{name} {value!r}", "letters, digits and . _ + -", "it becomes a file name")
        self.sampler, self.code = sampler, code
        self.path = Path(folder) / f"{sampler}@{code}.json"
        self._resumed: int | None = None  # n of the record that the process goes on from

    def resume(self, process: EProcess) -> EProcess:
        """The process, with the recorded n, capital and peak if there is a record. InputError unless it is fresh."""
        if process.n:
            raise InputError(f"a process of {process.n} draws", "a fresh one", "resume before the first update")
        kept = self._read(process)
        process.n, process.peak = kept["n"], float.fromhex(kept["peak"])
        process.log_wealth = np.array([float.fromhex(x) for x in kept["log_wealth"]])
        self._resumed = process.n
        return process

    def record(self, process: EProcess, run: str) -> None:
        """Write the process. InputError for a run that is recorded, no new draws, or a record that has moved on."""
        kept = self._read(process)
        if run in {entry["run"] for entry in kept["runs"]}:
            raise InputError(
                f"run {run!r}, which is recorded", "new words", "draw from another seed or counter range"
            )
        if self._resumed != kept["n"]:
            raise InputError(
                f"a process resumed at n = {self._resumed}", f"n = {kept['n']}", "resume, update, record"
            )
        if process.n <= kept["n"]:
            raise InputError("no new draws", "at least one", "update the process before it is recorded")
        entry = {"run": run, "n": process.n, "log_e": process.log_e.hex()}
        state = self._state(process) | {"runs": [*kept["runs"], entry]}
        write_json(self.path, state | {"sha256": _seal(state)})
        self._resumed = process.n

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
        kept = read_json(self.path)
        _check(kept, fresh, self.path)
        return dict(kept)


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


def _check(kept: Any, fresh: dict[str, Any], path: Path) -> None:
    """InputError unless ``kept`` is as it was written and speaks of the same sampler, code, null and family."""
    if not isinstance(kept, dict) or kept.get("sha256") != _seal(kept):
        raise InputError(f"{path}, corrupt", "a ledger as it was written", "restore it, or start a new one")
    for name in ("version", "sampler", "code", "null", "family"):
        if kept[name] != fresh[name]:
            raise InputError(
                f"{path} for another {name}",
                f"{name} {str(fresh[name])[:16]}",
                "start a new ledger: the test changed",
            )
