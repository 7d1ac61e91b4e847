"""Runs `spear train` with one fault put in: `faulty.py FAULT RANK STEP train-arguments...`.

Tests start it as a process, or several under torchrun; the fault happens in that rank at that step.
"""

import os
import resource
import signal
import sys
import time

import torch

from spear.bin.main import guard
from spear.train import checkpoint, loop, startup
from spear.train.main import main

fault, rank, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
here = int(os.environ.get("RANK", 0)) == rank


def inject(trainer) -> None:
    """What happens at the beginning of the step."""
    print(f"now: {fault}", flush=True)
    if fault == "raise":
        raise ValueError("the injected error")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(3600)
    if fault == "infinite":
        with torch.no_grad():
            hook = trainer.model.mask_emb.register_hook(lambda grad: (hook.remove(), grad * float("inf"))[1])
    if fault == "kill_worker":
        children = [int(child) for child in open(f"/proc/self/task/{os.getpid()}/children").read().split()]
        os.kill(children[0], signal.SIGKILL)
    if fault in ("disk_full", "disk_full_for_ever"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))  # no file may be larger
    if fault == "clock_back":
        now = time.time
        time.time = lambda: now() - 7200
        monotonic = time.perf_counter
        time.perf_counter = lambda: monotonic() - 7200


train_step, validate, write = loop.Trainer._train_step, loop.Trainer._validate, checkpoint.save


def faulty_step(trainer, *arguments):
    if here and trainer.step == step:
        inject(trainer)
    if here and trainer.step == step + 2 and fault == "disk_full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return train_step(trainer, *arguments)


def signalled_validate(trainer):
    if here and fault == "signal_in_validation" and trainer.step == step:
        os.kill(os.getpid(), signal.SIGTERM)
    return validate(trainer)


def faulty_write(directory, *arguments):
    if here and fault == "signal_in_saving" and directory.name.endswith(f"{step:08d}"):
        os.kill(os.getpid(), signal.SIGUSR1)
    return write(directory, *arguments)


loop.Trainer._train_step, loop.Trainer._validate, checkpoint.save = faulty_step, signalled_validate, faulty_write
if here and fault == "other_code":
    startup.code_hash = lambda: "f" * 64
sys.exit(guard(main, sys.argv[4:]))
