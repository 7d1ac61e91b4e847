"""Whisper's encoder as a teacher, through transformers.

    whisper:openai/whisper-large-v3@-1        whisper:FOLDER@-1,window_seconds=10

FOLDER is one that transformers' `save_pretrained` or `spear teachers install whisper-tiny.en` wrote. Every utterance is
padded with silence to the 30 s that the model was trained on, by itself, and only the frames that it fills are kept; so
frames do not depend on the batch, and a short utterance costs as much as a long one. Longer audio is embedded in
windows of 30 s. LAYER k is the residual stream after block k, without the final norm (0: before the first); -1 is the
encoder's output, with it. 50 frames a second.

With window_seconds the model keeps only the positions of so many seconds: utterances are padded to that, and longer
ones are cut into windows of it. That is several times faster for short utterances, and another teacher: less silence is
attended to, so all frames change (docs/teachers.md has measured by how much).
"""

import math

import torch
from torch import Tensor

from spear import weights
from spear.errors import ConfigError
from spear.teachers.base import weights_sha256
from spear.teachers.frozen import FrozenTeacher
from spear.teachers.hub import load_pretrained, read_config, transformers_for


class WhisperTeacher(FrozenTeacher):
    """A frozen Whisper encoder.

    Args:
        path: folder or hub name.
        layer: see the module's docstring.
        device, dtype, overlap_seconds, part: see `FrozenTeacher`.
        window_seconds: 1 to the 30 s of the model, which is the default.

    Raises:
        MissingPackageError: transformers is not installed.
        DataError, ConfigError: not such a model, no such layer.
    """

    name, frame_rate, frame_rule = "whisper", 50.0, "whisper-50hz"
    feed_forward = "fc2"

    def __init__(
        self,
        path="",
        layer: int = -1,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        window_seconds: float | str = "",
        overlap_seconds: float | str = 2.0,
        part: str = "",
    ):
        transformers = transformers_for(self.name)
        path = str(path) or "openai/whisper-large-v3"
        values = read_config(path, ("whisper",), self.name)
        positions = values.get("max_source_positions", 1500)
        if type(positions) is not int or not 50 <= positions <= 6000:
            raise ConfigError(
                f"{path} with max_source_positions = {weights.shown(repr(positions))}",
                "1500, for the 30 s of all released models (50 to 6000 are taken)",
                "download it again",
            )
        model = load_pretrained(transformers.WhisperModel, path, values, self.name, unused=("decoder",))
        self._model = model.get_encoder()
        super().__init__(layer, device, dtype, window_seconds or positions / 50, overlap_seconds, part)
        self._keep_positions(positions)
        self._weights_sha256 = weights_sha256(self._model.state_dict())
        self.dim = self._model.config.d_model
        meaning = "the residual stream after a block (0: before the first), or -1 for the encoder's output"
        self._blocks = self._model.layers
        self._tap_layers([self.layer], meaning)
        self._extractor = transformers.WhisperFeatureExtractor(
            feature_size=self._model.config.num_mel_bins, chunk_length=math.ceil(positions / 50)
        )
        self._model.to(self.device)

    def _keep_positions(self, positions: int) -> None:
        """Cuts the model to the window, whose length is then part of the weights' hash."""
        kept = self._window_frames
        if not 50 <= kept <= positions:
            raise ConfigError(
                f"window_seconds={kept / 50:g} of teacher 'whisper'",
                f"1 to {positions / 50:g}, which is all that this model hears",
                "correct the spec",
            )
        if kept < positions:
            self._model.embed_positions = torch.nn.Embedding.from_pretrained(self._model.embed_positions.weight[:kept])
            self._model.config.max_source_positions = self._model.max_source_positions = kept

    def hear_whole(self) -> None:
        """Windows stay: the model hears no more."""

    def forward(self, waves_BS: Tensor, lengths: list[int], frames: list[int]) -> Tensor:
        """A padded batch -> the frames of the layer."""
        waves = [wave[:length].cpu().numpy() for wave, length in zip(waves_BS, lengths)]
        features_BFT = self._extractor(
            waves,
            sampling_rate=self.sample_rate,
            return_tensors="pt",
            device=str(self.device),
            max_length=self._window_frames * self.samples_per_frame,
        ).input_features
        out = self._model(features_BFT.to(self.device))
        return self._tapped(out.last_hidden_state)
