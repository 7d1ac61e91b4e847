"""Exported encoders on a CPU: seconds of computation for a second of audio, torch beside ONNX in float32 and int8.

    spear bench export
    spear bench export --checkpoint exp/student --seconds 20

All run on features, with one thread, in turn in this process; the best of several passes counts, in seconds of the
processor, so that others on the machine change little. Without a checkpoint the encoder has the Base sizes and random
weights, which take the same time. Needs the packages of `spear[export]`.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from spear import config, fs, log
from spear.bench._report import environment, markdown_table, setting
from spear.export.onnx import session, write_onnx
from spear.export.source import Source, read_source
from spear.models.config import SpearConfig
from spear.models.spear import SpearModel
from spear.seeds import torch_rng

_HEADER = ("encoder", "seconds for a second", "times faster than audio", "MB")


@dataclass
class ExportBenchConfig:
    """Settings of `spear bench export`."""

    checkpoint: str = setting("", "an encoder; empty: Base sizes with random weights")
    seconds: float = setting(10.0, "length of the recording")
    batch: int = setting(1, "recordings at once")
    passes: int = setting(3, "the best of which counts")
    output: str = setting("", "Markdown file for the table; it is printed in any case")


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, measures, prints the table."""
    settings = config.parse(ExportBenchConfig, argv, description=__doc__)
    log.setup()
    torch.set_num_threads(1)
    if settings.checkpoint:
        source = read_source(settings.checkpoint, encoder_only=True)
    else:
        source = Source(SpearModel(SpearConfig.base()).eval())
    frames = round(100 * settings.seconds)
    rng = torch_rng(0, "bench_export")
    features = torch.randn(settings.batch, frames, source.config.num_mel_bins, generator=rng) - 8
    lens = torch.full((settings.batch,), frames)
    with tempfile.TemporaryDirectory(prefix="spear-bench-") as folder:
        differences = write_onnx(source, Path(folder), ("float32", "int8"))
        with torch.inference_mode():
            rows = [_row("torch", lambda: source.model.encode(features, lens, with_hidden_states=False), settings)]
        rows[0] += (sum(p.numel() for p in source.model.parameters()) * 4 / 1e6,)
        inputs = {"x": features.numpy(), "x_lens": lens.numpy()}
        for name, file in (("ONNX float32", "encoder.onnx"), ("ONNX int8", "encoder.int8.onnx")):
            path = Path(folder) / file
            running = session(path)
            row = _row(name, lambda running=running: running.run(None, inputs), settings)
            rows.append((*row, path.stat().st_size / 1e6))
    facts = [*differences, *(f"{name.replace('_', ' ')}: `{value}`" for name, value in environment().items())]
    text = markdown_table(_HEADER, rows) + "\n\n" + "\n".join(f"- {fact}" for fact in facts) + "\n"
    print(text)
    if settings.output:
        fs.write_text(settings.output, text)
    return 0


def _row(name: str, run, settings: ExportBenchConfig) -> tuple:
    times = []
    for _ in range(settings.passes + 1):  # the first one makes room and tables
        start = time.process_time()
        with torch.inference_mode():
            run()
        times.append(time.process_time() - start)
    factor = min(times[1:]) / (settings.seconds * settings.batch)
    return name, factor, 1 / factor
