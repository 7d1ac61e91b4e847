"""An id that others gave never says where a file goes.

Reported as: an export of tokens wrote to ../../.. and to absolute places, which the ids of a cut set named.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import miniatures
import numpy as np
import pytest
from lhotse import CutSet

from spear import config, fs
from spear.errors import CheckpointError
from spear.evaluate.upstream import load_upstream
from spear.manifest.exchange import write_cuts
from spear.shards import ShardWriter

HOSTILE = ["../../../../up", "{tmp}/absolute", "..", "C:\\x", "a\nb", "x" * 250]
HARMLESS = ["c", "a/b", "é 日本", "a.b-c_d"]


@pytest.fixture
def place(tmp_path):
    """A folder with cuts of hostile and of harmless ids, and tokens of all of them."""
    miniatures.noise(tmp_path / "data/raw/a.wav", 0.2)
    ids = [item.format(tmp=tmp_path) for item in HOSTILE] + HARMLESS
    source = {"type": "file", "channels": [0], "source": "raw/a.wav"}
    recording = {"id": "r", "sampling_rate": 16000, "num_samples": 3200, "duration": 0.2, "channel_ids": [0]}
    cut = {"start": 0, "duration": 0.2, "channel": 0, "supervisions": [], "type": "MonoCut"}
    rows = [cut | {"id": item, "recording": recording | {"sources": [source]}} for item in ids]
    fs.write_jsonl(tmp_path / "data/manifests/cuts.jsonl", rows)
    tokens = {item: np.full((10, 4), number, dtype=np.uint8) for number, item in enumerate(ids)}
    with ShardWriter(tmp_path / "data/tokens/speech", "s", np.uint8, 4, {}) as writer:
        for item, array in tokens.items():
            writer.add(item, array)
    return tmp_path, tokens


def export(folder, form):
    """Writes below folder/deep/out; returns the number of cuts and what appeared outside of it."""
    before = set(folder.rglob("*"))
    fields = {"codes": (folder / "data/tokens/speech", 50.0)}
    out = folder / "deep/deeper/out"
    counts = write_cuts([folder / "data/manifests/cuts.jsonl"], fields, out, form, False)
    new = set(folder.rglob("*")) - before
    return counts["cuts"], [path for path in new if out not in (path, *path.parents) and path not in out.parents]


def test_arrays_are_named_by_what_ids_are_encoded_to(place):
    folder, tokens = place
    up = Path(os.path.normpath(folder / "deep/deeper/out/arrays/cuts-codes" / "../../../../up"))
    count, outside = export(folder, "numpy")
    assert not outside and not list(up.parent.glob("up*"))
    arrays = [path for path in (folder / "deep").rglob("*.npy")]
    # What leads elsewhere, breaks lines or is too long is left out; the others are encoded.
    assert count == len(arrays) == len(HARMLESS) + 2
    names = {path.name for path in arrays}
    assert {"c.npy", "a%2Fb.npy", "é 日本.npy", "C%3A%5Cx.npy"} <= names
    for cut in CutSet.from_jsonl_lazy(folder / "deep/deeper/out/cuts.jsonl"):
        np.testing.assert_array_equal(cut.load_custom("codes"), tokens[cut.id])


def test_tar_files_hold_harmless_names_only(place, caplog):
    folder, tokens = place
    count, outside = export(folder, "shar")
    assert count == len(HARMLESS) and not outside
    cuts = {cut.id: cut for cut in CutSet.from_shar(in_dir=folder / "deep/deeper/out/cuts")}
    assert set(cuts) == set(HARMLESS)
    for item, cut in cuts.items():
        np.testing.assert_array_equal(cut.load_custom("codes"), tokens[item])
    assert sum("left out" in record.message for record in caplog.records) == len(HOSTILE)


def test_folders_with_commas_and_equals_signs_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a=b/c,d").mkdir(parents=True)
    Path("a=b/c,d/cuts.jsonl").touch()
    assert config.parse(FeaturesOf, ["--cuts", "a=b/c,d/cuts.jsonl"]).cuts == ["a=b/c,d/cuts.jsonl"]
    assert config.parse(FeaturesOf, ["--cuts", "one,two"]).cuts == ["one", "two"]
    with pytest.raises(CheckpointError, match="a=b/c,d"):  # which holds no encoder; not: no b/c,d
        load_upstream("a=b/c,d")


@dataclass
class FeaturesOf:
    """Settings of a test.

    Attributes:
        cuts: files.
    """

    cuts: list[str] = field(default_factory=list)
