"""Training codebooks: k-means codebook by codebook, then least squares over all code vectors at once.

The reference (multi_quantization) trains by stochastic gradients for tens of thousands of steps. k-means on what the
best few combinations so far leave over (`spear.quantize.start.BeamStart`) gets below its error in seconds. Given the
codes, moreover, the best code vectors are the solution of one linear system, and given the code vectors, codes are
found by table look-up (`spear.quantize.search`): rounds of both follow for as long as they lower the error of
held-out frames. The linear layer of the format is fitted to the final codes.

Codebooks that grow so are a hierarchy: the first carries most of the energy. With `structure` "even" they begin with
like energies instead (`spear.quantize.even`), the rounds change several codes of a frame at once, and a round that
makes one codebook too strong does not count.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from spear import fs, log, ranges, records
from spear.errors import ConfigError, DataError
from spear.quantize.codec import Quantizer, check_vectors
from spear.quantize.even import MOST_ENERGY, even_start
from spear.quantize.least_squares import update_centers
from spear.quantize.logits import fit_logits
from spear.quantize.metrics import bits_per_frame, code_use, evenness, mutual_information, relative_error
from spear.quantize.search import search_all
from spear.quantize.start import BeamStart, product_kmeans, residual_kmeans
from spear.quantize.tables import SearchTables
from spear.seeds import derive, torch_rng

METHODS, STRUCTURES = ("joint", "residual", "product"), ("residual", "even")
# Even codebooks begin further from where they end: more rounds, and code vectors that move more freely.
_EVEN_ROUNDS, _EVEN_RIDGE = 3, 0.1
Progress = Callable[[dict], None]
_logger = log.get_logger(__name__)


@dataclass
class QuantizerTrainConfig:
    """Settings of `train_quantizer`; the defaults suit 20,000 to 500,000 frames."""

    codebook_size: ranges.CodebookSize = field(
        default=256, metadata={"help": "codes of a codebook, a power of two up to 256"}
    )
    seed: int = field(default=42, metadata={"help": "names every random choice"})
    method: str = field(
        default="joint",
        metadata={"help": "joint; or a control in the same format: residual or product (k-means on all frames)"},
    )
    structure: str = field(
        default="residual",
        metadata={"help": "residual: a hierarchy, each codes what those before leave over; or even: of like energy"},
    )
    start_frames: records.PositiveCount = field(
        default=65_536, metadata={"help": "frames of the start, and rows of each k-means in it"}
    )
    start_iterations: records.PositiveCount = field(
        default=4, metadata={"help": "iterations of that k-means in each of six subspaces; controls take twice as many"}
    )
    rounds: records.Count = field(
        default=6,
        metadata={
            "help": "most rounds of search and least squares (even: three times as many); the last is on all frames; "
            "useless ones end it"
        },
    )
    beam: records.PositiveCount = field(default=5, metadata={"help": "combinations kept by the search while training"})
    bfloat16: bool = field(
        default=False, metadata={"help": "products of that search in bfloat16: faster at large dims, nearly as exact"}
    )
    uneven: records.NotNegative = field(
        default=0.04,
        metadata={"help": "largest index entropy loss of a new codebook; 1 may give less error, and less even use"},
    )
    ridge: records.NotNegative = field(
        default=100.0, metadata={"help": "frames' worth of weight that holds a code vector in place (even: a tenth)"}
    )
    logits_epochs: records.NotNegative = field(
        default=3.0, metadata={"help": "epochs of cross-entropy for the linear layer"}
    )
    logits_steps: records.Count = field(default=300, metadata={"help": "most steps of it, each of 1024 frames"})
    heldout_fraction: ranges.Part = field(
        default=0.05, metadata={"help": "share of the frames that is only measured on"}
    )
    max_heldout: records.Count = field(default=5_000, metadata={"help": "most frames held out"})

    def __post_init__(self):
        ranges.check(self)
        if self.structure not in STRUCTURES:
            raise ConfigError(
                f"structure '{self.structure}' of codebooks",
                f"one of {', '.join(STRUCTURES)}",
                "correct --train.structure",
            )
        if self.structure == "even" and self.method != "joint":
            raise ConfigError(
                f"structure 'even' with method '{self.method}'", "method joint", "give only one of the two"
            )


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
        progress: called after each codebook of the start with `codebook` (from 1), `codebooks` and `seconds`, and
            after each round with `round` (0: the start), `train_error`, `heldout_error` and `seconds`.
        state_path: file that keeps the state after each of them; a killed run continues from it, exactly, and it is
            removed at the end. Without it nothing is written.

    Returns:
        the quantizer in eval mode, and metrics of the held-out frames (of the training frames if none are held out):
        `relative_error` by number of refinement passes, `start_error` (before the rounds), `perplexity`,
        `dead_codes`, `index_entropy_loss`, `mutual_information_bits` (N x N, of the training frames), `energy_shares`
        and `entropy_nats` (of the training frames), `bits_per_frame`, `rounds` (what `progress` got of them), `method`,
        `structure`, `frames`, `heldout_frames`, `seconds`.

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
    metrics.update(evenness(state.centers_NKD, state.codes_MN))
    largest = max(metrics["energy_shares"])
    if state.even and largest > MOST_ENERGY / num_codebooks:
        _logger.warning(
            "one of %d codebooks carries %.0f %% of the energy: few directions hold most of the frames' variance, and "
            "codebooks of them cannot be even",
            num_codebooks,
            100 * largest,
        )
    metrics.update(rounds=state.history, method=config.method, structure=config.structure)
    metrics.update(frames=len(train_MD), heldout_frames=len(heldout_MD), seconds=round(time.monotonic() - began, 2))
    if state_path is not None:
        Path(state_path).unlink(missing_ok=True)
    return quantizer, metrics


class _Training:
    """Centers and the codes of all training frames: a start, and rounds that improve it."""

    def __init__(self, train_MD: Tensor, heldout_MD: Tensor, num_codebooks: int, config: QuantizerTrainConfig):
        self.x_MD, self.config, self.num_codebooks = train_MD, config, num_codebooks
        self.even = config.structure == "even"
        self.num_rounds = config.rounds * (_EVEN_ROUNDS if self.even else 1)
        self.watched_MD = heldout_MD if len(heldout_MD) else train_MD[: config.max_heldout]
        self.round, self.start_error, self.error = 0, float("nan"), float("nan")
        self.largest_share = float("nan")  # of energy, of the watched frames
        # Whether rounds have come to all frames; before, they see those of the start.
        self.whole = len(train_MD) <= config.start_frames or config.method != "joint" or self.num_rounds <= 1
        self.centers_NKD = train_MD.new_empty(0, config.codebook_size, train_MD.shape[1])
        self.tables: SearchTables | None = None  # of these centers
        self.codes_MN = None  # of all frames, or of those of the start
        self.history: list[dict] = []  # of this process: after a restart it begins at the round of the state

    def run(self, progress: Progress, state_path: Path | None) -> None:
        """The start and all rounds, from the state file's where there is a fitting one."""
        self.began = time.monotonic()
        self._resume(state_path)
        if len(self.centers_NKD) < self.num_codebooks:
            self._begin(progress, state_path)
        self.tables = SearchTables(self.centers_NKD)
        self.codes_MN = self._codes(self.tables, self._frames())
        self.error, self.largest_share = self._watch(self.tables)
        if math.isnan(self.start_error):
            self.start_error = self.error
            self._save(state_path)
            self._report(progress)
        while self.config.method == "joint" and self.round < self.num_rounds:
            if self._one_round():
                self._save(state_path)
                self._report(progress)
            elif self.whole:
                break
            else:  # these frames have given what they can
                self.whole = True
                self.codes_MN = self._codes(self.tables, self.x_MD)

    def quantizer(self) -> Quantizer:
        """The result, with its linear layer fitted."""
        config, (num_codebooks, codebook_size, dim) = self.config, self.centers_NKD.shape
        quantizer = Quantizer(dim, num_codebooks, codebook_size).to(self.x_MD.device)
        quantizer.centers.copy_(self.centers_NKD)
        seed = derive(config.seed, "quantizer")
        fit_logits(quantizer, self.x_MD, self.codes_MN, seed, config.logits_epochs, config.logits_steps)
        digest = fs.sha256_bytes(self.centers_NKD.cpu().numpy().tobytes())
        quantizer.id_buf.copy_(torch.tensor([ord(character) for character in digest[:8]]))
        return quantizer.eval()

    def _begin(self, progress: Progress, state_path: Path | None) -> None:
        config, seed = self.config, derive(self.config.seed, "quantizer")
        if config.method != "joint":  # controls
            make = product_kmeans if config.method == "product" else residual_kmeans
            self.centers_NKD = make(
                self.x_MD, self.num_codebooks, config.codebook_size, 2 * config.start_iterations, seed
            )
            return
        start_MD = self.x_MD[: config.start_frames]  # the split has shuffled the frames
        if self.even:
            sizes = (self.num_codebooks, config.codebook_size)
            self.centers_NKD = even_start(start_MD, *sizes, config.start_iterations, seed)
            self._save(state_path)
            progress({"codebook": sizes[0], "codebooks": sizes[0], "seconds": self._seconds()})
            return
        start = BeamStart(
            start_MD,
            config.codebook_size,
            config.beam,
            config.start_frames,
            config.start_iterations,
            seed,
            config.uneven,
            self.centers_NKD,
        )
        for number in range(len(self.centers_NKD), self.num_codebooks):
            start.add()
            whole = number + 1 == self.num_codebooks
            self.centers_NKD = start.shifted_centers() if whole else start.centers_NKD
            self._save(state_path)
            progress({"codebook": number + 1, "codebooks": self.num_codebooks, "seconds": self._seconds()})

    def _frames(self) -> Tensor:
        """What the present round sees: most of the gain comes from the frames of the start, at less cost."""
        return self.x_MD if self.whole else self.x_MD[: self.config.start_frames]

    def _one_round(self) -> bool:
        """New centers and codes, if they lower the error of the watched frames; whether they did."""
        frames_MD, ridge = self._frames(), self.config.ridge * (_EVEN_RIDGE if self.even else 1)
        centers_NKD = update_centers(self.tables, self.centers_NKD, frames_MD, self.codes_MN, ridge)[0]
        tables = SearchTables(centers_NKD)
        error, share = self._watch(tables)
        uneven = self.even and share > max(self.largest_share, MOST_ENERGY / self.num_codebooks)
        if uneven or not error < self.error:
            return False
        self.centers_NKD, self.tables, self.error, self.round = centers_NKD, tables, error, self.round + 1
        self.largest_share = share
        self.whole = self.whole or self.num_rounds <= self.round + 1
        self.codes_MN = self._codes(tables, self._frames())
        return True

    def _report(self, progress: Progress) -> None:
        state = {
            "round": self.round,
            "train_error": round(relative_error(self._frames(), self.tables.decode(self.codes_MN)), 6),
            "heldout_error": round(self.error, 6),
            "seconds": self._seconds(),
        }
        self.history.append(state)
        progress(state)

    def _seconds(self) -> float:
        return round(time.monotonic() - self.began, 2)

    def _codes(self, tables: SearchTables, x_MD: Tensor) -> Tensor:
        # Growing alone is enough for a hierarchy; codes of even codebooks have to change together.
        return search_all(tables, x_MD, 2 if self.even else 1, self.config.beam, self.config.bfloat16)

    def _watch(self, tables: SearchTables) -> tuple[float, float]:
        """Error of the watched frames, and the largest share of energy in them."""
        codes_MN = self._codes(tables, self.watched_MD)
        rows_NKD = tables.rows_CD.view(tables.num_codebooks, tables.codebook_size, tables.dim)
        shares = evenness(rows_NKD, codes_MN)["energy_shares"]
        return relative_error(self.watched_MD, tables.decode(codes_MN)), max(shares)

    def _identity(self) -> str:
        # Sums of the frames stand for the frames: reading a changed set of them must not continue an old run.
        sums = [self.x_MD.sum(dtype=torch.float64), self.x_MD.square().sum(dtype=torch.float64)]
        return fs.sha256_json(
            [asdict(self.config), self.num_codebooks, list(self.x_MD.shape), [f"{float(s):.10e}" for s in sums]]
        )

    def _save(self, path: Path | None) -> None:
        if path is not None:
            details = {"round": str(self.round), "start_error": repr(self.start_error), "identity": self._identity()}
            details["whole"] = str(int(self.whole))
            with fs.atomic(path) as temporary:
                save_file({"centers": self.centers_NKD.cpu()}, temporary, details)

    def _resume(self, path: Path | None) -> None:
        if path is None or not path.exists():
            return
        with safetensors.safe_open(path, framework="pt") as file:
            details = file.metadata()
            if details["identity"] != self._identity():
                _logger.info("%s is the state of other frames or settings: starting afresh", path)
                return
            self.round, self.start_error = int(details["round"]), float(details["start_error"])
            self.whole = bool(int(details["whole"]))
            self.centers_NKD = file.get_tensor("centers").to(self.x_MD.device)
        _logger.info("continuing from round %d, codebook %d (%s)", self.round, len(self.centers_NKD), path)


def _split(frames_MD: Tensor, config: QuantizerTrainConfig) -> tuple[Tensor, Tensor]:
    """Shuffled training and held-out frames."""
    order = torch.randperm(len(frames_MD), generator=torch_rng(config.seed, "heldout")).to(frames_MD.device)
    count = min(int(config.heldout_fraction * len(frames_MD)), config.max_heldout)
    return frames_MD[order[count:]], frames_MD[order[:count]]


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
    if "round" in state:
        text = "round %(round)d: error %(train_error).4f, held out %(heldout_error).4f, %(seconds).0f s"
    else:
        text = "codebook %(codebook)d of %(codebooks)d, %(seconds).0f s"
    _logger.info(text, state)
