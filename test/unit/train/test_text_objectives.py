"""CTC and transducer: what runs learn and say, that they resume, and what is refused."""

import json

import pytest
import torch

from spear.bin import transcribe
from spear.errors import CardError, ConfigError
from spear.models.heads import Encoded
from spear.train import checkpoint
from spear.train.objectives import load
from spear.train.objectives.ctc import CtcSettings
from spear.train.objectives.transducer import TransducerSettings

SMALL = {"prediction_dim": 16, "joiner_dim": 16, "prune_range": 3, "warmup_batches": 4}
STREAMS = {
    "words": {"objective": "ctc"},
    "path": {"objective": "transducer", **SMALL},
    "mixed": {"objective": "transducer", "layers": "weighted", "units": "bpe:12", "case": "lower", **SMALL},
}
for settings in STREAMS.values():
    settings["domain_weights"] = {"speech": 1.0}
TEXTS = ["bad", "a cab", "dad", "cab a", "ab"]


@pytest.fixture(scope="module")
def transcribed(data_dir):
    """Returns a function that writes a manifest of the same recordings with other transcripts."""

    def write(name: str, texts: list[str]) -> dict:
        rows = []
        for number, line in enumerate((data_dir / "manifests" / "cuts.jsonl").read_text().splitlines()):
            row = json.loads(line)
            said = {"id": row["id"], "recording_id": row["id"], "start": 0, "duration": row["duration"], "channel": 0}
            row["supervisions"] = [{**said, "text": texts[number % len(texts)]}]
            rows.append(json.dumps(row))
        (data_dir / "manifests" / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        return {"name": "noise", "cuts": f"manifests/{name}.jsonl", "domain": "speech"}

    return write


@pytest.fixture
def recogniser(make_trainer, transcribed):
    """Returns a function that makes a trainer of some of the streams on some transcripts."""

    def make(*names: str, texts: list[str] = TEXTS, **changes):
        changes.setdefault("mixing", {"probability": 0.0, "audio_noise_probability": 0.0})
        source = transcribed("said", texts)
        return make_trainer(streams={name: STREAMS[name] for name in names or STREAMS}, sources=[source], **changes)

    return make


def test_a_run_learns_from_transcripts_and_says_its_error_rates(recogniser, tmp_path):
    trainer = recogniser()
    assert trainer.mask.time_probability == 0
    final = trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    for name in STREAMS:
        assert last[f"valid/utterances/{name}"] == len(trainer.data.valid.cuts)
        assert last[f"valid/wer/{name}"] > 0 and last[f"valid/cer/{name}"] > 0
    assert all(row["loss/path/unmasked"] > 0 for row in rows if "loss/path/unmasked" in row)
    assert "simple_loss/path/unmasked" in rows[0]
    cards = checkpoint.verify(final)["cards"]
    assert cards["words"]["vocabulary"]["kind"] == "chars" and cards["mixed"]["vocabulary"]["kind"] == "bpe"
    vocabulary = json.loads((tmp_path / "exp" / "vocabulary.words.json").read_text())
    assert vocabulary["units"] == ["<blk>", " ", *"ABCD"]
    trainer.model.eval()
    features_BTF, lens_B, *_ = trainer.probe_inputs()
    with torch.no_grad():
        encoded = trainer.model.encode_masked(features_BTF, lens_B)
        for name, objective in trainer.objectives.items():
            said = objective.decode(trainer.model.heads[name], encoded)
            assert len(said) == len(lens_B) and all(isinstance(text, str) for text in said)


def test_a_run_resumes_bit_for_bit(recogniser, tmp_path):
    recogniser(exp_dir=str(tmp_path / "whole")).run()
    for steps in (1, 3, 4):
        recogniser(exp_dir=str(tmp_path / "parts"), num_steps=steps).run()
    whole, parts = (
        checkpoint.read_tensors(checkpoint.directory_of(tmp_path / run, 4), "model") for run in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_of_another_vocabulary_is_refused(recogniser, tmp_path):
    recogniser("words", num_steps=1).run()
    with pytest.raises(CardError, match="targets of stream 'words' from vocabulary .*sha256"):
        recogniser("words", texts=["bad", "an egg"], num_steps=2).run()


def test_a_transcript_that_cannot_be_said_is_left_out_by_name(recogniser, tmp_path):
    texts = ["ab" * 60, "ab", "ba", "a b", "b"]  # at most 2 s, 100 frames at 50 Hz
    trainer = recogniser("words", "path", texts=texts)
    refused = trainer.objectives["words"]._stream.refused
    assert [row["id"] for row in refused] == [f"noise{number}" for number in range(0, 30, 5)]
    assert all("120 units, which needs 120 output frames" in row["reason"] for row in refused)
    # With two units a frame some of the recordings are long enough for the transducer.
    least = {row["reason"] for row in trainer.objectives["path"]._stream.refused}
    assert all("which needs 60 output frames" in reason for reason in least)


@pytest.mark.parametrize("name", ["words", "path"])
def test_one_utterance_can_be_learnt_by_heart(recogniser, name):
    trainer = recogniser(name)
    head, objective = trainer.model.heads[name], trainer.objectives[name]
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 12, trainer.model.output_dim, generator=generator)
    lens = torch.tensor([12, 9])
    encoded = Encoded(hidden, lens, [], lens, torch.zeros(2, 12, dtype=torch.bool), torch.ones(2, 12))
    targets = torch.full((2, 5), -100)
    for row, text in zip(targets, ("bad", "cab a")):
        row[: len(text)] = torch.from_numpy(objective.vocabulary.encode(text))
    head.eval()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        head.predict(encoded, targets, torch.ones(2)).loss.backward()
        optimizer.step()
    assert objective.decode(head, encoded) == ["BAD", "CAB A"]
    scores = head.predict(encoded, targets, torch.ones(2)).scores
    assert objective.judge([scores]) == {"wer": 0.0, "cer": 0.0, "utterances": 2.0}


def test_recordings_are_transcribed_by_a_run(recogniser, data_dir, tmp_path, capsys):
    recogniser("words", "path", num_steps=1).run()
    flags = [str(data_dir / "noise0.wav"), str(data_dir / "noise1.wav"), "--device", "cpu"]
    flags += ["--checkpoint", str(tmp_path / "exp"), "--window-seconds", "1", "--overlap-seconds", "0.2"]
    with pytest.raises(ConfigError, match="with 2 heads for words"):
        transcribe.main(flags)
    for stream in ("words", "path"):
        for method in ("greedy", "beam"):
            output = tmp_path / f"{stream}-{method}"
            transcribe.main(
                [*flags, "--stream", stream, "--method", method, "--format", "json", "--output", str(output)]
            )
            rows = [json.loads((output / f"noise{number}.json").read_text()) for number in (0, 1)]
            assert [row["path"] for row in rows] == flags[:2]
            assert all(0 <= word["confidence"] <= 1 for row in rows for word in row["words"])
            assert all(row["text"] == " ".join(word["word"] for word in row["words"]) for row in rows)
    capsys.readouterr()
    transcribe.main([*flags, "--stream", "words"])
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == flags[:2]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="prune_range"):
        TransducerSettings(prune_range=1)
    with pytest.raises(ConfigError, match="below 1"):
        TransducerSettings(lm_scale=0.5, am_scale=0.5)
    with pytest.raises(ConfigError, match="upper, lower, keep"):
        CtcSettings(case="title")
    with pytest.raises(ConfigError, match="last, weighted"):
        CtcSettings(layers="first")
    assert load("ctc").masks_input is False
