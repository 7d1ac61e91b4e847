"""Checkpoints as others make them: read where they hold tensors and plain values, else refused in three parts."""

import argparse
import contextlib
import os
import pathlib
import re
import resource
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import spear
from spear import pickles, torchfile
from spear.errors import CheckpointError, SpearError
from spear.models.loading import load_model, save_model

KIND = torch.complex128  # holds the values of all others
SIZES = dict(
    encoder_dim="16",
    feedforward_dim="16",
    encoder_unmasked_dim="8",
    num_encoder_layers="1,1",
    downsampling_factor="1,2",
    cnn_module_kernel="7",
    num_heads="2",
    query_head_dim="8",
    value_head_dim="6",
    subsampling_channels="2,4,8",
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return spear.SpearModel(spear.SpearConfig(**SIZES)).eval()


def released(model, folder):
    """A folder without checksums, as released models are."""
    (save_model(model, folder) / "seal.json").unlink()


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def refuse(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_model(path)
    assert "\x1b" not in str(caught.value) and all((caught.value.found, caught.value.expected, caught.value.fix))
    return str(caught.value)


@pytest.fixture
def attribute_dict(monkeypatch):
    """icefall's dict with attributes, importable as torch.save needs it."""

    class AttributeDict(dict):
        def __getattr__(self, key):
            if key in self:
                return self[key]
            raise AttributeError(key)

    AttributeDict.__module__, AttributeDict.__qualname__ = "icefall.utils", "AttributeDict"
    module = types.ModuleType("icefall.utils")
    module.AttributeDict = AttributeDict
    monkeypatch.setitem(sys.modules, "icefall", types.ModuleType("icefall"))
    monkeypatch.setitem(sys.modules, "icefall.utils", module)
    return AttributeDict


def icefall_checkpoint(model, attribute_dict) -> dict:
    """What icefall's save_checkpoint writes: states of everything, and the entries of params beside them."""
    copy = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(copy.parameters(), lr=0.1)
    copy(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    sampler = {"epoch": 3, "seed": "trng", "diagnostics": {"stats_per_epoch": {0: {"kept_batches": 7}}}}
    params = {
        "exp_dir": pathlib.Path("zipformer/exp"),
        "manifest_dir": pathlib.PurePosixPath("data/fbank"),
        "args": argparse.Namespace(lang_dir=pathlib.Path("data/lang"), world_size=8),
        "env_info": attribute_dict(host="node", versions=attribute_dict(torch=torch.__version__)),
        "best_valid_loss": np.float64(0.25),
        "loss_by_dim": np.linspace(0, 1, 5),
        "dtype": torch.float16,
        "device": torch.device("cuda", 0),
        "sizes": torch.Size([1, 2]),
        "seen": {1, 2},
        "batch_idx_train": 12345,
    }
    return {
        "model": {f"module.{name}": value for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "scheduler": {"epoch": 3, "batch": 100, "last_lr": [0.1]},
        "grad_scaler": torch.amp.GradScaler("cpu").state_dict(),
        "sampler": sampler,
        "model_avg": model.state_dict(),
        **params,
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_icefalls_own_checkpoints_are_read(model, attribute_dict, tmp_path, zipped):
    path = tmp_path / "epoch-30.pt"
    torch.save(icefall_checkpoint(model, attribute_dict), path, _use_new_zipfile_serialization=zipped)
    for name in ("icefall", "icefall.utils"):
        del sys.modules[name]  # the reader has no icefall
    loaded = load_model(path)
    assert same(loaded, model) and loaded.config.per_stack("encoder_dim") == (16, 16)
    content = torchfile.read(path)
    assert isinstance(content["exp_dir"], pickles.Record) and content["exp_dir"].name == "pathlib.PosixPath"
    assert content["args"].state["world_size"] == 8 and content["batch_idx_train"] == 12345
    assert content["env_info"]["host"] == "node" and content["dtype"] is torch.float16
    torch.testing.assert_close(content["loss_by_dim"], torch.linspace(0, 1, 5, dtype=torch.float64))
    state = content["optimizer"]["state"][0]
    assert state["step"] == 1 and state["exp_avg"].shape == (2, 3)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_tensors_come_back_as_they_were(tmp_path, zipped):
    whole = torch.randn(4, 6)
    parameter = torch.nn.Parameter(torch.randn(2))
    parameter.label = "kept by torch, dropped here"
    content = {
        "views": [whole, whole.t(), whole[1:3, ::2], whole[0, 0]],
        "kinds": [whole.bfloat16(), whole.half(), whole.double(), whole.int(), whole > 0, whole.to(torch.complex64)],
        "newer": [whole.to(torch.float8_e4m3fn), torch.ones(3, dtype=torch.uint16)],
        "empty": [torch.zeros(0), torch.zeros(0, 5)],
        "parameter": parameter,
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = torchfile.read(tmp_path / "a.pt")
    for name in ("views", "kinds", "newer", "empty"):
        for one, other in zip(content[name], found[name], strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.to(KIND), other.to(KIND))
    assert torch.equal(found["parameter"], parameter)
    assert found["views"][0].untyped_storage().data_ptr() == found["views"][1].untyped_storage().data_ptr()


def test_only_the_model_is_read_from_a_training_checkpoint(model, tmp_path):
    torch.save({"model": model.state_dict(), "optimizer": torch.zeros(100)}, tmp_path / "a.pt")
    assert set(torchfile.read(tmp_path / "a.pt", ("model",))) == {"model"}


@pytest.mark.parametrize("with_config", [True, False])
def test_a_released_folder_with_pytorch_model_bin(model, tmp_path, with_config):
    released(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    if not with_config:
        (tmp_path / "config.json").unlink()
    assert same(load_model(tmp_path), model)
    assert same(load_model(tmp_path / "pytorch_model.bin"), model)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "a.pt"])
@pytest.mark.parametrize(
    ("content", "found", "fix"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--0.safetensors\n", "git-annex pointer", "git annex get"),
        (b"<!DOCTYPE html>\n<html><body>Please log in</body></html>", "web page", "not the page about it"),
        (b"", "is empty", "again"),
    ],
)
def test_what_stands_in_for_a_file_is_named(model, tmp_path, name, content, found, fix):
    released(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(content)
    message = refuse(tmp_path / name, found)
    assert fix in message and name in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_refused_by_name(model, tmp_path, value, dtype):
    state = {name: tensor.clone().to(dtype) for name, tensor in model.state_dict().items()}
    state["encoder_embed.out.weight"].view(-1)[7] = value
    save_file(state, tmp_path / "a.safetensors")
    assert "diverged" in refuse(tmp_path / "a.safetensors", r"NaN or infinite values in encoder_embed\.out\.weight")


def test_large_finite_weights_are_not_mistaken(model, tmp_path):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["encoder_embed.out.weight"].fill_(3e38)
    save_file(state, tmp_path / "a.safetensors")
    assert same(load_model(tmp_path / "a.safetensors"), model) is False


def test_weights_that_are_no_floating_point_numbers_are_refused(model, tmp_path):
    state = {**model.state_dict(), "encoder_embed.out.weight": model.encoder_embed.out.weight.detach().char()}
    save_file(state, tmp_path / "a.safetensors")
    refuse(tmp_path / "a.safetensors", "torch.int8")


def test_an_unknown_class_is_named_without_torchs_advice(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "lock": re.compile("a")}, tmp_path / "a.pt")
    message = refuse(tmp_path / "a.pt", r"needs re\._compile")
    assert "weights_only" not in message and "add_safe_globals" not in message


def raw_zip(path, records, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(f"a/{name}", content)
    return path


def one_tensor(size, stride, offset=0, numel=4):
    """A pickle of {'x': a tensor of storage 0}, as torch.save would write it."""
    numbers = b"".join(b"\x8a" + bytes([9]) + struct.pack("<q", n) + b"\x00" for n in size)
    steps = b"".join(b"\x8a" + bytes([9]) + struct.pack("<q", n) + b"\x00" for n in stride)
    count = b"\x8a\x09" + struct.pack("<q", numel) + b"\x00"
    start = b"\x8a\x09" + struct.pack("<q", offset) + b"\x00"
    storage = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + count + b"tQ"
    return (
        b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n"
        + storage + start + b"(" + numbers + b"t(" + steps + b"t\x89N" + b"tRs."
    )  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        dict(size=(2, 2), stride=(2, 1)),
        dict(size=(2**40,), stride=(0,)),
        dict(size=(5,), stride=(1,)),
        dict(size=(2,), stride=(1,), offset=2**50),
        dict(size=(4,), stride=(1,), numel=2**50),
        dict(size=(0, 2**62), stride=(1, 1)),
        dict(size=(2**62, 2**62), stride=(1, 1)),
    ],
    ids=str,
)
def test_tensors_that_promise_more_than_the_file_holds(tmp_path, case):
    path = raw_zip(tmp_path / "a.pt", {"data.pkl": one_tensor(**case), "data/0": bytes(16)})
    if case["size"] == (2, 2):
        assert torch.equal(torchfile.read(path)["x"], torch.zeros(2, 2))
    else:
        refuse(path, "a.pt cannot be read")


@contextlib.contextmanager
def little_memory(megabytes=100):
    """Checks that the peak of this process's memory does not rise by more inside the block."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * megabytes


def test_endless_programs_end(tmp_path, monkeypatch):
    assert pickles.MAX_INSTRUCTIONS <= 1_000_000  # about a second
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 10_000)
    refuse(raw_zip(tmp_path / "a.pt", {"data.pkl": b"\x80\x02" + b"N0" * 10_000 + b"N."}), "10000 instructions")


def test_zip_bombs_are_refused_before_they_unpack(tmp_path):
    zeros = bytes(50_000_000)
    path = raw_zip(tmp_path / "a.pt", {"data.pkl": zeros, "data/0": zeros}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    with little_memory(40):
        refuse(path, "compressed")
    path = raw_zip(tmp_path / "b.pt", {"data.pkl": one_tensor((4,), (1,)), "data/0": bytes(16)})
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02") + 20
    content[place : place + 8] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(content)
    with little_memory():
        refuse(path, "more than the file's")


def test_a_safetensors_header_that_promises_terabytes(tmp_path):
    header = b'{"encoder_embed.out.weight":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with little_memory():
        refuse(tmp_path / "a.safetensors", "cannot be read")
        refuse(tmp_path / "b.safetensors", "cannot be read")


@pytest.mark.parametrize(
    "program",
    [
        # a key whose hash would take 2**60 steps
        b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",
        b"\x80\x02(" + b"}" * 100 + b"}(u.",
        b"\x80\x02]q\x00h\x00a.",  # a list that contains itself
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",  # 100,000 lists inside each other
        b"\x80\x02c__builtin__\nset\n(]X\x01\x00\x00\x00atR.",
        b"\x80\x02N.",
        b"\x80\x02" + b"\x8b\xff\xff\xff\x7f" + b"1" * 20 + b".",
        b"I" + b"9" * 100_000 + b"\n.",
        b".",
        b"",
    ],
    ids=range(11),
)
def test_pickles_made_to_hang_or_to_confuse(tmp_path, program):
    refuse(raw_zip(tmp_path / "a.pt", {"data.pkl": program}), "a.pt")


def test_things_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    refuse(tmp_path / "a.pt", "no regular file")
    (tmp_path / "folder" / "model.safetensors").mkdir(parents=True)
    refuse(tmp_path / "folder", "without model.safetensors")


ABSURD = [
    {"num_encoder_layers": 1_000_000},
    {"num_encoder_layers": "1000000"},
    {"num_encoder_layers": ",".join(["1"] * 1000)},
    {"num_encoder_layers": "128,128,128,128,128"},
    {"num_encoder_layers": "9" * 5000},
    {"num_encoder_layers": -1},
    {"num_encoder_layers": "0"},
    {"num_encoder_layers": True},
    {"num_encoder_layers": None},
    {"num_encoder_layers": {"a": 1}},
    {"num_encoder_layers": [1, [2]]},
    {"num_encoder_layers": [1.5]},
    {"num_encoder_layers": float("nan")},
    {"num_encoder_layers": float("inf")},
    {"num_encoder_layers": "1,,2"},
    {"encoder_dim": 1 << 40},
    {"encoder_dim": -4},
    {"feedforward_dim": 10**9},
    {"num_heads": 100_000},
    {"cnn_module_kernel": 10**9 + 1},
    {"downsampling_factor": 0},
    {"query_head_dim": -1},
    {"num_mel_bins": float("nan")},
    {"num_mel_bins": "128"},
    {"num_mel_bins": 10**9},
    {"num_mel_bins": True},
    {"pos_dim": -2},
    {"pos_dim": 0},
    {"pos_dim": 48.0},
    {"output_downsampling_factor": 0},
    {"output_downsampling_factor": 2.0},
    {"subsampling_channels": "1,2,1000000000"},
    {"causal": "false"},
    {"exact_padding": 1},
    {"gradient_regularisers": None},
    {"chunk_size": [8]},
]


@pytest.mark.parametrize("change", ABSURD, ids=lambda change: str(change)[:50])
def test_absurd_sizes_are_refused_before_anything_is_built(change):
    name = next(iter(change))
    with pytest.raises(SpearError, match=name) as caught:
        spear.SpearConfig.from_dict({**SIZES, **change})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content", ['{"num_encoder_layers": 1000000}', "[1]", "[" * 100_000, '{"pos_dim": ' + "9" * 5000]
)
def test_absurd_files_beside_weights_are_named(model, tmp_path, content):
    released(model, tmp_path)
    (tmp_path / "config.json").write_text(content)
    refuse(tmp_path, r"unreadable configuration beside .*model\.safetensors")
    (tmp_path / "checkpoint.json").write_text(f'{{"model_config": {content}}}')
    refuse(tmp_path, r"unreadable configuration beside .*model\.safetensors|checkpoint\.json")
