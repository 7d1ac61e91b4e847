"""A scheduler's request to stop: noted when it comes, acted upon between steps, or while a process waits for data."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

# "Requeue me", as Slurm scripts commonly read it.
EXIT_CODE = 85
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupted(BaseException):
    """The request came inside `StopRequest.interrupts`; no handler of errors may take it for one."""


class StopRequest:
    """Set by SIGTERM or SIGUSR1 after `install`.

    Python's handlers run between two instructions of the main thread, which may sit in a collective for ever. What
    `poll` reads is written by the signal itself, so that another thread sees it in any case.
    """

    def __init__(self):
        self.signal_name, self._pid = "", os.getpid()
        self._interruptible = False
        self._before: dict[int, object] = {}
        self._pipe: tuple[int, int] | None = None

    def install(self) -> "StopRequest":
        """Starts listening (main thread only)."""
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        # A signal to a forked loader worker is none to us.
        os.register_at_fork(after_in_child=_forget_wakeup)
        return self

    def restore(self) -> None:
        """Ends listening: from here on the signals do what they did before."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self._pipe:
            signal.set_wakeup_fd(-1)
            pipe, self._pipe = self._pipe, None
            for end in pipe:
                os.close(end)

    def poll(self) -> str:
        """The signal's name, in any thread and whatever the main thread does; empty without one."""
        with contextlib.suppress(OSError, TypeError):  # nothing there, or restored
            for number in os.read(self._pipe[0], 64):
                if number in _SIGNALS and not self.signal_name:
                    self.signal_name = signal.Signals(number).name
        return self.signal_name

    @contextlib.contextmanager
    def interrupts(self, allowed: bool = True) -> Iterator[None]:
        """Inside, the request raises `Interrupted` at once; for waits whose result may be thrown away.

        Args:
            allowed: False changes nothing.
        """
        self._interruptible = allowed
        try:
            if allowed and self.signal_name:
                raise Interrupted
            yield
        finally:
            self._interruptible = False

    def _note(self, number, _frame) -> None:
        if os.getpid() != self._pid:
            os._exit(128 + number)  # a forked loader worker inherited the handler; for it, the signal means to end
        self.signal_name = signal.Signals(number).name
        if self._interruptible:
            self._interruptible = False
            raise Interrupted

    def __bool__(self) -> bool:
        return bool(self.signal_name)


def _forget_wakeup() -> None:
    with contextlib.suppress(ValueError):  # not in the main thread: the fork has no Python handlers to wake
        signal.set_wakeup_fd(-1)
