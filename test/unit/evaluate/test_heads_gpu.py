"""Heads on a GPU learn what they learn on the CPU; skipped where there is none."""

import dataclasses

import pytest
import superb_corpus
import torch
from corpus import TinyEncoder
from torch import nn

from spear.evaluate.banks import ModuleBank, arithmetic
from spear.evaluate.cache import CacheConfig, FeatureCache
from spear.evaluate.modules import RecurrentHead
from spear.evaluate.protocol import Settings, settings_of
from spear.evaluate.scoring import score_task
from spear.evaluate.table import read_table
from spear.evaluate.tasks import TASKS
from spear.evaluate.upstream import SpearUpstream
from spear.seeds import torch_rng

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return superb_corpus.make_superb_corpus(tmp_path_factory.mktemp("superb"))


@pytest.mark.parametrize("task", ["KS", "PR", "ASR", "SF", "ASV", "SD", "SS"])
def test_a_task_trains_on_the_gpu_as_on_the_cpu(task, data, tmp_path):
    table = read_table(data, task, TASKS[task].refuse)
    store = FeatureCache(tmp_path, SpearUpstream(TinyEncoder(), "tiny", "checkpoint"), CacheConfig())
    store.ensure([row.item for row in table.rows], {row.key for row in table.rows})
    curves = []
    for device in ("cpu", DEVICE):
        changes = {"max_steps": 4, "eval_every": 2, "dropout": 0.0, "device": device}
        found = score_task(TASKS[task], table, store, settings_of("mini", task, changes))
        curves.append([point["train_loss"] for head in found["grid"] for point in head["curve"]])
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)


@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-3), ("tf32", 0.02), ("bfloat16", 0.1)])
def test_gradients_of_recurrent_heads_are_those_of_the_cpu(precision, tolerance):
    features_LBTD = torch.randn(2, 3, 40, 16, generator=torch_rng(0, "features"))
    lens_B = torch.tensor([40, 23, 1])
    found = []
    for device, chosen in (("cpu", "float32"), (DEVICE, precision)):
        settings = dataclasses.replace(Settings((1e-2, 1e-3)), device=device, precision=chosen)
        bank = ModuleBank(2, lambda: RecurrentHead(16, 16, 32, 2, 5), settings)
        assert all(parameter.device.type == device for parameter in bank.modules[0].parameters())
        with arithmetic(settings):
            bank.backward((out.square().mean() for out in bank.outputs(features_LBTD, lens_B)), 1.0)
        found.append([nn.utils.parameters_to_vector(p.grad for p in m.parameters()).cpu() for m in bank.modules])
        bank.step(1.0)
        bank.train(False)
        assert all(out.device.type == "cpu" for out in bank.outputs(features_LBTD, lens_B))
    for on_cpu, on_gpu in zip(*found):
        assert float((on_gpu - on_cpu).norm() / on_cpu.norm()) < tolerance
