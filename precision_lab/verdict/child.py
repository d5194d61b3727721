"""The sampler in a process of its own: it can hang, crash, print or lie on the line without the judge doing so.

    judge  --CONTROL-->  supervisor  --starts-->  sampler's process
      \\________________PROTOCOL________________________/

What is defended, whatever the sampler does with its pipes, signals and forks: nothing that it sends is run
or unpickled here (:mod:`.wire`: JSON and plain arrays of the dtype and shape that the request implies);
writing to it, reading from it and half a message all have the one deadline; and when the judge has its
verdict, or ends in whatever way, SIGTERM, Ctrl-C and SIGKILL included, its process group and every
descendant are killed (:mod:`.supervisor`; only the group where there is no /proc). What it prints goes to
stderr, escaped, up to :data:`.line.MOST_PRINTED` bytes.

What is not: the sampler runs with the user's rights, in the interpreter that answers for it
(:mod:`.server`). One that is written to cheat can read the ticket of a request from our frames and answer
with draws of its own making, as it could by drawing well only when it is judged; it can kill the judge, or
its supervisor first and then leave its group.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import numpy as np

from ..errors import InputError, printable
from ..laws.law import Law
from ..types import Guarantee, Int
from .caller import Misbehaved, _wrong_answer
from .line import Line
from .misbehaviour import CALLS
from .wire import Malformed, Message, packed

MOST_LAW = 1 << 24  # tokens of a law
START = 60.0  # seconds for Python, torch and the user's own imports


class Child:
    """A :class:`~.caller.Caller` of ``spec`` in a process of its own; every request within ``timeout`` seconds.

    ``call``: how it is called, as by ``Caller.of``.  ``threads``: see :class:`~.line.Line`.  ``start``:
    seconds more for the first, which imports the sampler. ``name``, ``code``: of the sampler, and the
    sha256 of its source, 16 digits. Errors: InputError as by ``Caller.of``; Misbehaved where a call is
    answered wrongly, in no known form, or not in time, or the process ends.
    """

    kind = "sampler"  # of the caller on the other side, see server.CALLERS

    def __init__(
        self,
        spec: str,
        timeout: float,
        device: str = "cpu",
        call: str | None = None,
        *,
        start: float | None = None,
        threads: int | None = None,
    ) -> None:
        if not 0 < timeout <= 1e6:
            raise InputError(f"timeout = {timeout}", "seconds above 0", "60 is the default")
        self.spec = spec
        self.timeout = timeout
        self.device = device
        self.stated = call
        self._line = Line(threads)
        try:
            seconds = (START if start is None else start) + timeout
            opened = self.ask("open", spec, device=device, call=call, kind=self.kind, _seconds=seconds)
            if not isinstance(opened, dict) or not all(type(opened.get(k)) is str for k in ("name", "code")):
                raise self._malformed("open")
            self.name, self.code = printable(opened["name"]), printable(opened["code"])
        except BaseException:
            self.close()
            raise

    def probe(self, vocab: int, seed: int) -> None:
        """:meth:`.caller.Caller.probe`."""
        self.ask("probe", vocab, seed, _calls=CALLS)

    def draw(
        self, stream: int, logits: np.ndarray, n: int, settings: dict[str, np.ndarray] | None = None
    ) -> Int:
        """:meth:`.caller.Caller.draw`."""
        options = {} if settings is None else {"settings": settings}
        return self.ids("draw", logits, n, stream, logits, n, **options)

    def fresh(self, seed: int, logits: np.ndarray, n: int, **options: Any) -> Int:
        """:meth:`.caller.Caller.fresh`."""
        return self.ids("fresh", logits, n, seed, logits, n, **options)

    @property
    def takes(self) -> frozenset[str]:
        """:attr:`.caller.Caller.takes`: names of the settings that the sampler takes for each row."""
        names = self.ask("takes")
        if not isinstance(names, list) or not all(type(name) is str for name in names):
            raise self._malformed("takes")
        return frozenset(printable(name) for name in names)

    @property
    def arrays(self) -> str:
        """:attr:`.caller.Caller.arrays`: the library whose arrays the sampler is given."""
        said = self.ask("arrays")
        if type(said) is not str:
            raise self._malformed("arrays")
        return printable(said)

    @property
    def note(self) -> str:
        """:attr:`.caller.Caller.note`."""
        said = self.ask("note")
        if type(said) is not str:
            raise self._malformed("note")
        return printable(said)

    def ids(self, method: str, logits: np.ndarray, n: int, *arguments: Any, **options: Any) -> Int:
        """A method that draws ``n`` tokens for each row of ``logits``: (n, rows) int64, looked at again on
        this side."""
        shape = (n, len(np.atleast_2d(logits)))
        found = self.ask(method, *arguments, _bytes=8 * shape[0] * shape[1], **options)
        if not isinstance(found, np.ndarray) or found.dtype != np.int64 or found.shape != shape:
            raise self._malformed(method)
        wrong = _wrong_answer(found, n, np.atleast_2d(logits))
        if wrong:
            raise Misbehaved(*wrong, self._shown())
        return found

    def ask(
        self,
        method: str,
        *arguments: Any,
        _seconds: float | None = None,
        _bytes: int = 0,
        _calls: int = 0,
        **options: Any,
    ) -> Any:
        """Any method, or attribute, of the Caller: JSON, arrays, and lists and mappings of them, there and
        back.

        ``_bytes``: of the arrays of the answer, at most.  ``_calls`` of the sampler that it may take, each
        of which has the time of one and is told (``called``).  A set comes back as a sorted list, a tuple
        as a list.
        """
        seconds = self.timeout if _seconds is None else _seconds
        ticket = secrets.token_hex(8)
        data = packed(Message(method, [list(arguments), options], ticket))
        try:
            deadline = time.monotonic() + seconds
            self._line.send(data, _bytes, deadline)
            answer = self._line.receive(_bytes, deadline)
            while answer.kind == "called" and answer.ticket == ticket and _calls:
                _calls -= 1
                answer = self._line.receive(_bytes, time.monotonic() + seconds)
        except TimeoutError:
            detail = f"no answer to {'import' if method == 'open' else method} within {seconds:g} s"
            raise self._fault("blocks", detail, "  # then draw: it does not return") from None
        except Malformed:
            raise self._malformed(method) from None
        except EOFError as ended:
            detail = f"{ended} during {'import' if method == 'open' else method}"
            raise self._fault("ends the process", detail) from None
        if answer.ticket != ticket:
            raise self._malformed(method, "an answer to no question")
        return self._said(method, answer)

    def _said(self, method: str, answer: Message) -> Any:
        if answer.kind == "done":
            return answer.value
        parts = answer.value
        if answer.kind not in ("input", "misbehaved") or not _three_texts(parts):
            raise self._malformed(method)
        first, second, third = (printable(part) for part in parts)
        if answer.kind == "input":
            raise InputError(first, second, third)
        raise Misbehaved(first, second, third or self._shown())

    def _malformed(self, method: str, why: str = "") -> Misbehaved:
        """What it sent has no form that we know. Nothing more is asked of it, and nothing of it is shown."""
        detail = f"what came back from {'import' if method == 'open' else method} is "
        return self._fault("answers in no known form", detail + (why or "not what was asked for"))

    def _fault(self, what: str, detail: str, then: str = "") -> Misbehaved:
        """A fault after which the process is of no use."""
        self.close()
        return Misbehaved(what, detail, self._shown() + then)

    def _shown(self) -> str:
        return f"from precision_lab import resolve; resolve({self.spec!r})"

    @property
    def lanes(self) -> int:
        return 1

    def law(self, logits: np.ndarray) -> Law:
        """:meth:`.caller.Caller.law`: as the sampler's process says it is, its numbers looked at again here."""
        found = self.ask("law", logits, _bytes=8 * MOST_LAW)
        if not isinstance(found, list) or len(found) != 4:
            raise self._malformed("law")
        log_probs, error, how, guarantee = found
        good = isinstance(log_probs, np.ndarray) and log_probs.dtype == np.float64 and log_probs.ndim == 1
        if not good or type(error) is not float or type(how) is not str or guarantee not in set(Guarantee):
            raise self._malformed("law")
        return Law(log_probs, printable(how), error, Guarantee(guarantee))

    def close(self) -> None:
        """End the process and all that it started. A second call does nothing."""
        self._line.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _three_texts(parts: Any) -> bool:
    return isinstance(parts, list) and len(parts) == 3 and all(type(part) is str for part in parts)
