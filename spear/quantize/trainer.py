"""Training codebooks: residual k-means, then alternating search and least squares over all code vectors at once.

The reference (multi_quantization) trains by stochastic gradients for tens of thousands of steps. Given the codes,
however, the best code vectors are the solution of one linear system, and given the code vectors, codes are found by
table look-up (`spear.quantize.search`): a few rounds of both reach a lower error in seconds. Each round also moves
rarely used codes beside common ones, and searches under code vectors with a little noise that fades (as simulated
annealing does), which avoids poor local optima. The linear layer of the format is fitted to the final codes.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from spear import fs, log
from spear.errors import ConfigError, DataError
from spear.quantize.codec import Quantizer, check_vectors
from spear.quantize.least_squares import split_common_codes, update_centers
from spear.quantize.logits import fit_logits
from spear.quantize.metrics import bits_per_frame, code_use, mutual_information, relative_error
from spear.quantize.search import SearchTables, greedy, refine
from spear.quantize.start import product_kmeans, residual_kmeans
from spear.seeds import derive, torch_rng

METHODS = ("joint", "residual", "product")
Progress = Callable[[dict], None]
_logger = log.get_logger(__name__)


@dataclass
class QuantizerTrainConfig:
    """Settings of `train_quantizer`; the defaults suit 20,000 to 500,000 frames."""

    codebook_size: int = field(default=256, metadata={"help": "codes of a codebook, a power of two up to 256"})
    seed: int = field(default=42, metadata={"help": "names every random choice"})
    method: str = field(
        default="joint",
        metadata={"help": "joint; or a control in the same format: residual or product (k-means on all frames)"},
    )
    start_frames: int = field(default=20_000, metadata={"help": "frames of the residual k-means it starts from"})
    start_iterations: int = field(default=8, metadata={"help": "iterations of that k-means"})
    rounds: int = field(default=6, metadata={"help": "rounds of least squares and search"})
    beam: int = field(default=4, metadata={"help": "combinations kept by the search while training"})
    noise: float = field(
        default=0.3, metadata={"help": "of the code vectors in the first round, in standard deviations"}
    )
    rare_below: float = field(default=0.3, metadata={"help": "codes used less than this share of the mean are moved"})
    ridge: float = field(default=2.0, metadata={"help": "frames' worth of weight that holds a code vector in place"})
    logits_epochs: float = field(default=3.0, metadata={"help": "epochs of cross-entropy for the linear layer"})
    heldout_fraction: float = field(default=0.05, metadata={"help": "share of the frames that is only measured on"})
    max_heldout: int = field(default=5_000, metadata={"help": "most frames held out"})


def train_quantizer(
    frames: np.ndarray | Tensor,
    num_codebooks: int,
    config: QuantizerTrainConfig | None = None,
    progress: Progress | None = None,
    state_path: str | Path | None = None,
) -> tuple[Quantizer, dict]:
    """Trains a quantizer on frames as they are (for normalisation see `spear.quantize.fit`).

    Args:
        frames: (M, dim) floats; computed in float32 on the tensor's device.
        num_codebooks: N, a power of two.
        config: settings.
        progress: called after each round with `round`, `train_error`, `heldout_error`, `moved_codes`, `seconds`.
        state_path: file that keeps the state after each round; a killed run continues from it, exactly, and it is
            removed at the end. Without it nothing is written.

    Returns:
        the quantizer in eval mode, and metrics of the held-out frames (of the training frames if none are held out):
        `relative_error` by number of refinement passes, `start_error` (residual k-means, greedy codes), `perplexity`,
        `dead_codes`, `index_entropy_loss`, `mutual_information_bits` (N x N, of the training frames), `bits_per_frame`,
        `rounds` (what `progress` got), `frames`, `heldout_frames`, `seconds`.

    Raises:
        DataError: frames that are not (M, dim), not finite, or fewer than the codes of a codebook.
        ConfigError: an unknown method.
    """
    config, began = config or QuantizerTrainConfig(), time.monotonic()
    if config.method not in METHODS:
        raise ConfigError(f"method '{config.method}'", f"one of {', '.join(METHODS)}", "correct --train.method")
    frames = torch.as_tensor(frames)
    if frames.dim() != 2 or len(frames) < config.codebook_size:
        raise DataError(
            f"frames of shape {tuple(frames.shape)}",
            f"(M, dim) with M at least {config.codebook_size}, the codes of a codebook",
            "collect more frames or choose a smaller --codebook-size",
        )
    with torch.no_grad():
        frames = check_vectors(frames, frames.shape[1]).float()
        train_MD, heldout_MD = _split(frames, config)
        state = _Training(train_MD, heldout_MD, num_codebooks, config)
        state.run(progress or _log_progress, None if state_path is None else Path(state_path))
        quantizer = state.quantizer()
        metrics = _measure(quantizer, heldout_MD if len(heldout_MD) else train_MD, state.start_error)
        mutual_NN = mutual_information(state.codes_MN, config.codebook_size, config.seed)
    metrics.update(mutual_information_bits=[[round(v, 3) for v in row] for row in mutual_NN.tolist()])
    metrics.update(rounds=state.history, method=config.method)
    metrics.update(frames=len(train_MD), heldout_frames=len(heldout_MD), seconds=round(time.monotonic() - began, 2))
    if state_path is not None:
        Path(state_path).unlink(missing_ok=True)
    return quantizer, metrics


class _Training:
    """Centers and the codes of all training frames, improved in rounds."""

    def __init__(self, train_MD: Tensor, heldout_MD: Tensor, num_codebooks: int, config: QuantizerTrainConfig):
        self.x_MD, self.config, self.num_codebooks = train_MD, config, num_codebooks
        self.watched_MD = heldout_MD[:2000] if len(heldout_MD) else train_MD[:2000]
        self.spread_D = train_MD.std(dim=0, correction=0)
        self.round, self.start_error = 0, float("nan")
        self.centers_NKD = self.codes_MN = None
        self.history: list[dict] = []  # of this process: after a restart it begins at the round of the state

    def run(self, progress: Progress, state_path: Path | None) -> None:
        """All rounds, from the state file's where there is a fitting one."""
        config = self.config
        if not self._resume(state_path):
            self._begin()
            self._save(state_path)
        if config.method != "joint":
            return
        began = time.monotonic()
        while self.round < config.rounds:
            moved = self._one_round()
            self.round += 1
            self._save(state_path)
            tables = SearchTables(self.centers_NKD)
            state = {
                "round": self.round,
                "train_error": round(relative_error(self.x_MD, tables.decode(self.codes_MN)), 6),
                "heldout_error": round(self._watched_error(tables), 6),
                "moved_codes": moved,
                "seconds": round(time.monotonic() - began, 2),
            }
            self.history.append(state)
            progress(state)
        tables = SearchTables(self.centers_NKD)
        self.centers_NKD = update_centers(tables, self.centers_NKD, self.x_MD, self.codes_MN, config.ridge)[0]

    def quantizer(self) -> Quantizer:
        """The result, with its linear layer fitted."""
        config, (num_codebooks, codebook_size, dim) = self.config, self.centers_NKD.shape
        quantizer = Quantizer(dim, num_codebooks, codebook_size).to(self.x_MD.device)
        quantizer.centers.copy_(self.centers_NKD)
        codes_MN = self._search(SearchTables(self.centers_NKD), self.x_MD, self.codes_MN)
        fit_logits(quantizer, self.x_MD, codes_MN, derive(config.seed, "quantizer"), config.logits_epochs)
        digest = fs.sha256_bytes(self.centers_NKD.cpu().numpy().tobytes())
        quantizer.id_buf.copy_(torch.tensor([ord(character) for character in digest[:8]]))
        return quantizer.eval()

    def _begin(self) -> None:
        config = self.config
        # The split has shuffled the frames. Controls end where the joint method begins: they get all frames.
        start = self.x_MD[: config.start_frames] if config.method == "joint" else self.x_MD
        seed = derive(config.seed, "quantizer")
        make = product_kmeans if config.method == "product" else residual_kmeans
        self.centers_NKD = make(start, self.num_codebooks, config.codebook_size, config.start_iterations, seed)
        tables = SearchTables(self.centers_NKD)
        self.codes_MN = _in_chunks(tables, 1, lambda x_BD: greedy(tables, x_BD), self.x_MD)
        self.start_error = self._watched_error(tables, passes=0)

    def _one_round(self) -> int:
        config = self.config
        generator = torch_rng(config.seed, "round", self.round)
        tables = SearchTables(self.centers_NKD)
        self.centers_NKD, counts_NK, rest_MD = update_centers(
            tables, self.centers_NKD, self.x_MD, self.codes_MN, config.ridge
        )
        moved = 0
        if self.round < config.rounds - 2:  # the last rounds settle
            moved = split_common_codes(
                self.centers_NKD, counts_NK, self.codes_MN, rest_MD, config.rare_below, generator
            )
        del rest_MD
        fading = max(0.0, 1 - self.round / max(1, config.rounds - 2)) ** 0.5
        scale = config.noise * fading / self.num_codebooks**0.5
        noise = torch.randn(self.centers_NKD.shape, generator=generator).to(self.x_MD.device)
        noisy = SearchTables(self.centers_NKD + scale * self.spread_D * noise)
        self.codes_MN = self._search(noisy, self.x_MD, self.codes_MN)
        return moved

    def _search(self, tables: SearchTables, x_MD: Tensor, codes_MN: Tensor) -> Tensor:
        beam = self.config.beam
        return _in_chunks(tables, beam, lambda x_BD, c_BN: refine(tables, x_BD, c_BN[:, None], 1, beam), x_MD, codes_MN)

    def _watched_error(self, tables: SearchTables, passes: int = 1) -> float:
        x_MD, beam = self.watched_MD, self.config.beam
        codes_MN = _in_chunks(
            tables, beam, lambda x_BD: refine(tables, x_BD, greedy(tables, x_BD)[:, None], passes, beam), x_MD
        )
        return relative_error(x_MD, tables.decode(codes_MN))

    def _identity(self) -> str:
        # Sums of the frames stand for the frames: reading a changed set of them must not continue an old run.
        sums = [self.x_MD.sum(dtype=torch.float64), self.x_MD.square().sum(dtype=torch.float64)]
        return fs.sha256_json(
            [asdict(self.config), self.num_codebooks, list(self.x_MD.shape), [f"{float(s):.10e}" for s in sums]]
        )

    def _save(self, path: Path | None) -> None:
        if path is not None:
            tensors = {"centers": self.centers_NKD.cpu(), "codes": self.codes_MN.to(torch.uint8).cpu()}
            details = {"round": str(self.round), "start_error": repr(self.start_error), "identity": self._identity()}
            with fs.atomic(path) as temporary:
                save_file(tensors, temporary, details)

    def _resume(self, path: Path | None) -> bool:
        if path is None or not path.exists():
            return False
        with safetensors.safe_open(path, framework="pt") as file:
            details = file.metadata()
            if details["identity"] != self._identity():
                _logger.info("%s is the state of other frames or settings: starting afresh", path)
                return False
            self.round, self.start_error = int(details["round"]), float(details["start_error"])
            self.centers_NKD = file.get_tensor("centers").to(self.x_MD.device)
            self.codes_MN = file.get_tensor("codes").to(self.x_MD.device).int()
        _logger.info("continuing from round %d (%s)", self.round, path)
        return True


