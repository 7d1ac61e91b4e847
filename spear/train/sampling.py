"""Cuts with rare labels come more often: weights of the batch plan from how many cuts have each label."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from spear import records
from spear.data import Sources
from spear.errors import ConfigError
from spear.log import get_logger

logger = get_logger(__name__)


@dataclass
class SamplingConfig:
    """How often cuts come in an epoch.

    Attributes:
        stream: whose labels decide: a cut's weight is the sum over its labels of 1 / (training cuts that have it), as
            in AudioSet recipes. Empty: the weights of the sources alone.
        cuts_per_epoch: how many cuts an epoch has, about; 0: as many as there are.
    """

    stream: str = ""
    cuts_per_epoch: records.Count = 0


def weighted(sampling: SamplingConfig, sources: Sources) -> Sources:
    """The sources with weights by labels, which are printed.

    Args:
        sampling: what is wanted.
        sources: cuts and open streams of training; weights of sources multiply those by labels.

    Raises:
        ConfigError: no such stream, or one without labels.
    """
    if not sampling.stream:
        return sources
    stream = next((each for each in sources.streams if each.name == sampling.stream), None)
    if not hasattr(stream, "sampling_weights"):
        known = [each.name for each in sources.streams if hasattr(each, "sampling_weights")]
        raise ConfigError(
            f"sampling.stream: '{sampling.stream}'",
            f"a stream of labels ({', '.join(known) or 'this run has none'})",
            "correct sampling.stream, or leave it empty",
        )
    keys = sources.cuts.keys
    weights = stream.sampling_weights(keys) * (1.0 if sources.weights is None else sources.weights)
    wanted = sampling.cuts_per_epoch or len(keys)
    weights *= wanted / weights.sum()
    before, after = stream.counts[stream.counts > 0], stream.expected_counts(keys, weights)[stream.counts > 0]
    logger.info(
        "sampling by %s: %d of %d cuts an epoch, each %.3g to %.3g times; labels that %d to %d cuts have come %.1f to "
        "%.1f times",
        *(sampling.stream, wanted, len(keys), weights.min(), weights.max()),
        *(before.min(), before.max(), after.min(), after.max()),
    )
    return dataclasses.replace(sources, weights=np.asarray(weights, dtype=np.float64))
