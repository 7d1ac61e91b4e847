"""A request to stop is noted and acted upon between steps."""

import os
import signal

import pytest

from spear.train.signals import EXIT_CODE, StopRequest


@pytest.fixture
def handlers_restored():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_by_name(handlers_restored, number):
    stop = StopRequest().install()
    assert not stop and EXIT_CODE == 85
    signal.raise_signal(number)
    assert stop and stop.signal_name == number.name


def test_a_forked_process_ends_at_once(handlers_restored):
    """Loader workers inherit the handler; for them the signal must mean the end, not a note nobody reads."""
    stop = StopRequest().install()
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)  # only if the handler returned
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    assert not stop
