"""Training data: weighted sources, batch plans, mixing, and loaders that are functions of (seed, epoch, step, rank)."""

from spear.data.collate import Batch
from spear.data.cuts import Cut, CutTable
from spear.data.dataset import PretrainDataset
from spear.data.loader import EpochLoader, make_loader, make_validation_loader
from spear.data.mixing import MixingConfig
from spear.data.noises import load_impulse_responses, load_noises
from spear.data.plan import Plan, PlanLimits, build_plan
from spear.data.sources import CutLimits, SourceConfig, Sources, load_sources
from spear.data.streams import StreamConfig, TargetStream, TokenStream

__all__ = [
    "Batch",
    "Cut",
    "CutLimits",
    "CutTable",
    "EpochLoader",
    "MixingConfig",
    "Plan",
    "PlanLimits",
    "PretrainDataset",
    "SourceConfig",
    "Sources",
    "StreamConfig",
    "TargetStream",
    "TokenStream",
    "build_plan",
    "load_impulse_responses",
    "load_noises",
    "load_sources",
    "make_loader",
    "make_validation_loader",
]
