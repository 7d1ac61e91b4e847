"""Four manners of speaking for emotion recognition, by pitch, pitch range and rate of the synthetic voice.

They are caricatures and no emotions: enough to try a pipeline on, nothing to conclude from.
"""

from dataclasses import replace

import numpy as np

from spear.audio.synthesis import text
from spear.audio.synthesis.channel import through_channel
from spear.audio.synthesis.corpus import SPEECH
from spear.audio.synthesis.espeak import Speaker, speak
from spear.seeds import numpy_rng

# (pitch added, pitch range added, rate factor)
MANNERS = {"neutral": (0, 0, 1.0), "happy": (14, 25, 1.15), "angry": (4, 38, 1.35), "sad": (-12, -28, 0.75)}


def emotional_speech(speaker: Speaker, sentences: int, seed: int) -> list[tuple[str, str, np.ndarray]]:
    """Says `sentences` random sentences in every manner; returns (manner, text, samples at 16 kHz)."""
    rng = numpy_rng(seed, "emotion", speaker.name)
    planned = [(manner, text.sentence(rng)) for _ in range(sentences) for manner in MANNERS]
    spoken = speak([(_in_manner(speaker, manner, rng), words) for manner, words in planned])
    return [
        (manner, words, through_channel(speech.samples, numpy_rng(seed, "emotion", speaker.name, number), SPEECH))
        for number, ((manner, words), speech) in enumerate(zip(planned, spoken))
    ]


def _in_manner(speaker: Speaker, manner: str, rng: np.random.Generator) -> Speaker:
    pitch, spread, rate = MANNERS[manner]
    return replace(
        speaker,
        pitch=int(np.clip(speaker.pitch + pitch + rng.integers(-4, 5), 0, 99)),
        range=int(np.clip(speaker.range + spread + rng.integers(-6, 7), 0, 99)),
        rate=int(speaker.rate * rate * rng.uniform(0.95, 1.05)),
    )
