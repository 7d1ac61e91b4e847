"""Tokens to lhotse and back, whatever stores them; quantizers in the authors' file."""

import gzip
import json

import miniatures
import numpy as np
import pytest
import torch
from lhotse import CutSet

from spear import SpearConfig, SpearModel, save_model
from spear.bin import export_tokens, extract_tokens, import_quantizer, import_tokens, manifests, verify_tokens
from spear.errors import CardError, ConfigError, DataError
from spear.quantize import Quantizer, load_quantizer, save_quantizer
from spear.quantize.store import save_authors_file
from spear.teachers import load_teacher
from spear.tokens import open_stream


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared folder: cuts of two domains, a Dasheng and an encoder of ours as teachers, tokens of both."""
    data = tmp_path_factory.mktemp("exchange")
    for corpus in ("librispeech", "audioset"):
        getattr(miniatures, corpus)(data / "raw" / corpus, 6)
        words = ["--raw", str(data / "raw" / corpus), "--corpus", corpus, "--name", corpus, "--num-jobs", "1"]
        manifests.main([*words, "--output", str(data / "manifests"), "--max-seconds", "4"])
    torch.manual_seed(0)
    small = {"encoder_dim": "32", "encoder_unmasked_dim": "24", "feedforward_dim": "48", "num_heads": "2"}
    save_model(SpearModel(SpearConfig(**small, subsampling_channels="4,8,16")), data / "teacher")
    specs = {"speech": f"spear:{data / 'teacher'}@-1", "audio": f"dasheng:{miniatures.dasheng(data / 'd.pt')}@-1"}
    words = ["--cuts", *map(str, cuts_of(data)), "--output", str(data / "tokens"), "--stream-domains", "audio=audio"]
    for name, spec in specs.items():
        teacher = load_teacher(spec)
        quantizer = Quantizer(teacher.dim, 4)
        mean = torch.linspace(-1, 1, teacher.dim) if name == "speech" else None
        std = None if mean is None else torch.full((teacher.dim,), 2.0)
        save_quantizer(data / "quantizer" / name, quantizer, mean, std, teacher.fingerprint(), {})
        words += ["--stream", f"{name}={spec},{data / 'quantizer' / name}"]
    assert extract_tokens.main([*words, "--device", "cpu", "--unit-seconds", "20"]) == 0
    return data, specs


def cuts_of(data):
    return [data / "manifests" / f"cuts_{corpus}_train.jsonl" for corpus in ("librispeech", "audioset")]


FIELDS = ["--fields.wavlm_codebook_indexes", "speech", "--fields.dasheng_codebook_indexes", "audio"]


def export(data, output, form):
    words = ["--cuts", *map(str, cuts_of(data)), "--tokens", str(data / "tokens"), "--output", str(output)]
    assert export_tokens.main([*words, *FIELDS, "--format", form]) == 0


def read(output, name, form):
    return (
        CutSet.from_shar(in_dir=output / name) if form == "shar" else CutSet.from_jsonl_lazy(output / f"{name}.jsonl")
    )


@pytest.mark.parametrize("form", ["pointers", "numpy", "hdf5", "shar"])
def test_cuts_carry_tokens_and_come_back(place, form, tmp_path):
    if form == "hdf5":
        pytest.importorskip("h5py")
    data, specs = place
    export(data, tmp_path / "out", form)
    stores = {name: open_stream(data / "tokens" / name)[0] for name in specs}
    seen = set()
    for corpus in ("librispeech", "audioset"):
        for cut in read(tmp_path / "out", f"cuts_{corpus}_train", form):
            expected = stores["speech"].read(cut.id)
            np.testing.assert_array_equal(cut.load_custom("wavlm_codebook_indexes"), expected)
            assert cut.has_custom("dasheng_codebook_indexes") == (corpus == "audioset")
            if corpus == "audioset":
                found = cut.load_custom("dasheng_codebook_indexes")
                np.testing.assert_array_equal(found, stores["audio"].read(cut.id))
            assert len(cut.load_audio()[0]) == round(cut.duration * 16000)
            seen.add(cut.id)
    assert seen == set(stores["speech"].ids)
    for corpus in ("librispeech", "audioset"):
        name = f"cuts_{corpus}_train"
        source = tmp_path / "out" / (name if form == "shar" else f"{name}.jsonl")
        words = ["--cuts", str(source), "--field", "wavlm_codebook_indexes", "--output", str(tmp_path / "back/speech")]
        words += ["--teacher", specs["speech"], "--quantizer", str(data / "quantizer/speech")]
        assert import_tokens.main(words) == 0
    back, card = open_stream(tmp_path / "back/speech")
    assert {i: back.read(i).tobytes() for i in back.ids} == {i: stores["speech"].read(i).tobytes() for i in back.ids}
    assert set(back.ids) == seen and card.teacher["weights_sha256"] != "unknown"
    assert verify_tokens.main(["--tokens", str(tmp_path / "back"), "--cuts", *map(str, cuts_of(data))]) == 0


def test_a_part_of_a_cut_gets_its_part_of_the_tokens(place, tmp_path):
    data, _ = place
    export(data, tmp_path, "pointers")
    cut = next(iter(read(tmp_path, "cuts_librispeech_train", "pointers")))
    whole = cut.load_custom("wavlm_codebook_indexes")
    part = cut.truncate(offset=0.5, duration=1.0)
    np.testing.assert_array_equal(part.load_custom("wavlm_codebook_indexes"), whole[25:75])


def test_tokens_of_an_unknown_copy_of_the_teacher(place, tmp_path):
    """The authors' manifests do not say which weights: the card says so, and padding of a batch is cut."""
    data, _ = place
    store, _ = open_stream(data / "tokens/audio")
    export(data, tmp_path, "numpy")
    with open(tmp_path / "cuts_audioset_train.jsonl") as plain, gzip.open(tmp_path / "theirs.jsonl.gz", "wt") as packed:
        packed.write(plain.read())
    save_authors_file(tmp_path / "dasheng.pt", load_quantizer(data / "quantizer/audio"))
    words = ["--cuts", str(tmp_path / "theirs.jsonl.gz"), "--field", "dasheng_codebook_indexes", "--domains", "[audio]"]
    words += ["--quantizer", str(tmp_path / "dasheng.pt"), "--output", str(tmp_path / "tokens/audio")]
    assert import_tokens.main([*words, "--teacher", "dasheng@-1"]) == 0
    back, card = open_stream(tmp_path / "tokens/audio")
    assert (card.teacher["weights_sha256"], card.frame_rate_hz, card.num_codebooks) == ("unknown", 25, 4)
    assert len(back) == len(store) > 0
    assert verify_tokens.main(["--tokens", str(tmp_path / "tokens"), "--cuts", *map(str, cuts_of(data))]) == 0
    with pytest.raises(CardError, match="layer = -1"):
        import_tokens.main([*words, "--teacher", "dasheng@3"])
    with pytest.raises(ConfigError, match="without a layer"):
        import_tokens.main([*words, "--teacher", "dasheng"])
    with pytest.raises(DataError, match="dasheng_codebook_indexes"):
        import_tokens.main([*words, "--teacher", "dasheng@-1", "--field", "codes"])


