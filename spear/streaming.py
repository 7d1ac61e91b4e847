"""Encodes audio while it arrives.

    encoder = StreamingEncoder(model, ChunkSize(frames=32, left_context_frames=128))
    state = encoder.start()
    for samples in packets:                             # of any length
        frames_TD, state = encoder.accept(state, samples)
    frames_TD, state = encoder.finish(state)

All that is remembered is in `state`, a dictionary of tensors: it may be copied, kept for any number of streams, or
saved (`safetensors.torch.save_file`) and continued elsewhere. Nothing is changed in place, so an old state goes on from
where it was. Frames are those of `model(audio, chunk_size=...)` on the whole audio, whatever the packets. Memory does
not grow with the audio.

A chunk is encoded as soon as the front end has what its last frame needs, 138 ms beyond the chunk. Zipformer: Yao et
al., arXiv 2310.11230.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear.errors import ConfigError, DataError
from spear.models.spear import SpearModel
from spear.nn.attention import AttentionWeights, NonlinAttention, SelfAttention
from spear.nn.chunks import WHOLE, ChunkSize
from spear.nn.convolution import ChunkCausalConv, ConvolutionModule
from spear.nn.layer import ZipformerLayer
from spear.nn.resample import upsample, with_channels
from spear.nn.stack import DownsampledStack, ZipformerStack

State = dict[str, Tensor]

_EMBEDDING_REACH = 3
"""Embeddings on either side that the ConvNeXt layer of the front end sees."""
_FRAMES_AHEAD = 13
"""Feature frames that do not make an embedding yet: 7 of the convolutions, and 2 for each embedding of that reach."""


class StreamingEncoder:
    """A causal encoder that is given its audio in packets.

    Args:
        model: with `causal: true`, in evaluation mode.
        size: the chunks, and a left context that is not the whole past.

    Raises:
        ConfigError: the model does not hear in chunks, or not in such.
    """

    def __init__(self, model: SpearModel, size: ChunkSize):
        model.config.check_chunk_size(size)
        if WHOLE in size:
            raise ConfigError(f"a stream with {size}", "a chunk and a left context of so many frames", "give both")
        if model.training:
            raise ConfigError("a model in training mode", "a model that only hears", "call model.eval()")
        self.model, self.size = model, size
        config = model.fbank.config
        self.shift = config.shift_samples
        # Samples beyond the end of a feature frame's shift that its window covers.
        self._overhang = (config.window_samples - config.shift_samples) // 2
        self._layers = [(f"layer{number}.", layer) for number, layer in enumerate(model.layers())]
        self._known = self.start()

    @property
    def latency_seconds(self) -> float:
        """From the first sample of a chunk until the sample with which it can be encoded, at most."""
        frames = 2 * self.size.frames + _FRAMES_AHEAD
        return (self.shift * frames + self._overhang) / self.model.fbank.config.sample_rate_hz

    def start(self) -> State:
        """The state before the first sample."""
        device, dtype = self.model.device, torch.float32
        state = {
            # Samples from before the next feature frame, feature frames from before the next embedding, and how many of
            # samples, feature frames and embeddings are done with.
            "samples": torch.zeros(0, dtype=dtype, device=device),
            "features": torch.zeros(0, self.model.config.num_mel_bins, dtype=dtype, device=device),
            "done": torch.zeros(3, dtype=torch.int64),
            # Whose state it is: the chunks, and some weights as a name of the model.
            "chunk": torch.tensor(self.size),
            "weights": self.model.encoder_embed.out.bias.detach()[:8].float().cpu().clone(),
        }
        for name, layer in self._layers:
            for key, width in _widths(layer).items():
                state[name + key] = torch.zeros(0, width, dtype=dtype, device=device)
            for key, convolution in (("conv1", layer.conv_module1), ("conv2", layer.conv_module2)):
                conv = convolution.depthwise_conv.chunkwise_conv
                state[name + key] = torch.zeros(conv.kernel_size[0] // 2, conv.in_channels, dtype=dtype, device=device)
        return state

    @torch.no_grad()
    def accept(self, state: State, samples: Tensor) -> tuple[Tensor, State]:
        """The frames that some more audio completes, (T, D), and the state behind it.

        Args:
            samples: (S,) float in [-1, 1] at 16 kHz; S may be 0.

        Raises:
            DataError: samples of another shape, that are not finite, or whole numbers, whose scale is not known; or a
                state of another model, of other chunks, or of none.
        """
        return self._run(state, samples, is_last=False)

    @torch.no_grad()
    def finish(self, state: State) -> tuple[Tensor, State]:
        """The frames that are left, (T, D), now that no audio will come. The state is that of a new stream."""
        frames_TD, _ = self._run(state, torch.zeros(0), is_last=True)
        return frames_TD, self.start()

    def _run(self, state: State, samples: Tensor, is_last: bool) -> tuple[Tensor, State]:
        samples = torch.as_tensor(samples)
        if samples.dim() != 1 or not samples.is_floating_point() or not samples.isfinite().all():
            what = "samples that are not finite" if samples.is_floating_point() else f"samples of type {samples.dtype}"
            raise DataError(
                f"samples of shape {tuple(samples.shape)}" if samples.dim() != 1 else what,
                "one channel of floats in [-1, 1]",
                "give (S,) float samples at 16 kHz; those of 16 bits are divided by 32768",
            )
        self._check(state)
        state = self._with_features(state, samples.to(state["samples"]), is_last)
        found, (_, frames, done) = [], state["done"].tolist()
        # Frames in "features" begin with the first that the next embedding's neighbours are made of.
        ready = max(0, (frames - 7) // 2 if is_last else (frames - _FRAMES_AHEAD) // 2) - done
        while ready >= self.size.frames or (is_last and ready > 0):
            count = min(ready, self.size.frames)
            out_TD, state = self._chunk(state, count)
            found.append(out_TD)
            ready -= count
        empty = torch.zeros(0, self.model.output_dim, device=self.model.device)
        return torch.cat(found) if found else empty, state

    def _check(self, state: State) -> None:
        """Refuses a state that this encoder did not make."""
        known, what = self._known, "a part is missing or of another shape"
        is_whole = state.keys() == known.keys() and all(
            isinstance(state[name], Tensor)
            and state[name].dim() == value.dim()
            and state[name].dtype == value.dtype
            and state[name].shape[1:] == value.shape[1:]
            for name, value in known.items()
        )
        if is_whole and state["chunk"].tolist() != list(self.size):
            is_whole, what = False, f"it is of {ChunkSize(*state['chunk'].tolist())}"
        elif is_whole and not torch.equal(state["weights"], known["weights"]):
            is_whole, what = False, "it is of another model"
        if not is_whole:
            raise DataError(
                f"a state that is not of this encoder: {what}",
                f"what start() and accept() of an encoder with the same model and {self.size} gave",
                "start() a new stream, or go on with the encoder that the state is of",
            )

    def _with_features(self, state: State, more_S: Tensor, is_last: bool) -> State:
        """Turns samples into feature frames as far as their windows are complete."""
        dropped, frames, embedded = state["done"].tolist()
        samples = torch.cat([state["samples"], more_S])
        total = dropped + len(samples)
        complete = self.model.fbank.num_frames(total) if is_last else max(0, (total - self._overhang) // self.shift)
        if complete <= frames:
            return state | {"samples": samples}
        features_BTF, _ = self.model.fbank(samples[None])
        first = dropped // self.shift
        features = torch.cat([state["features"], features_BTF[0, frames - first : complete - first]])
        # The window of the next frame begins less than a shift before it.
        keep = max(0, complete - 1) * self.shift
        done = torch.tensor([keep, complete, embedded])
        return state | {"samples": samples[keep - dropped :], "features": features, "done": done}

    def _chunk(self, state: State, count: int) -> tuple[Tensor, State]:
        """Encodes the next `count` embeddings, a chunk or what is left of one."""
        dropped, frames, done = state["done"].tolist()
        first = max(0, done - _EMBEDDING_REACH)
        needed = 2 * (done + count - first) + _FRAMES_AHEAD
        x_BTD = self.model.encoder_embed(state["features"][None, :needed], None)[:, done - first : done - first + count]
        state, outputs, encoder, layers = dict(state), [], self.model.encoder, iter(self._layers)
        for sizes, stack in zip(encoder.sizes, encoder.encoders):
            x_BTD = low_BTD = with_channels(x_BTD, sizes.dim)
            if isinstance(stack, DownsampledStack):
                low_BTD = stack.downsample(x_BTD)
            for _ in _stack(stack).layers:
                low_BTD = self._layer(state, *next(layers), sizes.downsampling, low_BTD, done == 0)
            if isinstance(stack, DownsampledStack):
                low_BTD = stack.out_combiner(x_BTD, upsample(low_BTD, sizes.downsampling, count))
            x_BTD = low_BTD
            outputs.append(x_BTD)
        out_BTD = encoder.full_width(outputs)
        if encoder.downsample_output is not None:
            out_BTD = encoder.downsample_output(out_BTD)
        done += count
        state["features"] = state["features"][2 * (max(0, done - _EMBEDDING_REACH) - first) :]
        state["done"] = torch.tensor([dropped, frames, done])
        return out_BTD[0], state

    def _layer(
        self, state: State, name: str, layer: ZipformerLayer, factor: int, x_BTD: Tensor, is_first: bool
    ) -> Tensor:
        """`ZipformerLayer.forward` on one chunk; replaces what the layer remembers in `state`."""
        frames = self.size.frames // factor
        chunks = max(1, self.size.left_context_frames // self.size.frames)

        def remembered(key: str, new_BTC: Tensor) -> Tensor:
            joined_BTC = torch.cat([state[name + key][None], new_BTC], dim=1)
            state[name + key] = joined_BTC[0, -chunks * frames :]
            return joined_BTC

        def convolved(key: str, part: ConvolutionModule, x_BTD: Tensor) -> Tensor:
            gated_BTD = F.glu(part.in_proj(x_BTD), dim=-1)
            # A model that is not exact about padding takes an utterance shorter than the chunk for a chunk.
            short = is_first and not part.depthwise_conv.exact_padding
            length = min(frames, x_BTD.shape[1]) if short else frames
            y_BTD, state[name + key] = _convolution(part.depthwise_conv, gated_BTD, state[name + key], length)
            return part.out_proj(y_BTD)

        original = x = x_BTD
        weights_HTS = _weights(layer.self_attn_weights, x, remembered, self._positions)
        x = x + layer.feed_forward1(x)
        x = x + _nonlin(layer.nonlin_attention, x, weights_HTS[:1], remembered)
        x = x + _attention(layer.self_attn1, x, weights_HTS, remembered, "values1")
        x = x + convolved("conv1", layer.conv_module1, x)
        x = x + layer.feed_forward2(x)
        x = layer.bypass_mid(original, x)
        x = x + _attention(layer.self_attn2, x, weights_HTS, remembered, "values2")
        x = x + convolved("conv2", layer.conv_module2, x)
        x = x + layer.feed_forward3(x)
        return layer.bypass(original, layer.norm(x))

    def _positions(self, num_frames: int) -> Tensor:
        return _stack(self.model.encoder.encoders[0]).positions(num_frames, self.model.device)


def _stack(part: nn.Module) -> ZipformerStack:
    return part.encoder if isinstance(part, DownsampledStack) else part


def _widths(layer: ZipformerLayer) -> dict[str, int]:
    """Channels of what a layer remembers of every frame of its left context."""
    return {
        "keys": layer.self_attn_weights.widths[0],
        "gated": layer.nonlin_attention.out_proj.in_features,
        "values1": layer.self_attn1.in_proj.out_features,
        "values2": layer.self_attn2.in_proj.out_features,
    }


def _weights(part: AttentionWeights, x_BTD: Tensor, remembered, positions) -> Tensor:
    """(heads, T, S) over the S frames of left context and chunk."""
    q, k, p = part.in_proj(x_BTD).split(part.widths, dim=-1)
    k_HSC, q_HTC, p_HTC = (part.split_heads(each) for each in (remembered("keys", k), q, p))
    num_keys, num_queries = k_HSC.shape[1], q_HTC.shape[1]
    position_RHC = part.linear_pos(positions(num_keys)).unflatten(1, (part.num_heads, -1))
    scores_HTR = torch.einsum("htc,rhc->htr", p_HTC, position_RHC)
    # The query t is frame S - T + t of them; row r of the positions holds the offset r - (S - 1).
    keys_S, queries_T = torch.arange(num_keys, device=x_BTD.device), torch.arange(num_queries, device=x_BTD.device)
    rows_TS = keys_S - (num_keys - num_queries + queries_T).unsqueeze(1) + num_keys - 1
    scores_HTS = q_HTC @ k_HSC.mT + scores_HTR.gather(2, rows_TS.expand(part.num_heads, -1, -1))
    return scores_HTS.softmax(dim=-1)


def _attention(part: SelfAttention, x_BTD: Tensor, weights_HTS: Tensor, remembered, key: str) -> Tensor:
    values_BSC = remembered(key, part.in_proj(x_BTD))
    mixed_HTC = weights_HTS @ values_BSC[0].unflatten(1, (part.num_heads, -1)).transpose(0, 1)
    return part.out_proj(mixed_HTC.transpose(0, 1).flatten(1)[None])


def _nonlin(part: NonlinAttention, x_BTD: Tensor, weights_1TS: Tensor, remembered) -> Tensor:
    s, x, y = part.in_proj(x_BTD).chunk(3, dim=-1)
    return part.out_proj((weights_1TS @ remembered("gated", x * torch.tanh(s))) * y)


def _convolution(part: ChunkCausalConv, x_BTC: Tensor, past_KC: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """The convolution of a chunk of `frames`, or of the beginning of one, and the frames that the next one sees."""
    num_frames, channels = x_BTC.shape[1:]
    joined_BTC = torch.cat([past_KC[None], x_BTC], dim=1)
    before_BCT = F.conv1d(joined_BTC.mT, part.causal_conv.weight, part.causal_conv.bias, groups=channels)
    padded_BCT = F.pad(x_BTC.mT, (0, frames - num_frames))
    conv = part.chunkwise_conv
    inside_BCT = F.conv1d(padded_BCT, conv.weight, conv.bias, padding=conv.padding[0], groups=channels)
    from_start_T = torch.arange(num_frames, device=x_BTC.device)
    scale_TC = part.scale(from_start_T, frames - 1 - from_start_T)
    y_BTC = before_BCT.mT + inside_BCT.mT[:, :num_frames] * scale_TC
    return y_BTC, joined_BTC[0, joined_BTC.shape[1] - len(past_KC) :]
