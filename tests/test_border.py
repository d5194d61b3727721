"""The border between the judge and the sampler's process: whatever comes over it is a verdict, in time, and
nothing is left.

Most samplers' sides here are small scripts without torch that speak the protocol by hand, so that each
costs a tenth of a second; those that must be real run in a real child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from precision_lab.errors import InputError, described, printable
from precision_lab.verdict import line as border
from precision_lab.verdict.caller import Caller, Misbehaved, ramp
from precision_lab.verdict.check import check
from precision_lab.verdict.child import Child
from precision_lab.verdict.server import Served, answered
from precision_lab.verdict.wire import MOST_HEADER, Malformed, Message, packed, unpacked

UNKNOWN = "answers in no known form"
ROWS = 2
VOCAB = 5
N = 3
LOGITS = np.zeros((ROWS, VOCAB), dtype=np.float32)
SLOW = 4.0  # seconds beyond the timeout that a verdict may take here, on a busy machine

# A sampler's side without torch: ``request()``, ``answer(header, ...)``; it has opened when BODY runs.
SIDE = """
import json, math, os, pickle, signal, socket, subprocess, sys, time
line = socket.socket(fileno=int(sys.argv[1]))
SIZES = {"<f4": 4, "<i8": 8}
def take(n):
    data = b""
    while len(data) < n:
        part = line.recv(n - len(data))
        if not part:
            os._exit(0)
        data += part
    return data
def request():
    header = json.loads(take(int.from_bytes(take(4), "big")))
    for dtype, shape in header["arrays"]:
        take(SIZES[dtype] * math.prod(shape))
    return header
def framed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(4, "big") + text + data
def answer(asked, value, kind="done", arrays=(), data=b"", ticket=None):
    ticket = asked["ticket"] if ticket is None else ticket
    line.sendall(framed({"ticket": ticket, "kind": kind, "value": value, "arrays": list(arrays)}, data))
def ids(asked, *tokens):
    data = b"".join(token.to_bytes(8, "little") for token in tokens)
    answer(asked, {"array": 0}, arrays=[["<i8", [3, 2]]], data=data)
answer(request(), {"map": {"name": "fake", "code": "0"}})
"""


def side(body: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", SIDE + textwrap.dedent(body)]


@pytest.fixture
def speaks(monkeypatch):
    """``speaks(body)``: the next Child meets a sampler's side that runs ``body`` once it has opened."""

    def set_body(body: str) -> None:
        command = side(body)
        monkeypatch.setattr(border, "sampler_side", lambda protocol: [*command, str(protocol)])

    return set_body


