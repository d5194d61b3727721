"""The evidence of many runs on a ledger: one e-process for each target, each seed of each code counted once."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ..statistics import Counts, EProcess, Ledger, TestResult, alternative_laws
from ..statistics.ledger import law_sha256
from .plan import Plan, Question


class Evidence:
    """The accounts in ``folder`` of sampler ``name`` with ``code``, for one run: ``begin``, ``add`` each
    target, ``finish``.

    A run is a seed. Its key is what decides which of the seed's words are drawn for what: the targets in
    order, and the draws of each. A run that was killed goes on by the same command; see
    :mod:`~precision_lab.statistics.ledger`.
    """

    def __init__(self, folder: Path, name: str, code: str, asked: Plan, seed: int) -> None:
        self.folder, self.asked = folder, asked
        self.name, self.code = Path(name).name, code or "unknown"
        self.run = f"seed-{seed}"
        parts = [f"{law_sha256(question.law)} {question.n} {question.length}" for question in asked.questions]
        self.key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def begin(self) -> None:
        """InputError where the seed is used up, or was begun by another command."""
        for question in self.asked.questions:
            self._account(question).begun(self.run, self.key)

    def add(self, question: Question, count: Counts) -> TestResult:
        """All recorded runs of this code on this target, and this one: p = 1 / max e, valid at any stopping."""
        process = EProcess(question.law, alternative_laws(question.law))
        self._account(question).add(process, count, self.run, self.key)
        level = self.asked.level
        return TestResult(
            process.p_value, process.log_e, process.n, float("nan"), level, "ledger", "not known in advance"
        )

    def finish(self) -> None:
        """The verdict is there: the seed is used up."""
        for question in self.asked.questions:
            self._account(question).finish(self.run)

    def _account(self, question: Question) -> Ledger:
        return Ledger(self.folder, re.sub(r"[^\w.+-]+", "_", f"{self.name}-{question.target.name}"), self.code)
