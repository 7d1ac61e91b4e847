"""A request to stop is noted and acted upon between steps."""

import os
import signal
import threading
import time

import pytest

from spear.train import checkpoint
from spear.train.loop import Stopped
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_a_step_waits_for_its_data_saves_at_once(make_trainer, monkeypatch, tmp_path, number):
    trainer = make_trainer(num_steps=50, num_workers=1, checkpoint_every_steps=40)
    batch = trainer.data.train.batch

    def slow(plan, epoch, step, rank):
        if step >= 3:
            time.sleep(600)
        return batch(plan, epoch, step, rank)

    monkeypatch.setattr(trainer.data.train, "batch", slow)
    monkeypatch.setattr(trainer, "_rehearse", lambda: None)
    before = signal.getsignal(number)

    def send():
        while trainer.step < 3:
            time.sleep(0.05)
        time.sleep(1)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(Stopped, match=f"{number.name} at step 3"):
        trainer.run()
    assert checkpoint.newest(tmp_path / "exp")[1]["step"] == 3
    assert signal.getsignal(number) is before


def test_a_signal_is_seen_by_another_thread_while_the_main_one_runs_no_python(handlers_restored):
    """As in a collective: there, Python's handlers never run."""
    stop = StopRequest()
    stop.install()
    try:
        child = os.fork()
        if child == 0:  # a loader worker: its signals are none of ours
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(5)
            os._exit(0)
        os.waitpid(child, 0)
        assert stop.poll() == ""
        signal.set_wakeup_fd(stop._pipe[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)  # our handler does not run
        signal.raise_signal(signal.SIGTERM)
        assert stop.poll() == "SIGTERM" and stop
    finally:
        stop.restore()