def alive(pid: int) -> bool:
    """A process that is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def gone(pids: list[int], seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


class TestWire:
    VALUES = (
        None,
        True,
        -7,
        2**70,
        0.1,
        float("inf"),
        "tőken ✓",
        [1, [2, "x"]],
        {"array": 1, "map": {}},
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.zeros((0, 4), dtype=np.float32),
        np.array(3.5),
        {"temperature": np.array([0.5, 2.0]), "seed": np.array([0, 2**64 - 1], dtype=np.uint64)},
    )

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_what_goes_in_comes_out(self, value):
        found = round_trip(Message("done", value, "t"), most=1000)
        assert (found.kind, found.ticket) == ("done", "t")
        assert same(found.value, value)

    def test_sets_and_tuples_are_lists(self):
        found = round_trip(Message("done", [frozenset({"b", "a"}), (1, np.int64(2))], "t"), most=0)
        assert found.value == [["a", "b"], [1, 2]]

    def test_columns_and_big_endian_come_as_rows_and_little_endian(self):
        columns = np.arange(6, dtype=">i4").reshape(3, 2).T
        found = round_trip(Message("done", columns, "t"), most=24).value
        assert found.dtype == np.dtype("<i4")
        np.testing.assert_array_equal(found, columns)

    @pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["a"]), 1j, b"bytes"])
    def test_what_has_no_form_does_not_go_in(self, value):
        with pytest.raises(TypeError):
            packed(Message("done", value, "t"))

    def test_a_long_header_does_not_go_in(self):
        with pytest.raises(ValueError, match="header"):
            packed(Message("done", "x" * MOST_HEADER, "t"))

    def test_no_byte_beyond_the_bound_is_read(self):
        """80 bytes of arrays where 79 may come: the reader stops at the header."""
        data = packed(Message("done", np.arange(10), "t"))
        reader = Bytes(data)
        with pytest.raises(Malformed, match="more than 79 bytes"):
            unpacked(reader.take, 79)
        assert reader.at == len(data) - 80
        assert same(unpacked(Bytes(data).take, 80).value, np.arange(10))

    def test_random_damage_is_malformed_or_another_message(self):
        """10,000 messages with up to 8 bytes changed: a value or Malformed, and no other exception."""
        rng = np.random.default_rng(0)
        data = packed(Message("done", {"ids": np.arange(10), "names": ["a", 1, None]}, "t"))
        refused = 0
        for _ in range(10_000):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), rng.integers(1, 9)):
                damaged[at] = rng.integers(256)
            try:
                unpacked(Bytes(bytes(damaged) + bytes(MOST_HEADER)).take, 1000)
            except Malformed:
                refused += 1
        assert refused > 1000


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        self.at += n
        return self.data[self.at - n : self.at]


def round_trip(message: Message, most: int) -> Message:
    return unpacked(Bytes(packed(message)).take, most)


def same(a, b) -> bool:
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in b)
    return type(a) is type(b) and a == b


# What comes back from a draw of 3 tokens for each of 2 rows -> what the verdict says.
ANSWERS = {
    "junk": ("line.sendall(b'\\x00\\x00\\x00\\x08garbage!')", UNKNOWN),
    "junk of a megabyte": ("line.sendall(b'\\x00' * 1_000_000)", UNKNOWN),
    "a pickle": ("line.sendall(framed(pickle.dumps(os.system)))", UNKNOWN),
    "text that is no JSON": ("line.sendall(framed(b'{ticket: 1}'))", UNKNOWN),
    "text that is no UTF-8": ("line.sendall(framed(b'{\\xff}'))", UNKNOWN),
    "60,000 brackets": ("line.sendall(framed(b'[' * 60_000))", UNKNOWN),
    "an integer of 60,000 digits": ("line.sendall(framed(b'1' * 60_000))", UNKNOWN),
    "a list": ("line.sendall(framed([1, 2]))", UNKNOWN),
    "fields missing": ("line.sendall(framed({'kind': 'done'}))", UNKNOWN),
    "a header of 4 GB": ("line.sendall(b'\\xff' * 4)", UNKNOWN),
    "another ticket": ("answer(asked, None, ticket='0' * 16)", UNKNOWN),
    "a ticket that is no text": ("answer(asked, None, ticket=1)", UNKNOWN),
    "no array": ("answer(asked, [1, 2, 3])", UNKNOWN),
    "an array that is not there": ("answer(asked, {'array': 0})", UNKNOWN),
    "float ids": ("answer(asked, {'array': 0}, arrays=[['<f8', [3, 2]]], data=bytes(48))", UNKNOWN),
    "narrow ids": ("answer(asked, {'array': 0}, arrays=[['<i4', [3, 2]]], data=bytes(24))", UNKNOWN),
    "objects": ("answer(asked, {'array': 0}, arrays=[['|O', [3, 2]]], data=bytes(48))", UNKNOWN),
    "another shape": ("answer(asked, {'array': 0}, arrays=[['<i8', [2, 3]]], data=bytes(48))", UNKNOWN),
    "too many ids": ("answer(asked, {'array': 0}, arrays=[['<i8', [4, 2]]], data=bytes(64))", UNKNOWN),
    "an array of 2^62": ("answer(asked, {'array': 0}, arrays=[['<i8', [1 << 62]]])", UNKNOWN),
    "a negative size": ("answer(asked, {'array': 0}, arrays=[['<i8', [-3, -2]]], data=bytes(48))", UNKNOWN),
    "a size that is no integer": ("answer(asked, {'array': 0}, arrays=[['<i8', [True, 6.0]]])", UNKNOWN),
    "a kind of its own": ("answer(asked, None, kind='passed')", UNKNOWN),
    "a fault without words": ("answer(asked, [1, 2, 3], kind='misbehaved')", UNKNOWN),
    "bad input without words": ("answer(asked, None, kind='input')", UNKNOWN),
    "calls that nobody counted": ("while True: answer(asked, None, kind='called')", UNKNOWN),
    "ids out of range": ("ids(asked, 0, 1, 2, 3, 4, 5)", "ids out of range"),
    "negative ids": (
        "answer(asked, {'array': 0}, arrays=[['<i8', [3, 2]]], data=b'\\xff' * 48)",
        "ids out of range",
    ),
    "a fault": ("answer(asked, ['raises', 'ValueError: x', 'f()'], kind='misbehaved')", "raises"),
    "nothing": ("time.sleep(1000)", "blocks"),
    "a length and nothing": ("line.sendall(b'\\x00\\x00'); time.sleep(1000)", "blocks"),
    "half an array": (
        "answer(asked, {'array': 0}, arrays=[['<i8', [3, 2]]], data=bytes(40)); time.sleep(1000)",
        "blocks",
    ),
    "byte after byte": ("while not line.send(b'\\x00') or not time.sleep(0.4): pass", "blocks"),
    "a stop": ("os.kill(os.getpid(), signal.SIGSTOP)", "blocks"),
    "its end": ("os._exit(9)", "ends the process"),
    "its end by a signal": ("os.kill(os.getpid(), signal.SIGSEGV)", "ends the process"),
    "a closed line": ("line.close(); time.sleep(1000)", "ends the process"),
    "all files closed": ("os.closerange(0, 4096); time.sleep(1000)", "ends the process"),
    "the supervisor's end": ("os.kill(os.getppid(), signal.SIGKILL); time.sleep(1000)", "ends the process"),
    "signals ignored": (
        "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 3, 13, 15)]; time.sleep(1000)",
        "blocks",
    ),
}


class TestAnswers:
    @pytest.mark.parametrize("name", ANSWERS)
    def test_each_is_a_verdict_within_the_timeout(self, speaks, name):
        """Half a second for a call; never a traceback of ours."""
        action, what = ANSWERS[name]
        speaks(f"asked = request()\n{action}")
        with Child("fake", 0.5) as child:
            process = child._line._process
            started = time.monotonic()
            with pytest.raises(Misbehaved) as caught:
                child.draw(0, LOGITS, N)
        assert time.monotonic() - started < 0.5 + SLOW
        assert caught.value.what == what
        assert "traceback" not in str(caught.value).lower()
        assert caught.value.call
        assert process.returncode is not None

    def test_right_ones_are_taken(self, speaks):
        speaks("while True: ids(request(), 0, 1, 2, 3, 4, 0)")
        with Child("fake", 5.0) as child:
            for _ in range(3):
                np.testing.assert_array_equal(child.draw(0, LOGITS, N), [[0, 1], [2, 3], [4, 0]])
        assert (child.name, child.code) == ("fake", "0")

    def test_a_token_of_probability_zero_is_seen_on_this_side(self, speaks):
        """A child whose own checks are patched away."""
        speaks("ids(request(), 0, 1, 2, 3, 4, 0)")
        dead = LOGITS.copy()
        dead[:, 4] = -np.inf
        with Child("fake", 5.0) as child, pytest.raises(Misbehaved, match="probability zero"):
            child.draw(0, dead, N)

    def test_an_answer_that_came_before_the_question(self, speaks):
        speaks("line.sendall(framed({'ticket': 'x', 'kind': 'done', 'value': None, 'arrays': []}))\nrequest()")
        with Child("fake", 5.0) as child:
            time.sleep(0.2)
            with pytest.raises(Misbehaved) as caught:
                child.probe(10, 0)
        assert caught.value.what == UNKNOWN

    def test_the_same_answer_twice(self, speaks):
        speaks("asked = request()\nids(asked, 0, 0, 0, 0, 0, 0)\nids(asked, 1, 1, 1, 1, 1, 1)\nrequest()")
        with Child("fake", 5.0) as child:
            with contextlib.suppress(Misbehaved):
                assert child.draw(0, LOGITS, N).max() == 0
            with pytest.raises(Misbehaved):
                child.draw(0, LOGITS, N)

    def test_a_request_that_is_not_read_has_the_deadline_too(self, speaks):
        """8 MB of logits to a process that is stopped: no pipe takes so much."""
        speaks("os.kill(os.getpid(), signal.SIGSTOP)")
        with Child("fake", 0.5) as child:
            started = time.monotonic()
            with pytest.raises(Misbehaved, match=r"no answer to draw within 0\.5 s"):
                child.draw(0, np.zeros((4, 1 << 19), dtype=np.float32), 1)
        assert time.monotonic() - started < 0.5 + SLOW

    def test_each_call_of_a_probe_has_the_time_of_one(self, speaks):
        """Four calls of 0.6 s within a timeout of 1 s; a fifth is one too many."""
        told = "asked = request()\nfor _ in range({}):\n    time.sleep(0.6)\n    answer(asked, None, kind='called')\n"
        speaks(told.format(4) + "answer(asked, None)")
        with Child("fake", 1.0) as child:
            child.probe(10, 0)
        speaks(told.format(9) + "answer(asked, None)")
        with Child("fake", 1.0) as child, pytest.raises(Misbehaved):
            child.probe(10, 0)

    def test_after_a_fault_of_the_line_nothing_is_asked_any_more(self, speaks):
        speaks("os._exit(3)")
        with Child("fake", 5.0) as child:
            for _ in range(2):
                with pytest.raises(Misbehaved, match="ended"):
                    child.draw(0, LOGITS, N)

    def test_control_characters_of_what_it_says_are_escaped(self, speaks):
        speaks("answer(request(), ['raises', '\\x1b[31mred\\nPASS', 'f()'], kind='misbehaved')")
        with Child("fake", 5.0) as child, pytest.raises(Misbehaved) as caught:
            child.probe(10, 0)
        assert caught.value.detail == "\\x1b[31mred\\nPASS"

    def test_methods_that_others_add_are_reached_by_name(self, speaks):
        body = """
            asked = request()
            assert (asked["kind"], asked["value"][1]["map"]["layout"]) == ("fresh", "plain")
            ids(asked, 0, 1, 2, 3, 4, 0)
            asked = request()
            assert asked["kind"] == "takes"
            answer(asked, ["seed", "temperature"])
            asked = request()
            answer(asked, asked["value"][0])
            """
        speaks(body)
        with Child("fake", 5.0) as child:
            settings = {"temperature": np.array([0.5, 2.0], dtype=np.float32)}
            assert child.fresh(1, LOGITS, N, settings=settings, layout="plain").shape == (N, ROWS)
            assert child.takes == {"seed", "temperature"}
            assert child.ask("echo", 1, "two", None) == [1, "two", None]

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
    def test_a_timeout_that_is_none(self, timeout):
        with pytest.raises(InputError, match="timeout"):
            Child("fake", timeout)

    def test_what_it_prints_is_passed_on_up_to_a_bound(self, speaks, capfd, monkeypatch):
        """3 MB while it answers: all are read, so that it can go on; 64 kB come out, and a line that says
        so."""
        monkeypatch.setattr(border, "MOST_PRINTED", 1 << 16)
        body = r"""
            os.write(1, b"\x1b[31mhello\n")
            asked = request()
            for _ in range(3000):
                os.write(2, b"x" * 1000)
            ids(asked, 0, 0, 0, 0, 0, 0)
            request()
            """
        speaks(body)
        with Child("fake", 20.0) as child:
            child.draw(0, LOGITS, N)
        out, err = capfd.readouterr()
        assert out == ""
        assert "\\x1b[31mhello\n" in err
        assert err.count("the rest is left out") == 1
        assert (1 << 16) - 100 < len(err) < (1 << 16) + 1000


# A sampler's side that leaves processes behind and writes their numbers to a file.
LEAVES = """
def note(pid):
    with open(PIDS, "a") as file:
        print(pid, file=file)
