"""Mixing decisions, audio and targets."""

import numpy as np
import pytest

from spear.data import MixingConfig
from spear.data.mixing import KINDS, Mixed, decide, mix_noise, mix_speech, mix_targets
from spear.errors import ConfigError
from spear.seeds import numpy_rng


class Stream:
    """Frame rate of a token stream."""

    frame_rate_hz = 50.0

    def num_rows(self, num_samples):
        return int(num_samples * self.frame_rate_hz / 16000)


def rng(number=0):
    return numpy_rng(7, "test", number)


def targets(rows, value, codebooks=8):
    return np.full((rows, codebooks), value, dtype=np.int64)


def test_rates_of_decisions():
    is_speech_B = np.arange(20_000) % 2 == 0
    decisions = decide(MixingConfig(), is_speech_B, 10, rng())
    speech, audio = decisions.kinds_B[is_speech_B], decisions.kinds_B[~is_speech_B]
    assert np.bincount(speech) / len(speech) == pytest.approx([0.5, 0.4, 0.1], abs=0.02)
    assert np.bincount(audio) / len(audio) == pytest.approx([0.5, 0.5], abs=0.02)
    for kind, low, high in ((1, 10, 20), (2, -5, 5)):
        snrs = decisions.snrs_db_B[decisions.kinds_B == kind]
        assert low <= snrs.min() < low + 0.1 and high - 0.1 < snrs.max() <= high
    rows = np.flatnonzero(decisions.kinds_B == 2)
    partners = decisions.partners_B[rows]
    assert is_speech_B[partners].all() and (partners != rows).all()
    assert (decisions.partners_B[decisions.kinds_B != 2] == -1).all()


def test_partners_are_uniform_over_the_others():
    config = MixingConfig(probability=1.0, noise_probability=0.0)
    is_speech_B = np.array([True, False, True, True])
    found = np.stack([decide(config, is_speech_B, 0, rng(n)).partners_B for n in range(3000)])
    assert (found[:, 1] == -1).all()
    for row, others in ((0, (2, 3)), (2, (0, 3)), (3, (0, 2))):
        for other in others:
            assert np.mean(found[:, row] == other) == pytest.approx(0.5, abs=0.04)


def test_no_noise_without_recordings_and_no_partner_alone():
    everything = MixingConfig(probability=1.0, noise_probability=0.5, audio_noise_probability=1.0)
    decisions = decide(everything, np.array([True, False, False]), 0, rng())
    assert [KINDS[k] for k in decisions.kinds_B] == ["none"] * 3


def test_noise_has_the_level_and_covers_the_cut():
    wave = rng(1).standard_normal(16000).astype(np.float32)
    pieces = [rng(2).standard_normal(3000).astype(np.float32)]
    mixed = mix_noise(wave, pieces, 15.0)
    added = mixed.wave - wave
    assert mixed.kind == "noise" and len(mixed.wave) == len(wave)
    assert 10 * np.log10(np.mean(wave**2) / np.mean(added**2)) == pytest.approx(15, abs=0.1)
    assert all(np.abs(part).max() > 0 for part in np.split(added, 16))


def test_longest_mixture_is_what_the_plan_kept_free():
    config = MixingConfig()
    assert config.headroom_seconds == 2.0
    short, long = np.ones(8000, np.float32), np.ones(48000, np.float32)
    for first, second, bound in ((long, long, 48000 + 32000), (short, long, 48000 + 8000), (long, short, 48000)):
        for share in (0.0, 0.5, 0.999):
            mixed = mix_speech(config, first, second, 1, 0.0, (share, 0.5, 0.5))
            assert len(first) <= len(mixed.wave) <= bound
            assert len(mixed.wave) == max(len(first), mixed.offset_samples + len(second))
    assert MixingConfig(token_mixing=False).headroom_seconds == 0.0
    assert MixingConfig(noise_probability=1.0).headroom_seconds == 0.0


