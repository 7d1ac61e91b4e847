"""Targets of `features`: those of the store, or of the teacher that hears the same cut; their costs and warnings."""

import numpy as np
import pytest
import torch
from tiny import SIZES

from spear import SpearConfig, SpearModel, save_model, seal
from spear.audio import load_audio
from spear.config import from_dict
from spear.errors import CardError, ConfigError
from spear.shards import ShardWriter
from spear.teachers import load_teacher
from spear.teachers.align import expected_frames
from spear.tokens.features import FORMAT
from spear.train.config import TrainConfig
from spear.train.objectives.features import FeatureSettings


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory):
    torch.manual_seed(3)
    return save_model(SpearModel(SpearConfig(**SIZES)), tmp_path_factory.mktemp("teacher"))


def streams(**settings) -> dict:
    return {"frames": {"objective": "features", "domain_weights": {"speech": 1.0}, **settings}}


def first_batch(trainer):
    plan = trainer.data.train.plan(0, 1, 1)
    return trainer.data.train.batch(plan, 0, 0, 0)


def test_a_teacher_on_the_fly_gives_what_it_gives_alone_whatever_is_mixed_in(make_trainer, teacher_dir, monkeypatch):
    specs = [f"spear:{teacher_dir}@1,frame_rate_hz=25", f"spear:{teacher_dir}@-1,frame_rate_hz=25"]
    mixing = {"probability": 1.0, "noise_probability": 0.0, "speech_snr_db": [0, 0]}
    trainer = make_trainer(streams=streams(teachers=specs), mixing=mixing)
    batch = first_batch(trainer)
    assert "speech" in batch.mix_kinds
    passes, encode = [], SpearModel.encode
    monkeypatch.setattr(SpearModel, "encode", lambda *args, **rest: passes.append(1) or encode(*args, **rest))
    targets_BTW = trainer.objectives["frames"].targets(batch, trainer.model.output_lengths(batch.feature_lens_B))
    assert len(passes) == 1  # both layers
    paths = {cut.id: cut for cut in (trainer.data.train.cuts[n] for n in range(len(trainer.data.train.cuts)))}
    for row, name in enumerate(batch.ids):
        wave = torch.from_numpy(load_audio(paths[name].path))[None]
        for start, spec in zip((0, 32), specs):
            expected_BTD, lens_B = load_teacher(spec).embed(wave, torch.tensor([wave.shape[1]]))
            found_TD = targets_BTW[row, :, start : start + 32]
            count = int(lens_B[0])
            torch.testing.assert_close(found_TD[:count], expected_BTD[0, :count], rtol=1e-3, atol=1e-4)
            assert found_TD[count:].isnan().all()


@pytest.fixture
def stored(data_dir, teacher_dir, tmp_path):
    """Returns a function that writes frames of all cuts of a rate, and gives its directory."""

    def write(name: str, rate_hz: int = 50, width: int = 32, ids=range(30)):
        teacher = load_teacher(f"spear:{teacher_dir}@1,frame_rate_hz={rate_hz}").fingerprint()
        with ShardWriter(tmp_path / name, "part", np.float16, width) as writer:
            for number in ids:
                samples = len(load_audio(data_dir / f"noise{number}.wav"))
                frames = np.full((expected_frames(samples, teacher), width), number, dtype=np.float16)
                writer.add(f"noise{number}", frames + np.arange(width, dtype=np.float16) / 64)
        seal.write_json(tmp_path / name / "card.json", {"format": FORMAT, "teacher": teacher})
        return str(tmp_path / name)

    return write


def test_stored_frames_come_back_and_cuts_without_any_are_left_out(make_trainer, stored):
    trainer = make_trainer(streams=streams(features=[stored("a"), stored("b", ids=range(3, 30))]), valid_fraction=0.0)
    assert len(trainer.data.train.cuts) == 27
    assert trainer.data.summary["noise"]["dropped"]["no features of frames"]["num_cuts"] == 3
    batch = first_batch(trainer)
    targets_BTW = trainer.objectives["frames"].targets(batch, trainer.model.output_lengths(batch.feature_lens_B))
    assert targets_BTW.shape[2] == 64 and targets_BTW.dtype == torch.float32
    for row, name in zip(targets_BTW, batch.ids):
        inside = ~row[:, 0].isnan()
        assert (row[inside][:, [0, 32]] == int(name.removeprefix("noise"))).all() and inside.any()
    [line] = trainer.objectives["frames"].costs(10.0)
    assert "of stored frames" in line and "230.4 MB as float16 for 10 h of audio" in line


def test_frames_of_a_rate_that_goes_into_no_student_are_resampled(make_trainer, data_dir, tmp_path):
    teacher = {"teacher": "musicnn", "weights_sha256": "0" * 64, "layer": -1, "frame_rate_hz": 62.5}
    teacher |= {"sample_rate_hz": 16000, "dim": 8, "frame_rule": "musicnn-62.5hz"}
    with ShardWriter(tmp_path / "a", "part", np.float16, 8) as writer:
        for number in range(30):
            count = expected_frames(len(load_audio(data_dir / f"noise{number}.wav")), teacher)
            writer.add(f"noise{number}", np.arange(count, dtype=np.float16)[:, None].repeat(8, 1))
    seal.write_json(tmp_path / "a/card.json", {"format": FORMAT, "teacher": teacher})
    trainer = make_trainer(streams=streams(features=[str(tmp_path / "a")]))
    batch = first_batch(trainer)
    targets_BTW = trainer.objectives["frames"].targets(batch, trainer.model.output_lengths(batch.feature_lens_B))
    for row in targets_BTW[:, :, 0]:
        found = row[~row.isnan()].tolist()
        assert found == [int((place + 0.5) * 62.5 / 50) for place in range(len(found))] and found


def test_what_does_not_fit_is_refused(make_trainer, stored):
    with pytest.raises(CardError, match="a 50 Hz, b 25 Hz"):
        make_trainer(streams=streams(features=[stored("a"), stored("b", rate_hz=25)]))
    with pytest.raises(CardError, match="rows of 16 x float16"):
        make_trainer(streams=streams(features=[stored("c", width=16)]))
    with pytest.raises(ConfigError, match="2 student_layers"):
        make_trainer(streams=streams(features=[stored("a")], student_layers=[0, -1]))
    with pytest.raises(ConfigError, match="0 to 1, or -1"):
        make_trainer(streams=streams(features=[stored("a")], student_layers=[2]))
    with pytest.raises(ConfigError, match="one of usad, l1, l2"):
        FeatureSettings(loss="mse")
    with pytest.raises(ConfigError, match="remove the other"):
        from_dict(TrainConfig, {"streams": streams(features=["a"], teachers=["wavlm"])})


def test_nothing_is_masked_unless_some_stream_wants_it(make_trainer, stored):
    features = streams(features=[stored("a")])
    trainer = make_trainer(streams=features)
    assert not any(mask.any() for mask in trainer.probe_inputs()[-2:])
    masked = make_trainer(streams=streams(features=[stored("a")], mask_input=True))
    assert masked.probe_inputs()[-2].any()


def test_targets_that_never_change_are_reported_in_words(make_trainer, stored, caplog):
    trainer = make_trainer(streams=streams(features=[stored("a", ids=[0, 1])]), num_steps=2, valid_fraction=0.0)
    trainer.objectives["frames"].targets = lambda batch, lens_B: torch.ones(len(batch.ids), int(lens_B.max()), 32)
    trainer.run()
    [text] = [record.getMessage() for record in caplog.records if "collapse watch" in record.getMessage()]
    assert "stream 'frames': the targets are the same everywhere" in text
