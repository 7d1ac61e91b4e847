"""Every kind of file that spear reads: a small whole example, and the public name that reads it."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from spear import config, fs, seal
from spear.audio import FbankConfig, load_audio, probe
from spear.data import index
from spear.data.cuts import Columns
from spear.data.plan import Plan, PlanLimits, build_plan
from spear.evaluate.results import load_runs, results_markdown, terminal_table
from spear.evaluate.runs import rescore
from spear.evaluate.table import manifest_path, read_table
from spear.manifest import ManifestsConfig, iter_items, make_manifests
from spear.manifest.corpora import scan_corpus
from spear.manifest.exchange import read_arrays
from spear.manifest.fingerprints import compare_samples
from spear.manifest.tasks import read_task_specs
from spear.models.config import SpearConfig
from spear.models.loading import load_model, save_model
from spear.models.spear import SpearModel
from spear.quantize import Quantizer, load_quantizer, save_quantizer
from spear.seeds import seed_global
from spear.shards import ShardWriter
from spear.teachers.align import register_frame_rule
from spear.tokens.card import TokenCard, open_stream
from spear.tokens.ready import check_ready, shards_sha256
from spear.train import checkpoint, runs
from spear.train.config import TrainConfig

TINY = {
    "num_encoder_layers": "1,1",
    "downsampling_factor": "1,2",
    "encoder_dim": "16",
    "encoder_unmasked_dim": "16",
    "feedforward_dim": "24",
    "cnn_module_kernel": "15",
    "num_heads": "2",
    "query_head_dim": "4",
    "subsampling_channels": "2,2,4",
}


@dataclass(frozen=True)
class Artefact:
    """A kind of file.

    Attributes:
        make: writes an example below a folder and returns the files that are to be damaged.
        read: reads it; what it returns tells whether it read the same.
        sealed: whether any other bit must be noticed (or be without effect).
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    sealed: bool = False


