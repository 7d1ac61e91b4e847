"""Whole files are read whole, cut ones are refused, and so are files that hold more than their header says."""

import struct
import time

import numpy as np
import pytest
import soundfile

from spear.audio import load_audio, probe
from spear.errors import DataError

RATE = 16000
CHUNKED = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "SVX", "CAF"]
SINGLE = ["AU", "NIST", "VOC", "AVR", "MPC2K", "WVE", "MAT4", "MAT5"]


def content(tmp_path, form: str, seconds: float = 1.0, rate: int = RATE, channels: int = 1, **options) -> bytes:
    """A file of noise in some format, as libsndfile writes it."""
    wave = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    rate = 8000 if form == "WVE" else rate
    if "subtype" not in options and soundfile.check_format(form, "PCM_16"):
        options["subtype"] = "PCM_16"
    soundfile.write(tmp_path / "made", wave, rate, format=form, **options)
    return (tmp_path / "made").read_bytes()


def num_samples(tmp_path, data: bytes) -> int:
    """Samples that stage 1 counts, after checking that so many are loaded."""
    (tmp_path / "file").write_bytes(data)
    info = probe(tmp_path / "file")
    assert len(load_audio(tmp_path / "file", info.sample_rate_hz)) == info.num_samples
    return info.num_samples


def refusal(tmp_path, data: bytes) -> str:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_audio(tmp_path / "file", probe(tmp_path / "file").sample_rate_hz)
    return caught.value.found


@pytest.mark.parametrize("form", [*CHUNKED, *SINGLE, "FLAC", "OGG", "MP3"])
def test_whole_halves_and_joined(tmp_path, form):
    data = content(tmp_path, form)
    assert num_samples(tmp_path, data) == RATE
    for kept in (0.3, 0.5, 0.9):
        assert "truncated" in refusal(tmp_path, data[: int(len(data) * kept)])
    if form != "MP3":  # see below
        assert "holds more than its header says" in refusal(tmp_path, data + data)