note(os.getpid())
note(subprocess.Popen(["sleep", "1000"]).pid)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(os.getpid())
    time.sleep(1000)
    os._exit(0)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        note(os.getpid())
        os.closerange(0, 64)
        os.execv("/bin/sleep", ["sleep", "1000"])
    os._exit(0)
os.wait()
time.sleep(0.3)
"""


def leaves(path: Path) -> str:
    return f"PIDS = {str(path)!r}\n{LEAVES}"


def noted(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descendants are found by /proc")
class TestNothingIsLeft:
    @pytest.mark.parametrize(
        "then",
        [
            "ids(request(), 0, 0, 0, 0, 0, 0)\nrequest()",
            "time.sleep(1000)",
            "os._exit(0)",
            "os.kill(os.getppid(), signal.SIGTERM); ids(request(), 0, 0, 0, 0, 0, 0); request()",
        ],
        ids=["an answer", "a timeout", "its end", "a signal to its parent"],
    )
    def test_after_a_verdict(self, speaks, tmp_path, then):
        """A child, a fork that ignores SIGTERM, and a daemon with a session, files and environment of its
        own."""
        pids = tmp_path / "pids"
        speaks(leaves(pids) + then)
        with contextlib.suppress(Misbehaved), Child("fake", 1.5) as child:
            child.draw(0, LOGITS, N)
        found = noted(pids)
        assert len(found) == 4
        assert gone(found)
        assert child._line._process.returncode is not None

    def test_a_supervisor_that_is_stopped(self, speaks, tmp_path, monkeypatch):
        """It cannot kill: the judge ends the group itself."""
        monkeypatch.setattr(border, "GRACE", 0.1)
        pids = tmp_path / "pids"
        body = """
            open(PIDS, "w").write(f"{os.getpid()} {subprocess.Popen(['sleep', '1000']).pid} {os.getppid()}")
            os.kill(os.getppid(), signal.SIGSTOP)
            ids(request(), 0, 0, 0, 0, 0, 0)
            request()
            """
        speaks(f"PIDS = {str(pids)!r}\n" + textwrap.dedent(body))
        with Child("fake", 5.0) as child:
            child.draw(0, LOGITS, N)
        assert gone(noted(pids))

    def test_after_the_end_of_the_judge_whatever_ended_it(self, tmp_path):
        """SIGTERM, SIGKILL, os._exit and an ordinary exit without close, in processes of their own, at once."""
        code = """
            import os, sys, time
            OPEN = bytes.fromhex(os.environ["OPEN"])
            from precision_lab.verdict import line
            command = sys.argv[2:]
            line.sampler_side = lambda protocol: [*command, str(protocol)]
            kept = line.Line()
            kept.send(OPEN, 0, time.monotonic() + 60)
            kept.receive(0, time.monotonic() + 60)
            assert "torch" not in sys.modules
            print("open", flush=True)
            time.sleep(1000 if sys.argv[1] == "sleep" else 0.7)
            if sys.argv[1] == "exit":
                os._exit(0)
            """
        ends = {"TERM": "sleep", "KILL": "sleep", "exit": "exit", "end": "end"}
        judges = {}
        environment = os.environ | {"OPEN": packed(Message("open", [[], {}], "t")).hex()}
        for name, how in ends.items():
            body = leaves(tmp_path / name) + "time.sleep(1000)"
            words = [sys.executable, "-c", textwrap.dedent(code), how, *side(body)]
            judges[name] = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        for judge in judges.values():
            assert judge.stdout.readline() == "open\n"
        until = time.monotonic() + 10
        while any(not (tmp_path / name).exists() or len(noted(tmp_path / name)) < 4 for name in ends):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.2)
        judges["TERM"].send_signal(signal.SIGTERM)
        judges["KILL"].send_signal(signal.SIGKILL)
        codes = {name: judge.wait(20) for name, judge in judges.items()}
        assert codes == {"TERM": -signal.SIGTERM, "KILL": -signal.SIGKILL, "exit": 0, "end": 0}
        for name in ends:
            assert gone(noted(tmp_path / name)), name


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Strange(BaseException):
    pass


RAISED = {
    "ValueError": (ValueError("\x1b[31mone\ntwo"), "raises", "ValueError: \\x1b[31mone two"),
    "KeyboardInterrupt": (KeyboardInterrupt(), "raises", "KeyboardInterrupt"),
    "GeneratorExit": (GeneratorExit(), "raises", "GeneratorExit"),
    "SystemExit": (SystemExit(0), "ends the process", "SystemExit: 0"),
    "of its own": (Strange("hi"), "raises", "Strange: hi"),
    "whose message raises": (Unsayable(), "raises", "Unsayable: (its message raises RuntimeError)"),
    "our own error": (InputError("a", "b", "c"), "raises", "InputError"),
}


class TestServer:
    """The sampler's side, called in this process."""

    def asked(self, function, kind="draw", *arguments) -> Message:
        here, there = socket.socketpair()
        with here, there:
            served = Served(there)
            served.caller = Caller.of(function)
            return answered(Message(kind, [list(arguments or (0, ramp(2, 9), 4)), {}], "t"), served.answer)

    @pytest.mark.parametrize("name", RAISED)
    def test_whatever_is_raised_is_a_fault(self, name):
        error, what, says = RAISED[name]

        def raises(logits, n, *, generator):
            raise error

        for kind, arguments in (("draw", ()), ("probe", (9, 0))):
            found = self.asked(raises, kind, *arguments)
            assert (found.kind, found.ticket, found.value[0]) == ("misbehaved", "t", what)
            assert says in found.value[1]

    def test_recursion_without_end(self):
        def recursion(logits, n, *, generator):
            return recursion(logits, n, generator=generator)

        assert "RecursionError" in self.asked(recursion).value[1]

    def test_sparse_ids_and_lists(self):
        def sparse(logits, n, *, generator):
            return torch.ones(n, len(logits), dtype=torch.long).to_sparse()

        assert self.asked(sparse).value[0] == "wrong dtype"

    def test_small_ids_are_widened(self):
        def small(logits, n, *, generator):
            return torch.randint(1, 4, (n, len(logits)), generator=generator, dtype=torch.uint8)

        found = self.asked(small)
        assert found.kind == "done"
        assert found.value.dtype == np.int64


