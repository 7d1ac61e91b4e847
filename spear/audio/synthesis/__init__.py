"""The embedded synthetic corpus: speech by espeak-ng, sounds and notes by signal processing."""

from spear.audio.synthesis.corpus import CorpusConfig, synthesise_corpus

__all__ = ["CorpusConfig", "synthesise_corpus"]
