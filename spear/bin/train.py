"""Trains an encoder from a configuration; run it again to resume."""

from spear.train.main import main

__all__ = ["main"]
