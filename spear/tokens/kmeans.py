"""k-means clusters of a teacher's frames, the labels of HuBERT: a quantizer of one codebook of any size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spear import fs
from spear.errors import CardError
from spear.log import get_logger
from spear.quantize.controls import KMeans
from spear.tokens.features import open_features
from spear.tokens.ready import shards_sha256

logger = get_logger(__name__)
FILE = "kmeans.safetensors"
ITERATIONS = 30


class Clusters:
    """Centers with a card, in the form that `spear.tokens.streams.token_stream` takes.

    Args:
        centers_KD: float32.
        teacher: fingerprint of the model whose frames were clustered.
    """

    def __init__(self, centers_KD: Tensor, teacher: Mapping[str, Any]):
        self.model = KMeans(centers_KD.shape[1], len(centers_KD))
        self.model.centers.copy_(centers_KD)
        content = fs.sha256_bytes(centers_KD.cpu().contiguous().numpy().tobytes())
        self.card = {"content_sha256": content, "num_codebooks": 1, "codebook_size": len(centers_KD)}
        self.card |= {"dim": centers_KD.shape[1], "teacher": dict(teacher)}

    def encode(self, frames_MD: Tensor) -> Tensor:
        """(M, D) frames -> (M, 1) clusters."""
        return self.model.encode(frames_MD)

    def to(self, device: torch.device) -> "Clusters":
        """Moves the centers; returns itself."""
        self.model.to(device)
        return self


def cluster(
    embeddings: Path, num_classes: int, seed: int, device: torch.device, directory: Path, dry_run: bool = False
) -> Clusters:
    """Clusters stored frames; what `directory` holds of the same frames and settings is kept.

    Args:
        embeddings: what `spear embed` wrote.
        num_classes: K.
        seed: of the first centers.
        device: where it computes.
        directory: receives the centers.
        dry_run: centers that are not there yet are zeros, enough for an estimate, and nothing is written.

    Raises:
        CardError: there are fewer frames than classes, or no frames there.
    """
    store, card = open_features(embeddings)
    if store.num_rows < num_classes:
        raise CardError(f"{store.num_rows} frames in {embeddings}", f"at least {num_classes}", "embed more cuts")
    inputs = fs.sha256_json([card.sha256, shards_sha256(embeddings), num_classes, seed, ITERATIONS])
    try:
        with safe_open(directory / FILE, "pt") as file:
            if (file.metadata() or {}).get("inputs") == inputs:
                return Clusters(file.get_tensor("centers"), card.teacher)
    except (OSError, SafetensorError):
        pass  # not made yet, or not whole
    if dry_run:
        return Clusters(torch.zeros(num_classes, store.width), card.teacher)
    # As float16 until they are in one piece: parts and the whole together take half the memory.
    frames_MD = torch.from_numpy(np.concatenate([rows for _, rows in store.items()])).to(device).float()
    logger.info("k-means: %d classes of %d frames of dim %d", num_classes, *frames_MD.shape)
    centers_KD = KMeans.train_on(frames_MD, num_classes, ITERATIONS, seed).centers.cpu()
    directory.mkdir(parents=True, exist_ok=True)
    with fs.atomic(directory / FILE) as temporary:
        save_file({"centers": centers_KD}, temporary, {"inputs": inputs})
    return Clusters(centers_KD, card.teacher)
