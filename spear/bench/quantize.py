"""Codebooks: training and encoding of ours, multi_quantization and faiss, on the same held-out vectors.

    spear bench quantize --quick true
    spear bench quantize --embeddings data/embeddings --audio-dir ../shared/data/real-mini --output quantize.md

Each quantiser runs in a process of its own. Peers that are not installed are left out with a line (pip install
'spear[bench]'). Seconds of a shared machine say little, so CPU seconds (of all threads) stand beside them.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from spear import config, dist, log, weights
from spear.bench import _memory
from spear.bench._coders import Coder, Job, build
from spear.bench._report import environment, markdown_table, setting, tell
from spear.bench._vectors import VectorSet, embedding_set, fbank_set, mixture_set
from spear.errors import ConfigError, MissingPackageError
from spear.quantize import QuantizerTrainConfig, relative_error
from spear.quantize.metrics import code_use, evenness
from spear.seeds import torch_rng

# Encoders are timed until three runs are done and this time has passed; a slow one stops at the second number.
_CPU_SECONDS_PER_ENCODER, _MOST_CPU_SECONDS = 0.5, 15.0
_STREAM_BLOCK = 16_384
# How evenly codes are used is seen on this many vectors, by encoders that do not need longer than this for them.
_USE_FRAMES, _USE_CPU_SECONDS = 5_000, 30.0
_SETS = ("embeddings", "fbank", "mixture")
# Method: (class of faiss, settings); the name of the row says both.
_FAISS = {
    "faiss-pq": ("ProductQuantizer", {}),
    "faiss-rq1": ("ResidualQuantizer", {"beam": 1}),
    "faiss-rq5": ("ResidualQuantizer", {"beam": 5}),
    "faiss-lsq": ("LocalSearchQuantizer", {}),
}
# Method: name of the rows; each trains codebooks of its structure.
_OURS = {"ours": "ours", "ours-even": "ours, even"}
_METHODS = (*_OURS, "multi_quantization", *_FAISS)
_HEADER = (
    "vectors",
    "quantiser",
    "encoder",
    "train s",
    "train CPU s",
    "vectors/s",
    "vectors/CPU s",
    "relative error",
    "entropy loss",
    "largest share x N",
    "nats apart",
    "train peak MB",
    "encode peak MB",
)
_logger = log.get_logger(__name__)


@dataclass
class QuantizeBenchConfig:
    """Settings of `spear bench quantize`."""

    embeddings: str = setting("", "folder of spear embed's outputs, one folder for each teacher; empty: left out")
    audio_dir: str = setting("", "folder of audio whose fbank windows are coded; empty: left out")
    mixture_dim: int = setting(1024, "channels of the synthetic mixture; 0: left out")
    train_frames: int = setting(40_000, "most training vectors of a set")
    mixture_frames: int = setting(40_000, "training vectors of the mixture")
    heldout_frames: int = setting(2_000, "most held-out vectors of a set")
    sets: str = setting("embeddings,fbank,mixture", "which sets of vectors are used, of those that are given")
    methods: str = setting(
        ",".join(_METHODS), "which are measured (ours has --train.structure); faiss-lsq is by far the slowest"
    )
    peer_iterations: int = setting(0, "iterations of multi_quantization in each phase (its default is 10000); 0: none")
    peer_fast_search: bool = setting(False, "it trains with our version of its search: same codes, sooner")
    peer_quantizer: str = setting("", "a quantizer that multi_quantization trained on the fbank windows (.pt)")
    stream_frames: int = setting(0, "frames encoded in a stream (noisy copies of training vectors), for peak memory")
    bfloat16: bool = setting(False, "time our search with products in bfloat16, too")
    train: QuantizerTrainConfig = field(default_factory=QuantizerTrainConfig)
    threads: int = setting(2, "of torch and faiss")
    device: str = setting("auto", "auto (a GPU where there is one), cpu or cuda; faiss is left out on a GPU")
    output: str = setting("", "Markdown file for the tables; they are printed in any case")
    quick: bool = setting(False, "small sizes of everything, about a minute")

    def check(self) -> None:
        """Refuses what cannot be measured, and shrinks everything for a quick run.

        Raises:
            ConfigError: an unknown method, or no vectors.
        """
        for flag, given, known in (("methods", self.methods, _METHODS), ("sets", self.sets, _SETS)):
            wrong = set(given.split(",")) - set(known)
            if wrong:
                raise ConfigError(f"--{flag} {','.join(sorted(wrong))}", ", ".join(known), "correct it")
        if self.quick:
            self.train_frames = self.mixture_frames = min(self.train_frames, 4000)
            self.heldout_frames, self.mixture_dim = min(self.heldout_frames, 400), min(self.mixture_dim, 64)
            self.methods = self.methods.replace(",faiss-lsq", "")
        self.device = dist.choose_device(self.device).type
        if self.device == "cuda":
            self.methods = ",".join(name for name in self.methods.split(",") if name not in _FAISS)
        if not self.methods:
            raise ConfigError("methods of faiss alone on a GPU", "ours or multi_quantization", "or pass --device cpu")
        if not (self.embeddings or self.audio_dir or self.mixture_dim):
            raise ConfigError("no vectors", "--embeddings, --audio-dir or --mixture-dim", "give at least one")


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, measures, prints the tables."""
    settings = config.parse(QuantizeBenchConfig, argv, description=__doc__)
    log.setup()
    settings.check()
    torch.set_num_threads(settings.threads)
    before, rows, notes = environment(), [], []
    for vectors in _sets(settings):
        for row, note in _measure_set(vectors, settings):
            rows += row
            notes += note
            for line in note + [" | ".join(map(str, one)) for one in row]:
                _logger.info("%s", line)
    text = markdown_table(_HEADER, rows) + "".join(f"\n\n{note}" for note in notes)
    facts = {**before, "load_average": f"{before['load_average']} at the start"}
    tell(text, facts, settings.output)
    return 0


