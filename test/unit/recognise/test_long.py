"""Long recordings: what windows say together is what the whole would say; subtitles."""

import json

import numpy as np
import pytest
import torch

from spear.audio import save_audio
from spear.errors import ConfigError
from spear.manifest.recordings import Recording
from spear.manifest.vocabulary import Vocabulary
from spear.models.ctc_head import CtcHeadSpec
from spear.models.heads import Encoded
from spear.recognise.decoding import Decoder
from spear.recognise.long import transcribe
from spear.recognise.subtitles import segments, written
from spear.recognise.words import TimedWord

FRAME = 320  # samples at 50 Hz
TEXT = "ABLE BAKER CABBAGE DEAD BEEF " * 12


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.of_characters([TEXT])


@pytest.fixture(scope="module")
def heard(tmp_path_factory, vocabulary):
    """Recordings whose level says a unit in every frame, three frames a unit and a blank after it."""
    folder = tmp_path_factory.mktemp("long")
    numbers = [number for unit in vocabulary.encode(TEXT) for number in (unit, unit, unit, 0)]
    recordings = []
    for name, count in (("whole", len(numbers)), ("short", 40)):
        levels = np.repeat(np.asarray(numbers[:count]) / 32, FRAME).astype(np.float32)
        save_audio(folder / f"{name}.wav", levels, 16000)
        recordings.append(Recording(folder / f"{name}.wav", len(levels) / 16000))
    broken = folder / "broken.wav"
    broken.write_bytes(b"RIFF")
    return [*recordings, Recording(broken, 1.0)]


@pytest.fixture(scope="module")
def decoder(encoder, vocabulary):
    """A decoder that reads the unit of each frame off its level."""
    head = CtcHeadSpec(vocabulary.size).build(encoder).eval()
    index = torch.arange(vocabulary.size)
    head.log_probs = lambda hidden: (-((hidden[:, :, :1] - index) ** 2) * 9).log_softmax(-1)
    return Decoder(head, vocabulary)


def encode(waves, lengths):
    """The level of each frame; the first and last second of a window are heard wrong, as edges are."""
    levels = waves[:, : waves.shape[1] // FRAME * FRAME].unflatten(1, (-1, FRAME)).mean(2) * 32
    lens = lengths // FRAME
    for row, count in zip(levels, lens.tolist()):
        if count > 150:
            row[:50] = row[count - 50 : count] = 3.0
    return Encoded(levels[:, :, None], lens, [], lens, torch.zeros_like(levels, dtype=torch.bool), levels)


def test_windows_lose_and_double_no_word(heard, decoder):
    refused = []
    found = dict(
        transcribe(encode, decoder, 50.0, heard, lambda *bad: refused.append(bad), window_seconds=8, overlap_seconds=2)
    )
    assert [number for number, _ in refused] == [2] and sorted(found) == [0, 1]
    # The edges of the recording itself have no neighbour that hears them better.
    said = " ".join(word.text for word in found[0])
    assert heard[0].duration_seconds > 3 * 8 and " ".join(TEXT.split()[4:-4]) in said
    assert len(said) <= len(TEXT)
    times = [word.start_seconds for word in found[0]]
    assert times == sorted(times)
    place = TEXT.index("DEAD", 300)
    assert any(abs(time - place * 4 / 50) < 0.05 for time in times)
    assert " ".join(word.text for word in found[1]) == TEXT[:10].strip()
    with pytest.raises(ConfigError, match="windows longer than both overlaps"):
        list(transcribe(encode, decoder, 50.0, heard, print, window_seconds=2, overlap_seconds=2))


WORDS = [
    TimedWord("HELLO", 0.5, 0.9, 0.9),
    TimedWord("A<B", 1.0, 1.25, 0.5),
    TimedWord("LATER", 3661.0, 3661.5, 1.0),
]


def test_subtitles_have_times_and_break_at_pauses():
    assert [[word.text for word in segment] for segment in segments(WORDS)] == [["HELLO", "A<B"], ["LATER"]]
    assert written(WORDS, "txt") == "HELLO A<B LATER\n"
    assert written(WORDS, "srt") == (
        "1\n00:00:00,500 --> 00:00:01,250\nHELLO A<B\n\n2\n01:01:01,000 --> 01:01:01,500\nLATER\n"
    )
    assert written(WORDS, "vtt").startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.250\nHELLO A&lt;B\n\n01:01:01.000")
    row = json.loads(written(WORDS, "json", "x.wav"))
    assert row["path"] == "x.wav" and row["words"][1] == {"word": "A<B", "start": 1.0, "end": 1.25, "confidence": 0.5}
    assert written([], "srt") == "" and written([], "vtt") == "WEBVTT\n"
    many = [TimedWord("WORD", 0.3 * n, 0.3 * n + 0.2, 1.0) for n in range(100)]
    lines = segments(many)
    assert sum(map(len, lines)) == 100
    assert all(line[-1].end_seconds - line[0].start_seconds <= 6 for line in lines)
