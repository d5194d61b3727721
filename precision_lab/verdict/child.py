"""The sampler in a process of its own: it can hang, crash or print without the command doing so."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..laws.law import Law
from ..types import Int
from .caller import Caller, Misbehaved

START = 60.0  # seconds for Python, torch and the user's own imports


class Child:
    """A :class:`~.caller.Caller` of ``spec`` in a spawned process; every request within ``timeout`` seconds.

    ``code``: sha256 of the sampler's source, 16 digits. Errors: InputError as by ``Caller.of``; Misbehaved
    where a call is answered wrongly, or not in time, or the process ends.
    """

    def __init__(self, spec: str, timeout: float, device: str = "cpu") -> None:
        if not 0 < timeout <= 1e6:
            raise InputError(f"timeout = {timeout}", "seconds above 0", "60 is the default")
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, spec, device), daemon=True)
        self._process.start()
        theirs.close()
        self.spec, self.timeout = spec, timeout
        self.name, self.code = self._answer("import", START + timeout)

    def probe(self, vocab: int, seed: int) -> None:
        self._request("probe", vocab, seed)

    def draw(self, stream: int, logits: np.ndarray, n: int) -> Int:
        return self._request("draw", stream, logits, n)

    @property
    def lanes(self) -> int:
        return 1

    def law(self, logits: np.ndarray) -> Law:
        return self._request("law", logits)

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, *message: Any) -> Any:
        with contextlib.suppress(OSError):  # it has ended: the answer says so
            self._connection.send(message)
        return self._answer(message[0], self.timeout)

    def _answer(self, what: str, seconds: float) -> Any:
        try:
            if not self._connection.poll(seconds):
                self.close()
                call = f"from precision_lab import resolve; resolve({self.spec!r})  # then draw: it does not return"
                raise Misbehaved("blocks", f"no answer to {what} within {seconds:g} s", call)
            kind, *answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            detail = f"the process ended with exit code {self._process.exitcode} during {what}"
            raise Misbehaved(
                "ends the process", detail, f"from precision_lab import resolve; resolve({self.spec!r})"
            ) from None
        if kind == "input":
            raise InputError(*answer)
        if kind == "misbehaved":
            raise Misbehaved(*answer)
        return answer[0]


def serve(connection: Connection, spec: str, device: str = "cpu") -> None:
    """Answers until the other end closes. What the sampler prints goes to stderr: stdout is for data."""
    sys.stdout.flush()
    os.dup2(2, 1)
    try:
        caller = Caller.of(spec, device=device)
        connection.send(("done", (caller.spec, code_of(caller))))
    except InputError as error:
        connection.send(("input", error.got, error.expected, error.remedy))
        return
    while True:
        try:
            what, *arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("done", getattr(caller, what)(*arguments)))
        except Misbehaved as fault:
            connection.send(("misbehaved", fault.what, fault.detail, fault.call))
        except InputError as error:
            connection.send(("input", error.got, error.expected, error.remedy))


def code_of(caller: Caller) -> str:
    """First 16 digits of the sha256 of the file that defines the sampler; of one of ours, of its name and
    our versions."""
    import hashlib
    import inspect

    from ..provenance import file_sha256, versions

    if caller.arrays == "house":
        return hashlib.sha256(repr((caller.spec, versions())).encode()).hexdigest()[:16]
    try:
        return file_sha256(Path(inspect.getsourcefile(inspect.unwrap(caller.sampler)) or ""))[:16]
    except (TypeError, OSError):
        return hashlib.sha256(caller.spec.encode()).hexdigest()[:16]
