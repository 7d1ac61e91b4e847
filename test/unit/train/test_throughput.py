"""Share of the peak, and the slow part of loading by name."""

import time

import pytest
import torch

from spear.data import dataset
from spear.train.throughput import DataWait, count_flops


def test_operations_of_a_step_are_counted_with_convolutions_and_the_backward_pass():
    a, b = torch.ones(10, 20), torch.ones(20, 30, requires_grad=True)
    assert count_flops(lambda: (a @ b).relu()) == 2 * 10 * 20 * 30
    assert count_flops(lambda: (a @ b).sum().backward()) == 2 * 2 * 10 * 20 * 30  # the gradient of b alone
    kernel = torch.ones(5, 4, 3)
    assert count_flops(lambda: torch.nn.functional.conv1d(torch.ones(2, 4, 12), kernel)) == 2 * 2 * 10 * 5 * 4 * 3


def test_the_slow_part_is_named_with_its_knob():
    wait = DataWait(num_workers=1)
    parts = {"read": 50.0, "mix": 1.0, "features": 9.0, "collate": 0.5}
    assert wait.add(199, 40.0, 100.0, parts) == ""  # too early to tell
    text = wait.add(1, 0.0, 0.0, {})
    assert "40 % of the time" in text and "'read' (83 %, 250 ms a step)" in text and "more num_workers" in text
    assert wait.add(200, 1.0, 100.0, parts) == ""  # 1 % is nothing


@pytest.mark.parametrize("workers", [0])
def test_a_slow_disk_is_called_read(make_trainer, monkeypatch, caplog, workers):
    load = dataset.load_audio

    def slow(*arguments, **options):
        time.sleep(0.05)
        return load(*arguments, **options)

    monkeypatch.setattr(dataset, "load_audio", slow)
    monkeypatch.setattr("spear.train.throughput.WAIT_STEPS", 2)
    make_trainer(num_workers=workers).run()
    assert "The slow part of loading is 'read'" in caplog.text
