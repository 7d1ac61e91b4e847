"""Any audio encoder of the package transformers as a teacher, with a hop that the user declares.

    hf:FOLDER@9,hop_samples=320,window_samples=400        hf:OWNER/NAME,hop_samples=640,sample_rate_hz=24000

The model must give one frame after the other (patches of a spectrogram are none). hop_samples is the distance of its
frames, window_samples what one of them sees of the audio through the model's front end, without the layers' context:
an utterance has (samples - window) // hop + 1 frames, which is compared with what the model gives. The default window
is the hop. Frames beyond that, of models that pad every utterance to a fixed length, are left out.

preprocessor_config.json beside the weights decides what the model is given and the sampling rate; without one it is the
wave at 16 kHz. LAYER k is `hidden_states[k]` as transformers counts, -1 the encoder's output. Of models with a decoder
only the encoder is used. The model hears one utterance at a time, so frames do not depend on the batch. An adapter that
knows the model (`wavlm`, `whisper`...) is faster, and knows what the numbers of its layers mean.
"""

import inspect

import torch
from torch import Tensor, nn

from spear import weights
from spear.errors import ConfigError, DataError
from spear.teachers.base import weights_sha256
from spear.teachers.frozen import FrozenTeacher, canonical_state
from spear.teachers.hub import load_pretrained, preprocessor, read_config, transformers_for

_INPUTS = ("input_features", "input_values")


