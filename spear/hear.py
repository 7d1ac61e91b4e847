"""Any encoder behind the interface of HEAR 2021 (Turian et al., arXiv 2203.03022), for `heareval` and its heirs.

    model = load_model("exp/student/final")          # or any --upstream of `spear evaluate`
    embeddings, milliseconds = get_timestamp_embeddings(audio, model)
    scenes = get_scene_embeddings(audio, model)

A `path` may end in `#last` (the last hidden state, as when nothing is said), `#mean` (over all states) or `#concat`
(all side by side): tools that call `load_model(path)` can choose so. What an embedding is depends on its recording
alone, not on the batch; audio of any length takes bounded memory (`spear.evaluate.windows`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from spear.errors import ConfigError
from spear.evaluate import windows
from spear.evaluate.upstream import load_upstream

SAMPLE_RATES_HZ = (16000, 22050, 32000, 44100, 48000)
"""Those that the interface allows."""


class HearModel(nn.Module):
    """What `load_model` gives.

    Attributes:
        sample_rate: of the audio that the functions take, in Hz: the encoder's own.
        scene_embedding_size, timestamp_embedding_size: D.
        states: `last`, `mean` or `concat`.

    Args:
        spec: of the upstream.
        states: see above.
        device: where the encoder is.

    Raises:
        ConfigError: another word for states, or an encoder of a rate that the interface does not allow.
        CheckpointError: no such checkpoint.
    """

    def __init__(self, spec: str, states: str = "last", device: str = "cpu"):
        super().__init__()
        if states not in windows.STATES:
            raise ConfigError(f"states '{states}'", " or ".join(windows.STATES), "correct the word behind #")
        self.spec, self.states = spec, states
        self._open(torch.device(device))
        if self.sample_rate not in SAMPLE_RATES_HZ:
            raise ConfigError(
                f"{spec} at {self.sample_rate} Hz", f"one of {SAMPLE_RATES_HZ}, as HEAR has it", "use spear evaluate"
            )
        example_B1D = windows.joined(next(windows.stretches(self.upstream, torch.zeros(1, 8000))), states)
        self.scene_embedding_size = self.timestamp_embedding_size = int(example_B1D.shape[2])
        self.first_centre_seconds = windows.first_centre_seconds(self.upstream)

    def _open(self, device: torch.device) -> None:
        self.device, self.upstream = device, load_upstream(self.spec, str(device))
        self.sample_rate = self.upstream.sample_rate

    def to(self, *args, **kwargs) -> "HearModel":
        """Moves the encoder, by loading it again; the numbers stay float32."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None and device != self.device:
            self._open(device)
        return self


def load_model(path: str = "fbank", device: str = "cpu") -> HearModel:
    """The model of a specification.

    Args:
        path: an upstream as `spear evaluate --upstream` takes it, with `#last`, `#mean` or `#concat` behind it if it
            is not the last state that is wanted.
        device: where the encoder is.

    Raises:
        ConfigError, CheckpointError: see `HearModel`.
    """
    spec, mark, states = str(path or "fbank").rpartition("#")
    return HearModel(spec, states, device) if mark else HearModel(states, "last", device)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embeddings of frames.

    Args:
        audio: (n, samples) in [-1, 1] at the model's rate.

    Returns:
        embeddings (n, T, D) in float32 and the centres of the frames in milliseconds (n, T), on the audio's device.

    Raises:
        ConfigError: audio of another shape.
    """
    found_BTD = torch.cat(list(_stretches(audio, model)), dim=1)
    step = model.upstream.stride_samples / model.sample_rate
    centres_T = 1000 * (model.first_centre_seconds + step * torch.arange(found_BTD.shape[1], dtype=torch.float64))
    times_BT = centres_T.float().expand(len(audio), -1)
    return found_BTD.to(audio.device), times_BT.clone().to(audio.device)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Embeddings of recordings, (n, D) in float32: the means of those of their frames.

    Args:
        audio: see `get_timestamp_embeddings`.

    Raises:
        ConfigError: audio of another shape.
    """
    total_BD, frames = 0, 0
    for part_BTD in _stretches(audio, model):
        total_BD, frames = total_BD + part_BTD.sum(dim=1, dtype=torch.float64), frames + part_BTD.shape[1]
    return (total_BD / frames).float().to(audio.device)


def _stretches(audio: Tensor, model: HearModel):
    if audio.dim() != 2 or not audio.numel():
        raise ConfigError(f"audio of shape {tuple(audio.shape)}", "(recordings, samples)", "stack clips of one length")
    waves_BS = audio.detach().float().cpu()
    least = round(0.05 * model.sample_rate)  # what some encoders need for a frame
    waves_BS = functional.pad(waves_BS, (0, max(0, least - waves_BS.shape[1])))
    with torch.no_grad():
        for states in windows.stretches(model.upstream, waves_BS):
            yield windows.joined(states, model.states)