def _sets(settings: QuantizeBenchConfig):
    sizes, wanted = (settings.train_frames, settings.heldout_frames), settings.sets.split(",")
    if settings.embeddings and "embeddings" in wanted:
        for card in sorted(Path(settings.embeddings).glob("*/card.json")):
            yield embedding_set(card.parent, *sizes)
    if settings.audio_dir and "fbank" in wanted:
        yield fbank_set(settings.audio_dir, *sizes)
    if settings.mixture_dim and "mixture" in wanted:
        yield mixture_set(settings.mixture_dim, settings.mixture_frames, settings.heldout_frames)


def _measure_set(vectors: VectorSet, settings: QuantizeBenchConfig):
    """Yields (rows, notes) of each job on one set of vectors."""
    methods = settings.methods.split(",")
    searches = [(1, 1), (1, 4), (1, 5), (1, 6), (1, 8), (2, 8), (5, 8), (5, 12), (5, 16)]
    searches = [(*search, low) for low in ((False, True) if settings.bfloat16 else (False,)) for search in searches]
    states = {}
    for method in filter(methods.__contains__, _OURS):
        train = asdict(settings.train) | ({"structure": "even"} if method == "ours-even" else {})
        job = Job(_OURS[method], "ours", vectors.num_codebooks, {"searches": searches, "train": train})
        rows, notes, states[method] = _in_process(job, vectors, settings)
        yield rows, notes
        if settings.stream_frames and states[method] is not None:
            extra = {"state": states[method], "searches": [(1, 5, False)], "stream_frames": settings.stream_frames}
            job = Job(f"{job.name}, {settings.stream_frames:,} streamed", "ours", vectors.num_codebooks, extra)
            yield _in_process(job, vectors, settings)[:2]
    if "multi_quantization" in methods:
        yield from _against_peer(vectors, settings, states, searches)
    for method, (kind, extra) in _FAISS.items():
        if method in methods:
            name = f"faiss {kind}" + (f", beam {extra['beam']}" if extra else "")
            yield _in_process(Job(name, kind, vectors.num_codebooks, extra), vectors, settings)[:2]


def _against_peer(vectors: VectorSet, settings: QuantizeBenchConfig, states: dict[str, dict], searches: list):
    """multi_quantization with our codebooks, then both with codebooks that it trained."""
    num_codebooks, refinements = vectors.num_codebooks, (0, 1, 5)
    for method, state in states.items():
        extra = {"state": state, "refinements": refinements}
        name = "multi_quantization, our codebooks" + (", even" if method == "ours-even" else "")
        job = Job(name, "multi_quantization", num_codebooks, extra)
        yield _in_process(job, vectors, settings)[:2]
    extra = {"refinements": refinements, "iterations": settings.peer_iterations}
    extra["fast_search"] = settings.peer_fast_search
    if settings.peer_quantizer and vectors.name == "fbank windows":
        extra["state"] = weights.read_torch(settings.peer_quantizer)
    elif not settings.peer_iterations:
        return
    job = Job("multi_quantization", "multi_quantization", num_codebooks, extra)
    rows, notes, state = _in_process(job, vectors, settings)
    yield rows, notes
    if state is not None:
        extra = {"state": state, "searches": searches}
        yield _in_process(Job("ours, multi_quantization's codebooks", "ours", num_codebooks, extra), vectors, settings)[
            :2
        ]


def _in_process(job: Job, vectors: VectorSet, settings: QuantizeBenchConfig) -> tuple[list, list, dict | None]:
    """Rows, notes and the state dict of one job, run in a fresh process so that its memory is its own."""
    # A server that has imported everything forks each process: fresh memory without seconds of imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spear.bench.quantize"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            rows, state = pool.submit(_run, job, vectors, settings.threads, settings.device).result()
        except MissingPackageError as error:
            return [], [f"{job.name} is left out: {error.found}; {error.fix}."], None
        except BrokenProcessPool:
            return [], [f"{job.name} on {vectors.name}: its process was killed (out of memory?)."], None
    return rows, [], state


