"""ONNX files in onnxruntime and in sherpa-onnx, beside the models they were made of."""

import numpy as np
import pytest
import torch

from spear import fs
from spear.errors import ConfigError, DataError, MissingPackageError
from spear.export import onnx as exporter
from spear.export.graph import Graph
from spear.export.onnx import expected_outputs, session
from spear.export.write import write
from spear.models.greedy import ctc_greedy, transducer_greedy

KINDS = {
    "zipformer": {"hidden_states": True, "precisions": ("float32", "int8", "float16")},
    "ctc": {},
    "transducer": {},
    "classification": {"audio": True},
}


@pytest.fixture(scope="module")
def folders(sources, tmp_path_factory):
    """A folder of each, and what the exporter said of it."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    root = tmp_path_factory.mktemp("onnx")
    return root, {name: write(sources[name], root / name, "onnx", **KINDS[name]) for name in KINDS}


def run(path, x: torch.Tensor, lens: torch.Tensor) -> list[torch.Tensor]:
    return [torch.from_numpy(value) for value in session(path).run(None, {"x": x.numpy(), "x_lens": lens.numpy()})]


def long_and_short(waves) -> list[np.ndarray]:
    """30 s, 3 s and 0.3 s, and five recordings to make eight."""
    long = np.resize(np.concatenate(waves), 480000)
    return [long, long[:48000], long[:4800], *waves]


def test_an_encoder_of_any_length_alone_and_in_a_batch_of_eight(folders, sources, waves):
    source, path = sources["zipformer"], folders[0] / "zipformer" / "encoder.onnx"
    graph, tensors = Graph(source, hidden_states=True), [torch.from_numpy(wave) for wave in long_and_short(waves)]
    padded = torch.nn.utils.rnn.pad_sequence(tensors[1:] + tensors[1:2], batch_first=True)
    lens = torch.tensor([len(wave) for wave in tensors[1:] + tensors[1:2]])
    inputs = [(padded, lens), *((wave[None], torch.tensor([len(wave)])) for wave in tensors[:3])]
    for waves_BS, lens_B in inputs:
        x, x_lens = source.model.fbank(waves_BS, lens_B)
        found = run(path, x, x_lens)
        expected, valid = expected_outputs(graph, source, x, x_lens)
        assert found[1].tolist() == valid[0].tolist() and len(found) == len(graph.outputs)
        for ours, theirs, counts in zip(expected, [found[0], *found[2:]], valid, strict=True):
            assert ours.shape == theirs.shape
            assert all((a[:n] - b[:n]).abs().max() < 1e-4 for a, b, n in zip(ours, theirs, counts.tolist()))


def test_what_is_lost_is_told(folders):
    lines = folders[1]["zipformer"]
    assert [line.split(":")[0] for line in lines] == ["float32", "float16", "int8"]
    card = (folders[0] / "zipformer" / "README.md").read_text()
    assert all(line in card for line in lines) and all("% of the signal" in line for line in lines)
    small = [(folders[0] / "zipformer" / f"encoder{kind}.onnx").stat().st_size for kind in ("", ".float16", ".int8")]
    assert small[1] < small[0] and small[2] < small[0]


def test_classes_of_audio(folders, sources, padded):
    source = sources["classification"]
    [logits] = run(folders[0] / "classification" / "model.onnx", *padded)
    [ours], _ = expected_outputs(Graph(source, audio=True), source, *padded)
    assert (logits - ours).abs().max() < 1e-4
    assert (folders[0] / "classification" / "labels.txt").read_text().splitlines() == source.labels()


def texts(recogniser, waves) -> list[str]:
    """Of recordings that are decoded one by one; a batch, padded by the client, must give the same."""

    def streams() -> list:
        made = [recogniser.create_stream() for _ in waves]
        for stream, wave in zip(made, waves):
            stream.accept_waveform(16000, wave)
        return made

    alone, together = streams(), streams()
    for stream in alone:
        recogniser.decode_stream(stream)
    recogniser.decode_streams(together)
    said = [" ".join(stream.result.text.split()) for stream in alone]
    assert said == [" ".join(stream.result.text.split()) for stream in together]
    return said


@pytest.fixture(scope="module")
def encoded(sources, padded):
    model = sources["ctc"].model
    with torch.no_grad():
        return model.encode_masked(*model.fbank(*padded))


def test_sherpa_onnx_says_what_a_ctc_model_says(folders, sources, waves, encoded):
    sherpa = pytest.importorskip("sherpa_onnx")
    folder, source = folders[0] / "ctc", sources["ctc"]
    files = {"model": str(folder / "model.onnx"), "tokens": str(folder / "tokens.txt")}
    found = texts(sherpa.OfflineRecognizer.from_zipformer_ctc(**files, feature_dim=128), waves)
    greedy = ctc_greedy(source.head.log_probs(source.head.read(encoded)), encoded.lens_B)
    assert found == [source.vocabulary.decode(each.units) for each in greedy] and any(found)


def test_sherpa_onnx_says_what_a_transducer_says(folders, sources, waves, encoded):
    sherpa = pytest.importorskip("sherpa_onnx")
    folder, source = folders[0] / "transducer", sources["transducer"]
    files = {name: str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    recogniser = sherpa.OfflineRecognizer.from_transducer(**files, tokens=str(folder / "tokens.txt"), feature_dim=128)
    found = texts(recogniser, waves)
    greedy = transducer_greedy(source.head, source.head.read(encoded), encoded.lens_B, most_units=1)
    assert found == [source.vocabulary.decode(each.units) for each in greedy] and any(found)


def test_files_that_differ_from_the_checkpoint_get_no_name(sources, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    expected = exporter.expected_outputs
    monkeypatch.setattr(
        exporter,
        "expected_outputs",
        lambda *given: ([each + 0.01 for each in expected(*given)[0]], expected(*given)[1]),
    )
    with pytest.raises(DataError, match="differs from the checkpoint"):
        write(sources["transformer"], tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_precision_that_is_not_there_and_a_package_that_is_missing(sources, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="float64"):
        write(sources["ctc"], tmp_path / "out", "onnx", precisions=("float64",))
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingPackageError, match="spear\\[export\\]"):
        write(sources["ctc"], tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir()) and not (tmp_path / "out").exists()


def test_tokens_stand_as_sherpa_onnx_wants_them(folders, sources):
    lines = (folders[0] / "ctc" / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["<blk> 0", "\u2581 1"] and len(lines) == sources["ctc"].vocabulary.size
    assert fs.sha256_file(folders[0] / "transducer" / "tokens.txt") == fs.sha256_file(folders[0] / "ctc" / "tokens.txt")