THEIRS = """
import os, pickle, stat, sys, threading, time, signal
import torch
def ok(logits, n, *, generator):
    return torch.multinomial(torch.softmax(logits.double(), -1), n, replacement=True, generator=generator).T
def sockets():
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if alike(fd)]
def alike(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
class Evil:
    def __reduce__(self):
        return (os.system, ("touch RAN_IN_THE_JUDGE",))
def sends_a_pickle(logits, n, *, generator):
    data = pickle.dumps(Evil())
    for fd in sockets():
        os.write(fd, len(data).to_bytes(4, "big") + data)
    return ok(logits, n, generator=generator)
def low_files(logits, n, *, generator):
    for fd in range(3, 64):
        try:
            os.write(fd, b"garbage!")
        except OSError:
            pass
    for fd in range(3, 256):
        try:
            os.close(fd)
        except OSError:
            pass
    sys.stdin.read()
    return ok(logits, n, generator=generator)
def returns_twice(logits, n, *, generator):
    if not hasattr(returns_twice, "done"):
        returns_twice.done = True
        os.fork()
    return ok(logits, n, generator=generator)
"""


class TestReal:
    @pytest.fixture
    def theirs(self, tmp_path, monkeypatch):
        path = tmp_path / "theirs.py"
        path.write_text(THEIRS)
        monkeypatch.chdir(tmp_path)
        return path

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sockets are found by /proc")
    def test_a_pickle_on_the_line_itself_is_a_verdict_and_is_not_run(self, theirs, tmp_path):
        report = check(f"{theirs}:sends_a_pickle", vocab=64, timeout=10.0, say=lambda line: None)
        assert report.exit_code == 1
        assert report.fault.what == UNKNOWN
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["theirs.py"]

    def test_junk_in_the_low_files_harms_nobody(self, theirs):
        """Reads its stdin, writes to and closes every file below 256: the line is not among them."""
        with Child(f"{theirs}:low_files", 10.0) as child:
            child.probe(64, 0)
            assert child.draw(0, ramp(2, 64), 4).shape == (4, 2)

    def test_a_call_that_returns_twice(self, theirs):
        with (
            Child(f"{theirs}:returns_twice", 10.0) as child,
            pytest.raises(Misbehaved, match="in two processes"),
        ):
            draw_slowly(child)

    def test_an_import_that_does_not_end(self, tmp_path):
        path = tmp_path / "waits.py"
        path.write_text("import time\ntime.sleep(1000)\n")
        started = time.monotonic()
        with pytest.raises(Misbehaved, match=r"no answer to import within 1\.5 s"):
            Child(f"{path}:f", 1.0, start=0.5)
        assert time.monotonic() - started < 1.5 + SLOW

    def test_an_import_that_fails_is_bad_input(self, tmp_path):
        path = tmp_path / "fails.py"
        path.write_text("raise KeyboardInterrupt\n")
        with pytest.raises(InputError, match="code that imports"):
            Child(f"{path}:f", 30.0)