@pytest.mark.parametrize("form", ["AU", "NIST", "AIFF", "WAV", "RF64", "CAF", "W64"])
@pytest.mark.parametrize("subtype", ["ULAW", "PCM_24"])
def test_other_encodings_and_channels(tmp_path, form, subtype):
    data = content(tmp_path, form, channels=2, subtype=subtype)
    assert num_samples(tmp_path, data) == RATE
    assert "truncated" in refusal(tmp_path, data[: len(data) // 2])


PLACEHOLDERS = [0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36, 2_000_000_000, 2_000_000_000 - 36]


@pytest.mark.parametrize("form, field", [("WAV", b"data"), ("AIFF", b"SSND"), ("AU", b".snd")])
@pytest.mark.parametrize("length", PLACEHOLDERS)
def test_lengths_that_a_pipe_could_not_know_are_no_promise(tmp_path, form, field, length):
    data = bytearray(content(tmp_path, form))
    place = data.find(field) + (8 if form == "AU" else 4)
    data[place : place + 4] = struct.pack("<I" if form == "WAV" else ">I", length)
    assert num_samples(tmp_path, bytes(data)) == RATE


@pytest.mark.parametrize(
    "form, field, order", [("CAF", b"data", ">q"), ("W64", b"data\xf3", "<q"), ("RF64", b"ds64", "<q")]
)
@pytest.mark.parametrize("length", [-1, 0, 2**63 - 1, 2**62])
def test_long_lengths_that_a_pipe_could_not_know(tmp_path, form, field, order, length):
    data = bytearray(content(tmp_path, form))
    place = data.rfind(field) + (4 if form == "CAF" else 16)
    data[place : place + 8] = struct.pack(order, length)
    assert num_samples(tmp_path, bytes(data)) == RATE


def test_a_wav_with_the_length_of_its_first_chunk_names_both_lengths(tmp_path):
    data = bytearray(content(tmp_path, "WAV", 5.0))
    data[40:44] = struct.pack("<I", 2 * RATE * 2)
    reason = refusal(tmp_path, bytes(data))
    assert "5.000 s" in reason and "2.000 s" in reason


def test_what_may_stand_behind_the_samples(tmp_path):
    data = content(tmp_path, "WAV")
    list_chunk = b"LIST" + struct.pack("<I", 10) + b"INFOabcdef"
    odd_chunk = b"LIST" + struct.pack("<I", 9) + b"INFOabcde\0"
    for tail in (list_chunk, odd_chunk, b"TAG" + bytes(125), bytes(20000), b"\1\2\3" * 100):
        assert num_samples(tmp_path, data + tail) == RATE
    second = b"data" + struct.pack("<I", RATE * 2) + data[44:]
    assert "2.000 s" in refusal(tmp_path, data + second)
    empty = data[:40] + bytes(4)
    assert "no samples" in refusal(tmp_path, empty) and "no samples" in refusal(tmp_path, empty + list_chunk)
    guid = bytes.fromhex(
        "6c657665f3acd3118cd100c04f8edb8a"
    )  # libsndfile takes chunks behind those of Wave64 for samples
    wave64 = content(tmp_path, "W64")
    assert num_samples(tmp_path, wave64 + guid + struct.pack("<q", 4024) + bytes(range(250)) * 16) == RATE


def test_a_voc_of_several_blocks_is_one_recording(tmp_path):
    data = content(tmp_path, "VOC")
    head, samples = data[:26], data[42:-1]
    first = b"\x09" + struct.pack("<I", 10000 + 12)[:3] + data[30:42] + samples[:10000]
    rest = b"\x02" + struct.pack("<I", len(samples) - 10000)[:3] + samples[10000:]
    assert num_samples(tmp_path, head + first + rest + b"\0") == RATE
    np.testing.assert_allclose(load_audio(tmp_path / "file") * 32768, np.frombuffer(samples, "<i2"), atol=0.01)


@pytest.mark.parametrize("rate", [1, 7, 999, 768_001, 4_000_000])
def test_rates_that_no_recording_has_are_refused(tmp_path, rate):
    data = bytearray(content(tmp_path, "WAV"))
    data[24:28] = struct.pack("<I", rate)
    assert f"{rate} samples per second" in refusal(tmp_path, bytes(data))
    data[24:28] = struct.pack("<I", 768_000)
    assert num_samples(tmp_path, bytes(data)) == RATE


def test_a_text_named_like_a_headerless_format_is_not_audio(tmp_path):
    (tmp_path / "a.au").write_text("libsndfile would read this as 8 kHz mu-law\n" * 500)
    with pytest.raises(DataError, match="cannot be read as audio"):
        probe(tmp_path / "a.au")


# Compressed --------------------------------------------------------------------------------------------------------


def flac_told(data: bytes, length: int) -> bytes:
    """A FLAC file whose header states another number of samples; 0 is none."""
    data = bytearray(data)
    data[21] &= 0xF0
    data[22:26] = length.to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("rate, channels, subtype", [(16000, 1, "PCM_16"), (44100, 2, "PCM_24"), (8000, 1, "PCM_S8")])
@pytest.mark.parametrize("seconds", [3.0, 0.02])
def test_the_last_frame_says_how_long_a_flac_is(tmp_path, rate, channels, subtype, seconds):
    data = content(tmp_path, "FLAC", seconds, rate, channels, subtype=subtype)
    count = round(seconds * rate)
    for told in (0, count // 3):
        assert num_samples(tmp_path, flac_told(data, told)) == count
        assert num_samples(tmp_path, b"ID3\4\0\0\0\0\1\0" + bytes(128) + flac_told(data, told)) == count
        assert num_samples(tmp_path, flac_told(data, told) + b"TAG" + bytes(125)) == count
    assert "truncated" in refusal(tmp_path, flac_told(data, 2 * count))
    assert "truncated" in refusal(tmp_path, flac_told(data[: len(data) * 2 // 3], 0)) or seconds < 1
    assert "in 2 FLAC files" in refusal(tmp_path, data + data)


def test_a_flac_without_a_length_is_as_fast_as_one_with(tmp_path):
    """Windows of it, one after the other: each used to decode all that stands before it."""
    data = content(tmp_path, "FLAC", 240.0)
    seconds = {}
    for name, told in (("with", data), ("without", flac_told(data, 0))):
        (tmp_path / name).write_bytes(told)
        start = time.process_time()
        for place in range(0, 240, 4):
            assert len(load_audio(tmp_path / name, start_seconds=place, duration_seconds=4)) == 4 * RATE
        seconds[name] = time.process_time() - start
    assert seconds["without"] < 2 * seconds["with"] + 0.1


def mp3(tmp_path, seconds: float, rate: int = 44100, channels: int = 1) -> bytes:
    return content(tmp_path, "MP3", seconds, rate, channels)


def without_header(data: bytes) -> bytes:
    """An MP3 that has lost the frame with its length, as recorders write it."""
    from spear.audio.mpeg import _FRAMES

    return data[_FRAMES[int.from_bytes(data[1:3], "big")][0] :]


@pytest.mark.parametrize("rate, channels", [(44100, 2), (16000, 1)])
def test_joined_mp3_are_read_to_their_end(tmp_path, rate, channels):
    first, second = mp3(tmp_path, 1.5, rate, channels), mp3(tmp_path, 1.0, rate, channels)
    tag = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    junk = bytes(range(250)) * 20
    (tmp_path / "first").write_bytes(first)
    alone = load_audio(tmp_path / "first", rate)
    for joined in (
        first + second,
        tag + first + tag + second,
        first + junk + second,
        first + second + b"TAG" + bytes(125),
    ):
        count = num_samples(tmp_path, joined)
        assert 2.5 * rate <= count < 2.8 * rate
        np.testing.assert_allclose(load_audio(tmp_path / "file", rate)[: len(alone)], alone, atol=1e-6)
        part = load_audio(tmp_path / "file", rate, 2.0, 0.4)
        np.testing.assert_allclose(part, load_audio(tmp_path / "file", rate)[2 * rate :][: len(part)], atol=1e-6)


def test_mp3_without_a_header_are_counted_by_frames(tmp_path):
    data = without_header(mp3(tmp_path, 3.0))
    assert num_samples(tmp_path, data) == pytest.approx(3.0 * 44100, abs=2500)
    assert "last frame is cut" in refusal(tmp_path, data[:-100])
    assert "truncated" in refusal(tmp_path, mp3(tmp_path, 3.0)[:-1500])


def test_mp3_of_a_few_bytes_is_truncated(tmp_path):
    data = mp3(tmp_path, 1.0)
    for size in (40, 85, 127):  # shorter than the tag that may stand at the end
        assert "truncated" in refusal(tmp_path, data[:size])


def test_joined_mp3_of_different_kinds_are_refused(tmp_path):
    first = mp3(tmp_path, 1.0)
    assert "the rate changes" in refusal(tmp_path, first + mp3(tmp_path, 1.0, 48000))
    assert "channels changes" in refusal(tmp_path, first + mp3(tmp_path, 1.0, channels=2))
