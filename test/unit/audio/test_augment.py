"""Mixing: ratios, lengths, probabilities."""

import numpy as np
import pytest

from spear.audio import gain_for_snr, mean_power, mix, replacement_probability
from spear.audio.augment import reverberate
from spear.errors import ConfigError


def noise(samples: int, scale: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * scale).astype(np.float32)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5])
def test_the_mixture_has_the_wanted_ratio(snr_db):
    reference, addition = noise(20000, 0.1), noise(8000, 0.03, seed=1)
    mixed, gain = mix(reference, addition, snr_db, offset_samples=3000)
    added = mixed.astype(np.float64) - reference
    assert mixed.dtype == np.float32 and len(mixed) == 20000
    assert not added[:3000].any() and not added[11000:].any()
    assert 10 * np.log10(mean_power(reference) / mean_power(added[3000:11000])) == pytest.approx(snr_db, abs=1e-3)
    assert gain == pytest.approx(gain_for_snr(mean_power(reference), mean_power(addition), snr_db))


def test_mode_max_is_as_long_as_both_need():
    reference, addition = noise(1000, 0.1), noise(2500, 0.1, seed=1)
    mixed, gain = mix(reference, addition, 0.0, offset_samples=700)
    assert len(mixed) == 3200
    np.testing.assert_array_equal(mixed[:700], reference[:700])
    np.testing.assert_allclose(mixed[1000:], gain * addition[300:], rtol=1e-6)


@pytest.mark.parametrize("length", [40, 930, 5000])
def test_mode_inside_repeats_or_crops_the_noise(length):
    reference, addition = noise(1000, 0.1), noise(length, 0.2, seed=1)
    mixed, gain = mix(reference, addition, 10.0, offset_samples=70, mode="inside")
    assert len(mixed) == 1000
    np.testing.assert_array_equal(mixed[:70], reference[:70])
    expected = np.tile(addition, 930 // length + 1)[:930]
    np.testing.assert_allclose(mixed[70:] - reference[70:], gain * expected, atol=1e-6)


@pytest.mark.parametrize(
    "addition", [np.zeros(500, np.float32), np.full(500, 1e-6, np.float32), np.zeros(0, np.float32)]
)
@pytest.mark.parametrize("mode", ["max", "inside"])
def test_a_silent_partner_changes_nothing(addition, mode):
    reference = noise(1000, 0.1)
    mixed, gain = mix(reference, addition, 0.0, mode=mode)
    assert gain == 0.0
    np.testing.assert_array_equal(mixed, reference)
    assert replacement_probability(mean_power(reference), mean_power(addition), gain) == 0.0


def test_inputs_are_not_changed_and_the_result_is_new():
    reference, addition = noise(100, 0.1), noise(100, 0.1, seed=1)
    before = reference.copy(), addition.copy()
    mixed, _ = mix(reference, addition, 3.0)
    mixed[:] = 0
    np.testing.assert_array_equal(reference, before[0])
    np.testing.assert_array_equal(addition, before[1])


@pytest.mark.parametrize("snr_db, expected", [(-5, 0.760), (-3, 0.666), (0, 0.500), (3, 0.334), (5, 0.240)])
def test_replacement_probability_depends_on_the_ratio_alone(snr_db, expected):
    for reference_power, addition_power in [(0.01, 0.02), (0.3, 0.001)]:
        gain = gain_for_snr(reference_power, addition_power, snr_db)
        assert replacement_probability(reference_power, addition_power, gain) == pytest.approx(expected, abs=6e-4)


def test_a_silent_reference_gives_no_gain():
    mixed, gain = mix(np.zeros(100, np.float32), noise(100, 0.1), 0.0)
    assert gain == 0.0 and not mixed.any()


@pytest.mark.parametrize("arguments", [{"offset_samples": -1}, {"offset_samples": 101}, {"mode": "wavlm"}])
def test_settings_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ConfigError):
        mix(noise(100, 0.1), noise(10, 0.1), 0.0, **arguments)
    with pytest.raises(ConfigError, match="one dimension"):
        mix(np.zeros((2, 5), np.float32), noise(10, 0.1), 0.0)


def test_a_room_is_a_convolution_that_starts_with_the_direct_sound_and_keeps_the_level():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, 3000).astype(np.float32)
    response = np.concatenate([[0.01, -0.02, 0.9], 0.3 * rng.normal(size=400) * np.exp(-np.arange(400) / 80)])
    wet = reverberate(samples, response)
    direct = np.convolve(samples.astype(np.float64), response)[2 : 2 + len(samples)]
    expected = direct * np.sqrt(mean_power(samples) / mean_power(direct))
    np.testing.assert_allclose(wet, expected, atol=1e-6)
    assert wet.dtype == np.float32 and mean_power(wet) == pytest.approx(mean_power(samples), rel=1e-5)


@pytest.mark.parametrize("samples, response", [(np.zeros(50), np.ones(9)), (np.ones(50), np.zeros(9))])
def test_silence_stays_as_it_is_in_any_room(samples, response):
    assert np.array_equal(reverberate(samples, response), samples)
    assert np.array_equal(reverberate(np.ones(50), np.array([0.5])), np.ones(50))
