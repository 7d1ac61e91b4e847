"""Noise for mixing comes from lists of its own: sounds in which, by their labels, nobody speaks, sings or plays."""

import logging
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spear import fs
from spear.bin import manifests
from spear.config import from_dict, parse
from spear.data import load_noises
from spear.errors import ConfigError, DataError
from spear.manifest import read_items
from spear.train import setup
from spear.train.config import ALIASES, TrainConfig

EGS = Path(__file__).resolve().parents[2] / "egs"
REAL = [
    path
    for path in sorted(EGS.glob("*/spear/conf/*.yaml"))
    if path.parts[-4] in ("librispeech", "audioset", "speech_audio")
]
CLIPS = {  # AudioSet's ids of what is heard, and whether it may be noise
    "dog00000000": ("/m/0bt9lr,/m/05tny_", True),
    "rain0000000": ("/m/06mb1", True),
    "talk0000000": ("/m/0bt9lr,/m/09x0r", False),
    "sing0000000": ("/m/0t3st,/t/dd00004", False),
    "steps000000": ("/m/07pbtc8", False),
    "piano000000": ("/m/05r5c,/m/04rlf", False),
}


def sound(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * 16000)), 16000)


def audioset(folder: Path) -> Path:
    """Clips with the labels of `CLIPS`, in training; one more dog in eval."""
    head = "# made for a test\n# YTID, start_seconds, end_seconds, positive_labels\n"
    rows = [f'{video}, 0.000, 10.000, "{labels}"\n' for video, (labels, _) in CLIPS.items()]
    for video in (*CLIPS, "dogeval0000"):
        sound(folder / "audio" / f"{video}.wav")
    (folder / "balanced_train_segments.csv").write_text(head + "".join(rows))
    (folder / "eval_segments.csv").write_text(head + 'dogeval0000, 0.000, 10.000, "/m/0bt9lr"\n')
    return folder


def musan(folder: Path) -> Path:
    for part in ("noise/free-sound/noise-free-sound-0000", "noise/sound-bible/noise-sound-bible-0000"):
        sound(folder / f"{part}.wav")
    sound(folder / "speech/librivox/speech-librivox-0000.wav")
    sound(folder / "music/fma/music-fma-0000.wav")
    return folder


def stage_1(raw: Path, output: Path, *words: str) -> None:
    assert manifests.main(["--raw", str(raw), "--output", str(output), "--num-jobs", "1", *words]) == 0


def ids(path: Path) -> set[str]:
    return {item.id for item in read_items(path)}


def test_stage_1_lists_what_of_audioset_names_no_people_and_no_music(tmp_path):
    output = tmp_path / "data/manifests"
    stage_1(audioset(tmp_path / "raw"), output, "--corpus", "audioset", "--name", "audioset")
    assert ids(output / "noise_audioset.jsonl") == {f"as-{video}" for video, (_, fit) in CLIPS.items() if fit}
    assert len(ids(output / "cuts_audioset_train.jsonl")) == len(CLIPS)  # all of it is trained on, as before
    assert fs.read_json(output / "summary_audioset.json")["noise_cuts"] == 2


def test_stage_1_lists_the_noise_of_musan_and_nothing_else(tmp_path):
    output = tmp_path / "data/manifests"
    stage_1(musan(tmp_path / "raw"), output, "--corpus", "musan", "--name", "musan")
    assert ids(output / "noise_musan.jsonl") == {"noise-free-sound-0000", "noise-sound-bible-0000"}
    assert not list(output.glob("cuts_*")) and fs.read_json(output / "summary_musan.json")["items"] == 2
    with pytest.raises(DataError, match="music, noise and speech"):
        stage_1(tmp_path / "raw/noise", output, "--corpus", "musan", "--name", "musan")


def test_labels_in_words_count_too(tmp_path):
    """As in the mini recipe: events without people and music; what has no label may be anything."""
    rows = [("bark", "event", "class=dog_bark"), ("baby", "event", "class=baby_cry"), ("unknown", "event", "")]
    rows += [("sneeze", "event", "class=person_sneeze"), ("tom", "music", "class=tom"), ("said", "speech", "digit=9")]
    lines = ["id\tpath\tkind\tlabel"]
    for name, kind, label in rows:
        sound(tmp_path / f"raw/{name}.wav")
        lines.append(f"{name}\t{name}.wav\t{kind}\t{label}")
    (tmp_path / "raw/manifest.tsv").write_text("\n".join(lines) + "\n")
    stage_1(tmp_path / "raw", tmp_path / "data/manifests")
    assert ids(tmp_path / "data/manifests/noise.jsonl") == {"bark"}


@pytest.fixture
def data_dir(tmp_path) -> Path:
    stage_1(audioset(tmp_path / "raw"), tmp_path / "data/manifests", "--corpus", "audioset", "--name", "audioset")
    return tmp_path / "data"


