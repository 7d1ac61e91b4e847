"""Weights of others run no code, write nothing, and end in three parts, through every door that takes them.

Real pickles that would leave a mark, in a temporary home whose files are compared before and after; then files of
model folders damaged in every way: cut off, bits flipped, values of other types.
"""

import copy
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import dasheng, snapshot, wavlm

import spear
from spear.errors import SpearError
from spear.models.loading import load_model, save_model
from spear.quantize import Quantizer, load_quantizer, save_quantizer
from spear.seeds import numpy_rng
from spear.teachers import load_teacher
from spear.train.setup import start_from

SIZES = dict(
    encoder_dim="8",
    feedforward_dim="8",
    encoder_unmasked_dim="4",
    num_encoder_layers="1,1",
    downsampling_factor="1,2",
    cnn_module_kernel="3",
    num_heads="1",
    query_head_dim="4",
    pos_head_dim="4",
    value_head_dim="4",
    pos_dim=4,
    subsampling_channels="1,2,2",
)
ROUNDS = int(os.environ.get("SPEAR_MUTATIONS", "12"))  # of every kind and file; the nightly run says 500


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def programs(mark: Path) -> dict[str, bytes]:
    """Pickles that would make the file `mark`, if anything in them were executed."""
    import builtins
    import posix

    text = f"open({str(mark)!r}, 'w').close()"
    protocol_0 = f"(S'touch {mark}'\nios\nsystem\n.".encode()  # the instruction INST
    obj = b"(cposix\nsystem\nV" + f"touch {mark}".encode() + b"\no."  # the instruction OBJ
    getattr_chain = b"cbuiltins\ngetattr\n(cbuiltins\n__import__\nVos\n\x85RVsystem\ntRVtouch " + (
        str(mark).encode() + b"\n\x85R."
    )
    calls = {
        "system": Call(posix.system, f"touch {mark}"),
        "exec": Call(builtins.exec, text),
        "eval": Call(builtins.eval, text),
        "open": Call(io.open, str(mark), "w"),
        "popen": Call(subprocess.Popen, ["touch", str(mark)]),
        "mkdir": Call(os.mkdir, str(mark)),
        "torch": Call(torch.save, {}, str(mark)),
        "inside": {"model": {"encoder_embed.out.weight": Call(posix.system, f"touch {mark}")}},
        "key": {"model": {(Call(posix.system, f"touch {mark}"),): 1}},
    }
    return {name: pickle.dumps(call, 2) for name, call in calls.items()} | {
        "new protocol": pickle.dumps(calls["system"], 5),
        "inst": protocol_0,
        "obj": obj,
        "getattr": getattr_chain,
    }


def as_zip(program: bytes) -> bytes:
    """A file of torch.save with this pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", sys.byteorder)
    return content.getvalue()


def as_legacy(program: bytes) -> bytes:
    """A file of torch before 1.6 with this pickle."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(value, 2) for value in head) + program + pickle.dumps([], 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders of every kind of model, small and in order."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    model = spear.SpearModel(spear.SpearConfig(**SIZES))
    (save_model(model, folder / "spear") / "seal.json").unlink()  # as released: the damage itself must be met
    torch.save({"model": model.state_dict(), "params": {"a": 1}}, folder / "icefall.pt")
    torch.save({"model": model.state_dict()}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    (folder / "bin").mkdir()
    shutil.copyfile(folder / "spear/config.json", folder / "bin/config.json")
    torch.save(model.state_dict(), folder / "bin/pytorch_model.bin")
    dasheng(folder / "dasheng.pt")
    quantizer = Quantizer(4, 2, 4).eval()
    torch.save({"quantizer": quantizer.state_dict(), "mean": torch.zeros(4), "std": torch.ones(4)}, folder / "q.pt")
    save_quantizer(folder / "quantizer", quantizer)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A temporary home and working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def doors(folder: Path) -> dict:
    """Every way into the program that a file evil.pt or pytorch_model.bin in a folder can take."""
    hub = {name: f"{name}:{folder / name}" for name in ("wavlm", "hubert", "wav2vec2", "data2vec", "mert", "whisper")}
    types = {"data2vec": "data2vec-audio", "mert": "mert_model"}
    for name in hub:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({"model_type": types.get(name, name)}))
        shutil.copyfile(folder / "evil.pt", folder / name / "pytorch_model.bin")
    for name in ("released", "heard"):
        (folder / name).mkdir()
        shutil.copyfile(folder / "evil.pt", folder / name / "pytorch_model.bin")
    return {
        "load_model": lambda: load_model(folder / "evil.pt"),
        "a folder": lambda: load_model(folder / "released"),
        "init_from": lambda: start_from(torch.nn.Linear(1, 1), str(folder / "evil.pt")),
        "quantizer": lambda: load_quantizer(folder / "evil.pt"),
        "spear": lambda: load_teacher(f"spear:{folder / 'evil.pt'}"),
        "dasheng": lambda: load_teacher(f"dasheng:{folder / 'evil.pt'}"),
        "dasheng's folder": lambda: load_teacher(f"dasheng:{folder / 'heard'}"),
        "usad": lambda: load_teacher(f"usad:{folder / 'released'}"),
        **{name: lambda spec=spec: load_teacher(spec) for name, spec in hub.items()},
    }


