"""Hugging Face folders: read back by us bit for bit, and by transformers in a process that has no spear."""

import json
import os
import subprocess
import sys

import pytest
import torch

from spear import fs, load_model
from spear.bin.main import main
from spear.errors import ConfigError
from spear.export.write import write
from spear.models.greedy import ctc_greedy
from spear.models.loading import save_model

CLIENT = """
import json, sys
sys.modules["spear"] = None
sys.path = [place for place in sys.path if place != sys.argv[3]]
import torch, transformers
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoModelForCTC
root, data = sys.argv[1], torch.load(sys.argv[2])
options = {"trust_remote_code": True, "low_cpu_mem_usage": True}
waves, found = [wave.numpy() for wave in data["waves"]], {}
features = AutoFeatureExtractor.from_pretrained(root + "/zipformer")
inputs = features(waves, sampling_rate=16000, padding=True, return_tensors="pt")
with torch.no_grad():
    for name in ("zipformer", "released", "transformer", "causal"):
        model = AutoModel.from_pretrained(f"{root}/{name}", **options).eval()
        batch = model(**inputs)
        found[name] = {"out": batch.encoder_out, "lens": batch.encoder_out_lens, "layers": list(batch.hidden_states)}
        alone = [model(audio=torch.from_numpy(wave)[None], audio_lens=torch.tensor([len(wave)])) for wave in waves]
        found[name]["alone"] = [each.last_hidden_state for each in alone]
    model = AutoModelForCTC.from_pretrained(root + "/ctc", **options).eval()
    found["ctc"] = model(**inputs).logits
    said = transformers.pipeline("automatic-speech-recognition", model=root + "/ctc", trust_remote_code=True)
    found["said"] = [said({"raw": wave, "sampling_rate": 16000})["text"] for wave in waves]
    for name in ("tagging", "classification"):
        model = AutoModelForAudioClassification.from_pretrained(f"{root}/{name}", **options).eval()
        found[name] = model(**inputs).logits
        asked = transformers.pipeline("audio-classification", model=f"{root}/{name}", trust_remote_code=True)
        found[name + " pipeline"] = {row["label"]: row["score"] for row in asked(waves[0])}
    again = AutoModel.from_pretrained(root + "/ctc", **options).eval()
    found["encoder of ctc"] = again(**inputs).encoder_out
    model.save_pretrained(root + "/saved")
torch.save(found, sys.argv[2])
"""


@pytest.fixture(scope="module")
def folders(sources, tmp_path_factory):
    """A folder of each model that transformers has a class for."""
    root = tmp_path_factory.mktemp("folders")
    for name, source in sources.items():
        if name != "transducer":
            write(source, root / name, "hf")
    return root


@pytest.fixture(scope="module")
def answered(folders, waves):
    """What transformers makes of them, without spear."""
    pytest.importorskip("transformers")
    data = folders / "data.pt"
    torch.save({"waves": [torch.from_numpy(wave) for wave in waves]}, data)
    variables = os.environ | {"HF_MODULES_CACHE": str(folders / "modules"), "HF_HUB_OFFLINE": "1"}
    variables.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(folders), str(data), str(fs.__file__).rsplit("/spear/", 1)[0]],
        capture_output=True,
        text=True,
        env=variables,
        timeout=500,
        cwd=folders,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(data)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.parametrize("name", ["zipformer", "released", "transformer", "causal"])
def test_transformers_without_spear_gives_what_spear_gives(answered, sources, padded, name):
    found, model = answered[name], sources[name].model
    with torch.no_grad():
        ours = model.__class__.__mro__[1].forward(model, *padded)
        alone = [model.encode(*model.fbank(w[None, :n])).encoder_out for w, n in zip(padded[0], padded[1])]
    assert difference(found["out"], ours.encoder_out) < 1e-5
    assert found["lens"].tolist() == ours.encoder_out_lens.tolist()
    assert len(found["layers"]) == len(ours.hidden_states)
    assert max(map(difference, found["layers"], ours.hidden_states)) < 1e-5
    assert max(map(difference, found["alone"], alone)) < 1e-5


