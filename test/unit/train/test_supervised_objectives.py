"""Tagging, classification and verification: what they learn from, say and refuse; augmentation; which steps count."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spear.errors import CardError, ConfigError
from spear.evaluate.average_precision import macro_average_precision
from spear.train import checkpoint
from spear.train.objectives import load, registry
from spear.train.objectives.base import Context

STREAMS = {
    "tags": {"objective": "tagging"},
    "kind": {"objective": "classification", "pooling": "attentive", "layers": "weighted"},
    "who": {"objective": "verification", "channels": 16, "embedding_dim": 8},
}
for settings in STREAMS.values():
    settings["domain_weights"] = {"speech": 1.0}
TAGS = ["hum", "hum,hiss", "hiss", "hum", "rare"]


@pytest.fixture(scope="module")
def labelled(data_dir) -> str:
    """A manifest of the same recordings with tags, classes and speakers; one tag is on few cuts."""
    rows = []
    for number, line in enumerate((data_dir / "manifests" / "cuts.jsonl").read_text().splitlines()):
        row = json.loads(line)
        said = {"id": row["id"], "recording_id": row["id"], "start": 0, "duration": row["duration"], "channel": 0}
        row["supervisions"] = [{**said, "speaker": f"speaker{number % 3}"}]
        tags = TAGS[4] if number == 7 else TAGS[number % 4]
        row["custom"] = {"kind": "speech", "labels": {"labels": tags, "class": f"class{number % 2}"}}
        rows.append(json.dumps(row))
    (data_dir / "manifests" / "labelled.jsonl").write_text("\n".join(rows) + "\n")
    return "manifests/labelled.jsonl"


@pytest.fixture
def fine_tuning(make_trainer, labelled):
    """Returns a function that makes a trainer of some of the streams."""

    def make(*names: str, **changes):
        changes.setdefault("sources", [{"name": "noise", "cuts": labelled, "domain": "speech"}])
        changes.setdefault("mixing", {"probability": 0.0, "audio_noise_probability": 0.0})
        return make_trainer(streams={name: STREAMS[name] for name in names or STREAMS}, **changes)

    return make


def rows(exp_dir, prefix: str = "") -> list[dict]:
    found = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if any(key.startswith(prefix) for key in row)]


def test_a_run_of_all_three_learns_and_says_what_it_is_worth(fine_tuning, tmp_path, caplog):
    trainer = fine_tuning(freeze_encoder_steps=1)
    assert trainer.mask.time_probability == 0 and trainer.mask.channel_probability == 0
    with caplog.at_level(logging.INFO):
        final = trainer.run()
    last = rows(tmp_path / "exp", "valid/")[-1]
    clips = len(trainer.data.valid.cuts)
    assert last["valid/clips/tags"] == clips and 0 <= last["valid/map/tags"] <= 1
    assert last["valid/trials/who"] == clips * (clips - 1) / 2 and 0 <= last["valid/eer/who"] <= 1
    assert 0 <= last["valid/accuracy/kind/unmasked"] <= 1 and "valid/map/tags" in caplog.text
    meta = checkpoint.verify(final)
    vocabulary = json.loads((tmp_path / "exp" / "vocabulary.tags.json").read_text())
    assert vocabulary["units"] == ["hiss", "hum", "rare"]
    assert meta["cards"]["tags"]["vocabulary"]["size"] == 3 and meta["cards"]["who"]["vocabulary"]["size"] == 3
    said = decoded(trainer)
    assert sorted(said["tags"][0]) == ["hiss", "hum", "rare"] and list(said["kind"][0].values())[0] >= 0.5
    assert sum(said["kind"][0].values()) == pytest.approx(1) and float(said["who"][0].norm()) == pytest.approx(1)


def decoded(trainer) -> dict:
    """What every head says about the cuts of the validation."""
    trainer.model.eval()
    features_BTF, lens_B, *_ = trainer.probe_inputs()
    with torch.no_grad():
        encoded = trainer.model.encode_masked(features_BTF, lens_B)
        return {name: each.decode(trainer.model.heads[name], encoded) for name, each in trainer.objectives.items()}


AUGMENTED = {
    "mixing": {"probability": 0.0, "audio_noise_probability": 0.0, "mixup_probability": 0.7},
    "spec_augment": {"probability": 0.9, "time_warp_frames": 10},
    "sampling": {"stream": "tags", "cuts_per_epoch": 20},
    "average_by": "valid/map/tags",
    "average_best": 1,
    "keep_checkpoints": 1,
    "valid_every_steps": 1,
    "freeze_encoder_steps": 1,
}


def test_an_augmented_run_resumes_bit_for_bit_and_averages_the_best_steps(fine_tuning, tmp_path):
    fine_tuning("tags", **AUGMENTED, exp_dir=str(tmp_path / "whole")).run()
    for steps in (1, 3, 4):
        fine_tuning("tags", **AUGMENTED, exp_dir=str(tmp_path / "parts"), num_steps=steps).run()
    whole, parts = (
        checkpoint.read_tensors(checkpoint.directory_of(tmp_path / run, 4), "model") for run in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    values = {row["step"]: row["valid/map/tags"] for row in rows(tmp_path / "whole", "valid/")}
    best = max(values, key=lambda step: (values[step], step))
    meta = checkpoint.verify(tmp_path / "whole" / "final")
    assert meta["averaged"] == {"by": "valid/map/tags", "steps": {str(best): values[best]}}
    assert set(checkpoint.steps(tmp_path / "whole")) <= {best, 2, 4}
    final, kept = (
        checkpoint.read_tensors(path, "model")
        for path in (tmp_path / "whole" / "final", checkpoint.directory_of(tmp_path / "whole", best))
    )
    assert all(torch.equal(final[name], kept[name]) for name in final)


def test_loss_falls_and_a_number_that_validation_lacks_is_refused(fine_tuning):
    trainer = fine_tuning("kind", average_by="valid/loss/kind/unmasked", average_best=2, valid_every_steps=1)
    final = trainer.run()
    values = {row["step"]: row["valid/loss/kind/unmasked"] for row in rows(final.parent, "valid/")}
    expected = sorted(values, key=values.get)[:2]
    assert sorted(map(int, checkpoint.verify(final)["averaged"]["steps"])) == sorted(expected)
    parts = [checkpoint.read_tensors(checkpoint.directory_of(final.parent, step), "model") for step in expected]
    mean = {name: (parts[0][name].double() + parts[1][name].double()) / 2 for name in parts[0]}
    found = checkpoint.read_tensors(final, "model")
    assert all(torch.equal(found[name], mean[name].float()) for name in mean)
    with pytest.raises(ConfigError, match="valid/accuracy/kind/unmasked"):
        fine_tuning("kind", average_by="valid/map/kind").run()


def test_mixup_adds_waves_and_tags_in_the_same_proportion(fine_tuning):
    mixing = {"probability": 0.0, "audio_noise_probability": 0.0, "mixup_probability": 1.0, "mixup_alpha": 10.0}
    data = fine_tuning("tags", mixing=mixing).data.train
    plain = fine_tuning("tags").data.train
    plan = data.plan(0)
    mixed, alone = data.batch(plan, 0, 0, 0), plain.batch(plan, 0, 0, 0)
    assert mixed.ids == alone.ids and set(mixed.mix_kinds) == {"mixup"}
    assert torch.equal(mixed.feature_lens_B, alone.feature_lens_B)
    own, found = alone.targets["tags"][:, 0].float(), mixed.targets["tags"][:, 0]
    assert found.dtype == torch.float32
    shares = []
    for row in range(len(own)):
        fits = {}
        for other in range(len(own)):
            differs = own[row] != own[other]
            if other != row and differs.any():
                share = (found[row] - own[other])[differs] / (own[row] - own[other])[differs]
                if torch.allclose(share, share[:1].expand_as(share), atol=1e-6) and 0 < share[0] < 1:
                    fits[other] = float(share[0])
        same = torch.equal(found[row], own[row])  # the partner has the same tags
        assert fits or same
        shares += list(fits.values())[:1]
    assert 0.1 < min(shares) and max(shares) < 0.9
    again = data.batch(plan, 0, 0, 0)
    assert torch.equal(again.features_BTF, mixed.features_BTF)
    with pytest.raises(ConfigError, match="stream kind, who"):
        fine_tuning("kind", "who", mixing=mixing)


def test_cuts_are_heard_in_rooms_at_their_own_level(fine_tuning, labelled, data_dir):
    mixing = {"probability": 0.0, "audio_noise_probability": 0.0, "reverb_probability": 1.0}
    mixing["impulse_responses"] = ["manifests/cuts.jsonl"]  # any sound will do
    data, plain = fine_tuning("kind", mixing=mixing).data.train, fine_tuning("kind").data.train
    plan = data.plan(0)
    wet, dry = data.batch(plan, 0, 0, 0), plain.batch(plan, 0, 0, 0)
    assert wet.ids == dry.ids and torch.equal(wet.feature_lens_B, dry.feature_lens_B)
    assert not torch.equal(wet.features_BTF, dry.features_BTF)
    assert torch.equal(data.batch(plan, 0, 0, 0).features_BTF, wet.features_BTF)
    assert torch.equal(wet.targets["kind"], dry.targets["kind"])


def test_rare_tags_come_more_often_and_the_plan_holds_it(fine_tuning, caplog):
    with caplog.at_level(logging.INFO):
        data = fine_tuning("tags", sampling={"stream": "tags", "cuts_per_epoch": 500}).data.train
    counts = np.zeros(3)
    for index in data.plan(0).items:
        counts[data.streams[0].numbers(data.cuts[int(index)].id)] += 1
    assert sum(len(data.plan(epoch).items) for epoch in range(4)) == pytest.approx(2000, abs=40)
    assert counts[2] == pytest.approx(500 / 3, abs=3)  # one cut of twenty-odd
    assert "sampling by tags: 500 of" in caplog.text and "labels that 1 to" in caplog.text
    with pytest.raises(ConfigError, match="a stream of labels.*kind"):
        fine_tuning("kind", sampling={"stream": "tags"})


def test_a_checkpoint_of_another_vocabulary_is_refused(fine_tuning, labelled, data_dir):
    fine_tuning("tags", num_steps=2).run()
    path = data_dir / "manifests" / "labelled.jsonl"
    text = path.read_text()
    other = text.replace("hiss", "buzz")
    (data_dir / "manifests" / "others.jsonl").write_text(other)
    try:
        path.write_text(other)
        with pytest.raises(CardError, match="vocabulary"):
            fine_tuning("tags", num_steps=4).run()
    finally:
        path.write_text(text)


def test_one_class_and_sources_that_are_held_out(fine_tuning, labelled):
    stream = SimpleNamespace(vocabulary=SimpleNamespace(size=1, units=["dog"]))
    settings = registry.settings_classes()["classification"]()
    with pytest.raises(ConfigError, match="dog"):
        load("classification")(Context("kind", settings, 50.0, stream=stream))
    sources = [
        {"name": "noise", "cuts": "manifests/labelled.jsonl", "domain": "speech"},
        {"name": "dev", "cuts": "manifests/held.jsonl", "domain": "speech", "held_out": True},
    ]
    folder = fine_tuning("tags").config.data_dir
    lines = open(f"{folder}/{labelled}").read().splitlines()[:3]
    renamed = [line.replace('"id": "noise', '"id": "held') for line in lines]
    renamed[0] = renamed[0].replace('"labels": "hum"', '"labels": "only here"')
    with open(f"{folder}/manifests/held.jsonl", "w") as handle:
        handle.write("\n".join(renamed) + "\n")
    trainer = fine_tuning("tags", sources=sources, valid_fraction=0.0)
    [stream] = trainer.data.train.streams
    assert [row["id"] for row in stream.refused] == ["held0"] and "only here" in stream.refused[0]["reason"]
    assert [trainer.data.valid.cuts[n].id for n in range(2)] == ["held1", "held2"]
    assert len(trainer.data.train.cuts) == 30


def test_speakers_who_are_not_trained_on_decide_the_equal_error_rate(fine_tuning, labelled, tmp_path):
    lines = open(f"{fine_tuning('who').config.data_dir}/{labelled}").read().splitlines()[:6]
    lines = [
        line.replace('"id": "noise', '"id": "held').replace('"speaker": "speaker', '"speaker": "new') for line in lines
    ]
    with open(f"{fine_tuning('who').config.data_dir}/manifests/strangers.jsonl", "w") as handle:
        handle.write("\n".join(lines) + "\n")
    sources = [
        {"name": "noise", "cuts": "manifests/labelled.jsonl", "domain": "speech"},
        {"name": "dev", "cuts": "manifests/strangers.jsonl", "domain": "speech", "held_out": True},
    ]
    trainer = fine_tuning("who", sources=sources, valid_fraction=0.0, average_by="valid/eer/who", average_best=1)
    trainer.run()
    last = rows(tmp_path / "exp", "valid/")[-1]
    assert last["valid/trials/who"] == 15 and 0 <= last["valid/eer/who"] <= 1  # all pairs of six cuts
    assert "valid/loss/who/unmasked" not in last  # nothing has been learnt of whom they could be


def test_the_equal_error_rate_is_of_strangers_where_they_have_pairs_of_both_kinds():
    judge = load("verification").judge
    vectors = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0], [0, 1], [1, 0.1], [0.1, 1], [1, 0], [1, 0.2]]), dim=1
    )
    objective = SimpleNamespace(vocabulary=SimpleNamespace(size=2))
    # Trained speakers are told apart wrongly, strangers rightly.
    assert judge(objective, [(vectors, torch.tensor([0, 0, 1, 0, 1, 1]))])["trials"] == 15
    assert judge(objective, [(vectors, torch.tensor([0, 0, 2, 3, 2, 2]))]) == {"eer": 0.0, "trials": 6.0}
    assert judge(objective, [(vectors, torch.tensor([0, 0, 1, 0, 2, 3]))])["trials"] == 15


def test_average_precision_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for ties in (1000, 4):
        scores, relevant = rng.integers(0, ties, 60) / ties, rng.random(60) < 0.3
        expected = metrics.average_precision_score(relevant, scores)
        assert macro_average_precision(scores[:, None], relevant[:, None].astype(float)) == pytest.approx(expected)
    scores, targets = rng.random((60, 4)), (rng.random((60, 4)) < 0.3).astype(float)
    targets[:, 3] = 0  # nobody has it: it does not count
    targets[:10, 0] = -100
    expected = [
        metrics.average_precision_score(targets[known, tag], scores[known, tag])
        for tag, known in ((0, slice(10, 60)), (1, slice(60)), (2, slice(60)))
    ]
    assert macro_average_precision(scores, targets) == pytest.approx(np.mean(expected))
    assert macro_average_precision(scores[:, 3:], targets[:, 3:]) is None
