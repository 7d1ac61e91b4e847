"""Measures what extraction costs beyond its teachers: reading, quantising and writing, against forward passes alone.

    spear bench extract                                            # WavLM Base and Dasheng Base shapes, random weights
    spear bench extract --speech wavlm:FOLDER@21 --audio dasheng:FILE@-1 --device cuda --dtype bfloat16

The forward passes run on the very batches of extraction, with their audio in memory. Both are also given as processor
time of this process, which neighbours on the machine disturb less; its ratio counts reading threads too.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from spear import config, fs, log
from spear.audio import load_audio, save_audio
from spear.bench import _memory, _report
from spear.errors import require
from spear.quantize import Quantizer, save_quantizer
from spear.quantize.codec import DEFAULT_BEAM, DEFAULT_PASSES
from spear.seeds import numpy_rng
from spear.teachers import load_teacher
from spear.tokens.budget import estimate
from spear.tokens.extract import ExtractSettings, embed, extract
from spear.tokens.streams import Stream, load_streams
from spear.tokens.units import Unit, plan_batches


@dataclass
class BenchExtractConfig:
    """Settings of `spear bench extract`.

    Attributes:
        speech: spec of the speech teacher; empty: random weights of a WavLM of `size`.
        audio: spec of the audio teacher; empty: random weights of a Dasheng of `size`.
        size: small, base or large, of the teachers with random weights.
        seconds: of audio, in cuts of 4 to 16 s at 16 kHz in FLAC files.
        max_seconds: padded audio of a batch.
        speech_codebooks, audio_codebooks: of the quantizers, whose codebooks are random.
        refine_passes, beam: of the code search.
        dtype: float32 or bfloat16, of teachers with random weights.
        device: cpu or cuda.
        repeats: of each measurement; the fastest counts.
        output: a JSON file for the result; none when empty.
    """

    speech: str = ""
    audio: str = ""
    size: str = "base"
    seconds: float = 60.0
    max_seconds: float = 60.0
    speech_codebooks: int = 16
    audio_codebooks: int = 8
    refine_passes: int = DEFAULT_PASSES
    beam: int = DEFAULT_BEAM
    dtype: str = "float32"
    device: str = "cpu"
    repeats: int = 2
    output: str = ""


class _Cut(NamedTuple):
    id: str
    path: Path
    start_seconds: float
    duration_seconds: float
    num_samples: int
    domain: str
    speed: float = 1.0
    channel: int | None = None
    gain: float = 1.0


class _Time(NamedTuple):
    wall_seconds: float
    cpu_seconds: float


_WAVLM = {
    "small": {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 768},
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
_DASHENG = {"small": (192, 4, 6), "base": (768, 12, 12), "large": (1536, 40, 24)}


def main(argv: list[str] | None = None) -> int:
    """Measures and prints a table."""
    settings = config.parse(BenchExtractConfig, argv, description=__doc__)
    log.setup()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(settings, Path(folder))
    names = ("forward passes alone", "quantising alone", "reading alone", "extraction")
    rows = [
        (name, *(round(v, 2) for v in result[name]), round(settings.seconds / result[name].wall_seconds, 1))
        for name in names
    ]
    print(_report.markdown_table(("what", "s", "processor s", "x real time"), rows))
    print(
        f"extraction / forward passes: {result['wall_ratio']:.3f} by the clock, {result['cpu_ratio']:.3f} in processor "
        f"time\nbytes a second of audio: "
        + ", ".join(f"{name} {rate:.0f}" for name, rate in result["bytes_per_second"].items())
        + f"; disk {result['bytes_written']} of at most {result['bytes_estimated']} estimated"
    )
    for key, value in _report.environment().items():
        print(f"{key}: {value}")
    if settings.output:
        plain = {key: value._asdict() if isinstance(value, _Time) else value for key, value in result.items()}
        environment = {"settings": dataclasses.asdict(settings), "environment": _report.environment()}
        fs.write_json(settings.output, {**plain, **environment})
    return 0


def measure(settings: BenchExtractConfig, folder: Path) -> dict:
    """Times the parts and the whole.

    Returns:
        `_Time` of "forward passes alone", "quantising alone", "reading alone" and "extraction"; wall_ratio, cpu_ratio;
        bytes_per_second of audio by stream; bytes_written and bytes_estimated.
    """
    cuts = _make_cuts(folder / "audio", settings.seconds)
    streams = _make_streams(settings, folder)
    unit = Unit("bench-00000", tuple(cuts))
    batches = [
        [load_audio(cut.path, 16000, cut.start_seconds, cut.duration_seconds) for cut in batch]
        for batch in plan_batches(cuts, settings.max_seconds)
    ]
    teachers = {id(stream.teacher): stream.teacher for stream in streams}
    frames: dict[int, list] = {}

    def forward() -> None:
        for key, teacher in teachers.items():
            frames[key] = [torch.cat(embed(teacher, waves)) for waves in batches]
        _memory.wait_for(settings.device)

    def quantise() -> None:
        for stream in streams:
            for part in frames[id(stream.teacher)]:
                stream.rows(part)

    def read() -> None:
        for cut in cuts:
            load_audio(cut.path, 16000, cut.start_seconds, cut.duration_seconds)

    def whole() -> None:
        for stream in streams:
            for path in stream.directory.glob("bench-*"):
                path.unlink()
        extract([unit], streams, ExtractSettings(max_seconds=settings.max_seconds))

    for stream in streams:
        stream.prepare(overwrite=False)
    needed = estimate([unit], streams, folder, measure=False).bytes_needed
    parts = {"forward passes alone": forward, "quantising alone": quantise, "reading alone": read, "extraction": whole}
    result: dict = _fastest(parts, settings.repeats)
    alone, together = result["forward passes alone"], result["extraction"]
    result["wall_ratio"] = together.wall_seconds / alone.wall_seconds
    result["cpu_ratio"] = together.cpu_seconds / alone.cpu_seconds
    total = sum(cut.duration_seconds for cut in cuts)
    sizes = {s.name: (s.directory / "bench-00000.npy").stat().st_size for s in streams}
    result["bytes_per_second"] = {name: size / total for name, size in sizes.items()}
    result["bytes_written"] = sum(p.stat().st_size for s in streams for p in s.directory.glob("bench-*"))
    result["bytes_estimated"] = needed
    return result


def _fastest(parts: dict[str, Callable[[], None]], repeats: int) -> dict[str, _Time]:
    """The least time of each part. They take turns: a machine that gets slower must not favour what ran first."""
    times: dict[str, list[_Time]] = {name: [] for name in parts}
    for _ in range(max(1, repeats)):
        for name, function in parts.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            times[name].append(_Time(time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: _Time(min(t.wall_seconds for t in found), min(t.cpu_seconds for t in found))
        for name, found in times.items()
    }


def _make_cuts(folder: Path, seconds: float) -> list[_Cut]:
    cuts, total = [], 0.0
    rng = numpy_rng(0, "bench extract")
    while total < seconds:
        duration = round(min(float(rng.uniform(4, 16)), max(1.0, seconds - total)), 3)
        samples = round(duration * 16000)
        path = folder / f"{len(cuts):04d}.flac"
        save_audio(path, (rng.standard_normal(samples).cumsum() * 0.02).clip(-0.9, 0.9).astype(np.float32), 16000)
        cuts.append(_Cut(path.stem, path, 0.0, duration, samples, "audio"))
        total += duration
    return cuts


def _make_streams(settings: BenchExtractConfig, folder: Path) -> list[Stream]:
    specs = {"speech": settings.speech or _random_wavlm(settings, folder / "wavlm")}
    specs["audio"] = settings.audio or _random_dasheng(settings, folder / "dasheng.pt")
    parsed = []
    for name, spec in specs.items():
        teacher = load_teacher(spec, device=settings.device)
        quantizer = Quantizer(teacher.dim, getattr(settings, f"{name}_codebooks"))
        save_quantizer(folder / "quantizer" / name, quantizer, None, None, teacher.fingerprint(), {})
        parsed.append((name, spec, str(folder / "quantizer" / name), ()))
    search = {"refine_passes": settings.refine_passes, "beam": settings.beam}
    return load_streams(parsed, folder / "tokens", torch.device(settings.device), search)


def _random_wavlm(settings: BenchExtractConfig, folder: Path) -> str:
    transformers = require("transformers", "transformers>=4.46", "a WavLM with random weights")
    norms = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    torch.manual_seed(0)
    shape = transformers.WavLMConfig(**_WAVLM[settings.size], **norms)
    transformers.WavLMModel(shape).save_pretrained(folder)
    layer = 21 if settings.size == "large" else shape.num_hidden_layers
    return f"wavlm:{folder}@{layer},dtype={settings.dtype}"


def _random_dasheng(settings: BenchExtractConfig, path: Path) -> str:
    from spear.teachers.dasheng import DashengEncoder

    dim, depth, heads = _DASHENG[settings.size]
    torch.manual_seed(0)
    encoder = DashengEncoder(dim, depth, heads, 4 * dim, 252)
    torch.save({"model": encoder.state_dict(), "config": {"num_heads": heads}}, path)
    return f"dasheng:{path}@-1,dtype={settings.dtype}"
