"""Synthetic speakers: espeak-ng (from the wheel `espeakng-loader`), its English accents and its voice variants."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr

from spear.errors import DataError, require
from spear.seeds import numpy_rng

SAMPLE_RATE_HZ = 16000

_ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-gb-x-gbclan", "en-us-nyc")
_VARIANTS = (
    *("m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4", "m7", "f5", "m8", "steph", "adam", "linda", "Lee", "Annie"),
    *("Reed", "Andrea", "Mike", "belinda", "Andy", "steph2", "david", "zac"),
)

# IPA of all accents to the 39 phones of the folded TIMIT and CMU sets (stress and length dropped), longest match first.
_PHONES = {
    **{"aɪə": "AY AH", "aɪ": "AY", "aʊ": "AW", "æʊ": "AW", "ʌʉ": "AW", "eɪ": "EY", "ei": "IY", "e": "EY", "ɔɪ": "OY"},
    **{"oɪ": "OY", "oʊ": "OW", "əʊ": "OW", "ʌʊ": "OW", "oə": "AO", "ɔə": "AO", "o": "OW", "əu": "UW", "eə": "EH R"},
    **{"iə": "IH R", "ɛə": "AE", "ɑə": "AA", "əɪ": "ER", "əɹ": "ER", "ʌɹ": "ER", "ɚ": "ER", "ɜ": "ER", "əl": "AH L"},
    **{"a": "AE", "æ": "AE", "ɑ": "AA", "ɒ": "AA", "ɔ": "AO", "ə": "AH", "ɐ": "AH", "ʌ": "AH", "ɛ": "EH", "i": "IY"},
    **{"ɪ": "IH", "ᵻ": "IH", "u": "UW", "ʉ": "UW", "ʊ": "UH", "b": "B", "d": "D", "dʒ": "JH", "ð": "DH", "f": "F"},
    **{"ɡ": "G", "h": "HH", "j": "Y", "ʲ": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "ŋ": "NG", "p": "P", "ɹ": "R"},
    **{"r": "R", "s": "S", "ʃ": "SH", "t": "T", "ʔ": "T", "ɾ": "D", "tʃ": "CH", "θ": "TH", "v": "V", "w": "W"},
    **{"ʍ": "W", "z": "Z", "ʒ": "ZH"},
}
_IGNORED = "ˈˌː:̩̪ "


@dataclass(frozen=True)
class Speaker:
    """One speaker: an espeak-ng voice (accent+variant), base pitch and pitch range (0-99), words per minute."""

    name: str
    voice: str
    pitch: int
    range: int
    rate: int


@dataclass(frozen=True)
class Spoken:
    """One utterance: float32 samples at 16 kHz, and its phones in order."""

    samples: np.ndarray
    phones: tuple[str, ...]


def speakers(count: int, seed: int) -> list[Speaker]:
    """The first `count` synthetic speakers: every (accent, variant) pair is used once, pitch and rate are drawn."""
    chosen = []
    for number in range(count):
        # Both lists are walked at once; after each round the accents shift, so pairs repeat only after 7 x 24.
        variant = _VARIANTS[number % len(_VARIANTS)]
        accent = _ACCENTS[(number + number // len(_VARIANTS)) % len(_ACCENTS)]
        rng = numpy_rng(seed, "speaker", number)
        pitch, spread = int(rng.integers(25, 80)), int(rng.integers(25, 75))
        chosen.append(Speaker(f"synth{number:03d}", f"{accent}+{variant}", pitch, spread, int(rng.integers(145, 215))))
    return chosen


def restyled(speaker: Speaker, rng: np.random.Generator) -> Speaker:
    """The same voice in the mood of one utterance: pitch, range and rate a little off its own."""
    pitch, spread = speaker.pitch + rng.integers(-12, 13), speaker.range + rng.integers(-15, 16)
    return replace(speaker, pitch=int(pitch), range=int(spread), rate=int(speaker.rate * rng.uniform(0.85, 1.15)))


def phones_from_ipa(events: list[str]) -> tuple[str, ...]:
    """espeak-ng's IPA phoneme events as ARPAbet-like phones without stress.

    Raises:
        DataError: an event holds a sign that is in no table, named in the message.
    """
    phones: list[str] = []
    for event in events:
        text = "".join(sign for sign in event if sign not in _IGNORED)
        while text:
            for length in (3, 2, 1):
                if text[:length] in _PHONES:
                    phones += _PHONES[text[:length]].split()
                    text = text[length:]
                    break
            else:
                raise DataError(
                    f"unknown phoneme {text!r} from espeak-ng", "one of the English inventory", "use English voices"
                )
    return tuple(phones)


def speak(requests: list[tuple[Speaker, str]]) -> list[Spoken]:
    """Synthesises (speaker, text) requests in one fresh espeak-ng process.

    Raises:
        MissingPackageError: `espeakng-loader` is not installed.
        DataError: the process failed; its message is passed on.
    """
    loader = require("espeakng_loader", "espeakng-loader", "the synthetic corpus")
    utterances = [
        {"text": text, "voice": who.voice, "rate": who.rate, "pitch": who.pitch, "range": who.range}
        for who, text in requests
    ]
    library, data = loader.get_library_path(), os.path.dirname(loader.get_data_path())
    message = json.dumps({"library": str(library), "data": data, "utterances": utterances}).encode()
    script = Path(__file__).with_name("espeak_process.py")
    done = subprocess.run([sys.executable, str(script)], input=message, capture_output=True)
    if done.returncode != 0:
        raise DataError(
            f"espeak-ng stopped with code {done.returncode}: {done.stderr.decode(errors='replace').strip()[-300:]}",
            "speech for every request",
            "pip install --force-reinstall espeakng-loader",
        )
    spoken, position = [], 0
    for _ in utterances:
        end = done.stdout.index(b"\n", position)
        head = json.loads(done.stdout[position:end])
        position = end + 1 + 2 * head["samples"]
        samples = np.frombuffer(done.stdout[end + 1 : position], "<i2").astype(np.float32) / 32768
        samples = soxr.resample(_trimmed(samples), head["sample_rate_hz"], SAMPLE_RATE_HZ).astype(np.float32)
        spoken.append(Spoken(samples, phones_from_ipa([name for _, name in head["phones"]])))
    return spoken


def _trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence that espeak-ng puts around an utterance."""
    loud = np.flatnonzero(np.abs(samples) > 0.002)
    return samples[loud[0] : loud[-1] + 1] if loud.size else samples
