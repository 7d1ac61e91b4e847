"""USAD and USAD 2.0 as teachers. Their code comes with the weights and runs only when that is asked for.

    usad:FOLDER@-1,trust_remote_code=true        usad:MIT-SLS/USAD-Base@9,trust_remote_code=true

The model is called with one utterance at a time and must return a mapping with "x" (1, T, D) and "hidden_states" (a
list of the same shape), at 50 frames a second, as the released models document. LAYER k is `hidden_states[k]` as the
model counts; -1 is "x". The released weights have not been tried with this adapter: it is tested on a small model of
that interface, and a wrong number of frames is refused at extraction.
"""

import torch
from torch import Tensor

from spear import compat
from spear.errors import ConfigError
from spear.teachers.align import expected_frames
from spear.teachers.base import weights_sha256
from spear.teachers.frozen import DTYPES, FrozenTeacher
from spear.teachers.hub import load_with_code, transformers_for


class UsadTeacher(FrozenTeacher):
    """A frozen USAD encoder behind the `Teacher` protocol.

    Args:
        path: folder or hub name.
        layer: see the module's docstring.
        device: where it computes.
        dtype: float32, or bfloat16 for the matrix products.
        trust_remote_code: true to run the Python files that come with the weights; read them first.

    Raises:
        MissingPackageError: transformers is not installed.
        ConfigError: running its code was not allowed, or no such layer. DataError: no such model.
    """

    name, frame_rate, frame_rule = "usad", 50.0, "usad-50hz"
    _watching = _final_norm = False
    _widths: list[int]

    def __init__(
        self,
        path="",
        layer: int = -1,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        trust_remote_code: str = "",
    ):
        super().__init__(layer, device, dtype)
        transformers = transformers_for(self.name)
        path = str(path) or "MIT-SLS/USAD-Base"
        if str(trust_remote_code).lower() != "true":
            raise ConfigError(
                f"teacher 'usad' at {path}, which needs Python files that come with its weights",
                "a decision to run them",
                "read them, then add ,trust_remote_code=true to the teacher's spec",
            )
        self._model = load_with_code(transformers.AutoModel, path, self.name).to(self.device)
        self._weights_sha256 = weights_sha256(self._model.state_dict())
        self.dim = self._run(torch.zeros(16000, device=self.device)).shape[1]

    def settings(self) -> dict:
        """No windows: the model hears each utterance whole."""
        return {}

    def watch_states(self, final_norm: bool = False) -> list[int]:
        """As `FrozenTeacher.watch_states`, for the states that the model itself counts; the encoder's output is "x"."""
        if self.layer != -1:
            raise ConfigError(f"layer {self.layer} of teacher '{self.name}'", "-1 for every state", "leave @LAYER out")
        self._watching, self._final_norm = True, final_norm
        self.dim = self._run(torch.zeros(16000, device=self.device)).shape[1]
        return self._widths

    def _run(self, wave_S: Tensor) -> Tensor:
        with torch.inference_mode(), compat.autocast(self.device.type, DTYPES[self.dtype]):
            out = self._model(wave_S[None])
        try:
            if self._watching:
                last_BTD = out["x"] if self._final_norm else out["hidden_states"][-1]
                states = [*out["hidden_states"][:-1], last_BTD]
                self._widths = [state_BTD.shape[2] for state_BTD in states]
                return torch.cat(states, dim=2)[0].float()
            x_BTD = out["x"] if self.layer == -1 else out["hidden_states"][self.layer]
        except (KeyError, TypeError, IndexError) as error:
            found = (
                f"{len(out['hidden_states'])} layers" if isinstance(error, IndexError) else f"a {type(out).__name__}"
            )
            raise ConfigError(
                f"layer {self.layer} of a model that gives {found}", '"x" and "hidden_states"', "correct the spec"
            ) from error
        return x_BTD[0].float()

    def embed(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Audio in [-1, 1] at 16 kHz with lengths in samples -> float32 frames (B, T, D) and lengths in frames."""
        counts = [expected_frames(int(length), self) for length in lengths_B.tolist()]
        rows = [torch.zeros(0, self.dim, device=self.device) for _ in counts]
        for row, (count, length) in enumerate(zip(counts, lengths_B.tolist())):
            if count:
                rows[row] = self._run(waves_BS[row, : int(length)].to(self.device))
        lens_B = torch.tensor([len(row) for row in rows], device=lengths_B.device)
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lens_B