def test_people_in_a_list_of_noise_are_left_out_loudly(data_dir, caplog):
    table = load_noises([data_dir / "manifests/cuts_audioset_train.jsonl"])
    heard = {table[index].id.removeprefix("as-") for index in range(len(table))}
    assert heard == {"dog00000000", "rain0000000", "piano000000"}
    assert "3 of 6 cuts are of people and are not used as noise (the first: as-sing0000000)" in caplog.text


def loaded(data_dir, **mixing):
    values = {
        "data_dir": str(data_dir),
        "exp_dir": str(data_dir / "exp"),
        "valid_fraction": 0.0,
        "sources": [{"name": "audioset", "cuts": "manifests/cuts_audioset_train.jsonl", "domain": "audio"}],
        "mixing": {"audio_noise_probability": 1.0, **mixing},
    }
    return setup.load_data(from_dict(TrainConfig, values)).train


def test_training_draws_noise_from_its_list_alone(data_dir, caplog):
    train = loaded(data_dir, noises=["manifests/noise_audioset.jsonl"])
    assert {train.noises[index].id for index in range(train.num_noises)} == {"as-dog00000000", "as-rain0000000"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    batch = train.batch(train.plan(0), 0, 0, 0)
    assert "noise" in batch.mix_kinds


def test_a_corpus_that_is_trained_on_is_no_noise(data_dir):
    with pytest.raises(ConfigError, match="which is trained on"):
        loaded(data_dir, noises=["manifests/../manifests/cuts_audioset_train.jsonl"])
    with pytest.raises(DataError, match="noise_musan.jsonl"):
        loaded(data_dir, noises=["manifests/noise_musan.jsonl"])


@pytest.mark.parametrize("noises", [[], ["manifests/noise_musan.jsonl"]])
def test_without_noise_cuts_stay_as_they_are_and_a_warning_says_so(data_dir, caplog, noises):
    (data_dir / "manifests/noise_musan.jsonl").write_text("")
    train = loaded(data_dir, noises=noises)
    assert "asks for noise in 100% of audio" in caplog.text
    assert {*train.batch(train.plan(0), 0, 0, 0).mix_kinds} == {"none"}
    caplog.clear()
    loaded(data_dir, noises=noises, audio_noise_probability=0.0)
    assert "asks for noise" not in caplog.text


def test_prepare_makes_the_lists_and_windows_of_ten_seconds(tmp_path):
    """Stages 0 and 1 of the recipe: Freesound in windows of 10 s, AudioSet's noise, and MUSAN's when it is there."""
    raw = tmp_path / "raw"
    audioset(raw / "audioset")
    sound(raw / "freesound/field.wav", 25.0)
    words = ["--audioset-dir", raw / "audioset", "--freesound-dir", raw / "freesound", "--data-dir", tmp_path / "data"]
    command = ["bash", EGS / "speech_audio/spear/prepare.sh", "--stop-stage", "1", "--num-jobs", "1", *words]
    for musan_words, count in (([], 0), (["--musan-dir", musan(raw / "musan")], 2)):
        done = subprocess.run([*map(str, command), *map(str, musan_words)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("no MUSAN" in done.stdout) == (count == 0)
        folder = tmp_path / "data/manifests"
        assert len(read_items(folder / "noise_musan.jsonl")) == count
        assert len(read_items(folder / "noise_audioset.jsonl")) == 2
        assert not ids(folder / "noise_freesound.jsonl")  # nobody knows what is heard there
        lengths = [item.duration_seconds for item in read_items(folder / "cuts_freesound_train.jsonl")]
        assert lengths == pytest.approx([25 / 3] * 3, abs=1e-3)


@pytest.mark.parametrize("path", REAL, ids=lambda path: f"{path.parts[-4]}-{path.stem}")
def test_real_recipes_state_noise_lengths_and_the_batch_they_were_made_for(path):
    config = parse(TrainConfig, ["--config", str(path)], ALIASES)
    assert config.mixing.noises and all(Path(name).name.startswith("noise_") for name in config.mixing.noises)
    assert (config.cut_limits.min_seconds, config.cut_limits.max_seconds) == (0.9, 32.0)
    small = path.parts[-4] == "librispeech"  # the ablation on 960 h: 4 GPUs
    assert 4800 <= config.plan.global_seconds <= 6400 or (small and config.plan.global_seconds == 3200)
    ranks = config.plan.global_seconds / config.plan.max_seconds
    assert ranks in (4, 8, 16, 32)
    if {source.domain for source in config.sources} == {"speech"}:
        wanted = (0.3, 0.7, False) if path.stem.endswith("_v1") else (0.5, 0.8, True)
        assert (config.mixing.probability, config.mixing.noise_probability, config.mixing.token_mixing) == wanted
    steps = {"audioset": 250_000, "librispeech": 300_000}.get(path.parts[-4])
    assert config.num_steps == (steps or (400_000 if ranks == 8 else 500_000))
