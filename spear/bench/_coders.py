"""The quantisers that `spear bench quantize` compares: each trains on vectors and gives encoders to be timed.

Shape suffixes: M, B vectors, N codebooks, D = dim.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spear.bench._peer_search import refine_codes
from spear.errors import require
from spear.log import Progress
from spear.quantize import Quantizer, QuantizerTrainConfig, train_quantizer
from spear.seeds import numpy_rng, seed_global, torch_rng

_PEER_BATCH = 600  # the batch that multi_quantization was tuned with


@dataclass
class Coder:
    """One way to encode.

    Attributes:
        name: for the table.
        encode: (B, D) float32 -> codes of any form.
        decode: those codes -> (B, D).
        centers: (N, K, D) whose sums they are, where the codebooks can be told apart.
    """

    name: str
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]
    centers: Tensor | None = None


@dataclass
class Job:
    """What to train and which encoders to time; picklable, for a process of its own.

    Attributes:
        kind: `ours`, `multi_quantization` or a class of faiss.
        num_codebooks: N, of 256 codes.
        settings: `state` gives a trained quantizer's state dict instead of training; `iterations` of
            multi_quantization in each phase, `fast_search` whether it trains with `spear.bench._peer_search`;
            `beam` of faiss' ResidualQuantizer; `train` overrides of our settings; `searches` the (passes, beam,
            whether products are in bfloat16) of ours that are timed.
    """

    name: str
    kind: str
    num_codebooks: int
    settings: dict = field(default_factory=dict)


def build(job: Job, train_MD: Tensor) -> tuple[list[Coder], dict | None]:
    """Trains, and returns encoders and the state dict (of quantizers in the format of multi_quantization).

    Raises:
        MissingPackageError: the peer is not installed.
    """
    if job.kind == "ours":
        return _ours(job, train_MD)
    if job.kind == "multi_quantization":
        return _multi_quantization(job, train_MD)
    return _faiss(job, train_MD), None


def _ours(job: Job, train_MD: Tensor) -> tuple[list[Coder], dict]:
    state = job.settings.get("state")
    if state is None:
        config = QuantizerTrainConfig(**job.settings.get("train", {}))
        quantizer, _ = train_quantizer(train_MD, job.num_codebooks, config)
    else:
        quantizer = Quantizer.from_state_dict(state).to(train_MD.device)
    coders = [
        Coder(
            f"{passes} passes, beam {beam}" + (", bfloat16" if bfloat16 else ""),
            _our_encoder(quantizer, passes, beam, bfloat16),
            quantizer.decode,
            quantizer.effective_centers().detach(),
        )
        for passes, beam, bfloat16 in job.settings["searches"]
    ]
    return coders, quantizer.state_dict()


def _our_encoder(quantizer: Quantizer, passes: int, beam: int, bfloat16: bool) -> Callable[[Tensor], Tensor]:
    return lambda x_BD: quantizer.encode(x_BD, passes, beam, bfloat16)


def _multi_quantization(job: Job, train_MD: Tensor) -> tuple[list[Coder], dict]:
    require("h5py", "h5py", "multi_quantization")
    peer = require("multi_quantization", "multi_quantization", "this benchmark")
    device = train_MD.device
    state, dim, iterations = job.settings.get("state"), train_MD.shape[1], job.settings.get("iterations", 0)
    if state is None:
        seed_global(0, "multi_quantization")
        trainer = peer.QuantizerTrainer(
            dim=dim,
            bytes_per_frame=job.num_codebooks,
            device=device,
            phase_one_iters=iterations,
            phase_two_iters=iterations,
        )
        generator, progress = torch_rng(0, "batches"), Progress(2 * iterations + 1, "multi_quantization", "iterations")
        with _reproducible(peer, job.settings.get("fast_search", False)):
            while not trainer.done():
                trainer.step(train_MD[torch.randint(len(train_MD), (_PEER_BATCH,), generator=generator).to(device)])
                progress.update(1)
        quantizer = trainer.get_quantizer()
    else:
        quantizer = peer.Quantizer(dim=dim, num_codebooks=job.num_codebooks, codebook_size=256)
        quantizer.load_state_dict(state)
    quantizer.eval().to(device)
    centers_NKD = quantizer.get_centers().detach()
    refinements = job.settings["refinements"]
    coders = [Coder(f"R = {n}", _peer_encoder(quantizer, n), quantizer.decode, centers_NKD) for n in refinements]
    return coders, quantizer.state_dict()


@contextmanager
def _reproducible(peer, fast_search: bool):
    """multi_quantization chooses one or two refinements from a seeded stream, and searches faster if asked to.

    Codes have no gradient, and `refine_codes` chooses the same ones but for ties.
    """
    module, quantizer_class = peer.quantization, peer.Quantizer
    search, coin = quantizer_class._refine_indexes, module.random
    generator = numpy_rng(0, "refinements of multi_quantization")
    module.random = generator  # of which it calls random()
    if fast_search:
        quantizer_class._refine_indexes = refine_codes
    try:
        yield
    finally:
        quantizer_class._refine_indexes, module.random = search, coin


def _peer_encoder(quantizer, passes: int) -> Callable[[Tensor], Tensor]:
    return lambda x_BD: quantizer.encode(x_BD, refine_indexes_iters=passes)


def _faiss(job: Job, train_MD: Tensor) -> list[Coder]:
    faiss = require("faiss", "faiss-cpu", "this benchmark")
    faiss.omp_set_num_threads(torch.get_num_threads())
    quantizer = getattr(faiss, job.kind)(train_MD.shape[1], job.num_codebooks, 8)
    if "beam" in job.settings:
        quantizer.max_beam_size = job.settings["beam"]
    quantizer.train(train_MD.numpy())
    return [
        Coder(
            "compute_codes",
            lambda x_BD: quantizer.compute_codes(x_BD.numpy()),
            lambda codes: torch.from_numpy(quantizer.decode(codes)),
        )
    ]