def _audio(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.sin(np.arange(8000) / 9) / 3
    for number in range(3):
        soundfile.write(folder / f"u{number}.wav", samples[: 6000 + 500 * number], 16000)
    return sorted(folder.glob("*.wav"))


def _cut(number: int) -> dict:
    seconds = (6000 + 500 * number) / 16000
    recording = {"id": f"u{number}", "sampling_rate": 16000, "num_samples": 6000 + 500 * number, "duration": seconds}
    recording["sources"] = [{"type": "file", "channels": [0], "source": f"u{number}.wav"}]
    supervision = {"id": f"u{number}", "recording_id": f"u{number}", "start": 0, "duration": seconds, "channel": 0}
    supervision |= {"text": "one two", "speaker": "a", "custom": {"labels": {"class": "x"}, "phones": ["W", "AH"]}}
    cut = {"id": f"u{number}", "start": 0, "duration": seconds, "channel": 0, "type": "MonoCut"}
    return cut | {"supervisions": [supervision], "recording": recording, "custom": {"kind": "speech"}}


def _cuts(folder: Path) -> list[Path]:
    _audio(folder)
    fs.write_jsonl(folder / "manifests/cuts_train.jsonl", [_cut(number) for number in range(3)])
    return [folder / "manifests/cuts_train.jsonl"]


def _read_cuts(folder: Path):
    refused: list[dict] = []
    return [item.id for item in iter_items(folder / "manifests/cuts_train.jsonl", refused)]


def _lhotse(folder: Path) -> list[Path]:
    _audio(folder)
    fs.write_jsonl(folder / "cuts_train.jsonl", [_cut(number) for number in range(3)])
    return [folder / "cuts_train.jsonl"]


def _supervisions(folder: Path) -> list[Path]:
    _audio(folder)
    cuts = [_cut(number) for number in range(3)]
    fs.write_jsonl(folder / "supervisions_train.jsonl", [cut["supervisions"][0] for cut in cuts])
    fs.write_jsonl(folder / "recordings_train.jsonl", [cut["recording"] for cut in cuts])
    return sorted(folder.glob("*.jsonl"))


def _nemo(folder: Path) -> list[Path]:
    _audio(folder)
    line = {"duration": 0.3, "offset": 0.0, "text": "x", "speaker": 3}
    lines = [line | {"audio_filepath": f"u{number}.wav"} for number in range(3)]
    fs.write_jsonl(folder / "train.json", lines)
    return [folder / "train.json"]


def _table(folder: Path) -> list[Path]:
    _audio(folder)
    rows = ["id\tpath\tduration\tkind\tspeaker\ttext\tlabel"]
    rows += [f"u{n}\tu{n}.wav\t0.375\tspeech\ta\tone two\tclass=x;color=red" for n in range(3)]
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return [folder / "manifest.tsv"]


def _librispeech(folder: Path) -> list[Path]:
    place = folder / "train-clean-100/19/198"
    place.mkdir(parents=True)
    (place / "19-198.trans.txt").write_text("19-198-0000 ONE TWO\n19-198-0001 THREE\n")
    return [place / "19-198.trans.txt"]


def _gigaspeech(folder: Path) -> list[Path]:
    segment = {"sid": "a_1", "begin_time": 0.1, "end_time": 2.0, "text_tn": "X", "subsets": ["{XL}"]}
    audios = [{"aid": "a", "path": "audio/a.opus", "segments": [segment, segment | {"sid": "a_2"}]}]
    fs.write_json(folder / "GigaSpeech.json", {"audios": audios})
    return [folder / "GigaSpeech.json"]


def _csv(name: str, text: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        return [folder / name]

    return make


def _scan(corpus: str) -> Callable[[Path], Any]:
    return lambda folder: [entry.id for entry in scan_corpus(corpus, folder, "", "c").entries]


_TASKS = """\
tasks:
  - name: keywords
    title: Keywords
    head: classify
    target: label:class
    metric: accuracy
    select: {path_prefix: audio/}
    split: {by: id_regex, pattern: '^esc10_[a-z-]+-([0-9])-', test: [2], dev_fraction: 0.15}
  - name: speakers
    title: Speakers
    head: classify
    target: speaker
    metric: accuracy
    select: {kind: speech}
    split: {by: random, test_fraction: 0.4, dev_fraction: 0.1}
    min_train: 1
"""
_TRAIN = """\
num_steps: 100
model: {encoder_dim: "32", num_encoder_layers: "1,1,1,1,1,1,1"}
streams:
  speech: {mix_tokens: true, domain_weights: {speech: 1.0}}
sources: [{name: a, cuts: manifests/a.jsonl, domain: speech, weight: 2.0}]
plan: {max_seconds: 12}
mixing: {probability: 0.5, noises: [manifests/noise.jsonl]}
optimizer: {base_lr: 0.045}
"""


def _card() -> TokenCard:
    teacher = {"teacher": "t", "weights_sha256": "0" * 64, "layer": 1, "frame_rate_hz": 50.0, "sample_rate_hz": 16000}
    register_frame_rule("mutation-test", lambda num_samples: num_samples // 320)
    return TokenCard(
        stream="speech",
        teacher=teacher | {"dim": 8, "frame_rule": "mutation-test"},
        quantizer={"content_sha256": "0" * 64, "num_codebooks": 2, "codebook_size": 16},
        frame_rate_hz=50.0,
        sample_rate_hz=16000,
        fbank_sha256=FbankConfig().definition_hash(),
    )


def _tokens(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    with ShardWriter(folder, "part-00000", np.uint8, 2, {"unit_sha256": "0" * 64, "quarantined": []}) as writer:
        for number in range(3):
            writer.add(f"u{number}", rng.integers(0, 16, (18 + number, 2)).astype(np.uint8))
    _card().save(folder)
    return [folder / name for name in ("card.json", "part-00000.json", "part-00000.npy")]


def _read_tokens(folder: Path):
    store, card = open_stream(folder)
    return card.to_dict(), {item: rows.tobytes() for item, rows in store.items()}


def _quantizer(folder: Path) -> list[Path]:
    seed_global(0, "mutation test")
    save_quantizer(folder, Quantizer(4, 2, 16), torch.zeros(4), torch.ones(4), {"teacher": "t"}, {"error": 0.1})
    return [folder / "card.json", folder / "quantizer.safetensors"]


def _read_quantizer(folder: Path):
    trained = load_quantizer(folder)
    return trained.card, [trained.mean.tolist(), trained.std.tolist(), trained.quantizer.centers.tolist()]


def _tiny_model() -> SpearModel:
    seed_global(0, "mutation test")
    return SpearModel(SpearConfig.from_dict(TINY))


def _model(folder: Path) -> list[Path]:
    save_model(_tiny_model(), folder)
    return sorted(path for path in folder.iterdir())


def _released(folder: Path) -> list[Path]:
    _model(folder)
    (folder / "seal.json").unlink()
    return [folder / "config.json", folder / "model.safetensors"]


def _weights(model: SpearModel):
    return asdict(model.config), {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


_META = {"step": 4, "epoch": 0, "batch": 4, "run_id": "ab", "cards": {}}


def _checkpoint(folder: Path) -> list[Path]:
    model = _tiny_model()
    meta = _META | {"model_config": asdict(model.config)}
    checkpoint.save(checkpoint.directory_of(folder, 4), {"model": model.state_dict()}, meta)
    return sorted(checkpoint.directory_of(folder, 4).iterdir())


def _read_checkpoint(folder: Path):
    found = checkpoint.newest(folder)
    if found is None:
        return None
    tensors = checkpoint.read_tensors(found[0], "model")
    return {key: found[1].get(key) for key in _META}, {
        name: tensor.numpy().tobytes() for name, tensor in tensors.items()
    }


def _torch_file(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": _tiny_model().state_dict(), "batch_idx_train": 7}, folder / "a.pt")
    return [folder / "a.pt"]


def _plan(folder: Path) -> list[Path]:
    build_plan(np.linspace(1, 3, 40), seed=1, epoch=0, world_size=2, limits=PlanLimits(max_seconds=8.0)).save(folder)
    return sorted(folder.iterdir())


def _read_plan(folder: Path):
    plan = Plan.load(folder)
    return [plan.batch(step, rank).tolist() for step in range(plan.num_steps) for rank in (0, 1)], plan.inputs_hash


def _ready(folder: Path) -> list[Path]:
    (cuts,) = _cuts(folder)
    _tokens(folder / "tokens/speech")
    stream = {"card_sha256": _card().sha256, "shards_sha256": shards_sha256(folder / "tokens/speech")}
    declared = {"cuts": {cuts.name: {"sha256": fs.sha256_file(cuts), "items": 3}}, "streams": {"speech": stream}}
    seal.write_json(folder / "READY", declared)
    return [folder / "READY", cuts]


def _read_ready(folder: Path):
    found = check_ready(folder, [folder / "manifests/cuts_train.jsonl"], {"speech": folder / "tokens/speech"})
    return found.problems and None  # None: something was noticed


def _stage_one(folder: Path) -> list[Path]:
    _table(folder / "raw")
    make_manifests(ManifestsConfig(raw=str(folder / "raw"), output=str(folder / "manifests"), num_jobs=1))
    return [folder / "manifests/recordings_sample.json", *sorted((folder / "raw").glob("*.wav"))]


def _run(folder: Path) -> list[Path]:
    runs.write(folder, runs.Run("0123abcd", "0" * 64, {}, "2026-01-01", "1"))
    return [folder / "run.json"]


def _metrics(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    row = {"loss/speech/masked": 2.5, "accuracy/speech/masked": 0.5, "lr": 0.01, "grad_norm": 1.0, "epoch": 0}
    rows = [row | {"step": step, "seconds": 1.0 * step} for step in range(1, 6)]
    fs.write_jsonl(folder / "metrics.jsonl", rows)
    return [folder / "metrics.jsonl"]


_drawn: dict[str, int | None] = {}


def _size(value: Any) -> str:
    is_number = isinstance(value, int | float) and abs(value) < 1e300
    return f"{value:.0e}"[:2].strip("123456789") + f"{value:.0e}"[-4:] if is_number else type(value).__name__


def _read_metrics(folder: Path):
    from spear.evaluate.figures import read_training, to_svg, training_figure

    rows = read_training(folder / "metrics.jsonl")
    # To draw takes a second: rows that are the same but for their digits are not drawn again.
    if (key := str([(name, _size(value)) for row in rows for name, value in row.items()])) not in _drawn:
        figure = training_figure(rows, "a")
        _drawn[key] = figure and len(to_svg(figure))
    return _drawn[key]


def _scores(folder: Path) -> list[Path]:
    place = folder / "evaluate/mini/keywords"
    run = {"task": "keywords", "metric": "accuracy", "score": 0.5, "interval": [0.2, 0.8], "inputs_sha256": "0" * 64}
    run |= {"suite": "mini", "protocol": "mini", "scores": {"accuracy": 0.5}, "num_predictions": 2}
    run |= {
        "upstream": {"name": "fbank", "kind": "fbank", "hash": "0"},
        "num_items": {"train": 1, "dev": 1, "test": 2},
        "predictions": "p.jsonl",
    }
    run |= {"learning_rate": 0.01, "seeds": [0], "skipped": [], "command": "c", "commit": "a", "hardware": "h"}
    fs.write_json(place / "fbank.json", run)
    fs.write_jsonl(place / "p.jsonl", [{"id": i, "reference": "a", "hypotheses": ["a"]} for i in "xy"])
    return [place / "fbank.json", place / "p.jsonl"]


def _read_sample(folder: Path) -> int | None:
    changed, gone, number = compare_samples(folder / "manifests")
    return None if changed or gone else number


def _read_scores(folder: Path):
    found = load_runs(folder)
    if found:
        terminal_table(found), results_markdown(found, "a"), rescore(folder / "evaluate/mini/keywords/fbank.json")
    return len(found)


def _superb(folder: Path) -> list[Path]:
    _audio(folder)
    path = manifest_path(folder, "KS")
    splits = enumerate(("train", "dev", "test"))
    rows = [{"id": f"u{n}", "path": f"u{n}.wav", "split": split, "target": "yes"} for n, split in splits]
    path.parent.mkdir(parents=True, exist_ok=True)
    fs.write_jsonl(path, rows)
    return [path]


def _arrays(folder: Path) -> list[Path]:
    _audio(folder)
    np.save(folder / "codes.npy", np.zeros((18, 2), np.uint8))
    array = {"storage_type": "numpy_files", "storage_path": str(folder), "storage_key": "codes.npy", "shape": [18, 2]}
    codes = {"array": array, "temporal_dim": 0, "frame_shift": 0.02, "start": 0}
    cut = _cut(0)
    fs.write_jsonl(folder / "cuts.jsonl", [cut | {"custom": cut["custom"] | {"codes": codes}}])
    return [folder / "cuts.jsonl", folder / "codes.npy"]


def _index(folder: Path) -> list[Path]:
    (cuts,) = _cuts(folder)
    index.SMALLEST_BYTES, before = 0, index.SMALLEST_BYTES
    try:
        index.read_columns(cuts)
    finally:
        index.SMALLEST_BYTES = before
    return sorted(path for path in (cuts.parent / f".{cuts.name}.index").iterdir())


def _read_index(folder: Path):
    index.SMALLEST_BYTES, before = 0, index.SMALLEST_BYTES
    try:
        columns: Columns = index.read_columns(folder / "manifests/cuts_train.jsonl")
        return [
            columns.duration.tolist(),
            columns.start.tolist(),
            [str(columns.path(row)) for row in range(len(columns))],
        ]
    finally:
        index.SMALLEST_BYTES = before


def _flac(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.sin(np.arange(8000) / 9) / 3
    for suffix in ("wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "caf"):
        soundfile.write(folder / f"a.{suffix}", samples, 16000)
    return sorted(folder.iterdir())


def _read_flac(folder: Path):
    lengths = []
    for path in sorted(folder.iterdir()):
        if probe(path).num_samples < 10**9:
            lengths.append(len(load_audio(path, 16000)))
    return lengths


ARTEFACTS = {
    "cuts of ours": Artefact(_cuts, _read_cuts),
    "index of cuts": Artefact(_index, _read_index, sealed=True),
    "lhotse cuts": Artefact(_lhotse, _scan("lhotse")),
    "lhotse supervisions": Artefact(_supervisions, _scan("lhotse")),
    "NeMo manifest": Artefact(_nemo, _scan("nemo")),
    "manifest.tsv": Artefact(_table, _scan("folder")),
    "LibriSpeech transcript": Artefact(_librispeech, _scan("librispeech")),
    "GigaSpeech.json": Artefact(_gigaspeech, _scan("gigaspeech")),
    "AudioSet table": Artefact(
        _csv("balanced_train_segments.csv", '# a\n--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n' * 3),
        _scan("audioset"),
    ),
    "VGGSound table": Artefact(_csv("vggsound.csv", '---g-f_I2yQ,1,"people, x",test\n' * 3), _scan("vggsound")),
    "FSD50K table": Artefact(
        _csv("FSD50K.ground_truth/dev.csv", 'fname,labels,mids,split\n64760,"a,b","/m/1,/m/2",train\n'), _scan("fsd50k")
    ),
    "tasks": Artefact(_csv("tasks.yaml", _TASKS), lambda folder: len(read_task_specs(folder / "tasks.yaml"))),
    "training settings": Artefact(
        _csv("train.yaml", _TRAIN),
        lambda folder: config.to_dict(config.parse(TrainConfig, ["--config", str(folder / "train.yaml")])),
    ),
    "tokens": Artefact(_tokens, _read_tokens, sealed=True),
    "quantizer": Artefact(_quantizer, _read_quantizer, sealed=True),
    "checkpoint": Artefact(_checkpoint, _read_checkpoint, sealed=True),
    "model": Artefact(_model, lambda folder: _weights(load_model(folder)), sealed=True),
    "released folder": Artefact(_released, lambda folder: _weights(load_model(folder))),
    "torch file": Artefact(_torch_file, lambda folder: _weights(load_model(folder / "a.pt"))),
    "plan": Artefact(_plan, _read_plan, sealed=True),
    "READY": Artefact(_ready, _read_ready, sealed=True),
    "sample of recordings": Artefact(_stage_one, _read_sample, sealed=True),
    "run.json": Artefact(_run, lambda folder: (found := runs.find(folder)) and asdict(found), sealed=True),
    "metrics.jsonl": Artefact(_metrics, _read_metrics),
    "scores": Artefact(_scores, _read_scores),
    "SUPERB rows": Artefact(_superb, lambda folder: len(read_table(folder, "KS", lambda target: None).rows)),
    "arrays of others": Artefact(_arrays, lambda folder: [a[:1] for a in read_arrays(folder / "cuts.jsonl", "codes")]),
    "recordings": Artefact(_flac, _read_flac),
}


def fresh(kind: str, folder: Path) -> list[Path]:
    """Makes a kind's example in an empty folder; the files to damage."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return ARTEFACTS[kind].make(folder)
