"""The encoder of the `zipformer` package with SPEAR's sizes, to compare with; its training stack is not imported."""

import importlib
import importlib.util
import sys
import types

import torch
from torch import Tensor, nn

from spear.errors import MissingPackageError
from spear.models.config import SpearConfig


class PeerEncoder(nn.Module):
    """Front end and Zipformer, called as `SpearModel.encode` is."""

    def __init__(self, config: SpearConfig):
        super().__init__()
        zipformer, subsampling = _modules()
        stacks = ("downsampling_factor", "encoder_dim", "num_encoder_layers", "encoder_unmasked_dim", "query_head_dim")
        stacks += ("pos_head_dim", "value_head_dim", "num_heads", "feedforward_dim", "cnn_module_kernel")
        sizes = {name: config.per_stack(name) for name in stacks}
        self.front = subsampling.Conv2dSubsampling(config.num_mel_bins, sizes["encoder_dim"][0])
        self.encoder = zipformer.Zipformer(output_downsampling_factor=2, pos_dim=config.pos_dim, **sizes)

    def forward(self, features_BTF: Tensor, lens_B: Tensor) -> Tensor:
        """(B, T, mel bins) and lengths -> (B, T/4, D)."""
        x_BTD, lens_B = self.front(features_BTF, lens_B)
        padding_BT = torch.arange(x_BTD.shape[1], device=lens_B.device)[None] >= lens_B[:, None]
        x_TBD, _ = self.encoder(x_BTD.transpose(0, 1), lens_B, padding_BT)
        return x_TBD.transpose(0, 1)


def _modules() -> tuple[types.ModuleType, types.ModuleType]:
    """The package's two modules that hold the encoder.

    Its `__init__` and `utils` import torchaudio, kaldialign and more, none of which an encoder needs: empty packages
    stand in their places.

    Raises:
        MissingPackageError: it is not installed.
    """
    found = importlib.util.find_spec("zipformer")
    if found is None:
        raise MissingPackageError(
            "the package 'zipformer' is not installed", "it for the comparison", "pip install --no-deps zipformer"
        )
    package, tools = types.ModuleType("zipformer"), types.ModuleType("zipformer.utils")
    package.__path__ = list(found.submodule_search_locations)
    tools.torch_autocast = lambda device_type="cpu", **options: torch.autocast(device_type, **options)
    sys.modules.update({"zipformer": package, "zipformer.utils": tools})
    names = ("zipformer.modules.zipformer", "zipformer.modules.subsampling")
    return tuple(importlib.import_module(name) for name in names)
