"""Files of TensorFlow and CTranslate2, read by our own readers: whole, and damaged in every way."""

import pytest
import torch
from weight_files import write_bundle, write_ctranslate2

from spear.teachers import ctranslate2, tensor_bundle
from spear.weights import WeightsError

TENSORS = {
    "conv/kernel": torch.arange(24.0).view(2, 3, 4),
    "conv/kernel/Adam": torch.zeros(2, 3, 4),
    "norm/beta": torch.randn(7, generator=torch.Generator().manual_seed(0)),
    "norm/half": torch.ones(3, dtype=torch.float16),
    "step": torch.tensor(5),
}


def test_a_tensorflow_checkpoint_is_read_without_tensorflow(tmp_path):
    index = write_bundle(tmp_path, TENSORS)
    found = tensor_bundle.read(index, lambda name: "Adam" not in name)
    assert found.keys() == TENSORS.keys() - {"conv/kernel/Adam"}
    for name, tensor in found.items():
        assert tensor.dtype == TENSORS[name].dtype and torch.equal(tensor, TENSORS[name])


def test_a_damaged_index_is_refused_or_read_as_it_was(tmp_path):
    index = write_bundle(tmp_path, TENSORS)
    whole = index.read_bytes()
    expected = tensor_bundle.read(index)
    for place in range(0, len(whole), 3):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = tensor_bundle.read(index)
        except WeightsError:
            continue
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    for length in range(1, len(whole), 11):
        index.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="found: "):
            tensor_bundle.read(index)


def test_damaged_or_missing_values_are_refused(tmp_path):
    index = write_bundle(tmp_path, TENSORS)
    data = tmp_path / "model.data-00000-of-00001"
    whole = data.read_bytes()
    for place in (0, 100, len(whole) - 1):
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(WeightsError, match="another checksum"):
            tensor_bundle.read(index)
    data.write_bytes(whole[:-1])
    with pytest.raises(WeightsError, match="which are not there"):
        tensor_bundle.read(index)
    data.unlink()
    with pytest.raises(WeightsError, match="nothing at"):
        tensor_bundle.read(index)


MODEL = {"encoder/weight": torch.arange(6.0).view(2, 3).half(), "encoder/num_heads": torch.tensor(4, dtype=torch.int16)}


def test_a_ctranslate2_model_is_read_without_it(tmp_path):
    path = write_ctranslate2(tmp_path / "model.bin", MODEL, "WhisperSpec", [("out/weight", "encoder/weight")])
    found = ctranslate2.read(path, "WhisperSpec")
    assert found.keys() == {*MODEL, "out/weight"}
    assert torch.equal(found["out/weight"], MODEL["encoder/weight"]) and int(found["encoder/num_heads"]) == 4
    with pytest.raises(WeightsError, match="kind WhisperSpec"):
        ctranslate2.read(path, "TransformerSpec")


def test_a_damaged_ctranslate2_model_is_refused_or_read(tmp_path):
    path = write_ctranslate2(tmp_path / "model.bin", MODEL, "WhisperSpec", [("out/weight", "encoder/weight")])
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="cannot be read"):
            ctranslate2.read(path, "WhisperSpec")
    for place in range(len(whole)):  # values have no checksum, so most changes of them are read
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x81]) + whole[place + 1 :])
        try:
            ctranslate2.read(path, "WhisperSpec")
        except WeightsError:
            pass
    path.write_bytes(whole + b"x")
    with pytest.raises(WeightsError, match="more bytes"):
        ctranslate2.read(path, "WhisperSpec")
