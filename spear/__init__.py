"""SPEAR: self-supervised speech and audio representations by masked prediction of multi-codebook tokens."""

__version__ = "0.1.0"
