"""Objectives: what a stream of targets is, what predicts it, and what the loss, its numbers and its warnings are.

The trainer knows `Objective` alone. One more objective is a file with a subclass and a line in `registry`, or, outside
this package, an entry point of the group `spear.objectives`.
"""

from spear.train.objectives.base import Context, Objective, Probe, Settings
from spear.train.objectives.registry import OBJECTIVES, load, names

__all__ = ["OBJECTIVES", "Context", "Objective", "Probe", "Settings", "load", "names"]