def in_three_parts(call) -> str:
    with pytest.raises(SpearError) as caught:
        call()
    message = str(caught.value)
    assert all((caught.value.found, caught.value.expected, caught.value.fix)) and "\x1b" not in message
    return message


@pytest.mark.parametrize("form", [as_zip, as_legacy])
def test_nothing_in_a_checkpoint_is_executed(home, form):
    pytest.importorskip("transformers")
    mark = home / "executed"
    for number, (name, program) in enumerate(programs(mark).items()):
        folder = home / f"{number}"
        folder.mkdir()
        (folder / "evil.pt").write_bytes(form(program))
        entries = doors(folder)
        before = snapshot(home)
        for door, call in entries.items():
            message = in_three_parts(call)
            assert not mark.exists(), f"{name} through {door}"
            assert door == "usad" or "evil.pt" in message or "pytorch_model.bin" in message, (
                f"{name}, {door}: {message}"
            )
        assert snapshot(home) == before


def test_these_pickles_do_run_elsewhere(tmp_path):
    """The marks of the test above mean something: Python's own reader makes them all."""
    for number, name in enumerate(programs(tmp_path / "x")):
        mark = tmp_path / f"mark{number}"
        try:
            pickle.loads(programs(mark)[name])
        except Exception as error:  # after the call the rest of the program may make no sense
            assert not isinstance(error, ImportError)
        time.sleep(0.3 if name == "popen" else 0)
        assert mark.exists(), name


def test_import_quantizer_and_train_refuse_them_as_commands(home):
    mark = home / "executed"
    (home / "evil.pt").write_bytes(as_zip(programs(mark)["system"]))
    for arguments in (["import-quantizer", "--file", "evil.pt", "--teacher", "spear:evil.pt", "--output", "out"],):
        done = subprocess.run([sys.executable, "-m", "spear.bin.main", *arguments], capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "to fix:" in done.stderr and "posix.system" in done.stderr
    assert not mark.exists() and not (home / "out").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("_attn_implementation", "somebody/kernels"),
        ("attn_implementation", "somebody/kernels"),
        ("_attn_implementation_internal", "somebody/kernels"),
        ("transformers_weights", "../evil.bin"),
        ("torch_dtype", "__class__"),
        ("custom_pipelines", {"x": {"impl": "evil.Pipeline"}}),
    ],
)
def test_a_teachers_config_decides_sizes_and_nothing_else(home, key, value):
    pytest.importorskip("transformers")
    folder = wavlm(home / "teacher")
    (folder / "evil.py").write_text(f"open({str(home / 'executed')!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    first = load_teacher(f"wavlm:{folder}").fingerprint()
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    assert load_teacher(f"wavlm:{folder}").fingerprint() == first
    assert not (home / "executed").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"num_hidden_layers": 1_000_000}, "num_hidden_layers = 1000000"),
        ({"hidden_size": 10**12}, "hidden_size"),
        ({"hidden_size": 100_000}, "parameters"),
        ({"vocab_size": float("nan")}, "vocab_size"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
        ({"num_attention_heads": -4}, ""),
        ({"num_attention_heads": "four"}, ""),
        ({"hidden_size": None}, ""),
        ({"hidden_act": "os.system"}, ""),
        ({"conv_dim": [16] * 100_000}, "conv_dim"),
        ({"conv_kernel": 3}, "convolutions 3"),
        ({"conv_kernel": [10**9] * 7}, "convolutions"),
        ({"num_buckets": 10**7}, ""),
        ({"model_type": ["wavlm"]}, "model of type"),
        ({"intermediate_size": 96}, ""),
    ],
    ids=str,
)
def test_a_teachers_config_that_cannot_be(home, change, found):
    pytest.importorskip("transformers")
    folder = wavlm(home / "teacher")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    assert found in in_three_parts(lambda: load_teacher(f"wavlm:{folder}"))


