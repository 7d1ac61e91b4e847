"""The running average, and the mean over any window of it."""

import pytest
import torch

from spear.train.averaging import RunningAverage, window_mean


@pytest.fixture
def history():
    """Parameters of twelve steps, and the running mean after each of them."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    average = RunningAverage(module)
    states, means = [], []
    for _ in range(12):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_()
        average.update(module)
        states.append({name: value.float().clone() for name, value in module.state_dict().items()})
        means.append({name: value.clone() for name, value in average.mean.items()})
    return states, means


@pytest.mark.parametrize("earlier, later", [(0, 12), (1, 12), (4, 9), (11, 12)])
def test_window_mean_is_the_plain_mean_over_the_window(history, earlier, later):
    states, means = history
    before = means[earlier - 1] if earlier else {name: torch.zeros_like(value) for name, value in means[0].items()}
    found = window_mean(means[later - 1], later, before, earlier)
    for name, value in found.items():
        plain = torch.stack([state[name] for state in states[earlier:later]]).mean(dim=0)
        torch.testing.assert_close(value, plain, rtol=1e-5, atol=3e-6)


def test_an_empty_window_is_refused(history):
    with pytest.raises(ValueError, match="3 and 3"):
        window_mean(history[1][2], 3, history[1][2], 3)


def test_a_loaded_average_goes_on_as_the_saved_one():
    module = torch.nn.Linear(2, 2)
    first, second = RunningAverage(module), RunningAverage(module)
    for step in range(4):
        torch.nn.init.constant_(module.weight, step)
        first.update(module)
        if step == 1:
            second.load(first.mean, first.count)
        elif step > 1:
            second.update(module)
    assert second.count == 4 and (second.mean["weight"] == first.mean["weight"]).all()
    assert (first.mean["weight"] - 1.5).abs().max() < 1e-6