class AnyTeacher(FrozenTeacher):
    """A frozen encoder of transformers behind the `Teacher` protocol.

    Args:
        path: folder or hub name.
        layer: see the module's docstring.
        device, dtype, window_seconds, overlap_seconds: see `FrozenTeacher`.
        hop_samples: distance of its frames; must be given.
        window_samples: samples that the first frame needs; `hop_samples` when empty.
        sample_rate_hz: instead of what preprocessor_config.json says.

    Raises:
        MissingPackageError: transformers is not installed.
        DataError, ConfigError: no such model, no such layer, no hop, or another number of frames than declared.
    """

    name = "hf"

    def __init__(
        self,
        path="",
        layer: int = -1,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        window_seconds: float | str = 60.0,
        overlap_seconds: float | str = 2.0,
        hop_samples: int | str = "",
        window_samples: int | str = "",
        sample_rate_hz: int | str = "",
    ):
        transformers = transformers_for(self.name)
        if not str(path):
            raise ConfigError("teacher 'hf' without a path", "hf:FOLDER,hop_samples=320", "name the model")
        path, hop = str(path), _whole("hop_samples", hop_samples)
        window = _whole("window_samples", window_samples or hop)
        known = tuple(transformers.CONFIG_MAPPING.keys())
        values = read_config(path, known, self.name)
        found = preprocessor(path, self.name)
        rate = sample_rate_hz or found.get("sampling_rate") or 16000
        self.sample_rate, self.samples_per_frame = _whole("sample_rate_hz", rate), hop
        self.frame_rate, self.frame_rule = self.sample_rate / hop, f"hop{hop}-window{window}"
        self.extra_samples, self.min_samples = max(0, window - hop), window
        super().__init__(layer, device, dtype, window_seconds, overlap_seconds)
        self._extractor = None
        if found:  # False: nobody is asked whether code beside it may run
            self._extractor = transformers.AutoFeatureExtractor.from_pretrained(path, trust_remote_code=False)
        self._model = self._load(transformers, path, values)
        self._weights_sha256 = weights_sha256(canonical_state(self._model.state_dict().items()))
        self._model.to(self.device)
        self._input = _input_of(self._model, path)
        self._layers = [self.layer]
        self.dim = self._try()

    def _load(self, transformers, path: str, values: dict) -> nn.Module:
        config_class = transformers.CONFIG_MAPPING[values["model_type"]]
        if config_class not in transformers.MODEL_MAPPING:
            raise ConfigError(f"{path} of type {weights.shown(values['model_type'])}", "an encoder", "choose another")
        model_class = transformers.MODEL_MAPPING[config_class]
        model_class = model_class[0] if isinstance(model_class, tuple) else model_class
        _input_of(model_class, path)  # before it is built: models of images may fetch others
        model = load_pretrained(model_class, path, values, self.name, unused=("decoder",))
        return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model

    def _try(self) -> int:
        """Channels of a frame."""
        states = self._states(torch.zeros(2 * self.sample_rate))
        self._check([self.layer], states)
        return states[self.layer].shape[1]

    def _check(self, layers, states: dict[int, Tensor]) -> None:
        if missing := [layer for layer in layers if layer not in states]:
            raise ConfigError(
                f"layer {missing[0]} of a {type(self._model).__name__}",
                f"-1 (the encoder's output) to {len(states) - 2}",
                "correct the teacher's spec",
            )

    def settings(self) -> dict:
        """Windows, and the model's class."""
        return {**super().settings(), "model": type(self._model).__name__}

    def watch_states(self, final_norm: bool = False) -> list[int]:
        """As `FrozenTeacher.watch_states`, of the states that the model itself counts."""
        if self.layer != -1:
            raise ConfigError(f"layer {self.layer} of teacher '{self.name}'", "-1 for every state", "leave @LAYER out")
        count = len(self._states(torch.zeros(2 * self.sample_rate))) - 1
        return self.watch_layers([*range(count - final_norm), *([-1] if final_norm else [])])

    def watch_layers(self, layers) -> list[int]:
        """As `FrozenTeacher.watch_layers`."""
        states = self._states(torch.zeros(2 * self.sample_rate))
        self._check(layers, states)
        self._layers = list(layers)
        widths = [states[layer].shape[1] for layer in layers]
        self.dim = sum(widths)
        return widths

    @torch.inference_mode()
    def _states(self, wave_S: Tensor) -> dict[int, Tensor]:
        """Every state of an utterance, (T, D) each, and under -1 the output."""
        inputs = {self._input: wave_S[None].to(self.device)}
        if self._extractor is not None:
            made = self._extractor(wave_S.cpu().numpy(), sampling_rate=self.sample_rate, return_tensors="pt")
            inputs = {self._input: made[self._input].to(self.device)}
        out = self._model(**inputs, output_hidden_states=True)
        states = {number: state_BTD[0] for number, state_BTD in enumerate(out.hidden_states or ())}
        return {**states, -1: out.last_hidden_state[0]}

    def forward(self, waves_BS: Tensor, lengths: list[int], frames: list[int]) -> Tensor:
        """A padded batch -> the frames of the layer."""
        out_BTD = torch.zeros(len(lengths), max(frames), self.dim, device=self.device)
        for out_TD, wave_S, length, count in zip(out_BTD, waves_BS, lengths, frames):
            states = self._states(wave_S[:length])
            found_TD = torch.cat([states[layer] for layer in self._layers], dim=1)
            if len(found_TD) < count:
                raise DataError(
                    f"{len(found_TD)} frames of {length} samples by {type(self._model).__name__}",
                    f"{count}, as hop_samples and window_samples say",
                    "declare the model's own hop and window",
                )
            out_TD[:count] = found_TD[:count].float()
        return out_BTD


def _input_of(model, path: str) -> str:
    """What a model, or a class of them, calls its audio."""
    found = inspect.signature(model.forward).parameters
    if not (names := [key for key in _INPUTS if key in found]):
        name = getattr(model, "__name__", type(model).__name__)
        raise ConfigError(f"{path}, a {name}", "a model of audio", "choose another model")
    return names[0]


def _whole(name: str, value: int | str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if not 1 <= number <= 1_000_000:
        raise ConfigError(f"{name}={value} of teacher 'hf'", "a number of samples, such as 320", "correct the spec")
    return number
