"""Reading and writing real files of many kinds, whole and damaged."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from spear.audio import load_audio, num_resampled, probe, save_audio
from spear.errors import ConfigError, DataError


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 1234 * time)
    return np.stack([wave * (1 - 0.5 * channel) for channel in range(channels)], axis=1).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_formats_rates_and_channels(tmp_path, suffix, rate, channels):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(1.3, rate, channels), rate)
    info = probe(path)
    assert (info.sample_rate_hz, info.num_channels, info.num_samples) == (rate, channels, round(1.3 * rate))
    assert info.duration_seconds == pytest.approx(1.3, abs=1e-3)
    samples = load_audio(path)
    assert samples.dtype == np.float32 and samples.flags["C_CONTIGUOUS"] and len(samples) == 20800
    expected = tone(1.3, 16000, channels).mean(axis=1)
    tolerance = 0.03 if suffix in ("ogg", "mp3") else 2e-3
    np.testing.assert_allclose(samples[800:-800], expected[800:-800], atol=tolerance)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_sample_formats(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", tone(0.2, 16000), 16000, subtype=subtype)
    tolerance = {"PCM_U8": 0.01, "ULAW": 0.02}.get(subtype, 1e-4)
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), tone(0.2, 16000)[:, 0], atol=tolerance)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [16000, 11025, 44100, 48000])
@pytest.mark.parametrize("start, duration", [(0.0, 0.5), (1.00003, 0.5), (2.75, None), (2.5, 0.5)])
def test_a_segment_equals_that_part_of_the_whole(tmp_path, suffix, rate, start, duration):
    path = tmp_path / f"a.{suffix}"
    generator = np.random.default_rng(0)
    soundfile.write(path, 0.1 * generator.standard_normal((3 * rate, 1)), rate)
    whole = load_audio(path)
    first = round(start * 16000)
    stop = None if duration is None else first + round(duration * 16000)
    segment = load_audio(path, start_seconds=start, duration_seconds=duration)
    np.testing.assert_allclose(segment, whole[first:stop], atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 44101, 48000, 96000])
@pytest.mark.parametrize("length", [4, 7, 100, 12345])
def test_lengths_after_resampling_are_rounded(tmp_path, rate, length):
    soundfile.write(tmp_path / "a.wav", np.full(length, 0.1), rate)
    expected = int(length * 16000 / rate + 0.5)
    assert num_resampled(length, rate, 16000) == expected == len(load_audio(tmp_path / "a.wav"))


def test_a_recording_of_one_sample(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.25]), 16000)
    assert load_audio(tmp_path / "a.wav").tolist() == [0.25]


def test_float_samples_are_not_clipped_or_scaled(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([1.5, -2.0], np.float32), 16000, subtype="FLOAT")
    assert load_audio(tmp_path / "a.wav").tolist() == [1.5, -2.0]


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "aiff"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(48000), 16000)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match="truncated"):
        load_audio(path)


def test_a_wav_from_a_pipe_has_no_length_and_is_read(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5, 16000), 16000)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    assert len(load_audio(path)) == 8000 == probe(path).num_samples


def test_a_flac_from_a_pipe_has_no_length_and_is_read(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(0.5, 44100), 44100)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples
    content[22:26] = b"\0\0\0\0"
    path.write_bytes(content)
    assert probe(path).num_samples == 22050
    assert len(load_audio(path)) == 8000
    assert len(load_audio(path, start_seconds=0.1, duration_seconds=0.2)) == 3200


def write_empty(path):
    soundfile.write(path, np.zeros((0, 1)), 16000)


def write_nothing(path):
    path.touch()


def write_text(path):
    path.write_text("not audio at all\n" * 100)


def write_nan(path):
    soundfile.write(path, np.array([0.1, np.nan, 0.2]), 16000, subtype="FLOAT")


def write_directory(path):
    path.mkdir()


@pytest.mark.parametrize(
    "write, message",
    [
        (write_empty, "no samples"),
        (write_nothing, "cannot be read as audio"),
        (write_text, "cannot be read as audio"),
        (write_nan, "1 samples that are not finite"),
        (write_directory, "no file"),
        (lambda path: None, "no file"),
    ],
)
def test_unusable_files_are_named_with_the_reason(tmp_path, write, message):
    write(tmp_path / "bad.wav")
    with pytest.raises(DataError, match=message) as caught:
        load_audio(tmp_path / "bad.wav")
    assert "bad.wav" in caught.value.found and caught.value.fix


def test_segments_outside_the_recording(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, 16000), 16000)
    for start, duration in [(1.0, None), (1.5, 0.1), (0.5, 0.6)]:
        with pytest.raises(DataError, match="outside|inside"):
            load_audio(path, start_seconds=start, duration_seconds=duration)
    assert len(load_audio(path, start_seconds=0.5, duration_seconds=0.52)) == 8000
    for start, duration in [(-0.1, None), (0.0, 0.0)]:
        with pytest.raises(ConfigError):
            load_audio(path, start_seconds=start, duration_seconds=duration)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_saved_audio_comes_back(tmp_path, suffix):
    path = tmp_path / "deep" / f"a.{suffix}"
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000) / 32768
    save_audio(path, samples, 16000)
    np.testing.assert_array_equal(load_audio(path), samples.astype(np.float32))
    assert os.listdir(path.parent) == [path.name]
    save_audio(path, np.array([2.0, -2.0]), 16000)
    np.testing.assert_allclose(load_audio(path), [32767 / 32768, -1.0])


def test_saving_what_is_no_audio_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.wav"
    save_audio(path, np.zeros(10), 16000)
    before = path.read_bytes()
    for bad in (np.zeros(0), np.array([np.inf])):
        with pytest.raises(DataError):
            save_audio(path, bad, 16000)
    with pytest.raises(ConfigError, match="flac"):
        save_audio(tmp_path / "a.mp3", np.zeros(10), 16000)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.wav"]


MEMORY_PROBE = """
import resource, sys
from spear.audio import load_audio
load_audio(sys.argv[1], start_seconds=1.0, duration_seconds=1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, 3590, 300):
    assert len(load_audio(sys.argv[1], start_seconds=start, duration_seconds=10.0)) == 160000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_segments_of_an_hour_need_little_memory(tmp_path):
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8000, 2) as sound:
        for _ in range(60):
            sound.write(np.zeros((8000 * 60, 2), np.int16))
    finished = subprocess.run(
        [sys.executable, "-c", MEMORY_PROBE, str(path)], capture_output=True, text=True, check=True
    )
    assert int(finished.stdout) < 30_000  # kB; the hour itself is 230 MB at 16 kHz


