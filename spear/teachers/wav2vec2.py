"""Encoders with a wav2vec 2.0 front end: WavLM, HuBERT, wav2vec 2.0 and XLS-R, data2vec-audio, MERT.

    wavlm:microsoft/wavlm-large@21     hubert:FOLDER@9,dtype=bfloat16     wavlm:FOLDER@6,part=ffn     mert:FOLDER@7

Weights come from a folder that transformers' `save_pretrained` wrote, or by name from the hub.

LAYER k is the residual stream after block k of the transformer (1 to the number of blocks), before any final norm; 0 is
what enters block 1. This is `hidden_states[k]` of transformers below the last block. WavLM-Large 21, SPEAR's speech
teacher, is therefore the output of block 21 of 24. -1 is the encoder's output: with the final norm in models that have
one (the large ones), and equal to the last block's in the others. Blocks above k are not computed. Without @LAYER it is
-1, but 21 for WavLM and HuBERT of 24 blocks.

Each utterance is normalised by itself where the model wants it (`do_normalize`), never over a batch, and padding is
kept out of the group norms of the base models' first layer and of data2vec's stacked positional convolutions. So frames
do not depend on the batch. The authors' scripts of SPEAR normalise the whole padded batch; theirs are equal to ours for
batches of one, up to the constant under the root (1e-5 there, 1e-7 in transformers).
"""

import warnings

import torch
from torch import Tensor

from spear import weights
from spear.errors import ConfigError
from spear.teachers.base import weights_sha256
from spear.teachers.frozen import FrozenTeacher, PerUtterance, canonical_state
from spear.teachers.hub import load_pretrained, preprocessor, read_config, transformers_for

_CONVOLUTIONS = ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
_MEANING = "the residual stream after a block (0: before the first), or -1 for the encoder's output"


class Wav2Vec2Teacher(FrozenTeacher):
    """A frozen encoder of the wav2vec 2.0 family; subclasses name the model.

    Args:
        path: folder or hub name; the subclass's default when empty.
        layer: see the module's docstring.
        device, dtype, window_seconds, overlap_seconds, part: see `FrozenTeacher`.
        normalise: true or false instead of what the model's preprocessor_config.json says.

    Raises:
        MissingPackageError: transformers is not installed.
        DataError, ConfigError: not such a model, no such layer.
    """

    model_class: str
    model_types: tuple[str, ...]
    default_path: str
    default_layer = -1
    frame_rate, frame_rule = 50.0, "wav2vec2-50hz"
    feed_forward = "feed_forward"
    extra_samples, min_samples = 80, 400

    def __init__(
        self,
        path="",
        layer: int | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        window_seconds: float | str = 60.0,
        overlap_seconds: float | str = 2.0,
        normalise: str = "",
        part: str = "",
    ):
        super().__init__(-1 if layer is None else layer, device, dtype, window_seconds, overlap_seconds, part)
        path = str(path) or self.default_path
        self._model = self._load(path)
        config = self._model.config
        self._weights_sha256 = weights_sha256(canonical_state(self._model.state_dict().items()))
        self.dim = config.hidden_size
        self._blocks = self._model.encoder.layers
        self.has_final_norm = bool(getattr(config, "do_stable_layer_norm", False))
        if layer is None and len(self._blocks) == 24:
            self.layer = self.default_layer
        self._tap_layers([self.layer], _MEANING)
        self._norm = getattr(config, "feat_extract_norm", "layer")  # data2vec has only that one
        self._front: PerUtterance | None = None
        self._positions: PerUtterance | None = None
        if self._norm == "group":
            self._front = self._model.feature_extractor = PerUtterance(self._model.feature_extractor, 1, 2)
        if hasattr(self._model.encoder.pos_conv_embed, "layers"):  # data2vec: padding would travel from one to the next
            self._positions = PerUtterance(self._model.encoder.pos_conv_embed, 1, 1)
            self._model.encoder.pos_conv_embed = self._positions
        self._model.to(self.device)
        self._normalise = self._wants_normalisation(path, normalise)

    def _load(self, path: str):
        transformers = transformers_for(self.name)
        values = self._values(path)
        found = [values.get(key, default) for key, default in zip(("conv_kernel", "conv_stride"), _CONVOLUTIONS)]
        if not all(isinstance(numbers, list | tuple) for numbers in found) or tuple(map(tuple, found)) != _CONVOLUTIONS:
            raise ConfigError(
                f"convolutions {weights.shown(str(found[0]))} with strides {weights.shown(str(found[1]))} in {path}",
                f"{list(_CONVOLUTIONS[0])} with {list(_CONVOLUTIONS[1])}, as all released models have",
                "write an adapter with a frame rule of its own (spear.teachers.align.register_frame_rule)",
            )
        return load_pretrained(getattr(transformers, self.model_class), path, values, self.name)

    def _values(self, path: str) -> dict:
        """Content of config.json."""
        return read_config(path, self.model_types, self.name)

    def _wants_normalisation(self, path: str, asked: str) -> bool:
        if str(asked).lower() not in ("", "true", "false"):
            raise ConfigError(f"normalise={asked} of teacher '{self.name}'", "true or false", "correct the spec")
        if asked:
            return str(asked).lower() == "true"
        # Without the file: the models with layer norms in the front end were trained on normalised audio.
        default = self._norm == "layer"
        found = preprocessor(path, self.name).get("do_normalize", default)
        if not isinstance(found, bool):
            raise ConfigError(
                f"do_normalize = {weights.shown(repr(found))} in preprocessor_config.json of {path}",
                "true or false",
                "correct the file, or say normalise=true or normalise=false in the teacher's spec",
            )
        return found

    def settings(self) -> dict:
        """Windows, and whether utterances are normalised."""
        return {**super().settings(), "normalise": self._normalise}

    def prepare_wave(self, wave_S: Tensor) -> Tensor:
        """Mean 0 and variance 1 over the utterance, as transformers' feature extractor does it."""
        if not self._normalise:
            return wave_S
        return (wave_S - wave_S.mean()) / (wave_S.var(unbiased=False) + 1e-7).sqrt()

    def forward(self, waves_BS: Tensor, lengths: list[int], frames: list[int]) -> Tensor:
        """A padded batch -> the frames of the layer."""
        lengths_B1 = torch.tensor(lengths, device=self.device).clamp(min=self.min_samples)[:, None]
        mask_BS = torch.arange(waves_BS.shape[1], device=self.device) < lengths_B1
        if self._front is not None:
            self._front.lengths = lengths
        if self._positions is not None:
            self._positions.lengths = frames
        with warnings.catch_warnings():
            # Of WavLM's attention in transformers, about the types of its two masks.
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            out = self._model(waves_BS, attention_mask=mask_BS.long())
        return self._tapped(out.last_hidden_state)


