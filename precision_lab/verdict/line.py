"""The sockets between the judge and the sampler's process, and the pipe of what that prints, all with one
deadline.

Imports no torch: what is here knows bytes and processes only. Who talks to whom: :mod:`.child`.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from ..errors import InputError, printable
from .wire import LENGTH, MOST_HEADER, Malformed, Message, unpacked

GRACE = 2.0  # seconds for an exit code to come after the line is closed, and for a supervisor to end
MOST_PRINTED = 1 << 20  # bytes of the sampler's own words that are passed on
CHUNK = 1 << 16
SAMPLER_SIDE = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from precision_lab.verdict.server import main; main(int(sys.argv[1]))"
)


def sampler_side(protocol: int) -> list[str]:
    """The command of the sampler's process, whose socket has the number ``protocol``."""
    warnings = [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, "-P", *warnings, "-c", SAMPLER_SIDE, str(protocol), json.dumps(sys.path)]


class Line:
    """The sockets to the sampler's process and to its supervisor, and the pipe of what it prints.

    ``threads``: of the sampler's process, where the user's OMP_NUM_THREADS does not say; None: as many as it takes.
    """

    def __init__(self, threads: int | None = None) -> None:
        if not hasattr(os, "fork"):
            raise InputError(
                f"a sampler to be run apart on {sys.platform}", "Linux or macOS", "use the pytest fixture"
            )
        self._buffer = bytearray()
        self._most = 0
        self._printed = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._exit_code: int | None = None
        self._group: int | None = None
        self._control, control = socket.socketpair()
        self._protocol, protocol = socket.socketpair()
        self._output, output = os.pipe()
        supervisor = Path(__file__).with_name("supervisor.py")
        numbers = [str(control.fileno()), str(protocol.fileno())]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(supervisor), *numbers, *sampler_side(protocol.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(control.fileno(), protocol.fileno()),
            start_new_session=True,
            env=os.environ if threads is None else {"OMP_NUM_THREADS": str(threads), **os.environ},
        )
        control.close()
        protocol.close()
        os.close(output)
        self._selector = selectors.DefaultSelector()
        for file, read in (
            (self._control, self._hear_supervisor),
            (self._protocol, self._hear_sampler),
            (self._output, self._pass_on),
        ):
            os.set_blocking(file if isinstance(file, int) else file.fileno(), False)
            self._selector.register(file, selectors.EVENT_READ, read)
        self._closed = False

    def receive(self, most: int, deadline: float) -> Message:
        """One message with at most ``most`` bytes of arrays, all of it by ``deadline`` (monotonic).

        TimeoutError; EOFError, with how it ended, where the other end is closed; Malformed."""
        return unpacked(lambda n: self._take(n, deadline), most)

    def send(self, data: bytes, most: int, deadline: float) -> None:
        """All of ``data`` by ``deadline``. ``most``: bytes of arrays of an answer. Errors as of
        :meth:`receive`; Malformed where something came unasked."""
        if self._closed:
            raise EOFError("the process has ended")
        if self._buffer:
            raise Malformed("bytes that nobody asked for")
        self._most = 2 * (LENGTH + MOST_HEADER) + most
        left = memoryview(data)
        self._selector.modify(self._protocol, selectors.EVENT_READ | selectors.EVENT_WRITE, self._hear_sampler)
        try:
            while left:
                if selectors.EVENT_WRITE & self._turn(deadline):
                    with contextlib.suppress(BlockingIOError):
                        left = left[self._protocol.send(left[:CHUNK]) :]
        except ConnectionError:
            raise EOFError(self._ending()) from None
        finally:
            self._selector.modify(self._protocol, selectors.EVENT_READ, self._hear_sampler)

    def _take(self, n: int, deadline: float) -> bytes:
        """The next n bytes that the sampler's process sends."""
        while len(self._buffer) < n:
            self._turn(deadline)
        taken = bytes(self._buffer[:n])
        del self._buffer[:n]
        return taken

    def _turn(self, deadline: float) -> int:
        """One look at all that may have come. Returns whether the line to the sampler can be written to."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        writable = 0
        for key, events in self._selector.select(left):
            if events & selectors.EVENT_READ:
                key.data()
            if key.fileobj is self._protocol:
                writable = events & selectors.EVENT_WRITE
        return writable

    def _hear_sampler(self) -> None:
        try:
            data = self._protocol.recv(CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError(self._ending())
        self._buffer += data
        if len(self._buffer) > self._most:
            raise Malformed("more bytes than any answer has")

    def _hear_supervisor(self) -> None:
        """``pid N``, ``exit N``; or it has ended itself, which is the end of what it guards."""
        try:
            data = self._control.recv(CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(self._control)
            if self._exit_code is None:
                raise EOFError("the process that guards it was ended")
        for word, number in _pairs(data):
            if word == b"pid":
                self._group = number
            else:
                self._exit_code = number

    def _pass_on(self) -> None:
        """What the sampler printed, to stderr; no more than :data:`MOST_PRINTED` bytes of it all."""
        try:
            data = os.read(self._output, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(self._output)
            return
        room = max(MOST_PRINTED - self._printed, 0)
        if room:
            text = self._decoder.decode(data[:room])
            print(printable(text, kept="\n\t\r"), end="", file=sys.stderr, flush=True)
        if self._printed <= MOST_PRINTED < self._printed + len(data):
            said = (
                f"\nprecision-lab: the sampler printed more than {MOST_PRINTED:,} bytes; the rest is left out"
            )
            print(said, file=sys.stderr, flush=True)
        self._printed += len(data)

    def _ending(self) -> str:
        """How the process ended, in words; that it did not, if no exit code comes."""
        until = time.monotonic() + GRACE
        while self._exit_code is None and time.monotonic() < until:
            try:
                data = self._control.recv(CHUNK)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            except OSError:
                break
            if not data:
                break
            self._exit_code = dict(_pairs(data)).get(b"exit", self._exit_code)
        if self._exit_code is None:
            return "the process closed its line to the judge"
        if self._exit_code >= 0:
            return f"the process ended with exit code {self._exit_code}"
        with contextlib.suppress(ValueError):
            return f"the process was ended by {signal.Signals(-self._exit_code).name}"
        return f"the process was ended by signal {-self._exit_code}"

    def close(self) -> None:
        """The supervisor kills all that it started when its line closes; where it cannot any more, we kill
        what we can."""
        if self._closed:
            return
        self._closed = True
        self._hear_the_rest()
        self._selector.close()
        for line in (self._control, self._protocol):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
        os.close(self._output)
        try:
            self._process.wait(3 * GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode and self._group is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._group, signal.SIGKILL)

    def _hear_the_rest(self) -> None:
        """What is printed already, and the process id if it came but now. Nothing is waited for."""
        for _ in range(2 * MOST_PRINTED // CHUNK):
            ready = [key for key, _ in self._selector.select(0) if key.fileobj is not self._protocol]
            if not ready or self._printed > MOST_PRINTED:
                return
            for key in ready:
                with contextlib.suppress(OSError, EOFError):
                    key.data()


def _pairs(data: bytes) -> list[tuple[bytes, int]]:
    """``word number`` of each line."""
    lines = [line.split() for line in data.splitlines()]
    return [(line[0], int(line[1])) for line in lines if len(line) == 2]
