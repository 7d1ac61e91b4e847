"""Kills a run with SIGKILL again and again, starts it again each time, and compares it with one that nobody disturbed.

    python test/resume/sweep.py CONFIG FOLDER --ranks 1,2 --workers 0,2,4 --steps 20 [--kills 3,4,9]

At each step of --kills (all, by default) the run dies twice: as the step begins, while the checkpoint of the step
before is being written, and in the middle of writing the optimizer's tensors of that step. Processes are forked from
one that has imported everything, so that a start takes a second. Prints a line for each combination; the exit status
counts those that differ.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import torch

from spear.train import checkpoint, loop
from spear.train.main import main

TIMED = ("run_id", "seconds", "audio_seconds_per_second", "data_wait_share", "mfu", "model_flops", "target_flops")


class Kills:
    """What is still to happen, in a file that outlives the processes: `begin 3`, `saving 3`, ..."""

    def __init__(self, path: Path):
        self.path = path

    def due(self, what: str) -> None:
        """Ends this process, if that was not done before at this point."""
        points = self.path.read_text().split("\n") if self.path.exists() else []
        if what in points:
            points.remove(what)
            self.path.write_text("\n".join(points))
            os.kill(os.getpid(), signal.SIGKILL)


def put_in(kills: Kills) -> None:
    """Lets this process die where the file says."""
    train_step, save_file = loop.Trainer._train_step, checkpoint.save_file

    def step(trainer, *arguments):
        kills.due(f"begin {trainer.step + 1}")
        return train_step(trainer, *arguments)

    def save(tensors, path):
        save_file(tensors, path)
        if path.name == "optimizer.safetensors":
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2])
            kills.due(f"saving {int(path.parent.name.split('-')[1].split('.')[0])}")
            path.write_bytes(data)

    loop.Trainer._train_step, checkpoint.save_file = step, save


def fork_rank(rank: int, ranks: int, port: int, arguments: list[str], kills: Kills | None, log: Path) -> int:
    """Starts a rank; returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if ranks > 1:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        if kills and rank == 0:  # the one that saves
            put_in(kills)
        code = main(arguments)
    finally:
        os._exit(code)


def run(ranks: int, arguments: list[str], kills: Kills | None, log: Path) -> bool:
    """One start; False when rank 0 was killed, and then the others are too, as when a node goes down.

    Raises:
        RuntimeError: it ended in another way.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [fork_rank(rank, ranks, port, arguments, kills, log) for rank in range(ranks)]
    first, _, status = children[0], *os.waitpid(children[0], 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    for child in children:
        if killed and child != first:
            os.kill(child, signal.SIGKILL)
    others = [os.waitpid(child, 0)[1] for child in children[1:]]
    if not killed and any([status, *others]):
        raise RuntimeError(f"ranks ended with {[status, *others]}; see {log}")
    return not killed


def outcome(exp_dir: Path) -> tuple[list[dict], bytes]:
    """What must be equal: the rows of metrics without times, and the bytes of the final model."""
    rows = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if key not in TIMED} for row in rows]
    return rows, (exp_dir / "final" / "model.safetensors").read_bytes()


def sweep(options: argparse.Namespace, ranks: int, workers: int, expected: dict) -> bool:
    """One combination; True when the run that was killed is equal to the undisturbed one of as many ranks."""
    arguments = ["--config", options.config, "--num-steps", str(options.steps), "--checkpoint-every-steps", "1"]
    arguments += ["--rehearsal-batches", "0", "--num-workers", str(workers), *options.more.split()]
    if ranks not in expected:
        calm = options.folder / f"undisturbed-{ranks}"
        run(ranks, [*arguments, "--exp-dir", str(calm)], None, options.folder / f"undisturbed-{ranks}.log")
        expected[ranks] = outcome(calm)
    name = f"ranks-{ranks}-workers-{workers}"
    exp_dir, file = options.folder / name, options.folder / f"{name}.kills"
    steps = options.kills or range(1, options.steps + 1)
    file.write_text("\n".join(f"{point} {step}" for step in steps for point in ("begin", "saving")))
    began, starts = time.time(), 1
    while not run(ranks, [*arguments, "--exp-dir", str(exp_dir)], Kills(file), options.folder / f"{name}.log"):
        starts += 1
    same = outcome(exp_dir) == expected[ranks] and not file.read_text()
    found = "equal" if same else "DIFFERENT"
    print(f"{ranks} rank(s), {workers} workers: {starts - 1} kills, {time.time() - began:.0f} s, {found}", flush=True)
    shutil.rmtree(exp_dir)
    return same


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=integers, default=[1])
    parser.add_argument("--workers", type=integers, default=[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kills", type=integers, default=None)
    parser.add_argument("--more", default="", help="more arguments of spear train")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    undisturbed: dict = {}
    pairs = [(ranks, workers) for ranks in options.ranks for workers in options.workers]
    sys.exit(sum(not sweep(options, ranks, workers, undisturbed) for ranks, workers in pairs))