def draw_slowly(child: Child) -> None:
    for _ in range(3):
        child.draw(0, ramp(2, 64), 4)
        time.sleep(0.3)


NOW_AND_THEN = """
import torch
def ends_late(logits, n, *, generator):
    ids = torch.multinomial(torch.softmax(logits.double(), -1), n, replacement=True, generator=generator).T
    return torch.where(torch.rand(ids.shape, generator=generator) < 1e-4, logits.shape[-1], ids)
def raises_late(logits, n, *, generator):
    ids = torch.multinomial(torch.softmax(logits.double(), -1), n, replacement=True, generator=generator).T
    if bool((torch.rand(ids.shape, generator=generator) < 1e-4).any()):
        raise IndexError("now and then")
    return ids
"""


class TestTheShownCall:
    @pytest.mark.parametrize(
        ("name", "error", "says"),
        [("ends_late", Misbehaved, "ids out of range"), ("raises_late", IndexError, "now and then")],
    )
    def test_shows_what_happens_once_in_ten_thousand_draws(self, tmp_path, monkeypatch, name, error, says):
        """The generator goes through the calls that led there. 73,280 draws: none is hit with a chance
        below 1e-3, and the first call alone with 1 % or so."""
        (tmp_path / "late.py").write_text(NOW_AND_THEN)
        monkeypatch.chdir(tmp_path)
        report = check(f"late.py:{name}", vocab=300, say=lambda line: None)
        assert says in report.headline()
        assert "called 1 times" not in report.fault.call
        with pytest.raises((error, Misbehaved), match=says):  # a batch's call tells the error in its own words
            exec(report.fault.call, {})


class TestWords:
    def test_what_a_terminal_would_obey_is_escaped(self):
        assert (
            printable("a\x1b]0;t\x07\x9b31m\u202eb\r\n\ud800") == "a\\x1b]0;t\\x07\\x9b31m\\u202eb\\r\\n\\ud800"
        )
        assert printable("naïve ✓ 👩\u200d🔬\n", kept="\n") == "naïve ✓ 👩\u200d🔬\n"

    def test_an_error_in_one_line(self):
        assert described(ValueError("a\nb")) == "ValueError: a b"
        assert described(ValueError()) == "ValueError"
        assert len(described(ValueError("x" * 9999))) < 400
        assert described(Unsayable()) == "Unsayable: (its message raises RuntimeError)"