def _split(frames_MD: Tensor, config: QuantizerTrainConfig) -> tuple[Tensor, Tensor]:
    """Shuffled training and held-out frames."""
    order = torch.randperm(len(frames_MD), generator=torch_rng(config.seed, "heldout")).to(frames_MD.device)
    count = min(int(config.heldout_fraction * len(frames_MD)), config.max_heldout)
    return frames_MD[order[count:]], frames_MD[order[:count]]


def _in_chunks(tables: SearchTables, beam: int, function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    pieces = zip(*(array.split(tables.chunk_size(beam)) for array in arrays))
    return torch.cat([function(*piece) for piece in pieces])


def _measure(quantizer: Quantizer, x_MD: Tensor, start_error: float) -> dict:
    errors = {}
    with torch.no_grad():
        for passes in (0, 1, 5):
            codes_MN = quantizer.encode(x_MD, passes)
            errors[str(passes)] = round(relative_error(x_MD, quantizer.decode(codes_MN)), 6)
    return {
        "relative_error": errors,
        "start_error": round(start_error, 6),
        "bits_per_frame": bits_per_frame(quantizer.num_codebooks, quantizer.codebook_size),
        **code_use(codes_MN, quantizer.codebook_size),
    }


def _log_progress(state: dict) -> None:
    _logger.info(
        "round %(round)d: error %(train_error).4f, held out %(heldout_error).4f, %(moved_codes)d codes moved, "
        "%(seconds).0f s",
        state,
    )