@pytest.mark.parametrize("snr_db, expected", [(-5, 0.760), (-3, 0.666), (0, 0.5), (3, 0.334), (5, 0.240)])
def test_replacement_probability_of_the_paper(snr_db, expected):
    first, second = (rng(n).standard_normal(32000).astype(np.float32) * (n + 1) for n in (0, 1))
    mixed = mix_speech(MixingConfig(), first, second, 1, snr_db, (0.0, 0.5, 0.5))
    assert mixed.replacement == pytest.approx(expected, abs=0.002)
    rows = mix_targets(Stream(), targets(100, 1), targets(100, 2), mixed, rng())
    assert np.mean(rows == 2) == pytest.approx(expected, abs=0.06)
    # Entries are drawn one by one, not frame by frame.
    assert np.mean((rows == 2).any(axis=1) & (rows == 1).any(axis=1)) > 0.5


def test_rows_before_in_overlap_after_and_in_a_gap():
    later = Mixed(np.zeros(48000, np.float32), "speech", 1, 16000, 0, 32000, 1.0)
    rows = mix_targets(Stream(), targets(100, 1), targets(100, 2), later, rng())
    assert (rows[:50] == 1).all() and (rows[50:] == 2).all() and len(rows) == 150
    never = Mixed(np.zeros(48000, np.float32), "speech", 1, 16000, 0, 32000, 0.0)
    rows = mix_targets(Stream(), targets(100, 1), targets(100, 2), never, rng())
    assert (rows[:100] == 1).all() and (rows[100:] == 2).all()
    # The cut's targets end before the partner starts.
    gap = Mixed(np.zeros(48000, np.float32), "speech", 1, 16000, 0, 32000, 1.0)
    rows = mix_targets(Stream(), targets(40, 1), targets(100, 2), gap, rng())
    assert (rows[:40] == 1).all() and (rows[40:50] == -100).all() and (rows[50:] == 2).all()
    # A partner without targets takes nothing away.
    rows = mix_targets(Stream(), targets(100, 1), targets(100, -100), later, rng())
    assert (rows[:100] == 1).all() and (rows[100:] == -100).all()


def test_silent_partner_replaces_nothing():
    wave = rng().standard_normal(16000).astype(np.float32)
    mixed = mix_speech(MixingConfig(), wave, np.zeros(16000, np.float32), 1, -5.0, (0.0, 0.5, 0.5))
    assert mixed.replacement == pytest.approx(0.0, abs=1e-6)
    assert (mix_targets(Stream(), targets(50, 1), targets(50, 2), mixed, rng())[:50] == 1).all()
    assert np.isfinite(mixed.wave).all()


def test_inside_keeps_length_and_overlap():
    config = MixingConfig(mode="inside")
    wave, other = np.zeros(32000, np.float32) + 0.1, np.full(64000, 0.1, np.float32)
    for number in range(20):
        uniforms = rng(number).random(3)
        mixed = mix_speech(config, wave, other, 1, 0.0, uniforms)
        changed = np.flatnonzero(np.abs(mixed.wave - wave) > 1e-6)
        assert len(mixed.wave) == 32000 and 0.2 - 0.001 <= len(changed) / 32000 <= 0.5 + 0.001
        assert mixed.partner_start_samples + mixed.partner_num_samples <= 64000
        assert (changed[0], len(changed)) == (mixed.offset_samples, mixed.partner_num_samples)
        rows = mix_targets(Stream(), targets(100, 1), np.arange(200)[:, None].repeat(8, 1) + 1000, mixed, rng())
        taken = rows[rows >= 1000] - 1000
        assert taken.min() * 320 >= mixed.partner_start_samples - 320
        assert taken.max() * 320 <= mixed.partner_start_samples + mixed.partner_num_samples


@pytest.mark.parametrize("bad", [{"probability": 1.5}, {"mode": "maximal"}, {"overlap": (0.5, 0.2)}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        MixingConfig(**bad)
