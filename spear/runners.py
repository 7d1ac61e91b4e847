"""Any encoder behind the interfaces of others' leaderboards: `mteb` (audio) and X-ARES. For HEAR see `spear.hear`.

    import mteb
    mteb.evaluate(MtebEncoder("exp/student/final"), mteb.get_tasks(["ESC50"]))

X-ARES takes a file with one class whose name ends in Encoder:

    import spear.runners

    class StudentEncoder(spear.runners.XaresEncoder):
        path = "exp/student/final"

What `path` may be, and that an embedding depends on its recording alone, is said in `spear.hear`. Neither package is
needed to import this module.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from spear.audio.load import resampled
from spear.errors import DataError
from spear.evaluate.upstream import upstream_hash
from spear.hear import get_scene_embeddings, get_timestamp_embeddings, load_model


class MtebEncoder:
    """A model of `mteb` (2.x) whose inputs are audio: the time mean of the frames of each recording.

    Args:
        model_name: what `spear.hear.load_model` takes, such as `CHECKPOINT#mean`.
        revision: of the model, for the names of results; by default a hash of its weights.
        device: where the encoder is.
    """

    def __init__(self, model_name: str, revision: str | None = None, *, device: str | None = None, **kwargs: Any):
        self.model = load_model(model_name, device or "cpu")
        self.revision = revision or upstream_hash(self.model.upstream)[:16]

    @property
    def mteb_model_meta(self) -> Any:
        """What `mteb` asks of a model."""
        from mteb.models import ModelMeta

        name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in self.model.spec)
        facts = {"name": f"spear/{name}-{self.model.states}", "revision": self.revision, "modalities": ["audio"]}
        facts |= {"embed_dim": self.model.scene_embedding_size, "similarity_fn_name": "cosine"}
        return ModelMeta.create_empty(facts | {"framework": ["PyTorch"]})

    def encode(self, inputs: Iterable[dict[str, list]], **kwargs: Any) -> np.ndarray:
        """(recordings, D) in float32.

        Args:
            inputs: batches with a list `audio` of {array, sampling_rate}; of several channels the mean is heard.
            kwargs: what tasks say of themselves; it changes nothing.

        Raises:
            DataError: a batch without audio, or a recording without samples.
        """
        found = [self._embedded(batch) for batch in inputs]
        return np.concatenate(found) if found else np.zeros((0, self.model.scene_embedding_size), np.float32)

    def _embedded(self, batch: dict[str, list]) -> np.ndarray:
        if "audio" not in batch:
            raise DataError(f"a batch of {', '.join(batch)}", "audio", "choose tasks of audio")
        waves = [_mono(item, self.model.sample_rate) for item in batch["audio"]]
        found = np.zeros((len(waves), self.model.scene_embedding_size), np.float32)
        for size in {len(wave) for wave in waves}:  # only recordings of one length share a batch
            places = [place for place, wave in enumerate(waves) if len(wave) == size]
            found[places] = get_scene_embeddings(torch.stack([waves[place] for place in places]), self.model).numpy()
        return found

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(N, M) cosines."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(N,) cosines."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)


def _unit(embeddings: Any) -> Tensor:
    return functional.normalize(torch.atleast_2d(torch.as_tensor(embeddings).float()), dim=-1)


def _mono(item: Any, rate_hz: int) -> Tensor:
    """(samples,) at the encoder's rate."""
    samples = np.asarray(item["array"], dtype=np.float32)
    samples = samples.mean(axis=0) if samples.ndim == 2 else samples
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
        raise DataError(f"audio of shape {samples.shape}", "finite samples of one channel, or (channels, samples)", "")
    return torch.from_numpy(resampled(samples, int(item["sampling_rate"]), rate_hz))


class XaresEncoder(nn.Module):
    """An encoder as X-ARES takes it: a subclass names its `path`.

    Attributes:
        sampling_rate: of the audio, in Hz.
        output_dim: D.
        hop_size_in_ms: between frames.
    """

    path = "fbank"
    device = "cpu"

    def __init__(self):
        super().__init__()
        self.model = load_model(self.path, self.device)
        self.sampling_rate, self.output_dim = self.model.sample_rate, self.model.timestamp_embedding_size
        self.hop_size_in_ms = 1000 * self.model.upstream.stride_samples / self.sampling_rate

    def forward(self, audio: Tensor) -> Tensor:
        """(B, samples) or (samples,) at `sampling_rate` to (B, T, D) in float32."""
        return get_timestamp_embeddings(torch.atleast_2d(audio), self.model)[0]
