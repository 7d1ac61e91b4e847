"""What a score depends on is part of what decides whether it is up to date, and reasons reach the run file."""

import json

import numpy as np
import pytest
import superb_corpus

from spear.audio import save_audio
from spear.evaluate.run import EvaluateConfig, evaluate
from spear.evaluate.suites import SuperbTasks

_QUICK = {"num_jobs": 1, "max_steps": 1, "learning_rates": (1e-3,)}


def noise(path, seed, peak=0.1):
    wave = np.random.default_rng(seed).uniform(-peak, peak, 1600).astype(np.float32)
    save_audio(path, wave, 16000)
    return wave


@pytest.mark.slow
def test_other_sources_of_a_mixture_are_another_question(tmp_path):
    rows = []
    for number, split in enumerate(("train", "dev", "test")):
        waves = [noise(tmp_path / f"{split}-{name}.wav", 2 * number + n) for n, name in enumerate("ab")]
        save_audio(tmp_path / f"{split}.wav", waves[0] + waves[1], 16000)
        rows.append({"id": split, "path": f"{split}.wav", "split": split, "duration": 0.1})
        rows[-1]["target"] = [f"{split}-a.wav", f"{split}-b.wav"]
    superb_corpus.write(tmp_path, "SS", rows)
    suite, config = SuperbTasks(tmp_path, "mini"), EvaluateConfig(**_QUICK)
    (first,), (second,) = (evaluate(suite, ["SS"], ["fbank"], tmp_path / "exp", config) for _ in range(2))
    assert second == first
    noise(tmp_path / "test-b.wav", 99)
    (third,) = evaluate(suite, ["SS"], ["fbank"], tmp_path / "exp", config)
    assert third["inputs_sha256"] != first["inputs_sha256"] and third["score"] != first["score"]


def test_a_live_run_tells_why_a_recording_has_no_features(tmp_path, monkeypatch):
    (tmp_path / "sometimes_not_a_number.py").write_text(
        "class Encoder:\n    sample_rate, stride_samples = 16000, 320\n\n    def __call__(self, waves_BS, lengths_B):\n"
        "        states_BTD = waves_BS[:, : waves_BS.shape[1] // 320 * 320].unflatten(1, (-1, 320))[:, :, :8]\n"
        "        return [states_BTD / (waves_BS.amax(dim=1) < 0.5)[:, None, None]]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = []
    for number, split in enumerate(("train", "dev", "test") * 3):
        noise(tmp_path / f"{number}.wav", number, peak=0.9 if number == 3 else 0.1)
        rows.append({"id": f"r{number}", "path": f"{number}.wav", "split": split, "duration": 0.1})
        rows[-1]["target"] = "even" if number % 2 else "odd"
    superb_corpus.write(tmp_path, "KS", rows)
    for live in (False, True):
        config = EvaluateConfig(live=live, **_QUICK)
        upstream = ["python:sometimes_not_a_number:Encoder"]
        (run,) = evaluate(SuperbTasks(tmp_path, "mini"), ["KS"], upstream, tmp_path / f"exp{live}", config)
        assert [(row["id"], row["split"]) for row in run["skipped"]] == [("r3", "train")]
        assert "not all finite (from layer 0 on)" in run["skipped"][0]["reason"]
        assert json.dumps(run)
