"""Audio that is encoded while it arrives gives the frames of the whole, whatever the packets."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SEVEN_STACKS, TWO_WIDTHS

from spear import SpearConfig, SpearModel
from spear.errors import ConfigError, DataError
from spear.nn import WHOLE, ChunkSize
from spear.seeds import torch_rng
from spear.streaming import StreamingEncoder

CAUSAL = {"causal": True, "chunk_size": "16,32", "left_context_frames": "32,64"}
MODELS = {
    "two widths": TWO_WIDTHS | CAUSAL | {"exact_padding": True},
    "as published": SEVEN_STACKS | CAUSAL,
    "25 Hz": SEVEN_STACKS | CAUSAL | {"output_downsampling_factor": 2},
}


def make(name: str) -> SpearModel:
    torch.manual_seed(0)
    model = SpearModel(SpearConfig(**MODELS[name]))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(
                ("chunkwise_conv_scale", "downsample.bias", "linear_pos.weight", "convnext.depthwise_conv.bias")
            ):
                parameter.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return make(request.param)


def audio(seconds: float) -> torch.Tensor:
    return 0.1 * torch.randn(round(16000 * seconds), generator=torch_rng(0, "streaming", seconds))


def packets(samples: torch.Tensor, *lengths: int):
    """Cuts the samples into packets of these lengths, again and again."""
    start, number = 0, 0
    while start < len(samples):
        length = lengths[number % len(lengths)]
        yield samples[start : start + length]
        start, number = start + length, number + 1


def streamed(encoder: StreamingEncoder, parts) -> torch.Tensor:
    state, found = encoder.start(), []
    for part in parts:
        frames_TD, state = encoder.accept(state, part)
        found.append(frames_TD)
    last_TD, _ = encoder.finish(state)
    return torch.cat([*found, last_TD])


@torch.no_grad()
def whole(model: SpearModel, samples: torch.Tensor, size: ChunkSize) -> torch.Tensor:
    return model(samples[None], chunk_size=size).encoder_out[0]


@pytest.mark.parametrize("size", [ChunkSize(16, 32), ChunkSize(32, 64), ChunkSize(64, 16)])
@pytest.mark.parametrize("lengths", [(16,), (1600,), (1, 160, 7919), (160000,)])
def test_any_packets_give_the_frames_of_the_whole(model, size, lengths):
    samples = audio(0.6 if lengths == (16,) else 4.03)
    found, expected = streamed(StreamingEncoder(model, size), packets(samples, *lengths)), whole(model, samples, size)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("milliseconds", [86, 95, 120, 333, 641, 700, 1290])
def test_audio_of_any_length_ends_as_the_whole_does(model, milliseconds):
    samples, size = audio(milliseconds / 1000), ChunkSize(16, 32)
    found, expected = streamed(StreamingEncoder(model, size), packets(samples, 333)), whole(model, samples, size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_audio_without_a_frame_gives_none():
    encoder = StreamingEncoder(make("two widths"), ChunkSize(16, 32))
    assert len(streamed(encoder, [torch.zeros(0)])) == len(streamed(encoder, [audio(0.05)])) == 0
    assert streamed(encoder, []).shape == (0, encoder.model.output_dim)


def test_many_streams_share_an_encoder_and_old_states_go_on_from_where_they_were():
    encoder, size = StreamingEncoder(make("two widths"), ChunkSize(16, 32)), ChunkSize(16, 32)
    waves = [audio(0.5 + 0.02 * number) for number in range(64)]
    states, found = [encoder.start() for _ in waves], [[] for _ in waves]
    for start in range(0, 30000, 3000):
        for number, samples in enumerate(waves):
            before = {name: value.clone() for name, value in states[number].items()}
            frames_TD, state = encoder.accept(states[number], samples[start : start + 3000])
            assert all(torch.equal(value, before[name]) for name, value in states[number].items())
            states[number] = state
            found[number].append(frames_TD)
    for number, samples in enumerate(waves):
        frames_TD = torch.cat([*found[number], encoder.finish(states[number])[0]])
        torch.testing.assert_close(frames_TD, whole(encoder.model, samples, size), atol=1e-5, rtol=1e-5)


def test_a_state_is_saved_and_goes_on_elsewhere(tmp_path):
    size, samples = ChunkSize(16, 32), audio(2.0)
    encoder = StreamingEncoder(make("as published"), size)
    first_TD, state = encoder.accept(encoder.start(), samples[:17001])
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "state.safetensors")
    other = StreamingEncoder(make("as published"), size)
    middle_TD, state = other.accept(load_file(tmp_path / "state.safetensors"), samples[17001:])
    found = torch.cat([first_TD, middle_TD, other.finish(state)[0]])
    torch.testing.assert_close(found, whole(encoder.model, samples, size), atol=1e-5, rtol=1e-5)


def test_a_state_of_another_encoder_is_refused():
    encoder = StreamingEncoder(make("two widths"), ChunkSize(16, 32))
    _, state = encoder.accept(encoder.start(), audio(0.7))
    torch.manual_seed(1)
    twin = SpearModel(SpearConfig(**MODELS["two widths"])).eval()
    foreign = [
        state | {"chunk": torch.tensor([16, 64])},
        state | {"done": torch.zeros(2)},
        {"samples": state["samples"]},
        {},
    ]
    foreign += [state | {"layer0.keys": None}, state | {"layer0.keys": state["layer0.keys"][:, :-1]}]
    for wrong in foreign:
        with pytest.raises(DataError, match="not of this encoder"):
            encoder.accept(wrong, audio(0.1))
    for other in (StreamingEncoder(twin, ChunkSize(16, 32)), StreamingEncoder(encoder.model, ChunkSize(32, 32))):
        with pytest.raises(DataError, match="another model|ChunkSize"):
            other.finish(state)


def test_what_is_remembered_does_not_grow_and_the_latency_is_what_is_said():
    size = ChunkSize(16, 32)
    encoder = StreamingEncoder(make("as published"), size)
    state, sizes, samples, needed = encoder.start(), [], audio(6.0), []
    for number, part in enumerate(packets(samples, 80)):
        frames_TD, state = encoder.accept(state, part)
        sizes.append(sum(value.numel() for value in state.values()))
        needed += [80 * (number + 1)] if len(frames_TD) else []
    assert max(sizes[len(sizes) // 2 :]) <= max(sizes[: len(sizes) // 2])
    chunk = 320 * size.frames
    assert all(0 <= end - chunk * number - 16000 * encoder.latency_seconds < 80 for number, end in enumerate(needed))


def test_what_cannot_stream_is_refused():
    model = make("two widths")
    for size in (ChunkSize(WHOLE, 32), ChunkSize(16)):
        with pytest.raises(ConfigError, match="stream"):
            StreamingEncoder(model, size)
    with pytest.raises(ConfigError, match="multiples of 2"):
        StreamingEncoder(model, ChunkSize(15, 32))
    with pytest.raises(ConfigError, match="whole utterances"):
        StreamingEncoder(SpearModel(SpearConfig(**TWO_WIDTHS)).eval(), ChunkSize(16, 32))
    with pytest.raises(ConfigError, match="training"):
        StreamingEncoder(make("two widths").train(), ChunkSize(16, 32))
    encoder = StreamingEncoder(model, ChunkSize(16, 32))
    integers = torch.zeros(160, dtype=torch.int16)  # whose scale is not that of the model
    for samples in (torch.zeros(1, 160), torch.full((160,), float("nan")), integers, integers.numpy()):
        with pytest.raises(DataError, match="samples"):
            encoder.accept(encoder.start(), samples)
