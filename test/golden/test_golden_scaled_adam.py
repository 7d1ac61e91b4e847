"""260 steps of the reference optimiser and schedule; two of them have gradients 50 and 200 times too large."""

import json

import pytest
import torch
from torch import nn

from spear.optim import Eden, ScaledAdam


class Small(nn.Module):
    """The module of the golden run."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(7, 11), nn.Linear(11, 5), nn.Conv1d(5, 5, 3, groups=5)
        self.log_scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x_BTF):
        hidden_BTF = self.log_scale.exp() * self.b(torch.tanh(self.a(x_BTF)))
        return self.c(hidden_BTF.transpose(1, 2)).transpose(1, 2)


def test_parameters_and_learning_rates_follow_the_reference(golden, device):
    tensors, settings = golden("scaled_adam")
    module = Small().to(device)
    module.load_state_dict({name: tensors[f"init.{name}"] for name, _ in module.named_parameters()})
    optimizer = ScaledAdam(
        module.named_parameters(), lr=float(settings["lr"]), clipping_scale=float(settings["clipping_scale"])
    )
    schedule = Eden(optimizer, **json.loads(settings["eden"]))
    compared = 0
    for step, loss_scale in enumerate(tensors["loss_scale"]):
        optimizer.zero_grad()
        (loss_scale * (module(tensors["x"][step]) - tensors["y"][step]).square().sum()).backward()
        schedule.step_batch(step)
        if step % 65 == 64:
            schedule.step_epoch(step // 65)
        assert schedule.last_lr[0] == pytest.approx(float(tensors["lr"][step]), rel=1e-12)
        optimizer.step()
        if f"step{step + 1}.a.weight" in tensors:
            compared += 1
            for name, param in module.named_parameters():
                expected = tensors[f"step{step + 1}.{name}"]
                torch.testing.assert_close(
                    param.detach(), expected, atol=2e-6, rtol=1e-5, msg=f"{name}, step {step + 1}"
                )
    stored = sum(name.startswith("step") and name.endswith(".a.weight") for name in tensors)
    assert compared == stored >= 8