def _run(job: Job, vectors: VectorSet, threads: int, device: str) -> tuple[list[tuple], dict | None]:
    log.setup()
    torch.set_num_threads(threads)
    train_MD, heldout_MD = vectors.train_MD.to(device), vectors.heldout_MD.to(device)
    build_began, cpu_began = time.monotonic(), time.process_time()
    base = _memory.resident_bytes(device)
    _memory.reset_peak(device)
    coders, state = build(job, train_MD)
    _memory.wait_for(device)
    state = {name: value.cpu() for name, value in state.items()} if state is not None else None
    if "stream_frames" in job.settings:
        speeds = _time_stream(coders[0], train_MD, job.settings["stream_frames"])
        return [(vectors.name, job.name, f"{coders[0].name} (peak of the process)", None, None, *speeds)], state
    trained = "state" not in job.settings
    train_seconds = time.monotonic() - build_began if trained else None
    train_cpu_seconds = time.process_time() - cpu_began if trained else None
    train_peak = _above(base, device) if trained else None
    rows = []
    for coder in coders:
        speed, cpu_speed, error, peak = _time_encoder(coder, heldout_MD)
        first = (train_seconds, train_cpu_seconds) if coder is coders[0] else (None, None)
        peaks = (train_peak if coder is coders[0] else None, peak)
        affordable = _USE_FRAMES <= cpu_speed * _USE_CPU_SECONDS
        uneven = _evenness(coder, train_MD) if affordable else (None, None, None)
        rows.append((vectors.name, job.name, coder.name, *first, speed, cpu_speed, error, *uneven, *peaks))
    return rows, state


@torch.no_grad()
def _time_encoder(coder: Coder, x_BD: Tensor) -> tuple[float, float, float, float | None]:
    """(vectors/s, vectors/CPU s, relative error, peak MB); the fastest of several runs."""
    device = x_BD.device.type
    coder.encode(x_BD[:64])  # tables and thread pools are made here
    base = _memory.resident_bytes(device)
    _memory.reset_peak(device)
    seconds, cpu_seconds = [], []
    while len(seconds) < 3 or (sum(cpu_seconds) < _CPU_SECONDS_PER_ENCODER and len(seconds) < 20):
        start, cpu_start = time.monotonic(), time.process_time()
        codes = coder.encode(x_BD)
        _memory.wait_for(device)
        seconds.append(time.monotonic() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        if sum(cpu_seconds) > _MOST_CPU_SECONDS:
            break
    peak = _above(base, device)
    error = relative_error(x_BD, coder.decode(codes))
    return len(x_BD) / min(seconds), len(x_BD) / min(cpu_seconds), error, peak


@torch.no_grad()
def _evenness(coder: Coder, x_MD: Tensor) -> tuple[float, float | None, float | None]:
    """How evenly 5,000 training vectors use codes and codebooks.

    Returns:
        index entropy loss of the codebook whose codes are used least evenly (so few vectors add about 0.005); the
        largest share of energy times N (1: all alike); how far apart the codebooks' entropies are, in nats.
    """
    codes_MN = torch.as_tensor(coder.encode(x_MD[:_USE_FRAMES])).cpu()
    loss = max(code_use(codes_MN, 256)["index_entropy_loss"])
    if coder.centers is None:
        return loss, None, None
    even = evenness(coder.centers.cpu(), codes_MN)
    nats = even["entropy_nats"]
    return loss, max(even["energy_shares"]) * len(nats), max(nats) - min(nats)


@torch.no_grad()
def _time_stream(coder: Coder, x_MD: Tensor, num_frames: int) -> tuple[float | None, ...]:
    """As `_time_encoder` for frames that never exist together, with the peak memory of the whole process."""
    device = x_MD.device.type
    generator = torch_rng(0, "bench stream", device=x_MD.device)
    _memory.reset_peak(device)
    seconds, cpu_seconds, lost, done, kept = 0.0, 0.0, 0.0, 0, []
    while done < num_frames:
        count, options = min(_STREAM_BLOCK, num_frames - done), {"generator": generator, "device": x_MD.device}
        x_BD = x_MD[torch.randint(len(x_MD), (count,), **options)]
        x_BD.add_(torch.randn(x_BD.shape, **options), alpha=0.1)
        _memory.wait_for(device)
        start, cpu_start = time.monotonic(), time.process_time()
        codes = coder.encode(x_BD)
        _memory.wait_for(device)
        seconds += time.monotonic() - start
        cpu_seconds += time.process_time() - cpu_start
        lost += relative_error(x_BD, coder.decode(codes)) * len(x_BD)
        done += len(x_BD)
        kept.append(codes)  # as one who writes them later would
    peak = _memory.peak_bytes(device)
    return done / seconds, done / cpu_seconds, lost / done, *(None,) * 4, None if peak is None else peak / 1e6


def _above(base: int | None, device: str) -> float | None:
    peak = _memory.peak_bytes(device)
    return None if base is None or peak is None else (peak - base) / 1e6
