"""Measures forward and backward passes of pre-training: audio-s/s, share of the matmul peak, memory; and of a peer.

Every case runs in a process of its own. The peak of the matrix product is measured in that process, before and after
the case. Times are of the processor (`cpu_seconds`) and of the clock: on a machine that others use too, the first is
the one to compare. On a GPU the clock counts, after the device is done, and memory is what tensors take at most. Matrix
products and convolutions count as work done; the rest is overhead.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from spear import compat, dist, fs
from spear import config as configuration
from spear.bench import _memory, _report
from spear.errors import ConfigError
from spear.log import human_seconds
from spear.memory import keep_freed_memory
from spear.models import encoders
from spear.models.pretrain import HeadSpec, SpearPretrainModel
from spear.nn import set_activation_checkpointing, set_batch_count
from spear.train.throughput import count_flops

_PEAK_SIZE = {"cpu": 2048, "cuda": 8192}
_PEAK_SECONDS = 8
SIZES = ("mini", "base", "large", "xlarge")


@dataclass
class Case:
    """One measurement.

    Attributes:
        what: `step` (masked prediction of two streams of tokens), `encoder` (25 Hz output, no heads) or `peer` (the
            encoder of the package `zipformer`).
        size: `base`, `large` or `xlarge` of the Zipformer, `base` or `mini` of the Transformer.
        precision: `fp32` or `bf16` (autocast).
        batch: cuts x seconds, as 4x10.
        checkpointing: recompute activations in the backward pass.
        schedule_batches: position of Zipformer's schedules; late in training regularisers act on few steps.
        repeats: measured passes, after one that is not.
        threads: of torch.
        device: cpu or cuda.
        encoder: by name, such as `transformer`; `peer` is always a Zipformer.
    """

    what: str = "step"
    size: str = "base"
    precision: str = "bf16"
    batch: str = "4x10"
    checkpointing: bool = False
    schedule_batches: float = 20_000.0
    repeats: int = 3
    threads: int = 2
    device: str = "cpu"
    encoder: str = encoders.DEFAULT


@dataclass
class TrainBenchConfig:
    """Settings.

    Attributes:
        size: of the encoder.
        whats: cases, see `Case.what`; `checkpointed` is `step` with activation checkpointing.
        precisions, batches, repeats, threads: see `Case`.
        device: auto (a GPU where there is one), cpu or cuda.
        output: JSON file of the results; empty for none.
        encoder: see `Case`.
    """

    size: str = "base"
    whats: list[str] | None = None
    precisions: list[str] | None = None
    batches: list[str] | None = None
    repeats: int = 3
    threads: int = 2
    device: str = "auto"
    output: str = ""
    encoder: str = encoders.DEFAULT


def main(argv: list[str] | None = None) -> int:
    """Runs the cases and prints a table."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--case"]:
        print(json.dumps(measure(Case(**json.loads(argv[1])))))
        return 0
    config = configuration.parse(TrainBenchConfig, argv, None, __doc__)
    device, rows, own = dist.choose_device(config.device).type, [], config.encoder == encoders.DEFAULT
    for batch in config.batches or ["4x10", "1x30"]:
        for what in config.whats or ["step", "checkpointed", "encoder", *(["peer"] if own else [])]:
            for precision in config.precisions or ["fp32", "bf16"]:
                checkpointed = what == "checkpointed"
                case = Case("step" if checkpointed else what, config.size, precision, batch, checkpointed)
                case.repeats, case.threads, case.device = config.repeats, config.threads, device
                case.encoder = config.encoder
                rows.append({"case": what, **asdict(case), **_run(case)})
                print(f"{what} {precision} {batch}: {_in_words(rows[-1])}", file=sys.stderr, flush=True)
    print(_table(rows))
    result = {"environment": {**_report.environment(), "threads": config.threads}, "rows": rows}
    print(json.dumps(result["environment"]))
    if config.output:
        fs.write_json(Path(config.output), result)
    return 0


