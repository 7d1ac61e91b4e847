"""A stand-alone process around the espeak-ng library: JSON requests in, samples and phoneme events out.

espeak-ng keeps its state (random numbers, flutter phase, voice) in C globals that no call resets, so the same request
gives other samples the second time. A fresh process that gets the same list of requests always answers the same, which
is what makes the corpus a function of its seed. Nothing of `spear` and nothing heavy is imported here: it starts in
some 30 ms.

Protocol: stdin holds one JSON object {library, data, utterances: [{text, voice, rate, pitch, range}]}. Stdout answers
for each utterance one line of JSON {samples, sample_rate_hz, phones: [[seconds, ipa], ...]} followed by that many
little-endian 16-bit samples.
"""

import ctypes
import json
import sys

SYNCHRONOUS = 2  # audio goes to the callback, and espeak_Synth returns when all of it is there
PHONEME_EVENTS, PHONEME_IPA, DONT_EXIT = 0x0001, 0x0002, 0x8000
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
PHONEME = 7  # espeak_EVENT_TYPE
UTF8 = 1


class EventId(ctypes.Union):
    """The union inside espeak_EVENT."""

    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", EventId),
    ]


Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))


class Espeak:
    """One initialised library. Its callback collects samples and phoneme events of the utterance being spoken."""

    def __init__(self, library: str, data: str):
        self.lib = ctypes.CDLL(library)
        self.lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        self.lib.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self.lib.espeak_SetParameter.argtypes = [ctypes.c_int] * 3
        self.lib.espeak_Synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int]
        self.lib.espeak_Synth.argtypes += [ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p]
        options = PHONEME_EVENTS | PHONEME_IPA | DONT_EXIT
        self.sample_rate_hz = self.lib.espeak_Initialize(SYNCHRONOUS, 400, data.encode(), options)
        if self.sample_rate_hz <= 0:
            raise SystemExit(f"espeak-ng cannot read its data in {data}")
        if hasattr(self.lib, "espeak_ng_SetRandSeed"):
            self.lib.espeak_ng_SetRandSeed(1)
        self._callback = Callback(self._collect)  # kept alive: the library holds only a pointer
        self.lib.espeak_SetSynthCallback(self._callback)
        self.pieces: list[bytes] = []
        self.phones: list[tuple[float, str]] = []

    def _collect(self, samples, count, events) -> int:
        if samples and count:
            self.pieces.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type:
            if events[index].type == PHONEME:
                name = events[index].id.string.decode("utf-8", "ignore")
                self.phones.append((events[index].audio_position / 1000, name))
            index += 1
        return 0

    def speak(self, text: str, voice: str, rate: int, pitch: int, range: int) -> tuple[bytes, list]:
        """16-bit samples and (seconds, IPA) events of one utterance."""
        self.pieces, self.phones = [], []
        if self.lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SystemExit(f"espeak-ng has no voice {voice}")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, range)):
            self.lib.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode() + b"\0"
        if self.lib.espeak_Synth(encoded, len(encoded), 0, 1, 0, UTF8, None, None) != 0:
            raise SystemExit(f"espeak-ng failed on {text!r}")
        return b"".join(self.pieces), self.phones


def main() -> None:
    """Answers the request on stdin."""
    request = json.load(sys.stdin)
    espeak = Espeak(request["library"], request["data"])
    for utterance in request["utterances"]:
        samples, phones = espeak.speak(**utterance)
        head = {"samples": len(samples) // 2, "sample_rate_hz": espeak.sample_rate_hz, "phones": phones}
        sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + samples)


if __name__ == "__main__":
    main()