def test_tokens_that_do_not_fit_are_refused_or_left_out(place, tmp_path, capsys):
    data, specs = place
    export(data, tmp_path, "numpy")
    rows = [json.loads(line) for line in open(tmp_path / "cuts_audioset_train.jsonl")]
    rows[0]["duration"] += 3.0  # tokens of other audio
    rows[0]["recording"]["duration"] += 3.0
    rows[0]["recording"]["num_samples"] += 48000
    miniatures.write_jsonl(tmp_path / "changed.jsonl", rows)
    words = ["--cuts", str(tmp_path / "changed.jsonl"), "--field", "dasheng_codebook_indexes", "--output"]
    words += [str(tmp_path / "t/audio"), "--teacher", "dasheng@-1"]
    assert import_tokens.main([*words, "--quantizer", str(data / "quantizer/audio")]) == 0
    assert f"left out {rows[0]['id']}" in capsys.readouterr().out
    save_quantizer(tmp_path / "wide", Quantizer(32, 8))
    with pytest.raises(CardError, match="8 codebooks"):
        import_tokens.main([*words, "--output", str(tmp_path / "u"), "--quantizer", str(tmp_path / "wide")])


def test_the_authors_quantizer_makes_the_same_tokens(place, tmp_path):
    data, specs = place
    export_words = ["--cuts", str(cuts_of(data)[0]), "--tokens", str(data / "tokens"), "--output", str(tmp_path)]
    assert export_tokens.main([*export_words, *FIELDS[:2], "--quantizers", str(data / "quantizer")]) == 0
    content = torch.load(tmp_path / "speech_quantizer.pt", weights_only=True)
    assert set(content) == {"quantizer", "mean", "std"} and content["mean"].shape == (32,)
    words = ["--file", str(tmp_path / "speech_quantizer.pt"), "--output", str(tmp_path / "quantizer")]
    assert import_quantizer.main([*words, "--teacher", specs["speech"]]) == 0
    tokens = ["--cuts", str(cuts_of(data)[0]), "--output", str(tmp_path / "tokens"), "--device", "cpu"]
    assert extract_tokens.main([*tokens, "--stream", f"speech={specs['speech']},{tmp_path / 'quantizer'}"]) == 0
    ours, _ = open_stream(data / "tokens/speech")
    again, _ = open_stream(tmp_path / "tokens/speech")
    same = np.mean([np.mean(ours.read(i) == again.read(i)) for i in again.ids])
    assert len(again) > 0 and same > 0.999  # batches differ, so a rounding may
    torch.save({"quantizer": Quantizer(48, 4).state_dict(), "mean": None, "std": None}, tmp_path / "other.pt")
    with pytest.raises(CardError, match="dim 48"):
        import_quantizer.main(
            ["--file", str(tmp_path / "other.pt"), "--output", str(tmp_path / "q"), "--teacher", specs["speech"]]
        )
