"""The process between the judge and the sampler's own: it ends the sampler, and all that the sampler started.

Run as a script with nothing but the standard library, so that it starts in a few hundredths of a second:

    python -I -S supervisor.py CONTROL PROTOCOL COMMAND...

It starts COMMAND in a session and process group of its own. CONTROL is one end of a socket whose other end
only the judge holds. It writes ``pid N`` there, then ``exit N`` (as subprocess has it: -9 for SIGKILL) when
the command ends. When the judge closes its end, or ends in whatever way, SIGKILL included, everything below
this process is killed.

On Linux it is the child subreaper: a grandchild that becomes a daemon by double fork and setsid becomes its
child and is killed too; and the command is killed by the kernel if this process is. Elsewhere only the
process group is reached. Not reached anywhere: a process that the sampler starts through another one that
ran before (a daemon manager, at, ssh).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform.startswith("linux")
WATCH = 0.5  # seconds between looks at whether the judge still lives
PATIENCE = 5.0  # seconds for killed processes to be gone: one that waits for a disk can take longer
IGNORED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
)


def set_by_prctl(option: int, value: int) -> None:
    """Linux's prctl; nothing elsewhere."""
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def start(command: list[str], protocol: int) -> int:
    """The command in its own session, with ``protocol`` open. Returns its process id."""
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        set_by_prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)
        for number in (*IGNORED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        preferred_victim()
        os.set_inheritable(protocol, True)
        os.execv(command[0], command)
    finally:
        os._exit(127)


def preferred_victim() -> None:
    """Where memory runs out, Linux should end the sampler, not the judge."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def parents() -> dict[int, int]:
    """Parent of every process, where /proc tells."""
    found = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            found[int(name)] = int(fields[1])
        except (OSError, IndexError, ValueError):
            continue
    return found


def below(ancestor: int) -> set[int]:
    """All processes under ``ancestor``."""
    parent_of = parents()
    found = {ancestor}
    while more := {pid for pid, parent in parent_of.items() if parent in found and pid not in found}:
        found |= more
    return found - {ancestor}


def end_all(group: int) -> None:
    """Kill the group and everything below this process, until nothing is left or patience ends."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        send_kill(os.killpg, group)
        for pid in below(os.getpid()):
            send_kill(os.kill, pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def send_kill(kill: Callable[[int, int], None], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        kill(number, signal.SIGKILL)


def ended(child: int) -> int | None:
    """Exit code of the command if it has ended. Orphans that came here are taken off the table as well."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return -signal.SIGKILL
        if pid == child:
            return os.waitstatus_to_exitcode(status)
        if not pid:
            return None


def watch(control: socket.socket, judge: int, child: int) -> None:
    """Returns when the judge is gone or has closed its end, or when the command has ended, which is told."""
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        code = ended(child)
        if code is not None:
            control.sendall(b"exit %d\n" % code)
            return
        ready = select.select([control.fileno(), awake], [], [], WATCH)[0]
        if awake in ready:
            os.read(awake, 4096)
        if control.fileno() in ready or os.getppid() != judge:
            return


def main(control: int, protocol: int, command: list[str]) -> None:
    judge = os.getppid()
    os.set_inheritable(control, False)
    os.set_inheritable(protocol, False)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    set_by_prctl(PR_SET_CHILD_SUBREAPER, 1)
    channel = socket.socket(fileno=control)
    child = start(command, protocol)
    os.close(protocol)
    try:
        channel.sendall(b"pid %d\n" % child)
        watch(channel, judge, child)
    except OSError:  # the judge is gone
        pass
    finally:
        end_all(child)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
