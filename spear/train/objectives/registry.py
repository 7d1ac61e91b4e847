"""Objectives by name: ours, and those that installed packages bring."""

from spear.plugins import Plugins
from spear.train.objectives.base import Objective

OBJECTIVES = Plugins(
    "objective",
    "spear.objectives",
    {
        "tokens": "spear.train.objectives.tokens:TokenObjective",
        "random_projection": "spear.train.objectives.random_projection:RandomProjectionObjective",
        "labels": "spear.train.objectives.labels:LabelObjective",
        "features": "spear.train.objectives.features:FeatureObjective",
        "ctc": "spear.train.objectives.ctc:CtcObjective",
        "transducer": "spear.train.objectives.transducer:TransducerObjective",
        "tagging": "spear.train.objectives.tagging:TaggingObjective",
        "classification": "spear.train.objectives.classification:ClassificationObjective",
        "verification": "spear.train.objectives.verification:VerificationObjective",
    },
    Objective,
)
names, load = OBJECTIVES.names, OBJECTIVES.load


def settings_classes() -> dict[str, type]:
    """The settings of every objective that can be imported, by name."""
    return {name: objective.Settings for name, objective in OBJECTIVES.classes().items()}
