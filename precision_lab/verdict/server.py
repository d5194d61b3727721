"""The sampler's process: it answers the judge's requests, one after another, see :mod:`.wire` and
:mod:`.child`.

The sampler runs here with all the rights of the user, and beside this code: it can read this module's
frames, and so the ticket of the request under way, and answer in our place. What an accident or a careless
library does is held off: the socket lies at a high number, is closed for programs that are started, and an
answer without the ticket is refused by the judge. What it can never do is run code in the judge, or be
waited for beyond the deadline.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import mmap
import os
import random
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError, described
from ..provenance import file_sha256, versions
from .caller import Caller, Misbehaved
from .misbehaviour import probe
from .speculator import SpeculativeCaller
from .wire import Message, packed, unpacked

CALLERS: dict[str, type[Caller] | type[SpeculativeCaller]] = {
    "sampler": Caller,
    "speculative": SpeculativeCaller,
}
MOST_REQUEST = 1 << 32  # bytes of arrays: the judge is trusted
SAID = 2000  # characters of one sentence


def main(number: int) -> None:
    """``number``: of the socket to the judge."""
    serve(out_of_reach(number))


def out_of_reach(number: int) -> int:
    """The same file at a number that closing or writing to the first few hundred does not touch; closed on
    exec."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for start in (random.SystemRandom().randrange(600, 900), most // 2):
        try:
            moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, start)
        except OSError:
            continue
        os.close(number)
        return moved
    os.set_inheritable(number, False)
    return number


def serve(number: int) -> None:
    """Answers until the other end closes; the first request, ``open``, names the sampler and the device."""
    channel = socket.socket(fileno=number)
    home = os.getpid()
    copies = mmap.mmap(-1, 1)  # shared with forked copies of this process
    served = Served(channel)
    while True:
        request = unpacked(lambda n: _taken(channel, n), MOST_REQUEST)
        answer = answered(request, served.answer)
        if os.getpid() != home:
            copies[0] = 1
            os._exit(0)
        if copies[0]:
            detail = "a call returned twice: in this process, and in a copy that it forked"
            answer = _faulty(request, Misbehaved("returns in two processes", detail))
        try:
            data = packed(answer)
        except (TypeError, ValueError) as error:
            data = packed(_faulty(request, Misbehaved("answers in no known form", described(error))))
        channel.sendall(data)


class Served:
    """The sampler that was opened, and what it is asked."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.caller: Caller | SpeculativeCaller | None = None

    def answer(self, request: Message) -> Any:
        """What the method of that name returns; an attribute's value, if it is no method."""
        arguments, options = request.value
        if self.caller is None:
            self.caller = CALLERS[options.pop("kind")].of(*arguments, **options)
            return {"name": self.caller.spec, "code": code_of(self.caller)}
        if request.kind == "probe" and isinstance(self.caller, Caller):
            called = packed(Message("called", None, request.ticket))
            vocab, seed = arguments
            return probe(self.caller, vocab, seed, lambda: self.channel.sendall(called))
        found = getattr(self.caller, request.kind)
        return found(*arguments, **options) if callable(found) else found


def answered(request: Message, answer: Callable[[Message], Any]) -> Message:
    """What ``answer(request)`` returns, or how it failed. Nothing is raised."""
    try:
        return Message("done", answer(request), request.ticket)
    except Misbehaved as fault:
        return _faulty(request, fault)
    except InputError as error:
        said = [str(part)[:SAID] for part in (error.got, error.expected, error.remedy)]
        return Message("input", said, request.ticket)
    except BaseException as error:
        what = "ends the process" if isinstance(error, SystemExit) else "raises"
        return _faulty(request, Misbehaved(what, f"{described(error)} during {request.kind}"))


def _faulty(request: Message, fault: Misbehaved) -> Message:
    said = [str(part)[:SAID] for part in (fault.what, fault.detail, fault.call)]
    return Message("misbehaved", said, request.ticket)


def _taken(channel: socket.socket, n: int) -> bytes:
    """The next n bytes. The process ends where the judge has closed its end."""
    parts = []
    while n:
        part = channel.recv(min(n, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def code_of(caller: Caller | SpeculativeCaller) -> str:
    """First 16 digits of the sha256 of the file that defines the sampler; of one of ours, of its name and
    our versions."""
    if caller.arrays == "house":
        return hashlib.sha256(repr((caller.spec, versions())).encode()).hexdigest()[:16]
    try:
        return file_sha256(Path(inspect.getsourcefile(inspect.unwrap(caller.sampler)) or ""))[:16]
    except (TypeError, OSError):
        return hashlib.sha256(caller.spec.encode()).hexdigest()[:16]
