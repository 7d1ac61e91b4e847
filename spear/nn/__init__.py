"""Zipformer parts and their assembly, in plain torch."""

from spear.nn.balancer import Balancer
from spear.nn.chunks import WHOLE, ChunkSize
from spear.nn.layer import ZipformerLayer
from spear.nn.norm import BiasNorm
from spear.nn.schedule import ScheduledFloat, scheduled_floats, set_batch_count
from spear.nn.stack import set_activation_checkpointing
from spear.nn.subsampling import Subsampling
from spear.nn.whiten import Whiten, kept_whitening_memory, set_whitening_memory, whitening_memory
from spear.nn.zipformer import StackSizes, Zipformer

__all__ = [
    "WHOLE",
    "Balancer",
    "BiasNorm",
    "ChunkSize",
    "ScheduledFloat",
    "StackSizes",
    "Subsampling",
    "Whiten",
    "Zipformer",
    "ZipformerLayer",
    "kept_whitening_memory",
    "scheduled_floats",
    "set_activation_checkpointing",
    "set_batch_count",
    "set_whitening_memory",
    "whitening_memory",
]