class WavLMTeacher(Wav2Vec2Teacher):
    """WavLM base, base+ and large; the default, large at layer 21, is the speech teacher of SPEAR."""

    name, model_class, model_types = "wavlm", "WavLMModel", ("wavlm",)
    default_path, default_layer = "microsoft/wavlm-large", 21


class HubertTeacher(Wav2Vec2Teacher):
    """HuBERT base, large and extra large."""

    name, model_class, model_types = "hubert", "HubertModel", ("hubert",)
    default_path, default_layer = "facebook/hubert-large-ll60k", 21


class Wav2Vec2OwnTeacher(Wav2Vec2Teacher):
    """wav2vec 2.0 and XLS-R."""

    name, model_class, model_types = "wav2vec2", "Wav2Vec2Model", ("wav2vec2",)
    default_path = "facebook/wav2vec2-large-lv60"


class Data2VecTeacher(Wav2Vec2Teacher):
    """data2vec-audio base and large."""

    name, model_class, model_types = "data2vec", "Data2VecAudioModel", ("data2vec-audio",)
    default_path = "facebook/data2vec-audio-large"


class MertTeacher(Wav2Vec2Teacher):
    """MERT v0 and v1: a HuBERT on 24 kHz music, read without its remote code; 75 frames a second.

    Variants with a constant-Q front end or deep norm need their authors' code and are refused.
    """

    name, model_class, model_types = "mert", "HubertModel", ("mert_model",)
    default_path = "m-a-p/MERT-v1-95M"
    sample_rate, frame_rate, frame_rule = 24000, 75.0, "mert-75hz"

    def _values(self, path: str) -> dict:
        values = super()._values(path)
        for key in ("feature_extractor_cqt", "deepnorm"):
            if values.get(key):
                raise ConfigError(f"{path} with {key}", "a MERT that is a HuBERT, such as v1-95M", "choose another")
        rate = values.get("sample_rate", self.sample_rate)
        if type(rate) is not int or not 8000 <= rate <= 192_000:
            raise ConfigError(
                f"{path} with sample_rate = {weights.shown(repr(rate))}", "8000 to 192000", "download it again"
            )
        self.sample_rate = rate
        return values
