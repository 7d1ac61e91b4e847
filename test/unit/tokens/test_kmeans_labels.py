"""k-means labels of a teacher's frames: the nearest of over 256 centers, restartable, refused for another teacher."""

import numpy as np
import pytest
import torch
from token_fakes import BlockTeacher, write_cuts

from spear import teachers
from spear.bin import kmeans_labels, verify_tokens
from spear.errors import CardError
from spear.quantize.controls import KMeans
from spear.shards import ShardStore, ShardWriter, read_index
from spear.tokens import open_stream
from spear.tokens.extract import ExtractSettings, extract
from spear.tokens.kmeans import cluster
from spear.tokens.streams import embedding_stream
from spear.tokens.units import plan_units, read_cuts

CLASSES = 300


@pytest.fixture
def place(cuts, tmp_path):
    """Frames of some cuts, and the words of the command."""
    teachers.register("blocks", lambda path, device, layer=0: BlockTeacher(50, layer=layer))
    file = write_cuts(tmp_path / "manifests" / "cuts.jsonl", cuts[:15])
    frames = embedding_stream(BlockTeacher(50), tmp_path / "embeddings", 10_000, 0)
    frames.prepare(overwrite=False)
    extract(plan_units(read_cuts([file]), 1000.0), [frames], ExtractSettings(5.0, 1, 0.5))
    words = ["--embeddings", str(tmp_path / "embeddings"), "--cuts", str(file), "--num-classes", str(CLASSES)]
    return tmp_path, file, [*words, "--output", str(tmp_path / "tokens" / "km"), "--device", "cpu"]


def test_every_frame_gets_its_nearest_center(place):
    folder, file, words = place
    assert kmeans_labels.main([*words, "--teacher", "blocks"]) == 0
    labels, card = open_stream(folder / "tokens" / "km")
    frames = ShardStore(folder / "embeddings")
    assert labels.dtype == np.uint16 and card.codebook_size == CLASSES and set(labels.ids) == set(frames.ids)
    pairs = [(frames.read(item).astype(np.float64), labels.read(item)[:, 0]) for item in labels.ids]
    x_MD, y_M = (np.concatenate(parts) for parts in zip(*pairs))
    assert y_M.max() > 255
    means = {label: x_MD[y_M == label].mean(0) for label in np.unique(y_M)}
    within = np.mean([((x_MD[y_M == label] - mean) ** 2).sum(1).mean() for label, mean in means.items()])
    assert within < 0.3 * x_MD.var(0).sum()
    assert verify_tokens.main(["--tokens", str(folder / "tokens"), "--cuts", str(file)]) == 0


def test_a_second_run_changes_nothing_and_another_teacher_is_refused(place):
    folder, _, words = place
    kmeans_labels.main([*words, "--teacher", "blocks"])
    files = [path for path in sorted((folder / "tokens" / "km").iterdir()) if path.suffix != ".lock"]
    before = {path: path.read_bytes() for path in files}
    kmeans_labels.main([*words, "--teacher", "blocks"])
    assert all(path.read_bytes() == data for path, data in before.items())
    with pytest.raises(CardError, match="layer = 0"):
        kmeans_labels.main([*words, "--teacher", "blocks@1"])
    with pytest.raises(CardError, match="at least 60000"):
        kmeans_labels.main([*words, "--teacher", "blocks", "--num-classes", "60000"])


def test_other_frames_of_equal_lengths_are_clustered_again(place):
    folder, _, words = place
    frames, output = ShardStore(folder / "embeddings"), folder / "tokens" / "km"
    device = torch.device("cpu")
    before = cluster(folder / "embeddings", CLASSES, 42, device, output).card["content_sha256"]
    assert cluster(folder / "embeddings", CLASSES, 42, device, output).card["content_sha256"] == before
    for shard in frames.shards:
        index = read_index(folder / "embeddings", shard)
        extra = {key: index[key] for key in ("unit_sha256", "quarantined", "trimmed")}
        arrays = [(item, frames.read(item)) for item in index["ids"]]
        with ShardWriter(folder / "embeddings", shard, np.float16, frames.width, extra) as writer:
            for item, rows in arrays:
                writer.add(item, -rows)
    assert cluster(folder / "embeddings", CLASSES, 42, device, output).card["content_sha256"] != before


def test_a_dry_run_clusters_and_writes_nothing(place, monkeypatch):
    folder, _, words = place
    monkeypatch.setattr(KMeans, "train_on", None)
    assert kmeans_labels.main([*words, "--teacher", "blocks", "--dry-run", "true"]) == 0
    assert not (folder / "tokens").exists()