@pytest.mark.parametrize("speed", [0.9, 1.1])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_another_speed_changes_length_and_pitch(tmp_path, rate, speed):
    soundfile.write(tmp_path / "a.wav", tone(2.0, rate), rate)
    samples = load_audio(tmp_path / "a.wav", speed=speed)
    assert len(samples) == num_resampled(2 * rate, round(rate * speed), 16000) == pytest.approx(32000 / speed, abs=1)
    spectrum = np.abs(np.fft.rfft(samples[:16000] * np.hanning(16000)))  # one bin is 1 Hz
    assert spectrum.argmax() == pytest.approx(440 * speed, abs=1)
    segment = load_audio(tmp_path / "a.wav", start_seconds=0.7, duration_seconds=0.5, speed=speed)
    np.testing.assert_allclose(segment, samples[11200:19200], atol=1e-6)
    with pytest.raises(ConfigError, match="speed"):
        load_audio(tmp_path / "a.wav", speed=0.0)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_one_channel_of_several(tmp_path, rate):
    """The second channel is the first times a half: what is read is one of them, not their mean."""
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate, 2), rate, subtype="FLOAT")
    first, second, mean = (load_audio(tmp_path / "a.wav", channel=channel) for channel in (0, 1, None))
    np.testing.assert_allclose(second, first / 2, atol=1e-6)
    np.testing.assert_allclose(mean, first * 0.75, atol=1e-6)
    segment = load_audio(tmp_path / "a.wav", start_seconds=0.25, duration_seconds=0.5, channel=1)
    np.testing.assert_allclose(segment, second[4000:12000], atol=1e-6)
    for channel in (2, -1):
        with pytest.raises(DataError, match="has 2"):
            load_audio(tmp_path / "a.wav", channel=channel)


@pytest.mark.parametrize("times", [(float("nan"), 1.0), (0.0, float("inf")), (float("inf"), None), (0.0, float("nan"))])
def test_times_that_are_no_numbers_are_refused(tmp_path, times):
    soundfile.write(tmp_path / "a.wav", tone(1.0, 16000), 16000)
    with pytest.raises(ConfigError, match="start"):
        load_audio(tmp_path / "a.wav", start_seconds=times[0], duration_seconds=times[1])
