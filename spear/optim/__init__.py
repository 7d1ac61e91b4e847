"""ScaledAdam and the Eden schedule, as the Zipformer is trained; and AdamW."""

from spear.optim.adamw import AdamW, without_decay
from spear.optim.clipping import ClippingStatistics
from spear.optim.eden import Eden, eden_factor
from spear.optim.saving import load_optimizer_tensors, optimizer_tensors
from spear.optim.scaled_adam import ScaledAdam, parameter_groups

__all__ = [
    "AdamW",
    "ClippingStatistics",
    "Eden",
    "ScaledAdam",
    "eden_factor",
    "load_optimizer_tensors",
    "optimizer_tensors",
    "parameter_groups",
    "without_decay",
]
