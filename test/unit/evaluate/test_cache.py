"""Features computed once, the same however they are batched."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from corpus import TinyEncoder, make_corpus

from spear.audio import save_audio
from spear.errors import CheckpointError, ConfigError, DataError
from spear.evaluate.cache import CacheConfig, FeatureCache, FeatureStore, LiveStore, item_key
from spear.evaluate.isolation import ensure_by_task
from spear.evaluate.suites import read_all_items
from spear.evaluate.upstream import FbankUpstream, SpearUpstream, default_name, load_upstream, upstream_hash
from spear.manifest import Item


@pytest.fixture
def items(data_dir):
    return read_all_items(data_dir)


def test_features_do_not_depend_on_batching_and_cached_equals_live(tmp_path, items, encoder):
    keys = {item_key(item) for item in items}
    caches = []
    for name, seconds in (("together", 80.0), ("alone", 0.01)):
        caches.append(FeatureCache(tmp_path / name, encoder, CacheConfig(batch_seconds=seconds)))
        caches[-1].ensure(items, keys)
    for item in items:
        key = item_key(item)
        batched, alone = (cache.hidden_states(key).float().numpy() for cache in caches)
        assert batched.shape[0] == 3 and batched.shape[1] == caches[0].num_frames(key)
        np.testing.assert_allclose(batched, alone, atol=2**-8)  # neighbours in bfloat16, at most
        means = [cache.means([key])[:, 0].numpy() for cache in caches]
        np.testing.assert_allclose(means[0], means[1], atol=1e-5)
        np.testing.assert_allclose(means[0], batched.mean(axis=1), atol=1e-3)
        assert (batched[0, :, 24:] == 0).all()  # the narrow layer is padded with zeros


def test_a_recording_of_minutes_is_encoded_in_windows(tmp_path, encoder, monkeypatch):
    most, extract = [], encoder.extract
    monkeypatch.setattr(encoder, "extract", lambda x, n: most.append(x.numel()) or extract(x, n))
    waves = 0.1 * np.random.default_rng(0).standard_normal((3, 140 * 16000)).astype(np.float32)
    found = []
    for number, seconds in enumerate((140.0, 140.0, 20.0)):
        path = tmp_path / f"{number}.wav"
        save_audio(path, waves[number, : round(seconds * 16000)], 16000)
        found.append(Item(str(number), path, 0.0, seconds, round(16000 * seconds), "audio", "event"))
    cache = FeatureCache(tmp_path / "cache", encoder, CacheConfig(batch_seconds=1000.0))
    cache.ensure(found, {item_key(item) for item in found})
    assert max(most) <= 71 * 16000
    states, lens_B = extract(torch.from_numpy(waves[:1]), torch.tensor([140 * 16000]))
    key = item_key(found[0])
    assert cache.num_frames(key) == int(lens_B[0]) == 7000
    last_TD = states[-1][0, :-4].numpy()  # the end of the last window is padded, that of the whole is not
    np.testing.assert_allclose(cache.hidden_states(key)[-1, :-4].float().numpy(), last_TD, atol=2**-7)
    np.testing.assert_allclose(cache.means([key])[-1, 0].numpy(), states[-1][0].mean(dim=0).numpy(), atol=1e-3)
    whole = dataclasses.replace(found[2], duration_seconds=0.0)  # only what is known to be long has another key
    assert item_key(found[0]) != item_key(dataclasses.replace(found[0], duration_seconds=0.0))
    assert item_key(found[2]) == item_key(whole)


def test_encoder_runs_once_for_an_utterance_whatever_tasks_ask_for(tmp_path, items, encoder, monkeypatch):
    seen = []
    extract = encoder.extract

    def counting(waves_BS, lengths_B):
        seen.append(len(waves_BS))
        return extract(waves_BS, lengths_B)

    keys = [item_key(item) for item in items]
    monkeypatch.setattr(encoder, "extract", counting)
    FeatureCache(tmp_path, encoder).ensure(items, {keys[0]})
    # One more call measures the frame rate for the byte budget.
    assert sum(seen) == len(items) + 1
    cache = FeatureCache(tmp_path, encoder)
    cache.ensure(items[:20])
    cache.ensure(items, {keys[0]})
    assert sum(seen) == len(items) + 1
    cache.ensure(items, {keys[0], keys[1]})  # frames of one more item; its means stay
    assert sum(seen) == len(items) + 3
    assert FeatureStore(cache.directory).has("frames", keys[1])


def test_a_shard_cut_short_is_written_again(tmp_path, items, encoder):
    config = CacheConfig(shard_items=10)
    cache = FeatureCache(tmp_path, encoder, config)
    cache.ensure(items)
    before = cache.means([item_key(item) for item in items])
    # A kill between rows and index leaves rows without index, which do not count.
    sorted((cache.directory / "means").glob("part-*.json"))[0].unlink()
    again = FeatureCache(tmp_path, encoder, config)
    again.ensure(items)
    assert torch.equal(again.means([item_key(item) for item in items]), before)


def test_other_weights_and_edited_audio_are_other_entries(tmp_path, encoder):
    data = make_corpus(tmp_path / "corpus", per_split=(2, 1, 1))
    item = read_all_items(data)[0]
    other = SpearUpstream(TinyEncoder(seed=1), "tiny", "checkpoint")
    same = SpearUpstream(TinyEncoder(seed=0), "else", "checkpoint")
    assert upstream_hash(other) != upstream_hash(encoder) == upstream_hash(same)
    key = item_key(item)
    item.path.write_bytes(item.path.read_bytes() + b"x")
    assert item_key(item) != key


def test_unreadable_audio_is_listed_with_its_reason(tmp_path, encoder):
    data = make_corpus(tmp_path / "corpus", per_split=(3, 1, 1))
    items = read_all_items(data)
    items[0].path.write_bytes(b"not audio")
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.ensure(items)
    assert list(cache.skipped) == [item_key(items[0])] and items[0].path.name in cache.skipped[item_key(items[0])]
    assert cache.has("means", item_key(items[1]))


def test_byte_budget_is_refused_before_anything_is_computed(tmp_path, items, encoder):
    cache = FeatureCache(tmp_path, encoder, CacheConfig(max_bytes=1000))
    with pytest.raises(ConfigError, match="--cache-gigabytes"):
        cache.ensure(items, {item_key(item) for item in items})
    assert not list(tmp_path.rglob("*.npy"))
    cache.ensure(items)  # means are small and not counted


def counted(upstream, monkeypatch):
    """Rows of every later call of the upstream."""
    seen, extract = [], upstream.extract

    def counting(waves_BS, lengths_B):
        seen.append(len(waves_BS))
        return extract(waves_BS, lengths_B)

    monkeypatch.setattr(upstream, "extract", counting)
    return seen


def test_one_run_of_the_encoder_serves_tasks_on_means_and_on_frames(tmp_path, items, encoder, monkeypatch):
    keyed = {item_key(item): item for item in items}
    some = dict(list(keyed.items())[:20])
    cache = FeatureCache(tmp_path, encoder)
    seen = counted(encoder, monkeypatch)
    assert (
        ensure_by_task(cache, {"means": keyed, "frames": some, "more frames": keyed}, {"frames", "more frames"}) == {}
    )
    assert sum(seen) == len(items) + 1  # and once silence, for the byte budget
    assert all(cache.has("frames", key) and cache.has("means", key) for key in keyed)


def test_a_task_without_room_for_its_frames_leaves_the_others_one_run(tmp_path, items, encoder, monkeypatch):
    keyed = {item_key(item): item for item in items}
    some = dict(list(keyed.items())[:5])
    cache = FeatureCache(tmp_path, encoder, CacheConfig(max_bytes=500_000))
    seen = counted(encoder, monkeypatch)
    failed = ensure_by_task(cache, {"large": keyed, "means": keyed, "small": some}, {"large", "small"})
    assert list(failed) == ["large"] and "--cache-gigabytes" in failed["large"][2]
    assert sum(seen) == len(items) + 1
    assert [cache.has("frames", key) for key in keyed] == [key in some for key in keyed]


def broken_at(encoder, lengths, monkeypatch, value=float("nan"), error=None):
    """The encoder makes no numbers of utterances of these lengths, or fails with an error."""
    extract = encoder.extract

    def breaking(waves_BS, lengths_B):
        states, lens_B = extract(waves_BS, lengths_B)
        for row, length in enumerate(lengths_B.tolist()):
            if length in lengths:
                if error is not None:
                    raise error
                states[1][row, 0, 0] = value
        return states, lens_B

    monkeypatch.setattr(encoder, "extract", breaking)


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory"), DataError("no", "yes", "?")])
@pytest.mark.parametrize("live", [False, True])
def test_an_utterance_without_finite_features_is_listed_and_the_others_go_on(
    tmp_path, items, encoder, monkeypatch, live, error
):
    keyed = {item_key(item): item for item in items}
    bad = list(keyed)[3]
    broken_at(encoder, [keyed[bad].num_samples], monkeypatch, float("inf"), error)
    store = LiveStore(encoder, keyed) if live else FeatureCache(tmp_path, encoder)
    if not live:
        store.ensure(keyed, set(keyed))
        store.ensure(keyed, set(keyed))  # a second run: the bad one is all that is missing
    for kind in ("means", "frames"):
        assert [key for key in keyed if not store.has(kind, key)] == [bad]
    assert list(store.skipped) == [bad]
    assert ("not all finite (from layer 1 on)" in store.skipped[bad]) == (error is None)
    rest = [key for key in keyed if key != bad]
    assert torch.isfinite(store.means(rest)).all()


@pytest.mark.parametrize("live", [False, True])
def test_an_encoder_that_mostly_fails_is_named(tmp_path, items, encoder, monkeypatch, live):
    keyed = {item_key(item): item for item in items[:9]}
    broken_at(encoder, [item.num_samples for item in items[:5]], monkeypatch)
    with pytest.raises(DataError, match="5 of 9 utterances failed with tiny .*not all finite"):
        if live:
            store = LiveStore(encoder, keyed)
            [store.has("means", key) for key in keyed]
        else:
            FeatureCache(tmp_path, encoder).ensure(keyed)


def test_live_features_are_those_of_the_cache_and_has_runs_the_encoder_once(tmp_path, items, encoder, monkeypatch):
    keyed = {item_key(item): item for item in items[:4]}
    cache = FeatureCache(tmp_path, encoder, CacheConfig(batch_seconds=0.01))
    cache.ensure(keyed, set(keyed))
    seen = counted(encoder, monkeypatch)
    live = LiveStore(encoder, keyed)
    assert all(live.has("means", key) for key in keyed) and all(live.has("frames", key) for key in keyed)
    assert torch.equal(live.means(list(keyed)), cache.means(list(keyed)))
    assert [live.num_frames(key) for key in keyed] == [cache.num_frames(key) for key in keyed]
    assert sum(seen) == len(keyed) and live.frame_rate_hz == cache.frame_rate_hz == 50
    assert all(torch.equal(live.hidden_states(key), cache.hidden_states(key)) for key in keyed)


def test_stores_know_the_frame_rate_by_the_stride(tmp_path, items):
    cache = FeatureCache(tmp_path, FbankUpstream())
    cache.ensure(items[:1])
    assert FeatureStore(cache.directory).frame_rate_hz == 100


def test_one_sample_has_one_frame(tmp_path, encoder):
    for upstream in (encoder, FbankUpstream()):
        states, lens_B = upstream.extract(torch.zeros(1, 5120), torch.tensor([1600]))
        assert int(lens_B[0]) >= 1 and all(torch.isfinite(state).all() for state in states)


def test_fbank_has_one_layer_at_100_hz():
    upstream = load_upstream("floor=fbank")
    states, lens_B = upstream.extract(torch.zeros(2, 16000), torch.tensor([16000, 8000]))
    assert (upstream.name, upstream.num_layers) == ("floor", 1)
    assert states[0].shape == (2, 100, 128) and lens_B.tolist() == [100, 50]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("fbank", "fbank"),
        ("random@3:/a/b", "random@3"),
        ("random:/a/b", "random"),
        ("exp/student/final", "student"),
        ("exp/student/checkpoint-800", "student"),
        ("/models/spear base/model.safetensors", "model.safetensors"),
    ],
)
def test_names_of_upstreams(spec, name):
    assert default_name(spec) == name


def test_a_missing_checkpoint_is_named():
    with pytest.raises(CheckpointError, match="no checkpoint at .*nowhere"):
        load_upstream("random:nowhere")


def test_cache_directory_says_what_it_is(tmp_path, items, encoder):
    cache = FeatureCache(tmp_path, encoder)
    cache.ensure(items[:2])
    assert json.loads((cache.directory / "upstream.json").read_text()) == encoder.fingerprint()


def test_random_encoders_have_the_architecture_and_come_from_their_seed(tmp_path):
    from spear import SpearConfig, SpearModel
    from spear.models.loading import save_model

    sizes = {"encoder_dim": "32", "encoder_unmasked_dim": "32", "feedforward_dim": "32", "num_heads": "1"}
    config = SpearConfig(num_encoder_layers="1,1,1,1,1,1,1", **sizes)
    save_model(SpearModel(config), tmp_path / "run" / "final")
    path = tmp_path / "run"
    trained = load_upstream(str(path))
    twins = [load_upstream(f"random:{path}"), load_upstream(f"random@0:{path}"), load_upstream(f"random@1:{path}")]
    assert (trained.name, trained.kind) == ("run", "checkpoint")
    assert [t.kind for t in twins] == ["random"] * 3 and {t.num_layers for t in twins} == {trained.num_layers}
    hashes = [upstream_hash(t) for t in [trained, *twins]]
    assert hashes[1] == hashes[2] and len(set(hashes)) == 3
    states, lens_B = trained.extract(torch.randn(2, 16000), torch.tensor([16000, 1600]))
    assert len(states) == 8 and lens_B.tolist() == [46, 1]
