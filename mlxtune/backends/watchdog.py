"""Ends this process where the others will not answer any more. Signals, a clock and a thread; no library.

While the main thread waits in an exchange, Python runs no signal handler in it: a launcher that asks the rest of its processes to
end, since one of them died, would wait for ever where a library does not see that. So a thread looks on.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

# An exchange may take so long after this process was asked to end, or twice as long as the work before it where that is more: the
# others finish the step at hand, too.
GRACE_S = 12.0
# ... and so long anyway, or twenty times as long as the work before it: the other processes do as much as this one.
STALLED_S = 1800.0
TICK_S = 0.5
ASKS_TO_END = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Watchdog:
    """Watches the exchanges of this process, and that its launcher is there.

    Args:
        end: What ends the process, given why.
        grace_s: GRACE_S.
        stalled_s: STALLED_S.
    """

    def __init__(
        self, end: Callable[[str], None] | None = None, grace_s: float = GRACE_S, stalled_s: float = STALLED_S
    ) -> None:
        self._end = end or _end
        self._grace_s, self._stalled_s = grace_s, stalled_s
        self._parent: int | None = os.getppid()
        self._left = time.monotonic()  # when the last exchange ended
        self._work_s = 0.0  # between it and the present one
        self._entered: float | None = None  # when the present exchange began
        self._patient = False
        self._asked: float | None = None  # when this process was asked to end
        self._signals, signalled = os.pipe()
        os.set_blocking(signalled, False)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
            # Closing the terminal of a remote machine's process is how its launcher ends it.
            if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
                signal.signal(signal.SIGHUP, _as_terminate)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def watching(self, patient: bool = False, usual_s: float = 0.0) -> Iterator[None]:
        """An exchange; a patient one may take as long as it likes until this process is asked to end.

        Args:
            patient: Whether it is one.
            usual_s: What such a one took before, where the processes compute in it.
        """
        begun = time.monotonic()
        self._work_s, self._patient, self._entered = max(begun - self._left, usual_s), patient, begun
        try:
            yield
        finally:
            self._entered, self._left = None, time.monotonic()

    def lose(self) -> None:
        """The connection is lost, so this process ends: its launcher, which asks the same, does not cut short what it still says and writes."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _only_hear)

    def _watch(self) -> None:
        while True:
            if select.select([self._signals], [], [], TICK_S)[0]:
                received = os.read(self._signals, 4096)
                if self._asked is None and any(number in ASKS_TO_END for number in received):
                    self._asked = time.monotonic()
            if self._parent is not None and os.getppid() != self._parent:
                self._parent = None  # the launcher is gone; this process saves and ends, as when asked to
                os.kill(os.getpid(), signal.SIGTERM)
            if (why := self._why_end()) is not None:
                self._end(why)
                return

    def _why_end(self) -> str | None:
        entered, asked, now = self._entered, self._asked, time.monotonic()
        if entered is None:
            return None
        if asked is not None:
            waited = now - max(entered, asked)
            if waited > max(self._grace_s, 2 * self._work_s):
                return f"asked to end, and the other processes have not answered for {waited:.0f} s"
        elif not self._patient and now - entered > max(self._stalled_s, 20 * self._work_s):
            return f"the other processes have not answered for {now - entered:.0f} s"
        return None


def _only_hear(number: int, frame: FrameType | None) -> None:
    """Python writes the signal to the watchdog's pipe, as each that has a handler."""


def _as_terminate(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)


def _end(why: str) -> None:
    """Leave at once: the main thread waits in a library and hears nothing."""
    with contextlib.suppress(OSError):
        os.write(2, f"Error: {why}; this process ends. The last checkpoint is kept: continue with --resume\n".encode())
    os._exit(1)