def _run(case: Case) -> dict:
    """Measures in a process of its own; {"error": ...} when it fails."""
    command = [sys.executable, "-m", "spear.bench.train", "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        count = 3 if lines[-1].startswith("to fix:") else 1
        return {"error": " ".join(lines[-count:])[:300]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: Case) -> dict:
    """Measures one case in this process."""
    if case.what not in ("step", "encoder", "peer"):
        raise ConfigError(f"the case '{case.what}'", "step, checkpointed, encoder or peer", "correct --whats")
    torch.set_num_threads(case.threads)
    device = torch.device(case.device)
    if device.type == "cpu":
        keep_freed_memory()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[case.precision]
    compat.allow_tf32(device, dtype)
    peak = matmul_peak(dtype, device)
    memory = _PeakDeviceMemory() if device.type == "cuda" else _PeakMemory()
    work, seconds = _prepare(case, device)

    def run() -> None:
        torch.manual_seed(1)
        with compat.autocast(device.type, dtype):
            loss = work()
        loss.backward()
        for parameter in work.parameters:
            parameter.grad = None
        _memory.wait_for(device.type)

    run()
    times, cpu_times = [], []
    for _ in range(case.repeats):
        clock, cpu = time.perf_counter(), time.process_time()
        run()
        times.append(time.perf_counter() - clock)
        cpu_times.append(time.process_time() - cpu)
    peak_bytes = memory.stop()
    flops = count_flops(run)
    peak = {name: max(value, again) for (name, value), again in zip(peak.items(), matmul_peak(dtype, device).values())}
    best, best_cpu = min(times), min(cpu_times)
    return {
        "seconds": best,
        "cpu_seconds": best_cpu,
        "audio_seconds_per_second": seconds / best,
        "matmul_gflop": flops / 1e9,
        "peak_gflops": peak["clock"] / 1e9,
        "share_of_peak": flops / best / peak["clock"],
        "share_of_peak_cpu": flops / best_cpu / peak["cpu"],
        "step_peak_bytes": peak_bytes,
    }


class _Work:
    """A forward pass that returns a loss."""

    def __init__(self, function, module: torch.nn.Module):
        self.function, self.parameters = function, [p for p in module.parameters() if p.requires_grad]

    def __call__(self) -> torch.Tensor:
        return self.function()


def _prepare(case: Case, device: torch.device) -> tuple[_Work, float]:
    """The forward pass of a case, and the audio seconds of its batch."""
    count, seconds = (int(part) for part in case.batch.split("x"))
    torch.manual_seed(0)
    features_BTF = torch.randn(count, 100 * seconds, 128).to(device)
    lens_B = torch.full((count,), 100 * seconds, device=device)
    config = _sizes(case)(output_downsampling_factor=1 if case.what == "step" else 2)
    if case.what == "peer":
        from spear.bench._peer_zipformer import PeerEncoder

        peer = PeerEncoder(config).train().to(device)
        for module in peer.modules():
            if hasattr(module, "batch_count"):
                module.batch_count = case.schedule_batches
        return _Work(lambda: peer(features_BTF, lens_B).float().square().sum(), peer), count * seconds
    heads = {"speech": HeadSpec(16), "audio": HeadSpec(16)} if case.what == "step" else {}
    model = SpearPretrainModel(config, heads).train().to(device)
    set_batch_count(model, case.schedule_batches)
    set_activation_checkpointing(model, case.checkpointing)
    if case.what == "encoder":
        return _Work(lambda: model.encode(features_BTF, lens_B, False).encoder_out.float().square().sum(), model), (
            count * seconds
        )
    frames = int(model.output_lengths(lens_B)[0])
    targets = {name: torch.randint(0, 256, (count, frames, 16)).to(device) for name in heads}
    weights = {name: torch.full((count,), weight).to(device) for name, weight in (("speech", 1.0), ("audio", 0.1))}
    masks = (torch.rand(count, 100 * seconds) < 0.5).to(device), torch.zeros(count, 128, dtype=torch.bool).to(device)
    return _Work(lambda: model(features_BTF, lens_B, targets, weights, *masks).loss, model), count * seconds


def _sizes(case: Case) -> Callable[..., encoders.EncoderConfig]:
    """What makes the configuration of an encoder of a case's size."""
    of = encoders.load(case.encoder)
    make = getattr(of, case.size, None) if case.size in SIZES else None
    if make is None:
        known = ", ".join(size for size in SIZES if hasattr(of, size)) or "none"
        raise ConfigError(f"size '{case.size}' of encoder {case.encoder}", f"one of {known}", "correct --size")
    return make


def matmul_peak(dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """FLOP/s of a large square product, by the clock and by processor time; the best of a few."""
    size = _PEAK_SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    started = time.perf_counter()
    a @ b
    # Eight, or as many as fit in some seconds: without instructions for bfloat16 one takes a minute.
    repeats = min(8, max(1, int(_PEAK_SECONDS / (time.perf_counter() - started))))
    best = {"clock": 0.0, "cpu": 0.0}
    for _ in range(repeats):
        _memory.wait_for(device.type)
        clock, cpu = time.perf_counter(), time.process_time()
        a @ b
        _memory.wait_for(device.type)
        work = 2 * size**3
        best["clock"] = max(best["clock"], work / (time.perf_counter() - clock))
        best["cpu"] = max(best["cpu"], work / max(time.process_time() - cpu, 1e-9))
    return best


class _PeakMemory:
    """By how much the resident size of this process grows at most; it is looked at every few milliseconds."""

    def __init__(self):
        self._start, self._peak, self._ended = _resident_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.005):
            self._peak = max(self._peak, _resident_bytes())

    def stop(self) -> int:
        """Ends and returns bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak - self._start


class _PeakDeviceMemory:
    """By how much the memory of tensors on the GPU grows at most."""

    def __init__(self):
        _memory.reset_peak("cuda")
        self._start = _memory.resident_bytes("cuda")

    def stop(self) -> int:
        """Bytes so far."""
        return _memory.peak_bytes("cuda") - self._start


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as handle:
        return int(handle.read().split()[1]) * 4096


def _in_words(row: dict) -> str:
    if "error" in row:
        return row["error"]
    return f"{human_seconds(row['seconds'])}, {row['audio_seconds_per_second']:.1f} audio-s/s"


def _is_unoptimised(row: dict) -> bool:
    return row["case"] == "peer" and row["precision"] == "fp32" and "error" not in row


def _table(rows: list[dict]) -> str:
    names = {
        "seconds": "s",
        "cpu_seconds": "CPU s",
        "audio_seconds_per_second": "audio-s/s",
        "peak_gflops": "matmul peak GFLOP/s",
        "share_of_peak": "share of peak",
        "share_of_peak_cpu": "share, CPU time",
        "step_peak_bytes": "peak memory GB",
        "share_of_peer": "share of the peer's memory in fp32",
    }
    peers = {row["batch"]: row["step_peak_bytes"] for row in rows if _is_unoptimised(row)}
    lines = []
    for row in rows:
        scaled = {**row, "step_peak_bytes": row.get("step_peak_bytes", 0) / 1e9}
        peer = peers.get(row["batch"])
        scaled["share_of_peer"] = row.get("step_peak_bytes", 0) / peer if peer else None
        values = [None] * len(names) if "error" in row else [scaled[name] for name in names]
        lines.append([row["case"], row["precision"], row["batch"], *values])
    failed = [
        f"{row['case']} {row['precision']} {row['batch']} failed: {row['error']}" for row in rows if "error" in row
    ]
    return "\n".join([_report.markdown_table(["case", "precision", "batch", *names.values()], lines), *failed])


if __name__ == "__main__":
    sys.exit(main())