def test_a_teacher_that_is_a_pointer(home):
    pytest.importorskip("transformers")
    folder = wavlm(home / "teacher")
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in in_three_parts(lambda: load_teacher(f"wavlm:{folder}"))
    (folder / "model.safetensors").unlink()
    shards = {"metadata": {}, "weight_map": {"a": "../teacher2/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert "files beside it" in in_three_parts(lambda: load_teacher(f"wavlm:{folder}"))


def test_teachers_with_weights_that_are_not_finite(home, whole):
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    folder = wavlm(home / "teacher")
    state = load_file(folder / "model.safetensors")
    name = "encoder.layers.1.feed_forward.output_dense.weight"
    state[name][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert name in in_three_parts(lambda: load_teacher(f"wavlm:{folder}"))
    content = torch.load(whole / "dasheng.pt", weights_only=True)
    content["model"]["norm.bias"][3] = float("inf")
    torch.save(content, home / "dasheng.pt")
    assert "norm.bias" in in_three_parts(lambda: load_teacher(f"dasheng:{home / 'dasheng.pt'}"))
    content = torch.load(whole / "q.pt", weights_only=True)
    for key, value in (("mean", torch.full((4,), float("nan"))), ("std", torch.ones(3)), ("std", "one")):
        torch.save({**content, key: value}, home / "q.pt")
        assert "mean or std" in in_three_parts(lambda: load_quantizer(home / "q.pt"))


# Damaged files ------------------------------------------------------------------------------------------------------


def mutations(data: bytes, rng: np.random.Generator):
    """Versions of a file: cut off, bits flipped, pieces of it overwritten, repeated or left out."""
    for _ in range(ROUNDS):
        place, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
        yield data[:place]
        flipped = bytearray(data)
        for spot in rng.integers(min(len(data), 4000), size=3):  # headers and pickles are in front
            flipped[spot] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)
        yield data[:place] + bytes(rng.integers(256, size=length, dtype=np.uint8)) + data[place + length :]
        yield data[:place] + data[place : place + length] * 5 + data[place + length :]
        yield data[:place] + data[place + length :]


OTHER_VALUES = (None, True, -1, 0, 10**30, 1e308, float("nan"), "", "x" * 5000, [], [[]], {}, {"a": [1]}, "\ud800", 0.5)


def json_mutations(value: dict, rng: np.random.Generator):
    """Versions of a JSON object with one value exchanged for one of another type, or left out."""
    for key in sorted(value):
        for other in rng.permutation(len(OTHER_VALUES))[:ROUNDS]:
            yield {**value, key: OTHER_VALUES[other]}
        yield {name: item for name, item in copy.deepcopy(value).items() if name != key}


def survive(call, what: str) -> bool:
    """Whether it loads; anything but that or three parts, or more than 10 s, is a failure."""
    begin = time.process_time()  # what others do on this machine does not count
    try:
        call()
        return True
    except SpearError as error:
        assert error.found and error.expected and error.fix, what
        return False
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    finally:
        assert time.process_time() - begin < 10, f"{what} took {time.process_time() - begin:.0f} s"


FILES = {
    "spear/model.safetensors": lambda place: load_model(place / "spear"),
    "icefall.pt": lambda place: load_model(place / "icefall.pt"),
    "legacy.pt": lambda place: load_model(place / "legacy.pt"),
    "bin/pytorch_model.bin": lambda place: load_model(place / "bin"),
    "dasheng.pt": lambda place: load_teacher(f"dasheng:{place / 'dasheng.pt'}"),
    "q.pt": lambda place: load_quantizer(place / "q.pt"),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_of_weights_end_in_three_parts(whole, tmp_path, name):
    place = shutil.copytree(whole, tmp_path / "place")
    data = (whole / name).read_bytes()
    FILES[name](place)  # the first one imports much
    refused = 0
    for number, changed in enumerate(mutations(data, numpy_rng(0, "mutations", name))):
        (place / name).write_bytes(changed)
        refused += not survive(lambda: FILES[name](place), f"{name}, version {number}")
    assert refused > 0
    (place / name).write_bytes(data)
    assert survive(lambda: FILES[name](place), name)


def test_settings_beside_weights_of_any_type_end_in_three_parts(whole, tmp_path):
    place = shutil.copytree(whole / "spear", tmp_path / "place")
    config = json.loads((whole / "spear/config.json").read_text())
    rng = numpy_rng(0, "mutations", "config")
    for changed in json_mutations(config, rng):
        (place / "config.json").write_text(json.dumps(changed))
        survive(lambda: load_model(place), str(changed)[:200])
    for number, changed in enumerate(mutations((whole / "spear/config.json").read_bytes(), rng)):
        (place / "config.json").write_bytes(changed)
        survive(lambda: load_model(place), f"config.json, version {number}")


def test_damaged_folders_of_transformers_end_in_three_parts(tmp_path):
    pytest.importorskip("transformers")
    place = wavlm(tmp_path / "teacher")
    rng = numpy_rng(0, "mutations", "teacher")
    for name in ("config.json", "preprocessor_config.json"):
        original = (place / name).read_text()
        keys = json_mutations(json.loads(original), rng)
        for changed in (version for number, version in enumerate(keys) if number % max(1, 400 // ROUNDS) == 0):
            (place / name).write_text(json.dumps(changed))
            survive(lambda: load_teacher(f"wavlm:{place}@1"), f"{name}: {str(changed)[:200]}")
        (place / name).write_text(original)
    original = (place / "model.safetensors").read_bytes()
    for number, changed in enumerate(mutations(original, rng)):
        if number % max(1, 60 // ROUNDS) == 0:
            (place / "model.safetensors").write_bytes(changed)
            survive(lambda: load_teacher(f"wavlm:{place}@1"), f"model.safetensors, version {number}")
