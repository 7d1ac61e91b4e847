"""Our encoders as an s3prl upstream, for those who want to score them with s3prl itself.

Put into a checkout of s3prl, as `s3prl/upstream/spear/hubconf.py`, the one line

    from spear.evaluate.s3prl_expert import spear_local

and run its downstream tasks with `-u spear_local -k CHECKPOINT`. The module itself does not need s3prl.
"""

import torch
from torch import Tensor, nn

from spear.evaluate.upstream import model_stride


class UpstreamExpert(nn.Module):
    """A checkpoint behind s3prl's interface: un-padded waves in, a list of hidden states out.

    Args:
        ckpt: what `spear.load_model` reads.
    """

    def __init__(self, ckpt: str, model_config: str | None = None, **options):
        super().__init__()
        import spear

        self.model = spear.load_model(ckpt)

    def get_downsample_rates(self, key: str) -> int:
        """Samples between frames."""
        return model_stride(self.model)

    def forward(self, wavs: list[Tensor]) -> dict[str, list[Tensor] | Tensor]:
        """{"hidden_states": the input of the first layer and the output of every layer, each (B, T, D)}."""
        lengths_B = torch.tensor([len(wave) for wave in wavs], device=wavs[0].device)
        waves_BS = nn.utils.rnn.pad_sequence(list(wavs), batch_first=True)
        output = self.model(waves_BS, lengths_B)
        first = getattr(output, "embed_out", None)
        states = [state for state in (first, *output.hidden_states) if state is not None]
        return {"hidden_states": states, "last_hidden_state": states[-1]}


def spear_local(ckpt: str, *arguments, **options) -> UpstreamExpert:
    """The entry that s3prl's `-u spear_local -k CHECKPOINT` looks for."""
    return UpstreamExpert(ckpt, *arguments, **options)
