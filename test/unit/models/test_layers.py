"""What heads of fine-tuning read: one layer or a weighted sum, against sums written out."""

from types import SimpleNamespace

import pytest
import torch

from spear import SpearConfig
from spear.errors import ConfigError
from spear.models.layers import LayerMix
from spear.models.pretrain import SpearPretrainModel
from spear.optim import Eden, ScaledAdam

SIZES = {"num_encoder_layers": "1,2", "downsampling_factor": "1,2", "encoder_dim": "32,48", "num_heads": "2"}
SIZES |= {"encoder_unmasked_dim": "24,32", "feedforward_dim": "48", "cnn_module_kernel": "15", "query_head_dim": "8"}
SIZES |= {"subsampling_channels": "4,4,8", "exact_padding": True}


class Reading(torch.nn.Module):
    """A head that does nothing but read layers."""

    def __init__(self, encoder, layers):
        super().__init__()
        self.mix = LayerMix(encoder, layers)
        self.wants_layers = self.mix.wants_layers


def model_of(layers: str, factor: int = 1) -> SpearPretrainModel:
    torch.manual_seed(0)
    head = SimpleNamespace(build=lambda encoder, scale: Reading(encoder, layers))
    return SpearPretrainModel(SpearConfig(**SIZES, output_downsampling_factor=factor), {"head": head}).eval()


def encoded_of(model, lens):
    torch.manual_seed(1)
    features_BTF = torch.full((len(lens), max(lens), 128), -23.0)
    for row, length in zip(features_BTF, lens):
        row[:length] = torch.randn(length, 128)
    return model.encode_masked(features_BTF, torch.tensor(lens))


def test_the_last_layer_is_the_encoders_output():
    model = model_of("last", factor=2)
    encoded = encoded_of(model, [60])
    mix = model.heads["head"].mix
    assert mix.dim == model.output_dim and not list(mix.parameters())
    assert mix(encoded) is encoded.hidden_BTD and encoded.embed_BTD is None


@pytest.mark.parametrize("factor", [1, 2])
def test_the_weighted_sum_is_that_over_all_states_at_the_rate_of_the_output(factor):
    model = model_of("weighted", factor)
    mix, lens = model.heads["head"].mix, [61, 90]
    with torch.no_grad():
        mix.logits_L.copy_(torch.tensor([0.3, -1.0, 2.0, 0.5]))
    encoded = encoded_of(model, lens)
    mixed_BTD = mix(encoded)
    assert mixed_BTD.shape == (2, encoded.hidden_BTD.shape[1], 48) and mix.dim == 48
    weights = torch.tensor([0.3, -1.0, 2.0, 0.5]).exp()
    weights = (weights / weights.sum()).tolist()
    states = [encoded.embed_BTD, *encoded.layers]
    assert [state.shape[2] for state in states] == [32, 32, 48, 48]
    for row in range(2):
        for frame in range(int(encoded.lens_B[row])):
            last = min((frame + 1) * factor, int(encoded.layer_lens_B[row]))
            expected = torch.zeros(48)
            for weight, state in zip(weights, states):
                expected[: state.shape[2]] += weight * state[row, frame * factor : last].mean(0)
            torch.testing.assert_close(mixed_BTD[row, frame], expected)


@pytest.mark.parametrize("factor", [1, 2])
def test_padding_changes_nothing_that_is_valid(factor):
    model = model_of("weighted", factor)
    together, alone = encoded_of(model, [61, 90]), encoded_of(model, [61])
    mix, frames = model.heads["head"].mix, int(alone.lens_B[0])
    torch.testing.assert_close(mix(together)[0, :frames], mix(alone)[0, :frames], rtol=1e-4, atol=1e-5)


def test_equal_weights_at_first_and_the_optimiser_moves_them():
    """Ten steps towards one state change its share; from zeros they would not, see `LayerMix`."""
    mix = LayerMix(model_of("weighted"), "weighted")
    assert mix.logits_L.softmax(0).tolist() == pytest.approx([0.25] * 4)
    optimizer = ScaledAdam(mix.parameters(), lr=0.045)
    schedule = Eden(optimizer, warmup_batches=0)
    for step in range(10):
        schedule.step_batch(step)
        (-mix.logits_L.log_softmax(0)[2]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(mix.logits_L.detach().softmax(0)[2]) > 0.32


def test_another_word_for_layers_is_refused():
    with pytest.raises(ConfigError, match="layers: 'all'\n.*last, weighted"):
        LayerMix(model_of("last"), "all")
