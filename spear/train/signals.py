"""A scheduler's request to stop: noted when it comes, acted upon between steps."""

import os
import signal

# "Requeue me", as Slurm scripts commonly read it.
EXIT_CODE = 85


class StopRequest:
    """Set by SIGTERM or SIGUSR1 after `install`."""

    def __init__(self):
        self.signal_name, self._pid = "", os.getpid()

    def install(self) -> "StopRequest":
        """Starts listening (main thread only)."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)
        return self

    def _note(self, number, _frame) -> None:
        if os.getpid() != self._pid:
            os._exit(128 + number)  # a forked loader worker inherited the handler; for it, the signal means to end
        self.signal_name = signal.Signals(number).name

    def __bool__(self) -> bool:
        return bool(self.signal_name)
