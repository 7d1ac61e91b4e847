"""Choosing the device, and leaving the process group."""

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as torch_dist

from spear import dist
from spear.bench.quantize import QuantizeBenchConfig
from spear.errors import ConfigError

ROUNDS = 4  # without the wait in `stop`, eight of ten such programs abort


def with_late_threads(rank: int, port: int) -> None:
    """Gathers through a mesh and leaves at once; gloo's threads get a processor only when nothing else wants it."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.start("cpu")
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = torch_dist.init_device_mesh("cpu", (2,))
    sharded = distribute_tensor(torch.randn(6, 3), mesh, [Shard(0)])
    sharded.full_tensor()
    processor = sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]
    os.sched_setaffinity(0, {processor})
    late = 0
    for name in Path("/proc/self/task").glob("*/comm"):
        if name.read_text().startswith("pt_gloo"):
            thread = int(name.parent.name)
            os.sched_setaffinity(thread, {processor})
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
            late += 1
    assert late, "no thread of gloo has the name that dist.stop looks for"
    for _ in range(5):
        sharded.full_tensor().clone()
    dist.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="threads and their priorities are Linux's")
def test_a_gloo_thread_that_is_late_does_not_abort_a_finished_program(free_port):
    for _ in range(ROUNDS):
        torch.multiprocessing.spawn(with_late_threads, (free_port(),), nprocs=2)


def test_the_device_is_a_gpu_where_there_is_one_and_is_asked_for_alike_everywhere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dist.choose_device("auto") == dist.choose_device("cpu") == torch.device("cpu")
    for ask in (lambda: dist.start("cuda"), QuantizeBenchConfig(device="cuda").check):
        with pytest.raises(ConfigError, match="sees no GPU"):
            ask()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert dist.choose_device("auto") == dist.choose_device("cuda") == torch.device("cuda", 3)
    assert dist.choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="faiss"):
        QuantizeBenchConfig(methods="faiss-pq,faiss-rq5").check()
