"""A tiny prepared corpus of tones, written as stage 1 writes one, and a tiny encoder; for the tests of this folder."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from torch import nn

from spear.audio import Fbank, save_audio

TONES_HZ = {"A": 400, "B": 900, "C": 1700}
TASKS = [
    {"name": "first_tone", "title": "First tone", "head": "classify", "target": "label:first", "metric": "accuracy"},
    {"name": "ends", "title": "Both ends", "head": "slots", "target": "label:first,label:last", "metric": "accuracy"},
    {"name": "tones", "title": "All tones", "head": "ctc", "target": "phones", "metric": "per"},
    {"name": "spelling", "title": "As text", "head": "ctc", "target": "text", "metric": "wer"},
]


def make_corpus(data_dir: Path, per_split=(36, 12, 12)) -> Path:
    """Writes audio, `manifests/cuts_heldout.jsonl` and `manifests/tasks.yaml` below `data_dir`."""
    rng = np.random.default_rng(0)
    lines = []
    for split, count in zip(("train", "dev", "test"), per_split):
        for number in range(count):
            tones = [str(t) for t in rng.choice(list(TONES_HZ), size=rng.integers(2, 5))]
            # The first tone is long, so that a time mean can tell which it is.
            spans = [tone(t, rng, 4.0 if place == 0 else 1.0) for place, t in enumerate(tones)]
            wave = np.concatenate(spans).astype(np.float32)
            item_id = f"{split}-{number}"
            save_audio(data_dir / "raw" / f"{item_id}.flac", wave, 16000)
            lines.append(cut(item_id, f"raw/{item_id}.flac", len(wave), tones, {t["name"]: split for t in TASKS}))
    manifests = data_dir / "manifests"
    manifests.mkdir(parents=True, exist_ok=True)
    (manifests / "cuts_heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (manifests / "tasks.yaml").write_text(yaml.safe_dump({"tasks": TASKS}))
    return data_dir


def tone(name: str, rng, stretch: float) -> np.ndarray:
    """0.1 to 0.2 s of a tone, stretched, then 30 ms of noise; noise everywhere."""
    times = np.arange(int(16000 * stretch * rng.uniform(0.1, 0.2))) / 16000
    sound = np.concatenate([0.3 * np.sin(2 * np.pi * TONES_HZ[name] * times), np.zeros(480)])
    return sound + 0.01 * rng.standard_normal(len(sound))


def cut(item_id: str, source: str, samples: int, tones: list[str], task_splits: dict) -> dict:
    """A lhotse cut as JSON."""
    labels = {"first": tones[0], "last": tones[-1]}
    return {
        "id": item_id,
        "start": 0.0,
        "duration": samples / 16000,
        "channel": 0,
        "recording": {"id": item_id, "sources": [{"type": "file", "channels": [0], "source": source}]},
        "supervisions": [{"id": item_id, "text": " ".join(tones), "speaker": "s"}],
        "custom": {"kind": "speech", "labels": labels, "phones": tones, "task_splits": task_splits, "split": "heldout"},
        "type": "MonoCut",
    }


class TinyEncoder(nn.Module):
    """Three random layers over filterbank frames at 50 Hz, of different widths; padding leaks into the last frames."""

    def __init__(self, seed: int = 0, dims=(24, 32, 32)):
        super().__init__()
        self.fbank = Fbank()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 3, padding=1) for a, b in zip((256, *dims), dims))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1, generator=generator)

    def forward(self, audio, audio_lens):
        """As `SpearModel.forward`."""
        features_BTF, lens_B = self.fbank(audio, audio_lens)
        frames = features_BTF.shape[1] // 2
        x = (features_BTF[:, : 2 * frames].unflatten(1, (frames, 2)).flatten(2) / 10).transpose(1, 2)
        states = []
        for layer in self.layers:
            x = torch.tanh(layer(x))
            states.append(x.transpose(1, 2))
        return SimpleNamespace(encoder_out=states[-1], encoder_out_lens=lens_B // 2, hidden_states=states)
