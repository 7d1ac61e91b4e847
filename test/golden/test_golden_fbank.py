"""Features of the released front end, of one utterance; those of padded batches are in test_golden_student.py."""

from spear.audio import Fbank


def test_features_equal_the_released_front_end(read_golden):
    tensors, _ = read_golden("compact", "spear_uniform")
    features, _ = Fbank()(tensors["audio"])
    assert features.shape == tensors["fbank"].shape
    difference = (features - tensors["fbank"]).abs()
    assert difference.max() < 1e-3
    assert difference.flatten().quantile(0.999) < 1.5e-4
