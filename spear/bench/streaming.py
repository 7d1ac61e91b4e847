"""Streaming encoders: processor time a second of audio, time and latency of a chunk, and what a stream remembers.

    spear bench streaming
    spear bench streaming --quick true
    spear bench streaming --checkpoint exp/student        # causal: true

Noise is given in packets of 20 ms to one stream, on one thread. `latency` is from the first sample of a chunk until its
last frame is there: the audio that must be waited for, and the clock of the computation.
"""

import time
from dataclasses import dataclass

import torch

from spear import config, log
from spear.bench import _memory
from spear.bench._report import environment, markdown_table, setting, tell
from spear.errors import ConfigError
from spear.models.config import SpearConfig
from spear.models.loading import load_model
from spear.models.spear import SpearModel
from spear.nn import ChunkSize
from spear.seeds import seed_global, torch_rng
from spear.streaming import StreamingEncoder

_HEADER = (
    "encoder",
    "chunk ms",
    "CPU s a second of audio",
    "chunk: median ms",
    "chunk: slowest ms",
    "latency ms",
    "state MB",
    "memory grown by MB",
)
_PACKET = 320
_FRAME_MS = 20
_SIZES = {
    "base": SpearConfig.base,
    "mini": lambda **changes: SpearConfig(
        num_encoder_layers="1,1,1,1,1,1,1",
        encoder_dim=128,
        encoder_unmasked_dim=96,
        feedforward_dim=256,
        num_heads=4,
        query_head_dim=16,
        subsampling_channels="8,16,32",
        **changes,
    ),
}


@dataclass
class StreamingBenchConfig:
    """Settings of `spear bench streaming`."""

    sizes: str = setting("base,mini", "encoders with random weights: base, and mini as in egs/mini/spear")
    checkpoint: str = setting("", "a trained encoder with causal: true instead of them")
    chunks_ms: str = setting("320,640,1280", "lengths of chunks; multiples of 160")
    left_context_ms: int = setting(2560, "before a chunk")
    seconds: float = setting(60.0, "of audio in each stream")
    output: str = setting("", "Markdown file for the table; it is printed in any case")
    quick: bool = setting(False, "a tenth of the audio")


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, measures, prints the table."""
    settings = config.parse(StreamingBenchConfig, argv, description=__doc__)
    log.setup()
    torch.set_num_threads(1)
    before = environment()
    seconds = settings.seconds / (10 if settings.quick else 1)
    rows = []
    for name in [settings.checkpoint] if settings.checkpoint else settings.sizes.split(","):
        model = load_model(name).eval() if settings.checkpoint else _random(name)
        for chunk_ms in map(int, settings.chunks_ms.split(",")):
            rows.append((name, chunk_ms, *_measure(model, chunk_ms, settings.left_context_ms, seconds)))
    tell(markdown_table(_HEADER, rows), before, settings.output)
    return 0


def _random(size: str) -> SpearModel:
    if size not in _SIZES:
        raise ConfigError(f"size '{size}'", f"one of {', '.join(_SIZES)}", "correct --sizes")
    seed_global(0, "bench_streaming")
    return SpearModel(_SIZES[size](causal=True)).eval()


def _measure(model: SpearModel, chunk_ms: int, left_context_ms: int, seconds: float) -> tuple:
    encoder = StreamingEncoder(model, ChunkSize(chunk_ms // _FRAME_MS, left_context_ms // _FRAME_MS))
    samples = 0.1 * torch.randn(max(1, round(16000 * seconds)), generator=torch_rng(0, "bench_streaming"))
    _, state = encoder.accept(encoder.start(), samples[: 2 * 16 * (chunk_ms + left_context_ms)])  # warm, and full
    state, clocks, resident = {name: value.clone() for name, value in state.items()}, [], _memory.resident_bytes()
    cpu = time.process_time()
    for packet in samples.split(_PACKET):
        start = time.perf_counter()
        frames_TD, state = encoder.accept(state, packet)
        if len(frames_TD):
            clocks.append(1000 * (time.perf_counter() - start))
    cpu, grown = time.process_time() - cpu, _memory.resident_bytes()
    grown = None if grown is None or resident is None else (grown - resident) / 1e6
    megabytes = sum(value.numel() * value.element_size() for value in state.values()) / 1e6
    if not clocks:
        raise ConfigError(
            f"{seconds:g} s of audio, which end no chunk of {chunk_ms} ms", "several chunks", "raise --seconds"
        )
    clocks.sort()
    median = clocks[len(clocks) // 2]
    latency = 1000 * encoder.latency_seconds + median
    return cpu / seconds, median, clocks[-1], latency, megabytes, grown
