"""Batches from real files: shapes, exactness, failures, timing."""

import dataclasses
import logging
import os
import shutil
import time

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as DataLoaderIterator

from spear.audio import LOG_FLOOR, Fbank, FbankConfig, load_audio
from spear.data import (
    CutTable,
    MixingConfig,
    PlanLimits,
    PretrainDataset,
    SourceConfig,
    load_sources,
    make_loader,
    make_validation_loader,
)
from spear.data.cuts import Columns
from spear.errors import CardError
from spear.fs import write_json
from spear.manifest import Item as ManifestItem
from spear.shards import ShardWriter

ALWAYS = MixingConfig(probability=1.0, noise_probability=0.3, audio_noise_probability=1.0)
LIMITS = PlanLimits(max_seconds=24, max_cuts=10)


@pytest.fixture(scope="module")
def streams(corpus, write_stream, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokens")
    return [
        write_stream(directory, corpus, mix_tokens=True, constant=True),
        write_stream(directory, corpus, "audio", 25.0, 2, domains=("audio",)),
    ]


def make(corpus, streams=(), mixing=None, **options):
    sources = load_sources([SourceConfig("all", "")], list(streams), items={"all": corpus})
    noises = options.pop("noises", CutTable([item for item in corpus if item.domain == "audio"]))
    limits = options.pop("limits", LIMITS)
    return PretrainDataset(sources, seed=3, limits=limits, mixing=mixing, noises=noises, **options)


def equal(first, second):
    """Whether two batches hold the same, bit for bit."""
    return (
        first.ids == second.ids
        and first.mix_kinds == second.mix_kinds
        and torch.equal(first.features_BTF, second.features_BTF)
        and torch.equal(first.feature_lens_B, second.feature_lens_B)
        and first.targets.keys() == second.targets.keys()
        and all(torch.equal(first.targets[name], second.targets[name]) for name in first.targets)
    )


def test_plain_batches_hold_the_features_and_tokens_of_their_cuts(corpus, waves, streams):
    dataset, fbank = make(corpus, streams), Fbank()
    items, seen = {item.id: item for item in corpus}, []
    for batch in make_loader(dataset, 0):
        seen += batch.ids
        size = len(batch.ids)
        assert batch.mix_kinds == ["none"] * size and batch.features_BTF.shape[0] == size
        assert batch.padded_seconds <= LIMITS.max_seconds + 1e-6 and batch.audio_seconds <= batch.padded_seconds
        assert batch.targets["speech"].dtype == torch.int64 and batch.targets["speech"].shape[2] == 4
        for row, item_id in enumerate(batch.ids):
            alone, length = fbank(torch.from_numpy(waves[item_id])[None])
            assert batch.feature_lens_B[row] == length
            assert torch.allclose(batch.features_BTF[row, :length], alone[0], atol=1e-4)
            assert (batch.features_BTF[row, length:] == LOG_FLOOR).all()
            item = items[item_id]
            frames = int(round(item.duration_seconds * 16000) * 50 / 16000)
            assert (batch.targets["speech"][row, : frames - 1] == corpus.index(item)).all()
            assert (batch.targets["speech"][row, frames:] == -100).all()
            assert (batch.targets["audio"][row] >= 0).any().item() == (item.domain == "audio")
            assert batch.domains[row] == item.domain
        assert set(batch.seconds) == {"read", "mix", "features", "collate"} and batch.seconds["read"] > 0
    assert sorted(seen) == sorted(items)


def test_cuts_at_another_speed_are_heard_at_it(corpus):
    original = corpus[0]
    seconds = original.duration_seconds / 1.25
    faster = ManifestItem("faster", original.path, 0.0, seconds, round(seconds * 16000), "speech", "speech", speed=1.25)
    (batch,) = make_loader(make([faster]), 0)
    wave = torch.from_numpy(load_audio(original.path, 16000, 0.0, seconds, speed=1.25))
    alone, length = Fbank()(wave[None, : faster.num_samples])
    assert batch.feature_lens_B.tolist() == length.tolist()
    assert torch.allclose(batch.features_BTF[0, : int(length)], alone[0], atol=1e-4)


def test_copies_at_another_speed_are_held_out_with_their_original(corpus):
    copies = [dataclasses.replace(item, id=f"{item.id}_sp0.9") for item in corpus]
    changed = [ManifestItem(c.id, c.path, 0.0, 1.0, 16000, c.domain, "speech", speed=0.9) for c in copies]
    originals = Columns(corpus).draw
    assert np.array_equal(Columns(changed).draw, originals)
    assert not np.array_equal(Columns(copies).draw, originals)  # a name that only looks so


def test_mixed_batches_keep_limits_and_mix_the_right_targets(corpus, streams):
    dataset = make(corpus, streams, ALWAYS)
    kinds = set()
    index = {item.id: number for number, item in enumerate(corpus)}
    for batch in make_loader(dataset, 1):
        assert batch.padded_seconds <= LIMITS.max_seconds + 1e-6
        assert batch.features_BTF.isfinite().all()
        for row, (item_id, kind, domain) in enumerate(zip(batch.ids, batch.mix_kinds, batch.domains)):
            if not (kind == "none" and batch.domains.count("speech") == 1):  # nobody to mix with
                kinds.add((domain, kind))
            speech = batch.targets["speech"][row]
            codes = set(speech[speech >= 0].tolist())
            own, length = index[item_id], int(batch.feature_lens_B[row])
            if kind == "speech":
                others = codes - {own}
                assert len(others) == 1 and corpus[others.pop()].domain == "speech"
            else:
                assert codes == {own}
                assert length == FbankConfig().num_frames(round(corpus[own].duration_seconds * 16000))
            assert (speech[int(length * 0.5) + 1 :] == -100).all()
            # Streams that are not mixed: the cut's own length, whatever was mixed in.
            rows = int(corpus[own].duration_seconds * 25)
            assert (batch.targets["audio"][row, rows:] == -100).all()
            assert (batch.targets["audio"][row] >= 0).any().item() == (domain == "audio")
    assert kinds == {("speech", "noise"), ("speech", "speech"), ("audio", "noise")}


def test_without_token_mixing_targets_and_lengths_stay(corpus, streams):
    mixing = dataclasses.replace(ALWAYS, token_mixing=False, noise_probability=0.0)
    plain = {}
    for batch in make_loader(make(corpus, streams), 0):
        for row, item_id in enumerate(batch.ids):
            plain[item_id] = (batch.feature_lens_B[row], batch.features_BTF[row], batch.targets["speech"][row])
    for batch in make_loader(make(corpus, streams, mixing), 0):
        for row, item_id in enumerate(batch.ids):
            length, features, targets = plain[item_id]
            rows = int(length) // 2
            assert batch.feature_lens_B[row] == length
            assert torch.equal(batch.targets["speech"][row, :rows], targets[:rows])
            if batch.mix_kinds[row] == "speech":
                assert not torch.allclose(batch.features_BTF[row, :length], features[:length], atol=0.1)


def test_workers_and_resuming_change_nothing(corpus, streams):
    dataset = make(corpus, streams, ALWAYS)
    alone = list(make_loader(dataset, 2))
    random_state = torch.get_rng_state()
    with_workers = list(make_loader(dataset, 2, num_workers=2))
    assert torch.equal(random_state, torch.get_rng_state())
    assert len(alone) == len(with_workers) > 5
    assert all(equal(a, b) for a, b in zip(alone, with_workers))
    resumed = list(make_loader(dataset, 2, start_step=3, num_workers=1))
    assert len(resumed) == len(alone) - 3 and all(equal(a, b) for a, b in zip(alone[3:], resumed))
    again = list(make_loader(make(corpus, streams, ALWAYS), 2))
    assert all(equal(a, b) for a, b in zip(alone, again))


@pytest.mark.parametrize("broken", [ConnectionResetError(104, "reset"), EOFError(), FileNotFoundError(2, "no socket")])
def test_a_worker_that_dies_while_it_hands_over_a_batch_is_replaced(corpus, streams, monkeypatch, caplog, broken):
    dataset = make(corpus, streams, ALWAYS)
    expected = list(make_loader(dataset, 2))
    receive, calls = DataLoaderIterator._try_get_data, []

    def once_broken(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise broken
        return receive(self, *arguments)

    monkeypatch.setattr(DataLoaderIterator, "_try_get_data", once_broken)
    with caplog.at_level(logging.WARNING):
        found = list(make_loader(dataset, 2, num_workers=1))
    assert "a loader worker died" in caplog.text
    assert len(found) == len(expected)
    assert all(equal(first, second) for first, second in zip(found, expected))


def test_ranks_share_the_batches_of_one_process(corpus, streams):
    dataset = make(corpus, streams, ALWAYS)
    one = list(make_loader(dataset, 0, accumulation=2))
    ranks = [list(make_loader(dataset, 0, rank=rank, world_size=2)) for rank in range(2)]
    assert len(one) == 2 * len(ranks[0]) == 2 * len(ranks[1])
    for number, batch in enumerate(one):
        assert equal(batch, ranks[number % 2][number // 2])


def test_thread_count_changes_nothing(corpus):
    dataset = make(corpus, mixing=ALWAYS)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(next(iter(make_loader(dataset, 0))))
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert equal(*results)


def test_unreadable_files_are_skipped_and_named(corpus, streams, tmp_path, caplog):
    items = [dataclasses.replace(item, path=shutil.copy(item.path, tmp_path)) for item in corpus]
    dataset = make(items, streams, ALWAYS)
    os.unlink(items[4].path)
    with open(items[40].path, "wb") as handle:
        handle.write(b"no audio")
    loader = make_loader(dataset, 0, num_workers=1)
    with caplog.at_level(logging.WARNING):
        batches = list(loader)
    seen = [item_id for batch in batches for item_id in batch.ids]
    assert sorted(seen) == sorted(item.id for item in items if item not in (items[4], items[40]))
    assert loader.skipped.keys() == {items[4].id, items[40].id}
    assert f"skipped {items[4].id}: no file" in caplog.text and f"skipped {items[40].id}" in caplog.text
    # What is drawn for the others does not depend on the failure.
    whole = {i: k for b in make_loader(make(corpus, streams, ALWAYS), 0) for i, k in zip(b.ids, b.mix_kinds)}
    found = {i: k for b in batches for i, k in zip(b.ids, b.mix_kinds)}
    assert all(kind in (whole[item_id], "none") for item_id, kind in found.items())


def test_a_batch_of_which_nothing_is_readable_is_still_a_batch(corpus, streams):
    items = [dataclasses.replace(item, path=item.path.with_name("absent.wav")) for item in corpus]
    batch = next(iter(make_loader(make(items, streams, ALWAYS), 0)))
    assert batch.ids == [""] and len(batch.skipped) > 1
    assert batch.features_BTF.shape == (1, 100, 128) and batch.features_BTF.isfinite().all()
    assert (batch.targets["speech"] == -100).all() and batch.targets["audio"].shape == (1, 25, 2)


def test_audio_that_is_trained_on_is_no_noise_by_itself(corpus):
    """In a corpus of sounds people speak and sing: noise comes from lists of its own, or there is none."""
    batches = list(make_loader(make(corpus, (), ALWAYS, noises=None), 0))
    assert {kind for batch in batches for kind in batch.mix_kinds} == {"none", "speech"}


def test_no_streams_and_no_noise_are_allowed(corpus):
    speech = [item for item in corpus if item.domain == "speech"]
    batch = next(iter(make_loader(make(speech, (), MixingConfig(probability=1.0)), 0)))
    assert batch.targets == {} and set(batch.mix_kinds) <= {"none", "speech"}


def test_stored_features_replace_reading(corpus, waves, streams, tmp_path):
    fbank = Fbank()
    with ShardWriter(tmp_path / "fbank", "part-0", np.float32, 128) as writer:
        for item in corpus[1:]:
            writer.add(item.id, fbank(torch.from_numpy(waves[item.id])[None])[0][0].numpy())
    write_json(tmp_path / "fbank" / "card.json", {"fbank_sha256": FbankConfig().definition_hash()})
    some = dataclasses.replace(ALWAYS, probability=0.5, audio_noise_probability=0.0)
    read = list(make_loader(make(corpus, streams, some), 0))
    stored = list(make_loader(make(corpus, streams, some, features=tmp_path / "fbank"), 0))
    for first, second in zip(read, stored):
        assert first.mix_kinds == second.mix_kinds and first.ids == second.ids
        assert torch.allclose(first.features_BTF, second.features_BTF, atol=1e-4)
    # Without mixing no audio is touched at all.
    absent = [corpus[0]] + [dataclasses.replace(item, path=item.path.with_name("absent.wav")) for item in corpus[1:]]
    loader = make_loader(make(absent, streams, features=tmp_path / "fbank"), 0)
    assert sum(len(batch.ids) for batch in loader) == len(corpus) and not loader.skipped
    write_json(tmp_path / "fbank" / "card.json", {"fbank_sha256": "other"})
    with pytest.raises(CardError, match="other"):
        make(corpus, streams, features=tmp_path / "fbank")


def test_validation_is_the_same_every_time(corpus, streams):
    dataset = make(corpus, streams, ALWAYS)
    first, second = (list(make_validation_loader(dataset)) for _ in range(2))
    assert all(equal(a, b) for a, b in zip(first, second))
    assert sorted(i for b in first for i in b.ids) == sorted(item.id for item in corpus)
    assert {kind for b in first for kind in b.mix_kinds} == {"none"}


def test_plans_are_stored_reused_and_rebuilt(corpus, tmp_path):
    dataset = make(corpus, plan_dir=tmp_path)
    plan = dataset.plan(0)
    stamp = (tmp_path / "epoch-0000" / "plan.json").stat().st_mtime_ns
    assert dataset.plan(0).hash == plan.hash
    assert dataset.plan(0, world_size=2).num_steps <= plan.num_steps
    assert (tmp_path / "epoch-0000" / "plan.json").stat().st_mtime_ns >= stamp
    (tmp_path / "epoch-0000" / "items.npy").write_bytes(b"")
    assert dataset.plan(0, world_size=2).num_batches % 2 == 0
    other = make(corpus, plan_dir=tmp_path, limits=PlanLimits(max_seconds=10))
    assert other.plan(0).hash == make(corpus, limits=PlanLimits(max_seconds=10)).plan(0).hash


def test_slow_reading_is_named(corpus, monkeypatch):
    from spear.data import dataset as module

    def slow(*args, **kwargs):
        time.sleep(0.05)
        return module_load(*args, **kwargs)

    module_load = module.load_audio
    monkeypatch.setattr(module, "load_audio", slow)
    loader = make_loader(make(corpus[:12]), 0)
    list(loader)
    assert loader.seconds.most_common(1)[0][0] == "read"


def test_batches_move_to_a_device(corpus, streams):
    batch = next(iter(make_loader(make(corpus, streams), 0)))
    moved = batch.to("meta")
    assert moved.features_BTF.device.type == "meta" and moved.targets["speech"].device.type == "meta"
    assert moved.ids == batch.ids and batch.features_BTF.device.type == "cpu"


def test_open_files_do_not_grow(corpus, streams):
    dataset = make(corpus, streams, ALWAYS)
    counts = []
    for epoch in range(6):
        for _ in make_loader(dataset, epoch, num_workers=1):
            pass
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] <= counts[1] + 2