@pytest.fixture(scope="module")
def encoded(sources, padded):
    model = sources["ctc"].model
    with torch.no_grad():
        return model.encode_masked(*model.fbank(*padded))


def test_a_ctc_model_says_the_same_in_a_pipeline_of_transformers(answered, sources, encoded, padded):
    source = sources["ctc"]
    log_probs = source.head.log_probs(source.head.read(encoded))
    for row, ours, length in zip(answered["ctc"], log_probs, encoded.lens_B.tolist()):
        assert difference(row[:length], ours[:length]) < 1e-5
        assert (row[length:].argmax(1) == 0).all()
    ours = [source.vocabulary.decode(each.units) for each in ctc_greedy(log_probs, encoded.lens_B)]
    assert answered["said"] == ours and any(ours)
    assert difference(answered["encoder of ctc"], encoded.hidden_BTD) < 1e-5


@pytest.mark.parametrize("name", ["tagging", "classification"])
def test_labels_and_probabilities_are_the_same_in_a_pipeline(answered, sources, encoded, name):
    logits = sources[name].head.logits(encoded)
    assert difference(answered[name], logits) < 1e-5
    expected = logits[0].softmax(0) if name == "classification" else logits[0].sigmoid()
    assert answered[name + " pipeline"] == pytest.approx(dict(zip(sources[name].labels(), expected.tolist())), abs=1e-5)


def test_what_transformers_saves_again_is_read_by_spear(answered, folders, sources):
    again = load_model(folders / "saved")
    assert all(torch.equal(tensor, again.state_dict()[n]) for n, tensor in sources["tagging"].encoder_tensors().items())


@pytest.mark.parametrize("name", ["zipformer", "transformer", "ctc"])
def test_spear_to_hugging_face_to_spear_is_bit_equal(folders, sources, name):
    found = load_model(folders / name)
    ours = sources[name].encoder_tensors()
    assert found.config == sources[name].config
    assert found.state_dict().keys() == ours.keys() and all(torch.equal(found.state_dict()[n], ours[n]) for n in ours)


def test_files_have_the_names_of_the_released_folders_and_import_no_spear(folders):
    folder = folders / "zipformer"
    settings = json.loads((folder / "config.json").read_text())
    assert settings["model_type"] == "spear" and settings["encoder_dim"] == "16,32,24"
    assert settings["auto_map"]["AutoModel"] == "modeling_spear.SpearEncoderModel"
    texts = {path.name: path.read_text() for path in folder.glob("*.py")}
    assert texts.keys() == {"configuration_spear.py", "modeling_spear.py", "spear_modules.py"}
    assert not any(line.startswith(("import spear", "from spear")) for t in texts.values() for line in t.splitlines())


def test_the_card_says_what_the_run_knows_and_invents_nothing(folders):
    text = (folders / "ctc" / "README.md").read_text()
    assert "pipeline_tag: automatic-speech-recognition" in text and "seed: not recorded" in text
    assert "No score is recorded" in text and "Not stated" in text and "license:" not in text


def test_the_command_writes_a_folder_once_and_names_the_licence(sources, tmp_path, capsys):
    save_model(sources["zipformer"].model, tmp_path / "encoder")
    call = ["export", str(tmp_path / "encoder"), "--format", "hf", "--output", str(tmp_path / "out")]
    assert main([*call, "--licence", "cc-by-4.0"]) == 0
    assert 'license: "cc-by-4.0"' in (tmp_path / "out" / "README.md").read_text()
    assert main(call) == 1 and "is there" in capsys.readouterr().err
    assert not list(tmp_path.glob(".out*"))


def test_a_transducer_is_refused_with_what_to_do(sources, tmp_path):
    with pytest.raises(ConfigError, match="--encoder-only"):
        write(sources["transducer"], tmp_path / "out", "hf")
    assert not list(tmp_path.iterdir())
