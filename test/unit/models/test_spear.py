"""The encoder: lengths, padding, training-mode behaviour."""

import copy
import json
import subprocess
import sys

import pytest
import torch

import spear
from spear.audio import LOG_FLOOR
from spear.errors import DataError
from spear.nn import set_batch_count

TINY = dict(
    encoder_dim="32",
    feedforward_dim="48",
    encoder_unmasked_dim="16",
    num_encoder_layers="1,1,1,1,1,1,1",
    num_heads="4",
    query_head_dim="8",
    cnn_module_kernel="7,7,5,5,5,7,7",
    subsampling_channels="2,4,8",
)


def make_model(seed=0, **changes):
    torch.manual_seed(seed)
    return spear.SpearModel(spear.SpearConfig(**{**TINY, **changes})).eval()


def features(*lens, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lens), max(lens), 128, generator=generator) * 3 - 6
    for row, length in zip(x, lens):
        row[length:] = LOG_FLOOR
    return x, torch.tensor(lens)


def training_step(model, x, lens, dtype=None):
    """Loss and gradients of one step in training mode."""
    model.train().zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        loss = model.encode(x, lens).encoder_out.float().square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("frames", [9, 10, 23, 24, 70, 131])
@pytest.mark.parametrize("factor", [1, 2])
def test_lengths(frames, factor):
    model = make_model(output_downsampling_factor=factor)
    with torch.no_grad():
        output = model.encode(*features(frames, 9))
    at_50_hz = [(frames - 7) // 2, 1]
    assert output.encoder_out_lens.tolist() == [-(-n // factor) for n in at_50_hz]
    assert output.encoder_out.shape == (2, -(-at_50_hz[0] // factor), 32)
    assert [tuple(x.shape) for x in output.hidden_states] == [(2, at_50_hz[0], 32)] * 7


def test_the_last_hidden_state_is_the_output():
    output = make_model().encode(*features(60))
    assert output.hidden_states[-1] is output.encoder_out
    assert make_model().encode(*features(60), with_hidden_states=False).hidden_states == []


def test_audio_and_its_features_give_the_same():
    model, audio = make_model(), 0.1 * torch.randn(2, 8000)
    lens = torch.tensor([8000, 5000])
    with torch.no_grad():
        torch.testing.assert_close(model(audio, lens).encoder_out, model.encode(*model.fbank(audio, lens)).encoder_out)
        assert model(audio).encoder_out_lens.tolist() == [21, 21]


def test_audio_that_is_too_short_is_refused():
    with pytest.raises(DataError, match="9 frames"):
        make_model()(torch.zeros(1, 1000), torch.tensor([1000]))


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("widths", ["32", "16,32,32,48,32,32,16"])
def test_an_utterance_alone_equals_itself_in_a_padded_batch(factor, widths):
    model = make_model(exact_padding=True, output_downsampling_factor=factor, encoder_dim=widths)
    lens = (150, 97, 62, 41, 9)
    x, lens_B = features(*lens)
    with torch.no_grad():
        batch = model.encode(x, lens_B)
        for row, length in enumerate(lens):
            alone = model.encode(x[row : row + 1, :length], lens_B[row : row + 1])
            for ours, whole in zip(
                [*alone.hidden_states, alone.encoder_out], [*batch.hidden_states, batch.encoder_out]
            ):
                torch.testing.assert_close(ours[0], whole[row, : ours.shape[1]], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("count", [0.0, 3000.0, 1e6])
def test_training_gradients_are_finite_and_reach_every_parameter(dtype, count):
    model = make_model()
    set_batch_count(model, count)
    for seed in range(3):
        torch.manual_seed(seed)
        loss, gradients = training_step(model, *features(120, 80, 60, 50), dtype=dtype)
        assert torch.isfinite(loss)
        missing = [name for name, grad in gradients.items() if grad is None]
        assert not missing, missing
        assert all(torch.isfinite(grad).all() for grad in gradients.values())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_same_global_seed_gives_the_same_step(dtype):
    model = make_model()
    set_batch_count(model, 100.0)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(training_step(model, *features(120, 80), dtype=dtype))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(results[0][1][name], grad) for name, grad in results[1][1].items())
    assert not torch.equal(results[0][0], results[2][0])


def test_training_without_randomness_equals_evaluation_when_schedules_end():
    """At the end of all schedules only dropout, feature masks and rare layer skips remain."""
    model = make_model(encoder_unmasked_dim="32", gradient_regularisers=False)
    for part in model.modules():
        if isinstance(part, spear.nn.ScheduledFloat):
            part.value = 0.0
        if hasattr(part, "dropout") and isinstance(part.dropout, float):
            part.dropout = 0.0
    x, lens = features(80, 60)
    with torch.no_grad():
        torch.testing.assert_close(model.train().encode(x, lens).encoder_out, model.eval().encode(x, lens).encoder_out)


def test_evaluation_draws_nothing_from_the_global_generator():
    model = make_model()
    before = torch.get_rng_state()
    model.encode(*features(80))
    assert torch.equal(before, torch.get_rng_state())


def test_bfloat16_stays_close_to_float32():
    model = make_model()
    x, lens = features(100, 60)
    with torch.no_grad():
        exact = model.encode(x, lens).encoder_out
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model.encode(x, lens).encoder_out
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() / exact.norm() < 0.03


def test_a_few_steps_lower_a_loss():
    model = make_model()
    set_batch_count(model, 1e6)
    x, lens = features(80, 80)
    target = torch.randn(2, 36, 32)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(40):
        torch.manual_seed(step)
        loss = (model.train().encode(x, lens).encoder_out - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_models_can_be_copied():
    model = make_model()
    x, lens = features(60)
    assert torch.equal(copy.deepcopy(model).encode(x, lens).encoder_out, model.encode(x, lens).encoder_out)


def test_importing_spear_imports_no_torch():
    code = "import sys, spear, json; print(json.dumps(['torch' in sys.modules, spear.__version__]))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(output)[0] is False
    with pytest.raises(AttributeError):
        spear.no_such_name  # noqa: B018
